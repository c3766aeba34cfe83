//! What has expired goes, whichever table it is in.

use shm::RowMeta;
use tables::{CONNECTION, Counter, KV, LOCATION, QUARANTINE, Sweep};

use crate::world::{arena, at, everybody, settle};

#[test]
fn every_table_is_swept_by_the_slot_whose_rows_they_are() {
    let arena = arena(16 << 20);
    let mut all = everybody(&arena);
    let tables = [LOCATION, KV, CONNECTION, QUARANTINE];
    for table in tables {
        for n in 0..10 {
            let meta = RowMeta {
                expires_at: (n > 0).then(|| at(n)),
                flags: 0,
            };
            let key = format!("key {n}");
            all[1]
                .insert(table, key.as_bytes(), &[b"x"], &[], meta)
                .unwrap();
        }
    }
    let mut sweep = Sweep::default();
    for _ in 0..10 {
        sweep.step(&mut all[0], at(5), |_, _| panic!("another slot's"), |_| ());
    }
    let mut gone = Vec::new();
    for _ in 0..10 {
        let all_gone = |table, record: shm::Record<'_>| gone.push((table, record.key.to_vec()));
        sweep.step(&mut all[1], at(5), all_gone, |_| ());
    }
    for table in tables {
        assert_eq!(
            gone.iter().filter(|(t, _)| *t == table).count(),
            5,
            "{table:?}"
        );
    }
    for counter in [
        Counter::BindingsExpired,
        Counter::KvExpired,
        Counter::ConnectionsExpired,
        Counter::QuarantineExpired,
    ] {
        assert_eq!(
            arena.counters().total(counter.cell()),
            5,
            "{}",
            counter.name()
        );
    }
    settle(&arena, &mut all);
}
