//! An arena with one thing left out is caught by deaths at every instruction or by histories: what finds nothing wrong with these would prove nothing about the whole.
//!
//! `cargo test -p shm --features failpoints --test broken`; part of `cargo xtask storm`. More is left out, one thing at a time, in `crates/model/tests/broken.rs`.

mod common;

use std::{cell::RefCell, rc::Rc, time::Duration};

use common::{OTHER, TABLE, online, smallest};
use failpoint::Action;
use shm::{Arena, Block, CLOSED, Count, New, Participant, RowMeta, audit};
use shm_testing::beside::{Deaths, Operation, Rival, beside};
use shm_testing::hammer::{Hammer, PROCESSES, hammer};
use shm_testing::history::{Ask, Log, Told};
use shm_testing::{Case, Pace, exhaust, settle};

/// From now on, in this thread and the processes that it makes.
fn without(part: &'static str) -> failpoint::Hooked {
    failpoint::hook(move |point| (point == part).then_some(Action::Error))
}

fn cells(p: &Participant) -> Block {
    p.find(OTHER, b"resource", |r| r.children[0])
        .expect("there")
}

fn insert_counted(p: &mut Participant, key: &[u8]) {
    assert!(try_insert_counted(p, key));
}

/// Whether it was not there, and there was room.
fn try_insert_counted(p: &mut Participant, key: &[u8]) -> bool {
    let count = Count {
        cells: cells(p),
        limit: None,
        of: None,
    };
    let new = New {
        key,
        counts: &[count],
        ..New::default()
    };
    p.insert_new(TABLE, &new).is_ok()
}

fn prepare(arena: &Arena) {
    let mut p = online(arena, 1);
    let cells = p.allocate_cells().expect("room");
    p.insert(OTHER, b"resource", &[], &[cells], RowMeta::default())
        .expect("room");
    insert_counted(&mut p, b"there");
}

fn counts(p: &Participant) -> Result<(), String> {
    let mut counted = 0;
    p.rows(TABLE, |_| counted += 1);
    match p.cells_total(cells(p)) {
        total if total == counted => Ok(()),
        total => Err(format!("cells say {total}, a recount {counted}")),
    }
}

/// Deaths at every instruction of an insert and of a removal; how many leave something wrong.
fn wrong() -> usize {
    let insert = Case::new("insert", prepare, |p| insert_counted(p, b"new"));
    let remove = Case::new("remove", prepare, |p| {
        let (row, cells) = (p.find(TABLE, b"there", |r| r.row), cells(p));
        assert!(p.remove_counted(row.expect("there"), None, &[cells]));
    });
    let violations = [insert, remove].map(|case| {
        let report = exhaust(&case.check(counts), &smallest(2), Pace::Store);
        report.violations.len()
    });
    violations.iter().sum()
}

#[test]
fn deaths_tell_whether_intents_are_noted() {
    assert_eq!(wrong(), 0);
    let _hook = without("shm.broken.no_intent");
    assert!(wrong() > 0);
}

#[test]
fn deaths_tell_whether_slabs_are_swept() {
    let _hook = without("shm.broken.no_sweep");
    assert!(wrong() > 0);
}

/// Real kills in an insert or a removal of a counted record, beside a process that does both as well; whether something was wrong.
fn wrong_beside() -> bool {
    fn change(p: &mut Participant) {
        match p.find(TABLE, b"shared", |r| r.row) {
            Some(row) => {
                let cells = cells(p);
                p.remove_counted(row, None, &[cells]);
            }
            None => {
                try_insert_counted(p, b"shared");
            }
        }
    }
    let rival = Rival {
        act: |p, _| change(p),
        check: counts,
    };
    let operation = Operation::new("change", change);
    let deaths = Deaths::Sample(400);
    let toll = beside(&smallest(2), prepare, &operation, &rival, deaths, 1);
    println!("{toll:?}");
    !toll.violations.is_empty()
}

#[test]
fn deaths_beside_another_tell_whether_intents_are_noted() {
    let _hook = without("shm.broken.no_intent");
    assert!(wrong_beside());
}

/// A record is made that counts in a resource, and another participant closes the resource, sums up and removes it, each at some point of that: how often it counts in what is gone.
fn counted_by_nothing(look: bool) -> usize {
    const POINTS: [&str; 4] = [
        "shm.insert.attached",
        "shm.counts.intended",
        "shm.counts.added",
        "shm.insert.counted",
    ];
    let mut wrong = 0;
    for order in 0..POINTS.len().pow(3) {
        let at = [0, 1, 2].map(|step| order / POINTS.len().pow(step) % POINTS.len());
        if !at.is_sorted() {
            continue;
        }
        let arena = smallest(2);
        let mut p = online(&arena, 0);
        let block = p.allocate_cells().expect("room");
        p.insert(OTHER, b"resource", &[], &[block], RowMeta::default())
            .expect("room");
        let resource = p.find(OTHER, b"resource", |r| r.row).expect("there");
        let other = Rc::new(RefCell::new(online(&arena, 1)));
        let acts = Rc::clone(&other);
        let (mut closed, mut idle) = (None, false);
        let hook = failpoint::hook(move |point| {
            if point == "shm.broken.no_look_at_resources" {
                return (!look).then_some(Action::Error);
            }
            let mut other = acts.borrow_mut();
            for (step, at) in at.into_iter().enumerate() {
                if POINTS[at] != point {
                    continue;
                }
                let seen = other.with(resource, |r| (r.version, other.cells_total(r.children[0])));
                let Some((version, total)) = seen else {
                    continue;
                };
                match step {
                    0 => closed = other.reflag(resource, version, CLOSED).ok(),
                    1 => idle = total == 0,
                    _ if idle => {
                        other.remove(resource, closed);
                    }
                    _ => {}
                }
            }
            None
        });
        let count = Count {
            cells: cells(&p),
            limit: None,
            of: Some(resource),
        };
        let new = New {
            key: b"new",
            counts: &[count],
            ..New::default()
        };
        let made = p.insert_new(TABLE, &new).is_ok();
        drop(hook);
        let total = p.with(resource, |r| p.cells_total(r.children[0]));
        wrong += usize::from(total.unwrap_or(0) != i64::from(made));
    }
    wrong
}

#[test]
fn orders_tell_whether_resources_are_looked_at() {
    assert_eq!(counted_by_nothing(true), 0);
    assert!(counted_by_nothing(false) > 0);
}

fn get(p: &Participant, key: u8) -> Option<i64> {
    let read =
        |r: shm::Record<'_>| i64::from_le_bytes(*r.payload.first_chunk().expect("eight bytes"));
    p.find(TABLE, &[key], read)
}

/// Inserts and removals of one key.
fn act(p: &mut Participant, log: &Log, me: usize, random: &mut dyn FnMut(u32) -> u32) -> bool {
    let new = i64::from(random(u32::MAX));
    let seen = p.find(TABLE, &[0], |r| (r.row, r.version));
    let told = match seen {
        None => log.note(me, 0, Ask::Insert(new), || {
            match p.insert(TABLE, &[0], &[&new.to_le_bytes()], &[], RowMeta::default()) {
                Ok(_) => Told::Done(true),
                Err(shm::InsertError::Exists { .. }) => Told::Done(false),
                Err(_) => Told::Refused,
            }
        }),
        Some((row, version)) => {
            let old = p.with(row, |r| {
                i64::from_le_bytes(*r.payload.first_chunk().expect("eight"))
            });
            match old {
                Some(old) => log.note(me, 0, Ask::Remove(old), || {
                    Told::Done(p.remove(row, Some(version)))
                }),
                None => Some(Told::Refused),
            }
        }
    };
    told.is_some()
}

fn hammered(seconds: u64) -> Result<(), String> {
    let work = Hammer { act, get, keys: 1 };
    let arena = smallest(PROCESSES as u16);
    hammer(&arena, &work, Duration::from_secs(seconds), 1).map(drop)
}

#[test]
fn histories_tell_whether_inserters_look_again() {
    hammered(1).expect("whole");
    let _hook = without("shm.broken.no_rescan");
    hammered(60).expect_err("two of one key");
}

/// In one thread: a reader keeps a body over the writer's turns.
#[test]
fn a_reader_tells_whether_grace_is_given() {
    let reused = || {
        let arena = smallest(2);
        let mut writer = online(&arena, 0);
        let reader = online(&arena, 1);
        let row = writer
            .insert(TABLE, b"k", &[b"first"], &[], RowMeta::default())
            .expect("room");
        let same = reader.find(TABLE, b"k", |r| {
            for text in [b"second", b"third.", b"fourth"] {
                let version = writer.with(row, |r| r.version).expect("there");
                writer
                    .replace(row, version, &[text], &[], RowMeta::default())
                    .expect("room");
                writer.quiescent();
            }
            r.payload == b"first"
        });
        let mut all = [writer, reader];
        settle(&mut all);
        assert!(audit(&arena, true).is_empty());
        !same.expect("there")
    };
    assert!(!reused());
    let _hook = without("shm.broken.no_grace");
    assert!(reused());
}
