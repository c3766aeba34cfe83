//! Quiescence, sweep, scrubber and recovery: the steps of `shm::epoch`, `shm::participant` and `shm::recover`.

use crate::actor::{Answer, Flow, Frame, Item, Recovery, Step, Turn};
use crate::broken::Broken;
use crate::memory::{BlockState, Content, Ctl, Id, Index, Meta, RowRef, State};

/// RETIRED objects that a sweep takes into limbo while that is long already.
const LIMBO_ENOUGH: usize = 6;

impl Turn<'_> {
    pub(crate) fn run_upkeep(&mut self, frame: Frame) -> Step<Flow> {
        match frame {
            Frame::Announce => self.quiescent(),
            Frame::Oldest => self.oldest(),
            Frame::Reclaim => self.reclaim(),
            Frame::Offline => {
                self.announce(self.id, 0)?;
                Ok(Flow::Return(Answer::Nothing))
            }
            Frame::SweepRows { of, dead, row } => self.sweep_row(of, dead, row),
            Frame::SweepBlocks { of, dead, block } => self.sweep_block(of, dead, block),
            Frame::ScrubEntries { index, place } => self.scrub_entry(index, place),
            Frame::Recover { dead } => self.recover(dead),
            Frame::RecoverIntent { dead } => self.recover_intent(dead),
            Frame::RecoverOld { dead, row, old } => self.recover_old(dead, row, old),
            Frame::RecoverOldBody { dead, row, block } => Ok(Flow::Call(
                Frame::RecoverDying { dead, row },
                Frame::Unheld { row, block },
            )),
            Frame::RecoverDying { dead, row } => self.recover_dying(dead, row),
            Frame::RecoverSlabs { dead } => Ok(Flow::Call(
                Frame::RecoverEnd { dead },
                Frame::SweepRows {
                    of: dead,
                    dead: true,
                    row: self.config.rows_of(dead).start,
                },
            )),
            Frame::RecoverEnd { dead } => self.recover_end(dead),
            Frame::Unheld { row, block } => {
                if !self.holds(row, block)? {
                    self.retire_block(row, block)?;
                }
                Ok(Flow::Return(Answer::Nothing))
            }
            other => unreachable!("{other:?} is run by `records`"),
        }
    }

    /// A moment without references: announces the epoch, and tags with it what was retired before.
    fn quiescent(&mut self) -> Step<Flow> {
        let now = self.epoch()? as u8;
        for (_, tag) in self.own.limbo.iter_mut() {
            tag.get_or_insert(now);
        }
        self.announce(self.id, now)?;
        self.own.now = now;
        Ok(match self.own.limbo.first() {
            None => Flow::Return(Answer::Nothing),
            Some((_, Some(tag))) if tag < self.own.oldest => Flow::Next(Frame::Reclaim),
            Some(_) => Flow::Next(Frame::Oldest),
        })
    }

    /// The oldest epoch that somebody online has announced; raises the global one if nobody is behind.
    fn oldest(&mut self) -> Step<Flow> {
        let now = self.epoch()? as u8;
        let mut oldest = now;
        for id in 0..self.config.actors() as Id {
            let announced = self.announced(id)? as u8;
            if announced != 0 && !self.lacks(Broken::EpochWithoutLaggards) {
                oldest = oldest.min(announced);
            }
        }
        self.own.oldest = oldest;
        if oldest >= now {
            self.raise_epoch(now)?;
        }
        Ok(Flow::Next(Frame::Reclaim))
    }

    /// RETIRED → FREE for the first in limbo, if its grace period is over.
    fn reclaim(&mut self) -> Step<Flow> {
        let over = |tag: Option<u8>| {
            tag.is_some_and(|tag| tag < self.own.oldest) || self.lacks(Broken::FreeWithoutGrace)
        };
        match self.own.limbo.first() {
            Some((item, tag)) if over(tag) => {
                match item {
                    Item::Row(row, retired) => self.change(row, retired, retired.free())?,
                    Item::Block(block, retired) => {
                        let from = if self.lacks(Broken::FreedByStore) {
                            self.meta(block)?
                        } else {
                            retired
                        };
                        let free = Meta {
                            state: BlockState::Free,
                            ..from
                        };
                        self.change_meta(block, from, free)?
                    }
                };
                self.own.limbo.shift();
                Ok(Flow::Next(Frame::Reclaim))
            }
            _ => Ok(Flow::Return(Answer::Nothing)),
        }
    }

    /// One row of a participant: our own between two operations, or a dead one's.
    fn sweep_row(&mut self, of: Id, dead: bool, row: u8) -> Step<Flow> {
        if !self.config.rows_of(of).contains(&row) {
            let block = self.config.blocks_of(of).start;
            return Ok(Flow::Next(Frame::SweepBlocks { of, dead, block }));
        }
        let next = Frame::SweepRows {
            of,
            dead,
            row: row + 1,
        };
        let ctl = self.load(row)?;
        let at = RowRef {
            row,
            generation: ctl.generation,
        };
        match ctl.state {
            State::Pending if dead => {
                // Lost: somebody else aborts it, and may die over it; finishing twice does no harm.
                let dying = ctl.dying(None);
                if self.change(row, ctl, dying)? || !self.lacks(Broken::AbortLeftToOther) {
                    return Ok(Flow::Call(next, Frame::Finish { row: at, dying }));
                }
            }
            State::Dying => {
                return Ok(Flow::Call(
                    next,
                    Frame::Finish {
                        row: at,
                        dying: ctl,
                    },
                ));
            }
            State::Retired => {
                if self.own.limbo.len() < LIMBO_ENOUGH {
                    self.limbo(Item::Row(row, ctl));
                }
                if dead && !self.lacks(Broken::LateAliasLeft) {
                    // Aborted while it linked its second name.
                    let names = self.names(row)?;
                    let unlink = Frame::Unlink {
                        row: at,
                        names,
                        index: Index::Key,
                        place: 0,
                    };
                    return Ok(Flow::Call(next, unlink));
                }
            }
            State::Free | State::Pending | State::Live => {}
        }
        Ok(Flow::Next(next))
    }

    fn sweep_block(&mut self, of: Id, dead: bool, block: u8) -> Step<Flow> {
        if !self.config.blocks_of(of).contains(&block) {
            return Ok(if dead {
                Flow::Return(Answer::Nothing)
            } else {
                Flow::Next(Frame::ScrubEntries {
                    index: Index::Key,
                    place: 0,
                })
            });
        }
        let meta = self.meta(block)?;
        match meta.state {
            BlockState::Loose if dead => {
                self.change_meta(
                    block,
                    meta,
                    Meta {
                        state: BlockState::Free,
                        ..meta
                    },
                )?;
            }
            BlockState::Used(row) => {
                if !self.holds(row, block)? {
                    self.retire_block(row, block)?;
                }
            }
            BlockState::Retired if self.own.limbo.len() < LIMBO_ENOUGH => {
                self.limbo(Item::Block(block, meta));
            }
            BlockState::Free | BlockState::Loose | BlockState::Retired => {}
        }
        Ok(Flow::Next(Frame::SweepBlocks {
            of,
            dead,
            block: block + 1,
        }))
    }

    /// Whether this row holds this block: as its body, or its body lists it.
    fn holds(&mut self, row: RowRef, block: u8) -> Step<bool> {
        let ctl = self.load(row.row)?;
        if ctl.generation != row.generation || !matches!(ctl.state, State::Live | State::Dying) {
            return Ok(false);
        }
        if ctl.body == Some(block) {
            return Ok(true);
        }
        let body = self.body(row.row, ctl)?;
        Ok(body.is_some_and(|(_, content): (u8, Content)| content.child == Some(block)))
    }

    fn scrub_entry(&mut self, index: Index, place: u8) -> Step<Flow> {
        if place == self.config.places {
            return Ok(match index {
                Index::Key => Flow::Next(Frame::ScrubEntries {
                    index: Index::Alias,
                    place: 0,
                }),
                Index::Alias => Flow::Return(Answer::Nothing),
            });
        }
        if let Some(entry) = self.entry(index, place)? {
            let ctl = self.load(entry.row)?;
            let stale = ctl.generation != entry.generation
                || matches!(ctl.state, State::Retired | State::Free);
            if stale {
                self.change_entry(index, place, Some(entry), None)?;
            }
        }
        Ok(Flow::Next(Frame::ScrubEntries {
            index,
            place: place + 1,
        }))
    }

    /// By an heir, whose epoch still is the dead one's; or by another, who announces its own.
    fn recover(&mut self, dead: Id) -> Step<Flow> {
        if self.lacks(Broken::OfflineFirst) {
            self.announce(dead, 0)?;
        }
        if dead != self.id {
            let now = self.epoch()? as u8;
            self.announce(self.id, now)?;
        }
        Ok(Flow::Next(Frame::RecoverIntent { dead }))
    }

    /// Who won is in the control word alone; the cell gets an absolute value, so this can be repeated.
    fn recover_intent(&mut self, dead: Id) -> Step<Flow> {
        let slabs = Frame::RecoverSlabs { dead };
        let intent = self.intent(dead)?;
        let Some(index) = intent.row else {
            return Ok(Flow::Next(slabs));
        };
        if self.lacks(Broken::IntentClearedFirst) {
            self.set_intent(dead, None)?;
        }
        let (old, now) = (intent.old, self.load(index)?);
        let row = RowRef {
            row: index,
            generation: old.generation,
        };
        let same = now.generation == old.generation;
        if let Some(new) = intent.cell {
            let (won, before) = if old.state == State::Pending {
                (
                    same && (now.state == State::Live || now.winner.is_some()),
                    new - 1,
                )
            } else {
                (same && self.won(dead, now), new + 1)
            };
            if self.lacks(Broken::RecoveryAdds) {
                let cell = self.cell(dead)?;
                if won {
                    self.set_cell(dead, cell + new - before)?;
                }
            } else {
                self.set_cell(dead, if won { new } else { before })?;
            }
        }
        Ok(Flow::Next(if same && old.state == State::Live {
            Frame::RecoverOld { dead, row, old }
        } else {
            slabs
        }))
    }

    fn won(&self, dead: Id, now: Ctl) -> bool {
        if self.lacks(Broken::WinnerNotRecorded) {
            return now.state != State::Live;
        }
        now.winner == Some(dead)
    }

    /// Its replace may have succeeded, whatever others did to the row since.
    fn recover_old(&mut self, dead: Id, row: RowRef, old: Ctl) -> Step<Flow> {
        let Some((block, content)) = self.body(row.row, old)? else {
            return Ok(Flow::Next(Frame::RecoverSlabs { dead }));
        };
        let then = Frame::RecoverOldBody { dead, row, block };
        Ok(match content.child {
            Some(child) => Flow::Call(then, Frame::Unheld { row, block: child }),
            None => Flow::Next(then),
        })
    }

    fn recover_dying(&mut self, dead: Id, row: RowRef) -> Step<Flow> {
        let slabs = Frame::RecoverSlabs { dead };
        let ctl = self.load(row.row)?;
        if ctl.generation == row.generation && ctl.state == State::Dying {
            return Ok(Flow::Call(slabs, Frame::Finish { row, dying: ctl }));
        }
        Ok(Flow::Next(slabs))
    }

    fn recover_end(&mut self, dead: Id) -> Step<Flow> {
        self.set_intent(dead, None)?;
        if self.config.recovery == Recovery::Other {
            self.announce(dead, 0)?;
            self.announce(self.id, 0)?;
        }
        Ok(Flow::Return(Answer::Nothing))
    }
}
