//! rtpengine in user space, without its kernel module, and parties that send RTP through it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::{eventually, free_port, fresh_address, need, process};
use crate::peer::unique;

/// A running rtpengine with an address of its own.
pub struct Engine {
    child: Option<Child>,
    pub ip: Ipv4Addr,
    /// Where it listens for `ng`.
    pub address: SocketAddr,
    interfaces: Vec<String>,
    dir: tempfile::TempDir,
}

impl Engine {
    /// Starts one; answers when this returns.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_at(&[])
    }

    /// The same with these interfaces, each as `NAME/ADDRESS`, in place of one at its own address.
    #[track_caller]
    pub fn start_at(interfaces: &[String]) -> Self {
        need("rtpengine");
        let ip = fresh_address();
        let mut engine = Self {
            child: None,
            ip,
            interfaces: match interfaces {
                [] => vec![ip.to_string()],
                interfaces => interfaces.to_vec(),
            },
            address: (ip, free_port(ip)).into(),
            dir: tempfile::Builder::new()
                .prefix("tandem-rtpengine-")
                .tempdir()
                .expect("a temporary directory"),
        };
        engine.run();
        engine
    }

    /// Starts it again where it was, with no memory of any call.
    #[track_caller]
    pub fn run(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a log");
        let child = Command::new("rtpengine")
            .args(["--config-file=none", "--foreground", "--log-stderr"])
            .args(["--table=-1", "--num-threads=1", "--log-level=6"])
            .args(["--delete-delay=0", "--port-min=30000", "--port-max=39999"])
            .args(self.interfaces.iter().map(|at| format!("--interface={at}")))
            .arg(format!("--listen-ng={}", self.address))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("rtpengine can be started");
        self.child = Some(child);
        eventually("rtpengine answers", Duration::from_secs(20), || {
            let ended = self.child.as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                panic!("rtpengine ended ({status}): {}", self.log());
            }
            self.ask(b"d7:command4:pinge").map(|_| ())
        });
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The answer to a command.
    fn ask(&self, command: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((self.ip, 0)).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a time-out");
        socket.connect(self.address).ok()?;
        let cookie = unique();
        socket
            .send(&[cookie.as_bytes(), b" ", command].concat())
            .ok()?;
        let mut bytes = vec![0; 65_536];
        let length = socket.recv(&mut bytes).ok()?;
        let reply = &bytes[..length];
        let reply = reply.strip_prefix(cookie.as_bytes())?;
        Some(reply.strip_prefix(b" ")?.to_vec())
    }

    /// Call-IDs of the calls that it has.
    #[track_caller]
    pub fn calls(&self) -> Vec<String> {
        let list = b"d7:command4:list5:limit5:10000e";
        let reply = eventually("rtpengine answers", Duration::from_secs(20), || {
            self.ask(list)
        });
        let reply = ng::bencode::Value::parse(&reply).expect("bencode");
        let calls = reply
            .dictionary()
            .and_then(|reply| reply.get(b"calls"))
            .and_then(ng::bencode::Value::list)
            .expect("a list of calls");
        calls
            .values()
            .filter_map(ng::bencode::Value::text)
            .map(|call| String::from_utf8_lossy(call).into_owned())
            .collect()
    }

    /// It has no call any more.
    #[track_caller]
    pub fn expect_no_calls(&self) {
        eventually("rtpengine has no calls", Duration::from_secs(20), || {
            self.calls().is_empty().then_some(())
        });
    }

    fn signal(&self, signal: Signal) -> i32 {
        let pid = self.child.as_ref().expect("it runs").id();
        let pid = i32::try_from(pid).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("our own child");
        pid
    }

    /// From now on it says nothing, and its sockets take what comes.
    #[track_caller]
    pub fn freeze(&self) {
        let pid = self.signal(Signal::SIGSTOP);
        eventually("rtpengine stands still", Duration::from_secs(5), || {
            process(pid)
                .filter(|process| process.state == 'T')
                .map(|_| ())
        });
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Its sockets go.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Somebody who speaks RTP.
pub struct Party {
    socket: UdpSocket,
    pub address: SocketAddr,
    ssrc: u32,
}

impl Party {
    pub fn new(ip: Ipv4Addr) -> Self {
        static SSRC: AtomicU32 = AtomicU32::new(1);
        let socket = UdpSocket::bind((ip, 0)).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a time-out");
        Self {
            address: socket.local_addr().expect("a bound socket"),
            socket,
            ssrc: SSRC.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Its session description.
    pub fn sdp(&self) -> String {
        let (ip, port) = (self.address.ip(), self.address.port());
        format!(
            "v=0\r\no=party 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        )
    }

    fn packet(&self, n: u16) -> Vec<u8> {
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&n.to_be_bytes());
        packet.extend_from_slice(&(u32::from(n) * 160).to_be_bytes());
        packet.extend_from_slice(&self.ssrc.to_be_bytes());
        packet.extend_from_slice(&[0xff; 160]);
        packet
    }

    /// Whether a packet of this source is there.
    fn heard(&self, ssrc: u32) -> bool {
        let mut bytes = [0; 2048];
        while let Ok((length, _)) = self.socket.recv_from(&mut bytes) {
            if length >= 12 && bytes[8..12] == ssrc.to_be_bytes() {
                return true;
            }
        }
        false
    }
}

/// Media goes both ways: each sends to where it was told to, until each has heard the other.
#[track_caller]
pub fn talk(a: (&Party, SocketAddr), b: (&Party, SocketAddr)) {
    let (mut a_heard, mut b_heard) = (false, false);
    let end = Instant::now() + Duration::from_secs(10);
    let mut n = 0;
    while !(a_heard && b_heard) {
        assert!(
            Instant::now() < end,
            "media: {} heard {a_heard}, {} heard {b_heard}",
            a.0.address,
            b.0.address
        );
        for (party, to) in [a, b] {
            let _ = party.socket.send_to(&party.packet(n), to);
        }
        n = n.wrapping_add(1);
        a_heard |= a.0.heard(b.0.ssrc);
        b_heard |= b.0.heard(a.0.ssrc);
    }
}

/// Media comes back from who echoes it.
#[track_caller]
pub fn hear_echo(party: &Party, to: SocketAddr) {
    let end = Instant::now() + Duration::from_secs(10);
    for n in 0.. {
        assert!(Instant::now() < end, "no echo from {to}");
        let _ = party.socket.send_to(&party.packet(n), to);
        if party.heard(party.ssrc) {
            return;
        }
    }
}

/// Where an SDP, or a body with one, wants audio.
#[track_caller]
pub fn media_address(body: &[u8]) -> SocketAddr {
    let text = String::from_utf8_lossy(body);
    let line = |start: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or_else(|| panic!("no {start} in {text}"))
    };
    let ip: IpAddr = line("c=IN IP4 ").trim().parse().expect("an address");
    let port = line("m=audio ")
        .split(' ')
        .next()
        .and_then(|p| p.parse().ok());
    SocketAddr::new(ip, port.expect("a port"))
}
