//! Time: retransmissions, time-outs, Timer C (§16.8).

use failpoint::failpoint;
use stdx::Instant;
use tables::Counter;
use transaction::{Actions, ClientAction, ClientInput};

use crate::{
    context::{Cancel, Client, Context, ContextId, Stage},
    io::{HopState, OutcomeKind},
    settle,
    step::Step,
};

impl Step<'_, '_> {
    /// Time has passed for a context.
    pub(crate) fn on_tick(&mut self, id: ContextId) {
        let Some(mut context) = self.take(id) else {
            return;
        };
        let now = self.env.now;
        context.armed = None;
        if context.deadline().is_some_and(|deadline| deadline > now) {
            settle::arm(&mut context, self.out);
            self.contexts.put(context);
            return;
        }
        self.step_server(&mut context, transaction::ServerInput::Tick, None);
        // Numbers are places, and no tick adds a branch.
        for number in (0..=u8::MAX).take(context.branches.len()) {
            self.tick_branch(&mut context, number);
        }
        if context.group_at.is_some_and(|at| at <= now) {
            self.on_group_timeout(&mut context);
        }
        if context.trying_at.is_some_and(|at| at <= now) {
            context.trying_at = None;
            if context.stage != Stage::Answered {
                self.answer_local(&mut context, None, 100, None, b"");
            }
        }
        self.conclude(&mut context, None);
        self.release_ended(&mut context);
        self.touch(&mut context);
        self.contexts.put(context);
    }

    fn tick_branch(&mut self, context: &mut Context, number: u8) {
        let (now, timers) = (self.env.now, &self.settings.timers);
        let Some(branch) = context.branch(number) else {
            return;
        };
        let mut actions = Actions::new();
        branch.client = match branch.client.take() {
            None => None,
            Some(Client::Invite(machine)) => machine
                .step(now, timers, ClientInput::Tick, &mut actions)
                .map(Client::Invite),
            Some(Client::NonInvite(machine)) => machine
                .step(now, timers, ClientInput::Tick, &mut actions)
                .map(Client::NonInvite),
        };
        let mut cancel_actions = Actions::new();
        if let Cancel::Sent(machine) = branch.cancel {
            let next = machine.step(now, timers, ClientInput::Tick, &mut cancel_actions);
            branch.cancel = next.map_or(Cancel::Done, Cancel::Sent);
        }
        let timer_c_fired = branch.timer_c.is_some_and(|at| at <= now);
        let hop_timed_out = branch.hop_at.is_some_and(|at| at <= now);
        branch.late_until = branch.late_until.filter(|&at| at > now);
        for action in actions {
            match action {
                ClientAction::Resend if self.budget.as_mut().is_some_and(|left| !left.spend()) => {
                    // As if it had been lost on its way: its timer goes on.
                    self.env.count(Counter::CopiesWithheld);
                }
                ClientAction::Resend => {
                    self.env.count(Counter::RequestRetransmitted);
                    self.resend(context, number);
                }
                ClientAction::Timeout | ClientAction::Failed => self.time_out(context, number),
                // These follow from responses.
                ClientAction::Ack | ClientAction::PassUp | ClientAction::Absorb => {}
            }
        }
        for action in cancel_actions {
            if action == ClientAction::Resend {
                self.env.count(Counter::RequestRetransmitted);
                self.send_cancel(context, number);
            }
        }
        if hop_timed_out {
            self.on_hop_timeout(context, number);
        }
        if timer_c_fired {
            self.on_timer_c(context, number);
        }
    }

    /// Timer C (§16.8), or the end of the wait after a CANCEL (§9.1).
    fn on_timer_c(&mut self, context: &mut Context, number: u8) {
        let Some(branch) = context.branch(number) else {
            return;
        };
        branch.timer_c = None;
        failpoint!("proxy.broken.timer_c", return);
        if !branch.is_pending() {
            return;
        }
        if branch.rang && matches!(branch.cancel, Cancel::No) {
            self.cancel_branch(context, number);
        } else {
            self.time_out(context, number);
        }
    }

    /// No final response has come: as if it were a 408, or a 487 if the caller has cancelled (§16.8, §9.1). The client transaction
    /// ends; what comes for it for some time more is dealt with by `on_late_response`.
    fn time_out(&mut self, context: &mut Context, number: u8) {
        let code = if context.cancelled { 487 } else { 408 };
        let late_until = self.late_until(context);
        let Some(branch) = context.branch(number) else {
            return;
        };
        if !branch.is_pending() {
            return;
        }
        branch.code = code;
        branch.client = None;
        branch.timer_c = None;
        branch.hop_at = None;
        branch.late_until = late_until.filter(|_| branch.sent.is_some());
        let silent = (!branch.rang).then_some((branch.to, branch.destination));
        self.env.count(Counter::BranchTimeout);
        self.leave_seat(context, number);
        self.touch(context);
        if let Some((to, destination)) = silent {
            self.out.hops.push((to, HopState::Silent));
            self.tell(destination, OutcomeKind::Silent);
            if self.try_next(context, number, None) {
                return;
            }
        }
        self.on_bye_unanswered(context);
        if context.is_invite() && context.stage == Stage::Forwarding {
            self.consider_made_up(context, code);
        }
    }

    /// Until when a branch that is given up now is listened to; `None` for other requests than INVITE.
    pub(crate) fn late_until(&self, context: &Context) -> Option<Instant> {
        let limit = self.settings.timers.limit();
        context
            .is_invite()
            .then(|| self.env.now.saturating_add(limit))
    }

    /// A branch could not be sent: it counts as if this response had come (§16.7, §16.9).
    pub(crate) fn fail_branch(
        &mut self,
        context: &mut Context,
        number: u8,
        code: u16,
        counter: Counter,
    ) {
        self.env.count(counter);
        self.leave_seat(context, number);
        if let Some(branch) = context.branch(number) {
            branch.code = code;
            branch.waiting = None;
        }
        self.consider_made_up(context, code);
        self.touch(context);
    }

    /// Lets go of the requests that nobody needs any more: the caller has its answer, and the branch its ACK.
    fn release_ended(&mut self, context: &mut Context) {
        if context.stage != Stage::Answered {
            return;
        }
        for branch in &mut context.branches {
            if !branch.is_alive() && !matches!(branch.cancel, Cancel::Wanted) {
                let sent = branch.sent.take();
                self.release(sent);
            }
        }
    }

    /// Sends a branch's request again.
    fn resend(&mut self, context: &mut Context, number: u8) {
        let Some(branch) = context.branch(number) else {
            return;
        };
        let (listener, to, Some(sent)) = (branch.listener, branch.to, branch.sent) else {
            return;
        };
        let start = self.out.bytes.len();
        let text = self.env.arena.block(sent);
        self.out.bytes.extend_from_slice(text);
        let bytes = text.len();
        self.note_flight(context.id, listener, to, bytes);
        self.queue_from(start, listener, to);
    }
}
