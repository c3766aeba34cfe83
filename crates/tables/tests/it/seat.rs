//! Seats at destinations: counted, one for each attempt, given back once, found when they have lost their call.

use std::thread;

use shm::{Cursor, Participant, RowMeta, RowRef};
use tables::balancer::{Resource, ResourceKey, ResourceKind};
use tables::calls::{self, End};
use tables::dialog::{CountIn, CreateError, Dialog, DialogId, Dialogs, EndCause};
use tables::seat::SeatError;
use tables::{Balancer, DIALOG, Seats};

use crate::world::{arena, at, everybody, online, settle};

fn destination(p: &mut Participant, n: u8) -> RowRef {
    let key = ResourceKey::destination(b"media", &[b'd', n]);
    Balancer(p).ensure(&key, &Resource::default()).unwrap()
}

fn call(p: &mut Participant, n: u32) -> RowRef {
    let id = [&n.to_be_bytes()[..], &[0; 12]].concat();
    let call_id = format!("call {n}");
    let id = DialogId(id.try_into().unwrap());
    Dialogs(p)
        .create(Dialog::new(id, call_id.as_bytes(), b"t", at(0)), &[])
        .unwrap()
}

#[test]
fn an_attempt_has_one_seat() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let (one, two) = (destination(&mut p, 1), destination(&mut p, 2));
    let dialog = call(&mut p, 1);
    let take = |p: &mut Participant, attempt, to| {
        Seats(p).take(dialog, dialog.pack(), attempt, to, Some(1), at(1))
    };
    let live = |p: &mut Participant| [one, two].map(|row| Balancer(p).live(row).unwrap());
    assert_eq!(take(&mut p, 0, one), Ok(()));
    assert_eq!(take(&mut p, 0, one), Ok(()), "it has it");
    assert_eq!(live(&mut p), [1, 0]);
    assert_eq!(take(&mut p, 1, one), Err(SeatError::Taken));
    assert_eq!(take(&mut p, 0, two), Ok(()), "somewhere else");
    assert_eq!(live(&mut p), [0, 1]);
    let name = Seats(&mut p).resource(dialog.pack(), 0, <[u8]>::to_vec);
    let key = ResourceKey::destination(b"media", &[b'd', 2]);
    assert_eq!(name.as_deref(), Some(key.as_bytes()));
    assert!(Seats(&mut p).leave(dialog.pack(), 0));
    assert!(!Seats(&mut p).leave(dialog.pack(), 0));
    assert_eq!(live(&mut p), [0, 0]);
    Balancer(&mut p).remove(two, at(2)).unwrap();
    assert_eq!(take(&mut p, 0, two), Err(SeatError::Gone));
}

#[test]
fn a_seat_without_its_call_is_given_back() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let one = destination(&mut p, 1);
    let calls: Vec<RowRef> = (0..10).map(|n| call(&mut p, n)).collect();
    for &dialog in &calls {
        let done = Seats(&mut p).take(dialog, dialog.pack(), 0, one, None, at(1));
        assert_eq!(done, Ok(()));
    }
    for &dialog in &calls[..4] {
        Dialogs(&mut p).end(dialog);
    }
    assert_eq!(Balancer(&mut p).live(one), Some(10));
    assert_eq!(
        Seats(&mut p).sweep(Cursor::default(), usize::MAX),
        (None, 4)
    );
    assert_eq!(
        Seats(&mut p).sweep(Cursor::default(), usize::MAX),
        (None, 0)
    );
    assert_eq!(Balancer(&mut p).live(one), Some(6));
}

/// Four slots race for the seats of one destination: never one too many, none is lost.
#[test]
fn a_destination_never_has_one_call_too_many() {
    const LIMIT: u64 = 5;
    let arena = arena(32 << 20);
    let mut all = everybody(&arena);
    let one = destination(&mut all[0], 1);
    let dialogs: Vec<RowRef> = (0..32).map(|n| call(&mut all[0], n)).collect();
    settle(&arena, &mut all);
    drop(all);
    thread::scope(|scope| {
        for slot in 0..crate::world::SLOTS {
            let (arena, dialogs) = (&arena, &dialogs);
            scope.spawn(move || {
                let mut p = online(arena, slot);
                let mut taken = 0;
                for round in 0..400_usize {
                    let dialog = dialogs[(round * 7 + usize::from(slot)) % dialogs.len()];
                    let attempt = u8::try_from(slot).unwrap();
                    let done =
                        Seats(&mut p).take(dialog, dialog.pack(), attempt, one, Some(LIMIT), at(1));
                    // The sum may be seen between two cells, but never over the limit by those that were let in.
                    match done {
                        Ok(()) => {
                            taken += 1;
                            p.quiescent();
                            assert!(Seats(&mut p).leave(dialog.pack(), attempt));
                        }
                        Err(e) => assert_eq!(e, SeatError::Taken),
                    }
                    p.quiescent();
                }
                p.offline();
                assert!(taken > 0);
            });
        }
    });
    let mut p = online(&arena, 0);
    assert_eq!(Balancer(&mut p).live(one), Some(0));
}

#[test]
fn a_call_of_a_snapshot_has_its_seat_again() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let one = destination(&mut p, 1);
    let key = |n: u8| {
        let key = ResourceKey::destination(b"media", &[b'd', n]);
        key.as_bytes().to_vec()
    };
    // Up at the first, up at one that is not there, not answered, at none.
    let calls: Vec<RowRef> = (0..4).map(|n| call(&mut p, n)).collect();
    for (row, (to, seat)) in
        calls
            .iter()
            .zip([(key(1), 3), (key(2), 1), (key(1), 0), (Vec::new(), 1)])
    {
        let fill = |dialog: &mut Dialog| {
            dialog.place = row.pack();
            dialog.destination.clone_from(&to);
            dialog.seat = seat;
        };
        Dialogs(&mut p)
            .confirm(*row, b"callee", at(1), fill)
            .unwrap();
    }
    let restore = |p: &mut Participant| Seats(p).restore(at(2), Cursor::default(), usize::MAX).1;
    assert_eq!(restore(&mut p), 1);
    assert_eq!(restore(&mut p), 0, "it has it");
    assert_eq!(Balancer(&mut p).live(one), Some(1));
    let name = Seats(&mut p).resource(calls[0].pack(), 2, <[u8]>::to_vec);
    assert_eq!(name, Some(key(1)));
    // The destination has come meanwhile.
    let two = destination(&mut p, 2);
    assert_eq!(restore(&mut p), 1);
    assert_eq!(Balancer(&mut p).live(two), Some(1));
    // What has ended is not up, though something is left of it.
    assert!(Seats(&mut p).leave(calls[0].pack(), 2));
    assert!(Dialogs(&mut p).end_keeping(calls[0], at(40)).is_some());
    assert_eq!(restore(&mut p), 0);
    assert_eq!(Balancer(&mut p).live(one), Some(0));
}

/// What a call of a snapshot counts in it has seats in, as its record can't be counted any more.
#[test]
fn a_call_of_a_snapshot_counts_again() {
    let names = [
        ResourceKey::of(ResourceKind::Domain, b"example.com"),
        ResourceKey::of(ResourceKind::User, b"alice@example.com"),
        ResourceKey::of(ResourceKind::Profile, b"trunk"),
    ];
    let before = arena(16 << 20);
    let mut p = online(&before, 0);
    let counts = names.each_ref().map(|name| CountIn {
        resource: Balancer(&mut p).ensure(name, &Resource::default()).unwrap(),
        limit: None,
    });
    let dialogs = [1, 2].map(|n: u8| Dialog::new(DialogId([n; 16]), &[b'c', n], b"caller", at(1)));
    let payloads = dialogs.clone().map(|dialog| {
        let row = Dialogs(&mut p).create(dialog, &counts).unwrap();
        let payload = p.with(row, |record| record.payload.to_vec()).unwrap();
        tables::shift(DIALOG, &payload, at(1), 0).unwrap()
    });

    let after = arena(16 << 20);
    let mut p = online(&after, 0);
    let rows: Vec<RowRef> = [b"c\x01\0caller", b"c\x02\0caller"]
        .iter()
        .zip(&payloads)
        .map(|(key, payload)| {
            p.insert(DIALOG, *key, &[payload], &[], RowMeta::default())
                .unwrap()
        })
        .collect();
    let restore = |p: &mut Participant| Seats(p).restore(at(2), Cursor::default(), usize::MAX).1;
    let live = |p: &mut Participant| {
        names
            .each_ref()
            .map(|name| Balancer(p).find(name).map(|found| found.live))
    };
    assert_eq!(live(&mut p), [None; 3]);
    assert_eq!(restore(&mut p), 6);
    assert_eq!(restore(&mut p), 0, "once is enough");
    assert_eq!(live(&mut p), [Some(2); 3]);
    // A new call comes beside them, and is refused beyond the limit.
    let domain = Balancer(&mut p).find(&names[0]).unwrap().row;
    let third = Dialog::new(DialogId([3; 16]), b"c3", b"caller", at(3));
    let limited = |limit| {
        [CountIn {
            resource: domain,
            limit: Some(limit),
        }]
    };
    let refused = Dialogs(&mut p).create(third.clone(), &limited(2));
    assert_eq!(refused, Err(CreateError::OverLimit { nth: 0 }));
    let third = Dialogs(&mut p).create(third, &limited(3)).unwrap();
    // One ends as calls do; the other one's end is found by the sweep.
    let end = End {
        cause: EndCause::Caller,
        code: 0,
        at: at(4).into(),
        keep_until: None,
        tried: None,
    };
    assert!(calls::close(&mut p, rows[0], &end).is_some());
    assert_eq!(live(&mut p), [Some(2), Some(1), Some(1)]);
    assert!(Dialogs(&mut p).end(rows[1]).is_some());
    assert_eq!(Seats(&mut p).sweep(Cursor::default(), usize::MAX).1, 3);
    assert_eq!(live(&mut p), [Some(1), Some(0), Some(0)]);
    assert!(calls::close(&mut p, third, &end).is_some());
    Balancer(&mut p).reap(Cursor::default(), usize::MAX);
    assert_eq!(live(&mut p), [None; 3]);
}
