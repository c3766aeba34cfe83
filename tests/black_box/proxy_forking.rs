//! Forking to several bindings: best response, CANCEL of what still rings, several 2xx (RFC 3261 §16.7).

use std::net::SocketAddr;
use std::time::Duration;

use blackbox::machine::shared;
use blackbox::message::Message;
use blackbox::server::Server;
use blackbox::ua::Ua;

const QUIET: Duration = Duration::from_millis(300);

struct Fork {
    alice: Ua,
    invite: Message,
    phones: Vec<Ua>,
    got: Vec<(Message, SocketAddr)>,
}

/// One AOR with `count` phones, all of which ring.
fn ring(server: &Server, count: usize) -> Fork {
    let phones: Vec<Ua> = (0..count).map(|_| server.ua("bob")).collect();
    for phone in &phones {
        assert_eq!(phone.register(600).status(), 200);
    }
    let alice = server.ua("alice");
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let got: Vec<_> = phones.iter().map(|p| p.expect_request("INVITE")).collect();
    for (n, phone) in phones.iter().enumerate() {
        phone.reply(&got[n], 180, "Ringing", &format!("t{n}"));
    }
    alice.expect_status(&invite, 180);
    alice.expect_status(&invite, 180);
    Fork {
        alice,
        invite,
        phones,
        got,
    }
}

impl Fork {
    fn reply(&self, n: usize, code: u16, reason: &str) -> Message {
        self.phones[n].reply(&self.got[n], code, reason, &format!("t{n}"))
    }

    /// The final response that the caller sees, acknowledged.
    #[track_caller]
    fn end(&self) -> Message {
        let answer = self.alice.expect_final(&self.invite);
        let ack = self.alice.ack(&self.invite, &answer);
        if answer.status() < 300 {
            self.alice.send_routed(&ack);
        } else {
            self.alice.send(&ack);
        }
        answer
    }

    /// Phone `n` is cancelled and says so.
    #[track_caller]
    fn expect_cancel(&self, n: usize) {
        let cancel = self.phones[n].expect_request("CANCEL");
        assert_eq!(cancel.0.branch(), self.got[n].0.branch());
        self.phones[n].reply(&cancel, 200, "OK", &format!("t{n}"));
        self.reply(n, 487, "Request Terminated");
        self.phones[n].expect_request("ACK");
    }
}

#[test]
fn branches_differ() {
    let _shared = shared();
    let server = Server::start();
    let fork = ring(&server, 3);
    let mut branches: Vec<String> = fork.got.iter().map(|g| g.0.branch()).collect();
    branches.sort();
    branches.dedup();
    assert_eq!(branches.len(), 3);
    assert!(branches.iter().all(|b| b.starts_with("z9hG4bK")));
    fork.reply(1, 200, "OK");
    assert_eq!(fork.end().to_tag().as_deref(), Some("t1"));
    fork.expect_cancel(0);
    fork.expect_cancel(2);
    fork.phones[1].expect_request("ACK");
}

#[test]
fn busy_and_then_answered() {
    let _shared = shared();
    let server = Server::start();
    let fork = ring(&server, 2);
    fork.reply(0, 486, "Busy Here");
    fork.phones[0].expect_request("ACK");
    fork.alice.expect_only(QUIET, |m| m.status() < 200);
    fork.reply(1, 200, "OK");
    assert_eq!(fork.end().status(), 200);
    fork.phones[1].expect_request("ACK");
}

#[test]
fn the_best_of_failures() {
    let _shared = shared();
    let server = Server::start();
    // The lowest class wins; within 4xx, what the caller can act on.
    for (codes, best) in [
        ([486, 503], 486),
        ([404, 302], 302),
        ([480, 407], 407),
        ([503, 503], 500),
    ] {
        let fork = ring(&server, 2);
        fork.reply(0, codes[0], "One");
        fork.reply(1, codes[1], "Two");
        let status = fork.end().status();
        // §16.7 step 6: a 503 should go on as a 500.
        assert!(
            status == best || (best == 500 && status == 503),
            "{codes:?}: {status}"
        );
        for phone in &fork.phones {
            phone.expect_request("ACK");
            assert_eq!(phone.register(0).status(), 200);
        }
    }
}

#[test]
fn six_hundred_ends_all() {
    let _shared = shared();
    let server = Server::start();
    let fork = ring(&server, 2);
    fork.reply(0, 603, "Decline");
    fork.phones[0].expect_request("ACK");
    fork.expect_cancel(1);
    assert_eq!(fork.end().status(), 603);
}

/// RFC 6026: a second 2xx, and a repeated one, are passed on.
#[test]
fn every_2xx_reaches_the_caller() {
    let _shared = shared();
    let server = Server::start();
    let fork = ring(&server, 2);
    fork.reply(0, 200, "OK");
    assert_eq!(fork.end().to_tag().as_deref(), Some("t0"));
    // Crossing the CANCEL.
    fork.reply(1, 200, "OK");
    let (late, _) = fork
        .alice
        .peer
        .expect("the second 200", |m| m.to_tag().as_deref() == Some("t1"));
    assert_eq!(late.status(), 200);
    fork.alice.send_routed(&fork.alice.ack(&fork.invite, &late));
    fork.phones[1].expect_request("ACK");
    fork.reply(0, 200, "OK");
    fork.alice.peer.expect("the repeated 200", |m| {
        m.status() == 200 && m.to_tag().as_deref() == Some("t0")
    });
}

#[test]
fn cancel_reaches_every_phone() {
    let _shared = shared();
    let server = Server::start();
    let fork = ring(&server, 3);
    let cancel = fork.alice.cancel(&fork.invite);
    assert_eq!(fork.alice.ask(&cancel).status(), 200);
    (0..3).for_each(|n| fork.expect_cancel(n));
    assert_eq!(fork.end().status(), 487);
}

/// A CANCEL waits for the first provisional (§9.1): a branch that has said nothing is not cancelled yet.
#[test]
fn silent_branch_is_not_cancelled() {
    let _shared = shared();
    let server = Server::start();
    let (loud, silent) = (server.ua("bob"), server.ua("bob"));
    assert_eq!(
        (loud.register(600).status(), silent.register(600).status()),
        (200, 200)
    );
    let alice = server.ua("alice");
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let at_loud = loud.expect_request("INVITE");
    let at_silent = silent.expect_request("INVITE");
    loud.reply(&at_loud, 200, "OK", "l");
    let ok = alice.expect_final(&invite);
    alice.send_routed(&alice.ack(&invite, &ok));
    silent.expect_only(QUIET, |m| m.method() == "INVITE");
    silent.reply(&at_silent, 180, "Ringing", "s");
    silent.expect_request("CANCEL");
}

/// A phone that has removed its binding is left in peace.
#[test]
fn removed_binding_is_not_called() {
    let _shared = shared();
    let server = Server::start();
    let (one, two) = (server.ua("bob"), server.ua("bob"));
    assert_eq!(
        (one.register(600).status(), two.register(600).status()),
        (200, 200)
    );
    assert_eq!(one.register(0).status(), 200);
    let alice = server.ua("alice");
    let message = alice.request("MESSAGE", "sip:bob@example.test");
    alice.send(&message);
    let got = two.expect_request("MESSAGE");
    two.reply(&got, 200, "OK", "2");
    assert_eq!(alice.expect_final(&message).status(), 200);
    one.expect_only(QUIET, |_| false);
}
