//! A crowd of phones: a hundred thousand calls at the same moment, from a few sockets and one thread.
//!
//! Callers send at a rate that does not wait for answers, and retransmit as RFC 3261 §17.1 says (T1 500 ms, T2 4 s, 32 s in all), so a request may be
//! answered late, but never not at all. Callees keep nothing but their 2xx that wait for an ACK.

mod callers;
mod engine;
mod text;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use callers::Callers;
pub use engine::StandIn;
pub use text::Kind;

const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// Timers B, F and H: 64*T1.
const GIVEN_UP: Duration = Duration::from_secs(32);
/// Requests under way at the same moment: a server that is slower than the rate gets no pile of them.
const UNDER_WAY_MAX: usize = 1500;
/// Sockets on each side: flows, which the kernel spreads over slots.
const SOCKETS: usize = 8;
/// Unit: bytes.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Failures that are told in words.
const TOLD_MAX: usize = 20;

/// What the callers do next. All of them do one thing at a time.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// So many more calls, which stay up.
    Call { calls: u64, rate: u32 },
    /// So many more calls, each of which its caller ends so long after it was answered.
    Visit {
        calls: u64,
        rate: u32,
        hold: Duration,
    },
    /// So many requests within calls that are up, in turn.
    Ask {
        kind: Kind,
        requests: u64,
        rate: u32,
    },
    /// Every call is ended by its caller.
    HangUp { rate: u32 },
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests that were answered 200, BYEs of visits left out.
    pub done: u64,
    pub failures: u64,
    /// The first of them.
    pub failed: Vec<String>,
    pub retransmissions: u64,
    /// From a request to its final answer, at worst.
    pub slowest: Duration,
    pub took: Duration,
    /// Calls that are up.
    pub up: usize,
}

impl Report {
    /// All of it was done, and nothing failed.
    #[track_caller]
    pub fn assert_done(&self, what: &str, wanted: u64) {
        println!(
            "{what}: {} in {:.1} s, {} retransmitted, slowest {:?}; {} calls are up",
            self.done,
            self.took.as_secs_f64(),
            self.retransmissions,
            self.slowest,
            self.up
        );
        assert!(
            self.failures == 0 && self.done == wanted,
            "{what}: {} of {wanted}, {} failed: {:#?}",
            self.done,
            self.failures,
            self.failed
        );
    }

    fn fail(&mut self, why: String) {
        self.failures += 1;
        if self.failed.len() < TOLD_MAX {
            self.failed.push(why);
        }
    }
}

/// The handle of the crowd's thread.
pub struct Crowd {
    orders: Option<Sender<Work>>,
    reports: Receiver<Report>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Phones on `ip` that call each other through `server`; the callees are registered. `users` is how many different callers there are.
    #[track_caller]
    pub fn new(ip: Ipv4Addr, server: SocketAddr, users: u64) -> Self {
        let (orders, taken) = channel();
        let (told, reports) = channel();
        let over = Arc::new(AtomicBool::new(true));
        let mut thread = Run {
            callers: Callers::new(sockets(ip), server, users.max(1)),
            callees: sockets(ip),
            unacknowledged: callers::Unacknowledged::default(),
            buffer: vec![0; 65_536],
        };
        thread.register(server);
        let ending = Arc::clone(&over);
        let thread = std::thread::spawn(move || thread.run(&taken, &told, &ending));
        Self {
            orders: Some(orders),
            reports,
            over,
            thread: Some(thread),
        }
    }

    /// Begins; what was begun before has ended.
    pub fn start(&self, work: Work) {
        self.over.store(false, Ordering::Release);
        let order = self.orders.as_ref().map(|orders| orders.send(work));
        assert!(matches!(order, Some(Ok(()))), "the crowd's thread lives");
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits for the end of what was begun.
    #[track_caller]
    pub fn end(&self) -> Report {
        self.reports.recv().expect("the crowd's thread lives")
    }

    #[track_caller]
    pub fn run(&self, work: Work) -> Report {
        self.start(work);
        self.end()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // Without orders it ends.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn sockets(ip: Ipv4Addr) -> Vec<Socket> {
    (0..SOCKETS).map(|_| Socket::bind(ip)).collect()
}

/// One socket of many phones.
pub(crate) struct Socket {
    socket: UdpSocket,
    pub(crate) address: SocketAddr,
}

impl Socket {
    #[track_caller]
    fn bind(ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("loopback has free ports");
        let address = socket.local_addr().expect("a bound socket has an address");
        socket
            .set_nonblocking(true)
            .expect("sockets can be nonblocking");
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER));
        Self { socket, address }
    }

    /// What can't be sent now is sent by its retransmission.
    pub(crate) fn send(&self, text: &str, to: SocketAddr) {
        let _ = self.socket.send_to(text.as_bytes(), to);
    }
}

/// The thread.
struct Run {
    callers: Callers,
    callees: Vec<Socket>,
    unacknowledged: callers::Unacknowledged,
    buffer: Vec<u8>,
}

impl Run {
    /// The callees register, once: nothing else is under way.
    #[track_caller]
    fn register(&mut self, server: SocketAddr) {
        for (nth, callee) in self.callees.iter().enumerate() {
            let request = text::register(&callers::callee(nth), callee.address, 1);
            let begun = Instant::now();
            let mut again = begun;
            loop {
                if Instant::now() >= again {
                    callee.send(&request, server);
                    again += T1;
                }
                wait(std::slice::from_ref(callee), T1);
                if let Ok(length) = callee.socket.recv(&mut self.buffer) {
                    let answer = self.buffer.get(..length).and_then(text::Heard::read);
                    let status = answer.and_then(|answer| answer.status());
                    assert_eq!(status, Some(200), "REGISTER of a callee");
                    break;
                }
                assert!(
                    begun.elapsed() < GIVEN_UP,
                    "no answer to a callee's REGISTER"
                );
            }
        }
    }

    fn run(mut self, orders: &Receiver<Work>, reports: &Sender<Report>, over: &AtomicBool) {
        use std::sync::mpsc::TryRecvError;
        let mut working = false;
        loop {
            if !working {
                match orders.try_recv() {
                    Ok(work) => {
                        self.callers.begin(work);
                        working = true;
                    }
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let now = Instant::now();
            let mut moved = self.receive(now);
            moved |= self.callers.send_due(now);
            self.callers.repeat(now);
            self.unacknowledged.repeat(now, &self.callees);
            if working && let Some(report) = self.callers.finished() {
                working = false;
                over.store(true, Ordering::Release);
                if reports.send(report).is_err() {
                    return;
                }
            }
            if !moved {
                let all: Vec<&Socket> = self.callers.sockets.iter().chain(&self.callees).collect();
                wait(&all, Duration::from_millis(1));
            }
        }
    }

    /// Takes what has come. False: nothing.
    fn receive(&mut self, now: Instant) -> bool {
        let mut any = false;
        for nth in 0..SOCKETS {
            while let Some((length, _)) = receive(self.callers.sockets.get(nth), &mut self.buffer) {
                any = true;
                let heard = self.buffer.get(..length).and_then(text::Heard::read);
                if let Some(heard) = heard {
                    self.callers.hear(&heard, now);
                }
            }
            while let Some((length, from)) = receive(self.callees.get(nth), &mut self.buffer) {
                any = true;
                let heard = self.buffer.get(..length).and_then(text::Heard::read);
                if let (Some(heard), Some(callee)) = (heard, self.callees.get(nth)) {
                    self.unacknowledged.answer(&heard, nth, callee, from, now);
                }
            }
        }
        any
    }
}

fn receive(socket: Option<&Socket>, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    socket?.socket.recv_from(buffer).ok()
}

/// Until something comes, or the time is over.
fn wait<S: std::borrow::Borrow<Socket>>(sockets: &[S], limit: Duration) {
    let mut descriptors: Vec<PollFd<'_>> = sockets
        .iter()
        .map(|socket| PollFd::new(socket.borrow().socket.as_fd(), PollFlags::POLLIN))
        .collect();
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
    // Interrupted or not, the sockets are looked at.
    let _ = poll(&mut descriptors, limit);
}
