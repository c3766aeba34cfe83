//! Calls whose media crosses a real rtpengine: RFC 3264 in every place where an offer can be, forks, deaths, and engines that are not there.

mod deaths;
mod engines;
mod offers;

use std::net::SocketAddr;

use blackbox::message::Message;
use blackbox::rtpengine::{Engine, Party, media_address, talk};
use blackbox::server::{DEFAULT, Server};
use blackbox::ua::Ua;

/// A server whose calls have these engines.
fn config(engines: &[SocketAddr], more: &str) -> String {
    let engines: Vec<String> = engines
        .iter()
        .map(|engine| format!("{{ address = \"{engine}\" }}"))
        .collect();
    format!(
        "{DEFAULT}media = \"relay\"\n[[media]]\nname = \"relay\"\nengines = [{}]\n{more}\n",
        engines.join(", ")
    )
}

fn with_sdp(mut message: Message, sdp: &str) -> Message {
    message.set("Content-Type", "application/sdp");
    message.body = sdp.as_bytes().to_vec();
    message
}

fn without_sdp(mut message: Message) -> Message {
    message.remove("Content-Type");
    message.body.clear();
    message
}

/// Answers with SDP.
fn answer(ua: &Ua, request: &(Message, SocketAddr), code: u16, tag: &str, sdp: &str) -> Message {
    let mut response = request.0.response(code, "Fine", tag);
    response.push("Contact", format!("<{}>", ua.contact()));
    let response = with_sdp(response, sdp);
    ua.peer.send(&response, request.1);
    response
}

/// Nothing of a party is in a message for the other, and the engine is.
#[track_caller]
fn hidden(message: &Message, engine: &Engine, party: &Party) -> SocketAddr {
    let text = String::from_utf8_lossy(&message.body).into_owned();
    let own = party.address.port().to_string();
    assert!(!text.contains(&own), "{own} in {text}");
    assert!(
        !text.contains(&format!("{}\r\n", party.address.ip())),
        "{} in {text}",
        party.address
    );
    let length = message.first("Content-Length").and_then(|n| n.parse().ok());
    assert_eq!(length, Some(message.body.len()), "{}", message.start);
    let to = media_address(&message.body);
    assert_eq!(to.ip(), engine.ip, "{text}");
    to
}

/// Two users and their media.
struct World {
    engine: Engine,
    server: Server,
    alice: Ua,
    bob: Ua,
    alices: Party,
    bobs: Party,
}

impl World {
    fn new(more: &str) -> Self {
        Self::with(|config| config, more)
    }

    /// One whose configuration is changed before its server starts.
    fn with(change: impl FnOnce(String) -> String, more: &str) -> Self {
        let engine = Engine::start();
        let server = Server::start_with(&change(config(&[engine.address], more)));
        let (alice, bob) = (server.ua("alice"), server.ua("bob"));
        assert_eq!(bob.register(600).status(), 200);
        Self {
            alices: Party::new(blackbox::machine::fresh_address()),
            bobs: Party::new(blackbox::machine::fresh_address()),
            engine,
            server,
            alice,
            bob,
        }
    }

    /// An INVITE of alice with her SDP, as bob gets it.
    fn ring(&self) -> (Message, (Message, SocketAddr)) {
        let invite = with_sdp(self.alice.invite(&self.bob.aor()), &self.alices.sdp());
        self.alice.send(&invite);
        let offered = self.bob.expect_request("INVITE");
        (invite, offered)
    }

    /// A whole call: the INVITE, alice's view of the answer, bob's view of it, and where each sends media.
    fn call(&self) -> Call {
        let (invite, offered) = self.ring();
        let from_bob = hidden(&offered.0, &self.engine, &self.alices);
        let bobs = answer(&self.bob, &offered, 200, "b", &self.bobs.sdp());
        let answered = self.alice.expect_final(&invite);
        assert_eq!(answered.status(), 200);
        let from_alice = hidden(&answered, &self.engine, &self.bobs);
        self.alice.send_routed(&self.alice.ack(&invite, &answered));
        self.bob.expect_request("ACK");
        Call {
            invite,
            answered,
            offered: offered.0,
            bobs,
            from_alice,
            from_bob,
        }
    }

    fn talk(&self, call: &Call) {
        talk((&self.alices, call.from_alice), (&self.bobs, call.from_bob));
    }

    fn hang_up(&self, call: &Call) {
        let bye = self.alice.in_dialog("BYE", 9, &call.invite, &call.answered);
        self.alice.send_routed(&bye);
        let got = self.bob.expect_request("BYE");
        self.bob.reply(&got, 200, "OK", "b");
        assert_eq!(self.alice.expect_final(&bye).status(), 200);
    }
}

struct Call {
    invite: Message,
    answered: Message,
    /// As bob has them.
    offered: Message,
    bobs: Message,
    from_alice: SocketAddr,
    from_bob: SocketAddr,
}
