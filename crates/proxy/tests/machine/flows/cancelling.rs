//! CANCEL (RFC 3261 §9, §16.10).

use expect_test::expect;

use super::check;

#[test]
fn cancel_while_it_rings() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        bob2: 180
        show Via, CSeq, Max-Forwards
        alice: CANCEL
        bob: 200 CANCEL & bob: 487 INVITE
        alice: again CANCEL
        bob2: 200 CANCEL & bob2: 487 INVITE
        alice: ACK
        +10s
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
            bob: 180
                alice < 180 INVITE
            bob2: 180
                alice < 180 INVITE
            show Via, CSeq, Max-Forwards
            alice: CANCEL
                alice < 200 CANCEL
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    CSeq: 1 CANCEL
                bob < CANCEL sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    CSeq: 1 CANCEL
                    Max-Forwards: 70
                bob2 < CANCEL sip:bob@10.0.0.3:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#2
                    CSeq: 1 CANCEL
                    Max-Forwards: 70
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    CSeq: 1 ACK
                    Max-Forwards: 70
            alice: again CANCEL
                alice < 200 CANCEL again
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    CSeq: 1 CANCEL
            bob2: 200 CANCEL & bob2: 487 INVITE
                bob2 < ACK sip:bob@10.0.0.3:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#2
                    CSeq: 1 ACK
                    Max-Forwards: 70
                alice < 487 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    CSeq: 1 INVITE
            alice: ACK
            +10s
        "#]],
    );
}

#[test]
fn cancel_before_a_sign_of_life() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        alice: CANCEL
        +600ms
        bob: 180
        bob: 200 CANCEL & bob: 487 INVITE
        alice: ACK
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            alice: CANCEL
                alice < 200 CANCEL
            +600ms
                0.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
            bob: 180
                bob < CANCEL sip:bob@10.0.0.2:5060
                alice < 180 INVITE
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 487 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn cancel_and_no_answer_to_it() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: CANCEL
        +33s
        alice: ACK
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
            +33s
                0.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                1.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                3.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                7.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                11.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                15.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                19.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                23.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                27.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                31.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                32s: alice < 487 INVITE
                32.5s: alice < 487 INVITE again
            alice: ACK
        "#]],
    );
}

#[test]
fn cancel_and_never_a_sign_of_life() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        alice: CANCEL
        +33s
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            alice: CANCEL
                alice < 200 CANCEL
            +33s
                0.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                1.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                3.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                7.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                15.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                31.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                32s: alice < 487 INVITE
                32.5s: alice < 487 INVITE again
        "#]],
    );
}

#[test]
fn cancel_crosses_the_answer() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: CANCEL & bob: 200 INVITE
        bob: 481 CANCEL
        alice: ACK
        alice: CANCEL
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            alice: CANCEL & bob: 200 INVITE
                alice < 200 CANCEL
                bob < CANCEL sip:bob@10.0.0.2:5060
                alice < 200 INVITE
            bob: 481 CANCEL
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            alice: CANCEL
                alice < 200 CANCEL again
        "#]],
    );
}

#[test]
fn cancel_of_something_else() {
    check(
        "
        bob: REGISTER
        alice: MESSAGE sip:bob@example.org
        alice: CANCEL
        alice: INVITE sip:bob@example.org
        alice: CANCEL / Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-nobodys
        bob: 486
        alice: CANCEL
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: MESSAGE sip:bob@example.org
                bob < MESSAGE sip:bob@10.0.0.2:5060
            alice: CANCEL
                alice can't
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            alice: CANCEL / Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-nobodys
                alice < 481 CANCEL
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 486 INVITE
            alice: CANCEL
                alice < 200 CANCEL
        "#]],
    );
}
