//! REGISTER (§10.3) and the look-up of registered users (§16.5).

use std::net::{IpAddr, SocketAddr};

use registrar::{BindingView, Entrance, Reply};
use sip::{
    HeaderName, NameAddr,
    uri::{Aor, Uri},
};
use stdx::text::{write_decimal, write_ip};
use tables::{Counter, Location, UpdateError};

use crate::{
    ask::Target,
    context::Context,
    io::Env,
    step::{Hand, Step},
};

/// The targets of a local user: its current bindings, best first. False if the AOR has no row at all.
pub(crate) fn targets(env: &mut Env<'_>, uri: &Uri<'_>, out: &mut Vec<Target>) -> bool {
    let mut aor = Vec::with_capacity(64);
    if Aor::of(uri, &mut aor).is_err() {
        return false;
    }
    let now = env.now;
    let found = Location(env.arena).lookup(&aor, |bindings| {
        out.extend(bindings.targets(now).map(|binding| Target {
            uri: Some(request_uri(binding.contact)),
            next_hop: way_through(&binding),
            path: (!binding.path.is_empty()).then(|| binding.path.to_vec()),
            listener: Some(binding.listener),
            local: binding.flow.local,
            q: binding.q,
            ..Target::default()
        }));
    });
    found.is_some()
}

/// Where a phone behind address translation is reached: where its REGISTER came from. Its Contact stays the Request-URI, which it knows itself by.
fn way_through(binding: &BindingView<'_>) -> Option<Vec<u8>> {
    binding
        .received
        .filter(|_| binding.flow.nat)
        .map(uri_of_address)
}

pub(crate) fn uri_of_address(address: SocketAddr) -> Vec<u8> {
    let mut uri = Vec::with_capacity(32);
    uri.extend_from_slice(b"sip:");
    write_address(address, &mut uri);
    uri
}

fn write_address(address: SocketAddr, to: &mut Vec<u8>) {
    match address.ip().to_canonical() {
        IpAddr::V6(ip) => {
            to.push(b'[');
            write_ip(ip.into(), to);
            to.push(b']');
        }
        ip => write_ip(ip, to),
    }
    to.push(b':');
    write_decimal(address.port().into(), to);
}

/// A contact as a Request-URI: without headers (§16.6 step 2, §19.1.1 table 1).
pub fn request_uri(contact: &[u8]) -> Vec<u8> {
    // A question mark may also stand in the user part.
    let headers = match contact.contains(&b'?').then(|| Uri::parse(contact)) {
        Some(Ok(uri)) => uri.headers.text().len(),
        _ => 0,
    };
    let end = contact.len().saturating_sub(headers);
    contact.get(..end).unwrap_or(contact).to_vec()
}

impl Step<'_, '_> {
    /// A REGISTER for one of our domains. It is answered without a transaction: a retransmission meets the
    /// CSeq that it has set itself and gets the same answer (§8.2.7, §10.3 step 7).
    pub(crate) fn on_register(&mut self, context: &mut Context, hand: &Hand<'_>) {
        let message = &hand.message;
        let mut aor = Vec::with_capacity(64);
        let Some(to) = message
            .first(HeaderName::To)
            .and_then(|to| NameAddr::parse(to.value).ok())
        else {
            self.end_with(context, hand, 400, Counter::RegisterRefused, b"");
            return;
        };
        if Aor::of(&to.uri, &mut aor).is_err() {
            self.end_with(context, hand, 400, Counter::RegisterRefused, b"");
            return;
        }
        if self.settings.domain_of(&to.uri).is_none() {
            // §10.3 step 5: an AOR that is not one of this domain's.
            self.end_with(context, hand, 404, Counter::RegisterRefused, b"");
            return;
        }
        let (policy, now, source, entrance) = (
            &self.settings.registrar,
            self.env.now,
            context.source,
            Entrance {
                listener: context.listener.id,
                local: context.listener.ip,
            },
        );
        let mut headers = std::mem::take(&mut self.room.headers);
        let body = &mut self.room.body;
        let updated = Location(self.env.arena).update(&aor, body, |current, next| {
            let outcome =
                registrar::register(policy, now, current, message, source, entrance, next);
            headers.clear();
            let bindings = outcome.bindings(current, next);
            outcome.write_headers(policy, now, &bindings, message, &mut headers);
            (outcome.changed, outcome)
        });
        match updated {
            Ok(outcome) => {
                let counter = match outcome.reply {
                    Reply::Ok if outcome.changed => Counter::Registered,
                    Reply::Ok => Counter::RegisterQueried,
                    _ => Counter::RegisterRefused,
                };
                self.end_saying(
                    context,
                    hand,
                    outcome.reply.code(),
                    Some(outcome.reply.reason()),
                    counter,
                    &headers,
                );
            }
            Err(UpdateError::Full) => {
                self.end_with(context, hand, 503, Counter::Full, b"Retry-After: 30\r\n")
            }
            Err(UpdateError::Busy) => self.end_with(
                context,
                hand,
                500,
                Counter::RegisterRefused,
                b"Retry-After: 1\r\n",
            ),
        }
        self.room.headers = headers;
    }
}

#[cfg(test)]
mod tests {
    use super::request_uri;

    #[test]
    fn a_request_uri_has_no_headers() {
        for (contact, uri) in [
            ("sip:bob@10.0.0.2;ob", "sip:bob@10.0.0.2;ob"),
            ("sip:bob@10.0.0.2?Subject=x", "sip:bob@10.0.0.2"),
            ("sip:a?b=c@10.0.0.2;x?Subject=x", "sip:a?b=c@10.0.0.2;x"),
            ("sip:a?b=c@10.0.0.2", "sip:a?b=c@10.0.0.2"),
        ] {
            assert_eq!(request_uri(contact.as_bytes()), uri.as_bytes());
        }
    }
}
