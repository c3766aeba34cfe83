//! A reactor thread: one slot, one ring, one machine.
//!
//! ```text
//! turn   submit last turn's sends | note it as done, give its buffers back | sleep if there is nothing to do
//!        datagrams, mail, timers, orders: step, answers, settle
//! ```
//!
//! The order is what makes a death harmless: a message's consequences are in the arena (settle) before they are on the wire
//! (submit), and its buffer is given back only after that. Whoever finds the buffer serves it again and meets its transaction.

use std::{
    collections::{HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use ::overload::Verdict;
use control::FromWorker;
use crossbeam_channel::Receiver;
use failpoint::failpoint;
use os::now;
use proxy::{
    Answer, AskKind, ContextId, Datagram, Disposition, Env, Input, Interface, Outputs, Proxy,
};
use reactor::{Driver, Event, Options, SocketIndex, UringDriver, Wheel};
use shm::{Arena, BufferRef, Doorbell, Mail, Participant, ParticipantId, RxPool, RxState, SlotId};
use stdx::Instant;
use sync::Ordering;
use tables::{Counter, Sweep};

use crate::{
    active::Active,
    inbox::{Channel, Command, Socket},
    lines,
    log::Log,
    lookup::{Late, Lookup},
    overload::Overload,
    policy::Policy,
    quarantine::Guard,
    takeover::{self, Inheritance},
};

/// What a reactor thread starts with.
pub(crate) struct Begin {
    pub(crate) slot: u16,
    pub(crate) core: Option<u16>,
    pub(crate) recover: bool,
    pub(crate) fault: bool,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) arena: Arena,
    pub(crate) active: Arc<Active>,
    pub(crate) commands: Receiver<Command>,
    pub(crate) doorbells: Arc<Vec<std::os::fd::OwnedFd>>,
    pub(crate) channel: Arc<Channel>,
    pub(crate) spin: Duration,
}

/// How often expired rows are looked for and lost memory is swept up.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// Between two slices of the scrubber, at least.
const SCRUB_SLICE: Duration = Duration::from_millis(25);
/// Tries of a request that two slots take at the same moment.
const TRIES_MAX: usize = 8;
/// Rows looked at in a turn while a take-over goes on.
const ADOPT_ROWS: usize = 1024;
/// The token of the slot's own doorbell.
const DOORBELL: u32 = 0;
/// The token of the sockets to name servers.
const LOOKUP: u32 = 1;
const BROADCAST: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

/// Runs a slot until it is told to stop; reports to the supervisor if it can't.
pub(crate) fn run_slot(begin: Begin) {
    let channel = Arc::clone(&begin.channel);
    let slot = begin.slot;
    if let Err(error) = Slot::begin(begin).and_then(Slot::run) {
        let message = format!("slot {slot}: {error:#}");
        tracing::error!(%message, "a reactor can't go on");
        channel.tell(&FromWorker::Failed { message });
        lines::last_lines();
        // The other slots of this process go to the heir as well: half a worker is no worker.
        std::process::exit(1);
    }
}

/// Whether an error of sending says something of the way to the address: a full queue does not.
fn says_unreachable(errno: i32) -> bool {
    let busy = [
        nix::libc::EAGAIN,
        nix::libc::ENOBUFS,
        nix::libc::ENOMEM,
        nix::libc::EINTR,
    ];
    !busy.contains(&errno)
}

struct Slot {
    slot: u16,
    arena: Arena,
    participant: Participant,
    pools: Vec<RxPool>,
    driver: UringDriver<RxPool>,
    sockets: Vec<Option<Socket>>,
    proxy: Proxy,
    policy: Policy,
    lookup: Lookup,
    /// Reused from turn to turn.
    late: Vec<Late>,
    commands: Receiver<Command>,
    doorbells: Arc<Vec<std::os::fd::OwnedFd>>,
    wheel: Wheel<ContextId>,
    out: Outputs,
    now: Instant,
    turn: u64,
    /// Buffers whose messages were served in this turn.
    served: Vec<BufferRef>,
    /// Mail that found its ring full.
    outbox: VecDeque<(SlotId, Mail)>,
    /// Whether something was given to the driver since the last submission.
    queued: bool,
    messages: u64,
    guard: Guard,
    overload: Overload,
    /// When the turn's messages were served and its sends gone.
    done_at: Instant,
    housekeeping_at: Instant,
    scrubbed_at: Instant,
    sweep: Sweep,
    stopping: bool,
    log: Log,
    /// Reused from turn to turn.
    due: Vec<ContextId>,
    inbox: Vec<Mail>,
}

impl Slot {
    /// Takes over what there is, and serves what the predecessor had read.
    fn begin(begin: Begin) -> anyhow::Result<Self> {
        if let Some(core) = begin.core
            && let Err(error) = os::pin_current_thread(usize::from(core))
        {
            tracing::warn!(slot = begin.slot, core, %error, "the reactor can't be pinned");
        }
        // For as long as the process lives, which may end at any instruction: another hold on the arena.
        let forever: &'static Arena = Box::leak(Box::new(begin.arena.clone()));
        os::leave_word_at(&forever.slot(SlotId(begin.slot)).blamed);
        let arena = begin.arena.clone();
        let mut participant = arena.participant(ParticipantId(begin.slot));
        let header = arena.slot(SlotId(begin.slot));
        // Relaxed, here and below: announcements, see `SlotHeader`.
        header
            .pid
            .store(u64::from(std::process::id()), Ordering::Relaxed);
        header.core.store(
            begin.core.map_or(0, |core| u64::from(core) + 1),
            Ordering::Relaxed,
        );
        header.first_served_ns.store(0, Ordering::Relaxed);
        let inheritance = takeover::recover(&begin, &mut participant);
        participant.online();
        let pool = arena.rx(SlotId(begin.slot));
        let free: HashSet<u16> = pool.for_a_new_ring().collect();
        let options = Options {
            spin: begin.spin,
            ..Options::default()
        };
        let mut driver = UringDriver::new(pool, options, |index| free.contains(&index))?;
        if let Some(bell) = begin.doorbells.get(usize::from(begin.slot)) {
            driver.arm_poll(DOORBELL, bell.as_fd())?;
        }
        let time = now();
        let lookup = Lookup::new(begin.slot, &arena.key(), time.as_nanos(), &begin.active)?;
        driver.arm_poll(LOOKUP, lookup.descriptor())?;
        let mut slot = Self {
            slot: begin.slot,
            pools: (0..arena.layout().slots)
                .map(|slot| arena.rx(SlotId(slot)))
                .collect(),
            participant,
            driver,
            sockets: Vec::new(),
            proxy: Proxy::new(begin.slot, arena.key(), Arc::clone(&begin.active.settings)),
            policy: Policy::new(&begin.active.config, Arc::clone(&begin.active.accounts)),
            lookup,
            late: Vec::new(),
            commands: begin.commands.clone(),
            doorbells: Arc::clone(&begin.doorbells),
            wheel: Wheel::new(time),
            out: Outputs::default(),
            now: time,
            turn: inheritance.turn_started + 1,
            served: Vec::new(),
            outbox: VecDeque::new(),
            queued: false,
            messages: header.messages.load(Ordering::Relaxed),
            guard: Guard::default(),
            overload: Overload::new(begin.slot, &begin.active.config.overload, time),
            done_at: time,
            housekeeping_at: time + HOUSEKEEPING,
            scrubbed_at: time,
            sweep: Sweep::default(),
            stopping: false,
            log: Log::default(),
            due: Vec::new(),
            inbox: Vec::new(),
            arena,
        };
        slot.take_over(begin, &inheritance)?;
        Ok(slot)
    }

    fn take_over(&mut self, mut begin: Begin, inheritance: &Inheritance) -> anyhow::Result<()> {
        self.header()
            .turn_started
            .store(self.turn, Ordering::Relaxed);
        let adopted = if begin.recover {
            let mut env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            self.proxy
                .adopt(&mut env, inheritance.turn_done, &mut self.out)
        } else {
            0
        };
        failpoint!("takeover.adopted");
        // Sockets first: what an adopted transaction sends goes out by them. Reading begins with the first turn.
        for socket in std::mem::take(&mut begin.sockets) {
            self.arm(socket)?;
        }
        self.answer_asks(None);
        self.tick_overdue();
        self.answer_asks(None);
        let mut env = Env {
            now: self.now,
            turn: self.turn,
            arena: &mut self.participant,
        };
        self.proxy.settle(&mut env, None, &mut self.out);
        self.dispatch();
        failpoint!("takeover.settled");
        let recovered = now();
        self.header()
            .recovered_ns
            .store(recovered.as_nanos(), Ordering::Relaxed);
        begin.channel.tell(&FromWorker::Serving {
            slot: self.slot,
            replayed: u32::try_from(inheritance.journal.len()).unwrap_or(u32::MAX),
            transactions: u32::try_from(adopted).unwrap_or(u32::MAX),
            recovered_ns: recovered.as_nanos(),
        });
        if begin.recover {
            self.remind_others();
        }
        for &buffer in &inheritance.journal {
            let last = inheritance.journal.last() == Some(&buffer);
            if last && inheritance.suspect.is_some() {
                // The suspect comes alone: everything before it is safe.
                self.submit()?;
            }
            if inheritance.poison && inheritance.suspect == Some(buffer) {
                self.count(Counter::Poisoned);
                self.served.push(buffer);
                continue;
            }
            self.count(Counter::Replayed);
            if !begin.fault
                && let Some(pool) = self.pools.get(usize::from(buffer.slot))
            {
                pool.forgive(buffer.index);
            }
            self.serve(buffer);
        }
        failpoint!("takeover.replayed");
        self.submit()
    }

    fn header(&self) -> &shm::SlotHeader {
        self.arena.slot(SlotId(self.slot))
    }

    fn count(&self, counter: Counter) {
        self.participant.count(counter.cell(), 1);
    }

    fn arm(&mut self, socket: Socket) -> anyhow::Result<()> {
        let index = self
            .sockets
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.sockets.len());
        self.overload.armed(&socket);
        self.driver
            .arm_udp(SocketIndex(u16::try_from(index)?), socket.fd.as_fd())?;
        if index == self.sockets.len() {
            self.sockets.push(None);
        }
        if let Some(place) = self.sockets.get_mut(index) {
            *place = Some(socket);
        }
        Ok(())
    }

    /// Turns until told to stop.
    fn run(mut self) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(1024);
        while !self.stopping {
            if self.queued || !self.served.is_empty() {
                self.driver.turn(Some(self.now), &mut events)?;
                self.finish_turn();
            }
            let slept = events.is_empty();
            if slept {
                self.sleep(&mut events)?;
            }
            self.now = now();
            if slept {
                self.overload
                    .slept(self.now.saturating_duration_since(self.done_at));
            }
            self.turn(&mut events);
        }
        // What was read is served by the heir; what was served is sent.
        self.driver.quiesce(&mut events)?;
        self.finish_turn();
        self.participant.offline();
        Ok(())
    }

    /// Waits for an event or the next deadline, unless there is mail.
    fn sleep(&mut self, events: &mut Vec<Event>) -> anyhow::Result<()> {
        let deadline = self
            .wheel
            .next_deadline()
            .map_or(self.housekeeping_at, |next| next.min(self.housekeeping_at));
        let deadline = self
            .lookup
            .deadline()
            .map_or(deadline, |next| next.min(deadline));
        self.header().sleeping.store(1, Ordering::SeqCst);
        let busy = self.arena.has_mail(SlotId(self.slot))
            || !self.commands.is_empty()
            || self.proxy.is_adopting();
        let wait = if busy {
            Instant::ZERO
        } else if self.outbox.is_empty() {
            deadline
        } else {
            deadline.min(now() + Duration::from_millis(1))
        };
        self.participant.offline();
        let result = self.driver.turn(Some(wait), events);
        self.header().sleeping.store(0, Ordering::SeqCst);
        self.participant.online();
        Ok(result?)
    }

    /// Serves what has come; `self.now` is the time.
    fn turn(&mut self, events: &mut Vec<Event>) {
        self.done_at = self.now;
        self.turn += 1;
        let header = self.header();
        header.turn_started.store(self.turn, Ordering::Relaxed);
        header
            .heartbeat_ns
            .store(self.now.as_nanos(), Ordering::Relaxed);
        self.participant.quiescent();
        self.adopt_more();
        for event in events.drain(..) {
            match event {
                Event::Datagram { socket, buffer, .. } => {
                    if let Some(pool) = self.pools.get(usize::from(self.slot)) {
                        pool.hold(buffer, socket.0);
                    }
                    self.count(Counter::Received);
                    self.serve(BufferRef {
                        slot: self.slot,
                        index: buffer,
                    });
                }
                Event::SendFailed {
                    socket,
                    to,
                    len,
                    errno,
                } => {
                    self.count(Counter::SendFailed);
                    if says_unreachable(errno) {
                        let too_long = (errno == nix::libc::EMSGSIZE).then_some(len);
                        self.on_unreachable(socket, to, too_long);
                    }
                }
                Event::Starved { .. } => {
                    self.overload.starved();
                    self.count(Counter::Starved);
                }
                Event::ReceiveFailed { .. } => self.count(Counter::ReceiveFailed),
                Event::Poll { token: LOOKUP } => self.lookup.wake(),
                Event::Poll { .. } => {}
            }
        }
        self.take_mail();
        self.tick();
        self.overload.turn(self.now, &self.sockets);
        self.proxy.set_distress(!self.overload.is_open());
        self.answer_late();
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        if self.now >= self.housekeeping_at {
            self.keep_house();
        }
        // In slices as small as turns allow; asleep it is `keep_house` that wakes us.
        let since = self.now.saturating_duration_since(self.scrubbed_at);
        if since >= SCRUB_SLICE {
            self.scrubbed_at = self.now;
            self.participant.scrub_for(since);
        }
    }

    /// Serves one message: steps, answers what is asked, settles, queues what is to be sent.
    fn serve(&mut self, buffer: BufferRef) {
        let Some(pool) = self.pools.get(usize::from(buffer.slot)).cloned() else {
            return;
        };
        let Some(found) = reactor::datagram(&pool, buffer.index) else {
            self.served.push(buffer);
            return;
        };
        let Some(listener) = self.listener_of(&found, &pool, buffer) else {
            self.served.push(buffer);
            return;
        };
        if self.guard.drops(&mut self.participant, found.payload) {
            self.count(Counter::Poisoned);
            self.served.push(buffer);
            return;
        }
        if !self.is_let_in(buffer, &found, listener) {
            return;
        }
        pool.begin(buffer.index, SlotId(self.slot));
        failpoint::at_hand!(found.payload);
        failpoint!("worker.begun");
        self.messages += 1;
        let datagram = Datagram {
            bytes: found.payload,
            source: found.source,
            listener,
            truncated: found.truncated,
        };
        let mut disposition = Disposition::Again;
        for _ in 0..TRIES_MAX {
            let mut env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            disposition = self
                .proxy
                .step(&mut env, Input::Datagram(datagram), &mut self.out);
            if disposition == Disposition::Served {
                self.answer_asks(Some(datagram));
                let mut env = Env {
                    now: self.now,
                    turn: self.turn,
                    arena: &mut self.participant,
                };
                disposition = self.proxy.settle(&mut env, Some(datagram), &mut self.out);
            }
            if disposition != Disposition::Again {
                break;
            }
        }
        failpoint!("worker.settled");
        if self.proxy.was_copy() {
            self.overload.was_copy();
        }
        match disposition {
            Disposition::Owner(owner) if owner != self.slot => {
                self.overload.was_copy();
                pool.pass(buffer.index, SlotId(owner));
                self.count(Counter::MailSent);
                self.post(SlotId(owner), Mail::Serve(buffer));
            }
            _ => self.served.push(buffer),
        }
        self.dispatch();
        failpoint!("worker.served");
    }

    /// Whether there is room for what a datagram begins. If not, it is done with.
    fn is_let_in(
        &mut self,
        buffer: BufferRef,
        found: &reactor::Datagram<'_>,
        listener: Interface,
    ) -> bool {
        match self.overload.judge(found.payload, found.source) {
            Verdict::Take => return true,
            Verdict::Drop => self.count(Counter::OverloadDropped),
            Verdict::Refuse => {
                let began = now();
                let datagram = Datagram {
                    bytes: found.payload,
                    source: found.source,
                    listener,
                    truncated: found.truncated,
                };
                let mut env = Env {
                    now: self.now,
                    turn: self.turn,
                    arena: &mut self.participant,
                };
                let after = self.overload.retry_after_s();
                let refused = self
                    .proxy
                    .refuse_new(&mut env, datagram, after, &mut self.out);
                self.dispatch();
                self.overload
                    .refused(now().saturating_duration_since(began));
                if !refused {
                    self.overload.was_copy();
                    return true;
                }
            }
        }
        self.served.push(buffer);
        false
    }

    /// The listener that a datagram came in by: noted when it was read, or told by the address that it was sent to.
    fn listener_of(
        &self,
        found: &reactor::Datagram<'_>,
        pool: &RxPool,
        buffer: BufferRef,
    ) -> Option<Interface> {
        let by_address = found.local.and_then(|local| {
            let named = |socket: &&Socket| {
                socket.address.port() == local.port()
                    && (socket.address.ip() == local.ip() || socket.address.ip().is_unspecified())
            };
            self.sockets.iter().flatten().find(named)
        });
        let by_tag = || {
            self.sockets
                .get(usize::from(pool.meta(buffer.index).tag))
                .and_then(Option::as_ref)
        };
        let socket = by_address.or_else(by_tag)?;
        let local = found.local.map(|local| local.ip());
        Some(Interface {
            id: socket.listener,
            // What was sent to a group or to everybody came to no address of ours.
            ip: local.filter(|ip| {
                socket.address.ip().is_unspecified() && !ip.is_multicast() && *ip != BROADCAST
            }),
        })
    }

    /// Answers what the machine asks, as far as the configuration can, until it asks nothing more.
    fn answer_asks(&mut self, at_hand: Option<Datagram<'_>>) {
        while let Some(ask) = self.out.asks.pop() {
            let env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            let (policy, lookup, now) = (&self.policy, &mut self.lookup, self.now);
            let answer = self
                .proxy
                .question(&env, ask.id, at_hand, |question| match ask.kind {
                    AskKind::Resolve { branch } => lookup
                        .ask(now, ask.id, branch, &question)
                        .map(Answer::Resolved),
                    kind => Some(policy.answer(kind, &question)),
                });
            if matches!(ask.kind, AskKind::Resolve { .. }) {
                self.lookup.count(&self.participant);
            }
            // What needs a name server is answered in a later turn.
            if let Some(answer) = answer.flatten() {
                let mut env = Env {
                    now: self.now,
                    turn: self.turn,
                    arena: &mut self.participant,
                };
                self.proxy.step(
                    &mut env,
                    Input::Answer {
                        id: ask.id,
                        answer,
                        at_hand,
                    },
                    &mut self.out,
                );
            }
        }
    }

    /// What was sent there waits for no answer.
    fn on_unreachable(&mut self, socket: SocketIndex, to: SocketAddr, too_long: Option<usize>) {
        let socket = self.sockets.get(usize::from(socket.0));
        let Some(listener) = socket.and_then(|socket| Some(socket.as_ref()?.listener)) else {
            return;
        };
        let mut env = Env {
            now: self.now,
            turn: self.turn,
            arena: &mut self.participant,
        };
        let input = Input::Unreachable {
            listener,
            to,
            too_long,
        };
        self.proxy.step(&mut env, input, &mut self.out);
        self.answer_asks(None);
        let mut env = Env {
            now: self.now,
            turn: self.turn,
            arena: &mut self.participant,
        };
        self.proxy.settle(&mut env, None, &mut self.out);
        self.dispatch();
    }

    /// Answers what had to wait for a name server.
    fn answer_late(&mut self) {
        if self.lookup.deadline().is_none_or(|due| due > self.now) {
            return;
        }
        let mut late = std::mem::take(&mut self.late);
        self.lookup.turn(self.now, &mut late);
        self.lookup.count(&self.participant);
        for (id, hops) in late.drain(..) {
            let mut env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            let input = Input::Answer {
                id,
                answer: Answer::Resolved(hops),
                at_hand: None,
            };
            self.proxy.step(&mut env, input, &mut self.out);
            self.answer_asks(None);
            let mut env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            self.proxy.settle(&mut env, None, &mut self.out);
            self.dispatch();
        }
        self.late = late;
    }

    /// Gives what was settled to the driver and the wheel.
    fn dispatch(&mut self) {
        for send in &self.out.sends {
            let socket = self.sockets.iter().position(|socket| {
                socket
                    .as_ref()
                    .is_some_and(|socket| socket.listener == send.listener.id)
            });
            let Some(index) = socket.and_then(|index| u16::try_from(index).ok()) else {
                self.participant.count(Counter::SendFailed.cell(), 1);
                continue;
            };
            self.driver.send_udp(
                SocketIndex(index),
                send.listener.ip,
                &send.to,
                self.out.text(send),
            );
            self.participant.count(Counter::Sent.cell(), 1);
            self.queued = true;
        }
        for &(deadline, id) in &self.out.arms {
            self.wheel.insert(deadline, id);
        }
        for note in &self.out.notes {
            self.log.note(self.now, self.slot, note);
        }
        for &(hop, state) in &self.out.hops {
            self.lookup.hop(self.now, hop, state);
            if state.is_bad() {
                self.lookup.count(&self.participant);
            }
        }
        self.out.clear();
    }

    /// Ticks what is due already, within this turn. What a predecessor may not have sent is sent again before the turn counts as
    /// done: the wheel would leave it to the next one, and a death in between would lose it for good.
    fn tick_overdue(&mut self) {
        let (due, later) = std::mem::take(&mut self.out.arms)
            .into_iter()
            .partition::<Vec<_>, _>(|&(deadline, _)| deadline <= self.now);
        self.out.arms = later;
        for (_, id) in due {
            let mut env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            self.proxy.step(&mut env, Input::Tick(id), &mut self.out);
        }
    }

    /// Mails once more what the predecessor passed to other slots: it may have died between the two steps. Whoever has served a
    /// buffer already finds it so.
    fn remind_others(&mut self) {
        let Some(pool) = self.pools.get(usize::from(self.slot)).cloned() else {
            return;
        };
        for (index, holder) in pool.passed() {
            let buffer = BufferRef {
                slot: self.slot,
                index,
            };
            self.post(holder, Mail::Serve(buffer));
        }
    }

    /// Goes on with a take-over: a bounded piece each turn, so that messages do not wait for it.
    fn adopt_more(&mut self) {
        if self.proxy.is_adopting() {
            let mut env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            self.proxy.adopt_more(&mut env, ADOPT_ROWS, &mut self.out);
            // A branch may wait for an address.
            self.answer_asks(None);
            let mut env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            self.proxy.settle(&mut env, None, &mut self.out);
            self.dispatch();
        }
    }

    fn tick(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.now, &mut due);
        for id in due.drain(..) {
            let mut env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            self.proxy.step(&mut env, Input::Tick(id), &mut self.out);
            // The next hop or target may have a name.
            self.answer_asks(None);
            let mut env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            self.proxy.settle(&mut env, None, &mut self.out);
            self.dispatch();
        }
        self.due = due;
    }

    /// The turn's sends have gone out: its messages are served.
    fn finish_turn(&mut self) {
        let header = self.arena.slot(SlotId(self.slot));
        failpoint!("worker.submitted");
        header.turn_done.store(self.turn, Ordering::Release);
        failpoint!("worker.done");
        header.messages.store(self.messages, Ordering::Relaxed);
        if !self.served.is_empty() {
            let sent = now();
            self.done_at = sent;
            let took = sent.saturating_duration_since(self.now);
            self.arena
                .latency(SlotId(self.slot))
                .record(took, self.served.len() as u64);
            if header.first_served_ns.load(Ordering::Relaxed) == 0 {
                header
                    .first_served_ns
                    .store(sent.as_nanos(), Ordering::Relaxed);
            }
        }
        self.queued = false;
        header.set_at_hand(None);
        let mut served = std::mem::take(&mut self.served);
        for buffer in served.drain(..) {
            if buffer.slot == self.slot {
                self.give_back(buffer.index);
            } else if let Some(pool) = self.pools.get(usize::from(buffer.slot)) {
                pool.done(buffer.index, SlotId(self.slot));
                self.post(SlotId(buffer.slot), Mail::Release(buffer));
            }
        }
        self.served = served;
        failpoint!("worker.given_back");
    }

    fn submit(&mut self) -> anyhow::Result<()> {
        let mut events = Vec::new();
        self.driver.turn(Some(Instant::ZERO), &mut events)?;
        self.finish_turn();
        self.now = now();
        self.turn(&mut events);
        Ok(())
    }

    fn give_back(&mut self, index: u16) {
        self.driver.release(index);
    }

    fn post(&mut self, to: SlotId, mail: Mail) {
        match self.participant.send(to, mail) {
            Ok(Doorbell::Ring) => {
                if let Some(bell) = self.doorbells.get(usize::from(to.0)) {
                    // A bell that can't be rung is full: it has been rung.
                    let _ = os::ring_eventfd(bell.as_fd());
                }
            }
            Ok(Doorbell::Awake) => {}
            Err(_) => self.outbox.push_back((to, mail)),
        }
    }

    fn take_mail(&mut self) {
        for _ in 0..self.outbox.len() {
            if let Some((to, mail)) = self.outbox.pop_front() {
                self.post(to, mail);
            }
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        self.participant.receive(|_, mail| inbox.push(mail));
        for mail in inbox.drain(..) {
            match mail {
                Mail::Serve(buffer) => {
                    let meta = self
                        .pools
                        .get(usize::from(buffer.slot))
                        .filter(|pool| buffer.index < pool.count())
                        .map(|pool| pool.meta(buffer.index));
                    // A ring is a hint: who has to serve a buffer is in its meta word.
                    if meta
                        .is_some_and(|meta| meta.state == RxState::Held && meta.holder == self.slot)
                        && !self.served.contains(&buffer)
                    {
                        self.count(Counter::MailReceived);
                        self.serve(buffer);
                    }
                }
                Mail::Release(buffer) => {
                    let own = self
                        .pools
                        .get(usize::from(self.slot))
                        .filter(|pool| buffer.slot == self.slot && buffer.index < pool.count());
                    if own.is_some_and(|pool| pool.meta(buffer.index).state == RxState::Done) {
                        self.give_back(buffer.index);
                    }
                }
                Mail::Wake => {}
            }
        }
        self.inbox = inbox;
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Apply(active, note) => {
                self.proxy.configure(Arc::clone(&active.settings));
                self.policy = Policy::new(&active.config, Arc::clone(&active.accounts));
                self.overload.configure(&active.config.overload);
                self.lookup.configure(&active);
                drop(note);
            }
            Command::Names(active) => self.lookup.configure(&active),
            Command::Addresses(active) => self.proxy.configure(Arc::clone(&active.settings)),
            Command::Arm(socket) => {
                let listener = socket.listener;
                if let Err(error) = self.arm(socket) {
                    tracing::error!(slot = self.slot, listener, %error, "a listener can't be read");
                }
            }
            Command::Disarm { listener } => {
                let index = self.sockets.iter().position(|socket| {
                    socket
                        .as_ref()
                        .is_some_and(|socket| socket.listener == listener)
                });
                if let Some(index) = index {
                    self.driver
                        .disarm_udp(SocketIndex(u16::try_from(index).unwrap_or(u16::MAX)));
                    if let Some(place) = self.sockets.get_mut(index) {
                        *place = None;
                    }
                }
            }
            Command::Pin(core) => {
                let done = match core {
                    Some(core) => os::pin_current_thread(usize::from(core)),
                    None => os::unpin_current_thread(),
                };
                match done {
                    Ok(()) => self.header().core.store(
                        core.map_or(0, |core| u64::from(core) + 1),
                        Ordering::Relaxed,
                    ),
                    Err(error) => {
                        tracing::warn!(slot = self.slot, %error, "the reactor can't be pinned")
                    }
                }
            }
            Command::Stop => self.stopping = true,
        }
    }

    /// Slow things, a little at a time: expired rows, lost memory, mail that was lost with its sender.
    fn keep_house(&mut self) {
        self.housekeeping_at = self.now + HOUSEKEEPING;
        self.sweep.step(&mut self.participant, self.now, |_, _| ());
        self.overload.count_drops(&self.sockets, &self.participant);
        let forgotten: Vec<u16> = self
            .pools
            .get(usize::from(self.slot))
            .map(|pool| pool.released().collect())
            .unwrap_or_default();
        for index in forgotten {
            self.give_back(index);
        }
    }
}
