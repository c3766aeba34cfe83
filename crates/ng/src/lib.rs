//! Media control: rtpengine's `ng` protocol, without a socket, a clock or chance of its own.
//!
//! [`Client`] is the machine of one slot. A question goes in ([`Question`]), and its [`Outcome`] comes out when an engine has answered or
//! the deadline has come; in between it sends (outputs) and hears (inputs).
//!
//! - [`bencode`]: the encoding; a codec of our own, its head says why;
//! - [`command`]: offer, answer, delete, ping as bytes, with the options that an operator knows ([`Side`], [`Profile`]);
//! - `reply`: what an engine says;
//! - `client`, `engine`: questions under way with their retransmissions and deadlines, choice among engines, health and breaker;
//! - [`body`]: where the SDP is in a body, which may be a multipart.
//!
//! What a stranger can send, and what it meets: a datagram counts only if it comes from the engine that was asked, by a socket that hears
//! nobody else, and carries the cookie of a question under way; a cookie is drawn with a key that is the arena's secret. Nesting, size and
//! the number of questions are bounded.
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

pub mod bencode;
pub mod body;
mod client;
pub mod command;
mod engine;
mod reply;

pub use client::{
    Answer, Client, Input, Member, Outcome, Outputs, Probe, QUESTIONS_MAX, Question, Settings,
    Tally,
};
pub use command::{Dtls, Exchange, Family, Ice, Profile, Side, Transport, Verb};
pub use reply::{DATAGRAM_MAX, Reply, ReplyError};
