//! Every message survives the way through a frame; nothing that arrives instead makes the decoder panic.

use control::*;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..24).prop_map(|chars| chars.into_iter().collect())
}

fn table_request() -> impl Strategy<Value = TableRequest> {
    prop_oneof![
        (proptest::option::of(text()), any::<Option<u32>>())
            .prop_map(|(domain, limit)| TableRequest::RegistrationsList { domain, limit }),
        text().prop_map(|aor| TableRequest::RegistrationsShow { aor }),
        (text(), proptest::option::of(text()))
            .prop_map(|(aor, contact)| TableRequest::RegistrationsRemove { aor, contact }),
        Just(TableRequest::Audit),
    ]
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    let hello = (
        any::<(u64, u16, u16, u16, u32, u64, [u8; 16])>(),
        proptest::option::of(text()),
    )
        .prop_map(
            |((incarnation, aux, slots_total, reactors, spin_us, config_version, secret), user)| {
                ToWorker::Hello {
                    incarnation,
                    aux,
                    recover_aux: aux % 2 == 0,
                    slots_total,
                    reactors,
                    user,
                    spin_us,
                    config_version,
                    secret: control::Secret(secret),
                    successor: aux % 3 == 0,
                }
            },
        );
    let sockets =
        any::<(u32, std::net::IpAddr, u16, u16)>().prop_map(|(listener, ip, port, from_slot)| {
            ToWorker::Sockets {
                listener,
                asked: (ip, 0).into(),
                address: (ip, port).into(),
                from_slot,
            }
        });
    let slots = proptest::collection::vec(
        any::<(u16, Option<u16>)>().prop_map(|(slot, core)| SlotAssign { slot, core }),
        0..16,
    );
    let assign = (any::<(u16, bool, bool, u64)>(), slots).prop_map(
        |((worker, recover, fault, died_at_ns), slots)| ToWorker::Assign {
            worker,
            slots,
            recover,
            fault,
            died_at_ns,
        },
    );
    prop_oneof![
        hello,
        sockets,
        assign,
        any::<u16>().prop_map(|from_slot| ToWorker::Doorbells { from_slot }),
        any::<u32>().prop_map(|listener| ToWorker::RemoveListener { listener }),
        any::<(u16, Option<u16>)>().prop_map(|(slot, core)| ToWorker::Pin {
            slots: vec![SlotAssign { slot, core }]
        }),
        any::<u64>().prop_map(|version| ToWorker::Config { version }),
        Just(ToWorker::HandOver),
        Just(ToWorker::StandBy),
        Just(ToWorker::Export),
        Just(ToWorker::Import),
        Just(ToWorker::Hail),
        Just(ToWorker::Surrender),
        Just(ToWorker::Adopt),
        table_request().prop_map(|request| ToWorker::Query { request }),
    ]
}

fn from_worker() -> impl Strategy<Value = FromWorker> {
    prop_oneof![
        Just(FromWorker::Ready),
        Just(FromWorker::HandedOver),
        Just(FromWorker::Surrendered),
        any::<(u64, u16, Option<u16>, Vec<u16>, u64, Vec<u32>)>().prop_map(
            |(incarnation, aux, worker, serving, config_version, listeners)| FromWorker::Orphan {
                incarnation,
                aux,
                worker,
                serving,
                config_version,
                listeners,
            }
        ),
        any::<(u16, u64, [u8; 16])>().prop_map(|(slots_total, config_version, secret)| {
            FromWorker::Estate {
                slots_total,
                config_version,
                secret: control::Secret(secret),
            }
        }),
        any::<u16>().prop_map(|from_slot| FromWorker::Doorbells { from_slot }),
        any::<(u32, std::net::IpAddr, u16, u16)>().prop_map(|(listener, ip, port, from_slot)| {
            FromWorker::Sockets {
                listener,
                asked: (ip, 0).into(),
                address: (ip, port).into(),
                from_slot,
            }
        }),
        text().prop_map(|message| FromWorker::Failed { message }),
        (text(), text(), any::<(u64, u32, Vec<u8>)>()).prop_map(
            |(id, source, (unix_ms, deaths, bytes))| {
                FromWorker::Quarantined(control::Quarantined {
                    received_on: source.clone(),
                    id,
                    source,
                    unix_ms,
                    deaths,
                    bytes,
                })
            }
        ),
        any::<u64>().prop_map(|version| FromWorker::Applied { version }),
        any::<(u16, u32, u32, u64)>().prop_map(|(slot, replayed, transactions, recovered_ns)| {
            FromWorker::Serving {
                slot,
                replayed,
                transactions,
                recovered_ns,
            }
        }),
    ]
}

fn client_request() -> impl Strategy<Value = ClientRequest> {
    prop_oneof![
        Just(ClientRequest::Status),
        Just(ClientRequest::Reload),
        Just(ClientRequest::Stop),
        proptest::option::of(text()).prop_map(|pattern| ClientRequest::Stats { pattern }),
        any::<Option<u16>>().prop_map(|worker| ClientRequest::Restart { worker }),
        table_request().prop_map(ClientRequest::Table),
    ]
}

fn contact() -> impl Strategy<Value = ContactLine> {
    (
        (
            text(),
            any::<u16>(),
            any::<u64>(),
            text(),
            any::<u32>(),
            text(),
        ),
        (proptest::option::of(text()), any::<Option<u32>>()),
        (proptest::option::of(text()), proptest::option::of(text())),
    )
        .prop_map(
            |(
                (uri, q, expires_s, call_id, cseq, path),
                (instance, reg_id),
                (received, user_agent),
            )| ContactLine {
                uri,
                q,
                expires_s,
                call_id,
                cseq,
                path,
                instance,
                reg_id,
                received,
                user_agent,
            },
        )
}

fn status() -> impl Strategy<Value = StatusReport> {
    let worker =
        any::<(Option<u16>, u32, u8, Vec<u16>, u64)>().prop_map(|(id, pid, role, slots, count)| {
            WorkerStatus {
                id,
                pid,
                role: [Role::Signalling, Role::Edge, Role::Spare][usize::from(role % 3)],
                slots,
                incarnation: count,
                restarts: count / 2,
                last_exit: id.map(|id| format!("SIGKILL {id}")),
                uptime_ms: count / 3,
            }
        });
    let slot = any::<(u16, Option<u16>, Option<u64>, Option<u64>)>().prop_map(
        |(id, worker, died, served)| SlotStatus {
            id,
            worker,
            core: worker,
            messages: 5,
            died_ns: died,
            recovered_ns: served,
            first_served_ns: served,
            latency: LatencyStatus::default(),
        },
    );
    (
        text(),
        proptest::collection::vec(worker, 0..4),
        proptest::collection::vec(slot, 0..4),
        0.0..1e9f64,
    )
        .prop_map(|(version, workers, slots, messages_per_s)| StatusReport {
            version: version.clone(),
            listeners: vec![ListenerStatus {
                address: version.clone(),
                transports: vec![version],
                spread: "flow".into(),
            }],
            workers,
            slots,
            rates: Rates { messages_per_s },
            snapshot: SnapshotStatus {
                age_ms: Some(7),
                ..SnapshotStatus::default()
            },
            ..StatusReport::default()
        })
}

fn client_reply() -> impl Strategy<Value = ClientReply> {
    prop_oneof![
        status().prop_map(ClientReply::Status),
        proptest::collection::vec(
            (text(), any::<u64>(), text()).prop_map(|(name, value, description)| StatLine {
                name,
                value,
                description
            }),
            0..8
        )
        .prop_map(ClientReply::Stats),
        (text(), proptest::collection::vec(contact(), 0..4)).prop_map(|(aor, contacts)| {
            ClientReply::Registration(RegistrationLine { aor, contacts })
        }),
        text().prop_map(ClientReply::Note),
        any::<u64>().prop_map(ClientReply::StoredUsers),
        Just(ClientReply::Done),
        (text(), text()).prop_map(|(message, remedy)| ClientReply::Error { message, remedy }),
    ]
}

fn survives<M: Message + PartialEq + std::fmt::Debug>(message: &M) -> Result<(), TestCaseError> {
    let frame = encode(message).expect("small messages fit");
    prop_assert_eq!(
        &decode::<M>(&frame).expect("what was written can be read"),
        message
    );
    for cut in 0..frame.len() {
        prop_assert!(
            decode::<M>(&frame[..cut]).is_err(),
            "a frame cut at {} was read",
            cut
        );
    }
    Ok(())
}

/// Damage may yield another valid message; it must not panic.
fn damaged<M: Message>(message: &M, at: usize, byte: u8) {
    let mut frame = encode(message).expect("small messages fit");
    let at = at % frame.len();
    frame[at] = byte;
    let _ = decode::<M>(&frame);
}

proptest! {
    #[test]
    fn to_worker_survives(message in to_worker()) { survives(&message)?; }

    #[test]
    fn from_worker_survives(message in from_worker()) { survives(&message)?; }

    #[test]
    fn client_request_survives(message in client_request()) { survives(&message)?; }

    #[test]
    fn client_reply_survives(message in client_reply()) { survives(&message)?; }

    #[test]
    fn damage_never_panics(
        to in to_worker(), from in from_worker(), request in client_request(), reply in client_reply(),
        at in any::<usize>(), byte in any::<u8>(),
    ) {
        damaged(&to, at, byte);
        damaged(&from, at, byte);
        damaged(&request, at, byte);
        damaged(&reply, at, byte);
    }

    #[test]
    fn garbage_never_panics(kind in 1u8..6, garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut frame = b"TNDM".to_vec();
        frame.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        frame.push(kind);
        frame.extend_from_slice(&garbage);
        for frame in [&frame[..], &garbage] {
            let _ = decode::<ToWorker>(frame);
            let _ = decode::<FromWorker>(frame);
            let _ = decode::<ClientRequest>(frame);
            let _ = decode::<ClientReply>(frame);
        }
    }
}

#[test]
fn the_json_of_a_status_report_has_the_contract_names() {
    let report = StatusReport {
        workers: vec![WorkerStatus {
            id: None,
            pid: 7,
            role: Role::Spare,
            slots: Vec::new(),
            incarnation: 3,
            restarts: 0,
            last_exit: None,
            uptime_ms: 1,
        }],
        slots: vec![SlotStatus {
            id: 0,
            worker: Some(1),
            core: None,
            messages: 9,
            died_ns: Some(100),
            recovered_ns: Some(150),
            first_served_ns: Some(250),
            latency: LatencyStatus::default(),
        }],
        arena: ArenaStatus {
            tables: vec![TableStatus::default()],
            classes: vec![ClassStatus::default()],
            ..ArenaStatus::default()
        },
        ..StatusReport::default()
    };
    assert_eq!(report.slots[0].takeover_ns(), Some(150));
    let json = serde_json::to_value(&report).expect("plain data");
    for (path, keys) in [
        (
            "",
            "version supervisor uptime_ms config_version driver listeners workers slots arena registrations dialogs transactions rates snapshot cdr",
        ),
        ("/supervisor", "pid"),
        (
            "/workers/0",
            "id pid role slots incarnation restarts last_exit uptime_ms",
        ),
        (
            "/slots/0",
            "id worker core messages died_ns recovered_ns first_served_ns latency",
        ),
        (
            "/arena",
            "bytes_used bytes_mapped limit pages bytes_huge tables classes",
        ),
        ("/arena/tables/0", "name records bytes"),
        ("/arena/classes/0", "bytes used"),
        ("/rates", "messages_per_s"),
        (
            "/snapshot",
            "period_ms age_ms records bytes took_ms failures",
        ),
        ("/cdr", "path waiting written lost failures"),
    ] {
        let object = json
            .pointer(path)
            .and_then(|value| value.as_object())
            .expect("an object");
        let mut found: Vec<_> = object.keys().map(String::as_str).collect();
        let mut wanted: Vec<_> = keys.split(' ').collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "at {path:?}");
    }
    assert_eq!(json["workers"][0]["role"], "spare");
}

/// Two releases of one protocol number must agree on these: a new variant goes to the end.
#[test]
fn variants_keep_their_numbers() {
    use control::{ArenaPlan, Secret, TableRequest, encode};
    /// The byte behind the frame's header.
    fn number<M: control::Message>(message: &M) -> u8 {
        encode(message).unwrap()[7]
    }
    assert_eq!(control::PROTOCOL_VERSION, 3);
    let plan = ArenaPlan {
        limit: 0,
        slots: 0,
        aux: 0,
        first_process: 0,
        key: Secret([0; 16]),
        huge_pages: 0,
    };
    let request = TableRequest::RegistrationsShow { aor: String::new() };
    let to_worker = [
        (ToWorker::Doorbells { from_slot: 0 }, 1),
        (ToWorker::RemoveListener { listener: 0 }, 3),
        (ToWorker::Config { version: 0 }, 4),
        (ToWorker::Pin { slots: vec![] }, 6),
        (ToWorker::HandOver, 7),
        (ToWorker::Query { request }, 8),
        (ToWorker::Surrender, 9),
        (ToWorker::Adopt, 10),
        (ToWorker::MakeArena(plan), 11),
        (ToWorker::StandBy, 12),
        (ToWorker::Export, 13),
        (ToWorker::Import, 14),
        (ToWorker::Hail, 15),
        (ToWorker::PrefixTable { image: 0 }, 16),
    ];
    for (message, wanted) in to_worker {
        assert_eq!(number(&message), wanted, "{message:?}");
    }
    let from_worker = [
        (FromWorker::Ready, 0),
        (FromWorker::Applied { version: 0 }, 3),
        (FromWorker::HandedOver, 4),
        (FromWorker::Surrendered, 9),
    ];
    for (message, wanted) in from_worker {
        assert_eq!(number(&message), wanted, "{message:?}");
    }
    let client = [
        (ClientRequest::Status, 0),
        (ClientRequest::Reload, 4),
        (ClientRequest::Stop, 5),
        (ClientRequest::Users, 7),
        (ClientRequest::UsersChanged, 8),
    ];
    for (message, wanted) in client {
        assert_eq!(number(&message), wanted, "{message:?}");
    }
}
