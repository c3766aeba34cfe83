//! Huge pages: what the kernel offers for shared memory, and a mapping that can have them.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::descriptor::{Seals, seal};

/// Bytes of a huge page that an x86-64 or arm64 kernel with small pages of 4 KiB has.
pub const HUGE_PAGE: u64 = 2 << 20;

/// Bytes in huge pages that are set aside (`vm.nr_hugepages`) and free.
pub fn huge_pages_free() -> u64 {
    fs::read_to_string("/proc/meminfo").map_or(0, |text| free_in(&text))
}

fn free_in(meminfo: &str) -> u64 {
    let number = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    match number("Hugepagesize:") {
        Some(2048) => {
            let free = number("HugePages_Free:").unwrap_or(0);
            let promised = number("HugePages_Rsvd:").unwrap_or(0);
            free.saturating_sub(promised) * HUGE_PAGE
        }
        _ => 0,
    }
}

/// Whether the kernel gives huge pages to shared memory that asks for them (`transparent_hugepage/shmem_enabled`).
pub fn shared_memory_may_be_huge() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
        .is_ok_and(|text| allows(&text))
}

fn allows(shmem_enabled: &str) -> bool {
    ["[always]", "[within_size]", "[advise]", "[force]"]
        .iter()
        .any(|choice| shmem_enabled.contains(choice))
}

/// A memory file of huge pages that were set aside; `bytes` is a multiple of [`HUGE_PAGE`].
pub fn memfd_huge(name: &str, bytes: u64, seals: Seals) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC
        | MFdFlags::MFD_ALLOW_SEALING
        | MFdFlags::MFD_HUGETLB
        | MFdFlags::MFD_HUGE_2MB;
    let fd = memfd_create(name, flags)?;
    let bytes = i64::try_from(bytes).map_err(|_| io::Error::from(Errno::EFBIG))?;
    nix::unistd::ftruncate(&fd, bytes)?;
    if seals != Seals::NONE {
        seal(fd.as_fd(), seals)?;
    }
    Ok(fd)
}

/// A shared, writable mapping of a whole file, at an address that is a multiple of [`HUGE_PAGE`]: only then can the kernel map its huge pages as such.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: it is an address range; what may be done to the bytes is the business of whoever reads and writes them.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file.
    pub fn new(file: BorrowedFd<'_>, len: u64) -> io::Result<Self> {
        let invalid = || io::Error::from(Errno::EINVAL);
        let huge = HUGE_PAGE as usize;
        let len = usize::try_from(len).map_err(|_| invalid())?;
        let room = len.checked_add(huge).ok_or_else(invalid)?;
        let room = NonZeroUsize::new(room).ok_or_else(invalid)?;
        let length = NonZeroUsize::new(len).ok_or_else(invalid)?;
        // SAFETY: a new mapping of addresses that the kernel chooses; nothing is accessible through it.
        let reserved = unsafe {
            mmap_anonymous(
                None,
                room,
                ProtFlags::PROT_NONE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        let start = reserved.addr().get();
        let aligned = start.next_multiple_of(huge);
        let at = NonZeroUsize::new(aligned).ok_or_else(invalid)?;
        // SAFETY: MAP_FIXED over a part of the range that was reserved above and that nobody else knows.
        let mapped = unsafe {
            mmap(
                Some(at),
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
                file,
                0,
            )
        };
        // What the alignment left over, before and behind; all of it if the mapping failed.
        let end = aligned + len.next_multiple_of(4096);
        let (before, behind) = match mapped {
            Ok(_) => (aligned - start, (start + room.get()).saturating_sub(end)),
            Err(_) => (room.get(), 0),
        };
        give_back(reserved.cast(), before);
        if behind > 0 {
            let offset = end - start;
            // SAFETY: inside the reserved range: offset < room.
            let first = unsafe { reserved.cast::<u8>().add(offset) };
            give_back(first.cast(), behind & !4095);
        }
        Ok(Self {
            base: mapped?.cast(),
            len,
        })
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A mapping is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Leaves these bytes out of core dumps. Refused: no harm.
    pub fn keep_out_of_cores(&self) {
        let _ = self.advise(0, self.len, MmapAdvise::MADV_DONTDUMP);
    }

    /// Asks for huge pages wherever this mapping is touched for the first time.
    pub fn ask_for_huge_pages(&self) -> io::Result<()> {
        self.advise(0, self.len, MmapAdvise::MADV_HUGEPAGE)
    }

    /// Has these bytes backed by memory now, through this mapping (MADV_POPULATE_WRITE): out of memory is an error here, not a signal at some store.
    pub fn populate(&self, at: u64, len: u64) -> io::Result<()> {
        self.advise_raw(at, len, libc::MADV_POPULATE_WRITE)
    }

    /// Has the kernel gather the small pages of this range into huge ones (MADV_COLLAPSE, Linux 6.1). Costs milliseconds a page.
    pub fn collapse(&self, at: u64, len: u64) -> io::Result<()> {
        const MADV_COLLAPSE: libc::c_int = 25;
        self.advise_raw(at, len, MADV_COLLAPSE)
    }

    fn range(&self, at: usize, len: usize) -> io::Result<NonNull<u8>> {
        let inside = at <= self.len && len <= self.len - at;
        if !inside {
            return Err(Errno::EINVAL.into());
        }
        // SAFETY: at <= len of the mapping, checked above.
        Ok(unsafe { self.base.add(at) })
    }

    fn advise(&self, at: usize, len: usize, advice: MmapAdvise) -> io::Result<()> {
        let first = self.range(at, len)?;
        // SAFETY: a range of our own mapping; none of the advices used here changes what the bytes hold.
        Ok(unsafe { madvise(first.cast(), len, advice) }?)
    }

    /// For advices that `nix` does not name.
    fn advise_raw(&self, at: u64, len: u64, advice: libc::c_int) -> io::Result<()> {
        let (at, len) = (at as usize, len as usize);
        let first = self.range(at, len)?;
        // SAFETY: as in `advise`.
        let done = unsafe { libc::madvise(first.as_ptr().cast(), len, advice) };
        Errno::result(done)?;
        Ok(())
    }
}

fn give_back(at: NonNull<core::ffi::c_void>, len: usize) {
    if len > 0 {
        // SAFETY: a range that was reserved in `Mapping::new` and that nothing lies in. Refused: addresses are lost, not memory.
        let _ = unsafe { munmap(at, len) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        give_back(self.base.cast(), self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memfd;

    #[test]
    fn what_the_kernel_says_is_read() {
        let text = "HugePages_Total:       8\nHugePages_Free:        5\nHugePages_Rsvd:        1\nHugepagesize:       2048 kB\n";
        assert_eq!(free_in(text), 4 * HUGE_PAGE);
        assert_eq!(free_in("MemFree: 1 kB"), 0);
        assert_eq!(free_in(&text.replace("2048", "1048576")), 0);
        assert!(allows("always within_size [advise] never deny force"));
        assert!(!allows("always within_size advise [never] deny force"));
    }

    #[test]
    fn a_mapping_is_aligned_backed_and_shared() {
        let len = 3 * HUGE_PAGE + 8192;
        let file = memfd("test", len, Seals::NONE).unwrap();
        let (a, b) = (
            Mapping::new(file.as_fd(), len).unwrap(),
            Mapping::new(file.as_fd(), len).unwrap(),
        );
        for mapping in [&a, &b] {
            assert_eq!(mapping.base().addr().get() as u64 % HUGE_PAGE, 0);
            assert_eq!(mapping.len() as u64, len);
        }
        a.populate(0, HUGE_PAGE).unwrap();
        a.keep_out_of_cores();
        let last = a.len() - 1;
        // SAFETY: inside the mapping.
        let at = unsafe { a.base().add(last) };
        // SAFETY: as above, and nobody else writes it.
        unsafe { at.write(7) };
        // SAFETY: inside the mapping.
        let at = unsafe { b.base().add(last) };
        // SAFETY: as above.
        assert_eq!(unsafe { at.read() }, 7);
        assert!(a.populate(len, 1).is_err());
        assert!(Mapping::new(file.as_fd(), 0).is_err());
    }
}
