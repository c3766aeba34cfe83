//! Where everything lies: the superblock's contents and the geometry computed from them.
//!
//! The geometry is a pure function of [`Layout`], so the control memfd holds the few numbers of `Layout` and a hash, never offsets
//! that a reader would have to trust. Whoever attaches computes the same geometry and compares the hash.

use crate::directory::LINE_BYTES;
use crate::events::{EVENTS_AUX, EVENTS_SLOT, event_bytes};
use crate::latency::LATENCY_BYTES;
use crate::slot::SLOT_BYTES;

/// Bytes of a slab; block slabs and row slabs alike.
pub(crate) const SLAB_BYTES: u64 = 64 * 1024;
/// Bytes of a row: ctl, hash, expiry hint, hash of the alias.
pub(crate) const ROW_BYTES: u64 = 32;
pub(crate) const ROWS_PER_SLAB: u32 = (SLAB_BYTES / ROW_BYTES) as u32;
/// Meta words of a slab; one page.
pub(crate) const BLOCKS_PER_SLAB: u32 = 512;
const METAS_BYTES: u64 = BLOCKS_PER_SLAB as u64 * 8;
/// Block sizes. The biggest is a whole slab. One binding with its AOR takes 230 to 320 bytes, hence the small steps there.
pub(crate) const CLASSES: [u32; 13] = if cfg!(feature = "layout-probe") {
    [
        128, 256, 320, 448, 512, 640, 832, 1280, 2048, 4096, 8192, 16384, 65536,
    ]
} else {
    [
        128, 192, 256, 320, 384, 512, 768, 1024, 2048, 4096, 8192, 16384, 65536,
    ]
};
/// Slabs are backed by the kernel this many at a time.
pub(crate) const EXTENT_SLABS: u32 = 16;
/// Counter cells of a participant.
pub const CELLS: usize = 256;
/// Tables at most.
pub const TABLES_MAX: u8 = 16;
/// Slots at most; the mailbox bitmaps have that many bits.
pub const SLOTS_MAX: u16 = 256;
const AUX_MAX: u16 = 128;
/// Participants at most.
pub(crate) const PARTICIPANTS_MAX: u16 = SLOTS_MAX + AUX_MAX;
/// Buckets of the overflow stash.
pub(crate) const STASH_BUCKETS: u32 = 128;
/// Bytes of a participant's epoch line and intent line.
pub(crate) const PARTICIPANT_BYTES: u64 = 128;
/// Mails in a ring between two slots.
pub(crate) const RING_MAILS: u64 = 128;
/// Head line, tail line, mails.
pub(crate) const RING_BYTES: u64 = 128 + RING_MAILS * 8;
const PAGE: u64 = 4096;
/// Slab and row numbers must fit entries and control words (26 bits of block number plus one).
const SLABS_MAX: u64 = (1 << 17) - 2;

/// Which arenas this code can share with another release: equal major and equal hash attach.
pub const ABI_MAJOR: u32 = 4;
/// Counts changes within a major version that do not keep programs from sharing an arena.
pub const ABI_MINOR: u32 = 0;
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"tandem/1");

/// What an arena is asked to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the data memfd, everything included.
    pub limit: u64,
    /// Reactors.
    pub slots: u16,
    /// Further participants: control threads of workers.
    pub aux: u16,
    /// Tables: ids `0..tables`.
    pub tables: u8,
    /// Receive buffers of each slot (default 512).
    pub rx_buffers: u16,
    /// Bytes of a receive buffer (default 8192).
    pub rx_buffer_bytes: u32,
}

impl Layout {
    /// The defaults for this many slots.
    pub const fn new(limit: u64, slots: u16, aux: u16, tables: u8) -> Self {
        Self {
            limit,
            slots,
            aux,
            tables,
            rx_buffers: 512,
            rx_buffer_bytes: 8192,
        }
    }

    /// Differs whenever two programs, or two sets of numbers, would not agree on what lies where.
    pub fn hash(&self) -> Result<u64, LayoutError> {
        Geometry::new(self).map(|geometry| geometry.hash())
    }

    /// The smallest `limit` that these slots can work in.
    pub fn least_limit(&self) -> u64 {
        let mut least = *self;
        least.limit = self.fixed_bytes(0) + self.slabs_least() * (SLAB_BYTES + METAS_BYTES + 16);
        // The index and the board take their shares of the limit, and everything is aligned: add what is missing.
        least.limit = (least.limit * 108 / 100 + 8 * SLAB_BYTES).next_multiple_of(PAGE);
        least.limit
    }

    /// Every participant needs slabs of its own for the classes and tables that it uses.
    fn slabs_least(&self) -> u64 {
        32 + 16 * u64::from(self.slots) + 2 * u64::from(self.aux)
    }

    /// Bytes of the board: a part in 128 of everything, for what is too small and too short-lived for a record.
    fn board_bytes(&self) -> u64 {
        (self.limit / 128).next_multiple_of(PAGE)
    }

    fn fixed_bytes(&self, buckets: u64) -> u64 {
        let slots = u64::from(self.slots);
        let participants = slots + u64::from(self.aux);
        let rx = slots * u64::from(self.rx_buffers);
        let (event_heads, events) = event_bytes(slots, self.aux.into());
        PAGE + (participants * PARTICIPANT_BYTES).next_multiple_of(PAGE)
            + (slots * SLOT_BYTES).next_multiple_of(PAGE)
            + (slots * LATENCY_BYTES).next_multiple_of(PAGE)
            + (slots * 64).next_multiple_of(PAGE)
            + participants * CELLS as u64 * 8
            + ((u64::from(self.aux) + 1) * LINE_BYTES).next_multiple_of(PAGE)
            + self.board_bytes()
            + (buckets * 64).next_multiple_of(PAGE)
            + u64::from(STASH_BUCKETS) * 64
            + (rx * 8).next_multiple_of(PAGE)
            + (slots * slots * RING_BYTES).next_multiple_of(PAGE)
            + event_heads.next_multiple_of(PAGE)
            + events.next_multiple_of(PAGE)
            + rx * u64::from(self.rx_buffer_bytes)
    }
}

/// Why these numbers make no arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The limit.
    #[error(
        "memory.limit of {limit} bytes is too small for {slots} slots: the least is {least} bytes"
    )]
    LimitTooSmall {
        /// As asked for.
        limit: u64,
        /// As asked for.
        slots: u16,
        /// What would do.
        least: u64,
    },
    /// The limit.
    #[error("memory.limit of {limit} bytes is too large: the most is {most} bytes")]
    LimitTooLarge {
        /// As asked for.
        limit: u64,
        /// What would do.
        most: u64,
    },
    /// Slots, aux or tables.
    #[error(
        "{slots} slots, {aux} control threads and {tables} tables: at least one slot and table, at most 256, 128 and 16"
    )]
    Counts {
        /// As asked for.
        slots: u16,
        /// As asked for.
        aux: u16,
        /// As asked for.
        tables: u8,
    },
    /// Receive buffers.
    #[error(
        "{buffers} receive buffers of {bytes} bytes: 1 to 32768 of 512 to 65536 bytes, in steps of 64"
    )]
    RxBuffers {
        /// As asked for.
        buffers: u16,
        /// As asked for.
        bytes: u32,
    },
}

/// Offsets into the data memfd, in bytes, and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) layout: Layout,
    pub(crate) participants: u16,
    pub(crate) buckets: u64,
    pub(crate) slabs: u32,
    pub(crate) epochs: u64,
    pub(crate) slots: u64,
    pub(crate) latency: u64,
    pub(crate) mail_flags: u64,
    pub(crate) cells: u64,
    /// One line more than there are control threads.
    pub(crate) directory: u64,
    pub(crate) board: u64,
    pub(crate) board_words: u64,
    pub(crate) index: u64,
    pub(crate) stash: u64,
    pub(crate) descriptors: u64,
    pub(crate) freed: u64,
    pub(crate) rx_metas: u64,
    /// A line for each participant's ring of events.
    pub(crate) event_heads: u64,
    /// First byte that is backed on first use only: rings of mail, rings of events.
    pub(crate) rings: u64,
    pub(crate) events: u64,
    pub(crate) rx: u64,
    pub(crate) metas: u64,
    pub(crate) slab_bytes: u64,
    /// Length of the whole file.
    pub(crate) end: u64,
}

/// Offset of the global epoch.
pub(crate) const AT_EPOCH: u64 = 0;
/// Offset of the number of slabs that are backed.
pub(crate) const AT_BACKED: u64 = 64;
/// Offset of the two words that say which stash buckets were ever used.
pub(crate) const AT_STASH_FLAGS: u64 = 128;

/// Offset of the number of free slabs as last counted.
pub(crate) const AT_SLABS_FREE: u64 = 192;
/// Offset of the word that tells the arena's users of changes.
pub(crate) const AT_NOTICES: u64 = 256;
/// Offset of the word that its users switch something with.
pub(crate) const AT_SWITCHES: u64 = 384;
/// Offset of the number that the next event gets.
pub(crate) const AT_EVENT_ORDER: u64 = 320;

impl Geometry {
    pub(crate) fn new(layout: &Layout) -> Result<Self, LayoutError> {
        let l = *layout;
        if l.slots == 0
            || l.slots > SLOTS_MAX
            || l.aux > AUX_MAX
            || l.tables == 0
            || l.tables > TABLES_MAX
        {
            return Err(LayoutError::Counts {
                slots: l.slots,
                aux: l.aux,
                tables: l.tables,
            });
        }
        let bytes = l.rx_buffer_bytes;
        if l.rx_buffers == 0
            || l.rx_buffers > 32768
            || !(512..=65536).contains(&bytes)
            || !bytes.is_multiple_of(64)
        {
            return Err(LayoutError::RxBuffers {
                buffers: l.rx_buffers,
                bytes,
            });
        }
        // Of 8 GiB the index and the slots take more than the two slabs that the numbers miss.
        let most = (SLABS_MAX + 2) * SLAB_BYTES;
        if l.limit > most {
            return Err(LayoutError::LimitTooLarge {
                limit: l.limit,
                most,
            });
        }
        let too_small = LayoutError::LimitTooSmall {
            limit: l.limit,
            slots: l.slots,
            least: l.least_limit(),
        };
        // 4 % of the limit: two entries for each record of 400 bytes.
        let buckets = l.limit / 25 / 64;
        let fixed = l.fixed_bytes(buckets) + 2 * SLAB_BYTES;
        let per_slab = SLAB_BYTES + METAS_BYTES + 16;
        let slabs = (l.limit.checked_sub(fixed).ok_or(too_small)? / per_slab).min(SLABS_MAX);
        if slabs < l.slabs_least() {
            return Err(too_small);
        }
        let slots = u64::from(l.slots);
        let participants = slots + u64::from(l.aux);
        let rx = slots * u64::from(l.rx_buffers);
        let mut end = PAGE;
        let mut take = |bytes: u64, align: u64| {
            let at = end.next_multiple_of(align);
            end = (at + bytes).next_multiple_of(PAGE);
            at
        };
        let epochs = take(participants * PARTICIPANT_BYTES, PAGE);
        let at_slots = take(slots * SLOT_BYTES, PAGE);
        let latency = take(slots * LATENCY_BYTES, PAGE);
        let mail_flags = take(slots * 64, PAGE);
        let cells = take(participants * CELLS as u64 * 8, PAGE);
        let directory = take((u64::from(l.aux) + 1) * LINE_BYTES, PAGE);
        let board = take(l.board_bytes(), PAGE);
        let index = take(buckets * 64, PAGE);
        let stash = take(u64::from(STASH_BUCKETS) * 64, PAGE);
        let descriptors = take(slabs * 8, PAGE);
        let freed = take(slabs * 8, PAGE);
        let rx_metas = take(rx * 8, PAGE);
        let (event_heads, events) = event_bytes(slots, l.aux.into());
        let event_heads = take(event_heads, PAGE);
        let rings = take(slots * slots * RING_BYTES, PAGE);
        let events = take(events, PAGE);
        let at_rx = take(rx * u64::from(bytes), PAGE);
        let metas = take(slabs * METAS_BYTES, PAGE);
        let slab_bytes = take(slabs * SLAB_BYTES, SLAB_BYTES);
        Ok(Self {
            layout: l,
            participants: participants as u16,
            buckets,
            slabs: slabs as u32,
            epochs,
            slots: at_slots,
            latency,
            mail_flags,
            cells,
            directory,
            board,
            board_words: l.board_bytes() / 8,
            index,
            stash,
            descriptors,
            freed,
            rx_metas,
            event_heads,
            rings,
            events,
            rx: at_rx,
            metas,
            slab_bytes,
            end,
        })
    }

    /// Differs whenever two releases would not agree on what lies where.
    pub(crate) fn hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |n: u64| {
            for byte in n.to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for class in CLASSES {
            add(u64::from(class));
        }
        let l = &self.layout;
        for n in [
            SLAB_BYTES,
            ROW_BYTES,
            METAS_BYTES,
            SLOT_BYTES,
            RING_MAILS,
            crate::body::HEADER_BYTES as u64,
            l.limit,
            u64::from(l.slots),
            u64::from(l.aux),
            u64::from(l.tables),
            u64::from(l.rx_buffers),
            u64::from(l.rx_buffer_bytes),
            self.buckets,
            u64::from(self.slabs),
            self.epochs,
            self.slots,
            self.latency,
            self.mail_flags,
            self.cells,
            LINE_BYTES,
            self.directory,
            self.board,
            self.board_words,
            self.index,
            self.stash,
            self.descriptors,
            self.freed,
            self.rx_metas,
            EVENTS_SLOT,
            EVENTS_AUX,
            self.event_heads,
            self.rings,
            self.events,
            self.rx,
            self.metas,
            self.slab_bytes,
            self.end,
        ] {
            add(n);
        }
        hash
    }

    pub(crate) fn metas_of(&self, slab: u32) -> u64 {
        self.metas + u64::from(slab) * METAS_BYTES
    }

    pub(crate) fn slab(&self, slab: u32) -> u64 {
        self.slab_bytes + u64::from(slab) * SLAB_BYTES
    }
}

/// Blocks in a slab of this class.
pub(crate) const fn blocks_in(class: u8) -> u32 {
    (SLAB_BYTES as u32) / CLASSES[class as usize]
}

const _: () = assert!(blocks_in(0) == BLOCKS_PER_SLAB);
const _: () = assert!(SLABS_MAX * (BLOCKS_PER_SLAB as u64) + 1 < 1 << 26);
const _: () = assert!(SLABS_MAX * (ROWS_PER_SLAB as u64) <= 1 << crate::ctl::ROW_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_overlap_and_end_within_the_limit() {
        for (limit, slots) in [
            (64 << 20, 2),
            (256 << 20, 4),
            (1 << 30, 16),
            (8 << 30, 256),
            (200 << 20, 7),
        ] {
            let g = Geometry::new(&Layout::new(limit, slots, 8, 6));
            let Ok(g) = g else {
                panic!("{limit} bytes for {slots} slots: {g:?}")
            };
            let starts = [
                PAGE,
                g.epochs,
                g.slots,
                g.latency,
                g.mail_flags,
                g.cells,
                g.directory,
                g.board,
                g.index,
                g.stash,
                g.descriptors,
                g.freed,
                g.rx_metas,
                g.event_heads,
                g.rings,
                g.events,
                g.rx,
                g.metas,
                g.slab_bytes,
                g.end,
            ];
            assert!(starts.windows(2).all(|w| w[0] <= w[1]), "{g:?}");
            assert_eq!(g.end, g.slab(g.slabs));
            assert!(g.end <= limit, "{} of {limit}", g.end);
            assert!(
                g.end > limit - 4 * SLAB_BYTES,
                "{} of {limit} is wasted",
                limit - g.end
            );
        }
    }

    #[test]
    fn the_least_limit_is_enough_and_little_less_is_not() {
        for slots in [1, 2, 4, 16, 64] {
            let layout = Layout::new(0, slots, 8, 6);
            let least = layout.least_limit();
            assert_eq!(
                Geometry::new(&layout),
                Err(LayoutError::LimitTooSmall {
                    limit: 0,
                    slots,
                    least
                })
            );
            assert!(
                Geometry::new(&Layout {
                    limit: least,
                    ..layout
                })
                .is_ok(),
                "{slots} slots"
            );
            assert!(
                Geometry::new(&Layout {
                    limit: least / 2,
                    ..layout
                })
                .is_err(),
                "{slots} slots"
            );
        }
    }
}
