//! Responses, ACK and CANCEL, whole.

use expect_test::{Expect, expect};
use sip::build::{BuildError, ack_for, cancel_for, response, response_via};
use sip::{HeaderName, Layout};

use crate::typical::TYPICAL;

fn typical(name: &str) -> &'static [u8] {
    TYPICAL.iter().find(|(n, _)| *n == name).unwrap().1
}

fn check(out: &[u8], expected: Expect) {
    let mut layout = Layout::new();
    sip::parse(out, &mut layout).unwrap().essentials().unwrap();
    expected.assert_eq(&String::from_utf8_lossy(out).replace("\r\n", "\n"));
}

#[test]
fn a_response_copies_what_it_must() {
    let mut layout = Layout::new();
    let request = sip::parse(typical("bye"), &mut layout).unwrap();
    let mut out = Vec::new();
    response(request, 481, "", Some(b"never"), &mut out)
        .header("X-Why", b"none such")
        .finish()
        .unwrap();
    check(
        &out,
        expect![[r#"
        SIP/2.0 481 Call/Transaction Does Not Exist
        Via: SIP/2.0/UDP [2001:db8::9:255]:5060;branch=z9hG4bKnashds7
        From: <sip:bob@example.com>;tag=8321234356
        To: "Alice" <sip:alice@example.com>;tag=9fxced76sl
        Call-ID: 3848276298220188511@192.0.2.101
        CSeq: 4711 BYE
        X-Why: none such
        Content-Length: 0

    "#]],
    );
}

#[test]
fn a_response_to_folded_lists_gets_a_tag_and_another_top_via() {
    let mut layout = Layout::new();
    let request = sip::parse(typical("message"), &mut layout).unwrap();
    let via = b"SIP/2.0/UDP 192.0.2.77:5070;received=192.0.2.78;branch=z9hG4bK-9ikj8";
    let mut out = Vec::new();
    response_via(request, Some(via), 415, "", Some(b"t1"), &mut out)
        .header(HeaderName::Accept, b"application/sdp")
        .body(b"text/plain", b"no")
        .unwrap();
    check(
        &out,
        expect![[r#"
            SIP/2.0 415 Unsupported Media Type
            Via: SIP/2.0/UDP 192.0.2.77:5070;received=192.0.2.78;branch=z9hG4bK-9ikj8 , SIP/2.0/TCP first.example.com;branch=z9hG4bKab;hidden
            From: "\"Quoted\\\", name" <sip:carol@[2001:db8::77]> ;tag = zz-top
            To: sip:bob@example.com;tag=t1
            Call-ID: 0ha0isndaksdj@10.0.0.1
            CSeq: 0009  MESSAGE
            Accept: application/sdp
            Content-Type: text/plain
            Content-Length: 2

            no"#]],
    );
}

#[test]
fn a_100_has_the_timestamp_and_no_tag() {
    let bytes = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nTo: <sip:c@d>\r\nTimestamp: 54\r\n\
        From: <sip:a@b>;tag=1\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\r\n";
    let mut layout = Layout::new();
    let request = sip::parse(bytes, &mut layout).unwrap();
    let mut out = b"kept".to_vec();
    response(request, 100, "", Some(b"never"), &mut out)
        .finish()
        .unwrap();
    check(
        &out[4..],
        expect![[r#"
        SIP/2.0 100 Trying
        Via: SIP/2.0/UDP h;branch=z9hG4bK1
        From: <sip:a@b>;tag=1
        To: <sip:c@d>
        Call-ID: x
        CSeq: 1 INVITE
        Timestamp: 54
        Content-Length: 0

    "#]],
    );
}

#[test]
fn a_malformed_to_keeps_its_tag() {
    let bytes = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nTo: \"c <sip:c@d>;x; TAG = 7\r\n\
        From: <sip:a@b>;tag=1\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\r\n";
    let mut layout = Layout::new();
    let request = sip::parse(bytes, &mut layout).unwrap();
    assert!(request.to().is_err());
    let mut out = Vec::new();
    response(request, 400, "Bad To", Some(b"never"), &mut out)
        .finish()
        .unwrap();
    assert!(
        String::from_utf8(out)
            .unwrap()
            .contains("\r\nTo: \"c <sip:c@d>;x; TAG = 7\r\n")
    );
}

#[test]
fn a_response_that_cannot_be_made_leaves_nothing() {
    let mut layout = Layout::new();
    let request = sip::parse(typical("bye"), &mut layout).unwrap();
    let mut out = b"kept".to_vec();
    let injected = response(request, 200, "", None, &mut out)
        .header("X", b"a\r\nVia: b")
        .finish();
    assert_eq!(
        (injected, &out[..]),
        (Err(BuildError::LineBreak), &b"kept"[..])
    );
    let name = response(request, 200, "", None, &mut out)
        .header("X y", b"a")
        .finish();
    assert_eq!((name, &out[..]), (Err(BuildError::Name), &b"kept"[..]));
    assert_eq!(
        response(request, 99, "", None, &mut out).finish(),
        Err(BuildError::Code(99))
    );
    assert_eq!(
        response(request, 200, "O\nK", None, &mut out).finish(),
        Err(BuildError::LineBreak)
    );
    assert_eq!(out, b"kept");
    let answer = sip::parse(typical("ok"), &mut layout).unwrap();
    assert_eq!(
        response(answer, 200, "", None, &mut out).finish(),
        Err(BuildError::NotARequest)
    );
}

#[test]
fn ack_and_cancel() {
    let (mut of_invite, mut of_answer) = (Layout::new(), Layout::new());
    let invite = sip::parse(typical("invite"), &mut of_invite).unwrap();
    let mut answer = Vec::new();
    response(invite, 486, "", Some(b"busy1"), &mut answer)
        .finish()
        .unwrap();
    let answer = sip::parse(&answer, &mut of_answer).unwrap();

    let mut out = Vec::new();
    ack_for(invite, answer, &mut out).unwrap();
    check(
        &out,
        expect![[r#"
        ACK sip:bob@example.com SIP/2.0
        Via: SIP/2.0/UDP 192.0.2.101:5060;rport;branch=z9hG4bKPj8a1c0f52e47b4ad9
        Route: <sip:proxy.example.com;lr>
        Max-Forwards: 70
        From: "Alice" <sip:alice@example.com>;tag=9fxced76sl
        To: <sip:bob@example.com>;tag=busy1
        Call-ID: 3848276298220188511@192.0.2.101
        CSeq: 1 ACK
        Content-Length: 0

    "#]],
    );
    out.clear();
    cancel_for(invite, &mut out).unwrap();
    check(
        &out,
        expect![[r#"
        CANCEL sip:bob@example.com SIP/2.0
        Via: SIP/2.0/UDP 192.0.2.101:5060;rport;branch=z9hG4bKPj8a1c0f52e47b4ad9
        Route: <sip:proxy.example.com;lr>
        Max-Forwards: 70
        From: "Alice" <sip:alice@example.com>;tag=9fxced76sl
        To: <sip:bob@example.com>
        Call-ID: 3848276298220188511@192.0.2.101
        CSeq: 1 CANCEL
        Content-Length: 0

    "#]],
    );
    assert_eq!(
        ack_for(invite, invite, &mut out),
        Err(BuildError::NotAResponse)
    );
    assert_eq!(cancel_for(answer, &mut out), Err(BuildError::NotARequest));
}

#[test]
fn the_topmost_via_is_not_doubled_behind_an_empty_line() {
    let bytes = b"OPTIONS sip:a@b SIP/2.0\r\nVia:\r\nVia: , SIP/2.0/UDP h;branch=z9hG4bK1, SIP/2.0/UDP i;branch=z9hG4bK2\r\n\
        To: <sip:c@d>\r\nFrom: <sip:a@b>;tag=1\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n\r\n";
    let mut layout = Layout::new();
    let request = sip::parse(bytes, &mut layout).unwrap();
    let via = b"SIP/2.0/UDP h;branch=z9hG4bK1;received=192.0.2.1";
    let mut out = Vec::new();
    response_via(request, Some(via), 200, "", Some(b"t"), &mut out)
        .finish()
        .unwrap();
    check(
        &out,
        expect![[r#"
        SIP/2.0 200 OK
        Via: SIP/2.0/UDP h;branch=z9hG4bK1;received=192.0.2.1, SIP/2.0/UDP i;branch=z9hG4bK2
        From: <sip:a@b>;tag=1
        To: <sip:c@d>;tag=t
        Call-ID: x
        CSeq: 1 OPTIONS
        Content-Length: 0

    "#]],
    );
}
