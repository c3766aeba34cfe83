//! Two slots over one arena: every message finds the slot that owns its transaction, and of two that take a request at once one has it.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use proxy::{Disposition, Input};

use crate::world::{Packet, World, agent};

fn check(script: &str, expect: Expect) {
    let mut world = World::new(2);
    expect.assert_eq(&world.play(script));
    world.quiet();
}

#[test]
fn messages_find_their_owner() {
    check(
        "
        @1 bob: REGISTER
        alice: INVITE sip:bob@example.org
        @1 alice: again INVITE
        @1 bob: 180
        @1 alice: CANCEL
        @1 bob: 200 CANCEL
        bob: 487 INVITE
        @1 alice: ACK
        @1 alice: INVITE sip:bob@example.org
        bob: 200
        @1 alice: ACK
        bob: BYE .
        @1 bob: again BYE
        @1 alice: 200
        count
        ",
        expect![[r#"
            @1 bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            @1 alice: again INVITE
                to slot 0
                alice < 100 INVITE again
            @1 bob: 180
                to slot 0
                alice < 180 INVITE
            @1 alice: CANCEL
                to slot 0
                alice < 200 CANCEL
                bob < CANCEL sip:bob@10.0.0.2:5060
            @1 bob: 200 CANCEL
                to slot 0
            bob: 487 INVITE
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 487 INVITE
            @1 alice: ACK
                to slot 0
            @1 alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                to slot 1
                alice < 200 INVITE
            @1 alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            bob: BYE .
                alice < BYE sip:alice@10.0.0.1:5060
            @1 bob: again BYE
                to slot 0
            @1 alice: 200
                to slot 0
                bob < 200 BYE
            count
                messages.requests 9
                messages.responses 5
                proxy.forwarded 3
                proxy.forwarded_stateless 1
                proxy.response_retransmitted 1
                proxy.request_absorbed 3
                proxy.response_forwarded 4
                proxy.response_absorbed 1
                proxy.cancelled 1
                transactions.created 3
                registrar.updated 1
                dialogs.created 2
                dialogs.confirmed 1
                dialogs.ended 2
        "#]],
    );
}

#[test]
fn bindings_are_everybodys() {
    check(
        "
        show Contact
        bob: REGISTER
        @1 bob2: REGISTER
        bob: REGISTER / Contact:
        @1 bob: REGISTER / Contact: <sip:bob@10.0.0.2:5060>;expires=0
        bob: REGISTER / Contact:
        @1 bob: again
        ",
        expect![[r#"
            show Contact
            bob: REGISTER
                bob < 200 REGISTER
                    Contact: <sip:bob@10.0.0.2:5060>;expires=3600
            @1 bob2: REGISTER
                bob2 < 200 REGISTER
                    Contact: <sip:bob@10.0.0.2:5060>;expires=3600
                    Contact: <sip:bob@10.0.0.3:5060>;expires=3600
            bob: REGISTER / Contact:
                bob < 200 REGISTER
                    Contact: <sip:bob@10.0.0.2:5060>;expires=3600
                    Contact: <sip:bob@10.0.0.3:5060>;expires=3600
            @1 bob: REGISTER / Contact: <sip:bob@10.0.0.2:5060>;expires=0
                bob < 200 REGISTER
                    Contact: <sip:bob@10.0.0.3:5060>;expires=3600
            bob: REGISTER / Contact:
                bob < 200 REGISTER
                    Contact: <sip:bob@10.0.0.3:5060>;expires=3600
            @1 bob: again
                bob < 200 REGISTER again
                    Contact: <sip:bob@10.0.0.3:5060>;expires=3600
        "#]],
    );
}

#[test]
fn the_owner_dies_and_mail_waits_for_the_heir() {
    check(
        "
        bob: REGISTER
        alice: INVITE sip:bob@example.org
        @1 bob: 180
        die
        @1 bob: 200
        die
        @1 alice: again INVITE
        @1 alice: ACK
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            @1 bob: 180
                to slot 0
                alice < 180 INVITE
            die
            @1 bob: 200
                to slot 0
                alice < 200 INVITE
            die
            @1 alice: again INVITE
                to slot 0
            @1 alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
        "#]],
    );
}

/// What a slot does with a datagram, one part at a time.
struct Serving {
    slot: usize,
    packet: Packet,
    part: u8,
    tries: u8,
    done: Option<Disposition>,
}

impl Serving {
    fn advance(&mut self, world: &mut World) {
        let datagram = self.packet.datagram();
        match self.part {
            0 => {
                let disposition = world.step(self.slot, Input::Datagram(datagram));
                match disposition {
                    Disposition::Served => self.part = 1,
                    _ => self.end(world, disposition),
                }
            }
            1 | 2 => {
                // One answer at a time, as if each took its time.
                match world.slots[self.slot].out.asks.pop() {
                    Some(ask) => assert!(world.answer(self.slot, ask, Some(datagram))),
                    None => self.part = 3,
                }
            }
            _ => {
                let disposition = world.settle(self.slot, Some(datagram));
                self.end(world, disposition);
            }
        }
    }

    fn end(&mut self, world: &mut World, disposition: Disposition) {
        world.slots[self.slot].out.asks.clear();
        if disposition == Disposition::Again && self.tries < 8 {
            self.tries += 1;
            self.part = 0;
            return;
        }
        self.done = Some(disposition);
        world.dispatch(self.slot);
    }
}

/// Every way in which two slots can take turns.
#[test]
fn one_of_two_has_the_request() {
    let mut outcomes = BTreeSet::new();
    for order in 0..1_u32 << 8 {
        let mut world = World::with(2, 0);
        world.play("bob: REGISTER");
        world.play("bob2: REGISTER");
        let packet = world.say("alice: INVITE sip:bob@example.org").unwrap();
        let mut both = [0, 1].map(|slot| Serving {
            slot,
            packet: packet.clone(),
            part: 0,
            tries: 0,
            done: None,
        });
        let mut bits = order;
        while both.iter().any(|one| one.done.is_none()) {
            let mut at = (bits & 1) as usize;
            bits >>= 1;
            if both[at].done.is_some() {
                at = 1 - at;
            }
            both[at].advance(&mut world);
        }
        let done = both.map(|one| one.done.unwrap());
        outcomes.insert(format!("{done:?}"));
        let owner = match done {
            [Disposition::Served, Disposition::Owner(0)] => 0,
            [Disposition::Owner(1), Disposition::Served] => 1,
            // Served after the other: it met the other's transaction only at the very end.
            other => panic!("order {order:#b}: {other:?}"),
        };
        assert_eq!(world.slots[owner].proxy.len(), 1, "order {order:#b}");
        assert_eq!(world.slots[1 - owner].proxy.len(), 0, "order {order:#b}");
        world.flush();
        let branches: BTreeSet<_> = world
            .sent
            .iter()
            .filter(|wire| wire.text.starts_with("INVITE "))
            .map(|wire| (wire.to, agent::header(&wire.text, "Via").to_owned()))
            .collect();
        assert_eq!(
            branches.len(),
            2,
            "order {order:#b}: each phone rings under one branch"
        );
        if order.is_multiple_of(16) {
            world.quiet();
        } else {
            world.audit_running();
        }
    }
    expect![[r#"
        [Owner(1), Served]
        [Served, Owner(0)]"#]]
    .assert_eq(&outcomes.into_iter().collect::<Vec<_>>().join("\n"));
}
