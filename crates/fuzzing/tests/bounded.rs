//! Every target for a few seconds on the stable toolchain: its seeds as they are, then damaged ones.
//!
//! `TANDEM_FUZZ_SEED` replays or varies a run; `TANDEM_FUZZ_SECONDS` makes each target run that long.

use std::time::Duration;

use fuzzing::TARGETS;
use fuzzing::drive::{Until, drive};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

fn bounded(name: &str, runs: u64) {
    let target = TARGETS
        .iter()
        .find(|t| t.name == name)
        .expect("a target of this name");
    let until = match number("TANDEM_FUZZ_SECONDS") {
        Some(seconds) => Until::Elapsed(Duration::from_secs(seconds)),
        None => Until::Runs(runs),
    };
    let runs = drive(target, number("TANDEM_FUZZ_SEED").unwrap_or(1), until);
    println!("{name}: {runs} runs");
    assert!(runs > 0);
}

#[test]
fn parser() {
    bounded("parser", 6_000);
}

#[test]
fn headers() {
    bounded("headers", 40_000);
}

#[test]
fn uri() {
    bounded("uri", 40_000);
}

#[test]
fn patch() {
    bounded("patch", 6_000);
}

#[test]
fn stream() {
    bounded("stream", 3_000);
}

#[test]
fn transactions() {
    bounded("transactions", 30_000);
}

#[test]
fn proxy() {
    bounded("proxy", 1_500);
}

#[test]
fn media() {
    bounded("media", 40_000);
}

#[test]
fn a_target_has_a_test_and_a_program() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = std::fs::read_to_string(here.join("tests/bounded.rs")).unwrap();
    let programs = std::fs::read_to_string(here.join("../../tests/fuzz/Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(
            tests.contains(&format!("fn {}()", target.name)),
            "{}",
            target.name
        );
        assert!(
            programs.contains(&format!("name = \"{}\"", target.name)),
            "{}",
            target.name
        );
    }
}
