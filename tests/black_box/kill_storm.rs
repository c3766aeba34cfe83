//! `kill -9` of a random signalling worker every 2 s under 200 calls a second.
//!
//! `TANDEM_STORM_SECONDS` sets another length; `cargo xtask storm --minutes N` does that.

use std::time::{Duration, Instant};

use blackbox::either;
use blackbox::machine::{alone, eventually};
use blackbox::server::{DOMAIN, LIMIT, Server};
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
    load.meanwhile(EVERY / 2, EVERY, || {
        let workers = server.signalling();
        let victim = &workers[dice.below(workers.len())];
        let slot = victim.slots[dice.below(victim.slots.len())];
        kill_and_time(&server, &flows, victim.pid, slot, &mut deaths);
    });
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

/// REGISTERs that are never sent twice, one after the other, while workers die beneath them: each is
/// answered, and each binding is there afterwards.
#[test]
fn every_register_is_answered() {
    let _alone = alone();
    let mut dice = Dice::from_environment("registers under kills");
    let server = Server::start();
    let phones: Vec<_> = (0..8).map(|n| server.ua(&format!("phone{n}"))).collect();
    let count = either(6_000, 60_000);
    let (mut kills, mut next) = (0, Instant::now());
    for n in 0..count {
        let ua = &phones[n % phones.len()];
        let mut request = ua.register_request(3600);
        request.set("To", format!("<sip:r{n}@{DOMAIN}>"));
        ua.send(&request);
        if Instant::now() >= next {
            next += Duration::from_millis(100);
            let workers = server.signalling();
            server.kill_worker(workers[dice.below(workers.len())].pid);
            kills += 1;
        }
        let answer = ua.expect_final(&request);
        assert_eq!(answer.status(), 200, "after {n} of {count}, {kills} kills");
    }
    println!("{count} REGISTERs answered, {kills} kills meanwhile");
    server.wait_ready();
    assert!(kills >= 3, "only {kills} kills");
    assert_eq!(server.number("registrations"), count as u64);
    assert!(server.stop().success());
}
