//! A proxy of one slot over an arena of its own, with a clock that the caller moves: what goes out is kept and looked at.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy::{
    Admission, Answer, AskKind, CallPlan, ContextId, Datagram, Decision, Disposition, Domain, Env,
    Input, Listener, Outputs, Proxy, Question, Settings, Target,
};
use shm::{Arena, Layout, Participant, ParticipantId};
use sip::HeaderName;
use sip::uri::{Host, Uri};
use stdx::Instant;
use tables::{LOCATION, TABLES, TRANSACTION};

use crate::agree;

/// Where requests go that have no address.
pub const FAR: &str = "192.0.2.99:5060";

/// How often a request is stepped that two slots take at the same moment.
const TRIES_MAX: usize = 8;

/// Datagrams that come back to ourselves within one input.
const LOOPS_MAX: usize = 64;

/// Who answers the machine's questions, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the bindings of the Request-URI.
    Location,
    /// Where the request says.
    Anywhere,
    /// To two next hops at once.
    Fork,
    Refused,
}

/// A datagram of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub listener: u32,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

pub struct World {
    arena: Arena,
    participant: Participant,
    proxy: Proxy,
    settings: Arc<Settings>,
    out: Outputs,
    wheel: BTreeSet<(Instant, u64)>,
    now: Instant,
    turn: u64,
    pub way: Way,
    /// Credentials are wanted.
    pub digest: bool,
    /// Whether what begins is hidden.
    pub hide: Option<topology::Mode>,
    pub sent: Vec<Sent>,
}

/// The server: example.com, with a listener for each family and one more.
pub fn settings() -> Settings {
    Settings {
        version: 1,
        listeners: vec![
            Listener::new(1, address("192.0.2.1:5060"), None),
            Listener::new(2, address("192.0.2.2:5070"), Some("edge.example.com")),
            Listener::new(3, address("[2001:db8::1]:5060"), None),
        ],
        addresses: proxy::Addresses::default(),
        domains: vec![Domain::new("example.com", true)],
        timers: transaction::Timers::default(),
        timer_c: Duration::from_secs(190),
        registrar: registrar::Policy::default(),
        auth: proxy::AuthPolicy::default(),
        dialog_key: stdx::hash::Key([9; 16]),
        hiding: proxy::Hiding::of_key(&stdx::hash::Key([9; 16])),
        branches_max: 8,
        forking: proxy::Forking::default(),
        media: Vec::new(),
    }
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    pub fn new() -> World {
        let mut layout = Layout::new(8 << 20, 1, 1, TABLES);
        layout.rx_buffers = 4;
        layout.rx_buffer_bytes = 1024;
        layout.limit = layout.limit.max(layout.least_limit());
        let arena = Arena::heap(&layout, [7; 16]).expect("an arena");
        let settings = Arc::new(settings());
        let mut participant = arena.participant(ParticipantId(0));
        participant.online();
        World {
            proxy: Proxy::new(0, arena.key(), Arc::clone(&settings)),
            participant,
            arena,
            settings,
            out: Outputs::default(),
            wheel: BTreeSet::new(),
            now: Instant::ZERO + Duration::from_secs(1000),
            turn: 0,
            way: Way::Location,
            digest: false,
            hide: None,
            sent: Vec::new(),
        }
    }

    /// Serves one datagram, and what of ours came back by it.
    pub fn deliver(&mut self, datagram: Datagram<'_>) {
        let from = self.sent.len();
        self.serve(datagram);
        for next in (from..).take(LOOPS_MAX) {
            let Some(sent) = self.sent.get(next).cloned() else {
                return;
            };
            let listener = self
                .settings
                .listeners
                .iter()
                .find(|l| l.address == sent.to)
                .map(|l| l.id);
            let source = self
                .settings
                .listeners
                .iter()
                .find(|l| l.id == sent.listener)
                .map(|l| l.address);
            if let (Some(listener), Some(source)) = (listener, source) {
                self.serve(Datagram {
                    bytes: &sent.bytes,
                    source,
                    listener: listener.into(),
                    truncated: false,
                });
            }
        }
    }

    fn serve(&mut self, datagram: Datagram<'_>) {
        self.turn += 1;
        self.participant.quiescent();
        for _ in 0..TRIES_MAX {
            let mut disposition = self.step(Input::Datagram(datagram));
            if disposition == Disposition::Served {
                self.answer(Some(datagram));
                disposition = self.settle(Some(datagram));
            }
            if disposition != Disposition::Again {
                break;
            }
        }
        self.dispatch();
    }

    fn step(&mut self, input: Input<'_>) -> Disposition {
        let mut env = Env {
            now: self.now,
            turn: self.turn,
            arena: &mut self.participant,
        };
        self.proxy.step(&mut env, input, &mut self.out)
    }

    fn settle(&mut self, at_hand: Option<Datagram<'_>>) -> Disposition {
        let mut env = Env {
            now: self.now,
            turn: self.turn,
            arena: &mut self.participant,
        };
        self.proxy.settle(&mut env, at_hand, &mut self.out)
    }

    fn answer(&mut self, at_hand: Option<Datagram<'_>>) {
        while let Some(ask) = self.out.asks.pop() {
            let env = Env {
                now: self.now,
                turn: self.turn,
                arena: &mut self.participant,
            };
            let (way, digest, hide) = (self.way, self.digest, self.hide);
            let answer = self
                .proxy
                .question(&env, ask.id, at_hand, |question| match ask.kind {
                    AskKind::Admit if digest => Answer::Admitted(Admission::Authenticate {
                        realm: b"example.com".to_vec(),
                        also: proxy::Algorithms::NONE,
                    }),
                    AskKind::Admit => Answer::Admitted(Admission::Allow),
                    AskKind::Credentials => {
                        Answer::Credentials(question.credentials().map(|(user, realm)| {
                            Arc::new(proxy::Account::of_password(&user, realm, b"secret"))
                        }))
                    }
                    AskKind::Route if question.is_addressed() => {
                        Answer::Routed(Decision::Dns, CallPlan::default())
                    }
                    AskKind::Route => Answer::Routed(
                        decide(way, &question),
                        CallPlan {
                            hide,
                            ..CallPlan::default()
                        },
                    ),
                    AskKind::Resolve { branch } => {
                        Answer::Resolved(question.next_hop(branch).map_or(Vec::new(), resolve))
                    }
                });
            if let Some(answer) = answer {
                self.step(Input::Answer {
                    id: ask.id,
                    answer,
                    at_hand,
                });
            }
        }
    }

    /// Takes what goes out, and looks at it: a message, and the same one for everybody.
    fn dispatch(&mut self) {
        for send in &self.out.sends {
            let bytes = self.out.text(send).to_vec();
            agree::check(&bytes);
            let mut layout = sip::Layout::new();
            let message = sip::parse(&bytes, &mut layout)
                .unwrap_or_else(|e| panic!("we sent {}: {e}", bytes.escape_ascii()));
            assert_eq!(
                message.bytes().len(),
                message.whole().len() as usize,
                "nothing before or behind it"
            );
            assert!(message.has(HeaderName::Via), "{}", bytes.escape_ascii());
            self.sent.push(Sent {
                listener: send.listener.id,
                to: send.to,
                bytes,
            });
        }
        for &(deadline, id) in &self.out.arms {
            self.wheel.insert((deadline, id.pack()));
        }
        self.out.clear();
    }

    /// Lets time pass, timer by timer.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(&(at, id)) = self.wheel.first()
            && at <= end
        {
            self.wheel.pop_first();
            self.now = self.now.max(at);
            self.turn += 1;
            self.participant.quiescent();
            self.step(Input::Tick(ContextId::unpack(id)));
            self.answer(None);
            self.settle(None);
            self.dispatch();
        }
        self.now = end;
    }

    /// After time enough for every timer nothing may be left; then everything is as at the start.
    pub fn quiet(&mut self) {
        self.pass(Duration::from_secs(1000));
        assert_eq!(self.proxy.len(), 0, "contexts are left");
        assert_eq!(
            self.arena.live_rows(TRANSACTION),
            0,
            "transactions are left"
        );
        let mut rows = Vec::new();
        self.participant
            .rows(LOCATION, |record| rows.push(record.row));
        for row in rows {
            self.participant.remove(row, None);
        }
        self.wheel.clear();
        self.sent.clear();
        (self.way, self.digest, self.hide) = (Way::Location, false, None);
    }

    /// Every invariant of the arena holds, and nothing is lost in it.
    pub fn audit(&mut self) {
        self.participant.quiescent();
        self.participant.scrub(u32::MAX);
        for _ in 0..64 {
            self.participant.quiescent();
        }
        assert_eq!(shm::audit(&self.arena, true), []);
    }
}

fn decide(way: Way, question: &Question<'_>) -> Decision {
    let Some(uri) = question
        .message
        .request()
        .and_then(|line| Uri::parse(line.uri).ok())
    else {
        return Decision::Reject { code: 400 };
    };
    let settings = question.settings();
    let ours = settings.domain_of(&uri).is_some() || settings.listener_named(&uri).is_some();
    match way {
        _ if ours && uri.user.is_none() => Decision::Location { known: false },
        Way::Location => Decision::Location { known: true },
        Way::Anywhere => Decision::Dns,
        Way::Fork => Decision::Targets(vec![
            Target::next_hop(b"sip:192.0.2.10".to_vec()),
            Target::next_hop(b"sip:[2001:db8::10]".to_vec()),
        ]),
        Way::Refused => Decision::Reject { code: 603 },
    }
}

fn resolve(uri: &[u8]) -> Vec<SocketAddr> {
    match Uri::parse(uri) {
        Ok(uri) if matches!(uri.host, Some(Host::Name(_))) => vec![address(FAR)],
        Ok(uri) => proxy::literal_address(&uri).into_iter().collect(),
        Err(_) => Vec::new(),
    }
}
