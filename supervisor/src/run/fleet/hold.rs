//! Two fleets over two arenas, and the moment between them: a part of the fleet's machine.
//!
//! ```text
//! the fleet that serves    StandBy -> every worker stops its slots and stays, AllStoodBy     (Resume: each takes its seat again)
//! its successor            gathers seats + 1 spares, Gathered; Go -> each seat is assigned, with what the other fleet left in it
//! ```
//!
//! While a fleet is held nobody is assigned or started, but the successor's spares. A worker that dies while it stands by leaves its arena
//! unrecovered, so that nothing may be copied out of it: `Broken`, and the caller resumes.

use stdx::Instant;

use super::{Cause, Fleet, Heritage, Image, Output, Patience, ProcessId, State};

/// Why a fleet is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It has never served.
    Gathering {
        /// Whether it was told that everybody is there.
        told: bool,
    },
    /// It served until then.
    Standing { since: Instant, told: bool },
}

impl Fleet {
    /// A fleet for the same seats over another arena: it gathers its processes and waits for [`super::Input::Go`].
    pub(crate) fn successor(&self, first: u32, image: Image, patience: Patience) -> Self {
        let seats = self.seats.len() as u16;
        let mut fleet = Self::new(seats, Self::aux_wanted(seats), patience);
        fleet.next = first;
        fleet.image = image;
        fleet.held = Some(Hold::Gathering { told: false });
        fleet
    }

    /// The number of the first process of a successor: none is used twice in an arena's life, and some are left for what this fleet may yet start.
    pub(crate) fn next_of_successor(&self) -> u32 {
        self.next.saturating_add(1 << 12)
    }

    /// Whether every seat is served, and nothing planned is under way.
    pub(crate) fn is_steady(&self) -> bool {
        let served = self.seats.iter().all(|seat| self.serving(seat));
        let idle = self.restarts.is_empty() && self.upgrade.is_none() && self.held.is_none();
        self.all_served && served && idle && !self.stopping
    }

    /// What the program of all later processes is.
    pub(crate) fn image(&self) -> Image {
        self.image
    }

    pub(super) fn on_stand_by(&mut self, now: Instant, out: &mut Vec<Output>) {
        let overdue = now.saturating_add(self.patience.drain);
        self.held = Some(Hold::Standing {
            since: now,
            told: false,
        });
        for (id, process) in &mut self.processes {
            if let State::Serving(seat) = process.state {
                process.go(State::Halting(seat), now, Some(overdue));
                out.push(Output::StandBy(*id));
            }
        }
    }

    pub(super) fn on_stood_by(&mut self, now: Instant, id: ProcessId, out: &mut Vec<Output>) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let State::Halting(seat) = process.state else {
            return;
        };
        process.go(State::Halted(seat), now, None);
        if self.held.is_none() {
            self.take_seat_again(now, now, out);
        }
    }

    pub(super) fn on_resume(&mut self, now: Instant, out: &mut Vec<Output>) {
        let since = match self.held.take() {
            Some(Hold::Standing { since, .. }) => since,
            Some(Hold::Gathering { .. }) | None => now,
        };
        self.take_seat_again(now, since, out);
    }

    fn take_seat_again(&mut self, now: Instant, since: Instant, out: &mut Vec<Output>) {
        let overdue = now.saturating_add(self.patience.serve);
        for (id, process) in &mut self.processes {
            let State::Halted(seat) = process.state else {
                continue;
            };
            process.go(State::Assigned(seat), now, Some(overdue));
            let heritage = Heritage {
                since,
                cause: Cause::Planned,
                suspect: false,
            };
            self.seats[usize::from(seat)].vacancy = Some(heritage.clone());
            out.push(Output::Assign {
                process: *id,
                seat,
                heritage: Some(heritage),
            });
        }
    }

    /// The successor serves from now on; `since`: the predecessor does not.
    pub(super) fn on_go(&mut self, since: Instant) {
        self.held = None;
        for seat in &mut self.seats {
            seat.vacancy = Some(Heritage {
                since,
                cause: Cause::Planned,
                suspect: false,
            });
        }
    }

    /// What people are told of the seats goes on where the predecessor's ends.
    pub(crate) fn inherit(&mut self, from: &Self) {
        for (seat, before) in self.seats.iter_mut().zip(&from.seats) {
            seat.restarts += before.restarts + 1;
            seat.last_exit.get_or_insert(Cause::Planned);
        }
    }

    /// Says once that what a held fleet waited for is there, or cannot come any more.
    pub(super) fn settle_held(&mut self, out: &mut Vec<Output>) {
        let spares = self
            .processes
            .values()
            .filter(|process| process.state == State::Spare);
        let gathered = spares.count() > self.seats.len();
        let all_halted = self.seats.iter().all(|seat| {
            let process = seat.incumbent.and_then(|id| self.processes.get(&id));
            process.is_some_and(|process| matches!(process.state, State::Halted(_)))
        });
        let vacant = self.vacant() > 0;
        match &mut self.held {
            Some(Hold::Gathering { told }) if gathered && !*told => {
                *told = true;
                out.push(Output::Gathered);
            }
            Some(Hold::Standing { told, .. }) if vacant && !*told => {
                *told = true;
                out.push(Output::Broken);
            }
            Some(Hold::Standing { told, .. }) if all_halted && !*told => {
                *told = true;
                out.push(Output::AllStoodBy);
            }
            _ => {}
        }
    }
}
