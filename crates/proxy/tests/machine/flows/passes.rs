//! Calls that pass through us more than once, on their way to an application server and back, with phones that leave out which dialog a Route is of.

use proxy::Listener;

use super::{byes::recorded, dialogs::world};
use crate::world::engine;

/// Phones that leave out which dialog it is, in a call that has passed through us twice: the application server in between sees what it is to see, and both passes end.
#[test]
fn a_call_that_has_passed_twice() {
    for staying in ["", " / staying"] {
        for (answer, says) in [
            ("", "alice: BYE . / forgetful"),
            ("", "bob: BYE . / forgetful"),
            (" / forgetful", "bob: BYE . / forgetful"),
            ("", "alice: BYE ."),
            ("", "bob: BYE ."),
        ] {
            let mut world = world(recorded);
            let relayed = match staying {
                "" => "",
                _ => "trunk: relay\n",
            };
            let by = match says.contains("bob") {
                true => "alice: 200 BYE\n",
                false => "bob: 200 BYE\n",
            };
            let passed = match staying {
                "" => "",
                _ => "trunk: pass 200\n",
            };
            let seen = world.play(&format!(
                "show Route\nbob: REGISTER\ntrunk: REGISTER\nalice: INVITE sip:trunk@example.org\ntrunk: relay sip:bob@example.org{staying}\n\
                 bob: 200{answer}\ntrunk: pass 200\n{says}\n{relayed}{by}{passed}calls\ncount\n"
            ));
            assert!(seen.contains("dialogs.ended 2\n"), "{seen}");
            assert!(!seen.contains("astray"), "{seen}");
            let by_server = seen.contains("trunk < BYE ");
            assert_eq!(by_server, !staying.is_empty(), "{seen}");
        }
    }
}

/// The name that we advertise is looked up, and what waits for it is read once more.
#[test]
fn a_call_that_has_passed_twice_by_name() {
    let mut world = world(recorded);
    let at_us = vec!["10.9.9.9:5060".parse().expect("an address")];
    world.policy.hosts.insert("edge.example.net", at_us);
    world.configure(|settings| {
        let listener = &mut settings.listeners[0];
        *listener = Listener::new(1, listener.address, Some("edge.example.net"));
    });
    let seen = world.play(
        "show Route\nbob: REGISTER\ntrunk: REGISTER\nalice: INVITE sip:trunk@example.org\ntrunk: relay sip:bob@example.org\n\
         bob: 200\ntrunk: pass 200\nhold Resolve\nalice: BYE . / forgetful\nrelease\nbob: 200 BYE\ncount\n",
    );
    assert!(seen.contains("dialogs.ended 2\n"), "{seen}");
}

/// The same while a media engine is asked.
#[test]
fn a_call_that_has_passed_twice_and_waits_for_an_engine() {
    let mut world = world(recorded);
    let up = "bob: REGISTER\ntrunk: REGISTER\nalice: INVITE sip:trunk@example.org\ntrunk: relay sip:bob@example.org\nbob: 200\ntrunk: pass 200\n";
    engine::relay(&mut world);
    let seen = world.play(&format!(
        "{up}hold Media\nalice: INVITE . / forgetful / Content-Type: application/sdp / body x\nengine\n"
    ));
    assert!(
        seen.contains("us < INVITE sip:bob@10.0.0.2:5060\n"),
        "{seen}"
    );
    assert!(!seen.contains("403"), "{seen}");
}

/// An application server that forks through us: each of its calls has two dialogs of ours.
#[test]
fn a_fork_of_a_call_that_has_passed_twice() {
    let mut world = world(recorded);
    let seen = world.play(
        "bob: REGISTER\ncarol: REGISTER\ntrunk: REGISTER\nalice: INVITE sip:trunk@example.org\n\
         trunk: relay sip:bob@example.org\ntrunk: relay sip:carol@example.org\nbob: 200\ntrunk: pass 200\ncarol: 200\ntrunk: pass 200\n\
         alice: BYE . / forgetful\ncarol: 200 BYE\ncalls\n",
    );
    let still = |who: &str| {
        let of = |line: &&str| line.contains("Confirmed") && line.contains(who);
        seen.lines().filter(of).count()
    };
    assert_eq!((still("sip:bob@"), still("sip:carol@")), (2, 0), "{seen}");
}

/// A callee who adds Record-Routes in our name does not have us talk to ourselves.
#[test]
fn record_routes_in_our_name() {
    let mut world = world(recorded);
    let ours = "<sip:10.9.9.9:5060;lr>";
    let seen = world.play(&format!(
        "bob: REGISTER\nalice: INVITE sip:bob@example.org\nbob: 200 / Record-Route: {ours}, {ours}, {ours}\nalice: ACK\nalice: BYE .\nbob: 200 BYE\n\
         calls\ncount\n"
    ));
    assert!(seen.contains("bob < ACK "), "{seen}");
    assert!(seen.contains("bob < BYE "), "{seen}");
    assert!(seen.contains("dialogs.ended 1"), "{seen}");
    assert!(seen.contains("proxy.forwarded_stateless 1\n"), "{seen}");
}
