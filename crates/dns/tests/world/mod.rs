#![allow(dead_code, reason = "each test file uses a part of it")]
//! A resolver, a clock, and name servers that say what a test wants.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use dns::{Answer, Families, Host, Hosts, Input, Outputs, Resolver, Settings, Target};
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, AAAA, CNAME, NAPTR, SOA, SRV},
    },
};
use stdx::{Instant, hash::Key};

pub const BOTH: Families = Families { v4: true, v6: true };
pub const V4: Families = Families {
    v4: true,
    v6: false,
};

/// What a server does with a question.
pub enum Says {
    Nothing,
    Message(Box<Message>),
    /// Nobody is there.
    Refused,
}

/// A question on its way.
#[derive(Clone, Debug)]
pub struct Sent {
    pub server: u16,
    pub lane: u16,
    /// By TCP.
    pub connection: Option<u64>,
    pub query: Message,
}

pub struct World {
    pub resolver: Resolver<u32>,
    pub now: Instant,
    pub out: Outputs<u32>,
    /// Everything that was asked, in order.
    pub asked: Vec<String>,
    pub edns: Vec<bool>,
    /// Everything that was answered.
    pub answers: Vec<(Instant, Answer<u32>)>,
}

pub fn server(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 53).into()
}

pub fn settings(servers: u8) -> Settings {
    Settings {
        servers: (1..=servers).map(server).collect(),
        ..Settings::default()
    }
}

pub fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

pub fn a(owner: &str, last: u8) -> Record {
    Record::from_rdata(name(owner), 60, RData::A(A::new(198, 51, 100, last)))
}

pub fn aaaa(owner: &str, last: u16) -> Record {
    let ip = AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
    Record::from_rdata(name(owner), 60, RData::AAAA(ip))
}

pub fn cname(owner: &str, to: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(to))))
}

pub fn srv(owner: &str, priority: u16, weight: u16, port: u16, target: &str) -> Record {
    let target = if target == "." {
        Name::root()
    } else {
        name(target)
    };
    let srv = SRV::new(priority, weight, port, target);
    Record::from_rdata(name(owner), 60, RData::SRV(srv))
}

pub fn naptr(owner: &str, order: u16, service: &str, to: &str) -> Record {
    let naptr = NAPTR::new(
        order,
        0,
        b"s"[..].into(),
        service.as_bytes().into(),
        b""[..].into(),
        name(to),
    );
    Record::from_rdata(name(owner), 60, RData::NAPTR(naptr))
}

pub fn soa(owner: &str, minimum: u32) -> Record {
    let soa = SOA::new(name(owner), name(owner), 1, 2, 3, 4, minimum);
    Record::from_rdata(name(owner), 60, RData::SOA(soa))
}

/// An answer with these records and the question as it came.
pub fn reply(query: &Message, code: ResponseCode, answers: &[Record]) -> Box<Message> {
    let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.metadata.recursion_available = true;
    message.add_queries(query.queries.clone());
    message.add_answers(answers.to_vec());
    Box::new(message)
}

/// A server that has these records and knows that there are no others. Follows aliases.
pub fn zone(records: Vec<Record>) -> impl Fn(&Sent) -> Says {
    move |sent| {
        let question = &sent.query.queries[0];
        let (mut owner, mut found) = (question.name.clone(), Vec::new());
        loop {
            let here: Vec<&Record> = records.iter().filter(|r| r.name == owner).collect();
            let wanted = here
                .iter()
                .filter(|r| r.record_type() == question.query_type);
            found.extend(wanted.map(|r| (*r).clone()));
            let alias = here.iter().find_map(|r| match &r.data {
                RData::CNAME(to) => Some(((*r).clone(), to.0.clone())),
                _ => None,
            });
            match alias {
                Some((record, to)) if found.len() < 20 => {
                    found.push(record);
                    owner = to;
                }
                _ => break,
            }
        }
        let exists = records.iter().any(|r| r.name == question.name);
        let code = if exists {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        };
        let mut message = reply(&sent.query, code, &found);
        if found.iter().all(|r| r.record_type() != question.query_type) {
            message.add_authority(soa("example", 30));
        }
        Says::Message(message)
    }
}

/// The token that asks for ranks.
pub const RANKED: u32 = 77;

pub fn silent(_: &Sent) -> Says {
    Says::Nothing
}

impl World {
    pub fn new(settings: Settings, families: Families) -> Self {
        Self::with_hosts(settings, families, "")
    }

    pub fn with_hosts(settings: Settings, families: Families, hosts: &str) -> Self {
        let hosts = Arc::new(Hosts::parse(hosts));
        Self {
            resolver: Resolver::new(settings, families, hosts, Key([7; 16])),
            now: Instant::from_nanos(1_000_000_000_000),
            out: Outputs::default(),
            asked: Vec::new(),
            edns: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub fn step(&mut self, input: Input<'_, u32>) {
        self.resolver.step(self.now, input, &mut self.out);
        for answer in self.out.answers.drain(..) {
            self.answers.push((self.now, answer));
        }
    }

    pub fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Asks for a host as a URI names it: `name`, `name:port`, `name;transport`. Each token is another's.
    pub fn resolve(&mut self, token: u32, text: &str) {
        self.resolve_for(IpAddr::V4(token.into()), token, text);
    }

    pub fn resolve_for(&mut self, source: IpAddr, token: u32, text: &str) {
        let (text, transport) = match text.split_once(';') {
            Some((text, transport)) => (text, Some(transport.as_bytes())),
            None => (text, None),
        };
        let bare = text.parse::<std::net::Ipv6Addr>().is_ok();
        let (host, port) = match text.split_once(':') {
            _ if bare => (text, None),
            Some((host, port)) => (host, Some(port.parse().unwrap())),
            None => (text, None),
        };
        let target = Target {
            host: host.parse().map_or(Host::Name(host.as_bytes()), Host::Ip),
            port,
            transport,
            secure: false,
        };
        self.step(Input::Resolve {
            token,
            target,
            source,
            seed: u64::from(token),
            ranked: token == RANKED,
        });
    }

    /// What was sent since the last look.
    pub fn sent(&mut self) -> Vec<Sent> {
        let datagrams = std::mem::take(&mut self.out.sends)
            .into_iter()
            .map(|(server, lane, bytes)| (server, lane, None, bytes));
        let streams = std::mem::take(&mut self.out.opens)
            .into_iter()
            .map(|(connection, server, bytes)| (server, 0, Some(connection), bytes[2..].to_vec()));
        let all: Vec<Sent> = datagrams
            .chain(streams)
            .map(|(server, lane, connection, bytes)| Sent {
                server,
                lane,
                connection,
                query: Message::from_vec(&bytes).unwrap(),
            })
            .collect();
        for sent in &all {
            let question = &sent.query.queries[0];
            let by = if sent.connection.is_some() {
                "tcp "
            } else {
                ""
            };
            let owner = question.name.to_ascii().to_lowercase();
            self.asked.push(format!(
                "{by}{} {} @{}",
                question.query_type,
                owner.trim_end_matches('.'),
                sent.server
            ));
            self.edns.push(sent.query.edns.is_some());
        }
        all
    }

    pub fn deliver(&mut self, sent: &Sent, message: &Message) {
        let bytes = message.to_vec().unwrap();
        match sent.connection {
            None => self.step(Input::Datagram {
                server: sent.server,
                lane: sent.lane,
                bytes: &bytes,
            }),
            Some(connection) => {
                let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
                // Cut anywhere.
                for byte in length.iter().chain(&bytes) {
                    self.step(Input::Stream {
                        connection,
                        bytes: &[*byte],
                    });
                }
            }
        }
    }

    /// Lets servers answer and time pass until nothing is left to do, or for so long.
    pub fn run_for(&mut self, limit: Duration, says: impl Fn(&Sent) -> Says) {
        let end = self.now + limit;
        for _ in 0..200_000 {
            let all = self.sent();
            let any = !all.is_empty();
            for sent in all {
                match (says(&sent), sent.connection) {
                    (Says::Nothing, _) => {}
                    (Says::Message(message), _) => self.deliver(&sent, &message),
                    (Says::Refused, Some(connection)) => self.step(Input::Closed { connection }),
                    (Says::Refused, None) => self.step(Input::Unreachable {
                        server: sent.server,
                        lane: sent.lane,
                    }),
                }
            }
            if any {
                continue;
            }
            match self.resolver.deadline() {
                Some(due) if due <= end => {
                    self.now = self.now.max(due);
                    self.step(Input::Tick);
                }
                Some(_) => {
                    self.now = end;
                    return;
                }
                None => return,
            }
        }
        panic!("the resolver does not come to rest");
    }

    pub fn run(&mut self, says: impl Fn(&Sent) -> Says) {
        self.run_for(Duration::from_secs(60), says);
        assert_eq!(self.resolver.pending(), 0);
        assert_eq!(self.resolver.questions(), 0);
        assert_eq!(self.resolver.deadline(), None, "nothing is left");
    }

    /// The answer to one resolution, as text.
    pub fn look(&mut self, text: &str, says: impl Fn(&Sent) -> Says) -> String {
        let before = self.answers.len();
        self.resolve(1, text);
        self.run(says);
        assert_eq!(self.answers.len(), before + 1, "one answer");
        show(&self.answers[before].1)
    }
}

pub fn show(answer: &Answer<u32>) -> String {
    if answer.hops.is_empty() {
        return format!("{:?}", answer.reason);
    }
    let hops: Vec<String> = answer.hops.iter().map(ToString::to_string).collect();
    hops.join(" ")
}
