//! What a slot reaches beside the arena.

use std::net::SocketAddr;

use proxy::{Answer, Ask, ContextId, Datagram, HopState, MediaAsk, Note, Outcome, Question, Send};
use shm::{Participant, RxPool, SlotHeader, SlotId};
use stdx::Instant;
use tables::dialog::DialogId;

use crate::{slot::Slot, takeover::Inheritance};

/// Whether there is room for what a datagram begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Take,
    Drop,
    /// A new request is refused with 503 and this Retry-After; everything else is taken.
    Refuse {
        after_s: u32,
    },
}

/// Places at which a test may have the slot die; a death at any other has to be as harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The dead participant's operations are finished.
    Recovered,
    /// Its transactions are on the heap, or are being read.
    Adopted,
    /// What was due of them is in the arena.
    AdoptedSettled,
    /// Its messages have been served again.
    Replayed,
    /// A message is noted as at hand.
    Begun,
    /// The machine has seen it, nothing is in the arena.
    Stepped,
    /// A question has been answered.
    Answered,
    /// What follows from a message is in the arena.
    Settled,
    /// Its buffer belongs to another slot, which has not been told.
    Passed,
    /// What follows from it waits to be sent.
    Served,
    /// A timer was heard.
    Ticked,
    /// What follows from a timer is in the arena.
    TickSettled,
    /// What follows from a late answer is in the arena.
    AnswerSettled,
    /// The turn's sends have gone out.
    Submitted,
    /// The turn counts as done.
    Done,
    /// Its buffers are given back.
    GivenBack,
}

/// Sockets, timers, answers, other slots.
pub trait World {
    /// Sockets that can't be used.
    type Error;

    /// The time, anew.
    fn now(&self) -> Instant;

    /// ms since 1970.
    fn unix_ms(&self) -> u64;

    /// The datagram in a buffer that the kernel does not have; `None`: nothing whole, or nobody listens where it was sent to.
    fn read<'b>(&self, pool: &'b RxPool, index: u16) -> Option<Datagram<'b>>;

    /// Takes in what has come: [`Slot::receive`], [`Slot::unreachable`].
    fn take_in(&mut self, slot: &mut Slot);

    /// The timers that are due.
    fn due(&mut self, now: Instant, due: &mut Vec<ContextId>);

    /// After messages and timers: late answers ([`Slot::answered`]), orders.
    fn attend(&mut self, slot: &mut Slot);

    /// When no message waits: what is done now and then.
    fn keep_house(&mut self, participant: &mut Participant);

    /// Gives the sends so far to whoever carries them, and fetches what has come.
    fn submit(&mut self) -> Result<(), Self::Error>;

    /// The sends of a turn have gone out, and it served so many messages.
    fn sent(&mut self, _turn_began: Instant, _messages: usize) {}

    /// Whether there is room for what it begins.
    fn judge(&mut self, _datagram: &Datagram<'_>) -> Entry {
        Entry::Take
    }

    /// What [`Entry::Refuse`] led to is done.
    fn refused(&mut self) {}

    /// The message that [`World::judge`] let in began nothing: it is a copy, or another slot's.
    fn was_copy(&mut self) {}

    /// This message is served from now on.
    fn at_hand(&mut self, _bytes: &[u8]) {}

    /// Passed in order, see [`Point`].
    fn point(&mut self, point: Point);

    /// An answer, or `None`: it comes later.
    fn answer(&mut self, now: Instant, ask: Ask, question: &Question<'_>) -> Option<Answer>;

    /// [`World::answer`] was asked, and may want to count something.
    fn count(&mut self, _ask: Ask, _participant: &Participant) {}

    /// Queues a datagram; false if the listener has no socket here.
    fn send(&mut self, send: &Send, bytes: &[u8]) -> bool;

    fn arm(&mut self, deadline: Instant, id: ContextId);

    fn note(&mut self, _now: Instant, _note: &Note) {}

    /// What was found out about a next hop.
    fn hop(&mut self, now: Instant, hop: SocketAddr, state: HopState, participant: &Participant);

    /// What became of a request to a destination of a group.
    fn outcome(&mut self, _now: Instant, _outcome: &Outcome, _participant: &mut Participant) {}

    /// Asks a media engine; the answer comes by [`Slot::answered`].
    fn media(&mut self, _now: Instant, _ask: MediaAsk) {}

    /// A call has ended that has something at a media engine.
    fn media_ended(&mut self, _now: Instant, _id: DialogId, _participant: &mut Participant) {}

    /// Wakes another slot.
    fn ring(&mut self, slot: SlotId);

    /// A receive buffer is free again.
    fn give_back(&mut self, index: u16);

    /// A take-over is as good as done: new messages are served behind what is left of it.
    fn serves(&mut self, _header: &SlotHeader, _inheritance: &Inheritance, _adopted: usize) {}
}
