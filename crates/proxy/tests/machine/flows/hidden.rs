//! Hidden calls: everything goes as it would if nothing were hidden, and nobody learns anything of anybody else.

use expect_test::expect;
use topology::Mode;

use crate::world::{World, agent};

const MODES: [Mode; 2] = [Mode::Dialog, Mode::Stateless];

/// What tells where somebody is, and nothing else.
fn marks(name: &str, address: &str) -> Vec<String> {
    vec![
        address.split(':').next().unwrap().to_owned(),
        format!("z9hG4bK-{name}-"),
        format!("{name}-1.r"),
        format!("{name}-2.r"),
        format!("{name}.inside.net"),
    ]
}

/// Fails if anybody got a mark of somebody else.
#[track_caller]
pub fn nobody_learns(world: &World) {
    for wire in &world.sent {
        let is_of = |agent: &agent::Agent| {
            agent.source.ip() == wire.to.ip() || agent.address.ip() == wire.to.ip()
        };
        let user = world.agents.iter().find(|agent| is_of(agent));
        let others = world
            .agents
            .iter()
            .filter(|other| user.is_none_or(|user| user.user() != other.user()))
            .flat_map(|other| marks(other.name, &other.address.to_string()))
            .collect::<Vec<_>>();
        let leaks = topology::leak::find(wire.text.as_bytes(), &others);
        assert!(leaks.is_empty(), "{leaks:?} to {}:\n{}", wire.to, wire.text);
    }
}

/// Plays a script with nothing hidden and with calls hidden in either mode: the logs are the same.
#[track_caller]
fn same(script: &str) {
    let play = |mode| {
        let mut world = World::new(1);
        world.policy.hide = mode;
        let log = world.play(script);
        (world, log)
    };
    let (_, plain) = play(None);
    for mode in MODES {
        let (world, log) = play(Some(mode));
        assert_eq!(plain, log, "{mode:?}");
        nobody_learns(&world);
        assert!(world.sent.iter().any(|wire| wire.text.contains("th-")));
    }
}

#[test]
fn a_call() {
    same(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org / From: <sip:alice@alice.inside.net>;tag=alice / X-Who: alice.inside.net / X-Call: alice-1.r0
        bob: 180
        bob: 200 / Server: bob.inside.net
        bob: again 200
        alice: ACK
        bob: BYE .
        alice: 200
        bob: again BYE
        +40s
        ",
    );
}

#[test]
fn a_call_that_the_caller_ends() {
    same(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        alice: again
        bob: 200
        alice: ACK
        alice: INFO .
        bob: 200
        alice: BYE .
        bob: 200
        alice: again BYE
        ",
    );
}

#[test]
fn refusals_and_cancels() {
    same(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 486 / Warning: 399 bob.inside.net \"10.0.0.2\"
        bob: again 486
        alice: ACK
        carol: INVITE sip:bob@example.org
        bob: 180
        carol: CANCEL
        bob: 200 CANCEL
        bob: 487 INVITE
        carol: ACK
        trunk: INVITE sip:nobody@example.org
        trunk: ACK
        ",
    );
}

#[test]
fn silence() {
    same(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        +40s
        alice: ACK
        alice: OPTIONS sip:bob@example.org
        +40s
        ",
    );
}

#[test]
fn early_media_of_several() {
    same(
        "
        bob: REGISTER & bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 183 & bob2: 183
        alice: PRACK .
        bob2: 200 PRACK
        bob: 200 INVITE
        alice: ACK
        bob2: 200 CANCEL
        bob2: 487 INVITE
        alice: BYE .
        bob: 200
        ",
    );
}

#[test]
fn two_that_answer() {
    same(
        "
        bob: REGISTER & bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        bob2: 200 INVITE
        alice: ACK
        bob2: BYE .
        alice: 200
        bob: BYE .
        alice: 200
        ",
    );
}

#[test]
fn targets_move_from_either_side() {
    for mode in MODES {
        let mut world = World::new(1);
        world.policy.hide = Some(mode);
        world.play(
            "
            bob: REGISTER
            alice: INVITE sip:bob@example.org
            bob: 200
            alice: ACK
            ",
        );
        let log = world
            .play("alice: INVITE . / Contact: <sip:alice@10.0.0.1:7777>\nbob: 200\nalice: ACK");
        assert!(log.contains("bob < ACK sip:"), "{log}");
        // bob has the new target from the re-INVITE, and his Route set from the first one.
        let got = |world: &mut World, newest: bool| {
            let inbox = &world.agent("bob").inbox;
            let mut found = inbox.iter().filter(|text| text.starts_with("INVITE "));
            let text = if newest {
                found.next_back()
            } else {
                found.next()
            };
            text.unwrap().clone()
        };
        let (first, newest) = (got(&mut world, false), got(&mut world, true));
        let uri = agent::header(&newest, "Contact").trim_matches(['<', '>']);
        let routes: String = agent::headers(&first, "Record-Route")
            .iter()
            .map(|route| format!(" / Route: {route}"))
            .collect();
        let log = world.play(&format!(
            "bob: INVITE {uri} / Call-ID: {} / From: <sip:bob@example.org>;tag=bob / To: <sip:alice@example.org>;tag=alice{routes}",
            agent::header(&newest, "Call-ID"),
        ));
        assert!(log.contains("INVITE sip:alice@10.0.0.1:7777"), "{log}");
        nobody_learns(&world);
    }
}

/// Through the caller's proxy, and by two listeners of ours.
#[test]
fn route_sets_of_both_sides_are_followed() {
    for mode in MODES {
        let mut world = World::new(1);
        world.policy.hide = Some(mode);
        world
            .policy
            .hosts
            .insert("trunk.example.net", vec!["10.0.0.9:5060".parse().unwrap()]);
        let log = world.play(
            "
            open
            show Route
            iris: INVITE sip:trunk@trunk.example.net / Record-Route: <sip:10.1.0.1:5060;lr;p=1>
            trunk: 180 / Record-Route: <sip:10.0.0.9:5060;lr;p=2>
            ",
        );
        assert!(
            log.contains("trunk < INVITE sip:trunk@trunk.example.net"),
            "{log}"
        );
        let log = world.play("trunk: 200 INVITE");
        assert!(log.contains("iris < 200"), "{log}");
        let log = world.play(
            "
            show Route
            trunk: INVITE .
            iris: 200
            trunk: BYE .
            iris: 200
            ",
        );
        assert!(
            log.contains("iris < INVITE sip:iris@10.1.0.1:5060"),
            "{log}"
        );
        assert!(log.contains("Route: <sip:10.1.0.1:5060;lr;p=1>"), "{log}");
        assert!(log.contains("trunk < 200 BYE"), "{log}");
        nobody_learns(&world);
    }
}

#[test]
fn other_requests() {
    same(
        "
        bob: REGISTER
        alice: MESSAGE sip:bob@example.org
        bob: 200
        alice: SUBSCRIBE sip:bob@example.org / Event: presence
        bob: 200
        alice: OPTIONS sip:bob@example.org
        bob: 404
        ",
    );
}

#[test]
fn a_busy_hop_and_the_next_one() {
    for mode in MODES {
        let mut world = World::new(1);
        world.policy.hide = Some(mode);
        world.policy.targets.insert(
            "bob",
            vec![proxy::Target {
                backups: vec![proxy::Backup::uri("sip:10.0.0.3:5060")],
                ..proxy::Target::next_hop("sip:10.0.0.2:5060")
            }],
        );
        let log = world.play(
            "
            alice: INVITE sip:bob@example.org
            bob: 503
            bob2: 200
            alice: ACK
            bob2: BYE .
            alice: 200
            ",
        );
        assert!(log.contains("bob2 < ACK"), "{log}");
        assert!(log.contains("alice < BYE"), "{log}");
        nobody_learns(&world);
    }
}

#[test]
fn a_redirection_leads_to_a_hidden_contact() {
    for mode in MODES {
        let mut world = World::new(1);
        world.policy.hide = Some(mode);
        world.play(
            "
            bob: REGISTER & bob2: REGISTER
            alice: INVITE sip:bob@example.org
            bob: 302 / Contact: <sip:carol@10.0.0.5:5060>
            bob2: 301 INVITE / Contact: <sip:carol@10.0.0.5:5060>;q=0.5, <sip:bob@example.org>
            alice: ACK
            ",
        );
        let moved = world.agent("alice").inbox.last().unwrap().clone();
        assert!(moved.starts_with("SIP/2.0 30"), "{moved}");
        let contacts = agent::headers(&moved, "Contact");
        assert_eq!(contacts.len(), 3, "{moved}");
        assert!(contacts.contains(&"<sip:bob@example.org>"), "{moved}");
        let uri = contacts[0].split(['<', '>']).nth(1).unwrap().to_owned();
        let log = world.play(&format!(
            "alice: INVITE {uri}\ncarol: 200\nalice: ACK\ncarol: BYE .\nalice: 200"
        ));
        assert!(
            log.contains("carol < INVITE sip:carol@10.0.0.5:5060"),
            "{log}"
        );
        assert!(log.contains("carol < 200 BYE"), "{log}");
        nobody_learns(&world);
    }
}

/// The caller sends the callee to a third party that it has another call with (RFC 5589 §7).
#[test]
fn an_attended_transfer() {
    for mode in MODES {
        for carol_called in [false, true] {
            let mut world = World::new(1);
            world.policy.hide = Some(mode);
            world.play(
                "
                bob: REGISTER & carol: REGISTER & alice: REGISTER
                alice: INVITE sip:bob@example.org
                bob: 200
                alice: ACK
                ",
            );
            // The newest dialog is the one that agents go on with.
            let first_of_alice = world.agent("alice").inbox.len();
            let (to, from) = if carol_called {
                world.play("carol: INVITE sip:alice@example.org\nalice: 200\ncarol: ACK");
                let invite = world.agent("alice").inbox[first_of_alice..]
                    .iter()
                    .find(|text| text.starts_with("INVITE "))
                    .unwrap()
                    .clone();
                (invite, "alice")
            } else {
                world.play("alice: INVITE sip:carol@example.org\ncarol: 200\nalice: ACK");
                let ok = world.agent("alice").inbox[first_of_alice..]
                    .iter()
                    .find(|text| text.starts_with("SIP/2.0 200") && text.contains("INVITE"))
                    .unwrap()
                    .clone();
                (ok, "alice")
            };
            let contact = agent::header(&to, "Contact")
                .trim_matches(['<', '>'])
                .to_owned();
            let call_id = agent::header(&to, "Call-ID").to_owned();
            let refer_to = format!(
                "Refer-To: <{contact}?Replaces={call_id}%3Bto-tag%3Dcarol%3Bfrom-tag%3D{from}>"
            );
            // Back to the dialog with bob.
            world.agent("alice").inbox.truncate(first_of_alice);
            let log = world.play(&format!("alice: REFER . / {refer_to}\nbob: 202"));
            assert!(log.contains("bob < REFER"), "{log}");
            let refer = world
                .agent("bob")
                .inbox
                .iter()
                .rev()
                .find(|text| text.starts_with("REFER "))
                .unwrap()
                .clone();
            let told = agent::header(&refer, "Refer-To")
                .trim_matches(['<', '>'])
                .to_owned();
            let (uri, replaces) = told.split_once("?Replaces=").unwrap();
            let replaces = replaces
                .split('&')
                .next()
                .unwrap()
                .replace("%3B", ";")
                .replace("%3D", "=");
            let log = world.play(&format!(
                "bob: NOTIFY . / Event: refer / Content-Type: message/sipfrag / body SIP/2.0 100 Trying at 10.0.0.2\n\
                 alice: 200\nbob: INVITE {uri} / Replaces: {replaces}"
            ));
            assert!(
                log.contains("carol < INVITE sip:carol@10.0.0.5:5060"),
                "{log}"
            );
            let invite = world.agent("carol").inbox.last().unwrap().clone();
            // What carol knows the call as.
            let known = if carol_called {
                let sent = world
                    .agent("carol")
                    .sent
                    .iter()
                    .find(|text| text.starts_with("INVITE "))
                    .unwrap()
                    .clone();
                agent::header(&sent, "Call-ID").to_owned()
            } else {
                let got = world
                    .agent("carol")
                    .inbox
                    .iter()
                    .find(|text| text.starts_with("INVITE "))
                    .unwrap()
                    .clone();
                agent::header(&got, "Call-ID").to_owned()
            };
            assert_eq!(
                agent::header(&invite, "Replaces"),
                format!("{known};to-tag=carol;from-tag={from}"),
                "{mode:?}, carol called: {carol_called}"
            );
            nobody_learns(&world);
        }
    }
}

/// Everything of calls is lost but the keys.
#[test]
fn stateless_calls_need_no_record() {
    let mut world = World::new(1);
    world.policy.hide = Some(Mode::Stateless);
    world.play(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        ",
    );
    world.forget_dialogs();
    let log = world.play(
        "
        alice: INVITE .
        bob: 200
        alice: ACK
        bob: INFO .
        alice: 200
        alice: BYE .
        bob: 200
        ",
    );
    assert!(log.contains("bob < BYE sip:bob@10.0.0.2:5060"), "{log}");
    assert!(
        log.contains("alice < INFO sip:alice@10.0.0.1:5060"),
        "{log}"
    );
    assert!(log.matches("alice < 200").count() >= 2, "{log}");
    nobody_learns(&world);
}

/// A late answer whose transaction is gone finds its way by our Via alone.
#[test]
fn stateless_answers_need_no_transaction() {
    let mut world = World::new(1);
    world.policy.hide = Some(Mode::Stateless);
    world.play(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        +40s
        ",
    );
    let log = world.play("bob: again 200");
    assert!(log.contains("alice < 200 INVITE"), "{log}");
    let late = world.agent("alice").inbox.last().unwrap().clone();
    let first = world
        .agent("alice")
        .inbox
        .iter()
        .find(|text| text.starts_with("SIP/2.0 200"))
        .unwrap()
        .clone();
    assert_eq!(agent::header(&late, "Via"), agent::header(&first, "Via"));
    assert_eq!(
        agent::header(&late, "Call-ID"),
        agent::header(&first, "Call-ID")
    );
    nobody_learns(&world);
}

/// A request within a hidden call whose record is gone, and one that is made up.
#[test]
fn what_is_lost_or_forged_is_refused() {
    let mut world = World::new(1);
    world.policy.hide = Some(Mode::Dialog);
    world.play(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        ",
    );
    world.forget_dialogs();
    let log = world.play("alice: BYE .");
    assert!(log.contains("alice < 481 BYE"), "{log}");
    let log = world.play("carol: BYE sip:th-AAAA@10.9.9.9:5060 / To: <sip:x@y>;tag=1");
    assert!(!log.contains("bob <"), "{log}");
}

/// Our own BYEs and probes are hidden as well.
#[test]
fn requests_of_our_own() {
    for mode in MODES {
        let mut world = World::new(1);
        world.policy.hide = Some(mode);
        world.policy.class.duration_max = Some(std::time::Duration::from_secs(60));
        world.policy.class.probe = Some(proxy::DialogProbe {
            interval: std::time::Duration::from_secs(10),
            failures_max: 9,
        });
        let log = world.play(
            "
            bob: REGISTER
            alice: INVITE sip:bob@example.org / From: <sip:alice@alice.inside.net>;tag=alice
            bob: 200
            alice: ACK
            +11s
            alice: 200 & bob: 200
            alice: INFO .
            bob: 200
            +55s
            ",
        );
        for line in [
            "alice < OPTIONS",
            "bob < OPTIONS",
            "alice < BYE",
            "bob < BYE",
            "bob < INFO",
        ] {
            assert!(log.contains(line), "{line} in {log}");
        }
        nobody_learns(&world);
        let of_bob = |world: &mut World, begins: &str| {
            let inbox = &world.agent("bob").inbox;
            let text = inbox.iter().find(|text| text.starts_with(begins)).unwrap();
            (
                agent::header(text, "Call-ID").to_owned(),
                agent::header(text, "From").to_owned(),
            )
        };
        let invite = of_bob(&mut world, "INVITE ");
        assert_eq!(of_bob(&mut world, "BYE "), invite);
        assert_eq!(of_bob(&mut world, "OPTIONS "), invite);
    }
}

/// The caller hears of it, and the callee hears that there is no call, as often as it repeats its answer.
#[test]
fn a_2xx_that_is_too_long_ends_the_call_both_ways() {
    let long = "x".repeat(topology::SEALED_BYTES_MAX);
    for mode in MODES {
        let mut world = World::new(1);
        world.policy.hide = Some(mode);
        let log = world.play(&format!(
            "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200 / Contact: <sip:{long}@10.0.0.2>
        alice: ACK
        bob: again 200
        bob: 200 BYE
        +40s
        "
        ));
        expect![[r#"
        bob: REGISTER
            bob < 200 REGISTER
        alice: INVITE sip:bob@example.org
            bob < INVITE sip:bob@10.0.0.2:5060
            alice < 100 INVITE
        bob: 200 / Contact: <sip:LONG@10.0.0.2>
            bob < ACK sip:LONG@10.0.0.2
            bob < BYE sip:LONG@10.0.0.2
            alice < 500 INVITE
        alice: ACK
        bob: again 200
            bob < ACK sip:LONG@10.0.0.2 again
            bob < BYE sip:LONG@10.0.0.2 again
        bob: 200 BYE
        +40s
    "#]]
        .assert_eq(&log.replace(&long, "LONG"));
        nobody_learns(&world);
    }
}

/// The same where nothing is left of the request but what our Via says of it.
#[test]
fn a_late_2xx_that_is_too_long_ends_the_call_both_ways() {
    let long = "x".repeat(topology::SEALED_BYTES_MAX);
    let mut world = World::new(1);
    world.policy.hide = Some(Mode::Stateless);
    world.play(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        +100s
        ",
    );
    let log = world.play(&format!("bob: 200 / Contact: <sip:{long}@10.0.0.2>"));
    expect![[r#"
        bob: 200 / Contact: <sip:LONG@10.0.0.2>
            bob < ACK sip:LONG@10.0.0.2
            bob < BYE sip:LONG@10.0.0.2
            alice < 500 INVITE
    "#]]
    .assert_eq(&log.replace(&long, "LONG"));
    nobody_learns(&world);
}

/// A 2xx with the name of another call, in the mode that goes by it.
#[test]
fn a_2xx_with_another_call_id_ends_the_call_both_ways() {
    let mut world = World::new(1);
    world.policy.hide = Some(Mode::Stateless);
    let log = world.play(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200 / Call-ID: another
        alice: ACK
        +40s
        ",
    );
    expect![[r#"
        bob: REGISTER
            bob < 200 REGISTER
        alice: INVITE sip:bob@example.org
            bob < INVITE sip:bob@10.0.0.2:5060
            alice < 100 INVITE
        bob: 200 / Call-ID: another
            bob < ACK sip:bob@10.0.0.2:5060
            bob < BYE sip:bob@10.0.0.2:5060
            alice < 500 INVITE
        alice: ACK
        +40s
    "#]]
    .assert_eq(&log);
    nobody_learns(&world);
}
