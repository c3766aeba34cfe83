//! The orderings, under the model checker: `cargo xtask loom`. What the model in `crates/model` takes for granted, that everybody sees each store at once, is what these are about:
//! each test is one labelled pair (`SYNC ...`) between two threads, with every schedule of few preemptions and every value that a load may return.

use std::sync::Arc;

use sync::model::Builder;
use sync::{AtomicU64, Ordering, UnsafeCell, thread};

use crate::arena::Inner;
use crate::body::Contents;
use crate::ctl::{Ctl, RowState};
use crate::index::{Met, Name};
use crate::layout::{
    AT_BACKED, AT_EPOCH, AT_EVENT_ORDER, AT_NOTICES, AT_STASH_FLAGS, BLOCKS_PER_SLAB, RING_BYTES,
    ROWS_PER_SLAB,
};
use crate::slab::{Descriptor, Kind};
use crate::{
    Arena, Doorbell, EVENT_WORDS, Followed, Follower, Layout, Mail, ParticipantId, RowRef, SlotId,
    TableId,
};

const TABLE: TableId = TableId(0);

/// Every schedule with at most so many preemptions.
fn check(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(f);
}

/// Two participants, a row slab of each, and block slab 2 with a body for each row.
fn arena() -> Arena {
    let layout = Layout {
        rx_buffers: 1,
        rx_buffer_bytes: 512,
        ..Layout::new(0, 2, 0, 1)
    };
    let limit = layout.least_limit();
    let arena = Arena::heap(&Layout { limit, ..layout }, [3; 16]).expect("memory");
    let inner = &arena.0;
    for owner in 0..2u16 {
        let rows = Descriptor::new(2, TABLE.0, owner, 1);
        let word = inner.descriptor_word(u32::from(owner));
        word.store(rows.0, Ordering::Relaxed);
    }
    let blocks = Descriptor::new(3, 0, 0, 1);
    inner.descriptor_word(2).store(blocks.0, Ordering::Relaxed);
    for nth in 0..3 {
        fill(inner, nth, 100 + u64::from(nth));
    }
    touch(&arena);
    arena
}

/// The checker's words are made when they are first asked for; that must be before there are threads.
fn touch(arena: &Arena) {
    let inner = &arena.0;
    let ring = inner.geometry.rings + RING_BYTES;
    let lines = [
        AT_EPOCH,
        AT_BACKED,
        AT_STASH_FLAGS,
        AT_EVENT_ORDER,
        AT_NOTICES,
        ring,
        ring + 64,
        ring + 128,
    ];
    for at in lines {
        inner.map.line(at);
    }
    // The heads and rings of events of both.
    for nth in 0..4 {
        inner.map.line(inner.geometry.events + nth * 64);
        inner.map.line(inner.geometry.event_heads + nth / 2 * 64);
    }
    for owner in 0..2 {
        inner.announced(owner);
        inner.row(u32::from(owner) * ROWS_PER_SLAB);
        arena.slot(SlotId(owner));
        arena.has_mail(SlotId(owner));
    }
    inner.find(&name(inner));
    inner.slabs_free();
}

fn block(nth: u32) -> u32 {
    2 * BLOCKS_PER_SLAB + nth
}

/// A body with the key that all tests use.
fn fill(inner: &Inner, nth: u32, expires_at: u64) {
    let contents = Contents {
        key: b"key",
        alias: None,
        payload: &[],
        children: &[],
        expires_at,
    };
    let (at, _) = inner.block_bytes(block(nth)).expect("a block");
    // SAFETY: a block of at least 128 bytes that nobody else has yet.
    unsafe { contents.write(at) };
}

fn name(inner: &Inner) -> Name<'static> {
    inner.key_name(TABLE, b"key")
}

/// FREE → PENDING for the only row of a participant, with its names.
fn pending(inner: &Inner, owner: u32) -> (RowRef, Ctl) {
    let index = owner * ROWS_PER_SLAB;
    let words = inner.row(index).expect("a row");
    let free = words.load();
    assert!(words.change(free, free.pending()));
    words.hash.store(name(inner).hash, Ordering::Relaxed);
    let generation = free.pending().generation();
    (RowRef { index, generation }, free.pending())
}

/// The steps of an insert as `ops` takes them; whether the row became LIVE.
fn insert(inner: &Inner, owner: u32, rescan: bool) -> bool {
    let (row, pending) = pending(inner, owner);
    assert!(inner.link(name(inner).hash, row));
    if rescan && inner.meet(&name(inner), Some(row), |_, _| {}) != Met::Nobody {
        return false;
    }
    let words = inner.row(row.index).expect("a row");
    words.change(pending, pending.live(block(owner), 0))
}

fn live(inner: &Inner) -> usize {
    let rows = [0, ROWS_PER_SLAB].map(|index| inner.row(index).expect("a row").load());
    rows.iter().filter(|ctl| ctl.is_live()).count()
}

fn two_inserters(rescan: bool) -> usize {
    let arena = arena();
    let other = arena.clone();
    let second = thread::spawn(move || insert(&other.0, 1, rescan));
    let first = insert(&arena.0, 0, rescan);
    let second = second.join().expect("no panic");
    let live = live(&arena.0);
    assert_eq!(live, usize::from(first) + usize::from(second));
    live
}

/// SYNC unique: of two inserters of one key at least one sees the other.
#[test]
fn never_two_live() {
    check(4, || assert!(two_inserters(true) <= 1));
}

/// SYNC unique, in two buckets: one sees the first bucket fuller than it is, because the other has just removed a record there. Only the fence in `link` orders them then; in
/// one bucket their CAS of the same places would.
#[test]
fn never_two_live_in_two_buckets() {
    check(4, || {
        let arena = arena();
        let inner = &arena.0;
        let row = RowRef {
            index: 2,
            generation: 1,
        };
        let words = inner.row(row.index).expect("a row");
        words.hash.store(name(inner).hash, Ordering::Relaxed);
        assert!(inner.link(name(inner).hash, row));
        let other = arena.clone();
        let second = thread::spawn(move || {
            let words = other.0.row(row.index).expect("a row");
            other.0.unlink_row(&words, row);
            insert(&other.0, 1, true)
        });
        insert(inner, 0, true);
        second.join().expect("no panic");
        assert!(live(inner) <= 1);
    });
}

/// The same without the rescan is found out, so that the test above says something.
#[test]
fn two_live_without_the_rescan() {
    let found = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = Arc::clone(&found);
    check(4, move || {
        if two_inserters(false) == 2 {
            told.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    assert!(found.load(std::sync::atomic::Ordering::Relaxed));
}

/// SYNC entry, SYNC ctl: who finds a LIVE row sees what was stored before it was linked and before it was LIVE.
#[test]
fn what_is_found_is_whole() {
    check(4, || {
        let arena = arena();
        let other = arena.clone();
        let inserter = thread::spawn(move || insert(&other.0, 0, true));
        let inner = &arena.0;
        if let Some((row, ctl)) = inner.find(&name(inner)) {
            assert_eq!((row.index, ctl.state()), (0, Some(RowState::Live)));
            assert_eq!(ctl.body(), Some(block(0)));
        }
        inserter.join().expect("no panic");
        assert!(inner.find(&name(inner)).is_some());
    });
}

/// SYNC epoch: an object is not freed under a reader that could still find it.
#[test]
fn nothing_is_freed_under_a_reader() {
    check(4, || {
        let arena = arena();
        let entry = Arc::new(AtomicU64::new(1));
        let object = Arc::new(UnsafeCell::new(7));
        let (inner, linked, bytes) = (arena.clone(), Arc::clone(&entry), Arc::clone(&object));
        inner.0.announce(0);
        let reader = thread::spawn(move || {
            inner.0.announce(1);
            if linked.load(Ordering::Acquire) != 0 {
                // The model checker complains if the write below can be at the same time.
                // SAFETY: announced, and found after that.
                bytes.with(|at| assert_eq!(unsafe { *at }, 7));
            }
            inner.0.announce_offline(1);
        });
        let inner = &arena.0;
        entry.store(0, Ordering::Release);
        let mut tag = None;
        for _ in 0..3 {
            let now = inner.announce(0);
            let tag = *tag.get_or_insert(now);
            if tag < inner.oldest() {
                // SAFETY: unlinked, and the grace period is over.
                object.with_mut(|at| unsafe { *at = 0 });
                break;
            }
        }
        reader.join().expect("no panic");
    });
}

/// SYNC sleep, SYNC mail-flag, SYNC mail: a mail is seen by who goes to sleep, or the sender sees that it sleeps; and it arrives.
#[test]
fn nobody_sleeps_over_mail() {
    check(4, || {
        let arena = arena();
        let other = arena.clone();
        let sender = thread::spawn(move || {
            let p = other.participant(ParticipantId(0));
            p.send(SlotId(1), Mail::Wake)
        });
        let slot = arena.slot(SlotId(1));
        slot.sleeping.store(1, Ordering::SeqCst);
        let stays_awake = arena.has_mail(SlotId(1));
        let rung = sender.join().expect("no panic") == Ok(Doorbell::Ring);
        assert!(stays_awake || rung, "it sleeps over its mail");
        let mut got = 0;
        arena
            .participant(ParticipantId(1))
            .receive(|from, mail| got += i32::from((from, mail) == (SlotId(0), Mail::Wake)));
        assert_eq!(got, 1);
    });
}

/// SYNC mail: a ring's mails come whole and in order while more are sent.
#[test]
fn mail_comes_whole() {
    check(4, || {
        let arena = arena();
        let other = arena.clone();
        let buffer = |index| crate::BufferRef { slot: 0, index };
        let sender = thread::spawn(move || {
            let p = other.participant(ParticipantId(0));
            for index in 1..=2 {
                assert!(p.send(SlotId(1), Mail::Serve(buffer(index))).is_ok());
            }
        });
        let p = arena.participant(ParticipantId(1));
        let mut got = Vec::new();
        p.receive(|_, mail| got.push(mail));
        sender.join().expect("no panic");
        p.receive(|_, mail| got.push(mail));
        assert_eq!(got, [1, 2].map(|index| Mail::Serve(buffer(index))));
    });
}

/// SYNC expiry: whatever scan and replace do to the hint at the same time, it is not later than the truth afterwards.
#[test]
fn the_expiry_hint_is_never_late() {
    check(4, || {
        let arena = arena();
        let inner = &arena.0;
        let (row, was) = pending(inner, 0);
        let words = inner.row(row.index).expect("a row");
        // The body says 102, the hint is behind it.
        let live = was.live(block(2), 0);
        assert!(words.change(was, live));
        words.expires_at.store(50, Ordering::Relaxed);
        let other = arena.clone();
        let scan = thread::spawn(move || {
            let words = other.0.row(row.index).expect("a row");
            other.0.raise(&words, 50, 102, live.0);
        });
        // Another body, which expires at 100: as `replace` does it.
        inner.lower(&words, 100);
        assert!(words.change(live, live.changed(block(0), 0)));
        inner.lower(&words, 100);
        scan.join().expect("no panic");
        assert!(words.expires_at.load(Ordering::Relaxed) <= 100);
    });
}

/// SYNC slab-take: a slab has one taker.
#[test]
fn a_slab_has_one_taker() {
    check(4, || {
        let arena = arena();
        let other = arena.clone();
        let kind = Kind::Blocks(0);
        let second = thread::spawn(move || other.0.take_slab(kind, 1, 3));
        let first = arena.0.take_slab(kind, 0, 3).expect("room");
        let second = second.join().expect("no panic").expect("room");
        assert_ne!(first, second);
        assert_eq!(arena.0.descriptor(first).owner(), 0);
        assert_eq!(arena.0.descriptor(second).owner(), 1);
    });
}

fn event(n: u64) -> [u64; EVENT_WORDS] {
    [n; EVENT_WORDS]
}

/// SYNC event, SYNC event-overrun: events come whole and in order while the writer comes round to their lines, and who misses one is told.
#[test]
fn events_come_whole_or_are_said_to_be_missing() {
    check(3, || {
        let arena = arena();
        let other = arena.clone();
        let mut follower = Follower::new(&arena);
        let writer = thread::spawn(move || {
            let p = other.participant(ParticipantId(0));
            for n in 1..=2 {
                assert!(p.tell(event(n)).is_some());
            }
        });
        let mut got = Vec::new();
        let first = follower.follow(2, &mut got);
        writer.join().expect("no panic");
        let second = follower.follow(2, &mut got);
        let seen: Vec<u64> = got.iter().map(|e| e.words[0]).collect();
        assert!(got.iter().all(|e| e.words == event(e.words[0])), "whole");
        assert!(seen.is_sorted() && !second.more);
        assert!(
            seen == [1, 2] || first.missing || second.missing,
            "{seen:?}"
        );
    });
}

/// SYNC event-order: what happened because of an event does not come before it.
#[test]
fn an_event_does_not_come_before_its_cause() {
    check(3, || {
        let arena = arena();
        let (one, two) = (arena.clone(), arena.clone());
        let mut follower = Follower::new(&arena);
        let first = thread::spawn(move || {
            one.participant(ParticipantId(1)).tell(event(1));
            // SYNC: stands for a message that goes out.
            one.notices().store(1, Ordering::Release);
        });
        let second = thread::spawn(move || {
            if two.notices().load(Ordering::Acquire) == 1 {
                two.participant(ParticipantId(0)).tell(event(2));
            }
        });
        let mut got = Vec::new();
        let mut told = follower.follow(2, &mut got);
        first.join().expect("no panic");
        second.join().expect("no panic");
        told.missing |= follower.follow(2, &mut got).missing;
        assert_eq!(
            told,
            Followed {
                more: told.more,
                missing: false
            }
        );
        let seen: Vec<u64> = got.iter().map(|e| e.words[0]).collect();
        assert!(seen == [1] || seen == [1, 2], "{seen:?}");
    });
}

/// SYNC event-missing: who is told that events may be missing finds in the tables what they would have told of.
#[test]
fn what_no_event_tells_of_is_in_the_tables() {
    check(4, || {
        let arena = arena();
        let other = arena.clone();
        let mut follower = Follower::new(&arena);
        let heir = thread::spawn(move || {
            // What the dead one did, as far as the heir knows.
            other.notices().store(1, Ordering::Relaxed);
            other.0.mark_missing_events(ParticipantId(0));
        });
        if follower.follow(2, &mut Vec::new()).missing {
            assert_eq!(arena.notices().load(Ordering::Relaxed), 1);
        }
        heir.join().expect("no panic");
    });
}
