//! What is written is read; what was cut, changed or made by somebody else is refused as a whole.

use std::time::Duration;

use proptest::prelude::*;
use shm::{Image, RowRef, TableId};
use snapshot::{Clock, Encoder, Entry, FORMAT, Head, ReadError, Reader, Totals, check, crc32c};
use stdx::Instant;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    table: u8,
    row: (u32, u32),
    owner: u16,
    flags: u8,
    expires_at: Option<u64>,
    key: Vec<u8>,
    alias: Option<Vec<u8>>,
    payload: Vec<u8>,
    children: Vec<Vec<u8>>,
    cells: u64,
}

impl Owned {
    fn of(image: &Image<'_>) -> Self {
        Self {
            table: image.table.0,
            row: (image.row.index, image.row.generation),
            owner: image.owner,
            flags: image.flags,
            expires_at: image.expires_at.map(Instant::as_nanos),
            key: image.key.to_vec(),
            alias: image.alias.map(<[u8]>::to_vec),
            payload: image.payload.to_vec(),
            children: image.children.iter().map(|c| c.to_vec()).collect(),
            cells: image.cells,
        }
    }

    fn push_to(&self, encoder: &mut Encoder) {
        let children: Vec<&[u8]> = self.children.iter().map(Vec::as_slice).collect();
        encoder.push(&Image {
            table: TableId(self.table),
            row: RowRef {
                index: self.row.0,
                generation: self.row.1,
            },
            owner: self.owner,
            flags: self.flags,
            expires_at: self.expires_at.map(Instant::from_nanos),
            key: &self.key,
            alias: self.alias.as_deref(),
            payload: &self.payload,
            children: &children,
            cells: self.cells,
        });
    }
}

fn record(n: u32) -> Owned {
    Owned {
        table: (n % 3) as u8,
        row: (n, n % 7 + 1),
        owner: (n % 4) as u16,
        flags: n as u8,
        expires_at: n.is_multiple_of(2).then_some(u64::from(n) << 20),
        key: format!("user{n}@example.test").into_bytes(),
        alias: (n % 4 > 1).then(|| vec![7; n as usize % 4 * 5 - 10]),
        payload: vec![n as u8; n as usize % 90],
        children: (0..n % 3).map(|c| vec![c as u8; 11]).collect(),
        cells: u64::from(n % 3 > 1) << 1,
    }
}

fn head() -> Head {
    Head {
        clock: Clock {
            wall: Duration::from_nanos(1_790_000_000_123_456_789),
            monotonic: Instant::from_nanos(77_000_000_001),
            boot: *b"0123456789abcdef",
        },
        exact: true,
    }
}

fn file(records: &[Owned]) -> (Vec<u8>, Totals) {
    let mut encoder = Encoder::new(&head());
    let mut bytes = Vec::new();
    for record in records {
        record.push_to(&mut encoder);
        if encoder.waiting() > 300_000 {
            encoder
                .write_to(&mut bytes)
                .expect("a Vec takes everything");
        }
    }
    let totals = encoder.finish(&mut bytes).expect("a Vec takes everything");
    (bytes, totals)
}

fn read(bytes: &[u8]) -> Result<(Head, Vec<Owned>, u64), ReadError> {
    let mut reader = Reader::open(bytes)?;
    let (mut all, mut unknown) = (Vec::new(), 0);
    while reader.next(|entry| match entry {
        Entry::Record(image) => all.push(Owned::of(&image)),
        Entry::Unknown(records) => unknown += records,
    })? {}
    Ok((*reader.head(), all, unknown))
}

/// Writes checksums anew, as somebody would who changed a file on purpose, or a newer release.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let seed = crc32c(0, &bytes[..76]);
    bytes[76..80].copy_from_slice(&seed.to_le_bytes());
    let mut at = 80;
    while at + 20 <= bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four")) as usize;
        let end = (at + 20 + length).min(bytes.len());
        let crc = crc32c(crc32c(seed, &bytes[at..at + 16]), &bytes[at + 20..end]);
        bytes[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
    bytes
}

#[test]
fn many_records_over_several_chunks() {
    let records: Vec<Owned> = (0..20_000).map(record).collect();
    let (bytes, totals) = file(&records);
    assert_eq!(totals.records, 20_000);
    assert_eq!(totals.bytes, bytes.len() as u64);
    let (found, all, unknown) = read(&bytes).expect("whole");
    assert_eq!((found, unknown), (head(), 0));
    assert!(all == records);
    let mut seen = 0;
    let (_, summary) = check(&bytes[..], |_| seen += 1).expect("whole");
    assert_eq!(
        (summary.records, summary.bytes, seen),
        (20_000, totals.bytes, 20_000)
    );
}

#[test]
fn nothing_at_all_is_a_file_too() {
    let (bytes, totals) = file(&[]);
    assert_eq!((totals.records, bytes.len()), (0, 80 + 20 + 16));
    assert_eq!(read(&bytes).expect("whole").1, []);
}

#[test]
fn the_largest_record() {
    let large = Owned {
        key: vec![1; shm::KEY_MAX],
        payload: vec![2; 65_536],
        children: vec![vec![3; 65_520]; shm::CHILDREN_MAX],
        cells: 1 << (shm::CHILDREN_MAX - 1),
        ..record(1)
    };
    let (bytes, _) = file(&[record(2), large.clone(), record(3)]);
    assert!(read(&bytes).expect("whole").1 == [record(2), large, record(3)]);
}

#[test]
fn every_cut_is_refused() {
    let (bytes, _) = file(&(0..9).map(record).collect::<Vec<_>>());
    for cut in 0..bytes.len() {
        let error = check(&bytes[..cut], |_| {}).expect_err("cut");
        assert_eq!(
            error,
            ReadError::Truncated { at: cut as u64 },
            "cut at {cut}"
        );
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(
        check(&longer[..], |_| {}),
        Err(ReadError::Trailing {
            at: bytes.len() as u64
        })
    );
}

#[test]
fn every_changed_byte_is_refused() {
    let (bytes, _) = file(&(0..9).map(record).collect::<Vec<_>>());
    for at in 0..bytes.len() {
        for change in 1..=255 {
            let mut bytes = bytes.clone();
            bytes[at] ^= change;
            assert!(check(&bytes[..], |_| {}).is_err(), "byte {at} ^ {change}");
        }
    }
}

#[test]
fn of_two_files_no_mixture_is_whole() {
    let (new, _) = file(&(0..4_000).map(record).collect::<Vec<_>>());
    let mut encoder = Encoder::new(&Head {
        exact: false,
        ..head()
    });
    (0..4_000).for_each(|n| record(n).push_to(&mut encoder));
    let mut old = Vec::new();
    encoder.finish(&mut old).expect("a Vec takes everything");
    assert_eq!(new.len(), old.len());
    for cut in (512..new.len()).step_by(16_384) {
        let mixed = [&new[..cut], &old[cut..]].concat();
        assert!(check(&mixed[..], |_| {}).is_err(), "{cut}");
    }
}

#[test]
fn newer_formats_and_strangers_are_told_apart() {
    let (bytes, _) = file(&[record(1)]);
    let mut newer = bytes.clone();
    newer[8] = FORMAT as u8 + 1;
    for newer in [newer.clone(), sealed(newer)] {
        let error = check(&newer[..], |_| {}).expect_err("newer");
        assert_eq!(error, ReadError::Newer { found: FORMAT + 1 });
        assert!(error.to_string().contains("a newer release wrote it"));
    }
    let stranger = b"#!/bin/sh\necho not one of ours, but long enough to have a header of eighty bytes, if it were";
    assert_eq!(check(&stranger[..], |_| {}), Err(ReadError::Magic));
    assert_eq!(check(&b""[..], |_| {}), Err(ReadError::Truncated { at: 0 }));
}

#[test]
fn records_and_chunks_of_another_release_are_skipped_and_counted() {
    let (mut bytes, _) = file(&[record(1), record(2), record(3)]);
    let first = 100;
    let length = bytes[first] as usize;
    // The second record is of version 2.
    bytes[first + length + 5] = 2;
    let (_, all, unknown) = read(&sealed(bytes.clone())).expect("whole");
    assert_eq!((all, unknown), (vec![record(1), record(3)], 1));
    // The whole chunk is of another kind.
    bytes[80] = b'x';
    let bytes = sealed(bytes);
    let (_, all, unknown) = read(&bytes).expect("whole");
    assert_eq!((all.len(), unknown), (0, 3));
    let (_, summary) = check(&bytes[..], |_| {}).expect("whole");
    assert_eq!((summary.records, summary.unknown), (3, 3));
}

#[test]
fn lies_with_right_checksums_are_refused() {
    let (bytes, _) = file(&[record(1), record(2)]);
    let lie = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        check(&sealed(bytes)[..], |_| {})
    };
    let chunk = 80;
    let end = bytes.len() - 36;
    for (at, value) in [
        // Number of the chunk, of its records.
        (chunk + 8, 1),
        (chunk + 12, 1),
        (chunk + 12, 3),
        // Bytes of a record, of its key, its alias, its payload, its children.
        (chunk + 20, 7),
        (chunk + 20, 255),
        (chunk + 27, 9),
        (chunk + 46, 200),
        (chunk + 48, 1),
        (chunk + 52, 200),
        // Bytes of the header.
        (12, 79),
        // Records and chunks at the end.
        (end + 20, 3),
        (end + 28, 7),
    ] {
        assert!(lie(at, value).is_err(), "byte {at} = {value}");
    }
    let mut long = bytes.clone();
    long[chunk + 4..chunk + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        check(&long[..], |_| {}),
        Err(ReadError::TooLong { at: chunk as u64 })
    );
}

fn owned() -> impl Strategy<Value = Owned> {
    let part = |most| prop::collection::vec(any::<u8>(), 0..most);
    let numbers = (any::<(u8, u32, u32)>(), any::<(u16, u8)>());
    let parts = (
        part(300),
        part(3_000),
        prop::option::of(part(90)),
        prop::collection::vec(part(500), 0..6),
    );
    (numbers, prop::option::of(0..u64::MAX), parts).prop_map(
        |(
            ((table, index, generation), (owner, flags)),
            expires_at,
            (key, payload, alias, children),
        )| {
            Owned {
                table,
                row: (index, generation),
                owner,
                flags,
                expires_at,
                key,
                alias,
                payload,
                cells: u64::from(flags) & ((1 << children.len()) - 1),
                children,
            }
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(records in prop::collection::vec(owned(), 0..80)) {
        let (bytes, _) = file(&records);
        let (_, all, unknown) = read(&bytes).unwrap();
        prop_assert_eq!(unknown, 0);
        prop_assert!(all == records);
    }

    #[test]
    fn noise_does_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 100..2_000), seal: bool) {
        bytes[..8].copy_from_slice(b"tandemsn");
        bytes[8..16].copy_from_slice(&[1, 0, 0, 0, 80, 0, 0, 0]);
        bytes[84..88].copy_from_slice(&200u32.to_le_bytes());
        if seal {
            bytes[80..84].copy_from_slice(b"rec1");
            bytes[88..92].copy_from_slice(&[0; 4]);
            bytes = sealed(bytes);
        }
        let refused = check(&bytes[..], |_| {}).is_err();
        prop_assert!(refused);
    }
}
