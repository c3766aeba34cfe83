//! Where a SIP URI leads: RFC 3263 over DNS, without a socket, a clock or chance of its own.
//!
//! [`Resolver`] is the machine. A target goes in, hops come out: at once if hosts file, cache or the target itself know them, else
//! when the servers have answered or the deadline has come. In between it asks (outputs) and hears (inputs).
//!
//! - `plan`: RFC 3263 itself, a function of what is known;
//! - `resolver`, `flight`: resolutions that wait, questions under way, their retries and time-outs;
//! - `shares`: how many of a source's may wait;
//! - `cache`, `order`, `blacklist`, `servers`: lifetimes (RFC 2308, 8767), RFC 2782, dead hops, health of the servers;
//! - `wire`: questions and answers as bytes, by `hickory-proto`;
//! - `hosts`: the hosts file; `resolv_conf`: what the system says about servers.
//!
//! What a stranger can send, and what it meets: an answer counts only if it comes from the server and by the socket that were asked,
//! with the id, the type and the name of the question, the name spelled with the same upper and lower case. Records of other names are
//! ignored, addresses beside SRV records are good for these records only. Chains of aliases, lists of records, the cache, questions and
//! resolutions under way are all bounded, and so is the work of one step.
#![forbid(unsafe_code)]

mod blacklist;
mod cache;
mod facts;
mod flight;
mod hosts;
mod order;
mod plan;
mod resolv_conf;
mod resolver;
mod servers;
mod settings;
mod shares;
mod wire;

pub use hosts::Hosts;
pub use plan::{HOPS_MAX, Host, PORT_DEFAULT, Rank, Reason, Target};
pub use resolv_conf::{Listed, ResolvConf};
pub use resolver::{Answer, Input, LANES, Outputs, Resolver, Tally};
pub use settings::{Families, Settings};
