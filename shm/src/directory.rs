//! The process directory: which processes there are, kept where it outlives the supervisor that started them.
//!
//! One line for each control-thread participant. It is the journal of the supervisor's fleet: what it is about to do to a process is
//! stored before it is done, so that a later supervisor (the next `tandem run`, or the same one after its exec) knows whom to expect, which
//! seats have an owner, and who died while nobody watched. A pid here proves nothing; a pidfd with the same start time does.
//!
//! ```text
//! word 0: process id (30) | pid (22) | seat + 1 (8) | state (4)     word 1: start time (48) | low bits of the process id (16)
//! ```
//!
//! | writer | step | what a successor sees after a death here |
//! |---|---|---|
//! | supervisor | `expect`: STARTING without a pid, before the fork | perhaps a process, perhaps none: the line is taken for another process id, and [`Directory::attach`] of the old one fails |
//! | supervisor | `note_start`: its pid, after the fork | a process that it can watch |
//! | worker | [`Directory::attach`]: CAS STARTING → SPARE, before anything else in the arena | as above; **linearization point**: from here on the participant may be in use |
//! | supervisor | `set`: ASSIGNED, LEAVING, before the message is sent | a process that has the seat, or is a spare and will say so |
//! | supervisor | `set`: GONE, after the proof of the death | nothing to wait for; the participant is to be recovered |
//!
//! Progress: every operation is one store or one bounded CAS. A start time belongs to a line only if its low bits name the same process: a
//! process that was overtaken may have stored its own over a later one's, and then none is known.

use sync::Ordering;

use crate::arena::Arena;

/// Bytes of a line; the first one is the head.
pub(crate) const LINE_BYTES: u64 = 128;

const STATE_BITS: u32 = 4;
const SEAT_BITS: u32 = 8;
const PID_BITS: u32 = 22;
const ID_BITS: u32 = 30;
const _: () = assert!(STATE_BITS + SEAT_BITS + PID_BITS + ID_BITS == 64);

const AT_WHO: u64 = 0;
const AT_START: u64 = 8;
const AT_STARTED_NS: u64 = 16;
/// Words of the head.
const AT_CONFIG_VERSION: u64 = 0;
const AT_NEXT_LISTENER: u64 = 8;

/// How far a process has come, as far as the directory tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody was ever here.
    Never,
    /// About to be started, or not attached yet.
    Starting,
    /// Attached, without a seat.
    Spare,
    /// Was given the slots of this seat.
    Assigned(u8),
    /// Serves them.
    Serving(u8),
    /// Was told to hand them over, if it had any.
    Leaving(Option<u8>),
    /// Dead, and known to be.
    Gone,
}

/// One line, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts the processes of this arena; below 2^30.
    pub process: u32,
    /// 0: not known.
    pub pid: u32,
    /// When the process started, in the kernel's ticks; `None`: not known.
    pub start_ticks: Option<u64>,
    /// How far it has come.
    pub place: Place,
    /// When it was started. Unit: ns of CLOCK_MONOTONIC.
    pub started_ns: u64,
}

/// What the head tells: numbers that are never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The newest configuration.
    pub config_version: u64,
    /// The id of the next listener.
    pub next_listener: u32,
}

/// The directory of an arena.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    arena: &'a Arena,
}

impl Arena {
    /// The process directory.
    pub fn directory(&self) -> Directory<'_> {
        Directory { arena: self }
    }
}

impl<'a> Directory<'a> {
    /// Lines: one for each control-thread participant.
    pub fn len(&self) -> u16 {
        self.arena.layout().aux
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn word(&self, aux: u16, at: u64) -> &'a sync::AtomicU64 {
        assert!(aux < self.len(), "a control thread of this arena");
        let line = self.arena.0.geometry.directory + (u64::from(aux) + 1) * LINE_BYTES;
        self.arena.0.map.word(line + at)
    }

    fn head_word(&self, at: u64) -> &'a sync::AtomicU64 {
        self.arena.0.map.word(self.arena.0.geometry.directory + at)
    }

    /// What the head tells.
    pub fn head(&self) -> Head {
        // Relaxed, here and in `set_head`: the supervisor alone reads and writes it, one after the other.
        Head {
            config_version: self.head_word(AT_CONFIG_VERSION).load(Ordering::Relaxed),
            next_listener: self.head_word(AT_NEXT_LISTENER).load(Ordering::Relaxed) as u32,
        }
    }

    /// For the supervisor alone.
    pub fn set_head(&self, head: Head) {
        self.head_word(AT_CONFIG_VERSION)
            .store(head.config_version, Ordering::Relaxed);
        self.head_word(AT_NEXT_LISTENER)
            .store(u64::from(head.next_listener), Ordering::Relaxed);
    }

    /// One line.
    ///
    /// # Panics
    /// If the arena has no such control thread, as everywhere below.
    pub fn entry(&self, aux: u16) -> Entry {
        // SYNC directory: Acquire, so that the start time of whoever attached is there; pairs with `attach`.
        let who = Who::unpack(self.word(aux, AT_WHO).load(Ordering::Acquire));
        let start = self.word(aux, AT_START).load(Ordering::Relaxed);
        Entry {
            process: who.process,
            pid: who.pid,
            start_ticks: (who.pid != 0 && start & 0xffff == u64::from(who.process) & 0xffff)
                .then_some(start >> 16),
            place: who.place,
            started_ns: self.word(aux, AT_STARTED_NS).load(Ordering::Relaxed),
        }
    }

    /// The supervisor is about to start this process with this participant. From now on no earlier one can attach.
    pub fn expect(&self, aux: u16, process: u32, now_ns: u64) {
        self.word(aux, AT_STARTED_NS)
            .store(now_ns, Ordering::Relaxed);
        let who = Who {
            process,
            pid: 0,
            place: Place::Starting,
        };
        self.word(aux, AT_WHO).store(who.pack(), Ordering::Release);
    }

    /// The supervisor has started it.
    pub fn note_start(&self, aux: u16, process: u32, pid: u32, start_ticks: u64) {
        self.store_start(aux, process, start_ticks);
        self.change(aux, |who| {
            (who.process == process & ID_MASK && who.place == Place::Starting && who.pid == 0)
                .then_some(Who { pid, ..who })
        });
    }

    /// The process itself, before it does anything else in the arena. False: it is not wanted any more and must leave.
    pub fn attach(&self, aux: u16, process: u32, pid: u32, start_ticks: u64) -> bool {
        let wanted = |who: &Who| {
            who.process == process & ID_MASK
                && who.place == Place::Starting
                && (who.pid == 0 || who.pid == pid)
        };
        if !wanted(&Who::unpack(self.word(aux, AT_WHO).load(Ordering::Acquire))) {
            return false;
        }
        self.store_start(aux, process, start_ticks);
        self.change(aux, |who| {
            wanted(&who).then_some(Who {
                pid,
                place: Place::Spare,
                ..who
            })
        })
    }

    /// The supervisor notes how far the process has come, or is about to be sent. Nothing for another process's line.
    pub fn set(&self, aux: u16, process: u32, place: Place) {
        self.change(aux, |who| {
            (who.process == process & ID_MASK && who.place != place).then_some(Who { place, ..who })
        });
    }

    fn store_start(&self, aux: u16, process: u32, start_ticks: u64) {
        let word = start_ticks << 16 | u64::from(process) & 0xffff;
        // Relaxed: published by the change of word 0 that follows.
        self.word(aux, AT_START).store(word, Ordering::Relaxed);
    }

    fn change(&self, aux: u16, next: impl Fn(Who) -> Option<Who>) -> bool {
        let word = self.word(aux, AT_WHO);
        let mut seen = word.load(Ordering::Acquire);
        // Two writers at most, each with one change at hand: the second try is the last.
        while let Some(who) = next(Who::unpack(seen)) {
            // SYNC directory: Release, see `entry`.
            match word.compare_exchange(seen, who.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }
}

/// Word 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Who {
    process: u32,
    pid: u32,
    place: Place,
}

const ID_MASK: u32 = (1 << ID_BITS) - 1;
const PID_MASK: u32 = (1 << PID_BITS) - 1;

impl Who {
    fn pack(self) -> u64 {
        let (state, seat) = match self.place {
            Place::Never => (0, None),
            Place::Starting => (1, None),
            Place::Spare => (2, None),
            Place::Assigned(seat) => (3, Some(seat)),
            Place::Serving(seat) => (4, Some(seat)),
            Place::Leaving(seat) => (5, seat),
            Place::Gone => (6, None),
        };
        let seat = seat.map_or(0, |seat| u64::from(seat.min(254)) + 1);
        u64::from(self.process & ID_MASK) << (64 - ID_BITS)
            | u64::from(self.pid & PID_MASK) << (STATE_BITS + SEAT_BITS)
            | seat << STATE_BITS
            | state
    }

    /// Any word is safe to try: one that nobody writes names a process that is gone.
    fn unpack(word: u64) -> Self {
        let seat = (word >> STATE_BITS & ((1 << SEAT_BITS) - 1)) as u8;
        let place = match (word & ((1 << STATE_BITS) - 1), seat.checked_sub(1)) {
            (0, _) => Place::Never,
            (1, _) => Place::Starting,
            (2, _) => Place::Spare,
            (3, Some(seat)) => Place::Assigned(seat),
            (4, Some(seat)) => Place::Serving(seat),
            (5, seat) => Place::Leaving(seat),
            _ => Place::Gone,
        };
        Self {
            process: (word >> (64 - ID_BITS)) as u32,
            pid: (word >> (STATE_BITS + SEAT_BITS)) as u32 & PID_MASK,
            place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    fn arena() -> Arena {
        let mut layout = Layout::new(0, 2, 3, 2);
        layout.limit = layout.least_limit();
        Arena::heap(&layout, [7; 16]).unwrap()
    }

    #[test]
    fn a_process_from_its_start_to_its_end() {
        let arena = arena();
        let directory = arena.directory();
        assert_eq!(
            (directory.len(), directory.entry(2).place),
            (3, Place::Never)
        );
        directory.expect(2, 70_000, 9);
        let entry = directory.entry(2);
        assert_eq!(
            (
                entry.process,
                entry.pid,
                entry.start_ticks,
                entry.place,
                entry.started_ns
            ),
            (70_000, 0, None, Place::Starting, 9)
        );
        directory.note_start(2, 70_000, 41, 1000);
        assert_eq!(directory.entry(2).start_ticks, Some(1000));
        assert!(directory.attach(2, 70_000, 41, 1000));
        for place in [
            Place::Spare,
            Place::Assigned(0),
            Place::Serving(127),
            Place::Leaving(Some(0)),
            Place::Leaving(None),
            Place::Gone,
        ] {
            directory.set(2, 70_000, place);
            let entry = directory.entry(2);
            assert_eq!((entry.pid, entry.place), (41, place));
        }
        assert_eq!(directory.entry(1).place, Place::Never);
    }

    #[test]
    fn the_process_may_be_faster_than_its_supervisor() {
        let arena = arena();
        let directory = arena.directory();
        directory.expect(0, 1, 0);
        assert!(directory.attach(0, 1, 5, 6));
        directory.note_start(0, 1, 5, 6);
        assert_eq!(
            (directory.entry(0).place, directory.entry(0).pid),
            (Place::Spare, 5)
        );
        assert!(!directory.attach(0, 1, 5, 6), "once");
    }

    #[test]
    fn one_that_was_given_up_cannot_attach() {
        let arena = arena();
        let directory = arena.directory();
        directory.expect(0, 1, 0);
        directory.expect(0, 2, 0);
        assert!(!directory.attach(0, 1, 5, 6));
        directory.set(0, 1, Place::Gone);
        assert!(directory.attach(0, 2, 7, 8));
        assert_eq!(directory.entry(0).place, Place::Spare);
        // The loser's last store: no start time is better than a wrong one.
        directory.store_start(0, 1, 99);
        assert_eq!(directory.entry(0).start_ticks, None);
    }

    #[test]
    fn any_word_is_safe_to_read() {
        for word in [0, u64::MAX, 0xf, 3, 4, 1 << 63] {
            let who = Who::unpack(word);
            assert_eq!(Who::unpack(who.pack()).place, who.place, "{word:#x}");
        }
        assert_eq!(Who::unpack(u64::MAX).place, Place::Gone);
    }

    #[test]
    fn the_head_keeps_what_is_never_used_twice() {
        let arena = arena();
        assert_eq!(arena.directory().head(), Head::default());
        let head = Head {
            config_version: 5,
            next_listener: 3,
        };
        arena.directory().set_head(head);
        assert_eq!(arena.directory().head(), head);
        assert_eq!(arena.directory().entry(0).place, Place::Never);
    }
}
