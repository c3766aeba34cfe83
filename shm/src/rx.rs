//! Receive buffers and the journal that they are.
//!
//! The kernel writes datagrams straight into the arena. A buffer's first 16 bytes (`io_uring_recvmsg_out`) are zeroed before the buffer is given to the kernel, which writes
//! them last and never all zero; together with a meta word per buffer, which lies elsewhere, that tells an heir what was read and not served.
//!
//! ```text
//! meta   state:4 | attempts:8 | holder:16 | tag:16 | order:20       IDLE HELD DONE
//! ```
//!
//! | step | by | died after it, the heir of |
//! |---|---|---|
//! | 1. header zeroed, then IDLE: `provide` | pool's slot | pool: gives it to its ring |
//! | 2. the kernel fills it | | pool: serves it (IDLE, header set) |
//! | 3. HELD by the reader, with the tag: `hold` | pool's slot | pool: serves it |
//! | 4. HELD by another slot: `pass`; mail `Serve` to it | pool's slot | the holder: serves it; the mail is a hint |
//! | 5. `attempts` + 1, noted in the slot's header: `begin` | holder | holder: serves it last |
//! | 6. DONE: `done`; mail `Release` to the pool's slot | holder | pool: provides it again; the mail is a hint |
//!
//! The kernel fills a pool's buffers in the order in which they were provided, so `order` (a counter of the pool, in the slot's header) is the order of arrival:
//! an heir serves what it finds as it came. An ACK that overtook its BYE would be a stranger to the callee.
//!
//! Every buffer is one slot's to change at a time, so the words are stored, not swapped. A message may be served twice (a death between its last side effect and step 6);
//! it then meets its own transaction.

use core::ptr::NonNull;
use failpoint::failpoint;

use sync::{AtomicU64, Ordering};

use crate::arena::Arena;
use crate::id::{BufferRef, SlotId};

/// What a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxState {
    /// With the kernel, or about to be.
    Idle,
    /// A datagram that its holder has to serve.
    Held,
    /// Served; the pool's slot may provide it again.
    Done,
}

/// A decoded meta word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxMeta {
    /// What it is.
    pub state: RxState,
    /// How often somebody began to serve it.
    pub attempts: u8,
    /// The slot that has to serve it, while HELD.
    pub holder: u16,
    /// What the reader knew about it: the socket's number. Lost if the reader died before `hold`.
    pub tag: u16,
    /// When it was provided, by the pool's counter, modulo 2^20.
    pub order: u32,
}

const ORDER_MASK: u64 = (1 << 20) - 1;

impl RxMeta {
    const fn pack(self) -> u64 {
        let state = match self.state {
            RxState::Idle => 0u64,
            RxState::Held => 1,
            RxState::Done => 2,
        };
        (state << 60)
            | ((self.attempts as u64) << 52)
            | ((self.holder as u64) << 36)
            | ((self.tag as u64) << 20)
            | (self.order as u64 & ORDER_MASK)
    }

    /// A word that we did not write is an idle buffer.
    const fn unpack(word: u64) -> Self {
        let state = match word >> 60 {
            1 => RxState::Held,
            2 => RxState::Done,
            _ => RxState::Idle,
        };
        Self {
            state,
            attempts: (word >> 52) as u8,
            holder: (word >> 36) as u16,
            tag: (word >> 20) as u16,
            order: (word & ORDER_MASK) as u32,
        }
    }
}

/// Bytes at the front of a buffer that are zero until the kernel has filled it.
pub const RX_HEADER_BYTES: usize = 16;

/// The receive buffers of one slot, for that slot and for whoever holds one of them.
#[derive(Clone, Debug)]
pub struct RxPool {
    arena: Arena,
    slot: u16,
}

impl Arena {
    /// A slot's receive buffers.
    ///
    /// # Panics
    /// If the arena has no such slot.
    pub fn rx(&self, slot: SlotId) -> RxPool {
        assert!(slot.0 < self.layout().slots, "a slot of this arena");
        RxPool {
            arena: self.clone(),
            slot: slot.0,
        }
    }

    /// Every buffer that the heir of this slot has to serve, in whoever's pool it lies: those of a pool in the order in which they came, `last` behind
    /// all others.
    pub fn journal(&self, slot: SlotId, last: Option<BufferRef>) -> Vec<BufferRef> {
        let mut found = Vec::new();
        for pool in (0..self.layout().slots).map(|s| self.rx(SlotId(s))) {
            let first = found.len();
            // Relaxed: whoever counts here is dead, or provides what is not in the list.
            let now = self.slot(pool.slot()).rx_order.load(Ordering::Relaxed);
            for index in 0..pool.count() {
                let meta = pool.meta(index);
                let serve = match meta.state {
                    RxState::Held => meta.holder == slot.0,
                    RxState::Idle => pool.slot == slot.0 && pool.filled(index),
                    RxState::Done => false,
                };
                if serve {
                    let age = now.wrapping_sub(u64::from(meta.order)) & ORDER_MASK;
                    let buffer = BufferRef {
                        slot: pool.slot,
                        index,
                    };
                    found.push((std::cmp::Reverse(age), buffer));
                }
            }
            if let Some(of_pool) = found.get_mut(first..) {
                of_pool.sort_by_key(|(age, _)| *age);
            }
        }
        let mut found: Vec<BufferRef> = found.into_iter().map(|(_, buffer)| buffer).collect();
        if let Some(at) = last.and_then(|hand| found.iter().position(|&b| b == hand)) {
            let hand = found.remove(at);
            found.push(hand);
        }
        found
    }
}

impl RxPool {
    /// Whose buffers.
    pub fn slot(&self) -> SlotId {
        SlotId(self.slot)
    }

    /// How many.
    pub fn count(&self) -> u16 {
        self.arena.layout().rx_buffers
    }

    /// Bytes of one.
    pub fn buffer_bytes(&self) -> usize {
        self.arena.layout().rx_buffer_bytes as usize
    }

    /// All of them, one behind the other, for the driver to give to the kernel. They stay mapped as long as this pool, or any clone of the arena, lives.
    pub fn region(&self) -> (NonNull<u8>, usize) {
        let bytes = self.buffer_bytes() as u64 * u64::from(self.count());
        let at = self.arena.0.geometry.rx + u64::from(self.slot) * bytes;
        (self.arena.0.map.bytes(at, bytes), bytes as usize)
    }

    fn at(&self, index: u16) -> u64 {
        assert!(index < self.count(), "a buffer of this pool");
        let nth = u64::from(self.slot) * u64::from(self.count()) + u64::from(index);
        self.arena.0.geometry.rx + nth * self.buffer_bytes() as u64
    }

    fn word(&self, index: u16) -> &AtomicU64 {
        assert!(index < self.count(), "a buffer of this pool");
        let nth = u64::from(self.slot) * u64::from(self.count()) + u64::from(index);
        self.arena
            .0
            .map
            .word(self.arena.0.geometry.rx_metas + nth * 8)
    }

    /// One buffer's address, for the driver.
    ///
    /// # Panics
    /// As all methods with an index: if there is no such buffer.
    pub fn buffer(&self, index: u16) -> NonNull<u8> {
        self.arena
            .0
            .map
            .bytes(self.at(index), self.buffer_bytes() as u64)
    }

    /// A filled buffer's bytes, header included; `None` while it may be the kernel's. Not to be held past `done` or `provide`.
    pub fn bytes(&self, index: u16) -> Option<&[u8]> {
        if !self.filled(index) {
            return None;
        }
        // SAFETY: buffer_bytes() inside the map. The header is set, so the kernel has finished with the buffer and nobody writes it before
        // `provide`, which is the pool's slot's after the holder's `done` (caller).
        Some(unsafe {
            core::slice::from_raw_parts(self.buffer(index).as_ptr(), self.buffer_bytes())
        })
    }

    /// Whether the kernel has filled it.
    pub fn filled(&self, index: u16) -> bool {
        let map = &self.arena.0.map;
        // SYNC rx-header: Acquire; the kernel wrote the payload before the header.
        (0..RX_HEADER_BYTES as u64 / 8)
            .any(|n| map.word(self.at(index) + n * 8).load(Ordering::Acquire) != 0)
    }

    /// What the meta word says.
    pub fn meta(&self, index: u16) -> RxMeta {
        // SYNC rx-meta: Acquire, pairs with the Release in `set`.
        RxMeta::unpack(self.word(index).load(Ordering::Acquire))
    }

    fn set(&self, index: u16, meta: RxMeta) {
        // SYNC rx-meta: Release: what was done to the buffer before comes before what others do to it now.
        self.word(index).store(meta.pack(), Ordering::Release);
    }

    /// Step 1: to be called before the buffer goes (again) to the kernel.
    pub fn provide(&self, index: u16) {
        // The header first: IDLE with a set header would be served (again).
        for n in 0..RX_HEADER_BYTES as u64 / 8 {
            // Relaxed: ordered by the Release in `set`.
            self.arena
                .0
                .map
                .word(self.at(index) + n * 8)
                .store(0, Ordering::Relaxed);
        }
        failpoint!("shm.rx.header_zeroed");
        let order = self.next_order();
        self.set(
            index,
            RxMeta {
                state: RxState::Idle,
                attempts: 0,
                holder: self.slot,
                tag: 0,
                order,
            },
        );
    }

    /// Counts one buffer more.
    pub(crate) fn next_order(&self) -> u32 {
        let counter = &self.arena.slot(self.slot()).rx_order;
        // Relaxed: only the pool's slot provides.
        let order = counter.load(Ordering::Relaxed).wrapping_add(1);
        counter.store(order, Ordering::Relaxed);
        (order & ORDER_MASK) as u32
    }

    /// Puts a message that another arena held into a buffer of this one, which nobody else uses.
    pub(crate) fn lay(&self, index: u16, bytes: &[u8], meta: RxMeta) {
        assert!(bytes.len() <= self.buffer_bytes(), "it fits");
        // SAFETY: as many bytes inside the buffer (checked), and nobody else has the arena.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.buffer(index).as_ptr(), bytes.len())
        };
        self.set(index, meta);
    }

    /// Step 2 for a world without a kernel: fills a provided buffer with a header, not all zero, and what follows it. False if the buffer
    /// is not with the kernel, or too small.
    pub fn fill(&self, index: u16, header: [u64; RX_HEADER_BYTES / 8], payload: &[u8]) -> bool {
        let fits = payload.len() <= self.buffer_bytes() - RX_HEADER_BYTES;
        let provided = self.meta(index).state == RxState::Idle && !self.filled(index);
        if !fits || !provided || header == [0; RX_HEADER_BYTES / 8] {
            return false;
        }
        // SAFETY: the header is within the buffer, which is longer (checked by the geometry).
        let to = unsafe { self.buffer(index).add(RX_HEADER_BYTES) };
        // SAFETY: as many bytes inside the buffer (checked); it is the kernel's, whom we play, until the header is set.
        unsafe { core::ptr::copy_nonoverlapping(payload.as_ptr(), to.as_ptr(), payload.len()) };
        for (n, word) in (0..).zip(header) {
            // SYNC rx-header: Release, the payload comes before it.
            let at = self.at(index) + n * 8;
            self.arena.0.map.word(at).store(word, Ordering::Release);
        }
        true
    }

    /// Step 3: the kernel filled it, we have to serve it. Keeps the number of attempts, for an heir that holds it anew.
    pub fn hold(&self, index: u16, tag: u16) {
        self.set(
            index,
            RxMeta {
                state: RxState::Held,
                holder: self.slot,
                tag,
                ..self.meta(index)
            },
        );
    }

    /// Step 4: another slot has to serve it.
    pub fn pass(&self, index: u16, to: SlotId) {
        self.set(
            index,
            RxMeta {
                state: RxState::Held,
                holder: to.0,
                ..self.meta(index)
            },
        );
    }

    /// Step 5, by the holder: notes in its slot's header that it is about to serve the buffer. Returns how often that was begun, this time included.
    pub fn begin(&self, index: u16, holder: SlotId) -> u8 {
        let meta = self.meta(index);
        let attempts = meta.attempts.saturating_add(1);
        self.arena.slot(holder).set_at_hand(Some(BufferRef {
            slot: self.slot,
            index,
        }));
        failpoint!("shm.rx.at_hand_noted");
        self.set(index, RxMeta { attempts, ..meta });
        attempts
    }

    /// By the heir of a holder that was killed from outside: the attempt does not speak against the message.
    pub fn forgive(&self, index: u16) {
        let meta = self.meta(index);
        self.set(
            index,
            RxMeta {
                attempts: meta.attempts.saturating_sub(1),
                ..meta
            },
        );
    }

    /// Step 6, by the holder.
    pub fn done(&self, index: u16, holder: SlotId) {
        self.set(
            index,
            RxMeta {
                state: RxState::Done,
                ..self.meta(index)
            },
        );
        let header = self.arena.slot(holder);
        if header.at_hand()
            == Some(BufferRef {
                slot: self.slot,
                index,
            })
        {
            header.set_at_hand(None);
        }
    }

    /// What a new ring of this slot may be given: everything but what somebody holds, or has to. To be provided first.
    pub fn for_a_new_ring(&self) -> impl Iterator<Item = u16> + '_ {
        (0..self.count()).filter(|&index| match self.meta(index).state {
            RxState::Idle => !self.filled(index),
            RxState::Held => false,
            RxState::Done => true,
        })
    }

    /// Buffers that other slots have to serve, in case a `Serve` mail was lost with its sender: for the pool's heir, once.
    pub fn passed(&self) -> impl Iterator<Item = (u16, SlotId)> + '_ {
        (0..self.count()).filter_map(|index| {
            let meta = self.meta(index);
            let passed = meta.state == RxState::Held && meta.holder != self.slot;
            passed.then_some((index, SlotId(meta.holder)))
        })
    }

    /// Buffers that others have served, in case a `Release` mail was lost: for the pool's slot, now and then.
    pub fn released(&self) -> impl Iterator<Item = u16> + '_ {
        (0..self.count()).filter(|&index| self.meta(index).state == RxState::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    fn fill(pool: &RxPool, index: u16) {
        assert!(pool.fill(index, [0x1234, 0], b"a datagram"));
        assert_eq!(
            pool.bytes(index)
                .map(|bytes| &bytes[RX_HEADER_BYTES..][..10]),
            Some(&b"a datagram"[..])
        );
    }

    #[test]
    fn the_journal_lists_what_an_heir_must_serve() {
        let layout = Layout {
            rx_buffers: 8,
            ..Layout::new(24 << 20, 2, 1, 1)
        };
        let arena = Arena::heap(&layout, [1; 16]).unwrap();
        let (zero, one) = (arena.rx(SlotId(0)), arena.rx(SlotId(1)));
        for pool in [&zero, &one] {
            (0..8).for_each(|i| pool.provide(i));
        }
        assert_eq!(arena.journal(SlotId(0), None), []);
        assert_eq!(zero.bytes(3), None);
        for index in [1, 2, 3, 4, 5] {
            fill(&zero, index);
        }
        zero.hold(2, 7); // read, not served
        zero.hold(3, 7);
        zero.pass(3, SlotId(1)); // the other slot's
        zero.hold(4, 7);
        assert_eq!(zero.begin(4, SlotId(0)), 1); // at hand
        zero.hold(5, 7);
        zero.begin(5, SlotId(0));
        zero.done(5, SlotId(0)); // served
        zero.begin(4, SlotId(0));
        fill(&one, 0);
        one.hold(0, 9);
        one.pass(0, SlotId(0)); // passed to us
        let b = |slot, index| BufferRef { slot, index };
        assert_eq!(
            arena.journal(SlotId(0), arena.slot(SlotId(0)).at_hand()),
            [b(0, 1), b(0, 2), b(1, 0), b(0, 4)]
        );
        assert_eq!(arena.journal(SlotId(1), None), [b(0, 3)]);
        assert_eq!(zero.for_a_new_ring().collect::<Vec<_>>(), [0, 5, 6, 7]);
        assert_eq!(zero.released().collect::<Vec<_>>(), [5]);
        assert_eq!(zero.passed().collect::<Vec<_>>(), [(3, SlotId(1))]);
        let meta = zero.meta(4);
        assert_eq!(
            (meta.state, meta.attempts, meta.holder, meta.tag),
            (RxState::Held, 2, 0, 7)
        );
        assert_eq!(zero.bytes(4).map(<[u8]>::len), Some(8192));
    }

    #[test]
    fn messages_are_listed_as_they_came() {
        let layout = Layout {
            rx_buffers: 8,
            ..Layout::new(24 << 20, 1, 1, 1)
        };
        let arena = Arena::heap(&layout, [1; 16]).unwrap();
        let pool = arena.rx(SlotId(0));
        (0..8).for_each(|i| pool.provide(i));
        // The kernel has gone round: 5 came back before 2, and 2 before 0.
        for index in [5, 2, 0] {
            fill(&pool, index);
            pool.hold(index, 0);
            pool.done(index, SlotId(0));
            pool.provide(index);
        }
        for index in [7, 5, 2, 0] {
            fill(&pool, index);
        }
        pool.hold(7, 0);
        pool.begin(7, SlotId(0));
        let b = |index| BufferRef { slot: 0, index };
        let came = [b(7), b(5), b(2), b(0)];
        assert_eq!(arena.journal(SlotId(0), None), came);
        let suspect = arena.slot(SlotId(0)).at_hand();
        assert_eq!(arena.journal(SlotId(0), suspect), [b(5), b(2), b(0), b(7)]);
    }
}
