//! The callers' calls and what is under way in them; and the callees' answers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::text::{Dialog, Heard, Kind};
use super::{GIVEN_UP, Report, SOCKETS, Socket, T1, T2, UNDER_WAY_MAX, Work};
use crate::server::DOMAIN;

/// Requests begun between two looks at the sockets.
const BURST_MAX: u32 = 32;

/// The user that is reached by the callees' socket of this number.
pub(super) fn callee(nth: usize) -> String {
    format!("callee{nth}")
}

#[derive(Debug, Default)]
struct Call {
    /// Counts the calls of this place.
    generation: u32,
    dialog: Dialog,
    cseq: u32,
    up: bool,
    flight: Option<Flight>,
}

/// A request without a final answer.
#[derive(Debug)]
struct Flight {
    kind: Kind,
    text: String,
    first: Instant,
    wait: Duration,
    /// An INVITE that a provisional response has come to is not repeated.
    proceeding: bool,
}

/// What is looked after at a time: a call's place, its generation and the CSeq of its request.
type Due = Reverse<(Instant, usize, u32, u32)>;

pub(super) struct Callers {
    pub(super) sockets: Vec<Socket>,
    server: SocketAddr,
    users: u64,
    /// Part of every Call-ID, so that no two crowds have the same.
    seed: String,
    calls: Vec<Call>,
    free: Vec<usize>,
    up: usize,
    under_way: usize,
    due: BinaryHeap<Due>,
    /// Calls to be ended, in order.
    leaving: VecDeque<(Instant, usize, u32)>,
    /// Where `Ask` and `HangUp` go on.
    next: usize,
    work: Option<(Work, Instant)>,
    /// Requests of the present work.
    begun: u64,
    report: Report,
}

impl Callers {
    pub(super) fn new(sockets: Vec<Socket>, server: SocketAddr, users: u64) -> Self {
        Self {
            sockets,
            server,
            users,
            seed: crate::peer::unique(),
            calls: Vec::new(),
            free: Vec::new(),
            up: 0,
            under_way: 0,
            due: BinaryHeap::new(),
            leaving: VecDeque::new(),
            next: 0,
            work: None,
            begun: 0,
            report: Report::default(),
        }
    }

    pub(super) fn begin(&mut self, work: Work) {
        self.work = Some((work, Instant::now()));
        self.begun = 0;
        self.next = 0;
        self.report = Report::default();
    }

    /// What came of the work, once it is over.
    pub(super) fn finished(&mut self) -> Option<Report> {
        let (work, began) = self.work?;
        if self.under_way > 0 || !self.leaving.is_empty() || self.begun < self.wanted(work) {
            return None;
        }
        self.work = None;
        let mut report = std::mem::take(&mut self.report);
        report.took = began.elapsed();
        report.up = self.up;
        Some(report)
    }

    /// Requests of a work.
    fn wanted(&self, work: Work) -> u64 {
        match work {
            Work::Call { calls, .. } | Work::Visit { calls, .. } => calls,
            Work::Ask { requests, .. } => requests,
            // Those that are up, and those that were.
            Work::HangUp { .. } => self.begun + (self.up - self.under_way) as u64,
        }
    }

    /// Sends what the rate wants sent by now. False: nothing.
    pub(super) fn send_due(&mut self, now: Instant) -> bool {
        let mut sent = false;
        while let Some(&(at, place, generation)) = self.leaving.front() {
            if at > now {
                break;
            }
            self.leaving.pop_front();
            let there = self.calls.get(place);
            if there.is_some_and(|call| call.generation == generation && call.up) {
                self.ask(place, Kind::Bye, now);
                sent = true;
            }
        }
        let Some((work, began)) = self.work else {
            return sent;
        };
        let (rate, kind) = match work {
            Work::Call { rate, .. } | Work::Visit { rate, .. } => (rate, Kind::Invite),
            Work::Ask { rate, kind, .. } => (rate, kind),
            Work::HangUp { rate } => (rate, Kind::Bye),
        };
        let since = now.saturating_duration_since(began);
        let due = (since.as_secs_f64() * f64::from(rate)) as u64;
        for _ in 0..BURST_MAX {
            let wanted = self.wanted(work).min(due);
            if self.begun >= wanted || self.under_way >= UNDER_WAY_MAX {
                break;
            }
            let done = match kind {
                Kind::Invite => {
                    self.call(now);
                    true
                }
                _ => self.ask_next(kind, now),
            };
            // Every call is busy.
            if !done {
                break;
            }
            self.begun += 1;
            sent = true;
        }
        sent
    }

    /// A request in the next call that has none under way. False: there is none.
    fn ask_next(&mut self, kind: Kind, now: Instant) -> bool {
        for _ in 0..self.calls.len() {
            let place = self.next % self.calls.len().max(1);
            self.next += 1;
            let idle = |call: &Call| call.up && call.flight.is_none();
            if self.calls.get(place).is_some_and(idle) {
                self.ask(place, kind, now);
                return true;
            }
        }
        false
    }

    fn call(&mut self, now: Instant) {
        let place = self.free.pop().unwrap_or(self.calls.len());
        if place == self.calls.len() {
            self.calls.push(Call::default());
        }
        let Some(socket) = self.sockets.get(place % SOCKETS) else {
            return;
        };
        let address = socket.address;
        let Some(call) = self.calls.get_mut(place) else {
            return;
        };
        call.generation += 1;
        call.cseq = 0;
        let number = place as u64 % self.users;
        let target = format!("sip:{}@{DOMAIN}", callee(place / SOCKETS % SOCKETS));
        call.dialog = Dialog {
            call_id: format!(
                "{place:x}-{:x}-{}@{}",
                call.generation,
                self.seed,
                address.ip()
            ),
            from: format!("\"User {number}\" <sip:u{number}@{DOMAIN}>;tag=9fxced{place:x}"),
            to: format!("<{target}>"),
            contact: format!("sip:u{number}@{address};ob"),
            target,
            routes: String::new(),
        };
        self.ask(place, Kind::Invite, now);
    }

    fn ask(&mut self, place: usize, kind: Kind, now: Instant) {
        let (Some(call), Some(socket)) =
            (self.calls.get_mut(place), self.sockets.get(place % SOCKETS))
        else {
            return;
        };
        call.cseq += 1;
        let branch = format!("{place:x}.{:x}.{:x}", call.generation, call.cseq);
        let text = call
            .dialog
            .request(kind.method(), call.cseq, &branch, socket.address);
        socket.send(&text, self.server);
        call.flight = Some(Flight {
            kind,
            text,
            first: now,
            wait: T1,
            proceeding: false,
        });
        self.under_way += 1;
        self.due
            .push(Reverse((now + T1, place, call.generation, call.cseq)));
    }

    /// A response.
    pub(super) fn hear(&mut self, heard: &Heard<'_>, now: Instant) {
        let Some(status) = heard.status() else {
            self.report.fail(format!("a caller got {}", heard.start));
            return;
        };
        let Some((place, generation)) = place_of(heard.call_id) else {
            return;
        };
        let (Some(call), Some(socket)) =
            (self.calls.get_mut(place), self.sockets.get(place % SOCKETS))
        else {
            return;
        };
        if call.generation != generation {
            return;
        }
        let ours = call.cseq == heard.cseq;
        let Some(flight) = call.flight.as_mut().filter(|_| ours) else {
            // A 2xx again: its ACK was lost (§13.2.2.4).
            if heard.method == "INVITE" && (200..300).contains(&status) {
                acknowledge(call, place, heard.cseq, socket, self.server);
            }
            return;
        };
        if status < 200 {
            flight.proceeding = true;
            return;
        }
        let (kind, text) = (flight.kind, std::mem::take(&mut flight.text));
        let took = now.saturating_duration_since(flight.first);
        call.flight = None;
        self.under_way -= 1;
        self.report.slowest = self.report.slowest.max(took);
        if status != 200 {
            self.report.fail(format!(
                "{} of {}: {}",
                kind.method(),
                call.dialog.call_id,
                heard.start
            ));
            if kind.is_invite() {
                socket.send(&refusal_ack(&text, heard), self.server);
            }
            self.lose(place, kind);
            return;
        }
        let visits = match self.work {
            Some((Work::Visit { hold, .. }, _)) => Some(hold),
            _ => None,
        };
        if visits.is_none() || kind != Kind::Bye {
            self.report.done += 1;
        }
        match kind {
            Kind::Invite => {
                call.dialog.confirm(heard);
                call.up = true;
                self.up += 1;
                if let Some(hold) = visits {
                    self.leaving.push_back((now + hold, place, generation));
                }
            }
            Kind::Again | Kind::Update | Kind::Info | Kind::Bye => {}
        }
        if kind.is_invite() {
            acknowledge(call, place, heard.cseq, socket, self.server);
        }
        if kind == Kind::Bye {
            self.lose(place, kind);
        }
    }

    /// A call that did not begin, or that has ended, however its BYE was answered.
    fn lose(&mut self, place: usize, kind: Kind) {
        if !matches!(kind, Kind::Invite | Kind::Bye) {
            return;
        }
        if let Some(call) = self.calls.get_mut(place) {
            self.up -= usize::from(call.up);
            call.up = false;
            self.free.push(place);
        }
    }

    /// Sends again what has no answer, and gives up in the end.
    pub(super) fn repeat(&mut self, now: Instant) {
        while let Some(&Reverse((at, place, generation, cseq))) = self.due.peek() {
            if at > now {
                break;
            }
            self.due.pop();
            let Some(call) = self.calls.get_mut(place) else {
                continue;
            };
            let (same, id) = (
                call.generation == generation && call.cseq == cseq,
                &call.dialog.call_id,
            );
            let Some(flight) = call.flight.as_mut().filter(|_| same) else {
                continue;
            };
            if now.saturating_duration_since(flight.first) > GIVEN_UP {
                self.report
                    .fail(format!("{} of {id}: no answer", flight.kind.method()));
                let kind = flight.kind;
                call.flight = None;
                self.under_way -= 1;
                self.lose(place, kind);
                continue;
            }
            if !flight.proceeding {
                if let Some(socket) = self.sockets.get(place % SOCKETS) {
                    socket.send(&flight.text, self.server);
                }
                self.report.retransmissions += 1;
            }
            flight.wait *= 2;
            if !flight.kind.is_invite() || flight.proceeding {
                flight.wait = flight.wait.min(T2);
            }
            self.due
                .push(Reverse((now + flight.wait, place, generation, cseq)));
        }
    }
}

fn acknowledge(call: &Call, place: usize, cseq: u32, socket: &Socket, server: SocketAddr) {
    let branch = format!("{place:x}.{:x}.{cseq:x}.ack", call.generation);
    let ack = call.dialog.request("ACK", cseq, &branch, socket.address);
    socket.send(&ack, server);
}

/// The ACK of a refused INVITE (§17.1.1.3).
fn refusal_ack(invite: &str, refusal: &Heard<'_>) -> String {
    let head = invite.split("\r\n\r\n").next().unwrap_or_default();
    let mut text = String::new();
    for line in head.split("\r\n") {
        let name = line.split(':').next().unwrap_or_default();
        match name {
            "To" => text.push_str(&format!("To: {}", refusal.to)),
            "Contact" | "Content-Type" | "Content-Length" => continue,
            _ => text.push_str(&line.replace("INVITE", "ACK")),
        }
        text.push_str("\r\n");
    }
    text + "Content-Length: 0\r\n\r\n"
}

/// Place and generation in a Call-ID of ours.
fn place_of(call_id: &str) -> Option<(usize, u32)> {
    let mut words = call_id.split('-');
    let place = usize::from_str_radix(words.next()?, 16).ok()?;
    let generation = u32::from_str_radix(words.next()?, 16).ok()?;
    Some((place, generation))
}

/// The callees' 2xx to INVITEs, until an ACK comes, by Call-ID.
#[derive(Default)]
pub(super) struct Unacknowledged {
    waiting: HashMap<String, Waiting>,
    due: BinaryHeap<Reverse<(Instant, String)>>,
}

struct Waiting {
    text: String,
    socket: usize,
    to: SocketAddr,
    first: Instant,
    again: Instant,
    wait: Duration,
}

impl Unacknowledged {
    /// Answers a request. A copy of it gets the same answer.
    pub(super) fn answer(
        &mut self,
        heard: &Heard<'_>,
        nth: usize,
        socket: &Socket,
        from: SocketAddr,
        now: Instant,
    ) {
        if heard.status().is_some() {
            return;
        }
        if heard.method == "ACK" {
            self.waiting.remove(heard.call_id);
            return;
        }
        let contact = format!("sip:{}@{};ob", callee(nth), socket.address);
        // One for each call, and the same however often it is asked.
        let tag = heard.call_id.split('@').next().unwrap_or_default();
        if heard.method != "INVITE" {
            socket.send(&heard.respond("200 OK", &contact, tag), from);
            return;
        }
        if !heard.to.contains(";tag=") {
            socket.send(&heard.respond("180 Ringing", &contact, tag), from);
        }
        let text = heard.respond("200 OK", &contact, tag);
        socket.send(&text, from);
        let call_id = heard.call_id.to_owned();
        let again = now + T1;
        self.due.push(Reverse((again, call_id.clone())));
        let waiting = Waiting {
            text,
            socket: nth,
            to: from,
            first: now,
            again,
            wait: T1,
        };
        self.waiting.insert(call_id, waiting);
    }

    /// Sends again what was not acknowledged (§13.3.1.4).
    pub(super) fn repeat(&mut self, now: Instant, sockets: &[Socket]) {
        while self.due.peek().is_some_and(|due| due.0.0 <= now) {
            let Some(Reverse((at, call_id))) = self.due.pop() else {
                return;
            };
            let Some(waiting) = self.waiting.get_mut(&call_id) else {
                continue;
            };
            // A later one has taken its place.
            if waiting.again != at {
                continue;
            }
            if now.saturating_duration_since(waiting.first) > GIVEN_UP {
                self.waiting.remove(&call_id);
                continue;
            }
            if let Some(socket) = sockets.get(waiting.socket) {
                socket.send(&waiting.text, waiting.to);
            }
            waiting.wait = (waiting.wait * 2).min(T2);
            waiting.again = now + waiting.wait;
            self.due.push(Reverse((waiting.again, call_id)));
        }
    }
}
