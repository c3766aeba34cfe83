//! How a slot begins: with what its predecessor left in the arena.

use shm::{BufferRef, Participant, ParticipantId, SlotId};
use sync::Ordering;

use crate::{quarantine, slot::Begin};

/// What an heir finds.
pub(crate) struct Inheritance {
    /// Messages read but not served, as they came; the suspect last.
    pub(crate) journal: Vec<BufferRef>,
    /// The one that was at hand, if it is suspect: its reader died by a fault of its own while serving it.
    pub(crate) suspect: Option<BufferRef>,
    /// It is not the first worker that died of the suspect: it is not served again.
    pub(crate) poison: bool,
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
            poison: false,
            turn_done,
            turn_started,
        };
    }
    let at_hand = header.at_hand();
    participant.recover(ParticipantId(begin.slot));
    failpoint::failpoint!("takeover.recovered");
    // A message that nobody suspects keeps its place: the next one may be its caller's as well.
    let suspect = at_hand.filter(|_| begin.fault);
    let journal = begin.arena.journal(SlotId(begin.slot), suspect);
    let suspect = suspect.filter(|buffer| journal.last() == Some(buffer));
    let poison = suspect.is_some_and(|buffer| quarantine::judge(begin, participant, buffer));
    Inheritance {
        journal,
        suspect,
        poison,
        turn_done,
        turn_started,
    }
}
