//! A user agent that fills in what a flow leaves out: Via, tags, Call-ID, CSeq, routes, RAck, Digest. Whatever a flow writes wins.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::hidden;
use super::syntax::Credentials;
use crate::message::{Message, param, uri_of};

/// A message that a party sent or got.
#[derive(Clone, Debug)]
pub struct Heard {
    pub sent: bool,
    pub message: Message,
}

#[derive(Debug)]
pub struct Agent {
    pub name: String,
    /// `sip:USER@DOMAIN`
    pub aor: String,
    pub address: SocketAddr,
    pub history: Vec<Heard>,
    /// What it says tells of it (see [`super::hidden::tell`]).
    tells: bool,
    numbered: u32,
    /// How often each nonce was used.
    nonces: HashMap<String, u32>,
}

impl Agent {
    pub fn new(name: &str, aor: &str, address: SocketAddr, tells: bool) -> Self {
        let aor = if aor.is_empty() {
            format!("sip:{name}@{address}")
        } else {
            aor.to_owned()
        };
        Self {
            name: name.to_owned(),
            aor,
            address,
            history: Vec::new(),
            tells,
            numbered: 0,
            nonces: HashMap::new(),
        }
    }

    fn user(&self) -> &str {
        let rest = self.aor.split_once(':').map_or("", |(_, rest)| rest);
        rest.split_once('@').map_or("", |(user, _)| user)
    }

    fn domain(&self) -> &str {
        self.aor.rsplit(['@', ':']).next().unwrap_or_default()
    }

    pub fn contact(&self) -> String {
        format!("<sip:{}@{}>", self.user(), self.address)
    }

    fn via(&mut self) -> String {
        self.numbered += 1;
        format!(
            "SIP/2.0/UDP {};branch=z9hG4bK-{}-{}",
            self.address, self.name, self.numbered
        )
    }

    fn call_id(&self, word: &str) -> String {
        match self.tells {
            true => format!("{word}@{}", hidden::host(&self.name)),
            false => word.to_owned(),
        }
    }

    fn last(&self, wanted: impl Fn(&Heard) -> bool) -> Option<&Heard> {
        self.history.iter().rev().find(|heard| wanted(heard))
    }

    /// The next CSeq number of a call.
    fn next_cseq(&self, call_id: &str) -> u32 {
        let own = self.history.iter().filter(|heard| {
            heard.sent && heard.message.is_request() && heard.message.call_id() == call_id
        });
        own.map(|heard| heard.message.cseq()).max().unwrap_or(0) + 1
    }

    /// A request that `flow` names so far: with a URI outside any dialog, without one within the last, or the one of `about`.
    pub fn request(
        &mut self,
        method: &str,
        uri: Option<&str>,
        about: Option<&Message>,
        retry: bool,
    ) -> Result<Message, String> {
        match (method, uri) {
            ("ACK", _) if uri.is_none() || about.is_some() => self.ack(uri, about),
            ("CANCEL", None) => self.cancel(about),
            ("REGISTER", _) => {
                let uri = uri.map_or_else(|| format!("sip:{}", self.domain()), ToOwned::to_owned);
                let call_id = self.call_id(&format!("registers.{}", self.name));
                Ok(self.outside(method, &uri, &self.aor.clone(), call_id, None))
            }
            (_, Some(uri)) if about.is_none() => {
                let challenged = self
                    .last(|heard| heard.sent && heard.message.method() == method)
                    .filter(|_| retry)
                    .map(|heard| heard.message.clone());
                let (call_id, from) = match challenged {
                    Some(message) => (
                        message.call_id().to_owned(),
                        message.first("From").map(ToOwned::to_owned),
                    ),
                    None => (
                        self.call_id(&format!("{}.{}", self.numbered + 1, self.name)),
                        None,
                    ),
                };
                Ok(self.outside(method, uri, uri, call_id, from))
            }
            _ => self.in_dialog(method, uri, about),
        }
    }

    fn outside(
        &mut self,
        method: &str,
        uri: &str,
        to: &str,
        call_id: String,
        from: Option<String>,
    ) -> Message {
        let cseq = self.next_cseq(&call_id);
        let from = from.unwrap_or_else(|| format!("<{}>;tag={}", self.aor, self.name));
        let mut m = Message::request(method, uri)
            .with("Via", self.via())
            .with("Max-Forwards", "70")
            .with("From", from)
            .with("To", format!("<{to}>"))
            .with("Call-ID", call_id)
            .with("CSeq", format!("{cseq} {method}"));
        if wants_contact(method) {
            m.push("Contact", self.contact());
        }
        m
    }

    /// RFC 3261 §12.2.1.1, as caller or callee.
    fn in_dialog(
        &mut self,
        method: &str,
        uri: Option<&str>,
        about: Option<&Message>,
    ) -> Result<Message, String> {
        let no_dialog =
            || "there is no dialog for this request yet; a URI makes it one of its own".to_owned();
        let made = |m: &Message| {
            !m.is_request()
                && makes_dialog(m.method())
                && (101..300).contains(&m.status())
                && m.to_tag().is_some()
        };
        let response = match about {
            Some(m) if made(m) => m.clone(),
            Some(m) => {
                let of =
                    |heard: &Heard| made(&heard.message) && heard.message.call_id() == m.call_id();
                self.last(of).ok_or_else(no_dialog)?.message.clone()
            }
            None => {
                let confirmed =
                    |heard: &Heard| made(&heard.message) && heard.message.status() >= 200;
                let last = self
                    .last(|heard| made(&heard.message))
                    .ok_or_else(no_dialog)?;
                // A dialog that is confirmed comes before one that still rings, unless that is of a later call.
                let best = self
                    .last(|heard| {
                        confirmed(heard) && heard.message.call_id() == last.message.call_id()
                    })
                    .unwrap_or(last);
                best.message.clone()
            }
        };
        let same_dialog = |m: &Message| m.call_id() == response.call_id();
        let Some(first_invite) = self.history.iter().find(|heard| {
            heard.message.is_request()
                && makes_dialog(heard.message.method())
                && same_dialog(&heard.message)
        }) else {
            return Err(no_dialog());
        };
        let caller = first_invite.sent;
        // Whoever got it had asked.
        let asked = (self.last(|heard| heard.message == response)).is_none_or(|heard| !heard.sent);
        let (from, to) = (
            response.first("From").unwrap_or_default().to_owned(),
            response.first("To").unwrap_or_default().to_owned(),
        );
        let (from, to) = if asked { (from, to) } else { (to, from) };
        let peer_tag = param(&to, "tag");
        // The route set is that of the message which made the dialog; the target is refreshed (§12.2).
        let by_peer = |heard: &&Heard| {
            let m = &heard.message;
            !heard.sent
                && same_dialog(m)
                && if m.is_request() {
                    makes_dialog(m.method()) || m.method() == "UPDATE"
                } else {
                    (makes_dialog(m.method()) || m.method() == "UPDATE")
                        && (101..300).contains(&m.status())
                        && m.to_tag() == peer_tag
                }
        };
        let target = self
            .history
            .iter()
            .rev()
            .filter(by_peer)
            .find_map(|heard| heard.message.contact_uri())
            .unwrap_or_default();
        let maker = if caller {
            self.history
                .iter()
                .filter(by_peer)
                .find(|heard| {
                    let m = &heard.message;
                    makes_dialog(m.method()) && m.status() == response.status()
                })
                .or_else(|| self.history.iter().find(by_peer))
        } else {
            Some(first_invite)
        };
        let mut routes = maker
            .map(|heard| heard.message.values("Record-Route"))
            .unwrap_or_default();
        if caller {
            routes.reverse();
        }
        let cseq = match method {
            "ACK" => response.cseq(),
            _ => self.next_cseq(response.call_id()),
        };
        let mut m = Message::request(method, uri.unwrap_or(&target))
            .with("Via", self.via())
            .with("Max-Forwards", "70");
        for route in routes {
            m.push("Route", route);
        }
        m.push("From", from)
            .push("To", to)
            .push("Call-ID", response.call_id())
            .push("CSeq", format!("{cseq} {method}"));
        if wants_contact(method) {
            m.push("Contact", self.contact());
        }
        if method == "PRACK" {
            let reliable = about
                .filter(|m| m.first("RSeq").is_some())
                .cloned()
                .or_else(|| {
                    self.last(|heard| !heard.sent && heard.message.first("RSeq").is_some())
                        .map(|heard| heard.message.clone())
                });
            let reliable = reliable.ok_or("no response with RSeq to PRACK")?;
            m.push(
                "RAck",
                format!(
                    "{} {}",
                    reliable.first("RSeq").unwrap_or_default(),
                    reliable.first("CSeq").unwrap_or_default()
                ),
            );
        }
        Ok(m)
    }

    /// To a 2xx a request of its own along the route set (§13.2.2.4), else one of the INVITE's transaction (§17.1.1.3).
    fn ack(&mut self, uri: Option<&str>, about: Option<&Message>) -> Result<Message, String> {
        let response = match about {
            Some(message) => message.clone(),
            None => {
                let last = self.last(|heard| {
                    !heard.sent
                        && heard.message.status() >= 200
                        && heard.message.method() == "INVITE"
                });
                last.ok_or("no final response to ACK")?.message.clone()
            }
        };
        if response.status() < 300 {
            return self.in_dialog("ACK", uri, Some(&response));
        }
        let mut m = self.of_invite("ACK", response.call_id(), response.cseq(), uri)?;
        m.set("To", response.first("To").unwrap_or_default());
        Ok(m)
    }

    /// §9.1
    fn cancel(&mut self, about: Option<&Message>) -> Result<Message, String> {
        let invite = match about {
            Some(message) => Some(message),
            None => self
                .last(|heard| heard.sent && heard.message.start.starts_with("INVITE "))
                .map(|heard| &heard.message),
        };
        let invite = invite.ok_or("no INVITE to CANCEL")?.clone();
        self.of_invite("CANCEL", invite.call_id(), invite.cseq(), None)
    }

    fn of_invite(
        &self,
        method: &str,
        call_id: &str,
        cseq: u32,
        uri: Option<&str>,
    ) -> Result<Message, String> {
        let invite = self.last(|heard| {
            let m = &heard.message;
            heard.sent
                && m.start.starts_with("INVITE ")
                && m.call_id() == call_id
                && m.cseq() == cseq
        });
        let invite = &invite.ok_or("it sent no such INVITE")?.message;
        let mut m = Message::request(method, uri.unwrap_or(invite.uri()));
        if let Some(via) = invite.values("Via").first() {
            m.push("Via", via.as_str());
        }
        m.push("Max-Forwards", "70");
        for name in ["Route", "From", "To", "Call-ID"] {
            for value in invite.all(name) {
                m.push(name, value);
            }
        }
        m.push("CSeq", format!("{cseq} {method}"));
        Ok(m)
    }

    /// An answer to `about`, or to the last request of this method, or to the last that is not an ACK and has no final answer.
    pub fn response(
        &self,
        code: u16,
        reason: Option<&str>,
        method: Option<&str>,
        about: Option<&Message>,
    ) -> Result<Message, String> {
        let answered = |request: &Message| {
            self.history.iter().any(|heard| {
                let m = &heard.message;
                heard.sent
                    && m.status() >= 200
                    && m.branch() == request.branch()
                    && m.first("CSeq") == request.first("CSeq")
            })
        };
        let open = |heard: &Heard| {
            let m = &heard.message;
            !heard.sent
                && m.is_request()
                && match method {
                    Some(method) => m.method() == method,
                    None => m.method() != "ACK" && !answered(m),
                }
        };
        let request = match about {
            Some(message) if message.is_request() => message,
            Some(_) => return Err("that is no request".to_owned()),
            None => {
                &self
                    .last(open)
                    .ok_or("no request that waits for this answer")?
                    .message
            }
        };
        let tag = if code == 100 { "" } else { self.name.as_str() };
        let mut m = request.response(code, reason.unwrap_or(phrase(code)), tag);
        let target = matches!(request.method(), "INVITE" | "UPDATE" | "SUBSCRIBE");
        if target && (101..300).contains(&code) {
            m.push("Contact", self.contact());
        }
        Ok(m)
    }

    /// As a proxy passes a message on (§16.6, §16.7).
    pub fn forwarded(&mut self, message: &Message, uri: Option<&str>) -> Result<Message, String> {
        let mut m = message.clone();
        if !m.is_request() {
            let mut vias = m.values("Via");
            if vias.is_empty() {
                return Err("no Via to take away".to_owned());
            }
            vias.remove(0);
            replace_all(&mut m, "Via", &vias);
            return Ok(m);
        }
        if let Some(uri) = uri {
            m.start = format!("{} {uri} SIP/2.0", m.method());
        }
        let hops: u32 = m
            .first("Max-Forwards")
            .and_then(|v| v.parse().ok())
            .unwrap_or(70);
        m.set("Max-Forwards", hops.saturating_sub(1).to_string());
        let mut routes = m.values("Route");
        let own = self.address.to_string();
        if routes
            .first()
            .is_some_and(|route| uri_of(route).contains(&own))
        {
            routes.remove(0);
            replace_all(&mut m, "Route", &routes);
        }
        m.push_front("Via", self.via());
        Ok(m)
    }

    /// An answer to the last challenge (RFC 7616 §3.4), as a header line.
    pub fn credentials(
        &mut self,
        who: &Credentials,
        request: &Message,
    ) -> Result<(String, String), String> {
        let (header, challenge) = self.challenge(who)?;
        let realm = parameter(&challenge, "realm").unwrap_or_default();
        let nonce = parameter(&challenge, "nonce").unwrap_or_default();
        let algorithm = parameter(&challenge, "algorithm").unwrap_or_else(|| "MD5".to_owned());
        let hash = |text: &[u8]| match algorithm.to_ascii_uppercase().as_str() {
            "MD5" => Ok(hex(&Md5::digest(text))),
            "SHA-256" => Ok(hex(&Sha256::digest(text))),
            "SHA-512-256" => Ok(hex(&sha2::Sha512_256::digest(text))),
            other => Err(format!("the algorithm {other} is not known here")),
        };
        let nc = match who.nc {
            Some(nc) => nc,
            None => self.nonces.get(&nonce).copied().unwrap_or(0) + 1,
        };
        self.nonces.insert(nonce.clone(), nc);
        let offered = parameter(&challenge, "qop");
        let qop = who
            .qop
            .clone()
            .or_else(|| offered.map(|_| "auth".to_owned()));
        let (user, uri) = (&who.user, request.uri());
        let a1 = hash(format!("{user}:{realm}:{}", who.password).as_bytes())?;
        let mut a2 = format!("{}:{uri}", request.method());
        if qop.as_deref() == Some("auth-int") {
            let _ = write!(a2, ":{}", hash(&request.body)?);
        }
        let a2 = hash(a2.as_bytes())?;
        let mut value = format!(
            "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm={algorithm}"
        );
        let response = match &qop {
            Some(qop) => {
                let _ = write!(value, ", cnonce=\"{0}\", nc={nc:08x}, qop={qop}", self.name);
                hash(format!("{a1}:{nonce}:{nc:08x}:{}:{qop}:{a2}", self.name).as_bytes())?
            }
            None => hash(format!("{a1}:{nonce}:{a2}").as_bytes())?,
        };
        let _ = write!(value, ", response=\"{response}\"");
        if let Some(opaque) = parameter(&challenge, "opaque") {
            let _ = write!(value, ", opaque=\"{opaque}\"");
        }
        Ok((header.to_owned(), value))
    }

    /// The last challenge of the realm and algorithm that are wanted; of several in a message the first.
    fn challenge(&self, who: &Credentials) -> Result<(&'static str, String), String> {
        for heard in self.history.iter().rev().filter(|heard| !heard.sent) {
            for (of, header) in [
                ("WWW-Authenticate", "Authorization"),
                ("Proxy-Authenticate", "Proxy-Authorization"),
            ] {
                let fits = |value: &&str| {
                    let is = |name: &str, wanted: &Option<String>| {
                        wanted.is_none()
                            || parameter(value, name).unwrap_or_else(|| "MD5".to_owned())
                                == wanted.clone().unwrap_or_default()
                    };
                    is("realm", &who.realm) && is("algorithm", &who.algorithm)
                };
                if let Some(value) = heard.message.all(of).into_iter().find(fits) {
                    return Ok((header, value.to_owned()));
                }
            }
        }
        Err("no challenge to answer".to_owned())
    }

    /// A session description of this party.
    pub fn sdp(&self) -> Vec<u8> {
        if self.tells {
            return hidden::sdp(&self.name, self.address);
        }
        let (name, ip) = (&self.name, self.address.ip());
        format!(
            "v=0\r\no={name} 2890844526 2890844526 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 49172 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        )
        .into_bytes()
    }
}

fn makes_dialog(method: &str) -> bool {
    matches!(method, "INVITE" | "SUBSCRIBE")
}

fn wants_contact(method: &str) -> bool {
    matches!(
        method,
        "INVITE" | "REGISTER" | "UPDATE" | "SUBSCRIBE" | "NOTIFY" | "REFER"
    )
}

/// Exactly these values, each on a line, where the first was.
pub fn replace_all(message: &mut Message, name: &str, values: &[String]) {
    let Some((first, others)) = values.split_first() else {
        message.remove(name);
        return;
    };
    message.set(name, first.as_str());
    let at = message
        .headers
        .iter()
        .position(|(other, _)| other.eq_ignore_ascii_case(name))
        .unwrap_or(message.headers.len());
    for (n, value) in others.iter().enumerate() {
        message
            .headers
            .insert(at + 1 + n, (name.to_owned(), value.clone()));
    }
}

/// A parameter of a challenge, unquoted.
pub fn parameter(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge.split_once(' ')?.1.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 3261 §21
pub fn phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        183 => "Session Progress",
        200 => "OK",
        302 => "Moved Temporarily",
        401 => "Unauthorized",
        404 => "Not Found",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        600 => "Busy Everywhere",
        603 => "Decline",
        _ => "Because",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Agent {
        Agent::new(
            "bob",
            "sip:bob@biloxi.example.com",
            "127.0.0.1:5060".parse().expect("an address"),
            false,
        )
    }

    /// The example of RFC 3665 §2.1, whose hash the RFC gives.
    #[test]
    fn a_challenge_is_answered() {
        let mut bob = agent();
        let challenge = "Digest realm=\"atlanta.example.com\", qop=\"auth\", nonce=\"ea9c8e88df84f1cec4341ae6cbe5a359\", opaque=\"\", stale=FALSE, algorithm=MD5";
        assert_eq!(parameter(challenge, "stale").as_deref(), Some("FALSE"));
        assert_eq!(parameter(challenge, "algorithm").as_deref(), Some("MD5"));
        let message = Message::new("SIP/2.0 401 Unauthorized").with("WWW-Authenticate", challenge);
        bob.history.push(Heard {
            sent: false,
            message,
        });
        let request = Message::request("REGISTER", "sips:ss2.biloxi.example.com");
        let who = Credentials {
            user: "bob".into(),
            password: "zanzibar".into(),
            ..Credentials::default()
        };
        let (name, first) = bob.credentials(&who, &request).expect("an answer");
        assert_eq!(name, "Authorization");
        let (a1, a2) = (
            hex(&Md5::digest(b"bob:atlanta.example.com:zanzibar")),
            hex(&Md5::digest(b"REGISTER:sips:ss2.biloxi.example.com")),
        );
        let by_hand = hex(&Md5::digest(
            format!("{a1}:ea9c8e88df84f1cec4341ae6cbe5a359:00000001:bob:auth:{a2}").as_bytes(),
        ));
        assert_eq!(parameter(&first, "response"), Some(by_hand));
        let (_, second) = bob.credentials(&who, &request).expect("an answer");
        assert_eq!(parameter(&second, "nc").as_deref(), Some("00000002"));
        assert!(second.contains("opaque=\"\""));
    }

    #[test]
    fn a_proxy_passes_on() {
        let mut bob = agent();
        let m = Message::request("BYE", "sip:a@b")
            .with("Via", "one")
            .with("Route", "<sip:127.0.0.1:5060;lr>, <sip:next;lr>")
            .with("Max-Forwards", "5");
        let on = bob.forwarded(&m, Some("sip:c@d")).expect("forwarded");
        assert_eq!((on.uri(), on.first("Max-Forwards")), ("sip:c@d", Some("4")));
        assert_eq!(on.values("Route"), ["<sip:next;lr>"]);
        assert_eq!(on.values("Via").len(), 2);
        let back = bob
            .forwarded(&on.response(200, "OK", "t"), None)
            .expect("forwarded");
        assert_eq!(back.values("Via"), ["one"]);
    }
}
