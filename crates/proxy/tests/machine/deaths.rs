//! The worker dies between any two things that it does, an heir goes on, and the phones hear what they would have heard.
//!
//! The phones send nothing twice: what carries a call over is the arena and the journal.

use std::collections::{BTreeMap, BTreeSet};

use stdx::Rng;

use crate::world::{World, agent, engine};

/// What everybody has heard, each thing once: to whom, and the text with branches and tags named alike.
type Heard = BTreeSet<(String, String)>;

fn heard(world: &mut World) -> Heard {
    let sent = world.sent.clone();
    sent.iter()
        .map(|wire| {
            let mut text = world.symbolic(&wire.text);
            // A proof of other nonces.
            if let Some(at) = text.find("response=\"") {
                text.replace_range(at + 10..at + 42, "");
            }
            // Rows differ from run to run, and so do the numbers of branches.
            let text: String = text
                .split('#')
                .enumerate()
                .map(|(at, part)| match at {
                    0 => part.to_owned(),
                    _ => format!(
                        "#{}",
                        part.trim_start_matches(|c: char| c == 's' || c.is_ascii_digit())
                    ),
                })
                .collect();
            (wire.to.to_string(), text)
        })
        .collect()
}

/// No INVITE goes to the same place under two branches: that would ring a phone twice.
fn one_branch_each(world: &World) -> Result<(), String> {
    let mut branches: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for wire in world
        .sent
        .iter()
        .filter(|wire| wire.text.starts_with("INVITE "))
    {
        let key = format!(
            "{} {} {}",
            wire.to,
            agent::header(&wire.text, "Call-ID"),
            agent::header(&wire.text, "CSeq")
        );
        branches
            .entry(key)
            .or_default()
            .insert(agent::header(&wire.text, "Via"));
    }
    match branches.iter().find(|(_, vias)| vias.len() > 1) {
        None => Ok(()),
        Some((key, vias)) => Err(format!("{key} under {vias:?}")),
    }
}

fn run(world: &mut World, script: &str, prepare: fn(&mut World), deaths: &[u64]) -> Heard {
    world.start_over();
    world.policy.class.recorded = proxy::Recorded::All;
    prepare(world);
    world.deaths = deaths.to_vec();
    world.play(script);
    world.quiet();
    let mut heard = heard(world);
    let records = world.records(false).into_iter();
    heard.extend(records.map(|record| ("the records".to_owned(), record)));
    heard
}

/// Every death of one worker, and some of two in a row.
fn check_with(script: &str, prepare: fn(&mut World)) {
    check_but(script, prepare, "nothing");
}

/// As [`check_with`], where what begins with `spared` may stay unsaid.
fn check_but(script: &str, prepare: fn(&mut World), spared: &str) {
    let mut world = World::with(1, 0);
    let wanted = run(&mut world, script, prepare, &[]);
    assert!(!wanted.is_empty());
    let points = world.points;
    let mut rng = Rng::new(points);
    let doubles: Vec<_> = (0..points / 3)
        .map(|_| {
            let first = u64::from(rng.below(points as u32)) + 1;
            vec![first, first + 1 + u64::from(rng.below(12))]
        })
        .collect();
    for deaths in (1..=points).map(|point| vec![point]).chain(doubles) {
        let got = run(&mut world, script, prepare, &deaths);
        assert!(
            world.died > 0 || deaths.len() > 1,
            "nobody died at {deaths:?} of {points}"
        );
        let missing: Vec<_> = wanted
            .difference(&got)
            .filter(|(_, text)| !text.starts_with(spared))
            .collect();
        let more: Vec<_> = got.difference(&wanted).collect();
        assert!(
            missing.is_empty() && more.is_empty(),
            "deaths at {deaths:?} of {points}\nnot heard: {missing:#?}\nheard as well: {more:#?}"
        );
        if world.policy.hide.is_some() {
            crate::flows::hidden::nobody_learns(&world);
        }
        if let Err(error) = one_branch_each(&world) {
            panic!("deaths at {deaths:?} of {points}: {error}");
        }
    }
}

fn check(script: &str) {
    check_with(script, |_| {});
}

#[test]
fn a_call() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        +4s
        bob: 200
        alice: ACK
        +1s
        bob: BYE .
        alice: 200
        ",
    );
}

#[test]
fn two_calls_in_the_same_turns() {
    check(
        "
        bob: REGISTER & carol: REGISTER
        alice: INVITE sip:bob@example.org & trunk: INVITE sip:carol@example.org
        bob: 180 & carol: 180
        bob: 200 & carol: 486
        alice: ACK & trunk: ACK
        alice: BYE .
        bob: 200
        ",
    );
}

#[test]
fn a_forked_call_that_one_answers() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        bob3: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180 & bob2: 180
        bob3: 486
        +4s
        bob2: 200
        bob: 200 CANCEL & bob: 487 INVITE
        alice: ACK
        ",
    );
}

#[test]
fn a_forked_call_that_nobody_takes() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        bob3: REGISTER
        alice: INVITE sip:bob@example.org
        bob2: 180
        bob: 486
        +4s
        bob2: 404
        bob3: 480
        alice: ACK
        ",
    );
}

#[test]
fn challenges_are_put_together() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        bob3: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 480
        bob2: 407 / Proxy-Authenticate: Digest realm=a
        bob3: 401 / WWW-Authenticate: Digest realm=b
        alice: ACK
        ",
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
        ",
    );
}

#[test]
fn a_cancelled_call() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        +2s
        bob2: 180
        alice: CANCEL
        bob: 200 CANCEL & bob: 487 INVITE
        bob2: 487 INVITE & bob2: 200 CANCEL
        alice: ACK
        ",
    );
}

#[test]
fn a_call_cancelled_before_a_sign_of_life() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        alice: CANCEL
        bob: 180
        bob: 200 CANCEL & bob: 487 INVITE
        bob2: 486
        alice: ACK
        ",
    );
}

#[test]
fn a_cancel_that_crosses_the_answer() {
    // The heir may meet the answer before it sends the CANCEL, which is of no use then.
    check_but(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: CANCEL & bob: 200 INVITE
        bob: 481 CANCEL
        alice: ACK
        ",
        |_| {},
        "CANCEL ",
    );
}

#[test]
fn two_answers() {
    // As above, of the CANCEL to the other phone.
    check_but(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180 & bob2: 180
        bob: 200 & bob2: 200
        alice: ACK
        ",
        |_| {},
        "CANCEL ",
    );
}

#[test]
fn timer_c_cancels_what_rings_too_long() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        +191s
        bob: 200 CANCEL & bob: 487 INVITE
        alice: ACK
        ",
    );
}

#[test]
fn a_call_that_nobody_answers() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        +33s
        alice: ACK
        ",
    );
}

#[test]
fn other_requests() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: MESSAGE sip:bob@example.org
        bob: 404
        +1s
        bob2: 200
        alice: OPTIONS sip:example.org
        alice: MESSAGE sip:nobody@example.org
        alice: MESSAGE sip:carol@example.org
        alice: INVITE sip:bob@elsewhere.example
        alice: ACK
        ",
    );
}

#[test]
fn registrations() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER / Expires: 100
        +50s
        bob: REGISTER / Contact:
        bob: REGISTER / Contact: <sip:bob@10.0.0.2:5060>;expires=0
        bob: REGISTER / Expires: 1
        +51s
        bob2: REGISTER / Contact:
        ",
    );
}

/// Everything is asked for, and answered only later.
fn slowly(world: &mut World) {
    world.policy.open = true;
    world
        .policy
        .hosts
        .insert("far.example", vec!["10.0.0.5:5060".parse().unwrap()]);
    world
        .policy
        .hosts
        .insert("near.example", vec!["10.0.0.9:5060".parse().unwrap()]);
    world.policy.targets.insert(
        "all",
        [
            "sip:carol@far.example",
            "sip:trunk@near.example",
            "sip:bob@10.0.0.2",
        ]
        .map(proxy::Target::uri)
        .to_vec(),
    );
}

#[test]
fn late_answers() {
    check_with(
        "
        hold Admit, Credentials, Route, Resolve
        bob: REGISTER
        release
        alice: INVITE sip:all@example.org
        release
        carol: 180 & trunk: 180
        bob: 486
        carol: 200
        trunk: 200 CANCEL & trunk: 487 INVITE
        alice: ACK
        release
        ",
        slowly,
    );
}

#[test]
fn late_answers_with_digest() {
    check_with(
        "
        digest
        hold Admit, Credentials, Route, Resolve
        bob: REGISTER
        release
        bob: REGISTER / as bob bob
        release
        alice: MESSAGE sip:bob@example.org
        release
        alice: MESSAGE sip:bob@example.org / as alice ecila
        release
        bob: 200
        ",
        slowly,
    );
}

#[test]
fn cancelled_while_questions_are_open() {
    check_with(
        "
        hold Route
        alice: INVITE sip:all@example.org
        alice: CANCEL
        alice: ACK
        release
        hold Resolve
        alice: INVITE sip:all@example.org
        bob: 180
        alice: CANCEL
        bob: 200 CANCEL & bob: 487 INVITE
        alice: ACK
        release
        ",
        slowly,
    );
}

#[test]
fn one_group_after_another() {
    check(
        "
        bob: REGISTER / Contact: <sip:bob@10.0.0.2:5060>;q=0.9
        bob2: REGISTER / Contact: <sip:bob@10.0.0.3:5060>;q=0.5
        bob3: REGISTER / Contact: <sip:bob@10.0.0.4:5060>;q=0.5
        alice: INVITE sip:bob@example.org
        bob: 486
        bob2: 180
        bob3: 404
        +1s
        bob2: 200
        alice: ACK
        ",
    );
}

#[test]
fn a_group_that_rings_too_long() {
    check(
        "
        bob: REGISTER / Contact: <sip:bob@10.0.0.2:5060>;q=0.9
        bob2: REGISTER / Contact: <sip:bob@10.0.0.3:5060>;q=0.5
        bob3: REGISTER / Contact: <sip:bob@10.0.0.4:5060>;q=0.1
        alice: INVITE sip:bob@example.org
        bob: 180
        +21s
        bob: 200 CANCEL & bob: 487 INVITE
        bob2: 180
        +21s
        bob2: 487 INVITE & bob2: 200 CANCEL
        bob3: 180
        alice: CANCEL
        bob3: 487 INVITE & bob3: 200 CANCEL
        alice: ACK
        ",
    );
}

#[test]
fn one_hop_after_another() {
    check_with(
        "
        alice: INVITE sip:group@example.org
        carol: 503
        +5s
        trunk: 180
        trunk: 486
        alice: ACK
        alice: MESSAGE sip:x@far.example
        carol: 503
        trunk: 200
        ",
        crate::flows::failover::prepare,
    );
}

#[test]
fn hops_with_names_that_are_asked_for() {
    check_with(
        "
        hold Resolve
        alice: INVITE sip:group@example.org
        carol: 503
        release
        bob2: 503
        release
        trunk: 180
        trunk: 200
        alice: ACK
        ",
        crate::flows::failover::prepare,
    );
}

#[test]
fn a_hop_that_was_given_up_rings_all_the_same() {
    check_with(
        "
        alice: INVITE sip:x@far.example
        +5s
        carol: 180
        carol: 200 CANCEL & carol: 487 INVITE
        trunk: 486
        alice: ACK
        ",
        crate::flows::failover::prepare,
    );
}

#[test]
fn hops_that_nothing_leaves_for() {
    check_with(
        "
        alice: INVITE sip:group@example.org
        +2s
        trunk: 486
        alice: ACK
        ",
        |world| {
            crate::flows::failover::prepare(world);
            world.policy.unreachable = ["10.0.0.5:5060", "10.0.0.3:5060"]
                .map(|address| address.parse().unwrap())
                .to_vec();
        },
    );
}

#[test]
fn redirections() {
    check_with(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 302 / Contact: <sip:a@10.0.0.5>, <sip:b@10.0.0.9>;q=0.1, <sips:c@10.0.0.9>
        bob2: 404
        carol: 302 / Contact: <sip:d@10.0.0.4>
        bob3: 480
        trunk: 486
        alice: ACK
        ",
        crate::flows::redirecting::prepare,
    );
}

#[test]
fn contacts_are_put_together() {
    check(
        "
        bob: REGISTER
        bob2: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 302 / Contact: <sip:a@10.0.0.5>
        bob2: 300 / Contact: <sip:b@10.0.0.9>
        alice: ACK
        ",
    );
}

#[test]
fn early_dialogs() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 183 / Require: 100rel / RSeq: 7
        alice: PRACK . / RAck: 7 1 INVITE
        bob: 200 PRACK
        alice: UPDATE .
        bob: 200 UPDATE
        bob: 200 INVITE
        alice: ACK
        ",
    );
}

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
