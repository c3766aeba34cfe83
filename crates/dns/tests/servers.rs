//! Servers that are silent, slow, broken or hostile.

mod world;

use std::time::Duration;

use dns::{Input, Settings};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use proptest::prelude::*;
use world::*;

const SECOND: Duration = Duration::from_secs(1);

fn here() -> Vec<hickory_proto::rr::Record> {
    vec![
        a("host.example", 1),
        srv("_sip._udp.far.example", 1, 1, 5070, "host.example"),
    ]
}

#[test]
fn a_silent_server_is_followed_by_the_next() {
    let mut world = World::new(settings(2), V4);
    let answer = world.look("host.example:1", |sent| match sent.server {
        1 => Says::Nothing,
        _ => zone(here())(sent),
    });
    assert_eq!(answer, "198.51.100.1:1");
    assert_eq!(world.asked, ["A host.example @1", "A host.example @2"]);
    assert_eq!(world.resolver.tally.timeouts, 1);
}

#[test]
fn silence_ends_with_the_tries_or_the_deadline() {
    let mut world = World::new(settings(1), V4);
    let start = world.now;
    assert_eq!(world.look("host.example:1", silent), "Failed");
    assert_eq!(world.asked.len(), 2, "attempts");
    assert_eq!(world.answers[0].0, start + 2 * SECOND);
    // Known for a moment, then looked into again.
    assert_eq!(world.look("host.example:1", zone(here())), "Failed");
    world.wait(2 * SECOND);
    assert_eq!(world.look("host.example:1", zone(here())), "198.51.100.1:1");

    let mut world = World::new(settings(8), V4);
    let start = world.now;
    assert_eq!(world.look("host.example:1", silent), "Failed");
    assert_eq!(world.answers[0].0, start + 5 * SECOND, "the deadline");
    assert_eq!(world.asked.len(), 16);
    assert_eq!(world.out.servers.len(), 0, "not enough to be called down");
}

#[test]
fn a_late_answer_is_as_good() {
    let mut world = World::new(settings(2), V4);
    world.resolve(1, "host.example:1");
    let first = world.sent().remove(0);
    world.wait(Duration::from_millis(1500));
    world.step(Input::Tick);
    assert_eq!(world.sent().len(), 1, "the second server is asked");
    let late = reply(&first.query, ResponseCode::NoError, &[a("host.example", 1)]);
    world.deliver(&first, &late);
    world.run(silent);
    assert_eq!(show(&world.answers[0].1), "198.51.100.1:1");
}

/// Servers that do not answer are asked last, and named once; so is their coming back.
#[test]
fn health() {
    let mut world = World::new(settings(2), V4);
    let only_second = |sent: &Sent| match sent.server {
        1 => Says::Nothing,
        _ => zone(here())(sent),
    };
    for n in 0..4 {
        world.look(&format!("name-{n}.example:1"), only_second);
    }
    assert_eq!(world.out.servers, [(server(1), false)]);
    assert_eq!(
        world.asked.last().unwrap(),
        "A name-3.example @2",
        "the second first"
    );
    world.out.servers.clear();
    world.wait(20 * SECOND);
    world.look("another.example:1", zone(here()));
    assert_eq!(world.asked.last().unwrap(), "A another.example @1");
    assert_eq!(world.out.servers, [(server(1), true)]);
}

#[test]
fn rotation() {
    let mut world = World::new(
        Settings {
            rotate: true,
            ..settings(3)
        },
        V4,
    );
    for n in 0..3 {
        world.look(&format!("name-{n}.example:1"), zone(here()));
    }
    let servers: Vec<&str> = world
        .asked
        .iter()
        .map(|asked| &asked[asked.len() - 1..])
        .collect();
    assert_eq!(servers, ["1", "2", "3"]);
}

#[test]
fn failures_are_followed_by_the_next_server_at_once() {
    for says in [
        (|sent: &Sent| Says::Message(reply(&sent.query, ResponseCode::ServFail, &[])))
            as fn(&Sent) -> Says,
        |sent| Says::Message(reply(&sent.query, ResponseCode::Refused, &[])),
        |_| Says::Refused,
    ] {
        let mut world = World::new(settings(2), V4);
        let start = world.now;
        let answer = world.look("host.example:1", |sent| match sent.server {
            1 => says(sent),
            _ => zone(here())(sent),
        });
        assert_eq!(answer, "198.51.100.1:1");
        assert_eq!(world.answers[0].0, start, "without waiting");
    }
    // All of them: each is asked once, since nobody would say anything else.
    let mut world = World::new(settings(2), V4);
    let answer = world.look("host.example:1", |sent| {
        Says::Message(reply(&sent.query, ResponseCode::ServFail, &[]))
    });
    assert_eq!((answer.as_str(), world.asked.len()), ("Failed", 2));
    // A server that is being restarted has its time.
    let mut world = World::new(settings(1), V4);
    world.resolve(1, "host.example:1");
    world.run_for(Duration::from_millis(900), |_| Says::Refused);
    assert_eq!(world.asked.len(), 1);
    world.run(zone(here()));
    assert_eq!(show(&world.answers[0].1), "198.51.100.1:1");
}

#[test]
fn a_server_without_edns() {
    for code in [
        ResponseCode::FormErr,
        ResponseCode::NotImp,
        ResponseCode::BADVERS,
    ] {
        let mut world = World::new(settings(1), V4);
        let old = |sent: &Sent| match sent.query.edns {
            Some(_) => {
                let mut message = reply(&sent.query, code, &[]);
                message.edns.clone_from(&sent.query.edns);
                Says::Message(message)
            }
            None => zone(here())(sent),
        };
        assert_eq!(
            world.look("host.example:1", old),
            "198.51.100.1:1",
            "{code:?}"
        );
        assert_eq!(world.edns, [true, false]);
        world.look("another.example:1", old);
        assert_eq!(world.edns, [true, false, false], "remembered");
    }
    let mut world = World::new(settings(1), V4);
    let never = |sent: &Sent| Says::Message(reply(&sent.query, ResponseCode::FormErr, &[]));
    assert_eq!(world.look("host.example:1", never), "Failed");
}

#[test]
fn a_cut_answer_is_asked_for_by_tcp() {
    let cut = |sent: &Sent| {
        let mut message = reply(&sent.query, ResponseCode::NoError, &[]);
        message.metadata.truncation = sent.connection.is_none();
        if sent.connection.is_some() {
            return zone(here())(sent);
        }
        Says::Message(message)
    };
    let mut world = World::new(settings(1), V4);
    assert_eq!(world.look("host.example:1", cut), "198.51.100.1:1");
    assert_eq!(world.asked, ["A host.example @1", "tcp A host.example @1"]);
    assert_eq!(world.out.closes.len(), 1, "and it is closed");
    assert_eq!(world.resolver.tally.streams, 1);
    // TCP is refused: the next server.
    let mut world = World::new(settings(2), V4);
    let answer = world.look("host.example:1", |sent| {
        match (sent.server, sent.connection) {
            (1, Some(_)) => Says::Refused,
            (1, None) => cut(sent),
            _ => zone(here())(sent),
        }
    });
    assert_eq!(answer, "198.51.100.1:1");
    // Cut by TCP as well: no end, but for the tries.
    let mut world = World::new(settings(1), V4);
    let answer = world.look("host.example:1", |sent| {
        let mut message = reply(&sent.query, ResponseCode::NoError, &[]);
        message.metadata.truncation = true;
        Says::Message(message)
    });
    assert_eq!(answer, "Failed");
}

/// What is no answer of whom we asked to what we asked changes nothing; the true answer still counts.
#[test]
fn forgeries() {
    type Forge = fn(&mut Sent, &mut Message);
    let forgeries: &[(&str, Forge)] = &[
        ("another id", |_, m| m.metadata.id ^= 1),
        ("another lane", |s, _| s.lane = (s.lane + 1) % dns::LANES),
        ("another server", |s, _| s.server = 2),
        ("no server of ours", |s, _| s.server = 99),
        ("another name", |_, m| {
            m.queries[0].name = name("evil.example")
        }),
        ("another type", |_, m| {
            m.queries[0].query_type = RecordType::AAAA
        }),
        ("another class", |_, m| {
            m.queries[0].query_class = DNSClass::CH
        }),
        ("a query", |_, m| {
            m.metadata.message_type = MessageType::Query
        }),
        ("no question", |_, m| m.queries.clear()),
        ("two questions", |_, m| {
            let twice = m.queries[0].clone();
            m.queries.push(twice);
        }),
    ];
    for (what, forge) in forgeries {
        let mut world = World::new(settings(2), V4);
        world.resolve(1, "host.example:1");
        let sent = world.sent().remove(0);
        let mut false_one = reply(&sent.query, ResponseCode::NoError, &[a("host.example", 66)]);
        let mut by = sent.clone();
        forge(&mut by, &mut false_one);
        world.deliver(&by, &false_one);
        assert_eq!(world.resolver.tally.mismatched, 1, "{what}");
        assert_eq!(world.answers.len(), 0, "{what}");
        let true_one = reply(&sent.query, ResponseCode::NoError, &[a("host.example", 1)]);
        world.deliver(&sent, &true_one);
        world.run(silent);
        assert_eq!(show(&world.answers[0].1), "198.51.100.1:1", "{what}");
    }
}

/// The right id, and the name in other letters: nobody is believed before TCP has said the same.
#[test]
fn other_letters_are_asked_about_by_tcp() {
    let mut world = World::new(settings(1), V4);
    let answer = world.look("a-name-with-letters.example:1", |sent| {
        let last = if sent.connection.is_some() { 1 } else { 66 };
        let owner = "a-name-with-letters.example";
        let mut message = reply(&sent.query, ResponseCode::NoError, &[a(owner, last)]);
        message.queries[0].name = name(owner);
        Says::Message(message)
    });
    assert_eq!(answer, "198.51.100.1:1");
    assert_eq!(world.asked.len(), 2);
}

/// Whoever answers for his own name says nothing about others.
#[test]
fn records_of_other_names_are_ignored() {
    let mut world = World::new(settings(1), V4);
    let evil = |sent: &Sent| {
        let question = &sent.query.queries[0];
        if question.name == name("_sip._udp.evil.example") {
            let own = srv("_sip._udp.evil.example", 1, 1, 5070, "victim.example");
            let mut message = reply(
                &sent.query,
                ResponseCode::NoError,
                &[own, a("victim.example", 66)],
            );
            message.add_additional(a("victim.example", 66));
            message.add_additional(a("other.example", 66));
            message.add_authority(a("other.example", 66));
            return Says::Message(message);
        }
        zone(vec![a("victim.example", 1), a("other.example", 2)])(sent)
    };
    // It may send its own callers where it likes.
    assert_eq!(world.look("evil.example;udp", evil), "198.51.100.66:5070");
    assert_eq!(
        world.asked,
        ["SRV _sip._udp.evil.example @1"],
        "the address came along"
    );
    // Nobody else's.
    assert_eq!(world.look("victim.example:1", evil), "198.51.100.1:1");
    assert_eq!(world.look("other.example:1", evil), "198.51.100.2:1");
    let stray = |sent: &Sent| {
        Says::Message(reply(
            &sent.query,
            ResponseCode::NoError,
            &[
                a("victim.example", 66),
                cname("victim.example", "x.example"),
            ],
        ))
    };
    assert_eq!(world.look("stray.example:1", stray), "NotFound");
}

#[test]
fn aliases_are_followed_and_end() {
    // One at a time: each alias is asked about.
    let step = |sent: &Sent| {
        let owner = sent.query.queries[0].name.to_ascii().to_lowercase();
        let n: u32 = owner
            .trim_start_matches('n')
            .split('.')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let record = match n {
            5 => a("n5.example", 5),
            _ => cname(&format!("n{n}.example"), &format!("n{}.example", n + 1)),
        };
        Says::Message(reply(&sent.query, ResponseCode::NoError, &[record]))
    };
    let mut world = World::new(settings(1), V4);
    assert_eq!(world.look("n0.example:1", step), "198.51.100.5:1");
    assert_eq!(world.asked.len(), 6);
    let mut world = World::new(settings(1), V4);
    assert_eq!(world.look("n6.example:1", step), "Failed", "without end");
    assert!(world.asked.len() <= 10, "{}", world.asked.len());
    // In a circle, within one answer.
    let circle = |sent: &Sent| {
        let records = [
            cname("a.example", "b.example"),
            cname("b.example", "a.example"),
        ];
        Says::Message(reply(&sent.query, ResponseCode::NoError, &records))
    };
    let mut world = World::new(settings(1), V4);
    assert_eq!(world.look("a.example:1", circle), "Failed");
}

#[test]
fn stale_is_better_than_nothing() {
    let mut world = World::new(settings(1), V4);
    assert_eq!(world.look("host.example:1", zone(here())), "198.51.100.1:1");
    world.wait(70 * SECOND);
    let start = world.now;
    assert_eq!(world.look("host.example:1", silent), "198.51.100.1:1");
    assert_eq!(world.answers[1].0, start + Duration::from_millis(1800));
    assert!(world.resolver.tally.stale >= 1);
    // For 30 s nobody is asked for that.
    world.resolve(2, "host.example:1");
    assert_eq!(world.answers.len(), 3);
    world.wait(30 * SECOND);
    let asked = world.asked.len();
    assert_eq!(
        world.look("host.example:1", zone(vec![a("host.example", 2)])),
        "198.51.100.2:1"
    );
    assert_eq!(world.asked.len(), asked + 1);
    // A server that says that there is nothing more is believed.
    world.wait(70 * SECOND);
    assert_eq!(world.look("host.example:1", zone(vec![])), "NotFound");
    // An hour beyond its end it is forgotten.
    let mut world = World::new(settings(1), V4);
    world.look("host.example:1", zone(here()));
    world.wait(3700 * SECOND);
    assert_eq!(world.look("host.example:1", silent), "Failed");
}

#[test]
fn nothing_is_known_for_as_long_as_the_soa_says() {
    let mut world = World::new(settings(1), V4);
    assert_eq!(world.look("missing.example:1", zone(here())), "NotFound");
    world.wait(29 * SECOND);
    assert_eq!(world.look("missing.example:1", zone(here())), "NotFound");
    assert_eq!(world.asked.len(), 1);
    world.wait(2 * SECOND);
    assert_eq!(
        world.look("missing.example:1", zone(vec![a("missing.example", 9)])),
        "198.51.100.9:1"
    );
}

/// Equal questions are asked once, however many wait for the answer; how long a step takes does not depend on how many there are.
#[test]
fn thousands_wait_for_one_question() {
    let mut world = World::new(settings(1), V4);
    for token in 0..3000 {
        world.resolve(token, "host.example:1");
    }
    let sent = world.sent();
    assert_eq!(sent.len(), 1);
    world.deliver(
        &sent[0],
        &reply(
            &sent[0].query,
            ResponseCode::NoError,
            &[a("host.example", 1)],
        ),
    );
    let mut steps = 0;
    while world.answers.len() < 3000 {
        let before = world.answers.len();
        world.step(Input::Tick);
        let came = world.answers.len() - before;
        assert!((1..=64).contains(&came), "{came} in one step");
        steps += 1;
    }
    assert!(steps >= 40);
    world.run(silent);
}

/// So do different ones that end at the same moment.
#[test]
fn thousands_end_by_and_by() {
    let mut world = World::new(settings(1), V4);
    for token in 0..3000 {
        world.resolve(token, &format!("name-{token}.example:1"));
    }
    world.sent();
    world.wait(60 * SECOND);
    while world.resolver.deadline().is_some() {
        let before = world.answers.len();
        world.step(Input::Tick);
        world.sent();
        assert!(world.answers.len() - before <= 128);
        world.wait(Duration::from_millis(1));
    }
    assert_eq!(world.answers.len(), 3000);
    assert_eq!(
        (world.resolver.pending(), world.resolver.questions()),
        (0, 0)
    );
}

#[test]
fn too_many_are_refused_at_once() {
    let mut world = World::new(
        Settings {
            pending_max: 10,
            ..settings(1)
        },
        V4,
    );
    world.look("host.example:1", zone(here()));
    for token in 0..20 {
        world.resolve(token, &format!("name-{token}.example:1"));
    }
    assert_eq!(
        (world.resolver.pending(), world.resolver.tally.refused),
        (10, 10)
    );
    // What is known needs no place.
    world.resolve(99, "host.example:1");
    assert_eq!(show(&world.answers.last().unwrap().1), "198.51.100.1:1");
    world.run(silent);
    assert_eq!(world.answers.len(), 22);
}

/// Whoever asks for ever new names of a silent zone leaves room for all others.
#[test]
fn one_source_does_not_take_all_the_room() {
    let mut world = World::new(
        Settings {
            pending_max: 100,
            ..settings(1)
        },
        V4,
    );
    let mallory = [192, 0, 2, 66].into();
    world.look("known.example:1", zone(vec![a("known.example", 7)]));
    for token in 0..200 {
        world.resolve_for(mallory, token, &format!("name-{token}.silent.example:1"));
    }
    assert_eq!(world.resolver.pending(), 50);
    let tally = world.resolver.tally;
    assert_eq!((tally.refused, tally.over_share), (150, 150));
    // What is known needs no place, his neither.
    world.resolve_for(mallory, 200, "known.example:1");
    assert_eq!(show(&world.answers.last().unwrap().1), "198.51.100.7:1");
    let refused = world.answers.len();
    for token in 0..20 {
        world.resolve(token, &format!("name-{token}.busy.example:1"));
    }
    assert_eq!(world.resolver.pending(), 70, "the others wait beside him");
    assert_eq!(world.answers.len(), refused);
    world.run(|sent| match sent.query.queries[0].name {
        ref of if name("silent.example").zone_of(of) => Says::Nothing,
        _ => zone(
            (0..20)
                .map(|n| a(&format!("name-{n}.busy.example"), 9))
                .collect(),
        )(sent),
    });
    let found = world.answers[refused..].iter();
    assert_eq!(
        found
            .filter(|(_, answer)| show(answer) == "198.51.100.9:1")
            .count(),
        20
    );
    // All are given back.
    for token in 0..60 {
        world.resolve_for(mallory, token, &format!("again-{token}.silent.example:1"));
    }
    assert_eq!(world.resolver.pending(), 50);
    world.run(silent);
}

/// So with the questions to which one name can lead: services with many silent targets.
#[test]
fn one_source_does_not_ask_all_the_questions() {
    let mut world = World::new(
        Settings {
            pending_max: 20,
            ..settings(1)
        },
        BOTH,
    );
    let many = |sent: &Sent| {
        let question = &sent.query.queries[0];
        if question.query_type != RecordType::SRV {
            return match question.name == name("host.example") {
                true => zone(here())(sent),
                false => Says::Nothing,
            };
        }
        let owner = question.name.to_ascii().to_lowercase();
        let owner = owner.trim_end_matches('.');
        let targets = (0..8).map(|n| srv(owner, 1, 1, 5060, &format!("t{n}.{owner}")));
        Says::Message(reply(
            &sent.query,
            ResponseCode::NoError,
            &targets.collect::<Vec<_>>(),
        ))
    };
    let mallory = [192, 0, 2, 66].into();
    for token in 0..10 {
        world.resolve_for(mallory, token, &format!("many-{token}.example;udp"));
    }
    world.run_for(Duration::from_millis(10), many);
    assert_eq!(world.resolver.questions(), 40, "half of 4 for each place");
    let start = world.answers.len();
    world.resolve(99, "host.example:1");
    world.run_for(Duration::from_millis(10), many);
    assert_eq!(show(&world.answers[start].1), "198.51.100.1:1");
    world.run(silent);
    assert_eq!(world.answers.len(), 11);
    let tally = world.resolver.tally;
    assert!(tally.over_share >= 5, "{tally:?}");
    assert_eq!(tally.over_share, tally.refused);
}

/// The best hop is there, the rest is late: no reason to let a caller wait.
#[test]
fn the_rest_is_not_waited_for() {
    let mut world = World::new(settings(1), BOTH);
    let start = world.now;
    let answer = world.look("host.example:1", |sent| {
        match sent.query.queries[0].query_type {
            RecordType::AAAA => Says::Nothing,
            _ => zone(here())(sent),
        }
    });
    assert_eq!(answer, "198.51.100.1:1");
    assert_eq!(world.answers[0].0, start + Duration::from_millis(250));
    // The first of two targets is late: that one is waited for.
    let mut world = World::new(settings(1), V4);
    let start = world.now;
    let two = [
        srv("_sip._udp.two.example", 1, 1, 1, "late.example"),
        srv("_sip._udp.two.example", 2, 1, 2, "host.example"),
        a("host.example", 1),
    ];
    let answer = world.look("two.example;udp", |sent| {
        let late = sent.query.queries[0].name == name("late.example");
        if late {
            Says::Nothing
        } else {
            zone(two.to_vec())(sent)
        }
    });
    assert_eq!(answer, "198.51.100.1:2", "better than nothing");
    assert_eq!(world.answers[0].0, start + 2 * SECOND);
}

#[test]
fn another_configuration_while_questions_are_open() {
    let mut world = World::new(settings(1), V4);
    world.resolve(1, "host.example:1");
    world.sent();
    let other = Settings {
        servers: vec![server(9)],
        ..settings(0)
    };
    world.resolver.configure(other, V4, Default::default());
    // Its server is gone: the resolution ends all the same, and the next goes to the new one.
    world.run(silent);
    assert_eq!(show(&world.answers[0].1), "Failed");
    world.wait(3 * SECOND);
    assert_eq!(world.look("host.example:1", zone(here())), "198.51.100.1:1");
    assert_eq!(
        world.resolver.servers().collect::<Vec<_>>(),
        [(2, server(9))]
    );
    // Without servers names end at once.
    world
        .resolver
        .configure(settings(0), V4, Default::default());
    world.wait(7200 * SECOND);
    world.resolve(5, "host.example:1");
    assert_eq!(show(&world.answers.last().unwrap().1), "Failed");
}

/// Ids, lanes and spellings: nobody can guess an answer's from those before, and all of them are used.
#[test]
fn nothing_about_a_question_can_be_guessed() {
    let mut world = World::new(settings(1), V4);
    for token in 0..500 {
        world.resolve(token, &format!("some-long-name-{token}.example:1"));
    }
    let sent = world.sent();
    let ids: std::collections::BTreeSet<u16> =
        sent.iter().map(|sent| sent.query.metadata.id).collect();
    assert!(ids.len() > 490, "{}", ids.len());
    let gaps: std::collections::BTreeSet<u16> = sent
        .windows(2)
        .map(|two| {
            two[1]
                .query
                .metadata
                .id
                .wrapping_sub(two[0].query.metadata.id)
        })
        .collect();
    assert!(gaps.len() > 480);
    for lane in 0..dns::LANES {
        assert!(sent.iter().filter(|sent| sent.lane == lane).count() > 80);
    }
    let upper = |name: &Name| {
        name.to_ascii()
            .bytes()
            .filter(u8::is_ascii_uppercase)
            .count()
    };
    let uppers: usize = sent
        .iter()
        .map(|sent| upper(&sent.query.queries[0].name))
        .sum();
    let letters = 19 * sent.len();
    assert!(
        (letters * 2 / 5..letters * 3 / 5).contains(&uppers),
        "{uppers} of {letters}"
    );
    world.run(silent);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever bytes come, each resolution gets one answer, and nothing is left.
    #[test]
    fn any_bytes(
        mutations in proptest::collection::vec((any::<u8>(), any::<u16>(), any::<u8>()), 0..40),
        wanted in prop_oneof![Just("far.example"), Just("host.example:1"), Just("far.example;udp")],
        families in prop_oneof![Just(V4), Just(BOTH)],
    ) {
        let mut world = World::new(settings(2), families);
        world.resolve(1, wanted);
        let mut mutations = mutations.into_iter();
        for _ in 0..60 {
            for sent in world.sent() {
                let Says::Message(message) = zone(here())(&sent) else { continue };
                let mut bytes = message.to_vec().unwrap();
                match mutations.next() {
                    Some((0..=50, at, _)) => bytes.truncate(usize::from(at) % bytes.len()),
                    Some((51..=200, at, value)) => {
                        let at = usize::from(at) % bytes.len();
                        bytes[at] ^= value;
                    }
                    Some((_, at, value)) => bytes = vec![value; usize::from(at) % 2000],
                    None => {}
                }
                match sent.connection {
                    Some(connection) => {
                        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
                        world.step(Input::Stream { connection, bytes: &length });
                        world.step(Input::Stream { connection, bytes: &bytes });
                    }
                    None => world.step(Input::Datagram { server: sent.server, lane: sent.lane, bytes: &bytes }),
                }
            }
            if let Some(due) = world.resolver.deadline() {
                world.now = world.now.max(due);
                world.step(Input::Tick);
            }
        }
        world.run(silent);
        prop_assert_eq!(world.answers.len(), 1);
    }

    /// Any mixture of servers' behaviour and of resolutions, in any order.
    #[test]
    fn any_order(
        steps in proptest::collection::vec((0..8u8, any::<u16>()), 1..200),
    ) {
        let mut world = World::new(Settings { pending_max: 20, cache_entries_max: 5, ..settings(3) }, BOTH);
        let names = ["far.example", "host.example:1", "x.example", "far.example;udp", "192.0.2.1", "alias.example:2"];
        let mut records = here();
        records.push(cname("alias.example", "host.example"));
        let (mut open, mut token) = (Vec::new(), 0);
        for (step, value) in steps {
            open.extend(world.sent());
            match step {
                0 | 1 => {
                    token += 1;
                    world.resolve(token, names[usize::from(value) % names.len()]);
                }
                2 | 3 if !open.is_empty() => {
                    let sent = open.swap_remove(usize::from(value) % open.len());
                    let Says::Message(mut message) = zone(records.clone())(&sent) else { continue };
                    if value % 7 == 0 {
                        message.metadata.truncation = true;
                    }
                    if value % 11 == 0 {
                        message.metadata.response_code = ResponseCode::ServFail;
                    }
                    world.deliver(&sent, &message);
                    if value % 5 == 0 {
                        world.deliver(&sent, &message);
                    }
                }
                4 if !open.is_empty() => {
                    let sent = open.swap_remove(usize::from(value) % open.len());
                    match sent.connection {
                        Some(connection) => world.step(Input::Closed { connection }),
                        None => world.step(Input::Unreachable { server: sent.server, lane: sent.lane }),
                    }
                }
                5 => {
                    let address = ([198, 51, 100, 1], 5070).into();
                    world.step(Input::Hop { address, alive: value % 2 == 0 });
                }
                6 if value % 50 == 0 => {
                    let servers = u8::try_from(value % 4).unwrap();
                    world.resolver.configure(settings(servers), BOTH, Default::default());
                }
                _ => {
                    world.wait(Duration::from_millis(u64::from(value) % 3000));
                    world.step(Input::Tick);
                }
            }
        }
        world.run(zone(records));
        prop_assert_eq!(world.answers.len(), token as usize);
        let mut tokens: Vec<u32> = world.answers.iter().map(|(_, answer)| answer.token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        prop_assert_eq!(tokens.len(), token as usize);
    }
}
