//! Calls whose media crosses a real rtpengine: RFC 3264 in every place where an offer can be, forks, deaths, and engines that are not there.

use std::net::SocketAddr;
use std::time::Duration;

use blackbox::machine::{eventually, shared};
use blackbox::message::Message;
use blackbox::rtpengine::{Engine, Party, hear_echo, media_address, talk};
use blackbox::server::{DEFAULT, LIMIT, Server};
use blackbox::sipp::{Run, Sipp};
use blackbox::ua::Ua;

use crate::load::register_contact;

/// A server whose calls have these engines.
fn config(engines: &[SocketAddr], more: &str) -> String {
    let engines: Vec<String> = engines
        .iter()
        .map(|engine| format!("{{ address = \"{engine}\" }}"))
        .collect();
    format!(
        "{DEFAULT}media = \"relay\"\n[[media]]\nname = \"relay\"\nengines = [{}]\n{more}\n",
        engines.join(", ")
    )
}

fn with_sdp(mut message: Message, sdp: &str) -> Message {
    message.set("Content-Type", "application/sdp");
    message.body = sdp.as_bytes().to_vec();
    message
}

fn without_sdp(mut message: Message) -> Message {
    message.remove("Content-Type");
    message.body.clear();
    message
}

/// Answers with SDP.
fn answer(ua: &Ua, request: &(Message, SocketAddr), code: u16, tag: &str, sdp: &str) -> Message {
    let mut response = request.0.response(code, "Fine", tag);
    response.push("Contact", format!("<{}>", ua.contact()));
    let response = with_sdp(response, sdp);
    ua.peer.send(&response, request.1);
    response
}

/// Nothing of a party is in a message for the other, and the engine is.
#[track_caller]
fn hidden(message: &Message, engine: &Engine, party: &Party) -> SocketAddr {
    let text = String::from_utf8_lossy(&message.body).into_owned();
    let own = party.address.port().to_string();
    assert!(!text.contains(&own), "{own} in {text}");
    assert!(
        !text.contains(&format!("{}\r\n", party.address.ip())),
        "{} in {text}",
        party.address
    );
    let length = message.first("Content-Length").and_then(|n| n.parse().ok());
    assert_eq!(length, Some(message.body.len()), "{}", message.start);
    let to = media_address(&message.body);
    assert_eq!(to.ip(), engine.ip, "{text}");
    to
}

/// Two users and their media.
struct World {
    engine: Engine,
    server: Server,
    alice: Ua,
    bob: Ua,
    alices: Party,
    bobs: Party,
}

impl World {
    fn new(more: &str) -> Self {
        Self::with(|config| config, more)
    }

    /// One whose configuration is changed before its server starts.
    fn with(change: impl FnOnce(String) -> String, more: &str) -> Self {
        let engine = Engine::start();
        let server = Server::start_with(&change(config(&[engine.address], more)));
        let (alice, bob) = (server.ua("alice"), server.ua("bob"));
        assert_eq!(bob.register(600).status(), 200);
        Self {
            alices: Party::new(blackbox::machine::fresh_address()),
            bobs: Party::new(blackbox::machine::fresh_address()),
            engine,
            server,
            alice,
            bob,
        }
    }

    /// An INVITE of alice with her SDP, as bob gets it.
    fn ring(&self) -> (Message, (Message, SocketAddr)) {
        let invite = with_sdp(self.alice.invite(&self.bob.aor()), &self.alices.sdp());
        self.alice.send(&invite);
        let offered = self.bob.expect_request("INVITE");
        (invite, offered)
    }

    /// A whole call: the INVITE, alice's view of the answer, bob's view of it, and where each sends media.
    fn call(&self) -> Call {
        let (invite, offered) = self.ring();
        let from_bob = hidden(&offered.0, &self.engine, &self.alices);
        let bobs = answer(&self.bob, &offered, 200, "b", &self.bobs.sdp());
        let answered = self.alice.expect_final(&invite);
        assert_eq!(answered.status(), 200);
        let from_alice = hidden(&answered, &self.engine, &self.bobs);
        self.alice.send_routed(&self.alice.ack(&invite, &answered));
        self.bob.expect_request("ACK");
        Call {
            invite,
            answered,
            offered: offered.0,
            bobs,
            from_alice,
            from_bob,
        }
    }

    fn talk(&self, call: &Call) {
        talk((&self.alices, call.from_alice), (&self.bobs, call.from_bob));
    }

    fn hang_up(&self, call: &Call) {
        let bye = self.alice.in_dialog("BYE", 9, &call.invite, &call.answered);
        self.alice.send_routed(&bye);
        let got = self.bob.expect_request("BYE");
        self.bob.reply(&got, 200, "OK", "b");
        assert_eq!(self.alice.expect_final(&bye).status(), 200);
    }
}

struct Call {
    invite: Message,
    answered: Message,
    /// As bob has them.
    offered: Message,
    bobs: Message,
    from_alice: SocketAddr,
    from_bob: SocketAddr,
}

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

/// An engine that is not there, or says nothing: what is configured, within the time that is configured.
#[test]
fn without_an_engine() {
    let _shared = shared();
    for (policy, frozen) in [
        ("reject:480", true),
        ("reject:480", false),
        ("pass", true),
        ("pass", false),
    ] {
        let more = format!("timeout = \"400ms\"\non_failure = \"{policy}\"\n");
        let mut world = World::new(&more);
        if frozen {
            world.engine.freeze();
        } else {
            world.engine.kill();
        }
        for _ in 0..6 {
            let invite = with_sdp(world.alice.invite(&world.bob.aor()), &world.alices.sdp());
            let began = std::time::Instant::now();
            world.alice.send(&invite);
            if policy == "pass" {
                let offered = world.bob.expect_request("INVITE");
                let took = began.elapsed();
                assert!(took < Duration::from_secs(2), "{took:?}");
                assert_eq!(offered.0.body, world.alices.sdp().as_bytes());
                world.bob.reply(&offered, 486, "Busy Here", "b");
            }
            let answer = world.alice.expect_final(&invite);
            assert_eq!(answer.status(), if policy == "pass" { 486 } else { 480 });
            let took = began.elapsed();
            assert!(took < Duration::from_secs(2), "{took:?}");
            world.alice.send(&world.alice.ack(&invite, &answer));
        }
        // Slots judge for themselves; after three failures none of them waits any more.
        let refused = world.server.counter("media.no_engine");
        let silent = world.server.counter("media.silent");
        assert!(silent <= 6, "{silent}");
        let counter = if policy == "pass" {
            "media.passed"
        } else {
            "media.rejected"
        };
        eventually("counted", LIMIT, || {
            (world.server.counter(counter) == 6).then_some(())
        });
        println!("{policy}, frozen {frozen}: {silent} waited, {refused} did not");
    }
}

/// The engine goes between offer and answer.
#[test]
fn an_engine_that_goes_between_offer_and_answer() {
    let _shared = shared();
    let mut world = World::new("timeout = \"400ms\"\n");
    let (invite, offered) = world.ring();
    world.engine.kill();
    answer(&world.bob, &offered, 200, "b", &world.bobs.sdp());
    let answered = world.alice.expect_final(&invite);
    assert_eq!(answered.status(), 200);
    assert!(answered.body.is_empty(), "its SDP is not for alice");
    // Both are told at once that it is over.
    for ua in [&world.alice, &world.bob] {
        let bye = ua.expect_request("BYE");
        ua.reply(&bye, 200, "OK", "x");
    }
    eventually("the call has ended", LIMIT, || {
        (world.server.number("dialogs") == 0).then_some(())
    });
    // It comes back, with no memory of what it is told to free.
    world.engine.run();
    eventually("freed", LIMIT * 2, || {
        (world.server.counter("media.freed") == 1).then_some(())
    });
}

/// Of two engines the one that is well gets the calls, and those that the other had go on there with the next offer.
#[test]
fn two_engines() {
    let _shared = shared();
    let (mut one, two) = (Engine::start(), Engine::start());
    let server = Server::start_with(&config(
        &[one.address, two.address],
        "timeout = \"600ms\"\n",
    ));
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    let party = Party::new(blackbox::machine::fresh_address());
    let ring = || {
        let invite = with_sdp(alice.invite(&bob.aor()), &party.sdp());
        alice.send(&invite);
        let offered = bob.expect_request("INVITE");
        bob.reply(&offered, 486, "Busy Here", "b");
        let answer = alice.expect_final(&invite);
        alice.send(&alice.ack(&invite, &answer));
        media_address(&offered.0.body).ip()
    };
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..40 {
        *seen.entry(ring()).or_insert(0) += 1;
    }
    assert!(
        [one.ip, two.ip].iter().all(|ip| seen[&(*ip).into()] > 5),
        "{seen:?}"
    );
    one.kill();
    for _ in 0..20 {
        assert_eq!(ring(), two.ip);
    }
    two.expect_no_calls();
    one.run();
    eventually("the first one gets calls again", LIMIT, || {
        (ring() == one.ip).then_some(())
    });
    one.expect_no_calls();
}

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

/// The engine stops in mid-load: its calls get what is configured in time, and others do not notice.
#[test]
fn an_engine_stops_in_mid_load() {
    let _alone = blackbox::machine::alone();
    let engine = Engine::start();
    let more = "\n[[domain]]\nname = \"plain.test\"\nauth = \"none\"\n";
    let timeout = "timeout = \"500ms\"\non_failure = \"reject:503\"\n";
    let server = Server::start_with(&config(&[engine.address], &format!("{timeout}{more}")));
    let ua = |user: &str, domain: &str| Ua::new(server.ip, server.address(), user, domain);
    let (carol, dave) = (ua("carol", "plain.test"), ua("dave", "plain.test"));
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    for ua in [&bob, &dave] {
        assert_eq!(ua.register(600).status(), 200);
    }
    // From the INVITE to the failure that the callee answers with.
    let plain_call = || {
        let invite = carol.invite(&dave.aor());
        let began = std::time::Instant::now();
        carol.send(&invite);
        let offered = dave.expect_request("INVITE");
        dave.reply(&offered, 486, "Busy Here", "d");
        let answer = carol.expect_final(&invite);
        let took = began.elapsed();
        assert_eq!(answer.status(), 486);
        carol.send(&carol.ack(&invite, &answer));
        took
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let load = || {
        let order = std::sync::atomic::Ordering::Relaxed;
        let mut open = std::collections::HashMap::new();
        let mut worst = Duration::ZERO;
        let (mut well, mut refused) = (0_u32, 0_u32);
        let mut next = std::time::Instant::now();
        while !done.load(order) || !open.is_empty() {
            if !done.load(order) && std::time::Instant::now() >= next {
                next += Duration::from_millis(5);
                let invite = alice.invite(&bob.aor());
                open.insert(
                    invite.call_id().to_owned(),
                    (invite.clone(), std::time::Instant::now()),
                );
                alice.send(&invite);
            }
            while let Some(offered) = bob.peer.receive_now() {
                if offered.0.method() == "INVITE" {
                    bob.reply(&offered, 486, "Busy Here", "b");
                }
            }
            while let Some((message, _)) = alice.peer.receive_now() {
                if message.status() < 200 {
                    continue;
                }
                if let Some((invite, began)) = open.remove(message.call_id()) {
                    worst = worst.max(began.elapsed());
                    match message.status() {
                        486 => well += 1,
                        503 => refused += 1,
                        other => panic!("{other}"),
                    }
                    alice.send(&alice.ack(&invite, &message));
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        (well, refused, worst)
    };
    std::thread::scope(|scope| {
        let load = scope.spawn(load);
        // One every 5 ms, for two seconds.
        let measure = || {
            let mut took = Vec::new();
            for _ in 0..400 {
                took.push(plain_call());
                std::thread::sleep(Duration::from_millis(5));
            }
            took.sort_unstable();
            (took[200], took[395])
        };
        let before = measure();
        engine.freeze();
        let limit = Duration::from_millis(100);
        let (median, p99) = blackbox::stalls::undisturbed(limit, || {
            let measured = measure();
            assert!(measured.1 < limit, "{measured:?}");
            measured
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let (well, refused, worst) = load.join().expect("the load");
        println!(
            "engine stopped: calls without media {before:?} before, {median:?} (p99 {p99:?}) after; of those with media {well} went, {refused} were refused, the slowest after {worst:?}"
        );
        assert!(well > 0 && refused > 0, "{well}, {refused}");
        assert!(worst < Duration::from_millis(1500), "{worst:?}");
    });
    engine.thaw();
    engine.expect_no_calls();
}

/// A rule goes before its group, that before the domain; who is chosen by none of them has no engine.
#[test]
fn who_chooses_the_engines() {
    let _shared = shared();
    let engines = [Engine::start(), Engine::start(), Engine::start()];
    let sets: String = ["of-domain", "of-group", "of-rule"]
        .iter()
        .zip(&engines)
        .map(|(name, engine)| {
            let address = engine.address;
            format!("[[media]]\nname = \"{name}\"\nengines = [{{ address = \"{address}\" }}]\n")
        })
        .collect();
    let server = Server::start();
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    let to = bob.peer.address;
    server.write_config(&format!(
        "{DEFAULT}media = \"of-domain\"\n{sets}[[domain]]\nname = \"plain.test\"\nauth = \"none\"\n\
         [[group]]\nname = \"out\"\ndestinations = [{{ uri = \"sip:{to}\" }}]\nmedia = \"of-group\"\n\
         [[route]]\nmatch = {{ user = \"^7\" }}\nto = \"uri:sip:{to}\"\n\
         [[route]]\nmatch = {{ user = \"^8\" }}\nto = \"group:out\"\n\
         [[route]]\nmatch = {{ user = \"^9\" }}\nto = \"group:out\"\nmedia = \"of-rule\"\n"
    ));
    server.run(&["reload"]);
    let party = Party::new(blackbox::machine::fresh_address());
    let relay_of = |uri: &str, caller: &str| {
        let mut invite = with_sdp(alice.invite(uri), &party.sdp());
        let tag = invite.from_tag().unwrap_or_default();
        invite.set("From", format!("<sip:alice@{caller}>;tag={tag}"));
        alice.send(&invite);
        let offered = bob.expect_request("INVITE");
        bob.reply(&offered, 486, "Busy Here", "b");
        let answer = alice.expect_final(&invite);
        alice.send(&alice.ack(&invite, &answer));
        media_address(&offered.0.body).ip()
    };
    let expected = [
        ("sip:71@example.test", "example.test", engines[0].ip),
        // Of nobody here, called by one of ours.
        ("tel:71", "example.test", engines[0].ip),
        ("sip:71@plain.test", "plain.test", party_ip(&party)),
        ("sip:81@plain.test", "plain.test", engines[1].ip),
        ("sip:81@example.test", "example.test", engines[1].ip),
        ("sip:91@example.test", "example.test", engines[2].ip),
    ];
    for (uri, caller, ip) in expected {
        assert_eq!(relay_of(uri, caller), ip, "{uri} by {caller}");
    }
    for engine in &engines {
        engine.expect_no_calls();
    }
}

fn party_ip(party: &Party) -> std::net::Ipv4Addr {
    match party.address.ip() {
        std::net::IpAddr::V4(ip) => ip,
        std::net::IpAddr::V6(ip) => panic!("{ip}"),
    }
}

/// Each side is spoken to as it is configured, whoever offers.
#[test]
fn two_sides() {
    let _shared = shared();
    let (outside, inside) = (
        blackbox::machine::fresh_address(),
        blackbox::machine::fresh_address(),
    );
    let engine = Engine::start_at(&[format!("out/{outside}"), format!("in/{inside}")]);
    let sides = "caller = { interface = \"out\", ice = \"force\" }\ncallee = { interface = \"in\", ice = \"remove\" }\n";
    let server = Server::start_with(&config(&[engine.address], sides));
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    let (alices, bobs) = (Party::new(server.ip), Party::new(server.ip));
    let ice = format!(
        "{}a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=candidate:1 1 UDP 2130706431 {} {} typ host\r\n",
        alices.sdp(),
        alices.address.ip(),
        alices.address.port()
    );
    let candidates = |message: &Message| {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        text.matches("a=candidate").count()
    };
    let invite = with_sdp(alice.invite(&bob.aor()), &ice);
    alice.send(&invite);
    let offered = bob.expect_request("INVITE");
    assert_eq!(media_address(&offered.0.body).ip(), inside);
    assert_eq!(candidates(&offered.0), 0);
    let bobs_answer = answer(&bob, &offered, 200, "b", &bobs.sdp());
    let answered = alice.expect_final(&invite);
    assert_eq!(media_address(&answered.body).ip(), outside);
    assert!(candidates(&answered) > 0);
    alice.send_routed(&alice.ack(&invite, &answered));
    bob.expect_request("ACK");
    // The callee offers.
    let reinvite = bob
        .in_dialog_back("INVITE", 1, &offered.0, &bobs_answer)
        .with("Contact", format!("<{}>", bob.contact()));
    let reinvite = with_sdp(reinvite, &bobs.sdp());
    bob.send_routed(&reinvite);
    let offered_back = alice.expect_request("INVITE");
    assert_eq!(media_address(&offered_back.0.body).ip(), outside);
    assert!(candidates(&offered_back.0) > 0);
    answer(&alice, &offered_back, 200, "x", &ice);
    let answered_back = bob.expect_final(&reinvite);
    assert_eq!(media_address(&answered_back.body).ip(), inside);
    assert_eq!(candidates(&answered_back), 0);
    bob.send_routed(&bob.in_dialog_back("ACK", 1, &offered.0, &bobs_answer));
    alice.expect_request("ACK");
    let bye = alice.in_dialog("BYE", 9, &invite, &answered);
    alice.send_routed(&bye);
    let got = bob.expect_request("BYE");
    bob.reply(&got, 200, "OK", "b");
    engine.expect_no_calls();
}

/// Calls at a rate, each with an offer and an answer at the engine, while a worker is killed every second: none fails, and the engine is told of every end.
#[test]
fn calls_at_the_engine_while_workers_die() {
    let _alone = blackbox::machine::alone();
    let mut dice = blackbox::storm::Dice::from_environment("media storm");
    let engine = Engine::start();
    let server = Server::start_with(&config(&[engine.address], ""));
    let mut load = crate::load::Load::start(&server, 50, blackbox::either(6, 60), &[]);
    let mut next = std::time::Instant::now() + Duration::from_millis(500);
    let mut killed = 0;
    while !load.is_over() {
        if std::time::Instant::now() >= next {
            next += Duration::from_secs(1);
            let workers = server.signalling();
            let victim = &workers[dice.below(workers.len())];
            server.kill_worker(victim.pid);
            killed += 1;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
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
