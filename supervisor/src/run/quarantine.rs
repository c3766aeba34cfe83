//! Messages in quarantine as files in the state directory, for people: the server never reads them, and what a worker says of
//! them is only written down.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use control::Quarantined;

/// Files kept; the oldest go.
const FILES_MAX: usize = 1000;
/// Bytes kept of a message; none that a socket gives is longer.
const BYTES_MAX: usize = 64 << 10;

/// Writes `quarantine/<unix-ms>-<id>.txt`: lines about the message, an empty line, its bytes.
pub(super) fn keep(state: &Path, message: &Quarantined) -> io::Result<PathBuf> {
    let folder = state.join("quarantine");
    let made = fs::DirBuilder::new().mode(0o700).create(&folder);
    if let Err(error) = made
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    make_room(&folder)?;
    // The name is made of a number and of digits and letters, whatever the worker says.
    let id: String = message
        .id
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(32)
        .collect();
    let path = folder.join(format!("{}-{id}.txt", message.unix_ms));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    let bytes = message.bytes.get(..BYTES_MAX).unwrap_or(&message.bytes);
    let line = |text: &str| text.replace(|c: char| c.is_control(), " ");
    let mut text = format!(
        "id: {id}\nsource: {}\nreceived-on: {}\nunix-ms: {}\ndeaths: {}\nbytes: {}\n\n",
        line(&message.source),
        line(&message.received_on),
        message.unix_ms,
        message.deaths,
        bytes.len()
    )
    .into_bytes();
    text.extend_from_slice(bytes);
    file.write_all(&text)?;
    Ok(path)
}

fn make_room(folder: &Path) -> io::Result<()> {
    // By the moment that a name begins with.
    let mut files: Vec<(u64, PathBuf)> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let (ms, _) = name.to_str()?.strip_suffix(".txt")?.split_once('-')?;
            Some((ms.parse().ok()?, entry.path()))
        })
        .collect();
    files.sort_unstable();
    let over = (files.len() + 1).saturating_sub(FILES_MAX);
    files
        .into_iter()
        .take(over)
        .try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(unix_ms: u64) -> Quarantined {
        Quarantined {
            id: "../00ff".into(),
            source: "192.0.2.1:5060\nx: y".into(),
            received_on: "192.0.2.9:5060".into(),
            unix_ms,
            deaths: 2,
            bytes: b"INVITE\r\n\xff".to_vec(),
        }
    }

    #[test]
    fn a_file_has_a_head_and_the_bytes() {
        let state = tempfile::tempdir().unwrap();
        let path = keep(state.path(), &message(17)).unwrap();
        assert!(path.ends_with("quarantine/17-00ff.txt"));
        let head = "id: 00ff\nsource: 192.0.2.1:5060 x: y\nreceived-on: 192.0.2.9:5060\nunix-ms: 17\ndeaths: 2\nbytes: 9\n\n";
        let expected = [head.as_bytes(), b"INVITE\r\n\xff"].concat();
        assert_eq!(fs::read(path).unwrap(), expected);
        assert!(keep(Path::new("/nonexistent"), &message(1)).is_err());
    }

    #[test]
    fn the_oldest_files_go_and_others_stay() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("quarantine");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        for ms in 1..=FILES_MAX as u64 {
            fs::write(folder.join(format!("{ms}-0.txt")), "").unwrap();
        }
        keep(state.path(), &message(5000)).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), FILES_MAX + 1);
        assert!(!folder.join("1-0.txt").exists() && folder.join("2-0.txt").exists());
    }
}
