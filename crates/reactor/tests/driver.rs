//! The driver against real sockets on the loopback.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::ptr::NonNull;
use std::thread;
use std::time::Duration;

use reactor::{
    Driver, Event, OVERHEAD_BYTES, Options, Pool, SocketIndex, UringDriver, clear, datagram,
    holds_datagram,
};
use stdx::Instant;

/// Buffers that outlive a driver, as the arena's do. Never freed: the tests are few.
#[derive(Clone, Copy)]
struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    count: u16,
}

impl Memory {
    fn new(count: u16, bytes: usize) -> Self {
        let words = vec![0u64; usize::from(count) * bytes / 8].leak();
        Self {
            base: NonNull::from(words).cast(),
            bytes,
            count,
        }
    }
}

// SAFETY: a leaked allocation of `count * bytes` bytes in words.
unsafe impl Pool for Memory {
    fn base(&self) -> NonNull<u8> {
        self.base
    }
    fn buffer_bytes(&self) -> usize {
        self.bytes
    }
    fn count(&self) -> u16 {
        self.count
    }
    fn empty(&self, index: u16) {
        clear(self, index);
    }
}

const SOCKET: SocketIndex = SocketIndex(3);

fn listener(address: &str) -> (OwnedFd, SocketAddr) {
    let fd = os::udp_socket(address.parse().unwrap(), true, 8 << 20).unwrap();
    let address = UdpSocket::from(fd.try_clone().unwrap())
        .local_addr()
        .unwrap();
    (fd, address)
}

fn peer(address: &str) -> UdpSocket {
    let socket = UdpSocket::from(os::udp_socket(address.parse().unwrap(), false, 8 << 20).unwrap());
    socket.set_nonblocking(false).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

fn driver(memory: Memory) -> UringDriver<Memory> {
    UringDriver::new(memory, Options::default(), |_| true).unwrap()
}

/// Turns until `enough` or ten seconds; returns everything that came.
fn turns(driver: &mut impl Driver, mut enough: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
    let end = os::now() + Duration::from_secs(10);
    let mut events = Vec::new();
    while !enough(&events) {
        assert!(os::now() < end, "ten seconds passed with {events:?}");
        driver
            .turn(Some(os::now() + Duration::from_millis(100)), &mut events)
            .unwrap();
    }
    events
}

fn payload(n: u32) -> Vec<u8> {
    let mut bytes = n.to_be_bytes().to_vec();
    bytes.resize(4 + n as usize % 700, n as u8);
    bytes
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// Sends back what arrives until `count` were sent back; buffers go back at once.
fn echo(driver: &mut impl Driver, memory: Memory, count: usize) {
    let (mut events, mut done) = (Vec::new(), 0);
    while done < count {
        driver
            .turn(Some(os::now() + Duration::from_secs(10)), &mut events)
            .unwrap();
        assert!(!events.is_empty(), "after {done} of {count}");
        for event in events.drain(..) {
            match event {
                Event::Datagram {
                    socket,
                    buffer,
                    source,
                    ..
                } => {
                    let found = datagram(&memory, buffer).unwrap();
                    assert_eq!(found.source, source);
                    driver.send_udp(socket, None, &source, found.payload);
                    driver.release(buffer);
                    done += 1;
                }
                Event::Starved { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    driver.turn(Some(Instant::ZERO), &mut events).unwrap();
}

#[test]
fn a_burst_of_five_thousand_comes_back_whole() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (fd, to) = listener(address);
        let sender = peer(address);
        let receiver = sender.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            let mut bytes = [0; 2048];
            while seen.len() < 5_000 {
                let (len, from) = receiver.recv_from(&mut bytes).unwrap();
                let n = number(&bytes);
                assert_eq!((&bytes[..len], from), (&payload(n)[..], to));
                assert!(seen.insert(n));
            }
        });
        for n in 0..5_000 {
            sender.send_to(&payload(n), to).unwrap();
        }
        let memory = Memory::new(512, 8192);
        let mut driver = driver(memory);
        driver.arm_udp(SOCKET, fd.as_fd()).unwrap();
        echo(&mut driver, memory, 5_000);
        reader.join().unwrap();
    }
}

#[test]
fn without_buffers_datagrams_wait_in_the_socket() {
    let (fd, to) = listener("127.0.0.1:0");
    let sender = peer("127.0.0.1:0");
    for n in 0..20 {
        sender.send_to(&payload(n), to).unwrap();
    }
    let memory = Memory::new(8, 2048);
    let mut driver = driver(memory);
    driver.arm_udp(SOCKET, fd.as_fd()).unwrap();
    let mut events = turns(&mut driver, |events| {
        events.contains(&Event::Starved { socket: SOCKET })
    });
    assert_eq!((events.len(), driver.buffers_free()), (9, 0));
    // Starved, it sleeps to its deadline instead of spinning.
    let before = os::now();
    driver
        .turn(Some(before + Duration::from_millis(30)), &mut events)
        .unwrap();
    assert!(os::now() >= before + Duration::from_millis(30) && events.len() == 9);
    let mut seen = BTreeSet::new();
    while seen.len() < 20 {
        for event in events.drain(..) {
            let Event::Datagram { buffer, .. } = event else {
                continue;
            };
            assert!(seen.insert(number(datagram(&memory, buffer).unwrap().payload)));
            driver.release(buffer);
            driver.release(buffer);
        }
        if seen.len() == 20 {
            break;
        }
        driver
            .turn(Some(os::now() + Duration::from_secs(10)), &mut events)
            .unwrap();
    }
    assert_eq!(driver.buffers_free(), 8);
}

#[test]
fn empty_and_giant_datagrams_are_told_apart() {
    let (fd, to) = listener("127.0.0.1:0");
    let sender = peer("127.0.0.1:0");
    let memory = Memory::new(16, 4096);
    let mut driver = driver(memory);
    driver.arm_udp(SOCKET, fd.as_fd()).unwrap();
    let giant: Vec<u8> = (0..65_507u32).map(|n| n as u8).collect();
    for bytes in [&b"first"[..], b"", b"", &giant, b"last"] {
        sender.send_to(bytes, to).unwrap();
    }
    let events = turns(&mut driver, |events| events.len() == 5);
    let room = 4096 - OVERHEAD_BYTES;
    let found: Vec<_> = events
        .iter()
        .map(|event| match *event {
            Event::Datagram {
                socket,
                buffer,
                source,
                local,
                len,
                truncated,
            } => {
                let found = datagram(&memory, buffer).unwrap();
                assert_eq!((socket, source), (SOCKET, sender.local_addr().unwrap()));
                assert_eq!(
                    (found.source, found.local, found.truncated),
                    (source, local, truncated)
                );
                assert_eq!(local, Some(to));
                assert_eq!(found.payload.len(), len as usize);
                (found.payload.to_vec(), truncated)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let whole = |bytes: &[u8]| (bytes.to_vec(), false);
    assert_eq!(
        found,
        [
            whole(b"first"),
            whole(b""),
            whole(b""),
            (giant[..room].to_vec(), true),
            whole(b"last")
        ]
    );
}

/// A socket of a wildcard address tells which of the machine's addresses was meant.
#[test]
fn a_datagram_names_the_address_it_was_sent_to() {
    let (fd, bound) = listener("0.0.0.0:0");
    let memory = Memory::new(4, 2048);
    let mut driver = driver(memory);
    driver.arm_udp(SOCKET, fd.as_fd()).unwrap();
    let to = SocketAddr::from(([127, 3, 2, 1], bound.port()));
    peer("127.0.0.1:0").send_to(b"x", to).unwrap();
    let events = turns(&mut driver, |events| !events.is_empty());
    assert!(
        matches!(events[..], [Event::Datagram { local, .. }] if local == Some(to)),
        "{events:?}"
    );
}

/// The driver is dropped like a process that died: nothing is cancelled or drained. What it had read lies in the buffers,
/// the rest in the socket.
#[test]
fn an_heir_finds_every_datagram() {
    let (fd, to) = listener("127.0.0.1:0");
    let sender = peer("127.0.0.1:0");
    let memory = Memory::new(64, 2048);
    let mut seen = BTreeSet::new();
    let mut first = driver(memory);
    first.arm_udp(SOCKET, fd.as_fd()).unwrap();
    let mut none = Vec::new();
    first.turn(Some(Instant::ZERO), &mut none).unwrap();
    for n in 0..200 {
        sender.send_to(&payload(n), to).unwrap();
    }
    let events = turns(&mut first, |events| !events.is_empty());
    assert!(events.len() > 3, "the test needs a batch");
    // Three were served; one more turn read a batch that nobody looked at.
    for event in &events[..3] {
        let Event::Datagram { buffer, .. } = *event else {
            panic!("{event:?}")
        };
        assert!(seen.insert(number(datagram(&memory, buffer).unwrap().payload)));
        first.release(buffer);
    }
    first.turn(Some(Instant::ZERO), &mut none).unwrap();
    drop(first);
    for n in 200..250 {
        sender.send_to(&payload(n), to).unwrap();
    }
    // The journal.
    let held: BTreeSet<u16> = (0..64)
        .filter(|&index| holds_datagram(&memory, index))
        .collect();
    assert!(!held.is_empty());
    for &index in &held {
        let found = datagram(&memory, index).unwrap();
        assert_eq!(found.local, Some(to));
        assert!(seen.insert(number(found.payload)));
    }
    let mut heir =
        UringDriver::new(memory, Options::default(), |index| !held.contains(&index)).unwrap();
    heir.arm_udp(SOCKET, fd.as_fd()).unwrap();
    assert_eq!(usize::from(heir.buffers_free()), 64 - held.len());
    for index in held {
        heir.release(index);
    }
    let mut events = Vec::new();
    while seen.len() < 250 {
        heir.turn(Some(os::now() + Duration::from_secs(10)), &mut events)
            .unwrap();
        assert!(!events.is_empty(), "lost all but {} of 250", seen.len());
        for event in events.drain(..) {
            let Event::Datagram { buffer, .. } = event else {
                continue;
            };
            assert!(seen.insert(number(datagram(&memory, buffer).unwrap().payload)));
            heir.release(buffer);
        }
    }
}

#[test]
fn a_quiesced_driver_leaves_the_rest_in_the_socket() {
    let (fd, to) = listener("127.0.0.1:0");
    let sender = peer("127.0.0.1:0");
    let bell = os::eventfd().unwrap();
    let memory = Memory::new(64, 2048);
    let mut first = driver(memory);
    first.arm_udp(SOCKET, fd.as_fd()).unwrap();
    first.arm_poll(1, bell.as_fd()).unwrap();
    let mut events = Vec::new();
    first.turn(Some(Instant::ZERO), &mut events).unwrap();
    for n in 0..40 {
        sender.send_to(&payload(n), to).unwrap();
    }
    first.send_udp(SOCKET, None, &sender.local_addr().unwrap(), b"good-bye");
    first.quiesce(&mut events).unwrap();
    let mut bytes = [0; 64];
    let len = sender.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"good-bye");
    let drained = events.len();
    for n in 40..60 {
        sender.send_to(&payload(n), to).unwrap();
    }
    first
        .turn(Some(os::now() + Duration::from_millis(20)), &mut events)
        .unwrap();
    assert_eq!(events.len(), drained, "it reads nothing more");
    let rest = UdpSocket::from(fd);
    let left = std::iter::from_fn(|| rest.recv(&mut [0; 2048]).ok()).count();
    assert_eq!(drained + left, 60);
}

#[test]
fn a_doorbell_wakes_every_time_without_being_read() {
    let bell = os::eventfd().unwrap();
    let mut driver = driver(Memory::new(4, 2048));
    driver.arm_poll(77, bell.as_fd()).unwrap();
    let mut events = Vec::new();
    driver
        .turn(Some(os::now() + Duration::from_millis(5)), &mut events)
        .unwrap();
    assert_eq!(events, []);
    for _ in 0..100 {
        os::ring_eventfd(bell.as_fd()).unwrap();
        let before = os::now();
        driver
            .turn(Some(before + Duration::from_secs(10)), &mut events)
            .unwrap();
        assert!(os::now() < before + Duration::from_secs(5));
        assert_eq!(std::mem::take(&mut events), [Event::Poll { token: 77 }]);
    }
    // From another thread, while the driver sleeps.
    let ringer = bell.try_clone().unwrap();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        os::ring_eventfd(ringer.as_fd()).unwrap();
    });
    driver
        .turn(Some(os::now() + Duration::from_secs(10)), &mut events)
        .unwrap();
    assert_eq!(events, [Event::Poll { token: 77 }]);
    other.join().unwrap();
    // An heir's driver hears a bell that was rung before it was armed.
    let mut heir = self::driver(Memory::new(4, 2048));
    heir.arm_poll(5, bell.as_fd()).unwrap();
    assert_eq!(
        turns(&mut heir, |events| !events.is_empty()),
        [Event::Poll { token: 5 }]
    );
}

#[test]
fn deadlines_are_kept() {
    for spin in [Duration::ZERO, Duration::from_millis(2)] {
        let options = Options {
            spin,
            ..Options::default()
        };
        let mut driver = UringDriver::new(Memory::new(4, 2048), options, |_| true).unwrap();
        let mut events = Vec::new();
        // On a machine that has no processor for us now a round is late; on one that never has, each is.
        let mut rounds: Vec<Vec<Duration>> = Vec::new();
        let in_time = |late: &Vec<Duration>| late[late.len() / 2] < Duration::from_millis(2);
        while !rounds.last().is_some_and(in_time) {
            assert!(rounds.len() < 50, "{rounds:?}");
            let mut late = Vec::new();
            for millis in [1, 2, 5, 10, 20, 1, 1, 1, 1] {
                let deadline = os::now() + Duration::from_millis(millis);
                driver.turn(Some(deadline), &mut events).unwrap();
                late.push(
                    os::now()
                        .checked_duration_since(deadline)
                        .expect("a turn without events ends at its deadline"),
                );
            }
            late.sort_unstable();
            rounds.push(late);
        }
        driver.turn(Some(Instant::ZERO), &mut events).unwrap();
        assert_eq!(events, []);
    }
}

#[test]
fn a_failing_send_is_an_event_and_the_next_one_leaves() {
    let (fd, _) = listener("127.0.0.1:0");
    let receiver = peer("127.0.0.1:0");
    let to = receiver.local_addr().unwrap();
    let mut driver = driver(Memory::new(4, 2048));
    driver.arm_udp(SOCKET, fd.as_fd()).unwrap();
    let nowhere = "[::1]:9".parse().unwrap();
    driver.send_udp(SOCKET, None, &nowhere, b"an IPv4 socket cannot");
    driver.send_udp(SOCKET, None, &to, &[7; 70_000]);
    driver.send_udp(SocketIndex(9), None, &to, b"no such socket");
    driver.send_udp(SOCKET, None, &to, b"fine");
    let mut events = Vec::new();
    driver.turn(Some(Instant::ZERO), &mut events).unwrap();
    let mut failed: Vec<_> = events
        .iter()
        .map(|event| match *event {
            Event::SendFailed {
                socket, to, errno, ..
            } => (socket, to, errno),
            other => panic!("{other:?}"),
        })
        .collect();
    failed.sort_unstable_by_key(|failed| failed.2);
    let (no_file, too_long) = (libc::EBADF, libc::EMSGSIZE);
    assert_eq!(
        failed,
        [
            (SocketIndex(9), to, no_file),
            (SOCKET, to, too_long),
            (SOCKET, nowhere, libc::EAFNOSUPPORT),
        ]
    );
    let mut bytes = [0; 64];
    let len = receiver.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"fine");
}

/// Only a connected socket hears of ICMP errors; it stands for every error of receiving.
#[test]
fn receiving_survives_errors_of_the_socket() {
    let closed = peer("127.0.0.1:0").local_addr().unwrap();
    let (fd, to) = listener("127.0.0.1:0");
    let connected = UdpSocket::from(fd.try_clone().unwrap());
    connected.connect(closed).unwrap();
    let mut driver = driver(Memory::new(4, 2048));
    driver.arm_udp(SOCKET, fd.as_fd()).unwrap();
    let mut events = Vec::new();
    driver.turn(Some(Instant::ZERO), &mut events).unwrap();
    driver.send_udp(SOCKET, None, &closed, b"nobody there");
    let refused = |event: &Event| {
        matches!(
            event,
            Event::ReceiveFailed {
                errno: libc::ECONNREFUSED,
                ..
            }
        )
    };
    turns(&mut driver, |events| events.iter().any(refused));
    let other = UdpSocket::bind(closed).unwrap();
    other.send_to(b"now I am", to).unwrap();
    turns(&mut driver, |events| {
        events
            .iter()
            .any(|event| matches!(event, Event::Datagram { len: 8, .. }))
    });
}

#[test]
fn an_index_is_free_again_after_disarming() {
    let ((one, to_one), (two, to_two)) = (listener("127.0.0.1:0"), listener("127.0.0.1:0"));
    let sender = peer("127.0.0.1:0");
    let memory = Memory::new(8, 2048);
    let mut driver = driver(memory);
    let mut events = Vec::new();
    driver.arm_udp(SOCKET, one.as_fd()).unwrap();
    assert!(driver.arm_udp(SOCKET, two.as_fd()).is_err(), "in use");
    assert!(
        driver.arm_udp(SocketIndex(u16::MAX), two.as_fd()).is_err(),
        "too large"
    );
    driver.turn(Some(Instant::ZERO), &mut events).unwrap();
    driver.disarm_udp(SOCKET);
    driver.arm_udp(SOCKET, two.as_fd()).unwrap();
    driver
        .turn(Some(os::now() + Duration::from_millis(5)), &mut events)
        .unwrap();
    sender.send_to(b"for nobody", to_one).unwrap();
    sender.send_to(b"for two", to_two).unwrap();
    events.extend(turns(&mut driver, |events| !events.is_empty()));
    driver
        .turn(Some(os::now() + Duration::from_millis(5)), &mut events)
        .unwrap();
    assert!(
        matches!(
            events[..],
            [Event::Datagram {
                len: 7,
                socket: SOCKET,
                ..
            }]
        ),
        "{events:?}"
    );
}

/// More messages in one turn than one submission takes.
#[test]
fn a_turn_sends_more_than_one_submission() {
    let (fd, _) = listener("127.0.0.1:0");
    let receiver = peer("127.0.0.1:0");
    let to = receiver.local_addr().unwrap();
    let options = Options {
        sends: 16,
        send_bytes: 1,
        ..Options::default()
    };
    let mut driver = UringDriver::new(Memory::new(4, 2048), options, |_| true).unwrap();
    driver.arm_udp(SOCKET, fd.as_fd()).unwrap();
    for n in 0..1_000 {
        driver.send_udp(SOCKET, None, &to, &payload(n));
    }
    let mut events = Vec::new();
    driver.turn(Some(Instant::ZERO), &mut events).unwrap();
    assert_eq!(events, []);
    let mut bytes = [0; 2048];
    for n in 0..1_000 {
        let len = receiver.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], payload(n));
    }
}

/// A socket on every address sends from the one that is wanted, and from the kernel's choice where none is.
#[test]
fn a_datagram_leaves_from_where_it_is_wanted() {
    for (everywhere, at, wanted) in [
        ("0.0.0.0:0", "127.0.0.1:0", "127.7.8.9"),
        ("[::]:0", "[::1]:0", "::1"),
    ] {
        let (fd, bound) = listener(everywhere);
        let receiver = peer(at);
        let to = receiver.local_addr().unwrap();
        let mut driver = driver(Memory::new(4, 2048));
        driver.arm_udp(SOCKET, fd.as_fd()).unwrap();
        let mut events = Vec::new();
        let wanted = wanted.parse().unwrap();
        for (from, source) in [(Some(wanted), wanted), (None, to.ip())] {
            driver.send_udp(SOCKET, from, &to, b"here");
            driver.turn(Some(Instant::ZERO), &mut events).unwrap();
            let (_, seen) = receiver.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(seen, SocketAddr::new(source, bound.port()));
        }
        // One that this machine does not have.
        let foreign = if to.is_ipv4() {
            "192.0.2.1"
        } else {
            "2001:db8::1"
        };
        driver.send_udp(SOCKET, Some(foreign.parse().unwrap()), &to, b"never");
        driver.turn(Some(Instant::ZERO), &mut events).unwrap();
        assert!(
            matches!(
                events[..],
                [Event::SendFailed {
                    socket: SOCKET,
                    len: 5,
                    ..
                }]
            ),
            "{events:?}"
        );
    }
}
