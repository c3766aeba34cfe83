//! What the tests of deaths do to the tables.
#![allow(dead_code, reason = "every test uses another part")]

pub mod board;

use registrar::{Binding, BindingSet};
use shm::{
    AllocClass, Arena, Block, Layout, Participant, ParticipantId, Reserved, RowMeta, RowRef,
};
use stdx::Instant;
use tables::balancer::{Balancer, Resource, ResourceKey, ResourceKind};
use tables::connection::{Connection, ConnectionId, ConnectionState, Connections, StreamTransport};
use tables::dialog::{CountIn, CreateError, Dialog, DialogId, Dialogs, View};
use tables::kv::{Kv, Value};
use tables::location::Location;
use tables::quarantine::{Death, Quarantine};
use tables::{TABLES, TRANSACTION};

pub const NOW: Instant = Instant::from_nanos(1_000_000_000);
pub const LATER: Instant = Instant::from_nanos(9_000_000_000);
pub const AFTERWARDS: Instant = Instant::from_nanos(20_000_000_000);

pub fn arena() -> Arena {
    let layout = Layout {
        rx_buffers: 4,
        rx_buffer_bytes: 512,
        ..Layout::new(0, 2, 2, TABLES)
    };
    let limit = layout.least_limit();
    Arena::create(&Layout { limit, ..layout }, [7; 16]).expect("memory for a small arena")
}

/// Some of everything, made by the other participant.
pub fn prepare(arena: &Arena) {
    let mut p = arena.participant(ParticipantId(1));
    p.online();
    register(&mut p, b"alice@example.com", &["sip:a@192.0.2.1"]);
    for name in [b"busy", b"idle"] {
        Balancer(&mut p)
            .ensure(&resource(name), &Resource::default())
            .expect("room");
    }
    create(&mut p, 1, None).expect("room");
    Kv(&mut p)
        .put(b"text", Value::Bytes(b"old"), None, NOW)
        .expect("room");
    Kv(&mut p)
        .put(b"number", Value::Integer(5), Some(LATER), NOW)
        .expect("room");
    Connections(&mut p).open(&connection(1)).expect("room");
    Quarantine(&mut p).note_death(&death(1)).expect("room");
}

pub fn bindings(contacts: &[&str]) -> BindingSet {
    let mut set = BindingSet::new();
    for contact in contacts {
        let pushed = set.push(Binding {
            contact: contact.as_bytes().to_vec(),
            q: 1000,
            expires_at: LATER,
            call_id: b"call".to_vec(),
            cseq: 1,
            path: Vec::new(),
            instance: None,
            reg_id: None,
            received: None,
            listener: 0,
            user_agent: b"test".to_vec(),
            updated_at: NOW,
            flow: registrar::Flow::default(),
        });
        assert!(pushed);
    }
    set
}

pub fn register(p: &mut Participant, aor: &[u8], contacts: &[&str]) {
    let set = bindings(contacts);
    Location(p)
        .change(aor, |_| (Some(set.clone()), ()))
        .expect("room");
}

pub fn resource(name: &[u8]) -> ResourceKey {
    ResourceKey::of(ResourceKind::Domain, name)
}

pub fn create(p: &mut Participant, id: u8, limit: Option<u64>) -> Result<RowRef, CreateError> {
    let mut dialog = Dialog::new(DialogId([id; 16]), &[b'c', id], b"from", NOW);
    dialog.answer_until = Some(LATER.into());
    let Some(resource) = Balancer(p).find(&resource(b"busy")).map(|f| f.row) else {
        return Err(CreateError::NoResource { nth: 0 });
    };
    Dialogs(p).create(dialog, &[CountIn { resource, limit }])
}

pub fn connection(id: u64) -> Connection {
    Connection {
        id: ConnectionId(id),
        transport: StreamTransport::Tcp,
        state: ConnectionState::Open,
        outgoing: false,
        owner: 0,
        listener: 0,
        remote: ([192, 0, 2, id as u8], 5060).into(),
        local: None,
        opened_at: NOW,
        received_at: None,
        idle_until: None,
        flow: [0; 16],
        peer_name: Vec::new(),
        unknown: Vec::new(),
    }
}

pub fn death(mark: u64) -> Death<'static> {
    Death {
        bytes: b"INVITE sip:poison",
        source: ([192, 0, 2, 9], 5060).into(),
        local: None,
        mark,
        unix_ms: 1,
        expires_at: LATER,
    }
}

/// Dialogs that count in a resource, by its cells, are as many as name it.
pub fn counts(p: &Participant) -> Result<(), String> {
    let mut p = p
        .arena()
        .participant(ParticipantId(p.arena().participants() - 1));
    p.online();
    // What a dialog counts in is there as long as it is, and counts it.
    let mut by_resource = std::collections::HashMap::<_, (Vec<u8>, u64)>::new();
    p.rows(tables::DIALOG, |r| {
        let view = View::new(&r).expect("a dialog");
        if view.state == tables::dialog::DialogState::Ended {
            return;
        }
        for (row, key) in view.counted() {
            let resource = by_resource.entry(row).or_default();
            *resource = (key.to_vec(), resource.1 + 1);
        }
    });
    if let Some(busy) = Balancer(&mut p).find(&resource(b"busy")) {
        by_resource.entry(busy.row).or_default();
    }
    for (row, (key, dialogs)) in by_resource {
        match Balancer(&mut p).get(row) {
            Some(found)
                if found.live == dialogs && (dialogs == 0 || found.key.as_bytes() == key) => {}
            found => return Err(format!("{dialogs} dialogs count in {found:?}")),
        }
    }
    Ok(())
}

/// What `proxy` does at a transaction's first message: its row is reserved, because branches name it, and the request kept.
pub fn begin_transaction(p: &mut Participant, key: &[u8]) -> Option<(Reserved, Vec<Block>)> {
    let reserved = p.reserve(TRANSACTION, key).ok()?;
    Some((reserved, vec![store(p, 400, AllocClass::New)?]))
}

/// The end of that turn: the context, with the request and what was sent.
pub fn publish_transaction(p: &mut Participant, key: &[u8]) -> Option<RowRef> {
    let (reserved, mut children) = begin_transaction(p, key)?;
    children.extend(store(p, 600, AllocClass::New));
    let context: &[u8] = &[1; 200];
    p.publish(reserved, key, &[context], &children, RowMeta::default())
        .ok()
}

/// A later turn: the request is kept, what was sent is another, and there is a best response.
pub fn change_transaction(p: &mut Participant, key: &[u8]) {
    let found = p.find(TRANSACTION, key, |r| {
        (r.row, r.version, r.children.first().copied())
    });
    let Some((row, version, request)) = found else {
        return;
    };
    let new = [600, 350].map(|bytes| store(p, bytes, AllocClass::Update));
    let children: Vec<Block> = request
        .into_iter()
        .chain(new.into_iter().flatten())
        .collect();
    let context: &[u8] = &[2; 260];
    // Changed since: its new blocks are freed.
    let _ = p.replace(row, version, &[context], &children, RowMeta::default());
}

/// The last machine has ended.
pub fn end_transaction(p: &mut Participant, key: &[u8]) -> bool {
    let row = p.find(TRANSACTION, key, |r| r.row);
    row.is_some_and(|row| p.remove(row, None))
}

fn store(p: &mut Participant, bytes: usize, class: AllocClass) -> Option<Block> {
    let block = p.allocate(bytes, class).ok()?;
    Some(block.fill(&[&vec![3; bytes]]))
}
