//! User agents that say what the script tells them to, and keep what they hear.
//!
//! Their messages are made from text here, with no help of the `sip` crate, so that a mistake in it cannot hide itself.

use std::{fmt::Write as _, net::SocketAddr};

use md5::{Digest as _, Md5};

/// One phone, trunk or proxy out there.
#[derive(Debug)]
pub struct Agent {
    pub name: &'static str,
    /// Where it believes to be: its Via and Contact.
    pub address: SocketAddr,
    /// Where its datagrams come from.
    pub source: SocketAddr,
    /// The listener of ours that it talks to.
    pub listener: u32,
    pub inbox: Vec<String>,
    pub sent: Vec<String>,
    numbered: u32,
}

/// Header lines that a script adds or replaces: `Name: value`, no value takes the header away. `to sip:...` is another Request-URI, `by <sip:...>` one more Route;
/// `strictly` has the first Route in the Request-URI's place (RFC 2543).
pub type Changes<'c> = &'c [&'c str];

impl Agent {
    pub fn new(name: &'static str, address: &str, source: &str, listener: u32) -> Self {
        Self {
            name,
            address: address.parse().unwrap(),
            source: source.parse().unwrap(),
            listener,
            inbox: Vec::new(),
            sent: Vec::new(),
            numbered: 0,
        }
    }

    /// `bob` and `bob2` are phones of the same user.
    pub fn user(&self) -> &'static str {
        self.name.trim_end_matches(|c: char| c.is_ascii_digit())
    }

    pub fn start_over(&mut self) {
        self.inbox.clear();
        self.sent.clear();
        self.numbered = 0;
    }

    fn contact(&self) -> String {
        format!("<sip:{}@{}>", self.user(), self.address)
    }

    /// A new request outside any dialog; `run` keeps the calls of one run of a script from those of another.
    pub fn request(&mut self, run: u32, method: &str, uri: &str, changes: Changes<'_>) -> String {
        self.numbered += 1;
        let (name, n) = (self.name, self.numbered);
        let (uri, to, call) = match method {
            "REGISTER" => (
                if uri.is_empty() {
                    "sip:example.org"
                } else {
                    uri
                },
                format!("<sip:{}@example.org>", self.user()),
                format!("register-{name}.r{run}"),
            ),
            _ => (uri, format!("<{uri}>"), format!("{name}-{n}.r{run}")),
        };
        let lines = vec![
            format!("{method} {uri} SIP/2.0"),
            format!(
                "Via: SIP/2.0/UDP {};branch=z9hG4bK-{name}-{n}.r{run}",
                self.address
            ),
            "Max-Forwards: 70".to_owned(),
            format!("From: <sip:{}@example.org>;tag={name}", self.user()),
            format!("To: {to}"),
            format!("Call-ID: {call}"),
            format!("CSeq: {n} {method}"),
            format!("Contact: {}", self.contact()),
            "Content-Length: 0".to_owned(),
        ];
        self.say(finish(lines, changes, self))
    }

    /// A request within the dialog of the last INVITE, from either side (RFC 3261 §12.2.1.1).
    pub fn in_dialog(&mut self, run: u32, method: &str, changes: Changes<'_>) -> Option<String> {
        self.numbered += 1;
        let (name, n) = (self.name, self.numbered);
        let of_invite = |text: &&String, begins: &str| {
            text.starts_with("INVITE ")
                || text.starts_with(begins) && header(text, "CSeq").ends_with("INVITE")
        };
        // An early dialog, as long as there is none that was accepted (§12.1).
        let mut newest = self.inbox.iter().rev();
        let dialog = newest
            .clone()
            .find(|text| of_invite(text, "SIP/2.0 2"))
            .or_else(|| newest.find(|text| of_invite(text, "SIP/2.0 18")))?;
        let caller = !dialog.starts_with("INVITE ");
        let number = header(dialog, "CSeq").split(' ').next()?.to_owned();
        // The route set is that of the message that made the dialog (§12.1, §12.2).
        let same = |text: &&String| {
            let kind = if caller {
                code(text) == code(dialog)
            } else {
                text.starts_with("INVITE ")
            };
            kind && header(text, "Call-ID") == header(dialog, "Call-ID")
                && header(text, "CSeq").ends_with("INVITE")
                && (!caller || header(text, "To") == header(dialog, "To"))
        };
        let dialog = self.inbox.iter().find(same)?;
        let mut routes = headers(dialog, "Record-Route");
        if caller {
            routes.reverse();
        }
        let uri = header(dialog, "Contact")
            .trim_matches(['<', '>'])
            .to_owned();
        let (from, to) = if caller {
            (
                header(dialog, "From").to_owned(),
                header(dialog, "To").to_owned(),
            )
        } else {
            (
                format!("{};tag={name}", header(dialog, "To")),
                header(dialog, "From").to_owned(),
            )
        };
        let number = match method {
            "ACK" => number,
            _ => (n + 100).to_string(),
        };
        let mut lines = vec![
            format!("{method} {uri} SIP/2.0"),
            format!(
                "Via: SIP/2.0/UDP {};branch=z9hG4bK-{name}-{n}.r{run}",
                self.address
            ),
            "Max-Forwards: 70".to_owned(),
        ];
        lines.extend(routes.iter().map(|route| format!("Route: {route}")));
        lines.extend([
            format!("From: {from}"),
            format!("To: {to}"),
            format!("Call-ID: {}", header(dialog, "Call-ID")),
            format!("CSeq: {number} {method}"),
            format!("Contact: {}", self.contact()),
            "Content-Length: 0".to_owned(),
        ]);
        Some(self.say(finish(lines, changes, self)))
    }

    /// ACK for the last final response to INVITE.
    pub fn ack(&mut self, run: u32, changes: Changes<'_>) -> Option<String> {
        let last = self
            .inbox
            .iter()
            .rev()
            .find(|text| {
                code(text).is_some_and(|code| code >= 200)
                    && header(text, "CSeq").ends_with("INVITE")
            })?
            .clone();
        if code(&last) < Some(300) {
            return self.in_dialog(run, "ACK", changes);
        }
        self.of_invite("ACK", header(&last, "To"), changes)
    }

    pub fn cancel(&mut self, changes: Changes<'_>) -> Option<String> {
        let invite = self
            .sent
            .iter()
            .rev()
            .find(|text| text.starts_with("INVITE "))?;
        let to = header(invite, "To").to_owned();
        self.of_invite("CANCEL", &to, changes)
    }

    /// ACK and CANCEL repeat what their INVITE says (RFC 3261 §9.1, §17.1.1.3).
    fn of_invite(&mut self, method: &str, to: &str, changes: Changes<'_>) -> Option<String> {
        let invite = self
            .sent
            .iter()
            .rev()
            .find(|text| text.starts_with("INVITE "))?;
        let uri = invite.split(' ').nth(1)?;
        let number = header(invite, "CSeq").split(' ').next()?;
        let mut lines = vec![
            format!("{method} {uri} SIP/2.0"),
            format!("Via: {}", header(invite, "Via")),
            "Max-Forwards: 70".to_owned(),
        ];
        lines.extend(
            headers(invite, "Route")
                .iter()
                .map(|route| format!("Route: {route}")),
        );
        lines.extend([
            format!("From: {}", header(invite, "From")),
            format!("To: {to}"),
            format!("Call-ID: {}", header(invite, "Call-ID")),
            format!("CSeq: {number} {method}"),
            "Content-Length: 0".to_owned(),
        ]);
        Some(self.say(finish(lines, changes, self)))
    }

    /// A response to the last request of this method, or of any but ACK.
    pub fn respond(&mut self, status: u16, method: &str, changes: Changes<'_>) -> Option<String> {
        let request = self.inbox.iter().rev().find(|text| {
            !text.starts_with("SIP/2.0")
                && match method {
                    "" => !text.starts_with("ACK "),
                    method => text.starts_with(method),
                }
        })?;
        let mut lines = vec![format!("SIP/2.0 {status} {}", phrase(status))];
        lines.extend(
            headers(request, "Via")
                .iter()
                .map(|via| format!("Via: {via}")),
        );
        lines.extend(
            headers(request, "Record-Route")
                .iter()
                .map(|route| format!("Record-Route: {route}")),
        );
        let to = header(request, "To");
        let tag = if to.contains(";tag=") || status == 100 {
            String::new()
        } else {
            format!(";tag={}", self.name)
        };
        lines.extend([
            format!("From: {}", header(request, "From")),
            format!("To: {to}{tag}"),
            format!("Call-ID: {}", header(request, "Call-ID")),
            format!("CSeq: {}", header(request, "CSeq")),
            format!("Contact: {}", self.contact()),
            "Content-Length: 0".to_owned(),
        ]);
        Some(self.say(finish(lines, changes, self)))
    }

    /// Sends the last request on, as a proxy that changes the Request-URI or leaves it, and takes off the Route that led to it. "staying": with its own Record-Route.
    pub fn relay(&mut self, run: u32, uri: &str, changes: Changes<'_>) -> Option<String> {
        self.numbered += 1;
        let request = self
            .inbox
            .iter()
            .rev()
            .find(|text| !text.starts_with("SIP/2.0"))?;
        let (line, rest) = request.split_once("\r\n")?;
        let mut words = line.split(' ');
        let (method, old) = (words.next()?, words.next()?);
        let uri = if uri.is_empty() { old } else { uri };
        let (name, n, address) = (self.name, self.numbered, self.address);
        let own = format!("<sip:{address};lr>");
        let rest = rest
            .replace(&format!("Route: {own}, "), "Route: ")
            .replace(&format!("\r\nRoute: {own}\r\n"), "\r\n");
        let staying = match changes {
            ["staying"] => format!("Record-Route: {own}\r\n"),
            _ => String::new(),
        };
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {address};branch=z9hG4bK-{name}-{n}.r{run}\r\n{staying}{rest}"
        );
        Some(self.say(text))
    }

    /// Sends the last response that begins like this on, as a proxy that takes its Via off.
    pub fn pass(&mut self, begins: &str) -> Option<String> {
        let response = self.inbox.iter().rev().find(|text| {
            text.strip_prefix("SIP/2.0 ")
                .is_some_and(|rest| rest.starts_with(begins))
        })?;
        let (line, rest) = response.split_once("\r\n")?;
        let (_, below) = rest.split_once("\r\n")?;
        let text = format!("{line}\r\n{below}");
        Some(self.say(text))
    }

    /// What it said last that begins like this, once more.
    pub fn again(&self, begins: &str) -> Option<String> {
        self.sent
            .iter()
            .rev()
            .find(|text| text.trim_start_matches("SIP/2.0 ").starts_with(begins))
            .cloned()
    }

    fn say(&mut self, text: String) -> String {
        self.sent.push(text.clone());
        text
    }

    /// Credentials for the last challenge, with qop=auth and MD5 (RFC 7616 §3.4).
    fn credentials(&self, user: &str, password: &str, method: &str, uri: &str) -> Option<String> {
        let challenged = self
            .inbox
            .iter()
            .rev()
            .find(|text| matches!(code(text), Some(401 | 407)))?;
        let (name, challenge) = [
            ("Authorization", "WWW-Authenticate"),
            ("Proxy-Authorization", "Proxy-Authenticate"),
        ]
        .into_iter()
        .find_map(|(name, of)| Some((name, headers(challenged, of).last()?.to_owned())))?;
        let of = |key: &str| {
            let rest = &challenge[challenge.find(&format!("{key}=\""))? + key.len() + 2..];
            Some(rest[..rest.find('"')?].to_owned())
        };
        let (realm, nonce) = (of("realm")?, of("nonce")?);
        let a1 = md5(&format!("{user}:{realm}:{password}"));
        let a2 = md5(&format!("{method}:{uri}"));
        let response = md5(&format!("{a1}:{nonce}:00000001:cn:auth:{a2}"));
        Some(format!(
            "{name}: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", algorithm=MD5, cnonce=\"cn\", qop=auth, nc=00000001"
        ))
    }
}

fn md5(text: &str) -> String {
    Md5::digest(text.as_bytes())
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// The lines with the script's changes, as a datagram.
fn finish(mut lines: Vec<String>, changes: Changes<'_>, agent: &Agent) -> String {
    let mut replaced: Vec<&str> = Vec::new();
    let mut body = "";
    for change in changes {
        if let Some(parameter) = change.strip_prefix(';') {
            let via = lines
                .iter_mut()
                .find(|line| line.starts_with("Via:"))
                .unwrap();
            let _ = write!(via, ";{parameter}");
            continue;
        }
        if let Some((user, password)) = change
            .strip_prefix("as ")
            .and_then(|who| who.split_once(' '))
        {
            let mut start = lines[0].split(' ');
            let (method, uri) = (start.next().unwrap(), start.next().unwrap());
            let line = agent
                .credentials(user, password, method, uri)
                .expect("a challenge came before");
            lines.push(line);
            continue;
        }
        if let Some(uri) = change.strip_prefix("to ") {
            let method = lines[0].split(' ').next().unwrap_or_default();
            lines[0] = format!("{method} {uri} SIP/2.0");
            continue;
        }
        if let Some(route) = change.strip_prefix("by ") {
            let last = lines.iter().rposition(|line| line.starts_with("Route:"));
            lines.insert(last.unwrap_or(1) + 1, format!("Route: {route}"));
            continue;
        }
        if *change == "strictly" {
            let first = lines.iter().position(|line| line.starts_with("Route:"));
            let first = lines.remove(first.expect("a Route"));
            let uri = first.trim_start_matches("Route: ").trim_matches(['<', '>']);
            let words: Vec<&str> = lines[0].split(' ').collect();
            let (target, start) = (words[1].to_owned(), format!("{} {uri} SIP/2.0", words[0]));
            lines[0] = start;
            let last = lines.iter().rposition(|line| line.starts_with("Route:"));
            lines.insert(last.unwrap_or(1) + 1, format!("Route: <{target}>"));
            continue;
        }
        if *change == "forgetful" {
            // Each line has one value.
            for line in lines.iter_mut().filter(|line| line.contains("Route:")) {
                if let Some((before, _)) = line.split_once(";td=") {
                    *line = format!("{before}>");
                }
            }
            continue;
        }
        if let Some(text) = change.strip_prefix("body ") {
            body = text;
            continue;
        }
        let (name, value) = change.split_once(':').expect("a header line");
        let value = value.trim();
        let is = |line: &String| line.split_once(':').is_some_and(|(other, _)| other == name);
        let at = lines.iter().position(is);
        if !replaced.contains(&name) {
            lines.retain(|line| !is(line));
            replaced.push(name);
        } else if let Some(last) = lines.iter().rposition(is) {
            lines.insert(last + 1, format!("{name}: {value}"));
            continue;
        }
        if !value.is_empty() {
            let at = at.unwrap_or(lines.len());
            lines.insert(at, format!("{name}: {value}"));
        }
    }
    if !body.is_empty() {
        lines.retain(|line| !line.starts_with("Content-Length"));
        lines.push(format!("Content-Length: {}", body.len()));
    }
    lines.join("\r\n") + "\r\n\r\n" + body
}

/// The first header of this name, or nothing.
pub fn header<'t>(text: &'t str, name: &str) -> &'t str {
    headers(text, name).first().copied().unwrap_or_default()
}

/// All headers of this name.
pub fn headers<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let head = text.split("\r\n\r\n").next().unwrap_or(text);
    head.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

/// The status code of a response.
pub fn code(text: &str) -> Option<u16> {
    text.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
}

fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        183 => "Progress",
        200 => "OK",
        486 => "Busy",
        487 => "Terminated",
        603 => "Decline",
        _ => "Because",
    }
}
