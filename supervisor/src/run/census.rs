//! The fleet's journal in the arena, written and read: what a supervisor is about to do to its processes, and what the next one makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use shm::{Directory, Entry, Place};
use stdx::Instant;

use super::fleet::{Census, Fleet, Found, ProcessId, State};
use super::memory::Memory;

/// A process of the directory that lives.
#[derive(Debug)]
pub(crate) struct Living {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) aux: u16,
    pub(crate) entry: Entry,
}

/// Writes down how every process stands. To be done after the fleet's machine has decided and before it is acted upon.
pub(crate) fn write(directory: Directory<'_>, fleet: &Fleet, now: Instant) {
    let mut in_use = BTreeSet::new();
    for (ProcessId(id), process) in fleet.processes() {
        in_use.insert(process.aux);
        match process.state {
            State::Starting if !is_of(&directory.entry(process.aux), id) => {
                directory.expect(process.aux, id, now.as_nanos());
            }
            state => {
                if let Some(place) = place_of(state) {
                    directory.set(process.aux, id, place);
                }
            }
        }
    }
    for aux in fleet.aux_dead().filter(|aux| !in_use.contains(aux)) {
        let entry = directory.entry(aux);
        if !matches!(entry.place, Place::Never | Place::Gone) {
            directory.set(aux, entry.process, Place::Gone);
        }
    }
}

fn is_of(entry: &Entry, process: u32) -> bool {
    entry.process == process && entry.place != Place::Never
}

fn place_of(state: State) -> Option<Place> {
    let seat = |seat: u16| u8::try_from(seat).ok();
    match state {
        // Whether it has attached is for the process to say.
        State::Starting => None,
        State::Spare => Some(Place::Spare),
        State::Assigned(number) => seat(number).map(Place::Assigned),
        // Who stands by says so itself when it is asked.
        State::Serving(number) | State::Halting(number) | State::Halted(number) => {
            seat(number).map(Place::Serving)
        }
        State::Leaving(number) => Some(Place::Leaving(number.and_then(seat))),
    }
}

/// Who of the directory lives: a pidfd, and the start time that goes with it.
pub(crate) fn living(directory: Directory<'_>, aux_count: u16) -> Vec<Living> {
    (0..aux_count.min(directory.len()))
        .filter_map(|aux| {
            let entry = directory.entry(aux);
            if entry.pid == 0 || matches!(entry.place, Place::Never | Place::Gone) {
                return None;
            }
            let pidfd = os::pidfd_open(entry.pid).ok()?;
            // Asked while the pidfd is held: the number cannot change its owner in between and go unnoticed.
            let start = os::start_ticks(entry.pid).ok();
            let same = entry.start_ticks.is_none() || entry.start_ticks == start;
            let dead = os::is_dead(std::os::fd::AsFd::as_fd(&pidfd)).unwrap_or(true);
            (same && !dead).then_some(Living {
                pid: entry.pid,
                pidfd,
                aux,
                entry,
            })
        })
        .collect()
}

/// What is found of a fleet: `states` of those that live, by participant.
pub(crate) fn take(
    memory: &Memory,
    seats: u16,
    reactors: u16,
    states: &BTreeMap<u16, (ProcessId, State)>,
) -> Census {
    let directory = memory.directory();
    let aux_count = Fleet::aux_wanted(seats).min(directory.len());
    let mut census = Census::default();
    for aux in 0..aux_count {
        let entry = directory.entry(aux);
        if entry.place == Place::Never {
            census.aux_fresh.insert(aux);
            continue;
        }
        census.next = census.next.max(entry.process + 1);
        match states.get(&aux) {
            Some(&(process, state)) => census.processes.push(Found {
                process,
                aux,
                state,
                started_at: Instant::from_nanos(entry.started_ns),
            }),
            None => {
                // Not attached and not known to be started: taken from it, see `Directory::attach`.
                if entry.place == Place::Starting {
                    directory.set(aux, entry.process, Place::Gone);
                }
                census.aux_dead.insert(aux);
            }
        }
    }
    census.seats = (0..seats)
        .map(|seat| memory.seat_record(seat * reactors))
        .collect();
    census.all_served = (0..seats * reactors).all(|slot| memory.was_served(slot));
    census
}

#[cfg(test)]
mod tests {
    use super::super::fleet::{Input, Patience};
    use super::*;

    fn memory() -> Memory {
        let (mut config, _) = config::load(config::DEFAULT, config::DEFAULT_NAME).unwrap();
        config.workers.count = 2;
        config.workers.reactors = 1;
        config.memory.limit = 64 << 20;
        Memory::create(&config, Fleet::aux_wanted(2)).unwrap()
    }

    #[test]
    fn the_next_supervisor_reads_what_the_last_one_wrote() {
        let memory = memory();
        let directory = memory.directory();
        let mut fleet = Fleet::new(2, Fleet::aux_wanted(2), Patience::default());
        let mut out = Vec::new();
        let now = Instant::from_nanos(5);
        let mut feed = |fleet: &mut Fleet, input| {
            fleet.step(now, input, &mut out);
            write(directory, fleet, now);
        };
        feed(&mut fleet, Input::Tick);
        // Ourselves stand for worker 0; the two others are nobody.
        let me = std::process::id();
        let start = os::start_ticks(me).unwrap();
        assert!(directory.attach(0, 0, me, start));
        assert!(directory.attach(1, 1, 4_000_000, 1));
        (0..2).for_each(|id| feed(&mut fleet, Input::Ready(ProcessId(id))));
        memory.hand_on(0, None, None);
        feed(&mut fleet, Input::Serving(ProcessId(0)));
        assert_eq!(directory.entry(0).place, Place::Serving(0));
        assert_eq!(directory.entry(1).place, Place::Assigned(1));
        assert_eq!(directory.entry(2).place, Place::Starting);

        let found = living(directory, 3);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pid, found[0].aux), (me, 0));
        let states = BTreeMap::from([(0, (ProcessId(0), State::Serving(0)))]);
        let census = take(&memory, 2, 1, &states);
        assert_eq!(census.next, 3);
        assert_eq!(census.aux_dead, BTreeSet::from([1, 2]));
        assert!(census.seats[0].used && !census.seats[1].used && !census.all_served);
        assert!(!directory.attach(2, 2, 7, 7), "given up");
    }

    #[test]
    fn a_number_that_another_process_has_is_no_proof_of_life() {
        let memory = memory();
        let directory = memory.directory();
        let me = std::process::id();
        directory.expect(0, 0, 0);
        assert!(directory.attach(0, 0, me, os::start_ticks(me).unwrap() + 1));
        assert!(living(directory, 3).is_empty());
    }
}
