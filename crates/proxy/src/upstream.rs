//! What goes back to the caller: responses forwarded, made or sent again (§16.7 steps 3 to 10).

use shm::AllocClass;
use sip::{HeaderName, Message, Patch};
use tables::Counter;
use transaction::ServerInput;

use crate::{
    context::{Context, Kept, Stage},
    intake,
    io::Datagram,
    local::{self, Local},
    proxy::{Hand, Step, store},
    request::Respond,
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
                headers,
            }),
        );
    }

    /// Answers with the best response that was kept.
    pub(crate) fn answer_best(&mut self, context: &mut Context, best: Kept) {
        // §16.7 step 6: a 503 says that the next server is overloaded, which is not for the caller to act upon.
        let code = if best.code == 503 { 500 } else { best.code };
        match best.block {
            Some(block) if code == best.code => {
                context.stage = Stage::Answered;
                self.touch(context);
                let extra = context.challenges.filter(|_| matches!(code, 401 | 407));
                self.step_server(
                    context,
                    ServerInput::Respond(code),
                    Some(Respond::Kept { block, code, extra }),
                );
            }
            _ => self.answer_local(context, None, code, b""),
        }
    }

    /// Writes a response that the server transaction has agreed to send, and keeps it where it may be asked for again.
    pub(crate) fn send_upstream(&mut self, context: &mut Context, response: Respond<'_>) {
        let start = self.out.bytes.len();
        let (code, can_be_made_again) = match response {
            Respond::Forwarded { message, code } => {
                self.env.count(Counter::ResponseForwarded);
                self.write_without_top_via(message);
                (code, false)
            }
            Respond::Kept { block, code, extra } => {
                self.env.count(Counter::ResponseForwarded);
                self.write_kept(block, extra);
                (code, false)
            }
            Respond::Local {
                hand,
                code,
                headers,
            } => {
                self.write_local(context, hand, code, headers);
                (code, code == 100)
            }
        };
        let bytes = start..self.out.bytes.len();
        if bytes.is_empty() {
            self.env.count(Counter::ReplySuppressed);
            return;
        }
        // A 2xx to INVITE is retransmitted by the callee (RFC 6026 §7.1); everything else is ours to send again.
        let needed = !(context.is_invite() && (200..300).contains(&code));
        let block = if needed && !can_be_made_again {
            self.out
                .bytes
                .get(bytes.clone())
                .and_then(|text| store(self.env, text, AllocClass::Update))
        } else {
            None
        };
        self.release(context.last.take().and_then(|kept| kept.block), context);
        context.last = needed.then_some(Kept { code, block });
        self.out.sends.push(crate::io::Send {
            listener: context.listener,
            to: context.reply_to,
            bytes,
        });
        if code >= 200 {
            self.let_go(context);
        }
    }

    /// A final answer is out: what only served to find it is not needed any more.
    fn let_go(&mut self, context: &mut Context) {
        let request = context.request.take();
        let challenges = context.challenges.take();
        let best = context.best.take().and_then(|kept| kept.block);
        for block in [request, challenges, best] {
            self.release(block, context);
        }
    }

    /// Frees a block that the context lets go of, if its record never knew it; otherwise the next commit does.
    pub(crate) fn release(&mut self, block: Option<shm::Block>, _context: &Context) {
        if let Some(block) = block {
            self.env.arena.free_children(&[block]);
        }
    }

    /// Sends the last response again.
    pub(crate) fn resend_upstream(&mut self, context: &mut Context) {
        let Some(kept) = context.last else { return };
        let start = self.out.bytes.len();
        match kept.block {
            Some(block) => self
                .out
                .bytes
                .extend_from_slice(self.env.arena.block(block)),
            None => self.write_local(context, None, kept.code, b""),
        }
        let bytes = start..self.out.bytes.len();
        if !bytes.is_empty() {
            self.env.count(Counter::ResponseRetransmitted);
            self.out.sends.push(crate::io::Send {
                listener: context.listener,
                to: context.reply_to,
                bytes,
            });
        }
    }

    /// Appends a response without its top Via, which is ours.
    pub(crate) fn write_without_top_via(&mut self, message: &Message<'_>) {
        let mut patch = Patch::reusing(*message, std::mem::take(&mut self.room.patch));
        if patch.remove_first_value(HeaderName::Via).is_ok() {
            patch.write(&mut self.out.bytes);
        }
        self.room.patch = patch.into_space();
    }

    /// Appends a kept response, with the challenges of other branches before its body (§16.7 step 7).
    fn write_kept(&mut self, block: shm::Block, extra: Option<shm::Block>) {
        let text = self.env.arena.block(block);
        let extra = extra
            .map(|extra| self.env.arena.block(extra))
            .unwrap_or_default();
        let end = text
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .map_or(0, |at| at + 2);
        let (head, rest) = if extra.is_empty() || end == 0 {
            (text, &b""[..])
        } else {
            text.split_at(end)
        };
        self.out.bytes.extend_from_slice(head);
        self.out
            .bytes
            .extend_from_slice(if end == 0 { b"" } else { extra });
        self.out.bytes.extend_from_slice(rest);
    }

    /// Appends a response of our own, from the request at hand, the stored one, or one that we sent on.
    fn write_local(
        &mut self,
        context: &Context,
        hand: Option<&Hand<'_>>,
        code: u16,
        headers: &[u8],
    ) {
        if let Some(hand) = hand {
            self.write_local_from(hand, code, headers);
            return;
        }
        if let Some(block) = context.request {
            let source = context.source;
            self.with_stored(block, |step, message| {
                let value = message.first_value(HeaderName::Via);
                let path = value.and_then(|value| {
                    Some(intake::reply_path(
                        value.value,
                        &sip::Via::parse(value.value).ok()?,
                        source,
                    ))
                });
                let via = path.as_ref().and_then(|path| path.via.as_deref());
                step.write_local_from(
                    &Hand {
                        message: *message,
                        via,
                        sent: false,
                    },
                    code,
                    headers,
                );
            });
            return;
        }
        let sent = context
            .branches
            .iter()
            .find(|branch| branch.is_pending() || branch.code < 300)
            .or(context.branches.first());
        if let Some(block) = sent.and_then(|branch| branch.sent) {
            self.with_stored(block, |step, message| {
                step.write_local_from(
                    &Hand {
                        message: *message,
                        via: None,
                        sent: true,
                    },
                    code,
                    headers,
                );
            });
        }
    }

    fn write_local_from(&mut self, hand: &Hand<'_>, code: u16, headers: &[u8]) {
        let branch = local::branch_at(&hand.message, usize::from(hand.sent));
        let tag = local::to_tag(self.key, &hand.message, branch);
        let tag = (code > 100).then_some(&tag[..]);
        let local = Local {
            code,
            reason: None,
            tag,
            via: hand.via,
            skip_via: hand.sent,
            headers,
        };
        local::write(&hand.message, &local, &mut self.out.bytes);
    }

    /// Passes on a response whose transaction is gone, by its next Via alone (§16.7, §18.2.2). Our Via on top was checked.
    pub(crate) fn pass_stateless(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        listener: Option<u32>,
    ) {
        let next = message.values(HeaderName::Via).nth(1);
        let to = next
            .and_then(|value| sip::Via::parse(value.value).ok())
            .and_then(|via| crate::route::response_address(&via));
        let Some(to) = to else {
            self.env.count(Counter::ReplySuppressed);
            return;
        };
        let wanted = listener.unwrap_or(datagram.listener);
        let Some(listener) = self
            .settings
            .listener_towards(&to, wanted)
            .map(|listener| listener.id)
        else {
            self.env.count(Counter::ReplySuppressed);
            return;
        };
        let start = self.out.bytes.len();
        self.write_without_top_via(message);
        let bytes = start..self.out.bytes.len();
        if !bytes.is_empty() {
            self.env.count(Counter::ResponseStateless);
            self.out.sends.push(crate::io::Send {
                listener,
                to,
                bytes,
            });
        }
    }
}
