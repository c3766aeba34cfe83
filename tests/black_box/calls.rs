//! Calls on record, from the outside: listed, limited, ended, and exact whatever dies.

use std::time::Duration;

use blackbox::machine::eventually;
use blackbox::message::Message;
use blackbox::server::Server;
use blackbox::ua::Ua;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

const CONFIG: &str = r#"
[[listen]]
address = "{ip}:{port}"

[workers]
count = 2
reactors = 2

[[domain]]
name = "example.test"
auth = "none"
user_calls_max = 60

[[profile]]
name = "line"
calls_max = 20
code = 486

[[route]]
match = { domain = "example.test" }
to = "location"
profile = "line"
"#;

/// A call that is up, as its caller knows it.
struct Call {
    invite: Message,
    ok: Message,
    cseq: u32,
}

/// The caller calls bob, who answers. `Err`: the status that it was refused with.
fn call(caller: &Ua, bob: &Ua) -> Result<Call, u16> {
    let invite = caller.invite("sip:bob@example.test");
    caller.send(&invite);
    let answer = caller.peer.expect("an answer or a refusal", |m| {
        blackbox::ua::answers(m, &invite) && m.status() >= 100
    });
    // The 100 says that it goes on.
    if answer.0.status() >= 300 {
        caller.send(&caller.ack(&invite, &answer.0));
        return Err(answer.0.status());
    }
    let at_bob = bob.peer.expect("the INVITE", |m| {
        m.is_request() && m.method() == "INVITE" && m.call_id() == invite.call_id()
    });
    bob.reply(&at_bob, 200, "OK", &blackbox::peer::unique());
    let ok = caller.expect_final(&invite);
    assert_eq!(ok.status(), 200);
    caller.send_routed(&caller.in_dialog("ACK", 1, &invite, &ok));
    Ok(Call {
        invite,
        ok,
        cseq: 1,
    })
}

fn hang_up(caller: &Ua, bob: &Ua, mut call: Call) {
    call.cseq += 1;
    let bye = caller.in_dialog("BYE", call.cseq, &call.invite, &call.ok);
    caller.send_routed(&bye);
    let at_bob = bob.peer.expect("the BYE", |m| {
        m.is_request() && m.method() == "BYE" && m.call_id() == call.invite.call_id()
    });
    bob.reply(&at_bob, 200, "OK", "");
    assert_eq!(caller.expect_final(&bye).status(), 200);
}

fn listed(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let list = server.json(&[&["calls", "list"], arguments].concat());
    list.as_array().cloned().expect("a list")
}

fn phones(server: &Server) -> (Ua, Ua) {
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    assert_eq!(bob.register(600).status(), 200);
    (alice, bob)
}

#[test]
fn a_call_is_listed_shown_and_ended() {
    let server = Server::start_with(CONFIG);
    let (alice, bob) = phones(&server);
    let up = call(&alice, &bob).expect("let in");
    let lines = listed(&server, &["--phase", "confirmed", "--party", "bob@example"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert_eq!(line["call_id"], up.invite.call_id());
    assert_eq!(line["domain"], "example.test");
    assert_eq!(
        line["caller_address"].as_str(),
        Some(alice.peer.address.to_string().as_str())
    );
    assert!(listed(&server, &["--phase", "early"]).is_empty());
    assert!(listed(&server, &["--longer-than", "1h"]).is_empty());
    assert!(listed(&server, &["--domain", "elsewhere.test"]).is_empty());
    let counted: Vec<&str> = line["counted"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(
        counted,
        [
            "profile line",
            "user sip:alice@example.test",
            "user sip:bob@example.test"
        ]
    );
    let id = line["id"].as_str().expect("an id");
    let shown = server.run(&["calls", "show", id]);
    assert!(shown.contains(up.invite.call_id()), "{shown}");
    assert_eq!(server.status()["dialogs"], 1);
    let said = server.json(&["calls", "end", id]);
    assert_eq!(said["ending"], 1);
    for phone in [&alice, &bob] {
        let bye = phone.expect_request("BYE");
        assert_eq!(bye.0.call_id(), up.invite.call_id());
        phone.reply(&bye, 200, "OK", "");
    }
    eventually("the call is off the list", LIMIT, || {
        listed(&server, &[]).is_empty().then_some(())
    });
    let gone = server.command(&["calls", "end", id]);
    assert!(!gone.status.success());
    assert_eq!(server.status()["dialogs"], 0);
}

/// One that rings: its caller is told, its callee is cancelled.
#[test]
fn a_ringing_call_is_ended_by_the_operator() {
    let server = Server::start_with(CONFIG);
    let (alice, bob) = phones(&server);
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let at_bob = bob.expect_request("INVITE");
    bob.reply(&at_bob, 180, "Ringing", "b");
    alice.expect_status(&invite, 180);
    server.run(&["calls", "end", "--all", "--phase", "early"]);
    let cancel = bob.expect_request("CANCEL");
    bob.reply(&cancel, 200, "OK", "b");
    bob.reply(&at_bob, 487, "Request Terminated", "b");
    assert_eq!(alice.expect_final(&invite).status(), 487);
    eventually("the call is off the list", LIMIT, || {
        listed(&server, &[]).is_empty().then_some(())
    });
}

/// It is at its destination from the start, and what is wanted of that one's calls is wanted of it.
#[test]
fn a_call_that_rings_has_a_destination() {
    let server = Server::start_with(CONFIG);
    let (alice, bob) = (server.ua("alice"), server.ua("bob"));
    let lines = Limits {
        profile: 9,
        domain: 9,
        user: 9,
        destination: 9,
    };
    server.write_config(&lines.config(&bob));
    server.reload();
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let at_bob = bob.expect_request("INVITE");
    bob.reply(&at_bob, 180, "Ringing", "b");
    alice.expect_status(&invite, 180);
    let address = bob.peer.address.to_string();
    let list = listed(&server, &["--destination", &address]);
    let [call] = list.as_slice() else {
        panic!("{list:?}");
    };
    assert_eq!(call["destination"], format!("lines sip:{address}"));
    assert!(listed(&server, &["--destination", "elsewhere"]).is_empty());
    server.run(&["calls", "end", "--all", "--destination", &address]);
    let cancel = bob.expect_request("CANCEL");
    bob.reply(&cancel, 200, "OK", "b");
    bob.reply(&at_bob, 487, "Request Terminated", "b");
    assert_eq!(alice.expect_final(&invite).status(), 487);
}

/// Over a stop a call that rings is lost, and takes up nobody's room afterwards.
#[test]
fn a_call_that_rings_at_a_stop_is_over() {
    let config = CONFIG.replace("calls_max = 20", "calls_max = 1");
    let mut server = Server::start_with(&config);
    let (alice, bob) = phones(&server);
    let invite = alice.invite("sip:bob@example.test");
    alice.send(&invite);
    let at_bob = bob.expect_request("INVITE");
    bob.reply(&at_bob, 180, "Ringing", "b");
    alice.expect_status(&invite, 180);
    let second = call(&alice, &bob).err();
    assert_eq!(second, Some(486), "the profile is full");
    server.run(&["stop"]);
    assert!(server.wait_exit().success());
    server.run_again();
    server.wait_ready();
    eventually("the call is off the list", LIMIT, || {
        listed(&server, &[]).is_empty().then_some(())
    });
    let next = call(&alice, &bob).expect("there is room");
    hang_up(&alice, &bob, next);
}

/// Most calls at the same moment: of the profile, of the domain, of a user and at the destination.
struct Limits {
    profile: usize,
    domain: usize,
    user: usize,
    destination: usize,
}

impl Limits {
    /// Calls go to the only destination of a group, and count in four.
    fn config(&self, bob: &Ua) -> String {
        let limits = [
            format!(
                "user_calls_max = {}\ncalls_max = {}",
                self.user, self.domain
            ),
            format!("calls_max = {}\ncode = 486", self.profile),
            format!(
                "to = \"group:lines\"\nprofile = \"line\"\n\n[[group]]\nname = \"lines\"\npolicy = \"least-calls\"\n\
                 [[group.destinations]]\nuri = \"sip:{}\"\ncapacity = {}",
                bob.peer.address, self.destination
            ),
        ];
        CONFIG
            .replace("user_calls_max = 60", &limits[0])
            .replace("calls_max = 20\ncode = 486", &limits[1])
            .replace("to = \"location\"\nprofile = \"line\"", &limits[2])
    }
}

const MANY: usize = 1000;

/// A hundred deaths while calls come and go: the profile, the domain, the users and the destination have room for exactly as many as they say, and the list has
/// exactly those that are up.
#[test]
fn limits_are_exact_after_a_hundred_deaths() {
    const CALLS_MAX: usize = 20;
    let limits = Limits {
        profile: CALLS_MAX,
        domain: MANY,
        user: MANY,
        destination: MANY,
    };
    let server = Server::start_with(CONFIG);
    let (alice, bob) = phones(&server);
    server.write_config(&limits.config(&bob));
    server.reload();
    let mut up: Vec<Call> = Vec::new();
    let mut refused = 0;
    for round in 0..100_usize {
        let workers = server.signalling();
        let victim = workers[round % workers.len()].pid;
        // Before, while and after calls begin and end.
        match round % 3 {
            0 => {
                server.kill_worker(victim);
                begin(&alice, &bob, &mut up, &mut refused);
            }
            1 => {
                begin(&alice, &bob, &mut up, &mut refused);
                server.kill_worker(victim);
            }
            _ => {
                if up.len() > 3 {
                    server.kill_worker(victim);
                    hang_up(&alice, &bob, up.remove(round % up.len()));
                } else {
                    server.kill_worker(victim);
                }
            }
        }
        server.wait_ready();
    }
    while up.len() < CALLS_MAX {
        up.push(call(&alice, &bob).expect("there is room"));
    }
    assert_eq!(call(&alice, &bob).err(), Some(486), "one too many");
    let lines = listed(&server, &[]);
    assert_eq!(lines.len(), CALLS_MAX);
    for call in &up {
        let there = lines
            .iter()
            .any(|line| line["call_id"] == call.invite.call_id());
        assert!(there, "{} is not listed", call.invite.call_id());
    }
    // Each of the others has counted the same calls: with room for one more, there is one more.
    let room = |domain, user, destination| Limits {
        profile: MANY,
        domain,
        user,
        destination,
    };
    for (what, limits, code) in [
        ("domain", room(CALLS_MAX + 1, MANY, MANY), 503),
        ("user", room(MANY, CALLS_MAX + 2, MANY), 486),
        ("destination", room(MANY, MANY, CALLS_MAX + 3), 503),
    ] {
        server.write_config(&limits.config(&bob));
        server.reload();
        let one = call(&alice, &bob);
        up.push(one.unwrap_or_else(|code| panic!("{what}: refused with {code}")));
        assert_eq!(call(&alice, &bob).err(), Some(code), "{what}: one too many");
    }
    for call in up.drain(..) {
        hang_up(&alice, &bob, call);
    }
    eventually("no call is left", LIMIT, || {
        listed(&server, &[]).is_empty().then_some(())
    });
    // All is given back: one call is let in by limits of one, and a second one is not.
    let limits = Limits {
        profile: 1,
        domain: 1,
        user: 1,
        destination: 1,
    };
    server.write_config(&limits.config(&bob));
    server.reload();
    let only = call(&alice, &bob).expect("nothing counts any more");
    assert!(call(&alice, &bob).is_err(), "one too many");
    hang_up(&alice, &bob, only);
    assert_eq!(server.counter("balancer.seats_lost"), 0);
    assert!(refused > 0, "the limit was never reached on the way");
}

fn begin(alice: &Ua, bob: &Ua, up: &mut Vec<Call>, refused: &mut u32) {
    match call(alice, bob) {
        Ok(call) => up.push(call),
        Err(code) => {
            assert_eq!((code, up.len()), (486, 20), "refused with room left");
            *refused += 1;
        }
    }
}
