//! The control thread of a worker process.

use std::{
    collections::BTreeMap,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    process::ExitCode,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, bail};
use config::Config;
use control::{FromWorker, SlotAssign, ToWorker};
use crossbeam_channel::Sender;
use shm::{Arena, Participant, ParticipantId};
use stdx::hash::Key;

use crate::{
    active::{Active, Listeners},
    hosts::Hosts,
    inbox::{AppliedNote, Channel, Command, Socket},
    queries,
    slot::{Begin, run_slot},
};

/// Runs a worker on its control channel until the supervisor ends it.
pub fn run(channel: OwnedFd) -> ExitCode {
    let channel = Arc::new(Channel(channel));
    if let Err(error) = os::answer_for_stacks() {
        tracing::warn!(%error, "threads of this worker will not tell their stacks");
    }
    match serve(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            tracing::error!(%message, "the worker can't go on");
            channel.tell(&FromWorker::Failed { message });
            ExitCode::FAILURE
        }
    }
}

/// What the thread of a slot is called, for `top -H` and for who looks for one that hangs.
pub fn thread_name(slot: u16) -> String {
    format!("slot-{slot}")
}

/// What the process has.
struct Process {
    channel: Arc<Channel>,
    arena: Arena,
    /// The control thread's own way into the arena.
    participant: Participant,
    hosts: Arc<Hosts>,
    config: Arc<Config>,
    version: u64,
    doorbells: Arc<Vec<OwnedFd>>,
    listeners: BTreeMap<u32, Listener>,
    reactors: BTreeMap<u16, Reactor>,
    spin: Duration,
    /// Seals dialogs.
    secret: Key,
}

/// A listener with one socket for each slot.
struct Listener {
    address: std::net::SocketAddr,
    sockets: Vec<OwnedFd>,
}

struct Reactor {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
}

/// One message with its descriptors; `None` when the supervisor is gone.
fn receive(
    channel: &Channel,
    bytes: &mut Vec<u8>,
    fds: &mut Vec<OwnedFd>,
) -> anyhow::Result<Option<ToWorker>> {
    fds.clear();
    let length = os::recv_with_fds(channel.0.as_fd(), bytes, fds)
        .context("the control channel can't be read")?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(
        control::decode(bytes).context("a message of the supervisor can't be read")?,
    ))
}

fn serve(channel: &Arc<Channel>) -> anyhow::Result<()> {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    let Some(first) = receive(channel, &mut bytes, &mut fds)? else {
        return Ok(());
    };
    let ToWorker::Hello {
        aux,
        recover_aux,
        slots_total,
        user,
        spin_us,
        config_version,
        secret,
        ..
    } = first
    else {
        bail!("the supervisor did not begin with Hello");
    };
    let mut given = fds.drain(..);
    let (Some(control), Some(data), Some(config)) = (given.next(), given.next(), given.next())
    else {
        bail!("Hello came without its descriptors");
    };
    let mut doorbells: Vec<OwnedFd> = given.collect();
    while doorbells.len() < usize::from(slots_total) {
        match receive(channel, &mut bytes, &mut fds)? {
            Some(ToWorker::Doorbells { from_slot })
                if usize::from(from_slot) == doorbells.len() =>
            {
                doorbells.append(&mut fds)
            }
            Some(_) => bail!("a doorbell is missing"),
            None => return Ok(()),
        }
    }
    let arena = Arena::attach(control, data).context("the arena can't be attached")?;
    let config = Arc::new(read_config(config)?);
    // Before privileges go: the file may be for root only.
    let hosts = Arc::new(Hosts::load());
    if let Some(user) = &user {
        os::drop_privileges(user).with_context(|| format!("can't become the user {user}"))?;
    }
    let mut participant = arena.participant(ParticipantId(aux));
    if recover_aux {
        participant.recover(ParticipantId(aux));
        participant.offline();
    }
    let mut process = Process {
        channel: Arc::clone(channel),
        arena,
        participant,
        hosts,
        config,
        version: config_version,
        doorbells: Arc::new(doorbells),
        listeners: BTreeMap::new(),
        reactors: BTreeMap::new(),
        spin: Duration::from_micros(u64::from(spin_us)),
        secret: Key(secret.0),
    };
    channel.tell(&FromWorker::Ready);
    loop {
        let Some(message) = receive(channel, &mut bytes, &mut fds)? else {
            // Nobody is left who could replace us or be told anything. What we hold is in the arena.
            tracing::warn!("the supervisor is gone: the worker ends");
            process.stop();
            return Ok(());
        };
        if process.obey(message, &mut fds)? {
            return Ok(());
        }
    }
}

fn read_config(fd: OwnedFd) -> anyhow::Result<Config> {
    let file = std::fs::File::from(fd);
    // Every process has the same open file, so its position belongs to nobody: read by offset.
    let bytes = file.metadata().map(|about| about.len());
    let mut frame = vec![0; bytes.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))];
    file.read_exact_at(&mut frame, 0)
        .context("the configuration can't be read")?;
    Config::decode(&frame).context("the configuration can't be decoded")
}

impl Process {
    /// Carries out one order; true ends the process.
    fn obey(&mut self, message: ToWorker, fds: &mut Vec<OwnedFd>) -> anyhow::Result<bool> {
        match message {
            ToWorker::Hello { .. } | ToWorker::Doorbells { .. } => {
                bail!("the supervisor said Hello twice")
            }
            ToWorker::Sockets {
                listener,
                address,
                from_slot,
            } => self.add_sockets(listener, address, from_slot, fds)?,
            ToWorker::RemoveListener { listener } => self.remove_listener(listener),
            ToWorker::Config { version } => {
                let Some(fd) = fds.pop() else {
                    bail!("a configuration came without its descriptor")
                };
                self.config = Arc::new(read_config(fd)?);
                self.version = version;
                self.apply();
            }
            ToWorker::Assign {
                slots,
                recover,
                fault,
                ..
            } => {
                for slot in &slots {
                    self.start(*slot, recover, fault)?;
                }
            }
            ToWorker::Pin { slots } => {
                for SlotAssign { slot, core } in slots {
                    self.order(slot, Command::Pin(core));
                }
            }
            ToWorker::HandOver => {
                self.stop();
                self.channel.tell(&FromWorker::HandedOver);
                return Ok(true);
            }
            ToWorker::Query { request } => {
                if let Some(connection) = fds.pop() {
                    queries::answer(&mut self.participant, &request, connection);
                }
            }
        }
        Ok(false)
    }

    fn add_sockets(
        &mut self,
        id: u32,
        address: std::net::SocketAddr,
        from_slot: u16,
        fds: &mut Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let listener = self.listeners.entry(id).or_insert_with(|| Listener {
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
        for slot in self.reactors.keys().copied().collect::<Vec<_>>() {
            let socket = self.socket(id, slot)?;
            self.order(slot, Command::Arm(socket));
        }
        Ok(())
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
            Arc::clone(&self.config),
            &listeners,
            Arc::clone(&self.hosts),
            self.secret,
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
