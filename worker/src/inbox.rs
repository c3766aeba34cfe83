//! Orders from the control thread to a reactor, and its reports back to the supervisor.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use control::FromWorker;

use crate::active::Active;

/// An order to a reactor.
pub(crate) enum Command {
    /// Work by this configuration from the next message on.
    Apply(Arc<Active>, Arc<AppliedNote>),
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

/// The worker's end of the control channel; any thread may send whole messages.
#[derive(Debug)]
pub(crate) struct Channel(pub(crate) OwnedFd);

impl Channel {
    /// Tells the supervisor. If it is gone, the control thread finds out by itself.
    pub(crate) fn tell(&self, message: &FromWorker) {
        match control::encode(message) {
            Ok(bytes) => {
                if let Err(error) = os::send_with_fds(self.0.as_fd(), &bytes, &[]) {
                    tracing::debug!(%error, "the supervisor does not listen");
                }
            }
            Err(error) => tracing::error!(%error, "a message to the supervisor can't be encoded"),
        }
    }
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
