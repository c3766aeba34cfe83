//! What comes late to a call, comes twice, or lacks a tag, or has a number that nothing comes after.

use expect_test::expect;

use super::{
    byes::recorded,
    check_in,
    dialogs::{group, probed, world},
};

/// RFC 3261 §12.1.2: a callee of RFC 2543 has no tag.
#[test]
fn an_answer_without_a_tag() {
    check_in(
        &mut world(recorded),
        "
        show From, To
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200 / To: <sip:bob@example.org>
        bob: again 200
        alice: ACK
        calls
        alice: INFO .
        bob: 200 / To: <sip:bob@example.org>
        bob: INFO . / From: <sip:bob@example.org>
        alice: 200
        alice: INVITE .
        bob: 200 / To: <sip:bob@example.org>
        alice: ACK
        alice: BYE .
        bob: 200 / To: <sip:bob@example.org>
        calls
        records
        ",
        expect![[r#"
            show From, To
            bob: REGISTER
                bob < 200 REGISTER
                    From: <sip:bob@example.org>;tag=bob
                    To: <sip:bob@example.org>;tag=%
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
                alice < 100 INVITE
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            bob: 200 / To: <sip:bob@example.org>
                alice < 200 INVITE
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            bob: again 200
                alice < 200 INVITE again
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
            alice: INFO .
                bob < INFO sip:bob@10.0.0.2:5060
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            bob: 200 / To: <sip:bob@example.org>
                alice < 200 INFO
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            bob: INFO . / From: <sip:bob@example.org>
                alice < INFO sip:alice@10.0.0.1:5060
                    From: <sip:bob@example.org>
                    To: <sip:alice@example.org>;tag=alice
            alice: 200
                bob < 200 INFO
                    From: <sip:bob@example.org>
                    To: <sip:alice@example.org>;tag=alice
            alice: INVITE .
                bob < INVITE sip:bob@10.0.0.2:5060
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
                alice < 100 INVITE
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            bob: 200 / To: <sip:bob@example.org>
                alice < 200 INVITE
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            bob: 200 / To: <sip:bob@example.org>
                alice < 200 BYE
                    From: <sip:alice@example.org>;tag=alice
                    To: <sip:bob@example.org>
            calls
            records
                alice-1 caller with  for 0ns
        "#]],
    );
}

/// Who takes a call without a tag is told of its end.
#[test]
fn the_end_of_a_call_without_a_tag() {
    let mut world = world(recorded);
    let seen = world.play(
        "
        show To
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200 / To: <sip:bob@example.org>
        alice: ACK
        end
        bob: 200 BYE & alice: 200 BYE
        +2s
        records
        ",
    );
    assert!(
        seen.contains("bob < BYE sip:bob@10.0.0.2:5060\n        To: <sip:bob@example.org>\n"),
        "{seen}"
    );
    assert!(seen.contains("alice-1 operator with  for"), "{seen}");
    world.quiet();
}

/// RFC 6026 §7.1: as long as the INVITE may be answered, another phone may, and its call is another.
#[test]
fn another_phone_answers_after_the_end() {
    check_in(
        &mut world(recorded),
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        +1s
        alice: BYE .
        bob: 200
        records
        bob: 200 INVITE
        bob2: 200 INVITE
        alice: ACK
        calls
        bob2: again 200
        +2s
        alice: INFO .
        bob2: 200 INFO
        bob2: BYE .
        alice: 200
        bob2: 200 INVITE
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
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            +1s
                0.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 200
                alice < 200 BYE
            records
                alice-1 caller with bob for 1s
            bob: 200 INVITE
                alice < 200 INVITE again
            bob2: 200 INVITE
                alice < 200 INVITE
            alice: ACK
                bob2 < ACK sip:bob@10.0.0.3:5060
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.3:5060 0
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
            bob2: again 200
                alice < 200 INVITE again
            +2s
            alice: INFO .
                bob2 < INFO sip:bob@10.0.0.3:5060
            bob2: 200 INFO
                alice < 200 INFO
            bob2: BYE .
                alice < BYE sip:alice@10.0.0.1:5060
            alice: 200
                bob2 < 200 BYE
            bob2: 200 INVITE
                alice < 200 INVITE again
            calls
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.3:5060 0
            records
                alice-1 callee with bob2 for 2s
                alice-1 caller with bob for 1s, 2s ago
        "#]],
    );
}

/// The seat of the one that goes on is kept when the first one's goes.
#[test]
fn a_seat_of_another_phone() {
    let mut world = world(group);
    world.play(
        "
        alice: INVITE sip:media@example.org
        carol: 200
        alice: ACK
        alice: BYE .
        carol: 200 BYE
        carol: 200 INVITE / To: <sip:media@example.org>;tag=other / Record-Route: <sip:10.0.0.5;lr>
        ",
    );
    world.quiet();
}

/// The caller has his 487, and is called back all the same.
#[test]
fn a_cancelled_call_that_is_taken_late() {
    check_in(
        &mut world(recorded),
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: CANCEL
        bob: 200 CANCEL
        +33s
        alice: ACK
        records
        bob: 200 INVITE
        alice: ACK
        calls
        alice: BYE .
        bob: 200
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
            alice: CANCEL
                alice < 200 CANCEL
                bob < CANCEL sip:bob@10.0.0.2:5060
            bob: 200 CANCEL
            +33s
                32s: alice < 487 INVITE
                32.5s: alice < 487 INVITE again
            alice: ACK
            records
                alice-1 cancelled 487, 1s ago
            bob: 200 INVITE
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
                Ended alice-1 sip:alice@10.0.0.1:5060 1 ->  0
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 200
                alice < 200 BYE
            calls
                Ended alice-1 sip:alice@10.0.0.1:5060 1 ->  0
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
            records
                alice-1 caller with bob for 0ns
                alice-1 cancelled 487, 1s ago
        "#]],
    );
}

/// §8.1.1.5: numbers are less than 2^31, and ours come after those of the other party.
#[test]
fn numbers_that_leave_no_room() {
    check_in(
        &mut world(recorded),
        "
        show CSeq
        bob: REGISTER
        alice: INVITE sip:bob@example.org / CSeq: 2147483648 INVITE
        alice: ACK / CSeq: 2147483648 ACK
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        alice: INFO . / CSeq: 4294967295 INFO
        alice: INFO . / CSeq: 400000 INFO
        bob: 200
        calls
        alice: INFO . / CSeq: 2000000 INFO
        bob: 200
        bob: INFO . / CSeq: 2147483647 INFO
        alice: 200
        calls
        end
        bob: 200 BYE & alice: 200 BYE
        +2s
        ",
        expect![[r#"
            show CSeq
            bob: REGISTER
                bob < 200 REGISTER
                    CSeq: 1 REGISTER
            alice: INVITE sip:bob@example.org / CSeq: 2147483648 INVITE
                alice < 400 INVITE
                    CSeq: 2147483648 INVITE
            alice: ACK / CSeq: 2147483648 ACK
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    CSeq: 2 INVITE
                alice < 100 INVITE
                    CSeq: 2 INVITE
            bob: 200
                alice < 200 INVITE
                    CSeq: 2 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
                    CSeq: 2 ACK
            alice: INFO . / CSeq: 4294967295 INFO
                alice < 400 INFO
                    CSeq: 4294967295 INFO
            alice: INFO . / CSeq: 400000 INFO
                bob < INFO sip:bob@10.0.0.2:5060
                    CSeq: 400000 INFO
            bob: 200
                alice < 200 INFO
                    CSeq: 400000 INFO
            calls
                Confirmed alice-2 sip:alice@10.0.0.1:5060 2 -> sip:bob@10.0.0.2:5060 0
            alice: INFO . / CSeq: 2000000 INFO
                bob < INFO sip:bob@10.0.0.2:5060
                    CSeq: 2000000 INFO
            bob: 200
                alice < 200 INFO
                    CSeq: 2000000 INFO
            bob: INFO . / CSeq: 2147483647 INFO
                alice < INFO sip:alice@10.0.0.1:5060
                    CSeq: 2147483647 INFO
            alice: 200
                bob < 200 INFO
                    CSeq: 2147483647 INFO
            calls
                Confirmed alice-2 sip:alice@10.0.0.1:5060 2000000 -> sip:bob@10.0.0.2:5060 2147483647
            end
                alice < BYE sip:alice@10.0.0.1:5060
                    CSeq: 2147483648 BYE
                bob < BYE sip:bob@10.0.0.2:5060
                    CSeq: 3000000 BYE
            bob: 200 BYE & alice: 200 BYE
            +2s
        "#]],
    );
}

#[test]
fn probes_at_the_last_number() {
    let mut world = world(probed);
    let seen = world.play(
        "
        show CSeq
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        alice: INFO . / CSeq: 2147483647 INFO
        bob: 200
        +60s
        ",
    );
    assert!(seen.contains("CSeq: 2147483648 OPTIONS"), "{seen}");
    let seen = world.play("alice: 200 OPTIONS & bob: 500 OPTIONS\nalice: BYE . / CSeq: 4294967295 BYE\nalice: BYE . / CSeq: 2147483646 BYE\nbob: 200");
    assert!(seen.contains("alice < 400 BYE"), "{seen}");
    assert!(seen.contains("alice < 200 BYE"), "{seen}");
    world.quiet();
}

/// An application server that does not stay on the way: both passes of the call are on record, and each ends with the BYE as it passes.
#[test]
fn a_call_that_passes_twice_ends_twice() {
    check_in(
        &mut world(recorded),
        "
        bob: REGISTER
        trunk: REGISTER
        alice: INVITE sip:trunk@example.org
        trunk: relay sip:bob@example.org
        bob: 200 INVITE
        trunk: pass 200
        alice: ACK
        calls
        show Route
        alice: INFO .
        bob: 200
        bob: BYE .
        alice: 200
        calls
        records
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            trunk: REGISTER
                trunk < 200 REGISTER
            alice: INVITE sip:trunk@example.org
                trunk < INVITE sip:trunk@10.0.0.9:5060
                alice < 100 INVITE
            trunk: relay sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                trunk < 100 INVITE
            bob: 200 INVITE
                trunk < 200 INVITE
            trunk: pass 200
                alice < 200 INVITE
            alice: ACK
                us < ACK sip:bob@10.0.0.2:5060
                bob < ACK sip:bob@10.0.0.2:5060
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
            show Route
            alice: INFO .
                us < INFO sip:bob@10.0.0.2:5060
                bob < INFO sip:bob@10.0.0.2:5060
            bob: 200
                us < 200 INFO
                alice < 200 INFO
            bob: BYE .
                us < BYE sip:alice@10.0.0.1:5060
                alice < BYE sip:alice@10.0.0.1:5060
            alice: 200
                us < 200 BYE
                bob < 200 BYE
            calls
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0
            records
                alice-1 callee with bob for 0ns
                alice-1 callee with bob for 0ns
        "#]],
    );
}

/// And the operator's end reaches both parties.
#[test]
fn the_end_of_a_call_that_passes_twice() {
    let mut world = world(recorded);
    let seen = world.play(
        "
        bob: REGISTER
        trunk: REGISTER
        alice: INVITE sip:trunk@example.org
        trunk: relay sip:bob@example.org
        bob: 200 INVITE
        trunk: pass 200
        alice: ACK
        end
        bob: 200 BYE & alice: 200 BYE
        +3s
        calls
        records
        ",
    );
    assert!(seen.contains("bob < BYE"), "{seen}");
    assert!(seen.contains("alice < BYE"), "{seen}");
    assert_eq!(
        seen.matches("alice-1 operator with bob").count(),
        2,
        "{seen}"
    );
    world.play("+40s");
    world.quiet();
}

/// Both change the call at once: 491 for both (RFC 3261 §14.2), and the call is as it was.
#[test]
fn both_change_the_call_at_once() {
    let mut world = world(recorded);
    let seen = world.play(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        alice: INVITE .
        bob: INVITE .
        bob: 491 INVITE
        alice: 491 INVITE
        alice: ACK
        bob: ACK
        calls
        end
        bob: 200 BYE & alice: 200 BYE
        +2s
        records
        ",
    );
    assert_eq!(seen.matches("Confirmed alice-1").count(), 1, "{seen}");
    assert!(
        seen.contains("alice < 491 INVITE") && seen.contains("bob < 491 INVITE"),
        "{seen}"
    );
    assert!(seen.contains("alice-1 operator with bob"), "{seen}");
    world.quiet();
}

/// The answer was there before the CANCEL came: the call is up until its BYE.
#[test]
fn an_answer_that_crosses_the_cancel() {
    let mut world = world(recorded);
    let seen = world.play(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: CANCEL
        bob: 200 INVITE
        bob: 481 CANCEL
        alice: ACK
        calls
        +1s
        alice: BYE .
        bob: 200 BYE
        calls
        records
        ",
    );
    assert_eq!(seen.matches("Confirmed alice-1").count(), 1, "{seen}");
    assert!(seen.contains("alice-1 caller with bob for 1s"), "{seen}");
    world.quiet();
}
