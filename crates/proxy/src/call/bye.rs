//! A BYE, and which of its answers ends the call.
//!
//! A BYE ends nothing by itself: one that its receiver refuses leaves a call that goes on. So the books follow the answer, as the party that sent it does (§15.1.1): a 2xx,
//! a 481, a 408 or none at all have ended the call, as of the moment that the BYE came. After any other one, such as a 407, a 420 or a 500, it goes on, and so do its records.
//!
//! In an early dialog it is the INVITE's final response that decides (§15). Only if that was a 2xx of this callee's, which has crossed the BYE, does the answer to the BYE count, and
//! only a 2xx: a 481 may be about the dialog as it was before.
//!
//! The BYE's context has the row of the dialog, and when it came ([`Bye`]): that is in the arena as long as it has no answer. Whoever dies between the end of the record and the answer
//! on its way leaves an heir that reads the same answer again, and finds nothing to end.

use sip::Message;
use stdx::Moment;
use tables::{
    Dialogs,
    dialog::{DialogState, EndCause, Sender},
};

use crate::{
    call::{Bye, Role},
    context::Context,
    step::Step,
};

impl Step<'_, '_> {
    /// A final response to a request, before it goes on. If that was a BYE, the call may be over.
    pub(crate) fn on_bye_answered(&mut self, context: &Context, message: &Message<'_>, code: u16) {
        let Some(call) = context.call else { return };
        let Some(bye) = call.bye else { return };
        match code {
            200..300 if bye.early => self.on_early_bye(context, call.row, bye, message),
            200..300 | 408 | 481 => self.on_bye_unanswered(context),
            _ => {}
        }
    }

    /// A BYE was forwarded, and there is nothing more to wait for.
    pub(crate) fn on_bye_unanswered(&mut self, context: &Context) {
        if let Some(call) = context.call
            && let Some(bye) = call.bye.filter(|bye| !bye.early)
        {
            self.end_call(call.row, cause_of(call.role), 0, bye.at.into());
        }
    }

    /// A 2xx to a BYE that came before the call was answered, and went where it said.
    fn on_early_bye(
        &mut self,
        context: &Context,
        first: shm::RowRef,
        bye: Bye,
        message: &Message<'_>,
    ) {
        let (Ok(from), Ok(to)) = (message.from(), message.to()) else {
            return;
        };
        let (from, to) = (from.tag().unwrap_or_default(), to.tag().unwrap_or_default());
        let dialogs = Dialogs(self.env.arena);
        // The answer of a hidden call may name it otherwise.
        let names = dialogs.with(first, |view| (view.place(), view.call_id().to_vec()));
        let Some((place, call_id)) = names else {
            return;
        };
        let confirmed = dialogs.at_place(place, &call_id, from, to, |view, sender| {
            let going = matches!(view.state, DialogState::Confirmed | DialogState::Ending);
            let at = tables::row::moment(view.header.confirmed_at);
            going.then_some((view.row, sender, at))
        });
        if let Some((row, sender, answered_at)) = confirmed.flatten()
            && self.went_there(context, message, row, sender)
        {
            let cause = match sender {
                Sender::Caller => EndCause::Caller,
                Sender::Callee => EndCause::Callee,
            };
            let at = Moment::from(bye.at);
            self.end_call(row, cause, 0, answered_at.map_or(at, |from| at.max(from)));
        }
    }
}

fn cause_of(role: Role) -> EndCause {
    match role {
        Role::Callee => EndCause::Callee,
        _ => EndCause::Caller,
    }
}
