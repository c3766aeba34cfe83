//! What a phone is asked: calls and the rest (RFC 3261 §17.2, RFC 6026).

use std::{net::SocketAddr, rc::Rc, time::Duration};

use stdx::Instant;

use crate::text::{self, Text, uri_of};

use super::{Again, Dialog, Habit, LIMIT, Phone, Todo};

/// A request of somebody else's, as long as the world lasts.
#[derive(Clone, Debug)]
pub(crate) struct Uas {
    branch: String,
    sent_by: String,
    method: String,
    request: Rc<[u8]>,
    tag: String,
    /// Where responses go.
    back: SocketAddr,
    last: Option<Rc<[u8]>>,
    state: Served,
    /// Timer G or our own retransmission of a failure, and when it ends.
    again: Option<Again>,
    ends: Option<Instant>,
    pub(super) accepted: Vec<Accepted>,
    /// The dialog that a re-INVITE is in.
    within: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    Waiting,
    Failed,
    Accepted,
    Confirmed,
}

/// A 2xx to an INVITE, sent again and again until its ACK comes (RFC 3261 §13.3.1.4).
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    dialog: usize,
    response: Rc<[u8]>,
    again: Option<Again>,
    ends: Instant,
}

impl Uas {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let accepted = self
            .accepted
            .iter()
            .filter_map(|accepted| Some(accepted.again?.at.min(accepted.ends)));
        let again = self.again.map(|again| again.at);
        again.into_iter().chain(self.ends).chain(accepted).min()
    }
}

impl Phone {
    pub(super) fn on_request(&mut self, now: Instant, from: SocketAddr, request: &Text<'_>) {
        self.look_at(request);
        let method = request.method();
        let found = self.servers.iter().position(|server| {
            server.branch == request.branch()
                && match method {
                    "ACK" | "CANCEL" => server.method == "INVITE",
                    method => server.method == method,
                }
        });
        match (method, found) {
            ("ACK", found) => self.on_ack(found, request),
            ("CANCEL", Some(at)) => self.on_cancel(now, at, from, request),
            ("CANCEL", None) => {
                self.fault(&format!("a CANCEL of nothing: {}", request.summary()));
            }
            (_, Some(at)) => {
                let (back, last) = (self.servers[at].back, self.servers[at].last.clone());
                if *self.servers[at].request != *written(request) {
                    // The same branch is the same request, byte for byte.
                    self.fault(&format!(
                        "a retransmission that differs: {}",
                        request.summary()
                    ));
                }
                // A 2xx to an INVITE has its own clock.
                if let Some(last) = last.filter(|_| self.servers[at].accepted.is_empty()) {
                    self.emit(back, &last);
                }
            }
            (_, None) => self.on_new(now, from, request),
        }
    }

    /// What every request has to be like when it comes here.
    fn look_at(&mut self, request: &Text<'_>) {
        let hops = request.values("Via").len();
        let left = request.header("Max-Forwards").parse::<usize>().ok();
        // The CANCEL and the ACK for a failure are the proxy's own.
        let own = hops == 1;
        let wanted = if own { 70 } else { 71 - hops };
        if left != Some(wanted) {
            self.fault(&format!(
                "Max-Forwards {left:?} after {hops} Vias: {}",
                request.summary()
            ));
        }
        if !own && request.header("Subject") != request.call_id() && request.method() != "REGISTER"
        {
            self.fault(&format!("the Subject got lost: {}", request.summary()));
        }
        if own && !matches!(request.method(), "CANCEL" | "ACK") {
            self.fault(&format!("one Via: {}", request.summary()));
        }
    }

    fn on_new(&mut self, now: Instant, from: SocketAddr, request: &Text<'_>) {
        let number = self.number();
        let via = request.header("Via");
        let sent_by = via.split([' ', ';']).nth(1).unwrap_or_default();
        let mut server = Uas {
            branch: request.branch().to_owned(),
            sent_by: sent_by.to_owned(),
            method: request.method().to_owned(),
            request: written(request),
            tag: format!("{}-{number}", self.name),
            back: sent_by.parse().unwrap_or(from),
            last: None,
            state: Served::Waiting,
            again: None,
            ends: None,
            accepted: Vec::new(),
            within: None,
        };
        let dialog = self.dialogs.iter().position(|dialog| {
            dialog.call_id == request.call_id()
                && dialog.local == request.to_tag()
                && dialog.remote == request.tag_of_from()
        });
        let in_dialog = !request.to_tag().is_empty();
        server.within = dialog;
        self.servers.push(server);
        let at = self.servers.len() - 1;
        match request.method() {
            _ if in_dialog && dialog.is_none() => self.reply(now, at, 481),
            "INVITE" if in_dialog => {
                let code = if self.chance(85) { 200 } else { 488 };
                let after = self.millis(5, 1500);
                self.plan(
                    now + after,
                    Todo::Answer {
                        server: at,
                        code,
                        twin: false,
                    },
                );
            }
            "INVITE" => self.on_call(now, at),
            // It goes on with the call; whoever wanted to end it says so again.
            "BYE" if self.habit == Habit::Varied && dialog.is_some() && self.chance(10) => {
                self.reply(now, at, 500);
            }
            "BYE" => {
                if let Some(dialog) = dialog {
                    self.dialogs[dialog].ended = true;
                }
                self.reply(now, at, 200);
            }
            // Switched off in this moment.
            _ if self.habit == Habit::Varied && self.chance(8) => {}
            _ => {
                let code = if self.habit == Habit::Prompt || self.chance(90) {
                    200
                } else {
                    404
                };
                let slow = self.habit == Habit::Varied && self.chance(15);
                let after = if slow {
                    self.millis(500, 8000)
                } else {
                    self.millis(1, 50)
                };
                self.plan(
                    now + after,
                    Todo::Answer {
                        server: at,
                        code,
                        twin: false,
                    },
                );
            }
        }
    }

    /// Somebody calls.
    fn on_call(&mut self, now: Instant, at: usize) {
        let answer = |phone: &mut Self, after: Duration, code, twin| {
            phone.plan(
                now + after,
                Todo::Answer {
                    server: at,
                    code,
                    twin,
                },
            );
        };
        if self.habit == Habit::Prompt {
            answer(self, Duration::from_millis(20), 180, false);
            answer(self, Duration::from_millis(300), 200, false);
            return;
        }
        if self.chance(4) {
            // Switched off in this moment: not a word.
            return;
        }
        let mut after = self.millis(1, 300);
        if self.chance(30) {
            answer(self, after, 100, false);
            after += self.millis(1, 200);
        }
        let rings = self.rng.below(4);
        for _ in 0..rings {
            let code = if self.chance(70) { 180 } else { 183 };
            answer(self, after, code, false);
            let long = self.chance(25);
            after += if long {
                self.millis(1000, 25_000)
            } else {
                self.millis(10, 1000)
            };
        }
        if rings > 0 && self.chance(6) {
            // Rings and rings: Timer C is for this.
            return;
        }
        let dice = self.rng.below(100);
        let code = match dice {
            0..58 => 200,
            58..68 => 486,
            68..73 => 404,
            73..78 => 603,
            78..83 => 302,
            83..88 => 503,
            88..91 => 500,
            91..94 => 480,
            94..97 => 401,
            _ => 407,
        };
        let twin = code == 200 && self.chance(15);
        answer(self, after, code, twin);
    }

    /// Answers a request. With a `twin` a second answer follows from somebody else behind the same address, as from a proxy that forks.
    pub(super) fn answer(&mut self, now: Instant, at: usize, code: u16, twin: bool) {
        if self.servers[at].state != Served::Waiting {
            return;
        }
        if self.servers[at].method == "INVITE" && (200..300).contains(&code) {
            let tag = self.servers[at].tag.clone();
            self.accept(now, at, &tag);
            if twin {
                self.accept(now, at, &format!("{tag}-twin"));
            }
            return;
        }
        self.reply(now, at, code);
    }

    fn reply(&mut self, now: Instant, at: usize, code: u16) {
        let elsewhere = match self.elsewhere.len() {
            0 => String::new(),
            many => self.elsewhere[self.rng.below(many as u32) as usize].clone(),
        };
        let server = &self.servers[at];
        let request = Rc::clone(&server.request);
        let Some(request) = Text::read(&request) else {
            return;
        };
        let mut more = Vec::new();
        match code {
            101..200 => more.push(format!("Contact: {}", self.contact())),
            302 => more.push(format!("Contact: {elsewhere}")),
            401 => {
                more.push("WWW-Authenticate: Digest realm=\"elsewhere\", nonce=\"1\"".to_owned())
            }
            407 => {
                more.push("Proxy-Authenticate: Digest realm=\"elsewhere\", nonce=\"1\"".to_owned())
            }
            _ => {}
        }
        let text = text::response(&request, code, &server.tag, &more);
        let text: Rc<[u8]> = Rc::from(text.as_bytes());
        let back = server.back;
        let server = &mut self.servers[at];
        server.last = Some(Rc::clone(&text));
        if code >= 200 {
            server.state = Served::Confirmed;
            if server.method == "INVITE" {
                server.state = Served::Failed;
                server.again = Some(Again::after(now));
                server.ends = Some(now + LIMIT);
            }
        }
        self.emit(back, &text);
    }

    fn accept(&mut self, now: Instant, at: usize, tag: &str) {
        let request = Rc::clone(&self.servers[at].request);
        let Some(request) = Text::read(&request) else {
            return;
        };
        let more = [format!("Contact: {}", self.contact())];
        let text = text::response(&request, 200, tag, &more);
        let response: Rc<[u8]> = Rc::from(text.as_bytes());
        let dialog = self.servers[at].within.unwrap_or_else(|| {
            self.dialogs.push(Dialog {
                call_id: request.call_id().to_owned(),
                local: tag.to_owned(),
                remote: request.tag_of_from().to_owned(),
                from: format!("From: {};tag={tag}", request.header("To")),
                to: format!("To: {}", request.header("From")),
                routes: request
                    .values("Record-Route")
                    .iter()
                    .map(|&r| r.to_owned())
                    .collect(),
                target: uri_of(request.header("Contact")).to_owned(),
                cseq: 1000,
                ended: false,
            });
            self.dialogs.len() - 1
        });
        let server = &mut self.servers[at];
        server.state = Served::Accepted;
        server.last = Some(Rc::clone(&response));
        server.accepted.push(Accepted {
            dialog,
            response: Rc::clone(&response),
            again: Some(Again::after(now)),
            ends: now + LIMIT,
        });
        let back = server.back;
        self.emit(back, &response);
    }

    fn on_ack(&mut self, found: Option<usize>, ack: &Text<'_>) {
        // For a failure: of the INVITE's own branch (RFC 3261 §17.1.1.3).
        if let Some(at) = found {
            let request = Rc::clone(&self.servers[at].request);
            let server = &mut self.servers[at];
            if server.state == Served::Failed || server.state == Served::Confirmed {
                server.state = Served::Confirmed;
                server.again = None;
                server.ends = None;
                let last = server.last.clone().unwrap_or_else(|| Rc::from(&[][..]));
                let (Some(invite), Some(last)) = (Text::read(&request), Text::read(&last)) else {
                    return;
                };
                let same = |name: &str| invite.header(name) == ack.header(name);
                let fits = same("From")
                    && same("Call-ID")
                    && invite.uri() == ack.uri()
                    && invite.cseq().0 == ack.cseq().0
                    && ack.cseq().1 == "ACK"
                    && ack.header("To") == last.header("To")
                    && invite.all("Route").eq(ack.all("Route"));
                if !fits {
                    self.fault(&format!("an ACK that does not fit: {}", ack.summary()));
                }
            } else {
                self.fault(&format!(
                    "an ACK to an unanswered INVITE: {}",
                    ack.summary()
                ));
            }
            return;
        }
        let dialog = self.dialogs.iter().position(|dialog| {
            dialog.call_id == ack.call_id()
                && dialog.local == ack.to_tag()
                && dialog.remote == ack.tag_of_from()
        });
        let (_, number) = ("ACK", ack.cseq().0);
        let mut known = false;
        for server in &mut self.servers {
            let of = Text::read(&server.request).map_or(0, |invite| invite.cseq().0);
            for accepted in &mut server.accepted {
                if Some(accepted.dialog) == dialog && of == number {
                    accepted.again = None;
                    known = true;
                }
            }
        }
        if !known {
            self.fault(&format!("an ACK that nothing asked for: {}", ack.summary()));
        }
    }

    /// RFC 3261 §9.2.
    fn on_cancel(&mut self, now: Instant, at: usize, from: SocketAddr, cancel: &Text<'_>) {
        let request = Rc::clone(&self.servers[at].request);
        let Some(invite) = Text::read(&request) else {
            return;
        };
        let same = |name: &str| invite.header(name) == cancel.header(name);
        let fits = same("From")
            && same("To")
            && same("Call-ID")
            && invite.uri() == cancel.uri()
            && invite.cseq().0 == cancel.cseq().0
            && cancel.cseq().1 == "CANCEL"
            && invite.all("Route").eq(cancel.all("Route"));
        if !fits {
            self.fault(&format!("a CANCEL that does not fit: {}", cancel.summary()));
        }
        let text = text::response(cancel, 200, &self.servers[at].tag.clone(), &[]);
        let back = self.servers[at].sent_by.parse().unwrap_or(from);
        self.emit(back, &Rc::from(text.as_bytes()));
        if self.servers[at].state == Served::Waiting {
            self.reply(now, at, 487);
        }
    }

    pub(super) fn tick_servers(&mut self, now: Instant) {
        for at in 0..self.servers.len() {
            let server = &mut self.servers[at];
            if server.ends.is_some_and(|ends| ends <= now) {
                server.again = None;
                server.ends = None;
            }
            let (back, mut again) = (server.back, Vec::new());
            if let Some(clock) = server.again
                && clock.at <= now
            {
                server.again = Some(clock.next(now, true));
                again.extend(server.last.clone());
            }
            let mut given_up = Vec::new();
            for accepted in &mut server.accepted {
                let Some(clock) = accepted.again else {
                    continue;
                };
                if accepted.ends <= now {
                    // RFC 3261 §13.3.1.4: no ACK, no call.
                    accepted.again = None;
                    given_up.push(accepted.dialog);
                } else if clock.at <= now {
                    accepted.again = Some(clock.next(now, true));
                    again.push(Rc::clone(&accepted.response));
                }
            }
            for text in again {
                self.emit(back, &text);
            }
            for dialog in given_up {
                self.plan(now, Todo::Hangup { dialog });
            }
        }
    }
}

/// A request as it came.
fn written(request: &Text<'_>) -> Rc<[u8]> {
    Rc::from(request.whole.as_bytes())
}
