//! What a turn of the loop asks of the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use stdx::Instant;

/// A socket of this driver, numbered by the caller: the listener it belongs to, for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketIndex(pub u16);

/// What a turn brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A datagram lies in `buffer`, which is the caller's until [`Driver::release`]. Its bytes are read by
    /// [`datagram`](crate::datagram()).
    Datagram {
        socket: SocketIndex,
        buffer: u16,
        source: SocketAddr,
        /// Where it was sent to; `None` for a socket that doesn't ask the kernel (see `os::udp_socket`).
        local: Option<SocketAddr>,
        /// Bytes of the payload that lie in the buffer; zero for an empty datagram.
        len: u32,
        /// The datagram was longer than its buffer and lost its end.
        truncated: bool,
    },
    /// The descriptor armed under `token` became readable since the last such event.
    Poll { token: u32 },
    /// A datagram did not leave; UDP gives no second try. `errno` is the kernel's word: EAGAIN when the socket's queue is
    /// full, EMSGSIZE, ENETUNREACH, ECONNREFUSED by an earlier ICMP message, EPERM by a firewall.
    SendFailed {
        socket: SocketIndex,
        to: SocketAddr,
        /// Bytes of the datagram.
        len: usize,
        errno: i32,
    },
    /// All buffers were in use: what arrives now waits in the socket. Goes on by itself once buffers are released.
    Starved { socket: SocketIndex },
    /// Receiving stopped by an error of the socket and was started again, after a while if that keeps happening.
    ReceiveFailed { socket: SocketIndex, errno: i32 },
}

/// Datagrams and doorbells, in turns. One thread makes a driver and uses it.
pub trait Driver {
    /// Starts receiving from `fd` and allows sending through it, until [`disarm_udp`](Self::disarm_udp). The driver keeps
    /// its own reference to the socket. An error if the index is in use or too large.
    fn arm_udp(&mut self, socket: SocketIndex, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Stops receiving from a socket. What the kernel read before still comes as events of the next turns.
    fn disarm_udp(&mut self, socket: SocketIndex);

    /// Reports every time that `fd` becomes readable, without reading it: meant for eventfds. Also reports at once if it
    /// is readable now.
    fn arm_poll(&mut self, token: u32, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Sends a datagram, at the latest with the next turn. The bytes are copied. `from` is the address that it leaves from, for a socket that is
    /// bound to every address; `None`: the socket's own, or one of the kernel's choice. Failures come as [`Event::SendFailed`]; there is no
    /// event of success.
    fn send_udp(
        &mut self,
        socket: SocketIndex,
        from: Option<IpAddr>,
        to: &SocketAddr,
        bytes: &[u8],
    );

    /// Gives a buffer back to the kernel, zeroing its header first. Nothing happens for a buffer the kernel has already.
    fn release(&mut self, buffer: u16);

    /// Whether the next turn would return at once, as far as can be told without asking the kernel.
    fn ready(&self) -> bool;

    /// Submits everything queued, waits for at least one event or for the deadline (`None`: without end) and appends what
    /// came to `events`. May return early with nothing. An error is a defect of the ring and final.
    fn turn(&mut self, deadline: Option<Instant>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Sends what is queued, stops all receiving and appends what had already come. After it the kernel reads nothing
    /// more from the sockets for this driver, and sending is all it can do.
    fn quiesce(&mut self, events: &mut Vec<Event>) -> io::Result<()>;
}
