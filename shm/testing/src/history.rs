//! Histories of operations by several processes that are killed at random, and whether some order of them explains all answers.
//!
//! Each process notes in shared memory what it is about to ask and when, and what it was answered and when; "when" is a shared counter. A process that is killed leaves
//! one operation without an answer: it may have happened or not, but if it has, then before the recovery of its participant ended. *Linearizable*: each operation can
//! be given a moment between its two, so that all together are what one process alone would have seen.
//!
//! The search is Wing and Gong's with a memory of what was tried (Lowe). Each process asks one thing at a time, so what has been ordered is a number for each process,
//! and the memory is small.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

/// What is asked of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What is there?
    Get,
    /// Put this, if there is nothing.
    Insert(i64),
    /// Put the second, if the first is there.
    Swap(i64, i64),
    /// Remove this, if it is there.
    Remove(i64),
    /// Put this.
    Put(i64),
    /// Add this; nothing counts as 0.
    Add(i64),
    /// Remove whatever is there.
    Delete,
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// This is there (now).
    Value(Option<i64>),
    /// Whether it was done.
    Done(bool),
    /// It could not be tried, and nothing has changed.
    Refused,
}

/// One operation of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of which key.
    pub key: u8,
    /// What was asked.
    pub ask: Ask,
    /// `None`: the process died over it.
    pub told: Option<Told>,
    /// Not before this moment.
    pub from: u64,
    /// Not after this one.
    pub to: u64,
}

impl Entry {
    /// The states that can follow `now` if this operation comes next. A dead process's may do nothing.
    fn after(&self, now: Option<i64>) -> impl Iterator<Item = Option<i64>> + use<> {
        let effect = |told: Told| {
            let done = told == Told::Done(true);
            match (self.ask, told) {
                (_, Told::Refused) => Some(now),
                (Ask::Get, Told::Value(v)) => (v == now).then_some(now),
                (Ask::Insert(v), Told::Done(_)) if done == now.is_none() => {
                    Some(if done { Some(v) } else { now })
                }
                (Ask::Swap(old, new), Told::Done(_)) if done == (now == Some(old)) => {
                    Some(if done { Some(new) } else { now })
                }
                (Ask::Remove(old), Told::Done(_)) if done == (now == Some(old)) => {
                    Some(if done { None } else { now })
                }
                (Ask::Put(v), Told::Done(true)) => Some(Some(v)),
                (Ask::Add(d), Told::Value(Some(sum))) => {
                    (now.unwrap_or(0).wrapping_add(d) == sum).then_some(Some(sum))
                }
                (Ask::Delete, Told::Done(_)) => (done == now.is_some()).then_some(None),
                _ => None,
            }
        };
        let states = match self.told {
            Some(told) => [effect(told), None],
            None => {
                let added = match self.ask {
                    Ask::Add(d) => Told::Value(Some(now.unwrap_or(0).wrapping_add(d))),
                    _ => Told::Done(true),
                };
                [Some(now), effect(added)]
            }
        };
        states.into_iter().flatten()
    }
}

/// Whether some order explains one key's operations (`by_process`, each in its own order), from this state. `Err`: the furthest that an order got.
pub fn explain(by_process: &[Vec<Entry>], start: Option<i64>) -> Result<(), String> {
    let mut seen = HashSet::new();
    let mut open = vec![(vec![0usize; by_process.len()], start)];
    let mut furthest = (0, String::new());
    while let Some((done, state)) = open.pop() {
        let next = |p: usize| by_process[p].get(done[p]);
        let all = 0..by_process.len();
        if all.clone().all(|p| next(p).is_none()) {
            return Ok(());
        }
        let ordered = done.iter().sum::<usize>();
        if ordered >= furthest.0 {
            let stuck: Vec<_> = all.clone().map(next).collect();
            furthest = (
                ordered,
                format!("{ordered} in order, then {state:?} and next {stuck:?}"),
            );
        }
        // Whatever comes next must not begin after another has ended that is not ordered yet.
        let before = all.clone().filter_map(|p| next(p).map(|e| e.to)).min();
        for p in all {
            let Some(entry) = next(p).filter(|e| Some(e.from) < before) else {
                continue;
            };
            for state in entry.after(state) {
                let mut done = done.clone();
                done[p] += 1;
                if seen.insert((done.clone(), state)) {
                    open.push((done, state));
                }
            }
        }
    }
    Err(furthest.1)
}

/// Entries of one process, at most.
pub const ENTRIES: usize = 4096;
const ENTRY_WORDS: usize = 8;
const PROCESS_WORDS: usize = 8 + ENTRIES * ENTRY_WORDS;

/// The history of a few processes, in shared memory: word 0 is the counter, word 1 says that it is time to stop.
pub struct Log {
    map: MmapRaw,
    processes: usize,
}

impl Log {
    /// For so many.
    pub fn new(processes: usize) -> Self {
        let bytes = (8 + processes * PROCESS_WORDS) * 8;
        let file = os::memfd("history", bytes as u64, os::Seals::NONE).expect("memory");
        let map = MmapOptions::new().map_raw(&file).expect("mapped");
        Self { map, processes }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < 8 + self.processes * PROCESS_WORDS);
        // SAFETY: inside the mapping, checked above.
        let word = unsafe { self.map.as_mut_ptr().cast::<AtomicU64>().add(at) };
        // SAFETY: page-aligned plus a multiple of 8, mapped as long as `self`, and only ever used as atomics.
        unsafe { &*word }
    }

    fn now(&self) -> u64 {
        self.word(0).fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Asks all processes to end.
    pub fn stop(&self) {
        self.word(1).store(1, Ordering::SeqCst);
    }

    /// Whether they were asked to.
    pub fn stopped(&self) -> bool {
        self.word(1).load(Ordering::SeqCst) != 0
    }

    fn count(&self, process: usize) -> &AtomicU64 {
        self.word(8 + process * PROCESS_WORDS)
    }

    fn at(&self, process: usize, nth: usize) -> usize {
        8 + process * PROCESS_WORDS + 8 + nth * ENTRY_WORDS
    }

    /// Notes an operation around `act`; `None`: the log is full, and nothing was done.
    pub fn note(
        &self,
        process: usize,
        key: u8,
        ask: Ask,
        act: impl FnOnce() -> Told,
    ) -> Option<Told> {
        let nth = self.count(process).load(Ordering::SeqCst) as usize;
        if nth >= ENTRIES {
            return None;
        }
        let at = self.at(process, nth);
        let set = |n: usize, value: u64| self.word(at + n).store(value, Ordering::SeqCst);
        let (kind, a, b) = match ask {
            Ask::Get => (1, 0, 0),
            Ask::Insert(v) => (2, v, 0),
            Ask::Swap(old, new) => (3, old, new),
            Ask::Remove(old) => (4, old, 0),
            Ask::Put(v) => (5, v, 0),
            Ask::Add(d) => (6, d, 0),
            Ask::Delete => (7, 0, 0),
        };
        set(0, kind | u64::from(key) << 8);
        set(1, a as u64);
        set(2, b as u64);
        set(3, self.now());
        self.count(process).store(nth as u64 + 1, Ordering::SeqCst);
        let told = act();
        let (kind, value) = match told {
            Told::Value(None) => (1, 0),
            Told::Value(Some(v)) => (2, v),
            Told::Done(done) => (3, i64::from(done)),
            Told::Refused => (4, 0),
        };
        set(5, value as u64);
        set(6, self.now());
        set(4, kind);
        Some(told)
    }

    /// After the recovery of a dead process's participant: its last operation has happened by now, or never will.
    pub fn recovered(&self, process: usize) {
        if let Some(last) = (self.count(process).load(Ordering::SeqCst) as usize).checked_sub(1) {
            let at = self.at(process, last);
            if self.word(at + 4).load(Ordering::SeqCst) == 0 {
                self.word(at + 6).store(self.now(), Ordering::SeqCst);
            }
        }
    }

    /// Everything noted about a key. All processes have ended.
    pub fn history(&self, key: u8) -> Vec<Vec<Entry>> {
        let of = |process: usize| {
            let count = self.count(process).load(Ordering::SeqCst) as usize;
            (0..count)
                .map(|nth| self.entry(self.at(process, nth)))
                .filter(|entry| entry.key == key)
                .collect()
        };
        (0..self.processes).map(of).collect()
    }

    /// How many operations were noted.
    pub fn len(&self) -> usize {
        (0..self.processes)
            .map(|p| self.count(p).load(Ordering::SeqCst) as usize)
            .sum()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entry(&self, at: usize) -> Entry {
        let word = |n: usize| self.word(at + n).load(Ordering::SeqCst);
        let (a, b) = (word(1) as i64, word(2) as i64);
        let ask = match word(0) & 0xff {
            1 => Ask::Get,
            2 => Ask::Insert(a),
            3 => Ask::Swap(a, b),
            4 => Ask::Remove(a),
            5 => Ask::Put(a),
            6 => Ask::Add(a),
            _ => Ask::Delete,
        };
        let told = match (word(4), word(5) as i64) {
            (0, _) => None,
            (1, _) => Some(Told::Value(None)),
            (2, v) => Some(Told::Value(Some(v))),
            (3, done) => Some(Told::Done(done != 0)),
            _ => Some(Told::Refused),
        };
        let to = match word(6) {
            0 => u64::MAX,
            to => to,
        };
        Entry {
            key: (word(0) >> 8) as u8,
            ask,
            told,
            from: word(3),
            to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn did(ask: Ask, told: Told, from: u64, to: u64) -> Entry {
        let told = Some(told);
        Entry {
            key: 0,
            ask,
            told,
            from,
            to,
        }
    }

    fn died(ask: Ask, from: u64, to: u64) -> Entry {
        Entry {
            key: 0,
            ask,
            told: None,
            from,
            to,
        }
    }

    #[test]
    fn what_overlaps_may_come_in_either_order() {
        let get = |v, from, to| did(Ask::Get, Told::Value(v), from, to);
        let put = did(Ask::Insert(1), Told::Done(true), 1, 4);
        assert!(explain(&[vec![put], vec![get(None, 2, 3)]], None).is_ok());
        assert!(explain(&[vec![put], vec![get(Some(1), 2, 3)]], None).is_ok());
        assert!(explain(&[vec![put], vec![get(None, 5, 6)]], None).is_err());
        // Seen, and then not any more.
        assert!(
            explain(
                &[vec![put], vec![get(Some(1), 2, 3), get(None, 4, 6)]],
                None
            )
            .is_err()
        );
    }

    #[test]
    fn lost_and_double_changes_are_found() {
        let swap = |old, new, ok, from, to| did(Ask::Swap(old, new), Told::Done(ok), from, to);
        // Both swapped the same away.
        let both = [vec![swap(1, 2, true, 1, 4)], vec![swap(1, 3, true, 2, 3)]];
        assert!(explain(&both, Some(1)).is_err());
        let one = [vec![swap(1, 2, true, 1, 4)], vec![swap(1, 3, false, 2, 3)]];
        assert!(explain(&one, Some(1)).is_ok());
        // Two inserts, no removal in between.
        let put = |v, ok, from, to| did(Ask::Insert(v), Told::Done(ok), from, to);
        assert!(explain(&[vec![put(1, true, 1, 2)], vec![put(2, true, 1, 3)]], None).is_err());
        // `Exists`, and there was nothing.
        assert!(explain(&[vec![put(1, false, 1, 2)]], None).is_err());
        let add = |d, sum, from, to| did(Ask::Add(d), Told::Value(Some(sum)), from, to);
        assert!(explain(&[vec![add(1, 1, 1, 3)], vec![add(2, 3, 2, 4)]], None).is_ok());
        assert!(explain(&[vec![add(1, 1, 1, 3)], vec![add(2, 2, 2, 4)]], None).is_err());
    }

    #[test]
    fn the_dead_may_have_done_it_until_they_are_recovered() {
        let get = |v, from, to| did(Ask::Get, Told::Value(v), from, to);
        for seen in [None, Some(7)] {
            let history = [vec![died(Ask::Insert(7), 1, 10)], vec![get(seen, 11, 12)]];
            assert!(explain(&history, None).is_ok());
        }
        // Not after the recovery.
        let late = [
            vec![died(Ask::Insert(7), 1, 10)],
            vec![get(None, 11, 12), get(Some(7), 13, 14)],
        ];
        assert!(explain(&late, None).is_err());
    }

    #[test]
    fn a_log_gives_back_what_it_was_told() {
        let log = Log::new(2);
        log.note(1, 3, Ask::Swap(-1, 5), || Told::Done(true));
        log.note(1, 4, Ask::Get, || Told::Value(Some(-9)));
        let history = log.history(3);
        assert_eq!(
            history[1],
            [Entry {
                key: 3,
                ..did(Ask::Swap(-1, 5), Told::Done(true), 1, 2)
            }]
        );
        assert_eq!((history[0].len(), log.len()), (0, 2));
    }
}
