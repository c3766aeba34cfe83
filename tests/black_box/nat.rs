//! Phones behind address translation: they say that they are at 10.0.0.5, and send from somewhere else.

use std::net::{IpAddr, SocketAddr};

use blackbox::machine::{eventually, fresh_address, shared};
use blackbox::message::Message;
use blackbox::server::{DEFAULT, DOMAIN, LIMIT, Server};
use blackbox::ua::Ua;

/// What the phone takes for its own address.
const INSIDE: &str = "10.0.0.5:5060";

/// A REGISTER as a phone sends it that does not know better.
fn register_from_inside(phone: &Ua) -> Message {
    let mut request = phone.register_request(600);
    let outside = phone.peer.address.to_string();
    for name in ["Via", "Contact"] {
        let value = request
            .first(name)
            .expect("it has one")
            .replace(&outside, INSIDE);
        request.set(name, value);
    }
    request
}

fn register(phone: &Ua) {
    let request = register_from_inside(phone);
    assert_eq!(
        phone.ask(&request).status(),
        200,
        "answered where it came from"
    );
}

#[track_caller]
fn is_reached(server: &Server, phone: &Ua) {
    let caller = server.ua("caller");
    let message = caller.request("MESSAGE", &phone.aor());
    caller.send(&message);
    let got = phone.peer.expect("the MESSAGE", |m| {
        m.is_request() && m.call_id() == message.call_id()
    });
    assert_eq!(
        got.0.uri(),
        format!("sip:{}@{INSIDE}", phone.user),
        "as it knows itself"
    );
    phone.reply(&got, 200, "OK", "n");
    assert_eq!(caller.expect_final(&message).status(), 200);
}

#[test]
fn a_phone_is_reached_where_its_register_came_from() {
    let _shared = shared();
    let server = Server::start();
    let phone = server.ua("alice");
    register(&phone);
    is_reached(&server, &phone);
    // It is in the binding, and not in anybody's head.
    for worker in server.workers() {
        server.kill_worker(worker.pid);
        server.wait_ready();
    }
    is_reached(&server, &phone);
}

#[test]
fn the_way_to_it_is_kept_open() {
    let _shared = shared();
    let nat = |method: &str| {
        format!("{DEFAULT}\n[nat]\nkeepalive = \"5s\"\nkeepalive_method = \"{method}\"\n")
    };
    let server = Server::start_with(&nat("options"));
    let (phone, plain) = (server.ua("alice"), server.ua("plain"));
    register(&phone);
    assert_eq!(plain.register(600).status(), 200);
    for _ in 0..2 {
        let got = phone.peer.expect_within("an OPTIONS", LIMIT, |m| {
            m.is_request() && m.method() == "OPTIONS"
        });
        assert_eq!(got.0.uri(), format!("sip:alice@{INSIDE}"));
        assert_eq!(
            got.1,
            server.address(),
            "by the socket that it registered by"
        );
        phone.reply(&got, 200, "OK", "o");
    }
    eventually("the answers are counted", LIMIT, || {
        (server.counter("nat.keepalives_answered") == 2).then_some(())
    });
    assert_eq!(server.counter("nat.keepalives"), 2);
    assert!(
        plain.peer.receive_now().is_none(),
        "nobody else is bothered"
    );

    server.write_config(&nat("crlf"));
    server.reload();
    eventually("four bytes", LIMIT, || {
        let (bytes, _) = phone
            .peer
            .receive_bytes(std::time::Duration::from_millis(200))?;
        (bytes == b"\r\n\r\n").then_some(())
    });
}

/// Who answers nothing goes, whoever counts; who answers stays, whatever he says.
#[test]
fn a_phone_that_answers_nothing_is_removed() {
    let _shared = shared();
    let config = format!("{DEFAULT}\n[nat]\nkeepalive = \"5s\"\nkeepalive_failures = 2\n");
    let server = Server::start_with(&config);
    let (silent, alive, plain) = (server.ua("silent"), server.ua("alice"), server.ua("plain"));
    register(&silent);
    register(&alive);
    assert_eq!(plain.register(600).status(), 200);
    let (mut asked, mut answered) = (0, 0);
    eventually("it is given up", 2 * LIMIT, || {
        while let Some(got) = alive.peer.receive_now() {
            assert_eq!(got.0.method(), "OPTIONS");
            alive.reply(&got, 405, "Method Not Allowed", "o");
            answered += 1;
        }
        if silent.peer.receive_now().is_some() {
            asked += 1;
            // Its heir goes on counting.
            if asked == 1 {
                let worker = server.signalling()[0].pid;
                server.kill_worker(worker);
                server.wait_ready();
            }
        }
        (server.counter("nat.keepalives_given_up") == 1).then_some(())
    });
    while silent.peer.receive_now().is_some() {
        asked += 1;
    }
    assert_eq!(asked, 2, "and no third time");
    assert!(answered >= 2, "{answered}");
    is_reached(&server, &alive);
    assert_eq!(server.number("registrations"), 2);
    // It is welcome again.
    register(&silent);
    is_reached(&server, &silent);
}

#[test]
fn a_binding_keeps_the_address_that_it_was_registered_at() {
    let _shared = shared();
    let everywhere = DEFAULT.replacen("{ip}:{port}", "0.0.0.0:{port}", 1);
    let server = Server::start_with(&everywhere);
    let port = server.address().port();
    let (one, two): (IpAddr, IpAddr) = (fresh_address().into(), fresh_address().into());
    let at = |ip: IpAddr| SocketAddr::new(ip, port);
    let phone = Ua::new(fresh_address(), at(one), "alice", DOMAIN);
    assert_eq!(phone.register(600).status(), 200);
    let caller = Ua::new(fresh_address(), at(two), "caller", DOMAIN);
    let message = caller.request("MESSAGE", &phone.aor());
    caller.send(&message);
    let got = phone.peer.expect("the MESSAGE", |m| {
        m.is_request() && m.call_id() == message.call_id()
    });
    assert_eq!(got.1, at(one), "what its address translation lets through");
    assert!(
        got.0
            .first("Via")
            .expect("a Via")
            .contains(&at(one).to_string())
    );
    phone.reply(&got, 200, "OK", "w");
    assert_eq!(caller.expect_final(&message).status(), 200);
}

#[test]
fn a_caller_behind_it_is_hung_up_on() {
    let _shared = shared();
    let server = Server::start();
    let (phone, callee) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(callee.register(600).status(), 200);
    let mut invite = phone.invite(&callee.aor());
    let outside = phone.peer.address.to_string();
    for name in ["Via", "Contact"] {
        let value = invite
            .first(name)
            .expect("it has one")
            .replace(&outside, INSIDE);
        invite.set(name, value);
    }
    phone.send(&invite);
    let offered = callee.expect_request("INVITE");
    let answer = callee.reply(&offered, 200, "OK", "b");
    let ok = phone.expect_status(&invite, 200);
    phone.send_routed(&phone.ack(&invite, &ok));
    callee.expect_request("ACK");
    // A phone that loses what it does not know of a URI.
    let mut info = callee.in_dialog_back("INFO", 1, &offered.0, &answer);
    info.start = format!("INFO sip:{}@{INSIDE} SIP/2.0", phone.user);
    callee.send_routed(&info);
    let got = phone.expect_request("INFO");
    phone.reply(&got, 200, "OK", "a");
    assert_eq!(callee.expect_final(&info).status(), 200);
    let bye = callee.in_dialog_back("BYE", 2, &offered.0, &answer);
    assert!(bye.uri().contains(INSIDE), "{}", bye.uri());
    callee.send_routed(&bye);
    let got = phone.expect_request("BYE");
    assert!(got.0.uri().contains(INSIDE), "{}", got.0.uri());
    phone.reply(&got, 200, "OK", "a");
    assert_eq!(callee.expect_final(&bye).status(), 200);
}
