//! A death at every failpoint of the arena's code: each is met, and none leaves anything wrong, neither there nor in a copy of the arena.
//!
//! `cargo test -p shm --features failpoints --test points`; part of `cargo xtask storm`. Deaths at every instruction (`instructions`) see more; this one
//! holds the list of points to its word, which the simulation relies on.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use common::operations::{RESOURCES, counts, insert_counted, put, resource};
use common::processes::spawn;
use common::{OTHER, TABLE, check, online, recover_all, settle, smallest};
use failpoint::Action;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use shm::{
    Arena, CLOSED, Cursor, EVENT_WORDS, Image, Importer, Mail, New, Participant, ParticipantId,
    RowMeta, SlotId,
};

/// Those of the arena at which a process can die; what is left out in `broken` is no step.
fn points() -> impl Iterator<Item = &'static str> {
    let all = failpoint::NAMES.iter().copied();
    all.filter(|name| name.starts_with("shm.") && !name.starts_with("shm.broken."))
}

/// Participant 1 lives, but what it did last is somebody else's to clear up: the life of a slot that was taken over, whole.
fn prepare(arena: &Arena) {
    let mut p = online(arena, 1);
    for name in RESOURCES {
        resource(&mut p, name);
    }
    p.count(7, 5);
    insert_counted(&mut p, b"there", None).expect("room");
}

/// What a slot does in its life; participant 0.
fn live(arena: &Arena) {
    let mut p = arena.participant(ParticipantId(0));
    p.recover(ParticipantId(0));
    p.count(7, 3);
    p.quiescent();
    // Records with children: made, changed, given up, removed.
    let row = put(&mut p, OTHER, b"plain", 2);
    let (version, children) = p
        .with(row, |r| (r.version, r.children.to_vec()))
        .expect("there");
    p.replace(
        row,
        version,
        &[&[8; 300]],
        &children[..1],
        RowMeta::default(),
    )
    .expect("room");
    let version = p.with(row, |r| r.version).expect("there");
    p.reflag(row, version, CLOSED).expect("as it was");
    let reserved = p.reserve(TABLE, b"given up").expect("room");
    p.abandon(reserved);
    assert!(p.remove(row, None));
    // Counted ones.
    let mine = insert_counted(&mut p, b"mine", Some(9)).expect("room");
    let blocks = common::operations::cells(&p);
    let there = p.find(TABLE, b"there", |r| r.row).expect("there");
    assert!(p.remove_counted(mine, None, &blocks));
    assert!(p.remove_counted(there, None, &blocks));
    // More of one size than a slab holds, which comes back once they have gone.
    let big = [&[3; 60_000][..]];
    let rows: Vec<_> = (0..3u8)
        .map(|n| {
            let new = New {
                key: &[n],
                payload: &big,
                ..New::default()
            };
            p.insert_new(TABLE, &new).expect("room")
        })
        .collect();
    for row in rows {
        assert!(p.remove(row, None));
    }
    settle(std::slice::from_mut(&mut p));
    // A message that was read, and one for the neighbour.
    let pool = arena.rx(SlotId(0));
    pool.provide(0);
    pool.hold(0, 0);
    pool.begin(0, SlotId(0));
    pool.done(0, SlotId(0));
    for slot in [0, 1] {
        // Nobody sleeps.
        let _ = p.send(SlotId(slot), Mail::Wake).expect("room");
    }
    p.receive(|_, _| {});
    assert!(p.tell([1; EVENT_WORDS]).is_some());
    p.offline();
}

/// How often each point is met, in a life without an end.
fn met() -> BTreeMap<&'static str, u32> {
    let arena = smallest(2);
    prepare(&arena);
    let met = Rc::new(RefCell::new(BTreeMap::new()));
    let log = Rc::clone(&met);
    let hook = failpoint::hook(move |point| {
        *log.borrow_mut().entry(point).or_insert(0) += 1;
        None
    });
    live(&arena);
    drop(hook);
    met.take()
}

/// Stop-and-copy: a recovered arena goes into another one, in which the records keep their names, count what they counted, and count on.
fn copy(from: &Arena, p: &Participant, what: &str) {
    let to = smallest(2);
    let mut importer = Importer::new(&to);
    let each = |f: &mut dyn FnMut(&Image<'_>)| {
        for table in [TABLE, OTHER] {
            let end = p.export(table, Cursor::default(), usize::MAX, &mut *f);
            assert_eq!(end, None);
        }
    };
    each(&mut |image| importer.claim(image.table, image.row, image.owner));
    each(&mut |image| assert_eq!(importer.insert(image), Ok(image.row), "{what}"));
    importer.finish();
    to.take_carried(&from.carry()).expect("ours");
    assert_eq!(to.counters().total(7), from.counters().total(7), "{what}");
    let mut p = [online(&to, 0), online(&to, 1)];
    assert_eq!(counts(&p[0]), Ok(()), "{what}");
    let cells = common::operations::cells(&p[0]);
    let mut n = 0u8;
    while insert_counted(&mut p[usize::from(n % 2)], &[b'c', n], Some(9)).is_ok() {
        n += 1;
    }
    assert_eq!(p[0].cells_total(cells[1]), 9, "{what}");
    let mut rows = Vec::new();
    p[0].rows(TABLE, |r| {
        rows.extend((r.payload == b"counted").then_some(r.row))
    });
    for row in rows {
        assert!(p[1].remove_counted(row, None, &cells));
    }
    assert_eq!(cells.map(|c| p[0].cells_total(c)), [0; 2], "{what}");
    check(&to, false);
}

/// The life ends at this point, the `nth` time. Whether its recovery had to change what was counted.
fn die(point: &'static str, nth: u32) -> bool {
    let what = format!("{point}, the {nth}. time");
    let arena = smallest(2);
    prepare(&arena);
    let child = spawn(|| {
        let mut left = nth;
        let _hook = failpoint::hook(move |met| {
            left -= u32::from(met == point);
            (left == 0).then_some(Action::Kill)
        });
        live(&arena);
    });
    let end = waitpid(child, None).expect("our child");
    assert!(
        matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
        "{what}: {end:?}"
    );
    let mut survivor: Participant = online(&arena, 1);
    let sum = |p: &Participant| common::operations::cells(p).map(|c| p.cells_total(c));
    let before = sum(&survivor);
    let mut all = recover_all(&arena, [0]);
    let settled = before != sum(&survivor);
    check(&arena, false);
    assert_eq!(counts(&survivor), Ok(()), "{what}");
    copy(&arena, &survivor, &what);
    // Everything can be done again by its heir, and nothing has leaked.
    insert_counted(&mut all[0], b"after", Some(9)).unwrap_or_else(|e| panic!("{what}: {e}"));
    insert_counted(&mut survivor, b"beside", Some(9)).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(counts(&survivor), Ok(()), "{what}");
    all.push(survivor);
    settle(&mut all);
    check(&arena, true);
    settled
}

#[test]
fn every_point_is_met_and_a_death_there_is_survived() {
    let met = met();
    let missing: Vec<_> = points().filter(|p| !met.contains_key(p)).collect();
    assert!(missing.is_empty(), "nobody dies at {missing:?}");
    let (mut deaths, mut settled) = (0, 0);
    for point in points() {
        let times = met[point];
        // The first, the last, and one in between: of a point in a loop.
        let mut nths = vec![1, times.div_ceil(2), times];
        nths.dedup();
        deaths += nths.len();
        for nth in nths {
            settled += u32::from(die(point, nth));
        }
    }
    println!(
        "{deaths} deaths at {} points, {settled} within a count",
        points().count()
    );
    assert!(settled > 0, "counts that recovery had to settle");
}
