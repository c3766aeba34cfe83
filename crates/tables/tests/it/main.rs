//! The tables against what they promise, on arenas of the heap.

mod balancer;
mod cdr;
mod connection;
mod dialog;
mod kv;
mod layout;
mod media;
mod seat;
mod sweep;
mod world;
