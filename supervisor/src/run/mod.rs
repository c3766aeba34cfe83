//! `tandem run`: the supervisor. It forks, watches and replaces workers, owns the sockets and the arena's life, and is kept
//! too small to fail: one thread, no byte from the network, no table body.
//!
//! `adopt`, `arenas` and `adoption` go on where a supervisor that died has left off. `fleet` decides (a machine without processes or clock), `supervisor` waits, `apply` acts, `reload` changes the
//! configuration, `report` tells. `helpers` does what takes long, `snapshots` keeps what outlives the server.

mod adopt;
mod adoption;
mod apply;
mod arenas;
mod cause;
mod census;
mod claim;
mod clients;
mod fleet;
mod helpers;
mod holder;
mod hung;
mod images;
mod limits;
mod links;
mod maker;
mod memory;
mod notify;
mod numbers;
mod pages;
mod pins;
mod probe;
mod quarantine;
mod questions;
mod rates;
mod reload;
mod report;
mod secret;
mod snapshots;
mod sockets;
mod source;
mod store;
mod succession;
mod supervisor;
mod switch;
mod trouble;
mod upgrade;
mod watchdog;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::Config;

use crate::about::VERSION;
use crate::cli::RunArgs;
use crate::commands::{NO_START, error};
use crate::paths::{self, Environment};
use claim::{AdoptSocket, ControlSocket};
use fleet::{Fleet, Patience};
use helpers::Helpers;
use images::Images;
use memory::Memory;
use snapshots::Snapshots;
use sockets::Listener;
use source::Source;
use succession::Succession;
use supervisor::{Parts, Supervisor};
use trouble::Trouble;

/// Where things are, and what workers are started with.
#[derive(Clone)]
pub(crate) struct Places<'a> {
    pub(crate) control: &'a Path,
    pub(crate) state: Option<&'a Path>,
    pub(crate) arguments: Arguments,
}

/// What processes are started with.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    pub(crate) worker: Vec<String>,
    pub(crate) helper: Vec<String>,
    /// A program that runs in our place.
    pub(crate) own: Vec<OsString>,
}

/// What every start has, whatever it finds.
pub(crate) struct Ground<'a> {
    pub(crate) source: Source,
    pub(crate) control: ControlSocket,
    pub(crate) control_path: &'a Path,
    pub(crate) secret: control::Secret,
    pub(crate) state: PathBuf,
    pub(crate) images: Images,
    pub(crate) arguments: Arguments,
}

pub(crate) fn run(args: &RunArgs, places: Places<'_>) -> ExitCode {
    // For `ps`: a program that is run by descriptor has a number for its name.
    let _ = nix::sys::prctl::set_name(c"tandem");
    if let Err(error) = os::outlive_file_size_limit() {
        tracing::debug!(%error, "the limit of file sizes may end this process");
    }
    worker::write_behind();
    let started = match args.succession {
        Some(table) => go_on(args, places, table),
        None => start(args, places, None),
    };
    let ended = started.and_then(Supervisor::run);
    worker::last_lines();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            error(&trouble.cause, &trouble.remedy);
            ExitCode::from(NO_START)
        }
    }
}

/// Workers that serve without a supervisor, as far as we may see them.
#[derive(Debug)]
pub(crate) struct Orphans {
    pub(crate) pids: Vec<u32>,
    /// If nobody can take them over: the file that is missing, and what to do.
    pub(crate) cut_off: Option<(PathBuf, String)>,
}

pub(crate) fn orphans(control: &Path) -> Orphans {
    let path = claim::adopt_path(control);
    let pids = holder::of_unix(&path);
    let cut_off = !pids.is_empty() && !path.exists();
    Orphans {
        cut_off: cut_off.then(|| (path, adopt::cut_off_remedy(&pids))),
        pids,
    }
}

/// In the place of another program, which left this table.
fn go_on(args: &RunArgs, places: Places<'_>, table: i32) -> Result<Supervisor, Trouble> {
    let succession = Succession::take(table)?;
    let listener = succession
        .control
        .try_clone()
        .map_err(|error| Trouble::new(format!("a descriptor can't be duplicated: {error}"), ""))?;
    match adopt_at_once(args, places.clone(), listener) {
        Ok(mut supervisor) => {
            supervisor.succeeded(succession);
            Ok(supervisor)
        }
        Err(trouble) => Err(succession.give_back(&places, &trouble)),
    }
}

fn adopt_at_once(
    args: &RunArgs,
    places: Places<'_>,
    listener: OwnedFd,
) -> Result<Supervisor, Trouble> {
    failpoint::failpoint!(
        "succession.adopts",
        Err(Trouble::new("a test has it fail", ""))
    );
    start(args, places, Some(listener))
}

/// Takes over what a dead supervisor left, or opens everything, in the order in which a failure costs least.
///
/// `listener`: the control socket, from the program whose place we have. Then there must be workers to take over.
fn start(
    args: &RunArgs,
    places: Places<'_>,
    listener: Option<OwnedFd>,
) -> Result<Supervisor, Trouble> {
    let succeeds = listener.is_some();
    // First of all: they must not be taken for descriptors of our own. After an exec those of the environment are long taken.
    let mut stored = if succeeds {
        store::Inherited::default()
    } else {
        store::inherited()
    };
    let source = Source::new(args, Environment::of_process().state_dir(places.state));
    // With workers to take over a wrong file is no reason to leave them alone: they keep the configuration they have.
    let loaded = match source.load() {
        Err(trouble) if stored.kept.is_none() && !adopt::anybody(places.control) => {
            return Err(trouble);
        }
        loaded => loaded,
    };
    let state = make_state_dir(places.state)?;
    let secret = secret::load(&state)?;
    // Whoever has the control socket is the one supervisor, also while it adopts.
    let control = match listener {
        Some(listener) => ControlSocket::inherited(places.control, listener)?,
        None => ControlSocket::claim(places.control)?,
    };
    let ground = Ground {
        source,
        control,
        control_path: places.control,
        secret,
        state,
        images: Images::of_ourselves()?,
        arguments: places.arguments,
    };
    let remains = adopt::find(places.control, stored.kept.take())?;
    // It is filled anew with what there is; a name in it is not looked at twice.
    store::clear(&mut stored.names);
    if let Some(remains) = remains {
        return adoption::begin(ground, remains);
    }
    if succeeds {
        ground.control.leave();
        return Err(Trouble::new("no worker could be taken over", ""));
    }
    let (config, warnings) = loaded?;
    warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    open(ground, config)
}

fn open(ground: Ground<'_>, config: Config) -> Result<Supervisor, Trouble> {
    limits::check_user(config.workers.user.as_deref())?;
    limits::check_memory(&config)?;
    limits::raise_descriptors(config.slots(), config.workers.count, config.listen.len())?;
    let aux = aux_of(&config)?;
    let ours = ground.images.get(fleet::Image(0));
    let ours = ours.ok_or_else(|| Trouble::new("our own program is gone", ""))?;
    let compiled = numbers::compile_all(&ours.executable, &ground.arguments.helper, config)?;
    compiled
        .notes
        .iter()
        .for_each(|note| tracing::info!("{note}"));
    let (config, tables) = (compiled.config, compiled.files);
    let listeners = open_listeners(&config)?;
    let memory = Memory::create(&config, aux + helpers::PARTICIPANTS)?;
    let doorbells = (0..config.slots())
        .map(|_| os::eventfd())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Trouble::new(format!("the kernel gives no eventfd: {error}"), ""))?;
    let allowed = pins::allowed();
    let cores = pins::cores(&config.workers.pin, config.slots(), &allowed);
    let forbidden = pins::forbidden(&cores, &allowed);
    if !forbidden.is_empty() {
        return Err(Trouble::new(
            format!("`workers.pin` names cores that this process may not use: {forbidden:?}"),
            format!("it may use {allowed:?}; see `taskset`, cpusets and `AllowedCPUs=`"),
        ));
    }
    tracing::info!(
        version = VERSION,
        pid = std::process::id(),
        config = ground.source.name(),
        control = %ground.control_path.display(),
        "starting"
    );
    let fleet = Fleet::new(config.workers.count, aux, Patience::default());
    let adopt = AdoptSocket::make(ground.control_path)?;
    let mut helpers = Helpers::new(memory.participant(aux), false);
    let ours = snapshots::claim(&ground.state);
    let restoring = snapshots::Restoring {
        directory: &ground.state,
        ours: ours.is_some(),
        config: &config,
        program: ground
            .images
            .get(fleet::Image(0))
            .map(|ours| &ours.executable),
        arguments: &ground.arguments.helper,
    };
    let (memory, restored) = restoring.run(memory, &mut helpers)?;
    let snapshots = Snapshots::new(ground.state.clone(), ours, config.memory.snapshot, restored);
    let parts = Parts {
        config,
        memory,
        doorbells,
        listeners,
        fleet,
        adopt,
        left: None,
        helpers,
        snapshots,
        tables,
    };
    Supervisor::new(ground, parts)
}

fn make_state_dir(given: Option<&Path>) -> Result<PathBuf, Trouble> {
    let Some(path) = Environment::of_process().state_dir(given) else {
        return Err(Trouble::new(
            "there is no place for the state directory: neither XDG_STATE_HOME nor HOME is set",
            "name one with --state DIR or TANDEM_STATE",
        ));
    };
    paths::create_state_dir(&path).map_err(|error| {
        Trouble::new(
            format!(
                "cannot make the state directory {}: {error}",
                path.display()
            ),
            "name one that you may write with --state DIR or TANDEM_STATE",
        )
    })?;
    Ok(path)
}

/// The arena's bound of participants beside slots.
const AUX_MAX: u16 = 128;

/// Participants of control threads.
fn aux_of(config: &Config) -> Result<u16, Trouble> {
    let count = config.workers.count;
    let wanted = Fleet::aux_wanted(count);
    if wanted + helpers::PARTICIPANTS > AUX_MAX {
        return Err(Trouble::new(
            format!(
                "`workers.count` is {count}; at most {} worker processes are possible",
                AUX_MAX - Fleet::aux_wanted(0) - helpers::PARTICIPANTS
            ),
            "run fewer workers with more reactors each",
        ));
    }
    Ok(wanted)
}

fn open_listeners(config: &Config) -> Result<Vec<Listener>, Trouble> {
    let mut listeners = Vec::with_capacity(config.listen.len());
    for (id, listen) in (0..).zip(&config.listen) {
        let listener = Listener::open(id, listen, config.slots())?;
        let bytes = listener.receive_bytes();
        if bytes < sockets::RECEIVE_BYTES {
            tracing::warn!(
                address = %listener.listen.address,
                bytes,
                "the kernel gives sockets a small receive buffer: raise net.core.rmem_max to {}, or start as root",
                sockets::RECEIVE_BYTES
            );
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arena_has_room_for_as_many_workers_as_a_file_may_ask_for() {
        let count = config::WORKERS_MAX;
        assert_eq!(Fleet::aux_wanted(count) + helpers::PARTICIPANTS, AUX_MAX);
    }
}
