//! An upgrade of the workers: a part of the fleet's machine.
//!
//! ```text
//! new spare starts beside the old one --Ready--> the old spare leaves
//!   seat by seat: HandOver -> the new spare takes over -> Serving -> Ring; healthy: it answers and outlives TRIAL
//!                                                                    all moved and a spare ready: Upgraded
//! any process on the new program dies, fails or stays silent -> back: the same walk to the old program, without trials
//! ```
//!
//! What is still to be done is read off the processes, never remembered: the next seat is one whose process runs another program
//! than the target. So a take-over in the middle of it, of either program, needs no rule of its own.

use std::fmt;
use std::time::Duration;

use stdx::Instant;

use super::{Cause, Fleet, Image, Output, ProcessId, State, Ticket};

/// How long a worker on the new program has to live before the next seat is moved.
const TRIAL: Duration = Duration::from_millis(500);
/// How long it may take to answer its doorbells.
const SILENCE_MAX: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Upgrade {
    ticket: Ticket,
    /// What the processes ran before.
    from: Image,
    to: Image,
    /// Why it goes back; `None` while it goes on.
    setback: Option<Setback>,
    trial: Option<Trial>,
}

/// A process that has moved and is watched.
#[derive(Debug)]
struct Trial {
    process: ProcessId,
    seat: u16,
    answered: bool,
    began: Instant,
}

/// Why an upgrade goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setback {
    /// A process died before it had a seat.
    Spare(Cause),
    /// A process died in this seat.
    Worker(u16, Cause),
    /// The process in this seat does not answer its doorbells.
    Silent(u16),
    /// The caller found a reason.
    Asked,
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spare(cause) => write!(f, "its spare did not get ready ({cause})"),
            Self::Worker(seat, cause) => write!(f, "worker {seat} died on it ({cause})"),
            Self::Silent(seat) => write!(f, "worker {seat} does not answer on it"),
            Self::Asked => f.write_str("the supervisor could not go on with it"),
        }
    }
}

impl Fleet {
    /// Whether an upgrade is under way, in either direction.
    pub(crate) fn upgrading(&self) -> bool {
        self.upgrade.is_some()
    }

    pub(super) fn on_upgrade(&mut self, ticket: Ticket, image: Image, out: &mut Vec<Output>) {
        let why = if self.stopping {
            "the server is stopping"
        } else if !self.all_served {
            "the server is still starting"
        } else if self.upgrade.is_some() {
            "another upgrade is under way"
        } else if self.held.is_some() {
            "the server is moving to another arena"
        } else if !self.restarts.is_empty() {
            "a restart is under way"
        } else {
            self.upgrade = Some(Upgrade {
                ticket,
                from: self.image,
                to: image,
                setback: None,
                trial: None,
            });
            self.image = image;
            return;
        };
        out.push(Output::Refused(ticket, why));
    }

    /// Everybody back to `image`: what the caller did after the workers' upgrade has failed.
    pub(super) fn on_downgrade(
        &mut self,
        now: Instant,
        ticket: Ticket,
        image: Image,
        out: &mut Vec<Output>,
    ) {
        let from = self.image;
        self.upgrade = Some(Upgrade {
            ticket,
            from: image,
            to: from,
            setback: None,
            trial: None,
        });
        self.go_back(now, Setback::Asked, out);
    }

    /// An adopted process runs this program and not ours.
    pub(crate) fn is_of(&mut self, id: ProcessId, image: Image) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.image = image;
        }
        self.image = image;
    }

    pub(super) fn on_answered(&mut self, id: ProcessId) {
        if let Some(trial) = self
            .upgrade
            .as_mut()
            .and_then(|upgrade| upgrade.trial.as_mut())
            && trial.process == id
        {
            trial.answered = true;
        }
    }

    /// A process is gone that did not leave as told.
    pub(super) fn lost_to_upgrade(
        &mut self,
        now: Instant,
        image: Image,
        seat: Option<u16>,
        cause: Cause,
        out: &mut Vec<Output>,
    ) {
        let Some(upgrade) = self
            .upgrade
            .as_ref()
            .filter(|upgrade| upgrade.setback.is_none())
        else {
            return;
        };
        if image == upgrade.to && cause != Cause::Planned {
            let setback = seat.map_or(Setback::Spare(cause), |seat| Setback::Worker(seat, cause));
            self.go_back(now, setback, out);
        }
    }

    pub(super) fn drop_upgrade(&mut self, out: &mut Vec<Output>) {
        if let Some(upgrade) = self.upgrade.take() {
            out.push(Output::Refused(upgrade.ticket, "the server is stopping"));
        }
    }

    /// When the trial under way has to be looked at.
    pub(super) fn trial_deadline(&self) -> Option<Instant> {
        let trial = self.upgrade.as_ref()?.trial.as_ref()?;
        let wait = if trial.answered { TRIAL } else { SILENCE_MAX };
        Some(trial.began.saturating_add(wait))
    }

    fn go_back(&mut self, now: Instant, setback: Setback, out: &mut Vec<Output>) {
        let Some(upgrade) = self.upgrade.as_mut() else {
            return;
        };
        upgrade.setback = Some(setback);
        upgrade.trial = None;
        self.image = upgrade.from;
        // The old program has not failed; nothing of its coming is held back.
        self.failures = 0;
        self.hold = None;
        let bad = upgrade.to;
        for (id, process) in self
            .processes
            .iter_mut()
            .filter(|(_, process)| process.image == bad)
        {
            match process.state {
                // Nobody depends on it: at once, since it may be what is broken.
                State::Starting | State::Spare => {
                    process.go(State::Leaving(None), now, None);
                    out.push(Output::Kill(*id));
                }
                State::Assigned(_)
                | State::Serving(_)
                | State::Halting(_)
                | State::Halted(_)
                | State::Leaving(_) => {}
            }
        }
        out.push(Output::GoesBack(upgrade.ticket, setback));
    }

    /// Spares of another program than the target leave as soon as one of the target is there.
    fn replace_spares(&mut self, now: Instant, out: &mut Vec<Output>) {
        let image = self.image;
        let ready =
            |process: &super::Process| process.state == State::Spare && process.image == image;
        if !self.processes.values().any(ready) {
            return;
        }
        let overdue = now.saturating_add(self.patience.drain);
        for (id, process) in &mut self.processes {
            if process.state == State::Spare && process.image != image {
                process.go(State::Leaving(None), now, Some(overdue));
                out.push(Output::HandOver(*id));
            }
        }
    }

    /// Goes on, or back, by one step.
    pub(super) fn go_on_with_upgrade(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.upgrade.is_none() {
            return;
        }
        self.replace_spares(now, out);
        if self.on_trial(now, out) || !self.seats.iter().all(|seat| self.serving(seat)) {
            return;
        }
        if self.begin_trial(now, out) {
            return;
        }
        let image = self.image;
        let ready =
            |process: &super::Process| process.state == State::Spare && process.image == image;
        if !self.processes.values().any(ready) {
            return;
        }
        let Some((seat, id)) = self.next_to_move() else {
            return self.conclude(out);
        };
        let overdue = now.saturating_add(self.patience.drain);
        if let Some(process) = self.processes.get_mut(&id) {
            process.go(State::Leaving(Some(seat)), now, Some(overdue));
            out.push(Output::HandOver(id));
        }
    }

    fn next_to_move(&self) -> Option<(u16, ProcessId)> {
        (0u16..).zip(&self.seats).find_map(|(number, seat)| {
            let id = seat.incumbent?;
            let other = self.processes.get(&id)?.image != self.image;
            other.then_some((number, id))
        })
    }

    /// Whether a trial is under way.
    fn on_trial(&mut self, now: Instant, out: &mut Vec<Output>) -> bool {
        let due = self.trial_deadline();
        let Some(upgrade) = self.upgrade.as_mut() else {
            return false;
        };
        let Some(trial) = &upgrade.trial else {
            return false;
        };
        if due.is_none_or(|due| due > now) {
            return true;
        }
        let (id, seat, answered, ticket) =
            (trial.process, trial.seat, trial.answered, upgrade.ticket);
        upgrade.trial = None;
        if !answered {
            self.go_back(now, Setback::Silent(seat), out);
            return false;
        }
        if let Some(process) = self.processes.get_mut(&id) {
            process.proven = true;
        }
        out.push(Output::Moved(ticket, seat));
        false
    }

    /// Puts a process that has moved and was not watched yet on trial. Going back there are none: the old program has proved itself.
    fn begin_trial(&mut self, now: Instant, out: &mut Vec<Output>) -> bool {
        let Some(upgrade) = self
            .upgrade
            .as_mut()
            .filter(|upgrade| upgrade.setback.is_none())
        else {
            return false;
        };
        let to = upgrade.to;
        let moved = self.processes.iter().find(|(_, process)| {
            process.image == to && !process.proven && matches!(process.state, State::Serving(_))
        });
        let Some((&process, seat)) = moved.and_then(|(id, process)| Some((id, process.seat()?)))
        else {
            return false;
        };
        upgrade.trial = Some(Trial {
            process,
            seat,
            answered: false,
            began: now,
        });
        out.push(Output::Ring(process));
        true
    }

    /// Every seat and the spare run the target.
    fn conclude(&mut self, out: &mut Vec<Output>) {
        let others = self
            .processes
            .values()
            .any(|process| process.image != self.image);
        let Some(upgrade) = self.upgrade.take_if(|_| !others) else {
            return;
        };
        out.push(match upgrade.setback {
            None => Output::Upgraded(upgrade.ticket),
            Some(setback) => Output::WentBack(upgrade.ticket, setback),
        });
    }
}
