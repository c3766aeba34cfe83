//! Questions under way: which engine gets them, how long they wait, what becomes of them.
//!
//! A call goes to the engine that its seed ranks first among those that are up (weighted rendezvous: when an engine goes, only its calls go
//! elsewhere), and from then on to the engine that has it. A question is sent again with its cookie, after 100 ms and then at doubling
//! distances; an engine that has it already says the same again. An offer may move to another engine when half of its time has gone by or
//! the kernel says that nobody is there. When its time is over it ends, and so does everything else here: nothing waits without a deadline.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use stdx::{
    Instant,
    hash::{Key, hash64},
    text,
};

pub use crate::engine::Probe;
use crate::{
    command,
    engine::Engine,
    reply::{self, Reply},
};

/// Most questions under way: more are refused at once.
pub const QUESTIONS_MAX: usize = 4096;
/// Engines that health is known of; those in no configuration are forgotten first.
const ENGINES_MAX: usize = 256;
/// The first retransmission.
const RETRY: Duration = Duration::from_millis(100);
/// How long a ping waits.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// All engines, each once, and how they are pinged.
    pub engines: Vec<(SocketAddr, Probe)>,
}

/// An engine of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub address: SocketAddr,
    /// 0: no new calls.
    pub weight: u32,
}

/// A question.
#[derive(Clone, Debug)]
pub struct Question {
    /// The engines that may be asked.
    pub members: Arc<[Member]>,
    /// The one that has the call.
    pub engine: Option<SocketAddr>,
    /// Whether another one may be asked instead.
    pub may_move: bool,
    /// The same for all questions of a call: it chooses the engine.
    pub seed: u64,
    /// The command, without a cookie.
    pub command: Vec<u8>,
    pub timeout: Duration,
}

/// What has become of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done {
        engine: SocketAddr,
        sdp: Option<Vec<u8>>,
    },
    /// The engine won't.
    Refused { engine: SocketAddr, reason: Vec<u8> },
    /// No answer in time.
    Silent,
    /// No engine is up.
    NoEngine,
    /// Too many questions are under way.
    Busy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    pub token: T,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Input<'i, T> {
    Ask {
        token: T,
        question: Question,
    },
    /// From an engine, by the socket that is connected to it.
    Datagram {
        engine: SocketAddr,
        bytes: &'i [u8],
    },
    /// The kernel says that nobody is there.
    Unreachable {
        engine: SocketAddr,
    },
    Tick,
}

/// What follows.
#[derive(Debug)]
pub struct Outputs<T> {
    pub sends: Vec<(SocketAddr, Vec<u8>)>,
    pub answers: Vec<Answer<T>>,
    /// Engines that went down (false) or came up.
    pub states: Vec<(SocketAddr, bool)>,
}

impl<T> Default for Outputs<T> {
    fn default() -> Self {
        Self {
            sends: Vec::new(),
            answers: Vec::new(),
            states: Vec::new(),
        }
    }
}

/// What happened, for counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub questions: u64,
    pub retransmissions: u64,
    pub done: u64,
    pub refused: u64,
    pub silent: u64,
    pub no_engine: u64,
    pub busy: u64,
    pub moved: u64,
    /// Datagrams that answer no question, or are no reply.
    pub mismatched: u64,
    pub went_down: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Client<T> {
    key: Key,
    drawn: u64,
    engines: BTreeMap<SocketAddr, Engine>,
    waiting: HashMap<u64, Waiting<T>>,
    /// When each of them has something to do.
    due: BTreeSet<(Instant, u64)>,
    pub tally: Tally,
}

#[derive(Debug)]
struct Waiting<T> {
    /// `None`: a ping of our own.
    asked: Option<(T, Question)>,
    engine: SocketAddr,
    /// With the cookie.
    bytes: Vec<u8>,
    tried: Vec<SocketAddr>,
    retry_at: Instant,
    retry: Duration,
    /// When another engine is asked, if it may be.
    move_at: Option<Instant>,
    deadline: Instant,
}

impl<T> Waiting<T> {
    fn due(&self) -> Instant {
        let next = self.move_at.unwrap_or(self.deadline);
        self.retry_at.min(next).min(self.deadline)
    }
}

impl<T> Client<T> {
    /// `key` must be of this client alone: cookies are drawn with it, and an engine takes one that it knows for a copy.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            drawn: 0,
            engines: BTreeMap::new(),
            waiting: HashMap::new(),
            due: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    /// Takes a new configuration. Engines that were known keep their health, questions under way go on.
    pub fn configure(&mut self, now: Instant, settings: Settings) {
        let old = std::mem::take(&mut self.engines);
        for (address, probe) in settings.engines {
            let known = old.get(&address).filter(|engine| engine.ping_at.is_some());
            let mut engine = known.copied().unwrap_or(Engine::new(Some(now), probe));
            engine.probe = probe;
            self.engines.insert(address, engine);
        }
    }

    /// Questions under way, pings included.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When [`Input::Tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let pings = self.engines.values().filter_map(|engine| engine.ping_at);
        pings.chain(self.due.first().map(|&(at, _)| at)).min()
    }

    pub fn step(&mut self, now: Instant, input: Input<'_, T>, out: &mut Outputs<T>) {
        match input {
            Input::Ask { token, question } => self.ask(now, token, question, out),
            Input::Datagram { engine, bytes } => self.hear(now, engine, bytes, out),
            Input::Unreachable { engine } => self.unreachable(now, engine, out),
            Input::Tick => self.tick(now, out),
        }
    }

    fn ask(&mut self, now: Instant, token: T, question: Question, out: &mut Outputs<T>) {
        self.tally.questions = self.tally.questions.saturating_add(1);
        if self.waiting.len() >= QUESTIONS_MAX {
            self.end((token, question), Outcome::Busy, out);
            return;
        }
        let Some(engine) = self.choose(&question, &[]) else {
            self.end((token, question), Outcome::NoEngine, out);
            return;
        };
        let deadline = now.saturating_add(question.timeout);
        self.put(
            now,
            engine,
            Some((token, question)),
            Vec::new(),
            deadline,
            out,
        );
    }

    /// Sends a question to an engine and has it wait.
    fn put(
        &mut self,
        now: Instant,
        engine: SocketAddr,
        asked: Option<(T, Question)>,
        mut tried: Vec<SocketAddr>,
        deadline: Instant,
        out: &mut Outputs<T>,
    ) {
        self.drawn = self.drawn.wrapping_add(1);
        let cookie = hash64(&self.key, &[b"ng", &self.drawn.to_le_bytes()]);
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&text::encode_base32_u64(cookie));
        bytes.push(b' ');
        let half = deadline.saturating_duration_since(now).checked_div(2);
        let mut move_at = None;
        match &asked {
            Some((_, question)) => {
                bytes.extend_from_slice(&question.command);
                tried.push(engine);
                if self.choose(question, &tried).is_some() {
                    move_at = half.map(|half| now.saturating_add(half));
                }
            }
            None => command::write_ping(&mut bytes),
        }
        out.sends.push((engine, bytes.clone()));
        let waiting = Waiting {
            asked,
            engine,
            bytes,
            tried,
            retry_at: now.saturating_add(RETRY),
            retry: RETRY,
            move_at,
            deadline,
        };
        self.due.insert((waiting.due(), cookie));
        self.waiting.insert(cookie, waiting);
        if !self.engines.contains_key(&engine) {
            if self.engines.len() >= ENGINES_MAX {
                self.engines.retain(|_, engine| engine.ping_at.is_some());
            }
            self.engines
                .insert(engine, Engine::new(None, Probe::default()));
        }
    }

    /// The best engine for a question that is up and was not asked yet.
    fn choose(&self, question: &Question, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let usable = |address: &SocketAddr| {
            let up = self.engines.get(address).is_none_or(Engine::is_up);
            up && !tried.contains(address)
        };
        if let Some(engine) = question.engine {
            if usable(&engine) {
                return Some(engine);
            }
            if !question.may_move {
                return None;
            }
        }
        let first = tried.is_empty() || question.may_move;
        let fit = question
            .members
            .iter()
            .filter(|member| first && member.weight > 0 && usable(&member.address));
        fit.min_by(|a, b| rank(a, question.seed).total_cmp(&rank(b, question.seed)))
            .map(|member| member.address)
    }

    fn hear(&mut self, now: Instant, engine: SocketAddr, bytes: &[u8], out: &mut Outputs<T>) {
        let known = reply::cookie(bytes).and_then(|(cookie, rest)| {
            let cookie = text::decode_base32_u64(cookie)?;
            let waiting = self.waiting.get(&cookie)?;
            (waiting.engine == engine).then_some((cookie, Reply::parse(rest).ok()?))
        });
        let Some((cookie, reply)) = known else {
            self.tally.mismatched = self.tally.mismatched.saturating_add(1);
            return;
        };
        let Some(waiting) = self.take(cookie) else {
            return;
        };
        if let Some(known) = self.engines.get_mut(&engine)
            && known.heard(now, reply == Reply::Pong)
        {
            out.states.push((engine, true));
        }
        let Some(asked) = waiting.asked else { return };
        let outcome = match reply {
            Reply::Done { sdp } => Outcome::Done {
                engine,
                sdp: sdp.map(<[u8]>::to_vec),
            },
            Reply::Full => {
                // Another one may have room.
                if let Some(other) = self.choose(&asked.1, &waiting.tried) {
                    let (tried, deadline) = (waiting.tried, waiting.deadline);
                    self.move_to(now, other, asked, tried, deadline, out);
                    return;
                }
                let reason = b"load limit".to_vec();
                Outcome::Refused { engine, reason }
            }
            Reply::Refused { reason } => Outcome::Refused {
                engine,
                reason: reason.to_vec(),
            },
            Reply::Pong => {
                let reason = b"a pong is no answer".to_vec();
                Outcome::Refused { engine, reason }
            }
        };
        self.end(asked, outcome, out);
    }

    fn unreachable(&mut self, now: Instant, engine: SocketAddr, out: &mut Outputs<T>) {
        let Some(known) = self.engines.get_mut(&engine) else {
            return;
        };
        if known.gone() {
            self.tally.went_down = self.tally.went_down.saturating_add(1);
            out.states.push((engine, false));
        }
        let there: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.engine == engine)
            .map(|(&cookie, _)| cookie)
            .collect();
        for cookie in there {
            if let Some(waiting) = self.take(cookie) {
                self.go_on(now, waiting, out);
            }
        }
    }

    /// The engine at hand has not answered: another one is asked, or that's it.
    fn go_on(&mut self, now: Instant, waiting: Waiting<T>, out: &mut Outputs<T>) {
        let Some(asked) = waiting.asked else { return };
        match self.choose(&asked.1, &waiting.tried) {
            Some(other) if now < waiting.deadline => {
                let (tried, deadline) = (waiting.tried, waiting.deadline);
                self.move_to(now, other, asked, tried, deadline, out);
            }
            _ => self.end(asked, Outcome::Silent, out),
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Outputs<T>) {
        while let Some(&(at, cookie)) = self.due.first() {
            if at > now {
                break;
            }
            let Some(mut waiting) = self.take(cookie) else {
                self.due.remove(&(at, cookie));
                continue;
            };
            let moves = waiting.move_at.is_some_and(|at| at <= now);
            if moves || waiting.deadline <= now {
                self.note_failure(waiting.engine, out);
                self.go_on(now, waiting, out);
                continue;
            }
            out.sends.push((waiting.engine, waiting.bytes.clone()));
            self.tally.retransmissions = self.tally.retransmissions.saturating_add(1);
            waiting.retry = waiting.retry.saturating_mul(2);
            waiting.retry_at = now.saturating_add(waiting.retry);
            self.due.insert((waiting.due(), cookie));
            self.waiting.insert(cookie, waiting);
        }
        let mut pings = Vec::new();
        for (&address, engine) in &mut self.engines {
            if engine.ping_at.is_some_and(|at| at <= now) {
                let interval = engine.probe.interval;
                engine.ping_at = Some(now.saturating_add(interval));
                pings.push((address, interval.min(PING_TIMEOUT)));
            }
        }
        for (address, timeout) in pings {
            let deadline = now.saturating_add(timeout);
            self.put(now, address, None, Vec::new(), deadline, out);
        }
    }

    fn note_failure(&mut self, engine: SocketAddr, out: &mut Outputs<T>) {
        if let Some(known) = self.engines.get_mut(&engine)
            && known.failed()
        {
            self.tally.went_down = self.tally.went_down.saturating_add(1);
            out.states.push((engine, false));
        }
    }

    /// Asks another engine, within the same deadline.
    fn move_to(
        &mut self,
        now: Instant,
        other: SocketAddr,
        asked: (T, Question),
        tried: Vec<SocketAddr>,
        deadline: Instant,
        out: &mut Outputs<T>,
    ) {
        self.tally.moved = self.tally.moved.saturating_add(1);
        self.put(now, other, Some(asked), tried, deadline, out);
    }

    fn take(&mut self, cookie: u64) -> Option<Waiting<T>> {
        let waiting = self.waiting.remove(&cookie)?;
        self.due.remove(&(waiting.due(), cookie));
        Some(waiting)
    }

    fn end(&mut self, asked: (T, Question), outcome: Outcome, out: &mut Outputs<T>) {
        let tally = &mut self.tally;
        let count = match &outcome {
            Outcome::Done { .. } => &mut tally.done,
            Outcome::Refused { .. } => &mut tally.refused,
            Outcome::Silent => &mut tally.silent,
            Outcome::NoEngine => &mut tally.no_engine,
            Outcome::Busy => &mut tally.busy,
        };
        *count = count.saturating_add(1);
        let token = asked.0;
        out.answers.push(Answer { token, outcome });
    }
}

/// The smaller the better: each member wins as many calls as its weight says.
fn rank(member: &Member, seed: u64) -> f64 {
    let mut address = Vec::with_capacity(18);
    match member.address {
        SocketAddr::V4(v4) => address.extend_from_slice(&v4.ip().octets()),
        SocketAddr::V6(v6) => address.extend_from_slice(&v6.ip().octets()),
    }
    address.extend_from_slice(&member.address.port().to_le_bytes());
    // The seed is secret; what is mixed in here need not be.
    let hash = hash64(&Key([0; 16]), &[&seed.to_le_bytes(), &address]);
    // In (0, 1].
    let unit = ((hash >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    -unit.ln() / f64::from(member.weight)
}

#[cfg(test)]
mod tests;
