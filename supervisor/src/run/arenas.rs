//! Of several arenas that a dead supervisor left, the living one.
//!
//! A supervisor that dies while it moves the server to another arena (`switch`) leaves the workers of both on one adopt socket, and perhaps both arenas in the service
//! manager's store. What tells them apart is in the arenas and in their workers, so that nothing has to be noted at the moment of the move:
//!
//! | the dead supervisor had | old arena A | new arena B | goes on |
//! |---|---|---|---|
//! | assigned nobody | its workers serve or stand by | spares, who end with their supervisor; no slot was ever served | A |
//! | assigned somebody | its workers stand by | a worker has a seat, or a slot was served | B: A is as it was before |
//! | let go of some of A | the others stand by | serves | B |
//!
//! So the newest arena that serves, has served or is about to is the living one. The newer one's processes have the higher numbers
//! ([`super::fleet::Fleet::next_of_successor`]). Workers of the others are told to end; who does not is killed.
//!
//! Who else may wait on the socket is told by `/proc`: a process that holds it and calls itself a worker is waited for. One that never answers and is in no
//! arena's directory may still have an order unread that makes it serve, so it is killed as well.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use control::ToWorker;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use shm::Place;

use super::adopt::{Estate, Orphan, known, surrender};
use super::census::{self, Living};
use super::holder;
use super::memory::Memory;
use super::store::inode;
use super::trouble::Trouble;

/// How long those who were told to end may take.
const FAREWELL: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(2);

/// An arena, what goes with it, and those of its workers who answered.
#[derive(Debug)]
pub(crate) struct Party {
    /// Which arena.
    pub(crate) number: u64,
    /// `Err`: it can't be read, for another program made it.
    pub(crate) memory: Result<Memory, Trouble>,
    /// `None`: nobody brought it, the service manager kept the arena.
    pub(crate) estate: Option<Estate>,
    pub(crate) orphans: Vec<Orphan>,
}

impl Party {
    pub(crate) fn of_estate(estate: Estate) -> Self {
        Self {
            number: inode(estate.control.as_fd()),
            memory: attach(&estate.control, &estate.data),
            estate: Some(estate),
            orphans: Vec::new(),
        }
    }

    pub(crate) fn of_store((control, data): &(OwnedFd, OwnedFd)) -> Self {
        Self {
            number: inode(control.as_fd()),
            memory: attach(control, data),
            estate: None,
            orphans: Vec::new(),
        }
    }

    /// Who lives by the arena's directory and has not answered.
    pub(crate) fn silent(&self) -> Vec<Living> {
        let Ok(memory) = &self.memory else {
            return Vec::new();
        };
        let mut living = census::living(memory.directory(), memory.layout().aux);
        living.retain(|living| !self.orphans.iter().any(|orphan| orphan.pid == living.pid));
        living
    }

    /// Whether somebody of it is still to answer. One that has not attached will see the end of its channel and leave.
    pub(crate) fn is_expecting(&self) -> bool {
        let mut silent = self.silent().into_iter();
        silent.any(|living| living.entry.place != Place::Starting)
    }

    /// Whether one of its slots serves, has served or is about to.
    fn has_served(&self) -> bool {
        let seated = |place: Place| matches!(place, Place::Assigned(_) | Place::Serving(_));
        self.orphans.iter().any(|orphan| orphan.place.is_some())
            || self.silent().iter().any(|who| seated(who.entry.place))
            || self.memory.as_ref().is_ok_and(|memory| {
                let mut slots = 0..memory.layout().slots;
                slots.any(|slot| memory.was_served(slot))
            })
    }

    /// The highest number that a process of it has.
    fn newest_process(&self) -> u32 {
        let answered = self.orphans.iter().map(|orphan| orphan.process.0);
        let listed = self.memory.iter().flat_map(|memory| {
            let directory = memory.directory();
            (0..directory.len()).map(move |aux| directory.entry(aux).process)
        });
        answered.chain(listed).max().unwrap_or(0)
    }
}

fn attach(control: &OwnedFd, data: &OwnedFd) -> Result<Memory, Trouble> {
    let copy = |fd: &OwnedFd| {
        fd.try_clone()
            .map_err(|error| Trouble::new(format!("a descriptor can't be duplicated: {error}"), ""))
    };
    Memory::adopt(copy(control)?, copy(data)?).map_err(|error| {
        Trouble::new(
            format!("the running workers' memory can't be shared: {error}"),
            "start the `tandem` that they were started with; or end them, which ends the calls that ring, and start anew",
        )
    })
}

/// Everybody who was found, by arena.
#[derive(Debug)]
pub(crate) struct Parties(pub(crate) Vec<Party>);

impl Parties {
    /// Puts an orphan beside those of its arena. False: it has none.
    pub(crate) fn sort_in(&mut self, orphan: Orphan) -> bool {
        let fits = |party: &&mut Party| {
            let memory = party.memory.as_ref();
            party.estate.is_some() && memory.is_ok_and(|memory| known(memory, &orphan))
        };
        if let Some(party) = self.0.iter_mut().find(fits) {
            party.orphans.push(orphan);
            return true;
        }
        let found = match surrender(&orphan.connection) {
            Ok(estate) => Party::of_estate(estate),
            Err(trouble) => {
                tracing::warn!(pid = orphan.pid, "a worker is not taken: {trouble}");
                return false;
            }
        };
        if let Ok(memory) = &found.memory
            && !known(memory, &orphan)
        {
            tracing::warn!(pid = orphan.pid, "a stranger on the adopt socket");
            return false;
        }
        self.join(found, orphan);
        true
    }

    /// The same with what it holds.
    pub(crate) fn join(&mut self, found: Party, orphan: Orphan) {
        let same = |party: &Party| party.number == found.number;
        match self.0.iter_mut().find(|party| same(party)) {
            Some(party) => {
                party.estate = party.estate.take().or(found.estate);
                party.orphans.push(orphan);
            }
            None => self.0.push(Party {
                orphans: vec![orphan],
                ..found
            }),
        }
    }

    /// Workers by their name that hold the socket, of which nothing is known.
    pub(crate) fn strangers(&self, path: &Path) -> BTreeSet<u32> {
        let mut pids: BTreeSet<u32> = holder::workers_of_unix(path).into_iter().collect();
        for party in &self.0 {
            let orphans = party.orphans.iter().map(|orphan| orphan.pid);
            let silent = party.silent().into_iter().map(|living| living.pid);
            orphans.chain(silent).for_each(|pid| {
                pids.remove(&pid);
            });
        }
        pids
    }

    /// The living one. The others' workers end, and are gone afterwards.
    pub(crate) fn choose(mut self, path: &Path) -> Result<Party, Trouble> {
        let strangers = self.strangers(path);
        let ranks = self.0.iter().enumerate().max_by_key(|(_, party)| {
            let answers = !party.orphans.is_empty();
            // What nobody serves and we can't read is of no use.
            let usable = answers || party.memory.is_ok();
            (usable, party.has_served(), party.newest_process())
        });
        let Some(at) = ranks.map(|(at, _)| at) else {
            return Err(Trouble::new("nothing is left of the last server", ""));
        };
        let chosen = self.0.swap_remove(at);
        // Nobody is sent away for an arena that we can't go on with.
        if chosen.memory.is_ok() {
            kill_strangers(path, &strangers);
            self.0.into_iter().for_each(Party::end);
        }
        Ok(chosen)
    }
}

impl Party {
    fn end(self) {
        let silent = self.silent();
        if self.orphans.is_empty() && silent.is_empty() {
            return;
        }
        tracing::warn!(
            workers = self.orphans.len(),
            silent = silent.len(),
            "workers of an arena that another one has replaced: they end"
        );
        for orphan in &self.orphans {
            for order in [ToWorker::Adopt, ToWorker::HandOver] {
                let sent = control::encode(&order)
                    .map_err(std::io::Error::other)
                    .and_then(|order| os::send_with_fds(orphan.connection.as_fd(), &order, &[]));
                if let Err(error) = sent {
                    tracing::debug!(pid = orphan.pid, %error, "a worker can't be told to end");
                }
            }
        }
        silent.iter().for_each(|living| kill(living.pidfd.as_fd()));
        let polite = self.orphans.iter().map(|orphan| orphan.pidfd.as_fd());
        let all: Vec<_> = polite
            .chain(silent.iter().map(|who| who.pidfd.as_fd()))
            .collect();
        if !all_dead(&all) {
            all.iter().for_each(|pidfd| kill(*pidfd));
            all_dead(&all);
        }
    }
}

fn kill(pidfd: BorrowedFd<'_>) {
    if let Err(error) = os::pidfd_signal(pidfd, libc::SIGKILL)
        && error.raw_os_error() != Some(libc::ESRCH)
    {
        tracing::error!(%error, "a worker can't be killed");
    }
}

/// Whether they are, in time. After an exec they may be children of ours.
fn all_dead(pidfds: &[BorrowedFd<'_>]) -> bool {
    let until = Instant::now() + FAREWELL;
    loop {
        let dead = |fd: &BorrowedFd<'_>| os::is_dead(*fd).unwrap_or(true);
        if pidfds.iter().all(dead) {
            for fd in pidfds {
                let _ = waitid(Id::PIDFd(*fd), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
            }
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

fn kill_strangers(path: &Path, pids: &BTreeSet<u32>) {
    for &pid in pids {
        let Ok(pidfd) = os::pidfd_open(pid) else {
            continue;
        };
        // Asked again while a pidfd is held: the number may have become another's.
        if holder::workers_of_unix(path).contains(&pid) {
            tracing::warn!(
                pid,
                "a worker of the last supervisor does not answer and is in nobody's directory: it is killed"
            );
            kill(pidfd.as_fd());
            all_dead(&[pidfd.as_fd()]);
        }
    }
}
