//! From what a dead supervisor left to a supervisor that goes on with it.
//!
//! Nothing is made anew: the arena, the kernel's sockets, doorbells and the configuration stay what they are, and workers that serve do not
//! notice. What has no living owner becomes a vacancy with a heritage before the first spare is started, so it is recovered first. Workers that a
//! reload of the last supervisor did not reach are sent the newest configuration that one of them has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use config::{Config, Listen};
use control::ToWorker;
use failpoint::failpoint;
use nix::sys::socket::{setsockopt, sockopt};
use shm::Place;

use super::adopt::{Estate, Orphan, Remains, Sockets};
use super::census::{self, Living};
use super::claim::AdoptSocket;
use super::fleet::{Fleet, Patience, ProcessId, State};
use super::helpers::Helpers;
use super::links::{CHANNEL_BYTES, Ear, Link};
use super::memory::Memory;
use super::snapshots::{self, Snapshots};
use super::sockets::Listener;
use super::supervisor::{Left, Parts, Supervisor, Token};
use super::trouble::Trouble;
use super::{Ground, limits};
use crate::about::VERSION;

/// A supervisor over what another one left.
pub(crate) fn begin(mut ground: Ground<'_>, remains: Remains) -> Result<Supervisor, Trouble> {
    let Remains {
        estate,
        memory,
        orphans,
        silent,
    } = remains;
    let Estate {
        config_file,
        config_version,
        adopt,
        doorbells,
        listeners: sockets,
        secret,
        tables,
        ..
    } = estate;
    let mut config = read_config(&config_file).map_err(|error| {
        Trouble::new(
            format!("the workers' configuration can't be read: {error}"),
            "",
        )
    })?;
    // Workers are not sent the one that is in effect after a move.
    config.memory.limit = config.memory.limit.max(memory.layout().limit);
    let slots = memory.layout().slots;
    if config.slots() != slots || doorbells.len() != usize::from(slots) {
        return Err(Trouble::new(
            format!("what the last server left does not fit together: {slots} slots in its memory"),
            "end its workers and start again",
        ));
    }
    limits::raise_descriptors(slots, config.workers.count, sockets.len())?;
    let head = memory.directory().head();
    let (listeners, extras, next_listener) =
        sort_listeners(&mut config, sockets, head.next_listener)?;
    let adopt = match adopt {
        Some(listener) => AdoptSocket::adopted(ground.control_path, listener),
        None => AdoptSocket::make(ground.control_path)?,
    };
    let own_secret = ground.secret;
    ground.secret = secret.unwrap_or(own_secret);
    if ground.secret != own_secret {
        tracing::warn!(
            "the running workers seal routes by another secret than this state directory's, and keep theirs"
        );
    }
    let states = states_of(&config, &memory, &orphans, &silent);
    let census = census::take(
        &memory,
        config.workers.count,
        config.workers.reactors,
        &states,
    );
    tracing::info!(
        version = VERSION,
        pid = std::process::id(),
        config = ground.source.name(),
        control = %ground.control_path.display(),
        workers = orphans.len(),
        silent = silent.len(),
        "taking over the workers of the supervisor before this one"
    );
    let fleet = Fleet::adopt(os::now(), census, Patience::default());
    // A helper of the dead supervisor has died with it, perhaps in the middle of a task.
    let helpers = Helpers::new(
        memory.participant(Fleet::aux_wanted(config.workers.count)),
        true,
    );
    let ours = snapshots::claim(&ground.state);
    let mut snapshots = Snapshots::new(ground.state.clone(), ours, config.memory.snapshot, false);
    snapshots.go_on_from_file(config.memory.snapshot);
    let parts = Parts {
        config,
        memory,
        doorbells,
        listeners,
        fleet,
        adopt,
        left: Some(Left {
            config_file,
            config_version: config_version.max(head.config_version),
            next_listener,
        }),
        helpers,
        snapshots,
        tables,
    };
    let mut supervisor = Supervisor::new(ground, parts)?;
    supervisor.take_in(config_version, orphans, silent, extras)?;
    Ok(supervisor)
}

fn read_config(fd: &OwnedFd) -> io::Result<Config> {
    let file = File::from(fd.try_clone()?);
    let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if bytes > control::codec::CONFIG_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; bytes];
    file.read_exact_at(&mut frame, 0)?;
    Config::decode(&frame).map_err(io::Error::other)
}

/// The listeners of the configuration, in which the ports as asked for come back, and those that are not of it.
fn sort_listeners(
    config: &mut Config,
    sockets: Vec<Sockets>,
    next: u32,
) -> Result<(Vec<Listener>, Vec<Listener>, u32), Trouble> {
    let (mut listeners, mut extras) = (Vec::new(), Vec::new());
    let mut next = sockets
        .iter()
        .map(|found| found.id + 1)
        .fold(next, u32::max);
    let slots = config.slots();
    let mut left = sockets;
    for listen in &mut config.listen {
        let Some(at) = left
            .iter()
            .position(|found| found.address == listen.address)
        else {
            tracing::error!(address = %listen.address, "no worker has the sockets of this listener: they are opened anew");
            listeners.push(Listener::open(next, listen, slots)?);
            next += 1;
            continue;
        };
        let found = left.remove(at);
        let asked = found.asked;
        let bound = listen.clone();
        listeners.push(Listener::adopted(found.id, asked, bound, found.fds));
        listen.address = asked;
    }
    for found in left {
        let listen = Listen {
            address: found.address,
            ..config
                .listen
                .first()
                .cloned()
                .ok_or_else(|| Trouble::new("the workers' configuration has no listener", ""))?
        };
        extras.push(Listener::adopted(found.id, found.asked, listen, found.fds));
    }
    Ok((listeners, extras, next))
}

/// How those who live stand, by participant.
fn states_of(
    config: &Config,
    memory: &Memory,
    orphans: &[Orphan],
    silent: &[Living],
) -> BTreeMap<u16, (ProcessId, State)> {
    let reactors = config.workers.reactors;
    let mut states = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for orphan in orphans {
        let Some(line) = orphan.line(memory) else {
            continue;
        };
        let seat = orphan.place.filter(|seat| *seat < config.workers.count);
        let state = match seat {
            None => State::Spare,
            Some(seat) if !taken.insert(seat) => State::Leaving(None),
            Some(seat) => {
                let mut slots = seat * reactors..(seat + 1) * reactors;
                if slots.all(|slot| orphan.serving.contains(&slot)) {
                    State::Serving(seat)
                } else {
                    State::Assigned(seat)
                }
            }
        };
        states.insert(line, (orphan.process, state));
    }
    for living in silent {
        let seat = match living.entry.place {
            Place::Assigned(seat) | Place::Serving(seat) => Some(u16::from(seat)),
            Place::Leaving(seat) => seat.map(u16::from),
            Place::Never | Place::Starting | Place::Spare | Place::Gone => None,
        };
        let seat = seat.filter(|seat| *seat < config.workers.count && taken.insert(*seat));
        let state = State::Leaving(seat);
        states.insert(living.aux, (ProcessId(living.entry.process), state));
    }
    states
}

impl Supervisor {
    /// Makes the orphans ours. Nothing can fail halfway: one that can't be told is dying, and its pidfd will say so.
    fn take_in(
        &mut self,
        newest: u64,
        orphans: Vec<Orphan>,
        silent: Vec<Living>,
        extras: Vec<Listener>,
    ) -> Result<(), Trouble> {
        let unwatched =
            |error: io::Error| Trouble::new(format!("workers can't be watched: {error}"), "");
        let ours: BTreeSet<u32> = self.listeners.iter().map(|listener| listener.id).collect();
        let (mut waiting, mut strays) = (BTreeSet::new(), BTreeSet::new());
        for orphan in orphans {
            let id = orphan.process;
            tracing::debug!(pid = orphan.pid, process = id.0, "adopted");
            // Best effort, as for the workers that we start.
            let _ = setsockopt(&orphan.connection, sockopt::SndBuf, &CHANNEL_BYTES);
            os::block_for(orphan.connection.as_fd(), None).map_err(unwatched)?;
            os::never_block(orphan.connection.as_fd()).map_err(unwatched)?;
            let link = Link {
                pid: orphan.pid,
                pidfd: orphan.pidfd,
                channel: orphan.connection,
                serving: orphan.serving,
                ear: Ear::default(),
            };
            self.watch(link.pidfd.as_fd(), Token::Death(id))
                .map_err(unwatched)?;
            self.watch(link.channel.as_fd(), Token::Channel(id))
                .map_err(unwatched)?;
            let sent = link.send(&ToWorker::Adopt, &[]).and_then(|()| {
                self.listeners
                    .iter()
                    .filter(|listener| !orphan.listeners.contains(&listener.id))
                    .try_for_each(|listener| link.send_listener(listener))?;
                if orphan.config_version == newest {
                    return Ok(());
                }
                waiting.insert(id);
                link.send_tables(&self.tables)?;
                let version = self.config_version;
                link.send(&ToWorker::Config { version }, &[self.config_file.as_fd()])
            });
            strays.extend(orphan.listeners.difference(&ours));
            self.links.adopt(id, link);
            failpoint!("supervisor.adopt.one_told");
            if let Err(error) = sent {
                waiting.remove(&id);
                self.unsent(id, &error);
            }
        }
        for living in silent {
            let id = ProcessId(living.entry.process);
            tracing::warn!(
                pid = living.pid,
                "a worker does not answer its new supervisor and is replaced"
            );
            let link = mute(living.pid, living.pidfd).map_err(unwatched)?;
            self.watch(link.pidfd.as_fd(), Token::Death(id))
                .map_err(unwatched)?;
            self.links.adopt(id, link);
        }
        failpoint!("supervisor.adopt.all_told");
        self.finish_for_predecessor(waiting, extras, strays);
        Ok(())
    }
}

/// A process that we can only kill and see die.
fn mute(pid: u32, pidfd: OwnedFd) -> io::Result<Link> {
    let (channel, _closed) = os::seqpacket_pair()?;
    os::never_block(channel.as_fd())?;
    Ok(Link {
        pid,
        pidfd,
        channel,
        serving: BTreeSet::new(),
        ear: Ear::default(),
    })
}
