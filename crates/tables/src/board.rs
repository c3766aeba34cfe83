//! How the arena's board (`shm::Arena::board`) is divided.
//!
//! ```text
//! word 0: nonces made until then have forgotten uses (`nonces`) | words 1 to 7: zero | an eighth: `attempts` | the rest: `nonces`
//! ```
//!
//! Nothing here is a record: there is no owner, no epoch and no recovery. Each note is one word that is changed by one CAS, so that a death between any
//! two instructions leaves it as it was or as it was to be. The board never grows and is never full: a new note takes the place of the
//! one that matters least. What is lost by that is told at each of its users.

use sync::AtomicU64;

/// Words before the first note.
const HEAD: usize = 8;
/// Words of a bucket of `attempts`: a cache line.
pub(crate) const BUCKET: usize = 8;
/// Words of a note of `nonces`: half a cache line.
pub(crate) const NOTE: usize = 4;

/// The parts of the board.
pub(crate) struct Parts<'b> {
    pub(crate) floor: Option<&'b AtomicU64>,
    pub(crate) attempts: &'b [[AtomicU64; BUCKET]],
    pub(crate) nonces: &'b [[AtomicU64; NOTE]],
}

impl<'b> Parts<'b> {
    pub(crate) fn of(board: &'b [AtomicU64]) -> Self {
        let (head, rest) = board.split_at_checked(HEAD).unwrap_or((&[], &[]));
        let (attempts, nonces) = rest
            .split_at_checked(rest.len() / 8 / BUCKET * BUCKET)
            .unwrap_or((&[], &[]));
        Self {
            floor: head.first(),
            attempts: attempts.as_chunks().0,
            nonces: nonces.as_chunks().0,
        }
    }
}

/// The place of a hash among `all`: its upper bits, so that the lower ones are left to tell those of one place apart.
pub(crate) fn place<T>(all: &[T], hash: u64) -> Option<&T> {
    let index = (u128::from(hash) * all.len() as u128) >> 64;
    all.get(usize::try_from(index).ok()?)
}
