//! Which of the new work is let in: as much of each source's as of every other's (max-min fairness).
//!
//! Sources are counted in a [`Sketch`], so there is no table to fill; a source that shares both of its counters with a flood is rare and,
//! since the places are drawn anew from time to time, soon not so any more.

use stdx::Rng;

use crate::{ALL, sketch::Sketch, valve::SHARE_MIN};

/// Windows after which the places are drawn anew.
const ROUND: u32 = 64;
/// Windows over which what passes is smoothed.
const SMOOTH: u64 = 16;

/// While no more sources ask for something, each gets one piece a window at least: the share that a flood has brought down is
/// far too small for them until it has recovered.
const FEW: usize = 16;

/// What each source asked for in this window, and how much of it may pass.
#[derive(Debug)]
pub struct Fair {
    window: Sketch,
    windows: u32,
    /// What a source may have in this window, in parts of [`ALL`] of a piece.
    quota: u64,
    /// Pieces that passed in this window.
    passed: u32,
    /// How many may pass in this window, of all sources; in parts of [`ALL`] of a piece, as the next.
    room: u64,
    /// What passed lately in a window, as far as there was room for it; it falls as the share does.
    lately: u64,
    share: u32,
    rng: Rng,
}

impl Fair {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            window: Sketch::new(&mut rng),
            windows: 0,
            quota: u64::MAX,
            passed: 0,
            room: 0,
            lately: 0,
            share: ALL,
            rng,
        }
    }

    /// One more piece of work from this source: whether it passes.
    pub fn passes(&mut self, source: &[u8]) -> bool {
        let count = self.window.count(source);
        let one = u64::from(ALL);
        let before = u64::from(count.saturating_sub(1)) * one;
        let passes = match self.quota.checked_sub(before) {
            Some(left) if left >= one => true,
            Some(left) => self.rng.next_u64() % one < left,
            None => false,
        };
        self.passed += u32::from(passes);
        passes
    }

    /// A window ends: sources will get in the next one what makes `share` (of [`ALL`]) of all that was asked for in this, or what passed
    /// lately: when the kernel keeps a flood out from one window to the next, a share of what is left is next to nothing.
    pub fn next_window(&mut self, share: u32) {
        let passed = u64::from(self.passed) * u64::from(ALL);
        self.passed = 0;
        self.lately += passed.min(self.room) / SMOOTH;
        self.lately -= self.lately / SMOOTH;
        if share < self.share {
            self.lately = self.lately * u64::from(share) / u64::from(self.share);
        } else if share <= SHARE_MIN {
            // It would fall if it could.
            self.lately -= self.lately / 4;
        }
        self.share = share;
        let counts = self.window.counts();
        let asked: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        self.room = (asked * u64::from(share)).max(self.lately);
        self.quota = if share >= ALL {
            u64::MAX
        } else {
            let sources = counts.iter().filter(|&&count| count > 0).count();
            let floor = if sources <= FEW { ALL.into() } else { 0 };
            quota(counts, self.room).max(floor)
        };
        self.windows += 1;
        self.window.clear();
        if self.windows.is_multiple_of(ROUND) {
            self.window.redraw(&mut self.rng);
        }
    }
}

/// The largest quota for which the sum of min(count, quota) is at most `room`; if all fit, each may grow by its part of what is left. No limit
/// where nobody asked. Unit of both: [`ALL`]ths.
fn quota(counts: &[u32], mut room: u64) -> u64 {
    let mut left: Vec<u32> = counts.iter().copied().filter(|&count| count > 0).collect();
    left.sort_unstable();
    let all = left.len() as u64;
    let (mut sources, mut most) = (all, 0);
    for count in left {
        let each = room / sources;
        let whole = u64::from(count) * u64::from(ALL);
        if whole > each {
            return each;
        }
        room -= whole;
        sources -= 1;
        most = whole;
    }
    room.checked_div(all).map_or(u64::MAX, |more| most + more)
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

    /// The kernel keeps a flood out from one window to the next. Calls of the others had to wait behind it and come several at once.
    #[test]
    fn a_flood_that_is_gone_leaves_its_place_to_the_others() {
        for others in [1, 40] {
            let mut fair = Fair::new(3);
            let mut share = ALL / 4;
            for _ in 0..40 {
                for _ in 0..400 {
                    fair.passes(b"flood");
                }
                fair.next_window(share);
            }
            for window in 0..60 {
                for source in 0..others {
                    for _ in 0..40 / others {
                        let passes = fair.passes(&[source]);
                        assert!(passes, "window {window} of {others}");
                    }
                }
                for _ in 0..4 {
                    fair.passes(b"flood");
                }
                // There is room: the share comes up to the demand that is left.
                share = (share + share / 16).min(ALL - 1);
                fair.next_window(share);
            }
        }
    }

    #[test]
    fn a_share_that_falls_is_felt_at_once() {
        let mut fair = Fair::new(5);
        let mut share = ALL / 2;
        let mut passed = Vec::new();
        for window in 0..60 {
            passed.push((0..1000).filter(|_| fair.passes(b"flood")).count());
            if window >= 40 {
                share -= share / 4;
            }
            fair.next_window(share);
        }
        assert_eq!(passed[30], 500);
        assert!(passed[50] <= 500 * 6 / 100, "0.75^10: {passed:?}");
    }

    /// The flood has gone, and what is left is too much.
    #[test]
    fn a_share_that_falls_or_cannot_is_felt_when_there_is_less_demand_too() {
        for least in [false, true] {
            let mut fair = Fair::new(6);
            let mut share = if least { SHARE_MIN } else { ALL / 4 };
            let demand = if least { 25_600 } else { 400 };
            for _ in 0..40 {
                for _ in 0..demand {
                    fair.passes(b"flood");
                }
                fair.next_window(share);
            }
            let passed: Vec<_> = (0..20)
                .map(|_| {
                    let passed = (0..80).filter(|_| fair.passes(b"other")).count();
                    share -= if least { 0 } else { share / 4 };
                    fair.next_window(share);
                    passed
                })
                .collect();
            assert!((10..80).contains(&passed[1]), "{passed:?}");
            assert!(passed[16] <= 2, "{passed:?}");
        }
    }

    #[test]
    fn who_grows_within_the_room_grows_by_his_part() {
        let one = u64::from(ALL);
        assert_eq!(quota(&[10; 20], 500 * one), (10 + 15) * one);
        assert_eq!(quota(&[0, 4, 0], 100 * one), 100 * one);
        assert_eq!(quota(&[40, 4], 54 * one), 45 * one);
        assert_eq!(quota(&[40, 4], 34 * one), 30 * one);
        assert_eq!(quota(&[0, 0], 54 * one), u64::MAX);
    }

    #[test]
    fn after_a_window_without_any_demand_all_passes() {
        let mut fair = Fair::new(4);
        for window in 0..100 {
            let passed = (0..100).filter(|_| fair.passes(b"burst")).count();
            assert_eq!(passed, 100, "window {window}");
            fair.next_window(ALL / 4);
            fair.next_window(ALL / 4);
        }
    }

    proptest! {
        #[test]
        fn a_quota_gives_the_share(counts in prop::collection::vec(0_u32..1000, 1..100), share in 1_u64..u64::from(ALL)) {
            let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
            let quota = quota(&counts, total * share);
            let given: u64 = counts.iter().map(|&count| quota.min(u64::from(count) * u64::from(ALL))).sum();
            prop_assert!(given <= total * share);
            // Rounding leaves less than a part of ALL for each source.
            prop_assert!(total * share - given <= counts.len() as u64);
        }
    }
}
