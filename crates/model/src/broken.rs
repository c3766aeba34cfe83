//! Protocols with one thing left out or in the wrong order. A search that does not find fault with each of them would prove nothing about the whole one.

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The dead stay as they are.
    NoRecovery,
    /// Replace and remove do not say what they are about to do.
    NoIntent,
    /// An inserter passes by another's PENDING row.
    NoAbortOfForeignPending,
    /// An inserter takes another's PENDING row for a record.
    PendingIsARecord,
    /// An inserter does not look again after its entry is in.
    NoRescan,
    /// An inserter looks again at keys, not at aliases.
    NoRescanOfAliases,
    /// What is retired is reused at once.
    FreeWithoutGrace,
    /// The epoch of what is retired is read before it is unlinked.
    TagBeforeUnlinking,
    /// The epoch moves on although somebody has not announced it.
    EpochWithoutLaggards,
    /// The control word of a removed row does not say who removed it.
    WinnerNotRecorded,
    /// Recovery adds to a cell instead of storing the value from the intent.
    RecoveryAdds,
    /// A row that was found in an earlier turn is known again by its number alone.
    RowWithoutGeneration,
    /// The alias goes into its index after the record is LIVE.
    AliasAfterLive,
    /// A body that was swapped out is not retired by the one who swapped it.
    OldBodyForgotten,
    /// Recovery leaves a PENDING row to the one who aborted it a moment before.
    AbortLeftToOther,
    /// Recovery does not look for the alias that an inserter linked after it had been aborted.
    LateAliasLeft,
    /// The end of a grace period frees a block whatever its word says by then.
    FreedByStore,
    /// Recovery puts the dead one offline first.
    OfflineFirst,
    /// Recovery clears the intent before it has done what the intent says.
    IntentClearedFirst,
    /// An admission does not look at the other participants' cells after it has raised its own.
    SumBeforeRaise,
}
