//! A small world around the machine: slots over one arena, a clock that the script moves, user agents, and deaths at every step.
//!
//! A slot is driven as a worker's reactor drives it: a turn serves datagrams or due timers (step, answers, settle), then sends,
//! then notes itself as done and gives the datagrams back. [`World::point`] stands between any two of these; a death there takes
//! everything on the heap, and an heir recovers the slot, adopts its records, serves the journal and goes on.

pub mod agent;
pub mod engine;
pub mod policy;
mod script;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use proxy::{
    Ask, ContextId, Datagram, Disposition, Domain, Env, Input, Listener, MediaAsk, Outputs, Proxy,
    Settings,
};
use shm::{Arena, Cursor, Layout, Participant, ParticipantId, TableId};
use stdx::Instant;
use tables::{
    Balancer, Counter, DIALOG, Dialogs, LOCATION, MEDIA, TABLES, TRANSACTION,
    balancer::ResourceKind, dialog::DialogState,
};

use agent::Agent;
use policy::Policy;

/// Tries of a request that two slots take at the same moment, as the worker has them.
const TRIES_MAX: usize = 8;

pub struct World {
    pub arena: Arena,
    pub settings: Arc<Settings>,
    pub policy: Policy,
    pub slots: Vec<Slot>,
    pub agents: Vec<Agent>,
    pub now: Instant,
    /// Everything that was sent, in order.
    pub sent: Vec<Wire>,
    /// Points passed so far, and those at which a slot dies.
    pub points: u64,
    pub deaths: Vec<u64>,
    pub died: u32,
    /// Tells the calls of one run of a script from those of another in the same arena.
    pub run: u32,
    /// Participants of the dead, which do nothing any more but keep the arena, until the world ends.
    ghosts: Vec<Participant>,
    /// What we sent to ourselves.
    looped: Vec<Packet>,
    /// What did not leave, and is to be told with the next turn.
    failed: Vec<(usize, u32, SocketAddr, Option<usize>)>,
    /// Questions to the media engine that it has not answered, and whose they are.
    media: VecDeque<(usize, MediaAsk)>,
    /// What was said about hops is shown.
    pub hops: bool,
    log: String,
    shown: Vec<String>,
    named: HashMap<String, usize>,
    counted: Vec<u64>,
}

pub struct Slot {
    pub number: u16,
    pub participant: Participant,
    pub proxy: Proxy,
    pub out: Outputs,
    pub wheel: BTreeSet<(Instant, u64)>,
    pub turn: u64,
    /// What an heir finds in the slot's header.
    turn_done: u64,
    /// Datagrams that were read and not given back: an heir finds them.
    journal: Vec<Packet>,
    /// What this turn will send.
    unsent: Vec<Wire>,
    /// Questions that wait for the test.
    pub held: Vec<Ask>,
}

/// A datagram that somebody sent to us.
#[derive(Clone, Debug)]
pub struct Packet {
    pub bytes: Rc<[u8]>,
    pub source: SocketAddr,
    pub listener: u32,
}

impl Packet {
    pub fn datagram(&self) -> Datagram<'_> {
        Datagram {
            bytes: &self.bytes,
            source: self.source,
            listener: self.listener.into(),
            truncated: false,
        }
    }
}

/// A datagram that we sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    pub listener: u32,
    pub to: SocketAddr,
    pub text: String,
}

/// The slot at hand has died.
pub struct Died;

pub fn settings() -> Settings {
    Settings {
        version: 1,
        listeners: vec![
            Listener::new(1, "10.9.9.9:5060".parse().unwrap(), None),
            Listener::new(2, "10.8.8.8:5070".parse().unwrap(), None),
        ],
        addresses: proxy::Addresses::default(),
        domains: vec![Domain::new("example.org", true)],
        timers: transaction::Timers::default(),
        timer_c: Duration::from_secs(190),
        registrar: registrar::Policy::default(),
        dialog_key: stdx::hash::Key([9; 16]),
        hiding: proxy::Hiding::of_key(&stdx::hash::Key([9; 16])),
        auth: proxy::AuthPolicy::default(),
        branches_max: 12,
        forking: proxy::Forking::default(),
        media: Vec::new(),
    }
}

fn agents() -> Vec<Agent> {
    let agent = |name, address: &str| Agent::new(name, address, address, 1);
    vec![
        agent("alice", "10.0.0.1:5060"),
        agent("bob", "10.0.0.2:5060"),
        agent("bob2", "10.0.0.3:5060"),
        agent("bob3", "10.0.0.4:5060"),
        agent("carol", "10.0.0.5:5060"),
        agent("trunk", "10.0.0.9:5060"),
        // On the other side, by the other listener.
        Agent::new("iris", "10.1.0.1:5060", "10.1.0.1:5060", 2),
        // Behind a NAT that changes address and port.
        Agent::new("nat", "192.168.1.5:5060", "203.0.113.7:40000", 1),
    ]
}

impl World {
    pub fn new(slots: u16) -> Self {
        Self::with(slots, 16 << 20)
    }

    pub fn with(slots: u16, limit: u64) -> Self {
        let mut layout = Layout::new(limit, slots, 1, TABLES);
        layout.rx_buffers = 4;
        layout.rx_buffer_bytes = 1024;
        layout.limit = layout.limit.max(layout.least_limit());
        let arena = Arena::heap(&layout, [7; 16]).expect("an arena");
        let settings = Arc::new(settings());
        let now = Instant::ZERO + Duration::from_secs(1000);
        let slots = (0..slots)
            .map(|number| Slot {
                number,
                participant: {
                    let mut participant = arena.participant(ParticipantId(number));
                    participant.online();
                    participant
                },
                proxy: Proxy::new(number, arena.key(), Arc::clone(&settings)),
                out: Outputs::default(),
                wheel: BTreeSet::new(),
                turn: 0,
                turn_done: 0,
                journal: Vec::new(),
                unsent: Vec::new(),
                held: Vec::new(),
            })
            .collect();
        Self {
            arena,
            settings,
            policy: Policy::default(),
            slots,
            agents: agents(),
            now,
            sent: Vec::new(),
            points: 0,
            deaths: Vec::new(),
            died: 0,
            run: 0,
            ghosts: Vec::new(),
            looped: Vec::new(),
            failed: Vec::new(),
            media: VecDeque::new(),
            hops: false,
            log: String::new(),
            shown: Vec::new(),
            named: HashMap::new(),
            counted: vec![0; Counter::ALL.len()],
        }
    }

    /// Changes the configuration of every slot.
    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = (*self.settings).clone();
        change(&mut settings);
        self.settings = Arc::new(settings);
        for slot in &mut self.slots {
            slot.proxy.configure(Arc::clone(&self.settings));
        }
    }

    pub fn agent(&mut self, name: &str) -> &mut Agent {
        self.agents
            .iter_mut()
            .find(|agent| agent.name == name)
            .unwrap_or_else(|| panic!("who is {name}?"))
    }

    /// Whether the slot dies here.
    fn point(&mut self) -> Result<(), Died> {
        self.points += 1;
        if self.deaths.contains(&self.points) {
            return Err(Died);
        }
        Ok(())
    }

    /// One machine input.
    pub fn step(&mut self, slot: usize, input: Input<'_>) -> Disposition {
        let now = self.now;
        let slot = &mut self.slots[slot];
        let mut env = Env {
            now,
            turn: slot.turn,
            arena: &mut slot.participant,
        };
        slot.proxy.step(&mut env, input, &mut slot.out)
    }

    pub fn settle(&mut self, slot: usize, at_hand: Option<Datagram<'_>>) -> Disposition {
        let now = self.now;
        let slot = &mut self.slots[slot];
        let mut env = Env {
            now,
            turn: slot.turn,
            arena: &mut slot.participant,
        };
        slot.proxy.settle(&mut env, at_hand, &mut slot.out)
    }

    /// Answers one question as the policy says. False if there is no such question any more.
    pub fn answer(&mut self, slot: usize, ask: Ask, at_hand: Option<Datagram<'_>>) -> bool {
        let now = self.now;
        let place = slot;
        let slot = &mut self.slots[slot];
        let env = Env {
            now,
            turn: slot.turn,
            arena: &mut slot.participant,
        };
        let (policy, settings) = (&self.policy, &self.settings);
        let answer = slot.proxy.question(&env, ask.id, at_hand, |question| {
            policy.answer(ask.kind, &question, settings)
        });
        let Some(answer) = answer else {
            return false;
        };
        self.step(
            place,
            Input::Answer {
                id: ask.id,
                answer,
                at_hand,
            },
        );
        true
    }

    /// Answers what is asked until nothing is, except what is held back.
    pub fn answer_asks(&mut self, slot: usize, at_hand: Option<Datagram<'_>>) -> Result<(), Died> {
        while let Some(ask) = self.slots[slot].out.asks.pop() {
            if self.policy.holds(ask.kind) {
                self.slots[slot].held.push(ask);
                let count = self.slots[slot].held.len();
                self.note(&format!("? {count} {}", policy::kind_name(ask.kind)));
                continue;
            }
            self.answer(slot, ask, at_hand);
            self.point()?;
        }
        Ok(())
    }

    /// Gives what was settled to the driver and the wheel.
    pub fn dispatch(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        for send in &slot.out.sends {
            slot.unsent.push(Wire {
                listener: send.listener.id,
                to: send.to,
                text: String::from_utf8_lossy(slot.out.text(send)).into_owned(),
            });
        }
        for &(deadline, id) in &slot.out.arms {
            slot.wheel.insert((deadline, id.pack()));
        }
        let place = usize::from(slot.number);
        self.media
            .extend(slot.out.media.drain(..).map(|ask| (place, ask)));
        for id in slot.out.media_ended.drain(..) {
            engine::free(&mut slot.participant, id);
        }
        let hops = std::mem::take(&mut slot.out.hops);
        assert!(slot.out.asks.is_empty(), "every question was taken");
        slot.out.clear();
        for (to, state) in hops {
            if self.hops {
                self.note(&format!("hop {to} {state:?}"));
            }
        }
    }

    /// Goes on with a take-over to its end.
    pub fn adopt_all(&mut self, slot: usize) {
        while self.slots[slot].proxy.is_adopting() {
            self.turn(slot, |_| Ok(()));
        }
    }

    /// Datagrams come to a slot, all in one turn.
    pub fn deliver(&mut self, slot: usize, packets: Vec<Packet>) {
        self.slots[slot].journal.extend(packets.iter().cloned());
        let mut mail = Vec::new();
        self.turn(slot, |world| {
            for packet in &packets {
                world.serve(slot, packet, &mut mail)?;
            }
            Ok(())
        });
        self.post(mail);
    }

    /// Mail to other slots is read in a turn of theirs.
    fn post(&mut self, mail: Vec<(usize, Packet)>) {
        for (to, packet) in mail {
            self.note(&format!("to slot {to}"));
            let mut more = Vec::new();
            // It is in the journal of the slot that has to serve it already.
            self.turn(to, |world| world.serve(to, &packet, &mut more));
            self.post(more);
        }
    }

    fn turn(&mut self, slot: usize, work: impl FnOnce(&mut Self) -> Result<(), Died>) {
        let it = &mut self.slots[slot];
        it.turn += 1;
        it.participant.quiescent();
        let mut env = Env {
            now: self.now,
            turn: it.turn,
            arena: &mut it.participant,
        };
        // Two rows a turn, so that messages meet records which are not taken over yet.
        it.proxy.adopt_more(&mut env, 2, &mut it.out);
        let adopted = self.answer_asks(slot, None).map(|()| {
            self.settle(slot, None);
            self.dispatch(slot);
        });
        let done = adopted
            .and_then(|()| work(self))
            .and_then(|()| self.submit(slot));
        let died = done.is_err();
        if died {
            self.die(slot);
        }
        for (slot, listener, to, too_long) in std::mem::take(&mut self.failed) {
            self.fail(slot, listener, to, too_long);
        }
        let looped = std::mem::take(&mut self.looped);
        if !looped.is_empty() {
            self.deliver(slot, looped);
        }
        if died {
            // An heir waits a little for signs that requests went out, before it sends them again; so does the script.
            self.pass(Duration::from_millis(150));
        }
        self.run_engine();
    }

    /// The kernel says that a datagram did not leave.
    fn fail(&mut self, slot: usize, listener: u32, to: SocketAddr, too_long: Option<usize>) {
        self.turn(slot, |world| {
            world.point()?;
            world.step(
                slot,
                Input::Unreachable {
                    listener,
                    to,
                    too_long,
                },
            );
            world.answer_asks(slot, None)?;
            world.settle(slot, None);
            world.point()?;
            world.dispatch(slot);
            Ok(())
        });
    }

    fn serve(
        &mut self,
        slot: usize,
        packet: &Packet,
        mail: &mut Vec<(usize, Packet)>,
    ) -> Result<(), Died> {
        let datagram = packet.datagram();
        let mut disposition = Disposition::Again;
        for _ in 0..TRIES_MAX {
            self.point()?;
            disposition = self.step(slot, Input::Datagram(datagram));
            if disposition == Disposition::Served {
                self.answer_asks(slot, Some(datagram))?;
                self.point()?;
                disposition = self.settle(slot, Some(datagram));
            }
            if disposition != Disposition::Again {
                break;
            }
        }
        self.point()?;
        match disposition {
            Disposition::Owner(owner) if usize::from(owner) != slot => {
                // One word in the arena: from one journal to the other.
                let at = self.slots[slot]
                    .journal
                    .iter()
                    .position(|other| Rc::ptr_eq(&other.bytes, &packet.bytes));
                if let Some(at) = at {
                    let packet = self.slots[slot].journal.remove(at);
                    self.slots[usize::from(owner)].journal.push(packet.clone());
                    mail.push((usize::from(owner), packet));
                }
            }
            Disposition::Unserved => self.note("unserved"),
            Disposition::Again => self.note("still again"),
            _ => {}
        }
        self.dispatch(slot);
        Ok(())
    }

    /// The turn's sends go out one by one, then the turn is done.
    fn submit(&mut self, slot: usize) -> Result<(), Died> {
        while !self.slots[slot].unsent.is_empty() {
            self.point()?;
            let wire = self.slots[slot].unsent.remove(0);
            let len = wire.text.len();
            let narrow = self.policy.narrow.get(&wire.to);
            let too_long = narrow.is_some_and(|&most| len > most).then_some(len);
            if self.policy.unreachable.contains(&wire.to) || too_long.is_some() {
                self.failed.push((slot, wire.listener, wire.to, too_long));
                continue;
            }
            self.arrive(wire);
        }
        self.point()?;
        let slot = &mut self.slots[slot];
        slot.turn_done = slot.turn;
        slot.journal.clear();
        self.point()
    }

    /// The slot's worker dies: its heap is gone. An heir takes over at once.
    pub fn die(&mut self, slot: usize) {
        loop {
            self.died += 1;
            if self.take_over(slot).is_ok() {
                return;
            }
        }
    }

    fn take_over(&mut self, slot: usize) -> Result<(), Died> {
        let now = self.now;
        let number = self.slots[slot].number;
        let it = &mut self.slots[slot];
        // No destructor runs in a worker that was killed.
        self.ghosts.push(std::mem::replace(
            &mut it.participant,
            self.arena.participant(ParticipantId(number)),
        ));
        it.participant.recover(ParticipantId(number));
        it.participant.online();
        it.turn += 1;
        it.wheel.clear();
        it.unsent.clear();
        // What the kernel said to the dead worker.
        self.failed.retain(|failed| failed.0 != slot);
        it.held.clear();
        self.media.retain(|waiting| waiting.0 != slot);
        it.out = Outputs::default();
        it.proxy = Proxy::new(number, self.arena.key(), Arc::clone(&self.settings));
        let mut env = Env {
            now,
            turn: it.turn,
            arena: &mut it.participant,
        };
        it.proxy.adopt(&mut env, it.turn_done, &mut it.out);
        self.point()?;
        self.answer_asks(slot, None)?;
        // What was resumed is sent within this turn, before the turn counts as done.
        let now = self.now;
        let arms = std::mem::take(&mut self.slots[slot].out.arms);
        let (due, later) = arms
            .into_iter()
            .partition::<Vec<_>, _>(|&(at, _)| at <= now);
        self.slots[slot].out.arms = later;
        for (_, id) in due {
            self.step(slot, Input::Tick(id));
            self.point()?;
        }
        self.answer_asks(slot, None)?;
        self.settle(slot, None);
        self.point()?;
        self.dispatch(slot);
        let mut mail = Vec::new();
        for packet in self.slots[slot].journal.clone() {
            self.serve(slot, &packet, &mut mail)?;
        }
        self.submit(slot)?;
        self.post(mail);
        Ok(())
    }

    /// Serves what is due, one timer a turn, as late as it may be.
    pub fn tick(&mut self, slot: usize) {
        while let Some(&(at, id)) = self.slots[slot].wheel.first()
            && at <= self.now
        {
            self.slots[slot].wheel.pop_first();
            self.turn(slot, |world| {
                world.point()?;
                world.step(slot, Input::Tick(ContextId::unpack(id)));
                world.answer_asks(slot, None)?;
                world.point()?;
                world.settle(slot, None);
                world.point()?;
                world.dispatch(slot);
                Ok(())
            });
        }
    }

    /// Lets time pass, timer by timer.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            // An heir does not sleep before it has everything.
            for place in 0..self.slots.len() {
                self.adopt_all(place);
            }
            let next = self
                .slots
                .iter()
                .enumerate()
                .filter_map(|(place, slot)| Some((slot.wheel.first()?.0, place)))
                .min();
            let due = self.next_dialog();
            match (next, due) {
                (Some((at, place)), due) if at <= end && due.is_none_or(|due| at <= due) => {
                    self.now = self.now.max(at);
                    self.tick(place);
                }
                (_, Some(due)) if due <= end => {
                    self.now = self.now.max(due);
                    self.attend_dialogs();
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// When something is to be done about a dialog next.
    pub fn next_dialog(&self) -> Option<Instant> {
        let mut next = None;
        self.slots[0].participant.rows(DIALOG, |record| {
            next = [next, record.expires_at].into_iter().flatten().min();
        });
        next
    }

    /// Every slot looks after the dialogs in its rows.
    fn attend_dialogs(&mut self) {
        for slot in 0..self.slots.len() {
            let mut due = Vec::new();
            let participant = &mut self.slots[slot].participant;
            Dialogs(participant).due(self.now, Cursor::default(), usize::MAX, |row| due.push(row));
            for row in due {
                self.turn(slot, |world| {
                    world.point()?;
                    world.step(slot, Input::Due(row));
                    world.answer_asks(slot, None)?;
                    world.point()?;
                    world.settle(slot, None);
                    world.point()?;
                    world.dispatch(slot);
                    Ok(())
                });
            }
        }
    }

    /// Calls that count in the profile of every call, and dialogs on record that have not ended.
    pub fn calls(&mut self) -> (u64, u64) {
        let participant = &mut self.slots[0].participant;
        let key = policy::every_call();
        let counted = Balancer(participant)
            .find(&key)
            .map_or(0, |found| found.live);
        let mut dialogs = 0;
        participant.rows(DIALOG, |record| {
            let view = tables::dialog::View::new(&record).expect("a dialog");
            dialogs += u64::from(view.state != DialogState::Ended);
        });
        (counted, dialogs)
    }

    /// Every destination has as many calls as are answered there, and no seat is left over.
    fn check_seats(&mut self) {
        let mut at = std::collections::BTreeMap::<Vec<u8>, u64>::new();
        let participant = &mut self.slots[0].participant;
        participant.rows(DIALOG, |record| {
            let dialog = tables::dialog::View::new(&record).expect("a dialog").take();
            if dialog.state != DialogState::Ended && !dialog.destination.is_empty() {
                *at.entry(dialog.destination).or_default() += 1;
            }
        });
        let mut live = std::collections::BTreeMap::new();
        let all = usize::MAX;
        Balancer(participant).scan(Cursor::default(), all, |found| {
            if found.key.kind() == Some(ResourceKind::Destination) && found.live > 0 {
                live.insert(found.key.as_bytes().to_vec(), found.live);
            }
        });
        assert_eq!(live, at, "seats");
    }

    /// The dialogs on record, as the operator sees them.
    fn show_calls(&mut self) {
        let mut lines = Vec::new();
        self.slots[0].participant.rows(DIALOG, |record| {
            let dialog = tables::dialog::View::new(&record).expect("a dialog").take();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let mut line = format!(
                "{:?} {} {} {} -> {} {}",
                dialog.state,
                text(&dialog.call_id),
                text(&dialog.caller.target),
                dialog.caller.cseq,
                text(&dialog.callee.target),
                dialog.callee.cseq,
            );
            if !dialog.destination.is_empty() {
                line.push_str(&format!(
                    " at {}",
                    text(&dialog.destination[1..]).replace('\0', " ")
                ));
            }
            if let Some(until) = dialog.session_until {
                let left = until.saturating_duration_since(self.now).as_secs();
                line.push_str(&format!(
                    " session {} s left {left} s",
                    dialog.session_interval
                ));
            }
            if dialog.probes_failed != 0 {
                line.push_str(&format!(" missed {:#x}", dialog.probes_failed));
            }
            lines.push(line);
        });
        lines.sort();
        for line in lines {
            let line = self.symbolic(&line);
            self.note(&line);
        }
    }

    /// The operator ends every call.
    fn end_calls(&mut self) {
        let mut rows = Vec::new();
        let participant = &mut self.slots[0].participant;
        participant.rows(DIALOG, |record| rows.push(record.row));
        for row in rows {
            // One that has ended has nothing to end.
            let _ = Dialogs(participant).ask_to_end(row, self.now);
        }
        self.pass(Duration::ZERO);
    }

    /// The whole dialog table is lost.
    pub fn forget_dialogs(&mut self) {
        let participant = &mut self.slots[0].participant;
        let mut rows = Vec::new();
        participant.rows(DIALOG, |record| rows.push(record.row));
        for row in rows {
            Dialogs(participant).end(row);
        }
    }

    /// A datagram of ours reaches its agent.
    fn arrive(&mut self, wire: Wire) {
        let by = if wire.listener == 1 {
            String::new()
        } else {
            format!(" by {}", wire.listener)
        };
        let summary = self.summary(&wire.text);
        if let Some(listener) = self
            .settings
            .listeners
            .iter()
            .find(|listener| listener.address == wire.to)
        {
            let source = self
                .settings
                .listener(wire.listener)
                .map(|from| from.address);
            self.looped.push(Packet {
                bytes: Rc::from(wire.text.as_bytes()),
                source: source.unwrap_or(wire.to),
                listener: listener.id,
            });
            self.note(&format!("us < {summary}{by}"));
            self.sent.push(wire);
            return;
        }
        let known = self
            .agents
            .iter_mut()
            .find(|agent| agent.source == wire.to || agent.address == wire.to);
        let (name, again) = match known {
            None => (wire.to.to_string(), false),
            Some(agent) => {
                let again = agent
                    .inbox
                    .iter()
                    .rev()
                    .take(64)
                    .any(|text| *text == wire.text);
                agent.inbox.push(wire.text.clone());
                (agent.name.to_owned(), again)
            }
        };
        let again = if again { " again" } else { "" };
        self.note(&format!("{name} < {summary}{by}{again}"));
        if self.shown.iter().any(|show| show == "Body") {
            let body = wire.text.split_once("\r\n\r\n").map_or("", |parts| parts.1);
            self.log.push_str(&format!("        Body: {body}\n"));
        }
        for show in self.shown.clone() {
            for value in agent::headers(&wire.text, &show) {
                let value = self.symbolic(value);
                self.log.push_str(&format!("        {show}: {value}\n"));
            }
        }
        self.sent.push(wire);
    }

    fn summary(&mut self, text: &str) -> String {
        let line = text.lines().next().unwrap_or_default();
        let line = match agent::code(text) {
            Some(code) => format!(
                "{code} {}",
                agent::header(text, "CSeq")
                    .split(' ')
                    .nth(1)
                    .unwrap_or_default()
            ),
            None => line.trim_end_matches(" SIP/2.0").to_owned(),
        };
        self.symbolic(&line)
    }

    /// Text with what depends on hashes, rows and runs named in the order of its appearance.
    pub fn symbolic(&mut self, text: &str) -> String {
        let mut text = text.replace(&format!(".{}", self.run_mark()), "");
        for (begins, sign, bytes) in [
            ("z9hG4bKt", "#", 39),
            ("z9hG4bKs", "#s", 39),
            (";tag=", ";tag=%", 13),
            (";td=", ";td=%", 13),
            (";td=", ";td=%", 26),
            ("nonce=\"", "nonce=\"*", 0),
        ] {
            let mut from = 0;
            while let Some(at) = text[from..].find(begins).map(|at| from + at) {
                let start = at + begins.len();
                let end = text[start..]
                    .find(|c: char| !c.is_ascii_alphanumeric() && bytes > 0 || c == '"')
                    .map_or(text.len(), |end| start + end);
                from = start;
                if bytes > 0 && end - start != bytes {
                    continue;
                }
                let number = match sign {
                    "#" | "#s" => {
                        let next = self.named.len() + 1;
                        self.named
                            .entry(text[at..end].to_owned())
                            .or_insert(next)
                            .to_string()
                    }
                    _ => String::new(),
                };
                text.replace_range(at..end, &format!("{sign}{number}"));
                from = at + sign.len();
            }
        }
        // Sealed tokens: what they hold is told by where they lead.
        let mut from = 0;
        while let Some(at) = text[from..].find("th-").map(|at| from + at + 3) {
            let end = text[at..]
                .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'))
                .map_or(text.len(), |end| at + end);
            text.replace_range(at..end, "%");
            from = at;
        }
        text
    }

    fn run_mark(&self) -> String {
        format!("r{}", self.run)
    }

    fn note(&mut self, line: &str) {
        self.log.push_str("    ");
        self.log.push_str(line);
        self.log.push('\n');
    }

    /// How a counter stands, over all slots.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.arena.counters().total(counter.cell())
    }

    /// After time enough for every timer nothing may be left.
    pub fn quiet(&mut self) {
        self.policy.held.clear();
        self.run_engine();
        for slot in 0..self.slots.len() {
            self.release(slot, false);
        }
        self.pass(Duration::from_secs(500));
        for slot in &self.slots {
            assert_eq!(
                slot.proxy.len(),
                0,
                "slot {} has contexts left",
                slot.number
            );
        }
        assert_eq!(
            self.arena.live_rows(TRANSACTION),
            0,
            "transactions are left"
        );
        let (counted, dialogs) = self.calls();
        assert_eq!(counted, dialogs, "calls are counted as they are");
        self.check_seats();
        self.check_media();
        let answered = {
            let mut answered = 0;
            self.slots[0].participant.rows(DIALOG, |record| {
                let view = tables::dialog::View::new(&record).expect("a dialog");
                answered += u64::from(view.state == DialogState::Confirmed);
            });
            answered
        };
        assert_eq!(answered, dialogs, "only answered calls go on");
        self.audit();
    }

    /// Every invariant of the arena holds, and nothing is lost in it.
    pub fn audit(&mut self) {
        // What was in the limbo of the dead is found by the owner of the memory.
        for slot in &mut self.slots {
            slot.participant.quiescent();
            slot.participant.scrub(u32::MAX);
        }
        for _ in 0..64 {
            for slot in &mut self.slots {
                slot.participant.quiescent();
            }
        }
        assert_eq!(shm::audit(&self.arena, true), []);
    }

    /// Answers a question in a turn of its own.
    pub fn answer_late(&mut self, slot: usize, ask: Ask) {
        self.turn(slot, |world| {
            world.point()?;
            if !world.answer(slot, ask, None) {
                world.note("no such question");
            }
            world.point()?;
            world.answer_asks(slot, None)?;
            world.settle(slot, None);
            world.point()?;
            world.dispatch(slot);
            Ok(())
        });
    }

    /// Answers everything that is held back, in the order in which it was asked or the other way round.
    pub fn release(&mut self, slot: usize, backwards: bool) {
        while !self.slots[slot].held.is_empty() {
            let at = if backwards {
                self.slots[slot].held.len() - 1
            } else {
                0
            };
            let ask = self.slots[slot].held.remove(at);
            self.answer_late(slot, ask);
        }
    }

    /// Everything as at the start, in the same arena: what is left over from the last run would be a leak.
    pub fn start_over(&mut self) {
        self.run += 1;
        self.sent.clear();
        self.named.clear();
        self.shown.clear();
        self.deaths.clear();
        self.points = 0;
        self.died = 0;
        self.policy = Policy::default();
        self.failed.clear();
        self.media.clear();
        self.hops = false;
        for agent in &mut self.agents {
            agent.start_over();
        }
        self.forget(LOCATION);
        self.forget(MEDIA);
        let mut rows = Vec::new();
        self.slots[0]
            .participant
            .rows(DIALOG, |record| rows.push(record.row));
        for row in rows {
            Dialogs(&mut self.slots[0].participant).end(row);
        }
    }

    /// Sends what was dispatched outside a turn.
    pub fn flush(&mut self) {
        for slot in 0..self.slots.len() {
            self.turn(slot, |_| Ok(()));
        }
    }

    /// Every invariant that holds at any time.
    pub fn audit_running(&self) {
        assert_eq!(shm::audit(&self.arena, false), []);
    }

    /// Removes a table's records, for the next run.
    fn forget(&mut self, table: TableId) {
        let mut rows = Vec::new();
        self.slots[0]
            .participant
            .rows(table, |record| rows.push(record.row));
        for row in rows {
            self.slots[0].participant.remove(row, None);
        }
    }
}
