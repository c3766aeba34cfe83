//! The `media` table: calls that an engine has media ports for.
//!
//! ```text
//! key = the dialog's id, 16 bytes | payload = MediaRow, then set, Call-ID and the caller's tag
//! ```
//!
//! *Life.* [`begin`](MediaCalls::begin) before an engine is asked for the first time, [`end`](MediaCalls::end) when the engine has said that it has freed
//! what it had, or nobody waits for that any more. In between the record outlives the dialog: that it is there and its dialog is not, is what says
//! that a delete is owed to the engine, whatever ended the dialog and whoever died meanwhile. The slot that made a record looks after it ([`walk`](MediaCalls::walk)).
//!
//! Any slot changes a record, by compare-and-swap of the body. Each operation is one of `shm::ops` and takes effect where that does; a death in between
//! leaves the record as it was or as it was to be.
//!
//! *Full*: `begin` is refused, and with it the call, or its relay. Changes go on, from what is kept back for them; `end` needs no memory.

use std::net::SocketAddr;

use shm::{Cursor, InsertError, Participant, Record, ReplaceError, RowMeta, RowRef, Version};
use stdx::Instant;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::MEDIA;
use crate::dialog::DialogId;
use crate::row::{Address, Fields, Header, instant, is_whole, put, row, word};

/// Attempts before an update gives up.
const ATTEMPTS_MAX: usize = 64;

row! {
    /// The header of a call's media; `kind` is who made the last offer.
    pub struct MediaRow: version 1, 48 bytes {
        /// Zero.
        pub reserved: U32,
        /// The engine.
        pub engine: Address,
        /// The engine was asked for the first time.
        pub begun_at: U64,
        /// A delete was owed for the first time.
        pub owed_at: U64,
    }
}

/// Tags of the fields after the header.
mod tag {
    pub(super) const SET: u8 = 1;
    pub(super) const CALL_ID: u8 = 2;
    pub(super) const CALLER_TAG: u8 = 3;
}

/// Who made the last offer, or is to make it (RFC 3264): what the other one says then is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Offerer {
    Caller = 1,
    Callee = 2,
}

impl Offerer {
    fn read(kind: u8) -> Option<Self> {
        [Self::Caller, Self::Callee]
            .into_iter()
            .find(|offerer| *offerer as u8 == kind)
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// A call's media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaCall {
    /// The `[[media]]` that it began with.
    pub set: String,
    /// What the engine knows the call by: Call-ID and tag of the caller, as he sent them.
    pub call_id: Vec<u8>,
    pub caller_tag: Vec<u8>,
    /// The engine that has it; `None`: none has said so.
    pub engine: Option<SocketAddr>,
    pub offerer: Offerer,
    pub begun_at: Instant,
    /// Since when a delete is owed.
    pub owed_at: Option<Instant>,
}

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    #[error("no memory for another call's media")]
    Full,
    #[error("the record is being changed too often")]
    Busy,
    #[error("the record is no more")]
    Gone,
}

/// The `media` table through one participant.
pub struct MediaCalls<'p>(pub &'p mut Participant);

impl MediaCalls<'_> {
    /// Publishes a record, unless the dialog has one.
    pub fn begin(&mut self, id: DialogId, call: &MediaCall) -> Result<RowRef, MediaError> {
        let mut body = Vec::new();
        call.encode(&mut body);
        let inserted = self
            .0
            .insert(MEDIA, &id.0, &[&body], &[], RowMeta::default());
        match inserted {
            Ok(row) | Err(InsertError::Exists { row, .. }) => Ok(row),
            Err(InsertError::Stale) => Err(MediaError::Busy),
            Err(_) => Err(MediaError::Full),
        }
    }

    /// The record of a dialog.
    pub fn find(&self, id: DialogId) -> Option<(RowRef, MediaCall)> {
        self.0
            .find(MEDIA, &id.0, |record| Some((record.row, read(&record)?)))
            .flatten()
    }

    /// Changes a record; `change` says whether there is something to be written, and is called again if somebody else was quicker.
    pub fn update(
        &mut self,
        row: RowRef,
        mut change: impl FnMut(&mut MediaCall) -> bool,
    ) -> Result<(), MediaError> {
        let mut body = Vec::new();
        for _ in 0..ATTEMPTS_MAX {
            let (mut call, version) = self.seen(row).ok_or(MediaError::Gone)?;
            if !change(&mut call) {
                return Ok(());
            }
            body.clear();
            call.encode(&mut body);
            match self
                .0
                .replace(row, version, &[&body], &[], RowMeta::default())
            {
                Ok(_) => return Ok(()),
                Err(ReplaceError::Changed) => {}
                Err(ReplaceError::Gone) => return Err(MediaError::Gone),
                Err(_) => return Err(MediaError::Full),
            }
        }
        Err(MediaError::Busy)
    }

    /// Removes a record; whether it was there.
    pub fn end(&mut self, row: RowRef) -> bool {
        self.0.remove(row, None)
    }

    /// The records that this slot, one of so many, looks after: those that it made, and its share of those that were made by no slot, as after a
    /// restart. Looks at `max` rows from `cursor` on; `None` at the end.
    pub fn walk(
        &self,
        slots: u16,
        cursor: Cursor,
        max: usize,
        mut look: impl FnMut(RowRef, DialogId, MediaCall),
    ) -> Option<Cursor> {
        let own = self.0.id().0;
        self.0.scan(MEDIA, cursor, max, |record| {
            let duty = match record.owner {
                owner if owner < slots => owner,
                _ => (record.row.index % u32::from(slots.max(1))) as u16,
            };
            if duty == own
                && let (Ok(id), Some(call)) = (record.key.try_into(), read(&record))
            {
                look(record.row, DialogId(id), call);
            }
        })
    }

    fn seen(&self, row: RowRef) -> Option<(MediaCall, Version)> {
        self.0
            .with(row, |record| Some((read(&record)?, record.version)))
            .flatten()
    }
}

impl MediaCall {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut row = MediaRow::new_zeroed();
        row.begin(self.offerer as u8);
        row.engine = Address::new(self.engine);
        row.begun_at = word(Some(self.begun_at));
        row.owed_at = word(self.owed_at);
        out.extend_from_slice(row.as_bytes());
        put(tag::SET, Some(self.set.as_bytes()), out);
        put(tag::CALL_ID, Some(&self.call_id), out);
        put(tag::CALLER_TAG, Some(&self.caller_tag), out);
    }
}

fn read(record: &Record<'_>) -> Option<MediaCall> {
    let (row, fields) = MediaRow::read(record.payload)?;
    if !is_whole(fields) {
        return None;
    }
    let mut call = MediaCall {
        set: String::new(),
        call_id: Vec::new(),
        caller_tag: Vec::new(),
        engine: row.engine.get(),
        offerer: Offerer::read(row.kind)?,
        begun_at: instant(row.begun_at)?,
        owed_at: instant(row.owed_at),
    };
    for (tag, value) in Fields(fields) {
        match tag {
            tag::SET => std::str::from_utf8(value).ok()?.clone_into(&mut call.set),
            tag::CALL_ID => value.clone_into(&mut call.call_id),
            tag::CALLER_TAG => value.clone_into(&mut call.caller_tag),
            _ => {}
        }
    }
    Some(call)
}
