//! What keeps the way to a phone behind address translation open: an OPTIONS that it answers, or four bytes that it ignores.
//!
//! The request has no transaction and is not repeated: the next one comes soon enough. Its branch says what it was, so that whichever slot reads the answer
//! knows what to make of it: nothing.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shm::RowRef;
use stdx::{Instant, hash::hash64};
use tables::{Attempts, Counter, attempts::Limit};

use crate::{
    addresses::Interface,
    branch::{Branch, Place},
    io::{Outputs, Send},
    proxy::Proxy,
    step::Step,
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
    /// When it was registered last.
    pub since: Instant,
    /// How many in a row without an answer are enough; 0: they are not counted. Only of OPTIONS.
    pub failures_max: u8,
}

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Sent,
    /// Its listener is gone, and nothing else would keep that way open.
    Closed,
    /// So many had no answer that there was no other.
    GivenUp,
}

/// Longer than any count lasts.
const WINDOW: Duration = Duration::from_secs(90 * 86_400);

impl Proxy {
    /// Writes it to the outputs. `attempts` has how many had no answer.
    pub fn keep_alive(
        &self,
        now: Instant,
        attempts: &Attempts<'_>,
        keep: &KeepAlive<'_>,
        out: &mut Outputs,
    ) -> Kept {
        let listener = self.settings().listener_towards(&keep.to, keep.from);
        let Some(listener) = listener.filter(|listener| listener.id == keep.from.id) else {
            return Kept::Closed;
        };
        let Some(uri) = keep.uri else {
            let start = out.bytes.len();
            out.bytes.extend_from_slice(b"\r\n\r\n");
            out.sends.push(Send {
                listener,
                to: keep.to,
                bytes: start..out.bytes.len(),
            });
            return Kept::Sent;
        };
        let (ip, port) = (keep.to.ip().to_canonical(), keep.to.port().to_be_bytes());
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let since = keep.since.as_nanos().to_be_bytes();
        let name = hash64(self.key(), &[b"keep-alive", uri, &ip, &port, &since]);
        if keep.failures_max > 0 {
            let limit = Limit {
                // This one is counted before it is sent.
                failures: keep.failures_max.saturating_add(1),
                window: WINDOW,
                ban: Duration::ZERO,
            };
            if attempts.failed(now, name, &limit) {
                return Kept::GivenUp;
            }
        }
        let branch = Branch {
            place: Place::Probe { resource: NOBODY },
            listener: Some(listener.id),
            fold: name,
        };
        self.write_options(&branch.encode(self.key()), uri, listener, keep.to, out);
        Kept::Sent
    }
}

impl Step<'_, '_> {
    /// An answer to such a request, whatever it says.
    pub(crate) fn on_kept_alive(&mut self, name: u64) {
        self.env.count(Counter::KeepAlivesAnswered);
        Attempts::of(self.env.arena.board()).succeeded(self.env.now, name);
    }
}
