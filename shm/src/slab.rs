//! Slabs: 64 KiB each, taken whole by one participant, for rows of one table or for blocks of one class.
//!
//! ```text
//! descriptor   kind:4 | what (table or class):8 | owner:16 | turn:32       FREE TAKING ROWS BLOCKS
//! ```
//!
//! Taking a slab, a free one that has memory while there are such:
//! 1. back its extent (`fallocate`, idempotent), raise the number of backed slabs;
//! 2. CAS the descriptor FREE → TAKING (rows) or BLOCKS (blocks): the linearization point; lock-free;
//! 3. rows only: zero the payload, then TAKING → ROWS.
//!
//! A death after 1 leaves backed bytes for the next taker; after 2, a TAKING slab, which recovery of its owner frees, or an empty
//! slab of the owner, which its heir uses. A row slab stays one for ever, so that a stale row reference always
//! meets a control word; a block slab whose blocks are all free goes back (BLOCKS → FREE by its owner).
//!
//! Only the owner allocates from a slab, anybody frees. Meta words of a slab's blocks are a dense array far from the
//! payload. `freed` counts frees by others: a hint that tells the owner which slabs are worth another look. Its highest bit says that the owner had used up
//! the slab at that count: an heir need not look at it. A hint that is lost with its writer is found again by the sweep.
//!
//! *The number of free slabs* is kept beside the descriptors, changed after the CAS; a death between the two makes it wrong by one, until the scrubber has counted, or
//! somebody has found none.
//!
//! *What is kept back.* While more than 5 % of the slabs are free, everybody may take one. Below, new records get none, and leave a sixteenth of the blocks of each class,
//! two at least, in each participant's own slabs. Updates take all there is, a bigger block if need be. So a record can be refreshed where its like was
//! refreshed before: the block that it gives up is the next one's. What the reserve has to pay for is refreshes that wander: bodies which come to lie in the
//! slabs of another participant than before. If more than 5 % of all bodies do so while the arena is full, an update can be refused, too; the slabs that they left come
//! back when they are empty. Datagrams of a peer come to the same slot for as long as its address stays, so this takes a fleet of peers that changes addresses.
//! An update has two bodies until its grace period is over: in one turn, no more of them than the reserve has room for. Removal takes no block and no row.

use core::ptr::NonNull;

use failpoint::failpoint;
use sync::{AtomicU64, Ordering};

use crate::arena::{Inner, TableUsage, Usage};
use crate::body::{BodyView, HEADER_BYTES};
use crate::ctl::{BlockState, Ctl, Meta};
use crate::id::{Block, RowRef, TableId};
use crate::layout::{
    AT_BACKED, AT_SLABS_FREE, BLOCKS_PER_SLAB, CLASSES, EXTENT_SLABS, ROW_BYTES, ROWS_PER_SLAB,
    SLAB_BYTES, blocks_in,
};

/// What a slab is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Free,
    /// Being zeroed to become ROWS.
    Taking,
    /// Rows of this table.
    Rows(TableId),
    /// Blocks of this class.
    Blocks(u8),
}

/// Bit of a slab's `freed` word.
const USED_UP: u64 = 1 << 63;

/// A decoded slab descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor(pub(crate) u64);

impl Descriptor {
    pub(crate) fn new(kind: u64, what: u8, owner: u16, turn: u32) -> Self {
        Self((kind << 60) | (u64::from(what) << 48) | (u64::from(owner) << 32) | u64::from(turn))
    }

    /// `None`: no word that we wrote.
    pub(crate) fn kind(self) -> Option<Kind> {
        let what = (self.0 >> 48) as u8;
        match self.0 >> 60 {
            0 => Some(Kind::Free),
            1 => Some(Kind::Taking),
            2 => Some(Kind::Rows(TableId(what))),
            3 if usize::from(what) < CLASSES.len() => Some(Kind::Blocks(what)),
            _ => None,
        }
    }

    pub(crate) fn owner(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// The same slab as another thing; `turn` tells lives of a slab apart.
    fn become_(self, kind: Kind, owner: u16) -> Self {
        let turn = (self.0 as u32).wrapping_add(1);
        match kind {
            Kind::Free => Self::new(0, 0, 0, turn),
            Kind::Taking => Self::new(1, 0, owner, turn),
            Kind::Rows(table) => Self::new(2, table.0, owner, turn),
            Kind::Blocks(class) => Self::new(3, class, owner, turn),
        }
    }
}

/// A row's four words.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) ctl: &'a AtomicU64,
    /// Keyed hash of table and key, written while PENDING, before the row is in any index.
    pub(crate) hash: &'a AtomicU64,
    /// The same of the alias; 0: it has none.
    pub(crate) alias: &'a AtomicU64,
    /// Never later than the body's `expires_at`, but for a death at the wrong moment (the scrubber corrects it).
    pub(crate) expires_at: &'a AtomicU64,
}

impl Row<'_> {
    pub(crate) fn load(&self) -> Ctl {
        // SYNC ctl: Acquire; pairs with every CAS of a control word, which is AcqRel: who sees a state sees what led to it.
        Ctl(self.ctl.load(Ordering::Acquire))
    }

    /// One change of the truth.
    pub(crate) fn change(&self, from: Ctl, to: Ctl) -> bool {
        // SYNC ctl: AcqRel, see `load`. The row's own words and its body were written before.
        self.ctl
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// Where a row is.
pub(crate) const fn row_slab(index: u32) -> u32 {
    index / ROWS_PER_SLAB
}

/// Where a block is.
pub(crate) const fn block_slab(block: u32) -> u32 {
    block / BLOCKS_PER_SLAB
}

impl Inner {
    pub(crate) fn descriptor_word(&self, slab: u32) -> &AtomicU64 {
        self.map
            .word(self.geometry.descriptors + u64::from(slab) * 8)
    }

    /// The descriptor of a slab; FREE past the end.
    pub(crate) fn descriptor(&self, slab: u32) -> Descriptor {
        if slab >= self.geometry.slabs {
            return Descriptor(0);
        }
        // SYNC slab-take: Acquire, pairs with the Release in `change_descriptor`: who sees ROWS sees zeroed rows.
        Descriptor(self.descriptor_word(slab).load(Ordering::Acquire))
    }

    fn change_descriptor(&self, slab: u32, from: Descriptor, to: Descriptor) -> bool {
        let word = self.descriptor_word(slab);
        // SYNC slab-take: AcqRel, pairs with the load in `descriptor` and with the last owner's give-back.
        word.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// How often others freed something in this slab. A hint: lost or doubled counts are harmless.
    fn freed(&self, slab: u32) -> &AtomicU64 {
        self.map.word(self.geometry.freed + u64::from(slab) * 8)
    }

    /// The count, and whether the owner used up the slab at that count.
    pub(crate) fn freed_count(&self, slab: u32) -> (u64, bool) {
        // Relaxed, here and below: hints; what they hint at is ordered by itself.
        let word = self.freed(slab).load(Ordering::Relaxed);
        (word & !USED_UP, word & USED_UP != 0)
    }

    /// Something in a slab of another's has become free.
    pub(crate) fn tell_owner(&self, slab: u32) {
        if self.freed(slab).fetch_add(1, Ordering::Relaxed) & USED_UP != 0 {
            self.freed(slab).fetch_and(!USED_UP, Ordering::Relaxed);
        }
    }

    /// Something in a slab of our own has become free, and is in our list.
    pub(crate) fn not_used_up(&self, slab: u32) {
        if self.freed_count(slab).1 {
            self.freed(slab).fetch_and(!USED_UP, Ordering::Relaxed);
        }
    }

    /// Nothing in a slab of our own was free at this count.
    pub(crate) fn used_up(&self, slab: u32, count: u64) {
        // Lost: somebody has freed something.
        let _ = self.freed(slab).compare_exchange(
            count,
            count | USED_UP,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// The row of this number, whatever its state; `None` where no row has ever been.
    pub(crate) fn row(&self, index: u32) -> Option<Row<'_>> {
        match self.descriptor(row_slab(index)).kind() {
            Some(Kind::Rows(_)) => Some(self.row_words(index)),
            _ => None,
        }
    }

    /// The table of a row.
    pub(crate) fn table_of(&self, index: u32) -> Option<TableId> {
        match self.descriptor(row_slab(index)).kind() {
            Some(Kind::Rows(table)) => Some(table),
            _ => None,
        }
    }

    fn row_words(&self, index: u32) -> Row<'_> {
        let at = self.geometry.slab(row_slab(index)) + u64::from(index % ROWS_PER_SLAB) * ROW_BYTES;
        let [ctl, hash, expires_at, alias] = self.map.row(at);
        Row {
            ctl,
            hash,
            expires_at,
            alias,
        }
    }

    /// The meta word of a block; `None` past the end.
    pub(crate) fn meta(&self, block: u32) -> Option<&AtomicU64> {
        let slab = block_slab(block);
        (slab < self.geometry.slabs).then(|| {
            let at = self.geometry.metas_of(slab) + u64::from(block % BLOCKS_PER_SLAB) * 8;
            self.map.word(at)
        })
    }

    pub(crate) fn load_meta(&self, block: u32) -> Option<Meta> {
        // SYNC meta: Acquire, pairs with the AcqRel in `change_meta`.
        self.meta(block).map(|m| Meta(m.load(Ordering::Acquire)))
    }

    pub(crate) fn change_meta(&self, block: u32, from: Meta, to: Meta) -> bool {
        let Some(word) = self.meta(block) else {
            return false;
        };
        // SYNC meta: AcqRel: who takes a FREE block comes after everything that was done with it before.
        word.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Where a block lies, and its size; `None` if there is no such block.
    #[inline]
    pub(crate) fn block_place(&self, block: u32) -> Option<(u64, u64)> {
        let slab = block_slab(block);
        let Some(Kind::Blocks(class)) = self.descriptor(slab).kind() else {
            return None;
        };
        let nth = block % BLOCKS_PER_SLAB;
        if nth >= blocks_in(class) {
            return None;
        }
        let size = CLASSES[usize::from(class)];
        let at = self.geometry.slab(slab) + u64::from(nth) * u64::from(size);
        Some((at, u64::from(size)))
    }

    /// A block's bytes, and how many; `None` if there is no such block.
    #[inline]
    pub(crate) fn block_bytes(&self, block: u32) -> Option<(NonNull<u8>, usize)> {
        let (at, size) = self.block_place(block)?;
        Some((self.map.bytes(at, size), size as usize))
    }

    /// A block's contents. To be called by a participant that is online and learned of the block since it last was quiescent, from a
    /// control word, from such a block, or as the block's owner.
    pub(crate) fn body(&self, block: u32) -> Option<BodyView<'_>> {
        let (at, size) = self.block_bytes(block)?;
        debug_assert!(size > HEADER_BYTES);
        // SAFETY: `size` bytes inside the map, 64-aligned. Nobody writes them: the block was named by a record after our last
        // quiescence (caller), so it cannot be FREE, let alone LOOSE, before the next one. A process that breaks this protocol can
        // change bytes under us; lengths are clamped, and contents are parsed as from the network.
        Some(unsafe { BodyView::read(at, size) })
    }

    /// Whether this row holds this block: names it as its body, or its body lists it. Once it does not, it never will again, as long
    /// as the block's owner is not in the middle of giving it to the row.
    pub(crate) fn holds(&self, row: RowRef, block: u32) -> bool {
        let Some(words) = self.row(row.index) else {
            return false;
        };
        let ctl = words.load();
        if ctl.generation() != row.generation {
            return false;
        }
        match (ctl.state(), ctl.body()) {
            (Some(crate::ctl::RowState::Live | crate::ctl::RowState::Dying), Some(body)) => {
                body == block
                    || self
                        .body(body)
                        .is_some_and(|b| b.children.contains(&Block(block)))
            }
            _ => false,
        }
    }

    /// Slabs that nobody has taken, see the head of this module.
    pub(crate) fn slabs_free(&self) -> u32 {
        // Relaxed, here and below: a number beside the descriptors, which are the truth.
        let free = self.map.word(AT_SLABS_FREE).load(Ordering::Relaxed);
        // Below 0 for a moment, if somebody died.
        u32::try_from(free.cast_signed().max(0)).unwrap_or(u32::MAX)
    }

    /// Counts them, and corrects the number unless it changes meanwhile.
    pub(crate) fn count_slabs_free(&self) {
        let word = self.map.word(AT_SLABS_FREE);
        let before = word.load(Ordering::Relaxed);
        let free = |&s: &u32| self.descriptor(s).kind() == Some(Kind::Free);
        let counted = (0..self.geometry.slabs).filter(free).count() as u64;
        if counted != before {
            let _ = word.compare_exchange(before, counted, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// 5 % of all slabs are for updates of records that exist, and two for each participant of a small arena.
    pub(crate) fn slabs_reserved(&self) -> u32 {
        (self.geometry.slabs / 20)
            .max(2 * u32::from(self.geometry.participants))
            .min(self.geometry.slabs / 4)
    }

    /// Takes a free slab, looking from `from` on first, and where there is memory already before memory is asked for; see the head of this module. `None`: no
    /// slab, or the kernel has no memory.
    pub(crate) fn take_slab(&self, kind: Kind, owner: u16, from: u32) -> Option<u32> {
        let all = self.geometry.slabs;
        let free = |s: &u32| self.descriptor(*s).kind() == Some(Kind::Free);
        for _ in 0..all {
            let backed = self.slabs_backed();
            let from = from.min(backed);
            // In an arena that fills up there are none, which is known without a look at each.
            let any = self.slabs_free() > all - backed;
            let given_back = || (from..backed).chain(0..from).find(free);
            let slab = any
                .then(given_back)
                .flatten()
                .or_else(|| (backed..all).chain(0..backed).find(free))?;
            let (slab, taken) = match self.take_this_slab(slab, kind, owner) {
                Some(taken) => (slab, taken),
                // There may be one given back all the same: the number of free ones is a hint.
                None => {
                    let slab = (0..backed).find(free)?;
                    (slab, self.take_this_slab(slab, kind, owner)?)
                }
            };
            if taken {
                return Some(slab);
            }
        }
        None
    }

    /// How many slabs, from the first one on, have memory: the most that were ever needed.
    pub(crate) fn slabs_backed(&self) -> u32 {
        // Relaxed: the kernel is the truth; too low a number only repeats a request.
        let backed = self.map.word(AT_BACKED).load(Ordering::Relaxed);
        backed.min(u64::from(self.geometry.slabs)) as u32
    }

    /// Takes this slab, if it is free. `None`: the kernel has no memory.
    pub(crate) fn take_this_slab(&self, slab: u32, kind: Kind, owner: u16) -> Option<bool> {
        self.back_slab(slab)?;
        failpoint!("shm.slab.backed");
        let found = self.descriptor(slab);
        if found.kind() != Some(Kind::Free) {
            return Some(false);
        }
        let Kind::Rows(_) = kind else {
            let taken = self.change_descriptor(slab, found, found.become_(kind, owner));
            if taken {
                failpoint!("shm.slab.blocks_taken");
                self.slab_taken();
            }
            return Some(taken);
        };
        let taking = found.become_(Kind::Taking, owner);
        if !self.change_descriptor(slab, found, taking) {
            return Some(false);
        }
        failpoint!("shm.slab.rows_taking");
        self.slab_taken();
        self.zero_rows(slab);
        failpoint!("shm.slab.rows_zeroed");
        assert!(
            self.change_descriptor(slab, taking, taking.become_(kind, owner)),
            "a slab that is being taken is its taker's alone"
        );
        Some(true)
    }

    fn slab_taken(&self) {
        // Relaxed: as in `slabs_free`.
        self.map.word(AT_SLABS_FREE).fetch_sub(1, Ordering::Relaxed);
    }

    fn zero_rows(&self, slab: u32) {
        let at = self.geometry.slab(slab);
        for word in 0..SLAB_BYTES / 8 {
            // Relaxed: the descriptor's CAS publishes them (SYNC slab-take).
            self.map.word(at + word * 8).store(0, Ordering::Relaxed);
        }
    }

    /// Gives a slab back: a TAKING one of a dead owner, or block slabs that are empty. The caller owns it, and all its blocks are FREE.
    pub(crate) fn give_back(&self, slab: u32, found: Descriptor) -> bool {
        let given = self.change_descriptor(slab, found, found.become_(Kind::Free, 0));
        if given {
            failpoint!("shm.slab.given_back");
            // Relaxed: as in `slabs_free`.
            self.map.word(AT_SLABS_FREE).fetch_add(1, Ordering::Relaxed);
        }
        given
    }

    /// Has the kernel reserve the extent of a slab, before its first use.
    pub(crate) fn back_slab(&self, slab: u32) -> Option<()> {
        let backed = self.map.word(AT_BACKED);
        // Relaxed: the kernel is the truth about what is backed; too low a number only repeats a request.
        let mut known = backed.load(Ordering::Relaxed);
        while u64::from(slab) >= known {
            let first = known as u32;
            let count = EXTENT_SLABS.min(self.geometry.slabs - first);
            let g = &self.geometry;
            self.back(
                g.metas_of(first),
                g.metas_of(first + count) - g.metas_of(first),
            )
            .ok()?;
            self.back(g.slab(first), u64::from(count) * SLAB_BYTES)
                .ok()?;
            let next = u64::from(first + count);
            // Relaxed: as above.
            known = match backed.compare_exchange(known, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => next,
                Err(other) => other,
            };
        }
        Some(())
    }

    /// Calls `f` for each row slab of a table (or of all).
    pub(crate) fn row_slabs(
        &self,
        table: Option<TableId>,
    ) -> impl Iterator<Item = (u32, u16)> + '_ {
        (0..self.geometry.slabs).filter_map(move |slab| {
            let d = self.descriptor(slab);
            match d.kind() {
                Some(Kind::Rows(t)) if table.is_none_or(|table| table == t) => {
                    Some((slab, d.owner()))
                }
                _ => None,
            }
        })
    }

    /// All rows of a slab that `row_slabs` named.
    pub(crate) fn rows_in(&self, slab: u32) -> impl Iterator<Item = (u32, Row<'_>)> {
        let first = slab * ROWS_PER_SLAB;
        (first..first + ROWS_PER_SLAB).map(|index| (index, self.row_words(index)))
    }

    pub(crate) fn live_rows(&self, table: Option<TableId>) -> u64 {
        let live = |slab| {
            self.rows_in(slab)
                .filter(|(_, row)| row.load().is_live())
                .count() as u64
        };
        self.row_slabs(table).map(|(slab, _)| live(slab)).sum()
    }

    pub(crate) fn usage(&self) -> Usage {
        let g = &self.geometry;
        let bytes_fixed = g.metas;
        let mut blocks: Vec<(u32, u64)> = CLASSES.iter().map(|&size| (size, 0)).collect();
        let mut tables = vec![TableUsage::default(); usize::from(g.layout.tables)];
        let (mut rows_used, mut slabs_free) = (0, 0);
        for slab in 0..g.slabs {
            match self.descriptor(slab).kind() {
                Some(Kind::Free) => slabs_free += 1,
                Some(Kind::Rows(TableId(table))) => {
                    let (mut rows, mut live) = (0, 0);
                    for (_, row) in self.rows_in(slab) {
                        let ctl = row.load();
                        rows += u64::from(ctl.state() != Some(crate::ctl::RowState::Free));
                        live += u64::from(ctl.is_live());
                    }
                    rows_used += rows;
                    if let Some(table) = tables.get_mut(usize::from(table)) {
                        table.rows += rows;
                        table.live += live;
                    }
                }
                Some(Kind::Blocks(class)) => {
                    let first = slab * BLOCKS_PER_SLAB;
                    let mut used = 0;
                    for block in first..first + blocks_in(class) {
                        let Some(meta) = self.load_meta(block).filter(|m| !m.is_free()) else {
                            continue;
                        };
                        used += 1;
                        let of = (meta.state() == Some(BlockState::Used))
                            .then(|| self.table_of(meta.row().index))
                            .flatten()
                            .and_then(|table| tables.get_mut(usize::from(table.0)));
                        if let Some(table) = of {
                            table.body_bytes += u64::from(CLASSES[usize::from(class)]);
                        }
                    }
                    if let Some((_, n)) = blocks.get_mut(usize::from(class)) {
                        *n += used;
                    }
                }
                Some(Kind::Taking) | None => {}
            }
        }
        let in_blocks: u64 = blocks.iter().map(|&(size, n)| u64::from(size) * n).sum();
        let backed = u64::from(self.slabs_backed());
        Usage {
            bytes_used: bytes_fixed + rows_used * ROW_BYTES + in_blocks,
            bytes_fixed,
            bytes_mapped: bytes_fixed + backed * (SLAB_BYTES + u64::from(BLOCKS_PER_SLAB) * 8),
            limit: g.layout.limit,
            slabs_free,
            slabs: g.slabs,
            blocks,
            tables,
        }
    }
}
