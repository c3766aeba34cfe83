//! The server: workers with slots over one arena, and the supervisor's part in their lives.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use proxy::Settings;
use shm::{Arena, Layout, SlotId};
use stdx::{Instant, Rng};
use sync::Ordering;
use tables::{TABLES, quarantine::DEATHS_MAX};

use crate::{
    death::{self, Aim, Death},
    network::Packet,
    policy::Policy,
    slot::{self, Around, Slot},
};

/// Datagrams that a slot's socket holds while nobody reads it; more are lost.
const SOCKET_PACKETS: usize = 256;

/// Which slot a datagram comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The same for all datagrams of one address.
    Flow,
    /// Any.
    Datagram,
}

/// What the kernel and the supervisor keep of a slot.
pub(crate) struct Seat {
    /// `None` while its worker is dead.
    pub(crate) slot: Option<Slot>,
    socket: VecDeque<Packet>,
    /// It does not run before that: stopped, or starved of the processor.
    pub(crate) stalled_until: Instant,
    /// Where it dies the next time it runs.
    pub(crate) aim: Option<Aim>,
    /// Whether a worker had it before.
    begun: bool,
    /// Whether its last worker died by a fault of its own in this slot.
    pub(crate) fault: bool,
}

pub(crate) struct Server {
    pub(crate) arena: Arena,
    pub(crate) settings: Arc<Settings>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) reactors: u16,
    pub(crate) spread: Spread,
    pub(crate) housekeeping: Duration,
    /// The heaps of the dead. No destructor runs in a worker that was killed, so they wait for the end of the world.
    graveyard: Vec<Slot>,
    pub(crate) overflowed: u64,
    /// Addresses that the kernel knows no way to.
    pub(crate) nowhere: Vec<SocketAddr>,
    pub(crate) cases: Cases,
}

/// Deaths by messages, as the world knows them, and as the heirs have counted them.
#[derive(Debug, Default)]
pub(crate) struct Cases {
    died: HashMap<Vec<u8>, u32>,
    counted: HashMap<Vec<u8>, u32>,
    slots: u32,
    pub(crate) wrong: Vec<String>,
}

impl Cases {
    /// A message has been the death of a worker.
    fn death(&mut self, bytes: &[u8]) {
        if self.counted.get(bytes).is_some_and(|&n| n >= DEATHS_MAX) {
            self.wrong
                .push("a message killed that is in quarantine".to_owned());
        }
        let died = self.died.entry(bytes.to_vec()).or_default();
        *died += 1;
        // Each slot may have a copy at hand before the second death is known.
        if *died > DEATHS_MAX + self.slots {
            self.wrong.push(format!("{died} deaths by one message"));
        }
    }

    fn is_suspect(&self, bytes: &[u8]) -> bool {
        self.died.contains_key(bytes)
    }

    fn count(&mut self, (bytes, deaths): (Vec<u8>, u32)) {
        let died = self.died.get(&bytes).copied().unwrap_or_default();
        if deaths > died {
            self.wrong
                .push(format!("{deaths} deaths were counted of {died}"));
        }
        self.counted.insert(bytes, deaths);
    }
}

/// What came of a run.
#[derive(Default)]
pub(crate) struct Ran {
    pub(crate) sent: Vec<Packet>,
    pub(crate) rung: Vec<u16>,
    /// When it wants to run again.
    pub(crate) wake: Option<Instant>,
    /// Where its worker died.
    pub(crate) died: Option<Death>,
    counted: Vec<(Vec<u8>, u32)>,
}

impl Server {
    pub(crate) fn new(
        settings: Settings,
        workers: u16,
        reactors: u16,
        memory: u64,
        key: [u8; 16],
    ) -> Self {
        let slots = workers * reactors;
        let mut layout = Layout::new(memory, slots, 1, TABLES);
        layout.rx_buffers = 16;
        layout.rx_buffer_bytes = 4096;
        layout.limit = layout.limit.max(layout.least_limit());
        let arena = Arena::heap(&layout, key).expect("an arena of that size");
        let seats = (0..slots)
            .map(|_| Seat {
                slot: None,
                socket: VecDeque::new(),
                stalled_until: Instant::ZERO,
                aim: None,
                begun: false,
                fault: false,
            })
            .collect();
        Self {
            arena,
            settings: Arc::new(settings),
            seats,
            reactors,
            spread: Spread::Flow,
            housekeeping: Duration::from_millis(250),
            graveyard: Vec::new(),
            overflowed: 0,
            nowhere: Vec::new(),
            cases: Cases {
                slots: slots.into(),
                ..Cases::default()
            },
        }
    }

    /// The slots of a worker.
    pub(crate) fn slots_of(&self, worker: u16) -> std::ops::Range<u16> {
        worker * self.reactors..(worker + 1) * self.reactors
    }

    /// Whether somebody listens there.
    pub(crate) fn listens(&self, address: SocketAddr) -> bool {
        self.settings
            .listeners
            .iter()
            .any(|listener| listener.address == address)
    }

    /// A datagram has come. The slot that it is for; `None`: it was lost.
    pub(crate) fn accept(&mut self, packet: Packet, policy: &Policy, rng: &mut Rng) -> Option<u16> {
        let slots = u32::try_from(self.seats.len()).unwrap_or(1);
        let number = match self.spread {
            Spread::Datagram => rng.below(slots),
            Spread::Flow => flow(packet.from) % slots,
        };
        let number = u16::try_from(number).unwrap_or_default();
        let seat = self.seats.get_mut(usize::from(number))?;
        if seat.socket.len() >= SOCKET_PACKETS {
            self.overflowed += 1;
            return None;
        }
        seat.socket.push_back(packet);
        // The kernel fills buffers whatever the worker does, as long as it lives.
        self.with(number, policy, rng, |slot, around| {
            if let Some(slot) = slot {
                slot.receive(around);
            }
        });
        Some(number)
    }

    fn with<R>(
        &mut self,
        number: u16,
        policy: &Policy,
        rng: &mut Rng,
        work: impl FnOnce(&mut Option<Slot>, &mut Around<'_>) -> R,
    ) -> (R, Ran) {
        let mut ran = Ran::default();
        let seat = self
            .seats
            .get_mut(usize::from(number))
            .expect("a slot of this server");
        let result = work(
            &mut seat.slot,
            &mut Around {
                arena: &self.arena,
                settings: &self.settings,
                policy,
                rng,
                socket: &mut seat.socket,
                sent: &mut ran.sent,
                rung: &mut ran.rung,
                housekeeping: self.housekeeping,
                nowhere: &self.nowhere,
                counted: &mut ran.counted,
            },
        );
        for counted in std::mem::take(&mut ran.counted) {
            self.cases.count(counted);
        }
        (result, ran)
    }

    /// Runs a slot, which may die on its way.
    pub(crate) fn run(&mut self, number: u16, now: Instant, policy: &Policy, rng: &mut Rng) -> Ran {
        let mut aim = self
            .seats
            .get_mut(usize::from(number))
            .and_then(|seat| seat.aim.take());
        let (done, mut ran) = self.with(number, policy, rng, |slot, around| {
            death::run(&mut aim, || slot.as_mut().map(|slot| slot.run(now, around)))
        });
        match done {
            Ok(wake) => ran.wake = wake,
            Err(at) => ran.died = Some(at),
        }
        if let Some(seat) = self.seats.get_mut(usize::from(number)) {
            seat.aim = aim;
        }
        ran
    }

    /// An heir takes a dead worker's slot over; it may die of that itself.
    pub(crate) fn begin(
        &mut self,
        number: u16,
        now: Instant,
        policy: &Policy,
        rng: &mut Rng,
    ) -> Ran {
        let header = self.arena.slot(SlotId(number));
        // Relaxed: one thread.
        let before = header.turn_started.load(Ordering::Relaxed);
        let seat = self.seats.get_mut(usize::from(number));
        let (mut aim, recover, fault) = seat.map_or((None, false, false), |seat| {
            let begun = std::mem::replace(&mut seat.begun, true);
            (seat.aim.take(), begun, seat.fault)
        });
        let (done, mut ran) = self.with(number, policy, rng, |place, around| {
            death::run(&mut aim, || {
                *place = Some(Slot::begin(number, recover, fault, now, around));
            })
        });
        match done {
            Ok(()) => ran.wake = Some(now),
            Err(at) => ran.died = Some(at),
        }
        if let Some(seat) = self.seats.get_mut(usize::from(number)) {
            seat.aim = aim;
            // Until its turns go on an heir has only begun to recover: what the next one finds is the first death.
            let turn = self
                .arena
                .slot(SlotId(number))
                .turn_started
                .load(Ordering::Relaxed);
            seat.fault &= ran.died.is_some() && turn == before;
        }
        ran
    }

    /// Notes whose fault a death in this slot was. That of a message which is poison, or of any other that was at hand, but of none twice:
    /// an honest message that two workers happened to die with is lost by design.
    pub(crate) fn blame(&mut self, number: u16, death: Death, rng: &mut Rng) {
        let at_hand = slot::at_hand(&self.arena, number);
        let chosen = rng.below(2) == 0;
        let Some(bytes) = at_hand else { return };
        let fault = death.poisoned || (chosen && !self.cases.is_suspect(&bytes));
        if fault {
            self.cases.death(&bytes);
        }
        if let Some(seat) = self.seats.get_mut(usize::from(number)) {
            seat.fault |= fault;
        }
    }

    /// Kills a worker: its heap is gone, with what every one of its slots had at hand.
    pub(crate) fn kill(&mut self, worker: u16) {
        for number in self.slots_of(worker) {
            if let Some(seat) = self.seats.get_mut(usize::from(number)) {
                self.graveyard.extend(seat.slot.take());
                seat.aim = None;
            }
        }
    }
}

/// As the kernel's hash of a flow: any function of the address.
fn flow(from: SocketAddr) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    for byte in from.to_string().bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash >> 8
}
