//! Instruction counts of the benches, under callgrind, and their comparison with those in the tree.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

use crate::bindings;
use crate::setup;
use crate::shell::{self, cargo, output, root, target_dir};

/// The counts in the tree.
const FILE: &str = "benches.json";

#[derive(Args)]
pub(crate) struct Options {
    /// Fail where a count has risen by more than the tolerance over `benches.json`
    #[arg(long)]
    check: bool,
    /// Write the counts to `benches.json`
    #[arg(long, conflicts_with = "check")]
    write: bool,
    /// How much a count may rise. Unit: percent
    #[arg(long, default_value_t = 3.0)]
    tolerance: f64,
    /// Instead: what a binding costs in tables of 10,000 to 10,000,000 (needs 5 GB of memory; counts with `perf`)
    #[arg(long, exclusive = true)]
    bindings: bool,
    /// Only the benches of this package
    #[arg(long)]
    package: Option<String>,
}

/// Instructions by bench, as `package/function/case`.
type Counts = BTreeMap<String, u64>;

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.bindings {
        return bindings::run();
    }
    setup::run()?;
    let runner = runner()?;
    let mut counts = Counts::new();
    for (package, bench) in benches(options.package.as_deref())? {
        let mut command = cargo(&["bench", "--package", &package, "--bench", &bench]);
        command
            .env("GUNGRAUN_RUNNER", &runner)
            .env("GUNGRAUN_COLOR", "never")
            .env("NO_COLOR", "1");
        eprintln!("$ cargo bench --package {package} --bench {bench}");
        counts.extend(parse(&package, &output(&mut command)?));
    }
    let known = read()?;
    println!("{}", table(&counts, &known));
    if options.write {
        let mut merged = if options.package.is_some() {
            known
        } else {
            Counts::new()
        };
        merged.extend(counts);
        let text = serde_json::to_string_pretty(&merged)? + "\n";
        std::fs::write(root().join(FILE), text)?;
    } else if options.check {
        let risen = risen(&counts, &known, options.tolerance);
        if !risen.is_empty() {
            bail!("more instructions than in {FILE}:\n{}", risen.join("\n"));
        }
    }
    Ok(())
}

/// Every `[[bench]]` of the workspace that callgrind runs.
fn benches(only: Option<&str>) -> anyhow::Result<Vec<(String, String)>> {
    let text = output(&mut cargo(&[
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let mut found = Vec::new();
    for package in metadata["packages"]
        .as_array()
        .context("cargo metadata lists packages")?
    {
        let name = package["name"].as_str().unwrap_or_default();
        for target in package["targets"].as_array().into_iter().flatten() {
            let bench = target["kind"]
                .as_array()
                .is_some_and(|k| k.iter().any(|k| k == "bench"));
            if bench && only.is_none_or(|o| o == name) {
                found.push((
                    name.to_owned(),
                    target["name"].as_str().unwrap_or_default().to_owned(),
                ));
            }
        }
    }
    Ok(found)
}

/// The runner of the very version in Cargo.lock; built into the target directory if absent.
fn runner() -> anyhow::Result<PathBuf> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock"))?;
    let version = locked(&lock, "gungraun").context("Cargo.lock has no gungraun")?;
    let tools = target_dir()
        .join("tools")
        .join(format!("gungraun-{version}"));
    let runner = tools.join("bin/gungraun-runner");
    if !runner.is_file() {
        let mut install = cargo(&[
            "install",
            "--debug",
            "--locked",
            "gungraun-runner",
            "--version",
        ]);
        install.arg(format!("={version}")).arg("--root").arg(&tools);
        shell::run(&mut install)?;
    }
    Ok(runner)
}

fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let after = lock.split_once(&format!("name = \"{package}\"\n"))?.1;
    after
        .lines()
        .next()?
        .strip_prefix("version = ")?
        .trim_matches('"')
        .into()
}

/// Reads what the runner prints: a line `file::group::function case:...`, then `  Instructions: N|...`.
fn parse(package: &str, text: &str) -> Counts {
    let mut counts = Counts::new();
    let mut name = None;
    for line in text.lines() {
        if !line.starts_with(' ') && line.contains("::") {
            let mut words = line.splitn(2, ' ');
            let path = words.next().unwrap_or_default();
            let function = path.rsplit("::").next().unwrap_or_default();
            let case = words
                .next()
                .unwrap_or_default()
                .split(':')
                .next()
                .unwrap_or_default()
                .trim();
            let case = if case.is_empty() {
                String::new()
            } else {
                format!("/{case}")
            };
            name = Some(format!("{package}/{function}{case}"));
        } else if let Some(rest) = line.trim_start().strip_prefix("Instructions:") {
            let first = rest
                .trim_start()
                .split(['|', ' '])
                .next()
                .unwrap_or_default();
            if let (Some(name), Ok(count)) = (name.take(), first.replace(',', "").parse()) {
                counts.insert(name, count);
            }
        }
    }
    counts
}

fn read() -> anyhow::Result<Counts> {
    match std::fs::read_to_string(root().join(FILE)) {
        Ok(text) => {
            serde_json::from_str(&text).with_context(|| format!("{FILE} is no list of counts"))
        }
        Err(_) => Ok(Counts::new()),
    }
}

/// Change over what is known. Unit: percent.
fn change(count: u64, known: u64) -> f64 {
    let (count, known) = (count as f64, known.max(1) as f64);
    (count - known) / known * 100.0
}

fn table(counts: &Counts, known: &Counts) -> String {
    let width = counts.keys().map(String::len).max().unwrap_or(0);
    let rows = counts.iter().map(|(name, count)| match known.get(name) {
        Some(k) => format!("{name:width$}  {count:>12}  {:+.1} %", change(*count, *k)),
        None => format!("{name:width$}  {count:>12}  new"),
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn risen(counts: &Counts, known: &Counts, tolerance: f64) -> Vec<String> {
    let worse = counts.iter().filter_map(|(name, count)| {
        let k = *known.get(name)?;
        (change(*count, k) > tolerance).then(|| format!("{name}: {k} -> {count}"))
    });
    worse.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "steps::machines::invite_client provisional:calling(), x\n  Instructions:                         173|N/A                  (*********)\n  L1 Hits: 1|1\nsteps::machines::whole\n  Instructions:                       1,234|1,200                (+2.8%)\n";

    #[test]
    fn counts_are_read() {
        let counts = parse("transaction", PRINTED);
        assert_eq!(
            counts.get("transaction/invite_client/provisional"),
            Some(&173)
        );
        assert_eq!(counts.get("transaction/whole"), Some(&1234));
        assert_eq!(counts.len(), 2);
    }

    #[test]
    fn rises_past_the_tolerance() {
        let known = Counts::from([("a".into(), 100), ("b".into(), 100)]);
        let counts = Counts::from([("a".into(), 103), ("b".into(), 110), ("c".into(), 5)]);
        assert_eq!(risen(&counts, &known, 3.0), ["b: 100 -> 110"]);
        assert!(table(&counts, &known).contains("new"));
    }

    #[test]
    fn the_version_in_the_lock() {
        let lock = "[[package]]\nname = \"gungraun\"\nversion = \"0.20.0\"\n";
        assert_eq!(locked(lock, "gungraun"), Some("0.20.0"));
        assert_eq!(locked(lock, "other"), None);
    }
}
