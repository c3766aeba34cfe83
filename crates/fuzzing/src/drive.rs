//! A small fuzzer for the stable toolchain: no coverage, but the same targets, seeds and kinds of damage.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use stdx::Rng;

use crate::{Target, seeds};

/// Unit: bytes. Longer inputs only take longer.
const INPUT_MAX: usize = 4096;

/// Pieces of what the targets read.
const WORDS: [&[u8]; 48] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"\r\n\t",
    b"\0",
    b" ",
    b",",
    b";",
    b":",
    b"=",
    b"?",
    b"@",
    b"<",
    b">",
    b"\"",
    b"\\",
    b"%00",
    b"%0d%0a",
    b"\xff",
    b"SIP/2.0",
    b"sip:",
    b"sips:",
    b"tel:+1",
    b"[::1]",
    b"[2001:db8:::192.0.2.1]",
    b"192.0.2.1",
    b":5060",
    b";lr",
    b";tag=",
    b";branch=z9hG4bK",
    b";rport",
    b";received=",
    b";maddr=",
    b";q=0.5",
    b";expires=",
    b"Via: ",
    b"v:",
    b"Route: ",
    b"Record-Route: ",
    b"Contact: *",
    b"Content-Length: ",
    b"l: 4294967296",
    b"CSeq: 1 INVITE",
    b"Max-Forwards: 0",
    b"INVITE ",
    b"CANCEL ",
    b"ACK ",
];

/// How long to drive.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    Runs(u64),
    Elapsed(Duration),
}

/// Runs a target over its seeds as they are, then over damaged ones. Panics with the input that failed.
///
/// Returns the number of runs.
pub fn drive(target: &Target, seed: u64, until: Until) -> u64 {
    let seeds = seeds(target);
    let mut rng = Rng::new(seed);
    let (start, mut runs) = (Instant::now(), 0);
    for bytes in &seeds {
        once(target, bytes, seed);
        runs += 1;
    }
    // What came of the last inputs goes on being damaged, so that faults add up.
    let mut pool = seeds;
    pool.push(Vec::new());
    let kept = pool.len();
    while match until {
        Until::Runs(most) => runs < most,
        Until::Elapsed(time) => start.elapsed() < time,
    } {
        let at = below(&mut rng, pool.len());
        let mut bytes = pool[at].clone();
        for _ in 0..=rng.below(4) {
            damage(&mut bytes, &pool, &mut rng);
        }
        bytes.truncate(INPUT_MAX);
        once(target, &bytes, seed);
        runs += 1;
        if rng.below(8) == 0 {
            if pool.len() < kept + 64 {
                pool.push(bytes);
            } else {
                let at = kept + below(&mut rng, 64);
                pool[at] = bytes;
            }
        }
    }
    runs
}

fn once(target: &Target, bytes: &[u8], seed: u64) {
    let run = AssertUnwindSafe(|| (target.run)(bytes));
    if catch_unwind(run).is_err() {
        panic!(
            "target {} fails on {} bytes: \"{}\"\nseed {seed:#x}; replay: TANDEM_FUZZ_SEED={seed} cargo test -p fuzzing --test bounded -- {}",
            target.name,
            bytes.len(),
            bytes.escape_ascii(),
            target.name,
        );
    }
}

fn below(rng: &mut Rng, bound: usize) -> usize {
    rng.below(u32::try_from(bound).unwrap_or(u32::MAX).max(1)) as usize
}

fn damage(bytes: &mut Vec<u8>, pool: &[Vec<u8>], rng: &mut Rng) {
    let at = below(rng, bytes.len() + 1);
    let end = (at + below(rng, 24)).min(bytes.len());
    match rng.below(9) {
        0 if at < bytes.len() => bytes[at] = rng.next_u64() as u8,
        1 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        4 => bytes.truncate(at),
        5 => {
            // The end of another input in the place of our own.
            let other = &pool[below(rng, pool.len())];
            let from = below(rng, other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        6 => {
            // A line of another input.
            let other = &pool[below(rng, pool.len())];
            let from = below(rng, other.len() + 1);
            let piece: Vec<u8> = other[from..]
                .iter()
                .copied()
                .take(1 + below(rng, 80))
                .collect();
            bytes.splice(at..at, piece);
        }
        7 => {
            let word = WORDS[below(rng, WORDS.len())];
            bytes.splice(at..end, word.iter().copied());
        }
        _ => {
            let word = WORDS[below(rng, WORDS.len())];
            bytes.splice(at..at, word.iter().copied());
        }
    }
}
