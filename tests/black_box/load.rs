//! SIPp calls through the server at a steady rate, with registrations that must survive beside them.

use std::time::Duration;

use blackbox::server::Server;
use blackbox::sipp::{Ended, Run, Sipp};
use blackbox::ua::Ua;

/// A caller and a callee at work.
pub(crate) struct Load {
    caller: Sipp,
    callee: Sipp,
    calls: u64,
    seconds: u64,
}

/// How both ended.
pub(crate) struct Report {
    pub(crate) caller: Ended,
    pub(crate) callee: Ended,
    pub(crate) calls: u64,
}

impl Load {
    /// `rate` calls a second for `seconds`; each is set up, acknowledged and ended after 100 ms.
    #[track_caller]
    pub(crate) fn start(server: &Server, rate: u32, seconds: u64, extra: &[&str]) -> Self {
        let callee = Sipp::start(&Run {
            timeout: Duration::from_secs(seconds + 90),
            extra,
            ..Run::callee("callee", server.ip)
        });
        register_contact(&server.ua("callee"), &callee.contact("callee"));
        let calls = u64::from(rate) * seconds;
        let caller = Sipp::start(&Run {
            calls: Some(calls),
            rate,
            timeout: Duration::from_secs(seconds + 60),
            extra,
            ..Run::caller("caller", server.ip, server.address())
        });
        Self {
            caller,
            callee,
            calls,
            seconds,
        }
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.caller.is_over()
    }

    /// Waits for the last call.
    #[track_caller]
    pub(crate) fn end(self) -> Report {
        let caller = self.caller.wait(Duration::from_secs(self.seconds + 70));
        let callee = self.callee.finish(Duration::from_secs(10));
        Report {
            caller,
            callee,
            calls: self.calls,
        }
    }
}

impl Report {
    /// No call failed on either side.
    #[track_caller]
    pub(crate) fn assert_no_call_failed(&self) {
        println!("caller: {:?}", self.caller.statistics);
        println!("callee: {:?}", self.callee.statistics);
        self.caller.assert_clean("caller", self.calls);
        let callee = &self.callee.statistics;
        assert!(
            callee.failed == 0 && callee.unexpected == 0 && callee.successful == self.calls,
            "callee: {callee:?}\n{}",
            self.callee.errors
        );
    }

    pub(crate) fn retransmissions(&self) -> u64 {
        self.caller.statistics.retransmissions + self.callee.statistics.retransmissions
    }
}

/// Registers a Contact that is not the user agent's own.
#[track_caller]
pub(crate) fn register_contact(ua: &Ua, contact: &str) {
    let mut request = ua.register_request(3600);
    request.set("Contact", format!("<{contact}>"));
    let answer = ua.ask(&request);
    assert_eq!(answer.status(), 200, "{}", answer.start);
}

/// Registrations that a storm must not lose.
pub(crate) struct Registrations {
    uas: Vec<Ua>,
}

impl Registrations {
    #[track_caller]
    pub(crate) fn make(server: &Server, count: usize) -> Self {
        let uas: Vec<Ua> = (0..count).map(|n| server.ua(&format!("keep{n}"))).collect();
        for ua in &uas {
            assert_eq!(ua.register(3600).status(), 200);
        }
        Self { uas }
    }

    /// Each is still there, under its own Contact; asked by a REGISTER without Contact.
    #[track_caller]
    pub(crate) fn assert_all_there(&self, server: &Server) {
        for ua in &self.uas {
            let mut query = ua.register_request(0);
            query.remove("Contact").remove("Expires");
            let answer = ua.ask(&query);
            let contacts = answer.values("Contact");
            assert!(
                answer.status() == 200 && contacts.iter().any(|c| c.contains(&ua.contact())),
                "{} is lost: {} {contacts:?}\n{}",
                ua.aor(),
                answer.start,
                server.log()
            );
        }
    }
}
