//! What keeps the way to a phone behind address translation open: an OPTIONS that it answers, or four bytes that it ignores.
//!
//! The request has no transaction and is not repeated: the next one comes soon enough. Its branch says what it was, so that whichever slot reads the answer
//! knows what to make of it: nothing.

use std::net::SocketAddr;

use shm::RowRef;
use stdx::hash::hash64;
use tables::Counter;

use crate::{
    addresses::Interface,
    branch::{Branch, Place},
    io::{Outputs, Send},
    proxy::Proxy,
};

/// What stands for a destination in the branch of such a request: no table has a row of this number.
pub(crate) const NOBODY: RowRef = RowRef {
    index: 0x0fff_ffff,
    generation: 0,
};

/// Who is reached.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive<'k> {
    /// The Request-URI of an OPTIONS; `None`: CRLF.
    pub uri: Option<&'k [u8]>,
    pub to: SocketAddr,
    /// What it was registered by.
    pub from: Interface,
}

impl Proxy {
    /// Writes it to the outputs. False: its listener is gone, and nothing else would keep that way open.
    pub fn keep_alive(&self, keep: &KeepAlive<'_>, out: &mut Outputs) -> bool {
        let listener = self.settings().listener_towards(&keep.to, keep.from);
        let Some(listener) = listener.filter(|listener| listener.id == keep.from.id) else {
            return false;
        };
        let Some(uri) = keep.uri else {
            let start = out.bytes.len();
            out.bytes.extend_from_slice(b"\r\n\r\n");
            out.sends.push(Send {
                listener,
                to: keep.to,
                bytes: start..out.bytes.len(),
            });
            return true;
        };
        let branch = Branch {
            place: Place::Probe { resource: NOBODY },
            listener: Some(listener.id),
            fold: hash64(self.key(), &[b"keep-alive", uri]),
        };
        self.write_options(&branch.encode(self.key()), uri, listener, keep.to, out);
        true
    }
}

/// An answer to such a request.
pub(crate) const ANSWERED: Counter = Counter::KeepAlivesAnswered;
