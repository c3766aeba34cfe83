//! The arena on this process's heap, small: what `cargo xtask miri` runs (with every access checked for validity, provenance, alignment and data
//! races), and what also runs as it is.

mod common;

use common::{OTHER, TABLE, check, layout, online};
use shm::{
    AllocClass, Arena, BufferRef, Cursor, Layout, Mail, Participant, ParticipantId, RowMeta,
    RxState, SlotId,
};
use stdx::{Instant, Rng};

/// Operations of each thread.
const TURNS: u32 = if cfg!(miri) { 40 } else { 4_000 };

fn heap(slots: u16) -> Arena {
    let layout = layout(0, slots);
    let limit = layout.least_limit();
    Arena::heap(&Layout { limit, ..layout }, [7; 16]).expect("memory for a small arena")
}

/// As `common::settle`, as briefly as it can be: under Miri each row that a scrubber looks at costs.
fn settle(participants: &mut [Participant]) {
    for _ in 0..2 {
        for p in participants.iter_mut() {
            p.scrub(u32::MAX);
        }
        for _ in 0..8 {
            participants.iter_mut().for_each(Participant::quiescent);
        }
    }
}

fn until(nanos: u64) -> RowMeta {
    RowMeta {
        expires_at: Some(Instant::from_nanos(nanos)),
        flags: 3,
    }
}

/// A payload that repeats its key, so that a body of another record would be seen.
fn payload(key: u8, len: u32) -> Vec<u8> {
    vec![key; 1 + len as usize]
}

#[test]
fn a_record_from_its_beginning_to_its_end() {
    let arena = heap(2);
    let mut all = [online(&arena, 0), online(&arena, 1)];
    let [a, b] = &mut all;
    let child = |p: &mut Participant, text: &[u8]| {
        let mut block = p.allocate(40, AllocClass::New).expect("room");
        block[..text.len()].copy_from_slice(text);
        block.freeze()
    };
    let children = [child(a, b"first"), child(a, b"second")];
    let row = a
        .insert(TABLE, b"key", &[b"one ", b"two"], &children, until(50))
        .expect("room");
    assert!(
        b.insert(TABLE, b"key", &[], &[], RowMeta::default())
            .is_err()
    );
    let (version, kept) = b
        .find(TABLE, b"key", |r| {
            assert_eq!((r.payload, r.flags, r.row), (&b"one two"[..], 3, row));
            assert_eq!(b.block(r.children[1])[..6], *b"second");
            (r.version, r.children[0])
        })
        .expect("inserted");
    let new = child(b, b"third");
    b.replace(row, version, &[b"three"], &[kept, new], until(70))
        .expect("unchanged");
    assert!(a.replace(row, version, &[], &[], until(1)).is_err());
    a.with(row, |r| assert_eq!(r.payload, b"three"))
        .expect("still there");
    let reserved = a.reserve(OTHER, b"key").expect("another table");
    let other = a
        .publish(reserved, b"key", &[&[9; 600]], &[], until(60))
        .expect("room");
    let abandoned = b.reserve(OTHER, b"gone").expect("room");
    b.abandon(abandoned);
    drop(b.reserve(OTHER, b"dropped").expect("room"));
    assert!(b.remove(other, None));
    let mut expired = 0;
    a.expire(
        TABLE,
        Instant::from_nanos(60),
        Cursor::default(),
        10_000,
        |_| expired += 1,
    );
    assert_eq!(expired, 0);
    a.expire(
        TABLE,
        Instant::from_nanos(80),
        Cursor::default(),
        10_000,
        |_| expired += 1,
    );
    assert_eq!(expired, 1);
    check(&arena, false);
    settle(&mut all);
    check(&arena, true);
    assert_eq!(arena.live_rows(TABLE) + arena.live_rows(OTHER), 0);
}

#[test]
fn the_dead_are_recovered() {
    let arena = heap(2);
    let mut a = online(&arena, 0);
    let mut b = online(&arena, 1);
    a.insert(TABLE, b"stays", &[b"x"], &[], RowMeta::default())
        .expect("room");
    // As a death would leave them: a reservation and a block that nobody gives back, and an announced epoch.
    std::mem::forget(a.reserve(TABLE, b"pending").expect("room"));
    std::mem::forget(a.allocate(100, AllocClass::New).expect("room"));
    std::mem::forget(a);
    let done = b.recover(ParticipantId(0));
    assert_eq!((done.aborted, done.blocks), (1, 1));
    let mut heir = arena.participant(ParticipantId(0));
    heir.recover(ParticipantId(0));
    heir.find(TABLE, b"stays", |r| assert_eq!(r.payload, b"x"))
        .expect("a record outlives its maker");
    settle(&mut [heir, b]);
    check(&arena, true);
}

#[test]
fn threads_on_the_same_keys() {
    let arena = heap(2);
    std::thread::scope(|scope| {
        for id in 0..2 {
            let arena = &arena;
            scope.spawn(move || {
                let mut p = online(arena, id);
                let mut rng = Rng::new(u64::from(id) + 1);
                for _ in 0..TURNS {
                    one_of_everything(&mut p, &mut rng);
                }
            });
        }
    });
    let mut all = [online(&arena, 0), online(&arena, 1)];
    settle(&mut all);
    check(&arena, true);
}

fn one_of_everything(p: &mut Participant, rng: &mut Rng) {
    let key = rng.below(3) as u8;
    let found = p.find(TABLE, &[key], |r| {
        assert!(
            r.payload.iter().all(|&byte| byte == key),
            "a stranger's body"
        );
        (r.row, r.version)
    });
    match (found, rng.below(6)) {
        (None, 0..4) => {
            let _ = p.insert(
                TABLE,
                &[key],
                &[&payload(key, rng.below(300))],
                &[],
                until(9),
            );
        }
        (Some((row, version)), 0..2) => {
            let _ = p.replace(
                row,
                version,
                &[&payload(key, rng.below(300))],
                &[],
                until(9),
            );
        }
        (Some((row, _)), 2..4) => drop(p.remove(row, None)),
        (_, 4) => {
            let _ = p.send(SlotId(1 - p.id().0), Mail::Wake);
            p.receive(|_, mail| assert_eq!(mail, Mail::Wake));
        }
        _ => p.quiescent(),
    }
}

#[test]
fn buffers_go_round() {
    let arena = heap(2);
    let pool = arena.rx(SlotId(0));
    for index in 0..pool.count() {
        pool.provide(index);
    }
    // SAFETY: 512 bytes of a buffer that is the kernel's, which this thread plays: header and payload.
    unsafe { pool.buffer(1).write_bytes(1, 512) };
    pool.hold(1, 7);
    pool.pass(1, SlotId(1));
    let (a, b) = (
        arena.participant(ParticipantId(0)),
        arena.participant(ParticipantId(1)),
    );
    let buffer = BufferRef { slot: 0, index: 1 };
    assert!(a.send(SlotId(1), Mail::Serve(buffer)).is_ok());
    b.receive(|from, mail| {
        assert_eq!((from, mail), (SlotId(0), Mail::Serve(buffer)));
        assert_eq!(pool.begin(1, SlotId(1)), 1);
        assert_eq!(arena.journal(SlotId(1), None), [buffer]);
        assert_eq!(pool.bytes(1).map(|b| b[100]), Some(1));
        pool.done(1, SlotId(1));
    });
    assert_eq!(pool.meta(1).state, RxState::Done);
    pool.provide(1);
    assert_eq!(pool.bytes(1), None);
}
