//! A 2xx that can't be hidden: what would have to be sealed is longer than any message may be, or it names another call.
//!
//! It is not passed on, and nobody waits for nothing. The callee gets an ACK and a BYE for every copy of it that comes, made of the 2xx alone; the caller gets a failure.

use std::io::Write as _;
use std::net::SocketAddr;

use sip::{HeaderName, Message, Method, NameAddr, message::unfold};
use stdx::hash::hash64;
use topology::Mode;

use crate::{
    addresses::Interface,
    branch::{Branch, Place},
    context::Context,
    copy::{VALUE_BYTES_MAX, gathered},
    io::Datagram,
    step::Step,
};

/// A response shorter than this can be hidden: what is sealed of it stays far below [`topology::SEALED_BYTES_MAX`].
const SURE_BYTES: usize = topology::SEALED_BYTES_MAX / 2;
/// What a datagram holds.
const DATAGRAM_BYTES_MAX: usize = 65_507;

impl Step<'_, '_> {
    /// Whether a 2xx can be passed to the caller. Only one that looks odd is tried.
    pub(crate) fn can_go_up(&mut self, context: &Context, message: &Message<'_>) -> bool {
        let Some(hidden) = context.hidden else {
            return true;
        };
        // By tokens the caller's Call-ID is told by what the callee says.
        let names_call = hidden.policy.mode == Mode::Dialog
            || !hidden.initial
            || message.call_id().is_ok_and(topology::token::may_be);
        if names_call && message.bytes().len() < SURE_BYTES {
            return true;
        }
        let start = self.out.bytes.len();
        self.write_upwards(context, message);
        let bytes = self.out.bytes.len().saturating_sub(start);
        self.out.bytes.truncate(start);
        (1..=DATAGRAM_BYTES_MAX).contains(&bytes)
    }

    /// Ends the call of a 2xx to INVITE that the caller does not get.
    pub(crate) fn end_unhidden(&mut self, message: &Message<'_>, datagram: &Datagram<'_>) {
        let invite = message
            .cseq()
            .ok()
            .filter(|cseq| cseq.method == Method::Invite);
        let listener = self
            .settings
            .listener_towards(&datagram.source, datagram.listener);
        let (Some(cseq), Some(listener)) = (invite, listener) else {
            return;
        };
        for (method, number) in [
            (Method::Ack, cseq.number),
            (Method::Bye, cseq.number.saturating_add(1)),
        ] {
            let start = self.out.bytes.len();
            let text = self.made_of_success(message, method, number, listener);
            self.out.bytes.extend_from_slice(&text);
            // The neighbour that it came from is the first of its Route set, or the callee.
            self.queue_from(start, listener, datagram.source);
        }
    }

    fn made_of_success(
        &self,
        message: &Message<'_>,
        method: Method,
        number: u32,
        listener: Interface,
    ) -> Vec<u8> {
        let method = method.as_str().as_bytes();
        let value = |name| message.first(name).map_or(&b""[..], |header| header.value);
        let contact = message.first_value(HeaderName::Contact);
        let contact = contact.and_then(|contact| NameAddr::parse(contact.value).ok());
        let to = NameAddr::parse(value(HeaderName::To)).ok();
        let target = contact.or(to).map_or(&b"sip:"[..], |to| to.uri.text);
        let call_id = value(HeaderName::CallId);
        let of_call = [b"unhidden", method, call_id, value(HeaderName::To)];
        let branch = Branch {
            place: Place::Stateless {
                derived: hash64(self.key, &of_call),
            },
            listener: Some(listener.id),
            fold: 0,
        };
        let mut text = Vec::with_capacity(512);
        text.extend_from_slice(method);
        text.push(b' ');
        text.extend_from_slice(target);
        text.extend_from_slice(b" SIP/2.0\r\nVia: SIP/2.0/UDP ");
        let mut own = [0; VALUE_BYTES_MAX];
        text.extend_from_slice(gathered(&mut own, |out| self.write_sent_by(listener, out)));
        text.extend_from_slice(b";branch=");
        text.extend_from_slice(&branch.encode(self.key));
        text.extend_from_slice(b"\r\nMax-Forwards: 70\r\n");
        // What stands above our own is the callee's part of the Route set, the nearest to him first.
        let is_ours = |value: &[u8]| {
            NameAddr::parse(value)
                .is_ok_and(|route| self.settings.interface_named(&route.uri).is_some())
        };
        let theirs = message.values(HeaderName::RecordRoute);
        let theirs: Vec<_> = theirs.take_while(|value| !is_ours(value.value)).collect();
        for route in theirs.iter().rev() {
            text.extend_from_slice(b"Route: ");
            unfold(route.value, &mut text);
            text.extend_from_slice(b"\r\n");
        }
        for name in [HeaderName::From, HeaderName::To, HeaderName::CallId] {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            unfold(value(name), &mut text);
            text.extend_from_slice(b"\r\n");
        }
        // Writing to a Vec does not fail.
        let _ = write!(text, "CSeq: {number} ");
        text.extend_from_slice(method);
        text.extend_from_slice(b"\r\nContent-Length: 0\r\n\r\n");
        text
    }

    /// In the place of a 2xx that could not be passed on by what our Via says of its request: a failure. Appends it.
    pub(crate) fn write_failure_by_token(
        &mut self,
        message: &Message<'_>,
        listener: Interface,
        source: SocketAddr,
    ) {
        let is_success = message
            .status()
            .is_some_and(|status| matches!(status.code, 200..=299));
        if !is_success {
            return;
        }
        let mut text = b"SIP/2.0 500 Server Internal Error\r\n".to_vec();
        for name in [
            HeaderName::Via,
            HeaderName::From,
            HeaderName::To,
            HeaderName::CallId,
            HeaderName::CSeq,
        ] {
            for header in message.all(name) {
                text.extend_from_slice(name.as_str().as_bytes());
                text.extend_from_slice(b": ");
                unfold(header.value, &mut text);
                text.extend_from_slice(b"\r\n");
            }
        }
        text.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        let mut layout = sip::Layout::new();
        if let Ok(message) = sip::parse(&text, &mut layout) {
            self.pass_hidden(&message, listener, source.ip());
        }
    }
}
