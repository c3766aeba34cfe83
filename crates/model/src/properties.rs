//! What must hold: in every state, once nobody is in the middle of anything, and once everything has settled.

use crate::actor::Config;
use crate::memory::{BlockState, Id, Index, Memory, RowRef, State};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Violation {
    /// Two LIVE rows with one name.
    TwoLive(Index, u8),
    /// A LIVE row that is not in this index exactly once.
    Entries(RowRef, Index, usize),
    /// A LIVE row whose body or child is no USED block of its own.
    Unheld(RowRef, u8),
    /// A body that was found through a control word and is another's by now.
    ReusedBody { reader: Id, block: u8 },
    /// An insert said `Exists`, and nothing with its names was LIVE since it began.
    ExistsWithoutLive(Id),
    /// A look-up missed a record that was there before it began and that nobody began to remove.
    Missed(Id),
    /// A removal of this record removed another in its row.
    Stranger(RowRef),
    /// More counted records than the limit.
    OverLimit(usize),
    /// Nobody is in the middle of anything, all dead have been recovered, and this row or block waits for a scrubber.
    NotPrompt(&'static str, u8),
    /// Everything has settled but this row or block.
    Leaked(&'static str, u8),
    /// Nobody is in the middle of anything, all dead have been recovered, and this entry leads nowhere.
    StaleEntry(RowRef),
    /// Everything has settled, and the cells are not the number of counted records.
    Drift { cells: i8, counted: usize },
}

/// In every state.
pub fn always(memory: &Memory, config: &Config) -> Option<Violation> {
    let mut seen: [[bool; 8]; 2] = [[false; 8]; 2];
    let mut counted = 0;
    for (nth, row) in memory.rows.iter().enumerate() {
        if row.ctl.state != State::Live {
            continue;
        }
        let at = RowRef {
            row: nth as u8,
            generation: row.ctl.generation,
        };
        for index in [Index::Key, Index::Alias] {
            let Some(name) = row.names.of(index) else {
                continue;
            };
            let slot = &mut seen[index as usize][usize::from(name)];
            if std::mem::replace(slot, true) {
                return Some(Violation::TwoLive(index, name));
            }
            let entries = memory.entries[index as usize]
                .iter()
                .filter(|e| **e == Some(at))
                .count();
            if entries != 1 {
                return Some(Violation::Entries(at, index, entries));
            }
        }
        let Some(body) = row.ctl.body else {
            return Some(Violation::Unheld(at, u8::MAX));
        };
        let content = memory.contents[usize::from(body)];
        if content.of != (at, row.ctl.change) || content.names != row.names {
            return Some(Violation::Unheld(at, body));
        }
        for block in content.child.into_iter().chain([body]) {
            if memory.metas[usize::from(block)].state != BlockState::Used(at) {
                return Some(Violation::Unheld(at, block));
            }
        }
        counted += usize::from(content.counted);
    }
    (counted as i64 > i64::from(config.limit)).then_some(Violation::OverLimit(counted))
}

fn held(memory: &Memory, block: usize, by: RowRef) -> bool {
    let ctl = memory.rows[usize::from(by.row)].ctl;
    ctl.state == State::Live
        && ctl.generation == by.generation
        && ctl.body.is_some_and(|body| {
            usize::from(body) == block
                || memory.contents[usize::from(body)].child == Some(block as u8)
        })
}

/// Nobody is in the middle of anything and the dead have been recovered: only what waits for its grace period is in between.
pub fn prompt(memory: &Memory) -> Option<Violation> {
    for (nth, row) in memory.rows.iter().enumerate() {
        if matches!(row.ctl.state, State::Pending | State::Dying) {
            return Some(Violation::NotPrompt("row", nth as u8));
        }
    }
    for (nth, meta) in memory.metas.iter().enumerate() {
        let waits = match meta.state {
            BlockState::Loose => true,
            BlockState::Used(by) => !held(memory, nth, by),
            BlockState::Free | BlockState::Retired => false,
        };
        if waits {
            return Some(Violation::NotPrompt("block", nth as u8));
        }
    }
    stale_entry(memory)
}

fn stale_entry(memory: &Memory) -> Option<Violation> {
    let stale = |entry: &&RowRef| {
        let ctl = memory.rows[usize::from(entry.row)].ctl;
        ctl.state != State::Live || ctl.generation != entry.generation
    };
    let mut entries = memory.entries.iter().flatten().flatten();
    entries
        .find(stale)
        .map(|entry| Violation::StaleEntry(*entry))
}

/// Everybody has scrubbed and been quiescent often enough.
pub fn settled(memory: &Memory) -> Option<Violation> {
    let mut counted = 0;
    for (nth, row) in memory.rows.iter().enumerate() {
        match row.ctl.state {
            State::Free => {}
            State::Live => {
                let body = row.ctl.body.map(|b| memory.contents[usize::from(b)]);
                counted += usize::from(body.is_some_and(|b| b.counted));
            }
            _ => return Some(Violation::Leaked("row", nth as u8)),
        }
    }
    for (nth, meta) in memory.metas.iter().enumerate() {
        match meta.state {
            BlockState::Free => {}
            BlockState::Used(by) if held(memory, nth, by) => {}
            _ => return Some(Violation::Leaked("block", nth as u8)),
        }
    }
    if let Some(stale) = stale_entry(memory) {
        return Some(stale);
    }
    let cells = memory.cells.iter().sum();
    (i64::from(cells) != counted as i64).then_some(Violation::Drift { cells, counted })
}
