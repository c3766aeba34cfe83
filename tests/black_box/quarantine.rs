//! A message that kills workers: twice, and never again.

use std::time::Duration;

use blackbox::machine::{alone, eventually, shared};
use blackbox::message::Message;
use blackbox::server::{DEFAULT, LIMIT, Server};
use blackbox::storm::Flows;
use blackbox::ua::Ua;
use serde_json::Value;

use crate::load::{Load, Registrations};

const MARK: &str = "X-Poison: yes";

fn poison(phone: &Ua, server: &Server) -> Message {
    let uri = format!("sip:{}", server.address());
    phone.request("OPTIONS", &uri).with("X-Poison", "yes")
}

#[track_caller]
fn wait_restarts(server: &Server, wanted: u64) {
    eventually("deaths", LIMIT, || {
        (server.restarts() >= wanted).then_some(())
    });
    server.wait_ready();
    assert_eq!(server.restarts(), wanted, "{}", server.log());
}

/// How often a failpoint did what it was told, as the log has it.
fn met(server: &Server, point: &str) -> usize {
    let line = format!("failpoint {point}: ");
    server.log().matches(&line).count()
}

#[track_caller]
fn wait_met(server: &Server, point: &str, times: usize) {
    eventually(point, LIMIT, || (met(server, point) >= times).then_some(()));
}

fn cases(server: &Server) -> Vec<Value> {
    let list = server.json(&["quarantine", "list"]);
    list.as_array().expect("a list").clone()
}

/// Under load: exactly two deaths, then it is dropped, listed and kept as a file; calls and registrations know nothing of it.
#[test]
fn two_deaths_and_no_more() {
    let _alone = alone();
    let plan = format!("worker.begun=segv-if:{MARK}");
    let server = Server::start_with_failpoints(DEFAULT, &plan);
    let kept = Registrations::make(&server, 20);
    let load = Load::start(&server, 60, 6, &[]);
    let phone = server.ua("mallory");
    let request = poison(&phone, &server);
    phone.send(&request);
    wait_restarts(&server, 2);
    // What a phone does that gets no answer.
    for _ in 0..5 {
        phone.send(&request);
    }
    eventually("retransmissions dropped", LIMIT, || {
        (server.counter("slots.poisoned") >= 6).then_some(())
    });
    let list = cases(&server);
    let [case] = list.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!(
        (&case["dropping"], &case["deaths"]),
        (&true.into(), &2.into())
    );
    assert_eq!(case["dropped"], 5, "{case}");
    let source = phone.peer.address.to_string();
    assert_eq!(case["source"], source.as_str());
    assert_eq!(case["received_on"], server.address().to_string().as_str());
    let id = case["id"].as_str().expect("a name");
    let shown = server.run(&["quarantine", "show", id]);
    assert!(shown.contains(MARK) && shown.contains(&source), "{shown}");
    load.end().assert_no_call_failed();
    kept.assert_all_there(&server);

    // The file: lines about it, an empty line, the bytes as they came.
    let files: Vec<_> = std::fs::read_dir(server.state().join("quarantine"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    let [file] = files.as_slice() else {
        panic!("{files:?}")
    };
    assert!(file.to_string_lossy().ends_with(&format!("-{id}.txt")));
    let bytes = std::fs::read(file).expect("a file");
    let end = bytes
        .windows(2)
        .position(|two| two == b"\n\n")
        .expect("a head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    assert!(head.contains(&format!("source: {source}")), "{head}");
    assert_eq!(bytes[end + 2..], request.to_bytes());

    // Another message with the same mark is another message; `clear` lets this one in again.
    assert_eq!(server.json(&["quarantine", "clear", id])["cleared"], 1);
    assert_eq!(
        server.command(&["quarantine", "show", id]).status.code(),
        Some(1)
    );
    assert_eq!(server.restarts(), 2);
    phone.send(&request);
    wait_restarts(&server, 4);
    assert_eq!(cases(&server)[0]["deaths"], 2);
    assert!(server.run(&["quarantine", "list"]).contains("dropped"));
    assert_eq!(server.json(&["quarantine", "clear"])["cleared"], 1);
    assert!(cases(&server).is_empty());
    assert!(server.stop().success());
}

/// The first death is remembered by the bytes, not by the buffer that they lay in: here each worker dies after it has answered, once.
#[test]
fn the_same_bytes_again_are_the_second_death() {
    let _shared = shared();
    // The first time that a process meets it: the heir, which meets it by the journal, dies as well.
    let plan = format!("worker.begun=abort@2-if:{MARK}");
    let server = Server::start_with_failpoints(DEFAULT, &plan);
    let phone = server.ua("mallory");
    let request = poison(&phone, &server);
    // Answered the first time. The second copy kills; its heir serves it, as that process's first.
    phone.send(&request);
    assert_eq!(phone.expect_final(&request).status(), 200);
    phone.send(&request);
    wait_restarts(&server, 1);
    assert_eq!(phone.expect_final(&request).status(), 200);
    let list = cases(&server);
    assert_eq!(
        (list.len(), &list[0]["dropping"]),
        (1, &false.into()),
        "{list:?}"
    );
    // The third copy lies in another buffer and is the heir's second: it kills for the second time, and for the last.
    phone.send(&request);
    wait_restarts(&server, 2);
    let list = cases(&server);
    assert_eq!(
        (&list[0]["dropping"], &list[0]["deaths"]),
        (&true.into(), &2.into())
    );
    phone.peer.drain();
    phone.send(&request);
    phone
        .peer
        .expect_silence(Duration::from_millis(300), |_| true);
    assert_eq!(server.restarts(), 2);
    assert!(server.stop().success());
}

/// SIGKILL is no fault of the message at hand, however often it strikes: the point kills as `kill -9` does.
#[test]
fn a_kill_from_outside_quarantines_nothing() {
    let _shared = shared();
    let plan = format!("worker.begun=sleep:2000-if:{MARK}");
    let config = DEFAULT.replace("[workers]", "[workers]\nhang_timeout = \"10s\"");
    let server = Server::start_with_failpoints(&config, &plan);
    let phone = server.ua("alice");
    let request = poison(&phone, &server);
    phone.send(&request);
    for n in 1..=2 {
        // The worker that has it at hand sleeps. Both go.
        wait_met(&server, "worker.begun", n as usize);
        for worker in server.signalling() {
            server.kill_worker(worker.pid);
        }
        wait_restarts(&server, 2 * n);
    }
    assert_eq!(phone.expect_final(&request).status(), 200);
    // One copy was sent: who began it a second and a third time found it in the journal, where it was at hand when its worker was killed.
    assert_eq!(met(&server, "worker.begun"), 3, "{}", server.log());
    assert!(cases(&server).is_empty());
    assert_eq!(server.counter("slots.poisoned"), 0);
    assert!(server.stop().success());
}

/// A message that hangs its worker is one as well.
#[test]
fn a_message_that_hangs_workers_is_quarantined() {
    let _shared = shared();
    let plan = format!("worker.settled=hang-if:{MARK}");
    let config = DEFAULT.replace("[workers]", "[workers]\nhang_timeout = \"300ms\"");
    let server = Server::start_with_failpoints(&config, &plan);
    let phone = server.ua("mallory");
    phone.send(&poison(&phone, &server));
    wait_restarts(&server, 2);
    assert_eq!(cases(&server)[0]["dropping"], true);
    let next = phone.request("OPTIONS", &format!("sip:{}", server.address()));
    assert_eq!(phone.ask(&next).status(), 200);
    assert!(server.stop().success());
}

/// What another slot of the same process had at hand when it crashed, twice, is under no suspicion.
#[test]
fn who_stands_beside_is_not_to_blame() {
    let _alone = alone();
    let config = DEFAULT
        .replace("count = 2", "count = 1")
        .replace("reactors = 1", "reactors = 2");
    let plan = format!("worker.begun=segv-if:{MARK};worker.settled=sleep:1000-if:X-Slow");
    let server = Server::start_with_failpoints(&config, &plan);
    let flows = Flows::find(&server);
    let (slow, mallory) = (flows.of_slot(0), flows.of_slot(1));
    let uri = format!("sip:{}", server.address());
    let patient = slow.request("OPTIONS", &uri).with("X-Slow", "yes");
    slow.peer.drain();
    slow.send(&patient);
    // It is at hand for a second, and anew in each heir.
    wait_met(&server, "worker.settled", 1);
    mallory.send(&poison(mallory, &server));
    wait_restarts(&server, 2);
    assert_eq!(slow.expect_final(&patient).status(), 200);
    assert!(
        met(&server, "worker.settled") >= 2,
        "it was at hand when the first one died"
    );
    let list = cases(&server);
    let [case] = list.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!(case["source"], mallory.peer.address.to_string().as_str());
    assert_eq!(case["dropping"], true);
    let log = server.log();
    assert!(log.contains("fault in thread slot-1: SIGSEGV"), "{log}");
    assert!(server.stop().success());
}
