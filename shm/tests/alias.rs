//! Records with two names: found by both or by neither, each unique in its own space.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::{OTHER, TABLE, check, online, settle, smallest};
use shm::{InsertError, New, Participant, RowMeta, RowRef};
use stdx::Rng;

fn named<'a>(key: &'a [u8], alias: &'a [u8]) -> New<'a> {
    New {
        key,
        alias: Some(alias),
        payload: &[b"bytes"],
        ..New::default()
    }
}

fn by_alias(p: &Participant, alias: &[u8]) -> Option<RowRef> {
    p.find_alias(TABLE, alias, |r| {
        assert_eq!(r.alias, Some(alias));
        r.row
    })
}

fn by_key(p: &Participant, key: &[u8]) -> Option<RowRef> {
    p.find(TABLE, key, |r| r.row)
}

#[test]
fn both_names_lead_to_the_record_and_go_with_it() {
    let arena = smallest(1);
    let mut p = online(&arena, 0);
    let row = p.insert_new(TABLE, &named(b"key", b"alias")).expect("room");
    assert_eq!(
        (by_key(&p, b"key"), by_alias(&p, b"alias")),
        (Some(row), Some(row))
    );
    // The spaces are apart, and so are the tables.
    assert_eq!((by_key(&p, b"alias"), by_alias(&p, b"key")), (None, None));
    assert_eq!(p.find_alias(OTHER, b"alias", |_| ()), None);
    let version = p.with(row, |r| r.version).expect("live");
    p.replace(row, version, &[&[7; 700]], &[], RowMeta::default())
        .expect("room");
    let seen = p.find_alias(TABLE, b"alias", |r| (r.key.to_vec(), r.payload.len()));
    assert_eq!(seen, Some((b"key".to_vec(), 700)));
    check(&arena, false);
    assert!(p.remove(row, None));
    assert_eq!((by_key(&p, b"key"), by_alias(&p, b"alias")), (None, None));
    settle(std::slice::from_mut(&mut p));
    check(&arena, true);
}

#[test]
fn a_name_that_is_taken_is_refused_and_leaves_nothing() {
    let arena = smallest(1);
    let mut p = online(&arena, 0);
    let first = p.insert_new(TABLE, &named(b"a", b"1")).expect("room");
    assert_eq!(
        p.insert_new(TABLE, &named(b"a", b"2")),
        Err(InsertError::Exists {
            row: first,
            owner: 0
        })
    );
    assert_eq!(
        p.insert_new(TABLE, &named(b"b", b"1")),
        Err(InsertError::AliasTaken {
            row: first,
            owner: 0
        })
    );
    assert_eq!((by_key(&p, b"b"), by_alias(&p, b"2")), (None, None));
    // A key may be spelled like another record's alias.
    p.insert_new(TABLE, &named(b"1", b"a")).expect("room");
    p.insert_new(OTHER, &named(b"a", b"1")).expect("room");
    p.insert(TABLE, b"plain", &[], &[], RowMeta::default())
        .expect("room");
    assert_eq!(p.find(TABLE, b"plain", |r| r.alias.is_none()), Some(true));
    // An empty alias is one.
    p.insert_new(TABLE, &named(b"c", b"")).expect("room");
    assert!(matches!(
        p.insert_new(TABLE, &named(b"d", b"")),
        Err(InsertError::AliasTaken { .. })
    ));
    assert_eq!(
        p.insert_new(TABLE, &named(b"d", &[0; 5000])),
        Err(InsertError::TooLong)
    );
    settle(std::slice::from_mut(&mut p));
    check(&arena, true);
    let mut rows = Vec::new();
    p.rows(TABLE, |r| rows.push((r.row, r.alias.map(<[u8]>::to_vec))));
    assert_eq!(rows.len(), 4);
}

#[test]
fn a_reservation_holds_both_names_until_somebody_wants_one() {
    let arena = smallest(2);
    let mut p = [online(&arena, 0), online(&arena, 1)];
    let reserved = p[0].reserve_new(TABLE, b"k", Some(b"a")).expect("room");
    assert_eq!((by_key(&p[1], b"k"), by_alias(&p[1], b"a")), (None, None));
    let row = reserved.row();
    assert_eq!(p[0].publish_new(reserved, &named(b"k", b"a")), Ok(row));
    assert_eq!(by_alias(&p[1], b"a"), Some(row));
    assert!(p[1].remove(row, None));
    // Dropped, abandoned, and aborted by an inserter who shares only the alias.
    drop(p[0].reserve_new(TABLE, b"k", Some(b"a")).expect("room"));
    let reserved = p[0].reserve_new(TABLE, b"k", Some(b"a")).expect("room");
    p[0].abandon(reserved);
    let reserved = p[0].reserve_new(TABLE, b"k", Some(b"a")).expect("room");
    let other = p[1].insert_new(TABLE, &named(b"k2", b"a")).expect("room");
    assert_eq!(
        p[0].publish_new(reserved, &named(b"k", b"a")),
        Err(InsertError::AliasTaken {
            row: other,
            owner: 1
        })
    );
    assert_eq!(by_key(&p[0], b"k"), None);
    drop(p[0].reserve_new(TABLE, b"k", Some(b"b")).expect("room"));
    settle(&mut p);
    // What was dropped is swept by its owner.
    check(&arena, true);
    assert_eq!(arena.live_rows(TABLE), 1);
}

/// All want one of few keys and one of few aliases; nobody ever sees two records with one name, or half a record.
#[test]
fn names_stay_unique_under_contention() {
    const THREADS: u16 = 4;
    let arena = smallest(THREADS);
    let empty = arena.usage().bytes_used;
    let inserted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let (arena, inserted) = (&arena, &inserted);
            scope.spawn(move || {
                let mut p = online(arena, id);
                let mut rng = Rng::new(900 + u64::from(id));
                for _ in 0..12_000 {
                    let key = [rng.below(4) as u8];
                    let alias = [rng.below(4) as u8, 1];
                    match rng.below(4) {
                        0 => {
                            if p.insert_new(TABLE, &named(&key, &alias)).is_ok() {
                                inserted.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        1 => {
                            if let Some(row) = by_alias(&p, &alias) {
                                p.remove(row, None);
                            }
                        }
                        2 => {
                            if let Some((row, version)) =
                                p.find(TABLE, &key, |r| (r.row, r.version))
                            {
                                let _ =
                                    p.replace(row, version, &[&[3; 90]], &[], RowMeta::default());
                            }
                        }
                        _ => {
                            let mut seen = std::collections::HashSet::new();
                            if let Some(row) = by_key(&p, &key) {
                                seen.insert(row);
                            }
                            p.quiescent();
                        }
                    }
                }
            });
        }
    });
    assert!(inserted.load(Ordering::Relaxed) > 100);
    let mut all: Vec<_> = (0..THREADS).map(|id| online(&arena, id)).collect();
    check(&arena, false);
    settle(&mut all);
    check(&arena, true);
    let mut rows = Vec::new();
    all[0].rows(TABLE, |r| rows.push(r.row));
    for row in rows {
        all[1].remove(row, None);
    }
    settle(&mut all);
    check(&arena, true);
    assert_eq!(arena.usage().bytes_used, empty);
}
