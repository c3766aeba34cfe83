//! Which records are asked for, and where they lead.

mod world;

use dns::{Families, Host, Input, Target};
use world::*;

fn records() -> Vec<hickory_proto::rr::Record> {
    vec![
        a("host.example", 1),
        aaaa("host.example", 1),
        a("second.example", 2),
        srv("_sip._udp.srv.example", 10, 1, 5070, "second.example"),
        srv("_sip._udp.srv.example", 5, 1, 5080, "host.example"),
        naptr("naptr.example", 30, "SIP+D2U", "_sip._udp.srv.example"),
        naptr("naptr.example", 10, "SIP+D2T", "_sip._tcp.srv.example"),
        naptr("naptr.example", 20, "E2U+sip", "nonsense.example"),
        naptr("tcp.example", 10, "SIP+D2T", "_sip._tcp.srv.example"),
        naptr("tcp.example", 10, "SIPS+D2T", "_sips._tcp.srv.example"),
        naptr("enum.example", 10, "E2U+sip", "nonsense.example"),
        a("enum.example", 3),
        srv("_sip._udp.closed.example", 0, 0, 0, "."),
        a("closed.example", 4),
        cname("alias.example", "another.example"),
        cname("another.example", "host.example"),
        cname("_sip._udp.aliased.example", "_sip._udp.srv.example"),
        naptr("broken.example", 1, "SIP+D2U", "_sip._udp.nothing.example"),
        a("broken.example", 5),
        a("zero.example", 0),
        hickory_proto::rr::Record::from_rdata(
            name("zero.example"),
            60,
            hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(0, 0, 0, 0)),
        ),
    ]
}

/// Every row: what is wanted, where it leads with IPv4 only, what was asked.
#[test]
fn the_way_depends_on_what_the_uri_says() {
    let n = "naptr.example";
    for (wanted, hops, asked) in [
        ("198.51.100.9", "198.51.100.9:5060", vec![]),
        ("198.51.100.9:5099", "198.51.100.9:5099", vec![]),
        (
            "host.example:5099",
            "198.51.100.1:5099",
            vec!["A host.example"],
        ),
        (
            "host.example:5099;UDP",
            "198.51.100.1:5099",
            vec!["A host.example"],
        ),
        ("host.example;tcp", "Transport", vec![]),
        ("host.example:5060;tls", "Transport", vec![]),
        (
            "srv.example;udp",
            "198.51.100.1:5080 198.51.100.2:5070",
            vec![
                "SRV _sip._udp.srv.example",
                "A host.example",
                "A second.example",
            ],
        ),
        (
            "srv.example",
            "198.51.100.1:5080 198.51.100.2:5070",
            vec![
                "NAPTR srv.example",
                "SRV _sip._udp.srv.example",
                "A host.example",
                "A second.example",
            ],
        ),
        (
            n,
            "198.51.100.1:5080 198.51.100.2:5070",
            vec![
                "NAPTR naptr.example",
                "SRV _sip._udp.srv.example",
                "A host.example",
                "A second.example",
            ],
        ),
        ("tcp.example", "Transport", vec!["NAPTR tcp.example"]),
        (
            "enum.example",
            "198.51.100.3:5060",
            vec![
                "NAPTR enum.example",
                "SRV _sip._udp.enum.example",
                "A enum.example",
            ],
        ),
        (
            "host.example",
            "198.51.100.1:5060",
            vec![
                "NAPTR host.example",
                "SRV _sip._udp.host.example",
                "A host.example",
            ],
        ),
        (
            "closed.example;udp",
            "NotFound",
            vec!["SRV _sip._udp.closed.example"],
        ),
        (
            "alias.example:5060",
            "198.51.100.1:5060",
            vec!["A alias.example"],
        ),
        (
            "aliased.example;udp",
            "198.51.100.1:5080 198.51.100.2:5070",
            vec![
                "SRV _sip._udp.aliased.example",
                "A host.example",
                "A second.example",
            ],
        ),
        (
            "broken.example",
            "198.51.100.5:5060",
            vec![
                "NAPTR broken.example",
                "SRV _sip._udp.nothing.example",
                "A broken.example",
            ],
        ),
        (
            "missing.example:5060",
            "NotFound",
            vec!["A missing.example"],
        ),
        (
            "zero.example:5060",
            "198.51.100.0:5060",
            vec!["A zero.example"],
        ),
        ("localhost:5099", "127.0.0.1:5099", vec![]),
        ("phone.localhost", "127.0.0.1:5060", vec![]),
        ("x.invalid:5060", "NotFound", vec![]),
        ("bad..name", "NotFound", vec![]),
        ("b\u{e4}d.example", "NotFound", vec![]),
    ] {
        let mut world = World::new(settings(1), V4);
        assert_eq!(world.look(wanted, zone(records())), hops, "{wanted}");
        let expected: Vec<String> = asked.iter().map(|asked| format!("{asked} @1")).collect();
        assert_eq!(world.asked, expected, "{wanted}");
        // A second time nothing is asked.
        assert_eq!(world.look(wanted, silent), hops, "{wanted} again");
        assert_eq!(world.asked.len(), asked.len(), "{wanted} again");
    }
}

#[test]
fn sips_leads_nowhere_without_tls() {
    let mut world = World::new(settings(1), V4);
    world.step(Input::Resolve {
        token: 1,
        target: Target {
            host: Host::Name(b"host.example"),
            port: None,
            transport: None,
            secure: true,
        },
        source: [192, 0, 2, 1].into(),
        seed: 1,
        ranked: false,
    });
    assert_eq!(show(&world.answers[0].1), "Transport");
    assert_eq!(world.resolver.tally.transport, 1);
}

/// Both families are asked for at once, and only those that there are listeners for.
#[test]
fn families() {
    let v6 = Families {
        v4: false,
        v6: true,
    };
    let both = "198.51.100.1:5060 [2001:db8::1]:5060";
    for (families, prefer_v6, hops) in [
        (V4, false, "198.51.100.1:5060"),
        (v6, false, "[2001:db8::1]:5060"),
        (BOTH, false, both),
        (BOTH, true, "[2001:db8::1]:5060 198.51.100.1:5060"),
    ] {
        let mut settings = settings(1);
        settings.prefer_v6 = prefer_v6;
        let mut world = World::new(settings, families);
        world.resolve(1, "host.example:5060");
        let kinds = world.sent().len();
        assert_eq!(kinds, usize::from(families.v4) + usize::from(families.v6));
        let mut world = World::new(world_settings(prefer_v6), families);
        assert_eq!(world.look("host.example:5060", zone(records())), hops);
    }
    let mut world = World::new(settings(1), V4);
    assert_eq!(world.look("2001:db8::1", silent), "NotFound");
}

fn world_settings(prefer_v6: bool) -> dns::Settings {
    dns::Settings {
        prefer_v6,
        ..settings(1)
    }
}

#[test]
fn the_hosts_file_is_the_last_word() {
    let hosts = "192.0.2.7 host.example naptr.example\n2001:db8::7 host.example\n192.0.2.8 second.example\n";
    let mut world = World::with_hosts(settings(1), V4, hosts);
    assert_eq!(world.look("HOST.example.", silent), "192.0.2.7:5060");
    assert_eq!(world.look("naptr.example:5099", silent), "192.0.2.7:5099");
    assert!(world.asked.is_empty());
    // The targets of SRV records as well.
    assert_eq!(
        world.look("srv.example;udp", zone(records())),
        "192.0.2.7:5080 192.0.2.8:5070"
    );
    assert_eq!(world.asked, ["SRV _sip._udp.srv.example @1"]);
}

#[test]
fn equal_seeds_choose_equally() {
    let records = vec![
        srv("_sip._udp.many.example", 1, 10, 1, "one.example"),
        srv("_sip._udp.many.example", 1, 30, 3, "one.example"),
        srv("_sip._udp.many.example", 2, 10, 9, "one.example"),
        a("one.example", 1),
        a("one.example", 2),
    ];
    let mut world = World::new(settings(1), V4);
    for _ in 0..2 {
        for token in 0..400 {
            world.resolve(token, "many.example;udp");
            world.run(zone(records.clone()));
        }
    }
    let all: Vec<String> = world
        .answers
        .iter()
        .map(|(_, answer)| show(answer))
        .collect();
    assert_eq!(all[..400], all[400..], "a seed, an order");
    let first = |port: &str| {
        all.iter()
            .filter(|hops| {
                hops.contains(&format!(":{port} ")) && hops[..20].contains(&format!(":{port} "))
            })
            .count()
    };
    let (ones, threes) = (first("1"), first("3"));
    assert!(
        (120..280).contains(&ones),
        "{ones} of 800, a quarter is due"
    );
    assert!(threes > 500, "{threes}");
    assert!(
        all.iter()
            .all(|hops| hops.split(' ').count() == 6 && hops.ends_with(":9"))
    );
    let shuffled = all
        .iter()
        .filter(|hops| hops.starts_with("198.51.100.1:"))
        .count();
    assert!(
        (200..600).contains(&shuffled),
        "addresses take turns: {shuffled}"
    );
}

/// A dead hop comes last until its time is over; then one resolution tries it.
#[test]
fn dead_hops_come_last() {
    let mut world = World::new(settings(1), V4);
    let uri = "srv.example;udp";
    let (good, bad) = (
        "198.51.100.1:5080 198.51.100.2:5070",
        "198.51.100.2:5070 198.51.100.1:5080",
    );
    assert_eq!(world.look(uri, zone(records())), good);
    world.wait(std::time::Duration::from_secs(3000));
    world.look(uri, zone(records()));
    let address = "198.51.100.1:5080".parse().unwrap();
    let dead = |world: &mut World| {
        world.step(Input::Hop {
            address,
            alive: false,
        })
    };
    dead(&mut world);
    assert_eq!(world.resolver.tally.blacklisted, 1);
    world.resolve(1, uri);
    assert_eq!(show(&world.answers.last().unwrap().1), bad);
    world.wait(std::time::Duration::from_secs(30));
    world.run(zone(records()));
    let start = world.answers.len();
    for token in 0..3 {
        world.resolve(token, uri);
    }
    world.run(zone(records()));
    let seen: Vec<String> = world.answers[start..]
        .iter()
        .map(|(_, answer)| show(answer))
        .collect();
    assert_eq!(
        seen.iter().filter(|hops| *hops == good).count(),
        1,
        "one probe: {seen:?}"
    );
    world.step(Input::Hop {
        address,
        alive: true,
    });
    assert_eq!(world.look(uri, zone(records())), good);
}

/// Whoever shares calls among the addresses of a name wants what SRV records say of each, and to know if that is all.
#[test]
fn ranks_are_told_to_who_asks() {
    let zone = || {
        zone(vec![
            srv("_sip._udp.site.example", 5, 3, 5070, "one.example"),
            srv("_sip._udp.site.example", 5, 1, 5080, "two.example"),
            srv("_sip._udp.site.example", 9, 0, 5090, "one.example"),
            a("one.example", 1),
            a("two.example", 2),
            a("two.example", 3),
            a("plain.example", 4),
            a("plain.example", 5),
        ])
    };
    let mut world = World::new(settings(1), V4);
    let mut ranks = |wanted: &str| {
        world.resolve(RANKED, wanted);
        world.run(zone());
        let answer = world.answers.pop().expect("an answer").1;
        assert!(answer.whole, "{wanted}");
        let mut lines: Vec<String> = answer
            .ranks
            .iter()
            .map(|rank| format!("{} {} {}", rank.priority, rank.hop, rank.share))
            .collect();
        lines.sort();
        assert_eq!(lines.len(), answer.hops.len());
        lines.join(", ")
    };
    assert_eq!(
        ranks("site.example;udp"),
        "5 198.51.100.1:5070 3000, 5 198.51.100.2:5080 500, 5 198.51.100.3:5080 500, 9 198.51.100.1:5090 0"
    );
    assert_eq!(
        ranks("plain.example"),
        "0 198.51.100.4:5060 500, 0 198.51.100.5:5060 500"
    );
    let mut world = World::new(settings(1), V4);
    world.resolve(1, "plain.example");
    world.run(zone());
    assert!(world.answers[0].1.ranks.is_empty(), "nobody asked for them");

    // Without an answer about SRV records it may be any name's address: not all that there is.
    let mut world = World::new(settings(1), V4);
    world.resolve(RANKED, "site.example");
    let all = zone();
    world.run(|sent| match sent.query.queries[0].query_type {
        hickory_proto::rr::RecordType::SRV => Says::Nothing,
        _ => all(sent),
    });
    assert!(!world.answers[0].1.whole);
}
