//! What a message tells of the one that sent it, or passed it on: for headers and bodies where no grammar says what stands where.
//!
//! Hosts are learnt from wherever they are hidden: ways (Via, Contact, Record-Route ...), people (From, P-Asserted-Identity ...), Refer-To, things to be fetched, the agent of a
//! Warning, and headers that go as a whole.

use std::net::IpAddr;

use sip::{HeaderName, Host, Message, NameAddr, Scheme};

use crate::{
    hide::{Hide, split_list},
    inventory::{Treatment, treatment},
    marks::Marks,
    names::authority,
    policy::Identities,
    sdp, token,
};

impl Hide<'_> {
    /// Learns from a message that came from `source`. `call_id` is what the other side knows the call as.
    pub(crate) fn learn(
        &self,
        raw: &Message<'_>,
        call_id: &[u8],
        source: IpAddr,
        marks: &mut Marks<'_>,
    ) {
        self.learn_ip(source, marks);
        for header in raw.headers() {
            match header.name {
                HeaderName::Via => {}
                HeaderName::Contact
                | HeaderName::RecordRoute
                | HeaderName::Path
                | HeaderName::ServiceRoute
                | HeaderName::From
                | HeaderName::To => self.learn_addresses(header.value, marks),
                name => match treatment(name) {
                    Treatment::Identity if self.policy.identities == Identities::Own => {
                        self.learn_addresses(header.value, marks);
                    }
                    Treatment::Fetch | Treatment::Refer => {
                        self.learn_addresses(header.value, marks);
                    }
                    Treatment::Warning => {
                        let agent = header.value.split(|b| *b == b' ').nth(1);
                        self.learn_text(agent.unwrap_or_default(), marks);
                    }
                    Treatment::Strip => self.learn_text(header.value, marks),
                    _ => {}
                },
            }
        }
        if raw.is_request() {
            for via in raw.vias().flatten() {
                self.learn_host(&via.sent_by.host, marks);
                if let Some(ip) = via.received() {
                    self.learn_ip(ip, marks);
                }
                if let Some(branch) = via.branch() {
                    marks.learn_id(branch, b"hidden");
                }
            }
        }
        sdp::learn(raw.body(), marks, self.is_open);
        let Ok(id) = raw.call_id() else { return };
        if id != call_id {
            marks.learn_id(id, call_id);
        }
        let of_host = id
            .rsplit(|b| *b == b'@')
            .next()
            .filter(|_| id.contains(&b'@'));
        if let Some(Ok(found)) = of_host.map(Host::parse) {
            self.learn_host(&found, marks);
        }
    }

    fn learn_host(&self, host: &Host<'_>, marks: &mut Marks<'_>) {
        if (self.is_open)(host) {
            return;
        }
        marks.learn_host(host);
        // Whoever reads `a.example` knows where `p1.a.example` is: it is looked for too, and with it whatever ends so.
        if let Host::Name(name) = host
            && let Some(parent) = parents(name).find(|parent| !(self.is_open)(&Host::Name(parent)))
        {
            marks.learn_host(&Host::Name(parent));
        }
    }

    fn learn_ip(&self, ip: IpAddr, marks: &mut Marks<'_>) {
        match ip {
            IpAddr::V4(ip) => self.learn_host(&Host::V4(ip), marks),
            IpAddr::V6(ip) => self.learn_host(&Host::V6(ip), marks),
        }
    }

    /// The hosts in a list of addresses.
    fn learn_addresses(&self, list: &[u8], marks: &mut Marks<'_>) {
        for value in split_list(list) {
            let Ok(address) = NameAddr::parse(value) else {
                continue;
            };
            let uri = &address.uri;
            // What stands behind a token is not on the sender's side.
            if uri.user.is_some_and(token::may_be) {
                continue;
            }
            if uri.scheme == Scheme::Other {
                if let Some(Ok(host)) = authority(uri.text).map(Host::parse) {
                    self.learn_host(&host, marks);
                }
                continue;
            }
            for host in uri.host.iter().chain(&uri.maddr()) {
                self.learn_host(host, marks);
            }
        }
    }

    /// Whatever looks like a host in a header that does not pass.
    fn learn_text(&self, text: &[u8], marks: &mut Marks<'_>) {
        let is_part = |b: &u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(b);
        for word in text.split(|b| !is_part(b)) {
            let host = match word {
                [b'[', ..] => word.split_inclusive(|b| *b == b']').next(),
                _ if word.iter().filter(|b| **b == b':').count() > 1 => Some(word),
                _ => word.split(|b| *b == b':').next(),
            };
            let Some(Ok(host)) = host.map(Host::parse) else {
                continue;
            };
            // 1.2 is a number.
            let is_name = match host {
                Host::Name(name) => name
                    .rsplit(|b| *b == b'.')
                    .next()
                    .is_some_and(|last| last.iter().any(u8::is_ascii_alphabetic)),
                Host::V4(_) | Host::V6(_) => true,
            };
            if is_name {
                self.learn_host(&host, marks);
            }
        }
    }
}

/// What a name is a part of, the most general first; nothing that belongs to everybody, such as `example`, `com` or `co.uk`.
fn parents(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let dots = name.iter().enumerate().rev();
    let starts = dots
        .filter(|(_, byte)| **byte == b'.')
        .map(|(at, _)| at.saturating_add(1));
    starts
        .filter_map(|start| name.get(start..))
        .filter(|parent| parent.contains(&b'.') && !is_registry(parent))
}

/// Second-level names below which countries register everybody's.
fn is_registry(name: &[u8]) -> bool {
    const WORDS: [&[u8]; 16] = [
        b"ac", b"co", b"com", b"edu", b"gob", b"gov", b"ltd", b"mil", b"ne", b"net", b"nom", b"or",
        b"org", b"plc", b"sch", b"gouv",
    ];
    let mut labels = name.rsplit(|b| *b == b'.');
    let (country, word) = (labels.next(), labels.next());
    labels.next().is_none()
        && country.is_some_and(|country| country.len() == 2)
        && word.is_some_and(|word| WORDS.iter().any(|other| word.eq_ignore_ascii_case(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_names_of_somebody() {
        for (name, of) in [
            ("p1.a.example", "a.example"),
            ("x.p1.a.example.", "a.example p1.a.example"),
            ("a.example", ""),
            ("gw.carrier.co.uk", "carrier.co.uk"),
            ("host", ""),
        ] {
            let found: Vec<_> = parents(name.as_bytes()).collect();
            assert_eq!(found.join(&b' '), of.as_bytes(), "{name}");
        }
    }
}
