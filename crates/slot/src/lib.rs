//! A slot's loop, without sockets, clock and thread: what a worker's reactor and the simulation both run.
//!
//! ```text
//! turn   datagrams | mail | timers | late answers | housekeeping       each: step, answers, settle, dispatch
//! then   the turn's sends go out | turn_done is stored | the buffers are given back
//! ```
//!
//! The order is what makes a death harmless: a message's consequences are in the arena (settle) before they are on the wire, and its
//! buffer is given back only after that. Whoever finds the buffer serves it again and meets its transaction.
//!
//! - [`Slot`]: the loop; [`World`]: everything that it reaches beside the arena, by static calls;
//! - `takeover`: what a predecessor left ([`Inheritance`], [`recover`]), and its messages served again;
//! - `mail`: buffers handed to their owners, and back;
//! - `names`: what the resolver is asked and told;
//! - `quarantine`: deaths counted against messages, and what is dropped for them.

#![forbid(unsafe_code)]

mod mail;
mod names;
mod quarantine;
mod slot;
mod takeover;
mod world;

pub use names::{hop_input, target_of};
pub use quarantine::{Counted, Suspect};
pub use slot::Slot;
pub use takeover::{Heir, Inheritance, recover};
pub use world::{Entry, Point, World};
