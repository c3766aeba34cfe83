//! Timer values (RFC 3261 table 4, RFC 6026 §7) and the retransmission clock.

use core::time::Duration;

use failpoint::failpoint;
use stdx::Instant;

/// Whether the transport retransmits by itself (TCP, TLS, SCTP, WebSocket) or not (UDP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reliability {
    Unreliable,
    Reliable,
}

/// The values that all timers derive from (RFC 3261 §17.1.1.1, table 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// T1: estimate of the round trip, 500 ms.
    pub t1: Duration,
    /// T2: longest interval between retransmissions of non-INVITE requests and INVITE responses, 4 s.
    pub t2: Duration,
    /// T4: longest time a message stays in the network, 5 s.
    pub t4: Duration,
    /// Timer D: how long to absorb retransmitted final responses to INVITE on an unreliable transport, at least 32 s.
    pub d: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            d: Duration::from_secs(32),
        }
    }
}

impl Timers {
    /// 64*T1: Timers B, F, H, L, M, and J on an unreliable transport.
    pub fn limit(&self) -> Duration {
        self.t1.saturating_mul(64)
    }
}

/// The shortest retransmission interval, so that a zero T1 cannot make a machine spin.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// A retransmission clock (Timers A, E, G): when to send next, and the interval that led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub(crate) at: Instant,
    pub(crate) interval: Duration,
}

impl Backoff {
    /// First retransmission one `interval` from now; `None` on a reliable transport.
    pub(crate) fn start(
        now: Instant,
        interval: Duration,
        reliability: Reliability,
    ) -> Option<Self> {
        match reliability {
            Reliability::Reliable => None,
            Reliability::Unreliable => {
                let interval = interval.max(INTERVAL_MIN);
                Some(Self {
                    at: now.saturating_add(interval),
                    interval,
                })
            }
        }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.at <= now
    }

    /// The clock after a retransmission: the interval doubles up to `cap`. A tick that came too late for the next
    /// retransmission as well does not cause a burst: the count then starts from now.
    pub(crate) fn next(self, now: Instant, cap: Option<Duration>) -> Self {
        failpoint!(
            "transaction.broken.cap",
            Self {
                at: self.at.saturating_add(self.interval.saturating_mul(2)),
                interval: self.interval.saturating_mul(2)
            }
        );
        failpoint!(
            "transaction.broken.doubling",
            Self {
                at: now.saturating_add(self.interval),
                ..self
            }
        );
        let doubled = self.interval.saturating_mul(2);
        let interval = cap
            .map_or(doubled, |cap| doubled.min(cap))
            .max(INTERVAL_MIN);
        let planned = self.at.saturating_add(interval);
        let at = if planned > now {
            planned
        } else {
            now.saturating_add(interval)
        };
        Self { at, interval }
    }

    /// The planned retransmission stands, those after it come every `interval` (Timer E in Proceeding).
    pub(crate) fn slow_to(self, interval: Duration) -> Self {
        Self {
            interval: interval.max(INTERVAL_MIN),
            ..self
        }
    }

    /// Due at once, with the interval kept: for an heir that does not know whether the last send happened.
    pub(crate) fn hasten(self, now: Instant) -> Self {
        Self {
            at: self.at.min(now),
            ..self
        }
    }
}

/// The earlier of two moments, where `None` is never.
pub(crate) fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, None) => a,
        (None, b) => b,
    }
}
