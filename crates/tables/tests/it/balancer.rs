//! `balancer` and what dialogs count in it, against a recount; limits among threads; removal; full; garbage.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use shm::{Cursor, Participant, ParticipantId, RowMeta, RowRef};
use tables::balancer::{
    Balancer, BalancerError, Condition, Health, Member, Mode, Probe, Removal, Resource,
    ResourceKey, ResourceKind, Statistics,
};
use tables::dialog::{CountIn, CreateError, Dialog, DialogId, DialogState, Dialogs};
use tables::{BALANCER, DIALOG};

use crate::world::{SLOTS, arena, at, everybody, online, settle, smallest};

fn profile(n: usize) -> ResourceKey {
    ResourceKey::of(ResourceKind::Profile, format!("p{n}").as_bytes())
}

fn call(n: u32) -> Dialog {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_le_bytes());
    Dialog::new(
        DialogId(id),
        format!("call {n}").as_bytes(),
        b"caller",
        at(0),
    )
}

fn member(n: u8) -> Member {
    Member {
        uri: format!("sip:192.0.2.{n}:5060").into_bytes(),
        priority: n.into(),
        share: 500,
    }
}

fn unlimited(resource: RowRef) -> CountIn {
    CountIn {
        resource,
        limit: None,
    }
}

#[test]
fn a_resource_is_what_it_was_made() {
    let arena = arena(16 << 20);
    let mut all = everybody(&arena);
    let key = ResourceKey::destination(b"media", b"sip:192.0.2.1:5060");
    assert_eq!(key.kind(), Some(ResourceKind::Destination));
    assert_eq!(key.name(), b"media\0sip:192.0.2.1:5060");
    let new = Resource {
        mode: Mode::Draining,
        weight: 3,
        priority: 2,
        capacity: 500,
        created_at: Some(at(1)),
        changed_at: Some(at(2)),
        probe: Probe {
            sent_at: Some(at(3)),
            judged_at: Some(at(2)),
            code: 404,
        },
        condition: Condition {
            health: Health::Up,
            answered_at: Some(at(4)),
            failed_at: Some(at(5)),
            recovered_at: Some(at(6)),
            probes_ok: 7,
            probes_failed: 8,
            failures: 14,
            latency: Some(Duration::from_nanos(9)),
        },
        members: [1, 2].map(member).to_vec(),
        statistics: Statistics {
            calls: 10,
            answered: 11,
            failed: 12,
            refused: 13,
        },
        unknown: vec![200, 1, 0, 7],
    };
    let row = Balancer(&mut all[0]).ensure(&key, &new).unwrap();
    let mut balancer = Balancer(&mut all[1]);
    assert_eq!(balancer.ensure(&key, &Resource::default()), Ok(row));
    let found = balancer.find(&key).unwrap();
    assert_eq!((found.row, &found.resource, found.live), (row, &new, 0));
    assert_eq!(balancer.get(row), Some(found.clone()));
    let more = Statistics {
        calls: 1,
        failed: 1,
        ..Statistics::default()
    };
    balancer.add(row, &more).unwrap();
    let glance = balancer.glance(row).unwrap();
    assert_eq!((glance.mode, glance.weight, glance.live), (new.mode, 3, 0));
    assert_eq!((glance.condition, glance.probe), (new.condition, new.probe));
    assert_eq!(new.probe.waiting(), Some(at(3)));
    let changed = balancer
        .update(row, |r| r.condition.health = Health::Down)
        .unwrap();
    assert_eq!(changed.members, new.members);
    assert_ne!(balancer.glance(row).unwrap().version, glance.version);
    assert_eq!(
        (changed.statistics.calls, changed.statistics.failed),
        (11, 13)
    );
    let mut listed = Vec::new();
    balancer.scan(Cursor::default(), usize::MAX, |found| {
        listed.push(found.key)
    });
    assert_eq!(listed, [key]);
    assert_eq!(balancer.remove(row, at(9)), Ok(Removal::Gone));
    assert_eq!(balancer.remove(row, at(9)), Ok(Removal::Gone));
    assert_eq!(balancer.update(row, |_| ()), Err(BalancerError::Gone));
    settle(&arena, &mut all);
}

#[test]
fn a_resource_in_use_waits_for_its_dialogs() {
    let arena = arena(16 << 20);
    let mut all = everybody(&arena);
    let row = Balancer(&mut all[0])
        .ensure(&profile(0), &Resource::default())
        .unwrap();
    let one = Dialogs(&mut all[1])
        .create(call(1), &[unlimited(row)])
        .unwrap();
    assert_eq!(
        Balancer(&mut all[0]).remove(row, at(1)),
        Ok(Removal::Waiting(1))
    );
    let found = Balancer(&mut all[2]).find(&profile(0)).unwrap();
    assert_eq!((found.live, found.resource.mode), (1, Mode::Removed));
    Balancer(&mut all[0]).reap(Cursor::default(), usize::MAX);
    assert_eq!(Balancer(&mut all[0]).live(row), Some(1));
    assert!(Dialogs(&mut all[0]).end(one).is_some());
    let mut sweep = tables::Sweep::default();
    for _ in 0..10 {
        sweep.step(&mut all[2], at(2), |_, _| (), |_| ());
    }
    assert_eq!(Balancer(&mut all[0]).live(row), None);
    let gone = Dialogs(&mut all[1]).create(call(2), &[unlimited(row)]);
    assert_eq!(gone, Err(CreateError::NoResource { nth: 0 }));
    settle(&arena, &mut all);
}

#[test]
fn a_resource_is_not_given_back_what_it_never_had() {
    let arena = arena(16 << 20);
    let mut all = everybody(&arena);
    let row = Balancer(&mut all[0])
        .ensure(&profile(0), &Resource::default())
        .unwrap();
    let one = Dialogs(&mut all[0])
        .create(call(1), &[unlimited(row)])
        .unwrap();
    let dialog = Dialogs(&mut all[0]).with(one, |view| view.take()).unwrap();
    assert_eq!(dialog.counted.len(), 1);
    assert_eq!(dialog.counted[0].row, Some(row));
    assert_eq!(dialog.counted[0].key, profile(0).as_bytes());
    // As after a restart: the same row, but it never counted this dialog.
    let mut payload = Vec::new();
    dialog.encode(&mut payload);
    let restarted = tables::shift(DIALOG, &payload, at(1), 5).unwrap();
    // Written by a release that knew three: their rows go all the same.
    let mut shorter = payload.clone();
    let header = usize::from(u16::from_le_bytes([payload[2], payload[3]]));
    shorter.drain(header - 8..header);
    shorter[2..4].copy_from_slice(&(header as u16 - 8).to_le_bytes());
    let shorter = tables::shift(DIALOG, &shorter, at(1), 5).unwrap();
    // The row is another's now.
    let mut anothers = dialog.clone();
    anothers.counted[0].key = profile(1).as_bytes().to_vec();
    let mut payload = Vec::new();
    anothers.encode(&mut payload);
    for payload in [restarted, shorter, payload] {
        let meta = RowMeta::default();
        let row_of_it = all[0].insert(DIALOG, b"x", &[&payload], &[], meta);
        assert!(Dialogs(&mut all[0]).end(row_of_it.unwrap()).is_some());
        assert_eq!(Balancer(&mut all[0]).live(row), Some(1));
    }
    assert_eq!(Dialogs(&mut all[0]).end(one), Some(dialog));
    assert_eq!(Balancer(&mut all[0]).live(row), Some(0));
    settle(&arena, &mut all);
}

#[test]
fn what_expires_is_given_back() {
    let arena = arena(16 << 20);
    let mut all = everybody(&arena);
    // A domain, a user, a destination and a profile.
    let rows: Vec<RowRef> = (0..4)
        .map(|n| {
            Balancer(&mut all[0])
                .ensure(&profile(n), &Resource::default())
                .unwrap()
        })
        .collect();
    let counts: Vec<CountIn> = rows.iter().copied().map(unlimited).collect();
    let mut dialog = call(1);
    dialog.answer_until = Some(at(10).into());
    Dialogs(&mut all[1]).create(dialog, &counts).unwrap();
    let too_many = [counts[0], counts[1], counts[2], counts[3], counts[0]];
    let refused = Dialogs(&mut all[1]).create(call(2), &too_many);
    assert_eq!(refused, Err(CreateError::NoResource { nth: 4 }));
    let live = |p: &mut Participant| {
        rows.iter()
            .map(|r| Balancer(p).live(*r).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(live(&mut all[0]), [1; 4]);
    let mut sweep = tables::Sweep::default();
    for _ in 0..8 {
        let mut due = Vec::new();
        sweep.step(&mut all[1], at(11), |_, _| (), |row| due.push(row));
        for row in due {
            Dialogs(&mut all[1]).end(row);
        }
    }
    assert_eq!(live(&mut all[0]), [0; 4]);
    settle(&arena, &mut all);
}

/// Full: no new resource; those that are there are changed and count.
#[test]
fn when_full_only_new_resources_are_refused() {
    let arena = smallest();
    let mut all = everybody(&arena);
    let dialog = Balancer(&mut all[0])
        .ensure(&profile(0), &Resource::default())
        .unwrap();
    let counted = Dialogs(&mut all[0])
        .create(call(1), &[unlimited(dialog)])
        .unwrap();
    let mut rows = vec![dialog];
    let refused = loop {
        match Balancer(&mut all[0]).ensure(&profile(rows.len()), &Resource::default()) {
            Ok(row) => rows.push(row),
            Err(e) => break e,
        }
        all.iter_mut().for_each(Participant::quiescent);
    };
    assert_eq!(refused, BalancerError::Full);
    for &row in &rows {
        let changed = Balancer(&mut all[0]).update(row, |r| r.condition.health = Health::Up);
        assert_eq!(changed.map(|r| r.condition.health), Ok(Health::Up));
        all.iter_mut().for_each(Participant::quiescent);
    }
    assert!(Dialogs(&mut all[0]).end(counted).is_some());
    for row in rows {
        assert_eq!(Balancer(&mut all[0]).remove(row, at(1)), Ok(Removal::Gone));
        all.iter_mut().for_each(Participant::quiescent);
    }
    settle(&arena, &mut all);
}

#[test]
fn garbage_is_no_resource_and_is_replaced() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let mut good = [0; 120];
    good[..5].copy_from_slice(&[1, 4, 120, 0, 1]);
    for len in 0..=good.len() {
        let key = profile(len);
        let meta = RowMeta::default();
        let row = p
            .insert(BALANCER, key.as_bytes(), &[&good[..len]], &[], meta)
            .unwrap();
        let mut balancer = Balancer(&mut p);
        assert_eq!(balancer.find(&key), None);
        assert_eq!(balancer.live(row), None, "no cells");
        let row = balancer.ensure(&key, &Resource::default()).unwrap();
        assert_eq!(balancer.live(row), Some(0));
    }
}

/// Four who race for ten places: never more than ten at once, all places taken in the end.
#[test]
fn a_limit_is_never_exceeded() {
    let arena = arena(16 << 20);
    let row = Balancer(&mut online(&arena, 0))
        .ensure(&profile(0), &Resource::default())
        .unwrap();
    let now_live = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for id in 0..SLOTS {
            let (arena, now_live) = (arena.clone(), &now_live);
            scope.spawn(move || {
                let mut p = online(&arena, id);
                let mut mine = Vec::new();
                for n in 0..3000 {
                    let limit = Some(10);
                    let count = CountIn {
                        resource: row,
                        limit,
                    };
                    let dialog = call(u32::from(id) << 16 | n);
                    match Dialogs(&mut p).create(dialog, &[count]) {
                        Ok(row) => {
                            let live = now_live.fetch_add(1, Ordering::SeqCst) + 1;
                            assert!(live <= 10, "{live}");
                            mine.push(row);
                        }
                        Err(CreateError::OverLimit { nth: 0 }) => {}
                        Err(e) => panic!("{e:?}"),
                    }
                    if n % 3 == 0
                        && let Some(row) = mine.pop()
                    {
                        now_live.fetch_sub(1, Ordering::SeqCst);
                        assert!(Dialogs(&mut p).end(row).is_some());
                    }
                    p.quiescent();
                }
                for row in mine {
                    now_live.fetch_sub(1, Ordering::SeqCst);
                    assert!(Dialogs(&mut p).end(row).is_some());
                }
                p.offline();
            });
        }
    });
    let mut all = everybody(&arena);
    assert_eq!(Balancer(&mut all[0]).live(row), Some(0));
    settle(&arena, &mut all);
}

#[derive(Clone, Debug)]
enum Op {
    Create(u32, Vec<usize>, u64),
    Confirm(u32),
    Fork(u32),
    End(u32),
    Expire,
    Change(usize),
    Remove(usize),
    /// The participant dies and is recovered by an heir of the same number.
    Die,
}

fn op() -> impl Strategy<Value = Op> {
    let calls = 0..12u32;
    prop_oneof![
        5 => (calls.clone(), prop::collection::vec(0..4usize, 0..5), 1..6u64)
            .prop_map(|(call, resources, limit)| Op::Create(call, resources, limit)),
        2 => calls.clone().prop_map(Op::Confirm),
        1 => calls.clone().prop_map(Op::Fork),
        3 => calls.prop_map(Op::End),
        1 => Just(Op::Expire),
        1 => (0..4usize).prop_map(Op::Change),
        1 => (0..4usize).prop_map(Op::Remove),
        1 => Just(Op::Die),
    ]
}

/// A dialog of the model: its row, whether it is early, what it counts in.
#[derive(Clone, Debug)]
struct Counted {
    row: RowRef,
    early: bool,
    fork: bool,
    in_: Vec<RowRef>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn counts_equal_a_recount(ops in prop::collection::vec((0..SLOTS, op()), 1..100)) {
        let arena = arena(16 << 20);
        let mut all = everybody(&arena);
        let mut model: Vec<(u32, Counted)> = Vec::new();
        let rows = |all: &mut Vec<Participant>| -> Vec<RowRef> {
            (0..4).map(|n| Balancer(&mut all[0]).ensure(&profile(n), &Resource::default()).unwrap()).collect()
        };
        for (who, op) in ops {
            all.iter_mut().for_each(Participant::quiescent);
            let resources = rows(&mut all);
            let live = |row: RowRef, model: &[(u32, Counted)]| {
                model.iter().flat_map(|(_, c)| &c.in_).filter(|r| **r == row).count() as u64
            };
            let p = &mut all[usize::from(who)];
            match op {
                Op::Create(n, of, limit) => {
                    let in_: Vec<RowRef> = of.iter().map(|n| resources[*n]).collect();
                    let counts: Vec<CountIn> = in_.iter().map(|r| CountIn { resource: *r, limit: Some(limit) }).collect();
                    let mut dialog = call(n);
                    dialog.answer_until = Some(at(10).into());
                    let exists = model.iter().any(|(m, c)| *m == n && !c.fork);
                    // A resource that is listed twice counts twice.
                    let over = in_.iter().any(|r| live(*r, &model) + in_.iter().filter(|s| *s == r).count() as u64 > limit);
                    match Dialogs(p).create(dialog, &counts) {
                        Ok(row) => {
                            prop_assert!(!exists && !over);
                            model.push((n, Counted { row, early: true, fork: false, in_ }));
                        }
                        Err(CreateError::Exists(_)) => prop_assert!(exists),
                        Err(CreateError::OverLimit { .. }) => prop_assert!(over),
                        Err(e) => prop_assert!(false, "{e:?}"),
                    }
                }
                Op::Confirm(n) => {
                    if let Some((_, c)) = model.iter_mut().find(|(m, c)| *m == n && !c.fork) {
                        Dialogs(p).confirm(c.row, b"callee", at(1), |_| ()).unwrap();
                        c.early = false;
                    }
                }
                Op::Fork(n) => {
                    let first = model.iter().find(|(m, c)| *m == n && !c.fork && !c.early).cloned();
                    if let Some((_, c)) = first {
                        let exists = model.iter().any(|(m, c)| *m == n && c.fork);
                        let done = Dialogs(p).fork(c.row, b"other", |_| ());
                        prop_assert_eq!(done.is_err(), exists);
                        if let Ok(row) = done {
                            model.push((n, Counted { row, fork: true, ..c }));
                        }
                    }
                }
                Op::End(n) => {
                    if let Some(at) = model.iter().rposition(|(m, _)| *m == n) {
                        let (_, c) = model.remove(at);
                        let state = Dialogs(p).end(c.row).map(|d| d.state);
                        prop_assert_eq!(state, Some(if c.early { DialogState::Early } else { DialogState::Confirmed }));
                        prop_assert!(Dialogs(p).end(c.row).is_none());
                    }
                }
                Op::Expire => {
                    for p in &mut all {
                        let mut due = Vec::new();
                        Dialogs(p).due(at(11), Cursor::default(), usize::MAX, |row| due.push(row));
                        for row in due {
                            Dialogs(p).end(row);
                        }
                    }
                    model.retain(|(_, c)| !c.early);
                }
                Op::Change(n) => {
                    Balancer(p).update(resources[n], |r| r.weight += 1).unwrap();
                }
                Op::Remove(n) => {
                    let done = Balancer(p).remove(resources[n], at(1)).unwrap();
                    let wanted = match live(resources[n], &model) {
                        0 => Removal::Gone,
                        live => Removal::Waiting(live),
                    };
                    prop_assert_eq!(done, wanted);
                }
                Op::Die => {
                    let id = ParticipantId(who);
                    // What it had in hand is lost; everybody else is where they were.
                    std::mem::forget(std::mem::replace(p, arena.participant(id)));
                    p.recover(id);
                    p.online();
                }
            }
            for row in rows(&mut all) {
                prop_assert_eq!(Balancer(&mut all[0]).live(row), Some(live(row, &model)));
            }
        }
        for (_, c) in model {
            prop_assert!(Dialogs(&mut all[0]).end(c.row).is_some());
        }
        for p in &mut all {
            Balancer(p).reap(Cursor::default(), usize::MAX);
        }
        settle(&arena, &mut all);
    }
}
