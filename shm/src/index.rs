//! The one index of all tables: buckets of a cache line, two candidates for each key, a small stash behind them.
//!
//! An entry (tag, generation, row) is a hint; the row's control word is the truth. Entries never move. One bucket is found by each half of the
//! keyed hash; entries are twice the records at most, so the stash is practically empty, and a key looks into its stash bucket only
//! after that bucket was used once (flags that are never cleared).
//!
//! A record has a key and may have an alias: a second name, unique among the aliases of its table, with an entry of its own. Both entries lead to the
//! same row, whose two hashes say which name an entry is for; keys and aliases are hashed differently, so one never is found as the other.
//!
//! *Find* reads at most 16 entries (24 with stash), and for each tag that matches the control word, the row's hash, the body's key. Wait-free.
//!
//! *Unique insert.* An inserter publishes an entry for its PENDING row and looks at all candidates **after** that once more. Of two inserters
//! of one key at least one sees the other (their entry CAS and rescan are ordered by SeqCst fences), and it aborts the other's PENDING row by CAS to
//! DYING or, if that already is LIVE, gives up itself. So never two LIVE. Nobody waits for anybody: a dead inserter's PENDING row is
//! aborted by whoever meets it. Obstruction-free for inserters of one key (they back off at random), lock-free otherwise. An inserter with an alias
//! links both names before it looks again at either, so the argument holds for each name by itself.
//!
//! *A stale entry.* An inserter whose row was aborted between its two links puts the second entry for a row that is no more. It then fails, and takes
//! that entry out; if it dies first, recovery does, which finds the row RETIRED in the dead one's slabs (its epoch keeps it from being reused).

use sync::{AtomicU64, Ordering, fence};

use crate::arena::Inner;
use crate::ctl::{Ctl, Entry, RowState};
use crate::id::{RowRef, TableId};
use crate::layout::{AT_STASH_FLAGS, STASH_BUCKETS};
use crate::slab::Row;

/// Of a record's two names, which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Key,
    Alias,
}

/// A name to look for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'a> {
    pub(crate) space: Space,
    /// Not 0 for an alias.
    pub(crate) hash: u64,
    pub(crate) bytes: &'a [u8],
}

impl Row<'_> {
    /// Whether the row's name in this space has this hash. Relaxed: written before the row became PENDING in the index; ordered by the load of ctl.
    #[inline]
    fn named(&self, name: &Name<'_>) -> bool {
        let word = match name.space {
            Space::Key => self.hash,
            Space::Alias => self.alias,
        };
        word.load(Ordering::Relaxed) == name.hash
    }
}

/// Where a key's entry can be.
#[derive(Clone, Copy, Debug)]
struct Places {
    tag: u16,
    first: u64,
    second: u64,
    stash: u64,
    stash_bucket: u32,
}

/// What an insert met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// Nobody with this name.
    Nobody,
    /// A record.
    Live(RowRef),
}

/// Which entries of a bucket have this tag, a bit each.
#[inline]
fn hits(line: &[AtomicU64; 8], tag: u16) -> u32 {
    // SYNC unique: Acquire, after the fence in `link`; who finds a hit loads the entry again.
    line.iter().enumerate().fold(0, |hits, (nth, word)| {
        hits | u32::from(Entry(word.load(Ordering::Acquire)).tag() == tag) << nth
    })
}

impl Inner {
    #[inline]
    pub(crate) fn key_name<'a>(&self, table: TableId, key: &'a [u8]) -> Name<'a> {
        Name {
            space: Space::Key,
            hash: stdx::hash::hash64(&self.key, &[&[table.0], key]),
            bytes: key,
        }
    }

    pub(crate) fn alias_name<'a>(&self, table: TableId, alias: &'a [u8]) -> Name<'a> {
        Name {
            space: Space::Alias,
            // Tables are 16 at most, so that no key is hashed like this. 0 stands for no alias.
            hash: stdx::hash::hash64(&self.key, &[&[table.0 | 0x80], alias]).max(1),
            bytes: alias,
        }
    }

    /// Whether a row's hashes are those of these names.
    pub(crate) fn is_named(
        &self,
        words: &Row<'_>,
        row: RowRef,
        key: &[u8],
        alias: Option<&[u8]>,
    ) -> bool {
        let Some(table) = self.table_of(row.index) else {
            return false;
        };
        // Relaxed: as in `Row::named`.
        words.named(&self.key_name(table, key))
            && words.alias.load(Ordering::Relaxed)
                == alias.map_or(0, |a| self.alias_name(table, a).hash)
    }

    fn places(&self, hash: u64) -> Places {
        let g = &self.geometry;
        let spread = |half: u64| (half * g.buckets) >> 32;
        let (first, mut second) = (spread(hash & 0xffff_ffff), spread(hash >> 32));
        if second == first {
            second = (first + 1) % g.buckets;
        }
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let stash_bucket = (mixed >> 32) as u32 % STASH_BUCKETS;
        Places {
            // Not 0, which is an empty entry's.
            tag: ((mixed >> 48) as u16).max(1),
            first: g.index + first * 64,
            second: g.index + second * 64,
            stash: g.stash + u64::from(stash_bucket) * 64,
            stash_bucket,
        }
    }

    fn stash_flag(&self, bucket: u32) -> (&AtomicU64, u64) {
        (
            self.map.word(AT_STASH_FLAGS + u64::from(bucket / 64) * 8),
            1 << (bucket % 64),
        )
    }

    fn stash_used(&self, p: &Places) -> bool {
        let (flags, bit) = self.stash_flag(p.stash_bucket);
        // SYNC stash-flag: Acquire, pairs with the AcqRel in `link`: set before the first entry, so who may meet the entry sees the flag.
        flags.load(Ordering::Acquire) & bit != 0
    }

    /// Every entry with a key's tag, until `f` has an answer.
    #[inline]
    fn each<R>(&self, p: &Places, mut f: impl FnMut(&AtomicU64) -> Option<R>) -> Option<R> {
        for at in [p.first, p.second] {
            let line = self.map.line(at);
            let mut hits = hits(line, p.tag);
            while hits != 0 {
                let nth = hits.trailing_zeros() as usize;
                hits &= hits - 1;
                if let Some(answer) = line.get(nth).and_then(&mut f) {
                    return Some(answer);
                }
            }
        }
        if self.stash_used(p) {
            return self.map.line(p.stash).iter().find_map(f);
        }
        None
    }

    /// The LIVE row of this name, with the control word that was seen. The caller is online.
    #[inline]
    pub(crate) fn find(&self, name: &Name<'_>) -> Option<(RowRef, Ctl)> {
        let p = self.places(name.hash);
        self.each(&p, |word| {
            // SYNC entry: Acquire, pairs with the CAS in `link`: the row's hash was stored before.
            let entry = Entry(word.load(Ordering::Acquire));
            if entry.0 == Entry::EMPTY || entry.tag() != p.tag {
                return None;
            }
            let ctl = self.live_with_name(entry.row(), name)?;
            Some((entry.row(), ctl))
        })
    }

    #[inline]
    fn live_with_name(&self, row: RowRef, name: &Name<'_>) -> Option<Ctl> {
        let words = self.row(row.index)?;
        let ctl = words.load();
        if !ctl.is_live() || ctl.generation() != row.generation || !words.named(name) {
            return None;
        }
        let body = self.body(ctl.body()?)?;
        let same = match name.space {
            Space::Key => body.key == name.bytes,
            Space::Alias => body.alias == Some(name.bytes),
        };
        same.then_some(ctl)
    }

    /// Looks at everybody with this name but `me`: reports a LIVE one, aborts PENDING ones, unlinks what is dying or stale.
    /// `aborted` gets each row that this call moved to DYING, unlinked, for the caller to retire.
    pub(crate) fn meet(
        &self,
        name: &Name<'_>,
        me: Option<RowRef>,
        mut aborted: impl FnMut(RowRef, Ctl),
    ) -> Met {
        let p = self.places(name.hash);
        let live = self.each(&p, |word| {
            // SYNC entry: Acquire, as in `find`.
            let entry = Entry(word.load(Ordering::Acquire));
            if entry.tag() != p.tag || entry.0 == Entry::EMPTY || Some(entry.row()) == me {
                return None;
            }
            self.meet_entry(word, entry, name, &mut aborted)
        });
        live.map_or(Met::Nobody, Met::Live)
    }

    /// One entry with our tag (rare): its row, if that is LIVE with our name.
    #[cold]
    fn meet_entry(
        &self,
        word: &AtomicU64,
        entry: Entry,
        name: &Name<'_>,
        aborted: &mut impl FnMut(RowRef, Ctl),
    ) -> Option<RowRef> {
        let row = entry.row();
        let words = self.row(row.index)?;
        // In one generation a state changes twice before it is DYING, and a LIVE row as often as its body does: then it is looked at again.
        loop {
            let ctl = words.load();
            if ctl.generation() != row.generation {
                self.clear(word, entry);
                return None;
            }
            match ctl.state() {
                Some(RowState::Live) => {
                    if self.live_with_name(row, name).is_some() {
                        return Some(row);
                    }
                    // Another name; or it has just changed or gone, which the next look shows.
                    if words.load() == ctl {
                        return None;
                    }
                }
                Some(RowState::Pending) => {
                    // 64 bits of a keyed hash stand for the name, because a PENDING row has no body; aborting a stranger by
                    // collision would cost it a retry.
                    if !words.named(name) {
                        return None;
                    }
                    if words.change(ctl, ctl.dying()) {
                        self.clear(word, entry);
                        aborted(row, ctl.dying());
                        return None;
                    }
                }
                // DYING, RETIRED, FREE or garbage: nothing that `find` would show; help to unlink.
                _ => {
                    self.clear(word, entry);
                    return None;
                }
            }
        }
    }

    fn clear(&self, word: &AtomicU64, entry: Entry) {
        // SYNC entry: AcqRel. Exact word: an entry that somebody put there since then stays.
        let _ = word.compare_exchange(entry.0, Entry::EMPTY, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Publishes an entry for a PENDING row, in the emptier bucket. `false`: both buckets and the stash bucket are full.
    pub(crate) fn link(&self, hash: u64, row: RowRef) -> bool {
        let p = self.places(hash);
        let entry = Entry::new(p.tag, row);
        // Relaxed: a choice of place, nothing is read through it.
        let used = |line: u64| {
            self.map
                .line(line)
                .iter()
                .filter(|w| w.load(Ordering::Relaxed) != Entry::EMPTY)
                .count()
        };
        let (first, second) = if used(p.first) <= used(p.second) {
            (p.first, p.second)
        } else {
            (p.second, p.first)
        };
        let put = |line: u64| {
            self.map.line(line).iter().any(|word| {
                // SYNC entry: Release, pairs with the Acquire loads in `find` and `meet`. The Relaxed load only saves a CAS.
                word.load(Ordering::Relaxed) == Entry::EMPTY
                    && word
                        .compare_exchange(
                            Entry::EMPTY,
                            entry.0,
                            Ordering::AcqRel,
                            Ordering::Relaxed,
                        )
                        .is_ok()
            })
        };
        let done = put(first) || put(second) || {
            let (flags, bit) = self.stash_flag(p.stash_bucket);
            // SYNC stash-flag: AcqRel, see `stash_used`.
            flags.fetch_or(bit, Ordering::AcqRel);
            put(p.stash)
        };
        // SYNC unique: SeqCst, between our entry and the rescan that follows (`meet`), against the same pair of another inserter.
        // AcqRel alone would let both rescans read before either entry is visible, and both rows become LIVE.
        fence(Ordering::SeqCst);
        done
    }

    /// Removes a row's entries, for its key and its alias, wherever they are. The row cannot be reused meanwhile: the caller is online, and saw it in
    /// this generation and not FREE; or owns its slab.
    pub(crate) fn unlink_row(&self, words: &Row<'_>, row: RowRef) {
        // Relaxed: written before the row was PENDING in the index; ordered by the load of ctl.
        self.unlink(words.hash.load(Ordering::Relaxed), row);
        let alias = words.alias.load(Ordering::Relaxed);
        if alias != 0 {
            self.unlink(alias, row);
        }
    }

    fn unlink(&self, hash: u64, row: RowRef) {
        let p = self.places(hash);
        let entry = Entry::new(p.tag, row);
        self.each(&p, |word| {
            // Relaxed: only our exact entry matters, and it was put before the row reached the state that leads here.
            (word.load(Ordering::Relaxed) == entry.0).then(|| self.clear(word, entry))
        });
    }

    /// Whether entries of one row for these two hashes would be the same word.
    pub(crate) fn same_tag(&self, one: u64, other: u64) -> bool {
        self.places(one).tag == self.places(other).tag
    }

    /// How many entries this row has among its candidates, for `audit`.
    pub(crate) fn entries_of(&self, hash: u64, row: RowRef) -> usize {
        let p = self.places(hash);
        let entry = Entry::new(p.tag, row);
        let mut found = 0;
        self.each(&p, |word| {
            // SYNC entry: Acquire, as in `find`.
            found += usize::from(word.load(Ordering::Acquire) == entry.0);
            None::<()>
        });
        found
    }

    /// Number of buckets, the stash behind the others.
    pub(crate) fn index_lines(&self) -> u64 {
        self.geometry.buckets + u64::from(STASH_BUCKETS)
    }

    /// All entries of one bucket.
    pub(crate) fn index_line(&self, nth: u64) -> &[AtomicU64; 8] {
        let g = &self.geometry;
        match nth.checked_sub(g.buckets) {
            None => self.map.line(g.index + nth * 64),
            Some(stash) => self
                .map
                .line(g.stash + stash.min(u64::from(STASH_BUCKETS) - 1) * 64),
        }
    }

    /// Clears an entry whose row is in no state to be found: for the scrubber.
    pub(crate) fn clear_if_stale(&self, word: &AtomicU64) -> bool {
        let entry = Entry(word.load(Ordering::Acquire));
        if entry.0 == Entry::EMPTY {
            return false;
        }
        let stale = self.row(entry.row().index).is_none_or(|words| {
            let ctl = words.load();
            ctl.generation() != entry.row().generation
                || !matches!(
                    ctl.state(),
                    Some(RowState::Pending | RowState::Live | RowState::Dying)
                )
        });
        if stale {
            self.clear(word, entry);
        }
        stale
    }
}
