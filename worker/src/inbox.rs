//! Orders from the control thread to a reactor, and its reports back to the supervisor.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use control::FromWorker;

use crate::active::Active;

/// An order to a reactor.
pub(crate) enum Command {
    /// Work by this configuration from the next message on.
    Apply(Arc<Active>, Arc<AppliedNote>),
    /// The same configuration; the hosts file or `resolv.conf` has changed.
    Names(Arc<Active>),
    /// The same configuration; the machine has other addresses.
    Addresses(Arc<Active>),
    Arm(Socket),
    Disarm {
        listener: u32,
    },
    Pin(Option<u16>),
    /// Finish the turn and end.
    Stop,
}

/// A listener's socket of one slot.
pub(crate) struct Socket {
    pub(crate) listener: u32,
    pub(crate) address: SocketAddr,
    pub(crate) fd: OwnedFd,
}

/// The worker's end of the control channel; any thread may send whole messages. It outlives the supervisor: a later one brings
/// another connection.
#[derive(Debug)]
pub(crate) struct Channel(Mutex<State>);

#[derive(Debug)]
struct State {
    connection: Arc<OwnedFd>,
    /// What the slots said when they began to serve: a new supervisor wants to know, and a dead one may have been told.
    serving: BTreeMap<u16, FromWorker>,
}

impl Channel {
    pub(crate) fn new(connection: OwnedFd) -> Self {
        Self(Mutex::new(State {
            connection: Arc::new(connection),
            serving: BTreeMap::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connection(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.state().connection)
    }

    /// Slots that have said that they serve.
    pub(crate) fn serving(&self) -> Vec<u16> {
        self.state().serving.keys().copied().collect()
    }

    /// No slot serves any more.
    pub(crate) fn forget_serving(&self) {
        self.state().serving.clear();
    }

    /// From now on a new supervisor is told; also what a slot may just have told the dead one.
    pub(crate) fn replace(&self, connection: OwnedFd) {
        let said: Vec<FromWorker> = {
            let mut state = self.state();
            state.connection = Arc::new(connection);
            state.serving.values().cloned().collect()
        };
        said.iter().for_each(|message| self.tell(message));
    }

    /// Tells the supervisor. If it is gone, the control thread finds out by itself.
    pub(crate) fn tell(&self, message: &FromWorker) {
        self.tell_with(message, &[]);
    }

    /// The same with descriptors.
    pub(crate) fn tell_with(&self, message: &FromWorker, fds: &[BorrowedFd<'_>]) {
        let connection = {
            let mut state = self.state();
            if let FromWorker::Serving { slot, .. } = message {
                // Before the connection is looked at: `replace` either comes first, or finds it.
                state.serving.insert(*slot, message.clone());
            }
            Arc::clone(&state.connection)
        };
        if let Err(error) = send(connection.as_fd(), message, fds) {
            tracing::debug!(%error, "the supervisor does not listen");
        }
    }
}

/// One whole message.
pub(crate) fn send(
    connection: BorrowedFd<'_>,
    message: &FromWorker,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = control::encode(message).map_err(io::Error::other)?;
    os::send_with_fds(connection, &bytes, fds)
}

/// Tells the supervisor, when the last reactor lets go of it, that a configuration is at work everywhere.
pub(crate) struct AppliedNote {
    pub(crate) channel: Arc<Channel>,
    pub(crate) version: u64,
}

impl Drop for AppliedNote {
    fn drop(&mut self) {
        self.channel.tell(&FromWorker::Applied {
            version: self.version,
        });
    }
}
