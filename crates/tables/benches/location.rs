//! Instruction counts of look-ups and updates in the `location` table.
//!
//! `cargo bench -p tables` needs valgrind and the `gungraun-runner` of the same version as the library.

use std::{hint::black_box, time::Duration};

use gungraun::{library_benchmark, library_benchmark_group, main};
use registrar::{Binding, BindingSet};
use shm::{Arena, Layout, Participant, ParticipantId};
use stdx::Instant;
use tables::Location;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
const USERS: u32 = 10_000;

fn binding(device: u8, expires: u64) -> Binding {
    Binding {
        contact: format!("sip:bob@192.0.2.{device}:5060;ob").into_bytes(),
        q: 1000,
        expires_at: NOW + Duration::from_secs(expires),
        call_id: format!("1j9FpLxk3uxtm8tn-{device}").into_bytes(),
        cseq: 1,
        path: Vec::new(),
        instance: None,
        reg_id: None,
        received: None,
        listener: 1,
        user_agent: b"Example Phone 4.2".to_vec(),
        updated_at: NOW,
        flow: registrar::Flow::default(),
    }
}

fn set(devices: u8, expires: u64) -> BindingSet {
    let mut set = BindingSet::default();
    for device in 0..devices {
        set.push(binding(device, expires));
    }
    set
}

/// A table in use, with as many users as a site has.
fn table(devices: u8) -> (Box<Participant>, Vec<u8>) {
    let mut layout = Layout::new(64 << 20, 1, 1, tables::TABLES);
    layout.rx_buffers = 4;
    layout.rx_buffer_bytes = 1024;
    let arena = Arena::heap(&layout, [7; 16]).expect("an arena");
    let mut participant = arena.participant(ParticipantId(0));
    participant.online();
    for user in 0..USERS {
        let aor = format!("sip:user{user}@example.com").into_bytes();
        let set = set(devices, 3600);
        let done = Location(&mut participant).change(&aor, |_| (Some(set.clone()), ()));
        assert!(done.is_ok());
    }
    participant.quiescent();
    let aor = b"sip:user4711@example.com".to_vec();
    // Not the first change: the table has its free blocks.
    for expires in [1, 2, 3] {
        let set = set(devices, expires);
        let done = Location(&mut participant).change(&aor, |_| (Some(set.clone()), ()));
        assert!(done.is_ok());
        participant.quiescent();
    }
    // Boxed, or moving it would be a good part of what is counted.
    (Box::new(participant), aor)
}

#[library_benchmark]
#[bench::one(table(1))]
#[bench::five(table(5))]
fn lookup(
    (mut participant, aor): (Box<Participant>, Vec<u8>),
) -> (Box<Participant>, Vec<u8>, usize) {
    let found = Location(&mut participant).lookup(black_box(&aor), |bindings| {
        bindings.targets(NOW).map(|b| b.contact.len()).sum()
    });
    (participant, aor, found.unwrap_or_default())
}

#[library_benchmark]
#[bench::missing(table(1))]
fn lookup_missing(
    (mut participant, aor): (Box<Participant>, Vec<u8>),
) -> (Box<Participant>, Vec<u8>, bool) {
    let found = Location(&mut participant).lookup(black_box(b"sip:nobody@example.com"), |_| ());
    (participant, aor, found.is_some())
}

// The set is read, changed and written again.
#[library_benchmark]
#[bench::one(table(1))]
#[bench::five(table(5))]
fn refresh(
    (mut participant, aor): (Box<Participant>, Vec<u8>),
) -> (Box<Participant>, Vec<u8>, bool) {
    let done = Location(&mut participant).change(black_box(&aor), |set| (Some(set), ()));
    (participant, aor, done.is_ok())
}

fn newcomer() -> (Box<Participant>, Vec<u8>, BindingSet) {
    let (participant, _) = table(1);
    (
        participant,
        b"sip:newcomer@example.com".to_vec(),
        set(1, 3600),
    )
}

type Inserted = (Box<Participant>, Vec<u8>, BindingSet, bool);

#[library_benchmark]
#[bench::one(newcomer())]
fn insert((mut participant, aor, set): (Box<Participant>, Vec<u8>, BindingSet)) -> Inserted {
    let done = Location(&mut participant)
        .change(black_box(&aor), |_| (Some(set.clone()), ()))
        .is_ok();
    (participant, aor, set, done)
}

#[library_benchmark]
#[bench::one(table(1))]
fn remove(
    (mut participant, aor): (Box<Participant>, Vec<u8>),
) -> (Box<Participant>, Vec<u8>, bool) {
    let done = Location(&mut participant)
        .change(black_box(&aor), |_| (Some(BindingSet::default()), ()))
        .is_ok();
    (participant, aor, done)
}

library_benchmark_group!(
    name = location,
    benchmarks = [lookup, lookup_missing, refresh, insert, remove]
);
main!(library_benchmark_groups = location);
