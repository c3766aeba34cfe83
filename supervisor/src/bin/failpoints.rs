//! The same program with failpoints, for tests: under a name of its own, so that a test has both beside each other.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tandem::main()
}
