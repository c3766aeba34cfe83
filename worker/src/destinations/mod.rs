//! Groups of destinations: who gets a request, who is asked whether he is there, what names lead to.
//!
//! - `groups`: what the configuration says and what the arena knows, ready for one slot to choose from;
//! - `reports`: what requests and probes have told, on its way into the arena;
//! - `commands`: `tandem destinations`;
//! - `keeper`: probes, names and rows that nobody needs any more; each destination has one slot that looks after it, by its URI.
//!
//! What is known of a destination lies in its row of `balancer`, so that all slots agree on it, and so that it outlives them. Here is only what a
//! slot can lose: whose turn it is, when to look again, statistics of the last quarter of a second.

mod commands;
mod groups;
mod keeper;
mod reports;
#[cfg(test)]
mod tests;

pub(crate) use commands::{change, list};
pub(crate) use groups::{Chosen, Groups};
pub(crate) use keeper::Keeper;
pub(crate) use reports::Reports;
