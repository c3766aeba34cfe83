//! A phone that keeps to the RFCs: transactions, dialogs, registration, all its own, none of it shared with the code under test.
//!
//! What it hears is checked on the way: a response that nothing asked for, a second final answer, an ACK or CANCEL that does not fit its
//! INVITE are [`Phone::wrong`].

mod client;
mod server;

use std::{net::SocketAddr, rc::Rc, time::Duration};

use stdx::{Instant, Rng};

use crate::{
    monitor::EVIL,
    text::{Text, address_of, uri_of},
};

use client::{Client, Registration};
use server::Uas;

pub(crate) const T1: Duration = Duration::from_millis(500);
pub(crate) const T2: Duration = Duration::from_secs(4);
pub(crate) const LIMIT: Duration = Duration::from_secs(32);

/// What somebody who is called does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Takes the call after a moment.
    Prompt,
    /// Anything that a phone may do.
    Varied,
}

/// What a caller has in mind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Gives up after this, if there is no answer.
    pub(crate) cancel_after: Option<Duration>,
    /// Hangs up this long after the answer.
    pub(crate) talk: Duration,
    /// Sends a re-INVITE in between.
    pub(crate) reinvite: bool,
    /// Sends another request in between.
    pub(crate) info: bool,
}

/// Something to do at a time.
#[derive(Clone, Debug)]
pub(crate) enum Todo {
    Register {
        expires: u32,
    },
    Call {
        uri: String,
        plan: Plan,
    },
    Send {
        method: &'static str,
        uri: String,
    },
    Cancel {
        branch: String,
    },
    Hangup {
        dialog: usize,
    },
    Within {
        dialog: usize,
        method: &'static str,
    },
    Answer {
        server: usize,
        code: u16,
        twin: bool,
    },
}

/// A dialog from this phone's side.
#[derive(Clone, Debug)]
pub(crate) struct Dialog {
    call_id: String,
    local: String,
    remote: String,
    /// From and To lines as this side writes them.
    from: String,
    to: String,
    routes: Vec<String>,
    target: String,
    cseq: u32,
    ended: bool,
}

/// How a call of ours went.
#[derive(Clone, Debug)]
pub(crate) struct CallRecord {
    pub(crate) call_id: String,
    pub(crate) begun: Instant,
    pub(crate) final_at: Option<(Instant, u16)>,
    pub(crate) ended: Option<Instant>,
}

pub(crate) struct Phone {
    pub(crate) name: String,
    pub(crate) user: String,
    pub(crate) address: SocketAddr,
    pub(crate) habit: Habit,
    /// Preference of its contact, in thousandths.
    pub(crate) q: u16,
    /// Where it sends callers who are to try somebody else: Contact lines.
    pub(crate) elsewhere: Vec<String>,
    proxy: SocketAddr,
    rng: Rng,
    numbered: u32,
    clients: Vec<Client>,
    servers: Vec<Uas>,
    dialogs: Vec<Dialog>,
    pub(crate) todo: Vec<(Instant, Todo)>,
    pub(crate) registration: Registration,
    pub(crate) calls: Vec<CallRecord>,
    out: Vec<(SocketAddr, Rc<[u8]>)>,
    pub(crate) wrong: Vec<String>,
    /// What is at hand is nobody's who keeps to any rule.
    evil: bool,
    /// It unregisters, and that is that.
    leaving: bool,
}

impl Phone {
    pub(crate) fn new(
        name: &str,
        user: &str,
        address: SocketAddr,
        proxy: SocketAddr,
        rng: Rng,
    ) -> Self {
        Self {
            name: name.to_owned(),
            user: user.to_owned(),
            address,
            habit: Habit::Varied,
            q: 1000,
            elsewhere: Vec::new(),
            proxy,
            rng,
            numbered: 0,
            clients: Vec::new(),
            servers: Vec::new(),
            dialogs: Vec::new(),
            todo: Vec::new(),
            registration: Registration::default(),
            calls: Vec::new(),
            out: Vec::new(),
            wrong: Vec::new(),
            evil: false,
            leaving: false,
        }
    }

    /// What it sends; to be taken after each input.
    pub(crate) fn take_out(&mut self) -> Vec<(SocketAddr, Rc<[u8]>)> {
        std::mem::take(&mut self.out)
    }

    pub(crate) fn plan(&mut self, at: Instant, todo: Todo) {
        self.todo.push((at, todo));
    }

    /// Forgets what it has in mind, for the end.
    pub(crate) fn forget_plans(&mut self) {
        self.leaving = true;
        self.todo
            .retain(|(_, todo)| matches!(todo, Todo::Answer { .. } | Todo::Hangup { .. }));
    }

    /// When it wants to be woken.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let todo = self.todo.iter().map(|(at, _)| *at);
        let clients = self.clients.iter().filter_map(Client::deadline);
        let servers = self.servers.iter().filter_map(Uas::deadline);
        todo.chain(clients).chain(servers).min()
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        let mut due: Vec<(Instant, Todo)> =
            self.todo.extract_if(.., |(at, _)| *at <= now).collect();
        due.sort_by_key(|(at, _)| *at);
        for (_, todo) in due {
            self.act(now, todo);
        }
        self.tick_clients(now);
        self.tick_servers(now);
    }

    fn act(&mut self, now: Instant, todo: Todo) {
        match todo {
            Todo::Register { expires } => self.register(now, expires, None),
            Todo::Call { uri, plan } => self.call(now, &uri, plan),
            Todo::Send { method, uri } => self.send_outside(now, method, &uri, None),
            Todo::Cancel { branch } => self.cancel(now, &branch),
            Todo::Hangup { dialog } => self.hang_up(now, dialog),
            Todo::Within { dialog, method } => self.send_within(now, dialog, method),
            Todo::Answer { server, code, twin } => self.answer(now, server, code, twin),
        }
    }

    pub(crate) fn receive(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let Some(text) = Text::read(bytes) else {
            self.evil = bytes.windows(EVIL.len()).any(|at| at == EVIL.as_bytes());
            self.fault("what came is no message");
            return;
        };
        self.evil = text.call_id().starts_with(EVIL);
        let length = text.header("Content-Length").parse::<usize>().ok();
        if length != Some(text.body.len()) {
            self.fault(&format!("Content-Length is wrong: {}", text.summary()));
        }
        if text.code().is_some() {
            self.on_response(now, &text);
        } else {
            self.on_request(now, from, &text);
        }
    }

    fn fault(&mut self, what: &str) {
        if self.wrong.len() < 8 && !self.evil {
            self.wrong.push(format!("{}: {what}", self.name));
        }
    }

    fn number(&mut self) -> u32 {
        self.numbered += 1;
        self.numbered
    }

    fn branch(&mut self) -> String {
        let number = self.number();
        format!("z9hG4bK-{}-{number}", self.name)
    }

    fn via(&self, branch: &str) -> String {
        format!("Via: SIP/2.0/UDP {};branch={branch}", self.address)
    }

    pub(crate) fn contact(&self) -> String {
        format!("<sip:{}@{}>", self.user, self.address)
    }

    fn aor(&self) -> String {
        format!("<sip:{}@example.org>", self.user)
    }

    fn emit(&mut self, to: SocketAddr, text: &Rc<[u8]>) {
        self.out.push((to, Rc::clone(text)));
    }

    fn chance(&mut self, of_a_hundred: u32) -> bool {
        self.rng.below(100) < of_a_hundred
    }

    fn millis(&mut self, from: u32, to: u32) -> Duration {
        Duration::from_millis((from + self.rng.below(to.saturating_sub(from).max(1))).into())
    }

    /// Whether everything has come to its end, but for refreshing its registration.
    pub(crate) fn idle(&self) -> bool {
        self.todo
            .iter()
            .all(|(_, todo)| matches!(todo, Todo::Register { .. }))
            && self
                .clients
                .iter()
                .all(|client| client.deadline().is_none())
            && self
                .servers
                .iter()
                .all(|server| server.deadline().is_none())
    }

    /// Dialogs that stand.
    pub(crate) fn talking(&self) -> usize {
        self.dialogs.iter().filter(|dialog| !dialog.ended).count()
    }

    /// The lines of a request within a dialog (RFC 3261 §12.2.1.1), and where it goes.
    fn within(
        &mut self,
        dialog: usize,
        method: &str,
        cseq: u32,
    ) -> (String, Vec<String>, SocketAddr) {
        let branch = self.branch();
        let dialog = &self.dialogs[dialog];
        let mut lines = vec![
            format!("{method} {} SIP/2.0", dialog.target),
            self.via(&branch),
            "Max-Forwards: 70".to_owned(),
        ];
        lines.extend(dialog.routes.iter().map(|route| format!("Route: {route}")));
        lines.extend([
            dialog.from.clone(),
            dialog.to.clone(),
            format!("Call-ID: {}", dialog.call_id),
            format!("CSeq: {cseq} {method}"),
            format!("Contact: {}", self.contact()),
            format!("Subject: {}", dialog.call_id),
        ]);
        let next = dialog
            .routes
            .first()
            .map_or(dialog.target.as_str(), |route| uri_of(route));
        let to = address_of(next).unwrap_or(self.proxy);
        (branch, lines, to)
    }
}

/// A retransmission clock.
#[derive(Clone, Copy, Debug)]
struct Again {
    at: Instant,
    every: Duration,
}

impl Again {
    fn after(now: Instant) -> Self {
        Self {
            at: now + T1,
            every: T1,
        }
    }

    /// The next one, doubled up to T2, or without end.
    fn next(self, now: Instant, capped: bool) -> Self {
        let every = if capped {
            (self.every * 2).min(T2)
        } else {
            self.every * 2
        };
        Self {
            at: now + every,
            every,
        }
    }
}
