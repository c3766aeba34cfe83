//! Phones behind real address translation: two homes with the same addresses inside, the strictest kind of router before each, and the server in between.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blackbox::baresip::Baresip;
use blackbox::machine::{eventually, shared};
use blackbox::message::Message;
use blackbox::networks::{Networks, OTHER_PHONE, PHONE, SECOND, SERVER};
use blackbox::peer::{Peer, unique};
use blackbox::rtpengine::{Engine, Party, media_address, talk};
use blackbox::server::{DEFAULT, DOMAIN, LIMIT, Server};
use blackbox::ua::Ua;

/// Longer than any test lasts.
const LONG: Duration = Duration::from_secs(60);

fn at(port: u16) -> SocketAddr {
    (SERVER, port).into()
}

/// [`DEFAULT`] with more behind its domain.
fn with(more: &str) -> String {
    format!("{DEFAULT}{more}\n")
}

/// One call, as both of its ends know it.
struct Call<'u> {
    caller: &'u Ua,
    callee: &'u Ua,
    /// As the caller sent it, and what he was answered.
    invite: Message,
    ok: Message,
    /// As the callee got it, and what it answered.
    offered: Message,
    answer: Message,
    /// Of the last request of each.
    cseq: u32,
    cseq_back: u32,
}

impl<'u> Call<'u> {
    /// Rings, and is answered.
    #[track_caller]
    fn new(caller: &'u Ua, callee: &'u Ua) -> Self {
        let invite = caller.invite(&callee.aor());
        caller.send(&invite);
        let offered = callee.expect_request("INVITE");
        let tag = unique();
        callee.reply(&offered, 180, "Ringing", &tag);
        caller.expect_status(&invite, 180);
        let answer = callee.reply(&offered, 200, "OK", &tag);
        let ok = caller.expect_status(&invite, 200);
        caller.send_routed(&caller.ack(&invite, &ok));
        callee.expect_request("ACK");
        Self {
            caller,
            callee,
            invite,
            ok,
            offered: offered.0,
            answer,
            cseq: 1,
            cseq_back: 0,
        }
    }

    /// A request of the caller within the call, as the callee gets it; it is answered.
    #[track_caller]
    fn ask(&mut self, method: &str) -> Message {
        self.cseq += 1;
        let request = self
            .caller
            .in_dialog(method, self.cseq, &self.invite, &self.ok);
        let (got, ok) = exchange(self.caller, self.callee, request);
        take_target(&mut self.ok, &ok);
        take_target(&mut self.offered, &got);
        got
    }

    /// A request of the callee.
    #[track_caller]
    fn ask_back(&mut self, method: &str) -> Message {
        self.cseq_back += 1;
        let request =
            self.callee
                .in_dialog_back(method, self.cseq_back, &self.offered, &self.answer);
        let (got, ok) = exchange(self.callee, self.caller, request);
        take_target(&mut self.ok, &got);
        take_target(&mut self.offered, &ok);
        got
    }
}

/// A new Contact takes the place of the old one (RFC 3261 §12.2).
fn take_target(known: &mut Message, new: &Message) {
    if let ("INVITE" | "UPDATE", Some(contact)) = (new.method(), new.first("Contact")) {
        known.set("Contact", contact);
    }
}

/// A request within a dialog and its answer; of an INVITE also the ACK.
#[track_caller]
fn exchange(from: &Ua, to: &Ua, mut request: Message) -> (Message, Message) {
    let invites = request.method() == "INVITE";
    if invites {
        request.push("Contact", format!("<{}>", from.contact()));
    }
    from.send_routed(&request);
    let method = request.method().to_owned();
    let got = to.expect_request(&method);
    to.reply(&got, 200, "OK", "t");
    let ok = from.expect_final(&request);
    assert_eq!(ok.status(), 200, "{method}");
    if invites {
        let target = ok.contact_uri().expect("a Contact");
        let mut ack = request.clone();
        ack.start = format!("ACK {target} SIP/2.0");
        ack.set("CSeq", format!("{} ACK", request.cseq()));
        ack.set("Via", from.via());
        ack.body.clear();
        from.send_routed(&ack);
        to.expect_request("ACK");
    }
    (got.0, ok)
}

#[track_caller]
fn register(phone: &Ua) {
    assert_eq!(phone.register(600).status(), 200, "{}", phone.user);
}

fn kill_everybody(server: &Server) {
    for worker in server.workers() {
        server.kill_worker(worker.pid);
        server.wait_ready();
    }
}

/// A phone in each home, at the same address.
fn phones(networks: &Networks) -> (Ua, Ua) {
    let [one, two] = &networks.homes;
    let (alice, bob) = (
        one.phone(PHONE, at(5060), "alice"),
        two.phone(PHONE, at(5060), "bob"),
    );
    assert_eq!(alice.peer.address, bob.peer.address);
    for phone in [&alice, &bob] {
        register(phone);
    }
    (alice, bob)
}

/// Whatever a call can do, both ways, over deaths of every worker. `plain`: each phone is asked by the URI that it knows.
fn a_call_does_everything(config: &str, plain: bool) {
    let _shared = shared();
    let Some(networks) = Networks::new(LONG) else {
        return;
    };
    let server = networks.server(config);
    let (alice, bob) = phones(&networks);
    let [one, two] = &networks.homes;
    for (caller, callee, home) in [(&alice, &bob, one), (&bob, &alice, two)] {
        let knows = |phone: &Ua, got: &Message| {
            assert!(!plain || got.uri() == phone.contact(), "{}", got.uri());
        };
        let mut call = Call::new(caller, callee);
        knows(callee, &call.offered);
        knows(caller, &call.ask_back("INVITE"));
        knows(callee, &call.ask("INVITE"));
        kill_everybody(&server);
        knows(caller, &call.ask_back("INFO"));
        knows(callee, &call.ask("INFO"));
        knows(caller, &call.ask_back("INVITE"));
        knows(caller, &call.ask_back("BYE"));
        // The other one hangs up.
        let mut call = Call::new(caller, callee);
        knows(callee, &call.ask("BYE"));
        // The caller's router starts again: a request of his brings his new way.
        let mut call = Call::new(caller, callee);
        home.restart();
        knows(callee, &call.ask("INVITE"));
        knows(caller, &call.ask_back("BYE"));
        register(caller);
    }
}

#[test]
fn calls_on_record() {
    a_call_does_everything(&with(""), true);
}

#[test]
fn calls_without_a_record() {
    a_call_does_everything(&with("[calls]\nrecord = false"), true);
}

#[test]
fn hidden_calls() {
    a_call_does_everything(&with("topology_hiding = \"dialog\""), true);
}

#[test]
fn hidden_calls_without_state() {
    a_call_does_everything(&with("topology_hiding = \"stateless\""), true);
}

/// Three listeners, of which each phone has its own.
fn with_listeners(more: &str) -> String {
    let listeners = r#"
[[listen]]
address = "203.0.113.1:5070"
[[listen]]
address = "203.0.113.2:5060"
"#;
    format!("{}{listeners}", with(more))
}

/// Each phone is reached by the socket that it has registered by, since its router lets nothing else in.
fn calls_between_listeners(config: &str) {
    let _shared = shared();
    let Some(networks) = Networks::new(LONG) else {
        return;
    };
    let server = networks.server(config);
    let [one, two] = &networks.homes;
    let alice = one.phone(PHONE, at(5070), "alice");
    let bob = two.phone(PHONE, (SECOND, 5060).into(), "bob");
    let carol = two.phone(OTHER_PHONE, at(5060), "carol");
    for phone in [&alice, &bob, &carol] {
        register(phone);
    }
    for (caller, callee) in [(&alice, &bob), (&bob, &alice), (&carol, &alice)] {
        let mut call = Call::new(caller, callee);
        call.ask_back("INVITE");
        call.ask("INFO");
        kill_everybody(&server);
        call.ask("INVITE");
        call.ask_back("BYE");
        for (home, phone) in [(one, &alice), (two, &bob), (two, &carol)] {
            let ways = home.mappings().into_iter();
            let own = ways.filter(|way| way.inside == phone.peer.address);
            let peers: Vec<SocketAddr> = own.map(|way| way.peer).collect();
            assert_eq!(peers, [phone.server], "{} talks to no other", phone.user);
        }
    }
}

#[test]
fn several_listeners() {
    calls_between_listeners(&with_listeners(""));
}

#[test]
fn several_listeners_without_a_record() {
    calls_between_listeners(&with_listeners("[calls]\nrecord = false"));
}

#[test]
fn several_listeners_of_hidden_calls() {
    calls_between_listeners(&with_listeners("topology_hiding = \"dialog\""));
}

#[test]
fn several_listeners_of_hidden_calls_without_state() {
    calls_between_listeners(&with_listeners("topology_hiding = \"stateless\""));
}

#[track_caller]
fn is_reached(caller: &Ua, phone: &Ua) {
    let message = caller.request("MESSAGE", &phone.aor());
    caller.send(&message);
    let got = phone.peer.expect("the MESSAGE", |m| {
        m.is_request() && m.call_id() == message.call_id()
    });
    phone.reply(&got, 200, "OK", "m");
    assert_eq!(caller.expect_final(&message).status(), 200);
}

/// The test's own ground: what this router lets through, and what it does not.
#[test]
fn the_router_is_strict() {
    let _shared = shared();
    let Some(networks) = Networks::new(Duration::from_secs(1)) else {
        return;
    };
    let [home, _] = &networks.homes;
    let socket = |port| networks.public.within(|| Peer::bind_port(SERVER, port));
    let (server, other) = (socket(5060), socket(5061));
    let phone = home.phone(PHONE, at(5060), "alice");
    let hello = phone.request("OPTIONS", "sip:x");
    phone.send(&hello);
    let (_, from) = server.expect("the request", |m| m.is_request());
    let way = home.mapping(&phone).expect("a way");
    assert_eq!((way.outside, from.ip()), (from, home.outside.into()));
    // The one from elsewhere would be there first.
    other.send(&hello.response(500, "Stranger", "s"), from);
    server.send(&hello.response(200, "OK", "s"), from);
    let (first, _) = phone.peer.expect("an answer", |_| true);
    assert_eq!(first.status(), 200, "only its own peer gets through");
    home.expect_closed(&phone);
    server.send(&hello.response(500, "Late", "s"), from);
    phone.send(&hello);
    let (_, again) = server.expect("the request", |m| m.is_request());
    assert_ne!(again, from, "a new port");
    server.send(&hello.response(200, "OK", "s"), again);
    let (first, _) = phone.peer.expect("an answer", |_| true);
    assert_eq!(first.status(), 200, "what comes too late is lost");
}

/// How long routers remember in tests about keep-alives, which come every 5 s.
const SHORT: Duration = Duration::from_secs(8);

fn the_way_is_kept_open(method: &str) {
    let _shared = shared();
    let Some(networks) = Networks::new(SHORT) else {
        return;
    };
    let server = networks.server(&with(&format!(
        "[nat]\nkeepalive = \"5s\"\nkeepalive_method = \"{method}\""
    )));
    let [one, two] = &networks.homes;
    let (alice, bob) = phones(&networks);
    let began = Instant::now();
    let before = [one.mapping(&alice), two.mapping(&bob)];
    let mut call = Call::new(&alice, &bob);
    kill_everybody(&server);
    // Nothing but keep-alives for longer than the routers remember.
    while began.elapsed() < SHORT + Duration::from_secs(1) {
        for phone in [&alice, &bob] {
            if let Some(got) = phone.peer.receive(Duration::from_millis(20)) {
                assert_eq!((method, got.0.method()), ("options", "OPTIONS"));
                assert_eq!(got.0.uri(), phone.contact());
                phone.reply(&got, 200, "OK", "o");
            }
        }
    }
    assert_eq!([one.mapping(&alice), two.mapping(&bob)], before);
    call.ask_back("INFO");
    call.ask("INVITE");
    call.ask_back("BYE");
    is_reached(&bob, &alice);
    assert!(server.counter("nat.keepalives") >= 2);
}

#[test]
fn the_way_is_kept_open_by_options() {
    the_way_is_kept_open("options");
}

#[test]
fn the_way_is_kept_open_by_crlf() {
    the_way_is_kept_open("crlf");
}

#[test]
fn a_way_that_nothing_keeps_open_closes() {
    let _shared = shared();
    let Some(networks) = Networks::new(Duration::from_secs(2)) else {
        return;
    };
    let server = networks.server(&with("[nat]\nkeepalive = \"off\""));
    let (alice, bob) = phones(&networks);
    let [one, two] = &networks.homes;
    for home in [one, two] {
        home.expect_closed(&alice);
    }
    let before = server.counter("proxy.forwarded");
    let lost = bob.request("MESSAGE", &alice.aor());
    bob.send(&lost);
    eventually("it is on its way", LIMIT, || {
        (server.counter("proxy.forwarded") > before).then_some(())
    });
    register(&alice);
    let message = bob.request("MESSAGE", &alice.aor());
    bob.send(&message);
    let (first, _) = alice.expect_request("MESSAGE");
    assert_eq!(
        first.call_id(),
        message.call_id(),
        "what came before is lost"
    );
    assert_eq!(server.number("registrations"), 2, "in place of the old one");
}

#[test]
fn a_phone_whose_router_starts_again_registers_anew() {
    let _shared = shared();
    let Some(networks) = Networks::new(LONG) else {
        return;
    };
    let server = networks.server(&with(""));
    let (alice, bob) = phones(&networks);
    let [one, _] = &networks.homes;
    let before = one.mapping(&alice);
    one.restart();
    register(&alice);
    assert_ne!(one.mapping(&alice), before);
    is_reached(&bob, &alice);
    assert_eq!(server.number("registrations"), 2, "in place of the old one");
}

/// They differ by the port that the router has given them.
#[test]
fn two_phones_of_one_home() {
    let _shared = shared();
    let Some(networks) = Networks::new(LONG) else {
        return;
    };
    let _server = networks.server(&with(""));
    let [home, _] = &networks.homes;
    let alice = home.phone(PHONE, at(5060), "alice");
    let carol = home.phone(OTHER_PHONE, at(5060), "carol");
    register(&alice);
    register(&carol);
    let mut call = Call::new(&alice, &carol);
    call.ask_back("INVITE");
    call.ask("INFO");
    call.ask_back("BYE");
}

/// What is not a call, or does not become one.
#[test]
fn everything_else() {
    let _shared = shared();
    let Some(networks) = Networks::new(LONG) else {
        return;
    };
    let _server = networks.server(&with(""));
    let (alice, bob) = phones(&networks);
    // Refused.
    let invite = alice.invite(&bob.aor());
    alice.send(&invite);
    let offered = bob.expect_request("INVITE");
    bob.reply(&offered, 486, "Busy Here", "b");
    let busy = alice.expect_status(&invite, 486);
    bob.expect_request("ACK");
    alice.send(&alice.ack(&invite, &busy));
    // A request in an early dialog, and the caller changes his mind.
    let invite = alice.invite(&bob.aor());
    alice.send(&invite);
    let offered = bob.expect_request("INVITE");
    let ringing = bob.reply(&offered, 183, "Session Progress", "b");
    let progress = alice.expect_status(&invite, 183);
    exchange(
        &alice,
        &bob,
        alice.in_dialog("PRACK", 2, &invite, &progress),
    );
    let update = bob.in_dialog_back("UPDATE", 1, &offered.0, &ringing);
    let (got, _) = exchange(&bob, &alice, update);
    assert_eq!(got.uri(), alice.contact());
    let cancel = alice.cancel(&invite);
    alice.send(&cancel);
    assert_eq!(alice.expect_final(&cancel).status(), 200);
    let cancelled = bob.expect_request("CANCEL");
    bob.reply(&cancelled, 200, "OK", "b");
    bob.reply(&offered, 487, "Request Terminated", "b");
    let ended = alice.expect_status(&invite, 487);
    alice.send(&alice.ack(&invite, &ended));
    bob.expect_request("ACK");
    // A subscription: the notifier's requests come back.
    let mut subscribe = alice.request("SUBSCRIBE", &bob.aor());
    subscribe.push("Contact", format!("<{}>", alice.contact()));
    subscribe.push("Event", "presence");
    alice.send(&subscribe);
    let got = bob.expect_request("SUBSCRIBE");
    let accepted = bob.reply(&got, 200, "OK", "n");
    let accepted_here = alice.expect_status(&subscribe, 200);
    let notify = bob.in_dialog_back("NOTIFY", 1, &got.0, &accepted);
    exchange(&bob, &alice, notify);
    let refresh = alice.in_dialog("SUBSCRIBE", 2, &subscribe, &accepted_here);
    exchange(&alice, &bob, refresh);
}

/// A phone that does not ask for answers to where it sends from.
#[test]
fn answers_go_back_without_rport() {
    let _shared = shared();
    let Some(networks) = Networks::new(LONG) else {
        return;
    };
    let _server = networks.server(&with(""));
    let (alice, bob) = phones(&networks);
    for method in ["REGISTER", "INVITE", "MESSAGE"] {
        let mut request = match method {
            "REGISTER" => alice.register_request(600),
            "INVITE" => alice.invite(&bob.aor()),
            method => alice.request(method, &bob.aor()),
        };
        let via = request.first("Via").expect("a Via").replace(";rport", "");
        request.set("Via", via);
        alice.send(&request);
        if method != "REGISTER" {
            let got = bob.expect_request(method);
            bob.reply(&got, 200, "OK", "b");
        }
        assert_eq!(alice.expect_final(&request).status(), 200, "{method}");
    }
}

/// Requests of the server's own within a call: probes, and the end.
fn the_operator_ends_a_call(config: &str) {
    let _shared = shared();
    let Some(networks) = Networks::new(LONG) else {
        return;
    };
    let server = networks.server(config);
    let [one, two] = &networks.homes;
    let alice = one.phone(PHONE, at(5070), "alice");
    let bob = two.phone(PHONE, (SECOND, 5060).into(), "bob");
    for phone in [&alice, &bob] {
        register(phone);
    }
    let _call = Call::new(&alice, &bob);
    for phone in [&alice, &bob] {
        let probe = phone.peer.expect_within("a probe", LIMIT, |m| {
            m.is_request() && m.method() == "OPTIONS" && m.to_tag().is_some()
        });
        assert_eq!(probe.0.uri(), phone.contact());
        phone.reply(&probe, 200, "OK", "");
    }
    let calls = server.json(&["calls", "list"]);
    let id = calls[0]["id"].as_str().expect("a call").to_owned();
    kill_everybody(&server);
    server.run(&["calls", "end", &id]);
    for phone in [&alice, &bob] {
        let bye = phone
            .peer
            .expect_within("the BYE", LIMIT, |m| m.is_request() && m.method() == "BYE");
        assert_eq!(bye.0.uri(), phone.contact());
        phone.reply(&bye, 200, "OK", "");
    }
}

#[test]
fn own_requests_reach_both() {
    the_operator_ends_a_call(&with_listeners("[calls]\nprobe_interval = \"5s\""));
}

#[test]
fn own_requests_of_a_hidden_call_reach_both() {
    the_operator_ends_a_call(&with_listeners(
        "topology_hiding = \"dialog\"\n[calls]\nprobe_interval = \"5s\"",
    ));
}

/// baresip at both ends.
#[test]
fn real_phones() {
    let _shared = shared();
    let Some(networks) = Networks::new(LONG) else {
        return;
    };
    let server = networks.server(&with(""));
    let [mut alice, mut bob] = [(0, "alice"), (1, "bob")].map(|(home, user)| {
        networks.homes[home]
            .inside
            .within(|| Baresip::start(PHONE, server.address(), user, DOMAIN, ""))
    });
    eventually("both are registered", LIMIT, || {
        (server.number("registrations") == 2).then_some(())
    });
    for caller_hangs_up in [false, true] {
        alice.command("dial", &format!("sip:{}@{DOMAIN}", bob.user));
        bob.expect_event("CALL_INCOMING");
        bob.command("accept", "");
        bob.expect_event("CALL_ESTABLISHED");
        alice.expect_event("CALL_ESTABLISHED");
        kill_everybody(&server);
        let (ends, other) = match caller_hangs_up {
            true => (&mut alice, &mut bob),
            false => (&mut bob, &mut alice),
        };
        ends.command("hangup", "");
        other.expect_event("CALL_CLOSED");
        std::mem::swap(&mut alice, &mut bob);
    }
}

/// Media by way of a relay, which learns where it comes from: what the phones say of themselves leads each to itself.
#[test]
fn media_comes_through() {
    let _shared = shared();
    let Some(networks) = Networks::new(LONG) else {
        return;
    };
    let engine = networks
        .public
        .within(|| Engine::start_at(&[SERVER.to_string()]));
    let server = networks.server(&format!(
        "{DEFAULT}media = \"relay\"\n[[media]]\nname = \"relay\"\nengines = [{{ address = \"{}\" }}]\n",
        engine.address
    ));
    let (alice, bob) = phones(&networks);
    let [one, two] = [0, 1].map(|home| networks.homes[home].inside.within(|| Party::new(PHONE)));
    let mut invite = alice.invite(&bob.aor());
    invite.body = one.sdp().into_bytes();
    alice.send(&invite);
    let offered = bob.expect_request("INVITE");
    let mut answer = offered.0.response(200, "OK", "b");
    answer.push("Contact", format!("<{}>", bob.contact()));
    answer.push("Content-Type", "application/sdp");
    answer.body = two.sdp().into_bytes();
    bob.peer.send(&answer, offered.1);
    let ok = alice.expect_status(&invite, 200);
    alice.send_routed(&alice.ack(&invite, &ok));
    talk(
        (&one, media_address(&ok.body)),
        (&two, media_address(&offered.0.body)),
    );
    drop(server);
}
