//! The world by hand: scripted peers, time, deaths.

use std::time::Duration;

use sim::{Aim, Config, PeerId, World};
use tables::{Counter, TRANSACTION};

const POINTS: [&str; 10] = [
    "worker.begun",
    "sim.stepped",
    "sim.answered",
    "worker.settled",
    "worker.served",
    "sim.sending",
    "worker.submitted",
    "worker.done",
    "worker.given_back",
    "takeover.replayed",
];

fn register(world: &mut World, peer: PeerId, user: &str) {
    let (at, proxy) = (world.address(peer), world.settings().listeners[0].address);
    let text = format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK{user}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:{user}@example.org>;tag=1\r\nTo: <sip:{user}@example.org>\r\n\
         Call-ID: {user}\r\nCSeq: 1 REGISTER\r\nContact: <sip:{user}@{at}>\r\nContent-Length: 0\r\n\r\n"
    );
    world.send(peer, proxy, text.as_bytes());
}

fn invite(world: &mut World, peer: PeerId, uri: &str, branch: &str) {
    let (at, proxy) = (world.address(peer), world.settings().listeners[0].address);
    let text = format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK{branch}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@example.org>;tag={branch}\r\nTo: <{uri}>\r\nCall-ID: {branch}\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:a@{at}>\r\nContent-Length: 0\r\n\r\n"
    );
    world.send(peer, proxy, text.as_bytes());
}

fn lines(world: &mut World, peer: PeerId) -> Vec<String> {
    std::iter::from_fn(|| world.receive(peer))
        .map(|(_, packet)| {
            let text = String::from_utf8_lossy(&packet.bytes).into_owned();
            text.lines().next().unwrap_or_default().to_owned()
        })
        .collect()
}

fn rings(config: Config, kill: impl FnOnce(&mut World)) -> (Vec<String>, Vec<String>, u64) {
    let mut world = World::new(1, config);
    let alice = world.peer("10.0.0.1:5060".parse().unwrap());
    let bob = world.peer("10.0.0.2:5060".parse().unwrap());
    register(&mut world, bob, "bob");
    world.pass(Duration::from_millis(100));
    kill(&mut world);
    invite(&mut world, alice, "sip:bob@example.org", "1");
    world.pass(Duration::from_millis(400));
    let heard = (lines(&mut world, alice), lines(&mut world, bob));
    assert_eq!(world.counter(Counter::TransactionsBroken), 0);
    world.pass(Duration::from_secs(300));
    assert_eq!(world.arena().live_rows(TRANSACTION), 0);
    assert_eq!(world.contexts(), 0);
    assert_eq!(world.audit(true), []);
    (heard.0, heard.1, world.deaths())
}

#[test]
fn a_call_rings_wherever_its_worker_dies() {
    for point in POINTS {
        let kill =
            |world: &mut World| (0..2).for_each(|slot| world.kill_at(slot, Aim::At(point, 1)));
        let (alice, bob, deaths) = rings(Config::default(), kill);
        assert!(deaths > 0 || point.starts_with("takeover"), "{point}");
        assert!(
            alice.contains(&"SIP/2.0 100 Trying".to_owned()),
            "{point}: {alice:?}"
        );
        assert!(
            bob.iter()
                .any(|line| line.starts_with("INVITE sip:bob@10.0.0.2:5060 ")),
            "{point}: {bob:?}"
        );
    }
}

#[test]
fn a_seed_is_a_world() {
    let run = |seed| {
        let mut config = Config {
            notes: true,
            ..Config::default()
        };
        config.network.loss = 300;
        config.network.delay_max = Duration::from_millis(90);
        let mut world = World::new(seed, config);
        let alice = world.peer("10.0.0.1:5060".parse().unwrap());
        world.peer("10.0.0.2:5060".parse().unwrap());
        for n in 0..5 {
            invite(
                &mut world,
                alice,
                "sip:nobody@10.0.0.2:5060",
                &n.to_string(),
            );
            invite(&mut world, alice, "sip:bob@example.org", &format!("b{n}"));
            world.pass(Duration::from_secs(3));
            world.kill(n % 2);
        }
        world.pass(Duration::from_secs(300));
        format!("{:?}", world.notes())
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn what_waits_in_a_socket_waits_for_the_heir() {
    let config = Config {
        workers: 1,
        heir_after: Duration::from_millis(300),
        ..Config::default()
    };
    let (alice, bob, deaths) = rings(config, |world| world.kill(0));
    assert_eq!((alice.len(), bob.len(), deaths), (1, 2, 1));
}
