//! Instruction counts of `kv` and `dialog`, in tables as full as those of a site.
//!
//! `cargo bench -p tables` needs valgrind and the `gungraun-runner` of the same version as the library.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use shm::{Arena, Layout, Participant, ParticipantId, RowRef};
use stdx::Instant;
use tables::balancer::{Resource, ResourceKey, ResourceKind};
use tables::dialog::{CountIn, Dialog, DialogId};
use tables::kv::Value;
use tables::{Balancer, Dialogs, Kv};

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
const ROWS: u32 = 10_000;

fn participant() -> Participant {
    let mut layout = Layout::new(64 << 20, 4, 8, tables::TABLES);
    layout.rx_buffers = 4;
    layout.rx_buffer_bytes = 1024;
    let arena = Arena::heap(&layout, [7; 16]).expect("an arena");
    let mut participant = arena.participant(ParticipantId(0));
    participant.online();
    participant
}

fn pairs() -> Participant {
    let mut participant = participant();
    for n in 0..ROWS {
        let key = format!("limit:user{n}@example.com");
        let done = Kv(&mut participant).put(key.as_bytes(), Value::Bytes(&[7; 32]), None, NOW);
        assert!(done.is_ok());
    }
    for _ in 0..3 {
        assert!(Kv(&mut participant).add(b"calls", 1, None, NOW).is_ok());
        participant.quiescent();
    }
    participant
}

const KEY: &[u8] = b"limit:user4711@example.com";

#[library_benchmark]
#[bench::hit(pairs())]
fn kv_get(mut participant: Participant) -> (Participant, Option<bool>) {
    let found = Kv(&mut participant).get(black_box(KEY), NOW, |e| e.expires_at.is_none());
    (participant, found)
}

#[library_benchmark]
#[bench::overwrite(pairs(), KEY)]
#[bench::new(pairs(), b"limit:newcomer@example.com")]
fn kv_put(mut participant: Participant, key: &[u8]) -> (Participant, bool) {
    let value = Value::Bytes(&[8; 32]);
    let done = Kv(&mut participant).put(black_box(key), value, None, NOW);
    (participant, done.is_ok())
}

#[library_benchmark]
#[bench::known(pairs())]
fn kv_add(mut participant: Participant) -> (Participant, i64) {
    let sum = Kv(&mut participant).add(black_box(b"calls"), 1, None, NOW);
    (participant, sum.unwrap_or_default())
}

fn dialog(n: u32) -> Dialog {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_le_bytes());
    let call_id = format!("{n:08x}1j9FpLxk3uxtm8tn@biloxi.example.com");
    let mut dialog = Dialog::new(DialogId(id), call_id.as_bytes(), b"1928301774", NOW);
    dialog.caller.uri = b"sip:alice@atlanta.example.com".to_vec();
    dialog.callee.uri = b"sip:bob@biloxi.example.com".to_vec();
    dialog.caller.target = b"sip:alice@192.0.2.1:5060;transport=udp".to_vec();
    dialog
}

fn calls() -> (Participant, RowRef, RowRef) {
    let mut participant = participant();
    let key = ResourceKey::of(ResourceKind::Domain, b"example.com");
    let domain = Balancer(&mut participant).ensure(&key, &Resource::default());
    let domain = domain.expect("a resource");
    let mut one = None;
    for n in 0..ROWS {
        let row = Dialogs(&mut participant)
            .create(dialog(n), &[])
            .expect("room");
        let confirmed = Dialogs(&mut participant).confirm(row, b"a6c85cf", NOW, |d| {
            d.callee.target = b"sip:bob@192.0.2.2:5060;transport=udp".to_vec();
        });
        assert!(confirmed.is_ok());
        if n == 4711 {
            one = Some(row);
        }
        participant.quiescent();
    }
    (participant, one.expect("it is one of them"), domain)
}

type Calls = (Participant, RowRef, RowRef);

#[library_benchmark]
#[bench::caller(calls())]
fn dialog_find_id((mut participant, row, domain): Calls) -> (Calls, Option<u8>) {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&4711_u32.to_le_bytes());
    let found = Dialogs(&mut participant).find_id(black_box(DialogId(id)), |v| v.state as u8);
    ((participant, row, domain), found)
}

#[library_benchmark]
#[bench::caller(calls(), b"1928301774", b"a6c85cf")]
#[bench::callee(calls(), b"a6c85cf", b"1928301774")]
fn dialog_find((mut participant, row, domain): Calls, from: &[u8], to: &[u8]) -> (Calls, bool) {
    let call_id = b"000012671j9FpLxk3uxtm8tn@biloxi.example.com";
    let found = Dialogs(&mut participant).find(black_box(call_id), from, to, |v, _| v.row == row);
    ((participant, row, domain), found == Some(true))
}

#[library_benchmark]
#[bench::plain(calls(), dialog(99_999), 0)]
#[bench::counted(calls(), dialog(99_999), 1)]
fn dialog_create(
    (mut participant, row, domain): Calls,
    dialog: Dialog,
    counts: usize,
) -> (Calls, bool) {
    let count = CountIn {
        resource: domain,
        limit: Some(1_000_000),
    };
    let done = Dialogs(&mut participant).create(black_box(dialog), &[count][..counts]);
    ((participant, row, domain), done.is_ok())
}

#[library_benchmark]
#[bench::cseq(calls())]
fn dialog_update((mut participant, row, domain): Calls) -> (Calls, bool) {
    let done = Dialogs(&mut participant).update(black_box(row), |d| {
        d.caller.cseq += 1;
        (true, ())
    });
    ((participant, row, domain), done.is_ok())
}

#[library_benchmark]
#[bench::plain(calls())]
fn dialog_end((mut participant, row, domain): Calls) -> (Calls, bool) {
    let done = Dialogs(&mut participant).end(black_box(row)).is_some();
    ((participant, row, domain), done)
}

library_benchmark_group!(
    name = rows,
    benchmarks = [
        kv_get,
        kv_put,
        kv_add,
        dialog_find_id,
        dialog_find,
        dialog_create,
        dialog_update,
        dialog_end
    ]
);
main!(library_benchmark_groups = rows);
