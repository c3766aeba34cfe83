//! Running the tests.

use std::process::Command;

use clap::Args;

use crate::shell::{self, cargo, target_dir};
use crate::{proof, setup};

#[derive(Args, Default)]
pub(crate) struct Options {
    /// Only tests whose name contains this, such as `kill_storm`
    filter: Option<String>,
    /// Only the black-box tests
    #[arg(long, conflicts_with = "unit")]
    black_box: bool,
    /// Only what needs no processes and no outside programs
    #[arg(long)]
    unit: bool,
    /// The long forms: 60 s of load, 1,000 rounds, every corruption
    #[arg(long)]
    long: bool,
    /// Test the optimised build
    #[arg(long)]
    release: bool,
    /// Show what the tests print
    #[arg(long)]
    show: bool,
    /// Install nothing
    #[arg(long)]
    no_setup: bool,
}

/// The tests: first everything that needs no server, then the black box beside the binary just built, then what looks for deliberate faults. A step that fails does not keep
/// the later ones from being run.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !options.no_setup && !options.unit {
        setup::run()?;
    }
    let profile: &[&str] = if options.release { &["--release"] } else { &[] };
    let binary = target_dir()
        .join(if options.release { "release" } else { "debug" })
        .join("tandem");
    let build = |program: &str, features: &[&str]| {
        let mut build = cargo(&["build", "--package", "tandem", "--bin", program]);
        shell::run(build.args(features).args(profile))
    };
    build("tandem", &[])?;
    // Share all but our own crates with it.
    let failpoints = binary.with_file_name("tandem-failpoints");
    let layout_probe = binary.with_file_name("tandem-layout-probe");
    if !options.unit {
        build("tandem-failpoints", &["--features", "failpoints"])?;
        build("tandem-layout-probe", &["--features", "layout-probe"])?;
    }

    let mut test = cargo(&["test", "--no-fail-fast"]);
    if options.black_box {
        test.args(["--package", "blackbox", "--test", "black_box"]);
        test.args(["--test", "flows"]);
    } else {
        test.arg("--workspace");
    }
    test.args(profile);
    if options.unit {
        test.args(["--exclude", "blackbox"]);
    }
    test.env("TANDEM_BIN", binary);
    test.env("TANDEM_FAILPOINTS_BIN", failpoints);
    test.env("TANDEM_LAYOUT_PROBE_BIN", layout_probe);
    if options.long {
        test.env("TANDEM_LONG", "1");
    }
    test.arg("--");
    test.args(options.filter.as_deref());
    if options.show {
        test.arg("--show-output");
    }
    let mut steps = Steps::default();
    steps.note("the tests", shell::run(&mut test));
    if !options.black_box && options.filter.is_none() {
        // The arena with one thing left out at a time: what looks for faults has to find each.
        // And a death at each point.
        let mut broken = cargo(&["test", "--no-fail-fast", "--package", "shm"]);
        broken.args(["--test", "broken", "--test", "points"]);
        broken.args(["--features", "failpoints"]).args(profile);
        let what = "the arena's failpoints and deliberate faults";
        steps.note(what, shell::run(&mut broken));
        // The simulation, optimised: many seeds, and the deliberate bugs that it has to find.
        steps.note("the simulation", proof::sim(&proof::Sim::default()));
        let mutants = proof::sim(&proof::Sim::of_mutants());
        steps.note("the simulation's deliberate bugs", mutants);
    }
    steps.end()
}

/// What came of each step.
#[derive(Default)]
struct Steps(Vec<(&'static str, anyhow::Result<()>)>);

impl Steps {
    fn note(&mut self, what: &'static str, result: anyhow::Result<()>) {
        self.0.push((what, result));
    }

    /// Tells of all of them; an error if one failed.
    fn end(self) -> anyhow::Result<()> {
        let mut failed = 0;
        for (what, result) in &self.0 {
            match result {
                Ok(()) => eprintln!("passed: {what}"),
                Err(error) => {
                    failed += 1;
                    eprintln!("FAILED: {what}: {error:#}");
                }
            }
        }
        anyhow::ensure!(failed == 0, "{failed} of {} steps failed", self.0.len());
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct Flows {
    /// Only flows with one of these in their names, such as `rfc3665/3.2` or `crash`
    names: Vec<String>,
    /// In simulated time only
    #[arg(long)]
    simulated: bool,
}

/// Plays flows, and says one line for each.
pub(crate) fn flows(options: &Flows) -> anyhow::Result<()> {
    let mut test = cargo(&[
        "test",
        "--quiet",
        "--package",
        "blackbox",
        "--test",
        "flows",
    ]);
    // A path as a shell completes it is a name as well.
    let names = options.names.iter().map(|name| {
        let name = name.strip_suffix(".flow").unwrap_or(name);
        name.strip_prefix("tests/flows/").unwrap_or(name)
    });
    test.arg("--");
    if options.simulated {
        test.arg("--simulated");
    }
    shell::run(test.args(names))
}

/// Formatting, clippy and documentation, all without a warning.
pub(crate) fn lint() -> anyhow::Result<()> {
    shell::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    shell::run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    let mut doc: Command = cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--quiet",
    ]);
    shell::run(doc.env("RUSTDOCFLAGS", "--deny warnings"))
}

#[cfg(test)]
mod tests {
    use super::Steps;

    #[test]
    fn one_failure_of_several_steps_is_a_failure_of_all() {
        let mut steps = Steps::default();
        steps.note("one", Ok(()));
        steps.note("two", Err(anyhow::anyhow!("broken")));
        steps.note("three", Ok(()));
        let told = steps.end().unwrap_err().to_string();
        assert_eq!(told, "1 of 3 steps failed");

        let mut steps = Steps::default();
        steps.note("one", Ok(()));
        assert!(steps.end().is_ok());
    }
}
