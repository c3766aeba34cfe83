//! A death at every instruction of every operation of the arena: see `shm-testing`.
//!
//! Every instruction of an operation is covered each time, by stopping after those that store into the arena; the long form steps through each and counts it. Of recoveries that die as well, and of operations beside another's death, the fast form takes a sample (`SHM_SEED` chooses it, and
//! is printed), the long form all: `SHM_EVERY_INSTRUCTION=1`, best with `--release`, as `cargo xtask storm` does it.

mod common;

use common::operations::{RESOURCES, cells, counts, insert_counted, put, resource, warm};
use common::{OTHER, TABLE, online, smallest};
use shm::{
    AllocClass, Arena, BufferRef, Cursor, InsertError, Mail, New, Participant, ParticipantId,
    RowMeta, SlotId, TableId,
};
use shm_testing::judge::{exhaust_beside, exhaust_recovery, walked};
use shm_testing::{Case, Pace, Report, exhaust};
use stdx::Instant;

fn every_instruction() -> bool {
    std::env::var_os("SHM_EVERY_INSTRUCTION").is_some()
}

fn pace() -> Pace {
    if every_instruction() {
        Pace::Instruction
    } else {
        Pace::Store
    }
}

fn seed() -> usize {
    let given = std::env::var("SHM_SEED").ok().and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| std::process::id() as usize)
}

fn change(p: &mut Participant, key: &[u8]) {
    let (row, version, old) = p
        .find(TABLE, key, |r| (r.row, r.version, r.children.to_vec()))
        .expect("prepared");
    let new = p
        .allocate(50, AllocClass::Update)
        .expect("room")
        .fill(&[&[9; 50]]);
    let mut children = vec![new];
    children.extend(old.first());
    let meta = RowMeta {
        expires_at: Some(Instant::from_nanos(900)),
        flags: 6,
    };
    p.replace(row, version, &[&[8; 300]], &children, meta)
        .expect("unchanged");
}

fn remove(p: &mut Participant, table: TableId, key: &[u8]) {
    let row = p.find(table, key, |r| r.row).expect("prepared");
    assert!(p.remove(row, None));
}

/// Two records, of either participant; both are offline afterwards.
fn two_records(arena: &Arena) {
    put(&mut online(arena, 0), TABLE, b"mine", 2);
    put(&mut online(arena, 1), OTHER, b"theirs", 1);
}

/// One record with two names, of participant 1.
fn two_aliases(arena: &Arena) {
    two_records(arena);
    let new = New {
        key: b"theirs",
        alias: Some(b"alias of theirs"),
        payload: &[b"x"],
        ..New::default()
    };
    online(arena, 1).insert_new(TABLE, &new).expect("room");
}

fn remove_counted(p: &mut Participant, key: &[u8]) {
    let cells = cells(p);
    let row = p.find(TABLE, key, |r| r.row).expect("prepared");
    assert!(p.remove_counted(row, None, &cells));
}

/// Two resources, and one record of each participant that counts in both.
fn two_counted(arena: &Arena) {
    let mut p = online(arena, 1);
    RESOURCES.iter().for_each(|name| resource(&mut p, name));
    insert_counted(&mut p, b"by 1", None).expect("room");
    insert_counted(&mut online(arena, 0), b"by 0", None).expect("room");
}

fn rx_filled(arena: &Arena) {
    two_records(arena);
    for slot in [0, 1].map(SlotId) {
        let pool = arena.rx(slot);
        (0..pool.count()).for_each(|n| pool.provide(n));
        // SAFETY: 64 bytes of a buffer that is the kernel's, which the test plays.
        unsafe { pool.buffer(1).write_bytes(1, 64) };
    }
}

const MINE: BufferRef = BufferRef { slot: 0, index: 1 };

/// A case, by functions.
fn case(name: &str, prepare: fn(&Arena), operate: fn(&mut Participant)) -> Case {
    Case::new(name, prepare, operate)
}

/// Every operation of the arena.
fn cases() -> Vec<Case> {
    vec![
        case("reserve", two_records, |p| {
            std::mem::forget(p.reserve(TABLE, b"new").expect("room"))
        })
        .warm(warm),
        case("reserve and publish", two_records, |p| {
            let reserved = p.reserve(TABLE, b"new").expect("room");
            p.publish(reserved, b"new", &[b"x"], &[], RowMeta::default())
                .expect("room");
        })
        .warm(warm),
        case("abandon", two_records, |p| {
            let reserved = p.reserve(TABLE, b"new").expect("room");
            p.abandon(reserved);
        })
        .warm(warm),
        case("insert", two_records, |p| {
            assert!(put(p, TABLE, b"new", 2).generation > 0)
        })
        .warm(warm),
        case(
            "insert into new slabs",
            |_| {},
            |p| assert!(put(p, TABLE, b"new", 2).generation > 0),
        ),
        case("insert what exists", two_records, |p| {
            assert!(
                p.insert(TABLE, b"mine", &[b"x"], &[], RowMeta::default())
                    .is_err()
            );
        })
        .warm(warm),
        case(
            "insert over a dead one's reservation",
            |arena| {
                two_records(arena);
                let mut dead = online(arena, 1);
                std::mem::forget(dead.reserve(TABLE, b"new").expect("room"));
            },
            |p| assert!(put(p, TABLE, b"new", 1).generation > 0),
        )
        .warm(warm),
        case("replace", two_records, |p| change(p, b"mine")).warm(warm),
        case("remove", two_records, |p| remove(p, TABLE, b"mine")).warm(warm),
        case("remove another's", two_records, |p| {
            remove(p, OTHER, b"theirs")
        })
        .warm(warm),
        case(
            "expire",
            |arena| {
                two_records(arena);
                put(&mut online(arena, 0), TABLE, b"mine too", 0);
            },
            |p| {
                let mut expired = 0;
                p.expire(
                    TABLE,
                    Instant::from_nanos(2_000),
                    Cursor::default(),
                    usize::MAX,
                    |_| expired += 1,
                );
                assert_eq!(expired, 2);
            },
        )
        .warm(warm)
        .in_parts(),
        case(
            "expire what was refreshed",
            |arena| {
                two_records(arena);
                let mut p = online(arena, 0);
                let (row, version) = p
                    .find(TABLE, b"mine", |r| (r.row, r.version))
                    .expect("there");
                p.replace(row, version, &[b"later"], &[], RowMeta::default())
                    .expect("unchanged");
            },
            |p| {
                p.expire(
                    TABLE,
                    Instant::from_nanos(2_000),
                    Cursor::default(),
                    usize::MAX,
                    |_| panic!("it is fresh"),
                );
            },
        )
        .warm(warm),
        case("allocate and free children", two_records, |p| {
            let blocks = [60, 200].map(|n| p.allocate(n, AllocClass::New).expect("room").freeze());
            p.free_children(&blocks);
            drop(p.allocate(100, AllocClass::New).expect("room"));
        })
        .warm(warm),
        case("quiescent", two_records, |p| {
            (0..3).for_each(|_| p.quiescent())
        })
        .warm(|p| {
            warm(p);
            remove(p, TABLE, b"mine");
            remove(p, OTHER, b"theirs");
        }),
        case("offline and online", two_records, |p| {
            p.offline();
            p.online();
        })
        .warm(|p| remove(p, OTHER, b"theirs")),
        case("scrub", two_records, |p| assert_eq!(p.scrub(4).slabs, 0)).warm(warm),
        case(
            "scrub what was lost",
            |arena| {
                two_records(arena);
                // Their limbo is lost with them.
                remove(&mut online(arena, 0), TABLE, b"mine");
                remove(&mut online(arena, 1), OTHER, b"theirs");
            },
            |p| assert!(p.scrub(u32::MAX).retired > 0),
        )
        .warm(warm),
        case("give a slab back", two_records, |p| {
            assert!(p.scrub(u32::MAX).slabs > 0)
        })
        .warm(|p| {
            // More blocks of a class than one slab holds.
            let block = |_| p.allocate(4_000, AllocClass::Update).expect("room");
            drop((0..40).map(block).collect::<Vec<_>>());
        }),
        case("insert with an alias", two_records, |p| {
            let new = New {
                key: b"new",
                alias: Some(b"also"),
                payload: &[b"x"],
                ..New::default()
            };
            p.insert_new(TABLE, &new).expect("room");
        })
        .warm(warm),
        case("insert of a taken alias", two_aliases, |p| {
            let new = New {
                key: b"new",
                alias: Some(b"alias of theirs"),
                ..New::default()
            };
            assert!(matches!(
                p.insert_new(TABLE, &new),
                Err(InsertError::AliasTaken { .. })
            ));
        })
        .warm(warm),
        case(
            "insert over a dead one's alias",
            |arena| {
                two_records(arena);
                let mut dead = online(arena, 1);
                let reserved = dead.reserve_new(TABLE, b"other", Some(b"also"));
                std::mem::forget(reserved.expect("room"));
            },
            |p| {
                let new = New {
                    key: b"new",
                    alias: Some(b"also"),
                    ..New::default()
                };
                p.insert_new(TABLE, &new).expect("room");
            },
        )
        .warm(warm),
        case("remove with an alias", two_aliases, |p| {
            remove(p, TABLE, b"theirs")
        })
        .warm(warm),
        case("make a resource", two_records, |p| resource(p, b"new")).warm(warm),
        case("insert counted", two_counted, |p| {
            insert_counted(p, b"new", None).expect("room");
        })
        .warm(warm)
        .check(counts),
        case("insert over the limit", two_counted, |p| {
            let over = insert_counted(p, b"new", Some(2));
            assert_eq!(over, Err(InsertError::OverLimit { nth: 1 }));
        })
        .warm(warm)
        .check(counts),
        case("remove counted", two_counted, |p| {
            remove_counted(p, b"by 0")
        })
        .warm(warm)
        .check(counts),
        case("remove another's counted", two_counted, |p| {
            remove_counted(p, b"by 1")
        })
        .warm(warm)
        .check(counts),
        case("send", two_records, |p| {
            assert!(p.send(SlotId(1), Mail::Wake).is_ok())
        }),
        case(
            "receive",
            |arena| {
                let p = online(arena, 1);
                assert!(p.send(SlotId(0), Mail::Wake).is_ok());
            },
            |p| p.receive(|_, mail| assert_eq!(mail, Mail::Wake)),
        ),
        case("hold", rx_filled, |p| p.arena().rx(SlotId(0)).hold(1, 7)),
        case("pass", rx_filled, |p| {
            p.arena().rx(SlotId(0)).hold(1, 7);
            p.arena().rx(SlotId(0)).pass(1, SlotId(1));
            assert!(p.send(SlotId(1), Mail::Serve(MINE)).is_ok());
        })
        .in_parts(),
        case("serve", rx_filled, |p| {
            let pool = p.arena().rx(SlotId(0));
            pool.hold(1, 7);
            assert_eq!(pool.begin(1, SlotId(0)), 1);
            pool.done(1, SlotId(0));
        }),
        case(
            "provide",
            |arena| {
                rx_filled(arena);
                arena.rx(SlotId(0)).hold(1, 7);
                arena.rx(SlotId(0)).done(1, SlotId(0));
            },
            |p| p.arena().rx(SlotId(0)).provide(1),
        ),
    ]
}

fn by_name(name: &str) -> Case {
    let found = cases().into_iter().find(|c| c.name == name);
    found.unwrap_or_else(|| panic!("no case is called {name:?}"))
}

#[track_caller]
fn tell(name: &str, report: &Report) {
    let Report {
        instructions,
        moments,
        judged,
        violations,
    } = report;
    let what = if every_instruction() {
        "instructions"
    } else {
        "stores"
    };
    println!(
        "{name}: killed after each of {instructions} {what}, {moments} different contents, {judged} judged, {} violations",
        violations.len()
    );
    assert!(
        violations.is_empty(),
        "{name}: {} violations, first: {:#?}",
        violations.len(),
        &violations[..violations.len().min(4)]
    );
    assert!(*judged > 0, "{name} has moments");
}

#[test]
fn killed_after_every_instruction() {
    let (mut instructions, mut judged) = (0, 0);
    for case in cases() {
        let report = exhaust(&case, &smallest(2), pace());
        tell(&case.name, &report);
        instructions += report.instructions;
        judged += report.judged;
    }
    println!("all operations: {instructions}, {judged} contents judged, 0 violations");
}

#[test]
fn a_recovery_that_dies_is_taken_over() {
    let (seed, every) = (seed(), every_instruction());
    println!("SHM_SEED={seed}");
    for name in [
        "insert",
        "insert over a dead one's reservation",
        "replace",
        "remove another's",
        "expire",
    ] {
        let case = by_name(name);
        let nth = if every { 1 } else { 6 };
        let report = exhaust_recovery(&case, &smallest(2), pace(), nth, seed);
        tell(&format!("recovery from {name}"), &report);
    }
}

/// Participant 1 dies somewhere in its operation, participant 0 comes along before anybody has recovered it, and dies in its turn.
#[test]
fn killed_beside_the_dead() {
    let (seed, every) = (seed(), every_instruction());
    println!("SHM_SEED={seed}");
    let pairs = [
        ("insert", "insert"),
        ("insert", "remove another's"),
        ("remove another's", "insert"),
        ("replace", "remove"),
    ];
    for (theirs, mine) in pairs {
        let arena = smallest(2);
        let empty = arena.usage().bytes_used;
        let (twin, walk) = walked(&as_other(theirs), &arena, pace());
        let nth = if every { 1 } else { 8 };
        let report = exhaust_beside(&same_keys(mine), &walk, &twin, empty, pace(), nth, seed);
        tell(&format!("{mine} beside one who died in {theirs}"), &report);
    }
}

/// Participant 1's part.
fn as_other(name: &str) -> Case {
    let prepare = |arena: &Arena| {
        two_records(arena);
        put(&mut online(arena, 1), TABLE, b"shared", 1);
    };
    let operate: fn(&mut Participant) = match name {
        "insert" => |p| assert!(put(p, TABLE, b"new", 1).generation > 0),
        "replace" => |p| change(p, b"shared"),
        _ => |p| remove(p, TABLE, b"shared"),
    };
    let other = move |p: &mut Participant| {
        // Stepped from here on: as participant 1, made by the process that is participant 0.
        let mut other = p.arena().participant(ParticipantId(1));
        other.recover(ParticipantId(1));
        operate(&mut other);
        std::mem::forget(other);
    };
    Case::new(name, prepare, other)
}

/// Participant 0's part, on the keys of [`as_other`].
fn same_keys(name: &str) -> Case {
    let operate: fn(&mut Participant) = match name {
        // Whatever the other has left: both may win, one after the other.
        "insert" => |p| {
            let _ = p.insert(TABLE, b"new", &[b"by 0"], &[], RowMeta::default());
        },
        _ => |p| {
            if let Some(row) = p.find(TABLE, b"shared", |r| r.row) {
                p.remove(row, None);
            }
        },
    };
    Case::new(name, |_| {}, operate).in_parts()
}
