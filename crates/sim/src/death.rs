//! Deaths: where a slot that is run may die, and how it does.
//!
//! A death is an unwinding that nobody on the way stops: what the slot had on its heap and stack is of no use afterwards, and the arena
//! is as it was at the point. Points are those of the crate `slot`, by the names of the worker's failpoints; and with the feature `failpoints` every failpoint of the code below it, in the middle of the arena's operations.

use std::{cell::RefCell, panic};

use slot::Point;

/// Where a slot dies the next time that it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// At the nth point that it passes, counted from 1.
    Nth(u32),
    /// At this point, the nth time that it passes it.
    At(&'static str, u32),
}

/// What an unwinding carries that is a death.
struct Died(Death);

/// A death.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) at: &'static str,
    /// Of the message at hand: whoever serves it dies here.
    pub(crate) poisoned: bool,
}

/// Whoever serves a message with this dies, at the point whose name follows.
pub(crate) const POISON: &str = "X-Poison: ";

struct Reaper {
    /// Only while a slot is run do points count.
    running: bool,
    aim: Option<Aim>,
    /// Where the message at hand kills.
    poison: Option<&'static str>,
}

thread_local! {
    static REAPER: RefCell<Reaper> = const { RefCell::new(Reaper { running: false, aim: None, poison: None }) };
}

/// Where poison can be deadly: while it is at hand.
pub(crate) const POISONED: [&str; 4] = [
    "worker.begun",
    "sim.stepped",
    "worker.settled",
    "worker.served",
];

/// A message is served from now on.
pub(crate) fn at_hand(bytes: &[u8]) {
    let poison = POISON.as_bytes();
    let found = bytes
        .windows(poison.len())
        .position(|part| part == poison)
        .and_then(|at| bytes.get(at + poison.len()..));
    let deadly = found.and_then(|rest| {
        let mut points = POISONED.into_iter();
        points.find(|point| rest.starts_with(point.as_bytes()))
    });
    REAPER.with_borrow_mut(|reaper| reaper.poison = deadly);
}

#[cfg(feature = "failpoints")]
thread_local! {
    /// A deliberate bug, by its failpoint's name.
    static MUTANT: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// A point of a slot's loop.
pub(crate) fn point(point: Point) {
    named(match point {
        Point::Recovered => "takeover.recovered",
        Point::Adopted => "takeover.adopted",
        Point::AdoptedSettled => "takeover.settled",
        Point::Replayed => "takeover.replayed",
        Point::Begun => "worker.begun",
        Point::Stepped => "sim.stepped",
        Point::Answered => "sim.answered",
        Point::Settled => "worker.settled",
        Point::Passed => "sim.passed",
        Point::Served => "worker.served",
        Point::Ticked => "sim.ticked",
        Point::TickSettled => "sim.tick_settled",
        Point::AnswerSettled => "sim.answer_settled",
        Point::Submitted => "worker.submitted",
        Point::Done => "worker.done",
        Point::GivenBack => "worker.given_back",
    });
}

/// A point by its name.
pub(crate) fn named(name: &'static str) {
    let death = REAPER.with_borrow_mut(|reaper| reaper.passes(name));
    if let Some(death) = death {
        panic::resume_unwind(Box::new(Died(death)));
    }
}

impl Reaper {
    /// Whether the slot dies here.
    fn passes(&mut self, at: &'static str) -> Option<Death> {
        if !self.running {
            return None;
        }
        if self.poison == Some(at) {
            self.poison = None;
            let poisoned = true;
            return Some(Death { at, poisoned });
        }
        let left = match &mut self.aim {
            Some(Aim::Nth(left)) => left,
            Some(Aim::At(wanted, left)) if *wanted == at => left,
            _ => return None,
        };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return None;
        }
        self.aim = None;
        let poisoned = false;
        Some(Death { at, poisoned })
    }
}

/// Runs a slot; where it died, if it did. An aim that it does not reach stays for the next run.
pub(crate) fn run<R>(aim: &mut Option<Aim>, work: impl FnOnce() -> R) -> Result<R, Death> {
    #[cfg(feature = "failpoints")]
    let _kept = hooked();
    REAPER.with_borrow_mut(|reaper| {
        reaper.running = true;
        reaper.poison = None;
        reaper.aim = aim.take();
    });
    let result = panic::catch_unwind(panic::AssertUnwindSafe(work));
    REAPER.with_borrow_mut(|reaper| {
        reaper.running = false;
        *aim = reaper.aim.take();
    });
    result.map_err(|payload| match payload.downcast::<Died>() {
        Ok(died) => died.0,
        // A fault of ours, or an invariant that does not hold.
        Err(payload) => panic::resume_unwind(payload),
    })
}

/// Has this thread's code do a deliberate wrong, one of the failpoints with `broken` in their names, from now on.
#[cfg(feature = "failpoints")]
pub fn set_mutant(name: Option<&'static str>) {
    MUTANT.set(name);
}

#[cfg(feature = "failpoints")]
fn hooked() -> failpoint::Hooked {
    let mutant = MUTANT.get();
    failpoint::hook(move |name| {
        if name.contains(".broken.") {
            return (mutant == Some(name)).then_some(failpoint::Action::Error);
        }
        named(name);
        None
    })
}
