//! `tandem upgrade BINARY`: another program takes over while calls run, or nothing happens at all.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blackbox::binary::{tandem, tandem_with_another_layout, tandem_with_failpoints};
use blackbox::either;
use blackbox::machine::{alone, eventually, shared};
use blackbox::server::{DEFAULT, LIMIT, Server};

use crate::load::{Load, Registrations};

fn text(out: &Output) -> String {
    let of = String::from_utf8_lossy;
    format!("{}{}", of(&out.stdout), of(&out.stderr))
}

fn pids(server: &Server) -> Vec<i32> {
    server.workers().iter().map(|worker| worker.pid).collect()
}

/// A file that may be run.
fn program(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("a mode");
}

#[test]
fn the_same_program_under_load() {
    let _alone = alone();
    let server = Server::start();
    let kept = Registrations::make(&server, 50);
    let mut load = Load::start(&server, 200, either(8, 60), &[]);
    let mut upgrades = 0;
    while !load.is_over() {
        let before = pids(&server);
        // The file is gone as soon as it is taken: what runs does not need its name.
        let copy = server.dir().join("tandem-new");
        std::fs::copy(tandem(), &copy).expect("a copy");
        let said = server.run(&["upgrade", copy.to_str().expect("a path in UTF-8")]);
        std::fs::remove_file(&copy).expect("it is still there");
        assert!(said.contains("worker 1: runs version"), "{said}");
        assert!(
            said.contains(&format!("supervisor {}: runs version", server.supervisor())),
            "{said}"
        );
        let after = pids(&server);
        assert!(
            before.iter().all(|pid| !after.contains(pid)),
            "{before:?} -> {after:?}"
        );
        kill_all(&server);
        upgrades += 1;
    }
    println!("{upgrades} upgrades");
    load.end().assert_no_call_failed();
    kept.assert_all_there(&server);
    assert!(server.stop().success());
}

#[test]
fn what_is_no_successor_is_refused_before_anything_happens() {
    let _shared = shared();
    let server = Server::start();
    let before = pids(&server);
    let path = server.dir().join("new");
    let name = path.to_str().expect("a path in UTF-8");
    let refused = |reason: &str| {
        let out = server.command(&["upgrade", name]);
        let said = text(&out);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(reason), "{said}");
    };
    refused("there is no file");
    program(&path, b"#!/bin/sh\nexec tandem \"$@\"\n");
    refused("is no program");
    program(&path, &std::fs::read("/bin/true").expect("a program"));
    refused("is no `tandem`");
    let mut foreign = std::fs::read("/bin/true").expect("a program");
    foreign[18] ^= 0xff;
    program(&path, &foreign);
    refused("another kind of machine");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    program(&path, &std::fs::read(tandem()).expect("a program"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    refused("may not run");
    assert_eq!(pids(&server), before);
    assert_eq!(server.restarts(), 0);
}

/// Each worker once, one after the other: what took over from others can be taken over from as well.
fn kill_all(server: &Server) {
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
        eventually("an heir", LIMIT, || {
            (!pids(server).contains(&worker.pid)).then_some(())
        });
        server.wait_ready();
    }
}

/// Runs a command that moves the server to another arena. A machine that stands still in the midst of it has the move taken back, which is right, and
/// is tried again.
#[track_caller]
fn moved(server: &Server, arguments: &[&str]) -> String {
    const TRIES: usize = 6;
    for _ in 1..TRIES {
        let out = server.command(arguments);
        let said = text(&out);
        if out.status.success() {
            return said;
        }
        assert!(
            said.contains("the pause would be longer than")
                || said.contains("not every worker serves"),
            "{said}\n{}",
            server.log()
        );
        println!("taken back, and tried again: {said}");
        server.wait_ready();
    }
    server.run(arguments)
}

/// Asks for something in the tables again and again, whatever goes on; how often it was answered.
fn ask_on(server: &Server, over: &AtomicBool) -> u32 {
    let end = Instant::now() + ASKING_MAX;
    let mut answered = 0;
    while !over.load(Ordering::Relaxed) && Instant::now() < end {
        let shown = server.run(&["registrations", "show", "sip:keep0@example.test"]);
        assert!(shown.contains("keep0"), "{shown}");
        answered += 1;
    }
    answered
}

/// Also when what goes on meanwhile has failed.
const ASKING_MAX: Duration = Duration::from_secs(120);

/// What `tandem reload` or `tandem upgrade` says of the pause. Unit: ms.
fn pause(said: &str) -> f64 {
    let (_, rest) = said
        .split_once(", pause ")
        .unwrap_or_else(|| panic!("no pause: {said}"));
    let (number, _) = rest.split_once(' ').expect("a unit behind it");
    number.parse().expect("a number")
}

#[test]
fn a_raised_limit_under_load() {
    let _alone = alone();
    let server = Server::start();
    let kept = Registrations::make(&server, 50);
    let mut load = Load::start(&server, 200, either(8, 60), &[]);
    let limit = |bytes: u64| format!("{}MiB", bytes >> 20);
    let mut bytes = 64 << 20;
    let mut pauses = Vec::new();
    let over = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask_on(&server, &over));
        while !load.is_over() && bytes < 320 << 20 {
            bytes += 32 << 20;
            server.write_config(&DEFAULT.replace("64MiB", &limit(bytes)));
            let said = moved(&server, &["reload"]);
            pauses.push(pause(&said));
            println!("{said}");
            assert_eq!(server.status()["arena"]["limit"].as_u64(), Some(bytes));
            kill_all(&server);
        }
        over.store(true, Ordering::Relaxed);
        asking.join().expect("every question is answered")
    });
    println!("pauses in ms: {pauses:?}; {asked} questions answered meanwhile");
    load.end().assert_no_call_failed();
    kept.assert_all_there(&server);
    server.write_config(DEFAULT);
    let said = server.run(&["reload"]);
    assert!(
        said.contains("`memory.limit`: changed in the file, unchanged until"),
        "{said}"
    );
    assert_eq!(server.status()["arena"]["limit"].as_u64(), Some(bytes));
    assert!(server.stop().success());
}

fn name(program: &Path) -> &str {
    program.to_str().expect("a path in UTF-8")
}

#[test]
fn another_layout_under_load() {
    let (there, back) = (tandem_with_another_layout(), tandem());
    let _alone = alone();
    let server = Server::start();
    let kept = Registrations::make(&server, 50);
    let mut load = Load::start(&server, 200, either(8, 60), &[]);
    let mut pauses = Vec::new();
    // Not for the whole run: the records of ended transactions pile up, and a debug build is slow to copy them.
    while !load.is_over() && pauses.len() < 6 {
        let other = pauses.len() % 2 == 0;
        let said = moved(
            &server,
            &["upgrade", name(if other { there } else { back })],
        );
        pauses.push(pause(&said));
        println!("{said}");
        let status = server.status();
        let version = status["version"].as_str().expect("a version");
        assert_eq!(version.contains("layout-probe"), other, "{version}");
        assert_eq!(
            status["supervisor"]["pid"].as_i64(),
            Some(server.supervisor().into())
        );
        server.wait_ready();
        kill_all(&server);
    }
    println!("pauses in ms: {pauses:?}");
    load.end().assert_no_call_failed();
    kept.assert_all_there(&server);
    assert!(server.stop().success());
}

/// One program dies as soon as a worker has taken over, the other also lays out the arena in its own way: both are taken back.
#[test]
fn programs_that_fail_are_taken_back_under_load() {
    let programs = [tandem_with_failpoints(), tandem_with_another_layout()];
    let _alone = alone();
    let points = [("TANDEM_FAILPOINTS", "takeover.settled=abort")];
    let server = Server::spawn_with_env(DEFAULT, &points);
    server.wait_ready();
    let kept = Registrations::make(&server, 50);
    let mut load = Load::start(&server, 200, either(8, 60), &[]);
    let mut failed = 0;
    while !load.is_over() {
        for program in programs {
            let out = server.command(&["upgrade", name(program)]);
            let said = text(&out);
            assert_eq!(out.status.code(), Some(1), "{said}");
            assert!(said.contains("was not taken"), "{said}");
            server.wait_ready();
            failed += 1;
        }
    }
    println!("{failed} upgrades taken back");
    load.end().assert_no_call_failed();
    kept.assert_all_there(&server);
    assert!(server.stop().success());
}

/// Its workers are healthy, but as a supervisor it can't go on.
#[test]
fn a_supervisor_that_fails_becomes_the_old_one_again() {
    let program = tandem_with_failpoints();
    let _shared = shared();
    let points = [("TANDEM_FAILPOINTS", "succession.adopts=error")];
    let server = Server::spawn_with_env(DEFAULT, &points);
    server.wait_ready();
    let kept = Registrations::make(&server, 5);
    let out = server.command(&["upgrade", name(program)]);
    let said = text(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("a test has it fail"), "{said}");
    server.wait_ready();
    kept.assert_all_there(&server);
    // The old program again, which can be upgraded to itself.
    server.run(&["upgrade", name(tandem())]);
    assert!(server.stop().success());
}
