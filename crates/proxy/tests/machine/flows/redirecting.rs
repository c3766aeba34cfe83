//! Redirections (RFC 3261 §16.7 steps 4 and 6): followed where the domain wants it, else for the caller.

use expect_test::{Expect, expect};

use super::check_in;
use crate::world::World;

/// Redirections of users of example.org are followed.
pub fn prepare(world: &mut World) {
    world.configure(|settings| {
        for domain in &mut settings.domains {
            domain.recurse = true;
        }
    });
}

fn check(script: &str, expect: Expect) {
    let mut world = World::new(1);
    prepare(&mut world);
    world.play("bob: REGISTER");
    check_in(&mut world, script, expect);
}

#[test]
fn contacts_are_tried_in_order() {
    check(
        "
        alice: INVITE sip:bob@example.org
        bob: 302 / Contact: <sip:away@10.0.0.5;x=1?Subject=no>;q=0.2 / Contact: <sip:desk@10.0.0.3>, <sip:desk@10.0.0.4>
        bob2: 486
        bob3: 404
        carol: 180
        carol: 200
        alice: ACK
        count
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 302 / Contact: <sip:away@10.0.0.5;x=1?Subject=no>;q=0.2 / Contact: <sip:desk@10.0.0.3>, <sip:desk@10.0.0.4>
                bob < ACK sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:desk@10.0.0.3
                bob3 < INVITE sip:desk@10.0.0.4
            bob2: 486
                bob2 < ACK sip:desk@10.0.0.3
            bob3: 404
                bob3 < ACK sip:desk@10.0.0.4
                carol < INVITE sip:away@10.0.0.5;x=1
            carol: 180
                alice < 180 INVITE
            carol: 200
                alice < 200 INVITE
            alice: ACK
                carol < ACK sip:carol@10.0.0.5:5060
            count
                messages.requests 3
                messages.responses 5
                proxy.forwarded 4
                proxy.forwarded_stateless 1
                proxy.response_forwarded 2
                transactions.created 1
                registrar.updated 1
                proxy.next_targets 2
                proxy.redirected 1
                dialogs.created 1
                dialogs.confirmed 1
        "#]],
    );
}

#[test]
fn a_circle_ends() {
    check(
        "
        carol: REGISTER
        alice: INVITE sip:bob@example.org
        bob: 302 / Contact: <sip:carol@example.org>
        carol: 302 / Contact: <sip:bob@example.org> / Contact: <sip:bob@10.0.0.2:5060;again>
        alice: ACK
        ",
        expect![[r#"
            carol: REGISTER
                carol < 200 REGISTER
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 302 / Contact: <sip:carol@example.org>
                bob < ACK sip:bob@10.0.0.2:5060
                carol < INVITE sip:carol@10.0.0.5:5060
            carol: 302 / Contact: <sip:bob@example.org> / Contact: <sip:bob@10.0.0.2:5060;again>
                carol < ACK sip:carol@10.0.0.5:5060
                alice < 480 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn what_cannot_be_followed_is_left_to_the_caller() {
    check(
        "
        show Contact
        alice: INVITE sip:bob@example.org
        bob: 300 / Contact: <sips:bob@10.0.0.9>;q=0.1, <sip:bob@10.0.0.5> / Contact: <mailto:bob@example.org>
        carol: 486
        alice: ACK
        ",
        expect![[r#"
            show Contact
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    Contact: <sip:alice@10.0.0.1:5060>
                alice < 100 INVITE
            bob: 300 / Contact: <sips:bob@10.0.0.9>;q=0.1, <sip:bob@10.0.0.5> / Contact: <mailto:bob@example.org>
                bob < ACK sip:bob@10.0.0.2:5060
                carol < INVITE sip:bob@10.0.0.5
                    Contact: <sip:alice@10.0.0.1:5060>
            carol: 486
                carol < ACK sip:bob@10.0.0.5
                alice < 300 INVITE
                    Contact: <sips:bob@10.0.0.9>;q=0.1
                    Contact: <mailto:bob@example.org>
            alice: ACK
        "#]],
    );
}

#[test]
fn use_proxy() {
    check(
        "
        alice: INVITE sip:bob@example.org
        bob: 305 / Contact: <sip:10.0.0.9>
        trunk: 200
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 305 / Contact: <sip:10.0.0.9>
                bob < ACK sip:bob@10.0.0.2:5060
                trunk < INVITE sip:bob@example.org
            trunk: 200
                alice < 200 INVITE
            alice: ACK
                trunk < ACK sip:trunk@10.0.0.9:5060
        "#]],
    );
}

#[test]
fn a_380_is_for_the_caller() {
    check(
        "
        alice: INVITE sip:bob@example.org
        bob: 380 / Contact: <sip:bob@10.0.0.9>
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 380 / Contact: <sip:bob@10.0.0.9>
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 380 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn the_number_of_targets_is_bounded() {
    let mut world = World::new(1);
    prepare(&mut world);
    world.configure(|settings| settings.branches_max = 3);
    world.play("bob: REGISTER");
    check_in(
        &mut world,
        "
        show Contact
        alice: INVITE sip:bob@example.org
        bob: 302 / Contact: <sip:a@10.0.0.3>, <sip:b@10.0.0.4>, <sip:c@10.0.0.5>, <sip:d@10.0.0.9>
        bob2: 486
        bob3: 486
        alice: ACK
        ",
        expect![[r#"
            show Contact
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    Contact: <sip:alice@10.0.0.1:5060>
                alice < 100 INVITE
            bob: 302 / Contact: <sip:a@10.0.0.3>, <sip:b@10.0.0.4>, <sip:c@10.0.0.5>, <sip:d@10.0.0.9>
                bob < ACK sip:bob@10.0.0.2:5060
                bob2 < INVITE sip:a@10.0.0.3
                    Contact: <sip:alice@10.0.0.1:5060>
                bob3 < INVITE sip:b@10.0.0.4
                    Contact: <sip:alice@10.0.0.1:5060>
            bob2: 486
                bob2 < ACK sip:a@10.0.0.3
            bob3: 486
                bob3 < ACK sip:b@10.0.0.4
                alice < 302 INVITE
                    Contact: <sip:c@10.0.0.5>
                    Contact: <sip:d@10.0.0.9>
            alice: ACK
        "#]],
    );
}

#[test]
fn a_caller_who_gives_up_is_not_sent_on() {
    check(
        "
        alice: INVITE sip:bob@example.org
        bob: 180
        alice: CANCEL
        bob: 302 INVITE / Contact: <sip:carol@10.0.0.5>
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 180
                alice < 180 INVITE
            alice: CANCEL
                alice < 200 CANCEL
                bob < CANCEL sip:bob@10.0.0.2:5060
            bob: 302 INVITE / Contact: <sip:carol@10.0.0.5>
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 302 INVITE
            alice: ACK
        "#]],
    );
}

#[test]
fn contacts_of_all_branches_for_a_caller_who_follows_them() {
    let mut world = World::new(1);
    check_in(
        &mut world,
        "
        bob: REGISTER
        bob2: REGISTER
        bob3: REGISTER
        show Contact
        alice: INVITE sip:bob@example.org
        bob: 302 / Contact: <sip:one@10.0.0.5>
        bob2: 301 / Contact: <sip:two@10.0.0.5>, <sip:three@10.0.0.5>
        bob3: 407 / Proxy-Authenticate: Digest realm=x
        alice: ACK
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            bob2: REGISTER
                bob2 < 200 REGISTER
            bob3: REGISTER
                bob3 < 200 REGISTER
            show Contact
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    Contact: <sip:alice@10.0.0.1:5060>
                bob2 < INVITE sip:bob@10.0.0.3:5060
                    Contact: <sip:alice@10.0.0.1:5060>
                bob3 < INVITE sip:bob@10.0.0.4:5060
                    Contact: <sip:alice@10.0.0.1:5060>
                alice < 100 INVITE
            bob: 302 / Contact: <sip:one@10.0.0.5>
                bob < ACK sip:bob@10.0.0.2:5060
            bob2: 301 / Contact: <sip:two@10.0.0.5>, <sip:three@10.0.0.5>
                bob2 < ACK sip:bob@10.0.0.3:5060
            bob3: 407 / Proxy-Authenticate: Digest realm=x
                bob3 < ACK sip:bob@10.0.0.4:5060
                alice < 301 INVITE
                    Contact: <sip:two@10.0.0.5>, <sip:three@10.0.0.5>
                    Contact: <sip:one@10.0.0.5>
            alice: ACK
        "#]],
    );
}

#[test]
fn within_a_dialog_nothing_is_followed() {
    check(
        "
        alice: INVITE sip:bob@example.org
        bob: 200
        alice: ACK
        show Contact
        alice: INVITE .
        bob: 302 INVITE / Contact: <sip:carol@10.0.0.5>
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 200
                alice < 200 INVITE
            alice: ACK
                bob < ACK sip:bob@10.0.0.2:5060
            show Contact
            alice: INVITE .
                bob < INVITE sip:bob@10.0.0.2:5060
                    Contact: <sip:alice@10.0.0.1:5060>
                alice < 100 INVITE
            bob: 302 INVITE / Contact: <sip:carol@10.0.0.5>
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 302 INVITE
                    Contact: <sip:carol@10.0.0.5>
            alice: ACK
        "#]],
    );
}
