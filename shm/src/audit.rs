//! Every invariant of the arena, checked by a walk over everything. For tests, and for `tandem` when it suspects something.

use std::collections::{HashMap, HashSet};

use sync::Ordering;

use crate::arena::Arena;
use crate::ctl::{BlockState, Entry, RowState};
use crate::id::{RowRef, TableId};
use crate::layout::{BLOCKS_PER_SLAB, blocks_in};
use crate::slab::Kind;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Two LIVE rows with one key.
    TwoLive(TableId, Vec<u8>),
    /// Two LIVE rows with one alias.
    TwoAliases(TableId, Vec<u8>),
    /// A LIVE row that is not in the index exactly once for its key, or for its alias: how often.
    Entries(RowRef, usize),
    /// A LIVE row whose body or child is no USED block of its own.
    Unheld(RowRef, u32),
    /// A LIVE row whose stored hashes are not its key's and its alias's.
    Hash(RowRef),
    /// A LIVE row whose expiry hint is later than the truth.
    ExpiryHint(RowRef),
    /// An index entry that leads to no row in that state and generation.
    StaleEntry(RowRef),
    /// A word with a state that does not exist: of a row, a block or a slab.
    Garbage(&'static str, u32),
    /// A USED block that its row does not hold.
    LeakedBlock(u32),
    /// While nobody is in the middle of anything: a row or block that is neither free nor held by a record.
    Unsettled(&'static str, u32),
}

/// Walks everything. `settled`: nobody is in the middle of an operation, and all grace periods are over; then nothing may be in between either.
pub fn audit(arena: &Arena, settled: bool) -> Vec<Violation> {
    let inner = &arena.0;
    let mut wrong = Vec::new();
    let mut keys: HashMap<(TableId, Vec<u8>), RowRef> = HashMap::new();
    let mut aliases: HashSet<(TableId, Vec<u8>)> = HashSet::new();
    let mut held = HashSet::new();
    for (slab, _) in inner.row_slabs(None) {
        let Some(Kind::Rows(table)) = inner.descriptor(slab).kind() else {
            continue;
        };
        for (index, words) in inner.rows_in(slab) {
            let ctl = words.load();
            let row = RowRef {
                index,
                generation: ctl.generation(),
            };
            match ctl.state() {
                Some(RowState::Free) => {}
                Some(RowState::Live) => {
                    let Some((block, body)) = ctl.body().and_then(|b| Some((b, inner.body(b)?)))
                    else {
                        wrong.push(Violation::Unheld(row, u32::MAX));
                        continue;
                    };
                    for block in body.children.iter().map(|c| c.0).chain([block]) {
                        held.insert(block);
                        let meta = inner.load_meta(block);
                        if !meta
                            .is_some_and(|m| m.state() == Some(BlockState::Used) && m.row() == row)
                        {
                            wrong.push(Violation::Unheld(row, block));
                        }
                    }
                    if !inner.is_named(&words, row, body.key, body.alias) {
                        wrong.push(Violation::Hash(row));
                    }
                    if words.expires_at.load(Ordering::Relaxed) > body.expires_at {
                        wrong.push(Violation::ExpiryHint(row));
                    }
                    let hash = words.hash.load(Ordering::Relaxed);
                    let alias = words.alias.load(Ordering::Relaxed);
                    // Two names of a row with one tag have equal entries, which may share a bucket.
                    let most = 1 + usize::from(alias != 0 && inner.same_tag(hash, alias));
                    for name in [Some(hash), Some(alias).filter(|&a| a != 0)] {
                        match name.map_or(1, |name| inner.entries_of(name, row)) {
                            n if (1..=most).contains(&n) => {}
                            n => wrong.push(Violation::Entries(row, n)),
                        }
                    }
                    if let Some(alias) = body.alias
                        && !aliases.insert((table, alias.to_vec()))
                    {
                        wrong.push(Violation::TwoAliases(table, alias.to_vec()));
                    }
                    if keys.insert((table, body.key.to_vec()), row).is_some() {
                        wrong.push(Violation::TwoLive(table, body.key.to_vec()));
                    }
                }
                Some(RowState::Pending | RowState::Dying | RowState::Retired) if settled => {
                    wrong.push(Violation::Unsettled("row", index));
                }
                Some(RowState::Pending | RowState::Dying | RowState::Retired) => {}
                None => wrong.push(Violation::Garbage("row", index)),
            }
        }
    }
    for slab in 0..inner.geometry.slabs {
        match inner.descriptor(slab).kind() {
            Some(Kind::Blocks(class)) => {
                let first = slab * BLOCKS_PER_SLAB;
                for block in first..first + blocks_in(class) {
                    let Some(meta) = inner.load_meta(block) else {
                        continue;
                    };
                    match meta.state() {
                        Some(BlockState::Free) => {}
                        Some(BlockState::Used) if held.contains(&block) => {}
                        Some(BlockState::Used) if settled => {
                            wrong.push(Violation::LeakedBlock(block))
                        }
                        Some(BlockState::Loose | BlockState::Retired) if settled => {
                            wrong.push(Violation::Unsettled("block", block))
                        }
                        Some(BlockState::Used | BlockState::Loose | BlockState::Retired) => {}
                        None => wrong.push(Violation::Garbage("block", block)),
                    }
                }
            }
            Some(Kind::Taking) if settled => wrong.push(Violation::Unsettled("slab", slab)),
            Some(Kind::Taking | Kind::Free | Kind::Rows(_)) => {}
            None => wrong.push(Violation::Garbage("slab", slab)),
        }
    }
    if settled {
        for line in 0..inner.index_lines() {
            for word in inner.index_line(line) {
                let entry = Entry(word.load(Ordering::Acquire));
                let live = |row: RowRef| {
                    inner.row(row.index).is_some_and(|w| {
                        w.load().is_live() && w.load().generation() == row.generation
                    })
                };
                if entry.0 != Entry::EMPTY && !live(entry.row()) {
                    wrong.push(Violation::StaleEntry(entry.row()));
                }
            }
        }
    }
    wrong
}
