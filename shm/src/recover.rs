//! What brings the arena back in order: the sweep of a slab, the scrubber that does it now and then, recovery that does it for the dead.
//!
//! *Sweep of a slab by its owner, or for a dead one.* It relies on one fact: nobody but a slab's owner hands out its rows and blocks, so what the
//! owner is not in the middle of handing out can only go downhill.
//!
//! | seen | meaning | done |
//! |---|---|---|
//! | row PENDING, owner dead | an insert that never ended | abort it (DYING), finish it |
//! | row DYING | a removal that is under way, or whose remover died | finish it; every step is idempotent |
//! | row RETIRED, owner dead | perhaps it died aborted, between linking its two names | unlink it once more |
//! | row or block RETIRED | in somebody's limbo, or lost with it | into our limbo too; freed once, by CAS of the exact word |
//! | block LOOSE, owner dead | never shown to anybody | FREE |
//! | block USED by a row that does not hold it | an operation that did not end, or one that is just retiring it | RETIRED, by CAS; then limbo. Not in a recovery under the dead one's number, which would look at each record: the scrubber that comes after it does it |
//! | all blocks of a slab FREE | | the slab goes back |
//!
//! A row that does not hold a block will never again, so one look is enough; readers who found it through the old body are protected by the grace period that every RETIRED
//! object still waits out from the moment that it was seen.
//!
//! *Recovery* of a dead participant, by exactly one party at a time, with the supervisor's leave, after a pidfd has proved the death:
//! 1. finish its intent: its counter cells (see `counts`); blocks of the old body that the row does not hold any more; a row that is DYING;
//! 2. sweep its slabs (TAKING slabs go back);
//! 3. raise the mail flags of all its rings;
//! 4. note that events of it may be missing;
//! 5. clear the intent;
//! 6. announce it offline, or go on in its place under its number: only now may the epoch move on.
//!
//! Until step 6 nothing that was retired after its death can be reused, so the words and bodies that the intent names still are what they were. Every step can be
//! repeated: a recovery that dies is done again from the start.

use failpoint::failpoint;
use std::rc::Rc;
use std::time::Duration;

use sync::Ordering;

use crate::ctl::{BlockState, Ctl, RowState};
use crate::epoch::OFFLINE;
use crate::id::{ParticipantId, RowRef};
use crate::layout::{BLOCKS_PER_SLAB, blocks_in};
use crate::participant::{Item, Participant};
use crate::slab::Kind;

/// What recovery or a scrub found to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// PENDING rows aborted.
    pub aborted: u32,
    /// Removals finished.
    pub finished: u32,
    /// Blocks that no row held.
    pub blocks: u32,
    /// RETIRED rows and blocks taken over into limbo.
    pub retired: u32,
    /// Slabs given back.
    pub slabs: u32,
    /// Index entries that led nowhere.
    pub entries: u32,
}

/// Where the scrubber goes on.
#[derive(Debug, Default)]
pub(crate) struct ScrubCursor {
    slab: u32,
    line: u64,
    /// What is left of a whole slab or line, in its nanoseconds.
    slabs_due: u64,
    lines_due: u64,
}

/// A pass over everything takes so long, however large the arena is.
const PASS: Duration = Duration::from_secs(45);
/// Who was asleep for longer does not make up for it.
const SCRUB_MOST: Duration = Duration::from_secs(1);
/// RETIRED objects that one sweep takes into limbo while that is long already.
const LIMBO_ENOUGH: usize = 65_536;

impl Participant {
    /// Looks for what was lost in as much of our slabs and of our share of the index as is due after this time: everything once in 45 s. To be called the more
    /// often, the less time a call may take: of 1 GiB, full and all ours, some 320 slabs are due a second, at 10 to 200 µs each.
    pub fn scrub_for(&mut self, elapsed: Duration) -> Recovered {
        let mut done = Recovered::default();
        let elapsed = elapsed.min(SCRUB_MOST).as_nanos() as u64;
        let due = |of: u64, carried: &mut u64| {
            let work = of * elapsed + *carried;
            *carried = work % PASS.as_nanos() as u64;
            work / PASS.as_nanos() as u64
        };
        let slabs = due(
            self.inner().geometry.slabs.into(),
            &mut self.scrub.slabs_due,
        );
        let lines = due(self.lines_of_ours(), &mut self.scrub.lines_due);
        self.scrub_slabs(slabs as u32, &mut done);
        self.scrub_lines(lines, &mut done);
        done
    }

    /// The same for so many slabs, and the share of the index that belongs to them.
    pub fn scrub(&mut self, slabs: u32) -> Recovered {
        let mut done = Recovered::default();
        let all = self.inner().geometry.slabs;
        let slabs = slabs.min(all);
        let lines = (self.lines_of_ours() * u64::from(slabs)).div_ceil(u64::from(all));
        self.scrub_slabs(slabs, &mut done);
        self.scrub_lines(lines, &mut done);
        done
    }

    fn scrub_slabs(&mut self, slabs: u32, done: &mut Recovered) {
        debug_assert!(self.online, "a sweep needs an announced epoch");
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        for _ in 0..slabs {
            let slab = self.scrub.slab;
            self.scrub.slab += 1;
            if self.scrub.slab >= inner.geometry.slabs {
                self.scrub.slab = 0;
                inner.count_slabs_free();
            }
            if inner.descriptor(slab).owner() == self.id {
                self.sweep(slab, false, done);
            }
        }
    }

    /// Every slot looks at other lines of the index; who is no slot at none.
    fn lines_of_ours(&self) -> u64 {
        let inner = self.inner();
        let slots = u64::from(inner.geometry.layout.slots);
        let id = u64::from(self.id);
        if id < slots {
            (inner.index_lines() - id).div_ceil(slots)
        } else {
            0
        }
    }

    fn scrub_lines(&mut self, lines: u64, done: &mut Recovered) {
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        let ours = self.lines_of_ours();
        for _ in 0..lines {
            let line = self.scrub.line * u64::from(inner.geometry.layout.slots);
            let line = line + u64::from(self.id);
            self.scrub.line = (self.scrub.line + 1) % ours.max(1);
            done.entries += inner
                .index_line(line)
                .iter()
                .filter(|w| inner.clear_if_stale(w))
                .count() as u32;
        }
    }

    /// Puts in order what a dead participant left. `dead` is another number than ours, and we are online; or it is ours, and we act in its place from now on
    /// (online afterwards). To be called by one party at a time, after the proof of the death.
    pub fn recover(&mut self, dead: ParticipantId) -> Recovered {
        assert!(
            dead.0 < self.arena.participants(),
            "a participant of this arena"
        );
        let arena = Rc::clone(&self.arena);
        let inner = &arena.0;
        if dead.0 == self.id {
            // Its epoch, where it stopped, protects us as it did the dead one.
            if inner.announced(self.id) == OFFLINE {
                inner.announce(self.id);
            }
            self.online = true;
        }
        assert!(self.online, "recovery needs an announced epoch");
        let mut done = Recovered::default();
        if let Some(intent) = inner.intent(dead.0)
            && let Some(words) = inner.row(intent.row)
        {
            let (old, now) = (Ctl(intent.old), words.load());
            let row = RowRef {
                index: intent.row,
                generation: old.generation(),
            };
            if now.generation() == old.generation() {
                inner.settle_cells(dead.0, &intent, now);
            }
            if now.is_live()
                && let Some(body) = now.body().and_then(|b| inner.body(b))
            {
                // Its replace may have died before it lowered the expiry hint again.
                inner.lower(&words, body.expires_at);
            }
            if now.generation() == old.generation() && old.is_live() {
                // Its replace may have succeeded, whatever others did to the row since.
                self.release_unheld(row, old, &mut done);
                if now.state() == Some(RowState::Dying) {
                    self.finish(row, now);
                    done.finished += 1;
                }
            }
        }
        failpoint!("shm.recover.intent_finished");
        for slab in 0..inner.geometry.slabs {
            if inner.descriptor(slab).owner() == dead.0 {
                self.sweep(slab, true, &mut done);
            }
        }
        failpoint!("shm.recover.slabs_swept");
        inner.raise_mail_flags(dead);
        failpoint!("shm.recover.flags_raised");
        inner.mark_missing_events(dead);
        failpoint!("shm.recover.events_marked");
        inner.clear_intent(dead.0);
        failpoint!("shm.recover.intent_cleared");
        if dead.0 == self.id {
            self.adopt();
        } else {
            inner.announce_offline(dead.0);
        }
        done
    }

    /// Retires those blocks of an old body that the row does not hold any more.
    fn release_unheld(&mut self, row: RowRef, old: Ctl, done: &mut Recovered) {
        let arena = Rc::clone(&self.arena);
        let Some(block) = old.body() else { return };
        let children = arena.0.body(block).map_or(&[][..], |b| b.children);
        for child in children.iter().map(|c| c.0).chain([block]) {
            if !arena.0.holds(row, child) && self.retire_block(row, child) {
                done.blocks += 1;
            }
        }
    }

    /// One slab, see the head of this module. `dead`: its owner is; otherwise we are its owner, between two operations.
    fn sweep(&mut self, slab: u32, dead: bool, done: &mut Recovered) {
        failpoint!("shm.broken.no_sweep", return);
        let arena = Rc::clone(&self.arena);
        let d = arena.0.descriptor(slab);
        match d.kind() {
            Some(kind @ Kind::Rows(_)) => {
                if self.sweep_rows(slab, dead, done) && d.owner() == self.id {
                    self.doubt(kind, slab);
                }
            }
            Some(kind @ Kind::Blocks(class)) => {
                let (empty, free) = self.sweep_blocks(slab, class, dead, done);
                if free && d.owner() == self.id {
                    self.doubt(kind, slab);
                }
                // Our last slab of a class stays with us.
                if empty && (dead || self.slabs_of_class(class) > 1) {
                    if d.owner() == self.id {
                        self.forget_slab(class, slab);
                    }
                    done.slabs += u32::from(arena.0.give_back(slab, d));
                }
            }
            Some(Kind::Taking) if dead => done.slabs += u32::from(arena.0.give_back(slab, d)),
            Some(Kind::Taking | Kind::Free) | None => {}
        }
    }

    /// Returns whether there are FREE ones.
    fn sweep_rows(&mut self, slab: u32, dead: bool, done: &mut Recovered) -> bool {
        let arena = Rc::clone(&self.arena);
        let mut free = false;
        for (index, words) in arena.0.rows_in(slab) {
            let ctl = words.load();
            let row = RowRef {
                index,
                generation: ctl.generation(),
            };
            match ctl.state() {
                Some(RowState::Pending) if dead => {
                    // Lost: an inserter aborts it, and may die over it. To finish twice does no harm.
                    done.aborted += u32::from(words.change(ctl, ctl.dying()));
                    self.finish(row, ctl.dying());
                }
                Some(RowState::Dying) => {
                    self.finish(row, ctl);
                    done.finished += 1;
                }
                Some(RowState::Retired) => {
                    if dead {
                        // Aborted while it linked its second name: see `index`.
                        arena.0.unlink_row(&words, row);
                    }
                    if self.limbo_len() < LIMBO_ENOUGH {
                        self.push_limbo(Item::Row(index), ctl.0);
                        done.retired += 1;
                    }
                }
                // Not in a recovery, which would have to touch each record's body: the first sweep afterwards does it.
                Some(RowState::Live) if !dead => {
                    // An expiry hint that is later than the truth: its scan died between two stores.
                    if let Some(body) = ctl.body().and_then(|b| arena.0.body(b)) {
                        // Relaxed: a hint that only goes down here.
                        words
                            .expires_at
                            .fetch_min(body.expires_at, Ordering::Relaxed);
                    }
                }
                Some(RowState::Free) => free = true,
                Some(RowState::Pending | RowState::Live) | None => {}
            }
        }
        free
    }

    /// Returns whether all blocks are FREE, and whether there are such.
    fn sweep_blocks(
        &mut self,
        slab: u32,
        class: u8,
        dead: bool,
        done: &mut Recovered,
    ) -> (bool, bool) {
        let arena = Rc::clone(&self.arena);
        // An heir, whose own scrubber goes on: an answer waits for it.
        let later = dead && arena.0.descriptor(slab).owner() == self.id;
        let first = slab * BLOCKS_PER_SLAB;
        let (mut empty, mut free) = (true, false);
        for block in first..first + blocks_in(class) {
            let Some(meta) = arena.0.load_meta(block) else {
                continue;
            };
            match meta.state() {
                Some(BlockState::Free) => {
                    free = true;
                    continue;
                }
                Some(BlockState::Loose) if dead => {
                    done.blocks += u32::from(arena.0.change_meta(block, meta, meta.free()));
                    arena.0.tell_owner(slab);
                    free = true;
                    continue;
                }
                Some(BlockState::Used) => {
                    if !later
                        && !arena.0.holds(meta.row(), block)
                        && self.retire_block(meta.row(), block)
                    {
                        done.blocks += 1;
                    }
                }
                Some(BlockState::Retired) if self.limbo_len() < LIMBO_ENOUGH => {
                    self.push_limbo(Item::Block(block), meta.0);
                    done.retired += 1;
                }
                Some(BlockState::Loose | BlockState::Retired) | None => {}
            }
            empty = false;
        }
        (empty, free)
    }
}
