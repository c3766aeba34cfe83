//! From target to target and from hop to hop: q, groups, redirections, numbers (RFC 3261 §16.6, §16.7; RFC 3263 §4.3).

use std::time::Duration;

use blackbox::machine::shared;
use blackbox::message::Message;
use blackbox::server::{DEFAULT, Server};
use blackbox::ua::Ua;

const QUIET: Duration = Duration::from_millis(300);

fn register(phone: &Ua, q: &str) {
    let mut request = phone.register_request(600);
    request.set("Contact", format!("<{}>;q={q}", phone.contact()));
    assert_eq!(phone.ask(&request).status(), 200);
}

/// The caller's final answer, acknowledged.
#[track_caller]
fn end(alice: &Ua, invite: &Message) -> Message {
    let answer = alice.expect_final(invite);
    let ack = alice.ack(invite, &answer);
    if answer.status() < 300 {
        alice.send_routed(&ack);
    } else {
        alice.send(&ack);
    }
    answer
}

#[test]
fn phones_by_q() {
    let _shared = shared();
    let server = Server::start();
    let (first, second, alice) = (server.ua("bob"), server.ua("bob"), server.ua("alice"));
    register(&second, "0.5");
    register(&first, "0.9");
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let at_first = first.expect_request("INVITE");
    first.reply(&at_first, 180, "Ringing", "1");
    alice.expect_status(&invite, 180);
    second.expect_only(QUIET, |_| false);
    first.reply(&at_first, 486, "Busy Here", "1");
    first.expect_request("ACK");
    let at_second = second.expect_request("INVITE");
    second.reply(&at_second, 200, "OK", "2");
    assert_eq!(end(&alice, &invite).to_tag().as_deref(), Some("2"));
    second.expect_request("ACK");
    assert_eq!(server.counter("proxy.next_targets"), 1);
}

#[test]
fn a_phone_that_rings_too_long() {
    let _shared = shared();
    let server = Server::start_with(&format!("{DEFAULT}\n[proxy]\nserial_timeout = \"1s\"\n"));
    let (first, second, alice) = (server.ua("bob"), server.ua("bob"), server.ua("alice"));
    register(&first, "0.9");
    register(&second, "0.5");
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let at_first = first.expect_request("INVITE");
    first.reply(&at_first, 180, "Ringing", "1");
    let cancel = first.expect_request("CANCEL");
    first.reply(&cancel, 200, "OK", "1");
    first.reply(&at_first, 487, "Request Terminated", "1");
    first.expect_request("ACK");
    let at_second = second.expect_request("INVITE");
    second.reply(&at_second, 200, "OK", "2");
    assert_eq!(end(&alice, &invite).status(), 200);
}

#[test]
fn at_once_where_that_is_wanted() {
    let _shared = shared();
    let server = Server::start_with(&format!("{DEFAULT}\n[proxy]\nfork = \"at-once\"\n"));
    let (first, second, alice) = (server.ua("bob"), server.ua("bob"), server.ua("alice"));
    register(&first, "0.9");
    register(&second, "0.1");
    let message = alice.request("MESSAGE", "sip:bob@example.test");
    alice.send(&message);
    let got = first.expect_request("MESSAGE");
    second.expect_request("MESSAGE");
    first.reply(&got, 200, "OK", "1");
    assert_eq!(alice.expect_final(&message).status(), 200);
}

/// A group of a destination that nothing leaves for, one that says 503, one that says nothing, and one that answers.
#[test]
fn a_group_is_gone_through() {
    let _shared = shared();
    let server = Server::start();
    let (busy, mute, good) = (server.ua("b"), server.ua("m"), server.ua("g"));
    let alice = server.ua("alice");
    let destinations = [
        // From a loopback address the kernel sends nothing there.
        "192.0.2.1:5060".to_owned(),
        busy.peer.address.to_string(),
        mute.peer.address.to_string(),
        good.peer.address.to_string(),
    ]
    .map(|to| format!("{{ uri = \"sip:{to}\" }}"))
    .join(", ");
    server.write_config(&format!(
        "{DEFAULT}\n[proxy]\nhop_timeout = \"800ms\"\n[[group]]\nname = \"out\"\ndestinations = [{destinations}]\n\
         [[route]]\nmatch = {{ user = \"^[+]?9\" }}\nto = \"group:out\"\n"
    ));
    server.run(&["reload"]);
    // Slots take destinations in turn, each for itself; whoever comes first, everybody after it is tried.
    let mut seen = [0; 3];
    for n in 0..8 {
        let invite = alice.invite(&format!("sip:9{n}@example.test"));
        alice.send(&invite);
        let mut answered = false;
        while !answered {
            for (place, ua) in [&busy, &mute, &good].into_iter().enumerate() {
                while let Some((message, from)) = ua.peer.receive(Duration::from_millis(20)) {
                    if message.method() != "INVITE" || message.call_id() != invite.call_id() {
                        continue;
                    }
                    seen[place] += 1;
                    match place {
                        0 => drop(ua.reply(&(message, from), 503, "Busy", "b")),
                        1 => {}
                        _ => {
                            ua.reply(&(message, from), 486, "Busy Here", "g");
                            answered = true;
                        }
                    }
                }
            }
        }
        assert_eq!(end(&alice, &invite).status(), 486, "call {n}");
    }
    assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
    assert!(server.counter("proxy.hop_failed") >= 6);
    assert!(server.counter("transport.send_failed") > 0);

    // A number goes there as it is, and no rule for another is no way to it.
    let number = alice.request("MESSAGE", "tel:+9-1");
    alice.send(&number);
    let (got, from) = good.peer.expect("the number", |m| m.method() == "MESSAGE");
    assert_eq!(got.uri(), "tel:+9-1");
    good.reply(&(got, from), 200, "OK", "g");
    assert_eq!(alice.expect_final(&number).status(), 200);
    assert_eq!(alice.ask(&alice.request("MESSAGE", "tel:+1")).status(), 416);
}

#[test]
fn redirections_are_followed_where_the_domain_says_so() {
    let _shared = shared();
    let config = DEFAULT.replace("record_route = true", "record_route = true\nrecurse = true");
    let server = Server::start_with(&config);
    let (bob, desk, alice) = (server.ua("bob"), server.ua("desk"), server.ua("alice"));
    let away = server.ua("away");
    register(&bob, "1");
    register(&desk, "1");
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let got = bob.expect_request("INVITE");
    let mut moved = got.0.response(302, "Moved Temporarily", "b");
    // A user of ours is found by its registration, with no look-up of the domain's name.
    moved.push(
        "Contact",
        format!("<{}>;q=0.2, <sip:desk@example.test>;q=0.8", away.contact()),
    );
    bob.send(&moved);
    bob.expect_request("ACK");
    let at_desk = desk.expect_request("INVITE");
    assert_eq!(at_desk.0.uri(), desk.contact());
    desk.reply(&at_desk, 480, "Temporarily Unavailable", "d");
    let at_away = away.expect_request("INVITE");
    assert_eq!(at_away.0.uri(), away.contact());
    away.reply(&at_away, 200, "OK", "a");
    assert_eq!(end(&alice, &invite).to_tag().as_deref(), Some("a"));
    away.expect_request("ACK");
    assert_eq!(server.counter("proxy.redirected"), 1);
}

/// A number that is registered as a user.
#[test]
fn a_number_at_its_location() {
    let _shared = shared();
    let server = Server::start_with(&format!(
        "{DEFAULT}\n[[route]]\nmatch = {{ user = \"^[+]49\" }}\nto = \"location\"\n"
    ));
    let (phone, alice) = (server.ua("+491234"), server.ua("alice"));
    register(&phone, "1");
    let message = alice.request("MESSAGE", "tel:+49-12.34");
    alice.send(&message);
    let got = phone.expect_request("MESSAGE");
    assert_eq!(got.0.uri(), phone.contact());
    phone.reply(&got, 200, "OK", "p");
    assert_eq!(alice.expect_final(&message).status(), 200);
    assert_eq!(
        alice.ask(&alice.request("MESSAGE", "tel:+49-99")).status(),
        404
    );
}

/// RFC 3262, RFC 3311: what goes on in an early dialog passes.
#[test]
fn prack_and_update() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    register(&bob, "1");
    let invite = alice
        .invite("sip:bob@example.test")
        .with("Supported", "100rel");
    alice.send(&invite);
    let got = bob.expect_request("INVITE");
    let mut early = got.0.response(183, "Session Progress", "b");
    early
        .push("Contact", format!("<{}>", bob.contact()))
        .push("Require", "100rel")
        .push("RSeq", "7");
    bob.send(&early);
    let early = alice.expect_status(&invite, 183);
    assert_eq!(
        (early.first("Require"), early.first("RSeq")),
        (Some("100rel"), Some("7"))
    );
    for (method, cseq) in [("PRACK", 2), ("UPDATE", 3)] {
        let request = alice.in_dialog(method, cseq, &invite, &early);
        alice.send_routed(&request);
        let at_bob = bob.expect_request(method);
        bob.reply(&at_bob, 200, "OK", "b");
        assert_eq!(alice.expect_final(&request).status(), 200, "{method}");
    }
    bob.reply(&got, 200, "OK", "b");
    assert_eq!(end(&alice, &invite).status(), 200);
    bob.expect_request("ACK");
}

/// RFC 3261 §18.1.1, as far as there are no streams: a bound for requests, and for nothing else.
#[test]
fn a_request_too_long_for_udp() {
    let _shared = shared();
    let server = Server::start_with(&format!("{DEFAULT}\n[proxy]\nudp_request_max = 1300\n"));
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    register(&bob, "1");
    let mut long = alice.invite("sip:bob@example.test");
    long.body.resize(1300, b'\n');
    alice.send(&long);
    assert_eq!(end(&alice, &long).status(), 513);
    assert_eq!(server.counter("proxy.too_large"), 1);

    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let got = bob.expect_request("INVITE");
    assert_eq!(got.0.call_id(), invite.call_id(), "the first never came");
    // Responses have no bound.
    let mut answer = got.0.response(200, "OK", "b");
    answer.push("Contact", format!("<{}>", bob.contact()));
    answer.body = vec![b'\n'; 1500];
    bob.send(&answer);
    let answer = alice.expect_final(&invite);
    assert_eq!((answer.status(), answer.body.len()), (200, 1500));
    // Nobody could be told that an ACK was not sent on.
    let mut ack = alice.ack(&invite, &answer);
    ack.body = vec![b'\n'; 1500];
    alice.send_routed(&ack);
    assert_eq!(bob.expect_request("ACK").0.body.len(), 1500);
    assert_eq!(server.counter("proxy.too_large"), 1);
}
