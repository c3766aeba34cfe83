//! Newtypes for what the arena numbers.

/// Who acts on the arena: reactor threads are `0..slots`, the control threads of worker processes `slots..slots + aux`.
/// It outlives the process behind it: an heir acts under the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParticipantId(pub u16);

/// A reactor's number, the same as its participant's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u16);

impl From<SlotId> for ParticipantId {
    fn from(slot: SlotId) -> Self {
        Self(slot.0)
    }
}

/// A table's number, `0..Layout::tables`. What it means is the business of the crate `tables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u8);

/// A row and the generation in which it was seen: a stale one misses, it never names a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowRef {
    /// Which row of the arena (28 bits).
    pub index: u32,
    /// Which of its lives (20 bits, never 0). See `ctl` for the time it takes to wrap.
    pub generation: u32,
}

impl RowRef {
    /// One word, for a branch or a mail. Never 0.
    pub const fn pack(self) -> u64 {
        ((self.generation as u64) << 32) | self.index as u64
    }

    /// The inverse of [`RowRef::pack`]; any word is safe to try.
    pub const fn unpack(word: u64) -> Self {
        Self {
            index: word as u32,
            generation: (word >> 32) as u32,
        }
    }
}

/// A block of bytes that belongs to a row, or is about to. Only its owner's `Participant` gives it meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Block(pub(crate) u32);

/// A receive buffer: whose pool, which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferRef {
    /// The slot whose ring filled it.
    pub slot: u16,
    /// Its number in that slot's pool.
    pub index: u16,
}

impl BufferRef {
    /// One half-word, for a mail.
    pub const fn pack(self) -> u32 {
        ((self.slot as u32) << 16) | self.index as u32
    }

    /// The inverse of [`BufferRef::pack`].
    pub const fn unpack(word: u32) -> Self {
        Self {
            slot: (word >> 16) as u16,
            index: word as u16,
        }
    }
}
