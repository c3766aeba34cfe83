//! Requests within a call that would not reach the other party go to him all the same (`call::astray`).

use expect_test::expect;
use proxy::Listener;

use super::{byes::recorded, check_in, dialogs::world};

const UP: &str =
    "show Route\nbob: REGISTER\nalice: INVITE sip:bob@example.org\nbob: 200\nalice: ACK\n+5s\n";

/// What alice says goes to bob, and by his answer the call goes on or is over.
fn to_bob(says: &str) {
    let mut world = world(recorded);
    let method = says.split(' ').next().expect("a method");
    let before = match method {
        "ACK" => "alice: INVITE .\nbob: 200\n",
        _ => "",
    };
    let answer = match method {
        "ACK" => String::new(),
        _ => format!("bob: 200 {method}\n"),
    };
    let seen = world.play(&format!(
        "{UP}{before}count\nalice: {says}\n{answer}calls\ncount\n"
    ));
    let at_bob = format!("bob < {method} sip:bob@10.0.0.2:5060\n");
    let after = seen.rsplit_once("alice: ").map_or("", |(_, after)| after);
    assert!(after.contains(&at_bob), "{seen}");
    assert!(!seen.contains("carol <"), "{seen}");
    assert!(seen.contains("dialogs.astray 1\n"), "{seen}");
    assert_eq!(!seen.contains("Confirmed"), method == "BYE", "{seen}");
    world.quiet();
}

/// Carol's phone is the caller's too, and would say 200 to everything.
#[test]
fn a_caller_who_answers_his_own_bye() {
    for method in ["BYE", "INVITE", "UPDATE", "ACK"] {
        for way in [
            "to sip:bob@10.0.0.5:5060",
            "to sip:carol@10.0.0.2:5060",
            "to sip:bob@10.0.0.2:5062",
            "to sip:bob@10.0.0.2:5060;maddr=10.0.0.5",
            "to sip:bob@10.0.0.2:5060;alias=10.0.0.5~5060~1",
            "to sip:bob@10.0.0.2:5060;received=sip:10.0.0.5",
            "to sip:bob@10.0.0.2:5060;alias=10.0.0.5~5060~2",
            "to sip:carol@far.example",
            "to tel:+123",
            "by <sip:10.0.0.5;lr>",
            "by <sip:10.0.0.5>",
            "by <sip:10.0.0.5;lr> / to sip:carol@10.0.0.5",
            "to sip:carol@10.0.0.5 / strictly",
            "by <sip:10.0.0.5;lr> / strictly",
        ] {
            let dot = if method == "ACK" { "" } else { " ." };
            to_bob(&format!("{method}{dot} / {way}"));
        }
    }
}

/// What phones lose, or write otherwise.
#[test]
fn the_same_way_in_other_words() {
    for way in ["to sip:bob@10.0.0.2", "strictly"] {
        let says = format!("BYE . / {way}");
        let mut world = world(recorded);
        let seen = world.play(&format!(
            "{UP}count\nalice: {says}\nbob: 200\ncalls\ncount\n"
        ));
        assert!(seen.contains("bob < BYE sip:bob@10.0.0.2"), "{seen}");
        assert!(!seen.contains("astray"), "{seen}");
        assert!(!seen.contains("Confirmed"), "{seen}");
        world.quiet();
    }
}

#[test]
fn routes_that_were_lost_come_back() {
    check_in(
        &mut world(recorded),
        "
        show Route
        bob: REGISTER
        trunk: INVITE sip:bob@example.org / Record-Route: <sip:10.0.0.4>, <sip:10.0.0.3;lr>
        bob: 200 / Record-Route: <sip:10.0.0.5;lr>, <sip:10.9.9.9:5060;lr;td=x>, <sip:10.0.0.4>, <sip:10.0.0.3;lr>
        bob: INVITE . / Route: <sip:10.9.9.9:5060;lr>
        count
        ",
        expect![[r#"
            show Route
            bob: REGISTER
                bob < 200 REGISTER
            trunk: INVITE sip:bob@example.org / Record-Route: <sip:10.0.0.4>, <sip:10.0.0.3;lr>
                bob < INVITE sip:bob@10.0.0.2:5060
                trunk < 100 INVITE
            bob: 200 / Record-Route: <sip:10.0.0.5;lr>, <sip:10.9.9.9:5060;lr;td=x>, <sip:10.0.0.4>, <sip:10.0.0.3;lr>
                trunk < 200 INVITE
            bob: INVITE . / Route: <sip:10.9.9.9:5060;lr>
                bob3 < INVITE sip:10.0.0.4
                    Route: <sip:10.0.0.3;lr>, <sip:trunk@10.0.0.9:5060>
                bob < 100 INVITE
            count
                messages.requests 3
                messages.responses 1
                proxy.forwarded 2
                proxy.response_forwarded 1
                transactions.created 2
                registrar.updated 1
                dialogs.created 1
                dialogs.confirmed 1
                dialogs.astray 1
        "#]],
    );
}

/// A name is looked up for it, and meanwhile the worker dies.
#[test]
fn the_heir_knows_the_way_too() {
    let mut world = world(recorded);
    world
        .policy
        .hosts
        .insert("phone.example", vec!["10.0.0.2:5060".parse().unwrap()]);
    check_in(
        &mut world,
        "
        show Route
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200 / Contact: <sip:bob@phone.example>
        +5s
        hold Resolve
        alice: BYE . / to sip:carol@10.0.0.5 / by <sip:10.0.0.5;lr>
        calls
        die
        adopt
        release
        bob: 200 BYE
        calls
        records
        ",
        expect![[r#"
            show Route
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200 / Contact: <sip:bob@phone.example>
                alice < 200 INVITE
            +5s
            hold Resolve
            alice: BYE . / to sip:carol@10.0.0.5 / by <sip:10.0.0.5;lr>
                ? 1 Resolve
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@phone.example 0
            die
            adopt
                ? 1 Resolve
            release
                bob < BYE sip:bob@phone.example
            bob: 200 BYE
                alice < 200 BYE
            calls
                Ended alice-1 sip:alice@10.0.0.1:5060 1 -> sip:bob@phone.example 0
            records
                alice-1 caller with bob for 5s
        "#]],
    );
}

/// The record's Contact has the address that its phone was heard from, which the phone does not know.
#[test]
fn a_callee_behind_address_translation() {
    check_in(
        &mut world(super::nat::detecting),
        "
        nat: REGISTER
        alice: INVITE sip:nat@example.org
        nat: 200
        alice: ACK / to sip:carol@10.0.0.5
        alice: INFO .
        nat: 200
        alice: INFO . / to sip:nat@192.168.1.5
        nat: 200
        alice: INVITE . / to sip:nat@192.168.1.5
        nat: 200 INVITE
        alice: BYE . / to sip:carol@10.0.0.5
        nat: 200
        calls
        ",
        expect![[r#"
            nat: REGISTER
                nat < 200 REGISTER
            alice: INVITE sip:nat@example.org
                nat < INVITE sip:nat@192.168.1.5:5060
                alice < 100 INVITE
            nat: 200
                alice < 200 INVITE
            alice: ACK / to sip:carol@10.0.0.5
                nat < ACK sip:nat@192.168.1.5:5060
            alice: INFO .
                nat < INFO sip:nat@192.168.1.5:5060
            nat: 200
                alice < 200 INFO
            alice: INFO . / to sip:nat@192.168.1.5
                nat < INFO sip:nat@192.168.1.5
            nat: 200
                alice < 200 INFO
            alice: INVITE . / to sip:nat@192.168.1.5
                nat < INVITE sip:nat@192.168.1.5:5060
                alice < 100 INVITE
            nat: 200 INVITE
                alice < 200 INVITE
            alice: BYE . / to sip:carol@10.0.0.5
                nat < BYE sip:nat@192.168.1.5:5060
            nat: 200
                alice < 200 BYE
            calls
        "#]],
    );
}

/// What they say of the way is no way past us.
#[test]
fn phones_that_leave_out_what_they_do_not_know() {
    check_in(
        &mut world(recorded),
        "
        show Route
        bob: REGISTER
        alice: INVITE sip:bob@example.org / Record-Route: <sip:10.9.9.9:5060;lr>
        bob: 200 / Record-Route: <sip:10.9.9.9:5060;lr>, <sip:10.0.0.5;lr>
        alice: ACK / Route: <sip:10.9.9.9:5060;lr>
        bob: INVITE . / Route: <sip:10.9.9.9:5060;lr>
        alice: 200
        bob: ACK . / Route: <sip:10.9.9.9:5060;lr>
        alice: BYE . / Route: <sip:10.9.9.9:5060;lr>
        bob: 200
        calls
        count
        ",
        expect![[r#"
            show Route
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org / Record-Route: <sip:10.9.9.9:5060;lr>
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200 / Record-Route: <sip:10.9.9.9:5060;lr>, <sip:10.0.0.5;lr>
                alice < 200 INVITE
            alice: ACK / Route: <sip:10.9.9.9:5060;lr>
                bob < ACK sip:bob@10.0.0.2:5060
            bob: INVITE . / Route: <sip:10.9.9.9:5060;lr>
                alice < INVITE sip:alice@10.0.0.1:5060
                bob < 100 INVITE
            alice: 200
                bob < 200 INVITE
            bob: ACK . / Route: <sip:10.9.9.9:5060;lr>
                alice < ACK sip:alice@10.0.0.1:5060
            alice: BYE . / Route: <sip:10.9.9.9:5060;lr>
                bob < BYE sip:bob@10.0.0.2:5060
            bob: 200
                alice < 200 BYE
            calls
            count
                messages.requests 6
                messages.responses 3
                proxy.forwarded 3
                proxy.forwarded_stateless 2
                proxy.response_forwarded 3
                transactions.created 3
                registrar.updated 1
                dialogs.created 1
                dialogs.confirmed 1
                dialogs.ended 1
                cdr.made 1
        "#]],
    );
}

#[test]
fn by_the_listener_of_who_gets_it() {
    check_in(
        &mut world(recorded),
        "
        show Route
        iris: REGISTER
        alice: INVITE sip:iris@example.org
        iris: 200
        alice: ACK / Route: <sip:10.9.9.9:5060;lr>
        alice: BYE . / Route: <sip:10.9.9.9:5060;lr>
        iris: 200
        calls
        count
        ",
        expect![[r#"
            show Route
            iris: REGISTER
                iris < 200 REGISTER by 2
            alice: INVITE sip:iris@example.org
                iris < INVITE sip:iris@10.1.0.1:5060 by 2
                alice < 100 INVITE
            iris: 200
                alice < 200 INVITE
            alice: ACK / Route: <sip:10.9.9.9:5060;lr>
                iris < ACK sip:iris@10.1.0.1:5060 by 2
            alice: BYE . / Route: <sip:10.9.9.9:5060;lr>
                iris < BYE sip:iris@10.1.0.1:5060 by 2
            iris: 200
                alice < 200 BYE
            calls
            count
                messages.requests 4
                messages.responses 2
                proxy.forwarded 2
                proxy.forwarded_stateless 1
                proxy.response_forwarded 2
                transactions.created 2
                registrar.updated 1
                dialogs.created 1
                dialogs.confirmed 1
                dialogs.ended 1
                dialogs.astray 2
                cdr.made 1
        "#]],
    );
}

/// While its address is asked for it is read once more.
#[test]
fn what_waits_keeps_its_way() {
    let mut world = world(recorded);
    let at_bob = vec!["10.0.0.2:5060".parse().expect("an address")];
    world.policy.hosts.insert("phone.example", at_bob);
    check_in(
        &mut world,
        "
        show Route
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 200 / Contact: <sip:bob@phone.example>
        hold Resolve
        alice: BYE . / Route: <sip:10.9.9.9:5060;lr>, <sip:10.0.0.5;lr>
        release
        bob: 200 BYE
        records
        ",
        expect![[r#"
            show Route
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200 / Contact: <sip:bob@phone.example>
                alice < 200 INVITE
            hold Resolve
            alice: BYE . / Route: <sip:10.9.9.9:5060;lr>, <sip:10.0.0.5;lr>
                ? 1 Resolve
            release
                bob < BYE sip:bob@phone.example
            bob: 200 BYE
                alice < 200 BYE
            records
                alice-1 caller with bob for 0ns
        "#]],
    );
}

/// What went elsewhere before the call was answered is answered afterwards.
#[test]
fn answers_of_somebody_else_that_come_late() {
    for (says, answer) in [
        ("BYE", "200 BYE"),
        ("UPDATE", "200 UPDATE / Contact: <sip:carol@10.0.0.5>"),
    ] {
        let mut world = world(recorded);
        let seen = world.play(&format!(
            "bob: REGISTER\nalice: INVITE sip:bob@example.org\nbob: 180\nalice: {says} . / to sip:carol@10.0.0.5\n\
             bob: 200 INVITE\nalice: ACK\ncarol: {answer}\ncalls\nend\n+2s\n"
        ));
        assert!(seen.contains(&format!("carol < {says} ")), "{seen}");
        let still = seen.lines().find(|line| line.contains("Confirmed"));
        let at_bob = "-> sip:bob@10.0.0.2:5060 ";
        assert!(still.is_some_and(|line| line.contains(at_bob)), "{seen}");
        assert!(seen.contains("bob < BYE sip:bob@10.0.0.2:5060"), "{seen}");
    }
}

/// What he was heard to be called while it rang is another name of the same phone.
#[test]
fn an_early_bye_to_another_name_of_the_callee() {
    for (ringing, there) in [
        ("<sip:early@10.0.0.2>", true),
        ("<sip:carol@10.0.0.5>", false),
    ] {
        let mut world = world(recorded);
        let who = if there { "bob" } else { "carol" };
        let seen = world.play(&format!(
            "bob: REGISTER\nalice: INVITE sip:bob@example.org\nbob: 180 / Contact: {ringing}\nalice: BYE .\n\
             bob: 200 INVITE\nalice: ACK\n{who}: 200 BYE\ncalls\n"
        ));
        assert!(seen.contains(&format!("{who} < BYE ")), "{seen}");
        assert_eq!(!seen.contains("Confirmed"), there, "{seen}");
        world.play("end");
    }
}

/// A callee behind a proxy that does not stay in the call answers from that one's address: what went there for somebody else is not what he says.
#[test]
fn an_early_request_to_somebody_else_behind_the_same_proxy() {
    for (says, answer) in [
        ("BYE", "200 BYE"),
        ("UPDATE", "200 UPDATE / Contact: <sip:carol@10.0.0.5>"),
    ] {
        for way in [
            "to sip:carol@10.0.0.5 / by <sip:10.0.0.9;lr>",
            "to sip:carol@10.0.0.9",
        ] {
            let mut world = world(recorded);
            let seen = world.play(&format!(
                "trunk: REGISTER\nalice: INVITE sip:trunk@example.org\ntrunk: 180 / Contact: <sip:bob@10.0.0.2>\nalice: {says} . / {way}\n\
                 trunk: 200 INVITE / Contact: <sip:bob@10.0.0.2>\nalice: ACK\ntrunk: {answer}\ncalls\n"
            ));
            assert!(
                seen.contains(&format!("trunk < {says} sip:carol@")),
                "{seen}"
            );
            let still = seen.lines().find(|line| line.contains("Confirmed"));
            let at_bob = "-> sip:bob@10.0.0.2 ";
            assert!(still.is_some_and(|line| line.contains(at_bob)), "{seen}");
        }
    }
}

/// A reload has taken away the listener that he was reached by: then the one that the Route names is as good.
#[test]
fn a_listener_that_is_gone() {
    for method in ["BYE", "UPDATE"] {
        let mut world = world(recorded);
        world.play("iris: REGISTER\nalice: INVITE sip:iris@example.org\niris: 200\nalice: ACK\n");
        world.configure(|settings| {
            let there = settings.listeners.remove(1);
            settings.listeners.push(Listener { id: 3, ..there });
        });
        let seen = world.play(&format!("alice: {method} .\ncount\n"));
        let wanted = format!("iris < {method} sip:iris@10.1.0.1:5060 by 3\n");
        assert!(seen.contains(&wanted), "{seen}");
        assert!(!seen.contains("astray"), "{seen}");
        let seen = world.play(&format!("alice: {method} . / to sip:carol@10.0.0.5\n"));
        assert!(seen.contains(&wanted), "{seen}");
    }
}

/// Listeners may be advertised by one name: what is for him goes by his, and nothing is amiss.
#[test]
fn listeners_of_one_name() {
    let mut world = world(recorded);
    world.configure(|settings| {
        for (listener, address) in settings.listeners.iter_mut().zip(["10.9.9.9", "10.8.8.8"]) {
            let address = format!("{address}:5060").parse().expect("an address");
            *listener = Listener::new(listener.id, address, Some("edge.example.net"));
        }
    });
    let seen = world.play(
        "iris: REGISTER\nalice: INVITE sip:iris@example.org\niris: 200\nalice: ACK\nalice: INVITE .\niris: 200\n\
         alice: BYE .\niris: 200\ncount\n",
    );
    let at_iris: Vec<&str> = seen
        .lines()
        .filter(|line| line.contains("iris < "))
        .collect();
    assert_eq!(at_iris.len(), 5, "{seen}");
    assert!(at_iris.iter().all(|line| line.ends_with(" by 2")), "{seen}");
    assert!(seen.contains("dialogs.ended 1"), "{seen}");
    assert!(!seen.contains("astray"), "{seen}");
}

/// Headers in a Contact are not allowed; the operator's BYE arrives all the same.
#[test]
fn a_contact_with_headers() {
    let mut world = world(recorded);
    let seen = world.play(
        "bob: REGISTER\nalice: INVITE sip:bob@example.org\nbob: 200 / Contact: <sip:bob@10.0.0.2;x=1?Subject=y>\nalice: ACK\ncalls\nend\n",
    );
    assert!(seen.contains("-> sip:bob@10.0.0.2;x=1 "), "{seen}");
    assert!(seen.contains("bob < BYE sip:bob@10.0.0.2;x=1\n"), "{seen}");
}

/// What the parties do not agree on yet, and what no record knows of, goes where it says.
#[test]
fn others_are_left_alone() {
    check_in(
        &mut world(recorded),
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: UPDATE . / to sip:carol@10.0.0.5
        carol: 200
        bob: 200 INVITE
        alice: ACK
        alice: INFO . / to sip:carol@10.0.0.5
        carol: 200
        count
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            alice: UPDATE . / to sip:carol@10.0.0.5
                carol < UPDATE sip:carol@10.0.0.5
            carol: 200
                alice < 200 UPDATE
            bob: 200 INVITE
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            alice: INFO . / to sip:carol@10.0.0.5
                carol < INFO sip:carol@10.0.0.5
            carol: 200
                alice < 200 INFO
            count
                messages.requests 5
                messages.responses 4
                proxy.forwarded 3
                proxy.forwarded_stateless 1
                proxy.response_forwarded 4
                transactions.created 3
                registrar.updated 1
                dialogs.created 1
                dialogs.confirmed 1
        "#]],
    );
}
