//! Records of calls: one line for each call, whoever dies.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use blackbox::binary::tandem;
use blackbox::either;
use blackbox::machine::{alone, eventually, free_port, fresh_address};
use blackbox::server::{LIMIT, Server};
use blackbox::storm::Dice;
use serde_json::Value;

use crate::load::Load;

const CONFIG: &str = r#"
[[listen]]
address = "{ip}:{port}"

[workers]
count = 2
reactors = 1
pin = "none"

[memory]
limit = "64MiB"

[overload]
occupancy = 100

[[domain]]
name = "example.test"
auth = "none"
record_route = true

[cdr]
path = "{dir}/cdr/calls"
"#;

fn config(more: &str) -> String {
    format!("{CONFIG}{more}\n")
}

/// Records by id, with how often each is there, of all files. Half a line is left out: somebody may be writing it.
fn records(dir: &Path) -> HashMap<String, u32> {
    let mut records = HashMap::new();
    for entry in std::fs::read_dir(dir.join("cdr")).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ending| ending == "lock") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        for line in whole.lines().filter(|line| !line.starts_with("id,")) {
            let id = match line.strip_prefix("{\"id\":\"") {
                Some(json) => json.split('"').next(),
                None => line.split(',').next(),
            };
            *records.entry(id.expect("an id").to_owned()).or_insert(0) += 1;
        }
    }
    records
}

/// So many calls were made: each has come into the file once, and nothing waits.
#[track_caller]
fn assert_each_once(server: &Server, calls: u64) {
    eventually("a record of each call", LIMIT, || {
        let there = records(server.dir()).len() as u64;
        assert!(there <= calls, "{there} records of {calls} calls");
        (there == calls && waiting(server)? == 0).then_some(())
    });
    let twice: Vec<_> = records(server.dir())
        .into_iter()
        .filter(|(_, times)| *times > 1)
        .collect();
    assert!(twice.is_empty(), "{twice:?}\n{}", server.log());
}

/// Records in the arena.
fn waiting(server: &Server) -> Option<u64> {
    server.try_status()?["cdr"]["waiting"].as_u64()
}

fn start(config: &str) -> Server {
    let server = Server::spawn(config, &[]);
    std::fs::create_dir(server.dir().join("cdr")).expect("a folder");
    server.wait_ready();
    server
}

#[test]
fn a_call_leaves_a_record() {
    let server = start(&config("format = \"json\""));
    let load = Load::start(&server, 10, 1, &[]);
    let before = std::time::SystemTime::now();
    load.end().assert_no_call_failed();
    assert_each_once(&server, 10);
    let text = std::fs::read_to_string(server.dir().join("cdr/calls")).expect("the file");
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        let has = |name: &str, part: &str| {
            let value = record[name].as_str().unwrap_or_default();
            assert!(value.contains(part), "{name} in {line}");
        };
        has("to", "@example.test");
        has("request_uri", "sip:callee");
        has("domain", "example.test");
        has("source", &server.ip.to_string());
        has("target", &server.ip.to_string());
        has("cause", "caller");
        has("start", "T");
        has("end", "Z");
        let duration = record["duration"].as_f64().expect("a number");
        assert!((0.05..20.0).contains(&duration), "{line}");
        assert!(!record["callee_tag"].as_str().unwrap_or_default().is_empty());
        assert_eq!(record["code"], 0);
    }
    let status = server.status();
    assert_eq!(status["cdr"]["written"], 10);
    assert_eq!(status["cdr"]["lost"], 0);
    assert!(before.elapsed().is_ok());
    assert!(server.stop().success());
}

#[test]
fn a_call_that_fails_leaves_one_if_it_is_wanted() {
    let server = start(&config(""));
    let (caller, callee) = (server.ua("caller"), server.ua("busy"));
    assert_eq!(callee.register(300).status(), 200);
    let fail = || {
        let invite = caller.invite("sip:busy@example.test");
        caller.send(&invite);
        let got = callee.expect_request("INVITE");
        callee.reply(&got, 486, "Busy Here", "callee");
        let answer = caller.expect_final(&invite);
        assert_eq!(answer.status(), 486);
        caller.send(&caller.ack(&invite, &answer));
    };
    fail();
    assert_each_once(&server, 1);
    let text = std::fs::read_to_string(server.dir().join("cdr/calls")).expect("the file");
    assert!(text.ends_with(",0.000,failed,486\n"), "{text}");
    server.write_config(&config("failed_calls = false"));
    server.reload();
    fail();
    server.write_config(&config(""));
    server.reload();
    fail();
    assert_each_once(&server, 2);
    assert!(server.stop().success());
}

/// Where the book draws the line: one that went nowhere has a record if it was let in.
#[test]
fn a_call_that_is_refused_leaves_one_if_it_was_let_in() {
    let more = "format = \"json\"\n[proxy]\nudp_request_max = 1300";
    let server = start(&config(more));
    let (caller, callee) = (server.ua("caller"), server.ua("callee"));
    assert_eq!(callee.register(300).status(), 200);
    let refused = |to: &str, subject: &str| {
        let mut invite = caller.invite(to);
        invite.set("Subject", subject.to_owned());
        caller.send(&invite);
        let answer = caller.expect_final(&invite);
        caller.send(&caller.ack(&invite, &answer));
        (invite.call_id().to_owned(), answer.status())
    };
    let (_, unknown) = refused("sip:nobody@example.test", "short");
    assert!(matches!(unknown, 404 | 480), "{unknown}");
    let (_, elsewhere) = refused("sip:callee@elsewhere.test", "short");
    assert_eq!(elsewhere, 403);
    let (call_id, long) = refused("sip:callee@example.test", &"long ".repeat(300));
    assert_eq!(long, 513);
    assert_each_once(&server, 1);
    let text = std::fs::read_to_string(server.dir().join("cdr/calls")).expect("the file");
    let record: Value = serde_json::from_str(text.trim()).expect("one line of JSON");
    assert_eq!(record["call_id"], call_id.as_str(), "{text}");
    assert_eq!(
        (&record["cause"], &record["code"]),
        (&"failed".into(), &513.into())
    );
    assert!(server.stop().success());
}

#[test]
fn a_call_that_nobody_answers_names_where_it_was_tried_last() {
    let server = start(&config(""));
    let (first, second) = (server.ua("first"), server.ua("second"));
    let (one, two) = (first.peer.address, second.peer.address);
    server.write_config(&format!(
        "{}[[group]]\nname = \"trunks\"\npolicy = \"priority\"\n\
         destinations = [{{ uri = \"sip:{one}\" }}, {{ uri = \"sip:{two}\", priority = 1 }}]\n\
         [[route]]\nmatch = {{ user = \"^0\" }}\nto = \"group:trunks\"\n",
        config("format = \"json\"")
    ));
    server.reload();
    let caller = server.ua("caller");
    let invite = caller.invite("sip:0123@example.test");
    caller.send(&invite);
    for (trunk, code) in [(&first, 503), (&second, 404)] {
        let got = trunk.expect_request("INVITE");
        trunk.reply(&got, code, "No", "trunk");
    }
    let answer = caller.expect_final(&invite);
    assert_eq!(answer.status(), 404);
    caller.send(&caller.ack(&invite, &answer));
    assert_each_once(&server, 1);
    let text = std::fs::read_to_string(server.dir().join("cdr/calls")).expect("the file");
    let record: Value = serde_json::from_str(text.trim()).expect("one line of JSON");
    assert_eq!(record["target"], two.to_string(), "{text}");
    assert_eq!(record["destination"], format!("trunks sip:{two}"), "{text}");
    assert_eq!(
        (&record["code"], &record["answer"]),
        (&404.into(), &Value::Null)
    );
    assert!(server.stop().success());
}

/// The stream that records are made from, as an operator sees it: each call's events once and in order, from all slots.
#[test]
fn what_happens_to_calls_can_be_followed() {
    let server = start(&config(""));
    let (calls, lines) = (40, 3 * 40);
    let limit = lines.to_string();
    std::thread::scope(|scope| {
        let following =
            scope.spawn(|| server.run(&["calls", "follow", "--json", "--limit", &limit]));
        eventually("a follower", LIMIT, || {
            let threads = |pid: i32| {
                let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
                tasks.into_iter().flatten().flatten().any(|task| {
                    std::fs::read_to_string(task.path().join("comm"))
                        .is_ok_and(|name| name.trim() == "follow")
                })
            };
            server
                .workers()
                .iter()
                .any(|w| threads(w.pid))
                .then_some(())
        });
        Load::start(&server, 40, 1, &[])
            .end()
            .assert_no_call_failed();
        let said = following.join().expect("it ends after so many lines");
        let mut seen: HashMap<String, Vec<String>> = HashMap::new();
        for line in said.lines() {
            let event: Value = serde_json::from_str(line).expect("JSON");
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            seen.entry(text("id")).or_default().push(text("event"));
        }
        assert_eq!(seen.len(), calls, "{said}");
        let wanted = ["begun", "answered", "ended"];
        assert!(seen.values().all(|events| events == &wanted), "{said}");
    });
    let recorded = records(server.dir());
    assert_eq!(recorded.len(), calls);
    assert!(server.stop().success());
}

/// The acceptance: as many records as calls, with a worker killed every second, be it one that serves or the spare, whoever of them writes.
#[test]
fn each_call_has_one_record_whoever_dies() {
    let _alone = alone();
    let mut dice = Dice::from_environment("records");
    let server = start(&config("rotate_size = \"64KiB\""));
    let (rate, seconds) = (either(100, 200), either(12, 50));
    let mut load = Load::start(&server, rate, seconds, &[]);
    let mut kills = 0;
    load.meanwhile(Duration::from_millis(500), Duration::from_secs(1), || {
        let workers = server.workers();
        if let Some(victim) = workers.get(dice.below(workers.len())) {
            server.kill_worker(victim.pid);
            kills += 1;
        }
    });
    load.end().assert_no_call_failed();
    server.wait_ready();
    let calls = u64::from(rate) * seconds;
    assert_each_once(&server, calls);
    println!("{calls} records of {calls} calls, {kills} kills");
    assert!(kills >= 5, "only {kills} kills");
    assert!(server.stop().success());
}

/// The supervisor's death holds up no record, and its successor begins none anew.
#[test]
fn records_are_written_without_a_supervisor() {
    let _alone = alone();
    let mut server = start(&config(""));
    let load = Load::start(&server, 40, 5, &[]);
    eventually("first records", LIMIT, || {
        (records(server.dir()).len() > 20).then_some(())
    });
    server.kill_supervisor();
    let then = records(server.dir()).len();
    eventually("records without a supervisor", LIMIT, || {
        (records(server.dir()).len() > then + 20).then_some(())
    });
    server.run_again();
    server.wait_ready();
    load.end().assert_no_call_failed();
    assert_each_once(&server, 200);
    assert!(server.stop().success());
}

/// What could not be written before a stop is written after the start; what was is not.
#[test]
fn records_wait_over_a_stop() {
    let mut server = Server::spawn(&config(""), &[]);
    server.wait_ready();
    // There is no folder.
    Load::start(&server, 20, 1, &[])
        .end()
        .assert_no_call_failed();
    eventually("20 records wait", LIMIT, || {
        (waiting(&server)? == 20).then_some(())
    });
    eventually("the operator is told", LIMIT, || {
        server
            .log()
            .contains("records of calls wait in memory")
            .then_some(())
    });
    server.run(&["stop"]);
    assert!(server.wait_exit().success());
    std::fs::create_dir(server.dir().join("cdr")).expect("a folder");
    server.run_again();
    server.wait_ready();
    assert_each_once(&server, 20);
    Load::start(&server, 10, 1, &[])
        .end()
        .assert_no_call_failed();
    server.run(&["stop"]);
    assert!(server.wait_exit().success());
    server.run_again();
    server.wait_ready();
    assert_each_once(&server, 30);
    assert!(server.stop().success());
}

/// Whoever tidies up takes the lock away, or the whole folder: nothing is lost, and who has the lock that is there then is not disturbed.
#[test]
fn a_folder_that_is_moved_away() {
    let _alone = alone();
    let server = start(&config(""));
    let (dir, aside) = (server.dir().join("cdr"), server.dir().join("aside"));
    let calls = || {
        let load = Load::start(&server, 20, 1, &[]);
        load.end().assert_no_call_failed();
    };
    let lock = dir.join("calls.lock");
    eventually("a lock", LIMIT, || std::fs::remove_file(&lock).ok());
    eventually("another lock", LIMIT, || lock.exists().then_some(()));
    calls();
    assert_each_once(&server, 20);
    std::fs::rename(&dir, &aside).expect("moved away");
    calls();
    eventually("20 records wait", LIMIT, || {
        (waiting(&server)? == 20).then_some(())
    });
    assert!(server.log().contains("records of calls wait in memory"));
    // Somebody else's now.
    std::fs::create_dir(&dir).expect("a folder");
    let theirs = std::fs::File::create(&lock).expect("a lock");
    theirs.lock().expect("locked");
    let so_far = server.counter("cdr.failed");
    eventually("two more attempts", LIMIT, || {
        (server.counter("cdr.failed") > so_far + 1).then_some(())
    });
    assert_eq!(waiting(&server), Some(20));
    assert!(records(server.dir()).is_empty(), "beside somebody else");
    drop(theirs);
    assert_each_once(&server, 20);
    let before = std::fs::read_to_string(aside.join("calls")).expect("the file");
    assert_eq!(before.lines().count(), 21, "with its head");
    assert!(server.stop().success());
}

/// Processes and arenas come and go, and whatever waits moves with them.
#[test]
fn records_go_on_over_restarts_moves_and_upgrades() {
    let _alone = alone();
    let server = start(&config(""));
    let load = Load::start(&server, 40, 8, &[]);
    server.run(&["restart", "--all"]);
    server.wait_ready();
    let larger = config("").replace("64MiB", "96MiB");
    server.write_config(&larger);
    server.reload();
    server.wait_ready();
    assert_eq!(server.status()["arena"]["limit"].as_u64(), Some(96 << 20));
    let program = tandem().to_str().expect("UTF-8");
    eventually("an upgrade", LIMIT, || {
        let upgraded = server.command(&["upgrade", program]);
        upgraded.status.success().then_some(())
    });
    server.wait_ready();
    load.end().assert_no_call_failed();
    assert_each_once(&server, 320);
    assert!(server.stop().success());
}

/// Workers hear of another file one after the other: none of them writes while another one does.
#[test]
fn another_file_gets_the_records_that_the_one_before_has_not() {
    let _alone = alone();
    let server = start(&config(""));
    let mut load = Load::start(&server, 60, 6, &[]);
    let mut changes = 0;
    while !load.is_over() {
        changes += 1;
        let name = ["cdr/calls\"", "cdr/other\"", "cdr/third\""][changes % 3];
        server.write_config(&config("").replace("cdr/calls\"", name));
        server.reload();
    }
    load.end().assert_no_call_failed();
    assert_each_once(&server, 360);
    println!("{changes} changes of the file");
    assert!(changes >= 3);
    assert!(server.stop().success());
}

/// What is in the file stays the truth when memory has lost its last moments: no call that comes back from the snapshot is written again.
#[test]
fn a_power_cut_makes_no_record_twice() {
    let _alone = alone();
    let mut server = start(&config("").replace("64MiB\"", "64MiB\"\nsnapshot = \"1s\""));
    for round in 1..=3 {
        let load = Load::start(&server, 40, 30, &[]);
        eventually("records, and a snapshot in their midst", LIMIT, || {
            let age = server.try_status()?["snapshot"]["age_ms"].as_u64()?;
            let written = records(server.dir()).len();
            (written > 60 * round && age > 200).then_some(())
        });
        server.power_cut();
        // Callers and callees are cut off too.
        drop(load);
        let before = records(server.dir()).len();
        server.run_again();
        server.wait_ready();
        let load = Load::start(&server, 20, 1, &[]);
        load.end().assert_no_call_failed();
        eventually("the next records", LIMIT, || {
            (records(server.dir()).len() >= before + 20 && waiting(&server)? == 0).then_some(())
        });
        let twice = records(server.dir());
        assert!(twice.values().all(|times| *times == 1), "{}", server.log());
    }
    assert!(server.stop().success());
}

/// A death at each step of whoever writes, one after the other.
#[test]
fn each_call_has_one_record_wherever_its_writer_dies() {
    let points = failpoint::NAMES.iter().copied();
    let ours = |name: &&str| name.starts_with("records.") || name.starts_with("calls.");
    meet(&points.filter(ours).collect::<Vec<_>>(), "kill", "Kill");
}

/// A disk that is full now and then.
#[test]
fn what_can_not_be_written_is_tried_again() {
    let points = [
        "records.write.before",
        "records.write.half",
        "records.write.synced",
    ];
    meet(&points, "error", "Error");
}

/// Calls until each of these points has been met once.
#[track_caller]
fn meet(points: &[&str], kind: &str, said: &str) {
    let _alone = alone();
    let plan: Vec<String> = points
        .iter()
        .map(|point| format!("{point}={kind}@once"))
        .collect();
    let once = tempfile::tempdir().expect("a folder");
    let ip = fresh_address();
    // Three points are met without any call: a server whose first workers die there before they serve gives up.
    let without = CONFIG.split("[cdr]").next().expect("all before it");
    let server = Server::spawn_planned(ip, free_port(ip), without, &plan.join(";"), once.path());
    std::fs::create_dir(server.dir().join("cdr")).expect("a folder");
    server.wait_ready();
    server.write_config(&config("rotate_every = \"1s\""));
    server.reload();
    let mut calls = 0;
    eventually("every point", 5 * LIMIT, || {
        Load::start(&server, 20, 3, &[])
            .end()
            .assert_no_call_failed();
        calls += 60;
        let log = server.log();
        let met = |point: &&str| log.contains(&format!("failpoint {point}: {said}"));
        points.iter().all(met).then_some(())
    });
    server.wait_ready();
    assert_each_once(&server, calls);
    println!("{} points, {calls} records", points.len());
    assert!(server.stop().success());
}
