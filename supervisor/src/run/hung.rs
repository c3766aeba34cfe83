//! What is done about a slot that hangs: its state goes to the log, then its worker goes.
//!
//! ```text
//! hung --its thread runs or sleeps--> asked for its stack --it ends itself, or a second passes: killed--> heir
//!   |
//!   +--its process was stopped (SIGSTOP): no handler would run-----------------------------> killed--> heir
//! ```
//!
//! What the kernel knows of each thread is logged in either case. The loop never waits for the stack.
//!
//! A process that has no slots yet, the spare above all, runs nothing that could loop, but it can be stopped; a take-over would then wait for it. So the kernel is
//! asked each second whether it is, and it is replaced by the same rule. It takes the place of a slot behind the last one: its participant's number.

use std::collections::BTreeMap;

use os::Thread;
use stdx::Instant;

use super::fleet::{Input, ProcessId, State};
use super::supervisor::Supervisor;
use super::watchdog::{Beat, Output};

impl Supervisor {
    /// Rings the doorbells that are due and sees to those who did not answer.
    pub(super) fn watch_slots(&mut self, now: Instant) {
        let timeout = self.config.workers.hang_timeout;
        if now < self.watchdog.deadline(timeout) {
            return;
        }
        let mut outputs = Vec::new();
        let mut beats = self.beats();
        beats.extend(self.beats_without_slots(now));
        self.watchdog.step(now, timeout, &beats, &mut outputs);
        let mut hung: BTreeMap<ProcessId, Vec<u16>> = BTreeMap::new();
        for output in outputs {
            match output {
                Output::Ring { slot } => self.ring_slot(slot),
                Output::Hung { slot, process } if slot >= self.config.slots() => {
                    self.on_stopped(process);
                }
                Output::Hung { slot, process } => hung.entry(process).or_default().push(slot),
            }
        }
        hung.into_iter()
            .for_each(|(process, slots)| self.on_hung_slots(process, &slots));
    }

    fn beats(&self) -> Vec<Beat> {
        let serving = self
            .fleet
            .processes()
            .filter_map(|(id, process)| match process.state {
                State::Serving(seat) => Some((id, seat)),
                _ => None,
            });
        serving
            .flat_map(|(process, seat)| self.slots_of(seat).map(move |slot| (process, slot)))
            .map(|(process, slot)| Beat {
                slot,
                process,
                heartbeat_ns: self.memory.heartbeat_ns(slot),
            })
            .collect()
    }

    /// Of processes that serve nothing yet: all is well, unless they are stopped.
    fn beats_without_slots(&self, now: Instant) -> impl Iterator<Item = Beat> {
        self.fleet
            .processes()
            .filter_map(move |(process, entry)| match entry.state {
                State::Starting | State::Spare | State::Assigned(_) => {
                    let pid = self.links.get(process)?.pid;
                    // One that can't be asked is dying.
                    let stopped = os::is_stopped(pid).unwrap_or(false);
                    Some(Beat {
                        slot: self.memory.participant(entry.aux),
                        process,
                        heartbeat_ns: if stopped { 0 } else { now.as_nanos() },
                    })
                }
                _ => None,
            })
    }

    /// A process without slots.
    fn on_stopped(&mut self, id: ProcessId) {
        if let Some(link) = self.links.get(id) {
            tracing::error!(
                pid = link.pid,
                "a worker without slots was stopped from outside: it is replaced"
            );
            self.feed(Input::Stopped(id));
        }
    }

    fn ring_slot(&self, slot: u16) {
        use std::os::fd::AsFd as _;
        if let Some(bell) = self.doorbells.get(usize::from(slot))
            && let Err(error) = os::ring_eventfd(bell.as_fd())
        {
            tracing::debug!(slot, %error, "a doorbell can't be rung");
        }
    }

    fn on_hung_slots(&mut self, id: ProcessId, slots: &[u16]) {
        let Some(pid) = self.links.get(id).map(|link| link.pid) else {
            return;
        };
        let timeout_ms = self.config.workers.hang_timeout.as_millis() as u64;
        tracing::error!(
            pid,
            ?slots,
            timeout_ms,
            "slots do not answer: their worker is replaced"
        );
        let threads = os::threads(pid).unwrap_or_default();
        threads.iter().for_each(|thread| log_thread(pid, thread));
        if threads.iter().any(Thread::is_stopped) {
            return self.feed(Input::Stopped(id));
        }
        slots.iter().for_each(|slot| self.memory.blame(*slot));
        // The last one asked ends the process; the others were asked before.
        let hung: Vec<&Thread> = threads
            .iter()
            .filter(|thread| {
                slots
                    .iter()
                    .any(|slot| thread.name == worker::thread_name(*slot))
            })
            .collect();
        let mut asked = false;
        for (nth, thread) in (1..).zip(&hung) {
            match os::ask_for_stack(pid, thread.tid, nth == hung.len()) {
                Ok(()) => asked = true,
                Err(error) => {
                    tracing::warn!(pid, tid = thread.tid, %error, "a thread can't be asked for its stack")
                }
            }
        }
        self.feed(if asked {
            Input::Hangs(id)
        } else {
            Input::Hung(id)
        });
    }
}

fn log_thread(pid: u32, thread: &Thread) {
    tracing::warn!(
        pid,
        tid = thread.tid,
        name = thread.name,
        state = %thread.state,
        wchan = thread.wchan,
        syscall = thread.syscall,
        "thread"
    );
}
