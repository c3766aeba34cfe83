//! A UDP socket that speaks SIP messages and never retransmits.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::message::Message;

/// How long a peer waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Unit: bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

#[derive(Debug)]
pub struct Peer {
    socket: UdpSocket,
    pub address: SocketAddr,
}

impl Peer {
    pub fn bind(ip: impl Into<IpAddr>) -> Self {
        Self::bind_port(ip, 0)
    }

    /// On a port that somebody else has written into a message; the address is the test's own.
    pub fn bind_port(ip: impl Into<IpAddr>, port: u16) -> Self {
        let socket = UdpSocket::bind((ip.into(), port)).expect("loopback has free ports");
        let address = socket.local_addr().expect("a bound socket has an address");
        // The kernel's default holds some 90 messages; only root gets past its limit.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER));
        Self { socket, address }
    }

    pub fn send(&self, message: &Message, to: SocketAddr) {
        self.send_bytes(&message.to_bytes(), to);
    }

    /// Sends one datagram as it is. A refused port of an earlier datagram is no error of this one.
    pub fn send_bytes(&self, bytes: &[u8], to: SocketAddr) {
        let sent = self
            .socket
            .send_to(bytes, to)
            .or_else(|_| self.socket.send_to(bytes, to));
        assert_eq!(
            sent.ok(),
            Some(bytes.len()),
            "loopback takes {} bytes",
            bytes.len()
        );
    }

    /// The next SIP message within `limit`; what is no SIP message is skipped.
    pub fn receive(&self, limit: Duration) -> Option<(Message, SocketAddr)> {
        let end = Instant::now() + limit;
        loop {
            let (bytes, from) =
                self.receive_bytes(end.saturating_duration_since(Instant::now()))?;
            if let Some(message) = Message::parse(&bytes) {
                return Some((message, from));
            }
        }
    }

    pub fn receive_bytes(&self, limit: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        let end = Instant::now() + limit;
        let mut buffer = vec![0; 65_536];
        loop {
            let left = end
                .saturating_duration_since(Instant::now())
                .max(Duration::from_micros(100));
            self.socket
                .set_read_timeout(Some(left))
                .expect("a timeout above zero");
            match self.socket.recv_from(&mut buffer) {
                Ok((n, from)) => {
                    buffer.truncate(n);
                    return Some((buffer, from));
                }
                Err(_) if Instant::now() < end => {}
                Err(_) => return None,
            }
        }
    }

    /// A SIP message that has already arrived. Never waits: a timeout, however short, lasts a tick of the
    /// kernel.
    pub fn receive_now(&self) -> Option<(Message, SocketAddr)> {
        let mut buffer = vec![0; 65_536];
        self.socket
            .set_nonblocking(true)
            .expect("sockets can be nonblocking");
        let mut found = None;
        while let Ok((n, from)) = self.socket.recv_from(&mut buffer) {
            found = buffer.get(..n).and_then(Message::parse).map(|m| (m, from));
            if found.is_some() {
                break;
            }
        }
        self.socket
            .set_nonblocking(false)
            .expect("sockets can be blocking");
        found
    }

    /// Waits until something has come to one of them, or until then.
    pub fn wait_for_any(peers: &[&Self], until: Instant) {
        let mut sockets: Vec<PollFd<'_>> = peers
            .iter()
            .map(|peer| PollFd::new(peer.socket.as_fd(), PollFlags::POLLIN))
            .collect();
        let left = until.saturating_duration_since(Instant::now());
        let ms = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        // Interrupted: whoever waits looks again.
        let _ = poll(&mut sockets, PollTimeout::from(ms));
    }

    /// The next message that `wanted` accepts; others are dropped. Panics, naming what came, if none comes.
    #[track_caller]
    pub fn expect(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> (Message, SocketAddr) {
        self.expect_within(what, PATIENCE, wanted)
    }

    #[track_caller]
    pub fn expect_within(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Message) -> bool,
    ) -> (Message, SocketAddr) {
        let end = Instant::now() + limit;
        let mut others = Vec::new();
        while let Some((message, from)) =
            self.receive(end.saturating_duration_since(Instant::now()))
        {
            if wanted(&message) {
                return (message, from);
            }
            others.push(message.start);
        }
        panic!("{what} did not come within {limit:?}; came: {others:?}");
    }

    /// Nothing that `unwanted` accepts may come for `duration`.
    #[track_caller]
    pub fn expect_silence(&self, duration: Duration, unwanted: impl Fn(&Message) -> bool) {
        let end = Instant::now() + duration;
        while let Some((message, _)) = self.receive(end.saturating_duration_since(Instant::now())) {
            assert!(
                !unwanted(&message),
                "unexpected: {}\n{:?}",
                message.start,
                message.headers
            );
        }
    }

    /// Throws away what has arrived.
    pub fn drain(&self) {
        while self.receive_bytes(Duration::from_millis(1)).is_some() {}
    }
}

/// Text that is unique over all processes on this machine: for tags, branches and Call-IDs.
pub fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:x}.{:x}.{n:x}", std::process::id(), since.as_millis())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn two_peers_talk() {
        let (a, b) = (
            Peer::bind(Ipv4Addr::LOCALHOST),
            Peer::bind(Ipv4Addr::LOCALHOST),
        );
        a.send_bytes(b"noise", b.address);
        a.send(
            &Message::request("OPTIONS", "sip:b").with("Call-ID", "1"),
            b.address,
        );
        let (m, from) = b.expect("OPTIONS", |m| m.method() == "OPTIONS");
        assert_eq!((m.call_id(), from), ("1", a.address));
        assert!(b.receive_now().is_none());
        b.expect_silence(Duration::from_millis(5), |_| true);
        assert_ne!(unique(), unique());
    }
}
