//! The control word of a row and the meta word of a block: the only truth about both.
//!
//! ```text
//! row    ctl   state:4 | generation:20 | body:26 | change:6 | flags:8      FREE PENDING LIVE
//!              state:4 | generation:20 | body:26 | was live:1 | winner:13  DYING RETIRED FREE
//! block  meta  state:4 | life:12       | row generation:20 | row:28        FREE LOOSE USED RETIRED
//! entry        tag:16  | generation:20 | row:28                            0 is empty
//! ```
//!
//! Every change is one CAS of the whole word. `body` is a block number plus one (0: none). `change` counts body swaps, so
//! that a [`Version`] kept over turns cannot be mistaken after the same block came back (it would need 64 swaps *and* the
//! same block). A row's generation rises when it leaves FREE and skips 0; free rows queue first in, first out, so a
//! generation comes round again after `2^20 x rows of the slab` inserts by one participant into one table: at 10,000 a second with one
//! slab of 2048 rows, 59 hours. Nothing keeps a [`RowRef`](crate::RowRef) that long: branches live minutes. A block's `life` (12 bits) only tells apart
//! retirements that overlap in limbo lists, which last one grace period each.

/// Where a row is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowState {
    /// On nobody's mind; only the slab's owner may take it.
    Free,
    /// Being built. Anyone may abort it.
    Pending,
    /// A record. The only state that `find` shows.
    Live,
    /// Removed or aborted; anyone may finish it.
    Dying,
    /// In no index; waits out the grace period.
    Retired,
}

/// What a reader saw: the whole control word. Compared, never interpreted, outside of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub(crate) u64);

/// The most rows: 28 bits of index.
pub(crate) const ROW_BITS: u32 = 28;
const GENERATION_BITS: u32 = 20;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
const BODY_BITS: u32 = 26;
const BODY_MASK: u64 = (1 << BODY_BITS) - 1;
const CHANGE_MASK: u64 = 0x3f;
const STATE_SHIFT: u32 = 60;
/// How a record ended, in place of change and flags.
const END_MASK: u64 = 0x3fff;
const WAS_LIVE: u64 = 1 << 13;
const WINNER_MASK: u64 = WAS_LIVE - 1;
const _: () = assert!(crate::layout::PARTICIPANTS_MAX as u64 <= WINNER_MASK);

/// A decoded control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ctl(pub(crate) u64);

const FREE: u64 = 0;
const PENDING: u64 = 1;
const LIVE: u64 = 2;
const DYING: u64 = 3;
const RETIRED: u64 = 4;

impl Ctl {
    const fn new(state: u64, generation: u32) -> Self {
        Self((state << STATE_SHIFT) | ((generation as u64 & GENERATION_MASK) << 40))
    }

    /// `None`: no word that we wrote.
    pub(crate) const fn state(self) -> Option<RowState> {
        match self.0 >> STATE_SHIFT {
            FREE => Some(RowState::Free),
            PENDING => Some(RowState::Pending),
            LIVE => Some(RowState::Live),
            DYING => Some(RowState::Dying),
            RETIRED => Some(RowState::Retired),
            _ => None,
        }
    }

    pub(crate) const fn is_live(self) -> bool {
        self.0 >> STATE_SHIFT == LIVE
    }

    pub(crate) const fn generation(self) -> u32 {
        ((self.0 >> 40) & GENERATION_MASK) as u32
    }

    /// The body's block.
    pub(crate) const fn body(self) -> Option<u32> {
        match (self.0 >> 14) & BODY_MASK {
            0 => None,
            n => Some(n as u32 - 1),
        }
    }

    pub(crate) const fn flags(self) -> u8 {
        self.0 as u8
    }

    /// FREE → PENDING in the next generation.
    pub(crate) const fn pending(self) -> Self {
        let next = (self.generation() + 1) & GENERATION_MASK as u32;
        Self::new(PENDING, if next == 0 { 1 } else { next })
    }

    /// PENDING in this generation: for an import, which keeps names. `None`: no row has such a generation.
    pub(crate) const fn pending_as(generation: u32) -> Option<Self> {
        if generation == 0 || generation as u64 > GENERATION_MASK {
            return None;
        }
        Some(Self::new(PENDING, generation))
    }

    /// PENDING → LIVE.
    pub(crate) const fn live(self, body: u32, flags: u8) -> Self {
        let at = (body as u64 + 1) & BODY_MASK;
        Self(Self::new(LIVE, self.generation()).0 | (at << 14) | flags as u64)
    }

    /// LIVE → LIVE with another body.
    pub(crate) const fn changed(self, body: u32, flags: u8) -> Self {
        let change = ((self.0 >> 8) + 1) & CHANGE_MASK;
        Self(self.live(body, flags).0 | (change << 8))
    }

    /// PENDING → DYING: an insert that is aborted, whoever does it.
    pub(crate) const fn dying(self) -> Self {
        Self((self.0 & !(0xf << STATE_SHIFT)) | (DYING << STATE_SHIFT))
    }

    /// LIVE → DYING, by this participant. The body stays named, so that anyone can retire it. The rest of the word says for good, until the row is
    /// used again, that there was a record and who ended it.
    pub(crate) const fn removed(self, winner: u16) -> Self {
        let end = WAS_LIVE | (winner as u64 & WINNER_MASK);
        Self((self.dying().0 & !END_MASK) | end)
    }

    /// DYING → RETIRED.
    pub(crate) const fn retired(self) -> Self {
        Self(Self::new(RETIRED, self.generation()).0 | (self.0 & END_MASK))
    }

    /// RETIRED → FREE.
    pub(crate) const fn free(self) -> Self {
        Self(Self::new(FREE, self.generation()).0 | (self.0 & END_MASK))
    }

    /// Of a row that is no record any more: who removed it; `None` if it never was one, or still is.
    pub(crate) const fn winner(self) -> Option<u16> {
        match self.state() {
            Some(RowState::Dying | RowState::Retired | RowState::Free)
                if self.0 & WAS_LIVE != 0 =>
            {
                Some((self.0 & WINNER_MASK) as u16)
            }
            _ => None,
        }
    }
}

/// Where a block is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockState {
    /// Only the slab's owner may take it.
    Free,
    /// Taken, not yet named by a row; no other participant has seen it.
    Loose,
    /// Belongs to the row in the word, if that row still names it.
    Used,
    /// Named by no row; waits out the grace period.
    Retired,
}

/// A decoded meta word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta(pub(crate) u64);

const LIFE_MASK: u64 = 0xfff;

impl Meta {
    const fn new(state: u64, life: u64, row: u64) -> Self {
        Self((state << STATE_SHIFT) | ((life & LIFE_MASK) << 48) | row)
    }

    const fn life(self) -> u64 {
        (self.0 >> 48) & LIFE_MASK
    }

    /// `None`: no word that we wrote.
    pub(crate) const fn state(self) -> Option<BlockState> {
        match self.0 >> STATE_SHIFT {
            0 => Some(BlockState::Free),
            1 => Some(BlockState::Loose),
            2 => Some(BlockState::Used),
            3 => Some(BlockState::Retired),
            _ => None,
        }
    }

    /// The row of a USED block.
    pub(crate) const fn row(self) -> crate::RowRef {
        crate::RowRef {
            index: (self.0 & ((1 << ROW_BITS) - 1)) as u32,
            generation: ((self.0 >> ROW_BITS) & GENERATION_MASK) as u32,
        }
    }

    pub(crate) const fn is_free(self) -> bool {
        self.0 >> STATE_SHIFT == 0
    }

    /// FREE → LOOSE in the next life.
    pub(crate) const fn loose(self) -> Self {
        Self::new(1, self.life() + 1, 0)
    }

    /// LOOSE → USED.
    pub(crate) const fn used(self, row: crate::RowRef) -> Self {
        let at = ((row.generation as u64 & GENERATION_MASK) << ROW_BITS)
            | (row.index as u64 & ((1 << ROW_BITS) - 1));
        Self::new(2, self.life(), at)
    }

    /// USED → LOOSE, when the row never came to hold it.
    pub(crate) const fn back_to_loose(self) -> Self {
        Self::new(1, self.life(), 0)
    }

    /// USED → RETIRED.
    pub(crate) const fn retired(self) -> Self {
        Self::new(3, self.life(), 0)
    }

    /// Any → FREE.
    pub(crate) const fn free(self) -> Self {
        Self::new(0, self.life(), 0)
    }
}

/// A decoded index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(pub(crate) u64);

impl Entry {
    pub(crate) const EMPTY: u64 = 0;

    /// Never 0, because a generation never is.
    pub(crate) const fn new(tag: u16, row: crate::RowRef) -> Self {
        Self(
            ((tag as u64) << 48)
                | ((row.generation as u64 & GENERATION_MASK) << ROW_BITS)
                | (row.index as u64 & ((1 << ROW_BITS) - 1)),
        )
    }

    pub(crate) const fn tag(self) -> u16 {
        (self.0 >> 48) as u16
    }

    pub(crate) const fn row(self) -> crate::RowRef {
        Meta(self.0).row()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RowRef;

    #[test]
    fn a_row_goes_round() {
        let free = Ctl(0);
        assert_eq!(free.state(), Some(RowState::Free));
        let pending = free.pending();
        assert_eq!(
            (pending.state(), pending.generation(), pending.body()),
            (Some(RowState::Pending), 1, None)
        );
        let live = pending.live(0, 7);
        assert_eq!(
            (live.state(), live.body(), live.flags()),
            (Some(RowState::Live), Some(0), 7)
        );
        let changed = live.changed(0, 7);
        assert_ne!(changed, live, "the same block again is another version");
        assert_eq!((changed.body(), changed.flags()), (Some(0), 7));
        let dying = changed.removed(3);
        assert_eq!(
            (dying.state(), dying.body()),
            (Some(RowState::Dying), Some(0))
        );
        assert_eq!(dying.retired().body(), None);
        assert_eq!(dying.retired().free().generation(), 1);
        assert_eq!(pending.dying().winner(), None);
        assert_eq!(pending.dying().retired().free().winner(), None);
        for winner in [0, 1, 383] {
            let removed = changed.removed(winner);
            assert_eq!(
                (removed.state(), removed.body(), removed.winner()),
                (Some(RowState::Dying), Some(0), Some(winner))
            );
            let (retired, free) = (removed.retired(), removed.retired().free());
            assert_eq!((retired.winner(), retired.body()), (Some(winner), None));
            assert_eq!(
                (free.winner(), free.state()),
                (Some(winner), Some(RowState::Free))
            );
            assert_eq!(free.pending(), Ctl::pending_as(2).unwrap());
            assert_eq!(free.pending().winner(), None);
        }
        assert_eq!(live.winner(), None);
        assert_eq!(Ctl(u64::MAX).state(), None);
    }

    #[test]
    fn generations_wrap_past_zero() {
        let last = Ctl::new(FREE, GENERATION_MASK as u32);
        assert_eq!(last.pending().generation(), 1);
    }

    #[test]
    fn metas_and_entries_name_their_row() {
        let row = RowRef {
            index: (1 << ROW_BITS) - 1,
            generation: GENERATION_MASK as u32,
        };
        let used = Meta(0).loose().used(row);
        assert_eq!((used.state(), used.row()), (Some(BlockState::Used), row));
        assert_eq!(used.retired().state(), Some(BlockState::Retired));
        assert!(used.retired().free().is_free());
        let entry = Entry::new(0xbeef, row);
        assert_eq!((entry.tag(), entry.row()), (0xbeef, row));
    }
}
