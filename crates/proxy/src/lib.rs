//! RFC 3261 §16 as one machine: validate, route, fork, collect; the worker's brain.
//!
//! - [`Proxy`]: inputs in ([`Input`]), outputs out ([`Outputs`]); one for each slot.
//! - [`ask`]: what it asks of the outside, and the answers.
//! - `request`, `forward`: requests on their way downstream (§16.3 to §16.6, §16.10, §16.11).
//! - `response`, `upstream`: responses on their way back (§16.7), and time (§16.8).
//! - `registration`: REGISTER and the look-up of users (§10.3, §16.5); `digest`: authentication (§22).
//! - `context`, `persist`: one request on its way, on the heap and in the arena.
//! - `branch`: the branches that lead responses back to their transactions.
//!
//! Everything that must outlive the worker is in the arena before anything that follows from it is sent. Nothing here has a
//! socket, a clock or a thread.

#![forbid(unsafe_code)]

pub mod ask;
mod branch;
mod context;
mod decide;
mod digest;
mod forward;
mod intake;
mod io;
mod local;
mod persist;
#[allow(clippy::module_inception, reason = "the machine has the crate's name")]
mod proxy;
mod registration;
mod request;
mod response;
mod route;
mod settings;
mod upstream;

pub use ask::{Admission, Answer, Ask, AskId, AskKind, Decision, Secret, Target};
pub use context::ContextId;
pub use io::{Datagram, Disposition, Env, Input, Outputs, Send};
pub use proxy::{Proxy, Question};
pub use route::literal_address;
pub use settings::{Domain, Listener, PORT_DEFAULT, Settings};
