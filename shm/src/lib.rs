//! The arena: bytes that outlive a worker, their rows, indexes, reclaim and recovery. It knows nothing of SIP.
//!
//! A worker may die between any two instructions. What makes that harmless is one rule: **each object has one authoritative 64-bit word**, every
//! change of it is one compare-and-swap, and everything else (index entries, free lists, limbo lists, intents, counters of free slabs) is a hint that can
//! be lost, doubled or stale.
//!
//! | module | its part |
//! |---|---|
//! | [`ctl`] | the words: rows, blocks, index entries |
//! | `layout` | superblock, geometry, versions |
//! | [`arena`], `paging` | create, attach, seals; small and huge pages |
//! | `slab` | who owns which 64 KiB; rows and blocks in them |
//! | `index` | from a key to its row; why never two LIVE |
//! | `epoch` | when memory may be reused; intents |
//! | [`participant`] | one thread's way in: allocation, limbo |
//! | [`ops`], `remove` | find, insert, replace, remove, step by step |
//! | `counts` | records that count in cells, with limits |
//! | `blocks` | blocks from allocation to their row and back |
//! | [`walk`] | scans, an heir's rows, expiry |
//! | [`recover`] | sweep, scrub, recovery of the dead |
//! | [`mod@audit`] | every invariant, checked |
//! | [`directory`] | which processes there are, for the next supervisor |
//! | [`rx`], [`mailbox`], [`slot`], [`latency`] | receive buffers and their journal, mail between slots, headers and counters, how long messages take |
//! | [`events`] | what has happened, as a stream |
//! | [`image`], [`carry`] | records, and all else, out of an arena and into another, under the same names |

pub mod arena;
pub mod audit;
mod blocks;
mod body;
pub mod carry;
mod counts;
pub mod ctl;
mod describe;
pub mod directory;
mod epoch;
pub mod events;
pub mod id;
pub mod image;
mod index;
pub mod latency;
mod layout;
#[cfg(all(test, loom))]
mod loom;
pub mod mailbox;
mod map;
pub mod ops;
mod paging;
pub mod participant;
pub mod recover;
mod remove;
pub mod rx;
mod slab;
pub mod slot;
pub mod walk;

pub use arena::{Arena, AttachError, CreateError, TableUsage, Usage};
pub use audit::{Violation, audit};
pub use blocks::BlockMut;
pub use body::{CHILDREN_MAX, HEADER_BYTES, KEY_MAX};
pub use carry::{Carried, CarryError};
pub use counts::{CLOSED, Count};
pub use ctl::Version;
pub use directory::{Directory, Entry, Head, Place};
pub use epoch::COUNTS_MAX;
pub use events::{EVENT_WORDS, Event, Followed, Follower};
pub use id::{Block, BufferRef, ParticipantId, RowRef, SlotId, TableId};
pub use image::{Image, Imported, Importer, Rows};
pub use latency::Latencies;
pub use layout::{ABI_MAJOR, ABI_MINOR, CELLS, Layout, LayoutError, SLOTS_MAX, TABLES_MAX};
pub use mailbox::{Doorbell, Mail, MailboxFull};
pub use ops::{BODY_MAX, InsertError, New, ReplaceError, Reserved, RowMeta};
pub use paging::{Collapsed, HugePages, Paging};
pub use participant::{AllocClass, Full, Grace, Participant, Record};
pub use recover::Recovered;
pub use rx::{RX_HEADER_BYTES, RxMeta, RxPool, RxState};
pub use slot::{Cells, SlotHeader};
pub use walk::Cursor;
