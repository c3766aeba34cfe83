//! Deaths at every instruction of an operation on the arena, for tests.
//!
//! A child process is stepped through the operation by ptrace. After **each instruction** the arena is compared with what it was before it; a kill there leaves
//! exactly these bytes, since everything else that the process had dies with it. So each different content is brought back once, in a twin of the arena, recovered
//! and judged, and counts for all the instructions during which it lasted.
//!
//! [`Pace::Instruction`] steps through each of them; [`Pace::Store`] only stops after those that store into the arena, which is all that can make a difference, and
//! is a hundred times faster.
//!
//! | module | its part |
//! |---|---|
//! | [`twin`] | a second arena with the same content |
//! | [`mod@walk`] | one process, stepped: all contents in between |
//! | [`judge`] | recovery, and whether all or nothing happened |
//! | [`mod@beside`] | real kills, beside a process that works on the same keys |
//! | [`history`] | what several processes asked and were told; is there an order that explains it? |
//! | [`hammer`] | those processes, killed at random |
//!
//! To compare a whole arena after each instruction would take too long. The pages that an operation writes are found out first, by a run in which the arena is
//! mapped read-only and each first store into a page faults.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

pub mod beside;
pub mod hammer;
pub mod history;
pub mod judge;
pub mod twin;
pub mod walk;

pub use beside::{Deaths, Dice, Operation, Rival, beside};
pub use judge::{Case, Facts, Leaves, Report, before_and_after, exhaust, facts, settle};
pub use twin::Twin;
pub use walk::{Pace, Walk, spawn, walk};
