//! A flow played with topology hiding on: what is different in what each side sees, and that nothing of one side is seen on the other.
//!
//! In these passes each party has an address, a port, a host name, Call-IDs and branches that nobody else has, and tells of them wherever a message has room for it
//! ([`tell`]). Every datagram of a server is looked through for those of everybody else ([`Sides::leak`]), whatever they are wrapped in. What a flow expects is read
//! as the side sees it that the message goes to ([`check`], [`seen`]): the server is the only one in Via and Contact, Call-IDs are other ones, and what says nothing of
//! anybody's network is as it was sent.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use sip::HeaderName;
use topology::inventory::{Treatment, treatment};

use super::party::Heard;
use super::rules;
use super::syntax::{DetailKind, Flow, Pass};
use crate::message::{Message, param, uri_of};

/// Stands in a configuration for the mode, where a flow is about hiding.
const MODE: &str = "{hiding}";

/// In the report of a flow in which somebody saw what nobody may see.
pub const LEAK: &str = "tells of others";

impl Flow {
    /// Whether it has to be played so: a flow about hiding is played with hiding only.
    pub fn has(&self, pass: Pass) -> bool {
        pass != Pass::Plain || !self.says_hiding()
    }

    fn says_hiding(&self) -> bool {
        self.proxies.iter().any(|proxy| proxy.config.contains(MODE))
    }

    /// The flow with this hiding in the configuration of every server: as the flow says, or for every domain and every route.
    #[must_use]
    pub fn with_hiding(&self, pass: Pass) -> Self {
        let mode = match pass {
            Pass::Plain => return self.clone(),
            Pass::Dialog => "dialog",
            Pass::Stateless => "stateless",
        };
        let about = self.says_hiding();
        let mut flow = self.clone();
        flow.is_about_hiding = about;
        for proxy in &mut flow.proxies {
            proxy.config = match about {
                true => proxy.config.replace(MODE, mode),
                false => hiding(&proxy.config, mode),
            };
        }
        flow
    }
}

fn hiding(config: &str, mode: &str) -> String {
    let key = format!("topology_hiding = \"{mode}\"\n");
    let mut text = String::new();
    for section in config.split_inclusive('\n') {
        text.push_str(section);
        if section.starts_with("[[domain]]") || section.starts_with("[[route]]") {
            text.push_str(&key);
        }
    }
    text
}

/// The host name of a party, or of a server.
pub fn host(name: &str) -> String {
    format!("{name}.inside.example")
}

/// What is known of all sides.
#[derive(Debug, Default)]
pub struct Sides {
    /// The flow is about hiding: it says itself what each side sees.
    pub flow_says: bool,
    /// Headers that the configuration shows.
    shown: Vec<String>,
    /// Whose it is, and what tells of it.
    marks: Vec<(String, String)>,
    /// What somebody has said, in lower case: it is no news.
    said: HashMap<String, String>,
    /// By each name that a call has for somebody: the Call-ID that the caller gave it.
    ids: HashMap<String, String>,
    /// By party and the caller's Call-ID: as this party knows it.
    told: HashMap<(String, String), String>,
    /// What is to be looked through.
    seen: Vec<Seen>,
}

/// A datagram from a server, and what was known when it came.
#[derive(Debug)]
struct Seen {
    from: String,
    to: String,
    bytes: Vec<u8>,
    marks: usize,
    /// Bytes of what the one who got it had said.
    said: usize,
}

impl Sides {
    pub fn new(flow: &Flow, names: &[(SocketAddr, String)]) -> Self {
        let mut sides = Self {
            flow_says: flow.is_about_hiding,
            shown: flow.shown.clone(),
            ..Self::default()
        };
        for (address, name) in names {
            for mark in [
                address.ip().to_string(),
                address.port().to_string(),
                host(name),
            ] {
                sides.mark(name, mark);
            }
            sides.said.insert(name.clone(), address.to_string());
        }
        sides
    }

    fn mark(&mut self, whose: &str, mark: String) {
        let mark = (whose.to_owned(), mark);
        if !mark.1.is_empty() && !self.marks.contains(&mark) {
            self.marks.push(mark);
        }
    }

    /// A party says this to a server.
    pub fn says(&mut self, party: &str, message: &Message) {
        let text = String::from_utf8_lossy(&message.to_bytes()).to_ascii_lowercase();
        self.said
            .entry(party.to_owned())
            .or_default()
            .push_str(&text);
        if message.is_request() {
            self.mark(party, message.branch());
            if !self.ids.contains_key(message.call_id()) {
                self.mark(party, message.call_id().to_owned());
            }
        }
    }

    /// The Call-ID that the caller gave the call that somebody knows by this one.
    pub fn callers<'i>(&'i self, call_id: &'i str) -> &'i str {
        self.ids.get(call_id).map_or(call_id, String::as_str)
    }

    /// A message with the Call-ID by which this party knows the call.
    pub fn as_known_to(&self, party: &str, message: &Message) -> Message {
        let callers = self.callers(message.call_id()).to_owned();
        let told = self.told.get(&(party.to_owned(), callers.clone()));
        let own = told.unwrap_or(&callers);
        let mut message = message.clone();
        if own != message.call_id() {
            message.set("Call-ID", own.to_owned());
        }
        message
    }

    /// A datagram from a server to a party.
    pub fn sees(&mut self, from: &str, to: &str, bytes: &[u8]) {
        self.seen.push(Seen {
            from: from.to_owned(),
            to: to.to_owned(),
            bytes: bytes.to_vec(),
            marks: self.marks.len(),
            said: self.said.get(to).map_or(0, String::len),
        });
    }

    /// What somebody could see of anybody else. It takes its time, so that nothing is looked through before the flow is over.
    pub fn leak(&self) -> Option<String> {
        self.seen.iter().find_map(|seen| self.leak_of(seen))
    }

    fn leak_of(&self, seen: &Seen) -> Option<String> {
        let (from, to) = (&seen.from, &seen.to);
        let of_server = self.said.get(from).map_or("", String::as_str);
        let known = self.said.get(to).and_then(|said| said.get(..seen.said));
        let known = known.unwrap_or_default();
        let marks: Vec<&str> = self
            .marks
            .iter()
            .take(seen.marks)
            .filter(|(whose, _)| whose != to && whose != from)
            .map(|(_, mark)| mark.as_str())
            .filter(|mark| {
                let mark = mark.to_ascii_lowercase();
                !of_server.contains(&mark) && !known.contains(&mark)
            })
            .collect();
        let leaks = topology::leak::find(&self.without_shown(&seen.bytes), &marks);
        if leaks.is_empty() {
            return None;
        }
        let mut text = format!("what {to} gets from {from} {LEAK}:");
        for leak in &leaks {
            let whose = self.marks.iter().find(|(_, mark)| *mark == leak.mark);
            let whose = whose.map_or("", |(whose, _)| whose);
            let _ = write!(text, "\n    {} of {whose} {:?}", leak.mark, leak.wrapped);
        }
        for line in String::from_utf8_lossy(&seen.bytes).lines() {
            let _ = write!(text, "\n    | {line}");
        }
        Some(text)
    }

    fn without_shown(&self, bytes: &[u8]) -> Vec<u8> {
        match Message::parse(bytes) {
            Some(mut message) if !self.shown.is_empty() => {
                for name in &self.shown {
                    message.remove(name);
                }
                message.to_bytes()
            }
            _ => bytes.to_vec(),
        }
    }

    /// Whether a text tells of anybody.
    fn tells(&self, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text).to_ascii_lowercase();
        let mut marks = self.marks.iter();
        marks.any(|(_, mark)| text.contains(&mark.to_ascii_lowercase()))
    }

    /// A party has taken this message for a copy of what somebody sent. Another name of a call is remembered.
    pub fn learn(&mut self, to: &str, message: &Message, said: &[Message]) {
        let call_id = message.call_id();
        if !message.is_request() || self.is_of(to, call_id) {
            return;
        }
        if let Some(cause) = self.cause(to, message, said) {
            let callers = self.callers(cause.call_id()).to_owned();
            self.ids.insert(call_id.to_owned(), callers.clone());
            let told = self.told.entry((to.to_owned(), callers));
            told.or_insert_with(|| call_id.to_owned());
        }
    }

    /// What somebody sent that this request is a copy of.
    fn cause<'m>(&self, to: &str, message: &Message, said: &'m [Message]) -> Option<&'m Message> {
        let callers = self.callers(message.call_id());
        let is_new = !self.ids.contains_key(message.call_id()) && !self.is_of(to, callers);
        said.iter().rev().find(|other| {
            let of = self.callers(other.call_id());
            // A new name is that of a call that this party has not known.
            let told = || self.told.contains_key(&(to.to_owned(), of.to_owned()));
            other.is_request()
                && other.method() == message.method()
                && other.cseq() == message.cseq()
                && other.from_tag() == message.from_tag()
                && other.to_tag() == message.to_tag()
                && (of == callers || is_new && !self.is_of(to, of) && !told())
        })
    }

    /// Whether it is a response that the server has made itself.
    pub fn is_made_here(&self, message: &Message, said: &[Message]) -> bool {
        !message.is_request() && self.sent_response(message, said).is_none()
    }

    fn sent_response<'m>(&self, message: &Message, said: &'m [Message]) -> Option<&'m Message> {
        let callers = self.callers(message.call_id());
        said.iter().rev().find(|other| {
            other.status() == message.status()
                && self.callers(other.call_id()) == callers
                && other.first("CSeq") == message.first("CSeq")
                && other.to_tag() == message.to_tag()
        })
    }

    fn is_of(&self, party: &str, call_id: &str) -> bool {
        self.marks
            .iter()
            .any(|(whose, mark)| whose == party && mark == call_id)
    }
}

/// Adds to a message what a careless party tells of itself.
pub fn tell(message: &mut Message, name: &str, address: SocketAddr) {
    let method = message.method().to_owned();
    let is_request = message.is_request();
    if method == "REGISTER" || message.status() == 100 {
        return;
    }
    let host = host(name);
    let mut add = |name: &str, value: String| {
        if message.first(name).is_none() {
            message.push(name, value);
        }
    };
    add("X-Seen-At", format!("{address}, {host};at=\"{address}\""));
    add("X-Fine", format!("42 of {name}, nothing else"));
    if matches!(method.as_str(), "ACK" | "CANCEL" | "BYE") && is_request {
        add("Reason", format!("Q.850;cause=16;text=\"at {host}\""));
    } else {
        let person = format!("<sip:{name}@{host}>");
        add("P-Asserted-Identity", person.clone());
        add("Remote-Party-ID", format!("{person};party=calling"));
        add(
            "Diversion",
            format!("<sip:{name}-before@{address}>;reason=unconditional"),
        );
        add(
            "History-Info",
            format!("{person};index=1, <sip:x@{host}?Reason=SIP%3Bcause%3D302>;index=1.1;mp=1"),
        );
        add("Call-Info", format!("<http://{host}/card>;purpose=card"));
        add("Organization", format!("The people of {host}"));
        add(
            "P-Charging-Vector",
            format!("icid-value=1;icid-generated-at={address}"),
        );
    }
    if is_request {
        add("User-Agent", format!("phone/1.0 ({host})"));
        add("Alert-Info", format!("<http://{host}/ring.wav>"));
    } else {
        add("Server", format!("phone/1.0 ({host})"));
        add("Warning", format!("399 {host} \"at {address}\""));
        add("Error-Info", format!("<http://{host}/error>"));
    }
}

/// A session description that tells all that one can.
pub fn sdp(name: &str, address: SocketAddr) -> Vec<u8> {
    let (ip, port, host) = (address.ip(), address.port(), host(name));
    format!(
        "v=0\r\no={name} 2890844526 2890844526 IN IP4 {ip}\r\ns=-\r\ni=a call from {host}\r\nu=http://{host}/\r\ne={name}@{host}\r\n\
         c=IN IP4 192.0.2.7\r\nt=0 0\r\na=tool:phone at {host}\r\nm=audio 6000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n\
         a=candidate:1 1 UDP 2130706431 {ip} {port} typ host\r\na=candidate:2 1 UDP 1694498815 192.0.2.7 6000 typ srflx raddr {ip} rport {port}\r\n\
         a=rtcp:6001 IN IP4 {ip}\r\na=sendrecv\r\n"
    )
    .into_bytes()
}

/// As [`rules::check`], for what goes from a server to a party of another side.
pub fn check(
    message: &Message,
    to: &str,
    source: SocketAddr,
    said: &[Message],
    heard: &[Heard],
    sides: &Sides,
) -> Result<(), String> {
    rules::whole(message)?;
    if message.is_request() {
        request(message, to, source, said, heard, sides)
    } else {
        response(message, source, said, heard, sides)
    }
}

fn request(
    message: &Message,
    to: &str,
    source: SocketAddr,
    said: &[Message],
    heard: &[Heard],
    sides: &Sides,
) -> Result<(), String> {
    rules::top_via(message, source)?;
    if let Some(invite) = rules::own_invite(message, heard)? {
        return rules::of_invite(message, invite);
    }
    let vias = message.values("Via").len();
    if vias != 1 {
        return Err(format!("it has {vias} Vias, where the server's is enough"));
    }
    let Some(cause) = sides.cause(to, message, said) else {
        return Err("nobody sent a request that this could be a copy of".to_owned());
    };
    let number = |m: &Message| {
        m.first("Max-Forwards")
            .and_then(|v| v.parse::<usize>().ok())
    };
    let (before, after) = (number(cause).unwrap_or(71), number(message));
    if after.is_none_or(|after| after >= before) {
        return Err(format!("Max-Forwards went from {before} to {after:?}"));
    }
    kept(cause, message, source, sides)
}

fn response(
    message: &Message,
    source: SocketAddr,
    said: &[Message],
    heard: &[Heard],
    sides: &Sides,
) -> Result<(), String> {
    rules::answers(message, heard)?;
    let cause = sides.sent_response(message, said);
    match cause {
        Some(cause) => kept(cause, message, source, sides),
        None => rules::uncaused(message),
    }
}

/// What says nothing of anybody's network is as it was sent, and nothing is added.
fn kept(
    before: &Message,
    after: &Message,
    source: SocketAddr,
    sides: &Sides,
) -> Result<(), String> {
    for (name, value) in &before.headers {
        let known = HeaderName::of(name.as_bytes());
        if rules::may_change(name, before.is_request()) {
            continue;
        }
        let same = || {
            after
                .headers
                .iter()
                .any(|(other, of)| other == name && of == value)
        };
        let there = after.first(name).is_some();
        let fine = match treatment(known) {
            Treatment::Safe | Treatment::Signed => same(),
            // The flow says what becomes of it.
            _ if sides.flow_says => true,
            Treatment::Own | Treatment::Dialog | Treatment::Calls | Treatment::Fetch => true,
            Treatment::ServiceRoute => true,
            Treatment::Scan | Treatment::Unknown => {
                same() || there && sides.tells(value.as_bytes())
            }
            Treatment::Identity => before.values(name).len() == after.values(name).len(),
            Treatment::Refer | Treatment::Warning => there,
            Treatment::Strip | Treatment::Agent => !there,
        };
        if !fine {
            return Err(format!(
                "what hiding may not touch, or has to, is otherwise: {name}: {value}"
            ));
        }
    }
    for (name, value) in &after.headers {
        let may_change = rules::may_change(name, before.is_request()) || name == "Record-Route";
        if before.first(name).is_none() && !may_change {
            return Err(format!("what nobody sent was added: {name}: {value}"));
        }
    }
    contacts(before, after, source, sides)?;
    for name in ["From", "To"] {
        let tag = |m: &Message| param(m.first(name).unwrap_or_default(), "tag");
        if tag(before) != tag(after) {
            return Err(format!("its {name} has another tag than it was sent with"));
        }
    }
    match sides.flow_says {
        true => Ok(()),
        false => body(before, after, sides),
    }
}

fn contacts(
    before: &Message,
    after: &Message,
    source: SocketAddr,
    sides: &Sides,
) -> Result<(), String> {
    let (sent, came) = (before.values("Contact"), after.values("Contact"));
    let redirects = (300..400).contains(&after.status());
    if sent.len() != came.len() && !redirects {
        return Err(format!("{} Contacts became {}", sent.len(), came.len()));
    }
    // A telephone number, and the name of a domain, are no secret.
    let open = |value: &String| redirects && sent.contains(value) && !sides.tells(value.as_bytes());
    let elsewhere = came
        .iter()
        .find(|value| !uri_of(value).contains(&source.to_string()) && !open(value));
    match elsewhere {
        Some(value) => Err(format!("a Contact is not the server's: {value}")),
        None => Ok(()),
    }
}

/// Of a session description every line that tells nothing stays, and none is added; anything else that tells nothing stays as it is.
fn body(before: &Message, after: &Message, sides: &Sides) -> Result<(), String> {
    let fault = |what: &str| Err(format!("its body {what}"));
    if before.first("Content-Type") != Some("application/sdp") {
        return match before.body == after.body || sides.tells(&before.body) {
            true => Ok(()),
            false => fault("is not the one that was sent"),
        };
    }
    let lines = |m: &Message| -> Vec<String> {
        let text = String::from_utf8_lossy(&m.body).into_owned();
        text.lines().map(ToOwned::to_owned).collect()
    };
    let stays = |line: &String| {
        let ice = line.starts_with("a=candidate") || line.starts_with("a=ice");
        let origin = line.starts_with("o=");
        let of_people = ["u=", "e=", "p="].iter().any(|kind| line.starts_with(kind));
        let told = ["s=", "i="].iter().any(|kind| line.starts_with(kind));
        !ice && !origin && !of_people && (told || !sides.tells(line.as_bytes()))
    };
    let kind = |line: &String| line.get(..2).unwrap_or_default().to_owned();
    let (sent, came) = (lines(before), lines(after));
    let wanted: Vec<&String> = sent.iter().filter(|line| stays(line)).collect();
    let rest: Vec<&String> = came
        .iter()
        .filter(|line| !line.starts_with("o=") && (stays(line) || sent.contains(line)))
        .collect();
    let same = |(sent, came): (&&String, &&String)| {
        sent == came || kind(sent) == kind(came) && sides.tells(sent.as_bytes())
    };
    let origins = |all: &[String]| all.iter().filter(|line| line.starts_with("o=")).count();
    let alike = wanted.len() == rest.len() && wanted.iter().zip(&rest).all(same);
    match alike && origins(&sent) == origins(&came) {
        true => Ok(()),
        false => fault("is not what is left of the one that was sent"),
    }
}

/// What a flow says of a message, as the side sees it that the message goes to. `None`: nothing is to be compared.
pub fn seen(detail: &DetailKind, is_request: bool, hides: bool) -> Option<DetailKind> {
    let gone = |name: &str| {
        let names: &[&str] = match (hides, is_request) {
            (false, _) => &[],
            (true, true) => &["Contact", "Record-Route", "From", "To"],
            (true, false) => &["Contact", "Record-Route"],
        };
        names.iter().any(|other| other.eq_ignore_ascii_case(name))
    };
    match detail {
        DetailKind::Header(name, _) if gone(name) => None,
        DetailKind::AsIn(label, names) => {
            let names: Vec<String> = names.iter().filter(|name| !gone(name)).cloned().collect();
            (!names.is_empty()).then(|| DetailKind::AsIn(label.clone(), names))
        }
        _ => Some(detail.clone()),
    }
}
