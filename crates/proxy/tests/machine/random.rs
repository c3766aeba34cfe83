//! Anything in any order: plausible and torn messages, ticks, answers, deaths. Nothing panics, nothing stays.

use std::{rc::Rc, time::Duration};

use stdx::Rng;

use crate::world::{Packet, World};

const LINES: [&str; 52] = [
    "alice: INVITE sip:bob@example.org",
    "alice: INVITE sip:both@example.org",
    "alice: INVITE sip:carol@far.example",
    "carol: INVITE sip:bob@example.org / Max-Forwards: 0",
    "iris: INVITE sip:bob@example.org",
    "nat: INVITE sip:iris@example.org / ;rport",
    "alice: INVITE .",
    "alice: ACK",
    "alice: again",
    "alice: again INVITE",
    "alice: CANCEL",
    "alice: BYE .",
    "bob: BYE .",
    "bob: INFO .",
    "bob: REGISTER",
    "bob2: REGISTER",
    "iris: REGISTER",
    "bob: REGISTER / Contact: * / Expires: 0",
    "bob: REGISTER / Path: <sip:10.0.0.9;lr>",
    "alice: OPTIONS sip:example.org",
    "alice: MESSAGE sip:both@example.org",
    "carol: MESSAGE sip:bob@example.org / Route: <sip:10.9.9.9;lr>, <sip:10.0.0.9>, <sip:10.0.0.1;lr>",
    "alice: MESSAGE sip:us@10.9.9.9:5060",
    "trunk: relay sip:bob@example.org",
    "trunk: relay ",
    "bob: 100",
    "bob: 180",
    "bob2: 183",
    "bob: 200",
    "bob2: 200",
    "iris: 200",
    "carol: 200",
    "bob: 486",
    "bob2: 404",
    "bob: 603",
    "trunk: 503",
    "carol: 401 / WWW-Authenticate: Digest realm=x",
    "trunk: 407 / Proxy-Authenticate: Digest realm=y",
    "bob: 200 CANCEL",
    "bob: 487 INVITE",
    "bob2: 487 INVITE",
    "iris: 302",
    "bob: REGISTER / Contact: <sip:bob@10.0.0.2:5060>;q=0.3",
    "bob2: REGISTER / Contact: <sip:bob@10.0.0.3:5060>;q=0.7",
    "bob: 302 / Contact: <sip:away@far.example>;q=0.5, <sip:carol@example.org>, <mailto:x@y>",
    "bob2: 301 / Contact: <sip:bob@example.org>, <sip:x@10.0.0.9>",
    "carol: 503",
    "bob: 503 / Retry-After: 5",
    "alice: INVITE sip:group@example.org",
    "alice: PRACK . / RAck: 1 1 INVITE",
    "bob: again",
    "bob2: again",
];

/// Bytes changed, cut out, doubled or brought in from elsewhere.
fn torn(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=rng.below(3) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.below(bytes.len() as u32) as usize;
        let to = (at + 1 + rng.below(24) as usize).min(bytes.len());
        match rng.below(6) {
            0 => bytes[at] = rng.below(256) as u8,
            1 => drop(bytes.drain(at..to)),
            2 => {
                let part = bytes[at..to].to_vec();
                let place = rng.below(bytes.len() as u32) as usize;
                bytes.splice(place..place, part);
            }
            3 => bytes.truncate(at),
            4 => {
                bytes[at] = *b"\r\n;,<>\"=: @%\0"
                    .get(rng.below(13) as usize)
                    .unwrap_or(&b' ')
            }
            _ => {
                // A whole line once more.
                let start = bytes[..at]
                    .iter()
                    .rposition(|&b| b == b'\n')
                    .map_or(0, |at| at + 1);
                let end = bytes[at..]
                    .iter()
                    .position(|&b| b == b'\n')
                    .map_or(bytes.len(), |end| at + end + 1);
                let line = bytes[start..end].to_vec();
                bytes.splice(end..end, line);
            }
        }
    }
    bytes
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let slots = 1 + rng.below(2) as u16;
    let mut world = World::with(slots, 0);
    world.policy.open = true;
    world.policy.digest = rng.below(8) == 0;
    world.policy.hosts.insert(
        "far.example",
        ["10.0.0.5:5060", "10.0.0.9:5060", "10.0.0.4:5060"]
            .map(|address| address.parse().unwrap())
            .to_vec(),
    );
    world
        .policy
        .hosts
        .insert("near.example", vec!["10.0.0.9:5060".parse().unwrap()]);
    world.policy.targets.insert(
        "both",
        [
            "sip:carol@far.example",
            "sip:trunk@near.example",
            "sip:bob@10.0.0.2",
        ]
        .map(proxy::Target::uri)
        .to_vec(),
    );
    world.policy.targets.insert(
        "group",
        vec![proxy::Target {
            backups: ["sip:far.example", "sip:10.0.0.2"]
                .map(proxy::Backup::uri)
                .to_vec(),
            recurse: true,
            ..proxy::Target::next_hop("sip:near.example")
        }],
    );
    if rng.below(4) == 0 {
        world.policy.unreachable = vec!["10.0.0.9:5060".parse().unwrap()];
    }
    if rng.below(2) == 0 {
        crate::flows::redirecting::prepare(&mut world);
    }
    let mut requests = 0;
    for _ in 0..120 {
        let slot = rng.below(u32::from(slots)) as usize;
        match rng.below(32) {
            0 => world.die(slot),
            1 => {
                let kinds = ["Admit", "Credentials", "Route", "Resolve"];
                world.policy.held = kinds
                    .iter()
                    .filter(|_| rng.below(2) == 0)
                    .map(|&kind| kind.to_owned())
                    .collect();
            }
            2..5 => {
                let millis = [1, 100, 500, 4_000, 33_000, 200_000][rng.below(6) as usize];
                world.pass(Duration::from_millis(millis));
            }
            5..8 => {
                let open = world.slots[slot].held.len() as u32;
                if open > 0 {
                    let ask = world.slots[slot].held[rng.below(open) as usize];
                    world.answer_late(slot, ask);
                }
            }
            8 => world.release(slot, rng.below(2) == 0),
            9 => {
                // Dies somewhere within the next message.
                let point = world.points + u64::from(rng.below(12));
                world.deaths.push(point);
            }
            _ => {
                let line = LINES[rng.below(LINES.len() as u32) as usize];
                let Some(packet) = world.say(line) else {
                    continue;
                };
                requests += 1;
                let packet = match rng.below(4) {
                    0 => Packet {
                        bytes: Rc::from(torn(&packet.bytes, &mut rng)),
                        ..packet
                    },
                    _ => packet,
                };
                world.deliver(slot, vec![packet]);
            }
        }
        let contexts: usize = world.slots.iter().map(|slot| slot.proxy.len()).sum();
        assert!(
            contexts <= requests * 4,
            "{contexts} contexts of {requests} messages"
        );
    }
    world.quiet();
}

/// `SEED=0x5eed0001 cargo test -p proxy --test machine random` runs one.
#[test]
fn anything_in_any_order() {
    let given = std::env::var("SEED").ok().map(|seed| {
        u64::from_str_radix(seed.trim_start_matches("0x"), 16).expect("a seed in hexadecimal")
    });
    let seeds = given.map_or(0x5eed_0000..0x5eed_0000 + 150, |seed| seed..seed + 1);
    for seed in seeds {
        eprintln!("SEED={seed:#x}");
        run(seed);
    }
}
