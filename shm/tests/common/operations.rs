//! Operations that several tests die in.

use shm::{AllocClass, Block, Count, InsertError, New, Participant, RowMeta, RowRef, TableId};
use stdx::Instant;

use super::{OTHER, TABLE};

pub fn put(p: &mut Participant, table: TableId, key: &[u8], children: usize) -> RowRef {
    let children: Vec<_> = (0..children)
        .map(|n| {
            p.allocate(50, AllocClass::New)
                .expect("room")
                .fill(&[&[n as u8; 50]])
        })
        .collect();
    let until = RowMeta {
        expires_at: Some(Instant::from_nanos(1_000)),
        flags: 5,
    };
    p.insert(table, key, &[key, &[7; 100]], &children, until)
        .expect("room")
}

/// Its slabs are taken, its free lists are filled.
pub fn warm(p: &mut Participant) {
    for class in [60, 150, 200, 400] {
        drop(p.allocate(class, AllocClass::Update).expect("room"));
    }
    let reserved = p.reserve(TABLE, b"warm").expect("room");
    p.abandon(reserved);
}

pub fn resource(p: &mut Participant, name: &[u8]) {
    let cells = p.allocate_cells().expect("room");
    p.insert(OTHER, name, &[b"resource"], &[cells], RowMeta::default())
        .expect("room");
}

pub const RESOURCES: [&[u8]; 2] = [b"resource a", b"resource b"];

pub fn cells(p: &Participant) -> [Block; 2] {
    RESOURCES.map(|name| p.find(OTHER, name, |r| r.children[0]).expect("there"))
}

/// Counts in both resources; its payload says so.
pub fn insert_counted(
    p: &mut Participant,
    key: &[u8],
    limit: Option<u64>,
) -> Result<RowRef, InsertError> {
    let [a, b] = cells(p);
    let new = New {
        key,
        payload: &[b"counted"],
        counts: &[
            Count {
                cells: a,
                limit: None,
                of: None,
            },
            Count {
                cells: b,
                limit,
                of: None,
            },
        ],
        ..New::default()
    };
    p.insert_new(TABLE, &new)
}

/// The cells are what a recount of the records says.
pub fn counts(p: &Participant) -> Result<(), String> {
    let mut counted = 0;
    p.rows(TABLE, |r| counted += i64::from(r.payload == b"counted"));
    match cells(p).map(|c| p.cells_total(c)) {
        totals if totals == [counted; 2] => Ok(()),
        totals => Err(format!("cells say {totals:?}, a recount {counted}")),
    }
}
