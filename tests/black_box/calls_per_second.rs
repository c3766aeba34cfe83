//! SIPp at 200 calls a second: no failed call, no unexpected message, no retransmission, and nothing that the gate of overload control refuses.

use std::time::Duration;

use blackbox::either;
use blackbox::machine::alone;
use blackbox::server::{GATED, Server};
use blackbox::stalls::undisturbed;

use crate::load::Load;

/// A message that waits for T1, 500 ms, is sent once more: no stall of the machine may come near to that, since several add up over a call.
const STALL_MAX: Duration = Duration::from_millis(60);

#[test]
fn two_hundred_calls_a_second() {
    let _alone = alone();
    undisturbed(STALL_MAX, calls_without_copies);
}

fn calls_without_copies() {
    let server = Server::start_with(GATED);
    let load = Load::start(&server, 200, either(10, 60), &[]);
    let report = load.end();
    report.assert_no_call_failed();
    assert_eq!(
        report.retransmissions(),
        0,
        "nobody had a reason to retransmit"
    );
    for counter in [
        "proxy.request_retransmitted",
        "proxy.response_retransmitted",
    ] {
        assert_eq!(server.counter(counter), 0, "{counter}");
    }
    assert_eq!(server.restarts(), 0);
    assert!(server.stop().success());
}

/// Nothing is retransmitted, so nothing may be lost either.
#[test]
fn without_any_retransmission() {
    let _alone = alone();
    undisturbed(STALL_MAX, || {
        let server = Server::start_with(GATED);
        Load::start(&server, 100, either(5, 30), &["-nr"])
            .end()
            .assert_no_call_failed();
        assert!(server.stop().success());
    });
}
