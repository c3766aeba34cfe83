//! What time and the operator want of calls: one whose INVITE is lost, that has lasted long enough, was not refreshed, is to be probed or to be ended.
//!
//! Every slot looks after the dialogs in its own rows (`tables::Sweep`), so that nobody does this twice; whoever dies in the middle leaves a dialog that is still due.

use std::time::Duration;

use failpoint::failpoint;
use shm::RowRef;
use sip::Method;
use stdx::{Instant, Moment};
use tables::{
    Counter, Dialogs, TRANSACTION,
    dialog::{Dialog, DialogState, EndCause},
};

use crate::{
    call::{CallRef, Role, own::To, session::SessionAsk},
    context::Stage,
    step::Step,
};

/// Between two tries to end a call by BYEs of our own: after it, those of the last try are known to be in the arena.
const ENDING_AGAIN: Duration = Duration::from_secs(1);
/// Tries until the call is ended in our books whatever became of the BYEs.
const ENDINGS_MAX: u16 = 3;

impl Step<'_, '_> {
    /// Something is to be done about this dialog.
    pub(crate) fn on_due(&mut self, row: RowRef) {
        let Some(dialog) = Dialogs(self.env.arena).with(row, |view| view.take()) else {
            return;
        };
        let now = self.env.now;
        let passed = |at: Option<Moment>| at.is_some_and(|at| at <= now.into());
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match dialog.state {
            DialogState::Early if passed(dialog.answer_until) => self.early_is_due(row, &dialog),
            DialogState::Confirmed
                if passed(dialog.session_until)
                    && dialog
                        .duration_until
                        .is_none_or(|until| dialog.session_until <= Some(until.into())) =>
            {
                // RFC 4028 §8.3: the parties end it themselves; a BYE of ours might meet one that is late.
                self.env.count(Counter::DialogsExpired);
                let at = dialog.session_until.unwrap_or(now.into());
                self.end_call(row, EndCause::Session, 0, at);
            }
            DialogState::Confirmed if over(dialog.duration_until) => {
                self.env.count(Counter::DialogsExpired);
                self.begin_ending(row, EndCause::Duration);
            }
            DialogState::Confirmed if over(dialog.probe_at) => self.probe(row),
            DialogState::Ending if over(dialog.ended_at) => self.go_on_ending(row, &dialog),
            // Changed since the look that found it.
            DialogState::Early
            | DialogState::Confirmed
            | DialogState::Ending
            | DialogState::Ended => {}
        }
    }

    /// An early dialog goes on as long as its INVITE does, and ends with it if that was never recorded; the operator may have wanted otherwise.
    fn early_is_due(&mut self, row: RowRef, dialog: &Dialog) {
        let transaction = RowRef::unpack(dialog.transaction);
        let owner = self.env.arena.with(transaction, |record| record.owner);
        let Some(owner) = owner else {
            self.env.count(Counter::DialogsExpired);
            // Nobody has known of it since; after a stop that may be long ago.
            let at = dialog.answer_until.unwrap_or(self.env.now.into());
            self.end_call(row, EndCause::Lost, 408, at);
            return;
        };
        // Until the CANCELs are known to be in the arena, it is due again soon.
        let after = match dialog.end_cause {
            Some(_) => ENDING_AGAIN,
            None => self.settings.timer_c,
        };
        let later = self.env.now.saturating_add(after);
        // Gone, or no memory: it is due again.
        let _ = Dialogs(self.env.arena).update(row, |dialog| {
            let early = dialog.state == DialogState::Early;
            dialog.answer_until = Some(later.into());
            (early, ())
        });
        // Two slots had the INVITE at the same moment, and the other one has it now: it rings on until it ends by itself.
        if dialog.end_cause.is_some() && owner == self.slot {
            self.give_up_invite(transaction);
        }
    }

    /// Ends an INVITE that has no answer, as if its caller had cancelled it.
    fn give_up_invite(&mut self, transaction: RowRef) {
        let id = self
            .contexts
            .of_row(transaction)
            .or_else(|| self.load(transaction, None));
        let Some(mut context) = id.and_then(|id| self.take(id)) else {
            return;
        };
        let goes_on = context.stage != Stage::Answered && !context.cancelled;
        if context.is_invite() && goes_on {
            self.cancel_context(&mut context);
        }
        self.contexts.put(context);
    }

    /// The call is to be ended by BYEs of ours.
    pub(crate) fn begin_ending(&mut self, row: RowRef, cause: EndCause) {
        let now = self.env.now;
        let ending = Dialogs(self.env.arena).update(row, |dialog| {
            if dialog.state != DialogState::Confirmed {
                return (false, None);
            }
            dialog.state = DialogState::Ending;
            dialog.end_cause = Some(cause);
            dialog.probes_failed = 0;
            dialog.ended_at = Some(now);
            (true, Some(dialog.clone()))
        });
        if let Ok(Some(dialog)) = ending {
            self.go_on_ending(row, &dialog);
        }
    }

    /// Sends BYEs to both; when they are known to be recorded, the call has ended.
    fn go_on_ending(&mut self, row: RowRef, dialog: &Dialog) {
        failpoint!("proxy.broken.ending", return);
        let both = [To::Caller, To::Callee];
        let keys = both.map(|to| Self::own_key(dialog.place, Role::OwnBye, to, tag_mark(dialog)));
        let tries = dialog.probes_failed;
        let there = keys
            .iter()
            .filter(|key| self.env.arena.find(TRANSACTION, key, |_| ()).is_some())
            .count();
        if tries >= ENDINGS_MAX || tries > 0 && there == both.len() {
            let cause = dialog.end_cause.unwrap_or(EndCause::Operator);
            // It was over for both when the first of them were sent.
            let at = dialog.answer_until.unwrap_or(self.env.now.into());
            self.end_call(row, cause, 0, at);
            return;
        }
        let now = self.env.now;
        let later = now.saturating_add(ENDING_AGAIN);
        let noted = Dialogs(self.env.arena).update(row, |dialog| {
            if tries == 0 {
                dialog.answer_until = Some(now.into());
            }
            dialog.probes_failed = tries.saturating_add(1);
            dialog.ended_at = Some(later);
            (true, ())
        });
        if noted.is_err() {
            return;
        }
        for (to, key) in both.into_iter().zip(&keys) {
            if self.env.arena.find(TRANSACTION, key, |_| ()).is_none() {
                let call = own_call(row, dialog, Role::OwnBye);
                let cseq = next_cseq(dialog, to);
                if self.send_own(call, dialog, to, Method::Bye, cseq, key) {
                    self.env.count(Counter::DialogsByes);
                }
            }
        }
    }

    /// Asks both parties whether they are still there. The numbers that this takes are added to their requests from now on.
    fn probe(&mut self, row: RowRef) {
        let now = self.env.now;
        let probed = Dialogs(self.env.arena).update(row, |dialog| {
            if dialog.state != DialogState::Confirmed {
                return (false, None);
            }
            let before = dialog.clone();
            dialog.caller.cseq_shift = dialog.caller.cseq_shift.wrapping_add(1);
            dialog.callee.cseq_shift = dialog.callee.cseq_shift.wrapping_add(1);
            dialog.probe_at = dialog.probe_after(now);
            (true, Some(before))
        });
        let Ok(Some(dialog)) = probed else { return };
        for (to, role) in [
            (To::Caller, Role::ProbesCaller),
            (To::Callee, Role::ProbesCallee),
        ] {
            let cseq = next_cseq(&dialog, to);
            let key = Self::own_key(dialog.place, role, to, cseq);
            let call = own_call(row, &dialog, role);
            if self.send_own(call, &dialog, to, Method::Options, cseq, &key) {
                self.env.count(Counter::DialogsProbed);
            }
        }
    }
}

/// How far the numbers of a party may be beyond the last that was noted, in a call that is not probed: one that is half as far is noted. A gap is no error (§12.2.2).
pub(crate) const UNNOTED_MAX: u32 = 1_000_000;

/// The number of a request that is taken for one of the other party: the next after those that its receiver has seen.
fn next_cseq(dialog: &Dialog, to: To) -> u32 {
    let from = match to {
        To::Caller => &dialog.callee,
        To::Callee => &dialog.caller,
    };
    let noted = from.cseq.wrapping_add_signed(from.cseq_shift);
    let next = match dialog.probe_ms {
        0 => noted.saturating_add(UNNOTED_MAX),
        _ => noted.wrapping_add(1),
    };
    // §8.1.1.5 has room for no more; but one that is too small would be refused (§12.2.2).
    next.min(i32::MAX.cast_unsigned())
        .max(noted.saturating_add(1))
}

/// What tells the dialogs of one INVITE apart, which share their place.
fn tag_mark(dialog: &Dialog) -> u32 {
    dialog.callee.tag.iter().fold(0, |mark: u32, &byte| {
        mark.wrapping_mul(31).wrapping_add(byte.into())
    })
}

fn own_call(row: RowRef, dialog: &Dialog, role: Role) -> CallRef {
    CallRef {
        row,
        place: dialog.place,
        role,
        shift: 0,
        rack_shift: 0,
        session: SessionAsk::default(),
        bye: None,
    }
}
