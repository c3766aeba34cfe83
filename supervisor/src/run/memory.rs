//! The arena as the supervisor sees it: made here, sealed, lent to workers; no table body is ever read.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use config::Config;
use control::{ArenaStatus, ClassStatus, LatencyStatus, Secret, StatLine, TableStatus};
use nix::errno::Errno;
use shm::{
    Arena, AttachError, CreateError, Directory, HugePages, Layout, LayoutError, Paging, SlotHeader,
    SlotId,
};
use stdx::Instant;
use sync::Ordering;
use tables::{Counter, DIALOG, LOCATION, TRANSACTION};

use super::cause::Cause;
use super::census;
use super::fleet::{Fleet, ProcessId, SeatRecord};
use super::trouble::Trouble;
use crate::about::ArenaNumbers;
use crate::size::size;

#[derive(Debug)]
pub(crate) struct Memory {
    /// With `foreign`: the arena before that, whose figures are the last that we have.
    arena: Arena,
    slots: u16,
    /// Control and data memfd of an arena that another program laid out: lent to its workers, and closed to us.
    foreign: Option<(OwnedFd, OwnedFd)>,
}

/// What a slot tells of itself. Times are ns of the monotonic clock; `None` is "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotFigures {
    pub(crate) messages: u64,
    pub(crate) core: Option<u16>,
    pub(crate) died_ns: Option<u64>,
    pub(crate) recovered_ns: Option<u64>,
    pub(crate) first_served_ns: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryUsage {
    pub(crate) arena: ArenaStatus,
    pub(crate) registrations: u64,
    pub(crate) dialogs: u64,
    /// Records of calls that wait.
    pub(crate) cdrs: u64,
    pub(crate) transactions: u64,
}

impl Memory {
    /// A new arena has a new key: a branch, a nonce or a tag of an earlier one means nothing in it.
    pub(crate) fn create(config: &Config, aux: u16) -> Result<Self, Trouble> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(|error| {
            Trouble::new(format!("the kernel gives no random bytes: {error}"), "")
        })?;
        let layout = ArenaNumbers {
            limit: config.memory.limit,
            slots: config.slots(),
            aux,
        }
        .layout();
        let huge = match config.memory.huge_pages {
            config::HugePages::Off => HugePages::Off,
            config::HugePages::Auto => HugePages::Auto,
            config::HugePages::Required => HugePages::Required,
        };
        let arena =
            Arena::create_paged(&layout, seed, huge).map_err(|error| explain(&layout, error))?;
        Ok(Self {
            arena,
            slots: config.slots(),
            foreign: None,
        })
    }

    /// An arena that has taken the place of this one, and that we can't read.
    pub(crate) fn foreign(&self, control: OwnedFd, data: OwnedFd) -> Self {
        Self {
            arena: self.arena.clone(),
            slots: self.slots,
            foreign: Some((control, data)),
        }
    }

    /// Whether we can't read it.
    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    /// The key of all hashes.
    pub(crate) fn key(&self) -> Secret {
        Secret(self.arena.key().0)
    }

    /// Live records of all tables, counted now.
    pub(crate) fn records(&self) -> u64 {
        self.arena
            .usage()
            .tables
            .iter()
            .map(|table| table.live)
            .sum()
    }

    /// What another program has to lay out in the same way.
    pub(crate) fn numbers(&self) -> ArenaNumbers {
        let layout = self.arena.layout();
        ArenaNumbers {
            limit: layout.limit,
            slots: layout.slots,
            aux: layout.aux,
        }
    }

    pub(crate) fn layout_hash(&self) -> u64 {
        self.arena.layout().hash().unwrap_or(0)
    }

    /// When a slot last ran a turn.
    pub(crate) fn heartbeat(&self, slot: u16) -> Instant {
        Instant::from_nanos(self.heartbeat_ns(slot))
    }

    /// Control and data memfd.
    pub(crate) fn files(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        if let Some((control, data)) = &self.foreign {
            return Some((control.as_fd(), data.as_fd()));
        }
        self.arena.fds()
    }

    /// Participant id of the `aux`th control thread: they follow the slots.
    pub(crate) fn participant(&self, aux: u16) -> u16 {
        self.slots + aux
    }

    /// An arena that somebody else made as we would: a supervisor that died, or a helper.
    pub(crate) fn adopt(control: OwnedFd, data: OwnedFd) -> Result<Self, AttachError> {
        let arena = Arena::attach(control, data)?;
        let slots = arena.layout().slots;
        Ok(Self {
            arena,
            slots,
            foreign: None,
        })
    }

    /// Slots, and bytes that it may grow to.
    pub(crate) fn layout(&self) -> &Layout {
        self.arena.layout()
    }

    /// Writes down how every process of its fleet stands; in another program's arena the processes do it themselves, as far as needed.
    pub(crate) fn note_fleet(&self, fleet: &Fleet, now: Instant) {
        if self.foreign.is_none() {
            census::write(self.directory(), fleet, now);
        }
    }

    /// Leaves in the arena what a later supervisor must not use again.
    pub(crate) fn note_numbers(&self, config_version: u64, next_listener: u32) {
        if self.foreign.is_none() {
            self.directory().set_head(shm::Head {
                config_version,
                next_listener,
            });
        }
    }

    pub(crate) fn note_start(&self, aux: u16, id: ProcessId, pid: u32, start_ticks: u64) {
        if self.foreign.is_none() {
            self.directory().note_start(aux, id.0, pid, start_ticks);
        }
    }

    pub(crate) fn directory(&self) -> Directory<'_> {
        self.arena.directory()
    }

    /// What the first slot of a seat tells of it.
    pub(crate) fn seat_record(&self, slot: u16) -> SeatRecord {
        let header = self.slot(slot);
        // Relaxed: whoever wrote it is dead.
        SeatRecord {
            used: header.incarnation.load(Ordering::Relaxed) > 0,
            restarts: header.restarts.load(Ordering::Relaxed),
            last_exit: Cause::unpack(header.last_exit.load(Ordering::Relaxed)),
        }
    }

    /// Whether some process has come as far as serving this slot.
    pub(crate) fn was_served(&self, slot: u16) -> bool {
        self.slot(slot).recovered_ns.load(Ordering::Relaxed) > 0
    }

    /// Notes, before a process gets the slot, that it is another one, when its predecessor died, and how.
    pub(crate) fn hand_on(&self, slot: u16, death: Option<Instant>, cause: Option<Cause>) {
        let header = self.slot(slot);
        // Relaxed, here and below: figures for people; the message that gives the slot away orders everything.
        header.incarnation.fetch_add(1, Ordering::Relaxed);
        if let Some(death) = death {
            header.death_ns.store(death.as_nanos(), Ordering::Relaxed);
            header.restarts.fetch_add(1, Ordering::Relaxed);
            header
                .last_exit
                .store(cause.map_or(0, Cause::pack), Ordering::Relaxed);
        }
    }

    /// Moves whenever the slot runs a turn.
    pub(crate) fn heartbeat_ns(&self, slot: u16) -> u64 {
        if self.foreign.is_some() {
            // Nobody is accused on account of what we can't see.
            return os::now().as_nanos();
        }
        self.slot(slot).heartbeat_ns.load(Ordering::Relaxed)
    }

    /// Notes that this slot's thread is why its process has to go.
    pub(crate) fn blame(&self, slot: u16) {
        self.slot(slot).blamed.store(1, Ordering::Relaxed);
    }

    pub(crate) fn figures(&self, slot: u16) -> SlotFigures {
        let header = self.slot(slot);
        let load =
            |word: &sync::AtomicU64| Some(word.load(Ordering::Relaxed)).filter(|value| *value > 0);
        let died_ns = load(&header.death_ns);
        // What is older than the death is the predecessor's.
        let since =
            |value: Option<u64>| value.filter(|value| died_ns.is_some_and(|died| *value >= died));
        SlotFigures {
            messages: header.messages.load(Ordering::Relaxed),
            core: load(&header.core).and_then(|core| u16::try_from(core - 1).ok()),
            died_ns,
            recovered_ns: since(load(&header.recovered_ns)),
            first_served_ns: since(load(&header.first_served_ns)),
        }
    }

    /// What the arena is made of, slabs that nobody has taken, and how many are backed of all.
    pub(crate) fn slabs(&self) -> (Paging, u32, (u32, u32)) {
        (
            self.arena.paging(),
            self.arena.slabs_free_hint(),
            self.arena.slabs_backed(),
        )
    }

    pub(crate) fn latency(&self, slot: u16) -> LatencyStatus {
        let read = self.arena.latency(SlotId(slot)).read();
        let us = |took: std::time::Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        LatencyStatus {
            messages: read.count(),
            p50_us: us(read.below(500_000)),
            p99_us: us(read.below(990_000)),
            p999_us: us(read.below(999_000)),
            max_us: us(read.below(1_000_000)),
            buckets_us: read.buckets().map(|(end, n)| (us(end), n)).collect(),
        }
    }

    /// A counter of all participants.
    pub(crate) fn counter(&self, counter: tables::Counter) -> u64 {
        self.arena.counters().total(counter.cell())
    }

    /// Counted now: milliseconds for a full arena, so only when somebody asks.
    pub(crate) fn usage(&self) -> MemoryUsage {
        let usage = self.arena.usage();
        let rows = |table: shm::TableId| {
            let table = usage.tables.get(usize::from(table.0));
            table.map_or(0, |table| table.live)
        };
        let tables = (0..).zip(&usage.tables).map(|(id, table)| TableStatus {
            name: tables::name(shm::TableId(id))
                .unwrap_or("unknown")
                .to_owned(),
            records: table.live,
            bytes: table.bytes(),
        });
        let classes = usage.blocks.iter().map(|&(bytes, used)| ClassStatus {
            bytes: bytes.into(),
            used,
        });
        MemoryUsage {
            registrations: rows(LOCATION),
            dialogs: rows(DIALOG),
            cdrs: rows(tables::CDR),
            transactions: rows(TRANSACTION),
            arena: ArenaStatus {
                bytes_used: usage.bytes_used,
                bytes_mapped: usage.bytes_mapped,
                limit: usage.limit,
                pages: self.arena.paging().name().to_owned(),
                bytes_huge: match self.arena.paging() {
                    Paging::Reserved | Paging::Advised => usage.bytes_mapped,
                    // As `pages` has seen to it.
                    Paging::Small | Paging::Collapsed => 0,
                },
                tables: tables.collect(),
                classes: classes.collect(),
            },
        }
    }

    /// Adds to a counter in the helpers' cells, which helpers leave to us.
    pub(crate) fn count_for_helpers(&self, counter: Counter, by: u64) {
        let last = shm::ParticipantId(self.arena.participants() - 1);
        if let Some(cell) = self.arena.counters().cell(last, counter.cell()) {
            // Relaxed: a counter orders nothing, and has one writer.
            cell.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Every counter whose name contains `pattern`.
    pub(crate) fn counters(&self, pattern: Option<&str>) -> Vec<StatLine> {
        let cells = self.arena.counters();
        Counter::ALL
            .iter()
            .filter(|counter| pattern.is_none_or(|pattern| counter.name().contains(pattern)))
            .map(|counter| StatLine {
                name: counter.name().to_owned(),
                value: cells.total(counter.cell()),
                description: counter.description().to_owned(),
            })
            .collect()
    }

    fn slot(&self, slot: u16) -> &SlotHeader {
        self.arena.slot(SlotId(slot))
    }
}

fn explain(layout: &Layout, error: CreateError) -> Trouble {
    match error {
        CreateError::Layout(LayoutError::LimitTooSmall { least, slots, .. }) => Trouble::new(
            format!(
                "`memory.limit` is {}; {slots} slots need at least {}",
                size(layout.limit),
                size(least)
            ),
            "raise `memory.limit`, or run fewer workers or reactors",
        ),
        CreateError::Os {
            what,
            errno: errno @ (Errno::ENOMEM | Errno::ENOSPC),
        } => Trouble::new(
            format!(
                "the kernel has not enough memory to {what} the arena of {}: {errno}",
                size(layout.limit)
            ),
            "lower `memory.limit`, or give the machine, container or unit (`MemoryMax=`) more memory",
        ),
        CreateError::Os {
            errno: Errno::EFBIG,
            ..
        } => Trouble::new(
            format!(
                "the arena of {} is above the limit of file sizes, which counts for shared memory too",
                size(layout.limit)
            ),
            "raise that limit (`ulimit -f unlimited`, `LimitFSIZE=infinity` in the unit), or lower `memory.limit`",
        ),
        CreateError::Os {
            errno: Errno::EOPNOTSUPP,
            ..
        } => Trouble::new(
            "`memory.huge_pages` is true, and the kernel gives no huge pages for shared memory",
            format!(
                "set {} aside (`sysctl vm.nr_hugepages={}`), write `advise` to /sys/kernel/mm/transparent_hugepage/shmem_enabled, or choose \"auto\"",
                size(layout.limit),
                layout.limit.div_ceil(2 << 20)
            ),
        ),
        error => Trouble::new(
            error.to_string(),
            "see `memory.limit`, `workers.count` and `workers.reactors`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_tells_its_figures() {
        let (mut config, _) = config::load(config::DEFAULT, config::DEFAULT_NAME).unwrap();
        config.workers.count = 2;
        config.workers.reactors = 1;
        config.memory.limit = 64 << 20;
        let memory = Memory::create(&config, 6).unwrap();
        assert_eq!((memory.participant(0), memory.participant(5)), (2, 7));
        let arena = memory.usage().arena;
        assert_eq!(arena.limit, 64 << 20);
        assert_eq!(arena.tables[0].name, "location");
        assert!(arena.tables.iter().all(|t| t.records + t.bytes == 0));
        assert!(arena.classes.iter().all(|c| c.bytes > 0 && c.used == 0));
        assert!(memory.counters(None).len() > 20);
        assert!(
            memory
                .counters(Some("messages."))
                .iter()
                .all(|line| line.name.contains("messages."))
        );
        assert_eq!(memory.figures(1), SlotFigures::default());
        memory.hand_on(1, None, None);
        memory.hand_on(1, Some(Instant::from_nanos(7)), Some(Cause::Signal(9)));
        assert_eq!(memory.figures(1).died_ns, Some(7));
        let record = memory.seat_record(1);
        assert_eq!((record.used, record.restarts), (true, 1));
        assert_eq!(record.last_exit, Some(Cause::Signal(9)));
        assert!(!memory.was_served(1) && !memory.seat_record(0).used);

        config.memory.limit = 64 << 10;
        let trouble = Memory::create(&config, 6).unwrap_err();
        assert!(
            trouble.cause.contains("`memory.limit` is 64KiB"),
            "{trouble}"
        );
    }
}
