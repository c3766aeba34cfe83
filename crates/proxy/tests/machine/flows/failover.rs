//! From hop to hop of one target (RFC 3263 §4.3, RFC 3261 §16.7, §16.9).

use expect_test::{Expect, expect};
use proxy::Target;

use super::check_in;
use crate::world::World;

/// far.example is at carol's and at the trunk's address; a group of three destinations.
pub fn prepare(world: &mut World) {
    world.policy.open = true;
    let address = |text: &str| text.parse().unwrap();
    world.policy.hosts.insert(
        "far.example",
        vec![address("10.0.0.5:5060"), address("10.0.0.9:5060")],
    );
    world
        .policy
        .hosts
        .insert("near.example", vec![address("10.0.0.3:5060")]);
    world.policy.targets.insert(
        "group",
        vec![Target {
            backups: ["sip:near.example", "sip:nowhere.example", "sip:10.0.0.9"]
                .map(proxy::Backup::uri)
                .to_vec(),
            ..Target::next_hop("sip:10.0.0.5")
        }],
    );
}

fn check(script: &str, expect: Expect) {
    let mut world = World::new(1);
    prepare(&mut world);
    check_in(&mut world, script, expect);
}

#[test]
fn a_503_sends_us_to_the_next_address() {
    check(
        "
        hops
        show Via
        alice: INVITE sip:x@far.example
        carol: 503 / Retry-After: 120 (maintenance)
        carol: again 503
        trunk: 486
        alice: ACK
        ",
        expect![[r#"
            hops
            show Via
            alice: INVITE sip:x@far.example
                alice < 100 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                carol < INVITE sip:x@far.example
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            carol: 503 / Retry-After: 120 (maintenance)
                hop 10.0.0.5:5060 Busy { retry_after: Some(120s) }
                carol < ACK sip:x@far.example
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                trunk < INVITE sip:x@far.example
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#2
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            carol: again 503
                carol < ACK sip:x@far.example again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
            trunk: 486
                hop 10.0.0.9:5060 Answered
                trunk < ACK sip:x@far.example
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#2
                alice < 486 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            alice: ACK
        "#]],
    );
}

#[test]
fn the_last_503_is_a_500() {
    check(
        "
        alice: MESSAGE sip:x@far.example
        carol: 503
        trunk: 503
        ",
        expect![[r#"
            alice: MESSAGE sip:x@far.example
                carol < MESSAGE sip:x@far.example
            carol: 503
                trunk < MESSAGE sip:x@far.example
            trunk: 503
                alice < 500 MESSAGE
        "#]],
    );
}

#[test]
fn other_failures_are_the_targets_own() {
    check(
        "
        alice: INVITE sip:x@far.example
        carol: 480
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:x@far.example
                alice < 100 INVITE
                carol < INVITE sip:x@far.example
            carol: 480
                carol < ACK sip:x@far.example
                alice < 480 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn silence_sends_us_to_the_next_address() {
    check(
        "
        hops
        alice: INVITE sip:x@far.example
        +5s
        trunk: 180
        trunk: 200
        alice: ACK
        +60s
        ",
        expect![[r#"
            hops
            alice: INVITE sip:x@far.example
                alice < 100 INVITE
                carol < INVITE sip:x@far.example
            +5s
                0.5s: carol < INVITE sip:x@far.example again
                1.5s: carol < INVITE sip:x@far.example again
                3.5s: carol < INVITE sip:x@far.example again
                4s: hop 10.0.0.5:5060 Silent
                4s: trunk < INVITE sip:x@far.example
                4.5s: trunk < INVITE sip:x@far.example again
            trunk: 180
                hop 10.0.0.9:5060 Answered
                alice < 180 INVITE
            trunk: 200
                alice < 200 INVITE
            alice: ACK
                trunk < ACK sip:trunk@10.0.0.9:5060
            +60s
        "#]],
    );
}

#[test]
fn the_last_address_has_all_the_time() {
    check(
        "
        hops
        alice: INVITE sip:x@far.example
        +40s
        alice: ACK
        ",
        expect![[r#"
            hops
            alice: INVITE sip:x@far.example
                alice < 100 INVITE
                carol < INVITE sip:x@far.example
            +40s
                0.5s: carol < INVITE sip:x@far.example again
                1.5s: carol < INVITE sip:x@far.example again
                3.5s: carol < INVITE sip:x@far.example again
                4s: hop 10.0.0.5:5060 Silent
                4s: trunk < INVITE sip:x@far.example
                4.5s: trunk < INVITE sip:x@far.example again
                5.5s: trunk < INVITE sip:x@far.example again
                7.5s: trunk < INVITE sip:x@far.example again
                11.5s: trunk < INVITE sip:x@far.example again
                19.5s: trunk < INVITE sip:x@far.example again
                35.5s: trunk < INVITE sip:x@far.example again
                36s: hop 10.0.0.9:5060 Silent
                36s: alice < 408 INVITE
                36.5s: alice < 408 INVITE again
                37.5s: alice < 408 INVITE again
                39.5s: alice < 408 INVITE again
            alice: ACK
        "#]],
    );
}

#[test]
fn a_hop_that_rings_is_not_given_up() {
    check(
        "
        alice: INVITE sip:x@far.example
        carol: 100
        +30s
        carol: 486
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:x@far.example
                alice < 100 INVITE
                carol < INVITE sip:x@far.example
            carol: 100
            +30s
            carol: 486
                carol < ACK sip:x@far.example
                alice < 486 INVITE
            alice: ACK
        "#]],
    );
}

// It had heard of the call all the same.
#[test]
fn a_hop_that_was_given_up_rings() {
    check(
        "
        alice: INVITE sip:x@far.example
        +5s
        carol: 180
        carol: 200 CANCEL & carol: 487 INVITE
        trunk: 486
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:x@far.example
                alice < 100 INVITE
                carol < INVITE sip:x@far.example
            +5s
                0.5s: carol < INVITE sip:x@far.example again
                1.5s: carol < INVITE sip:x@far.example again
                3.5s: carol < INVITE sip:x@far.example again
                4s: trunk < INVITE sip:x@far.example
                4.5s: trunk < INVITE sip:x@far.example again
            carol: 180
                carol < CANCEL sip:x@far.example
            carol: 200 CANCEL & carol: 487 INVITE
                carol < ACK sip:x@far.example
            trunk: 486
                trunk < ACK sip:x@far.example
                alice < 486 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn a_hop_that_was_given_up_answers() {
    check(
        "
        alice: INVITE sip:x@far.example
        +5s
        trunk: 180
        carol: 200
        trunk: 200 CANCEL & trunk: 487 INVITE
        alice: ACK
        carol: again 200
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:x@far.example
                alice < 100 INVITE
                carol < INVITE sip:x@far.example
            +5s
                0.5s: carol < INVITE sip:x@far.example again
                1.5s: carol < INVITE sip:x@far.example again
                3.5s: carol < INVITE sip:x@far.example again
                4s: trunk < INVITE sip:x@far.example
                4.5s: trunk < INVITE sip:x@far.example again
            trunk: 180
                alice < 180 INVITE
            carol: 200
                alice < 200 INVITE
                trunk < CANCEL sip:x@far.example
            trunk: 200 CANCEL & trunk: 487 INVITE
                trunk < ACK sip:x@far.example
            alice: ACK
                carol < ACK sip:carol@10.0.0.5:5060
            carol: again 200
                alice < 200 INVITE again
            alice: ACK
                carol < ACK sip:carol@10.0.0.5:5060
        "#]],
    );
}

#[test]
fn a_hop_that_was_given_up_answers_a_message() {
    check(
        "
        alice: MESSAGE sip:x@far.example
        +5s
        carol: 200
        trunk: 200
        ",
        expect![[r#"
            alice: MESSAGE sip:x@far.example
                carol < MESSAGE sip:x@far.example
            +5s
                0.5s: carol < MESSAGE sip:x@far.example again
                1.5s: carol < MESSAGE sip:x@far.example again
                3.5s: carol < MESSAGE sip:x@far.example again
                3.5s: alice < 100 MESSAGE
                4s: trunk < MESSAGE sip:x@far.example
                4.5s: trunk < MESSAGE sip:x@far.example again
            carol: 200
                alice < 200 MESSAGE
            trunk: 200
        "#]],
    );
}

/// What is too long for one hop may not be for the next; what is shorter goes there, before and after.
#[test]
fn what_is_too_long_for_a_hop_goes_to_the_next() {
    let mut world = World::new(1);
    prepare(&mut world);
    let longest = length_of_a_message(&mut world);
    world
        .policy
        .narrow
        .insert("10.0.0.5:5060".parse().unwrap(), longest);
    check_in(
        &mut world,
        "
        count
        hops
        alice: MESSAGE sip:x@far.example / Subject: longer
        trunk: 200
        alice: MESSAGE sip:x@far.example
        carol: 200
        alice: MESSAGE sip:carol@10.0.0.5 / Subject: longer
        count
        ",
        expect![[r#"
            count
                messages.requests 1
                messages.responses 1
                proxy.forwarded 1
                proxy.response_forwarded 1
                transactions.created 1
                transactions.ended 1
            hops
            alice: MESSAGE sip:x@far.example / Subject: longer
                trunk < MESSAGE sip:x@far.example
            trunk: 200
                hop 10.0.0.9:5060 Answered
                alice < 200 MESSAGE
            alice: MESSAGE sip:x@far.example
                carol < MESSAGE sip:x@far.example
            carol: 200
                hop 10.0.0.5:5060 Answered
                alice < 200 MESSAGE
            alice: MESSAGE sip:carol@10.0.0.5 / Subject: longer
                alice < 513 MESSAGE
            count
                messages.requests 3
                messages.responses 2
                proxy.forwarded 4
                proxy.response_forwarded 2
                transactions.created 3
                proxy.hop_failed 1
                proxy.too_large 1
        "#]],
    );
}

/// §18.1.1: what is longer than the setting goes nowhere over UDP.
#[test]
fn what_is_too_long_for_the_setting_is_refused() {
    let mut world = World::new(1);
    prepare(&mut world);
    let longest = length_of_a_message(&mut world);
    world.configure(|settings| settings.forking.udp_request_max = longest);
    check_in(
        &mut world,
        "
        count
        alice: MESSAGE sip:x@far.example / Subject: longer
        alice: INVITE sip:carol@10.0.0.5 / Subject: longer
        alice: ACK
        alice: MESSAGE sip:x@far.example
        carol: 200
        count
        ",
        expect![[r#"
            count
                messages.requests 1
                messages.responses 1
                proxy.forwarded 1
                proxy.response_forwarded 1
                transactions.created 1
                transactions.ended 1
            alice: MESSAGE sip:x@far.example / Subject: longer
                alice < 513 MESSAGE
            alice: INVITE sip:carol@10.0.0.5 / Subject: longer
                alice < 513 INVITE
            alice: ACK
            alice: MESSAGE sip:x@far.example
                carol < MESSAGE sip:x@far.example
            carol: 200
                alice < 200 MESSAGE
            count
                messages.requests 4
                messages.responses 1
                rejected.unroutable 2
                proxy.forwarded 1
                proxy.request_absorbed 2
                proxy.response_forwarded 1
                transactions.created 2
                proxy.hop_failed 1
                proxy.too_large 3
                dialogs.created 1
                dialogs.ended 1
        "#]],
    );
}

/// One goes through; the length that it had then. The next one's may differ by digits of its numbers, far less than a header more.
fn length_of_a_message(world: &mut World) -> usize {
    check_in(
        world,
        "
        alice: MESSAGE sip:x@far.example
        carol: 200
        ",
        expect![[r#"
            alice: MESSAGE sip:x@far.example
                carol < MESSAGE sip:x@far.example
            carol: 200
                alice < 200 MESSAGE
        "#]],
    );
    let sent = world
        .sent
        .iter()
        .find(|wire| wire.text.starts_with("MESSAGE"));
    sent.expect("it was sent").text.len() + 4
}

#[test]
fn what_the_kernel_refuses_goes_elsewhere_at_once() {
    let mut world = World::new(1);
    prepare(&mut world);
    world.policy.unreachable = vec!["10.0.0.5:5060".parse().unwrap()];
    check_in(
        &mut world,
        "
        hops
        alice: INVITE sip:x@far.example
        trunk: 486
        alice: ACK
        alice: MESSAGE sip:x@far.example
        trunk: 200
        alice: INVITE sip:carol@10.0.0.5
        alice: ACK
        alice: MESSAGE sip:carol@10.0.0.5
        count
        ",
        expect![[r#"
            hops
            alice: INVITE sip:x@far.example
                alice < 100 INVITE
                hop 10.0.0.5:5060 Unreachable
                trunk < INVITE sip:x@far.example
            trunk: 486
                hop 10.0.0.9:5060 Answered
                trunk < ACK sip:x@far.example
                alice < 486 INVITE
            alice: ACK
            alice: MESSAGE sip:x@far.example
                hop 10.0.0.5:5060 Unreachable
                trunk < MESSAGE sip:x@far.example
            trunk: 200
                hop 10.0.0.9:5060 Answered
                alice < 200 MESSAGE
            alice: INVITE sip:carol@10.0.0.5
                alice < 100 INVITE
                hop 10.0.0.5:5060 Unreachable
                alice < 500 INVITE
            alice: ACK
            alice: MESSAGE sip:carol@10.0.0.5
                hop 10.0.0.5:5060 Unreachable
                alice < 500 MESSAGE
            count
                messages.requests 6
                messages.responses 2
                rejected.unroutable 2
                proxy.forwarded 6
                proxy.request_absorbed 4
                proxy.response_forwarded 2
                transactions.created 4
                proxy.hop_failed 2
                dialogs.created 2
                dialogs.ended 2
        "#]],
    );
}

#[test]
fn a_group_is_gone_through() {
    check(
        "
        hops
        alice: INVITE sip:group@example.org
        carol: 503
        bob2: 503
        trunk: 180
        trunk: 200
        alice: ACK
        ",
        expect![[r#"
            hops
            alice: INVITE sip:group@example.org
                carol < INVITE sip:group@example.org
                alice < 100 INVITE
            carol: 503
                hop 10.0.0.5:5060 Busy { retry_after: None }
                carol < ACK sip:group@example.org
                bob2 < INVITE sip:group@example.org
            bob2: 503
                hop 10.0.0.3:5060 Busy { retry_after: None }
                bob2 < ACK sip:group@example.org
                trunk < INVITE sip:group@example.org
            trunk: 180
                hop 10.0.0.9:5060 Answered
                alice < 180 INVITE
            trunk: 200
                alice < 200 INVITE
            alice: ACK
                trunk < ACK sip:trunk@10.0.0.9:5060
        "#]],
    );
}

#[test]
fn nobody_of_a_group_is_there() {
    check(
        "
        alice: INVITE sip:group@example.org
        +9s
        +33s
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:group@example.org
                carol < INVITE sip:group@example.org
                alice < 100 INVITE
            +9s
                0.5s: carol < INVITE sip:group@example.org again
                1.5s: carol < INVITE sip:group@example.org again
                3.5s: carol < INVITE sip:group@example.org again
                4s: bob2 < INVITE sip:group@example.org
                4.5s: bob2 < INVITE sip:group@example.org again
                5.5s: bob2 < INVITE sip:group@example.org again
                7.5s: bob2 < INVITE sip:group@example.org again
                8s: trunk < INVITE sip:group@example.org
                8.5s: trunk < INVITE sip:group@example.org again
            +33s
                0.5s: trunk < INVITE sip:group@example.org again
                2.5s: trunk < INVITE sip:group@example.org again
                6.5s: trunk < INVITE sip:group@example.org again
                14.5s: trunk < INVITE sip:group@example.org again
                30.5s: trunk < INVITE sip:group@example.org again
                31s: alice < 408 INVITE
                31.5s: alice < 408 INVITE again
                32.5s: alice < 408 INVITE again
            alice: ACK
        "#]],
    );
}

#[test]
fn cancelled_while_the_next_hop_is_asked_for() {
    check(
        "
        hold Resolve
        alice: INVITE sip:group@example.org
        carol: 503
        alice: CANCEL
        alice: ACK
        release
        ",
        expect![[r#"
            hold Resolve
            alice: INVITE sip:group@example.org
                carol < INVITE sip:group@example.org
                alice < 100 INVITE
            carol: 503
                ? 1 Resolve
                carol < ACK sip:group@example.org
            alice: CANCEL
                alice < 200 CANCEL
                alice < 487 INVITE
            alice: ACK
            release
                no such question
        "#]],
    );
}

#[test]
fn a_caller_who_has_given_up_needs_no_next_hop() {
    check(
        "
        alice: INVITE sip:x@far.example
        alice: CANCEL
        carol: 503
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:x@far.example
                alice < 100 INVITE
                carol < INVITE sip:x@far.example
            alice: CANCEL
                alice < 200 CANCEL
            carol: 503
                carol < ACK sip:x@far.example
                alice < 500 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn codes_are_a_choice() {
    let mut world = World::new(1);
    prepare(&mut world);
    world.configure(|settings| settings.forking.failover_codes = vec![404, 500]);
    check_in(
        &mut world,
        "
        alice: INVITE sip:group@example.org
        carol: 404
        bob2: 500
        trunk: 503
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:group@example.org
                carol < INVITE sip:group@example.org
                alice < 100 INVITE
            carol: 404
                carol < ACK sip:group@example.org
                bob2 < INVITE sip:group@example.org
            bob2: 500
                bob2 < ACK sip:group@example.org
                trunk < INVITE sip:group@example.org
            trunk: 503
                trunk < ACK sip:group@example.org
                alice < 500 INVITE
            alice: ACK
        "#]],
    );
}

// A parallel fork whose branches have hops of their own.
#[test]
fn each_branch_has_its_own_hops() {
    let mut world = World::new(1);
    prepare(&mut world);
    world.policy.targets.insert(
        "both",
        ["sip:one@far.example", "sip:two@near.example"]
            .map(Target::uri)
            .to_vec(),
    );
    check_in(
        &mut world,
        "
        show Max-Breadth
        alice: INVITE sip:both@example.org
        bob2: 180
        carol: 503
        trunk: 486
        bob2: 200
        alice: ACK
        ",
        expect![[r#"
            show Max-Breadth
            alice: INVITE sip:both@example.org
                alice < 100 INVITE
                bob2 < INVITE sip:two@near.example
                    Max-Breadth: 30
                carol < INVITE sip:one@far.example
                    Max-Breadth: 30
            bob2: 180
                alice < 180 INVITE
            carol: 503
                carol < ACK sip:one@far.example
                trunk < INVITE sip:one@far.example
                    Max-Breadth: 30
            trunk: 486
                trunk < ACK sip:one@far.example
            bob2: 200
                alice < 200 INVITE
            alice: ACK
                bob2 < ACK sip:bob@10.0.0.3:5060
        "#]],
    );
}
