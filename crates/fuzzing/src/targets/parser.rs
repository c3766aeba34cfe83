//! Any datagram: read, looked at through every view, written again, answered.

use sip::build::{cancel_for, response};
use sip::{HeaderName, Layout, Message, Method, Patch};

use crate::agree;

pub(crate) fn run(bytes: &[u8]) {
    let mut layout = Layout::new();
    match layout.read(bytes) {
        Ok(()) => {
            let message = layout.message(bytes).expect("a message was read");
            look(message);
            write_again(message);
            answer(message);
        }
        Err(error) => {
            assert!(error.at().0 as usize <= bytes.len());
            let _ = error.verdict();
            assert!(layout.message(bytes).is_none());
            if let Some(message) = layout.partial(bytes) {
                assert!(message.request().is_some_and(|l| l.method != Method::Ack));
                look(message);
                answer(message);
            }
        }
    }
}

/// Every view.
pub(crate) fn look(message: Message<'_>) {
    let _ = message.essentials().map_err(|e| e.verdict());
    let _ = (
        message.method(),
        message.expires(),
        message.content_length(),
    );
    let _ = (
        message.has_star_contact(),
        message.glitches().iter().count(),
    );
    for header in message.headers() {
        assert!(header.line.slice(message.bytes()).len() >= header.value.len());
        assert_eq!(header.value_span.slice(message.bytes()), header.value);
        let named = message.all_named(header.name_text).count();
        assert!(named >= 1);
        for value in message.values(header.name) {
            assert!(!value.value.is_empty());
        }
    }
    for name in HeaderName::KNOWN {
        assert_eq!(message.has(name), message.first(name).is_some());
        assert_eq!(
            message.all(name).last().map(|h| h.line),
            message.last(name).map(|h| h.line)
        );
    }
    let addresses = [
        message.routes().count(),
        message.record_routes().count(),
        message.contacts().count(),
    ];
    let _ = (addresses, message.paths().count(), message.vias().count());
}

/// What is not edited leaves as it came, but for line ends.
fn write_again(message: Message<'_>) {
    let mut out = Vec::new();
    let patch = Patch::new(message);
    patch.write(&mut out);
    assert_eq!(patch.len(), out.len());
    agree::check(&out);
    let mut layout = Layout::new();
    let again = sip::parse(&out, &mut layout).expect("what was read is read again");
    assert_eq!(again.body(), message.body());
    let headers = |m: Message<'_>| -> Vec<(HeaderName, Vec<u8>)> {
        let mended = |v: &[u8]| {
            v.split(|b| *b == b'\n')
                .map(|l| l.strip_suffix(b"\r").unwrap_or(l).to_vec())
                .collect::<Vec<_>>()
        };
        m.headers()
            .map(|h| (h.name, mended(h.value).join(&b'\n')))
            .collect()
    };
    assert_eq!(headers(again), headers(message));
}

fn answer(message: Message<'_>) {
    let mut out = Vec::new();
    if response(message, 400, "", Some(b"t"), &mut out)
        .finish()
        .is_ok()
    {
        agree::check(&out);
        let mut layout = Layout::new();
        let answer = sip::parse(&out, &mut layout).expect("an answer of ours is a message");
        assert_eq!(answer.status().map(|s| s.code), Some(400));
        assert_eq!(
            answer.all(HeaderName::Via).count() > 0,
            message.has(HeaderName::Via)
        );
    } else {
        assert!(out.is_empty());
    }
    if cancel_for(message, &mut out).is_ok() {
        agree::check(&out);
    }
}
