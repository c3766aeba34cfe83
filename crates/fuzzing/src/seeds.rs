//! What the drivers start from.

use std::path::{Path, PathBuf};

use crate::Target;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}

/// Every file below a folder, in order; nothing if the folder is not there.
fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, out);
        } else {
            out.push(path);
        }
    }
}

/// The seeds of a target: its kept corpus, and the torture messages if it takes messages.
pub fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    files(&tests().join("fuzz/corpus").join(target.name), &mut paths);
    if target.takes_messages {
        files(&tests().join("torture"), &mut paths);
        paths.retain(|path| path.extension().is_none_or(|e| e != "txt"));
    }
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .collect()
}
