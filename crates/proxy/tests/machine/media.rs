//! Messages that wait for a media engine: their order, what is lost, what becomes of them without an engine.

use expect_test::{Expect, expect};
use proxy::OnFailure;

use crate::world::{World, engine};

fn check_or(on_failure: OnFailure, script: &str, expect: Expect) {
    let mut world = World::new(1);
    engine::relay_or(&mut world, on_failure);
    let script = script.replace("SDP", "Content-Type: application/sdp / body");
    expect.assert_eq(&world.play(&script));
    world.quiet();
}

fn check(script: &str, expect: Expect) {
    check_or(OnFailure::Reject(488), script, expect);
}

#[test]
fn responses_stay_in_their_order() {
    check(
        "
        bob: REGISTER
        show Body
        alice: INVITE sip:bob@example.org / SDP alice
        hold Media
        bob: 183 / SDP bob-early
        bob: 180
        bob: 200 / SDP bob
        bob: again 200
        engine
        engine
        engine
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            show Body
            alice: INVITE sip:bob@example.org / Content-Type: application/sdp / body alice
                alice < 100 INVITE
                    Body: 
                bob < INVITE sip:bob@10.0.0.2:5060
                    Body: relayed alice
            hold Media
            bob: 183 / Content-Type: application/sdp / body bob-early
            bob: 180
            bob: 200 / Content-Type: application/sdp / body bob
            bob: again 200
            engine
                alice < 183 INVITE
                    Body: relayed bob-early
                alice < 180 INVITE
                    Body: 
            engine
                alice < 200 INVITE
                    Body: relayed bob
            engine
                nothing is asked
            count
                messages.requests 2
                messages.responses 4
                proxy.forwarded 1
                proxy.response_forwarded 3
                proxy.response_absorbed 1
                transactions.created 1
                registrar.updated 1
                dialogs.created 1
                dialogs.confirmed 1
        "#]],
    );
}

#[test]
fn a_branch_that_waits_does_not_hold_up_another() {
    check(
        "
        bob: REGISTER & bob2: REGISTER
        hold Media
        alice: INVITE sip:bob@example.org / SDP alice
        engine
        bob2: 180
        bob: 180
        engine
        bob: 486
        bob2: 486
        alice: ACK
        ",
        expect![[r#"
            bob: REGISTER & bob2: REGISTER
                bob < 200 REGISTER
                bob2 < 200 REGISTER
            hold Media
            alice: INVITE sip:bob@example.org / Content-Type: application/sdp / body alice
                alice < 100 INVITE
            engine
                bob < INVITE sip:bob@10.0.0.2:5060
            bob2: 180
                bob2 can't
            bob: 180
                alice < 180 INVITE
            engine
                bob2 < INVITE sip:bob@10.0.0.3:5060
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
            bob2: 486
                bob2 < ACK sip:bob@10.0.0.3:5060
                alice < 486 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn a_call_is_cancelled_while_it_waits() {
    check(
        "
        bob: REGISTER
        hold Media
        alice: INVITE sip:bob@example.org / SDP alice
        alice: CANCEL
        alice: ACK
        engine
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            hold Media
            alice: INVITE sip:bob@example.org / Content-Type: application/sdp / body alice
                alice < 100 INVITE
            alice: CANCEL
                alice < 200 CANCEL
                alice < 487 INVITE
            alice: ACK
            engine
            count
                messages.requests 4
                proxy.request_absorbed 2
                transactions.created 1
                registrar.updated 1
                questions.stale 1
                dialogs.created 1
                dialogs.ended 1
        "#]],
    );
}

#[test]
fn an_heir_asks_again() {
    check(
        "
        bob: REGISTER
        hold Media
        alice: INVITE sip:bob@example.org / SDP alice
        die
        adopt
        engine
        bob: 200 / SDP bob
        die
        adopt
        engine
        bob: again 200
        engine
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            hold Media
            alice: INVITE sip:bob@example.org / Content-Type: application/sdp / body alice
                alice < 100 INVITE
            die
            adopt
            engine
                bob < INVITE sip:bob@10.0.0.2:5060
            bob: 200 / Content-Type: application/sdp / body bob
            die
            adopt
            engine
                nothing is asked
            bob: again 200
            engine
                alice < 200 INVITE
        "#]],
    );
}

#[test]
fn without_an_engine_a_call_is_rejected() {
    check(
        "
        bob: REGISTER
        hold Media
        show Body
        alice: INVITE sip:bob@example.org / SDP alice
        engine silent
        alice: ACK
        alice: INVITE sip:bob@example.org / SDP alice
        engine
        bob: 183 / SDP bob-early
        engine silent
        bob: 200 / SDP bob
        engine silent
        alice: 200 BYE & bob: 200 BYE
        calls
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            hold Media
            show Body
            alice: INVITE sip:bob@example.org / Content-Type: application/sdp / body alice
                alice < 100 INVITE
                    Body: 
            engine silent
                alice < 488 INVITE
                    Body: 
            alice: ACK
            alice: INVITE sip:bob@example.org / Content-Type: application/sdp / body alice
                alice < 100 INVITE
                    Body: 
            engine
                bob < INVITE sip:bob@10.0.0.2:5060
                    Body: relayed alice
            bob: 183 / Content-Type: application/sdp / body bob-early
            engine silent
                alice < 183 INVITE
                    Body: 
            bob: 200 / Content-Type: application/sdp / body bob
            engine silent
                alice < 200 INVITE
                    Body: 
                alice < BYE sip:alice@10.0.0.1:5060
                    Body: 
                bob < BYE sip:bob@10.0.0.2:5060
                    Body: 
            alice: 200 BYE & bob: 200 BYE
            calls
                Ending alice-2 sip:alice@10.0.0.1:5060 2 -> sip:bob@10.0.0.2:5060 0 missed 0x1
        "#]],
    );
}

#[test]
fn without_an_engine_a_call_goes_on_as_it_came() {
    check_or(
        OnFailure::Pass,
        "
        bob: REGISTER
        hold Media
        show Body
        alice: INVITE sip:bob@example.org / SDP alice
        engine silent
        bob: 200 / SDP bob
        engine silent
        alice: ACK
        alice: INVITE . / SDP alice-again
        engine silent
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            hold Media
            show Body
            alice: INVITE sip:bob@example.org / Content-Type: application/sdp / body alice
                alice < 100 INVITE
                    Body: 
            engine silent
                bob < INVITE sip:bob@10.0.0.2:5060
                    Body: alice
            bob: 200 / Content-Type: application/sdp / body bob
            engine silent
                alice < 200 INVITE
                    Body: bob
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
                    Body: 
            alice: INVITE . / Content-Type: application/sdp / body alice-again
                alice < 100 INVITE
                    Body: 
            engine silent
                bob < INVITE sip:bob@10.0.0.2:5060
                    Body: alice-again
        "#]],
    );
}
