//! Media through an engine: a message with SDP waits until the engine has put its own addresses into it (RFC 3264, RFC 6337).
//!
//! - here: which calls have an engine, what a message with SDP is to it, and the question;
//! - `hold`: messages that wait, and how they go on.
//!
//! Which `[[media]]` a call has is in its record in `media`, from before the first question on; that it has one is a flag of its dialog. The
//! question goes out with the turn's sends, after everything that it follows from is in the arena.
//!
//! *What waits.* A request waits as one that waits for an address does: its row says that a branch was not sent, and an heir begins with the address
//! again. A response waits on the heap, before any machine has seen it: if the worker dies it was lost on the wire, and whoever sent it sends it again.
//! What comes from the same branch behind it waits too, so that the order stays.

mod hold;

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use ng::{Exchange, Profile, Question, Verb};
use shm::RowRef;
use sip::{HeaderName, Message};
use stdx::{
    hash::{Key, hash64},
    text::encode_base32_u64,
};
use tables::{
    Counter, Dialogs, MediaCalls,
    dialog::{Dialog, DialogId, flag},
    media::{MediaCall, Offerer},
};

use crate::{
    ask::AskId,
    call::{CallRef, Role},
    context::Context,
    step::{Hand, Step},
    upstream::RETRY_AFTER,
};

pub(crate) use hold::Waits;

/// Numbers of questions to engines begin here; those to resolvers further up.
pub(crate) const MEDIA_BASE: u16 = 0x4000;

/// A `[[media]]`: engines, and how they treat calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaSet {
    pub name: String,
    pub profile: Profile,
    pub members: Arc<[ng::Member]>,
    /// How long a message waits for an engine.
    pub timeout: Duration,
    pub on_failure: OnFailure,
}

/// What becomes of a message that no engine has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// A request gets this status; a response goes on without its SDP, and an answered call is ended.
    Reject(u16),
    /// It goes on as it came.
    Pass,
}

/// A question to a media engine; its answer is [`Answer::Media`](crate::Answer::Media), any time later.
#[derive(Clone, Debug)]
pub struct MediaAsk {
    pub id: AskId,
    pub question: Question,
}

/// What chooses a call's engine among those that are up: the same for all its questions.
pub fn media_seed(key: &Key, call_id: &[u8]) -> u64 {
    hash64(key, &[b"media", call_id])
}

/// The media of the call that a message belongs to.
struct Found {
    row: RowRef,
    call: MediaCall,
    set: Arc<MediaSet>,
}

/// A message with SDP, as its engine has to see it.
struct Described<'d> {
    verb: Verb,
    /// Tags of who has made the offer, and of the other.
    tags: (&'d [u8], Option<&'d [u8]>),
    via_branch: Option<Vec<u8>>,
    sdp: &'d [u8],
    from: IpAddr,
    to_callee: bool,
}

impl Step<'_, '_> {
    /// Puts on record that a call has an engine, before it is asked for the first time. False: the call was refused.
    pub(crate) fn begin_media(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        set: &MediaSet,
    ) -> bool {
        let Some(call) = context.call else {
            return true;
        };
        let message = &hand.message;
        let from = message.from().ok();
        let tag = from.as_ref().and_then(|from| from.tag());
        let media = MediaCall {
            set: set.name.clone(),
            call_id: message.call_id().unwrap_or_default().to_vec(),
            caller_tag: tag.unwrap_or_default().to_vec(),
            engine: None,
            offerer: match sdp_of(message) {
                Some(_) => Offerer::Caller,
                None => Offerer::Callee,
            },
            begun_at: self.env.now,
            owed_at: None,
        };
        let id = self.media_id(call.row);
        let begun = id.map(|id| MediaCalls(self.env.arena).begin(id, &media));
        if matches!(begun, None | Some(Ok(_))) {
            return true;
        }
        match set.on_failure {
            OnFailure::Reject(code) => {
                let headers = if code == 503 { RETRY_AFTER } else { b"" };
                self.end_with(context, hand, code, Counter::MediaRejected, headers);
                false
            }
            OnFailure::Pass => {
                self.env.count(Counter::MediaPassed);
                true
            }
        }
    }

    /// A call has ended: whoever has its engine tells it.
    pub(crate) fn end_media(&mut self, dialog: &Dialog) {
        if dialog.flags & flag::MEDIA != 0 && dialog.flags & flag::FORK == 0 {
            self.out.media_ended.push(dialog.id);
        }
    }

    /// The id of a dialog whose media goes through an engine.
    fn media_id(&mut self, row: RowRef) -> Option<DialogId> {
        let id = |view: tables::dialog::View<'_>| view.has(flag::MEDIA).then(|| view.id());
        Dialogs(self.env.arena).with(row, id).flatten()
    }

    /// The media of a call, if it goes through an engine.
    fn media_of(&mut self, call: Option<CallRef>) -> Option<Found> {
        let call = call.filter(|call| !call.role.is_own())?;
        let id = self.media_id(call.row)?;
        let (row, call) = MediaCalls(self.env.arena).find(id)?;
        let set = self
            .settings
            .media
            .iter()
            .find(|set| set.name == call.set)?;
        Some(Found {
            row,
            set: Arc::clone(set),
            call,
        })
    }

    /// Notes who makes the offer from now on, and which engine has the call.
    fn note_media(&mut self, row: RowRef, offerer: Option<Offerer>, engine: Option<SocketAddr>) {
        // Gone, or no memory: then it goes by what was known before.
        let _ = MediaCalls(self.env.arena).update(row, |call| {
            let before = (call.offerer, call.engine);
            call.offerer = offerer.unwrap_or(call.offerer);
            call.engine = engine.or(call.engine);
            before != (call.offerer, call.engine)
        });
    }

    /// The question about a message, given the number of who waits for its answer.
    fn ask_engine(
        &mut self,
        context: &Context,
        number: u16,
        found: &Found,
        described: &Described<'_>,
    ) {
        let exchange = Exchange {
            verb: described.verb,
            call_id: &found.call.call_id,
            from_tag: described.tags.0,
            to_tag: described.tags.1,
            via_branch: described.via_branch.as_deref(),
            sdp: described.sdp,
            received_from: described.from,
            to_callee: described.to_callee,
        };
        let mut command = Vec::with_capacity(described.sdp.len().saturating_add(512));
        found.set.profile.write(&exchange, &mut command);
        self.out.media.push(MediaAsk {
            id: AskId {
                context: context.id,
                number,
            },
            question: Question {
                members: Arc::clone(&found.set.members),
                engine: found.call.engine,
                may_move: described.verb == Verb::Offer,
                seed: media_seed(self.key, &found.call.call_id),
                command,
                timeout: found.set.timeout,
            },
        });
    }
}

/// Who sent the request that a context is about.
fn sender(call: &CallRef) -> Offerer {
    match call.role {
        Role::Callee => Offerer::Callee,
        _ => Offerer::Caller,
    }
}

/// What tells the branches of the INVITE that begins a call apart; a request within it belongs to one of them by its tags.
fn via_branch(call: &CallRef, number: u8) -> Option<Vec<u8>> {
    (call.role == Role::Begins).then(|| {
        let mut text = encode_base32_u64(call.place).to_vec();
        text.push(b'.');
        stdx::text::write_decimal(number.into(), &mut text);
        text
    })
}

/// Where the SDP of a message is in its body.
fn sdp_of(message: &Message<'_>) -> Option<Range<usize>> {
    let body = message.body();
    if body.is_empty() || message.has(HeaderName::ContentEncoding) {
        return None;
    }
    let kind = message.first(HeaderName::ContentType)?.value;
    ng::body::sdp(kind, body)
}
