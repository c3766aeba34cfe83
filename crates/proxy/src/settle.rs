//! What has changed goes into the arena, before anything that follows from it is sent.

use failpoint::failpoint;
use shm::{AllocClass, InsertError};
use sip::Method;
use tables::{Counter, TRANSACTION};

use crate::{
    context::{Context, Row, Stage},
    io::{Datagram, Disposition, Env, Outputs},
    persist,
    proxy::Proxy,
};

/// Where the outputs of the datagram at hand begin.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    bytes: usize,
    sends: usize,
    arms: usize,
    hops: usize,
    outcomes: usize,
    media: usize,
}

impl Mark {
    pub(crate) fn of(out: &Outputs) -> Self {
        Self {
            bytes: out.bytes.len(),
            sends: out.sends.len(),
            arms: out.arms.len(),
            hops: out.hops.len(),
            outcomes: out.outcomes.len(),
            media: out.media.len(),
        }
    }

    fn withdraw(self, out: &mut Outputs) {
        out.bytes.truncate(self.bytes);
        out.sends.truncate(self.sends);
        out.arms.truncate(self.arms);
        out.hops.truncate(self.hops);
        out.outcomes.truncate(self.outcomes);
        out.media.truncate(self.media);
    }
}

impl Proxy {
    /// Puts everything that has changed into the arena. After that, and not before, may the outputs be acted upon. `at_hand`
    /// is the datagram of the last step, if there was one.
    ///
    /// A request that could not be recorded is given up: its outputs are withdrawn, and the [`Disposition`] says what to do with it.
    pub fn settle(
        &mut self,
        env: &mut Env<'_>,
        at_hand: Option<Datagram<'_>>,
        out: &mut Outputs,
    ) -> Disposition {
        let mut disposition = Disposition::Served;
        while let Some(id) = self.dirty.pop_front() {
            let Some(mut context) = self.contexts.take(id) else {
                continue;
            };
            if !context.dirty {
                self.contexts.put(context);
                continue;
            }
            if !matches!(context.row, Row::Refused(_)) {
                if context.waits() {
                    self.prepare_to_wait(env, &mut context, at_hand, out);
                }
                if context.may_go_on() {
                    self.keep_request(env, &mut context, at_hand);
                    if context.request.is_none() {
                        context.stop_here();
                    }
                }
            }
            if context.stage == Stage::Answered && context.is_own() {
                self.run(env, out, |step| step.on_own_ended(&mut context));
            }
            context.dirty = false;
            context.turn = env.turn;
            if context.is_over() {
                self.remove(env, context);
                continue;
            }
            match self.commit(env, &mut context) {
                Ok(()) => {
                    arm(&mut context, out);
                    self.contexts.put(context);
                }
                Err(_) if matches!(context.row, Row::Live(..)) => {
                    env.count(Counter::CommitFailed);
                    arm(&mut context, out);
                    self.contexts.put(context);
                }
                Err(error) => disposition = self.give_up(env, context, error, at_hand, out),
            }
        }
        disposition
    }

    /// A request that waits is kept, and an INVITE gets its 100: nothing tells us that the answer will come within 200 ms
    /// (§17.2.1).
    fn prepare_to_wait(
        &mut self,
        env: &mut Env<'_>,
        context: &mut Context,
        at_hand: Option<Datagram<'_>>,
        out: &mut Outputs,
    ) {
        self.keep_request(env, context, at_hand);
        self.with_hand(context.id, at_hand, |proxy, hand| {
            proxy.run(env, out, |step| match context.request {
                Some(_) => step.say_trying(context, hand),
                None => step.cannot_wait(context, hand),
            });
        });
    }

    /// Stores the request, if it is at hand and not stored yet.
    fn keep_request(
        &mut self,
        env: &mut Env<'_>,
        context: &mut Context,
        at_hand: Option<Datagram<'_>>,
    ) {
        if context.request.is_none()
            && let Some(datagram) = at_hand.filter(|_| self.is_at_hand(context.id))
        {
            context.request = store(env, datagram.bytes, AllocClass::New);
        }
    }

    /// Writes a context to its record, which it gets if it has none.
    fn commit(&mut self, env: &mut Env<'_>, context: &mut Context) -> Result<(), InsertError> {
        let room = &mut self.room;
        room.body.clear();
        room.children.clear();
        persist::encode(context, &mut room.body, &mut room.children);
        let meta = shm::RowMeta::default();
        let reserved = match std::mem::replace(&mut context.row, Row::None) {
            Row::Live(row, version) => {
                failpoint!("proxy.broken.commit", {
                    context.row = Row::Live(row, version);
                    Ok(())
                });
                let changed = env
                    .arena
                    .replace(row, version, &[&room.body], &room.children, meta);
                context.row = Row::Live(row, changed.unwrap_or(version));
                if changed.is_err() {
                    // The arena still has the last state and its blocks; what was new is freed and forgotten.
                    let kept = env
                        .arena
                        .with(row, |record| record.children.to_vec())
                        .unwrap_or_default();
                    forget_blocks(context, &kept);
                    return Err(InsertError::Full);
                }
                return Ok(());
            }
            Row::Reserved(reserved) => Ok(reserved),
            Row::Refused(error) => Err(error),
            Row::None => env.arena.reserve(TRANSACTION, &context.key),
        };
        let reserved = match reserved {
            Ok(reserved) => reserved,
            Err(error) => {
                env.arena.free_children(&room.children);
                return Err(error);
            }
        };
        // What fails frees the reservation and the blocks.
        let row = env
            .arena
            .publish(reserved, &context.key, &[&room.body], &room.children, meta)?;
        let version = env
            .arena
            .with(row, |record| record.version)
            .ok_or(InsertError::Stale)?;
        context.row = Row::Live(row, version);
        self.contexts.placed(row, context.id);
        env.count(Counter::TransactionsCreated);
        Ok(())
    }

    /// Ends a request that was never published; its blocks are freed already. Its outputs are withdrawn.
    fn give_up(
        &mut self,
        env: &mut Env<'_>,
        mut context: Box<Context>,
        error: InsertError,
        at_hand: Option<Datagram<'_>>,
        out: &mut Outputs,
    ) -> Disposition {
        // One that was refused for another reason gets that answer all the same; only its copies are judged anew.
        let refused = context.stage == Stage::Answered
            && !matches!(error, InsertError::Exists { .. } | InsertError::Stale);
        if refused {
            self.contexts.end(context);
            return Disposition::Served;
        }
        if self.is_at_hand(context.id) {
            self.mark.withdraw(out);
        }
        let disposition = match error {
            InsertError::Exists { owner, .. } => Disposition::Owner(owner),
            InsertError::Stale => Disposition::Again,
            _ => {
                env.count(Counter::CommitFailed);
                // Its branches were not sent and its blocks are gone.
                context.branches.clear();
                self.with_hand(context.id, at_hand, |proxy, hand| {
                    if let Some(hand) = hand.filter(|_| context.method != Method::Ack) {
                        proxy.run(env, out, |step| step.refuse_full(&mut context, hand));
                    }
                });
                Disposition::Unserved
            }
        };
        self.contexts.end(context);
        disposition
    }

    /// Ends a context and its record.
    fn remove(&mut self, env: &mut Env<'_>, mut context: Box<Context>) {
        match std::mem::replace(&mut context.row, Row::None) {
            Row::Live(row, version) => {
                env.arena.remove(row, None);
                env.count(Counter::TransactionsEnded);
                context.row = Row::Live(row, version);
            }
            Row::Reserved(reserved) => env.arena.abandon(reserved),
            Row::None | Row::Refused(_) => {}
        }
        // Those that the record has were the record's to free.
        let kept = [
            context.request,
            context.challenges,
            context.contacts,
            context.best.and_then(|kept| kept.block),
            context.last.and_then(|kept| kept.block),
        ];
        let sent = context.branches.iter().map(|branch| branch.sent);
        for block in kept.into_iter().chain(sent).flatten() {
            env.arena.free_children(&[block]);
        }
        self.contexts.end(context);
    }
}

/// Copies bytes into a block of the arena that will belong to a context's row.
pub(crate) fn store(env: &mut Env<'_>, bytes: &[u8], class: AllocClass) -> Option<shm::Block> {
    env.arena
        .allocate(bytes.len(), class)
        .ok()
        .map(|block| block.fill(&[bytes]))
}

/// Forgets the blocks that the record does not have.
fn forget_blocks(context: &mut Context, kept: &[shm::Block]) {
    context.request = context.request.filter(|block| kept.contains(block));
    context.challenges = context.challenges.filter(|block| kept.contains(block));
    context.contacts = context.contacts.filter(|block| kept.contains(block));
    for response in [&mut context.best, &mut context.last].into_iter().flatten() {
        response.block = response.block.filter(|block| kept.contains(block));
    }
    for branch in &mut context.branches {
        branch.sent = branch.sent.filter(|block| kept.contains(block));
    }
}

/// Arms a tick for a context's earliest deadline, unless an earlier or equal one is armed.
pub(crate) fn arm(context: &mut Context, out: &mut Outputs) {
    let Some(deadline) = context.deadline() else {
        return;
    };
    if context.armed.is_none_or(|armed| armed > deadline) {
        context.armed = Some(deadline);
        out.arms.push((deadline, context.id));
    }
}
