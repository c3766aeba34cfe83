//! Messages that wait for an engine, and how they go on.

use std::{collections::VecDeque, io::Write, net::SocketAddr};

use ng::{Outcome, Verb};
use sip::{CSeq, HeaderName, Layout, Message, Method, Patch};
use tables::{Counter, dialog::EndCause};

use super::{Described, Found, MEDIA_BASE, OnFailure, sdp_of, sender, via_branch};
use crate::{
    addresses::Interface,
    ask::Target,
    call::Role,
    context::{Branch, Context, ContextId, Stage},
    hidden::{Came, Restored},
    intake::{Intake, Way},
    io::Datagram,
    step::{Hand, RESOLVE_BASE, Step},
};

/// Responses of one branch that wait behind one that waits for its engine; more are lost, as they might be on the wire.
const BEHIND_MAX: usize = 8;

/// What of a context waits for engines.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    list: Vec<Wait>,
    /// Questions are numbered as they are asked.
    drawn: u16,
}

#[derive(Debug)]
struct Wait {
    number: u16,
    branch: u8,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A copy of the request, for these hops of its target.
    Request(Box<Target>, Vec<SocketAddr>),
    /// A response of the branch, and those that came behind it.
    Responses(VecDeque<Held>),
}

#[derive(Debug)]
struct Held {
    code: u16,
    bytes: Vec<u8>,
    source: SocketAddr,
    listener: Interface,
}

impl Held {
    fn of(datagram: &Datagram<'_>, message: &Message<'_>, code: u16) -> Self {
        Self {
            code,
            bytes: message.whole().slice(message.bytes()).to_vec(),
            source: datagram.source,
            listener: datagram.listener,
        }
    }

    fn datagram<'d>(&self, bytes: &'d [u8]) -> Datagram<'d> {
        Datagram {
            bytes,
            source: self.source,
            listener: self.listener,
            truncated: false,
        }
    }
}

impl Waits {
    fn add(&mut self, branch: u8, what: What) -> u16 {
        self.drawn = self.drawn.wrapping_add(1) % (RESOLVE_BASE - MEDIA_BASE);
        let number = MEDIA_BASE | self.drawn;
        self.list.push(Wait {
            number,
            branch,
            what,
        });
        number
    }

    fn take(&mut self, number: u16) -> Option<Wait> {
        let at = self.list.iter().position(|wait| wait.number == number)?;
        Some(self.list.swap_remove(at))
    }

    /// The responses of a branch that wait.
    fn behind(&mut self, branch: u8) -> Option<&mut VecDeque<Held>> {
        self.list.iter_mut().find_map(|wait| match &mut wait.what {
            What::Responses(queue) if wait.branch == branch => Some(queue),
            What::Responses(_) | What::Request(..) => None,
        })
    }
}

/// How a message goes on.
enum GoesOn<'w> {
    With(&'w [u8]),
    AsItCame,
    Without(u16),
}

impl Step<'_, '_> {
    /// Whether a copy of a request has to wait for an engine before it goes to these hops; then it has been asked.
    pub(crate) fn holds_request(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        number: u8,
        target: &Target,
        hops: &[SocketAddr],
    ) -> bool {
        let Some(&first) = hops.first() else {
            return false;
        };
        let method = context.method;
        let describes = matches!(
            method,
            Method::Invite | Method::Update | Method::Prack | Method::Ack
        );
        if self.settings.media.is_empty() || !describes {
            return false;
        }
        let message = &hand.message;
        let sdp = sdp_of(message);
        if sdp.is_none() && method != Method::Invite {
            return false;
        }
        if method == Method::Ack && context.call.is_none() {
            context.call = self.call_of(hand);
        }
        let Some(call) = context.call else {
            return false;
        };
        let Some(found) = self.media_of(Some(call)) else {
            return false;
        };
        let sender = sender(&call);
        let Some(sdp) = sdp.and_then(|range| message.body().get(range)) else {
            // The offer comes with the response.
            self.note_media(found.row, Some(sender.other()), None);
            return false;
        };
        let (Ok(from), Ok(to)) = (message.from(), message.to()) else {
            return false;
        };
        let (from_tag, to_tag) = (from.tag().unwrap_or_default(), to.tag());
        let answers = match method {
            Method::Ack => true,
            Method::Prack => found.call.offerer == sender.other(),
            _ => false,
        };
        let described = Described {
            verb: if answers { Verb::Answer } else { Verb::Offer },
            tags: match (answers, to_tag) {
                (true, Some(offerer)) => (offerer, Some(from_tag)),
                _ => (from_tag, to_tag),
            },
            via_branch: via_branch(&call, number),
            sdp,
            from: context.source.ip(),
            to_callee: call.role != Role::Callee,
        };
        if !answers {
            self.note_media(found.row, Some(sender), None);
        }
        let kept = What::Request(Box::new(target.clone()), hops.to_vec());
        let waits = context.media.get_or_insert_default();
        let asked = waits.add(number, kept);
        self.ask_engine(context, asked, &found, &described);
        let next_hop = target.next_hop.clone();
        if let Some(branch) = context.branch(number) {
            // An heir begins with the address again.
            branch.waiting = Some(Box::new(Target {
                next_hop: Some(next_hop.unwrap_or_else(|| uri_of(first))),
                ..target.clone()
            }));
        }
        self.touch(context);
        true
    }

    /// As [`Step::holds_request`] for an ACK to a 2xx, which has no context yet: that which waits.
    pub(crate) fn holds_ack(
        &mut self,
        hand: &Hand<'_>,
        datagram: &Datagram<'_>,
        target: &Target,
        to: SocketAddr,
    ) -> Option<ContextId> {
        if self.settings.media.is_empty() || sdp_of(&hand.message).is_none() {
            return None;
        }
        let call = self.call_of(hand);
        self.media_of(call)?;
        let id = self.add(hand, Method::Ack, datagram, None, None);
        let mut context = self.take(id)?;
        context.stage = Stage::Forwarding;
        context.call = call;
        context.branches.push(Branch::new(0, &context));
        if !self.holds_request(&mut context, hand, 0, target, &[to]) {
            self.send_stateless(hand, target, to, datagram.listener);
            self.end_silently(&mut context);
        }
        self.contexts.put(context);
        Some(id)
    }

    /// Whether a response has to wait: for an engine, which then has been asked, or behind another one of its branch.
    pub(crate) fn holds_response(
        &mut self,
        context: &mut Context,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        cseq: &CSeq<'_>,
        code: u16,
    ) -> bool {
        if code <= 100 || context.call.is_none() || self.settings.media.is_empty() {
            return false;
        }
        if let Some(behind) = context
            .media
            .as_mut()
            .and_then(|waits| waits.behind(number))
        {
            let copy = code >= 200 && behind.iter().any(|held| held.code == code);
            if copy || behind.len() > BEHIND_MAX {
                self.env.count(Counter::ResponseAbsorbed);
            } else {
                behind.push_back(Held::of(datagram, message, code));
            }
            return true;
        }
        if code >= 300 {
            return false;
        }
        let sdp = sdp_of(message).and_then(|range| message.body().get(range));
        let (Some(call), Some(sdp)) = (context.call, sdp) else {
            return false;
        };
        let (Some(found), Ok(from), Ok(to)) =
            (self.media_of(Some(call)), message.from(), message.to())
        else {
            return false;
        };
        let (Some(from_tag), Some(to_tag)) = (from.tag(), to.tag()) else {
            return false;
        };
        let sender = sender(&call);
        let offers = cseq.method == Method::Invite && found.call.offerer == sender.other();
        let described = Described {
            verb: if offers { Verb::Offer } else { Verb::Answer },
            tags: if offers {
                (to_tag, Some(from_tag))
            } else {
                (from_tag, Some(to_tag))
            },
            // Who answers an offer of a response names nothing of its branch.
            via_branch: via_branch(&call, number).filter(|_| !offers),
            sdp,
            from: datagram.source.ip(),
            to_callee: call.role == Role::Callee,
        };
        let held = Held::of(datagram, message, code);
        let waits = context.media.get_or_insert_default();
        let asked = waits.add(number, What::Responses(VecDeque::from([held])));
        self.ask_engine(context, asked, &found, &described);
        true
    }

    /// An engine has answered, or none has.
    pub(crate) fn on_media(&mut self, context: &mut Context, number: u16, outcome: &Outcome) {
        let wait = context.media.as_mut().and_then(|waits| waits.take(number));
        let Some(wait) = wait else {
            self.env.count(Counter::AnswerStale);
            return;
        };
        let found = self.media_of(context.call);
        if let (Some(Found { row, .. }), Outcome::Done { engine, .. }) = (&found, outcome) {
            self.note_media(*row, None, Some(*engine));
        }
        let goes_on = match (outcome, found) {
            (Outcome::Done { sdp: Some(sdp), .. }, _) => GoesOn::With(sdp),
            // The call has ended meanwhile, or the configuration has nothing of its engines any more.
            (_, None) => GoesOn::Without(503),
            (_, Some(found)) => match found.set.on_failure {
                OnFailure::Pass => GoesOn::AsItCame,
                OnFailure::Reject(code) => GoesOn::Without(code),
            },
        };
        match wait.what {
            What::Request(target, hops) => {
                self.request_goes_on(context, wait.branch, &target, &hops, &goes_on)
            }
            What::Responses(queue) => self.responses_go_on(context, wait.branch, queue, &goes_on),
        }
    }

    fn request_goes_on(
        &mut self,
        context: &mut Context,
        number: u8,
        target: &Target,
        hops: &[SocketAddr],
        goes_on: &GoesOn<'_>,
    ) {
        let waited = context
            .branch(number)
            .and_then(|branch| branch.waiting.take());
        if waited.is_none() {
            // Cancelled.
            self.env.count(Counter::AnswerStale);
            return;
        }
        self.touch(context);
        let is_ack = context.method == Method::Ack;
        if let GoesOn::Without(code) = *goes_on
            && !is_ack
        {
            self.fail_branch(context, number, code, Counter::MediaRejected);
            self.conclude(context, None);
            return;
        }
        let text = context
            .request
            .map(|block| self.env.arena.block(block).to_vec());
        let text = text.and_then(|text| self.written(&text, goes_on));
        let done = text.and_then(|text| {
            let mut layout = Box::<Layout>::default();
            layout.read(&text).ok()?;
            let message = layout.message(&text)?;
            let way = Way::of(
                &message,
                context.source,
                self.key,
                self.settings.registrar.nat,
            )?;
            let came = self.restore(&message, context.listener);
            let restored = match &came {
                Came::Lost => return None,
                came => came.restored(),
            };
            let read = restored.and_then(Restored::message);
            let read = read.as_ref().unwrap_or(&message);
            let mut intake = Intake::of(read, &way, self.key, &self.settings).ok()?;
            self.know_by_names(read, &mut intake);
            let hand = Hand::of(message, restored, &way, &intake);
            match hops.first() {
                Some(&to) if is_ack => {
                    self.send_stateless(&hand, target, to, context.listener);
                    if let (GoesOn::Without(_), Some(call)) = (goes_on, context.call) {
                        self.begin_ending(call.row, EndCause::Media);
                    }
                    self.end_silently(context);
                }
                _ => {
                    self.launch_now(context, &hand, number, target, hops);
                    self.conclude(context, Some(&hand));
                }
            }
            Some(())
        });
        if done.is_none() {
            self.fail_branch(context, number, 500, Counter::Unroutable);
            self.conclude(context, None);
        }
        self.forget_request(context);
    }

    fn responses_go_on(
        &mut self,
        context: &mut Context,
        number: u8,
        mut queue: VecDeque<Held>,
        goes_on: &GoesOn<'_>,
    ) {
        let Some(first) = queue.pop_front() else {
            return;
        };
        if let Some(text) = self.written(&first.bytes, goes_on) {
            self.hear_again(context, number, &first, &text, false);
        }
        let answered = (200..300).contains(&first.code) && context.is_invite();
        if let (GoesOn::Without(_), true, Some(call)) = (goes_on, answered, context.call)
            && call.role == Role::Begins
        {
            // It has been answered, and neither side knows where to send media.
            self.begin_ending(call.row, EndCause::Media);
        }
        while let Some(next) = queue.pop_front() {
            self.hear_again(context, number, &next, &next.bytes, true);
            let waits = context.media.as_mut();
            if let Some(behind) = waits.and_then(|waits| waits.behind(number)) {
                behind.extend(queue);
                return;
            }
        }
    }

    /// A response that was held, as if it had come now; it may have to wait in its turn.
    fn hear_again(
        &mut self,
        context: &mut Context,
        number: u8,
        held: &Held,
        text: &[u8],
        may_wait: bool,
    ) {
        let mut layout = Box::<Layout>::default();
        if layout.read(text).is_err() {
            return;
        }
        let Some(message) = layout.message(text) else {
            return;
        };
        let Ok(cseq) = message.cseq() else { return };
        let datagram = held.datagram(text);
        if may_wait && self.holds_response(context, number, &message, &datagram, &cseq, held.code) {
            return;
        }
        self.hear_branch(context, number, &message, &datagram, held.code);
    }

    /// A message with the SDP that it goes on with.
    fn written(&mut self, text: &[u8], goes_on: &GoesOn<'_>) -> Option<Vec<u8>> {
        let mut layout = Box::<Layout>::default();
        layout.read(text).ok()?;
        let message = layout.message(text)?;
        let mut out = Vec::with_capacity(text.len().saturating_add(512));
        let mut patch = Patch::new(message);
        match goes_on {
            GoesOn::AsItCame => self.env.count(Counter::MediaPassed),
            GoesOn::With(sdp) => {
                let range = sdp_of(&message)?;
                let body = message.body();
                let body = [
                    body.get(..range.start)?,
                    sdp,
                    body.get(range.end..).unwrap_or_default(),
                ]
                .concat();
                let kind = message.first(HeaderName::ContentType)?.value;
                let mut whole = Vec::with_capacity(kind.len());
                sip::message::unfold(kind, &mut whole);
                patch.set_body(Some(&whole), &body).ok()?;
            }
            GoesOn::Without(_) => {
                self.env.count(Counter::MediaRejected);
                patch.set_body(None, b"").ok()?;
            }
        }
        patch.write(&mut out);
        Some(out)
    }
}

/// A URI that leads to an address.
fn uri_of(to: SocketAddr) -> Vec<u8> {
    let mut uri = Vec::with_capacity(64);
    // Writing to a Vec does not fail.
    let _ = write!(uri, "sip:{to}");
    uri
}
