//! Targets by preference, group after group (RFC 3261 §16.6, §16.7).

use std::time::Duration;

use expect_test::expect;

use super::{check, check_in};
use crate::world::World;

const PHONES: &str = "
    bob: REGISTER / Contact: <sip:bob@10.0.0.2:5060>;q=0.9
    bob2: REGISTER / Contact: <sip:bob@10.0.0.3:5060>;q=0.9
    bob3: REGISTER / Contact: <sip:bob@10.0.0.4:5060>;q=0.3
";

fn with_phones(script: &str, expect: expect_test::Expect) {
    let mut world = World::new(1);
    world.play(PHONES);
    check_in(&mut world, script, expect);
}

#[test]
fn the_next_group_when_all_of_the_first_have_failed() {
    with_phones(
        "
        alice: INVITE sip:bob@example.org
        bob: 180
        bob2: 486
        bob: 480
        bob3: 180
        bob3: 200
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            bob2: 486
                bob2 < ACK sip:bob@10.0.0.3:5060
            bob: 480
                bob < ACK sip:bob@10.0.0.2:5060
                bob3 < INVITE sip:bob@10.0.0.4:5060
            bob3: 180
                alice < 180 INVITE
            bob3: 200
                alice < 200 INVITE
            alice: ACK
                bob3 < ACK sip:bob@10.0.0.4:5060
        "#]],
    );
}

#[test]
fn the_best_of_all_groups() {
    with_phones(
        "
        alice: INVITE sip:bob@example.org
        bob: 486
        bob2: 404
        bob3: 500
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
            bob2: 404
                bob2 < ACK sip:bob@10.0.0.3:5060
                bob3 < INVITE sip:bob@10.0.0.4:5060
            bob3: 500
                bob3 < ACK sip:bob@10.0.0.4:5060
                alice < 404 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn a_group_that_rings_too_long_is_cancelled_and_the_next_one_rings() {
    with_phones(
        "
        alice: INVITE sip:bob@example.org
        bob: 180
        +19s
        +2s
        bob: 200 CANCEL & bob: 487 INVITE
        bob3: 180
        bob3: 200
        bob2: 180
        bob2: 200 CANCEL & bob2: 487 INVITE
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            +19s
                0.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                1.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                3.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                7.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                15.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
            +2s
                1s: bob < CANCEL sip:bob@10.0.0.2:5060
                1s: bob3 < INVITE sip:bob@10.0.0.4:5060
                1.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                1.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
            bob3: 180
                alice < 180 INVITE
            bob3: 200
                alice < 200 INVITE
            bob2: 180
                bob2 < CANCEL sip:bob@10.0.0.3:5060
            bob2: 200 CANCEL & bob2: 487 INVITE
                bob2 < ACK sip:bob@10.0.0.3:5060
            alice: ACK
                bob3 < ACK sip:bob@10.0.0.4:5060
        "#]],
    );
}

#[test]
fn the_cancelled_group_answers_after_all() {
    with_phones(
        "
        alice: INVITE sip:bob@example.org
        bob: 180 & bob2: 486
        +21s
        bob3: 180
        bob: 200 INVITE
        bob: 481 CANCEL
        bob3: 200 CANCEL & bob3: 487 INVITE
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob: 180 & bob2: 486
                alice < 180 INVITE
                bob2 < ACK sip:bob@10.0.0.3:5060
            +21s
                20s: bob < CANCEL sip:bob@10.0.0.2:5060
                20s: bob3 < INVITE sip:bob@10.0.0.4:5060
                20.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                20.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
            bob3: 180
                alice < 180 INVITE
            bob: 200 INVITE
                alice < 200 INVITE
                bob3 < CANCEL sip:bob@10.0.0.4:5060
            bob: 481 CANCEL
            bob3: 200 CANCEL & bob3: 487 INVITE
                bob3 < ACK sip:bob@10.0.0.4:5060
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
        "#]],
    );
}

#[test]
fn nobody_of_any_group_answers() {
    with_phones(
        "
        alice: INVITE sip:bob@example.org
        bob: 180 & bob2: 486
        +21s
        bob: 200 CANCEL & bob: 487 INVITE
        +33s
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob: 180 & bob2: 486
                alice < 180 INVITE
                bob2 < ACK sip:bob@10.0.0.3:5060
            +21s
                20s: bob < CANCEL sip:bob@10.0.0.2:5060
                20s: bob3 < INVITE sip:bob@10.0.0.4:5060
                20.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                20.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
            +33s
                0.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
                2.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
                6.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
                14.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
                30.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
                31s: alice < 486 INVITE
                31.5s: alice < 486 INVITE again
                32.5s: alice < 486 INVITE again
            alice: ACK
        "#]],
    );
}

#[test]
fn a_603_is_the_end() {
    with_phones(
        "
        alice: INVITE sip:bob@example.org
        bob: 180
        bob2: 603
        bob: 200 CANCEL & bob: 487 INVITE
        alice: ACK
        +60s
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            bob2: 603
                bob2 < ACK sip:bob@10.0.0.3:5060
                bob < CANCEL sip:bob@10.0.0.2:5060
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 603 INVITE
            alice: ACK
            +60s
        "#]],
    );
}

#[test]
fn a_caller_who_gives_up_wants_nobody_else() {
    with_phones(
        "
        alice: INVITE sip:bob@example.org
        bob: 180 & bob2: 486
        alice: CANCEL
        bob: 200 CANCEL & bob: 487 INVITE
        alice: ACK
        +60s
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob: 180 & bob2: 486
                alice < 180 INVITE
                bob2 < ACK sip:bob@10.0.0.3:5060
            alice: CANCEL
                alice < 200 CANCEL
                bob < CANCEL sip:bob@10.0.0.2:5060
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 486 INVITE
            alice: ACK
            +60s
        "#]],
    );
}

// A branch that cannot be cancelled yet keeps nobody waiting.
#[test]
fn a_silent_phone_of_the_first_group() {
    with_phones(
        "
        alice: INVITE sip:bob@example.org
        bob2: 486
        +21s
        bob: 180
        bob: 200 CANCEL & bob: 487 INVITE
        bob3: 486
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob2: 486
                bob2 < ACK sip:bob@10.0.0.3:5060
            +21s
                0.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                1.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                3.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                7.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                15.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                20s: bob3 < INVITE sip:bob@10.0.0.4:5060
                20.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
            bob: 180
                bob < CANCEL sip:bob@10.0.0.2:5060
                alice < 180 INVITE
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
            bob3: 486
                bob3 < ACK sip:bob@10.0.0.4:5060
                alice < 486 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn other_requests_go_on_too() {
    with_phones(
        "
        alice: MESSAGE sip:bob@example.org
        bob: 480
        bob2: 404
        bob3: 200
        ",
        expect![[r#"
            alice: MESSAGE sip:bob@example.org
                bob < MESSAGE sip:bob@10.0.0.2:5060
                bob2 < MESSAGE sip:bob@10.0.0.3:5060
            bob: 480
            bob2: 404
                bob3 < MESSAGE sip:bob@10.0.0.4:5060
            bob3: 200
                alice < 200 MESSAGE
        "#]],
    );
}

#[test]
fn all_at_once_where_that_is_wanted() {
    let mut world = World::new(1);
    world.configure(|settings| settings.forking.by_q = false);
    world.play(PHONES);
    check_in(
        &mut world,
        "
        alice: INVITE sip:bob@example.org
        bob3: 200
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                bob3 < INVITE sip:bob@10.0.0.4:5060
                alice < 100 INVITE
            bob3: 200
                alice < 200 INVITE
            alice: ACK
                bob3 < ACK sip:bob@10.0.0.4:5060
        "#]],
    );
}

#[test]
fn the_limit_on_targets_keeps_the_best() {
    let mut world = World::new(1);
    world.configure(|settings| {
        settings.branches_max = 2;
        settings.forking.serial_timeout = Duration::from_secs(5);
    });
    world.play(
        "
        bob: REGISTER / Contact: <sip:bob@10.0.0.2:5060>;q=0.1
        bob2: REGISTER / Contact: <sip:bob@10.0.0.3:5060>;q=0.5
        bob3: REGISTER / Contact: <sip:bob@10.0.0.4:5060>;q=0.3
        ",
    );
    check_in(
        &mut world,
        "
        show Max-Breadth
        alice: INVITE sip:bob@example.org
        bob2: 180
        +6s
        bob2: 200 CANCEL & bob2: 487 INVITE
        bob3: 486
        alice: ACK
        ",
        expect![[r#"
            show Max-Breadth
            alice: INVITE sip:bob@example.org
                bob2 < INVITE sip:bob@10.0.0.3:5060
                alice < 100 INVITE
            bob2: 180
                alice < 180 INVITE
            +6s
                5s: bob2 < CANCEL sip:bob@10.0.0.3:5060
                5s: bob3 < INVITE sip:bob@10.0.0.4:5060
                5.5s: bob2 < CANCEL sip:bob@10.0.0.3:5060 again
                5.5s: bob3 < INVITE sip:bob@10.0.0.4:5060 again
            bob2: 200 CANCEL & bob2: 487 INVITE
                bob2 < ACK sip:bob@10.0.0.3:5060
            bob3: 486
                bob3 < ACK sip:bob@10.0.0.4:5060
                alice < 486 INVITE
            alice: ACK
        "#]],
    );
}

// RFC 3262: a reliable provisional response is passed on like any other, as often as it comes, and its PRACK goes through the early dialog; so does UPDATE (RFC 3311).
#[test]
fn early_dialogs() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        show Require, RSeq, RAck, To
        alice: INVITE sip:bob@example.org / Supported: 100rel
        bob: 183 / Require: 100rel / RSeq: 7
        bob: again 183
        alice: PRACK . / RAck: 7 1 INVITE
        bob: 200 PRACK
        bob2: 183 / Require: 100rel / RSeq: 9
        alice: UPDATE .
        bob2: 200 UPDATE
        bob2: 199 INVITE
        bob2: 486 INVITE
        bob: 200 INVITE
        alice: ACK
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            bob2: REGISTER
                bob2 < 200 REGISTER
            show Require, RSeq, RAck, To
            alice: INVITE sip:bob@example.org / Supported: 100rel
                bob < INVITE sip:bob@10.0.0.2:5060
                    To: <sip:bob@example.org>
                bob2 < INVITE sip:bob@10.0.0.3:5060
                    To: <sip:bob@example.org>
                alice < 100 INVITE
                    To: <sip:bob@example.org>
            bob: 183 / Require: 100rel / RSeq: 7
                alice < 183 INVITE
                    Require: 100rel
                    RSeq: 7
                    To: <sip:bob@example.org>;tag=bob
            bob: again 183
                alice < 183 INVITE again
                    Require: 100rel
                    RSeq: 7
                    To: <sip:bob@example.org>;tag=bob
            alice: PRACK . / RAck: 7 1 INVITE
                bob < PRACK sip:bob@10.0.0.2:5060
                    RAck: 7 1 INVITE
                    To: <sip:bob@example.org>;tag=bob
            bob: 200 PRACK
                alice < 200 PRACK
                    To: <sip:bob@example.org>;tag=bob
            bob2: 183 / Require: 100rel / RSeq: 9
                alice < 183 INVITE
                    Require: 100rel
                    RSeq: 9
                    To: <sip:bob@example.org>;tag=bob2
            alice: UPDATE .
                bob2 < UPDATE sip:bob@10.0.0.3:5060
                    To: <sip:bob@example.org>;tag=bob2
            bob2: 200 UPDATE
                alice < 200 UPDATE
                    To: <sip:bob@example.org>;tag=bob2
            bob2: 199 INVITE
                alice < 199 INVITE
                    To: <sip:bob@example.org>;tag=bob2
            bob2: 486 INVITE
                bob2 < ACK sip:bob@10.0.0.3:5060
                    To: <sip:bob@example.org>;tag=bob2
            bob: 200 INVITE
                alice < 200 INVITE
                    To: <sip:bob@example.org>;tag=bob
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
                    To: <sip:bob@example.org>;tag=bob
        "#]],
    );
}
