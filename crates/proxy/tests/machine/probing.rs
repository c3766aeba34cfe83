//! Probes of destinations: what is sent, and whose answer counts.

use proxy::{Input, OutcomeKind, Outputs, Probe};
use shm::RowRef;
use stdx::Instant;

use crate::world::{Packet, World, agent};

const SENT_AT: Instant = Instant::from_nanos(1_000_000_000_123);

fn probe(world: &World, slot: usize) -> String {
    let probe = Probe {
        resource: RowRef {
            index: 5,
            generation: 9,
        },
        uri: b"sip:10.0.0.9:5060",
        to: "10.0.0.9:5060".parse().unwrap(),
        sent_at: SENT_AT,
    };
    let mut out = Outputs::default();
    assert!(world.slots[slot].proxy.probe(&probe, &mut out));
    let [send] = out.sends.as_slice() else {
        panic!("one datagram");
    };
    assert_eq!(send.to, probe.to);
    String::from_utf8(out.text(send).to_vec()).unwrap()
}

/// What a slot makes of an answer.
fn hear(world: &mut World, slot: usize, request: &str, status: &str) -> Vec<OutcomeKind> {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.lines().skip(1) {
        if ["Via", "From", "To", "Call-ID", "CSeq"]
            .iter()
            .any(|name| line.starts_with(&format!("{name}:")))
        {
            text += &format!("{line}\r\n");
        }
    }
    text += "Content-Length: 0\r\n\r\n";
    let packet = Packet {
        bytes: text.into_bytes().into(),
        source: "10.0.0.9:5060".parse().unwrap(),
        listener: 1,
    };
    world.step(slot, Input::Datagram(packet.datagram()));
    let outcomes = std::mem::take(&mut world.slots[slot].out.outcomes);
    world.slots[slot].out.clear();
    for outcome in &outcomes {
        assert_eq!(
            (outcome.resource.index, outcome.resource.generation),
            (5, 9)
        );
    }
    outcomes.into_iter().map(|outcome| outcome.kind).collect()
}

#[test]
fn a_probe_is_a_request_like_any_other() {
    let world = World::new(2);
    let text = probe(&world, 0);
    assert!(text.starts_with("OPTIONS sip:10.0.0.9:5060 SIP/2.0\r\n"));
    let header = |name| agent::header(&text, name);
    assert!(header("Via").starts_with("SIP/2.0/UDP 10.9.9.9:5060;branch=z9hG4bKp"));
    assert_eq!(header("CSeq"), "1 OPTIONS");
    assert_eq!(header("Max-Forwards"), "70");
    assert!(header("From").starts_with("<sip:10.9.9.9:5060>;tag="));
    assert_eq!(header("To"), "<sip:10.0.0.9:5060>");
    let mut layout = sip::Layout::new();
    assert!(layout.read(text.as_bytes()).is_ok());
    // Sent again it is the same, by whichever slot.
    assert_eq!(probe(&world, 0), text);
    assert_eq!(probe(&world, 1), text);
}

#[test]
fn any_slot_understands_the_answer_and_nobody_else_makes_one() {
    let mut world = World::new(2);
    let text = probe(&world, 0);
    let said = |code| {
        vec![OutcomeKind::Probed {
            code,
            sent_at: SENT_AT,
        }]
    };
    assert_eq!(hear(&mut world, 1, &text, "200 OK"), said(200));
    assert_eq!(hear(&mut world, 0, &text, "503 No"), said(503));
    assert_eq!(
        hear(&mut world, 0, &text, "100 Trying"),
        [],
        "not an answer yet"
    );
    let branch = agent::header(&text, "Via").to_owned();
    let forged = text.replace(&branch, &branch.replace("z9hG4bKp", "z9hG4bKt"));
    assert_eq!(hear(&mut world, 0, &forged, "200 OK"), []);
    let last = branch.chars().last().unwrap();
    let other = if last == '2' { '3' } else { '2' };
    let forged = text.replace(&branch, &format!("{}{other}", &branch[..branch.len() - 1]));
    assert_eq!(hear(&mut world, 0, &forged, "200 OK"), []);
    let forged = text.replace("1 OPTIONS", "1 INVITE");
    assert_eq!(hear(&mut world, 0, &forged, "200 OK"), []);
    world.quiet();
}
