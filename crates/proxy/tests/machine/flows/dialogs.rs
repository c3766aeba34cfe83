//! Calls on record: limits, forks, seats, what phones leave out (RFC 3261 §12). What time and the operator want of them is in `ending`.

use std::time::Duration;

use expect_test::expect;
use proxy::{Backup, DialogProbe, SessionTimer, Target};
use tables::{
    Balancer,
    balancer::{Resource, ResourceKey},
};

use super::check_in;
use crate::world::World;

pub fn world(prepare: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(1);
    prepare(&mut world);
    world
}

pub fn timed(world: &mut World) {
    world.policy.class.session = Some(SessionTimer {
        expires_s: 300,
        min_s: 120,
    });
}

pub fn probed(world: &mut World) {
    world.policy.class.probe = Some(DialogProbe {
        interval: Duration::from_secs(60),
        failures_max: 2,
    });
}

pub fn short(world: &mut World) {
    world.policy.class.duration_max = Some(Duration::from_secs(100));
}

/// A group of two, with room for one call each.
pub fn group(world: &mut World) {
    let participant = &mut world.slots[0].participant;
    let mut places = ["sip:10.0.0.5", "sip:10.0.0.9"].map(|uri| {
        let key = ResourceKey::destination(b"media", uri.as_bytes());
        let resource = Balancer(participant)
            .ensure(&key, &Resource::default())
            .unwrap();
        Backup {
            uri: uri.into(),
            destination: Some(proxy::Destination {
                resource,
                limit: Some(1),
            }),
        }
    });
    let [first, second] = &mut places;
    let target = Target {
        destination: first.destination,
        backups: vec![second.clone()],
        ..Target::next_hop(std::mem::take(&mut first.uri))
    };
    world.policy.targets.insert("media", vec![target]);
}

#[test]
fn a_call_on_record() {
    check_in(
        &mut World::new(1),
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        calls
        bob: 180
        bob: 200
        calls
        alice: ACK
        alice: INFO .
        bob: 200
        alice: INVITE . / Contact: <sip:alice@10.0.0.4:5060>
        calls
        bob: 200 / Contact: <sip:bob@10.0.0.5:5060>
        alice: ACK
        calls
        bob: INFO .
        bob: BYE .
        bob3: 200
        calls
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            calls
                Early alice-1 sip:alice@10.0.0.1:5060 1 ->  0
            bob: 180
                alice < 180 INVITE
            bob: 200
                alice < 200 INVITE
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            alice: INFO .
                bob < INFO sip:bob@10.0.0.2:5060
            bob: 200
                alice < 200 INFO
            alice: INVITE . / Contact: <sip:alice@10.0.0.4:5060>
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            calls
                Confirmed alice-1 sip:alice@10.0.0.4:5060 104 -> sip:bob@10.0.0.2:5060 0
            bob: 200 / Contact: <sip:bob@10.0.0.5:5060>
                alice < 200 INVITE
            alice: ACK
                carol < ACK sip:bob@10.0.0.5:5060
            calls
                Confirmed alice-1 sip:alice@10.0.0.4:5060 104 -> sip:bob@10.0.0.5:5060 0
            bob: INFO .
                alice < INFO sip:alice@10.0.0.1:5060
            bob: BYE .
                bob3 < BYE sip:alice@10.0.0.4:5060
            bob3: 200
                bob < 200 BYE
            calls
        "#]],
    );
}

#[test]
fn over_the_limit() {
    check_in(
        &mut world(|world| world.policy.calls_max = Some(1)),
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        alice: again INVITE
        carol: INVITE sip:bob@example.org
        carol: ACK
        bob: 486
        alice: ACK
        carol: INVITE sip:bob@example.org
        carol: CANCEL
        bob: 180
        bob: 200 CANCEL & bob: 487 INVITE
        carol: ACK
        trunk: INVITE sip:bob@example.org
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            alice: again INVITE
                alice < 100 INVITE again
            carol: INVITE sip:bob@example.org
                carol < 486 INVITE
            carol: ACK
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 486 INVITE
            alice: ACK
            carol: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                carol < 100 INVITE
            carol: CANCEL
                carol < 200 CANCEL
            bob: 180
                bob < CANCEL sip:bob@10.0.0.2:5060
                carol < 180 INVITE
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
                carol < 487 INVITE
            carol: ACK
            trunk: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                trunk < 100 INVITE
            count
                messages.requests 10
                messages.responses 4
                proxy.forwarded 3
                proxy.response_retransmitted 1
                proxy.request_absorbed 5
                proxy.response_forwarded 3
                proxy.response_absorbed 1
                proxy.cancelled 1
                transactions.created 3
                registrar.updated 1
                dialogs.created 3
                dialogs.ended 2
                dialogs.refused 1
        "#]],
    );
}

#[test]
fn two_phones_answer() {
    check_in(
        &mut World::new(1),
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        bob2: 200
        alice: ACK
        calls
        bob2: BYE .
        alice: 200
        calls
        bob: BYE .
        alice: 200
        calls
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            bob2: REGISTER
                bob2 < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            bob2: 200
                alice < 200 INVITE
            alice: ACK
                bob2 < ACK sip:bob@10.0.0.3:5060
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.3:5060 0
            bob2: BYE .
                alice < BYE sip:alice@10.0.0.1:5060
            alice: 200
                bob2 < 200 BYE
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.3:5060 0
            bob: BYE .
                alice < BYE sip:alice@10.0.0.1:5060
            alice: 200
                bob < 200 BYE
            calls
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.3:5060 0
        "#]],
    );
}

#[test]
fn seats_at_destinations() {
    check_in(
        &mut world(group),
        "
        alice: INVITE sip:media@example.org
        carol: 503
        trunk: 200
        alice: ACK
        calls
        bob: INVITE sip:media@example.org
        bob2: INVITE sip:media@example.org
        bob2: ACK
        carol: 200
        bob: ACK
        calls
        alice: BYE .
        trunk: 200
        iris: INVITE sip:media@example.org
        trunk: 486
        iris: ACK
        bob3: INVITE sip:media@example.org
        +5s
        trunk: 180
        trunk: 200
        bob3: ACK
        calls
        carol: BYE .
        bob: 200
        trunk: BYE .
        bob3: 200
        calls
        count
        ",
        expect![[r#"
            alice: INVITE sip:media@example.org
                carol < INVITE sip:media@example.org
                alice < 100 INVITE
            carol: 503
                carol < ACK sip:media@example.org
                trunk < INVITE sip:media@example.org
            trunk: 200
                alice < 200 INVITE
            alice: ACK
                trunk < ACK sip:trunk@10.0.0.9:5060
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:trunk@10.0.0.9:5060 0 at media sip:10.0.0.9
            bob: INVITE sip:media@example.org
                carol < INVITE sip:media@example.org
                bob < 100 INVITE
            bob2: INVITE sip:media@example.org
                bob2 < 503 INVITE
            bob2: ACK
            carol: 200
                bob < 200 INVITE
            bob: ACK
                carol < ACK sip:carol@10.0.0.5:5060
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:trunk@10.0.0.9:5060 0 at media sip:10.0.0.9
                Confirmed bob-1 sip:bob@10.0.0.2:5060 1 -> sip:carol@10.0.0.5:5060 0 at media sip:10.0.0.5
            alice: BYE .
                trunk < BYE sip:trunk@10.0.0.9:5060
            trunk: 200
                alice < 200 BYE
            iris: INVITE sip:media@example.org
                trunk < INVITE sip:media@example.org by 2
                iris < 100 INVITE by 2
            trunk: 486
                trunk < ACK sip:media@example.org by 2
                iris < 486 INVITE by 2
            iris: ACK
            bob3: INVITE sip:media@example.org
                trunk < INVITE sip:media@example.org
                bob3 < 100 INVITE
            +5s
                0.5s: trunk < INVITE sip:media@example.org again
                1.5s: trunk < INVITE sip:media@example.org again
                3.5s: trunk < INVITE sip:media@example.org again
            trunk: 180
                bob3 < 180 INVITE
            trunk: 200
                bob3 < 200 INVITE
            bob3: ACK
                trunk < ACK sip:trunk@10.0.0.9:5060
            calls
                Confirmed bob-1 sip:bob@10.0.0.2:5060 1 -> sip:carol@10.0.0.5:5060 0 at media sip:10.0.0.5
                Confirmed bob3-1 sip:bob@10.0.0.4:5060 1 -> sip:trunk@10.0.0.9:5060 0 at media sip:10.0.0.9
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:trunk@10.0.0.9:5060 0 at media sip:10.0.0.9
            carol: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 200
                carol < 200 BYE
            trunk: BYE .
                bob3 < BYE sip:bob@10.0.0.4:5060
            bob3: 200
                trunk < 200 BYE
            calls
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:trunk@10.0.0.9:5060 0 at media sip:10.0.0.9
                Ended bob3-1 sip:bob@10.0.0.4:5060 1 -> sip:trunk@10.0.0.9:5060 0 at media sip:10.0.0.9
            count
                messages.requests 13
                messages.responses 9
                rejected.full 1
                proxy.forwarded 8
                proxy.forwarded_stateless 3
                proxy.request_retransmitted 3
                proxy.request_absorbed 3
                proxy.response_forwarded 8
                transactions.created 7
                proxy.hop_failed 4
                dialogs.created 5
                dialogs.confirmed 3
                dialogs.ended 5
                balancer.full 4
        "#]],
    );
}

#[test]
fn the_same_call_passes_twice() {
    check_in(
        &mut World::new(1),
        "
        bob: REGISTER
        trunk: REGISTER
        show Record-Route, Route
        alice: INVITE sip:trunk@example.org
        trunk: relay sip:bob@example.org
        calls
        bob: 200
        trunk: 200
        calls
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            trunk: REGISTER
                trunk < 200 REGISTER
            show Record-Route, Route
            alice: INVITE sip:trunk@example.org
                trunk < INVITE sip:trunk@10.0.0.9:5060
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
                alice < 100 INVITE
            trunk: relay sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
                trunk < 100 INVITE
            calls
                Early alice-1 sip:alice@10.0.0.1:5060 1 ->  0
                Early alice-1 sip:alice@10.0.0.1:5060 1 ->  0
            bob: 200
                trunk < 200 INVITE
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
            trunk: 200
                alice < 200 INVITE
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:trunk@10.0.0.9:5060 0
        "#]],
    );
}

#[test]
fn a_phone_that_leaves_parameters_out() {
    check_in(
        &mut World::new(1),
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: PRACK . / Route: <sip:10.9.9.9:5060;lr>
        bob: 200 INVITE
        alice: ACK / Route: <sip:10.9.9.9:5060;lr>
        bob: INFO . / Route: <sip:10.9.9.9:5060;lr>
        alice: 200
        bob: INFO . / Route: <sip:10.9.9.9:5060;lr> / To: <sip:alice@example.org>;tag=made-up
        bob: INFO . / Route: <sip:10.9.9.9:5060;lr> / Call-ID: made-up
        alice: BYE . / Route: <sip:10.9.9.9:5060;lr>
        bob: 200
        calls
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            alice: PRACK . / Route: <sip:10.9.9.9:5060;lr>
                alice < 403 PRACK
            bob: 200 INVITE
                alice < 200 INVITE
            alice: ACK / Route: <sip:10.9.9.9:5060;lr>
                bob < ACK sip:bob@10.0.0.2:5060
            bob: INFO . / Route: <sip:10.9.9.9:5060;lr>
                alice < INFO sip:alice@10.0.0.1:5060
            alice: 200
                bob < 200 INFO
            bob: INFO . / Route: <sip:10.9.9.9:5060;lr> / To: <sip:alice@example.org>;tag=made-up
                bob < 403 INFO
            bob: INFO . / Route: <sip:10.9.9.9:5060;lr> / Call-ID: made-up
                bob < 403 INFO
            alice: BYE . / Route: <sip:10.9.9.9:5060;lr>
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 200
                alice < 200 BYE
            calls
        "#]],
    );
}

/// Whoever is called has a count of his own, which goes when he is called no more.
#[test]
fn counts_of_users_go() {
    let mut world = World::new(1);
    world.policy.user_calls_max = Some(1);
    check_in(
        &mut world,
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        carol: INVITE sip:bob@example.org
        carol: ACK
        bob: 486
        alice: ACK
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            carol: INVITE sip:bob@example.org
                carol < 486 INVITE
            carol: ACK
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 486 INVITE
            alice: ACK
        "#]],
    );
    let key = crate::world::policy::callee("sip:bob@example.org");
    let participant = &mut world.slots[0].participant;
    assert!(Balancer(participant).find(&key).is_some());
    Balancer(participant).reap(shm::Cursor::default(), usize::MAX);
    assert!(Balancer(participant).find(&key).is_none());
}

/// One INVITE, and a callee that answers it again and again.
#[test]
fn a_callee_that_answers_as_many() {
    let mut script = "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200"
        .to_owned();
    for nth in 0..40 {
        script += &format!("\n        bob: 200 / To: <sip:bob@example.org>;tag=other-{nth}");
    }
    // A copy of one that is on record goes on.
    script += "\n        bob: 200 / To: <sip:bob@example.org>;tag=other-3\n        calls\n";
    let mut world = World::new(1);
    let seen = world.play(&script);
    let times = |what: &str| seen.matches(what).count();
    assert_eq!(times("Confirmed alice-1"), 1 + 32, "{seen}");
    assert_eq!(times("alice < 200 INVITE"), 1 + 32 + 1, "{seen}");
}

/// Names that no record can have are no way around limits.
#[test]
fn names_that_are_too_long() {
    let long = "c".repeat(5000);
    let script = format!(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org / Call-ID: {long}
        alice: ACK
        calls
        "
    );
    let mut world = world(|world| world.policy.calls_max = Some(1));
    let seen = world.play(&script);
    assert!(seen.contains("alice < 400 INVITE"), "{seen}");
    assert!(!seen.contains("bob < INVITE"), "{seen}");
}
