//! A request with tokens of ours, as it would have come if nothing had been hidden.

use sip::{HeaderName, Message, NameAddr, Uri, message::unfold};

use crate::{
    policy::{Policy, Side},
    seal::Sealer,
    token::{CallId, Target},
};

/// What a request's Request-URI and Route say in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// They carry everything.
    Whole(Leg),
    /// The call's record has it: see [`Leg`].
    Record {
        side: Side,
        policy: Policy,
        place: u64,
    },
}

/// The party that a request goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub side: Side,
    pub policy: Policy,
    /// The new Request-URI; `None`: the one that came.
    pub contact: Option<Vec<u8>>,
    /// The way there, as the value of a Route header; may be empty.
    pub routes: Vec<u8>,
    /// The URI of this party as it knows itself; empty: as it came.
    pub own: Vec<u8>,
    /// The URI of the other party as this one knows it; empty: as it came.
    pub peer: Vec<u8>,
}

/// Whether a request may have a token of ours: cheap, for those that have none.
pub fn may_have(message: &Message<'_>) -> bool {
    let begins = |text: &[u8], with: &[u8]| {
        text.get(..with.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    let of_uri = message
        .request()
        .is_some_and(|line| begins(line.uri, b"sip:th-"));
    of_uri
        || message.first(HeaderName::Route).is_some_and(|route| {
            begins(route.value, b"<sip:th-")
                || !route.value.starts_with(b"<")
                    && memchr::memmem::find(route.value, b":th-").is_some()
        })
}

impl Tokens {
    /// Reads them; `None`: there are none.
    pub fn of(sealer: &Sealer, message: &Message<'_>) -> Option<Self> {
        if !may_have(message) {
            return None;
        }
        let line = message.request()?;
        let uri = Uri::parse(line.uri).ok()?;
        let of_uri = Target::of(sealer, &uri);
        let mut values = message.values(HeaderName::Route);
        let first = values.next().map(|value| value.value);
        let of_route = first.and_then(|value| Target::of_value(sealer, value));
        let last = || {
            let last = message.values(HeaderName::Route).last()?;
            Target::of_value(sealer, last.value)
        };
        let (contact, routes) = match (of_uri, of_route) {
            (Some(Target::Routes(routes)), _) => (last(), Some(routes)),
            (contact, Some(Target::Routes(routes))) => (contact, Some(routes)),
            // A loose router of ours before a contact.
            (contact, _) => (contact, None),
        };
        let mut leg = match contact {
            Some(Target::Record {
                side,
                policy,
                place,
            }) => {
                return Some(Self::Record {
                    side,
                    policy,
                    place,
                });
            }
            Some(Target::Contact {
                side,
                policy,
                uri,
                routes,
            }) => Leg {
                side,
                policy,
                contact: Some(uri),
                routes,
                own: Vec::new(),
                peer: Vec::new(),
            },
            _ => {
                let routes = routes.as_ref()?;
                Leg {
                    side: routes.side,
                    policy: routes.policy,
                    contact: None,
                    routes: Vec::new(),
                    own: Vec::new(),
                    peer: Vec::new(),
                }
            }
        };
        if let Some(routes) = routes {
            // Both were given to the same party.
            if routes.side != leg.side {
                return None;
            }
            leg.routes = routes.routes;
            leg.own = routes.own;
            leg.peer = routes.peer;
            leg.policy = routes.policy;
        }
        Some(Self::Whole(leg))
    }
}

/// Whether a message names a call by a token: one that begins something, and replaces or joins a hidden call. Returns the policy that is safe for it.
pub fn names_hidden(sealer: &Sealer, message: &Message<'_>) -> bool {
    [
        HeaderName::Replaces,
        HeaderName::Join,
        HeaderName::TargetDialog,
    ]
    .into_iter()
    .filter_map(|name| message.first(name))
    .any(|header| {
        let id = header.value.split(|b| *b == b';').next();
        id.is_some_and(|id| CallId::open(sealer, id.trim_ascii()).is_some())
    })
}

/// Writes the request as it goes to this party.
pub fn restore(sealer: &Sealer, message: &Message<'_>, leg: &Leg, out: &mut Vec<u8>) {
    let Some(line) = message.request() else {
        return;
    };
    out.extend_from_slice(line.method_text);
    out.push(b' ');
    out.extend_from_slice(leg.contact.as_deref().unwrap_or(line.uri));
    out.extend_from_slice(b" SIP/2.0\r\n");
    let mut routed = false;
    let begins = message.to().is_ok_and(|to| to.tag().is_none());
    for header in message.headers() {
        match header.name {
            HeaderName::Route => {
                if !routed {
                    write_routes(leg, out);
                }
                routed = true;
            }
            HeaderName::CallId if leg.side == Side::Caller && !begins => {
                write_name(header.name_text, out);
                match CallId::open(sealer, header.value) {
                    Some(CallId::Hidden(call_id)) => out.extend_from_slice(&call_id),
                    _ => out.extend_from_slice(header.value),
                }
                out.extend_from_slice(b"\r\n");
            }
            HeaderName::From if !begins => with_uri(&header, &leg.peer, out),
            HeaderName::To if !begins => with_uri(&header, &leg.own, out),
            _ => copy(&header, message, out),
        }
    }
    if !routed {
        write_routes(leg, out);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(message.body());
}

/// The way there. What else stands in Route leads nowhere that we have said: it would let a party see where the other one is.
fn write_routes(leg: &Leg, out: &mut Vec<u8>) {
    if !leg.routes.is_empty() {
        out.extend_from_slice(b"Route: ");
        unfold(&leg.routes, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// A From or To with another URI, where there is one.
fn with_uri(header: &sip::Header<'_>, uri: &[u8], out: &mut Vec<u8>) {
    write_name(header.name_text, out);
    match NameAddr::parse(header.value)
        .ok()
        .filter(|_| !uri.is_empty())
    {
        Some(address) => {
            let mut text = Vec::new();
            if let Some(display) = address.display {
                text.extend_from_slice(display);
                text.push(b' ');
            }
            text.push(b'<');
            text.extend_from_slice(uri);
            text.push(b'>');
            text.extend_from_slice(address.params.text());
            unfold(&text, out);
        }
        None => unfold(header.value, out),
    }
    out.extend_from_slice(b"\r\n");
}

fn write_name(name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
}

/// A line as it came; one that ends with a line feed alone gets its CRLF.
pub(crate) fn copy(header: &sip::Header<'_>, message: &Message<'_>, out: &mut Vec<u8>) {
    let line = header.line.slice(message.bytes());
    let is_whole = line
        .strip_suffix(b"\r\n")
        .is_some_and(|line| !line.contains(&b'\n'));
    if is_whole {
        out.extend_from_slice(line);
    } else {
        write_name(header.name_text, out);
        unfold(header.value, out);
        out.extend_from_slice(b"\r\n");
    }
}
