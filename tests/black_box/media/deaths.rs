//! Workers, and the whole server, die in mid-call and in mid-question; calls are hidden, too.

use std::time::Duration;

use blackbox::machine::{eventually, shared};
use blackbox::message::Message;
use blackbox::rtpengine::{Engine, Party, talk};
use blackbox::server::{LIMIT, Server};

use super::{World, answer, config, hidden, with_sdp};

/// Kills every worker that serves, so that no slot has the process that it had.
fn kill_all_workers(server: &Server) {
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
    }
}

#[test]
fn every_worker_dies_in_mid_call() {
    let _shared = shared();
    let mut world = World::new("");
    let call = world.call();
    kill_all_workers(&world.server);
    world.talk(&call);
    // What was known of the call is known: bob's offer goes to the same engine, and alice sees nothing of him.
    world.bobs = Party::new(blackbox::machine::fresh_address());
    let reinvite = world
        .bob
        .in_dialog_back("INVITE", 1, &call.offered, &call.bobs)
        .with("Contact", format!("<{}>", world.bob.contact()));
    let reinvite = with_sdp(reinvite, &world.bobs.sdp());
    world.bob.send_routed(&reinvite);
    let offered = world.alice.expect_request("INVITE");
    let from_alice = hidden(&offered.0, &world.engine, &world.bobs);
    kill_all_workers(&world.server);
    answer(&world.alice, &offered, 200, "x", &world.alices.sdp());
    let answered = world.bob.expect_final(&reinvite);
    let from_bob = hidden(&answered, &world.engine, &world.alices);
    let ack = world
        .bob
        .in_dialog_back("ACK", 1, &call.offered, &call.bobs);
    world.bob.send_routed(&ack);
    world.alice.expect_request("ACK");
    talk((&world.alices, from_alice), (&world.bobs, from_bob));
    assert_eq!(world.engine.calls(), [call.invite.call_id()]);
    world.hang_up(&call);
    world.engine.expect_no_calls();
}

/// Workers die while an offer, an answer and a delete are with an engine that says nothing yet.
#[test]
fn every_worker_dies_in_mid_question() {
    let _shared = shared();
    let world = World::new("timeout = \"10s\"\ndown_after = 100\n");
    let (alice, bob) = (&world.alice, &world.bob);
    world.engine.freeze();
    let invite = with_sdp(alice.invite(&bob.aor()), &world.alices.sdp());
    alice.send(&invite);
    // It is on record, and the question has been sent.
    alice.expect_status(&invite, 100);
    kill_all_workers(&world.server);
    world.server.wait_ready();
    world.engine.thaw();
    let offered = bob.expect_request("INVITE");
    let from_bob = hidden(&offered.0, &world.engine, &world.alices);

    world.engine.freeze();
    let bobs = answer(bob, &offered, 200, "b", &world.bobs.sdp());
    eventually("the answer is with the engine", LIMIT, || {
        (world.server.counter("media.questions") >= 2).then_some(())
    });
    kill_all_workers(&world.server);
    world.server.wait_ready();
    world.engine.thaw();
    // As a phone does for the lack of an ACK (RFC 3261 section 13.3.1.4).
    let answered = eventually("alice hears the answer", LIMIT, || {
        bob.peer.send(&bobs, offered.1);
        let (message, _) = alice.peer.receive(Duration::from_millis(300))?;
        (message.status() == 200).then_some(message)
    });
    let from_alice = hidden(&answered, &world.engine, &world.bobs);
    alice.send_routed(&alice.ack(&invite, &answered));
    bob.expect_request("ACK");
    talk((&world.alices, from_alice), (&world.bobs, from_bob));

    world.engine.freeze();
    let bye = alice.in_dialog("BYE", 9, &invite, &answered);
    alice.send_routed(&bye);
    let got = bob.expect_request("BYE");
    bob.reply(&got, 200, "OK", "b");
    assert_eq!(alice.expect_final(&bye).status(), 200);
    kill_all_workers(&world.server);
    world.server.wait_ready();
    world.engine.thaw();
    world.engine.expect_no_calls();
    eventually("freed", LIMIT, || {
        (world.server.counter("media.freed") == 1).then_some(())
    });
}

/// Calls at a rate, each with an offer and an answer at the engine, while a worker is killed every second: none fails, and the engine is told of every end.
#[test]
fn calls_at_the_engine_while_workers_die() {
    let _alone = blackbox::machine::alone();
    let mut dice = blackbox::storm::Dice::from_environment("media storm");
    let engine = Engine::start();
    let server = Server::start_with(&config(&[engine.address], ""));
    let mut load = crate::load::Load::start(&server, 50, blackbox::either(6, 60), &[]);
    let mut killed = 0;
    load.meanwhile(Duration::from_millis(500), Duration::from_secs(1), || {
        let workers = server.signalling();
        let victim = &workers[dice.below(workers.len())];
        server.kill_worker(victim.pid);
        killed += 1;
    });
    let report = load.end();
    println!(
        "media storm: {killed} deaths, {} retransmissions by the phones, {} calls freed",
        report.retransmissions(),
        server.counter("media.freed")
    );
    report.assert_no_call_failed();
    engine.expect_no_calls();
    assert_eq!(server.counter("media.abandoned"), 0);
    assert_eq!(server.counter("media.rejected"), 0);
}

/// A call that is established outlives the server, and so does what is known of its media.
#[test]
fn the_server_starts_anew_in_mid_call() {
    let _shared = shared();
    let engine = Engine::start();
    let mut server = Server::start_with(&config(&[engine.address], ""));
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    let (alices, bobs) = (Party::new(server.ip), Party::new(server.ip));
    let invite = with_sdp(alice.invite(&bob.aor()), &alices.sdp());
    alice.send(&invite);
    let offered = bob.expect_request("INVITE");
    answer(&bob, &offered, 200, "b", &bobs.sdp());
    let answered = alice.expect_final(&invite);
    alice.send_routed(&alice.ack(&invite, &answered));
    bob.expect_request("ACK");
    server.run(&["stop"]);
    server.wait_exit();
    server.run_again();
    server.wait_ready();
    // Alice moves: her offer goes to the same engine, and bob does not see where she is.
    let moved = Party::new(server.ip);
    let reinvite = alice
        .in_dialog("INVITE", 2, &invite, &answered)
        .with("Contact", format!("<{}>", alice.contact()));
    let reinvite = with_sdp(reinvite, &moved.sdp());
    alice.send_routed(&reinvite);
    let offered = bob.expect_request("INVITE");
    let from_bob = hidden(&offered.0, &engine, &moved);
    answer(&bob, &offered, 200, "b", &bobs.sdp());
    let answered_again = alice.expect_final(&reinvite);
    let from_alice = hidden(&answered_again, &engine, &bobs);
    alice.send_routed(&alice.in_dialog("ACK", 2, &invite, &answered));
    bob.expect_request("ACK");
    talk((&moved, from_alice), (&bobs, from_bob));
    assert_eq!(engine.calls(), [invite.call_id()]);
    let bye = alice.in_dialog("BYE", 3, &invite, &answered);
    alice.send_routed(&bye);
    let got = bob.expect_request("BYE");
    bob.reply(&got, 200, "OK", "b");
    assert_eq!(alice.expect_final(&bye).status(), 200);
    engine.expect_no_calls();
}

/// Calls that are hidden as well: the engine's addresses are all that the sides learn of each other's media, in every place of an offer.
#[test]
fn hidden_calls_with_media() {
    let _shared = shared();
    for mode in ["dialog", "stateless"] {
        let hiding = format!("media = \"relay\"\ntopology_hiding = \"{mode}\"\n");
        let mut world = World::with(|config| config.replace("media = \"relay\"\n", &hiding), "");
        let call = world.call();
        let whole = |message: &Message| String::from_utf8_lossy(&message.to_bytes()).into_owned();
        for (message, party) in [
            (&call.offered, &world.alices),
            (&call.answered, &world.bobs),
        ] {
            let text = whole(message);
            assert!(
                !text.contains(&party.address.ip().to_string()),
                "{mode}: {text}"
            );
        }
        world.talk(&call);
        kill_all_workers(&world.server);
        world.bobs = Party::new(blackbox::machine::fresh_address());
        let reinvite = world
            .bob
            .in_dialog_back("INVITE", 1, &call.offered, &call.bobs)
            .with("Contact", format!("<{}>", world.bob.contact()));
        let reinvite = with_sdp(reinvite, &world.bobs.sdp());
        world.bob.send_routed(&reinvite);
        let offered = world.alice.expect_request("INVITE");
        assert_eq!(offered.0.call_id(), call.invite.call_id(), "{mode}");
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
        world.hang_up(&call);
        world.engine.expect_no_calls();
    }
}
