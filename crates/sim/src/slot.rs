//! One slot: the loop of the crate `slot`, as workers run it, over a kernel, timers and answers that the world decides about.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use proxy::{Answer, Ask, AskKind, ContextId, Datagram, HopState, Proxy, Question, Send, Settings};
use shm::{Arena, Participant, ParticipantId, RX_HEADER_BYTES, RxPool, SlotId};
use slot::{Counted, Heir, Point, Suspect, World, recover};
use stdx::{Instant, Rng};
use tables::{Counter, quarantine::Death};

use crate::{
    death,
    names::Lookup,
    network::Packet,
    policy::{Policy, When},
};

/// Rows looked at in a turn while a take-over goes on: fewer than a worker's, so that messages meet records which are not taken over yet.
const ADOPT_ROWS: usize = 64;
/// Turns of one run, at most; the next run follows at once.
const TURNS_MAX: usize = 64;
/// How long a message stays in quarantine.
const QUARANTINE: Duration = Duration::from_secs(600);

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
    /// Addresses that the kernel knows no way to.
    pub(crate) nowhere: &'a [SocketAddr],
    /// Deaths that were counted against messages, and how many those have by now.
    pub(crate) counted: &'a mut Vec<(Vec<u8>, u32)>,
}

/// An answer that comes later.
struct Late {
    at: Instant,
    ask: Ask,
    given_up: bool,
}

/// One slot's worker: gone when it dies.
pub(crate) struct Slot {
    inner: slot::Slot,
    heap: Heap,
}

/// What it has beside the loop.
struct Heap {
    /// Buffers that the kernel has, in the order in which it fills them.
    ring: VecDeque<u16>,
    /// Buffers that it has filled.
    filled: VecDeque<u16>,
    wheel: BTreeSet<(Instant, u64)>,
    late: Vec<Late>,
    /// Given to the driver, and not yet sent.
    unsent: Vec<Packet>,
    /// Sends that the kernel refused, until the next turn hears of it: by which listener, and where to.
    failed: Vec<(u32, SocketAddr)>,
    lookup: Lookup,
}

impl Slot {
    /// Begins, with what a predecessor left if there was one. A `fault` of its own makes the message that it had at hand suspect.
    pub(crate) fn begin(
        number: u16,
        recovers: bool,
        fault: bool,
        now: Instant,
        around: &mut Around<'_>,
    ) -> Self {
        let arena = around.arena;
        let mut participant = arena.participant(ParticipantId(number));
        let mut successor = Successor {
            now,
            counted: around.counted,
        };
        let inheritance = recover(
            &mut successor,
            arena,
            number,
            recovers,
            fault,
            &mut participant,
        );
        participant.online();
        let own = arena.rx(SlotId(number));
        let ring: VecDeque<u16> = own.for_a_new_ring().collect();
        for &index in &ring {
            own.provide(index);
        }
        let mut heap = Heap {
            ring,
            filled: VecDeque::new(),
            wheel: BTreeSet::new(),
            late: Vec::new(),
            unsent: Vec::new(),
            failed: Vec::new(),
            lookup: Lookup::new(number, &arena.key(), now),
        };
        let proxy = Proxy::new(number, arena.key(), Arc::clone(around.settings));
        let mut inner = slot::Slot::new(number, arena, participant, proxy, now, &inheritance)
            .every(around.housekeeping, ADOPT_ROWS);
        let mut outside = Outside {
            number,
            now,
            heap: &mut heap,
            around,
        };
        let Ok(()) = inner.take_over(&mut outside, &inheritance);
        Self { inner, heap }
    }

    /// Runs until there is nothing to do; when it wants to run again, at the latest.
    pub(crate) fn run(&mut self, now: Instant, around: &mut Around<'_>) -> Instant {
        let Self { inner, heap } = self;
        inner.wake_up();
        inner.set_now(inner.now().max(now));
        let number = inner.number();
        for _ in 0..TURNS_MAX {
            let mut outside = Outside {
                number,
                now: inner.now(),
                heap,
                around,
            };
            outside.fill();
            inner.turn(&mut outside);
            let Ok(()) = outside.submit();
            inner.finish_turn(&mut outside);
            outside.fill();
            if !heap.is_busy() && !inner.is_busy() {
                break;
            }
        }
        inner.fall_asleep();
        inner.offline();
        if heap.is_busy() || inner.is_adopting() {
            return inner.now();
        }
        let timer = heap.wheel.first().map(|&(at, _)| at);
        let late = heap.late.iter().map(|late| late.at).min();
        let mail = inner
            .has_outbox()
            .then(|| inner.now() + Duration::from_millis(1));
        [timer, late, mail, heap.lookup.deadline()]
            .into_iter()
            .flatten()
            .fold(inner.housekeeping_at(), Instant::min)
    }

    /// What the kernel does: datagrams from the socket into the buffers that it has.
    pub(crate) fn receive(&mut self, around: &mut Around<'_>) {
        Outside {
            number: self.inner.number(),
            now: self.inner.now(),
            heap: &mut self.heap,
            around,
        }
        .fill();
    }

    /// Transactions on the heap.
    pub(crate) fn transactions(&self) -> usize {
        self.inner.transactions()
    }

    /// Everything that a long time would do to the arena's memory.
    pub(crate) fn scrub_all(&mut self) {
        self.announce();
        self.inner.participant().scrub(u32::MAX);
    }

    /// One round of announcements, for grace periods to end.
    pub(crate) fn announce(&mut self) {
        let participant = self.participant();
        participant.quiescent();
    }

    pub(crate) fn participant(&mut self) -> &mut Participant {
        let participant = self.inner.participant();
        participant.online();
        participant
    }
}

impl Heap {
    fn is_busy(&self) -> bool {
        !self.filled.is_empty() || !self.failed.is_empty()
    }
}

/// What the loop reaches while it runs.
struct Outside<'o, 'a> {
    number: u16,
    now: Instant,
    heap: &'o mut Heap,
    around: &'o mut Around<'a>,
}

impl Outside<'_, '_> {
    fn fill(&mut self) {
        let pool = self.around.arena.rx(SlotId(self.number));
        let heap = &mut *self.heap;
        while let (Some(packet), Some(&index)) = (self.around.socket.front(), heap.ring.front()) {
            let (header, payload) = written(packet);
            assert!(
                pool.fill(index, header, &payload),
                "a provided buffer is empty and large enough"
            );
            self.around.socket.pop_front();
            heap.ring.pop_front();
            heap.filled.push_back(index);
        }
    }

    /// Answers that have come since.
    fn take_answers(&mut self, slot: &mut slot::Slot) {
        let now = self.now;
        let late = &mut self.heap.late;
        let mut due: Vec<Late> = late.extract_if(.., |late| late.at <= now).collect();
        due.sort_by_key(|late| late.at);
        for late in due {
            let policy = self.around.policy;
            let answer = slot.question(late.ask.id, |question| {
                if late.given_up {
                    Policy::given_up(late.ask.kind)
                } else {
                    policy.answer(late.ask.kind, &question)
                }
            });
            if let Some(answer) = answer {
                slot.answered(self, late.ask.id, answer);
            }
        }
        let names = &self.around.policy.names;
        for (id, hops) in self.heap.lookup.turn(now, names, self.around.rng) {
            slot.answered(self, id, Answer::Resolved(hops));
        }
    }
}

impl World for Outside<'_, '_> {
    type Error = Infallible;

    fn now(&self) -> Instant {
        self.now
    }

    fn unix_ms(&self) -> u64 {
        self.now.as_nanos() / 1_000_000
    }

    fn read<'b>(&self, pool: &'b RxPool, index: u16) -> Option<Datagram<'b>> {
        let (source, local, bytes) = pool.bytes(index).and_then(read)?;
        let mut listeners = self.around.settings.listeners.iter();
        let listener = listeners.find(|listener| listener.address == local)?;
        Some(Datagram {
            bytes,
            source,
            listener: listener.id.into(),
            truncated: false,
        })
    }

    fn take_in(&mut self, slot: &mut slot::Slot) {
        for (listener, to) in std::mem::take(&mut self.heap.failed) {
            slot.count(Counter::SendFailed);
            slot.unreachable(self, listener, to, None);
        }
        // What was filled when the turn began.
        for _ in 0..self.heap.filled.len() {
            if let Some(index) = self.heap.filled.pop_front() {
                slot.receive(self, index, 0);
            }
        }
    }

    fn due(&mut self, now: Instant, due: &mut Vec<ContextId>) {
        while let Some(&(at, id)) = self.heap.wheel.first()
            && at <= now
        {
            self.heap.wheel.pop_first();
            due.push(ContextId::unpack(id));
        }
    }

    fn attend(&mut self, slot: &mut slot::Slot) {
        self.take_answers(slot);
    }

    fn keep_house(&mut self, _: &mut Participant) {}

    /// One by one.
    fn submit(&mut self) -> Result<(), Infallible> {
        for packet in std::mem::take(&mut self.heap.unsent) {
            death::named("sim.sending");
            if self.around.nowhere.contains(&packet.to) {
                let mut listeners = self.around.settings.listeners.iter();
                let by = listeners.find(|listener| listener.address == packet.from);
                self.heap.failed.extend(by.map(|by| (by.id, packet.to)));
            }
            self.around.sent.push(packet);
        }
        Ok(())
    }

    fn at_hand(&mut self, bytes: &[u8]) {
        death::at_hand(bytes);
    }

    fn point(&mut self, point: Point) {
        death::point(point);
    }

    /// At once, or noted for when it comes.
    fn answer(&mut self, now: Instant, ask: Ask, question: &Question<'_>) -> Option<Answer> {
        let policy = self.around.policy;
        if let AskKind::Resolve { branch } = ask.kind
            && policy.has_names()
        {
            let lookup = &mut self.heap.lookup;
            let hops = lookup.ask(
                now,
                ask.id,
                branch,
                question,
                &policy.names,
                self.around.rng,
            );
            return hops.map(Answer::Resolved);
        }
        let (after, given_up) = match self.around.policy.when(self.around.rng) {
            When::Now => return Some(self.around.policy.answer(ask.kind, question)),
            When::After(after) => (after, false),
            When::Never(after) => (after, true),
        };
        let at = now + after;
        self.heap.late.push(Late { at, ask, given_up });
        let twice = self.around.policy.twice;
        if twice > 0 && self.around.rng.below(1000) < twice {
            let at = at + Duration::from_millis(50);
            self.heap.late.push(Late { at, ask, given_up });
        }
        None
    }

    fn send(&mut self, send: &Send, bytes: &[u8]) -> bool {
        let Some(listener) = self.around.settings.listener(send.listener.id) else {
            return false;
        };
        self.heap.unsent.push(Packet {
            from: listener.address,
            to: send.to,
            bytes: Rc::from(bytes),
        });
        true
    }

    fn arm(&mut self, deadline: Instant, id: ContextId) {
        self.heap.wheel.insert((deadline, id.pack()));
    }

    fn hop(&mut self, now: Instant, hop: SocketAddr, state: HopState, _: &Participant) {
        self.heap.lookup.hop(now, hop, state);
    }

    fn ring(&mut self, slot: SlotId) {
        self.around.rung.push(slot.0);
    }

    fn give_back(&mut self, index: u16) {
        self.around.arena.rx(SlotId(self.number)).provide(index);
        self.heap.ring.push_back(index);
    }
}

/// Who recovers a slot.
struct Successor<'s> {
    now: Instant,
    counted: &'s mut Vec<(Vec<u8>, u32)>,
}

impl Heir for Successor<'_> {
    fn now(&self) -> Instant {
        self.now
    }

    fn unix_ms(&self) -> u64 {
        self.now.as_nanos() / 1_000_000
    }

    fn suspect<'b>(&self, pool: &'b RxPool, index: u16) -> Option<Suspect<'b>> {
        let (source, local, bytes) = pool.bytes(index).and_then(read)?;
        Some(Suspect {
            bytes,
            source,
            local: Some(local),
            ttl: QUARANTINE,
        })
    }

    fn counted(&mut self, death: &Death<'_>, counted: Counted) {
        if let Counted::Deaths {
            deaths,
            is_new: true,
        } = counted
        {
            self.counted.push((death.bytes.to_vec(), deaths));
        }
    }

    fn point(&mut self, point: Point) {
        death::point(point);
    }
}

/// A datagram as it lies in a receive buffer: its length, and one bit so that this is never zero; from whom and to whom; its bytes.
fn written(packet: &Packet) -> ([u64; RX_HEADER_BYTES / 8], Vec<u8>) {
    let addresses = format!("{} {}\n", packet.from, packet.to);
    let payload = [addresses.as_bytes(), &packet.bytes[..]].concat();
    ([payload.len() as u64 | 1 << 63, 0], payload)
}

/// The message that was at hand in a slot whose worker is dead.
pub(crate) fn at_hand(arena: &Arena, number: u16) -> Option<Vec<u8>> {
    let buffer = arena.slot(SlotId(number)).at_hand()?;
    let pool = arena.rx(SlotId(buffer.slot));
    let (_, _, bytes) = pool.bytes(buffer.index).and_then(read)?;
    Some(bytes.to_vec())
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
