//! Calls and other requests from end to end, and what comes twice or astray.

use expect_test::expect;

use super::check;

#[test]
fn phones_register_and_call_each_other() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        bob: 200
        alice: ACK
        bob: BYE .
        alice: 200
        +40s
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            bob: BYE .
                alice < BYE sip:alice@10.0.0.1:5060
            alice: 200
                bob < 200 BYE
            +40s
        "#]],
    );
}

#[test]
fn what_a_phone_sees_of_us() {
    check(
        "
        bob: REGISTER
        show Via, Record-Route, Max-Forwards, To
        alice: INVITE sip:bob@example.org
        bob: 180
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            show Via, Record-Route, Max-Forwards, To
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
                    Max-Forwards: 69
                    To: <sip:bob@example.org>
                alice < 100 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    To: <sip:bob@example.org>
            bob: 180
                alice < 180 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
                    To: <sip:bob@example.org>;tag=bob
        "#]],
    );
}

#[test]
fn options_for_us() {
    check(
        "
        show Allow, Accept, Supported, To
        alice: OPTIONS sip:example.org
        alice: again
        alice: OPTIONS sip:10.9.9.9:5060
        ",
        expect![[r#"
            show Allow, Accept, Supported, To
            alice: OPTIONS sip:example.org
                alice < 200 OPTIONS
                    Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER
                    Accept: application/sdp
                    Supported: path
                    To: <sip:example.org>;tag=%
            alice: again
                alice < 200 OPTIONS again
                    Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER
                    Accept: application/sdp
                    Supported: path
                    To: <sip:example.org>;tag=%
            alice: OPTIONS sip:10.9.9.9:5060
                alice < 200 OPTIONS
                    Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER
                    Accept: application/sdp
                    Supported: path
                    To: <sip:10.9.9.9:5060>;tag=%
        "#]],
    );
}

#[test]
fn an_unknown_method_goes_its_way() {
    check(
        "
        bob: REGISTER
        show CSeq
        alice: FROBNICATE sip:bob@example.org / X-Odd: yes
        bob: 200
        alice: again
        alice: frobnicate sip:bob@example.org
        bob: 500
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            show CSeq
            alice: FROBNICATE sip:bob@example.org / X-Odd: yes
                bob < FROBNICATE sip:bob@10.0.0.2:5060
                    CSeq: 1 FROBNICATE
            bob: 200
                alice < 200 FROBNICATE
                    CSeq: 1 FROBNICATE
            alice: again
                alice < 200 FROBNICATE again
                    CSeq: 1 FROBNICATE
            alice: frobnicate sip:bob@example.org
                bob < frobnicate sip:bob@10.0.0.2:5060
                    CSeq: 2 frobnicate
            bob: 500
                alice < 500 frobnicate
                    CSeq: 2 frobnicate
        "#]],
    );
}

#[test]
fn behind_a_nat() {
    check(
        "
        nat: REGISTER / ;rport
        show Via
        nat: OPTIONS sip:example.org / ;rport
        nat: OPTIONS sip:example.org
        bob: REGISTER
        nat: INVITE sip:bob@example.org / ;rport
        bob: 180
        bob: 486
        ",
        expect![[r#"
            nat: REGISTER / ;rport
                nat < 200 REGISTER
            show Via
            nat: OPTIONS sip:example.org / ;rport
                nat < 200 OPTIONS
                    Via: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK-nat-2;received=203.0.113.7;rport=40000
            nat: OPTIONS sip:example.org
                203.0.113.7:5060 < 200 OPTIONS
                    Via: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK-nat-3;received=203.0.113.7
            bob: REGISTER
                bob < 200 REGISTER
                    Via: SIP/2.0/UDP 10.0.0.2:5060;branch=z9hG4bK-bob-1
            nat: INVITE sip:bob@example.org / ;rport
                bob < INVITE sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK-nat-4;received=203.0.113.7;rport=40000
                nat < 100 INVITE
                    Via: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK-nat-4;received=203.0.113.7;rport=40000
            bob: 180
                nat < 180 INVITE
                    Via: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK-nat-4;received=203.0.113.7;rport=40000
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                nat < 486 INVITE
                    Via: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK-nat-4;received=203.0.113.7;rport=40000
        "#]],
    );
}

#[test]
fn a_via_with_a_name() {
    check(
        "
        show Via
        alice: OPTIONS sip:example.org / Via: SIP/2.0/UDP phone.example.org:5099;branch=z9hG4bK-x, SIP/2.0/UDP 10.0.0.77;branch=z9hG4bK-y
        alice: OPTIONS sip:example.org / Via: SIP/2.0/UDP 10.0.0.1;rport;received=9.9.9.9;branch=z9hG4bK-z
        ",
        expect![[r#"
            show Via
            alice: OPTIONS sip:example.org / Via: SIP/2.0/UDP phone.example.org:5099;branch=z9hG4bK-x, SIP/2.0/UDP 10.0.0.77;branch=z9hG4bK-y
                10.0.0.1:5099 < 200 OPTIONS
                    Via: SIP/2.0/UDP phone.example.org:5099;branch=z9hG4bK-x;received=10.0.0.1
                    Via: SIP/2.0/UDP 10.0.0.77;branch=z9hG4bK-y
            alice: OPTIONS sip:example.org / Via: SIP/2.0/UDP 10.0.0.1;rport;received=9.9.9.9;branch=z9hG4bK-z
                alice < 200 OPTIONS
                    Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK-z;received=10.0.0.1;rport=5060
        "#]],
    );
}

#[test]
fn a_second_200_comes_through_too() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180 & bob2: 180
        bob: 200 & bob2: 200
        alice: ACK
        bob: again 200
        bob2: again 200
        +33s
        bob: again 200
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
            bob: 180 & bob2: 180
                alice < 180 INVITE
                alice < 180 INVITE
            bob: 200 & bob2: 200
                alice < 200 INVITE
                bob2 < CANCEL sip:bob@10.0.0.3:5060
                alice < 200 INVITE
            alice: ACK
                bob2 < ACK sip:bob@10.0.0.3:5060
            bob: again 200
                alice < 200 INVITE again
            bob2: again 200
                alice < 200 INVITE again
            +33s
            bob: again 200
                alice < 200 INVITE again
        "#]],
    );
}

#[test]
fn a_stray_2xx_passes_by_via_alone() {
    check(
        "
        bob: REGISTER
        show Via
        alice: INVITE sip:bob@example.org
        bob: 180
        bob: 200
        alice: ACK
        +80s
        bob: again 200
        bob: again 180
        bob: 200 / CSeq: 1 CANCEL
        carol: OPTIONS sip:example.org
        bob: 200 INVITE / Via: SIP/2.0/UDP 10.9.9.9:5060;branch=z9hG4bK-not-ours
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            show Via
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                alice < 100 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            bob: 180
                alice < 180 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            bob: 200
                alice < 200 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#s2
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-2
            +80s
            bob: again 200
                alice < 200 INVITE again
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            bob: again 180
            bob: 200 / CSeq: 1 CANCEL
            carol: OPTIONS sip:example.org
                carol < 200 OPTIONS
                    Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK-carol-1
            bob: 200 INVITE / Via: SIP/2.0/UDP 10.9.9.9:5060;branch=z9hG4bK-not-ours
            count
                messages.requests 4
                messages.responses 6
                proxy.forwarded 1
                proxy.forwarded_stateless 1
                proxy.response_forwarded 2
                proxy.response_stateless 1
                proxy.response_foreign 1
                proxy.response_absorbed 2
                transactions.created 1
                transactions.ended 1
                registrar.updated 1
                messages.answered_here 1
                dialogs.created 1
                dialogs.confirmed 1
        "#]],
    );
}

#[test]
fn retransmissions_both_ways() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        +600ms
        alice: again INVITE
        bob: 180
        alice: again INVITE
        bob: again 180
        bob: 486
        bob: again 486
        alice: again INVITE
        +600ms
        alice: ACK
        alice: again ACK
        alice: again INVITE
        +2s
        bob: again 486
        +50s
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            +600ms
                0.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
            alice: again INVITE
                alice < 100 INVITE again
            bob: 180
                alice < 180 INVITE
            alice: again INVITE
                alice < 180 INVITE again
            bob: again 180
                alice < 180 INVITE again
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 486 INVITE
            bob: again 486
                bob < ACK sip:bob@10.0.0.2:5060 again
            alice: again INVITE
                alice < 486 INVITE again
            +600ms
                0.5s: alice < 486 INVITE again
            alice: ACK
            alice: again ACK
            alice: again INVITE
            +2s
            bob: again 486
                bob < ACK sip:bob@10.0.0.2:5060 again
            +50s
            count
                messages.requests 8
                messages.responses 5
                proxy.forwarded 1
                proxy.request_retransmitted 1
                proxy.response_retransmitted 4
                proxy.request_absorbed 5
                proxy.response_forwarded 3
                transactions.created 1
                transactions.ended 1
                registrar.updated 1
                dialogs.created 1
                dialogs.ended 1
        "#]],
    );
}

#[test]
fn retransmissions_of_other_requests() {
    check(
        "
        bob: REGISTER
        alice: MESSAGE sip:bob@example.org
        alice: again
        +2s
        bob: 100
        alice: again
        +6s
        bob: 200
        bob: again 200
        alice: again
        +6s
        alice: again
        +30s
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: MESSAGE sip:bob@example.org
                bob < MESSAGE sip:bob@10.0.0.2:5060
            alice: again
            +2s
                0.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                1.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
            bob: 100
            alice: again
            +6s
                1.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
                1.5s: alice < 100 MESSAGE
                5.5s: bob < MESSAGE sip:bob@10.0.0.2:5060 again
            bob: 200
                alice < 200 MESSAGE
            bob: again 200
            alice: again
                alice < 200 MESSAGE again
            +6s
            alice: again
                alice < 200 MESSAGE again
            +30s
            count
                messages.requests 6
                messages.responses 3
                proxy.forwarded 1
                proxy.request_retransmitted 4
                proxy.response_retransmitted 2
                proxy.request_absorbed 2
                proxy.response_forwarded 1
                proxy.response_absorbed 1
                transactions.created 1
                transactions.ended 1
                registrar.updated 1
        "#]],
    );
}

#[test]
fn acks_meet_their_transaction() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 486
        alice: ACK / Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-other
        +600ms
        alice: ACK
        +5s
        alice: ACK sip:bob@example.org
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 486 INVITE
            alice: ACK / Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-other
            +600ms
                0.5s: alice < 486 INVITE again
            alice: ACK
            +5s
            alice: ACK sip:bob@example.org
            count
                messages.requests 5
                messages.responses 1
                proxy.forwarded 1
                proxy.response_retransmitted 1
                proxy.request_absorbed 2
                proxy.response_forwarded 1
                proxy.ack_unmatched 2
                transactions.created 1
                registrar.updated 1
                dialogs.created 1
                dialogs.ended 1
        "#]],
    );
}

#[test]
fn in_dialog_requests_follow_their_route() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        show Route
        alice: INVITE .
        bob: 200
        alice: ACK
        bob: INFO .
        alice: 200
        alice: BYE .
        bob: 481
        ",
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
            show Route
            alice: INVITE .
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            bob: INFO .
                alice < INFO sip:alice@10.0.0.1:5060
            alice: 200
                bob < 200 INFO
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 481
                alice < 481 BYE
        "#]],
    );
}

#[test]
fn the_dialog_ends_while_a_phone_has_moved() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        bob: REGISTER / Contact: * / Expires: 0
        alice: BYE .
        +33s
        ",
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
            bob: REGISTER / Contact: * / Expires: 0
                bob < 200 REGISTER
            alice: BYE .
                bob < BYE sip:bob@10.0.0.2:5060
            +33s
                0.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                1.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                3.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                3.5s: alice < 100 BYE
                7.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                11.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                15.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                19.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                23.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                27.5s: bob < BYE sip:bob@10.0.0.2:5060 again
                31.5s: bob < BYE sip:bob@10.0.0.2:5060 again
        "#]],
    );
}

#[test]
fn old_clients_without_cookie() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org / Via: SIP/2.0/UDP 10.0.0.1:5060 / From: <sip:alice@example.org>;tag=old
        alice: again INVITE
        bob: 486
        alice: ACK
        +6s
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org / Via: SIP/2.0/UDP 10.0.0.1:5060 / From: <sip:alice@example.org>;tag=old
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            alice: again INVITE
                alice < 100 INVITE again
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 486 INVITE
            alice: ACK
            +6s
        "#]],
    );
}

/// Whoever answers after Timer B gets its ACK, each time that it says so, and is not heard any more after the time in which it may.
#[test]
fn failure_after_timer_b() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        +32s
        alice: ACK
        +10s
        bob: 486 INVITE
        bob: again 486
        +31s
        bob: again 486
        +2s
        bob: again 486
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            +32s
                0.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                1.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                3.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                7.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                15.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                31.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                32s: alice < 408 INVITE
            alice: ACK
            +10s
            bob: 486 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
            bob: again 486
                bob < ACK sip:bob@10.0.0.2:5060 again
            +31s
            bob: again 486
                bob < ACK sip:bob@10.0.0.2:5060 again
            +2s
            bob: again 486
        "#]],
    );
}

/// After Timer C, and the time that the answer to the CANCEL had.
#[test]
fn failure_after_timer_c() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        +190s
        bob: 200 CANCEL
        +32s
        alice: ACK
        +10s
        bob: 487 INVITE
        die
        bob: again 487
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            +190s
                190s: bob < CANCEL sip:bob@10.0.0.2:5060
            bob: 200 CANCEL
            +32s
                32s: alice < 408 INVITE
            alice: ACK
            +10s
            bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
            die
            bob: again 487
                bob < ACK sip:bob@10.0.0.2:5060 again
        "#]],
    );
}

/// Of two phones one never answers in time: the other one's answer stands, and the late one gets its ACK.
#[test]
fn failure_of_a_branch_after_the_answer() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob2: 486 INVITE
        +32s
        alice: ACK
        die
        +20s
        bob: 603 INVITE
        bob: again 603
        +32s
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
            bob2: 486 INVITE
                bob2 < ACK sip:bob@10.0.0.3:5060
            +32s
                0.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                1.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                3.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                7.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                15.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                31.5s: bob < INVITE sip:bob@10.0.0.2:5060 again
                32s: alice < 486 INVITE
            alice: ACK
            die
            +20s
            bob: 603 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
            bob: again 603
                bob < ACK sip:bob@10.0.0.2:5060 again
            +32s
        "#]],
    );
}
