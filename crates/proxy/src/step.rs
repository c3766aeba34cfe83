//! One step's view of everything, and what every step needs.

use std::{collections::VecDeque, sync::Arc};

use overload::Budget;
use sip::{Layout, Message, Verdict, message::ParseError};
use stdx::hash::Key;
use tables::Counter;

use crate::{
    addresses::Interface,
    ask::{Ask, AskId, AskKind},
    call,
    context::{Context, ContextId, Contexts, Stage},
    hidden::{Came, Hidden, Restored},
    hops::Flights,
    intake::{Intake, Way},
    io::{Datagram, Env, Outputs, Send},
    local::{self, Local},
    media::MEDIA_BASE,
    settings::Settings,
};

/// Reusable buffers.
#[derive(Default)]
pub(crate) struct Room {
    pub(crate) layout: Option<Box<Layout>>,
    pub(crate) text: Vec<u8>,
    pub(crate) patch: sip::PatchSpace,
    pub(crate) key: transaction::key::KeyBuf,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: Vec<u8>,
    pub(crate) children: Vec<shm::Block>,
}

/// One step's view of everything.
pub(crate) struct Step<'s, 'e> {
    pub(crate) slot: u16,
    pub(crate) key: &'s Key,
    /// The configuration of the context that was taken last, else the current one.
    pub(crate) settings: Arc<Settings>,
    pub(crate) contexts: &'s mut Contexts,
    pub(crate) dirty: &'s mut VecDeque<ContextId>,
    pub(crate) room: &'s mut Room,
    pub(crate) flights: &'s mut Flights,
    pub(crate) env: &'s mut Env<'e>,
    pub(crate) out: &'s mut Outputs,
    /// `Some` while this slot is in distress: what our own retransmissions may add.
    pub(crate) budget: &'s mut Option<Budget>,
    /// What is at hand may have been served by a predecessor that died over it.
    pub(crate) replays: bool,
}

/// A request as it came, and what was read of it.
#[derive(Clone, Copy)]
pub(crate) struct Hand<'m> {
    /// As it is to be read: what was hidden of it is restored.
    pub(crate) message: Message<'m>,
    /// As it came, where that differs, and how it is hidden.
    pub(crate) hidden: Option<(Message<'m>, Hidden)>,
    pub(crate) way: &'m Way,
    pub(crate) intake: &'m Intake,
}

impl<'m> Hand<'m> {
    /// The request as it came: what its answers are made of.
    pub(crate) fn raw(&self) -> &Message<'m> {
        match &self.hidden {
            Some((raw, _)) => raw,
            None => &self.message,
        }
    }

    /// The tags of From and To; empty: none.
    pub(crate) fn tags(&self) -> (&'m [u8], &'m [u8]) {
        let (names, bytes) = (&self.intake.names, self.message.bytes());
        (names.from_tag.slice(bytes), names.to_tag.slice(bytes))
    }

    /// The URIs of From and To.
    pub(crate) fn parties(&self) -> (&'m [u8], &'m [u8]) {
        let (names, bytes) = (&self.intake.names, self.message.bytes());
        (names.from_uri.slice(bytes), names.to_uri.slice(bytes))
    }

    /// With what tokens have said of it.
    pub(crate) fn of(
        raw: Message<'m>,
        restored: Option<&'m Restored>,
        way: &'m Way,
        intake: &'m Intake,
    ) -> Self {
        let hidden = restored.and_then(|restored| Some((restored.message()?, restored.hidden)));
        Self {
            message: hidden.map_or(raw, |(message, _)| message),
            hidden: hidden.map(|(_, hidden)| (raw, hidden)),
            way,
            intake,
        }
    }
}

/// Numbers of resolve questions begin here.
pub(crate) const RESOLVE_BASE: u16 = 0x8000;

impl Step<'_, '_> {
    /// Takes a context out to work on it, by its own configuration; it is put back by [`Contexts::put`].
    pub(crate) fn take(&mut self, id: ContextId) -> Option<Box<Context>> {
        let context = self.contexts.take(id)?;
        if !Arc::ptr_eq(&self.settings, &context.settings) {
            self.settings = Arc::clone(&context.settings);
        }
        Some(context)
    }

    /// Marks a context for [`crate::Proxy::settle`].
    pub(crate) fn touch(&mut self, context: &mut Context) {
        if !context.dirty {
            context.dirty = true;
            self.dirty.push_back(context.id);
        }
    }

    /// Asks the outside. The number tells a stale answer; resolve questions are numbered by their branch.
    pub(crate) fn ask(&mut self, context: &mut Context, kind: AskKind) {
        let number = match kind {
            AskKind::Resolve { branch } => RESOLVE_BASE | u16::from(branch),
            AskKind::Admit | AskKind::Credentials | AskKind::Route => {
                context.asked = context.asked.wrapping_add(1) % MEDIA_BASE;
                context.asked
            }
        };
        self.out.asks.push(Ask {
            id: AskId {
                context: context.id,
                number,
            },
            kind,
        });
    }

    /// The heir asks what its predecessor asked.
    pub(crate) fn ask_again(&mut self, id: ContextId) {
        let Some(mut context) = self.take(id) else {
            return;
        };
        match context.stage {
            Stage::Admission => self.ask(&mut context, AskKind::Admit),
            Stage::Credentials => self.ask(&mut context, AskKind::Credentials),
            Stage::Routing => {
                self.with_request(&mut context, |step, context, hand| {
                    step.leave_seats_of_the_dead(context, hand)
                });
                self.ask(&mut context, AskKind::Route);
            }
            Stage::Forwarding => {
                let waiting: Vec<u8> = context
                    .branches
                    .iter()
                    .filter(|branch| branch.waiting.is_some())
                    .map(|branch| branch.number)
                    .collect();
                for branch in waiting {
                    self.ask(&mut context, AskKind::Resolve { branch });
                }
            }
            Stage::Answered => {}
        }
        self.contexts.put(context);
    }

    /// Queues what was appended to the outputs from `start` on; false if that is nothing.
    pub(crate) fn queue_from(
        &mut self,
        start: usize,
        listener: Interface,
        to: std::net::SocketAddr,
    ) -> bool {
        let bytes = start..self.out.bytes.len();
        if bytes.is_empty() {
            return false;
        }
        self.out.sends.push(Send {
            listener,
            to,
            bytes,
        });
        true
    }

    /// Reads a stored message and works with it. `None` if it is gone or unreadable. What is read is a copy, so that the block may
    /// be released meanwhile; one such reading inside another takes memory of its own.
    pub(crate) fn with_stored<R>(
        &mut self,
        block: shm::Block,
        work: impl FnOnce(&mut Self, &Message<'_>) -> R,
    ) -> Option<R> {
        let mut text = std::mem::take(&mut self.room.text);
        let mut layout = self.room.layout.take().unwrap_or_default();
        text.clear();
        text.extend_from_slice(self.env.arena.block(block));
        let result = match layout.read(&text) {
            Ok(()) => layout.message(&text).map(|message| work(self, &message)),
            Err(_) => None,
        };
        self.room.text = text;
        self.room.layout = Some(layout);
        result
    }

    /// Reads the stored request of a context and works with it as if it were at hand.
    pub(crate) fn with_request<R>(
        &mut self,
        context: &mut Context,
        work: impl FnOnce(&mut Self, &mut Context, &Hand<'_>) -> R,
    ) -> Option<R> {
        let block = context.request?;
        self.with_stored(block, |step, message| {
            let way = Way::of(
                message,
                context.source,
                step.key,
                step.settings.registrar.nat,
            )?;
            let came = step.restore(message, context.listener);
            let restored = match &came {
                Came::Lost => return None,
                came => came.restored(),
            };
            let read = restored.and_then(Restored::message);
            let read = read.as_ref().unwrap_or(message);
            let mut intake = Intake::of(read, &way, step.key, &step.settings).ok()?;
            if context.is_own() {
                call::own::leads_past_us(&mut intake);
            } else {
                step.know_by_names(read, &mut intake);
            }
            let hand = Hand::of(*message, restored, &way, &intake);
            Some(work(step, context, &hand))
        })
        .flatten()
    }

    /// Frees a block that the context lets go of, if its record never knew it; otherwise the next commit does.
    pub(crate) fn release(&mut self, block: Option<shm::Block>) {
        if let Some(block) = block {
            self.env.arena.free_children(&[block]);
        }
    }

    /// What can be answered of a message that does not parse (RFC 4475 §3.1.2 has examples).
    pub(crate) fn on_malformed(
        &mut self,
        request: Option<Message<'_>>,
        error: ParseError,
        datagram: &Datagram<'_>,
    ) {
        if error == ParseError::KeepAlive {
            self.env.count(Counter::KeepAlives);
            return;
        }
        let (code, reason, counter) = match error.verdict() {
            _ if datagram.truncated => (513, None, Counter::TooLarge),
            Verdict::Reply(505, reason) => (505, Some(reason), Counter::BadVersion),
            Verdict::Reply(513, _) => (513, None, Counter::TooLarge),
            Verdict::Reply(code, reason) => (code, Some(reason), Counter::BadRequest),
            Verdict::Silence => (0, None, Counter::Malformed),
        };
        match request {
            Some(message) if code != 0 && self.reply(&message, datagram, code, reason) => {
                self.env.count(counter)
            }
            _ => self.env.count(Counter::Malformed),
        }
    }

    /// A message that parses, but whose end is missing.
    pub(crate) fn on_truncated(&mut self, message: &Message<'_>, datagram: &Datagram<'_>) {
        let answerable = message
            .request()
            .is_some_and(|line| line.method != sip::Method::Ack);
        if answerable && self.reply(message, datagram, 513, None) {
            self.env.count(Counter::TooLarge);
        } else {
            self.env.count(Counter::Malformed);
        }
    }

    /// Answers a request without a transaction (§8.2.7). False if no way back could be read.
    fn reply(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        code: u16,
        reason: Option<&str>,
    ) -> bool {
        let Some(way) = Way::of(
            message,
            datagram.source,
            self.key,
            self.settings.registrar.nat,
        ) else {
            return false;
        };
        self.reply_by(message, datagram.listener, &way, code, reason, b"");
        true
    }

    /// Answers a request without a transaction, where the way back is known.
    pub(crate) fn reply_by(
        &mut self,
        message: &Message<'_>,
        listener: Interface,
        way: &Way,
        code: u16,
        reason: Option<&str>,
        headers: &[u8],
    ) {
        let start = self.out.bytes.len();
        let local = Local {
            code,
            reason,
            tag: Some(&way.tag),
            via: way.via.as_deref(),
            skip_via: false,
            headers,
        };
        local::write(message, &local, &mut self.out.bytes);
        self.queue_from(start, listener, way.to);
    }
}
