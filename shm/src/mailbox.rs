//! Mailboxes between slots: a ring for each pair, one producer, one consumer.
//!
//! ```text
//! ring    head (consumer's line) | tail (producer's line) | 128 mails
//! mail    kind:8 | what:32
//! ```
//!
//! *Send*: 1. mail into the cell; 2. tail + 1 (Release: the linearization point); 3. the producer's bit in the consumer's flags; 4. ring the doorbell if the consumer sleeps. A producer that dies
//! after 2 leaves a mail without a flag: recovery raises the flags of its rings again. *Receive*: 1. flags → 0; 2. for each ring: read the mail, head + 1, hand it out.
//! A consumer that dies after `head + 1` loses the mail, not its object: a ring is a hint, who has to serve a buffer is in its meta word, and an heir
//! reads those (`rx`). Both are wait-free; a full ring is an error, and the sender tries again in its next turn.
//!
//! *Sleep*: consumer: `sleeping` := 1; fence; look at the flags once more; sleep. Producer: flag; fence; look at `sleeping`. Of the two at least one sees the other.

use failpoint::failpoint;
use sync::{AtomicU64, Ordering, fence};

use crate::arena::{Arena, Inner};
use crate::id::{BufferRef, ParticipantId, SlotId};
use crate::layout::{RING_BYTES, RING_MAILS};
use crate::participant::Participant;

/// What one slot tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    /// This buffer is yours to serve.
    Serve(BufferRef),
    /// This buffer of yours has been served.
    Release(BufferRef),
    /// Have a look around.
    Wake,
}

impl Mail {
    fn pack(self) -> u64 {
        match self {
            Self::Serve(b) => (1 << 32) | u64::from(b.pack()),
            Self::Release(b) => (2 << 32) | u64::from(b.pack()),
            Self::Wake => 3 << 32,
        }
    }

    /// `None`: not a mail of this release.
    fn unpack(word: u64) -> Option<Self> {
        let buffer = BufferRef::unpack(word as u32);
        match word >> 32 {
            1 => Some(Self::Serve(buffer)),
            2 => Some(Self::Release(buffer)),
            3 => Some(Self::Wake),
            _ => None,
        }
    }
}

/// The ring to that slot is full (or the kernel has no memory for it): keep the mail and try again in the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mailbox is full")]
pub struct MailboxFull;

/// Whether the receiver's doorbell has to be rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a sleeping slot does not see its mail"]
pub enum Doorbell {
    /// It sleeps: ring.
    Ring,
    /// It is awake and will look.
    Awake,
}

struct Ring<'a> {
    arena: &'a Inner,
    at: u64,
}

impl Inner {
    /// `None` for participants that are no slots.
    fn ring(&self, producer: u16, consumer: u16) -> Option<Ring<'_>> {
        let slots = self.geometry.layout.slots;
        (producer < slots && consumer < slots).then(|| {
            let nth = u64::from(producer) * u64::from(slots) + u64::from(consumer);
            Ring {
                arena: self,
                at: self.geometry.rings + nth * RING_BYTES,
            }
        })
    }

    fn mail_flag(&self, producer: u16, consumer: u16) -> (&AtomicU64, u64) {
        let at = self.geometry.mail_flags + u64::from(consumer) * 64 + u64::from(producer / 64) * 8;
        (self.map.word(at), 1 << (producer % 64))
    }

    /// Raises the flag of every ring of this producer that holds mail: a step of recovery.
    pub(crate) fn raise_mail_flags(&self, producer: ParticipantId) {
        for consumer in 0..self.geometry.layout.slots {
            if self
                .ring(producer.0, consumer)
                .is_some_and(|ring| ring.used() > 0)
            {
                let (flags, bit) = self.mail_flag(producer.0, consumer);
                // SYNC mail-flag: as in `send`.
                flags.fetch_or(bit, Ordering::SeqCst);
            }
        }
    }
}

impl Ring<'_> {
    fn head(&self) -> &AtomicU64 {
        self.arena.map.word(self.at)
    }

    fn tail(&self) -> &AtomicU64 {
        self.arena.map.word(self.at + 64)
    }

    fn cell(&self, nth: u64) -> &AtomicU64 {
        self.arena.map.word(self.at + 128 + nth % RING_MAILS * 8)
    }

    fn used(&self) -> u64 {
        // SYNC mail: Acquire, pairs with the Release stores in `push` and `pop`.
        self.tail()
            .load(Ordering::Acquire)
            .wrapping_sub(self.head().load(Ordering::Acquire))
    }

    fn push(&self, mail: u64) -> Result<(), MailboxFull> {
        // More than RING_MAILS only after a stray store: the consumer sets that right.
        if self.used() >= RING_MAILS {
            return Err(MailboxFull);
        }
        // Relaxed: only we store the tail; the cell is published by it.
        let tail = self.tail().load(Ordering::Relaxed);
        self.cell(tail).store(mail, Ordering::Relaxed);
        failpoint!("shm.mail.written");
        // SYNC mail: Release, pairs with the Acquire in `used`.
        self.tail().store(tail.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    fn pop(&self) -> Option<u64> {
        // Relaxed: only we store the head.
        let head = self.head().load(Ordering::Relaxed);
        match self.used() {
            0 => return None,
            n if n > RING_MAILS => {
                self.head()
                    .store(self.tail().load(Ordering::Acquire), Ordering::Release);
                return None;
            }
            _ => {}
        }
        // Relaxed: ordered by the Acquire of the tail.
        let mail = self.cell(head).load(Ordering::Relaxed);
        // SYNC mail: Release: the cell is read before it may be overwritten.
        self.head().store(head.wrapping_add(1), Ordering::Release);
        Some(mail)
    }
}

impl Arena {
    /// Whether there is mail for this slot: to be asked after `sleeping` was set, before going to sleep.
    pub fn has_mail(&self, slot: SlotId) -> bool {
        // SYNC sleep: SeqCst, against the fence in `send`: either we see the flag or the sender sees that we sleep.
        fence(Ordering::SeqCst);
        let line = self
            .0
            .map
            .line(self.0.geometry.mail_flags + u64::from(slot.0.min(self.layout().slots - 1)) * 64);
        line.iter()
            .take(4)
            .any(|flags| flags.load(Ordering::SeqCst) != 0)
    }
}

impl Participant {
    /// Sends a mail to another slot. For slots only: from another participant it is `MailboxFull`.
    pub fn send(&self, to: SlotId, mail: Mail) -> Result<Doorbell, MailboxFull> {
        let inner = self.inner();
        let ring = inner.ring(self.id, to.0).ok_or(MailboxFull)?;
        // Backed on first use: a ring whose tail is 0 may never have been used. Reading it is harmless (zeros).
        if ring.tail().load(Ordering::Relaxed) == 0 {
            inner.back(ring.at, RING_BYTES).map_err(|_| MailboxFull)?;
        }
        ring.push(mail.pack())?;
        failpoint!("shm.mail.pushed");
        let (flags, bit) = inner.mail_flag(self.id, to.0);
        // SYNC mail-flag: SeqCst, after the mail; pairs with the swap in `receive`.
        flags.fetch_or(bit, Ordering::SeqCst);
        failpoint!("shm.mail.flagged");
        // SYNC sleep: SeqCst, see `has_mail`.
        fence(Ordering::SeqCst);
        let sleeps = self.arena.slot(to).sleeping.load(Ordering::SeqCst) != 0;
        Ok(if sleeps {
            Doorbell::Ring
        } else {
            Doorbell::Awake
        })
    }

    /// Hands out the mail for this slot, with its sender. At most one ringful from each.
    pub fn receive(&self, mut f: impl FnMut(SlotId, Mail)) {
        let inner = self.inner();
        if self.id >= inner.geometry.layout.slots {
            return;
        }
        let line = inner
            .map
            .line(inner.geometry.mail_flags + u64::from(self.id) * 64);
        for (nth, flags) in line.iter().take(4).enumerate() {
            // Relaxed: an early look; a flag that is missed now is seen in the next turn or by `has_mail`.
            if flags.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // SYNC mail-flag: SeqCst, before the rings are read.
            let mut set = flags.swap(0, Ordering::SeqCst);
            failpoint!("shm.mail.flags_taken");
            while set != 0 {
                let producer = (nth as u32 * 64 + set.trailing_zeros()) as u16;
                set &= set - 1;
                let Some(ring) = inner.ring(producer, self.id) else {
                    continue;
                };
                for _ in 0..RING_MAILS {
                    let Some(word) = ring.pop() else { break };
                    failpoint!("shm.mail.popped");
                    if let Some(mail) = Mail::unpack(word) {
                        f(SlotId(producer), mail);
                    }
                }
                if ring.used() > 0 {
                    let (flags, bit) = inner.mail_flag(producer, self.id);
                    flags.fetch_or(bit, Ordering::SeqCst);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    fn arena() -> Arena {
        Arena::heap(
            &Layout {
                rx_buffers: 8,
                ..Layout::new(24 << 20, 3, 1, 1)
            },
            [1; 16],
        )
        .unwrap()
    }

    fn received(p: &Participant) -> Vec<(u16, Mail)> {
        let mut all = Vec::new();
        p.receive(|from, mail| all.push((from.0, mail)));
        all
    }

    #[test]
    fn mail_arrives_in_order_and_once() {
        let arena = arena();
        let [a, b, c] = [0, 1, 2].map(|id| arena.participant(ParticipantId(id)));
        let buffer = BufferRef { slot: 2, index: 7 };
        assert_eq!(a.send(SlotId(2), Mail::Serve(buffer)), Ok(Doorbell::Awake));
        assert_eq!(b.send(SlotId(2), Mail::Wake), Ok(Doorbell::Awake));
        assert_eq!(
            a.send(SlotId(2), Mail::Release(buffer)),
            Ok(Doorbell::Awake)
        );
        assert!(arena.has_mail(SlotId(2)) && !arena.has_mail(SlotId(1)));
        assert_eq!(
            received(&c),
            [
                (0, Mail::Serve(buffer)),
                (0, Mail::Release(buffer)),
                (1, Mail::Wake)
            ]
        );
        assert_eq!(received(&c), []);
        arena.slot(SlotId(2)).sleeping.store(1, Ordering::SeqCst);
        assert_eq!(a.send(SlotId(2), Mail::Wake), Ok(Doorbell::Ring));
    }

    #[test]
    fn a_full_ring_says_so_and_loses_nothing() {
        let arena = arena();
        let (a, b) = (
            arena.participant(ParticipantId(0)),
            arena.participant(ParticipantId(1)),
        );
        for index in 0..RING_MAILS as u16 {
            assert!(
                a.send(SlotId(1), Mail::Serve(BufferRef { slot: 0, index }))
                    .is_ok()
            );
        }
        assert_eq!(a.send(SlotId(1), Mail::Wake), Err(MailboxFull));
        assert_eq!(received(&b).len() as u64, RING_MAILS);
        assert!(a.send(SlotId(1), Mail::Wake).is_ok());
    }

    #[test]
    fn recovery_finds_mail_without_a_flag() {
        let arena = arena();
        let (a, mut b) = (
            arena.participant(ParticipantId(0)),
            arena.participant(ParticipantId(1)),
        );
        assert!(a.send(SlotId(1), Mail::Wake).is_ok());
        // As if it had died before it raised the flag.
        arena.0.mail_flag(0, 1).0.store(0, Ordering::SeqCst);
        assert_eq!(received(&b), []);
        b.online();
        b.recover(ParticipantId(0));
        assert_eq!(received(&b), [(0, Mail::Wake)]);
    }
}
