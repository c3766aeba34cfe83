//! A small world around the machine: slots over one arena, a clock that the script moves, user agents, and deaths at every step.
//!
//! A slot is driven as a worker's reactor drives it: a turn serves datagrams or due timers (step, answers, settle), then sends,
//! then notes itself as done and gives the datagrams back. [`World::point`] stands between any two of these; a death there takes
//! everything on the heap, and an heir recovers the slot, adopts its records, serves the journal and goes on.

pub mod agent;
mod books;
mod calls;
pub mod engine;
pub mod policy;
mod script;
mod turns;
mod wires;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use proxy::{Ask, Datagram, Domain, Listener, MediaAsk, Outputs, Proxy, Settings};
use shm::{Arena, Layout, Participant, ParticipantId, TableId};
use stdx::Instant;
use tables::{
    CDR, Counter, DIALOG, Dialogs, LOCATION, MEDIA, TABLES, TRANSACTION, dialog::DialogState,
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
        self.forget(CDR);
        let mut rows = Vec::new();
        self.slots[0]
            .participant
            .rows(DIALOG, |record| rows.push(record.row));
        for row in rows {
            Dialogs(&mut self.slots[0].participant).end(row);
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
