//! Named places in the code at which a test has it die, hang or fail.
//!
//! ```
//! # fn f() -> Result<(), ()> {
//! failpoint::failpoint!("shm.insert.linked");
//! failpoint::failpoint!("shm.block.allocated", Err(()));
//! # Ok(())
//! # }
//! ```
//!
//! Without the feature `enabled` (of the program `tandem`: `failpoints`) both lines compile to nothing. With it, a point asks
//! - the hook of its thread, if it has one (`hook`): for a simulation that decides by itself;
//! - else what the environment says when the process meets its first point:
//!
//! ```text
//! TANDEM_FAILPOINTS="shm.insert.linked=kill@3;worker.served=segv-if:X-Poison: yes;supervisor.spawn=sleep:200"
//!
//! name=KIND[@N|@once][-if:TEXT]     KIND   abort | panic | kill | segv | stop | hang | error | sleep:MS
//!                             @N     only the Nth time (of those that the condition holds), counted in each process; else each time
//!                             @once  only the first time in all processes, which they tell by a file in the folder TANDEM_FAILPOINTS_ONCE
//!                             TEXT   only while the message that the thread has at hand contains it
//! ```
//!
//! `kill` and `segv` end the process as SIGKILL and SIGSEGV do, `stop` stops it as SIGSTOP does, `hang` never comes back, `error` has
//! the function return the point's second argument, and does nothing at a point that has none. What the environment has a point do is told on standard
//! error first: `failpoint NAME: Kill`.
//!
//! A name exists once, and [`NAMES`] has them all: `cargo xtask tidy` compares. A name or action that does not exist ends the process.

#![forbid(unsafe_code)]

#[cfg(feature = "enabled")]
mod enabled;
mod names;
#[cfg(feature = "enabled")]
mod plan;

#[cfg(feature = "enabled")]
pub use enabled::{Action, Hooked, hit, hook, set_at_hand};
pub use names::NAMES;

/// Whether points do anything.
pub const ENABLED: bool = cfg!(feature = "enabled");

/// A point, see the head of this crate.
#[cfg(feature = "enabled")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::hit($name);
    };
    // Of a function that returns nothing.
    ($name:literal, return) => {
        if $crate::hit($name) {
            return;
        }
    };
    ($name:literal, $error:expr) => {
        if $crate::hit($name) {
            return $error;
        }
    };
}

/// A point, see the head of this crate; compiled to nothing here.
#[cfg(not(feature = "enabled"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
    ($name:literal, return) => {};
    ($name:literal, $error:expr) => {};
}

/// Says which message the thread serves from now on, for conditions.
#[cfg(feature = "enabled")]
#[macro_export]
macro_rules! at_hand {
    ($bytes:expr) => {
        $crate::set_at_hand($bytes);
    };
}

/// Says which message the thread serves from now on; compiled to nothing here.
#[cfg(not(feature = "enabled"))]
#[macro_export]
macro_rules! at_hand {
    ($bytes:expr) => {};
}
