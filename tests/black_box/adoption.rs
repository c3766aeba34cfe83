//! The supervisor's own death: workers serve on, the next `tandem run` takes them over.

use std::time::{Duration, Instant};

use blackbox::machine::{alone, eventually, wait_dead};
use blackbox::server::{LIMIT, Server};

use crate::load::{Load, Registrations};

/// Waits until the new supervisor serves with everybody and a spare.
#[track_caller]
fn adopted(server: &mut Server) {
    server.run_again();
    server.wait_ready();
}

#[test]
fn calls_go_on_without_a_supervisor_and_under_the_next_one() {
    let _alone = alone();
    let mut server = Server::start();
    let kept = Registrations::make(&server, 50);
    let before = server.signalling();
    let load = Load::start(&server, 100, 12, &[]);
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < Duration::from_secs(9) {
        server.kill_supervisor();
        let alone_until = Instant::now() + Duration::from_secs(1);
        assert_eq!(
            server.ua("nobody").register(60).status(),
            200,
            "served by orphans"
        );
        while Instant::now() < alone_until {
            std::thread::sleep(Duration::from_millis(10));
        }
        adopted(&mut server);
        rounds += 1;
    }
    let report = load.end();
    println!(
        "adoption: {rounds} supervisors killed, {} retransmissions",
        report.retransmissions()
    );
    report.assert_no_call_failed();
    kept.assert_all_there(&server);
    let after = server.signalling();
    let pids = |workers: &[blackbox::server::Worker]| {
        workers.iter().map(|worker| worker.pid).collect::<Vec<_>>()
    };
    assert_eq!(pids(&before), pids(&after), "nobody was replaced");
    assert_eq!(server.restarts(), 0);
    assert!(server.stop().success());
}

/// A worker that dies together with the supervisor, or after it, is recovered before anything else.
#[test]
fn a_worker_dies_while_there_is_no_supervisor() {
    let _alone = alone();
    let mut server = Server::start();
    let kept = Registrations::make(&server, 20);
    for round in 1..=3_u64 {
        let victim = server.signalling()[0].pid;
        server.kill_supervisor();
        server.kill_worker(victim);
        wait_dead(victim, LIMIT);
        adopted(&mut server);
        assert_eq!(server.restarts(), round);
        kept.assert_all_there(&server);
    }
    eventually("every slot serves", LIMIT, || {
        (server.signalling().len() == 2).then_some(())
    });
    assert!(server.stop().success());
}
