//! Reclaim across processes: quiescence-based epochs (QSBR), and the intent words that share a participant's lines.
//!
//! A participant announces the global epoch once per reactor turn and OFFLINE (0) while it sleeps; between two announcements it may hold
//! references. What is unlinked in epoch `e` may be reused when every online participant has announced an epoch `> e`. Whoever sees that all have
//! announced the current epoch raises it.
//!
//! *Quiescent*: fence; read global `g`; everything retired since the last time gets the tag `g`; announce `g`; fence. *Why it is safe*: a reader that announced `g + 1`
//! did so after the global epoch became `g + 1`, which is after our read of `g`, which is after our unlinking; so it announced after the unlinking
//! and cannot have found the object since. Going online later is covered by the same two fences.
//!
//! A participant that dies online stops the epoch where it was: everything that was retired after that stays as it is until recovery has
//! read what it needs and puts the participant offline as its last step. A hung one is killed by the supervisor.

use failpoint::failpoint;
use sync::{AtomicU64, Ordering, fence};

use crate::arena::Inner;
use crate::layout::{AT_EPOCH, PARTICIPANT_BYTES};

/// A participant that holds no references.
pub(crate) const OFFLINE: u64 = 0;

/// What a participant is in the middle of; one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) row: u32,
    /// The control word that it wanted to change.
    pub(crate) old: u64,
    /// The values of its own counter cells after that (see `counts`).
    pub(crate) cells: Staged,
}

/// Counter cells and what they are to hold: block of cells, new value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Staged {
    count: usize,
    cells: [(u32, u64); COUNTS_MAX],
}

impl Staged {
    pub(crate) const NONE: Self = Self {
        count: 0,
        cells: [(0, 0); COUNTS_MAX],
    };

    /// `false`: there are too many.
    pub(crate) fn push(&mut self, block: u32, value: u64) -> bool {
        let Some(place) = self.cells.get_mut(self.count) else {
            return false;
        };
        *place = (block, value);
        self.count += 1;
        true
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, u64)> {
        self.cells.iter().copied().take(self.count)
    }
}

/// Blocks of cells that one record counts in, at most. Their numbers, two in a word, and their values fill a participant's intent line.
pub const COUNTS_MAX: usize = 4;
const INTENT_BYTES: u64 = 64;
const _: () =
    assert!(16 + COUNTS_MAX as u64 * (4 + 8) == INTENT_BYTES && COUNTS_MAX.is_multiple_of(2));
const _: () = assert!(64 + INTENT_BYTES == PARTICIPANT_BYTES);

impl Inner {
    fn global(&self) -> &AtomicU64 {
        self.map.word(AT_EPOCH)
    }

    /// The global epoch.
    pub(crate) fn epoch_now(&self) -> u64 {
        self.global().load(Ordering::SeqCst)
    }

    fn participant_at(&self, id: u16) -> u64 {
        assert!(
            id < self.geometry.participants,
            "a participant of this arena"
        );
        self.geometry.epochs + u64::from(id) * PARTICIPANT_BYTES
    }

    fn local(&self, id: u16) -> &AtomicU64 {
        self.map.word(self.participant_at(id))
    }

    /// The epoch that a participant announced last.
    pub(crate) fn announced(&self, id: u16) -> u64 {
        self.local(id).load(Ordering::Acquire)
    }

    /// Announces a moment without references, and returns the epoch for everything that was unlinked before.
    pub(crate) fn announce(&self, id: u16) -> u64 {
        // SYNC epoch: SeqCst, between our unlinking and the read of the epoch, and between the announcement and our next reads; with less, a
        // freer could miss the announcement of a reader that itself misses the unlinking (store buffering).
        fence(Ordering::SeqCst);
        let now = self.global().load(Ordering::SeqCst);
        self.local(id).store(now, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        now
    }

    pub(crate) fn announce_offline(&self, id: u16) {
        // SYNC epoch: SeqCst for the same reason, and Release of every read before.
        self.local(id).store(OFFLINE, Ordering::SeqCst);
        failpoint!("shm.epoch.offline");
    }

    /// The smallest epoch that an online participant has announced (the current one, if nobody is online); raises the global epoch if it can.
    /// What was retired in an earlier epoch may be reused.
    pub(crate) fn oldest(&self) -> u64 {
        let now = self.global().load(Ordering::SeqCst);
        let locals =
            (0..self.geometry.participants).map(|id| self.local(id).load(Ordering::SeqCst));
        let oldest = locals.filter(|&e| e != OFFLINE).min().unwrap_or(now);
        if oldest >= now {
            // SYNC epoch: a lost race means that somebody else raised it.
            let _ = self.global().compare_exchange(
                now,
                now.wrapping_add(1),
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            failpoint!("shm.epoch.raised");
        }
        oldest
    }

    fn intent_words(&self, id: u16) -> &[AtomicU64; 8] {
        self.map.line(self.participant_at(id) + 64)
    }

    /// Notes what is about to be done to a row, so that recovery can finish it.
    pub(crate) fn set_intent_uncounted(&self, id: u16, row: u32, live: u64) {
        let words = self.intent_words(id);
        // SYNC intent: as in `set_intent`.
        words[1].store(live, Ordering::Release);
        words[0].store(u64::from(row) + 1, Ordering::Release);
    }

    /// The same of a record that counts.
    pub(crate) fn set_intent(&self, id: u16, intent: Intent) {
        failpoint!("shm.broken.no_intent", return);
        let [row, old, blocks_0, blocks_1, values @ ..] = self.intent_words(id);
        // SYNC intent: Release; `row` is 0 before (or the same row, of which an earlier word changed under us), so whoever reads `row` afterwards reads
        // what belongs to it. All precede the CAS of the control word and the stores to the cells.
        old.store(intent.old, Ordering::Release);
        let pair = |low: usize| {
            let [(low, _), (high, _)] = [intent.cells.cells[low], intent.cells.cells[low + 1]];
            u64::from(low) | u64::from(high) << 32
        };
        blocks_0.store(pair(0), Ordering::Release);
        blocks_1.store(pair(2), Ordering::Release);
        for ((_, value), word) in intent.cells.iter().zip(values) {
            word.store(value, Ordering::Release);
        }
        let count = (intent.cells.count as u64) << 32;
        row.store((u64::from(intent.row) + 1) | count, Ordering::Release);
    }

    pub(crate) fn clear_intent(&self, id: u16) {
        // SYNC intent: Release, after everything that the intent was about.
        self.intent_words(id)[0].store(0, Ordering::Release);
    }

    pub(crate) fn intent(&self, id: u16) -> Option<Intent> {
        let [row, old, blocks_0, blocks_1, values @ ..] = self.intent_words(id);
        let word = row.load(Ordering::Acquire);
        let row = (word as u32).checked_sub(1)?;
        let mut cells = Staged::NONE;
        let blocks = [blocks_0, blocks_1]
            .map(|pair| pair.load(Ordering::Acquire))
            .map(|pair| [pair as u32, (pair >> 32) as u32]);
        let counted = blocks.as_flattened().iter().zip(values);
        for (block, value) in counted.take((word >> 32) as usize) {
            cells.push(*block, value.load(Ordering::Acquire));
        }
        Some(Intent {
            row,
            old: old.load(Ordering::Acquire),
            cells,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::{Arena, Layout, ParticipantId};

    #[test]
    fn a_grace_period_waits_for_everybody_who_was_online() {
        let mut layout = Layout::new(0, 2, 1, 1);
        layout.limit = layout.least_limit();
        let arena = Arena::heap(&layout, [7; 16]).unwrap();
        let [mut a, mut b, c] = [0, 1, 2].map(|id| arena.participant(ParticipantId(id)));
        a.online();
        b.online();
        let grace = c.grace();
        let over = |c: &crate::Participant| (0..4).any(|_| c.is_over_since(grace));
        assert!(!over(&c));
        a.quiescent();
        assert!(!over(&c), "b may still hold something");
        b.offline();
        a.quiescent();
        assert!(over(&c));
        let grace = c.grace();
        a.offline();
        assert!((0..4).any(|_| c.is_over_since(grace)), "nobody is online");
    }
}
