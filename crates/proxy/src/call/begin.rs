//! An INVITE begins a call: it is counted, gets its record, or is refused.

use std::{io::Write, time::Duration};

use shm::RowRef;
use stdx::hash::hash64;
use tables::{
    Balancer, Counter, Dialogs, Seats,
    balancer::{Mode, Resource, ResourceKind},
    dialog::{CountIn, CreateError, DIALOG_COUNTS_MAX, Dialog, DialogId, DialogState, Side, flag},
};

use crate::{
    alias,
    ask::{CallClass, CallPlan, Recorded},
    call::{
        CallRef, Role,
        session::{SessionAsk, TooSmall},
    },
    context::{Context, Row},
    forward::BRANCHES_MAX,
    hidden,
    step::{Hand, Step},
    upstream::RETRY_AFTER,
};

/// Whoever dies between the record of a call and that of its INVITE leaves a call that nobody serves: it is looked for after this time. A copy of the INVITE takes it up before,
/// unless it is refused.
const ORPHAN_AFTER: Duration = Duration::from_secs(5);
/// Tries of a call whose resources are made anew at the same moment.
const TRIES_MAX: usize = 4;

impl Step<'_, '_> {
    /// Puts the call that an INVITE begins on record. False: it was refused.
    pub(crate) fn begin_call(
        &mut self,
        context: &mut Context,
        hand: &Hand<'_>,
        plan: &CallPlan,
    ) -> bool {
        let Some(class) = &plan.class else {
            return true;
        };
        if self.refuses_number(context, hand) {
            return false;
        }
        let (wanted, least) = class
            .session
            .map_or((0, 0), |timer| (timer.expires_s, timer.min_s));
        let session = match SessionAsk::of(&hand.message, wanted, least) {
            Ok(session) => session,
            Err(TooSmall(least)) => {
                self.refuse_session(context, hand, least);
                return false;
            }
        };
        let mut dialog = self.new_dialog(context, hand, class);
        if plan.media.is_some() {
            dialog.flags |= flag::MEDIA;
        }
        hidden::note(&mut dialog, context);
        let origin = dialog.origin;
        let mut done = Err(CreateError::Full);
        for _ in 0..TRIES_MAX {
            done = match self.resources(plan) {
                Some(counts) => Dialogs(self.env.arena).create(dialog.clone(), &counts),
                None => Err(CreateError::Full),
            };
            // A resource that nobody used may go at any moment.
            if !matches!(done, Err(CreateError::NoResource { .. })) {
                break;
            }
        }
        let row = match done {
            Ok(row) => {
                self.env.count(Counter::DialogsCreated);
                self.call_began(row);
                row
            }
            // Somebody served this very INVITE before, and died.
            Err(CreateError::Exists(row)) if self.is_of(row, origin) => {
                let (transaction, until) = (dialog.transaction, dialog.answer_until);
                let _ = Dialogs(self.env.arena).update(row, |dialog| {
                    let other = dialog.transaction != transaction;
                    dialog.transaction = transaction;
                    dialog.answer_until = until;
                    (other, ())
                });
                row
            }
            Err(CreateError::OverLimit { nth }) => {
                let code = plan.limits.get(nth).map_or(503, |limit| limit.code);
                let headers = if code == 503 { RETRY_AFTER } else { b"" };
                self.end_with(context, hand, code, Counter::DialogsRefused, headers);
                return false;
            }
            Err(CreateError::Spiral) => {
                self.end_with(context, hand, 482, Counter::Loop, b"");
                return false;
            }
            // Who calls himself by names of such a length would be counted and written down nowhere.
            Err(CreateError::Unusable) => {
                self.end_with(context, hand, 400, Counter::BadRequest, b"");
                return false;
            }
            Err(_) => {
                self.refuse_full(context, hand);
                return false;
            }
        };
        let place = Dialogs(self.env.arena).with(row, |view| view.place());
        let Some(place) = place else {
            self.refuse_full(context, hand);
            return false;
        };
        context.call = Some(CallRef {
            row,
            place,
            role: Role::Begins,
            shift: 0,
            rack_shift: 0,
            session,
            bye: None,
        });
        match &plan.media {
            Some(set) => self.begin_media(context, hand, set),
            None => true,
        }
    }

    fn origin_of(&self, context: &Context) -> u64 {
        hash64(self.key, &[b"origin", &context.key])
    }

    /// Before an INVITE is routed once more: a worker that died over it may have taken seats for it, and sent it nowhere. If they stayed, it might find a group full of itself.
    pub(crate) fn leave_seats_of_the_dead(&mut self, context: &Context, hand: &Hand<'_>) {
        if !context.is_invite() {
            return;
        }
        let call_id = hand.message.call_id().unwrap_or_default();
        let ((from_tag, _), origin) = (hand.tags(), self.origin_of(context));
        let begun = Dialogs(self.env.arena).begun(call_id, from_tag, origin, |view| {
            let early = view.state == DialogState::Early;
            let invite = RowRef::unpack(view.header.transaction.get());
            early.then(|| (view.place(), invite))
        });
        let Some((place, invite)) = begun.flatten() else {
            return;
        };
        let is_own = matches!(context.row, Row::Live(row, _) if row == invite);
        if is_own || self.env.arena.with(invite, |_| ()).is_none() {
            for attempt in (0..=u8::MAX).take(BRANCHES_MAX) {
                Seats(self.env.arena).leave(place, attempt);
            }
        }
    }

    fn is_of(&mut self, row: RowRef, origin: u64) -> bool {
        let found = Dialogs(self.env.arena).with(row, |view| view.origin() == origin);
        found.unwrap_or(false)
    }

    /// 422 (RFC 4028 §6).
    pub(crate) fn refuse_session(&mut self, context: &mut Context, hand: &Hand<'_>, least: u32) {
        let mut headers = Vec::with_capacity(24);
        // Writing to a Vec does not fail.
        let _ = write!(headers, "Min-SE: {least}\r\n");
        self.end_with(context, hand, 422, Counter::SessionsTooSmall, &headers);
    }

    /// What the call counts in; `None`: there is no memory for it.
    fn resources(&mut self, plan: &CallPlan) -> Option<Vec<CountIn>> {
        let mut counts = Vec::with_capacity(plan.limits.len());
        for limit in plan.limits.iter().take(DIALOG_COUNTS_MAX) {
            // There are as many users as anybody can think of: theirs go when nobody counts in them any more.
            let mode = match limit.key.kind() {
                Some(ResourceKind::User) => Mode::Removed,
                _ => Mode::Enabled,
            };
            let new = Resource {
                mode,
                created_at: Some(self.env.now),
                ..Resource::default()
            };
            let resource = Balancer(self.env.arena).ensure(&limit.key, &new).ok()?;
            counts.push(CountIn {
                resource,
                limit: limit.calls_max,
            });
        }
        Some(counts)
    }

    fn new_dialog(&self, context: &Context, hand: &Hand<'_>, class: &CallClass) -> Dialog {
        let message = &hand.message;
        let now = self.env.now;
        let ((from_uri, to_uri), (from_tag, _)) = (hand.parties(), hand.tags());
        let call_id = message.call_id().unwrap_or_default();
        let origin = self.origin_of(context);
        let salt = now.as_nanos().to_le_bytes();
        let half = |part: &[u8]| hash64(self.key, &[part, &context.key, &salt]).to_le_bytes();
        let mut id = [0; 16];
        let (low, high) = id.split_at_mut(8);
        low.copy_from_slice(&half(b"id"));
        high.copy_from_slice(&half(b"id too"));
        let mut dialog = Dialog::new(DialogId(id), call_id, from_tag, now);
        dialog.origin = origin;
        dialog.transaction = match &context.row {
            Row::Reserved(reserved) => reserved.row().pack(),
            Row::Live(row, _) => row.pack(),
            Row::None | Row::Refused(_) => 0,
        };
        dialog.answer_until = Some(now.saturating_add(ORPHAN_AFTER).into());
        dialog.request_uri = message.request().map_or(&b""[..], |line| line.uri).to_vec();
        dialog.domain.clone_from(&class.domain);
        dialog.flags |= match class.recorded {
            Recorded::None => 0,
            Recorded::Answered => flag::RECORDED,
            Recorded::All => flag::RECORDED | flag::RECORDED_UNANSWERED,
        };
        if let Some(timer) = class.session {
            dialog.session_wanted = timer.expires_s;
            dialog.session_min = timer.min_s;
        }
        // Kept until it is answered: then they begin.
        dialog.duration_until = class.duration_max.map(|max| now.saturating_add(max));
        if let Some(probe) = class.probe {
            dialog.probe_ms = u32::try_from(probe.interval.as_millis()).unwrap_or(u32::MAX);
            dialog.probes_max = probe.failures_max;
        }
        let rule = self.settings.registrar.nat;
        dialog.caller = Side {
            uri: from_uri.to_vec(),
            routes: self.routes_to_caller(message, call_id),
            tag: from_tag.to_vec(),
            target: alias::target_of(rule, message, context.source),
            ..Side::default()
        };
        dialog.caller.address = Some(context.source);
        dialog.caller.listener = context.listener.id;
        dialog.caller.cseq = message.cseq().map_or(0, |cseq| cseq.number);
        dialog.callee.uri = to_uri.to_vec();
        dialog
    }
}
