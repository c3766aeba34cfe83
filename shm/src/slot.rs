//! What a reactor tells the supervisor, its heir and the operator: one header per slot, and the counter cells.
//!
//! Every field has one writer at a time (the slot's thread, or the supervisor where it says so) and is a plain announcement: no
//! other memory is published through it, except [`SlotHeader::sleeping`] (see `mailbox`).

use sync::{AtomicU64, Ordering};

use crate::id::ParticipantId;
use crate::layout::CELLS;

/// Bytes reserved for a [`SlotHeader`], so that later releases can add fields without moving anything.
pub(crate) const SLOT_BYTES: u64 = if cfg!(feature = "layout-probe") {
    1024
} else {
    512
};

/// One slot's announcements. All instants are nanoseconds of CLOCK_MONOTONIC; 0 is "never".
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C)]
pub struct SlotHeader {
    /// 1 while the slot sleeps or is about to: its doorbell has to be rung.
    pub sleeping: AtomicU64,
    /// The message being served: a packed [`BufferRef`](crate::BufferRef) plus one, 0 between messages.
    pub at_hand: AtomicU64,
    /// Number of turns begun.
    pub turn_started: AtomicU64,
    /// Number of turns finished.
    pub turn_done: AtomicU64,
    /// When the slot last answered its doorbell or ran a turn.
    pub heartbeat_ns: AtomicU64,
    /// Messages served.
    pub messages: AtomicU64,
    /// How many processes have been this slot; raised by the supervisor before each.
    pub incarnation: AtomicU64,
    /// For people only; the proof of a death is a pidfd.
    pub pid: AtomicU64,
    /// The core it is pinned to plus one; 0: not pinned.
    pub core: AtomicU64,
    /// When this incarnation served its first message.
    pub first_served_ns: AtomicU64,
    /// When this incarnation had finished recovery.
    pub recovered_ns: AtomicU64,
    /// When the supervisor learned of the previous incarnation's death.
    pub death_ns: AtomicU64,
    /// Deaths and planned restarts that this slot has seen; the supervisor counts.
    pub restarts: AtomicU64,
    /// How the previous incarnation ended, in the supervisor's words; 0: it is the first.
    pub last_exit: AtomicU64,
    /// 1: this slot's own thread was the end of its process, by a fault or because it hung; 0: it was not, or nobody knows.
    pub blamed: AtomicU64,
    /// Receive buffers provided so far; see `rx`.
    pub rx_order: AtomicU64,
}

const _: () =
    assert!(size_of::<SlotHeader>() as u64 <= SLOT_BYTES && align_of::<SlotHeader>() == 8);

impl SlotHeader {
    /// Notes the message that is about to be served; `None` when it has been.
    pub fn set_at_hand(&self, buffer: Option<crate::BufferRef>) {
        let word = buffer.map_or(0, |b| u64::from(b.pack()) + 1);
        // SYNC at-hand: Release, so that a message is noted before what serving it stores; the heir's Acquire is in `at_hand`.
        self.at_hand.store(word, Ordering::Release);
    }

    /// The message that was being served.
    pub fn at_hand(&self) -> Option<crate::BufferRef> {
        // SYNC at-hand: Acquire, see `set_at_hand`.
        match self.at_hand.load(Ordering::Acquire) {
            0 => None,
            word => Some(crate::BufferRef::unpack((word - 1) as u32)),
        }
    }
}

impl crate::Participant {
    /// Adds to one of our own counter cells: a plain load and store, since nobody else writes it.
    #[inline]
    pub fn count(&self, counter: u8, by: u64) {
        if let Some(cell) = self.arena().counters().cell(self.id(), counter) {
            // Relaxed: a counter orders nothing.
            cell.store(
                cell.load(Ordering::Relaxed).wrapping_add(by),
                Ordering::Relaxed,
            );
        }
    }
}

/// The counter cells: one row of [`CELLS`] per participant, each cell with one writer, so that counting costs one store and
/// a death loses nothing. A total is the sum over participants.
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a> {
    pub(crate) arena: &'a crate::Arena,
}

impl<'a> Cells<'a> {
    /// One participant's cell; `None` past the end.
    pub fn cell(&self, participant: ParticipantId, counter: u8) -> Option<&'a AtomicU64> {
        let g = &self.arena.0.geometry;
        (participant.0 < g.participants).then(|| {
            let at = usize::from(participant.0) * CELLS + usize::from(counter);
            self.arena.0.map.word(g.cells + at as u64 * 8)
        })
    }

    /// The sum over all participants.
    pub fn total(&self, counter: u8) -> u64 {
        (0..self.arena.0.geometry.participants)
            .filter_map(|p| self.cell(ParticipantId(p), counter))
            // Relaxed: a counter orders nothing.
            .fold(0, |sum, cell| {
                sum.wrapping_add(cell.load(Ordering::Relaxed))
            })
    }
}
