//! The `seat` table: who has a place at which destination of a group. A call takes a seat before its INVITE goes to a destination, gives it back when
//! it goes to another one, and when it ends.
//!
//! ```text
//! key = place of the dialog u64 | attempt u8 (the branch that goes there)
//!     | row of the dialog u64   | 240 and which of its counts u8, of a call of a snapshot
//! ```
//!
//! The seats of a destination are counted in its cells (`shm::counts`), so that its limit is kept by several slots at the same moment, and a death makes no
//! seat too many. A seat is never without its dialog for long: it is taken when the dialog is there, and given back before that goes. What a race leaves behind all the
//! same is found by [`Seats::sweep`].
//!
//! *A call of a snapshot* can't be counted in its domain, user and profile as others are, because that is done as its record appears. It has a seat in each of them.
//!
//! Each operation is one of `shm::ops` and takes effect where that does. *Full*: a seat is refused, and so is the call. Giving back needs no memory.

use shm::{Count, Cursor, InsertError, New, Participant, RowMeta, RowRef};
use stdx::Instant;
use zerocopy::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

use crate::balancer::{Balancer, Mode, Resource, ResourceKey, ResourceKind};
use crate::dialog::{Dialog, DialogState, View};
use crate::row::{Fields, Header, put, row, word};
use crate::{BALANCER, DIALOG, SEAT, balancer};

row! {
    /// The header of a seat; `kind` is 0.
    pub struct SeatRow: version 1, 28 bytes {
        /// The packed row of its dialog.
        pub dialog: U64,
        /// The packed row of the destination in `balancer`.
        pub resource: U64,
        /// It was taken.
        pub taken_at: U64,
    }
}

/// The key of the destination in `balancer`: its row may become another's.
const RESOURCE_KEY: u8 = 1;

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeatError {
    #[error("all seats are taken")]
    Taken,
    #[error("the destination is no more")]
    Gone,
    #[error("no memory for a new seat")]
    Full,
}

/// The `seat` table through one participant.
pub struct Seats<'p>(pub &'p mut Participant);

fn key(place: u64, attempt: u8) -> [u8; 9] {
    let mut key = [0; 9];
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&place.to_le_bytes());
    tail.fill(attempt);
    key
}

impl Seats<'_> {
    /// Takes a seat for an attempt of the call whose dialog is in row `dialog` and has this place. The same attempt has one seat: who takes it again has it, and if it was at
    /// another destination, it is not any more.
    pub fn take(
        &mut self,
        dialog: RowRef,
        place: u64,
        attempt: u8,
        resource: RowRef,
        limit: Option<u64>,
        now: Instant,
    ) -> Result<(), SeatError> {
        let key = key(place, attempt);
        let (mut cells, resource_key) =
            balancer::admission(self.0, resource).ok_or(SeatError::Gone)?;
        let mut body = Vec::new();
        let mut row = SeatRow::new_zeroed();
        row.begin(0);
        row.dialog = U64::new(dialog.pack());
        row.resource = U64::new(resource.pack());
        row.taken_at = word(Some(now));
        body.extend_from_slice(row.as_bytes());
        put(RESOURCE_KEY, Some(&resource_key), &mut body);
        for _ in 0..balancer::ATTEMPTS_MAX {
            let of = Some(resource);
            let new = New {
                key: &key,
                payload: &[&body],
                meta: RowMeta::default(),
                counts: &[Count { cells, limit, of }],
                ..New::default()
            };
            match self.0.insert_new(SEAT, &new) {
                Ok(_) => return Ok(()),
                Err(InsertError::Exists { row, .. }) => {
                    let same = self.0.with(row, |record| {
                        let (header, rest) = SeatRow::read(record.payload)?;
                        Some(
                            header.resource.get() == resource.pack()
                                && resource_of(rest) == resource_key,
                        )
                    });
                    match same {
                        Some(Some(true)) => return Ok(()),
                        Some(_) => drop(self.leave_row(row)),
                        None => {}
                    }
                }
                Err(InsertError::OverLimit { .. }) => return Err(SeatError::Taken),
                // Somebody is about to remove it, or has.
                Err(InsertError::NoCells { .. }) => {
                    let again = balancer::admission(self.0, resource);
                    (cells, _) = again.ok_or(SeatError::Gone)?;
                }
                Err(InsertError::Stale) => {}
                Err(_) => return Err(SeatError::Full),
            }
        }
        Err(SeatError::Full)
    }

    /// A seat is a further dialog's from now on: it stays when the first one of its INVITE ends.
    pub fn pass_on(&mut self, place: u64, attempt: u8, dialog: RowRef) {
        for _ in 0..balancer::ATTEMPTS_MAX {
            let seen = self.0.find(SEAT, &key(place, attempt), |record| {
                let (mut header, rest) = SeatRow::read(record.payload)?;
                header.dialog = U64::new(dialog.pack());
                let mut body = header.as_bytes().to_vec();
                body.extend_from_slice(rest);
                Some((record.row, record.version, body))
            });
            let Some((row, version, body)) = seen.flatten() else {
                return;
            };
            let changed = self
                .0
                .replace(row, version, &[&body], &[], RowMeta::default());
            if !matches!(changed, Err(shm::ReplaceError::Changed)) {
                return;
            }
        }
    }

    /// Gives a seat back; false if there is none.
    pub fn leave(&mut self, place: u64, attempt: u8) -> bool {
        let row = self.0.find(SEAT, &key(place, attempt), |record| record.row);
        row.is_some_and(|row| self.leave_row(row))
    }

    fn leave_row(&mut self, row: RowRef) -> bool {
        let cells = self.0.with(row, |record| {
            let (header, rest) = SeatRow::read(record.payload)?;
            let resource = RowRef::unpack(header.resource.get());
            balancer::cells_of(self.0, resource, resource_of(rest))
        });
        match cells {
            None => false,
            Some(cells) => self.0.remove_counted(row, None, cells.as_slice()),
        }
    }

    /// The destination that an attempt has a seat at, as its key in `balancer`.
    pub fn resource<R>(&self, place: u64, attempt: u8, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.0
            .find(SEAT, &key(place, attempt), |record| {
                let (_, rest) = SeatRow::read(record.payload)?;
                Some(look(resource_of(rest)))
            })
            .flatten()
    }

    /// Gives calls that came out of a snapshot their seats again: dialogs outlive the server, seats and resources do not. A call that is up is not refused,
    /// so that no limit is looked at; a destination that is not there (any more, or yet) is left out, while a domain, user or profile is made, until nothing counts in it. Looks at `rows_max` dialogs from `cursor` on; `None` at the
    /// end. Returns how many seats it took.
    pub fn restore(
        &mut self,
        now: Instant,
        cursor: Cursor,
        rows_max: usize,
    ) -> (Option<Cursor>, u64) {
        let (mut without, mut uncounted) = (Vec::new(), Vec::new());
        let next = self.0.scan(DIALOG, cursor, rows_max, |record| {
            let Some(view) = View::new(&record) else {
                return;
            };
            if is_on(&view) {
                for (nth, name) in view.uncounted() {
                    let key = key(view.row.pack(), RESTORED.saturating_add(nth));
                    if self.0.find(SEAT, &key, |_| ()).is_none() {
                        uncounted.push((view.row, nth, ResourceKey::read(name)));
                    }
                }
            }
            if !is_seated(&view) {
                return;
            }
            let attempt = view.header.seat.saturating_sub(1);
            let key = key(view.place(), attempt);
            if self.0.find(SEAT, &key, |_| ()).is_some() {
                return;
            }
            let resource = self
                .0
                .find(BALANCER, view.destination(), |record| record.row);
            without.extend(resource.map(|to| (view.row, view.place(), attempt, to)));
        });
        let mut taken = 0;
        for (dialog, place, attempt, resource) in without {
            taken += u64::from(self.retake(dialog, place, attempt, resource, now, is_seated));
        }
        for (dialog, nth, name) in uncounted {
            if !matches!(
                name.kind(),
                Some(ResourceKind::Domain | ResourceKind::User | ResourceKind::Profile)
            ) {
                continue;
            }
            // It may be configured no more: it goes with the last that counts in it.
            let new = Resource {
                mode: Mode::Removed,
                created_at: Some(now),
                ..Resource::default()
            };
            // No memory: the next time.
            let Ok(resource) = Balancer(self.0).ensure(&name, &new) else {
                continue;
            };
            let attempt = RESTORED.saturating_add(nth);
            taken += u64::from(self.retake(dialog, dialog.pack(), attempt, resource, now, is_on));
        }
        (next, taken)
    }

    /// A seat for a dialog that was there a moment ago.
    fn retake(
        &mut self,
        dialog: RowRef,
        place: u64,
        attempt: u8,
        resource: RowRef,
        now: Instant,
        is_entitled: fn(&View<'_>) -> bool,
    ) -> bool {
        if self
            .take(dialog, place, attempt, resource, None, now)
            .is_err()
        {
            return false;
        }
        // It may have ended meanwhile, its seat given back before this.
        let lives = |record: shm::Record<'_>| View::new(&record).as_ref().is_some_and(is_entitled);
        let lives = self.0.with(dialog, lives) == Some(true);
        if !lives {
            self.leave(place, attempt);
        }
        lives
    }

    /// A dialog has gone: the seats that counted for it after a restart go, too.
    pub fn leave_restored(&mut self, row: RowRef, dialog: &Dialog) {
        for (nth, by) in (0..).zip(&dialog.counted) {
            if by.row.is_none() {
                self.leave(row.pack(), RESTORED.saturating_add(nth));
            }
        }
    }

    /// Gives back the seats whose dialog is no more, looking at `rows_max` rows from `cursor` on; `None` at the end. Returns how many there were.
    pub fn sweep(&mut self, cursor: Cursor, rows_max: usize) -> (Option<Cursor>, u64) {
        let mut left = Vec::new();
        let next = self.0.scan(SEAT, cursor, rows_max, |record| {
            let dialog = SeatRow::read(record.payload).map(|(header, _)| header.dialog.get());
            let there =
                dialog.is_some_and(|row| self.0.with(RowRef::unpack(row), |_| ()).is_some());
            if !there {
                left.push(record.row);
            }
        });
        let given_back = left.into_iter().filter(|&row| self.leave_row(row)).count();
        (next, given_back as u64)
    }
}

/// In the place of an attempt, the first of those that are for the counts of a call of a snapshot: more than a call has branches.
const RESTORED: u8 = 240;

/// Whether a dialog has not ended.
fn is_on(view: &View<'_>) -> bool {
    view.state != DialogState::Ended
}

/// Whether a dialog is a call that is up, at a destination.
fn is_seated(view: &View<'_>) -> bool {
    let is_up = matches!(view.state, DialogState::Confirmed | DialogState::Ending);
    is_up && view.header.seat > 0 && !view.destination().is_empty()
}

fn resource_of(fields: &[u8]) -> &[u8] {
    let mut fields = Fields(fields);
    fields
        .find_map(|(tag, value)| (tag == RESOURCE_KEY).then_some(value))
        .unwrap_or_default()
}
