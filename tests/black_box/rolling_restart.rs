//! `tandem restart --all` every 5 s under 200 calls a second, and of one worker.

use std::time::Duration;

use blackbox::either;
use blackbox::machine::{alone, eventually, shared};
use blackbox::server::{LIMIT, Server};

use crate::load::{Load, Registrations};

#[test]
fn restarts_lose_nothing() {
    let _alone = alone();
    let server = Server::start();
    let kept = Registrations::make(&server, 50);
    let mut load = Load::start(&server, 200, either(12, 60), &[]);
    let mut restarts = 0;
    load.meanwhile(Duration::from_secs(1), Duration::from_secs(5), || {
        let before: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
        server.run(&["restart", "--all"]);
        let after: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
        assert!(
            before.iter().all(|p| !after.contains(p)),
            "{before:?} -> {after:?}"
        );
        restarts += before.len() as u64;
    });
    let report = load.end();
    println!(
        "rolling restart: {restarts} workers, {} retransmissions",
        report.retransmissions()
    );
    report.assert_no_call_failed();
    kept.assert_all_there(&server);
    assert_eq!(
        server.restarts(),
        restarts,
        "status counts planned restarts"
    );
    assert!(server.stop().success());
}

#[test]
fn one_worker_only() {
    let _shared = shared();
    let server = Server::start();
    let before = server.signalling();
    server.run(&["restart", "--worker", "1"]);
    server.wait_ready();
    let after = server.signalling();
    let pid_of = |workers: &[blackbox::server::Worker], slot: u64| {
        workers
            .iter()
            .find(|w| w.slots.contains(&slot))
            .map(|w| w.pid)
    };
    assert_eq!(
        pid_of(&before, 0),
        pid_of(&after, 0),
        "worker 0 is left alone"
    );
    assert_ne!(
        pid_of(&before, 1),
        pid_of(&after, 1),
        "worker 1 is another process"
    );
    assert_eq!(server.restarts(), 1);
    let out = server.command(&["restart", "--worker", "77"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("77"));
}

/// The old process is gone, not only out of the status.
#[test]
fn old_processes_end() {
    let _shared = shared();
    let server = Server::start();
    let before = server.signalling();
    server.run(&["restart", "--all"]);
    eventually("old workers gone", LIMIT, || {
        let living = server.processes();
        before
            .iter()
            .all(|w| living.iter().all(|p| p.pid != w.pid))
            .then_some(())
    });
    server.wait_ready();
    // Supervisor, two workers, one spare.
    eventually("no process too many", LIMIT, || {
        (server.processes().len() == 4).then_some(())
    });
}
