//! A destination's capacity is exact, whoever races for it and whoever dies.

use std::time::Duration;

use blackbox::{
    either,
    machine::{eventually, fresh_address, shared},
    server::{DEFAULT, LIMIT, Server},
};

use super::{
    config,
    site::{Caller, Plan, Report, Site},
};

const CAPACITY: usize = 20;

/// Four slots.
fn four_slots(sites: &[Site]) -> Server {
    let group = format!(
        "policy = \"least-calls\"\ndestinations = [{{ uri = \"{{0}}\", capacity = {CAPACITY} }}, {{ uri = \"{{1}}\", capacity = {CAPACITY} }}]"
    );
    let text = config(sites, &group);
    Server::start_with(&text.replace("reactors = 1", "reactors = 2"))
}

/// Three times as many calls as there is room for, at once, from eight callers.
fn race(server: &Server) -> Vec<(Caller, Report)> {
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let caller = Caller::new(fresh_address(), server.address());
            let plan = Plan {
                calls: 2 * CAPACITY * 3 / 8,
                window: 2 * CAPACITY * 3 / 8,
                hang_up: false,
            };
            std::thread::spawn(move || {
                let report = caller.call(plan, |_, _| ());
                (caller, report)
            })
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().expect("a caller does not panic"))
        .collect()
}

fn up(all: &[(Caller, Report)]) -> usize {
    all.iter().map(|(_, report)| report.up.len()).sum()
}

fn counted(server: &Server) -> Vec<u64> {
    let list = server.json(&["destinations", "list"]);
    let lines = list.as_array().expect("a list").iter();
    lines
        .map(|line| line["calls"].as_u64().expect("a number"))
        .collect()
}

fn hang_up(server: &Server, all: &[(Caller, Report)]) {
    for (caller, report) in all {
        caller.hang_up(&report.up);
    }
    eventually("nothing is counted", LIMIT, || {
        (counted(server) == [0, 0]).then_some(())
    });
}

#[test]
fn four_slots_race_for_the_last_place() {
    let _shared = shared();
    let sites = [Site::start(), Site::start()];
    let server = four_slots(&sites);
    for round in 0..either(8, 100) {
        let all = race(&server);
        assert_eq!(
            up(&all),
            2 * CAPACITY,
            "round {round}: not one too many, not one too few"
        );
        for site in &sites {
            let live = site.seen().live.len();
            assert_eq!(live, CAPACITY, "round {round}");
        }
        let refused: usize = all.iter().map(|(_, report)| report.of(503)).sum();
        assert_eq!(
            refused,
            4 * CAPACITY,
            "round {round}: the others are told so"
        );
        assert_eq!(counted(&server), [CAPACITY as u64; 2]);
        hang_up(&server, &all);
    }
    for site in &sites {
        assert_eq!(site.seen().most, CAPACITY);
    }
    assert!(server.stop().success());
}

#[test]
fn deaths_do_not_add_places() {
    let _shared = shared();
    let sites = [Site::start(), Site::start()];
    let server = four_slots(&sites);
    for round in 0..either(4, 40) {
        let all = std::thread::scope(|scope| {
            let racing = scope.spawn(|| race(&server));
            // In the middle of it, one worker after another.
            for worker in server.signalling() {
                let before = sites.iter().map(Site::invited).sum::<usize>();
                eventually("a call meanwhile", LIMIT, || {
                    let now = sites.iter().map(Site::invited).sum::<usize>();
                    (now > before || racing.is_finished()).then_some(())
                });
                server.kill_worker(worker.pid);
            }
            racing.join().expect("callers do not panic")
        });
        server.wait_ready();
        for site in &sites {
            let live = site.seen().live.len();
            assert!(live <= CAPACITY, "round {round}: {live}");
        }
        // What is counted is what is up, and no more: whoever was about to be sent a call when a worker died got it, or gave its place back.
        let is_up = |site: &Site| site.seen().live.len() as u64;
        eventually("the count is that of the calls", LIMIT, || {
            let live: Vec<u64> = sites.iter().map(is_up).collect();
            (counted(&server) == live).then_some(())
        });
        assert_eq!(
            up(&all),
            sites
                .iter()
                .map(|site| site.seen().live.len())
                .sum::<usize>()
        );
        hang_up(&server, &all);
    }
    for site in &sites {
        assert!(site.seen().most <= CAPACITY);
    }
    assert!(server.stop().success());
}

/// A destination that is full is not offered what is no call any less.
#[test]
fn what_is_no_call_needs_no_place() {
    let _shared = shared();
    let sites = [Site::start()];
    let text = config(&sites, "destinations = [{ uri = \"{0}\", capacity = 1 }]");
    let server = Server::start_with(&text);
    let caller = Caller::new(fresh_address(), server.address());
    let plan = Plan {
        calls: 2,
        window: 1,
        hang_up: false,
    };
    let report = caller.call(plan, |_, _| ());
    assert_eq!((report.of(200), report.of(503)), (1, 1));
    let alice = server.ua("alice");
    let asked = alice.ask(&alice.request("OPTIONS", "sip:somebody@example.test"));
    assert_eq!(asked.status(), 200);
    assert!(server.stop().success());
}

/// Capacity is that of the configuration now.
#[test]
fn a_reload_changes_it() {
    let _shared = shared();
    let sites = [Site::start()];
    let with = |capacity: usize| {
        config(
            &sites,
            &format!("destinations = [{{ uri = \"{{0}}\", capacity = {capacity} }}]"),
        )
    };
    let server = Server::start_with(&with(2));
    assert!(with(2).starts_with(DEFAULT));
    let caller = Caller::new(fresh_address(), server.address());
    let plan = Plan {
        calls: 4,
        window: 1,
        hang_up: false,
    };
    assert_eq!(caller.call(plan, |_, _| ()).of(200), 2);
    server.write_config(&with(5));
    server.reload();
    eventually("three more", Duration::from_secs(20), || {
        caller.call(plan, |_, _| ());
        (sites[0].seen().live.len() == 5).then_some(())
    });
    assert_eq!(counted(&server), [5]);
    assert_eq!(caller.call(plan, |_, _| ()).of(200), 0);
    assert!(server.stop().success());
}

/// A raised memory limit moves everything to another arena; places and the operator's word move with it.
#[test]
fn another_arena_counts_the_same_calls() {
    let _shared = shared();
    let sites = [Site::start(), Site::start()];
    let text = config(
        &sites,
        "destinations = [{ uri = \"{0}\", capacity = 6 }, { uri = \"{1}\", capacity = 6 }]\n\
         probe = { interval = \"200ms\", timeout = \"200ms\" }",
    );
    let server = Server::start_with(&text);
    let caller = Caller::new(fresh_address(), server.address());
    let plan = |calls| Plan {
        calls,
        window: 1,
        hang_up: false,
    };
    let up = caller.call(plan(8), |_, _| ());
    assert_eq!(counted(&server), [4, 4]);
    server.run(&["destinations", "weight", "g", &sites[1].uri(), "7"]);
    let moved = text.replace("limit = \"64MiB\"", "limit = \"96MiB\"");
    assert_ne!(moved, text);
    server.write_config(&moved);
    server.reload();
    assert_eq!(server.status()["arena"]["limit"], 96 << 20);
    assert_eq!(counted(&server), [4, 4]);
    assert_eq!(
        server.json(&["destinations", "list"])[1]["weight"],
        7,
        "the operator's word"
    );
    let more = caller.call(plan(10), |_, _| ());
    assert_eq!((more.of(200), more.of(503)), (4, 6));
    let probes: Vec<u64> = sites.iter().map(Site::probes).collect();
    eventually("probes go on", LIMIT, || {
        let now = sites.iter().map(Site::probes);
        now.zip(&probes)
            .all(|(now, before)| now > *before + 2)
            .then_some(())
    });
    caller.hang_up(&up.up);
    caller.hang_up(&more.up);
    eventually("nothing is counted", LIMIT, || {
        (counted(&server) == [0, 0]).then_some(())
    });
    assert!(server.stop().success());
}

/// Calls outlive a stop of the whole server, and so do their places.
#[test]
fn calls_of_before_a_stop_have_their_places_again() {
    let _shared = shared();
    let sites = [Site::start(), Site::start()];
    let text = config(
        &sites,
        "destinations = [{ uri = \"{0}\", capacity = 6 }, { uri = \"{1}\", capacity = 6 }]",
    );
    let mut server = Server::start_with(&text);
    let caller = Caller::new(fresh_address(), server.address());
    let plan = |calls| Plan {
        calls,
        window: 1,
        hang_up: false,
    };
    let up = caller.call(plan(10), |_, _| ());
    assert_eq!((up.of(200), counted(&server)), (10, vec![5, 5]));
    server.run(&["stop"]);
    assert!(server.wait_exit().success());
    server.run_again();
    server.wait_ready();
    eventually("the calls of before", LIMIT, || {
        (counted(&server) == [5, 5]).then_some(())
    });
    let more = caller.call(plan(8), |_, _| ());
    assert_eq!((more.of(200), more.of(503)), (2, 6));
    caller.hang_up(&up.up);
    caller.hang_up(&more.up);
    eventually("nothing is counted", LIMIT, || {
        (counted(&server) == [0, 0]).then_some(())
    });
    assert!(server.stop().success());
}
