//! Which slots hang: a machine without clock, doorbell or arena.
//!
//! Every second each slot that is served has its doorbell rung. A slot that runs stores the moment of its turn
//! (`SlotHeader::heartbeat_ns`), and an idle one runs a turn because the bell wakes it. One whose heartbeat has not moved for
//! `workers.hang_timeout` since a ring hangs: it is in an endless loop, stopped, or blocked.
//!
//! ```text
//! answered --second: ring--> waiting --heartbeat moved--> answered
//!                            ^  | `hang_timeout` since the ring
//!   it only waits for the    |  v
//!   processor: once more     +- looked at --> hung (told once; forgotten when another process has the slot)
//! ```
//!
//! *Starved is not hung.* A thread that could run and is not given a processor answers nothing either. So a thread is looked at when half of the time has
//! passed, and at the end: if it is runnable, and between the two it ran for less than a quarter of the timeout, it has another timeout to answer in. What it ran
//! adds up, so that an endless loop is found on the most loaded machine; one that has a processor to itself has used twice the quarter by the end.
//!
//! Who was not scheduled itself can't blame others: if the machine's own step comes late, every wait begins anew. The cost is a
//! write and a load per slot and second, and a message for each process; nothing else wakes up while everybody
//! answers, unless the timeout is below two seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use stdx::Instant;

use super::fleet::ProcessId;

/// How often doorbells are rung.
const EVERY: Duration = Duration::from_secs(1);
/// Lateness of our own that makes us doubt everybody's, at most. Half of a short timeout does so already.
const LATE_MAX: Duration = Duration::from_millis(500);

/// A slot that is served, as found now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    pub(super) slot: u16,
    pub(super) process: ProcessId,
    /// Any other value than before is a sign of life.
    pub(super) heartbeat_ns: u64,
}

/// What the thread of a slot is found to do that has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Its heartbeat has moved meanwhile.
    Answered,
    /// It runs or waits for a processor, and has run for so long since it began.
    Runnable(Duration),
    /// It sleeps, was stopped, or nobody can tell.
    Still,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Ring {
        slot: u16,
        process: ProcessId,
    },
    Hung {
        slot: u16,
        process: ProcessId,
    },
    /// It waits for the processor; told once until it answers.
    Starved {
        slot: u16,
        process: ProcessId,
    },
}

#[derive(Debug)]
struct Slot {
    process: ProcessId,
    /// As it was at the last ring.
    heartbeat_ns: u64,
    /// Since when an answer is due.
    waiting_since: Option<Instant>,
    /// It was looked at since the ring, half of the timeout after it.
    looked: bool,
    /// What it had run then, or when it was first found runnable.
    ran: Option<Duration>,
    starved: bool,
    told: bool,
}

impl Slot {
    fn new(beat: &Beat) -> Self {
        Self {
            process: beat.process,
            heartbeat_ns: beat.heartbeat_ns,
            waiting_since: None,
            looked: false,
            ran: None,
            starved: false,
            told: false,
        }
    }

    /// Nothing is due.
    fn answered(&mut self) {
        self.waiting_since = None;
        self.looked = false;
        self.ran = None;
        self.starved = false;
    }

    /// When it is to be looked at next.
    fn due(&self, timeout: Duration) -> Option<Instant> {
        let since = self.waiting_since.filter(|_| !self.told)?;
        let wait = if self.looked { timeout } else { timeout / 2 };
        Some(since.saturating_add(wait))
    }

    /// It is due and was looked at.
    fn on_sight(&mut self, now: Instant, timeout: Duration, sight: Sight) -> Verdict {
        let first = !std::mem::replace(&mut self.looked, true);
        match sight {
            Sight::Answered => {
                self.answered();
                Verdict::Well
            }
            Sight::Runnable(ran) if first => {
                self.ran = Some(ran);
                Verdict::Well
            }
            Sight::Still if first => Verdict::Well,
            Sight::Still => Verdict::Hung,
            Sight::Runnable(ran) => {
                let before = *self.ran.get_or_insert(ran);
                if ran.saturating_sub(before) >= timeout / 4 {
                    return Verdict::Hung;
                }
                self.waiting_since = Some(now);
                if std::mem::replace(&mut self.starved, true) {
                    Verdict::Well
                } else {
                    Verdict::Starved
                }
            }
        }
    }
}

/// What is to be told of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Well,
    Starved,
    Hung,
}

#[derive(Debug)]
pub(super) struct Watchdog {
    slots: BTreeMap<u16, Slot>,
    next_ring: Instant,
    /// When we asked to be stepped at the latest.
    expected: Instant,
}

impl Watchdog {
    pub(super) fn new(now: Instant) -> Self {
        let first = now.saturating_add(EVERY);
        Self {
            slots: BTreeMap::new(),
            next_ring: first,
            expected: first,
        }
    }

    /// When `step` has work to do, for answers that are due within `timeout`.
    pub(super) fn deadline(&self, timeout: Duration) -> Instant {
        let first = self
            .slots
            .values()
            .filter_map(|slot| slot.due(timeout))
            .min();
        first.map_or(self.next_ring, |first| first.min(self.next_ring))
    }

    /// To be called when the deadline has come; `beats` are the slots that are served now, and `look` tells what the thread of one does.
    pub(super) fn step(
        &mut self,
        now: Instant,
        timeout: Duration,
        beats: &[Beat],
        mut look: impl FnMut(&Beat) -> Sight,
        out: &mut Vec<Output>,
    ) {
        let late = now.saturating_duration_since(self.expected);
        let forgive = late >= LATE_MAX.min(timeout / 2);
        self.slots.retain(|number, slot| {
            beats
                .iter()
                .any(|b| b.slot == *number && b.process == slot.process)
        });
        let ring = now >= self.next_ring;
        if ring {
            self.next_ring = now.saturating_add(EVERY);
        }
        for beat in beats {
            let slot = self
                .slots
                .entry(beat.slot)
                .or_insert_with(|| Slot::new(beat));
            if slot.told {
                continue;
            }
            if slot.heartbeat_ns != beat.heartbeat_ns {
                slot.answered();
            } else if forgive && slot.waiting_since.is_some() {
                slot.waiting_since = Some(now);
            }
            // Who was not looked at in time is looked at now, and has the second half still before it.
            let verdict = if slot.due(timeout).is_some_and(|due| due <= now) {
                slot.on_sight(now, timeout, look(beat))
            } else {
                Verdict::Well
            };
            let (number, process) = (beat.slot, beat.process);
            if verdict == Verdict::Starved {
                out.push(Output::Starved {
                    slot: number,
                    process,
                });
            }
            if verdict == Verdict::Hung {
                slot.told = true;
                out.push(Output::Hung {
                    slot: number,
                    process,
                });
            } else if ring {
                slot.heartbeat_ns = beat.heartbeat_ns;
                slot.waiting_since.get_or_insert(now);
                out.push(Output::Ring {
                    slot: beat.slot,
                    process: beat.process,
                });
            }
        }
        self.expected = self.deadline(timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    /// Two slots of two processes on a clock of our own.
    struct World {
        watchdog: Watchdog,
        now: Instant,
        timeout: Duration,
        beats: Vec<Beat>,
        /// What part of the time since the start, in percent, those who do not answer run; `None`: they sleep.
        share: Option<u32>,
    }

    impl World {
        fn new(timeout: Duration) -> Self {
            let now = Instant::from_nanos(1_000_000_000);
            let beat = |slot| Beat {
                slot,
                process: ProcessId(u32::from(slot)),
                heartbeat_ns: 1,
            };
            Self {
                watchdog: Watchdog::new(now),
                now,
                timeout,
                beats: vec![beat(0), beat(1)],
                share: None,
            }
        }

        fn step(&mut self) -> Vec<Output> {
            let mut out = Vec::new();
            let sight = self.share.map_or(Sight::Still, |share| {
                Sight::Runnable(Duration::from_nanos(self.now.as_nanos()) * share / 100)
            });
            self.watchdog
                .step(self.now, self.timeout, &self.beats, |_| sight, &mut out);
            out
        }

        /// Goes on to each deadline in time, until `span` has passed; those who `live` answer every ring. What came out, by ms.
        fn run(&mut self, span: Duration, live: &[u16]) -> Vec<(u64, Output)> {
            let (start, end) = (self.now, self.now + span);
            let mut all = Vec::new();
            loop {
                let next = self.watchdog.deadline(self.timeout);
                if next > end {
                    self.now = end;
                    return all;
                }
                self.now = next.max(self.now);
                for output in self.step() {
                    if let Output::Ring { slot, .. } = output
                        && live.contains(&slot)
                    {
                        self.beats[usize::from(slot)].heartbeat_ns += 1;
                    }
                    let at = self.now.saturating_duration_since(start).as_millis() as u64;
                    all.push((at, output));
                }
            }
        }

        fn hung(&mut self, span: Duration, live: &[u16]) -> Vec<(u64, u16)> {
            let hung = |(at, output)| match output {
                Output::Hung { slot, .. } => Some((at, slot)),
                Output::Ring { .. } | Output::Starved { .. } => None,
            };
            self.run(span, live).into_iter().filter_map(hung).collect()
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn who_answers_is_rung_each_second_and_nothing_else_happens() {
        let mut world = World::new(TIMEOUT);
        let rings: Vec<u64> = world
            .run(ms(3_500), &[0, 1])
            .into_iter()
            .map(|(at, output)| {
                assert!(matches!(output, Output::Ring { .. }));
                at
            })
            .collect();
        assert_eq!(rings, [1000, 1000, 2000, 2000, 3000, 3000]);
        assert_eq!(world.hung(ms(600_000), &[0, 1]), []);
    }

    #[test]
    fn who_does_not_answer_is_told_once_after_the_timeout() {
        let mut world = World::new(TIMEOUT);
        assert_eq!(world.hung(ms(10_000), &[0]), [(3000, 1)]);
        // Another process has the slot: it starts afresh, whatever the heartbeat says.
        world.beats[1].process = ProcessId(7);
        assert_eq!(world.hung(ms(10_000), &[0]), [(3000, 1)]);
        for (timeout, after) in [(100, 1100), (1000, 2000), (2500, 3500)] {
            assert_eq!(
                World::new(ms(timeout)).hung(ms(10_000), &[1]),
                [(after, 0)],
                "{timeout} ms"
            );
        }
    }

    #[test]
    fn a_late_answer_counts() {
        let mut world = World::new(TIMEOUT);
        assert_eq!(world.hung(ms(2_900), &[0]), []);
        world.beats[1].heartbeat_ns += 1;
        // Rung at 3 s, hung 2 s later.
        assert_eq!(world.hung(ms(5_000), &[0]), [(2100, 1)]);
    }

    #[test]
    fn a_supervisor_that_did_not_run_forgives_everybody() {
        for (timeout, pause, forgiven) in [
            (TIMEOUT, ms(5_000), true),
            (TIMEOUT, ms(500), true),
            (TIMEOUT, ms(400), false),
            (ms(100), ms(60), true),
            (ms(100), ms(40), false),
        ] {
            let mut world = World::new(timeout);
            assert_eq!(world.hung(timeout + ms(999), &[]), []);
            // The step that would tell comes late.
            world.now = world.now + ms(1) + pause;
            let out = world.step();
            let hung = out.iter().filter(|o| matches!(o, Output::Hung { .. }));
            assert_eq!(hung.count() == 0, forgiven, "{timeout:?} {pause:?}");
            // Who still says nothing is found in the end.
            assert_eq!(
                world.hung(ms(20_000), &[]).len(),
                if forgiven { 2 } else { 0 }
            );
        }
    }

    #[test]
    fn who_is_not_given_a_processor_is_starved_and_not_hung() {
        let starved = |world: &mut World, span| {
            let all = world.run(span, &[0]).into_iter();
            let told = all.filter(|(_, output)| !matches!(output, Output::Ring { .. }));
            told.collect::<Vec<_>>()
        };
        let told = Output::Starved {
            slot: 1,
            process: ProcessId(1),
        };
        for timeout in [100, 500, 2000] {
            let mut world = World::new(ms(timeout));
            world.share = Some(0);
            assert_eq!(
                starved(&mut world, ms(60_000)),
                [(1000 + timeout, told)],
                "once"
            );
            // It gets its turn, and starves again later.
            world.beats[1].heartbeat_ns += 1;
            assert_eq!(starved(&mut world, ms(60_000)).len(), 1);
            // Then it sleeps, and does not answer for that.
            world.share = None;
            assert_eq!(world.hung(ms(2 * timeout + 1000), &[0]).len(), 1);
        }
    }

    #[test]
    fn an_endless_loop_is_found_on_a_loaded_machine_too() {
        for (share, at) in [(100, 3000), (50, 3000), (25, 5000), (10, 7000), (1, 53_000)] {
            let mut world = World::new(TIMEOUT);
            world.share = Some(share);
            assert_eq!(world.hung(ms(100_000), &[0]), [(at, 1)], "{share} %");
        }
    }

    #[test]
    fn who_answers_at_the_last_moment_is_well() {
        let mut world = World::new(TIMEOUT);
        assert_eq!(world.hung(ms(2_999), &[0]), []);
        world.now += ms(1);
        let mut out = Vec::new();
        world.watchdog.step(
            world.now,
            TIMEOUT,
            &world.beats,
            |_| Sight::Answered,
            &mut out,
        );
        assert!(
            !out.iter().any(|o| matches!(o, Output::Hung { .. })),
            "{out:?}"
        );
    }

    #[test]
    fn slots_that_nobody_serves_are_not_watched() {
        let mut world = World::new(TIMEOUT);
        let beats = std::mem::take(&mut world.beats);
        assert_eq!(world.run(ms(10_000), &[]), []);
        world.beats = beats;
        assert_eq!(world.hung(ms(2_500), &[]), []);
    }
}
