//! The whole protocol, with nothing left out: no interleaving and no death does harm.
//!
//! `TANDEM_LONG=1` searches wider: three participants, more deaths.

mod common;

use std::time::Instant;

use common::{
    FIND, FIND_ALIAS, KEEP, REMOVE, REPLACE, aliased, counted, insert, plain, three, two,
    with_child,
};
use model::Operation::{Keep, Quiescent, Remove, RemoveKept, Scrub};
use model::{Config, search};

/// States at most: memory for their hashes is some 16 bytes each.
const MOST: usize = 100_000_000;

#[track_caller]
fn holds(name: &str, config: &Config) {
    let start = Instant::now();
    let outcome = search(config, MOST);
    let (states, ends) = (outcome.states, outcome.ends);
    println!(
        "{name}: {states} states, {ends} ends, {:?}",
        start.elapsed()
    );
    if let Some(fault) = outcome.fault {
        panic!(
            "{name}: {:?}\n  {}",
            fault.violation,
            fault.path.join("\n  ")
        );
    }
    assert!(outcome.complete, "{name}: more than {MOST} states");
}

/// With so many deaths at any step, of participants and of those who recover them, in both ways of recovery.
#[track_caller]
fn survives(name: &str, config: &Config, deaths: u8) {
    let more = u8::from(long());
    for deaths in 0..=deaths + more {
        let config = config.clone().deaths(deaths);
        holds(&format!("{name}, {deaths} deaths, heir"), &config);
        if deaths > 0 {
            let config = config.recovered_by_other();
            holds(&format!("{name}, {deaths} deaths, another"), &config);
        }
    }
}

fn long() -> bool {
    std::env::var_os("TANDEM_LONG").is_some()
}

#[test]
fn inserters_of_one_key_and_a_remover() {
    survives(
        "insert | insert, remove",
        &two(&[plain(0)], &[plain(0), REMOVE]),
        1,
    );
}

#[test]
fn inserters_who_share_only_an_alias() {
    let config = two(&[aliased(0, 0)], &[aliased(1, 0)]);
    survives("one alias", &config, 1);
}

#[test]
fn both_names_appear_and_go_at_once() {
    let config = two(&[aliased(0, 0), REMOVE], &[FIND, FIND_ALIAS]);
    survives("find by both", &config, 2);
    let config = two(&[aliased(0, 0), REMOVE], &[FIND_ALIAS, aliased(1, 0)]);
    survives("an alias changes hands", &config, 1);
}

#[test]
fn bodies_are_swapped_and_removed() {
    survives(
        "replace | replace",
        &two(&[plain(0), REPLACE], &[REPLACE]),
        2,
    );
    survives("replace | remove", &two(&[plain(0), REPLACE], &[REMOVE]), 2);
    let child = two(&[with_child(0), REPLACE], &[REMOVE]);
    survives("child goes", &Config { blocks: 4, ..child }, 2);
    let child = two(&[with_child(0), KEEP], &[KEEP]);
    survives("child stays", &Config { blocks: 3, ..child }, 2);
}

#[test]
fn cells_follow_the_records() {
    survives(
        "one record, two removers",
        &two(&[counted(0), REMOVE], &[REMOVE]),
        2,
    );
    survives(
        "two inserters, two removers",
        &two(&[counted(0), REMOVE], &[counted(0), REMOVE]),
        1,
    );
    let config = two(&[counted(0)], &[counted(1), Remove { key: 1 }]);
    survives("a limit of one", &Config { limit: 1, ..config }, 2);
    let config = two(
        &[insert(0, Some(0), false, true)],
        &[insert(1, Some(0), false, true), REMOVE],
    );
    survives("counted, one alias", &config, 1);
}

#[test]
fn rows_and_blocks_are_used_again() {
    let later = [Quiescent, Quiescent, Quiescent];
    let again = |first: &[_], then: &[_]| [first, &later, then].concat();
    let config = two(
        &again(&[plain(0), REMOVE], &[plain(0)]),
        &[Quiescent, FIND, FIND],
    );
    survives("the same key again", &config, 2);
    let config = two(&again(&[plain(0), REMOVE], &[plain(1)]), &[FIND, REMOVE]);
    survives("another key", &config, 1);
    let config = two(
        &again(&[plain(0), REPLACE], &[REPLACE]),
        &[Quiescent, FIND, Quiescent, FIND],
    );
    survives("bodies", &config, 1);
    let config = two(
        &again(&[counted(0), REMOVE], &[counted(1)]),
        &[REMOVE, Quiescent],
    );
    survives("counted", &config, 1);
    let config = two(
        &again(&[plain(0), REMOVE], &[plain(1)]),
        &[Keep { key: 0 }, Quiescent, RemoveKept],
    );
    survives("a row that is remembered", &config, 1);
    let config = two(&[plain(0), REMOVE], &[FIND, plain(0)]);
    let heir = vec![Quiescent, Quiescent, plain(1)];
    survives("an heir goes on", &Config { heir, ..config }, 1);
}

#[test]
fn the_scrubber_runs_beside() {
    survives(
        "of the remover",
        &two(&[plain(0), REMOVE, Scrub], &[plain(0)]),
        1,
    );
    survives(
        "of the replacer",
        &two(&[plain(0), REPLACE, Scrub], &[REMOVE]),
        1,
    );
    let config = two(&[Scrub, aliased(0, 0), Scrub], &[aliased(0, 0), REMOVE]);
    survives("of an inserter", &config, 0);
}

/// Minutes and gigabytes: only the long form.
#[test]
fn three_at_once() {
    if !long() {
        return;
    }
    holds(
        "three inserters",
        &three(&[plain(0)], &[plain(0)], &[plain(0)]),
    );
    let config = three(&[plain(0)], &[plain(0)], &[REMOVE]);
    holds("two inserters, one remover", &config);
    holds("and one death", &config.deaths(1));
    let config = three(&[aliased(0, 0)], &[aliased(1, 0), REMOVE], &[FIND_ALIAS]);
    holds("two names", &config.deaths(1));
    let config = three(&[counted(0), REMOVE], &[REMOVE], &[REMOVE]);
    holds("three removers, two deaths", &config.clone().deaths(2));
    holds("recovered by another", &config.deaths(1));
    let config = three(&[plain(0), REPLACE], &[REPLACE], &[REMOVE]);
    holds("two replacers, one remover, two deaths", &config.deaths(2));
}
