//! REGISTERs at a steady rate from many sockets, by clients that remember what was acknowledged: whatever the server loses, it will
//! be missed.
//!
//! Each AOR has at most one REGISTER under way. A client retransmits as RFC 3261 §17.1.2 says (T1 500 ms, T2 4 s, 32 s in all), so a
//! request may be answered late, but never not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::message::{Message, uri_of};
use crate::peer::{Peer, unique};
use crate::storm::Dice;

const SOCKETS: usize = 12;
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const TIMER_F: Duration = Duration::from_secs(32);

/// What the run was told by the server.
#[derive(Debug, Default)]
pub struct Outcome {
    pub sent: u64,
    pub answered: u64,
    pub retransmissions: u64,
    /// From the first sending to the answer.
    pub slowest: Duration,
    /// Answers that contradict what was acknowledged before, refusals, and requests without an answer.
    pub wrong: Vec<String>,
    /// AOR to its Contact URIs, as last acknowledged; those without any are left out.
    pub acknowledged: BTreeMap<String, BTreeSet<String>>,
}

/// A run of its own thread.
pub struct Registering {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome>,
}

impl Registering {
    /// `rate` REGISTERs a second over `aors` AORs of `domain`.
    pub fn start(
        ip: Ipv4Addr,
        server: SocketAddr,
        domain: &str,
        aors: usize,
        rate: u32,
        dice: Dice,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let run = Run {
            server,
            domain: domain.to_owned(),
            peers: (0..SOCKETS).map(|_| Peer::bind(ip)).collect(),
            phones: (0..aors).map(|_| Phone::default()).collect(),
            flights: HashMap::new(),
            dice,
            outcome: Outcome::default(),
        };
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || run.run(rate, &told));
        Self { stop, thread }
    }

    /// Lets the last requests be answered, and tells.
    #[track_caller]
    pub fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the registering thread ends")
    }
}

#[derive(Default)]
struct Phone {
    call_id: String,
    cseq: u32,
    /// As last acknowledged.
    contacts: BTreeSet<String>,
    next_contact: u32,
    busy: bool,
}

/// A request under way.
struct Flight {
    phone: usize,
    bytes: Vec<u8>,
    first: Instant,
    again: Instant,
    wait: Duration,
    /// What holds once it is acknowledged.
    contacts: BTreeSet<String>,
}

struct Run {
    server: SocketAddr,
    domain: String,
    peers: Vec<Peer>,
    phones: Vec<Phone>,
    /// By Call-ID and CSeq.
    flights: HashMap<(String, u32), Flight>,
    dice: Dice,
    outcome: Outcome,
}

impl Run {
    fn run(mut self, rate: u32, stop: &AtomicBool) -> Outcome {
        let start = Instant::now();
        loop {
            let ending = stop.load(Ordering::Relaxed);
            if ending && self.flights.is_empty() {
                break;
            }
            let due = start.elapsed().as_micros() as u64 * u64::from(rate) / 1_000_000;
            while !ending && self.outcome.sent < due {
                self.send_next();
            }
            self.receive();
            self.retransmit();
            std::thread::sleep(Duration::from_millis(1));
        }
        for (n, phone) in self.phones.iter().enumerate() {
            if !phone.contacts.is_empty() {
                let aor = format!("sip:r{n}@{}", self.domain);
                self.outcome
                    .acknowledged
                    .insert(aor, phone.contacts.clone());
            }
        }
        self.outcome
    }

    fn send_next(&mut self) {
        self.outcome.sent += 1;
        let first = self.dice.below(self.phones.len());
        let Some(n) = (first..self.phones.len())
            .chain(0..first)
            .find(|&n| !self.phones[n].busy)
        else {
            return;
        };
        let choice = self.dice.below(20);
        let peer = &self.peers[n % SOCKETS];
        let phone = &mut self.phones[n];
        if phone.call_id.is_empty() {
            phone.call_id = unique();
        }
        phone.cseq += 1;
        phone.busy = true;
        let aor = format!("sip:r{n}@{}", self.domain);
        let fresh = format!("sip:r{n}-{}@{}", phone.next_contact, peer.address);
        let mut request = Message::request("REGISTER", &format!("sip:{}", self.domain))
            .with(
                "Via",
                format!(
                    "SIP/2.0/UDP {};branch=z9hG4bK{};rport",
                    peer.address,
                    unique()
                ),
            )
            .with("Max-Forwards", "70")
            .with("From", format!("<{aor}>;tag=r{n}"))
            .with("To", format!("<{aor}>"))
            .with("Call-ID", phone.call_id.clone())
            .with("CSeq", format!("{} REGISTER", phone.cseq));
        let mut contacts = phone.contacts.clone();
        let old = contacts.first().cloned();
        match (old, choice) {
            // Gone.
            (Some(old), 0..2) => {
                request.push("Contact", format!("<{old}>;expires=0"));
                contacts.remove(&old);
            }
            // Moved: both or neither (RFC 3261 §10.3).
            (Some(old), 2..5) => {
                request.push("Contact", format!("<{old}>;expires=0"));
                request.push("Contact", format!("<{fresh}>;expires=3600"));
                phone.next_contact += 1;
                contacts.remove(&old);
                contacts.insert(fresh);
            }
            // One more.
            (Some(_), 5) if contacts.len() < 3 => {
                request.push("Contact", format!("<{fresh}>;expires=3600"));
                phone.next_contact += 1;
                contacts.insert(fresh);
            }
            // Refreshed.
            (Some(old), _) => drop(request.push("Contact", format!("<{old}>;expires=3600"))),
            (None, _) => {
                request.push("Contact", format!("<{fresh}>;expires=3600"));
                phone.next_contact += 1;
                contacts.insert(fresh);
            }
        }
        let bytes = request.to_bytes();
        peer.send_bytes(&bytes, self.server);
        let now = Instant::now();
        self.flights.insert(
            (phone.call_id.clone(), phone.cseq),
            Flight {
                phone: n,
                bytes,
                first: now,
                again: now + T1,
                wait: T1,
                contacts,
            },
        );
    }

    fn receive(&mut self) {
        for nth in 0..self.peers.len() {
            while let Some((answer, _)) = self.peers[nth].receive_now() {
                let key = (answer.call_id().to_owned(), answer.cseq());
                // A second answer to a retransmitted request finds nothing.
                let Some(flight) = self.flights.remove(&key) else {
                    continue;
                };
                self.outcome.answered += 1;
                self.outcome.slowest = self.outcome.slowest.max(flight.first.elapsed());
                let phone = &mut self.phones[flight.phone];
                phone.busy = false;
                if answer.status() != 200 {
                    self.outcome
                        .wrong
                        .push(format!("r{}: {}", flight.phone, answer.start));
                    continue;
                }
                let told: BTreeSet<String> =
                    answer.values("Contact").iter().map(|c| uri_of(c)).collect();
                if told != flight.contacts {
                    self.outcome.wrong.push(format!(
                        "r{} CSeq {}: acknowledged {:?}, expected {:?}, before {:?}",
                        flight.phone, key.1, told, flight.contacts, phone.contacts
                    ));
                }
                phone.contacts = told;
            }
        }
    }

    fn retransmit(&mut self) {
        let now = Instant::now();
        let mut lost = Vec::new();
        for (key, flight) in &mut self.flights {
            if now.duration_since(flight.first) > TIMER_F {
                lost.push(key.clone());
            } else if now >= flight.again {
                flight.wait = (flight.wait * 2).min(T2);
                flight.again = now + flight.wait;
                self.outcome.retransmissions += 1;
                self.peers[flight.phone % SOCKETS].send_bytes(&flight.bytes, self.server);
            }
        }
        for key in lost {
            if let Some(flight) = self.flights.remove(&key) {
                self.outcome
                    .wrong
                    .push(format!("r{} CSeq {}: no answer", flight.phone, key.1));
            }
        }
    }
}
