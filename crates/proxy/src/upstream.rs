//! What goes back to the caller: responses forwarded, made or sent again (§16.7 steps 3 to 10).

use std::io::Write;

use shm::AllocClass;
use sip::{HeaderName, Message, Method, Patch, PatchError, Span};
use tables::Counter;
use transaction::{InviteServer, ServerInput};

use crate::{
    addresses::Interface,
    context::{Branch, Cancel, Context, Kept, Row, Server, Stage},
    hidden::Hidden,
    io::Datagram,
    local::{self, Local},
    request::Respond,
    route::{NextHop, next_hop},
    settle::store,
    step::{Hand, Step},
};

impl Step<'_, '_> {
    /// Passes a response of a branch upstream through the server transaction.
    pub(crate) fn pass_upstream(
        &mut self,
        context: &mut Context,
        message: &Message<'_>,
        code: u16,
    ) {
        if code >= 200 {
            context.stage = Stage::Answered;
        }
        self.touch(context);
        self.step_server(
            context,
            ServerInput::Respond(code),
            Some(Respond::Forwarded { message, code }),
        );
    }

    /// Answers with a response of our own. `hand` is the request, if it is at hand.
    pub(crate) fn answer_local(
        &mut self,
        context: &mut Context,
        hand: Option<&Hand<'_>>,
        code: u16,
        reason: Option<&str>,
        headers: &[u8],
    ) {
        if code >= 200 {
            context.stage = Stage::Answered;
        }
        self.touch(context);
        self.step_server(
            context,
            ServerInput::Respond(code),
            Some(Respond::Local {
                hand,
                code,
                reason,
                headers,
            }),
        );
    }

    /// The 100 for an INVITE that has had no answer yet.
    pub(crate) fn say_trying(&mut self, context: &mut Context, hand: Option<&Hand<'_>>) {
        if context.is_invite() && context.last.is_none() && context.stage != Stage::Answered {
            self.answer_local(context, hand, 100, None, b"");
        }
    }

    /// A request that cannot be kept while it waits for an answer.
    pub(crate) fn cannot_wait(&mut self, context: &mut Context, hand: Option<&Hand<'_>>) {
        let sent = context.branches.iter().any(|branch| branch.sent.is_some());
        match hand.filter(|_| !sent && context.method != Method::Ack) {
            Some(hand) => self.refuse_full(context, hand),
            None if sent => {
                for number in (0..=u8::MAX).take(context.branches.len()) {
                    let waiting = |branch: &mut Branch| branch.waiting.is_some();
                    if context.branch(number).is_some_and(waiting) {
                        self.fail_branch(context, number, 503, Counter::Full);
                    }
                }
                self.conclude(context, hand);
            }
            None => {
                self.env.count(Counter::Full);
                self.end_silently(context);
            }
        }
    }

    /// There is no memory for a request. One that begins something is refused; what goes on within a dialog goes on without a
    /// transaction, so that calls can end: both sides have their own timers.
    pub(crate) fn refuse_full(&mut self, context: &mut Context, hand: &Hand<'_>) {
        let passes = hand.intake.within_dialog && !context.is_invite();
        if !passes || matches!(context.row, Row::Live(..)) {
            self.end_with(context, hand, 503, Counter::Full, RETRY_AFTER);
            return;
        }
        let target = self.as_addressed(hand);
        match next_hop(&hand.message, &hand.intake.route, &target) {
            NextHop::Address(to) => {
                // Nobody will see its answer.
                self.on_bye_unanswered(context);
                self.send_stateless(hand, &target, to, context.listener);
                self.end_silently(context);
            }
            NextHop::Name(_) | NextHop::Nowhere(_) => {
                self.end_with(context, hand, 503, Counter::Full, RETRY_AFTER)
            }
        }
    }

    /// Refuses a request after something was looked up for it. A copy of an INVITE gets the same answer, whatever has changed
    /// meanwhile: §8.2.7 has a server without state answer all copies alike, and a second look-up might not. What is kept is small (the key and the
    /// code; the answer is made of the copy), and it is no more than a stranger gets by calling somebody who is there.
    pub(crate) fn refuse_found(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        code: u16,
        counter: Counter,
    ) {
        self.end_with(context, hand, code, counter, b"");
        // In distress there is no room for it either.
        let keeps = context.is_invite() && context.server.is_none() && self.budget.is_none();
        if keeps && self.contexts.may_keep_refusal() {
            let machine = InviteServer::refused(self.env.now, &self.settings.timers);
            context.server = Some(Server::Invite(machine));
            context.last = Some(Kept { code, block: None });
        }
    }

    /// Ends a request with an answer of our own: without a transaction, if it has no record yet.
    pub(crate) fn end_with(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        code: u16,
        counter: Counter,
        headers: &[u8],
    ) {
        self.end_saying(context, hand, code, None, counter, headers);
    }

    /// [`Step::end_with`] with a reason phrase of its own.
    pub(crate) fn end_saying(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        code: u16,
        reason: Option<&str>,
        counter: Counter,
        headers: &[u8],
    ) {
        self.env.count(counter);
        self.touch(context);
        if context.is_own() {
            context.stage = Stage::Answered;
            return;
        }
        let unsent = context.branches.iter().all(|branch| branch.sent.is_none());
        if matches!(context.row, Row::Live(..)) || !unsent {
            self.answer_local(context, Some(hand), code, reason, headers);
            return;
        }
        self.reply_by(
            hand.raw(),
            context.listener,
            hand.way,
            code,
            reason,
            headers,
        );
        context.stage = Stage::Answered;
        context.server = None;
        context.branches.clear();
        if code >= 300 {
            self.on_call_failure(context, code);
        }
    }

    /// Ends a request without an answer: one other than INVITE that timed out, or an ACK.
    pub(crate) fn end_silently(&mut self, context: &mut Context) {
        context.stage = Stage::Answered;
        context.server = None;
        self.let_go(context);
        self.touch(context);
    }

    /// Answers with the best response that there is.
    pub(crate) fn answer_best(
        &mut self,
        context: &mut Context,
        best: Kept,
        hand: Option<&Hand<'_>>,
    ) {
        match best.block {
            Some(block) => {
                // §16.7 step 6: a 503 says that the next server is overloaded, which is not for the caller to act upon.
                let code = if best.code == 503 { 500 } else { best.code };
                context.stage = Stage::Answered;
                self.touch(context);
                let extra = match code {
                    401 | 407 => context.challenges,
                    300..=399 => context.contacts,
                    _ => None,
                };
                self.step_server(
                    context,
                    ServerInput::Respond(code),
                    Some(Respond::Kept { block, code, extra }),
                );
            }
            None => {
                // A 503 of our own stands: it is our memory that is full.
                match hand {
                    Some(hand) if best.code == 503 => self.refuse_full(context, hand),
                    Some(hand) => self.refuse_found(context, hand, best.code, Counter::Unroutable),
                    None => self.answer_local(context, None, best.code, None, b""),
                }
            }
        }
    }

    /// Writes a response that the server transaction has agreed to send, and keeps it where it may be asked for again.
    pub(crate) fn send_upstream(&mut self, context: &mut Context, response: Respond<'_>) {
        let start = self.out.bytes.len();
        let (code, can_be_made_again) = match response {
            Respond::Again { .. } => return,
            Respond::Forwarded { message, code } => {
                self.env.count(Counter::ResponseForwarded);
                self.write_upwards(context, message);
                (code, false)
            }
            Respond::Kept { block, code, extra } => {
                self.env.count(Counter::ResponseForwarded);
                self.write_kept(block, code, extra);
                (code, false)
            }
            Respond::Local {
                hand,
                code,
                reason,
                headers,
            } => {
                self.write_local(context, hand, code, reason, headers);
                (code, code == 100)
            }
        };
        if !self.queue_from(start, context.listener, context.reply_to) {
            self.env.count(Counter::ReplySuppressed);
            return;
        }
        // A 2xx to INVITE is retransmitted by the callee (RFC 6026 §7.1); everything else is ours to send again.
        let needed = !(context.is_invite() && (200..300).contains(&code));
        let block = if needed && !can_be_made_again {
            self.out
                .bytes
                .get(start..)
                .and_then(|text| store(self.env, text, AllocClass::Update))
        } else {
            None
        };
        let old = context.last.take().and_then(|kept| kept.block);
        self.release(old);
        // A provisional response that cannot be kept is answered for by a 100.
        let code_again = if block.is_none() && code < 200 {
            100
        } else {
            code
        };
        context.last = needed.then_some(Kept {
            code: code_again,
            block,
        });
        if code >= 300 {
            self.on_call_failure(context, code);
        }
        if code >= 200 {
            self.let_go(context);
        }
    }

    /// A final answer is out: what only served to find it is not needed any more.
    fn let_go(&mut self, context: &mut Context) {
        // A 2xx to INVITE comes again, and goes to where the request came from.
        let kept = context.is_invite() && context.hidden.is_some_and(Hidden::needs_request);
        let request = match kept {
            true => None,
            false => context.request.take(),
        };
        let challenges = context.challenges.take();
        let contacts = context.contacts.take();
        context.stop_here();
        let best = context.best.take().and_then(|kept| kept.block);
        for block in [request, challenges, contacts, best] {
            self.release(block);
        }
        let invite = context.is_invite();
        for branch in &mut context.branches {
            // An INVITE is needed for its CANCEL, or for the ACK of a failure.
            let needed = match branch.code {
                0 => branch.client.is_some(),
                200..300 => false,
                // What we gave up may still have to be cancelled.
                _ => invite && (branch.is_alive() || matches!(branch.cancel, Cancel::Wanted)),
            };
            if !needed {
                let sent = branch.sent.take();
                self.release(sent);
            }
        }
    }

    /// Sends the last response again; what was not kept is made of the request, which may be at hand.
    pub(crate) fn resend_upstream(&mut self, context: &mut Context, hand: Option<&Hand<'_>>) {
        let Some(kept) = context.last else { return };
        let start = self.out.bytes.len();
        match kept.block {
            Some(block) => self
                .out
                .bytes
                .extend_from_slice(self.env.arena.block(block)),
            None => self.write_local(context, hand, kept.code, None, b""),
        }
        if self.queue_from(start, context.listener, context.reply_to) {
            self.env.count(Counter::ResponseRetransmitted);
        }
    }

    /// Appends a response as it goes to whoever sent the request.
    pub(crate) fn write_upwards(&mut self, context: &Context, message: &Message<'_>) {
        if let Some(hidden) = context.hidden {
            self.write_upwards_hidden(context, hidden, message);
            return;
        }
        let contact = self.contact_back(message, || self.reached_by(context, message));
        let mut patch = Patch::reusing(*message, std::mem::take(&mut self.room.patch));
        let done = patch_contact(&mut patch, contact)
            .and_then(|()| patch.remove_first_value(HeaderName::Via))
            .and_then(|_| match &context.call {
                Some(call) => Self::patch_response(call, &mut patch),
                None => Ok(()),
            });
        if done.is_ok() {
            patch.write(&mut self.out.bytes);
        }
        self.room.patch = patch.into_space();
    }

    fn write_upwards_hidden(&mut self, context: &Context, hidden: Hidden, message: &Message<'_>) {
        let contact = self.contact_back(message, || self.reached_by(context, message));
        if context.call.is_none() && contact.is_none() {
            self.write_hidden(context, hidden, message);
            return;
        }
        let mut text = Vec::new();
        let mut patch = Patch::reusing(*message, std::mem::take(&mut self.room.patch));
        let done = patch_contact(&mut patch, contact).and_then(|()| match &context.call {
            Some(call) => Self::patch_response(call, &mut patch),
            None => Ok(()),
        });
        if done.is_ok() {
            patch.write(&mut text);
        }
        self.room.patch = patch.into_space();
        let mut layout = sip::Layout::new();
        if let Ok(message) = sip::parse(&text, &mut layout) {
            self.write_hidden(context, hidden, &message);
        }
    }

    /// Appends a kept response, with the challenges of other branches at the end of its head (§16.7 step 7).
    fn write_kept(&mut self, block: shm::Block, code: u16, extra: Option<shm::Block>) {
        let text = self.env.arena.block(block);
        let extra = extra
            .map(|extra| self.env.arena.block(extra))
            .unwrap_or_default();
        let out = &mut self.out.bytes;
        // The status line is "SIP/2.0 503 ...".
        let line_end = find(text, b"\r\n").unwrap_or_default();
        let said = text.get(8..11).unwrap_or_default();
        let rest_from = if said == code.to_string().as_bytes() {
            0
        } else {
            // Writing to a Vec does not fail.
            let _ = write!(out, "SIP/2.0 {code} {}", sip::build::reason_phrase(code));
            line_end
        };
        let head_end = find(text, b"\r\n\r\n").map_or(text.len(), |at| at.saturating_add(2));
        out.extend_from_slice(text.get(rest_from..head_end).unwrap_or_default());
        out.extend_from_slice(extra);
        out.extend_from_slice(text.get(head_end..).unwrap_or_default());
    }

    /// Appends a response of our own, made of the request at hand, of the stored one, or of one that we sent on.
    fn write_local(
        &mut self,
        context: &mut Context,
        hand: Option<&Hand<'_>>,
        code: u16,
        reason: Option<&str>,
        headers: &[u8],
    ) {
        let local = |hand: &Hand<'_>, out: &mut Vec<u8>| {
            let local = Local {
                code,
                reason,
                tag: (code > 100).then_some(&hand.way.tag[..]),
                via: hand.way.via.as_deref(),
                skip_via: false,
                headers,
            };
            local::write(hand.raw(), &local, out);
        };
        if let Some(hand) = hand {
            local(hand, &mut self.out.bytes);
            return;
        }
        let of_request = self.with_request(context, |step, _, hand| {
            local(hand, &mut step.out.bytes);
        });
        if of_request.is_some() {
            return;
        }
        let sent = context.branches.iter().find_map(|branch| branch.sent);
        if let Some(block) = sent {
            self.with_stored(block, |step, message| {
                // Below our Via stands what came.
                let tag = local::to_tag(step.key, message, local::branch_at(message, 1));
                let local = Local {
                    code,
                    reason,
                    tag: (code > 100).then_some(&tag[..]),
                    via: None,
                    skip_via: true,
                    headers,
                };
                local::write(message, &local, &mut step.out.bytes);
            });
        }
    }

    /// Passes on a response whose transaction is gone, by its next Via alone (§16.7, §18.2.2). Our Via on top was checked.
    pub(crate) fn pass_stateless(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        listener: Option<Interface>,
    ) {
        let next = message.values(HeaderName::Via).nth(1);
        let to = next
            .and_then(|value| sip::Via::parse(value.value).ok())
            .and_then(|via| crate::route::response_address(&via));
        let hidden = self.hidden_way(message);
        let to = hidden.or(to);
        let Some(to) = to else {
            self.env.count(Counter::ReplySuppressed);
            return;
        };
        // A branch of ours names the listener only.
        let wanted = listener
            .filter(|listener| listener.id != datagram.listener.id || listener.ip.is_some())
            .unwrap_or(datagram.listener);
        let Some(listener) = self.settings.listener_towards(&to, wanted) else {
            self.env.count(Counter::ReplySuppressed);
            return;
        };
        let mut start = self.out.bytes.len();
        let contact = self.contact_back(message, || Some(datagram.source));
        let mut patch = Patch::reusing(*message, std::mem::take(&mut self.room.patch));
        let done = patch_contact(&mut patch, contact).and_then(|()| match hidden {
            Some(_) => Ok(()),
            None => patch.remove_first_value(HeaderName::Via).map(drop),
        });
        if done.is_ok() {
            patch.write(&mut self.out.bytes);
        }
        self.room.patch = patch.into_space();
        if hidden.is_some() {
            let text = self.out.bytes.split_off(start);
            let mut layout = sip::Layout::new();
            let passed = sip::parse(&text, &mut layout)
                .is_ok_and(|message| self.pass_hidden(&message, listener, datagram.source.ip()));
            if !passed {
                self.end_unhidden(message, datagram);
                start = self.out.bytes.len();
                self.write_failure_by_token(message, listener, datagram.source);
            }
        }
        if self.queue_from(start, listener, to) {
            self.env.count(Counter::ResponseStateless);
        }
    }
}

/// Changes the Contact, where there is something to change.
fn patch_contact(
    patch: &mut Patch<'_>,
    contact: Option<(Span, Vec<u8>)>,
) -> Result<(), PatchError> {
    match contact {
        Some((span, value)) => patch.replace_value(span, &value),
        None => Ok(()),
    }
}

/// Seconds in Retry-After when a table is full.
pub(crate) const RETRY_AFTER: &[u8] = b"Retry-After: 5\r\n";

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
