//! `dialog` against a list, from several participants; its names from both directions; full; garbage.

use std::net::SocketAddr;

use proptest::prelude::*;
use shm::{Cursor, Participant, RowMeta, RowRef};
use stdx::{Instant, Moment};
use tables::balancer::{Resource, ResourceKey, ResourceKind};
use tables::dialog::{
    ChangeError, Confirmed, CountIn, CountedBy, CreateError, Dialog, DialogId, DialogRow,
    DialogState, EndCause, Sender, Side, flag,
};
use tables::row::Header;
use tables::{Balancer, DIALOG, Dialogs};

use crate::world::{SLOTS, arena, at, everybody, online, settle, smallest};

fn id(n: u8) -> DialogId {
    DialogId([n; 16])
}

fn early(n: u8) -> Dialog {
    let call_id = format!("call {n}");
    let mut dialog = Dialog::new(id(n), call_id.as_bytes(), b"caller", at(0));
    dialog.answer_until = Some(at(180).into());
    dialog
}

#[test]
fn either_direction_finds_it_by_tags_and_by_id() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let mut dialogs = Dialogs(&mut p);
    let row = dialogs.create(early(1), &[]).unwrap();
    let find = |d: &Dialogs<'_>, from: &[u8], to: &[u8]| {
        let by_tags = d.find(b"call 1", from, to, |view, sender| (view.row, sender));
        let by_place = d.at_place(row.pack(), b"call 1", from, to, |view, sender| {
            (view.row, sender)
        });
        assert_eq!(by_tags, by_place);
        by_tags
    };
    // Early: the INVITE itself, and requests of both within the early dialog.
    assert_eq!(find(&dialogs, b"caller", b""), Some((row, Sender::Caller)));
    assert_eq!(find(&dialogs, b"caller", b"a"), Some((row, Sender::Caller)));
    assert_eq!(find(&dialogs, b"a", b"caller"), Some((row, Sender::Callee)));
    assert_eq!(find(&dialogs, b"a", b"b"), None);
    let confirm = |d: &mut Dialogs<'_>, tag: &[u8]| {
        d.confirm(row, tag, at(5), |dialog| {
            dialog.callee.target = b"sip:a@192.0.2.1".to_vec();
        })
    };
    assert_eq!(confirm(&mut dialogs, b"a"), Ok(Confirmed::Now));
    assert_eq!(confirm(&mut dialogs, b"a"), Ok(Confirmed::Already));
    assert_eq!(confirm(&mut dialogs, b"b"), Ok(Confirmed::Other));
    assert_eq!(find(&dialogs, b"caller", b"a"), Some((row, Sender::Caller)));
    assert_eq!(find(&dialogs, b"a", b"caller"), Some((row, Sender::Callee)));
    assert_eq!(find(&dialogs, b"caller", b"b"), None);
    // The other branch of the fork answered too.
    let fork = |d: &mut Dialogs<'_>| d.fork(row, b"b", |dialog| dialog.callee.cseq = 7);
    let second = fork(&mut dialogs).unwrap();
    assert_eq!(fork(&mut dialogs), Err(CreateError::Exists(second)));
    assert_eq!(
        find(&dialogs, b"caller", b"b"),
        Some((second, Sender::Caller))
    );
    assert_eq!(
        find(&dialogs, b"b", b"caller"),
        Some((second, Sender::Callee))
    );
    assert_eq!(find(&dialogs, b"caller", b"a"), Some((row, Sender::Caller)));
    let flags = dialogs.with(second, |view| view.header.flags.get());
    assert_eq!(flags, Some(flag::FORK));
    // Each ends by itself, once.
    let ended = dialogs.end(row).unwrap();
    assert_eq!(
        (ended.state, ended.confirmed_at),
        (DialogState::Confirmed, Some(at(5).into()))
    );
    assert_eq!(ended.callee.target, b"sip:a@192.0.2.1");
    assert!(dialogs.end(row).is_none());
    assert_eq!(find(&dialogs, b"caller", b"a"), None);
    assert_eq!(
        find(&dialogs, b"b", b"caller"),
        Some((second, Sender::Callee))
    );
    assert!(dialogs.end(second).is_some());
    let confirmed = dialogs.confirm(row, b"a", at(6), |_| ());
    assert_eq!(confirmed, Err(ChangeError::Gone));
}

#[test]
fn names_are_unique_and_no_two_calls_share_one() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let mut dialogs = Dialogs(&mut p);
    let row = dialogs.create(early(1), &[]).unwrap();
    assert_eq!(dialogs.create(early(1), &[]), Err(CreateError::Exists(row)));
    let mut same_id = early(2);
    same_id.id = id(1);
    assert_eq!(dialogs.create(same_id, &[]), Err(CreateError::Exists(row)));
    let mut with_nul = early(3);
    with_nul.call_id = b"call 1\0caller".to_vec();
    assert_eq!(dialogs.create(with_nul, &[]), Err(CreateError::Unusable));
    assert!(
        dialogs
            .find(b"call 1\0caller", b"", b"", |_, _| ())
            .is_none()
    );
    let mut long = early(4);
    long.call_id = vec![b'c'; 5000];
    assert_eq!(dialogs.create(long, &[]), Err(CreateError::Unusable));
}

/// The dialogs that something is to be done about.
fn due(p: &mut Participant, now: Instant) -> Vec<RowRef> {
    let mut rows = Vec::new();
    Dialogs(p).due(now, Cursor::default(), usize::MAX, |row| rows.push(row));
    rows
}

#[test]
fn a_dialog_is_due_when_its_time_has_come() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let row = Dialogs(&mut p).create(early(1), &[]).unwrap();
    assert_eq!(due(&mut p, at(179)), []);
    assert_eq!(due(&mut p, at(180)), [row]);
    let update = |p: &mut Participant, change: &dyn Fn(&mut Dialog)| {
        let done = Dialogs(p).update(row, |dialog| {
            change(dialog);
            (true, ())
        });
        assert_eq!(done, Ok(()));
    };
    Dialogs(&mut p).confirm(row, b"a", at(100), |_| ()).unwrap();
    assert_eq!(due(&mut p, at(1_000_000)), [], "no limit, no session timer");
    update(&mut p, &|d| d.duration_until = Some(at(7200)));
    update(&mut p, &|d| d.session_until = Some(at(1800).into()));
    assert_eq!(due(&mut p, at(1799)), []);
    assert_eq!(due(&mut p, at(1800)), [row]);
    update(&mut p, &|d| d.session_until = Some(at(9000).into()));
    update(&mut p, &|d| d.probe_at = Some(at(50)));
    assert_eq!(due(&mut p, at(50)), [row]);
    update(&mut p, &|d| d.probe_at = None);
    assert_eq!(due(&mut p, at(7199)), []);
    update(&mut p, &|d| {
        d.state = DialogState::Ending;
        d.ended_at = Some(at(90));
    });
    assert_eq!(due(&mut p, at(89)), []);
    assert_eq!(
        due(&mut p, at(90)),
        [row],
        "it stays until somebody ends it"
    );
    assert!(Dialogs(&mut p).end(row).is_some());
    assert_eq!(due(&mut p, at(1_000_000)), []);
}

/// What is left of an ended dialog counts nowhere, is found by its place, and goes by itself; a further one likewise.
#[test]
fn what_is_left_of_an_ended_dialog() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let row = Dialogs(&mut p).create(early(1), &[]).unwrap();
    let place = row.pack();
    Dialogs(&mut p).confirm(row, b"a", at(1), |_| ()).unwrap();
    let second = Dialogs(&mut p).fork(row, b"b", |_| ()).unwrap();
    let third = Dialogs(&mut p).fork(row, b"c", |_| ()).unwrap();
    assert!(Dialogs(&mut p).end_keeping(third, at(40)).is_some());
    // A copy of its 2xx makes no other one.
    let again = Dialogs(&mut p).fork(row, b"c", |_| ());
    assert!(matches!(again, Err(CreateError::Exists(_))), "{again:?}");
    let find = |p: &mut Participant, from: &[u8], to: &[u8]| {
        Dialogs(p).at_place(place, b"call 1", from, to, |view, sender| {
            (view.state, view.callee_tag().to_vec(), sender)
        })
    };
    for row in [row, second] {
        let ended = Dialogs(&mut p).end_keeping(row, at(40)).unwrap();
        assert_ne!(ended.state, DialogState::Ended);
        assert!(Dialogs(&mut p).end_keeping(row, at(40)).is_none());
    }
    for tag in [b"a", b"b"] {
        let left = (DialogState::Ended, tag.to_vec());
        assert_eq!(
            find(&mut p, b"caller", tag),
            Some((left.0, left.1.clone(), Sender::Caller))
        );
        assert_eq!(
            find(&mut p, tag, b"caller"),
            Some((left.0, left.1, Sender::Callee))
        );
    }
    assert_eq!(find(&mut p, b"caller", b"d"), None);
    // The same names may begin anew.
    let again = Dialogs(&mut p).create(early(1), &[]).unwrap();
    assert_ne!(again.pack(), place);
    assert!(Dialogs(&mut p).end(again).is_some());
    assert_eq!(due(&mut p, at(39)), []);
    assert!(find(&mut p, b"caller", b"a").is_some());
    assert_eq!(due(&mut p, at(40)), []);
    assert_eq!(find(&mut p, b"caller", b"a"), None, "gone with that look");
}

/// The same call may pass through us more than once; a copy of an INVITE makes no second dialog.
#[test]
fn passes_of_one_call_are_told_apart() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let pass = |n: u8| Dialog {
        origin: n.into(),
        ..Dialog::new(id(n), b"call 1", b"caller", at(0))
    };
    let rows: Vec<RowRef> = (0..8)
        .map(|n| Dialogs(&mut p).create(pass(n), &[]).unwrap())
        .collect();
    assert_eq!(
        Dialogs(&mut p).create(pass(5), &[]),
        Err(CreateError::Exists(rows[5]))
    );
    assert_eq!(
        Dialogs(&mut p).create(pass(9), &[]),
        Err(CreateError::Spiral)
    );
    for (n, &row) in (0..).zip(&rows) {
        let found =
            Dialogs(&mut p).at_place(row.pack(), b"call 1", b"x", b"caller", |view, _| view.id());
        assert_eq!(found, Some(id(n)));
    }
    // As after a restart: other rows, the same places.
    let moved: Vec<(Vec<u8>, Vec<u8>)> = {
        let mut moved = Vec::new();
        p.rows(DIALOG, |record| {
            moved.push((record.key.to_vec(), record.payload.to_vec()))
        });
        moved
    };
    let other = arena_of_another_boot();
    let mut q = online(&other, 0);
    for (key, payload) in moved.iter().rev() {
        q.insert(DIALOG, key, &[payload], &[], RowMeta::default())
            .unwrap();
    }
    for (n, &row) in (0..).zip(&rows) {
        let found =
            Dialogs(&mut q).at_place(row.pack(), b"call 1", b"caller", b"", |view, _| view.id());
        assert_eq!(found, Some(id(n)));
    }
}

fn arena_of_another_boot() -> shm::Arena {
    arena(17 << 20)
}

/// Full: no new dialog; those that are there are confirmed, changed and ended.
#[test]
fn when_full_only_new_dialogs_are_refused() {
    let arena = smallest();
    let mut all = everybody(&arena);
    let mut rows = Vec::new();
    let refused = loop {
        let call_id = format!("call {}", rows.len());
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&(rows.len() as u32).to_le_bytes());
        let mut dialog = Dialog::new(DialogId(bytes), call_id.as_bytes(), b"caller", at(0));
        dialog.caller.target = b"sip:caller@192.0.2.1:5060".to_vec();
        match Dialogs(&mut all[0]).create(dialog.clone(), &[]) {
            Ok(row) => rows.push(row),
            Err(e) => break e,
        }
        all.iter_mut().for_each(Participant::quiescent);
    };
    assert_eq!(refused, CreateError::Full);
    assert!(rows.len() > 100, "{}", rows.len());
    // Later there may be room: a confirmed dialog is longer, and its first block may be one that a new dialog fits.
    assert_eq!(
        Dialogs(&mut all[0]).fork(rows[0], b"other", |_| ()),
        Err(CreateError::Full)
    );
    for &row in &rows {
        let mut dialogs = Dialogs(&mut all[0]);
        let confirmed = dialogs.confirm(row, b"callee", at(1), |d| {
            // Still a block of the same class: one that grows out of it would need a slab of the reserve.
            d.callee.target = b"sip:b@192.0.2.2:5060".to_vec();
        });
        assert_eq!(confirmed, Ok(Confirmed::Now));
        all.iter_mut().for_each(Participant::quiescent);
    }
    for row in rows {
        assert!(Dialogs(&mut all[0]).end(row).is_some());
    }
    settle(&arena, &mut all);
    assert!(Dialogs(&mut all[0]).create(early(1), &[]).is_ok());
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1..=255u8, 0..max)
}

fn side() -> impl Strategy<Value = Side> {
    let texts = (bytes(40), bytes(80), bytes(80), bytes(200));
    (
        texts,
        any::<Option<SocketAddr>>(),
        any::<u32>(),
        any::<u32>(),
        any::<i32>(),
    )
        .prop_map(
            |((tag, uri, target, routes), address, listener, cseq, cseq_shift)| Side {
                tag,
                uri,
                target,
                routes,
                // A flow label is nothing that we send to.
                address: address.map(|address| match address {
                    SocketAddr::V6(v6) => {
                        std::net::SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into()
                    }
                    v4 => v4,
                }),
                listener,
                cseq,
                cseq_shift,
                invite_shift: cseq_shift.wrapping_add(1),
            },
        )
}

/// Zero is "none" in a row.
fn instant() -> impl Strategy<Value = Option<Instant>> {
    prop::option::of((1..u64::MAX).prop_map(Instant::from_nanos))
}

/// On both sides of the clock's zero.
fn moment() -> impl Strategy<Value = Option<Moment>> {
    let some = any::<i64>().prop_filter("none", |nanos| *nanos != 0);
    prop::option::of(some.prop_map(Moment::from_nanos))
}

prop_compose! {
    fn dialog()(
        (id, call_id, state, flags) in (any::<[u8; 16]>(), bytes(60), 0..3u8, any::<u32>()),
        (caller, callee) in (side(), side()),
        (created_at, confirmed_at, ended_at) in (any::<i64>(), moment(), instant()),
        (answer_until, duration_until, session_until, probe_at) in (moment(), instant(), moment(), instant()),
        (session_interval, session_min, probes_failed, end_code) in any::<(u32, u32, u16, u16)>(),
        (probe_ms, probes_max, seat) in any::<(u32, u16, u8)>(),
        (place, origin, transaction, session_wanted, cause) in any::<(u64, u64, u64, u32, u8)>(),
        (request_uri, domain, destination) in (bytes(60), bytes(30), bytes(60)),
        counted in prop::collection::vec((prop::option::of((any::<u32>(), 1..=u32::MAX)), bytes(60)), 0..5),
    ) -> Dialog {
        Dialog {
            id: DialogId(id),
            call_id,
            state: [DialogState::Early, DialogState::Confirmed, DialogState::Ending][usize::from(state)],
            flags,
            caller,
            callee,
            created_at: Moment::from_nanos(created_at),
            confirmed_at,
            ended_at,
            answer_until,
            duration_until,
            session_until,
            probe_at,
            session_interval,
            session_min,
            probe_ms,
            probes_max,
            seat,
            probes_failed,
            end_code,
            end_cause: EndCause::ALL.get(usize::from(cause)).copied(),
            transaction,
            session_wanted,
            place,
            origin,
            request_uri,
            domain,
            destination,
            counted: counted
                .into_iter()
                .map(|(row, key)| CountedBy {
                    row: row.map(|(index, generation)| RowRef { index, generation }),
                    key,
                })
                .collect(),
            unknown: vec![200, 2, 0, 1, 2],
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Create,
    Confirm(u8),
    Fork(u8),
    Update(u32),
    End,
    Find(u8, bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::Create),
        (0..3u8).prop_map(Op::Confirm),
        (0..3u8).prop_map(Op::Fork),
        any::<u32>().prop_map(Op::Update),
        Just(Op::End),
        (0..3u8, any::<bool>()).prop_map(|(tag, other)| Op::Find(tag, other)),
    ]
}

fn tag(n: u8) -> Vec<u8> {
    // Some sort before the caller's, some after it.
    [b"a".to_vec(), b"x".to_vec(), b"z".to_vec()][usize::from(n)].clone()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_is_read(dialog in dialog(), cut: prop::sample::Index, at: prop::sample::Index, byte: u8) {
        let arena = smallest();
        let mut p = online(&arena, 0);
        let mut payload = Vec::new();
        dialog.encode(&mut payload);
        let key = [&dialog.call_id[..], b"\0tag"].concat();
        let row = p.insert(DIALOG, &key, &[&payload], &[], RowMeta::default()).unwrap();
        let read = Dialogs(&mut p).with(row, |view| view.take());
        prop_assert_eq!(read.as_ref(), Some(&dialog));
        // Neither a part of it nor a changed one does any harm.
        let part = &payload[..cut.index(payload.len())];
        let row = p.insert(DIALOG, b"part", &[part], &[], RowMeta::default()).unwrap();
        Dialogs(&mut p).with(row, |view| view.take());
        let at = at.index(payload.len());
        payload[at] = byte;
        let row = p.insert(DIALOG, b"changed", &[&payload], &[], RowMeta::default()).unwrap();
        Dialogs(&mut p).with(row, |view| view.take());
        tables::shift(DIALOG, &payload, Instant::ZERO, -5);
    }

    #[test]
    fn what_moves_to_another_arena_keeps_all_that_means_something_there(dialog in dialog()) {
        let arena = smallest();
        let mut p = online(&arena, 0);
        let mut payload = Vec::new();
        dialog.encode(&mut payload);
        let shifted = tables::shift(DIALOG, &payload, at(100), 0).expect("a dialog");
        let key = [&dialog.call_id[..], b"\0tag"].concat();
        let row = p.insert(DIALOG, &key, &[&shifted], &[], RowMeta::default()).unwrap();
        let read = Dialogs(&mut p).with(row, |view| view.take());
        let mut wanted = dialog;
        wanted.transaction = 0;
        if wanted.state == DialogState::Early {
            // Its INVITE is gone: it was seen last then, or given up before.
            let seen = Moment::from(at(100));
            let over = wanted.answer_until.map_or(seen, |until| until.min(seen));
            wanted.answer_until = Some(over.max(wanted.created_at));
        }
        wanted.counted.iter_mut().for_each(|by| by.row = None);
        prop_assert_eq!(read, Some(wanted));
    }

    #[test]
    fn it_is_a_list(ops in prop::collection::vec((0..SLOTS, 0..4u8, op()), 1..80)) {
        let arena = arena(16 << 20);
        let mut all = everybody(&arena);
        // By call: the first dialog, then its forks.
        let mut model: [Vec<(RowRef, Dialog)>; 4] = Default::default();
        for (who, call, op) in ops {
            all.iter_mut().for_each(Participant::quiescent);
            let mut dialogs = Dialogs(&mut all[usize::from(who)]);
            let call_id = format!("call {call}").into_bytes();
            let known = &mut model[usize::from(call)];
            let first = known.iter().position(|(_, d)| d.flags & flag::FORK == 0);
            match op {
                Op::Create => {
                    let dialog = early(call);
                    let done = dialogs.create(dialog.clone(), &[]);
                    match first {
                        Some(at) => prop_assert_eq!(done, Err(CreateError::Exists(known[at].0))),
                        None => {
                            let row = done.unwrap();
                            known.push((row, Dialog { place: row.pack(), ..dialog }));
                        }
                    }
                }
                Op::Confirm(n) => {
                    let Some(first) = first else { continue };
                    let (row, dialog) = &mut known[first];
                    let done = dialogs.confirm(*row, &tag(n), at(9), |d| d.callee.cseq += 1).unwrap();
                    if dialog.state == DialogState::Early {
                        prop_assert_eq!(done, Confirmed::Now);
                        dialog.state = DialogState::Confirmed;
                        dialog.confirmed_at = Some(at(9).into());
                        dialog.callee.tag = tag(n);
                        dialog.callee.cseq += 1;
                    } else if dialog.callee.tag == tag(n) {
                        prop_assert_eq!(done, Confirmed::Already);
                    } else {
                        prop_assert_eq!(done, Confirmed::Other);
                    }
                }
                Op::Fork(n) => {
                    let Some(first) = first else { continue };
                    let (row, mut dialog) = known[first].clone();
                    // A further dialog is one that the first is not.
                    if dialog.callee.tag.is_empty() || dialog.callee.tag == tag(n) { continue }
                    let done = dialogs.fork(row, &tag(n), |_| ());
                    dialog.callee.tag = tag(n);
                    dialog.flags |= flag::FORK;
                    let there = known.iter().find(|(_, d)| d.flags & flag::FORK != 0 && d.callee.tag == tag(n));
                    match there {
                        Some((row, _)) => prop_assert_eq!(done, Err(CreateError::Exists(*row))),
                        None => known.push((done.unwrap(), dialog)),
                    }
                }
                Op::Update(cseq) => {
                    let Some((row, dialog)) = known.last_mut() else { continue };
                    dialog.caller.cseq = cseq;
                    prop_assert_eq!(dialogs.update(*row, |d| { d.caller.cseq = cseq; (true, ()) }), Ok(()));
                }
                Op::End => {
                    let Some((row, dialog)) = known.pop() else { continue };
                    prop_assert_eq!(dialogs.end(row), Some(dialog));
                    prop_assert_eq!(dialogs.end(row), None);
                }
                Op::Find(n, reverse) => {
                    let (callee, caller) = (tag(n), b"caller".to_vec());
                    let (from, to) = if reverse { (&callee, &caller) } else { (&caller, &callee) };
                    let sender = if reverse { Sender::Callee } else { Sender::Caller };
                    let exact = known.iter().find(|(_, d)| d.callee.tag == callee);
                    let wanted = match first.map(|at| &known[at]).filter(|(_, d)| d.callee.tag.is_empty()) {
                        Some(early) => Some(early),
                        None => first.map(|at| &known[at]).filter(|(_, d)| d.callee.tag == callee).or(exact),
                    };
                    let wanted = wanted.map(|(row, d)| (*row, d.clone(), sender));
                    let look = |view: tables::dialog::View<'_>, sender| (view.row, view.take(), sender);
                    prop_assert_eq!(&dialogs.find(&call_id, from, to, look), &wanted);
                    if let Some(first) = first {
                        let place = known[first].1.place;
                        prop_assert_eq!(&dialogs.at_place(place, &call_id, from, to, look), &wanted);
                    }
                }
            }
        }
        for (row, _) in model.into_iter().flatten() {
            prop_assert!(Dialogs(&mut all[0]).end(row).is_some());
        }
        settle(&arena, &mut all);
    }
}

/// What a restart carries over is known by the same place, and counts nowhere.
#[test]
fn what_is_carried_keeps_all_but_what_counts_it() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let resource = Balancer(&mut p)
        .ensure(
            &ResourceKey::of(ResourceKind::Profile, b"all"),
            &Resource::default(),
        )
        .unwrap();
    let counts = [CountIn {
        resource,
        limit: None,
    }];
    let dialog = Dialog {
        origin: 7,
        transaction: 8,
        session_wanted: 9,
        probes_max: 3,
        ..early(1)
    };
    let row = Dialogs(&mut p).create(dialog, &counts).unwrap();
    let payload = p.with(row, |record| record.payload.to_vec()).unwrap();
    let carried = tables::shift(DIALOG, &payload, at(100), 0).unwrap();
    let (before, _) = DialogRow::read(&payload).unwrap();
    let (after, _) = DialogRow::read(&carried).unwrap();
    assert_ne!(before.counted, after.counted);
    let nowhere = DialogRow {
        counted: after.counted,
        // A row of an INVITE that is long over.
        transaction: 0.into(),
        answer_until: 1_100_000_000_000.into(),
        ..before
    };
    assert_eq!(after, nowhere);
    assert!(after.counted.iter().all(|row| row.get() == 0));
    assert_eq!(after.place.get(), row.pack());
}

/// The clock of after a boot has another zero: most of what is told of a call is before that.
#[test]
fn times_mean_the_same_after_a_boot() {
    let mut up = early(1);
    (up.state, up.answer_until) = (DialogState::Confirmed, None);
    (up.created_at, up.confirmed_at) = (at(10).into(), Some(at(13).into()));
    (up.duration_until, up.probe_at) = (Some(at(3613)), Some(at(40)));
    up.session_until = Some(at(60).into());
    // Longer ago than the machine is up, and another half of an hour.
    let carried = after_boots(&up, &[(at(50), -4_650), (at(1_800), -1_900)]);
    let moment = |seconds: i64| Moment::from_nanos(seconds * 1_000_000_000);
    assert_eq!(carried[0].created_at, moment(-3_640));
    assert_eq!(carried[0].confirmed_at, Some(moment(-3_637)));
    assert_eq!(carried[0].session_until, Some(moment(-3_590)));
    assert_eq!(carried[1].created_at, moment(-5_540));
    assert_eq!(carried[1].confirmed_at, Some(moment(-5_537)));
    // What is to be done is due.
    assert_eq!(carried[0].probe_at, Some(Instant::from_nanos(1)));
    assert_eq!(carried[0].expires_at(), Some(Instant::ZERO));
    // It may go on for an hour, from its answer on.
    let next = after_boots(&up, &[(at(50), -1_100)]);
    assert_eq!(next[0].confirmed_at, Some(moment(-87)));
    assert_eq!(
        next[0].duration_until.map(Moment::from),
        Some(moment(3_513))
    );
}

/// A call that rings is over when it was seen last, and not when somebody looks.
#[test]
fn a_call_that_rings_is_due_since_it_was_seen() {
    let rings = early(1);
    assert_eq!(rings.answer_until, Some(at(180).into()));
    let moment = |seconds: i64| Some(Moment::from_nanos(seconds * 1_000_000_000));
    let over = |dialog: &Dialog, boots: &[(Instant, i64)]| {
        let carried = after_boots(dialog, boots);
        carried.iter().map(|d| d.answer_until).collect::<Vec<_>>()
    };
    assert_eq!(over(&rings, &[(at(50), 0)]), [moment(1_050)]);
    // A second snapshot before anybody has looked: it was seen last in the first one.
    let boots = [(at(50), -2_000), (at(20), -1_000)];
    assert_eq!(over(&rings, &boots), [moment(-950), moment(-1_950)]);
    // It would have been given up.
    assert_eq!(over(&rings, &[(at(1_000), -3_000)]), [moment(-1_820)]);
    // It has begun while the snapshot was taken.
    let late = Dialog {
        created_at: at(51).into(),
        ..early(1)
    };
    assert_eq!(over(&late, &[(at(50), -2_000)]), [moment(-949)]);
}

/// The dialog after each of these boots: when it was seen last before it, and how far the clock of after it is ahead, in seconds.
fn after_boots(dialog: &Dialog, boots: &[(Instant, i64)]) -> Vec<Dialog> {
    let arena = smallest();
    let mut p = online(&arena, 0);
    let mut payload = Vec::new();
    dialog.encode(&mut payload);
    let mut after = Vec::new();
    for (nth, (seen, seconds)) in boots.iter().enumerate() {
        payload = tables::shift(DIALOG, &payload, *seen, seconds * 1_000_000_000).unwrap();
        let key = format!("call\0{nth}");
        let meta = RowMeta::default();
        let row = p.insert(DIALOG, key.as_bytes(), &[&payload], &[], meta);
        let dialog = Dialogs(&mut p).with(row.unwrap(), |view| view.take());
        after.push(dialog.unwrap());
        // Changed, and written anew.
        payload.clear();
        after[nth].encode(&mut payload);
    }
    after
}

#[test]
fn what_is_left_of_a_call_is_none() {
    let mut dialog = early(1);
    let mut is_call = |state| {
        dialog.state = state;
        let mut payload = Vec::new();
        dialog.encode(&mut payload);
        tables::dialog::is_call(&payload)
    };
    assert!(is_call(DialogState::Early) && is_call(DialogState::Confirmed));
    assert!(is_call(DialogState::Ending) && !is_call(DialogState::Ended));
    assert!(!tables::dialog::is_call(b"no dialog"));
}
