//! The messages of a crowd: written with what phones usually say, read as far as a phone needs.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::server::DOMAIN;

const SDP: &str = "v=0\r\no=alice 2890844526 2890844526 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=audio 49172 RTP/AVP 0 8 9 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:9 G722/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n";
const ABLE: &str = "Allow: PRACK, INVITE, ACK, BYE, CANCEL, UPDATE, INFO, SUBSCRIBE, NOTIFY, REFER, MESSAGE, OPTIONS\r\n\
    Supported: replaces, 100rel, norefersub\r\n";
const AGENT: &str = "User-Agent: Example Phone 4.2\r\n";

/// A request within a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Invite,
    /// A further INVITE, with an offer.
    Again,
    Update,
    Info,
    Bye,
}

impl Kind {
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Invite | Self::Again => "INVITE",
            Self::Update => "UPDATE",
            Self::Info => "INFO",
            Self::Bye => "BYE",
        }
    }

    pub(super) fn is_invite(self) -> bool {
        matches!(self, Self::Invite | Self::Again)
    }
}

/// What all requests of a call have, as its caller writes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Dialog {
    pub(super) call_id: String,
    /// Values of From and To with their tags.
    pub(super) from: String,
    pub(super) to: String,
    /// The caller's Contact URI.
    pub(super) contact: String,
    /// The Request-URI.
    pub(super) target: String,
    /// Lines of Route.
    pub(super) routes: String,
}

impl Dialog {
    /// A request whose branch ends in `branch`.
    pub(super) fn request(
        &self,
        method: &str,
        cseq: u32,
        branch: &str,
        sender: SocketAddr,
    ) -> String {
        let mut text = format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/UDP {sender};rport;branch=z9hG4bK{branch}\r\nMax-Forwards: 70\r\n{}\
             From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\n",
            self.target, self.routes, self.from, self.to, self.call_id
        );
        let offers = method == "INVITE";
        if offers || method == "UPDATE" {
            // Writing to a String does not fail.
            let _ = write!(text, "Contact: <{}>\r\n{ABLE}", self.contact);
        }
        text.push_str(AGENT);
        end(&mut text, offers);
        text
    }

    /// What a 2xx to the first INVITE says of the callee.
    pub(super) fn confirm(&mut self, ok: &Heard<'_>) {
        self.to = ok.to.to_owned();
        self.target = uri_of(ok.contact).to_owned();
        self.routes.clear();
        let values = ok.record_routes.iter().flat_map(|line| line.split(','));
        for value in values.rev() {
            let _ = write!(self.routes, "Route: {}\r\n", value.trim());
        }
    }
}

/// Ends the header, with or without an SDP body.
fn end(text: &mut String, offers: bool) {
    if offers {
        let _ = write!(
            text,
            "Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
            SDP.len()
        );
    } else {
        text.push_str("Content-Length: 0\r\n\r\n");
    }
}

/// A REGISTER of somebody who can be reached by the socket that it is sent from.
pub(super) fn register(user: &str, sender: SocketAddr, number: u32) -> String {
    format!(
        "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {sender};rport;branch=z9hG4bK{user}-{number}\r\nMax-Forwards: 70\r\n\
         From: <sip:{user}@{DOMAIN}>;tag=r\r\nTo: <sip:{user}@{DOMAIN}>\r\nCall-ID: {user}@{sender}\r\nCSeq: {number} REGISTER\r\n\
         Contact: <sip:{user}@{sender}>\r\nExpires: 7200\r\nContent-Length: 0\r\n\r\n"
    )
}

/// What a message says, as lines and values of it.
#[derive(Debug, Default)]
pub(super) struct Heard<'t> {
    pub(super) start: &'t str,
    pub(super) vias: Vec<&'t str>,
    /// Values, one for each line.
    pub(super) record_routes: Vec<&'t str>,
    pub(super) from: &'t str,
    pub(super) to: &'t str,
    pub(super) call_id: &'t str,
    pub(super) contact: &'t str,
    pub(super) cseq: u32,
    /// Of the CSeq.
    pub(super) method: &'t str,
}

impl<'t> Heard<'t> {
    /// `None`: it is no SIP message.
    pub(super) fn read(bytes: &'t [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let head = text.split_once("\r\n\r\n")?.0;
        let mut lines = head.split("\r\n");
        let mut heard = Self {
            start: lines.next()?,
            ..Self::default()
        };
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match name {
                "Via" => heard.vias.push(value),
                "Record-Route" => heard.record_routes.push(value),
                "From" => heard.from = value,
                "To" => heard.to = value,
                "Call-ID" => heard.call_id = value,
                "Contact" => heard.contact = value,
                "CSeq" => {
                    let (number, method) = value.split_once(' ')?;
                    (heard.cseq, heard.method) = (number.parse().ok()?, method);
                }
                _ => {}
            }
        }
        Some(heard)
    }

    /// The status of a response; `None`: it is a request.
    pub(super) fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// A response to this request; `tag` for a To that has none.
    pub(super) fn respond(&self, status: &str, contact: &str, tag: &str) -> String {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for (name, values) in [("Via", &self.vias), ("Record-Route", &self.record_routes)] {
            for value in values {
                let _ = write!(text, "{name}: {value}\r\n");
            }
        }
        let tag = if self.to.contains(";tag=") {
            String::new()
        } else {
            format!(";tag={tag}")
        };
        let _ = write!(
            text,
            "From: {}\r\nTo: {}{tag}\r\nCall-ID: {}\r\nCSeq: {} {}\r\nContact: <{contact}>\r\nServer: Softphone (build 7, 64 bit)\r\n",
            self.from, self.to, self.call_id, self.cseq, self.method
        );
        end(
            &mut text,
            self.method == "INVITE" && status.starts_with('2'),
        );
        text
    }
}

/// The URI between angle brackets.
fn uri_of(value: &str) -> &str {
    let inner = value.split_once('<').map_or(value, |(_, rest)| rest);
    inner.split_once('>').map_or(inner, |(uri, _)| uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_answer() {
        let sender: SocketAddr = "127.0.0.1:9".parse().expect("an address");
        let mut dialog = Dialog {
            call_id: "c".into(),
            from: "<sip:a@x>;tag=1".into(),
            to: "<sip:b@x>".into(),
            contact: "sip:a@127.0.0.1:9".into(),
            target: "sip:b@x".into(),
            routes: String::new(),
        };
        let invite = dialog.request("INVITE", 1, "z", sender).replace(
            "From:",
            "Record-Route: <sip:p;lr>, <sip:q;lr>\r\nRecord-Route: <sip:r;lr>\r\nFrom:",
        );
        let heard = Heard::read(invite.as_bytes()).expect("it is SIP");
        assert_eq!(
            (heard.status(), heard.cseq, heard.method),
            (None, 1, "INVITE")
        );
        let ok = heard.respond("200 OK", "sip:b@127.0.0.1:8", "2");
        let ok = Heard::read(ok.as_bytes()).expect("it is SIP");
        assert_eq!(
            (ok.status(), ok.to, ok.vias),
            (Some(200), "<sip:b@x>;tag=2", heard.vias.clone())
        );
        let ok = heard.respond("200 OK", "sip:b@127.0.0.1:8", "2");
        dialog.confirm(&Heard::read(ok.as_bytes()).expect("it is SIP"));
        assert_eq!(dialog.target, "sip:b@127.0.0.1:8");
        assert_eq!(
            dialog.routes,
            "Route: <sip:r;lr>\r\nRoute: <sip:q;lr>\r\nRoute: <sip:p;lr>\r\n"
        );
        let bye = dialog.request("BYE", 2, "y", sender);
        assert!(bye.ends_with("Content-Length: 0\r\n\r\n"), "{bye}");
        assert!(Heard::read(b"noise\r\n\r\n").is_some_and(|heard| heard.call_id.is_empty()));
        assert!(Heard::read(b"noise").is_none());
    }
}
