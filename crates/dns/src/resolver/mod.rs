//! The machine: resolutions that wait for answers, and the answers' way to them.
//!
//! Invariants: every resolution and every flight has one timer, in `timers`; every datagram that may still be answered is in
//! `by_try`; a question has at most one flight. Nothing is cancelled that could be forgotten: ending a flight or a resolution takes
//! its timer and its names out.
//!
//! - `resolutions`: from a target to hops;
//! - `questions`: what is asked of whom, time-outs and further servers;
//! - `replies`: what comes back.

mod questions;
mod replies;
mod resolutions;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use stdx::{
    Instant,
    hash::{Key, hash64},
};

use crate::{
    blacklist::Blacklist,
    cache::{Cache, Known},
    facts::Facts,
    flight::Flight,
    hosts::Hosts,
    plan::{Rank, Reason, Target, Wanted},
    servers::{SERVERS_MAX, Server},
    settings::{Families, Settings},
    shares::{Full, Shares, Source},
    wire::Question,
};

/// Sockets to each server; which one a question goes by is drawn.
pub const LANES: u16 = 4;
/// Timers and waiters looked at in one step: a turn of the reactor stays short however many there are.
const WORK_MAX: usize = 64;
/// A hop is left alone at its own wish no longer than this.
const BUSY_MAX: Duration = Duration::from_secs(600);

/// What can happen. Times come with the step.
#[derive(Debug)]
pub enum Input<'i, T> {
    /// Resolve this; `token` comes back with the answer, perhaps at once. Equal seeds choose equally among equals.
    Resolve {
        token: T,
        target: Target<'i>,
        /// Who asks for it: he holds one of the places for those that wait.
        source: IpAddr,
        seed: u64,
        /// Whether the answer is to say what SRV records say of each hop.
        ranked: bool,
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
    /// What is known of each hop, in no order; empty if it was not asked for, or the target is an address.
    pub ranks: Vec<Rank>,
    /// These are all hops: nobody left a question unanswered.
    pub whole: bool,
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
    /// Those of them whose source had its share of what may be under way, though there was room.
    pub over_share: u64,
    /// Hops that were found dead.
    pub blacklisted: u64,
}

#[derive(Debug)]
struct Resolution<T> {
    token: T,
    wanted: Wanted,
    source: Source,
    seed: u64,
    ranked: bool,
    facts: Facts,
    /// It had to ask, or to wait for an answer to another's question.
    asked: bool,
    /// Something was not asked because too much was under way.
    full: Option<Full>,
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
    resolutions: BTreeMap<u64, Box<Resolution<T>>>,
    flights: BTreeMap<u64, Box<Flight>>,
    /// Whose resolutions are under way.
    waiting: Shares,
    /// Whose questions are under way.
    asking: Shares,
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
            waiting: Shares::default(),
            asking: Shares::default(),
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
                source,
                seed,
                ranked,
            } => self.resolve(now, token, &target, (source, seed, ranked), out),
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

    fn on_tick(&mut self, now: Instant, out: &mut Outputs<T>) {
        for _ in 0..WORK_MAX {
            let Some((number, question, known)) = self.woken.pop_front() else {
                break;
            };
            if let Some(resolution) = self.resolutions.get_mut(&number) {
                resolution.facts.learn(&question, known);
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
}
