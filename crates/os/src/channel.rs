//! Whole messages with descriptors over a Unix socket that keeps their borders (SOCK_SEQPACKET).

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// The most descriptors one message carries (the kernel's own bound is 253).
pub const FDS_MAX: usize = 250;

/// Bytes of ancillary data that [`FDS_MAX`] descriptors and their header need, rounded up generously.
const ANCILLARY_BYTES: usize = 1088;
/// What makes the ancillary buffer aligned as `cmsghdr` wants.
const ANCILLARY_WORDS: usize = ANCILLARY_BYTES / size_of::<u64>();
const _: () = assert!(
    ANCILLARY_BYTES >= 24 + FDS_MAX * size_of::<RawFd>() && align_of::<libc::cmsghdr>() <= 8
);

/// The two ends of a channel.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// A listening socket at `path`, non-blocking, for its owner alone from the moment that it exists. It belongs to whoever holds
/// a duplicate: several processes may wait for the same connections, and each connection goes to one of them.
///
/// Changes the process's umask for a moment, so that no other thread may create files meanwhile.
pub fn seqpacket_listen(path: &Path) -> io::Result<OwnedFd> {
    let fd = seqpacket_socket()?;
    let address = UnixAddr::new(path)?;
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = bind(fd.as_raw_fd(), &address);
    umask(before);
    bound?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd)
}

/// A connection to the listener at `path`, non-blocking. `ConnectionRefused`: nobody holds the listener; `WouldBlock`: its queue
/// is full.
pub fn seqpacket_connect(path: &Path) -> io::Result<OwnedFd> {
    let fd = seqpacket_socket()?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// The next connection, blocking; `None` when none waits (any more).
pub fn seqpacket_accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    loop {
        match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(raw) => {
                // SAFETY: the kernel just made this descriptor and nobody else knows it.
                return Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) }));
            }
            Err(Errno::EAGAIN | Errno::ECONNABORTED) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn seqpacket_socket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?)
}

/// The account behind the other end: of who made the pair, connected, or began to listen.
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(getsockopt(&socket, sockopt::PeerCredentials)?.uid())
}

/// Makes a socket block, for at most `patience` in each call (`WouldBlock` afterwards); `None`: without a bound.
pub fn block_for(socket: BorrowedFd<'_>, patience: Option<Duration>) -> io::Result<()> {
    let patience = patience.unwrap_or_default();
    let time = TimeVal::microseconds(i64::try_from(patience.as_micros()).unwrap_or(i64::MAX));
    setsockopt(&socket, sockopt::SendTimeout, &time)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &time)?;
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Makes a socket answer `WouldBlock` instead of waiting.
pub fn never_block(socket: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Sends one message with duplicates of `fds`; all of it or nothing. An empty message is refused, because the receiver
/// could not tell it from the end of the channel. Blocks while the peer's queue is full, unless the socket is non-blocking.
pub fn send_with_fds(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if bytes.is_empty() || fds.len() > FDS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let ancillary = if raw.is_empty() { &[] } else { &rights[..] };
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            ancillary,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one whole message of any length into `bytes` (replacing what is in it) and appends its descriptors, closed on
/// exec, to `fds`. Returns the length; 0 says that the peer is gone. A message whose bytes or descriptors did not all
/// arrive is `InvalidData`, and nothing of it is kept.
///
/// One thread receives from a channel: the length is looked at before the message is taken.
pub fn recv_with_fds(
    socket: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    bytes.clear();
    let waiting = peek_length(socket)?;
    // A zero-length look may be the end of the channel: the receive itself then says so.
    bytes.resize(waiting.max(1), 0);
    let mut ancillary = [0u64; ANCILLARY_WORDS];
    let mut iov = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all-zero bytes are a valid msghdr: null pointers with zero lengths.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = ancillary.as_mut_ptr().cast();
    header.msg_controllen = ANCILLARY_BYTES;
    let received = retry(|| {
        // SAFETY: `header` points at `iov`, `bytes` and `ancillary`, which outlive the call, with their true lengths.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) }
    });
    let received = match received {
        Ok(received) => received,
        Err(error) => {
            bytes.clear();
            return Err(error);
        }
    };
    let first = fds.len();
    adopt_descriptors(&header, fds);
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        fds.truncate(first);
        bytes.clear();
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message on the channel did not arrive whole",
        ));
    }
    bytes.truncate(received);
    Ok(received)
}

/// Takes ownership of every descriptor that the kernel installed for this message.
fn adopt_descriptors(header: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel filled the control buffer of `header` and set its length.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: a non-null result of CMSG_FIRSTHDR or CMSG_NXTHDR points at a header inside the aligned control buffer.
        let head = unsafe { ptr::read(message) };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: as above; this only adds the size of the header.
            let data = unsafe { libc::CMSG_DATA(message) }.cast::<RawFd>();
            // SAFETY: this only computes the length of an empty message.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            for i in 0..head.cmsg_len.saturating_sub(overhead) / size_of::<RawFd>() {
                // SAFETY: `i` lies inside this message's data by its length.
                let at = unsafe { data.add(i) };
                // SAFETY: the kernel wrote a descriptor there.
                let raw = unsafe { ptr::read_unaligned(at) };
                // SAFETY: the kernel installed it for us in this call and nobody else knows it.
                fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: `message` points into the control buffer of `header`.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
}

/// The length of the next message, which stays in the socket; blocks until there is one or the peer is gone (0).
fn peek_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_TRUNC;
    retry(|| {
        // SAFETY: a null buffer of length 0 is never written.
        unsafe { libc::recv(socket.as_raw_fd(), ptr::null_mut(), 0, flags) }
    })
}

/// Repeats a call that a signal interrupted.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(n) => return Ok(n),
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
}

/// Bytes that were sent on this socket and that the other end has not read, the kernel's own overhead included; 0: all of it was read.
pub fn unread_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request (SIOCOUTQ by its other name) writes one int, which is ours and lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(result)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::FdFlag;
    use std::os::fd::AsFd as _;

    #[test]
    fn what_was_read_is_no_longer_unread() {
        let (ours, theirs) = seqpacket_pair().unwrap();
        assert_eq!(unread_bytes(ours.as_fd()).unwrap(), 0);
        for message in [b"one", b"two"] {
            send_with_fds(ours.as_fd(), message, &[theirs.as_fd()]).unwrap();
        }
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            assert!(unread_bytes(ours.as_fd()).unwrap() > 0);
            recv_with_fds(theirs.as_fd(), &mut bytes, &mut fds).unwrap();
        }
        assert_eq!(unread_bytes(ours.as_fd()).unwrap(), 0);
    }

    #[test]
    fn messages_keep_their_borders_and_bring_descriptors() {
        let (a, b) = seqpacket_pair().unwrap();
        let bell = crate::eventfd().unwrap();
        send_with_fds(a.as_fd(), b"first", &[]).unwrap();
        send_with_fds(a.as_fd(), &[7; 100_000], &[bell.as_fd(), a.as_fd()]).unwrap();
        let (mut bytes, mut fds) = (vec![9; 3], Vec::new());
        assert_eq!(recv_with_fds(b.as_fd(), &mut bytes, &mut fds).unwrap(), 5);
        assert_eq!((&bytes[..], fds.len()), (&b"first"[..], 0));
        assert_eq!(
            recv_with_fds(b.as_fd(), &mut bytes, &mut fds).unwrap(),
            100_000
        );
        assert_eq!(bytes, [7; 100_000]);
        assert_eq!(fds.len(), 2);
        let flags = FdFlag::from_bits_retain(fcntl(&fds[0], FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
        crate::ring_eventfd(fds[0].as_fd()).unwrap();
        let mut count = [0; 8];
        nix::unistd::read(&bell, &mut count).unwrap();
        assert_eq!(
            u64::from_ne_bytes(count),
            1,
            "the descriptor names the same eventfd"
        );
    }

    #[test]
    fn the_most_descriptors_fit() {
        let (a, b) = seqpacket_pair().unwrap();
        send_with_fds(a.as_fd(), b"x", &[a.as_fd(); FDS_MAX]).unwrap();
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        assert_eq!(recv_with_fds(b.as_fd(), &mut bytes, &mut fds).unwrap(), 1);
        assert_eq!(fds.len(), FDS_MAX);
        let error = send_with_fds(a.as_fd(), b"x", &[a.as_fd(); FDS_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_end_of_the_channel_is_zero() {
        let (a, b) = seqpacket_pair().unwrap();
        send_with_fds(a.as_fd(), b"last words", &[]).unwrap();
        drop(a);
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        assert_eq!(recv_with_fds(b.as_fd(), &mut bytes, &mut fds).unwrap(), 10);
        assert_eq!(recv_with_fds(b.as_fd(), &mut bytes, &mut fds).unwrap(), 0);
        assert!(bytes.is_empty());
        assert_eq!(
            send_with_fds(b.as_fd(), b"x", &[]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn one_listener_in_two_hands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adopt");
        let first = seqpacket_listen(&path).unwrap();
        let second = first.try_clone().unwrap();
        assert!(seqpacket_accept(first.as_fd()).unwrap().is_none());
        let connection = seqpacket_connect(&path).unwrap();
        drop(first);
        let accepted = seqpacket_accept(second.as_fd()).unwrap().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        assert_eq!(peer_uid(accepted.as_fd()).unwrap(), me);
        assert_eq!(peer_uid(connection.as_fd()).unwrap(), me);
        block_for(accepted.as_fd(), Some(Duration::from_millis(1))).unwrap();
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        let error = recv_with_fds(accepted.as_fd(), &mut bytes, &mut fds).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        send_with_fds(connection.as_fd(), b"x", &[]).unwrap();
        assert_eq!(
            recv_with_fds(accepted.as_fd(), &mut bytes, &mut fds).unwrap(),
            1
        );
        drop(second);
        // A child that another test has just forked has a copy until its `exec`.
        let refused = || seqpacket_connect(&path).map_err(|error| error.kind());
        while refused().is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(refused().unwrap_err(), io::ErrorKind::ConnectionRefused);
    }
}
