//! Destinations that die and come back under load, and what outlives the workers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use blackbox::{
    machine::{eventually, fresh_address, shared},
    server::{LIMIT, Server},
};
use serde_json::Value;

use super::{
    config, got,
    site::{Caller, Plan, Report, Site, Ways},
};

const QUICK: &str =
    "probe = { interval = \"200ms\", timeout = \"200ms\", down_after = 2, up_after = 2 }";

/// With a hop that is given up soon, so that a test is not long.
fn server(sites: &[Site], group: &str) -> Server {
    let text = config(sites, group);
    Server::start_with(&format!("{text}\n[proxy]\nhop_timeout = \"800ms\"\n"))
}

fn line(server: &Server, site: &Site) -> Value {
    let list = server.json(&["destinations", "list"]);
    let mut lines = list.as_array().expect("a list").iter();
    lines
        .find(|line| line["uri"] == site.uri())
        .expect("a line for each destination")
        .clone()
}

#[track_caller]
fn wait_health(server: &Server, site: &Site, health: &str) {
    eventually(health, LIMIT, || {
        (line(server, site)["health"] == health).then_some(())
    });
}

/// Callers who call until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Report>>,
}

impl Load {
    fn start(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..4)
            .map(|_| {
                let caller = Caller::new(fresh_address(), server.address());
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    let mut sum = Report::default();
                    while !stop.load(Ordering::Relaxed) {
                        let plan = Plan {
                            calls: 20,
                            window: 4,
                            hang_up: true,
                        };
                        for (code, calls) in caller.call(plan, |_, _| ()).codes {
                            *sum.codes.entry(code).or_default() += calls;
                        }
                    }
                    sum
                })
            })
            .collect();
        Self { stop, threads }
    }

    /// All calls by their codes.
    fn end(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for thread in self.threads {
            for (code, calls) in thread.join().expect("a caller does not panic").codes {
                *sum.codes.entry(code).or_default() += calls;
            }
        }
        sum
    }
}

#[track_caller]
fn assert_no_call_failed(report: &Report) {
    let failed: Vec<_> = report
        .codes
        .iter()
        .filter(|(code, _)| **code != 200)
        .collect();
    assert!(failed.is_empty(), "{failed:?} of {:?}", report.codes);
}

#[test]
fn a_destination_dies_under_load_and_comes_back() {
    let _shared = shared();
    let mut sites = [Site::start(), Site::start(), Site::start()];
    let server = server(
        &sites,
        &format!(
            "destinations = [{{ uri = \"{{0}}\" }}, {{ uri = \"{{1}}\" }}, {{ uri = \"{{2}}\" }}]\n{QUICK}"
        ),
    );
    for site in &sites {
        wait_health(&server, site, "up");
    }
    let load = Load::start(&server);
    eventually("calls everywhere", LIMIT, || {
        got(&sites).iter().all(|&got| got >= 20).then_some(())
    });
    let ways = Arc::clone(&sites[1].ways);
    sites[1].kill();
    wait_health(&server, &sites[1], "down");
    // What was chosen before is on its way; from then on nothing is sent there.
    let settled = eventually("what was on its way", LIMIT, || {
        let before = line(&server, &sites[1])["requests"].as_u64();
        let others = got(&sites);
        eventually("more calls", LIMIT, || {
            let more = got(&sites);
            (more[0] > others[0] + 20 && more[2] > others[2] + 20).then_some(())
        });
        (line(&server, &sites[1])["requests"].as_u64() == before).then_some(before)
    });
    let others = got(&sites);
    eventually("calls at the others", LIMIT, || {
        let more = got(&sites);
        (more[0] > others[0] + 50 && more[2] > others[2] + 50).then_some(())
    });
    assert_eq!(line(&server, &sites[1])["requests"].as_u64(), settled);
    assert_eq!(server.counter("destinations.down"), 1);
    // It comes back at the same address.
    let before = got(&sites)[1];
    sites[1] = Site::with(sites[1].address, ways);
    wait_health(&server, &sites[1], "up");
    eventually("calls for who came back", LIMIT, || {
        (got(&sites)[1] > before + 20).then_some(())
    });
    let report = load.end();
    assert_no_call_failed(&report);
    assert!(server.stop().success());
}

/// It answers probes, and swallows calls.
#[test]
fn calls_alone_bring_it_down() {
    let _shared = shared();
    let sites = [Site::start(), Site::start()];
    sites[0].ways.invite.store(0, Ordering::Relaxed);
    let server = server(
        &sites,
        "policy = \"priority\"\ndestinations = [{ uri = \"{0}\" }, { uri = \"{1}\" }]\npassive = { down_after = 2, retry = \"2s\" }",
    );
    let caller = Caller::new(fresh_address(), server.address());
    let one = Plan {
        calls: 1,
        window: 1,
        hang_up: true,
    };
    for _ in 0..2 {
        assert_eq!(
            caller.call(one, |_, _| ()).of(200),
            1,
            "the other one takes it"
        );
    }
    wait_health(&server, &sites[0], "down");
    let swallowed = sites[0].invited();
    assert_eq!(swallowed, 2);
    for _ in 0..3 {
        assert_eq!(caller.call(one, |_, _| ()).of(200), 1);
    }
    assert_eq!(sites[0].invited(), swallowed, "it is left alone");
    // After a while it is tried again, and has got well.
    sites[0].ways.invite.store(200, Ordering::Relaxed);
    eventually("another try", LIMIT, || {
        assert_eq!(caller.call(one, |_, _| ()).of(200), 1);
        (sites[0].invited() > swallowed).then_some(())
    });
    wait_health(&server, &sites[0], "up");
    assert!(server.stop().success());
}

/// 503 counts as a failure, 486 as an answer.
#[test]
fn what_an_answer_says_of_a_destination() {
    let _shared = shared();
    let sites = [Site::start(), Site::start()];
    let server = server(
        &sites,
        "policy = \"priority\"\ndestinations = [{ uri = \"{0}\" }, { uri = \"{1}\" }]\npassive = { down_after = 3 }",
    );
    let caller = Caller::new(fresh_address(), server.address());
    let three = Plan {
        calls: 3,
        window: 1,
        hang_up: true,
    };
    sites[0].ways.invite.store(486, Ordering::Relaxed);
    assert_eq!(caller.call(three, |_, _| ()).of(486), 3);
    assert_eq!(line(&server, &sites[0])["requests_failed"], 0);
    sites[0].ways.invite.store(503, Ordering::Relaxed);
    assert_eq!(
        caller.call(three, |_, _| ()).of(200),
        3,
        "the other one takes them"
    );
    wait_health(&server, &sites[0], "down");
    assert_eq!(sites[1].invited(), 3);
    assert!(server.stop().success());
}

#[test]
fn probes_are_answered_as_wanted() {
    let _shared = shared();
    let sites = [Site::start(), Site::start()];
    let server = server(
        &sites,
        "destinations = [{ uri = \"{0}\" }, { uri = \"{1}\" }]\nprobe = { interval = \"200ms\", timeout = \"200ms\", down_after = 2, up_after = 2, codes = [200, 404] }",
    );
    sites[0].ways.options.store(404, Ordering::Relaxed);
    sites[1].ways.options.store(486, Ordering::Relaxed);
    wait_health(&server, &sites[0], "up");
    wait_health(&server, &sites[1], "down");
    assert_eq!(line(&server, &sites[1])["probe_code"], 486);
    let caller = Caller::new(fresh_address(), server.address());
    let plan = Plan {
        calls: 6,
        window: 1,
        hang_up: true,
    };
    assert_eq!(caller.call(plan, |_, _| ()).of(200), 6);
    assert_eq!(got(&sites), [6, 0]);
    // Nobody is left.
    sites[0].ways.options.store(0, Ordering::Relaxed);
    wait_health(&server, &sites[0], "down");
    assert_eq!(caller.call(plan, |_, _| ()).of(503), 6);
    assert_eq!(server.counter("destinations.group_down"), 6);
    assert!(server.stop().success());
}

/// Everything that is known of a destination, and its calls, outlive every worker.
#[test]
fn workers_die_and_nothing_is_forgotten() {
    let _shared = shared();
    let mut sites = [Site::start(), Site::start(), Site::start()];
    let server = server(
        &sites,
        &format!(
            "destinations = [{{ uri = \"{{0}}\" }}, {{ uri = \"{{1}}\" }}, {{ uri = \"{{2}}\" }}]\n{QUICK}"
        ),
    );
    let caller = Caller::new(fresh_address(), server.address());
    let plan = Plan {
        calls: 30,
        window: 4,
        hang_up: false,
    };
    let calls = caller.call(plan, |_, _| ());
    assert_eq!(calls.of(200), 30);
    sites[0].kill();
    server.run(&["destinations", "drain", "g", &sites[1].uri()]);
    wait_health(&server, &sites[0], "down");
    let told = |key: &str| -> Vec<Value> {
        sites
            .iter()
            .map(|site| line(&server, site)[key].clone())
            .collect()
    };
    let before = (told("calls"), told("mode"), told("health"));
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
        server.wait_ready();
    }
    assert_eq!((told("calls"), told("mode"), told("health")), before);
    let probed = sites[2].probes();
    eventually("probes by the heirs", LIMIT, || {
        (sites[2].probes() > probed + 3).then_some(())
    });
    let plan = Plan {
        calls: 6,
        window: 2,
        hang_up: true,
    };
    let last = got(&sites)[2];
    assert_eq!(caller.call(plan, |_, _| ()).of(200), 6);
    assert_eq!(got(&sites)[2], last + 6, "the only one that takes calls");
    caller.hang_up(
        &calls
            .up
            .iter()
            .filter(|up| up.at(sites[1].address))
            .cloned()
            .collect::<Vec<_>>(),
    );
    eventually("its last call has ended", LIMIT, || {
        (line(&server, &sites[1])["calls"] == 0).then_some(())
    });
    assert!(server.stop().success());
}

/// One that comes back does not get all at once.
#[test]
fn slow_start() {
    let _shared = shared();
    let mut sites = [Site::start(), Site::start()];
    let server = server(
        &sites,
        &format!(
            "slow_start = \"1h\"\ndestinations = [{{ uri = \"{{0}}\" }}, {{ uri = \"{{1}}\" }}]\n{QUICK}"
        ),
    );
    let caller = Caller::new(fresh_address(), server.address());
    let plan = Plan {
        calls: 40,
        window: 4,
        hang_up: true,
    };
    assert_eq!(caller.call(plan, |_, _| ()).of(200), 40);
    let first = got(&sites);
    assert!(
        first[0].abs_diff(first[1]) <= 1,
        "at the start nobody is slow: {first:?}"
    );
    let ways: Arc<Ways> = Arc::clone(&sites[1].ways);
    sites[1].kill();
    wait_health(&server, &sites[1], "down");
    sites[1] = Site::with(sites[1].address, ways);
    wait_health(&server, &sites[1], "up");
    let before = got(&sites);
    let plan = Plan { calls: 170, ..plan };
    assert_eq!(caller.call(plan, |_, _| ()).of(200), 170);
    let more = got(&sites)[1] - before[1];
    // A sixteenth of its weight, beside the other's whole.
    assert!((9..=11).contains(&more), "{more}");
    assert!(server.stop().success());
}
