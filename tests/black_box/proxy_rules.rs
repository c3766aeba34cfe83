//! RFC 3261 §16 seen from outside, one request at a time.

use std::time::Duration;

use blackbox::machine::{eventually, free_port, shared};
use blackbox::message::{Message, param, uri_of};
use blackbox::server::{DEFAULT, DOMAIN, Server};
use blackbox::ua::{Ua, answers};

use crate::load::register_contact;

const QUIET: Duration = Duration::from_millis(300);

/// A registered callee and a caller.
fn pair(server: &Server) -> (Ua, Ua) {
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    (alice, bob)
}

/// A rule that leads out of a digest domain is not for strangers: toll fraud needs no more than that.
#[test]
fn the_way_out_asks_for_a_password() {
    let _shared = shared();
    let out = |source: &str| {
        DEFAULT.replace("\"none\"\nrecord", "\"digest\"\nrecord")
            + "[[user]]\nname = \"bob@example.test\"\npassword = \"secret\"\n"
            + "[[group]]\nname = \"out\"\ndestinations = [ { uri = \"sip:{ip}:9\" } ]\n"
            + &format!("[[route]]\nmatch = {{ user = \"^9\"{source} }}\nto = \"group:out\"\n")
    };
    let foreign = |alice: &Ua, uri: &str| {
        let mut request = alice.request("MESSAGE", uri);
        request.set("From", "<sip:alice@foreign.test>;tag=1");
        request
    };
    let server = Server::start_with(&out(""));
    let alice = server.ua("alice");
    let ask = |request: &Message| alice.ask(request).status();
    assert_eq!(
        ask(&foreign(&alice, "sip:900@example.test")),
        407,
        "a stranger, out"
    );
    assert_eq!(
        ask(&foreign(&alice, "sip:bob@example.test")),
        480,
        "a stranger, to a phone"
    );
    let own = alice.request("MESSAGE", "sip:bob@example.test");
    assert_eq!(ask(&own), 407, "whoever claims to be ours");
    for uri in [
        format!("sip:900@{}", server.address()),
        "sip:900@elsewhere.test".to_owned(),
        "tel:900".to_owned(),
    ] {
        let status = ask(&foreign(&alice, &uri));
        assert_eq!(status, 407, "a stranger, out by {uri}");
    }

    let server = Server::start_with(&out(", source = \"127.0.0.0/8\""));
    let alice = server.ua("alice");
    alice.send(&foreign(&alice, "sip:900@example.test"));
    eventually(
        "the trusted network gets out",
        Duration::from_secs(5),
        || (server.counter("proxy.forwarded") == 1).then_some(()),
    );
}

#[test]
fn options_to_us() {
    let _shared = shared();
    let server = Server::start();
    let alice = server.ua("alice");
    for uri in [format!("sip:{}", server.address()), format!("sip:{DOMAIN}")] {
        let answer = alice.ask(&alice.request("OPTIONS", &uri));
        assert_eq!(answer.status(), 200, "{uri}: {}", answer.start);
        assert!(answer.to_tag().is_some());
        assert_eq!(answer.values("Via").len(), 1);
    }
}

#[test]
fn max_forwards() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let mut spent = alice.request("MESSAGE", "sip:bob@example.test");
    spent.set("Max-Forwards", "0");
    assert_eq!(alice.ask(&spent).status(), 483);
    bob.expect_only(QUIET, |_| false);

    let mut one = alice.request("MESSAGE", "sip:bob@example.test");
    one.set("Max-Forwards", "1");
    alice.send(&one);
    assert_eq!(
        bob.expect_request("MESSAGE").0.first("Max-Forwards"),
        Some("0")
    );

    let mut none = alice.request("MESSAGE", "sip:bob@example.test");
    none.remove("Max-Forwards");
    alice.send(&none);
    let (got, _) = bob
        .peer
        .expect("MESSAGE", |m| m.call_id() == none.call_id());
    assert_eq!(got.first("Max-Forwards"), Some("70"), "§16.6 step 3");
    assert_eq!(server.counter("rejected.too_many_hops"), 1);
}

#[test]
fn refused_with_the_right_code() {
    let _shared = shared();
    let server = Server::start();
    let (alice, _bob) = pair(&server);
    let extension = alice
        .request("MESSAGE", "sip:bob@example.test")
        .with("Proxy-Require", "path-to-nowhere, gruu");
    let answer = alice.ask(&extension);
    assert_eq!(answer.status(), 420);
    let unsupported = answer.values("Unsupported");
    assert!(
        unsupported.contains(&"path-to-nowhere".to_owned()),
        "{unsupported:?}"
    );

    let nobody = alice
        .ask(&alice.request("MESSAGE", "sip:nobody@example.test"))
        .status();
    assert!(matches!(nobody, 404 | 480), "{nobody}");

    assert_eq!(
        alice
            .ask(&alice.request("MESSAGE", "sip:bob@foreign.test"))
            .status(),
        403
    );

    let scheme = alice.ask(&alice.request("MESSAGE", "ftp:bob@example.test"));
    assert_eq!(scheme.status(), 416, "§16.3 step 2");

    let mut version = alice.request("OPTIONS", "sip:example.test");
    version.start = "OPTIONS sip:example.test SIP/3.0".to_owned();
    alice.send(&version);
    alice.peer.expect("505", |m| m.status() == 505);
}

/// §16.3 step 4: a request that has been here, unchanged, is a loop; one with another Request-URI is
/// a spiral and goes on.
#[test]
fn loops_and_spirals() {
    let _shared = shared();
    let server = Server::start_with(&format!(
        "{DEFAULT}\n[[domain]]\nname = \"{{ip}}\"\nauth = \"none\"\n"
    ));
    let domain = server.ip.to_string();
    let ua = |user: &str| Ua::new(server.ip, server.address(), user, &domain);
    let (alice, bob) = (ua("alice"), ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    // A binding that leads back to its own address-of-record.
    register_contact(&ua("ring"), &format!("sip:ring@{}", server.address()));
    let answer = alice.ask(&alice.request("MESSAGE", &format!("sip:ring@{domain}")));
    assert_eq!(answer.status(), 482, "{}", answer.start);
    assert_eq!(server.counter("rejected.loop"), 1);

    // A spiral: one address-of-record leads to another one here.
    register_contact(&ua("spiral"), &format!("sip:bob@{}", server.address()));
    let message = alice.request("MESSAGE", &format!("sip:spiral@{domain}"));
    alice.send(&message);
    let got = bob.expect_request("MESSAGE");
    assert_eq!(got.0.values("Via").len(), 3);
    bob.reply(&got, 200, "OK", "b");
    assert_eq!(alice.expect_final(&message).status(), 200);
}

#[test]
fn unknown_methods_and_headers_pass_unchanged() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let mut request = alice.request("FROBNICATE", "sip:bob@example.test");
    request
        .push("X-Odd", "a ,  b;c=\"d, e\"")
        .push("x-odd", "second")
        .push("Content-Type", "x/y");
    request.body = vec![0, 1, 2, 255, b'\r', b'\n'];
    alice.send(&request);
    let got = bob.expect_request("FROBNICATE");
    assert_eq!(got.0.all("X-Odd"), ["a ,  b;c=\"d, e\"", "second"]);
    assert_eq!(got.0.body, request.body);
    assert!(
        got.0.headers.iter().any(|(n, _)| n == "x-odd"),
        "names keep their case"
    );
    bob.reply(&got, 299, "Odd But Fine", "b");
    let answer = alice.expect_final(&request);
    assert_eq!(answer.start, "SIP/2.0 299 Odd But Fine");
}

/// RFC 3581: the response goes to where the request came from.
#[test]
fn received_and_rport() {
    let _shared = shared();
    let server = Server::start();
    let alice = server.ua("alice");
    let mut request = alice.request("OPTIONS", &format!("sip:{}", server.address()));
    request.set("Via", "SIP/2.0/UDP 192.0.2.1:9;branch=z9hG4bKnat1;rport");
    let answer = alice.ask(&request);
    let via = answer.first("Via").unwrap_or_default();
    assert_eq!(
        param(via, "received"),
        Some(alice.peer.address.ip().to_string()),
        "{via}"
    );
    assert_eq!(
        param(via, "rport"),
        Some(alice.peer.address.port().to_string()),
        "{via}"
    );

    // Without rport the answer goes to the port in sent-by (§18.2.2), here another socket's.
    let other = server.ua("other");
    let mut request = alice.request("OPTIONS", &format!("sip:{}", server.address()));
    let port = other.peer.address.port();
    request.set(
        "Via",
        format!("SIP/2.0/UDP 192.0.2.1:{port};branch=z9hG4bKnat2"),
    );
    alice.send(&request);
    let answer = other.expect_final(&request);
    assert_eq!(answer.status(), 200);
    assert!(
        answer
            .first("Via")
            .unwrap_or_default()
            .contains("received=")
    );
}

#[test]
fn a_whole_call_with_record_route() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let got = bob.expect_request("INVITE");
    assert_eq!(got.0.uri(), bob.contact(), "the Request-URI is the binding");
    assert_eq!(got.0.values("Via").len(), 2);
    assert_eq!(got.0.body, invite.body);
    let routes = got.0.values("Record-Route");
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert!(routes[0].contains(";lr"), "{routes:?}");
    bob.reply(&got, 180, "Ringing", "b");
    alice.expect_status(&invite, 180);
    let ok_sent = bob.reply(&got, 200, "OK", "b");
    let ok = alice.expect_status(&invite, 200);
    assert_eq!(ok.values("Via").len(), 1);
    assert_eq!(ok.values("Record-Route"), routes);
    alice.send_routed(&alice.ack(&invite, &ok));
    let ack = bob.expect_request("ACK").0;
    assert_eq!(ack.uri(), bob.contact());
    assert!(
        ack.first("Route").is_none(),
        "our Route is taken off (§16.4)"
    );

    // In-dialog requests both ways.
    let info = alice.in_dialog("INFO", 2, &invite, &ok);
    alice.send_routed(&info);
    let got_info = bob.expect_request("INFO");
    assert_eq!(got_info.0.uri(), bob.contact());
    bob.reply(&got_info, 200, "OK", "b");
    assert_eq!(alice.expect_final(&info).status(), 200);

    let bye = bob.in_dialog_back("BYE", 1, &got.0, &ok_sent);
    bob.send_routed(&bye);
    let got_bye = alice.expect_request("BYE");
    assert_eq!(got_bye.0.uri(), alice.contact());
    alice.reply(&got_bye, 200, "OK", "");
    assert_eq!(bob.expect_final(&bye).status(), 200);
}

#[test]
fn retransmissions_are_absorbed() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let got = bob.expect_request("INVITE");
    bob.reply(&got, 180, "Ringing", "b");
    alice.expect_status(&invite, 180);
    alice.send(&invite);
    alice.expect_status(&invite, 180);
    bob.expect_only(QUIET, |_| false);
    bob.reply(&got, 486, "Busy Here", "b");
    let busy = alice.expect_status(&invite, 486);
    assert_eq!(
        bob.expect_request("ACK").0.branch(),
        got.0.branch(),
        "the ACK is ours (§17.1.1.3)"
    );
    // The proxy repeats it until the ACK comes (Timer G), and then no more.
    alice.expect_status(&invite, 486);
    alice.send(&alice.ack(&invite, &busy));
    alice.expect_only(Duration::from_millis(50), |_| true);
    alice.expect_only(Duration::from_millis(1500), |_| false);
    bob.expect_only(QUIET, |_| false);
}

#[test]
fn cancel() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let got = bob.expect_request("INVITE");
    bob.reply(&got, 180, "Ringing", "b");
    alice.expect_status(&invite, 180);
    let cancel = alice.cancel(&invite);
    assert_eq!(alice.ask(&cancel).status(), 200);
    let at_bob = bob.expect_request("CANCEL");
    assert_eq!(at_bob.0.branch(), got.0.branch());
    bob.reply(&at_bob, 200, "OK", "b");
    bob.reply(&got, 487, "Request Terminated", "b");
    let ended = alice.expect_status(&invite, 487);
    alice.send(&alice.ack(&invite, &ended));
    bob.expect_request("ACK");

    // Of nothing that we know.
    let stray = alice.cancel(&alice.invite("sip:bob@example.test"));
    assert_eq!(alice.ask(&stray).status(), 481);
}

/// §16.7 step 3 and 16.11: a response without a transaction goes by its Via; one whose top Via is not
/// ours goes nowhere.
#[test]
fn stray_responses() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let message = alice.request("MESSAGE", "sip:bob@example.test");
    alice.send(&message);
    let got = bob.expect_request("MESSAGE");
    let foreign = Message::parse(&message.to_bytes())
        .expect("our own")
        .response(200, "OK", "x");
    bob.send(&foreign);
    alice.expect_only(QUIET, |_| false);
    assert_eq!(server.counter("proxy.response_foreign"), 1);
    bob.reply(&got, 200, "OK", "b");
    assert_eq!(alice.expect_final(&message).status(), 200);
}

/// Lets requests for another domain through.
fn to_elsewhere() -> String {
    format!("{DEFAULT}\n[[route]]\nmatch = {{ domain = \"elsewhere.test\" }}\nto = \"dns\"\n")
}

/// A To tag and a Route through us that anybody can write make no dialog of ours: policy is asked as for any request.
#[test]
fn a_made_up_dialog_is_no_way_through() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let route = format!("<sip:{};lr;td=0123456789abc>", server.address());
    for method in ["MESSAGE", "INVITE", "BYE"] {
        let mut request = alice.request(method, &format!("sip:{}", bob.peer.address));
        request.set("To", "<sip:someone@elsewhere.test>;tag=there");
        request.push("Route", route.clone());
        assert_eq!(alice.ask(&request).status(), 403, "{method}");
    }
    let mut ack = alice.request("ACK", &format!("sip:{}", bob.peer.address));
    ack.set("To", "<sip:someone@elsewhere.test>;tag=there");
    ack.push("Route", route);
    alice.send(&ack);
    bob.expect_only(QUIET, |_| false);
}

#[test]
fn route_to_another_hop() {
    let _shared = shared();
    let server = Server::start_with(&to_elsewhere());
    let (alice, bob) = pair(&server);
    // Our own Route, then the next hop's: loose routing (§16.12).
    let mut request = alice.request("MESSAGE", "sip:someone@elsewhere.test");
    request.set("To", "<sip:someone@elsewhere.test>;tag=there");
    request.push(
        "Route",
        format!(
            "<sip:{};lr>, <sip:{};lr>",
            server.address(),
            bob.peer.address
        ),
    );
    alice.send(&request);
    let got = bob.expect_request("MESSAGE").0;
    assert_eq!(got.uri(), "sip:someone@elsewhere.test");
    let routes: Vec<String> = got.values("Route").iter().map(|r| uri_of(r)).collect();
    assert_eq!(routes, [format!("sip:{};lr", bob.peer.address)]);
}

/// A Route set that goes on behind us makes us a relay for anybody, whosever name is in the Request-URI: only a rule says where
/// requests go, unless the rule is to let them go where they want.
#[test]
fn a_made_up_route_is_no_way_through() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let stranger = server.ua("stranger");
    for routes in [
        format!("<sip:{};lr>", stranger.peer.address),
        format!(
            "<sip:{};lr>, <sip:{};lr>",
            server.address(),
            stranger.peer.address
        ),
    ] {
        for method in ["MESSAGE", "INVITE"] {
            let mut request = alice.request(method, &bob.aor());
            request.push("Route", routes.clone());
            assert_eq!(alice.ask(&request).status(), 403, "{method} {routes}");
        }
    }
    stranger.expect_only(QUIET, |_| false);
    bob.expect_only(QUIET, |_| false);
}

/// The next hop may be a strict router (§16.6 step 6).
#[test]
fn strict_router() {
    let _shared = shared();
    let server = Server::start_with(&to_elsewhere());
    let (alice, bob) = pair(&server);
    let mut request = alice.request("MESSAGE", "sip:someone@elsewhere.test");
    request.set("To", "<sip:someone@elsewhere.test>;tag=there");
    request.push(
        "Route",
        format!("<sip:{};lr>, <sip:{}>", server.address(), bob.peer.address),
    );
    alice.send(&request);
    let got = bob.expect_request("MESSAGE").0;
    assert_eq!(got.uri(), format!("sip:{}", bob.peer.address));
    let routes: Vec<String> = got.values("Route").iter().map(|r| uri_of(r)).collect();
    assert_eq!(routes, ["sip:someone@elsewhere.test"]);
}

/// Two listeners: both addresses are recorded, and requests find their way both ways.
#[test]
fn double_record_route() {
    let _shared = shared();
    let ip = blackbox::machine::fresh_address();
    let second = free_port(ip);
    let config = DEFAULT.replacen(
        "[workers]",
        &format!("[[listen]]\naddress = \"{ip}:{second}\"\ntransports = [\"udp\"]\n\n[workers]"),
        1,
    );
    let server = Server::start_with(&config);
    let alice = server.ua("alice");
    // Bob registers, and is called, on the second listener.
    let bob = Ua::new(ip, (ip, second).into(), "bob", DOMAIN);
    assert_eq!(bob.register(600).status(), 200);
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let got = bob.expect_request("INVITE");
    assert_eq!(
        got.1, bob.server,
        "it comes from the listener he registered on"
    );
    let recorded = got.0.values("Record-Route");
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    assert!(
        recorded[0].contains(&bob.server.to_string()),
        "{recorded:?}"
    );
    assert!(
        recorded[1].contains(&server.address().to_string()),
        "{recorded:?}"
    );
    let ok_sent = bob.reply(&got, 200, "OK", "b");
    let ok = alice.expect_status(&invite, 200);
    alice.send_routed(&alice.ack(&invite, &ok));
    let ack = bob.expect_request("ACK");
    assert!(ack.0.first("Route").is_none(), "both of ours are taken off");
    assert_eq!(ack.1, bob.server);
    let bye = bob.in_dialog_back("BYE", 1, &got.0, &ok_sent);
    bob.send_routed(&bye);
    let got_bye = alice.expect_request("BYE");
    assert_eq!(got_bye.1, server.address());
    assert!(got_bye.0.first("Route").is_none());
    alice.reply(&got_bye, 200, "OK", "");
    assert_eq!(bob.expect_final(&bye).status(), 200);
}

/// RFC 2543: transactions without the magic cookie.
#[test]
fn old_branches() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let mut invite = alice.invite("sip:bob@example.test");
    invite.set(
        "Via",
        format!("SIP/2.0/UDP {};branch=7", alice.peer.address),
    );
    alice.send(&invite);
    let got = bob.expect_request("INVITE");
    bob.reply(&got, 180, "Ringing", "b");
    alice.expect_status(&invite, 180);
    alice.send(&invite);
    alice.expect_status(&invite, 180);
    bob.expect_only(QUIET, |_| false);
    bob.reply(&got, 603, "Decline", "b");
    let ended = alice.expect_status(&invite, 603);
    alice.send(&alice.ack(&invite, &ended));
    alice.expect_only(Duration::from_millis(50), |_| true);
    alice.expect_only(Duration::from_millis(1200), |_| false);
}

/// RFC 3327: requests to a binding with a Path go through it.
#[test]
fn path_is_used() {
    let _shared = shared();
    let server = Server::start();
    let (alice, edge) = (server.ua("alice"), server.ua("edge"));
    let bob = server.ua("bob");
    let mut register = bob.register_request(600);
    let path = format!("<sip:{};lr>", edge.peer.address);
    register
        .push("Supported", "path")
        .push("Path", path.clone());
    let ok = bob.ask(&register);
    assert_eq!((ok.status(), ok.values("Path")), (200, vec![path.clone()]));
    let message = alice.request("MESSAGE", "sip:bob@example.test");
    alice.send(&message);
    let got = edge.expect_request("MESSAGE");
    assert_eq!(
        (got.0.uri(), got.0.values("Route")),
        (bob.contact().as_str(), vec![path])
    );
    edge.reply(&got, 200, "OK", "e");
    assert_eq!(alice.expect_final(&message).status(), 200);
}

#[test]
fn registrar_rules() {
    let _shared = shared();
    let server = Server::start();
    let bob = server.ua("bob");
    let brief = bob.register(1);
    assert_eq!(brief.status(), 423, "{}", brief.start);
    assert!(brief.first("Min-Expires").is_some());
    // CSeq order within one Call-ID.
    let mut second = bob.register_request(600);
    second.set("CSeq", "2 REGISTER");
    assert_eq!(bob.ask(&second).status(), 200);
    let mut first = second.clone();
    first.set("CSeq", "1 REGISTER").set("Via", bob.via());
    assert!(
        bob.ask(&first).status() >= 400,
        "an older CSeq changes nothing"
    );
    // `*` only with Expires: 0.
    let mut star = bob.register_request(600);
    star.set("Contact", "*");
    assert_eq!(bob.ask(&star).status(), 400);
    star.set("Expires", "0")
        .set("Via", bob.via())
        .set("CSeq", "3 REGISTER");
    assert_eq!(bob.ask(&star).status(), 200);
    assert_eq!(server.number("registrations"), 0);
    // Somebody else's domain.
    let mut foreign = bob.register_request(600);
    foreign.start = "REGISTER sip:foreign.test SIP/2.0".to_owned();
    foreign.set("To", "<sip:bob@foreign.test>");
    assert!(matches!(bob.ask(&foreign).status(), 403 | 404));
}

/// A full arena refuses new work with 503 and Retry-After and lets go of nothing it has.
#[test]
fn full_arena() {
    let _shared = shared();
    let server = Server::start_with(&DEFAULT.replace("64MiB", "16MiB"));
    let kept = server.ua("kept");
    assert_eq!(kept.register(600).status(), 200);
    let filler = server.ua("filler");
    let padding = "x".repeat(400);
    let mut full = None;
    for n in 0..60_000 {
        let mut request = filler.register_request(600);
        request.set("To", format!("<sip:f{n}@{DOMAIN}>"));
        request.set("Contact", format!("<sip:f{n}@192.0.2.1;pad={padding}>"));
        let answer = filler.ask(&request);
        if answer.status() != 200 {
            full = Some(answer);
            break;
        }
    }
    let full = full.expect("16 MiB hold fewer than 60,000 such registrations");
    assert_eq!(full.status(), 503, "{}", full.start);
    assert!(full.first("Retry-After").is_some());
    assert!(server.counter("rejected.full") + server.counter("registrar.refused") > 0);
    // So does a new call, once what is left of other calls' memory has gone to calls that ring.
    let mut refused = None;
    for _ in 0..2_000 {
        let invite = filler.invite(&format!("sip:kept@{DOMAIN}"));
        filler.send(&invite);
        let (answer, _) = filler.peer.expect("100 or 503", |m| {
            answers(m, &invite) && [100, 503].contains(&m.status())
        });
        if answer.status() == 503 {
            filler.send(&filler.ack(&invite, &answer));
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("16 MiB hold fewer than 2,000 calls beside the registrations");
    assert!(refused.first("Retry-After").is_some());
    // Refresh and removal pass, and what is served goes on.
    assert_eq!(kept.register(600).status(), 200, "a refresh");
    let options = kept.request("OPTIONS", &format!("sip:{}", server.address()));
    assert_eq!(kept.ask(&options).status(), 200);
    assert_eq!(kept.register(0).status(), 200, "a removal");
}

/// §8.2.6.2 and §16.7: nobody sees a 100 of somebody else's, and we send our own at once.
#[test]
fn trying() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = pair(&server);
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let trying = alice.expect_status(&invite, 100);
    assert_eq!(trying.to_tag(), None);
    let got = bob.expect_request("INVITE");
    bob.peer.send(&got.0.response(100, "Trying", ""), got.1);
    alice.expect_only(QUIET, |m| !answers(m, &invite));
    bob.reply(&got, 480, "Temporarily Unavailable", "b");
    let ended = alice.expect_final(&invite);
    alice.send(&alice.ack(&invite, &ended));
}
