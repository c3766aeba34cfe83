//! The loop of a slot.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use failpoint::failpoint;
use proxy::{
    Answer, AskId, ContextId, Datagram, Disposition, Env, Input, KeepAlive, Kept, Outputs, Probe,
    Proxy, Question,
};
use shm::{Arena, BufferRef, Mail, Participant, RowRef, RxPool, SlotHeader, SlotId};
use stdx::Instant;
use sync::Ordering;
use tables::{Attempts, Counter, Sweep};

use crate::{
    quarantine::Guard,
    takeover::Inheritance,
    world::{Entry, Point, World},
};

/// Between two slices of the scrubber, at least.
const SCRUB_SLICE: Duration = Duration::from_millis(25);
/// How often expired rows are looked for and lost memory is swept up.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// Dialogs that something is done about each time; the others are still due the next time.
const DIALOGS_DUE: usize = 256;
/// Rows looked at in a turn while a take-over goes on.
const ADOPT_ROWS: usize = 1024;
/// Tries of a request that two slots take at the same moment.
const TRIES_MAX: usize = 8;

/// Where and when a step is made.
pub(crate) struct Place {
    pub(crate) now: Instant,
    pub(crate) turn: u64,
    pub(crate) participant: Participant,
}

impl Place {
    #[inline]
    pub(crate) fn env(&mut self) -> Env<'_> {
        Env {
            now: self.now,
            turn: self.turn,
            arena: &mut self.participant,
        }
    }
}

/// The heap of one slot: gone when its worker dies.
pub struct Slot {
    pub(crate) number: u16,
    pub(crate) arena: Arena,
    pub(crate) pools: Vec<RxPool>,
    pub(crate) place: Place,
    pub(crate) proxy: Proxy,
    pub(crate) out: Outputs,
    /// Buffers whose messages were served in this turn.
    pub(crate) served: Vec<BufferRef>,
    /// Mail that found its ring full.
    pub(crate) outbox: VecDeque<(SlotId, Mail)>,
    /// Reused from turn to turn.
    pub(crate) inbox: Vec<Mail>,
    due: Vec<ContextId>,
    due_dialogs: Vec<RowRef>,
    guard: Guard,
    messages: u64,
    sweep: Sweep,
    housekeeping: Duration,
    housekeeping_at: Instant,
    scrubbed_at: Instant,
    adopt_rows: usize,
}

impl Slot {
    /// A slot that continues the turns of its predecessors.
    pub fn new(
        number: u16,
        arena: &Arena,
        participant: Participant,
        proxy: Proxy,
        now: Instant,
        inheritance: &Inheritance,
    ) -> Self {
        // Relaxed: a figure for operators.
        let messages = arena.slot(SlotId(number)).messages.load(Ordering::Relaxed);
        Self {
            number,
            pools: (0..arena.layout().slots)
                .map(|slot| arena.rx(SlotId(slot)))
                .collect(),
            arena: arena.clone(),
            place: Place {
                now,
                turn: inheritance.turn_started + 1,
                participant,
            },
            proxy,
            out: Outputs::default(),
            served: Vec::new(),
            outbox: VecDeque::new(),
            inbox: Vec::new(),
            due: Vec::new(),
            due_dialogs: Vec::new(),
            guard: Guard::default(),
            messages,
            sweep: Sweep::default(),
            housekeeping: HOUSEKEEPING,
            housekeeping_at: now + HOUSEKEEPING,
            scrubbed_at: now,
            adopt_rows: ADOPT_ROWS,
        }
    }

    /// Another rhythm: how often expired rows and lost memory are looked for, and how many rows a turn of a take-over looks at.
    pub fn every(mut self, housekeeping: Duration, adopt_rows: usize) -> Self {
        self.housekeeping = housekeeping;
        self.housekeeping_at = self.place.now + housekeeping;
        self.adopt_rows = adopt_rows;
        self
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn now(&self) -> Instant {
        self.place.now
    }

    pub fn set_now(&mut self, now: Instant) {
        self.place.now = now;
    }

    pub fn proxy(&mut self) -> &mut Proxy {
        &mut self.proxy
    }

    pub fn transactions(&self) -> usize {
        self.proxy.len()
    }

    pub fn participant(&mut self) -> &mut Participant {
        &mut self.place.participant
    }

    #[inline]
    pub fn header(&self) -> &SlotHeader {
        self.arena.slot(SlotId(self.number))
    }

    #[inline]
    pub fn count(&self, counter: Counter) {
        self.place.participant.count(counter.cell(), 1);
    }

    /// Messages were served whose buffers are not given back.
    pub fn has_served(&self) -> bool {
        !self.served.is_empty()
    }

    /// When it has something to do beside timers.
    pub fn housekeeping_at(&self) -> Instant {
        self.housekeeping_at
    }

    /// There is something to do that waits for nothing.
    pub fn is_busy(&self) -> bool {
        self.arena.has_mail(SlotId(self.number)) || self.proxy.is_adopting()
    }

    pub fn is_adopting(&self) -> bool {
        self.proxy.is_adopting()
    }

    /// Mail waits for its ring to have room.
    pub fn has_outbox(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// From now on its doorbell is wanted. Whether there is mail is to be looked at after this.
    pub fn fall_asleep(&mut self) {
        self.header().sleeping.store(1, Ordering::SeqCst);
    }

    /// Others' memory need not wait for this slot until [`Slot::wake_up`].
    pub fn offline(&mut self) {
        self.place.participant.offline();
    }

    pub fn wake_up(&mut self) {
        self.header().sleeping.store(0, Ordering::SeqCst);
        self.place.participant.online();
    }

    /// One turn: serves what has come. The time is that of [`Slot::set_now`].
    #[inline]
    pub fn turn<W: World>(&mut self, world: &mut W) {
        self.place.turn += 1;
        let header = self.arena.slot(SlotId(self.number));
        // Relaxed, here and below: announcements, see `SlotHeader`.
        header
            .turn_started
            .store(self.place.turn, Ordering::Relaxed);
        header
            .heartbeat_ns
            .store(self.place.now.as_nanos(), Ordering::Relaxed);
        self.place.participant.quiescent();
        self.adopt_more(world);
        world.take_in(self);
        self.take_mail(world);
        self.tick(world);
        world.attend(self);
        if self.place.now >= self.housekeeping_at {
            self.keep_house(world);
        }
        // In slices as small as turns allow; asleep it is `keep_house` that wakes us.
        let since = self.place.now.saturating_duration_since(self.scrubbed_at);
        if since >= SCRUB_SLICE {
            self.scrubbed_at = self.place.now;
            self.place.participant.scrub_for(since);
        }
    }

    /// A datagram has come into a buffer of this slot. `tag` comes back with it ([`shm::RxMeta`]).
    #[inline]
    pub fn receive<W: World>(&mut self, world: &mut W, index: u16, tag: u16) {
        if let Some(pool) = self.pools.get(usize::from(self.number)) {
            pool.hold(index, tag);
        }
        self.count(Counter::Received);
        let buffer = BufferRef {
            slot: self.number,
            index,
        };
        self.serve(world, buffer);
    }

    /// Serves one message: steps, answers what is asked, settles, queues what is to be sent.
    pub(crate) fn serve<W: World>(&mut self, world: &mut W, buffer: BufferRef) {
        let Some(pool) = self.pools.get(usize::from(buffer.slot)).cloned() else {
            return;
        };
        let Some(datagram) = world.read(&pool, buffer.index) else {
            self.served.push(buffer);
            return;
        };
        let place = &mut self.place;
        if self
            .guard
            .drops(&mut place.participant, datagram.bytes, place.now, || {
                world.unix_ms()
            })
        {
            self.count(Counter::Poisoned);
            self.served.push(buffer);
            return;
        }
        if !self.is_let_in(world, &datagram) {
            self.served.push(buffer);
            return;
        }
        pool.begin(buffer.index, SlotId(self.number));
        world.at_hand(datagram.bytes);
        world.point(Point::Begun);
        self.messages += 1;
        let mut disposition = Disposition::Again;
        for _ in 0..TRIES_MAX {
            disposition = self.step(Input::Datagram(datagram));
            if disposition == Disposition::Served {
                world.point(Point::Stepped);
                self.answer_asks(world, Some(datagram));
                disposition = self.settle(Some(datagram));
            }
            if disposition != Disposition::Again {
                break;
            }
        }
        world.point(Point::Settled);
        if self.proxy.was_copy() {
            world.was_copy();
        }
        match disposition {
            Disposition::Owner(owner) if owner != self.number => {
                world.was_copy();
                pool.pass(buffer.index, SlotId(owner));
                world.point(Point::Passed);
                self.count(Counter::MailSent);
                self.post(world, SlotId(owner), Mail::Serve(buffer));
            }
            _ => self.served.push(buffer),
        }
        self.dispatch(world);
        world.point(Point::Served);
    }

    #[inline]
    fn step(&mut self, input: Input<'_>) -> Disposition {
        self.proxy.step(&mut self.place.env(), input, &mut self.out)
    }

    #[inline]
    fn settle(&mut self, at_hand: Option<Datagram<'_>>) -> Disposition {
        self.proxy
            .settle(&mut self.place.env(), at_hand, &mut self.out)
    }

    /// Whether there is room for what a datagram begins. If not, it is done with.
    #[inline]
    fn is_let_in<W: World>(&mut self, world: &mut W, datagram: &Datagram<'_>) -> bool {
        match world.judge(datagram) {
            Entry::Take => true,
            Entry::Drop => {
                self.count(Counter::OverloadDropped);
                false
            }
            Entry::Refuse { after_s } => {
                let refused =
                    self.proxy
                        .refuse_new(&mut self.place.env(), *datagram, after_s, &mut self.out);
                self.dispatch(world);
                world.refused();
                if !refused {
                    world.was_copy();
                }
                !refused
            }
        }
    }

    /// Answers what the machine asks, as far as it can be answered at once, until it asks nothing more.
    pub(crate) fn answer_asks<W: World>(&mut self, world: &mut W, at_hand: Option<Datagram<'_>>) {
        while let Some(ask) = self.out.asks.pop() {
            let now = self.place.now;
            let env = self.place.env();
            let answer = self.proxy.question(&env, ask.id, at_hand, |question| {
                world.answer(now, ask, &question)
            });
            world.count(ask, &self.place.participant);
            // What needs a name server is answered in a later turn.
            if let Some(answer) = answer.flatten() {
                let id = ask.id;
                self.step(Input::Answer {
                    id,
                    answer,
                    at_hand,
                });
                world.point(Point::Answered);
            }
        }
    }

    /// The request that a question is about, while it waits for an answer.
    pub fn question<R>(&mut self, id: AskId, look: impl FnOnce(Question<'_>) -> R) -> Option<R> {
        let env = self.place.env();
        self.proxy.question(&env, id, None, look)
    }

    /// An answer that had to be waited for.
    pub fn answered<W: World>(&mut self, world: &mut W, id: AskId, answer: Answer) {
        self.step(Input::Answer {
            id,
            answer,
            at_hand: None,
        });
        self.answer_asks(world, None);
        self.settle(None);
        world.point(Point::AnswerSettled);
        self.dispatch(world);
    }

    /// Asks a destination of a group whether it is there. False: nothing reaches it.
    pub fn probe<W: World>(&mut self, world: &mut W, probe: &Probe<'_>) -> bool {
        let sent = self.proxy.probe(probe, &mut self.out);
        self.dispatch(world);
        sent
    }

    /// Keeps the way to a phone open.
    pub fn keep_alive<W: World>(&mut self, world: &mut W, keep: &KeepAlive<'_>) -> Kept {
        let (now, attempts) = (self.place.now, Attempts::of(self.place.participant.board()));
        let kept = self.proxy.keep_alive(now, &attempts, keep, &mut self.out);
        if kept == Kept::Sent {
            self.participant().count(Counter::KeepAlivesSent.cell(), 1);
        }
        self.dispatch(world);
        kept
    }

    /// What was sent there waits for no answer; `too_long`: what had so many bytes (see [`Input::Unreachable`]).
    pub fn unreachable<W: World>(
        &mut self,
        world: &mut W,
        listener: u32,
        to: SocketAddr,
        too_long: Option<usize>,
    ) {
        self.step(Input::Unreachable {
            listener,
            to,
            too_long,
        });
        self.answer_asks(world, None);
        self.settle(None);
        self.dispatch(world);
    }

    /// Gives what was settled to the driver and the wheel.
    pub(crate) fn dispatch<W: World>(&mut self, world: &mut W) {
        for send in &self.out.sends {
            let counter = if world.send(send, self.out.text(send)) {
                Counter::Sent
            } else {
                Counter::SendFailed
            };
            self.place.participant.count(counter.cell(), 1);
        }
        for &(deadline, id) in &self.out.arms {
            world.arm(deadline, id);
        }
        for note in &self.out.notes {
            world.note(self.place.now, note);
        }
        self.tell_hops(world);
        for outcome in &self.out.outcomes {
            world.outcome(self.place.now, outcome, &mut self.place.participant);
        }
        for ask in self.out.media.drain(..) {
            world.media(self.place.now, ask);
        }
        for id in self.out.media_ended.drain(..) {
            world.media_ended(self.place.now, id, &mut self.place.participant);
        }
        self.out.clear();
    }

    #[inline]
    fn tell_hops<W: World>(&mut self, world: &mut W) {
        failpoint!("slot.broken.hops", return);
        for &(hop, state) in &self.out.hops {
            world.hop(self.place.now, hop, state, &self.place.participant);
        }
    }

    fn tick<W: World>(&mut self, world: &mut W) {
        let mut due = std::mem::take(&mut self.due);
        world.due(self.place.now, &mut due);
        for id in due.drain(..) {
            self.step(Input::Tick(id));
            world.point(Point::Ticked);
            // The next hop or target may have a name.
            self.answer_asks(world, None);
            self.settle(None);
            world.point(Point::TickSettled);
            self.dispatch(world);
        }
        self.due = due;
    }

    /// Ticks what is due already, within this turn. What a predecessor may not have sent is sent again before the turn counts as
    /// done: the wheel would leave it to the next one, and a death in between would lose it for good.
    pub(crate) fn tick_overdue(&mut self) {
        let (due, later) = std::mem::take(&mut self.out.arms)
            .into_iter()
            .partition::<Vec<_>, _>(|&(deadline, _)| deadline <= self.place.now);
        self.out.arms = later;
        for (_, id) in due {
            self.step(Input::Tick(id));
        }
    }

    /// Puts what a take-over led to into the arena, and then on its way.
    pub(crate) fn settle_adopted<W: World>(&mut self, world: &mut W) {
        self.settle(None);
        self.dispatch(world);
    }

    pub(crate) fn adopt(&mut self, done: u64) -> usize {
        self.proxy.adopt(&mut self.place.env(), done, &mut self.out)
    }

    /// Goes on with a take-over: a bounded piece each turn, so that messages do not wait for it.
    fn adopt_more<W: World>(&mut self, world: &mut W) {
        if self.proxy.is_adopting() {
            self.proxy
                .adopt_more(&mut self.place.env(), self.adopt_rows, &mut self.out);
            self.answer_adopted(world);
            self.settle(None);
            self.dispatch(world);
        }
    }

    /// What a predecessor had asked is asked again.
    fn answer_adopted<W: World>(&mut self, world: &mut W) {
        failpoint!("slot.broken.adopted", self.out.asks.clear());
        self.answer_asks(world, None);
    }

    /// The turn's sends have gone out: its messages are served.
    #[inline]
    pub fn finish_turn<W: World>(&mut self, world: &mut W) {
        let header = self.arena.slot(SlotId(self.number));
        world.point(Point::Submitted);
        header.turn_done.store(self.place.turn, Ordering::Release);
        world.point(Point::Done);
        header.messages.store(self.messages, Ordering::Relaxed);
        if !self.served.is_empty() {
            world.sent(self.place.now, self.served.len());
        }
        header.set_at_hand(None);
        let mut served = std::mem::take(&mut self.served);
        for buffer in served.drain(..) {
            if buffer.slot == self.number {
                world.give_back(buffer.index);
            } else if let Some(pool) = self.pools.get(usize::from(buffer.slot)) {
                pool.done(buffer.index, SlotId(self.number));
                self.post(world, SlotId(buffer.slot), Mail::Release(buffer));
            }
        }
        self.served = served;
        world.point(Point::GivenBack);
    }

    /// Slow things, a little at a time: expired rows, lost memory, mail that was lost with its sender.
    fn keep_house<W: World>(&mut self, world: &mut W) {
        let now = self.place.now;
        self.housekeeping_at = now + self.housekeeping;
        let participant = &mut self.place.participant;
        let mut due = std::mem::take(&mut self.due_dialogs);
        let more = |row| {
            if due.len() < DIALOGS_DUE {
                due.push(row);
            }
        };
        self.sweep.step(participant, now, |_, _| (), more);
        world.keep_house(participant);
        for row in due.drain(..) {
            self.step(Input::Due(row));
            self.answer_asks(world, None);
            self.settle(None);
            self.dispatch(world);
        }
        self.due_dialogs = due;
        if let Some(pool) = self.pools.get(usize::from(self.number)) {
            for index in pool.released().collect::<Vec<u16>>() {
                world.give_back(index);
            }
        }
    }
}
