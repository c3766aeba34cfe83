//! The stage of real processes: each server a `tandem`, each party a UDP socket on a loopback address of its own.
//!
//! SIP's timers are long. The servers get shorter ones ([`SCALE`] times), and the times of a flow are shortened likewise; what a flow
//! says stays what an RFC says. Messages between two servers are read from a raw socket, which only root may open.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recv, socket,
};

use super::engine::{Datagram, Stage};
use super::place::{complete, placed};
use super::syntax::Flow;
use crate::machine::{free_port, fresh_address, wait_dead};
use crate::server::{LIMIT, Server};

/// How much faster than in a flow time goes here.
pub const SCALE: u32 = 10;

/// How long what comes at once may take: generous, the machine may be busy. Unit: real time.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Real {
    servers: HashMap<String, Server>,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    /// One raw socket for each server, where there are several.
    taps: Vec<(Ipv4Addr, OwnedFd)>,
    blind: Option<String>,
    addresses: HashMap<String, SocketAddr>,
    ready: VecDeque<Datagram>,
    start: Instant,
    /// Keeps the folder of failpoints that act once.
    _once: tempfile::TempDir,
}

impl Real {
    /// Starts all servers of a flow and waits until they serve.
    pub fn start(flow: &Flow) -> Self {
        let mut addresses = HashMap::new();
        let mut sockets = Vec::new();
        for party in &flow.parties {
            let socket = UdpSocket::bind((fresh_address(), 0)).expect("loopback has free ports");
            socket
                .set_nonblocking(true)
                .expect("sockets can be nonblocking");
            let address = socket.local_addr().expect("a bound socket has an address");
            addresses.insert(party.name.clone(), address);
            sockets.push((address, socket));
        }
        for proxy in &flow.proxies {
            let ip = fresh_address();
            addresses.insert(proxy.name.clone(), (ip, free_port(ip)).into());
        }
        let (mut taps, mut blind) = (Vec::new(), None);
        if flow.proxies.len() > 1 {
            for proxy in &flow.proxies {
                match tap(addresses[&proxy.name]) {
                    Ok(tap) => taps.push(tap),
                    Err(error) => {
                        blind = Some(format!("messages between servers cannot be read: {error}"))
                    }
                }
            }
        }
        let once = tempfile::tempdir().expect("a temporary directory");
        let servers: HashMap<String, Server> = flow
            .proxies
            .iter()
            .map(|proxy| {
                let SocketAddr::V4(address) = addresses[&proxy.name] else {
                    unreachable!("loopback addresses are of IPv4")
                };
                let config = complete(&placed(&proxy.config, &addresses), SCALE);
                let plan = proxy.failpoints.join(";");
                let server = Server::spawn_planned(
                    *address.ip(),
                    address.port(),
                    &config,
                    &plan,
                    once.path(),
                );
                (proxy.name.clone(), server)
            })
            .collect();
        servers.values().for_each(Server::wait_ready);
        Self {
            servers,
            sockets,
            taps,
            blind,
            addresses,
            ready: VecDeque::new(),
            start: Instant::now(),
            _once: once,
        }
    }

    /// The end of each server's log.
    pub fn logs(&self) -> String {
        self.servers
            .iter()
            .fold(String::new(), |mut text, (name, server)| {
                let log = server.log();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines.len().saturating_sub(15);
                let _ = write!(text, "\nlog of {name}:\n{}", lines[tail..].join("\n"));
                text
            })
    }

    fn read(&mut self) {
        let mut buffer = vec![0; 65_536];
        for (to, socket) in &self.sockets {
            while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                self.ready.push_back(Datagram {
                    from,
                    to: *to,
                    bytes: buffer[..n].to_vec(),
                });
            }
        }
        for (_, tap) in &self.taps {
            while let Ok(n) = recv(tap.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                self.ready.extend(tapped(&buffer[..n]));
            }
        }
    }
}

impl Stage for Real {
    fn address(&self, name: &str) -> SocketAddr {
        self.addresses[name]
    }

    fn now(&self) -> Duration {
        self.start.elapsed() * SCALE
    }

    fn patience(&self) -> Duration {
        PATIENCE * SCALE
    }

    fn send(&mut self, party: &str, to: SocketAddr, bytes: &[u8]) {
        let from = self.addresses[party];
        let (_, socket) = self
            .sockets
            .iter()
            .find(|(address, _)| *address == from)
            .expect("every party has a socket");
        // A port that refused an earlier datagram is no error of this one.
        let sent = socket
            .send_to(bytes, to)
            .or_else(|_| socket.send_to(bytes, to));
        assert_eq!(sent.ok(), Some(bytes.len()), "loopback takes it");
    }

    fn receive(&mut self, limit: Duration) -> Option<Datagram> {
        let end = Instant::now() + limit / SCALE;
        loop {
            if self.ready.is_empty() {
                self.read();
            }
            if let Some(datagram) = self.ready.pop_front() {
                return Some(datagram);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let mut fds: Vec<PollFd<'_>> = self
                .sockets
                .iter()
                .map(|(_, socket)| socket.as_fd())
                .chain(self.taps.iter().map(|(_, tap)| tap.as_fd()))
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            let whole_ms = left.as_millis().clamp(1, 1000);
            let timeout = PollTimeout::try_from(i32::try_from(whole_ms).unwrap_or(1000))
                .unwrap_or(PollTimeout::ZERO);
            // Interrupted or not: the sockets are read again.
            let _ = poll(&mut fds, timeout);
        }
    }

    fn kill(&mut self, proxy: &str, slot: Option<u64>) -> Result<(), String> {
        let server = &self.servers[proxy];
        let workers = server.signalling();
        let doomed: Vec<i32> = workers
            .iter()
            .filter(|worker| slot.is_none_or(|slot| worker.slots.contains(&slot)))
            .map(|worker| worker.pid)
            .collect();
        if doomed.is_empty() {
            return Err(format!("no worker has this slot: {workers:?}"));
        }
        doomed.iter().for_each(|&pid| server.kill_worker(pid));
        doomed.iter().for_each(|&pid| wait_dead(pid, LIMIT));
        Ok(())
    }

    fn forget(&mut self, proxy: &str) -> Result<(), String> {
        let server = self.servers.get_mut(proxy).ok_or("no such server")?;
        server.power_cut();
        server.forget_all_but_the_secret();
        server.run_again();
        server.wait_ready();
        Ok(())
    }

    fn number(&mut self, proxy: &str, of: &str) -> Result<u64, String> {
        let server = &self.servers[proxy];
        let status = server
            .try_status()
            .ok_or("the server says nothing of itself")?;
        if let Some(number) = status[of].as_u64() {
            return Ok(number);
        }
        let counters = server.counters();
        let found = counters.iter().find(|(name, _)| name == of);
        found
            .map(|(_, number)| *number)
            .ok_or_else(|| format!("neither in the status nor a counter: {of}"))
    }

    fn run(&mut self, proxy: &str, arguments: &[String]) -> Result<(), String> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let out = self.servers[proxy].command(&arguments);
        if out.status.success() {
            return Ok(());
        }
        Err(format!(
            "{}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        ))
    }

    fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }
}

/// A raw socket gets a copy of every datagram to its address.
fn tap(address: SocketAddr) -> nix::Result<(Ipv4Addr, OwnedFd)> {
    let SocketAddr::V4(address) = address else {
        return Err(nix::Error::EAFNOSUPPORT);
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Udp)?;
    let ip = address.ip().octets();
    bind(
        fd.as_raw_fd(),
        &SockaddrIn::new(ip[0], ip[1], ip[2], ip[3], 0),
    )?;
    Ok((*address.ip(), fd))
}

/// A datagram from an IPv4 packet.
fn tapped(packet: &[u8]) -> Option<Datagram> {
    let words = usize::from(packet.first()? & 15);
    let ip = |at: usize| -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(bytes.into())
    };
    let udp = packet.get(4 * words..)?;
    let number = |at: usize| Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?));
    Some(Datagram {
        from: (ip(12)?, number(0)?).into(),
        to: (ip(16)?, number(2)?).into(),
        bytes: udp.get(8..usize::from(number(4)?))?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet() {
        let mut packet = vec![0x45; 20];
        packet[12..20].copy_from_slice(&[127, 0, 0, 1, 127, 0, 0, 2]);
        packet.extend([0, 5, 0, 6, 0, 10, 0, 0, b'h', b'i']);
        let datagram = tapped(&packet).expect("a datagram");
        assert_eq!(datagram.from, ([127, 0, 0, 1], 5).into());
        assert_eq!(
            (datagram.to, &datagram.bytes[..]),
            (([127, 0, 0, 2], 6).into(), &b"hi"[..])
        );
        assert!(tapped(&packet[..25]).is_none());
    }
}
