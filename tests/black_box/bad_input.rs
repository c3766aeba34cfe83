//! Broken, truncated and hostile datagrams: the server stays up with the same workers, answers what
//! deserves an answer, and counts the rest.

use std::time::Duration;

use blackbox::either;
use blackbox::machine::{alone, shared, test_file};
use blackbox::server::Server;
use blackbox::storm::Dice;
use blackbox::ua::{Ua, answers};

/// The messages to spoil: those of `torture/typical`, and a few of our own.
fn typical(server: &Server) -> Vec<(String, Vec<u8>)> {
    let mut messages = Vec::new();
    if let Ok(entries) = std::fs::read_dir(test_file("torture/typical")) {
        for entry in entries.flatten() {
            if let Ok(bytes) = std::fs::read(entry.path()) {
                messages.push((entry.file_name().to_string_lossy().into_owned(), bytes));
            }
        }
    }
    messages.sort();
    let ua = server.ua("alice");
    let mut ours = vec![
        (
            "our register".to_owned(),
            ua.register_request(60).to_bytes(),
        ),
        (
            "our invite".to_owned(),
            ua.invite("sip:bob@example.test").to_bytes(),
        ),
        (
            "our options".to_owned(),
            ua.request("OPTIONS", "sip:example.test").to_bytes(),
        ),
        (
            "our message".to_owned(),
            ua.request("MESSAGE", "sip:bob@example.test").to_bytes(),
        ),
        (
            "our response".to_owned(),
            ua.invite("sip:x@y").response(200, "OK", "t").to_bytes(),
        ),
        (
            "our cancel".to_owned(),
            ua.cancel(&ua.invite("sip:bob@example.test")).to_bytes(),
        ),
    ];
    messages.append(&mut ours);
    messages
}

/// Waits until the server has served everything sent before: it answers an OPTIONS of the same flow.
#[track_caller]
fn catch_up(ua: &Ua, server: &Server) {
    let ping = ua.request("OPTIONS", &format!("sip:{}", server.address()));
    ua.send(&ping);
    let (answer, _) = ua
        .peer
        .expect("an answer after bad input", |m| answers(m, &ping));
    assert_eq!(answer.status(), 200);
}

/// Sends every datagram, in step with the server.
#[track_caller]
fn spoil(server: &Server, ua: &Ua, datagrams: impl Iterator<Item = Vec<u8>>) -> usize {
    let mut sent = 0;
    for bytes in datagrams {
        ua.peer.send_bytes(&bytes, server.address());
        sent += 1;
        if sent % 32 == 0 {
            catch_up(ua, server);
        }
    }
    catch_up(ua, server);
    sent
}

#[track_caller]
fn pids(server: &Server) -> Vec<i32> {
    server.signalling().iter().map(|w| w.pid).collect()
}

#[test]
fn every_truncation() {
    let _alone = alone();
    let server = Server::start();
    let before = pids(&server);
    let ua = server.ua("sender");
    let mut sent = 0;
    for (name, bytes) in typical(&server) {
        sent += spoil(&server, &ua, (0..bytes.len()).map(|n| bytes[..n].to_vec()));
        assert_eq!(
            pids(&server),
            before,
            "after truncations of {name}\n{}",
            server.log()
        );
    }
    println!("{sent} truncations");
    assert!(server.counter("messages.malformed") + server.counter("rejected.bad_request") > 100);
    assert_eq!(server.restarts(), 0);
    assert!(server.stop().success());
}

#[test]
fn every_single_byte_corruption() {
    let _alone = alone();
    let mut dice = Dice::from_environment("corruption");
    let server = Server::start();
    let before = pids(&server);
    let ua = server.ua("sender");
    let values: &[u8] = either(
        &[0, b'\n', 0xff],
        &[
            0, b'\n', b'\r', b' ', b',', b';', b'"', b'<', b':', b'9', 0x80, 0xff,
        ],
    );
    let mut sent = 0;
    for (name, bytes) in typical(&server) {
        let random = u8::try_from(dice.below(256)).unwrap_or(1);
        let spoilt = (0..bytes.len()).flat_map(|at| {
            values
                .iter()
                .copied()
                .chain([bytes[at] ^ 1, random])
                .map(move |v| (at, v))
        });
        sent += spoil(
            &server,
            &ua,
            spoilt.map(|(at, value)| {
                let mut copy = bytes.clone();
                copy[at] = value;
                copy
            }),
        );
        assert_eq!(
            pids(&server),
            before,
            "after corruptions of {name}\n{}",
            server.log()
        );
    }
    println!("{sent} corruptions");
    assert!(server.counter("messages.malformed") > 0 && server.counter("rejected.bad_request") > 0);
    assert_eq!(server.restarts(), 0);
    assert!(server.stop().success());
}

#[test]
fn noise_and_sizes() {
    let _alone = alone();
    let mut dice = Dice::from_environment("noise");
    let server = Server::start();
    let before = pids(&server);
    let ua = server.ua("sender");
    let noise = (0..either(2_000, 50_000)).map(|_| {
        let length = dice.below(1_500);
        (0..length)
            .map(|_| u8::try_from(dice.below(256)).unwrap_or(0))
            .collect()
    });
    let malformed = server.counter("messages.malformed");
    let sent = spoil(&server, &ua, noise.collect::<Vec<_>>().into_iter());
    assert!(server.counter("messages.malformed") >= malformed + sent as u64 * 9 / 10);

    let keep_alives = server.counter("messages.keep_alives");
    spoil(
        &server,
        &ua,
        [vec![], b"\r\n\r\n".to_vec(), b"\r\n".to_vec(), vec![0; 4]].into_iter(),
    );
    assert_eq!(server.counter("messages.keep_alives"), keep_alives + 4);

    // The largest datagram of UDP over IPv4, as garbage and as a request.
    spoil(
        &server,
        &ua,
        [vec![b'x'; 65_507], vec![0xff; 65_507]].into_iter(),
    );
    let mut large = ua.request("MESSAGE", "sip:bob@example.test");
    large.push("Content-Type", "text/plain");
    large.body = vec![b'x'; 64_000];
    ua.send(&large);
    assert_eq!(ua.expect_final(&large).status(), 513);
    let mut headers = ua.request("MESSAGE", "sip:bob@example.test");
    for n in 0..3_000 {
        headers.push("X-Many", n.to_string());
    }
    ua.send(&headers);
    catch_up(&ua, &server);

    assert_eq!(pids(&server), before, "{}", server.log());
    assert!(server.stop().success());
}

/// What each kind of brokenness deserves.
#[test]
fn the_right_status_or_silence() {
    let _shared = shared();
    let server = Server::start();
    let ua = server.ua("sender");
    let base = || ua.request("OPTIONS", "sip:example.test");
    let mut cases = Vec::new();
    for missing in ["From", "To", "Call-ID", "CSeq"] {
        let mut m = base();
        m.remove(missing);
        cases.push((format!("no {missing}"), m));
    }
    let mut m = base();
    m.set("CSeq", "1 INVITE");
    cases.push(("CSeq of another method".to_owned(), m));
    let mut m = base();
    m.set("CSeq", "4294967296 OPTIONS");
    cases.push(("CSeq too large".to_owned(), m));
    let mut m = base();
    m.set("Max-Forwards", "many");
    cases.push(("Max-Forwards in words".to_owned(), m));
    let mut m = base();
    m.push("Content-Length", "1000");
    cases.push(("body cut short (§18.3)".to_owned(), m));
    let mut m = base();
    m.push("Content-Length", "-1");
    cases.push(("negative Content-Length".to_owned(), m));
    for (what, message) in cases {
        let before = server.counter("rejected.bad_request") + server.counter("messages.malformed");
        ua.send(&message);
        let branch = message.branch();
        let wait = Duration::from_millis(500);
        // Only 400 or silence; silence is right where no response could be built.
        while let Some((answer, _)) = ua.peer.receive(wait) {
            if answer.branch() == branch {
                assert_eq!(answer.status(), 400, "{what}: {}", answer.start);
                break;
            }
        }
        let after = server.counter("rejected.bad_request") + server.counter("messages.malformed");
        assert_eq!(after, before + 1, "{what} is counted once");
    }
    // No Via: nowhere to answer to. A broken response: never answered.
    let mut no_via = base();
    no_via.remove("Via");
    ua.send(&no_via);
    let mut response = ua.invite("sip:x@y").response(200, "OK", "t");
    response.remove("CSeq");
    ua.send(&response);
    ua.expect_only(Duration::from_millis(300), |_| false);
    catch_up(&ua, &server);
    // A body longer than Content-Length is cut (§18.3).
    let mut long = base();
    long.push("Content-Length", "0");
    long.body = b"more".to_vec();
    assert_eq!(ua.ask(&long).status(), 200);
}

/// Answers to nobody, ACKs to nothing: never answered, counted.
#[test]
fn strays() {
    let _shared = shared();
    let server = Server::start();
    let ua = server.ua("sender");
    let mut ack = ua.request("ACK", "sip:bob@example.test");
    ack.set("To", "<sip:bob@example.test>;tag=none");
    for _ in 0..10 {
        ua.send(&ack);
    }
    ua.expect_only(Duration::from_millis(300), |_| false);
    for n in 0..10 {
        let response = ua.invite("sip:x@y").response(100 + n * 50, "Stray", "t");
        ua.send(&response);
    }
    ua.expect_only(Duration::from_millis(300), |_| false);
    assert_eq!(server.counter("proxy.response_foreign"), 10);
    catch_up(&ua, &server);
}
