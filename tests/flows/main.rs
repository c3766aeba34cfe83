//! Plays every flow of this folder: `cargo xtask flows`, or one with `cargo xtask flows rfc3665/3.1`.
//!
//! Each is played plainly, and with topology hiding in both modes. Arguments as those of other tests: words that a flow's name has to contain, `--list`; `--simulated`
//! plays in simulated time only; other options mean nothing here.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use blackbox::flow::engine::play;
use blackbox::flow::hidden::LEAK;
use blackbox::flow::parse::parse;
use blackbox::flow::real::Real;
use blackbox::flow::simulated::Simulated;
use blackbox::flow::syntax::{Flow, Pass, Stages};
use blackbox::machine::test_file;

/// Real flows at the same time. Most of what they do is to wait.
const AT_ONCE: usize = 8;

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
    let only_simulated = arguments.iter().any(|word| word == "--simulated");
    let (mut jobs, mut failed) = (Vec::new(), Vec::new());
    for (name, file) in &files {
        let text = std::fs::read_to_string(file).expect("a readable file");
        match parse(name, &text) {
            Ok(flow) => jobs.extend(jobs_of(&flow, file, only_simulated)),
            Err(fault) => {
                println!("FAILED  {name}");
                failed.push(format!("{}:{}: {}", file.display(), fault.line, fault.what));
            }
        }
    }
    let failed = Mutex::new(failed);
    // What is simulated takes the processors for itself, and what is real has clocks that go on meanwhile: one after the other.
    let (real, simulated): (Vec<Job>, Vec<Job>) =
        jobs.into_iter().partition(|job| job.stages == Stages::Real);
    let processors = available_parallelism().map_or(1, usize::from);
    play_all(&simulated, processors, &failed);
    play_all(&real, AT_ONCE, &failed);
    let failed = failed.into_inner().expect("no thread dies");
    for report in &failed {
        println!("\n{report}");
    }
    let of = |pass| {
        let all = simulated.iter().chain(&real);
        let played = all.filter(|job| job.pass == pass);
        let (all, left) = played.fold((0, 0), |(all, left), job| {
            (all + 1, left + usize::from(job.left().is_some()))
        });
        format!("{} {}", all - left, pass_name(pass))
    };
    println!(
        "\n{} flows, played {} times, {} failed",
        files.len(),
        Pass::ALL.map(of).join(", "),
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn play_all(jobs: &[Job], at_once: usize, failed: &Mutex<Vec<String>>) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(jobs.len()) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(report) = job.run() {
                        failed.lock().expect("no thread dies").push(report);
                    }
                }
            });
        }
    });
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

/// A flow in one place, with one kind of hiding.
struct Job {
    flow: Flow,
    file: PathBuf,
    stages: Stages,
    pass: Pass,
}

fn jobs_of(flow: &Flow, file: &Path, simulated: bool) -> Vec<Job> {
    let mut jobs = Vec::new();
    for pass in Pass::ALL.into_iter().filter(|pass| flow.has(*pass)) {
        let all = [Stages::Simulated, Stages::Real];
        for stages in all
            .into_iter()
            .filter(|stages| *stages == Stages::Simulated || !simulated)
        {
            jobs.push(Job {
                flow: flow.with_hiding(pass),
                file: file.to_owned(),
                stages,
                pass,
            });
        }
    }
    jobs
}

impl Job {
    fn name(&self) -> String {
        let stage = match self.stages {
            Stages::Real => "real",
            Stages::Simulated => "simulated",
        };
        match self.pass {
            Pass::Plain => format!("{} ({stage}", self.flow.name),
            pass => format!("{} ({stage}, {}", self.flow.name, pass_name(pass)),
        }
    }

    /// Why it is not played.
    fn left(&self) -> Option<&str> {
        let stages = self.flow.only.as_ref();
        let pass = self.flow.only_passes.as_ref();
        let stages = stages.filter(|(only, _)| *only != self.stages);
        let pass = pass.filter(|(only, _)| !only.contains(&self.pass));
        stages
            .map(|(_, why)| why)
            .or(pass.map(|(_, why)| why))
            .map(String::as_str)
    }

    fn run(&self) -> Result<(), String> {
        if let Some(why) = self.left() {
            println!("left    {}): {why}", self.name());
            return Ok(());
        }
        let start = Instant::now();
        let played = catch_unwind(AssertUnwindSafe(|| {
            let played = self.play();
            match &played {
                // Its times are those of the plain flow. Where a busy machine breaks them, it is played once more; what was seen that nobody may see stays seen.
                Err((_, report)) if self.has_hidden_clock() && !report.contains(LEAK) => {
                    println!("again   {})", self.name());
                    self.play()
                }
                _ => played,
            }
        }));
        let took = format!("{}, {})", self.name(), seconds(start.elapsed()));
        match played {
            Ok(Ok(unseen)) => {
                println!("ok      {took}{}", unseen_note(unseen));
                Ok(())
            }
            Ok(Err((line, report))) => {
                println!("FAILED  {took}");
                let place = self.file.display();
                Err(format!("{place}:{line}: {}) {report}", self.name()))
            }
            Err(_) => {
                println!("FAILED  {took}: a panic, see above");
                Err(format!("{}: {}) a panic", self.file.display(), self.name()))
            }
        }
    }

    fn has_hidden_clock(&self) -> bool {
        self.stages == Stages::Real && self.pass != Pass::Plain
    }

    fn play(&self) -> Result<usize, (usize, String)> {
        let (flow, pass) = (&self.flow, self.pass);
        if self.stages == Stages::Simulated {
            let played = play(flow, pass, &mut Simulated::start(flow, pass));
            return played.map_err(|failure| {
                (
                    failure.line,
                    format!("{}\n{}", failure.text, failure.report),
                )
            });
        }
        let mut real = Real::start(flow);
        let played = play(flow, pass, &mut real);
        played.map_err(|failure| {
            let logs = real.logs();
            (
                failure.line,
                format!("{}\n{}{logs}", failure.text, failure.report),
            )
        })
    }
}

fn pass_name(pass: Pass) -> &'static str {
    match pass {
        Pass::Plain => "plain",
        Pass::Dialog => "hidden",
        Pass::Stateless => "hidden in tokens",
    }
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
