//! Removal of what has expired, a little at a time, by the slot whose rows they are.

use shm::{Cursor, Participant, Record, TableId};
use stdx::Instant;

use crate::{Balancer, CONNECTION, Counter, DIALOG, Dialogs, KV, LOCATION, QUARANTINE};

/// Rows looked at for expired bindings, each time.
const LOCATION_ROWS: usize = 16_384;
/// Rows looked at in the table whose turn it is, each time.
const OTHER_ROWS: usize = 8_192;
/// The tables that take turns, and what counts their expired rows.
const OTHERS: [(TableId, Counter); 4] = [
    (DIALOG, Counter::DialogsExpired),
    (KV, Counter::KvExpired),
    (CONNECTION, Counter::ConnectionsExpired),
    (QUARANTINE, Counter::QuarantineExpired),
];

/// Where the walks go on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    location: Cursor,
    others: [Cursor; OTHERS.len()],
    resources: Cursor,
    turn: usize,
}

impl Sweep {
    /// A step: some rows of `location`, and some of one other table, or of the resources that wait for their last dialog. Counts what expired. `gone` gets each record after its removal.
    pub fn step(
        &mut self,
        participant: &mut Participant,
        now: Instant,
        mut gone: impl FnMut(TableId, Record<'_>),
    ) {
        let mut expired = 0;
        let next = participant.expire(LOCATION, now, self.location, LOCATION_ROWS, |record| {
            expired += 1;
            gone(LOCATION, record);
        });
        self.location = next.unwrap_or_default();
        participant.count(Counter::BindingsExpired.cell(), expired);

        self.turn = (self.turn + 1) % (OTHERS.len() + 1);
        let (Some((table, counter)), Some(cursor)) =
            (OTHERS.get(self.turn), self.others.get_mut(self.turn))
        else {
            let next = Balancer(participant).reap(self.resources, OTHER_ROWS);
            self.resources = next.unwrap_or_default();
            return;
        };
        let mut expired = 0;
        let gone = |record: Record<'_>| {
            expired += 1;
            gone(*table, record);
        };
        let next = match *table {
            DIALOG => Dialogs(participant).expire(now, *cursor, OTHER_ROWS, gone),
            table => participant.expire(table, now, *cursor, OTHER_ROWS, gone),
        };
        *cursor = next.unwrap_or_default();
        participant.count(counter.cell(), expired);
    }
}
