//! A full arena, for records of every kind that the tables use: new ones are refused, a change to the same size and a removal pass, and a removal needs
//! no memory.

mod common;

use common::{OTHER, TABLE, check, online, settle, smallest};
use shm::{
    AllocClass, Arena, Block, Count, InsertError, New, Participant, ReplaceError, RowMeta, RowRef,
};
use stdx::Rng;

/// What records look like.
#[derive(Clone, Copy, Debug)]
struct Shape {
    name: &'static str,
    alias: bool,
    payload: usize,
    children: usize,
    counted: bool,
    /// Reserved first, then published.
    reserved: bool,
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "bindings: one body",
        alias: false,
        payload: 250,
        children: 0,
        counted: false,
        reserved: false,
    },
    Shape {
        name: "a transaction: a body and texts, reserved first",
        alias: false,
        payload: 400,
        children: 3,
        counted: false,
        reserved: true,
    },
    Shape {
        name: "a dialog: two names, counted",
        alias: true,
        payload: 300,
        children: 0,
        counted: true,
        reserved: false,
    },
    Shape {
        name: "a large value",
        alias: false,
        payload: 60_000,
        children: 0,
        counted: false,
        reserved: false,
    },
    Shape {
        name: "a connection: two names, small",
        alias: true,
        payload: 40,
        children: 0,
        counted: false,
        reserved: false,
    },
];

impl Shape {
    fn children(&self, p: &mut Participant, class: AllocClass) -> Option<Vec<Block>> {
        let mut children = Vec::new();
        for nth in 0..self.children {
            match p.allocate(500 + nth, class) {
                Ok(block) => children.push(block.fill(&[b"text"])),
                Err(_) => {
                    p.free_children(&children);
                    return None;
                }
            }
        }
        Some(children)
    }

    fn insert(&self, p: &mut Participant, n: u32, counts: &[Count]) -> Result<RowRef, InsertError> {
        let key = n.to_le_bytes();
        let payload = vec![n as u8; self.payload];
        let children = self.children(p, AllocClass::New).ok_or(InsertError::Full)?;
        let new = New {
            key: &key,
            alias: self.alias.then_some(&key),
            payload: &[&payload],
            children: &children,
            counts: if self.counted { counts } else { &[] },
            meta: RowMeta::default(),
        };
        if !self.reserved {
            return p.insert_new(TABLE, &new);
        }
        match p.reserve_new(TABLE, new.key, new.alias) {
            Ok(reserved) => p.publish_new(reserved, &new),
            Err(e) => {
                p.free_children(&children);
                Err(e)
            }
        }
    }

    fn replace(&self, p: &mut Participant, row: RowRef, len: usize) -> Result<(), ReplaceError> {
        let children = self
            .children(p, AllocClass::Update)
            .ok_or(ReplaceError::Full)?;
        let version = p.with(row, |r| r.version).expect("live");
        let payload = vec![0xee; len];
        p.replace(row, version, &[&payload], &children, RowMeta::default())
            .map(drop)
    }
}

fn cells(p: &Participant) -> Block {
    p.find(OTHER, b"resource", |r| r.children[0])
        .expect("there")
}

fn run(arena: &Arena, shape: &Shape) {
    let mut p = [online(arena, 0), online(arena, 1)];
    let block = p[0].allocate_cells().expect("room");
    p[0].insert(OTHER, b"resource", &[], &[block], RowMeta::default())
        .expect("room");
    let mut rows: Vec<(RowRef, usize)> = Vec::new();
    // Both until they are refused.
    for who in 0..2 {
        for n in 0.. {
            let counts = [Count {
                cells: cells(&p[who]),
                limit: Some(1_000_000),
                of: None,
            }];
            match shape.insert(&mut p[who], n * 2 + who as u32, &counts) {
                Ok(row) => rows.push((row, who)),
                Err(InsertError::Full) => break,
                Err(e) => panic!("{}: {e}", shape.name),
            }
            p.iter_mut().for_each(Participant::quiescent);
        }
    }
    assert!(rows.len() > 20, "{}: {} records", shape.name, rows.len());
    // Refreshed again and again by who made them, in any order.
    let (mut rng, mut refused) = (Rng::new(4), 0);
    for nth in 0..3_000u32 {
        let (row, who) = rows[rng.below(rows.len() as u32) as usize];
        shape
            .replace(&mut p[who], row, shape.payload)
            .unwrap_or_else(|e| panic!("{}, update {nth}: {e}", shape.name));
        // A record has two bodies until the end of its grace period.
        if nth % if shape.payload > 10_000 { 2 } else { 16 } == 0 {
            p.iter_mut().for_each(Participant::quiescent);
            let counts = [Count {
                cells: cells(&p[who]),
                limit: None,
                of: None,
            }];
            match shape.insert(&mut p[who], u32::MAX - nth, &counts) {
                Err(InsertError::Full) => refused += 1,
                // The slab that an update had to take from the reserve has room for others.
                Ok(row) => rows.push((row, who)),
                Err(e) => panic!("{}: {e}", shape.name),
            }
        }
    }
    assert!(refused > 0, "{}: {refused} refused", shape.name);
    // Now the reserve goes as well, and every free block, until there is nothing left at all.
    let mut eaten: [Vec<Block>; 2] = [Vec::new(), Vec::new()];
    for bytes in [
        65_000, 16_000, 8_000, 4_000, 2_000, 900, 700, 450, 350, 230, 170, 100,
    ] {
        for (p, eaten) in p.iter_mut().zip(&mut eaten) {
            while let Ok(block) = p.allocate(bytes, AllocClass::Update) {
                eaten.push(block.freeze());
            }
        }
    }
    for &(row, who) in rows.iter().take(40) {
        assert_eq!(
            shape.replace(&mut p[who], row, shape.payload),
            Err(ReplaceError::Full),
            "{}: nothing is left",
            shape.name
        );
    }
    let before = arena.usage();
    // By anybody. Nothing is allocated: no slab is taken, and what is used only falls.
    for (nth, &(row, who)) in rows.iter().enumerate() {
        let who = if nth % 2 == 0 { who } else { 1 - who };
        let cells = cells(&p[who]);
        let counted: &[Block] = if shape.counted { &[cells] } else { &[] };
        assert!(p[who].remove_counted(row, None, counted), "{}", shape.name);
    }
    let after = arena.usage();
    assert!(after.bytes_used <= before.bytes_used && after.slabs_free >= before.slabs_free);
    assert_eq!(p[0].cells_total(cells(&p[0])), 0);
    for (p, eaten) in p.iter_mut().zip(&eaten) {
        p.free_children(eaten);
    }
    settle(&mut p);
    check(arena, true);
    assert_eq!(arena.live_rows(TABLE), 0);
    shape.insert(&mut p[0], 1, &[]).expect("room again");
}

#[test]
fn new_records_are_refused_updates_and_removals_pass() {
    for shape in &SHAPES {
        run(&smallest(2), shape);
    }
}

/// What a slot lost is found within a minute, however the time is cut into slices.
#[test]
fn a_pass_of_the_scrubber_takes_less_than_a_minute() {
    use std::time::Duration;
    for slice in [25, 250, 3_000] {
        let arena = smallest(2);
        let mut p = online(&arena, 0);
        let rows: Vec<RowRef> = (0..3_000u32)
            .map(|n| {
                p.insert(
                    TABLE,
                    &n.to_le_bytes(),
                    &[&[1; 300]],
                    &[],
                    RowMeta::default(),
                )
                .expect("room")
            })
            .collect();
        for row in rows {
            p.remove(row, None);
        }
        // Its limbo is forgotten.
        drop(p);
        let mut p = online(&arena, 0);
        let mut waited = Duration::ZERO;
        while waited < Duration::from_secs(60) {
            let slice = Duration::from_millis(slice);
            p.scrub_for(slice);
            p.quiescent();
            waited += slice.min(Duration::from_secs(1));
        }
        for _ in 0..100 {
            p.quiescent();
        }
        check(&arena, true);
    }
}

/// What one crowd of records gave back serves the next one, of other sizes too, before the kernel is asked for more.
#[test]
fn memory_is_asked_for_only_when_none_is_free() {
    let (slots, records) = (3, 6_000u32);
    let arena = Arena::create(&common::layout(64 << 20, slots), [7; 16]).expect("memory");
    let mut p: Vec<Participant> = (0..slots).map(|slot| online(&arena, slot)).collect();
    let mut mapped = Vec::new();
    for round in 0..12u32 {
        let payload = vec![1; if round % 2 == 0 { 300 } else { 500 }];
        let rows: Vec<RowRef> = (0..records)
            .map(|n| {
                let p = &mut p[(n % u32::from(slots)) as usize];
                p.insert(
                    TABLE,
                    &n.to_le_bytes(),
                    &[&payload],
                    &[],
                    RowMeta::default(),
                )
                .expect("room")
            })
            .collect();
        // By another than who made it.
        for (nth, row) in rows.into_iter().enumerate() {
            assert!(p[(nth + 1) % usize::from(slots)].remove(row, None));
        }
        settle(&mut p);
        mapped.push(arena.usage().bytes_mapped);
    }
    check(&arena, true);
    // A slab that another class keeps, one of each slot, is the difference between two rounds.
    assert!(mapped[1..].iter().all(|&m| m == mapped[1]), "{mapped:?}");
}
