//! What std lacks: the shared monotonic instant, a seeded generator, keyed hashes, text of numbers.
//!
//! - [`Instant`]: nanoseconds of CLOCK_MONOTONIC, the same in every worker. This crate never reads a clock: `os::now` does. [`Moment`]: the same, and what was before its zero.
//! - [`hash`]: keyed hashes over several parts, the same on every machine and in every release.
//! - [`Rng`]: a small generator whose whole future is its seed; not for secrets.
//! - [`text`]: base32 and hex into a caller's bytes, without allocation, and their strict decoders.
#![forbid(unsafe_code)]

pub mod hash;
mod instant;
mod rng;
pub mod text;

pub use instant::{Instant, Moment};
pub use rng::Rng;
