//! What responses make of a call.

use sip::{HeaderName, Message, NameAddr, Patch, PatchError};
use stdx::{Instant, Moment};
use tables::{
    Dialogs, Seats,
    calls::{End, Tried},
    dialog::{Confirmed, Dialog, EndCause, flag},
};

use crate::{
    alias,
    call::{CallRef, Role, astray, place},
    context::{Branch, Context},
    io::Datagram,
    route::literal_address,
    step::Step,
};

/// Further dialogs of one INVITE, 2xx of other To tags: more than phones that ring at once, and far fewer than one that answers again and again could make.
const FORKS_MAX: u8 = 32;

impl Step<'_, '_> {
    /// A 2xx to an INVITE or UPDATE of a call on record, before it goes on. False: it is one too many, and goes nowhere.
    pub(crate) fn on_call_success(
        &mut self,
        context: &mut Context,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
    ) -> bool {
        let Some(call) = context.call else {
            return true;
        };
        match call.role {
            Role::Begins => return self.confirm_call(context, call, number, message, datagram),
            Role::Caller | Role::Callee => {
                let refreshes = message.cseq().is_ok_and(|cseq| {
                    matches!(cseq.method, sip::Method::Invite | sip::Method::Update)
                });
                if refreshes {
                    self.refresh_call(context, call, message, datagram);
                }
            }
            Role::OwnBye | Role::ProbesCaller | Role::ProbesCallee | Role::OwnDone => {}
        }
        true
    }

    /// The call is answered. False: by too many.
    fn confirm_call(
        &mut self,
        context: &mut Context,
        call: CallRef,
        number: u8,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
    ) -> bool {
        let Ok(to) = message.to() else { return true };
        // §12.1.2: one of RFC 2543 may have none.
        let to_tag = to.tag().unwrap_or_default();
        let dialogs = Dialogs(self.env.arena);
        let known = |view: tables::dialog::View<'_>| {
            let answered = view.header.confirmed_at.get() != 0;
            (view.row, answered && view.callee_tag() == to_tag)
        };
        // What is left of it is as good for another phone that answers.
        let first = dialogs
            .with(call.row, known)
            .or_else(|| dialogs.with(dialogs.left(call.place)?, known));
        // Ended, and nobody else was to answer, or the same 2xx once more.
        let Some((first, false)) = first else {
            return true;
        };
        let now = self.env.now;
        let routes = self.routes_to_callee(message, call.place);
        let to = context
            .branch(number)
            .map(|branch| (branch.listener.id, branch.destination));
        let (listener, destination) = to.unwrap_or((datagram.listener.id, None));
        let resource = destination.map(|to| {
            // A branch that was given up, and answers after all, has left its seat.
            let mut seats = Seats(self.env.arena);
            let _ = seats.take(call.row, call.place, number, to.resource, None, now);
            let name = seats.resource(call.place, number, <[u8]>::to_vec);
            name.unwrap_or_default()
        });
        let has_seat = resource.is_some();
        let interval = call.session.agreed(message);
        let target = self.target_of_answerer(context, message, datagram);
        // Who was reached directly, and by what he calls himself, has no other phones behind him.
        let forks =
            context.branches.len() > 1 || !routes.is_empty() || !leads_to(&target, datagram.source);
        let fill = |dialog: &mut Dialog, first: bool| {
            dialog.callee.target.clone_from(&target);
            dialog.callee.routes.clone_from(&routes);
            dialog.callee.address = Some(datagram.source);
            dialog.callee.listener = listener;
            dialog.seat = if resource.is_some() {
                number.saturating_add(1)
            } else {
                0
            };
            dialog.destination = resource.clone().unwrap_or_default();
            dialog.answer_until = None;
            if forks {
                dialog.flags |= flag::FORKS;
            }
            if first {
                // It was noted as from the INVITE on.
                let waited = Moment::from(now).saturating_duration_since(dialog.created_at);
                let until = dialog.duration_until;
                dialog.duration_until = until.map(|until| until.saturating_add(waited));
            }
            dialog.probe_at = dialog.probe_after(now);
            set_session(dialog, interval, now);
        };
        let mut dialogs = Dialogs(self.env.arena);
        let confirmed = match first == call.row {
            true => dialogs.confirm(call.row, to_tag, now, |dialog| fill(dialog, true)),
            false => Ok(Confirmed::Other),
        };
        let row = match confirmed {
            Ok(Confirmed::Now) => Some(call.row),
            Ok(Confirmed::Other) => {
                let fill = |dialog: &mut Dialog| {
                    let never = dialog.confirmed_at.is_none();
                    dialog.confirmed_at = Some(now.into());
                    fill(dialog, never);
                };
                if context.forks >= FORKS_MAX && !self.is_fork(&call, message, to_tag) {
                    return false;
                }
                // Full, or there already.
                let made = Dialogs(self.env.arena).fork(first, to_tag, fill).ok();
                if let Some(row) = made.filter(|_| has_seat) {
                    Seats(self.env.arena).pass_on(call.place, number, row);
                }
                context.forks = context.forks.saturating_add(u8::from(made.is_some()));
                made
            }
            Ok(Confirmed::Already) | Err(_) => None,
        };
        if let Some(row) = row {
            self.call_answered(row);
        }
        true
    }

    /// Whether this 2xx is a copy of one that has made a further dialog.
    fn is_fork(&mut self, call: &CallRef, message: &Message<'_>, to_tag: &[u8]) -> bool {
        let (Ok(call_id), Ok(from)) = (message.call_id(), message.from()) else {
            return false;
        };
        let from_tag = from.tag().unwrap_or_default();
        Dialogs(self.env.arena)
            .at_place(call.place, call_id, from_tag, to_tag, |_, _| ())
            .is_some()
    }

    /// The Contact of who answered.
    fn target_of_answerer(
        &self,
        context: &Context,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
    ) -> Vec<u8> {
        // What the other party is told, too.
        let reached = || self.reached_by(context, message).or(Some(datagram.source));
        let reached = self.needs_alias(message, reached);
        alias::target_back(message, reached)
    }

    /// The Route set from us to who answered: what stands above our own values in Record-Route, the other way round (§12.1.2). Those of another pass of the
    /// same call lead through us once more. One without a place ends it: a callee could have us send to ourselves again and again.
    fn routes_to_callee(&self, message: &Message<'_>, place: u64) -> Vec<u8> {
        let call_id = message.call_id().unwrap_or_default();
        let is_ours = |value: &[u8]| {
            self.place_named(value, call_id)
                .is_some_and(|named| named.is_none_or(|named| named == place))
        };
        let mut above: Vec<&[u8]> = message
            .values(HeaderName::RecordRoute)
            .map(|value| value.value)
            .take_while(|value| !is_ours(value))
            .collect();
        above.reverse();
        joined(&above)
    }

    /// The Route set from us to the caller: Record-Route as it came (§12.1.1).
    pub(crate) fn routes_to_caller(&self, message: &Message<'_>, call_id: &[u8]) -> Vec<u8> {
        let values = message.values(HeaderName::RecordRoute);
        let theirs = values
            .map(|value| value.value)
            .filter(|value| self.place_named(value, call_id) != Some(None));
        joined(&theirs.collect::<Vec<_>>())
    }

    /// Of a Record-Route that names us, the place in it: that of another pass of the same call, or none, and then its like is taken off a Route set with our own.
    pub(crate) fn place_named(&self, value: &[u8], call_id: &[u8]) -> Option<Option<u64>> {
        let route = NameAddr::parse(value).ok()?;
        let user = route.uri.user;
        let sealed = route.uri.param(place::PARAM).is_some();
        // A token is the next hop of a hidden call that comes by here once more.
        let ours = (sealed || !user.is_some_and(topology::token::may_be))
            && self.settings.interface_named(&route.uri).is_some();
        ours.then(|| place::read(&self.settings.dialog_key, call_id, &route.uri))
    }

    /// A 2xx to a re-INVITE or UPDATE: the session begins anew, and who answered may have moved (§12.2.1.2, RFC 4028 §8.2).
    fn refresh_call(
        &mut self,
        context: &Context,
        call: CallRef,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
    ) {
        let interval = call.session.agreed(message);
        let mut target = self.target_of_answerer(context, message, datagram);
        if !self.went_there(context, message, call.row, astray::sender(call.role)) {
            target.clear();
        }
        let now = self.env.now;
        // Gone, or no memory: then it lives by what it had.
        let _ = Dialogs(self.env.arena).update(call.row, |dialog| {
            let answerer = match call.role {
                Role::Caller => &mut dialog.callee,
                _ => &mut dialog.caller,
            };
            let moved = !target.is_empty() && answerer.target != target;
            if moved {
                answerer.target.clone_from(&target);
            }
            let timed = interval.is_some() || dialog.session_until.is_some();
            if timed {
                set_session(dialog, interval, now);
            }
            (moved || timed, ())
        });
    }

    /// The call is not to be: its INVITE gets a failure.
    pub(crate) fn on_call_failure(&mut self, context: &mut Context, code: u16) {
        let call = context.call.filter(|call| call.role == Role::Begins);
        if let Some(call) = call {
            let cause = if context.cancelled && code == 487 {
                EndCause::Cancelled
            } else {
                EndCause::Failed
            };
            // A branch that was given up without an answer may bring one yet.
            let late = |branch: &Branch| branch.late_until.is_some();
            if context.branches.iter().any(late) {
                // Gone, or no memory: then its call is on no record.
                let _ = Dialogs(self.env.arena).update(call.row, |dialog| {
                    dialog.flags |= flag::FORKS;
                    (true, ())
                });
            }
            let sent = |branch: &&Branch| branch.sent.is_some();
            let tried = context.branches.iter().rev().find(sent);
            let end = End {
                cause,
                code,
                at: self.env.now.into(),
                keep_until: None,
                tried: tried.map(|branch| Tried {
                    to: branch.to,
                    destination: branch.destination.map(|to| to.resource),
                }),
            };
            self.close_call(call.row, end);
        }
    }

    /// Changes a response on its way upstream: the CSeq is its receiver's again, and a session that only one side knows of gets its timer.
    pub(crate) fn patch_response(call: &CallRef, patch: &mut Patch<'_>) -> Result<(), PatchError> {
        let message = patch.message();
        if call.shift != 0 {
            super::within::shift_cseq(patch, &message, call.shift.wrapping_neg())?;
        }
        let success = message
            .status()
            .is_some_and(|status| (200..300).contains(&status.code));
        let refreshes = message
            .cseq()
            .is_ok_and(|cseq| matches!(cseq.method, sip::Method::Invite | sip::Method::Update));
        if success && refreshes {
            call.session.patch_success(patch)?;
        }
        Ok(())
    }
}

/// Whether a Contact is the address that its owner was heard from.
pub(crate) fn leads_to(target: &[u8], source: std::net::SocketAddr) -> bool {
    let uri = sip::uri::Uri::parse(target).ok();
    uri.is_some_and(|uri| {
        let to = alias::address(&uri).or_else(|| literal_address(&uri));
        to == Some(source)
    })
}

/// Values of a list header as one.
fn joined(values: &[&[u8]]) -> Vec<u8> {
    let mut text = Vec::new();
    for value in values {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        sip::message::unfold(value, &mut text);
    }
    text
}

fn set_session(dialog: &mut Dialog, interval: Option<u32>, now: Instant) {
    dialog.session_interval = interval.unwrap_or(0);
    let after = |seconds: u32| now.saturating_add(std::time::Duration::from_secs(seconds.into()));
    dialog.session_until = interval.map(|seconds| after(seconds).into());
}
