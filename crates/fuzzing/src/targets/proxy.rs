//! A whole proxy fed with call flows: the input is a list of chunks, divided by 0x1e. A chunk that begins with a byte of
//! 1 to 7 is an operation, anything else a datagram as it is, so that a message alone is an input, too.

use std::cell::RefCell;
use std::time::Duration;

use proxy::Datagram;
use sip::build::response;
use sip::{HeaderName, Layout};

use crate::Source;
use crate::world::{Sent, Way, World, address};

/// Divides chunks.
const DIVIDER: u8 = 0x1e;

/// Chunks that are looked at.
const CHUNKS_MAX: usize = 48;

/// Requests to begin with. `#` is a number that no other request of the run has.
const TEMPLATES: [&str; 10] = [
    "INVITE sip:bob@example.com SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.50;branch=z9hG4bK#;rport\nFrom: <sip:a@x>;tag=1\nTo: <sip:bob@example.com>\nCall-ID: c#\nCSeq: 1 INVITE\nMax-Forwards: 70\nContact: <sip:a@192.0.2.50>\nContent-Type: application/sdp\nContent-Length: 5\n\nv=0\n",
    "REGISTER sip:example.com SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.60;branch=z9hG4bK#\nFrom: <sip:bob@example.com>;tag=1\nTo: <sip:bob@example.com>\nCall-ID: r\nCSeq: # REGISTER\nContact: <sip:bob@192.0.2.60>;q=0.5, <sip:bob@[2001:db8::60]:5062;ob>;expires=60\nContent-Length: 0\n\n",
    "MESSAGE sip:carol@far.example SIP/2.0\nv: SIP/2.0/UDP 192.0.2.50;branch=z9hG4bK#\nf: \"A\" <sip:a@x>;tag=1\nt: <sip:carol@far.example>\ni: m#\nCSeq: 1 MESSAGE\nRoute: <sip:192.0.2.1;lr>,\n <sip:192.0.2.77>, <sip:192.0.2.78;lr>\nl: 2\n\nhi",
    "OPTIONS sip:example.com SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.50:5099;branch=z9hG4bK#\nFrom: <sip:a@x>;tag=1\nTo: <sip:example.com>\nCall-ID: o#\nCSeq: 7 OPTIONS\nMax-Forwards: 0\n\n",
    "SUBSCRIBE sip:bob@example.com;x=y SIP/2.0\nVia: SIP/2.0/UDP [2001:db8::50];branch=z9hG4bK#;received=[2001:db8::51]\nVia: SIP/2.0/TCP a.b\nFrom: sip:a@x;tag=1\nTo: sip:bob@example.com\nCall-ID: s#\nCSeq: 1 SUBSCRIBE\nEvent: presence\nMax-Breadth: 3\n\n",
    "INVITE tel:+1-201-555-0123 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.50\nFrom: <tel:+1>;tag=1\nTo: <tel:+1-201-555-0123>\nCall-ID: t#\nCSeq: 1 INVITE\nProxy-Require: foo\nRequire: 100rel\n\n",
    "INVITE sip:192.0.2.1;lr SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.50;branch=z9hG4bK#\nFrom: <sip:a@x>;tag=1\nTo: <sip:b@x>;tag=2\nCall-ID: d#\nCSeq: 2 INVITE\nRoute: <sip:192.0.2.70>\n\n",
    "INVITE sip:dave@192.0.2.80:5066;maddr=192.0.2.81 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.50;branch=z9hG4bK#;x=\"a\n b\"\nFrom: <sip:a@x>;tag=1\nTo: <sip:b@x>\nCall-ID: e#\nCSeq: 1 INVITE\nTimestamp: 5\nRecord-Route: <sip:192.0.2.3;lr>\n\n",
    "REGISTER sip:example.com SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.60;branch=z9hG4bK#\nFrom: <sip:bob@example.com>;tag=1\nTo: <sip:bob@example.com>\nCall-ID: r\nCSeq: # REGISTER\nContact: *\nExpires: 0\nAuthorization: Digest username=\"bob\", realm=\"example.com\", nonce=\"x\", uri=\"sip:example.com\", response=\"0\"\n\n",
    "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKt\nVia: SIP/2.0/UDP 255.255.255.255\nFrom: <sip:a@x>;tag=1\nTo: <sip:b@x>;tag=2\nCall-ID: f#\nCSeq: 1 INVITE\n\n",
];

const CODES: [u16; 16] = [
    100, 180, 183, 199, 200, 202, 302, 401, 404, 407, 408, 486, 487, 500, 503, 603,
];

/// Unit: milliseconds.
const STEPS: [u64; 8] = [0, 100, 500, 4_000, 32_000, 64_000, 180_000, 300_000];

const METHODS: [&str; 8] = [
    "ACK", "CANCEL", "BYE", "INVITE", "PRACK", "UPDATE", "INFO", "NOTIFY",
];

thread_local! {
    /// A world is left as it was found, so that it serves for many runs: an arena takes longer than a call.
    static WORLD: RefCell<(World, u32)> = RefCell::new((World::new(), 0));
}

pub(crate) fn run(bytes: &[u8]) {
    WORLD.with_borrow_mut(|(world, runs)| {
        let mut flow = Flow {
            world,
            delivered: Vec::new(),
            number: 0,
        };
        for chunk in bytes.split(|b| *b == DIVIDER).take(CHUNKS_MAX) {
            flow.chunk(chunk);
        }
        world.quiet();
        *runs += 1;
        // Takes long, and what it would find stays.
        if *runs % 64 == 1 {
            world.audit();
        }
    });
}

struct Flow<'w> {
    world: &'w mut World,
    /// What was delivered.
    delivered: Vec<Vec<u8>>,
    number: u32,
}

impl Flow<'_> {
    fn chunk(&mut self, chunk: &[u8]) {
        let mut source = Source::new(chunk);
        match chunk.first() {
            None => return,
            Some(1..=7) => {}
            Some(_) => return self.deliver(chunk.to_vec(), "192.0.2.50:5060", 1, false),
        }
        match source.byte() {
            1 => {
                self.number += 1;
                let text = source
                    .of(&TEMPLATES)
                    .replace('\n', "\r\n")
                    .replace('#', &self.number.to_string());
                let bytes = edited(text.into_bytes(), &mut source);
                self.deliver(bytes, "192.0.2.50:5060", 1, false);
            }
            2 => self.respond(&mut source),
            3 => self.world.pass(Duration::from_millis(source.of(&STEPS))),
            4 => self.follow(&mut source),
            5 => {
                self.world.way =
                    source.of(&[Way::Location, Way::Anywhere, Way::Fork, Way::Refused]);
                let byte = source.byte();
                self.world.digest = byte % 4 == 3;
                self.world.hide = match byte / 4 % 3 {
                    1 => Some(topology::Mode::Dialog),
                    2 => Some(topology::Mode::Stateless),
                    _ => None,
                };
            }
            6 => self.deliver(source.rest().to_vec(), "192.0.2.50:5060", 1, true),
            _ => self.deliver(source.rest().to_vec(), "[2001:db8::50]:5060", 3, false),
        }
    }

    fn deliver(&mut self, bytes: Vec<u8>, source: &str, listener: u32, truncated: bool) {
        self.world.deliver(Datagram {
            bytes: &bytes,
            source: address(source),
            listener: listener.into(),
            truncated,
        });
        self.delivered.push(bytes);
    }

    /// One that we sent a request to answers it.
    fn respond(&mut self, source: &mut Source<'_>) {
        let is_request = |sent: &&Sent| !sent.bytes.starts_with(b"SIP/");
        let requests: Vec<Sent> = self.world.sent.iter().filter(is_request).cloned().collect();
        if requests.is_empty() {
            return;
        }
        let sent = &requests[source.below(requests.len())];
        let mut layout = Layout::new();
        let request = sip::parse(&sent.bytes, &mut layout).expect("we sent a message");
        let tag = [b't', b'0' + source.byte() % 3];
        let mut out = Vec::new();
        let made = response(request, source.of(&CODES), "", Some(&tag), &mut out)
            .copy(HeaderName::RecordRoute)
            .header(HeaderName::Contact, b"<sip:callee@192.0.2.61>")
            .finish();
        if made.is_ok() {
            let bytes = edited(out, source);
            let (to, listener) = (sent.to.to_string(), sent.listener);
            self.deliver(bytes, &to, listener, false);
        }
    }

    /// Another request by whoever sent one: its retransmission, an ACK, a CANCEL, one within the dialog.
    fn follow(&mut self, source: &mut Source<'_>) {
        if self.delivered.is_empty() {
            return;
        }
        let bytes = self.delivered[source.below(self.delivered.len())].clone();
        let method = source.of(&METHODS);
        let in_dialog = source.byte() % 2 == 1;
        let Some(text) = self.again(&bytes, method, in_dialog) else {
            return;
        };
        let bytes = edited(text, source);
        self.deliver(bytes, "192.0.2.50:5060", 1, false);
    }

    fn again(&mut self, bytes: &[u8], method: &str, in_dialog: bool) -> Option<Vec<u8>> {
        let mut layout = Layout::new();
        let message = sip::parse(bytes, &mut layout).ok()?;
        let mut patch = sip::Patch::new(message);
        let (line, cseq) = (message.request()?, message.cseq().ok()?);
        let number = cseq.number;
        patch
            .set(HeaderName::CSeq, format!("{number} {method}").as_bytes())
            .ok()?;
        if in_dialog {
            // The last answer to it that went upstream knows the way.
            let answer = self.world.sent.iter().rev().find(|sent| {
                let mut layout = Layout::new();
                sip::parse(&sent.bytes, &mut layout).is_ok_and(|m| {
                    m.status().is_some() && m.call_id().ok() == message.call_id().ok()
                })
            })?;
            let mut layout = Layout::new();
            let answer = sip::parse(&answer.bytes, &mut layout).ok()?;
            patch
                .set(HeaderName::To, answer.first(HeaderName::To)?.value)
                .ok()?;
            patch.remove_all(HeaderName::Route).ok()?;
            let routes: Vec<&[u8]> = answer
                .values(HeaderName::RecordRoute)
                .map(|v| v.value)
                .collect();
            for route in routes {
                patch.push_top(HeaderName::Route, route).ok()?;
            }
            self.number += 1;
            let via = format!("SIP/2.0/UDP 192.0.2.50;branch=z9hG4bKf{}", self.number);
            patch.set(HeaderName::Via, via.as_bytes()).ok()?;
        }
        let mut out = Vec::new();
        patch.write(&mut out);
        let rest = out.get(line.method_text.len()..)?.to_vec();
        Some([method.as_bytes(), &rest].concat())
    }
}

/// Small damage: three bytes each, a place and what is there then.
fn edited(mut bytes: Vec<u8>, source: &mut Source<'_>) -> Vec<u8> {
    for _ in 0..8 {
        if source.is_empty() || bytes.is_empty() {
            break;
        }
        let at = source.below(bytes.len().max(257)) % bytes.len();
        bytes[at] = source.byte();
    }
    bytes
}
