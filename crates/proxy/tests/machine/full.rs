//! A full arena: new requests are turned away, and what is there already goes on.

use tables::{Counter, LOCATION, TRANSACTION};

use crate::world::{World, agent};

/// Fills the arena with calls that ring, until one is refused; how many there are.
fn fill(world: &mut World) -> usize {
    for call in 0.. {
        world.play("alice: INVITE sip:bob@example.org");
        let last = world.agent("alice").inbox.last().unwrap().clone();
        if agent::code(&last) == Some(503) {
            assert_eq!(agent::header(&last, "Retry-After"), "5");
            return call;
        }
        assert!(call < 100_000, "the arena has an end");
    }
    unreachable!()
}

fn last_code(world: &mut World, name: &str) -> Option<u16> {
    agent::code(world.agent(name).inbox.last()?)
}

#[test]
fn new_requests_are_refused_and_old_ones_go_on() {
    let mut world = World::with(1, 0);
    world.play("bob: REGISTER");
    world.play("carol: REGISTER");
    // A call that is up, and one that rings, before anything is short.
    world.play(
        "
        carol: INVITE sip:bob@example.org
        bob: 180
        bob: 200
        carol: ACK
        trunk: INVITE sip:bob@example.org
        bob: 180
        ",
    );
    let calls = fill(&mut world);
    assert!(calls > 50, "only {calls} calls fit");
    assert!(world.counter(Counter::Full) > 0);

    // Refreshes and removals are changes of what there is.
    for _ in 0..20 {
        world.play("bob: REGISTER");
        assert_eq!(last_code(&mut world, "bob"), Some(200));
    }
    world.play("carol: REGISTER / Contact: * / Expires: 0");
    assert_eq!(last_code(&mut world, "carol"), Some(200));

    // The ringing call is answered, also a caller's CANCEL is served, and retransmissions are absorbed.
    world.play("trunk: again INVITE");
    assert_eq!(last_code(&mut world, "trunk"), Some(180));
    world.play("trunk: CANCEL");
    assert_eq!(last_code(&mut world, "trunk"), Some(200));

    // Hanging up is possible: what belongs to a dialog goes on without a transaction.
    for _ in 0..20 {
        world.play("carol: BYE .");
        world.play("bob: 200 BYE");
        assert_eq!(last_code(&mut world, "carol"), Some(200));
    }

    // Whoever ends a call is heard: the rows of calls that end make room.
    world.pass(std::time::Duration::from_secs(33));
    world.pass(std::time::Duration::from_secs(33));
    world.play("carol: BYE .");
    world.play("bob: 200 BYE");
    assert_eq!(last_code(&mut world, "carol"), Some(200));
    world.play("alice: INVITE sip:bob@example.org");
    assert_eq!(last_code(&mut world, "alice"), Some(100));
    world.quiet();
}

#[test]
fn answers_pass_while_it_is_full() {
    let mut world = World::with(1, 0);
    world.play("bob: REGISTER");
    world.play("bob2: REGISTER");
    world.play("trunk: INVITE sip:bob@example.org");
    fill(&mut world);
    // Kept responses are changes too: the best of two, with the ACKs for both.
    world.agent("bob").inbox.truncate(2);
    world.agent("bob2").inbox.truncate(2);
    world.play("bob: 404");
    world.play("bob2: 486");
    assert_eq!(last_code(&mut world, "trunk"), Some(404));
    world.play("trunk: ACK");
    world.quiet();
    assert_eq!(world.arena.live_rows(TRANSACTION), 0);
    assert_eq!(world.arena.live_rows(LOCATION), 1);
}

#[test]
fn a_worker_dies_while_it_is_full() {
    let mut world = World::with(1, 0);
    world.play("bob: REGISTER");
    let calls = fill(&mut world);
    world.die(0);
    world.adopt_all(0);
    assert_eq!(world.slots[0].proxy.len(), calls);
    world.play("alice: INVITE sip:bob@example.org");
    assert_eq!(last_code(&mut world, "alice"), Some(503));
    world.quiet();
    world.play("alice: INVITE sip:bob@example.org");
    assert_eq!(last_code(&mut world, "alice"), Some(100));
    world.quiet();
}

/// New questions need memory too: without it the request is turned away, or served again later, but nothing is lost in the arena.
#[test]
fn waiting_requests_in_a_full_arena() {
    let mut world = World::with(1, 0);
    world.play("bob: REGISTER");
    fill(&mut world);
    world.policy.held = vec!["Route".to_owned()];
    for _ in 0..20 {
        world.play("alice: INVITE sip:bob@example.org");
        world.play("carol: MESSAGE sip:bob@example.org");
    }
    world.quiet();
}
