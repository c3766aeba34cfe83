//! Many seeds, each one a story.
//!
//! `SIM_SEEDS=20000` tells that many, `SIM_SEED=0x5f2` the one, with its ladder.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use sim::{Outcome, Telling, tell};

/// How many in every run; an unoptimised build takes ten times as long for each.
const SEEDS: u64 = if cfg!(debug_assertions) { 24 } else { 256 };
/// Faults shown of a run.
const SHOWN: usize = 8;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The seeds from `first` on, shared out to the cores.
fn tell_all(first: u64, count: u64, telling: Telling) -> Vec<Outcome> {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<Outcome> = std::thread::scope(|scope| {
        let tellers: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    let mut told = Vec::new();
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= count {
                            return told;
                        }
                        let seed = first + n;
                        let result = std::panic::catch_unwind(|| tell(seed, telling));
                        told.push(result.unwrap_or_else(|_| Outcome {
                            seed,
                            wrong: vec!["a panic, see above".to_owned()],
                            ..Outcome::default()
                        }));
                    }
                })
            })
            .collect();
        let told = tellers
            .into_iter()
            .map(|teller| teller.join().unwrap_or_default());
        told.flatten().collect()
    });
    all.sort_by_key(|outcome| outcome.seed);
    all
}

#[test]
fn every_story_ends_well() {
    let loss = number("SIM_LOSS").and_then(|loss| u32::try_from(loss).ok());
    if let Some(seed) = number("SIM_SEED") {
        let outcome = tell(seed, Telling { loss, ladder: true });
        println!("{}", outcome.ladder);
        assert!(
            outcome.wrong.is_empty(),
            "seed {seed:#x}:\n{}",
            outcome.wrong.join("\n")
        );
        return;
    }
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let first = number("SIM_FIRST").unwrap_or(0);
    let telling = Telling {
        loss,
        ladder: false,
    };
    let begun = Instant::now();
    let all = tell_all(first, count, telling);
    let took = begun.elapsed();
    let sum = |of: fn(&Outcome) -> u64| all.iter().map(of).sum::<u64>();
    let time = |of: fn(&Outcome) -> Duration| all.iter().map(of).sum::<Duration>().as_secs_f64();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let busy = took.as_secs_f64() * cores;
    println!(
        "{count} seeds in {:.1} s: {} calls ({} answered), {} messages, {} deaths; a core simulates {:.0} s \
         and {:.0} call-seconds a second",
        took.as_secs_f64(),
        sum(|o| o.calls),
        sum(|o| o.answered),
        sum(|o| o.messages),
        sum(|o| o.deaths),
        time(|o| o.simulated) / busy,
        time(|o| o.call_time) / busy,
    );
    let bad: Vec<&Outcome> = all
        .iter()
        .filter(|outcome| !outcome.wrong.is_empty())
        .collect();
    for outcome in bad.iter().take(SHOWN) {
        let (seed, wrong) = (outcome.seed, outcome.wrong.join("\n    "));
        println!(
            "seed {seed:#x}; again, with a ladder: cargo xtask sim --seed {seed:#x}\n    {wrong}"
        );
    }
    assert!(bad.is_empty(), "{} of {count} seeds went wrong", bad.len());
}
