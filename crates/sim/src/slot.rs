//! One slot as a worker runs it: `worker/src/slot.rs` and `takeover.rs` without sockets, clock and thread.
//!
//! The order is theirs, step by step, because it is the order that makes deaths harmless: step, answers, settle, then dispatch; the turn's
//! sends go out, `turn_done` is stored, the buffers are given back. Who changes it there changes it here. The names of the points are those of the failpoints there.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use proxy::{Answer, Ask, ContextId, Datagram, Disposition, Env, Input, Outputs, Proxy, Settings};
use shm::{
    Arena, BufferRef, Doorbell, Mail, Participant, ParticipantId, RX_HEADER_BYTES, RxPool, RxState,
    SlotId,
};
use stdx::{Instant, Rng};
use sync::Ordering;
use tables::{Counter, Sweep};

use crate::{
    death::point,
    network::Packet,
    policy::{Policy, When},
};

/// Tries of a request that two slots take at the same moment.
const TRIES_MAX: usize = 8;
/// Rows looked at in a turn while a take-over goes on: fewer than a worker's, so that messages meet records which are not taken over yet.
const ADOPT_ROWS: usize = 64;
/// Turns of one run, at most; the next run follows at once.
const TURNS_MAX: usize = 64;

/// What a slot reaches besides its heap.
pub(crate) struct Around<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) settings: &'a Arc<Settings>,
    pub(crate) policy: &'a Policy,
    pub(crate) rng: &'a mut Rng,
    /// Datagrams that wait in the slot's socket, in the kernel.
    pub(crate) socket: &'a mut VecDeque<Packet>,
    /// Datagrams that were sent.
    pub(crate) sent: &'a mut Vec<Packet>,
    /// Doorbells that were rung.
    pub(crate) rung: &'a mut Vec<u16>,
    pub(crate) housekeeping: Duration,
}

/// An answer that comes later.
struct Late {
    at: Instant,
    ask: Ask,
    given_up: bool,
}

/// The heap of one slot's worker: gone when it dies.
pub(crate) struct Slot {
    number: u16,
    participant: Participant,
    pools: Vec<RxPool>,
    /// Buffers that the kernel has, in the order in which it fills them.
    ring: VecDeque<u16>,
    /// Buffers that it has filled.
    filled: VecDeque<u16>,
    pub(crate) proxy: Proxy,
    out: Outputs,
    wheel: BTreeSet<(Instant, u64)>,
    late: Vec<Late>,
    now: Instant,
    turn: u64,
    /// Given to the driver, and not yet sent.
    unsent: Vec<Packet>,
    served: Vec<BufferRef>,
    outbox: VecDeque<(SlotId, Mail)>,
    housekeeping_at: Instant,
    scrubbed_at: Instant,
    sweep: Sweep,
    inbox: Vec<Mail>,
}

impl Slot {
    /// Begins, with what a predecessor left if there was one. A `fault` of its own makes the message that it had at hand suspect.
    pub(crate) fn begin(
        number: u16,
        recover: bool,
        fault: bool,
        now: Instant,
        around: &mut Around<'_>,
    ) -> Self {
        let arena = around.arena;
        let mut participant = arena.participant(ParticipantId(number));
        let header = arena.slot(SlotId(number));
        let turn_done = header.turn_done.load(Ordering::Relaxed);
        let turn_started = header.turn_started.load(Ordering::Relaxed);
        let (mut journal, mut suspect) = (Vec::new(), None);
        if recover {
            let at_hand = header.at_hand();
            participant.recover(ParticipantId(number));
            point("takeover.recovered");
            suspect = at_hand.filter(|_| fault);
            journal = arena.journal(SlotId(number), suspect);
            suspect = suspect.filter(|buffer| journal.last() == Some(buffer));
        }
        participant.online();
        let pools: Vec<RxPool> = (0..arena.layout().slots)
            .map(|slot| arena.rx(SlotId(slot)))
            .collect();
        let own = arena.rx(SlotId(number));
        let ring: VecDeque<u16> = own.for_a_new_ring().collect();
        for &index in &ring {
            own.provide(index);
        }
        let mut slot = Self {
            number,
            participant,
            pools,
            ring,
            filled: VecDeque::new(),
            proxy: Proxy::new(number, arena.key(), Arc::clone(around.settings)),
            out: Outputs::default(),
            wheel: BTreeSet::new(),
            late: Vec::new(),
            now,
            turn: turn_started + 1,
            unsent: Vec::new(),
            served: Vec::new(),
            outbox: VecDeque::new(),
            housekeeping_at: now + around.housekeeping,
            scrubbed_at: now,
            sweep: Sweep::default(),
            inbox: Vec::new(),
        };
        slot.take_over(recover, turn_done, &journal, suspect, around);
        slot
    }

    fn take_over(
        &mut self,
        recover: bool,
        turn_done: u64,
        journal: &[BufferRef],
        suspect: Option<BufferRef>,
        around: &mut Around<'_>,
    ) {
        let header = around.arena.slot(SlotId(self.number));
        header.turn_started.store(self.turn, Ordering::Relaxed);
        if recover {
            let mut env = env(self.now, self.turn, &mut self.participant);
            self.proxy.adopt(&mut env, turn_done, &mut self.out);
        }
        point("takeover.adopted");
        self.answer_asks(None, around);
        self.tick_overdue();
        let mut env = env(self.now, self.turn, &mut self.participant);
        self.proxy.settle(&mut env, None, &mut self.out);
        self.dispatch(around);
        point("takeover.settled");
        if recover {
            self.remind_others(around);
        }
        for &buffer in journal {
            if journal.last() == Some(&buffer) && suspect.is_some() {
                // The suspect comes alone: everything before it is safe.
                self.submit(around);
                self.turn(around);
            }
            self.participant.count(Counter::Replayed.cell(), 1);
            self.serve(buffer, around);
        }
        point("takeover.replayed");
        self.submit(around);
    }

    /// Runs until there is nothing to do; when it wants to run again, at the latest.
    pub(crate) fn run(&mut self, now: Instant, around: &mut Around<'_>) -> Instant {
        let header = around.arena.slot(SlotId(self.number));
        header.sleeping.store(0, Ordering::SeqCst);
        self.participant.online();
        for _ in 0..TURNS_MAX {
            self.now = self.now.max(now);
            self.receive(around);
            self.turn(around);
            self.submit(around);
            self.receive(around);
            let busy = !self.filled.is_empty()
                || around.arena.has_mail(SlotId(self.number))
                || self.proxy.is_adopting();
            if !busy {
                break;
            }
        }
        header.sleeping.store(1, Ordering::SeqCst);
        self.participant.offline();
        if !self.filled.is_empty() || self.proxy.is_adopting() {
            return self.now;
        }
        let timer = self.wheel.first().map(|&(at, _)| at);
        let late = self.late.iter().map(|late| late.at).min();
        let mail = (!self.outbox.is_empty()).then(|| self.now + Duration::from_millis(1));
        [timer, late, mail]
            .into_iter()
            .flatten()
            .fold(self.housekeeping_at, Instant::min)
    }

    /// What the kernel does: datagrams from the socket into the buffers that it has.
    pub(crate) fn receive(&mut self, around: &mut Around<'_>) {
        let Some(pool) = self.pools.get(usize::from(self.number)) else {
            return;
        };
        while let (Some(packet), Some(&index)) = (around.socket.front(), self.ring.front()) {
            let (header, payload) = written(packet);
            assert!(
                pool.fill(index, header, &payload),
                "a provided buffer is empty and large enough"
            );
            around.socket.pop_front();
            self.ring.pop_front();
            self.filled.push_back(index);
        }
    }

    fn turn(&mut self, around: &mut Around<'_>) {
        self.turn += 1;
        let header = around.arena.slot(SlotId(self.number));
        header.turn_started.store(self.turn, Ordering::Relaxed);
        header
            .heartbeat_ns
            .store(self.now.as_nanos(), Ordering::Relaxed);
        self.participant.quiescent();
        self.adopt_more(around);
        // What was filled when the turn began; each turn may take a part of it.
        let count = self.filled.len();
        for index in self.filled.drain(..count).collect::<Vec<_>>() {
            if let Some(pool) = self.pools.get(usize::from(self.number)) {
                pool.hold(index, 0);
            }
            self.participant.count(Counter::Received.cell(), 1);
            let buffer = BufferRef {
                slot: self.number,
                index,
            };
            self.serve(buffer, around);
        }
        self.take_mail(around);
        self.take_answers(around);
        self.tick(around);
        if self.now >= self.housekeeping_at {
            self.keep_house(around);
        }
    }

    /// Serves one message: steps, answers what is asked, settles, queues what is to be sent.
    fn serve(&mut self, buffer: BufferRef, around: &mut Around<'_>) {
        let Some(pool) = self.pools.get(usize::from(buffer.slot)).cloned() else {
            return;
        };
        let Some((source, local, bytes)) = pool.bytes(buffer.index).and_then(read) else {
            self.served.push(buffer);
            return;
        };
        let listener = around
            .settings
            .listeners
            .iter()
            .find(|listener| listener.address == local);
        let Some(listener) = listener.map(|listener| listener.id) else {
            self.served.push(buffer);
            return;
        };
        pool.begin(buffer.index, SlotId(self.number));
        point("worker.begun");
        let datagram = Datagram {
            bytes,
            source,
            listener: listener.into(),
            truncated: false,
        };
        let mut disposition = Disposition::Again;
        for _ in 0..TRIES_MAX {
            let mut at = env(self.now, self.turn, &mut self.participant);
            disposition = self
                .proxy
                .step(&mut at, Input::Datagram(datagram), &mut self.out);
            if disposition == Disposition::Served {
                point("sim.stepped");
                self.answer_asks(Some(datagram), around);
                let mut at = env(self.now, self.turn, &mut self.participant);
                disposition = self.proxy.settle(&mut at, Some(datagram), &mut self.out);
            }
            if disposition != Disposition::Again {
                break;
            }
        }
        point("worker.settled");
        match disposition {
            Disposition::Owner(owner) if owner != self.number => {
                pool.pass(buffer.index, SlotId(owner));
                point("sim.passed");
                self.participant.count(Counter::MailSent.cell(), 1);
                self.post(SlotId(owner), Mail::Serve(buffer), around);
            }
            _ => self.served.push(buffer),
        }
        self.dispatch(around);
        point("worker.served");
    }

    /// Answers what the machine asks, or notes when the answer comes.
    fn answer_asks(&mut self, at_hand: Option<Datagram<'_>>, around: &mut Around<'_>) {
        while let Some(ask) = self.out.asks.pop() {
            let (after, given_up) = match around.policy.when(around.rng) {
                When::Now => {
                    self.answer(ask, false, at_hand, around.policy);
                    point("sim.answered");
                    continue;
                }
                When::After(after) => (after, false),
                When::Never(after) => (after, true),
            };
            let at = self.now + after;
            self.late.push(Late { at, ask, given_up });
            if around.policy.twice > 0 && around.rng.below(1000) < around.policy.twice {
                let at = at + Duration::from_millis(50);
                self.late.push(Late { at, ask, given_up });
            }
        }
    }

    fn answer(&mut self, ask: Ask, given_up: bool, at_hand: Option<Datagram<'_>>, policy: &Policy) {
        let at = env(self.now, self.turn, &mut self.participant);
        let answer: Option<Answer> = self.proxy.question(&at, ask.id, at_hand, |question| {
            if given_up {
                Policy::given_up(ask.kind)
            } else {
                policy.answer(ask.kind, &question)
            }
        });
        let Some(answer) = answer else {
            return;
        };
        let mut at = env(self.now, self.turn, &mut self.participant);
        let input = Input::Answer {
            id: ask.id,
            answer,
            at_hand,
        };
        self.proxy.step(&mut at, input, &mut self.out);
    }

    /// Answers that have come since.
    fn take_answers(&mut self, around: &mut Around<'_>) {
        let now = self.now;
        let mut due: Vec<Late> = self.late.extract_if(.., |late| late.at <= now).collect();
        due.sort_by_key(|late| late.at);
        for late in due {
            self.answer(late.ask, late.given_up, None, around.policy);
            self.answer_asks(None, around);
            let mut at = env(self.now, self.turn, &mut self.participant);
            self.proxy.settle(&mut at, None, &mut self.out);
            point("sim.answer_settled");
            self.dispatch(around);
        }
    }

    /// Gives what was settled to the driver and the wheel.
    fn dispatch(&mut self, around: &mut Around<'_>) {
        for send in &self.out.sends {
            let Some(listener) = around.settings.listener(send.listener.id) else {
                self.participant.count(Counter::SendFailed.cell(), 1);
                continue;
            };
            self.unsent.push(Packet {
                from: listener.address,
                to: send.to,
                bytes: Rc::from(self.out.text(send)),
            });
            self.participant.count(Counter::Sent.cell(), 1);
        }
        for &(deadline, id) in &self.out.arms {
            self.wheel.insert((deadline, id.pack()));
        }
        self.out.clear();
    }

    fn tick_overdue(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.out.arms)
            .into_iter()
            .partition::<Vec<_>, _>(|&(deadline, _)| deadline <= now);
        self.out.arms = later;
        for (_, id) in due {
            let mut at = env(self.now, self.turn, &mut self.participant);
            self.proxy.step(&mut at, Input::Tick(id), &mut self.out);
        }
    }

    fn remind_others(&mut self, around: &mut Around<'_>) {
        let Some(pool) = self.pools.get(usize::from(self.number)).cloned() else {
            return;
        };
        for (index, holder) in pool.passed() {
            let buffer = BufferRef {
                slot: self.number,
                index,
            };
            self.post(holder, Mail::Serve(buffer), around);
        }
    }

    fn adopt_more(&mut self, around: &mut Around<'_>) {
        if self.proxy.is_adopting() {
            let mut at = env(self.now, self.turn, &mut self.participant);
            self.proxy.adopt_more(&mut at, ADOPT_ROWS, &mut self.out);
            self.answer_asks(None, around);
            self.dispatch(around);
        }
    }

    fn tick(&mut self, around: &mut Around<'_>) {
        while let Some(&(at, id)) = self.wheel.first()
            && at <= self.now
        {
            self.wheel.pop_first();
            let mut at = env(self.now, self.turn, &mut self.participant);
            self.proxy
                .step(&mut at, Input::Tick(ContextId::unpack(id)), &mut self.out);
            point("sim.ticked");
            self.answer_asks(None, around);
            let mut at = env(self.now, self.turn, &mut self.participant);
            self.proxy.settle(&mut at, None, &mut self.out);
            point("sim.tick_settled");
            self.dispatch(around);
        }
    }

    /// The turn's sends go out one by one, then it is done and its buffers are given back.
    fn submit(&mut self, around: &mut Around<'_>) {
        for packet in std::mem::take(&mut self.unsent) {
            point("sim.sending");
            around.sent.push(packet);
        }
        point("worker.submitted");
        let header = around.arena.slot(SlotId(self.number));
        header.turn_done.store(self.turn, Ordering::Release);
        point("worker.done");
        header.set_at_hand(None);
        for buffer in std::mem::take(&mut self.served) {
            if buffer.slot == self.number {
                self.give_back(buffer.index);
            } else if let Some(pool) = self.pools.get(usize::from(buffer.slot)) {
                pool.done(buffer.index, SlotId(self.number));
                self.post(SlotId(buffer.slot), Mail::Release(buffer), around);
            }
        }
        point("worker.given_back");
    }

    fn give_back(&mut self, index: u16) {
        if let Some(pool) = self.pools.get(usize::from(self.number)) {
            pool.provide(index);
            self.ring.push_back(index);
        }
    }

    fn post(&mut self, to: SlotId, mail: Mail, around: &mut Around<'_>) {
        match self.participant.send(to, mail) {
            Ok(Doorbell::Ring) => around.rung.push(to.0),
            Ok(Doorbell::Awake) => {}
            Err(_) => self.outbox.push_back((to, mail)),
        }
    }

    fn take_mail(&mut self, around: &mut Around<'_>) {
        for _ in 0..self.outbox.len() {
            if let Some((to, mail)) = self.outbox.pop_front() {
                self.post(to, mail, around);
            }
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        self.participant.receive(|_, mail| inbox.push(mail));
        for mail in inbox.drain(..) {
            match mail {
                Mail::Serve(buffer) => {
                    let meta = self
                        .pools
                        .get(usize::from(buffer.slot))
                        .filter(|pool| buffer.index < pool.count())
                        .map(|pool| pool.meta(buffer.index));
                    let ours = meta.is_some_and(|meta| {
                        meta.state == RxState::Held && meta.holder == self.number
                    });
                    if ours && !self.served.contains(&buffer) {
                        self.participant.count(Counter::MailReceived.cell(), 1);
                        self.serve(buffer, around);
                    }
                }
                Mail::Release(buffer) => {
                    let own = self
                        .pools
                        .get(usize::from(self.number))
                        .filter(|pool| buffer.slot == self.number && buffer.index < pool.count());
                    if own.is_some_and(|pool| pool.meta(buffer.index).state == RxState::Done) {
                        self.give_back(buffer.index);
                    }
                }
                Mail::Wake => {}
            }
        }
        self.inbox = inbox;
    }

    fn keep_house(&mut self, around: &mut Around<'_>) {
        self.housekeeping_at = self.now + around.housekeeping;
        self.sweep.step(&mut self.participant, self.now, |_, _| ());
        let forgotten: Vec<u16> = self
            .pools
            .get(usize::from(self.number))
            .map(|pool| pool.released().collect())
            .unwrap_or_default();
        for index in forgotten {
            self.give_back(index);
        }
        let since = self.now.saturating_duration_since(self.scrubbed_at);
        self.scrubbed_at = self.now;
        self.participant.scrub_for(since);
    }

    /// Everything that a long time would do to the arena's memory.
    pub(crate) fn scrub_all(&mut self) {
        self.participant.online();
        self.participant.quiescent();
        self.participant.scrub(u32::MAX);
    }

    /// One round of announcements, for grace periods to end.
    pub(crate) fn announce(&mut self) {
        self.participant.online();
        self.participant.quiescent();
    }

    pub(crate) fn participant(&mut self) -> &mut Participant {
        self.participant.online();
        &mut self.participant
    }
}

fn env(now: Instant, turn: u64, arena: &mut Participant) -> Env<'_> {
    Env { now, turn, arena }
}

/// A datagram as it lies in a receive buffer: its length, and one bit so that this is never zero; from whom and to whom; its bytes.
fn written(packet: &Packet) -> ([u64; RX_HEADER_BYTES / 8], Vec<u8>) {
    let addresses = format!("{} {}\n", packet.from, packet.to);
    let payload = [addresses.as_bytes(), &packet.bytes[..]].concat();
    ([payload.len() as u64 | 1 << 63, 0], payload)
}

/// The other way round.
fn read(buffer: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let (length, rest) = buffer.split_first_chunk()?;
    let length = u64::from_le_bytes(*length) & !(1 << 63);
    let payload = rest.get(8..)?.get(..usize::try_from(length).ok()?)?;
    let line = payload.iter().position(|&byte| byte == b'\n')?;
    let (from, to) = std::str::from_utf8(payload.get(..line)?)
        .ok()?
        .split_once(' ')?;
    Some((
        from.parse().ok()?,
        to.parse().ok()?,
        payload.get(line + 1..)?,
    ))
}
