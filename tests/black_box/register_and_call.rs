//! Real phones register, call, refresh and go.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use blackbox::baresip::Baresip;
use blackbox::machine::{eventually, shared};
use blackbox::server::{DEFAULT, DOMAIN, LIMIT, Server};
use blackbox::sipp::{Run, Sipp};
use blackbox::sipsak;
use blackbox::ua::Ua;

use crate::load::register_contact;

#[test]
fn sipp_registers_refreshes_asks_and_removes() {
    let _shared = shared();
    let server = Server::start();
    let run = Run {
        calls: Some(20),
        rate: 50,
        service: "phone",
        ..Run::caller("register", server.ip, server.address())
    };
    let ended = Sipp::start(&run).wait(Duration::from_secs(30));
    ended.assert_clean("phones", 20);
    assert_eq!(
        server.number("registrations"),
        0,
        "all have removed themselves"
    );
    // A copy is answered, and counted, like the first one.
    let copies = ended.statistics.retransmissions;
    for (counter, each) in [("registrar.updated", 60), ("registrar.queried", 20)] {
        let found = server.counter(counter);
        let right = each..=each + copies;
        assert!(
            right.contains(&found),
            "{counter}: {found}, {copies} copies"
        );
    }
}

#[test]
fn sipp_call() {
    let _shared = shared();
    let server = Server::start();
    let callee = Sipp::start(&Run::callee("callee", server.ip));
    register_contact(&server.ua("callee"), &callee.contact("callee"));
    let caller = Sipp::start(&Run {
        calls: Some(10),
        rate: 20,
        ..Run::caller("caller", server.ip, server.address())
    });
    caller
        .wait(Duration::from_secs(30))
        .assert_clean("caller", 10);
    let ended = callee.finish(Duration::from_secs(5));
    assert_eq!(
        (ended.statistics.successful, ended.statistics.failed),
        (10, 0)
    );
}

#[test]
fn two_baresip_phones() {
    let _shared = shared();
    let server = Server::start();
    let mut alice = Baresip::start(server.ip, server.address(), "alice", DOMAIN, "");
    let mut bob = Baresip::start(
        server.ip,
        server.address(),
        "bob",
        DOMAIN,
        ";answermode=auto",
    );
    eventually("two registrations", LIMIT, || {
        (server.number("registrations") == 2).then_some(())
    });
    let listed = server.run(&["registrations", "list"]);
    assert!(
        listed.contains("alice@example.test") && listed.contains("bob@example.test"),
        "{listed}"
    );

    alice.command("dial", &format!("sip:bob@{DOMAIN}"));
    alice.expect_event("CALL_ESTABLISHED");
    bob.expect_event("CALL_ESTABLISHED");
    alice.command("hangup", "");
    bob.expect_event("CALL_CLOSED");

    alice.quit();
    bob.quit();
    eventually("no registration left", LIMIT, || {
        (server.number("registrations") == 0).then_some(())
    });
}

/// A server on loopback, as without a configuration, and phones that name the machine's address in the network.
#[test]
fn phones_at_the_address_in_the_network() {
    let _shared = shared();
    // Connecting a datagram socket sends nothing.
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let outward = socket
        .connect("198.51.100.1:9")
        .and_then(|()| socket.local_addr());
    let Ok(SocketAddr::V4(outward)) = outward else {
        println!("this machine is in no network; nothing to ask");
        return;
    };
    let server = Server::start();
    let phone = |user| Ua::new(*outward.ip(), server.address(), user, DOMAIN);
    let (alice, bob) = (phone("alice"), phone("bob"));
    assert_eq!(bob.register(600).status(), 200);
    let invite = alice.invite(&bob.aor());
    alice.send(&invite);
    let offered = bob.expect_request("INVITE");
    bob.reply(&offered, 486, "Busy Here", "b");
    assert_eq!(alice.expect_final(&invite).status(), 486);
}

/// With digest, from first contact to a call; wrong passwords stay outside.
#[test]
fn baresip_with_a_password() {
    let _shared = shared();
    let config = DEFAULT.replace("\"none\"\nrecord", "\"digest\"\nrecord")
        + "\n[[user]]\nname = \"alice@example.test\"\npassword = \"secret\"\n";
    let server = Server::start_with(&config);
    let mut alice = Baresip::start(
        server.ip,
        server.address(),
        "alice",
        DOMAIN,
        ";auth_pass=secret",
    );
    eventually("alice is registered", LIMIT, || {
        (server.number("registrations") == 1).then_some(())
    });
    let mallory = Baresip::start(
        server.ip,
        server.address(),
        "mallory",
        DOMAIN,
        ";auth_pass=guess",
    );
    eventually("mallory was asked for credentials", LIMIT, || {
        (server.counter("registrar.refused") + server.counter("rejected.unauthorized") >= 2
            || server.counter("rejected.forbidden") > 0)
            .then_some(())
    });
    assert_eq!(server.number("registrations"), 1);
    drop(mallory);
    alice.command("uareg", "0");
    alice.quit();
}

#[test]
fn sipsak_asks_for_options() {
    let _shared = shared();
    // sipsak resolves the host in the URI, so the domain is an address.
    let server = Server::start_with(&format!(
        "{DEFAULT}\n[[domain]]\nname = \"{{ip}}\"\nauth = \"none\"\n"
    ));
    let to_us = sipsak::options(server.address(), &format!("sip:{}", server.ip));
    assert_eq!(
        to_us.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&to_us.stdout)
    );
    let nobody = sipsak::options(server.address(), &format!("sip:nobody@{}", server.ip));
    assert_eq!(
        nobody.status.code(),
        Some(1),
        "a user who is not registered"
    );
}
