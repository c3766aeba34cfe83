//! Calls across the border: what either side gets, and that it leads back to the other one.

use sip::HeaderName as H;

use super::border::{Border, Passed, assert_clean, value, values};
use crate::{Identities, Mode, Policy, SealKey, Sealer};

/// An INVITE of `a` through two of its proxies.
fn invite() -> String {
    request(
        "INVITE",
        "sip:bob@example.com",
        "Max-Forwards: 68\r\n\
         Contact: \"A\" <sip:alice@10.77.1.1:37001;ob>;+sip.instance=\"<urn:uuid:1>\";received=\"sip:10.77.1.9\"\r\n\
         Record-Route: <sip:p2.a.inside.net;lr>, <sip:10.77.1.2:37002;lr>\r\n\
         User-Agent: phone of a.inside.net\r\n",
        "",
        sdp_of("a"),
    )
}

fn sdp_of(side: &str) -> &'static str {
    match side {
        "a" => {
            "v=0\r\no=alice 1 2 IN IP4 10.77.1.1\r\ns=-\r\nc=IN IP4 192.0.2.55\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n\
             a=candidate:1 1 UDP 1 10.77.1.1 37001 typ host\r\na=rtcp:4001 IN IP4 10.77.1.9\r\na=sendrecv\r\n"
        }
        _ => {
            "v=0\r\no=bob 1 2 IN IP4 10.88.1.1\r\ns=-\r\nc=IN IP4 192.0.2.55\r\nt=0 0\r\nm=audio 4002 RTP/AVP 0\r\n"
        }
    }
}

fn request(method: &str, uri: &str, headers: &str, to_tag: &str, body: &str) -> String {
    let sdp = if body.is_empty() {
        ""
    } else {
        "Content-Type: application/sdp\r\n"
    };
    format!(
        "{method} {uri} SIP/2.0\r\n\
         Via: SIP/2.0/UDP p2.a.inside.net;branch=z9hG4bKbrancha2{method}\r\n\
         Via: SIP/2.0/UDP 10.77.1.2:37002;branch=z9hG4bKbrancha1{method};received=10.77.1.9\r\n\
         Via: SIP/2.0/UDP 10.77.1.1:37001;branch=z9hG4bKbrancha0{method}\r\n\
         From: \"Alice\" <sip:alice@a.inside.net>;tag=ta\r\n\
         To: <sip:bob@example.com>{to_tag}\r\n\
         Call-ID: callida@10.77.1.1\r\n\
         CSeq: 1 {method}\r\n{headers}{sdp}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What `b` answers; its proxies have put themselves on top of the Record-Route.
fn answer(request: &str, code: &str, tag: &str, record_routes: &str) -> String {
    let copied = |name: H, text: &str| -> String {
        values(request, name)
            .iter()
            .map(|value| format!("{text}: {value}\r\n"))
            .collect()
    };
    let to = value(request, H::To);
    let to = if to.contains(";tag=") {
        to
    } else {
        format!("{to};tag={tag}")
    };
    let body = sdp_of("b");
    format!(
        "SIP/2.0 {code} From 10.88.1.1\r\n{}{record_routes}{}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\n\
         Contact: <sip:bob@10.88.1.1:48001>\r\nServer: b.inside.net\r\nWarning: 399 b.inside.net \"at 10.88.1.2:48002\"\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        copied(H::Via, "Via"),
        copied(H::RecordRoute, "Record-Route"),
        value(request, H::From),
        value(request, H::CallId),
        value(request, H::CSeq),
        body.len()
    )
}

/// A request within the dialog by a party that has nothing but what it got in `got`: a request or a response.
fn within(got: &str, method: &str, is_callee: bool, extra: &str) -> String {
    let target = value(got, H::Contact);
    let target = target.split(['<', '>']).nth(1).unwrap().to_owned();
    let mut routes = values(got, H::RecordRoute);
    if !is_callee {
        routes.reverse();
    }
    // Its own proxies have taken themselves off.
    routes.retain(|route| route.contains("sip:th-"));
    let routes: String = routes.iter().map(|r| format!("Route: {r}\r\n")).collect();
    let (from, to) = match is_callee {
        true => (format!("{};tag=tb", value(got, H::To)), value(got, H::From)),
        false => (value(got, H::From), value(got, H::To)),
    };
    let side = if is_callee { "b" } else { "a" };
    let (ip, port) = match is_callee {
        true => ("10.88.1.1", 48_001),
        false => ("10.77.1.1", 37_001),
    };
    format!(
        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {ip}:{port};branch=z9hG4bKbranch{side}{method}\r\n{routes}\
         From: {from}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: 2 {method}\r\nMax-Forwards: 70\r\n\
         Contact: <sip:moved@{ip}:{port}>\r\n{extra}Content-Length: 0\r\n\r\n",
        value(got, H::CallId)
    )
}

fn call(border: &Border) -> (Passed, String) {
    let raw = invite();
    let passed = border.request(&raw);
    assert_clean(&passed.text, "a");
    let ok = answer(
        &passed.text,
        "200",
        "tb",
        "Record-Route: <sip:p1.b.inside.net;lr>\r\nRecord-Route: <sip:10.88.1.3;lr>\r\n",
    );
    let back = border.response(&passed, &ok);
    assert_clean(&back, "b");
    (passed, back)
}

const MODES: [Mode; 2] = [Mode::Dialog, Mode::Stateless];

#[test]
fn a_call_hides_both_sides_and_leads_from_one_to_the_other() {
    for mode in MODES {
        let border = Border::new(mode);
        let (passed, back) = call(&border);
        // The caller gets its own things back.
        assert_eq!(value(&back, H::CallId), "callida@10.77.1.1");
        assert_eq!(
            value(&back, H::From),
            "\"Alice\" <sip:alice@a.inside.net>;tag=ta"
        );
        assert_eq!(value(&back, H::To), "<sip:bob@example.com>;tag=tb");
        assert_eq!(values(&back, H::Via).len(), 3);
        assert_eq!(values(&back, H::Via)[0], values(&invite(), H::Via)[0]);
        let routes = values(&back, H::RecordRoute);
        assert_eq!(routes[1..], values(&invite(), H::RecordRoute)[..]);

        // The caller's request goes to the callee's contact by the callee's proxies.
        let bye = border.request(&within(&back, "BYE", false, ""));
        assert_clean(&bye.text, "a");
        assert!(
            bye.text
                .starts_with("BYE sip:bob@10.88.1.1:48001 SIP/2.0\r\n"),
            "{}",
            bye.text
        );
        assert_eq!(
            values(&bye.text, H::Route),
            ["<sip:10.88.1.3;lr>", "<sip:p1.b.inside.net;lr>"]
        );
        assert_eq!(value(&bye.text, H::CallId), value(&passed.text, H::CallId));
        assert_eq!(value(&bye.text, H::From), value(&passed.text, H::From));

        // The callee's goes to the caller's.
        let update = border.request(&within(&passed.text, "UPDATE", true, ""));
        assert_clean(&update.text, "b");
        assert!(
            update
                .text
                .starts_with("UPDATE sip:alice@10.77.1.1:37001;ob SIP/2.0\r\n"),
            "{}",
            update.text
        );
        assert_eq!(
            values(&update.text, H::Route),
            ["<sip:p2.a.inside.net;lr>", "<sip:10.77.1.2:37002;lr>"]
        );
        assert_eq!(value(&update.text, H::CallId), "callida@10.77.1.1");
        assert_eq!(
            value(&update.text, H::To),
            "\"Alice\" <sip:alice@a.inside.net>;tag=ta"
        );
        // And its answer comes back to the callee as the callee knows the call.
        let ok = answer(&update.text, "200", "", "").replace("10.88.1.1:48001", "10.77.1.1:37001");
        let ok = ok
            .replace("10.88.1", "10.77.1")
            .replace("b.inside", "a.inside");
        let back = border.response(&update, &ok);
        assert_clean(&back, "a");
        assert_eq!(value(&back, H::CallId), value(&passed.text, H::CallId));
        assert_eq!(value(&back, H::To), value(&passed.text, H::From));
        assert_eq!(values(&back, H::RecordRoute).len(), 0);
    }
}

#[test]
fn the_target_is_refreshed_from_either_side() {
    for mode in MODES {
        let border = Border::new(mode);
        let (passed, back) = call(&border);
        let reinvite = border.request(&within(&back, "INVITE", false, ""));
        let moved = value(&reinvite.text, H::Contact);
        let old = value(&passed.text, H::Contact);
        assert_ne!(moved, old);
        // The callee puts the new target in the place of the old one; its Route set stays.
        let bare = |contact: &str| contact.split(['<', '>']).nth(1).unwrap().to_owned();
        let refreshed = passed.text.replace(&bare(&old), &bare(&moved));
        let bye = border.request(&within(&refreshed, "BYE", true, ""));
        assert!(
            bye.text
                .starts_with("BYE sip:moved@10.77.1.1:37001 SIP/2.0\r\n")
        );
        assert_eq!(values(&bye.text, H::Route).len(), 2);
        assert_clean(&bye.text, "b");
    }
}

#[test]
fn a_transfer_works_with_replaces() {
    // c called a: a knows that call by a sealed Call-ID, and tells b of it.
    let border = Border::new(Mode::Stateless);
    let from_c = invite()
        .replace("callida", "callidc")
        .replace("tag=ta", "tag=tc")
        .replace("10.77.1.1:37001", "10.99.1.1:3999");
    let to_a = border.request(&from_c);
    let contact_of_c = value(&to_a.text, H::Contact);
    let contact_of_c = contact_of_c.split(['<', '>']).nth(1).unwrap();
    let (_, back) = call(&border);
    let replaces = format!(
        "{}%3Bto-tag%3Dtc%3Bfrom-tag%3Dta",
        value(&to_a.text, H::CallId).replace('@', "%40")
    );
    let refer_to = format!("Refer-To: <{contact_of_c}?Replaces={replaces}&Require=replaces>\r\n");
    let refer = border.request(&within(&back, "REFER", false, &refer_to));
    assert_clean(&refer.text, "a");
    let told = value(&refer.text, H::ReferTo);
    assert!(!told.contains("10.99"), "{told}");
    let inner = told.trim_matches(['<', '>']);
    let (uri, headers) = inner.split_once('?').unwrap();
    let replaces = headers
        .split('&')
        .next()
        .unwrap()
        .strip_prefix("Replaces=")
        .unwrap();
    let replaces = String::from_utf8(crate::names::unescaped(replaces.as_bytes())).unwrap();
    // b calls whom it is told.
    let new_call = format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 10.88.1.1:48001;branch=z9hG4bKbranchbx\r\n\
         From: <sip:bob@b.inside.net>;tag=tx\r\nTo: <{uri}>\r\nCall-ID: callidb@10.88.1.1\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:bob@10.88.1.1:48001>\r\nReplaces: {replaces}\r\nRequire: replaces\r\nContent-Length: 0\r\n\r\n"
    );
    let arrived = border.request(&new_call);
    assert_clean(&arrived.text, "b");
    assert!(
        arrived
            .text
            .starts_with("INVITE sip:alice@10.99.1.1:3999;ob SIP/2.0\r\n"),
        "{}",
        arrived.text
    );
    assert_eq!(
        value(&arrived.text, H::Replaces),
        "callidc@10.77.1.1;to-tag=tc;from-tag=ta"
    );

    // a called c: a knows it by its own Call-ID, c by a sealed one.
    let to_c = border.request(&from_c.replace("callidc", "callida"));
    let refer_to = "Refer-To: <sip:carol@example.com?Replaces=callida%4010.77.1.1%3Bto-tag%3Dtc%3Bfrom-tag%3Dta>\r\n";
    let refer = border.request(&within(&back, "REFER", false, refer_to));
    assert_clean(&refer.text, "a");
    let told = value(&refer.text, H::ReferTo);
    let replaces = told.split(['=', '>']).nth(1).unwrap();
    let replaces = String::from_utf8(crate::names::unescaped(replaces.as_bytes())).unwrap();
    let new_call = new_call.replace(
        new_call
            .split("Replaces: ")
            .nth(1)
            .unwrap()
            .split("\r\n")
            .next()
            .unwrap(),
        &replaces,
    );
    let arrived = border.request(&new_call);
    assert_eq!(
        value(&arrived.text, H::Replaces),
        format!("{};to-tag=tc;from-tag=ta", value(&to_c.text, H::CallId))
    );
}

#[test]
fn a_hidden_target_of_a_transfer_or_redirection_is_reached_by_a_token() {
    let border = Border::new(Mode::Stateless);
    let (passed, back) = call(&border);
    let refer_to = "Refer-To: <sip:carol@pbx.a.inside.net:37001;method=INVITE>\r\nReferred-By: <sip:alice@a.inside.net>\r\n";
    let refer = border.request(&within(&back, "REFER", false, refer_to));
    assert_clean(&refer.text, "a");
    let told = value(&refer.text, H::ReferTo);
    assert!(told.contains(";method=INVITE"), "{told}");
    let uri = told.trim_matches(['<', '>']).replace(";method=INVITE", "");
    let new_call = invite().replace("sip:bob@example.com SIP", &format!("{uri} SIP"));
    let arrived = border.request(&new_call);
    assert!(
        arrived
            .text
            .starts_with("INVITE sip:carol@pbx.a.inside.net:37001;method=INVITE SIP/2.0\r\n"),
        "{}",
        arrived.text
    );

    let moved = answer(&passed.text, "302", "tb", "");
    let back = border.response(&passed, &moved);
    assert_clean(&back, "b");
    let contact = value(&back, H::Contact);
    let uri = contact.split(['<', '>']).nth(1).unwrap();
    let again = border.request(&invite().replace("sip:bob@example.com SIP", &format!("{uri} SIP")));
    assert!(
        again
            .text
            .starts_with("INVITE sip:bob@10.88.1.1:48001 SIP/2.0\r\n")
    );
    let open = moved.replace("sip:bob@10.88.1.1:48001", "sip:carol@example.com");
    assert_eq!(
        value(&border.response(&passed, &open), H::Contact),
        "<sip:carol@example.com>"
    );
}

/// A party that adds to the Route set it was given.
#[test]
fn nobody_makes_us_show_a_target_to_others() {
    let border = Border::new(Mode::Stateless);
    let (passed, back) = call(&border);
    for (got, is_callee, own) in [(&back, false, 2), (&passed.text, true, 2)] {
        let request = within(
            got,
            "INFO",
            is_callee,
            "Route: <sip:spy.example.net;lr>\r\n",
        );
        let through = border.request(&request);
        assert!(
            !through.text.contains("spy.example.net"),
            "{}",
            through.text
        );
        assert_eq!(values(&through.text, H::Route).len(), own);
    }
}

#[test]
fn a_registration_passes_and_its_contact_is_reached() {
    let border = Border::new(Mode::Stateless);
    let register = request(
        "REGISTER",
        "sip:example.com",
        "Contact: <sip:alice@10.77.1.1:37001>;expires=60\r\nPath: <sip:p2.a.inside.net;lr>\r\n",
        "",
        "",
    );
    let passed = border.request(&register);
    assert_clean(&passed.text, "a");
    let contact = value(&passed.text, H::Contact);
    assert!(contact.ends_with(">;expires=60"), "{contact}");
    let ok = answer(&passed.text, "200", "tb", "")
        .replace(
            "Contact: <sip:bob@10.88.1.1:48001>",
            &format!("Contact: {contact}"),
        )
        .replace(
            "Server:",
            "Service-Route: <sip:10.88.1.2:48002;lr>\r\nServer:",
        );
    let back = border.response(&passed, &ok);
    assert_clean(&back, "b");
    assert_eq!(
        value(&back, H::Contact),
        "<sip:alice@10.77.1.1:37001>;expires=60"
    );
    // What is called there comes here by the Path.
    let uri = contact.split(['<', '>']).nth(1).unwrap();
    let call = border.request(&invite().replace("sip:bob@example.com SIP", &format!("{uri} SIP")));
    assert!(
        call.text
            .starts_with("INVITE sip:alice@10.77.1.1:37001 SIP/2.0\r\n")
    );
    assert_eq!(value(&call.text, H::Route), "<sip:p2.a.inside.net;lr>");
    // And a call of hers goes by the service route.
    let route = format!(
        "Max-Forwards: 68\r\nRoute: {}\r\n",
        value(&back, H::ServiceRoute)
    );
    let call = border.request(&invite().replace("Max-Forwards: 68\r\n", &route));
    assert_eq!(value(&call.text, H::Route), "<sip:10.88.1.2:48002;lr>");
    assert!(
        call.text
            .starts_with("INVITE sip:bob@example.com SIP/2.0\r\n")
    );
}

#[test]
fn identities_stay_where_they_are_to_stay() {
    let mut border = Border::new(Mode::Stateless);
    border.policy = Policy {
        identities: Identities::Keep,
        ..border.policy
    };
    let passed = border.request(&invite());
    assert_eq!(
        value(&passed.text, H::From),
        "\"Alice\" <sip:alice@a.inside.net>;tag=ta"
    );
    let back = border.response(&passed, &answer(&passed.text, "486", "tb", ""));
    assert_clean(&back, "b");
    assert_eq!(
        value(&back, H::From),
        "\"Alice\" <sip:alice@a.inside.net>;tag=ta"
    );
}

#[test]
fn calls_keep_their_key() {
    let mut border = Border::new(Mode::Stateless);
    border.policy.key = border.sealer.id();
    let (passed, back) = call(&border);
    let old = border.sealer.clone();
    border.sealer = Sealer::new(SealKey::of_secret(b"newer"), [SealKey::of_secret(b"test")]);
    assert_ne!(border.sealer.id(), old.id());
    let bye = border.request(&within(&back, "BYE", false, ""));
    assert_eq!(value(&bye.text, H::CallId), value(&passed.text, H::CallId));
    let update = border.request(&within(&passed.text, "UPDATE", true, ""));
    assert_eq!(value(&update.text, H::CallId), "callida@10.77.1.1");
    // A new call has the new key.
    border.policy.key = border.sealer.id();
    let (again, _) = call(&border);
    assert_ne!(
        value(&again.text, H::CallId),
        value(&passed.text, H::CallId)
    );
}

#[test]
fn two_borders_in_a_row_do_not_mistake_each_others_tokens() {
    let border = Border::new(Mode::Stateless);
    let first = border.request(&invite());
    // The same server once more, as in a spiral.
    let second = border.request(&first.text);
    let ok = answer(&second.text, "200", "tb", "");
    let between = border.response(&second, &ok);
    let back = border.response(&first, &between);
    assert_eq!(value(&back, H::CallId), "callida@10.77.1.1");
    let bye = within(&back, "BYE", false, "");
    let bye = border.request(&border.request(&bye).text);
    assert!(
        bye.text
            .starts_with("BYE sip:bob@10.88.1.1:48001 SIP/2.0\r\n"),
        "{}",
        bye.text
    );
    assert_eq!(value(&bye.text, H::CallId), value(&second.text, H::CallId));
}
