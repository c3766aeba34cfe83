//! Fuzzing with coverage (`cargo fuzz`, nightly), and line coverage of the tests.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::shell::{self, cargo, have, output, root, target_dir};

/// Programs in `tests/fuzz`.
const TARGETS: [&str; 8] = [
    "parser",
    "headers",
    "uri",
    "patch",
    "stream",
    "transactions",
    "proxy",
    "media",
];

/// Unit: MiB. A target that needs more has found something.
const MEMORY_MB: u32 = 2048;

/// Unit: bytes.
const INPUT_MAX: u32 = 4096;

#[derive(Args)]
pub(crate) struct Options {
    /// Only this target
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Keep only the inputs that add coverage, afterwards
    #[arg(long)]
    minimize: bool,
}

/// Runs the targets one after another; stops at the first that fails.
pub(crate) fn fuzz(options: &Options) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    if output(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])).is_err() {
        missing.push("a nightly toolchain (`rustup toolchain install nightly`)");
    }
    if output(&mut cargo(&["fuzz", "--version"])).is_err() {
        missing.push("cargo-fuzz (`cargo install cargo-fuzz`)");
    }
    if !missing.is_empty() {
        bail!(
            "nothing was fuzzed: there is no {}. The same targets run without, and without coverage, by \
             `TANDEM_FUZZ_SECONDS=600 cargo test --release -p fuzzing --test bounded`",
            missing.join(" and no ")
        );
    }
    let folder = root().join("tests/fuzz");
    let seconds = options.minutes.saturating_mul(60);
    let wanted = |name: &&str| options.target.as_deref().is_none_or(|t| t == *name);
    for name in TARGETS.into_iter().filter(wanted) {
        // What is found goes to the first folder; the others are only read.
        let found = target_dir().join("fuzz-corpus").join(name);
        let kept = folder.join("corpus").join(name);
        std::fs::create_dir_all(&found)?;
        std::fs::create_dir_all(&kept)?;
        let torture =
            ["typical", "rfc4475", "rfc5118"].map(|t| root().join("tests/torture").join(t));
        let mut run = cargo_fuzz("run", name);
        run.arg(&found).arg(&kept).args(torture).arg("--").args([
            format!("-max_total_time={seconds}"),
            format!("-rss_limit_mb={MEMORY_MB}"),
            format!("-max_len={INPUT_MAX}"),
            "-timeout=20".to_owned(),
            "-print_final_stats=1".to_owned(),
        ]);
        shell::run(&mut run)?;
        if options.minimize {
            shell::run(cargo_fuzz("cmin", name).arg(&found))?;
        }
    }
    Ok(())
}

fn cargo_fuzz(command: &str, target: &str) -> Command {
    let mut cargo = Command::new("rustup");
    cargo
        .args([
            "run",
            "nightly",
            "cargo",
            "fuzz",
            command,
            "--fuzz-dir",
            "tests/fuzz",
            target,
        ])
        .current_dir(root());
    // A cargo that runs us says which toolchain it is of.
    for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(name);
    }
    cargo
}

#[derive(Args)]
pub(crate) struct Coverage {
    /// The package whose tests run, and whose lines are counted
    #[arg(long, default_value = "sip")]
    package: String,
    /// Fail below this
    #[arg(long, default_value_t = 90.0)]
    least: f64,
    /// Print every line that no test reaches
    #[arg(long)]
    lines: bool,
}

/// The share of lines that the tests of a package reach.
pub(crate) fn coverage(options: &Coverage) -> anyhow::Result<()> {
    let profdata = llvm("llvm-profdata")?;
    let cov = llvm("llvm-cov")?;
    let folder = target_dir().join("coverage");
    let raw = folder.join("raw");
    // Of an earlier run.
    let _ = std::fs::remove_dir_all(&raw);
    std::fs::create_dir_all(&raw)?;
    let instrumented = |arguments: &[&str]| {
        let mut cargo = cargo(arguments);
        cargo
            .args(["--package", &options.package, "--lib", "--tests"])
            .env("CARGO_TARGET_DIR", &folder)
            .env("RUSTFLAGS", "-Cinstrument-coverage")
            .env("LLVM_PROFILE_FILE", raw.join("%p-%m.profraw"));
        cargo
    };
    let built = output(&mut instrumented(&[
        "test",
        "--no-run",
        "--message-format=json",
    ]))?;
    let programs: Vec<String> = built
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(message.get("executable")?.as_str()?.to_owned()))
        .collect();
    shell::run(&mut instrumented(&["test", "--quiet"]))?;

    let merged = folder.join("merged.profdata");
    let mut merge = Command::new(profdata);
    merge.arg("merge").arg("-sparse").arg("-o").arg(&merged);
    for entry in std::fs::read_dir(&raw)? {
        merge.arg(entry?.path());
    }
    output(&mut merge)?;
    let source = package_source(&options.package)?;
    let report = |kind: &str| {
        let mut report = Command::new(&cov);
        report.arg(kind).arg("-instr-profile").arg(&merged);
        for (nth, program) in programs.iter().enumerate() {
            if nth > 0 {
                report.arg("-object");
            }
            report.arg(program);
        }
        report
    };
    let text = output(
        report("export")
            .args(["-summary-only", "-format=text"])
            .arg(&source),
    )?;
    let json: serde_json::Value = serde_json::from_str(&text).context("llvm-cov's JSON")?;
    let data = json.pointer("/data/0").context("no data")?;
    for file in data
        .pointer("/files")
        .and_then(|f| f.as_array())
        .into_iter()
        .flatten()
    {
        let name = file
            .pointer("/filename")
            .and_then(|n| n.as_str())
            .unwrap_or("?");
        println!(
            "{:6.2} %  {}",
            percent(file, "/summary/lines/percent"),
            name.rsplit("/src/").next().unwrap_or(name)
        );
    }
    if options.lines {
        shell::run(report("show").args(["-format=text"]).arg(&source))?;
    }
    let total = percent(data, "/totals/lines/percent");
    println!("{total:6.2} %  lines of `{}`", options.package);
    if total < options.least {
        bail!(
            "{total:.2} % of the lines are reached, less than {} %",
            options.least
        );
    }
    Ok(())
}

fn percent(value: &serde_json::Value, pointer: &str) -> f64 {
    value
        .pointer(pointer)
        .and_then(serde_json::Value::as_f64)
        .unwrap_or(0.0)
}

fn package_source(package: &str) -> anyhow::Result<PathBuf> {
    let places = [root().join("crates").join(package), root().join(package)];
    let found = places.iter().map(|p| p.join("src")).find(|p| p.is_dir());
    found.with_context(|| format!("no sources of `{package}`"))
}

/// A program of LLVM in the version that rustc has: of rustup's component `llvm-tools`, or of Debian.
fn llvm(name: &str) -> anyhow::Result<PathBuf> {
    let rustc = output(Command::new("rustc").arg("-vV"))?;
    let field = |name: &str| {
        let line = rustc.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
            .with_context(|| format!("rustc says no {name}"))
    };
    let (host, version) = (field("host:")?, field("LLVM version:")?);
    let major = version.split('.').next().unwrap_or_default();
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let component = PathBuf::from(sysroot.trim())
        .join("lib/rustlib")
        .join(host)
        .join("bin")
        .join(name);
    if component.is_file() {
        return Ok(component);
    }
    let versioned = format!("{name}-{major}");
    if have(&versioned) {
        return Ok(versioned.into());
    }
    bail!(
        "nothing was measured: there is no {name} of LLVM {major}. `rustup component add llvm-tools`, or Debian's package \
         `llvm-{major}`, brings it"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_has_a_program() {
        for name in super::TARGETS {
            let path = format!("tests/fuzz/targets/{name}.rs");
            assert!(super::root().join(&path).is_file(), "{path}");
        }
    }
}
