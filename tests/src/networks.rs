//! Networks of their own: the server in the middle, and phones at home behind routers that translate addresses, by the kernel's own NAT.
//!
//! ```text
//!   public: 203.0.113.1 ─┬─ router 203.0.113.11 | 192.168.1.1 ─── phones at 192.168.1.10, .11
//!          (a bridge)    └─ router 203.0.113.12 | 192.168.1.1 ─── phones at 192.168.1.10, .11
//! ```
//!
//! Every home has the same addresses, as homes do. Each router gives each pair of (address and port inside, address and port outside) a port of its own, at random, and lets
//! in what comes from there only, as long as something passes within its time: the strictest kind there is.
//!
//! The network namespaces have no names: each lasts as long as somebody uses it (a descriptor, a process, a socket), and its cables go with it. So nothing is left behind,
//! whatever becomes of the test.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

use crate::machine::{eventually, need};
use crate::peer::Peer;
use crate::server::{DOMAIN, Server};
use crate::ua::Ua;

/// Where the server is.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Its second address.
pub const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The first phone of every home.
pub const PHONE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
/// The second phone of every home.
pub const OTHER_PHONE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 11);

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    fn new() -> std::io::Result<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = Self(made.join().expect("no panic")?);
        namespace.run("ip", "link set lo up");
        Ok(namespace)
    }

    /// Does this within the namespace: sockets that it makes and processes that it starts stay there.
    pub fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("a namespace of ours");
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a program there, that must succeed.
    #[track_caller]
    fn run(&self, program: &str, arguments: &str) {
        let out = self.within(|| {
            Command::new(program)
                .args(arguments.split(' '))
                .stdin(Stdio::null())
                .output()
        });
        let out = out.expect("it is installed");
        assert!(
            out.status.success(),
            "{program} {arguments}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }

    /// How `ip` finds it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn set(&self, name: &str, value: u64) {
        let file = format!("/proc/sys/net/{name}");
        self.within(|| std::fs::write(&file, value.to_string()))
            .unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// A router and what is behind it.
#[derive(Debug)]
pub struct Home {
    router: Namespace,
    pub inside: Namespace,
    /// What the world sees of it.
    pub outside: Ipv4Addr,
}

/// How a router sees one way through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub inside: SocketAddr,
    pub outside: SocketAddr,
    /// Who may send through it.
    pub peer: SocketAddr,
}

impl Home {
    /// A phone at port 5060, as every phone is, that sends to this address of the server.
    pub fn phone(&self, ip: Ipv4Addr, server: SocketAddr, user: &str) -> Ua {
        Ua {
            peer: self.inside.within(|| Peer::bind_port(ip, 5060)),
            user: user.to_owned(),
            domain: DOMAIN.to_owned(),
            server,
        }
    }

    /// The ways through the router at this moment.
    #[track_caller]
    pub fn mappings(&self) -> Vec<Mapping> {
        let read = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
        let text = self
            .router
            .within(read)
            .expect("the kernel lists what it tracks");
        text.lines().filter_map(mapping).collect()
    }

    /// The way of one phone to the server.
    #[track_caller]
    pub fn mapping(&self, phone: &Ua) -> Option<Mapping> {
        let mut all = self.mappings().into_iter();
        all.find(|way| way.inside == phone.peer.address && way.peer == phone.server)
    }

    /// Waits until the router has forgotten a way, that nothing has passed for its time.
    #[track_caller]
    pub fn expect_closed(&self, phone: &Ua) {
        eventually("the way is closed", Duration::from_secs(20), || {
            self.mapping(phone).is_none().then_some(())
        });
    }

    /// The router starts again: it has forgotten everything.
    #[track_caller]
    pub fn restart(&self) {
        self.router.run("ip", "link set wan down");
        eventually("the router forgets", Duration::from_secs(20), || {
            self.mappings().is_empty().then_some(())
        });
        self.router.run("ip", "link set wan up");
    }
}

/// Two homes, and the server's network.
#[derive(Debug)]
pub struct Networks {
    pub public: Namespace,
    pub homes: [Home; 2],
}

impl Networks {
    /// Routers forget a way over which nothing has passed for `memory`. `None`: this machine does not let us; the reason is said, past what the test runner keeps to itself.
    #[track_caller]
    pub fn new(memory: Duration) -> Option<Self> {
        need("ip");
        need("iptables");
        match Self::refused() {
            None => Some(Self::build(memory)),
            Some(why) => {
                let name = std::thread::current().name().unwrap_or("?").to_owned();
                // Not by `eprintln`, which is kept back.
                let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
                None
            }
        }
    }

    /// Why there can be no such networks here.
    fn refused() -> Option<String> {
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| format!("no network namespaces here (CAP_SYS_ADMIN): {error}"))?;
            let out = Command::new("iptables")
                .args(["-w", "-t", "nat", "-S"])
                .stdin(Stdio::null())
                .output();
            let out = out.map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            let why = format!("no address translation here: {said}");
            out.status.success().then_some(()).ok_or(why)
        });
        namespace.join().expect("no panic").err()
    }

    #[track_caller]
    fn build(memory: Duration) -> Self {
        let public = Namespace::new().expect("a namespace, as before");
        public.run("ip", "link add name bridge type bridge");
        public.run("ip", &format!("address add {SERVER}/24 dev bridge"));
        public.run("ip", &format!("address add {SECOND}/24 dev bridge"));
        public.run("ip", "link set bridge up");
        let homes = [11, 12].map(|last| Self::home(&public, last, memory));
        Self { public, homes }
    }

    #[track_caller]
    fn home(public: &Namespace, last: u8, memory: Duration) -> Home {
        let namespace = || Namespace::new().expect("a namespace, as before");
        let (router, inside) = (namespace(), namespace());
        let outside = Ipv4Addr::new(203, 0, 113, last);
        let (world, phones) = (public.path(), inside.path());
        router.run(
            "ip",
            &format!("link add wan type veth peer name to{last} netns {world}"),
        );
        public.run("ip", &format!("link set to{last} master bridge up"));
        router.run(
            "ip",
            &format!("link add lan type veth peer name lan netns {phones}"),
        );
        for (namespace, name, address) in [
            (&router, "wan", outside),
            (&router, "lan", Ipv4Addr::new(192, 168, 1, 1)),
            (&inside, "lan", PHONE),
            (&inside, "lan", OTHER_PHONE),
        ] {
            namespace.run("ip", &format!("address add {address}/24 dev {name}"));
            namespace.run("ip", &format!("link set {name} up"));
        }
        inside.run("ip", "route add default via 192.168.1.1");
        router.run(
            "iptables",
            "-w -t nat -A POSTROUTING -o wan -j MASQUERADE --random-fully",
        );
        // What comes uninvited is not for the router either.
        router.run("iptables", "-w -A INPUT -i wan -p udp -j DROP");
        router.set("ipv4/ip_forward", 1);
        for time in [
            "nf_conntrack_udp_timeout",
            "nf_conntrack_udp_timeout_stream",
        ] {
            router.set(&format!("netfilter/{time}"), memory.as_secs());
        }
        Home {
            router,
            inside,
            outside,
        }
    }

    /// A server at [`SERVER`]:5060; `{ip}` and `{port}` in its configuration are these.
    #[track_caller]
    pub fn server(&self, config: &str) -> Server {
        let server = self
            .public
            .within(|| Server::spawn_at(SERVER, 5060, config, &[]));
        server.wait_ready();
        server
    }
}

/// One line of the kernel's list, if it is about UDP.
fn mapping(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    words.find(|word| *word == "udp")?;
    // Each twice: as the first packet went, and as its answers come.
    let all = |name: &str| -> Vec<&str> {
        let fields = line.split_whitespace();
        fields.filter_map(|word| word.strip_prefix(name)).collect()
    };
    let (ips, ports) = ((all("src="), all("dst=")), (all("sport="), all("dport=")));
    let at = |ip: &[&str], port: &[&str], nth: usize| {
        let ip: Ipv4Addr = ip.get(nth)?.parse().ok()?;
        Some(SocketAddr::from((ip, port.get(nth)?.parse().ok()?)))
    };
    Some(Mapping {
        inside: at(&ips.0, &ports.0, 0)?,
        peer: at(&ips.1, &ports.1, 0)?,
        outside: at(&ips.1, &ports.1, 1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lists() {
        let line = "ipv4     2 udp      17 2 src=192.168.1.10 dst=203.0.113.1 sport=5060 dport=5070 \
                    src=203.0.113.1 dst=203.0.113.11 sport=5070 dport=38022 [ASSURED] mark=0 zone=0 use=2";
        let at = |text: &str| text.parse().expect("an address");
        assert_eq!(
            mapping(line),
            Some(Mapping {
                inside: at("192.168.1.10:5060"),
                outside: at("203.0.113.11:38022"),
                peer: at("203.0.113.1:5070"),
            })
        );
        assert_eq!(mapping("ipv4 2 tcp 6 src=1.2.3.4"), None);
    }
}
