//! The branches that we put into our Via (RFC 3261 §16.6 step 8, RFC 5393 §4.2).
//!
//! ```text
//! z9hG4bK t <place: 13> <fold: 13> <seal: 13>      forwarded by a transaction
//! z9hG4bK s <place: 13> <fold: 13> <seal: 13>      forwarded without one
//! z9hG4bK p <place: 13> <fold: 13> <seal: 13>      a probe of our own (`probe`)
//! ```
//!
//! *place* leads a response to its transaction with no look-up: the listener that the request came in by (8 bits), the
//! row (index 28, generation 20) and the number of the branch (8). Without a transaction the row and number bits are a hash of
//! the incoming branch, so that a retransmission takes the same branch downstream. *fold* is the hash of everything that decides where the request goes; a
//! request that comes back with the same fold loops. *seal* is a keyed hash over both: nobody else can make a branch of ours.
//! A retransmission takes the same branch after a crash too, because the record that holds the place is published before the first send.

use shm::RowRef;
use stdx::{
    hash::{Key, hash64},
    text::{BASE32_U64, decode_base32_u64, encode_base32_u64},
};

const COOKIE: &[u8] = b"z9hG4bK";
/// Bytes of a branch of ours.
pub const BRANCH_BYTES: usize = COOKIE.len() + 1 + 3 * BASE32_U64;
/// A listener that has no 8-bit number of its own in a branch.
const LISTENER_UNKNOWN: u64 = 255;

/// Where a branch of ours leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A branch of a transaction.
    Transaction { row: RowRef, number: u8 },
    /// Forwarded without a transaction.
    Stateless { derived: u64 },
    /// A probe of the destination in this row of `balancer`; the fold is the time that it was sent at.
    Probe { resource: RowRef },
}

/// A branch of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    pub place: Place,
    /// The listener that the request came in by, if its number fits.
    pub listener: Option<u32>,
    /// The hash that tells loops from spirals.
    pub fold: u64,
}

impl Branch {
    /// One that was ours in a life before.
    pub const LOST: Self = Self {
        place: Place::Stateless { derived: 0 },
        listener: None,
        fold: 0,
    };

    /// The text for the Via parameter.
    pub fn encode(&self, key: &Key) -> [u8; BRANCH_BYTES] {
        let listener = self
            .listener
            .map_or(LISTENER_UNKNOWN, |id| u64::from(id).min(LISTENER_UNKNOWN));
        let (kind, low) = match self.place {
            Place::Transaction { row, number } => (b't', low_of(row) | u64::from(number)),
            Place::Probe { resource } => (b'p', low_of(resource)),
            Place::Stateless { derived } => (b's', derived & 0x00ff_ffff_ffff_ffff),
        };
        let place = listener << 56 | low;
        let mut text = [0; BRANCH_BYTES];
        let (cookie, rest) = text.split_at_mut(COOKIE.len());
        cookie.copy_from_slice(COOKIE);
        if let Some((first, rest)) = rest.split_first_mut() {
            *first = kind;
            for (part, value) in rest.chunks_exact_mut(BASE32_U64).zip([
                place,
                self.fold,
                seal(key, kind, place, self.fold),
            ]) {
                part.copy_from_slice(&encode_base32_u64(value));
            }
        }
        text
    }

    /// Reads a branch; `None` if it is not one of ours.
    pub fn decode(key: &Key, text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(COOKIE)?;
        let (&kind, rest) = rest.split_first()?;
        let mut parts = rest.chunks_exact(BASE32_U64);
        let place = decode_base32_u64(parts.next()?)?;
        let fold = decode_base32_u64(parts.next()?)?;
        let sealed = decode_base32_u64(parts.next()?)?;
        if parts.next().is_some()
            || !parts.remainder().is_empty()
            || sealed != seal(key, kind, place, fold)
        {
            return None;
        }
        let listener = Some(place >> 56)
            .filter(|&id| id != LISTENER_UNKNOWN)
            .and_then(|id| u32::try_from(id).ok());
        let place = match kind {
            b't' => Place::Transaction {
                row: row_of(place),
                number: (place & 0xff) as u8,
            },
            b'p' => Place::Probe {
                resource: row_of(place),
            },
            b's' => Place::Stateless {
                derived: place & 0x00ff_ffff_ffff_ffff,
            },
            _ => return None,
        };
        Some(Self {
            place,
            listener,
            fold,
        })
    }
}

fn low_of(row: RowRef) -> u64 {
    (u64::from(row.index) & 0x0fff_ffff) << 28 | (u64::from(row.generation) & 0xf_ffff) << 8
}

fn row_of(place: u64) -> RowRef {
    RowRef {
        index: (place >> 28 & 0x0fff_ffff) as u32,
        generation: (place >> 8 & 0xf_ffff) as u32,
    }
}

fn seal(key: &Key, kind: u8, place: u64, fold: u64) -> u64 {
    hash64(
        key,
        &[
            b"branch",
            &[kind],
            &place.to_be_bytes(),
            &fold.to_be_bytes(),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else() {
        let key = Key([7; 16]);
        let branch = Branch {
            place: Place::Transaction {
                row: RowRef {
                    index: 0x0abc_def1,
                    generation: 0xf_1234,
                },
                number: 3,
            },
            listener: Some(2),
            fold: 0xdead_beef_0123_4567,
        };
        let text = branch.encode(&key);
        assert_eq!(Branch::decode(&key, &text), Some(branch));
        assert_eq!(Branch::decode(&Key([8; 16]), &text), None);
        for at in 0..text.len() {
            let mut bad = text;
            bad[at] ^= 1;
            assert_ne!(Branch::decode(&key, &bad), Some(branch), "byte {at}");
            assert_eq!(Branch::decode(&key, text.get(..at).unwrap()), None);
        }
        let probe = Branch {
            place: Place::Probe {
                resource: RowRef {
                    index: 7,
                    generation: 9,
                },
            },
            ..branch
        };
        assert_eq!(Branch::decode(&key, &probe.encode(&key)), Some(probe));
        let stateless = Branch {
            place: Place::Stateless { derived: 99 },
            listener: None,
            fold: 1,
        };
        assert_eq!(
            Branch::decode(&key, &stateless.encode(&key)),
            Some(stateless)
        );
    }
}
