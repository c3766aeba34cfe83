//! Which of the new work is let in: as much of each source's as of every other's (max-min fairness).
//!
//! Sources are counted in a fixed sketch (two rows of counters, of which the smaller counts): no table to fill, and a source that
//! shares both of its counters with a flood is rare and, since the places are drawn anew from time to time, soon not so any more.

use stdx::{
    Rng,
    hash::{Key, hash64},
};

use crate::ALL;

/// Counters of a row.
const PLACES: usize = 2048;
/// Windows after which the places are drawn anew.
const ROUND: u32 = 64;

/// While no more sources ask for something, each gets one piece a window at least: the share that a flood has brought down is
/// far too small for them until it has recovered.
const FEW: usize = 16;

/// What each source asked for in this window, and how much of it may pass.
#[derive(Debug)]
pub struct Fair {
    rows: [Box<[u32]>; 2],
    key: Key,
    windows: u32,
    /// What a source may have in this window, in parts of [`ALL`] of a piece.
    quota: u64,
    asked: u64,
    rng: Rng,
}

impl Fair {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            rows: [vec![0; PLACES].into(), vec![0; PLACES].into()],
            key: key(&mut rng),
            windows: 0,
            quota: u64::MAX,
            asked: 0,
            rng,
        }
    }

    /// One more piece of work from this source: whether it passes.
    pub fn passes(&mut self, source: &[u8]) -> bool {
        let count = self.count(source);
        self.asked += 1;
        let one = u64::from(ALL);
        let before = u64::from(count.saturating_sub(1)) * one;
        match self.quota.checked_sub(before) {
            Some(left) if left >= one => true,
            Some(left) => self.rng.next_u64() % one < left,
            None => false,
        }
    }

    /// Counts without judging; returns the count of this window.
    pub fn count(&mut self, source: &[u8]) -> u32 {
        let mut least = u32::MAX;
        for place in self.places(source) {
            *place = place.saturating_add(1);
            least = least.min(*place);
        }
        least
    }

    /// Takes back what was counted last for this source.
    pub fn uncount(&mut self, source: &[u8]) {
        for place in self.places(source) {
            *place = place.saturating_sub(1);
        }
    }

    fn places(&mut self, source: &[u8]) -> impl Iterator<Item = &mut u32> {
        let hash = hash64(&self.key, &[source]);
        let rows = self.rows.iter_mut().zip([hash, hash >> 32]);
        rows.filter_map(|(row, hash)| row.get_mut(hash as usize % PLACES))
    }

    /// A window ends: sources will get in the next one what makes `share` (of [`ALL`]) of all that was asked for in this.
    pub fn next_window(&mut self, share: u32) {
        self.quota = if share >= ALL {
            u64::MAX
        } else {
            let row = self.rows.first().map_or(&[][..], |row| row);
            let sources = row.iter().filter(|&&count| count > 0).count();
            let floor = if sources <= FEW { ALL.into() } else { 0 };
            quota(row, share.into()).max(floor)
        };
        for row in &mut self.rows {
            row.fill(0);
        }
        self.asked = 0;
        self.windows += 1;
        if self.windows.is_multiple_of(ROUND) {
            self.key = key(&mut self.rng);
        }
    }

    /// Pieces that were asked for in this window.
    pub fn asked(&self) -> u64 {
        self.asked
    }
}

fn key(rng: &mut Rng) -> Key {
    let mut bytes = [0; 16];
    for (half, word) in bytes
        .chunks_exact_mut(8)
        .zip([rng.next_u64(), rng.next_u64()])
    {
        half.copy_from_slice(&word.to_be_bytes());
    }
    Key(bytes)
}

/// The largest quota for which the sum of min(count, quota) is at most `share` of the sum of the counts. Unit: [`ALL`]ths.
fn quota(counts: &[u32], share: u64) -> u64 {
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    let mut room = total * share;
    let mut left: Vec<u32> = counts.iter().copied().filter(|&count| count > 0).collect();
    left.sort_unstable();
    let mut sources = left.len() as u64;
    for count in left {
        let each = room / sources;
        let whole = u64::from(count) * u64::from(ALL);
        if whole > each {
            return each;
        }
        room -= whole;
        sources -= 1;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_that_floods_takes_nothing_from_the_others() {
        let mut fair = Fair::new(7);
        let mut passed = [0_u32; 21];
        for window in 0..200 {
            for source in 0..=20_u8 {
                for _ in 0..if source == 20 { 2000 } else { 10 } {
                    let passes = fair.passes(&[source]);
                    if window >= 100 && passes {
                        passed[usize::from(source)] += 1;
                    }
                }
            }
            // Room for 1,100 of 2,200 a window: 200 for the quiet ones, 900 for the one that floods.
            fair.next_window(ALL / 2);
        }
        for (source, &count) in passed.iter().enumerate().take(20) {
            assert!(count >= 980, "source {source}: {count} of 1000");
        }
        assert!((80_000..=100_000).contains(&passed[20]), "{}", passed[20]);
    }

    #[test]
    fn less_than_one_each() {
        let mut fair = Fair::new(1);
        let mut passed = 0;
        for window in 0..100_u32 {
            for source in 0..200_u32 {
                if fair.passes(&source.to_be_bytes()) && window > 0 {
                    passed += 1;
                }
            }
            fair.next_window(ALL / 4);
        }
        assert!((4400..=5500).contains(&passed), "{passed} of 19,800");
    }

    proptest! {
        #[test]
        fn a_quota_gives_the_share(counts in prop::collection::vec(0_u32..1000, 1..100), share in 1_u64..u64::from(ALL)) {
            let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
            let quota = quota(&counts, share);
            let given: u64 = counts.iter().map(|&count| quota.min(u64::from(count) * u64::from(ALL))).sum();
            prop_assert!(given <= total * share);
            // Rounding leaves less than a part of ALL for each source.
            prop_assert!(total * share - given <= counts.len() as u64);
        }
    }
}
