//! What has expired goes, whichever table it is in.

use shm::RowMeta;
use tables::{CONNECTION, Counter, DIALOG, KV, LOCATION, QUARANTINE, Sweep};

use crate::world::{arena, at, everybody, settle};

#[test]
fn every_table_is_swept_by_the_slot_whose_rows_they_are() {
    let arena = arena(16 << 20);
    let mut all = everybody(&arena);
    let tables = [LOCATION, DIALOG, KV, CONNECTION, QUARANTINE];
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
        sweep.step(&mut all[0], at(5), |_, _| panic!("another slot's"));
    }
    let mut gone = Vec::new();
    for _ in 0..10 {
        sweep.step(&mut all[1], at(5), |table, record| {
            gone.push((table, record.key.to_vec()))
        });
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
        Counter::DialogsExpired,
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
