//! A second arena with the content of a first one: the same control file, a data file of its own.

use std::os::fd::{AsFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use os::Seals;
use shm::Arena;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// An arena whose bytes the test can read and write as a whole, while no process works on it.
pub struct Twin {
    /// The arena.
    pub arena: Arena,
    bytes: MmapRaw,
}

fn clone(fd: std::os::fd::BorrowedFd<'_>) -> OwnedFd {
    fd.try_clone_to_owned().expect("a descriptor")
}

impl Twin {
    /// An arena of its own with the content that `arena` has now.
    pub fn of(arena: &Arena) -> Self {
        let (control, data) = arena.fds().expect("an arena with files");
        let theirs = MmapOptions::new().map_raw(&clone(data)).expect("mapped");
        let seals = Seals::SHRINK.and(Seals::GROW).and(Seals::SEAL);
        let data = os::memfd("twin", theirs.len() as u64, seals).expect("memory");
        let bytes = MmapOptions::new().map_raw(&data).expect("mapped");
        let twin = Self {
            arena: Arena::attach(clone(control), clone(data.as_fd())).expect("the same layout"),
            bytes,
        };
        twin.write_all(&read(&theirs, 0, theirs.len()));
        twin
    }

    /// Bytes of the whole arena.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything. Nobody writes meanwhile: the processes on it are stopped or gone.
    pub fn read_all(&self) -> Vec<u8> {
        read(&self.bytes, 0, self.len())
    }

    /// One page, as for [`Twin::read_all`].
    pub fn page(&self, page: usize) -> &[u8] {
        assert!((page + 1) * PAGE <= self.len(), "a page of the arena");
        // SAFETY: inside the mapping, checked above.
        let at = unsafe { self.bytes.as_ptr().add(page * PAGE) };
        // SAFETY: PAGE mapped bytes; nobody writes them while they are looked at (the process on the arena is stopped).
        unsafe { std::slice::from_raw_parts(at, PAGE) }
    }

    /// Overwrites everything.
    pub fn write_all(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.len());
        for (page, bytes) in bytes.chunks(PAGE).enumerate() {
            // What is the same is not written: a page that nobody has touched stays a hole in the file.
            if self.page(page) != bytes {
                self.write_page(page, bytes);
            }
        }
    }

    /// Overwrites one page.
    pub fn write_page(&self, page: usize, bytes: &[u8]) {
        assert!((page + 1) * PAGE <= self.len() && bytes.len() <= PAGE);
        // SAFETY: inside the mapping, checked above.
        let at = unsafe { self.bytes.as_mut_ptr().add(page * PAGE) };
        // SAFETY: at most PAGE mapped bytes, from a slice of ours; nobody works on the arena meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }
}

fn read(map: &MmapRaw, at: usize, len: usize) -> Vec<u8> {
    assert!(at + len <= map.len());
    let mut bytes = vec![0; len];
    // SAFETY: inside the mapping, checked above.
    let from = unsafe { map.as_ptr().add(at) };
    // SAFETY: `len` mapped bytes to `len` bytes of ours; nobody writes them meanwhile.
    unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
    bytes
}
