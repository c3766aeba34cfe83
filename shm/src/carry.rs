//! What moves to another arena beside the records (`image`): counters, the figures of slots, and the messages that were read but not served.
//!
//! ```text
//! version u32 | cells u32, each: participant u16, counter u16, value u64
//!             | slots u16, each: words u16, each u64 | messages u32, each: slot u16, tag u16, attempts u8, bytes u32, the buffer
//! ```
//!
//! Little-endian. Self-describing enough for two programs that do not agree on where these things lie: what the reader has no place for (a counter, a
//! word, a message longer than its buffers) it leaves out, and what it is not given stays 0. Mailboxes do not move: their contents are hints, and a message in
//! another slot's hands is in the journal.
//!
//! The giving arena must be at rest, its slots handed over or recovered: then no message is at hand, and nobody counts. The taking one must be nobody else's.

use sync::{AtomicU64, Ordering};

use crate::arena::Arena;
use crate::id::{ParticipantId, SlotId};
use crate::layout::CELLS;
use crate::rx::{RxMeta, RxState};
use crate::slot::SlotHeader;

const VERSION: u32 = 1;

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Counter cells.
    pub cells: u32,
    /// Messages that are to be served.
    pub messages: u32,
    /// Messages that there was no room for: their senders repeat them.
    pub left_out: u32,
}

/// Not what [`Arena::carry`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was carried over from the other arena can't be read")]
pub struct CarryError;

/// The words of a slot that move, in an order that only ever grows.
fn words(header: &SlotHeader) -> [&AtomicU64; 7] {
    [
        &header.turn_started,
        &header.turn_done,
        &header.messages,
        &header.incarnation,
        &header.restarts,
        &header.death_ns,
        &header.last_exit,
    ]
}

impl Arena {
    /// Writes down everything but the records.
    pub fn carry(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 << 10);
        out.extend_from_slice(&VERSION.to_le_bytes());
        self.carry_cells(&mut out);
        let slots = self.layout().slots;
        out.extend_from_slice(&slots.to_le_bytes());
        for slot in 0..slots {
            let words = words(self.slot(SlotId(slot)));
            out.extend_from_slice(&(words.len() as u16).to_le_bytes());
            for word in words {
                // Relaxed, here and below: the arena is at rest.
                out.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
        }
        self.carry_messages(&mut out);
        out
    }

    fn carry_cells(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&0u32.to_le_bytes());
        let mut count = 0u32;
        for participant in 0..self.participants() {
            for counter in 0..CELLS as u16 {
                let cell = self
                    .counters()
                    .cell(ParticipantId(participant), counter as u8);
                let value = cell.map_or(0, |cell| cell.load(Ordering::Relaxed));
                if value != 0 {
                    out.extend_from_slice(&participant.to_le_bytes());
                    out.extend_from_slice(&counter.to_le_bytes());
                    out.extend_from_slice(&value.to_le_bytes());
                    count += 1;
                }
            }
        }
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&count.to_le_bytes());
        }
    }

    fn carry_messages(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&0u32.to_le_bytes());
        let mut count = 0u32;
        for slot in 0..self.layout().slots {
            for buffer in self.journal(SlotId(slot), None) {
                let pool = self.rx(SlotId(buffer.slot));
                let meta = pool.meta(buffer.index);
                let Some(bytes) = pool.bytes(buffer.index) else {
                    continue;
                };
                out.extend_from_slice(&slot.to_le_bytes());
                out.extend_from_slice(&meta.tag.to_le_bytes());
                out.push(meta.attempts);
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
                count += 1;
            }
        }
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&count.to_le_bytes());
        }
    }

    /// Takes what [`Arena::carry`] of another arena wrote.
    pub fn take_carried(&self, bytes: &[u8]) -> Result<Carried, CarryError> {
        let mut from = Bytes(bytes);
        let mut done = Carried::default();
        if from.u32()? != VERSION {
            return Err(CarryError);
        }
        for _ in 0..from.u32()? {
            let (participant, counter, value) = (from.u16()?, from.u16()?, from.u64()?);
            let cell = u8::try_from(counter)
                .ok()
                .and_then(|counter| self.counters().cell(ParticipantId(participant), counter));
            if let Some(cell) = cell {
                cell.store(value, Ordering::Relaxed);
                done.cells += 1;
            }
        }
        for slot in 0..from.u16()? {
            let mine = (slot < self.layout().slots).then(|| words(self.slot(SlotId(slot))));
            for at in 0..from.u16()? {
                let value = from.u64()?;
                if let Some(word) = mine.and_then(|words| words.get(usize::from(at)).copied()) {
                    word.store(value, Ordering::Relaxed);
                }
            }
        }
        self.take_messages(&mut from, &mut done)?;
        Ok(done)
    }

    fn take_messages(&self, from: &mut Bytes<'_>, done: &mut Carried) -> Result<(), CarryError> {
        let slots = self.layout().slots;
        let mut next = vec![0u16; usize::from(slots)];
        for _ in 0..from.u32()? {
            let (slot, tag, attempts) = (from.u16()?, from.u16()?, from.u8()?);
            let length = from.u32()? as usize;
            let bytes = from.take(length)?;
            let pool = (slot < slots).then(|| self.rx(SlotId(slot)));
            let place = next
                .get_mut(usize::from(slot))
                .zip(pool)
                // Half of the buffers are the kernel's, or nothing would be received.
                .filter(|(next, pool)| **next < pool.count() / 2 && length <= pool.buffer_bytes());
            let Some((next, pool)) = place else {
                done.left_out += 1;
                continue;
            };
            let meta = RxMeta {
                state: RxState::Held,
                attempts,
                holder: slot,
                tag,
                order: pool.next_order(),
            };
            pool.lay(*next, bytes, meta);
            *next += 1;
            done.messages += 1;
        }
        Ok(())
    }
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CarryError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CarryError)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CarryError> {
        self.take(N)?.first_chunk().copied().ok_or(CarryError)
    }

    fn u8(&mut self) -> Result<u8, CarryError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, CarryError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, CarryError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, CarryError> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    fn arena(buffers: u16, bytes: u32) -> Arena {
        let layout = Layout {
            rx_buffers: buffers,
            rx_buffer_bytes: bytes,
            ..Layout::new(24 << 20, 2, 1, 1)
        };
        Arena::heap(&layout, [1; 16]).unwrap()
    }

    fn read(arena: &Arena, slot: u16, index: u16, tag: u16, first: u64) {
        let pool = arena.rx(SlotId(slot));
        pool.provide(index);
        // SAFETY: the first eight of the buffer's bytes; this thread plays the kernel.
        unsafe { pool.buffer(index).cast::<u64>().write(first) };
        pool.hold(index, tag);
    }

    #[test]
    fn counters_turns_and_unserved_messages_move() {
        let (a, b) = (arena(8, 1024), arena(16, 2048));
        a.counters()
            .cell(ParticipantId(2), 9)
            .unwrap()
            .store(77, Ordering::Relaxed);
        a.slot(SlotId(1)).turn_done.store(41, Ordering::Relaxed);
        a.slot(SlotId(1)).turn_started.store(42, Ordering::Relaxed);
        read(&a, 0, 3, 5, 0xabc);
        read(&a, 0, 4, 6, 0xdef);
        a.rx(SlotId(0)).pass(4, SlotId(1));
        read(&a, 1, 0, 7, 0x111);
        a.rx(SlotId(1)).done(0, SlotId(1));
        let done = b.take_carried(&a.carry()).unwrap();
        assert_eq!((done.cells, done.messages, done.left_out), (1, 2, 0));
        assert_eq!(b.counters().total(9), 77);
        let header = b.slot(SlotId(1));
        assert_eq!(header.turn_done.load(Ordering::Relaxed), 41);
        assert_eq!(header.turn_started.load(Ordering::Relaxed), 42);
        for (slot, tag, first) in [(0, 5, 0xabc_u64), (1, 6, 0xdef)] {
            let journal = b.journal(SlotId(slot), None);
            assert_eq!(journal.len(), 1);
            let pool = b.rx(SlotId(journal[0].slot));
            assert_eq!(pool.meta(journal[0].index).tag, tag);
            let bytes = pool.bytes(journal[0].index).unwrap();
            assert_eq!(bytes[..8], first.to_le_bytes());
        }
    }

    #[test]
    fn what_has_no_place_is_left_out_and_noise_refused() {
        let (a, b) = (arena(8, 1024), arena(8, 512));
        read(&a, 0, 3, 5, 0xabc);
        let bytes = a.carry();
        assert_eq!(b.take_carried(&bytes).unwrap().left_out, 1);
        for length in 0..bytes.len() {
            assert!(
                arena(8, 1024).take_carried(&bytes[..length]).is_err(),
                "{length}"
            );
            if length > 100 {
                break;
            }
        }
        assert_eq!(b.take_carried(b"noise"), Err(CarryError));
    }
}
