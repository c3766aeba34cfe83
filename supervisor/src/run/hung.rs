//! What is done about a slot that hangs: its state goes to the log, then its worker goes.
//!
//! ```text
//! hung --its thread runs or sleeps--> asked for its stack --it ends itself, or a second passes: killed--> heir
//!   |
//!   +--its process was stopped (SIGSTOP): no handler would run-----------------------------> killed--> heir
//! ```
//!
//! One that could run, but is not given a processor, is waited for (`watchdog`). What the kernel knows of each thread is logged in either case. The loop never waits for the stack.
//!
//! The control thread of each process is rung as well, by an order that does nothing (`links`): a spare whose control thread hangs, in an endless loop or on
//! a lock, would take no seat, and a take-over would wait for it. It takes the place of a slot behind the last one: its participant's number. That is no word
//! against the message that a slot has at hand. A process that starts reads no orders until it is attached, and has some seconds more.

use std::collections::BTreeMap;
use std::time::Duration;

use os::Thread;
use stdx::Instant;

use super::fleet::{Input, ProcessId, State};
use super::supervisor::Supervisor;
use super::watchdog::{Beat, Output, Sight};

/// How old a process that starts may become before it has to read its orders.
const YOUNG: Duration = Duration::from_secs(3);

impl Supervisor {
    /// Rings the doorbells that are due and sees to those who did not answer.
    pub(super) fn watch_slots(&mut self, now: Instant) {
        let timeout = self.config.workers.hang_timeout;
        if now < self.watchdog.deadline(timeout) {
            return;
        }
        let mut outputs = Vec::new();
        let mut beats = self.beats();
        beats.extend(self.beats_of_control_threads(now));
        let slots = self.config.slots();
        let look = |beat: &Beat| {
            let Some(link) = self.links.get_mut(beat.process) else {
                return Sight::Still;
            };
            let sight = sight_of(link.pid, (beat.slot < slots).then_some(beat.slot));
            // Read after its state: who has answered and sleeps again is not to be taken for one that slept all the time.
            let heartbeat_ns = if beat.slot < slots {
                self.memory.heartbeat_ns(beat.slot)
            } else {
                link.heard(now)
            };
            if heartbeat_ns == beat.heartbeat_ns {
                sight
            } else {
                Sight::Answered
            }
        };
        self.watchdog.step(now, timeout, &beats, look, &mut outputs);
        let mut hung: BTreeMap<ProcessId, Vec<u16>> = BTreeMap::new();
        let mut deaf = Vec::new();
        for output in outputs {
            match output {
                Output::Ring { slot, process } if slot >= self.config.slots() => {
                    self.ring_control_thread(process);
                }
                Output::Ring { slot, .. } => self.ring_slot(slot),
                Output::Starved { slot, process } => {
                    let pid = self.links.get(process).map_or(0, |link| link.pid);
                    // A control thread's number is behind the last slot's.
                    let slot = (slot < self.config.slots()).then_some(slot);
                    tracing::warn!(
                        pid,
                        slot,
                        "a thread does not answer, since it is not given the processor: it is waited for"
                    );
                }
                Output::Hung { slot, process } if slot >= self.config.slots() => {
                    deaf.push(process);
                }
                Output::Hung { slot, process } => hung.entry(process).or_default().push(slot),
            }
        }
        // If everything in a process hangs it is the slots that count: one of them may have the message that did it.
        deaf.retain(|process| !hung.contains_key(process));
        hung.into_iter()
            .for_each(|(process, slots)| self.on_hung_slots(process, &slots));
        deaf.into_iter().for_each(|process| self.on_deaf(process));
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

    fn beats_of_control_threads(&mut self, now: Instant) -> Vec<Beat> {
        let mut beats = Vec::new();
        for (process, entry) in self.fleet.processes() {
            let Some(link) = self.links.get_mut(process) else {
                continue;
            };
            let heard_ns = link.heard(now);
            let heartbeat_ns = match entry.state {
                State::Starting => {
                    let young = now.saturating_duration_since(entry.started_at) < YOUNG;
                    // One that can't be asked is dying.
                    if young && !os::is_stopped(link.pid).unwrap_or(false) {
                        now.as_nanos()
                    } else {
                        heard_ns
                    }
                }
                State::Spare | State::Assigned(_) | State::Serving(_) => heard_ns,
                // They finish what they do before they read on.
                State::Halting(_) | State::Halted(_) | State::Leaving(_) => continue,
            };
            beats.push(Beat {
                slot: self.memory.participant(entry.aux),
                process,
                heartbeat_ns,
            });
        }
        beats
    }

    fn ring_control_thread(&mut self, id: ProcessId) {
        if let Some(link) = self.links.get_mut(id)
            && let Err(error) = link.ring()
        {
            // Its death or its silence will tell.
            tracing::debug!(pid = link.pid, %error, "a control thread can't be rung");
        }
    }

    /// A process whose control thread takes no orders.
    fn on_deaf(&mut self, id: ProcessId) {
        let Some(pid) = self.links.get(id).map(|link| link.pid) else {
            return;
        };
        if os::is_stopped(pid).unwrap_or(false) {
            tracing::error!(pid, "a worker was stopped from outside: it is replaced");
            return self.feed(Input::Stopped(id));
        }
        let timeout_ms = self.config.workers.hang_timeout.as_millis() as u64;
        tracing::error!(
            pid,
            timeout_ms,
            "the control thread of a worker takes no orders: the worker is replaced"
        );
        let threads = os::threads(pid).unwrap_or_default();
        threads.iter().for_each(|thread| log_thread(pid, thread));
        // The control thread is the first one of its process.
        if let Err(error) = os::ask_for_stack(pid, pid, true) {
            tracing::warn!(pid, %error, "a thread can't be asked for its stack");
        }
        self.feed(Input::Deaf(id));
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

/// What the thread of a slot does, or the control thread.
fn sight_of(pid: u32, slot: Option<u16>) -> Sight {
    let name = slot.map(worker::thread_name);
    let threads = os::threads(pid).unwrap_or_default();
    let found = threads.iter().find(|thread| match &name {
        Some(name) => thread.name == *name,
        None => thread.tid == pid,
    });
    found
        .filter(|thread| thread.is_runnable())
        .and_then(|thread| thread.ran)
        .map_or(Sight::Still, Sight::Runnable)
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
