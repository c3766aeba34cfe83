//! Keyed hashes over several parts (SipHash): the same on every machine and in every release.
//!
//! Every part is preceded by its length, so that the parts `("ab", "c")` and `("a", "bc")` differ. Keyed, because peers
//! choose what we hash: without the key nobody can aim at one bucket or guess a branch.

use core::fmt;
use core::hash::Hasher as _;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// The key of a hash; drawn once for an arena and shared by all workers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(pub [u8; 16]);

/// A key is a secret: it prints as its type only.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// 64 bits for indexes and spreading (SipHash-1-3).
pub fn hash64(key: &Key, parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key.0);
    let mut flat = [0; FLAT_BYTES];
    if let Some(bytes) = flatten(parts, &mut flat) {
        return hasher.hash(bytes);
    }
    for part in parts {
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part);
    }
    hasher.finish()
}

/// What is hashed in one go: piece by piece costs a hasher its word boundaries, which is twice the work for short parts.
const FLAT_BYTES: usize = 512;

/// The parts with their lengths in one buffer; `None` if they do not fit.
fn flatten<'f>(parts: &[&[u8]], flat: &'f mut [u8; FLAT_BYTES]) -> Option<&'f [u8]> {
    let mut used = 0;
    for part in parts {
        let text = used + size_of::<u64>();
        let end = text + part.len();
        flat.get_mut(used..text)?
            .copy_from_slice(&(part.len() as u64).to_le_bytes());
        flat.get_mut(text..end)?.copy_from_slice(part);
        used = end;
    }
    flat.get(..used)
}

/// 128 bits where a peer must not be able to guess or to collide: branches, tags (SipHash-2-4-128).
pub fn hash128(key: &Key, parts: &[&[u8]]) -> u128 {
    let mut hasher = SipHasher24::new_with_key(&key.0);
    for part in parts {
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part);
    }
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

    #[test]
    fn borders_between_parts_count() {
        assert_ne!(hash64(&KEY, &[b"ab", b"c"]), hash64(&KEY, &[b"a", b"bc"]));
        assert_ne!(hash64(&KEY, &[b"a"]), hash64(&KEY, &[b"a", b""]));
        assert_ne!(hash128(&KEY, &[b"ab", b"c"]), hash128(&KEY, &[b"a", b"bc"]));
        assert_ne!(hash64(&KEY, &[b"a"]), hash64(&Key([7; 16]), &[b"a"]));
    }

    #[test]
    fn long_parts_hash_as_short_ones_do() {
        let long = [7; 3 * FLAT_BYTES];
        for cut in [
            0,
            1,
            8,
            FLAT_BYTES - 16,
            FLAT_BYTES - 8,
            FLAT_BYTES,
            3 * FLAT_BYTES,
        ] {
            let parts: [&[u8]; 2] = [&long[..cut], b"tail"];
            let mut hasher = SipHasher13::new_with_key(&KEY.0);
            for part in parts {
                hasher.write(&(part.len() as u64).to_le_bytes());
                hasher.write(part);
            }
            assert_eq!(hash64(&KEY, &parts), hasher.finish(), "{cut}");
        }
    }

    /// Rows and branches outlive a release: these values never change.
    #[test]
    fn values_are_pinned() {
        assert_eq!(hash64(&KEY, &[b"tandem", b"1"]), PINNED_64);
        assert_eq!(hash128(&KEY, &[b"tandem", b"1"]), PINNED_128);
    }
    const PINNED_64: u64 = 10_210_605_466_098_281_845;
    const PINNED_128: u128 = 95476511838616905872712030248736879119;
}
