//! Finding what a dead supervisor left: its workers, and all that they hold for us (DESIGN §1, "The supervisor's own death").
//!
//! ```text
//! connect to <control>.adopt, Hail ──refused──> nobody lives: what the service manager keeps, or a fresh start
//!    │ Orphan + its pidfd
//!    ├─ Surrender ──> arena, sockets, doorbells, configuration
//!    │ the arena's process directory tells whom else to expect
//!    ├─ connect, Orphan ... once for each of them
//!    v
//! Adopt to each (`adoption`); until then all of it can be dropped, and the orphans wait for another one
//! ```
//!
//! An orphan is who its pidfd says, and is believed if the directory has that pid with that start time. Who lives by the directory and does not
//! come in time can't be a worker of ours; it is killed before anybody else gets its seat.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use control::{FromWorker, Secret, ToWorker};
use shm::Place;

use super::census::{self, Living};
use super::claim::adopt_path;
use super::fleet::ProcessId;
use super::holder;
use super::memory::Memory;
use super::trouble::Trouble;

/// How long the first orphan may take to answer, and each further one.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether those who are still expected live.
const LOOK: Duration = Duration::from_millis(20);

/// All that is shared, as one survivor or the service manager has it.
#[derive(Debug)]
pub(crate) struct Estate {
    pub(crate) control: OwnedFd,
    pub(crate) data: OwnedFd,
    pub(crate) config_file: OwnedFd,
    pub(crate) config_version: u64,
    /// `None`: make a new one.
    pub(crate) adopt: Option<OwnedFd>,
    /// By slot.
    pub(crate) doorbells: Vec<OwnedFd>,
    pub(crate) listeners: Vec<Sockets>,
    /// `None`: the state directory's.
    pub(crate) secret: Option<Secret>,
}

#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) id: u32,
    pub(crate) asked: SocketAddr,
    pub(crate) address: SocketAddr,
    /// By slot.
    pub(crate) fds: Vec<OwnedFd>,
}

/// A worker that waits for its `Adopt`.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) connection: OwnedFd,
    pub(crate) pidfd: OwnedFd,
    pub(crate) pid: u32,
    pub(crate) process: ProcessId,
    pub(crate) aux: u16,
    pub(crate) place: Option<u16>,
    pub(crate) serving: BTreeSet<u16>,
    pub(crate) config_version: u64,
    pub(crate) listeners: BTreeSet<u32>,
}

#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) estate: Estate,
    pub(crate) memory: Memory,
    pub(crate) orphans: Vec<Orphan>,
    /// They live and do not answer.
    pub(crate) silent: Vec<Living>,
}

/// Whether somebody holds the adopt socket: to be asked before a start fails for another reason.
pub(crate) fn anybody(control: &Path) -> bool {
    os::seqpacket_connect(&adopt_path(control)).is_ok()
}

/// What a dead supervisor of this control socket left, if anything; `stored` is what the service manager kept.
pub(crate) fn find(control: &Path, stored: Option<Estate>) -> Result<Option<Remains>, Trouble> {
    let path = adopt_path(control);
    if let Some(estate) = stored {
        let memory = attach(&estate)?;
        if living(&memory).is_empty() {
            return Ok(Some(Remains {
                estate,
                memory,
                orphans: Vec::new(),
                silent: Vec::new(),
            }));
        }
        // The arena is the same, and survivors know more.
        return match first(&path)? {
            Some(orphan) => take_all(&path, orphan).map(Some),
            None => Ok(Some(Remains {
                silent: living(&memory),
                estate,
                memory,
                orphans: Vec::new(),
            })),
        };
    }
    match first(&path)? {
        Some(orphan) => take_all(&path, orphan).map(Some),
        None => Ok(None),
    }
}

fn attach(estate: &Estate) -> Result<Memory, Trouble> {
    let copy = |fd: &OwnedFd| {
        fd.try_clone()
            .map_err(|error| Trouble::new(format!("a descriptor can't be duplicated: {error}"), ""))
    };
    Memory::adopt(copy(&estate.control)?, copy(&estate.data)?).map_err(|error| {
        Trouble::new(
            format!("the running workers' memory can't be shared: {error}"),
            "start the `tandem` that they were started with; or end them, which ends the calls that ring, and start anew",
        )
    })
}

fn living(memory: &Memory) -> Vec<Living> {
    census::living(memory.directory(), memory.layout().aux)
}

/// The first word goes with the connection, so that whoever takes it need not wait for us.
fn connect(path: &Path) -> io::Result<OwnedFd> {
    let connection = os::seqpacket_connect(path)?;
    let hail = control::encode(&ToWorker::Hail).map_err(io::Error::other)?;
    os::send_with_fds(connection.as_fd(), &hail, &[])?;
    Ok(connection)
}

/// The first orphan that answers; `None`: nobody holds the socket.
fn first(path: &Path) -> Result<Option<Orphan>, Trouble> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let connection = match connect(path) {
            Ok(connection) => connection,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(LOOK);
                continue;
            }
            Err(error) => {
                return Err(Trouble::new(
                    format!("cannot ask for workers on {}: {error}", path.display()),
                    "",
                ));
            }
        };
        check_owner(path, &connection)?;
        match hear(&connection, until.saturating_duration_since(Instant::now())) {
            Ok(Said::Orphan(orphan, pidfd)) => match orphan_of(*orphan, connection, pidfd) {
                Ok(orphan) => return Ok(Some(orphan)),
                Err(error) => {
                    tracing::warn!("a worker of the last supervisor is not taken: {error}")
                }
            },
            Ok(Said::Nothing) => {}
            // It was dying: ask again.
            Err(error) => tracing::debug!(%error, "an orphan went away"),
        }
    }
    let pids = numbers(&holder::of_unix(path));
    Err(Trouble::new(
        format!(
            "workers of a dead supervisor hold {} and do not answer: {pids}",
            path.display()
        ),
        "kill them and start again; registrations and calls that ring are lost then",
    ))
}

/// `1, 2`.
fn numbers(pids: &[u32]) -> String {
    let texts: Vec<String> = pids
        .iter()
        .filter(|pid| **pid != std::process::id())
        .map(ToString::to_string)
        .collect();
    texts.join(", ")
}

/// What is behind a socket of another account is not to be mapped.
fn check_owner(path: &Path, connection: &OwnedFd) -> Result<(), Trouble> {
    let me = nix::unistd::geteuid().as_raw();
    match os::peer_uid(connection.as_fd()) {
        Ok(uid) if uid == me => Ok(()),
        Ok(uid) => Err(Trouble::new(
            format!(
                "workers on {} belong to the account {uid}, not to ours ({me})",
                path.display()
            ),
            "start as that account to take them over",
        )),
        Err(error) => Err(Trouble::new(
            format!("cannot tell whose {} is: {error}", path.display()),
            "",
        )),
    }
}

fn take_all(path: &Path, first: Orphan) -> Result<Remains, Trouble> {
    let mut estate = surrender(&first.connection)?;
    let memory = attach(&estate)?;
    let mut orphans = vec![first];
    if !known(&memory, &orphans[0]) {
        return Err(Trouble::new(
            format!(
                "process {} waits on {} and is no worker of the memory that it holds",
                orphans[0].pid,
                path.display()
            ),
            "kill it and start again",
        ));
    }
    let silent = take_others(path, &memory, &mut orphans);
    // Of a reload that did not reach everybody the newest configuration counts: its listeners came before it.
    let newest = orphans.iter().max_by_key(|orphan| orphan.config_version);
    if let Some(newest) = newest.filter(|newest| newest.config_version > estate.config_version) {
        estate = surrender(&newest.connection)?;
    }
    Ok(Remains {
        estate,
        memory,
        orphans,
        silent,
    })
}

/// Asks until everybody who lives has come; gives those who did not.
fn take_others(path: &Path, memory: &Memory, orphans: &mut Vec<Orphan>) -> Vec<Living> {
    let mut until = Instant::now() + PATIENCE;
    let mut waiting: Option<OwnedFd> = None;
    loop {
        let mut missing = living(memory);
        missing.retain(|living| !orphans.iter().any(|orphan| orphan.pid == living.pid));
        // One that has not attached will see the end of its channel and leave.
        let expected = missing
            .iter()
            .any(|living| living.entry.place != Place::Starting);
        if !expected || Instant::now() >= until {
            return missing;
        }
        let connection = match waiting.take() {
            Some(connection) => Ok(connection),
            None => connect(path),
        };
        let Ok(connection) = connection else {
            std::thread::sleep(LOOK);
            continue;
        };
        match hear(&connection, LOOK) {
            Ok(Said::Nothing) => waiting = Some(connection),
            Ok(Said::Orphan(orphan, pidfd)) => match orphan_of(*orphan, connection, pidfd) {
                Ok(orphan) if known(memory, &orphan) => {
                    until = Instant::now() + PATIENCE;
                    orphans.push(orphan);
                }
                Ok(orphan) => tracing::warn!(pid = orphan.pid, "a stranger on the adopt socket"),
                Err(error) => {
                    tracing::warn!("a worker of the last supervisor is not taken: {error}")
                }
            },
            Err(error) => tracing::debug!(%error, "an orphan went away"),
        }
    }
}

/// Whether the directory has this process under this number.
fn known(memory: &Memory, orphan: &Orphan) -> bool {
    let directory = memory.directory();
    let Some(line) = orphan.line(memory).filter(|line| *line < directory.len()) else {
        return false;
    };
    let entry = directory.entry(line);
    entry.pid == orphan.pid
        && ProcessId(entry.process) == orphan.process
        && (entry.start_ticks.is_none() || entry.start_ticks == os::start_ticks(orphan.pid).ok())
}

impl Orphan {
    /// Its line of the directory.
    pub(crate) fn line(&self, memory: &Memory) -> Option<u16> {
        self.aux.checked_sub(memory.layout().slots)
    }
}

enum Said {
    Nothing,
    Orphan(Box<FromWorker>, OwnedFd),
}

/// Waits for an orphan's first words.
fn hear(connection: &OwnedFd, patience: Duration) -> io::Result<Said> {
    os::block_for(
        connection.as_fd(),
        Some(patience.max(Duration::from_millis(1))),
    )?;
    match receive(connection) {
        Ok((message @ FromWorker::Orphan { .. }, mut fds)) => match fds.pop() {
            Some(pidfd) => Ok(Said::Orphan(Box::new(message), pidfd)),
            None => Err(io::ErrorKind::InvalidData.into()),
        },
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Said::Nothing),
        Err(error) => Err(error),
    }
}

fn orphan_of(said: FromWorker, connection: OwnedFd, pidfd: OwnedFd) -> io::Result<Orphan> {
    let FromWorker::Orphan {
        incarnation,
        aux,
        worker,
        serving,
        config_version,
        listeners,
    } = said
    else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let process = incarnation
        .checked_sub(1)
        .and_then(|id| u32::try_from(id).ok());
    Ok(Orphan {
        pid: os::pid_of(pidfd.as_fd())?,
        connection,
        pidfd,
        process: ProcessId(process.ok_or(io::ErrorKind::InvalidData)?),
        aux,
        place: worker,
        serving: serving.into_iter().collect(),
        config_version,
        listeners: listeners.into_iter().collect(),
    })
}

/// Everything that one orphan holds.
fn surrender(connection: &OwnedFd) -> Result<Estate, Trouble> {
    try_surrender(connection).map_err(|error| {
        Trouble::new(
            format!("a worker of the dead supervisor does not give what it holds: {error}"),
            "start again: another one is asked",
        )
    })
}

fn try_surrender(connection: &OwnedFd) -> io::Result<Estate> {
    os::block_for(connection.as_fd(), Some(PATIENCE))?;
    let order = control::encode(&ToWorker::Surrender).map_err(io::Error::other)?;
    os::send_with_fds(connection.as_fd(), &order, &[])?;
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let (first, mut fds) = receive(connection)?;
    let FromWorker::Estate {
        slots_total,
        config_version,
        secret,
    } = first
    else {
        return Err(wrong());
    };
    let doorbells = if fds.len() < 4 {
        return Err(wrong());
    } else {
        fds.split_off(4)
    };
    let mut files = fds.into_iter();
    let mut file = || files.next().ok_or_else(wrong);
    let mut estate = Estate {
        control: file()?,
        data: file()?,
        config_file: file()?,
        config_version,
        adopt: Some(file()?),
        doorbells,
        listeners: Vec::new(),
        secret: Some(secret),
    };
    loop {
        match receive(connection)? {
            (FromWorker::Doorbells { from_slot }, mut fds)
                if usize::from(from_slot) == estate.doorbells.len() =>
            {
                estate.doorbells.append(&mut fds);
            }
            (
                FromWorker::Sockets {
                    listener,
                    asked,
                    address,
                    from_slot,
                },
                mut fds,
            ) => {
                if from_slot == 0 {
                    estate.listeners.push(Sockets {
                        id: listener,
                        asked,
                        address,
                        fds: Vec::new(),
                    });
                }
                let last = estate.listeners.last_mut().ok_or_else(wrong)?;
                if last.id != listener || last.fds.len() != usize::from(from_slot) {
                    return Err(wrong());
                }
                last.fds.append(&mut fds);
            }
            (FromWorker::Surrendered, _) => break,
            _ => return Err(wrong()),
        }
    }
    let slots = usize::from(slots_total);
    let whole = estate.doorbells.len() == slots
        && estate
            .listeners
            .iter()
            .all(|listener| listener.fds.len() == slots);
    whole.then_some(estate).ok_or_else(wrong)
}

fn receive(connection: &OwnedFd) -> io::Result<(FromWorker, Vec<OwnedFd>)> {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    match os::recv_with_fds(connection.as_fd(), &mut bytes, &mut fds)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok((control::decode(&bytes).map_err(io::Error::other)?, fds)),
    }
}
