//! The machine: inputs in, outputs out, everything that must survive in the arena.

use std::{collections::VecDeque, sync::Arc};

use shm::InsertError;
use sip::{Layout, Message, Verdict, message::ParseError};
use stdx::{Instant, hash::Key};
use tables::{Counter, TRANSACTION};

use crate::{
    ask::{Ask, AskId, AskKind},
    context::{Cancel, Client, Context, ContextId, Contexts, Row, Server, Stage},
    io::{Datagram, Disposition, Env, Input, Outputs},
    local::{self, Local},
    persist,
    settings::Settings,
};

/// The brain of one slot: RFC 3261 §16 over the slot's transactions.
///
/// One turn of the caller: any number of [`Proxy::step`]s, each followed by its answers, then [`Proxy::settle`], and only then the sends.
pub struct Proxy {
    slot: u16,
    key: Key,
    settings: Arc<Settings>,
    contexts: Contexts,
    /// Contexts that differ from their records.
    dirty: VecDeque<ContextId>,
    /// The layout of the datagram at hand, and the context that it became.
    layout: Option<Box<Layout>>,
    at_hand: Option<ContextId>,
    /// Room for reading stored messages and for writing bodies.
    room: Room,
    /// Where the outputs of the datagram at hand begin.
    mark: Mark,
}

/// Reusable buffers.
#[derive(Default)]
pub(crate) struct Room {
    pub(crate) layout: Option<Box<Layout>>,
    pub(crate) text: Vec<u8>,
    pub(crate) patch: sip::PatchSpace,
    body: Vec<u8>,
    children: Vec<shm::Block>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    bytes: usize,
    sends: usize,
    arms: usize,
}

/// One step's view of everything.
pub(crate) struct Step<'s, 'e> {
    pub(crate) slot: u16,
    pub(crate) key: &'s Key,
    pub(crate) settings: &'s Settings,
    pub(crate) contexts: &'s mut Contexts,
    pub(crate) dirty: &'s mut VecDeque<ContextId>,
    pub(crate) room: &'s mut Room,
    pub(crate) env: &'s mut Env<'e>,
    pub(crate) out: &'s mut Outputs,
}

/// A message that answers are built from and that forwarding starts with.
pub(crate) struct Hand<'m> {
    pub(crate) message: Message<'m>,
    /// Replaces the top Via.
    pub(crate) via: Option<&'m [u8]>,
    /// The message is the request as we sent it on, our Via on top.
    pub(crate) sent: bool,
}

impl Proxy {
    /// The machine of `slot`; `key` seals branches and tags and is the arena's own, the same for every slot.
    pub fn new(slot: u16, key: Key, settings: Arc<Settings>) -> Self {
        Self {
            slot,
            key,
            settings,
            contexts: Contexts::default(),
            dirty: VecDeque::new(),
            layout: None,
            at_hand: None,
            room: Room::default(),
            mark: Mark::default(),
        }
    }

    /// Takes a new version of the configuration; requests that were routed already are not routed again.
    pub fn configure(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
    }

    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Transactions of this slot.
    pub fn len(&self) -> usize {
        self.contexts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty()
    }

    /// One input.
    pub fn step(&mut self, env: &mut Env<'_>, input: Input<'_>, out: &mut Outputs) -> Disposition {
        match input {
            Input::Datagram(datagram) => self.on_datagram(env, datagram, out),
            Input::Tick(id) => {
                self.run(env, out, |step| step.on_tick(id));
                Disposition::Served
            }
            Input::Answer {
                id,
                answer,
                at_hand,
            } => {
                let layout = self.layout.take();
                let message = at_hand
                    .filter(|_| self.at_hand == Some(id.context))
                    .and_then(|datagram| layout.as_ref()?.message(datagram.bytes));
                let disposition = self.run(env, out, |step| step.on_answer(id, answer, message));
                self.layout = layout;
                disposition
            }
        }
    }

    fn run<R>(
        &mut self,
        env: &mut Env<'_>,
        out: &mut Outputs,
        work: impl FnOnce(&mut Step<'_, '_>) -> R,
    ) -> R {
        let settings = Arc::clone(&self.settings);
        work(&mut Step {
            slot: self.slot,
            key: &self.key,
            settings: &settings,
            contexts: &mut self.contexts,
            dirty: &mut self.dirty,
            room: &mut self.room,
            env,
            out,
        })
    }

    fn on_datagram(
        &mut self,
        env: &mut Env<'_>,
        datagram: Datagram<'_>,
        out: &mut Outputs,
    ) -> Disposition {
        self.mark = Mark {
            bytes: out.bytes.len(),
            sends: out.sends.len(),
            arms: out.arms.len(),
        };
        self.at_hand = None;
        let mut layout = self.layout.take().unwrap_or_default();
        let disposition = match layout.read(datagram.bytes) {
            Ok(()) => match layout.message(datagram.bytes) {
                Some(message) if message.is_request() => {
                    env.count(Counter::Requests);
                    let (disposition, context) =
                        self.run(env, out, |step| step.on_request(&message, &datagram));
                    self.at_hand = context;
                    disposition
                }
                Some(message) => {
                    env.count(Counter::Responses);
                    self.run(env, out, |step| step.on_response(&message, &datagram))
                }
                None => Disposition::Served,
            },
            Err(error) => {
                self.run(env, out, |step| {
                    step.on_malformed(&layout, error, &datagram)
                });
                Disposition::Served
            }
        };
        self.layout = Some(layout);
        disposition
    }

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
            context.dirty = false;
            context.turn = env.turn;
            let waits = matches!(
                context.stage,
                Stage::Admission | Stage::Credentials | Stage::Routing
            ) || context
                .branches
                .iter()
                .any(|branch| branch.waiting.is_some());
            if waits
                && context.request.is_none()
                && let Some(datagram) = at_hand.filter(|_| self.at_hand == Some(id))
            {
                context.request = store(env, datagram.bytes, shm::AllocClass::New);
                if context.request.is_none() {
                    env.count(Counter::CommitFailed);
                }
            }
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
                Err(error) => {
                    // Never published: its blocks are freed by the failed insert, its outputs are withdrawn.
                    out.bytes.truncate(self.mark.bytes);
                    out.sends.truncate(self.mark.sends);
                    out.arms.truncate(self.mark.arms);
                    self.contexts.end(context);
                    disposition = match error {
                        InsertError::Exists { owner, .. } => Disposition::Owner(owner),
                        InsertError::Stale => Disposition::Again,
                        _ => {
                            env.count(Counter::CommitFailed);
                            Disposition::Unserved
                        }
                    };
                }
            }
        }
        disposition
    }

    fn commit(&mut self, env: &mut Env<'_>, context: &mut Context) -> Result<(), InsertError> {
        let room = &mut self.room;
        room.body.clear();
        room.children.clear();
        persist::encode(context, &mut room.body, &mut room.children);
        let meta = shm::RowMeta::default();
        match std::mem::replace(&mut context.row, Row::None) {
            Row::Live(row, version) => {
                match env
                    .arena
                    .replace(row, version, &[&room.body], &room.children, meta)
                {
                    Ok(version) => context.row = Row::Live(row, version),
                    Err(_) => {
                        // The arena still has the last state and its blocks; what was new is freed and forgotten.
                        context.row = Row::Live(row, version);
                        let kept = env
                            .arena
                            .with(row, |record| record.children.to_vec())
                            .unwrap_or_default();
                        forget_blocks(context, &kept);
                        return Err(InsertError::Full);
                    }
                }
                Ok(())
            }
            other => {
                let reserved = match other {
                    Row::Reserved(reserved) => reserved,
                    _ => env.arena.reserve(TRANSACTION, &context.key)?,
                };
                let row = env.arena.publish(
                    reserved,
                    &context.key,
                    &[&room.body],
                    &room.children,
                    meta,
                )?;
                let version = env
                    .arena
                    .with(row, |record| record.version)
                    .ok_or(InsertError::Stale)?;
                context.row = Row::Live(row, version);
                self.contexts.placed(row, context.id);
                env.count(Counter::TransactionsCreated);
                Ok(())
            }
        }
    }

    /// Ends a context and its record.
    fn remove(&mut self, env: &mut Env<'_>, mut context: Box<Context>) {
        match std::mem::replace(&mut context.row, Row::None) {
            Row::Live(row, version) => {
                env.arena.remove(row, None);
                env.count(Counter::TransactionsEnded);
                context.row = Row::Live(row, version);
            }
            Row::Reserved(reserved) => {
                env.arena.abandon(reserved);
                self.drop_blocks(env, &context);
            }
            Row::None => self.drop_blocks(env, &context),
        }
        self.contexts.end(context);
    }

    /// Frees the blocks of a context that was never published.
    fn drop_blocks(&mut self, env: &mut Env<'_>, context: &Context) {
        let kept = [
            context.request,
            context.challenges,
            context.best.and_then(|kept| kept.block),
            context.last.and_then(|kept| kept.block),
        ];
        for block in kept
            .into_iter()
            .chain(context.branches.iter().map(|branch| branch.sent))
            .flatten()
        {
            env.arena.free_children(&[block]);
        }
    }

    /// The request that a question is about, for whoever answers it. `at_hand` as for [`Input::Answer`].
    pub fn question<R>(
        &mut self,
        env: &Env<'_>,
        id: AskId,
        at_hand: Option<Datagram<'_>>,
        look: impl FnOnce(Question<'_>) -> R,
    ) -> Option<R> {
        let context = self.contexts.take(id.context)?;
        let message = at_hand
            .filter(|_| self.at_hand == Some(id.context))
            .and_then(|datagram| self.layout.as_ref()?.message(datagram.bytes));
        let answer = match (message, context.request) {
            (Some(message), _) => Some(look(Question {
                context: &context,
                message,
            })),
            (None, Some(block)) => {
                let bytes = env.arena.block(block);
                let mut layout = self.room.layout.take().unwrap_or_default();
                let answer = layout
                    .read(bytes)
                    .ok()
                    .and_then(|()| layout.message(bytes))
                    .map(|message| {
                        look(Question {
                            context: &context,
                            message,
                        })
                    });
                self.room.layout = Some(layout);
                answer
            }
            (None, None) => None,
        };
        self.contexts.put(context);
        answer
    }

    /// Takes over the slot's transactions from the arena, as the heir of a dead worker. `done` is the last turn whose sends are
    /// known to have gone out: whatever later turns sent is sent again, and open questions are asked again.
    pub fn adopt(&mut self, env: &mut Env<'_>, done: u64, out: &mut Outputs) -> usize {
        let mut found = Vec::new();
        let mut broken = Vec::new();
        env.arena.rows_of(
            TRANSACTION,
            shm::ParticipantId(self.slot),
            |record| match persist::decode(
                &record,
                ContextId {
                    index: 0,
                    generation: 0,
                },
            ) {
                Some(context) => found.push(context),
                None => broken.push(record.row),
            },
        );
        for row in broken {
            env.count(Counter::TransactionsBroken);
            env.arena.remove(row, None);
        }
        let count = found.len();
        for mut context in found {
            env.count(Counter::TransactionsAdopted);
            if context.turn > done {
                resume(&mut context, env.now);
            }
            let id = self.contexts.add(|id| {
                context.id = id;
                context
            });
            self.run(env, out, |step| step.ask_again(id));
            if let Some(mut context) = self.contexts.take(id) {
                arm(&mut context, out);
                self.contexts.put(context);
            }
        }
        count
    }
}

/// What a question is about.
pub struct Question<'q> {
    context: &'q Context,
    /// The request, as it came.
    pub message: Message<'q>,
}

impl Question<'_> {
    /// Where the request came from.
    pub fn source(&self) -> std::net::SocketAddr {
        self.context.source
    }

    /// The listener that it came in by.
    pub fn listener(&self) -> u32 {
        self.context.listener
    }

    /// The user that its credentials name, for [`AskKind::Credentials`], and the realm.
    pub fn credentials(&self) -> Option<(&[u8], &[u8])> {
        let user = crate::digest::user(&self.message, &self.context.realm)?;
        Some((user, &self.context.realm))
    }

    /// Where a branch of it goes, for [`AskKind::Resolve`].
    pub fn next_hop(&self, branch: u8) -> Option<Vec<u8>> {
        let target = self
            .context
            .branches
            .iter()
            .find(|other| other.number == branch)?
            .waiting
            .as_ref()?;
        target.next_hop.clone().or_else(|| target.uri.clone())
    }
}

/// Copies bytes into a block of the arena that will belong to a context's row.
pub(crate) fn store(env: &mut Env<'_>, bytes: &[u8], class: shm::AllocClass) -> Option<shm::Block> {
    env.arena
        .allocate(bytes.len(), class)
        .ok()
        .map(|block| block.fill(&[bytes]))
}

/// Forgets the blocks that the record does not have.
fn forget_blocks(context: &mut Context, kept: &[shm::Block]) {
    let known = |block: &mut shm::Block| kept.contains(block);
    context.request = context.request.filter(|block| kept.contains(block));
    context.challenges = context.challenges.filter(|block| kept.contains(block));
    for response in [&mut context.best, &mut context.last].into_iter().flatten() {
        response.block = response.block.filter(|block| kept.contains(block));
    }
    for branch in &mut context.branches {
        branch.sent.take_if(|block| !known(block));
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

/// Makes due at once whatever a dead worker may not have sent.
fn resume(context: &mut Context, now: Instant) {
    context.server = context.server.take().map(|server| match server {
        Server::Invite(machine) => Server::Invite(machine.resume(now)),
        Server::NonInvite(machine) => Server::NonInvite(machine.resume(now)),
    });
    for branch in &mut context.branches {
        branch.client = branch.client.take().map(|client| match client {
            Client::Invite(machine) => Client::Invite(machine.resume(now)),
            Client::NonInvite(machine) => Client::NonInvite(machine.resume(now)),
        });
        if let Cancel::Sent(machine) = branch.cancel {
            branch.cancel = Cancel::Sent(machine.resume(now));
        }
    }
}

impl Step<'_, '_> {
    /// Marks a context for [`Proxy::settle`].
    pub(crate) fn touch(&mut self, context: &mut Context) {
        if !context.dirty {
            context.dirty = true;
            self.dirty.push_back(context.id);
        }
    }

    /// Asks the outside. The number tells a stale answer; resolve questions are numbered by their branch.
    pub(crate) fn ask(&mut self, context: &mut Context, kind: AskKind) {
        let number = match kind {
            AskKind::Resolve { branch } => RESOLVE_BASE | u16::from(branch),
            AskKind::Admit | AskKind::Credentials | AskKind::Route => {
                context.asked = context.asked.wrapping_add(1) % RESOLVE_BASE;
                context.asked
            }
        };
        self.out.asks.push(Ask {
            id: AskId {
                context: context.id,
                number,
            },
            kind,
        });
    }

    /// The heir asks what its predecessor asked.
    fn ask_again(&mut self, id: ContextId) {
        let Some(mut context) = self.contexts.take(id) else {
            return;
        };
        match context.stage {
            Stage::Admission => self.ask(&mut context, AskKind::Admit),
            Stage::Credentials => self.ask(&mut context, AskKind::Credentials),
            Stage::Routing => self.ask(&mut context, AskKind::Route),
            Stage::Forwarding => {
                let waiting: Vec<u8> = context
                    .branches
                    .iter()
                    .filter(|branch| branch.waiting.is_some())
                    .map(|branch| branch.number)
                    .collect();
                for branch in waiting {
                    self.ask(&mut context, AskKind::Resolve { branch });
                }
            }
            Stage::Answered => {}
        }
        self.contexts.put(context);
    }

    /// Reads a stored message and works with it. `None` if it is gone or unreadable.
    pub(crate) fn with_stored<R>(
        &mut self,
        block: shm::Block,
        work: impl FnOnce(&mut Self, &Message<'_>) -> R,
    ) -> Option<R> {
        let mut text = std::mem::take(&mut self.room.text);
        let mut layout = self.room.layout.take().unwrap_or_default();
        text.clear();
        text.extend_from_slice(self.env.arena.block(block));
        let result = match layout.read(&text) {
            Ok(()) => layout.message(&text).map(|message| work(self, &message)),
            Err(_) => None,
        };
        self.room.text = text;
        self.room.layout = Some(layout);
        result
    }

    /// What can be answered of a message that does not parse (RFC 4475 §3.1.2 has examples).
    fn on_malformed(&mut self, layout: &Layout, error: ParseError, datagram: &Datagram<'_>) {
        if error == ParseError::KeepAlive {
            self.env.count(Counter::KeepAlives);
            return;
        }
        let (code, reason, counter) = match error.verdict() {
            _ if datagram.truncated => (513, None, Counter::TooLarge),
            Verdict::Reply(505, reason) => (505, Some(reason), Counter::BadVersion),
            Verdict::Reply(513, _) => (513, None, Counter::TooLarge),
            Verdict::Reply(code, reason) => (code, Some(reason), Counter::BadRequest),
            Verdict::Silence => (0, None, Counter::Malformed),
        };
        match layout.partial(datagram.bytes) {
            Some(message) if code != 0 && self.reply(&message, datagram, code, reason, b"") => {
                self.env.count(counter)
            }
            _ => self.env.count(Counter::Malformed),
        }
    }

    /// Answers a request without a transaction (§8.2.7). False if no way back could be read.
    pub(crate) fn reply(
        &mut self,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        code: u16,
        reason: Option<&str>,
        headers: &[u8],
    ) -> bool {
        let Some(value) = message.first_value(sip::HeaderName::Via) else {
            return false;
        };
        let Ok(via) = sip::Via::parse(value.value) else {
            return false;
        };
        let path = crate::intake::reply_path(value.value, &via, datagram.source);
        self.reply_by(message, datagram.listener, &path, code, reason, headers);
        true
    }

    /// [`Step::reply`] where the way back is known.
    pub(crate) fn reply_by(
        &mut self,
        message: &Message<'_>,
        listener: u32,
        path: &crate::intake::ReplyPath,
        code: u16,
        reason: Option<&str>,
        headers: &[u8],
    ) {
        let tag = local::to_tag(self.key, message, local::branch_at(message, 0));
        let local = Local {
            code,
            reason,
            tag: Some(&tag),
            via: path.via.as_deref(),
            skip_via: false,
            headers,
        };
        self.out
            .send(listener, path.to, |out| local::write(message, &local, out));
    }
}

/// Numbers of resolve questions begin here.
pub(crate) const RESOLVE_BASE: u16 = 0x8000;
