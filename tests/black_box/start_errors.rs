//! Errors at the start name their cause and the remedy, and leave nothing behind.

use blackbox::machine::{fresh_address, shared};
use blackbox::server::{DEFAULT, Server};

/// Starts, must fail with exit code 4, and gives what was said.
#[track_caller]
fn refused(mut server: Server) -> String {
    let status = server.wait_exit();
    let log = server.log();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(
        server.processes().is_empty(),
        "left running: {:?}",
        server.processes()
    );
    assert!(
        !server.control().exists(),
        "the control socket is left behind"
    );
    log
}

#[test]
fn port_taken() {
    let _shared = shared();
    let ip = fresh_address();
    let socket = std::net::UdpSocket::bind((ip, 0)).expect("loopback has free ports");
    let port = socket.local_addr().expect("an address").port();
    let said = refused(Server::spawn_at(ip, port, DEFAULT, &[]));
    assert!(said.contains(&format!("{ip}:{port}")), "{said}");
    assert!(
        said.to_lowercase().contains("in use") || said.contains("taken"),
        "{said}"
    );
}

/// The limit of file sizes counts for shared memory, and the kernel's way to say so is a signal that kills.
#[test]
fn limit_of_file_sizes() {
    let _shared = shared();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("tandem.toml");
    let config = DEFAULT
        .replace("{ip}", &fresh_address().to_string())
        .replace("{port}", "0");
    std::fs::write(&file, config).expect("a configuration file");
    let out = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 10000; exec \"$@\"", "sh"])
        .arg(blackbox::binary::tandem())
        .arg("run")
        .arg("-c")
        .arg(&file)
        .env("TANDEM_CONTROL", dir.path().join("control"))
        .env("TANDEM_STATE", dir.path().join("state"))
        .env_remove("NOTIFY_SOCKET")
        .output()
        .expect("a shell can be started");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{said}");
    for text in ["arena of 64MiB", "limit of file sizes", "ulimit -f"] {
        assert!(said.contains(text), "{text}: {said}");
    }
}

/// Two servers on one address: SO_REUSEPORT must not let the second steal from the first.
#[test]
fn second_server_on_the_same_address() {
    let _shared = shared();
    let first = Server::start();
    let said = refused(Server::spawn_at(first.ip, first.port, DEFAULT, &[]));
    assert!(said.contains(&first.address().to_string()), "{said}");
    let ua = first.ua("alice");
    for _ in 0..20 {
        assert_eq!(
            ua.ask(&ua.request("OPTIONS", "sip:example.test")).status(),
            200
        );
    }
    assert!(first.stop().success());
}

/// Two servers on one control socket.
#[test]
fn control_socket_in_use() {
    let _shared = shared();
    let first = Server::start();
    let control = first.control().display().to_string();
    let mut second = Server::spawn(DEFAULT, &["--control", &control]);
    let status = second.wait_exit();
    assert_eq!(status.code(), Some(4), "{}", second.log());
    assert!(second.log().contains(&control), "{}", second.log());
    assert_eq!(
        first.status()["supervisor"]["pid"].as_i64(),
        Some(i64::from(first.supervisor()))
    );
    drop(second);
    assert!(
        first.try_status().is_some(),
        "the first still answers on it"
    );
}

/// A socket file left by a killed supervisor is no obstacle.
#[test]
fn stale_control_socket() {
    let _shared = shared();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    let server = Server::spawn(DEFAULT, &["--control", &path.display().to_string()]);
    blackbox::machine::eventually("it answers", blackbox::server::LIMIT, || {
        let out = server.command(&["status", "--json", "--control", &path.display().to_string()]);
        out.status.success().then_some(())
    });
}

#[test]
fn bad_configuration() {
    let _shared = shared();
    let said = refused(Server::spawn("[workers]\ncount = \"two\"\n", &[]));
    assert!(said.contains("tandem.toml:2:"), "{said}");
    let mut missing = Server::spawn("", &["-c", "no/such/file.toml"]);
    assert_eq!(missing.wait_exit().code(), Some(4));
    assert!(
        missing.log().contains("no/such/file.toml"),
        "{}",
        missing.log()
    );
}

#[test]
fn memory_limit_too_small() {
    let _shared = shared();
    let said = refused(Server::spawn(&DEFAULT.replace("64MiB", "64KiB"), &[]));
    assert!(
        said.contains("memory.limit") || said.contains("limit"),
        "{said}"
    );
}

#[test]
fn address_of_another_machine() {
    let _shared = shared();
    let said = refused(Server::spawn(&DEFAULT.replace("{ip}", "192.0.2.77"), &[]));
    assert!(said.contains("192.0.2.77"), "{said}");
}

#[test]
fn unknown_worker_user() {
    let _shared = shared();
    let config = DEFAULT.replace(
        "pin = \"none\"",
        "pin = \"none\"\nuser = \"no-such-account\"",
    );
    let said = refused(Server::spawn(&config, &[]));
    assert!(said.contains("no-such-account"), "{said}");
}

/// With another account in the configuration, workers run as it; only root can ask for that.
#[test]
fn workers_drop_privileges() {
    let _shared = shared();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let config = DEFAULT.replace("pin = \"none\"", "pin = \"none\"\nuser = \"nobody\"");
    let server = Server::start_with(&config);
    let nobody = nix::unistd::User::from_name("nobody")
        .ok()
        .flatten()
        .expect("the account nobody");
    for worker in server.workers() {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", worker.pid)).expect("alive");
        let line = |name: &str| {
            let line = status
                .lines()
                .find(|l| l.starts_with(name))
                .unwrap_or_default();
            line.split_whitespace()
                .skip(1)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert!(
            line("Uid:").iter().all(|u| *u == nobody.uid.to_string()),
            "{}",
            line("Uid:").join(" ")
        );
        assert!(line("Gid:").iter().all(|g| *g == nobody.gid.to_string()));
        assert_eq!(line("CapEff:"), ["0000000000000000"]);
        assert_eq!(line("NoNewPrivs:"), ["1"]);
    }
    // Recovery must work without privileges too.
    let ua = server.ua("alice");
    assert_eq!(ua.register(600).status(), 200);
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
        server.wait_ready();
    }
    assert_eq!(server.number("registrations"), 1);
    assert_eq!(ua.register(600).status(), 200);
}

/// Command-line overrides, and the embedded default that needs no file.
#[test]
fn embedded_default_with_another_port() {
    let _shared = shared();
    let ip = fresh_address();
    let port = blackbox::machine::free_port(ip);
    let listen = format!("udp:{ip}:{port}");
    let server = Server::spawn_at(
        ip,
        port,
        "",
        &[
            "--listen",
            &listen,
            "--workers",
            "3",
            "--reactors",
            "2",
            "--pin",
            "none",
        ],
    );
    server.wait_ready();
    let status = server.status();
    assert_eq!(status["slots"].as_array().map(Vec::len), Some(6));
    assert_eq!(server.signalling().len(), 3);
    let ua = blackbox::ua::Ua::new(ip, (ip, port).into(), "alice", "localhost");
    assert_eq!(
        ua.register(60).status(),
        200,
        "open registrar for localhost"
    );
    let out = server.log();
    assert!(
        out.contains(&port.to_string()),
        "the log names the address: {out}"
    );
    assert!(server.stop().success());
}
