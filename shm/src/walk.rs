//! Walks over the rows of a table: everything, one owner's, what has expired.
//!
//! A walk sees every record that is there from its beginning to its end, and of the others any. Nothing is locked; a cursor is a
//! row number and may be kept as long as one likes.
//!
//! *Expiry.* A row's `expires_at` is a hint for the scan: `replace` lowers it before its CAS and after it, only the scan raises it, to the value in
//! the body, and lowers it again if the record changed meanwhile. So it never is later than the truth once both have ended, but for a scan or a replace that dies in
//! between (recovery and the sweep correct that). Removal is `remove` in the version that was seen: a record that is refreshed at the same time stays.

use std::rc::Rc;

use stdx::Instant;
use sync::Ordering;

use crate::arena::Inner;
use crate::body::{BodyView, NEVER};
use crate::ctl::{Ctl, Version};
use crate::epoch::COUNTS_MAX;
use crate::id::{Block, ParticipantId, RowRef, TableId};
use crate::layout::ROWS_PER_SLAB;
use crate::participant::{Participant, Record};
use crate::slab::{Kind, Row, row_slab};

/// Where a walk goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(u32);

impl Participant {
    /// Every record of a table.
    pub fn rows(&self, table: TableId, mut f: impl FnMut(Record<'_>)) {
        let mut next = Some(Cursor::default());
        while let Some(cursor) = next {
            next = self.scan(table, cursor, usize::MAX, &mut f);
        }
    }

    /// Every record of a table whose owner is this participant: an heir's walk.
    pub fn rows_of(&self, table: TableId, owner: ParticipantId, mut f: impl FnMut(Record<'_>)) {
        for (slab, of) in self.inner().row_slabs(Some(table)) {
            if of == owner.0 {
                for (index, row) in self.inner().rows_in(slab) {
                    self.visit(index, row, &mut f);
                }
            }
        }
    }

    /// Records of a table, looking at `max` rows from `cursor` on; `None` at the end.
    pub fn scan(
        &self,
        table: TableId,
        cursor: Cursor,
        max: usize,
        mut f: impl FnMut(Record<'_>),
    ) -> Option<Cursor> {
        let mine = |kind| matches!(kind, Some(Kind::Rows(t)) if t == table);
        walk(
            self.inner(),
            cursor,
            max,
            |slab| mine(self.inner().descriptor(slab).kind()),
            |index, row| self.visit(index, row, &mut f),
        )
    }

    /// As [`scan`](Self::scan), of the records that this participant looks after when they expire: each is one participant's.
    pub fn scan_share(
        &self,
        table: TableId,
        cursor: Cursor,
        max: usize,
        mut f: impl FnMut(Record<'_>),
    ) -> Option<Cursor> {
        let inner = self.inner();
        let ours = |slab| inner.is_duty(self.id, slab, table);
        walk(inner, cursor, max, ours, |index, row| {
            self.visit(index, row, &mut f);
        })
    }

    fn visit(&self, index: u32, row: Row<'_>, f: &mut impl FnMut(Record<'_>)) {
        debug_assert!(self.online, "a walk needs an announced epoch");
        let ctl = row.load();
        if !ctl.is_live() {
            return;
        }
        if let Some(body) = ctl.body().and_then(|b| self.inner().body(b)) {
            let row = RowRef {
                index,
                generation: ctl.generation(),
            };
            f(self.record(row, ctl, &body));
        }
    }

    /// Removes the records that have expired, of our own and of our share of the control threads'; `f` gets each after its removal. Looks at
    /// `budget` rows from `cursor` on; `None` at the end of a pass.
    pub fn expire(
        &mut self,
        table: TableId,
        now: Instant,
        cursor: Cursor,
        budget: usize,
        f: impl FnMut(Record<'_>),
    ) -> Option<Cursor> {
        self.expire_counted(table, now, cursor, budget, |_, _| [None; COUNTS_MAX], f)
    }

    /// As [`expire`](Self::expire), of a table whose records count in cells: `counted` says for a record that is about to go in which blocks it counts, as for
    /// [`remove_counted`](Self::remove_counted).
    pub fn expire_counted(
        &mut self,
        table: TableId,
        now: Instant,
        cursor: Cursor,
        budget: usize,
        mut counted: impl FnMut(&Self, &Record<'_>) -> [Option<Block>; COUNTS_MAX],
        mut f: impl FnMut(Record<'_>),
    ) -> Option<Cursor> {
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let id = self.id;
        let ours = |slab| inner.is_duty(id, slab, table);
        walk(inner, cursor, budget, ours, |index, row| {
            let Some((ctl, body)) = inner.expired(&row, now) else {
                return;
            };
            let at = RowRef {
                index,
                generation: ctl.generation(),
            };
            let record = self.record(at, ctl, &body);
            let mut cells = [Block(0); COUNTS_MAX];
            let mut count = 0;
            for (place, block) in cells
                .iter_mut()
                .zip(counted(self, &record).into_iter().flatten())
            {
                *place = block;
                count += 1;
            }
            if self.remove_counted(at, Some(Version(ctl.0)), &cells[..count]) {
                f(record);
            }
        })
    }

    /// The records that have expired, of our own and of our share of the control threads'; they stay. Looks at `budget` rows from `cursor` on; `None` at
    /// the end of a pass.
    pub fn due(
        &self,
        table: TableId,
        now: Instant,
        cursor: Cursor,
        budget: usize,
        mut f: impl FnMut(Record<'_>),
    ) -> Option<Cursor> {
        let inner = self.inner();
        let ours = |slab| inner.is_duty(self.id, slab, table);
        walk(inner, cursor, budget, ours, |index, row| {
            if let Some((ctl, body)) = inner.expired(&row, now) {
                let at = RowRef {
                    index,
                    generation: ctl.generation(),
                };
                f(self.record(at, ctl, &body));
            }
        })
    }
}

/// Visits up to `max` rows of the slabs that `chosen` names.
pub(crate) fn walk<'a>(
    inner: &'a Inner,
    cursor: Cursor,
    max: usize,
    chosen: impl Fn(u32) -> bool,
    mut visit: impl FnMut(u32, Row<'a>),
) -> Option<Cursor> {
    let (mut slab, mut skip) = (row_slab(cursor.0), cursor.0 % ROWS_PER_SLAB);
    let mut left = max;
    while slab < inner.geometry.slabs {
        if chosen(slab) {
            for (index, row) in inner.rows_in(slab).skip(skip as usize) {
                if left == 0 {
                    return Some(Cursor(index));
                }
                left -= 1;
                visit(index, row);
            }
        }
        skip = 0;
        slab += 1;
    }
    None
}

impl Inner {
    /// Whether expired rows of this slab are for this participant to look for.
    fn is_duty(&self, id: u16, slab: u32, table: TableId) -> bool {
        let slots = self.geometry.layout.slots;
        let d = self.descriptor(slab);
        let duty = if d.owner() < slots {
            d.owner()
        } else {
            (slab % u32::from(slots)) as u16
        };
        duty == id && matches!(d.kind(), Some(Kind::Rows(t)) if t == table)
    }

    /// The record in this row, if it has expired; corrects a hint that says so and is wrong.
    fn expired(&self, row: &Row<'_>, now: Instant) -> Option<(Ctl, BodyView<'_>)> {
        // Relaxed: a hint.
        let hint = row.expires_at.load(Ordering::Relaxed);
        if hint > now.as_nanos() {
            return None;
        }
        let ctl = row.load();
        let body = ctl.is_live().then(|| ctl.body()).flatten()?;
        let body = self.body(body)?;
        if body.expires_at > now.as_nanos() {
            self.raise(row, hint, body.expires_at, ctl.0);
            return None;
        }
        Some((ctl, body))
    }

    /// Lowers an expiry hint: by `replace`, before its CAS, in case it dies after that, and again after it, in case a scan has raised it in between.
    pub(crate) fn lower(&self, row: &Row<'_>, to: u64) {
        // SYNC expiry: SeqCst, after the CAS; pairs with `raise`: of a raise before this it undoes the harm, a raise after this sees the new control word.
        row.expires_at.fetch_min(to, Ordering::SeqCst);
    }

    /// Raises an expiry hint to `to`, seen in the body under the control word `seen`.
    pub(crate) fn raise(&self, row: &Row<'_>, from: u64, to: u64, seen: u64) {
        // SYNC expiry: SeqCst: this store must be ordered before the second look at ctl, against `replace`, which lowers the hint before it changes ctl.
        if row
            .expires_at
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed)
            .is_err()
        {
            return;
        }
        let mut seen = Ctl(seen);
        loop {
            let ctl = row.load();
            if ctl == seen {
                return;
            }
            let truth = ctl
                .is_live()
                .then(|| ctl.body())
                .flatten()
                .and_then(|b| self.body(b))
                .map_or(NEVER, |b| b.expires_at);
            row.expires_at.fetch_min(truth, Ordering::SeqCst);
            seen = ctl;
        }
    }
}
