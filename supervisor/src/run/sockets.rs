//! One UDP socket per listener and slot, made here and never closed while the listener exists: closing a member of a
//! reuseport group moves another's index, and what waits in a dead worker's socket waits for its heir.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use config::{Listen, Spread};

use super::holder;
use super::trouble::Trouble;

/// What a socket's receive buffer is asked to hold, in bytes: some 3,500 SIP messages. The kernel's default holds 92.
pub(crate) const RECEIVE_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Listener {
    /// Names it in messages to workers; never reused.
    pub(crate) id: u32,
    /// As the configuration asks, port 0 included.
    pub(crate) asked: SocketAddr,
    /// As it is; the address is the one bound.
    pub(crate) listen: Listen,
    /// By slot.
    sockets: Vec<OwnedFd>,
}

impl Listener {
    /// Opens the sockets of every slot, or none.
    pub(crate) fn open(id: u32, listen: &Listen, slots: u16) -> Result<Self, Trouble> {
        let asked = listen.address;
        let explain = |error: io::Error| explain(asked, &error);
        // Another process of our user could share the port by SO_REUSEPORT and take half of the calls: bind alone first.
        let probe = bind_alone(asked).map_err(explain)?;
        let address = UdpSocket::from(probe).local_addr().map_err(explain)?;
        let mut sockets = Vec::with_capacity(usize::from(slots));
        for _ in 0..slots {
            sockets.push(os::udp_socket(address, true, RECEIVE_BYTES).map_err(explain)?);
        }
        let listener = Self {
            id,
            asked,
            listen: Listen {
                address,
                ..listen.clone()
            },
            sockets,
        };
        if listen.spread == Spread::Datagram {
            let first = listener.sockets.first().map(AsFd::as_fd);
            first
                .map_or(Ok(()), |fd| {
                    os::attach_reuseport_random(fd, u32::from(slots))
                })
                .map_err(|error| {
                    Trouble::new(
                        format!(
                            "cannot spread the datagrams of udp:{address} over the slots: {error}"
                        ),
                        "set `spread = \"flow\"` for this listener",
                    )
                })?;
        }
        Ok(listener)
    }

    /// One that another supervisor has opened; nothing about its sockets is changed.
    pub(crate) fn adopted(
        id: u32,
        asked: SocketAddr,
        listen: Listen,
        sockets: Vec<OwnedFd>,
    ) -> Self {
        Self {
            id,
            asked,
            listen,
            sockets,
        }
    }

    pub(crate) fn sockets(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    /// The kernel's receive buffer of one socket, as it became.
    pub(crate) fn receive_bytes(&self) -> usize {
        self.sockets
            .first()
            .and_then(|fd| os::receive_buffer_bytes(fd.as_fd()).ok())
            .unwrap_or(0)
    }
}

/// How long a port that nobody holds is waited for, and how often it is tried.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
const RELEASE_STEP: Duration = Duration::from_millis(5);

/// Binds the address for us alone. A server that has just stopped, or was killed, leaves its sockets for a moment: the kernel
/// takes a ring down after its process has gone, and tells nobody when. So a port that no process holds is tried again.
fn bind_alone(address: SocketAddr) -> io::Result<OwnedFd> {
    let until = Instant::now() + RELEASE_PATIENCE;
    loop {
        match os::udp_socket(address, false, RECEIVE_BYTES) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && Instant::now() < until
                    && holder::of_udp(address).is_none() =>
            {
                std::thread::sleep(RELEASE_STEP);
            }
            result => return result,
        }
    }
}

fn explain(address: SocketAddr, error: &io::Error) -> Trouble {
    let cause = |why: &str| format!("cannot listen on udp:{address}: {why}");
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who = holder::of_udp(address);
            let by = who
                .as_ref()
                .map_or(String::new(), |who| format!(" by {who}"));
            Trouble::new(
                cause(&format!("the port is taken{by}")),
                match who {
                    // Of its workers as well.
                    Some(who) if matches!(who.name.as_str(), "tandem" | "tandem-worker") => {
                        format!(
                            "another Tandem runs there: stop it with `tandem stop`; if its supervisor is dead, `tandem run` with its --control PATH takes it over \
                         (or `kill {}` ends that worker); or choose another port",
                            who.pid
                        )
                    }
                    Some(who) => format!(
                        "stop process {}, or choose another port with --listen or `listen.address`",
                        who.pid
                    ),
                    None => format!(
                        "find its holder with `ss -lunp sport = :{}`, or choose another port with --listen or `listen.address`",
                        address.port()
                    ),
                },
            )
        }
        io::ErrorKind::PermissionDenied => Trouble::new(
            cause("no permission"),
            format!(
                "ports below 1024 want the capability CAP_NET_BIND_SERVICE: run as root with `workers.user`, or \
                 `setcap cap_net_bind_service+ep` the binary, or choose a port above 1023 (asked: {})",
                address.port()
            ),
        ),
        io::ErrorKind::AddrNotAvailable => Trouble::new(
            cause("this machine has no such address"),
            match address.ip() {
                IpAddr::V4(_) => "choose one that `ip -4 addr` shows, or 0.0.0.0 for all",
                IpAddr::V6(_) => "choose one that `ip -6 addr` shows, or [::] for all",
            },
        ),
        _ if error.raw_os_error() == Some(libc::EMFILE) => Trouble::new(
            cause("too many open files"),
            "raise the limit: `ulimit -n` or `LimitNOFILE=` in the unit",
        ),
        _ => Trouble::new(cause(&error.to_string()), ""),
    }
}

#[cfg(test)]
mod tests {
    use config::Transport;

    use super::*;

    fn listen(address: SocketAddr, spread: Spread) -> Listen {
        Listen {
            address,
            transports: vec![Transport::Udp],
            spread,
            advertise: None,
        }
    }

    #[test]
    fn all_sockets_of_a_listener_share_its_port() {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::open(1, &listen(any, Spread::Datagram), 3).unwrap();
        assert_eq!((listener.asked, listener.sockets().len()), (any, 3));
        assert_ne!(listener.listen.address.port(), 0);
        for socket in &listener.sockets {
            let socket = UdpSocket::from(socket.try_clone().unwrap());
            assert_eq!(socket.local_addr().unwrap(), listener.listen.address);
        }
        assert!(listener.receive_bytes() > 0);
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let trouble =
            Listener::open(1, &listen(taken.local_addr().unwrap(), Spread::Flow), 1).unwrap_err();
        let me = format!("process {}", std::process::id());
        assert!(
            trouble.cause.contains("the port is taken by") && trouble.cause.contains(&me),
            "{trouble}"
        );
        assert!(trouble.remedy.contains("choose another port"), "{trouble}");
    }

    #[test]
    fn a_group_of_another_server_is_not_joined() {
        let any = "127.0.0.1:0".parse().unwrap();
        let other = Listener::open(1, &listen(any, Spread::Flow), 2).unwrap();
        assert!(Listener::open(2, &listen(other.listen.address, Spread::Flow), 2).is_err());
    }

    #[test]
    fn an_address_of_another_machine_is_told() {
        let trouble = Listener::open(1, &listen("192.0.2.1:0".parse().unwrap(), Spread::Flow), 1)
            .unwrap_err();
        assert!(
            trouble.cause.contains("no such address") && trouble.remedy.contains("ip -4 addr"),
            "{trouble}"
        );
    }
}
