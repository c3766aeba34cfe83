//! unbound as a name server with records made for a test, and a gate before it that can be shut.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::machine::{eventually, free_port, fresh_address, need};

/// A running unbound that is the authority for its own records and knows nothing else.
pub struct Unbound {
    child: Child,
    pub address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Unbound {
    /// Starts with these records, each a line of a zone file; answers when this returns. Other names do not exist.
    #[track_caller]
    pub fn start(records: &[String]) -> Self {
        let ip = fresh_address();
        Self::start_at((ip, free_port(ip)).into(), records)
    }

    /// The same at an address of IPv6.
    #[track_caller]
    pub fn start_v6(records: &[String]) -> Self {
        let probe = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("this machine has IPv6");
        let address = probe.local_addr().expect("a bound socket has an address");
        drop(probe);
        Self::start_at(address, records)
    }

    #[track_caller]
    pub fn start_at(address: SocketAddr, records: &[String]) -> Self {
        need("unbound");
        let dir = tempfile::Builder::new()
            .prefix("tandem-unbound-")
            .tempdir()
            .expect("a temporary directory");
        let data: String = records
            .iter()
            .map(|record| format!("  local-data: '{record}'\n"))
            .collect();
        let text = format!(
            "server:\n  interface: {}\n  port: {}\n  access-control: 127.0.0.0/8 allow\n  access-control: ::1/128 allow\n  username: \"\"\n  chroot: \"\"\n  \
             directory: \"{dir}\"\n  pidfile: \"\"\n  do-daemonize: no\n  use-syslog: no\n  logfile: \"{dir}/log\"\n  num-threads: 1\n  \
             module-config: \"iterator\"\n  do-ip6: {six}\n  local-zone: \"test.\" static\n{data}remote-control:\n  control-enable: no\n",
            address.ip(),
            address.port(),
            dir = dir.path().display(),
            six = if address.is_ipv6() { "yes" } else { "no" },
        );
        let file = dir.path().join("unbound.conf");
        std::fs::write(&file, text).expect("a configuration of unbound");
        let child = Command::new("unbound")
            .arg("-d")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unbound can be started");
        let mut server = Self {
            child,
            address,
            _dir: dir,
        };
        let probe = match address {
            SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)),
            SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)),
        }
        .expect("a socket");
        probe
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a time-out");
        // A question for the name `test.`, type A, class IN.
        let question =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04test\x00\x00\x01\x00\x01";
        eventually("unbound answers", Duration::from_secs(20), || {
            if let Ok(Some(status)) = server.child.try_wait() {
                let log = std::fs::read_to_string(server._dir.path().join("log"));
                panic!("unbound ended ({status}): {}", log.unwrap_or_default());
            }
            // Refused, for as long as nobody listens.
            let _ = probe.send_to(question, address);
            probe.recv(&mut [0; 512]).ok().map(|_| ())
        });
        server
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name server's address at which nobody answers until it is opened: then it passes questions and answers on.
pub struct Gate {
    pub address: SocketAddr,
    questions: Arc<AtomicU64>,
    open: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Gate {
    /// `behind` is asked once the gate is open.
    pub fn shut(behind: SocketAddr) -> Self {
        let socket = UdpSocket::bind((fresh_address(), 0)).expect("a socket");
        let address = socket.local_addr().expect("a bound socket has an address");
        let step = Some(Duration::from_millis(5));
        socket.set_read_timeout(step).expect("a time-out");
        let (questions, open, ended) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, pass, end) = (questions.clone(), open.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            // One way to the server for each who asks.
            let mut ways: HashMap<SocketAddr, UdpSocket> = HashMap::new();
            let mut bytes = [0; 4096];
            while !end.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    count.fetch_add(1, Ordering::Relaxed);
                    if pass.load(Ordering::Relaxed) {
                        let way = ways.entry(from).or_insert_with(|| {
                            let way = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
                            way.set_nonblocking(true).expect("a socket");
                            way
                        });
                        let _ = way.send_to(&bytes[..length], behind);
                    }
                }
                for (from, way) in &ways {
                    while let Ok(length) = way.recv(&mut bytes) {
                        let _ = socket.send_to(&bytes[..length], from);
                    }
                }
            }
        });
        Self {
            address,
            questions,
            open,
            ended,
            thread: Some(thread),
        }
    }

    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// Questions that have come.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
