//! Answers to questions, and what follows from them.

use sip::{Method, uri::Uri};
use tables::Counter;

use crate::{
    ask::{Admission, Answer, AskId, AskKind, CallPlan, Decision, Target},
    context::{Context, Stage},
    step::{Hand, RESOLVE_BASE, Step},
};

impl Step<'_, '_> {
    /// An answer, for the request at hand or for a stored one.
    pub(crate) fn on_answer(&mut self, id: AskId, answer: Answer, at_hand: Option<&Hand<'_>>) {
        let Some(mut context) = self.take(id.context) else {
            self.env.count(Counter::AnswerStale);
            return;
        };
        let number = id.number;
        if let Answer::Media(outcome) = &answer {
            self.on_media(&mut context, number, outcome);
            self.contexts.put(context);
            return;
        }
        match at_hand {
            Some(hand) => self.decide(&mut context, hand, number, answer),
            None => {
                let done = self.with_request(&mut context, |step, context, hand| {
                    step.decide(context, hand, number, answer)
                });
                if done.is_none() {
                    self.env.count(Counter::AnswerStale);
                }
            }
        }
        self.contexts.put(context);
    }

    fn decide(&mut self, context: &mut Context, hand: &Hand<'_>, number: u16, answer: Answer) {
        if let (Answer::Resolved(addresses), Some(branch)) =
            (&answer, number.checked_sub(RESOLVE_BASE))
        {
            let branch = u8::try_from(branch).unwrap_or(u8::MAX);
            self.on_resolved(context, hand, branch, addresses);
            return;
        }
        if number != context.asked {
            self.env.count(Counter::AnswerStale);
            return;
        }
        match (context.stage, answer) {
            (Stage::Admission, Answer::Admitted(admission)) => {
                self.on_admitted(context, hand, admission)
            }
            (Stage::Credentials, Answer::Credentials(account)) => {
                self.on_credentials(context, hand, account.as_deref())
            }
            (Stage::Routing, Answer::Routed(decision, plan)) => {
                self.on_routed(context, hand, decision, plan)
            }
            // An answer of the wrong kind, or one that comes after a CANCEL.
            _ => self.env.count(Counter::AnswerStale),
        }
    }

    fn on_admitted(&mut self, context: &mut Context, hand: &Hand<'_>, admission: Admission) {
        match admission {
            Admission::Allow => self.ask_route(context, hand),
            Admission::Reject { code } => self.end_with(context, hand, code, counter_of(code), b""),
            Admission::Authenticate { realm, also } => {
                self.authenticate(context, hand, realm, also)
            }
        }
    }

    pub(crate) fn ask_route(&mut self, context: &mut Context, hand: &Hand<'_>) {
        if self.replays {
            self.leave_seats_of_the_dead(context, hand);
        }
        context.stage = Stage::Routing;
        self.touch(context);
        self.ask(context, AskKind::Route);
    }

    fn on_routed(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        decision: Decision,
        plan: CallPlan,
    ) {
        context.hidden = self.begin_hidden(context, hand, plan.hide);
        if context.is_invite() && (hand.intake.record_route || context.hidden.is_some()) {
            context.plan = Some(plan);
        }
        match decision {
            Decision::Reject { code } => {
                self.end_with(context, hand, code, Counter::RejectedByRoute, b"")
            }
            Decision::Targets(targets) => self.forward(context, hand, &targets),
            Decision::Dns => self.forward_as_addressed(context, hand),
            Decision::Location { known } => self.on_location(context, hand, known),
            Decision::LocationOf { uri, known } => match Uri::parse(&uri) {
                Ok(uri) => self.forward_to_bindings(context, hand, &uri, known),
                Err(_) => self.end_with(context, hand, 404, Counter::NotFound, b""),
            },
        }
    }

    /// Our own business: REGISTER, OPTIONS for the server, and users who have registered.
    fn on_location(&mut self, context: &mut Context, hand: &Hand<'_>, known: bool) {
        let Some(line) = hand.message.request() else {
            return;
        };
        if line.method == Method::Register {
            self.on_register(context, hand);
            return;
        }
        let Ok(uri) = Uri::parse(line.uri) else {
            self.end_with(context, hand, 400, Counter::BadRequest, b"");
            return;
        };
        let last_hop = hand.intake.max_forwards == Some(0);
        if line.method == Method::Options && (uri.user.is_none() || last_hop) {
            self.answer_options(context, hand);
            return;
        }
        self.forward_to_bindings(context, hand, &uri, known);
    }

    /// To whoever has registered for this URI's AOR.
    fn forward_to_bindings(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        uri: &Uri<'_>,
        known: bool,
    ) {
        let mut targets = Vec::new();
        let found = crate::registration::targets(self.env, uri, &mut targets);
        match (targets.is_empty(), found || known) {
            (false, _) => self.forward(context, hand, &targets),
            (true, true) => self.refuse_found(context, hand, 480, Counter::Unavailable),
            (true, false) => self.refuse_found(context, hand, 404, Counter::NotFound),
        }
    }
}

fn counter_of(code: u16) -> Counter {
    match code {
        404 => Counter::NotFound,
        480 => Counter::Unavailable,
        _ => Counter::Forbidden,
    }
}

/// Only used by the router's answers.
impl Target {
    /// A new Request-URI.
    pub fn uri(uri: impl Into<Vec<u8>>) -> Self {
        Self {
            uri: Some(uri.into()),
            ..Self::default()
        }
    }

    /// Whether one of its next hops is a destination of a group.
    pub(crate) fn has_destination(&self) -> bool {
        let mut backups = self.backups.iter();
        self.destination.is_some() || backups.any(|backup| backup.destination.is_some())
    }

    /// Another next hop, with the Request-URI kept.
    pub fn next_hop(uri: impl Into<Vec<u8>>) -> Self {
        Self {
            next_hop: Some(uri.into()),
            ..Self::default()
        }
    }
}
