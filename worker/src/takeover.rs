//! How a slot begins: with what its predecessor left in the arena (DESIGN §1, take-over).

use shm::{BufferRef, Participant, ParticipantId, SlotId};
use sync::Ordering;

use crate::slot::Begin;

/// What an heir finds.
pub(crate) struct Inheritance {
    /// Messages read but not served, the one that was at hand last.
    pub(crate) journal: Vec<BufferRef>,
    /// The one that was at hand, if it is suspect: its reader died by a fault of its own while serving it.
    pub(crate) suspect: Option<BufferRef>,
    /// The last turn whose sends are known to have gone out.
    pub(crate) turn_done: u64,
    /// The last turn begun.
    pub(crate) turn_started: u64,
}

/// Recovers the slot in the name of its dead predecessor. May be repeated by another heir if this one dies.
pub(crate) fn recover(begin: &Begin, participant: &mut Participant) -> Inheritance {
    let header = begin.arena.slot(SlotId(begin.slot));
    // Relaxed: the predecessor is dead, and the kernel's word for it orders its stores before ours.
    let turn_done = header.turn_done.load(Ordering::Relaxed);
    let turn_started = header.turn_started.load(Ordering::Relaxed);
    if !begin.recover {
        return Inheritance {
            journal: Vec::new(),
            suspect: None,
            turn_done,
            turn_started,
        };
    }
    let at_hand = header.at_hand();
    participant.recover(ParticipantId(begin.slot));
    failpoint::failpoint!("takeover.recovered");
    let journal = begin.arena.journal(SlotId(begin.slot));
    let suspect = at_hand.filter(|buffer| begin.fault && journal.last() == Some(buffer));
    Inheritance {
        journal,
        suspect,
        turn_done,
        turn_started,
    }
}

/// After so many attempts to serve a message have ended in a worker's own fault, it is not tried again.
const ATTEMPTS_MAX: u8 = 2;

/// Whether workers died of this message so often that it is dropped.
pub(crate) fn is_poison(begin: &Begin, inheritance: &Inheritance, buffer: BufferRef) -> bool {
    inheritance.suspect == Some(buffer)
        && begin
            .arena
            .rx(SlotId(buffer.slot))
            .meta(buffer.index)
            .attempts
            >= ATTEMPTS_MAX
}
