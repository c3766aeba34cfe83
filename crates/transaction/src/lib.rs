//! The four machines of RFC 3261 section 17 as amended by RFC 6026.
//!
//! | machine | file | RFC |
//! |---|---|---|
//! | [`InviteClient`] | `invite_client.rs` | 3261 §17.1.1, 6026 §7.2 |
//! | [`NonInviteClient`] | `non_invite_client.rs` | 3261 §17.1.2 |
//! | [`InviteServer`] | `invite_server.rs` | 3261 §17.2.1, 6026 §7.1 |
//! | [`NonInviteServer`] | `non_invite_server.rs` | 3261 §17.2.2 |
//!
//! A machine carries no bytes: it says *resend*, and its owner knows what was sent last. Time is passed in,
//! deadlines are absolute, and a tick that comes early, late or twice is harmless. A terminated machine is
//! `None`. Each machine has a fixed-size image ([`IMAGE_BYTES`]) that outlives the worker, and `resume` for the heir
//! that finds it. [`key`] matches requests to server transactions (§17.2.3).

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod action;
mod image;
mod invite_client;
mod invite_server;
pub mod key;
mod non_invite_client;
mod non_invite_server;
mod timers;

#[cfg(test)]
mod table;

pub use action::{Actions, ClientAction, ClientInput, ServerAction, ServerInput};
pub use image::{IMAGE_BYTES, Image};
pub use invite_client::InviteClient;
pub use invite_server::InviteServer;
pub use non_invite_client::NonInviteClient;
pub use non_invite_server::NonInviteServer;
pub use timers::{Backoff, Reliability, Timers};
