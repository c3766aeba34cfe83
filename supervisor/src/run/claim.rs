//! The control socket: one supervisor a path, mode 0600, and a dead one's socket is no obstacle.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};

use super::trouble::Trouble;

#[derive(Debug)]
pub(crate) struct ControlSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// Tells our file from that of a later supervisor.
    inode: u64,
}

impl ControlSocket {
    pub(crate) fn claim(path: &Path) -> Result<Self, Trouble> {
        let trouble = |error: io::Error| explain(path, &error);
        remove_stale(path)?;
        // The file is born with its mode: there is no moment at which others could connect.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(trouble)?;
        listener.set_nonblocking(true).map_err(trouble)?;
        let inode = fs::metadata(path).map_err(trouble)?.ino();
        Ok(Self {
            listener,
            path: path.to_path_buf(),
            inode,
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            // A file that stays behind is found stale by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), Trouble> {
    match UnixStream::connect(path) {
        Ok(stream) => {
            let peer = getsockopt(&stream, sockopt::PeerCredentials);
            let who = peer.map_or("another supervisor".to_owned(), |peer| {
                format!("the supervisor with pid {}", peer.pid())
            });
            Err(Trouble::new(
                format!("{who} answers on the control socket {}", path.display()),
                "stop it with `tandem stop`, or give this one its own --control PATH (or TANDEM_CONTROL)",
            ))
        }
        // A file that is no socket refuses connections too; it is not ours to remove.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
            tracing::debug!(path = %path.display(), "a dead supervisor's control socket is replaced");
            fs::remove_file(path).map_err(|error| explain(path, &error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(explain(path, &error)),
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

fn explain(path: &Path, error: &io::Error) -> Trouble {
    Trouble::new(
        format!("cannot make the control socket {}: {error}", path.display()),
        "choose a path in an existing directory of yours, of at most 107 characters, with --control or TANDEM_CONTROL",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_supervisor_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let first = ControlSocket::claim(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let trouble = ControlSocket::claim(&path).unwrap_err();
        assert!(
            trouble
                .cause
                .contains(&format!("pid {}", std::process::id())),
            "{trouble}"
        );
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_replaced_and_a_successors_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        let first = ControlSocket::claim(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = ControlSocket::claim(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }

    #[test]
    fn other_files_are_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(ControlSocket::claim(&path).is_err());
        assert!(path.exists());
        assert!(ControlSocket::claim(&dir.path().join("none/control")).is_err());
    }
}
