//! What a call on record, hidden, or with media costs in processor time beside plain proxying: the same load, in turn, in one run.
//!
//! `cargo xtask calls` runs it with the figures that it is given; without it they are small, and say nothing but that it works.

use std::time::Duration;

use blackbox::crowd::{Crowd, Kind, StandIn, Work};
use blackbox::machine::{alone, eventually, fresh_address, processor_ns, stay_on};
use blackbox::server::Server;
use blackbox::{either, long};

use crate::many_calls::{number, rate};

/// The server has a processor of its own. Transactions go soon, so that their removal is part of what is measured.
const CONFIG: &str = r#"
[[listen]]
address = "{ip}:{port}"

[workers]
count = 1
reactors = 1
pin = [0]

[timers]
t1 = "100ms"
t2 = "500ms"
t4 = "500ms"

[memory]
limit = "256MiB"

[overload]
occupancy = 100
"#;

const PLAIN: &str = r#"
[calls]
record = false
[[domain]]
name = "example.test"
auth = "none"
"#;

const ON_RECORD: &str = r#"
[[domain]]
name = "example.test"
auth = "none"
"#;

const COUNTED: &str = r#"
[[domain]]
name = "example.test"
auth = "none"
calls_max = 100000
user_calls_max = 100000
[[profile]]
name = "trunk"
calls_max = 100000
[[route]]
match = { domain = "example.test" }
to = "location"
profile = "trunk"
"#;

const HIDDEN: &str = r#"
[[domain]]
name = "example.test"
auth = "none"
topology_hiding = "dialog"
"#;

const SEALED: &str = r#"
[[domain]]
name = "example.test"
auth = "none"
topology_hiding = "stateless"
"#;

const MEDIA: &str = r#"
[[domain]]
name = "example.test"
auth = "none"
media = "relay"
[[media]]
name = "relay"
engines = [{ address = "{engine}" }]
"#;

const VARIANTS: [(&str, &str); 6] = [
    ("plain", PLAIN),
    ("on record", ON_RECORD),
    ("counted in four", COUNTED),
    ("hidden", HIDDEN),
    ("hidden, stateless", SEALED),
    ("with media", MEDIA),
];

/// What a request within a call on record may cost, measured against plain proxying, where there are rounds enough to say so.
const WITHIN_MAX: f64 = 1.15;
const ROUNDS_TO_TELL: u64 = 5;
const SETTLED: Duration = Duration::from_secs(60);

/// One server, with calls that are up.
struct Side {
    name: &'static str,
    server: Server,
    crowd: Crowd,
    /// Of each round, a request and its answer. Unit: ns.
    within: Vec<f64>,
    /// The same of a whole call.
    whole: Vec<f64>,
}

impl Side {
    /// Processor time of the work, and of all that follows from it. Unit: ns for each of it.
    #[track_caller]
    fn cost(&self, work: Work, times: u64) -> f64 {
        let worker = self.server.signalling()[0].pid;
        let before = processor_ns(worker, "slot-");
        self.crowd.run(work).assert_done(self.name, times);
        if long() {
            eventually("no transaction is left", SETTLED, || {
                (self.server.number("transactions") == 0).then_some(())
            });
        }
        let took = processor_ns(worker, "slot-") - before;
        assert_eq!(self.server.restarts(), 0, "another process goes on");
        took as f64 / times as f64
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// By round, since what else the machine does changes over time.
fn beside(values: &[f64], plain: &[f64]) -> f64 {
    let ratios: Vec<f64> = values.iter().zip(plain).map(|(v, p)| v / p).collect();
    median(&ratios)
}

#[test]
fn a_message_beside_plain_proxying() {
    let _alone = alone();
    let rounds = number("TANDEM_CALLS_ROUNDS", either(1, ROUNDS_TO_TELL));
    let each = number("TANDEM_CALLS_WINDOW", either(1, 3));
    let asked = rate("TANDEM_CALLS_REQUESTS", either(200, 4000));
    let called = rate("TANDEM_CALLS_RATE", either(50, 1000));
    const UP: u64 = 100;

    let engine = StandIn::start(fresh_address());
    let servers: Vec<Server> = VARIANTS
        .iter()
        .map(|(_, variant)| {
            let config = format!("{CONFIG}{variant}");
            Server::start_with(&config.replace("{engine}", &engine.address.to_string()))
        })
        .collect();
    // What is started from here on leaves the servers' processor alone. With one there is no choice.
    stay_on(1);
    let mut sides: Vec<Side> = VARIANTS
        .iter()
        .zip(servers)
        .map(|((name, _), server)| Side {
            name,
            crowd: Crowd::new(fresh_address(), server.address(), UP),
            server,
            within: Vec::new(),
            whole: Vec::new(),
        })
        .collect();
    for side in &sides {
        let calls = Work::Call {
            calls: UP,
            rate: called,
        };
        side.crowd.run(calls).assert_done(side.name, UP);
        let kept = if side.name == "plain" { 0 } else { UP };
        assert_eq!(side.server.number("dialogs"), kept, "{}", side.name);
    }
    for _ in 0..rounds {
        for side in &mut sides {
            let requests = u64::from(asked) * each;
            let work = Work::Ask {
                kind: Kind::Info,
                requests,
                rate: asked,
            };
            let cost = side.cost(work, requests);
            side.within.push(cost);
        }
        for side in &mut sides {
            let calls = u64::from(called) * each;
            let work = Work::Visit {
                calls,
                rate: called,
                hold: Duration::ZERO,
            };
            let cost = side.cost(work, calls);
            side.whole.push(cost);
        }
    }
    // One that is answered late is asked again.
    assert!(engine.offers() >= UP + u64::from(called) * each * rounds);
    let (plain, others) = sides.split_first().expect("there are sides");
    println!("processor time, the kernel's share included, median of {rounds} rounds:");
    let line = |name: &str, within: &[f64], whole: &[f64]| {
        println!(
            "{name:>18}: INFO and its answer {:6.2} µs ({:+5.1} %), a whole call {:7.2} µs ({:+5.1} %)",
            median(within) / 1e3,
            (beside(within, &plain.within) - 1.0) * 100.0,
            median(whole) / 1e3,
            (beside(whole, &plain.whole) - 1.0) * 100.0
        );
    };
    line(plain.name, &plain.within, &plain.whole);
    for side in others {
        line(side.name, &side.within, &side.whole);
    }
    let on_record = beside(&others[0].within, &plain.within);
    if rounds >= ROUNDS_TO_TELL && !cfg!(debug_assertions) {
        assert!(on_record <= WITHIN_MAX, "{on_record:.3} times the cost");
    }
}
