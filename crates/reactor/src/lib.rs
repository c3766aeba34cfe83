//! io_uring, sockets, clock, timing wheel: the only crate that does I/O for SIP.
