//! A destination, and callers who call as many as they are told to.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use blackbox::{
    machine::fresh_address,
    message::Message,
    peer::{Peer, unique},
};

/// What a destination does, and what it has seen.
#[derive(Debug, Default)]
pub struct Ways {
    /// What INVITEs are answered with; 0: nothing.
    pub invite: AtomicU16,
    /// What probes are answered with; 0: nothing.
    pub options: AtomicU16,
    /// How long answers to INVITEs take. Unit: ms.
    pub delay_ms: AtomicU64,
    /// The probes that came.
    pub probes: AtomicU64,
    seen: Mutex<Seen>,
    end: AtomicBool,
}

/// By Call-ID.
#[derive(Debug, Default)]
pub struct Seen {
    pub invited: HashSet<String>,
    pub live: HashSet<String>,
    /// Calls that it had at a time.
    pub most: usize,
}

/// A destination: a thread that answers.
#[derive(Debug)]
pub struct Site {
    pub address: SocketAddr,
    pub ways: Arc<Ways>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// At an address of its own.
    pub fn start() -> Self {
        Self::at(SocketAddr::from((fresh_address(), 5060)))
    }

    pub fn at(address: SocketAddr) -> Self {
        Self::with(address, Arc::default())
    }

    /// Comes back where one has gone, with what that one had.
    pub fn with(address: SocketAddr, ways: Arc<Ways>) -> Self {
        ways.invite.store(200, Ordering::Relaxed);
        ways.options.store(200, Ordering::Relaxed);
        ways.end.store(false, Ordering::Relaxed);
        let peer = Peer::bind_port(address.ip(), address.port());
        let thread = std::thread::spawn({
            let ways = Arc::clone(&ways);
            move || serve(&peer, &ways)
        });
        Self {
            address,
            ways,
            thread: Some(thread),
        }
    }

    pub fn uri(&self) -> String {
        format!("sip:{}", self.address)
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.ways.seen.lock().expect("nobody panics with it")
    }

    pub fn invited(&self) -> usize {
        self.seen().invited.len()
    }

    pub fn probes(&self) -> u64 {
        self.ways.probes.load(Ordering::Relaxed)
    }

    /// Its socket is closed, and nobody answers any more.
    pub fn kill(&mut self) {
        self.ways.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a destination does not panic");
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Another one may have what one that was killed had.
        if self.thread.is_some() {
            self.ways.end.store(true, Ordering::Relaxed);
        }
    }
}

fn serve(peer: &Peer, ways: &Ways) {
    let mut later: Vec<(Instant, Message, SocketAddr)> = Vec::new();
    while !ways.end.load(Ordering::Relaxed) {
        let due = later.iter().map(|(at, ..)| *at).min();
        let wait = due.map_or(Duration::from_millis(20), |due| {
            due.saturating_duration_since(Instant::now())
        });
        let came = peer.receive(wait.min(Duration::from_millis(20)));
        if let Some((message, from)) = came {
            on_message(peer, ways, &message, from, &mut later);
        }
        let now = Instant::now();
        later.retain(|(at, message, to)| {
            let due = *at <= now;
            if due {
                peer.send(message, *to);
            }
            !due
        });
    }
}

fn on_message(
    peer: &Peer,
    ways: &Ways,
    message: &Message,
    from: SocketAddr,
    later: &mut Vec<(Instant, Message, SocketAddr)>,
) {
    let mut seen = ways.seen.lock().expect("nobody panics with it");
    let id = message.call_id().to_owned();
    let contact = format!("<sip:{}>", peer.address);
    match message.method() {
        "OPTIONS" => {
            ways.probes.fetch_add(1, Ordering::Relaxed);
            let code = ways.options.load(Ordering::Relaxed);
            if code != 0 {
                peer.send(&message.response(code, "Said", "site"), from);
            }
        }
        "INVITE" => {
            let code = ways.invite.load(Ordering::Relaxed);
            seen.invited.insert(id.clone());
            if code == 0 {
                return;
            }
            if code == 200 {
                seen.live.insert(id);
                seen.most = seen.most.max(seen.live.len());
            }
            let answer = message
                .response(code, "Said", "site")
                .with("Contact", contact);
            let delay = Duration::from_millis(ways.delay_ms.load(Ordering::Relaxed));
            if delay.is_zero() {
                peer.send(&answer, from);
            } else {
                later.push((Instant::now() + delay, answer, from));
            }
        }
        "BYE" | "CANCEL" => {
            seen.live.remove(&id);
            peer.send(&message.response(200, "OK", "site"), from);
        }
        _ => {}
    }
}

/// How calls go.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub calls: usize,
    /// Under way at a time.
    pub window: usize,
    /// Whether the caller hangs up at once.
    pub hang_up: bool,
}

/// What became of calls.
#[derive(Debug, Default)]
pub struct Report {
    /// Calls by the final code of their INVITE; 0: there was none in time.
    pub codes: HashMap<u16, usize>,
    /// Calls that are up: what their BYEs need.
    pub up: Vec<Up>,
}

impl Report {
    pub fn of(&self, code: u16) -> usize {
        self.codes.get(&code).copied().unwrap_or_default()
    }
}

/// A call that is up.
#[derive(Clone, Debug)]
pub struct Up {
    answer: Message,
}

impl Up {
    /// Whether it is with this destination.
    pub fn at(&self, address: SocketAddr) -> bool {
        let contact = self.answer.contact_uri();
        contact.is_some_and(|contact| contact.contains(&address.to_string()))
    }
}

/// How long a call may take to be answered or refused.
const PATIENCE: Duration = Duration::from_secs(40);
const T1: Duration = Duration::from_millis(500);

struct Calling {
    invite: Message,
    began: Instant,
    again: Instant,
    wait: Duration,
}

/// Somebody who calls, from an address of his own. Slots are chosen by source: several callers call by several slots.
pub struct Caller {
    peer: Peer,
    server: SocketAddr,
}

impl Caller {
    pub fn new(ip: Ipv4Addr, server: SocketAddr) -> Self {
        Self {
            peer: Peer::bind(ip),
            server,
        }
    }

    /// Calls. `invite` may change each of the INVITEs.
    pub fn call(&self, plan: Plan, mut change: impl FnMut(usize, &mut Message)) -> Report {
        let mut report = Report::default();
        let mut under_way: HashMap<String, Calling> = HashMap::new();
        let mut begun = 0;
        while begun < plan.calls || !under_way.is_empty() {
            while begun < plan.calls && under_way.len() < plan.window {
                let mut invite = self.invite(begun);
                change(begun, &mut invite);
                self.peer.send(&invite, self.server);
                let now = Instant::now();
                let id = invite.call_id().to_owned();
                let calling = Calling {
                    invite,
                    began: now,
                    again: now + T1,
                    wait: T1,
                };
                under_way.insert(id, calling);
                begun += 1;
            }
            if let Some((message, _)) = self.peer.receive(Duration::from_millis(20)) {
                self.hear(&message, &mut under_way, &mut report, plan.hang_up);
            }
            let now = Instant::now();
            under_way.retain(|_, calling| {
                if now >= calling.again {
                    self.peer.send(&calling.invite, self.server);
                    calling.wait *= 2;
                    calling.again = now + calling.wait;
                }
                let given_up = now >= calling.began + PATIENCE;
                if given_up {
                    *report.codes.entry(0).or_default() += 1;
                }
                !given_up
            });
        }
        report
    }

    fn invite(&self, number: usize) -> Message {
        let id = unique();
        Message::request("INVITE", &format!("sip:{number}@example.test"))
            .with(
                "Via",
                format!("SIP/2.0/UDP {};branch=z9hG4bK{id};rport", self.peer.address),
            )
            .with("Max-Forwards", "70")
            .with("From", format!("<sip:caller@example.test>;tag={id}"))
            .with("To", format!("<sip:{number}@example.test>"))
            .with("Call-ID", id)
            .with("CSeq", "1 INVITE")
            .with("Contact", format!("<sip:caller@{}>", self.peer.address))
    }

    fn hear(
        &self,
        message: &Message,
        under_way: &mut HashMap<String, Calling>,
        report: &mut Report,
        hang_up: bool,
    ) {
        if message.is_request() || message.status() < 200 {
            if let Some(calling) = under_way.get_mut(message.call_id()) {
                calling.again = Instant::now() + PATIENCE;
            }
            return;
        }
        if !message
            .first("CSeq")
            .is_some_and(|cseq| cseq.contains("INVITE"))
        {
            return;
        }
        let code = message.status();
        let Some(calling) = under_way.remove(message.call_id()) else {
            if code < 300 {
                self.peer.send(&self.within(message, "ACK"), self.server);
            }
            return;
        };
        *report.codes.entry(code).or_default() += 1;
        if code < 300 {
            self.peer.send(&self.within(message, "ACK"), self.server);
            if hang_up {
                self.peer.send(&self.within(message, "BYE"), self.server);
            } else {
                report.up.push(Up {
                    answer: message.clone(),
                });
            }
        } else {
            let mut ack = calling.invite;
            ack.start = ack.start.replace("INVITE", "ACK");
            ack.set("CSeq", "1 ACK");
            if let Some(to) = message.first("To") {
                ack.set("To", to);
            }
            self.peer.send(&ack, self.server);
        }
    }

    /// Hangs up all of these, and waits until every BYE is answered.
    pub fn hang_up(&self, up: &[Up]) {
        let mut waiting: HashMap<String, Message> = HashMap::new();
        for call in up {
            let bye = self.within(&call.answer, "BYE");
            waiting.insert(bye.call_id().to_owned(), bye);
        }
        let end = Instant::now() + PATIENCE;
        let mut again = Instant::now();
        while !waiting.is_empty() {
            assert!(Instant::now() < end, "{} BYEs unanswered", waiting.len());
            if Instant::now() >= again {
                for bye in waiting.values() {
                    self.peer.send(bye, self.server);
                }
                again = Instant::now() + 2 * T1;
            }
            while let Some((message, _)) = self.peer.receive(Duration::from_millis(20)) {
                let bye = message
                    .first("CSeq")
                    .is_some_and(|cseq| cseq.contains("BYE"));
                if !message.is_request() && bye {
                    waiting.remove(message.call_id());
                }
                if waiting.is_empty() || Instant::now() >= again {
                    break;
                }
            }
        }
    }

    fn within(&self, answer: &Message, method: &str) -> Message {
        let target = answer.contact_uri().expect("a 2xx has a Contact");
        let cseq = if method == "ACK" { 1 } else { 2 };
        let mut request = Message::request(method, &target)
            .with(
                "Via",
                format!(
                    "SIP/2.0/UDP {};branch=z9hG4bK{}{};rport",
                    self.peer.address,
                    method,
                    answer.call_id()
                ),
            )
            .with("Max-Forwards", "70");
        for route in answer.values("Record-Route").iter().rev() {
            request.push("Route", route.clone());
        }
        for name in ["From", "To", "Call-ID"] {
            request.push(name, answer.first(name).unwrap_or_default());
        }
        request.with("CSeq", format!("{cseq} {method}"))
    }
}
