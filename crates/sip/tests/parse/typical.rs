//! The ten typical messages of `tests/torture/typical`, whole, cut at every byte and with every byte changed.

use expect_test::expect;
use sip::{HeaderName, Layout, Patch};

use crate::properties::{check_against_naive, read_everything};

pub(crate) const TYPICAL: [(&str, &[u8]); 10] = [
    (
        "ack",
        include_bytes!("../../../../tests/torture/typical/ack.sip"),
    ),
    (
        "bye",
        include_bytes!("../../../../tests/torture/typical/bye.sip"),
    ),
    (
        "cancel",
        include_bytes!("../../../../tests/torture/typical/cancel.sip"),
    ),
    (
        "invite",
        include_bytes!("../../../../tests/torture/typical/invite.sip"),
    ),
    (
        "message",
        include_bytes!("../../../../tests/torture/typical/message.sip"),
    ),
    (
        "ok",
        include_bytes!("../../../../tests/torture/typical/ok.sip"),
    ),
    (
        "options",
        include_bytes!("../../../../tests/torture/typical/options.sip"),
    ),
    (
        "register",
        include_bytes!("../../../../tests/torture/typical/register.sip"),
    ),
    (
        "ringing",
        include_bytes!("../../../../tests/torture/typical/ringing.sip"),
    ),
    (
        "unauthorized",
        include_bytes!("../../../../tests/torture/typical/unauthorized.sip"),
    ),
];

#[test]
fn all_are_well_formed_to_the_last_header() {
    for (name, bytes) in TYPICAL {
        let mut layout = Layout::new();
        let message = sip::parse(bytes, &mut layout).unwrap_or_else(|e| panic!("{name}: {e}"));
        message
            .essentials()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(message.glitches().is_empty(), "{name}");
        for result in message.vias().map(|via| via.map(|_| ())) {
            result.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let lists = [
            HeaderName::Contact,
            HeaderName::Route,
            HeaderName::RecordRoute,
            HeaderName::Path,
        ];
        for result in lists.into_iter().flat_map(|list| message.addresses(list)) {
            result.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        check_against_naive(bytes, &mut Layout::new());
        let mut written = Vec::new();
        Patch::new(message).write(&mut written);
        assert_eq!(written, bytes, "{name}");
    }
}

#[test]
fn cut_at_every_byte() {
    let mut layout = Layout::new();
    for (_, bytes) in TYPICAL {
        for end in 0..bytes.len() {
            check_against_naive(&bytes[..end], &mut layout);
        }
    }
}

#[test]
fn every_byte_changed() {
    let mut layout = Layout::new();
    let mut changed: Vec<u8> = Vec::new();
    for (_, bytes) in TYPICAL {
        for at in 0..bytes.len() {
            for byte in *b"\0\r\n ,\":\xff" {
                changed.clear();
                changed.extend_from_slice(bytes);
                changed[at] = byte;
                // Everything for some, the parser for all: the naive one takes its time.
                match (at + usize::from(byte)) % 32 {
                    0 => check_against_naive(&changed, &mut layout),
                    1..=4 => {
                        let _ = layout.read(&changed);
                        if let Some(message) = layout.message(&changed).or(layout.partial(&changed))
                        {
                            read_everything(message);
                        }
                    }
                    _ => {
                        let _ = sip::parse(&changed, &mut layout)
                            .map(|message| message.essentials().is_ok());
                    }
                }
            }
        }
    }
}

#[test]
fn the_odd_one_is_read_as_it_should() {
    let bytes = TYPICAL
        .iter()
        .find(|(name, _)| *name == "message")
        .unwrap()
        .1;
    let mut layout = Layout::new();
    let message = sip::parse(bytes, &mut layout).unwrap();
    let mut text = String::new();
    for header in message.headers() {
        text += &format!(
            "{:?} {} = {}\n",
            header.name,
            header.name_text.escape_ascii(),
            header.value.escape_ascii()
        );
    }
    for value in message
        .values(HeaderName::Via)
        .chain(message.values(HeaderName::Supported))
    {
        text += &format!("value {}\n", value.value.escape_ascii());
    }
    expect![[r#"
        Via v = SIP / 2.0 / UDP  192.0.2.77:5070 ;branch = z9hG4bK-9ikj8 ,\r\n SIP/2.0/TCP first.example.com;branch=z9hG4bKab;hidden
        MaxForwards mAX-fORWARDS = 0068
        From f = \"\\\"Quoted\\\\\\\", name\" <sip:carol@[2001:db8::77]>\r\n ;tag = \r\n\tzz-top
        To T = sip:bob@example.com
        CallId i = 0ha0isndaksdj@10.0.0.1
        CSeq cSeQ = 0009  MESSAGE
        Other X-Odd!%*_+`\'~.Name = anything; goes=here, \"and, there\" <not a uri
        Other NewFangledHeader = newfangled value\r\n continued newfangled value
        AcceptLanguage Accept-Language = 
        Subject s = 
        Supported k = a, , b,,\tc
        ContentEncoding e = identity
        ContentType c = text/plain;charset=utf-8
        ContentLength l = 30
        value SIP / 2.0 / UDP  192.0.2.77:5070 ;branch = z9hG4bK-9ikj8
        value SIP/2.0/TCP first.example.com;branch=z9hG4bKab;hidden
        value a
        value b
        value c
    "#]].assert_eq(&text);
}
