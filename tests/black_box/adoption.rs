//! The supervisor's own death: workers serve on, the next `tandem run` takes them over.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use blackbox::either;
use blackbox::machine::{alone, descriptors, eventually, free_port, shared, wait_dead};
use blackbox::manager::Manager;
use blackbox::server::{DEFAULT, DOMAIN, LIMIT, Server};
use blackbox::storm::Dice;
use blackbox::ua::Ua;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// Everything is killed. The service manager has the memory and the sockets, and the next start goes on with them.
#[test]
fn nobody_survives_but_the_descriptor_store() {
    let _alone = alone();
    let manager = Manager::start();
    let mut server = Server::spawn_with_env(DEFAULT, &[("NOTIFY_SOCKET", &manager.socket())]);
    server.wait_ready();
    let kept = Registrations::make(&server, 20);
    eventually("all is stored", LIMIT, || {
        (manager.names().len() == 4 + 2 + 2).then_some(())
    });
    for round in 1..=3_u64 {
        let load = Load::start(&server, 20, 3, &[]);
        server.kill_all();
        server.run_again_by(&manager);
        server.wait_ready();
        load.end().assert_no_call_failed();
        kept.assert_all_there(&server);
        assert_eq!(server.restarts(), 2 * round, "both workers, each time");
    }
    // What systemd does after the death of the supervisor alone: the store is handed over, and the workers are there.
    let pids: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
    server.kill_supervisor();
    server.run_again_by(&manager);
    server.wait_ready();
    let after: Vec<i32> = server.signalling().iter().map(|w| w.pid).collect();
    assert_eq!(pids, after, "nobody was replaced");
    eventually("all is stored again", LIMIT, || {
        (manager.names().len() == 4 + 2 + 2).then_some(())
    });
    server.write_config(&format!(
        "{DEFAULT}\n[[domain]]\nname = \"second.test\"\nauth = \"none\"\n"
    ));
    server.run(&["reload"]);
    eventually("the new configuration is stored", LIMIT, || {
        let names = manager.names();
        (names.contains(&"config-2".to_owned()) && !names.contains(&"config-1".to_owned()))
            .then_some(())
    });
    assert_eq!(server.stop_and_look(), LEFT);
    eventually("a clean stop empties the store", LIMIT, || {
        manager.names().is_empty().then_some(())
    });
}

/// A store that has no room for everything, or was filled when the supervisor died: what it lacks is made.
#[test]
fn the_descriptor_store_may_lack_sockets_and_doorbells() {
    // A child that another test has just forked would hold what the store loses, until its exec.
    let _alone = alone();
    let manager = Manager::start();
    let mut server = Server::spawn_with_env(DEFAULT, &[("NOTIFY_SOCKET", &manager.socket())]);
    let whole = 4 + 2 + 2;
    let is_whole = || (manager.names().len() == whole).then_some(());
    server.wait_ready();
    let kept = Registrations::make(&server, 20);
    let all = ["udp-0-0", "udp-0-1"];
    for lost in [&["udp-0-1"][..], &["udp-0-0", "bell-1"], &all, &["adopt"]] {
        eventually("all is stored", LIMIT, is_whole);
        server.kill_all();
        lost.iter().for_each(|name| manager.lose(name));
        server.run_again_by(&manager);
        server.wait_ready();
        kept.assert_all_there(&server);
    }
    let log = server.log();
    assert!(log.contains("did not keep all sockets"), "{log}");
    assert_eq!(server.stop_and_look(), LEFT);
}

/// What a clean stop leaves in the directory of a server.
const LEFT: [&str; 3] = ["log", "state", "tandem.toml"];

/// Supervisors die at random moments: while workers restart, while one is taken over, while a listener comes and goes.
#[test]
fn supervisors_die_at_any_moment() {
    let _alone = alone();
    let mut dice = Dice::from_environment("supervisors die");
    let mut server = Server::start();
    let kept = Registrations::make(&server, 20);
    let second = free_port(server.ip);
    let other =
        format!("{DEFAULT}\n[[listen]]\naddress = \"{{ip}}:{second}\"\ntransports = [\"udp\"]\n");
    let rounds = either(12, 200);
    let load = Load::start(&server, 50, rounds as u64 + 6, &[]);
    for round in 0..rounds {
        match round % 4 {
            0 => server.begin(&["restart", "--all"]),
            1 => {
                server.write_config(if round % 8 < 4 { &other } else { DEFAULT });
                server.signal(Signal::SIGHUP);
            }
            2 => {
                let workers = server.workers();
                server.kill_worker(workers[dice.below(workers.len())].pid);
            }
            _ => {}
        }
        let moment = Instant::now() + Duration::from_micros(dice.below(80_000) as u64);
        while Instant::now() < moment {
            std::thread::yield_now();
        }
        server.kill_supervisor();
        server.run_again();
        if round % 3 == 0 {
            // This one dies while it adopts.
            let moment = Instant::now() + Duration::from_micros(dice.below(60_000) as u64);
            while Instant::now() < moment {
                std::thread::yield_now();
            }
            server.kill_supervisor();
            server.run_again();
        }
        server.wait_ready();
        kept.assert_all_there(&server);
    }
    let report = load.end();
    println!(
        "{rounds} supervisors died, {} retransmissions",
        report.retransmissions()
    );
    report.assert_no_call_failed();
    // Everybody has the same listeners in the end.
    server.write_config(&other);
    server.reload();
    let ua = server.ua("second");
    let at_second = Ua::new(server.ip, (server.ip, second).into(), "second", DOMAIN);
    assert_eq!(
        (ua.register(60).status(), at_second.register(60).status()),
        (200, 200)
    );
    server.run(&["restart", "--all"]);
    let descriptors: Vec<usize> = server
        .workers()
        .iter()
        .map(|w| descriptors(w.pid))
        .collect();
    let (least, most) = (descriptors.iter().min(), descriptors.iter().max());
    assert!(
        most.zip(least)
            .is_some_and(|(most, least)| most - least <= 8),
        "{descriptors:?}"
    );
    let audit = server.command(&["audit"]);
    assert!(audit.status.success(), "{audit:?}");
    assert_eq!(server.stop_and_look(), LEFT);
}

/// A file that has changed meanwhile counts by the rules of a reload; a wrong one changes nothing.
#[test]
fn the_file_counts_after_the_adoption() {
    let _shared = shared();
    let mut server = Server::start();
    let status = |server: &Server| {
        let ua = server.ua("alice");
        ua.ask(&ua.request("MESSAGE", "sip:bob@second.test"))
            .status()
    };
    let pids: Vec<i32> = server.workers().iter().map(|w| w.pid).collect();
    assert_eq!(status(&server), 403);
    server.kill_supervisor();
    server.write_config(&format!(
        "{}\n[[domain]]\nname = \"second.test\"\nauth = \"none\"\n",
        DEFAULT.replace("count = 2", "count = 3")
    ));
    adopted(&mut server);
    eventually("the new domain", LIMIT, || {
        matches!(status(&server), 404 | 480).then_some(())
    });
    eventually("a note", LIMIT, || {
        server
            .log()
            .contains("`workers.count`: changed in the file, unchanged until")
            .then_some(())
    });
    let log = server.log();
    assert!(
        log.contains("reloading: the file is not what the adopted workers"),
        "{log}"
    );
    assert!(!log.contains("SIGHUP"), "{log}");
    server.kill_supervisor();
    server.write_config("[workers]\ncount = 0\n");
    adopted(&mut server);
    assert!(matches!(status(&server), 404 | 480));
    assert!(server.log().contains("reload refused"), "{}", server.log());
    let after: Vec<i32> = server.workers().iter().map(|w| w.pid).collect();
    assert_eq!(pids, after);
    assert!(server.stop().success());
}

/// Commands without a supervisor say who serves and what to do.
#[test]
fn commands_name_workers_without_a_supervisor() {
    let _shared = shared();
    let mut server = Server::start();
    let pids: Vec<i32> = server.workers().iter().map(|w| w.pid).collect();
    server.kill_supervisor();
    for command in ["stop", "status"] {
        let out = server.command(&[command]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(3), "{text}");
        assert!(text.contains("`tandem run`"), "{text}");
        assert!(
            pids.iter().all(|pid| text.contains(&pid.to_string())),
            "{text}"
        );
    }
    adopted(&mut server);
    assert_eq!(server.stop_and_look(), LEFT);
}

/// A supervisor that is stopped, not dead, keeps what it has. Of two that start at once one wins.
#[test]
fn there_is_one_supervisor() {
    let _shared = shared();
    let mut server = Server::start();
    server.signal(Signal::SIGSTOP);
    let out = server.run_beside();
    assert_eq!(out.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&out.stderr).contains("answers on the control socket"));
    server.signal(Signal::SIGCONT);
    server.wait_ready();
    for _ in 0..5 {
        server.kill_supervisor();
        assert_eq!(server.run_twice().code(), Some(4), "{}", server.log());
        server.wait_ready();
    }
    assert!(server.stop().success());
}

/// Whatever a connection brings that is no supervisor's, orphans drop it and serve on.
#[test]
fn garbage_on_the_adopt_socket() {
    let _shared = shared();
    let mut server = Server::start();
    let alice = server.ua("alice");
    server.kill_supervisor();
    let path = server.dir().join("control.adopt");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&path).expect("the file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    for round in 0..30_u8 {
        let connection = os::seqpacket_connect(&path).expect("somebody listens");
        match round % 3 {
            0 => {}
            1 => os::send_with_fds(connection.as_fd(), &[round; 100], &[]).expect("sent"),
            _ => {
                // Two orphans at most are kept waiting for a moment; the socket is not closed before they have heard.
                os::send_with_fds(connection.as_fd(), b"TNDM\x02\x00\x01\xff", &[]).expect("sent");
                os::block_for(connection.as_fd(), Some(Duration::from_secs(10))).expect("a socket");
                let (mut bytes, mut fds) = (Vec::new(), Vec::new());
                while os::recv_with_fds(connection.as_fd(), &mut bytes, &mut fds)
                    .is_ok_and(|n| n > 0)
                {}
            }
        }
        assert_eq!(alice.register(60).status(), 200);
    }
    // Before the supervisor in the queue, and never a word: each costs an orphan a moment.
    let silent: Vec<_> = (0..6).map(|_| os::seqpacket_connect(&path)).collect();
    assert!(silent.iter().all(Result::is_ok));
    adopted(&mut server);
    assert_eq!(server.restarts(), 0);
    assert!(server.stop().success());
}

/// With nobody else left those who were stopped are continued rather than given up with all that they have.
#[test]
fn workers_that_were_all_stopped_go_on() {
    let _shared = shared();
    let mut server = Server::start();
    let kept = Registrations::make(&server, 5);
    let pids: Vec<i32> = server.workers().iter().map(|w| w.pid).collect();
    server.kill_supervisor();
    for pid in &pids {
        kill(Pid::from_raw(*pid), Signal::SIGSTOP).expect("our worker");
    }
    adopted(&mut server);
    assert!(
        server.log().contains("goes on (SIGCONT)"),
        "{}",
        server.log()
    );
    let after: Vec<i32> = server.workers().iter().map(|w| w.pid).collect();
    assert_eq!(pids, after, "nobody was replaced");
    kept.assert_all_there(&server);
    assert_eq!(server.restarts(), 0);
    assert!(server.stop().success());
}

/// The file of the adopt socket is gone, as after a careless clean-up: nobody can reach the workers, and every command says so.
#[test]
fn a_removed_adopt_socket_is_named() {
    let _shared = shared();
    let mut server = Server::start();
    let pids: Vec<i32> = server.workers().iter().map(|w| w.pid).collect();
    server.kill_supervisor();
    let path = server.dir().join("control.adopt");
    std::fs::remove_file(&path).expect("the file");
    let outputs = ["stop", "status"].map(|command| server.command(&[command]));
    for (out, code) in outputs
        .iter()
        .zip([3, 3])
        .chain([(&server.run_beside(), 4)])
    {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{text}");
        let file = path.display().to_string();
        assert!(
            text.contains(&file) && text.contains("was removed"),
            "{text}"
        );
        assert!(text.contains("`kill "), "{text}");
        assert!(
            pids.iter().all(|pid| text.contains(&pid.to_string())),
            "{text}"
        );
    }
    // The remedy helps.
    for pid in &pids {
        kill(Pid::from_raw(*pid), Signal::SIGTERM).expect("our worker");
    }
    adopted(&mut server);
    assert!(server.stop().success());
}

/// A worker that was stopped does not answer its new supervisor: it is killed and replaced.
#[test]
fn a_worker_that_does_not_answer_is_replaced() {
    let _shared = shared();
    let mut server = Server::start();
    let kept = Registrations::make(&server, 5);
    let victim = server.signalling()[0].pid;
    server.kill_supervisor();
    kill(Pid::from_raw(victim), Signal::SIGSTOP).expect("our worker");
    adopted(&mut server);
    wait_dead(victim, LIMIT);
    kept.assert_all_there(&server);
    assert_eq!(server.restarts(), 1);
    assert!(server.stop().success());
}

/// The limit that counts is the arena's, not the one that its first workers were started with: nothing moves for a file that says the
/// same, and nothing moves into a smaller arena.
#[test]
fn a_limit_that_was_raised_is_known_to_the_next_supervisor() {
    let _alone = shared();
    let mut server = Server::start();
    let limit = |server: &Server| server.status()["arena"]["limit"].as_u64();
    server.write_config(&DEFAULT.replace("64MiB", "128MiB"));
    assert!(server.reload().contains("arena moved"));
    let workers = |server: &Server| -> Vec<i32> {
        let workers = server.signalling();
        workers.iter().map(|worker| worker.pid).collect()
    };
    for file in ["128MiB", "96MiB"] {
        let before = workers(&server);
        server.write_config(&DEFAULT.replace("64MiB", file));
        server.kill_supervisor();
        adopted(&mut server);
        // Behind the reload of the adoption.
        server.reload();
        assert_eq!(limit(&server), Some(128 << 20));
        assert_eq!(workers(&server), before, "a move replaces all");
    }
    assert!(server.stop().success());
}
