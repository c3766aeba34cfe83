//! The long forms of the proof, and those that need more than a plain toolchain.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::setup;
use crate::shell::{self, cargo};

#[derive(Args)]
pub(crate) struct Miri {
    /// Fail where Miri is not installed
    #[arg(long)]
    strict: bool,
    /// How many schedules of the threads, each with other weak memory
    #[arg(long, default_value_t = 1)]
    seeds: u32,
}

/// The arena on the heap, interpreted: validity, provenance, alignment, data races, weak memory.
pub(crate) fn miri(options: &Miri) -> anyhow::Result<()> {
    let found = Command::new("cargo")
        .args(["+nightly", "miri", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        let how = "rustup toolchain install nightly --component miri,rust-src";
        anyhow::ensure!(!options.strict, "Miri is not installed here: {how}");
        eprintln!("NOT RUN: Miri is not installed here, so nothing was checked. Install it: {how}");
        return Ok(());
    }
    // Deaths are played by forgetting: what a process had on its heap stays there. The arena's pages are one allocation, too.
    let mut flags = "-Zmiri-strict-provenance -Zmiri-ignore-leaks".to_owned();
    if options.seeds > 1 {
        flags.push_str(&format!(" -Zmiri-many-seeds=0..{}", options.seeds));
    }
    let runs: [&[&str]; 2] = [
        &["--test", "heap"],
        // The unit tests whose arena is on the heap.
        &["--lib", "--", "mailbox", "events", "rx", "body", "ctl"],
    ];
    for run in runs {
        let mut command = Command::new("cargo");
        command
            .args(["+nightly", "miri", "test", "--package", "shm"])
            .args(run)
            .current_dir(shell::root())
            .env("MIRIFLAGS", &flags)
            // The toolchain of this very process is another one.
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO");
        shell::run(&mut command)?;
    }
    Ok(())
}

/// The orderings under the model checker, in a target directory of their own: every crate is compiled anew for it.
pub(crate) fn loom() -> anyhow::Result<()> {
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" --cfg loom");
    let mut test = cargo(&["test", "--package", "shm", "--lib", "loom::"]);
    test.arg("--target-dir")
        .arg(shell::target_dir().join("loom"))
        .env("RUSTFLAGS", flags.trim());
    shell::run(&mut test)
}

/// What a storm is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The model of the protocol, with three participants and more deaths
    Model,
    /// A death after each instruction of each operation, of recoveries too, alone and beside another process
    Instructions,
    /// Processes on the same keys, killed at random, and their histories checked
    Histories,
    /// Real workers under SIP load
    Workers,
}

const PARTS: [Part; 4] = [
    Part::Model,
    Part::Instructions,
    Part::Histories,
    Part::Workers,
];

/// Between two kills of the great storm.
const GREAT_STORM_EVERY_MS: u64 = 400;

#[derive(Args)]
pub(crate) struct Storm {
    /// How long; the first two parts take what they take, the others share the rest
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Storm the unoptimised build
    #[arg(long)]
    debug: bool,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

/// The long form of everything that dies.
pub(crate) fn storm(options: &Storm) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(options.minutes.saturating_mul(60));
    let parts: Vec<Part> = PARTS
        .into_iter()
        .filter(|part| options.only.is_empty() || options.only.contains(part))
        .collect();
    let timed = |part: &Part| matches!(part, Part::Histories | Part::Workers);
    for (nth, part) in parts.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let sharing = parts.iter().skip(nth).filter(|p| timed(p)).count().max(1) as u32;
        // At least one round of each, however short the time is.
        let seconds = (left / sharing).as_secs().max(10);
        let mut test = cargo(&["test"]);
        if !options.debug {
            test.arg("--release");
        }
        match part {
            Part::Model => test.args(["--package", "model"]).env("TANDEM_LONG", "1"),
            Part::Instructions => test
                .args([
                    "--package",
                    "shm",
                    "--package",
                    "tables",
                    "--test",
                    "instructions",
                    "--test",
                    "beside",
                ])
                .env("SHM_EVERY_INSTRUCTION", "1"),
            // One test for the arena, one for `kv`: half of the time each.
            Part::Histories => test
                .args([
                    "--package",
                    "shm",
                    "--package",
                    "tables",
                    "--test",
                    "histories",
                ])
                .env("SHM_STORM_SECONDS", (seconds / 2).to_string()),
            Part::Workers => {
                setup::run()?;
                // Two tests: half of the time each; that nothing is left is waited for in addition.
                let each = seconds / 2;
                let kills = (each * 1000 / GREAT_STORM_EVERY_MS).max(1);
                test.args(["--package", "blackbox", "--test", "black_box"])
                    .env("TANDEM_STORM_SECONDS", each.to_string())
                    .env("TANDEM_STORM_KILLS", kills.to_string())
                    .env("TANDEM_STORM_EVERY_MS", GREAT_STORM_EVERY_MS.to_string())
            }
        };
        test.arg("--");
        if *part == Part::Workers {
            test.args(["kill_storm::no_call", "great_storm"]);
        } else {
            test.args(["--test-threads", "1"]);
        }
        shell::run(test.arg("--nocapture"))?;
    }
    Ok(())
}

#[derive(Args)]
pub(crate) struct Sim {
    /// How many stories
    #[arg(long, default_value_t = 256)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only this one, with its ladder
    #[arg(long)]
    seed: Option<String>,
    /// Datagrams lost of a thousand, instead of what each seed says
    #[arg(long)]
    loss: Option<u32>,
    /// Deliberate bugs instead, one at a time: each has to be found within 1,000 seeds
    #[arg(long)]
    mutants: bool,
}

impl Default for Sim {
    fn default() -> Self {
        Self {
            seeds: 256,
            first: 0,
            seed: None,
            loss: None,
            mutants: false,
        }
    }
}

impl Sim {
    pub(crate) fn of_mutants() -> Self {
        Self {
            mutants: true,
            ..Self::default()
        }
    }
}

/// The simulation, with deaths in the midst of the arena's operations.
pub(crate) fn sim(options: &Sim) -> anyhow::Result<()> {
    let target = if options.mutants { "mutants" } else { "seeds" };
    let mut test = cargo(&["test", "--release", "--package", "sim"]);
    test.args(["--features", "failpoints", "--test", target]);
    test.args(["--", "--nocapture"]);
    test.env("SIM_SEEDS", options.seeds.to_string());
    test.env("SIM_FIRST", options.first.to_string());
    if let Some(seed) = &options.seed {
        test.env("SIM_SEED", seed);
    }
    if let Some(loss) = options.loss {
        test.env("SIM_LOSS", loss.to_string());
    }
    shell::run(&mut test)
}
