//! Which destination of a group a call goes to, and which of them are healthy: no table, no socket, no clock.
//!
//! - [`Chooser`]: from what is known of the destinations at this moment to the ones to try, best first;
//! - [`Condition`]: what probes and requests say of one destination, and when that makes it down or up again;
//! - `spread`: consistent hashing (weighted rendezvous).
//!
//! Counting calls is not done here: a destination's calls are counted where they are admitted, in the arena, by whoever sends a call there. What is chosen here is
//! therefore an offer: a destination that has filled up meanwhile refuses, and the next one in the order is asked.
#![forbid(unsafe_code)]

mod choose;
mod health;
mod spread;

pub use choose::{Candidate, Chooser, Nobody, ORDER_MAX, Order, Policy};
pub use health::{Condition, Health, Probing, Rules};
pub use spread::identity;
