//! Questions: which server is asked, by which way, and what happens when it says nothing.

use stdx::Instant;

use super::{LANES, Outputs, Resolver, Stream, Timer};
use crate::{
    cache::{Cached, Known},
    flight::{Flight, STALE_AFTER, TRIES_MAX, Try, Way},
    servers::Server,
    shares::{Full, Source},
    wire::{self, Question},
};

/// Connections to servers at the same time.
const STREAMS_MAX: usize = 16;
/// Tries to draw an id that is not in use.
const DRAWS_MAX: usize = 8;
/// Questions under way for each resolution that may be: a few for itself, and flights outlive those who waited for them.
const QUESTIONS_OF_ONE: usize = 4;
/// Questions that may always be under way.
const QUESTIONS_MIN: usize = 64;

/// What became of a question.
pub(super) enum Asked {
    /// The resolution will hear.
    Waits,
    Known(Known),
    /// So many are under way that it was not asked.
    Full(Full),
}

impl<T> Resolver<T> {
    /// Asks a question for a resolution, unless that was done already.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        question: &Question,
        resolution: u64,
        source: Source,
        out: &mut Outputs<T>,
    ) -> Asked {
        if let Some(flight) = self.by_question.get(question)
            && let Some(flight) = self.flights.get_mut(flight)
        {
            flight.waiters.push(resolution);
            return Asked::Waits;
        }
        let stale = match self.cache.get(now, question) {
            Cached::Stale(_) => Some(now + STALE_AFTER.min(self.settings.deadline / 2)),
            _ => None,
        };
        if self.servers.is_empty() {
            return Asked::Known(Known::Failed);
        }
        let max = self
            .settings
            .pending_max
            .saturating_mul(QUESTIONS_OF_ONE)
            .max(QUESTIONS_MIN);
        if let Err(full) = self.asking.take(source, max) {
            return Asked::Full(full);
        }
        let number = self.number();
        let mut flight = Flight::new(question.clone(), source, self.servers_in_order(now), stale);
        flight.waiters.push(resolution);
        self.by_question.insert(question.clone(), number);
        self.next_try(now, number, Box::new(flight), out);
        Asked::Waits
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

    pub(super) fn server(&mut self, number: u16) -> Option<&mut Server> {
        self.servers
            .iter_mut()
            .find(|server| server.number == number)
    }

    /// Asks the next server, if one is left.
    pub(super) fn next_try(
        &mut self,
        now: Instant,
        number: u64,
        mut flight: Box<Flight>,
        out: &mut Outputs<T>,
    ) {
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
    pub(super) fn send(
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
    pub(super) fn ask_by_stream(
        &mut self,
        now: Instant,
        number: u64,
        mut flight: Box<Flight>,
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
    pub(super) fn keep(&mut self, number: u64, mut flight: Box<Flight>) {
        flight.timer = flight.due();
        self.timers.insert((flight.timer, Timer::Flight(number)));
        self.flights.insert(number, flight);
    }

    /// Takes a flight to work on, with its timer.
    pub(super) fn take(&mut self, number: u64) -> Option<Box<Flight>> {
        let flight = self.flights.remove(&number)?;
        self.timers.remove(&(flight.timer, Timer::Flight(number)));
        Some(flight)
    }

    /// The end of a flight.
    pub(super) fn land(
        &mut self,
        number: u64,
        mut flight: Box<Flight>,
        known: Known,
        out: &mut Outputs<T>,
    ) {
        self.forget_tries(number, &mut flight, out);
        self.by_question.remove(&flight.question);
        self.asking.give(flight.source);
        for waiter in flight.waiters {
            self.woken
                .push_back((waiter, flight.question.clone(), known.clone()));
        }
    }

    pub(super) fn forget_tries(&mut self, number: u64, flight: &mut Flight, out: &mut Outputs<T>) {
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
    pub(super) fn look_at(&mut self, now: Instant, number: u64, out: &mut Outputs<T>) {
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

    pub(super) fn server_failed(&mut self, now: Instant, number: u16, out: &mut Outputs<T>) {
        if let Some(server) = self.server(number)
            && server.failed(now)
        {
            out.servers.push((server.address, false));
        }
    }
}
