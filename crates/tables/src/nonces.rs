//! Which uses of a nonce there have been (RFC 7616 §3.4, `nc`), so that none is taken twice: by no slot and no worker, whoever died in between.
//!
//! ```text
//! note = word, three fingerprints | word = time u32 | highest u20 | window u12
//! ```
//!
//! A nonce has one place, by its hash, and is told from others there by the millisecond in which it was made (two of one millisecond in one place count
//! together, which can only refuse too much). The *word* has the highest count that was used, plus one, and which of the twelve before it were, so
//! that requests that overtake each other are taken once each. A use is taken by the CAS that notes it: of two that come with
//! the same count, from anywhere, one loses.
//!
//! The *fingerprint* at `count % 3` is that of the request which took the count. A retransmission has the same and is let in again, and so is the request at
//! hand when its worker died: the heir serves it anew. It is stored after the CAS; a death in between makes that one request a stranger, which
//! gets a new challenge.
//!
//! *Never full.* A newer nonce takes the place of an older one; the older is then [`Used::Unknown`], as stale as one whose time is over. So memory is bounded
//! and no use is ever forgotten: with `n` places and `r` first uses a second, a nonce keeps its place for some `n / r` seconds, which is what a
//! client has between two uses before it costs him another challenge. Only who has proved a password makes a note.
//!
//! The board of a new arena knows of nothing: where that arena has the key of an older one, [`Nonces::forget`] draws the line.

use stdx::Instant;
use sync::{AtomicU64, Ordering};

use crate::board::{NOTE, Parts, place};

/// Counts from here on are refused: the client is to take a new nonce.
pub const COUNT_MAX: u32 = (1 << HIGHEST_BITS) - 2;

const WINDOW_BITS: u32 = 12;
const HIGHEST_BITS: u32 = 20;
const WINDOW_MASK: u32 = (1 << WINDOW_BITS) - 1;
const HIGHEST_MASK: u32 = (1 << HIGHEST_BITS) - 1;
/// How far another reader's clock may be ahead. Unit: ms.
const SKEW: u32 = 10_000;
/// Tries before a use is refused; each that fails is somebody else's success.
const ATTEMPTS_MAX: usize = 64;

/// What came of a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// For the first time.
    Now,
    /// By this very request before.
    Again,
    /// By another request before: a replay, or a client that has lost count.
    Before,
    /// Nobody can tell any more.
    Unknown,
}

/// The uses of all nonces.
pub struct Nonces<'b>(Parts<'b>);

/// The word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    /// When the nonce was made. Unit: ms, modulo 49 days.
    time: u32,
    /// Plus one, so that no note is zero.
    highest: u32,
    /// Bit i: `highest - 1 - i` was used.
    window: u32,
}

impl Note {
    fn pack(self) -> u64 {
        u64::from(self.time) << 32 | u64::from(self.highest << WINDOW_BITS | self.window)
    }

    fn unpack(word: u64) -> Self {
        Self {
            time: (word >> 32) as u32,
            highest: (word as u32 >> WINDOW_BITS) & HIGHEST_MASK,
            window: word as u32 & WINDOW_MASK,
        }
    }

    /// With one use more; `None`: there was that one, or it is too far back to tell.
    fn with(self, count: u32) -> Option<Self> {
        if count > self.highest {
            let by = count - self.highest;
            let window = match by {
                ..=WINDOW_BITS => (self.window << by | 1 << (by - 1)) & WINDOW_MASK,
                _ => 0,
            };
            return Some(Self {
                highest: count,
                window,
                ..self
            });
        }
        let bit = 1 << (self.highest - count).checked_sub(1)?.min(31);
        let free = bit & WINDOW_MASK != 0 && self.window & bit == 0;
        free.then_some(Self {
            window: self.window | bit,
            ..self
        })
    }

    /// How old its nonce is; what seems to come from the future is a moment old.
    fn age(self, now: u64) -> u32 {
        (now as u32).wrapping_add(SKEW).wrapping_sub(self.time)
    }
}

impl<'b> Nonces<'b> {
    pub fn of(board: &'b [AtomicU64]) -> Self {
        Self(Parts::of(board))
    }

    /// Notes a use of the nonce that was made at `made` (ms) and has this hash. `request` is the fingerprint of whole the request.
    pub fn take(&self, now: Instant, made: u64, hash: u64, count: u32, request: u64) -> Used {
        let now = now.as_nanos() / 1_000_000;
        // Relaxed: written before anybody serves.
        let floor = self
            .0
            .floor
            .map_or(u64::MAX, |floor| floor.load(Ordering::Relaxed));
        let note: Option<&[AtomicU64; NOTE]> = place(self.0.nonces, hash);
        let (Some([word, prints @ ..]), true) = (note, made > floor && count <= COUNT_MAX) else {
            return Used::Unknown;
        };
        let count = count + 1;
        let print = &prints[count as usize % prints.len()];
        let fresh = Note {
            time: made as u32,
            highest: count,
            window: 0,
        };
        for _ in 0..ATTEMPTS_MAX {
            // SYNC nonce-use: pairs with the release of whoever noted it, so that its fingerprint is not older.
            let seen = word.load(Ordering::Acquire);
            let old = Note::unpack(seen);
            let next = if seen != 0 && old.time == fresh.time {
                match old.with(count) {
                    Some(next) => next,
                    // SYNC nonce-print: pairs with the store below.
                    None if print.load(Ordering::Acquire) == request => return Used::Again,
                    None => return Used::Before,
                }
            } else if seen == 0 || old.age(now) > fresh.age(now) {
                fresh
            } else {
                return Used::Unknown;
            };
            // SYNC nonce-use: this is the moment of the use.
            let taken =
                word.compare_exchange(seen, next.pack(), Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                // SYNC nonce-print
                print.store(request, Ordering::Release);
                return Used::Now;
            }
        }
        Used::Unknown
    }

    /// Nothing is known of nonces that were made until now.
    pub fn forget(&self, now: Instant) {
        if let Some(floor) = self.0.floor {
            // Relaxed: before anybody serves.
            floor.store(now.as_nanos() / 1_000_000, Ordering::Relaxed);
        }
    }

    /// How many nonces have a place.
    pub fn places(&self) -> usize {
        self.0.nonces.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(words: usize) -> Vec<AtomicU64> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    const HASH: u64 = 0x1234_5678_9abc_def0;

    #[test]
    fn a_count_is_used_once_in_any_order() {
        let board = board(1024);
        let nonces = Nonces::of(&board);
        let take = |count| nonces.take(at(1000), 500, HASH, count, 1000 + u64::from(count));
        for count in [1, 2, 5, 3, 4, 20, 9, 0xff, 0xfe] {
            assert_eq!(take(count), Used::Now, "{count}");
        }
        for count in [1, 2, 3, 5, 20, 19, 9, 0xfe, 242] {
            assert_eq!(
                nonces.take(at(1000), 500, HASH, count, 7),
                Used::Before,
                "{count}"
            );
        }
        assert_eq!(take(243), Used::Now);
        assert_eq!(take(244), Used::Now);
        assert_eq!(take(COUNT_MAX), Used::Now);
        assert_eq!(take(COUNT_MAX + 1), Used::Unknown);
        assert_eq!(take(u32::MAX), Used::Unknown);
    }

    #[test]
    fn the_same_request_is_let_in_again() {
        let board = board(1024);
        let nonces = Nonces::of(&board);
        for count in [1, 2, 3] {
            let request = 100 + u64::from(count);
            assert_eq!(nonces.take(at(1000), 500, HASH, count, request), Used::Now);
        }
        for count in [1, 2, 3] {
            let request = 100 + u64::from(count);
            assert_eq!(
                nonces.take(at(1000), 500, HASH, count, request),
                Used::Again
            );
            assert_eq!(nonces.take(at(1000), 500, HASH, count, 9), Used::Before);
        }
        // Its print has made room for that of another; it is refused, not taken.
        assert_eq!(nonces.take(at(1000), 500, HASH, 4, 104), Used::Now);
        assert_eq!(nonces.take(at(1000), 500, HASH, 1, 101), Used::Before);
    }

    /// After any word that a death may leave: the use is noted, its print is not.
    #[test]
    fn a_death_behind_the_note_costs_a_challenge() {
        let board = board(1024);
        let nonces = Nonces::of(&board);
        assert_eq!(nonces.take(at(1000), 500, HASH, 1, 77), Used::Now);
        for word in &board {
            if word.load(Ordering::Relaxed) == 77 {
                word.store(0, Ordering::Relaxed);
            }
        }
        assert_eq!(nonces.take(at(1000), 500, HASH, 1, 77), Used::Before);
    }

    #[test]
    fn a_newer_nonce_takes_the_place_and_an_older_one_is_unknown() {
        let board = board(1024);
        let nonces = Nonces::of(&board);
        let take = |now, made| nonces.take(at(now), made, HASH, 1, 1);
        assert_eq!(take(1000, 500), Used::Now);
        assert_eq!(take(1000, 499), Used::Unknown);
        assert_eq!(take(1000, 501), Used::Now);
        assert_eq!(take(1000, 500), Used::Unknown);
        assert_eq!(nonces.take(at(1000), 501, HASH, 1, 2), Used::Before);
        // Its maker's clock was ahead of this reader's.
        assert_eq!(take(1000, 1003), Used::Now);
        assert_eq!(nonces.take(at(999), 1003, HASH, 1, 2), Used::Before);
        assert_eq!(take(1000, 502), Used::Unknown);
        // Weeks later.
        let later = 40 * 24 * 3600 * 1000;
        assert_eq!(take(later, later - 10), Used::Now);
        assert_eq!(take(later, later - 11), Used::Unknown);
    }

    #[test]
    fn what_an_arena_before_knew_is_unknown() {
        let board = board(1024);
        let nonces = Nonces::of(&board);
        nonces.forget(at(900));
        assert_eq!(nonces.take(at(1000), 900, HASH, 1, 1), Used::Unknown);
        assert_eq!(nonces.take(at(1000), 901, HASH, 1, 1), Used::Now);
        let nothing = Nonces::of(&[]);
        assert_eq!(nothing.take(at(1000), 901, HASH, 1, 1), Used::Unknown);
        assert_eq!(nothing.places(), 0);
    }

    /// Many threads with the same counts: each count is taken by one of them.
    #[test]
    fn of_those_who_come_at_once_one_is_taken() {
        let board = board(1024);
        let counts = 1..=2000_u32;
        let taken: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u64)
                .map(|thread| {
                    let (board, counts) = (&board, counts.clone());
                    scope.spawn(move || {
                        let nonces = Nonces::of(board);
                        counts
                            .filter(|&count| {
                                let request = thread << 32 | u64::from(count);
                                nonces.take(at(1000), 500, HASH, count, request) == Used::Now
                            })
                            .count()
                    })
                })
                .collect();
            let each = threads.into_iter().map(|thread| thread.join().unwrap());
            each.map(|taken| u32::try_from(taken).unwrap()).sum()
        });
        // One whose count has fallen out of the window before it came is refused, never taken twice.
        assert!(taken <= 2000, "{taken}");
        let nonces = Nonces::of(&board);
        for count in counts {
            assert_ne!(
                nonces.take(at(1000), 500, HASH, count, u64::MAX),
                Used::Now,
                "{count}"
            );
        }
    }
}
