//! Deaths in the middle of each table's operations, beside a process that works on the same keys all the time: see `shm_testing::beside`, and the test
//! of the same name in `shm` for what can be set.

mod common;

use common::*;
use registrar::BindingSet;
use shm::{Cursor, Participant, RowRef};
use shm_testing::beside::{Dice, Operation, Rival, campaigns};
use tables::balancer::{Balancer, Mode, Resource, Statistics};
use tables::connection::{ConnectionId, ConnectionState, Connections};
use tables::dialog::{DialogId, Dialogs};
use tables::kv::{Kv, Value};
use tables::location::Location;
use tables::quarantine::Quarantine;

const ALICE: &[u8] = b"alice@example.com";
const CONTACTS: [&str; 2] = ["sip:a@192.0.2.1", "sip:b@192.0.2.3"];
const KEY: &[u8] = b"z9hG4bK-of both";

fn contacts(p: &mut Participant, count: usize) {
    let set: BindingSet = bindings(&CONTACTS[..count]);
    // Busy or full: not this time.
    let _ = Location(p).change(ALICE, |_| (Some(set.clone()), ()));
}

fn resource_row(p: &mut Participant) -> Option<RowRef> {
    Some(Balancer(p).find(&resource(b"busy"))?.row)
}

fn make(p: &mut Participant) {
    let _ = Balancer(p).ensure(&resource(b"busy"), &Resource::default());
}

fn drain(p: &mut Participant) {
    if let Some(row) = resource_row(p) {
        let _ = Balancer(p).update(row, |r| r.mode = Mode::Draining);
    }
}

fn statistics(p: &mut Participant) {
    let more = Statistics {
        calls: 3,
        ..Statistics::default()
    };
    if let Some(row) = resource_row(p) {
        let _ = Balancer(p).add(row, &more);
    }
}

fn remove(p: &mut Participant) {
    if let Some(row) = resource_row(p) {
        let _ = Balancer(p).remove(row, NOW);
    }
}

fn reap(p: &mut Participant) {
    Balancer(p).reap(Cursor::default(), usize::MAX);
}

fn dialog(p: &mut Participant, id: u8) -> Option<RowRef> {
    Dialogs(p).find_id(DialogId([id; 16]), |view| view.row)
}

fn begin(p: &mut Participant, id: u8, limit: Option<u64>) {
    let _ = create(p, id, limit);
}

fn confirm(p: &mut Participant, id: u8) {
    if let Some(row) = dialog(p, id) {
        let _ = Dialogs(p).confirm(row, b"to", NOW, |d| d.duration_until = Some(LATER));
    }
}

fn fork(p: &mut Participant, id: u8) {
    if let Some(row) = dialog(p, id) {
        let _ = Dialogs(p).fork(row, b"other", |_| {});
    }
}

fn end(p: &mut Participant, id: u8) {
    if let Some(row) = dialog(p, id) {
        Dialogs(p).end(row);
    }
}

fn expire_dialogs(p: &mut Participant) {
    let mut due = Vec::new();
    Dialogs(p).due(AFTERWARDS, Cursor::default(), usize::MAX, |row| {
        due.push(row)
    });
    for row in due {
        Dialogs(p).end(row);
    }
}

fn put(p: &mut Participant, len: usize) {
    let _ = Kv(p).put(b"text", Value::Bytes(&[1; 300][..len]), Some(LATER), NOW);
}

fn swap(p: &mut Participant) {
    if let Some(version) = Kv(p).get(b"text", NOW, |e| e.version) {
        let _ = Kv(p).compare_and_set(b"text", version, Value::Bytes(b"new"), None, NOW);
    }
}

fn put_if_absent(p: &mut Participant) {
    let _ = Kv(p).put_if_absent(b"text", Value::Integer(1), Some(LATER), AFTERWARDS);
}

fn add(p: &mut Participant) {
    let _ = Kv(p).add(b"number", 3, None, NOW);
}

fn delete(p: &mut Participant) {
    let _ = Kv(p).delete(b"text", NOW);
    let _ = Kv(p).delete(b"number", NOW);
}

fn delete_version(p: &mut Participant) {
    if let Some(version) = Kv(p).get(b"text", NOW, |e| e.version) {
        Kv(p).delete_version(b"text", version);
    }
}

fn expire_entries(p: &mut Participant) {
    let (from, all) = (Cursor::default(), usize::MAX);
    p.expire(tables::KV, AFTERWARDS, from, all, |_| {});
}

fn open(p: &mut Participant) {
    let _ = Connections(p).open(&connection(1));
}

fn open_row(p: &mut Participant) -> Option<RowRef> {
    Some(Connections(p).find(ConnectionId(1))?.0)
}

fn update(p: &mut Participant) {
    if let Some(row) = open_row(p) {
        let _ = Connections(p).update(row, |c| c.state = ConnectionState::Closing);
    }
}

fn keep_partial(p: &mut Participant) {
    if let Some(row) = open_row(p) {
        let _ = Connections(p).keep_partial(row, &[b'x'; 700]);
    }
}

fn close(p: &mut Participant) {
    if let Some(row) = open_row(p) {
        Connections(p).close(row);
    }
}

fn note_death(p: &mut Participant, mark: u64) {
    let _ = Quarantine(p).note_death(&death(mark));
}

fn drops(p: &mut Participant) {
    Quarantine(p).drops(death(1).bytes, NOW, 5);
}

fn clear(p: &mut Participant) {
    Quarantine(p).clear(None);
}

fn publish(p: &mut Participant) {
    publish_transaction(p, KEY);
}

fn change(p: &mut Participant) {
    change_transaction(p, KEY);
}

fn finish(p: &mut Participant) {
    end_transaction(p, KEY);
}

fn give_up(p: &mut Participant) {
    if let Some((reserved, children)) = begin_transaction(p, KEY) {
        p.abandon(reserved);
        p.free_children(&children);
    }
}

/// What is read while others write is one record at one moment.
fn look(p: &mut Participant) {
    Location(p).lookup(ALICE, |set| assert!(set.all().count() <= 2));
    Kv(p).get(b"text", NOW, |_| {});
    Connections(p).find(ConnectionId(1));
    Quarantine(p).list(NOW);
    resource_row(p);
}

/// What both do, by table.
const LOCATION: [fn(&mut Participant); 3] =
    [|p| contacts(p, 1), |p| contacts(p, 2), |p| contacts(p, 0)];
const RESOURCES: [fn(&mut Participant); 5] = [make, drain, statistics, remove, reap];
const DIALOGS: [fn(&mut Participant); 7] = [
    |p| begin(p, 1, None),
    |p| begin(p, 2, Some(1)),
    |p| confirm(p, 1),
    |p| fork(p, 1),
    |p| end(p, 1),
    |p| end(p, 2),
    expire_dialogs,
];
const ENTRIES: [fn(&mut Participant); 7] = [
    |p| put(p, 300),
    swap,
    put_if_absent,
    add,
    delete,
    delete_version,
    expire_entries,
];
const CONNECTIONS: [fn(&mut Participant); 4] = [open, update, keep_partial, close];
const CASES: [fn(&mut Participant); 4] = [|p| note_death(p, 1), |p| note_death(p, 2), drops, clear];
const TRANSACTIONS: [fn(&mut Participant); 4] = [publish, change, finish, give_up];

/// A rival that works on one table.
macro_rules! rival {
    ($($acts:ident),+) => {{
        fn act(p: &mut Participant, dice: Dice<'_>) {
            let acts: &[&[fn(&mut Participant)]] = &[$(&$acts),+];
            let acts = acts[dice(acts.len() as u32) as usize];
            match acts.get(dice(acts.len() as u32 + 1) as usize) {
                Some(act) => act(p),
                None => look(p),
            }
        }
        Rival { act, check: counts }
    }};
}

#[track_caller]
fn run(of: &str, rival: &Rival, operations: &[Operation]) {
    campaigns(of, operations, rival, arena, prepare);
}

#[test]
fn location_beside_another() {
    let operations = [
        Operation::new("location: first contact", |p| contacts(p, 1)).before(|p| contacts(p, 0)),
        Operation::new("location: another contact", |p| contacts(p, 2)).before(|p| contacts(p, 1)),
        Operation::new("location: no contact", |p| contacts(p, 0)).before(|p| contacts(p, 2)),
    ];
    run("location", &rival!(LOCATION), &operations);
}

#[test]
fn dialog_and_balancer_beside_another() {
    let with_dialog: fn(&mut Participant) = |p| {
        make(p);
        begin(p, 1, None);
    };
    let operations = [
        Operation::new("dialog: create", |p| begin(p, 1, None)).before(|p| {
            make(p);
            end(p, 1);
        }),
        Operation::new("dialog: create at the limit", |p| begin(p, 2, Some(1))).before(with_dialog),
        Operation::new("dialog: confirm", |p| confirm(p, 1)).before(with_dialog),
        Operation::new("dialog: fork", |p| fork(p, 1)).before(with_dialog),
        Operation::new("dialog: end", |p| end(p, 1)).before(with_dialog),
        Operation::new("dialog: expire", expire_dialogs).before(with_dialog),
        Operation::new("balancer: make", make).before(remove),
        Operation::new("balancer: drain", drain).before(make),
        Operation::new("balancer: statistics", statistics).before(make),
        Operation::new("balancer: remove", remove).before(make),
        Operation::new("balancer: reap", reap).before(|p| {
            with_dialog_removed(p);
            end(p, 1);
        }),
    ];
    run("dialog", &rival!(DIALOGS, RESOURCES), &operations);
}

fn with_dialog_removed(p: &mut Participant) {
    make(p);
    begin(p, 1, None);
    remove(p);
}

#[test]
fn kv_beside_another() {
    let operations = [
        Operation::new("kv: put", |p| put(p, 300)).before(delete),
        Operation::new("kv: put over", |p| put(p, 20)).before(|p| put(p, 300)),
        Operation::new("kv: put if absent", put_if_absent),
        Operation::new("kv: compare and set", swap).before(|p| put(p, 300)),
        Operation::new("kv: add", add),
        Operation::new("kv: delete", delete).before(|p| put(p, 300)),
        Operation::new("kv: delete what was seen", delete_version).before(|p| put(p, 300)),
        Operation::new("kv: expire", expire_entries).before(|p| put(p, 300)),
    ];
    run("kv", &rival!(ENTRIES), &operations);
}

#[test]
fn others_beside_another() {
    let operations = [
        Operation::new("connection: open", open).before(close),
        Operation::new("connection: update", update).before(open),
        Operation::new("connection: part of a message", keep_partial).before(open),
        Operation::new("connection: close", close).before(open),
    ];
    run("connection", &rival!(CONNECTIONS), &operations);
    let operations = [
        Operation::new("quarantine: death", |p| note_death(p, 3)),
        Operation::new("quarantine: it comes again", drops).before(|p| {
            note_death(p, 1);
            note_death(p, 2);
        }),
        Operation::new("quarantine: clear", clear).before(|p| note_death(p, 1)),
    ];
    run("quarantine", &rival!(CASES), &operations);
}

#[test]
fn transaction_beside_another() {
    let operations = [
        Operation::new("transaction: reserve", |p| {
            std::mem::forget(begin_transaction(p, KEY));
        })
        .before(finish),
        Operation::new("transaction: publish", publish).before(finish),
        Operation::new("transaction: give up", give_up).before(finish),
        Operation::new("transaction: change", change).before(publish),
        Operation::new("transaction: end", finish).before(publish),
    ];
    run("transaction", &rival!(TRANSACTIONS), &operations);
}

#[test]
fn board_beside_another() {
    use common::board::*;
    let rival = Rival { act, check: whole };
    let operations = [
        Operation::new("nonces: a use", use_once),
        Operation::new("nonces: a use and the same again", use_and_repeat),
        Operation::new("nonces: a newer one", use_newer),
        Operation::new("nonces: an older one", use_older),
        Operation::new("attempts: a failure", fail),
        Operation::new("attempts: failures to the ban", fail_often),
        Operation::new("attempts: strangers in the bucket", fail_as_strangers),
        Operation::new("attempts: success", succeed),
    ];
    campaigns("board", &operations, &rival, arena, begin);
    let (uses, bans) = looked_at();
    println!("board: {uses} uses granted once each, {bans} bans");
    assert!(uses > 100 && bans > 10, "{uses} uses, {bans} bans");
}
