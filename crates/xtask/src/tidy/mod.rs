//! Rules of the house that no compiler checks.

mod failpoints;
mod floors;
mod source;
mod text;

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::shell::{output, root};

/// One broken rule, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) file: String,
    /// From 1; 0 for the file as a whole.
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl Fault {
    pub(crate) fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            what: what.into(),
        }
    }
}

/// Checks every file of the repository.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut faults = Vec::new();
    let files = files()?;
    for file in &files {
        let Ok(bytes) = std::fs::read(root().join(file)) else {
            continue;
        };
        // Messages are kept byte for byte, whatever is in them, and so is what a fuzzer found.
        let verbatim = ["tests/torture/", "tests/fuzz/corpus/"];
        if verbatim.iter().any(|folder| file.starts_with(folder)) && !file.ends_with(".md") {
            continue;
        }
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        faults.extend(text::check(file, &text));
        if file.ends_with(".rs") {
            faults.extend(source::check(file, &text));
        }
    }
    faults.extend(floors::check(&files, |file| {
        std::fs::read_to_string(root().join(file)).ok()
    }));
    faults.extend(failpoints::check(&files, |file| {
        std::fs::read_to_string(root().join(file)).ok()
    }));
    for fault in &faults {
        eprintln!("{}:{}: {}", fault.file, fault.line, fault.what);
    }
    if !faults.is_empty() {
        bail!(
            "tidy: {} faults in {} files looked at",
            faults.len(),
            files.len()
        );
    }
    println!("tidy: {} files, no fault", files.len());
    Ok(())
}

/// Every file that git knows or would add.
fn files() -> anyhow::Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root());
    let listed = match output(&mut git) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        // An exported tree has no git directory.
        Err(_) => walk()?,
    };
    let mut files: Vec<String> = listed;
    files.sort();
    files.dedup();
    Ok(files)
}

fn walk() -> anyhow::Result<Vec<String>> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(root().join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if path
                    .file_name()
                    .is_some_and(|n| n != "target" && n != ".git")
                {
                    open.push(path);
                }
            } else {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_repository_is_listed_either_way() {
        let wanted = "crates/xtask/src/tidy/mod.rs".to_owned();
        assert!(super::walk().unwrap().contains(&wanted));
        assert!(super::files().unwrap().contains(&wanted));
    }
}
