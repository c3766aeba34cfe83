//! Memory files with seals, and eventfds as doorbells.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What can no longer be done to a memory file, by anyone, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seals(SealFlag);

impl Seals {
    /// Nothing is sealed yet.
    pub const NONE: Self = Self(SealFlag::empty());
    /// It cannot get shorter: no mapped page can vanish (no SIGBUS by truncation).
    pub const SHRINK: Self = Self(SealFlag::F_SEAL_SHRINK);
    /// It cannot get longer.
    pub const GROW: Self = Self(SealFlag::F_SEAL_GROW);
    /// No *new* writable mapping and no `write`; mappings that exist stay writable.
    pub const FUTURE_WRITE: Self = Self(SealFlag::from_bits_retain(0x10));
    /// Nobody can change a byte; refused while a writable mapping exists.
    pub const WRITE: Self = Self(SealFlag::F_SEAL_WRITE);
    /// No further seal.
    pub const SEAL: Self = Self(SealFlag::F_SEAL_SEAL);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0.union(other.0))
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0.contains(other.0)
    }
}

/// An anonymous memory file of `bytes` zero bytes with these seals. It holds no memory before it is written or
/// `fallocate`d. `name` shows in /proc only.
pub fn memfd(name: &str, bytes: u64, seals: Seals) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // MFD_NOEXEC_SEAL (Linux 6.3): the file can never be run. Older kernels refuse the flag and need none.
    let no_exec = MFdFlags::from_bits_retain(8);
    let fd = match memfd_create(name, flags | no_exec) {
        Err(Errno::EINVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    let bytes = i64::try_from(bytes).map_err(|_| io::Error::from(Errno::EFBIG))?;
    nix::unistd::ftruncate(&fd, bytes)?;
    if seals != Seals::NONE {
        seal(std::os::fd::AsFd::as_fd(&fd), seals)?;
    }
    Ok(fd)
}

/// Adds seals to a memory file.
pub fn seal(fd: BorrowedFd<'_>, seals: Seals) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals.0))?;
    Ok(())
}

/// The seals of a memory file; an error for another kind of file.
pub fn seals(fd: BorrowedFd<'_>) -> io::Result<Seals> {
    Ok(Seals(SealFlag::from_bits_retain(fcntl(
        fd,
        FcntlArg::F_GET_SEALS,
    )?)))
}

/// A doorbell: rung by [`ring_eventfd`], heard by a poll. Non-blocking.
pub fn eventfd() -> io::Result<OwnedFd> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    Ok(EventFd::from_value_and_flags(0, flags)?.into())
}

/// Rings a doorbell. One that was rung and never read until its counter is full is rung enough: no error.
pub fn ring_eventfd(fd: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        match nix::unistd::write(fd, &1u64.to_ne_bytes()) {
            Ok(8) | Err(Errno::EAGAIN) => return Ok(()),
            Ok(_) => {
                return Err(io::Error::other(format!(
                    "descriptor {} is no eventfd",
                    fd.as_raw_fd()
                )));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Has a doorbell that was rung be silent again.
pub fn hear_eventfd(fd: BorrowedFd<'_>) {
    // Not rung: EAGAIN.
    let _ = nix::unistd::read(fd, &mut [0; 8]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn seals_hold() {
        let fd = memfd("test", 8192, Seals::SHRINK).unwrap();
        assert!(seals(fd.as_fd()).unwrap().has(Seals::SHRINK));
        assert_eq!(nix::unistd::ftruncate(&fd, 4096), Err(Errno::EPERM));
        nix::unistd::ftruncate(&fd, 16_384).unwrap();
        seal(fd.as_fd(), Seals::GROW.and(Seals::SEAL)).unwrap();
        assert_eq!(nix::unistd::ftruncate(&fd, 32_768), Err(Errno::EPERM));
        assert!(seal(fd.as_fd(), Seals::FUTURE_WRITE).is_err());
    }

    #[test]
    fn future_write_stops_writes() {
        let fd = memfd("test", 4096, Seals::NONE).unwrap();
        nix::unistd::write(&fd, b"once").unwrap();
        seal(fd.as_fd(), Seals::FUTURE_WRITE).unwrap();
        assert_eq!(nix::unistd::write(&fd, b"twice"), Err(Errno::EPERM));
    }

    #[test]
    fn a_doorbell_rings_and_is_never_too_full() {
        let fd = eventfd().unwrap();
        nix::unistd::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        ring_eventfd(fd.as_fd()).unwrap();
        hear_eventfd(eventfd().unwrap().as_fd());
        let mut count = [0; 8];
        nix::unistd::read(&fd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), u64::MAX - 1);
        ring_eventfd(fd.as_fd()).unwrap();
        nix::unistd::read(&fd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
