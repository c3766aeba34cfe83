//! What a phone asks for: calls, registrations and the rest (RFC 3261 §17.1).

use std::{net::SocketAddr, rc::Rc, time::Duration};

use stdx::Instant;

use crate::{
    policy::password,
    text::{self, Text, param, uri_of},
};

use super::{Again, CallRecord, Dialog, LIMIT, Phone, Plan, T1, Todo};

/// Without an answer a caller gives up after this.
const PATIENCE: Duration = Duration::from_secs(230);

/// What a request of ours is for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    Call {
        plan: Plan,
        call: usize,
    },
    /// A re-INVITE.
    Again {
        dialog: usize,
    },
    Register {
        expires: u32,
    },
    Bye {
        dialog: usize,
    },
    Cancel,
    Other,
}

/// Where we stand with the registrar.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registration {
    /// The last REGISTER that was answered 200: its CSeq, when the answer came, and until when the binding holds; `None`: it took the binding away.
    pub(crate) acknowledged: Option<(u32, Instant, Option<Instant>)>,
    /// The CSeq of the last REGISTER sent, and what it asked for.
    pub(crate) asked: u32,
    /// The latest that a binding may hold that any REGISTER may have led to.
    pub(crate) at_most: Option<Instant>,
    pub(crate) refused: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Calling,
    Proceeding,
    /// A final answer has come.
    Done,
}

/// A client transaction.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    branch: String,
    method: &'static str,
    call_id: String,
    cseq: u32,
    uri: String,
    request: Rc<[u8]>,
    to: SocketAddr,
    state: State,
    again: Option<Again>,
    /// Timer B, F, or our patience.
    ends: Option<Instant>,
    /// Final answers by To tag, with the ACK for each.
    finals: Vec<(u16, String, Rc<[u8]>, SocketAddr)>,
    purpose: Purpose,
    /// It carries credentials.
    proven: bool,
    cancelled: bool,
    cancel_wanted: bool,
}

impl Client {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let again = self.again.map(|again| again.at);
        again.into_iter().chain(self.ends).min()
    }
}

impl Phone {
    #[expect(clippy::too_many_arguments, reason = "what makes one request")]
    fn begin(
        &mut self,
        now: Instant,
        branch: String,
        lines: &[String],
        body: &str,
        to: SocketAddr,
        purpose: Purpose,
        proven: bool,
    ) {
        let text = text::message(lines, body);
        let read = Text::read(text.as_bytes()).expect("our own message");
        let method = METHODS
            .into_iter()
            .find(|&method| method == read.method())
            .expect("a method of ours");
        let request: Rc<[u8]> = Rc::from(text.as_bytes());
        self.clients.push(Client {
            branch,
            method,
            call_id: read.call_id().to_owned(),
            cseq: read.cseq().0,
            uri: read.uri().to_owned(),
            request: Rc::clone(&request),
            to,
            state: State::Calling,
            again: Some(Again::after(now)),
            ends: Some(now + LIMIT),
            finals: Vec::new(),
            purpose,
            proven,
            cancelled: false,
            cancel_wanted: false,
        });
        self.emit(to, &request);
    }

    pub(super) fn register(&mut self, now: Instant, expires: u32, proof: Option<String>) {
        let cseq = self.number();
        let branch = self.branch();
        let q = match self.q {
            1000 => String::new(),
            q => format!(";q=0.{q:03}"),
        };
        let mut lines = vec![
            "REGISTER sip:example.org SIP/2.0".to_owned(),
            self.via(&branch),
            "Max-Forwards: 70".to_owned(),
            format!("From: {};tag={}", self.aor(), self.name),
            format!("To: {}", self.aor()),
            format!("Call-ID: register-{}", self.name),
            format!("CSeq: {cseq} REGISTER"),
            format!("Contact: {};expires={expires}{q}", self.contact()),
        ];
        let proven = proof.is_some();
        lines.extend(proof);
        let until = now + LIMIT + Duration::from_secs(expires.into());
        self.registration.asked = cseq;
        self.registration.at_most = self.registration.at_most.max(Some(until));
        let purpose = Purpose::Register { expires };
        self.begin(now, branch, &lines, "", self.proxy, purpose, proven);
    }

    pub(super) fn call(&mut self, now: Instant, uri: &str, plan: Plan) {
        let number = self.number();
        let call_id = format!("{}-{number}", self.name);
        self.calls.push(CallRecord {
            call_id: call_id.clone(),
            begun: now,
            final_at: None,
            ended: None,
        });
        let call = self.calls.len() - 1;
        self.invite(now, uri, &call_id, 1, Purpose::Call { plan, call }, None);
    }

    fn invite(
        &mut self,
        now: Instant,
        uri: &str,
        call_id: &str,
        cseq: u32,
        purpose: Purpose,
        proof: Option<String>,
    ) {
        let branch = self.branch();
        let mut lines = vec![
            format!("INVITE {uri} SIP/2.0"),
            self.via(&branch),
            "Max-Forwards: 70".to_owned(),
            format!("From: {};tag={call_id}", self.aor()),
            format!("To: <{uri}>"),
            format!("Call-ID: {call_id}"),
            format!("CSeq: {cseq} INVITE"),
            format!("Contact: {}", self.contact()),
            format!("Subject: {call_id}"),
        ];
        let proven = proof.is_some();
        lines.extend(proof);
        if let Purpose::Call { plan, .. } = &purpose
            && let Some(after) = plan.cancel_after
        {
            let branch = branch.clone();
            self.plan(now + after, Todo::Cancel { branch });
        }
        let body = "v=0\r\no=- 0 0 IN IP4 192.0.2.1\r\n";
        self.begin(now, branch, &lines, body, self.proxy, purpose, proven);
    }

    pub(super) fn send_outside(
        &mut self,
        now: Instant,
        method: &'static str,
        uri: &str,
        proof: Option<String>,
    ) {
        let number = self.number();
        let branch = self.branch();
        let call_id = format!("{}-{number}", self.name);
        let mut lines = vec![
            format!("{method} {uri} SIP/2.0"),
            self.via(&branch),
            "Max-Forwards: 70".to_owned(),
            format!("From: {};tag={call_id}", self.aor()),
            format!("To: <{uri}>"),
            format!("Call-ID: {call_id}"),
            format!("CSeq: {number} {method}"),
            format!("Subject: {call_id}"),
        ];
        let proven = proof.is_some();
        lines.extend(proof);
        self.begin(
            now,
            branch,
            &lines,
            "hello",
            self.proxy,
            Purpose::Other,
            proven,
        );
    }

    pub(super) fn cancel(&mut self, now: Instant, branch: &str) {
        let Some(at) = self
            .clients
            .iter()
            .position(|client| client.branch == branch)
        else {
            return;
        };
        let client = &mut self.clients[at];
        match client.state {
            State::Done => return,
            // RFC 3261 §9.1: not before a provisional response.
            State::Calling => {
                client.cancel_wanted = true;
                return;
            }
            State::Proceeding if client.cancelled => return,
            State::Proceeding => {}
        }
        client.cancelled = true;
        client.ends = Some(now + LIMIT);
        let request = Rc::clone(&client.request);
        let (to, uri) = (client.to, client.uri.clone());
        let Some(invite) = Text::read(&request) else {
            return;
        };
        let mut lines = vec![
            format!("CANCEL {uri} SIP/2.0"),
            format!("Via: {}", invite.header("Via")),
            "Max-Forwards: 70".to_owned(),
        ];
        lines.extend(invite.all("Route").map(|route| format!("Route: {route}")));
        lines.extend([
            format!("From: {}", invite.header("From")),
            format!("To: {}", invite.header("To")),
            format!("Call-ID: {}", invite.call_id()),
            format!("CSeq: {} CANCEL", invite.cseq().0),
        ]);
        self.begin(
            now,
            branch.to_owned(),
            &lines,
            "",
            to,
            Purpose::Cancel,
            true,
        );
    }

    pub(super) fn hang_up(&mut self, now: Instant, dialog: usize) {
        if self.dialogs[dialog].ended {
            return;
        }
        self.dialogs[dialog].ended = true;
        self.request_within(now, dialog, "BYE", Purpose::Bye { dialog });
    }

    pub(super) fn send_within(&mut self, now: Instant, dialog: usize, method: &'static str) {
        if self.dialogs[dialog].ended {
            return;
        }
        let purpose = match method {
            "INVITE" => Purpose::Again { dialog },
            _ => Purpose::Other,
        };
        self.request_within(now, dialog, method, purpose);
    }

    fn request_within(&mut self, now: Instant, dialog: usize, method: &str, purpose: Purpose) {
        self.dialogs[dialog].cseq += 1;
        let cseq = self.dialogs[dialog].cseq;
        let (branch, lines, to) = self.within(dialog, method, cseq);
        self.begin(now, branch, &lines, "", to, purpose, true);
    }

    pub(super) fn on_response(&mut self, now: Instant, response: &Text<'_>) {
        let code = response.code().unwrap_or_default();
        let found = self.clients.iter().position(|client| {
            client.branch == response.branch() && client.method == response.method()
        });
        let Some(at) = found else {
            self.fault(&format!(
                "a response that nothing asked for: {}",
                response.summary()
            ));
            return;
        };
        let client = &self.clients[at];
        let fits = response.values("Via").len() == 1
            && response.call_id() == client.call_id
            && response.cseq().0 == client.cseq;
        if !fits {
            self.fault(&format!(
                "a response that does not fit: {}",
                response.summary()
            ));
            return;
        }
        match code {
            100..200 => self.on_provisional(now, at, code),
            200..700 if client.method == "INVITE" => self.on_invite_final(now, at, code, response),
            200..700 => self.on_final(now, at, code, response),
            _ => self.fault(&format!("no such code: {code}")),
        }
    }

    fn on_provisional(&mut self, now: Instant, at: usize, code: u16) {
        let client = &mut self.clients[at];
        if client.method == "INVITE" {
            if client.state == State::Calling {
                client.state = State::Proceeding;
                client.again = None;
                client.ends = Some(now + PATIENCE);
                if std::mem::take(&mut client.cancel_wanted) {
                    let branch = client.branch.clone();
                    self.cancel(now, &branch);
                }
            }
        } else {
            if code > 100 {
                let what = format!("{code} to a {}, RFC 4320", client.method);
                self.fault(&what);
                return;
            }
            if client.state == State::Calling {
                client.state = State::Proceeding;
            }
        }
    }

    fn on_invite_final(&mut self, now: Instant, at: usize, code: u16, response: &Text<'_>) {
        let tag = response.to_tag().to_owned();
        let client = &self.clients[at];
        let known = client
            .finals
            .iter()
            .find(|(other, of, ..)| *other == code && *of == tag);
        if let Some((_, _, ack, to)) = known {
            // Sent again: so is the ACK.
            let (ack, to) = (Rc::clone(ack), *to);
            self.emit(to, &ack);
            return;
        }
        let failed = client.finals.iter().any(|(code, ..)| *code >= 300);
        let accepted = client.finals.iter().any(|(code, ..)| *code < 300);
        let client = &mut self.clients[at];
        let first = client.finals.is_empty();
        client.state = State::Done;
        client.again = None;
        client.ends = None;
        let purpose = client.purpose.clone();
        if code >= 300 {
            self.acknowledge_failure(at, code, tag, response);
            if first {
                self.on_failed(now, at, &purpose, code, response);
            }
            return;
        }
        self.on_accepted(now, at, code, tag, &purpose, failed || accepted, response);
    }

    /// RFC 3261 §17.1.1.3.
    fn acknowledge_failure(&mut self, at: usize, code: u16, tag: String, response: &Text<'_>) {
        let request = Rc::clone(&self.clients[at].request);
        let Some(invite) = Text::read(&request) else {
            return;
        };
        let mut lines = vec![
            format!("ACK {} SIP/2.0", invite.uri()),
            format!("Via: {}", invite.header("Via")),
            "Max-Forwards: 70".to_owned(),
        ];
        lines.extend(invite.all("Route").map(|route| format!("Route: {route}")));
        lines.extend([
            format!("From: {}", invite.header("From")),
            format!("To: {}", response.header("To")),
            format!("Call-ID: {}", invite.call_id()),
            format!("CSeq: {} ACK", invite.cseq().0),
        ]);
        let ack: Rc<[u8]> = Rc::from(text::message(&lines, "").as_bytes());
        let to = self.clients[at].to;
        self.clients[at]
            .finals
            .push((code, tag, Rc::clone(&ack), to));
        self.emit(to, &ack);
    }

    fn on_failed(
        &mut self,
        now: Instant,
        at: usize,
        purpose: &Purpose,
        code: u16,
        response: &Text<'_>,
    ) {
        let Purpose::Call { plan, call } = *purpose else {
            return;
        };
        let client = &self.clients[at];
        let (uri, call_id, cseq) = (client.uri.clone(), client.call_id.clone(), client.cseq);
        if let Some(proof) = self.proof(at, code, response) {
            let plan = Plan {
                cancel_after: None,
                ..plan
            };
            let purpose = Purpose::Call { plan, call };
            self.invite(now, &uri, &call_id, cseq + 1, purpose, Some(proof));
            return;
        }
        let record = &mut self.calls[call];
        record.final_at.get_or_insert((now, code));
        record.ended.get_or_insert(now);
    }

    /// Credentials for a challenge of our own server, unless they were given already.
    fn proof(&self, at: usize, code: u16, response: &Text<'_>) -> Option<String> {
        let client = &self.clients[at];
        let (name, challenge) = match code {
            401 => ("Authorization", response.header("WWW-Authenticate")),
            407 => ("Proxy-Authorization", response.header("Proxy-Authenticate")),
            _ => return None,
        };
        if client.cancelled || !challenge.contains("realm=\"example.org\"") {
            return None;
        }
        // Once more for a nonce that has grown old on its way.
        if client.proven && !challenge.to_ascii_lowercase().contains("stale=true") {
            return None;
        }
        let value = text::credentials(
            challenge,
            &self.user,
            &password(&self.user),
            client.method,
            &client.uri,
        )?;
        Some(format!("{name}: {value}"))
    }

    #[expect(clippy::too_many_arguments, reason = "what is known of one answer")]
    fn on_accepted(
        &mut self,
        now: Instant,
        at: usize,
        code: u16,
        tag: String,
        purpose: &Purpose,
        surplus: bool,
        response: &Text<'_>,
    ) {
        let cseq = self.clients[at].cseq;
        let dialog = match *purpose {
            Purpose::Again { dialog } => dialog,
            _ => {
                let mut routes: Vec<String> = response
                    .values("Record-Route")
                    .iter()
                    .map(|&route| route.to_owned())
                    .collect();
                routes.reverse();
                self.dialogs.push(Dialog {
                    call_id: response.call_id().to_owned(),
                    local: response.tag_of_from().to_owned(),
                    remote: tag.clone(),
                    from: format!("From: {}", response.header("From")),
                    to: format!("To: {}", response.header("To")),
                    routes,
                    target: uri_of(response.header("Contact")).to_owned(),
                    cseq,
                    ended: false,
                });
                self.dialogs.len() - 1
            }
        };
        let (_, lines, to) = self.within(dialog, "ACK", cseq);
        let ack: Rc<[u8]> = Rc::from(text::message(&lines, "").as_bytes());
        self.clients[at]
            .finals
            .push((code, tag, Rc::clone(&ack), to));
        self.emit(to, &ack);
        let Purpose::Call { plan, call } = *purpose else {
            return;
        };
        self.calls[call].final_at.get_or_insert((now, code));
        if surplus || self.clients[at].cancelled {
            let soon = self.millis(50, 500);
            self.plan(now + soon, Todo::Hangup { dialog });
            return;
        }
        let talk = plan.talk;
        if plan.reinvite {
            let method = "INVITE";
            self.plan(now + talk / 3, Todo::Within { dialog, method });
        }
        if plan.info {
            let method = "INFO";
            self.plan(now + talk / 2, Todo::Within { dialog, method });
        }
        self.plan(now + talk, Todo::Hangup { dialog });
    }

    fn on_final(&mut self, now: Instant, at: usize, code: u16, response: &Text<'_>) {
        let tag = response.to_tag().to_owned();
        let client = &mut self.clients[at];
        let again = client
            .finals
            .iter()
            .any(|(other, of, ..)| *other == code && *of == tag);
        let second = !again && !client.finals.is_empty();
        client.state = State::Done;
        client.again = None;
        client.ends = None;
        if again {
            return;
        }
        let (purpose, uri, cseq, method) = (
            client.purpose.clone(),
            client.uri.clone(),
            client.cseq,
            client.method,
        );
        client
            .finals
            .push((code, tag, Rc::from(&[][..]), self.proxy));
        if code == 408 && !matches!(purpose, Purpose::Cancel) {
            self.fault(&format!(
                "408 to a {method}, RFC 4320: {}",
                response.summary()
            ));
        }
        if second {
            return;
        }
        match purpose {
            Purpose::Register { expires } => {
                self.on_registered(now, at, cseq, expires, code, response)
            }
            Purpose::Bye { dialog } if code == 500 => {
                self.dialogs[dialog].ended = false;
                let after = self.millis(500, 2000);
                self.plan(now + after, Todo::Hangup { dialog });
            }
            Purpose::Bye { dialog } => {
                let call_id = &self.dialogs[dialog].call_id;
                if let Some(call) = self.calls.iter_mut().find(|call| call.call_id == *call_id) {
                    call.ended.get_or_insert(now);
                }
            }
            Purpose::Other => {
                if let Some(proof) = self.proof(at, code, response) {
                    self.send_outside(now, method, &uri, Some(proof));
                }
            }
            Purpose::Cancel | Purpose::Call { .. } | Purpose::Again { .. } => {}
        }
    }

    fn on_registered(
        &mut self,
        now: Instant,
        at: usize,
        cseq: u32,
        expires: u32,
        code: u16,
        response: &Text<'_>,
    ) {
        let expires = if self.leaving { 0 } else { expires };
        if let Some(proof) = self.proof(at, code, response) {
            self.register(now, expires, Some(proof));
            return;
        }
        if code != 200 {
            self.registration.refused += 1;
            let expires = if self.leaving { 0 } else { expires };
            let again = self.millis(500, 3000);
            self.plan(now + again, Todo::Register { expires });
            return;
        }
        let newest = self
            .registration
            .acknowledged
            .is_none_or(|(last, ..)| last < cseq);
        let contact = self.contact();
        let granted = response
            .values("Contact")
            .into_iter()
            .find(|value| value.starts_with(&contact))
            .and_then(|value| param(value, "expires")?.parse::<u32>().ok());
        match (expires, granted) {
            (0, None) => {}
            (1.., Some(granted)) if granted <= expires => {}
            (_, granted) if cseq == self.registration.asked => {
                let what = format!(
                    "asked for {expires} s and got {granted:?}: {}",
                    response.summary()
                );
                self.fault(&what);
            }
            _ => {}
        }
        if newest {
            let until = granted.map(|granted| now + Duration::from_secs(granted.into()));
            self.registration.acknowledged = Some((cseq, now, until));
            if expires > 0 && !self.leaving {
                // At half the time, as phones do.
                let refresh = now + Duration::from_secs(expires.into()) / 2;
                self.plan(refresh, Todo::Register { expires });
            }
        }
    }

    pub(super) fn tick_clients(&mut self, now: Instant) {
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            if client.ends.is_some_and(|ends| ends <= now) {
                client.again = None;
                client.ends = None;
                let branch = client.branch.clone();
                let waits = client.method == "INVITE" && client.state == State::Proceeding;
                if waits && !client.cancelled {
                    self.cancel(now, &branch);
                    continue;
                }
                self.on_timeout(now, at);
                continue;
            }
            if let Some(again) = client.again
                && again.at <= now
            {
                let capped = client.method != "INVITE";
                let mut next = again.next(now, capped);
                if capped && client.state == State::Proceeding {
                    next = Again {
                        at: now + super::T2,
                        every: super::T2,
                    };
                }
                client.again = Some(next);
                let (to, request) = (client.to, Rc::clone(&client.request));
                self.emit(to, &request);
            }
        }
    }

    /// No answer came.
    fn on_timeout(&mut self, now: Instant, at: usize) {
        match self.clients[at].purpose.clone() {
            Purpose::Register { expires } => {
                self.registration.refused += 1;
                let expires = if self.leaving { 0 } else { expires };
                self.plan(now + T1 * 4, Todo::Register { expires });
            }
            Purpose::Call { call, .. } => {
                self.calls[call].ended.get_or_insert(now);
            }
            Purpose::Again { .. } | Purpose::Bye { .. } | Purpose::Cancel | Purpose::Other => {}
        }
    }
}

const METHODS: [&str; 7] = [
    "INVITE", "REGISTER", "BYE", "CANCEL", "INFO", "MESSAGE", "OPTIONS",
];
