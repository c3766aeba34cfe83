//! The keys of topology hiding in the state directory, `topology.keys`: a line of hexadecimal digits each, the newest first. Without the file the
//! server's secret is the only key. `tandem topology rotate` adds one; the server reads the file with its configuration.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use config::KEY_BYTES;

const FILE: &str = "topology.keys";
/// Keys that are kept: what was sealed by older ones is not read any more.
const KEYS_MAX: usize = 15;
/// No more is read of the file. Unit: bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// Why the keys can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the keys of topology hiding in {} can't be {what}: {error}", path.display())]
    Io {
        path: PathBuf,
        what: &'static str,
        error: io::Error,
    },
    #[error("line {line} of {} is no key", path.display())]
    Damaged { path: PathBuf, line: usize },
}

impl Error {
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                "run this as the server's account or as root"
            }
            Self::Io { .. } => "name the server's state directory with --state DIR or TANDEM_STATE",
            Self::Damaged { .. } => {
                "put a copy of it back, or remove it: hidden calls that are up are then lost to their parties"
            }
        }
    }
}

/// The keys of this state directory, the newest first; none without the file.
pub(crate) fn load(state: &Path) -> Result<Vec<[u8; KEY_BYTES]>, Error> {
    let path = state.join(FILE);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let what = "read";
            return Err(Error::Io { path, what, error });
        }
    };
    let keys = text.lines().enumerate().map(|(at, line)| {
        let mut key = [0; KEY_BYTES];
        match stdx::text::decode_hex(line.trim().as_bytes(), &mut key) {
            Some(_) => Ok(key),
            None => Err(Error::Damaged {
                path: path.clone(),
                line: at + 1,
            }),
        }
    });
    keys.take(KEYS_MAX).collect()
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;

    // A FIFO of its name would hold up whoever opens it.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Adds a new key; returns how many there are now. Written aside and renamed: a reader and a power cut find the old file or the new one.
pub(crate) fn rotate(state: &Path) -> Result<usize, Error> {
    let path = state.join(FILE);
    let mut keys = load(state)?;
    let mut write = || -> io::Result<()> {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        keys.insert(0, key);
        keys.truncate(KEYS_MAX);
        let mut text = String::new();
        for key in &keys {
            let mut hex = [0; 2 * KEY_BYTES];
            let line = stdx::text::encode_hex(key, &mut hex).unwrap_or_default();
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        let aside = state.join(format!("{FILE}.{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        crate::users::owned_like(&file, state)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(state)?.sync_all()
    };
    match write() {
        Ok(()) => Ok(keys.len()),
        Err(error) => {
            let what = "written";
            Err(Error::Io { path, what, error })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_come_first_and_go_last() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load(state.path()).unwrap().len(), 0);
        for made in 1..=KEYS_MAX + 3 {
            let before = load(state.path()).unwrap();
            assert_eq!(rotate(state.path()).unwrap(), made.min(KEYS_MAX));
            let after = load(state.path()).unwrap();
            assert_ne!(after.first(), before.first());
            let kept = before.len().min(KEYS_MAX - 1);
            assert_eq!(after[1..], before[..kept]);
        }
        let mode = fs::metadata(state.path().join(FILE)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_an_error_with_its_line() {
        let state = tempfile::tempdir().unwrap();
        rotate(state.path()).unwrap();
        let path = state.path().join(FILE);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("abc\n");
        fs::write(&path, text).unwrap();
        let error = load(state.path()).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(rotate(state.path()).is_err());
    }
}
