//! What has happened, as a stream: a bounded ring of events for each participant, which readers of other processes follow without a lock.
//!
//! ```text
//! head line   events published so far | how often some may be missing | 0 ...
//! ring        so many lines of eight words: order | seven words, which this crate never looks at
//! ```
//!
//! *Publish* ([`Participant::tell`]), by the participant that the ring belongs to, after the change of a table that the event tells of: 1. take a number from the arena's one
//! counter; 2. write the line; 3. count it in the head line (Release: the **linearization point**). *Read*: 1. load the counter of numbers: what is taken
//! later is for the next time; 2. for each ring, whether some may be missing; 3. the head; 4. a line; 5. the head again: if the writer may have come
//! round to this line, it is thrown away and the ring counts as overrun. *Progress*: both are wait-free; nobody waits for a reader, and a reader for nobody.
//!
//! *Order.* Numbers only rise within a ring. An event that was published before another one's number was taken is never handed out after it, neither within one reading
//! nor over several: it is below the bound that a reading begins with, and in its ring by then. So a call's events come in the order of the messages that
//! made them, whichever slots those came to. A number that nobody used is no loss: its taker died.
//!
//! | a death after step | what is left | what is done |
//! |---|---|---|
//! | before 1 | perhaps a change that no event tells of | recovery of the dead counts up "may be missing", once or (if it dies too) twice |
//! | 1, 2 | the same, a number without an event, half a line that is not counted | the heir writes its own over it |
//! | 3 | all | "may be missing" all the same: nobody can tell |
//!
//! A reader that is told that events may be missing looks at the tables: the stream is quick, the tables are right. Rings do not move to another arena: there, all begin anew.

use failpoint::failpoint;
use sync::{AtomicU64, Ordering};

use crate::arena::{Arena, Inner};
use crate::id::ParticipantId;
use crate::layout::AT_EVENT_ORDER;
use crate::participant::Participant;

/// Words of an event that belong to who publishes it.
pub const EVENT_WORDS: usize = 7;
/// Bytes of an event.
const EVENT_BYTES: u64 = 64;
const _: () = assert!(8 * (EVENT_WORDS as u64 + 1) == EVENT_BYTES);
/// Events in a slot's ring.
pub(crate) const EVENTS_SLOT: u64 = if cfg!(loom) { 2 } else { 1024 };
/// Events in the ring of a control thread, which only does what an operator asks for.
pub(crate) const EVENTS_AUX: u64 = if cfg!(loom) { 2 } else { 128 };
/// Bytes of a head line.
pub(crate) const EVENT_HEAD_BYTES: u64 = 64;
/// Head lines, one for each participant, and the rings: the bytes of both.
pub(crate) const fn event_bytes(slots: u64, aux: u64) -> (u64, u64) {
    (
        (slots + aux) * EVENT_HEAD_BYTES,
        (slots * EVENTS_SLOT + aux * EVENTS_AUX) * EVENT_BYTES,
    )
}

/// Something that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// Its number in this arena. Not every number has an event.
    pub order: u64,
    /// As they were published.
    pub words: [u64; EVENT_WORDS],
}

/// What a reading tells besides events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Events may be missing before, among or after those that were handed out: a writer died, or was quicker than this reader. Whatever they told of is in the
    /// tables by now.
    pub missing: bool,
    /// There are more.
    pub more: bool,
}

struct Ring<'a> {
    arena: &'a Inner,
    head: u64,
    at: u64,
    len: u64,
}

impl Inner {
    fn event_ring(&self, id: u16) -> Ring<'_> {
        let g = &self.geometry;
        assert!(id < g.participants, "a participant of this arena");
        let (slots, id) = (u64::from(g.layout.slots), u64::from(id));
        let before = id.min(slots) * EVENTS_SLOT + id.saturating_sub(slots) * EVENTS_AUX;
        Ring {
            arena: self,
            head: g.event_heads + id * EVENT_HEAD_BYTES,
            at: g.events + before * EVENT_BYTES,
            len: if id < slots { EVENTS_SLOT } else { EVENTS_AUX },
        }
    }

    fn event_order(&self) -> &AtomicU64 {
        self.map.word(AT_EVENT_ORDER)
    }

    /// Events of this participant may be missing: a step of its recovery, which acts in its place.
    pub(crate) fn mark_missing_events(&self, id: ParticipantId) {
        self.event_ring(id.0).mark_missing();
    }
}

impl Ring<'_> {
    fn published(&self) -> &AtomicU64 {
        &self.arena.map.line(self.head)[0]
    }

    fn missing(&self) -> &AtomicU64 {
        &self.arena.map.line(self.head)[1]
    }

    fn line(&self, nth: u64) -> &[AtomicU64; 8] {
        self.arena.map.line(self.at + nth % self.len * EVENT_BYTES)
    }

    fn mark_missing(&self) {
        // Relaxed load: we alone store it. SYNC event-missing: Release, after the changes that no event tells of; pairs with the Acquire in `follow`.
        let marks = self.missing().load(Ordering::Relaxed);
        self.missing()
            .store(marks.wrapping_add(1), Ordering::Release);
    }
}

impl Participant {
    /// Publishes an event; its number. To be called once what it tells of is in the tables, and before anybody outside learns of it. `None`: there is no memory for
    /// the ring, and readers are told that some are missing.
    pub fn tell(&self, words: [u64; EVENT_WORDS]) -> Option<u64> {
        let inner = self.inner();
        let ring = inner.event_ring(self.id);
        // Relaxed: we alone store it.
        let nth = ring.published().load(Ordering::Relaxed);
        // Backed on first use.
        if nth == 0 && inner.back(ring.at, ring.len * EVENT_BYTES).is_err() {
            ring.mark_missing();
            return None;
        }
        // SYNC event-order: AcqRel, pairs with the Acquire in `follow`: who sees our number as taken sees every event that was published before we took it.
        let order = inner.event_order().fetch_add(1, Ordering::AcqRel);
        failpoint!("shm.event.numbered");
        let [place, rest @ ..] = ring.line(nth);
        // SYNC event-overrun: Release, after the store of the head that made this line the next to be written; pairs with the Acquire loads in `read_at`:
        // who reads one of these words sees that head as well.
        place.store(order, Ordering::Release);
        for (place, word) in rest.iter().zip(words) {
            place.store(word, Ordering::Release);
        }
        failpoint!("shm.event.written");
        // SYNC event: Release; pairs with the Acquire of the head in `follow`.
        ring.published()
            .store(nth.wrapping_add(1), Ordering::Release);
        failpoint!("shm.event.published");
        Some(order)
    }
}

impl Arena {
    /// How many numbers of events were taken: when it has not changed, nothing has happened.
    pub fn events_numbered(&self) -> u64 {
        // SYNC event-order: as in `follow`.
        self.0.event_order().load(Ordering::Acquire)
    }
}

/// A reader of the stream: how far it has come in each ring.
#[derive(Clone, Debug)]
pub struct Follower {
    arena: Arena,
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    next: u64,
    missing: u64,
}

impl Follower {
    /// From now on. What has happened before is in the tables.
    pub fn new(arena: &Arena) -> Self {
        let seen = (0..arena.participants()).map(|id| {
            let ring = arena.0.event_ring(id);
            Seen {
                missing: ring.missing().load(Ordering::Acquire),
                next: ring.published().load(Ordering::Acquire),
            }
        });
        Self {
            seen: seen.collect(),
            arena: arena.clone(),
        }
    }

    /// Appends what has happened since the last time, in order; at most about `max` events of each participant.
    pub fn follow(&mut self, max: usize, out: &mut Vec<Event>) -> Followed {
        let mut told = Followed::default();
        let from = out.len();
        let inner = &self.arena.0;
        // SYNC event-order: Acquire, see `tell`.
        let bound = inner.event_order().load(Ordering::Acquire);
        for (id, seen) in (0..).zip(&mut self.seen) {
            seen.follow(&inner.event_ring(id), bound, max, out, &mut told);
        }
        if let Some(new) = out.get_mut(from..) {
            new.sort_unstable();
        }
        told
    }
}

impl Seen {
    fn follow(
        &mut self,
        ring: &Ring<'_>,
        bound: u64,
        max: usize,
        out: &mut Vec<Event>,
        told: &mut Followed,
    ) {
        // SYNC event-missing: Acquire, see `mark_missing`.
        let missing = ring.missing().load(Ordering::Acquire);
        if missing != self.missing {
            self.missing = missing;
            told.missing = true;
        }
        // SYNC event: Acquire, see `tell`.
        let mut head = ring.published().load(Ordering::Acquire);
        let mut left = max;
        // Ahead of the head: what lies there was overwritten by a stray store. It begins anew, as after an overrun.
        while self.next != head {
            if head.wrapping_sub(self.next) >= ring.len {
                told.missing = true;
                self.next = head;
                return;
            }
            if left == 0 {
                told.more = true;
                return;
            }
            left -= 1;
            let (event, now) = ring.read_at(self.next);
            if now.wrapping_sub(self.next) >= ring.len {
                // Perhaps half of it is another event's.
                head = now;
                continue;
            }
            if event.order >= bound {
                // One that happened before it may be in a ring that was looked at already.
                told.more = true;
                return;
            }
            out.push(event);
            self.next = self.next.wrapping_add(1);
        }
    }
}

impl Ring<'_> {
    /// A line, and the head after it was read.
    fn read_at(&self, nth: u64) -> (Event, u64) {
        let [order, rest @ ..] = self.line(nth);
        // SYNC event-overrun: Acquire, see `tell`.
        let mut event = Event {
            order: order.load(Ordering::Acquire),
            words: [0; EVENT_WORDS],
        };
        for (word, place) in event.words.iter_mut().zip(rest) {
            *word = place.load(Ordering::Acquire);
        }
        (event, self.published().load(Ordering::Acquire))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Layout;

    fn arena() -> Arena {
        let mut layout = Layout::new(0, 2, 1, 1);
        layout.limit = layout.least_limit();
        Arena::heap(&layout, [7; 16]).unwrap()
    }

    fn words(first: u64) -> [u64; EVENT_WORDS] {
        std::array::from_fn(|nth| first * 10 + nth as u64)
    }

    fn firsts(follower: &mut Follower, max: usize) -> (Vec<u64>, Followed) {
        let mut events = Vec::new();
        let told = follower.follow(max, &mut events);
        for event in &events {
            assert_eq!(event.words, words(event.words[0] / 10), "whole");
        }
        (events.iter().map(|e| e.words[0] / 10).collect(), told)
    }

    const ALL: Followed = Followed {
        missing: false,
        more: false,
    };

    #[test]
    fn events_of_all_participants_come_in_their_order() {
        let arena = arena();
        let [a, b, c] = [0, 1, 2].map(|id| arena.participant(ParticipantId(id)));
        a.tell(words(99));
        let mut follower = Follower::new(&arena);
        assert_eq!(firsts(&mut follower, 9), (vec![], ALL));
        assert_eq!(c.tell(words(1)), Some(1));
        b.tell(words(2));
        a.tell(words(3));
        b.tell(words(4));
        assert_eq!(arena.events_numbered(), 5);
        assert_eq!(firsts(&mut follower, 9), (vec![1, 2, 3, 4], ALL));
        assert_eq!(firsts(&mut follower, 9), (vec![], ALL));
    }

    #[test]
    fn a_reading_has_an_end_and_the_next_goes_on() {
        let arena = arena();
        let a = arena.participant(ParticipantId(0));
        let mut follower = Follower::new(&arena);
        for n in 0..5 {
            a.tell(words(n));
        }
        let more = Followed { more: true, ..ALL };
        assert_eq!(firsts(&mut follower, 2), (vec![0, 1], more));
        assert_eq!(firsts(&mut follower, 2), (vec![2, 3], more));
        assert_eq!(firsts(&mut follower, 2), (vec![4], ALL));
    }

    #[test]
    fn who_is_overrun_is_told_and_goes_on() {
        for (id, len) in [(0, EVENTS_SLOT), (2, EVENTS_AUX)] {
            let arena = arena();
            let (a, b) = (
                arena.participant(ParticipantId(id)),
                arena.participant(ParticipantId(1)),
            );
            let mut follower = Follower::new(&arena);
            // One line is always the writer's.
            for n in 0..len - 1 {
                a.tell(words(n));
            }
            let (got, told) = firsts(&mut follower, usize::MAX);
            assert_eq!((got.len() as u64, told), (len - 1, ALL));
            for n in 0..len {
                a.tell(words(n));
            }
            b.tell(words(7));
            let missing = Followed {
                missing: true,
                more: false,
            };
            assert_eq!(firsts(&mut follower, usize::MAX), (vec![7], missing));
            a.tell(words(8));
            assert_eq!(firsts(&mut follower, usize::MAX), (vec![8], ALL));
        }
    }

    #[test]
    fn an_heir_goes_on_and_says_that_some_may_be_missing() {
        let arena = arena();
        let mut follower = Follower::new(&arena);
        {
            let dead = arena.participant(ParticipantId(0));
            dead.tell(words(1));
            // As if it had died with its next event half written.
            arena.0.event_order().fetch_add(1, Ordering::Relaxed);
            arena.0.event_ring(0).line(1)[3].store(5, Ordering::Relaxed);
        }
        let mut heir = arena.participant(ParticipantId(0));
        heir.recover(ParticipantId(0));
        heir.tell(words(2));
        let missing = Followed {
            missing: true,
            more: false,
        };
        assert_eq!(firsts(&mut follower, 9), (vec![1, 2], missing));
        let mut other = arena.participant(ParticipantId(1));
        other.online();
        other.recover(ParticipantId(2));
        assert_eq!(firsts(&mut follower, 9), (vec![], missing));
        assert_eq!(firsts(&mut follower, 9), (vec![], ALL));
    }

    #[test]
    fn whatever_lies_there_is_read_without_harm() {
        let arena = arena();
        let a = arena.participant(ParticipantId(0));
        let mut follower = Follower::new(&arena);
        a.tell(words(1));
        let head = arena.0.event_ring(0);
        for wrong in [u64::MAX, 1 << 40, 0] {
            head.published().store(wrong, Ordering::Relaxed);
            firsts(&mut follower, usize::MAX);
        }
        a.tell(words(4));
        assert_eq!(firsts(&mut follower, 9), (vec![4], ALL));
    }

    #[test]
    fn readers_on_other_threads_see_whole_events_in_order() {
        let arena = arena();
        let writers = [0u64, 1].map(|id| {
            let arena = arena.clone();
            std::thread::spawn(move || {
                let p = arena.participant(ParticipantId(id as u16));
                for n in 0..20_000 {
                    p.tell(words(n * 2 + id));
                }
            })
        });
        let mut follower = Follower::new(&arena);
        let mut last = [None; 2];
        let mut orders = None;
        loop {
            let ended = writers.iter().all(|w| w.is_finished());
            let mut events = Vec::new();
            let told = follower.follow(100, &mut events);
            for event in events {
                assert!(orders.replace(event.order) < Some(event.order));
                let first = event.words[0] / 10;
                assert_eq!(event.words, words(first));
                assert!(last[(first % 2) as usize].replace(first) < Some(first));
            }
            if ended && !told.more {
                break;
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
    }
}
