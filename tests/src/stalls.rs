//! Moments at which the machine itself stood still. A virtual machine that is not given a processor, or a disk that holds up whoever touches it,
//! looks from outside like a server that is slow.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// How often each processor is looked after.
const STEP: Duration = Duration::from_millis(2);
/// Times that [`undisturbed`] measures.
const TRIES: u32 = 6;

/// Looks after every processor that we may use, from its start to its end.
pub struct Stalls {
    stop: Arc<AtomicBool>,
    /// Unit: ns.
    longest: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Stalls {
    pub fn watch() -> Self {
        let (stop, longest) = (Arc::default(), Arc::default());
        let ours = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let cores = (0..CpuSet::count()).filter(|core| ours.is_set(*core).unwrap_or(false));
        let threads = cores
            .map(|core| {
                let (stop, longest) = (Arc::clone(&stop), Arc::clone(&longest));
                std::thread::spawn(move || look_after(core, &stop, &longest))
            })
            .collect();
        Self {
            stop,
            longest,
            threads,
        }
    }

    /// The longest time so far for which a thread that wanted to run did not.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn look_after(core: usize, stop: &AtomicBool, longest: &AtomicU64) {
    let mut one = CpuSet::new();
    // Unpinned it sees less, and is better than nothing.
    let _ = one
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &one));
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(STEP);
        let now = Instant::now();
        let gap = now.saturating_duration_since(last).saturating_sub(STEP);
        last = now;
        let gap = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX);
        longest.fetch_max(gap, Ordering::Relaxed);
    }
}

/// Runs `measure`, which panics when what it demands is not so. If the machine stood still for `limit` or longer meanwhile, that says nothing, and it is run
/// again; not for ever.
pub fn undisturbed<T>(limit: Duration, mut measure: impl FnMut() -> T) -> T {
    for attempt in 1.. {
        let stalls = Stalls::watch();
        let panicked = match catch_unwind(AssertUnwindSafe(&mut measure)) {
            Ok(done) => return done,
            Err(panicked) => panicked,
        };
        let longest = stalls.longest();
        if longest < limit || attempt == TRIES {
            eprintln!("the longest stall of the machine: {longest:?} (attempt {attempt})");
            resume_unwind(panicked);
        }
        eprintln!("the machine stood still for {longest:?}: measured again");
    }
    unreachable!("the last attempt returns or panics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_succeeds_is_measured_once() {
        let mut count = 0;
        undisturbed(Duration::ZERO, || count += 1);
        assert_eq!(count, 1);
    }

    #[test]
    fn what_fails_on_a_machine_that_stood_still_is_measured_again() {
        let mut count = 0;
        undisturbed(Duration::ZERO, || {
            count += 1;
            assert_eq!(count, 3, "the third time it is well");
        });
        assert_eq!(count, 3);
    }

    #[test]
    fn what_fails_without_a_stall_or_each_time_fails() {
        for (limit, tries) in [(Duration::MAX, 1), (Duration::ZERO, TRIES)] {
            let mut count = 0;
            let failed = catch_unwind(AssertUnwindSafe(|| {
                undisturbed(limit, || {
                    count += 1;
                    assert!(count == 0, "never");
                });
            }));
            assert!(failed.is_err());
            assert_eq!(count, tries);
        }
    }
}
