//! The arena, not retransmission, carries calls over the death of a worker: no phone here ever sends
//! anything twice, and every worker is killed once while the calls ring.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blackbox::either;
use blackbox::machine::{alone, eventually, wait_dead};
use blackbox::message::Message;
use blackbox::server::{DEFAULT, LIMIT, Server};
use blackbox::sipp::{Run, Sipp};
use blackbox::ua::{Ua, answers};

use crate::load::register_contact;

/// What a call is to become after its 4 s of ringing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The callee answers.
    Answered,
    /// Two phones ring; one is busy, then the other answers.
    Forked,
    /// The caller gives up.
    Cancelled,
}

impl Fate {
    const ALL: [Self; 3] = [Self::Answered, Self::Forked, Self::Cancelled];

    fn user(self) -> &'static str {
        match self {
            Self::Answered => "answers",
            Self::Forked => "forks",
            Self::Cancelled => "is_cancelled",
        }
    }
}

/// One call, from both sides.
struct Call {
    fate: Fate,
    caller: usize,
    invite: Message,
    ringing: u32,
    cancel: Option<Message>,
    cancel_ok: bool,
    final_status: Option<u16>,
    bye: Option<Message>,
    bye_ok: bool,
    /// INVITEs at the callees, by phone.
    branches: BTreeMap<usize, Branch>,
}

struct Branch {
    invite: Message,
    from: SocketAddr,
    answered: Option<u16>,
    cancelled: bool,
    acknowledged: bool,
}

/// All phones of the test, driven by one thread.
struct Phones {
    callers: Vec<Ua>,
    callees: Vec<(Fate, Ua)>,
    calls: BTreeMap<String, Call>,
    unexpected: Vec<String>,
}

impl Phones {
    fn new(server: &Server) -> Self {
        let callers = (0..8).map(|n| server.ua(&format!("caller{n}"))).collect();
        let mut callees = Vec::new();
        for fate in Fate::ALL {
            let phones = if fate == Fate::Forked { 2 } else { 1 };
            for _ in 0..phones {
                let ua = server.ua(fate.user());
                assert_eq!(ua.register(3600).status(), 200);
                callees.push((fate, ua));
            }
        }
        Self {
            callers,
            callees,
            calls: BTreeMap::new(),
            unexpected: Vec::new(),
        }
    }

    fn call(&mut self, n: usize) {
        let fate = Fate::ALL[n % 3];
        let caller = n % self.callers.len();
        let ua = &self.callers[caller];
        let invite = ua.invite(&format!("sip:{}@{}", fate.user(), ua.domain));
        ua.send(&invite);
        let call = Call {
            fate,
            caller,
            ringing: 0,
            cancel: None,
            cancel_ok: false,
            final_status: None,
            bye: None,
            bye_ok: false,
            branches: BTreeMap::new(),
            invite: invite.clone(),
        };
        self.calls.insert(invite.call_id().to_owned(), call);
    }

    /// Serves every phone for `duration`.
    fn run(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        loop {
            let mut idle = true;
            for n in 0..self.callers.len() {
                while let Some((m, _)) = self.callers[n].peer.receive_now() {
                    idle = false;
                    self.at_caller(n, &m);
                }
            }
            for n in 0..self.callees.len() {
                while let Some((m, from)) = self.callees[n].1.peer.receive_now() {
                    idle = false;
                    self.at_callee(n, m, from);
                }
            }
            if Instant::now() >= end {
                return;
            }
            if idle {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    fn at_caller(&mut self, n: usize, m: &Message) {
        let ua = &self.callers[n];
        let Some(call) = self.calls.get_mut(m.call_id()) else {
            self.unexpected.push(format!("caller {n}: {}", m.start));
            return;
        };
        if call.cancel.as_ref().is_some_and(|c| answers(m, c)) {
            call.cancel_ok |= m.status() == 200;
        } else if call.bye.as_ref().is_some_and(|b| answers(m, b)) {
            call.bye_ok |= m.status() == 200;
        } else if answers(m, &call.invite) && m.status() < 200 {
            call.ringing += u32::from(m.status() == 180);
        } else if answers(m, &call.invite) {
            if call.final_status.is_some_and(|s| s != m.status()) {
                self.unexpected.push(format!(
                    "{:?}: {:?}, then {}",
                    call.fate, call.final_status, m.start
                ));
            }
            let first = call.final_status.is_none();
            call.final_status = Some(m.status());
            let ack = ua.ack(&call.invite, m);
            if m.status() < 300 {
                ua.send_routed(&ack);
                if first {
                    let bye = ua.in_dialog("BYE", 2, &call.invite, m);
                    ua.send_routed(&bye);
                    call.bye = Some(bye);
                }
            } else {
                ua.send(&ack);
            }
        } else {
            self.unexpected.push(format!("caller {n}: {}", m.start));
        }
    }

    fn at_callee(&mut self, n: usize, m: Message, from: SocketAddr) {
        let ua = &self.callees[n].1;
        let Some(call) = self.calls.get_mut(m.call_id()).filter(|_| m.is_request()) else {
            self.unexpected.push(format!("callee {n}: {}", m.start));
            return;
        };
        match m.method() {
            "INVITE" => {
                let request = (m, from);
                ua.reply(&request, 180, "Ringing", &format!("t{n}"));
                call.branches.entry(n).or_insert_with(|| Branch {
                    invite: request.0,
                    from: request.1,
                    answered: None,
                    cancelled: false,
                    acknowledged: false,
                });
            }
            "CANCEL" => {
                ua.reply(&(m, from), 200, "OK", &format!("t{n}"));
                if let Some(branch) = call.branches.get_mut(&n) {
                    branch.cancelled = true;
                    if branch.answered.is_none() {
                        branch.answered = Some(487);
                        let request = (branch.invite.clone(), branch.from);
                        ua.reply(&request, 487, "Request Terminated", &format!("t{n}"));
                    }
                }
            }
            "ACK" => {
                if let Some(branch) = call.branches.get_mut(&n) {
                    branch.acknowledged = true;
                }
            }
            "BYE" => {
                ua.reply(&(m, from), 200, "OK", &format!("t{n}"));
            }
            other => self.unexpected.push(format!("callee {n}: {other}")),
        }
    }

    /// The callees of that fate with this place among them answer `code`.
    fn answer(&mut self, fate: Fate, place: usize, code: u16, reason: &str) {
        let phone = self
            .callees
            .iter()
            .enumerate()
            .filter(|(_, c)| c.0 == fate)
            .nth(place);
        let (n, (_, ua)) = phone.expect("that phone exists");
        for call in self.calls.values_mut().filter(|c| c.fate == fate) {
            if let Some(branch) = call.branches.get_mut(&n).filter(|b| b.answered.is_none()) {
                branch.answered = Some(code);
                let request = (branch.invite.clone(), branch.from);
                ua.reply(&request, code, reason, &format!("t{n}"));
            }
        }
    }

    fn cancel(&mut self) {
        for call in self
            .calls
            .values_mut()
            .filter(|c| c.fate == Fate::Cancelled)
        {
            let ua = &self.callers[call.caller];
            let cancel = ua.cancel(&call.invite);
            ua.send(&cancel);
            call.cancel = Some(cancel);
        }
    }

    #[track_caller]
    fn assert_all_rang(&self) {
        let silent = self.calls.values().filter(|c| c.ringing == 0).count();
        assert_eq!(silent, 0, "calls that never rang");
    }

    /// Everything that is not as it should be, in words.
    fn faults(&self) -> Vec<String> {
        let mut faults = self.unexpected.clone();
        for call in self.calls.values() {
            let fate = call.fate;
            let mut wrong = |what: &str| {
                faults.push(format!("{fate:?} of caller {}: {what}", call.caller));
            };
            let wanted = if fate == Fate::Cancelled { 487 } else { 200 };
            if call.final_status != Some(wanted) {
                wrong(&format!(
                    "ended with {:?} instead of {wanted}",
                    call.final_status
                ));
            }
            if fate == Fate::Cancelled && !call.cancel_ok {
                wrong("no 200 to CANCEL");
            }
            if fate == Fate::Cancelled && !call.branches.values().all(|b| b.cancelled) {
                wrong("CANCEL did not reach the ringing phone");
            }
            if fate != Fate::Cancelled && !call.bye_ok {
                wrong("no 200 to BYE");
            }
            for (n, branch) in &call.branches {
                if !branch.acknowledged {
                    wrong(&format!(
                        "no ACK at callee {n} for its {:?}",
                        branch.answered
                    ));
                }
            }
        }
        faults
    }
}

#[test]
fn ringing_calls_outlive_every_worker() {
    let _alone = alone();
    for round in 0..either(1, 5) {
        let server = Server::start();
        let mut phones = Phones::new(&server);
        let start = Instant::now();
        for n in 0..either(60, 300) {
            phones.call(n);
            phones.run(Duration::from_millis(3));
        }
        phones.run(Duration::from_millis(500));
        phones.assert_all_rang();

        // Each worker once, in mid-ringing; the second only when a spare stands by again.
        for worker in server.signalling() {
            server.kill_worker(worker.pid);
            wait_dead(worker.pid, LIMIT);
            phones.run(Duration::from_millis(300));
            server.wait_ready();
        }
        let ringing = Duration::from_secs(4);
        phones.run(ringing.saturating_sub(start.elapsed()));

        phones.answer(Fate::Forked, 0, 486, "Busy Here");
        phones.answer(Fate::Answered, 0, 200, "OK");
        phones.cancel();
        phones.run(Duration::from_millis(500));
        phones.answer(Fate::Forked, 1, 200, "OK");
        phones.run(Duration::from_secs(2));

        assert_eq!(server.restarts(), 2, "each worker died once");
        let faults = phones.faults();
        assert!(
            faults.is_empty(),
            "round {round}: {} faults in {} calls, first {:#?}\n{:?}",
            faults.len(),
            phones.calls.len(),
            &faults[..faults.len().min(12)],
            server
                .counters()
                .iter()
                .filter(|c| c.1 > 0)
                .collect::<Vec<_>>()
        );
        assert!(
            server.counter("transactions.adopted") > 0,
            "the heirs took transactions over"
        );
        assert!(server.stop().success());
    }
}

/// The same with SIPp, whose `-nr` turns all retransmission off.
#[test]
fn sipp_without_retransmission() {
    let _alone = alone();
    let server = Server::start();
    let callee = Sipp::start(&Run {
        extra: &["-nr"],
        ..Run::callee("ringing_callee", server.ip)
    });
    register_contact(&server.ua("callee"), &callee.contact("callee"));
    let caller = Sipp::start(&Run {
        calls: Some(100),
        rate: 100,
        extra: &["-nr"],
        ..Run::caller("caller", server.ip, server.address())
    });
    eventually("all calls ring", LIMIT, || {
        (server.counter("proxy.response_forwarded") >= 100).then_some(())
    });
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
        wait_dead(worker.pid, LIMIT);
        server.wait_ready();
    }
    caller
        .wait(Duration::from_secs(40))
        .assert_clean("caller", 100);
    let ended = callee.finish(Duration::from_secs(5));
    assert_eq!(
        (ended.statistics.successful, ended.statistics.failed),
        (100, 0),
        "{}",
        ended.errors
    );
}

/// Timer B of a transaction fires in the heir at the moment that was set before the death, and Timer A
/// goes on in between.
#[test]
fn timers_fire_in_the_heir() {
    let _alone = alone();
    // 64*T1 = 6.4 s.
    let server = Server::start_with(&format!("{DEFAULT}\n[timers]\nt1 = \"100ms\"\n"));
    let silent = server.ua("silent");
    assert_eq!(silent.register(3600).status(), 200);
    let caller = server.ua("caller");
    let invite = caller.invite("sip:silent@example.test");
    let start = Instant::now();
    caller.send(&invite);
    // Timer A has fired after 0.1, 0.3 and 0.7 s.
    for _ in 0..4 {
        silent.expect_request("INVITE");
    }
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
        server.wait_ready();
    }
    silent.peer.drain();
    let (again, _) = silent.expect_request("INVITE");
    assert_eq!(
        again.call_id(),
        invite.call_id(),
        "Timer A goes on in the heir"
    );
    let (answer, _) = caller
        .peer
        .expect_within("408", Duration::from_secs(8), |m| {
            answers(m, &invite) && m.status() >= 200
        });
    caller.send(&caller.ack(&invite, &answer));
    let after = start.elapsed();
    assert_eq!(answer.status(), 408, "{}", answer.start);
    assert!(
        after > Duration::from_millis(6300) && after < Duration::from_millis(7400),
        "Timer B fired after {after:?} instead of 6.4 s"
    );
}

/// A branch that has rung is cancelled by the heir when another answers.
#[test]
fn heir_cancels_the_other_branch() {
    let _alone = alone();
    let server = Server::start();
    let (one, two) = (server.ua("bob"), server.ua("bob"));
    assert_eq!(
        (one.register(60).status(), two.register(60).status()),
        (200, 200)
    );
    let caller = server.ua("caller");
    let invite = caller.invite("sip:bob@example.test");
    caller.send(&invite);
    let at_one = one.expect_request("INVITE");
    let at_two = two.expect_request("INVITE");
    one.reply(&at_one, 180, "Ringing", "1");
    two.reply(&at_two, 180, "Ringing", "2");
    caller.expect_status(&invite, 180);
    for worker in server.signalling() {
        server.kill_worker(worker.pid);
        server.wait_ready();
    }
    two.reply(&at_two, 200, "OK", "2");
    let ok = caller.expect_status(&invite, 200);
    caller.send_routed(&caller.ack(&invite, &ok));
    two.expect_request("ACK");
    let cancel = one.expect_request("CANCEL");
    assert_eq!(
        cancel.0.branch(),
        at_one.0.branch(),
        "the CANCEL is of that branch"
    );
    one.reply(&cancel, 200, "OK", "1");
    one.reply(&at_one, 487, "Request Terminated", "1");
    one.expect_request("ACK");
    caller.expect_only(Duration::from_millis(300), |m| m.status() < 300);
}
