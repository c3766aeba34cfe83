//! How an heir takes over the transactions of a dead worker.
//!
//! Whatever the last turn changed is taken over before the first message is served. The many that ring, or are answered and only linger
//! (32 s of Timer H, J or L each), come by and by, or when a message asks for one of them: how long a take-over lasts does not depend
//! on how many calls there were. A timer that is due meanwhile is late by as much.

use std::{sync::Arc, time::Duration};

use shm::{Cursor, ParticipantId, RowRef};
use stdx::Instant;
use tables::{Counter, TRANSACTION};

use crate::{
    context::{Cancel, Client, Context, ContextId, Server},
    io::{Env, Outputs},
    persist,
    proxy::Proxy,
    settle,
    step::Step,
};

impl Proxy {
    /// Takes over the slot's transactions from the arena, as the heir of a dead worker; the rest comes by [`Proxy::adopt_more`].
    /// `done` is the last turn whose sends are known to have gone out: what later turns may have sent is made due at once, and open
    /// questions are asked again. The caller ticks what is due within the turn that it adopts in. Returns how many there are.
    pub fn adopt(&mut self, env: &mut Env<'_>, done: u64, out: &mut Outputs) -> usize {
        let (mut urgent, mut count) = (Vec::new(), 0_usize);
        let owner = ParticipantId(self.slot);
        env.arena.rows_of(TRANSACTION, owner, |record| {
            count = count.saturating_add(1);
            if persist::is_urgent(&record, done) {
                urgent.push(record.row);
            }
        });
        for row in urgent {
            self.run(env, out, |step| step.load(row, Some(done)));
        }
        self.adopting = Some(Cursor::default());
        // The message that it died over comes in a turn of its own.
        self.replays_until = env.turn.saturating_add(1);
        count
    }

    /// Whether [`Proxy::adopt_more`] has something to do.
    pub fn is_adopting(&self) -> bool {
        self.adopting.is_some()
    }

    /// Goes on with a take-over, over some `budget` rows of the table.
    pub fn adopt_more(&mut self, env: &mut Env<'_>, budget: usize, out: &mut Outputs) {
        let Some(cursor) = self.adopting.take() else {
            return;
        };
        let mut rows = Vec::new();
        self.adopting = env.arena.scan(TRANSACTION, cursor, budget, |record| {
            if record.owner == self.slot && self.contexts.of_row(record.row).is_none() {
                rows.push(record.row);
            }
        });
        for row in rows {
            self.run(env, out, |step| step.load(row, None));
        }
    }
}

impl Step<'_, '_> {
    /// Takes one record over; `None` if it can't be read or nobody could go on with it, and then it is removed: a record that nobody
    /// works on would shut its key for ever. With `done`, whatever a later turn may have sent is made due.
    pub(crate) fn load(&mut self, row: RowRef, done: Option<u64>) -> Option<ContextId> {
        let nameless = ContextId {
            index: 0,
            generation: 0,
        };
        let settings = Arc::clone(&self.settings);
        let found = self
            .env
            .arena
            .with(row, |record| persist::decode(&record, nameless, &settings))?;
        let Some(mut context) =
            found.filter(|context| !context.waits() || context.request.is_some())
        else {
            self.env.count(Counter::TransactionsBroken);
            self.env.arena.remove(row, None);
            return None;
        };
        self.env.count(Counter::TransactionsAdopted);
        let resumed = done.is_some_and(|done| context.turn > done);
        if resumed {
            resume(&mut context, self.env.now);
        }
        let id = self.contexts.add(|id| {
            context.id = id;
            context
        });
        self.ask_again(id);
        if let Some(mut context) = self.contexts.take(id) {
            if resumed {
                // Its record must know what is due, or a second death would make it forget.
                self.touch(&mut context);
            }
            settle::arm(&mut context, self.out);
            self.contexts.put(context);
        }
        Some(id)
    }
}

/// How long an heir waits for a sign that a request of its predecessor's last turn went out, before it sends it again: the answer is
/// often on its way already. A response has no such sign and is sent again at once.
const PATIENCE: Duration = Duration::from_millis(100);

/// Makes due whatever a dead worker may not have sent.
fn resume(context: &mut Context, now: Instant) {
    context.server = context.server.take().map(|server| match server {
        Server::Invite(machine) => Server::Invite(machine.resume(now)),
        Server::NonInvite(machine) => Server::NonInvite(machine.resume(now)),
    });
    let soon = now.saturating_add(PATIENCE);
    for branch in &mut context.branches {
        branch.client = branch.client.take().map(|client| match client {
            Client::Invite(machine) => Client::Invite(machine.resume(soon)),
            Client::NonInvite(machine) => Client::NonInvite(machine.resume(soon)),
        });
        if let Cancel::Sent(machine) = branch.cancel {
            branch.cancel = Cancel::Sent(machine.resume(soon));
        }
    }
}
