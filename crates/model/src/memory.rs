//! The words that participants share, and nothing else.

/// A participant's number.
pub type Id = u8;

/// Participants at most; the last may be the party that recovers others.
pub const ACTORS: usize = 4;
/// Rows at most.
pub const ROWS: usize = 4;
/// Blocks at most.
pub const BLOCKS: usize = 8;
/// Places for entries in each index at most.
pub const PLACES: usize = 3;

/// A row in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowRef {
    /// Which row.
    pub row: u8,
    /// Which of its lives.
    pub generation: u8,
}

/// Where a row is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as in shm::ctl")]
pub enum State {
    Free,
    Pending,
    Live,
    Dying,
    Retired,
}

/// A row's control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ctl {
    /// Where it is in its life.
    pub state: State,
    /// Which life.
    pub generation: u8,
    /// The block that holds its body.
    pub body: Option<u8>,
    /// How often the body was swapped.
    pub change: u8,
    /// Of a row that was LIVE: who removed it.
    pub winner: Option<Id>,
}

impl Ctl {
    const NEW: Self = Self {
        state: State::Free,
        generation: 0,
        body: None,
        change: 0,
        winner: None,
    };

    /// FREE → PENDING.
    pub fn pending(self) -> Self {
        Self {
            state: State::Pending,
            generation: self.generation + 1,
            ..Self::NEW
        }
    }

    /// PENDING → LIVE.
    pub fn live(self, body: u8) -> Self {
        Self {
            state: State::Live,
            body: Some(body),
            ..self
        }
    }

    /// LIVE → LIVE.
    pub fn changed(self, body: u8) -> Self {
        Self {
            body: Some(body),
            change: self.change + 1,
            ..self
        }
    }

    /// PENDING → DYING (`winner` is nobody) or LIVE → DYING.
    pub fn dying(self, winner: Option<Id>) -> Self {
        Self {
            state: State::Dying,
            winner,
            ..self
        }
    }

    /// DYING → RETIRED.
    pub fn retired(self) -> Self {
        Self {
            state: State::Retired,
            body: None,
            change: 0,
            ..self
        }
    }

    /// RETIRED → FREE.
    pub fn free(self) -> Self {
        Self {
            state: State::Free,
            ..self
        }
    }
}

/// What a row is found by. Written while PENDING, before the row is in any index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Names {
    /// Name in the first index.
    pub key: u8,
    /// Name in the second.
    pub alias: Option<u8>,
}

/// Which index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Index {
    Key,
    Alias,
}

impl Names {
    /// The name in this index.
    pub fn of(self, index: Index) -> Option<u8> {
        match index {
            Index::Key => Some(self.key),
            Index::Alias => self.alias,
        }
    }
}

/// A row: its control word and its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Row {
    pub ctl: Ctl,
    pub names: Names,
}

/// Where a block is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as in shm::ctl")]
pub enum BlockState {
    Free,
    Loose,
    Used(RowRef),
    Retired,
}

/// A block's meta word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Meta {
    pub state: BlockState,
    pub life: u8,
}

/// What is written into a block: not one word, but nobody reads it while it is written, which is what the check of `of` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// The record and the number of the change that it was written for.
    pub of: (RowRef, u8),
    /// Its names.
    pub names: Names,
    /// Its further block.
    pub child: Option<u8>,
    /// Whether the record is counted.
    pub counted: bool,
}

/// What a participant is in the middle of. Three words: the row (0: nothing), its old control word, the new value of its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Intent {
    pub row: Option<u8>,
    pub old: Ctl,
    pub cell: Option<i8>,
}

/// Everything that is shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Memory {
    pub rows: [Row; ROWS],
    pub metas: [Meta; BLOCKS],
    pub contents: [Content; BLOCKS],
    pub entries: [[Option<RowRef>; PLACES]; 2],
    pub epoch: u8,
    /// 0: offline.
    pub announced: [u8; ACTORS],
    pub intents: [Intent; ACTORS],
    pub cells: [i8; ACTORS],
}

impl Default for Memory {
    fn default() -> Self {
        let names = Names {
            key: 0,
            alias: None,
        };
        let nobody = RowRef {
            row: 0,
            generation: 0,
        };
        Self {
            rows: [Row {
                ctl: Ctl::NEW,
                names,
            }; ROWS],
            metas: [Meta {
                state: BlockState::Free,
                life: 0,
            }; BLOCKS],
            contents: [Content {
                of: (nobody, 0),
                names,
                child: None,
                counted: false,
            }; BLOCKS],
            entries: [[None; PLACES]; 2],
            epoch: 1,
            announced: [0; ACTORS],
            intents: [Intent {
                row: None,
                old: Ctl::NEW,
                cell: None,
            }; ACTORS],
            cells: [0; ACTORS],
        }
    }
}

/// What one access of shared memory gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Seen {
    Ctl(Ctl),
    Names(Names),
    Meta(Meta),
    Content(Content),
    Entry(Option<RowRef>),
    Intent(Intent),
    Number(i8),
    Done(bool),
}
