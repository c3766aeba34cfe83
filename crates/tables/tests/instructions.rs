//! A death after every instruction of each table's operations: see `shm-testing`. `SHM_EVERY_INSTRUCTION=1` steps through each instruction and counts it; otherwise
//! only those that store into the arena are stopped at, which leads to the same contents.
//!
//! `transaction` has no operations of its own: its records are reserved, published, replaced and removed in the form that `proxy` does it in.

mod common;

use common::*;
use shm::{Cursor, Participant, ParticipantId, RowRef};
use shm_testing::{Case, Pace, exhaust};
use tables::balancer::{Balancer, Mode, Resource, Statistics};
use tables::calls::{self, End};
use tables::connection::{ConnectionId, ConnectionState, Connections};
use tables::dialog::{CreateError, DialogId, Dialogs, EndCause, flag};
use tables::kv::{Kv, Value};
use tables::nonces::Used;
use tables::quarantine::Quarantine;
use tables::{Cdrs, Sweep};

fn row(p: &mut Participant, name: &[u8]) -> RowRef {
    let found = Balancer(p).find(&resource(name)).expect("prepared");
    found.row
}

fn dialog(p: &mut Participant) -> RowRef {
    let found = Dialogs(p).find_id(DialogId([1; 16]), |view| view.row);
    found.expect("prepared")
}

fn open_connection(p: &mut Participant) -> RowRef {
    let found = Connections(p).find(ConnectionId(1));
    found.expect("prepared").0
}

/// Free lists are filled and slabs taken.
fn warm(p: &mut Participant) {
    register(p, b"warm@example.com", &["sip:w@192.0.2.2"]);
    register(p, b"warm@example.com", &[]);
    let warm = create(p, 200, None).expect("room");
    Dialogs(p).end(warm).expect("just created");
    Kv(p)
        .put(b"warm", Value::Integer(0), None, NOW)
        .expect("room");
    assert_eq!(Kv(p).delete(b"warm", NOW), Ok(true));
    let warm = Connections(p).open(&connection(200)).expect("room");
    assert!(Connections(p).close(warm));
}

fn case(name: &str, operate: fn(&mut Participant)) -> Case {
    Case::new(name, prepare, operate).warm(warm).check(counts)
}

fn location() -> Vec<Case> {
    vec![
        case("location: first contact", |p| {
            register(p, b"bob@example.com", &["sip:b@192.0.2.3"])
        }),
        case("location: another contact", |p| {
            register(
                p,
                b"alice@example.com",
                &["sip:a@192.0.2.1", "sip:b@192.0.2.3"],
            )
        }),
        case("location: no contact", |p| {
            register(p, b"alice@example.com", &[])
        }),
        case("location, dialog and kv: a sweep", |p| {
            let (mut sweep, mut gone) = (Sweep::default(), 0);
            // The turn of each.
            for _ in 0..5 {
                let mut due = Vec::new();
                sweep.step(p, AFTERWARDS, |_, _| gone += 1, |row| due.push(row));
                for row in due {
                    gone += usize::from(Dialogs(p).end(row).is_some());
                }
            }
            assert_eq!(gone, 3);
        })
        .warm(|p| {
            warm(p);
            register(p, b"mine@example.com", &["sip:m@192.0.2.4"]);
            create(p, 2, None).expect("room");
            let put = Kv(p).put(b"mine", Value::Integer(1), Some(LATER), NOW);
            put.expect("room");
        })
        .in_parts(),
    ]
}

fn dialogs() -> Vec<Case> {
    vec![
        case("dialog: create", |p| {
            let _ = create(p, 2, None).expect("room");
        }),
        case("dialog: create at the limit", |p| {
            assert_eq!(
                create(p, 2, Some(1)),
                Err(CreateError::OverLimit { nth: 0 })
            );
        }),
        case("dialog: confirm", |p| {
            let row = dialog(p);
            let done = Dialogs(p).confirm(row, b"to", NOW, |d| d.duration_until = Some(LATER));
            done.expect("there");
        }),
        case("dialog: fork", |p| {
            let row = dialog(p);
            Dialogs(p).fork(row, b"other", |_| {}).expect("room");
        }),
        case("dialog: update", |p| {
            let row = dialog(p);
            let change = Dialogs(p).update(row, |d| (true, d.caller.cseq = 7));
            change.expect("there");
        }),
        case("dialog: end", |p| {
            let row = dialog(p);
            Dialogs(p).end(row).expect("there");
        }),
        case("dialog: expire", |p| {
            let mut gone = 0;
            let (from, all) = (Cursor::default(), usize::MAX);
            let mut due = Vec::new();
            Dialogs(p).due(AFTERWARDS, from, all, |row| due.push(row));
            for row in due {
                gone += u32::from(Dialogs(p).end(row).is_some());
            }
            assert_eq!(gone, 1, "each slot expires its own");
        })
        .warm(|p| {
            warm(p);
            create(p, 2, None).expect("room");
        })
        .in_parts(),
    ]
}

/// Before: the call that is to end is one that leaves a record.
fn recorded(p: &mut Participant) {
    warm(p);
    let row = dialog(p);
    let change = Dialogs(p).update(row, |d| {
        d.flags |= flag::RECORDED | flag::RECORDED_UNANSWERED;
        (true, ())
    });
    change.expect("there");
}

/// The call goes on, or its record is there, and no second one.
fn on_record(p: &Participant) -> Result<(), String> {
    counts(p)?;
    let mut p = p
        .arena()
        .participant(ParticipantId(p.arena().participants() - 1));
    p.online();
    let goes_on = Dialogs(&mut p).find_id(DialogId([1; 16]), |_| ()).is_some();
    match (goes_on, Cdrs(&mut p).waiting()) {
        (true, 0 | 1) | (false, 1) => Ok(()),
        other => Err(format!("goes on, records: {other:?}")),
    }
}

fn end() -> End {
    End {
        cause: EndCause::Caller,
        code: 0,
        at: LATER.into(),
        keep_until: None,
        tried: None,
    }
}

fn cdr() -> Vec<Case> {
    let case = |name, operate: fn(&mut Participant)| {
        Case::new(name, prepare, operate)
            .warm(recorded)
            .check(on_record)
            // The record is there before the dialog goes.
            .in_parts()
    };
    vec![
        case("cdr: a call ends", |p| {
            let row = dialog(p);
            calls::close(p, row, &end()).expect("there");
        }),
        case("cdr: a call ends and leaves a copy", |p| {
            let row = dialog(p);
            let end = End {
                keep_until: Some(AFTERWARDS),
                ..end()
            };
            calls::close(p, row, &end).expect("there");
        }),
        case("cdr: a position is noted", |p| {
            Cdrs(p).set_position(b"here", NOW).expect("room");
        }),
    ]
}

fn balancer() -> Vec<Case> {
    vec![
        case("balancer: make", |p| {
            Balancer(p)
                .ensure(&resource(b"new"), &Resource::default())
                .expect("room");
        }),
        case("balancer: drain", |p| {
            let row = row(p, b"busy");
            Balancer(p)
                .update(row, |r| r.mode = Mode::Draining)
                .expect("there");
        }),
        case("balancer: statistics", |p| {
            let row = row(p, b"busy");
            let more = Statistics {
                calls: 3,
                ..Statistics::default()
            };
            Balancer(p).add(row, &more).expect("there");
        }),
        case("balancer: remove", |p| {
            let row = row(p, b"idle");
            Balancer(p).remove(row, NOW).expect("there");
        })
        .through_others(),
        case("balancer: reap", |p| {
            assert_eq!(Balancer(p).reap(Cursor::default(), usize::MAX), None);
            assert!(Balancer(p).find(&resource(b"busy")).is_none());
        })
        .warm(|p| {
            // Waits for its last dialog, which ends.
            let row = row(p, b"busy");
            Balancer(p).remove(row, NOW).expect("there");
            let row = dialog(p);
            Dialogs(p).end(row).expect("there");
        })
        // It is closed before it goes.
        .through_others(),
        case("balancer: remove in use", |p| {
            let row = row(p, b"busy");
            Balancer(p).remove(row, NOW).expect("there");
        }),
    ]
}

fn kv() -> Vec<Case> {
    vec![
        case("kv: put", |p| {
            let _ = Kv(p)
                .put(b"new", Value::Bytes(&[1; 300]), Some(LATER), NOW)
                .expect("room");
        }),
        case("kv: put over", |p| {
            let _ = Kv(p)
                .put(b"text", Value::Bytes(b"new"), None, NOW)
                .expect("room");
        }),
        case("kv: put if absent", |p| {
            assert_eq!(
                Kv(p).put_if_absent(b"text", Value::Integer(1), None, NOW),
                Ok(None)
            );
        }),
        case("kv: put in place of an expired one", |p| {
            let put = Kv(p).put_if_absent(b"number", Value::Integer(1), None, AFTERWARDS);
            assert!(put.expect("room").is_some());
        }),
        case("kv: compare and set", |p| {
            let version = Kv(p).get(b"text", NOW, |e| e.version).expect("prepared");
            let set = Kv(p).compare_and_set(b"text", version, Value::Bytes(b"new"), None, NOW);
            assert!(set.expect("room").is_some());
        }),
        case("kv: add", |p| {
            assert_eq!(Kv(p).add(b"number", 3, None, NOW), Ok(8))
        }),
        case("kv: add to nothing", |p| {
            assert_eq!(Kv(p).add(b"new", 3, None, NOW), Ok(3))
        }),
        case("kv: delete", |p| {
            assert_eq!(Kv(p).delete(b"text", NOW), Ok(true))
        }),
        case("kv: delete what was seen", |p| {
            let version = Kv(p).get(b"text", NOW, |e| e.version).expect("prepared");
            assert!(Kv(p).delete_version(b"text", version));
        }),
        case("kv: delete what was changed since", |p| {
            let version = Kv(p).get(b"text", NOW, |e| e.version).expect("prepared");
            let put = Kv(p).put(b"text", Value::Bytes(b"newer"), None, NOW);
            put.expect("room");
            assert!(!Kv(p).delete_version(b"text", version));
        }),
        case("kv: expire", |p| {
            p.expire(
                tables::KV,
                AFTERWARDS,
                Cursor::default(),
                usize::MAX,
                |_| {},
            );
        })
        .warm(|p| {
            for key in [b"one", b"two"] {
                let put = Kv(p).put(key, Value::Integer(1), Some(LATER), NOW);
                put.expect("room");
            }
        })
        .in_parts(),
    ]
}

fn others() -> Vec<Case> {
    vec![
        case("connection: open", |p| {
            let _ = Connections(p).open(&connection(2)).expect("room");
        }),
        case("connection: update", |p| {
            let row = open_connection(p);
            Connections(p)
                .update(row, |c| c.state = ConnectionState::Closing)
                .expect("there");
        }),
        case("connection: part of a message", |p| {
            let row = open_connection(p);
            Connections(p)
                .keep_partial(row, &[b'x'; 700])
                .expect("there");
        }),
        case("connection: close", |p| {
            let row = open_connection(p);
            assert!(Connections(p).close(row));
        }),
        case("quarantine: second death", |p| {
            assert_eq!(Quarantine(p).note_death(&death(2)), Ok((2, true)));
        }),
        case("quarantine: the same death again", |p| {
            assert_eq!(Quarantine(p).note_death(&death(1)), Ok((1, false)));
        }),
        case("quarantine: it comes again", |p| {
            assert!(Quarantine(p).drops(death(1).bytes, NOW, 5));
        })
        .warm(|p| assert_eq!(Quarantine(p).note_death(&death(2)), Ok((2, true)))),
        case("quarantine: clear", |p| {
            assert_eq!(Quarantine(p).clear(None), 1)
        }),
        case("quarantine: clear one", |p| {
            let id = Quarantine(p).list(NOW)[0].id;
            assert_eq!(Quarantine(p).clear(Some(id)), 1);
        }),
    ]
}

const KEY: &[u8] = b"z9hG4bK-of mine";

fn transactions() -> Vec<Case> {
    let published = |p: &mut Participant| {
        warm(p);
        publish_transaction(p, KEY).expect("room");
    };
    vec![
        case("transaction: reserve", |p| {
            std::mem::forget(begin_transaction(p, KEY).expect("room"));
        }),
        case("transaction: publish", |p| {
            publish_transaction(p, KEY).expect("room");
        }),
        case("transaction: give up", |p| {
            let (reserved, children) = begin_transaction(p, KEY).expect("room");
            p.abandon(reserved);
            p.free_children(&children);
        }),
        case("transaction: of another slot", |p| {
            assert!(begin_transaction(p, KEY).is_none());
        })
        .warm(published),
        case("transaction: change", |p| change_transaction(p, KEY)).warm(published),
        case("transaction: end", |p| assert!(end_transaction(p, KEY))).warm(published),
    ]
}

/// The board: each word changes at once or not at all; a use is two of them.
fn nonces() -> Vec<Case> {
    use common::board::alone::*;
    let case = |name, operate: fn(&mut Participant)| {
        let case = Case::new(name, prepare, operate);
        case.in_parts().check(holds)
    };
    vec![
        case("nonces: the next count", |p| {
            assert_eq!(take(p, MADE, 6, 2_006), Used::Now)
        }),
        case("nonces: a count out of order", |p| {
            assert_eq!(take(p, MADE, 3, 2_003), Used::Now)
        }),
        case("nonces: a count far ahead", |p| {
            assert_eq!(take(p, MADE, 40, 2_040), Used::Now)
        }),
        case("nonces: the same request again", |p| {
            assert_eq!(take(p, MADE, 5, 1_005), Used::Again)
        }),
        case("nonces: a count that was used", |p| {
            assert_eq!(take(p, MADE, 5, 2_005), Used::Before)
        }),
        case("nonces: a newer one in its place", |p| {
            assert_eq!(take(p, MADE + 1, 1, 2_001), Used::Now)
        }),
        case("nonces: an older one", |p| {
            assert_eq!(take(p, MADE - 1, 1, 2_001), Used::Unknown)
        }),
        case("nonces: forget", |p| board::nonces(p).forget(at(50))),
        Case::new(
            "nonces: the first one",
            |_| {},
            |p| assert_eq!(take(p, MADE, 1, 2_001), Used::Now),
        )
        .in_parts(),
    ]
}

fn attempts() -> Vec<Case> {
    use common::board::alone::*;
    let case = |name, operate: fn(&mut Participant)| Case::new(name, prepare, operate).check(holds);
    vec![
        case("attempts: the first failure", |p| {
            assert!(!fail(p, AT, NEW))
        }),
        case("attempts: another failure", |p| assert!(!fail(p, AT, ONCE))),
        case("attempts: one too many", |p| assert!(fail(p, AT, NEARLY))),
        case("attempts: while banned", |p| assert!(!fail(p, AT, BANNED))),
        case("attempts: after the window", |p| {
            assert!(!fail(p, AT + 10, NEARLY))
        }),
        case("attempts: after the ban", |p| {
            assert!(!fail(p, BANNED_UNTIL, BANNED))
        })
        .check(used),
        Case::new("attempts: in a full bucket", prepare_full, |p| {
            assert!(!fail(p, AT, NEW))
        })
        .check(holds),
        case("attempts: success", |p| {
            board::attempts(p).succeeded(at(AT), NEARLY)
        }),
        case("attempts: success while banned", |p| {
            board::attempts(p).succeeded(at(AT), BANNED)
        }),
    ]
}

#[track_caller]
fn all(cases: Vec<Case>) {
    let every = std::env::var_os("SHM_EVERY_INSTRUCTION").is_some();
    let (pace, what) = match every {
        true => (Pace::Instruction, "instructions"),
        false => (Pace::Store, "stores"),
    };
    for case in cases {
        let report = exhaust(&case, &arena(), pace);
        let (name, points, wrong) = (&case.name, report.instructions, &report.violations);
        println!(
            "{name}: killed after each of {points} {what}, {} different contents, {} violations",
            report.moments,
            wrong.len()
        );
        assert!(
            wrong.is_empty(),
            "{name}: first: {:#?}",
            &wrong[..wrong.len().min(3)]
        );
    }
}

#[test]
fn location_survives_every_death() {
    all(location());
}

#[test]
fn dialog_survives_every_death() {
    all(dialogs());
}

#[test]
fn the_end_of_a_call_survives_every_death() {
    all(cdr());
}

#[test]
fn balancer_survives_every_death() {
    all(balancer());
}

#[test]
fn kv_survives_every_death() {
    all(kv());
}

#[test]
fn connection_and_quarantine_survive_every_death() {
    all(others());
}

#[test]
fn transaction_survives_every_death() {
    all(transactions());
}

#[test]
fn the_board_survives_every_death() {
    all(nonces());
    all(attempts());
}
