//! The UDP sockets of a listener.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockopt, setsockopt, socket,
    sockopt,
};

/// A non-blocking UDP socket bound to `address`. With `reuseport` it joins the group of that address, whose index is the
/// order of binding. Every datagram tells the address and port it was sent to (IP_RECVORIGDSTADDR), so that a socket of
/// `0.0.0.0` knows where it was reached. An IPv6 socket takes no IPv4 (IPV6_V6ONLY).
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

/// "Return the accumulator" (linux/filter.h); libc lacks it.
const BPF_A: u32 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

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
}
