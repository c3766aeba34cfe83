//! Whether somebody sits behind address translation: its Contact names an address that what it sends does not come from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sip::{
    HeaderName, Message, Via,
    uri::{Host, Uri},
};

/// Who is taken to be behind address translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatRule {
    /// Nobody.
    #[default]
    Off,
    /// Who shows it.
    Auto,
    /// Everybody who sends to us without a proxy between.
    Always,
}

/// An address that means nothing outside of its network (RFC 1918, 6598, 3927, 4193; RFC 4291 §2.5.6).
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = Ipv4Addr::new(100, 64, 0, 0).to_bits() == ip.to_bits() & 0xffc0_0000;
            ip.is_private() || ip.is_link_local() || ip.is_unspecified() || shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

impl NatRule {
    /// Whether the sender of a request is behind address translation, so that its Contact does not lead to it. Only of who sends to us without a proxy between:
    /// what others pass on comes from them.
    ///
    /// By itself shows it who gives a private address, or the one of its own Via, and sends from another; who gives a name that can't be one (RFC 2606 §2, as
    /// WebRTC clients do); and who asks for answers to the port it sends from (RFC 3581), and names another one in Via and
    /// Contact. Who knows his port gives a Contact elsewhere because he wants it.
    pub fn detects(self, request: &Message<'_>, contact: &Uri<'_>, source: SocketAddr) -> bool {
        if self == Self::Off {
            return false;
        }
        // What most show: nothing.
        let port = contact.port.unwrap_or(5060);
        let given = contact.host.and_then(|host| host.address());
        let given = given.map(|ip| ip.to_canonical());
        let from = source.ip().to_canonical();
        if self == Self::Auto && given == Some(from) && port == source.port() {
            return false;
        }
        let mut vias = request.values(HeaderName::Via);
        let (first, second) = (vias.next(), vias.next());
        let via = first.and_then(|via| Via::parse(via.value).ok());
        let (Some(via), None) = (via, second) else {
            return false;
        };
        if self == Self::Always {
            return true;
        }
        match given {
            Some(ip) if ip == from => {
                let says = via.sent_by.port.unwrap_or(5060);
                via.rport().is_some() && port != source.port() && says != source.port()
            }
            Some(ip) => {
                let own = via.sent_by.host.address().map(|ip| ip.to_canonical());
                is_private(ip) || own == Some(ip)
            }
            None => contact.host.is_some_and(|host| means_nothing(&host)),
        }
    }

    /// The same of who answers, if there is no proxy between; `reached` says where he was reached. Returns that place. There is no Via of his to look at.
    pub fn detects_answer(
        self,
        contact: &Uri<'_>,
        reached: impl FnOnce() -> Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let host = contact.host?;
        let asked = match self {
            Self::Off => false,
            Self::Auto => means_nothing(&host),
            Self::Always => true,
        };
        let reached = asked.then(reached)??;
        let given = host.address().map(|ip| ip.to_canonical());
        let there = given == Some(reached.ip().to_canonical());
        let other_port = self == Self::Always && contact.port.unwrap_or(5060) != reached.port();
        (!there || other_port).then_some(reached)
    }
}

/// A host that leads nowhere from here: a private address, or a name that can't be one.
pub fn means_nothing(host: &Host<'_>) -> bool {
    match *host {
        Host::V4(ip) => is_private(ip.into()),
        Host::V6(ip) => is_private(ip.into()),
        Host::Name(name) => {
            let name = name.strip_suffix(b".").unwrap_or(name);
            let end = name.len().saturating_sub(b".invalid".len());
            name.get(end..)
                .is_some_and(|end| end.eq_ignore_ascii_case(b".invalid"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shows_it_is_behind_nat() {
        for (via, contact, source, expected) in [
            ("10.0.0.5:5060", "sip:a@10.0.0.5", "203.0.113.9:40000", true),
            (
                "10.0.0.5;rport",
                "sip:a@10.0.0.5:5060",
                "203.0.113.9:5060",
                true,
            ),
            // Public by its address, and still translated.
            (
                "198.51.100.1",
                "sip:a@198.51.100.1",
                "203.0.113.9:5060",
                true,
            ),
            // Somebody registers for a phone elsewhere.
            (
                "203.0.113.9",
                "sip:a@198.51.100.1",
                "203.0.113.9:5060",
                false,
            ),
            (
                "203.0.113.9",
                "sip:a@203.0.113.9",
                "203.0.113.9:5060",
                false,
            ),
            // Without rport it may listen elsewhere than it sends from.
            (
                "203.0.113.9",
                "sip:a@203.0.113.9",
                "203.0.113.9:40000",
                false,
            ),
            (
                "203.0.113.9;rport",
                "sip:a@203.0.113.9",
                "203.0.113.9:40000",
                true,
            ),
            (
                "203.0.113.9;rport",
                "sip:a@203.0.113.9:40000",
                "203.0.113.9:40000",
                false,
            ),
            // It knows its port: its Contact is elsewhere because it wants that.
            (
                "203.0.113.9:40000;rport",
                "sip:a@203.0.113.9",
                "203.0.113.9:40000",
                false,
            ),
            (
                "x8f.invalid;rport",
                "sip:a@x8f.invalid",
                "203.0.113.9:40000",
                true,
            ),
            (
                "a.example.com",
                "sip:a@a.example.com",
                "203.0.113.9:5060",
                false,
            ),
            ("100.64.3.2", "sip:a@100.64.3.2", "203.0.113.9:5060", true),
            ("[fd00::1]", "sip:a@[fd00::1]", "[2001:db8::1]:5060", true),
            ("10.0.0.5", "sip:a@10.0.0.5", "10.0.0.5:5060", false),
            (
                "10.0.0.5, SIP/2.0/UDP 10.0.0.6",
                "sip:a@10.0.0.5",
                "203.0.113.9:5060",
                false,
            ),
        ] {
            let text = format!(
                "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nContent-Length: 0\r\n\r\n"
            );
            let mut layout = sip::Layout::new();
            let message = sip::parse(text.as_bytes(), &mut layout).unwrap();
            let uri = Uri::parse(contact.as_bytes()).unwrap();
            let source = source.parse().unwrap();
            assert_eq!(
                NatRule::Auto.detects(&message, &uri, source),
                expected,
                "{via} {contact}"
            );
            assert!(!NatRule::Off.detects(&message, &uri, source));
            assert_eq!(
                NatRule::Always.detects(&message, &uri, source),
                !via.contains(',')
            );
        }
    }
    #[test]
    fn who_answers_from_behind_nat() {
        for (contact, reached, auto, always) in [
            ("sip:a@10.0.0.5", "203.0.113.9:40000", true, true),
            ("sip:a@x8f.invalid", "203.0.113.9:40000", true, true),
            ("sip:a@10.0.0.5", "10.0.0.5:5060", false, false),
            ("sip:a@10.0.0.5:5070", "10.0.0.5:5060", false, true),
            // Who is public may have answers come elsewhere.
            ("sip:a@198.51.100.1", "203.0.113.9:5060", false, true),
            ("sip:a@b.example.com", "203.0.113.9:5060", false, true),
            ("tel:+1", "203.0.113.9:5060", false, false),
        ] {
            let uri = Uri::parse(contact.as_bytes()).unwrap();
            let reached = reached.parse().unwrap();
            let by = |rule: NatRule| rule.detects_answer(&uri, || Some(reached)).is_some();
            assert_eq!(
                (by(NatRule::Auto), by(NatRule::Always), by(NatRule::Off)),
                (auto, always, false),
                "{contact}"
            );
        }
    }
}
