//! Finding what a dead supervisor left: its workers, and all that they hold for us.
//!
//! ```text
//! connect to <control>.adopt, Hail ──refused──> nobody lives: what the service manager keeps, or a fresh start
//!    │ Orphan + its pidfd
//!    ├─ Surrender ──> arena, sockets, doorbells, configuration
//!    │ the arena's process directory and the holders of the socket tell whom else to expect
//!    ├─ connect, Orphan ... once for each of them; of several arenas one is the living one (`arenas`)
//!    v
//! Adopt to each (`adoption`); until then all of it can be dropped, and the orphans wait for another one
//! ```
//!
//! An orphan is who its pidfd says, and is believed if the directory has that pid with that start time. Who lives by the directory and does not
//! come in time can't be a worker of ours; it is killed before anybody else gets its seat.
//!
//! If nobody answers at all, those who hold the socket and were stopped (SIGSTOP) are continued: with no other survivor they are the ones to go on with.
//! Descriptors that the service manager kept count once nobody is left, and for what survivors do not bring. Survivors may be dying still: the kernel
//! takes a process's memory down before its death is known, so both proofs are waited for, an answer and a death.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use control::{FromWorker, Secret, ToWorker};
use failpoint::failpoint;

use super::arenas::{Parties, Party};
use super::census::Living;
use super::claim::{adopt_path, outlast};
use super::fleet::ProcessId;
use super::holder;
use super::memory::Memory;
use super::numbers::Files;
use super::store::Kept;
use super::trouble::Trouble;

/// How long the first orphan may take to answer, and each further one.
const PATIENCE: Duration = Duration::from_secs(3);
/// Orphans that are asked for what they hold, one after the other, until one gives it.
const ASKED_MAX: u32 = 5;
/// How often it is looked whether those who are still expected live.
const LOOK: Duration = Duration::from_millis(20);
/// A silence after which it is looked who was stopped.
const SILENCE: Duration = Duration::from_millis(500);

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
    pub(crate) tables: Files,
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

/// What a dead supervisor of this control socket left, if anything; `kept` is what the service manager kept.
pub(crate) fn find(control: &Path, kept: Option<Kept>) -> Result<Option<Remains>, Trouble> {
    let path = adopt_path(control);
    let Some(kept) = kept else {
        return match first(&path, || true)? {
            First::Orphan(orphan) => {
                take_all(&path, Some(*orphan), Parties(Vec::new()), None).map(Some)
            }
            First::Nobody => reachable(&path).map(|()| None),
            First::Silent => Err(silent(&path)),
        };
    };
    // Survivors know more. The store holds the adopt socket too, so that a connection says nothing: the directories do.
    let parties = Parties(kept.arenas.iter().map(Party::of_store).collect());
    let may_be = || {
        let mut all = parties.0.iter();
        all.any(|party| !party.silent().is_empty()) || !parties.strangers(&path).is_empty()
    };
    let orphan = match first(&path, may_be)? {
        First::Orphan(orphan) => Some(*orphan),
        First::Nobody | First::Silent => None,
    };
    take_all(&path, orphan, parties, Some(kept)).map(Some)
}

fn silent(path: &Path) -> Trouble {
    Trouble::new(
        format!(
            "workers of a dead supervisor hold {} and do not answer: {}",
            path.display(),
            numbers(&holder::of_unix(path))
        ),
        "kill them and start again: registrations are those of the last snapshot then, and calls that ring are lost",
    )
}

/// An error if workers wait on a socket of this path whose file is not there any more.
fn reachable(path: &Path) -> Result<(), Trouble> {
    let waiting = || holder::of_unix(path);
    if outlast(|| waiting().is_empty().then_some(())).is_some() {
        return Ok(());
    }
    let pids = waiting();
    Err(Trouble::new(
        format!(
            "workers of a dead supervisor serve on ({}), and nobody can take them over: their socket {} was removed",
            numbers(&pids),
            path.display()
        ),
        cut_off_remedy(&pids),
    ))
}

/// What to do about workers that wait on a socket without a file.
pub(crate) fn cut_off_remedy(pids: &[u32]) -> String {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    format!(
        "nothing brings the file back: `kill {}`, then `tandem run`. Registrations are those of the last snapshot then, and calls that ring are lost. \
         Keep whatever cleans that directory away from it",
        pids.join(" ")
    )
}

/// The first word goes with the connection, so that whoever takes it need not wait for us.
fn connect(path: &Path) -> io::Result<OwnedFd> {
    let connection = os::seqpacket_connect(path)?;
    let hail = control::encode(&ToWorker::Hail).map_err(io::Error::other)?;
    os::send_with_fds(connection.as_fd(), &hail, &[])?;
    Ok(connection)
}

enum First {
    Orphan(Box<Orphan>),
    /// Nobody holds the socket, or nobody is left who could answer.
    Nobody,
    /// Somebody holds it, and does not answer.
    Silent,
}

/// The first orphan that answers, for as long as there `may_be` one.
fn first(path: &Path, may_be: impl Fn() -> bool) -> Result<First, Trouble> {
    let (mut until, mut look_at) = (Instant::now() + PATIENCE, Instant::now() + SILENCE);
    let mut waiting: Option<OwnedFd> = None;
    while Instant::now() < until {
        if !may_be() {
            return Ok(First::Nobody);
        }
        if Instant::now() >= look_at {
            look_at = until;
            if continue_stopped(path) > 0 {
                until = Instant::now() + PATIENCE;
            }
        }
        let connection = match waiting.take() {
            Some(connection) => Ok(connection),
            None => connect(path),
        };
        let connection = match connection {
            Ok(connection) => connection,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(First::Nobody);
            }
            // Nobody takes it yet, or who took it has gone already: ask again.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::BrokenPipe
                        | io::ErrorKind::ConnectionReset
                ) =>
            {
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
        match hear(&connection, LOOK) {
            Ok(Said::Orphan(orphan, pidfd)) => match orphan_of(*orphan, connection, pidfd) {
                Ok(orphan) => return Ok(First::Orphan(Box::new(orphan))),
                Err(error) => {
                    tracing::warn!("a worker of the last supervisor is not taken: {error}")
                }
            },
            Ok(Said::Nothing) => waiting = Some(connection),
            // It was dying: ask again.
            Err(error) => tracing::debug!(%error, "an orphan went away"),
        }
    }
    Ok(First::Silent)
}

/// Lets those go on who hold the socket, and so are workers of the supervisor before us, and whom a signal has stopped. How many there were.
fn continue_stopped(path: &Path) -> usize {
    let stopped = |pid: &u32| os::is_stopped(*pid).unwrap_or(false);
    let mut count = 0;
    for pid in holder::of_unix(path).into_iter().filter(stopped) {
        // Asked again while a pidfd is held: the number may have become another's.
        let Ok(pidfd) = os::pidfd_open(pid) else {
            continue;
        };
        if !holder::of_unix(path).contains(&pid) {
            continue;
        }
        match os::pidfd_signal(pidfd.as_fd(), libc::SIGCONT) {
            Ok(()) => {
                count += 1;
                tracing::warn!(
                    pid,
                    "a worker of the last supervisor was stopped, and nobody else answers: it goes on (SIGCONT)"
                );
            }
            Err(error) => {
                tracing::warn!(pid, %error, "a worker of the last supervisor is stopped and can't be continued")
            }
        }
    }
    count
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

/// What an orphan holds; if it dies over it another one's, and who that is.
fn give_all(path: &Path, mut orphan: Orphan) -> Result<(Orphan, Estate), Trouble> {
    for _ in 1..ASKED_MAX {
        let trouble = match surrender(&orphan.connection) {
            Ok(estate) => return Ok((orphan, estate)),
            Err(trouble) => trouble,
        };
        tracing::warn!(pid = orphan.pid, "another worker is asked: {trouble}");
        drop(orphan);
        orphan = match first(path, || true)? {
            First::Orphan(next) => *next,
            First::Nobody | First::Silent => return Err(trouble),
        };
    }
    let estate = surrender(&orphan.connection)?;
    Ok((orphan, estate))
}

/// Goes on with the living one of the arenas that the orphans have and that were kept.
fn take_all(
    path: &Path,
    first: Option<Orphan>,
    mut parties: Parties,
    kept: Option<Kept>,
) -> Result<Remains, Trouble> {
    if let Some(first) = first {
        let (first, estate) = give_all(path, first)?;
        failpoint!("supervisor.adopt.surrendered");
        take_first(path, first, estate, &mut parties)?;
        take_others(path, &mut parties);
    }
    let party = parties.choose(path)?;
    let silent = party.silent();
    let number = party.number;
    let memory = party.memory?;
    let slots = memory.layout().slots;
    let Some(mut estate) = party.estate else {
        let estate = kept
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .and_then(|kept| kept.into_estate(number, slots))
            .map_err(|error| {
                Trouble::new(
                    format!("what the service manager kept can't be completed: {error}"),
                    "stop the unit, which empties the store, and start it again",
                )
            })?;
        return Ok(Remains {
            silent,
            estate,
            memory,
            orphans: Vec::new(),
        });
    };
    let orphans = party.orphans;
    // Of a reload that did not reach everybody the newest configuration counts: its listeners came before it. A spare may have been left without any.
    let wealth = |orphan: &&Orphan| (orphan.config_version, orphan.listeners.len());
    let given = (estate.config_version, estate.listeners.len());
    if let Some(richest) = orphans.iter().max_by_key(wealth)
        && wealth(&richest) > given
    {
        estate = surrender(&richest.connection)?;
    }
    for found in kept
        .into_iter()
        .flat_map(|kept| kept.whole_listeners(slots))
    {
        // Of one that a reload has removed the sockets are closed here; its number is not used again.
        if !estate.listeners.iter().any(|has| has.id == found.id) {
            tracing::debug!(address = %found.address, "sockets of the service manager's");
            estate.listeners.push(found);
        }
    }
    Ok(Remains {
        estate,
        memory,
        orphans,
        silent,
    })
}

fn take_first(
    path: &Path,
    first: Orphan,
    estate: Estate,
    parties: &mut Parties,
) -> Result<(), Trouble> {
    let found = Party::of_estate(estate);
    if let Ok(memory) = &found.memory
        && !known(memory, &first)
    {
        return Err(Trouble::new(
            format!(
                "process {} waits on {} and is no worker of the memory that it holds",
                first.pid,
                path.display()
            ),
            "kill it and start again",
        ));
    }
    parties.join(found, first);
    Ok(())
}

/// Asks until everybody who lives has come, of whatever arena.
fn take_others(path: &Path, parties: &mut Parties) {
    let mut until = Instant::now() + PATIENCE;
    let mut waiting: Option<OwnedFd> = None;
    while Instant::now() < until {
        if !parties.0.iter().any(Party::is_expecting) && parties.strangers(path).is_empty() {
            return;
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
                Ok(orphan) => {
                    if parties.sort_in(orphan) {
                        failpoint!("supervisor.adopt.one_more");
                        until = Instant::now() + PATIENCE;
                    }
                }
                Err(error) => {
                    tracing::warn!("a worker of the last supervisor is not taken: {error}")
                }
            },
            Err(error) => tracing::debug!(%error, "an orphan went away"),
        }
    }
}

/// Whether the directory has this process under this number.
pub(crate) fn known(memory: &Memory, orphan: &Orphan) -> bool {
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
pub(crate) fn surrender(connection: &OwnedFd) -> Result<Estate, Trouble> {
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
        tables: Files::new(),
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
            (FromWorker::PrefixTable { image }, mut fds) => {
                estate.tables.insert(image, fds.pop().ok_or_else(wrong)?);
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The service manager's store holds the adopt socket as well: that it can be connected to is no sign of life.
    #[test]
    fn the_dying_are_waited_for_until_they_are_dead() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.adopt");
        let _held = os::seqpacket_listen(&path).unwrap();
        let looks = Cell::new(0);
        let begun = Instant::now();
        let found = first(&path, || {
            looks.set(looks.get() + 1);
            looks.get() < 5
        });
        assert!(matches!(found, Ok(First::Nobody)));
        assert_eq!(looks.get(), 5);
        assert!(begun.elapsed() < PATIENCE);
    }

    #[test]
    fn a_socket_without_its_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.adopt");
        assert!(reachable(&path).is_ok());
        let held = os::seqpacket_listen(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let trouble = reachable(&path).unwrap_err();
        assert!(
            trouble.cause.contains("control.adopt was removed"),
            "{trouble}"
        );
        drop(held);
        assert!(reachable(&path).is_ok());
    }
}
