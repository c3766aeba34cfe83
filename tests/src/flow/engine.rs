//! Plays the steps of a flow over a stage: sends what parties send, waits for what is expected, and compares.

mod compare;

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::hidden::{self, Sides};
use super::party::{Agent, Heard, replace_all};
use super::pattern::{self, Variables};
use super::syntax::{Arrow, Detail, DetailKind, Flow, Pass, Start, Step, What};
use crate::message::Message;

/// What plays the servers, the network and the clock. Times are those of the flow.
pub trait Stage {
    /// Where a server or a party is.
    fn address(&self, name: &str) -> SocketAddr;
    fn now(&self) -> Duration;
    /// How long something that has to come at once may take.
    fn patience(&self) -> Duration;
    fn send(&mut self, party: &str, to: SocketAddr, bytes: &[u8]);
    /// The next datagram to a party, or between two servers, if one comes within `limit`; the time goes on to it.
    fn receive(&mut self, limit: Duration) -> Option<Datagram>;
    /// The worker with this slot dies, or every one that serves.
    fn kill(&mut self, proxy: &str, slot: Option<u64>) -> Result<(), String>;
    /// Every process and all that is in memory or in files is gone, but the secret key; then it runs again.
    fn forget(&mut self, proxy: &str) -> Result<(), String>;
    /// A number in the server's status, or a counter.
    fn number(&mut self, proxy: &str, of: &str) -> Result<u64, String>;
    fn run(&mut self, proxy: &str, arguments: &[String]) -> Result<(), String>;
    /// Whether times are kept to the millisecond.
    fn exact(&self) -> bool {
        false
    }
    /// Why messages between servers cannot be seen here; then the steps that expect them are passed over.
    fn blind(&self) -> Option<&str> {
        None
    }
}

#[derive(Clone, Debug)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// What is wrong, and where.
#[derive(Debug)]
pub struct Failure {
    pub line: usize,
    pub text: String,
    pub report: String,
}

/// A message that came, and how often.
#[derive(Debug)]
struct Came {
    from: String,
    to: String,
    message: Message,
    bytes: Vec<u8>,
    times: u32,
    /// Copies that a step `again` has expected.
    expected_again: u32,
}

impl Came {
    /// Whether there is a copy that no step has expected.
    fn copies_left(&self) -> bool {
        self.times > self.expected_again + 1
    }
}

/// A message that has a name.
#[derive(Clone, Debug)]
struct Named {
    message: Message,
    /// Its place in [`Engine::came`], if it came from a server.
    came: Option<usize>,
}

pub struct Engine<'s> {
    stage: &'s mut dyn Stage,
    parties: HashMap<String, Agent>,
    names: Vec<(SocketAddr, String)>,
    proxies: Vec<String>,
    came: Vec<Came>,
    /// Places in `came` that no step has taken yet.
    pending: VecDeque<usize>,
    /// Everything that parties have sent, in order.
    said: Vec<Message>,
    labels: HashMap<String, Named>,
    variables: Variables,
    ladder: Vec<String>,
    /// With topology hiding.
    sides: Option<Sides>,
    /// Steps between servers that could not be seen.
    unseen: usize,
}

/// A step's verdict: what is wrong.
type Verdict<T = ()> = Result<T, String>;

/// Plays a flow to its end. Gives the number of steps that could not be seen.
pub fn play(flow: &Flow, pass: Pass, stage: &mut dyn Stage) -> Result<usize, Failure> {
    let all = || {
        flow.parties
            .iter()
            .map(|p| &p.name)
            .chain(flow.proxies.iter().map(|p| &p.name))
    };
    let names: Vec<(SocketAddr, String)> = all()
        .map(|name| (stage.address(name), name.clone()))
        .collect();
    let hides = pass != Pass::Plain;
    let mut engine = Engine {
        sides: hides.then(|| Sides::new(flow, &names)),
        parties: HashMap::new(),
        names,
        proxies: flow
            .proxies
            .iter()
            .map(|proxy| proxy.name.clone())
            .collect(),
        came: Vec::new(),
        pending: VecDeque::new(),
        said: Vec::new(),
        labels: HashMap::new(),
        variables: Variables::new(),
        ladder: Vec::new(),
        unseen: 0,
        stage,
    };
    for party in &flow.parties {
        let (aor, address) = (engine.placed(&party.aor), engine.stage.address(&party.name));
        let agent = Agent::new(&party.name, &aor, address, hides);
        engine.parties.insert(party.name.clone(), agent);
    }
    let played = engine.steps(&flow.steps);
    engine.drain();
    // What was seen that nobody may see comes first: it may be why the flow went wrong.
    let leak = engine.sides.as_ref().and_then(Sides::leak);
    let left = match (&played, leak) {
        (_, Some(leak)) => Some(leak),
        (Ok(()), None) => engine.unexpected(None),
        (Err(_), None) => None,
    };
    if let Some(left) = left {
        let last = flow.steps.last();
        return Err(Failure {
            line: last.map_or(1, |step| step.line),
            text: "(the end)".to_owned(),
            report: engine.report(&left),
        });
    }
    played?;
    Ok(engine.unseen)
}

impl Engine<'_> {
    fn steps(&mut self, steps: &[Step]) -> Result<(), Failure> {
        steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &Step) -> Result<(), Failure> {
        let done = match &step.what {
            What::Arrow(arrow) => self.arrow(arrow),
            What::Wait(time) => {
                self.pass(*time);
                Ok(())
            }
            What::Nothing { to, duration } => self.nothing(to.as_deref(), *duration),
            What::Kill { proxy, slot } => {
                let whom = slot.map_or("every worker".to_owned(), |slot| format!("slot {slot}"));
                self.note(&format!("({whom} of {proxy} is killed)"));
                self.stage.kill(proxy, *slot)
            }
            What::Forget { proxy } => {
                self.note(&format!("({proxy} forgets everything)"));
                self.stage.forget(proxy)
            }
            What::Came { label, least, most } => self.counted(label, *least, *most),
            What::Has { proxy, number, of } => self.stage.number(proxy, of).and_then(|found| {
                if found == *number {
                    return Ok(());
                }
                Err(format!("it has {found} {of}"))
            }),
            What::Run { proxy, arguments } => self.stage.run(proxy, arguments),
            What::AnyOrder(steps) => return self.any_order(steps),
            What::Either(alternatives) => return self.either(step, alternatives),
        };
        done.map_err(|report| self.failure(step, &report))
    }

    fn failure(&self, step: &Step, report: &str) -> Failure {
        Failure {
            line: step.line,
            text: step.text.clone(),
            report: self.report(report),
        }
    }

    fn report(&self, what: &str) -> String {
        let mut text = format!("{}\nso far:", self.with_names(what));
        for line in &self.ladder {
            let _ = write!(text, "\n    {}", self.with_names(line));
        }
        text
    }

    /// Addresses as a flow writes them.
    fn with_names(&self, text: &str) -> String {
        let all = self.names.iter();
        all.fold(text.to_owned(), |text, (address, name)| {
            text.replace(&address.to_string(), &format!("{{{name}}}"))
        })
    }

    /// `{alice}` as an address.
    fn placed(&self, text: &str) -> String {
        let all = self.names.iter();
        all.fold(text.to_owned(), |text, (address, name)| {
            text.replace(&format!("{{{name}}}"), &address.to_string())
                .replace(&format!("{{{name}.ip}}"), &address.ip().to_string())
                .replace(&format!("{{{name}.port}}"), &address.port().to_string())
        })
    }

    fn note(&mut self, line: &str) {
        let now = self.stage.now();
        self.ladder
            .push(format!("{:8.3}s  {line}", now.as_secs_f64()));
    }

    fn name_of(&self, address: SocketAddr) -> String {
        let found = self.names.iter().find(|(other, _)| *other == address);
        found.map_or_else(|| address.to_string(), |(_, name)| name.clone())
    }

    fn arrow(&mut self, arrow: &Arrow) -> Verdict {
        if !self.proxies.contains(&arrow.from) {
            self.send(arrow)?;
            if self.proxies.contains(&arrow.to) || matches!(arrow.message, Start::Again(_)) {
                return Ok(());
            }
            // From one party to another: it has to arrive, that is all.
            let step = Arrow {
                label: None,
                details: Vec::new(),
                ..arrow.clone()
            };
            return self.expect(&step);
        }
        if self.proxies.contains(&arrow.to) && self.stage.blind().is_some() {
            self.unseen += 1;
            if let Some(label) = &arrow.label {
                // Whoever refers to it fails with a reason.
                self.labels.remove(label);
            }
            return Ok(());
        }
        self.expect(arrow)
    }

    fn named(&self, label: &str) -> Verdict<&Named> {
        let blind = self.stage.blind().unwrap_or("it is not known");
        self.labels
            .get(label)
            .ok_or_else(|| format!("{label}: {blind}"))
    }

    fn agent(&mut self, name: &str) -> &mut Agent {
        self.parties
            .get_mut(name)
            .expect("the parser knows every name")
    }

    fn send(&mut self, arrow: &Arrow) -> Verdict {
        let about = match &arrow.message {
            Start::Request {
                about: Some(label), ..
            }
            | Start::Response {
                about: Some(label), ..
            }
            | Start::Again(label)
            | Start::Forwards { label, .. } => Some(self.named(label)?.message.clone()),
            _ => None,
        };
        let about = about.map(|message| match (&self.sides, &arrow.message) {
            (Some(sides), Start::Request { .. }) => sides.as_known_to(&arrow.from, &message),
            _ => message,
        });
        let retry = arrow
            .details
            .iter()
            .any(|detail| matches!(detail.what, DetailKind::Credentials(_)));
        let uri = |uri: &Option<String>| uri.as_ref().map(|uri| self.filled(uri)).transpose();
        let mut message = match &arrow.message {
            Start::Request {
                method, uri: to, ..
            } => {
                let to = uri(to)?;
                self.agent(&arrow.from)
                    .request(method, to.as_deref(), about.as_ref(), retry)?
            }
            Start::Response {
                code,
                reason,
                method,
                ..
            } => {
                let agent = self.agent(&arrow.from);
                agent.response(*code, reason.as_deref(), method.as_deref(), about.as_ref())?
            }
            Start::Again(_) => about.clone().unwrap_or_else(|| Message::new("")),
            Start::Forwards { uri: to, .. } => {
                let to = uri(to)?;
                let message = about.clone().unwrap_or_else(|| Message::new(""));
                self.agent(&arrow.from).forwarded(&message, to.as_deref())?
            }
        };
        self.change(&mut message, &arrow.from, &arrow.details)?;
        let to = self.stage.address(&arrow.to);
        let address = self.stage.address(&arrow.from);
        if let Some(sides) = &mut self.sides
            && self.proxies.contains(&arrow.to)
        {
            if matches!(
                arrow.message,
                Start::Request { .. } | Start::Response { .. }
            ) {
                hidden::tell(&mut message, &arrow.from, address);
            }
            sides.says(&arrow.from, &message);
        }
        self.check_route(&message, arrow)?;
        // What goes to another party is noted when it arrives.
        if self.proxies.contains(&arrow.to) {
            let line = format!("{} -> {}  {}", arrow.from, arrow.to, shown(&message));
            self.note(&line);
        }
        self.stage.send(&arrow.from, to, &message.to_bytes());
        self.said.push(message.clone());
        let agent = self.agent(&arrow.from);
        agent.history.push(Heard {
            sent: true,
            message: message.clone(),
        });
        self.label(arrow, message, None);
        Ok(())
    }

    /// A request within a dialog goes to its first Route, else to its target: the ladder has to draw it so.
    fn check_route(&self, message: &Message, arrow: &Arrow) -> Verdict {
        let by_rules = matches!(&arrow.message, Start::Request { uri: None, method, .. } if method != "CANCEL" && method != "REGISTER");
        let routes = message.values("Route");
        let (Some(place), true) = (
            routes.first().map(String::as_str).or(Some(message.uri())),
            by_rules,
        ) else {
            return Ok(());
        };
        let elsewhere = self
            .names
            .iter()
            .find(|(address, name)| *name != arrow.to && place.contains(&address.to_string()));
        match elsewhere {
            Some((_, name)) if !place.contains(&self.stage.address(&arrow.to).to_string()) => Err(
                format!("{} has to send this to {name}: {place}", arrow.from),
            ),
            _ => Ok(()),
        }
    }

    /// A text with addresses and variables in it.
    fn filled(&self, text: &str) -> Verdict<String> {
        pattern::fill(&self.placed(text), &self.variables)
            .ok_or_else(|| format!("cannot be sent as it is: {text}"))
    }

    /// The details of a message that is sent.
    fn change(&mut self, message: &mut Message, from: &str, details: &[Detail]) -> Verdict {
        let mut replaced: Vec<&str> = Vec::new();
        for Detail { what, .. } in details {
            match what {
                DetailKind::Header(name, value) => {
                    let value = self.filled(value)?;
                    if replaced.contains(&name.as_str()) {
                        push_behind(message, name, &value);
                    } else if value.is_empty() {
                        message.remove(name);
                    } else {
                        message.set(name, value);
                    }
                    replaced.push(name);
                }
                DetailKind::Add(name, value) => {
                    let value = self.filled(value)?;
                    message.push(name, value);
                }
                DetailKind::No(name) => {
                    message.remove(name);
                }
                DetailKind::AsIn(label, names) => {
                    let other = self.named(label)?.message.clone();
                    for name in names {
                        replace_all(message, name, &lines_of(&other, name));
                    }
                }
                DetailKind::Credentials(who) => {
                    let (name, value) = self.agent(from).credentials(who, message)?;
                    message.push(&name, value);
                }
                DetailKind::Sdp => {
                    message.set("Content-Type", "application/sdp");
                    message.body = self.agent(from).sdp();
                }
                DetailKind::Body(text) => {
                    message.body = self.filled(text)?.into_bytes();
                }
            }
        }
        Ok(())
    }

    fn label(&mut self, arrow: &Arrow, message: Message, came: Option<usize>) {
        if let Some(label) = &arrow.label {
            self.labels.insert(label.clone(), Named { message, came });
        }
    }

    /// Takes in one datagram. A copy of what came before only counts.
    fn take(&mut self, datagram: &Datagram) {
        let (from, to) = (self.name_of(datagram.from), self.name_of(datagram.to));
        // What parties send to servers is known; seen on the way, it is nothing new.
        if self.proxies.contains(&to) && !self.proxies.contains(&from) {
            return;
        }
        let Some(message) = Message::parse(&datagram.bytes) else {
            self.note(&format!(
                "{from} -> {to}  {} bytes that are no message",
                datagram.bytes.len()
            ));
            return;
        };
        let line = format!("{from} -> {to}  {}", shown(&message));
        let same = |other: &&mut Came| {
            other.from == from && other.to == to && other.bytes == datagram.bytes
        };
        if let Some(before) = self.came.iter_mut().find(same) {
            before.times += 1;
            let line = format!("{line}  (again)");
            self.note(&line);
            return;
        }
        self.note(&line);
        let tells_others = self.parties.contains_key(&to)
            && self.proxies.contains(&from)
            // Contacts of one user, whoever asks.
            && message.method() != "REGISTER";
        if let Some(sides) = self.sides.as_mut().filter(|_| tells_others) {
            sides.sees(&from, &to, &datagram.bytes);
        }
        self.pending.push_back(self.came.len());
        self.came.push(Came {
            from,
            to,
            message,
            bytes: datagram.bytes.clone(),
            times: 1,
            expected_again: 0,
        });
    }

    /// Takes in what has arrived already.
    fn drain(&mut self) {
        while let Some(datagram) = self.stage.receive(Duration::ZERO) {
            self.take(&datagram);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.stage.now() + time;
        loop {
            let left = end.saturating_sub(self.stage.now());
            match self.stage.receive(left) {
                Some(datagram) => self.take(&datagram),
                None if self.stage.now() >= end => return,
                None => {}
            }
        }
    }

    /// The first message that waits for this party. A 100 is passed over where none is wanted.
    fn first(&self, from: &str, to: &str, wants_100: bool) -> Option<usize> {
        let between = self.proxies.contains(&to.to_owned());
        self.pending.iter().copied().find(|&n| {
            let came = &self.came[n];
            came.to == to
                && (!between || came.from == from)
                && (wants_100 || came.message.status() != 100)
        })
    }

    /// What came and was not expected, except 100.
    fn unexpected(&self, party: Option<&str>) -> Option<String> {
        let left = self.pending.iter().map(|&n| &self.came[n]).find(|came| {
            party.is_none_or(|party| party == came.to)
                && !self.proxies.contains(&came.to)
                && came.message.status() != 100
        })?;
        Some(format!(
            "nobody expected this from {} to {}:\n{}",
            left.from,
            left.to,
            whole(&left.message)
        ))
    }

    fn nothing(&mut self, party: Option<&str>, time: Duration) -> Verdict {
        let end = self.stage.now() + time;
        self.drain();
        loop {
            if let Some(left) = self.unexpected(party) {
                return Err(left);
            }
            let now = self.stage.now();
            if now >= end {
                return Ok(());
            }
            if let Some(datagram) = self.stage.receive(end.saturating_sub(now)) {
                self.take(&datagram);
            }
        }
    }

    fn counted(&mut self, label: &str, least: u32, most: u32) -> Verdict {
        self.drain();
        let named = self.named(label)?;
        let came = named
            .came
            .ok_or_else(|| format!("{label} was sent, it did not come"))?;
        let found = self.came[came].times;
        let least = if self.stage.exact() { most } else { least };
        if (least..=most).contains(&found) {
            return Ok(());
        }
        Err(format!("it came {found} times"))
    }

    /// Waits until `ready` gives something, or the time is over.
    fn until<T>(
        &mut self,
        within: Option<Duration>,
        mut ready: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let limit = within.unwrap_or_else(|| self.stage.patience());
        let end = self.stage.now() + limit;
        self.drain();
        loop {
            if let Some(found) = ready(self) {
                return Some(found);
            }
            let now = self.stage.now();
            if now >= end {
                return None;
            }
            if let Some(datagram) = self.stage.receive(end.saturating_sub(now)) {
                self.take(&datagram);
            }
        }
    }

    fn expect(&mut self, arrow: &Arrow) -> Verdict {
        if let (Start::Again(label), true) = (&arrow.message, self.proxies.contains(&arrow.from)) {
            let place = self
                .named(label)?
                .came
                .ok_or_else(|| format!("{label} did not come from a server"))?;
            let again = |engine: &mut Self| {
                let came = &mut engine.came[place];
                came.copies_left().then(|| came.expected_again += 1)
            };
            return self
                .until(arrow.within, again)
                .ok_or_else(|| format!("no other copy of {label} came"));
        }
        let wants_100 = matches!(arrow.message, Start::Response { code: 100, .. });
        let find = |engine: &mut Self| engine.first(&arrow.from, &arrow.to, wants_100);
        let Some(place) = self.until(arrow.within, find) else {
            return Err("nothing came".to_owned());
        };
        let mut variables = self.variables.clone();
        match self.compare(place, arrow, &mut variables) {
            Ok(()) => {
                self.accept(place, arrow, variables);
                Ok(())
            }
            Err(why) => Err(format!("{why}\n{}", whole(&self.came[place].message))),
        }
    }

    fn accept(&mut self, place: usize, arrow: &Arrow, variables: Variables) {
        self.variables = variables;
        self.pending.retain(|&other| other != place);
        let message = self.came[place].message.clone();
        if let Some(sides) = &mut self.sides
            && self.parties.contains_key(&arrow.to)
        {
            sides.learn(&arrow.to, &message, &self.said);
        }
        if let Some(agent) = self.parties.get_mut(&arrow.to) {
            agent.history.push(Heard {
                sent: false,
                message: message.clone(),
            });
        }
        self.label(arrow, message, Some(place));
    }

    fn any_order(&mut self, steps: &[Step]) -> Result<(), Failure> {
        let mut left: Vec<(&Step, &Arrow)> = Vec::new();
        for step in steps {
            match &step.what {
                What::Arrow(arrow)
                    if self.proxies.contains(&arrow.from)
                        && !matches!(arrow.message, Start::Again(_)) =>
                {
                    left.push((step, arrow))
                }
                _ => {
                    return Err(
                        self.failure(step, "only messages of servers can come in any order")
                    );
                }
            }
        }
        if self.stage.blind().is_some() {
            let before = left.len();
            left.retain(|(_, arrow)| !self.proxies.contains(&arrow.to));
            self.unseen += before - left.len();
        }
        let mut within = left.iter().filter_map(|(_, arrow)| arrow.within).max();
        while let Some(&(next, _)) = left.first() {
            let mut refused = String::new();
            let fits = |engine: &mut Self| {
                refused.clear();
                for (n, (_, arrow)) in left.iter().enumerate() {
                    let wants_100 = matches!(arrow.message, Start::Response { code: 100, .. });
                    let Some(place) = engine.first(&arrow.from, &arrow.to, wants_100) else {
                        continue;
                    };
                    let mut variables = engine.variables.clone();
                    match engine.compare(place, arrow, &mut variables) {
                        Ok(()) => return Some((n, place, variables)),
                        Err(why) => {
                            let _ =
                                write!(refused, "\n{why}\n{}", whole(&engine.came[place].message));
                        }
                    }
                }
                None
            };
            let started = self.stage.now();
            let Some((n, place, variables)) = self.until(within, fits) else {
                return Err(self.failure(next, &format!("it did not come{refused}")));
            };
            within =
                within.map(|time| time.saturating_sub(self.stage.now().saturating_sub(started)));
            let (_, arrow) = left.remove(n);
            self.accept(place, arrow, variables);
        }
        Ok(())
    }

    /// The first alternative whose first message comes; if none does, one that begins otherwise.
    fn either(&mut self, step: &Step, alternatives: &[Vec<Step>]) -> Result<(), Failure> {
        let first = |steps: &[Step], proxies: &[String]| match steps.first().map(|step| &step.what)
        {
            Some(What::Arrow(arrow)) if proxies.contains(&arrow.from) => Some(arrow.clone()),
            _ => None,
        };
        let within = alternatives
            .iter()
            .filter_map(|steps| first(steps, &self.proxies)?.within)
            .max();
        let chosen = self.until(within, |engine| {
            alternatives.iter().position(|steps| {
                let Some(arrow) = first(steps, &engine.proxies) else {
                    return false;
                };
                if let Start::Again(label) = &arrow.message {
                    let place = engine.labels.get(label).and_then(|named| named.came);
                    return place.is_some_and(|place| engine.came[place].copies_left());
                }
                let wants_100 = matches!(arrow.message, Start::Response { code: 100, .. });
                engine
                    .first(&arrow.from, &arrow.to, wants_100)
                    .is_some_and(|place| {
                        engine
                            .compare(place, &arrow, &mut engine.variables.clone())
                            .is_ok()
                    })
            })
        });
        let otherwise = || {
            alternatives
                .iter()
                .position(|steps| first(steps, &self.proxies).is_none())
        };
        match chosen.or_else(otherwise) {
            Some(n) => self.steps(&alternatives[n]),
            None => {
                let left = self.unexpected(None).unwrap_or_default();
                Err(self.failure(step, &format!("none of the alternatives came\n{left}")))
            }
        }
    }
}

/// The values of a header; where commas do not part values, its lines.
fn lines_of(message: &Message, name: &str) -> Vec<String> {
    const WHOLE: [&str; 7] = [
        "WWW-Authenticate",
        "Proxy-Authenticate",
        "Authorization",
        "Proxy-Authorization",
        "Authentication-Info",
        "Date",
        "Subject",
    ];
    if WHOLE.iter().any(|whole| whole.eq_ignore_ascii_case(name)) {
        return message
            .all(name)
            .into_iter()
            .map(ToOwned::to_owned)
            .collect();
    }
    message.values(name)
}

fn push_behind(message: &mut Message, name: &str, value: &str) {
    let last = message
        .headers
        .iter()
        .rposition(|(other, _)| other.eq_ignore_ascii_case(name));
    let at = last.map_or(message.headers.len(), |at| at + 1);
    message
        .headers
        .insert(at, (name.to_owned(), value.to_owned()));
}

/// One line for the ladder.
fn shown(message: &Message) -> String {
    if message.is_request() {
        let start = message.start.trim_end_matches(" SIP/2.0");
        return format!("{start}  [{}]", message.first("CSeq").unwrap_or_default());
    }
    let start = message.start.trim_start_matches("SIP/2.0 ");
    format!("{start}  [{}]", message.first("CSeq").unwrap_or_default())
}

fn whole(message: &Message) -> String {
    let text = String::from_utf8_lossy(&message.to_bytes()).replace('\r', "");
    text.trim_end()
        .lines()
        .fold(String::new(), |mut all, line| {
            let _ = writeln!(all, "    | {line}");
            all
        })
}

#[cfg(test)]
mod tests;
