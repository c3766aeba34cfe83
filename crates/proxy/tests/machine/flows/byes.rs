//! Which BYE ends a call in the books, and as of when (RFC 3261 §15).

use expect_test::expect;
use proxy::Recorded;

use super::{
    check_in,
    dialogs::{group, probed, short, world},
};
use crate::world::World;

/// Calls are written down.
pub fn recorded(world: &mut World) {
    world.policy.class.recorded = Recorded::All;
}

fn books() -> World {
    world(recorded)
}

/// A call that is up, and what comes after.
fn up(then: &str) -> String {
    format!("bob: REGISTER\nalice: INVITE sip:bob@example.org\nbob: 200\nalice: ACK\n+5s\n{then}")
}

#[test]
fn the_answer_ends_it() {
    check_in(
        &mut books(),
        &up("
        alice: BYE .
        +3s
        calls
        bob: 200
        calls
        records
        "),
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            +5s
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            +3s
                0.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                1.5s: bob < BYE sip:bob@10.0.0.2:5060 again
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
            bob: 200
                alice < 200 BYE
            calls
            records
                alice-1 caller with bob for 5s, 3s ago
        "#]],
    );
}

/// Whoever refuses to hang up is still in the call.
#[test]
fn a_refused_bye_ends_nothing() {
    let mut world = books();
    for code in [300, 401, 407, 420, 491, 500, 503, 603] {
        world.start_over();
        recorded(&mut world);
        let seen = world.play(&up(&format!(
            "
            alice: BYE .
            bob: {code} BYE
            bob: BYE .
            alice: {code} BYE
            calls
            records
            +2s
            bob: BYE .
            +1s
            alice: 200 BYE
            calls
            records
            "
        )));
        let passed = if code == 503 { 500 } else { code };
        assert!(seen.contains(&format!("alice < {passed} BYE")), "{seen}");
        assert!(seen.contains(&format!("bob < {passed} BYE")), "{seen}");
        assert_eq!(seen.matches("Confirmed").count(), 1, "{seen}");
        assert_eq!(seen.matches(" with bob for ").count(), 1, "{seen}");
        assert!(
            seen.contains("alice-1 callee with bob for 7s, 1s ago"),
            "{seen}"
        );
        world.quiet();
    }
}

/// RFC 3261 §15.1.1: 481, 408 and silence end it for who said BYE.
#[test]
fn nobody_knows_of_the_call_any_more() {
    let mut world = books();
    for code in [481, 408] {
        world.start_over();
        recorded(&mut world);
        let seen = world.play(&up(&format!(
            "alice: BYE .\n+1s\nbob: {code}\ncalls\nrecords\n"
        )));
        assert_eq!(seen.matches("Confirmed").count(), 0, "{seen}");
        assert!(
            seen.contains("alice-1 caller with bob for 5s, 1s ago"),
            "{seen}"
        );
        world.quiet();
    }
}

#[test]
fn nobody_answers_the_bye() {
    let mut world = books();
    let seen = world.play(&up("bob: BYE .\n+31s\ncalls\n+2s\ncalls\nrecords\n"));
    assert_eq!(seen.matches("Confirmed").count(), 1, "{seen}");
    assert!(
        seen.contains("alice-1 callee with bob for 5s, 33s ago"),
        "{seen}"
    );
    world.quiet();
}

#[test]
fn no_way_to_who_is_to_hang_up() {
    let mut world = books();
    world.play(&up(""));
    world.policy.unreachable = vec!["10.0.0.2:5060".parse().unwrap()];
    let seen = world.play("alice: BYE .\n+1s\ncalls\nrecords\n");
    assert!(seen.contains("alice < 500 BYE"), "{seen}");
    assert!(
        seen.contains("alice-1 caller with bob for 5s, 1s ago"),
        "{seen}"
    );
    world.quiet();
}

/// Those that we refuse ourselves went nowhere.
#[test]
fn a_bye_that_is_not_passed_on() {
    check_in(
        &mut books(),
        &up("
        alice: BYE . / Max-Forwards: 0
        alice: BYE . / Proxy-Require: nonsense
        alice: BYE . / CSeq: 999 INFO
        calls
        records
        alice: BYE .
        bob: 200
        records
        "),
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            +5s
            alice: BYE . / Max-Forwards: 0
                alice < 483 BYE
            alice: BYE . / Proxy-Require: nonsense
                alice < 420 BYE
            alice: BYE . / CSeq: 999 INFO
                alice < 400 INFO
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
            records
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 200
                alice < 200 BYE
            records
                alice-1 caller with bob for 5s
        "#]],
    );
}

/// A number that is too low is for the other party to refuse (§12.2.2).
#[test]
fn a_bye_with_an_old_number() {
    check_in(
        &mut books(),
        &up("
        alice: INVITE .
        bob: 200
        alice: ACK
        alice: BYE . / CSeq: 2 BYE
        bob: 500 BYE
        calls
        records
        "),
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            +5s
            alice: INVITE .
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            alice: BYE . / CSeq: 2 BYE
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 500 BYE
                alice < 500 BYE
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 103 -> sip:bob@10.0.0.2:5060 0
            records
        "#]],
    );
}

#[test]
fn a_bye_of_an_early_dialog() {
    // The callee ends its INVITE.
    check_in(
        &mut books(),
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: BYE .
        bob: 200 BYE
        calls
        records
        bob: 487 INVITE
        alice: ACK
        calls
        records
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 200 BYE
                alice < 200 BYE
            calls
                Early alice-1 sip:alice@10.0.0.1:5060 1 ->  0
            records
            bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 487 INVITE
            alice: ACK
            calls
            records
                alice-1 failed 487
        "#]],
    );
    // A gateway that knows no such dialog yet, and takes the call.
    check_in(
        &mut books(),
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: BYE .
        bob: 200 INVITE
        bob: 481 BYE
        alice: ACK
        calls
        records
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 200 INVITE
                alice < 200 INVITE
            bob: 481 BYE
                alice < 481 BYE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
            records
        "#]],
    );
    // The call was taken before the BYE came there.
    check_in(
        &mut books(),
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: BYE .
        +1s
        bob: 200 INVITE
        alice: ACK
        +1s
        bob: 200 BYE
        calls
        records
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            +1s
                0.5s: bob < BYE sip:bob@10.0.0.2:5060 again
            bob: 200 INVITE
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            +1s
                0.5s: bob < BYE sip:bob@10.0.0.2:5060 again
            bob: 200 BYE
                alice < 200 BYE
            calls
            records
                alice-1 caller with bob for 0ns, 1s ago
        "#]],
    );
}

/// One phone of two is told BYE while both ring: the other one's call is another.
#[test]
fn a_bye_of_one_early_dialog_of_two() {
    check_in(
        &mut books(),
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob2: 180
        bob: 180
        alice: BYE .
        bob2: 200 INVITE
        alice: ACK
        bob: 200 BYE
        calls
        bob: 487 INVITE
        calls
        records
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
            bob2: 180
                alice < 180 INVITE
            bob: 180
                alice < 180 INVITE
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            bob2: 200 INVITE
                alice < 200 INVITE
                bob < CANCEL sip:bob@10.0.0.2:5060
            alice: ACK
                bob2 < ACK sip:bob@10.0.0.3:5060
            bob: 200 BYE
                alice < 200 BYE
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.3:5060 0
            bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.3:5060 0
            records
        "#]],
    );
}

#[test]
fn both_hang_up_at_once() {
    check_in(
        &mut books(),
        &up("
        alice: BYE .
        +1s
        bob: BYE .
        bob: 200 BYE
        calls
        alice: 481 BYE
        alice: again BYE
        bob: again BYE
        records
        "),
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            +5s
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            +1s
                0.5s: bob < BYE sip:bob@10.0.0.2:5060 again
            bob: BYE .
                alice < BYE sip:alice@10.0.0.1:5060
            bob: 200 BYE
                alice < 200 BYE
            calls
            alice: 481 BYE
                bob < 481 BYE
            alice: again BYE
                alice < 200 BYE again
            bob: again BYE
                bob < 481 BYE again
            records
                alice-1 caller with bob for 5s, 1s ago
        "#]],
    );
}

/// A call of a group keeps its seat as long as it goes on.
#[test]
fn seats_stay_taken() {
    check_in(
        &mut world(|world| {
            recorded(world);
            group(world);
        }),
        "
        alice: INVITE sip:media@example.org
        carol: 200
        alice: ACK
        bob: INVITE sip:media@example.org
        trunk: 200
        bob: ACK
        alice: BYE .
        carol: 407
        bob2: INVITE sip:media@example.org
        bob2: ACK
        alice: BYE .
        carol: 200
        bob2: INVITE sip:media@example.org
        carol: 486
        bob2: ACK
        records
        ",
        expect![[r#"
            alice: INVITE sip:media@example.org
                carol < INVITE sip:media@example.org
                alice < 100 INVITE
            carol: 200
                alice < 200 INVITE
            alice: ACK
                carol < ACK sip:carol@10.0.0.5:5060
            bob: INVITE sip:media@example.org
                trunk < INVITE sip:media@example.org
                bob < 100 INVITE
            trunk: 200
                bob < 200 INVITE
            bob: ACK
                trunk < ACK sip:trunk@10.0.0.9:5060
            alice: BYE .
                carol < BYE sip:carol@10.0.0.5:5060
            carol: 407
                alice < 407 BYE
            bob2: INVITE sip:media@example.org
                bob2 < 503 INVITE
            bob2: ACK
            alice: BYE .
                carol < BYE sip:carol@10.0.0.5:5060
            carol: 200
                alice < 200 BYE
            bob2: INVITE sip:media@example.org
                carol < INVITE sip:media@example.org
                bob2 < 100 INVITE
            carol: 486
                carol < ACK sip:media@example.org
                bob2 < 486 INVITE
            bob2: ACK
            records
                alice-1 caller with carol for 0ns
                bob2-1 failed 503
                bob2-2 failed 486
        "#]],
    );
}

/// Its longest duration, and our own BYEs, find a call that refused to end.
#[test]
fn what_bounds_a_call_that_nobody_ends() {
    let mut world = world(|world| {
        recorded(world);
        short(world);
    });
    let seen = world.play(&up("
        alice: BYE .
        bob: 500
        +96s
        bob: 200 BYE & alice: 200 BYE
        +2s
        records
        "));
    assert!(seen.contains("alice-1 duration with bob for 10"), "{seen}");
    world.quiet();
}

/// Who has said BYE may have forgotten the call, and is not probed; a refused BYE has used up its number.
#[test]
fn probes_and_a_refused_bye() {
    check_in(
        &mut world(|world| {
            recorded(world);
            probed(world);
        }),
        &up("
        show CSeq
        +54s
        alice: BYE .
        bob: 407
        +10s
        +23s
        alice: 200 OPTIONS & bob: 200 OPTIONS
        alice: BYE .
        bob: 200
        records
        "),
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            +5s
            show CSeq
            +54s
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
                    CSeq: 103 BYE
            bob: 407
                alice < 407 BYE
                    CSeq: 103 BYE
            +10s
            +23s
                22s: alice < OPTIONS sip:alice@10.0.0.1:5060
                    CSeq: 1 OPTIONS
                22s: bob < OPTIONS sip:bob@10.0.0.2:5060
                    CSeq: 104 OPTIONS
                22.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 104 OPTIONS
                22.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 1 OPTIONS
            alice: 200 OPTIONS & bob: 200 OPTIONS
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
                    CSeq: 105 BYE
            bob: 200
                alice < 200 BYE
                    CSeq: 104 BYE
            records
                alice-1 caller with bob for 92s
        "#]],
    );
}

/// It is closed when the BYEs are known to be recorded; it ended when they were sent.
#[test]
fn the_operator_ends_it() {
    check_in(
        &mut books(),
        &up("
        end
        +3s
        calls
        records
        "),
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            +5s
            end
                alice < BYE sip:alice@10.0.0.1:5060
                bob < BYE sip:bob@10.0.0.2:5060
            +3s
                0.5s: alice < BYE sip:alice@10.0.0.1:5060 again
                0.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                1.5s: alice < BYE sip:alice@10.0.0.1:5060 again
                1.5s: bob < BYE sip:bob@10.0.0.2:5060 again
            calls
            records
                alice-1 operator with bob for 5s, 3s ago
        "#]],
    );
}
