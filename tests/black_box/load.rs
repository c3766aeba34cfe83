//! SIPp calls through the server at a steady rate, with registrations that must survive beside them.

use std::time::{Duration, Instant};

use blackbox::server::Server;
use blackbox::sipp::{Ended, Run, Sipp};
use blackbox::ua::Ua;

/// Callers and callees at work. Each caller has a socket for every call and there are several callees, so
/// that the flows spread over all slots and much of the traffic crosses from one to another.
pub(crate) struct Load {
    pairs: Vec<(Sipp, Sipp)>,
    calls: u64,
    seconds: u64,
}

/// How they ended.
pub(crate) struct Report {
    callers: Vec<Ended>,
    callees: Vec<Ended>,
    /// Calls of each pair.
    calls: u64,
}

const PAIRS: u32 = 2;

impl Load {
    /// `rate` calls a second for `seconds`; each is set up, acknowledged and ended after 100 ms.
    #[track_caller]
    pub(crate) fn start(server: &Server, rate: u32, seconds: u64, extra: &[&str]) -> Self {
        let timeout = Duration::from_secs(seconds + 90);
        let rate = rate / PAIRS;
        let calls = u64::from(rate) * seconds;
        let users: Vec<String> = (0..PAIRS).map(|n| format!("callee{n}")).collect();
        let callees: Vec<Sipp> = users
            .iter()
            .map(|user| {
                let callee = Sipp::start(&Run {
                    timeout,
                    extra,
                    ..Run::callee("callee", server.ip)
                });
                register_contact(&server.ua(user), &callee.contact(user));
                callee
            })
            .collect();
        let extra = [&["-t", "un"], extra].concat();
        let callers = users.iter().map(|user| {
            Sipp::start(&Run {
                calls: Some(calls),
                rate,
                service: user,
                timeout,
                extra: &extra,
                ..Run::caller("caller", server.ip, server.address())
            })
        });
        Self {
            pairs: callers.zip(callees).collect(),
            calls,
            seconds,
        }
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.pairs.iter_mut().all(|pair| pair.0.is_over())
    }

    /// Does something again and again until the last call is over, for the first time after `first`.
    pub(crate) fn meanwhile(&mut self, first: Duration, every: Duration, mut work: impl FnMut()) {
        let mut next = Instant::now() + first;
        for (caller, _) in &mut self.pairs {
            while !caller.is_over_within(next.saturating_duration_since(Instant::now())) {
                next += every;
                work();
            }
        }
    }

    /// Waits for the last call of the callers. Callees are not asked: what a flood has lost they would wait for.
    #[track_caller]
    pub(crate) fn end_of_callers(self) -> Report {
        let limit = self.limit();
        Report {
            callers: self.pairs.into_iter().map(|(c, _)| c.wait(limit)).collect(),
            callees: Vec::new(),
            calls: self.calls,
        }
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.seconds + 70)
    }

    /// Waits for the last call.
    #[track_caller]
    pub(crate) fn end(self) -> Report {
        let limit = self.limit();
        let mut report = Report {
            callers: Vec::new(),
            callees: Vec::new(),
            calls: self.calls,
        };
        for (caller, callee) in self.pairs {
            report.callers.push(caller.wait(limit));
            report.callees.push(callee.finish(Duration::from_secs(30)));
        }
        report
    }
}

impl Report {
    /// No call failed on either side, and nothing unexpected came.
    #[track_caller]
    pub(crate) fn assert_no_call_failed(&self) {
        assert_eq!(self.callers.len(), self.callees.len(), "all were asked");
        for (caller, callee) in self.callers.iter().zip(&self.callees) {
            println!("caller: {:?}", caller.statistics);
            println!("callee: {:?}", callee.statistics);
        }
        for (caller, callee) in self.callers.iter().zip(&self.callees) {
            caller.assert_clean("caller", self.calls);
            let s = &callee.statistics;
            assert!(
                s.failed == 0 && s.unexpected == 0 && s.successful == self.calls,
                "callee: {s:?}\n{}",
                callee.errors
            );
        }
    }

    /// Every call was set up and ended, as the callers see it.
    #[track_caller]
    pub(crate) fn assert_callers_content(&self) {
        for caller in &self.callers {
            caller.assert_clean("caller", self.calls);
        }
    }

    pub(crate) fn retransmissions(&self) -> u64 {
        let all = self.callers.iter().chain(&self.callees);
        all.map(|ended| ended.statistics.retransmissions).sum()
    }
}

/// AORs that [`Load`] registers.
pub(crate) const REGISTERED: u64 = PAIRS as u64;

/// Registers a Contact that is not the user agent's own.
#[track_caller]
pub(crate) fn register_contact(ua: &Ua, contact: &str) {
    let mut request = ua.register_request(3600);
    request.set("Contact", format!("<{contact}>"));
    // Who asks for `rport` and sends from another port than its Contact's is taken to be behind NAT; this registers somebody else.
    let via = request
        .first("Via")
        .unwrap_or_default()
        .replace(";rport", "");
    request.set("Via", via);
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
