//! Workers and spares killed again and again without traffic: no descriptor, no memory and no process
//! is leaked. 50 rounds in CI, 1,000 with `TANDEM_LONG=1`.

use blackbox::either;
use blackbox::machine::{
    alone, descriptors, eventually, free_port, fresh_address, resident_own_kib, wait_dead,
};
use blackbox::server::{DEFAULT, LIMIT, Server};

#[derive(Clone, Debug)]
struct Footprint {
    processes: usize,
    supervisor_descriptors: usize,
    worker_descriptors: usize,
    supervisor_kib: u64,
    arena_bytes: u64,
}

#[track_caller]
fn footprint(server: &Server) -> Footprint {
    server.wait_ready();
    // Now and then a helper is there beside them.
    let processes = eventually("supervisor, two workers, one spare", LIMIT, || {
        Some(server.processes().len()).filter(|&count| count == 4)
    });
    let workers = server.workers();
    Footprint {
        processes,
        supervisor_descriptors: descriptors(server.supervisor()),
        worker_descriptors: workers
            .iter()
            .map(|w| descriptors(w.pid))
            .max()
            .unwrap_or(0),
        supervisor_kib: resident_own_kib(server.supervisor()),
        arena_bytes: server.status()["arena"]["bytes_used"].as_u64().unwrap_or(0),
    }
}

#[test]
fn nothing_is_leaked() {
    let _alone = alone();
    let server = Server::start();
    let rounds: u64 = either(50, 1_000);
    let round = |n: u64| {
        let workers = server.workers();
        // In turn: each signalling worker, and the spare.
        let victim = &workers[usize::try_from(n).unwrap_or(0) % workers.len()];
        server.kill_worker(victim.pid);
        wait_dead(victim.pid, LIMIT);
        server.wait_ready();
    };
    (0..10).for_each(round);
    let before = footprint(&server);
    (10..10 + rounds).for_each(round);
    let after = footprint(&server);
    println!("{rounds} rounds: {before:?} -> {after:?}");
    assert_eq!(after.processes, before.processes);
    // One command connection may be closing at the moment of the count.
    assert!(
        after.supervisor_descriptors <= before.supervisor_descriptors + 1,
        "{before:?} {after:?}"
    );
    assert!(
        after.worker_descriptors <= before.worker_descriptors + 1,
        "{before:?} {after:?}"
    );
    assert!(
        after.supervisor_kib <= before.supervisor_kib + 512 + rounds,
        "{before:?} {after:?}"
    );
    assert!(
        after.arena_bytes <= before.arena_bytes + (64 << 10),
        "{before:?} {after:?}"
    );
    let ua = server.ua("alice");
    assert_eq!(ua.register(60).status(), 200);
    assert!(server.stop().success());
}

/// Starts and stops leave nothing behind either: the same address can be taken again at once.
#[test]
fn starts_and_stops() {
    let _alone = alone();
    let ip = fresh_address();
    let port = free_port(ip);
    for _ in 0..either(10, 100) {
        let server = Server::spawn_at(ip, port, DEFAULT, &[]);
        server.wait_ready();
        assert_eq!(server.ua("alice").register(60).status(), 200);
        let dir = server.dir().to_path_buf();
        assert!(server.stop().success());
        assert!(!dir.exists());
    }
}
