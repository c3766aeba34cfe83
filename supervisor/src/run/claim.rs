//! The control socket: one supervisor a path, mode 0600, and a dead one's socket is no obstacle. Beside it the adopt socket, for the workers of
//! a dead supervisor.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, socket, sockopt};
use nix::sys::stat::{Mode, umask};

use super::trouble::Trouble;

#[derive(Debug)]
pub(crate) struct ControlSocket {
    pub(crate) listener: UnixListener,
    file: SocketFile,
}

/// A socket's file, and what tells it from that of a later supervisor.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            inode: fs::metadata(path)?.ino(),
        })
    }

    fn remove(&self) {
        if fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            // A file that stays behind is found stale by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ControlSocket {
    /// Of several that start at the same moment one gets the path.
    pub(crate) fn claim(path: &Path) -> Result<Self, Trouble> {
        let trouble = |error: io::Error| explain(path, &error);
        let _lock = Lock::take(path)?;
        remove_stale(path)?;
        // The file is born with its mode: there is no moment at which others could connect.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(trouble)?;
        listener.set_nonblocking(true).map_err(trouble)?;
        let file = SocketFile::of(path).map_err(trouble)?;
        Ok(Self { listener, file })
    }
}

impl ControlSocket {
    /// The listener that the program before us had, in this very process.
    pub(crate) fn inherited(path: &Path, listener: OwnedFd) -> Result<Self, Trouble> {
        let file = SocketFile::of(path).map_err(|error| explain(path, &error))?;
        Ok(Self {
            listener: listener.into(),
            file,
        })
    }

    /// Closes it, but leaves its file to whoever has the listener as well.
    pub(crate) fn leave(mut self) {
        self.file.inode = 0;
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.file.remove();
    }
}

/// Where the workers of a dead supervisor wait for the next one.
pub(crate) fn adopt_path(control: &Path) -> PathBuf {
    let mut path = control.as_os_str().to_owned();
    path.push(".adopt");
    path.into()
}

/// The socket at [`adopt_path`]. Every worker holds it too; its file stays when we die, and goes with a clean stop.
#[derive(Debug)]
pub(crate) struct AdoptSocket {
    pub(crate) listener: OwnedFd,
    /// `None` if somebody has removed it: then nobody can be adopted, and nothing is ours to remove.
    file: Option<SocketFile>,
    /// Workers may wait on it once we are gone.
    in_use: bool,
}

impl AdoptSocket {
    /// A new one; what lies there belongs to nobody who lives. Only for whoever has the control socket.
    pub(crate) fn make(control: &Path) -> Result<Self, Trouble> {
        let path = adopt_path(control);
        let trouble = |error: io::Error| explain(&path, &error);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(trouble(error)),
            _ => {}
        }
        let listener = os::seqpacket_listen(&path).map_err(trouble)?;
        let file = SocketFile::of(&path).map_err(trouble)?;
        Ok(Self {
            listener,
            file: Some(file),
            in_use: false,
        })
    }

    /// The one that the workers of a dead supervisor wait on.
    pub(crate) fn adopted(control: &Path, listener: OwnedFd) -> Self {
        Self {
            listener,
            file: SocketFile::of(&adopt_path(control)).ok(),
            in_use: true,
        }
    }

    /// From now on workers have it.
    pub(crate) fn keep(&mut self) {
        self.in_use = true;
    }

    /// No worker is left.
    pub(crate) fn forget(&mut self) {
        self.in_use = false;
    }
}

impl Drop for AdoptSocket {
    fn drop(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|_| !self.in_use) {
            file.remove();
        }
    }
}

/// Held while a dead supervisor's socket is replaced: two that do it at once would each remove the other's.
#[derive(Debug)]
struct Lock(
    #[expect(dead_code, reason = "held for its Drop")] Flock<File>,
    PathBuf,
);

impl Lock {
    fn take(control: &Path) -> Result<Self, Trouble> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let mut path = control.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let trouble = |error: io::Error| explain(&path, &error);
        let until = Instant::now() + PATIENCE;
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
                .map_err(trouble)?;
            let inode = file.metadata().map_err(trouble)?.ino();
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Whoever had it before has removed the file: lock the one that is there now.
                Ok(_) if !fs::metadata(&path).is_ok_and(|now| now.ino() == inode) => {}
                Ok(lock) => return Ok(Self(lock, path)),
                Err((_, Errno::EAGAIN)) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((_, errno)) => return Err(trouble(errno.into())),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked, so that nobody else has it.
        let _ = fs::remove_file(&self.1);
    }
}

/// How long what a dead supervisor left is waited for: a child that it had just forked has copies of its descriptors until its `exec`.
pub(crate) const LAST_BREATH: Duration = Duration::from_secs(2);
const LAST_BREATH_STEP: Duration = Duration::from_millis(2);

/// Tries again and again until there is a result, for at most [`LAST_BREATH`].
pub(crate) fn outlast<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + LAST_BREATH;
    loop {
        match look() {
            None if Instant::now() < until => std::thread::sleep(LAST_BREATH_STEP),
            found => return found,
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), Trouble> {
    // A connection that is taken in the name of a process that is dead says nothing yet.
    let connected = outlast(|| match connect(path) {
        Ok(stream) if is_dead(&stream) => None,
        connected => Some(connected),
    });
    match connected.unwrap_or_else(|| connect(path)) {
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
        Err(Errno::ECONNREFUSED) if is_socket(path) => {
            tracing::debug!(path = %path.display(), "a dead supervisor's control socket is replaced");
            fs::remove_file(path).map_err(|error| explain(path, &error))
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EAGAIN) => Err(Trouble::new(
            format!(
                "a supervisor has the control socket {} and does not answer",
                path.display()
            ),
            "if it hangs, kill it: its workers serve on, and the next `tandem run` takes them over",
        )),
        Err(errno) => Err(explain(path, &errno.into())),
    }
}

/// Whether the process that listens is no more.
fn is_dead(stream: &OwnedFd) -> bool {
    let Ok(peer) = getsockopt(stream, sockopt::PeerCredentials) else {
        return false;
    };
    let Ok(pid) = u32::try_from(peer.pid()) else {
        return false;
    };
    // 0: of another namespace, where we can't look.
    if pid == 0 {
        return false;
    }
    match os::pidfd_open(pid) {
        Ok(pidfd) => os::is_dead(pidfd.as_fd()).unwrap_or(false),
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    }
}

/// Does not wait: a supervisor that was stopped may have a full queue.
fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

fn explain(path: &Path, error: &io::Error) -> Trouble {
    Trouble::new(
        format!("cannot make the control socket {}: {error}", path.display()),
        "choose a path in an existing directory of yours, of at most 101 characters, with --control or TANDEM_CONTROL",
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

    #[test]
    fn of_many_that_start_at_once_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        for _ in 0..50 {
            drop(UnixListener::bind(&path).unwrap());
            let claims: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| ControlSocket::claim(&path)))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1);
            assert!(path.exists());
            drop(claims);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn the_adopt_socket_goes_with_a_clean_stop_only() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        let path = adopt_path(&control);
        drop(AdoptSocket::make(&control).unwrap());
        assert!(!path.exists());
        let mut first = AdoptSocket::make(&control).unwrap();
        let worker = first.listener.try_clone().unwrap();
        first.keep();
        drop(first);
        assert!(path.exists() && os::seqpacket_connect(&path).is_ok());
        let mut second = AdoptSocket::adopted(&control, worker);
        second.forget();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn only_the_dead_are_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let mut left = 2;
        assert_eq!(
            outlast(|| {
                left -= 1;
                (left == 0).then_some(7)
            }),
            Some(7)
        );
        // Ourselves are alive: it is refused at once.
        let begun = Instant::now();
        assert!(ControlSocket::claim(&path).is_err());
        assert!(begun.elapsed() < LAST_BREATH);
        drop(listener);
    }
}
