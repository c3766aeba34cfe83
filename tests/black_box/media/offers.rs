//! Every place where an offer and its answer can be (RFC 3264, RFC 6337), and forks.

use std::time::Duration;

use blackbox::machine::{eventually, shared};
use blackbox::rtpengine::{Engine, Party, hear_echo, media_address, talk};
use blackbox::server::{LIMIT, Server};
use blackbox::sipp::{Run, Sipp};

use crate::load::register_contact;

use super::{World, answer, config, hidden, with_sdp, without_sdp};

#[test]
fn a_call_crosses_the_engine() {
    let _shared = shared();
    let world = World::new("");
    let call = world.call();
    world.talk(&call);
    assert_eq!(world.engine.calls(), [call.invite.call_id()]);
    world.hang_up(&call);
    world.engine.expect_no_calls();
    eventually("freed", LIMIT, || {
        (world.server.counter("media.freed") == 1).then_some(())
    });
    assert_eq!(world.server.counter("media.mismatched"), 0);
}

/// The callee of SIPp echoes what it hears.
#[test]
fn a_call_to_sipp_with_media_both_ways() {
    let _shared = shared();
    let engine = Engine::start();
    let server = Server::start_with(&config(&[engine.address], ""));
    let ip = blackbox::machine::fresh_address();
    let callee = Sipp::start(&Run {
        extra: &["-rtp_echo"],
        ..Run::callee("media_callee", ip)
    });
    register_contact(&server.ua("callee"), &callee.contact("callee"));
    let (alice, party) = (server.ua("alice"), Party::new(server.ip));
    let invite = with_sdp(alice.invite("sip:callee@example.test"), &party.sdp());
    alice.send(&invite);
    let answered = alice.expect_final(&invite);
    assert_eq!(answered.status(), 200);
    let to = media_address(&answered.body);
    assert_eq!(to.ip(), engine.ip);
    let text = String::from_utf8_lossy(&answered.body).into_owned();
    assert!(!text.contains(&ip.to_string()), "{text}");
    alice.send_routed(&alice.ack(&invite, &answered));
    hear_echo(&party, to);
    let bye = alice.in_dialog("BYE", 2, &invite, &answered);
    alice.send_routed(&bye);
    assert_eq!(alice.expect_final(&bye).status(), 200);
    engine.expect_no_calls();
    let ended = callee.finish(Duration::from_secs(10)).statistics;
    assert_eq!((ended.successful, ended.failed), (1, 0));
}

#[test]
fn an_offer_in_the_answer() {
    let _shared = shared();
    let world = World::new("");
    let (alice, bob) = (&world.alice, &world.bob);
    let invite = without_sdp(alice.invite(&bob.aor()));
    alice.send(&invite);
    let offered = bob.expect_request("INVITE");
    assert!(offered.0.body.is_empty());
    answer(bob, &offered, 200, "b", &world.bobs.sdp());
    let answered = alice.expect_final(&invite);
    let from_alice = hidden(&answered, &world.engine, &world.bobs);
    let ack = with_sdp(alice.ack(&invite, &answered), &world.alices.sdp());
    alice.send_routed(&ack);
    let acked = bob.expect_request("ACK").0;
    let from_bob = hidden(&acked, &world.engine, &world.alices);
    talk((&world.alices, from_alice), (&world.bobs, from_bob));
    let bye = alice.in_dialog("BYE", 2, &invite, &answered);
    alice.send_routed(&bye);
    let got = bob.expect_request("BYE");
    bob.reply(&got, 200, "OK", "b");
    world.engine.expect_no_calls();
}

/// The session is changed from either end: each offer and each answer crosses the engine.
#[test]
fn the_session_is_changed_from_both_ends() {
    let _shared = shared();
    let mut world = World::new("");
    let call = world.call();
    // Bob moves to another port.
    world.bobs = Party::new(blackbox::machine::fresh_address());
    let reinvite = world
        .bob
        .in_dialog_back("INVITE", 1, &call.offered, &call.bobs)
        .with("Contact", format!("<{}>", world.bob.contact()));
    let reinvite = with_sdp(reinvite, &world.bobs.sdp());
    world.bob.send_routed(&reinvite);
    let offered = world.alice.expect_request("INVITE");
    let from_alice = hidden(&offered.0, &world.engine, &world.bobs);
    answer(&world.alice, &offered, 200, "x", &world.alices.sdp());
    let answered = world.bob.expect_final(&reinvite);
    let from_bob = hidden(&answered, &world.engine, &world.alices);
    let ack = world
        .bob
        .in_dialog_back("ACK", 1, &call.offered, &call.bobs);
    world.bob.send_routed(&ack);
    world.alice.expect_request("ACK");
    talk((&world.alices, from_alice), (&world.bobs, from_bob));
    // Alice does, by an UPDATE.
    world.alices = Party::new(blackbox::machine::fresh_address());
    let update = world
        .alice
        .in_dialog("UPDATE", 2, &call.invite, &call.answered)
        .with("Contact", format!("<{}>", world.alice.contact()));
    let update = with_sdp(update, &world.alices.sdp());
    world.alice.send_routed(&update);
    let offered = world.bob.expect_request("UPDATE");
    let from_bob = hidden(&offered.0, &world.engine, &world.alices);
    answer(&world.bob, &offered, 200, "b", &world.bobs.sdp());
    let answered = world.alice.expect_final(&update);
    let from_alice = hidden(&answered, &world.engine, &world.bobs);
    talk((&world.alices, from_alice), (&world.bobs, from_bob));
    world.hang_up(&call);
    world.engine.expect_no_calls();
}

/// Early media of two phones, each with a tag and ports of its own; the one that answers is heard.
#[test]
fn a_fork_with_early_media() {
    let _shared = shared();
    let world = World::new("");
    let second = world.server.ua("bob");
    let more = second.register_request(600);
    assert_eq!(second.ask(&more).status(), 200);
    let seconds = Party::new(blackbox::machine::fresh_address());
    let (invite, at_first) = world.ring();
    let at_second = second.expect_request("INVITE");
    let from_first = hidden(&at_first.0, &world.engine, &world.alices);
    let from_second = hidden(&at_second.0, &world.engine, &world.alices);
    assert_ne!(from_first, from_second, "a port for each");
    answer(&world.bob, &at_first, 183, "1", &world.bobs.sdp());
    let early = world.alice.expect_status(&invite, 183);
    assert_eq!(early.to_tag().as_deref(), Some("1"));
    let to_first = hidden(&early, &world.engine, &world.bobs);
    talk((&world.alices, to_first), (&world.bobs, from_first));
    answer(&second, &at_second, 183, "2", &seconds.sdp());
    let early = world.alice.expect_status(&invite, 183);
    assert_eq!(early.to_tag().as_deref(), Some("2"));
    let to_second = hidden(&early, &world.engine, &seconds);
    talk((&world.alices, to_second), (&seconds, from_second));
    answer(&second, &at_second, 200, "2", &seconds.sdp());
    let answered = world.alice.expect_final(&invite);
    assert_eq!(hidden(&answered, &world.engine, &seconds), to_second);
    world
        .alice
        .send_routed(&world.alice.ack(&invite, &answered));
    second.expect_request("ACK");
    let cancel = world.bob.expect_request("CANCEL");
    world.bob.reply(&cancel, 200, "OK", "1");
    world.bob.reply(&at_first, 487, "Request Terminated", "1");
    talk((&world.alices, to_second), (&seconds, from_second));
    let bye = world.alice.in_dialog("BYE", 9, &invite, &answered);
    world.alice.send_routed(&bye);
    let got = second.expect_request("BYE");
    second.reply(&got, 200, "OK", "2");
    world.engine.expect_no_calls();
}

/// The answer in a reliable 183, and its PRACK; then an offer in the answer's PRACK.
#[test]
fn reliable_provisional_responses() {
    let _shared = shared();
    let world = World::new("");
    let (alice, bob) = (&world.alice, &world.bob);
    for offer_in_prack in [false, true] {
        let invite = if offer_in_prack {
            without_sdp(alice.invite(&bob.aor()))
        } else {
            with_sdp(alice.invite(&bob.aor()), &world.alices.sdp())
        };
        alice.send(&invite);
        let offered = bob.expect_request("INVITE");
        let mut reliable = offered.0.response(183, "Session Progress", "b");
        reliable.push("Contact", format!("<{}>", bob.contact()));
        reliable.push("Require", "100rel");
        reliable.push("RSeq", "1");
        let reliable = with_sdp(reliable, &world.bobs.sdp());
        bob.peer.send(&reliable, offered.1);
        let early = alice.expect_status(&invite, 183);
        let from_alice = hidden(&early, &world.engine, &world.bobs);
        let mut prack = alice
            .in_dialog("PRACK", 2, &invite, &early)
            .with("RAck", "1 1 INVITE");
        if offer_in_prack {
            prack = with_sdp(prack, &world.alices.sdp());
        }
        alice.send_routed(&prack);
        let got = bob.expect_request("PRACK");
        let from_bob = if offer_in_prack {
            hidden(&got.0, &world.engine, &world.alices)
        } else {
            media_address(&offered.0.body)
        };
        bob.reply(&got, 200, "OK", "b");
        assert_eq!(alice.expect_final(&prack).status(), 200);
        talk((&world.alices, from_alice), (&world.bobs, from_bob));
        bob.reply(&offered, 200, "OK", "b");
        let answered = alice.expect_final(&invite);
        alice.send_routed(&alice.ack(&invite, &answered));
        bob.expect_request("ACK");
        let bye = alice.in_dialog("BYE", 3, &invite, &answered);
        alice.send_routed(&bye);
        let got = bob.expect_request("BYE");
        bob.reply(&got, 200, "OK", "b");
        assert_eq!(alice.expect_final(&bye).status(), 200);
        world.engine.expect_no_calls();
    }
}

/// SDP beside another part, whose bytes stay as they are.
#[test]
fn sdp_in_a_multipart() {
    let _shared = shared();
    let world = World::new("");
    let sdp = world.alices.sdp();
    let mut invite = world.alice.invite(&world.bob.aor());
    invite.set("Content-Type", "multipart/mixed;boundary=\"x y\"");
    let isup =
        b"--x y\r\nContent-Type: application/isup;version=nxv3\r\n\r\n\x01\x00\xff\x80--\r\n";
    let head = b"\r\n--x y\r\nContent-Type: application/sdp\r\n\r\n";
    let tail = b"\r\n--x y--\r\n";
    invite.body = [&isup[..], head, sdp.as_bytes(), tail].concat();
    world.alice.send(&invite);
    let offered = world.bob.expect_request("INVITE");
    hidden(&offered.0, &world.engine, &world.alices);
    let body = &offered.0.body;
    assert!(body.starts_with(isup) && body.ends_with(tail));
    assert_eq!(
        offered.0.first("Content-Type"),
        Some("multipart/mixed;boundary=\"x y\"")
    );
    world.bob.reply(&offered, 486, "Busy Here", "b");
    let busy = world.alice.expect_final(&invite);
    assert_eq!(busy.status(), 486);
    world.alice.send(&world.alice.ack(&invite, &busy));
    world.engine.expect_no_calls();
}

/// However a call ends that was never answered, its ports are freed.
#[test]
fn a_call_that_is_not_answered_frees_its_ports() {
    let _shared = shared();
    let world = World::new("");
    let (invite, offered) = world.ring();
    assert_eq!(world.engine.calls(), [invite.call_id()]);
    world.bob.reply(&offered, 180, "Ringing", "b");
    world.alice.expect_status(&invite, 180);
    world.alice.send(&world.alice.cancel(&invite));
    let cancel = world.bob.expect_request("CANCEL");
    world.bob.reply(&cancel, 200, "OK", "b");
    world.bob.reply(&offered, 487, "Request Terminated", "b");
    world.engine.expect_no_calls();
}
