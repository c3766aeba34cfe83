//! The UDP sockets of a listener.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockopt, setsockopt, socket,
    sockopt,
};

/// A non-blocking UDP socket bound to `address`. With `reuseport` it joins the group of that address, whose index is the
/// order of binding. Every datagram tells the address and port it was sent to (IP_RECVORIGDSTADDR), so that a socket of
/// `0.0.0.0` knows where it was reached. An IPv6 socket takes no IPv4 (IPV6_V6ONLY).
///
/// What is longer than the network's packets leaves in fragments, and routers may divide it further: with the "don't fragment" bit, which the
/// kernel sets by default, a router that is to say so and is kept from it (RFC 2923) would have long messages vanish.
///
/// `buffer_bytes` asks for the kernel's receive and send buffers by force (CAP_NET_ADMIN), else up to `net.core.rmem_max`
/// and `wmem_max`; [`receive_buffer_bytes`] tells what the former became.
pub fn udp_socket(
    address: SocketAddr,
    reuseport: bool,
    buffer_bytes: usize,
) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(
        family,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    if reuseport {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv4() {
        setsockopt(&fd, sockopt::Ipv4OrigDstAddr, &true)?;
        let dont = libc::IP_PMTUDISC_DONT;
        set_option(fd.as_fd(), libc::SOL_IP, libc::IP_MTU_DISCOVER, &dont)?;
    } else {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        setsockopt(&fd, sockopt::Ipv6OrigDstAddr, &true)?;
    }
    match setsockopt(&fd, sockopt::RcvBufForce, &buffer_bytes) {
        Err(Errno::EPERM) => setsockopt(&fd, sockopt::RcvBuf, &buffer_bytes)?,
        other => other?,
    }
    // A turn sends a batch without waiting, and on loopback a datagram counts against its sender until the receiver takes it.
    match setsockopt(&fd, sockopt::SndBufForce, &buffer_bytes) {
        Err(Errno::EPERM) => setsockopt(&fd, sockopt::SndBuf, &buffer_bytes)?,
        other => other?,
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd)
}

/// The kernel's receive buffer of a socket, as it counts (twice what was asked for, overhead included).
pub fn receive_buffer_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(getsockopt(&socket, sockopt::RcvBuf)?)
}

/// Spreads what arrives at a reuseport group evenly over its first `sockets` members, whatever its source: one trunk is
/// one flow and would land on one socket. `fd` is any member; the program belongs to the group.
pub fn attach_reuseport_random(fd: BorrowedFd<'_>, sockets: u32) -> io::Result<()> {
    if sockets == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let step = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, random),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, sockets),
        step(libc::BPF_RET | BPF_A, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    Ok(setsockopt(&fd, sockopt::AttachReusePortCbpf, &program)?)
}

/// Has the kernel drop, before anybody reads it, what begins with these bytes and comes from one of these sources (an IPv6 one stands
/// for its /64; none: from everybody), but for `pass` of 65,536; from 65,536 on all passes again. At most [`FILTERED_MAX`] sources
/// count. The filter stays with the socket, whoever holds it, until it is replaced.
pub fn filter_beginning(
    fd: BorrowedFd<'_>,
    beginning: [u8; 4],
    sources: &[IpAddr],
    pass: u32,
) -> io::Result<()> {
    if pass >= 1 << 16 {
        return match set_option(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0_i32) {
            // There was none.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done,
        };
    }
    let mut program = beginning_filter(beginning, sources, pass);
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Sources that a filter may name.
pub const FILTERED_MAX: usize = 16;

/// The program, written from its end: a jump says how many steps it leaves out.
fn beginning_filter(beginning: [u8; 4], sources: &[IpAddr], pass: u32) -> Vec<libc::sock_filter> {
    let step = |code: u32, k: u32, jt: usize, jf: usize| libc::sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    };
    let load = |at: u32| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let jump = |test: u32| libc::BPF_JMP | test | libc::BPF_K;
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let header = |offset: i32| (libc::SKF_NET_OFF + offset) as u32;
    // Back to front: drop, accept, the dice.
    let mut back = vec![
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
        step(jump(libc::BPF_JGE), pass, 1, 0),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xffff, 0, 0),
        load(random),
    ];
    const ACCEPT: usize = 1;
    const DICE: usize = 4;
    // How many steps are left out to come to the one at this place from the end, from the step that is about to be added.
    let over = |back: &[libc::sock_filter], place: usize| back.len() - 1 - place;
    if !sources.is_empty() {
        back.push(step(
            libc::BPF_JMP | libc::BPF_JA,
            over(&back, ACCEPT) as u32,
            0,
            0,
        ));
        for source in sources.iter().take(FILTERED_MAX) {
            match source {
                IpAddr::V4(ip) => {
                    let dice = over(&back, DICE);
                    back.push(step(jump(libc::BPF_JEQ), ip.to_bits(), dice, 0));
                    back.push(load(header(12)));
                }
                IpAddr::V6(ip) => {
                    let prefix = (ip.to_bits() >> 64) as u64;
                    let dice = over(&back, DICE);
                    back.push(step(jump(libc::BPF_JEQ), prefix as u32, dice, 0));
                    back.push(load(header(12)));
                    back.push(step(jump(libc::BPF_JEQ), (prefix >> 32) as u32, 0, 2));
                    back.push(load(header(8)));
                }
            }
        }
    }
    // What the filter sees begins with the header of UDP, 8 bytes. Reading past the end would drop.
    let accept = over(&back, ACCEPT);
    back.push(step(
        jump(libc::BPF_JEQ),
        u32::from_be_bytes(beginning),
        0,
        accept,
    ));
    back.push(load(8));
    let accept = over(&back, ACCEPT);
    back.push(step(jump(libc::BPF_JGE), 12, 0, accept));
    back.push(step(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0, 0));
    back.reverse();
    back
}

/// Datagrams that the kernel has dropped since the socket was made: its buffer was full, or its filter said so.
pub fn datagrams_dropped(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut words = [0_u32; SK_MEMINFO_VARS];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: `words` is `len` bytes that the kernel may write, and says how many it wrote.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(words[SK_MEMINFO_DROPS])
}

/// linux/sock_diag.h
const SK_MEMINFO_VARS: usize = 9;
const SK_MEMINFO_DROPS: usize = 8;

fn set_option<T>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: `value` is read for the bytes of its own type, and what it points to outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            core::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// "Return the accumulator" (linux/filter.h); libc lacks it.
const BPF_A: u32 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_socket_has_a_large_buffer_and_is_alone_without_reuseport() {
        let fd = udp_socket("127.0.0.1:0".parse().unwrap(), false, 200_000).unwrap();
        assert!(receive_buffer_bytes(fd.as_fd()).unwrap() >= 200_000);
        let address = UdpSocket::from(fd.try_clone().unwrap())
            .local_addr()
            .unwrap();
        let error = udp_socket(address, true, 200_000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let both = udp_socket("[::1]:0".parse().unwrap(), true, 200_000).unwrap();
        assert!(UdpSocket::from(both).local_addr().unwrap().is_ipv6());
    }

    #[test]
    fn one_flow_spreads_over_a_group() {
        let first = udp_socket("127.0.0.1:0".parse().unwrap(), true, 1 << 20).unwrap();
        let address = UdpSocket::from(first.try_clone().unwrap())
            .local_addr()
            .unwrap();
        let second = udp_socket(address, true, 1 << 20).unwrap();
        attach_reuseport_random(first.as_fd(), 2).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..200 {
            sender.send_to(b"x", address).unwrap();
        }
        let count = |fd: OwnedFd| {
            let socket = UdpSocket::from(fd);
            std::iter::from_fn(|| socket.recv_from(&mut [0; 8]).ok()).count()
        };
        let (one, two) = (count(first), count(second));
        assert_eq!(one + two, 200);
        assert!(one > 50 && two > 50, "{one} and {two} of 200");
    }

    #[test]
    fn a_filter_drops_a_share_of_what_begins_so() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let fd = udp_socket(address.parse().unwrap(), false, 4 << 20).unwrap();
            let socket = UdpSocket::from(fd.try_clone().unwrap());
            let to = socket.local_addr().unwrap();
            let sender = UdpSocket::bind(address).unwrap();
            let arrived = |texts: &[&[u8]]| {
                for _ in 0..400 {
                    for text in texts {
                        sender.send_to(text, to).unwrap();
                    }
                }
                std::iter::from_fn(|| socket.recv_from(&mut [0; 64]).ok()).count()
            };
            let filter =
                |sources: &[IpAddr], pass| filter_beginning(fd.as_fd(), *b"INVI", sources, pass);
            let invite: &[u8] = b"INVITE sip:x SIP/2.0";
            let foreign: [IpAddr; 2] =
                ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
            let all: Vec<IpAddr> = foreign.into_iter().chain([to.ip()]).collect();
            let mut dropped = 0;
            for sources in [&[][..], &all, &[to.ip()]] {
                filter(sources, 1 << 14).unwrap();
                // Short ones and others pass.
                assert_eq!(arrived(&[b"", b"\r\n", b"BYE sip:x SIP/2.0"]), 1200);
                let quarter = arrived(&[invite]);
                assert!((50..=160).contains(&quarter), "{quarter} of 400");
                dropped += 400 - u32::try_from(quarter).unwrap();
                assert_eq!(datagrams_dropped(fd.as_fd()).unwrap(), dropped);
            }
            filter(&foreign, 0).unwrap();
            assert_eq!(arrived(&[invite]), 400, "others are not named");
            filter(&[], 0).unwrap();
            assert_eq!(arrived(&[invite]), 0);
            for _ in 0..2 {
                filter(&[], 1 << 16).unwrap();
                assert_eq!(arrived(&[invite]), 400);
            }
        }
    }
}
