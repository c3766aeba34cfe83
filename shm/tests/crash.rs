//! Deaths, with processes: a child does random operations, is killed with SIGKILL at a random moment, and an heir recovers it; or it is
//! stepped through one operation and killed after so many instructions.
//!
//! The child says in its counter cells what it has done (acknowledged) and what it is about to do. After recovery everything acknowledged must be there, and
//! of what was under way all or nothing.

mod common;

use std::time::Duration;

use common::processes::{kill_after, spawn};
use common::{OTHER, TABLE, check, online, recover_all, settle, smallest};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use shm::{AllocClass, Arena, New, Participant, ParticipantId, RowMeta, TableId};
use stdx::Rng;
use sync::Ordering;

/// The last cell says what is about to be done, the others what has been.
const DOING: u8 = 255;
const KEYS: u32 = 40;

fn cell(arena: &Arena, counter: u8) -> u64 {
    arena
        .counters()
        .cell(ParticipantId(0), counter)
        .expect("a participant")
        .load(Ordering::SeqCst)
}

fn set(arena: &Arena, counter: u8, value: u64) {
    arena
        .counters()
        .cell(ParticipantId(0), counter)
        .expect("a participant")
        .store(value, Ordering::SeqCst);
}

fn payload(key: u8, value: u64) -> Vec<u8> {
    let len = 8 + (value % 37) as usize * 20;
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.resize(len, key);
    bytes
}

/// Even keys have one.
fn alias(key: u8) -> Option<[u8; 3]> {
    key.is_multiple_of(2).then_some([key, b'i', b's'])
}

/// Brings `key` to `value` (0: absent) by one operation.
fn change(p: &mut Participant, key: u8, value: u64) {
    let bytes = payload(key, value);
    let found = p.find(TABLE, &[key], |r| (r.row, r.version, r.children.to_vec()));
    let child = |p: &mut Participant| {
        p.allocate(50, AllocClass::New)
            .expect("room")
            .fill(&[&value.to_le_bytes()])
    };
    match found {
        None if value != 0 => {
            let children = [child(p), child(p)];
            let alias = alias(key);
            let new = New {
                key: &[key],
                alias: alias.as_ref().map(|a| &a[..]),
                payload: &[&bytes],
                children: &children,
                meta: RowMeta::default(),
                counts: &[],
            };
            if value.is_multiple_of(2) {
                p.insert_new(TABLE, &new).expect("room");
            } else {
                let reserved = p.reserve_new(TABLE, new.key, new.alias).expect("room");
                p.publish_new(reserved, &new).expect("room");
            }
        }
        None => {}
        Some((row, _, _)) if value == 0 => assert!(p.remove(row, None)),
        Some((row, version, old)) => {
            let children = [old[0], child(p)];
            p.replace(row, version, &[&bytes], &children, RowMeta::default())
                .expect("room");
        }
    }
}

fn value(p: &Participant, key: u8) -> u64 {
    let row = p.find(TABLE, &[key], |r| r.row);
    if let Some(alias) = alias(key) {
        assert_eq!(p.find_alias(TABLE, &alias, |r| r.row), row);
    }
    p.find(TABLE, &[key], |r| {
        let value = u64::from_le_bytes(r.payload[..8].try_into().expect("eight bytes"));
        assert_eq!(r.payload, payload(key, value));
        assert_eq!(r.children.len(), 2);
        for &child in r.children {
            assert_eq!(p.block(child).len(), 50);
        }
        assert_eq!(p.block(r.children[1])[..8], value.to_le_bytes());
        value
    })
    .unwrap_or(0)
}

/// What an incarnation of participant 0 does until it is killed; `others` (table 1) is contended with participant 1.
fn work(arena: &Arena, seed: u64) {
    let mut p = arena.participant(ParticipantId(0));
    p.recover(ParticipantId(0));
    let mut rng = Rng::new(seed);
    loop {
        let key = rng.below(KEYS) as u8;
        let new = if rng.below(3) == 0 {
            0
        } else {
            rng.next_u64() | 1 << 40
        };
        set(arena, DOING, u64::from(key) + 1);
        set(arena, key + 128, new);
        change(&mut p, key, new);
        set(arena, key, new);
        set(arena, DOING, 0);
        contend(&mut p, &mut rng);
        match rng.below(8) {
            0 => p.quiescent(),
            1 => {
                p.scrub(3);
            }
            2 => {
                p.offline();
                p.online();
            }
            _ => {}
        }
    }
}

/// One operation on keys that others use too.
fn contend(p: &mut Participant, rng: &mut Rng) {
    let key = [rng.below(6) as u8];
    let found = p.find(OTHER, &key, |r| (r.row, r.version));
    match (found, rng.below(3)) {
        (None, _) => {
            // Fewer aliases than keys, so that one may be another's.
            let alias = [rng.below(8) as u8];
            let new = New {
                key: &key,
                alias: (alias[0] < 4).then_some(&alias),
                payload: &[&[1; 100]],
                ..New::default()
            };
            let _ = p.insert_new(OTHER, &new);
        }
        (Some((row, version)), 0..2) => {
            let _ = p.replace(row, version, &[&[2; 200]], &[], RowMeta::default());
        }
        (Some((row, _)), _) => drop(p.remove(row, None)),
    }
}

fn verify(arena: &Arena, p: &Participant) {
    let doing = cell(arena, DOING);
    for key in 0..KEYS as u8 {
        let (found, acknowledged) = (value(p, key), cell(arena, key));
        if found != acknowledged {
            assert_eq!(
                doing,
                u64::from(key) + 1,
                "key {key}: {found} instead of {acknowledged}"
            );
            assert_eq!(found, cell(arena, key + 128), "all or nothing");
        }
        set(arena, key, found);
    }
    set(arena, DOING, 0);
}

#[test]
fn killed_at_random_moments() {
    let arena = smallest(2);
    let empty = arena.usage().bytes_used;
    let mut rng = Rng::new(1);
    let mut survivor = online(&arena, 1);
    for round in 0..300 {
        let child = spawn(|| work(&arena, round));
        let until =
            std::time::Instant::now() + Duration::from_micros(u64::from(rng.below(3_000)) + 300);
        while std::time::Instant::now() < until {
            contend(&mut survivor, &mut rng);
            survivor.quiescent();
        }
        kill(child, Signal::SIGKILL).expect("our child");
        assert_eq!(
            waitpid(child, None).expect("our child"),
            WaitStatus::Signaled(child, Signal::SIGKILL, false)
        );
        if round % 3 == 0 {
            // By another participant; else by the next child under its own number.
            survivor.recover(ParticipantId(0));
        }
        if round % 10 == 0 {
            let mut both = recover_all(&arena, [0]);
            verify(&arena, &survivor);
            check(&arena, false);
            both.push(survivor);
            settle(&mut both);
            check(&arena, true);
            survivor = both.pop().expect("pushed");
        } else if round % 3 == 0 {
            verify(&arena, &survivor);
        } else {
            // The heir may die while it recovers; then the next one starts again.
            let heir = spawn(|| drop(recover_all(&arena, [0])));
            std::thread::sleep(Duration::from_micros(u64::from(rng.below(400))));
            kill(heir, Signal::SIGKILL).expect("our child");
            waitpid(heir, None).expect("our child");
            recover_all(&arena, [0]);
            verify(&arena, &survivor);
        }
    }
    let mut both = recover_all(&arena, [0]);
    both.push(survivor);
    for table in [TABLE, OTHER] {
        let mut rows = Vec::new();
        both[0].rows(table, |r| rows.push(r.row));
        for row in rows {
            assert!(both[1].remove(row, None));
        }
    }
    settle(&mut both);
    check(&arena, true);
    assert_eq!(arena.usage().bytes_used, empty, "nothing leaks");
}

/// One operation of the child, by name; the arena has been prepared.
type Operation = (&'static str, fn(&mut Participant));

fn row_of(p: &Participant, key: u8) -> shm::RowRef {
    p.find(TABLE, &[key], |r| r.row).expect("prepared")
}

const OPERATIONS: [Operation; 9] = [
    ("insert into new slabs", |p| change(p, 2, 1 << 40)),
    ("insert", |p| change(p, 2, 1 << 40)),
    ("insert what exists", |p| {
        let _ = p.insert(TABLE, &[1], &[b"x"], &[], RowMeta::default());
    }),
    ("reserve and publish", |p| change(p, 2, 1 << 40 | 1)),
    ("replace", |p| change(p, 1, 1 << 40)),
    ("remove", |p| change(p, 1, 0)),
    ("remove another's", |p| {
        let row = p.find(OTHER, &[1], |r| r.row).expect("prepared");
        p.remove(row, None);
    }),
    ("quiescent", |p| {
        let row = row_of(p, 1);
        p.remove(row, None);
        for _ in 0..3 {
            p.quiescent();
        }
    }),
    ("scrub", |p| {
        p.scrub(4);
    }),
];

/// Each operation, killed after a sample of instruction counts (`SHM_KILL_STEP=1`: after each, which takes hours).
#[test]
fn killed_within_an_operation() {
    let chosen: Option<u64> = std::env::var("SHM_KILL_STEP")
        .ok()
        .and_then(|s| s.parse().ok());
    for (name, operation) in OPERATIONS {
        if chosen.is_none() && matches!(name, "insert into new slabs" | "scrub") {
            // Half a million instructions of plain loops.
            continue;
        }
        let mut steps = 1;
        let mut points = 0;
        loop {
            let arena = smallest(2);
            let empty = arena.usage().bytes_used;
            let mut mine = online(&arena, 0);
            change(&mut mine, 1, 1 << 41);
            drop(mine);
            let mut survivor = online(&arena, 1);
            survivor
                .insert(OTHER, &[1], &[b"theirs"], &[], RowMeta::default())
                .expect("room");
            let prepare = |p: &mut Participant| {
                if name != "insert into new slabs" {
                    // Its slabs are taken, its free lists are filled.
                    change(p, 9, 1 << 40);
                    change(p, 9, 0);
                }
            };
            let under_way = kill_after(&arena, prepare, operation, steps);
            points += 1;
            let mut both = recover_all(&arena, [0]);
            check(&arena, false);
            for key in [1, 2, 9] {
                let value = value(&both[0], key);
                assert!(
                    [0, 1 << 41, 1 << 40, 1 << 40 | 1].contains(&value),
                    "{name} after {steps}: {value}"
                );
            }
            both.push(survivor);
            settle(&mut both);
            check(&arena, true);
            for table in [TABLE, OTHER].map(|TableId(t)| TableId(t)) {
                let mut rows = Vec::new();
                both[0].rows(table, |r| rows.push(r.row));
                for row in rows {
                    assert!(both[1].remove(row, None), "{name} after {steps}");
                }
            }
            settle(&mut both);
            check(&arena, true);
            assert_eq!(
                arena.usage().bytes_used,
                empty,
                "{name} after {steps} instructions"
            );
            if !under_way {
                break;
            }
            steps += chosen.unwrap_or(997.max(steps / 5));
        }
        println!("{name}: killed at {points} points of {steps} instructions");
        assert!(points > 1, "{name} has instructions");
    }
}
