//! Requests on their way downstream (§16.6, §16.11).

use std::net::SocketAddr;

use shm::{AllocClass, InsertError};
use sip::{HeaderName, Method};
use stdx::hash::hash64;
use tables::{Counter, TRANSACTION};
use transaction::{InviteClient, NonInviteClient, Reliability};

use crate::{
    addresses::Interface,
    alias,
    ask::{AskKind, Target},
    branch::{Branch as BranchText, Place},
    context::{Branch, Cancel, Client, Context, ContextId, Row, Stage},
    copy::Copy,
    intake,
    io::{Datagram, OutcomeKind},
    route::{NextHop, next_hop},
    settings::Settings,
    settle::store,
    step::{Hand, Step},
};

/// Most branches of one request, hops that failed included: each has a child in the record, besides five for the request and responses.
pub(crate) const BRANCHES_MAX: usize = shm::CHILDREN_MAX - 5;

impl Step<'_, '_> {
    /// Forwards a request to where its Route set and Request-URI say.
    pub(crate) fn forward_as_addressed(&mut self, context: &mut Context, hand: &Hand<'_>) {
        let target = self.as_addressed(hand);
        self.forward(context, hand, &[target]);
    }

    /// Forwards a request to its targets (§16.6): those that are preferred at once, the others when these have failed.
    pub(crate) fn forward(&mut self, context: &mut Context, hand: &Hand<'_>, targets: &[Target]) {
        if targets.is_empty() {
            self.end_with(context, hand, 480, Counter::Unavailable, b"");
            return;
        }
        if hand.intake.max_forwards == Some(0) {
            // Only an OPTIONS comes here: it is answered where it has come to (§11, §16.3 step 3).
            self.answer_options(context, hand);
            return;
        }
        let bare;
        let targets = match &hand.intake.bare_uri {
            Some(uri) if targets.iter().any(|target| target.uri.is_none()) => {
                bare = with_uri(targets, uri);
                bare.as_slice()
            }
            _ => targets,
        };
        let branches_max = self.settings.branches_max.min(BRANCHES_MAX);
        let by_q;
        let targets = match self.in_groups(context, targets, branches_max) {
            Some(first) => {
                by_q = first;
                by_q.as_slice()
            }
            None => targets.get(..branches_max).unwrap_or(targets),
        };
        if breadth_of_each(hand, targets.len()) == Some(0) {
            self.end_with(context, hand, 440, Counter::TooBroad, b"");
            return;
        }
        if matches!(context.row, Row::None) {
            match self.env.arena.reserve(TRANSACTION, &context.key) {
                Ok(reserved) => context.row = Row::Reserved(reserved),
                // Another slot has it, or is about to: `settle` gives it up.
                Err(error @ (InsertError::Exists { .. } | InsertError::Stale)) => {
                    context.row = Row::Refused(error);
                    return;
                }
                Err(_) => {
                    self.refuse_full(context, hand);
                    return;
                }
            }
        }
        if context.hidden.is_some() && context.request.is_none() {
            // What came, for its answers: what is sent tells nothing of it.
            context.request = store(self.env, hand.raw().bytes(), AllocClass::New);
        }
        if let Some(plan) = context.plan.take()
            && !self.begin_call(context, hand, &plan)
        {
            return;
        }
        context.stage = Stage::Forwarding;
        self.touch(context);
        self.begin_recursion(context, hand, targets);
        self.start_group(context, hand, targets);
        if context.branches.iter().any(Branch::is_pending) {
            // §17.2.1: at once, rather than after 200 ms, because nothing tells us how quick the callee is.
            self.say_trying(context, Some(hand));
        }
        self.conclude(context, Some(hand));
    }

    /// Begins a branch for each of these targets.
    pub(crate) fn start_group(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        targets: &[Target],
    ) {
        let first = context.branches.len();
        let numbers = || (0..BRANCHES_MAX as u8).skip(first);
        for (number, _) in numbers().zip(targets) {
            context.branches.push(Branch::new(number, context));
        }
        for (number, target) in numbers().zip(targets) {
            self.start_branch(context, hand, number, target);
        }
        self.time_group(context);
    }

    /// Begins one branch, that is there already.
    pub(crate) fn start_branch(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        number: u8,
        target: &Target,
    ) {
        // A party's Contact as a dialog has it.
        let led = target
            .uri
            .as_deref()
            .filter(|_| target.next_hop.is_none() && is_last_hop(hand, target));
        let led = led.and_then(alias::led).map(|led| Target {
            uri: led.uri,
            next_hop: led.next_hop,
            ..target.clone()
        });
        let target = led.as_ref().unwrap_or(target);
        match next_hop(&hand.message, &hand.intake.route, target) {
            NextHop::Address(to) => self.launch_to(context, hand, number, target, &[to]),
            NextHop::Name(uri) => self.resolve(context, number, target, uri),
            NextHop::Nowhere(code) => {
                self.leave_rest(context, number, target, &[]);
                self.fail_branch(context, number, code, Counter::Unroutable);
                self.try_next(context, number, Some(hand));
            }
        }
    }

    /// Asks for the address of a branch's next hop.
    fn resolve(&mut self, context: &mut Context, number: u8, target: &Target, uri: Vec<u8>) {
        if let Some(branch) = context.branch(number) {
            branch.waiting = Some(Box::new(Target {
                next_hop: Some(uri),
                ..target.clone()
            }));
        }
        self.ask(context, AskKind::Resolve { branch: number });
    }

    /// An address has come for a branch that waited for it.
    pub(crate) fn on_resolved(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        number: u8,
        addresses: &[SocketAddr],
    ) {
        let Some(target) = context
            .branch(number)
            .and_then(|branch| branch.waiting.take())
        else {
            self.env.count(Counter::AnswerStale);
            return;
        };
        self.touch(context);
        if context.method == Method::Ack {
            match addresses.first() {
                Some(&to) if self.holds_request(context, hand, number, &target, &[to]) => return,
                Some(&to) => self.send_stateless(hand, &target, to, context.listener),
                None => self.env.count(Counter::AckUnmatched),
            }
            self.end_silently(context);
            return;
        }
        self.launch_to(context, hand, number, &target, addresses);
        self.conclude(context, Some(hand));
        self.forget_request(context);
    }

    /// Lets go of the stored request, once what was sent says as much.
    pub(crate) fn forget_request(&mut self, context: &mut Context) {
        let sent = context.branches.iter().any(|branch| branch.sent.is_some());
        let kept = context.waits() || context.may_go_on() || context.hidden.is_some();
        if sent && !kept {
            let request = context.request.take();
            self.release(request);
        }
    }

    /// Sends one copy and starts its client transaction (§16.6 steps 8 to 11).
    pub(crate) fn launch(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        number: u8,
        target: &Target,
        to: SocketAddr,
    ) {
        let row = match &context.row {
            Row::Reserved(reserved) => reserved.row(),
            Row::Live(row, _) => *row,
            Row::None | Row::Refused(_) => {
                self.fail_branch(context, number, 500, Counter::CommitFailed);
                return;
            }
        };
        let wanted = wanted_for(target, hand, context.listener, &self.settings);
        let Some(listener) = self.settings.listener_towards(&to, wanted) else {
            self.fail_branch(context, number, 500, Counter::Unroutable);
            return;
        };
        if let Some(branch) = context.branch(number) {
            branch.destination = target.destination;
        }
        if !self.take_seat(context, number, target) {
            return;
        }
        let copy = Copy {
            target,
            listener,
            came_in_by: context.listener,
            breadth: breadth_of_each(hand, open_branches(context)),
            call: context.call,
            hidden: context.hidden,
            kept: context.request.is_some(),
            source: context.source,
            branch: BranchText {
                place: Place::Transaction { row, number },
                listener: Some(context.listener.id),
                fold: hand.intake.fold,
            },
        };
        let start = self.out.bytes.len();
        if self.write_copy(hand, &copy).is_err() {
            self.out.bytes.truncate(start);
            self.fail_branch(context, number, 500, Counter::Unroutable);
            return;
        }
        let text = self.out.bytes.get(start..).unwrap_or_default();
        let bytes = text.len();
        if bytes > self.settings.forking.udp_request_max {
            // §18.1.1: this is for a stream, and there is none.
            self.out.bytes.truncate(start);
            self.fail_branch(context, number, 513, Counter::HopTooLarge);
            return;
        }
        let Some(sent) = store(self.env, text, AllocClass::New) else {
            self.out.bytes.truncate(start);
            self.fail_branch(context, number, 503, Counter::Full);
            return;
        };
        let (now, timers) = (self.env.now, &self.settings.timers);
        let (invite, reliability) = (context.is_invite(), Reliability::Unreliable);
        let timer_c = invite.then(|| now.saturating_add(self.settings.timer_c));
        let hop_timeout = now.saturating_add(self.settings.forking.hop_timeout);
        if let Some(branch) = context.branch(number) {
            branch.client = Some(if invite {
                Client::Invite(InviteClient::new(now, timers, reliability))
            } else {
                Client::NonInvite(NonInviteClient::new(now, timers, reliability))
            });
            branch.to = to;
            branch.listener = listener;
            branch.sent = Some(sent);
            branch.timer_c = timer_c;
            branch.hop_at = branch.rest.is_some().then_some(hop_timeout);
            branch.sent_at = target.destination.map(|_| now);
        }
        self.tell(target.destination, OutcomeKind::Sent);
        self.env.count(Counter::Forwarded);
        self.note_flight(context.id, listener, to, bytes);
        if let Some(budget) = self.budget {
            budget.earn();
        }
        self.queue_from(start, listener, to);
    }

    /// Sends an ACK for a 2xx on its way (§16.11). Nothing is kept, unless its address must be asked for: then returns the
    /// context that waits for the answer.
    pub(crate) fn forward_ack(
        &mut self,
        hand: &Hand<'_>,
        datagram: &Datagram<'_>,
    ) -> Option<ContextId> {
        let target = self.as_addressed(hand);
        match next_hop(&hand.message, &hand.intake.route, &target) {
            NextHop::Address(to) => {
                let held = self.holds_ack(hand, datagram, &target, to);
                if held.is_none() {
                    self.send_stateless(hand, &target, to, datagram.listener);
                }
                held
            }
            NextHop::Nowhere(_) => {
                self.env.count(Counter::AckUnmatched);
                None
            }
            NextHop::Name(uri) => {
                let id = self.add(hand, Method::Ack, datagram, None, None);
                let mut context = self.take(id)?;
                context.stage = Stage::Forwarding;
                context.branches.push(Branch::new(0, &context));
                self.resolve(&mut context, 0, &target, uri);
                self.contexts.put(context);
                Some(id)
            }
        }
    }

    /// Sends a copy with nothing kept.
    pub(crate) fn send_stateless(
        &mut self,
        hand: &Hand<'_>,
        target: &Target,
        to: SocketAddr,
        came_in_by: Interface,
    ) {
        let wanted = wanted_for(target, hand, came_in_by, &self.settings);
        let Some(listener) = self.settings.listener_towards(&to, wanted) else {
            self.env.count(Counter::Unroutable);
            return;
        };
        // Of the incoming branch, so that a retransmission takes the same one downstream.
        let derived = hash64(self.key, &[b"stateless", &hand.way.tag]);
        let copy = Copy {
            target,
            listener,
            came_in_by,
            breadth: None,
            call: self.call_of_ack(hand),
            hidden: hand.hidden.map(|(_, hidden)| hidden),
            kept: false,
            source: hand.way.to,
            branch: BranchText {
                place: Place::Stateless { derived },
                listener: Some(came_in_by.id),
                fold: hand.intake.fold,
            },
        };
        let start = self.out.bytes.len();
        if self.write_copy(hand, &copy).is_err() {
            self.out.bytes.truncate(start);
            self.env.count(Counter::Unroutable);
            return;
        }
        self.env.count(Counter::ForwardedStateless);
        self.queue_from(start, listener, to);
    }

    /// To where the Route set and the Request-URI say, if that is where it belongs.
    pub(crate) fn as_addressed(&mut self, hand: &Hand<'_>) -> Target {
        if let Some(back) = self.brought_back(hand) {
            return back;
        }
        let route = &hand.intake.route;
        if route.place.is_some()
            && is_last_hop(hand, &Target::default())
            && let Some(line) = hand.message.request()
            && let Some(led) = alias::led(line.uri).or_else(|| self.led_by_record(hand))
        {
            return led;
        }
        Target {
            uri: hand
                .intake
                .bare_uri
                .clone()
                .filter(|_| !route.strict_before),
            ..Target::default()
        }
    }

    /// What this server can do (§11.2).
    pub(crate) fn answer_options(&mut self, context: &mut Context, hand: &Hand<'_>) {
        let unsupported = intake::unsupported(&hand.message, HeaderName::Require, |option| {
            option.eq_ignore_ascii_case(b"path")
        });
        if unsupported.is_empty() {
            self.end_with(context, hand, 200, Counter::AnsweredHere, OPTIONS_HEADERS);
        } else {
            self.end_with(context, hand, 420, Counter::BadExtension, &unsupported);
        }
    }
}

/// What a copy is sent by, if that leads to where it goes: what the binding was registered by, what our Route names, or what it came in by.
fn wanted_for(
    target: &Target,
    hand: &Hand<'_>,
    came_in_by: Interface,
    settings: &Settings,
) -> Interface {
    let of_route = hand.intake.route.listener;
    // A reload may have taken it away.
    let known = target
        .listener
        .filter(|&id| settings.listener(id).is_some());
    match known {
        // What a phone registered by is what lets messages through to it.
        Some(id) if target.local.is_some() => Interface {
            id,
            ip: target.local,
        },
        Some(id) => [of_route, Some(came_in_by)]
            .into_iter()
            .flatten()
            .find(|known| known.id == id)
            .unwrap_or(id.into()),
        None => of_route.unwrap_or(came_in_by),
    }
}

/// Whether nothing but the Request-URI says where a request goes.
fn is_last_hop(hand: &Hand<'_>, target: &Target) -> bool {
    let route = &hand.intake.route;
    match &target.path {
        Some(path) => path.is_empty(),
        None => {
            let beyond = hand.message.values(HeaderName::Route).nth(route.ours);
            !route.strict_before && beyond.is_none()
        }
    }
}

/// Targets that would keep the Request-URI get this one.
fn with_uri(targets: &[Target], uri: &[u8]) -> Vec<Target> {
    let mut targets = targets.to_vec();
    for target in &mut targets {
        target.uri.get_or_insert_with(|| uri.to_vec());
    }
    targets
}

/// How many copies there are that may still bring an answer, of which each has its share of the breadth.
fn open_branches(context: &Context) -> usize {
    context
        .branches
        .iter()
        .filter(|branch| branch.is_active())
        .count()
}

/// Max-Breadth of a request that has none (RFC 5393 §5.3.3).
const BREADTH_DEFAULT: usize = 60;

/// In how many branches each copy may be at the same moment, if there are so many copies (RFC 5393 §5.3.3); `None` leaves that as it is.
fn breadth_of_each(hand: &Hand<'_>, copies: usize) -> Option<usize> {
    if copies < 2 {
        return None;
    }
    let whole = match hand.message.first(HeaderName::MaxBreadth) {
        // What is no number is none.
        Some(header) => std::str::from_utf8(header.value)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_default(),
        None => BREADTH_DEFAULT,
    };
    whole.checked_div(copies)
}

const OPTIONS_HEADERS: &[u8] = b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER\r\nAccept: application/sdp\r\nSupported: path\r\n";

impl Branch {
    /// A branch that has not been sent.
    pub(crate) fn new(number: u8, context: &Context) -> Self {
        Self {
            number,
            client: None,
            to: context.source,
            listener: context.listener,
            sent: None,
            code: 0,
            rang: false,
            cancel: Cancel::No,
            timer_c: None,
            waiting: None,
            rest: None,
            hop_at: None,
            late_until: None,
            destination: None,
            sent_at: None,
        }
    }
}
