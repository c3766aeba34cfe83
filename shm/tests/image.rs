//! Records out of an arena, beside somebody who changes it all the time, and into another.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{OTHER, TABLE, check, layout, online, settle, smallest};
use shm::{
    AllocClass, Arena, Block, Cursor, Image, Importer, InsertError, Layout, New, Participant,
    RowMeta, RowRef, TableId,
};
use stdx::{Instant, Rng};

/// An image of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    table: TableId,
    row: RowRef,
    owner: u16,
    flags: u8,
    expires_at: Option<Instant>,
    key: Vec<u8>,
    alias: Option<Vec<u8>>,
    payload: Vec<u8>,
    children: Vec<Vec<u8>>,
}

impl Owned {
    fn of(image: &Image<'_>) -> Self {
        Self {
            table: image.table,
            row: image.row,
            owner: image.owner,
            flags: image.flags,
            expires_at: image.expires_at,
            key: image.key.to_vec(),
            alias: image.alias.map(<[u8]>::to_vec),
            payload: image.payload.to_vec(),
            children: image.children.iter().map(|c| c.to_vec()).collect(),
        }
    }

    fn lend<R>(&self, f: impl FnOnce(&Image<'_>) -> R) -> R {
        let children: Vec<&[u8]> = self.children.iter().map(Vec::as_slice).collect();
        f(&Image {
            table: self.table,
            row: self.row,
            owner: self.owner,
            flags: self.flags,
            expires_at: self.expires_at,
            key: &self.key,
            alias: self.alias.as_deref(),
            payload: &self.payload,
            children: &children,
            cells: 0,
        })
    }
}

fn export(p: &mut Participant, tables: &[TableId]) -> Vec<Owned> {
    let mut all = Vec::new();
    for table in tables {
        let mut next = Some(Cursor::default());
        while let Some(cursor) = next {
            next = p.export(*table, cursor, 300, |image| all.push(Owned::of(image)));
            p.quiescent();
        }
    }
    all
}

fn import(arena: &Arena, images: &[Owned]) -> shm::Imported {
    let mut importer = Importer::new(arena);
    for image in images {
        importer.claim(image.table, image.row, image.owner);
    }
    for image in images {
        image
            .lend(|image| importer.insert(image))
            .expect("room for it");
    }
    importer.finish()
}

/// Enough for everything, also while the scheduler forgets a reader, which holds up everybody's memory.
fn roomy(slots: u16) -> Arena {
    let limit = 256 << 20;
    let layout = layout(0, slots);
    Arena::create(&Layout { limit, ..layout }, [7; 16]).expect("memory")
}

fn child(p: &mut Participant, bytes: &[u8]) -> Block {
    let block = p.allocate(bytes.len(), AllocClass::New).expect("room");
    block.fill(&[bytes])
}

/// Fills an arena with records of both tables from several slots.
fn filled(arena: &Arena, records: u64) {
    let mut all: Vec<_> = (0..4).map(|id| online(arena, id)).collect();
    // Every row of a slab is used once before the first is used again: generations that are not all the same.
    for n in 0..2_500u64 {
        let row = all[0].insert(TABLE, &n.to_be_bytes(), &[b""], &[], RowMeta::default());
        assert!(all[0].remove(row.expect("room"), None));
        all.iter_mut().for_each(Participant::quiescent);
    }
    for n in 0..records {
        let p = &mut all[(n % 3) as usize];
        let children: Vec<Block> = (0..n % 4)
            .map(|c| child(p, &vec![c as u8; (n * 7 % 900) as usize]))
            .collect();
        let meta = RowMeta {
            expires_at: (n % 2 == 0).then(|| Instant::from_nanos(1000 + n)),
            flags: n as u8,
        };
        let table = if n % 5 == 0 { OTHER } else { TABLE };
        let payload = vec![n as u8; (n * 13 % 2000) as usize];
        let alias = (n + 1).to_le_bytes();
        let new = New {
            key: &n.to_le_bytes(),
            alias: (n % 7 == 0).then_some(&alias),
            payload: &[&payload],
            children: &children,
            meta,
            counts: &[],
        };
        p.insert_new(table, &new).expect("room");
    }
    for n in (0..records).step_by(3) {
        let table = if n % 5 == 0 { OTHER } else { TABLE };
        let p = &mut all[(n % 3) as usize];
        let row = p.find(table, &n.to_le_bytes(), |r| r.row).expect("there");
        assert!(p.remove(row, None));
    }
    settle(&mut all);
    for n in (0..records).step_by(6) {
        let p = &mut all[(n % 3) as usize];
        p.insert(
            TABLE,
            &(n + records).to_le_bytes(),
            &[b"again"],
            &[],
            RowMeta::default(),
        )
        .expect("room");
    }
}

#[test]
fn an_image_is_the_same_under_the_same_names() {
    let arena = roomy(4);
    filled(&arena, 3_000);
    let mut reader = online(&arena, 4);
    let images = export(&mut reader, &[TABLE, OTHER]);
    assert_eq!(
        images.len() as u64,
        arena.live_rows(TABLE) + arena.live_rows(OTHER)
    );
    assert!(images.iter().any(|i| i.row.generation > 1) && images.iter().any(|i| i.owner == 2));

    let copy = roomy(4);
    let done = import(&copy, &images);
    assert_eq!(
        (done.records, done.moved, done.replaced),
        (images.len() as u64, 0, 0)
    );
    check(&copy, true);
    let mut reader = online(&copy, 5);
    assert_eq!(export(&mut reader, &[TABLE, OTHER]), images);
    for image in &images {
        let found = reader.find(image.table, &image.key, |r| (r.row, r.payload.to_vec()));
        assert_eq!(found, Some((image.row, image.payload.clone())));
    }
    reader.offline();

    // The slots go on with it as with their own.
    let mut all: Vec<_> = (0..4).map(|id| online(&copy, id)).collect();
    for image in &images {
        let p = &mut all[usize::from(image.owner)];
        assert!(p.remove(image.row, None));
    }
    for n in 0..100u64 {
        all[(n % 4) as usize]
            .insert(TABLE, &n.to_be_bytes(), &[b"new"], &[], RowMeta::default())
            .expect("room");
    }
    settle(&mut all);
    check(&copy, true);
    assert_eq!(copy.live_rows(TABLE), 100);
}

#[test]
fn fewer_slots_and_other_geometries_take_it_too() {
    let arena = roomy(4);
    filled(&arena, 2_000);
    let images = export(&mut online(&arena, 4), &[TABLE, OTHER]);
    let larger = Arena::create(
        &Layout {
            limit: 96 << 20,
            rx_buffers: 16,
            ..layout(0, 2)
        },
        [9; 16],
    )
    .expect("memory");
    let done = import(&larger, &images);
    assert_eq!((done.records, done.moved), (images.len() as u64, 0));
    check(&larger, true);
    let mut reader = online(&larger, 3);
    for (before, after) in images.iter().zip(export(&mut reader, &[TABLE, OTHER])) {
        assert_eq!(after.owner, before.owner % 2);
        assert_eq!((after.row, &after.payload), (before.row, &before.payload));
    }
}

#[test]
fn what_has_no_place_moves() {
    let arena = smallest(2);
    let far = u32::MAX >> 4;
    let image = |key: &str, index: u32, generation: u32| Owned {
        table: TABLE,
        row: RowRef { index, generation },
        owner: 1,
        flags: 3,
        expires_at: None,
        key: key.into(),
        alias: None,
        payload: b"payload".to_vec(),
        children: vec![b"child".to_vec()],
    };
    let other_table = Owned {
        table: OTHER,
        ..image("e", 9, 1)
    };
    let images = [
        image("a", far, 7),
        image("b", 8, 4),
        // Somebody has it already.
        image("c", 8, 5),
        // Generations that no row has.
        image("d", 10, 0),
        image("f", 11, u32::MAX),
        other_table,
    ];
    let done = import(&arena, &images);
    assert_eq!((done.records, done.moved), (6, 5));
    check(&arena, true);
    let reader = online(&arena, 2);
    for image in &images {
        let children = reader
            .find(image.table, &image.key, |r| {
                reader.block(r.children[0]).to_vec()
            })
            .expect("there");
        assert_eq!(children, b"child");
    }
    // A table that this arena has not got.
    let mut importer = Importer::new(&arena);
    let foreign = Owned {
        table: TableId(200),
        ..image("z", 1, 1)
    };
    importer.claim(foreign.table, foreign.row, foreign.owner);
    assert_eq!(
        foreign.lend(|image| importer.insert(image)),
        Err(InsertError::Full)
    );
    importer.finish();
    check(&arena, true);
}

#[test]
fn of_two_with_one_key_the_later_stays() {
    let arena = smallest(2);
    let image = |row: u32, payload: &str, owner: u16| Owned {
        table: TABLE,
        row: RowRef {
            index: row,
            generation: 1,
        },
        owner,
        flags: 0,
        expires_at: None,
        key: b"alice".to_vec(),
        alias: Some(b"al".to_vec()),
        payload: payload.into(),
        children: vec![vec![1; 500]],
    };
    let stranger = Owned {
        key: b"bob".to_vec(),
        ..image(7, "same alias", 0)
    };
    let done = import(
        &arena,
        &[image(5, "old", 0), stranger, image(5000, "new", 1)],
    );
    assert_eq!((done.records, done.replaced), (1, 2));
    check(&arena, true);
    let reader = online(&arena, 2);
    assert_eq!(
        reader.find(TABLE, b"alice", |r| (r.row.index, r.payload.to_vec())),
        Some((5000, b"new".to_vec()))
    );
}

#[test]
fn a_full_arena_says_so_and_stays_whole() {
    let arena = smallest(1);
    let mut importer = Importer::new(&arena);
    let mut refused = 0;
    for n in 0..2_000u32 {
        let image = Owned {
            table: TABLE,
            row: RowRef {
                index: n,
                generation: 1,
            },
            owner: 0,
            flags: 0,
            expires_at: None,
            key: n.to_le_bytes().to_vec(),
            alias: None,
            payload: vec![7; 30_000],
            children: vec![vec![8; 30_000]],
        };
        importer.claim(image.table, image.row, image.owner);
        match image.lend(|image| importer.insert(image)) {
            Ok(_) => {}
            Err(InsertError::Full) => refused += 1,
            Err(e) => panic!("{e}"),
        }
    }
    let done = importer.finish();
    assert!(refused > 0 && done.records > 0);
    assert_eq!(done.records + refused, 2_000);
    check(&arena, true);
}

/// Updates have filled what new records were refused: another arena of the same size holds all of it.
#[test]
fn what_fitted_in_a_full_arena_fits_in_its_twin() {
    let arena = smallest(2);
    let mut p = online(&arena, 0);
    let mut keys = 0u32;
    while p
        .insert(
            TABLE,
            &keys.to_le_bytes(),
            &[&[1; 150]],
            &[],
            RowMeta::default(),
        )
        .is_ok()
    {
        keys += 1;
    }
    assert!(keys > 1_000, "{keys}");
    for key in 0..keys {
        let seen = p.find(TABLE, &key.to_le_bytes(), |r| (r.row, r.version));
        let (row, version) = seen.expect("inserted");
        // The longer ones go into what is kept back, until that is used up too.
        let _ = p.replace(row, version, &[&[2; 350]], &[], RowMeta::default());
        p.quiescent();
    }
    let images = export(&mut p, &[TABLE]);
    assert_eq!(images.len(), keys as usize);
    let twin = smallest(2);
    let done = import(&twin, &images);
    assert_eq!(done.records, u64::from(keys));
    check(&twin, true);
}

/// Every version that the writer ever made, told before it shows: by key, a checksum of the whole record.
type Told = Mutex<HashMap<Vec<u8>, Vec<u64>>>;

fn sum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    parts.into_iter().flatten().fold(17, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn hammer(arena: &Arena, id: u16, told: &Told, stop: &AtomicBool) {
    let mut p = online(arena, id);
    let mut rng = Rng::new(u64::from(id) + 77);
    while !stop.load(Ordering::Relaxed) {
        // Keys of one's own, so that the order of versions is known.
        let key = [id as u8, rng.below(60) as u8];
        let payload = vec![rng.below(256) as u8; rng.below(700) as usize];
        let more = vec![rng.below(256) as u8; rng.below(300) as usize];
        let found = p.find(TABLE, &key, |r| (r.row, r.version));
        match found {
            Some((row, version)) if rng.below(4) == 0 => {
                p.remove(row, Some(version));
            }
            found => {
                let block = child(&mut p, &more);
                let sum = sum([&key[..], &payload, &more]);
                told.lock()
                    .expect("nobody panics")
                    .entry(key.to_vec())
                    .or_default()
                    .push(sum);
                let meta = RowMeta::default();
                match found {
                    Some((row, version)) => {
                        p.replace(row, version, &[&payload], &[block], meta)
                            .expect("nobody else changes it");
                    }
                    None => {
                        p.insert(TABLE, &key, &[&payload], &[block], meta)
                            .expect("room");
                    }
                }
            }
        }
        p.quiescent();
    }
}

#[test]
fn beside_writers_every_record_is_one_that_was_there() {
    const WRITERS: u16 = 3;
    let arena = roomy(4);
    let told = Told::default();
    let stop = AtomicBool::new(false);
    // These stay as they are: each image must have them all.
    let mut quiet = online(&arena, 3);
    for n in 0..500u32 {
        quiet
            .insert(
                OTHER,
                &n.to_le_bytes(),
                &[&n.to_be_bytes()],
                &[],
                RowMeta::default(),
            )
            .expect("room");
    }
    quiet.offline();
    let mut last = Vec::new();
    std::thread::scope(|scope| {
        for id in 0..WRITERS {
            let (arena, told, stop) = (&arena, &told, &stop);
            scope.spawn(move || hammer(arena, id, told, stop));
        }
        let mut reader = online(&arena, 4);
        // How far the versions of each key have been seen.
        let mut seen: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let mut exported = 0;
        while exported < 20_000 {
            let images = export(&mut reader, &[TABLE, OTHER]);
            let told = told.lock().expect("nobody panics").clone();
            for image in images.iter().filter(|image| image.table == TABLE) {
                exported += 1;
                let parts = [&image.key[..], &image.payload, &image.children[0]];
                let sum = sum(parts);
                let versions = &told[&image.key];
                let from = seen.entry(image.key.clone()).or_default();
                let nth = versions[*from..].iter().position(|version| *version == sum);
                *from += nth.expect("a version that was there, not older than one seen before");
            }
            assert_eq!(
                images.iter().filter(|image| image.table == OTHER).count(),
                500
            );
            last = images;
        }
        stop.store(true, Ordering::Relaxed);
    });
    // What was taken beside them fits into another arena.
    let copy = roomy(4);
    import(&copy, &last);
    check(&copy, true);
    let mut all: Vec<_> = (0..4).map(|id| online(&arena, id)).collect();
    settle(&mut all);
    check(&arena, true);
}
