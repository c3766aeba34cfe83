//! Deliberate bugs in the code under test, one at a time: the simulation has to find each within 1,000 seeds.
//!
//! They are failpoints that make a function do something else, so no release has them. `SIM_MUTANT=proxy.broken.best` tries one.

use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Telling, set_mutant, tell};

/// Every bug, and what is wrong with it.
const MUTANTS: [(&str, &str); 24] = [
    (
        "transaction.broken.doubling",
        "retransmissions do not slow down",
    ),
    ("transaction.broken.cap", "they slow down without end"),
    (
        "transaction.broken.timer_b",
        "no answer for half a second is none at all",
    ),
    (
        "transaction.broken.timer_g",
        "a failure whose ACK does not come is not sent again",
    ),
    (
        "transaction.broken.second_2xx",
        "a 2xx that comes again is not passed on",
    ),
    ("transaction.broken.more_2xx", "only one 2xx goes upstream"),
    ("proxy.broken.ack_lost", "a failure is not acknowledged"),
    ("proxy.broken.best", "the worst response is the best"),
    ("proxy.broken.cancel_cseq", "a CANCEL has another CSeq"),
    ("proxy.broken.cancel_lost", "a CANCEL is not sent"),
    (
        "proxy.broken.unwanted",
        "nobody else is cancelled when one took the call",
    ),
    (
        "proxy.broken.commit",
        "a change is not in the arena when its sends go out",
    ),
    ("proxy.broken.provisional", "ringing is not passed on"),
    ("proxy.broken.timer_c", "Timer C does nothing"),
    ("proxy.broken.by_q", "the second choice does not wait"),
    (
        "proxy.broken.next_group",
        "the second choice never has its turn",
    ),
    ("proxy.broken.next_hop", "only the first hop is tried"),
    (
        "proxy.broken.unreachable",
        "that a hop can't be reached is not heard",
    ),
    ("proxy.broken.circle", "redirections go round in circles"),
    (
        "slot.broken.hops",
        "what is found out about hops is not told",
    ),
    (
        "slot.broken.quarantine",
        "a message may kill as often as it likes",
    ),
    (
        "slot.broken.adopted",
        "an heir forgets what was asked, unless it was in the last turn",
    ),
    (
        "dns.broken.spelling",
        "an answer counts however its name is spelled",
    ),
    (
        "tables.broken.update",
        "a REGISTER is answered 200 and forgotten",
    ),
];
/// The most seeds that a bug may survive.
const SEEDS: u64 = 1000;

#[test]
fn every_bug_is_found() {
    let only = std::env::var("SIM_MUTANT").ok();
    std::panic::set_hook(Box::new(|_| {}));
    let mut survivors = Vec::new();
    for (mutant, what) in MUTANTS {
        if only.as_ref().is_some_and(|only| only != mutant) {
            continue;
        }
        match first_finding(mutant) {
            Some((seed, wrong)) => println!("{mutant} ({what}): seed {seed}: {wrong}"),
            None => survivors.push(mutant),
        }
    }
    let _ = std::panic::take_hook();
    assert!(survivors.is_empty(), "not found: {survivors:?}");
}

/// The first seed whose story goes wrong, and how.
fn first_finding(mutant: &'static str) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<(u64, String)> = std::thread::scope(|scope| {
        let tellers: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    set_mutant(Some(mutant));
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= SEEDS || found.load(Ordering::Relaxed) != u64::MAX {
                            return None;
                        }
                        let told = std::panic::catch_unwind(|| tell(seed, Telling::default()));
                        let wrong = match told {
                            Ok(outcome) => outcome.wrong.into_iter().next(),
                            Err(_) => Some("a panic".to_owned()),
                        };
                        if let Some(wrong) = wrong {
                            found.fetch_min(seed, Ordering::Relaxed);
                            return Some((seed, wrong));
                        }
                    }
                })
            })
            .collect();
        tellers
            .into_iter()
            .filter_map(|teller| teller.join().ok().flatten())
            .collect()
    });
    all.sort();
    all.into_iter().next()
}
