//! Requests of our own within a dialog: a BYE to both when we end a call, OPTIONS to see whether a party is still there.
//!
//! Such a request is made as one party would send it, from nowhere, and goes its way like any other: resolved, sent again, recorded for the heir. What comes back ends here.

use std::{io::Write, sync::Arc};

use shm::AllocClass;
use sip::Method;
use tables::{
    Counter, Dialogs,
    dialog::{Dialog, DialogState, EndCause, Side},
};

use crate::{
    call::{CallRef, Role},
    context::{Context, Origin, Stage},
    route::RouteInfo,
    settle::store,
    step::Step,
};

/// The Via of a request that has come from nowhere; it does not leave us.
const VIA: &[u8] = b"Via: SIP/2.0/UDP 0.0.0.0;branch=z9hG4bK-own\r\n";

/// Whom a request of our own is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Caller,
    Callee,
}

impl To {
    /// Who is taken for its sender, and who gets it.
    fn sides(self, dialog: &Dialog) -> (&Side, &Side) {
        match self {
            Self::Caller => (&dialog.callee, &dialog.caller),
            Self::Callee => (&dialog.caller, &dialog.callee),
        }
    }
}

impl Step<'_, '_> {
    /// The key of such a request: who finds it there need not send another.
    pub(crate) fn own_key(place: u64, role: Role, to: To, cseq: u32) -> Vec<u8> {
        let mut key = b"\0own\0".to_vec();
        key.extend_from_slice(&place.to_le_bytes());
        key.extend_from_slice(&[role as u8, to as u8]);
        key.extend_from_slice(&cseq.to_le_bytes());
        key
    }

    /// Sends a request within a dialog. False: there is no memory for it, or no way there.
    pub(crate) fn send_own(
        &mut self,
        call: CallRef,
        dialog: &Dialog,
        to: To,
        method: Method,
        cseq: u32,
        key: &[u8],
    ) -> bool {
        let (from, whom) = to.sides(dialog);
        let Some(source) = whom.address else {
            return false;
        };
        let text = own_text(dialog, from, whom, method, cseq);
        let Some(block) = store(self.env, &text, AllocClass::Update) else {
            self.env.count(Counter::Full);
            return false;
        };
        let mut made = None;
        self.with_stored(block, |step, message| {
            made = step.own_intake(message, source).map(|hand| hand.1.fold);
        });
        let Some(fold) = made else {
            self.release(Some(block));
            return false;
        };
        let origin = Origin {
            key,
            fold,
            method: Method::Other,
            listener: whom.listener.into(),
            source,
            reply_to: source,
        };
        let settings = Arc::clone(&self.settings);
        let id = self.contexts.add(|id| {
            Box::new(Context {
                request: Some(block),
                stage: Stage::Routing,
                call: Some(call),
                ..Context::new(id, &settings, &origin)
            })
        });
        self.dirty.push_back(id);
        let Some(mut context) = self.take(id) else {
            return false;
        };
        self.with_request(&mut context, |step, context, hand| {
            step.forward_as_addressed(context, hand);
        });
        self.contexts.put(context);
        true
    }

    /// What is read of a request of ours: its Route set leads past us, even where it names us.
    fn own_intake(
        &self,
        message: &sip::Message<'_>,
        source: std::net::SocketAddr,
    ) -> Option<(crate::intake::Way, crate::intake::Intake)> {
        let way = crate::intake::Way::of(message, source, self.key, registrar::NatRule::Off)?;
        let mut intake = crate::intake::Intake::of(message, &way, self.key, &self.settings).ok()?;
        leads_past_us(&mut intake);
        Some((way, intake))
    }

    /// A request of our own has its answer, or will get none.
    pub(crate) fn on_own_ended(&mut self, context: &mut Context) {
        let Some(call) = context.call.as_mut() else {
            return;
        };
        let done = *call;
        call.role = Role::OwnDone;
        self.touch(context);
        let code = context
            .branches
            .iter()
            .map(|branch| branch.code)
            .min_by_key(|code| match code {
                200..300 => 0,
                0 => 2,
                _ => 1,
            })
            .unwrap_or(0);
        let shift = match done.role {
            Role::ProbesCaller => 0,
            Role::ProbesCallee => 8,
            _ => return,
        };
        // What is there answers something, but that it knows of no such call.
        let failed = matches!(code, 0 | 408);
        let unknown = code == 481;
        let now = self.env.now;
        // Gone, or no memory: the next probe tells.
        let _ = Dialogs(self.env.arena).update(done.row, |dialog| {
            if dialog.state != DialogState::Confirmed {
                return (false, ());
            }
            let misses = dialog.probes_failed.wrapping_shr(shift) & 0xff;
            let now_missed = if failed {
                misses.saturating_add(1).min(0xff)
            } else {
                0
            };
            if unknown || (failed && now_missed >= dialog.probes_max) {
                dialog.state = DialogState::Ending;
                dialog.end_cause = Some(EndCause::Silent);
                dialog.probes_failed = 0;
                dialog.ended_at = Some(now);
                return (true, ());
            }
            let others = dialog.probes_failed & !(0xff_u16.wrapping_shl(shift));
            let next = others | now_missed.wrapping_shl(shift);
            let changed = next != dialog.probes_failed;
            dialog.probes_failed = next;
            (changed, ())
        });
    }
}

/// Takes its Route set for what it is to others, not for ours.
pub(crate) fn leads_past_us(intake: &mut crate::intake::Intake) {
    intake.route = RouteInfo {
        place: Some(super::place::NOWHERE),
        ..RouteInfo::NONE
    };
    intake.bare_uri = None;
    intake.record_route = false;
}

fn own_text(dialog: &Dialog, from: &Side, to: &Side, method: Method, cseq: u32) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let mut put = |parts: &[&[u8]]| {
        for part in parts {
            text.extend_from_slice(part);
        }
    };
    let name = method.as_str().as_bytes();
    let target = if to.target.is_empty() {
        &to.uri
    } else {
        &to.target
    };
    put(&[
        name,
        b" ",
        target,
        b" SIP/2.0\r\n",
        VIA,
        b"Max-Forwards: 70\r\n",
    ]);
    if !to.routes.is_empty() {
        put(&[b"Route: ", &to.routes, b"\r\n"]);
    }
    for (header, side) in [(&b"From: <"[..], from), (&b"To: <"[..], to)] {
        put(&[header, &side.uri, b">"]);
        // RFC 2543 knew parties without a tag.
        if !side.tag.is_empty() {
            put(&[b";tag=", &side.tag]);
        }
        put(&[b"\r\n"]);
    }
    put(&[b"Call-ID: ", &dialog.call_id, b"\r\n"]);
    // Writing to a Vec does not fail.
    let _ = write!(text, "CSeq: {cseq} ");
    text.extend_from_slice(name);
    text.extend_from_slice(b"\r\nContent-Length: 0\r\n\r\n");
    text
}
