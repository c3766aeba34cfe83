//! The file that carries the arena's records over a stop or a power cut. What is here only turns records into bytes and back; who opens, syncs and renames
//! files is the supervisor's and its helper's business.
//!
//! ```text
//! header   magic "tandemsn" | format u32 | header bytes u32 | wall clock ns u64 | monotonic clock ns u64 | boot id 16
//!          flags u64 (1: exact) | 0 u64 | 0 u64 | 0 u32 | crc u32                                            80 bytes
//! chunk    kind u32 | payload bytes u32 | number u32 | records u32 | crc u32 | payload
//! ...
//! end      a chunk of kind "end1": records u64 | chunks u64
//! ```
//!
//! Numbers are little-endian, checksums CRC-32C. A chunk's checksum starts from the header's, so that a chunk of an older snapshot in the same place is no chunk of
//! this one. Nothing may follow the end.
//!
//! ```text
//! record   bytes u32 | table u8 | version u8 | flags u8 | children u8 | row u32 | generation u32 | expires_at ns u64
//!          owner u16 | key bytes u16 | alias bytes u16 | 1 with an alias u16 | payload bytes u32 | bytes of each child u32
//!          key | alias | payload | children
//! ```
//!
//! A child that is a block of counter cells has the highest bit of its length set, and its total for bytes.
//!
//! Each record stands for itself: one of a table or a version that this release does not know is skipped and counted, as are chunks of an unknown kind. What a
//! payload means, and in which version, is its table's business. A file of a newer [`FORMAT`] is refused as a whole.
//!
//! - [`Encoder`] makes chunks; its owner writes them out when it suits, so that nobody writes to a disk with an epoch announced.
//! - [`Reader`] gives them back, each only after its checksum; [`check`] reads a whole file, before anything of it is loaded.
//! - [`Clock::shift_to`] says by how much the instants of a file must be moved.

#![forbid(unsafe_code)]

mod clock;
mod decode;
mod encode;

pub use clock::Clock;
pub use crc32c::crc32c_append as crc32c;
pub use decode::{Entry, ReadError, Reader, Summary, check};
pub use encode::{Encoder, Totals};

/// The version of everything that is not a record.
pub const FORMAT: u32 = 1;
/// The oldest that is read.
pub const FORMAT_OLDEST: u32 = 1;
/// The version of a record.
pub(crate) const RECORD_VERSION: u8 = 1;
const MAGIC: [u8; 8] = *b"tandemsn";
const HEADER_BYTES: usize = 80;
const CHUNK_HEADER_BYTES: usize = 20;
const RECORD_HEADER_BYTES: usize = 36;
const KIND_RECORDS: u32 = u32::from_le_bytes(*b"rec1");
const KIND_END: u32 = u32::from_le_bytes(*b"end1");
/// A chunk is closed when it has as much.
const CHUNK_BYTES: usize = 128 << 10;
/// No chunk has more: one byte less than [`CHUNK_BYTES`], and the largest record.
const CHUNK_BYTES_MAX: usize = 8 << 20;
/// A record without expiry.
const NEVER: u64 = u64::MAX;
const FLAG_EXACT: u64 = 1;
/// The bit of a child's length that says it is a block of cells.
const CELLS: u32 = 1 << 31;
/// A record with an alias, which may be empty.
const HAS_ALIAS: u16 = 1;

/// A body of 64 KiB and 40 children of 64 KiB each are the most that a record has.
const _: () = assert!(CHUNK_BYTES + (shm::CHILDREN_MAX + 2) * 65536 < CHUNK_BYTES_MAX);

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// When it was begun.
    pub clock: Clock,
    /// Nobody changed anything while it was taken.
    pub exact: bool,
}
