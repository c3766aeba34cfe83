//! How a slot begins: with what its predecessor left in the arena.

use shm::{Arena, BufferRef, Participant, ParticipantId, RxPool, SlotId};
use stdx::Instant;
use sync::Ordering;
use tables::{Counter, quarantine::Death};

use crate::{
    quarantine::{self, Counted, Suspect},
    slot::Slot,
    world::{Point, World},
};

/// Whoever recovers a slot, before it has sockets.
pub trait Heir {
    fn now(&self) -> Instant;

    /// ms since 1970.
    fn unix_ms(&self) -> u64;

    /// What lies in the buffer that was at hand.
    fn suspect<'b>(&self, pool: &'b RxPool, index: u16) -> Option<Suspect<'b>>;

    /// A death was counted against a message, or could not be.
    fn counted(&mut self, death: &Death<'_>, counted: Counted);

    fn point(&mut self, point: Point);
}

/// What an heir finds.
#[derive(Debug)]
pub struct Inheritance {
    /// There was a predecessor.
    pub recovered: bool,
    /// It died by a fault of its own, not by somebody's hand.
    pub fault: bool,
    /// Messages read but not served, as they came; the suspect last.
    pub journal: Vec<BufferRef>,
    /// The one that was at hand, if it is suspect: its reader died by a fault of its own while serving it.
    pub suspect: Option<BufferRef>,
    /// It is not the first worker that died of the suspect: it is not served again.
    pub poison: bool,
    /// The last turn whose sends are known to have gone out.
    pub turn_done: u64,
    /// The last turn begun.
    pub turn_started: u64,
}

/// Recovers the slot in the name of its dead predecessor, if it had one. May be repeated by another heir if this one dies.
pub fn recover<H: Heir>(
    heir: &mut H,
    arena: &Arena,
    number: u16,
    recovers: bool,
    fault: bool,
    participant: &mut Participant,
) -> Inheritance {
    let header = arena.slot(SlotId(number));
    // Relaxed: the predecessor is dead, and the kernel's word for it orders its stores before ours.
    let mut found = Inheritance {
        recovered: recovers,
        fault,
        journal: Vec::new(),
        suspect: None,
        poison: false,
        turn_done: header.turn_done.load(Ordering::Relaxed),
        turn_started: header.turn_started.load(Ordering::Relaxed),
    };
    if !recovers {
        return found;
    }
    let at_hand = header.at_hand();
    participant.recover(ParticipantId(number));
    heir.point(Point::Recovered);
    // A message that nobody suspects keeps its place: the next one may be its caller's as well.
    let suspect = at_hand.filter(|_| fault);
    found.journal = arena.journal(SlotId(number), suspect);
    found.suspect = suspect.filter(|buffer| found.journal.last() == Some(buffer));
    found.poison = found
        .suspect
        .is_some_and(|buffer| quarantine::judge(heir, number, participant, buffer));
    found
}

impl Slot {
    /// Takes over what there is, and serves what the predecessor had read.
    pub fn take_over<W: World>(
        &mut self,
        world: &mut W,
        inheritance: &Inheritance,
    ) -> Result<(), W::Error> {
        self.header()
            .turn_started
            .store(self.place.turn, Ordering::Relaxed);
        let adopted = if inheritance.recovered {
            self.adopt(inheritance.turn_done)
        } else {
            0
        };
        world.point(Point::Adopted);
        self.answer_asks(world, None);
        self.tick_overdue();
        self.answer_asks(world, None);
        self.settle_adopted(world);
        world.point(Point::AdoptedSettled);
        world.serves(self.arena.slot(SlotId(self.number)), inheritance, adopted);
        if inheritance.recovered {
            self.remind_others(world);
        }
        for &buffer in &inheritance.journal {
            let last = inheritance.journal.last() == Some(&buffer);
            if last && inheritance.suspect.is_some() {
                // The suspect comes alone: everything before it is safe.
                self.submit(world)?;
            }
            if inheritance.poison && inheritance.suspect == Some(buffer) {
                self.count(Counter::Poisoned);
                self.served.push(buffer);
                continue;
            }
            self.count(Counter::Replayed);
            if !inheritance.fault
                && let Some(pool) = self.pools.get(usize::from(buffer.slot))
            {
                pool.forgive(buffer.index);
            }
            self.serve(world, buffer);
        }
        world.point(Point::Replayed);
        self.submit(world)
    }

    /// The turn so far goes out, and another one follows.
    fn submit<W: World>(&mut self, world: &mut W) -> Result<(), W::Error> {
        world.submit()?;
        self.finish_turn(world);
        self.place.now = world.now();
        self.turn(world);
        Ok(())
    }
}
