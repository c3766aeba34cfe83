//! Commands that ask a running server, and what they print.

mod audit;
mod check;
mod client;
mod quarantine;
mod registrations;
mod show;
mod stats;
mod status;
mod users;

use std::path::Path;
use std::process::ExitCode;

use control::{ClientReply, ClientRequest};

pub(crate) use audit::audit;
pub(crate) use check::check;
pub(crate) use quarantine::quarantine;
pub(crate) use registrations::registrations;
pub(crate) use stats::stats;
pub(crate) use status::status;
pub(crate) use users::user;

use crate::cli::{RestartArgs, UpgradeArgs};
use client::{Answers, Failure};
pub(crate) use show::{count, error, json};

/// Exit codes; `tandem --help` lists them.
pub(crate) const FAILED: u8 = 1;
pub(crate) const NO_SERVER: u8 = 3;
pub(crate) const NO_START: u8 = 4;

pub(crate) fn restart(control: &Path, args: &RestartArgs) -> ExitCode {
    order(
        control,
        &ClientRequest::Restart {
            worker: args.worker,
        },
    )
}

pub(crate) fn reload(control: &Path) -> ExitCode {
    order(control, &ClientRequest::Reload)
}

pub(crate) fn upgrade(control: &Path, args: &UpgradeArgs) -> ExitCode {
    // The server has another working directory.
    let binary = std::path::absolute(&args.binary).unwrap_or_else(|_| args.binary.clone());
    let Some(binary) = binary.to_str().map(str::to_owned) else {
        error(
            "the name of the program is no UTF-8",
            "give it another name",
        );
        return ExitCode::from(FAILED);
    };
    order(control, &ClientRequest::Upgrade { binary })
}

pub(crate) fn stop(control: &Path) -> ExitCode {
    order(control, &ClientRequest::Stop)
}

/// A command whose answer is its progress.
fn order(control: &Path, request: &ClientRequest) -> ExitCode {
    finish(Answers::ask(control, request).and_then(|mut answers| {
        while let Some(reply) = answers.next()? {
            if let ClientReply::Note(note) = reply {
                println!("{note}");
            }
        }
        Ok(())
    }))
}

fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            show::error(&failure.message, &failure.remedy);
            ExitCode::from(failure.code)
        }
    }
}
