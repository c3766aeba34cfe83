//! What a slot's loop reaches: its ring and sockets, timers, policy and resolver, orders, other slots' doorbells.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use ::overload::Verdict;
use ::slot::{Entry, Inheritance, Point, Slot, World};
use control::FromWorker;
use crossbeam_channel::Receiver;
use failpoint::failpoint;
use os::now;
use proxy::{
    Answer, Ask, AskKind, ContextId, Datagram, HopState, Interface, Kept, MediaAsk, Note, Outcome,
    Question, Send,
};
use reactor::{Driver, Event, Options, SocketIndex, UringDriver, Wheel};
use shm::{Arena, Participant, RxPool, SlotHeader, SlotId};
use stdx::Instant;
use sync::Ordering;
use tables::Counter;
use tables::dialog::DialogId;

use crate::{
    destinations::{Keeper, Reports},
    inbox::{Channel, Command, Socket},
    keepalive,
    log::Log,
    lookup::{Late, Lookup, Name},
    media::{self, Media},
    overload::Overload,
    policy::Policy,
    quarantine,
    slot::Begin,
};

/// The token of the slot's own doorbell.
const DOORBELL: u32 = 0;
/// The token of the sockets to name servers.
const LOOKUP: u32 = 1;
/// The token of the sockets to media engines.
const MEDIA: u32 = 2;
const BROADCAST: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

/// Whether an error of sending says something of the way to the address: a full queue does not, nor that we can't send from an address of ours that has
/// gone or is a broadcast.
fn says_unreachable(errno: i32) -> bool {
    let busy = [
        nix::libc::EAGAIN,
        nix::libc::ENOBUFS,
        nix::libc::ENOMEM,
        nix::libc::EINTR,
        nix::libc::EINVAL,
        nix::libc::EADDRNOTAVAIL,
    ];
    !busy.contains(&errno)
}

pub(crate) struct Outside {
    number: u16,
    arena: Arena,
    driver: UringDriver<RxPool>,
    sockets: Vec<Option<Socket>>,
    policy: Policy,
    reports: Reports,
    keeper: Keeper,
    keepalive: keepalive::Keeper,
    /// Whom to keep awake; reused from step to step.
    awake: Vec<keepalive::Due>,
    lookup: Lookup,
    /// Reused from turn to turn.
    late: Vec<Late>,
    /// As `late`.
    named: Vec<Name>,
    media: Media,
    /// Reused from turn to turn.
    media_late: Vec<media::Late>,
    commands: Receiver<Command>,
    doorbells: Arc<Vec<OwnedFd>>,
    channel: Arc<Channel>,
    wheel: Wheel<ContextId>,
    /// What has come with the last submission.
    events: Vec<Event>,
    /// Whether something was given to the driver since the last submission.
    queued: bool,
    overload: Overload,
    /// When a refusal began.
    refusing_since: Instant,
    /// When the turn's messages were served and its sends gone.
    done_at: Instant,
    stopping: bool,
    log: Log,
}

impl Outside {
    /// Sets up the ring. Sockets come by [`Outside::arm_socket`].
    pub(crate) fn new(
        begin: &Begin,
        time: Instant,
        participant: &mut Participant,
    ) -> anyhow::Result<Self> {
        let pool = begin.arena.rx(SlotId(begin.slot));
        let free: HashSet<u16> = pool.for_a_new_ring().collect();
        let options = Options {
            spin: begin.spin,
            ..Options::default()
        };
        let mut driver = UringDriver::new(pool, options, |index| free.contains(&index))?;
        if let Some(bell) = begin.doorbells.get(usize::from(begin.slot)) {
            driver.arm_poll(DOORBELL, bell.as_fd())?;
        }
        let lookup = Lookup::new(
            begin.slot,
            &begin.arena.key(),
            time.as_nanos(),
            &begin.active,
        )?;
        driver.arm_poll(LOOKUP, lookup.descriptor())?;
        let media = Media::new(
            begin.slot,
            begin.arena.layout().slots,
            &begin.arena.key(),
            time.as_nanos(),
            time,
            &begin.active,
        )?;
        driver.arm_poll(MEDIA, media.descriptor())?;
        let mut outside = Self {
            number: begin.slot,
            arena: begin.arena.clone(),
            driver,
            sockets: Vec::new(),
            policy: Policy::new(
                &begin.active.config,
                Arc::clone(&begin.active.accounts),
                &begin.active.tables,
                begin.slot,
            ),
            reports: Reports::default(),
            keeper: Keeper::new(begin.slot, begin.arena.layout().slots),
            keepalive: keepalive::Keeper::new(
                &begin.active.config.nat,
                begin.arena.layout().slots,
                time,
            ),
            awake: Vec::new(),
            lookup,
            late: Vec::new(),
            named: Vec::new(),
            media,
            media_late: Vec::new(),
            commands: begin.commands.clone(),
            doorbells: Arc::clone(&begin.doorbells),
            channel: Arc::clone(&begin.channel),
            wheel: Wheel::new(time),
            events: Vec::with_capacity(1024),
            queued: false,
            overload: Overload::new(begin.slot, &begin.active.config.overload, time),
            refusing_since: time,
            done_at: time,
            stopping: false,
            log: Log::default(),
        };
        outside.look_at_destinations(time, participant);
        Ok(outside)
    }

    /// Sees to it that every destination has a row, and learns who is there.
    fn look_at_destinations(&mut self, now: Instant, participant: &mut Participant) {
        let groups = self.policy.groups();
        if groups.is_empty() && self.keeper.is_idle() {
            return;
        }
        groups.refresh(participant, now);
        if self.keeper.learn(groups, now) {
            self.reports.learn(groups);
        }
    }

    /// Sends the probes that are due, and asks for names.
    fn keep_destinations(&mut self, slot: &mut Slot) {
        let now = slot.now();
        if self.keeper.deadline().is_none_or(|due| due > now) {
            return;
        }
        let work = self.keeper.work(now, slot.participant(), &self.reports);
        for probe in &work.probes {
            slot.probe(self, &probe.request());
        }
        for (row, uri) in &work.names {
            self.lookup.expand(now, *row, uri);
        }
    }

    /// Keeps the ways to phones behind address translation open.
    fn keep_phones(&mut self, slot: &mut Slot) {
        let now = slot.now();
        if self.keepalive.deadline().is_none_or(|due| due > now) {
            return;
        }
        let mut awake = std::mem::take(&mut self.awake);
        self.keepalive.step(now, slot.participant(), &mut awake);
        for due in awake.drain(..) {
            let request = self.keepalive.request(&due);
            if slot.keep_alive(self, &request) == Kept::GivenUp {
                due.remove(slot.participant());
            }
        }
        self.awake = awake;
    }

    pub(crate) fn arm_socket(&mut self, socket: Socket) -> anyhow::Result<()> {
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

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(crate) fn has_queued(&self) -> bool {
        self.queued
    }

    pub(crate) fn has_no_events(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The next timer, or answer to wait for.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timer = self.wheel.next_deadline();
        let others = [
            self.lookup.deadline(),
            self.keeper.deadline(),
            self.keepalive.deadline(),
            self.media.deadline(),
        ];
        timer.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// The turn's sends go out; what has come since is fetched.
    pub(crate) fn carry_out(&mut self, now: Instant) -> anyhow::Result<()> {
        self.driver.turn(Some(now), &mut self.events)?;
        self.queued = false;
        Ok(())
    }

    /// Waits for what comes.
    pub(crate) fn wait(&mut self, until: Instant) -> anyhow::Result<()> {
        Ok(self.driver.turn(Some(until), &mut self.events)?)
    }

    /// There was nothing to do from the end of the last turn until now.
    pub(crate) fn slept(&mut self, now: Instant) {
        self.overload
            .slept(now.saturating_duration_since(self.done_at));
    }

    /// Stops reading; what is queued is sent.
    pub(crate) fn quiesce(&mut self) -> anyhow::Result<()> {
        self.driver.quiesce(&mut self.events)?;
        Ok(())
    }

    /// The listener that a datagram came in by: noted when it was read, or told by the address that it was sent to.
    fn listener_of(
        &self,
        found: &reactor::Datagram<'_>,
        pool: &RxPool,
        index: u16,
    ) -> Option<Interface> {
        let by_address = found.local.and_then(|local| {
            let named = |socket: &&Socket| {
                socket.address.port() == local.port()
                    && socket.address.is_ipv4() == local.is_ipv4()
                    && (socket.address.ip() == local.ip() || socket.address.ip().is_unspecified())
            };
            self.sockets.iter().flatten().find(named)
        });
        let by_tag = || {
            self.sockets
                .get(usize::from(pool.meta(index).tag))
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

    /// What was sent there waits for no answer.
    fn on_unreachable(
        &mut self,
        slot: &mut Slot,
        socket: SocketIndex,
        to: SocketAddr,
        too_long: Option<usize>,
    ) {
        let socket = self.sockets.get(usize::from(socket.0));
        if let Some(listener) = socket.and_then(|socket| Some(socket.as_ref()?.listener)) {
            slot.unreachable(self, listener, to, too_long);
        }
    }

    /// Answers what had to wait for a name server.
    fn answer_late(&mut self, slot: &mut Slot) {
        let now = slot.now();
        if self.lookup.deadline().is_none_or(|due| due > now) {
            return;
        }
        let mut late = std::mem::take(&mut self.late);
        let mut named = std::mem::take(&mut self.named);
        self.lookup.turn(now, &mut late, &mut named);
        let mut news = false;
        for (row, answer) in named.drain(..) {
            news |= self.keeper.resolved(now, row, &answer, slot.participant());
        }
        if news {
            self.look_at_destinations(now, slot.participant());
        }
        self.named = named;
        self.lookup.count(slot.participant());
        for (id, hops) in late.drain(..) {
            slot.answered(self, id, Answer::Resolved(hops));
        }
        self.late = late;
    }

    /// Goes on with messages that had to wait for a media engine.
    fn answer_media(&mut self, slot: &mut Slot) {
        let now = slot.now();
        if self.media.deadline().is_none_or(|due| due > now) {
            return;
        }
        let mut late = std::mem::take(&mut self.media_late);
        self.media.turn(now, slot.participant(), &mut late);
        for (id, outcome) in late.drain(..) {
            slot.answered(self, id, Answer::Media(outcome));
        }
        self.media_late = late;
    }

    fn obey(&mut self, slot: &mut Slot, command: Command) {
        match command {
            Command::Apply(active, note) => {
                slot.proxy().configure(Arc::clone(&active.settings));
                self.policy = Policy::new(
                    &active.config,
                    Arc::clone(&active.accounts),
                    &active.tables,
                    self.number,
                );
                let (nat, slots) = (&active.config.nat, self.arena.layout().slots);
                self.keepalive.configure(nat, slots, slot.now());
                self.keeper.forget();
                self.look_at_destinations(slot.now(), slot.participant());
                self.overload.configure(&active.config.overload);
                self.lookup.configure(&active);
                self.media.configure(slot.now(), &active);
                drop(note);
            }
            Command::Names(active) => self.lookup.configure(&active),
            Command::Addresses(active) => slot.proxy().configure(Arc::clone(&active.settings)),
            Command::Arm(socket) => {
                let listener = socket.listener;
                if let Err(error) = self.arm_socket(socket) {
                    tracing::error!(slot = self.number, listener, %error, "a listener can't be read");
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
                    Ok(()) => slot.header().core.store(
                        core.map_or(0, |core| u64::from(core) + 1),
                        Ordering::Relaxed,
                    ),
                    Err(error) => {
                        tracing::warn!(slot = self.number, %error, "the reactor can't be pinned")
                    }
                }
            }
            Command::Stop => self.stopping = true,
        }
    }
}

impl World for Outside {
    type Error = anyhow::Error;

    fn now(&self) -> Instant {
        now()
    }

    fn unix_ms(&self) -> u64 {
        quarantine::unix_ms()
    }

    #[inline]
    fn read<'b>(&self, pool: &'b RxPool, index: u16) -> Option<Datagram<'b>> {
        let found = reactor::datagram(pool, index)?;
        Some(Datagram {
            bytes: found.payload,
            source: found.source,
            listener: self.listener_of(&found, pool, index)?,
            truncated: found.truncated,
        })
    }

    fn take_in(&mut self, slot: &mut Slot) {
        self.done_at = slot.now();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Datagram { socket, buffer, .. } => slot.receive(self, buffer, socket.0),
                Event::SendFailed {
                    socket,
                    to,
                    len,
                    errno,
                } => {
                    slot.count(Counter::SendFailed);
                    if says_unreachable(errno) {
                        let too_long = (errno == nix::libc::EMSGSIZE).then_some(len);
                        self.on_unreachable(slot, socket, to, too_long);
                    }
                }
                Event::Starved { .. } => {
                    self.overload.starved();
                    slot.count(Counter::Starved);
                }
                Event::ReceiveFailed { .. } => slot.count(Counter::ReceiveFailed),
                Event::Poll { token: LOOKUP } => self.lookup.wake(),
                Event::Poll { token: MEDIA } => self.media.wake(),
                Event::Poll { .. } => {}
            }
        }
        self.events = events;
    }

    #[inline]
    fn due(&mut self, now: Instant, due: &mut Vec<ContextId>) {
        self.wheel.expire(now, due);
    }

    fn attend(&mut self, slot: &mut Slot) {
        self.overload.turn(slot.now(), &self.sockets);
        slot.proxy().set_distress(!self.overload.is_open());
        self.keep_destinations(slot);
        self.keep_phones(slot);
        self.answer_late(slot);
        self.answer_media(slot);
        while let Ok(command) = self.commands.try_recv() {
            self.obey(slot, command);
        }
    }

    fn keep_house(&mut self, participant: &mut Participant) {
        self.overload.count_drops(&self.sockets, participant);
        let now = now();
        self.reports.flush(now, participant);
        self.look_at_destinations(now, participant);
        self.keeper.clean(now, participant);
        self.media.keep_house(now, participant);
    }

    fn submit(&mut self) -> anyhow::Result<()> {
        self.carry_out(Instant::ZERO)
    }

    #[inline]
    fn sent(&mut self, turn_began: Instant, messages: usize) {
        let header = self.arena.slot(SlotId(self.number));
        let sent = now();
        self.done_at = sent;
        let took = sent.saturating_duration_since(turn_began);
        self.arena
            .latency(SlotId(self.number))
            .record(took, messages as u64);
        if header.first_served_ns.load(Ordering::Relaxed) == 0 {
            header
                .first_served_ns
                .store(sent.as_nanos(), Ordering::Relaxed);
        }
    }

    #[inline]
    fn judge(&mut self, datagram: &Datagram<'_>) -> Entry {
        match self.overload.judge(datagram.bytes, datagram.source) {
            Verdict::Take => Entry::Take,
            Verdict::Drop => Entry::Drop,
            Verdict::Refuse => {
                self.refusing_since = now();
                Entry::Refuse {
                    after_s: self.overload.retry_after_s(),
                }
            }
        }
    }

    fn refused(&mut self) {
        let took = now().saturating_duration_since(self.refusing_since);
        self.overload.refused(took);
    }

    #[inline]
    fn was_copy(&mut self) {
        self.overload.was_copy();
    }

    #[inline]
    fn at_hand(&mut self, _bytes: &[u8]) {
        failpoint::at_hand!(_bytes);
    }

    #[inline]
    fn point(&mut self, point: Point) {
        hit(point);
    }

    #[inline]
    fn answer(&mut self, now: Instant, ask: Ask, question: &Question<'_>) -> Option<Answer> {
        match ask.kind {
            AskKind::Resolve { branch } => self
                .lookup
                .ask(now, ask.id, branch, question)
                .map(Answer::Resolved),
            kind => {
                self.policy.groups().set_now(now);
                Some(self.policy.answer(kind, question))
            }
        }
    }

    #[inline]
    fn count(&mut self, ask: Ask, participant: &Participant) {
        if matches!(ask.kind, AskKind::Resolve { .. }) {
            self.lookup.count(participant);
        }
    }

    #[inline]
    fn send(&mut self, send: &Send, bytes: &[u8]) -> bool {
        let socket = self.sockets.iter().position(|socket| {
            socket
                .as_ref()
                .is_some_and(|socket| socket.listener == send.listener.id)
        });
        let Some(index) = socket.and_then(|index| u16::try_from(index).ok()) else {
            return false;
        };
        self.driver
            .send_udp(SocketIndex(index), send.listener.ip, &send.to, bytes);
        self.queued = true;
        true
    }

    #[inline]
    fn arm(&mut self, deadline: Instant, id: ContextId) {
        self.wheel.insert(deadline, id);
    }

    fn note(&mut self, now: Instant, note: &Note) {
        self.log.note(now, self.number, note);
    }

    #[inline]
    fn hop(&mut self, now: Instant, hop: SocketAddr, state: HopState, participant: &Participant) {
        self.lookup.hop(now, hop, state);
        if state.is_bad() {
            self.lookup.count(participant);
        }
    }

    fn outcome(&mut self, now: Instant, outcome: &Outcome, participant: &mut Participant) {
        self.reports.hear(now, outcome, participant);
    }

    fn media(&mut self, now: Instant, ask: MediaAsk) {
        self.media.ask(now, ask.id, ask.question);
    }

    fn media_ended(&mut self, now: Instant, id: DialogId, participant: &mut Participant) {
        self.media.ended(now, id, participant);
    }

    fn ring(&mut self, slot: SlotId) {
        if let Some(bell) = self.doorbells.get(usize::from(slot.0)) {
            // A bell that can't be rung is full: it has been rung.
            let _ = os::ring_eventfd(bell.as_fd());
        }
    }

    #[inline]
    fn give_back(&mut self, index: u16) {
        self.driver.release(index);
    }

    fn serves(&mut self, header: &SlotHeader, inheritance: &Inheritance, adopted: usize) {
        let recovered = now();
        header
            .recovered_ns
            .store(recovered.as_nanos(), Ordering::Relaxed);
        self.channel.tell(&FromWorker::Serving {
            slot: self.number,
            replayed: u32::try_from(inheritance.journal.len()).unwrap_or(u32::MAX),
            transactions: u32::try_from(adopted).unwrap_or(u32::MAX),
            recovered_ns: recovered.as_nanos(),
        });
    }
}

/// The failpoints of the loop.
#[inline]
pub(crate) fn hit(point: Point) {
    match point {
        Point::Recovered => {
            failpoint!("takeover.recovered");
        }
        Point::Adopted => {
            failpoint!("takeover.adopted");
        }
        Point::AdoptedSettled => {
            failpoint!("takeover.settled");
        }
        Point::Replayed => {
            failpoint!("takeover.replayed");
        }
        Point::Begun => {
            failpoint!("worker.begun");
        }
        Point::Settled => {
            failpoint!("worker.settled");
        }
        Point::Served => {
            failpoint!("worker.served");
        }
        Point::Submitted => {
            failpoint!("worker.submitted");
        }
        Point::Done => {
            failpoint!("worker.done");
        }
        Point::GivenBack => {
            failpoint!("worker.given_back");
        }
        Point::Stepped
        | Point::Answered
        | Point::Passed
        | Point::Ticked
        | Point::TickSettled
        | Point::AnswerSettled => {}
    }
}
