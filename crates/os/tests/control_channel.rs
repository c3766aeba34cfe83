//! Alone in its process, because it plays with a descriptor by its number: among the unit tests, descriptor 3 is anybody's.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

/// Makes descriptor 3 another name of `fd`.
fn place(fd: &OwnedFd) {
    // SAFETY: both are numbers, and nobody owns descriptor 3: see the test.
    let moved = unsafe { libc::dup2(fd.as_raw_fd(), os::CONTROL_FD) };
    assert_eq!(moved, os::CONTROL_FD);
}

#[test]
fn a_worker_takes_its_channel_and_nothing_else() {
    // From here on descriptor 3 is taken, by this duplicate or by what was there: nothing made below gets its number.
    // SAFETY: duplicates standard input under a number of at least 3, which nobody comes to own.
    unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, os::CONTROL_FD) };
    let (ours, theirs) = os::seqpacket_pair().unwrap();
    place(&os::eventfd().unwrap());
    assert!(os::take_control_channel().is_err());
    place(&theirs);
    let channel = os::take_control_channel().unwrap();
    assert!(channel.as_raw_fd() > os::CONTROL_FD);
    os::send_with_fds(ours.as_fd(), b"hello", &[]).unwrap();
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    os::recv_with_fds(channel.as_fd(), &mut bytes, &mut fds).unwrap();
    assert_eq!(bytes, b"hello");
    assert!(os::take_control_channel().is_err(), "taken once");
}
