//! Who failed, how often, and who is refused for it: over all slots, through the death of any worker. Failures to prove who one is, and keep-alives without an answer.
//!
//! ```text
//! note = tag u32 | count u8 | seconds u24, eight of them a bucket
//! ```
//!
//! The key is a keyed hash of whoever is counted: a source address, a user of one source address, or a binding. The bucket is chosen by its upper bits, the note in it by its
//! lower 32. `seconds` (of the monotonic clock, modulo 194 days) is when the counting began or, with `BANNED` as the count, until when
//! it is refused. Every change is one CAS; of several at once that lose, one failure may go uncounted.
//!
//! *Never full*: in a full bucket a new note takes the place of the one with the fewest failures, and of those who are banned never, as long as there is
//! another. A stranger is taken for another by 1 in 500 million.

use std::time::Duration;

use stdx::Instant;
use sync::{AtomicU64, Ordering};

use crate::board::{BUCKET, Parts, place};

/// As a count: refused.
const BANNED: u8 = u8::MAX;
const SECONDS_MASK: u32 = (1 << 24) - 1;
/// Tries before a failure goes uncounted.
const ATTEMPTS_MAX: usize = 16;

/// When somebody is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Failures; 254 at most.
    pub failures: u8,
    /// Within this time.
    pub window: Duration,
    /// For this time; 90 days at most.
    pub ban: Duration,
}

/// The failures of everybody.
pub struct Attempts<'b>(Parts<'b>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    tag: u32,
    count: u8,
    seconds: u32,
}

impl Note {
    fn pack(self) -> u64 {
        u64::from(self.tag) << 32
            | u64::from(self.count) << 24
            | u64::from(self.seconds & SECONDS_MASK)
    }

    fn unpack(word: u64) -> Self {
        Self {
            tag: (word >> 32) as u32,
            count: (word >> 24) as u8,
            seconds: word as u32 & SECONDS_MASK,
        }
    }

    /// Seconds until it is let in again; 0: it is not refused.
    fn refused(self, now: u32) -> u32 {
        let left = self.seconds.wrapping_sub(now) & SECONDS_MASK;
        // More than half of the circle lies behind us.
        let ahead = self.count == BANNED && left <= SECONDS_MASK / 2;
        if ahead { left } else { 0 }
    }

    fn age(self, now: u32) -> u32 {
        now.wrapping_sub(self.seconds) & SECONDS_MASK
    }
}

impl<'b> Attempts<'b> {
    pub fn of(board: &'b [AtomicU64]) -> Self {
        Self(Parts::of(board))
    }

    fn bucket(&self, key: u64) -> &'b [AtomicU64] {
        let bucket: Option<&'b [AtomicU64; BUCKET]> = place(self.0.attempts, key);
        bucket.map_or(&[], |bucket| bucket)
    }

    /// How long this one is refused still; `None`: it is not.
    pub fn refused(&self, now: Instant, key: u64) -> Option<Duration> {
        let now = seconds(now);
        let words = self.bucket(key).iter();
        // Relaxed, here and below: each note stands for itself.
        let notes = words.map(|word| Note::unpack(word.load(Ordering::Relaxed)));
        let left = notes
            .filter(|note| note.tag == key as u32)
            .map(|note| note.refused(now))
            .max()?;
        (left > 0).then(|| Duration::from_secs(left.into()))
    }

    /// Counts a failure; true if from now on it is refused.
    pub fn failed(&self, now: Instant, key: u64, limit: &Limit) -> bool {
        let (now, tag) = (seconds(now), key as u32);
        let window = whole_seconds(limit.window);
        for _ in 0..ATTEMPTS_MAX {
            let Some((word, seen)) = self.note_for(now, key, window) else {
                return false;
            };
            let old = Note::unpack(seen);
            let goes_on = seen != 0 && old.tag == tag && old.age(now) < window;
            if seen != 0 && old.tag == tag && old.refused(now) > 0 {
                return false;
            }
            let count = match goes_on && old.count != BANNED {
                true => old.count.saturating_add(1),
                false => 1,
            };
            let banned = count >= limit.failures.clamp(1, BANNED - 1);
            let next = match (banned, count) {
                (true, _) => Note {
                    tag,
                    count: BANNED,
                    seconds: now.wrapping_add(whole_seconds(limit.ban)),
                },
                (false, 1) => Note {
                    tag,
                    count,
                    seconds: now,
                },
                (false, _) => Note { count, ..old },
            };
            let done =
                word.compare_exchange(seen, next.pack(), Ordering::Relaxed, Ordering::Relaxed);
            if done.is_ok() {
                return banned;
            }
        }
        false
    }

    /// It has proved itself: its failures are forgotten, unless it is refused.
    pub fn succeeded(&self, now: Instant, key: u64) {
        let now = seconds(now);
        for word in self.bucket(key) {
            let seen = word.load(Ordering::Relaxed);
            let note = Note::unpack(seen);
            if seen != 0 && note.tag == key as u32 && note.refused(now) == 0 {
                // Somebody else's change is another failure, or the same.
                let _ = word.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// How many are refused at this moment.
    pub fn refused_now(&self, now: Instant) -> usize {
        let now = seconds(now);
        let words = self.0.attempts.iter().flatten();
        words
            .filter(|word| Note::unpack(word.load(Ordering::Relaxed)).refused(now) > 0)
            .count()
    }

    /// The note of this key, or the place for it.
    fn note_for(&self, now: u32, key: u64, window: u32) -> Option<(&'b AtomicU64, u64)> {
        let worth = |note: Note| match note {
            note if note.refused(now) > 0 => u32::from(BANNED),
            note if note.count == BANNED || note.age(now) >= window => 0,
            note => note.count.into(),
        };
        let notes = self
            .bucket(key)
            .iter()
            .map(|word| (word, word.load(Ordering::Relaxed)));
        notes.min_by_key(|&(_, seen)| match Note::unpack(seen) {
            _ if seen == 0 => 1,
            note if note.tag == key as u32 => 0,
            note => 1 + worth(note),
        })
    }
}

fn seconds(now: Instant) -> u32 {
    (now.as_nanos() / 1_000_000_000) as u32 & SECONDS_MASK
}

/// Rounded up.
fn whole_seconds(time: Duration) -> u32 {
    let up = u64::from(time.subsec_nanos() > 0);
    let seconds = time.as_secs().saturating_add(up);
    u32::try_from(seconds)
        .unwrap_or(u32::MAX)
        .min(SECONDS_MASK / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit {
        failures: 3,
        window: Duration::from_secs(60),
        ban: Duration::from_secs(300),
    };

    fn board(words: usize) -> Vec<AtomicU64> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn too_many_failures_within_the_window_are_refused_for_a_while() {
        let board = board(1024);
        let attempts = Attempts::of(&board);
        let (key, other) = (7 << 60 | 1, 7 << 60 | 2);
        let left = |now, key| attempts.refused(at(now), key).map(|left| left.as_secs());
        assert!(!attempts.failed(at(10), key, &LIMIT));
        assert!(!attempts.failed(at(20), key, &LIMIT));
        // The window began at 10 and is over.
        assert!(!attempts.failed(at(70), key, &LIMIT));
        assert!(!attempts.failed(at(71), key, &LIMIT));
        assert_eq!(left(71, key), None);
        assert!(attempts.failed(at(72), key, &LIMIT));
        assert_eq!((left(72, key), left(371, key)), (Some(300), Some(1)));
        assert_eq!((left(372, key), left(72, other)), (None, None));
        assert_eq!(attempts.refused_now(at(72)), 1);
        // What fails meanwhile does not prolong it, what succeeds does not end it.
        assert!(!attempts.failed(at(300), key, &LIMIT));
        attempts.succeeded(at(300), key);
        assert_eq!(left(300, key), Some(72));
        // Afterwards it begins anew.
        assert!(!attempts.failed(at(400), key, &LIMIT));
        assert!(!attempts.failed(at(401), key, &LIMIT));
        attempts.succeeded(at(402), key);
        assert!(!attempts.failed(at(403), key, &LIMIT));
        assert_eq!(attempts.refused_now(at(403)), 0);
    }

    #[test]
    fn a_flood_of_others_does_not_set_the_banned_free() {
        // One bucket.
        let board = board(8 + 64);
        let attempts = Attempts::of(&board);
        for _ in 0..3 {
            attempts.failed(at(10), 1, &LIMIT);
        }
        for key in 2..1000 {
            attempts.failed(at(11), key, &LIMIT);
        }
        assert!(attempts.refused(at(12), 1).is_some());
        // When everybody is banned, somebody has to go.
        for key in 2000..2100 {
            for _ in 0..3 {
                attempts.failed(at(13), key, &LIMIT);
            }
        }
        assert!(attempts.refused(at(14), 2099).is_some());
        assert_eq!(attempts.refused_now(at(14)), BUCKET);
    }

    #[test]
    fn the_clock_goes_round() {
        let board = board(1024);
        let attempts = Attempts::of(&board);
        let turn = u64::from(SECONDS_MASK) + 1;
        for _ in 0..3 {
            attempts.failed(at(turn - 100), 1, &LIMIT);
        }
        assert!(attempts.refused(at(turn + 199), 1).is_some());
        assert_eq!(attempts.refused(at(turn + 200), 1), None);
        assert_eq!(attempts.refused(at(turn + 10_000), 1), None);
    }

    #[test]
    fn an_arena_without_a_board_refuses_nobody() {
        let attempts = Attempts::of(&[]);
        assert!(!attempts.failed(at(1), 1, &LIMIT));
        assert_eq!(attempts.refused(at(1), 1), None);
    }
}
