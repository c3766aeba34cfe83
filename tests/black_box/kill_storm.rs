//! `kill -9` of a random signalling worker every 2 s under 200 calls a second.
//!
//! `TANDEM_STORM_SECONDS` sets another length; `cargo xtask storm --minutes N` does that.

use std::time::{Duration, Instant};

use blackbox::either;
use blackbox::machine::{alone, eventually};
use blackbox::server::{LIMIT, Server};
use blackbox::storm::{Deaths, Dice, Flows, kill_and_time};

use crate::load::{Load, REGISTERED, Registrations};

const EVERY: Duration = Duration::from_secs(2);

fn seconds() -> u64 {
    let given = std::env::var("TANDEM_STORM_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    given.unwrap_or(either(12, 60))
}

#[test]
fn no_call_and_no_registration_is_lost() {
    let _alone = alone();
    let mut dice = Dice::from_environment("kill storm");
    let server = Server::start();
    let kept = Registrations::make(&server, 50);
    let flows = Flows::find(&server);
    let registrations = server.number("registrations");
    let mut load = Load::start(&server, 200, seconds(), &[]);
    let mut deaths = Deaths::default();
    let mut next = Instant::now() + EVERY / 2;
    while !load.is_over() {
        if Instant::now() >= next {
            next += EVERY;
            let workers = server.signalling();
            let victim = &workers[dice.below(workers.len())];
            let slot = victim.slots[dice.below(victim.slots.len())];
            kill_and_time(&server, &flows, victim.pid, slot, &mut deaths);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("kill storm: {deaths}");
    let report = load.end();
    println!(
        "kill storm: {} retransmissions by the phones",
        report.retransmissions()
    );
    report.assert_no_call_failed();
    kept.assert_all_there(&server);
    server.wait_ready();
    let status = server.status();
    println!("kill storm: slots afterwards {}", status["slots"]);
    assert_eq!(
        server.number("registrations"),
        registrations + REGISTERED,
        "and the callees"
    );
    let killed = deaths.times.len() as u64;
    assert!(killed >= 3, "only {killed} deaths");
    assert_eq!(server.restarts(), killed, "status counts every death");
    assert_eq!(deaths.lost, 0, "a datagram was lost in a take-over");
    assert!(deaths.worst() < Duration::from_secs(1), "{deaths}");
    assert!(server.stop().success());
}

/// Without traffic to hide behind: every worker killed at once, the server comes back, and what was
/// registered is there.
#[test]
fn all_workers_and_the_spare_at_once() {
    let _alone = alone();
    let server = Server::start();
    let kept = Registrations::make(&server, 20);
    for round in 1..=3_u64 {
        for worker in server.workers() {
            server.kill_worker(worker.pid);
        }
        eventually("somebody serves", LIMIT, || {
            let status = server.try_status()?;
            (!blackbox::server::workers_of(&status).is_empty()).then_some(())
        });
        server.wait_ready();
        kept.assert_all_there(&server);
        assert!(server.restarts() >= 2 * round);
    }
    assert!(server.stop().success());
}
