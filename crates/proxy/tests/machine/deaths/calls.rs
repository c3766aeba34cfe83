//! Deaths over calls on record: their end, timers, seats and limits, engines, and hidden ones.

use super::{check, check_but, check_with};
use crate::world::{World, engine};

/// The books know of a BYE what its answer says, whoever died in between.
#[test]
fn calls_whose_end_is_refused() {
    // An heir may meet the time of a 100 and what comes after it at once.
    check_but(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        +2s
        alice: BYE .
        bob: 407
        +1s
        alice: BYE . & bob: BYE .
        +1s
        bob: 200 BYE
        alice: 481 BYE
        carol: INVITE sip:bob@example.org
        bob: 180
        carol: BYE .
        bob: 481 BYE
        bob: 200 INVITE
        carol: ACK
        +1s
        bob: BYE .
        +33s
        ",
        |_| {},
        "SIP/2.0 100",
    );
}

#[test]
fn a_bye_that_crosses_the_answer() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: BYE .
        bob: 200 INVITE
        alice: ACK
        bob: 200 BYE
        ",
    );
}

#[test]
fn calls_end_by_the_operator() {
    check(
        "
        bob: REGISTER
        carol: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        trunk: INVITE sip:carol@example.org
        carol: 180
        end
        +2s
        carol: 200 CANCEL & carol: 487 INVITE
        trunk: ACK
        bob: 200 BYE & alice: 200 BYE
        +3s
        ",
    );
}

#[test]
fn a_call_that_lasts_too_long() {
    check_with(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        +101s
        bob: 200 BYE & alice: 481 BYE
        +3s
        ",
        crate::flows::dialogs::short,
    );
}

#[test]
fn probes_and_the_numbers_that_they_take() {
    // A probe that dies with its worker is not made up for: the next one comes.
    check_but(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        +61s
        alice: 200 OPTIONS & bob: 200 OPTIONS
        alice: UPDATE .
        bob: 200 UPDATE
        alice: BYE .
        bob: 200 BYE
        ",
        crate::flows::dialogs::probed,
        "OPTIONS",
    );
}

#[test]
fn session_timers() {
    check_with(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org / Supported: timer
        bob: 200
        alice: ACK
        +200s
        alice: UPDATE . / Supported: timer
        bob: 200
        +299s
        alice: INFO .
        bob: 200
        +3s
        ",
        crate::flows::dialogs::timed,
    );
}

#[test]
fn seats_at_destinations() {
    check_with(
        "
        alice: INVITE sip:media@example.org
        carol: 503
        trunk: 200
        alice: ACK
        bob: INVITE sip:media@example.org
        bob2: INVITE sip:media@example.org
        bob2: ACK
        carol: 200
        bob: ACK
        alice: BYE .
        trunk: 200
        iris: INVITE sip:media@example.org
        trunk: 486
        iris: ACK
        bob3: INVITE sip:media@example.org
        trunk: 180
        bob3: CANCEL
        trunk: 200 CANCEL & trunk: 487 INVITE
        bob3: ACK
        carol: BYE .
        bob: 200
        ",
        crate::flows::dialogs::group,
    );
}

/// Who routes sees how many calls there are, and must not find a group full of the very call that it routes.
#[test]
fn the_last_room_of_a_group() {
    check_with(
        "
        alice: INVITE sip:media@example.org
        carol: 200
        alice: ACK
        bob: INVITE sip:media@example.org
        trunk: 200
        bob: ACK
        bob2: INVITE sip:media@example.org
        bob2: ACK
        alice: BYE .
        carol: 200
        bob3: INVITE sip:media@example.org
        carol: 200
        bob3: ACK
        trunk: BYE .
        bob: 200
        bob3: BYE .
        carol: 200
        ",
        |world| {
            crate::flows::dialogs::group(world);
            world.policy.by_room = true;
        },
    );
}

/// A worker dies over an INVITE that it has put on record and sent nowhere, and its heir is told to refuse it: nothing of the call is left for longer than some seconds.
#[test]
fn the_heir_is_told_otherwise() {
    let mut world = World::with(1, 0);
    let mut refused = 0;
    for point in 1.. {
        world.start_over();
        crate::flows::dialogs::group(&mut world);
        world.policy.changes_its_mind = true;
        world.deaths = vec![point];
        world.play("alice: INVITE sip:media@example.org");
        if world.died == 0 {
            break;
        }
        if world.sent.iter().any(|wire| wire.text.contains(" 403 ")) {
            refused += 1;
            let seen = world.play("alice: ACK\n+7s\ncalls\n");
            assert!(!seen.contains("Early"), "a death at {point}: {seen}");
        }
        world.quiet();
    }
    assert!(refused > 0);
}

#[test]
fn over_the_limit() {
    check_with(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        carol: INVITE sip:bob@example.org
        carol: ACK
        bob: 486
        alice: ACK
        carol: INVITE sip:bob@example.org
        bob: 200
        carol: ACK
        alice: INVITE sip:bob@example.org
        alice: ACK
        carol: BYE .
        bob: 200
        ",
        |world| world.policy.calls_max = Some(1),
    );
}

/// Copies of the answers stand for those that a phone sends for the lack of an ACK (RFC 3261 section 13.3.1.4), and those of the ACK for what it
/// hears again: a response that waits for an engine is lost with the worker, and an ACK has no transaction.
#[test]
fn calls_through_a_media_engine() {
    let sdp = "Content-Type: application/sdp / body";
    check_with(
        &format!(
            "
            bob: REGISTER
            alice: INVITE sip:bob@example.org / {sdp} alice
            bob: 183 / {sdp} bob
            +500ms
            bob: again 183
            +500ms
            bob: again 183
            +500ms
            bob: 200 / {sdp} bob
            +500ms
            bob: again 200
            +500ms
            bob: again 200
            +500ms
            alice: ACK
            +1s
            bob: BYE .
            alice: 200
            "
        ),
        engine::relay,
    );
    // The offer in the answer.
    check_with(
        &format!(
            "
            bob: REGISTER
            alice: INVITE sip:bob@example.org
            bob: 200 / {sdp} bob
            +500ms
            bob: again 200
            +500ms
            bob: again 200
            +500ms
            alice: ACK / {sdp} alice
            +500ms
            bob: again 200
            alice: again ACK
            +500ms
            bob: again 200
            alice: again ACK
            +1s
            alice: BYE .
            bob: 200
            "
        ),
        engine::relay,
    );
}

fn in_records(world: &mut World) {
    world.policy.hide = Some(topology::Mode::Dialog);
}

fn in_tokens(world: &mut World) {
    world.policy.hide = Some(topology::Mode::Stateless);
}

#[test]
fn a_hidden_call() {
    for how in [in_records, in_tokens] {
        check_with(HIDDEN_CALL, how);
    }
}

const HIDDEN_CALL: &str = "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        +4s
        bob: 200
        alice: ACK
        bob: INFO .
        alice: 200
        alice: BYE .
        bob: 200
        ";

#[test]
fn a_hidden_call_that_several_ring_for() {
    check_with(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 183 & bob2: 180
        bob2: 200
        alice: ACK
        bob: 200 CANCEL
        bob: 487 INVITE
        bob2: BYE .
        alice: 200
        ",
        in_records,
    );
}

#[test]
fn a_hidden_call_that_nobody_takes() {
    check_with(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 302 / Contact: <sip:carol@10.0.0.5:5060>
        alice: ACK
        carol: INVITE sip:bob@example.org
        bob: 180
        carol: CANCEL
        bob: 200 CANCEL
        bob: 487 INVITE
        carol: ACK
        ",
        in_tokens,
    );
}
