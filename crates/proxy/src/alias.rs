//! Contacts of parties behind address translation.
//!
//! ```text
//! Contact: <sip:alice@192.168.1.5:5060;alias=203.0.113.7~40000~1>
//! ```
//!
//! A Contact that does not lead to its owner gets the address that his messages come from as a parameter. The other party gives it back in the Request-URI of its requests within the
//! dialog; we take it off and send there, so that the phone gets the Request-URI that it knows. The form is the one that other proxies use: address, port, and 1 for UDP.
//! It is obeyed within dialogs of ours only: in any other request it would be a relay to anywhere. There it needs no seal: its sender, who has one for his dialog, can
//! write any address into the Request-URI as well. So no record is needed; where there is one, it helps those who lose the parameter.

use std::net::{IpAddr, SocketAddr};

use registrar::{NatRule, means_nothing};
use sip::{
    HeaderName, Message, NameAddr, Span,
    uri::{Host, Uri},
};
use stdx::text::{write_decimal, write_ip};
use tables::{Dialogs, dialog::Sender};

use crate::{
    ask::Target,
    call::place,
    context::Context,
    registration::uri_of_address,
    settings::PORT_DEFAULT,
    step::{Hand, Step},
};

const PARAM: &str = "alias";
const UDP: &[u8] = b"1";

/// The value of a Contact with this address; `None` if it has one, or can't be read.
pub(crate) fn with_alias(value: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    let contact = NameAddr::parse(value).ok()?;
    if contact.uri.param(PARAM).is_some() || !contact.uri.headers.is_empty() {
        return None;
    }
    let uri = contact.uri.text;
    let start = value
        .windows(uri.len().max(1))
        .position(|part| part == uri)?;
    let end = start.saturating_add(uri.len());
    let bare = !value.get(..start)?.ends_with(b"<");
    let mut text = Vec::with_capacity(value.len().saturating_add(40));
    text.extend_from_slice(value.get(..start)?);
    if bare {
        text.push(b'<');
    }
    append(uri, source, &mut text);
    if bare {
        text.push(b'>');
    }
    text.extend_from_slice(value.get(end..)?);
    let mut unfolded = Vec::with_capacity(text.len());
    sip::message::unfold(&text, &mut unfolded);
    Some(unfolded)
}

/// A URI with the address.
fn append(uri: &[u8], source: SocketAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(uri);
    out.push(b';');
    out.extend_from_slice(PARAM.as_bytes());
    out.push(b'=');
    match source.ip().to_canonical() {
        IpAddr::V6(ip) => {
            out.push(b'[');
            write_ip(ip.into(), out);
            out.push(b']');
        }
        ip => write_ip(ip, out),
    }
    out.push(b'~');
    write_decimal(source.port().into(), out);
    out.push(b'~');
    out.extend_from_slice(UDP);
}

/// The address in a URI.
pub(crate) fn address(uri: &Uri<'_>) -> Option<SocketAddr> {
    let value = uri.param(PARAM).flatten()?;
    let mut parts = value.split(|&byte| byte == b'~');
    let (ip, port, transport) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || transport != UDP {
        return None;
    }
    let ip = Host::parse(ip).ok()?.address()?;
    let port = std::str::from_utf8(port).ok()?.parse().ok()?;
    (port != 0).then(|| SocketAddr::new(ip, port))
}

/// A target that goes where its URI's address says, with the URI as its owner knows it; `None` if there is no such address.
pub(crate) fn led(uri: &[u8]) -> Option<Target> {
    // Few have one, and reading a URI for it costs more than looking for what it has to have.
    if !uri.contains(&b'~') {
        return None;
    }
    let parsed = Uri::parse(uri).ok()?;
    let to = address(&parsed)?;
    let host = uri.iter().position(|&byte| byte == b'@').unwrap_or(0);
    let begins = host.saturating_add(find(uri.get(host..)?, b";alias=")?);
    let rest = uri.get(begins.saturating_add(1)..)?;
    let ends = rest
        .iter()
        .position(|&byte| matches!(byte, b';' | b'?'))
        .map_or(uri.len(), |at| begins.saturating_add(1).saturating_add(at));
    let mut bare = uri.get(..begins)?.to_vec();
    bare.extend_from_slice(uri.get(ends..)?);
    Some(Target {
        uri: Some(bare),
        next_hop: Some(uri_of_address(to)),
        ..Target::default()
    })
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len())
        .position(|window| window.eq_ignore_ascii_case(what))
}

/// Whether the Contact of a request does not lead to who sent it from there.
pub(crate) fn is_needed(rule: NatRule, request: &Message<'_>, source: SocketAddr) -> bool {
    contact_of(request).is_some_and(|contact| rule.detects(request, &contact.uri, source))
}

impl Step<'_, '_> {
    /// Where the sender of a response was reached, if his Contact does not lead there. That of a redirection is about somebody else, and who sits behind another proxy is
    /// found by that one.
    pub(crate) fn needs_alias(
        &self,
        response: &Message<'_>,
        reached: impl FnOnce() -> Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let rule = self.settings.registrar.nat;
        if rule == NatRule::Off || response.status().is_none_or(|line| line.code >= 300) {
            return None;
        }
        let contact = contact_of(response)?;
        rule.detects_answer(&contact.uri, || {
            let first = response.first_value(HeaderName::RecordRoute);
            let direct = first.is_none_or(|first| self.is_own_route(first.value));
            direct.then(reached)?
        })
    }

    /// Some phones leave out parameters that they do not know: then the record of the call says where the other party is.
    pub(crate) fn led_by_record(&mut self, hand: &Hand<'_>) -> Option<Target> {
        let place = hand.intake.route.place;
        let place = place.filter(|&place| place != place::NOWHERE)?;
        let message = &hand.message;
        let asked = Uri::parse(message.request()?.uri).ok()?;
        if self.settings.registrar.nat == NatRule::Off || !means_nothing(&asked.host?) {
            return None;
        }
        let (from, to) = (message.from().ok()?, message.to().ok()?);
        let tags = (from.tag()?, to.tag()?);
        let call_id = message.call_id().ok()?;
        Dialogs(self.env.arena)
            .at_place(place, call_id, tags.0, tags.1, |view, sender| {
                let known = Uri::parse(match sender {
                    Sender::Caller => view.callee_target(),
                    Sender::Callee => view.caller_target(),
                })
                .ok()?;
                let port = |uri: &Uri<'_>| uri.port.unwrap_or(PORT_DEFAULT);
                let same = (known.user, known.host, port(&known))
                    == (asked.user, asked.host, port(&asked));
                let to = same.then(|| address(&known))??;
                Some(Target {
                    next_hop: Some(uri_of_address(to)),
                    ..Target::default()
                })
            })
            .flatten()
    }

    /// Whether a Record-Route is one of ours.
    pub(crate) fn is_own_route(&self, value: &[u8]) -> bool {
        NameAddr::parse(value).is_ok_and(|route| {
            route.uri.param(place::PARAM).is_some()
                && self.settings.listener_named(&route.uri).is_some()
        })
    }

    /// The Contact that a response goes on with, and what it takes the place of; `None`: it stays as it came.
    pub(crate) fn contact_back(
        &self,
        response: &Message<'_>,
        reached: impl FnOnce() -> Option<SocketAddr>,
    ) -> Option<(Span, Vec<u8>)> {
        let reached = self.needs_alias(response, reached)?;
        let contact = response.first_value(HeaderName::Contact)?;
        Some((contact.span, with_alias(contact.value, reached)?))
    }

    /// Where the branch went that a response is of.
    pub(crate) fn reached_by(
        &self,
        context: &Context,
        response: &Message<'_>,
    ) -> Option<SocketAddr> {
        self.branch_of(context, response).map(|branch| branch.to)
    }
}

fn contact_of<'m>(message: &Message<'m>) -> Option<NameAddr<'m>> {
    let contact = message.first_value(HeaderName::Contact)?;
    NameAddr::parse(contact.value).ok()
}

/// The remote target of who sends this request from there: the URI of its Contact, with the address if that is needed.
pub(crate) fn target_of(rule: NatRule, request: &Message<'_>, source: SocketAddr) -> Vec<u8> {
    target(request, |uri| {
        rule.detects(request, uri, source).then_some(source)
    })
}

/// The remote target of who sends this response: with the address that he was reached by, if that is needed.
pub(crate) fn target_back(response: &Message<'_>, reached: Option<SocketAddr>) -> Vec<u8> {
    target(response, |_| reached)
}

fn target(message: &Message<'_>, address: impl FnOnce(&Uri<'_>) -> Option<SocketAddr>) -> Vec<u8> {
    let Some(contact) = contact_of(message) else {
        return Vec::new();
    };
    // In the Contact of a dialog headers are not allowed, and in a Request-URI neither (RFC 3261 §19.1.1 table 1).
    let (text, headers) = (contact.uri.text, contact.uri.headers.text());
    let uri = text.strip_suffix(headers).unwrap_or(text);
    let mut text = Vec::with_capacity(uri.len());
    let bare = contact.uri.param(PARAM).is_none() && headers.is_empty();
    match address(&contact.uri).filter(|_| bare) {
        Some(address) => append(uri, address, &mut text),
        None => text.extend_from_slice(uri),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_taken_out() {
        for (value, source, with, bare) in [
            (
                "<sip:alice@192.168.1.5:5060>",
                "203.0.113.7:40000",
                "<sip:alice@192.168.1.5:5060;alias=203.0.113.7~40000~1>",
                "sip:alice@192.168.1.5:5060",
            ),
            (
                "\"A <x>\" <sip:alice@192.168.1.5;ob>;+sip.instance=\"<urn:x>\"",
                "[2001:db8::7]:5062",
                "\"A <x>\" <sip:alice@192.168.1.5;ob;alias=[2001:db8::7]~5062~1>;+sip.instance=\"<urn:x>\"",
                "sip:alice@192.168.1.5;ob",
            ),
            (
                "sip:alice@192.168.1.5;expires=9",
                "203.0.113.7:1",
                "<sip:alice@192.168.1.5;alias=203.0.113.7~1~1>;expires=9",
                "sip:alice@192.168.1.5",
            ),
        ] {
            let source = source.parse().unwrap();
            let got = with_alias(value.as_bytes(), source).unwrap();
            assert_eq!(String::from_utf8_lossy(&got), with);
            let parsed = NameAddr::parse(&got).unwrap();
            assert_eq!(address(&parsed.uri), Some(source));
            let target = led(parsed.uri.text).unwrap();
            assert_eq!(target.uri.as_deref(), Some(bare.as_bytes()));
            assert!(with_alias(&got, source).is_none(), "once is enough");
        }
    }

    #[test]
    fn what_is_no_address_leads_nowhere() {
        for uri in [
            "sip:a@b;alias",
            "sip:a@b;alias=",
            "sip:a@b;alias=1.2.3.4",
            "sip:a@b;alias=1.2.3.4~0~1",
            "sip:a@b;alias=1.2.3.4~70000~1",
            "sip:a@b;alias=1.2.3.4~5060~2",
            "sip:a@b;alias=1.2.3.4~5060~1~1",
            "sip:a@b;alias=host.example~5060~1",
            "sip:a@b",
        ] {
            assert_eq!(led(uri.as_bytes()), None, "{uri}");
        }
        let led = led(b"sip:a@b;x;ALIAS=1.2.3.4~5~1;y?h=1").unwrap();
        assert_eq!(led.uri.as_deref(), Some(&b"sip:a@b;x;y?h=1"[..]));
        let user = super::led(b"sip:a;alias=9@b;alias=1.2.3.4~5~1").unwrap();
        assert_eq!(user.uri.as_deref(), Some(&b"sip:a;alias=9@b"[..]));
    }
}
