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
}

impl Inner {
    fn global(&self) -> &AtomicU64 {
        self.map.word(AT_EPOCH)
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
        }
        oldest
    }

    fn intent_words(&self, id: u16) -> (&AtomicU64, &AtomicU64) {
        let at = self.participant_at(id) + 64;
        (self.map.word(at), self.map.word(at + 8))
    }

    /// Notes what is about to be done to a row, so that recovery can finish it.
    pub(crate) fn set_intent(&self, id: u16, intent: Intent) {
        let (row, old) = self.intent_words(id);
        // SYNC intent: Release; `row` is 0 before, so whoever reads `row` afterwards reads its `old`. Both precede the CAS of the control word.
        old.store(intent.old, Ordering::Release);
        row.store(u64::from(intent.row) + 1, Ordering::Release);
    }

    pub(crate) fn clear_intent(&self, id: u16) {
        // SYNC intent: Release, after everything that the intent was about.
        self.intent_words(id).0.store(0, Ordering::Release);
    }

    pub(crate) fn intent(&self, id: u16) -> Option<Intent> {
        let (row, old) = self.intent_words(id);
        match row.load(Ordering::Acquire) {
            0 => None,
            word => Some(Intent {
                row: (word - 1) as u32,
                old: old.load(Ordering::Acquire),
            }),
        }
    }
}
