//! What the tests share.
#![allow(dead_code, reason = "every test uses another part")]

pub mod operations;
pub mod processes;

use shm::{Arena, Layout, ParticipantId, TableId, audit};

pub const TABLE: TableId = TableId(0);
pub const OTHER: TableId = TableId(1);

pub fn layout(limit: u64, slots: u16) -> Layout {
    Layout {
        rx_buffers: 4,
        rx_buffer_bytes: 512,
        ..Layout::new(limit, slots, 2, 2)
    }
}

/// The smallest arena for this many slots.
pub fn smallest(slots: u16) -> Arena {
    let layout = layout(0, slots);
    let least = layout.least_limit();
    Arena::create(
        &Layout {
            limit: least,
            ..layout
        },
        [7; 16],
    )
    .expect("memory for a small arena")
}

/// Lets every grace period end and every lost object be found, by participants that are all online in this thread.
pub fn settle(participants: &mut [shm::Participant]) {
    for _ in 0..6 {
        for p in participants.iter_mut() {
            p.scrub(u32::MAX);
        }
        for _ in 0..2000 {
            participants.iter_mut().for_each(|p| p.quiescent());
            if participants.iter().all(|p| p.limbo_len() == 0) {
                break;
            }
        }
    }
}

#[track_caller]
pub fn check(arena: &Arena, settled: bool) {
    let wrong = audit(arena, settled);
    assert!(
        wrong.is_empty(),
        "{} violations, first: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(8)]
    );
}

pub fn online(arena: &Arena, id: u16) -> shm::Participant {
    let mut p = arena.participant(ParticipantId(id));
    p.online();
    p
}

/// Recovers everybody who is not online in this process, as one heir after another.
pub fn recover_all(arena: &Arena, dead: impl IntoIterator<Item = u16>) -> Vec<shm::Participant> {
    dead.into_iter()
        .map(|id| {
            let mut heir = arena.participant(ParticipantId(id));
            heir.recover(ParticipantId(id));
            heir
        })
        .collect()
}
