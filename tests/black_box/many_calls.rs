//! A hundred thousand calls at the same moment: what they weigh, what still works with so many, and that nothing of them is left.
//!
//! `cargo xtask calls` runs these with the figures that it is given; without it they are small.

use std::time::{Duration, Instant};

use blackbox::crowd::{Crowd, Kind, Work};
use blackbox::either;
use blackbox::machine::{alone, descriptors, eventually, fresh_address, resident_own_kib};
use blackbox::server::Server;
use blackbox::storm::{Deaths, Flows, kill_and_time};

/// Records of transactions stay for 64 times T1: a short one keeps the waits short.
const CONFIG: &str = r#"
[[listen]]
address = "{ip}:{port}"

[workers]
count = 2
reactors = 1
pin = "none"

[timers]
t1 = "100ms"
t2 = "500ms"
t4 = "500ms"

[memory]
limit = "{memory}"

[overload]
occupancy = 100

[[domain]]
name = "example.test"
auth = "none"
calls_max = 1000000
{domain}

[[profile]]
name = "trunk"
calls_max = {calls}
code = 486

[[route]]
match = { domain = "example.test" }
to = "location"
profile = "trunk"
{more}
"#;

/// Above everything that transactions and records wait for.
const SETTLED: Duration = Duration::from_secs(90);
/// What a call may weigh in the arena, its share of the index and its counts included. Unit: bytes.
const CALL_BYTES_MAX: u64 = 1024;
/// What a command may take that does not tell of every call.
const COMMAND_MAX: Duration = Duration::from_secs(5);

pub(crate) fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
    given.unwrap_or(otherwise)
}

pub(crate) fn rate(name: &str, otherwise: u64) -> u32 {
    u32::try_from(number(name, otherwise)).unwrap_or(u32::MAX)
}

fn start(calls: u64, domain: &str, more: &str) -> Server {
    // A call and the transactions of its beginning, which are there at the same moment.
    let memory = (calls * 8 / 1024).clamp(64, 8192);
    let config = CONFIG
        .replace("{memory}", &format!("{memory}MiB"))
        .replace("{calls}", &calls.to_string())
        .replace("{domain}", domain)
        .replace("{more}", more);
    let server = Server::spawn(&config, &[]);
    std::fs::create_dir_all(server.dir().join("cdr")).expect("a folder");
    server.wait_ready();
    server
}

/// The arena when no transaction is left and nothing is in between. Unit: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arena {
    used: u64,
    mapped: u64,
}

#[track_caller]
fn settled(server: &Server) -> Arena {
    eventually("no transaction is left", SETTLED, || {
        (server.number("transactions") == 0).then_some(())
    });
    eventually("nothing is in between", SETTLED, || {
        let audit = server.json(&["audit"]);
        let none = |name: &str| audit[name].as_array().is_some_and(Vec::is_empty);
        assert!(none("violations"), "{audit}");
        none("unsettled").then_some(())
    });
    let status = server.status();
    let bytes = |name: &str| status["arena"][name].as_u64().unwrap_or_default();
    Arena {
        used: bytes("bytes_used"),
        mapped: bytes("bytes_mapped"),
    }
}

/// A command that must succeed, and be done soon.
#[track_caller]
fn quick(server: &Server, arguments: &[&str]) -> String {
    let begun = Instant::now();
    let said = server.run(arguments);
    let took = begun.elapsed();
    println!("  tandem {}: {took:?}", arguments.join(" "));
    assert!(took < COMMAND_MAX, "tandem {arguments:?} took {took:?}");
    said
}

/// Calls come up, are asked and changed while workers die, are listed, and end; again and again, and in the end without more memory.
#[test]
fn calls_at_the_same_moment() {
    let _alone = alone();
    let calls = number("TANDEM_CALLS", either(600, 100_000));
    let rate = rate("TANDEM_CALLS_RATE", either(300, 2000));
    let kills = number("TANDEM_CALLS_KILLS", either(4, 10));
    let server = start(calls, "", "");
    let crowd = Crowd::new(fresh_address(), server.address(), calls);
    // The profile and the domain are known from their first call on.
    let first = Work::Visit {
        calls: 1,
        rate,
        hold: Duration::ZERO,
    };
    crowd.run(first).assert_done("the first call", 1);
    let before = settled(&server);

    let call = Work::Call { calls, rate };
    crowd.run(call).assert_done("calls", calls);
    assert_eq!(server.number("dialogs"), calls);
    let more = crowd.run(Work::Call { calls: 1, rate });
    assert_eq!((more.done, more.failures), (0, 1), "no room: {more:?}");
    let up = settled(&server);
    let each = (up.used - before.used) / calls;
    println!("{calls} calls: {each} bytes of the arena each");
    assert!(each <= CALL_BYTES_MAX, "a call weighs {each} bytes");

    quick(&server, &["status"]);
    quick(&server, &["calls", "list", "--limit", "50"]);
    let all = server.json(&["calls", "list", "--limit", "50"]);
    assert_eq!(all.as_array().map(Vec::len), Some(50));
    let id = all[49]["id"].as_str().expect("an id").to_owned();
    let shown = quick(&server, &["calls", "show", &id]);
    assert!(shown.contains(all[49]["call_id"].as_str().expect("a Call-ID")));
    // One of them by name: all are looked at.
    let party = format!("sip:u{}@", calls - 1);
    let one = quick(&server, &["calls", "list", "--party", &party, "--json"]);
    let one: serde_json::Value = serde_json::from_str(&one).expect("JSON");
    assert_eq!(one.as_array().map(Vec::len), Some(1), "{one}");
    let begun = Instant::now();
    let all = server.json(&["calls", "list"]);
    println!("  tandem calls list, all of them: {:?}", begun.elapsed());
    assert_eq!(all.as_array().map(|all| all.len() as u64), Some(calls));

    deaths(&server, &crowd, calls, rate, kills);
    for kind in [Kind::Update, Kind::Again] {
        let requests = calls / 10;
        let ask = Work::Ask {
            kind,
            requests,
            rate,
        };
        crowd.run(ask).assert_done(&format!("{kind:?}"), requests);
    }
    assert_eq!(server.number("dialogs"), calls);
    crowd.run(Work::HangUp { rate }).assert_done("BYE", calls);
    eventually("no call is left", SETTLED, || {
        (server.number("dialogs") == 0).then_some(())
    });
    let after = settled(&server);
    assert_eq!(after.used, before.used, "something of the calls is left");

    // What the deaths and changes of the first time left in parts is put to use by the second; then it is enough.
    let mut mapped = Vec::new();
    for round in 0..2 {
        crowd.run(call).assert_done("calls again", calls);
        assert_eq!(server.number("dialogs"), calls);
        crowd.run(Work::HangUp { rate }).assert_done("BYE", calls);
        let again = settled(&server);
        println!("arena before, after, after more ({round}): {before:?}, {after:?}, {again:?}");
        assert_eq!(again.used, before.used, "something of the calls is left");
        mapped.push(again.mapped);
    }
    assert!(
        mapped[1] <= mapped[0] + mapped[0] / 8,
        "it grows: {mapped:?}"
    );
    assert_eq!(server.counter("balancer.seats_lost"), 0);
    assert!(server.stop().success());
}

/// Workers die while requests go on within the calls.
#[track_caller]
fn deaths(server: &Server, crowd: &Crowd, calls: u64, rate: u32, kills: u64) {
    let flows = Flows::find(server);
    let mut deaths = Deaths::default();
    let mut asked = 0;
    for kill in 0..kills {
        let requests = u64::from(rate) / 2;
        crowd.start(Work::Ask {
            kind: Kind::Info,
            requests,
            rate,
        });
        asked += requests;
        server.wait_ready();
        let workers = server.signalling();
        let victim = &workers[kill as usize % workers.len()];
        let slot = victim.slots.first().copied().unwrap_or_default();
        kill_and_time(server, &flows, victim.pid, slot, &mut deaths);
        crowd.end().assert_done("INFO, with a death", requests);
    }
    println!("with {calls} calls up, {asked} requests in them: {deaths}");
    assert_eq!(deaths.lost, 0, "a datagram was lost in a take-over");
    server.wait_ready();
    assert_eq!(server.restarts(), kills);
    assert_eq!(server.number("dialogs"), calls);
}

/// Resident memory of its own (KiB) and descriptors of each process: the supervisor, then workers by their place.
fn processes(server: &Server) -> Vec<(u64, usize)> {
    let mut pids = vec![server.supervisor()];
    pids.extend(server.workers().iter().map(|worker| worker.pid));
    pids.into_iter()
        .map(|pid| (resident_own_kib(pid), descriptors(pid)))
        .collect()
}

/// Calls come and go for a while, each with a record of its own afterwards; then everything is as before.
#[test]
fn nothing_grows_with_time() {
    let _alone = alone();
    let rate = rate("TANDEM_CALLS_RATE", either(100, 200));
    let seconds = number("TANDEM_CALLS_SECONDS", either(5, 120));
    let more = "[cdr]\npath = \"{dir}/cdr/calls\"\nrotate_size = \"1MiB\"";
    let server = start(1000, "user_calls_max = 1000", more);
    let crowd = Crowd::new(fresh_address(), server.address(), 50);
    let visit = |calls| Work::Visit {
        calls,
        rate,
        hold: Duration::from_secs(1),
    };
    // What is taken once, and kept: room for as many transactions as there ever are at this rate, which stay for seconds.
    let first = u64::from(rate) * seconds.min(15);
    crowd.run(visit(first)).assert_done("calls before", first);
    let before = (settled(&server), processes(&server));
    let calls = u64::from(rate) * seconds;
    for part in 1..=4 {
        let calls = calls * part / 4 - calls * (part - 1) / 4;
        crowd.run(visit(calls)).assert_done("calls", calls);
        println!("after {part} of 4 parts: {:?}", processes(&server));
    }
    eventually("every call has its record", SETTLED, || {
        let status = server.status();
        let of = |name: &str| status["cdr"][name].as_u64();
        (of("waiting")? == 0 && of("written")? == first + calls).then_some(())
    });
    assert_eq!(server.number("dialogs"), 0);
    let after = (settled(&server), processes(&server));
    println!("before: {before:?}\nafter:  {after:?}");
    assert_eq!(after.0.used, before.0.used, "the arena has more in it");
    for (was, is) in before.1.iter().zip(&after.1) {
        assert_eq!(is.1, was.1, "descriptors");
        assert!(is.0 <= was.0 + GROWTH_KIB, "{} KiB were {}", is.0, was.0);
    }
    assert_eq!(server.restarts(), 0);
    assert!(server.stop().success());
}

/// What a process may take more after its first calls: buffers that grow to what a busy moment needs. Unit: KiB.
const GROWTH_KIB: u64 = 1024;
