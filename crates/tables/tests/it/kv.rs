//! `kv` against a map, among several participants; at the limits; full; contended.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shm::Cursor;
use stdx::Instant;
use tables::kv::{KV_KEY_MAX, KV_VALUE_MAX, KvError, KvVersion, Value};
use tables::{KV, Kv};

use crate::world::{SLOTS, arena, at, everybody, online, settle, smallest};

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Bytes(Vec<u8>),
    Integer(i64),
}

impl Content {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Bytes(bytes) => Value::Bytes(bytes),
            Self::Integer(n) => Value::Integer(*n),
        }
    }
}

impl From<Value<'_>> for Content {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
            Value::Integer(n) => Self::Integer(n),
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Get,
    Put(Content, Option<u64>),
    PutIfAbsent(Content, Option<u64>),
    /// With the version seen this many looks ago.
    CompareAndSet(usize, Content, Option<u64>),
    Add(i64, Option<u64>),
    Delete,
    DeleteVersion(usize),
    Sweep,
    Scan,
    Wait(u64),
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..600).prop_map(Content::Bytes),
        prop_oneof![any::<i64>(), -5..5i64].prop_map(Content::Integer),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let ttl = || prop::option::of(0..20u64);
    prop_oneof![
        3 => Just(Op::Get),
        4 => (content(), ttl()).prop_map(|(c, t)| Op::Put(c, t)),
        3 => (content(), ttl()).prop_map(|(c, t)| Op::PutIfAbsent(c, t)),
        3 => (0..3usize, content(), ttl()).prop_map(|(v, c, t)| Op::CompareAndSet(v, c, t)),
        4 => (prop_oneof![any::<i64>(), -5..5i64], ttl()).prop_map(|(n, t)| Op::Add(n, t)),
        2 => Just(Op::Delete),
        2 => (0..3usize).prop_map(Op::DeleteVersion),
        1 => Just(Op::Sweep),
        1 => Just(Op::Scan),
        2 => (0..10u64).prop_map(Op::Wait),
    ]
}

/// What a key leads to in the model, and until when.
type Model = BTreeMap<Vec<u8>, (Content, Option<Instant>, KvVersion)>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn it_is_a_map(ops in prop::collection::vec((0..SLOTS, 0..6u8, op()), 1..120)) {
        let arena = arena(16 << 20);
        let mut all = everybody(&arena);
        let mut model = Model::new();
        let mut seen: Vec<KvVersion> = Vec::new();
        let mut now = at(0);
        for (who, key, op) in ops {
            let key = format!("k{}:{key}", key % 2).into_bytes();
            all.iter_mut().for_each(shm::Participant::quiescent);
            let mut kv = Kv(&mut all[usize::from(who)]);
            let until = |ttl: Option<u64>, now: Instant| {
                ttl.map(|s| now + std::time::Duration::from_secs(s))
            };
            let current = |model: &Model, key: &[u8], now: Instant| {
                model.get(key).filter(|(_, until, _)| until.is_none_or(|u| u > now)).cloned()
            };
            let before = current(&model, &key, now);
            let version = |seen: &[KvVersion], back: usize| seen.iter().rev().nth(back).copied();
            match op {
                Op::Get => {
                    let got = kv.get(&key, now, |e| (Content::from(e.value), e.expires_at, e.version));
                    prop_assert_eq!(&got, &before);
                    seen.extend(got.map(|(_, _, version)| version));
                }
                Op::Put(content, ttl) => {
                    let version = kv.put(&key, content.value(), until(ttl, now), now).unwrap();
                    prop_assert!(!seen.contains(&version));
                    seen.push(version);
                    model.insert(key, (content, until(ttl, now), version));
                }
                Op::PutIfAbsent(content, ttl) => {
                    let done = kv.put_if_absent(&key, content.value(), until(ttl, now), now).unwrap();
                    prop_assert_eq!(done.is_some(), before.is_none());
                    if let Some(version) = done {
                        model.insert(key, (content, until(ttl, now), version));
                    }
                }
                Op::CompareAndSet(back, content, ttl) => {
                    let Some(expect) = version(&seen, back) else { continue };
                    let done = kv.compare_and_set(&key, expect, content.value(), until(ttl, now), now).unwrap();
                    prop_assert_eq!(done.is_some(), before.is_some_and(|(_, _, v)| v == expect));
                    if let Some(version) = done {
                        seen.push(version);
                        model.insert(key, (content, until(ttl, now), version));
                    }
                }
                Op::Add(delta, ttl) => {
                    let (wanted, until) = match &before {
                        None => (Ok(delta), until(ttl, now)),
                        Some((Content::Integer(n), until, _)) => (n.checked_add(delta).ok_or(KvError::Overflow), *until),
                        Some(_) => (Err(KvError::NotANumber), None),
                    };
                    prop_assert_eq!(kv.add(&key, delta, until, now), wanted);
                    if let Ok(sum) = wanted {
                        // An entry that expires at once has no version to be seen.
                        let version = kv.get(&key, Instant::ZERO, |e| e.version).unwrap();
                        model.insert(key, (Content::Integer(sum), until, version));
                    }
                }
                Op::Delete => {
                    prop_assert_eq!(kv.delete(&key, now), Ok(before.is_some()));
                    model.remove(&key);
                }
                Op::DeleteVersion(back) => {
                    let Some(expect) = version(&seen, back) else { continue };
                    let is_it = model.get(&key).is_some_and(|(_, _, v)| *v == expect);
                    // What has expired may have been swept.
                    if kv.delete_version(&key, expect) {
                        prop_assert!(is_it);
                        model.remove(&key);
                    } else {
                        prop_assert!(!is_it || before.is_none());
                    }
                }
                Op::Sweep => {
                    for p in &mut all {
                        p.expire(KV, now, Cursor::default(), usize::MAX, |_| ());
                    }
                    model.retain(|_, (_, until, _)| until.is_none_or(|u| u > now));
                }
                Op::Scan => {
                    let mut found = Vec::new();
                    let mut cursor = Some(Cursor::default());
                    while let Some(at) = cursor {
                        cursor = kv.scan(b"k1:", at, 700, now, |e| found.push(e.key.to_vec()));
                    }
                    found.sort();
                    let wanted: Vec<_> = model
                        .iter()
                        .filter(|(key, (_, until, _))| key.starts_with(b"k1:") && until.is_none_or(|u| u > now))
                        .map(|(key, _)| key.clone())
                        .collect();
                    prop_assert_eq!(found, wanted);
                }
                Op::Wait(seconds) => now += std::time::Duration::from_secs(seconds),
            }
        }
        settle(&arena, &mut all);
    }
}

#[test]
fn the_longest_fits_and_longer_does_not() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let mut kv = Kv(&mut p);
    let (key, value) = (vec![b'k'; KV_KEY_MAX], vec![7; KV_VALUE_MAX]);
    kv.put(&key, Value::Bytes(&value), None, at(0)).unwrap();
    assert!(
        kv.get(&key, at(0), |e| e.value == Value::Bytes(&value))
            .unwrap()
    );
    let long = vec![7; KV_VALUE_MAX + 1];
    assert_eq!(
        kv.put(b"k", Value::Bytes(&long), None, at(0)),
        Err(KvError::TooLong)
    );
    let long = vec![b'k'; KV_KEY_MAX + 1];
    assert_eq!(
        kv.put(&long, Value::Integer(1), None, at(0)),
        Err(KvError::TooLong)
    );
    assert_eq!(
        kv.put_if_absent(&long, Value::Integer(1), None, at(0)),
        Err(KvError::TooLong)
    );
    assert_eq!(kv.add(&long, 1, None, at(0)), Err(KvError::TooLong));
    assert_eq!(kv.delete(&long, at(0)), Ok(false));
}

#[test]
fn a_version_has_a_text() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let version = Kv(&mut p)
        .put(b"k", Value::Integer(1), None, at(0))
        .unwrap();
    assert_eq!(version.to_string().parse(), Ok(version));
    for text in ["", "-", "1", "1-", "x-1", "1-2-3"] {
        assert!(text.parse::<KvVersion>().is_err(), "{text}");
    }
}

#[test]
fn garbage_is_no_entry_and_is_overwritten() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    for (n, payload) in [
        &b""[..],
        b"\x01",
        &[1, 1, 24, 0, 0],
        &[9; 64],
        &[
            1, 7, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("k{n}").into_bytes();
        p.insert(KV, &key, &[payload], &[], shm::RowMeta::default())
            .unwrap();
        let mut kv = Kv(&mut p);
        assert!(kv.get(&key, at(0), |_| ()).is_none());
        assert!(
            kv.put_if_absent(&key, Value::Integer(5), None, at(0))
                .unwrap()
                .is_some()
        );
        assert_eq!(kv.add(&key, 2, None, at(0)), Ok(7));
    }
}

/// Full: no new key; what is there is overwritten, added to and deleted.
#[test]
fn when_full_only_new_keys_are_refused() {
    let arena = smallest();
    let mut all = everybody(&arena);
    let value = [7; 300];
    let mut count = 0u32;
    let refused = loop {
        let key = format!("key {count}").into_bytes();
        match Kv(&mut all[0]).put(&key, Value::Bytes(&value), None, at(0)) {
            Ok(_) => count += 1,
            Err(e) => break e,
        }
        all.iter_mut().for_each(shm::Participant::quiescent);
    };
    assert_eq!(refused, KvError::Full);
    assert!(count > 100, "{count}");
    for n in 0..count {
        let key = format!("key {n}").into_bytes();
        let mut kv = Kv(&mut all[0]);
        kv.put(&key, Value::Bytes(&[8; 300]), None, at(0)).unwrap();
        kv.put(&key, Value::Integer(1), None, at(0)).unwrap();
        assert_eq!(kv.add(&key, 1, None, at(0)), Ok(2));
        all.iter_mut().for_each(shm::Participant::quiescent);
    }
    assert_eq!(
        Kv(&mut all[0]).add(b"new", 1, None, at(0)),
        Err(KvError::Full)
    );
    for n in 0..count {
        let key = format!("key {n}").into_bytes();
        assert_eq!(Kv(&mut all[0]).delete(&key, at(0)), Ok(true));
    }
    settle(&arena, &mut all);
    Kv(&mut all[0])
        .put(b"new", Value::Bytes(&value), None, at(0))
        .unwrap();
}

#[test]
fn no_addition_is_lost_among_threads() {
    let arena = arena(16 << 20);
    let each = 2000;
    std::thread::scope(|scope| {
        for id in 0..SLOTS {
            let arena = arena.clone();
            scope.spawn(move || {
                let mut p = online(&arena, id);
                for n in 0..each {
                    let key = if n % 3 == 0 { &b"a"[..] } else { b"b" };
                    while Kv(&mut p).add(key, 1, None, at(0)) == Err(KvError::Busy) {}
                    p.quiescent();
                }
                p.offline();
            });
        }
    });
    let mut all = everybody(&arena);
    let mut total = 0;
    for key in [&b"a"[..], b"b"] {
        total += match Kv(&mut all[0]).get(key, at(0), |e| Content::from(e.value)) {
            Some(Content::Integer(n)) => n,
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(total, i64::from(SLOTS) * each);
    settle(&arena, &mut all);
}
