//! Workers that neither die nor serve: stopped, or in an endless loop.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blackbox::machine::{alone, eventually, need, process, shared, wait_dead};
use blackbox::server::{DEFAULT, LIMIT, Server};
use blackbox::stalls::undisturbed;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::load::{Load, Registrations};

/// The default of `workers.hang_timeout`, and what may pass before the next ring and after the verdict.
const HANG: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(3);

fn arena_bytes(server: &Server) -> u64 {
    server.status()["arena"]["bytes_used"].as_u64().unwrap()
}

/// SIGSTOP in the middle of 100 calls a second. Nobody sends SIGCONT: the worker is taken for hung, killed and replaced, what
/// waits in its sockets is served by the heir, and the others never notice.
#[test]
fn a_stopped_worker_is_replaced_and_no_call_is_lost() {
    let _alone = alone();
    let server = Server::start();
    let kept = Registrations::make(&server, 20);
    let load = Load::start(&server, 100, 12, &[]);
    let victim = server.signalling()[0].clone();
    // In the midst of it: some fifty calls have gone through its slot.
    eventually("load on the slot", LIMIT, || {
        let status = server.status();
        let slots = status["slots"].as_array()?;
        let ours = slots.iter().find(|s| s["id"] == victim.slots[0])?;
        (ours["messages"].as_u64()? >= 500).then_some(())
    });
    let before = arena_bytes(&server);
    let others: Vec<i32> = server.signalling()[1..].iter().map(|w| w.pid).collect();
    kill(Pid::from_raw(victim.pid), Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    eventually("the stopped worker's end", HANG + SLACK, || {
        process(victim.pid)
            .is_none_or(|p| p.state == 'Z')
            .then_some(())
    });
    let gone = stopped.elapsed();
    // Dead is not yet noticed: until then the status is what it was.
    eventually("its heir", LIMIT, || {
        (server.try_restarts()? == 1).then_some(())
    });
    server.wait_ready();
    println!("a stopped worker was killed after {gone:?}");
    assert!(gone >= HANG, "{gone:?}");
    let after: Vec<i32> = server.signalling()[1..].iter().map(|w| w.pid).collect();
    assert_eq!(others, after, "the others go on");
    assert_eq!(server.restarts(), 1);
    load.end().assert_no_call_failed();
    kept.assert_all_there(&server);
    let now = arena_bytes(&server);
    println!("arena: {before} bytes before the stop, {now} after the load");
    // Transactions linger for half a minute: at most what every call of the load keeps, and nothing that nobody frees.
    assert!(now < before + (8 << 20), "{before} -> {now}");
    let log = server.log();
    assert!(
        log.contains("slots do not answer") && log.contains("state=T"),
        "{log}"
    );
    assert!(log.contains("stopped from outside"), "{log}");
    let exits: Vec<_> = server.status()["workers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|w| w["last_exit"].as_str().map(str::to_owned))
        .collect();
    assert!(
        exits.iter().any(|exit| exit.contains("stopped")),
        "{exits:?}"
    );
    assert!(server.stop().success());
}

/// A take-over by a spare that is stopped would never end: it is replaced as soon as it is seen, before it is needed or while it is waited for.
#[test]
fn a_stopped_spare_holds_up_nobody() {
    let _shared = shared();
    let server = Server::start();
    let phone = server.ua("alice");
    assert_eq!(phone.register(60).status(), 200);
    let spare = || {
        let spare = server.workers().into_iter().find(|w| w.role == "spare");
        spare.map(|spare| spare.pid)
    };
    let gone = |pid| process(pid).is_none_or(|p| p.state == 'Z').then_some(());
    let first = eventually("a spare", LIMIT, spare);
    kill(Pid::from_raw(first), Signal::SIGSTOP).unwrap();
    eventually("its end", HANG + SLACK, || gone(first));
    server.wait_ready();
    assert_eq!(server.restarts(), 0, "{}", server.log());
    // Now it has a seat by the time that it is found.
    let second = eventually("a spare", LIMIT, spare);
    kill(Pid::from_raw(second), Signal::SIGSTOP).unwrap();
    kill(Pid::from_raw(server.signalling()[0].pid), Signal::SIGKILL).unwrap();
    let killed = Instant::now();
    eventually("its end", HANG + SLACK, || gone(second));
    server.wait_ready();
    println!("taken over {:?} after the death", killed.elapsed());
    assert_eq!(phone.register(60).status(), 200);
    assert!(
        server.log().contains("a worker was stopped from outside"),
        "{}",
        server.log()
    );
    assert!(server.stop().success());
}

/// A server that idles is left alone, and costs next to nothing, even with the shortest timeout. A reload changes the timeout.
#[test]
fn an_idle_server_is_not_a_hung_one() {
    let _shared = shared();
    let config = DEFAULT.replace("[workers]", "[workers]\nhang_timeout = \"5s\"");
    let server = Server::start_with(&config);
    let pids: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
    server.write_config(&config.replace("5s", "200ms"));
    assert!(server.run(&["reload"]).contains("workers.hang_timeout"));
    // Bells are rung each second: several of them.
    std::thread::sleep(Duration::from_millis(3500));
    let now: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
    assert_eq!(pids, now, "{}", server.log());
    // The new timeout counts.
    kill(Pid::from_raw(pids[0]), Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    eventually("the stopped worker's end", LIMIT, || {
        process(pids[0])
            .is_none_or(|p| p.state == 'Z')
            .then_some(())
    });
    assert!(stopped.elapsed() < Duration::from_secs(3), "5 s have gone");
    server.wait_ready();
    assert!(server.stop().success());
}

/// An endless loop while a request is served: the log says in which function, and the heir serves what came meanwhile.
#[test]
fn an_endless_loop_is_found_and_named() {
    let _shared = shared();
    let config = DEFAULT.replace("[workers]", "[workers]\nhang_timeout = \"500ms\"");
    let server = Server::start_with_failpoints(&config, "worker.settled=hang@1-if:X-Loop");
    let phone = server.ua("alice");
    assert_eq!(phone.register(60).status(), 200);
    let pids: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
    let mut request = phone.request("OPTIONS", &format!("sip:{}", server.address()));
    request.set("X-Loop", "1");
    phone.send(&request);
    // Behind it in the same socket.
    let next = phone.request("OPTIONS", &format!("sip:{}", server.address()));
    phone.send(&next);
    eventually("two workers that hung", LIMIT, || {
        (server.restarts() == 2).then_some(())
    });
    assert_eq!(phone.expect_final(&next).status(), 200);
    server.wait_ready();
    let after: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
    assert_eq!(
        pids.iter().filter(|pid| after.contains(pid)).count(),
        1,
        "the other one goes on"
    );
    let log = server.log();
    for text in [
        "slots do not answer",
        "state=R",
        "stack of thread slot-",
        "failpoint::enabled::hit",
        "hang\n",
        "serve<worker::outside::Outside>",
        "crates/slot/src/slot.rs",
        "hung, killed by the supervisor",
    ] {
        assert!(log.contains(text), "{text}: {log}");
    }
    assert!(server.stop().success());
}

/// Every process hangs at the third ring of its control thread, spares before they have a seat and workers while their slots serve. Each is found, says
/// where it was, and is replaced; no phone notices, and no message is blamed.
#[test]
fn control_threads_that_hang_are_found() {
    let _shared = shared();
    // Half of the timeout: from then on nobody is blamed, and everything takes longer.
    undisturbed(Duration::from_millis(250), hang_and_be_found);
}

fn hang_and_be_found() {
    let config = DEFAULT.replace("[workers]", "[workers]\nhang_timeout = \"500ms\"");
    let server = Server::start_with_failpoints(&config, "worker.rung=hang@3");
    let phone = server.ua("alice");
    let spare = server.workers().into_iter().find(|w| w.role == "spare");
    let spare = spare.expect("a spare").pid;
    // Two rings, the third, the timeout, and the stack: 4 s on a machine that has time for it.
    eventually("the end of the spare", LIMIT, || {
        assert_eq!(phone.register(60).status(), 200);
        process(spare).is_none_or(|p| p.state == 'Z').then_some(())
    });
    eventually("heirs of both workers", LIMIT, || {
        assert_eq!(phone.register(60).status(), 200);
        (server.try_restarts()? >= 2).then_some(())
    });
    let log = server.log();
    for text in [
        "takes no orders",
        "stack of thread",
        "failpoint::enabled::hit",
        "worker/src/process.rs",
        "its control thread hung, killed by the supervisor",
    ] {
        assert!(log.contains(text), "{text}: {log}");
    }
    assert!(!log.contains("slots do not answer"), "{log}");
    assert_eq!(server.run(&["quarantine", "list", "--json"]).trim(), "[]");
    assert!(server.stop().success());
}

/// Threads that only burn the processor `core`, until dropped.
struct Burners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burners {
    fn on(core: usize, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let burn = move |stop: Arc<AtomicBool>| {
            pin(Pid::from_raw(0), core);
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let threads = (0..count).map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || burn(stop))
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("it only burns");
        }
    }
}

fn pin(thread: Pid, core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).expect("a small number");
    sched_setaffinity(thread, &cores).expect("a core of ours");
}

/// The last core that we may use.
fn last_core() -> usize {
    let ours = sched_getaffinity(Pid::from_raw(0)).expect("our own");
    let is_ours = |core: &usize| ours.is_set(*core).unwrap_or(false);
    (0..CpuSet::count()).rfind(is_ours).expect("we run")
}

/// A slot that could run and is not given the processor: it gets the lowest share of a core that others want, and is let live.
#[test]
fn a_starved_slot_is_not_a_hung_one() {
    let _alone = alone();
    let config = DEFAULT.replace("[workers]", "[workers]\nhang_timeout = \"100ms\"");
    let server = Server::start_with(&config);
    let phone = server.ua("alice");
    assert_eq!(phone.register(60).status(), 200);
    let pids: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
    need("chrt");
    let core = last_core();
    for entry in std::fs::read_dir(format!("/proc/{}/task", pids[0])).expect("its threads") {
        let name = entry.expect("a thread").file_name();
        let tid: i32 = name.to_str().expect("a number").parse().expect("a number");
        pin(Pid::from_raw(tid), core);
        let lowest = ["--idle", "--pid", "0", &tid.to_string()].map(str::to_owned);
        let done = Command::new("chrt").args(lowest).status().expect("chrt");
        assert!(done.success());
    }
    let burners = Burners::on(core, 8);
    let starved = "is not given the processor";
    eventually("a slot that starves", LIMIT, || {
        let log = server.log();
        assert!(!log.contains("slots do not answer"), "{log}");
        log.contains(starved).then_some(())
    });
    drop(burners);
    // It answers as soon as it can.
    for _ in 0..3 {
        assert_eq!(phone.register(60).status(), 200);
    }
    let after: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
    assert_eq!(pids, after, "{}", server.log());
    // Stopped it is found as ever.
    kill(Pid::from_raw(pids[0]), Signal::SIGSTOP).unwrap();
    wait_dead(pids[0], LIMIT);
    server.wait_ready();
    assert!(server.stop().success());
}
