//! An exhaustive model of the arena's protocol: every interleaving, every death.
//!
//! `shm` says in its module heads what survivors see after each step of each operation. Here the same steps are played on a small memory,
//! by two or three participants, in **every** order, with a death (or two) at **every** step, and a recovery that may die as well. One step is one access
//! of one shared word; memory is sequentially consistent (what weaker memory adds is loom's and the fences' business).
//!
//! | module | its part | stands for |
//! |---|---|---|
//! | [`memory`] | rows, blocks, entries, epochs, intents, cells | `shm::ctl`, `shm::slab`, `shm::layout` |
//! | [`actor`] | a participant: its program, its place in it, its limbo | `shm::participant` |
//! | [`records`] | find, insert, replace, remove, with their helping | `shm::ops`, `shm::index` |
//! | [`upkeep`] | quiescence, sweep, scrubber, recovery | `shm::epoch`, `shm::recover` |
//! | [`properties`] | what must hold always, and once everything has settled | `shm::audit` |
//! | [`mod@search`] | all reachable states | |
//! | [`broken`] | protocols with one thing left out | the proof that the properties bite |
//!
//! Modelled: generations and the reuse of rows and blocks after their grace period; two indexes for each record (key, alias), shown by one CAS; bodies
//! that are replaced, with a child that stays or goes; intents; a counted cell for each participant, with the winner of a removal in the control
//! word; helping; recovery by an heir under the dead one's number or by a party of its own. Left out, because it is no
//! protocol between participants: slabs and free lists (each participant has its rows and blocks), hash values and tags (a name is its own), expiry.

#![forbid(unsafe_code)]

pub mod actor;
pub mod broken;
pub mod memory;
pub mod properties;
pub mod records;
pub mod search;
pub mod upkeep;

pub use actor::{Config, Operation, Recovery};
pub use broken::Broken;
pub use memory::Names;
pub use search::{Outcome, search};
