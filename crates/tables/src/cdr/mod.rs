//! The `cdr` table: records of calls that are over, until one writer has put them on the disk.
//!
//! ```text
//! key = the dialog's id, 16 bytes | or that and a hash of the callee's tag, of a further dialog of a forked INVITE
//! ```
//!
//! A record never changes. It is inserted before its dialog is removed ([`close`](crate::calls::close)), and removed once it is on the disk. What keeps it from being
//! written twice: 1. as long as it is there, whoever ends the same dialog again finds it; 2. it is written, and then removed, only after its dialog was seen gone
//! *and* a grace period has passed since: then everybody who could still have that dialog in hand has come to its next turn, and will not find it; 3. there is one writer, which looks at the end of the
//! file for what a writer before it had written and not removed. What keeps it from getting lost: it goes only when it is on the disk, it is kept over restarts, and what it is made of
//! stays until it is there.
//!
//! How far the file has been dealt with is an entry of `kv` ([`position`](Cdrs::position)). A snapshot has that before anything else, so that it never tells more than
//! the records that come after it.
//!
//! *Full*: a record takes from what is kept back for changes, since its dialog makes way for it. Beyond that, or beyond what the configuration allows to wait, the call
//! ends without a record and is counted ([`Counter::CdrsLost`]).

mod row;

use shm::{Arena, Cursor, InsertError, New, Participant, RowMeta, RowRef, Version};
use stdx::Instant;
use sync::{AtomicU64, Ordering};

pub use row::{CDR_FIELD_MAX, Cdr, CdrId, CdrRow, NoCdrId};

use crate::dialog::{Dialogs, View, flag};
use crate::kv::{Kv, KvError, Value};
use crate::{CDR, Counter};

/// The key of the position in `kv`. Keys of others do not begin with NUL.
const POSITION: &[u8] = b"\0cdr.position";

/// There was no memory for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for the record of a call")]
pub struct Unrecorded;

/// A record where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lying {
    pub row: RowRef,
    pub version: Version,
    pub cdr: Cdr,
}

/// Not zero: too many records wait, and calls end unrecorded. Whoever writes them sets it.
pub fn closed(arena: &Arena) -> &AtomicU64 {
    arena.switches()
}

/// The `cdr` table through one participant.
pub struct Cdrs<'p>(pub &'p mut Participant);

impl Cdrs<'_> {
    /// Inserts a record; false: there is one of this call.
    pub fn insert(&mut self, cdr: &Cdr) -> Result<bool, Unrecorded> {
        let mut payload = Vec::with_capacity(512);
        cdr.encode(&mut payload);
        let key = cdr.id.key();
        let new = New {
            key: &key,
            payload: &[&payload],
            meta: RowMeta {
                expires_at: None,
                flags: 0,
            },
            ..New::default()
        };
        // Relaxed: a record more or less.
        let inserted = if closed(self.0.arena()).load(Ordering::Relaxed) == 0 {
            self.0.insert_instead(CDR, &new)
        } else if let Some(row) = self.0.find(CDR, &key, |record| record.row) {
            Err(InsertError::Exists { row, owner: 0 })
        } else {
            Err(InsertError::Full)
        };
        let counter = match inserted {
            Ok(_) => Counter::CdrsMade,
            Err(InsertError::Exists { .. } | InsertError::AliasTaken { .. }) => return Ok(false),
            Err(_) => Counter::CdrsLost,
        };
        self.0.count(counter.cell(), 1);
        inserted.map(|_| true).map_err(|_| Unrecorded)
    }

    /// Records whose dialogs are gone, of `rows` rows from `cursor` on; `None` at the end. One that can't be read is handed to `broken`.
    pub fn over(
        &mut self,
        cursor: Cursor,
        rows: usize,
        mut over: impl FnMut(Lying),
        mut broken: impl FnMut(RowRef, Version),
    ) -> Option<Cursor> {
        let mut seen = Vec::new();
        let next = self.0.scan(CDR, cursor, rows, |record| {
            let lying = (record.row, record.version, Cdr::read(record.payload));
            seen.push(lying);
        });
        for (row, version, cdr) in seen {
            match cdr {
                Some(cdr) if self.is_gone(&cdr) => over(Lying { row, version, cdr }),
                Some(_) => {}
                None => broken(row, version),
            }
        }
        next
    }

    /// Whether the dialog of a record is gone.
    fn is_gone(&mut self, cdr: &Cdr) -> bool {
        let dialogs = Dialogs(self.0);
        let same = |view: &View<'_>| view.id() == cdr.dialog();
        if cdr.flags & flag::FORK == 0 {
            return !dialogs
                .find_id(cdr.dialog(), |view| same(&view))
                .unwrap_or(false);
        }
        let found = dialogs.find(&cdr.call_id, &cdr.caller_tag, &cdr.callee_tag, |view, _| {
            same(&view) && view.callee_tag() == cdr.callee_tag
        });
        !found.unwrap_or(false)
    }

    /// Ends a dialog whose record is on the disk: it came back from an older snapshot. True if it was there.
    pub fn forget_ghost(&mut self, id: &CdrId) -> bool {
        // A further dialog of a fork has no name that the record's id leads to; it ends by its expiry.
        if id.fork != 0 {
            return false;
        }
        let mut dialogs = Dialogs(self.0);
        let row = dialogs.find_id(crate::dialog::DialogId(id.dialog), |view| view.row);
        row.is_some_and(|row| dialogs.end(row).is_some())
    }

    /// Removes a record that is on the disk.
    pub fn remove(&mut self, row: RowRef, version: Version) -> bool {
        self.0.remove(row, Some(version))
    }

    /// How many records wait. A walk over the control words.
    pub fn waiting(&self) -> u64 {
        self.0.arena().live_rows(CDR)
    }

    /// How far the file has been dealt with: every record before that is removed. In the words of who writes it.
    pub fn position(&mut self, now: Instant) -> Option<Vec<u8>> {
        let read = |entry: &crate::kv::Entry<'_>| match entry.value {
            Value::Bytes(bytes) => Some(bytes.to_vec()),
            Value::Integer(_) => None,
        };
        Kv(self.0)
            .get(POSITION, now, |entry| read(&entry))
            .flatten()
    }

    /// Notes it.
    pub fn set_position(&mut self, position: &[u8], now: Instant) -> Result<(), KvError> {
        Kv(self.0)
            .put(POSITION, Value::Bytes(position), None, now)
            .map(|_| ())
    }
}
