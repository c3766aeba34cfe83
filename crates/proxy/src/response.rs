//! Responses from downstream and the response context (§16.7).

use failpoint::failpoint;
use shm::{AllocClass, RowRef};
use sip::{CSeq, HeaderName, Message, Method, Via, build};
use stdx::Instant;
use tables::Counter;
use transaction::{Actions, ClientAction, ClientInput, InviteClient};

use crate::{
    addresses::Interface,
    branch::{Branch as BranchText, Place},
    context::{Branch, Cancel, Client, Context, Kept, Stage},
    io::{Datagram, Disposition, Outcome, OutcomeKind},
    keepalive,
    settle::store,
    step::{Hand, Step},
};

impl Step<'_, '_> {
    /// A well-formed response.
    pub(crate) fn on_response(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
    ) -> Disposition {
        let mut vias = message.values(HeaderName::Via);
        // §16.7 step 3, §18.1.2: a top Via that is not ours (the seal says so better than sent-by would), or nothing below it.
        let branch = vias
            .next()
            .and_then(|value| Via::parse(value.value).ok())
            .and_then(|via| via.branch())
            .and_then(|branch| BranchText::decode(self.key, branch))
            // What our Via tells of a hidden request is enough, also if nothing is left but the key of that.
            .or_else(|| self.hidden_way(message).map(|_| BranchText::LOST));
        let (Some(branch), Ok(cseq), Some(status)) = (branch, message.cseq(), message.status())
        else {
            self.env.count(Counter::ResponseForeign);
            return Disposition::Served;
        };
        let cancel = cseq.method == Method::Cancel;
        // Only what we sent by ourselves, and what is hidden, has nobody else's Via.
        let ours_alone = vias.next().is_none();
        if let Place::Transaction { row, number } = branch.place {
            match self.env.arena.with(row, |record| record.owner) {
                Some(owner) if owner != self.slot => return Disposition::Owner(owner),
                Some(_) => {
                    let id = self.contexts.of_row(row).or_else(|| self.load(row, None));
                    let found = id.and_then(|id| self.take(id));
                    // An arena of before, whose key was the same, had other requests in its rows.
                    let (same, other) = match found {
                        Some(context) if context.fold == branch.fold => (Some(context), None),
                        other => (None, other),
                    };
                    if let Some(other) = other {
                        self.contexts.put(other);
                    }
                    if let Some(mut context) = same {
                        let shows_none = context.is_own() || context.hidden.is_some();
                        if ours_alone && !cancel && !shows_none {
                            self.contexts.put(context);
                            self.env.count(Counter::ResponseForeign);
                            return Disposition::Served;
                        }
                        self.on_branch_response(
                            &mut context,
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
        }
        if let Place::Probe { resource } = branch.place
            && ours_alone
            && cseq.method == Method::Options
        {
            self.on_probed(resource, branch.fold, status.code);
            return Disposition::Served;
        }
        if ours_alone && !cancel && self.hidden_way(message).is_none() {
            self.env.count(Counter::ResponseForeign);
            return Disposition::Served;
        }
        // RFC 4320 §4.2: what comes late for other requests than INVITE only adds to a storm, unless nobody has waited for it here.
        // RFC 6026 §7.3: nor does a late failure, to a caller who has an answer; but a late 2xx is a call that somebody has to end.
        let stateless = matches!(branch.place, Place::Stateless { .. });
        let call = cseq.method == Method::Invite && matches!(status.code, 200..=299);
        if stateless && !cancel || call {
            self.pass_stateless(message, datagram, branch.listener.map(Interface::from));
        } else {
            self.env.count(Counter::ResponseAbsorbed);
        }
        Disposition::Served
    }

    /// A destination has answered a probe.
    fn on_probed(&mut self, resource: RowRef, sent_at: u64, code: u16) {
        if resource == keepalive::NOBODY {
            self.on_kept_alive(sent_at);
            return;
        }
        if code >= 200 {
            let sent_at = Instant::from_nanos(sent_at);
            let kind = OutcomeKind::Probed { code, sent_at };
            self.out.outcomes.push(Outcome { resource, kind });
        }
    }

    fn on_branch_response(
        &mut self,
        context: &mut Context,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        cseq: &CSeq<'_>,
        code: u16,
    ) {
        let invite = context.is_invite();
        let Some(branch) = context.branch(number) else {
            self.env.count(Counter::ResponseAbsorbed);
            return;
        };
        if cseq.method == Method::Cancel {
            self.on_cancel_response(branch, code);
            self.touch(context);
            return;
        }
        if invite != (cseq.method == Method::Invite) {
            // §17.1.3: the method in CSeq belongs to the match.
            self.env.count(Counter::ResponseForeign);
            return;
        }
        if !self.holds_response(context, number, message, datagram, cseq, code) {
            self.hear_branch(context, number, message, datagram, code);
        }
    }

    /// A response to a request that we forwarded, with nothing more to wait for.
    pub(crate) fn hear_branch(
        &mut self,
        context: &mut Context,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        code: u16,
    ) {
        let Some(branch) = context.branch(number) else {
            return;
        };
        let Some(client) = branch.client.take() else {
            self.on_late_response(context, number, message, datagram, code);
            return;
        };
        if branch.code == 0 {
            let (to, destination) = (branch.to, branch.destination);
            let sent_at = branch.sent_at.unwrap_or(self.env.now);
            let first = !branch.rang;
            if first {
                branch.hop_at = None;
                self.note_answer(to, message, code);
                let took = self.env.now.saturating_duration_since(sent_at);
                self.tell(destination, OutcomeKind::Answered { code, took });
            } else if code >= 200 {
                self.tell(destination, OutcomeKind::Final { code });
            }
        }
        let (now, timers) = (self.env.now, &self.settings.timers);
        let input = ClientInput::Response(code);
        let mut actions = Actions::new();
        branch.client = match client {
            Client::Invite(machine) => machine
                .step(now, timers, input, &mut actions)
                .map(Client::Invite),
            Client::NonInvite(machine) => machine
                .step(now, timers, input, &mut actions)
                .map(Client::NonInvite),
        };
        for action in actions {
            match action {
                ClientAction::PassUp => self.on_passed_up(context, number, message, datagram, code),
                ClientAction::Ack => self.acknowledge(context, number, message),
                ClientAction::Absorb => self.env.count(Counter::ResponseAbsorbed),
                ClientAction::Resend | ClientAction::Timeout | ClientAction::Failed => {}
            }
        }
    }

    /// A response to a branch whose client transaction has ended: by Timer B, C, M or D, or because no answer to our CANCEL came.
    fn on_late_response(
        &mut self,
        context: &mut Context,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        code: u16,
    ) {
        let open = context.stage == Stage::Forwarding;
        let unwanted = context.branch(number).is_some_and(|branch| {
            branch.rang = true;
            matches!(branch.cancel, Cancel::Wanted)
        });
        match code {
            // A 2xx is passed on all the same (§16.7 step 5, §13.2.2.4), and whoever sent a failure may stop sending it.
            200..300 if context.is_invite() || open => {
                self.touch(context);
                self.on_success(context, number, message, datagram, code);
            }
            // A hop that we gave up has heard of it after all (§9.1).
            100..200 if unwanted => {
                self.touch(context);
                let late_until = self.late_until(context);
                self.cancel_branch(context, number);
                if let Some(branch) = context.branch(number) {
                    // Its answer to the CANCEL is yet to come.
                    branch.late_until = late_until;
                }
            }
            300.. if context.is_invite() => {
                self.acknowledge(context, number, message);
                let (now, timers) = (self.env.now, &self.settings.timers);
                if let Some(branch) = context.branch(number)
                    && branch.late_until.take().is_some()
                {
                    branch.client = Some(Client::Invite(InviteClient::failed_late(now, timers)));
                }
            }
            _ => self.env.count(Counter::ResponseAbsorbed),
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
        let timer_c = self.env.now.saturating_add(self.settings.timer_c);
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
        failpoint!("proxy.broken.provisional", return);
        // RFC 4320 §4.1: nothing but a 100, and that is ours to send, goes up for other requests than INVITE.
        if code > 100 && context.is_invite() && context.stage == Stage::Forwarding {
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
        if !self.can_go_up(context, message) {
            self.refuse_success(context, number, message, datagram);
            return;
        }
        let invite = context.is_invite();
        let open = context.stage == Stage::Forwarding;
        let first = self.close_branch(context, number, code) || open;
        if !self.on_call_success(context, number, message, datagram) {
            self.env.count(Counter::ForksRefused);
            return;
        }
        if invite {
            // Every 2xx goes upstream at once, also a second one (step 5, RFC 6026 §7.1), and also after another answer.
            let answered_otherwise = context.stage == Stage::Answered && context.last.is_some();
            if answered_otherwise || context.server.is_none() {
                self.pass_stateless(message, datagram, Some(context.listener));
            } else {
                self.pass_upstream(context, message, code);
            }
        } else if context.stage == Stage::Forwarding {
            self.on_bye_answered(context, message, code);
            self.pass_upstream(context, message, code);
        }
        if first {
            self.cancel_pending(context);
        }
    }

    /// A 2xx that can't be hidden: the caller gets a failure, if no other branch has something better, and the callee hears that there is no call.
    fn refuse_success(
        &mut self,
        context: &mut Context,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
    ) {
        self.end_unhidden(message, datagram);
        let first = self.close_branch(context, number, 500);
        if first && context.stage == Stage::Forwarding {
            self.consider_made_up(context, 500);
            self.conclude(context, None);
        }
    }

    fn on_failure(&mut self, context: &mut Context, number: u8, message: &Message<'_>, code: u16) {
        self.close_branch(context, number, code);
        if context.stage == Stage::Forwarding {
            let elsewhere = self.settings.forking.failover_codes.contains(&code)
                && self.try_next(context, number, None);
            if elsewhere {
                self.conclude(context, None);
                return;
            }
            self.on_bye_answered(context, message, code);
            // RFC 4320 §4.2: no 408 for other requests than INVITE.
            if context.is_invite() || code != 408 {
                self.consider_or_follow(context, message, code);
            }
            if code >= 600 {
                // Step 5: a 6xx speaks for everybody.
                context.stop_here();
                self.cancel_pending(context);
            }
            self.conclude(context, None);
        }
    }

    /// Notes a branch's final response; true if it is the first.
    fn close_branch(&mut self, context: &mut Context, number: u8, code: u16) -> bool {
        let Some(branch) = context.branch(number) else {
            return false;
        };
        let first = branch.code == 0;
        if first || code < 300 {
            branch.code = code;
        }
        branch.timer_c = None;
        branch.hop_at = None;
        if code >= 300 {
            self.leave_seat(context, number);
        }
        first
    }

    /// Keeps a final response if it is the best so far (step 6), and its challenges or contacts otherwise (step 7).
    pub(crate) fn consider(&mut self, context: &mut Context, message: &Message<'_>, code: u16) {
        let start = self.out.bytes.len();
        let better = context
            .best
            .is_none_or(|best| rank(code, true) < rank(best.code, best.block.is_some()));
        if better {
            self.write_upwards(context, message);
            let block = self
                .out
                .bytes
                .get(start..)
                // What can't be hidden is said in our own words.
                .filter(|text| !text.is_empty())
                .and_then(|text| store(self.env, text, AllocClass::Update));
            if let Some(old) = context.best.replace(Kept { code, block }) {
                if let Some(block) = old.block.filter(|_| is_collected(old.code)) {
                    self.out.bytes.truncate(start);
                    self.with_stored(block, |step, message| {
                        step.collect(context, message, old.code)
                    });
                }
                self.release(old.block);
            }
        } else if is_collected(code) {
            self.collect(context, message, code);
        }
        self.out.bytes.truncate(start);
    }

    /// Appends the challenges of a 401 or 407, or the contacts of a 3xx, to those of other branches.
    fn collect(&mut self, context: &mut Context, message: &Message<'_>, code: u16) {
        let start = self.out.bytes.len();
        let is_redirection = code < 400;
        let (others, names): (_, &[HeaderName]) = if is_redirection {
            (context.contacts, &[HeaderName::Contact])
        } else {
            (
                context.challenges,
                &[HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate],
            )
        };
        if let Some(block) = others {
            self.out
                .bytes
                .extend_from_slice(self.env.arena.block(block));
        }
        if let Some(hidden) = context.hidden.filter(|_| is_redirection) {
            self.write_hidden_contacts(context, hidden, message);
        }
        for &name in names {
            if is_redirection && context.hidden.is_some() {
                break;
            }
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
            let place = if is_redirection {
                &mut context.contacts
            } else {
                &mut context.challenges
            };
            let old = std::mem::replace(place, block);
            self.release(old);
        }
    }

    /// Sends the ACK for a final response of 300..=699 to INVITE (§17.1.1.3); it is made of the INVITE each time.
    fn acknowledge(&mut self, context: &mut Context, number: u8, message: &Message<'_>) {
        self.touch(context);
        failpoint!("proxy.broken.ack_lost", return);
        let Some(branch) = context.branch(number) else {
            return;
        };
        let (listener, to, Some(sent)) = (branch.listener, branch.to, branch.sent) else {
            return;
        };
        let start = self.out.bytes.len();
        self.with_stored(sent, |step, stored| {
            // A failure leaves nothing behind, and then nothing is sent.
            let _ = build::ack_for(*stored, *message, &mut step.out.bytes);
        });
        self.queue_from(start, listener, to);
    }

    /// Answers upstream once every branch has its final response (step 6). `hand` is the request, if it is at hand.
    pub(crate) fn conclude(&mut self, context: &mut Context, hand: Option<&Hand<'_>>) {
        loop {
            let is_open = context.stage == Stage::Forwarding;
            if !is_open || context.branches.iter().any(Branch::is_active) {
                return;
            }
            if !self.next_group(context, hand) {
                break;
            }
        }
        if context.branches.iter().any(Branch::is_pending) {
            return;
        }
        match context.best {
            Some(best) => self.answer_best(context, best, hand),
            // The contacts of a redirection were all nobody that could be asked.
            None if context.branches.iter().any(Branch::is_redirected) => {
                self.answer_local(context, hand, 480, None, b"")
            }
            // Every branch of a non-INVITE request timed out: no 408 (RFC 4320 §4.2).
            None => self.end_silently(context),
        }
    }

    /// Notes a final response that we made up for a branch.
    pub(crate) fn consider_made_up(&mut self, context: &mut Context, code: u16) {
        if context
            .best
            .is_none_or(|best| rank(code, false) < rank(best.code, best.block.is_some()))
        {
            let old = context.best.replace(Kept { code, block: None });
            self.release(old.and_then(|kept| kept.block));
        }
    }
}

/// Whether something of a response is passed on even if it is not the best one.
fn is_collected(code: u16) -> bool {
    matches!(code, 300..=399 | 401 | 407)
}

/// The order of final responses: the least is the best (§16.7 step 6). A 6xx comes first, then the lowest class. Within a class
/// come first those that tell the caller how to do better; last what says little: a 408, a 487, a 503 (which would be passed on as a 500),
/// and of these that which no branch has `said`.
fn rank(code: u16, said: bool) -> u32 {
    failpoint!("proxy.broken.best", 1000_u32.saturating_sub(code.into()));
    let class = match code {
        600.. => 0,
        _ => u32::from(code) / 100,
    };
    let within = match code {
        401 | 407 | 415 | 420 | 484 => u32::from(code) % 100,
        408 | 487 | 503 => 300,
        _ => (u32::from(code) % 100).saturating_add(100),
    };
    class
        .saturating_mul(1000)
        .saturating_add(within)
        .saturating_add(if said { 0 } else { 400 })
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn the_best_comes_first() {
        let order = [
            600, 603, 302, 401, 407, 415, 420, 484, 400, 404, 480, 486, 491, 408, 500, 504, 503,
        ];
        assert!(order.is_sorted_by_key(|&code| rank(code, true)));
        // What a branch said is better than what we made up, within a class.
        assert!(rank(486, true) < rank(408, false));
        assert!(rank(503, true) < rank(500, false));
        assert!(rank(408, false) < rank(500, true));
    }
}
