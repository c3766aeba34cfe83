//! The servers that are asked, and how they are.

use std::{net::SocketAddr, time::Duration};

use stdx::Instant;

/// Servers that are used of those that are configured.
pub(crate) const SERVERS_MAX: usize = 8;
/// Time-outs in a row after which a server is asked last.
const FAILURES_MAX: u32 = 3;
/// A server that said anything so recently is not down: some names time out because of others' servers.
const QUIET: Duration = Duration::from_secs(3);
/// How long a server that does not answer is asked last.
const HOLD: Duration = Duration::from_secs(10);
/// How long a server is asked without EDNS after it did not understand it.
const PLAIN: Duration = Duration::from_secs(600);

/// One server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Names it in inputs and outputs; kept over a new configuration.
    pub(crate) number: u16,
    pub(crate) address: SocketAddr,
    failures: u32,
    heard: Instant,
    down_until: Option<Instant>,
    plain_until: Instant,
}

impl Server {
    pub(crate) fn new(number: u16, address: SocketAddr) -> Self {
        Self {
            number,
            address,
            failures: 0,
            heard: Instant::ZERO,
            down_until: None,
            plain_until: Instant::ZERO,
        }
    }

    pub(crate) fn is_down(&self, now: Instant) -> bool {
        self.down_until.is_some_and(|until| now < until)
    }

    /// It said something. True if it was down.
    pub(crate) fn answered(&mut self, now: Instant) -> bool {
        self.failures = 0;
        self.heard = now;
        self.down_until.take().is_some()
    }

    /// It said nothing in time, or can't be reached. True if it is down from now on and was not before.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES_MAX || now < self.heard.saturating_add(QUIET) {
            return false;
        }
        self.down_until.replace(now + HOLD).is_none()
    }

    pub(crate) fn knows_edns(&self, now: Instant) -> bool {
        now >= self.plain_until
    }

    pub(crate) fn lacks_edns(&mut self, now: Instant) {
        self.plain_until = now + PLAIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_after_silence_and_up_with_a_word() {
        let at = |seconds: u64| Instant::from_nanos((100 + seconds) * 1_000_000_000);
        let mut server = Server::new(0, ([127, 0, 0, 1], 53).into());
        assert!(!server.answered(at(0)));
        assert_eq!(
            [1, 2, 2, 2].map(|time| server.failed(at(time))),
            [false; 4],
            "it spoke a moment ago"
        );
        assert!(server.failed(at(4)));
        assert!(!server.failed(at(5)), "no news");
        assert!(server.is_down(at(14)) && !server.is_down(at(15)));
        assert!(server.answered(at(16)));
        assert!(!server.is_down(at(16)));
    }
}
