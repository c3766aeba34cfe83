//! Where requests go, and which are refused (RFC 3261 §16.3 to §16.6).

use expect_test::expect;

use super::{check, check_in};
use crate::world::World;

#[test]
fn refusals() {
    check(
        r#"
        show To, Unsupported, Min-Expires, Retry-After
        alice: INVITE sip:nobody@example.org
        alice: ACK
        alice: INVITE sip:bob@example.org
        alice: ACK
        alice: INVITE sip:stranger@elsewhere.example
        alice: INVITE sip:bob@example.org / Max-Forwards: 0
        alice: OPTIONS sip:bob@example.org / Max-Forwards: 0
        alice: INVITE sip:bob@example.org / Proxy-Require: foo, bar
        alice: INVITE http://example.org/
        alice: MESSAGE mailto:bob@example.org
        alice: OPTIONS sip:example.org / Require: 100rel
        alice: INVITE sip:bob@example.org / CSeq: 1 BYE
        alice: INVITE sip:bob@example.org / Call-ID:
        alice: INVITE sip:bob@example.org / Max-Forwards: many
        alice: INVITE sip:bob@example.org / To: "bob <sip:bob@example.org
        alice: CANCEL
        +1s
        count
        "#,
        expect![[r#"
            show To, Unsupported, Min-Expires, Retry-After
            alice: INVITE sip:nobody@example.org
                alice < 404 INVITE
                    To: <sip:nobody@example.org>;tag=%
            alice: ACK
            alice: INVITE sip:bob@example.org
                alice < 480 INVITE
                    To: <sip:bob@example.org>;tag=%
            alice: ACK
            alice: INVITE sip:stranger@elsewhere.example
                alice < 403 INVITE
                    To: <sip:stranger@elsewhere.example>;tag=%
            alice: INVITE sip:bob@example.org / Max-Forwards: 0
                alice < 483 INVITE
                    To: <sip:bob@example.org>;tag=%
            alice: OPTIONS sip:bob@example.org / Max-Forwards: 0
                alice < 200 OPTIONS
                    To: <sip:bob@example.org>;tag=%
            alice: INVITE sip:bob@example.org / Proxy-Require: foo, bar
                alice < 420 INVITE
                    To: <sip:bob@example.org>;tag=%
                    Unsupported: foo, bar
            alice: INVITE http://example.org/
                alice < 416 INVITE
                    To: <http://example.org/>;tag=%
            alice: MESSAGE mailto:bob@example.org
                alice < 416 MESSAGE
                    To: <mailto:bob@example.org>;tag=%
            alice: OPTIONS sip:example.org / Require: 100rel
                alice < 420 OPTIONS
                    To: <sip:example.org>;tag=%
                    Unsupported: 100rel
            alice: INVITE sip:bob@example.org / CSeq: 1 BYE
                alice < 400 BYE
                    To: <sip:bob@example.org>;tag=%
            alice: INVITE sip:bob@example.org / Call-ID:
                alice < 400 INVITE
                    To: <sip:bob@example.org>;tag=%
            alice: INVITE sip:bob@example.org / Max-Forwards: many
                alice < 400 INVITE
                    To: <sip:bob@example.org>;tag=%
            alice: INVITE sip:bob@example.org / To: "bob <sip:bob@example.org
                alice < 400 INVITE
                    To: "bob <sip:bob@example.org
            alice: CANCEL
                alice < 400 CANCEL
                    To: "bob <sip:bob@example.org
            +1s
            count
                messages.requests 16
                rejected.bad_request 7
                rejected.too_many_hops 1
                rejected.bad_extension 2
                rejected.not_found 1
                rejected.unavailable 1
                rejected.by_route 1
                proxy.request_absorbed 4
                transactions.created 2
                messages.answered_here 1
        "#]],
    );
}

#[test]
fn max_forwards() {
    check(
        "
        bob: REGISTER
        show Max-Forwards
        alice: MESSAGE sip:bob@example.org
        bob: 200
        alice: MESSAGE sip:bob@example.org / Max-Forwards: 1
        bob: 200
        alice: MESSAGE sip:bob@example.org / Max-Forwards:
        bob: 200
        alice: MESSAGE sip:bob@example.org / Max-Forwards: 255
        bob: 200
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            show Max-Forwards
            alice: MESSAGE sip:bob@example.org
                bob < MESSAGE sip:bob@10.0.0.2:5060
                    Max-Forwards: 69
            bob: 200
                alice < 200 MESSAGE
            alice: MESSAGE sip:bob@example.org / Max-Forwards: 1
                bob < MESSAGE sip:bob@10.0.0.2:5060
                    Max-Forwards: 0
            bob: 200
                alice < 200 MESSAGE
            alice: MESSAGE sip:bob@example.org / Max-Forwards:
                bob < MESSAGE sip:bob@10.0.0.2:5060
                    Max-Forwards: 70
            bob: 200
                alice < 200 MESSAGE
            alice: MESSAGE sip:bob@example.org / Max-Forwards: 255
                bob < MESSAGE sip:bob@10.0.0.2:5060
                    Max-Forwards: 254
            bob: 200
                alice < 200 MESSAGE
        "#]],
    );
}

#[test]
fn what_comes_back_unchanged_loops_and_what_has_changed_spirals() {
    check(
        "
        open
        show Via
        alice: INVITE sip:bob@10.9.9.9:5060
        alice: ACK
        show
        alice: INVITE sip:carol@10.0.0.9
        trunk: relay sip:carol@10.0.0.5
        carol: 486
        trunk: relay sip:carol@10.0.0.9
        ",
        expect![[r#"
            open
            show Via
            alice: INVITE sip:bob@10.9.9.9:5060
                us < INVITE sip:bob@10.9.9.9:5060
                alice < 100 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                us < 482 INVITE
                us < ACK sip:bob@10.9.9.9:5060
                alice < 482 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            alice: ACK
            show
            alice: INVITE sip:carol@10.0.0.9
                trunk < INVITE sip:carol@10.0.0.9
                alice < 100 INVITE
            trunk: relay sip:carol@10.0.0.5
                carol < INVITE sip:carol@10.0.0.5
                trunk < 100 INVITE
            carol: 486
                carol < ACK sip:carol@10.0.0.5
                trunk < 486 INVITE
            trunk: relay sip:carol@10.0.0.9
                trunk < 482 INVITE
        "#]],
    );
}

#[test]
fn a_strict_router_that_has_a_name() {
    let mut world = World::new(1);
    let at_trunk = vec!["10.0.0.9:5060".parse().expect("an address")];
    world.policy.hosts.insert("strict.example", at_trunk);
    check_in(
        &mut world,
        "
        open
        show Route
        alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.9.9.9;lr>, <sip:strict.example>, <sip:10.0.0.5;lr>
        ",
        expect![[r#"
            open
            show Route
            alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.9.9.9;lr>, <sip:strict.example>, <sip:10.0.0.5;lr>
                trunk < MESSAGE sip:strict.example
                    Route: <sip:10.0.0.5;lr>, <sip:bob@10.0.0.2>
        "#]],
    );
}

#[test]
fn loose_routes_are_followed() {
    check(
        "
        open
        show Route, Max-Forwards
        alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.9.9.9;lr>, <sip:10.0.0.9;lr>, <sip:10.0.0.5;lr>
        trunk: 200
        alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.9.9.9;lr>
        bob: 200
        alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.0.0.9;lr>
        trunk: 200
        ",
        expect![[r#"
            open
            show Route, Max-Forwards
            alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.9.9.9;lr>, <sip:10.0.0.9;lr>, <sip:10.0.0.5;lr>
                trunk < MESSAGE sip:bob@10.0.0.2
                    Route: <sip:10.0.0.9;lr>, <sip:10.0.0.5;lr>
                    Max-Forwards: 69
            trunk: 200
                alice < 200 MESSAGE
            alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.9.9.9;lr>
                bob < MESSAGE sip:bob@10.0.0.2
                    Max-Forwards: 69
            bob: 200
                alice < 200 MESSAGE
            alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.0.0.9;lr>
                trunk < MESSAGE sip:bob@10.0.0.2
                    Route: <sip:10.0.0.9;lr>
                    Max-Forwards: 69
            trunk: 200
                alice < 200 MESSAGE
        "#]],
    );
}

#[test]
fn a_strict_router_after_us() {
    check(
        "
        open
        show Route
        alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.9.9.9;lr>, <sip:10.0.0.9>, <sip:10.0.0.5;lr>
        trunk: 200
        ",
        expect![[r#"
            open
            show Route
            alice: MESSAGE sip:bob@10.0.0.2 / Route: <sip:10.9.9.9;lr>, <sip:10.0.0.9>, <sip:10.0.0.5;lr>
                trunk < MESSAGE sip:10.0.0.9
                    Route: <sip:10.0.0.5;lr>, <sip:bob@10.0.0.2>
            trunk: 200
                alice < 200 MESSAGE
        "#]],
    );
}

#[test]
fn a_strict_router_before_us() {
    check(
        "
        open
        show Route
        alice: BYE sip:10.9.9.9:5060;lr / To: <sip:bob@example.org>;tag=bob / Route: <sip:10.0.0.9;lr>, <sip:bob@10.0.0.2>
        trunk: 200
        alice: BYE sip:10.9.9.9:5060;lr / To: <sip:bob@example.org>;tag=bob / Route: <sip:bob@10.0.0.2>
        bob: 200
        ",
        expect![[r#"
            open
            show Route
            alice: BYE sip:10.9.9.9:5060;lr / To: <sip:bob@example.org>;tag=bob / Route: <sip:10.0.0.9;lr>, <sip:bob@10.0.0.2>
                trunk < BYE sip:bob@10.0.0.2
                    Route: <sip:10.0.0.9;lr>
            trunk: 200
                alice < 200 BYE
            alice: BYE sip:10.9.9.9:5060;lr / To: <sip:bob@example.org>;tag=bob / Route: <sip:bob@10.0.0.2>
                bob < BYE sip:bob@10.0.0.2
            bob: 200
                alice < 200 BYE
        "#]],
    );
}

#[test]
fn two_listeners_are_both_on_the_route() {
    check(
        "
        iris: REGISTER
        show Record-Route, Route, Via
        alice: INVITE sip:iris@example.org
        iris: 200
        alice: ACK
        iris: BYE .
        alice: 200
        alice: INFO .
        iris: 200
        ",
        expect![[r#"
            iris: REGISTER
                iris < 200 REGISTER by 2
            show Record-Route, Route, Via
            alice: INVITE sip:iris@example.org
                iris < INVITE sip:iris@10.1.0.1:5060 by 2
                    Record-Route: <sip:10.8.8.8:5070;lr;td=%>
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
                    Via: SIP/2.0/UDP 10.8.8.8:5070;branch=#1
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
                alice < 100 INVITE
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            iris: 200
                alice < 200 INVITE
                    Record-Route: <sip:10.8.8.8:5070;lr;td=%>
                    Record-Route: <sip:10.9.9.9:5060;lr;td=%>
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-1
            alice: ACK
                iris < ACK sip:iris@10.1.0.1:5060 by 2
                    Via: SIP/2.0/UDP 10.8.8.8:5070;branch=#s2
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-2
            iris: BYE .
                alice < BYE sip:alice@10.0.0.1:5060
                    Via: SIP/2.0/UDP 10.9.9.9:5060;branch=#3
                    Via: SIP/2.0/UDP 10.1.0.1:5060;branch=z9hG4bK-iris-2
            alice: 200
                iris < 200 BYE by 2
                    Via: SIP/2.0/UDP 10.1.0.1:5060;branch=z9hG4bK-iris-2
            alice: INFO .
                iris < INFO sip:iris@10.1.0.1:5060 by 2
                    Via: SIP/2.0/UDP 10.8.8.8:5070;branch=#4
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-3
            iris: 200
                alice < 200 INFO
                    Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-alice-3
        "#]],
    );
}

#[test]
fn path_leads_back_to_the_phone() {
    check(
        "
        show Path, Route, Unsupported, Require
        bob: REGISTER / Path: <sip:10.0.0.9;lr>, <sip:10.0.0.5;lr> / Supported: path
        alice: INVITE sip:bob@example.org
        trunk: 486
        alice: ACK
        bob2: REGISTER / Path: <sip:10.0.0.9;lr>
        ",
        expect![[r#"
            show Path, Route, Unsupported, Require
            bob: REGISTER / Path: <sip:10.0.0.9;lr>, <sip:10.0.0.5;lr> / Supported: path
                bob < 200 REGISTER
                    Path: <sip:10.0.0.9;lr>
                    Path: <sip:10.0.0.5;lr>
            alice: INVITE sip:bob@example.org
                trunk < INVITE sip:bob@10.0.0.2:5060
                    Route: <sip:10.0.0.9;lr>,<sip:10.0.0.5;lr>
                alice < 100 INVITE
            trunk: 486
                trunk < ACK sip:bob@10.0.0.2:5060
                    Route: <sip:10.0.0.9;lr>,<sip:10.0.0.5;lr>
                alice < 486 INVITE
            alice: ACK
            bob2: REGISTER / Path: <sip:10.0.0.9;lr>
                bob2 < 200 REGISTER
        "#]],
    );
}

#[test]
fn rules_reject_and_redirect() {
    let mut world = World::new(1);
    world.policy.rejects.insert("666", 603);
    world
        .policy
        .targets
        .insert("out", vec![proxy::Target::next_hop("sip:10.0.0.9")]);
    check_in(
        &mut world,
        "
        alice: INVITE sip:666@example.org
        alice: ACK
        show Route
        alice: INVITE sip:out@example.org
        trunk: 200
        ",
        expect![[r#"
            alice: INVITE sip:666@example.org
                alice < 603 INVITE
            alice: ACK
            show Route
            alice: INVITE sip:out@example.org
                trunk < INVITE sip:out@example.org
                alice < 100 INVITE
            trunk: 200
                alice < 200 INVITE
        "#]],
    );
}

#[test]
fn names_are_asked_for() {
    let mut world = World::new(1);
    world
        .policy
        .hosts
        .insert("far.example", vec!["10.0.0.5:5060".parse().unwrap()]);
    check_in(
        &mut world,
        "
        open
        alice: INVITE sip:carol@far.example
        carol: 486
        alice: ACK
        alice: INVITE sip:carol@nowhere.example
        alice: ACK
        alice: INVITE sips:carol@10.0.0.5
        alice: INVITE tel:+15551234
        alice: MESSAGE sip:carol@10.0.0.5;transport=tcp
        ",
        expect![[r#"
            open
            alice: INVITE sip:carol@far.example
                alice < 100 INVITE
                carol < INVITE sip:carol@far.example
            carol: 486
                carol < ACK sip:carol@far.example
                alice < 486 INVITE
            alice: ACK
            alice: INVITE sip:carol@nowhere.example
                alice < 100 INVITE
                alice < 500 INVITE
            alice: ACK
            alice: INVITE sips:carol@10.0.0.5
                alice < 416 INVITE
            alice: INVITE tel:+15551234
                alice < 416 INVITE
            alice: MESSAGE sip:carol@10.0.0.5;transport=tcp
                alice < 500 MESSAGE
        "#]],
    );
}

// Without our seal a Route through us and a To tag prove nothing, and policy is asked (§16.4).
#[test]
fn a_made_up_dialog_is_no_way_through_us() {
    check(
        "
        trunk: MESSAGE sip:bob@10.0.0.2 / To: <sip:bob@10.0.0.2>;tag=bob / Route: <sip:10.9.9.9;lr>
        trunk: MESSAGE sip:bob@10.0.0.2 / To: <sip:bob@10.0.0.2>;tag=bob / Route: <sip:10.9.9.9;lr;td=c05g94y9g3xj2>
        trunk: BYE sip:10.9.9.9;lr / To: <sip:bob@10.0.0.2>;tag=bob / Route: <sip:bob@10.0.0.2>
        trunk: ACK sip:bob@10.0.0.2 / To: <sip:bob@10.0.0.2>;tag=bob / Route: <sip:10.9.9.9;lr>
        ",
        expect![[r#"
            trunk: MESSAGE sip:bob@10.0.0.2 / To: <sip:bob@10.0.0.2>;tag=bob / Route: <sip:10.9.9.9;lr>
                trunk < 403 MESSAGE
            trunk: MESSAGE sip:bob@10.0.0.2 / To: <sip:bob@10.0.0.2>;tag=bob / Route: <sip:10.9.9.9;lr;td=c05g94y9g3xj2>
                trunk < 403 MESSAGE
            trunk: BYE sip:10.9.9.9;lr / To: <sip:bob@10.0.0.2>;tag=bob / Route: <sip:bob@10.0.0.2>
                trunk < 403 BYE
            trunk: ACK sip:bob@10.0.0.2 / To: <sip:bob@10.0.0.2>;tag=bob / Route: <sip:10.9.9.9;lr>
        "#]],
    );
}

// §16.4: a maddr that names us only says that the request should come here.
#[test]
fn maddr_that_is_ours_is_taken_off() {
    check(
        "
        bob: REGISTER
        open
        alice: MESSAGE sip:bob@example.org:5060;maddr=10.9.9.9
        bob: 200
        alice: MESSAGE sip:bob@10.0.0.2:5070;maddr=10.8.8.8;transport=udp;x=y
        bob: 200
        alice: MESSAGE sip:bob@10.0.0.2;maddr=10.0.0.5
        carol: 200
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            open
            alice: MESSAGE sip:bob@example.org:5060;maddr=10.9.9.9
                bob < MESSAGE sip:bob@10.0.0.2:5060
            bob: 200
                alice < 200 MESSAGE
            alice: MESSAGE sip:bob@10.0.0.2:5070;maddr=10.8.8.8;transport=udp;x=y
                bob < MESSAGE sip:bob@10.0.0.2;x=y
            bob: 200
                alice < 200 MESSAGE
            alice: MESSAGE sip:bob@10.0.0.2;maddr=10.0.0.5
                carol < MESSAGE sip:bob@10.0.0.2;maddr=10.0.0.5
            carol: 200
                alice < 200 MESSAGE
        "#]],
    );
}

#[test]
fn numbers() {
    let mut world = World::new(1);
    world.policy.open = true;
    let gateway = proxy::Target {
        backups: vec![proxy::Backup::uri("sip:10.0.0.5")],
        ..proxy::Target::next_hop("sip:10.0.0.9")
    };
    world.policy.targets.insert("+1-555", vec![gateway]);
    world
        .policy
        .targets
        .insert("+1-556", vec![proxy::Target::uri("sip:+1556@10.0.0.9")]);
    world.policy.numbers = true;
    check_in(
        &mut world,
        "
        bob: REGISTER
        alice: MESSAGE tel:+1-555
        trunk: 503
        carol: 200
        alice: MESSAGE tel:+1-556
        trunk: 200
        alice: MESSAGE tel:+1-557
        alice: MESSAGE tel:0-1;phone-context=bob
        bob: 200
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            alice: MESSAGE tel:+1-555
                trunk < MESSAGE tel:+1-555
            trunk: 503
                carol < MESSAGE tel:+1-555
            carol: 200
                alice < 200 MESSAGE
            alice: MESSAGE tel:+1-556
                trunk < MESSAGE sip:+1556@10.0.0.9
            trunk: 200
                alice < 200 MESSAGE
            alice: MESSAGE tel:+1-557
                alice < 416 MESSAGE
            alice: MESSAGE tel:0-1;phone-context=bob
                bob < MESSAGE sip:bob@10.0.0.2:5060
            bob: 200
                alice < 200 MESSAGE
        "#]],
    );
}

// Options that a proxy need not understand, and bodies that it does not, are not its business (§16.3 step 5, §16.6 step 1).
#[test]
fn what_is_for_the_callee_passes_as_it_is() {
    check(
        "
        bob: REGISTER
        show Require, Supported, Content-Type, Unsupported
        alice: MESSAGE sip:bob@example.org / Require: whatever, 100rel / Supported: gruu / Content-Type: x/y / body <?>%00 \\u{1}
        bob: 420 / Unsupported: whatever
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            show Require, Supported, Content-Type, Unsupported
            alice: MESSAGE sip:bob@example.org / Require: whatever, 100rel / Supported: gruu / Content-Type: x/y / body <?>%00 \u{1}
                bob < MESSAGE sip:bob@10.0.0.2:5060
                    Require: whatever, 100rel
                    Supported: gruu
                    Content-Type: x/y
            bob: 420 / Unsupported: whatever
                alice < 420 MESSAGE
                    Unsupported: whatever
        "#]],
    );
}

/// What was refused after a look-up is refused when it comes again, whoever has registered meanwhile, also by an heir. The answer is not
/// repeated by itself, and what strangers are refused at the door is not kept.
#[test]
fn a_refused_invite_comes_again() {
    check(
        "
        alice: INVITE sip:bob@example.org
        bob: REGISTER
        alice: again INVITE
        die
        alice: again INVITE
        +3s
        count
        alice: ACK
        alice: again INVITE
        +6s
        count
        alice: INVITE sip:nobody@example.org
        +31s
        alice: again INVITE
        +2s
        count
        alice: INVITE sip:bob@elsewhere.example
        alice: ACK
        count
        ",
        expect![[r#"
            alice: INVITE sip:bob@example.org
                alice < 480 INVITE
            bob: REGISTER
                bob < 200 REGISTER
            alice: again INVITE
                alice < 480 INVITE again
            die
            alice: again INVITE
                alice < 480 INVITE again
            +3s
            count
                messages.requests 4
                rejected.unavailable 1
                proxy.response_retransmitted 2
                transactions.created 1
                transactions.adopted 1
                registrar.updated 1
            alice: ACK
            alice: again INVITE
            +6s
            count
                messages.requests 2
                proxy.request_absorbed 3
                transactions.ended 1
            alice: INVITE sip:nobody@example.org
                alice < 404 INVITE
            +31s
            alice: again INVITE
                alice < 404 INVITE again
            +2s
            count
                messages.requests 2
                rejected.not_found 1
                proxy.response_retransmitted 1
                proxy.no_ack 1
                transactions.created 1
                transactions.ended 1
            alice: INVITE sip:bob@elsewhere.example
                alice < 403 INVITE
            alice: ACK
            count
                messages.requests 2
                rejected.by_route 1
                proxy.request_absorbed 1
        "#]],
    );
}

#[test]
fn a_cancel_for_a_refused_invite() {
    check(
        "
        alice: INVITE sip:nobody@example.org
        alice: CANCEL
        alice: ACK
        ",
        expect![[r#"
            alice: INVITE sip:nobody@example.org
                alice < 404 INVITE
            alice: CANCEL
                alice < 200 CANCEL
            alice: ACK
        "#]],
    );
}
