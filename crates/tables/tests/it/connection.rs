//! `connection`: names, bytes in parts, expiry, full, garbage.

use shm::{Cursor, Participant, RowMeta};
use tables::connection::{
    Connection, ConnectionError, ConnectionId, ConnectionState, OpenError, PARTIAL_MAX,
    StreamTransport,
};
use tables::{CONNECTION, Connections};

use crate::world::{arena, at, everybody, online, settle, smallest};

fn connection(n: u64) -> Connection {
    Connection {
        id: ConnectionId(n),
        transport: StreamTransport::Tls,
        state: ConnectionState::Open,
        outgoing: n % 2 == 1,
        owner: 3,
        listener: 2,
        remote: format!("192.0.2.{}:{}", n % 256, 5060 + n / 256)
            .parse()
            .unwrap(),
        local: Some("[2001:db8::5]:5061".parse().unwrap()),
        opened_at: at(0),
        received_at: Some(at(1)),
        idle_until: Some(at(60)),
        flow: [9; 16],
        peer_name: b"peer.example.com".to_vec(),
        unknown: vec![200, 1, 0, 5],
    }
}

#[test]
fn it_is_found_by_id_and_by_peer() {
    let arena = arena(16 << 20);
    let mut all = everybody(&arena);
    let one = connection(1);
    let row = Connections(&mut all[0]).open(&one).unwrap();
    let mut table = Connections(&mut all[1]);
    let found = Some((row, one.clone()));
    assert_eq!(table.find(one.id), found);
    assert_eq!(table.find_peer(one.transport, one.remote), found);
    assert_eq!(table.find_peer(StreamTransport::Tcp, one.remote), None);
    assert_eq!(table.open(&one), Err(OpenError::Exists(row)));
    let mut same_peer = connection(1);
    same_peer.id = ConnectionId(2);
    assert_eq!(table.open(&same_peer), Err(OpenError::Exists(row)));
    table
        .update(row, |c| c.state = ConnectionState::Closing)
        .unwrap();
    assert_eq!(table.get(row).unwrap().state, ConnectionState::Closing);
    assert!(table.close(row) && !table.close(row));
    assert_eq!(table.find_peer(one.transport, one.remote), None);
    assert_eq!(table.update(row, |_| ()), Err(ConnectionError::Gone));
    assert!(table.open(&same_peer).is_ok());
    settle(&arena, &mut all);
}

#[test]
fn bytes_in_parts_are_kept() {
    let arena = arena(16 << 20);
    let mut all = everybody(&arena);
    let row = Connections(&mut all[0]).open(&connection(1)).unwrap();
    for len in [0, 1, 100, 16 * 1024, 16 * 1024 + 1, 70_000, 3] {
        let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let mut table = Connections(&mut all[0]);
        table.keep_partial(row, &bytes).unwrap();
        table.update(row, |c| c.received_at = Some(at(2))).unwrap();
        assert_eq!(table.partial(row).as_deref(), Some(&bytes[..]));
        all.iter_mut().for_each(Participant::quiescent);
    }
    let mut table = Connections(&mut all[0]);
    let long = vec![0; PARTIAL_MAX + 1];
    assert_eq!(
        table.keep_partial(row, &long),
        Err(ConnectionError::TooLong)
    );
    assert!(table.close(row));
    settle(&arena, &mut all);
}

#[test]
fn an_idle_one_goes() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let row = Connections(&mut p).open(&connection(1)).unwrap();
    let mut gone = Vec::new();
    p.expire(CONNECTION, at(59), Cursor::default(), usize::MAX, |r| {
        gone.push(r.row)
    });
    p.expire(CONNECTION, at(60), Cursor::default(), usize::MAX, |r| {
        gone.push(r.row)
    });
    assert_eq!(gone, [row]);
}

#[test]
fn garbage_is_no_connection() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let mut good = vec![0; 112];
    good[..6].copy_from_slice(&[1, 2, 112, 0, 2, 0]);
    for len in 0..good.len() {
        let key = (len as u64).to_le_bytes();
        p.insert(CONNECTION, &key, &[&good[..len]], &[], RowMeta::default())
            .unwrap();
        let table = Connections(&mut p);
        assert_eq!(table.find(ConnectionId(len as u64)), None);
    }
    // Without an address it is none either.
    let row = p
        .insert(CONNECTION, b"01234567", &[&good], &[], RowMeta::default())
        .unwrap();
    assert_eq!(Connections(&mut p).get(row), None);
    assert_eq!(Connections(&mut p).partial(row), None);
}

/// Full: no new connection; those that are there go on, and their bytes are kept as long as anything is.
#[test]
fn when_full_only_new_connections_are_refused() {
    let arena = smallest();
    let mut all = everybody(&arena);
    let mut rows = Vec::new();
    let refused = loop {
        match Connections(&mut all[0]).open(&connection(rows.len() as u64)) {
            Ok(row) => rows.push(row),
            Err(e) => break e,
        }
        all.iter_mut().for_each(Participant::quiescent);
    };
    assert_eq!(refused, OpenError::Full);
    for &row in &rows {
        let mut table = Connections(&mut all[0]);
        assert_eq!(table.update(row, |c| c.received_at = Some(at(9))), Ok(()));
        all.iter_mut().for_each(Participant::quiescent);
    }
    let mut table = Connections(&mut all[0]);
    assert_eq!(table.keep_partial(rows[0], b"INVITE sip:"), Ok(()));
    assert_eq!(table.partial(rows[0]).as_deref(), Some(&b"INVITE sip:"[..]));
    for row in rows {
        assert!(Connections(&mut all[0]).close(row));
    }
    settle(&arena, &mut all);
    assert!(Connections(&mut all[0]).open(&connection(0)).is_ok());
}
