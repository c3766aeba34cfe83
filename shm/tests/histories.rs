//! Processes on the same few keys, killed at random: is there an order that explains every answer? See `shm-testing`. `SHM_STORM_SECONDS=N` for longer, `SHM_SEED=N` for the same
//! choices again (not the same schedule).

mod common;

use std::time::Duration;

use common::{TABLE, smallest};
use shm::{InsertError, Participant, ReplaceError, RowMeta, RowRef, Version};
use shm_testing::hammer::{Hammer, PROCESSES, hammer};
use shm_testing::history::{Ask, Log, Told};

const KEYS: u8 = 3;

fn read(r: &shm::Record<'_>) -> i64 {
    i64::from_le_bytes(r.payload[..8].try_into().expect("eight bytes"))
}

fn seen(p: &Participant, key: u8) -> Option<(RowRef, Version, i64)> {
    p.find(TABLE, &[key], |r| (r.row, r.version, read(&r)))
}

fn get(p: &Participant, key: u8) -> Option<i64> {
    seen(p, key).map(|(_, _, value)| value)
}

fn act(p: &mut Participant, log: &Log, me: usize, random: &mut dyn FnMut(u32) -> u32) -> bool {
    let key = random(KEYS.into()) as u8;
    // No value twice: a swap by version is then one by value.
    let new = (i64::from(random(u32::MAX)) << 24) | i64::from(random(1 << 24));
    let body = [&new.to_le_bytes()[..], &vec![key; random(400) as usize]].concat();
    let meta = RowMeta::default();
    let found = seen(p, key);
    let told = match (found, random(8)) {
        (_, 0..2) => log.note(me, key, Ask::Get, || Told::Value(get(p, key))),
        (None, _) | (_, 2) => log.note(me, key, Ask::Insert(new), || {
            match p.insert(TABLE, &[key], &[&body], &[], meta) {
                Ok(_) => Told::Done(true),
                Err(InsertError::Exists { .. }) => Told::Done(false),
                Err(_) => Told::Refused,
            }
        }),
        (Some((row, version, old)), 3..6) => log.note(me, key, Ask::Swap(old, new), || {
            match p.replace(row, version, &[&body], &[], meta) {
                Ok(_) => Told::Done(true),
                Err(ReplaceError::Changed | ReplaceError::Gone) => Told::Done(false),
                Err(_) => Told::Refused,
            }
        }),
        (Some((row, version, old)), _) => log.note(me, key, Ask::Remove(old), || {
            Told::Done(p.remove(row, Some(version)))
        }),
    };
    told.is_some()
}

#[test]
fn an_order_explains_every_history() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse().ok());
    let seconds = number("SHM_STORM_SECONDS").unwrap_or(3);
    let seed = number("SHM_SEED").unwrap_or_else(|| std::process::id().into());
    println!("SHM_SEED={seed}");
    let work = Hammer {
        act,
        get,
        keys: KEYS,
    };
    let arena = smallest(PROCESSES as u16);
    match hammer(&arena, &work, Duration::from_secs(seconds), seed) {
        Ok(done) => println!(
            "{} operations, {} kills, 0 violations",
            done.operations, done.kills
        ),
        Err(wrong) => panic!("{wrong}"),
    }
}
