//! Pages of the arena ahead of their use: slabs are backed by memory, and made of huge pages, by a helper, so that no slot waits for that.
//!
//! Nothing depends on it: a slab that is taken before is backed by its taker, in small pages if the kernel gives no others.

use std::time::Duration;

use control::{FromHelper, HelperTask};
use shm::Paging;
use stdx::Instant;

use super::helpers::Ended;
use super::supervisor::Supervisor;

/// A step is a 16th of the arena, within these bounds. Unit: slabs of 64 KiB.
const STEP_MIN: u32 = 128;
const STEP_MAX: u32 = 4096;
/// How long a helper may take for one.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the kernel did not gather is tried again after this, which doubles up to the longest: often some page was in somebody's hands for a moment only, but
/// if there are no free huge pages, looking for them is work.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// The next slab to be gathered.
    gathered: u32,
    /// Unit: bytes.
    huge: u64,
    /// Some pages were refused, or a helper failed.
    again_at: Option<Instant>,
    /// How often that was so, one time after the other.
    failures: u32,
}

impl Pages {
    /// Bytes in huge pages, as far as we have seen to it. Unit: bytes.
    pub(crate) fn huge(&self) -> u64 {
        self.huge
    }

    /// What a helper is to do now. `free`: slabs that nobody has taken; `backed` of `all` slabs are.
    fn task(
        &mut self,
        paging: Paging,
        free: u32,
        backed: u32,
        all: u32,
        now: Instant,
    ) -> Option<HelperTask> {
        if paging == Paging::Small {
            return None;
        }
        match self.again_at {
            Some(moment) if moment > now => return None,
            Some(_) => {
                self.again_at = None;
                self.gathered = 0;
            }
            None => {}
        }
        let step = (all / 16).clamp(STEP_MIN, STEP_MAX);
        let taken = all.saturating_sub(free);
        let wanted = taken.saturating_add(step).min(all);
        let short = wanted > backed && wanted - backed >= step.min(all - backed) / 2;
        let gather = paging == Paging::Collapsed && (self.gathered < backed || self.gathered == 0);
        (short || gather).then_some(HelperTask::Pages {
            back: if short { wanted.max(backed) } else { backed },
            gather: (paging == Paging::Collapsed).then_some(self.gathered),
        })
    }

    fn ended(&mut self, from: Option<u32>, ended: &Ended, now: Instant) {
        let Ok(FromHelper::Paged {
            backed,
            huge,
            refused,
        }) = ended
        else {
            self.failed(now);
            return;
        };
        if from == Some(0) {
            self.huge = 0;
        }
        self.huge += huge;
        if from.is_some() {
            self.gathered = (*backed).max(1);
        }
        if *refused > 0 {
            self.failed(now);
        } else if from == Some(0) {
            self.failures = 0;
        }
    }

    fn failed(&mut self, now: Instant) {
        let wait = AGAIN.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.again_at = Some(now.saturating_add(wait.min(AGAIN_MAX)));
    }
}

impl Supervisor {
    pub(super) fn pages_on_time(&mut self, now: Instant) {
        if !self.helpers_free() || !self.fleet.all_served() {
            return;
        }
        let (paging, free, (backed, all)) = self.memory.slabs();
        let Some(task) = self.pages.task(paging, free, backed, all, now) else {
            return;
        };
        if let Err(error) = self.help(task, &[], PATIENCE) {
            tracing::debug!(%error, "no helper for the arena's pages");
            self.pages.failed(now);
        }
    }

    pub(super) fn paged(&mut self, gather: Option<u32>, ended: &Ended) {
        if let Err(why) = ended {
            tracing::debug!(why, "the arena's pages were not seen to");
        }
        self.pages.ended(gather, ended, os::now());
        tracing::debug!(huge = self.pages.huge, "pages of the arena");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = 4000;

    fn paged(backed: u32, huge: u64, refused: u64) -> Ended {
        Ok(FromHelper::Paged {
            backed,
            huge,
            refused,
        })
    }

    #[test]
    fn slabs_are_backed_and_gathered_before_they_are_taken() {
        let mut pages = Pages::default();
        let now = Instant::ZERO;
        let task = |pages: &mut Pages, taken: u32, backed| {
            pages.task(Paging::Collapsed, ALL - taken, backed, ALL, now)
        };
        let all_of_it = HelperTask::Pages {
            back: 260,
            gather: Some(0),
        };
        assert_eq!(task(&mut pages, 10, 16), Some(all_of_it));
        pages.ended(Some(0), &paged(272, 30 << 20, 0), now);
        assert_eq!(pages.huge(), 30 << 20);
        assert_eq!(task(&mut pages, 10, 272), None, "nothing to do");
        assert_eq!(task(&mut pages, 100, 272), None, "still enough");
        let more = HelperTask::Pages {
            back: 450,
            gather: Some(272),
        };
        assert_eq!(task(&mut pages, 200, 272), Some(more));
        pages.ended(Some(272), &paged(464, 10 << 20, 0), now);
        assert_eq!(pages.huge(), 40 << 20);
        assert_eq!(
            task(&mut pages, ALL, ALL),
            Some(HelperTask::Pages {
                back: ALL,
                gather: Some(464)
            })
        );
        pages.ended(Some(464), &paged(ALL, 1 << 20, 0), now);
        assert_eq!(task(&mut pages, ALL, ALL), None);
    }

    #[test]
    fn what_was_refused_is_tried_again_later() {
        let mut pages = Pages::default();
        let mut now = Instant::from_nanos(1);
        pages.ended(Some(0), &paged(100, 1 << 20, 2 << 20), now);
        assert_eq!(pages.task(Paging::Collapsed, 0, ALL, ALL, now), None);
        now = now.saturating_add(AGAIN);
        let from_start = HelperTask::Pages {
            back: ALL,
            gather: Some(0),
        };
        assert_eq!(
            pages.task(Paging::Collapsed, 0, ALL, ALL, now),
            Some(from_start)
        );
        pages.ended(Some(0), &Err("killed".into()), now);
        now = now.saturating_add(AGAIN);
        assert_eq!(pages.task(Paging::Collapsed, 0, ALL, ALL, now), None);
        now = now.saturating_add(AGAIN);
        assert_eq!(
            pages.task(Paging::Collapsed, 0, ALL, ALL, now),
            Some(from_start)
        );
        for _ in 0..100 {
            pages.ended(Some(0), &paged(ALL, 1 << 20, 2 << 20), now);
        }
        now = now.saturating_add(AGAIN_MAX);
        assert_eq!(
            pages.task(Paging::Collapsed, 0, ALL, ALL, now),
            Some(from_start)
        );
    }

    #[test]
    fn pages_that_are_huge_from_the_start_are_only_backed() {
        let mut pages = Pages::default();
        let backed = HelperTask::Pages {
            back: 250,
            gather: None,
        };
        assert_eq!(
            pages.task(Paging::Reserved, ALL, 0, ALL, Instant::ZERO),
            Some(backed)
        );
        assert_eq!(pages.task(Paging::Small, ALL, 0, ALL, Instant::ZERO), None);
    }
}
