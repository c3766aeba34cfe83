//! INVITE client transaction (RFC 3261 §17.1.1, RFC 6026 §7.2).

use failpoint::failpoint;
use stdx::Instant;

use crate::action::Class;
use crate::image::{Fields, Retransmission, Tag};
use crate::timers::{Backoff, earliest};
use crate::{Actions, ClientAction, ClientInput, Image, Reliability, Timers};

/// INVITE client transaction (RFC 3261 §17.1.1, RFC 6026 §7.2). A terminated machine is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteClient {
    Calling(Calling),
    Proceeding(Proceeding),
    Completed(Completed),
    Accepted(Accepted),
}

/// No response yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calling {
    reliability: Reliability,
    /// Timer A: next retransmission, doubling without cap; `None` on a reliable transport (§17.1.1.2).
    timer_a: Option<Backoff>,
    /// Timer B: when to report a timeout, 64*T1 after the first send (§17.1.1.2).
    timer_b: Instant,
}

/// A provisional response came. No timer: how long this may last is the TU's to say (a proxy's Timer C, §16.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proceeding {
    reliability: Reliability,
}

/// A response of 300..=699 came; each retransmission of it is answered by an ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Timer D: how long retransmissions of the response may come; at least 32 s (§17.1.1.2).
    timer_d: Instant,
}

/// A 2xx came; a fork downstream may bring more of them (RFC 6026 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Timer M: how long further 2xx are passed up, 64*T1 (RFC 6026 §7.2).
    timer_m: Instant,
}

type Out = Actions<ClientAction>;

impl InviteClient {
    /// The transaction of an INVITE that the caller sends now.
    pub fn new(now: Instant, timers: &Timers, reliability: Reliability) -> Self {
        Self::Calling(Calling {
            reliability,
            timer_a: Backoff::start(now, timers.t1, reliability),
            timer_b: now.saturating_add(timers.limit()),
        })
    }

    /// The transaction of an INVITE that was given up, when a failure of 300..=699 comes for it after all: repetitions of that are answered
    /// by an ACK as they would have been in time. The first ACK is the caller's to send.
    ///
    /// Deviation: §17.1.1.2 ends the transaction with Timer B, and says nothing of what comes later; the peer would repeat its failure until
    /// its Timer H.
    pub fn failed_late(now: Instant, timers: &Timers) -> Self {
        Self::Completed(Completed {
            timer_d: now.saturating_add(timers.d),
        })
    }

    pub fn step(
        self,
        now: Instant,
        timers: &Timers,
        input: ClientInput,
        out: &mut Out,
    ) -> Option<Self> {
        use ClientInput::{Response, Tick, TransportError};
        match (self, input) {
            (Self::Calling(s), Response(code)) => match Class::of(code) {
                Class::Provisional => s.on_provisional(out),
                Class::Success => accept(now, timers, out),
                Class::Failure => complete(now, timers, s.reliability, out),
                Class::Invalid => absorb(self, out),
            },
            (Self::Calling(s), Tick) => s.on_tick(now, out),
            (Self::Calling(_), TransportError) => fail(out),

            (Self::Proceeding(s), Response(code)) => match Class::of(code) {
                Class::Provisional => pass_up(self, out),
                Class::Success => accept(now, timers, out),
                Class::Failure => complete(now, timers, s.reliability, out),
                Class::Invalid => absorb(self, out),
            },
            (Self::Proceeding(_), Tick) => Some(self),
            // The peer has the INVITE; a late ICMP error of an earlier retransmission says nothing.
            (Self::Proceeding(_), TransportError) => absorb(self, out),

            (Self::Completed(_), Response(code)) => match Class::of(code) {
                Class::Failure => {
                    out.push(ClientAction::Ack);
                    Some(self)
                }
                Class::Provisional | Class::Success | Class::Invalid => absorb(self, out),
            },
            (Self::Completed(s), Tick) => until(self, s.timer_d, now),
            (Self::Completed(_), TransportError) => fail(out),

            (Self::Accepted(_), Response(code)) => match Class::of(code) {
                Class::Success => another(self, out),
                Class::Provisional | Class::Failure | Class::Invalid => absorb(self, out),
            },
            (Self::Accepted(s), Tick) => until(self, s.timer_m, now),
            (Self::Accepted(_), TransportError) => absorb(self, out),
        }
    }

    /// The earliest moment at which `Tick` has work to do; `None` in Proceeding.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Calling(s) => earliest(s.timer_a.map(|a| a.at), Some(s.timer_b)),
            Self::Proceeding(_) => None,
            Self::Completed(s) => Some(s.timer_d),
            Self::Accepted(s) => Some(s.timer_m),
        }
    }

    /// The machine as the heir of a dead worker takes it up: a retransmission that may not have been sent is due at
    /// once, the limit stands. On a reliable transport the first send is the heir's own to repeat, if at all.
    pub fn resume(self, now: Instant) -> Self {
        match self {
            Self::Calling(s) => Self::Calling(Calling {
                timer_a: s.timer_a.map(|a| a.hasten(now)),
                ..s
            }),
            Self::Proceeding(_) | Self::Completed(_) | Self::Accepted(_) => self,
        }
    }

    pub fn encode(&self) -> Image {
        match *self {
            Self::Calling(s) => Fields {
                reliability: s.reliability,
                retransmission: Retransmission::repeated(s.timer_a),
                limit: Some(s.timer_b),
                ..Fields::bare(Tag::InviteClientCalling)
            },
            Self::Proceeding(s) => Fields {
                reliability: s.reliability,
                ..Fields::bare(Tag::InviteClientProceeding)
            },
            Self::Completed(s) => Fields {
                limit: Some(s.timer_d),
                ..Fields::bare(Tag::InviteClientCompleted)
            },
            Self::Accepted(s) => Fields {
                limit: Some(s.timer_m),
                ..Fields::bare(Tag::InviteClientAccepted)
            },
        }
        .encode()
    }

    /// `None` for bytes that [`Self::encode`] does not write.
    pub fn decode(image: &Image) -> Option<Self> {
        let fields = Fields::decode(image)?;
        let machine = match (fields.tag, fields.limit) {
            (Tag::InviteClientCalling, Some(timer_b)) => Self::Calling(Calling {
                reliability: fields.reliability,
                timer_a: fields.retransmission.into_backoff(),
                timer_b,
            }),
            (Tag::InviteClientProceeding, None) => Self::Proceeding(Proceeding {
                reliability: fields.reliability,
            }),
            (Tag::InviteClientCompleted, Some(timer_d)) => Self::Completed(Completed { timer_d }),
            (Tag::InviteClientAccepted, Some(timer_m)) => Self::Accepted(Accepted { timer_m }),
            _ => return None,
        };
        (machine.encode() == *image).then_some(machine)
    }
}

impl Calling {
    fn on_provisional(self, out: &mut Out) -> Option<InviteClient> {
        out.push(ClientAction::PassUp);
        Some(InviteClient::Proceeding(Proceeding {
            reliability: self.reliability,
        }))
    }

    fn on_tick(mut self, now: Instant, out: &mut Out) -> Option<InviteClient> {
        failpoint!("transaction.broken.timer_b", {
            out.push(ClientAction::Timeout);
            None
        });
        if self.timer_b <= now {
            out.push(ClientAction::Timeout);
            return None;
        }
        if let Some(timer_a) = self.timer_a
            && timer_a.is_due(now)
        {
            out.push(ClientAction::Resend);
            self.timer_a = Some(timer_a.next(now, None));
        }
        Some(InviteClient::Calling(self))
    }
}

/// A 2xx: the TU sends the ACK, we stay for the 2xx of other forks.
fn accept(now: Instant, timers: &Timers, out: &mut Out) -> Option<InviteClient> {
    out.push(ClientAction::PassUp);
    Some(InviteClient::Accepted(Accepted {
        timer_m: now.saturating_add(timers.limit()),
    }))
}

/// 300..=699: Timer D is zero on a reliable transport, where nothing is retransmitted.
fn complete(
    now: Instant,
    timers: &Timers,
    reliability: Reliability,
    out: &mut Out,
) -> Option<InviteClient> {
    out.push(ClientAction::Ack);
    out.push(ClientAction::PassUp);
    match reliability {
        Reliability::Reliable => None,
        Reliability::Unreliable => Some(InviteClient::Completed(Completed {
            timer_d: now.saturating_add(timers.d),
        })),
    }
}

fn pass_up(machine: InviteClient, out: &mut Out) -> Option<InviteClient> {
    out.push(ClientAction::PassUp);
    Some(machine)
}

/// One more 2xx, of another fork or sent again.
fn another(machine: InviteClient, out: &mut Out) -> Option<InviteClient> {
    failpoint!("transaction.broken.second_2xx", absorb(machine, out));
    pass_up(machine, out)
}

fn absorb(machine: InviteClient, out: &mut Out) -> Option<InviteClient> {
    out.push(ClientAction::Absorb);
    Some(machine)
}

fn fail(out: &mut Out) -> Option<InviteClient> {
    out.push(ClientAction::Failed);
    None
}

/// The machine until the timer that ends its state.
fn until(machine: InviteClient, timer: Instant, now: Instant) -> Option<InviteClient> {
    (timer > now).then_some(machine)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(script: &str, answer: Expect) {
        answer.assert_eq(&crate::table::play::<InviteClient>(script));
    }

    #[test]
    fn calling_retransmits_doubling_without_cap() {
        check(
            "0 start | 500ms tick | 1500ms tick | 3500ms tick | 7500ms tick | 15500ms tick | 31500ms tick | 32s tick",
            expect![
                "Calling, next 500ms | Resend Calling, next 1.5s | Resend Calling, next 3.5s | Resend Calling, next 7.5s | Resend Calling, next 15.5s | Resend Calling, next 31.5s | Resend Calling, next 32s | Timeout done"
            ],
        );
    }

    #[test]
    fn calling() {
        check(
            "0 start | 100ms 100",
            expect!["Calling, next 500ms | PassUp Proceeding"],
        );
        check(
            "0 start | 100ms 200",
            expect!["Calling, next 500ms | PassUp Accepted, next 32.1s"],
        );
        check(
            "0 start | 100ms 486",
            expect!["Calling, next 500ms | Ack PassUp Completed, next 32.1s"],
        );
        check(
            "0 start | 100ms error",
            expect!["Calling, next 500ms | Failed done"],
        );
        check(
            "0 start | 100ms 99",
            expect!["Calling, next 500ms | Absorb Calling, next 500ms"],
        );
        check(
            "0 start | 100ms 700",
            expect!["Calling, next 500ms | Absorb Calling, next 500ms"],
        );
    }

    /// Timer B counts in Calling only.
    #[test]
    fn proceeding() {
        check(
            "0 start | 1s 180 | 2s 183 | 40s tick | 50s error | 60s 200",
            expect![
                "Calling, next 500ms | PassUp Proceeding | PassUp Proceeding | Proceeding | Absorb Proceeding | PassUp Accepted, next 92s"
            ],
        );
        check(
            "0 start | 1s 180 | 2s 503",
            expect!["Calling, next 500ms | PassUp Proceeding | Ack PassUp Completed, next 34s"],
        );
        check(
            "0 start | 1s 180 | 2s 0",
            expect!["Calling, next 500ms | PassUp Proceeding | Absorb Proceeding"],
        );
    }

    #[test]
    fn completed() {
        check(
            "0 start | 1s 486 | 2s 486 | 3s 603 | 4s 180 | 5s 200 | 6s 9 | 32s tick | 33s tick",
            expect![
                "Calling, next 500ms | Ack PassUp Completed, next 33s | Ack Completed, next 33s | Ack Completed, next 33s | Absorb Completed, next 33s | Absorb Completed, next 33s | Absorb Completed, next 33s | Completed, next 33s | done"
            ],
        );
        check(
            "0 start | 1s 486 | 2s error",
            expect!["Calling, next 500ms | Ack PassUp Completed, next 33s | Failed done"],
        );
    }

    #[test]
    fn accepted() {
        check(
            "0 start | 1s 200 | 2s 200 | 3s 180 | 4s 486 | 5s error | 6s 800 | 32s tick | 33s tick",
            expect![
                "Calling, next 500ms | PassUp Accepted, next 33s | PassUp Accepted, next 33s | Absorb Accepted, next 33s | Absorb Accepted, next 33s | Absorb Accepted, next 33s | Absorb Accepted, next 33s | Accepted, next 33s | done"
            ],
        );
    }

    #[test]
    fn reliable() {
        check(
            "0 start reliable | 500ms tick | 32s tick",
            expect!["Calling, next 32s | Calling, next 32s | Timeout done"],
        );
        check(
            "0 start reliable | 1s 180 | 2s 486",
            expect!["Calling, next 32s | PassUp Proceeding | Ack PassUp done"],
        );
        check(
            "0 start reliable | 1s 200 | 33s tick",
            expect!["Calling, next 32s | PassUp Accepted, next 33s | done"],
        );
    }

    #[test]
    fn a_failure_after_the_end_is_repeated() {
        check(
            "0 start late | 1s 486 | 2s 180 | 3s 200 | 31s tick | 31s resume | 32s tick",
            expect![
                "Completed, next 32s | Ack Completed, next 32s | Absorb Completed, next 32s | Absorb Completed, next 32s | Completed, next 32s | Completed, next 32s | done"
            ],
        );
    }

    #[test]
    fn ticks_early_late_and_repeated() {
        check(
            "0 start | 499ms tick | 500ms tick | 500ms tick",
            expect![
                "Calling, next 500ms | Calling, next 500ms | Resend Calling, next 1.5s | Calling, next 1.5s"
            ],
        );
        check(
            "0 start | 10s tick | 10s tick | 12s tick | 90s tick",
            expect![
                "Calling, next 500ms | Resend Calling, next 11s | Calling, next 11s | Resend Calling, next 13s | Timeout done"
            ],
        );
    }

    #[test]
    fn an_heir_retransmits_at_once() {
        check(
            "0 start | 500ms tick | 700ms resume | 700ms tick | 1700ms tick",
            expect![
                "Calling, next 500ms | Resend Calling, next 1.5s | Calling, next 700ms | Resend Calling, next 2.7s | Calling, next 2.7s"
            ],
        );
        check(
            "0 start | 1s 180 | 2s resume",
            expect!["Calling, next 500ms | PassUp Proceeding | Proceeding"],
        );
        check(
            "0 start | 1s 486 | 2s resume",
            expect!["Calling, next 500ms | Ack PassUp Completed, next 33s | Completed, next 33s"],
        );
        check(
            "0 start | 1s 200 | 2s resume",
            expect!["Calling, next 500ms | PassUp Accepted, next 33s | Accepted, next 33s"],
        );
        check(
            "0 start reliable | 1s resume",
            expect!["Calling, next 32s | Calling, next 32s"],
        );
        check(
            "0 start | 40s resume | 40s tick",
            expect!["Calling, next 500ms | Calling, next 500ms | Timeout done"],
        );
    }
}
