//! The `dialog` table (RFC 3261 §12): a record for each dialog, from the INVITE on.
//!
//! *Names.* The key is Call-ID and tags (`key`), the alias the [`DialogId`], which is what operators and call records call it. Our Record-Route names its *place*: the
//! row that it was created in, so that a request within the dialog finds it without a look-up. All dialogs of one INVITE share the place: the first one
//! has the row, those that a fork adds are found by their tags, and so is one that a restart has put into another row.
//!
//! *Life.* [`create`](Dialogs::create) when the INVITE comes, before it is forwarded: that is when a call is counted or refused. A [`confirm`](Dialogs::confirm)
//! is a change of the body. [`end`](Dialogs::end) removes the record, and gives back what counted it. Exactly one party ends a dialog: whoever removes the
//! record, be it a BYE on any slot, a final response, the operator or [time](Dialogs::due). A dialog that messages still have to be read by leaves a copy
//! that counts nowhere and goes by itself ([`end_keeping`](Dialogs::end_keeping)).
//!
//! *Counts.* The resources that a dialog counts in are rows of `balancer`, named in it by row and key. A row that has become another's, or is no more, is
//! left out when the dialog ends. A dialog that is carried over a restart counts in none of them: [`shift`](crate::shift) takes the rows out and leaves the keys, by which it gets
//! seats that count for it ([`Seats::restore`](crate::Seats::restore)).
//!
//! *Steps.* Each operation is one of `shm::ops` and takes effect where that does; a death in between leaves the record as it was or as it was to be.
//!
//! *Full*: `create` and `fork` are refused. Everything else goes on, from what is kept back for changes; `end` needs no memory.

mod key;
mod row;

use shm::{
    Block, Count, Cursor, InsertError, New, Participant, Record, ReplaceError, RowMeta, RowRef,
};
use stdx::Instant;

pub(crate) use row::shift;
pub use row::{
    CountedBy, DIALOG_COUNTS_MAX, Dialog, DialogId, DialogRow, DialogState, EndCause, Side, View,
    is_call, rings,
};

use crate::{DIALOG, balancer, row::put};

/// Attempts before an update gives up: each failure means that another one of the same dialog went through.
const ATTEMPTS_MAX: usize = 64;
/// How often the same call may pass through us, each time with a dialog of its own.
const PASSES_MAX: u8 = 8;

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
    /// There is to be a record of the call, if it is answered.
    pub const RECORDED: u32 = 1 << 7;
    /// Also if it is not.
    pub const RECORDED_UNANSWERED: u32 = 1 << 8;
    /// Others may answer the same INVITE after the end of the first dialog.
    pub const FORKS: u32 = 1 << 9;
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
    #[error("the same call passes through us too often")]
    Spiral,
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
    /// Publishes a new dialog, counted in these resources, unless one of them is at its limit. [`CreateError::NoResource`]: it has gone, or is about to; who needs it makes it anew and tries again.
    pub fn create(&mut self, dialog: Dialog, counts: &[CountIn]) -> Result<RowRef, CreateError> {
        let (alias, origin) = (dialog.id.0, dialog.origin);
        let mut dialog = dialog;
        for pass in 0..PASSES_MAX {
            let key = key::first(&dialog.call_id, &dialog.caller.tag, pass);
            match self.insert(&mut dialog, &key, Some(&alias), counts) {
                Err(CreateError::Exists(row)) => {
                    let same =
                        self.with(row, |view| view.origin() == origin || view.id().0 == alias);
                    if same.unwrap_or(true) {
                        return Err(CreateError::Exists(row));
                    }
                }
                done => return done,
            }
        }
        Err(CreateError::Spiral)
    }

    fn insert(
        &mut self,
        dialog: &mut Dialog,
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
                of: Some(count.resource),
            });
            dialog.counted.push(CountedBy {
                row: Some(count.resource),
                key,
            });
        }
        for _ in 0..ATTEMPTS_MAX {
            match self.try_insert(dialog, key, alias, &cells) {
                Err(CreateError::Busy) => {}
                done => return done,
            }
        }
        Err(CreateError::Busy)
    }

    fn try_insert(
        &mut self,
        dialog: &mut Dialog,
        key: &[u8],
        alias: Option<&[u8]>,
        counts: &[Count],
    ) -> Result<RowRef, CreateError> {
        let reserved = self
            .0
            .reserve_new(DIALOG, key, alias)
            .map_err(create_error)?;
        if alias.is_some() {
            dialog.place = reserved.row().pack();
        }
        let mut body = Vec::new();
        dialog.encode(&mut body);
        let new = New {
            key,
            alias,
            payload: &[&body],
            meta: meta(dialog),
            counts,
            ..New::default()
        };
        self.0.publish_new(reserved, &new).map_err(create_error)
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
        if dialog.state == DialogState::Ended {
            dialog.end_cause = None;
            dialog.ended_at = None;
        }
        dialog.state = DialogState::Confirmed;
        dialog.flags |= flag::FORK;
        dialog.callee.tag = callee_tag.to_vec();
        change(&mut dialog);
        // A copy of its 2xx that comes after its end.
        let tags = Some((&dialog.caller.tag[..], callee_tag));
        let ended = key::ended(dialog.place, tags);
        if let Some(row) = self.0.find(DIALOG, &ended, |record| record.row) {
            return Err(CreateError::Exists(row));
        }
        let key = key::further(&dialog.call_id, &dialog.caller.tag, callee_tag);
        let counted = std::mem::take(&mut dialog.counted);
        for _ in 0..ATTEMPTS_MAX {
            let counts = self.still_there(&counted);
            match self.insert(&mut dialog, &key, None, &counts) {
                // Gone since then.
                Err(CreateError::NoResource { .. }) => {}
                done => return done,
            }
        }
        Err(CreateError::Busy)
    }

    /// Those of these resources that are there.
    fn still_there(&self, counted: &[CountedBy]) -> Vec<CountIn> {
        let still = |by: &CountedBy| {
            let resource = by.row?;
            balancer::cells_of(self.0, resource, &by.key)?;
            Some(CountIn {
                resource,
                limit: None,
            })
        };
        counted.iter().filter_map(still).collect()
    }

    /// The dialog that the INVITE of this origin has begun.
    pub fn begun<R>(
        &self,
        call_id: &[u8],
        caller_tag: &[u8],
        origin: u64,
        look: impl FnOnce(View<'_>) -> R,
    ) -> Option<R> {
        let mut look = Some(look);
        let mut take = |view: View<'_>| {
            let look = look.take_if(|_| view.origin() == origin)?;
            Some(look(view))
        };
        (0..PASSES_MAX)
            .find_map(|pass| self.look_up(&key::first(call_id, caller_tag, pass), &mut take))
    }

    /// What is left of the first dialog of an INVITE, see [`Dialogs::end_keeping`].
    pub fn left(&self, place: u64) -> Option<RowRef> {
        self.0
            .find(DIALOG, &key::ended(place, None), |record| record.row)
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
        if let Some(found) = try_key(&key::first(call_id, from_tag, 0)) {
            return Some(found);
        }
        if to_tag.is_empty() {
            return None;
        }
        try_key(&key::first(call_id, to_tag, 0))
            .or_else(|| try_key(&key::further(call_id, from_tag, to_tag)))
    }

    /// As [`Dialogs::find`], of a call that may have passed through us more than once: what `look` takes, of the passes in the order in which the sender's requests
    /// come to them.
    pub fn in_passes<R>(
        &self,
        call_id: &[u8],
        from_tag: &[u8],
        to_tag: &[u8],
        mut look: impl FnMut(View<'_>, Sender) -> Option<R>,
    ) -> Option<R> {
        let mut take = |view: View<'_>| {
            let sender = sender(&view, call_id, from_tag, to_tag)?;
            look(view, sender)
        };
        let of_caller = (0..PASSES_MAX).map(|pass| key::first(call_id, from_tag, pass));
        let of_callee = (0..PASSES_MAX).rev();
        let of_callee = of_callee.map(|pass| key::first(call_id, to_tag, pass));
        let further = std::iter::once_with(|| key::further(call_id, from_tag, to_tag));
        let mut keys = of_caller.chain(of_callee).chain(further);
        keys.find_map(|key| self.look_up(&key, &mut take))
    }

    /// The dialog of a message that came with this place in a URI of ours: by the row if that is the one, else by its names.
    pub fn at_place<R>(
        &self,
        place: u64,
        call_id: &[u8],
        from_tag: &[u8],
        to_tag: &[u8],
        look: impl FnOnce(View<'_>, Sender) -> R,
    ) -> Option<R> {
        let mut look = Some(look);
        let mut take = |view: View<'_>| {
            if view.place() != place {
                return None;
            }
            let sender = sender(&view, call_id, from_tag, to_tag)?;
            look.take().map(|look| look(view, sender))
        };
        let row = RowRef::unpack(place);
        let there = self.with(row, |view| (view.place() == place).then(|| take(view)));
        match there.flatten() {
            Some(None) => {
                // Another dialog of the same INVITE.
                let key = key::further(call_id, from_tag, to_tag);
                return self.look_up(&key, &mut take);
            }
            Some(found) => return found,
            None => {}
        }
        let ended = [Some((from_tag, to_tag)), None].map(|tags| key::ended(place, tags));
        let further = key::further(call_id, from_tag, to_tag);
        let first = (0..PASSES_MAX)
            .flat_map(|pass| [from_tag, to_tag].map(|tag| key::first(call_id, tag, pass)));
        let mut keys = [further].into_iter().chain(ended).chain(first);
        keys.find_map(|key| self.look_up(&key, &mut take))
    }

    fn look_up<R>(&self, key: &[u8], take: &mut impl FnMut(View<'_>) -> Option<R>) -> Option<R> {
        let look = |record: Record<'_>| View::new(&record).and_then(&mut *take);
        self.0.find(DIALOG, key, look).flatten()
    }

    /// The dialog with this id: the first one of its INVITE.
    pub fn find_id<R>(&self, id: DialogId, look: impl FnOnce(View<'_>) -> R) -> Option<R> {
        self.0
            .find_alias(DIALOG, &id.0, |record| View::new(&record).map(look))
            .flatten()
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
                dialog.confirmed_at = Some(now.into());
                dialog.callee.tag = callee_tag.to_vec();
                change(dialog);
                (true, Confirmed::Now)
            }
            _ if dialog.callee.tag == callee_tag => (false, Confirmed::Already),
            _ => (false, Confirmed::Other),
        })
    }

    /// The operator wants a call to end: whoever looks after it sends BYEs to both, or gives its INVITE up. False: it is ending already.
    pub fn ask_to_end(&mut self, row: RowRef, now: Instant) -> Result<bool, ChangeError> {
        self.update(row, |dialog| {
            match dialog.state {
                DialogState::Early if dialog.end_cause.is_none() => {
                    dialog.answer_until = Some(now.into())
                }
                DialogState::Confirmed => {
                    dialog.state = DialogState::Ending;
                    dialog.probes_failed = 0;
                    dialog.ended_at = Some(now);
                }
                DialogState::Early | DialogState::Ending | DialogState::Ended => {
                    return (false, false);
                }
            }
            dialog.end_cause = Some(EndCause::Operator);
            (true, true)
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

    /// Ends a dialog and leaves a copy until then that counts nowhere: what is still under way in it is read by that.
    pub fn end_keeping(&mut self, row: RowRef, until: Instant) -> Option<Dialog> {
        let mut ended = self.with(row, |view| view.take())?;
        ended.state = DialogState::Ended;
        ended.ended_at = Some(until);
        let tags = (ended.flags & flag::FORK != 0)
            .then_some((&ended.caller.tag[..], &ended.callee.tag[..]));
        let key = key::ended(ended.place, tags);
        let mut body = Vec::new();
        ended.encode(&mut body);
        put(row::tag::CALL_ID, Some(&ended.call_id), &mut body);
        // Who did this before us and died has left the same; without memory, messages pass by their Route set alone.
        let _ = self.0.insert(DIALOG, &key, &[&body], &[], meta(&ended));
        self.end(row)
    }

    /// The dialogs about which something is to be done now, of our own and of our share of the control threads', looking at `budget` rows from `cursor` on;
    /// `None` at the end. Removes what is left of ended ones.
    pub fn due(
        &mut self,
        now: Instant,
        cursor: Cursor,
        budget: usize,
        mut due: impl FnMut(RowRef),
    ) -> Option<Cursor> {
        let mut over = Vec::new();
        let next = self.0.due(DIALOG, now, cursor, budget, |record| {
            match View::new(&record).map(|view| view.state) {
                Some(DialogState::Ended) => over.push(record.row),
                Some(_) => due(record.row),
                // Nobody can read it.
                None => over.push(record.row),
            }
        });
        for row in over {
            self.0.remove(row, None);
        }
        next
    }
}

/// The cells that a dialog counts in, of resources that are still there. What is left of one only knows their names.
fn cells(participant: &Participant, view: &View<'_>) -> Vec<Block> {
    view.counted()
        .filter(|_| view.state != DialogState::Ended)
        .filter_map(|(row, key)| balancer::cells_of(participant, row, key))
        .collect()
}

fn create_error(error: InsertError) -> CreateError {
    match error {
        InsertError::Exists { row, .. } | InsertError::AliasTaken { row, .. } => {
            CreateError::Exists(row)
        }
        InsertError::TooLong => CreateError::Unusable,
        InsertError::Stale => CreateError::Busy,
        InsertError::OverLimit { nth } => CreateError::OverLimit { nth },
        InsertError::NoCells { nth } => CreateError::NoResource { nth },
        _ => CreateError::Full,
    }
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
    // A tag that we or the sender do not know yet matches any. One that has answered without a tag has none (§12.1.2).
    let unknown = callee.is_empty() && view.header.confirmed_at.get() == 0;
    let is_callee = |tag: &[u8]| tag == callee || tag.is_empty() || unknown;
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
