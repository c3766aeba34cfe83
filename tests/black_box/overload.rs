//! More new work than a slot can do, or than one source may send.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use blackbox::machine::{alone, eventually, shared};
use blackbox::message::Message;
use blackbox::peer::Peer;
use blackbox::server::{GATED, LIMIT, Server};
use blackbox::stalls::undisturbed;

use crate::load::Load;

/// Another address of the same loopback network.
fn neighbour(ip: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, d] = ip.octets();
    Ipv4Addr::new(a, b, c, if d > 127 { d - 1 } else { d + 1 })
}

fn invite(number: u32, peer: &Peer) -> Message {
    let mut message = Message::request("INVITE", "sip:nobody@example.test");
    for (name, value) in [
        (
            "Via",
            format!("SIP/2.0/UDP {};branch=z9hG4bK{number}", peer.address),
        ),
        ("From", format!("<sip:flood@example.test>;tag={number}")),
        ("To", "<sip:nobody@example.test>".to_owned()),
        ("Call-ID", format!("{number}@flood")),
        ("CSeq", "1 INVITE".to_owned()),
        ("Max-Forwards", "70".to_owned()),
        ("Content-Length", "0".to_owned()),
    ] {
        message.headers.push((name.to_owned(), value));
    }
    message
}

const FLOOD_MAX: Duration = Duration::from_secs(40);

#[test]
fn a_source_that_asks_too_often_is_refused_and_others_are_not() {
    let _shared = shared();
    let server = Server::start_with(&format!(
        "{GATED}\n[overload]\nsource_rate = 20\nretry_after = \"7s\"\n"
    ));
    let loud = Peer::bind(server.ip);
    for number in 0..100 {
        loud.send(&invite(number, &loud), server.address());
    }
    eventually("all are dealt with", LIMIT, || {
        let judged = server.counter("overload.refused") + server.counter("overload.dropped");
        (judged + server.counter("rejected.not_found") == 100).then_some(())
    });
    let mut codes = Vec::new();
    while let Some((answer, _)) = loud.receive_now() {
        let code = answer.status();
        if code == 503 {
            assert_eq!(answer.first("Retry-After"), Some("7"), "{answer:?}");
        }
        codes.push(code);
    }
    let count = |code: u16| codes.iter().filter(|&&of| of == code).count() as u64;
    assert_eq!(count(503), server.counter("overload.refused"));
    assert!(count(503) > 0);
    // A second may end in between.
    assert!((20..=40).contains(&server.counter("rejected.not_found")));
    // Others, and what belongs to a dialog, are not concerned.
    let quiet = Peer::bind(neighbour(server.ip));
    quiet.send(&invite(200, &quiet), server.address());
    quiet.expect("a 404", |answer| answer.status() == 404);
    let refused = server.counter("overload.refused") + server.counter("overload.dropped");
    let mut bye = invite(300, &loud);
    bye.start = bye.start.replace("INVITE", "BYE");
    bye.set("CSeq", "2 BYE");
    bye.set("To", "<sip:nobody@example.test>;tag=x");
    loud.send(&bye, server.address());
    loud.expect("its own answer", |answer| {
        answer.first("CSeq") == Some("2 BYE") && answer.status() != 503
    });
    let after = server.counter("overload.refused") + server.counter("overload.dropped");
    assert_eq!(refused, after);
    assert!(server.stop().success());
}

/// One call that comes forty times leaves the source its other calls.
#[test]
fn copies_do_not_use_up_the_rate_of_a_source() {
    let _shared = shared();
    let server = Server::start_with(&format!(
        "{GATED}\n[overload]\noccupancy = 100\nsource_rate = 5\n"
    ));
    let caller = Peer::bind(server.ip);
    for _ in 0..40 {
        caller.send(&invite(1, &caller), server.address());
    }
    for number in 2..=4 {
        caller.send(&invite(number, &caller), server.address());
    }
    for number in 2..=4 {
        let branch = format!("z9hG4bK{number}");
        let (answer, _) = caller.expect("an answer", |answer| {
            let via = answer.first("Via").unwrap_or_default();
            via.contains(&branch)
        });
        assert_eq!(answer.status(), 404, "{answer:?}");
    }
    assert_eq!(server.counter("overload.refused"), 0);
    assert!(server.stop().success());
}

const FLOODS: usize = 2;

/// How many INVITEs are sent at once, at first and at most. What a machine can serve nobody knows, so a flood rises until it is refused.
const BURST_MIN: u32 = 20;
const BURST_MAX: u32 = 640;

/// How a flood goes.
struct Flood {
    over: AtomicBool,
    burst: AtomicU32,
}

/// Sends more INVITEs than can be served; returns how many.
fn flood(server: &Server, flood: &Flood) -> u32 {
    let peer = Peer::bind(neighbour(server.ip));
    let text = String::from_utf8(invite(0, &peer).to_bytes()).expect("it is text");
    let (before, after) = text.split_once("z9hG4bK0").expect("a branch");
    // Also when what waits for it has failed.
    let end = Instant::now() + FLOOD_MAX;
    let mut number = 0;
    while !flood.over.load(Ordering::Relaxed) && Instant::now() < end {
        for _ in 0..flood.burst.load(Ordering::Relaxed) {
            let text = format!("{before}z9hG4bK{number}{after}");
            peer.send_bytes(text.as_bytes(), server.address());
            number += 1;
        }
        // So that others get a processor too.
        std::thread::sleep(Duration::from_millis(2));
    }
    number
}

/// One source sends far more than can be served. The calls of others begin and end.
#[test]
fn a_flood_takes_nothing_from_others() {
    let _alone = alone();
    // While a flood goes on each source gets its share in every window of 25 ms, one request at least. Calls that had to wait for a machine that stood still
    // come all at once, and more than that.
    undisturbed(Duration::from_millis(25), flood_and_call);
}

fn flood_and_call() {
    let server = Server::start_with(GATED);
    let state = Flood {
        over: AtomicBool::new(false),
        burst: AtomicU32::new(BURST_MIN),
    };
    let (report, sent) = std::thread::scope(|scope| {
        let load = Load::start(&server, 20, 12, &[]);
        let floods: Vec<_> = (0..FLOODS)
            .map(|_| scope.spawn(|| flood(&server, &state)))
            .collect();
        let refused = || server.counter("overload.refused");
        // A slot refuses after a second of too much work: each strength has some of them.
        let mut risen = Instant::now();
        let seen = eventually("the slot refuses", FLOOD_MAX, || {
            if risen.elapsed() > Duration::from_secs(3) {
                risen = Instant::now();
                let stronger = state.burst.load(Ordering::Relaxed) * 2;
                state
                    .burst
                    .store(stronger.min(BURST_MAX), Ordering::Relaxed);
            }
            Some(refused()).filter(|&n| n > 0)
        });
        println!(
            "refused from {} at once on",
            state.burst.load(Ordering::Relaxed)
        );
        eventually("and goes on to", LIMIT, || (refused() > seen).then_some(()));
        let report = load.end_of_callers();
        state.over.store(true, Ordering::Relaxed);
        let sent = floods
            .into_iter()
            .map(|thread| thread.join().expect("it ends"));
        (report, sent.sum::<u32>())
    });
    println!(
        "{sent} sent: {} refused, {} dropped, {} dropped by the kernel",
        server.counter("overload.refused"),
        server.counter("overload.dropped"),
        server.counter("messages.dropped_by_kernel"),
    );
    report.assert_callers_content();
    // Nothing of it is left behind.
    let peer = Peer::bind(neighbour(server.ip));
    let mut number = 2_000_000_000;
    eventually("everybody is served again", Duration::from_secs(20), || {
        let before = server.counter("overload.refused");
        for _ in 0..20 {
            number += 1;
            peer.send(&invite(number, &peer), server.address());
            peer.receive(Duration::from_secs(1))
                .filter(|(answer, _)| answer.status() == 404)?;
        }
        (server.counter("overload.refused") == before).then_some(())
    });
    assert!(server.stop().success());
}
