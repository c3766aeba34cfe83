//! A service manager for one server: it keeps descriptors as systemd does, and hands them to the next start.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

    /// Has `command` start with everything that is kept. It has to set `LISTEN_PID` to its own number.
    #[track_caller]
    pub fn hand_over(&self, command: &mut Command) {
        let store = self.store();
        let (mut names, mut fds) = (Vec::new(), Vec::new());
        for (name, fd) in store.iter() {
            names.push(name.as_str());
            fds.push(fd.try_clone().expect("a free descriptor"));
        }
        command.env("LISTEN_FDS", fds.len().to_string());
        command.env("LISTEN_FDNAMES", names.join(":"));
        os::hand_over_descriptors(command, fds).expect("free descriptors");
    }

    /// Loses a descriptor, as a manager does whose store is full.
    pub fn lose(&self, name: &str) {
        self.store().remove(name);
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
