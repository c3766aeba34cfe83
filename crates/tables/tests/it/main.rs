//! The tables against what they promise, on arenas of the heap.

mod kv;
mod world;
