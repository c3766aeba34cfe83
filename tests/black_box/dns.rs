//! Next hops that only a name server knows (RFC 3263), with unbound as the name server.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use blackbox::either;
use blackbox::machine::{alone, eventually, fresh_address, resident_own_kib, shared};
use blackbox::server::{DOMAIN, LIMIT, Server};
use blackbox::ua::Ua;
use blackbox::unbound::{Gate, Unbound};

/// Everything for names below `far.test` goes where they lead.
fn config(workers: u16, dns: &str) -> String {
    format!(
        r#"
[[listen]]
address = "{{ip}}:{{port}}"

[workers]
count = {workers}
reactors = 1

[memory]
limit = "64MiB"

[dns]
hosts = "{{dir}}/hosts"
{dns}

[[domain]]
name = "example.test"
auth = "none"

[[route]]
match = {{ domain = "example.test" }}
to = "location"

[[route]]
to = "dns"
"#
    )
}

fn servers(address: SocketAddr) -> String {
    format!("servers = [\"{address}\"]")
}

/// A user agent that only the name server can find: an address, and its port for an SRV record.
fn callee() -> Ua {
    Ua::new(
        fresh_address(),
        ([127, 0, 0, 1], 9).into(),
        "bob",
        "far.test",
    )
}

/// A whole call to `uri`, which `bob` must get.
#[track_caller]
fn call(server: &Server, bob: &Ua, uri: &str) {
    let alice = server.ua("alice");
    let invite = alice.invite(uri);
    alice.send(&invite);
    let got = bob.expect_request("INVITE");
    assert_eq!(got.0.uri(), uri, "the Request-URI stays what it was");
    bob.reply(&got, 200, "OK", "b");
    let ok = alice.expect_final(&invite);
    assert_eq!(ok.status(), 200);
    alice.send_routed(&alice.ack(&invite, &ok));
    bob.expect_request("ACK");
    let bye = alice.in_dialog("BYE", 2, &invite, &ok);
    alice.send_routed(&bye);
    let got = bob.expect_request("BYE");
    bob.reply(&got, 200, "OK", "b");
    assert_eq!(alice.expect_final(&bye).status(), 200);
}

/// The answer to a call to `uri`.
#[track_caller]
fn refusal(server: &Server, uri: &str) -> u16 {
    let alice = server.ua("alice");
    let invite = alice.invite(uri);
    let answer = alice.ask(&invite);
    alice.send(&alice.ack(&invite, &answer));
    answer.status()
}

/// Every way of RFC 3263 that ends at UDP.
#[test]
fn names_lead_where_their_records_say() {
    let _shared = shared();
    let bob = callee();
    let (ip, port) = (bob.peer.address.ip(), bob.peer.address.port());
    let mut records = vec![
        format!("host.far.test. 60 IN A {ip}"),
        format!("_sip._udp.srv.far.test. 60 IN SRV 1 1 {port} host.far.test."),
        // The other transports come first and are passed over.
        "naptr.far.test. 60 IN NAPTR 5 0 \"s\" \"SIPS+D2T\" \"\" _sips._tcp.naptr.far.test."
            .to_owned(),
        "naptr.far.test. 60 IN NAPTR 10 0 \"s\" \"SIP+D2T\" \"\" _sip._tcp.naptr.far.test."
            .to_owned(),
        "naptr.far.test. 60 IN NAPTR 20 0 \"s\" \"SIP+D2U\" \"\" _sip._udp.srv.far.test."
            .to_owned(),
        "tcp-only.far.test. 60 IN NAPTR 10 0 \"s\" \"SIP+D2T\" \"\" _sip._tcp.far.test.".to_owned(),
        "alias.far.test. 60 IN CNAME host.far.test.".to_owned(),
        "_sip._udp.closed.far.test. 60 IN SRV 0 0 0 .".to_owned(),
        format!("closed.far.test. 60 IN A {ip}"),
    ];
    // Too many for a datagram: asked for again by TCP. Who is reached is one of the first 16.
    records.extend((0..100).map(|_| format!("big.far.test. 60 IN A {ip}")));
    records.extend((1..=120).map(|n| {
        format!("_sip._udp.big.far.test. 60 IN SRV 9 1 5060 other-target-number-{n}.far.test.")
    }));
    records.push(format!(
        "_sip._udp.big.far.test. 60 IN SRV 1 1 {port} host.far.test."
    ));
    let unbound = Unbound::start(&records);
    let server = Server::start_with(&config(2, &servers(unbound.address)));

    call(&server, &bob, &format!("sip:bob@host.far.test:{port}"));
    call(&server, &bob, "sip:bob@srv.far.test");
    call(&server, &bob, "sip:bob@SRV.far.test;transport=UDP");
    call(&server, &bob, "sip:bob@naptr.far.test");
    call(&server, &bob, &format!("sip:bob@alias.far.test:{port}"));
    call(
        &server,
        &bob,
        &format!("sip:bob@example.invalid:{port};maddr=host.far.test"),
    );
    assert_eq!(server.counter("dns.tcp"), 0);
    call(&server, &bob, "sip:bob@big.far.test");
    assert!(server.counter("dns.tcp") >= 1, "{:?}", server.counters());

    for uri in [
        "sip:bob@nobody.far.test",
        "sip:bob@tcp-only.far.test",
        "sip:bob@closed.far.test",
    ] {
        assert!((500..=503).contains(&refusal(&server, uri)), "{uri}");
    }
    eventually("the counters", LIMIT, || {
        (server.counter("dns.transport") == 1 && server.counter("dns.not_found") == 2).then_some(())
    });
    assert!(server.counter("dns.answers") > 0 && server.counter("dns.cached") > 0);
    assert_eq!(server.counter("dns.failed"), 0);
}

/// A name server of IPv6, also for an answer that has to come by TCP; and the one of IPv4 behind it, when it is silent.
#[test]
fn name_servers_of_both_families() {
    let _shared = shared();
    let bob = callee();
    let (ip, port) = (bob.peer.address.ip(), bob.peer.address.port());
    let mut records = vec![
        format!("host.far.test. 60 IN A {ip}"),
        format!("_sip._udp.far.test. 60 IN SRV 1 1 {port} host.far.test."),
    ];
    records.extend((0..100).map(|n| {
        format!("_sip._udp.big.far.test. 60 IN SRV 9 1 5060 other-target-number-{n}.far.test.")
    }));
    records.push(format!(
        "_sip._udp.big.far.test. 60 IN SRV 1 1 {port} host.far.test."
    ));
    let unbound = Unbound::start_v6(&records);
    let server = Server::start_with(&config(1, &servers(unbound.address)));
    call(&server, &bob, "sip:bob@far.test");
    assert_eq!(server.counter("dns.tcp"), 0);
    call(&server, &bob, "sip:bob@big.far.test");
    assert!(server.counter("dns.tcp") >= 1);
    drop((server, unbound));

    let silent = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("this machine has IPv6");
    let unbound = Unbound::start(&records);
    let dns = format!(
        "servers = [\"{}\", \"{}\"]\ntimeout = \"200ms\"",
        silent.local_addr().expect("a bound socket has an address"),
        unbound.address
    );
    let server = Server::start_with(&config(1, &dns));
    call(&server, &bob, "sip:bob@far.test");
    assert!(server.counter("dns.timeouts") >= 1);
}

/// The first target of an SRV name is silent, or says 503: the second has the call within the caller's own transaction, and the next call
/// goes there at once.
#[test]
fn the_second_target_takes_the_call() {
    let _shared = shared();
    for busy in [false, true] {
        let (dead, bob) = (callee(), callee());
        let of = |ua: &Ua| (ua.peer.address.ip(), ua.peer.address.port());
        let ((dead_ip, dead_port), (ip, port)) = (of(&dead), of(&bob));
        let unbound = Unbound::start(&[
            format!("_sip._udp.far.test. 60 IN SRV 1 1 {dead_port} dead.far.test."),
            format!("_sip._udp.far.test. 60 IN SRV 2 1 {port} host.far.test."),
            format!("dead.far.test. 60 IN A {dead_ip}"),
            format!("host.far.test. 60 IN A {ip}"),
        ]);
        let server = Server::start_with(&config(1, &servers(unbound.address)));
        let alice = server.ua("alice");
        let invite = alice.invite("sip:bob@far.test");
        let start = Instant::now();
        alice.send(&invite);
        let got = dead.expect_request("INVITE");
        if busy {
            dead.reply(&got, 503, "Service Unavailable", "d");
            dead.expect_request("ACK");
        }
        let got = bob
            .peer
            .expect_within("INVITE", Duration::from_secs(10), |m| {
                m.is_request() && m.method() == "INVITE"
            });
        let took = start.elapsed();
        bob.reply(&got, 200, "OK", "b");
        let ok = alice.expect_final(&invite);
        assert_eq!(ok.status(), 200);
        alice.send_routed(&alice.ack(&invite, &ok));
        bob.expect_request("ACK");
        let kind = if busy {
            "that says 503"
        } else {
            "that is silent"
        };
        println!("failover from a first SRV target {kind}: {took:?}");
        // Its retransmissions are of the call before.
        dead.peer.drain();
        call(&server, &bob, "sip:bob@far.test");
        assert_eq!(server.counter("dns.blacklisted"), 1);
    }
}

/// The hosts file goes before all records, and a change of it counts without a reload.
#[test]
fn the_hosts_file_is_read_again() {
    let _shared = shared();
    let bob = callee();
    let (ip, port) = (bob.peer.address.ip(), bob.peer.address.port());
    let server = Server::start_with(&config(1, "servers = []"));
    let uri = format!("sip:bob@pbx.far.test:{port}");
    assert_eq!(refusal(&server, &uri), 500);
    let entry = format!("{ip} pbx.far.test\n");
    std::fs::write(server.dir().join("hosts"), entry).expect("a hosts file");
    eventually("the new hosts file counts", LIMIT, || {
        (options(&server, &uri, &bob) == 200).then_some(())
    });
    call(&server, &bob, &uri);
    assert_eq!(server.counter("dns.queries"), 0);
}

/// The answer to an OPTIONS that `bob` answers if it gets it.
#[track_caller]
fn options(server: &Server, uri: &str, bob: &Ua) -> u16 {
    let alice = server.ua("alice");
    let request = alice.request("OPTIONS", uri);
    alice.send(&request);
    loop {
        if let Some(got) = bob.peer.receive(Duration::from_millis(5))
            && got.0.is_request()
        {
            bob.reply(&got, 200, "OK", "o");
        }
        if let Some((answer, _)) = alice.peer.receive(Duration::from_millis(5))
            && answer.status() >= 200
        {
            return answer.status();
        }
    }
}

/// A worker dies while a name server is silent: the heir asks again, and the call goes through.
#[test]
fn an_heir_asks_again() {
    let _shared = shared();
    let bob = callee();
    let (ip, port) = (bob.peer.address.ip(), bob.peer.address.port());
    let unbound = Unbound::start(&[
        format!("host.far.test. 60 IN A {ip}"),
        format!("_sip._udp.far.test. 60 IN SRV 1 1 {port} host.far.test."),
    ]);
    let gate = Gate::shut(unbound.address);
    let dns = format!(
        "{}\ntimeout = \"300ms\"\nattempts = 5\ndeadline = \"15s\"",
        servers(gate.address)
    );
    let server = Server::start_with(&config(1, &dns));
    let alice = server.ua("alice");
    let invite = alice.invite("sip:bob@far.test");
    alice.send(&invite);
    alice.expect_status(&invite, 100);
    eventually("the name server is asked", LIMIT, || {
        (gate.questions() > 0).then_some(())
    });
    let victim = server.signalling()[0].pid;
    server.kill_worker(victim);
    gate.open();
    let got = bob.expect_request("INVITE");
    bob.reply(&got, 200, "OK", "b");
    let ok = alice.expect_final(&invite);
    assert_eq!(ok.status(), 200);
    alice.send_routed(&alice.ack(&invite, &ok));
    bob.expect_request("ACK");
    assert!(server.counter("transactions.adopted") >= 1);
}

/// Somebody asks for ever new names for which nobody answers: others' names are looked up beside that.
#[test]
fn whoever_asks_for_silence_leaves_room() {
    let _shared = shared();
    let bob = callee();
    let (ip, port) = (bob.peer.address.ip(), bob.peer.address.port());
    let unbound = Unbound::start(&[format!("host.far.test. 60 IN A {ip}")]);
    let gate = Gate::shut(unbound.address);
    let dns = format!(
        "{}\ntimeout = \"300ms\"\nattempts = 5\ndeadline = \"15s\"\npending_max = 20",
        servers(gate.address)
    );
    let server = Server::start_with(&config(1, &dns));
    let mallory = stranger(&server, "mallory");
    for n in 0..30 {
        mallory.send(&mallory.invite(&format!("sip:x@name-{n}.far.test:5060")));
    }
    eventually("the share is used up", LIMIT, || {
        (server.counter("dns.over_share") == 20).then_some(())
    });
    let alice = stranger(&server, "alice");
    let invite = alice.invite(&format!("sip:bob@host.far.test:{port}"));
    alice.send(&invite);
    alice.expect_status(&invite, 100);
    gate.open();
    let got = bob.expect_request("INVITE");
    bob.reply(&got, 486, "Busy Here", "b");
    let answer = alice.expect_final(&invite);
    assert_eq!(answer.status(), 486);
    alice.send(&alice.ack(&invite, &answer));
    assert_eq!(server.counter("dns.refused"), 20);
}

/// A caller at an address of its own.
fn stranger(server: &Server, user: &str) -> Ua {
    Ua::new(fresh_address(), server.address(), user, DOMAIN)
}

/// Ten thousand names for which nobody answers, all waited for at the same time, beside calls that need none. `TANDEM_LONG=1` measures
/// more calls; the figures are printed.
#[test]
fn silence_of_a_name_server_is_nobodys_delay() {
    const WAITING: u64 = 10_000;
    const BURST: u64 = 400;
    let _alone = alone();
    let nobody: SocketAddr = (Ipv4Addr::LOCALHOST, 9).into();
    let gate = Gate::shut(nobody);
    // The bursts alone may be more than a slot of an unoptimised program can take; here the waiting is looked at, not that.
    let dns = format!(
        "{}\ntimeout = \"15s\"\nattempts = 1\ndeadline = \"15s\"\n\n[overload]\noccupancy = 100",
        servers(gate.address)
    );
    let server = Server::start_with(&config(2, &dns));
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    let rounds = either(40, 400);
    let calm = quantiles(&mut calls(&alice, &bob, rounds));
    let resident = || -> u64 {
        let workers = server.signalling();
        workers.iter().map(|w| resident_own_kib(w.pid)).sum()
    };
    let used = || {
        server.status()["arena"]["bytes_used"]
            .as_u64()
            .expect("bytes")
    };
    let before = (resident(), used());
    // From several sockets of each of several sources, so that each slot has some.
    let flood: Vec<Ua> = (0..16).map(|_| stranger(&server, "mallory")).collect();
    let start = Instant::now();
    for n in 0..WAITING {
        let ua = &flood[n as usize % flood.len()];
        ua.send(&ua.invite(&format!("sip:x@name-{n}.far.test:5060")));
        if n % BURST == BURST - 1 {
            eventually("the names are looked up", LIMIT, || {
                (server.counter("dns.resolutions") > n).then_some(())
            });
        }
    }
    let ended = || server.counter("dns.failed") + server.counter("dns.refused");
    let took = start.elapsed();
    assert_eq!(ended(), 0, "all wait at the same time ({took:?})");
    let heap = resident().saturating_sub(before.0);
    let arena = used().saturating_sub(before.1);
    let (waited, meanwhile) = calls_while(&alice, &bob, rounds, || ended() == 0);
    assert!(waited >= 20, "{waited} calls while all waited");
    // They end within seconds, as they came; whose look-up has failed is refused, and none of them sends an ACK.
    let mut ending = Vec::new();
    while ended() < WAITING {
        ending.extend(calls(&alice, &bob, 5));
    }
    let ending = quantiles(&mut ending);
    println!(
        "silent name server: {WAITING} names waited for at the same time (they came in {took:?}), {} bytes of heap and {} of the arena \
         each, {} questions. A call's way to the callee: {calm}. While they wait: {meanwhile} ({waited} calls). While they end: {ending}",
        heap * 1024 / WAITING,
        arena / WAITING,
        gate.questions()
    );
    assert_eq!(gate.questions(), WAITING);
    assert_eq!(server.counter("dns.refused"), 0);
    // A wait for the name server would be seconds; the machine's own noise is far below.
    for (what, took) in [("waiting", meanwhile), ("ending", ending)] {
        assert!(took.p99 < Duration::from_millis(500), "{what}: {took}");
    }
}

/// As many calls as can be made while something lasts, up to a number.
fn calls_while(alice: &Ua, bob: &Ua, most: usize, lasts: impl Fn() -> bool) -> (usize, Quantiles) {
    let mut times = Vec::new();
    while times.len() < most {
        let more = calls(alice, bob, 10);
        if !lasts() {
            break;
        }
        times.extend(more);
    }
    (times.len(), quantiles(&mut times))
}

/// How long each INVITE takes from caller to callee, over calls to a registered user.
fn calls(alice: &Ua, bob: &Ua, count: usize) -> Vec<Duration> {
    (0..count)
        .map(|_| {
            let invite = alice.invite(&format!("sip:bob@{DOMAIN}"));
            let start = Instant::now();
            alice.send(&invite);
            let got = bob.expect_request("INVITE");
            let took = start.elapsed();
            bob.reply(&got, 486, "Busy Here", "b");
            let answer = alice.expect_final(&invite);
            assert_eq!(answer.status(), 486);
            alice.send(&alice.ack(&invite, &answer));
            took
        })
        .collect()
}

struct Quantiles {
    p50: Duration,
    p99: Duration,
    most: Duration,
}

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:?}, p99 {:?}, at most {:?}",
            self.p50, self.p99, self.most
        )
    }
}

fn quantiles(times: &mut [Duration]) -> Quantiles {
    times.sort_unstable();
    let at = |part: usize| times[times.len().saturating_sub(1) * part / 100];
    Quantiles {
        p50: at(50),
        p99: at(99),
        most: at(100),
    }
}
