//! A log that can't be written holds up nobody and ends nobody.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::Stdio;

use blackbox::machine::{eventually, shared};
use blackbox::server::{DEFAULT, LIMIT, Server};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_full_disk_ends_nobody() {
    let _shared = shared();
    let full = OpenOptions::new().write(true).open("/dev/full");
    deaths_are_seen_to(full.expect("a device of every Linux").into());
}

#[test]
fn a_pipe_that_nobody_empties_holds_up_nobody() {
    let _shared = shared();
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a flag of a pipe");
    let mut writer = File::from(writer);
    while writer.write(&[b'x'; 512]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).expect("a flag of a pipe");
    deaths_are_seen_to(writer.into());
    drop(reader);
}

#[test]
fn a_pipe_whose_reader_has_gone_ends_nobody() {
    let _shared = shared();
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    drop(reader);
    deaths_are_seen_to(writer.into());
}

/// Workers die, which is worth some lines of every process; all of them have heirs, and commands are answered.
#[track_caller]
fn deaths_are_seen_to(log: Stdio) {
    let server = Server::start_with_log_to(DEFAULT, log);
    let phone = server.ua("alice");
    assert_eq!(phone.register(60).status(), 200);
    for round in 1..=3 {
        let before = server.restarts();
        let workers = server.signalling();
        // One leaves without a word, the other tells its stack, or tries to.
        let signals = [Signal::SIGKILL, Signal::SIGSEGV].into_iter().cycle();
        for (worker, signal) in workers.iter().zip(signals) {
            kill(Pid::from_raw(worker.pid), signal).expect("a worker of ours");
        }
        eventually("heirs", LIMIT, || {
            let all = before + workers.len() as u64;
            (server.restarts() >= all).then_some(())
        });
        server.wait_ready();
        assert_eq!(phone.register(60).status(), 200, "after {round} rounds");
    }
    assert!(server.stop().success());
}
