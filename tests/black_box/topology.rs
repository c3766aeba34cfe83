//! Hidden calls: whatever a phone gets has nothing of the other phones in it, and calls go on, whoever dies.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use blackbox::machine::fresh_address;
use blackbox::message::{Message, uri_of};
use blackbox::rtpengine::{Engine, Party, media_address, talk};
use blackbox::server::Server;
use blackbox::ua::Ua;
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(20);

fn config(mode: &str) -> String {
    format!(
        r#"
[[listen]]
address = "{{ip}}:{{port}}"

[workers]
count = 2
reactors = 1

[[domain]]
name = "example.test"
auth = "none"
topology_hiding = {mode}
"#
    )
}

/// What tells of a phone, and whose it is.
type Marks = Rc<RefCell<Vec<(String, String)>>>;

/// A phone that looks through everything it gets for marks of others.
struct Phone {
    ua: Ua,
    marks: Marks,
    cseq: RefCell<u32>,
    /// Where its media are, if they cross a relay.
    media: Option<Party>,
}

/// One end of a call: the message that made it, and what this phone said then.
struct End {
    invite: Message,
    answer: Message,
    calls: bool,
}

impl Phone {
    fn new(server: &Server, marks: &Marks, user: &str) -> Self {
        let ua = Ua::new(fresh_address(), server.address(), user, "example.test");
        let phone = Self {
            ua,
            marks: Rc::clone(marks),
            cseq: RefCell::new(1),
            media: None,
        };
        let address = phone.ua.peer.address;
        phone.mark(address.ip().to_string());
        phone.mark(format!(":{}", address.port()));
        phone.mark(format!("{user}.inside.test"));
        phone
    }

    fn mark(&self, mark: String) {
        self.marks.borrow_mut().push((self.ua.user.clone(), mark));
    }

    fn send(&self, message: &Message) {
        if message.is_request() {
            self.mark(message.branch());
            if !message.call_id().starts_with("th-") {
                self.mark(message.call_id().to_owned());
            }
        }
        self.ua.send_routed(message);
    }

    fn invite(&self, uri: &str) -> Message {
        let mut invite = self.ua.invite(uri);
        let host = format!("{}.inside.test", self.ua.user);
        let tag = blackbox::peer::unique();
        invite.set("From", format!("<sip:{}@{host}>;tag={tag}", self.ua.user));
        invite.push("User-Agent", format!("phone at {host}"));
        invite.push("X-Seen-At", self.ua.peer.address.to_string());
        invite.push(
            "P-Asserted-Identity",
            format!("<sip:{}@{host}>", self.ua.user),
        );
        invite.body = self.sdp();
        invite
    }

    fn with_media(mut self) -> Self {
        let party = Party::new(fresh_address());
        self.mark(party.address.ip().to_string());
        self.media = Some(party);
        self
    }

    fn sdp(&self) -> Vec<u8> {
        if let Some(party) = &self.media {
            return party.sdp().into_bytes();
        }
        let (ip, port) = (self.ua.peer.address.ip(), self.ua.peer.address.port());
        format!(
            "v=0\r\no=x 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n\
             a=candidate:1 1 UDP 1 {ip} {port} typ host\r\na=rtcp:40001 IN IP4 {ip}\r\n"
        )
        .into_bytes()
    }

    /// The next message that is wanted. All that come are looked through.
    #[track_caller]
    fn get(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> (Message, SocketAddr) {
        let end = Instant::now() + LIMIT;
        while let Some((bytes, from)) = self
            .ua
            .peer
            .receive_bytes(end.saturating_duration_since(Instant::now()))
        {
            let others: Vec<String> = self
                .marks
                .borrow()
                .iter()
                .filter(|(user, _)| *user != self.ua.user)
                .map(|(_, mark)| mark.clone())
                .collect();
            let leaks = topology::leak::find(&bytes, &others);
            let text = String::from_utf8_lossy(&bytes);
            assert!(
                leaks.is_empty(),
                "{} got {leaks:?} in\n{text}",
                self.ua.user
            );
            if let Some(message) = Message::parse(&bytes)
                && wanted(&message)
            {
                return (message, from);
            }
        }
        panic!("{} did not get {what}", self.ua.user);
    }

    #[track_caller]
    fn request(&self, method: &str) -> (Message, SocketAddr) {
        self.get(method, |m| m.is_request() && m.method() == method)
    }

    #[track_caller]
    fn answer_to(&self, request: &Message) -> Message {
        self.get(&format!("an answer to {}", request.start), |m| {
            blackbox::ua::answers(m, request) && m.status() >= 200
        })
        .0
    }

    fn reply(&self, request: &(Message, SocketAddr), code: u16, tag: &str) -> Message {
        let mut response = request.0.response(code, "Fine", tag);
        let host = format!("{}.inside.test", self.ua.user);
        response.push("Contact", format!("<{}>", self.ua.contact()));
        response.push("Server", host.clone());
        response.push(
            "Warning",
            format!("399 {host} \"at {}\"", self.ua.peer.address),
        );
        if request.0.method() == "INVITE" && code > 100 {
            response.push("Content-Type", "application/sdp");
            response.body = self.sdp();
        }
        self.ua.peer.send(&response, request.1);
        response
    }

    /// A request within a call.
    fn within(&self, end: &End, method: &str) -> Message {
        let n = match method {
            "ACK" => *self.cseq.borrow(),
            _ => {
                *self.cseq.borrow_mut() += 1;
                *self.cseq.borrow()
            }
        };
        let mut request = match end.calls {
            true => self.ua.in_dialog(method, n, &end.invite, &end.answer),
            false => self.ua.in_dialog_back(method, n, &end.invite, &end.answer),
        };
        if method != "ACK" {
            request.push("Contact", format!("<{}>", self.ua.contact()));
        }
        request
    }
}

/// A call from one to the other, with early media.
fn call(caller: &Phone, callee: &Phone, uri: &str, headers: &[(&str, &str)]) -> (End, End) {
    let mut invite = caller.invite(uri);
    for (name, value) in headers {
        invite.push(name, *value);
    }
    *caller.cseq.borrow_mut() = 1;
    caller.send(&invite);
    let at_callee = callee.request("INVITE");
    let tag = blackbox::peer::unique();
    callee.reply(&at_callee, 183, &tag);
    let answer = callee.reply(&at_callee, 200, &tag);
    let ok = caller.answer_to(&invite);
    assert_eq!(ok.status(), 200);
    assert_eq!(ok.call_id(), invite.call_id());
    let (calling, called) = (
        End {
            invite,
            answer: ok,
            calls: true,
        },
        End {
            invite: at_callee.0,
            answer,
            calls: false,
        },
    );
    caller.send(&caller.within(&calling, "ACK"));
    callee.request("ACK");
    (calling, called)
}

/// A request within the call from one to the other, and its answer.
#[track_caller]
fn exchange(from: (&Phone, &End), to: (&Phone, &End), method: &str) {
    let mut request = from.0.within(from.1, method);
    if method == "INVITE" {
        request.push("Content-Type", "application/sdp");
        request.body = from.0.sdp();
    }
    from.0.send(&request);
    let got = to.0.request(method);
    assert_eq!(got.0.call_id(), to.1.invite.call_id(), "{method}");
    to.0.reply(&got, 200, "");
    assert_eq!(from.0.answer_to(&request).status(), 200, "{method}");
    if method == "INVITE" {
        from.0.send(&from.0.within(from.1, "ACK"));
        to.0.request("ACK");
    }
}

fn phones(server: &Server) -> (Phone, Phone, Phone) {
    let marks = Marks::default();
    let phone = |user| Phone::new(server, &marks, user);
    let all = (phone("alice"), phone("bob"), phone("carol"));
    for phone in [&all.1, &all.2] {
        assert_eq!(phone.ua.register(600).status(), 200);
    }
    all
}

/// Every worker dies once, in turn, in the middle of a call.
fn a_call_over_deaths(mode: &str) {
    let server = Server::start_with(&config(mode));
    let (alice, bob, _) = phones(&server);
    let (a, b) = call(&alice, &bob, "sip:bob@example.test", &[]);
    let doomed: Vec<i32> = server
        .signalling()
        .iter()
        .map(|worker| worker.pid)
        .collect();
    assert_eq!(doomed.len(), 2);
    for pid in doomed {
        server.kill_worker(pid);
        server.wait_ready();
        exchange((&alice, &a), (&bob, &b), "INVITE");
        exchange((&bob, &b), (&alice, &a), "INVITE");
    }
    exchange((&bob, &b), (&alice, &a), "INFO");
    exchange((&alice, &a), (&bob, &b), "BYE");
    assert!(server.stop().success());
}

#[test]
fn a_call_on_record_outlives_every_worker() {
    a_call_over_deaths("true");
}

#[test]
fn a_call_in_tokens_outlives_every_worker() {
    a_call_over_deaths("\"stateless\"");
}

/// From the snapshot that a stop writes.
#[test]
fn a_call_on_record_outlives_a_stop() {
    let mut server = Server::start_with(&config("true"));
    let (alice, bob, _) = phones(&server);
    let (a, b) = call(&alice, &bob, "sip:bob@example.test", &[]);
    server.signal(Signal::SIGTERM);
    assert!(server.wait_exit().success());
    server.run_again();
    server.wait_ready();
    exchange((&alice, &a), (&bob, &b), "INVITE");
    exchange((&bob, &b), (&alice, &a), "INVITE");
    exchange((&alice, &a), (&bob, &b), "BYE");
    assert!(server.stop().success());
}

/// With everything lost but the keys in the state directory.
#[test]
fn a_call_in_tokens_outlives_all_records() {
    let mut server = Server::start_with(&config("\"stateless\""));
    let (alice, bob, _) = phones(&server);
    let (a, b) = call(&alice, &bob, "sip:bob@example.test", &[]);
    server.power_cut();
    server.forget_all_but_the_secret();
    server.run_again();
    server.wait_ready();
    assert_eq!(server.status()["dialogs"], 0);
    exchange((&alice, &a), (&bob, &b), "INVITE");
    exchange((&bob, &b), (&alice, &a), "INVITE");
    exchange((&bob, &b), (&alice, &a), "BYE");
    assert!(server.stop().success());
}

#[test]
fn a_change_of_keys_leaves_calls_alone() {
    let server = Server::start_with(&config("\"stateless\""));
    let (alice, bob, carol) = phones(&server);
    let (a, b) = call(&alice, &bob, "sip:bob@example.test", &[]);
    server.run(&["topology", "rotate"]);
    server.reload();
    exchange((&alice, &a), (&bob, &b), "INVITE");
    exchange((&bob, &b), (&alice, &a), "INFO");
    let (c, d) = call(&bob, &carol, "sip:carol@example.test", &[]);
    exchange((&carol, &d), (&bob, &c), "BYE");
    exchange((&alice, &a), (&bob, &b), "BYE");
    assert!(server.stop().success());
}

/// alice talks to bob, then to carol, and connects the two (RFC 5589 §7).
fn a_transfer(mode: &str) {
    let server = Server::start_with(&config(mode));
    let (alice, bob, carol) = phones(&server);
    let (to_carol, at_carol) = call(&alice, &carol, "sip:carol@example.test", &[]);
    let (a, b) = call(&alice, &bob, "sip:bob@example.test", &[]);
    let target = to_carol.answer.contact_uri().expect("a contact");
    let tag = |value: Option<String>| value.expect("a tag");
    let replaces = format!(
        "{}%3Bto-tag%3D{}%3Bfrom-tag%3D{}",
        to_carol.invite.call_id().replace('@', "%40"),
        tag(to_carol.answer.to_tag()),
        tag(to_carol.invite.from_tag()),
    );
    let mut refer = alice.within(&a, "REFER");
    refer.push("Refer-To", format!("<{target}?Replaces={replaces}>"));
    refer.push("Referred-By", "<sip:alice@alice.inside.test>");
    alice.send(&refer);
    let got = bob.request("REFER");
    bob.reply(&got, 202, "");
    assert_eq!(alice.answer_to(&refer).status(), 202);
    let told = uri_of(got.0.first("Refer-To").expect("a target"));
    let (uri, replaces) = told.split_once("?Replaces=").expect("what it replaces");
    let replaces = replaces.replace("%3B", ";").replace("%3D", "=");
    let (from_bob, new_at_carol) = call(&bob, &carol, uri, &[("Replaces", replaces.as_str())]);
    // carol is told of the call as she knows it.
    let replaced = new_at_carol
        .invite
        .first("Replaces")
        .expect("what it replaces");
    assert_eq!(replaced.split(';').next(), Some(at_carol.invite.call_id()));
    // bob tells alice how it went.
    let mut notify = bob.within(&b, "NOTIFY");
    notify.push("Event", "refer");
    notify.push("Subscription-State", "terminated;reason=noresource");
    notify.push("Content-Type", "message/sipfrag");
    notify.body = format!("SIP/2.0 200 OK\r\nContact: <{}>\r\n", bob.ua.contact()).into_bytes();
    bob.send(&notify);
    let got = alice.request("NOTIFY");
    assert!(got.0.body.starts_with(b"SIP/2.0 200 OK\r\n"));
    alice.reply(&got, 200, "");
    assert_eq!(bob.answer_to(&notify).status(), 200);
    exchange((&carol, &at_carol), (&alice, &to_carol), "BYE");
    exchange((&alice, &a), (&bob, &b), "BYE");
    exchange((&carol, &new_at_carol), (&bob, &from_bob), "INVITE");
    exchange((&bob, &from_bob), (&carol, &new_at_carol), "BYE");
    assert!(server.stop().success());
}

#[test]
fn a_transfer_on_record() {
    a_transfer("true");
}

#[test]
fn a_transfer_in_tokens() {
    a_transfer("\"stateless\"");
}

/// What the operator ends, and a call to nobody.
#[test]
fn requests_of_the_server_itself_are_hidden() {
    let server = Server::start_with(&config("true"));
    let (alice, bob, _) = phones(&server);
    let (a, b) = call(&alice, &bob, "sip:bob@example.test", &[]);
    let list = server.json(&["calls", "list"]);
    let id = list[0]["id"].as_str().expect("a call").to_owned();
    server.run(&["calls", "end", &id]);
    for (phone, end) in [(&alice, &a), (&bob, &b)] {
        let bye = phone.request("BYE");
        assert_eq!(bye.0.call_id(), end.invite.call_id());
        phone.reply(&bye, 200, "");
    }
    let refused = alice.invite("sip:nobody@example.test");
    alice.send(&refused);
    assert_eq!(alice.answer_to(&refused).status(), 404);
    assert!(server.stop().success());
}

/// With a relay for media nothing at all is left in SDP.
#[test]
fn signalling_and_media_are_hidden_together() {
    let engine = Engine::start();
    for mode in ["true", "\"stateless\""] {
        let config = format!(
            "{}media = \"relay\"\n[[media]]\nname = \"relay\"\nengines = [{{ address = \"{}\" }}]\n",
            config(mode),
            engine.address
        );
        let server = Server::start_with(&config);
        let (alice, bob, _) = phones(&server);
        let (alice, bob) = (alice.with_media(), bob.with_media());
        let (a, b) = call(&alice, &bob, "sip:bob@example.test", &[]);
        let parties = |phone: &Phone, end: &End| {
            let got = if end.calls { &end.answer } else { &end.invite };
            assert!(phone.media.is_some());
            media_address(&got.body)
        };
        let (to_bob, to_alice) = (parties(&alice, &a), parties(&bob, &b));
        assert_eq!(
            (to_bob.ip(), to_alice.ip()),
            (engine.ip.into(), engine.ip.into())
        );
        let media = |phone: &'_ Phone| phone.media.as_ref().map(|party| party.address);
        assert_ne!(media(&alice), media(&bob));
        if let (Some(alices), Some(bobs)) = (&alice.media, &bob.media) {
            talk((alices, to_bob), (bobs, to_alice));
        }
        let first = server.signalling().first().map(|worker| worker.pid);
        server.kill_worker(first.expect("a worker"));
        server.wait_ready();
        exchange((&alice, &a), (&bob, &b), "INVITE");
        exchange((&bob, &b), (&alice, &a), "INVITE");
        exchange((&bob, &b), (&alice, &a), "BYE");
        assert!(server.stop().success());
    }
}
