//! The fast parser agrees with the naive one, and what it writes it reads back.

use proptest::prelude::*;
use sip::{HeaderName, Layout, Message, Patch};

use crate::{generate, naive};

/// Compares everything the two parsers see in these bytes.
pub(crate) fn check_against_naive(bytes: &[u8], layout: &mut Layout) {
    let expected = naive::parse(bytes);
    let actual = sip::parse(bytes, layout);
    let (message, expected) = match (actual, expected) {
        (Ok(message), Ok(expected)) => (message, expected),
        (Err(_), Err(_)) => {
            // What is left of it is safe to read.
            if let Some(message) = layout.partial(bytes) {
                read_everything(message);
            }
            return;
        }
        (actual, expected) => panic!(
            "fast {actual:?}, naive {expected:?} on {}",
            bytes.escape_ascii()
        ),
    };
    let start = match (message.request(), message.status()) {
        (Some(line), None) => vec![line.method_text.to_vec(), line.uri.to_vec()],
        (None, Some(line)) => vec![line.code.to_string().into_bytes(), line.reason.to_vec()],
        both => panic!("{both:?}"),
    };
    let expected_start = if message.is_request() {
        &expected.start[..2]
    } else {
        &expected.start[1..]
    };
    assert_eq!(start, expected_start);
    let headers: Vec<_> = message
        .headers()
        .map(|h| (h.name_text.to_vec(), h.value.to_vec()))
        .collect();
    assert_eq!(headers, expected.headers);
    assert_eq!(message.body(), expected.body);
    for (text, _) in &expected.headers {
        let name = naive::known(text);
        assert_eq!(
            message
                .headers()
                .find(|h| h.name_text == text)
                .map(|h| h.name),
            Some(name)
        );
        let lines = naive::values_of(&expected.headers, name);
        assert_eq!(
            message
                .all(name)
                .map(|h| h.value.to_vec())
                .collect::<Vec<_>>(),
            lines
        );
        assert_eq!(
            message.first(name).map(|h| h.value.to_vec()).as_ref(),
            lines.first()
        );
        assert_eq!(
            message.last(name).map(|h| h.value.to_vec()).as_ref(),
            lines.last()
        );
        let values: Vec<_> = lines
            .iter()
            .flat_map(|line| naive::split(name, line))
            .map(|(v, _)| v)
            .collect();
        assert_eq!(
            message
                .values(name)
                .map(|v| v.value.to_vec())
                .collect::<Vec<_>>(),
            values
        );
    }
    read_everything(message);
    check_round_trip(message);
}

/// `text` with CRLF where LF stands alone, as a patch writes it.
pub(crate) fn mended(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        if *byte == b'\n' && out.last() != Some(&b'\r') {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out
}

/// Writing without edits gives the message back, and reading that gives the same message.
fn check_round_trip(message: Message<'_>) {
    let mut written = Vec::new();
    Patch::new(message).write(&mut written);
    let mut layout = Layout::new();
    let again = sip::parse(&written, &mut layout).unwrap();
    let lines = |m: Message<'_>| {
        m.headers()
            .map(|h| (h.name, mended(h.value)))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(again), lines(message));
    assert!(!again.glitches().contains(sip::Glitch::BareLf));
    assert_eq!(again.body(), message.body());
    let mut twice = Vec::new();
    Patch::new(again).write(&mut twice);
    assert_eq!(twice, written);
}

/// Calls every reader: none may panic, and every span lies where its bytes are.
pub(crate) fn read_everything(message: Message<'_>) {
    let _ = (
        message.essentials().map_err(sip::HeaderError::verdict),
        message.method(),
    );
    let _ = (
        message.expires(),
        message.content_length(),
        message.has_star_contact(),
    );
    let _ = (
        message.vias().count(),
        message.routes().count(),
        message.contacts().count(),
    );
    let _ = (message.record_routes().count(), message.paths().count());
    for header in message.headers() {
        assert_eq!(header.value_span.slice(message.bytes()), header.value);
        assert!(header.line.contains(header.value_span));
    }
    for name in [HeaderName::Via, HeaderName::Contact, HeaderName::Other] {
        for value in message.values(name) {
            assert_eq!(value.span.slice(message.bytes()), value.value);
        }
    }
    let mut out = Vec::new();
    let _ = sip::build::response(message, 400, "", Some(b"t"), &mut out).finish();
    let _ = sip::build::cancel_for(message, &mut out);
    let _ = sip::build::ack_for(message, message, &mut out);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn fast_and_naive_agree(bytes in generate::message()) {
        let mut layout = Layout::new();
        prop_assert!(sip::parse(&bytes, &mut layout).is_ok() || naive::parse(&bytes).is_err());
        check_against_naive(&bytes, &mut layout);
    }

    #[test]
    fn fast_and_naive_agree_on_damaged_messages(bytes in generate::damaged()) {
        // A datagram of line ends alone is a keep-alive to one and a missing start line to the other: both refuse.
        check_against_naive(&bytes, &mut Layout::new());
    }

    #[test]
    fn a_layout_forgets_the_message_before(first in generate::damaged(), second in generate::message()) {
        let mut used = Layout::new();
        let _ = used.read(&first);
        let _ = used.read(&second);
        check_against_naive(&second, &mut used);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn noise_of_64_kib(seed in any::<u64>(), alphabet in 0..4usize) {
        let alphabet = [&b"\r\n :,;\"<>(\\)aVf1"[..], b"\r\n", b"Via:\r\n ,", b"a:\n,\""][alphabet];
        let mut rng = stdx::Rng::new(seed);
        let mut bytes = b"OPTIONS sip:a SIP/2.0\r\nVia: ".to_vec();
        bytes.extend((0..65_507 - 28).map(|_| alphabet[rng.below(alphabet.len() as u32) as usize]));
        let mut layout = Layout::new();
        match sip::parse(&bytes, &mut layout) {
            Ok(message) => read_everything(message),
            Err(error) => { let _ = (error.verdict(), error.to_string()); }
        }
    }
}
