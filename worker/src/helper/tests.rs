use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::time::Duration;

use control::{FromHelper, Restored};
use shm::{Arena, Layout, ParticipantId, RowMeta, audit};
use stdx::Instant;
use tables::dialog::{Dialog, DialogId, DialogState};
use tables::kv::{Kv, Value};
use tables::{Dialogs, KV, LOCATION, TABLES, TRANSACTION};

use super::{restore, snapshot};

fn arena(limit: u64, slots: u16) -> Arena {
    let layout = Layout {
        rx_buffers: 4,
        rx_buffer_bytes: 512,
        ..Layout::new(limit, slots, 2, TABLES)
    };
    let limit = limit.max(layout.least_limit());
    Arena::create(&Layout { limit, ..layout }, [3; 16]).expect("memory for an arena")
}

/// Numbers and texts, some for ever and some for an hour, written by all slots.
fn filled(records: u32) -> Arena {
    let arena = arena(64 << 20, 3);
    let now = os::now();
    let mut slots: Vec<_> = (0..3)
        .map(|n| arena.participant(ParticipantId(n)))
        .collect();
    slots.iter_mut().for_each(shm::Participant::online);
    for n in 0..records {
        let slot = &mut slots[n as usize % 3];
        let expires_at = n.is_multiple_of(2).then(|| now + Duration::from_secs(3600));
        let text = vec![b'x'; n as usize % 5000];
        let value = match n % 3 {
            0 => Value::Integer(n.into()),
            _ => Value::Bytes(&text),
        };
        let key = format!("key {n}");
        Kv(slot)
            .put(key.as_bytes(), value, expires_at, now)
            .expect("room");
    }
    // No snapshot has these.
    let meta = RowMeta::default();
    slots[0]
        .insert(TRANSACTION, b"branch", &[b"context"], &[], meta)
        .expect("room");
    let past = RowMeta {
        expires_at: Some(Instant::from_nanos(1)),
        flags: 0,
    };
    slots[0]
        .insert(KV, b"expired", &[b""], &[], past)
        .expect("room");
    arena
}

fn taken(arena: &Arena) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    let aux = ParticipantId(arena.layout().slots);
    let mut helper = arena.participant(aux);
    let written = snapshot::write(&mut helper, &mut file, true).expect("room on the disk");
    assert_eq!(written.bytes, file.metadata().expect("a file").len());
    file
}

#[track_caller]
fn restored(arena: &Arena, file: &File) -> Restored {
    match restore::restore(arena, file) {
        FromHelper::Restored(restored) => restored,
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_comes_back_under_its_name() {
    let before = filled(600);
    let file = taken(&before);
    for slots in [3, 1, 5] {
        let after = arena(64 << 20, slots);
        let done = restored(&after, &file);
        assert_eq!(
            (done.records, done.expired, done.unknown, done.no_room),
            (600, 0, 0, 0)
        );
        assert_eq!(done.moved, 0, "{slots} slots");
        assert!(done.exact);
        assert_eq!(audit(&after, true), []);
        assert_eq!(after.live_rows(TRANSACTION), 0);
        let now = os::now();
        let (mut old, mut new) = (
            before.participant(ParticipantId(4)),
            after.participant(ParticipantId(slots)),
        );
        old.online();
        new.online();
        for n in 0..600 {
            let key = format!("key {n}");
            let all = |e: tables::kv::Entry<'_>| {
                (
                    format!("{:?}", e.value),
                    e.version,
                    e.expires_at,
                    e.modified_at,
                )
            };
            let there = Kv(&mut old).get(key.as_bytes(), now, all);
            assert!(
                there.is_some() && there == Kv(&mut new).get(key.as_bytes(), now, all),
                "{key}"
            );
        }
    }
}

#[test]
fn what_does_not_fit_or_cannot_be_read_is_left_out_and_counted() {
    let before = filled(4_000);
    let mut p = before.participant(ParticipantId(0));
    p.online();
    p.insert(
        LOCATION,
        b"sip:odd@example.test",
        &[b"no bindings"],
        &[],
        RowMeta::default(),
    )
    .expect("room");
    p.offline();
    let file = taken(&before);
    let small = arena(0, 1);
    let done = restored(&small, &file);
    assert_eq!(done.unknown, 1);
    assert!(done.no_room > 0 && done.records > 0, "{done:?}");
    assert_eq!(done.records + done.no_room, 4_000);
    assert_eq!(audit(&small, true), []);
}

#[test]
fn of_a_file_that_is_not_whole_nothing_is_loaded() {
    let before = filled(300);
    let mut file = taken(&before);
    let mut bytes = Vec::new();
    file.rewind().expect("a file");
    file.read_to_end(&mut bytes).expect("a file");
    // In the last record, when everything before it would have been loaded.
    let at = bytes.len() - 200;
    bytes[at] ^= 1;
    let mut changed = tempfile::tempfile().expect("a temporary file");
    changed.write_all(&bytes).expect("room on the disk");
    let after = arena(64 << 20, 3);
    let usage = after.usage();
    let answer = restore::restore(&after, &changed);
    assert!(matches!(answer, FromHelper::Refused { .. }), "{answer:?}");
    assert_eq!(after.usage(), usage);
}

/// Somebody has to end them. What is left of others goes by itself.
#[test]
fn calls_whose_time_has_come_are_there_after_it() {
    let before = arena(64 << 20, 3);
    let mut p = before.participant(ParticipantId(0));
    p.online();
    let now = os::now();
    let call = |n: u8, state| {
        let mut dialog = Dialog::new(DialogId([n; 16]), &[b'a' + n], b"tag", now);
        dialog.state = state;
        dialog.answer_until = Some(now.into());
        (dialog.duration_until, dialog.ended_at) = (Some(now), Some(now));
        dialog
    };
    let states = [
        DialogState::Early,
        DialogState::Confirmed,
        DialogState::Ending,
    ];
    for (n, state) in (0..).zip(states) {
        let row = Dialogs(&mut p).create(call(n, state), &[]);
        row.expect("room for a call");
    }
    let over = Dialogs(&mut p).create(call(3, DialogState::Confirmed), &[]);
    let over = over.expect("room for a call");
    Dialogs(&mut p).end_keeping(over, now).expect("a call");
    p.offline();
    let after = arena(64 << 20, 3);
    let done = restored(&after, &taken(&before));
    assert_eq!((done.records, done.expired), (3, 0));
    let mut p = after.participant(ParticipantId(0));
    p.online();
    for (n, state) in (0..).zip(states) {
        let there = Dialogs(&mut p).find_id(DialogId([n; 16]), |view| view.state);
        assert_eq!(there, Some(state));
    }
}
