//! The only door to atomics and `UnsafeCell`; hands out the model checker's versions on request.
//!
//! `RUSTFLAGS="--cfg loom"` exchanges them for loom's. Everything shared between processes goes through this door, so
//! that a search for `sync::` finds every place where an ordering matters.

#[cfg(not(loom))]
pub use core::cell::UnsafeCell;
#[cfg(not(loom))]
pub use core::hint::spin_loop;
#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub use loom::cell::UnsafeCell;
#[cfg(loom)]
pub use loom::hint::spin_loop;
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
/// The model checker itself, for the tests that run under it.
#[cfg(loom)]
pub use loom::{model, thread};
