use shm::{Cursor, RowMeta};
use tables::dialog::DialogId;
use tables::media::{MediaCall, MediaError, Offerer};
use tables::{MEDIA, MediaCalls};

use crate::world::{SLOTS, arena, at, everybody, online, settle, smallest};

fn call(n: u8) -> MediaCall {
    MediaCall {
        set: "relay".into(),
        call_id: format!("{n}@example.com").into_bytes(),
        caller_tag: b"a".to_vec(),
        engine: None,
        offerer: Offerer::Caller,
        begun_at: at(1),
        owed_at: None,
    }
}

fn id(n: u8) -> DialogId {
    DialogId([n; 16])
}

#[test]
fn a_dialog_has_one_record_that_anybody_changes_and_its_maker_walks() {
    let arena = arena(16 << 20);
    let mut all = everybody(&arena);
    let row = MediaCalls(&mut all[0]).begin(id(1), &call(1)).unwrap();
    let again = MediaCalls(&mut all[1]).begin(id(1), &call(2)).unwrap();
    assert_eq!(row, again);
    let engine = "[2001:db8::1]:2223".parse().unwrap();
    MediaCalls(&mut all[1])
        .update(row, |call| {
            (call.engine, call.offerer) = (Some(engine), call.offerer.other());
            true
        })
        .unwrap();
    let expected = MediaCall {
        engine: Some(engine),
        offerer: Offerer::Callee,
        ..call(1)
    };
    assert_eq!(
        MediaCalls(&mut all[2]).find(id(1)),
        Some((row, expected.clone()))
    );
    let walked = |n: usize, all: &mut Vec<shm::Participant>| {
        let mut found = Vec::new();
        MediaCalls(&mut all[n]).walk(SLOTS, Cursor::default(), usize::MAX, |row, id, call| {
            found.push((row, id, call));
        });
        found
    };
    assert_eq!(walked(0, &mut all), [(row, id(1), expected)]);
    assert_eq!(walked(1, &mut all), []);
    assert!(MediaCalls(&mut all[1]).end(row));
    assert!(!MediaCalls(&mut all[0]).end(row));
    assert_eq!(MediaCalls(&mut all[0]).find(id(1)), None);
    assert_eq!(
        MediaCalls(&mut all[0]).update(row, |_| true),
        Err(MediaError::Gone)
    );
    settle(&arena, &mut all);
}

#[test]
fn garbage_is_no_record() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let mut good = [0; 48];
    good[..4].copy_from_slice(&[1, 0, 48, 0]);
    for len in 0..=good.len() {
        let key = [len as u8; 16];
        p.insert(MEDIA, &key, &[&good[..len]], &[], RowMeta::default())
            .unwrap();
        assert_eq!(MediaCalls(&mut p).find(DialogId(key)), None);
    }
}

#[test]
fn when_full_records_are_refused_and_those_there_can_be_changed_and_end() {
    let arena = smallest();
    let mut all = everybody(&arena);
    let mut rows = Vec::new();
    let refused = loop {
        let n = rows.len() as u64;
        let id = DialogId(u128::from(n).to_le_bytes());
        match MediaCalls(&mut all[0]).begin(id, &call(1)) {
            Ok(row) => rows.push(row),
            Err(error) => break error,
        }
        all.iter_mut().for_each(shm::Participant::quiescent);
    };
    assert_eq!(refused, MediaError::Full);
    let engine = "192.0.2.1:2223".parse().ok();
    let changed = MediaCalls(&mut all[0]).update(rows[0], |call| {
        call.engine = engine;
        true
    });
    assert_eq!(changed, Ok(()));
    for row in rows {
        assert!(MediaCalls(&mut all[1]).end(row));
    }
    settle(&arena, &mut all);
}
