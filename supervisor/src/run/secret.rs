//! The server's secret: the key that seals dialogs in our Record-Route values.
//!
//! It lies in the state directory, so that a call which outlives a restart of the whole server is still known by its Route set. Everything
//! else is sealed by the arena's key, which is new with each arena: a branch or a nonce of an earlier one must mean nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use control::Secret;

use super::trouble::Trouble;

const FILE: &str = "secret.key";
const BYTES: usize = 16;

/// The secret of this state directory, made on first use.
pub(crate) fn load(state: &Path) -> Result<Secret, Trouble> {
    let path = state.join(FILE);
    match read(&path) {
        Ok(Some(secret)) => Ok(Secret(secret)),
        Ok(None) => make(state, &path)
            .map(Secret)
            .map_err(|error| explain(&path, "made", &error)),
        Err(error) => Err(explain(&path, "read", &error)),
    }
}

fn explain(path: &Path, done: &str, error: &io::Error) -> Trouble {
    Trouble::new(
        format!(
            "the server's secret {} can't be {done}: {error}",
            path.display()
        ),
        "remove the file to get a new one (calls that are up then can't be ended through this server), or name another \
         state directory with --state DIR",
    )
}

fn read(path: &Path) -> io::Result<Option<[u8; BYTES]>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::with_capacity(BYTES);
    file.take(BYTES as u64 + 1).read_to_end(&mut bytes)?;
    match <[u8; BYTES]>::try_from(bytes) {
        Ok(secret) => Ok(Some(secret)),
        Err(bytes) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has not {BYTES} bytes but {} or more", bytes.len()),
        )),
    }
}

/// Written aside and renamed, so that a power cut leaves a whole file or none.
fn make(state: &Path, path: &Path) -> io::Result<[u8; BYTES]> {
    let mut secret = [0; BYTES];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let aside = state.join(format!("{FILE}.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_for_its_owner_only() {
        let state = tempfile::tempdir().unwrap();
        let first = load(state.path()).unwrap();
        assert_eq!(load(state.path()).unwrap(), first);
        let mode = fs::metadata(state.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(load(tempfile::tempdir().unwrap().path()).unwrap(), first);
    }

    #[test]
    fn a_damaged_one_is_an_error_with_a_remedy() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), b"short").unwrap();
        let trouble = load(state.path()).unwrap_err();
        assert!(trouble.cause.contains("16 bytes"), "{trouble}");
        assert!(trouble.remedy.contains("remove the file"), "{trouble}");
    }
}
