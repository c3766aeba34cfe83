//! Chores of this repository: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod bench;
mod bindings;
mod calls;
mod fuzz;
mod proof;
mod rig;
mod setup;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Rules that the compiler does not check: crate floors, unsafe, file length, leftovers
    Tidy,
    /// Install the outside programs that the tests use (Debian packages; needs root for that)
    Setup,
    /// Everything: setup, build, unit and black-box tests with real processes
    Test(test::Options),
    /// Call flows of `tests/flows` against real servers
    Flows(test::Flows),
    /// tidy, formatting, clippy and documentation without warnings, then `test`
    Ci {
        /// Stop before the tests
        #[arg(long)]
        no_test: bool,
    },
    /// Instruction counts of the benches under callgrind
    Bench(bench::Options),
    /// The long form of everything that dies: the arena's model, a death at each instruction, `kill -9` of workers under load
    Storm(proof::Storm),
    /// Seeded worlds around the proxy: loss, deaths, strangers; optimised, a failure prints the seed that replays it
    Sim(proof::Sim),
    /// The arena's orderings under the model checker `loom`
    Loom,
    /// The arena under Miri, where a nightly toolchain has it
    Miri(proof::Miri),
    /// Each fuzz target for some minutes, where a nightly toolchain and cargo-fuzz are; says what is missing otherwise
    Fuzz(fuzz::Options),
    /// The share of a package's lines that its tests reach
    Coverage(fuzz::Coverage),
    /// 100,000 calls at the same moment, calls for a while, and what a message of a call costs beside plain proxying
    Calls(calls::Options),
    /// CPU per call and highest clean rate beside another proxy, with a load generator outside this
    /// repository
    Rig(rig::Options),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().chore {
        Chore::Tidy => tidy::run(),
        Chore::Setup => setup::run(),
        Chore::Test(options) => test::run(&options),
        Chore::Flows(options) => test::flows(&options),
        Chore::Ci { no_test } => {
            tidy::run()?;
            test::lint()?;
            if no_test {
                Ok(())
            } else {
                test::run(&test::Options::default())
            }
        }
        Chore::Bench(options) => bench::run(&options),
        Chore::Storm(options) => proof::storm(&options),
        Chore::Sim(options) => proof::sim(&options),
        Chore::Loom => proof::loom(),
        Chore::Miri(options) => proof::miri(&options),
        Chore::Fuzz(options) => fuzz::fuzz(&options),
        Chore::Coverage(options) => fuzz::coverage(&options),
        Chore::Calls(options) => calls::run(&options),
        Chore::Rig(options) => rig::run(&options),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
