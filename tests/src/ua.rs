//! A user agent over one [`Peer`]: it writes whole requests, follows route sets, and never retransmits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::message::{Message, uri_of};
use crate::peer::{Peer, unique};

pub struct Ua {
    pub peer: Peer,
    pub user: String,
    pub domain: String,
    /// Where its requests go.
    pub server: SocketAddr,
}

impl Ua {
    pub fn new(ip: impl Into<IpAddr>, server: SocketAddr, user: &str, domain: &str) -> Self {
        Self {
            peer: Peer::bind(ip),
            user: user.to_owned(),
            domain: domain.to_owned(),
            server,
        }
    }

    pub fn aor(&self) -> String {
        format!("sip:{}@{}", self.user, self.domain)
    }

    pub fn contact(&self) -> String {
        format!("sip:{}@{}", self.user, self.peer.address)
    }

    pub fn via(&self) -> String {
        format!(
            "SIP/2.0/UDP {};branch=z9hG4bK{};rport",
            self.peer.address,
            unique()
        )
    }

    /// A request outside a dialog, with every mandatory header.
    pub fn request(&self, method: &str, uri: &str) -> Message {
        Message::request(method, uri)
            .with("Via", self.via())
            .with("Max-Forwards", "70")
            .with("From", format!("<{}>;tag={}", self.aor(), unique()))
            .with("To", format!("<{uri}>"))
            .with(
                "Call-ID",
                format!("{}@{}", unique(), self.peer.address.ip()),
            )
            .with("CSeq", format!("1 {method}"))
    }

    pub fn invite(&self, uri: &str) -> Message {
        let mut m = self
            .request("INVITE", uri)
            .with("Contact", format!("<{}>", self.contact()));
        m.push("Content-Type", "application/sdp");
        m.body = b"v=0\r\no=t 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n".to_vec();
        m
    }

    pub fn send(&self, message: &Message) {
        self.peer.send(message, self.server);
    }

    /// Sends a request and waits for the final response of its transaction.
    #[track_caller]
    pub fn ask(&self, request: &Message) -> Message {
        self.send(request);
        self.expect_final(request)
    }

    /// The final response to `request`.
    #[track_caller]
    pub fn expect_final(&self, request: &Message) -> Message {
        let what = format!("a final response to {}", request.start);
        self.peer
            .expect(&what, |m| answers(m, request) && m.status() >= 200)
            .0
    }

    /// The response `code` to `request`.
    #[track_caller]
    pub fn expect_status(&self, request: &Message, code: u16) -> Message {
        let what = format!("{code} to {}", request.start);
        self.peer
            .expect(&what, |m| answers(m, request) && m.status() == code)
            .0
    }

    /// The next request of that method, and where it came from.
    #[track_caller]
    pub fn expect_request(&self, method: &str) -> (Message, SocketAddr) {
        self.peer
            .expect(method, |m| m.is_request() && m.method() == method)
    }

    /// Answers a request to where it came from, with our Contact.
    pub fn reply(
        &self,
        request: &(Message, SocketAddr),
        code: u16,
        reason: &str,
        tag: &str,
    ) -> Message {
        let mut r = request.0.response(code, reason, tag);
        r.push("Contact", format!("<{}>", self.contact()));
        self.peer.send(&r, request.1);
        r
    }

    /// Registers this user agent's Contact for its AOR; `expires` 0 removes it.
    #[track_caller]
    pub fn register(&self, expires: u32) -> Message {
        let request = self.register_request(expires);
        self.ask(&request)
    }

    pub fn register_request(&self, expires: u32) -> Message {
        let mut m = self
            .request("REGISTER", &format!("sip:{}", self.domain))
            .with("Contact", format!("<{}>", self.contact()))
            .with("Expires", expires.to_string());
        m.set("To", format!("<{}>", self.aor()));
        m
    }

    /// The ACK: for a 2xx a request of its own along the route set (RFC 3261 §13.2.2.4), else one of
    /// the INVITE's transaction (§17.1.1.3).
    pub fn ack(&self, invite: &Message, response: &Message) -> Message {
        if response.status() < 300 {
            return self.in_dialog("ACK", invite.cseq(), invite, response);
        }
        let mut m = Message::request("ACK", invite.uri());
        for name in ["Via", "Route", "Max-Forwards", "From", "Call-ID"] {
            for value in invite
                .all(name)
                .into_iter()
                .take(if name == "Via" { 1 } else { 64 })
            {
                m.push(name, value);
            }
        }
        m.push("To", response.first("To").unwrap_or_default());
        m.push("CSeq", format!("{} ACK", invite.cseq()));
        m
    }

    /// The CANCEL of an INVITE (RFC 3261 §9.1).
    pub fn cancel(&self, invite: &Message) -> Message {
        let mut m = Message::request("CANCEL", invite.uri());
        for name in ["Via", "Route", "Max-Forwards", "From", "To", "Call-ID"] {
            for value in invite
                .all(name)
                .into_iter()
                .take(if name == "Via" { 1 } else { 64 })
            {
                m.push(name, value);
            }
        }
        m.push("CSeq", format!("{} CANCEL", invite.cseq()));
        m
    }

    /// A request of the caller within the dialog that `response` made: the route set is the
    /// Record-Route in reverse, the target its Contact (RFC 3261 §12.1.2).
    pub fn in_dialog(
        &self,
        method: &str,
        cseq: u32,
        invite: &Message,
        response: &Message,
    ) -> Message {
        let target = response
            .contact_uri()
            .unwrap_or_else(|| invite.uri().to_owned());
        let mut m = Message::request(method, &target)
            .with("Via", self.via())
            .with("Max-Forwards", "70")
            .with("From", invite.first("From").unwrap_or_default())
            .with("To", response.first("To").unwrap_or_default())
            .with("Call-ID", invite.call_id())
            .with("CSeq", format!("{cseq} {method}"));
        for route in response.values("Record-Route").into_iter().rev() {
            m.push("Route", route);
        }
        m
    }

    /// A request of the callee within the dialog made by `response`, its own answer to `invite`.
    pub fn in_dialog_back(
        &self,
        method: &str,
        cseq: u32,
        invite: &Message,
        response: &Message,
    ) -> Message {
        let target = invite.contact_uri().unwrap_or_default();
        let mut m = Message::request(method, &target)
            .with("Via", self.via())
            .with("Max-Forwards", "70")
            .with("From", response.first("To").unwrap_or_default())
            .with("To", response.first("From").unwrap_or_default())
            .with("Call-ID", invite.call_id())
            .with("CSeq", format!("{cseq} {method}"));
        for route in invite.values("Record-Route") {
            m.push("Route", route);
        }
        m
    }

    /// Sends a request of a dialog to its first Route, or to the server when it has none.
    pub fn send_routed(&self, message: &Message) {
        let next = message.values("Route").first().map(|r| uri_of(r));
        let to = next.as_deref().and_then(address_of).unwrap_or(self.server);
        self.peer.send(message, to);
    }

    /// Nothing but what `allowed` accepts may come.
    #[track_caller]
    pub fn expect_only(&self, duration: Duration, allowed: impl Fn(&Message) -> bool) {
        self.peer.expect_silence(duration, |m| !allowed(m));
    }
}

/// Does response `m` belong to the transaction of `request`?
pub fn answers(m: &Message, request: &Message) -> bool {
    !m.is_request()
        && m.call_id() == request.call_id()
        && m.first("CSeq") == request.first("CSeq")
        && m.branch() == request.branch()
}

/// The socket address in `sip:user@1.2.3.4:5060;lr`, when it is literal.
pub fn address_of(uri: &str) -> Option<SocketAddr> {
    let rest = uri.split_once(':')?.1;
    let host = rest.rsplit('@').next()?.split([';', '?']).next()?;
    host.parse()
        .ok()
        .or_else(|| host.parse::<Ipv4Addr>().ok().map(|ip| (ip, 5060).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Ua, Message, Message) {
        let ua = Ua::new(Ipv4Addr::LOCALHOST, ([127, 0, 0, 1], 9).into(), "a", "x");
        let invite = ua.invite("sip:b@x");
        let mut ok = invite.response(200, "OK", "t");
        ok.push("Record-Route", "<sip:1.1.1.1;lr>, <sip:2.2.2.2:5;lr>");
        ok.push("Contact", "<sip:b@3.3.3.3:7>");
        (ua, invite, ok)
    }

    #[test]
    fn the_route_set_is_reversed() {
        let (ua, invite, ok) = pair();
        assert!(answers(&ok, &invite));
        let bye = ua.in_dialog("BYE", 2, &invite, &ok);
        assert_eq!(bye.uri(), "sip:b@3.3.3.3:7");
        assert_eq!(bye.all("Route"), ["<sip:2.2.2.2:5;lr>", "<sip:1.1.1.1;lr>"]);
        assert_eq!(bye.to_tag().as_deref(), Some("t"));
        assert_ne!(bye.branch(), invite.branch());
    }

    #[test]
    fn ack_of_a_failure_keeps_the_branch() {
        let (ua, invite, _) = pair();
        let ack = ua.ack(&invite, &invite.response(486, "Busy Here", "t"));
        assert_eq!((ack.branch(), ack.uri()), (invite.branch(), "sip:b@x"));
        assert_eq!(ack.to_tag().as_deref(), Some("t"));
        assert_eq!(ua.cancel(&invite).branch(), invite.branch());
    }

    #[test]
    fn literal_addresses() {
        assert_eq!(
            address_of("sip:a@1.2.3.4:7;lr"),
            Some(([1, 2, 3, 4], 7).into())
        );
        assert_eq!(
            address_of("sip:1.2.3.4;lr"),
            Some(([1, 2, 3, 4], 5060).into())
        );
        assert_eq!(address_of("sip:example.com"), None);
    }
}
