//! INVITE server transaction (RFC 3261 §17.2.1, RFC 6026 §7.1).
//!
//! The 100 that a server transaction owes within 200 ms (§17.2.1) is the TU's to send: a proxy sends it at once.

use failpoint::failpoint;
use stdx::Instant;

use crate::action::Class;
use crate::image::{Fields, Retransmission, Tag};
use crate::timers::{Backoff, earliest};
use crate::{Actions, Image, Reliability, ServerAction, ServerInput, Timers};

/// INVITE server transaction (RFC 3261 §17.2.1, RFC 6026 §7.1). A terminated machine is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteServer {
    Proceeding(Proceeding),
    Completed(Completed),
    Confirmed(Confirmed),
    Accepted(Accepted),
}

/// No final response yet. No timer: the TU decides how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proceeding {
    reliability: Reliability,
    /// Whether there is a provisional response to answer a retransmission with.
    responded: bool,
    /// One resend of the last response, asked for by [`InviteServer::resume`].
    resend: Option<Instant>,
}

/// A response of 300..=699 was sent and waits for its ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    reliability: Reliability,
    /// Timer G: next retransmission of the response, doubling up to T2; `None` on a reliable transport (§17.2.1), and of a refusal
    /// ([`InviteServer::refused`]).
    timer_g: Option<Backoff>,
    /// Timer H: when to stop waiting for the ACK, 64*T1 (§17.2.1).
    timer_h: Instant,
}

/// The ACK came; its retransmissions are absorbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Timer I: how long retransmissions of the ACK may come, T4 (§17.2.1).
    timer_i: Instant,
}

/// A 2xx was sent; the TU may pass further ones, retransmissions of the INVITE are absorbed (RFC 6026 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Timer L: how long retransmissions of the INVITE may come, 64*T1 (RFC 6026 §7.1).
    timer_l: Instant,
    /// One resend of the last response, asked for by [`InviteServer::resume`].
    resend: Option<Instant>,
}

type Out = Actions<ServerAction>;

impl InviteServer {
    /// The transaction of an INVITE that has just come.
    pub fn new(_now: Instant, _timers: &Timers, reliability: Reliability) -> Self {
        Self::Proceeding(Proceeding {
            reliability,
            responded: false,
            resend: None,
        })
    }

    /// The transaction of an INVITE that was answered with a failure of 300..=699 as a stateless server answers (§8.2.7): the response is
    /// not repeated by itself, only for the INVITE's retransmissions, so that a forged source gets nothing that nobody asked for.
    pub fn refused(now: Instant, timers: &Timers) -> Self {
        Self::Completed(Completed {
            reliability: Reliability::Unreliable,
            timer_g: None,
            timer_h: now.saturating_add(timers.limit()),
        })
    }

    pub fn step(
        self,
        now: Instant,
        timers: &Timers,
        input: ServerInput,
        out: &mut Out,
    ) -> Option<Self> {
        use ServerInput::{Ack, Request, Respond, Tick, TransportError};
        match (self, input) {
            (Self::Proceeding(s), Request) if s.responded => act(self, ServerAction::Resend, out),
            (Self::Proceeding(_), Request | Ack) => act(self, ServerAction::Absorb, out),
            (Self::Proceeding(s), Respond(code)) => match Class::of(code) {
                Class::Provisional => s.on_provisional(out),
                Class::Success => accept(now, timers, out),
                Class::Failure => s.on_failure(now, timers, out),
                Class::Invalid => act(self, ServerAction::Absorb, out),
            },
            (Self::Proceeding(mut s), Tick) => {
                resend_once(now, &mut s.resend, out);
                Some(Self::Proceeding(s))
            }
            (Self::Proceeding(_), TransportError) => act(self, ServerAction::Failed, out),

            (Self::Completed(_), Request) => act(self, ServerAction::Resend, out),
            (Self::Completed(s), Ack) => s.on_ack(now, timers, out),
            (Self::Completed(_), Respond(_)) => act(self, ServerAction::Absorb, out),
            (Self::Completed(s), Tick) => s.on_tick(now, timers, out),
            (Self::Completed(_), TransportError) => act(self, ServerAction::Failed, out),

            (Self::Confirmed(_), Request | Ack | Respond(_) | TransportError) => {
                act(self, ServerAction::Absorb, out)
            }
            (Self::Confirmed(s), Tick) => (s.timer_i > now).then_some(self),

            (Self::Accepted(_), Request) => act(self, ServerAction::Absorb, out),
            (Self::Accepted(_), Ack) => act(self, ServerAction::DeliverAck, out),
            (Self::Accepted(s), Respond(code)) => match Class::of(code) {
                Class::Success => s.on_success(out),
                Class::Provisional | Class::Failure | Class::Invalid => {
                    act(self, ServerAction::Absorb, out)
                }
            },
            (Self::Accepted(mut s), Tick) => {
                if s.timer_l <= now {
                    return None;
                }
                resend_once(now, &mut s.resend, out);
                Some(Self::Accepted(s))
            }
            (Self::Accepted(_), TransportError) => act(self, ServerAction::Failed, out),
        }
    }

    /// The earliest moment at which `Tick` has work to do; usually `None` in Proceeding.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Proceeding(s) => s.resend,
            Self::Completed(s) => earliest(s.timer_g.map(|g| g.at), Some(s.timer_h)),
            Self::Confirmed(s) => Some(s.timer_i),
            Self::Accepted(s) => earliest(s.resend, Some(s.timer_l)),
        }
    }

    /// The machine as the heir of a dead worker takes it up: the last response may not have been sent, so it is due
    /// at once; the limit stands.
    pub fn resume(self, now: Instant) -> Self {
        match self {
            Self::Proceeding(s) => Self::Proceeding(Proceeding {
                resend: s.responded.then_some(now),
                ..s
            }),
            Self::Completed(s) => Self::Completed(Completed {
                timer_g: s.timer_g.map(|g| g.hasten(now)),
                ..s
            }),
            Self::Confirmed(_) => self,
            Self::Accepted(s) => Self::Accepted(Accepted {
                resend: Some(now),
                ..s
            }),
        }
    }

    pub fn encode(&self) -> Image {
        match *self {
            Self::Proceeding(s) => Fields {
                reliability: s.reliability,
                responded: s.responded,
                retransmission: Retransmission::once(s.resend),
                ..Fields::bare(Tag::InviteServerProceeding)
            },
            Self::Completed(s) => Fields {
                reliability: s.reliability,
                retransmission: Retransmission::repeated(s.timer_g),
                limit: Some(s.timer_h),
                ..Fields::bare(Tag::InviteServerCompleted)
            },
            Self::Confirmed(s) => Fields {
                limit: Some(s.timer_i),
                ..Fields::bare(Tag::InviteServerConfirmed)
            },
            Self::Accepted(s) => Fields {
                retransmission: Retransmission::once(s.resend),
                limit: Some(s.timer_l),
                ..Fields::bare(Tag::InviteServerAccepted)
            },
        }
        .encode()
    }

    /// `None` for bytes that [`Self::encode`] does not write.
    pub fn decode(image: &Image) -> Option<Self> {
        let fields = Fields::decode(image)?;
        let (reliability, responded) = (fields.reliability, fields.responded);
        let machine = match (fields.tag, fields.limit) {
            (Tag::InviteServerProceeding, None) => {
                let resend = fields.retransmission.into_once();
                Self::Proceeding(Proceeding {
                    reliability,
                    responded,
                    resend,
                })
            }
            (Tag::InviteServerCompleted, Some(timer_h)) => {
                let timer_g = fields.retransmission.into_backoff();
                Self::Completed(Completed {
                    reliability,
                    timer_g,
                    timer_h,
                })
            }
            (Tag::InviteServerConfirmed, Some(timer_i)) => Self::Confirmed(Confirmed { timer_i }),
            (Tag::InviteServerAccepted, Some(timer_l)) => Self::Accepted(Accepted {
                timer_l,
                resend: fields.retransmission.into_once(),
            }),
            _ => return None,
        };
        (machine.encode() == *image).then_some(machine)
    }
}

impl Proceeding {
    fn on_provisional(self, out: &mut Out) -> Option<InviteServer> {
        out.push(ServerAction::Send);
        Some(InviteServer::Proceeding(Self {
            responded: true,
            resend: None,
            ..self
        }))
    }

    fn on_failure(self, now: Instant, timers: &Timers, out: &mut Out) -> Option<InviteServer> {
        out.push(ServerAction::Send);
        Some(InviteServer::Completed(Completed {
            reliability: self.reliability,
            timer_g: Backoff::start(now, timers.t1.min(timers.t2), self.reliability),
            timer_h: now.saturating_add(timers.limit()),
        }))
    }
}

impl Accepted {
    /// One more 2xx. What was to be resent is no longer the last response.
    fn on_success(self, out: &mut Out) -> Option<InviteServer> {
        failpoint!("transaction.broken.more_2xx", {
            act(InviteServer::Accepted(self), ServerAction::Absorb, out)
        });
        let last = Self {
            resend: None,
            ..self
        };
        act(InviteServer::Accepted(last), ServerAction::Send, out)
    }
}

impl Completed {
    /// Timer I is zero on a reliable transport, where no ACK is retransmitted.
    fn on_ack(self, now: Instant, timers: &Timers, out: &mut Out) -> Option<InviteServer> {
        out.push(ServerAction::Absorb);
        match self.reliability {
            Reliability::Reliable => None,
            Reliability::Unreliable => Some(InviteServer::Confirmed(Confirmed {
                timer_i: now.saturating_add(timers.t4),
            })),
        }
    }

    fn on_tick(mut self, now: Instant, timers: &Timers, out: &mut Out) -> Option<InviteServer> {
        if self.timer_h <= now {
            out.push(ServerAction::Timeout);
            return None;
        }
        if let Some(timer_g) = self.timer_g
            && timer_g.is_due(now)
        {
            failpoint!("transaction.broken.timer_g", None);
            out.push(ServerAction::Resend);
            self.timer_g = Some(timer_g.next(now, Some(timers.t2)));
        }
        Some(InviteServer::Completed(self))
    }
}

/// A 2xx: its retransmission is the UAS's business (§13.3.1.4), so there is no Timer G, and Timer L holds on reliable
/// transports too, since further 2xx come from forks.
fn accept(now: Instant, timers: &Timers, out: &mut Out) -> Option<InviteServer> {
    out.push(ServerAction::Send);
    Some(InviteServer::Accepted(Accepted {
        timer_l: now.saturating_add(timers.limit()),
        resend: None,
    }))
}

fn resend_once(now: Instant, resend: &mut Option<Instant>, out: &mut Out) {
    if resend.is_some_and(|at| at <= now) {
        out.push(ServerAction::Resend);
        *resend = None;
    }
}

fn act(machine: InviteServer, action: ServerAction, out: &mut Out) -> Option<InviteServer> {
    out.push(action);
    Some(machine)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(script: &str, answer: Expect) {
        answer.assert_eq(&crate::table::play::<InviteServer>(script));
    }

    #[test]
    fn proceeding() {
        check(
            "0 start | 1s request | 1s ack | 1s respond 100 | 2s request | 3s respond 180 | 4s request | 5s ack | 6s respond 99 | 7s error | 400s tick",
            expect![
                "Proceeding | Absorb Proceeding | Absorb Proceeding | Send Proceeding | Resend Proceeding | Send Proceeding | Resend Proceeding | Absorb Proceeding | Absorb Proceeding | Failed Proceeding | Proceeding"
            ],
        );
    }

    #[test]
    fn completed_retransmits_doubling_up_to_t2() {
        check(
            "0 start | 0s respond 486 | 500ms tick | 1500ms tick | 3500ms tick | 7500ms tick | 11500ms tick | 31500ms tick | 32s tick",
            expect![
                "Proceeding | Send Completed, next 500ms | Resend Completed, next 1.5s | Resend Completed, next 3.5s | Resend Completed, next 7.5s | Resend Completed, next 11.5s | Resend Completed, next 15.5s | Resend Completed, next 32s | Timeout done"
            ],
        );
    }

    #[test]
    fn completed() {
        check(
            "0 start | 1s respond 486 | 2s request | 2s respond 200 | 2s respond 180 | 2s respond 603 | 2s error | 3s ack",
            expect![
                "Proceeding | Send Completed, next 1.5s | Resend Completed, next 1.5s | Absorb Completed, next 1.5s | Absorb Completed, next 1.5s | Absorb Completed, next 1.5s | Failed Completed, next 1.5s | Absorb Confirmed, next 8s"
            ],
        );
    }

    #[test]
    fn confirmed() {
        check(
            "0 start | 1s respond 486 | 2s ack | 3s ack | 3s request | 3s respond 200 | 3s error | 6s tick | 7s tick",
            expect![
                "Proceeding | Send Completed, next 1.5s | Absorb Confirmed, next 7s | Absorb Confirmed, next 7s | Absorb Confirmed, next 7s | Absorb Confirmed, next 7s | Absorb Confirmed, next 7s | Confirmed, next 7s | done"
            ],
        );
    }

    /// RFC 6026: later 2xx pass, retransmitted INVITEs are absorbed.
    #[test]
    fn accepted() {
        check(
            "0 start | 1s respond 200 | 2s request | 3s ack | 4s respond 200 | 5s respond 180 | 5s respond 486 | 5s respond 7 | 6s error | 32s tick | 33s tick",
            expect![
                "Proceeding | Send Accepted, next 33s | Absorb Accepted, next 33s | DeliverAck Accepted, next 33s | Send Accepted, next 33s | Absorb Accepted, next 33s | Absorb Accepted, next 33s | Absorb Accepted, next 33s | Failed Accepted, next 33s | Accepted, next 33s | done"
            ],
        );
    }

    #[test]
    fn reliable() {
        check(
            "0 start reliable | 1s respond 486 | 2s tick | 3s request | 4s ack",
            expect![
                "Proceeding | Send Completed, next 33s | Completed, next 33s | Resend Completed, next 33s | Absorb done"
            ],
        );
        check(
            "0 start reliable | 1s respond 486 | 33s tick",
            expect!["Proceeding | Send Completed, next 33s | Timeout done"],
        );
        check(
            "0 start reliable | 1s respond 200 | 33s tick",
            expect!["Proceeding | Send Accepted, next 33s | done"],
        );
    }

    #[test]
    fn refused_repeats_nothing_by_itself() {
        check(
            "0 start late | 1s tick | 2s request | 3s resume | 3s tick | 4s ack | 5s request | 9s tick",
            expect![
                "Completed, next 32s | Completed, next 32s | Resend Completed, next 32s | Completed, next 32s | Completed, next 32s | Absorb Confirmed, next 9s | Absorb Confirmed, next 9s | done"
            ],
        );
        check(
            "0 start late | 31s request | 32s tick",
            expect!["Completed, next 32s | Resend Completed, next 32s | Timeout done"],
        );
    }

    #[test]
    fn an_heir_resends_at_once() {
        check("0 start | 1s resume", expect!["Proceeding | Proceeding"]);
        check(
            "0 start | 1s respond 180 | 2s resume | 2s tick | 3s tick",
            expect![
                "Proceeding | Send Proceeding | Proceeding, next 2s | Resend Proceeding | Proceeding"
            ],
        );
        check(
            "0 start | 1s respond 486 | 1200ms resume | 1200ms tick | 2200ms tick",
            expect![
                "Proceeding | Send Completed, next 1.5s | Completed, next 1.2s | Resend Completed, next 2.2s | Resend Completed, next 4.2s"
            ],
        );
        check(
            "0 start | 1s respond 200 | 2s resume | 2s tick | 33s tick",
            expect![
                "Proceeding | Send Accepted, next 33s | Accepted, next 2s | Resend Accepted, next 33s | done"
            ],
        );
        check(
            "0 start | 1s respond 200 | 2s resume | 2s respond 200 | 2s tick",
            expect![
                "Proceeding | Send Accepted, next 33s | Accepted, next 2s | Send Accepted, next 33s | Accepted, next 33s"
            ],
        );
        check(
            "0 start | 1s respond 486 | 2s ack | 3s resume",
            expect![
                "Proceeding | Send Completed, next 1.5s | Absorb Confirmed, next 7s | Confirmed, next 7s"
            ],
        );
    }
}
