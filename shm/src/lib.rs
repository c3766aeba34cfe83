//! The arena: bytes that outlive a worker, their rows, indexes, reclaim and recovery.
