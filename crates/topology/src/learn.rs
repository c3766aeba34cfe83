//! What a message tells of the one that sent it, or passed it on: for headers and bodies where no grammar says what stands where.
//!
//! Hosts are learnt from wherever they are hidden: ways (Via, Contact, Record-Route ...), people (From, P-Asserted-Identity ...), things to be fetched, the agent of a
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
        marks: &mut Marks,
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
                    Treatment::Fetch => self.learn_addresses(header.value, marks),
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

    fn learn_host(&self, host: &Host<'_>, marks: &mut Marks) {
        if !(self.is_open)(host) {
            marks.learn_host(host);
        }
    }

    fn learn_ip(&self, ip: IpAddr, marks: &mut Marks) {
        match ip {
            IpAddr::V4(ip) => self.learn_host(&Host::V4(ip), marks),
            IpAddr::V6(ip) => self.learn_host(&Host::V6(ip), marks),
        }
    }

    /// The hosts in a list of addresses.
    fn learn_addresses(&self, list: &[u8], marks: &mut Marks) {
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
    fn learn_text(&self, text: &[u8], marks: &mut Marks) {
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
