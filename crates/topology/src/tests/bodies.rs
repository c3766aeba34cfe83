//! Bodies, as the other side gets them.

use data_encoding::BASE64;
use expect_test::{Expect, expect};

use super::border::{Border, marks};
use crate::{Mode, Policy, Unknown, leak};

fn passed(policy: impl FnOnce(&mut Policy), headers: &str, body: &str) -> String {
    let mut border = Border::new(Mode::Stateless);
    policy(&mut border.policy);
    let text = border.request(&request(headers, body)).text;
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    body.replace("\r\n", "\n")
}

fn request(headers: &str, body: &str) -> String {
    let body = body.replace('\n', "\r\n");
    format!(
        "INFO sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.77.1.1:37001;branch=z9hG4bKbrancha0\r\n\
         From: <sip:alice@a.inside.net>;tag=ta\r\nTo: <sip:bob@example.com>\r\nCall-ID: callida@10.77.1.1\r\nCSeq: 1 INFO\r\n\
         {headers}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn check(content_type: &str, body: &str, expected: Expect) {
    let text = passed(|_| {}, &format!("Content-Type: {content_type}"), body);
    let leaks = leak::find(text.as_bytes(), &marks("a"));
    assert!(leaks.is_empty(), "{leaks:?} in {text}");
    expected.assert_eq(&text);
}

const SDP: &str = "v=0\no=alice 12 34 IN IP4 10.77.1.1\ns=call from 10.77.1.1\ni=x\nu=http://a.inside.net\ne=alice@a.inside.net\n\
    c=IN IP4 192.0.2.5\nt=0 0\na=group:BUNDLE 1\nm=audio 4000 RTP/AVP 0\na=rtcp:4001 IN IP4 10.77.1.1\n\
    a=candidate:1 1 UDP 1 10.77.1.1 37001 typ host\na=candidate:2 1 UDP 1 192.0.2.5 4000 typ relay raddr 10.77.1.1 rport 37001\n\
    a=ice-ufrag:x\na=ssrc:1 cname:alice@a.inside.net\na=rtpmap:0 PCMU/8000\nm=video 4002 RTP/AVP 99\nc=IN IP4 192.0.2.6\na=rtcp:4003 IN IP4 192.0.2.6\n\
    junk\n";

#[test]
fn sdp_keeps_media_and_loses_all_else() {
    check(
        "application/sdp",
        SDP,
        expect![[r#"
            v=0
            o=- 12 34 IN IP4 203.0.113.1
            s=call from 203.0.113.1:5062
            i=x
            c=IN IP4 192.0.2.5
            t=0 0
            a=group:BUNDLE 1
            m=audio 4000 RTP/AVP 0
            a=rtpmap:0 PCMU/8000
            m=video 4002 RTP/AVP 99
            c=IN IP4 192.0.2.6
            a=rtcp:4003 IN IP4 192.0.2.6
        "#]],
    );
    // Behind a relay the candidates are the relay's.
    check(
        "application/SDP;charset=utf-8",
        "v=0\no=- 1 1 IN IP4 10.77.1.1\ns=-\nc=IN IP4 192.0.2.5\nt=0 0\nm=audio 4000 RTP/AVP 0\na=ice-ufrag:x\na=candidate:2 1 UDP 1 192.0.2.5 4000 typ host\n",
        expect![[r#"
            v=0
            o=- 1 1 IN IP4 203.0.113.1
            s=-
            c=IN IP4 192.0.2.5
            t=0 0
            m=audio 4000 RTP/AVP 0
            a=ice-ufrag:x
            a=candidate:2 1 UDP 1 192.0.2.5 4000 typ host
        "#]],
    );
}

#[test]
fn bodies_stay_where_they_are_to_stay() {
    let text = passed(
        |policy| policy.bodies = true,
        "Content-Type: application/sdp",
        SDP,
    );
    assert_eq!(text, SDP);
}

#[test]
fn parts_are_treated_each_by_its_type() {
    let coded = BASE64.encode("v=0\r\no=a 1 1 IN IP4 10.77.1.1\r\n".as_bytes());
    let body = format!(
        "preamble of a.inside.net\n--frontier\nContent-Type: application/sdp\nContent-ID: <1@a.inside.net>\n\nv=0\no=a 1 1 IN IP4 10.77.1.1\n\n\
         --frontier  \nContent-Type: application/sdp\nContent-Transfer-Encoding: base64\n\n{coded}\n--frontier\n\
         Content-Type: multipart/mixed;\n boundary=in\n\n--in\nContent-Type: text/plain\n\nat 10.77.1.1:37001\n--in--\n\
         --frontier\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n--frontier--\nepilogue 10.77.1.1\n"
    );
    check(
        "multipart/mixed;boundary=\"frontier\"",
        &body,
        expect![[r#"
            --frontier
            Content-Type: application/sdp
            Content-ID: <1@203.0.113.1:5062>

            v=0
            o=- 1 1 IN IP4 203.0.113.1

            --frontier
            Content-Type: application/sdp
            Content-Transfer-Encoding: binary

            v=0
            o=- 1 1 IN IP4 203.0.113.1

            --frontier
            Content-Type: multipart/mixed; boundary=in

            --in
            Content-Type: text/plain

            at 203.0.113.1:5062
            --in--

            --frontier
            Content-Type: image/png
            Content-Transfer-Encoding: base64

            iVBORw0KGgo=
            --frontier--
        "#]],
    );
}

#[test]
fn a_fragment_tells_what_happened_and_not_where() {
    check(
        "message/sipfrag;version=2.0",
        "SIP/2.0 200 OK at 10.77.1.1\nVia: SIP/2.0/UDP 10.77.1.1;branch=z9hG4bKbrancha0\nFrom: <sip:x@10.77.1.1>;tag=1\n\
         Contact: <sip:x@10.77.1.1>\nCSeq: 1 INVITE\nServer: a.inside.net\nX-A: 10.77.1.1\nContent-Type: application/sdp\n\nv=0\no=- 1 1 IN IP4 10.77.1.1\n",
        expect![[r#"
            SIP/2.0 200 OK at 203.0.113.1:5062
            From: <sip:x@203.0.113.1:5062>;tag=1
            CSeq: 1 INVITE
            X-A: 203.0.113.1:5062
        "#]],
    );
    check(
        "message/sipfrag",
        "INVITE sip:carol@10.77.1.1 SIP/2.0\nReferred-By: <sip:a@a.inside.net>\n",
        expect![[r#"
            INVITE sip:carol@203.0.113.1:5062 SIP/2.0
            Referred-By: <sip:a@203.0.113.1:5062>
        "#]],
    );
}

#[test]
fn other_bodies_are_searched() {
    check(
        "application/dialog-info+xml",
        "<dialog call-id=\"callida@10.77.1.1\"><target uri=\"sip:x@10.77.1.1:37001\"/></dialog>",
        expect![[
            r#"<dialog call-id="th--npgsQAUSaeY3hzJbAIR5UO_LtbTAqJmwI_6RPbdVdNNo7I"><target uri="sip:x@203.0.113.1:5062"/></dialog>"#
        ]],
    );
    let strip = |policy: &mut Policy| policy.unknown = Unknown::Strip;
    assert_eq!(
        passed(strip, "Content-Type: text/plain", "at 10.77.1.1"),
        ""
    );
    assert_eq!(passed(strip, "Content-Type: text/plain", "hello"), "hello");
    // What can't be read.
    let coded = "Content-Type: application/sdp\r\nContent-Encoding: gzip";
    assert_eq!(passed(strip, coded, "zipped"), "");
    assert_eq!(passed(|_| {}, coded, "zipped"), "zipped");
}
