//! The control thread of a worker process.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    process::ExitCode,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, bail};
use config::Config;
use control::{FromWorker, Secret, SlotAssign, ToWorker};
use crossbeam_channel::Sender;
use failpoint::failpoint;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use proxy::Addresses;
use shm::{Arena, Participant, ParticipantId, SlotId};
use stdx::hash::Key;
use sync::Ordering;

use crate::{
    accounts::Accounts,
    active::{Active, Given, Listeners},
    addresses, carry,
    inbox::{AppliedNote, Channel, Command, Socket},
    lines,
    names::{self, Names},
    numbers::Images,
    orphan, queries,
    records::Recorder,
    slot::{Begin, run_slot},
};

/// Runs a worker on its control channel until the supervisor ends it.
pub fn run(channel: OwnedFd) -> ExitCode {
    let channel = Arc::new(Channel::new(channel));
    if let Err(error) = os::watch_faults().and_then(|()| os::answer_for_stacks()) {
        tracing::warn!(%error, "threads of this worker will not tell their stacks");
    }
    let code = match serve(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            tracing::error!(%message, "the worker can't go on");
            channel.tell(&FromWorker::Failed { message });
            ExitCode::FAILURE
        }
    };
    lines::last_lines();
    code
}

/// What the thread of a slot is called, for `top -H` and for who looks for one that hangs.
pub fn thread_name(slot: u16) -> String {
    format!("slot-{slot}")
}

/// What the process has.
pub(crate) struct Process {
    pub(crate) channel: Arc<Channel>,
    pub(crate) arena: Arena,
    /// The control thread's own way into the arena.
    participant: Participant,
    names: Names,
    /// The machine's, if a listener is on all of them.
    addresses: Addresses,
    config: Arc<Config>,
    /// Made as soon as the configuration is there, and not when a slot is taken over.
    accounts: Arc<Accounts>,
    /// Tables of numbers.
    pub(crate) images: Images,
    /// The configuration as it came, for a later supervisor.
    pub(crate) config_file: OwnedFd,
    pub(crate) version: u64,
    pub(crate) doorbells: Arc<Vec<OwnedFd>>,
    pub(crate) listeners: BTreeMap<u32, Listener>,
    reactors: BTreeMap<u16, Reactor>,
    spin: Duration,
    /// Seals dialogs.
    pub(crate) secret: Secret,
    /// Counts the processes of the arena.
    pub(crate) incarnation: u64,
    /// The worker whose place this is.
    pub(crate) place: Option<u16>,
    /// Its arena was not in use when it started: of no use to another supervisor than the one that prepares it.
    successor: bool,
    /// Where a later supervisor asks for us.
    pub(crate) adopt: OwnedFd,
    /// The account of the supervisor.
    pub(crate) owner: u32,
    pub(crate) records: Recorder,
}

/// A listener with one socket for each slot.
pub(crate) struct Listener {
    pub(crate) asked: std::net::SocketAddr,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) sockets: Vec<OwnedFd>,
}

struct Reactor {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
}

/// One message with its descriptors; `None` when the supervisor is gone.
fn receive(
    connection: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    fds: &mut Vec<OwnedFd>,
) -> anyhow::Result<Option<ToWorker>> {
    fds.clear();
    let mut received = os::recv_with_fds(connection, bytes, fds);
    // A supervisor that died with our messages unread: the kernel says so once, ahead of its last words.
    if received
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    {
        received = os::recv_with_fds(connection, bytes, fds);
    }
    if received.context("the control channel can't be read")? == 0 {
        return Ok(None);
    }
    Ok(Some(
        control::decode(bytes).context("a message of the supervisor can't be read")?,
    ))
}

fn serve(channel: &Arc<Channel>) -> anyhow::Result<()> {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    let Some(mut process) = start(channel, &mut bytes, &mut fds)? else {
        return Ok(());
    };
    channel.tell(&FromWorker::Ready);
    let mut looked = os::now();
    loop {
        let connection = channel.connection();
        let said = process.has_said_something(connection.as_fd())?;
        let now = os::now();
        process.record_calls(now);
        // Also beside a supervisor that never stops talking.
        if now.saturating_duration_since(looked) >= names::LOOK {
            looked = now;
            process.look_at_names();
            process.look_at_addresses();
        }
        if !said {
            continue;
        }
        match receive(connection.as_fd(), &mut bytes, &mut fds)? {
            Some(message) => {
                if process.obey(message, &mut fds)? {
                    return Ok(());
                }
            }
            None if process.successor => return Ok(()),
            None => orphan::wait_for_adoption(&mut process)?,
        }
    }
}

/// From Hello to a process that is attached; `None` if the supervisor has no use for it any more.
fn start(
    channel: &Arc<Channel>,
    bytes: &mut Vec<u8>,
    fds: &mut Vec<OwnedFd>,
) -> anyhow::Result<Option<Process>> {
    let connection = channel.connection();
    let owner = os::peer_uid(connection.as_fd()).context("the supervisor has no account")?;
    let Some(first) = receive(connection.as_fd(), bytes, fds)? else {
        return Ok(None);
    };
    if let ToWorker::MakeArena(plan) = &first {
        carry::make(plan, |answer, files| channel.tell_with(answer, files))?;
        return Ok(None);
    }
    let ToWorker::Hello {
        incarnation,
        aux,
        recover_aux,
        slots_total,
        user,
        spin_us,
        config_version,
        secret,
        successor,
        ..
    } = first
    else {
        bail!("the supervisor did not begin with Hello");
    };
    let mut given = fds.drain(..);
    let (Some(control), Some(data), Some(config_file), Some(adopt)) =
        (given.next(), given.next(), given.next(), given.next())
    else {
        bail!("Hello came without its descriptors");
    };
    let mut doorbells: Vec<OwnedFd> = given.collect();
    while doorbells.len() < usize::from(slots_total) {
        match receive(connection.as_fd(), bytes, fds)? {
            Some(ToWorker::Doorbells { from_slot })
                if usize::from(from_slot) == doorbells.len() =>
            {
                doorbells.append(fds)
            }
            Some(_) => bail!("a doorbell is missing"),
            None => return Ok(None),
        }
    }
    let arena = Arena::attach(control, data).context("the arena can't be attached")?;
    if !attach(&arena, aux, incarnation)? {
        tracing::debug!("given up by a later supervisor");
        return Ok(None);
    }
    let config = Arc::new(read_config(&config_file)?);
    // Before privileges go: a file may be for root only.
    let names = Names::read(&config);
    if let Some(user) = &user {
        os::drop_privileges(user).with_context(|| format!("can't become the user {user}"))?;
    }
    let mut participant = arena.participant(ParticipantId(aux));
    lines::write_behind();
    let mut records = Recorder::new(&arena).context("no doorbell for records of calls")?;
    records.configure(&config.records);
    if recover_aux {
        participant.recover(ParticipantId(aux));
        participant.offline();
    }
    Ok(Some(Process {
        channel: Arc::clone(channel),
        arena,
        participant,
        accounts: Arc::new(Accounts::new(&config)),
        images: Images::default(),
        names,
        addresses: Addresses::default(),
        config,
        config_file,
        version: config_version,
        doorbells: Arc::new(doorbells),
        listeners: BTreeMap::new(),
        reactors: BTreeMap::new(),
        spin: Duration::from_micros(u64::from(spin_us)),
        secret,
        incarnation,
        place: None,
        successor,
        adopt,
        owner,
        records,
    }))
}

/// Takes our line of the process directory, before anything else in the arena. False: it is another's meanwhile.
fn attach(arena: &Arena, aux: u16, incarnation: u64) -> anyhow::Result<bool> {
    let line = aux
        .checked_sub(arena.layout().slots)
        .filter(|line| *line < arena.directory().len())
        .context("Hello names no control thread")?;
    let pid = std::process::id();
    let start = os::start_ticks(pid).context("our own start time can't be read")?;
    let process = u32::try_from(incarnation.saturating_sub(1)).context("a wrong incarnation")?;
    Ok(arena.directory().attach(line, process, pid, start))
}

pub(crate) fn read_config(fd: &OwnedFd) -> anyhow::Result<Config> {
    let file = std::fs::File::from(fd.try_clone().context("a descriptor can't be duplicated")?);
    // Every process has the same open file, so its position belongs to nobody: read by offset.
    let bytes = file.metadata().map(|about| about.len());
    let mut frame = vec![0; bytes.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))];
    file.read_exact_at(&mut frame, 0)
        .context("the configuration can't be read")?;
    Config::decode(&frame).context("the configuration can't be decoded")
}

impl Process {
    /// Waits until somebody has something to say there, no longer than until something else is to be looked at.
    pub(crate) fn has_said_something(&self, there: BorrowedFd<'_>) -> anyhow::Result<bool> {
        let mut wanted = [
            PollFd::new(there, PollFlags::POLLIN),
            PollFd::new(self.records.bell(), PollFlags::POLLIN),
        ];
        let wait = names::LOOK.min(self.records.wait());
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut wanted, wait) {
            Ok(_) => Ok(wanted.first().and_then(PollFd::any).unwrap_or(false)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error).context("nobody can be waited for"),
        }
    }

    /// Records of calls are written, whoever is there: the arena must be one that is in use.
    pub(crate) fn record_calls(&mut self, now: stdx::Instant) {
        if !self.successor {
            self.records.turn(&mut self.participant, now);
        }
    }

    /// Carries out one order; true ends the process.
    fn obey(&mut self, message: ToWorker, fds: &mut Vec<OwnedFd>) -> anyhow::Result<bool> {
        match message {
            ToWorker::Hello { .. } | ToWorker::Doorbells { .. } => {
                bail!("the supervisor said Hello twice")
            }
            ToWorker::Sockets {
                listener,
                asked,
                address,
                from_slot,
            } => self.add_sockets(listener, (asked, address), from_slot, fds)?,
            ToWorker::PrefixTable { image } => match fds.pop() {
                Some(file) => self.images.add(image, file)?,
                None => bail!("a table of numbers came without its descriptor"),
            },
            ToWorker::RemoveListener { listener } => self.remove_listener(listener),
            ToWorker::Config { version } => {
                let Some(fd) = fds.pop() else {
                    bail!("a configuration came without its descriptor")
                };
                self.config = Arc::new(read_config(&fd)?);
                self.accounts = Arc::new(Accounts::new(&self.config));
                self.config_file = fd;
                self.version = version;
                self.images.keep(&self.config);
                self.names.configure(&self.config);
                self.records.configure(&self.config.records);
                self.apply();
            }
            ToWorker::Assign {
                worker,
                slots,
                recover,
                fault,
                ..
            } => {
                self.place = Some(worker);
                // The arena is in use from now on, whatever becomes of our place.
                self.successor = false;
                // Its predecessor's own threads say which of them was the end of it; without a word from any, all are suspect.
                let blamed: Vec<bool> = slots
                    .iter()
                    .map(|slot| self.arena.slot(SlotId(slot.slot)))
                    // Relaxed: the predecessor is dead, see `takeover`.
                    .map(|header| header.blamed.swap(0, Ordering::Relaxed) != 0)
                    .collect();
                let nobody = !blamed.contains(&true);
                for (slot, blamed) in slots.iter().zip(blamed) {
                    self.start(*slot, recover, fault && (blamed || nobody))?;
                }
            }
            // Without slots: the supervisor looks whether we read.
            ToWorker::Pin { slots } => {
                failpoint!("worker.rung");
                for SlotAssign { slot, core } in slots {
                    self.order(slot, Command::Pin(core));
                }
            }
            ToWorker::MakeArena(_) => bail!("this process has an arena"),
            ToWorker::StandBy => {
                self.stop();
                self.place = None;
                self.channel.forget_serving();
                self.channel.tell(&FromWorker::StoodBy);
            }
            ToWorker::Export => {
                let records = match fds.pop() {
                    Some(pipe) => carry::export(&self.arena, &mut self.participant, pipe),
                    None => bail!("nowhere to write to"),
                };
                self.tell_carried(records.map(|records| FromWorker::Exported { records }));
            }
            ToWorker::Import => {
                let records = match fds.pop() {
                    Some(pipe) => carry::import(&self.arena, pipe),
                    None => bail!("nowhere to read from"),
                };
                self.tell_carried(records.map(|records| FromWorker::Imported { records }));
            }
            ToWorker::HandOver => {
                self.stop();
                self.channel.tell(&FromWorker::HandedOver);
                return Ok(true);
            }
            ToWorker::Query { request } => {
                if let Some(connection) = fds.pop() {
                    let rules = (self.config.as_ref(), self.images.tables().as_ref());
                    queries::answer(&mut self.participant, rules, &request, connection);
                }
            }
            ToWorker::Hail | ToWorker::Surrender | ToWorker::Adopt => {
                bail!("the supervisor adopts a worker that it has")
            }
        }
        Ok(false)
    }

    fn add_sockets(
        &mut self,
        id: u32,
        (asked, address): (std::net::SocketAddr, std::net::SocketAddr),
        from_slot: u16,
        fds: &mut Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let listener = self.listeners.entry(id).or_insert_with(|| Listener {
            asked,
            address,
            sockets: Vec::new(),
        });
        if listener.sockets.len() != usize::from(from_slot) {
            bail!("a socket of a listener is missing");
        }
        listener.sockets.append(fds);
        if listener.sockets.len() < self.doorbells.len() {
            return Ok(());
        }
        self.look_at_addresses();
        for slot in self.reactors.keys().copied().collect::<Vec<_>>() {
            let socket = self.socket(id, slot)?;
            self.order(slot, Command::Arm(socket));
        }
        Ok(())
    }

    pub(crate) fn participant_id(&self) -> u16 {
        self.participant.id().0
    }

    /// Forgets listeners of which some sockets never came.
    pub(crate) fn forget_halves(&mut self) {
        let slots = self.doorbells.len();
        self.listeners
            .retain(|_, listener| listener.sockets.len() >= slots);
    }

    fn socket(&self, id: u32, slot: u16) -> anyhow::Result<Socket> {
        let listener = self.listeners.get(&id).context("no such listener")?;
        let fd = listener
            .sockets
            .get(usize::from(slot))
            .context("a slot has no socket")?;
        Ok(Socket {
            listener: id,
            address: listener.address,
            fd: fd.try_clone().context("a socket can't be duplicated")?,
        })
    }

    fn remove_listener(&mut self, id: u32) {
        for slot in self.reactors.keys().copied().collect::<Vec<_>>() {
            self.order(slot, Command::Disarm { listener: id });
        }
        self.listeners.remove(&id);
    }

    fn active(&self) -> Arc<Active> {
        let listeners: Listeners = self
            .listeners
            .iter()
            .map(|(&id, listener)| (id, listener.address))
            .collect();
        Arc::new(Active::new(
            self.version,
            Given {
                config: Arc::clone(&self.config),
                accounts: Arc::clone(&self.accounts),
                tables: Arc::clone(self.images.tables()),
            },
            &listeners,
            &self.names,
            self.addresses.clone(),
            Key(self.secret.0),
        ))
    }

    /// Gives the configuration to every reactor; the last to take it lets the supervisor know.
    fn apply(&mut self) {
        let active = self.active();
        let note = Arc::new(AppliedNote {
            channel: Arc::clone(&self.channel),
            version: self.version,
        });
        for slot in self.reactors.keys().copied().collect::<Vec<_>>() {
            self.order(slot, Command::Apply(Arc::clone(&active), Arc::clone(&note)));
        }
    }

    /// Reads the machine's addresses again; true if they have changed.
    fn addresses_changed(&mut self) -> bool {
        let bound = self.listeners.values().map(|listener| listener.address);
        let now = addresses::look(bound);
        let changed = now != self.addresses;
        self.addresses = now;
        changed
    }

    /// Gives the reactors the machine's addresses, if they have changed.
    fn look_at_addresses(&mut self) {
        if self.addresses_changed() && !self.reactors.is_empty() {
            let active = self.active();
            for slot in self.reactors.keys().copied().collect::<Vec<_>>() {
                self.order(slot, Command::Addresses(Arc::clone(&active)));
            }
        }
    }

    /// Gives the reactors what the machine's files say about names, if that is news.
    fn look_at_names(&mut self) {
        if self.names.look() && !self.reactors.is_empty() {
            let active = self.active();
            for slot in self.reactors.keys().copied().collect::<Vec<_>>() {
                self.order(slot, Command::Names(Arc::clone(&active)));
            }
        }
    }

    fn start(&mut self, assign: SlotAssign, recover: bool, fault: bool) -> anyhow::Result<()> {
        let sockets = self
            .listeners
            .keys()
            .map(|&id| self.socket(id, assign.slot))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let (sender, commands) = crossbeam_channel::unbounded();
        let begin = Begin {
            slot: assign.slot,
            core: assign.core,
            recover,
            fault,
            sockets,
            arena: self.arena.clone(),
            active: self.active(),
            commands,
            doorbells: Arc::clone(&self.doorbells),
            channel: Arc::clone(&self.channel),
            spin: self.spin,
        };
        let thread = std::thread::Builder::new()
            .name(thread_name(assign.slot))
            .spawn(move || run_slot(begin))
            .context("a reactor thread can't be started")?;
        self.reactors.insert(
            assign.slot,
            Reactor {
                commands: sender,
                thread,
            },
        );
        Ok(())
    }

    fn order(&self, slot: u16, command: Command) {
        if let Some(reactor) = self.reactors.get(&slot) {
            // A reactor that has ended has told why.
            let _ = reactor.commands.send(command);
            if let Some(bell) = self.doorbells.get(usize::from(slot)) {
                let _ = os::ring_eventfd(bell.as_fd());
            }
        }
    }

    fn tell_carried(&self, result: anyhow::Result<FromWorker>) {
        self.channel
            .tell(&result.unwrap_or_else(|error| FromWorker::CarryFailed {
                message: format!("{error:#}"),
            }));
    }

    /// Ends every reactor, politely.
    fn stop(&mut self) {
        for slot in self.reactors.keys().copied().collect::<Vec<_>>() {
            self.order(slot, Command::Stop);
        }
        for (_, reactor) in std::mem::take(&mut self.reactors) {
            let _ = reactor.thread.join();
        }
    }
}
