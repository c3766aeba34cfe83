//! Parties behind address translation: reached where their messages come from, through a call in both directions.

use expect_test::expect;

use super::check_in;
use crate::world::World;

pub fn detecting(world: &mut World) {
    world.configure(|settings| settings.registrar.nat = registrar::NatRule::Auto);
}

fn world() -> World {
    let mut world = World::new(1);
    detecting(&mut world);
    world
}

#[test]
fn a_caller_behind_nat() {
    check_in(
        &mut world(),
        "
        bob: REGISTER
        show Contact
        nat: INVITE sip:bob@example.org
        bob: 180
        bob: 200
        nat: ACK
        calls
        bob: INFO .
        nat: 200
        bob: BYE .
        nat: 200
        ",
        expect![[r#"
            bob: REGISTER
                bob < 200 REGISTER
            show Contact
            nat: INVITE sip:bob@example.org
                bob < INVITE sip:bob@10.0.0.2:5060
                    Contact: <sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1>
                nat < 100 INVITE
            bob: 180
                nat < 180 INVITE
                    Contact: <sip:bob@10.0.0.2:5060>
            bob: 200
                nat < 200 INVITE
                    Contact: <sip:bob@10.0.0.2:5060>
            nat: ACK
                bob < ACK sip:bob@10.0.0.2:5060
                    Contact: <sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1>
            calls
                Confirmed nat-1 sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1 1 -> sip:bob@10.0.0.2:5060 0
            bob: INFO .
                nat < INFO sip:nat@192.168.1.5:5060
                    Contact: <sip:bob@10.0.0.2:5060>
            nat: 200
                bob < 200 INFO
                    Contact: <sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1>
            bob: BYE .
                nat < BYE sip:nat@192.168.1.5:5060
                    Contact: <sip:bob@10.0.0.2:5060>
            nat: 200
                bob < 200 BYE
                    Contact: <sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1>
        "#]],
    );
}

#[test]
fn a_callee_behind_nat() {
    check_in(
        &mut world(),
        "
        nat: REGISTER
        show Contact
        alice: INVITE sip:nat@example.org
        nat: 180
        nat: 200
        alice: ACK
        calls
        alice: INFO .
        nat: 200
        nat: INFO .
        alice: 200
        end
        nat: 200 BYE & alice: 200 BYE
        +2s
        calls
        ",
        expect![[r#"
            nat: REGISTER
                nat < 200 REGISTER
            show Contact
            alice: INVITE sip:nat@example.org
                nat < INVITE sip:nat@192.168.1.5:5060
                    Contact: <sip:alice@10.0.0.1:5060>
                alice < 100 INVITE
            nat: 180
                alice < 180 INVITE
                    Contact: <sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1>
            nat: 200
                alice < 200 INVITE
                    Contact: <sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1>
            alice: ACK
                nat < ACK sip:nat@192.168.1.5:5060
                    Contact: <sip:alice@10.0.0.1:5060>
            calls
                Confirmed alice-1 sip:alice@10.0.0.1:5060 1 -> sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1 0
            alice: INFO .
                nat < INFO sip:nat@192.168.1.5:5060
                    Contact: <sip:alice@10.0.0.1:5060>
            nat: 200
                alice < 200 INFO
                    Contact: <sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1>
            nat: INFO .
                alice < INFO sip:alice@10.0.0.1:5060
                    Contact: <sip:nat@192.168.1.5:5060;alias=203.0.113.7~40000~1>
            alice: 200
                nat < 200 INFO
                    Contact: <sip:alice@10.0.0.1:5060>
            end
                alice < BYE sip:alice@10.0.0.1:5060
                nat < BYE sip:nat@192.168.1.5:5060
            nat: 200 BYE & alice: 200 BYE
            +2s
            calls
        "#]],
    );
}

/// What leads to them is in the tokens, or on record; in stateless mode there is no record that could help.
#[test]
fn hidden_parties_behind_nat() {
    let play = |hide| {
        let mut world = world();
        world.policy.hide = hide;
        world.policy.untracked = hide == Some(topology::Mode::Stateless);
        let log = world.play(
            "
            bob: REGISTER
            nat: REGISTER
            nat: INVITE sip:bob@example.org
            bob: 183
            bob: UPDATE .
            nat: 200
            bob: 200 INVITE
            nat: ACK
            bob: INFO .
            nat: 200
            bob: BYE .
            nat: 200
            alice: INVITE sip:nat@example.org
            nat: 183
            alice: UPDATE .
            nat: 200
            nat: 200 INVITE
            alice: ACK
            alice: INFO .
            nat: 200
            alice: BYE .
            nat: 200
            ",
        );
        // The log names whoever has an address; only one of the two leads there.
        let lost = world
            .sent
            .iter()
            .find(|wire| wire.to.to_string() == "192.168.1.5:5060");
        assert!(lost.is_none(), "{hide:?}: {lost:?}");
        log
    };
    let plain = play(None);
    assert!(
        plain.contains("nat < BYE sip:nat@192.168.1.5:5060"),
        "{plain}"
    );
    for mode in [topology::Mode::Dialog, topology::Mode::Stateless] {
        assert_eq!(play(Some(mode)), plain, "{mode:?}");
    }
}

/// Outside of a dialog an address in the Request-URI says nothing: we would be a relay to anywhere.
#[test]
fn an_address_of_a_stranger_is_not_obeyed() {
    check_in(
        &mut world(),
        "
        open
        alice: INVITE sip:carol@10.0.0.5;alias=10.0.0.9~5060~1
        carol: 486
        alice: ACK
        alice: BYE sip:carol@10.0.0.5;alias=10.0.0.9~5060~1 / To: <sip:carol@10.0.0.5>;tag=x
        ",
        expect![[r#"
            open
            alice: INVITE sip:carol@10.0.0.5;alias=10.0.0.9~5060~1
                carol < INVITE sip:carol@10.0.0.5;alias=10.0.0.9~5060~1
                alice < 100 INVITE
            carol: 486
                carol < ACK sip:carol@10.0.0.5;alias=10.0.0.9~5060~1
                alice < 486 INVITE
            alice: ACK
            alice: BYE sip:carol@10.0.0.5;alias=10.0.0.9~5060~1 / To: <sip:carol@10.0.0.5>;tag=x
                carol < BYE sip:carol@10.0.0.5;alias=10.0.0.9~5060~1
        "#]],
    );
}
