//! Processes on the same few keys of `kv`, killed at random: is there an order that explains every answer? See `shm-testing`. `SHM_STORM_SECONDS=N` for longer, `SHM_SEED=N` for the same
//! choices again (not the same schedule).

use std::time::Duration;

use shm::{Arena, Layout, Participant};
use shm_testing::hammer::{Hammer, PROCESSES, hammer};
use shm_testing::history::{Ask, Log, Told};
use stdx::Instant;
use tables::TABLES;
use tables::kv::{Entry, Kv, KvError, KvVersion, Value};

const NOW: Instant = Instant::from_nanos(1_000_000_000);
const KEYS: u8 = 3;

fn integer(entry: &Entry<'_>) -> i64 {
    match entry.value {
        Value::Integer(n) => n,
        Value::Bytes(bytes) => panic!("only integers are put: {bytes:?}"),
    }
}

/// `get` needs no more than a shared participant, `Kv` an exclusive one.
fn get(p: &Participant, key: u8) -> Option<i64> {
    let look = |r: shm::Record<'_>| {
        let at = r.payload.len() - 8;
        i64::from_le_bytes(r.payload[at..].try_into().expect("an integer at the end"))
    };
    p.find(tables::KV, &[key], look)
}

fn seen(p: &mut Participant, key: u8) -> Option<(i64, KvVersion)> {
    Kv(p).get(&[key], NOW, |e| (integer(&e), e.version))
}

fn told(result: Result<bool, KvError>) -> Told {
    result.map_or(Told::Refused, Told::Done)
}

fn act(p: &mut Participant, log: &Log, me: usize, random: &mut dyn FnMut(u32) -> u32) -> bool {
    let key = random(KEYS.into()) as u8;
    let name = [key];
    // No value twice: a change by version is then one by value.
    let new = (i64::from(random(u32::MAX)) << 24) | i64::from(random(1 << 24));
    let value = Value::Integer(new);
    let done = match random(8) {
        0 => log.note(me, key, Ask::Get, || Told::Value(seen(p, key).map(|s| s.0))),
        1 => log.note(me, key, Ask::Insert(new), || {
            told(
                Kv(p)
                    .put_if_absent(&name, value, None, NOW)
                    .map(|put| put.is_some()),
            )
        }),
        2 => log.note(me, key, Ask::Put(new), || {
            told(Kv(p).put(&name, value, None, NOW).map(|_| true))
        }),
        3 => log.note(me, key, Ask::Delete, || told(Kv(p).delete(&name, NOW))),
        4 | 5 => log.note(me, key, Ask::Add(new), || {
            let sum = Kv(p).add(&name, new, None, NOW);
            sum.map_or(Told::Refused, |sum| Told::Value(Some(sum)))
        }),
        _ => match seen(p, key) {
            Some((old, version)) => log.note(me, key, Ask::Swap(old, new), || {
                let set = Kv(p).compare_and_set(&name, version, value, None, NOW);
                told(set.map(|set| set.is_some()))
            }),
            None => log.note(me, key, Ask::Get, || Told::Value(seen(p, key).map(|s| s.0))),
        },
    };
    done.is_some()
}

#[test]
fn an_order_explains_every_history_of_kv() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse().ok());
    let seconds = number("SHM_STORM_SECONDS").unwrap_or(3);
    let seed = number("SHM_SEED").unwrap_or_else(|| std::process::id().into());
    println!("SHM_SEED={seed}");
    let layout = Layout {
        rx_buffers: 4,
        rx_buffer_bytes: 512,
        ..Layout::new(0, PROCESSES as u16, 2, TABLES)
    };
    let limit = layout.least_limit();
    let arena = Arena::create(&Layout { limit, ..layout }, [7; 16]).expect("memory");
    let work = Hammer {
        act,
        get,
        keys: KEYS,
    };
    match hammer(&arena, &work, Duration::from_secs(seconds), seed) {
        Ok(done) => println!(
            "{} operations, {} kills, 0 violations",
            done.operations, done.kills
        ),
        Err(wrong) => panic!("{wrong}"),
    }
}
