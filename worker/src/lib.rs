//! What a worker process runs: reactors, and everything wired together. It decides nothing itself.
//!
//! - `process`: the control thread: takes orders from the supervisor, answers what needs the tables.
//! - `slot`: a reactor thread: one slot, one ring, one [`proxy::Proxy`]; its turn.
//! - `takeover`: how a slot begins: recovery, adoption, the journal of what its predecessor had read.
//! - `policy`, `active`, `accounts`, `names`: the configuration, and what the machine says about names, put to work.
//! - `destinations`: groups, their probes and names.
//! - `lookup`: a slot's resolver and its sockets to name servers.
//! - [`helper`]: processes beside the workers, for one task each: snapshots.
//! - `log`, `lines`: what the machine notes, as lines, and how they are written without anybody waiting for it.
//! - `records`: records of calls, from the arena into a file.
//! - [`rules`]: the configuration put to work without a process, for simulations.
//! - `follow`: what happens to calls, as a stream for the command line.
//! - `queries`: table commands of the command line.

#![forbid(unsafe_code)]

mod accounts;
mod active;
mod addresses;
mod call_lines;
mod calls;
mod carry;
pub mod compile;
mod destinations;
pub mod explain;
mod follow;
pub mod helper;
mod hiding;
mod inbox;
mod keepalive;
mod lines;
mod log;
mod lookup;
mod media;
mod names;
pub mod numbers;
mod orphan;
mod outside;
mod overload;
mod policy;
mod process;
mod quarantine;
mod queries;
mod records;
pub mod rules;
mod slot;
mod takeover;

pub use lines::{Line, last_lines, line, write_behind};
pub use process::{run, thread_name};
