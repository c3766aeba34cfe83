//! A call has a seat at the destination of a group that it goes to, so that no destination has one call too many.

use tables::{Counter, Seats, seat::SeatError};

use crate::{ask::Target, call::Role, context::Context, io::OutcomeKind, step::Step};

impl Step<'_, '_> {
    /// Takes the seat for a branch that is about to go to a destination. False: there is none, and the branch has failed.
    pub(crate) fn take_seat(&mut self, context: &mut Context, number: u8, target: &Target) -> bool {
        let Some(to) = target.destination else {
            return true;
        };
        let call = context.call.filter(|call| call.role == Role::Begins);
        let Some(call) = call else {
            // What is no call takes no room.
            return true;
        };
        let now = self.env.now;
        let taken =
            Seats(self.env.arena).take(call.row, call.place, number, to.resource, to.limit, now);
        let (code, counter) = match taken {
            Ok(()) => return true,
            Err(SeatError::Taken | SeatError::Gone) => (503, Counter::DestinationsFull),
            Err(SeatError::Full) => (503, Counter::Full),
        };
        self.tell(target.destination, OutcomeKind::Full);
        self.fail_branch(context, number, code, counter);
        false
    }

    /// A branch will not become the call's.
    pub(crate) fn leave_seat(&mut self, context: &mut Context, number: u8) {
        let Some(call) = context.call.filter(|call| call.role == Role::Begins) else {
            return;
        };
        if context
            .branch(number)
            .is_some_and(|branch| branch.destination.is_some())
        {
            Seats(self.env.arena).leave(call.place, number);
        }
    }
}
