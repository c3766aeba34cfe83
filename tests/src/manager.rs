//! A service manager for one server: it keeps descriptors as systemd does, and hands them to the next start.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, fcntl};

/// Descriptors by name.
type Store = BTreeMap<String, OwnedFd>;

pub struct Manager {
    socket: PathBuf,
    store: Arc<Mutex<Store>>,
    _dir: tempfile::TempDir,
}

impl Manager {
    /// Listens at [`Manager::socket`] for as long as the test runs.
    #[track_caller]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&socket).expect("a notify socket");
        let store = Arc::new(Mutex::new(Store::new()));
        let kept = Arc::clone(&store);
        // Ends with the process: nothing tells it that nobody will write any more.
        std::thread::spawn(move || {
            let (mut bytes, mut fds) = (Vec::new(), Vec::new());
            while os::recv_with_fds(receiver.as_fd(), &mut bytes, &mut fds).is_ok() {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                keep(
                    &mut kept.lock().unwrap_or_else(PoisonError::into_inner),
                    &text,
                    &mut fds,
                );
                fds.clear();
            }
        });
        Self {
            socket,
            store,
            _dir: dir,
        }
    }

    /// For `NOTIFY_SOCKET`.
    pub fn socket(&self) -> String {
        self.socket.display().to_string()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn names(&self) -> Vec<String> {
        self.store().keys().cloned().collect()
    }

    /// A shell line that runs `"$@"` with everything that is kept, and the environment for it. No other test may run meanwhile, since the
    /// descriptors are open to every process that is started.
    #[track_caller]
    pub fn hand_over(&self) -> HandOver {
        let store = self.store();
        let raw: Vec<i32> = store
            .values()
            .map(|fd| fcntl(fd.as_fd(), FcntlArg::F_DUPFD(500)).expect("a free number"))
            .collect();
        let moves: Vec<String> = (3..)
            .zip(&raw)
            .map(|(to, from): (i32, _)| format!("{to}<&{from} {from}<&-"))
            .collect();
        let names: Vec<&str> = store.keys().map(String::as_str).collect();
        HandOver {
            line: format!(
                "exec {}; LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} exec \"$@\"",
                moves.join(" "),
                raw.len(),
                names.join(":")
            ),
            raw,
        }
    }
}

/// Closes the duplicates once the server has been started.
pub struct HandOver {
    pub line: String,
    raw: Vec<i32>,
}

impl Drop for HandOver {
    fn drop(&mut self) {
        for raw in &self.raw {
            let _ = nix::unistd::close(*raw);
        }
    }
}

/// One notification.
fn keep(store: &mut Store, text: &str, fds: &mut Vec<OwnedFd>) {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let name = value("FDNAME=").unwrap_or("stored").to_owned();
    if value("FDSTOREREMOVE=1").is_some() {
        store.remove(&name);
    }
    if value("FDSTORE=1").is_some()
        && let Some(fd) = fds.pop()
    {
        assert!(fd.as_raw_fd() > 2 && value("FDPOLL=0").is_some(), "{text}");
        store.insert(name, fd);
    }
}
