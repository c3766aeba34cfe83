//! The books: the one place where calls begin, are answered and end, whoever wants it. Who reads of calls (call records, other nodes) is told here.

use shm::RowRef;
use tables::{
    Counter, Dialogs, Seats,
    dialog::{Dialog, EndCause, flag},
};

use crate::{forward::BRANCHES_MAX, step::Step};

/// What of a dialog that has ended is still read by, for the time that a transaction may take (64*T1, and Timer J after it).
const LEFT_S: u64 = 64;

impl Step<'_, '_> {
    /// A dialog is on record: the INVITE is about to be forwarded.
    pub(crate) fn call_began(&mut self, _row: RowRef) {}

    /// A 2xx has confirmed a dialog, or a further one.
    pub(crate) fn call_answered(&mut self, _row: RowRef) {
        self.env.count(Counter::DialogsConfirmed);
    }

    /// Ends a dialog: it counts nowhere any more. `code`: of the response that a failed one got. `None`: somebody else has ended it.
    ///
    /// What outlives it is written first, then its seat is given back, then it goes: whoever dies in between leaves a dialog that is ended once more.
    pub(crate) fn end_call(&mut self, row: RowRef, cause: EndCause, code: u16) -> Option<Dialog> {
        let seen = Dialogs(self.env.arena).with(row, |view| {
            let shifted =
                view.header.caller_shift.get() != 0 || view.header.callee_shift.get() != 0;
            (
                view.place(),
                view.header.seat,
                view.has(flag::HIDDEN) || shifted,
            )
        });
        let (place, seat, kept) = seen?;
        let now = self.env.now;
        match seat.checked_sub(1) {
            Some(attempt) => {
                Seats(self.env.arena).leave(place, attempt);
            }
            // It was not answered: those that failed have left.
            None if matches!(cause, EndCause::Lost) => {
                for attempt in (0..=u8::MAX).take(BRANCHES_MAX) {
                    Seats(self.env.arena).leave(place, attempt);
                }
            }
            None => {}
        }
        let mut dialogs = Dialogs(self.env.arena);
        let ended = if kept {
            let until = now.saturating_add(std::time::Duration::from_secs(LEFT_S));
            dialogs.end_keeping(row, until)
        } else {
            dialogs.end(row)
        };
        let mut ended = ended?;
        ended.end_cause.get_or_insert(cause);
        ended.end_code = code;
        self.env.count(Counter::DialogsEnded);
        Some(ended)
    }
}
