//! The `dialog` table (RFC 3261 §12): a record for each dialog, from the INVITE on.
//!
//! *Names.* The key is Call-ID and tags (`key`), the alias the [`DialogId`] that we put into our Record-Route. All dialogs of one INVITE share its
//! Record-Route, but a record has one alias: the first dialog has it, those that a fork adds are found by their tags.
//!
//! *Life.* [`create`](Dialogs::create) when the INVITE comes, before it is forwarded: that is when a call is counted or refused. A [`confirm`](Dialogs::confirm)
//! is a change of the body. [`end`](Dialogs::end) removes the record, and gives back what counted it. Exactly one party ends a dialog: whoever removes the
//! record, be it a BYE on any slot, a final response, the operator or expiry.
//!
//! *Counts.* The resources that a dialog counts in are rows of `balancer`, named in it by row and key. A row that has become another's, or is no more, is
//! left out when the dialog ends. A dialog that is carried over a restart counts nowhere: [`shift`](crate::shift) takes the rows out and leaves the keys.
//!
//! *Steps.* Each operation is one of `shm::ops` and takes effect where that does; a death in between leaves the record as it was or as it was to be.
//!
//! *Full*: `create` and `fork` are refused. Everything else goes on, from what is kept back for changes; `end` needs no memory.

mod key;
mod row;

use std::time::Duration;

use shm::{
    Block, Count, Cursor, InsertError, New, Participant, Record, ReplaceError, RowMeta, RowRef,
};
use stdx::Instant;

pub(crate) use row::shift;
pub use row::{CountedBy, DIALOG_COUNTS_MAX, Dialog, DialogId, DialogRow, DialogState, Side, View};

use crate::{DIALOG, balancer};

/// Attempts before an update gives up: each failure means that another one of the same dialog went through.
const ATTEMPTS_MAX: usize = 64;
/// How long a dialog stays in [`DialogState::Ending`]: a BYE of our own has got its answer by then, or never gets it (Timer F).
pub(crate) const ENDING: Duration = Duration::from_secs(32);

/// Bits of [`Dialog::flags`].
pub mod flag {
    /// Topology hiding.
    pub const HIDDEN: u32 = 1;
    /// The caller is behind a NAT.
    pub const CALLER_NAT: u32 = 1 << 1;
    /// The callee is.
    pub const CALLEE_NAT: u32 = 1 << 2;
    /// Media goes through a relay.
    pub const MEDIA: u32 = 1 << 3;
    /// The caller refreshes the session (RFC 4028); without it, the callee.
    pub const CALLER_REFRESHES: u32 = 1 << 4;
    /// Probed within the dialog.
    pub const PROBED: u32 = 1 << 5;
    /// A further dialog of a forked INVITE.
    pub const FORK: u32 = 1 << 6;
}

/// Why there is no new dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    #[error("there is one with these tags, or this id")]
    Exists(RowRef),
    #[error("no memory for a new dialog")]
    Full,
    #[error("Call-ID and tags are too long, or hold a NUL")]
    Unusable,
    #[error("others create the same dialog")]
    Busy,
    #[error("count {nth} is at its limit")]
    OverLimit {
        /// Which of the counts that were given.
        nth: usize,
    },
    #[error("count {nth} names no resource, or is one too many")]
    NoResource {
        /// Which of the counts that were given.
        nth: usize,
    },
}

/// What a new dialog is to count in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountIn {
    /// Its row in `balancer`.
    pub resource: RowRef,
    /// Dialogs at most, this one included; `None`: any number.
    pub limit: Option<u64>,
}

/// Why a dialog was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("the dialog is no more")]
    Gone,
    #[error("no memory for the change")]
    Full,
    #[error("the dialog is being changed too often")]
    Busy,
}

/// Who sent a request within a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Caller,
    Callee,
}

/// What a 2xx did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It confirmed the dialog.
    Now,
    /// The same 2xx had done so before.
    Already,
    /// It is another callee's: see [`Dialogs::fork`].
    Other,
}

/// The `dialog` table through one participant.
pub struct Dialogs<'p>(pub &'p mut Participant);

impl Dialogs<'_> {
    /// Publishes a new dialog, counted in these resources, unless one of them is at its limit.
    pub fn create(&mut self, dialog: Dialog, counts: &[CountIn]) -> Result<RowRef, CreateError> {
        let key = key::first(&dialog.call_id, &dialog.caller.tag);
        let alias = dialog.id.0;
        self.insert(dialog, &key, Some(&alias), counts)
    }

    fn insert(
        &mut self,
        mut dialog: Dialog,
        key: &[u8],
        alias: Option<&[u8]>,
        counts: &[CountIn],
    ) -> Result<RowRef, CreateError> {
        let names = [&dialog.call_id, &dialog.caller.tag, &dialog.callee.tag];
        if names.into_iter().any(|name| name.contains(&0)) {
            return Err(CreateError::Unusable);
        }
        dialog.counted.clear();
        let mut cells = Vec::with_capacity(counts.len());
        for (nth, count) in counts.iter().enumerate() {
            let none = CreateError::NoResource { nth };
            let (block, key) = balancer::admission(self.0, count.resource).ok_or(none)?;
            cells.push(Count {
                cells: block,
                limit: count.limit,
            });
            dialog.counted.push(CountedBy {
                row: Some(count.resource),
                key,
            });
        }
        let mut body = Vec::new();
        dialog.encode(&mut body);
        let new = New {
            key,
            alias,
            payload: &[&body],
            meta: meta(&dialog),
            counts: &cells,
            ..New::default()
        };
        self.0.insert_new(DIALOG, &new).map_err(|e| match e {
            InsertError::Exists { row, .. } | InsertError::AliasTaken { row, .. } => {
                CreateError::Exists(row)
            }
            InsertError::TooLong => CreateError::Unusable,
            InsertError::Stale => CreateError::Busy,
            InsertError::OverLimit { nth } => CreateError::OverLimit { nth },
            InsertError::NoCells { nth } => CreateError::NoResource { nth },
            _ => CreateError::Full,
        })
    }

    /// A further dialog of the same INVITE: another callee has answered it too. `first` is the one that was created with it. It was admitted with the INVITE, so
    /// that it is counted in the same resources, whatever their limits.
    pub fn fork(
        &mut self,
        first: RowRef,
        callee_tag: &[u8],
        change: impl FnOnce(&mut Dialog),
    ) -> Result<RowRef, CreateError> {
        let dialog = self.with(first, |view| view.take());
        let mut dialog = dialog.ok_or(CreateError::Busy)?;
        dialog.flags |= flag::FORK;
        dialog.callee.tag = callee_tag.to_vec();
        change(&mut dialog);
        let key = key::further(&dialog.call_id, &dialog.caller.tag, callee_tag);
        let still = |by: &CountedBy| {
            let resource = by.row?;
            balancer::cells_of(self.0, resource, &by.key)?;
            Some(CountIn {
                resource,
                limit: None,
            })
        };
        let counts: Vec<CountIn> = dialog.counted.iter().filter_map(still).collect();
        self.insert(dialog, &key, None, &counts)
    }

    /// The dialog that a message belongs to, by its Call-ID and tags, from either direction. Without a To tag, or before the callee's is known, it is the
    /// one that the INVITE created.
    pub fn find<R>(
        &self,
        call_id: &[u8],
        from_tag: &[u8],
        to_tag: &[u8],
        look: impl FnOnce(View<'_>, Sender) -> R,
    ) -> Option<R> {
        let mut look = Some(look);
        let mut try_key = |key: &[u8]| {
            let try_record = |record: Record<'_>| {
                let view = View::new(&record)?;
                let sender = sender(&view, call_id, from_tag, to_tag)?;
                look.take().map(|look| look(view, sender))
            };
            self.0.find(DIALOG, key, try_record).flatten()
        };
        if let Some(found) = try_key(&key::first(call_id, from_tag)) {
            return Some(found);
        }
        if to_tag.is_empty() {
            return None;
        }
        try_key(&key::first(call_id, to_tag))
            .or_else(|| try_key(&key::further(call_id, from_tag, to_tag)))
    }

    /// The dialog with this id: the first one of its INVITE. A caller who got the id from a Route header looks at the tags too, or uses
    /// [`find_in_route`](Self::find_in_route).
    pub fn find_id<R>(&self, id: DialogId, look: impl FnOnce(View<'_>) -> R) -> Option<R> {
        self.0
            .find_alias(DIALOG, &id.0, |record| View::new(&record).map(look))
            .flatten()
    }

    /// The dialog of a message that came with our id in its Route: by the id if that is the one, else by Call-ID and tags.
    pub fn find_in_route<R>(
        &self,
        id: DialogId,
        call_id: &[u8],
        from_tag: &[u8],
        to_tag: &[u8],
        look: impl FnOnce(View<'_>, Sender) -> R,
    ) -> Option<R> {
        let mut look = Some(look);
        let by_id = self.find_id(id, |view| {
            let sender = sender(&view, call_id, from_tag, to_tag)?;
            look.take().map(|look| look(view, sender))
        });
        match by_id.flatten() {
            Some(found) => Some(found),
            None => self.find(call_id, from_tag, to_tag, look?),
        }
    }

    /// The dialog in this row.
    pub fn with<R>(&self, row: RowRef, look: impl FnOnce(View<'_>) -> R) -> Option<R> {
        self.0
            .with(row, |record| View::new(&record).map(look))
            .flatten()
    }

    /// Changes a dialog; `change` says whether there is something to be written, and is called again if somebody else was quicker. Names stay: Call-ID, the caller's
    /// tag, the id and, once it is known, the callee's tag must not be changed.
    pub fn update<R>(
        &mut self,
        row: RowRef,
        mut change: impl FnMut(&mut Dialog) -> (bool, R),
    ) -> Result<R, ChangeError> {
        let mut body = Vec::new();
        for _ in 0..ATTEMPTS_MAX {
            let (mut dialog, version) = self
                .with(row, |view| (view.take(), view.version))
                .ok_or(ChangeError::Gone)?;
            let (changed, result) = change(&mut dialog);
            if !changed {
                return Ok(result);
            }
            body.clear();
            dialog.encode(&mut body);
            match self.0.replace(row, version, &[&body], &[], meta(&dialog)) {
                Ok(_) => return Ok(result),
                Err(ReplaceError::Changed) => {}
                Err(ReplaceError::Gone) => return Err(ChangeError::Gone),
                Err(_) => return Err(ChangeError::Full),
            }
        }
        Err(ChangeError::Busy)
    }

    /// A 2xx with this To tag came. The first one makes the dialog that callee's; `change` then fills in what the 2xx tells.
    pub fn confirm(
        &mut self,
        row: RowRef,
        callee_tag: &[u8],
        now: Instant,
        mut change: impl FnMut(&mut Dialog),
    ) -> Result<Confirmed, ChangeError> {
        self.update(row, |dialog| match dialog.state {
            DialogState::Early => {
                dialog.state = DialogState::Confirmed;
                dialog.confirmed_at = Some(now);
                dialog.callee.tag = callee_tag.to_vec();
                change(dialog);
                (true, Confirmed::Now)
            }
            _ if dialog.callee.tag == callee_tag => (false, Confirmed::Already),
            _ => (false, Confirmed::Other),
        })
    }

    /// Ends a dialog and gives back what counts it; `None`: somebody else has ended it.
    pub fn end(&mut self, row: RowRef) -> Option<Dialog> {
        for _ in 0..ATTEMPTS_MAX {
            let seen = self.with(row, |view| {
                (view.take(), view.version, cells(self.0, &view))
            });
            let (dialog, version, cells) = seen?;
            if self.0.remove_counted(row, Some(version), &cells) {
                return Some(dialog);
            }
        }
        // It is changed all the time: whatever the last change was, it ends. What counts it does not change.
        let seen = self.with(row, |view| (view.take(), cells(self.0, &view)));
        let (dialog, cells) = seen?;
        self.0.remove_counted(row, None, &cells).then_some(dialog)
    }

    /// Removes the dialogs whose time is over, as [`Participant::expire`] does, and gives back what counts them.
    pub fn expire(
        &mut self,
        now: Instant,
        cursor: Cursor,
        budget: usize,
        gone: impl FnMut(Record<'_>),
    ) -> Option<Cursor> {
        let counted = |participant: &Participant, record: &Record<'_>| {
            let mut blocks = [None; DIALOG_COUNTS_MAX];
            if let Some(view) = View::new(record) {
                for (place, block) in blocks.iter_mut().zip(cells(participant, &view)) {
                    *place = Some(block);
                }
            }
            blocks
        };
        self.0
            .expire_counted(DIALOG, now, cursor, budget, counted, gone)
    }
}

/// The cells that a dialog counts in, of resources that are still there.
fn cells(participant: &Participant, view: &View<'_>) -> Vec<Block> {
    view.counted()
        .filter_map(|(row, key)| balancer::cells_of(participant, row, key))
        .collect()
}

fn meta(dialog: &Dialog) -> RowMeta {
    RowMeta {
        expires_at: dialog.expires_at(),
        flags: dialog.state as u8,
    }
}

/// Whether a message with these names belongs to the dialog, and who of the two sent it.
fn sender(view: &View<'_>, call_id: &[u8], from_tag: &[u8], to_tag: &[u8]) -> Option<Sender> {
    let (caller, callee) = (view.caller_tag(), view.callee_tag());
    // A tag that we or the sender do not know yet matches any.
    let is_callee = |tag: &[u8]| tag == callee || tag.is_empty() || callee.is_empty();
    if view.call_id() != call_id {
        None
    } else if from_tag == caller && is_callee(to_tag) {
        Some(Sender::Caller)
    } else if to_tag == caller && is_callee(from_tag) {
        Some(Sender::Callee)
    } else {
        None
    }
}
