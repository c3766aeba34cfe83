//! REGISTER by REGISTER: what is answered, and what is bound afterwards.

use std::time::Duration;

use expect_test::{Expect, expect};
use registrar::{BindingSet, BindingsView, Outcome, Policy, register};
use sip::Layout;
use stdx::Instant;

/// Plays REGISTERs on one address-of-record. A step is `seconds headers`, headers separated by ` | `; Call-ID is c1 and
/// CSeq counts up unless the step says otherwise. `+` marks an answer that changed the bindings.
fn check(steps: &[&str], expected: Expect) {
    expected.assert_eq(&play(
        &Policy {
            bindings_max: 3,
            ..Policy::default()
        },
        steps,
    ));
}

fn play(policy: &Policy, steps: &[&str]) -> String {
    let mut set = BindingSet::new();
    let mut answer = String::new();
    for (index, step) in steps.iter().enumerate() {
        let (seconds, headers) = step.split_once(' ').unwrap_or((step, ""));
        let now = at(seconds.parse().unwrap());
        let (outcome, after) = serve(policy, now, &set, &request(headers, index + 1), &mut answer);
        if outcome.reply.code() != 200 {
            assert!(!outcome.changed);
        }
        set = after;
    }
    answer
}

/// Through the encoding, as it happens between two requests. Returns the set afterwards, expired bindings included.
fn serve(
    policy: &Policy,
    now: Instant,
    set: &BindingSet,
    text: &str,
    answer: &mut String,
) -> (Outcome, BindingSet) {
    let mut layout = Layout::new();
    let message = sip::parse(text.as_bytes(), &mut layout).unwrap();
    let source = "192.0.2.1:5060".parse().unwrap();
    let before = encoded(set);
    let before = BindingsView::new(&before).unwrap();
    let mut next = Vec::new();
    let outcome = register(policy, now, &before, &message, source, 7, &mut next);
    assert_eq!(next.is_empty(), !outcome.changed);
    let sign = if outcome.changed { " +" } else { "" };
    answer.push_str(&format!(
        "{} {}{sign}\n",
        outcome.reply.code(),
        outcome.reply.reason()
    ));
    let bindings = outcome.bindings(&before, &next);
    let mut headers = Vec::new();
    outcome.write_headers(policy, now, &bindings, &message, &mut headers);
    for line in String::from_utf8(headers).unwrap().lines() {
        answer.push_str(&format!("  {line}\n"));
    }
    let after = BindingSet::of(&bindings);
    if outcome.changed {
        assert!(next.len() <= registrar::SET_BYTES_MAX);
        assert_eq!(BindingSet::decode(&next), Ok(after.clone()));
        assert_eq!(after.current(now).count(), after.len());
    }
    (outcome, after)
}

fn encoded(set: &BindingSet) -> Vec<u8> {
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    bytes
}

fn request(headers: &str, cseq: usize) -> String {
    let mut text = "REGISTER sip:a.example SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n\
        From: <sip:alice@a.example>;tag=1\r\nTo: <sip:alice@a.example>\r\n"
        .to_owned();
    if !headers.contains("Call-ID:") {
        text.push_str("Call-ID: c1\r\n");
    }
    if !headers.contains("CSeq:") {
        text.push_str(&format!("CSeq: {cseq} REGISTER\r\n"));
    }
    for header in headers.split(" | ").filter(|header| !header.is_empty()) {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text + "Content-Length: 0\r\n\r\n"
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(1_000_000_000_000).saturating_add(Duration::from_secs(seconds))
}

#[test]
fn lifetimes() {
    check(
        &[
            "0 Contact: <sip:a@h1>;expires=600",
            "0 Contact: <sip:a@h2> | Expires: 700",
            "0 Contact: <sip:a@h3>;expires=800 | Expires: 700",
            "0",
            "599",
            "600",
            "800",
        ],
        expect![[r#"
            200 OK +
              Contact: <sip:a@h1>;expires=600
            200 OK +
              Contact: <sip:a@h1>;expires=600
              Contact: <sip:a@h2>;expires=700
            200 OK +
              Contact: <sip:a@h1>;expires=600
              Contact: <sip:a@h2>;expires=700
              Contact: <sip:a@h3>;expires=800
            200 OK
              Contact: <sip:a@h1>;expires=600
              Contact: <sip:a@h2>;expires=700
              Contact: <sip:a@h3>;expires=800
            200 OK
              Contact: <sip:a@h1>;expires=1
              Contact: <sip:a@h2>;expires=101
              Contact: <sip:a@h3>;expires=201
            200 OK
              Contact: <sip:a@h2>;expires=100
              Contact: <sip:a@h3>;expires=200
            200 OK
        "#]],
    );
    check(
        &["0 Contact: <sip:a@h1>", "3599", "3600"],
        expect![[r#"
        200 OK +
          Contact: <sip:a@h1>;expires=3600
        200 OK
          Contact: <sip:a@h1>;expires=1
        200 OK
    "#]],
    );
    check(
        &["0 Contact: <sip:a@h1>;expires=100000"],
        expect![[r#"
        200 OK +
          Contact: <sip:a@h1>;expires=7200
    "#]],
    );
    // Malformed values count as 3600 (§10.2.1.1, §20.10).
    check(
        &[
            "0 Contact: <sip:a@h1>;expires=soon",
            "0 Contact: <sip:a@h2> | Expires: soon",
        ],
        expect![[r#"
            200 OK +
              Contact: <sip:a@h1>;expires=3600
            200 OK +
              Contact: <sip:a@h1>;expires=3600
              Contact: <sip:a@h2>;expires=3600
        "#]],
    );
}

#[test]
fn too_brief() {
    check(
        &[
            "0 Contact: <sip:a@h1>;expires=59",
            "0 Contact: <sip:a@h1>;expires=60",
            "0 Contact: <sip:a@h2>, <sip:a@h3>;expires=1",
        ],
        expect![[r#"
            423 Interval Too Brief
              Min-Expires: 60
            200 OK +
              Contact: <sip:a@h1>;expires=60
            423 Interval Too Brief
              Min-Expires: 60
        "#]],
    );
    // No refusal from one hour on (§10.3 step 7).
    let policy = Policy {
        expires_min: Duration::from_secs(5000),
        ..Policy::default()
    };
    expect![[r#"
        423 Interval Too Brief
          Min-Expires: 5000
        200 OK +
          Contact: <sip:a@h1>;expires=3600
    "#]]
    .assert_eq(&play(
        &policy,
        &[
            "0 Contact: <sip:a@h1>;expires=3599",
            "0 Contact: <sip:a@h1>;expires=3600",
        ],
    ));
}

#[test]
fn removal() {
    check(
        &[
            "0 Contact: <sip:a@h1>, <sip:a@h2>, <sip:a@h3>",
            "1 Contact: <sip:a@h1>;expires=0, <sip:a@nowhere>;expires=0",
            "2 Contact: <sip:a@h2> | Expires: 0",
            "3 Contact: * | Expires: 0",
            "4 Contact: * | Expires: 0",
        ],
        expect![[r#"
            200 OK +
              Contact: <sip:a@h1>;expires=3600
              Contact: <sip:a@h2>;expires=3600
              Contact: <sip:a@h3>;expires=3600
            200 OK +
              Contact: <sip:a@h2>;expires=3599
              Contact: <sip:a@h3>;expires=3599
            200 OK +
              Contact: <sip:a@h3>;expires=3598
            200 OK +
            200 OK
        "#]],
    );
}

#[test]
fn star_needs_to_be_alone_with_expires_0() {
    check(
        &[
            "0 Contact: <sip:a@h1>",
            "1 Contact: *",
            "2 Contact: * | Expires: 60",
            "3 Contact: *, <sip:a@h1> | Expires: 0",
            "4 Contact: * | Contact: * | Expires: 0",
            "5 Contact: *;expires=0",
        ],
        expect![[r#"
            200 OK +
              Contact: <sip:a@h1>;expires=3600
            400 Bad Wildcard Contact
            400 Bad Wildcard Contact
            400 Bad Wildcard Contact
            400 Bad Wildcard Contact
            400 Bad Contact
        "#]],
    );
}

#[test]
fn order_of_cseq() {
    check(
        &[
            "0 Contact: <sip:a@h1> | CSeq: 5 REGISTER",
            // Lower: nothing of the request counts.
            "1 Contact: <sip:a@h2>, <sip:a@h1> | CSeq: 4 REGISTER",
            "2 Contact: <sip:a@h1>;expires=0 | CSeq: 4 REGISTER",
            "3 Contact: * | Expires: 0 | CSeq: 4 REGISTER",
            // Equal: come again, the lifetime goes on.
            "4 Contact: <sip:a@h1> | CSeq: 5 REGISTER",
            "5 Contact: * | Expires: 0 | CSeq: 5 REGISTER",
            // Another Call-ID: the client was started again.
            "6 Contact: <sip:a@h1> | CSeq: 1 REGISTER | Call-ID: c2",
            "7 Contact: <sip:a@h1> | CSeq: 6 REGISTER | Call-ID: c1",
            "8 Contact: * | Expires: 0 | CSeq: 1 REGISTER | Call-ID: c3",
        ],
        expect![[r#"
            200 OK +
              Contact: <sip:a@h1>;expires=3600
            500 CSeq Out of Order
            500 CSeq Out of Order
            500 CSeq Out of Order
            200 OK
              Contact: <sip:a@h1>;expires=3596
            200 OK
              Contact: <sip:a@h1>;expires=3595
            200 OK +
              Contact: <sip:a@h1>;expires=3600
            200 OK +
              Contact: <sip:a@h1>;expires=3600
            200 OK +
        "#]],
    );
}

#[test]
fn equivalent_uris_are_one_contact() {
    check(
        &[
            "0 Contact: \"Alice\" <sip:a@H1.example;transport=udp>;q=0.7",
            "1 Contact: <sip:%61@h1.EXAMPLE;Transport=UDP>;q=0.25",
            "2 Contact: <sip:A@h1.example;transport=udp>",
            "3 Contact: sip:A@h1.example;transport=udp",
        ],
        expect![[r#"
            200 OK +
              Contact: <sip:a@H1.example;transport=udp>;q=0.7;expires=3600
            200 OK +
              Contact: <sip:%61@h1.EXAMPLE;Transport=UDP>;q=0.25;expires=3600
            200 OK +
              Contact: <sip:%61@h1.EXAMPLE;Transport=UDP>;q=0.25;expires=3599
              Contact: <sip:A@h1.example;transport=udp>;expires=3600
            200 OK +
              Contact: <sip:%61@h1.EXAMPLE;Transport=UDP>;q=0.25;expires=3598
              Contact: <sip:A@h1.example;transport=udp>;expires=3599
              Contact: <sip:A@h1.example>;expires=3600
        "#]],
    );
    // The last of the same request counts.
    check(
        &["4 Contact: <sip:b@h1>;expires=100, <sip:b@h1>;expires=200"],
        expect![[r#"
            200 OK +
              Contact: <sip:b@h1>;expires=200
        "#]],
    );
}

#[test]
fn outbound_keys() {
    check(
        &[
            "0 Contact: <sip:a@h1>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"",
            "1 Contact: <sip:a@h2>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"",
            // The second flow of the device, with the same URI.
            "2 Contact: <sip:a@h2>;reg-id=2;+sip.instance=\"<urn:uuid:1>\"",
            // Without reg-id the URI decides; without an instance reg-id is ignored.
            "3 Contact: <sip:a@h3>;+sip.instance=\"<urn:uuid:1>\"",
            "4 Contact: <sip:a@h3>;reg-id=5",
            "5 Contact: <sip:a@h9>;reg-id=2;+sip.instance=\"<urn:uuid:1>\";expires=0",
        ],
        expect![[r#"
            200 OK +
              Contact: <sip:a@h1>;expires=3600;+sip.instance="<urn:uuid:1>";reg-id=1
            200 OK +
              Contact: <sip:a@h2>;expires=3600;+sip.instance="<urn:uuid:1>";reg-id=1
            200 OK +
              Contact: <sip:a@h2>;expires=3599;+sip.instance="<urn:uuid:1>";reg-id=1
              Contact: <sip:a@h2>;expires=3600;+sip.instance="<urn:uuid:1>";reg-id=2
            200 OK +
              Contact: <sip:a@h2>;expires=3598;+sip.instance="<urn:uuid:1>";reg-id=1
              Contact: <sip:a@h2>;expires=3599;+sip.instance="<urn:uuid:1>";reg-id=2
              Contact: <sip:a@h3>;expires=3600;+sip.instance="<urn:uuid:1>"
            200 OK +
              Contact: <sip:a@h2>;expires=3597;+sip.instance="<urn:uuid:1>";reg-id=1
              Contact: <sip:a@h2>;expires=3598;+sip.instance="<urn:uuid:1>";reg-id=2
              Contact: <sip:a@h3>;expires=3600
            200 OK +
              Contact: <sip:a@h2>;expires=3596;+sip.instance="<urn:uuid:1>";reg-id=1
              Contact: <sip:a@h3>;expires=3599
        "#]],
    );
}

#[test]
fn path() {
    check(
        &[
            "0 Contact: <sip:a@h1> | Path: <sip:p2;lr>, <sip:p1;lr> | Path: <sip:p0;lr> | Supported: path, x",
            "1 Contact: <sip:a@h1> | Path: <sip:p3;lr>",
            "2 Contact: <sip:a@h1> | Path: p3",
            "3 Contact: <sip:a@h1> | Require: path",
        ],
        expect![[r#"
            200 OK +
              Contact: <sip:a@h1>;expires=3600
              Path: <sip:p2;lr>
              Path: <sip:p1;lr>
              Path: <sip:p0;lr>
            200 OK +
              Contact: <sip:a@h1>;expires=3600
            400 Bad Path
            200 OK +
              Contact: <sip:a@h1>;expires=3600
        "#]],
    );
    let text = request(
        "Contact: <sip:a@h1> | Path: <sip:p2;lr>, <sip:p1;lr> | Path:\r\n <sip:p0;lr>",
        1,
    );
    let (_, set) = serve(
        &Policy::default(),
        at(0),
        &BindingSet::new(),
        &text,
        &mut String::new(),
    );
    assert_eq!(
        set.bindings()[0].path,
        b"<sip:p2;lr>,<sip:p1;lr>,<sip:p0;lr>"
    );
}

#[test]
fn unknown_extensions() {
    check(
        &[
            "0 Contact: <sip:a@h1> | Require: gruu, PATH | Require: x-y",
            "0",
        ],
        expect![[r#"
            420 Bad Extension
              Unsupported: gruu, x-y
            200 OK
        "#]],
    );
}

#[test]
fn limits_refuse_the_whole() {
    check(
        &[
            "0 Contact: <sip:a@h1>, <sip:a@h2>",
            "1 Contact: <sip:a@h3>, <sip:a@h4>",
            "2 Contact: <sip:a@h2>;expires=0, <sip:a@h3>, <sip:a@h4>",
            "3 Contact: <sip:a@h5>",
            // Expired ones do not count.
            "3601 Contact: <sip:a@h5>",
        ],
        expect![[r#"
            200 OK +
              Contact: <sip:a@h1>;expires=3600
              Contact: <sip:a@h2>;expires=3600
            503 Too Many Contacts
            200 OK +
              Contact: <sip:a@h1>;expires=3598
              Contact: <sip:a@h3>;expires=3600
              Contact: <sip:a@h4>;expires=3600
            503 Too Many Contacts
            200 OK +
              Contact: <sip:a@h3>;expires=1
              Contact: <sip:a@h4>;expires=1
              Contact: <sip:a@h5>;expires=3600
        "#]],
    );
}

#[test]
fn a_lowered_limit_lets_refreshes_through() {
    let mut set = BindingSet::new();
    let mut answer = String::new();
    let first = Policy {
        bindings_max: 3,
        ..Policy::default()
    };
    let then = Policy {
        bindings_max: 1,
        ..first
    };
    for (cseq, (policy, headers)) in [
        (first, "Contact: <sip:a@h1>, <sip:a@h2>, <sip:a@h3>"),
        (then, "Contact: <sip:a@h1>"),
        (then, "Contact: <sip:a@h4>"),
        (then, "Contact: <sip:a@h1>;expires=0"),
    ]
    .into_iter()
    .enumerate()
    {
        set = serve(&policy, at(0), &set, &request(headers, cseq), &mut answer).1;
    }
    expect![[r#"
        200 OK +
          Contact: <sip:a@h1>;expires=3600
          Contact: <sip:a@h2>;expires=3600
          Contact: <sip:a@h3>;expires=3600
        200 OK +
          Contact: <sip:a@h2>;expires=3600
          Contact: <sip:a@h3>;expires=3600
          Contact: <sip:a@h1>;expires=3600
        503 Too Many Contacts
        200 OK +
          Contact: <sip:a@h2>;expires=3600
          Contact: <sip:a@h3>;expires=3600
    "#]]
    .assert_eq(&answer);
}

#[test]
fn malformed() {
    let long = format!("0 Contact: <sip:a@h1;x={}>", "x".repeat(1100));
    check(
        &[
            "0 Contact: <sip:a@h1>, <sip:>",
            "0 Contact: hello",
            "0 Contact: <sip:a@h1> | CSeq: x REGISTER",
            "0 Contact: <sip:a@h1> | Call-ID:",
            &long,
            "0",
        ],
        expect![[r#"
            400 Bad Contact
            400 Bad Contact
            400 Bad CSeq
            400 Bad Call-ID
            400 Contact Too Long
            200 OK
        "#]],
    );
    let crowd: Vec<_> = (0..65).map(|n| format!("<sip:a@h{n}>;expires=0")).collect();
    check(
        &[&format!("0 Contact: {}", crowd.join(", "))],
        expect![[r#"
            503 Too Many Contacts
        "#]],
    );
}

#[test]
fn what_a_binding_keeps() {
    let text = request(
        "Contact: <sip:a@h1>;q=0.3;+sip.instance=\"<urn:uuid:1>\";reg-id=4 | User-Agent: A phone with\r\n a name that goes on and on and on and on",
        9,
    );
    let (_, set) = serve(
        &Policy::default(),
        at(5),
        &BindingSet::new(),
        &text,
        &mut String::new(),
    );
    expect![[r#"
        [
            "sip:a@h1",
            "q 300, expires 4605.000000000s, updated 1005.000000000s",
            "c1 9",
            "Some(\"<urn:uuid:1>\") Some(4)",
            "Some(192.0.2.1:5060) on 7",
            "A phone with   a name that goes on and on and on",
        ]"#]]
    .assert_eq(&format!("{:#?}", text_of(&set.bindings()[0])));
}

fn text_of(binding: &registrar::Binding) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    vec![
        text(&binding.contact),
        format!(
            "q {}, expires {:?}, updated {:?}",
            binding.q, binding.expires_at, binding.updated_at
        ),
        format!("{} {}", text(&binding.call_id), binding.cseq),
        format!(
            "{:?} {:?}",
            binding.instance.as_deref().map(text),
            binding.reg_id
        ),
        format!("{:?} on {}", binding.received, binding.listener),
        text(&binding.user_agent),
    ]
}
