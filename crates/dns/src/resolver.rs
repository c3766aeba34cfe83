//! The machine: resolutions that wait for answers, and the answers' way to them.
//!
//! Invariants: every resolution and every flight has one timer, in `timers`; every datagram that may still be answered is in
//! `by_try`; a question has at most one flight. Nothing is cancelled that could be forgotten: ending a flight or a resolution takes
//! its timer and its names out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use stdx::{
    Instant,
    hash::{Key, hash64},
};

use crate::{
    blacklist::Blacklist,
    cache::{Cache, Cached, Known},
    flight::{Flight, STALE_AFTER, TRIES_MAX, Try, Way},
    hosts::Hosts,
    plan::{Plan, Reason, Sight, Target, Wanted},
    servers::{SERVERS_MAX, Server},
    settings::{Families, Settings},
    wire::{self, ALIASES_MAX, Found, Match, Question, Reply, Verdict},
};

/// Sockets to each server; which one a question goes by is drawn.
pub const LANES: u16 = 4;
/// Connections to servers at the same time.
const STREAMS_MAX: usize = 16;
/// A message by TCP, with its length.
const STREAM_BYTES_MAX: usize = 2 + 65_535;
/// Timers and waiters looked at in one step: a turn of the reactor stays short however many there are.
const WORK_MAX: usize = 64;
/// How much longer is waited for the rest once the best hop is known (RFC 8305 §3 has 50 ms for a person who waits).
const REST: Duration = Duration::from_millis(250);
/// A hop is left alone at its own wish no longer than this.
const BUSY_MAX: Duration = Duration::from_secs(600);
/// Tries to draw an id that is not in use.
const DRAWS_MAX: usize = 8;

/// What can happen. Times come with the step.
#[derive(Debug)]
pub enum Input<'i, T> {
    /// Resolve this; `token` comes back with the answer, perhaps at once. Equal seeds choose equally among equals.
    Resolve {
        token: T,
        target: Target<'i>,
        seed: u64,
    },
    /// A datagram from this server by this lane.
    Datagram {
        server: u16,
        lane: u16,
        bytes: &'i [u8],
    },
    /// The kernel says that nobody is there, or nothing could be sent.
    Unreachable { server: u16, lane: u16 },
    /// Bytes of a connection, cut anywhere.
    Stream { connection: u64, bytes: &'i [u8] },
    /// A connection could not be made, or ended.
    Closed { connection: u64 },
    /// The deadline has come. Early, late and repeated ticks are harmless.
    Tick,
    /// A hop has answered, or has not.
    Hop { address: SocketAddr, alive: bool },
    /// A hop wants to be left alone for so long.
    Busy { address: SocketAddr, time: Duration },
}

/// The end of a resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    pub token: T,
    /// Best first.
    pub hops: Vec<SocketAddr>,
    /// Why there are none; means nothing if there are.
    pub reason: Reason,
}

/// What a step wants. The caller empties the lists.
#[derive(Debug)]
pub struct Outputs<T> {
    /// Server, lane, bytes.
    pub sends: Vec<(u16, u16, Vec<u8>)>,
    /// Connect to the server and write this. Number, server, bytes.
    pub opens: Vec<(u64, u16, Vec<u8>)>,
    pub closes: Vec<u64>,
    pub answers: Vec<Answer<T>>,
    /// Servers that do not answer any more (false), or do again (true).
    pub servers: Vec<(SocketAddr, bool)>,
}

impl<T> Default for Outputs<T> {
    fn default() -> Self {
        Self {
            sends: Vec::new(),
            opens: Vec::new(),
            closes: Vec::new(),
            answers: Vec::new(),
            servers: Vec::new(),
        }
    }
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Resolutions asked for.
    pub resolutions: u64,
    /// Those answered with a hop and without a question to a server.
    pub cached: u64,
    /// Questions sent to servers, repetitions included.
    pub queries: u64,
    /// Those of them by TCP.
    pub streams: u64,
    /// Answers that fit a question.
    pub answers: u64,
    /// Datagrams that were no answer to any question of ours.
    pub mismatched: u64,
    /// Questions that a server left unanswered.
    pub timeouts: u64,
    /// Stale answers given out.
    pub stale: u64,
    /// Resolutions without a hop: no such name.
    pub not_found: u64,
    /// Resolutions without a hop: no server could tell in time.
    pub failed: u64,
    /// Resolutions without a hop: only other transports.
    pub transport: u64,
    /// Resolutions refused because too many were under way.
    pub refused: u64,
    /// Hops that were found dead.
    pub blacklisted: u64,
}

#[derive(Debug)]
struct Resolution<T> {
    token: T,
    wanted: Wanted,
    seed: u64,
    known: BTreeMap<Question, Known>,
    asked: BTreeSet<Question>,
    /// The deadline, or earlier once the best hop is known.
    timer: Instant,
    hurried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Resolution(u64),
    Flight(u64),
}

#[derive(Debug)]
struct Stream {
    flight: u64,
    buffer: Vec<u8>,
}

/// RFC 3263 over DNS. `T` is the caller's name for a resolution.
#[derive(Debug)]
pub struct Resolver<T> {
    settings: Settings,
    families: Families,
    hosts: Arc<Hosts>,
    /// Ids, lanes and spellings are drawn from it: nobody without the key can guess the next from those before.
    key: Key,
    drawn: u64,
    servers: Vec<Server>,
    servers_numbered: u16,
    /// Which server is first, if that changes.
    turn: usize,
    cache: Cache,
    blacklist: Blacklist,
    resolutions: BTreeMap<u64, Resolution<T>>,
    flights: BTreeMap<u64, Flight>,
    by_question: BTreeMap<Question, u64>,
    by_try: BTreeMap<(u16, u16, u16), u64>,
    streams: BTreeMap<u64, Stream>,
    timers: BTreeSet<(Instant, Timer)>,
    /// Answers on their way to those who wait.
    woken: VecDeque<(u64, Question, Known)>,
    numbers: u64,
    pub tally: Tally,
}

impl<T> Resolver<T> {
    /// `key` must be nobody else's, now or ever: equal keys draw equal ids.
    pub fn new(settings: Settings, families: Families, hosts: Arc<Hosts>, key: Key) -> Self {
        let mut resolver = Self {
            settings: Settings::default(),
            families,
            hosts,
            key,
            drawn: 0,
            servers: Vec::new(),
            servers_numbered: 0,
            turn: 0,
            cache: Cache::default(),
            blacklist: Blacklist::default(),
            resolutions: BTreeMap::new(),
            flights: BTreeMap::new(),
            by_question: BTreeMap::new(),
            by_try: BTreeMap::new(),
            streams: BTreeMap::new(),
            timers: BTreeSet::new(),
            woken: VecDeque::new(),
            numbers: 0,
            tally: Tally::default(),
        };
        resolver.set(settings);
        resolver
    }

    /// Another configuration. What waits goes on waiting; what was learnt under other settings is forgotten.
    pub fn configure(&mut self, settings: Settings, families: Families, hosts: Arc<Hosts>) {
        self.families = families;
        self.hosts = hosts;
        if settings != self.settings {
            self.cache.clear();
            self.blacklist.clear();
            self.set(settings);
        }
    }

    fn set(&mut self, settings: Settings) {
        let mut old = std::mem::take(&mut self.servers);
        for &address in settings.servers.iter().take(SERVERS_MAX) {
            let known = old.iter().position(|server| server.address == address);
            let server = match known {
                Some(at) => old.swap_remove(at),
                None => {
                    self.servers_numbered = self.servers_numbered.wrapping_add(1);
                    Server::new(self.servers_numbered, address)
                }
            };
            self.servers.push(server);
        }
        self.settings = settings;
    }

    /// The servers as sends name them.
    pub fn servers(&self) -> impl Iterator<Item = (u16, SocketAddr)> + '_ {
        self.servers
            .iter()
            .map(|server| (server.number, server.address))
    }

    /// When a tick has work to do; `None`: never.
    pub fn deadline(&self) -> Option<Instant> {
        if self.woken.is_empty() {
            self.timers.first().map(|&(at, _)| at)
        } else {
            Some(Instant::ZERO)
        }
    }

    /// Resolutions under way.
    pub fn pending(&self) -> usize {
        self.resolutions.len()
    }

    /// Questions under way.
    pub fn questions(&self) -> usize {
        self.flights.len()
    }

    /// One step.
    pub fn step(&mut self, now: Instant, input: Input<'_, T>, out: &mut Outputs<T>) {
        match input {
            Input::Resolve {
                token,
                target,
                seed,
            } => self.resolve(now, token, &target, seed, out),
            Input::Datagram {
                server,
                lane,
                bytes,
            } => self.on_datagram(now, (server, lane), bytes, out),
            Input::Unreachable { server, lane } => self.on_unreachable(now, server, lane, out),
            Input::Stream { connection, bytes } => self.on_stream(now, connection, bytes, out),
            Input::Closed { connection } => self.on_closed(now, connection, out),
            Input::Tick => self.on_tick(now, out),
            Input::Hop {
                address,
                alive: true,
            } => self.blacklist.alive(address),
            Input::Hop {
                address,
                alive: false,
            } => self.dead(now, address, self.settings.blacklist),
            Input::Busy { address, time } if self.settings.blacklist > Duration::ZERO => {
                self.dead(now, address, time.min(BUSY_MAX))
            }
            Input::Busy { .. } => {}
        }
    }

    fn dead(&mut self, now: Instant, hop: SocketAddr, time: Duration) {
        if self.blacklist.dead(now, hop, time) {
            self.tally.blacklisted += 1;
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        hash64(&self.key, &[&self.drawn.to_le_bytes()])
    }

    // Resolutions

    fn resolve(
        &mut self,
        now: Instant,
        token: T,
        target: &Target<'_>,
        seed: u64,
        out: &mut Outputs<T>,
    ) {
        self.tally.resolutions += 1;
        let wanted = match Wanted::new(target, self.families) {
            Ok(wanted) => wanted,
            Err(Ok(hop)) => return self.answer(token, vec![hop], Reason::NotFound, out),
            Err(Err(reason)) => return self.answer(token, Vec::new(), reason, out),
        };
        if self.resolutions.len() >= self.settings.pending_max {
            // What is known at once needs no place.
            let mut known = BTreeMap::new();
            let plan = self.plan_from_cache(now, &wanted, seed, &mut known);
            return if plan.missing.is_empty() {
                self.tally.cached += u64::from(!plan.hops.is_empty());
                self.finish(now, token, plan, out)
            } else {
                self.answer(token, Vec::new(), Reason::Busy, out)
            };
        }
        let number = self.number();
        let timer = now + self.settings.deadline;
        self.timers.insert((timer, Timer::Resolution(number)));
        let resolution = Resolution {
            token,
            wanted,
            seed,
            known: BTreeMap::new(),
            asked: BTreeSet::new(),
            timer,
            hurried: false,
        };
        self.resolutions.insert(number, resolution);
        self.advance(now, number, out);
    }

    fn sight<'s>(&'s self, known: &'s BTreeMap<Question, Known>, seed: u64) -> Sight<'s> {
        Sight {
            known,
            hosts: &self.hosts,
            families: self.families,
            prefer_v6: self.settings.prefer_v6,
            seed,
        }
    }

    /// As far as one comes without asking anybody.
    fn plan_from_cache(
        &mut self,
        now: Instant,
        wanted: &Wanted,
        seed: u64,
        known: &mut BTreeMap<Question, Known>,
    ) -> Plan {
        loop {
            let plan = self.sight(known, seed).plan(wanted);
            let mut more = false;
            for question in &plan.missing {
                match self.cache.get(now, question) {
                    Cached::Fresh(found) => {
                        known.insert(question.clone(), found);
                        more = true;
                    }
                    Cached::Rechecked(found) => {
                        self.tally.stale += 1;
                        known.insert(question.clone(), found);
                        more = true;
                    }
                    Cached::Stale(_) | Cached::Miss => {}
                }
            }
            if !more {
                return plan;
            }
        }
    }

    /// Goes as far as it can; asks for what is missing.
    fn advance(&mut self, now: Instant, number: u64, out: &mut Outputs<T>) {
        let Some(mut resolution) = self.resolutions.remove(&number) else {
            return;
        };
        let plan = loop {
            let mut known = std::mem::take(&mut resolution.known);
            let plan = self.plan_from_cache(now, &resolution.wanted, resolution.seed, &mut known);
            resolution.known = known;
            let mut more = false;
            for question in &plan.missing {
                if resolution.asked.contains(question) {
                    continue;
                }
                match self.ask(now, question, number, out) {
                    Some(found) => {
                        resolution.known.insert(question.clone(), found);
                        more = true;
                    }
                    None => {
                        resolution.asked.insert(question.clone());
                    }
                }
            }
            if !more {
                break plan;
            }
        };
        if plan.missing.is_empty() {
            self.timers
                .remove(&(resolution.timer, Timer::Resolution(number)));
            if resolution.asked.is_empty() && !plan.hops.is_empty() {
                self.tally.cached += 1;
            }
            self.finish(now, resolution.token, plan, out);
            return;
        }
        let soon = now + REST;
        if plan.best_known && !resolution.hurried {
            resolution.hurried = true;
            if soon < resolution.timer {
                self.timers
                    .remove(&(resolution.timer, Timer::Resolution(number)));
                resolution.timer = soon;
                self.timers.insert((soon, Timer::Resolution(number)));
            }
        }
        self.resolutions.insert(number, resolution);
    }

    fn finish(&mut self, now: Instant, token: T, mut plan: Plan, out: &mut Outputs<T>) {
        self.blacklist
            .order(now, self.settings.blacklist, &mut plan.hops);
        self.answer(token, plan.hops, plan.reason, out);
    }

    fn answer(&mut self, token: T, hops: Vec<SocketAddr>, reason: Reason, out: &mut Outputs<T>) {
        if hops.is_empty() {
            let counter = match reason {
                Reason::NotFound => &mut self.tally.not_found,
                Reason::Failed => &mut self.tally.failed,
                Reason::Transport => &mut self.tally.transport,
                Reason::Busy => &mut self.tally.refused,
            };
            *counter += 1;
        }
        out.answers.push(Answer {
            token,
            hops,
            reason,
        });
    }

    /// The deadline of a resolution: what is known must do.
    fn expire(&mut self, now: Instant, number: u64, out: &mut Outputs<T>) {
        let Some(mut resolution) = self.resolutions.remove(&number) else {
            return;
        };
        let mut known = std::mem::take(&mut resolution.known);
        let mut plan = self.plan_from_cache(now, &resolution.wanted, resolution.seed, &mut known);
        plan.reason = Reason::Failed;
        self.finish(now, resolution.token, plan, out);
    }

    fn on_tick(&mut self, now: Instant, out: &mut Outputs<T>) {
        for _ in 0..WORK_MAX {
            let Some((number, question, known)) = self.woken.pop_front() else {
                break;
            };
            if let Some(resolution) = self.resolutions.get_mut(&number) {
                resolution.known.insert(question, known);
                self.advance(now, number, out);
            }
        }
        for _ in 0..WORK_MAX {
            let Some(&(at, timer)) = self.timers.first().filter(|(at, _)| *at <= now) else {
                break;
            };
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Resolution(number) => self.expire(now, number, out),
                Timer::Flight(number) => self.look_at(now, number, out),
            }
        }
    }

    // Questions

    /// What is known about a question; `None` if it was asked, and the resolution will hear.
    fn ask(
        &mut self,
        now: Instant,
        question: &Question,
        resolution: u64,
        out: &mut Outputs<T>,
    ) -> Option<Known> {
        if let Some(flight) = self.by_question.get(question)
            && let Some(flight) = self.flights.get_mut(flight)
        {
            flight.waiters.push(resolution);
            return None;
        }
        let stale = match self.cache.get(now, question) {
            Cached::Stale(_) => Some(now + STALE_AFTER.min(self.settings.deadline / 2)),
            _ => None,
        };
        // Flights outlive those who waited for them.
        let full = self.flights.len() >= self.settings.pending_max.saturating_mul(4).max(64);
        if self.servers.is_empty() || full {
            return Some(Known::Failed);
        }
        let number = self.number();
        let mut flight = Flight::new(question.clone(), self.servers_in_order(now), stale);
        flight.waiters.push(resolution);
        self.by_question.insert(question.clone(), number);
        self.next_try(now, number, flight, out);
        None
    }

    /// Those that answer first.
    fn servers_in_order(&mut self, now: Instant) -> Vec<u16> {
        let count = self.servers.len();
        let first = if self.settings.rotate { self.turn } else { 0 };
        self.turn = self.turn.wrapping_add(1);
        let mut order: Vec<&Server> = (0..count)
            .filter_map(|at| self.servers.get(first.wrapping_add(at) % count))
            .collect();
        order.sort_by_key(|server| server.is_down(now));
        order.iter().map(|server| server.number).collect()
    }

    fn server(&mut self, number: u16) -> Option<&mut Server> {
        self.servers
            .iter_mut()
            .find(|server| server.number == number)
    }

    /// Asks the next server, if one is left.
    fn next_try(&mut self, now: Instant, number: u64, mut flight: Flight, out: &mut Outputs<T>) {
        let servers = flight.servers.len();
        let most = (servers * usize::from(self.settings.attempts)).min(TRIES_MAX);
        while flight.sent < most {
            let server = flight.servers.get(flight.sent % servers.max(1)).copied();
            flight.sent += 1;
            if let Some(server) = server
                && self.send(now, number, &mut flight, server, out)
            {
                flight.next = now + self.settings.timeout;
                self.keep(number, flight);
                return;
            }
        }
        let known = self.cache.fail(now, &self.settings, &flight.question);
        self.tally.stale += u64::from(known != Known::Failed);
        self.land(number, flight, known, out);
    }

    /// Sends by UDP. False if the server is none any more.
    fn send(
        &mut self,
        now: Instant,
        number: u64,
        flight: &mut Flight,
        server: u16,
        out: &mut Outputs<T>,
    ) -> bool {
        let Some(edns) = self.server(server).map(|server| server.knows_edns(now)) else {
            return false;
        };
        for _ in 0..DRAWS_MAX {
            let drawn = self.draw().to_le_bytes();
            let id = u16::from_le_bytes([drawn[0], drawn[1]]);
            let lane = u16::from_le_bytes([drawn[2], drawn[3]]) % LANES;
            if self.by_try.contains_key(&(server, lane, id)) {
                continue;
            }
            let spelled = wire::spell(&flight.name, self.draw());
            let Some(bytes) = wire::query(id, &spelled, flight.kind(), edns) else {
                return false;
            };
            self.by_try.insert((server, lane, id), number);
            flight.tries.push(Try {
                server,
                way: Way::Datagram(lane),
                id,
                spelled,
                edns,
                over: false,
            });
            self.tally.queries += 1;
            out.sends.push((server, lane, bytes));
            return true;
        }
        false
    }

    /// Asks the same server by TCP, or the next one if there are too many connections.
    fn ask_by_stream(
        &mut self,
        now: Instant,
        number: u64,
        mut flight: Flight,
        server: u16,
        out: &mut Outputs<T>,
    ) {
        let id = u16::from_le_bytes([self.draw() as u8, self.draw() as u8]);
        let spelled = wire::spell(&flight.name, self.draw());
        let bytes = wire::query(id, &spelled, flight.kind(), true).and_then(|bytes| {
            Some([&u16::try_from(bytes.len()).ok()?.to_be_bytes(), &bytes[..]].concat())
        });
        let Some(bytes) = bytes.filter(|_| self.streams.len() < STREAMS_MAX) else {
            return self.next_try(now, number, flight, out);
        };
        let connection = self.number();
        self.streams.insert(
            connection,
            Stream {
                flight: number,
                buffer: Vec::new(),
            },
        );
        flight.tries.push(Try {
            server,
            way: Way::Stream(connection),
            id,
            spelled,
            edns: true,
            over: false,
        });
        self.tally.queries += 1;
        self.tally.streams += 1;
        out.opens.push((connection, server, bytes));
        // A handshake comes before the question.
        flight.next = now + self.settings.timeout * 2;
        self.keep(number, flight);
    }

    /// Puts a flight back and sets its timer.
    fn keep(&mut self, number: u64, mut flight: Flight) {
        flight.timer = flight.due();
        self.timers.insert((flight.timer, Timer::Flight(number)));
        self.flights.insert(number, flight);
    }

    /// Takes a flight to work on, with its timer.
    fn take(&mut self, number: u64) -> Option<Flight> {
        let flight = self.flights.remove(&number)?;
        self.timers.remove(&(flight.timer, Timer::Flight(number)));
        Some(flight)
    }

    /// The end of a flight.
    fn land(&mut self, number: u64, mut flight: Flight, known: Known, out: &mut Outputs<T>) {
        self.forget_tries(number, &mut flight, out);
        self.by_question.remove(&flight.question);
        for waiter in flight.waiters {
            self.woken
                .push_back((waiter, flight.question.clone(), known.clone()));
        }
    }

    fn forget_tries(&mut self, number: u64, flight: &mut Flight, out: &mut Outputs<T>) {
        for tried in flight.tries.drain(..) {
            match tried.way {
                Way::Datagram(lane) => {
                    let name = (tried.server, lane, tried.id);
                    if self.by_try.get(&name) == Some(&number) {
                        self.by_try.remove(&name);
                    }
                }
                Way::Stream(connection) => {
                    if self.streams.remove(&connection).is_some() {
                        out.closes.push(connection);
                    }
                }
            }
        }
    }

    /// The timer of a flight.
    fn look_at(&mut self, now: Instant, number: u64, out: &mut Outputs<T>) {
        let Some(mut flight) = self.take(number) else {
            return;
        };
        if flight.stale.is_some_and(|stale| stale <= now) {
            flight.stale = None;
            // Whoever comes meanwhile takes it at once.
            let known = self.cache.fail(now, &self.settings, &flight.question);
            self.tally.stale += flight.waiters.len() as u64;
            for waiter in flight.waiters.drain(..) {
                self.woken
                    .push_back((waiter, flight.question.clone(), known.clone()));
            }
        }
        if flight.next > now {
            self.keep(number, flight);
            return;
        }
        if let Some(tried) = flight.tries.last_mut().filter(|tried| !tried.over) {
            tried.over = true;
            let server = tried.server;
            self.tally.timeouts += 1;
            self.server_failed(now, server, out);
        }
        self.next_try(now, number, flight, out);
    }

    fn server_failed(&mut self, now: Instant, number: u16, out: &mut Outputs<T>) {
        if let Some(server) = self.server(number)
            && server.failed(now)
        {
            out.servers.push((server.address, false));
        }
    }

    // Answers

    fn on_datagram(
        &mut self,
        now: Instant,
        (server, lane): (u16, u16),
        bytes: &[u8],
        out: &mut Outputs<T>,
    ) {
        let reply = Reply::read(bytes);
        let number = reply
            .as_ref()
            .and_then(|reply| self.by_try.get(&(server, lane, reply.id())).copied());
        match (reply, number) {
            (Some(reply), Some(number)) => {
                self.on_reply(now, number, Way::Datagram(lane), server, &reply, out)
            }
            _ => self.tally.mismatched += 1,
        }
    }

    fn on_stream(&mut self, now: Instant, connection: u64, bytes: &[u8], out: &mut Outputs<T>) {
        let Some(stream) = self.streams.get_mut(&connection) else {
            return;
        };
        let room = STREAM_BYTES_MAX.saturating_sub(stream.buffer.len());
        stream
            .buffer
            .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        let Some((length, rest)) = stream.buffer.split_first_chunk::<2>() else {
            return;
        };
        let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*length))) else {
            return;
        };
        let reply = Reply::read(message);
        let number = stream.flight;
        let server = self.flights.get(&number).and_then(|flight| {
            let mut tries = flight.tries.iter();
            let tried = tries.find(|tried| tried.way == Way::Stream(connection))?;
            let id = reply.as_ref().map(Reply::id);
            (id == Some(tried.id)).then_some(tried.server)
        });
        match (reply, server) {
            (Some(reply), Some(server)) => {
                self.on_reply(now, number, Way::Stream(connection), server, &reply, out)
            }
            _ => {
                self.tally.mismatched += 1;
                out.closes.push(connection);
                self.on_closed(now, connection, out);
            }
        }
    }

    fn on_reply(
        &mut self,
        now: Instant,
        number: u64,
        way: Way,
        server: u16,
        reply: &Reply,
        out: &mut Outputs<T>,
    ) {
        let Some(flight) = self.flights.get_mut(&number) else {
            return;
        };
        let kind = flight.question.kind;
        let tried = flight
            .tries
            .iter_mut()
            .find(|tried| tried.server == server && tried.way == way && tried.id == reply.id());
        let Some(tried) = tried else {
            self.tally.mismatched += 1;
            return;
        };
        let matched = reply.matches(&tried.spelled, kind);
        let by_datagram = matches!(way, Way::Datagram(_));
        if matched == Match::Foreign {
            self.tally.mismatched += 1;
            return;
        }
        let edns = tried.edns;
        let repeated = std::mem::replace(&mut tried.over, true);
        if matched == Match::OtherCase && by_datagram {
            // Either a server that changes letters or somebody who guesses: TCP leaves no doubt.
            self.tally.mismatched += 1;
            if !repeated && let Some(flight) = self.take(number) {
                self.ask_by_stream(now, number, flight, server, out);
            }
            return;
        }
        self.tally.answers += 1;
        if let Some(known) = self.server(server)
            && known.answered(now)
        {
            out.servers.push((known.address, true));
        }
        let Some(mut flight) = self.take(number) else {
            return;
        };
        match wire::verdict(reply, &flight.asking()) {
            Verdict::Found(Found::Alias(name, seconds)) => {
                flight.aliases = flight.aliases.saturating_add(1);
                flight.lifetime = flight.lifetime.min(seconds);
                if flight.aliases > ALIASES_MAX {
                    flight.sent = usize::MAX;
                } else {
                    flight.name = name;
                    flight.sent = 0;
                }
                self.forget_tries(number, &mut flight, out);
                self.next_try(now, number, flight, out);
            }
            Verdict::Found(found) => {
                let found = match found {
                    Found::Data(data, seconds) => Found::Data(data, seconds.min(flight.lifetime)),
                    Found::Nothing(seconds) => {
                        Found::Nothing(seconds.map(|seconds| seconds.min(flight.lifetime)))
                    }
                    Found::Alias(..) => return,
                };
                let known = self.cache.put(now, &self.settings, &flight.question, found);
                self.land(number, flight, known, out);
            }
            Verdict::Truncated if by_datagram && !repeated => {
                self.ask_by_stream(now, number, flight, server, out)
            }
            Verdict::NoEdns if edns && !repeated => {
                if let Some(server) = self.server(server) {
                    server.lacks_edns(now);
                }
                if self.send(now, number, &mut flight, server, out) {
                    flight.next = now + self.settings.timeout;
                    self.keep(number, flight);
                } else {
                    self.next_try(now, number, flight, out);
                }
            }
            // The second failure by the same try is a copy of the first.
            _ if repeated => self.keep(number, flight),
            // All have been asked, and one of them may still answer.
            _ if flight.sent >= flight.servers.len()
                && flight.tries.iter().any(|tried| !tried.over) =>
            {
                self.keep(number, flight)
            }
            // Nobody would say anything else if asked again.
            Verdict::Failed if flight.sent >= flight.servers.len() => {
                flight.sent = usize::MAX;
                self.next_try(now, number, flight, out)
            }
            Verdict::Truncated | Verdict::NoEdns | Verdict::Failed => {
                self.next_try(now, number, flight, out)
            }
        }
    }

    /// Whoever was asked by this socket a moment ago asks the next server.
    fn on_unreachable(&mut self, now: Instant, server: u16, lane: u16, out: &mut Outputs<T>) {
        self.server_failed(now, server, out);
        let asked = self
            .by_try
            .range((server, lane, 0)..=(server, lane, u16::MAX));
        let asked: Vec<u64> = asked.map(|(_, &number)| number).collect();
        for number in asked {
            self.hurry(now, number, |tried| {
                tried.server == server && tried.way == Way::Datagram(lane)
            });
        }
    }

    fn on_closed(&mut self, now: Instant, connection: u64, _: &mut Outputs<T>) {
        if let Some(stream) = self.streams.remove(&connection) {
            self.hurry(now, stream.flight, |tried| {
                tried.way == Way::Stream(connection)
            });
        }
    }

    /// Has the next tick ask the next server, if this try is the one that is waited for and a server is left that was not asked. A
    /// second round comes no sooner than it would: a server that is being restarted has that time.
    fn hurry(&mut self, now: Instant, number: u64, is_it: impl Fn(&Try) -> bool) {
        let Some(mut flight) = self.take(number) else {
            return;
        };
        if let Some(tried) = flight.tries.last_mut().filter(|tried| is_it(tried)) {
            tried.over = true;
            if flight.sent < flight.servers.len() {
                flight.next = now;
            }
        }
        self.keep(number, flight);
    }
}
