//! Records that count in cells: limits, drift, deaths.

mod common;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use common::processes::{kill_after, spawn};
use common::{OTHER, TABLE, check, online, recover_all, settle, smallest};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use shm::{
    AllocClass, Arena, Block, COUNTS_MAX, Count, Cursor, Importer, InsertError, New, Participant,
    ParticipantId, RowMeta,
};
use stdx::{Instant, Rng};

/// Resources are in the other table, each with one block of cells.
fn resource(p: &mut Participant, name: &[u8]) {
    let cells = p.allocate_cells().expect("room");
    assert!(p.is_cells(cells) && p.block(cells).is_empty());
    p.insert(OTHER, name, &[b"resource"], &[cells], RowMeta::default())
        .expect("room");
}

fn cells(p: &Participant, name: &[u8]) -> Block {
    p.find(OTHER, name, |r| r.children[0]).expect("there")
}

fn total(p: &Participant, name: &[u8]) -> i64 {
    p.cells_total(cells(p, name))
}

fn count(p: &Participant, name: &[u8], limit: Option<u64>) -> Count {
    Count {
        cells: cells(p, name),
        limit,
        of: None,
    }
}

fn insert(p: &mut Participant, key: &[u8], counts: &[Count]) -> Result<shm::RowRef, InsertError> {
    let new = New {
        key,
        alias: Some(key),
        payload: &[b"counted"],
        counts,
        ..New::default()
    };
    p.insert_new(TABLE, &new)
}

#[test]
fn a_record_counts_from_its_insert_to_its_removal() {
    let arena = smallest(2);
    let mut p = [online(&arena, 0), online(&arena, 1)];
    resource(&mut p[0], b"a");
    resource(&mut p[1], b"b");
    let (a, b) = (count(&p[0], b"a", Some(2)), count(&p[0], b"b", None));
    let one = insert(&mut p[0], b"1", &[a, b]).expect("room");
    let two = insert(&mut p[1], b"2", &[b, a]).expect("room");
    assert_eq!((total(&p[0], b"a"), total(&p[1], b"b")), (2, 2));
    assert_eq!(
        insert(&mut p[0], b"3", &[b, a]),
        Err(InsertError::OverLimit { nth: 1 })
    );
    assert_eq!(
        insert(&mut p[0], b"2", &[b]),
        Err(InsertError::Exists { row: two, owner: 1 })
    );
    assert_eq!((total(&p[0], b"a"), total(&p[1], b"b")), (2, 2));
    // Removed by another than the inserter, whose cell gets negative; and once only.
    assert!(p[1].remove_counted(one, None, &[a.cells, b.cells]));
    assert!(!p[0].remove_counted(one, None, &[a.cells, b.cells]));
    assert!(p[0].remove_counted(two, None, &[b.cells, a.cells]));
    assert_eq!((total(&p[0], b"a"), total(&p[1], b"b")), (0, 0));
    // The resource's record may change as it likes.
    let (row, version) = p[0]
        .find(OTHER, b"a", |r| (r.row, r.version))
        .expect("there");
    let three = insert(&mut p[0], b"3", &[a]).expect("room");
    p[0].replace(row, version, &[b"more"], &[a.cells], RowMeta::default())
        .expect("room");
    assert_eq!(total(&p[1], b"a"), 1);
    // A block listed twice counts twice.
    let row = insert(&mut p[1], b"4", &[b, b]).expect("room");
    assert_eq!(total(&p[1], b"b"), 2);
    assert!(p[0].remove_counted(row, None, &[b.cells, b.cells]));
    assert_eq!(total(&p[1], b"b"), 0);
    // A resource that has gone is left out.
    let row = p[0].find(OTHER, b"a", |r| r.row).expect("there");
    assert!(p[0].remove(row, None));
    assert!(p[1].remove_counted(three, None, &[a.cells]));
    settle(&mut p);
    check(&arena, true);
    assert!(!p[0].is_cells(a.cells) && p[0].cells_total(a.cells) == 0);
}

#[test]
fn what_is_no_block_of_cells_is_refused() {
    let arena = smallest(1);
    let mut p = online(&arena, 0);
    resource(&mut p, b"a");
    let plain = p
        .allocate(2000, AllocClass::New)
        .expect("room")
        .fill(&[&[0xff; 2000]]);
    let a = count(&p, b"a", None);
    let none = Count {
        cells: plain,
        limit: None,
        of: None,
    };
    assert_eq!(
        insert(&mut p, b"k", &[a, none]),
        Err(InsertError::NoCells { nth: 1 })
    );
    assert_eq!(
        insert(&mut p, b"k", &[a; COUNTS_MAX + 1]),
        Err(InsertError::NoCells { nth: COUNTS_MAX })
    );
    p.free_children(&[plain]);
    assert_eq!(total(&p, b"a"), 0);
    settle(std::slice::from_mut(&mut p));
    check(&arena, true);
}

#[test]
fn what_expires_is_taken_off() {
    let arena = smallest(2);
    let mut p = [online(&arena, 0), online(&arena, 1)];
    resource(&mut p[1], b"a");
    let a = count(&p[0], b"a", Some(100));
    for n in 0..100u64 {
        let new = New {
            key: &n.to_le_bytes(),
            meta: RowMeta {
                expires_at: Some(Instant::from_nanos(n)),
                flags: 0,
            },
            counts: &[a],
            ..New::default()
        };
        p[(n % 2) as usize].insert_new(TABLE, &new).expect("room");
    }
    let now = Instant::from_nanos(59);
    let mut gone = 0;
    for p in &mut p {
        let next = p.expire_counted(
            TABLE,
            now,
            Cursor::default(),
            usize::MAX,
            |p, _| [None, Some(cells(p, b"a")), None, None],
            |_| gone += 1,
        );
        assert_eq!(next, None);
    }
    assert_eq!((gone, total(&p[0], b"a")), (60, 40));
}

/// All slots want places; at no moment are there more records than places, and in the end the cells say how many there are.
#[test]
fn the_limit_holds_and_nothing_drifts_under_contention() {
    const THREADS: u16 = 4;
    const LIMIT: i64 = 3;
    let arena = smallest(THREADS);
    let mut first = online(&arena, 0);
    resource(&mut first, b"a");
    resource(&mut first, b"b");
    drop(first);
    // Raised after an insert, lowered before a removal: never more than there are.
    let (at_least, admitted, refused) = (AtomicI64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let (arena, at_least, admitted, refused) = (&arena, &at_least, &admitted, &refused);
            scope.spawn(move || {
                let mut p = online(arena, id);
                let mut rng = Rng::new(u64::from(id) + 5);
                let mut mine = Vec::new();
                for n in 0..20_000u64 {
                    let key = [&[id as u8][..], &n.to_le_bytes()].concat();
                    let counts = [
                        count(&p, b"b", None),
                        count(&p, b"a", Some(LIMIT.unsigned_abs())),
                    ];
                    let blocks = counts.map(|c| c.cells);
                    match rng.below(5) {
                        0 | 1 => match insert(&mut p, &key, &counts) {
                            Ok(row) => {
                                let now = at_least.fetch_add(1, Ordering::SeqCst) + 1;
                                assert!(now <= LIMIT, "{now} records");
                                admitted.fetch_add(1, Ordering::Relaxed);
                                mine.push(row);
                            }
                            Err(InsertError::OverLimit { nth: 1 }) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(e) => panic!("{e}"),
                        },
                        2 | 3 => {
                            if let Some(row) = mine.pop() {
                                at_least.fetch_sub(1, Ordering::SeqCst);
                                assert!(p.remove_counted(row, None, &blocks));
                            }
                        }
                        _ => p.quiescent(),
                    }
                }
                // Others remove what is left.
                drop(mine);
            });
        }
    });
    let mut all: Vec<_> = (0..THREADS).map(|id| online(&arena, id)).collect();
    let live = i64::try_from(arena.live_rows(TABLE)).expect("few");
    assert!(admitted.load(Ordering::Relaxed) > 1_000 && refused.load(Ordering::Relaxed) > 100);
    assert_eq!((total(&all[0], b"a"), total(&all[0], b"b")), (live, live));
    settle(&mut all);
    check(&arena, true);
}

/// The same removed by all at once: one wins, and it is taken off once.
#[test]
fn of_many_removers_one_takes_it_off() {
    const THREADS: u16 = 4;
    let arena = smallest(THREADS);
    let mut first = online(&arena, 0);
    resource(&mut first, b"a");
    drop(first);
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let arena = &arena;
            scope.spawn(move || {
                let mut p = online(arena, id);
                let mut rng = Rng::new(u64::from(id) + 50);
                for _ in 0..20_000 {
                    let key = [rng.below(3) as u8];
                    let a = count(&p, b"a", None);
                    match p.find(TABLE, &key, |r| (r.row, r.version)) {
                        None => {
                            let _ = insert(&mut p, &key, &[a]);
                        }
                        Some((row, version)) if rng.below(3) == 0 => {
                            let _ = p.replace(row, version, &[b"changed"], &[], RowMeta::default());
                        }
                        Some((row, _)) => drop(p.remove_counted(row, None, &[a.cells])),
                    }
                    if rng.below(8) == 0 {
                        p.quiescent();
                    }
                }
            });
        }
    });
    let all: Vec<_> = (0..THREADS).map(|id| online(&arena, id)).collect();
    assert_eq!(total(&all[0], b"a").unsigned_abs(), arena.live_rows(TABLE));
    check(&arena, false);
}

const LIMIT: u64 = 4;
/// As many as one record can count in; the first one has a limit.
const NAMES: [&[u8]; COUNTS_MAX] = [b"a", b"b", b"c", b"d"];

fn counts(p: &Participant) -> [Count; COUNTS_MAX] {
    NAMES.map(|name| count(p, name, (name == b"a").then_some(LIMIT)))
}

/// Inserts, removes and expires counted records among keys that others use, too.
fn contend(p: &mut Participant, rng: &mut Rng) {
    let key = [rng.below(8) as u8];
    let all = counts(p);
    let blocks = all.map(|c| c.cells);
    match (p.find(TABLE, &key, |r| (r.row, r.version)), rng.below(4)) {
        (None, _) => {
            let new = New {
                key: &key,
                alias: Some(&key),
                payload: &[b"counted"],
                meta: RowMeta {
                    expires_at: Some(Instant::from_nanos(u64::from(rng.below(100)))),
                    flags: 0,
                },
                counts: &all,
                ..New::default()
            };
            match p.insert_new(TABLE, &new) {
                Ok(_)
                | Err(
                    InsertError::OverLimit { nth: 0 }
                    | InsertError::Exists { .. }
                    | InsertError::AliasTaken { .. }
                    | InsertError::Stale,
                ) => {}
                Err(e) => panic!("{e}"),
            }
        }
        (Some((row, version)), 0) => {
            let _ = p.replace(row, version, &[b"changed"], &[], RowMeta::default());
        }
        (Some(_), 1) => {
            let now = Instant::from_nanos(u64::from(rng.below(100)));
            p.expire_counted(
                TABLE,
                now,
                Cursor::default(),
                10_000,
                |p, _| counts(p).map(|c| Some(c.cells)),
                |_| {},
            );
        }
        (Some((row, _)), _) => drop(p.remove_counted(row, None, &blocks)),
    }
}

#[track_caller]
fn recount(arena: &Arena, p: &Participant, what: &str) {
    let live = i64::try_from(arena.live_rows(TABLE)).expect("few");
    for name in NAMES {
        assert_eq!(total(p, name), live, "{what}: {}", name.escape_ascii());
    }
    assert!(live <= LIMIT.cast_signed(), "{what}: {live} records");
}

#[test]
fn killed_at_random_moments_nothing_drifts() {
    let arena = smallest(2);
    let mut rng = Rng::new(11);
    let mut survivor = online(&arena, 1);
    for name in NAMES {
        resource(&mut survivor, name);
    }
    for round in 0..300u64 {
        let child = spawn(|| {
            let mut p = arena.participant(ParticipantId(0));
            p.recover(ParticipantId(0));
            let mut rng = Rng::new(round);
            loop {
                contend(&mut p, &mut rng);
                if rng.below(4) == 0 {
                    p.quiescent();
                }
            }
        });
        let until =
            std::time::Instant::now() + Duration::from_micros(u64::from(rng.below(2_000)) + 300);
        while std::time::Instant::now() < until {
            contend(&mut survivor, &mut rng);
            survivor.quiescent();
        }
        kill(child, Signal::SIGKILL).expect("our child");
        waitpid(child, None).expect("our child");
        match round % 3 {
            0 => drop(survivor.recover(ParticipantId(0))),
            1 => drop(recover_all(&arena, [0])),
            _ => {
                // The heir may die while it recovers; then the next one starts again.
                let heir = spawn(|| drop(recover_all(&arena, [0])));
                std::thread::sleep(Duration::from_micros(u64::from(rng.below(300))));
                kill(heir, Signal::SIGKILL).expect("our child");
                waitpid(heir, None).expect("our child");
                recover_all(&arena, [0]);
            }
        }
        recount(&arena, &survivor, &format!("round {round}"));
    }
    let mut both = recover_all(&arena, [0]);
    both.push(survivor);
    settle(&mut both);
    check(&arena, true);
}

/// One operation of the child, by name.
type Operation = (&'static str, fn(&mut Participant));

const OPERATIONS: [Operation; 5] = [
    ("insert", |p| {
        let counts = counts(p);
        insert(p, b"new", &counts).expect("room");
    }),
    ("insert over the limit", |p| {
        let [a, b, c, d] = counts(p);
        let full = Count {
            limit: Some(1),
            ..a
        };
        insert(p, b"new", &[b, c, d, full]).expect_err("full");
    }),
    ("remove", |p| {
        let blocks = counts(p).map(|c| c.cells);
        let row = p.find(TABLE, b"old", |r| r.row).expect("there");
        assert!(p.remove_counted(row, None, &blocks));
    }),
    ("remove by expiry", |p| {
        p.expire_counted(
            TABLE,
            Instant::from_nanos(9),
            Cursor::default(),
            10,
            |p, _| counts(p).map(|c| Some(c.cells)),
            |_| {},
        );
    }),
    ("a new resource", |p| resource(p, b"e")),
];

/// Each operation, killed after a sample of instruction counts (`SHM_KILL_STEP=1`: after each).
#[test]
fn killed_within_an_operation_nothing_drifts() {
    let every: Option<u64> = std::env::var("SHM_KILL_STEP")
        .ok()
        .and_then(|s| s.parse().ok());
    for (name, operation) in OPERATIONS {
        let (mut steps, mut points) = (1, 0);
        loop {
            let arena = smallest(2);
            let mut survivor = online(&arena, 1);
            let mut mine = online(&arena, 0);
            NAMES[..2]
                .iter()
                .for_each(|name| resource(&mut survivor, name));
            NAMES[2..].iter().for_each(|name| resource(&mut mine, name));
            let counts = counts(&mine);
            let old = New {
                key: b"old",
                counts: &counts,
                meta: RowMeta {
                    expires_at: Some(Instant::from_nanos(7)),
                    flags: 0,
                },
                ..New::default()
            };
            mine.insert_new(TABLE, &old).expect("room");
            drop(mine);
            let under_way = kill_after(
                &arena,
                |p| {
                    // Its slabs are taken, its free lists are filled.
                    resource(p, b"warm");
                    let row = p.find(OTHER, b"warm", |r| r.row).expect("there");
                    p.remove(row, None);
                    let row = insert(p, b"warm", &[]).expect("room");
                    p.remove(row, None);
                },
                operation,
                steps,
            );
            points += 1;
            let mut both = recover_all(&arena, [0]);
            let what = format!("{name} after {steps} instructions");
            recount(&arena, &survivor, &what);
            check(&arena, false);
            // Recovery once more changes nothing.
            drop(both);
            both = recover_all(&arena, [0]);
            recount(&arena, &survivor, &what);
            both.push(survivor);
            settle(&mut both);
            check(&arena, true);
            if !under_way {
                break;
            }
            steps += every.unwrap_or(997.max(steps / 6));
        }
        println!("{name}: killed at {points} points of {steps} instructions");
        assert!(points > 1, "{name} has instructions");
    }
}

/// Into another arena with its resources and records under the same names.
#[test]
fn a_copied_resource_counts_on() {
    let arena = smallest(3);
    let mut p = [online(&arena, 0), online(&arena, 1), online(&arena, 2)];
    resource(&mut p[0], b"a");
    for n in 0..7u8 {
        let a = count(&p[0], b"a", None);
        insert(&mut p[usize::from(n) % 3], &[n], &[a]).expect("room");
    }
    let copy = smallest(2);
    let mut importer = Importer::new(&copy);
    for table in [OTHER, TABLE] {
        p[0].export(table, Cursor::default(), usize::MAX, |image| {
            importer.claim(table, image.row, image.owner);
            importer.insert(image).expect("room");
        });
    }
    importer.finish();
    let mut p = [online(&copy, 0), online(&copy, 1)];
    assert_eq!(total(&p[0], b"a"), 7);
    let full = count(&p[0], b"a", Some(8));
    insert(&mut p[1], b"new", &[full]).expect("room");
    assert_eq!(
        insert(&mut p[0], b"newer", &[full]),
        Err(InsertError::OverLimit { nth: 0 })
    );
    let mut rows = Vec::new();
    p[0].rows(TABLE, |r| rows.push(r.row));
    for row in rows {
        assert!(p[1].remove_counted(row, None, &[full.cells]));
    }
    assert_eq!(total(&p[1], b"a"), 0);
    check(&copy, false);
}
