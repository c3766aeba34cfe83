//! RFC 3261 §16 as one machine: validate, route, fork, collect; the worker's brain.
//!
//! - [`Proxy`]: inputs in ([`Input`]), outputs out ([`Outputs`]); one for each slot.
//! - [`ask`]: what it asks of the outside, and the answers.
//! - `intake`, `request`: requests as they come (§16.3, §16.4, §17.2.3); `forward`, `copy`: on their way downstream (§16.5, §16.6).
//! - `serial`, `hops`: target after target by q, hop after hop of one target (§16.6, RFC 3263 §4.3).
//! - `response`, `redirect`, `cancel`, `time`: what comes back and what does not (§16.7, §16.8, §16.10); `upstream`, `local`: what the caller gets.
//! - `alias`: Contacts of parties of calls that are behind address translation.
//! - `keepalive`: what keeps the way to phones behind address translation open.
//! - `decide`, `registration`: what follows from answers (§10.3, §16.5); `authenticate`, `digest`, [`account`]: who asks (§22).
//! - `context`, `persist`, `settle`: one request on its way, on the heap and in the arena.
//! - `call`: dialogs on record, from the INVITE to the end; seats, session timers, what time and the operator want of calls.
//! - `media`: a message with SDP waits for the engine that relays the call.
//! - `hidden`: what neither side of a call is to learn of the other (see `topology`).
//! - `branch`, `call::place`: what we put into Via and Record-Route, and know again; `addresses`: which of our addresses those name.
//!
//! `NOTES.md` has the life of a request as a diagram.
//!
//! Everything that must outlive the worker is in the arena before anything that follows from it is sent. Nothing here has a
//! socket, a clock or a thread.

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

pub mod account;
mod addresses;
mod adopt;
mod alias;
pub mod ask;
mod authenticate;
mod branch;
mod call;
mod cancel;
mod context;
mod copy;
mod decide;
mod digest;
mod forward;
mod hidden;
mod hops;
mod intake;
mod io;
mod keepalive;
mod local;
mod media;
mod persist;
mod probe;
#[allow(clippy::module_inception, reason = "the machine has the crate's name")]
mod proxy;
mod redirect;
mod registration;
mod request;
mod response;
mod route;
mod serial;
mod settings;
mod settle;
mod step;
mod time;
mod unhidden;
mod upstream;

pub use account::{Account, Identities};
pub use addresses::{Addresses, Interface, Source};
pub use ask::{
    Admission, Answer, Ask, AskId, AskKind, Backup, CallClass, CallPlan, Decision, Destination,
    DialogProbe, Limit, Recorded, SessionTimer, Target,
};
pub use auth::Algorithms;
pub use context::ContextId;
pub use digest::local_name;
pub use hidden::Hiding;
pub use io::{
    Datagram, Disposition, Env, HopState, Input, Note, Outcome, OutcomeKind, Outputs, Send,
};
pub use keepalive::{KeepAlive, Kept};
pub use media::{MediaAsk, MediaSet, OnFailure, media_seed};
pub use probe::Probe;
pub use proxy::{Proxy, Question};
pub use registration::request_uri;
pub use route::literal_address;
pub use settings::{
    AuthPolicy, Domain, Forking, Listener, PORT_DEFAULT, Settings, Throttle, UriCheck,
};
