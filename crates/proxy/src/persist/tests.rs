use std::{net::IpAddr, time::Duration};

use shm::{Arena, Layout, Participant, ParticipantId, RowMeta, RowRef};
use tables::TRANSACTION;
use topology::{Policy, Side};
use transaction::{Reliability, Timers};

use super::*;
use crate::{
    Domain, Forking, Listener,
    ask::{Backup, Destination},
    call::{Bye, CallRef, Role, session::SessionAsk},
    context::Rest,
    hidden::Hidden,
};

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        version: 1,
        listeners: vec![Listener::new(1, "10.9.9.9:5060".parse().unwrap(), None)],
        addresses: crate::Addresses::default(),
        domains: vec![Domain::new("example.org", true)],
        timers: Timers::default(),
        timer_c: Duration::from_secs(190),
        registrar: registrar::Policy::default(),
        dialog_key: stdx::hash::Key([9; 16]),
        hiding: crate::hidden::Hiding::of_key(&stdx::hash::Key([9; 16])),
        branches_max: 12,
        forking: Forking::default(),
        media: Vec::new(),
        auth: crate::AuthPolicy::default(),
    })
}

fn context(settings: &Arc<Settings>) -> Context {
    let address = "10.0.0.1:5060".parse().unwrap();
    let id = ContextId {
        index: 0,
        generation: 0,
    };
    let origin = Origin {
        key: b"key",
        fold: 7,
        method: Method::Invite,
        listener: 1.into(),
        source: address,
        reply_to: address,
    };
    let mut context = Context {
        stage: Stage::Forwarding,
        realm: b"realm".to_vec(),
        asked: 3,
        dirty: false,
        turn: 4,
        ..Context::new(id, settings, &origin)
    };
    let mut branch = Branch::new(0, &context);
    branch.client = Some(Client::Invite(InviteClient::new(
        Instant::from_nanos(5),
        &Timers::default(),
        Reliability::Unreliable,
    )));
    context.branches.push(branch);
    context
}

fn target(uri: &str) -> Target {
    Target {
        path: Some(b"<sip:10.0.0.9;lr>".to_vec()),
        q: 300,
        backups: vec![
            Backup::uri("sip:b"),
            Backup {
                destination: Some(Destination {
                    resource: RowRef {
                        index: 3,
                        generation: 4,
                    },
                    limit: Some(7),
                }),
                ..Backup::uri("sip:c")
            },
        ],
        recurse: true,
        listener: Some(2),
        local: uri.ends_with('c').then(|| IpAddr::from([192, 0, 2, 9])),
        ..Target::uri(uri)
    }
}

fn body(context: &Context) -> Vec<u8> {
    let (mut body, mut children) = (Vec::new(), Vec::new());
    encode(context, &mut body, &mut children);
    body
}

/// A record, by way of an arena.
fn read(participant: &mut Participant, body: &[u8], children: &[Block]) -> Option<Box<Context>> {
    let row = {
        let reserved = participant.reserve(TRANSACTION, b"key").unwrap();
        participant
            .publish(reserved, b"key", &[body], children, RowMeta::default())
            .unwrap()
    };
    let nameless = ContextId {
        index: 0,
        generation: 0,
    };
    let settings = settings();
    let found = participant
        .with(row, |record| decode(&record, nameless, &settings))
        .flatten();
    participant.remove(row, None);
    participant.quiescent();
    found
}

#[test]
fn what_is_to_come_is_behind_what_an_older_release_reads() {
    let arena = Arena::heap(&Layout::new(16 << 20, 1, 1, tables::TABLES), [7; 16]).unwrap();
    let mut participant = arena.participant(ParticipantId(0));
    participant.online();
    let settings = settings();
    let plain = context(&settings);
    let before = body(&plain);
    let read_back = read(&mut participant, &before, &[]).expect("a record of before");
    assert!(read_back.groups.is_empty() && !read_back.recurses);
    assert_eq!(body(&read_back), before);

    let mut planned = context(&settings);
    planned.groups = vec![
        vec![target("sip:one"), target("sip:two")],
        vec![target("sip:three")],
    ];
    planned.group_at = Some(Instant::from_nanos(99));
    planned.recurses = true;
    planned.tried = vec![1, u64::MAX];
    planned.call = Some(CallRef {
        row: RowRef {
            index: 5,
            generation: 6,
        },
        place: 7,
        role: Role::Callee,
        shift: 0,
        rack_shift: -3,
        session: SessionAsk {
            expires: 1800,
            min: 90,
            supported: true,
        },
        bye: Some(Bye {
            at: Instant::from_nanos(1234),
            early: true,
        }),
    });
    planned.hidden = Some(Hidden {
        towards: Side::Callee,
        policy: Policy {
            agents: true,
            key: 9,
            ..Policy::default()
        },
        initial: true,
    });
    let with_groups = body(&planned);
    assert_eq!(with_groups.get(..before.len()), Some(before.as_slice()));

    let mut later = plain.branches[0].clone();
    later.number = 1;
    later.hop_at = Some(Instant::from_nanos(77));
    later.rest = Some(Box::new(Rest {
        target: target("sip:four"),
        hops: vec!["[::1]:5062".parse().unwrap(), "10.0.0.5:9".parse().unwrap()],
    }));
    later.destination = target("sip:six").backups[1].destination;
    later.sent_at = Some(Instant::from_nanos(78));
    let mut waiting = Branch::new(2, &plain);
    waiting.waiting = Some(Box::new(Target {
        backups: vec![Backup::uri("sip:d")],
        ..Target::uri("sip:five")
    }));
    planned.branches.extend([later, waiting]);
    let whole = body(&planned);
    // Without its request it cannot go on.
    let read_back = read(&mut participant, &whole, &[]).expect("a record of now");
    assert!(!read_back.may_go_on());
    let request = participant
        .allocate(3, shm::AllocClass::New)
        .unwrap()
        .fill(&[b"abc"]);
    planned.request = Some(request);
    let with_request = body(&planned);
    let read_back = read(&mut participant, &with_request, &[request]).expect("a record of now");
    assert!(read_back.may_go_on());
    assert_eq!(body(&read_back), with_request);
    assert_eq!(read_back.groups, planned.groups);
    assert_eq!(read_back.call, planned.call);
    assert_eq!(read_back.hidden, planned.hidden);
    let destinations = |context: &Context| -> Vec<_> {
        let branches = context.branches.iter();
        branches
            .map(|branch| (branch.destination, branch.sent_at))
            .collect()
    };
    assert_eq!(destinations(&read_back), destinations(&planned));

    // Of a listener on all addresses.
    let mut everywhere = context(&settings);
    everywhere.listener.ip = Some("192.0.2.7".parse().unwrap());
    everywhere.branches[0].listener.ip = Some("2001:db8::7".parse().unwrap());
    let read_back = read(&mut participant, &body(&everywhere), &[]).expect("a record of now");
    assert_eq!(read_back.listener, everywhere.listener);
    assert_eq!(
        read_back.branches[0].listener,
        everywhere.branches[0].listener
    );

    // Torn or flipped anywhere: read as something or dropped, never a panic.
    for at in 0..whole.len() {
        read(&mut participant, &whole[..at], &[]);
        let mut flipped = whole.clone();
        flipped[at] ^= 0xa5;
        read(&mut participant, &flipped, &[]);
    }
}
