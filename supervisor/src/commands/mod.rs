//! Commands that ask a running server, and what they print.

mod audit;
mod calls;
mod check;
mod client;
mod destinations;
mod quarantine;
mod registrations;
mod route;
mod show;
mod stats;
mod status;
mod topology;
mod users;

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;

use control::{ClientReply, ClientRequest};
use nix::poll::{PollFd, PollFlags, poll};

pub(crate) use audit::audit;
pub(crate) use calls::calls;
pub(crate) use check::check;
pub(crate) use destinations::destinations;
pub(crate) use quarantine::quarantine;
pub(crate) use registrations::registrations;
pub(crate) use route::route;
pub(crate) use stats::stats;
pub(crate) use status::status;
pub(crate) use topology::topology;
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
    finish(
        Answers::ask(control, &ClientRequest::Stop).and_then(|mut answers| {
            let server = answers.server();
            progress(&mut answers)?;
            // A large arena takes a moment to give back, and until then the control socket answers: the next `tandem run` would find it.
            if let Some(server) = server {
                let mut ready = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut ready, GONE_WITHIN);
            }
            Ok(())
        }),
    )
}

/// How long `stop` waits for a process that has said that it ends. Unit: ms.
const GONE_WITHIN: u16 = 10_000;

/// A command whose answer is its progress.
fn order(control: &Path, request: &ClientRequest) -> ExitCode {
    finish(Answers::ask(control, request).and_then(|mut answers| progress(&mut answers)))
}

fn progress(answers: &mut Answers) -> Result<(), Failure> {
    while let Some(reply) = answers.next()? {
        if let ClientReply::Note(note) = reply {
            println!("{note}");
        }
    }
    Ok(())
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
