//! Find, insert, replace, remove: the steps of `shm::ops` and `shm::index`, one frame for each loop body or phase.

use crate::actor::{Answer, Flow, Frame, Item, Making, Step, Turn};
use crate::broken::Broken;
use crate::memory::{BlockState, Content, Ctl, Index, Meta, Names, RowRef, State};
use crate::properties::Violation;

/// Rounds of an insert against other inserters of its key.
const ROUNDS: u8 = 1;

impl Turn<'_> {
    pub(crate) fn run(&mut self, frame: Frame) -> Step<Flow> {
        match frame {
            Frame::Find { index, name, place } => self.find(index, name, place),
            Frame::Meet {
                names,
                me,
                index,
                place,
            } => self.meet(names, me, index, place),
            Frame::MeetRow {
                names,
                me,
                index,
                place,
                entry,
            } => self.meet_row(names, me, index, place, entry),
            Frame::Reserve(making) => Ok(Flow::Call(
                Frame::TakeRow(making),
                Frame::Meet {
                    names: making.names,
                    me: None,
                    index: Index::Key,
                    place: 0,
                },
            )),
            Frame::TakeRow(making) => self.take_row(making),
            Frame::Link {
                making,
                index,
                place,
            } => self.link(making, index, place),
            Frame::Rescan(making) => Ok(self.rescan(making)),
            Frame::TakeBlocks(making) => self.take_blocks(making),
            Frame::Attach(making) => self.attach_blocks(making),
            Frame::Admit(making) => self.admit(making),
            Frame::Publish { making, cell } => self.publish(making, cell),
            Frame::LinkLate { making, place } => self.link_late(making, place),
            Frame::Unpublish { making, cell, why } => self.unpublish(making, cell, why),
            Frame::Abort { making, why } => self.abort(making, why),
            Frame::Again { making, why } => Ok(again(making, why)),
            Frame::Replace { keep_child } => self.replace(keep_child),
            Frame::ReplaceFill {
                row,
                live,
                old,
                child,
                body,
            } => self.replace_fill(row, live, old, child, body),
            Frame::ReplaceSwap {
                row,
                live,
                old,
                child,
                body,
            } => self.replace_swap(row, live, old, child, body),
            Frame::ReplaceUndo { new_child, body } => self.replace_undo(new_child, body),
            Frame::Keep => {
                if let Answer::Found(row, _, _) = self.own.answer {
                    self.own.kept = Some(row);
                }
                Ok(Flow::Return(self.own.answer))
            }
            Frame::RemoveKept => Ok(match self.own.kept {
                Some(row) => Flow::Next(Frame::RemoveRow {
                    row,
                    counted: false,
                }),
                None => Flow::Return(Answer::Nothing),
            }),
            Frame::Remove => Ok(match self.own.answer {
                Answer::Found(row, _, content) => Flow::Next(Frame::RemoveRow {
                    row,
                    counted: content.counted,
                }),
                other => Flow::Return(other),
            }),
            Frame::RemoveRow { row, counted } => self.remove_row(row, counted),
            Frame::Removed { row, dying, cell } => self.removed(row, dying, cell),
            Frame::ClearIntent(answer) => {
                self.set_intent(self.id, None)?;
                Ok(Flow::Return(answer))
            }
            Frame::Finish { row, dying } => self.finish(row, dying),
            Frame::FinishRelease { row, dying } => Ok(Flow::Call(
                Frame::Retire { row, dying },
                Frame::Release {
                    row,
                    ctl: dying,
                    kept: None,
                },
            )),
            Frame::Retire { row, dying } => self.retire(row, dying),
            Frame::Unlink {
                row,
                names,
                index,
                place,
            } => self.unlink(row, names, index, place),
            Frame::Release { row, ctl, kept } => self.release(row, ctl, kept),
            upkeep => self.run_upkeep(upkeep),
        }
    }

    /// One place of one index.
    fn find(&mut self, index: Index, name: u8, place: u8) -> Step<Flow> {
        if place == self.config.places {
            return Ok(Flow::Return(Answer::Nothing));
        }
        let next = Flow::Next(Frame::Find {
            index,
            name,
            place: place + 1,
        });
        let Some(row) = self.entry(index, place)? else {
            return Ok(next);
        };
        Ok(match self.live_with_name(row, index, name)? {
            Some((ctl, content)) => Flow::Return(Answer::Found(row, ctl, content)),
            None => next,
        })
    }

    fn live_with_name(
        &mut self,
        row: RowRef,
        index: Index,
        name: u8,
    ) -> Step<Option<(Ctl, Content)>> {
        let ctl = self.load(row.row)?;
        if ctl.state != State::Live || ctl.generation != row.generation {
            return Ok(None);
        }
        if self.names(row.row)?.of(index) != Some(name) {
            return Ok(None);
        }
        let body = self.body(row.row, ctl)?;
        Ok(body.and_then(|(_, content)| {
            (content.names.of(index) == Some(name)).then_some((ctl, content))
        }))
    }

    /// One place, for an inserter: before (`me` is nobody) or after it has put its own entries.
    fn meet(&mut self, names: Names, me: Option<RowRef>, index: Index, place: u8) -> Step<Flow> {
        if place == self.config.places {
            let aliases =
                names.alias.is_some() && !(me.is_some() && self.lacks(Broken::NoRescanOfAliases));
            return Ok(match index {
                Index::Key if aliases => Flow::Next(Frame::Meet {
                    names,
                    me,
                    index: Index::Alias,
                    place: 0,
                }),
                _ => Flow::Return(Answer::Nothing),
            });
        }
        Ok(match self.entry(index, place)? {
            Some(entry) if Some(entry) != me => Flow::Next(Frame::MeetRow {
                names,
                me,
                index,
                place,
                entry,
            }),
            _ => Flow::Next(Frame::Meet {
                names,
                me,
                index,
                place: place + 1,
            }),
        })
    }

    /// One entry that is not ours: reports a LIVE row with our name, aborts a PENDING one, clears what is dying or stale.
    fn meet_row(
        &mut self,
        names: Names,
        me: Option<RowRef>,
        index: Index,
        place: u8,
        entry: RowRef,
    ) -> Step<Flow> {
        let next = Frame::Meet {
            names,
            me,
            index,
            place: place + 1,
        };
        let again = Frame::MeetRow {
            names,
            me,
            index,
            place,
            entry,
        };
        let Some(name) = names.of(index) else {
            return Ok(Flow::Next(next));
        };
        let ctl = self.load(entry.row)?;
        if ctl.generation != entry.generation {
            self.change_entry(index, place, Some(entry), None)?;
            return Ok(Flow::Next(next));
        }
        match ctl.state {
            State::Live => {
                if self.live_with_name(entry, index, name)?.is_some() {
                    return Ok(Flow::Return(Answer::Exists));
                }
                // Another name; or it has just changed or gone, which the next look shows.
                let same = self.load(entry.row)? == ctl;
                Ok(Flow::Next(if same { next } else { again }))
            }
            State::Pending => {
                if self.names(entry.row)?.of(index) != Some(name) {
                    return Ok(Flow::Next(next));
                }
                if self.lacks(Broken::PendingIsARecord) {
                    return Ok(Flow::Return(Answer::Exists));
                }
                if self.lacks(Broken::NoAbortOfForeignPending) {
                    return Ok(Flow::Next(next));
                }
                if !self.change(entry.row, ctl, ctl.dying(None))? {
                    return Ok(Flow::Next(again));
                }
                self.change_entry(index, place, Some(entry), None)?;
                Ok(Flow::Call(
                    next,
                    Frame::Finish {
                        row: entry,
                        dying: ctl.dying(None),
                    },
                ))
            }
            State::Dying | State::Retired | State::Free => {
                self.change_entry(index, place, Some(entry), None)?;
                Ok(Flow::Next(next))
            }
        }
    }

    /// FREE → PENDING.
    fn take_row(&mut self, mut making: Making) -> Step<Flow> {
        if self.own.answer == Answer::Exists {
            return Ok(Flow::Return(Answer::Exists));
        }
        for row in self.config.rows_of(self.id) {
            let free = self.load(row)?;
            if free.state == State::Free && self.change(row, free, free.pending())? {
                making.row = RowRef {
                    row,
                    generation: free.pending().generation,
                };
                self.set_names(row, making.names)?;
                return Ok(Flow::Next(Frame::Link {
                    making,
                    index: Index::Key,
                    place: 0,
                }));
            }
        }
        Ok(Flow::Return(Answer::Full))
    }

    /// One place for an entry of ours.
    fn link(&mut self, making: Making, index: Index, place: u8) -> Step<Flow> {
        if place == self.config.places {
            return Ok(Flow::Next(Frame::Abort {
                making,
                why: Answer::Full,
            }));
        }
        if self.entry(index, place)?.is_some()
            || !self.change_entry(index, place, None, Some(making.row))?
        {
            return Ok(Flow::Next(Frame::Link {
                making,
                index,
                place: place + 1,
            }));
        }
        let alias = making.names.alias.is_some() && !self.lacks(Broken::AliasAfterLive);
        Ok(Flow::Next(match index {
            Index::Key if alias => Frame::Link {
                making,
                index: Index::Alias,
                place: 0,
            },
            _ => Frame::Rescan(making),
        }))
    }

    fn rescan(&mut self, making: Making) -> Flow {
        if self.lacks(Broken::NoRescan) {
            return Flow::Next(Frame::TakeBlocks(making));
        }
        let (names, me) = (making.names, Some(making.row));
        Flow::Call(
            Frame::TakeBlocks(making),
            Frame::Meet {
                names,
                me,
                index: Index::Key,
                place: 0,
            },
        )
    }

    /// FREE → LOOSE for a child, if one is wanted, and a body, which is filled.
    fn take_blocks(&mut self, mut making: Making) -> Step<Flow> {
        if self.own.answer == Answer::Exists {
            return Ok(Flow::Next(Frame::Abort {
                making,
                why: Answer::Exists,
            }));
        }
        if making.wants_child {
            making.child = self.take_block()?;
        }
        let body = self.take_block()?;
        match (body, making.child) {
            (Some(body), child) if child.is_some() || !making.wants_child => {
                making.body = body;
                let content = Content {
                    of: (making.row, 0),
                    names: making.names,
                    child,
                    counted: making.counted,
                };
                self.fill(body, content)?;
                Ok(Flow::Next(Frame::Attach(making)))
            }
            (body, child) => {
                // No room.
                if let Some(block) = body.or(child) {
                    self.free_unseen(block)?;
                }
                Ok(Flow::Next(Frame::Abort {
                    making,
                    why: Answer::Full,
                }))
            }
        }
    }

    fn take_block(&mut self) -> Step<Option<u8>> {
        for block in self.config.blocks_of(self.id) {
            let free = self.meta(block)?;
            let loose = Meta {
                state: BlockState::Loose,
                life: free.life + 1,
            };
            if free.state == BlockState::Free && self.change_meta(block, free, loose)? {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// LOOSE or USED → FREE for a block of ours that no control word has named.
    fn free_unseen(&mut self, block: u8) -> Step<()> {
        let meta = self.meta(block)?;
        if matches!(meta.state, BlockState::Loose | BlockState::Used(_)) {
            self.change_meta(
                block,
                meta,
                Meta {
                    state: BlockState::Free,
                    ..meta
                },
            )?;
        }
        Ok(())
    }

    /// LOOSE → USED.
    fn attach(&mut self, block: u8, row: RowRef) -> Step<()> {
        let meta = self.meta(block)?;
        self.change_meta(
            block,
            meta,
            Meta {
                state: BlockState::Used(row),
                ..meta
            },
        )?;
        Ok(())
    }

    fn attach_blocks(&mut self, making: Making) -> Step<Flow> {
        if let Some(child) = making.child {
            self.attach(child, making.row)?;
        }
        self.attach(making.body, making.row)?;
        Ok(Flow::Next(if making.counted {
            Frame::Admit(making)
        } else {
            Frame::Publish { making, cell: None }
        }))
    }

    /// Raises our cell, then looks whether all cells together are within the limit.
    fn admit(&mut self, making: Making) -> Step<Flow> {
        let cell = self.cell(self.id)?;
        let mut sum = 0;
        if self.lacks(Broken::SumBeforeRaise) {
            sum = self.sum()? + 1;
        }
        let pending = self.load(making.row.row)?;
        if pending.state != State::Pending || pending.generation != making.row.generation {
            return Ok(Flow::Next(Frame::Unpublish {
                making,
                cell: None,
                why: Answer::Stale,
            }));
        }
        if !self.lacks(Broken::NoIntent) {
            self.intend(making.row.row, pending, Some(cell + 1))?;
        }
        self.set_cell(self.id, cell + 1)?;
        if !self.lacks(Broken::SumBeforeRaise) {
            sum = self.sum()?;
        }
        Ok(Flow::Next(if sum > self.config.limit {
            Frame::Unpublish {
                making,
                cell: Some(cell),
                why: Answer::OverLimit,
            }
        } else {
            Frame::Publish {
                making,
                cell: Some(cell),
            }
        }))
    }

    fn sum(&mut self) -> Step<i8> {
        let mut sum = 0;
        for id in 0..self.config.programs.len() as u8 {
            sum += self.cell(id)?;
        }
        Ok(sum)
    }

    /// PENDING → LIVE: in all indexes at once.
    fn publish(&mut self, making: Making, cell: Option<i8>) -> Step<Flow> {
        let pending = self.load(making.row.row)?;
        let ours = pending.state == State::Pending && pending.generation == making.row.generation;
        if !ours || !self.change(making.row.row, pending, pending.live(making.body))? {
            return Ok(Flow::Next(Frame::Unpublish {
                making,
                cell,
                why: Answer::Stale,
            }));
        }
        if making.names.alias.is_some() && self.lacks(Broken::AliasAfterLive) {
            return Ok(Flow::Next(Frame::LinkLate { making, place: 0 }));
        }
        Ok(match cell {
            Some(_) => Flow::Next(Frame::ClearIntent(Answer::Done)),
            None => Flow::Return(Answer::Done),
        })
    }

    /// Only where [`Broken::AliasAfterLive`].
    fn link_late(&mut self, making: Making, place: u8) -> Step<Flow> {
        if place == self.config.places
            || self.change_entry(Index::Alias, place, None, Some(making.row))?
        {
            return Ok(Flow::Return(Answer::Done));
        }
        Ok(Flow::Next(Frame::LinkLate {
            making,
            place: place + 1,
        }))
    }

    /// Backwards: cell, intent, blocks.
    fn unpublish(&mut self, making: Making, cell: Option<i8>, why: Answer) -> Step<Flow> {
        if let Some(cell) = cell {
            self.set_cell(self.id, cell)?;
            self.set_intent(self.id, None)?;
        }
        if let Some(child) = making.child {
            self.free_unseen(child)?;
        }
        self.free_unseen(making.body)?;
        Ok(Flow::Next(Frame::Abort { making, why }))
    }

    /// Takes our own PENDING row out, or helps with it if somebody aborted it.
    fn abort(&mut self, making: Making, why: Answer) -> Step<Flow> {
        let row = making.row;
        let after = Frame::Again { making, why };
        let ctl = self.load(row.row)?;
        if ctl.generation != row.generation {
            return Ok(Flow::Next(after));
        }
        let dying = ctl.dying(None);
        if ctl.state == State::Pending {
            // Lost: somebody else aborts it, to the same word.
            self.change(row.row, ctl, dying)?;
        }
        Ok(Flow::Call(after, Frame::Finish { row, dying }))
    }

    /// A new body for what `find` found.
    fn replace(&mut self, keep_child: bool) -> Step<Flow> {
        let Answer::Found(row, live, old) = self.own.answer else {
            return Ok(Flow::Return(Answer::Nothing));
        };
        if self.load(row.row)? != live {
            return Ok(Flow::Return(Answer::Stale));
        }
        let new_child = old.child.is_some() && !keep_child;
        let child = if new_child {
            self.take_block()?
        } else {
            old.child
        };
        let full = Ok(Flow::Return(Answer::Full));
        if new_child && child.is_none() {
            return full;
        }
        let Some(body) = self.take_block()? else {
            if new_child && let Some(child) = child {
                self.free_unseen(child)?;
            }
            return full;
        };
        Ok(Flow::Next(Frame::ReplaceFill {
            row,
            live,
            old,
            child,
            body,
        }))
    }

    fn replace_fill(
        &mut self,
        row: RowRef,
        live: Ctl,
        old: Content,
        child: Option<u8>,
        body: u8,
    ) -> Step<Flow> {
        let content = Content {
            of: (row, live.change + 1),
            child,
            ..old
        };
        self.fill(body, content)?;
        if !self.lacks(Broken::NoIntent) {
            self.intend(row.row, live, None)?;
        }
        if child != old.child
            && let Some(child) = child
        {
            self.attach(child, row)?;
        }
        self.attach(body, row)?;
        Ok(Flow::Next(Frame::ReplaceSwap {
            row,
            live,
            old,
            child,
            body,
        }))
    }

    /// LIVE, old body → LIVE, new body.
    fn replace_swap(
        &mut self,
        row: RowRef,
        live: Ctl,
        old: Content,
        child: Option<u8>,
        body: u8,
    ) -> Step<Flow> {
        if !self.change(row.row, live, live.changed(body))? {
            let new_child = child.filter(|_| child != old.child);
            return Ok(Flow::Next(Frame::ReplaceUndo { new_child, body }));
        }
        if self.lacks(Broken::OldBodyForgotten) {
            return Ok(Flow::Next(Frame::ClearIntent(Answer::Done)));
        }
        Ok(Flow::Call(
            Frame::ClearIntent(Answer::Done),
            Frame::Release {
                row,
                ctl: live,
                kept: child,
            },
        ))
    }

    fn replace_undo(&mut self, new_child: Option<u8>, body: u8) -> Step<Flow> {
        if let Some(child) = new_child {
            self.free_unseen(child)?;
        }
        self.free_unseen(body)?;
        Ok(Flow::Next(Frame::ClearIntent(Answer::Stale)))
    }

    /// LIVE → DYING.
    fn remove_row(&mut self, row: RowRef, counted: bool) -> Step<Flow> {
        let live = self.load(row.row)?;
        let stranger = live.generation != row.generation;
        if live.state != State::Live || (stranger && !self.lacks(Broken::RowWithoutGeneration)) {
            return Ok(Flow::Next(Frame::ClearIntent(Answer::Nothing)));
        }
        let cell = if counted {
            Some(self.cell(self.id)? - 1)
        } else {
            None
        };
        if !self.lacks(Broken::NoIntent) {
            self.intend(row.row, live, cell)?;
        }
        let dying = live.dying(Some(self.id));
        Ok(Flow::Next(if self.change(row.row, live, dying)? {
            if stranger {
                self.violation = Some(Violation::Stranger(row));
            }
            Frame::Removed { row, dying, cell }
        } else {
            Frame::RemoveRow { row, counted }
        }))
    }

    fn removed(&mut self, row: RowRef, dying: Ctl, cell: Option<i8>) -> Step<Flow> {
        if let Some(cell) = cell {
            self.set_cell(self.id, cell)?;
        }
        Ok(Flow::Call(
            Frame::ClearIntent(Answer::Done),
            Frame::Finish { row, dying },
        ))
    }

    /// Entries, blocks, then DYING → RETIRED. Anyone may, several may at once.
    fn finish(&mut self, row: RowRef, dying: Ctl) -> Step<Flow> {
        let names = self.names(row.row)?;
        let unlink = Frame::Unlink {
            row,
            names,
            index: Index::Key,
            place: 0,
        };
        Ok(Flow::Call(Frame::FinishRelease { row, dying }, unlink))
    }

    fn retire(&mut self, row: RowRef, dying: Ctl) -> Step<Flow> {
        if self.change(row.row, dying, dying.retired())? {
            self.limbo(Item::Row(row.row, dying.retired()));
        }
        Ok(Flow::Return(Answer::Nothing))
    }

    /// One place of one index.
    fn unlink(&mut self, row: RowRef, names: Names, index: Index, place: u8) -> Step<Flow> {
        if place == self.config.places {
            return Ok(match index {
                Index::Key if names.alias.is_some() => Flow::Next(Frame::Unlink {
                    row,
                    names,
                    index: Index::Alias,
                    place: 0,
                }),
                _ => Flow::Return(Answer::Nothing),
            });
        }
        let next = Flow::Next(Frame::Unlink {
            row,
            names,
            index,
            place: place + 1,
        });
        let found = self.entry(index, place)?;
        if found == Some(row) {
            self.change_entry(index, place, found, None)?;
        }
        Ok(next)
    }

    /// Retires a body and its child, unless that is kept.
    fn release(&mut self, row: RowRef, ctl: Ctl, kept: Option<u8>) -> Step<Flow> {
        if let Some((block, content)) = self.body(row.row, ctl)? {
            if let Some(child) = content.child.filter(|_| content.child != kept) {
                self.retire_block(row, child)?;
            }
            self.retire_block(row, block)?;
        }
        Ok(Flow::Return(Answer::Nothing))
    }

    /// USED by this row → RETIRED; one wins.
    pub(crate) fn retire_block(&mut self, row: RowRef, block: u8) -> Step<()> {
        let meta = self.meta(block)?;
        let retired = Meta {
            state: BlockState::Retired,
            ..meta
        };
        if meta.state == BlockState::Used(row) && self.change_meta(block, meta, retired)? {
            self.limbo(Item::Block(block, retired));
        }
        Ok(())
    }
}

/// Once more, after another inserter of the name got in the way.
fn again(making: Making, why: Answer) -> Flow {
    if why == Answer::Stale && making.round < ROUNDS {
        Flow::Next(Frame::Reserve(Making {
            round: making.round + 1,
            child: None,
            ..making
        }))
    } else {
        Flow::Return(why)
    }
}
