//! The `tandem` command: runs the server, or asks a running one. A library only because several programs are made of it: `tandem`, and two for tests,
//! with failpoints and with another layout of the arena.
#![forbid(unsafe_code)]

mod about;
mod cli;
mod commands;
mod paths;
mod run;
mod seals;
mod size;
mod users;

use std::io::IsTerminal as _;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use clap::Parser as _;
use nix::sys::signal::{SigSet, Signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use cli::{Cli, Command, RunArgs};
use paths::Environment;

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let lines = match cli.command {
        Some(Command::Worker | Command::Run(_)) | None => BoxMakeWriter::new(worker::line),
        _ => BoxMakeWriter::new(std::io::stderr),
    };
    if let Err(error) = start_log(cli.log.as_deref(), lines) {
        eprintln!(
            "error: the log filter is wrong: {error}\n  = help: write for example --log info,worker=debug"
        );
        return ExitCode::from(2);
    }
    let environment = Environment::of_process();
    let given = cli.places.control.as_deref();
    let control = environment.control_socket_of_server(given);
    let named = cli.command.is_some();
    match cli.command.unwrap_or(Command::Run(RunArgs::default())) {
        Command::Run(args) => {
            let log = cli.log.map(|filter| vec!["--log".to_owned(), filter]);
            let log = log.unwrap_or_default();
            let arguments = |command: &str| [log.clone(), vec![command.to_owned()]].concat();
            let state = cli.places.state.as_deref();
            let control = environment.control_socket(given);
            run::run(
                &args,
                run::Places {
                    control: &control,
                    state,
                    arguments: run::Arguments {
                        worker: arguments("worker"),
                        helper: arguments("helper"),
                        own: own_arguments(named),
                    },
                },
            )
        }
        Command::Check(args) => commands::check(&args),
        Command::Status(args) => commands::status(&control, args.json),
        Command::Stats(args) => commands::stats(&control, &args),
        Command::User(command) => commands::user(&control, cli.places.state.as_deref(), &command),
        Command::Calls(command) => commands::calls(&control, &command),
        Command::Destinations(command) => commands::destinations(&control, &command),
        Command::Route(command) => commands::route(&control, &command),
        Command::Topology(command) => {
            commands::topology(&control, cli.places.state.as_deref(), &command)
        }
        Command::Quarantine(command) => commands::quarantine(&control, &command),
        Command::Registrations(command) => commands::registrations(&control, &command),
        Command::Audit(args) => commands::audit(&control, args.json),
        Command::Restart(args) => commands::restart(&control, &args),
        Command::Reload => commands::reload(&control),
        Command::Upgrade(args) => commands::upgrade(&control, &args),
        Command::Stop => commands::stop(&control),
        Command::About { json, layout } => about::about(json.json, layout),
        Command::Worker => child(c"tandem-worker", worker::run),
        Command::Helper => child(c"tandem-helper", worker::helper::run),
    }
}

/// What we were started with, for a program that runs in our place.
fn own_arguments(command_named: bool) -> Vec<std::ffi::OsString> {
    let ours = |argument: &std::ffi::OsString| {
        !argument
            .as_encoded_bytes()
            .starts_with(cli::SUCCESSION.as_bytes())
    };
    let mut arguments: Vec<_> = std::env::args_os().skip(1).filter(ours).collect();
    if !command_named {
        arguments.push("run".into());
    }
    arguments
}

/// To standard error, for people; systemd's journal adds its own time.
fn start_log(
    filter: Option<&str>,
    lines: BoxMakeWriter,
) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = match filter {
        Some(filter) => EnvFilter::try_new(filter)?,
        None => match std::env::var("RUST_LOG") {
            Ok(filter) if !filter.is_empty() => EnvFilter::try_new(filter)?,
            _ => EnvFilter::new("info"),
        },
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would tell standard error that standard error can't be written, and panic over it.
        .log_internal_errors(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init()
    } else {
        log.init()
    }
    Ok(())
}

/// A worker or helper process. What a terminal sends to its whole group (Ctrl-C, hang-up) is the supervisor's to act on.
fn child(name: &std::ffi::CStr, run: impl FnOnce(OwnedFd) -> ExitCode) -> ExitCode {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGHUP);
    let channel = os::take_control_channel();
    match (channel, mask.thread_block()) {
        (Ok(channel), Ok(())) => {
            // For `ps` and `top`, and for a supervisor that looks who may wait for it.
            let _ = nix::sys::prctl::set_name(name);
            run(channel)
        }
        (Err(error), _) => {
            eprintln!("error: {error}\n  = help: workers and helpers are started by `tandem run`");
            ExitCode::FAILURE
        }
        (_, Err(error)) => {
            eprintln!("error: signals can't be blocked: {error}");
            ExitCode::FAILURE
        }
    }
}
