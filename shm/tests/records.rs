//! Records against a plain map: random operations by several participants in one thread, in a small arena that runs full.

mod common;

use std::collections::HashMap;

use common::{OTHER, TABLE, check, online, settle, smallest};
use shm::{AllocClass, Cursor, InsertError, Participant, ReplaceError, RowMeta, RowRef, TableId};
use stdx::{Instant, Rng};

#[derive(Clone, Debug, PartialEq)]
struct Expected {
    row: RowRef,
    payload: Vec<u8>,
    children: Vec<Vec<u8>>,
    flags: u8,
    expires_at: Option<Instant>,
}

type Model = HashMap<(TableId, Vec<u8>), Expected>;

fn verify(p: &Participant, table: TableId, key: &[u8], model: &Model) {
    let found = p.find(table, key, |r| {
        assert_eq!(r.key, key);
        let children = r.children.iter().map(|&c| p.block(c).to_vec()).collect();
        let found = Expected {
            row: r.row,
            payload: r.payload.to_vec(),
            children,
            flags: r.flags,
            expires_at: r.expires_at,
        };
        assert_eq!(p.with(r.row, |same| same.version), Some(r.version));
        found
    });
    assert_eq!(found.as_ref(), model.get(&(table, key.to_vec())));
}

fn bytes(rng: &mut Rng, most: u32) -> Vec<u8> {
    let len = rng.below(most);
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

#[derive(Default, Debug)]
struct Seen {
    full: u32,
    exists: u32,
    changed: u32,
    kept: u32,
}

fn run(seed: u64, operations: u32, keys: u32, biggest: u32) -> Seen {
    let arena = smallest(2);
    let empty = arena.usage();
    let mut participants = [online(&arena, 0), online(&arena, 1), online(&arena, 2)];
    let mut rng = Rng::new(seed);
    let mut model = Model::new();
    let mut seen = Seen::default();
    for _ in 0..operations {
        let table = if rng.below(4) == 0 { OTHER } else { TABLE };
        let key = format!("sip:user{}@example.com", rng.below(keys)).into_bytes();
        let p = &mut participants[rng.below(3) as usize];
        let payload = bytes(&mut rng, biggest);
        let meta = RowMeta {
            expires_at: (rng.below(2) == 0).then(|| Instant::from_nanos(rng.next_u64() >> 1)),
            flags: rng.next_u64() as u8,
        };
        let at = (table, key.clone());
        match rng.below(10) {
            0..4 => {
                let texts: Vec<Vec<u8>> = (0..rng.below(3))
                    .map(|_| bytes(&mut rng, biggest))
                    .collect();
                let blocks: Result<Vec<_>, _> = texts
                    .iter()
                    .map(|t| p.allocate(t.len(), AllocClass::New).map(|b| b.fill(&[t])))
                    .collect();
                let Ok(blocks) = blocks else {
                    seen.full += 1;
                    // Those that were allocated are freed with the failing insert.
                    continue;
                };
                let (head, tail) = payload.split_at(payload.len() / 3);
                let result = if rng.below(2) == 0 {
                    p.insert(table, &key, &[head, tail], &blocks, meta)
                } else {
                    match p.reserve(table, &key) {
                        Ok(reserved) => {
                            assert_eq!(
                                p.find(table, &key, |_| ()),
                                None,
                                "a reservation is no record"
                            );
                            p.publish(reserved, &key, &[head, tail], &blocks, meta)
                        }
                        Err(e) => {
                            // An insert frees its children; a reservation has none yet.
                            let _ = p
                                .insert(table, &key, &[], &blocks, meta)
                                .map(|_| panic!("reserve failed, insert did not"));
                            Err(e)
                        }
                    }
                };
                match result {
                    Ok(row) => {
                        assert!(!model.contains_key(&at));
                        let expected = Expected {
                            row,
                            payload,
                            children: texts,
                            flags: meta.flags,
                            expires_at: meta.expires_at,
                        };
                        model.insert(at, expected);
                    }
                    Err(InsertError::Exists { row, .. }) => {
                        assert_eq!(Some(row), model.get(&at).map(|e| e.row));
                        seen.exists += 1;
                    }
                    Err(InsertError::Full) => {
                        assert!(!model.contains_key(&at));
                        seen.full += 1;
                    }
                    Err(e) => panic!("{e}"),
                }
            }
            4..7 => {
                if let Some(expected) = model.get_mut(&at) {
                    let (version, children) = p
                        .find(table, &key, |r| (r.version, r.children.to_vec()))
                        .expect("in the model");
                    let kept = children.len().min(rng.below(3) as usize);
                    seen.kept += kept as u32;
                    let new = p
                        .replace(expected.row, version, &[&payload], &children[..kept], meta)
                        .unwrap_or_else(|e| panic!("an update of {} bytes: {e}", payload.len()));
                    assert_eq!(p.find(table, &key, |r| r.version), Some(new));
                    assert_eq!(
                        p.replace(expected.row, version, &[&payload], &[], meta),
                        Err(ReplaceError::Changed),
                        "the version from before"
                    );
                    seen.changed += 1;
                    expected.children.truncate(kept);
                    *expected = Expected {
                        payload,
                        flags: meta.flags,
                        expires_at: meta.expires_at,
                        ..expected.clone()
                    };
                }
            }
            7..9 => {
                if let Some(old) = model.remove(&at) {
                    assert!(p.remove(old.row, None));
                    assert!(!p.remove(old.row, None));
                    assert_eq!(p.with(old.row, |_| ()), None);
                }
            }
            _ => participants.iter_mut().for_each(Participant::quiescent),
        }
        verify(&participants[0], table, &key, &model);
    }
    assert_eq!(
        arena.live_rows(TABLE) + arena.live_rows(OTHER),
        model.len() as u64
    );
    for (table, key) in model.keys() {
        verify(&participants[1], *table, key, &model);
    }
    let mut walked = 0;
    participants[0].rows(TABLE, |_| walked += 1);
    participants[0].rows(OTHER, |_| walked += 1);
    assert_eq!(walked, model.len());
    check(&arena, false);
    settle(&mut participants);
    for p in &participants {
        // Children that were allocated when the next one was Full: dropped as plain `Block`s, so theirs is a death's way.
        assert_eq!(p.limbo_len(), 0);
    }
    drop(participants);
    let mut participants = common::recover_all(&arena, 0..3);
    settle(&mut participants);
    check(&arena, true);
    let usage = arena.usage();
    let blocks: u64 = usage
        .blocks
        .iter()
        .map(|&(size, n)| u64::from(size) * n)
        .sum();
    let of_tables: u64 = usage.tables.iter().map(|t| t.body_bytes).sum();
    assert_eq!(of_tables, blocks, "every block is a table's");
    let live: Vec<u64> = usage.tables.iter().map(|t| t.live).collect();
    let rows: Vec<u64> = usage.tables.iter().map(|t| t.rows).collect();
    assert_eq!(live, [arena.live_rows(TABLE), arena.live_rows(OTHER)]);
    assert_eq!(live, rows);
    for (_, old) in model.drain() {
        assert!(participants[2].remove(old.row, None));
    }
    settle(&mut participants);
    check(&arena, true);
    assert_eq!(arena.usage().bytes_used, empty.bytes_used, "nothing leaks");
    seen
}

#[test]
fn random_operations_agree_with_a_map() {
    for seed in 0..4 {
        let seen = run(seed, 6_000, 300, 600);
        assert!(
            seen.exists > 100 && seen.changed > 100 && seen.kept > 50,
            "{seen:?}"
        );
    }
}

#[test]
fn a_full_arena_refuses_new_records_and_nothing_else() {
    let seen = run(99, 12_000, 100_000, 6_000);
    assert!(seen.full > 100, "{seen:?}");
}

#[test]
fn updates_pass_when_new_records_are_refused() {
    let arena = smallest(2);
    let mut p = [online(&arena, 0), online(&arena, 1)];
    let meta = RowMeta::default();
    let mut rows = Vec::new();
    for n in 0.. {
        match p[n % 2].insert(
            TABLE,
            format!("key{n}").as_bytes(),
            &[&[n as u8; 310]],
            &[],
            meta,
        ) {
            Ok(row) => rows.push(row),
            Err(InsertError::Full) => break,
            Err(e) => panic!("{e}"),
        }
    }
    // Both run full, not only the one that met the end first.
    while let Ok(row) = p[0].insert(
        TABLE,
        format!("more{}", rows.len()).as_bytes(),
        &[&[1; 310]],
        &[],
        meta,
    ) {
        rows.push(row);
    }
    while let Ok(row) = p[1].insert(
        TABLE,
        format!("more{}", rows.len()).as_bytes(),
        &[&[1; 310]],
        &[],
        meta,
    ) {
        rows.push(row);
    }
    assert!(rows.len() > 1000, "{}", rows.len());
    for round in 0..3u8 {
        for (nth, &row) in rows.iter().enumerate() {
            // Not only by the one who inserted it.
            let p = &mut p[(nth + usize::from(round)) % 2];
            let version = p.with(row, |r| r.version).expect("nothing was removed");
            p.replace(row, version, &[&[round; 320]], &[], meta)
                .expect("updates pass");
            if nth % 64 == 0 {
                // A turn of every reactor.
                p.quiescent();
            }
            if nth % 64 == 1 {
                p.quiescent();
            }
        }
        p.iter_mut().for_each(Participant::quiescent);
        assert_eq!(
            p[0].insert(TABLE, b"new", &[&[0; 310]], &[], meta),
            Err(InsertError::Full)
        );
        p.iter_mut().for_each(Participant::quiescent);
    }
    for row in rows.drain(..) {
        assert!(p[0].remove(row, None));
    }
    settle(&mut p);
    p[1].insert(TABLE, b"new", &[&[0; 310]], &[], meta)
        .expect("there is room again");
    check(&arena, true);
}

#[test]
fn what_expires_goes_and_what_is_refreshed_stays() {
    let arena = smallest(1);
    let mut p = online(&arena, 0);
    let at = |s: u64| Some(Instant::from_nanos(s * 1_000_000_000));
    let mut rows = Vec::new();
    for n in 0..1000u64 {
        let meta = RowMeta {
            expires_at: at(n),
            flags: 0,
        };
        rows.push(
            p.insert(TABLE, &n.to_le_bytes(), &[b"x"], &[], meta)
                .expect("room"),
        );
    }
    // Every tenth is refreshed, every tenth and one is shortened.
    for n in (0..1000).step_by(10) {
        let version = p.with(rows[n], |r| r.version).expect("live");
        p.replace(
            rows[n],
            version,
            &[b"y"],
            &[],
            RowMeta {
                expires_at: at(2000),
                flags: 0,
            },
        )
        .expect("room");
        let version = p.with(rows[n + 1], |r| r.version).expect("live");
        p.replace(
            rows[n + 1],
            version,
            &[b"y"],
            &[],
            RowMeta {
                expires_at: at(1),
                flags: 0,
            },
        )
        .expect("room");
    }
    let mut gone = Vec::new();
    let mut next = Some(Cursor::default());
    while let Some(cursor) = next {
        next = p.expire(
            TABLE,
            Instant::from_nanos(500_000_000_000),
            cursor,
            100,
            |r| {
                gone.push(u64::from_le_bytes(r.key.try_into().expect("eight bytes")));
            },
        );
    }
    gone.sort_unstable();
    let expected: Vec<u64> = (0..1000)
        .filter(|n| n % 10 == 1 || (*n <= 500 && n % 10 != 0))
        .collect();
    assert_eq!(gone, expected);
    assert_eq!(arena.live_rows(TABLE), 1000 - expected.len() as u64);
    check(&arena, false);
}

#[test]
fn a_stale_reference_misses() {
    let arena = smallest(1);
    let mut p = online(&arena, 0);
    let old = p
        .insert(TABLE, b"a", &[b"1"], &[], RowMeta::default())
        .expect("room");
    assert_eq!(RowRef::unpack(old.pack()), old);
    assert!(p.remove(old, None));
    for _ in 0..4 {
        p.quiescent();
    }
    // Free rows queue first in, first out: go round the slab.
    let mut met = false;
    for n in 0..3000u32 {
        let row = p
            .insert(TABLE, &n.to_le_bytes(), &[b"2"], &[], RowMeta::default())
            .expect("room");
        met |= row.index == old.index;
        assert_ne!(row, old);
        assert_eq!(p.with(old, |_| ()), None);
        assert!(p.remove(row, None));
        p.quiescent();
    }
    assert!(met, "the row was used again");
    for word in [0, u64::MAX, 0x7fff_ffff_ffff, 1 << 33] {
        assert_eq!(p.with(RowRef::unpack(word), |_| ()), None);
    }
}

#[test]
fn too_long_is_said_and_leaks_nothing() {
    let arena = smallest(1);
    let mut p = online(&arena, 0);
    let child = p
        .allocate(100, AllocClass::New)
        .expect("room")
        .fill(&[b"child"]);
    assert_eq!(
        p.insert(TABLE, b"k", &[&[0; 70_000]], &[child], RowMeta::default()),
        Err(InsertError::TooLong)
    );
    assert_eq!(
        p.insert(TABLE, &[0; 5000], &[], &[], RowMeta::default()),
        Err(InsertError::TooLong)
    );
    drop(p.allocate(5000, AllocClass::New).expect("room"));
    let row = p
        .insert(TABLE, b"k", &[&[1; 60_000]], &[], RowMeta::default())
        .expect("room");
    assert_eq!(p.with(row, |r| r.payload.len()), Some(60_000));
    let reserved = p.reserve(TABLE, b"other").expect("room");
    drop(reserved);
    settle(std::slice::from_mut(&mut p));
    check(&arena, true);
}
