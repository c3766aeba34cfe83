//! The receive buffers as the driver sees them.

use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

/// The kernel's header at the start of a buffer (`io_uring_recvmsg_out`): lengths of name, control data and payload, flags.
pub const HEADER_BYTES: usize = 16;

/// Equal buffers one after the other in memory that outlives the process.
///
/// # Safety
///
/// `base` is aligned to 8 bytes and is the start of `count * buffer_bytes` bytes that stay mapped, readable and writable,
/// while this value lives; `buffer_bytes` is a multiple of 8. A buffer is written by the kernel while it has it, and by
/// nobody else while somebody holds it.
pub unsafe trait Pool {
    fn base(&self) -> NonNull<u8>;
    fn buffer_bytes(&self) -> usize;
    fn count(&self) -> u16;

    /// Makes buffer `index` the kernel's: zeroes its header ([`clear`]) and notes what the pool's journal needs. Called by
    /// the driver before it provides the buffer, and by nobody else.
    fn empty(&self, index: u16);
}

// SAFETY: the region of a slot's pool is mapped while any clone of the arena lives, and starts and is divided at multiples
// of 64 bytes; the journal's protocol gives each buffer to one party at a time.
unsafe impl Pool for shm::RxPool {
    fn base(&self) -> NonNull<u8> {
        self.region().0
    }
    fn buffer_bytes(&self) -> usize {
        Self::buffer_bytes(self)
    }
    fn count(&self) -> u16 {
        Self::count(self)
    }
    fn empty(&self, index: u16) {
        self.provide(index);
    }
}

/// The whole buffer `index`; `None` if there is no such buffer. Only to be read while the kernel does not have it.
pub fn buffer<P: Pool>(pool: &P, index: u16) -> Option<&[u8]> {
    let start = address(pool, index)?;
    // SAFETY: `address` checked the index, and `Pool` promises the bytes for as long as `pool` is borrowed.
    Some(unsafe { slice::from_raw_parts(start.as_ptr(), pool.buffer_bytes()) })
}

/// Whether buffer `index` was filled by the kernel and not given back since: its header is not zero. False also for a
/// buffer that does not exist.
pub fn holds_datagram<P: Pool>(pool: &P, index: u16) -> bool {
    let Some([first, second]) = header(pool, index) else {
        return false;
    };
    // Relaxed: only the kernel, at our own enter, or a process that is dead by now wrote it.
    first.load(Ordering::Relaxed) != 0 || second.load(Ordering::Relaxed) != 0
}

/// Empties buffer `index` in the sense of [`holds_datagram`]; for implementations of [`Pool::empty`].
pub fn clear<P: Pool>(pool: &P, index: u16) {
    let Some([first, second]) = header(pool, index) else {
        return;
    };
    // The name's length goes first: after a death between the two stores the buffer says that it is filled and does not
    // parse, so that an heir drops it instead of serving an emptied message. Release keeps that order.
    first.store(0, Ordering::Relaxed);
    second.store(0, Ordering::Release);
}

/// Where buffer `index` starts.
pub(crate) fn address<P: Pool>(pool: &P, index: u16) -> Option<NonNull<u8>> {
    if index >= pool.count() {
        return None;
    }
    let offset = usize::from(index) * pool.buffer_bytes();
    // SAFETY: `index` is below `count`, and `Pool` promises `count * buffer_bytes` bytes from `base` on.
    Some(unsafe { pool.base().add(offset) })
}

/// The header of buffer `index` as two words.
fn header<P: Pool>(pool: &P, index: u16) -> Option<[&AtomicU64; 2]> {
    const { assert!(HEADER_BYTES == 2 * size_of::<AtomicU64>()) };
    let start = address(pool, index)?;
    // SAFETY: `Pool` promises alignment and at least a header's bytes, and atomics allow other writers.
    Some(unsafe { start.cast::<[AtomicU64; 2]>().as_ref() }.each_ref())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Buffers on the heap, shared by drivers that follow one another like the incarnations of a slot.
    pub(crate) struct HeapPool {
        memory: NonNull<u64>,
        buffer_bytes: usize,
        count: u16,
    }

    impl HeapPool {
        pub(crate) fn new(count: u16, buffer_bytes: usize) -> Self {
            let words = vec![0u64; usize::from(count) * buffer_bytes / 8].into_boxed_slice();
            let memory = NonNull::from(Box::leak(words)).cast();
            Self {
                memory,
                buffer_bytes,
                count,
            }
        }
    }

    impl Drop for HeapPool {
        fn drop(&mut self) {
            let words = usize::from(self.count) * self.buffer_bytes / 8;
            let all = NonNull::slice_from_raw_parts(self.memory, words);
            // SAFETY: it came from a leaked box of this length, and nothing borrows it any more.
            drop(unsafe { Box::from_raw(all.as_ptr()) });
        }
    }

    // SAFETY: an allocation of `count * buffer_bytes` bytes in words, freed on drop only.
    unsafe impl Pool for &HeapPool {
        fn base(&self) -> NonNull<u8> {
            self.memory.cast()
        }
        fn buffer_bytes(&self) -> usize {
            self.buffer_bytes
        }
        fn count(&self) -> u16 {
            self.count
        }
        fn empty(&self, index: u16) {
            clear(self, index);
        }
    }

    #[test]
    fn a_buffer_holds_until_both_words_are_clear() {
        let memory = HeapPool::new(2, 1024);
        let pool = &memory;
        assert!(!holds_datagram(&pool, 1) && !holds_datagram(&pool, 2));
        let [_, second] = header(&pool, 1).unwrap();
        second.store(1, Ordering::Relaxed);
        assert!(holds_datagram(&pool, 1) && !holds_datagram(&pool, 0));
        clear(&pool, 1);
        assert!(!holds_datagram(&pool, 1));
        assert!(buffer(&pool, 2).is_none() && buffer(&pool, 1).is_some_and(|b| b.len() == 1024));
    }
}
