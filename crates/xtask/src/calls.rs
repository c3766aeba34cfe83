//! Many calls at the same moment, calls for a while, and what a message of a call costs: the tests `many_calls` and `calls_cost`, optimised, with figures of one's own.

use clap::{Args, ValueEnum};

use crate::setup;
use crate::shell::{self, cargo};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Calls that are up at the same moment: bytes, commands, deaths, nothing left
    Held,
    /// Calls that come and go: nothing grows
    Soak,
    /// Processor time of a message beside plain proxying
    Cost,
}

#[derive(Args)]
pub(crate) struct Options {
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Calls that are up at the same moment
    #[arg(long, default_value_t = 100_000)]
    calls: u64,
    /// Workers killed with those calls up
    #[arg(long, default_value_t = 10)]
    kills: u64,
    /// How long calls come and go, 200 in a second
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// How often each kind of call has its turn in `cost`
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Calls in a second, instead of what each part takes for itself
    #[arg(long)]
    rate: Option<u32>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    setup::run()?;
    let parts = [
        (Part::Held, "many_calls::calls_at_the_same_moment"),
        (Part::Soak, "many_calls::nothing_grows_with_time"),
        (Part::Cost, "calls_cost"),
    ];
    let mut test = cargo(&["test", "--release"]);
    test.args(["--package", "blackbox", "--test", "black_box"])
        .env("TANDEM_LONG", "1")
        .env("TANDEM_CALLS", options.calls.to_string())
        .env("TANDEM_CALLS_KILLS", options.kills.to_string())
        .env("TANDEM_CALLS_SECONDS", options.seconds.to_string())
        .env("TANDEM_CALLS_ROUNDS", options.rounds.to_string());
    if let Some(rate) = options.rate {
        test.env("TANDEM_CALLS_RATE", rate.to_string());
    }
    test.arg("--");
    let wanted = |part| options.only.is_empty() || options.only.contains(part);
    test.args(
        parts
            .iter()
            .filter(|(part, _)| wanted(part))
            .map(|part| part.1),
    );
    shell::run(test.args(["--nocapture", "--test-threads", "1"]))
}
