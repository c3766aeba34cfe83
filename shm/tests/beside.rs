//! Deaths in the middle of each operation, beside a process that works on the same keys all the time: see `shm_testing::beside`.
//!
//! A sample, another one each time (`SHM_SEED` repeats it, and is printed); `SHM_EVERY_INSTRUCTION=1`: each of them, best with `--release`, as `cargo xtask
//! storm` does it. `SHM_BESIDE=name` for those operations only whose name has this in it.

mod common;

use common::operations::{RESOURCES, cells, counts, insert_counted, put, resource};
use common::{OTHER, TABLE, layout, online};
use shm::{
    AllocClass, Arena, BufferRef, Cursor, Layout, Mail, New, Participant, ParticipantId, RowMeta,
    RowRef, SlotId, Version,
};
use shm_testing::beside::{Dice, Operation, Rival, campaigns};
use stdx::Instant;

const KEYS: [&[u8]; 2] = [b"one", b"two"];
const COUNTED: [&[u8]; 2] = [b"counted one", b"counted two"];
/// Of either key.
const ALIAS: &[u8] = b"alias";
const LATE: Instant = Instant::from_nanos(2_000);
const DEAD: ParticipantId = ParticipantId(2);

fn arena() -> Arena {
    // Room for what waits while the stepped process holds everybody's grace periods up.
    let least = layout(0, 3).least_limit();
    let layout = Layout {
        limit: least + (2 << 20),
        ..layout(0, 3)
    };
    Arena::create(&layout, [7; 16]).expect("memory for a small arena")
}

fn prepare(arena: &Arena) {
    let mut p = online(arena, 1);
    RESOURCES.iter().for_each(|name| resource(&mut p, name));
    put(&mut p, TABLE, KEYS[0], 2);
    let pool = arena.rx(SlotId(0));
    (0..pool.count()).for_each(|n| pool.provide(n));
}

fn meta() -> RowMeta {
    RowMeta {
        expires_at: Some(Instant::from_nanos(1_000)),
        flags: 1,
    }
}

fn insert(p: &mut Participant, key: &[u8], alias: Option<&[u8]>) {
    let child = p.allocate(50, AllocClass::New).ok();
    let children: Vec<_> = child.map(|c| c.fill(&[&[1; 50]])).into_iter().collect();
    let new = New {
        key,
        alias,
        payload: &[key, &[7; 100]],
        children: &children,
        meta: meta(),
        counts: &[],
    };
    // There already, or no room: what was allocated is free again.
    let _ = p.insert_new(TABLE, &new);
}

fn reserve(p: &mut Participant, key: &[u8], alias: Option<&[u8]>, publish: bool) {
    let Ok(reserved) = p.reserve_new(TABLE, key, alias) else {
        return;
    };
    let new = New {
        key,
        alias,
        payload: &[b"reserved"],
        meta: meta(),
        ..New::default()
    };
    if publish {
        let _ = p.publish_new(reserved, &new);
    } else {
        p.abandon(reserved);
    }
}

fn see(p: &Participant, key: &[u8]) -> Option<(RowRef, Version)> {
    p.find(TABLE, key, |r| (r.row, r.version))
}

fn replace(p: &mut Participant, key: &[u8]) {
    let Some((row, version)) = see(p, key) else {
        return;
    };
    let child = p.allocate(200, AllocClass::Update).ok();
    let mut children: Vec<_> = child.map(|c| c.fill(&[&[2; 200]])).into_iter().collect();
    // Keeps one, as far as nobody has changed the record since.
    let kept = p.with(row, |r| r.children.first().copied()).flatten();
    children.extend(kept);
    let _ = p.replace(row, version, &[&[8; 300]], &children, meta());
}

fn remove(p: &mut Participant, key: &[u8]) {
    if let Some((row, _)) = see(p, key) {
        p.remove(row, None);
    }
}

fn remove_counted(p: &mut Participant, key: &[u8]) {
    let cells = cells(p);
    if let Some((row, version)) = see(p, key) {
        p.remove_counted(row, Some(version), &cells);
    }
}

fn expire(p: &mut Participant) {
    p.expire(TABLE, LATE, Cursor::default(), usize::MAX, |_| {});
}

/// Serves what others passed on to this slot.
fn receive(p: &mut Participant) {
    let me = SlotId(p.id().0);
    p.receive(|_, mail| {
        if let Mail::Serve(BufferRef { slot, index }) = mail {
            let pool = p.arena().rx(SlotId(slot));
            pool.begin(index, me);
            pool.done(index, me);
        }
    });
}

fn act(p: &mut Participant, dice: Dice<'_>) {
    let key = KEYS[dice(2) as usize];
    let counted = COUNTED[dice(2) as usize];
    match dice(15) {
        0 | 1 => insert(p, key, None),
        2 | 3 => insert(p, key, Some(ALIAS)),
        4 | 5 => replace(p, key),
        6 | 7 => remove(p, key),
        8 => reserve(p, key, Some(ALIAS), true),
        9 => reserve(p, key, None, false),
        10 => {
            let _ = insert_counted(p, counted, Some(1 + u64::from(dice(2))));
        }
        11 => remove_counted(p, counted),
        12 => expire(p),
        13 => {
            let _ = p.send(SlotId(0), Mail::Wake);
        }
        _ => {
            receive(p);
            p.find_alias(TABLE, ALIAS, |r| assert!(KEYS.contains(&r.key)));
            p.find(TABLE, key, |r| assert_eq!(r.key, key));
        }
    }
}

const RIVAL: Rival = Rival { act, check: counts };

/// Participant 2 died with a reservation, of a key that others want, and with a record that counts.
fn somebody_dies(p: &mut Participant) {
    let mut dead = p.arena().participant(DEAD);
    dead.recover(DEAD);
    if let Ok(reserved) = dead.reserve_new(TABLE, KEYS[1], Some(ALIAS)) {
        std::mem::forget(reserved);
    }
    let _ = insert_counted(&mut dead, COUNTED[1], None);
    std::mem::forget(dead);
}

const FIRST: &[u8] = KEYS[0];

const OPERATIONS: [Operation; 30] = [
    Operation::new("reserve", |p| {
        std::mem::forget(p.reserve_new(TABLE, FIRST, Some(ALIAS)));
    }),
    Operation::new("reserve and publish", |p| {
        reserve(p, FIRST, Some(ALIAS), true)
    })
    .before(warm_up),
    Operation::new("abandon", |p| reserve(p, FIRST, Some(ALIAS), false)).before(warm_up),
    Operation::new("insert", |p| insert(p, FIRST, None)).before(|p| {
        warm_up(p);
        remove(p, FIRST);
    }),
    Operation::new("insert into new slabs", |p| insert(p, FIRST, None)),
    Operation::new("insert with an alias", |p| insert(p, FIRST, Some(ALIAS))).before(|p| {
        warm_up(p);
        remove(p, FIRST);
    }),
    Operation::new("insert over a dead one's reservation", |p| {
        insert(p, KEYS[1], Some(ALIAS))
    })
    .before(somebody_dies),
    Operation::new("replace", |p| replace(p, FIRST)).before(|p| {
        warm_up(p);
        insert(p, FIRST, None);
    }),
    Operation::new("remove", |p| remove(p, FIRST)).before(|p| insert(p, FIRST, None)),
    Operation::new("remove with an alias", |p| remove(p, FIRST)).before(|p| {
        remove(p, FIRST);
        insert(p, FIRST, Some(ALIAS));
    }),
    Operation::new("expire", expire).before(|p| KEYS.iter().for_each(|k| insert(p, k, None))),
    Operation::new("insert counted", |p| {
        let _ = insert_counted(p, COUNTED[0], None);
    })
    .before(|p| {
        warm_up(p);
        remove_counted(p, COUNTED[0]);
    }),
    Operation::new("insert at the limit", |p| {
        let _ = insert_counted(p, COUNTED[0], Some(1));
    })
    .before(|p| remove_counted(p, COUNTED[0])),
    Operation::new("remove counted", |p| remove_counted(p, COUNTED[0])).before(|p| {
        let _ = insert_counted(p, COUNTED[0], None);
    }),
    Operation::new("make a resource and remove it", |p| {
        let name = b"resource of mine";
        if let Some(row) = p.find(OTHER, name, |r| r.row) {
            p.remove(row, None);
        } else if let Ok(cells) = p.allocate_cells() {
            let _ = p.insert(OTHER, name, &[b"resource"], &[cells], RowMeta::default());
        }
    }),
    Operation::new("find", |p| {
        KEYS.iter().for_each(|key| {
            see(p, key);
        });
        p.find_alias(TABLE, ALIAS, |r| assert!(KEYS.contains(&r.key)));
    }),
    Operation::new("walk", |p| {
        p.rows(TABLE, |r| assert!(!r.key.is_empty()));
    }),
    Operation::new("allocate and free children", |p| {
        let block = |n| p.allocate(n, AllocClass::New).map(|b| b.freeze());
        let blocks: Vec<_> = [60, 200].into_iter().flat_map(block).collect();
        p.free_children(&blocks);
    })
    .before(warm_up),
    Operation::new("quiescent", |p| (0..3).for_each(|_| p.quiescent())).before(|p| {
        KEYS.iter().for_each(|k| remove(p, k));
    }),
    Operation::new("offline and online", |p| {
        p.offline();
        p.online();
    }),
    Operation::new("scrub", |p| {
        p.scrub(4);
    }),
    Operation::new("scrub everything", |p| {
        p.scrub(u32::MAX);
    }),
    Operation::new("recover another", |p| {
        p.recover(DEAD);
    })
    .before(somebody_dies),
    Operation::new("count", |p| {
        counts_at_all(p);
    }),
    Operation::new("send", |p| {
        let _ = p.send(SlotId(1), Mail::Wake);
    }),
    Operation::new("receive", receive),
    Operation::new("hold", |p| held(p, |_| {})).before(provide),
    Operation::new("pass", |p| {
        held(p, |index| {
            p.arena().rx(SlotId(0)).pass(index, SlotId(1));
            let _ = p.send(SlotId(1), Mail::Serve(BufferRef { slot: 0, index }));
        })
    })
    .before(provide),
    Operation::new("serve", |p| {
        held(p, |index| {
            p.arena().rx(SlotId(0)).begin(index, SlotId(0));
            p.arena().rx(SlotId(0)).done(index, SlotId(0));
        })
    })
    .before(provide),
    Operation::new("provide", provide),
];

/// Free lists are filled, slabs are taken, as far as there is room.
fn warm_up(p: &mut Participant) {
    for bytes in [60, 150, 200, 400] {
        drop(p.allocate(bytes, AllocClass::Update));
    }
    reserve(p, b"warm", None, false);
}

fn counts_at_all(p: &Participant) -> [i64; 2] {
    cells(p).map(|cells| p.cells_total(cells))
}

/// What nobody holds or has to serve goes to the kernel; what a dead one held is served first.
fn provide(p: &mut Participant) {
    let pool = p.arena().rx(SlotId(0));
    for BufferRef { slot, index } in p.arena().journal(SlotId(0), None) {
        let pool = p.arena().rx(SlotId(slot));
        pool.begin(index, SlotId(0));
        pool.done(index, SlotId(0));
    }
    let free: Vec<_> = pool.for_a_new_ring().collect();
    free.into_iter().for_each(|n| pool.provide(n));
}

/// The kernel, which the test plays, fills a buffer that it has, if any is left.
fn held(p: &Participant, then: impl FnOnce(u16)) {
    let pool = p.arena().rx(SlotId(0));
    let Some(index) = pool.for_a_new_ring().next() else {
        return;
    };
    // SAFETY: 64 bytes of a buffer that is the kernel's, which the test plays.
    unsafe { pool.buffer(index).write_bytes(1, 64) };
    pool.hold(index, 7);
    then(index);
}

#[test]
fn killed_beside_one_on_the_same_keys() {
    campaigns("shm", &OPERATIONS, &RIVAL, arena, prepare);
}
