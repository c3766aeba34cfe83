//! New work beyond what a slot can do (RFC 6357 names the problem; this is local control, §5.1 there).
//!
//! A server that takes every call beyond its capacity ends none: what it reads, it answers too late, and each retransmission is
//! more work. So a slot measures how much of its time is taken, and lets in as much *new* work as leaves a little of it; what
//! belongs to calls that run, and responses, are never judged. Three steps, each cheaper for the slot than the one before:
//!
//! ```text
//! refuse    503 with Retry-After: the caller knows at once          for at most a tenth of the time
//! drop      read, and not answered: the caller tries again          what is beyond that
//! filter    a share of INVITEs is not even read (the kernel drops)  so that little is dropped after reading;
//!           of those only who send most, if a few make up most of it
//! ```
//!
//! - [`Valve`]: from occupancy to the share of new work that is let in.
//! - `Fair`: which of it: the sources that ask for most are cut first, so that one that floods takes nothing from the others.
//! - [`Gate`]: both, and the three steps, in windows of [`WINDOW`].
//! - [`Budget`]: how many retransmissions of our own a slot in distress may add.
//!
//! Deterministic: time and the seed are handed in.
#![forbid(unsafe_code)]

mod budget;
mod fair;
mod gate;
mod sketch;
mod valve;

pub use budget::Budget;
pub use gate::{Filter, Gate, Policy, Verdict, WINDOW};
pub use valve::Valve;

/// A share of everything: all of it. Shares are counted in parts of this.
pub const ALL: u32 = 1 << 16;

/// `share` of `whole`.
fn part(whole: u64, share: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(share) / u128::from(ALL)).unwrap_or(u64::MAX)
}
