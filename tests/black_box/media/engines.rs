//! Engines that are not there, that go, that are chosen, and how they speak to each side.

use std::time::Duration;

use blackbox::machine::{eventually, shared};
use blackbox::message::Message;
use blackbox::peer::Peer;
use blackbox::rtpengine::{Engine, Party, media_address};
use blackbox::server::{DEFAULT, LIMIT, Server};
use blackbox::ua::Ua;

use super::{World, answer, config, with_sdp};

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
            let until = match done.load(order) {
                false => next,
                true => std::time::Instant::now() + Duration::from_secs(1),
            };
            Peer::wait_for_any(&[&alice.peer, &bob.peer], until);
        }
        (well, refused, worst)
    };
    std::thread::scope(|scope| {
        let load = scope.spawn(load);
        // One every 5 ms, for two seconds.
        let measure = || {
            let mut took = Vec::new();
            let mut next = std::time::Instant::now();
            for _ in 0..400 {
                next += Duration::from_millis(5);
                took.push(plain_call());
                Peer::wait_for_any(&[], next);
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
