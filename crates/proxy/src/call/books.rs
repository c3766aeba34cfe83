//! The books: the one place where calls begin, are answered and end, whoever wants it. Who reads of calls (call records, other nodes) is told here.

use shm::RowRef;
use stdx::Moment;
use tables::{
    Counter, Dialogs, Seats,
    calls::{self, CallEvent, End, What},
    dialog::{Dialog, EndCause, flag},
};

use crate::{forward::BRANCHES_MAX, step::Step};

/// What of a dialog that has ended is still read by, for the time that a transaction may take (64*T1, and Timer J after it).
const LEFT_S: u64 = 64;

impl Step<'_, '_> {
    /// A dialog is on record: the INVITE is about to be forwarded.
    pub(crate) fn call_began(&mut self, row: RowRef) {
        self.tell_of_call(row, What::Begun);
    }

    /// A 2xx has confirmed a dialog, or a further one.
    pub(crate) fn call_answered(&mut self, row: RowRef) {
        self.env.count(Counter::DialogsConfirmed);
        self.tell_of_call(row, What::Answered);
    }

    fn tell_of_call(&mut self, row: RowRef, what: What) {
        if let Some(id) = Dialogs(self.env.arena).with(row, |view| view.id()) {
            let at = self.env.now.into();
            CallEvent { what, id, row, at }.tell(self.env.arena);
        }
    }

    /// Ends a dialog, that of a call that was over then: it counts nowhere any more. `code`: of the response that a failed one got. `None`: somebody else has ended it.
    ///
    /// What outlives it is written first, then its seat is given back, then it goes: whoever dies in between leaves a dialog that is ended once more.
    pub(crate) fn end_call(
        &mut self,
        row: RowRef,
        cause: EndCause,
        code: u16,
        over_at: Moment,
    ) -> Option<Dialog> {
        self.close_call(
            row,
            End {
                cause,
                code,
                at: over_at,
                keep_until: None,
                tried: None,
            },
        )
    }

    /// As [`Step::end_call`]; whether a copy is left is decided here.
    pub(crate) fn close_call(&mut self, row: RowRef, end: End) -> Option<Dialog> {
        let seen = Dialogs(self.env.arena).with(row, |view| {
            let shifted =
                view.header.caller_shift.get() != 0 || view.header.callee_shift.get() != 0;
            (
                view.place(),
                view.header.seat,
                // A further one would be made anew by a copy of its 2xx.
                view.has(flag::HIDDEN) || view.has(flag::FORK) || shifted,
                view.has(flag::FORKS)
                    .then(|| RowRef::unpack(view.header.transaction.get())),
            )
        });
        let (place, seat, kept, forked) = seen?;
        // As long as its INVITE is there, others may answer that (RFC 6026 §7.1).
        let kept =
            kept || forked.is_some_and(|invite| self.env.arena.with(invite, |_| ()).is_some());
        let now = self.env.now;
        match seat.checked_sub(1) {
            Some(attempt) => {
                Seats(self.env.arena).leave(place, attempt);
            }
            // It was not answered: those that failed have left.
            None if matches!(end.cause, EndCause::Lost) => {
                for attempt in (0..=u8::MAX).take(BRANCHES_MAX) {
                    Seats(self.env.arena).leave(place, attempt);
                }
            }
            None => {}
        }
        let left = std::time::Duration::from_secs(LEFT_S);
        let end = End {
            keep_until: kept.then(|| now.saturating_add(left)),
            ..end
        };
        let ended = calls::close(self.env.arena, row, &end)?;
        self.env.count(Counter::DialogsEnded);
        self.end_media(&ended);
        Some(ended)
    }
}
