//! Every policy over thousands of calls, from several callers by several slots.

use std::{
    collections::HashMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use blackbox::{
    either,
    machine::{fresh_address, shared},
    server::Server,
};

use super::{
    got, server,
    site::{Caller, Plan, Report, Site},
};

/// Over all callers.
const CALLERS: usize = 4;

fn calls() -> usize {
    either(1_200, 10_000)
}

/// Calls from [`CALLERS`] at once; all must be answered 200.
fn run(server: &Server, calls: usize, hang_up: bool) -> Vec<(Caller, Report)> {
    let began = Instant::now();
    let threads: Vec<_> = (0..CALLERS)
        .map(|_| {
            let caller = Caller::new(fresh_address(), server.address());
            let plan = Plan {
                calls: calls / CALLERS,
                window: 10,
                hang_up,
            };
            std::thread::spawn(move || {
                let report = caller.call(plan, |_, _| ());
                (caller, report)
            })
        })
        .collect();
    let reports: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().expect("a caller does not panic"))
        .collect();
    for (_, report) in &reports {
        assert_eq!(report.of(200), calls / CALLERS, "{:?}", report.codes);
    }
    println!("{calls} calls in {:?}", began.elapsed());
    reports
}

fn sites(many: usize) -> Vec<Site> {
    (0..many).map(|_| Site::start()).collect()
}

/// Each is within `off` of what is right.
#[track_caller]
fn assert_close(got: &[usize], right: &[usize], off: usize) {
    let close = |(got, right): (&usize, &usize)| got.abs_diff(*right) <= off;
    assert!(
        got.iter().zip(right).all(close),
        "{got:?}, not {right:?} ± {off}"
    );
}

#[test]
fn round_robin() {
    let _shared = shared();
    let sites = sites(4);
    let server = server(
        &sites,
        "destinations = [{ uri = \"{0}\" }, { uri = \"{1}\", weight = 9 }, { uri = \"{2}\" }, { uri = \"{3}\" }]",
    );
    run(&server, calls(), true);
    // Each slot takes turns exactly; what is left is less than a round of each.
    assert_close(&got(&sites), &[calls() / 4; 4], 2);
    assert!(server.stop().success());
}

#[test]
fn weighted() {
    let _shared = shared();
    let sites = sites(3);
    let server = server(
        &sites,
        "policy = \"weighted\"\ndestinations = [{ uri = \"{0}\", weight = 3 }, { uri = \"{1}\", weight = 2 }, { uri = \"{2}\" }]",
    );
    run(&server, calls(), true);
    let sixth = calls() / 6;
    assert_close(&got(&sites), &[3 * sixth, 2 * sixth, sixth], 4);
    assert!(server.stop().success());
}

#[test]
fn least_calls() {
    let _shared = shared();
    let sites = sites(3);
    let server = server(
        &sites,
        "policy = \"least-calls\"\ndestinations = [{ uri = \"{0}\", weight = 2 }, { uri = \"{1}\" }, { uri = \"{2}\" }]",
    );
    let calls = either(300, 10_000);
    let all = run(&server, calls, false);
    // What is set up at the same moment by two slots may be the same one's: as many as are under way.
    let quarter = calls / 4;
    assert_close(&got(&sites), &[2 * quarter, quarter, quarter], 40);
    let live: Vec<usize> = sites.iter().map(|site| site.seen().live.len()).collect();
    let counted: Vec<u64> = server
        .json(&["destinations", "list"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|line| line["calls"].as_u64().expect("a number"))
        .collect();
    assert_eq!(live.iter().map(|&n| n as u64).collect::<Vec<_>>(), counted);
    // The first loses all of its calls: the next ones are its own.
    for (caller, report) in &all {
        caller.hang_up(&report.up);
    }
    let before = got(&sites);
    run(&server, 400, false);
    let after = got(&sites);
    let more: Vec<usize> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    assert_close(&more, &[200, 100, 100], 40);
    assert!(server.stop().success());
}

#[test]
fn free_capacity() {
    let _shared = shared();
    let sites = sites(3);
    let calls = either(300, 10_000);
    let server = server(
        &sites,
        &format!(
            "policy = \"free-capacity\"\ndestinations = [{{ uri = \"{{0}}\", capacity = {} }}, {{ uri = \"{{1}}\", capacity = {} }}, {{ uri = \"{{2}}\", capacity = {} }}]",
            calls * 8 / 10,
            calls * 4 / 10,
            calls / 10
        ),
    );
    run(&server, calls, false);
    // 1.3 times as many places as calls: 0.1 of them are left at each.
    assert_close(&got(&sites), &[calls * 7 / 10, calls * 3 / 10, 0], 40);
    assert!(server.stop().success());
}

#[test]
fn latency() {
    let _shared = shared();
    let sites = sites(3);
    for (site, ms) in sites.iter().zip([100, 200, 400]) {
        site.ways.delay_ms.store(ms, Ordering::Relaxed);
    }
    let server = server(
        &sites,
        "policy = \"latency\"\ndestinations = [{ uri = \"{0}\" }, { uri = \"{1}\" }, { uri = \"{2}\" }]",
    );
    // The response times become known by calls.
    run(&server, 240, true);
    let measured = blackbox::machine::eventually("measurements", Duration::from_secs(10), || {
        let list = server.json(&["destinations", "list"]);
        let times: Vec<f64> = (0..3)
            .filter_map(|n| list[n]["latency_us"].as_f64())
            .collect();
        (times.len() == 3).then_some(times)
    });
    let before = got(&sites);
    let calls = either(600, 10_000);
    run(&server, calls, true);
    let more: Vec<usize> = got(&sites).iter().zip(before).map(|(a, b)| a - b).collect();
    // A slow machine has slow answers: what was measured is what counts.
    let total: f64 = measured.iter().map(|time| 1.0 / time).sum();
    let right: Vec<usize> = measured
        .iter()
        .map(|time| (calls as f64 / time / total) as usize)
        .collect();
    assert_close(&more, &right, calls / 12);
    assert!(more[0] > more[1] && more[1] > more[2], "{more:?}");
    assert!(server.stop().success());
}

#[test]
fn priority() {
    let _shared = shared();
    let sites = sites(3);
    let times = either(1, 50);
    let server = server(
        &sites,
        &format!(
            "policy = \"priority\"\ndestinations = [{{ uri = \"{{0}}\", capacity = {} }}, {{ uri = \"{{1}}\", capacity = {} }}, {{ uri = \"{{2}}\" }}]",
            100 * times,
            60 * times
        ),
    );
    run(&server, 80 * times, false);
    assert_eq!(got(&sites), [80 * times, 0, 0]);
    run(&server, 120 * times, false);
    assert_eq!(
        got(&sites),
        [100 * times, 60 * times, 40 * times],
        "it overflows to the next, and to the last"
    );
    assert!(server.stop().success());
}

#[test]
fn hash() {
    let _shared = shared();
    let sites = sites(4);
    let text = "policy = \"hash\"\nhash = \"request-uri\"\ndestinations = [{ uri = \"{0}\" }, { uri = \"{1}\" }, { uri = \"{2}\" }, { uri = \"{3}\" }]";
    let server = server(&sites, text);
    // Every caller calls the same numbers: they meet at the same destination, whoever calls.
    let each = calls() / CALLERS;
    run(&server, calls(), true);
    let where_all: Vec<usize> = got(&sites);
    assert_eq!(where_all.iter().sum::<usize>(), calls());
    assert!(
        where_all.iter().all(|got| got % CALLERS == 0),
        "a number is one destination's: {where_all:?}"
    );
    // Five standard deviations.
    let off = 5.0 * (each as f64 * 3.0 / 16.0).sqrt() * CALLERS as f64;
    assert_close(&where_all, &[calls() / 4; 4], off as usize);
    // One goes: its numbers move, nobody else's do.
    let mut homes: HashMap<usize, usize> = HashMap::new();
    let caller = Caller::new(fresh_address(), server.address());
    let numbers = 60;
    let whose = |homes: &mut HashMap<usize, usize>, number: usize| {
        let before = got(&sites);
        let plan = Plan {
            calls: 1,
            window: 1,
            hang_up: true,
        };
        let report = caller.call(plan, |_, invite| {
            invite.start = format!("INVITE sip:{number}@example.test SIP/2.0");
        });
        assert_eq!(report.of(200), 1);
        let home = got(&sites).iter().zip(before).position(|(a, b)| *a > b);
        homes.insert(number, home.expect("somebody got it"))
    };
    for number in 0..numbers {
        whose(&mut homes, number);
    }
    let before = homes.clone();
    server.run(&["destinations", "disable", "g", &sites[2].uri()]);
    for number in 0..numbers {
        whose(&mut homes, number);
    }
    for (number, home) in &homes {
        assert_ne!(*home, 2);
        assert!(before[number] == 2 || before[number] == *home, "{number}");
    }
    assert!(server.stop().success());
}
