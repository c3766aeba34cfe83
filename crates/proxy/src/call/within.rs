//! Requests within a dialog on record.

use std::{io::Write, net::SocketAddr, sync::Arc};

use sip::{HeaderName, Message, Method, Patch, PatchError};
use tables::{
    Counter, Dialogs,
    dialog::{DialogState, Sender},
};

use crate::{
    alias,
    call::{
        Bye, CallRef, Role,
        astray::Party,
        due::UNNOTED_MAX,
        place,
        session::{SessionAsk, TooSmall},
    },
    context::Context,
    intake::Intake,
    route::RouteInfo,
    step::{Hand, Step},
};

/// What the record says of a request's sender.
struct Seen {
    call: CallRef,
    state: DialogState,
    wanted: u32,
    least: u32,
    /// Every number counts: requests of our own go between them.
    numbered: bool,
    /// The last that was noted.
    noted: u32,
}

/// The greatest number that a request may have (§8.1.1.5). Beyond it there would be none for requests of our own.
const CSEQ_MAX: u32 = i32::MAX.cast_unsigned();

impl Step<'_, '_> {
    /// Finds the dialog of a request that carries our seal.
    fn see_call(&mut self, hand: &Hand<'_>) -> Option<Seen> {
        let place = hand
            .intake
            .route
            .place
            .filter(|&place| place != place::NOWHERE)?;
        let message = &hand.message;
        let (from_tag, to_tag) = hand.tags();
        let call_id = message.call_id().ok()?;
        let method = message.request()?.method;
        Dialogs(self.env.arena).at_place(place, call_id, from_tag, to_tag, |view, sender| {
            let header = &view.header;
            let (now, of_invite, noted) = match sender {
                Sender::Caller => (
                    header.caller_shift,
                    header.caller_invite_shift,
                    header.caller_cseq,
                ),
                Sender::Callee => (
                    header.callee_shift,
                    header.callee_invite_shift,
                    header.callee_cseq,
                ),
            };
            Seen {
                call: CallRef {
                    row: view.row,
                    place,
                    role: Role::of(sender),
                    // An ACK has the number of its INVITE (§17.1.1.3).
                    shift: if method == Method::Ack {
                        of_invite
                    } else {
                        now
                    }
                    .get(),
                    rack_shift: of_invite.get(),
                    session: SessionAsk::default(),
                    bye: None,
                },
                state: view.state,
                wanted: header.session_wanted.get(),
                least: header.session_min.get(),
                numbered: header.probe_ms.get() != 0,
                noted: noted.get(),
            }
        })
    }

    /// Some phones leave out parameters that they do not know, `td` too. Who names us in his Route, the Call-ID and both tags of a dialog that is on record, is within it.
    pub(crate) fn know_by_names(&mut self, message: &Message<'_>, intake: &mut Intake) {
        if let Some(place) = intake.route.place {
            self.know_without_tag(message, intake, place);
            return;
        }
        if intake.route.ours == 0 {
            return;
        }
        let (Ok(from), Ok(to), Ok(call_id)) = (message.from(), message.to(), message.call_id())
        else {
            return;
        };
        let (Some(from_tag), Some(to_tag)) = (from.tag(), to.tag()) else {
            return;
        };
        let dialogs = Dialogs(self.env.arena);
        let Some(request_uri) = message.request().map(|line| line.uri) else {
            return;
        };
        let (whole, settings) = (intake.route, Arc::clone(&self.settings));
        let mut first = None;
        // Of a call that has passed through us twice it is the pass that the rest of the Route set is of. Two values on top may be of two passes.
        let meant = (1..=whole.ours).find_map(|ours| {
            let route = whole.with_ours(ours, message, &settings);
            dialogs.in_passes(call_id, from_tag, to_tag, |view, sender| {
                // One that is not answered has no tag that only its parties know.
                if view.callee_tag().is_empty() {
                    return None;
                }
                let place = Some(view.place());
                first.get_or_insert(RouteInfo { place, ..whole });
                let meant = Party::for_(sender, &view).is_meant(
                    message,
                    &route,
                    request_uri,
                    None,
                    &settings,
                );
                meant.then_some(RouteInfo { place, ..route })
            })
        });
        if let Some(route) = meant.or(first) {
            intake.route = route;
            intake.within_dialog = true;
        }
    }

    /// Who has answered without a tag, by RFC 2543, is asked without one.
    fn know_without_tag(&mut self, message: &Message<'_>, intake: &mut Intake, place: u64) {
        if intake.within_dialog || place == place::NOWHERE {
            return;
        }
        let (Ok(from), Ok(call_id)) = (message.from(), message.call_id()) else {
            return;
        };
        let from_tag = from.tag().unwrap_or_default();
        let dialogs = Dialogs(self.env.arena);
        let answered = dialogs.at_place(place, call_id, from_tag, b"", |view, sender| {
            let answered = view.header.confirmed_at.get() != 0;
            sender == Sender::Caller && answered && view.callee_tag().is_empty()
        });
        if answered == Some(true) {
            intake.within_dialog = true;
            intake.record_route = false;
        }
    }

    /// A request other than ACK within a dialog, before it goes on. False: it was refused.
    pub(crate) fn enter_call(&mut self, context: &mut Context, hand: &Hand<'_>) -> bool {
        if hand
            .intake
            .route
            .place
            .is_none_or(|place| place == place::NOWHERE)
        {
            return true;
        }
        let Some(mut seen) = self.see_call(hand) else {
            self.env.count(Counter::DialogsUntracked);
            return true;
        };
        if self.refuses_number(context, hand) {
            return false;
        }
        let method = hand.message.request().map(|line| line.method);
        let refreshes = matches!(method, Some(Method::Invite | Method::Update));
        if refreshes {
            match SessionAsk::of(&hand.message, seen.wanted, seen.least) {
                Ok(session) => seen.call.session = session,
                Err(TooSmall(least)) => {
                    self.refuse_session(context, hand, least);
                    return false;
                }
            }
        }
        let is_over = seen.state == DialogState::Ended;
        let bye = method == Some(Method::Bye) && !is_over;
        if bye {
            seen.call.bye = Some(Bye {
                at: self.env.now,
                early: seen.state == DialogState::Early,
            });
        }
        context.call = Some(seen.call);
        let far = hand.intake.cseq.saturating_sub(seen.noted) > UNNOTED_MAX / 2;
        if !is_over && (refreshes || seen.numbered || far) {
            self.note_request(&seen.call, &hand.message, context.source, refreshes);
        }
        true
    }

    /// Notes CSeq and, of a target refresh, the Contact. Other requests, such as INFO, are noted only where probes need their numbers: a change of the record
    /// costs a fifth of what such a request costs; a BYE of ours leaves room for them (`due::next_cseq`).
    ///
    /// Deviation: §12.2.2 changes the remote target with the 2xx; we do with the request, because its sender is there whatever the answer is.
    fn note_request(
        &mut self,
        call: &CallRef,
        message: &Message<'_>,
        source: SocketAddr,
        refreshes: bool,
    ) {
        let Ok(cseq) = message.cseq() else { return };
        let invite = cseq.method == Method::Invite;
        let rule = self.settings.registrar.nat;
        let target = match refreshes {
            true => alias::target_of(rule, message, source),
            false => Vec::new(),
        };
        // Who has sent a BYE may know of no call any more, and say so to a probe.
        let limit = self.settings.timers.limit();
        let quiet_until = call.bye.map(|bye| bye.at.saturating_add(limit));
        // Gone meanwhile, or no memory: the request goes on all the same.
        let _ = Dialogs(self.env.arena).update(call.row, |dialog| {
            let sender = match call.role {
                Role::Callee => &mut dialog.callee,
                _ => &mut dialog.caller,
            };
            let newer = cseq.number > sender.cseq;
            let moved = !target.is_empty() && sender.target != target;
            let shifted = invite && sender.invite_shift != call.shift;
            sender.cseq = sender.cseq.max(cseq.number);
            if moved {
                sender.target.clone_from(&target);
            }
            if invite {
                sender.invite_shift = call.shift;
            }
            let waits =
                quiet_until.is_some_and(|until| dialog.probe_at.is_some_and(|at| at < until));
            if waits {
                dialog.probe_at = quiet_until;
            }
            (newer || moved || shifted || waits, ())
        });
    }

    /// A request of a call on record has a number that no request may have. True: it was refused.
    pub(crate) fn refuses_number(&mut self, context: &mut Context, hand: &Hand<'_>) -> bool {
        let refused = hand.intake.cseq > CSEQ_MAX;
        if refused {
            self.end_with(context, hand, 400, Counter::BadRequest, b"");
        }
        refused
    }

    /// The call of an ACK.
    pub(crate) fn call_of(&mut self, hand: &Hand<'_>) -> Option<CallRef> {
        Some(self.see_call(hand)?.call)
    }

    /// What is to be changed in an ACK.
    pub(crate) fn call_of_ack(&mut self, hand: &Hand<'_>) -> Option<CallRef> {
        let seen = self.see_call(hand)?;
        (seen.call.shift != 0).then_some(seen.call)
    }

    /// Changes a request on its way downstream.
    pub(crate) fn patch_request(
        call: &CallRef,
        patch: &mut Patch<'_>,
        message: &Message<'_>,
    ) -> Result<(), PatchError> {
        if call.shift != 0 {
            shift_cseq(patch, message, call.shift)?;
        }
        if call.rack_shift != 0 {
            shift_rack(patch, message, call.rack_shift)?;
        }
        call.session.patch_request(patch)
    }
}

/// Adds to the number in CSeq.
pub(crate) fn shift_cseq(
    patch: &mut Patch<'_>,
    message: &Message<'_>,
    shift: i32,
) -> Result<(), PatchError> {
    let (Some(header), Ok(cseq)) = (message.first(HeaderName::CSeq), message.cseq()) else {
        return Ok(());
    };
    let mut text = Vec::with_capacity(24);
    // Writing to a Vec does not fail.
    let _ = write!(text, "{} ", cseq.number.wrapping_add_signed(shift));
    text.extend_from_slice(cseq.method_text);
    patch.replace_value(header.value_span, &text)
}

/// Adds to the CSeq number in RAck (RFC 3262 §7.2): response number, CSeq number, method.
fn shift_rack(patch: &mut Patch<'_>, message: &Message<'_>, shift: i32) -> Result<(), PatchError> {
    let Some(header) = message.first(HeaderName::RAck) else {
        return Ok(());
    };
    let mut words = header
        .value
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let (Some(response), Some(number), Some(method), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Ok(());
    };
    let number = std::str::from_utf8(number)
        .ok()
        .and_then(|number| number.parse::<u32>().ok());
    let Some(number) = number else {
        return Ok(());
    };
    let mut text = Vec::with_capacity(32);
    text.extend_from_slice(response);
    let _ = write!(text, " {} ", number.wrapping_add_signed(shift));
    text.extend_from_slice(method);
    patch.replace_value(header.value_span, &text)
}
