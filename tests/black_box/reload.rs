//! Reload by command and by SIGHUP: domains, routes and listeners come and go under traffic, and a bad
//! file changes nothing.

use std::collections::HashSet;
use std::time::Duration;

use blackbox::machine::{alone, eventually, free_port, fresh_address, shared};
use blackbox::server::{DEFAULT, LIMIT, Server};
use blackbox::ua::{Ua, answers};
use nix::sys::signal::Signal;

use crate::load::Load;

fn with_domain(name: &str) -> String {
    format!("{DEFAULT}\n[[domain]]\nname = \"{name}\"\nauth = \"none\"\n")
}

fn status_of(ua: &Ua, uri: &str) -> u16 {
    ua.ask(&ua.request("MESSAGE", uri)).status()
}

#[test]
fn domains_come_and_go() {
    let _shared = shared();
    let server = Server::start();
    let ua = server.ua("alice");
    let pids: Vec<i32> = server.workers().iter().map(|w| w.pid).collect();
    assert_eq!(status_of(&ua, "sip:bob@second.test"), 403);
    server.write_config(&with_domain("second.test"));
    server.run(&["reload"]);
    eventually("the new domain", LIMIT, || {
        matches!(status_of(&ua, "sip:bob@second.test"), 404 | 480).then_some(())
    });
    server.write_config(DEFAULT);
    server.signal(Signal::SIGHUP);
    eventually("the domain is gone", LIMIT, || {
        (status_of(&ua, "sip:bob@second.test") == 403).then_some(())
    });
    let after: Vec<i32> = server.workers().iter().map(|w| w.pid).collect();
    assert_eq!(pids, after, "a reload restarts nobody");
}

#[test]
fn routes_and_groups() {
    let _shared = shared();
    let server = Server::start();
    let (alice, one, two) = (server.ua("alice"), server.ua("one"), server.ua("two"));
    let routes = format!(
        "{DEFAULT}\n[[group]]\nname = \"media\"\npolicy = \"round-robin\"\n\
         destinations = [ {{ uri = \"sip:{}\" }}, {{ uri = \"sip:{}\" }} ]\n\
         [[route]]\nmatch = {{ domain = \"example.test\", user = \"^9\" }}\nto = \"group:media\"\n\
         [[route]]\nmatch = {{ method = \"PUBLISH\" }}\nto = \"reject:489\"\n\
         [[route]]\nmatch = {{ user = \"^direct$\" }}\nto = \"uri:sip:direct@{}\"\n",
        one.peer.address, two.peer.address, one.peer.address
    );
    server.write_config(&routes);
    server.run(&["reload"]);
    eventually("the reject rule", LIMIT, || {
        (alice
            .ask(&alice.request("PUBLISH", "sip:example.test"))
            .status()
            == 489)
            .then_some(())
    });
    let mut counts = [0, 0];
    let mut seen = HashSet::new();
    for _ in 0..6 {
        let message = alice.request("MESSAGE", "sip:911@example.test");
        alice.send(&message);
        let (n, got) = eventually("one of the two is asked", LIMIT, || {
            let mut all = [&one, &two].into_iter().enumerate();
            // Not by a copy of what was answered already.
            let mut fresh = |ua: &Ua| {
                ua.peer
                    .receive_now()
                    .filter(|got| seen.insert(got.0.branch()))
            };
            all.find_map(|(n, ua)| Some((n, fresh(ua)?)))
        });
        [&one, &two][n].reply(&got, 200, "OK", "m");
        counts[n] += 1;
        assert_eq!(alice.expect_final(&message).status(), 200);
    }
    // Each slot counts for itself; Alice's flow is one slot.
    assert_eq!(counts, [3, 3], "round robin");
    let direct = alice.request("MESSAGE", "sip:direct@example.test");
    alice.send(&direct);
    let at_one = format!("sip:direct@{}", one.peer.address);
    let got = one.peer.expect("a MESSAGE by its URI", |m| {
        m.is_request() && m.uri() == at_one
    });
    one.reply(&got, 200, "OK", "d");
    assert_eq!(alice.expect_final(&direct).status(), 200);
}

#[test]
fn listeners_come_and_go() {
    let _shared = shared();
    let server = Server::start();
    let ip = fresh_address();
    let port = free_port(ip);
    let more = DEFAULT.replacen(
        "[workers]",
        &format!("[[listen]]\naddress = \"{ip}:{port}\"\ntransports = [\"udp\"]\n\n[workers]"),
        1,
    );
    let ua = Ua::new(ip, (ip, port).into(), "alice", "example.test");
    let asks = |ua: &Ua| {
        let options = ua.request("OPTIONS", "sip:example.test");
        ua.send(&options);
        ua.peer
            .receive(Duration::from_millis(200))
            .is_some_and(|(m, _)| answers(&m, &options))
    };
    assert!(!asks(&ua));
    for _ in 0..3 {
        server.write_config(&more);
        server.run(&["reload"]);
        eventually("the new listener answers", LIMIT, || {
            asks(&ua).then_some(())
        });
        // Every slot reads it.
        for _ in 0..20 {
            let other = Ua::new(ip, (ip, port).into(), "alice", "example.test");
            assert!(
                asks(&other),
                "one of the slots does not read the new listener"
            );
        }
        server.write_config(DEFAULT);
        server.run(&["reload"]);
        eventually("the listener is gone", LIMIT, || (!asks(&ua)).then_some(()));
    }
    let kept = server.ua("kept");
    assert_eq!(
        kept.register(60).status(),
        200,
        "the first listener never went"
    );
}

#[test]
fn a_bad_file_changes_nothing() {
    let _shared = shared();
    let server = Server::start();
    let ua = server.ua("alice");
    assert_eq!(ua.register(600).status(), 200);
    server.write_config(&format!(
        "{DEFAULT}\n[[domain]]\nname = \"second.test\"\nauht = \"none\"\n"
    ));
    let line = std::fs::read_to_string(server.config_file())
        .expect("the file")
        .lines()
        .position(|l| l.starts_with("auht"))
        .expect("the line")
        + 1;
    let out = server.command(&["reload"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("tandem.toml:{line}:")) && said.contains("auth"),
        "{said}"
    );
    server.signal(Signal::SIGHUP);
    eventually("the error is in the log", LIMIT, || {
        server.log().contains("auht").then_some(())
    });
    assert_eq!(status_of(&ua, "sip:bob@second.test"), 403);
    assert_eq!(server.number("registrations"), 1);
    assert_eq!(ua.register(600).status(), 200);
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let _shared = shared();
    let server = Server::start();
    server.write_config(&DEFAULT.replace("64MiB", "32MiB"));
    let out = server.command(&["reload"]);
    let said =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("memory.limit"), "{said}");
    assert_eq!(server.status()["arena"]["limit"].as_u64(), Some(64 << 20));
}

/// A reload a second under load, alternating between two configurations.
#[test]
fn under_traffic() {
    let _alone = alone();
    let server = Server::start();
    let mut load = Load::start(&server, 100, 8, &[]);
    let mut reloads = 0;
    load.meanwhile(Duration::ZERO, Duration::from_millis(900), || {
        let config = if reloads % 2 == 0 {
            with_domain("second.test")
        } else {
            DEFAULT.to_owned()
        };
        server.write_config(&config);
        server.run(&["reload"]);
        reloads += 1;
    });
    load.end().assert_no_call_failed();
    assert!(reloads > 5);
    assert_eq!(server.restarts(), 0);
}

/// A worker killed after a reload comes back with the new configuration, not with that of the start.
#[test]
fn heirs_know_the_new_configuration() {
    let _shared = shared();
    let server = Server::start();
    let ua = server.ua("alice");
    server.write_config(&with_domain("second.test"));
    server.run(&["reload"]);
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
        server.wait_ready();
    }
    for n in 0..10 {
        let other = server.ua(&format!("u{n}"));
        assert!(matches!(
            status_of(&other, "sip:bob@second.test"),
            404 | 480
        ));
    }
    drop(ua);
}
