//! The ring through which the kernel is provided with the buffers of a [`Pool`].

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::pool::{Pool, address};

/// The only buffer group of a driver.
pub(crate) const GROUP: u16 = 0;
/// The most entries that the kernel takes.
const ENTRIES_MAX: u16 = 1 << 15;

/// The provided-buffer ring and who has which buffer.
///
/// Invariant: a buffer is in the ring at most once, because `with_kernel` says so for each; only [`Buffers::provide`]
/// sets it and only a completion that names the buffer clears it.
pub(crate) struct Buffers<P> {
    pool: P,
    entries: NonNull<BufRingEntry>,
    bytes: NonZeroUsize,
    mask: u16,
    /// The tail that the kernel will see at the next publish.
    tail: u16,
    published: u16,
    with_kernel: Box<[bool]>,
    available: u16,
}

impl<P: Pool> Buffers<P> {
    /// Makes the ring, registers it and provides every buffer of which `provide` says that nobody holds it.
    pub(crate) fn new(ring: &IoUring, pool: P, provide: impl Fn(u16) -> bool) -> io::Result<Self> {
        let count = pool.count();
        if count == 0 || count > ENTRIES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let entries_count = count.next_power_of_two();
        let bytes = NonZeroUsize::new(usize::from(entries_count) * size_of::<BufRingEntry>());
        let bytes = bytes.expect("a ring has at least one entry");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let memory = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) }?;
        let mut buffers = Self {
            pool,
            entries: memory.cast(),
            bytes,
            mask: entries_count - 1,
            tail: 0,
            published: 0,
            with_kernel: vec![false; usize::from(count)].into(),
            available: 0,
        };
        let start = memory.as_ptr() as u64;
        let submitter = ring.submitter();
        // SAFETY: the mapping is page-aligned, holds `entries_count` entries and lives until `buffers` is dropped; the
        // kernel pins its pages, so that even then it reads no memory of anybody else.
        unsafe { submitter.register_buf_ring_with_flags(start, entries_count, GROUP, 0) }?;
        for index in 0..count {
            if provide(index) {
                buffers.provide(index);
            }
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Zeroes the header of buffer `index` and puts it into the ring, for the kernel to see at the next publish. Nothing
    /// happens if the kernel has it or if there is no such buffer.
    pub(crate) fn provide(&mut self, index: u16) {
        let Some(start) = address(&self.pool, index) else {
            return;
        };
        let Some(with_kernel) = self.with_kernel.get_mut(usize::from(index)) else {
            return;
        };
        if *with_kernel {
            return;
        }
        *with_kernel = true;
        self.pool.empty(index);
        let at = usize::from(self.tail & self.mask);
        // SAFETY: `at` is below the number of entries that the mapping holds.
        let at = unsafe { self.entries.add(at) };
        let mut place = at;
        // SAFETY: the kernel reads only entries between its head and the published tail. There are at most as many
        // buffers as entries and each is in the ring once, so this entry is not one of those. It is initialised: zeroed
        // by the mapping or written here.
        let entry = unsafe { place.as_mut() };
        // The fields one by one: the first entry's reserved field is the ring's tail and stays.
        entry.set_addr(start.as_ptr() as u64);
        entry.set_len(self.pool.buffer_bytes() as u32);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
    }

    /// Lets the kernel see what was provided.
    pub(crate) fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        // SAFETY: the mapping starts with the first entry, initialised by the kernel's zero page, and lives.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is an aligned u16 in our mapping, which only this thread writes and only the kernel reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: pairs with the kernel's acquire of the tail; it sees the entries written before. Not from `sync`,
        // because the other side is the kernel, which no model checker plays.
        tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
    }

    /// Notes that the kernel filled buffer `index`; false if it did not have it.
    pub(crate) fn taken(&mut self, index: u16) -> bool {
        match self.with_kernel.get_mut(usize::from(index)) {
            Some(with_kernel) if *with_kernel => {
                *with_kernel = false;
                self.available -= 1;
                true
            }
            _ => false,
        }
    }

    /// Buffers that the kernel has or is about to have.
    pub(crate) fn available(&self) -> u16 {
        self.available
    }

    pub(crate) fn pool(&self) -> &P {
        &self.pool
    }
}

impl<P> Drop for Buffers<P> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more: the ring was closed before (field order of the
        // driver), and pages that the kernel still has pinned stay pinned.
        let result = unsafe { munmap(self.entries.cast(), self.bytes.get()) };
        debug_assert!(result.is_ok());
    }
}
