//! The timers of a slot: a hierarchical timing wheel.
//!
//! Time is cut into ticks of 2^20 ns (1.05 ms). Eight levels of 64 slots, each level 64 times as coarse as the one below,
//! reach to the end of the 64-bit clock. A timer lies on the level where its tick first differs from the wheel's own, and
//! moves down as the wheel turns. Insertion is O(1) and so is each of the at most seven moves of a timer's life.
//!
//! There is no cancellation: whoever set a timer compares its own deadline with the clock when it fires, and a timer that
//! means nothing any more is ignored.
//!
//! Invariants: every timer in a slot has a tick later than `tick`; on each level all occupied slots lie after the wheel's
//! own position, because their higher digits equal those of `tick`; everything on a level is due before anything on a
//! higher one; what is pending may be earlier than all of it and is dealt with first.

use std::mem;

use stdx::Instant;

/// A tick is 2^TICK_BITS ns.
const TICK_BITS: u32 = 20;
/// Each level has 2^SLOT_BITS slots.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Levels that hold every tick there is.
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(SLOT_BITS) as usize;
/// Moves and firings of one call of [`Wheel::expire`], at most.
const WORK_MAX: usize = 1024;
/// The end of a list.
const NONE: u32 = u32::MAX;

/// Timers with a `T` each.
#[derive(Debug)]
pub struct Wheel<T> {
    /// The wheel's own time. Everything due at or before it was handed out or is pending.
    tick: u64,
    levels: [Level; LEVELS],
    /// Timers to fire or to place anew, as a list: those due when they were inserted, and those of the last emptied slot.
    pending: u32,
    nodes: Vec<Node<T>>,
    /// Unused nodes, as a list.
    free: u32,
    len: usize,
}

#[derive(Debug)]
struct Level {
    /// Bit n is set if slot n is not empty.
    occupied: u64,
    slots: [Slot; SLOTS],
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    first: u32,
    /// The earliest tick in the list.
    earliest: u64,
}

#[derive(Debug)]
struct Node<T> {
    tick: u64,
    next: u32,
    /// `None` while the node is unused.
    value: Option<T>,
}

impl<T> Wheel<T> {
    /// An empty wheel that starts at `now`.
    pub fn new(now: Instant) -> Self {
        let empty = Slot {
            first: NONE,
            earliest: u64::MAX,
        };
        let levels = std::array::from_fn(|_| Level {
            occupied: 0,
            slots: [empty; SLOTS],
        });
        Self {
            tick: now.as_nanos() >> TICK_BITS,
            levels,
            pending: NONE,
            nodes: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    /// Timers that have not fired.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no timer.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer. It fires by the first [`expire`](Self::expire) at or after `deadline` plus at most one tick.
    /// A timer at [`Instant::MAX`] never fires.
    pub fn insert(&mut self, deadline: Instant, value: T) {
        // Rounded up: a timer fires late by up to a tick, never early.
        let tick = deadline.as_nanos().div_ceil(1 << TICK_BITS);
        let node = self.allocate(Node {
            tick,
            next: NONE,
            value: Some(value),
        });
        self.place(node);
        self.len += 1;
    }

    /// Appends to `out` what is due at `now`, earlier ticks first. Does a bounded amount of work; if that was not
    /// enough, [`next_deadline`](Self::next_deadline) is then not after `now`.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<T>) {
        let target = now.as_nanos() >> TICK_BITS;
        let mut work = WORK_MAX;
        loop {
            while self.pending != NONE {
                if work == 0 {
                    return;
                }
                work -= 1;
                let node = self.pending;
                self.pending = self.nodes[node as usize].next;
                if self.nodes[node as usize].tick <= self.tick {
                    out.extend(self.retire(node));
                } else {
                    self.place(node);
                }
            }
            let Some((level, slot)) = self.first_slot() else {
                break;
            };
            let start = self.start(level, slot);
            if start > target {
                break;
            }
            debug_assert!(start >= self.tick);
            self.tick = start;
            let emptied = Slot {
                first: NONE,
                earliest: u64::MAX,
            };
            self.pending = mem::replace(&mut self.levels[level].slots[slot], emptied).first;
            self.levels[level].occupied &= !(1 << slot);
        }
        self.tick = self.tick.max(target);
    }

    /// When `expire` has something to do next: the deadline of the earliest timer rounded up to a tick, or a moment that
    /// has passed if something is due. `None` if there is no timer.
    pub fn next_deadline(&self) -> Option<Instant> {
        let tick = if self.pending != NONE {
            self.tick
        } else {
            let (level, slot) = self.first_slot()?;
            self.levels[level].slots[slot].earliest
        };
        Some(
            tick.checked_mul(1 << TICK_BITS)
                .map_or(Instant::MAX, Instant::from_nanos),
        )
    }

    /// The occupied slot with the earliest timers.
    fn first_slot(&self) -> Option<(usize, usize)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        Some((level, self.levels[level].occupied.trailing_zeros() as usize))
    }

    /// The first tick of a slot.
    fn start(&self, level: usize, slot: usize) -> u64 {
        let shift = SLOT_BITS * level as u32;
        // The shift by the whole width happens on no level: eight levels of six bits are 48 bits.
        const { assert!(SLOT_BITS as usize * LEVELS < u64::BITS as usize) };
        let higher = self.tick >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        higher | (slot as u64) << shift
    }

    /// Puts a node where its tick belongs.
    fn place(&mut self, node: u32) {
        let tick = self.nodes[node as usize].tick;
        if tick <= self.tick {
            self.nodes[node as usize].next = self.pending;
            self.pending = node;
            return;
        }
        let differ = u64::BITS - 1 - (tick ^ self.tick).leading_zeros();
        let level = (differ / SLOT_BITS) as usize;
        let at = (tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        self.levels[level].occupied |= 1 << at;
        let slot = &mut self.levels[level].slots[at];
        slot.earliest = slot.earliest.min(tick);
        self.nodes[node as usize].next = slot.first;
        slot.first = node;
    }

    fn allocate(&mut self, node: Node<T>) -> u32 {
        if self.free == NONE {
            let index = u32::try_from(self.nodes.len())
                .expect("memory ends before four thousand million timers");
            self.nodes.push(node);
            return index;
        }
        let index = self.free;
        let place = &mut self.nodes[index as usize];
        self.free = place.next;
        *place = node;
        index
    }

    /// Takes a node that is in no list out of use.
    fn retire(&mut self, node: u32) -> Option<T> {
        let place = &mut self.nodes[node as usize];
        place.next = self.free;
        self.free = node;
        self.len -= 1;
        place.value.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    use std::time::Duration;

    const TICK: u64 = 1 << TICK_BITS;
    const fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn drain<T>(wheel: &mut Wheel<T>, now: Instant) -> Vec<T> {
        let mut out = Vec::new();
        loop {
            let before = out.len();
            wheel.expire(now, &mut out);
            assert!(out.len() - before <= WORK_MAX);
            // A timer at the end of time stays, however late it is.
            if wheel
                .next_deadline()
                .is_none_or(|next| next > now || next == Instant::MAX)
            {
                return out;
            }
        }
    }

    #[test]
    fn the_timers_of_sip_fire_in_time() {
        let start = at(123_456_789_012_345);
        let mut wheel = Wheel::new(start);
        for millis in [32_000u64, 500, 4_000, 180_000, 5_000, 64 * 500] {
            wheel.insert(start + Duration::from_millis(millis), millis);
        }
        let mut fired = Vec::new();
        while let Some(next) = wheel.next_deadline() {
            for millis in drain(&mut wheel, next) {
                let deadline = start + Duration::from_millis(millis);
                assert!(
                    next >= deadline
                        && next.saturating_duration_since(deadline).as_nanos() <= u128::from(TICK)
                );
                fired.push(millis);
            }
        }
        fired.dedup();
        assert_eq!(fired, [500, 4_000, 5_000, 32_000, 180_000]);
    }

    #[test]
    fn the_end_of_time_is_far() {
        let mut wheel = Wheel::new(Instant::ZERO);
        wheel.insert(Instant::MAX, "never");
        wheel.insert(at(u64::MAX - TICK), "at last");
        assert_eq!(
            drain(&mut wheel, at(u64::MAX - 2 * TICK)),
            Vec::<&str>::new()
        );
        assert_eq!(drain(&mut wheel, Instant::MAX), ["at last"]);
        assert_eq!(wheel.next_deadline(), Some(Instant::MAX));
    }

    #[test]
    fn work_is_bounded_and_goes_on() {
        let mut wheel = Wheel::new(Instant::ZERO);
        let count = 5 * WORK_MAX;
        for i in 0..count {
            // All of them in one coarse slot first.
            wheel.insert(at(70 * TICK + (i as u64 % 50) * TICK), i);
        }
        let (mut out, now) = (Vec::new(), at(200 * TICK));
        wheel.expire(now, &mut out);
        assert!(out.len() <= WORK_MAX);
        assert!(wheel.next_deadline().unwrap() <= now);
        // A timer that is set in the middle of it is not lost either.
        wheel.insert(at(100 * TICK), count);
        out.extend(drain(&mut wheel, now));
        out.sort_unstable();
        assert_eq!(out, (0..=count).collect::<Vec<_>>());
        assert!(wheel.is_empty() && wheel.next_deadline().is_none());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Advance(u64),
        ToNext,
    }

    fn delays() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..4 * TICK,
            0..100 * TICK,
            0..10_000 * TICK,
            0..u64::MAX / 8
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn it_agrees_with_a_heap(
            start in prop_oneof![0u64..1 << 40, Just(0), Just((64 * 64 * 64 - 1) * TICK)],
            steps in prop::collection::vec(
                prop_oneof![
                    4 => delays().prop_map(Step::Insert),
                    2 => delays().prop_map(Step::Advance),
                    1 => Just(Step::ToNext),
                ],
                0..200,
            ),
        ) {
            let mut now = start;
            let mut wheel = Wheel::new(at(now));
            let mut heap = BinaryHeap::new();
            for (id, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(delay) => {
                        let deadline = now.saturating_add(delay);
                        wheel.insert(at(deadline), id);
                        heap.push(Reverse((deadline.div_ceil(TICK), id)));
                    }
                    Step::Advance(by) => now = now.saturating_add(by),
                    Step::ToNext => {
                        if let Some(next) = wheel.next_deadline() {
                            now = now.max(next.as_nanos());
                        }
                    }
                }
                let mut fired = drain(&mut wheel, at(now));
                let mut expected = Vec::new();
                while let Some(&Reverse((tick, id))) = heap.peek() {
                    if tick > now / TICK {
                        break;
                    }
                    heap.pop();
                    expected.push(id);
                }
                fired.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(fired, expected);
                prop_assert_eq!(wheel.len(), heap.len());
                let next = heap.peek().map(|&Reverse((tick, _))| tick.saturating_mul(TICK));
                prop_assert_eq!(wheel.next_deadline(), next.map(at));
            }
        }
    }
}
