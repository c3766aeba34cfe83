//! What a binding costs: memory, and instructions of a look-up and of a refresh, by the size of the table.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::shell::{self, cargo, target_dir};

/// Bindings in the table.
const SIZES: [&str; 3] = ["10000", "1000000", "10000000"];
/// Look-ups and refreshes that are measured.
const OPERATIONS: u64 = 1_000_000;
/// How long `perf` gets to begin counting before the order is given, which else would be counted in part.
const PERF_BEGINS: Duration = Duration::from_millis(500);

/// Fills tables of [`SIZES`] and prints what they cost. `perf` counts instructions; without it there are nanoseconds only.
pub(crate) fn run() -> anyhow::Result<()> {
    shell::run(&mut cargo(&[
        "build",
        "--release",
        "--package",
        "tables",
        "--example",
        "bindings",
    ]))?;
    let program = target_dir().join("release/examples/bindings");
    for size in SIZES {
        let mut table = Table::new(&program, size)?;
        let mut words = table.begins.splitn(5, ' ');
        let mut word = || words.next().unwrap_or("?").to_owned();
        let (filled, bytes, fixed, nanos, rest) = (word(), word(), word(), word(), word());
        println!(
            "{filled} bindings of {size}: {bytes} B each, of which {fixed} B are the index and what is fixed; filled in {nanos} ns each"
        );
        println!("  {rest}");
        for order in ["lookup", "refresh"] {
            let (nanos, instructions) = table.order(order)?;
            let instructions = match instructions {
                Some(count) => format!("{} instructions", count / OPERATIONS),
                None => "instructions unknown: perf counts none here".to_owned(),
            };
            println!("  {order}: {instructions}, {} ns", nanos / OPERATIONS);
        }
    }
    Ok(())
}

/// The example, with its table filled.
struct Table {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    begins: String,
}

impl Table {
    fn new(program: &Path, size: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .arg(size)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("a pipe")?;
        let mut answers = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut begins = String::new();
        answers.read_line(&mut begins)?;
        Ok(Self {
            child,
            orders,
            answers,
            begins: begins.trim().to_owned(),
        })
    }

    /// Nanoseconds and instructions of one order.
    fn order(&mut self, what: &str) -> anyhow::Result<(u64, Option<u64>)> {
        let perf = Command::new("perf")
            .args(["stat", "-x,", "-e", "instructions:u", "-p"])
            .arg(self.child.id().to_string())
            .stderr(Stdio::piped())
            .spawn()
            .ok();
        std::thread::sleep(PERF_BEGINS);
        writeln!(self.orders, "{what} {OPERATIONS}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let nanos = answer.trim().parse().context("the table has ended")?;
        Ok((nanos, perf.and_then(|perf| counted(perf).ok())))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `perf stat` has counted until now: it says so when it is interrupted.
fn counted(perf: Child) -> anyhow::Result<u64> {
    let stopped = Command::new("kill")
        .args(["-INT", &perf.id().to_string()])
        .status()?;
    if !stopped.success() {
        bail!("perf has ended by itself");
    }
    let said = perf.wait_with_output()?.stderr;
    let said = String::from_utf8_lossy(&said);
    let line = said
        .lines()
        .find(|line| line.contains("instructions"))
        .context("perf says something else")?;
    Ok(line.split(',').next().unwrap_or_default().parse()?)
}
