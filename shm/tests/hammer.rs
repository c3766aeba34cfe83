//! Several threads, each with its own participant (and its own mapping), on the same keys.

mod common;

use std::os::fd::AsFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{TABLE, check, layout, online, settle, smallest};
use shm::{Arena, AttachError, Cursor, InsertError, Layout, ReplaceError, RowMeta};
use stdx::{Instant, Rng};

const THREADS: u16 = 4;

/// As another process would have it: another mapping of the same files.
fn attach(arena: &Arena) -> Arena {
    let (control, data) = arena.fds().expect("memory files");
    let clone = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("a descriptor");
    Arena::attach(clone(control), clone(data)).expect("the same layout")
}

#[test]
fn of_many_inserters_of_one_key_one_wins() {
    let arena = smallest(THREADS);
    let barrier = Barrier::new(THREADS.into());
    let won = AtomicU64::new(0);
    const ROUNDS: u64 = 1_500;
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let (arena, barrier, won) = (&arena, &barrier, &won);
            scope.spawn(move || {
                let arena = attach(arena);
                let mut p = online(&arena, id);
                for round in 0..ROUNDS {
                    let key = (round / 3).to_le_bytes();
                    p.offline();
                    barrier.wait();
                    p.online();
                    let result = p.insert(TABLE, &key, &[&[id as u8]], &[], RowMeta::default());
                    match result {
                        Ok(_) => {
                            assert_eq!(
                                won.fetch_add(1, Ordering::SeqCst),
                                round,
                                "the first of this round"
                            );
                        }
                        Err(InsertError::Exists { row, .. }) => {
                            p.with(row, |r| assert_eq!(r.key, key))
                                .expect("nobody removes yet");
                        }
                        Err(e) => panic!("{e}"),
                    }
                    p.offline();
                    barrier.wait();
                    p.online();
                    assert_eq!(won.load(Ordering::SeqCst), round + 1);
                    // All remove; one succeeds, and the next round of the same key meets remains.
                    let row = p.find(TABLE, &key, |r| r.row);
                    if let Some(row) = row {
                        p.remove(row, None);
                    }
                }
                p.offline();
            });
        }
    });
    let mut all: Vec<_> = (0..THREADS).map(|id| online(&arena, id)).collect();
    settle(&mut all);
    check(&arena, true);
    assert_eq!(arena.live_rows(TABLE), 0);
}

#[test]
fn versions_count_every_change_once() {
    let arena = smallest(THREADS);
    let empty = arena.usage().bytes_used;
    let changes = AtomicU64::new(0);
    let mut first = online(&arena, 0);
    for key in 0..8u64 {
        first
            .insert(
                TABLE,
                &key.to_le_bytes(),
                &[&0u64.to_le_bytes()],
                &[],
                RowMeta::default(),
            )
            .expect("room");
    }
    first.offline();
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let (arena, changes) = (&arena, &changes);
            scope.spawn(move || {
                let arena = attach(arena);
                let mut p = online(&arena, id);
                let mut rng = Rng::new(id.into());
                for _ in 0..8_000 {
                    let key = u64::from(rng.below(8)).to_le_bytes();
                    let (row, version, n) = p
                        .find(TABLE, &key, |r| {
                            (
                                r.row,
                                r.version,
                                u64::from_le_bytes(r.payload[..8].try_into().expect("eight bytes")),
                            )
                        })
                        .expect("always there");
                    let pad = vec![0xaa; rng.below(400) as usize];
                    match p.replace(
                        row,
                        version,
                        &[&(n + 1).to_le_bytes(), &pad],
                        &[],
                        RowMeta::default(),
                    ) {
                        Ok(_) => {
                            changes.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(ReplaceError::Changed) => {}
                        // A thread that is not scheduled holds the epoch, and the arena is the smallest.
                        Err(ReplaceError::Full) => {
                            p.quiescent();
                            std::thread::yield_now();
                        }
                        Err(e) => panic!("{e}"),
                    }
                    if rng.below(16) == 0 {
                        p.quiescent();
                    }
                }
            });
        }
    });
    let mut all: Vec<_> = (0..THREADS).map(|id| online(&arena, id)).collect();
    let mut sum = 0;
    all[0].rows(TABLE, |r| {
        sum += u64::from_le_bytes(r.payload[..8].try_into().expect("eight bytes"))
    });
    assert_eq!(sum, changes.load(Ordering::Relaxed));
    settle(&mut all);
    check(&arena, true);
    let mut rows = Vec::new();
    all[0].rows(TABLE, |r| rows.push(r.row));
    for row in rows {
        all[1].remove(row, None);
    }
    settle(&mut all);
    check(&arena, true);
    assert_eq!(arena.usage().bytes_used, empty);
}

/// Everything at once. Payloads repeat their key, so that a reader would see a body that was reused under it.
#[test]
fn readers_never_see_a_stranger() {
    let arena = smallest(THREADS);
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let arena = &arena;
            scope.spawn(move || {
                let arena = attach(arena);
                let mut p = online(&arena, id);
                let mut rng = Rng::new(100 + u64::from(id));
                let payload = |key: u64, len: u32| key.to_le_bytes().repeat(1 + len as usize);
                let whole = |r: &shm::Record<'_>| {
                    let key = u64::from_le_bytes(r.key.try_into().expect("eight bytes"));
                    assert!(
                        r.payload.chunks(8).all(|c| c == key.to_le_bytes()),
                        "{key}: {:?}",
                        r.payload
                    );
                };
                let mut cursor = Cursor::default();
                for _ in 0..10_000 {
                    let key = u64::from(rng.below(12));
                    let meta = RowMeta {
                        expires_at: Some(Instant::from_nanos(rng.next_u64() >> 2)),
                        flags: 0,
                    };
                    let name = key.to_le_bytes();
                    match rng.below(8) {
                        0 | 1 => {
                            let _ =
                                p.insert(TABLE, &name, &[&payload(key, rng.below(40))], &[], meta);
                        }
                        2 | 3 => {
                            if let Some((row, version)) =
                                p.find(TABLE, &name, |r| (r.row, r.version))
                            {
                                let _ = p.replace(
                                    row,
                                    version,
                                    &[&payload(key, rng.below(40))],
                                    &[],
                                    meta,
                                );
                            }
                        }
                        4 => {
                            if let Some(row) = p.find(TABLE, &name, |r| r.row) {
                                p.remove(row, None);
                            }
                        }
                        5 => {
                            let now = Instant::from_nanos(u64::MAX / 8);
                            cursor = p
                                .expire(TABLE, now, cursor, 100, |r| whole(&r))
                                .unwrap_or_default();
                        }
                        6 => {
                            p.find(TABLE, &name, |r| whole(&r));
                            p.rows(TABLE, |r| whole(&r));
                        }
                        _ => {
                            p.scrub(2);
                            p.quiescent();
                        }
                    }
                }
            });
        }
    });
    let mut all: Vec<_> = (0..THREADS).map(|id| online(&arena, id)).collect();
    settle(&mut all);
    check(&arena, true);
}

#[test]
fn only_the_same_layout_attaches() {
    let arena = smallest(2);
    let attached = attach(&arena);
    assert_eq!(
        (attached.layout(), attached.key()),
        (arena.layout(), arena.key())
    );
    let least = layout(0, 3).least_limit();
    let other = Arena::create(&layout(least, 3), [1; 16]).expect("memory");
    let dup = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("a descriptor");
    let (control, _) = arena.fds().expect("files");
    let (_, data) = other.fds().expect("files");
    assert_eq!(
        Arena::attach(dup(control), dup(data)).map(drop),
        Err(AttachError::Data)
    );
    assert_eq!(
        Arena::attach(dup(data), dup(control)).map(drop),
        Err(AttachError::Magic)
    );
    // Nobody can write the superblock any more, not even who has its descriptor.
    let file = std::fs::File::from(dup(control.as_fd()));
    assert!(memmap2::MmapOptions::new().map_raw(&file).is_err());
    let too_small = Layout {
        limit: 1 << 20,
        ..layout(0, 2)
    };
    let said = Arena::create(&too_small, [0; 16])
        .map(drop)
        .expect_err("too small")
        .to_string();
    assert_eq!(
        said,
        format!(
            "memory.limit of 1048576 bytes is too small for 2 slots: the least is {} bytes",
            too_small.least_limit()
        )
    );
}
