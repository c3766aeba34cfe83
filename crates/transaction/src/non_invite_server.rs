//! Non-INVITE server transaction (RFC 3261 §17.2.2).

use stdx::Instant;

use crate::action::Class;
use crate::image::{Fields, Retransmission, Tag};
use crate::timers::earliest;
use crate::{Actions, Image, Reliability, ServerAction, ServerInput, Timers};

/// Non-INVITE server transaction (RFC 3261 §17.2.2). A terminated machine is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonInviteServer {
    Trying(Trying),
    Proceeding(Proceeding),
    Completed(Completed),
}

/// Nothing sent yet. No timer: the TU decides how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trying {
    reliability: Reliability,
}

/// A provisional response was sent. No timer: the TU decides how long, and the client sends the request again at
/// least every T2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proceeding {
    reliability: Reliability,
}

/// A final response was sent and answers each retransmission of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Timer J: how long retransmissions of the request may come, 64*T1 (§17.2.2).
    timer_j: Instant,
    /// One resend of the response, asked for by [`NonInviteServer::resume`].
    resend: Option<Instant>,
}

type Out = Actions<ServerAction>;

impl NonInviteServer {
    /// The transaction of a request that has just come.
    pub fn new(_now: Instant, _timers: &Timers, reliability: Reliability) -> Self {
        Self::Trying(Trying { reliability })
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
            // Without a response there is nothing to answer with (§17.2.2).
            (Self::Trying(_), Request | Ack) => act(self, ServerAction::Absorb, out),
            (Self::Trying(s), Respond(code)) => match Class::of(code) {
                Class::Provisional => proceed(s.reliability, out),
                Class::Success | Class::Failure => complete(now, timers, s.reliability, out),
                Class::Invalid => act(self, ServerAction::Absorb, out),
            },
            (Self::Trying(_), Tick) => Some(self),
            (Self::Trying(_), TransportError) => act(self, ServerAction::Failed, out),

            (Self::Proceeding(_), Request) => act(self, ServerAction::Resend, out),
            (Self::Proceeding(_), Ack) => act(self, ServerAction::Absorb, out),
            (Self::Proceeding(s), Respond(code)) => match Class::of(code) {
                Class::Provisional => proceed(s.reliability, out),
                Class::Success | Class::Failure => complete(now, timers, s.reliability, out),
                Class::Invalid => act(self, ServerAction::Absorb, out),
            },
            (Self::Proceeding(_), Tick) => Some(self),
            (Self::Proceeding(_), TransportError) => act(self, ServerAction::Failed, out),

            (Self::Completed(_), Request) => act(self, ServerAction::Resend, out),
            (Self::Completed(_), Ack | Respond(_)) => act(self, ServerAction::Absorb, out),
            (Self::Completed(s), Tick) => s.on_tick(now, out),
            (Self::Completed(_), TransportError) => act(self, ServerAction::Failed, out),
        }
    }

    /// The earliest moment at which `Tick` has work to do; `None` before a final response.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Trying(_) | Self::Proceeding(_) => None,
            Self::Completed(s) => earliest(s.resend, Some(s.timer_j)),
        }
    }

    /// The machine as the heir of a dead worker takes it up: the final response may not have been sent, so it is due
    /// at once; the limit stands. A provisional one waits for the next retransmission of the request.
    pub fn resume(self, now: Instant) -> Self {
        match self {
            Self::Trying(_) | Self::Proceeding(_) => self,
            Self::Completed(s) => Self::Completed(Completed {
                resend: Some(now),
                ..s
            }),
        }
    }

    pub fn encode(&self) -> Image {
        match *self {
            Self::Trying(s) => Fields {
                reliability: s.reliability,
                ..Fields::bare(Tag::NonInviteServerTrying)
            },
            Self::Proceeding(s) => Fields {
                reliability: s.reliability,
                ..Fields::bare(Tag::NonInviteServerProceeding)
            },
            Self::Completed(s) => Fields {
                retransmission: Retransmission::once(s.resend),
                limit: Some(s.timer_j),
                ..Fields::bare(Tag::NonInviteServerCompleted)
            },
        }
        .encode()
    }

    /// `None` for bytes that [`Self::encode`] does not write.
    pub fn decode(image: &Image) -> Option<Self> {
        let fields = Fields::decode(image)?;
        let reliability = fields.reliability;
        let machine = match (fields.tag, fields.limit) {
            (Tag::NonInviteServerTrying, None) => Self::Trying(Trying { reliability }),
            (Tag::NonInviteServerProceeding, None) => Self::Proceeding(Proceeding { reliability }),
            (Tag::NonInviteServerCompleted, Some(timer_j)) => Self::Completed(Completed {
                timer_j,
                resend: fields.retransmission.into_once(),
            }),
            _ => return None,
        };
        (machine.encode() == *image).then_some(machine)
    }
}

impl Completed {
    fn on_tick(mut self, now: Instant, out: &mut Out) -> Option<NonInviteServer> {
        if self.timer_j <= now {
            return None;
        }
        if self.resend.is_some_and(|at| at <= now) {
            out.push(ServerAction::Resend);
            self.resend = None;
        }
        Some(NonInviteServer::Completed(self))
    }
}

fn proceed(reliability: Reliability, out: &mut Out) -> Option<NonInviteServer> {
    out.push(ServerAction::Send);
    Some(NonInviteServer::Proceeding(Proceeding { reliability }))
}

/// A final response: Timer J is zero on a reliable transport, where nothing is retransmitted.
fn complete(
    now: Instant,
    timers: &Timers,
    reliability: Reliability,
    out: &mut Out,
) -> Option<NonInviteServer> {
    out.push(ServerAction::Send);
    match reliability {
        Reliability::Reliable => None,
        Reliability::Unreliable => Some(NonInviteServer::Completed(Completed {
            timer_j: now.saturating_add(timers.limit()),
            resend: None,
        })),
    }
}

fn act(machine: NonInviteServer, action: ServerAction, out: &mut Out) -> Option<NonInviteServer> {
    out.push(action);
    Some(machine)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(script: &str, answer: Expect) {
        answer.assert_eq(&crate::table::play::<NonInviteServer>(script));
    }

    #[test]
    fn trying() {
        check(
            "0 start | 1s request | 2s ack | 3s error | 4s respond 700 | 400s tick | 401s respond 200",
            expect![
                "Trying | Absorb Trying | Absorb Trying | Failed Trying | Absorb Trying | Trying | Send Completed, next 433s"
            ],
        );
    }

    #[test]
    fn proceeding() {
        check(
            "0 start | 1s respond 100 | 2s request | 3s respond 183 | 4s ack | 5s error | 6s respond 8 | 400s tick | 401s respond 404",
            expect![
                "Trying | Send Proceeding | Resend Proceeding | Send Proceeding | Absorb Proceeding | Failed Proceeding | Absorb Proceeding | Proceeding | Send Completed, next 433s"
            ],
        );
    }

    #[test]
    fn completed() {
        check(
            "0 start | 1s respond 200 | 2s request | 3s respond 404 | 4s ack | 5s error | 32s tick | 33s tick",
            expect![
                "Trying | Send Completed, next 33s | Resend Completed, next 33s | Absorb Completed, next 33s | Absorb Completed, next 33s | Failed Completed, next 33s | Completed, next 33s | done"
            ],
        );
    }

    #[test]
    fn reliable() {
        check(
            "0 start reliable | 1s respond 100 | 2s respond 200",
            expect!["Trying | Send Proceeding | Send done"],
        );
    }

    #[test]
    fn an_heir_resends_at_once() {
        check(
            "0 start | 1s respond 200 | 2s resume | 2s tick | 3s tick",
            expect![
                "Trying | Send Completed, next 33s | Completed, next 2s | Resend Completed, next 33s | Completed, next 33s"
            ],
        );
        check(
            "0 start | 1s respond 100 | 2s resume",
            expect!["Trying | Send Proceeding | Proceeding"],
        );
        check("0 start | 1s resume", expect!["Trying | Trying"]);
    }
}
