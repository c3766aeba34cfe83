//! What servers say, and that they can't be reached: which try it is about, and what follows from it.

use stdx::Instant;

use super::{Outputs, Resolver};
use crate::{
    flight::{Try, Way},
    wire::{self, ALIASES_MAX, Found, Match, Reply, Verdict},
};

/// A message by TCP, with its length.
const STREAM_BYTES_MAX: usize = 2 + 65_535;

impl<T> Resolver<T> {
    pub(super) fn on_datagram(
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

    pub(super) fn on_stream(
        &mut self,
        now: Instant,
        connection: u64,
        bytes: &[u8],
        out: &mut Outputs<T>,
    ) {
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
    pub(super) fn on_unreachable(
        &mut self,
        now: Instant,
        server: u16,
        lane: u16,
        out: &mut Outputs<T>,
    ) {
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

    pub(super) fn on_closed(&mut self, now: Instant, connection: u64, _: &mut Outputs<T>) {
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
