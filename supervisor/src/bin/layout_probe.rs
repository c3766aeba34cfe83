//! The same program with another layout of the arena, for tests of upgrades.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tandem::main()
}
