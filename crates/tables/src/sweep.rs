//! Removal of what has expired, a little at a time, by the slot whose rows they are.

use shm::{Cursor, Participant, Record, RowRef, TableId};
use stdx::Instant;

use crate::{Balancer, CONNECTION, Counter, Dialogs, KV, LOCATION, QUARANTINE, Seats};

/// Rows looked at for expired bindings, each time.
const LOCATION_ROWS: usize = 16_384;
/// Rows looked at for dialogs about which something is to be done, each time: their timers are no finer than that.
const DIALOG_ROWS: usize = 65_536;
/// Rows looked at in the table whose turn it is, each time.
const OTHER_ROWS: usize = 8_192;
/// The tables that take turns, and what counts their expired rows.
const OTHERS: [(TableId, Counter); 3] = [
    (KV, Counter::KvExpired),
    (CONNECTION, Counter::ConnectionsExpired),
    (QUARANTINE, Counter::QuarantineExpired),
];

/// Where the walks go on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    location: Cursor,
    dialogs: Cursor,
    seats: Cursor,
    others: [Cursor; OTHERS.len()],
    resources: Cursor,
    turn: usize,
}

impl Sweep {
    /// A step: some rows of `location` and `dialog`, and some of one other table, of the resources that wait for their last dialog, or of the seats that have lost theirs. Counts what
    /// expired. `gone` gets each record after its removal, `due` the dialogs about which something is to be done.
    pub fn step(
        &mut self,
        participant: &mut Participant,
        now: Instant,
        mut gone: impl FnMut(TableId, Record<'_>),
        due: impl FnMut(RowRef),
    ) {
        let mut expired = 0;
        let next = participant.expire(LOCATION, now, self.location, LOCATION_ROWS, |record| {
            expired += 1;
            gone(LOCATION, record);
        });
        self.location = next.unwrap_or_default();
        participant.count(Counter::BindingsExpired.cell(), expired);

        let next = Dialogs(participant).due(now, self.dialogs, DIALOG_ROWS, due);
        self.dialogs = next.unwrap_or_default();

        self.turn = (self.turn + 1) % (OTHERS.len() + 2);
        let (Some((table, counter)), Some(cursor)) =
            (OTHERS.get(self.turn), self.others.get_mut(self.turn))
        else {
            if self.turn == OTHERS.len() {
                let next = Balancer(participant).reap(self.resources, OTHER_ROWS);
                self.resources = next.unwrap_or_default();
            } else {
                let (next, lost) = Seats(participant).sweep(self.seats, OTHER_ROWS);
                self.seats = next.unwrap_or_default();
                participant.count(Counter::SeatsLost.cell(), lost);
            }
            return;
        };
        let mut expired = 0;
        let next = participant.expire(*table, now, *cursor, OTHER_ROWS, |record| {
            expired += 1;
            gone(*table, record);
        });
        *cursor = next.unwrap_or_default();
        participant.count(counter.cell(), expired);
    }
}
