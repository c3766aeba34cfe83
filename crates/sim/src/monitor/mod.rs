//! What goes into the server and what comes out of it, held against the RFCs: a second opinion that knows nothing of the code, only its datagrams.
//!
//! - `wire`: each datagram as it passes. Has it a cause? Is it what a proxy makes of that cause?
//! - `choice`: where it goes, and when it is whose turn.
//! - `verdict`: at the end. Did everything that came lead to what it has to, as often as it may, and when it has to?
//!
//! Times can only be held against a schedule while nothing happened to the server; what happened to it is told by [`Monitor::disturb`].

mod choice;
mod verdict;
mod wire;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use stdx::Instant;

use crate::{odds::Facts, world::Note};

/// How exact the server has to be about time.
const SLACK: Duration = Duration::from_millis(120);
/// After a death or a standstill, until everything is on its schedule again.
const AFTERMATH: Duration = Duration::from_millis(300);

/// How long a datagram may lie in a dead slot's buffers, until an heir serves it.
const LATE: Duration = Duration::from_secs(6);

/// Calls whose Call-ID begins like this are nobody's: their messages have to follow no rule, and nothing follows from them but answers.
pub(crate) const EVIL: &str = "evil";

/// A request that came to the server, and everything that became of it.
#[derive(Debug)]
struct Request {
    method: String,
    bytes: Rc<[u8]>,
    source: SocketAddr,
    ins: Vec<Instant>,
    answers: Vec<Answer>,
    branches: Vec<usize>,
    cancels: Vec<Instant>,
    cancel_answers: u32,
    /// An ACK for a failure.
    acked: Option<Instant>,
}

/// A response that went upstream.
#[derive(Debug)]
struct Answer {
    code: u16,
    tag: String,
    at: Vec<Instant>,
}

/// A request that the server sent on.
#[derive(Debug)]
struct Branch {
    to: SocketAddr,
    bytes: Rc<[u8]>,
    sent: Vec<Instant>,
    /// Responses by code and To tag, and when they came.
    heard: Vec<Answer>,
    cancels: Vec<Instant>,
    cancel_answered: Option<Instant>,
    acks: Vec<Instant>,
    /// It did not leave: there is no way.
    no_way: Option<Instant>,
    /// The slot that sent it first.
    slot: u16,
}

impl Branch {
    fn first(&self, pick: impl Fn(u16) -> bool) -> Option<Instant> {
        let heard = self.heard.iter().filter(|answer| pick(answer.code));
        heard.filter_map(|answer| answer.at.first().copied()).min()
    }

    fn last(&self, pick: impl Fn(u16) -> bool) -> Option<Instant> {
        let heard = self.heard.iter().filter(|answer| pick(answer.code));
        heard.filter_map(|answer| answer.at.last().copied()).max()
    }
}

/// What was seen of one run, see the head of this module.
#[derive(Default)]
pub(crate) struct Monitor {
    listeners: Vec<SocketAddr>,
    timer_c: Duration,
    pub(crate) facts: Facts,
    /// Since when a slot knows that an address is dead.
    known_dead: HashMap<(u16, SocketAddr), Instant>,
    /// Addresses that nobody has given us a reason to send to.
    pub(crate) victims: HashSet<SocketAddr>,
    requests: Vec<Request>,
    branches: Vec<Branch>,
    /// By the branch of the top Via and the method.
    by_key: HashMap<(String, String), usize>,
    by_branch: HashMap<String, usize>,
    /// When the server was not itself.
    disturbed: Vec<(Instant, Instant)>,
    deaths: Vec<Instant>,
    dead_since: HashMap<u16, Instant>,
    pub(crate) wrong: Vec<String>,
    pub(crate) messages_in: u64,
    pub(crate) messages_out: u64,
}

impl Monitor {
    pub(crate) fn new(settings: &proxy::Settings, facts: Facts) -> Self {
        Self {
            listeners: settings
                .listeners
                .iter()
                .map(|listener| listener.address)
                .collect(),
            timer_c: settings.timer_c,
            facts,
            ..Self::default()
        }
    }

    /// Something was wrong with the server in this time.
    pub(crate) fn disturb(&mut self, from: Instant, to: Instant) {
        self.disturbed.push((from, to + AFTERMATH));
    }

    fn undisturbed(&self, from: Instant, to: Instant) -> bool {
        self.disturbed
            .iter()
            .all(|&(begin, end)| end < from || begin > to)
            && self.dead_since.is_empty()
    }

    /// The clock has gone forward: what was kept may be over long before its time.
    fn jumped(&self) -> bool {
        self.disturbed
            .iter()
            .any(|&(from, _)| from == Instant::ZERO)
    }

    /// Deaths that may have led to something being sent once more.
    fn deaths_in(&self, from: Instant, to: Instant) -> usize {
        self.deaths
            .iter()
            .filter(|&&at| at >= from && at <= to + LATE)
            .count()
    }

    pub(crate) fn see(&mut self, now: Instant, note: &Note) {
        match note {
            Note::In(packet, _) => {
                self.messages_in += 1;
                self.on_in(now, packet);
            }
            Note::Out(packet, slot) => {
                self.messages_out += 1;
                self.on_out(now, packet, *slot);
            }
            Note::NoWay(packet) => self.on_no_way(now, packet),
            Note::Died { worker, .. } => {
                self.deaths.push(now);
                self.dead_since.entry(*worker).or_insert(now);
            }
            Note::Heir { worker } => {
                // What a slot knew of hops died with it.
                self.known_dead.clear();
                if let Some(since) = self.dead_since.remove(worker) {
                    self.disturb(since, now);
                }
            }
            Note::Said(_) | Note::Reached(_) | Note::Lost(_) | Note::Remark(_) => {}
        }
    }

    fn fault(&mut self, now: Instant, what: impl Into<String>) {
        if self.wrong.len() < 16 {
            self.wrong.push(format!("{now:?} {}", what.into()));
        }
    }

    fn key(branch: &str, method: &str) -> (String, String) {
        (branch.to_owned(), method.to_owned())
    }

    /// Forgets everything but where the server is, for the next part of a run.
    pub(crate) fn turn_over(&mut self) {
        self.requests.clear();
        self.branches.clear();
        self.by_key.clear();
        self.by_branch.clear();
        self.disturbed.clear();
        self.deaths.clear();
    }
}

/// Adds one to the answers of this code and tag.
fn note(answers: &mut Vec<Answer>, code: u16, tag: &str, now: Instant) {
    match answers
        .iter_mut()
        .find(|answer| answer.code == code && answer.tag == tag)
    {
        Some(answer) => answer.at.push(now),
        None => answers.push(Answer {
            code,
            tag: tag.to_owned(),
            at: vec![now],
        }),
    }
}
