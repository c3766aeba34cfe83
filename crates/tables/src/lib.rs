//! Lays bindings, transactions and counters onto the arena: typed rows over `shm`'s untyped ones.
//!
//! | table | key | body | changed by |
//! |---|---|---|---|
//! | [`LOCATION`] | canonical AOR | the whole binding set (`registrar::BindingSet`) | any slot, by compare-and-swap of the body |
//! | [`TRANSACTION`] | server transaction key (RFC 3261 §17.2.3) | `proxy`'s context | its owner slot only |

#![forbid(unsafe_code)]

pub mod counters;
pub mod location;

pub use counters::Counter;
pub use location::{Location, UpdateError};

use shm::TableId;

/// AOR to bindings.
pub const LOCATION: TableId = TableId(0);
/// What an heir needs to go on with a transaction.
pub const TRANSACTION: TableId = TableId(1);
/// Dialogs (RFC 3261 §12). The table is there to be counted; dialog state, which fills it, is not kept yet.
pub const DIALOG: TableId = TableId(2);
/// How many tables there are.
pub const TABLES: u8 = 3;
