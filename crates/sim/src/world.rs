//! The world: one clock, a queue of what is to happen, the network, the server, and addresses out there.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use proxy::{Domain, Listener, Settings};
use shm::Arena;
use stdx::{Instant, Rng};
use tables::Counter;

use crate::{
    death::Aim,
    network::{Network, Packet},
    policy::Policy,
    server::{Ran, Server, Spread},
};

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Config {
    pub workers: u16,
    /// Slots of each worker.
    pub reactors: u16,
    pub settings: Settings,
    pub network: Network,
    pub policy: Policy,
    pub spread: Spread,
    /// Bytes of the arena; 0: as few as it works with.
    pub memory: u64,
    /// How long it takes from a death until an heir begins, at most.
    pub heir_after: Duration,
    /// How often a slot looks for expired rows and lost memory.
    pub housekeeping: Duration,
    /// Keep a [`Note`] of everything.
    pub notes: bool,
}

impl Default for Config {
    /// Two workers with a slot each, two listeners, `example.org`, a network without a fault.
    fn default() -> Self {
        Self {
            workers: 2,
            reactors: 1,
            settings: Settings {
                version: 1,
                listeners: vec![
                    Listener::new(1, "10.9.9.9:5060".parse().expect("an address"), None),
                    Listener::new(2, "10.8.8.8:5070".parse().expect("an address"), None),
                ],
                addresses: proxy::Addresses::default(),
                domains: vec![Domain::new("example.org", true)],
                timers: transaction::Timers::default(),
                timer_c: Duration::from_secs(190),
                registrar: registrar::Policy::default(),
                auth: proxy::AuthPolicy::default(),
                dialog_key: stdx::hash::Key([9; 16]),
                hiding: proxy::Hiding::of_key(&stdx::hash::Key([9; 16])),
                branches_max: 12,
                forking: proxy::Forking::default(),
                media: Vec::new(),
            },
            network: Network::default(),
            policy: Policy::default(),
            spread: Spread::Flow,
            memory: 0,
            heir_after: Duration::from_millis(5),
            housekeeping: Duration::from_secs(2),
            notes: false,
        }
    }
}

/// Somebody out there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub usize);

/// What happened, for whoever writes it down.
#[derive(Clone, Debug)]
pub enum Note {
    /// Somebody sent a datagram, which may get lost.
    Said(Packet),
    /// A datagram has come to the server; the slot that reads it.
    In(Packet, u16),
    /// The server has sent a datagram.
    Out(Packet, u16),
    /// A datagram has come to a peer.
    Reached(Packet),
    /// A datagram was lost on its way.
    Lost(Packet),
    /// What was sent last did not leave: the kernel knows no way there.
    NoWay(Packet),
    /// A worker has died, at this point of one of its slots.
    Died { worker: u16, at: &'static str },
    /// An heir has taken a worker's slots over.
    Heir { worker: u16 },
    /// Something else worth a line.
    Remark(String),
}

/// What a peer has to deal with.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A datagram has come to it.
    Delivered(PeerId, Packet),
    /// A time that was asked for by [`World::alarm`] has come.
    Alarm(u64),
}

enum Event {
    ToServer(Packet),
    ToPeer(PeerId, Packet),
    Wake(u16),
    Heir(u16),
    Alarm(u64),
}

struct Entry {
    at: Instant,
    /// In the order in which they were put in, at the same time.
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

struct Peer {
    address: SocketAddr,
    inbox: VecDeque<(Instant, Packet)>,
}

/// The world, see the head of this crate.
pub struct World {
    pub network: Network,
    pub policy: Policy,
    pub rng: Rng,
    now: Instant,
    server: Server,
    /// How far the server's clock is ahead of the world's.
    ahead: Duration,
    heir_after: Duration,
    peers: Vec<Peer>,
    by_address: HashMap<SocketAddr, PeerId>,
    queue: BinaryHeap<Reverse<Entry>>,
    number: u64,
    /// When each slot is to be run next.
    wakes: Vec<Instant>,
    notes: Option<Vec<(Instant, Note)>>,
    deaths: u64,
}

impl World {
    /// A world whose whole future, as far as it is not said otherwise, is the seed.
    pub fn new(seed: u64, config: Config) -> Self {
        let mut rng = Rng::new(seed);
        let mut key = [0; 16];
        for part in key.chunks_exact_mut(8) {
            part.copy_from_slice(&rng.next_u64().to_le_bytes());
        }
        let mut server = Server::new(
            config.settings,
            config.workers,
            config.reactors,
            config.memory,
            key,
        );
        server.spread = config.spread;
        server.housekeeping = config.housekeeping;
        server.nowhere = config.network.nowhere.clone();
        let slots = server.seats.len();
        let mut world = Self {
            network: config.network,
            policy: config.policy,
            rng,
            now: Instant::ZERO + Duration::from_secs(1000),
            server,
            ahead: Duration::ZERO,
            heir_after: config.heir_after,
            peers: Vec::new(),
            by_address: HashMap::new(),
            queue: BinaryHeap::new(),
            number: 0,
            wakes: vec![Instant::MAX; slots],
            notes: config.notes.then(Vec::new),
            deaths: 0,
        };
        for worker in 0..config.workers {
            world.heir(worker);
        }
        world
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    /// Somebody at this address, who does only what the caller has them do.
    pub fn peer(&mut self, address: SocketAddr) -> PeerId {
        *self.by_address.entry(address).or_insert_with(|| {
            self.peers.push(Peer {
                address,
                inbox: VecDeque::new(),
            });
            PeerId(self.peers.len() - 1)
        })
    }

    pub fn address(&self, peer: PeerId) -> SocketAddr {
        self.peers[peer.0].address
    }

    /// Has a peer send a datagram now.
    pub fn send(&mut self, from: PeerId, to: SocketAddr, bytes: &[u8]) {
        let packet = Packet {
            from: self.address(from),
            to,
            bytes: Rc::from(bytes),
        };
        self.note(|| Note::Said(packet.clone()));
        self.carry(packet);
    }

    /// What has come to a peer while [`World::run_until`] ran, oldest first.
    pub fn receive(&mut self, peer: PeerId) -> Option<(Instant, Packet)> {
        self.peers[peer.0].inbox.pop_front()
    }

    /// Asks for [`Happening::Alarm`] at this time.
    pub fn alarm(&mut self, at: Instant, token: u64) {
        self.push(at, Event::Alarm(token));
    }

    /// Lets time pass up to here; what comes to peers waits for [`World::receive`].
    pub fn run_until(&mut self, end: Instant) {
        while let Some(happening) = self.step(end) {
            if let Happening::Delivered(peer, packet) = happening {
                let now = self.now;
                self.peers[peer.0].inbox.push_back((now, packet));
            }
        }
    }

    /// [`World::run_until`] this much later.
    pub fn pass(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Goes on until something happens to a peer, which the caller has to deal with; `None`: nothing has until `end`, which is now.
    pub fn step(&mut self, end: Instant) -> Option<Happening> {
        loop {
            match self.queue.peek() {
                Some(Reverse(entry)) if entry.at <= end => {}
                _ => {
                    self.now = self.now.max(end);
                    return None;
                }
            }
            let Reverse(entry) = self.queue.pop()?;
            self.now = self.now.max(entry.at);
            match entry.event {
                Event::ToPeer(peer, packet) => {
                    self.note(|| Note::Reached(packet.clone()));
                    return Some(Happening::Delivered(peer, packet));
                }
                Event::Alarm(token) => return Some(Happening::Alarm(token)),
                Event::ToServer(packet) => self.arrive(packet),
                Event::Wake(slot) => self.run_slot(slot),
                Event::Heir(worker) => self.heir(worker),
            }
        }
    }

    /// Kills a worker at once, between two turns of its slots. An heir follows.
    pub fn kill(&mut self, worker: u16) {
        self.die(worker, "kill");
    }

    /// Has a slot's worker die at a point, the next time that it comes there. Points are those of the crate `slot` (see [`Aim::At`]).
    pub fn kill_at(&mut self, slot: u16, aim: Aim) {
        if let Some(seat) = self.server.seats.get_mut(usize::from(slot)) {
            seat.aim = Some(aim);
        }
    }

    /// A slot does not run for so long.
    pub fn stall(&mut self, slot: u16, time: Duration) {
        if let Some(seat) = self.server.seats.get_mut(usize::from(slot)) {
            seat.stalled_until = seat.stalled_until.max(self.now + time);
        }
        self.note(|| Note::Remark(format!("slot {slot} stands still for {time:?}")));
    }

    /// The server's clock goes forward by this much.
    pub fn jump(&mut self, by: Duration) {
        self.ahead += by;
        self.note(|| Note::Remark(format!("the clock goes forward by {by:?}")));
        for slot in 0..self.slots() {
            self.wake(slot, self.now);
        }
    }

    pub fn slots(&self) -> u16 {
        u16::try_from(self.server.seats.len()).unwrap_or(u16::MAX)
    }

    pub fn workers(&self) -> u16 {
        self.slots() / self.server.reactors
    }

    /// How many workers have died.
    pub fn deaths(&self) -> u64 {
        self.deaths
    }

    pub fn settings(&self) -> &Settings {
        &self.server.settings
    }

    pub fn arena(&self) -> &Arena {
        &self.server.arena
    }

    /// What is wrong with the deaths that were counted against messages; each fault once.
    pub fn miscounted(&mut self) -> Vec<String> {
        std::mem::take(&mut self.server.cases.wrong)
    }

    /// How a counter stands, over all slots.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.server.arena.counters().total(counter.cell())
    }

    /// Datagrams that were lost because a socket was full.
    pub fn overflowed(&self) -> u64 {
        self.server.overflowed
    }

    /// Transactions on the heaps of all slots.
    pub fn contexts(&self) -> usize {
        let slots = self
            .server
            .seats
            .iter()
            .filter_map(|seat| seat.slot.as_ref());
        slots.map(|slot| slot.transactions()).sum()
    }

    /// Whether every slot has a living worker.
    pub fn all_alive(&self) -> bool {
        self.server.seats.iter().all(|seat| seat.slot.is_some())
    }

    /// The first slot that lives, as a participant of the arena: for looking at tables.
    pub fn participant(&mut self) -> Option<&mut shm::Participant> {
        let mut slots = self.server.seats.iter_mut();
        slots
            .find_map(|seat| seat.slot.as_mut())
            .map(|slot| slot.participant())
    }

    /// Takes the notes so far.
    pub fn notes(&mut self) -> Vec<(Instant, Note)> {
        self.notes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What is wrong with the arena. `settled`: nothing is under way, and what lost memory there was has been swept up.
    pub fn audit(&mut self, settled: bool) -> Vec<shm::Violation> {
        if settled {
            for round in 0..66 {
                for slot in self
                    .server
                    .seats
                    .iter_mut()
                    .filter_map(|seat| seat.slot.as_mut())
                {
                    match round {
                        0 | 33 => slot.scrub_all(),
                        _ => slot.announce(),
                    }
                }
            }
        }
        shm::audit(&self.server.arena, settled)
    }

    fn note(&mut self, note: impl FnOnce() -> Note) {
        if let Some(notes) = &mut self.notes {
            notes.push((self.now, note()));
        }
    }

    /// A line for whoever reads the notes.
    pub fn remark(&mut self, text: impl Into<String>) {
        self.note(|| Note::Remark(text.into()));
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Entry {
            at: at.max(self.now),
            number: self.number,
            event,
        }));
    }

    /// Puts a datagram onto the network.
    fn carry(&mut self, packet: Packet) {
        if self.network.nowhere.contains(&packet.to) {
            self.note(|| Note::NoWay(packet));
            return;
        }
        let arrivals = self.network.send(self.now, &packet, &mut self.rng);
        if arrivals[0].is_none() {
            self.note(|| Note::Lost(packet.clone()));
        }
        for at in arrivals.into_iter().flatten() {
            if self.server.listens(packet.to) {
                self.push(at, Event::ToServer(packet.clone()));
            } else if let Some(&peer) = self.by_address.get(&packet.to) {
                self.push(at, Event::ToPeer(peer, packet.clone()));
            }
        }
    }

    fn arrive(&mut self, packet: Packet) {
        match self
            .server
            .accept(packet.clone(), &self.policy, &mut self.rng)
        {
            Some(slot) => {
                self.note(|| Note::In(packet, slot));
                self.wake(slot, self.now);
            }
            None => self.note(|| Note::Lost(packet)),
        }
    }

    /// Has a slot run at this time, or earlier.
    fn wake(&mut self, slot: u16, at: Instant) {
        if let Some(wake) = self.wakes.get_mut(usize::from(slot))
            && *wake > at
        {
            *wake = at;
            self.push(at, Event::Wake(slot));
        }
    }

    fn run_slot(&mut self, number: u16) {
        let place = usize::from(number);
        // A wake that was superseded by an earlier one.
        if self.wakes.get(place).is_none_or(|&wake| wake > self.now) {
            return;
        }
        self.wakes[place] = Instant::MAX;
        let seat = &self.server.seats[place];
        if seat.slot.is_none() {
            return;
        }
        if seat.stalled_until > self.now {
            let until = seat.stalled_until;
            self.wake(number, until);
            return;
        }
        let now = self.now + self.ahead;
        let ran = self.server.run(number, now, &self.policy, &mut self.rng);
        self.after(number, ran);
    }

    /// What a run leads to; false if the worker died.
    fn after(&mut self, number: u16, ran: Ran) -> bool {
        for packet in ran.sent {
            self.note(|| Note::Out(packet.clone(), number));
            self.carry(packet);
        }
        for other in ran.rung {
            self.wake(other, self.now);
        }
        if let Some(at) = ran.wake {
            // In the world's time; and a little later than now, or time would stand still.
            let at = Instant::ZERO + at.saturating_duration_since(Instant::ZERO + self.ahead);
            self.wake(number, at.max(self.now + Duration::from_micros(50)));
        }
        if let Some(death) = ran.died {
            self.server.blame(number, death, &mut self.rng);
            self.die(number / self.server.reactors, death.at);
            return false;
        }
        true
    }

    fn die(&mut self, worker: u16, at: &'static str) {
        self.deaths += 1;
        self.note(|| Note::Died { worker, at });
        self.server.kill(worker);
        for slot in self.server.slots_of(worker) {
            self.wakes[usize::from(slot)] = Instant::MAX;
        }
        let after = self.heir_after * (1 + self.rng.below(1000)) / 1000;
        self.push(self.now + after, Event::Heir(worker));
    }

    /// The warm spare takes a dead worker's slots.
    fn heir(&mut self, worker: u16) {
        let slots = self.server.slots_of(worker);
        let seats = &self.server.seats;
        if slots
            .clone()
            .any(|slot| seats[usize::from(slot)].slot.is_some())
        {
            // Killed twice before an heir came: the first one is there.
            return;
        }
        let now = self.now + self.ahead;
        self.note(|| Note::Heir { worker });
        for slot in slots {
            let ran = self.server.begin(slot, now, &self.policy, &mut self.rng);
            if !self.after(slot, ran) {
                return;
            }
        }
    }
}
