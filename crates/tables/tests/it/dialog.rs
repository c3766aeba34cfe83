//! `dialog` against a list, from several participants; its names from both directions; full; garbage.

use std::net::SocketAddr;

use proptest::prelude::*;
use shm::{Cursor, Participant, RowMeta, RowRef};
use stdx::Instant;
use tables::dialog::{
    ChangeError, Confirmed, CountedBy, CreateError, Dialog, DialogId, DialogState, Sender, Side,
    flag,
};
use tables::{DIALOG, Dialogs};

use crate::world::{SLOTS, arena, at, everybody, online, settle, smallest};

fn id(n: u8) -> DialogId {
    DialogId([n; 16])
}

fn early(n: u8) -> Dialog {
    let call_id = format!("call {n}");
    let mut dialog = Dialog::new(id(n), call_id.as_bytes(), b"caller", at(0));
    dialog.answer_until = Some(at(180));
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
        let by_id = d.find_in_route(id(1), b"call 1", from, to, |view, sender| {
            (view.row, sender)
        });
        assert_eq!(by_tags, by_id);
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
        (DialogState::Confirmed, Some(at(5)))
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

#[test]
fn a_dialog_goes_when_its_time_is_over() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let expire = |p: &mut Participant, now: Instant| {
        let mut gone = 0;
        p.expire(DIALOG, now, Cursor::default(), usize::MAX, |_| gone += 1);
        gone
    };
    let row = Dialogs(&mut p).create(early(1), &[]).unwrap();
    assert_eq!(expire(&mut p, at(179)), 0);
    let update = |p: &mut Participant, change: &dyn Fn(&mut Dialog)| {
        let done = Dialogs(p).update(row, |dialog| {
            change(dialog);
            (true, ())
        });
        assert_eq!(done, Ok(()));
    };
    Dialogs(&mut p).confirm(row, b"a", at(100), |_| ()).unwrap();
    assert_eq!(
        expire(&mut p, at(1_000_000)),
        0,
        "no limit, no session timer"
    );
    update(&mut p, &|d| d.duration_until = Some(at(7200)));
    update(&mut p, &|d| d.session_until = Some(at(1800)));
    assert_eq!(expire(&mut p, at(1799)), 0);
    update(&mut p, &|d| d.session_until = Some(at(9000)));
    assert_eq!(expire(&mut p, at(7199)), 0);
    update(&mut p, &|d| {
        d.state = DialogState::Ending;
        d.ended_at = Some(at(7199));
    });
    assert_eq!(expire(&mut p, at(7230)), 0);
    assert_eq!(expire(&mut p, at(7231)), 1);
    assert!(Dialogs(&mut p).with(row, |_| ()).is_none());
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
            },
        )
}

/// Zero is "none" in a row.
fn instant() -> impl Strategy<Value = Option<Instant>> {
    prop::option::of((1..u64::MAX).prop_map(Instant::from_nanos))
}

prop_compose! {
    fn dialog()(
        (id, call_id, state, flags) in (any::<[u8; 16]>(), bytes(60), 0..3u8, any::<u32>()),
        (caller, callee) in (side(), side()),
        (created_at, confirmed_at, ended_at) in (any::<u64>(), instant(), instant()),
        (answer_until, duration_until, session_until, probe_at) in (instant(), instant(), instant(), instant()),
        (session_interval, session_min, probes_failed, end_code) in any::<(u32, u32, u16, u16)>(),
        counted in prop::collection::vec((prop::option::of((any::<u32>(), 1..=u32::MAX)), bytes(60)), 0..5),
    ) -> Dialog {
        Dialog {
            id: DialogId(id),
            call_id,
            state: [DialogState::Early, DialogState::Confirmed, DialogState::Ending][usize::from(state)],
            flags,
            caller,
            callee,
            created_at: Instant::from_nanos(created_at),
            confirmed_at,
            ended_at,
            answer_until,
            duration_until,
            session_until,
            probe_at,
            session_interval,
            session_min,
            probes_failed,
            end_code,
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
        tables::shift(DIALOG, &payload, -5);
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
                        None => known.push((done.unwrap(), dialog)),
                    }
                }
                Op::Confirm(n) => {
                    let Some(first) = first else { continue };
                    let (row, dialog) = &mut known[first];
                    let done = dialogs.confirm(*row, &tag(n), at(9), |d| d.callee.cseq += 1).unwrap();
                    if dialog.state == DialogState::Early {
                        prop_assert_eq!(done, Confirmed::Now);
                        dialog.state = DialogState::Confirmed;
                        dialog.confirmed_at = Some(at(9));
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
                    prop_assert_eq!(&dialogs.find_in_route(id(call), &call_id, from, to, look), &wanted);
                }
            }
        }
        for (row, _) in model.into_iter().flatten() {
            prop_assert!(Dialogs(&mut all[0]).end(row).is_some());
        }
        settle(&arena, &mut all);
    }
}
