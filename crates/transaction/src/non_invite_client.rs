//! Non-INVITE client transaction (RFC 3261 §17.1.2).

use core::time::Duration;

use stdx::Instant;

use crate::action::Class;
use crate::image::{Fields, Retransmission, Tag};
use crate::timers::{Backoff, earliest};
use crate::{Actions, ClientAction, ClientInput, Image, Reliability, Timers};

/// Non-INVITE client transaction (RFC 3261 §17.1.2). A terminated machine is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonInviteClient {
    Trying(Trying),
    Proceeding(Proceeding),
    Completed(Completed),
}

/// No response yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trying {
    reliability: Reliability,
    /// Timer E: next retransmission, doubling up to T2; `None` on a reliable transport (§17.1.2.2).
    timer_e: Option<Backoff>,
    /// Timer F: when to report a timeout, 64*T1 after the first send (§17.1.2.2).
    timer_f: Instant,
}

/// A provisional response came; unlike an INVITE the request is still retransmitted and still times out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proceeding {
    reliability: Reliability,
    /// Timer E: next retransmission, every T2 from the next one on (§17.1.2.2).
    timer_e: Option<Backoff>,
    /// Timer F goes on from Trying.
    timer_f: Instant,
}

/// A final response came; its retransmissions are absorbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Timer K: how long retransmissions of the response may come, T4 (§17.1.2.2).
    timer_k: Instant,
}

type Out = Actions<ClientAction>;

impl NonInviteClient {
    /// The transaction of a request that the caller sends now.
    pub fn new(now: Instant, timers: &Timers, reliability: Reliability) -> Self {
        Self::Trying(Trying {
            reliability,
            timer_e: Backoff::start(now, timers.t1, reliability),
            timer_f: now.saturating_add(timers.limit()),
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
            (Self::Trying(s), Response(code)) => match Class::of(code) {
                Class::Provisional => s.on_provisional(timers, out),
                Class::Success | Class::Failure => complete(now, timers, s.reliability, out),
                Class::Invalid => absorb(self, out),
            },
            (Self::Trying(mut s), Tick) => {
                tick(now, s.timer_f, &mut s.timer_e, timers.t2, out).then_some(Self::Trying(s))
            }
            (Self::Trying(_), TransportError) => fail(out),

            (Self::Proceeding(s), Response(code)) => match Class::of(code) {
                Class::Provisional => {
                    out.push(ClientAction::PassUp);
                    Some(self)
                }
                Class::Success | Class::Failure => complete(now, timers, s.reliability, out),
                Class::Invalid => absorb(self, out),
            },
            (Self::Proceeding(mut s), Tick) => {
                tick(now, s.timer_f, &mut s.timer_e, timers.t2, out).then_some(Self::Proceeding(s))
            }
            (Self::Proceeding(_), TransportError) => fail(out),

            (Self::Completed(_), Response(_)) => absorb(self, out),
            (Self::Completed(s), Tick) => (s.timer_k > now).then_some(self),
            (Self::Completed(_), TransportError) => absorb(self, out),
        }
    }

    /// The earliest moment at which `Tick` has work to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Trying(Trying {
                timer_e, timer_f, ..
            })
            | Self::Proceeding(Proceeding {
                timer_e, timer_f, ..
            }) => earliest(timer_e.map(|e| e.at), Some(*timer_f)),
            Self::Completed(s) => Some(s.timer_k),
        }
    }

    /// The machine as the heir of a dead worker takes it up: a retransmission that may not have been sent is due at
    /// once, the limit stands. On a reliable transport the first send is the heir's own to repeat, if at all.
    pub fn resume(self, now: Instant) -> Self {
        match self {
            Self::Trying(s) => Self::Trying(Trying {
                timer_e: s.timer_e.map(|e| e.hasten(now)),
                ..s
            }),
            Self::Proceeding(s) => Self::Proceeding(Proceeding {
                timer_e: s.timer_e.map(|e| e.hasten(now)),
                ..s
            }),
            Self::Completed(_) => self,
        }
    }

    pub fn encode(&self) -> Image {
        match *self {
            Self::Trying(s) => Fields {
                reliability: s.reliability,
                retransmission: Retransmission::repeated(s.timer_e),
                limit: Some(s.timer_f),
                ..Fields::bare(Tag::NonInviteClientTrying)
            },
            Self::Proceeding(s) => Fields {
                reliability: s.reliability,
                retransmission: Retransmission::repeated(s.timer_e),
                limit: Some(s.timer_f),
                ..Fields::bare(Tag::NonInviteClientProceeding)
            },
            Self::Completed(s) => Fields {
                limit: Some(s.timer_k),
                ..Fields::bare(Tag::NonInviteClientCompleted)
            },
        }
        .encode()
    }

    /// `None` for bytes that [`Self::encode`] does not write.
    pub fn decode(image: &Image) -> Option<Self> {
        let fields = Fields::decode(image)?;
        let timer_e = fields.retransmission.into_backoff();
        let reliability = fields.reliability;
        let machine = match (fields.tag, fields.limit) {
            (Tag::NonInviteClientTrying, Some(timer_f)) => Self::Trying(Trying {
                reliability,
                timer_e,
                timer_f,
            }),
            (Tag::NonInviteClientProceeding, Some(timer_f)) => Self::Proceeding(Proceeding {
                reliability,
                timer_e,
                timer_f,
            }),
            (Tag::NonInviteClientCompleted, Some(timer_k)) => {
                Self::Completed(Completed { timer_k })
            }
            _ => return None,
        };
        (machine.encode() == *image).then_some(machine)
    }
}

impl Trying {
    fn on_provisional(self, timers: &Timers, out: &mut Out) -> Option<NonInviteClient> {
        out.push(ClientAction::PassUp);
        Some(NonInviteClient::Proceeding(Proceeding {
            reliability: self.reliability,
            timer_e: self.timer_e.map(|e| e.slow_to(timers.t2)),
            timer_f: self.timer_f,
        }))
    }
}

/// Timers E and F; says whether the transaction goes on.
fn tick(
    now: Instant,
    timer_f: Instant,
    timer_e: &mut Option<Backoff>,
    t2: Duration,
    out: &mut Out,
) -> bool {
    if timer_f <= now {
        out.push(ClientAction::Timeout);
        return false;
    }
    if let Some(due) = timer_e.filter(|e| e.is_due(now)) {
        out.push(ClientAction::Resend);
        *timer_e = Some(due.next(now, Some(t2)));
    }
    true
}

/// A final response: Timer K is zero on a reliable transport, where nothing is retransmitted.
fn complete(
    now: Instant,
    timers: &Timers,
    reliability: Reliability,
    out: &mut Out,
) -> Option<NonInviteClient> {
    out.push(ClientAction::PassUp);
    match reliability {
        Reliability::Reliable => None,
        Reliability::Unreliable => Some(NonInviteClient::Completed(Completed {
            timer_k: now.saturating_add(timers.t4),
        })),
    }
}

fn absorb(machine: NonInviteClient, out: &mut Out) -> Option<NonInviteClient> {
    out.push(ClientAction::Absorb);
    Some(machine)
}

fn fail(out: &mut Out) -> Option<NonInviteClient> {
    out.push(ClientAction::Failed);
    None
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(script: &str, answer: Expect) {
        answer.assert_eq(&crate::table::play::<NonInviteClient>(script));
    }

    #[test]
    fn trying_retransmits_doubling_up_to_t2() {
        check(
            "0 start | 500ms tick | 1500ms tick | 3500ms tick | 7500ms tick | 11500ms tick | 15500ms tick | 31500ms tick | 32s tick",
            expect![
                "Trying, next 500ms | Resend Trying, next 1.5s | Resend Trying, next 3.5s | Resend Trying, next 7.5s | Resend Trying, next 11.5s | Resend Trying, next 15.5s | Resend Trying, next 19.5s | Resend Trying, next 32s | Timeout done"
            ],
        );
    }

    #[test]
    fn trying() {
        check(
            "0 start | 1s 100",
            expect!["Trying, next 500ms | PassUp Proceeding, next 500ms"],
        );
        check(
            "0 start | 1s 200",
            expect!["Trying, next 500ms | PassUp Completed, next 6s"],
        );
        check(
            "0 start | 1s 404",
            expect!["Trying, next 500ms | PassUp Completed, next 6s"],
        );
        check(
            "0 start | 1s error",
            expect!["Trying, next 500ms | Failed done"],
        );
        check(
            "0 start | 1s 700",
            expect!["Trying, next 500ms | Absorb Trying, next 500ms"],
        );
    }

    #[test]
    fn proceeding_retransmits_every_t2() {
        check(
            "0 start | 200ms 100 | 500ms tick | 4500ms tick | 8500ms tick | 32s tick",
            expect![
                "Trying, next 500ms | PassUp Proceeding, next 500ms | Resend Proceeding, next 4.5s | Resend Proceeding, next 8.5s | Resend Proceeding, next 12.5s | Timeout done"
            ],
        );
    }

    #[test]
    fn proceeding() {
        check(
            "0 start | 1s 100 | 2s 182 | 3s 42 | 4s 200",
            expect![
                "Trying, next 500ms | PassUp Proceeding, next 500ms | PassUp Proceeding, next 500ms | Absorb Proceeding, next 500ms | PassUp Completed, next 9s"
            ],
        );
        check(
            "0 start | 1s 100 | 2s 500",
            expect![
                "Trying, next 500ms | PassUp Proceeding, next 500ms | PassUp Completed, next 7s"
            ],
        );
        check(
            "0 start | 1s 100 | 2s error",
            expect!["Trying, next 500ms | PassUp Proceeding, next 500ms | Failed done"],
        );
    }

    #[test]
    fn completed() {
        check(
            "0 start | 1s 200 | 2s 200 | 2s 100 | 2s 404 | 2s 1 | 3s error | 5s tick | 6s tick",
            expect![
                "Trying, next 500ms | PassUp Completed, next 6s | Absorb Completed, next 6s | Absorb Completed, next 6s | Absorb Completed, next 6s | Absorb Completed, next 6s | Absorb Completed, next 6s | Completed, next 6s | done"
            ],
        );
    }

    #[test]
    fn reliable() {
        check(
            "0 start reliable | 500ms tick | 32s tick",
            expect!["Trying, next 32s | Trying, next 32s | Timeout done"],
        );
        check(
            "0 start reliable | 1s 100 | 2s tick | 3s 200",
            expect![
                "Trying, next 32s | PassUp Proceeding, next 32s | Proceeding, next 32s | PassUp done"
            ],
        );
        check(
            "0 start reliable | 1s 404",
            expect!["Trying, next 32s | PassUp done"],
        );
    }

    #[test]
    fn ticks_early_late_and_repeated() {
        check(
            "0 start | 499ms tick | 500ms tick | 500ms tick",
            expect![
                "Trying, next 500ms | Trying, next 500ms | Resend Trying, next 1.5s | Trying, next 1.5s"
            ],
        );
        check(
            "0 start | 10s tick | 10s tick | 14s tick",
            expect![
                "Trying, next 500ms | Resend Trying, next 11s | Trying, next 11s | Resend Trying, next 16s"
            ],
        );
    }

    #[test]
    fn an_heir_retransmits_at_once() {
        check(
            "0 start | 500ms tick | 700ms resume | 700ms tick",
            expect![
                "Trying, next 500ms | Resend Trying, next 1.5s | Trying, next 700ms | Resend Trying, next 2.7s"
            ],
        );
        check(
            "0 start | 500ms 100 | 700ms resume | 700ms tick | 4700ms tick",
            expect![
                "Trying, next 500ms | PassUp Proceeding, next 500ms | Proceeding, next 500ms | Resend Proceeding, next 4.5s | Resend Proceeding, next 8.5s"
            ],
        );
        check(
            "0 start | 1s 200 | 2s resume",
            expect!["Trying, next 500ms | PassUp Completed, next 6s | Completed, next 6s"],
        );
        check(
            "0 start reliable | 1s resume",
            expect!["Trying, next 32s | Trying, next 32s"],
        );
    }
}
