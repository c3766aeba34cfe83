//! Memory files that nobody can change any more, read in place.

use core::num::NonZeroUsize;
use core::ptr::NonNull;
use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;

use crate::descriptor::{Seals, seals};

/// Nobody can change it, make it shorter or longer, or take that back.
pub const FOR_GOOD: Seals = Seals::WRITE
    .and(Seals::SHRINK)
    .and(Seals::GROW)
    .and(Seals::SEAL);

/// The bytes of a memory file that is sealed [`FOR_GOOD`]. All who map it share its pages.
#[derive(Debug)]
pub struct SealedMap {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: bytes that nobody writes; whoever drops it last gives back the addresses.
unsafe impl Send for SealedMap {}
// SAFETY: as for Send.
unsafe impl Sync for SealedMap {}

impl SealedMap {
    /// Maps a whole file. It is refused unless it is sealed and has bytes.
    pub fn new(file: BorrowedFd<'_>) -> io::Result<Self> {
        if !seals(file)?.has(FOR_GOOD) {
            return Err(Errno::EPERM.into());
        }
        let invalid = || io::Error::from(Errno::EINVAL);
        let len = usize::try_from(fstat(file)?.st_size).map_err(|_| invalid())?;
        let length = NonZeroUsize::new(len).ok_or_else(invalid)?;
        // SAFETY: a new mapping of addresses that the kernel chooses, for reading only.
        let base = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                file,
                0,
            )
        }?;
        Ok(Self {
            base: base.cast(),
            len,
        })
    }
}

impl AsRef<[u8]> for SealedMap {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped for as long as `self` is. The file is sealed against writing and against getting shorter, as
        // `new` has seen, and seals are never lifted: no byte changes or vanishes.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl Drop for SealedMap {
    fn drop(&mut self) {
        // SAFETY: the range that was mapped in `new`; every borrow of it has ended.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::{memfd, seal};

    #[test]
    fn only_what_nobody_can_change_is_mapped() {
        let mut file = File::from(memfd("test", 0, Seals::NONE).unwrap());
        file.write_all(b"for good").unwrap();
        assert!(SealedMap::new(file.as_fd()).is_err());
        seal(file.as_fd(), Seals::WRITE.and(Seals::SHRINK)).unwrap();
        assert!(SealedMap::new(file.as_fd()).is_err());
        seal(file.as_fd(), Seals::GROW.and(Seals::SEAL)).unwrap();
        let map = SealedMap::new(file.as_fd()).unwrap();
        assert!(file.write_all(b"!").is_err() && file.set_len(0).is_err());
        drop(file);
        assert_eq!(map.as_ref(), b"for good");
        let empty = memfd("test", 0, FOR_GOOD).unwrap();
        assert!(SealedMap::new(empty.as_fd()).is_err());
    }
}
