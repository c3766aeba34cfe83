//! Counted records: how many there are of what has a limit, exact after any death.
//!
//! A *block of cells* is a child of the record of a resource (a destination, a domain): one word for each participant, each on a line of its own, each written by its
//! participant only. A record that uses the resource counts in it: whoever makes the record adds one to its own cell, whoever removes it takes one off its own
//! cell (which may be another's, so that a cell may be negative). The sum of the cells is the number of records.
//!
//! | counted insert, in place of step 5 of `ops` | survivors see | if it dies here |
//! |---|---|---|
//! | 5a. intent := row, PENDING word, (block, own cell + 1) for each count | nothing of us | the cells are what they were; recovery stores that again |
//! | 5b. own cells := those values; fence; sum up; over a limit: own cells := old values, clear the intent, fail | one more, for a moment | recovery puts the old values back |
//! | 5c. **row PENDING → LIVE** (failed: as over a limit) | the record | recovery stores the new values again |
//! | 5d. clear the intent | | |
//!
//! | counted removal, around step 2 of `ops` | survivors see | if it dies here |
//! |---|---|---|
//! | 1. intent := row, LIVE word, (block, own cell - 1) for each count | the record | recovery stores the old values again |
//! | 2. **LIVE → DYING by us** | nothing, and one too many counted | recovery stores the new values |
//! | 2b. own cells := those values | | the same |
//!
//! The intent holds absolute values, so that a recovery can be repeated; and the control word alone says whether the dead one's change took place:
//! - *Its insert did* if the row is LIVE in that generation, or its DYING, RETIRED or FREE word says that it was. Only the inserter makes PENDING LIVE.
//! - *Its removal did* if the DYING, RETIRED or FREE word names it as the winner. A generation is removed once; a helper that moves DYING to RETIRED, and the
//!   one who frees it, keep these bits.
//!
//! *The word is still that generation's*, and the block of cells still is one: the dead one saw both after its last quiescent point (the row PENDING by its own
//! hand or LIVE; the block as a child of a LIVE record, by the caller's word). It is online with the epoch of that point until its recovery is done, so that
//! nothing which was retired since then has become free, let alone something else. A resource may be removed meanwhile: then the cells are
//! written in a RETIRED block, for nobody.
//!
//! *A resource that goes takes no count with it.* Whoever wants to remove one closes it first ([`CLOSED`], by a change of its control word), and then sums up: if that is 0, it goes, in the
//! version that was closed. Whoever counts in it looks at its word after 5b, and takes the count back if it is closed or gone. Both write before they read, all of it SeqCst: so either the
//! one sees the count or the other the closing. Who wants to count in a closed one changes it first (`replace`: another body, which cannot be the old one again while the
//! other holds its epoch), so that the removal fails. A closer that dies leaves a closed resource, which is opened or closed again by the next one.
//!
//! *The limit is never exceeded.* Say that L + 1 counted records are LIVE at one moment, and X is the one of them that was counted (5b) last. The other L
//! were counted before it and still are, so its sum should have been L + 1 at least. It was less only if X read one cell before a record E was counted in
//! it, and another cell after E was taken off there; so E was counted, admitted and removed while X summed up. Of all such records take the one that was admitted
//! first. It summed up after X was counted, so it should have seen L + 2 at least; it saw less only because of an E' in the same way, which was
//! counted after X, too, and admitted before E. But E was the first. All accesses are SeqCst, which is what this takes for granted; the crate `model`
//! searches for a counterexample. The other way round is possible: of those that come for the last place at the same moment, all may be refused.

use std::rc::Rc;

use sync::{AtomicU64, Ordering, fence};

use failpoint::failpoint;

use crate::arena::Inner;
use crate::body::KIND_CELLS;
use crate::ctl::{BlockState, Ctl, RowState};
use crate::epoch::{Intent, Staged};
use crate::id::{Block, RowRef};
use crate::ops::InsertError;
use crate::participant::{AllocClass, Full, Participant};

/// What a new record counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// A block of cells: a child of a record that was found since the last `quiescent`.
    pub cells: Block,
    /// How many there may be, this one included; `None`: any number.
    pub limit: Option<u64>,
    /// The record that the cells are a child of: it must not be [`CLOSED`], or gone. `None`: the caller knows that it stays.
    pub of: Option<RowRef>,
}

/// Of a record's flags: nothing new may count in its cells, because it is about to go.
pub const CLOSED: u8 = 0x80;

/// Bytes of a cell, and of the header's line before the first.
const CELL_BYTES: u64 = 64;

impl Inner {
    /// Where this block lies; `None` if it is none of cells.
    fn cells_place(&self, block: u32) -> Option<u64> {
        let (at, size) = self.block_place(block)?;
        let used = self.load_meta(block)?.state()? != BlockState::Free;
        // Relaxed: the header was written before the block was shown to anybody, and never since.
        let kind = self.map.word(at).load(Ordering::Relaxed) >> 56;
        let fits = (u64::from(self.geometry.participants) + 1) * CELL_BYTES <= size;
        (used && kind == KIND_CELLS && fits).then_some(at)
    }

    fn cells(&self, block: u32) -> Option<impl Iterator<Item = &AtomicU64>> {
        let at = self.cells_place(block)? + CELL_BYTES;
        let ids = 0..u64::from(self.geometry.participants);
        Some(ids.map(move |id| self.map.word(at + id * CELL_BYTES)))
    }

    fn cell(&self, block: u32, id: u16) -> Option<&AtomicU64> {
        let at = self.cells_place(block)? + CELL_BYTES;
        (id < self.geometry.participants).then(|| self.map.word(at + u64::from(id) * CELL_BYTES))
    }

    fn cells_total(&self, block: u32) -> Option<i64> {
        // SYNC cells: SeqCst, see the head.
        let cells = self.cells(block)?.map(|c| c.load(Ordering::SeqCst));
        Some(cells.fold(0, |sum, cell| sum.wrapping_add(cell.cast_signed())))
    }

    /// Whether something may count in what this record has.
    fn is_open(&self, of: RowRef) -> bool {
        failpoint!("shm.broken.no_look_at_resources", true);
        self.row(of.index).is_some_and(|words| {
            let now = words.load();
            now.generation() == of.generation && now.is_live() && now.flags() & CLOSED == 0
        })
    }

    /// Stores what an intent says.
    pub(crate) fn commit_cells(&self, id: u16, staged: &Staged) {
        for (block, value) in staged.iter() {
            if let Some(cell) = self.cell(block, id) {
                // SYNC cells: SeqCst, see the head.
                cell.store(value, Ordering::SeqCst);
            }
        }
    }

    /// Stores what was there before. `by`: what each count was going to add. Backwards, in case a block is listed twice.
    pub(crate) fn undo_cells(&self, id: u16, staged: &Staged, by: i64) {
        for (block, value) in staged.iter().rev() {
            if let Some(cell) = self.cell(block, id) {
                // SYNC cells: SeqCst, see the head.
                cell.store(value.wrapping_sub(by.cast_unsigned()), Ordering::SeqCst);
            }
        }
    }

    /// Settles a dead participant's cells by its intent and the control word as it is now, in the generation of the intent. Idempotent.
    pub(crate) fn settle_cells(&self, dead: u16, intent: &Intent, now: Ctl) {
        let (by, took_place) = match Ctl(intent.old).state() {
            Some(RowState::Pending) => (1, now.is_live() || now.winner().is_some()),
            Some(RowState::Live) => (-1, now.winner() == Some(dead)),
            _ => return,
        };
        if took_place {
            self.commit_cells(dead, &intent.cells);
        } else {
            self.undo_cells(dead, &intent.cells, by);
        }
    }
}

impl Participant {
    /// An unattached block of cells, all of them 0, to be listed as a child of the resource's record.
    pub fn allocate_cells(&mut self) -> Result<Block, Full> {
        self.allocate_cells_with(0)
    }

    /// A block of cells of this sum, which stands in our cell: for a copy of a whole arena.
    pub fn allocate_cells_with(&mut self, total: i64) -> Result<Block, Full> {
        let arena = Rc::clone(&self.arena);
        let bytes = (u64::from(arena.participants()) + 1) * CELL_BYTES;
        let block = self.allocate_block(bytes as usize, AllocClass::New)?;
        let Some((at, _)) = arena.0.block_bytes(block) else {
            return Err(Full);
        };
        // SAFETY: a LOOSE block of ours of at least CELL_BYTES bytes: nobody else touches it.
        unsafe { crate::body::write_cells_header(at) };
        for (id, cell) in arena.0.cells(block).into_iter().flatten().enumerate() {
            let value = if id == usize::from(self.id) { total } else { 0 };
            // Relaxed: nobody else knows of the block yet; the CAS of the row that lists it publishes them.
            cell.store(value.cast_unsigned(), Ordering::Relaxed);
        }
        Ok(Block(block))
    }

    /// How many records count in these cells; 0 if it is no block of cells. The block is to be as for [`block`](Self::block).
    pub fn cells_total(&self, cells: Block) -> i64 {
        debug_assert!(self.online);
        self.inner().cells_total(cells.0).unwrap_or(0)
    }

    /// Whether this block, as for [`block`](Self::block), is one of cells.
    pub fn is_cells(&self, block: Block) -> bool {
        self.inner().cell(block.0, 0).is_some()
    }

    /// The values that our cells are to have. `Err`: which of the blocks is none of cells, or one too many.
    fn stage(&self, blocks: impl Iterator<Item = Block>, by: i64) -> Result<Staged, usize> {
        let mut staged = Staged::NONE;
        for (nth, block) in blocks.enumerate() {
            let cell = self.inner().cell(block.0, self.id).ok_or(nth)?;
            // Who lists a block twice counts twice in it.
            let earlier = staged.iter().rev().find(|(b, _)| *b == block.0);
            // Relaxed: nobody else writes it.
            let value = earlier.map_or_else(|| cell.load(Ordering::Relaxed), |(_, value)| value);
            if !staged.push(block.0, value.wrapping_add(by.cast_unsigned())) {
                return Err(nth);
            }
        }
        Ok(staged)
    }

    /// Whether there is room, before anything is built: a look only, the word has [`admit`](Self::admit).
    pub(crate) fn has_room(&self, counts: &[Count]) -> Result<(), InsertError> {
        for (nth, count) in counts.iter().enumerate() {
            let total = self
                .inner()
                .cells_total(count.cells.0)
                .ok_or(InsertError::NoCells { nth })?;
            if count.limit.is_some_and(|limit| over(total, 1, limit)) {
                return Err(InsertError::OverLimit { nth });
            }
        }
        Ok(())
    }

    /// Steps 5a and 5b: afterwards the intent is set, and the cells count the record; on an error nothing has happened.
    pub(crate) fn admit(
        &mut self,
        row: RowRef,
        pending: Ctl,
        counts: &[Count],
    ) -> Result<Staged, InsertError> {
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let cells = self
            .stage(counts.iter().map(|c| c.cells), 1)
            .map_err(|nth| InsertError::NoCells { nth })?;
        inner.set_intent(
            self.id,
            Intent {
                row: row.index,
                old: pending.0,
                cells,
            },
        );
        failpoint!("shm.counts.intended");
        inner.commit_cells(self.id, &cells);
        failpoint!("shm.counts.added");
        fence(Ordering::SeqCst);
        let refused = counts.iter().position(|count| {
            count.limit.is_some_and(|limit| {
                inner
                    .cells_total(count.cells.0)
                    .is_none_or(|total| over(total, 0, limit))
            })
        });
        let closed = || {
            counts
                .iter()
                .position(|count| count.of.is_some_and(|of| !inner.is_open(of)))
        };
        let error = match refused {
            Some(nth) => InsertError::OverLimit { nth },
            None => match closed() {
                Some(nth) => InsertError::NoCells { nth },
                None => return Ok(cells),
            },
        };
        self.take_back(&cells);
        Err(error)
    }

    /// Undoes [`admit`](Self::admit).
    pub(crate) fn take_back(&mut self, cells: &Staged) {
        let inner = self.inner();
        inner.undo_cells(self.id, cells, 1);
        inner.clear_intent(self.id);
    }

    /// The cells of a removal. What is no block of cells is left out: its resource is gone, and its count with it.
    pub(crate) fn stage_removal(&self, blocks: &[Block]) -> Staged {
        let counted = blocks.iter().copied().filter(|b| self.is_cells(*b));
        self.stage(counted, -1).unwrap_or_else(|_| {
            unreachable!("a record counts in {} blocks at most", crate::COUNTS_MAX)
        })
    }
}

/// Whether `total` and `more` are over a limit.
fn over(total: i64, more: i64, limit: u64) -> bool {
    i64::try_from(limit).is_ok_and(|limit| total.saturating_add(more) > limit)
}
