//! Connections of the command line: served without ever blocking the loop, bounded in number, bytes and time.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use control::{ClientReply, ClientRequest, FrameBuffer};
use stdx::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientId(pub(crate) u32);

/// Connections at a time; the next one is closed at once.
const CLIENTS_MAX: usize = 64;
/// Bytes of a request; every request is far smaller.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Bytes of replies that may wait for a slow reader.
const REPLY_BYTES_MAX: usize = 4 << 20;
/// How long a request may take to arrive, or a reply to be read.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    read: FrameBuffer,
    write: Vec<u8>,
    /// Its request came and is being worked on.
    asked: bool,
    /// Close once everything is written.
    closing: bool,
    /// `None` while it waits for us.
    deadline: Option<Instant>,
}

/// What a readable connection had to say.
#[derive(Debug)]
pub(crate) enum Heard {
    Nothing,
    Request(ClientRequest),
    /// The connection is gone; it was removed.
    Gone,
}

#[derive(Debug, Default)]
pub(crate) struct Clients {
    clients: BTreeMap<ClientId, Client>,
    next: u32,
}

impl Clients {
    /// `None`: too many, the connection is closed.
    pub(crate) fn add(&mut self, stream: UnixStream, now: Instant) -> Option<ClientId> {
        if self.clients.len() >= CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
            return None;
        }
        let id = ClientId(self.next);
        self.next = self.next.wrapping_add(1);
        let deadline = Some(now.saturating_add(PATIENCE));
        let client = Client {
            stream,
            read: FrameBuffer::default(),
            write: Vec::new(),
            asked: false,
            closing: false,
            deadline,
        };
        self.clients.insert(id, client);
        Some(id)
    }

    /// One whose request the program before us began.
    pub(crate) fn add_asker(&mut self, fd: OwnedFd, now: Instant) -> Option<ClientId> {
        let id = self.add(UnixStream::from(fd), now)?;
        if let Some(client) = self.clients.get_mut(&id) {
            client.asked = true;
            client.deadline = None;
        }
        Some(id)
    }

    pub(crate) fn fd(&self, id: ClientId) -> Option<BorrowedFd<'_>> {
        self.clients.get(&id).map(|client| client.stream.as_fd())
    }

    pub(crate) fn wants_to_write(&self, id: ClientId) -> bool {
        self.clients
            .get(&id)
            .is_some_and(|client| !client.write.is_empty())
    }

    pub(crate) fn on_readable(&mut self, id: ClientId, now: Instant) -> Heard {
        let Some(client) = self.clients.get_mut(&id) else {
            return Heard::Gone;
        };
        match client.hear() {
            Ok(Some(request)) => {
                client.asked = true;
                client.deadline = None;
                Heard::Request(request)
            }
            Ok(None) => Heard::Nothing,
            Err(Deaf::Gone) => {
                self.clients.remove(&id);
                Heard::Gone
            }
            Err(Deaf::Wrong(message)) => {
                let remedy =
                    "use the `tandem` of the same version as the running server".to_owned();
                self.reply(id, &ClientReply::Error { message, remedy }, now);
                Heard::Nothing
            }
        }
    }

    /// Queues a reply and writes what can be written. `Done` and `Error` end the connection.
    pub(crate) fn reply(&mut self, id: ClientId, reply: &ClientReply, now: Instant) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let Ok(bytes) = control::stream::to_bytes(reply) else {
            tracing::warn!("a reply to a command is too large and was dropped with its connection");
            self.clients.remove(&id);
            return;
        };
        if client.write.len() + bytes.len() > REPLY_BYTES_MAX {
            self.clients.remove(&id);
            return;
        }
        client.write.extend_from_slice(&bytes);
        client.closing |= matches!(reply, ClientReply::Done | ClientReply::Error { .. });
        if client.deadline.is_none() || client.closing {
            client.deadline = Some(now.saturating_add(PATIENCE));
        }
        self.flush(id);
    }

    /// Writes what waits; removes the connection when it is done or broken.
    pub(crate) fn flush(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        match client.flush() {
            Ok(true) if client.closing => drop(self.clients.remove(&id)),
            // Nothing waits: the next deadline comes with the next reply.
            Ok(true) if client.asked => client.deadline = None,
            Ok(_) => {}
            Err(_) => drop(self.clients.remove(&id)),
        }
    }

    /// Forgets the connection; it stays open if somebody else holds it.
    pub(crate) fn forget(&mut self, id: ClientId) {
        self.clients.remove(&id);
    }

    /// Prepares a connection for a worker that answers on it: it blocks again, for [`PATIENCE`] at most.
    pub(crate) fn lend(connection: BorrowedFd<'_>) -> io::Result<()> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        use nix::sys::socket::{setsockopt, sockopt};
        use nix::sys::time::{TimeVal, TimeValLike as _};
        let flags = OFlag::from_bits_retain(fcntl(connection, FcntlArg::F_GETFL)?);
        fcntl(connection, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        let patience = TimeVal::seconds(PATIENCE.as_secs() as i64);
        Ok(setsockopt(&connection, sockopt::SendTimeout, &patience)?)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.clients
            .values()
            .filter_map(|client| client.deadline)
            .min()
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        self.clients
            .retain(|_, client| client.deadline.is_none_or(|deadline| deadline > now));
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.clients.len()
    }
}

enum Deaf {
    Gone,
    Wrong(String),
}

impl Client {
    fn hear(&mut self) -> Result<Option<ClientRequest>, Deaf> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(Deaf::Gone),
                // One request a connection: what follows it is nobody's.
                Ok(_) if self.asked => {}
                Ok(n) => {
                    self.read.push(bytes.get(..n).unwrap_or_default());
                    if self.read.len() > REQUEST_BYTES_MAX {
                        return Err(Deaf::Wrong("the request is too large".into()));
                    }
                    if let Some(request) = self
                        .read
                        .next_message()
                        .map_err(|error| Deaf::Wrong(error.to_string()))?
                    {
                        return Ok(Some(request));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Deaf::Gone),
            }
        }
    }

    /// Whether everything is written.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.write.is_empty() {
            match self.stream.write(&self.write) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => drop(self.write.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use control::stream::{read_message, to_bytes, write_message};

    use super::*;

    fn now() -> Instant {
        Instant::from_nanos(1)
    }

    fn connected() -> (Clients, ClientId, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut clients = Clients::default();
        let id = clients.add(ours, now()).unwrap();
        (clients, id, theirs)
    }

    #[test]
    fn a_request_in_pieces_is_heard_once() {
        let (mut clients, id, mut theirs) = connected();
        for byte in to_bytes(&ClientRequest::Status).unwrap() {
            assert!(matches!(clients.on_readable(id, now()), Heard::Nothing));
            theirs.write_all(&[byte]).unwrap();
        }
        assert!(matches!(
            clients.on_readable(id, now()),
            Heard::Request(ClientRequest::Status)
        ));
        assert_eq!(clients.deadline(), None);
        clients.reply(id, &ClientReply::Note("half".into()), now());
        assert_eq!((clients.deadline(), clients.len()), (None, 1));
        clients.reply(id, &ClientReply::Done, now());
        assert_eq!(clients.len(), 0);
        assert!(matches!(
            read_message(&mut theirs),
            Ok(Some(ClientReply::Note(_)))
        ));
        assert!(matches!(
            read_message(&mut theirs),
            Ok(Some(ClientReply::Done))
        ));
        assert!(matches!(read_message::<ClientReply>(&mut theirs), Ok(None)));
    }

    #[test]
    fn silent_and_slow_clients_are_dropped() {
        let (mut clients, id, _theirs) = connected();
        clients.expire(now().saturating_add(PATIENCE - Duration::from_nanos(1)));
        assert_eq!(clients.len(), 1);
        clients.expire(now().saturating_add(PATIENCE));
        assert_eq!(clients.len(), 0);
        assert!(matches!(clients.on_readable(id, now()), Heard::Gone));

        let (mut clients, id, mut theirs) = connected();
        write_message(&mut theirs, &ClientRequest::Status).unwrap();
        assert!(matches!(clients.on_readable(id, now()), Heard::Request(_)));
        let note = ClientReply::Note("x".repeat(500_000));
        clients.reply(id, &note, now());
        assert!(clients.wants_to_write(id) && clients.deadline().is_some());
        (0..20).for_each(|_| clients.reply(id, &note, now()));
        assert_eq!(clients.len(), 0);
    }

    #[test]
    fn noise_is_answered_and_a_gone_client_forgotten() {
        let (mut clients, id, mut theirs) = connected();
        theirs.write_all(&[4, 0, 0, 0, 1, 2, 3, 4]).unwrap();
        assert!(matches!(clients.on_readable(id, now()), Heard::Nothing));
        assert!(matches!(
            read_message(&mut theirs),
            Ok(Some(ClientReply::Error { .. }))
        ));
        let (mut clients, id, theirs) = connected();
        drop(theirs);
        assert!(matches!(clients.on_readable(id, now()), Heard::Gone));
        assert_eq!(clients.len(), 0);
    }

    #[test]
    fn no_more_than_the_bound() {
        let mut clients = Clients::default();
        let added = (0..CLIENTS_MAX + 3)
            .filter_map(|_| clients.add(UnixStream::pair().unwrap().0, now()))
            .count();
        assert_eq!(added, CLIENTS_MAX);
    }
}
