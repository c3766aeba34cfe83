//! A protocol with one thing left out is caught: each by the property that is about it.

mod common;

use common::{FIND, REMOVE, REPLACE, aliased, counted, plain, two};
use model::Operation::{Keep, Quiescent, RemoveKept, Scrub};
use model::properties::Violation;
use model::{Broken, Config, search};

/// Found fault with: what, and how it came about.
#[track_caller]
fn fault(config: &Config, broken: Broken) -> Violation {
    let whole = search(config, 5_000_000);
    assert!(
        whole.fault.is_none() && whole.complete,
        "without a part missing it is sound"
    );
    let outcome = search(&config.clone().broken(broken), 5_000_000);
    let fault = outcome
        .fault
        .unwrap_or_else(|| panic!("{broken:?} does no harm in {} states", outcome.states));
    println!(
        "{broken:?}: {:?} after {} states, {} steps",
        fault.violation,
        outcome.states,
        fault.path.len()
    );
    fault.violation
}

macro_rules! caught {
    ($($name:ident: $broken:ident, $config:expr => $violation:pat,)*) => {
        $(#[test]
        fn $name() {
            let found = fault(&$config, Broken::$broken);
            assert!(matches!(found, $violation), "{found:?}");
        })*
    };
}

const LATER: [model::Operation; 3] = [Quiescent, Quiescent, Quiescent];

/// Removes a record, and uses its row and its body again when it may.
fn used_again() -> Config {
    let program = [&[plain(0), REMOVE], &LATER[..], &[plain(0)]].concat();
    two(&program, &[Quiescent, FIND, FIND])
}

fn bodies_used_again() -> Config {
    let program = [&[plain(0), REPLACE], &LATER[..], &[REPLACE]].concat();
    two(&program, &[FIND, FIND])
}

/// One remembers a record's row, and removes it when the row holds another.
fn kept_over_turns() -> Config {
    let program = [&[plain(0), REMOVE], &LATER[..], &[plain(1)]].concat();
    two(&program, &[Keep { key: 0 }, Quiescent, RemoveKept])
}

/// A scrubber finds the old body retired, which its own limbo knows already.
fn twice_in_limbo() -> Config {
    let program = [
        plain(0),
        REPLACE,
        Quiescent,
        Scrub,
        Quiescent,
        Quiescent,
        REPLACE,
        Quiescent,
        Quiescent,
    ];
    two(&program, &[])
}

/// The second replaces a record of the first and dies; the first finds the old body retired, and takes it for the next one.
fn old_body_of_another() -> Config {
    let program = [&[plain(0), Scrub], &LATER[..], &[REPLACE]].concat();
    two(&program, &[REPLACE]).deaths(1)
}

fn counted_and_removed_by_two() -> Config {
    two(&[counted(0), REMOVE], &[REMOVE])
}

caught! {
    without_recovery: NoRecovery, two(&[plain(0)], &[FIND]).deaths(1) => Violation::NotPrompt(..),
    without_intent_a_removal_hangs: NoIntent, two(&[plain(0)], &[REMOVE]).deaths(1) => Violation::NotPrompt(..),
    without_intent_counts_drift: NoIntent, two(&[counted(0)], &[Scrub]).deaths(1) => Violation::Drift { .. },
    without_aborting_others: NoAbortOfForeignPending, two(&[plain(0)], &[plain(0)]) => Violation::TwoLive(..),
    pending_taken_for_live: PendingIsARecord, two(&[plain(0)], &[plain(0)]) => Violation::ExistsWithoutLive(_),
    without_looking_again: NoRescan, two(&[plain(0)], &[plain(0)]) => Violation::TwoLive(..),
    without_looking_again_at_aliases: NoRescanOfAliases, two(&[aliased(0, 0)], &[aliased(1, 0)]) => Violation::TwoLive(..),
    without_grace: FreeWithoutGrace, bodies_used_again() => Violation::ReusedBody { .. },
    tagged_too_early: TagBeforeUnlinking, used_again() => Violation::ReusedBody { .. },
    without_waiting_for_laggards: EpochWithoutLaggards, bodies_used_again() => Violation::ReusedBody { .. },
    without_the_winner: WinnerNotRecorded, counted_and_removed_by_two().deaths(1) => Violation::Drift { .. },
    recovery_that_adds: RecoveryAdds, counted_and_removed_by_two().deaths(2) => Violation::Drift { .. },
    rows_without_generation: RowWithoutGeneration, kept_over_turns() => Violation::Stranger(_),
    alias_after_live: AliasAfterLive, two(&[aliased(0, 0)], &[FIND]) => Violation::Entries(..),
    old_body_forgotten: OldBodyForgotten, two(&[plain(0), REPLACE], &[FIND]) => Violation::NotPrompt(..),
    freed_by_store: FreedByStore, twice_in_limbo() => Violation::Unheld(..),
    offline_first: OfflineFirst, old_body_of_another() => Violation::ReusedBody { .. },
    intent_cleared_first: IntentClearedFirst, counted_and_removed_by_two().deaths(2) => Violation::Drift { .. },
    sum_before_raise: SumBeforeRaise, Config { limit: 1, ..two(&[counted(0)], &[counted(1)]) } => Violation::OverLimit(_),
    late_alias_left: LateAliasLeft, two(&[aliased(0, 0)], &[plain(0)]).deaths(1) => Violation::StaleEntry(_),
    abort_left_to_other: AbortLeftToOther, two(&[plain(0)], &[plain(0)]).deaths(2) => Violation::NotPrompt(..),
}
