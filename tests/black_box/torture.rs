//! RFC 4475 and RFC 5118 against a real server: every message gets the verdict that its table has for a server.

use std::collections::HashSet;
use std::time::Duration;

use blackbox::machine::{eventually, fresh_address, shared, test_file};
use blackbox::message::Message;
use blackbox::peer::Peer;
use blackbox::server::Server;
use blackbox::ua::{Ua, answers};

/// example.com is served here, everything else has one next hop.
const CONFIG: &str = r#"
[[listen]]
address = "{ip}:{port}"
transports = ["udp"]

[workers]
count = 2
reactors = 1
pin = "none"

[memory]
limit = "64MiB"

[[domain]]
name = "example.com"
auth = "none"
record_route = true

[[group]]
name = "next"
policy = "round-robin"
destinations = [ { uri = "sip:@NEXT" } ]

[[route]]
to = "group:next"
"#;

struct Row {
    name: String,
    verdict: String,
    bytes: Vec<u8>,
}

fn table(rfc: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(test_file(&format!("torture/{rfc}/verdicts.txt")))
        .expect("a verdict table");
    let rows = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let file = test_file(&format!("torture/{rfc}/{}.sip", words[0]));
        Row {
            name: words[0].to_owned(),
            verdict: words[3].to_owned(),
            bytes: std::fs::read(file).expect("a message"),
        }
    })
    .collect()
}

/// The head of a message as lines, continuation lines with what they continue, and its body.
fn lines(bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("an empty line");
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for line in bytes[..end].split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match lines.last_mut() {
            Some(last) if matches!(line.first(), Some(b' ' | b'\t')) => {
                last.extend_from_slice(b"\r\n");
                last.extend_from_slice(line);
            }
            _ => lines.push(line.to_vec()),
        }
    }
    (lines, bytes[end + 4..].to_vec())
}

/// What a proxy must leave alone: the request line, every header line but those for the way, the body.
fn untouched(bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (mut lines, body) = lines(bytes);
    for line in &mut lines {
        without_alias(line);
    }
    lines.retain(|line| {
        let name = line
            .split(|b| *b == b':')
            .next()
            .unwrap_or_default()
            .trim_ascii()
            .to_ascii_lowercase();
        !["via", "v", "max-forwards", "record-route", "route"]
            .iter()
            .any(|n| n.as_bytes() == name)
    });
    (lines, body)
}

/// Takes the address out of a Contact that a request really came from: these callers name addresses of documents as theirs, so that they stand behind address translation
/// for a proxy.
fn without_alias(line: &mut Vec<u8>) {
    const ALIAS: &[u8] = b";alias=";
    let Some(from) = line.windows(ALIAS.len()).position(|w| w == ALIAS) else {
        return;
    };
    let end = line[from + 1..]
        .iter()
        .position(|b| !(b.is_ascii_alphanumeric() || b"=.~".contains(b)));
    let end = end.map_or(line.len(), |n| from + 1 + n);
    line.drain(from..end);
}

/// A server and those around it. Responses go to the port in the topmost Via, so that a caller needs several.
struct Scene {
    server: Server,
    callers: Vec<Peer>,
    next: Peer,
    /// Asks whether everything before was served.
    ping: Ua,
    /// Via values that were used: their transactions are still there.
    used: HashSet<String>,
}

const PORTS: [u16; 5] = [5060, 5050, 5070, 6050, 19_823];

impl Scene {
    fn new() -> Scene {
        let next = Peer::bind(fresh_address());
        let config = CONFIG.replace("@NEXT", &next.address.to_string());
        let ip = fresh_address();
        let server = Server::start_with(&config);
        Scene {
            callers: PORTS
                .iter()
                .map(|port| Peer::bind_port(ip, *port))
                .collect(),
            ping: Ua::new(ip, server.address(), "ping", "example.com"),
            server,
            next,
            used: HashSet::new(),
        }
    }

    /// What came back for `bytes`, before the answer to a request sent after them.
    fn send(&self, caller: &Peer, bytes: &[u8]) {
        caller.send_bytes(bytes, self.server.address());
    }

    /// Everything that a caller gets before the server has served what it sent.
    fn answers(&self, caller: &Peer) -> Vec<Message> {
        // By the same flow, so that the same slot serves it, and later.
        let mut ping = self.ping.request("OPTIONS", "sip:example.com");
        ping.set(
            "Via",
            format!(
                "SIP/2.0/UDP {};rport;branch={}",
                caller.address,
                ping.branch()
            ),
        );
        caller.send(&ping, self.server.address());
        let mut came = Vec::new();
        loop {
            let (message, _) = caller
                .receive(Duration::from_secs(5))
                .expect("an answer to a ping");
            if answers(&message, &ping) {
                return came;
            }
            came.push(message);
        }
    }

    fn check(&mut self, row: &Row) -> Result<(), String> {
        let text = String::from_utf8_lossy(&row.bytes).into_owned();
        let lower = text.to_ascii_lowercase();
        let port = PORTS
            .iter()
            .position(|port| lower.contains(&format!(":{port};branch")));
        let caller = &self.callers[port.unwrap_or(0)];
        self.send(caller, &row.bytes);
        match row.verdict.as_str() {
            "forward" => self.check_forwarded(caller, row),
            verdict => {
                let finals: Vec<u16> = self
                    .answers(caller)
                    .iter()
                    .map(Message::status)
                    .filter(|code| *code != 100)
                    .collect();
                let expected: Vec<u16> = verdict.parse().ok().into_iter().collect();
                let stray = self.next.receive_now().map(|(m, _)| m.start);
                if finals == expected && stray.is_none() {
                    Ok(())
                } else {
                    Err(format!(
                        "{}: {finals:?} and {stray:?}, not {verdict}",
                        row.name
                    ))
                }
            }
        }
    }

    fn check_forwarded(&self, caller: &Peer, row: &Row) -> Result<(), String> {
        let Some((bytes, from)) = self.next.receive_bytes(Duration::from_secs(5)) else {
            let came: Vec<String> = self.answers(caller).into_iter().map(|m| m.start).collect();
            return Err(format!("{}: not forwarded; {came:?}", row.name));
        };
        if untouched(&bytes) != untouched(&row.bytes) {
            return Err(format!("{}: harmed: {}", row.name, bytes.escape_ascii()));
        }
        // An answer with the Vias that came finds its way back, with those of the caller.
        let (lines, _) = lines(&bytes);
        let wanted = |line: &&Vec<u8>| {
            let name = line
                .split(|b| *b == b':')
                .next()
                .unwrap_or_default()
                .trim_ascii()
                .to_ascii_lowercase();
            ["via", "v", "from", "f", "to", "t", "call-id", "i", "cseq"]
                .iter()
                .any(|n| n.as_bytes() == name)
        };
        let mut answer = b"SIP/2.0 603 No\r\n".to_vec();
        for line in lines.iter().skip(1).filter(wanted) {
            answer.extend_from_slice(line);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        self.next.send_bytes(&answer, from);
        let came = eventually("the answer comes back", Duration::from_secs(5), || {
            let (message, _) = caller.receive_now()?;
            (message.status() >= 200).then_some(message)
        });
        // The ACK to an INVITE, which must not be taken for the next message.
        let is_ack = |m: &Message| m.method() == "ACK";
        if row.bytes.starts_with(b"INVITE") {
            self.next.expect("the ACK of our 603", is_ack);
        }
        (came.status() == 603)
            .then_some(())
            .ok_or_else(|| format!("{}: {}", row.name, came.start))
    }
}

fn check(rfc: &str, least: usize) {
    let _shared = shared();
    let mut scene = Scene::new();
    let mut wrong = Vec::new();
    let rows = table(rfc);
    assert!(rows.len() >= least);
    for row in &rows {
        let (head, _) = lines(&row.bytes);
        let is_via = |line: &&Vec<u8>| line.to_ascii_lowercase().starts_with(b"v");
        let via = head
            .iter()
            .find(is_via)
            .map(|line| String::from_utf8_lossy(line).into_owned());
        let method = head[0]
            .split(|b| *b == b' ')
            .next()
            .unwrap_or_default()
            .to_vec();
        let key = format!(
            "{} {}",
            via.unwrap_or_default(),
            String::from_utf8_lossy(&method)
        );
        if !scene.used.insert(key.clone()) {
            // The RFC uses its branches again.
            assert_eq!(scene.server.restarts(), 0);
            scene = Scene::new();
            scene.used.insert(key);
        }
        wrong.extend(scene.check(row).err());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(scene.server.restarts(), 0, "{}", scene.server.log());
    assert!(scene.server.stop().success());
}

#[test]
fn rfc_4475() {
    check("rfc4475", 49);
}

#[test]
fn rfc_5118() {
    check("rfc5118", 13);
}

/// What the codes of the table do not say.
#[test]
fn what_else_the_answers_say() {
    let _shared = shared();
    let scene = Scene::new();
    let ask = |name: &str| {
        let bytes =
            std::fs::read(test_file(&format!("torture/rfc4475/{name}.sip"))).expect("a message");
        scene.send(&scene.callers[0], &bytes);
        scene.answers(&scene.callers[0]).pop().expect("an answer")
    };
    let answer = ask("bext01");
    assert_eq!(
        answer.values("Unsupported"),
        ["noProxiesSupportThis", "norDoAnyProxiesSupportThis"]
    );
    // Two distinct users whose names hold escaped nulls, and are not cut at them.
    let answer = ask("escnull");
    let contacts = answer.values("Contact");
    assert!(
        contacts
            .iter()
            .any(|c| c.starts_with("<sip:%00@host5.example.com>")),
        "{contacts:?}"
    );
    assert!(
        contacts
            .iter()
            .any(|c| c.starts_with("<sip:%00%00@host5.example.com>")),
        "{contacts:?}"
    );
    // Parameters of the Contact and of its URI are told apart, and an escaped header is kept.
    let answer = ask("cparam01");
    assert!(
        answer.values("Contact")[0].starts_with("<sip:+19725552222@gw1.example.net>;"),
        "{:?}",
        answer.values("Contact")
    );
    let answer = ask("cparam02");
    let both = answer.values("Contact");
    assert!(
        both.iter()
            .any(|c| c.starts_with("<sip:+19725552222@gw1.example.net;unknownparam>")),
        "{both:?}"
    );
    let answer = ask("regescrt");
    assert!(
        answer.values("Contact")[0].contains("?Route=%3Csip:sip.example.com%3E>"),
        "{:?}",
        answer.values("Contact")
    );
    // The second request of the datagram was not served.
    let answer = ask("dblreq");
    assert_eq!((answer.status(), answer.method()), (200, "REGISTER"));
    assert!(scene.next.receive_now().is_none());
}

/// Credentials of a scheme that nobody knows are none.
#[test]
fn unknown_credentials_are_challenged() {
    let _shared = shared();
    let config = CONFIG
        .replace("auth = \"none\"", "auth = \"digest\"")
        .replace("@NEXT", "127.0.0.1:9");
    let server = Server::start_with(&config);
    let caller = Peer::bind_port(fresh_address(), 5060);
    let bytes = std::fs::read(test_file("torture/rfc4475/regaut01.sip")).expect("a message");
    caller.send_bytes(&bytes, server.address());
    let (answer, _) = caller.expect("an answer", |m| m.status() > 100);
    assert_eq!(answer.status(), 401);
    assert!(
        answer
            .first("WWW-Authenticate")
            .is_some_and(|v| v.starts_with("Digest "))
    );
}
