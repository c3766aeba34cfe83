//! Sockets to media engines, one for each, connected, so that the kernel drops what does not come from it. None ever blocks, and one
//! descriptor, an epoll, tells the ring of all of them.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Sockets looked at, and datagrams read of each, in one go.
const EVENTS_MAX: usize = 32;
const DATAGRAMS_MAX: usize = 32;
/// Most sockets: beyond them the one that was made first is closed.
const SOCKETS_MAX: usize = 256;

/// What came.
pub(super) enum Heard<'h> {
    Datagram(SocketAddr, &'h [u8]),
    Unreachable(SocketAddr),
}

pub(super) struct Sockets {
    epoll: Epoll,
    /// Each engine's socket, by its name in the epoll.
    open: BTreeMap<u64, (SocketAddr, UdpSocket)>,
    names: BTreeMap<SocketAddr, u64>,
    /// Names are never used twice.
    named: u64,
    bytes: Box<[u8]>,
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
            open: BTreeMap::new(),
            names: BTreeMap::new(),
            named: 0,
            bytes: vec![0; ng::DATAGRAM_MAX].into(),
        })
    }

    /// Sends a question. False: nobody is there.
    pub(super) fn send(&mut self, engine: SocketAddr, bytes: &[u8]) -> bool {
        let socket = match self.socket(engine) {
            Ok(socket) => socket,
            // No descriptor, or no way there.
            Err(error) => {
                tracing::debug!(%engine, %error, "no socket to a media engine");
                return false;
            }
        };
        match socket.send(bytes) {
            Ok(_) => true,
            // A full queue loses the question as the network might: it is repeated.
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    fn socket(&mut self, engine: SocketAddr) -> io::Result<&UdpSocket> {
        let name = match self.names.get(&engine) {
            Some(&name) => name,
            None => {
                if self.open.len() >= SOCKETS_MAX
                    && let Some((_, (oldest, _))) = self.open.pop_first()
                {
                    self.names.remove(&oldest);
                }
                let socket = connected(engine)?;
                self.named += 1;
                let event = EpollEvent::new(EpollFlags::EPOLLIN, self.named);
                self.epoll.add(&socket, event)?;
                self.open.insert(self.named, (engine, socket));
                self.names.insert(engine, self.named);
                self.named
            }
        };
        match self.open.get(&name) {
            Some((_, socket)) => Ok(socket),
            None => Err(ErrorKind::NotConnected.into()),
        }
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
            let Some((engine, socket)) = self.open.get(&event.data()) else {
                continue;
            };
            for _ in 0..DATAGRAMS_MAX {
                match socket.recv(&mut self.bytes) {
                    Ok(length) => tell(Heard::Datagram(
                        *engine,
                        self.bytes.get(..length).unwrap_or_default(),
                    )),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // What ICMP said; reading it takes it away.
                    Err(_) => tell(Heard::Unreachable(*engine)),
                }
            }
        }
        // Level-triggered inside, but the ring hears of the epoll by edges: it is emptied before anybody sleeps.
        count > 0
    }
}

/// A UDP socket that hears nobody but this engine, on a port that the kernel draws.
fn connected(engine: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match engine {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(engine)?;
    Ok(socket)
}
