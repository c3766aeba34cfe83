//! What happens to calls, as events of the arena's stream (`shm::events`): begun, answered, ended. And how a call ends, whoever ends it.
//!
//! ```text
//! kind u8 | cause u8 | code u16 | 0 u32    row of the dialog    its id, two words    when, ns of the monotonic clock, signed    0    0
//! ```
//!
//! *Order.* The change of the table comes first, then the event, then whatever the peers get to see of it: a call's events come in order, and none comes twice. One
//! is missing only if its slot died in between, of which readers are told.
//!
//! *The end* ([`close`]): 1. the record of the call, if there is to be one, is inserted in `cdr`; 2. the dialog is removed, with its counts; 3. the event is published. Only who
//! removes the dialog has ended it. A death after 1 leaves a dialog that ends later, by the same message in an heir's hands or by its expiry: its
//! record is there already and is left as it is. Whoever writes records down waits until the dialog is gone, and until nobody can be between 1 and 2 any more
//! ([`cdr`](crate::cdr)).

use std::net::SocketAddr;

use failpoint::failpoint;
use shm::{EVENT_WORDS, Event, Participant, RowRef};
use stdx::{Instant, Moment};

use crate::Seats;
use crate::balancer::Balancer;
use crate::cdr::{Cdr, Cdrs};
use crate::dialog::{Dialog, DialogId, Dialogs, EndCause, flag};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An INVITE is about to be forwarded.
    Begun,
    /// The first 2xx.
    Answered,
    Ended {
        cause: EndCause,
        /// Of the final response; 0 for a call that was answered.
        code: u16,
    },
}

/// Something that happened to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallEvent {
    pub what: What,
    pub id: DialogId,
    /// Where its dialog is, or was.
    pub row: RowRef,
    pub at: Moment,
}

impl CallEvent {
    fn pack(&self) -> [u64; EVENT_WORDS] {
        let (kind, cause, code) = match self.what {
            What::Begun => (1, 0, 0),
            What::Answered => (2, 0, 0),
            What::Ended { cause, code } => (3, cause as u64, code),
        };
        let id = u128::from_le_bytes(self.id.0);
        [
            kind | cause << 8 | u64::from(code) << 16,
            self.row.pack(),
            id as u64,
            (id >> 64) as u64,
            self.at.as_nanos().cast_unsigned(),
            0,
            0,
        ]
    }

    /// `None`: not an event of a call, or of a later release.
    pub fn read(event: &Event) -> Option<Self> {
        let [first, row, low, high, at, ..] = event.words;
        let what = match first as u8 {
            1 => What::Begun,
            2 => What::Answered,
            3 => What::Ended {
                cause: EndCause::read((first >> 8) as u8)?,
                code: (first >> 16) as u16,
            },
            _ => return None,
        };
        let id = u128::from(low) | u128::from(high) << 64;
        Some(Self {
            what,
            id: DialogId(id.to_le_bytes()),
            row: RowRef::unpack(row),
            at: Moment::from_nanos(at.cast_signed()),
        })
    }

    /// Puts it into the stream. After the change of the table, and before the peers learn of it.
    pub fn tell(&self, participant: &Participant) {
        participant.tell(self.pack());
    }
}

/// How and when a call ends.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// What ended it now; if it was to end already, that counts.
    pub cause: EndCause,
    /// Of the final response; 0 for a call that was answered.
    pub code: u16,
    /// When it was over.
    pub at: Moment,
    /// What is under way in it is read by a copy until then, see [`Dialogs::end_keeping`].
    pub keep_until: Option<Instant>,
    /// Of a call that nobody answered: where it was sent last, if anywhere.
    pub tried: Option<Tried>,
}

/// Where a call was sent.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    pub to: SocketAddr,
    /// The destination of a group.
    pub destination: Option<RowRef>,
}

/// Ends the call in this row: see the head of this module. `None`: somebody else has ended it.
pub fn close(participant: &mut Participant, row: RowRef, end: &End) -> Option<Dialog> {
    let cdr = Dialogs(participant).with(row, |view| {
        // Only a record has to be made of all of it.
        let wanted = if view.header.confirmed_at.get() == 0 {
            flag::RECORDED_UNANSWERED
        } else {
            flag::RECORDED
        };
        view.has(wanted).then(|| Cdr::of(&view.take(), end))
    })?;
    if let Some(mut cdr) = cdr {
        if let Some(tried) = end.tried.filter(|_| cdr.answer_at.is_none()) {
            let destination = tried
                .destination
                .and_then(|row| Balancer(participant).get(row));
            cdr.tried(tried.to, destination.map(|found| found.key));
        }
        // Without memory for it the call ends all the same; it is counted.
        let _ = Cdrs(participant).insert(&cdr);
    }
    failpoint!("calls.close.recorded");
    let mut dialogs = Dialogs(participant);
    let mut dialog = match end.keep_until {
        Some(until) => dialogs.end_keeping(row, until),
        None => dialogs.end(row),
    }?;
    failpoint!("calls.close.removed");
    Seats(participant).leave_restored(row, &dialog);
    let cause = *dialog.end_cause.get_or_insert(end.cause);
    dialog.end_code = end.code;
    let event = CallEvent {
        what: What::Ended {
            cause,
            code: end.code,
        },
        id: dialog.id,
        row,
        at: end.at,
    };
    event.tell(participant);
    Some(dialog)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_they_were_told() {
        let ends = EndCause::ALL.map(|cause| What::Ended { cause, code: 486 });
        for what in [What::Begun, What::Answered].into_iter().chain(ends) {
            let event = CallEvent {
                what,
                id: DialogId(std::array::from_fn(|n| n as u8 * 17)),
                row: RowRef {
                    index: 7,
                    generation: 3,
                },
                at: Moment::from_nanos(-99),
            };
            let words = event.pack();
            assert_eq!(CallEvent::read(&Event { order: 1, words }), Some(event));
        }
        let words = [4, 0, 0, 0, 0, 0, 0];
        assert_eq!(CallEvent::read(&Event { order: 1, words }), None);
        let words = [3 | 99 << 8, 0, 0, 0, 0, 0, 0];
        assert_eq!(CallEvent::read(&Event { order: 1, words }), None);
    }
}
