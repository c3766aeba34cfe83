//! A reactor thread: one slot, one ring, one machine. The loop itself is the crate `slot`; here are its sockets, clock and thread.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use ::slot::{Inheritance, Slot, recover};
use control::FromWorker;
use crossbeam_channel::Receiver;
use os::now;
use proxy::Proxy;
use shm::{Arena, ParticipantId, SlotId};
use stdx::Instant;
use sync::Ordering;

use crate::{
    active::Active,
    inbox::{Channel, Command, Socket},
    lines,
    outside::Outside,
    takeover::Successor,
};

/// What a reactor thread starts with.
pub(crate) struct Begin {
    pub(crate) slot: u16,
    pub(crate) core: Option<u16>,
    pub(crate) recover: bool,
    pub(crate) fault: bool,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) arena: Arena,
    pub(crate) active: Arc<Active>,
    pub(crate) commands: Receiver<Command>,
    pub(crate) doorbells: Arc<Vec<OwnedFd>>,
    pub(crate) channel: Arc<Channel>,
    pub(crate) spin: Duration,
}

/// Runs a slot until it is told to stop; reports to the supervisor if it can't.
pub(crate) fn run_slot(begin: Begin) {
    let channel = Arc::clone(&begin.channel);
    let slot = begin.slot;
    if let Err(error) = Reactor::begin(begin).and_then(Reactor::run) {
        let message = format!("slot {slot}: {error:#}");
        tracing::error!(%message, "a reactor can't go on");
        channel.tell(&FromWorker::Failed { message });
        lines::last_lines();
        // The other slots of this process go to the heir as well: half a worker is no worker.
        std::process::exit(1);
    }
}

struct Reactor {
    slot: Slot,
    outside: Outside,
}

impl Reactor {
    /// Takes over what there is, and serves what the predecessor had read.
    fn begin(begin: Begin) -> anyhow::Result<Self> {
        if let Some(core) = begin.core
            && let Err(error) = os::pin_current_thread(usize::from(core))
        {
            tracing::warn!(slot = begin.slot, core, %error, "the reactor can't be pinned");
        }
        // For as long as the process lives, which may end at any instruction: another hold on the arena.
        let forever: &'static Arena = Box::leak(Box::new(begin.arena.clone()));
        os::leave_word_at(&forever.slot(SlotId(begin.slot)).blamed);
        let arena = begin.arena.clone();
        let mut participant = arena.participant(ParticipantId(begin.slot));
        let header = arena.slot(SlotId(begin.slot));
        // Relaxed, here and below: announcements, see `SlotHeader`.
        header
            .pid
            .store(u64::from(std::process::id()), Ordering::Relaxed);
        header.core.store(
            begin.core.map_or(0, |core| u64::from(core) + 1),
            Ordering::Relaxed,
        );
        header.first_served_ns.store(0, Ordering::Relaxed);
        let inheritance: Inheritance = recover(
            &mut Successor(&begin),
            &arena,
            begin.slot,
            begin.recover,
            begin.fault,
            &mut participant,
        );
        participant.online();
        let time = now();
        let mut outside = Outside::new(&begin, time, &mut participant)?;
        let proxy = Proxy::new(begin.slot, arena.key(), Arc::clone(&begin.active.settings));
        let mut slot = Slot::new(begin.slot, &arena, participant, proxy, time, &inheritance);
        // What an adopted transaction sends goes out by them. Reading begins with the first turn.
        for socket in begin.sockets {
            outside.arm_socket(socket)?;
        }
        slot.take_over(&mut outside, &inheritance)?;
        Ok(Self { slot, outside })
    }

    /// Turns until told to stop.
    fn run(mut self) -> anyhow::Result<()> {
        let Self { slot, outside } = &mut self;
        while !outside.is_stopping() {
            if outside.has_queued() || slot.has_served() {
                outside.carry_out(slot.now())?;
                slot.finish_turn(outside);
            }
            let sleeps = outside.has_no_events();
            if sleeps {
                sleep(slot, outside)?;
            }
            slot.set_now(now());
            if sleeps {
                outside.slept(slot.now());
            }
            slot.turn(outside);
        }
        // What was read is served by the heir; what was served is sent.
        outside.quiesce()?;
        slot.finish_turn(outside);
        slot.offline();
        Ok(())
    }
}

/// Waits for an event or the next deadline, unless there is mail.
fn sleep(slot: &mut Slot, outside: &mut Outside) -> anyhow::Result<()> {
    let deadline = slot.housekeeping_at();
    let deadline = outside
        .deadline()
        .map_or(deadline, |next| next.min(deadline));
    slot.fall_asleep();
    let wait = if slot.is_busy() || outside.has_commands() {
        Instant::ZERO
    } else if slot.has_outbox() {
        deadline.min(now() + Duration::from_millis(1))
    } else {
        deadline
    };
    slot.offline();
    let result = outside.wait(wait);
    slot.wake_up();
    result
}
