//! What a fuzzer runs: one function of bytes for each target, seeds, and a driver for the stable toolchain.
//!
//! - [`TARGETS`]: each takes any bytes and panics if something that must hold does not;
//! - [`seeds()`]: the torture messages and the kept corpus, from which both drivers start;
//! - [`drive`]: mutates seeds by a seeded generator, within `cargo test`; `tests/fuzz` has the same targets for
//!   `cargo fuzz`, which `cargo xtask fuzz` runs where a nightly toolchain is.
//!
//! Only tests and fuzzers use this crate.
#![forbid(unsafe_code)]

mod agree;
pub mod drive;
mod seeds;
mod source;
mod targets;
pub mod world;

pub use seeds::seeds;
pub use source::Source;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Whether it takes SIP messages as they are, so that those of `tests/torture` are seeds of it.
    pub takes_messages: bool,
    pub run: fn(&[u8]),
}

/// Everything that is fuzzed; `tests/fuzz` has a program for each.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "parser",
        takes_messages: true,
        run: targets::parser::run,
    },
    Target {
        name: "headers",
        takes_messages: false,
        run: targets::headers::run,
    },
    Target {
        name: "uri",
        takes_messages: false,
        run: targets::uri::run,
    },
    Target {
        name: "patch",
        takes_messages: true,
        run: targets::patch::run,
    },
    Target {
        name: "stream",
        takes_messages: true,
        run: targets::stream::run,
    },
    Target {
        name: "transactions",
        takes_messages: false,
        run: targets::transactions::run,
    },
    Target {
        name: "proxy",
        takes_messages: true,
        run: targets::proxy::run,
    },
    Target {
        name: "media",
        takes_messages: false,
        run: targets::media::run,
    },
];

/// Runs the target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .unwrap_or_else(|| panic!("no target is called {name}"));
    (target.run)(bytes);
}
