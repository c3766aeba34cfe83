//! What the fleet's machine decides, done to processes.

use std::io::ErrorKind;
use std::os::fd::AsFd as _;

use control::worker::SlotAssign;
use control::{ClientReply, ToWorker};
use failpoint::failpoint;

use super::cause::Cause;
use super::fleet::{Heritage, Image, Input, Output, ProcessId};
use super::memory::Memory;
use super::notify;
use super::supervisor::{Supervisor, Token};
use super::switch::Switch;
use super::trouble::Trouble;
use crate::commands;

/// Which of two fleets, with their arenas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Present,
    /// The one that a switch prepares.
    Next,
}

impl Supervisor {
    /// Feeds the machine and does what it says, until it has nothing more to say.
    pub(super) fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        let mut outputs = Vec::new();
        while let Some(input) = self.inputs.pop_front() {
            let now = os::now();
            let side = self.side_of(input);
            match self.switch.as_mut().and_then(Switch::next_mut) {
                Some(next) if side == Side::Next => {
                    next.fleet.step(now, input, &mut outputs);
                    next.memory.note_fleet(&next.fleet, now);
                }
                _ => {
                    self.fleet.step(now, input, &mut outputs);
                    // Written down before it is done: a later supervisor must not take an owner of a seat for a spare.
                    self.memory.note_fleet(&self.fleet, now);
                }
            }
            outputs
                .drain(..)
                .for_each(|output| self.apply(side, output));
        }
    }

    /// The same for the fleet that is to take over in another arena.
    pub(super) fn feed_next(&mut self, input: Input) {
        let mut outputs = Vec::new();
        if let Some(next) = self.switch.as_mut().and_then(Switch::next_mut) {
            let now = os::now();
            next.fleet.step(now, input, &mut outputs);
            next.memory.note_fleet(&next.fleet, now);
        }
        outputs
            .drain(..)
            .for_each(|output| self.apply(Side::Next, output));
    }

    fn side_of(&self, input: Input) -> Side {
        let (Input::Ready(id)
        | Input::Serving(id)
        | Input::Failed(id)
        | Input::Hung(id)
        | Input::Stopped(id)
        | Input::Hangs(id)
        | Input::Deaf(id)
        | Input::Answered(id)
        | Input::StoodBy(id)
        | Input::Exited { process: id, .. }) = input
        else {
            return Side::Present;
        };
        let next = self.switch.as_ref().and_then(Switch::next);
        match next {
            Some(next) if next.fleet.process(id).is_some() => Side::Next,
            _ => Side::Present,
        }
    }

    fn memory_of(&self, side: Side) -> &Memory {
        let next = self.switch.as_ref().and_then(Switch::next);
        match next {
            Some(next) if side == Side::Next => &next.memory,
            _ => &self.memory,
        }
    }

    fn apply(&mut self, side: Side, output: Output) {
        if side == Side::Next && self.switch.is_none() && !matches!(output, Output::Kill(_)) {
            // The switch ended while its fleet was still talking.
            return;
        }
        match output {
            Output::AllServing if side == Side::Next => self.next_serves(),
            Output::GiveUp if side == Side::Next => self.lost_in_next("its workers can't start"),
            Output::StandBy(process) => self.send(process, &ToWorker::StandBy),
            Output::AllStoodBy => self.all_stood_by(),
            Output::Broken => self.switch_failed("a worker died before it had handed over"),
            Output::Gathered => self.gathered(),
            Output::Spawn {
                process,
                image,
                aux,
                recover_aux,
            } => self.spawn(side, process, image, aux, recover_aux),
            Output::Assign {
                process,
                seat,
                heritage,
            } => self.assign(side, process, seat, heritage),
            Output::HandOver(process) => self.send(process, &ToWorker::HandOver),
            Output::Kill(process) => self.links.kill(process),
            Output::TookOver {
                seat,
                process,
                cause,
                waited,
            } => self.took_over(seat, process, cause, waited),
            Output::AllServing => self.all_serving(),
            Output::Restarted(ticket) => {
                tracing::info!("restart done");
                if let Some(client) = self.restarting.remove(&ticket) {
                    self.reply(client, &ClientReply::Done);
                }
            }
            Output::Refused(ticket, why) => {
                self.upgrade_refused(ticket);
                if let Some(client) = self.restarting.remove(&ticket) {
                    self.refuse(client, &Trouble::new(why, ""));
                }
            }
            Output::Ring(process) => self.ring(process),
            Output::Moved(ticket, seat) => self.moved(ticket, seat),
            Output::Upgraded(ticket) => self.upgraded(ticket),
            Output::GoesBack(ticket, setback) => self.goes_back(ticket, setback),
            Output::WentBack(ticket, setback) => self.went_back(ticket, setback),
            Output::GiveUp => self.give_up(),
            Output::Stopped => self.workers_left(),
        }
    }

    fn spawn(&mut self, side: Side, id: ProcessId, image: Image, aux: u16, recover_aux: bool) {
        if let Err(error) = self.try_spawn(side, id, image, aux, recover_aux) {
            if self.links.get(id).is_some() {
                return self.unsent(id, &error);
            }
            tracing::error!(%error, "a worker process can't be started");
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            self.inputs.push_back(Input::Exited {
                process: id,
                cause: Cause::NotStarted(errno),
            });
        }
    }

    fn try_spawn(
        &mut self,
        side: Side,
        id: ProcessId,
        image: Image,
        aux: u16,
        recover_aux: bool,
    ) -> std::io::Result<()> {
        let Some(program) = self.images.get(image) else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        self.links
            .spawn(id, &program.executable, &self.arguments.worker)?;
        let Some(link) = self.links.get(id) else {
            return Ok(());
        };
        failpoint!("supervisor.spawned");
        if let Ok(start) = os::start_ticks(link.pid) {
            self.memory_of(side).note_start(aux, id, link.pid, start);
        }
        self.watch(link.pidfd.as_fd(), Token::Death(id))?;
        self.watch(link.channel.as_fd(), Token::Channel(id))?;
        let hello = ToWorker::Hello {
            incarnation: incarnation(id),
            aux: self.memory_of(side).participant(aux),
            recover_aux,
            slots_total: self.config.slots(),
            reactors: self.config.workers.reactors,
            user: self.config.workers.user.clone(),
            spin_us: self.config.workers.spin_us,
            config_version: self.config_version,
            secret: self.secret,
            successor: side == Side::Next,
        };
        let Some((control, data)) = self.memory_of(side).files() else {
            return Ok(());
        };
        link.send_hello(
            &hello,
            [
                control,
                data,
                self.config_file.as_fd(),
                self.adopt.listener.as_fd(),
            ],
            &self.doorbells,
        )?;
        self.listeners
            .iter()
            .try_for_each(|listener| link.send_listener(listener))?;
        link.send_tables(&self.tables)?;
        tracing::debug!(pid = link.pid, "worker started");
        Ok(())
    }

    fn assign(&mut self, side: Side, id: ProcessId, seat: u16, heritage: Option<Heritage>) {
        let slots: Vec<SlotAssign> = self
            .slots_of(seat)
            .map(|slot| SlotAssign {
                slot,
                core: self.core_of(slot),
            })
            .collect();
        for slot in &slots {
            self.memory_of(side).hand_on(
                slot.slot,
                heritage.as_ref().map(|heritage| heritage.since),
                heritage.as_ref().map(|heritage| heritage.cause),
            );
        }
        let message = ToWorker::Assign {
            worker: seat,
            slots,
            recover: heritage.is_some(),
            fault: heritage.as_ref().is_some_and(|heritage| heritage.suspect),
            died_at_ns: heritage
                .as_ref()
                .map_or(0, |heritage| heritage.since.as_nanos()),
        };
        failpoint!("supervisor.assigning");
        self.send(id, &message);
        failpoint!("supervisor.assigned");
        if side == Side::Next {
            failpoint!("supervisor.switch.assigned");
        }
    }

    pub(super) fn core_of(&self, slot: u16) -> Option<u16> {
        self.cores.get(usize::from(slot)).copied().flatten()
    }

    pub(super) fn send(&mut self, id: ProcessId, message: &ToWorker) {
        let Some(link) = self.links.get(id) else {
            return;
        };
        if let Err(error) = link.send(message, &[]) {
            self.unsent(id, &error);
        }
    }

    /// A worker that has not read for a megabyte of messages is hung. One that is gone has a pidfd to say so.
    pub(super) fn unsent(&mut self, id: ProcessId, error: &std::io::Error) {
        let pid = self.links.get(id).map_or(0, |link| link.pid);
        match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                tracing::debug!(pid, %error, "a worker is gone")
            }
            _ => {
                tracing::warn!(pid, %error, "a worker takes no message");
                self.inputs.push_back(Input::Hung(id));
            }
        }
    }

    fn took_over(&mut self, seat: u16, id: ProcessId, cause: Cause, waited: std::time::Duration) {
        let pid = self.links.get(id).map_or(0, |link| link.pid);
        let ms = format!(
            "{}.{:02}",
            waited.as_millis(),
            waited.as_micros() % 1000 / 10
        );
        tracing::info!(worker = seat, pid, %cause, ms, "taken over");
        let note = ClientReply::Note(format!(
            "worker {seat}: process {pid} serves after {ms} ms ({cause})"
        ));
        let watching: Vec<_> = self.restarting.values().copied().collect();
        watching
            .into_iter()
            .for_each(|client| self.reply(client, &note));
    }

    fn all_serving(&mut self) {
        let addresses: Vec<String> = self
            .listeners
            .iter()
            .map(|listener| format!("udp:{}", listener.listen.address))
            .collect();
        let (workers, reactors) = (self.config.workers.count, self.config.workers.reactors);
        let summary = format!(
            "{} with {} of {}",
            addresses.join(", "),
            commands::count(workers, "worker", "workers"),
            commands::count(reactors, "reactor", "reactors")
        );
        tracing::info!("serving {summary}");
        notify::ready(&format!("serving {summary}"));
        if std::mem::take(&mut self.adopted) {
            self.reload_after_adoption();
        } else if std::mem::take(&mut self.reload_again) {
            self.reload_by_signal();
        }
    }

    fn give_up(&mut self) {
        let reason = self.failure.take();
        let exit = self
            .fleet
            .last_exit()
            .map_or_else(|| "no exit seen".to_owned(), |cause| cause.to_string());
        self.gave_up.get_or_insert_with(|| match reason {
            Some(reason) => Trouble::new(format!("no worker can serve: {reason}"), ""),
            None => Trouble::new(
                format!("workers die before they serve: {exit}"),
                "their own messages are above; `--log debug` shows more",
            ),
        });
        // Twice: nothing is served, so there is nothing to hand over.
        self.inputs.extend([Input::Stop, Input::Stop]);
    }
}

/// The number that a worker process has in messages and in `tandem status`.
pub(super) fn incarnation(id: ProcessId) -> u64 {
    u64::from(id.0) + 1
}
