//! Instructions of the operations on records: 10,000 of them in the table, keys and payloads as a binding has them.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use shm::{Arena, Layout, Participant, ParticipantId, RowMeta, RowRef, TableId, Version};

const TABLE: TableId = TableId(0);
const RECORDS: u32 = 10_000;

fn key(n: u32) -> String {
    format!("sip:user{n:06}@example.com")
}

fn prepared() -> Box<Participant> {
    let layout = Layout {
        rx_buffers: 8,
        ..Layout::new(64 << 20, 4, 2, 6)
    };
    let arena = Arena::heap(&layout, [3; 16]).expect("memory");
    let mut p = Box::new(arena.participant(ParticipantId(0)));
    p.online();
    for n in 0..RECORDS {
        p.insert(
            TABLE,
            key(n).as_bytes(),
            &[&[b'x'; 200]],
            &[],
            RowMeta::default(),
        )
        .expect("room");
    }
    for _ in 0..4 {
        p.quiescent();
    }
    p
}

fn with_record() -> (Box<Participant>, String, RowRef, Version) {
    let p = prepared();
    let key = key(RECORDS / 2);
    let (row, version) = p
        .find(TABLE, key.as_bytes(), |r| (r.row, r.version))
        .expect("prepared");
    (p, key, row, version)
}

#[library_benchmark]
#[bench::present(with_record())]
fn find(
    (p, key, ..): (Box<Participant>, String, RowRef, Version),
) -> (Box<Participant>, Option<usize>) {
    let found = p.find(TABLE, black_box(key.as_bytes()), |r| r.payload.len());
    (p, found)
}

#[library_benchmark]
#[bench::absent(prepared())]
fn find_absent(p: Box<Participant>) -> (Box<Participant>, Option<usize>) {
    let found = p.find(TABLE, black_box(b"sip:nobody@example.com"), |r| {
        r.payload.len()
    });
    (p, found)
}

#[library_benchmark]
#[bench::row(with_record())]
fn with(
    (p, _, row, _): (Box<Participant>, String, RowRef, Version),
) -> (Box<Participant>, Option<usize>) {
    let found = p.with(black_box(row), |r| r.payload.len());
    (p, found)
}

#[library_benchmark]
#[bench::new(prepared())]
fn insert(mut p: Box<Participant>) -> (Box<Participant>, bool) {
    let done = p
        .insert(
            TABLE,
            black_box(b"sip:carol@example.com"),
            &[&[b'y'; 200]],
            &[],
            RowMeta::default(),
        )
        .is_ok();
    (p, done)
}

#[library_benchmark]
#[bench::body(with_record())]
fn replace(
    (mut p, _, row, version): (Box<Participant>, String, RowRef, Version),
) -> (Box<Participant>, bool) {
    let done = p
        .replace(
            black_box(row),
            version,
            &[&[b'z'; 200]],
            &[],
            RowMeta::default(),
        )
        .is_ok();
    (p, done)
}

#[library_benchmark]
#[bench::record(with_record())]
fn remove(
    (mut p, _, row, _): (Box<Participant>, String, RowRef, Version),
) -> (Box<Participant>, bool) {
    let done = p.remove(black_box(row), None);
    (p, done)
}

#[library_benchmark]
#[bench::turn(prepared())]
fn quiescent(mut p: Box<Participant>) -> Box<Participant> {
    p.quiescent();
    p
}

library_benchmark_group!(
    name = records,
    benchmarks = [find, find_absent, with, insert, replace, remove, quiescent]
);
main!(library_benchmark_groups = records);
