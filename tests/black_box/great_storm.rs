//! `kill -9` again and again under calls and REGISTERs, with a checker: no failed call, no acknowledged registration lost, no
//! byte leaked, every invariant of the arena kept.
//!
//! `TANDEM_STORM_KILLS`, `TANDEM_STORM_RATE` and `TANDEM_STORM_EVERY_MS` set other lengths; `cargo xtask storm` does that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blackbox::either;
use blackbox::machine::{alone, eventually};
use blackbox::registers::{Outcome, Registering};
use blackbox::server::{DOMAIN, Server};
use blackbox::storm::{Deaths, Dice, Flows, kill_and_time};

use crate::load::{Load, REGISTERED};

/// Transactions end with their timers; a short T1 keeps the wait for the last of them short.
const CONFIG: &str = r#"
[[listen]]
address = "{ip}:{port}"

[workers]
count = 2
reactors = 1
pin = "none"

[timers]
t1 = "100ms"
t4 = "1s"

[memory]
limit = "256MiB"

[[domain]]
name = "example.test"
auth = "none"
record_route = true
"#;

/// Above 64 x T1 with everything that may come before.
const SETTLED: Duration = Duration::from_secs(60);

fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok().and_then(|s| s.parse().ok());
    given.unwrap_or(otherwise)
}

#[test]
fn nothing_is_lost_or_leaked() {
    let _alone = alone();
    let kills = number("TANDEM_STORM_KILLS", either(15, 200));
    let rate = u32::try_from(number("TANDEM_STORM_RATE", either(100, 500))).unwrap_or(100);
    let every = Duration::from_millis(number("TANDEM_STORM_EVERY_MS", 400));
    let mut dice = Dice::from_environment("great storm");
    let server = Server::start_with(CONFIG);
    let flows = Flows::find(&server);
    let before = settled(&server, 0);

    let seconds = every.as_secs_f64() * kills as f64;
    let mut load = Load::start(&server, rate, seconds.ceil() as u64 + 1, &[]);
    let registers = Registering::start(
        server.ip,
        server.address(),
        DOMAIN,
        2000,
        rate,
        Dice::from_environment("great storm, registers"),
    );
    let mut deaths = Deaths::default();
    load.meanwhile(every, every, || {
        if deaths.times.len() as u64 >= kills {
            return;
        }
        let workers = server.signalling();
        if let Some(victim) = workers.get(dice.below(workers.len())) {
            let slot = victim.slots[dice.below(victim.slots.len())];
            kill_and_time(&server, &flows, victim.pid, slot, &mut deaths);
        }
    });
    let outcome = registers.end();
    let report = load.end();
    println!("great storm: {deaths}");
    println!(
        "great storm: {} retransmissions by callers and callees; {} REGISTERs, {} answered, {} retransmitted, slowest {:?}",
        report.retransmissions(),
        outcome.sent,
        outcome.answered,
        outcome.retransmissions,
        outcome.slowest
    );
    report.assert_no_call_failed();
    assert!(outcome.wrong.is_empty(), "{:#?}", outcome.wrong);
    assert_eq!(deaths.lost, 0, "a datagram was lost in a take-over");
    server.wait_ready();
    assert_eq!(
        server.restarts(),
        deaths.times.len() as u64,
        "status counts every death"
    );
    assert_same(&outcome, &registered(&server));
    let after = settled(&server, outcome.acknowledged.len() as u64 + REGISTERED);
    println!("great storm: arena {before} bytes before, {after} with what is registered");
    for aor in registered(&server).keys() {
        server.run(&["registrations", "remove", aor]);
    }
    let end = settled(&server, 0);
    assert_eq!(end, before, "bytes leaked");
    assert!(server.stop().success());
}

/// Waits until no transaction is left, checks every invariant, and gives the bytes in use.
#[track_caller]
fn settled(server: &Server, registrations: u64) -> u64 {
    eventually("no transaction is left", SETTLED, || {
        (server.number("transactions") == 0).then_some(())
    });
    assert_eq!(server.number("registrations"), registrations);
    eventually("nothing is in between", SETTLED, || {
        let audit = server.json(&["audit"]);
        assert_eq!(
            audit["violations"].as_array().map(Vec::len),
            Some(0),
            "{audit}"
        );
        let unsettled = audit["unsettled"].as_array().map_or(0, Vec::len);
        (unsettled == 0).then(|| audit["bytes_used"].as_u64())?
    })
}

/// AOR to Contact URIs, as the server tells.
fn registered(server: &Server) -> BTreeMap<String, BTreeSet<String>> {
    let list = server.json(&["registrations", "list"]);
    let rows = list.as_array().cloned().unwrap_or_default();
    rows.iter()
        .map(|row| {
            let contacts = row["contacts"].as_array().cloned().unwrap_or_default();
            let uri = |c: &serde_json::Value| c["uri"].as_str().unwrap_or_default().to_owned();
            (
                row["aor"].as_str().unwrap_or_default().to_owned(),
                contacts.iter().map(uri).collect(),
            )
        })
        .collect()
}

/// What the phones were told is what the server has; the callees of the calls are there as well.
#[track_caller]
fn assert_same(outcome: &Outcome, registered: &BTreeMap<String, BTreeSet<String>>) {
    for (aor, contacts) in &outcome.acknowledged {
        assert_eq!(registered.get(aor), Some(contacts), "{aor}");
    }
    let more: Vec<&String> = registered
        .keys()
        .filter(|aor| !outcome.acknowledged.contains_key(*aor) && !aor.contains("callee"))
        .collect();
    assert!(more.is_empty(), "nobody registered {more:?}");
}
