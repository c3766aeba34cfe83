//! Forking, the response context and its timers (RFC 3261 §16.7, §16.8).

use expect_test::expect;

use super::check;

#[test]
fn all_phones_ring_and_one_answers() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        bob3: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        bob2: 183
        bob3: 100
        bob2: 200
        bob: 200 CANCEL & bob: 487 INVITE
        bob3: 200 CANCEL & bob3: 487 INVITE
        alice: ACK
        +70s
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            bob2: REGISTER
                bob2 < 200 REGISTER
            bob3: REGISTER
                bob3 < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                bob3 < INVITE sip:bob@10.0.0.4:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            bob2: 183
                alice < 183 INVITE
            bob3: 100
            bob2: 200
                alice < 200 INVITE
                bob < CANCEL sip:bob@10.0.0.2:5060
                bob3 < CANCEL sip:bob@10.0.0.4:5060
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
            bob3: 200 CANCEL & bob3: 487 INVITE
                bob3 < ACK sip:bob@10.0.0.4:5060
            alice: ACK
                bob2 < ACK sip:bob@10.0.0.3:5060
            +70s
        "#]],
    );
}

#[test]
fn the_best_of_486_and_200() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 486
        bob2: 180
        bob2: 200
        alice: ACK
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
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
            bob2: 180
                alice < 180 INVITE
            bob2: 200
                alice < 200 INVITE
            alice: ACK
                bob2 < ACK sip:bob@10.0.0.3:5060
        "#]],
    );
}

#[test]
fn a_603_speaks_for_all() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob2: 180
        bob: 603
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
            bob2: 180
                alice < 180 INVITE
            bob: 603
                bob < ACK sip:bob@10.0.0.2:5060
                bob2 < CANCEL sip:bob@10.0.0.3:5060
            bob2: 200 CANCEL & bob2: 487 INVITE
                bob2 < ACK sip:bob@10.0.0.3:5060
                alice < 603 INVITE
            alice: ACK
            +10s
        "#]],
    );
}

#[test]
fn a_603_and_then_a_200() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob2: 180
        bob: 603
        bob2: 200 INVITE & bob2: 481 CANCEL
        alice: ACK
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
            bob: 603
                bob < ACK sip:bob@10.0.0.2:5060
                bob2 < CANCEL sip:bob@10.0.0.3:5060
            bob2: 200 INVITE & bob2: 481 CANCEL
                alice < 200 INVITE
            alice: ACK
                bob2 < ACK sip:bob@10.0.0.3:5060
        "#]],
    );
}

#[test]
fn the_best_of_486_and_603() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 486
        bob2: 603
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
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
            bob2: 603
                bob2 < ACK sip:bob@10.0.0.3:5060
                alice < 603 INVITE
        "#]],
    );
}

#[test]
fn the_best_of_404_480_and_302() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        bob3: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 404
        bob2: 302
        bob3: 500
        alice: ACK
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            bob2: REGISTER
                bob2 < 200 REGISTER
            bob3: REGISTER
                bob3 < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                bob3 < INVITE sip:bob@10.0.0.4:5060
                alice < 100 INVITE
            bob: 404
                bob < ACK sip:bob@10.0.0.2:5060
            bob2: 302
                bob2 < ACK sip:bob@10.0.0.3:5060
            bob3: 500
                bob3 < ACK sip:bob@10.0.0.4:5060
                alice < 302 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn challenges_of_all_branches() {
    check(
        r#"
        bob: REGISTER
        bob2: REGISTER
        bob3: REGISTER
        show WWW-Authenticate, Proxy-Authenticate
        alice: INVITE sip:bob@example.org
        bob: 401 / WWW-Authenticate: Digest realm="one", nonce="1"
        bob2: 407 / Proxy-Authenticate: Digest realm="two", nonce="2"
        bob3: 401 / WWW-Authenticate: Digest realm="three", nonce="3" / WWW-Authenticate: Digest realm="four", nonce="4"
        alice: ACK
        "#,
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            bob2: REGISTER
                bob2 < 200 REGISTER
            bob3: REGISTER
                bob3 < 200 REGISTER
            show WWW-Authenticate, Proxy-Authenticate
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:bob@10.0.0.3:5060
                bob3 < INVITE sip:bob@10.0.0.4:5060
                alice < 100 INVITE
            bob: 401 / WWW-Authenticate: Digest realm="one", nonce="1"
                bob < ACK sip:bob@10.0.0.2:5060
            bob2: 407 / Proxy-Authenticate: Digest realm="two", nonce="2"
                bob2 < ACK sip:bob@10.0.0.3:5060
            bob3: 401 / WWW-Authenticate: Digest realm="three", nonce="3" / WWW-Authenticate: Digest realm="four", nonce="4"
                bob3 < ACK sip:bob@10.0.0.4:5060
                alice < 401 INVITE
                    WWW-Authenticate: Digest realm="one", nonce="*"
                    WWW-Authenticate: Digest realm="three", nonce="*"
                    WWW-Authenticate: Digest realm="four", nonce="*"
                    Proxy-Authenticate: Digest realm="two", nonce="*"
            alice: ACK
        "#]],
    );
}

#[test]
fn challenges_win_over_480_and_a_later_one_adds_to_the_first() {
    check(
        r#"
        bob: REGISTER
        bob2: REGISTER
        bob3: REGISTER
        show WWW-Authenticate, Proxy-Authenticate
        alice: MESSAGE sip:bob@example.org
        bob: 480
        bob2: 407 / Proxy-Authenticate: Digest realm="two", nonce="2"
        bob3: 401 / WWW-Authenticate: Digest realm="three", nonce="3"
        "#,
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            bob2: REGISTER
                bob2 < 200 REGISTER
            bob3: REGISTER
                bob3 < 200 REGISTER
            show WWW-Authenticate, Proxy-Authenticate
            alice: MESSAGE sip:bob@example.org
                bob < MESSAGE sip:bob@10.0.0.2:5060
                bob2 < MESSAGE sip:bob@10.0.0.3:5060
                bob3 < MESSAGE sip:bob@10.0.0.4:5060
            bob: 480
            bob2: 407 / Proxy-Authenticate: Digest realm="two", nonce="2"
            bob3: 401 / WWW-Authenticate: Digest realm="three", nonce="3"
                alice < 401 MESSAGE
                    WWW-Authenticate: Digest realm="three", nonce="*"
                    Proxy-Authenticate: Digest realm="two", nonce="*"
        "#]],
    );
}

#[test]
fn a_503_of_the_only_branch_is_not_passed_on() {
    check(
        "
        bob: REGISTER
        show Retry-After, Via, CSeq
        alice: INVITE sip:bob@example.org
        bob: 503 / Retry-After: 60
        alice: ACK
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            show Retry-After, Via, CSeq
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    CSeq: 1 INVITE
                alice < 100 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    CSeq: 1 INVITE
            bob: 503 / Retry-After: 60
                bob < ACK sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    CSeq: 1 ACK
                alice < 500 INVITE
                    Retry-After: 60
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    CSeq: 1 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn a_503_of_all_branches_is_not_passed_on() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        show Retry-After, Via, CSeq
        alice: MESSAGE sip:bob@example.org
        bob: 503 / Retry-After: 60
        bob2: 503
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            bob2: REGISTER
                bob2 < 200 REGISTER
            show Retry-After, Via, CSeq
            alice: MESSAGE sip:bob@example.org
                bob < MESSAGE sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    CSeq: 1 MESSAGE
                bob2 < MESSAGE sip:bob@10.0.0.3:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#2
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    CSeq: 1 MESSAGE
            bob: 503 / Retry-After: 60
            bob2: 503
                alice < 500 MESSAGE
                    Retry-After: 60
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    CSeq: 1 MESSAGE
        "#]],
    );
}

#[test]
fn nobody_answers_an_invite() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        +33s
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
            +33s
                0.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                0.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                1.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                1.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                3.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                3.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                7.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                7.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                15.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                15.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                31.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                31.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                32s: alice < 408 INVITE
                32.5s: alice < 408 INVITE again
            alice: ACK
            +10s
        "#]],
    );
}

#[test]
fn one_branch_times_out_and_one_is_busy() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 486
        +33s
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
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
            +33s
                0.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                1.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                3.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                7.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                15.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                31.5s: bob2 < INVITE sip:bob@10.0.0.3:5060 again
                32s: alice < 486 INVITE
                32.5s: alice < 486 INVITE again
        "#]],
    );
}

#[test]
fn silence_for_other_requests_that_time_out() {
    check(
        "
        bob: REGISTER
        show Via
        alice: MESSAGE sip:bob@example.org
        +33s
        alice: again
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            show Via
            alice: MESSAGE sip:bob@example.org
                bob < MESSAGE sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            +33s
                0.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                1.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                3.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                3.5s: alice < 100 MESSAGE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                7.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                11.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                15.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                19.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                23.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                27.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                31.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            alice: again
                bob < MESSAGE sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#2
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            count
                messages.requests 3
                proxy.forwarded 2
                proxy.request_retransmitted 10
                proxy.branch_timeout 1
                transactions.created 2
                transactions.ended 1
                registrar.updated 1
        "#]],
    );
}

#[test]
fn one_of_two_non_invite_branches_answers() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: MESSAGE sip:bob@example.org
        bob: 404
        +33s
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            bob2: REGISTER
                bob2 < 200 REGISTER
            alice: MESSAGE sip:bob@example.org
                bob < MESSAGE sip:bob@10.0.0.2:5060
                bob2 < MESSAGE sip:bob@10.0.0.3:5060
            bob: 404
            +33s
                0.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                1.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                3.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                3.5s: alice < 100 MESSAGE
                7.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                11.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                15.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                19.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                23.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                27.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                31.5s: bob2 < MESSAGE sip:bob@10.0.0.3:5060 again
                32s: alice < 404 MESSAGE
        "#]],
    );
}

#[test]
fn timer_c_ends_what_rings_too_long() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        +180s
        bob: again 180
        +195s
        bob: 200 CANCEL & bob: 487 INVITE
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
            +180s
            bob: again 180
                alice < 180 INVITE again
            +195s
                190s: bob < CANCEL sip:bob@10.0.0.2:5060
                190.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                191.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                193.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
            bob: 200 CANCEL & bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 487 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn timer_c_and_a_callee_that_is_gone() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        +230s
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            +230s
                190s: bob < CANCEL sip:bob@10.0.0.2:5060
                190.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                191.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                193.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                197.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                201.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                205.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                209.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                213.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                217.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                221.5s: bob < CANCEL sip:bob@10.0.0.2:5060 again
                222s: alice < 408 INVITE
                222.5s: alice < 408 INVITE again
                223.5s: alice < 408 INVITE again
                225.5s: alice < 408 INVITE again
                229.5s: alice < 408 INVITE again
        "#]],
    );
}
