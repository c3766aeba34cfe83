//! Servers with several addresses: listeners of both families, of several addresses, and on all addresses of the machine. On each side
//! everything comes from, and is named by, the address that this side talks to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use blackbox::machine::{eventually, free_port, fresh_address, shared};
use blackbox::message::{Message, param};
use blackbox::server::{DEFAULT, DOMAIN, LIMIT, Server};
use blackbox::ua::{Ua, answers};

const LISTEN: &str = "[[listen]]\naddress = \"{ip}:{port}\"\ntransports = [\"udp\"]\n";

/// A server with these listeners in place of the usual one. Port 0 is one that the kernel chooses.
fn server(listeners: &[&str]) -> Server {
    assert!(DEFAULT.contains(LISTEN));
    let listen: Vec<String> = listeners
        .iter()
        .map(|listener| format!("[[listen]]\n{listener}\n"))
        .collect();
    Server::start_with(&DEFAULT.replace(LISTEN, &listen.concat()))
}

/// The port of the listener on `ip`.
fn port_of(server: &Server, ip: impl Into<IpAddr>) -> u16 {
    let ip = ip.into();
    let status = server.status();
    let listed = status["listeners"].as_array().expect("a list");
    listed
        .iter()
        .filter_map(|listener| listener["address"].as_str()?.parse::<SocketAddr>().ok())
        .find(|address| address.ip() == ip)
        .unwrap_or_else(|| panic!("no listener on {ip}: {listed:?}"))
        .port()
}

/// One side of the server, and the phone that talks to it.
struct Side {
    /// Where its messages come from.
    address: SocketAddr,
    /// How Via and Record-Route name it.
    name: String,
    ua: Ua,
}

impl Side {
    fn new(address: SocketAddr, ua_at: impl Into<IpAddr>, user: &str) -> Self {
        Self {
            address,
            name: address.to_string(),
            ua: Ua::new(ua_at, address, user, DOMAIN),
        }
    }

    fn called(self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self
        }
    }

    #[track_caller]
    fn register(&self) {
        let request = self.ua.register_request(600);
        self.ua.send(&request);
        let answer = self.response(&request, 200);
        let via = answer.first("Via").expect("a Via");
        let at = self.ua.peer.address;
        assert_eq!(param(via, "received"), Some(at.ip().to_string()));
        assert_eq!(param(via, "rport"), Some(at.port().to_string()));
    }

    /// This answer to a request of the phone, which has to come from where the request went.
    #[track_caller]
    fn response(&self, request: &Message, code: u16) -> Message {
        let what = format!("{code} to {}", request.start);
        let (response, from) = self
            .ua
            .peer
            .expect(&what, |m| answers(m, request) && m.status() == code);
        assert_eq!(from, self.address, "{what}");
        response
    }

    /// A request for the phone, which has to come from the address that it names.
    #[track_caller]
    fn request(&self, method: &str) -> (Message, SocketAddr) {
        let (request, from) = self.ua.expect_request(method);
        assert_eq!(from, self.address, "{method}");
        let via = request.first("Via").expect("a Via");
        let sent_by = via.strip_prefix("SIP/2.0/UDP ").expect("UDP");
        let sent_by = sent_by.split(';').next();
        assert_eq!(sent_by, Some(self.name.as_str()), "{via}");
        (request, from)
    }

    fn route(&self, value: &str) -> bool {
        value.starts_with(&format!("<sip:{};lr;", self.name))
    }
}

/// A call that is answered, ended by the callee; `meanwhile` happens as it rings.
#[track_caller]
fn call(near: &Side, far: &Side, meanwhile: impl Fn()) {
    let (alice, bob) = (&near.ua, &far.ua);
    let invite = alice.invite(&bob.aor());
    alice.send(&invite);
    let offered = far.request("INVITE");
    let routes = offered.0.values("Record-Route");
    let sides: &[&Side] = if near.name == far.name {
        &[near]
    } else {
        &[far, near]
    };
    assert_eq!(routes.len(), sides.len(), "{routes:?}");
    for (route, side) in routes.iter().zip(sides) {
        assert!(side.route(route), "{route} for {}", side.name);
    }
    bob.reply(&offered, 180, "Ringing", "bob");
    near.response(&invite, 180);
    meanwhile();
    // A copy is answered by whoever has the transaction now.
    alice.send(&invite);
    near.response(&invite, 180);
    let answer = bob.reply(&offered, 200, "OK", "bob");
    let answered = near.response(&invite, 200);
    alice.send_routed(&alice.ack(&invite, &answered));
    let (ack, _) = far.request("ACK");
    assert_eq!(ack.values("Route"), Vec::<String>::new());

    let hello = alice.in_dialog("OPTIONS", 2, &invite, &answered);
    alice.send_routed(&hello);
    bob.reply(&far.request("OPTIONS"), 200, "OK", "");
    near.response(&hello, 200);

    let bye = bob.in_dialog_back("BYE", 1, &offered.0, &answer);
    bob.send_routed(&bye);
    alice.reply(&near.request("BYE"), 200, "OK", "");
    far.response(&bye, 200);
}

/// One that the caller gives up, with what the callee says to that; `meanwhile` happens as it rings.
#[track_caller]
fn cancelled(near: &Side, far: &Side, meanwhile: impl Fn()) {
    let (alice, bob) = (&near.ua, &far.ua);
    let invite = alice.invite(&bob.aor());
    alice.send(&invite);
    let offered = far.request("INVITE");
    bob.reply(&offered, 180, "Ringing", "bob");
    near.response(&invite, 180);
    meanwhile();
    let cancel = alice.cancel(&invite);
    alice.send(&cancel);
    near.response(&cancel, 200);
    let asked = far.request("CANCEL");
    assert_eq!(asked.0.branch(), offered.0.branch());
    bob.reply(&asked, 200, "OK", "");
    bob.reply(&offered, 487, "Request Terminated", "bob");
    let (ack, _) = far.request("ACK");
    assert_eq!(ack.branch(), offered.0.branch());
    let ended = near.response(&invite, 487);
    alice.send(&alice.ack(&invite, &ended));
}

/// `kill -9` of every worker that serves, and others in their place.
fn kill_workers(server: &Server) {
    let before = server.restarts();
    let workers = server.signalling();
    for worker in &workers {
        server.kill_worker(worker.pid);
    }
    eventually("others serve", LIMIT, || {
        (server.try_restarts()? >= before + workers.len() as u64).then_some(())
    });
    server.wait_ready();
}

/// Calls in both directions, answered and given up, with and without a death while it rings.
fn everything(server: &Server, one: &Side, other: &Side) {
    one.register();
    other.register();
    for (near, far) in [(one, other), (other, one)] {
        call(near, far, || {});
        cancelled(near, far, || {});
    }
    call(one, other, || kill_workers(server));
    cancelled(one, other, || kill_workers(server));
    assert_eq!(server.counter("transport.send_failed"), 0);
}

#[test]
fn between_ipv4_and_ipv6() {
    let _shared = shared();
    let ip = fresh_address();
    let server = server(&[
        &format!("address = \"{ip}:0\""),
        "address = \"[::1]:0\"\nadvertise = \"v6.example.test\"",
        // Nobody's: it must not be taken for one of the others.
        &format!("address = \"{}:0\"", fresh_address()),
    ]);
    let v4 = Side::new((ip, port_of(&server, ip)).into(), fresh_address(), "alice");
    let port = port_of(&server, Ipv6Addr::LOCALHOST);
    let v6 = Side::new(
        (Ipv6Addr::LOCALHOST, port).into(),
        Ipv6Addr::LOCALHOST,
        "bob",
    );
    // A phone without names sends where its requests always go; the server knows its own name again.
    let v6 = v6.called(&format!("v6.example.test:{port}"));
    everything(&server, &v4, &v6);
}

#[test]
fn between_two_addresses_of_one_family() {
    let _shared = shared();
    let (one, other) = (fresh_address(), fresh_address());
    let server = server(&[
        &format!("address = \"{one}:0\""),
        &format!("address = \"{other}:0\""),
    ]);
    let side =
        |ip: Ipv4Addr, user| Side::new((ip, port_of(&server, ip)).into(), fresh_address(), user);
    everything(&server, &side(one, "alice"), &side(other, "bob"));
}

/// `0.0.0.0`: each side has the address that it talks to. Who is called is reached from the address that he has registered at.
#[test]
fn on_every_address() {
    let _shared = shared();
    let server = server(&["address = \"0.0.0.0:0\""]);
    let port = port_of(&server, Ipv4Addr::UNSPECIFIED);
    let reached = fresh_address();
    let side = |user| Side::new((reached, port).into(), fresh_address(), user);
    let (alice, bob) = (side("alice"), side("bob"));
    everything(&server, &alice, &bob);

    // By another address of the same listener.
    let again = Side::new((fresh_address(), port).into(), fresh_address(), "alice");
    again.register();
    let invite = again.ua.invite(&bob.ua.aor());
    again.ua.send(&invite);
    let offered = bob.request("INVITE");
    bob.ua.reply(&offered, 486, "Busy Here", "bob");
    let (ack, _) = bob.request("ACK");
    assert_eq!(ack.branch(), offered.0.branch());
    let busy = again.response(&invite, 486);
    again.ua.send(&again.ua.ack(&invite, &busy));

    // What is answered with no transaction.
    let options = again
        .ua
        .request("OPTIONS", &format!("sip:{}", again.address));
    again.ua.send(&options);
    again.response(&options, 200);
    let nobody = again.ua.request("INVITE", &format!("sip:nobody@{DOMAIN}"));
    again.ua.send(&nobody);
    again.response(&nobody, 404);
}

#[test]
fn on_every_address_of_both_families() {
    let _shared = shared();
    let reached = fresh_address();
    // One port, as usual: what came to it tells the families apart.
    let port = free_port(reached);
    let server = server(&[
        &format!("address = \"0.0.0.0:{port}\""),
        &format!("address = \"[::]:{port}\""),
    ]);
    let alice = Side::new((reached, port).into(), reached, "alice");
    let bob = Side::new(
        (Ipv6Addr::LOCALHOST, port).into(),
        Ipv6Addr::LOCALHOST,
        "bob",
    );
    alice.register();
    bob.register();
    call(&alice, &bob, || {});
    cancelled(&alice, &bob, || {});
    call(&alice, &bob, || kill_workers(&server));
    // The binding knows the address, which the call's own way does not have.
    let invite = bob.ua.invite(&alice.ua.aor());
    bob.ua.send(&invite);
    let offered = alice.request("INVITE");
    alice.ua.reply(&offered, 603, "Decline", "alice");
    alice.request("ACK");
    let declined = bob.response(&invite, 603);
    bob.ua.send(&bob.ua.ack(&invite, &declined));
}
