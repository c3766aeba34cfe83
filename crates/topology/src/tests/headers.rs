//! Each header, as the other side gets it.

use expect_test::{Expect, expect};
use sip::HeaderName;

use super::border::{Border, marks};
use crate::{Mode, Policy, Unknown, inventory, leak};

fn passed(policy: impl FnOnce(&mut Policy), lines: &str) -> String {
    let mut border = Border::new(Mode::Stateless);
    policy(&mut border.policy);
    let text = border.request(&request(lines)).text;
    let kept = text
        .split("\r\n")
        .skip(1)
        .filter(|line| {
            let gone = [
                "Via:",
                "Record-Route:",
                "From:",
                "To:",
                "Call-ID:",
                "CSeq:",
                "Contact:",
                "Content-Length:",
            ];
            !line.is_empty() && !gone.iter().any(|name| line.starts_with(name))
        })
        .map(|line| format!("{line}\n"));
    kept.collect()
}

fn request(lines: &str) -> String {
    format!(
        "OPTIONS sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.77.1.1:37001;branch=z9hG4bKbrancha0\r\n\
         From: <sip:alice@a.inside.net>;tag=ta\r\nTo: <sip:bob@example.com>\r\nCall-ID: callida@10.77.1.1\r\nCSeq: 1 OPTIONS\r\n\
         {}Content-Length: 0\r\n\r\n",
        lines.replace('\n', "\r\n")
    )
}

fn check(lines: &str, expected: Expect) {
    expected.assert_eq(&passed(|_| {}, lines));
}

#[test]
fn people_keep_their_names_and_lose_their_hosts() {
    check(
        "P-Asserted-Identity: \"Alice\" <sip:alice@a.inside.net:37001;user=phone>, <tel:+123>\n\
         Diversion: <sip:x@10.77.1.2>;reason=no-answer;counter=1\n\
         History-Info: <sip:y@10.77.1.3?Reason=SIP%3Bcause%3D302&X=10.77.1.3>;index=1, <sip:z@example.com>;index=1.1\n\
         Remote-Party-ID: \"10.77.1.1\" <sip:alice@10.77.1.1>;party=calling\n\
         Referred-By: <sip:alice@a.inside.net>;cid=\"1@a.inside.net\"\n\
         Reply-To: sip:alice@a.inside.net;x=10.77.1.1\n",
        expect![[r#"
            P-Asserted-Identity: "Alice" <sip:alice@203.0.113.1:5062;user=phone>
            P-Asserted-Identity: <tel:+123>
            Diversion: <sip:x@203.0.113.1:5062>;reason=no-answer;counter=1
            History-Info: <sip:y@203.0.113.1:5062?Reason=SIP%3Bcause%3D302>;index=1
            History-Info: <sip:z@example.com>;index=1.1
            Remote-Party-ID: "203.0.113.1:5062" <sip:alice@203.0.113.1:5062>;party=calling
            Referred-By: <sip:alice@203.0.113.1:5062>
            Reply-To: <sip:alice@203.0.113.1:5062>
        "#]],
    );
}

#[test]
fn the_network_of_the_sender_goes() {
    check(
        "Path: <sip:10.77.1.2;lr>\nP-Charging-Vector: icid-value=1;icid-generated-at=10.77.1.2\n\
         P-Charging-Function-Addresses: ccf=10.77.1.3\nUser-Agent: Phone/1\nServer: PBX/2\n\
         Alert-Info: <http://10.77.1.1/ring.wav>, <urn:alert:source:internal>, <http://example.com/r.wav>\n\
         Call-Info: <sip:x@a.inside.net>;purpose=icon\nError-Info: <sip:sorry@10.77.1.1>\n\
         Warning: 370 10.77.1.2:37002 \"no room at a.inside.net\", 399 pbx \"x\"\n\
         Reason: SIP;cause=486;text=\"busy at 10.77.1.1\"\n\
         In-Reply-To: callida@10.77.1.1\nEvent: dialog;call-id=\"callida@10.77.1.1\"\n",
        expect![[r#"
            Alert-Info: <urn:alert:source:internal>
            Alert-Info: <http://example.com/r.wav>
            Warning: 370 203.0.113.1:5062 "no room at 203.0.113.1:5062"
            Warning: 399 203.0.113.1:5062 "x"
            Reason: SIP;cause=486;text="busy at 203.0.113.1:5062"
            In-Reply-To: th--npgsQAUSaeY3hzJbAIR5UO_LtbTAqJmwI_6RPbdVdNNo7I
            Event: dialog;call-id="th--npgsQAUSaeY3hzJbAIR5UO_LtbTAqJmwI_6RPbdVdNNo7I"
        "#]],
    );
}

#[test]
fn unknown_headers_are_as_the_policy_says() {
    let lines = "X-Host: a.inside.net\nX-Escaped: a%2Einside.net\nX-Word: hello\nX-Branch: z9hG4bKbrancha0\n";
    check(
        lines,
        expect![[r#"
            X-Host: 203.0.113.1:5062
            X-Escaped: 203.0.113.1:5062
            X-Word: hello
            X-Branch: hidden
        "#]],
    );
    expect![[r#"
        X-Word: hello
    "#]]
    .assert_eq(&passed(|policy| policy.unknown = Unknown::Strip, lines));
    expect![[r#"
        X-Host: a.inside.net
        X-Escaped: a%2Einside.net
        X-Word: hello
        X-Branch: z9hG4bKbrancha0
    "#]]
    .assert_eq(&passed(|policy| policy.unknown = Unknown::Pass, lines));
    expect![[r#"
        User-Agent: x 203.0.113.1:5062
    "#]]
    .assert_eq(&passed(
        |policy| policy.agents = true,
        "User-Agent: x 10.77.1.1\n",
    ));
}

#[test]
fn what_is_safe_or_signed_stays_byte_for_byte() {
    let lines = "Supported:  timer ,replaces\nAuthorization: Digest realm=\"a.inside.net\", uri=\"sip:x\"\nSession-ID: ab54\n";
    assert_eq!(passed(|_| {}, lines), lines);
}

/// Every header with an address in it; what passes byte for byte is named here.
#[test]
fn no_known_header_lets_an_address_pass_but_those_whose_grammar_has_none() {
    use inventory::{Treatment, treatment};
    for name in HeaderName::KNOWN {
        let treated = treatment(name);
        if matches!(
            treated,
            Treatment::Safe | Treatment::Signed | Treatment::Own
        ) {
            continue;
        }
        for value in [
            "<sip:x@10.77.1.1:37001>",
            "a.inside.net",
            "\"10.77.1.1\" <sip:x@a.inside.net;maddr=10.77.1.1>;p=10.77.1.1",
            "399 a.inside.net \"10.77.1.1\"",
            "sip:10.77.1.1, <sip:x@a.inside.net?a=10.77.1.1>",
            "callida@10.77.1.1;to-tag=1;from-tag=2",
            "<http://10.77.1.1/>;x=%61.inside.net",
        ] {
            let text = passed(|_| {}, &format!("{}: {value}\n", name.as_str()));
            let leaks = leak::find(text.as_bytes(), &marks("a"));
            assert!(leaks.is_empty(), "{leaks:?} of {value} in {text}");
        }
    }
}
