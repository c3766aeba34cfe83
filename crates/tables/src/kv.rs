//! The `kv` table: string keys to values that expire, for scripts and for limits of their own making.
//!
//! ```text
//! key = the caller's bytes | payload = KvRow, then the value: its bytes, or eight of them if it is a number
//! ```
//!
//! Every operation takes effect at one CAS of the row's control word (`shm::ops`) or at the load of it. Those that depend on what they saw
//! (`add`, `compare_and_set`, `put_if_absent`) publish in the version that they saw, and start again if somebody was quicker, [`ATTEMPTS_MAX`] times.
//! A failed attempt means that another one went through, so that together they always get on.
//!
//! An entry that has expired is no entry, whether or not it has been swept up yet. A death between any two steps leaves the old entry or the new one.
//!
//! *Full*: a new key is refused. To overwrite, to add to, to delete one that is there goes on, from what is kept back for changes.

use std::fmt;
use std::str::FromStr;

use shm::{Cursor, InsertError, Participant, Record, ReplaceError, RowMeta, RowRef, Version};
use stdx::Instant;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::KV;
use crate::row::{Header, row};

/// Bytes of a key at most.
pub const KV_KEY_MAX: usize = 512;
/// Bytes of a value at most: 64,984. With the longest key, and the heads of body and row, it fills the largest block of the arena.
pub const KV_VALUE_MAX: usize = shm::BODY_MAX - shm::HEADER_BYTES - KV_KEY_MAX - size_of::<KvRow>();
const _: () = assert!(KV_VALUE_MAX == 64_984);

/// Attempts before an operation gives up.
pub const ATTEMPTS_MAX: usize = 64;

/// `kind` of a value that is bytes.
const BYTES: u8 = 0;
/// `kind` of a value that is a number.
const INTEGER: u8 = 1;

row! {
    /// The header of an entry; the value is what follows it. Expiry lies in the body's own head.
    pub struct KvRow: version 1, 24 bytes {
        /// Zero.
        pub reserved: U32,
        /// How often the entry was written, from 1.
        pub revision: U64,
        /// When it was written last; ns of the monotonic clock.
        pub modified_at: U64,
    }
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Any bytes.
    Bytes(&'a [u8]),
    /// A number, which can be added to.
    Integer(i64),
}

/// Names one writing of one entry: no other ever has the same (but for the wrap that `shm::ctl` tells of). Its text form is for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvVersion {
    row: RowRef,
    revision: u64,
}

impl fmt::Display for KvVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.row.pack(), self.revision)
    }
}

/// The text is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no version of an entry")]
pub struct NoVersion;

impl FromStr for KvVersion {
    type Err = NoVersion;
    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let (row, revision) = text.split_once('-').ok_or(NoVersion)?;
        let number = |text| u64::from_str_radix(text, 16).map_err(|_| NoVersion);
        Ok(Self {
            row: RowRef::unpack(number(row)?),
            revision: number(revision)?,
        })
    }
}

/// An entry as it was at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub key: &'a [u8],
    pub value: Value<'a>,
    pub version: KvVersion,
    /// `None`: never.
    pub expires_at: Option<Instant>,
    pub modified_at: Instant,
}

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    #[error("no memory for a new entry")]
    Full,
    #[error("the entry is being changed too often")]
    Busy,
    #[error("the key is longer than {KV_KEY_MAX} bytes, or the value longer than {KV_VALUE_MAX}")]
    TooLong,
    #[error("the value is not a number")]
    NotANumber,
    #[error("the sum does not fit into 64 bits")]
    Overflow,
}

/// The row of a key as it was seen, expired or not.
#[derive(Clone, Copy)]
struct Seen {
    row: RowRef,
    version: Version,
    revision: u64,
}

/// The `kv` table through one participant.
pub struct Kv<'p>(pub &'p mut Participant);

fn entry<'a>(record: &Record<'a>) -> Option<Entry<'a>> {
    let (row, value) = KvRow::read(record.payload)?;
    let value = match row.kind {
        BYTES => Value::Bytes(value),
        INTEGER => Value::Integer(i64::from_le_bytes(value.try_into().ok()?)),
        _ => return None,
    };
    Some(Entry {
        key: record.key,
        value,
        version: KvVersion {
            row: record.row,
            revision: row.revision.get(),
        },
        expires_at: record.expires_at,
        modified_at: Instant::from_nanos(row.modified_at.get()),
    })
}

fn is_current(entry: &Entry<'_>, now: Instant) -> bool {
    entry.expires_at.is_none_or(|at| at > now)
}

impl Kv<'_> {
    /// Looks at an entry; `None` if there is none.
    pub fn get<R>(&self, key: &[u8], now: Instant, look: impl FnOnce(Entry<'_>) -> R) -> Option<R> {
        self.0
            .find(KV, key, |record| {
                entry(&record).filter(|e| is_current(e, now)).map(look)
            })
            .flatten()
    }

    /// Writes an entry, whatever was there.
    pub fn put(
        &mut self,
        key: &[u8],
        value: Value<'_>,
        expires_at: Option<Instant>,
        now: Instant,
    ) -> Result<KvVersion, KvError> {
        for _ in 0..ATTEMPTS_MAX {
            let seen = self.see(key, |_| ()).map(|(seen, ())| seen);
            if let Some(version) = self.write(key, seen, value, expires_at, now)? {
                return Ok(version);
            }
        }
        Err(KvError::Busy)
    }

    /// Writes an entry if there is none; `None`: there is one.
    pub fn put_if_absent(
        &mut self,
        key: &[u8],
        value: Value<'_>,
        expires_at: Option<Instant>,
        now: Instant,
    ) -> Result<Option<KvVersion>, KvError> {
        for _ in 0..ATTEMPTS_MAX {
            let seen = match self.see(key, |e| e.is_some_and(|e| is_current(&e, now))) {
                Some((_, true)) => return Ok(None),
                Some((seen, false)) => Some(seen),
                None => None,
            };
            if let Some(version) = self.write(key, seen, value, expires_at, now)? {
                return Ok(Some(version));
            }
        }
        Err(KvError::Busy)
    }

    /// Writes an entry if it still is the one that was seen; `None`: it is not, or is no more.
    pub fn compare_and_set(
        &mut self,
        key: &[u8],
        expect: KvVersion,
        value: Value<'_>,
        expires_at: Option<Instant>,
        now: Instant,
    ) -> Result<Option<KvVersion>, KvError> {
        match self.see(key, |e| {
            e.is_some_and(|e| e.version == expect && is_current(&e, now))
        }) {
            Some((seen, true)) => self.write(key, Some(seen), value, expires_at, now),
            // Whoever changed it since has made a new version: no second attempt can succeed.
            _ => Ok(None),
        }
    }

    /// Adds to a number and says what it is then. An entry that is not there counts as 0 and expires at `expires_at`; one that is there keeps its expiry.
    pub fn add(
        &mut self,
        key: &[u8],
        delta: i64,
        expires_at: Option<Instant>,
        now: Instant,
    ) -> Result<i64, KvError> {
        for _ in 0..ATTEMPTS_MAX {
            let seen = self.see(key, |e| match e.filter(|e| is_current(e, now)) {
                None => Ok((delta, expires_at)),
                Some(Entry {
                    value: Value::Integer(n),
                    expires_at,
                    ..
                }) => Ok((n.checked_add(delta).ok_or(KvError::Overflow)?, expires_at)),
                Some(_) => Err(KvError::NotANumber),
            });
            let (seen, sum, expires_at) = match seen {
                Some((seen, next)) => {
                    let (sum, expires_at) = next?;
                    (Some(seen), sum, expires_at)
                }
                None => (None, delta, expires_at),
            };
            if self
                .write(key, seen, Value::Integer(sum), expires_at, now)?
                .is_some()
            {
                return Ok(sum);
            }
        }
        Err(KvError::Busy)
    }

    /// Deletes an entry; whether there was one. Needs no memory.
    pub fn delete(&mut self, key: &[u8], now: Instant) -> Result<bool, KvError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some((seen, current)) = self.see(key, |e| e.is_some_and(|e| is_current(&e, now)))
            else {
                return Ok(false);
            };
            if self.0.remove(seen.row, Some(seen.version)) {
                return Ok(current);
            }
        }
        Err(KvError::Busy)
    }

    /// Deletes an entry if it still is the one that was seen.
    pub fn delete_version(&mut self, key: &[u8], expect: KvVersion) -> bool {
        match self.see(key, |e| e.is_some_and(|e| e.version == expect)) {
            Some((seen, true)) => self.0.remove(seen.row, Some(seen.version)),
            _ => false,
        }
    }

    /// Every entry whose key begins so, looking at `rows_max` rows from `cursor` on; `None` at the end. Sees what is there throughout, and of what comes
    /// or goes meanwhile any.
    pub fn scan(
        &self,
        prefix: &[u8],
        cursor: Cursor,
        rows_max: usize,
        now: Instant,
        mut look: impl FnMut(Entry<'_>),
    ) -> Option<Cursor> {
        self.0.scan(KV, cursor, rows_max, |record| {
            if record.key.starts_with(prefix)
                && let Some(entry) = entry(&record).filter(|e| is_current(e, now))
            {
                look(entry);
            }
        })
    }

    fn see<R>(&self, key: &[u8], look: impl FnOnce(Option<Entry<'_>>) -> R) -> Option<(Seen, R)> {
        self.0.find(KV, key, |record| {
            // What does not decode was not written by us: it is overwritten as if it had expired.
            let entry = entry(&record);
            let seen = Seen {
                row: record.row,
                version: record.version,
                revision: entry.map_or(0, |e| e.version.revision),
            };
            (seen, look(entry))
        })
    }

    /// Publishes in the version that was seen, or as a new entry; `None`: somebody was quicker.
    fn write(
        &mut self,
        key: &[u8],
        seen: Option<Seen>,
        value: Value<'_>,
        expires_at: Option<Instant>,
        now: Instant,
    ) -> Result<Option<KvVersion>, KvError> {
        let number;
        let (kind, bytes) = match value {
            Value::Bytes(bytes) => (BYTES, bytes),
            Value::Integer(n) => {
                number = n.to_le_bytes();
                (INTEGER, &number[..])
            }
        };
        if key.len() > KV_KEY_MAX || bytes.len() > KV_VALUE_MAX {
            return Err(KvError::TooLong);
        }
        let revision = seen.map_or(0, |seen| seen.revision).wrapping_add(1);
        let mut row = KvRow::new_zeroed();
        row.begin(kind);
        row.revision = U64::new(revision);
        row.modified_at = U64::new(now.as_nanos());
        let payload = [row.as_bytes(), bytes];
        let meta = RowMeta {
            expires_at,
            flags: kind,
        };
        let row = match seen {
            Some(seen) => match self.0.replace(seen.row, seen.version, &payload, &[], meta) {
                Ok(_) => seen.row,
                Err(ReplaceError::Changed | ReplaceError::Gone) => return Ok(None),
                Err(ReplaceError::TooLong) => return Err(KvError::TooLong),
                Err(_) => return Err(KvError::Full),
            },
            None => match self.0.insert(KV, key, &payload, &[], meta) {
                Ok(row) => row,
                Err(InsertError::Exists { .. } | InsertError::Stale) => return Ok(None),
                Err(InsertError::TooLong) => return Err(KvError::TooLong),
                Err(_) => return Err(KvError::Full),
            },
        };
        Ok(Some(KvVersion { row, revision }))
    }
}
