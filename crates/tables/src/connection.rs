//! The `connection` table: connections of stream transports, so that every slot knows where to send and nothing that was received in part is lost with
//! the process that held the socket.
//!
//! ```text
//! key = id, 8 bytes | alias = transport, port, scope, IP (one connection for each peer and transport) | children: bytes received, no whole message yet
//! ```
//!
//! A row belongs to its owner, who alone changes it; anybody may [`find`](Connections::find) it. Each operation is one of `shm::ops` and takes effect where that
//! does. [`open`](Connections::open) publishes the row before anything is read from the socket, [`keep_partial`](Connections::keep_partial) the bytes in hand before the
//! process may stop, [`close`](Connections::close) removes the row before the socket is closed.
//!
//! *Full*: `open` is refused, and the connection with it. Changes go on, from what is kept back for them; `close` needs no memory.

use std::net::SocketAddr;

use shm::{
    AllocClass, Block, CHILDREN_MAX, InsertError, New, Participant, Record, ReplaceError, RowMeta,
    RowRef, Version,
};
use stdx::Instant;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::CONNECTION;
use crate::row::{Address, Fields, Header, instant, is_whole, put, row, word};

/// Attempts before an update gives up.
const ATTEMPTS_MAX: usize = 64;
/// Bytes of one child of a row at most.
const PART_BYTES: usize = 16 * 1024;
/// Bytes of a message in parts that a row keeps at most.
pub const PARTIAL_MAX: usize = PART_BYTES * CHILDREN_MAX;

row! {
    /// The header of a connection; `kind` is its state.
    pub struct ConnectionRow: version 1, 112 bytes {
        /// The transport.
        pub transport: u8,
        /// Who opened it: 1, we did.
        pub outgoing: u8,
        /// The participant that has the socket.
        pub owner: U16,
        /// The listener that accepted it, or that it is used like.
        pub listener: U32,
        /// Bytes of a message in parts, in the children.
        pub partial_bytes: U32,
        /// The peer.
        pub remote: Address,
        /// Our end.
        pub local: Address,
        /// It was opened.
        pub opened_at: U64,
        /// Something was received last.
        pub received_at: U64,
        /// It goes when nothing happens until then.
        pub idle_until: U64,
        /// What a binding names the flow by (RFC 5626 §5.2).
        pub flow: [u8; 16],
        /// Zero.
        pub reserved: U64,
    }
}

/// Tags of the fields after the header.
mod tag {
    pub(super) const PEER_NAME: u8 = 1;
}

/// What a connection speaks. The numbers are in rows and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamTransport {
    Tcp = 1,
    Tls = 2,
    Ws = 3,
    Wss = 4,
}

impl StreamTransport {
    fn read(byte: u8) -> Option<Self> {
        [Self::Tcp, Self::Tls, Self::Ws, Self::Wss]
            .into_iter()
            .find(|transport| *transport as u8 == byte)
    }
}

/// What the field `kind` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectionState {
    /// Our SYN, or a handshake, is under way.
    Opening = 1,
    /// In use.
    Open = 2,
    /// Its last bytes go out; nothing new is sent.
    Closing = 3,
}

impl ConnectionState {
    fn read(kind: u8) -> Option<Self> {
        [Self::Opening, Self::Open, Self::Closing]
            .into_iter()
            .find(|state| *state as u8 == kind)
    }
}

/// The number of a connection: never used again in the life of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A connection taken out of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub id: ConnectionId,
    pub transport: StreamTransport,
    pub state: ConnectionState,
    /// We opened it.
    pub outgoing: bool,
    /// The participant that has the socket.
    pub owner: u16,
    pub listener: u32,
    pub remote: SocketAddr,
    pub local: Option<SocketAddr>,
    pub opened_at: Instant,
    pub received_at: Option<Instant>,
    /// The row goes then; `None`: it stays until it is closed.
    pub idle_until: Option<Instant>,
    /// The flow token of RFC 5626 §5.2; zero: none.
    pub flow: [u8; 16],
    /// Who the peer is, by its certificate; empty: nobody knows.
    pub peer_name: Vec<u8>,
    /// Fields that a later release wrote.
    pub unknown: Vec<u8>,
}

/// Why there is no new row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error("there is one with this id, or with this peer")]
    Exists(RowRef),
    #[error("no memory for a new connection")]
    Full,
    #[error("others open the same connection")]
    Busy,
}

/// Why a connection was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    #[error("the connection is no more")]
    Gone,
    #[error("no memory for the change")]
    Full,
    #[error("the connection is being changed too often")]
    Busy,
    #[error("more than {PARTIAL_MAX} bytes of a message in parts")]
    TooLong,
}

/// The `connection` table through one participant.
pub struct Connections<'p>(pub &'p mut Participant);

impl Connections<'_> {
    /// Publishes a new connection.
    pub fn open(&mut self, connection: &Connection) -> Result<RowRef, OpenError> {
        let mut body = Vec::new();
        connection.encode(0, &mut body);
        let key = connection.id.0.to_le_bytes();
        let alias = alias(connection.transport, connection.remote);
        let new = New {
            key: &key,
            alias: Some(&alias),
            payload: &[&body],
            meta: meta(connection),
            ..New::default()
        };
        self.0.insert_new(CONNECTION, &new).map_err(|e| match e {
            InsertError::Exists { row, .. } | InsertError::AliasTaken { row, .. } => {
                OpenError::Exists(row)
            }
            InsertError::Stale => OpenError::Busy,
            _ => OpenError::Full,
        })
    }

    /// The connection with this id, and its row.
    pub fn find(&self, id: ConnectionId) -> Option<(RowRef, Connection)> {
        self.0
            .find(CONNECTION, &id.0.to_le_bytes(), |r| {
                Some((r.row, read(&r)?.0))
            })
            .flatten()
    }

    /// The connection with this peer, and its row.
    pub fn find_peer(
        &self,
        transport: StreamTransport,
        remote: SocketAddr,
    ) -> Option<(RowRef, Connection)> {
        self.0
            .find_alias(CONNECTION, &alias(transport, remote), |r| {
                Some((r.row, read(&r)?.0))
            })
            .flatten()
    }

    /// The connection in this row.
    pub fn get(&self, row: RowRef) -> Option<Connection> {
        self.seen(row).map(|seen| seen.connection)
    }

    /// Bytes received that make no whole message yet.
    pub fn partial(&self, row: RowRef) -> Option<Vec<u8>> {
        let seen = self.seen(row)?;
        let mut bytes: Vec<u8> = Vec::with_capacity(seen.partial_bytes.min(PARTIAL_MAX));
        for child in &seen.children {
            bytes.extend_from_slice(self.0.block(*child));
        }
        // Not as many as the header says: its writer died, or is no friend.
        (bytes.len() == seen.partial_bytes).then_some(bytes)
    }

    /// Changes a connection, not its id, transport or peer. `change` is called again if somebody else was quicker.
    pub fn update(
        &mut self,
        row: RowRef,
        mut change: impl FnMut(&mut Connection),
    ) -> Result<(), ConnectionError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut seen = self.seen(row).ok_or(ConnectionError::Gone)?;
            change(&mut seen.connection);
            let (children, bytes) = (seen.children.clone(), seen.partial_bytes);
            if self.replace(row, &seen, &children, bytes)? {
                return Ok(());
            }
        }
        Err(ConnectionError::Busy)
    }

    /// Notes what was received and makes no whole message yet, in place of what was noted before.
    pub fn keep_partial(&mut self, row: RowRef, partial: &[u8]) -> Result<(), ConnectionError> {
        if partial.len() > PARTIAL_MAX {
            return Err(ConnectionError::TooLong);
        }
        for _ in 0..ATTEMPTS_MAX {
            let seen = self.seen(row).ok_or(ConnectionError::Gone)?;
            let mut children = Vec::new();
            for part in partial.chunks(PART_BYTES) {
                match self.0.allocate(part.len(), AllocClass::Update) {
                    Ok(block) => children.push(block.fill(&[part])),
                    Err(shm::Full) => {
                        self.0.free_children(&children);
                        return Err(ConnectionError::Full);
                    }
                }
            }
            if self.replace(row, &seen, &children, partial.len())? {
                return Ok(());
            }
        }
        Err(ConnectionError::Busy)
    }

    /// Removes a connection; whether it was there.
    pub fn close(&mut self, row: RowRef) -> bool {
        self.0.remove(row, None)
    }

    fn seen(&self, row: RowRef) -> Option<Seen> {
        self.0
            .with(row, |record| {
                let (connection, partial_bytes) = read(&record)?;
                Some(Seen {
                    connection,
                    partial_bytes,
                    children: record.children.to_vec(),
                    version: record.version,
                })
            })
            .flatten()
    }

    /// `false`: somebody was quicker.
    fn replace(
        &mut self,
        row: RowRef,
        seen: &Seen,
        children: &[Block],
        partial_bytes: usize,
    ) -> Result<bool, ConnectionError> {
        let mut body = Vec::new();
        seen.connection.encode(partial_bytes, &mut body);
        let meta = meta(&seen.connection);
        match self.0.replace(row, seen.version, &[&body], children, meta) {
            Ok(_) => Ok(true),
            Err(ReplaceError::Changed) => Ok(false),
            Err(ReplaceError::Gone) => Err(ConnectionError::Gone),
            Err(_) => Err(ConnectionError::Full),
        }
    }
}

struct Seen {
    connection: Connection,
    partial_bytes: usize,
    children: Vec<Block>,
    version: Version,
}

fn meta(connection: &Connection) -> RowMeta {
    RowMeta {
        expires_at: connection.idle_until,
        flags: connection.state as u8,
    }
}

fn alias(transport: StreamTransport, remote: SocketAddr) -> [u8; 25] {
    let mut alias = [transport as u8; 25];
    if let Some(to) = alias.get_mut(1..) {
        to.copy_from_slice(Address::new(Some(remote)).as_bytes());
    }
    alias
}

impl Connection {
    fn encode(&self, partial_bytes: usize, out: &mut Vec<u8>) {
        let mut row = ConnectionRow::new_zeroed();
        row.begin(self.state as u8);
        row.transport = self.transport as u8;
        row.outgoing = u8::from(self.outgoing);
        row.owner = U16::new(self.owner);
        row.listener = U32::new(self.listener);
        row.partial_bytes = U32::new(u32::try_from(partial_bytes).unwrap_or(u32::MAX));
        row.remote = Address::new(Some(self.remote));
        row.local = Address::new(self.local);
        row.opened_at = word(Some(self.opened_at));
        row.received_at = word(self.received_at);
        row.idle_until = word(self.idle_until);
        row.flow = self.flow;
        out.extend_from_slice(row.as_bytes());
        let name = Some(self.peer_name.as_slice()).filter(|name| !name.is_empty());
        put(tag::PEER_NAME, name, out);
        out.extend_from_slice(&self.unknown);
    }
}

/// The connection in a record, and how many bytes its children hold.
fn read(record: &Record<'_>) -> Option<(Connection, usize)> {
    let (row, fields) = ConnectionRow::read(record.payload)?;
    if !is_whole(fields) {
        return None;
    }
    let (mut peer_name, mut unknown) = (Vec::new(), Vec::new());
    for (tag, value) in Fields(fields) {
        match tag {
            tag::PEER_NAME => value.clone_into(&mut peer_name),
            _ => put(tag, Some(value), &mut unknown),
        }
    }
    let connection = Connection {
        id: ConnectionId(u64::from_le_bytes(record.key.try_into().ok()?)),
        transport: StreamTransport::read(row.transport)?,
        state: ConnectionState::read(row.kind)?,
        outgoing: row.outgoing != 0,
        owner: row.owner.get(),
        listener: row.listener.get(),
        remote: row.remote.get()?,
        local: row.local.get(),
        opened_at: Instant::from_nanos(row.opened_at.get()),
        received_at: instant(row.received_at),
        idle_until: instant(row.idle_until),
        flow: row.flow,
        peer_name,
        unknown,
    };
    Some((connection, row.partial_bytes.get() as usize))
}
