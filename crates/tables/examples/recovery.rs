//! How long an heir takes to recover a slot that had many dialogs: `cargo run --release -p tables --example recovery -- [DIALOGS]`.
//!
//! The heir maps the arena anew, as a fresh process does, so that it pays for its page tables. The dead slot was in the middle of operations: its epoch is
//! announced, its limbo is lost, and each dialog counts in a resource.

use std::time::{Duration, Instant as Clock};

use shm::{Arena, HugePages, Layout, ParticipantId, audit};
use stdx::Instant;
use tables::balancer::{Balancer, Resource, ResourceKey};
use tables::dialog::{CountIn, Dialog, DialogId, Dialogs};

const ROUNDS: usize = 5;

fn main() {
    let dialogs = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(100_000);
    for huge in [HugePages::Off, HugePages::Auto] {
        let mut times: Vec<(Duration, Duration)> =
            (0..ROUNDS).map(|_| round(dialogs, huge)).collect();
        times.sort_unstable();
        let (recovery, walk) = times[ROUNDS / 2];
        println!(
            "{dialogs} dialogs, huge pages {huge:?}: recovered in {recovery:?}, walked in {walk:?} (median of {ROUNDS})"
        );
    }
}

fn round(dialogs: u32, huge: HugePages) -> (Duration, Duration) {
    let layout = Layout::new(1 << 30, 2, 2, tables::TABLES);
    let arena = Arena::create_paged(&layout, [7; 16], huge).expect("an arena");
    let mut dead = arena.participant(ParticipantId(0));
    dead.online();
    let key = ResourceKey::destination(b"media", b"sip:192.0.2.1");
    let resource = Balancer(&mut dead)
        .ensure(&key, &Resource::default())
        .expect("room");
    for n in 0..dialogs {
        let id = DialogId(u128::from(n).to_be_bytes());
        let call_id = format!("{n}-3848276298220188511@atlanta.example.com");
        let mut dialog = Dialog::new(id, call_id.as_bytes(), b"9fxced76sl", Instant::ZERO);
        dialog.caller.uri = b"sip:alice@atlanta.example.com".to_vec();
        dialog.callee.uri = b"sip:bob@biloxi.example.com".to_vec();
        dialog.caller.target = b"sip:alice@192.0.2.101:5060".to_vec();
        let count = CountIn {
            resource,
            limit: None,
        };
        Dialogs(&mut dead).create(dialog, &[count]).expect("room");
        dead.quiescent();
    }
    // What it freed last is in nobody's limbo any more.
    std::mem::forget(dead);
    if huge == HugePages::Auto {
        arena.collapse(0, || true);
    }
    let (control, data) = arena.fds().expect("files");
    let again = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("a descriptor");
    let fresh = Arena::attach(again(control), again(data)).expect("the arena");
    let mut heir = fresh.participant(ParticipantId(0));
    let start = Clock::now();
    heir.recover(ParticipantId(0));
    let recovery = start.elapsed();
    let mut seen = 0;
    heir.rows_of(tables::DIALOG, ParticipantId(0), |_| seen += 1);
    let walk = start.elapsed() - recovery;
    assert_eq!(seen, dialogs);
    assert_eq!(Balancer(&mut heir).live(resource), Some(u64::from(dialogs)));
    assert!(audit(&fresh, false).is_empty());
    (recovery, walk)
}
