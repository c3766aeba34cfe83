//! Responses from downstream and the response context (§16.7).

use shm::AllocClass;
use sip::{CSeq, HeaderName, Message, Method, Via, build};
use tables::Counter;
use transaction::{Actions, ClientAction, ClientInput, NonInviteClient, Reliability};

use crate::{
    branch::{Branch as BranchText, Place},
    context::{Branch, Cancel, Client, Context, ContextId, Kept, Stage},
    io::{Datagram, Disposition},
    proxy::{Hand, Step, store},
};

impl Step<'_, '_> {
    /// A well-formed response.
    pub(crate) fn on_response(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
    ) -> Disposition {
        let via = message
            .first_value(HeaderName::Via)
            .and_then(|value| Via::parse(value.value).ok());
        // §16.7 step 3, §18.1.2: a top Via that is not ours. The seal says so better than sent-by would.
        let branch = via
            .and_then(|via| via.branch())
            .and_then(|branch| BranchText::decode(self.key, branch));
        let (Some(branch), Ok(cseq), Some(status)) = (branch, message.cseq(), message.status())
        else {
            self.env.count(Counter::ResponseForeign);
            return Disposition::Served;
        };
        let Place::Transaction { row, number } = branch.place else {
            self.pass_stateless(message, datagram, branch.listener);
            return Disposition::Served;
        };
        match self.env.arena.with(row, |record| record.owner) {
            Some(owner) if owner != self.slot => return Disposition::Owner(owner),
            Some(_) => {
                if let Some(context) = self
                    .contexts
                    .of_row(row)
                    .and_then(|id| self.contexts.take(id))
                {
                    let context = self.on_branch_response(
                        context,
                        number,
                        message,
                        datagram,
                        &cseq,
                        status.code,
                    );
                    self.contexts.put(context);
                    return Disposition::Served;
                }
            }
            None => {}
        }
        if cseq.method == Method::Cancel {
            self.env.count(Counter::ResponseAbsorbed);
        } else {
            self.pass_stateless(message, datagram, branch.listener);
        }
        Disposition::Served
    }

    fn on_branch_response(
        &mut self,
        mut context: Box<Context>,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        cseq: &CSeq<'_>,
        code: u16,
    ) -> Box<Context> {
        let Some(branch) = context.branch(number) else {
            self.env.count(Counter::ResponseAbsorbed);
            return context;
        };
        if cseq.method == Method::Cancel {
            self.on_cancel_response(branch, code);
            self.touch(&mut context);
            return context;
        }
        let Some(client) = branch.client.take() else {
            // The client transaction has ended; a 2xx to INVITE is passed on all the same (§16.7 step 5, §13.2.2.4).
            if matches!(code, 200..300) && cseq.method == Method::Invite {
                self.pass_stateless(message, datagram, Some(context.listener));
            } else {
                self.env.count(Counter::ResponseAbsorbed);
            }
            return context;
        };
        let (now, timers) = (self.env.now, &self.settings.timers);
        let input = ClientInput::Response(code);
        let mut invite_actions = Actions::new();
        branch.client = match client {
            Client::Invite(machine) => machine
                .step(now, timers, input, &mut invite_actions)
                .map(Client::Invite),
            Client::NonInvite(machine) => machine
                .step(now, timers, input, &mut invite_actions)
                .map(Client::NonInvite),
        };
        for action in invite_actions {
            match action {
                ClientAction::PassUp => {
                    self.on_passed_up(&mut context, number, message, datagram, code)
                }
                ClientAction::Ack => self.acknowledge(&mut context, number, message),
                ClientAction::Absorb => self.env.count(Counter::ResponseAbsorbed),
                ClientAction::Resend | ClientAction::Timeout | ClientAction::Failed => {}
            }
        }
        context
    }

    /// The answer to a CANCEL of ours only ends the CANCEL's own transaction.
    fn on_cancel_response(&mut self, branch: &mut Branch, code: u16) {
        self.env.count(Counter::ResponseAbsorbed);
        if let Cancel::Sent(machine) = branch.cancel {
            let mut ignored = Actions::new();
            let next = machine.step(
                self.env.now,
                &self.settings.timers,
                ClientInput::Response(code),
                &mut ignored,
            );
            branch.cancel = next.map_or(Cancel::Done, Cancel::Sent);
        }
    }

    /// A response that the client transaction passes to the response context.
    fn on_passed_up(
        &mut self,
        context: &mut Context,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        code: u16,
    ) {
        self.touch(context);
        match code {
            100..200 => self.on_provisional(context, number, message, code),
            200..300 => self.on_success(context, number, message, datagram, code),
            _ => self.on_failure(context, number, message, code),
        }
    }

    fn on_provisional(
        &mut self,
        context: &mut Context,
        number: u8,
        message: &Message<'_>,
        code: u16,
    ) {
        let timer_c = self.env.now + self.settings.timer_c;
        let Some(branch) = context.branch(number) else {
            return;
        };
        branch.rang = true;
        match branch.cancel {
            // §9.1: a CANCEL waits for a sign of life.
            Cancel::Wanted => self.cancel_branch(context, number),
            // Step 2; a cancelled branch keeps its shorter limit.
            Cancel::No if code > 100 && branch.timer_c.is_some() => branch.timer_c = Some(timer_c),
            Cancel::No | Cancel::Sent(_) | Cancel::Done => {}
        }
        if code > 100 && context.stage == Stage::Forwarding {
            self.pass_upstream(context, message, code);
        }
    }

    fn on_success(
        &mut self,
        context: &mut Context,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        code: u16,
    ) {
        let invite = context.is_invite();
        let first = self.close_branch(context, number, code);
        if invite {
            // Every 2xx goes upstream at once, also a second one (step 5, RFC 6026 §7.1), and also after another answer.
            let answered_otherwise = context.stage == Stage::Answered && context.last.is_some();
            if answered_otherwise || context.server.is_none() {
                self.pass_stateless(message, datagram, Some(context.listener));
            } else {
                self.pass_upstream(context, message, code);
            }
        } else if context.stage == Stage::Forwarding {
            self.pass_upstream(context, message, code);
        }
        if first {
            self.cancel_pending(context);
        }
    }

    fn on_failure(&mut self, context: &mut Context, number: u8, message: &Message<'_>, code: u16) {
        self.close_branch(context, number, code);
        if context.stage == Stage::Forwarding {
            self.consider(context, message, code);
            if code >= 600 {
                // Step 5: a 6xx speaks for everybody.
                self.cancel_pending(context);
            }
            self.conclude(context);
        }
    }

    /// Notes a branch's final response; true if it is the first.
    fn close_branch(&mut self, context: &mut Context, number: u8, code: u16) -> bool {
        let invite = context.is_invite();
        let Some(branch) = context.branch(number) else {
            return false;
        };
        let first = branch.code == 0;
        if first {
            branch.code = code;
        }
        branch.timer_c = None;
        // The request is not sent again; an ACK takes its place where one is due.
        let sent = if !invite || code < 300 {
            branch.sent.take()
        } else {
            None
        };
        self.release(sent, context);
        first
    }

    /// Keeps a final response if it is the best so far (step 6), and its challenges otherwise (step 7).
    fn consider(&mut self, context: &mut Context, message: &Message<'_>, code: u16) {
        let start = self.out.bytes.len();
        if context.best.is_none_or(|best| rank(code) < rank(best.code)) {
            self.write_without_top_via(message);
            let block = self
                .out
                .bytes
                .get(start..)
                .and_then(|text| store(self.env, text, AllocClass::Update));
            if let Some(old) = context.best.replace(Kept { code, block }) {
                if matches!(old.code, 401 | 407)
                    && let Some(old) = old.block
                {
                    self.out.bytes.truncate(start);
                    self.with_stored(old, |step, message| {
                        step.collect_challenges(context, message)
                    });
                }
                self.release(old.block, context);
            }
        } else if matches!(code, 401 | 407) {
            self.collect_challenges(context, message);
        }
        self.out.bytes.truncate(start);
    }

    /// Appends the challenges of a 401 or 407 to those of other branches.
    fn collect_challenges(&mut self, context: &mut Context, message: &Message<'_>) {
        let start = self.out.bytes.len();
        if let Some(block) = context.challenges {
            self.out
                .bytes
                .extend_from_slice(self.env.arena.block(block));
        }
        for name in [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate] {
            for header in message.all(name) {
                self.out
                    .bytes
                    .extend_from_slice(header.line.slice(message.bytes()));
            }
        }
        let block = self
            .out
            .bytes
            .get(start..)
            .filter(|text| !text.is_empty())
            .and_then(|text| store(self.env, text, AllocClass::Update));
        self.out.bytes.truncate(start);
        if block.is_some() {
            let old = std::mem::replace(&mut context.challenges, block);
            self.release(old, context);
        }
    }

    /// Sends the ACK for a final response of 300..=699 to INVITE (§17.1.1.3), and keeps it in the request's place.
    fn acknowledge(&mut self, context: &mut Context, number: u8, message: &Message<'_>) {
        self.touch(context);
        let Some(branch) = context.branch(number) else {
            return;
        };
        let (listener, to, Some(sent)) = (branch.listener, branch.to, branch.sent) else {
            return;
        };
        let start = self.out.bytes.len();
        let is_ack = self
            .with_stored(sent, |step, stored| {
                let is_ack = stored
                    .request()
                    .is_some_and(|line| line.method == Method::Ack);
                if is_ack {
                    step.out.bytes.extend_from_slice(stored.bytes());
                } else {
                    // A failure leaves nothing behind, and then nothing is sent.
                    let _ = build::ack_for(*stored, *message, &mut step.out.bytes);
                }
                is_ack
            })
            .unwrap_or(false);
        let bytes = start..self.out.bytes.len();
        if bytes.is_empty() {
            return;
        }
        if !is_ack
            && let Some(block) = self
                .out
                .bytes
                .get(bytes.clone())
                .and_then(|text| store(self.env, text, AllocClass::Update))
        {
            if let Some(branch) = context.branch(number) {
                branch.sent = Some(block);
            }
            self.release(Some(sent), context);
        }
        self.out.sends.push(crate::io::Send {
            listener,
            to,
            bytes,
        });
    }

    /// Cancels every branch that has no final response (§16.7 step 10, §16.10).
    pub(crate) fn cancel_pending(&mut self, context: &mut Context) {
        if !context.is_invite() {
            return;
        }
        let pending: Vec<u8> = context
            .branches
            .iter()
            .filter(|branch| branch.is_pending())
            .map(|branch| branch.number)
            .collect();
        for number in pending {
            self.cancel_branch(context, number);
        }
    }

    /// Cancels one branch, at once if it has shown a sign of life (§9.1).
    pub(crate) fn cancel_branch(&mut self, context: &mut Context, number: u8) {
        let (now, timers) = (self.env.now, &self.settings.timers);
        let limit = now + timers.limit();
        let machine = NonInviteClient::new(now, timers, Reliability::Unreliable);
        let Some(branch) = context.branch(number) else {
            return;
        };
        if matches!(branch.cancel, Cancel::Sent(_) | Cancel::Done) {
            return;
        }
        if branch.client.is_none() {
            // Its address is still being looked up: it was never sent.
            branch.waiting = None;
            branch.code = 487;
            if context.best.is_none() {
                context.best = Some(Kept {
                    code: 487,
                    block: None,
                });
            }
            return;
        }
        if !branch.rang {
            branch.cancel = Cancel::Wanted;
            return;
        }
        branch.cancel = Cancel::Sent(machine);
        branch.timer_c = Some(limit);
        self.env.count(Counter::Cancelled);
        self.send_cancel(context, number);
    }

    /// Writes the CANCEL of a branch; it is made from the INVITE each time.
    pub(crate) fn send_cancel(&mut self, context: &mut Context, number: u8) {
        let Some(branch) = context.branch(number) else {
            return;
        };
        let (listener, to, Some(sent)) = (branch.listener, branch.to, branch.sent) else {
            return;
        };
        let start = self.out.bytes.len();
        self.with_stored(sent, |step, stored| {
            if stored
                .request()
                .is_some_and(|line| line.method == Method::Invite)
            {
                // A failure leaves nothing behind, and then nothing is sent.
                let _ = build::cancel_for(*stored, &mut step.out.bytes);
            }
        });
        let bytes = start..self.out.bytes.len();
        if !bytes.is_empty() {
            self.out.sends.push(crate::io::Send {
                listener,
                to,
                bytes,
            });
        }
    }

    /// Answers upstream once every branch has its final response (step 6).
    pub(crate) fn conclude(&mut self, context: &mut Context) {
        self.conclude_with(context, None);
    }

    /// [`Step::conclude`] with the request at hand, which a local answer is made from.
    pub(crate) fn conclude_with(&mut self, context: &mut Context, hand: Option<&Hand<'_>>) {
        if context.stage != Stage::Forwarding || context.branches.iter().any(Branch::is_pending) {
            return;
        }
        match (context.best, hand) {
            (Some(Kept { code, block: None }), Some(hand)) if context.last.is_none() => {
                let (code, headers): (u16, &[u8]) = match code {
                    503 if context.branches.iter().any(|branch| branch.sent.is_some()) => {
                        (500, b"")
                    }
                    503 => (503, b"Retry-After: 5\r\n"),
                    code => (code, b""),
                };
                self.end_with(context, hand, code, Counter::Unroutable, headers);
            }
            (Some(best), _) => self.answer_best(context, best),
            // Every branch of a non-INVITE request timed out: no 408 (RFC 4320 §4.1).
            (None, _) => self.end_silently(context),
        }
    }
}

/// The order of final responses: the least is the best (§16.7 step 6).
pub(crate) fn rank(code: u16) -> u32 {
    match code {
        600.. => u32::from(code) - 600,
        // Those that tell the caller how to do better come first in their class.
        401 | 407 | 415 | 420 | 484 => 4_000 + u32::from(code) - 400,
        // What we made up for a branch that did not answer is worse than what a branch said.
        408 => 4_900,
        // A 503 would be passed on as a 500: anything else of its class says more.
        503 => 5_999,
        _ => u32::from(code) * 10 + if code >= 400 && code < 500 { 100 } else { 0 },
    }
}

impl Step<'_, '_> {
    /// Time has passed for a context.
    pub(crate) fn on_tick(&mut self, id: ContextId) {
        let Some(mut context) = self.contexts.take(id) else {
            return;
        };
        let now = self.env.now;
        context.armed = None;
        if context.deadline().is_some_and(|deadline| deadline > now) {
            crate::proxy::arm(&mut context, self.out);
            self.contexts.put(context);
            return;
        }
        self.step_server(&mut context, transaction::ServerInput::Tick, None);
        let numbers: Vec<u8> = context
            .branches
            .iter()
            .map(|branch| branch.number)
            .collect();
        for number in numbers {
            self.tick_branch(&mut context, number);
        }
        self.conclude(&mut context);
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
        let ended = branch.client.is_none();
        for action in actions {
            match action {
                ClientAction::Resend => self.resend_request(context, number),
                ClientAction::Ack => self.resend_ack(context, number),
                ClientAction::Timeout | ClientAction::Failed => self.time_out(context, number),
                ClientAction::PassUp | ClientAction::Absorb => {}
            }
        }
        for action in cancel_actions {
            if action == ClientAction::Resend {
                self.env.count(Counter::RequestRetransmitted);
                self.send_cancel(context, number);
            }
        }
        if ended && let Some(branch) = context.branch(number) {
            let sent = branch.sent.take_if(|_| branch.code != 0);
            self.release(sent, context);
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
        if !branch.is_pending() {
            return;
        }
        if branch.rang && matches!(branch.cancel, Cancel::No) {
            self.cancel_branch(context, number);
        } else {
            self.time_out(context, number);
        }
    }

    /// No final response has come: as if it were a 408, or a 487 if the caller has cancelled (§16.8, §9.1).
    fn time_out(&mut self, context: &mut Context, number: u8) {
        let (invite, cancelled) = (context.is_invite(), context.cancelled);
        let Some(branch) = context.branch(number) else {
            return;
        };
        if !branch.is_pending() {
            return;
        }
        self.env.count(Counter::BranchTimeout);
        let code = if cancelled { 487 } else { 408 };
        if let Some(branch) = context.branch(number) {
            branch.code = code;
            branch.client = None;
            branch.timer_c = None;
        }
        if invite && context.best.is_none_or(|best| rank(code) < rank(best.code)) {
            let old = context
                .best
                .replace(Kept { code, block: None })
                .and_then(|kept| kept.block);
            self.release(old, context);
        }
        self.touch(context);
    }

    fn resend_request(&mut self, context: &mut Context, number: u8) {
        self.env.count(Counter::RequestRetransmitted);
        self.resend(context, number);
    }

    /// The ACK stands in the request's place.
    fn resend_ack(&mut self, context: &mut Context, number: u8) {
        self.resend(context, number);
    }

    fn resend(&mut self, context: &mut Context, number: u8) {
        let Some(branch) = context.branch(number) else {
            return;
        };
        let (listener, to, Some(sent)) = (branch.listener, branch.to, branch.sent) else {
            return;
        };
        let text = self.env.arena.block(sent);
        self.out
            .send(listener, to, |out| out.extend_from_slice(text));
    }
}
