//! Nanoseconds per relayed datagram: one thread's driver sends back what it gets, on the loopback. Only informs.
//!
//! `cargo run --release -p reactor --example relay [DATAGRAMS] [BYTES]`

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::time::Duration;

use reactor::{Driver as _, Event, Options, SocketIndex, UringDriver, datagram};
use shm::{Arena, Layout, SlotId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (count, bytes) = (next(200_000)?, next(700)?);
    let arena = Arena::create(&Layout::new(64 << 20, 1, 0, 1), [1; 16])?;
    let pool = arena.rx(SlotId(0));
    let mut driver = UringDriver::new(pool.clone(), Options::default(), |_| true)?;
    let fd = os::udp_socket("127.0.0.1:0".parse()?, false, 8 << 20)?;
    let to = UdpSocket::from(fd.try_clone()?).local_addr()?;
    driver.arm_udp(SocketIndex(0), fd.as_fd())?;
    let peer = UdpSocket::from(os::udp_socket("127.0.0.1:0".parse()?, false, 8 << 20)?);
    let message = vec![b'x'; bytes];
    let (mut events, mut busy, mut relayed, mut turns) =
        (Vec::new(), Duration::ZERO, 0usize, 0usize);
    while relayed < count {
        for _ in 0..256 {
            peer.send_to(&message, to)?;
        }
        let (batch, start) = (relayed + 256, os::now());
        while relayed < batch {
            driver.turn(Some(start + Duration::from_secs(5)), &mut events)?;
            turns += 1;
            for event in events.drain(..) {
                let Event::Datagram {
                    socket,
                    buffer,
                    source,
                    ..
                } = event
                else {
                    continue;
                };
                if let Some(found) = datagram(&pool, buffer) {
                    driver.send_udp(socket, None, &source, found.payload);
                }
                driver.release(buffer);
                relayed += 1;
            }
        }
        driver.turn(Some(start), &mut events)?;
        busy += os::now().saturating_duration_since(start);
        while peer.recv(&mut [0; 2048]).is_ok() {}
    }
    let each = busy.as_nanos() / relayed as u128;
    println!(
        "{relayed} datagrams of {bytes} bytes: {each} ns each, {} a turn",
        relayed / turns.max(1)
    );
    Ok(())
}
