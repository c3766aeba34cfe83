//! The arena as one object: created by the supervisor, attached by workers.
//!
//! Two memory files. *Control* is the superblock: identity, layout, hash key. After the supervisor has mapped it, it is sealed
//! with F_SEAL_FUTURE_WRITE, so that no worker can write it. *Data* is everything else, sealed against any change of length (nobody can cause SIGBUS
//! by truncation) and backed by `fallocate` before use: the fixed regions at creation, slabs by extents, rings on first use. Running out
//! of memory is an error there, not a signal at some later store.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use os::Seals;
use stdx::hash::Key;
use sync::{AtomicU64, Ordering};

use crate::id::{ParticipantId, SlotId, TableId};
use crate::layout::{
    ABI_MAJOR, ABI_MINOR, AT_BACKED, AT_EPOCH, AT_NOTICES, AT_SLABS_FREE, AT_SWITCHES, Geometry,
    Layout, LayoutError, MAGIC, ROW_BYTES,
};
use crate::map::Map;
use crate::paging::{HugePages, Paging};
#[cfg(not(loom))]
use crate::slot::SLOT_BYTES;
use crate::slot::{Cells, SlotHeader};

/// The shared memory of one server. Cloning shares the mapping.
#[derive(Clone)]
pub struct Arena(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) map: Map,
    pub(crate) geometry: Geometry,
    pub(crate) key: Key,
    pub(crate) paging: Paging,
    files: Option<Files>,
}

struct Files {
    control: OwnedFd,
    data: OwnedFd,
    /// The supervisor's writable view of the superblock, or a worker's read-only one.
    _superblock: MmapRaw,
}

/// Why there is no arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The numbers do not fit together.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The kernel refused. ENOMEM or ENOSPC: the host or its container has not got that much memory.
    #[error("cannot {what} the arena's memory: {errno}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// Why an arena cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Not our file.
    #[error("no arena: wrong magic")]
    Magic,
    /// Made by a release with another layout: to be migrated, not attached.
    #[error("the arena has layout {major}.{minor}, this program has {ABI_MAJOR}.{ABI_MINOR}")]
    Version {
        /// Major version of the arena.
        major: u32,
        /// Minor version of the arena.
        minor: u32,
    },
    /// The numbers in the superblock lead to another layout than its hash says.
    #[error("the arena's layout hash is {found:#x}, this program computes {computed:#x}")]
    Hash {
        /// In the superblock.
        found: u64,
        /// From its numbers.
        computed: u64,
    },
    /// The data file has not the length or the seals that the superblock promises.
    #[error("the arena's data file has the wrong length or lacks its seals")]
    Data,
    /// The kernel refused.
    #[error("cannot {what} the arena: {errno}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// Words of the superblock.
mod superblock {
    pub(super) const BYTES: u64 = 4096;
    pub(super) const MAGIC: usize = 0;
    /// Major in the upper half, minor in the lower.
    pub(super) const ABI: usize = 1;
    pub(super) const HASH: usize = 2;
    pub(super) const LIMIT: usize = 3;
    /// slots | aux << 16 | tables << 32 | rx_buffers << 48
    pub(super) const COUNTS: usize = 4;
    pub(super) const RX_BUFFER_BYTES: usize = 5;
    pub(super) const KEY: usize = 6;
    /// How the data file is paged, see `paging`.
    pub(super) const PAGING: usize = 8;
    pub(super) const WORDS: usize = 9;
}

fn errno(e: &io::Error) -> Errno {
    e.raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

impl Arena {
    /// Makes a new arena of small pages. `seed` is the key of all hashes in it; from the kernel's random source, because peers choose what we hash.
    pub fn create(layout: &Layout, seed: [u8; 16]) -> Result<Self, CreateError> {
        Self::create_paged(layout, seed, HugePages::Off)
    }

    /// Makes a new arena, of huge pages if that is asked for and possible; [`Arena::paging`] tells what came of it.
    pub fn create_paged(
        layout: &Layout,
        seed: [u8; 16],
        huge: HugePages,
    ) -> Result<Self, CreateError> {
        let geometry = Geometry::new(layout)?;
        let fail = |what| {
            move |e: io::Error| CreateError::Os {
                what,
                errno: errno(&e),
            }
        };
        let (data, paging) = crate::paging::data_file(
            geometry.end,
            huge,
            Seals::SHRINK.and(Seals::GROW).and(Seals::SEAL),
        )
        .map_err(fail("create"))?;
        let control = os::memfd(
            "tandem-control",
            superblock::BYTES,
            Seals::SHRINK.and(Seals::GROW),
        )
        .map_err(fail("create"))?;
        let page = MmapOptions::new().map_raw(&control).map_err(fail("map"))?;
        let words = superblock_words(&geometry, seed, paging);
        // SAFETY: the page was just made and mapped writable, 4096 bytes long, nobody else has it yet; WORDS * 8 fit.
        unsafe {
            std::ptr::copy_nonoverlapping(words.as_ptr(), page.as_mut_ptr().cast(), words.len())
        };
        os::seal(control.as_fd(), Seals::FUTURE_WRITE.and(Seals::SEAL)).map_err(fail("seal"))?;
        let map = map_data(&data, &geometry, paging).map_err(fail("map"))?;
        let inner = Inner {
            map,
            geometry,
            key: Key(seed),
            paging,
            files: Some(Files {
                control,
                data,
                _superblock: page,
            }),
        };
        for (from, to) in [(0, geometry.rings), (geometry.rx, geometry.metas)] {
            inner
                .back(from, to - from)
                .map_err(|errno| CreateError::Os {
                    what: "reserve",
                    errno,
                })?;
        }
        inner.start();
        Ok(Self(Arc::new(inner)))
    }

    /// An arena on this process's heap, with no file behind it: for Miri and for tests.
    pub fn heap(layout: &Layout, seed: [u8; 16]) -> Result<Self, CreateError> {
        let geometry = Geometry::new(layout)?;
        let map = Map::heap(geometry.end).ok_or(CreateError::Os {
            what: "allocate",
            errno: Errno::ENOMEM,
        })?;
        let inner = Inner {
            map,
            geometry,
            key: Key(seed),
            paging: Paging::Small,
            files: None,
        };
        inner.start();
        Ok(Self(Arc::new(inner)))
    }

    /// Maps an arena that somebody else made, after checking that this program agrees on its layout.
    pub fn attach(control: OwnedFd, data: OwnedFd) -> Result<Self, AttachError> {
        let fail = |what| {
            move |e: io::Error| AttachError::Os {
                what,
                errno: errno(&e),
            }
        };
        let sealed = Seals::SHRINK.and(Seals::GROW);
        for fd in [&control, &data] {
            if !os::seals(fd.as_fd()).map_err(fail("inspect"))?.has(sealed) {
                return Err(AttachError::Data);
            }
        }
        if length(&control).map_err(fail("inspect"))? != superblock::BYTES {
            return Err(AttachError::Magic);
        }
        let page = MmapOptions::new()
            .map_raw_read_only(&control)
            .map_err(fail("map"))?;
        let mut words = [0u64; superblock::WORDS];
        // SAFETY: the page is 4096 bytes long (checked above, and sealed against shrinking); it was written once, before its
        // descriptor was given to anybody.
        unsafe {
            std::ptr::copy_nonoverlapping(
                page.as_mut_ptr().cast_const().cast(),
                words.as_mut_ptr(),
                words.len(),
            )
        };
        let geometry = superblock_geometry(&words)?;
        let paging = Paging::unpack(words[superblock::PAGING]);
        if length(&data).map_err(fail("inspect"))? != paging.file_bytes(geometry.end) {
            return Err(AttachError::Data);
        }
        let map = map_data(&data, &geometry, paging).map_err(fail("map"))?;
        let mut key = [0; 16];
        for (bytes, word) in key.chunks_exact_mut(8).zip(&words[superblock::KEY..]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let files = Some(Files {
            control,
            data,
            _superblock: page,
        });
        Ok(Self(Arc::new(Inner {
            map,
            geometry,
            key: Key(key),
            paging,
            files,
        })))
    }

    /// The control and the data descriptor, to be passed on. `None` for an arena on the heap.
    pub fn fds(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        self.0
            .files
            .as_ref()
            .map(|f| (f.control.as_fd(), f.data.as_fd()))
    }

    /// What the arena was asked to hold.
    pub fn layout(&self) -> &Layout {
        &self.0.geometry.layout
    }

    /// The key of all hashes, drawn when the arena was made.
    pub fn key(&self) -> Key {
        self.0.key
    }

    /// The number of participants: slots, then control threads.
    pub fn participants(&self) -> u16 {
        self.0.geometry.participants
    }

    /// A slot's header.
    ///
    /// # Panics
    /// If the arena has no such slot.
    pub fn slot(&self, slot: SlotId) -> &SlotHeader {
        assert!(slot.0 < self.layout().slots, "a slot of this arena");
        #[cfg(loom)]
        return self.0.map.slot(slot.0);
        #[cfg(not(loom))]
        let at = self.0.map.bytes(
            self.0.geometry.slots + u64::from(slot.0) * SLOT_BYTES,
            SLOT_BYTES,
        );
        // SAFETY: SLOT_BYTES inside the map, aligned to 512; all fields are atomics, any bytes are valid for them, and the map lives as
        // long as `self`.
        #[cfg(not(loom))]
        unsafe {
            at.cast::<SlotHeader>().as_ref()
        }
    }

    /// The counter cells of all participants.
    pub fn counters(&self) -> Cells<'_> {
        Cells { arena: self }
    }

    /// A word that this crate never looks at: raised by whoever has changed something that others keep a copy of, so that they look again.
    #[inline]
    pub fn notices(&self) -> &AtomicU64 {
        self.0.map.word(AT_NOTICES)
    }

    /// A word that this crate never looks at, zero in a new arena: what all participants are to do or to leave.
    #[inline]
    pub fn switches(&self) -> &AtomicU64 {
        self.0.map.word(AT_SWITCHES)
    }

    /// Words that this crate never looks at, zero in a new arena: for notes that every participant may read and change by one CAS. A death leaves
    /// them as they are, and they do not move to another arena.
    #[inline]
    #[cfg(not(loom))]
    pub fn board(&self) -> &[AtomicU64] {
        let (at, words) = (self.0.geometry.board, self.0.geometry.board_words);
        self.0.map.words(at, words as usize)
    }

    /// Records of a table, counted now: a walk over its control words.
    pub fn live_rows(&self, table: TableId) -> u64 {
        self.0.live_rows(Some(table))
    }

    /// What is used and backed, counted now: a walk over all control and meta words (milliseconds for a full arena).
    pub fn usage(&self) -> Usage {
        self.0.usage()
    }

    /// The participant of this number. Nothing in the arena changes: whoever had the number before and died must be recovered
    /// ([`Participant::recover`](crate::Participant::recover)) before [`online`](crate::Participant::online). To be made on the thread that uses it.
    ///
    /// # Panics
    /// If the arena has no such participant.
    pub fn participant(&self, id: ParticipantId) -> crate::Participant {
        crate::Participant::new(self, id)
    }
}

impl core::fmt::Debug for Arena {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Arena").field(self.layout()).finish()
    }
}

/// What is used of an arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use: the fixed regions, rows that are not free, blocks that are not free at their class's size.
    pub bytes_used: u64,
    /// Of these, the fixed regions: index, receive buffers, rings, headers.
    pub bytes_fixed: u64,
    /// Bytes that the kernel has reserved for us.
    pub bytes_mapped: u64,
    /// `memory.limit` as the arena keeps it.
    pub limit: u64,
    /// Slabs that nobody has taken, of all.
    pub slabs_free: u32,
    /// All slabs.
    pub slabs: u32,
    /// Blocks in use of each class: (bytes of a block, blocks).
    pub blocks: Vec<(u32, u64)>,
    /// Every table's share of it.
    pub tables: Vec<TableUsage>,
}

/// What is used of an arena by one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableUsage {
    /// Records.
    pub live: u64,
    /// Rows that are not free: the records, and what comes and goes at the moment.
    pub rows: u64,
    /// Bytes of the blocks that belong to rows, bodies and children, at their classes' sizes.
    pub body_bytes: u64,
}

impl TableUsage {
    /// Rows and their blocks.
    pub fn bytes(&self) -> u64 {
        self.rows * ROW_BYTES + self.body_bytes
    }
}

impl Inner {
    /// First values of a new arena: all else is zero.
    fn start(&self) {
        // Relaxed: nobody else has the arena yet.
        self.map.word(AT_EPOCH).store(1, Ordering::Relaxed);
        self.map.word(AT_BACKED).store(0, Ordering::Relaxed);
        self.map
            .word(AT_SLABS_FREE)
            .store(self.geometry.slabs.into(), Ordering::Relaxed);
    }

    /// Has the kernel reserve these bytes of the data file; a no-op where it has already.
    pub(crate) fn back(&self, at: u64, bytes: u64) -> Result<(), Errno> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        self.paging.back(&files.data, &self.map, at, bytes)
    }
}

fn superblock_words(g: &Geometry, seed: [u8; 16], paging: Paging) -> [u64; superblock::WORDS] {
    let l = &g.layout;
    let mut words = [0; superblock::WORDS];
    words[superblock::MAGIC] = MAGIC;
    words[superblock::ABI] = (u64::from(ABI_MAJOR) << 32) | u64::from(ABI_MINOR);
    words[superblock::HASH] = g.hash();
    words[superblock::LIMIT] = l.limit;
    words[superblock::COUNTS] = u64::from(l.slots)
        | u64::from(l.aux) << 16
        | u64::from(l.tables) << 32
        | u64::from(l.rx_buffers) << 48;
    words[superblock::RX_BUFFER_BYTES] = u64::from(l.rx_buffer_bytes);
    let key = u128::from_le_bytes(seed);
    words[superblock::KEY] = key as u64;
    words[superblock::KEY + 1] = (key >> 64) as u64;
    words[superblock::PAGING] = paging.pack();
    words
}

fn superblock_geometry(words: &[u64; superblock::WORDS]) -> Result<Geometry, AttachError> {
    if words[superblock::MAGIC] != MAGIC {
        return Err(AttachError::Magic);
    }
    let (major, minor) = (
        (words[superblock::ABI] >> 32) as u32,
        words[superblock::ABI] as u32,
    );
    if major != ABI_MAJOR {
        return Err(AttachError::Version { major, minor });
    }
    let (found, counts) = (words[superblock::HASH], words[superblock::COUNTS]);
    let layout = Layout {
        limit: words[superblock::LIMIT],
        slots: counts as u16,
        aux: (counts >> 16) as u16,
        tables: (counts >> 32) as u8,
        rx_buffers: (counts >> 48) as u16,
        rx_buffer_bytes: words[superblock::RX_BUFFER_BYTES] as u32,
    };
    match Geometry::new(&layout) {
        Ok(g) if g.hash() == found => Ok(g),
        other => Err(AttachError::Hash {
            found,
            computed: other.map_or(0, |g| g.hash()),
        }),
    }
}

fn length(fd: &OwnedFd) -> io::Result<u64> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok(stat.st_size.unsigned_abs())
}

fn map_data(data: &OwnedFd, g: &Geometry, paging: Paging) -> io::Result<Map> {
    let mapping = os::Mapping::new(data.as_fd(), paging.file_bytes(g.end))?;
    // A core of a worker holds its own memory; the arena would make it huge and holds everybody's data.
    mapping.keep_out_of_cores();
    if paging == Paging::Advised {
        mapping.ask_for_huge_pages()?;
    }
    Ok(Map::mapped(mapping))
}
