//! Sockets to name servers. None ever blocks, and one descriptor, an epoll, tells the ring of all of them.
//!
//! To each server there are a few UDP sockets, connected, so that the kernel drops what does not come from it, each on a port that the
//! kernel draws. A socket is used for a number of questions and then for answers only, until those have had their time: so ports
//! change all the time, and an answer must hit the right one among them.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage},
};

/// Questions by one socket, before another port is drawn; while so many wait that the retired sockets could not hold them, it is used
/// for more, or answers would come to ports that are closed.
const USES_MAX: usize = 64;
/// Sockets that wait for late answers only, over all servers.
const RETIRED_MAX: usize = 128;
/// The longest datagram that is asked for.
const DATAGRAM_BYTES_MAX: usize = 4096;
/// Sockets looked at, and datagrams read of each, in one go.
const EVENTS_MAX: usize = 32;
const DATAGRAMS_MAX: usize = 32;

/// What came.
pub(super) enum Heard<'h> {
    /// Server, lane.
    Datagram(u16, u16, &'h [u8]),
    Unreachable(u16, u16),
    Stream(u64, &'h [u8]),
    Closed(u64),
}

pub(super) struct Sockets {
    epoll: Epoll,
    servers: BTreeMap<u16, SocketAddr>,
    /// The socket of each lane in use, by its name in the epoll.
    lanes: BTreeMap<(u16, u16), u64>,
    datagrams: BTreeMap<u64, Lane>,
    /// The connection of each stream by its name in the epoll.
    streams: BTreeMap<u64, Stream>,
    /// Names are never used twice.
    named: u64,
    bytes: Box<[u8]>,
}

struct Lane {
    socket: UdpSocket,
    server: u16,
    lane: u16,
    uses: usize,
}

struct Stream {
    connection: u64,
    socket: TcpStream,
    /// What is not written yet.
    left: Vec<u8>,
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Sockets {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            servers: BTreeMap::new(),
            lanes: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            streams: BTreeMap::new(),
            named: 0,
            bytes: vec![0; DATAGRAM_BYTES_MAX].into(),
        })
    }

    /// These are the servers; sockets of others are closed.
    pub(super) fn configure(&mut self, servers: impl Iterator<Item = (u16, SocketAddr)>) {
        self.servers = servers.collect();
        let servers = &self.servers;
        self.datagrams
            .retain(|_, lane| servers.contains_key(&lane.server));
        self.lanes
            .retain(|(server, _), _| servers.contains_key(server));
    }

    fn name(&mut self) -> u64 {
        self.named += 1;
        self.named
    }

    /// Sends a question, beside so many that wait. False if that can't be.
    pub(super) fn send(&mut self, server: u16, lane: u16, bytes: &[u8], waiting: usize) -> bool {
        let uses_max = USES_MAX.max(waiting.div_ceil(RETIRED_MAX / 2));
        let Some(name) = self.lane(server, lane, uses_max) else {
            return false;
        };
        let Some(open) = self.datagrams.get_mut(&name) else {
            return false;
        };
        open.uses += 1;
        // A full queue loses the question as the network might: it is repeated. An error is often about an earlier one, told now.
        let sent = open.socket.send(bytes).or_else(|error| match error.kind() {
            ErrorKind::WouldBlock => Ok(0),
            _ => open.socket.send(bytes),
        });
        sent.is_ok()
    }

    /// The socket to send by; another one after a number of uses.
    fn lane(&mut self, server: u16, lane: u16, uses_max: usize) -> Option<u64> {
        let old = self.lanes.get(&(server, lane)).copied();
        let fit = old
            .and_then(|name| self.datagrams.get(&name))
            .is_some_and(|lane| lane.uses < uses_max);
        if fit {
            return old;
        }
        let address = *self.servers.get(&server)?;
        let name = self.name();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, name);
        let new = connected(address).and_then(|socket| {
            self.epoll.add(&socket, event)?;
            Ok(socket)
        });
        let socket = match new {
            Ok(socket) => socket,
            // No descriptor, or no port: the old one will do.
            Err(error) => {
                tracing::debug!(%address, %error, "no new socket to a name server");
                return old;
            }
        };
        let open = Lane {
            socket,
            server,
            lane,
            uses: 0,
        };
        self.datagrams.insert(name, open);
        self.lanes.insert((server, lane), name);
        self.close_oldest();
        Some(name)
    }

    /// Names grow, so the first are the oldest.
    fn close_oldest(&mut self) {
        let retired = self.datagrams.len().saturating_sub(self.lanes.len());
        if retired <= RETIRED_MAX {
            return;
        }
        let in_use = |name: &u64| self.lanes.values().any(|used| used == name);
        if let Some(oldest) = self.datagrams.keys().copied().find(|name| !in_use(name)) {
            self.datagrams.remove(&oldest);
        }
    }

    /// Connects to a server and writes `bytes` as soon as that is done. False if it can't even be tried.
    pub(super) fn open(&mut self, connection: u64, server: u16, bytes: Vec<u8>) -> bool {
        let Some(&address) = self.servers.get(&server) else {
            return false;
        };
        let Ok(socket) = connecting(address) else {
            return false;
        };
        let name = self.name();
        let event = EpollEvent::new(EpollFlags::EPOLLOUT | EpollFlags::EPOLLIN, name);
        if self.epoll.add(&socket, event).is_err() {
            return false;
        }
        let stream = Stream {
            connection,
            socket,
            left: bytes,
        };
        self.streams.insert(name, stream);
        true
    }

    pub(super) fn close(&mut self, connection: u64) {
        self.streams
            .retain(|_, stream| stream.connection != connection);
    }

    /// Reads what has come, a bounded piece of it. True if there may be more.
    pub(super) fn hear(&mut self, mut tell: impl FnMut(Heard<'_>)) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => return true,
            Err(_) => return false,
        };
        for event in events.iter().take(count) {
            let name = event.data();
            if let Some(lane) = self.datagrams.get(&name) {
                lane.hear(&mut self.bytes, &mut tell);
            } else if let Some(stream) = self.streams.get_mut(&name) {
                let connection = stream.connection;
                let alive = stream.go_on(&mut self.bytes, &mut tell);
                let writes = !stream.left.is_empty();
                if !alive {
                    self.streams.remove(&name);
                    tell(Heard::Closed(connection));
                } else if !writes {
                    let mut event = EpollEvent::new(EpollFlags::EPOLLIN, name);
                    // It stays as it is if that fails, and wakes us for nothing until the machine closes it.
                    let _ = self.epoll.modify(&stream.socket, &mut event);
                }
            }
        }
        // Level-triggered inside, but the ring hears of the epoll by edges: it is emptied before anybody sleeps.
        count > 0
    }
}

impl Lane {
    fn hear(&self, bytes: &mut [u8], tell: &mut impl FnMut(Heard<'_>)) {
        for _ in 0..DATAGRAMS_MAX {
            match self.socket.recv(bytes) {
                Ok(length) => tell(Heard::Datagram(
                    self.server,
                    self.lane,
                    bytes.get(..length).unwrap_or_default(),
                )),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // What ICMP said; reading it takes it away.
                Err(_) => tell(Heard::Unreachable(self.server, self.lane)),
            }
        }
    }
}

impl Stream {
    /// Writes and reads as far as it goes. False at its end.
    fn go_on(&mut self, bytes: &mut [u8], tell: &mut impl FnMut(Heard<'_>)) -> bool {
        while !self.left.is_empty() {
            match self.socket.write(&self.left) {
                Ok(0) => return false,
                Ok(written) => {
                    self.left.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        for _ in 0..DATAGRAMS_MAX {
            match self.socket.read(bytes) {
                Ok(0) => return false,
                Ok(length) => tell(Heard::Stream(
                    self.connection,
                    bytes.get(..length).unwrap_or_default(),
                )),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// A UDP socket that hears nobody but this server, on a port that the kernel draws.
fn connected(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    Ok(socket)
}

/// A TCP socket on its way to this server.
fn connecting(server: SocketAddr) -> io::Result<TcpStream> {
    let family = match server {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}
