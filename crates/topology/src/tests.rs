//! Whole messages, over a border that does what the proxy does around this crate.

mod bodies;
mod border;
mod flows;
mod headers;
mod torture;
