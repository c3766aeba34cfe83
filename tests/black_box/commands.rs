//! Every command of the command line, its JSON, its exit codes and its errors.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use blackbox::machine::{shared, wait_dead};
use blackbox::server::{DEFAULT, LIMIT, Server};
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_numbers(value: &Value, names: &[&str]) {
    for name in names {
        assert!(value[*name].is_u64(), "{name} is no number in {value}");
    }
}

#[test]
fn status_has_the_fields_of_the_contract() {
    let _shared = shared();
    let server = Server::start();
    let status = server.status();
    assert_eq!(
        status["supervisor"]["pid"].as_i64(),
        Some(i64::from(server.supervisor()))
    );
    let workers = status["workers"].as_array().expect("workers");
    assert_eq!(workers.len(), 3, "two signalling workers and a spare");
    for worker in workers {
        assert_numbers(worker, &["pid", "incarnation", "restarts", "uptime_ms"]);
        assert!(worker["slots"].is_array(), "{worker}");
        assert!(
            ["signalling", "edge", "spare"].contains(&worker["role"].as_str().unwrap_or("")),
            "{worker}"
        );
    }
    let slots = status["slots"].as_array().expect("slots");
    assert_eq!(slots.len(), 2);
    for slot in slots {
        assert_numbers(slot, &["id", "worker", "messages"]);
        assert!(slot.get("core").is_some(), "{slot}");
    }
    assert_numbers(&status["arena"], &["bytes_used", "bytes_mapped", "limit"]);
    assert_eq!(status["arena"]["limit"].as_u64(), Some(64 << 20));
    let tables = status["arena"]["tables"].as_array().expect("tables");
    assert_eq!(tables[0]["name"], "location");
    assert_numbers(&tables[0], &["records", "bytes"]);
    assert_numbers(&status["arena"]["classes"][0], &["bytes", "used"]);
    assert_numbers(&status, &["registrations", "dialogs", "transactions"]);
    let words = server.run(&["status"]);
    assert!(words.contains(&server.supervisor().to_string()), "{words}");
}

#[test]
fn the_control_socket_is_private() {
    let _shared = shared();
    let server = Server::start();
    let meta = std::fs::metadata(server.control()).expect("the control socket");
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
}

#[test]
fn stats_describe_every_counter() {
    let _shared = shared();
    let server = Server::start();
    let ua = server.ua("alice");
    assert_eq!(ua.register(60).status(), 200);
    let stats = server.json(&["stats"]);
    assert!(server.counters().len() > 20, "{stats}");
    assert!(server.counter("messages.received") >= 1);
    let words = server.run(&["stats"]);
    assert!(
        words.contains("messages.received") && words.contains("datagrams taken from sockets"),
        "{words}"
    );
    let some = server.run(&["stats", "registrar"]);
    assert!(
        some.contains("registrar.updated") && !some.contains("messages.received"),
        "{some}"
    );
}

#[test]
fn registrations_list_show_remove() {
    let _shared = shared();
    let server = Server::start();
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(
        (alice.register(600).status(), bob.register(600).status()),
        (200, 200)
    );
    let list = server.json(&["registrations", "list"]).to_string();
    assert!(
        list.contains("alice@example.test") && list.contains("bob@example.test"),
        "{list}"
    );
    let only = server.run(&["registrations", "list", "--limit", "1"]);
    assert!(only.contains("alice@") != only.contains("bob@"), "{only}");
    let other = server.run(&["registrations", "list", "--domain", "elsewhere.test"]);
    assert!(!other.contains("alice@"), "{other}");
    let shown = server
        .json(&["registrations", "show", "sip:alice@example.test"])
        .to_string();
    assert!(shown.contains(&alice.contact()), "{shown}");
    assert!(
        server
            .run(&["registrations", "show", "sip:alice@example.test"])
            .contains(&alice.contact())
    );

    server.run(&["registrations", "remove", "sip:alice@example.test"]);
    assert_eq!(server.number("registrations"), 1);
    let gone = server.command(&["registrations", "show", "sip:alice@example.test"]);
    assert_eq!(gone.status.code(), Some(1), "{}", text(&gone.stdout));
    assert!(text(&gone.stderr).contains("alice@example.test"));
    server.run(&[
        "registrations",
        "remove",
        "sip:bob@example.test",
        "--contact",
        &bob.contact(),
    ]);
    assert_eq!(server.number("registrations"), 0);
    let call = alice.request("MESSAGE", "sip:bob@example.test");
    assert!(matches!(alice.ask(&call).status(), 404 | 480));
}

#[test]
fn check_says_where_and_what_to_do() {
    let _shared = shared();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("bad.toml");
    let server = Server::start();
    let check = |config: &str, more: &[&str]| {
        std::fs::write(&file, config).expect("a file");
        let path = file.display().to_string();
        server.command(&[&["check", "-c", path.as_str()], more].concat())
    };
    let fine = check(
        &DEFAULT
            .replace("{ip}", "127.0.0.1")
            .replace("{port}", "5060"),
        &[],
    );
    assert_eq!(fine.status.code(), Some(0), "{}", text(&fine.stderr));

    let unknown = check("[workers]\ncount = 2\nreactor = 1\n", &[]);
    let said = text(&unknown.stdout) + &text(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        said.contains("bad.toml:3:1") && said.contains("reactors"),
        "{said}"
    );

    // Every error, not only the first.
    let several = check(
        "[workers]\ncount = 0\n[[domain]]\nname = 5\n[[route]]\nto = \"group:none\"\n",
        &[],
    );
    let said = text(&several.stdout) + &text(&several.stderr);
    assert_eq!(several.status.code(), Some(1));
    for place in ["bad.toml:2:", "bad.toml:4:", "bad.toml:6:"] {
        assert!(said.contains(place), "no {place} in:\n{said}");
    }

    let json = check("[workers]\ncount = 0\n", &["--json"]);
    let value: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(value.to_string().contains("\"line\":2"), "{value}");
    assert_eq!(json.status.code(), Some(1));

    let syntax = check("[workers\n", &[]);
    assert_eq!(syntax.status.code(), Some(1));
    assert!((text(&syntax.stdout) + &text(&syntax.stderr)).contains("bad.toml:1:"));

    let policy = check(
        "[[group]]\nname = \"g\"\npolicy = \"least\"\ndestinations = []\n",
        &[],
    );
    assert_eq!(
        policy.status.code(),
        Some(1),
        "a policy that does not exist is an error"
    );

    let missing = server.command(&["check", "-c", "no/such/file.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("no/such/file.toml"));
}

#[test]
fn no_server_is_a_clear_error() {
    let _shared = shared();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let control = dir.path().join("none").display().to_string();
    for command in [
        &["status"][..],
        &["stats"],
        &["reload"],
        &["stop"],
        &["registrations", "list"],
    ] {
        let out = std::process::Command::new(blackbox::binary::tandem())
            .args(command)
            .args(["--control", &control])
            .output()
            .expect("tandem can be run");
        assert_eq!(out.status.code(), Some(3), "{command:?}");
        assert!(
            text(&out.stderr).contains(&control),
            "{}",
            text(&out.stderr)
        );
    }
    let wrong = std::process::Command::new(blackbox::binary::tandem())
        .arg("frobnicate")
        .output()
        .expect("tandem can be run");
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn stop_ends_everything() {
    let _shared = shared();
    let mut server = Server::start();
    let pids: Vec<i32> = server.workers().iter().map(|w| w.pid).collect();
    server.run(&["stop"]);
    assert!(server.wait_exit().success());
    pids.into_iter().for_each(|pid| wait_dead(pid, LIMIT));
    assert!(!server.control().exists(), "the control socket is removed");
}

#[test]
fn signals_stop_cleanly() {
    let _shared = shared();
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGINT,
    ] {
        let mut server = Server::start();
        server.signal(signal);
        assert!(server.wait_exit().success(), "{signal}: {}", server.log());
        assert!(!server.control().exists());
        assert!(server.processes().is_empty());
    }
}

/// `Type=notify`: READY=1 comes once the server answers, STOPPING=1 at its end.
#[test]
fn systemd_is_told() {
    let _shared = shared();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    socket
        .set_read_timeout(Some(LIMIT))
        .expect("a timeout above zero");
    let mut server =
        Server::spawn_with_env(DEFAULT, &[("NOTIFY_SOCKET", &path.display().to_string())]);
    let mut buffer = [0; 4096];
    let mut said = String::new();
    while !said.contains("READY=1") {
        let n = socket
            .recv(&mut buffer)
            .unwrap_or_else(|e| panic!("no READY=1 ({e}): {said}\n{}", server.log()));
        said.push_str(&text(&buffer[..n]));
    }
    assert!(server.try_status().is_some(), "ready means that it answers");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(server.wait_exit().success());
    while let Ok(n) = socket.recv(&mut buffer) {
        said.push_str(&text(&buffer[..n]));
        if said.contains("STOPPING=1") {
            return;
        }
    }
    panic!("no STOPPING=1 in {said}");
}
