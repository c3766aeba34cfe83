//! RFC 4475 and RFC 5118 through the proxy machine: what a server is to pass on arrives as it came.

use std::path::Path;

use fuzzing::world::{Way, World, address};
use proxy::Datagram;
use sip::build::response;
use sip::{HeaderName, Layout, Message};

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/torture")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn deliver(world: &mut World, bytes: &[u8], source: &str) {
    world.deliver(Datagram {
        bytes,
        source: address(source),
        listener: 1.into(),
        truncated: false,
    });
}

/// Requests among what was sent, where they went, and everything else.
fn sent(world: &World) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    world
        .sent
        .iter()
        .map(|s| s.bytes.clone())
        .partition(|bytes| !bytes.starts_with(b"SIP/"))
}

/// Every header line that a proxy has no business with, and the body: byte for byte, in order.
fn untouched(message: Message<'_>) -> (Vec<Vec<u8>>, Vec<u8>) {
    let ours = |name| {
        matches!(
            name,
            HeaderName::Via | HeaderName::Route | HeaderName::RecordRoute | HeaderName::MaxForwards
        )
    };
    let lines = message.headers().filter(|h| !ours(h.name));
    (
        lines
            .map(|h| h.line.slice(message.bytes()).to_vec())
            .collect(),
        message.body().to_vec(),
    )
}

/// Our Via on top of those that came; a top one may have got its `received` and `rport`.
fn check_vias(name: &str, original: Message<'_>, forwarded: Message<'_>) {
    let values = |m: Message<'_>| -> Vec<Vec<u8>> {
        m.values(HeaderName::Via)
            .map(|v| v.value.to_vec())
            .collect()
    };
    let (came, left) = (values(original), values(forwarded));
    assert_eq!(left.len(), came.len() + 1, "{name}");
    assert_eq!(left[2..], came[1..], "{name}");
    let sent_by = |value: &[u8]| {
        let via = sip::Via::parse(value).expect("a Via");
        via.sent_by_span.slice(value).to_vec()
    };
    assert_eq!(sent_by(&left[1]), sent_by(&came[0]), "{name}");
}

fn passes(name: &str) {
    let bytes = file(name);
    let mut world = World::new();
    world.way = Way::Anywhere;
    deliver(&mut world, &bytes, "192.0.2.50:5060");
    let (requests, responses) = sent(&world);
    assert_eq!(
        requests.len(),
        1,
        "{name}: {:?}",
        responses.last().map(|r| r.escape_ascii().to_string())
    );
    let (mut before, mut after) = (Layout::new(), Layout::new());
    let original = sip::parse(&bytes, &mut before).expect("a message");
    let forwarded = sip::parse(&requests[0], &mut after).expect("a message");
    assert_eq!(untouched(forwarded), untouched(original), "{name}");
    check_vias(name, original, forwarded);
    let (was, is) = (
        original.max_forwards().unwrap(),
        forwarded.max_forwards().unwrap(),
    );
    assert_eq!(is, Some(was.map_or(70, |n| n - 1)), "{name}");
    let (was, is) = (original.request().unwrap(), forwarded.request().unwrap());
    assert_eq!(is.method_text, was.method_text);
    // A strict router finds itself in the Request-URI (§16.6 step 6).
    let strict = original
        .routes()
        .next()
        .is_some_and(|r| r.is_ok_and(|r| !r.lr()));
    if strict {
        let last = forwarded
            .routes()
            .last()
            .expect("a Route")
            .expect("an address");
        assert_eq!(last.uri.text, was.uri, "{name}");
    } else {
        assert_eq!(is.uri, was.uri, "{name}");
    }

    // The answer finds its way back with the Vias that came.
    let mut answer = Vec::new();
    response(forwarded, 200, "", Some(b"callee"), &mut answer)
        .finish()
        .unwrap();
    let to = world.sent.last().expect("a request").to.to_string();
    deliver(&mut world, &answer, &to);
    let (_, responses) = sent(&world);
    let last = responses
        .last()
        .unwrap_or_else(|| panic!("{name}: no answer"));
    let mut layout = Layout::new();
    let answer = sip::parse(last, &mut layout).expect("a message");
    assert_eq!(answer.status().map(|s| s.code), Some(200), "{name}");
    assert_eq!(
        answer.values(HeaderName::Via).count(),
        original.values(HeaderName::Via).count(),
        "{name}"
    );
    for header in [HeaderName::From, HeaderName::CallId, HeaderName::CSeq] {
        let unfolded = |m: Message<'_>| {
            let mut out = Vec::new();
            sip::message::unfold(m.first(header).expect("a header").value, &mut out);
            out
        };
        assert_eq!(unfolded(answer), unfolded(original), "{name}");
    }
    world.quiet();
    world.audit();
}

#[test]
fn what_is_to_be_passed_on_arrives_as_it_came() {
    let mut passed = 0;
    for rfc in ["rfc4475", "rfc5118"] {
        let table = String::from_utf8(file(&format!("{rfc}/verdicts.txt"))).unwrap();
        for line in table
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Two are refused by a server that relays for nobody; the machine alone follows any Route.
            if words[3] == "forward" || words[3] == "403" {
                passes(&format!("{rfc}/{}.sip", words[0]));
                passed += 1;
            }
        }
    }
    assert!(passed >= 25, "{passed}");
}

/// Status lines of `unreason` and `noreason`, in answers that we asked for.
#[test]
fn reason_phrases_pass_as_they_are() {
    for (name, code) in [("unreason", 200), ("noreason", 180)] {
        let bytes = file(&format!("rfc4475/{name}.sip"));
        let end = bytes.windows(2).position(|w| w == b"\r\n").unwrap();
        let reason = &bytes[b"SIP/2.0 200 ".len()..end];
        let mut world = World::new();
        world.way = Way::Anywhere;
        deliver(&mut world, &file("rfc4475/esc01.sip"), "192.0.2.50:5060");
        let request = sent(&world).0.remove(0);
        let mut layout = Layout::new();
        let mut answer = Vec::new();
        let request = sip::parse(&request, &mut layout).unwrap();
        response(request, code, "X", Some(b"t"), &mut answer)
            .finish()
            .unwrap();
        let line = [format!("SIP/2.0 {code} ").as_bytes(), reason, b"\r\n"].concat();
        answer.splice(..b"SIP/2.0 200 X\r\n".len(), line.iter().copied());
        let to = world.sent.last().unwrap().to.to_string();
        deliver(&mut world, &answer, &to);
        let last = sent(&world).1.pop().unwrap();
        assert!(last.starts_with(&line), "{}", last.escape_ascii());
    }
}
