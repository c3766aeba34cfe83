//! io_uring, sockets, clock, timing wheel: the only crate that does I/O for SIP.
//!
//! - [`Driver`]: what a turn of the loop asks of the kernel; [`UringDriver`] does it by one `io_uring_enter` a turn.
//! - [`Pool`]: the receive buffers, which lie in the arena so that they outlive the worker; [`datagram()`] reads one of
//!   them again, by an heir or by the slot it was mailed to.
//! - [`probe()`]: whether this kernel and this container let us have a ring, and if not, what to do about it.
//! - [`Wheel`]: the timers of a slot.
//!
//! What survives a death of the process: a buffer whose first 16 bytes are not zero holds a whole datagram. They are
//! zeroed before the kernel gets the buffer, and the kernel writes them last.

mod buffers;
mod datagram;
mod driver;
mod pool;
mod probe;
mod scratch;
mod uring;
mod wheel;

pub use datagram::{Datagram, OVERHEAD_BYTES, datagram, parse};
pub use driver::{Driver, Event, SocketIndex};
pub use pool::{HEADER_BYTES, Pool, buffer, clear, holds_datagram};
pub use probe::{Refused, Why, probe};
pub use uring::{DriverError, Options, UringDriver};
pub use wheel::Wheel;
