//! Waking a slot that sleeps, and only then.
//!
//! The flag lies in the slot's header in the arena and the eventfd is shared by all workers and kept by the supervisor,
//! so that both outlive either side. Sleeper and ringer each write first and look second, with a full fence between:
//! either the ringer sees the flag and rings, or the sleeper sees what the ringer wrote and does not sleep.
//!
//! If a ringer dies before it rings, what it wrote lies there until the sleeper's next turn for another reason (at the
//! latest its own deadline or the watchdog). If a sleeper dies the flag stays set: ringers ring into the eventfd, and the
//! heir finds it readable when it arms it. A ringer never clears the flag: cleared without a ring it would silence all others.

use std::io;
use std::os::fd::BorrowedFd;

use sync::{AtomicU64, Ordering, fence};

/// The way to wake one slot.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell<'a> {
    /// The slot's eventfd; the slot itself polls it ([`Driver::arm_poll`](crate::Driver::arm_poll)) and never reads it.
    bell: BorrowedFd<'a>,
    /// 1 while the slot sleeps or is about to, else 0.
    sleeping: &'a AtomicU64,
}

impl<'a> Doorbell<'a> {
    /// The doorbell of the slot with this eventfd and this flag.
    pub fn new(bell: BorrowedFd<'a>, sleeping: &'a AtomicU64) -> Self {
        Self { bell, sleeping }
    }

    /// Wakes the slot if it sleeps, after something was written for it; tells whether it rang.
    pub fn ring(&self) -> io::Result<bool> {
        // SYNC doorbell: SeqCst fence between the caller's writes and this load; pairs with the fence in `doze`. Acquire
        // and Release order no store before a later load, which is just what both sides need.
        fence(Ordering::SeqCst);
        // Relaxed: the fence above orders it.
        if self.sleeping.load(Ordering::Relaxed) == 0 {
            return Ok(false);
        }
        os::ring_eventfd(self.bell)?;
        Ok(true)
    }

    /// Wakes the slot whatever its flag says: the watchdog's ring.
    pub fn ring_always(&self) -> io::Result<()> {
        os::ring_eventfd(self.bell)
    }

    /// For the slot itself, before a turn that may sleep: raises the flag, then asks `nothing_to_do`. `None` if there is
    /// something to do after all; otherwise the slot may sleep while it keeps what is returned.
    pub fn doze(&self, nothing_to_do: impl FnOnce() -> bool) -> Option<Asleep<'a>> {
        let asleep = Asleep {
            sleeping: self.sleeping,
        };
        // Relaxed: the fence below orders it.
        self.sleeping.store(1, Ordering::Relaxed);
        // SYNC doorbell: SeqCst fence between this store and the look at the mailboxes; pairs with the fence in `ring`.
        fence(Ordering::SeqCst);
        nothing_to_do().then_some(asleep)
    }
}

/// The slot counts as sleeping until this is dropped.
#[derive(Debug)]
pub struct Asleep<'a> {
    sleeping: &'a AtomicU64,
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        // Relaxed: a ringer that still sees 1 rings once too often, no more.
        self.sleeping.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn it_rings_for_a_sleeper_only() {
        let bell = os::eventfd().unwrap();
        let sleeping = AtomicU64::new(0);
        let doorbell = Doorbell::new(bell.as_fd(), &sleeping);
        assert!(!doorbell.ring().unwrap());
        assert!(
            doorbell.doze(|| false).is_none(),
            "there is something to do"
        );
        assert!(!doorbell.ring().unwrap());
        let asleep = doorbell.doze(|| true).unwrap();
        assert!(doorbell.ring().unwrap());
        drop(asleep);
        assert!(!doorbell.ring().unwrap());
    }
}
