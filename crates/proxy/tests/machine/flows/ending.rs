//! What time and the operator want of calls: session timers (RFC 4028), the longest duration, probes, an end.

use expect_test::expect;

use super::{
    check_in,
    dialogs::{probed, short, timed, world},
};
use crate::world::World;

#[test]
fn session_timers() {
    check_in(
        &mut world(timed),
        "
        show Session-Expires, Min-SE, Require
        bob: REGISTER
        alice: INVITE sip:bob@example.org / Supported: timer / Session-Expires: 100
        alice: ACK
        alice: INVITE sip:bob@example.org / Supported: timer / Session-Expires: 900
        bob: 200
        alice: ACK
        calls
        +200s
        alice: UPDATE . / Supported: timer / Session-Expires: 300;refresher=uac
        bob: 200 / Session-Expires: 200;refresher=uac / Require: timer
        calls
        +199s
        calls
        +2s
        calls
        bob: BYE .
        alice: 200
        count
        ",
        expect![[r#"
            show Session-Expires, Min-SE, Require
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org / Supported: timer / Session-Expires: 100
                alice < 422 INVITE
                    Min-SE: 120
            alice: ACK
            alice: INVITE sip:bob@example.org / Supported: timer / Session-Expires: 900
                bob < INVITE sip:bob@10.0.0.2:5060
                    Session-Expires: 300
                    Min-SE: 120
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
                    Session-Expires: 300;refresher=uac
                    Require: timer
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            calls
                Confirmed alice-2 sip:alice@10.0.0.1:5060 2 -> sip:bob@10.0.0.2:5060 0 session 300 s left 300 s
            +200s
            alice: UPDATE . / Supported: timer / Session-Expires: 300;refresher=uac
                bob < UPDATE sip:bob@10.0.0.2:5060
                    Session-Expires: 300;refresher=uac
                    Min-SE: 120
            bob: 200 / Session-Expires: 200;refresher=uac / Require: timer
                alice < 200 UPDATE
                    Session-Expires: 200;refresher=uac
                    Require: timer
            calls
                Confirmed alice-2 sip:alice@10.0.0.1:5060 104 -> sip:bob@10.0.0.2:5060 0 session 200 s left 200 s
            +199s
            calls
                Confirmed alice-2 sip:alice@10.0.0.1:5060 104 -> sip:bob@10.0.0.2:5060 0 session 200 s left 1 s
            +2s
            calls
            bob: BYE .
                alice < BYE sip:alice@10.0.0.1:5060
            alice: 200
                bob < 200 BYE
            count
                messages.requests 7
                messages.responses 3
                proxy.forwarded 3
                proxy.forwarded_stateless 1
                proxy.request_absorbed 1
                proxy.response_forwarded 3
                transactions.created 3
                transactions.ended 2
                registrar.updated 1
                dialogs.expired 1
                dialogs.created 1
                dialogs.confirmed 1
                dialogs.ended 1
                dialogs.untracked 1
                sessions.too_small 1
        "#]],
    );
}

#[test]
fn a_call_that_lasts_too_long() {
    check_in(
        &mut world(short),
        "
        show CSeq, Route, From, To
        bob: REGISTER
        trunk: INVITE sip:bob@example.org / Record-Route: <sip:10.0.0.4;lr>, <sip:10.0.0.3;lr>
        bob: 180
        +90s
        bob: 200 / Record-Route: <sip:10.0.0.5;lr>, <sip:10.9.9.9:5060;lr;td=x>, <sip:10.0.0.4;lr>, <sip:10.0.0.3;lr>
        trunk: ACK
        +99s
        +2s
        bob3: 200
        carol: 481
        +2s
        calls
        count
        ",
        expect![[r#"
            show CSeq, Route, From, To
            bob: REGISTER
                bob < 200 REGISTER
                    CSeq: 1 REGISTER
                    From: <sip:bob@example.org>;tag=bob
                    To: <sip:bob@example.org>;tag=%
            trunk: INVITE sip:bob@example.org / Record-Route: <sip:10.0.0.4;lr>, <sip:10.0.0.3;lr>
                bob < INVITE sip:bob@10.0.0.2:5060
                    CSeq: 1 INVITE
                    From: <sip:trunk@example.org>;tag=trunk
                    To: <sip:bob@example.org>
                trunk < 100 INVITE
                    CSeq: 1 INVITE
                    From: <sip:trunk@example.org>;tag=trunk
                    To: <sip:bob@example.org>
            bob: 180
                trunk < 180 INVITE
                    CSeq: 1 INVITE
                    From: <sip:trunk@example.org>;tag=trunk
                    To: <sip:bob@example.org>;tag=bob
            +90s
            bob: 200 / Record-Route: <sip:10.0.0.5;lr>, <sip:10.9.9.9:5060;lr;td=x>, <sip:10.0.0.4;lr>, <sip:10.0.0.3;lr>
                trunk < 200 INVITE
                    CSeq: 1 INVITE
                    From: <sip:trunk@example.org>;tag=trunk
                    To: <sip:bob@example.org>;tag=bob
            trunk: ACK
            +99s
            +2s
                1s: bob3 < BYE sip:trunk@10.0.0.9:5060
                    CSeq: 1000000 BYE
                    Route: <sip:10.0.0.4;lr>, <sip:10.0.0.3;lr>
                    From: <sip:bob@example.org>;tag=bob
                    To: <sip:trunk@example.org>;tag=trunk
                1s: carol < BYE sip:bob@10.0.0.2:5060
                    CSeq: 1000001 BYE
                    Route: <sip:10.0.0.5;lr>
                    From: <sip:trunk@example.org>;tag=trunk
                    To: <sip:bob@example.org>;tag=bob
                1.5s: carol < BYE sip:bob@10.0.0.2:5060 again
                    CSeq: 1000001 BYE
                    Route: <sip:10.0.0.5;lr>
                    From: <sip:trunk@example.org>;tag=trunk
                    To: <sip:bob@example.org>;tag=bob
                1.5s: bob3 < BYE sip:trunk@10.0.0.9:5060 again
                    CSeq: 1000000 BYE
                    Route: <sip:10.0.0.4;lr>, <sip:10.0.0.3;lr>
                    From: <sip:bob@example.org>;tag=bob
                    To: <sip:trunk@example.org>;tag=trunk
            bob3: 200
            carol: 481
            +2s
            calls
            count
                messages.requests 3
                messages.responses 4
                proxy.forwarded 3
                proxy.request_retransmitted 2
                proxy.response_forwarded 2
                proxy.ack_unmatched 1
                transactions.created 3
                transactions.ended 1
                registrar.updated 1
                dialogs.expired 1
                dialogs.created 1
                dialogs.confirmed 1
                dialogs.ended 1
                dialogs.byes 2
        "#]],
    );
}

#[test]
fn probes() {
    check_in(
        &mut world(probed),
        "
        show CSeq, RAck
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        +60s
        alice: 200 OPTIONS & bob: 405 OPTIONS
        alice: INFO .
        bob: 200 INFO
        bob: INFO .
        alice: 200 INFO
        alice: INVITE .
        bob: 183 / Require: 100rel / RSeq: 7
        alice: PRACK . / RAck: 7 104 INVITE
        bob: 200 PRACK
        bob: 200 INVITE
        alice: ACK
        bob: INFO .
        alice: 200 INFO
        calls
        +59s
        alice: 200 OPTIONS
        +30s
        alice: INFO .
        calls
        +29s
        alice: 200 OPTIONS
        +32s
        alice: 200 BYE & bob: 200 BYE
        calls
        +2s
        count
        ",
        expect![[r#"
            show CSeq, RAck
            bob: REGISTER
                bob < 200 REGISTER
                    CSeq: 1 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    CSeq: 1 INVITE
                alice < 100 INVITE
                    CSeq: 1 INVITE
            bob: 200
                alice < 200 INVITE
                    CSeq: 1 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
                    CSeq: 1 ACK
            +60s
                60s: alice < OPTIONS sip:alice@10.0.0.1:5060
                    CSeq: 1 OPTIONS
                60s: bob < OPTIONS sip:bob@10.0.0.2:5060
                    CSeq: 2 OPTIONS
            alice: 200 OPTIONS & bob: 405 OPTIONS
            alice: INFO .
                bob < INFO sip:bob@10.0.0.2:5060
                    CSeq: 104 INFO
            bob: 200 INFO
                alice < 200 INFO
                    CSeq: 103 INFO
            bob: INFO .
                alice < INFO sip:alice@10.0.0.1:5060
                    CSeq: 103 INFO
            alice: 200 INFO
                bob < 200 INFO
                    CSeq: 102 INFO
            alice: INVITE .
                bob < INVITE sip:bob@10.0.0.2:5060
                    CSeq: 105 INVITE
                alice < 100 INVITE
                    CSeq: 104 INVITE
            bob: 183 / Require: 100rel / RSeq: 7
                alice < 183 INVITE
                    CSeq: 104 INVITE
            alice: PRACK . / RAck: 7 104 INVITE
                bob < PRACK sip:bob@10.0.0.2:5060
                    CSeq: 106 PRACK
                    RAck: 7 105 INVITE
            bob: 200 PRACK
                alice < 200 PRACK
                    CSeq: 105 PRACK
            bob: 200 INVITE
                alice < 200 INVITE
                    CSeq: 104 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
                    CSeq: 105 ACK
            bob: INFO .
                alice < INFO sip:alice@10.0.0.1:5060
                    CSeq: 104 INFO
            alice: 200 INFO
                bob < 200 INFO
                    CSeq: 103 INFO
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 105 -> sip:bob@10.0.0.2:5060 103
            +59s
            alice: 200 OPTIONS
            +30s
                1s: alice < OPTIONS sip:alice@10.0.0.1:5060
                    CSeq: 105 OPTIONS
                1s: bob < OPTIONS sip:bob@10.0.0.2:5060
                    CSeq: 107 OPTIONS
                1.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                1.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
                2.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                2.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
                4.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                4.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
                8.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                8.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
                12.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                12.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
                16.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                16.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
                20.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                20.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
                24.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                24.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
                28.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                28.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
            alice: INFO .
                bob < INFO sip:bob@10.0.0.2:5060
                    CSeq: 109 INFO
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 107 -> sip:bob@10.0.0.2:5060 103
            +29s
                0.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
                1.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
                2.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 107 OPTIONS
                2.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 105 OPTIONS
                3.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
                3.5s: alice < 100 INFO
                    CSeq: 107 INFO
                7.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
                11.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
                15.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
                19.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
                23.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
                27.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
            alice: 200 OPTIONS
            +32s
                2s: alice < OPTIONS sip:alice@10.0.0.1:5060
                    CSeq: 106 OPTIONS
                2s: bob < OPTIONS sip:bob@10.0.0.2:5060
                    CSeq: 110 OPTIONS
                2.5s: bob < INFO sip:bob@10.0.0.2:5060 again
                    CSeq: 109 INFO
                2.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                2.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
                3.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                3.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
                5.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                5.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
                9.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                9.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
                13.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                13.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
                17.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                17.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
                21.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                21.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
                25.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                25.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
                29.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                29.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
            alice: 200 BYE & bob: 200 BYE
                alice can't
                bob can't
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 107 -> sip:bob@10.0.0.2:5060 103 missed 0x101
            +2s
                1.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                    CSeq: 110 OPTIONS
                1.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
                    CSeq: 106 OPTIONS
                2s: alice < BYE sip:alice@10.0.0.1:5060
                    CSeq: 107 BYE
                2s: bob < BYE sip:bob@10.0.0.2:5060
                    CSeq: 111 BYE
            count
                messages.requests 10
                messages.responses 11
                proxy.forwarded 15
                proxy.forwarded_stateless 2
                proxy.request_retransmitted 50
                proxy.response_forwarded 7
                proxy.response_foreign 2
                proxy.branch_timeout 5
                transactions.created 15
                transactions.ended 13
                registrar.updated 1
                dialogs.created 1
                dialogs.confirmed 1
                dialogs.probed 6
                dialogs.byes 2
        "#]],
    );
}

#[test]
fn a_party_that_knows_of_no_call() {
    check_in(
        &mut world(probed),
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        +61s
        alice: 481 OPTIONS & bob: 200 OPTIONS
        +1s
        calls
        +1s
        calls
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
            +61s
                60s: alice < OPTIONS sip:alice@10.0.0.1:5060
                60s: bob < OPTIONS sip:bob@10.0.0.2:5060
                60.5s: bob < OPTIONS sip:bob@10.0.0.2:5060 again
                60.5s: alice < OPTIONS sip:alice@10.0.0.1:5060 again
            alice: 481 OPTIONS & bob: 200 OPTIONS
            +1s
                0s: alice < BYE sip:alice@10.0.0.1:5060
                0s: bob < BYE sip:bob@10.0.0.2:5060
                0.5s: alice < BYE sip:alice@10.0.0.1:5060 again
                0.5s: bob < BYE sip:bob@10.0.0.2:5060 again
            calls
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0 missed 0x1
            +1s
                0.5s: alice < BYE sip:alice@10.0.0.1:5060 again
                0.5s: bob < BYE sip:bob@10.0.0.2:5060 again
            calls
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0 missed 0x1
        "#]],
    );
}

#[test]
fn the_operator_ends_calls() {
    check_in(
        &mut World::new(1),
        "
        bob: REGISTER
        carol: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        trunk: INVITE sip:carol@example.org
        carol: 180
        end
        carol: 200 CANCEL & carol: 487 INVITE
        trunk: ACK
        calls
        bob: 200 BYE & alice: 200 BYE
        +2s
        calls
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            carol: REGISTER
                carol < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            trunk: INVITE sip:carol@example.org
                carol < INVITE sip:carol@10.0.0.5:5060
                trunk < 100 INVITE
            carol: 180
                trunk < 180 INVITE
            end
                alice < BYE sip:alice@10.0.0.1:5060
                bob < BYE sip:bob@10.0.0.2:5060
                carol < CANCEL sip:carol@10.0.0.5:5060
            carol: 200 CANCEL & carol: 487 INVITE
                carol < ACK sip:carol@10.0.0.5:5060
                trunk < 487 INVITE
            trunk: ACK
            calls
                Ending alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@10.0.0.2:5060 0 missed 0x1
            bob: 200 BYE & alice: 200 BYE
            +2s
            calls
            count
                messages.requests 6
                messages.responses 6
                proxy.forwarded 4
                proxy.forwarded_stateless 1
                proxy.request_absorbed 2
                proxy.response_forwarded 3
                proxy.response_absorbed 1
                proxy.cancelled 1
                transactions.created 4
                registrar.updated 2
                dialogs.created 2
                dialogs.confirmed 1
                dialogs.ended 2
                dialogs.byes 2
        "#]],
    );
}
