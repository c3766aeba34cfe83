//! One engine: whether it is asked, and when it is pinged.

use std::time::Duration;

use stdx::Instant;

/// How an engine's health is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// An engine that has said nothing for so long is pinged, and one that is down each time.
    pub interval: Duration,
    /// It is down when so many questions in a row had no answer.
    pub down_after: u32,
    /// It is up again when so many pings in a row had one.
    pub up_after: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            down_after: 3,
            up_after: 1,
        }
    }
}

/// An engine's circuit breaker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Engine {
    pub(crate) probe: Probe,
    state: State,
    /// When it is to be pinged next; `None`: it is in no configuration any more and has calls only.
    pub(crate) ping_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Questions in a row without an answer.
    Up { failures: u32 },
    /// Pings in a row with one.
    Down { answers: u32 },
}

impl Engine {
    /// It is taken for well until it shows that it is not.
    pub(crate) fn new(ping_at: Option<Instant>, probe: Probe) -> Self {
        Self {
            probe,
            state: State::Up { failures: 0 },
            ping_at,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// It has answered. True if it is up from now on and was not before.
    pub(crate) fn heard(&mut self, now: Instant, pong: bool) -> bool {
        match &mut self.state {
            State::Up { failures } => {
                *failures = 0;
                // It has just shown that it is well.
                if self.ping_at.is_some() {
                    self.ping_at = Some(now.saturating_add(self.probe.interval));
                }
                false
            }
            State::Down { answers } => {
                *answers = answers.saturating_add(u32::from(pong));
                let up = *answers >= self.probe.up_after;
                if up {
                    self.state = State::Up { failures: 0 };
                }
                up
            }
        }
    }

    /// A question had no answer. True if it is down from now on and was not before.
    pub(crate) fn failed(&mut self) -> bool {
        match &mut self.state {
            State::Up { failures } => {
                *failures = failures.saturating_add(1);
                let down = *failures >= self.probe.down_after;
                if down {
                    self.state = State::Down { answers: 0 };
                }
                down
            }
            State::Down { answers } => {
                *answers = 0;
                false
            }
        }
    }

    /// The kernel says that nobody is there. True if it is down from now on and was not before.
    pub(crate) fn gone(&mut self) -> bool {
        let was_up = self.is_up();
        self.state = State::Down { answers: 0 };
        was_up
    }
}
