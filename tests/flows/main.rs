//! Plays every flow of this folder: `cargo xtask flows`, or one with `cargo xtask flows rfc3665/3.1`.
//!
//! Arguments as those of other tests: words that a flow's name has to contain, `--list`; other options mean nothing here.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blackbox::flow::engine::play;
use blackbox::flow::parse::parse;
use blackbox::flow::real::Real;
use blackbox::flow::simulated::Simulated;
use blackbox::flow::syntax::{Flow, Stages};
use blackbox::machine::test_file;

/// Flows at the same time. Most of what they do is to wait.
const AT_ONCE: usize = 6;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let root = test_file("flows");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let files: Vec<(String, PathBuf)> = files
        .into_iter()
        .map(|file| {
            let below = file.strip_prefix(&root).unwrap_or(&file);
            (below.with_extension("").display().to_string(), file)
        })
        .filter(|(name, _)| {
            words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
        })
        .collect();
    if arguments.iter().any(|word| word == "--list") {
        files.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(files.len()) {
            scope.spawn(|| {
                while let Some((name, file)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(report) = one(name, file) {
                        failed.lock().expect("no thread dies").push(report);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread dies");
    for report in &failed {
        println!("\n{report}");
    }
    println!("\n{} flows, {} failed", files.len(), failed.len());
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder)
        .expect("a folder of flows")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "flow")
        {
            files.push(path);
        }
    }
}

/// Plays one file wherever it can be; says one line for each.
fn one(name: &str, file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).expect("a readable file");
    let place = file.display();
    let flow = parse(name, &text).map_err(|fault| {
        println!("FAILED  {name}");
        format!("{place}:{}: {}", fault.line, fault.what)
    })?;
    // Both are said, whatever becomes of the first.
    let simulated = on(Stages::Simulated, &flow, file);
    let real = on(Stages::Real, &flow, file);
    simulated.and(real)
}

fn on(stages: Stages, flow: &Flow, file: &Path) -> Result<(), String> {
    let stage_name = match stages {
        Stages::Real => "real",
        Stages::Simulated => "simulated",
    };
    if let Some((only, why)) = &flow.only
        && *only != stages
    {
        println!("left    {} ({stage_name}): {why}", flow.name);
        return Ok(());
    }
    let start = Instant::now();
    let played = catch_unwind(AssertUnwindSafe(|| played(stages, flow)));
    let took = start.elapsed();
    match played {
        Ok(Ok(unseen)) => {
            println!(
                "ok      {} ({stage_name}, {}){}",
                flow.name,
                seconds(took),
                unseen_note(unseen)
            );
            Ok(())
        }
        Ok(Err((line, report))) => {
            println!("FAILED  {} ({stage_name}, {})", flow.name, seconds(took));
            Err(format!("{}:{line}: {report}", file.display()))
        }
        Err(_) => {
            println!(
                "FAILED  {} ({stage_name}, {}): a panic, see above",
                flow.name,
                seconds(took)
            );
            Err(format!("{}: a panic", file.display()))
        }
    }
}

fn played(stages: Stages, flow: &Flow) -> Result<usize, (usize, String)> {
    if stages == Stages::Simulated {
        let played = play(flow, &mut Simulated::start(flow));
        return played.map_err(|failure| {
            let report = format!("(simulated) {}\n{}", failure.text, failure.report);
            (failure.line, report)
        });
    }
    let mut real = Real::start(flow);
    let played = play(flow, &mut real);
    played.map_err(|failure| {
        let logs = real.logs();
        (
            failure.line,
            format!("{}\n{}{logs}", failure.text, failure.report),
        )
    })
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn unseen_note(steps: usize) -> String {
    if steps == 0 {
        return String::new();
    }
    format!(" — {steps} messages between servers not seen: that needs CAP_NET_RAW")
}
