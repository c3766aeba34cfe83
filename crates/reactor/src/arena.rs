//! The arena's receive buffers as a pool.

use std::ptr::NonNull;

use shm::RxPool;

use crate::pool::Pool;

// SAFETY: `RxPool::region` is `count * buffer_bytes` bytes that start on a page and stay mapped while any clone of the arena lives, which
// the pool holds. Who may write a buffer is settled by its meta word and by the slot that drives it.
unsafe impl Pool for RxPool {
    fn base(&self) -> NonNull<u8> {
        self.region().0
    }

    fn buffer_bytes(&self) -> usize {
        RxPool::buffer_bytes(self)
    }

    fn count(&self) -> u16 {
        RxPool::count(self)
    }
}
