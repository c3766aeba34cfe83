//! The worker as heir: what a buffer holds before there are sockets, and who is told of a death.

use ::slot::{Counted, Heir, Point, Suspect};
use shm::RxPool;
use stdx::Instant;
use tables::quarantine::Death;

use crate::{outside, quarantine, slot::Begin};

/// Recovers a slot in the name of its dead predecessor.
pub(crate) struct Successor<'b>(pub(crate) &'b Begin);

impl Heir for Successor<'_> {
    fn now(&self) -> Instant {
        os::now()
    }

    fn unix_ms(&self) -> u64 {
        quarantine::unix_ms()
    }

    fn suspect<'b>(&self, pool: &'b RxPool, index: u16) -> Option<Suspect<'b>> {
        let found = reactor::datagram(pool, index)?;
        let first = self.0.sockets.first();
        Some(Suspect {
            bytes: found.payload,
            source: found.source,
            local: found.local.or_else(|| first.map(|socket| socket.address)),
            ttl: self.0.active.config.limits.quarantine_ttl,
        })
    }

    fn counted(&mut self, death: &Death<'_>, counted: Counted) {
        quarantine::tell(self.0, death, counted);
    }

    fn point(&mut self, point: Point) {
        outside::hit(point);
    }
}
