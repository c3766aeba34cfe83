//! What no honest peer sends.

use proptest::prelude::*;
use sip::HeaderName;

use super::border::{Border, marks, values, whole};
use crate::{Mode, leak};

fn request(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut text = format!(
        "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.77.1.1:37001;branch=z9hG4bKbrancha0\r\n\
         From: <sip:alice@a.inside.net>;tag=ta\r\nTo: <sip:bob@example.com>\r\nCall-ID: callida@10.77.1.1\r\nCSeq: 1 INVITE\r\n\
         {headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    text.extend_from_slice(body);
    text
}

fn border() -> Border {
    Border::new(Mode::Stateless)
}

#[track_caller]
fn check(headers: &str, body: &str) -> String {
    let raw = String::from_utf8(request(headers, body.as_bytes())).unwrap();
    let text = border().request(&raw).text;
    let leaks = leak::find(text.as_bytes(), &marks("a"));
    assert!(leaks.is_empty(), "{leaks:?} in\n{text}");
    text
}

#[test]
fn folds_hide_nothing() {
    check(
        "P-Asserted-Identity: \"A\"\r\n <sip:alice@a.inside.net>\r\nX-A: 10.77.1.1\r\n and\r\n\t a.inside.net\r\n\
         Contact:\r\n <sip:alice@10.77.1.1:37001>\r\n ;expires=5\r\nRecord-Route: <sip:10.77.1.2;lr>,\r\n <sip:10.77.1.3;lr>\r\n",
        "",
    );
}

#[test]
fn many_routes_are_carried_or_refused() {
    let routes: String = (0..60)
        .map(|n| format!("Record-Route: <sip:proxy{n}.a.inside.net:37002;lr;x=y>\r\n"))
        .collect();
    let text = check(&routes, "");
    assert_eq!(values(&text, HeaderName::RecordRoute).len(), 1);
}

#[test]
fn bad_values_go() {
    let text = check(
        "Contact: <sip:alice@10.77.1.1:x>, <sip:alice@10.77.1.1:37001>, \"10.77.1.1\r\n\
         Refer-To: <sip:10.77.1.1\r\nReplaces: ;to-tag=1\r\nWarning: 10.77.1.1\r\nWarning: 399 10.77.1.1\r\n\
         P-Asserted-Identity: <sip:alice@10.77.1.1\r\nAlert-Info: http://10.77.1.1\r\nCall-Info: <<http://10.77.1.1>\r\n",
        "",
    );
    assert!(!text.contains("Warning"), "{text}");
    assert!(!text.contains("Replaces"), "{text}");
}

#[test]
fn bad_descriptions_tell_nothing() {
    for body in [
        "",
        "\r\n\r\n",
        "o=\r\n",
        "o=a\r\nc=\r\nc=IN\r\nc=IN IP4\r\n",
        "o=a 10.77.1.1 10.77.1.1 IN IP4 10.77.1.1 10.77.1.1\r\n",
        "v=0\no=- 1 1 IN IP4 10.77.1.1\nc=IN IP4 192.0.2.1/127/3\na=x:10.77.1.1\n",
        "a=rtcp:1 IN IP4 10.77.1.1\ra=x\r\n",
        "V=0\r\nO=10.77.1.1\r\n a=10.77.1.1\r\nx=10.77.1.1\r\n",
        "a=candidate\r\na=candidate:\r\na=10.77.1.1\r\nz=10.77.1.2\r\n",
    ] {
        let text = check("Content-Type: application/sdp\r\n", body);
        whole(&text);
    }
}

#[test]
fn bad_parts_tell_nothing() {
    for (kind, body) in [
        ("multipart/mixed", "--x\r\n\r\n10.77.1.1\r\n--x--"),
        ("multipart/mixed;boundary=", "10.77.1.1"),
        ("multipart/mixed;boundary=x", "--x"),
        ("multipart/mixed;boundary=x", "--x\r\n10.77.1.1"),
        ("multipart/mixed;boundary=x", "--x\r\n\r\n10.77.1.1"),
        (
            "multipart/mixed;boundary=x",
            "10.77.1.1\r\n--xy\r\n\r\na.inside.net\r\n--x\r\n\r\nb\r\n--x--\r\n10.77.1.1",
        ),
        (
            "multipart/mixed;boundary=x",
            "--x\r\nContent-Type: multipart/mixed;boundary=x\r\n\r\n--x\r\n\r\n10.77.1.1\r\n--x--\r\n--x--",
        ),
        (
            "multipart/mixed;boundary=x",
            "--x\r\nContent-Transfer-Encoding: base64\r\nContent-Type: text/plain\r\n\r\nMTAuNzcuMS4x\r\n--x--",
        ),
        (
            "multipart/mixed;boundary=x",
            "--x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n10=2E77=2E1=2E1\r\n--x--",
        ),
    ] {
        check(&format!("Content-Type: {kind}\r\n"), body);
    }
}

proptest! {
    /// Whatever the headers and the body are: one whole message, and nothing of the sender where a grammar says where it stands.
    #[test]
    fn any_bytes_make_one_whole_message(
        name in "Contact|Refer-To|Replaces|Record-Route|Warning|Alert-Info|History-Info|Reason|X-Any|Path|Service-Route|In-Reply-To|Event",
        value in "[ -~]{0,60}",
        kind in "application/sdp|message/sipfrag|multipart/mixed;boundary=x|text/plain|[ -~]{0,20}",
        body in "([ -~]|\r\n|--x|c=IN IP4 10.0.0.1|a=candidate:|o=){0,40}",
    ) {
        let headers = format!("{name}: {value}\r\nContent-Type: {kind}\r\n");
        let raw = String::from_utf8(request(&headers, body.as_bytes())).unwrap();
        let mut layout = sip::Layout::new();
        if sip::parse(raw.as_bytes(), &mut layout).is_ok() {
            whole(&border().request(&raw).text);
        }
    }

    /// Addresses among any text.
    #[test]
    fn addresses_are_found_among_any_text(before in "[ !#-~]{0,20}", after in "[ !#-~]{0,20}", which in 0..3_usize) {
        let mark = ["10.77.1.1", "a.inside.net", "10.77.1.1:37001"][which];
        let glued = before.ends_with(|c: char| c.is_ascii_digit() || c == '.')
            || after.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'));
        prop_assume!(!glued && !before.contains('%'));
        for name in ["X-Any", "Subject", "Reason", "Organization"] {
            check(&format!("{name}: {before}{mark}{after}\r\n"), "");
        }
        check("Content-Type: text/plain\r\n", &format!("{before}{mark}{after}"));
    }
}
