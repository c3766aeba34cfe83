//! What the tests share: an arena with a few participants, all online in this thread or one for each thread.

use shm::{Arena, Layout, Participant, ParticipantId, audit};
use stdx::Instant;

/// Slots of every arena here; two more participants follow them.
pub const SLOTS: u16 = 3;

pub fn layout(limit: u64) -> Layout {
    let mut layout = Layout::new(limit, SLOTS, 2, tables::TABLES);
    layout.rx_buffers = 4;
    layout.rx_buffer_bytes = 512;
    layout
}

pub fn arena(limit: u64) -> Arena {
    Arena::heap(&layout(limit), [7; 16]).expect("an arena")
}

/// The smallest arena that these slots can work in.
pub fn smallest() -> Arena {
    arena(layout(0).least_limit())
}

pub fn online(arena: &Arena, id: u16) -> Participant {
    let mut participant = arena.participant(ParticipantId(id));
    participant.online();
    participant
}

pub fn everybody(arena: &Arena) -> Vec<Participant> {
    (0..SLOTS).map(|id| online(arena, id)).collect()
}

/// Ends every grace period and finds everything that was lost; then nothing may be amiss.
#[track_caller]
pub fn settle(arena: &Arena, participants: &mut [Participant]) {
    for _ in 0..6 {
        for p in participants.iter_mut() {
            p.scrub(u32::MAX);
        }
        for _ in 0..2000 {
            participants.iter_mut().for_each(Participant::quiescent);
            if participants.iter().all(|p| p.limbo_len() == 0) {
                break;
            }
        }
    }
    let wrong = audit(arena, true);
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Seconds after the beginning of the tests' time.
pub fn at(seconds: u64) -> Instant {
    Instant::from_nanos((1000 + seconds) * 1_000_000_000)
}
