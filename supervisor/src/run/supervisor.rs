//! The loop: one thread that waits for deaths, workers, commands and signals, and feeds the fleet's machine.
//!
//! It never blocks but in `epoll_wait`, and never reads a byte from the network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use config::Config;
use control::{ClientReply, ClientRequest, FromWorker, Quarantined};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use stdx::Instant;

use super::cause::Cause;
use super::claim::{AdoptSocket, ControlSocket};
use super::clients::{ClientId, Clients, Heard};
use super::fleet::{Fleet, Input, Process, ProcessId, Seats, Ticket};
use super::helpers::Helpers;
use super::images::Images;
use super::links::Links;
use super::memory::Memory;
use super::notify;
use super::numbers::{Compiling, Files};
use super::pages::Pages;
use super::pins;
use super::questions::Questions;
use super::rates::Rates;
use super::reload::{Reload, What};
use super::snapshots::Snapshots;
use super::sockets::Listener;
use super::source::Source;
use super::store;
use super::switch::Switch;
use super::trouble::Trouble;
use super::upgrade::Upgrade;
use super::watchdog::Watchdog;
use super::{Arguments, Ground};

/// How often rates are taken and first messages looked for.
const SECOND: Duration = Duration::from_secs(1);
const EVENTS_MAX: usize = 64;

pub(crate) struct Supervisor {
    pub(super) source: Source,
    /// As asked for: port 0 stays 0, which is what a reload compares.
    pub(super) config: Config,
    /// Counts the configurations taken, from 1.
    pub(super) config_version: u64,
    /// The present configuration, encoded, with the ports as bound.
    pub(super) config_file: OwnedFd,
    pub(super) memory: Memory,
    /// By slot.
    pub(super) doorbells: Vec<OwnedFd>,
    pub(super) listeners: Vec<Listener>,
    pub(super) next_listener: u32,
    /// By slot: where its thread is pinned.
    pub(super) cores: Vec<Option<u16>>,
    pub(super) fleet: Fleet,
    pub(super) images: Images,
    pub(super) links: Links,
    pub(super) clients: Clients,
    pub(super) questions: Questions,
    pub(super) reload: Option<Reload>,
    pub(super) compiling: Option<Compiling>,
    /// Compiled tables of numbers, as the present configuration names them.
    pub(super) tables: Files,
    /// Highest number that was given to one.
    pub(super) last_table: u64,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) switch: Option<Switch>,
    /// SIGHUP came during a reload or an upgrade, or before everything served.
    pub(super) reload_again: bool,
    pub(super) rates: Rates,
    pub(super) pages: Pages,
    pub(super) watchdog: Watchdog,
    pub(super) started: Instant,
    pub(super) secret: control::Secret,
    pub(super) arguments: Arguments,
    pub(super) helpers: Helpers,
    pub(super) snapshots: Snapshots,
    pub(super) inputs: VecDeque<Input>,
    pub(super) restarting: BTreeMap<Ticket, ClientId>,
    pub(super) stop_askers: Vec<ClientId>,
    /// What the last worker that could not go on said.
    pub(super) failure: Option<String>,
    /// Why the first start failed.
    pub(super) gave_up: Option<Trouble>,
    pub(super) stopped: bool,
    next_ticket: u32,
    next_second: Instant,
    pub(super) epoll: Epoll,
    signals: SignalFd,
    control: ControlSocket,
    /// Where workers wait for the next supervisor if this one dies.
    pub(super) adopt: AdoptSocket,
    /// Its processes are another supervisor's: once they serve, the file is compared with their configuration.
    pub(super) adopted: bool,
    /// Names of what the service manager keeps for us.
    pub(super) stored: BTreeSet<String>,
}

/// What is ready; deaths come first, since nothing is more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    Death(ProcessId),
    Channel(ProcessId),
    Signals,
    Accept,
    Client(ClientId),
    /// The program that an upgrade examines.
    Probe,
    HelperDeath,
    Helper,
    /// Who makes another arena.
    Maker,
    /// Who compiles tables of numbers.
    Compiler,
}

impl Token {
    pub(super) fn pack(self) -> u64 {
        let (kind, id) = match self {
            Self::Death(ProcessId(id)) => (0, id),
            Self::Channel(ProcessId(id)) => (1, id),
            Self::Signals => (2, 0),
            Self::Accept => (3, 0),
            Self::Client(ClientId(id)) => (4, id),
            Self::Probe => (5, 0),
            Self::HelperDeath => (6, 0),
            Self::Helper => (7, 0),
            Self::Maker => (8, 0),
            Self::Compiler => (9, 0),
        };
        kind << 32 | u64::from(id)
    }

    fn unpack(word: u64) -> Self {
        let id = word as u32;
        match word >> 32 {
            0 => Self::Death(ProcessId(id)),
            1 => Self::Channel(ProcessId(id)),
            2 => Self::Signals,
            3 => Self::Accept,
            4 => Self::Client(ClientId(id)),
            5 => Self::Probe,
            6 => Self::HelperDeath,
            7 => Self::Helper,
            8 => Self::Maker,
            _ => Self::Compiler,
        }
    }
}

/// What goes on where another supervisor stopped.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) config_file: OwnedFd,
    pub(crate) config_version: u64,
    pub(crate) next_listener: u32,
}

/// What a start has made or found, beside what every start has.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) memory: Memory,
    pub(crate) doorbells: Vec<OwnedFd>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) fleet: Fleet,
    pub(crate) adopt: AdoptSocket,
    /// Of what another supervisor left: its configuration, and where numbers go on.
    pub(crate) left: Option<Left>,
    pub(crate) helpers: Helpers,
    pub(crate) snapshots: Snapshots,
    pub(crate) tables: Files,
}

impl Supervisor {
    pub(crate) fn new(ground: Ground<'_>, parts: Parts) -> Result<Self, Trouble> {
        let refused = |what: &str, error: Errno| {
            Trouble::new(format!("the kernel gives no {what}: {error}"), "")
        };
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|error| refused("epoll", error))?;
        let mut mask = SigSet::empty();
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
            .into_iter()
            .for_each(|signal| mask.add(signal));
        mask.thread_block()
            .map_err(|error| refused("signal mask", error))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|error| refused("signalfd", error))?;
        let readable = |token: Token| EpollEvent::new(EpollFlags::EPOLLIN, token.pack());
        epoll
            .add(&signals, readable(Token::Signals))
            .map_err(|error| refused("epoll", error))?;
        epoll
            .add(&ground.control.listener, readable(Token::Accept))
            .map_err(|error| refused("epoll", error))?;
        let now = os::now();
        let adopted = parts.left.is_some();
        let left = match parts.left {
            Some(left) => left,
            None => Left {
                config_file: super::reload::config_file(&parts.config, &parts.listeners)?,
                config_version: 1,
                next_listener: parts.listeners.len() as u32,
            },
        };
        let cores = pins::cores(
            &parts.config.workers.pin,
            parts.config.slots(),
            &pins::allowed(),
        );
        let supervisor = Self {
            next_listener: left.next_listener,
            source: ground.source,
            config: parts.config,
            config_version: left.config_version,
            config_file: left.config_file,
            memory: parts.memory,
            doorbells: parts.doorbells,
            listeners: parts.listeners,
            cores,
            fleet: parts.fleet,
            images: ground.images,
            links: Links::default(),
            clients: Clients::default(),
            questions: Questions::default(),
            reload: None,
            compiling: None,
            tables: parts.tables,
            last_table: 0,
            upgrade: None,
            switch: None,
            reload_again: false,
            rates: Rates::new(now),
            pages: Pages::default(),
            watchdog: Watchdog::new(now),
            started: now,
            secret: ground.secret,
            arguments: ground.arguments,
            helpers: parts.helpers,
            snapshots: parts.snapshots,
            inputs: VecDeque::new(),
            restarting: BTreeMap::new(),
            stop_askers: Vec::new(),
            failure: None,
            gave_up: None,
            stopped: false,
            next_ticket: 0,
            next_second: now.saturating_add(SECOND),
            epoll,
            signals,
            control: ground.control,
            adopt: parts.adopt,
            adopted,
            stored: BTreeSet::new(),
        };
        supervisor.note_numbers();
        Ok(supervisor)
    }

    pub(super) fn control_fd(&self) -> BorrowedFd<'_> {
        self.control.listener.as_fd()
    }

    /// Leaves in the arena what a later supervisor must not use again.
    pub(super) fn note_numbers(&self) {
        self.memory
            .note_numbers(self.config_version, self.next_listener);
    }

    /// Runs until a clean stop, or until the first start has failed.
    pub(crate) fn run(mut self) -> Result<(), Trouble> {
        self.adopt.keep();
        self.store();
        self.feed(Input::Tick);
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        while !self.stopped {
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => events.get(..count).unwrap_or_default(),
                Err(Errno::EINTR) => &[],
                Err(error) => {
                    return Err(Trouble::new(
                        format!("waiting for events failed: {error}"),
                        "",
                    ));
                }
            };
            let mut tokens: Vec<Token> = ready
                .iter()
                .map(|event| Token::unpack(event.data()))
                .collect();
            tokens.sort_unstable();
            tokens.into_iter().for_each(|token| self.on_ready(token));
            self.on_time(os::now());
        }
        // Nobody is left who could be adopted.
        self.adopt.forget();
        store::clear(&mut self.stored);
        let now = os::now();
        let reply = match self.snapshots.last_failed() {
            None => ClientReply::Done,
            Some(why) => ClientReply::Error {
                message: format!(
                    "the server has stopped, but its last snapshot could not be taken: {why}"
                ),
                remedy: "the next start has the registrations of the snapshot before".to_owned(),
            },
        };
        for client in std::mem::take(&mut self.stop_askers) {
            self.clients.reply(client, &reply, now);
        }
        self.gave_up.map_or(Ok(()), Err)
    }

    fn timeout(&self) -> EpollTimeout {
        let now = os::now();
        let deadlines = [
            self.fleet.deadline(),
            self.clients.deadline(),
            self.reload.as_ref().map(|reload| reload.deadline),
            self.compile_deadline(),
            self.upgrade_deadline(now),
            self.switch_deadline(),
            self.switch
                .as_ref()
                .and_then(|switch| switch.next()?.fleet.deadline()),
            self.helpers.deadline(),
            self.snapshots_deadline(),
            Some(self.next_second),
            Some(self.watchdog.deadline(self.config.workers.hang_timeout)),
        ];
        let next = deadlines
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.next_second);
        let wait = next.saturating_duration_since(now);
        // Rounded up: too early by a fraction would be a loop of empty waits.
        let ms = wait.as_nanos().div_ceil(1_000_000).min(1000);
        EpollTimeout::from(ms as u16)
    }

    fn on_ready(&mut self, token: Token) {
        match token {
            Token::Death(id) => self.on_death(id),
            Token::Channel(id) => self.on_channel(id),
            Token::Signals => self.on_signals(),
            Token::Accept => self.on_accept(),
            Token::Client(id) => self.on_client(id),
            Token::Probe => self.on_probe(),
            Token::Maker => self.on_maker(),
            Token::Compiler => self.on_compiler(),
            Token::HelperDeath => self.on_helper_death(),
            Token::Helper => self.on_helper_channel(),
        }
    }

    fn on_time(&mut self, now: Instant) {
        if self
            .fleet
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.feed(Input::Tick);
        }
        self.watch_slots(now);
        self.expire_reload(now);
        self.compile_on_time(now);
        self.expire_upgrade(now);
        self.expire_switch(now);
        self.clients.expire(now);
        self.questions_on_time(now);
        self.helpers_on_time(now);
        self.snapshots_on_time(now);
        if now >= self.next_second {
            self.next_second = now.saturating_add(SECOND);
            // A death whose notice the kernel could not give (no memory for the watch) is found here.
            self.links
                .ids()
                .into_iter()
                .for_each(|id| self.on_death(id));
            let figures: Vec<_> = (0..self.config.slots())
                .map(|slot| self.memory.figures(slot))
                .collect();
            self.rates.on_second(now, &figures);
            self.pages_on_time(now);
        }
    }

    pub(super) fn watch(&self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.pack()))?)
    }

    /// Must come before a descriptor that somebody else holds too is closed: epoll watches open files, not numbers.
    pub(super) fn unwatch(&self, fd: BorrowedFd<'_>) {
        if let Err(error) = self.epoll.delete(fd) {
            tracing::debug!(%error, "a descriptor was not watched");
        }
    }

    fn on_death(&mut self, id: ProcessId) {
        let Some(link) = self.links.get(id) else {
            return;
        };
        let cause = match os::reap(link.pidfd.as_fd()) {
            Ok(Some(exit)) => Cause::of(exit),
            Ok(None) => return,
            // A pidfd that can't be asked: it says nothing, so neither do we.
            Err(error) => {
                tracing::error!(pid = link.pid, %error, "a worker can't be watched");
                return;
            }
        };
        // Its last words are still in the channel.
        self.on_channel(id);
        let Some(link) = self.links.remove(id) else {
            return;
        };
        self.unwatch(link.pidfd.as_fd());
        self.unwatch(link.channel.as_fd());
        let obituary = self
            .process(id)
            .map(|process| (process.seat(), process.leaving()));
        let in_next = self.in_next(id);
        self.feed(Input::Exited { process: id, cause });
        // Logged after the seat has its heir: standard error may be slow.
        if let Some((seat, leaving)) = obituary {
            let worker = seat.map_or("spare".to_owned(), |seat| seat.to_string());
            if leaving {
                tracing::debug!(pid = link.pid, worker, %cause, "worker left");
            } else {
                tracing::warn!(pid = link.pid, worker, %cause, "worker died");
            }
        }
        if in_next {
            self.lost_in_next(&format!("a worker of it died ({cause})"));
        }
        self.gone_from_reload(id);
    }

    /// Whether it belongs to the fleet that is to take over in another arena.
    fn in_next(&self, id: ProcessId) -> bool {
        let next = self.switch.as_ref().and_then(Switch::next);
        next.is_some_and(|next| next.fleet.process(id).is_some())
    }

    /// Of either fleet.
    pub(super) fn process(&self, id: ProcessId) -> Option<&Process> {
        let next = self.switch.as_ref().and_then(Switch::next);
        let in_next = next.and_then(|next| next.fleet.process(id));
        in_next.or_else(|| self.fleet.process(id))
    }

    fn on_channel(&mut self, id: ProcessId) {
        loop {
            let Some(link) = self.links.get(id) else {
                return;
            };
            match link.receive() {
                Ok(Some(message)) => self.on_message(id, message),
                Ok(None) => {
                    self.silence_if_ended(id);
                    return;
                }
                Err(error) => {
                    tracing::error!(pid = link.pid, %error, "a worker sent what cannot be read");
                    self.feed(Input::Hung(id));
                    return;
                }
            }
        }
    }

    /// A channel whose other end is closed stays readable: stop watching it; the pidfd tells the rest.
    fn silence_if_ended(&self, id: ProcessId) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let Some(link) = self.links.get(id) else {
            return;
        };
        let mut state = [PollFd::new(link.channel.as_fd(), PollFlags::empty())];
        let ended = poll(&mut state, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        if ended {
            let _ = self.epoll.delete(&link.channel);
        }
    }

    fn on_message(&mut self, id: ProcessId, message: FromWorker) {
        match message {
            FromWorker::Ready => self.feed(Input::Ready(id)),
            FromWorker::Serving {
                slot,
                replayed,
                transactions,
                recovered_ns: _,
            } => {
                self.on_serving(id, slot, replayed, transactions);
            }
            FromWorker::Failed { message } => {
                let pid = self.links.get(id).map_or(0, |link| link.pid);
                tracing::error!(pid, "worker failed: {message}");
                self.failure = Some(message);
                self.feed(Input::Failed(id));
            }
            FromWorker::Applied { version } => self.on_applied(id, version),
            FromWorker::StoodBy => {
                if let Some(link) = self.links.get_mut(id) {
                    link.serving.clear();
                }
                self.feed(Input::StoodBy(id));
            }
            FromWorker::Exported { records } => self.carried(records, false),
            FromWorker::Imported { records } => self.carried(records, true),
            FromWorker::CarryFailed { message } => self.carry_failed(&message),
            FromWorker::ArenaMade { .. } => tracing::debug!(process = id.0, "not asked for"),
            FromWorker::HandedOver => tracing::trace!(process = id.0, "handed over"),
            FromWorker::Quarantined(message) => self.on_quarantined(&message),
            FromWorker::Orphan { .. }
            | FromWorker::Estate { .. }
            | FromWorker::Doorbells { .. }
            | FromWorker::Sockets { .. }
            | FromWorker::PrefixTable { .. }
            | FromWorker::Surrendered => {
                let pid = self.links.get(id).map_or(0, |link| link.pid);
                tracing::error!(pid, "a worker says what does not belong here");
                self.feed(Input::Hung(id));
            }
        }
    }

    fn on_quarantined(&self, message: &Quarantined) {
        match super::quarantine::keep(self.snapshots.directory(), message) {
            Ok(file) => tracing::error!(
                source = message.source,
                file = %file.display(),
                "a message that {} workers died of is dropped from now on",
                message.deaths
            ),
            Err(error) => tracing::error!(
                source = message.source,
                %error,
                "a message that {} workers died of is dropped from now on, but could not be kept",
                message.deaths
            ),
        }
    }

    fn on_serving(&mut self, id: ProcessId, slot: u16, replayed: u32, transactions: u32) {
        let Some(seat) = self.process(id).and_then(|process| process.seat()) else {
            return;
        };
        if self.in_next(id) {
            self.served_in_next();
        }
        let mut slots = self.slots_of(seat);
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        link.serving.insert(slot);
        tracing::debug!(slot, replayed, transactions, "slot served");
        if slots.all(|slot| link.serving.contains(&slot)) {
            self.feed(Input::Serving(id));
        }
    }

    pub(super) fn slots_of(&self, seat: u16) -> std::ops::Range<u16> {
        let reactors = self.config.workers.reactors;
        seat * reactors..(seat + 1) * reactors
    }

    fn on_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGHUP) => self.reload_by_signal(),
                Ok(signal) => {
                    tracing::info!(%signal, "stopping");
                    self.stop();
                }
                Err(_) => {}
            }
        }
    }

    fn stop(&mut self) {
        self.stop_at_once();
        notify::stopping();
        self.switch_failed("the server is stopping");
        let compiling = self.compiling.take().and_then(|compiling| compiling.asker);
        let reload = self.reload.take().and_then(|reload| reload.asker);
        for asker in [compiling, reload].into_iter().flatten() {
            self.refuse(asker, &Trouble::new("the server is stopping", ""));
        }
        self.feed(Input::Stop);
    }

    fn on_accept(&mut self) {
        loop {
            match self.control.listener.accept() {
                Ok((stream, _)) => {
                    let Some(id) = self.clients.add(stream, os::now()) else {
                        continue;
                    };
                    let watched = self
                        .clients
                        .fd(id)
                        .map(|fd| self.watch(fd, Token::Client(id)));
                    if !matches!(watched, Some(Ok(()))) {
                        self.clients.forget(id);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "a command's connection could not be taken");
                    return;
                }
            }
        }
    }

    fn on_client(&mut self, id: ClientId) {
        self.clients.flush(id);
        if let Heard::Request(request) = self.clients.on_readable(id, os::now()) {
            self.on_request(id, request);
        }
        self.watch_client(id);
    }

    /// Waits for room in the connection only while replies wait for it.
    fn watch_client(&self, id: ClientId) {
        let Some(fd) = self.clients.fd(id) else {
            return;
        };
        let mut interest = EpollFlags::EPOLLIN;
        interest.set(EpollFlags::EPOLLOUT, self.clients.wants_to_write(id));
        let _ = self
            .epoll
            .modify(fd, &mut EpollEvent::new(interest, Token::Client(id).pack()));
    }

    pub(super) fn reply(&mut self, id: ClientId, reply: &ClientReply) {
        self.clients.reply(id, reply, os::now());
        self.watch_client(id);
    }

    pub(super) fn refuse(&mut self, id: ClientId, trouble: &Trouble) {
        let reply = ClientReply::Error {
            message: trouble.cause.clone(),
            remedy: trouble.remedy.clone(),
        };
        self.reply(id, &reply);
    }

    fn on_request(&mut self, id: ClientId, request: ClientRequest) {
        match request {
            ClientRequest::Status => {
                let report = self.status(os::now());
                self.reply(id, &ClientReply::Status(report));
                self.reply(id, &ClientReply::Done);
            }
            ClientRequest::Stats { pattern } => {
                let lines = self.memory.counters(pattern.as_deref());
                self.reply(id, &ClientReply::Stats(lines));
                self.reply(id, &ClientReply::Done);
            }
            ClientRequest::Table(request) => self.on_question(id, request),
            ClientRequest::Restart { worker } => self.restart(id, worker),
            ClientRequest::Reload => self.reload_by_client(What::Everything, id),
            ClientRequest::UsersChanged => self.reload_by_client(What::Users, id),
            ClientRequest::Users => {
                let users = self.configured_users();
                self.reply(id, &ClientReply::Users(users));
                self.reply(id, &ClientReply::StoredUsers(self.stored_users()));
                self.reply(id, &ClientReply::Done);
            }
            ClientRequest::Upgrade { binary } => self.upgrade(id, PathBuf::from(binary)),
            ClientRequest::Stop => {
                tracing::info!("stopping: a command asks for it");
                self.stop_askers.push(id);
                self.stop();
            }
        }
    }

    fn restart(&mut self, id: ClientId, worker: Option<u16>) {
        let count = self.config.workers.count;
        if let Some(worker) = worker.filter(|worker| *worker >= count) {
            let cause = format!("there is no worker {worker}");
            return self.refuse(
                id,
                &Trouble::new(
                    cause,
                    format!("choose 0 to {}: see `tandem status`", count - 1),
                ),
            );
        }
        let ticket = self.new_ticket();
        self.restarting.insert(ticket, id);
        tracing::info!(
            worker = worker.map_or("all".to_owned(), |worker| worker.to_string()),
            "restarting"
        );
        self.feed(Input::Restart {
            ticket,
            seats: worker.map_or(Seats::All, Seats::One),
        });
    }

    pub(super) fn new_ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket = self.next_ticket.wrapping_add(1);
        ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_and_deaths_come_first() {
        let tokens = [
            Token::Death(ProcessId(7)),
            Token::Channel(ProcessId(u32::MAX)),
            Token::Signals,
            Token::Accept,
            Token::Client(ClientId(1)),
            Token::Probe,
            Token::Maker,
        ];
        for token in tokens {
            assert_eq!(Token::unpack(token.pack()), token);
        }
        assert!(tokens.is_sorted());
    }
}
