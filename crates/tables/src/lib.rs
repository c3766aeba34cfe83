//! Lays bindings, transactions, dialogs and whatever else must outlive a worker onto the arena: typed rows over `shm`'s untyped ones.
//!
//! | table | key | body | changed by |
//! |---|---|---|---|
//! | [`LOCATION`] | canonical AOR | the whole binding set (`registrar::BindingSet`) | any slot, by compare-and-swap of the body |
//! | [`TRANSACTION`] | server transaction key (RFC 3261 §17.2.3) | `proxy`'s context | its owner slot only |
//! | [`DIALOG`] | Call-ID and tags; alias: its id | a dialog ([`mod@dialog`]) | any slot, by compare-and-swap of the body |
//! | [`BALANCER`] | kind and name | a resource, its counter cells as a child ([`balancer`]) | any slot, by compare-and-swap of the body |
//! | [`KV`] | the script's | a value ([`kv`]) | any slot, by compare-and-swap of the body |
//! | [`CONNECTION`] | its number; alias: transport and peer | a connection ([`connection`]) | its owner only |
//! | [`SEAT`] | place of a dialog, attempt | which destination of a group the call has a seat at ([`seat`]) | any slot, made and removed only |
//! | [`CDR`] | id of a dialog | the record of a call that is over ([`cdr`]) | nobody: made once, removed once |
//! | [`QUARANTINE`] | keyed hash of a message | who sent it, how many workers died of it, its bytes ([`quarantine`]) | heirs, and who drops it |
//! | [`MEDIA`] | a dialog's id | what an engine has for it ([`media`]) | any slot, by compare-and-swap of the body |
//!
//! What is too small and too short-lived for a record lies on the arena's board ([`board`]): which uses of a digest's nonce there have been
//! ([`Nonces`]), and who failed to prove who he is ([`Attempts`]).
//!
//! How a row is written down, and how two releases read each other's: [`row`]. Where every field lies is in a golden file of the tests.

#![forbid(unsafe_code)]

pub mod attempts;
pub mod balancer;
pub mod board;
pub mod calls;
pub mod cdr;
pub mod connection;
pub mod counters;
pub mod dialog;
pub mod kv;
pub mod location;
pub mod media;
pub mod nonces;
pub mod quarantine;
pub mod row;
pub mod seat;
mod sweep;
pub mod transaction;

pub use attempts::Attempts;
pub use balancer::Balancer;
pub use cdr::Cdrs;
pub use connection::Connections;
pub use counters::Counter;
pub use dialog::Dialogs;
pub use kv::Kv;
pub use location::{Location, UpdateError};
pub use media::MediaCalls;
pub use nonces::Nonces;
pub use quarantine::Quarantine;
pub use seat::Seats;
pub use sweep::Sweep;

use shm::TableId;
use stdx::Instant;

/// AOR to bindings.
pub const LOCATION: TableId = TableId(0);
/// What an heir needs to go on with a transaction.
pub const TRANSACTION: TableId = TableId(1);
/// Dialogs (RFC 3261 §12), by Call-ID and tags, by their id, or by the row that our Record-Route names.
pub const DIALOG: TableId = TableId(2);
/// What is counted: destinations, domains, users, profiles.
pub const BALANCER: TableId = TableId(3);
/// String keys to values that expire.
pub const KV: TableId = TableId(4);
/// Connections of stream transports.
pub const CONNECTION: TableId = TableId(5);
/// Messages that workers died of, by the hash of their content.
pub const QUARANTINE: TableId = TableId(6);
/// Calls that an engine has media ports for.
pub const MEDIA: TableId = TableId(7);
/// Seats of calls at destinations.
pub const SEAT: TableId = TableId(8);
/// Records of calls that are over.
pub const CDR: TableId = TableId(9);
/// How many tables there are. New ones go to the end: the number is part of the arena's layout, the order of what is in it.
pub const TABLES: u8 = 10;

/// The tables whose records outlive the server: a snapshot has them, in this order. How far records of calls are written (`KV`) comes before the dialogs, and
/// those before their records: see [`cdr`].
pub const KEPT: [TableId; 5] = [KV, LOCATION, DIALOG, MEDIA, CDR];

/// What people call the tables, by id.
const NAMES: [&str; TABLES as usize] = [
    "location",
    "transaction",
    "dialog",
    "balancer",
    "kv",
    "connection",
    "quarantine",
    "media",
    "seat",
    "cdr",
];

/// The name of a table, as `tandem status` and the documentation spell it; `None` if there is no such table.
pub fn name(table: TableId) -> Option<&'static str> {
    NAMES.get(usize::from(table.0)).copied()
}

/// A record's payload with every time in it moved by `nanos`: for an arena whose monotonic clock has another zero, after a boot. The record was `seen` last then, by the clock
/// before. Its own `expires_at` is not in here. `None`: this release can't read the payload. A table without instants in its payload needs no arm.
pub fn shift(table: TableId, payload: &[u8], seen: Instant, nanos: i64) -> Option<Vec<u8>> {
    match table {
        LOCATION => registrar::shift(payload, nanos).ok(),
        DIALOG => dialog::shift(payload, seen, nanos),
        BALANCER => row::shift::<balancer::ResourceRow>(payload, nanos),
        KV => row::shift::<kv::KvRow>(payload, nanos),
        CONNECTION => row::shift::<connection::ConnectionRow>(payload, nanos),
        MEDIA => row::shift::<media::MediaRow>(payload, nanos),
        SEAT => row::shift::<seat::SeatRow>(payload, nanos),
        CDR => row::shift::<cdr::CdrRow>(payload, nanos),
        _ => Some(payload.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_name() {
        let tables = [
            LOCATION,
            TRANSACTION,
            DIALOG,
            BALANCER,
            KV,
            CONNECTION,
            QUARANTINE,
            MEDIA,
            SEAT,
            CDR,
        ];
        let names = tables.map(|table| name(table).unwrap());
        assert_eq!(names, NAMES);
        assert_eq!(name(TableId(TABLES)), None);
    }
}
