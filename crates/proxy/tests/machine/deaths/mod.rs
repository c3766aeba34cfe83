//! The worker dies between any two things that it does, an heir goes on, and the phones hear what they would have heard.
//!
//! The phones send nothing twice: what carries a call over is the arena and the journal.

mod calls;

use std::collections::{BTreeMap, BTreeSet};

use stdx::Rng;

use crate::world::{World, agent};

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
