//! From one hop of a target to the next: on silence, when the kernel knows no way, or when the hop says so (RFC 3263 §4.3).
//!
//! A target may have several addresses (what its name resolved to) and several URIs to be sent to (the destinations of a group). One is tried after another,
//! each as a client transaction of its own with a branch of its own; what the last of them says is what the target has said. What is left of them is
//! in the record, so that an heir goes on from there.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use failpoint::failpoint;
use sip::{HeaderName, Message};
use stdx::Instant;
use tables::Counter;
use transaction::{Actions, ClientAction, ClientInput};

use crate::{
    addresses::Interface,
    ask::{Destination, Target},
    context::{Branch, Cancel, Client, Context, ContextId, Rest, Stage},
    forward::BRANCHES_MAX,
    io::{HopState, Outcome, OutcomeKind},
    step::{Hand, Step},
};

/// Most addresses of one target that are tried.
pub(crate) const HOPS_MAX: usize = 8;
/// Requests that are remembered for an error of the kernel about them, which comes with the turn that sends them or the one after.
const FLIGHTS_MAX: usize = 1024;

/// Requests that were sent lately.
#[derive(Debug, Default)]
pub(crate) struct Flights(VecDeque<Flight>);

#[derive(Clone, Copy, Debug)]
struct Flight {
    listener: u32,
    to: SocketAddr,
    bytes: usize,
    id: ContextId,
}

impl Flights {
    fn note(&mut self, flight: Flight) {
        if self.0.len() >= FLIGHTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(flight);
    }

    /// Takes out those that went by this listener to this address, of so many bytes at least.
    pub(crate) fn take(
        &mut self,
        listener: u32,
        to: SocketAddr,
        least: Option<usize>,
    ) -> Vec<ContextId> {
        let mut found = Vec::new();
        self.0.retain(|flight| {
            let hit = flight.listener == listener
                && flight.to == to
                && least.is_none_or(|least| flight.bytes >= least);
            if hit && !found.contains(&flight.id) {
                found.push(flight.id);
            }
            !hit
        });
        found
    }
}

impl Step<'_, '_> {
    /// Sends a branch to the first of these addresses, and keeps the others.
    pub(crate) fn launch_to(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        number: u8,
        target: &Target,
        hops: &[SocketAddr],
    ) {
        if !self.holds_request(context, hand, number, target, hops) {
            self.launch_now(context, hand, number, target, hops);
        }
    }

    /// As [`Step::launch_to`], with nothing more to wait for.
    pub(crate) fn launch_now(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        number: u8,
        target: &Target,
        hops: &[SocketAddr],
    ) {
        let (first, others) = match hops.split_first() {
            Some((&first, others)) => (Some(first), others),
            None => (None, hops),
        };
        self.leave_rest(context, number, target, others);
        match first {
            Some(to) => self.launch(context, hand, number, target, to),
            None => self.fail_branch(context, number, 500, Counter::Unroutable),
        }
        if context
            .branch(number)
            .is_some_and(|branch| branch.code != 0)
        {
            self.try_next(context, number, Some(hand));
        }
    }

    /// Notes where else a branch may go.
    pub(crate) fn leave_rest(
        &mut self,
        context: &mut Context,
        number: u8,
        target: &Target,
        hops: &[SocketAddr],
    ) {
        if hops.is_empty() && target.backups.is_empty() {
            return;
        }
        if let Some(branch) = context.branch(number) {
            branch.rest = Some(Box::new(Rest {
                target: target.clone(),
                hops: hops.iter().take(HOPS_MAX).copied().collect(),
            }));
        }
    }

    /// Goes on to the next hop of a branch's target, by a branch of its own. False if there is none, or nobody wants it any more: then what has
    /// become of this branch is what has become of the target.
    pub(crate) fn try_next(
        &mut self,
        context: &mut Context,
        number: u8,
        hand: Option<&Hand<'_>>,
    ) -> bool {
        failpoint!("proxy.broken.next_hop", false);
        let wanted = context.stage == Stage::Forwarding
            && !context.cancelled
            && context.best.is_none_or(|best| best.code < 600)
            && context.branches.len() < BRANCHES_MAX;
        let rest = context.branch(number).and_then(|branch| {
            branch.hop_at = None;
            let rest = branch.rest.take()?;
            (wanted && matches!(branch.cancel, Cancel::No)).then_some(rest)
        });
        let Some(rest) = rest else {
            return false;
        };
        self.env.count(Counter::HopFailed);
        match hand {
            Some(hand) => self.go_on(context, *rest, hand),
            None => {
                let done = self.with_request(context, |step, context, hand| {
                    step.go_on(context, *rest, hand)
                });
                if done.is_none() {
                    return false;
                }
            }
        }
        self.touch(context);
        true
    }

    fn go_on(&mut self, context: &mut Context, rest: Rest, hand: &Hand<'_>) {
        let Rest { mut target, hops } = rest;
        let Ok(number) = u8::try_from(context.branches.len()) else {
            return;
        };
        context.branches.push(Branch::new(number, context));
        if !hops.is_empty() {
            self.launch_to(context, hand, number, &target, &hops);
        } else if !target.backups.is_empty() {
            let next = target.backups.remove(0);
            target.next_hop = Some(next.uri);
            target.destination = next.destination;
            self.start_branch(context, hand, number, &target);
        }
    }

    /// A hop has been silent for so long that the next one is tried. What it says after that is looked at all the same.
    pub(crate) fn on_hop_timeout(&mut self, context: &mut Context, number: u8) {
        let late_until = self.late_until(context);
        let Some(branch) = context.branch(number) else {
            return;
        };
        branch.hop_at = None;
        let (to, silent) = (branch.to, branch.is_pending() && !branch.rang);
        let destination = branch.destination;
        if !silent || !self.try_next(context, number, None) {
            return;
        }
        self.out.hops.push((to, HopState::Silent));
        self.tell(destination, OutcomeKind::Silent);
        self.leave_seat(context, number);
        if let Some(branch) = context.branch(number) {
            abandon(branch, late_until);
        }
    }

    /// A datagram to this address did not leave.
    pub(crate) fn on_unreachable(
        &mut self,
        id: ContextId,
        listener: u32,
        to: SocketAddr,
        too_long: Option<usize>,
    ) {
        failpoint!("proxy.broken.unreachable", return);
        let Some(mut context) = self.take(id) else {
            return;
        };
        for number in (0..=u8::MAX).take(context.branches.len()) {
            let goes_there = |branch: &Branch| {
                branch.is_pending() && branch.to == to && branch.listener.id == listener
            };
            let sent = context
                .branch(number)
                .filter(|branch| goes_there(branch))
                .and_then(|branch| branch.sent);
            let Some(sent) = sent else { continue };
            let bytes = self.env.arena.block(sent).len();
            if too_long.is_none_or(|least| bytes >= least) {
                self.fail_in_transport(&mut context, number, too_long.is_some());
            }
        }
        self.conclude(&mut context, None);
        self.touch(&mut context);
        self.contexts.put(context);
    }

    fn fail_in_transport(&mut self, context: &mut Context, number: u8, too_long: bool) {
        let (now, timers) = (self.env.now, &self.settings.timers);
        let mut actions = Actions::new();
        let Some(branch) = context.branch(number) else {
            return;
        };
        let (to, destination) = (branch.to, branch.destination);
        // §16.9: as if a 503 had come, which goes on as a 500 (§16.7 step 6).
        let (code, counter) = match too_long {
            true => (513, Counter::HopTooLarge),
            false => (500, Counter::Unroutable),
        };
        let input = ClientInput::TransportError;
        branch.client = match branch.client.take() {
            None => None,
            Some(Client::Invite(machine)) => machine
                .step(now, timers, input, &mut actions)
                .map(Client::Invite),
            Some(Client::NonInvite(machine)) => machine
                .step(now, timers, input, &mut actions)
                .map(Client::NonInvite),
        };
        // A peer that has answered is there, whatever an error about a later datagram says.
        if !actions.iter().any(|action| action == ClientAction::Failed) {
            return;
        }
        if !too_long {
            self.out.hops.push((to, HopState::Unreachable));
            self.tell(destination, OutcomeKind::Unreachable);
        }
        self.leave_seat(context, number);
        if let Some(branch) = context.branch(number) {
            branch.timer_c = None;
            branch.code = code;
        }
        if self.try_next(context, number, None) {
            return;
        }
        if !too_long {
            self.on_bye_unanswered(context);
        }
        self.env.count(counter);
        let code = if context.cancelled { 487 } else { code };
        self.consider_made_up(context, code);
    }

    /// What became of a request to a destination of a group, if it went to one.
    pub(crate) fn tell(&mut self, destination: Option<Destination>, kind: OutcomeKind) {
        if let Some(Destination { resource, .. }) = destination {
            self.out.outcomes.push(Outcome { resource, kind });
        }
    }

    /// The first answer of a hop to a request.
    pub(crate) fn note_answer(&mut self, to: SocketAddr, message: &Message<'_>, code: u16) {
        let state = match code {
            503 => HopState::Busy {
                retry_after: retry_after(message),
            },
            _ => HopState::Answered,
        };
        self.out.hops.push((to, state));
    }

    /// Remembers that a request goes out, in case that it does not.
    pub(crate) fn note_flight(
        &mut self,
        id: ContextId,
        listener: Interface,
        to: SocketAddr,
        bytes: usize,
    ) {
        let listener = listener.id;
        self.flights.note(Flight {
            listener,
            to,
            bytes,
            id,
        });
    }
}

/// Nobody waits for this branch any more. An INVITE, which has a `late_until`, is cancelled if it shows a sign of life until then.
pub(crate) fn abandon(branch: &mut Branch, late_until: Option<Instant>) {
    branch.code = 408;
    branch.client = None;
    branch.timer_c = None;
    branch.waiting = None;
    if late_until.is_some() && branch.sent.is_some() {
        branch.cancel = Cancel::Wanted;
        branch.late_until = late_until;
    }
}

/// How long a 503 asks to be left alone; a comment or parameter behind the number is of no use here.
fn retry_after(message: &Message<'_>) -> Option<Duration> {
    let value = message.first(HeaderName::RetryAfter)?.value;
    let digits = value
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let text = std::str::from_utf8(value.get(..digits)?).ok()?;
    text.parse().ok().map(Duration::from_secs)
}
