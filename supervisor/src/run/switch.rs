//! To another arena while calls run (stop-and-copy): a larger one, or one that another program lays out in its own way.
//!
//! ```text
//! make arena B ── its fleet gathers, attached and ready ── all workers of A stand by ── one of them writes A into a pipe,
//!   one of B's spares reads it ── every seat of B is assigned ── all serve: done, A is let go
//!                                 <------------------- the pause ------------------->
//! ```
//!
//! Messages wait in their sockets meanwhile. A is only read, so until B serves any failure, or a pause that gets too long, leads back to A: its workers, who have
//! stood by, take their seats again. If the supervisor dies meanwhile, the next one finds workers of both, and goes on with B as soon as one of its slots
//! was given away, else with A (`arenas`). A new program is watched for [`TRIAL`] after that; if one of its workers dies, it is A again, as it was before the pause.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use control::{ArenaPlan, ClientReply, ToWorker};
use failpoint::failpoint;
use stdx::Instant;

use super::fleet::{Fleet, Image, Input, Patience, ProcessId, Ticket};
use super::maker::{Made, Maker};
use super::memory::Memory;
use super::pages::Pages;
use super::supervisor::{Supervisor, Token};
use crate::about::ArenaNumbers;

/// How long workers on a new program have to live before the old arena is let go.
const TRIAL: Duration = Duration::from_millis(500);
/// Longest pause for up to [`PAUSE_RECORDS`] records, and for every further so many.
const PAUSE_MAX: Duration = Duration::from_millis(300);
const PAUSE_RECORDS: u64 = 100_000;

/// What a switch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A raised `memory.limit`.
    Limit(u64),
    /// A program that lays out the arena in another way.
    Upgrade,
}

#[derive(Debug)]
pub(super) struct Switch {
    purpose: Purpose,
    ticket: Ticket,
    image: Image,
    numbers: ArenaNumbers,
    first_process: u32,
    stage: Stage,
    next: Option<Next>,
    /// Longest pause.
    pause_max: Duration,
    /// When the first worker was told to stand by.
    halted_at: Instant,
    records: u64,
}

/// The other arena and its fleet.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) fleet: Fleet,
    pub(super) memory: Memory,
}

#[derive(Debug)]
enum Stage {
    Making(Maker),
    Gathering,
    Halting,
    /// Who writes and who reads are done.
    Copying {
        exported: bool,
        imported: bool,
    },
    /// Assigned; whether a slot has served.
    Starting {
        any: bool,
    },
    Trial {
        until: Instant,
    },
}

impl Switch {
    pub(super) fn next(&self) -> Option<&Next> {
        self.next.as_ref()
    }

    pub(super) fn next_mut(&mut self) -> Option<&mut Next> {
        self.next.as_mut()
    }

    /// The workers of the old arena were told to stand by.
    pub(super) fn has_halted(&self) -> bool {
        !matches!(self.stage, Stage::Making(_) | Stage::Gathering)
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Making(maker) => Some(maker.deadline),
            Stage::Gathering => None,
            Stage::Halting | Stage::Copying { .. } | Stage::Starting { any: false } => {
                Some(self.halted_at.saturating_add(self.pause_max))
            }
            // Too late to go back for the time alone.
            Stage::Starting { any: true } => None,
            Stage::Trial { until } => Some(*until),
        }
    }
}

fn pause_max(records: u64) -> Duration {
    let hundreds = records.div_ceil(PAUSE_RECORDS).clamp(1, 10_000);
    PAUSE_MAX.saturating_mul(hundreds as u32)
}

fn ms(time: Duration) -> String {
    format!("{}.{}", time.as_millis(), time.as_micros() % 1000 / 100)
}

impl Supervisor {
    /// `image` runs the workers of the new arena.
    pub(super) fn begin_switch(
        &mut self,
        purpose: Purpose,
        ticket: Ticket,
        image: Image,
        numbers: ArenaNumbers,
    ) {
        let huge_pages = match self.config.memory.huge_pages {
            config::HugePages::Off => 0,
            config::HugePages::Auto => 1,
            config::HugePages::Required => 2,
        };
        let plan = ArenaPlan {
            limit: numbers.limit,
            slots: numbers.slots,
            aux: numbers.aux,
            first_process: self.fleet.next_of_successor(),
            key: self.memory.key(),
            huge_pages,
        };
        let program = self.images.get(image).map(|program| &program.executable);
        let maker = match program {
            Some(program) if self.fleet.is_steady() => {
                Maker::start(program, &self.arguments.worker, plan, os::now())
                    .and_then(|maker| self.watch(maker.fd(), Token::Maker).map(|()| maker))
                    .map_err(|error| error.to_string())
            }
            _ => Err("not every worker serves at the moment".to_owned()),
        };
        match maker {
            Ok(maker) => {
                self.switch = Some(Switch {
                    purpose,
                    ticket,
                    image,
                    numbers,
                    first_process: plan.first_process,
                    stage: Stage::Making(maker),
                    next: None,
                    pause_max: pause_max(0),
                    halted_at: Instant::ZERO,
                    records: 0,
                });
            }
            Err(why) => self.switch_over(purpose, ticket, Err(why)),
        }
    }

    pub(super) fn on_maker(&mut self) {
        let Some(Switch {
            stage: Stage::Making(maker),
            ..
        }) = &self.switch
        else {
            return;
        };
        match maker.on_readable() {
            None => {}
            Some(Ok(made)) => self.gather(made),
            Some(Err(why)) => self.switch_failed(&format!("the new arena can't be made: {why}")),
        }
    }

    fn gather(&mut self, made: Made) {
        let Some(switch) = self.switch.as_mut() else {
            return;
        };
        if let Stage::Making(maker) = &switch.stage {
            let _ = self.epoll.delete(maker.fd());
        }
        switch.stage = Stage::Gathering;
        let memory = match switch.numbers.layout().hash() {
            Ok(ours) if ours == made.layout => {
                Memory::adopt(made.control, made.data).map_err(|error| error.to_string())
            }
            _ => Ok(self.memory.foreign(made.control, made.data)),
        };
        match memory {
            Ok(memory) => {
                let fleet =
                    self.fleet
                        .successor(switch.first_process, switch.image, Patience::default());
                switch.next = Some(Next { fleet, memory });
                self.feed_next(Input::Tick);
            }
            Err(why) => self.switch_failed(&why),
        }
    }

    /// The new fleet is ready: from here on nothing is served until it serves.
    pub(super) fn gathered(&mut self) {
        if !self.fleet.is_steady() {
            return self.switch_failed("a worker died meanwhile");
        }
        let records = self.memory.records();
        let Some(switch) = self.switch.as_mut() else {
            return;
        };
        switch.stage = Stage::Halting;
        switch.records = records;
        switch.pause_max = pause_max(records);
        // Before the pause, and before it serves: if everybody dies from then on, what it has served is not to be lost.
        self.store();
        let Some(switch) = self.switch.as_mut() else {
            return;
        };
        switch.halted_at = os::now();
        failpoint!("supervisor.switch.halting");
        self.feed(Input::StandBy);
    }

    pub(super) fn all_stood_by(&mut self) {
        let giver = self.fleet.seats().iter().find_map(|seat| seat.incumbent);
        let Some(switch) = self.switch.as_mut() else {
            return;
        };
        let taker = switch.next.as_ref().and_then(|next| {
            let mut all = next.fleet.processes();
            all.next().map(|(id, _)| id)
        });
        let passed_ms = ms(os::now().saturating_duration_since(switch.halted_at));
        tracing::debug!(passed_ms, "all workers stand by");
        switch.stage = Stage::Copying {
            exported: false,
            imported: false,
        };
        let copied = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(|(read, write)| {
                self.send_with(taker, &ToWorker::Import, read)?;
                self.send_with(giver, &ToWorker::Export, write)
            });
        failpoint!("supervisor.switch.copying");
        if let Err(error) = copied {
            self.switch_failed(&format!("the arena can't be copied: {error}"));
        }
    }

    fn send_with(
        &self,
        id: Option<ProcessId>,
        message: &ToWorker,
        fd: OwnedFd,
    ) -> std::io::Result<()> {
        let link = id.and_then(|id| self.links.get(id));
        let link = link.ok_or(std::io::ErrorKind::NotFound)?;
        link.send(message, &[fd.as_fd()])
    }

    /// One half of the copy is done.
    pub(super) fn carried(&mut self, records: u64, reader: bool) {
        let Some(switch) = self.switch.as_mut() else {
            return;
        };
        let Stage::Copying { exported, imported } = &mut switch.stage else {
            return;
        };
        let passed_ms = ms(os::now().saturating_duration_since(switch.halted_at));
        tracing::debug!(records, reader, passed_ms, "copied");
        if reader {
            *imported = true;
            switch.records = records;
        } else {
            *exported = true;
        }
        if !(*exported && *imported) {
            return;
        }
        switch.stage = Stage::Starting { any: false };
        let since = switch.halted_at;
        if since.saturating_add(switch.pause_max) <= os::now() {
            return self.too_long();
        }
        failpoint!("supervisor.switch.copied");
        self.feed_next(Input::Go { since });
    }

    pub(super) fn carry_failed(&mut self, message: &str) {
        let copying = |switch: &Switch| matches!(switch.stage, Stage::Copying { .. });
        if self.switch.as_ref().is_some_and(copying) {
            self.switch_failed(message);
        }
    }

    fn too_long(&mut self) {
        let Some(switch) = &self.switch else { return };
        let why = format!(
            "the pause would be longer than {} ms for {} records",
            ms(switch.pause_max),
            switch.records
        );
        self.switch_failed(&why);
    }

    /// A slot of the new fleet serves.
    pub(super) fn served_in_next(&mut self) {
        if let Some(Switch {
            stage: Stage::Starting { any },
            ..
        }) = &mut self.switch
        {
            *any = true;
        }
    }

    /// Every seat of the new fleet is served.
    pub(super) fn next_serves(&mut self) {
        let now = os::now();
        let Some(switch) = self.switch.as_mut() else {
            return;
        };
        let pause = now.saturating_duration_since(switch.halted_at);
        let (ticket, records) = (switch.ticket, switch.records);
        let limit = switch.pause_max;
        let trial = match switch.purpose {
            Purpose::Limit(_) => Duration::ZERO,
            Purpose::Upgrade => TRIAL,
        };
        switch.stage = Stage::Trial {
            until: now.saturating_add(trial),
        };
        let text = format!(
            "arena moved: {records} records, pause {} ms (limit {} ms)",
            ms(pause),
            ms(limit)
        );
        tracing::info!("{text}");
        failpoint!("supervisor.switch.serves");
        self.note(ticket, text);
    }

    /// A process of the new fleet is gone, or says that it can't go on.
    pub(super) fn lost_in_next(&mut self, what: &str) {
        if self.switch.is_some() {
            let said = self.failure.take();
            let why = said.map_or(what.to_owned(), |said| format!("{what}: {said}"));
            self.switch_failed(&why);
        }
    }

    pub(super) fn switch_deadline(&self) -> Option<Instant> {
        self.switch.as_ref().and_then(Switch::deadline)
    }

    pub(super) fn expire_switch(&mut self, now: Instant) {
        let fleet_due = self
            .switch
            .as_ref()
            .and_then(|switch| switch.next.as_ref()?.fleet.deadline());
        if fleet_due.is_some_and(|due| due <= now) {
            self.feed_next(Input::Tick);
        }
        if self.switch_deadline().is_none_or(|due| due > now) {
            return;
        }
        match self.switch.as_ref().map(|switch| &switch.stage) {
            Some(Stage::Making(_)) => self.switch_failed("the new arena is not made in time"),
            Some(Stage::Trial { .. }) => self.conclude_switch(),
            Some(_) => self.too_long(),
            None => {}
        }
    }

    fn conclude_switch(&mut self) {
        let Some(switch) = self.switch.take() else {
            return;
        };
        let Some(next) = switch.next else { return };
        failpoint!("supervisor.switch.concluding");
        let old = std::mem::replace(&mut self.fleet, next.fleet);
        self.fleet.inherit(&old);
        self.memory = next.memory;
        self.note_numbers();
        self.helpers.arena_is_new();
        self.pages = Pages::default();
        self.store();
        // They stand by, or have never served: nothing depends on them any more.
        for (id, _) in old.processes() {
            self.links.kill(id);
            failpoint!("supervisor.switch.one_let_go");
        }
        if let Purpose::Limit(limit) = switch.purpose {
            self.config.memory.limit = limit;
        }
        self.switch_over(switch.purpose, switch.ticket, Ok(()));
    }

    /// Back to the arena as it was.
    pub(super) fn switch_failed(&mut self, why: &str) {
        let Some(switch) = self.switch.take() else {
            return;
        };
        tracing::error!("the move to another arena fails: {why}");
        if let Stage::Making(maker) = &switch.stage {
            let _ = self.epoll.delete(maker.fd());
        }
        if let Some(next) = &switch.next {
            next.fleet
                .processes()
                .for_each(|(id, _)| self.links.kill(id));
        }
        if switch.has_halted() {
            self.feed(Input::Resume);
        }
        self.store();
        self.switch_over(switch.purpose, switch.ticket, Err(why.to_owned()));
    }

    fn switch_over(&mut self, purpose: Purpose, ticket: Ticket, result: Result<(), String>) {
        match purpose {
            Purpose::Upgrade => self.upgrade_moved(ticket, result),
            Purpose::Limit(limit) => self.limit_moved(ticket, limit, result),
        }
    }

    pub(super) fn note(&mut self, ticket: Ticket, text: String) {
        if let Some(client) = self.restarting.get(&ticket).copied() {
            self.reply(client, &ClientReply::Note(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_grows_with_the_records() {
        for (records, wanted) in [(0, 300), (100_000, 300), (100_001, 600), (1_000_000, 3000)] {
            assert_eq!(pause_max(records).as_millis(), wanted, "{records}");
        }
        assert_eq!(ms(Duration::from_micros(34_260)), "34.2");
    }
}
