//! Questions answered late, in any order, twice, too late, and after a take-over: no answer is lost, none is taken twice.

use expect_test::{Expect, expect};
use proxy::Target;
use stdx::Rng;
use tables::Counter;

use crate::world::{World, agent};

/// Everything may be asked: two users with a name to look up for each branch, and one with two.
fn world() -> World {
    let mut world = World::new(1);
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
        "both",
        ["sip:carol@far.example", "sip:trunk@near.example"]
            .map(Target::uri)
            .to_vec(),
    );
    world
}

fn check(script: &str, expect: Expect) {
    let mut world = world();
    expect.assert_eq(&world.play(script));
    world.quiet();
}

#[test]
fn each_kind_is_answered_in_a_later_turn() {
    check(
        "
        digest
        hold Admit, Credentials, Route, Resolve
        alice: INVITE sip:carol@far.example
        answer 1
        alice: ACK
        alice: INVITE sip:carol@far.example / as alice ecila
        alice: again INVITE
        answer 2
        answer 3
        answer 4
        answer 5
        alice: again INVITE
        carol: 486
        alice: ACK
        count
        ",
        expect![[r#"
            digest
            hold Admit, Credentials, Route, Resolve
            alice: INVITE sip:carol@far.example
                ? 1 Admit
                alice < 100 INVITE
            answer 1
                alice < 407 INVITE
            alice: ACK
            alice: INVITE sip:carol@far.example / as alice ecila
                ? 2 Admit
                alice < 100 INVITE
            alice: again INVITE
                alice < 100 INVITE again
            answer 2
                ? 3 Credentials
            answer 3
                ? 4 Route
            answer 4
                ? 5 Resolve
            answer 5
                carol < INVITE sip:carol@far.example
            alice: again INVITE
                alice < 100 INVITE again
            carol: 486
                carol < ACK sip:carol@far.example
                alice < 486 INVITE
            alice: ACK
            count
                messages.requests 6
                messages.responses 1
                rejected.unauthorized 1
                proxy.forwarded 1
                proxy.response_retransmitted 2
                proxy.request_absorbed 4
                proxy.response_forwarded 1
                transactions.created 2
                auth.succeeded 1
                dialogs.created 1
                dialogs.ended 1
        "#]],
    );
}

#[test]
fn several_requests_in_another_order() {
    check(
        "
        hold Admit, Route
        alice: INVITE sip:carol@far.example & bob: MESSAGE sip:trunk@near.example & carol: OPTIONS sip:example.org
        answer 3
        answer 1
        answer 2
        answer 6
        answer 5
        answer 4
        ",
        expect![[r#"
            hold Admit, Route
            alice: INVITE sip:carol@far.example & bob: MESSAGE sip:trunk@near.example & carol: OPTIONS sip:example.org
                ? 1 Admit
                ? 2 Admit
                ? 3 Admit
                alice < 100 INVITE
            answer 3
                ? 4 Route
            answer 1
                ? 5 Route
            answer 2
                ? 6 Route
            answer 6
                trunk < MESSAGE sip:trunk@near.example
            answer 5
                carol < INVITE sip:carol@far.example
            answer 4
                carol < 200 OPTIONS
        "#]],
    );
}

#[test]
fn branches_in_another_order() {
    check(
        "
        hold Resolve
        alice: INVITE sip:both@example.org
        answer 1
        trunk: 180
        answer 2
        carol: 486
        trunk: 486
        alice: ACK
        ",
        expect![[r#"
            hold Resolve
            alice: INVITE sip:both@example.org
                ? 1 Resolve
                ? 2 Resolve
                alice < 100 INVITE
            answer 1
                trunk < INVITE sip:trunk@near.example
            trunk: 180
                alice < 180 INVITE
            answer 2
                carol < INVITE sip:carol@far.example
            carol: 486
                carol < ACK sip:carol@far.example
            trunk: 486
                trunk < ACK sip:trunk@near.example
                alice < 486 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn one_branch_has_failed_before_the_other_has_an_address() {
    check(
        "
        hold Resolve
        alice: INVITE sip:both@example.org
        answer 2
        carol: 486
        answer 1
        trunk: 200
        alice: ACK
        ",
        expect![[r#"
            hold Resolve
            alice: INVITE sip:both@example.org
                ? 1 Resolve
                ? 2 Resolve
                alice < 100 INVITE
            answer 2
                carol < INVITE sip:carol@far.example
            carol: 486
                carol < ACK sip:carol@far.example
            answer 1
                trunk < INVITE sip:trunk@near.example
            trunk: 200
                alice < 200 INVITE
            alice: ACK
                trunk < ACK sip:trunk@10.0.0.9:5060
        "#]],
    );
}

#[test]
fn twice() {
    check(
        "
        hold Admit, Route, Resolve
        alice: INVITE sip:both@example.org
        answer 1
        answer 1
        answer 2
        answer 2
        answer 1
        answer 3
        answer 3
        answer 4
        answer 4
        answer 2
        count
        ",
        expect![[r#"
            hold Admit, Route, Resolve
            alice: INVITE sip:both@example.org
                ? 1 Admit
                alice < 100 INVITE
            answer 1
                ? 2 Route
            answer 1
            answer 2
                ? 3 Resolve
                ? 4 Resolve
            answer 2
            answer 1
            answer 3
                trunk < INVITE sip:trunk@near.example
            answer 3
            answer 4
                carol < INVITE sip:carol@far.example
            answer 4
                no such question
            answer 2
                no such question
            count
                messages.requests 1
                proxy.forwarded 2
                transactions.created 1
                questions.stale 4
                dialogs.created 1
        "#]],
    );
}

#[test]
fn after_the_request_has_ended() {
    check(
        "
        hold Admit, Route, Resolve
        alice: INVITE sip:both@example.org
        alice: CANCEL
        alice: ACK
        answer 1
        +60s
        answer 1
        alice: INVITE sip:both@example.org
        answer 2
        answer 1
        answer 3
        alice: CANCEL
        alice: ACK
        answer 4
        answer 5
        +60s
        answer 4
        count
        ",
        expect![[r#"
            hold Admit, Route, Resolve
            alice: INVITE sip:both@example.org
                ? 1 Admit
                alice < 100 INVITE
            alice: CANCEL
                alice < 200 CANCEL
                alice < 487 INVITE
            alice: ACK
            answer 1
                no such question
            +60s
            answer 1
                no such question
            alice: INVITE sip:both@example.org
                ? 2 Admit
                alice < 100 INVITE
            answer 2
                ? 3 Route
            answer 1
                no such question
            answer 3
                ? 4 Resolve
                ? 5 Resolve
            alice: CANCEL
                alice < 200 CANCEL
                alice < 487 INVITE
            alice: ACK
            answer 4
                no such question
            answer 5
                no such question
            +60s
            answer 4
                no such question
            count
                messages.requests 6
                proxy.request_absorbed 4
                transactions.created 2
                transactions.ended 2
                dialogs.created 1
                dialogs.ended 1
        "#]],
    );
}

#[test]
fn one_branch_rings_and_one_waits_when_the_caller_gives_up() {
    check(
        "
        hold Resolve
        alice: INVITE sip:both@example.org
        answer 1
        trunk: 180
        alice: CANCEL
        answer 2
        trunk: 200 CANCEL & trunk: 487 INVITE
        alice: ACK
        answer 2
        ",
        expect![[r#"
            hold Resolve
            alice: INVITE sip:both@example.org
                ? 1 Resolve
                ? 2 Resolve
                alice < 100 INVITE
            answer 1
                trunk < INVITE sip:trunk@near.example
            trunk: 180
                alice < 180 INVITE
            alice: CANCEL
                alice < 200 CANCEL
                trunk < CANCEL sip:trunk@near.example
            answer 2
            trunk: 200 CANCEL & trunk: 487 INVITE
                trunk < ACK sip:trunk@near.example
                alice < 487 INVITE
            alice: ACK
            answer 2
                no such question
        "#]],
    );
}

#[test]
fn one_branch_answers_and_one_waits() {
    check(
        "
        hold Resolve
        alice: INVITE sip:both@example.org
        answer 1
        trunk: 200
        answer 2
        alice: ACK
        ",
        expect![[r#"
            hold Resolve
            alice: INVITE sip:both@example.org
                ? 1 Resolve
                ? 2 Resolve
                alice < 100 INVITE
            answer 1
                trunk < INVITE sip:trunk@near.example
            trunk: 200
                alice < 200 INVITE
            answer 2
                no such question
            alice: ACK
                trunk < ACK sip:trunk@10.0.0.9:5060
        "#]],
    );
}

#[test]
fn an_heir_asks_again() {
    check(
        "
        digest
        hold Admit, Credentials, Route, Resolve
        alice: INVITE sip:both@example.org
        die
        answer 1
        alice: ACK
        alice: INVITE sip:both@example.org / as alice ecila
        die
        answer 1
        die
        answer 1
        die
        answer 1
        die
        adopt
        answer 2
        die
        adopt
        answer 1
        carol: 180 & trunk: 180
        trunk: 486
        carol: 486
        alice: ACK
        count
        ",
        expect![[r#"
            digest
            hold Admit, Credentials, Route, Resolve
            alice: INVITE sip:both@example.org
                ? 1 Admit
                alice < 100 INVITE
            die
                ? 1 Admit
            answer 1
                alice < 407 INVITE
            alice: ACK
            alice: INVITE sip:both@example.org / as alice ecila
                ? 2 Admit
                alice < 100 INVITE
            die
                ? 1 Admit
            answer 1
                ? 2 Credentials
            die
                ? 1 Credentials
            answer 1
                ? 2 Route
            die
                ? 1 Route
            answer 1
                ? 2 Resolve
                ? 3 Resolve
            die
            adopt
                ? 1 Resolve
                ? 2 Resolve
            answer 2
                carol < INVITE sip:carol@far.example
            die
            adopt
                ? 1 Resolve
            answer 1
                trunk < INVITE sip:trunk@near.example
            carol: 180 & trunk: 180
                alice < 180 INVITE
                alice < 180 INVITE
            trunk: 486
                trunk < ACK sip:trunk@near.example
            carol: 486
                carol < ACK sip:carol@far.example
                alice < 486 INVITE
            alice: ACK
            count
                messages.requests 4
                messages.responses 4
                rejected.unauthorized 1
                proxy.forwarded 2
                proxy.request_absorbed 4
                proxy.response_forwarded 3
                transactions.created 2
                transactions.adopted 11
                auth.succeeded 1
                dialogs.created 1
                dialogs.ended 1
        "#]],
    );
}

#[test]
fn nobody_ever_answers() {
    check(
        "
        hold Admit, Route, Resolve
        alice: MESSAGE sip:both@example.org
        alice: INVITE sip:both@example.org
        +40s
        alice: again
        answer 1
        answer 2
        ",
        expect![[r#"
            hold Admit, Route, Resolve
            alice: MESSAGE sip:both@example.org
                ? 1 Admit
            alice: INVITE sip:both@example.org
                ? 2 Admit
                alice < 100 INVITE
            +40s
                3.5s: alice < 100 MESSAGE
            alice: again
                alice < 100 INVITE again
            answer 1
                ? 3 Route
            answer 2
                ? 4 Route
        "#]],
    );
}

/// Requests of all kinds; the questions about them are answered at random, some of them twice, with deaths in between.
#[test]
fn in_any_order_every_request_gets_its_answer_once() {
    const FIRST: u64 = 0x5eed;
    for seed in FIRST..FIRST + 60 {
        eprintln!("seed {seed:#x}");
        let mut rng = Rng::new(seed);
        let mut world = world();
        world.policy.held = ["Admit", "Credentials", "Route", "Resolve"]
            .map(str::to_owned)
            .to_vec();
        let lines = [
            "alice: INVITE sip:both@example.org",
            "bob: MESSAGE sip:trunk@near.example",
            "bob2: OPTIONS sip:example.org",
            "bob3: INVITE sip:nobody@example.org",
            "nat: REGISTER / ;rport",
            "alice: INVITE sip:carol@far.example",
            "bob: INVITE sip:trunk@near.example",
        ];
        for line in lines {
            world.play(line);
            answer_some(&mut world, &mut rng);
        }
        while !world.slots[0].held.is_empty() {
            answer_some(&mut world, &mut rng);
        }
        // Everything that was forwarded is answered now.
        for line in ["carol: 200", "trunk: 486"] {
            let name = line.split(':').next().unwrap();
            let methods: Vec<String> = world
                .agent(name)
                .inbox
                .iter()
                .filter(|text| !text.starts_with("SIP/2.0") && !text.starts_with("ACK"))
                .map(|text| agent::header(text, "Call-ID").to_owned())
                .collect();
            assert!(!methods.is_empty(), "{name} was asked");
        }
        let invites = |world: &World, name: &str, call: &str| {
            world
                .sent
                .iter()
                .filter(|wire| wire.text.starts_with("INVITE ") && wire.text.contains(call))
                .map(|wire| (wire.to, agent::header(&wire.text, "Via").to_owned()))
                .filter(|(to, _)| to.to_string().starts_with(name))
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        };
        assert_eq!(
            invites(&world, "10.0.0.5", "alice-1"),
            1,
            "carol, of the forked one"
        );
        assert_eq!(
            invites(&world, "10.0.0.9", "alice-1"),
            1,
            "the trunk, of the forked one"
        );
        assert_eq!(invites(&world, "10.0.0.5", "alice-2"), 1);
        assert_eq!(invites(&world, "10.0.0.9", "bob-2"), 1);
        for (name, wanted) in [
            ("bob2", "200 OPTIONS"),
            ("bob3", "404 INVITE"),
            ("nat", "200 REGISTER"),
        ] {
            let answers: std::collections::BTreeSet<String> = world
                .agent(name)
                .inbox
                .iter()
                .map(|text| {
                    let cseq = agent::header(text, "CSeq");
                    format!(
                        "{} {}",
                        agent::code(text).unwrap(),
                        cseq.split(' ').nth(1).unwrap()
                    )
                })
                .filter(|answer| !answer.starts_with("100 "))
                .collect();
            assert_eq!(answers.into_iter().collect::<Vec<_>>(), [wanted], "{name}");
        }
        world.quiet();
    }
}

fn answer_some(world: &mut World, rng: &mut Rng) {
    for _ in 0..rng.below(3) + 1 {
        let open = world.slots[0].held.len() as u32;
        if open == 0 {
            return;
        }
        let at = rng.below(open) as usize;
        match rng.below(8) {
            0 => {
                world.die(0);
                world.adopt_all(0);
            }
            1 => {
                // Twice: the second is stale.
                world.play(&format!("answer {}", at + 1));
                let stale = world.counter(Counter::AnswerStale);
                world.play(&format!("answer {}", at + 1));
                assert!(world.counter(Counter::AnswerStale) >= stale);
                world.slots[0].held.remove(at);
            }
            _ => {
                world.play(&format!("answer {}", at + 1));
                world.slots[0].held.remove(at);
            }
        }
    }
}
