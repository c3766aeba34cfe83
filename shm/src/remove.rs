//! The end of records: removal, the rest of it that anyone may do, and the abort of an insert. The steps are in `ops`.

use failpoint::failpoint;
use std::rc::Rc;

use crate::ctl::{Ctl, RowState, Version};
use crate::epoch::Intent;
use crate::id::{Block, RowRef};
use crate::participant::{Item, Participant};

impl Participant {
    /// Removes a record, whatever its version or only in this one. `false`: it has changed or gone. Allocates nothing.
    pub fn remove(&mut self, row: RowRef, expect: Option<Version>) -> bool {
        self.remove_counted(row, expect, &[])
    }

    /// As [`remove`](Self::remove), for a record that counts in these blocks of cells: children, each, of a record that was found since the last `quiescent`. A
    /// resource that is no more is left out; so is its count.
    ///
    /// # Panics
    /// With more than [`COUNTS_MAX`](crate::COUNTS_MAX) blocks.
    pub fn remove_counted(
        &mut self,
        row: RowRef,
        expect: Option<Version>,
        cells: &[Block],
    ) -> bool {
        assert!(self.online, "remove needs an announced epoch");
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let Some(words) = inner.row(row.index) else {
            return false;
        };
        let cells = self.stage_removal(cells);
        let removed = loop {
            let live = words.load();
            if live.generation() != row.generation
                || !live.is_live()
                || expect.is_some_and(|v| v.0 != live.0)
            {
                break false;
            }
            inner.set_intent(
                self.id,
                Intent {
                    row: row.index,
                    old: live.0,
                    cells,
                },
            );
            failpoint!("shm.remove.intended");
            let dying = live.removed(self.id);
            if words.change(live, dying) {
                failpoint!("shm.remove.dying");
                inner.commit_cells(self.id, &cells);
                failpoint!("shm.remove.counted");
                self.finish(row, dying);
                break true;
            }
        };
        inner.clear_intent(self.id);
        removed
    }

    /// Steps 3 and 4 of remove, for a row that somebody moved to DYING. Anyone may.
    pub(crate) fn finish(&mut self, row: RowRef, dying: Ctl) {
        let arena = Rc::clone(&self.arena);
        let Some(words) = arena.0.row(row.index) else {
            return;
        };
        arena.0.unlink_row(&words, row);
        failpoint!("shm.finish.unlinked");
        self.release(row, dying, None);
        failpoint!("shm.finish.released");
        if words.change(dying, dying.retired()) {
            self.push_limbo(Item::Row(row.index), dying.retired().0);
        }
    }

    /// Retires the blocks of a body that its row does not hold any more, but those in `kept`.
    pub(crate) fn release(&mut self, row: RowRef, ctl: Ctl, kept: Option<&[Block]>) {
        let Some(block) = ctl.body() else { return };
        let arena = Rc::clone(&self.arena);
        if let Some(body) = arena.0.body(block) {
            for child in body.children {
                if !kept.is_some_and(|k| k.contains(child)) {
                    self.retire_block(row, child.0);
                }
            }
        }
        self.retire_block(row, block);
    }

    /// Takes our own PENDING row out, or helps with it if somebody aborted it.
    pub(crate) fn abort(&mut self, row: RowRef) {
        let arena = Rc::clone(&self.arena);
        let Some(words) = arena.0.row(row.index) else {
            return;
        };
        let ctl = words.load();
        if ctl.generation() != row.generation {
            return;
        }
        if ctl.state() == Some(RowState::Pending) {
            // Lost: somebody else aborts it, to the same word.
            words.change(ctl, ctl.dying());
        }
        failpoint!("shm.abort.dying");
        arena.0.unlink_row(&words, row);
        failpoint!("shm.abort.unlinked");
        let dying = ctl.dying();
        if words.change(dying, dying.retired()) {
            self.push_limbo(Item::Row(row.index), dying.retired().0);
        }
    }
}
