//! The machine: inputs in, outputs out, everything that must survive in the arena.

use std::{borrow::Cow, collections::VecDeque, sync::Arc};

use overload::Budget;
use shm::Participant;
use sip::{Layout, Message};
use stdx::hash::Key;
use tables::Counter;

use crate::{
    ask::AskId,
    context::{Context, ContextId, Contexts},
    hidden::Restored,
    hops::Flights,
    intake::{Intake, Way},
    io::{Datagram, Disposition, Env, Input, Outputs},
    settings::Settings,
    settle::Mark,
    step::{Hand, Room, Step},
};

/// The brain of one slot: RFC 3261 §16 over the slot's transactions.
///
/// One turn of the caller: any number of [`Proxy::step`]s, each followed by its answers, then [`Proxy::settle`], and only then the sends.
pub struct Proxy {
    pub(crate) slot: u16,
    key: Key,
    settings: Arc<Settings>,
    pub(crate) contexts: Contexts,
    /// Contexts that differ from their records.
    pub(crate) dirty: VecDeque<ContextId>,
    /// The layout of the datagram at hand, and the context that it became.
    layout: Option<Box<Layout>>,
    pub(crate) at_hand: Option<AtHand>,
    /// What was sent lately, for errors of the kernel.
    flights: Flights,
    /// Room for reading stored messages and for writing bodies.
    pub(crate) room: Room,
    /// The datagram at hand is a copy of a request that is there.
    copy: bool,
    /// Where the outputs of the datagram at hand begin.
    pub(crate) mark: Mark,
    /// Where the take-over of the rest goes on (see [`crate::adopt`]).
    pub(crate) adopting: Option<shm::Cursor>,
    /// The last turn in which messages of a predecessor are served again.
    pub(crate) replays_until: u64,
    budget: Option<Budget>,
}

/// The request at hand: what was read of it is read once.
pub(crate) struct AtHand {
    pub(crate) id: ContextId,
    way: Way,
    intake: Intake,
    /// What it is without our tokens.
    restored: Option<Box<Restored>>,
}

/// What a request that has come is.
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved once; a box would be an allocation for each request"
)]
pub(crate) enum Found {
    /// It has begun something that may wait for answers now.
    Begun(AtHand),
    /// Its transaction is there.
    Copy,
    /// Nothing more is to be done with it.
    Done,
}

impl AtHand {
    pub(crate) fn new(
        id: ContextId,
        way: Way,
        intake: Intake,
        restored: Option<Box<Restored>>,
    ) -> Self {
        Self {
            id,
            way,
            intake,
            restored,
        }
    }
}

impl Proxy {
    /// The machine of `slot`; `key` seals branches, tags and dialogs and is the arena's own, the same for every slot.
    pub fn new(slot: u16, key: Key, settings: Arc<Settings>) -> Self {
        Self {
            slot,
            key,
            settings,
            contexts: Contexts::default(),
            dirty: VecDeque::new(),
            layout: None,
            at_hand: None,
            flights: Flights::default(),
            room: Room::default(),
            copy: false,
            mark: Mark::default(),
            adopting: None,
            replays_until: 0,
            budget: None,
        }
    }

    /// Takes a new version of the configuration. Requests that have begun end by the one that they began with.
    pub fn configure(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// In distress, retransmissions of requests are bounded by a tenth of the new ones (see [`overload::Budget`]).
    pub fn set_distress(&mut self, distress: bool) {
        if distress != self.budget.is_some() {
            self.budget = distress.then(Budget::default);
        }
    }

    /// Transactions of this slot.
    pub fn len(&self) -> usize {
        self.contexts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty()
    }

    /// Whether the datagram of the last step was the copy of a request whose transaction is there.
    pub fn was_copy(&self) -> bool {
        self.copy
    }

    /// One input.
    pub fn step(&mut self, env: &mut Env<'_>, input: Input<'_>, out: &mut Outputs) -> Disposition {
        match input {
            Input::Datagram(datagram) => self.on_datagram(env, datagram, out),
            Input::Tick(id) => {
                self.run(env, out, |step| step.on_tick(id));
                Disposition::Served
            }
            Input::Unreachable {
                listener,
                to,
                too_long,
            } => {
                for id in self.flights.take(listener, to, too_long) {
                    self.run(env, out, |step| {
                        step.on_unreachable(id, listener, to, too_long);
                    });
                }
                Disposition::Served
            }
            Input::Due(row) => {
                self.run(env, out, |step| step.on_due(row));
                Disposition::Served
            }
            Input::Answer {
                id,
                answer,
                at_hand,
            } => {
                self.with_hand(id.context, at_hand, |proxy, hand| {
                    proxy.run(env, out, |step| step.on_answer(id, answer, hand));
                });
                Disposition::Served
            }
        }
    }

    /// Calls `work` with the request at hand, if it is this context's.
    pub(crate) fn with_hand<R>(
        &mut self,
        id: ContextId,
        at_hand: Option<Datagram<'_>>,
        work: impl FnOnce(&mut Self, Option<&Hand<'_>>) -> R,
    ) -> R {
        let Some(datagram) = at_hand else {
            return work(self, None);
        };
        let (layout, read) = (self.layout.take(), self.at_hand.take());
        let hand = match (&layout, &read) {
            (Some(layout), Some(read)) if read.id == id => {
                layout.message(datagram.bytes).map(|message| {
                    Hand::of(message, read.restored.as_deref(), &read.way, &read.intake)
                })
            }
            _ => None,
        };
        let result = work(self, hand.as_ref());
        (self.layout, self.at_hand) = (layout, read);
        result
    }

    pub(crate) fn run<R>(
        &mut self,
        env: &mut Env<'_>,
        out: &mut Outputs,
        work: impl FnOnce(&mut Step<'_, '_>) -> R,
    ) -> R {
        let env_turn = env.turn;
        work(&mut Step {
            slot: self.slot,
            key: &self.key,
            settings: Arc::clone(&self.settings),
            contexts: &mut self.contexts,
            dirty: &mut self.dirty,
            room: &mut self.room,
            flights: &mut self.flights,
            env,
            out,
            budget: &mut self.budget,
            replays: env_turn <= self.replays_until,
        })
    }

    /// Refuses a datagram that would begin something, without a transaction and at little cost: for a slot that can't take more. False,
    /// and nothing was done: it belongs to something that is there, or is no such request; then it is for [`Proxy::step`].
    pub fn refuse_new(
        &mut self,
        env: &mut Env<'_>,
        datagram: Datagram<'_>,
        retry_after_s: u32,
        out: &mut Outputs,
    ) -> bool {
        let mut layout = self.layout.take().unwrap_or_default();
        let read = layout.read(datagram.bytes).is_ok() && !datagram.truncated;
        let refused = read
            && layout.message(datagram.bytes).is_some_and(|message| {
                self.run(env, out, |step| {
                    step.refuse_new(&message, &datagram, retry_after_s)
                })
            });
        self.layout = Some(layout);
        refused
    }

    fn on_datagram(
        &mut self,
        env: &mut Env<'_>,
        datagram: Datagram<'_>,
        out: &mut Outputs,
    ) -> Disposition {
        self.mark = Mark::of(out);
        self.at_hand = None;
        self.copy = false;
        let mut layout = self.layout.take().unwrap_or_default();
        let disposition = match layout.read(datagram.bytes) {
            Ok(()) => match layout.message(datagram.bytes) {
                Some(message) => self.on_message(env, &message, &datagram, out),
                None => Disposition::Served,
            },
            Err(error) => {
                self.run(env, out, |step| {
                    step.on_malformed(layout.partial(datagram.bytes), error, &datagram)
                });
                Disposition::Served
            }
        };
        self.layout = Some(layout);
        disposition
    }

    fn on_message(
        &mut self,
        env: &mut Env<'_>,
        message: &Message<'_>,
        datagram: &Datagram<'_>,
        out: &mut Outputs,
    ) -> Disposition {
        if datagram.truncated {
            // Nothing says where the message would have ended (§18.3).
            self.run(env, out, |step| step.on_truncated(message, datagram));
            return Disposition::Served;
        }
        let (disposition, counter) = if message.is_request() {
            let (disposition, found) =
                self.run(env, out, |step| step.on_request(message, datagram));
            self.copy = matches!(found, Found::Copy);
            self.at_hand = match found {
                Found::Begun(begun) => Some(begun),
                Found::Copy | Found::Done => None,
            };
            (disposition, Counter::Requests)
        } else {
            let disposition = self.run(env, out, |step| step.on_response(message, datagram));
            (disposition, Counter::Responses)
        };
        // What another slot owns is counted there.
        if disposition == Disposition::Served {
            env.count(counter);
        }
        disposition
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
            .filter(|_| self.is_at_hand(id.context))
            .and_then(|datagram| self.layout.as_ref()?.message(datagram.bytes));
        let answer = match (message, context.request) {
            (Some(message), _) => Some(look(Question {
                arena: &*env.arena,
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
                            arena: &*env.arena,
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

    /// Whether the request at hand became this context.
    pub(crate) fn is_at_hand(&self, id: ContextId) -> bool {
        self.at_hand.as_ref().is_some_and(|read| read.id == id)
    }
}

/// What a question is about.
pub struct Question<'q> {
    arena: &'q Participant,
    context: &'q Context,
    /// The request, as it came.
    pub message: Message<'q>,
}

impl Question<'_> {
    /// The arena, to look something up: how many calls a destination has, say.
    pub fn arena(&self) -> &Participant {
        self.arena
    }

    /// The configuration that the request began with.
    pub fn settings(&self) -> &Settings {
        &self.context.settings
    }

    /// Whether the request goes where a token of ours in it says (see `hidden`): no rule need lead it there. Its Request-URI and Route are
    /// as they came.
    pub fn is_addressed(&self) -> bool {
        self.context.hidden.is_some()
    }

    /// Where the request came from.
    pub fn source(&self) -> std::net::SocketAddr {
        self.context.source
    }

    /// The listener that it came in by.
    pub fn listener(&self) -> u32 {
        self.context.listener.id
    }

    /// The user that its credentials name, for [`AskKind::Credentials`](crate::AskKind::Credentials), and the realm.
    pub fn credentials(&self) -> Option<(Cow<'_, [u8]>, &[u8])> {
        let user = crate::digest::user(&self.message, &self.context.realm)?;
        Some((user, &self.context.realm))
    }

    /// The URI that a branch of it goes to, for [`AskKind::Resolve`](crate::AskKind::Resolve).
    pub fn next_hop(&self, branch: u8) -> Option<&[u8]> {
        let target = self
            .context
            .branches
            .iter()
            .find(|other| other.number == branch)?
            .waiting
            .as_ref()?;
        target.next_hop.as_deref().or(target.uri.as_deref())
    }
}
