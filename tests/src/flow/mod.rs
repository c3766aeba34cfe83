//! Flows as documents: call flows in text files, played against the server. `tests/flows/README.md` has the format.
//!
//! - [`syntax`]: what a file says; [`parse`] reads it, and every fault has file and line;
//! - [`pattern`]: texts with `...` and `$variables`;
//! - [`party`]: a user agent that fills in whatever a flow leaves out;
//! - [`rules`]: what every message of the server has to keep, written or not;
//! - [`hidden`]: the same with topology hiding on;
//! - [`engine`]: plays the steps over a [`engine::Stage`];
//! - [`real`]: the stage of real processes and UDP sockets;
//! - [`simulated`]: the stage of simulated time.

pub mod engine;
pub mod hidden;
pub mod parse;
pub mod party;
pub mod pattern;
mod place;
pub mod real;
pub mod rules;
pub mod simulated;
pub mod syntax;
