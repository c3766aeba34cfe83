//! Names: each slot's own resolver (crate `dns`), and name servers that are late, say nothing, or say something else; and a stranger who
//! answers in their name.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use dns::{Families, Hosts, Input, Outputs, Resolver};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, SOA, SRV},
    },
};
use proxy::{AskId, HopState, Question};
use sip::uri::Uri;
use slot::{hop_input, target_of};
use stdx::{
    Instant, Rng,
    hash::{Key, hash64, hash128},
};

/// How long a record is good for. Unit: s.
const TTL: u32 = 60;

/// What name servers know, and how they behave. Chances are of a thousand.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Where a name leads, best first: one address is an A record, several are SRV records of falling preference.
    pub hosts: BTreeMap<String, Vec<SocketAddr>>,
    /// Answers that take their time, and how much at most.
    pub late: u32,
    pub late_by: Duration,
    /// Questions that get no answer.
    pub silent: u32,
    /// Answers that are an error, truncated, or of no name that was asked for.
    pub wrong: u32,
    /// Questions that somebody else answers first, with this address, who cannot see them.
    pub forged: u32,
    pub forger: Option<SocketAddr>,
}

impl Names {
    /// No fault from now on.
    pub fn heal(&mut self) {
        self.late = 0;
        self.silent = 0;
        self.wrong = 0;
        self.forged = 0;
    }
}

/// Something on its way from a name server.
#[derive(Debug)]
enum Coming {
    Datagram {
        server: u16,
        lane: u16,
        bytes: Vec<u8>,
    },
    Stream {
        connection: u64,
        bytes: Vec<u8>,
    },
    Closed {
        connection: u64,
    },
}

/// A slot's resolver.
pub(crate) struct Lookup {
    resolver: Resolver<AskId>,
    out: Outputs<AskId>,
    coming: Vec<(Instant, Coming)>,
    seeds: Key,
}

impl Lookup {
    /// `now`: no other incarnation of the slot has begun then.
    pub(crate) fn new(number: u16, arena: &Key, now: Instant) -> Self {
        let once = now.as_nanos().to_le_bytes();
        let key = hash128(arena, &[b"dns", &number.to_le_bytes(), &once]);
        let settings = dns::Settings {
            servers: (1..=2).map(|n| ([192, 0, 2, n], 53).into()).collect(),
            ..dns::Settings::default()
        };
        let families = Families {
            v4: true,
            v6: false,
        };
        let hosts = Arc::new(Hosts::parse(""));
        Self {
            resolver: Resolver::new(settings, families, hosts, Key(key.to_le_bytes())),
            out: Outputs::default(),
            coming: Vec::new(),
            seeds: *arena,
        }
    }

    /// Where a branch's next hop is; `None`: the answer comes by [`Lookup::turn`].
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        id: AskId,
        branch: u8,
        question: &Question<'_>,
        names: &Names,
        rng: &mut Rng,
    ) -> Option<Vec<SocketAddr>> {
        let uri = question
            .next_hop(branch)
            .and_then(|uri| Uri::parse(uri).ok());
        let Some(target) = uri.as_ref().and_then(target_of) else {
            return Some(Vec::new());
        };
        let call_id = question.message.call_id().unwrap_or_default();
        let input = Input::Resolve {
            token: id,
            target,
            seed: hash64(&self.seeds, &[b"hop", call_id]),
            source: question.source().ip(),
            ranked: false,
        };
        self.resolver.step(now, input, &mut self.out);
        let answer = self.out.answers.pop();
        self.act(now, names, rng);
        answer.map(|answer| answer.hops)
    }

    pub(crate) fn hop(&mut self, now: Instant, address: SocketAddr, state: HopState) {
        self.resolver
            .step(now, hop_input(address, state), &mut self.out);
    }

    /// When [`Lookup::turn`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let coming = self.coming.iter().map(|&(at, _)| at);
        coming.chain(self.resolver.deadline()).min()
    }

    /// Hears what has come and does what is due; the answers to questions that had to wait.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        names: &Names,
        rng: &mut Rng,
    ) -> Vec<(AskId, Vec<SocketAddr>)> {
        if self.deadline().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut came: Vec<_> = self
            .coming
            .extract_if(.., |&mut (at, _)| at <= now)
            .collect();
        came.sort_by_key(|&(at, _)| at);
        for (_, coming) in &came {
            let input = match coming {
                Coming::Datagram {
                    server,
                    lane,
                    bytes,
                } => Input::Datagram {
                    server: *server,
                    lane: *lane,
                    bytes,
                },
                &Coming::Stream {
                    connection,
                    ref bytes,
                } => Input::Stream { connection, bytes },
                &Coming::Closed { connection } => Input::Closed { connection },
            };
            self.resolver.step(now, input, &mut self.out);
        }
        if self.resolver.deadline().is_some_and(|due| due <= now) {
            self.resolver.step(now, Input::Tick, &mut self.out);
        }
        self.act(now, names, rng);
        let answers = self.out.answers.drain(..);
        answers.map(|answer| (answer.token, answer.hops)).collect()
    }

    /// Has the servers answer what was asked.
    fn act(&mut self, now: Instant, names: &Names, rng: &mut Rng) {
        for (server, lane, bytes) in std::mem::take(&mut self.out.sends) {
            let Ok(query) = Message::from_vec(&bytes) else {
                continue;
            };
            let mut come = |at, message: &Message| {
                if let Ok(bytes) = message.to_vec() {
                    let coming = Coming::Datagram {
                        server,
                        lane,
                        bytes,
                    };
                    self.coming.push((at, coming));
                }
            };
            if chance(rng, names.forged)
                && let Some(forged) = forged(&query, names, rng)
            {
                come(now, &forged);
            }
            if chance(rng, names.silent) {
                continue;
            }
            let mut message = names.answer(&query);
            if chance(rng, names.wrong) {
                spoil(&mut message, rng);
            }
            come(now + names.delay(rng), &message);
        }
        for (connection, _, bytes) in std::mem::take(&mut self.out.opens) {
            let query = bytes
                .get(2..)
                .and_then(|bytes| Message::from_vec(bytes).ok());
            let answer = query.and_then(|query| names.answer(&query).to_vec().ok());
            let coming = match answer {
                Some(answer) if !chance(rng, names.silent) => {
                    let length = u16::try_from(answer.len()).unwrap_or_default();
                    let bytes = [&length.to_be_bytes(), &answer[..]].concat();
                    Coming::Stream { connection, bytes }
                }
                _ => Coming::Closed { connection },
            };
            self.coming.push((now + names.delay(rng), coming));
        }
        self.out.closes.clear();
        self.out.servers.clear();
    }
}

fn chance(rng: &mut Rng, of_a_thousand: u32) -> bool {
    of_a_thousand > 0 && rng.below(1000) < of_a_thousand
}

impl Names {
    fn delay(&self, rng: &mut Rng) -> Duration {
        let quick = Duration::from_micros(u64::from(rng.below(2000)) + 100);
        if chance(rng, self.late) {
            quick + self.late_by * rng.below(1000) / 1000
        } else {
            quick
        }
    }

    /// What a server says that is right.
    fn answer(&self, query: &Message) -> Message {
        let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_available = true;
        message.add_queries(query.queries.clone());
        let Some(question) = query.queries.first() else {
            return message;
        };
        let asked = question.name.to_ascii().to_ascii_lowercase();
        let asked = asked.trim_end_matches('.');
        let records = self.records(question, asked);
        let exists = self.hosts.keys().any(|name| asked.ends_with(name.as_str()));
        if records.is_empty() {
            message.metadata.response_code = if exists {
                ResponseCode::NoError
            } else {
                ResponseCode::NXDomain
            };
            let zone = Name::root();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 20);
            message.add_authority(Record::from_rdata(zone, 20, RData::SOA(soa)));
        }
        message.add_answers(records);
        message
    }

    fn records(&self, question: &Query, asked: &str) -> Vec<Record> {
        let record = |data| Record::from_rdata(question.name.clone(), TTL, data);
        let address = |to: &SocketAddr| match to.ip() {
            IpAddr::V4(ip) => Some(record(RData::A(A(ip)))),
            IpAddr::V6(_) => None,
        };
        match question.query_type {
            RecordType::A => {
                let one = self.hosts.get(asked).filter(|hosts| hosts.len() == 1);
                let of_srv = || {
                    let (number, name) = asked.strip_prefix('h')?.split_once('.')?;
                    self.hosts.get(name)?.get(number.parse::<usize>().ok()?)
                };
                let to = one.and_then(|hosts| hosts.first()).or_else(of_srv);
                to.and_then(address).into_iter().collect()
            }
            RecordType::SRV => {
                let hosts = asked
                    .strip_prefix("_sip._udp.")
                    .and_then(|name| Some((name, self.hosts.get(name)?)))
                    .filter(|(_, hosts)| hosts.len() > 1);
                let Some((name, hosts)) = hosts else {
                    return Vec::new();
                };
                let of = |(n, to): (usize, &SocketAddr)| {
                    let target = Name::from_ascii(format!("h{n}.{name}.")).ok()?;
                    let priority = u16::try_from(n).ok()?;
                    let srv = SRV::new(priority, 1, to.port(), target);
                    Some(record(RData::SRV(srv)))
                };
                hosts.iter().enumerate().filter_map(of).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// An answer by somebody who has to guess: the question's id, or how its name is spelled.
fn forged(query: &Message, names: &Names, rng: &mut Rng) -> Option<Message> {
    let question = query.queries.first()?;
    let ip = match names.forger?.ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => return None,
    };
    let mut id = query.metadata.id;
    let mut question = question.clone();
    if rng.below(2) == 0 {
        id = id.wrapping_add(1 + rng.below(65_534) as u16);
    } else {
        let text = question.name.to_ascii();
        let at = text.find(|c: char| c.is_ascii_alphabetic())?;
        let mut bytes = text.into_bytes();
        bytes[at] ^= 0x20;
        question.name = Name::from_ascii(String::from_utf8(bytes).ok()?).ok()?;
    }
    let mut message = Message::new(id, MessageType::Response, OpCode::Query);
    message.add_query(question.clone());
    message.add_answers([Record::from_rdata(
        question.name.clone(),
        TTL,
        RData::A(A(ip)),
    )]);
    Some(message)
}

/// Makes an answer one that is of no use.
fn spoil(message: &mut Message, rng: &mut Rng) {
    match rng.below(4) {
        0 => {
            message.answers.clear();
            message.metadata.response_code = ResponseCode::ServFail;
        }
        1 => {
            message.answers.clear();
            message.metadata.truncation = true;
        }
        2 => {
            // Of another name.
            for record in &mut message.answers {
                record.name = Name::root();
            }
        }
        _ => {
            message.answers.clear();
            message.metadata.response_code = ResponseCode::Refused;
        }
    }
}
