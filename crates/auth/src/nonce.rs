//! Nonces that nobody has to remember.
//!
//! `base32(milliseconds of the monotonic clock, an id) base32(MAC over them and the realm)`. The key is the arena's: all
//! workers accept each other's nonces, before and after a crash; a nonce of another server, or of another arena, is foreign.
//!
//! The id keeps two nonces of one millisecond apart. Which uses of a nonce there have been is counted elsewhere, by [`Made`].

use core::time::Duration;

use stdx::Instant;
use stdx::hash::{Key, hash128};
use stdx::text::{
    BASE32_U64, BASE32_U128, decode_base32_u64, decode_base32_u128, encode_base32_u64,
    encode_base32_u128,
};

/// Bytes of a nonce's text.
pub const NONCE_BYTES: usize = BASE32_U64 + BASE32_U128;

/// A nonce as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce([u8; NONCE_BYTES]);

/// A nonce of ours that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// When it was made. Unit: ms of the monotonic clock.
    pub millis: u64,
    /// A hash that only we can compute: where to look for its uses.
    pub hash: u64,
}

/// What we know of a nonce that a client sends back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Ours and young enough.
    Fresh(Made),
    /// Ours and too old: challenge again, with `stale` if the digest is right (RFC 7616 §3.3).
    Stale,
    /// Not ours, or for another realm, or from before the arena's last creation, or from a future too far.
    Foreign,
}

impl Nonce {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The nonce for a challenge of this realm made now. `id` (its low 24 bits) tells it from others of the same millisecond.
pub fn nonce(key: &Key, now: Instant, id: u64, realm: &[u8]) -> Nonce {
    let millis = now.as_nanos() / NANOS_PER_MILLI;
    let word = millis << ID_BITS | id & ((1 << ID_BITS) - 1);
    let mut text = [0; NONCE_BYTES];
    let (time, mac) = text.split_at_mut(BASE32_U64);
    time.copy_from_slice(&encode_base32_u64(word));
    mac.copy_from_slice(&encode_base32_u128(mac_of(key, word, realm)));
    Nonce(text)
}

/// Whether a nonce is ours, and no older than `lifetime`.
pub fn check_nonce(
    key: &Key,
    now: Instant,
    lifetime: Duration,
    realm: &[u8],
    nonce: &[u8],
) -> Freshness {
    let Some((time, mac)) = nonce.split_at_checked(BASE32_U64) else {
        return Freshness::Foreign;
    };
    let (Some(word), Some(mac)) = (decode_base32_u64(time), decode_base32_u128(mac)) else {
        return Freshness::Foreign;
    };
    // Comparing two numbers takes the same time whichever of their bits differ.
    if mac ^ mac_of(key, word, realm) != 0 {
        return Freshness::Foreign;
    }
    let millis = word >> ID_BITS;
    let made = Instant::from_nanos(millis.saturating_mul(NANOS_PER_MILLI));
    match now.checked_duration_since(made) {
        Some(age) if age > lifetime => Freshness::Stale,
        // The near future: another worker read the clock a moment after us; the MAC says that it is ours.
        None if made.saturating_duration_since(now) > FUTURE_MAX => Freshness::Foreign,
        _ => Freshness::Fresh(Made {
            millis,
            hash: mac as u64,
        }),
    }
}

const NANOS_PER_MILLI: u64 = 1_000_000;
/// Bits of the id; 40 are left for the time, which is 34 years.
const ID_BITS: u32 = 24;
/// How far the clocks of two workers can be apart: they read the same one.
const FUTURE_MAX: Duration = Duration::from_secs(1);

fn mac_of(key: &Key, word: u64, realm: &[u8]) -> u128 {
    hash128(key, &[b"digest nonce", &word.to_le_bytes(), realm])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([7; 16]);
    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_nonce_is_fresh_then_stale() {
        let nonce = nonce(&KEY, at(100), 1, b"a.example");
        let check = |now, realm: &[u8]| check_nonce(&KEY, now, MINUTE, realm, nonce.as_bytes());
        let Freshness::Fresh(made) = check(at(100), b"a.example") else {
            panic!("a new one is fresh")
        };
        assert_eq!(made.millis, 100_000);
        assert_eq!(check(at(99), b"a.example"), Freshness::Fresh(made));
        assert_eq!(check(at(160), b"a.example"), Freshness::Fresh(made));
        assert_eq!(check(at(161), b"a.example"), Freshness::Stale);
        assert_eq!(check(at(100), b"b.example"), Freshness::Foreign);
        // A recorded one whose time is still to come, say of a machine that was started anew.
        assert_eq!(check(at(98), b"a.example"), Freshness::Foreign);
    }

    #[test]
    fn two_of_one_millisecond_differ() {
        let made = |id| nonce(&KEY, at(100), id, b"a.example");
        assert_ne!(made(1), made(2));
        assert_eq!(made(1), made(1 | 1 << ID_BITS));
        let hash = |id| match check_nonce(&KEY, at(100), MINUTE, b"a.example", made(id).as_bytes())
        {
            Freshness::Fresh(made) => made.hash,
            other => panic!("{other:?}"),
        };
        assert_ne!(hash(1), hash(2));
    }

    #[test]
    fn a_touched_nonce_is_foreign() {
        let nonce = nonce(&KEY, at(100), 1, b"a.example");
        for index in 0..NONCE_BYTES {
            let mut touched = nonce.as_bytes().to_vec();
            touched[index] = if touched[index] == b'0' { b'1' } else { b'0' };
            assert_eq!(
                check_nonce(&KEY, at(100), MINUTE, b"a.example", &touched),
                Freshness::Foreign
            );
        }
        for cut in [
            &nonce.as_bytes()[..12],
            &nonce.as_bytes()[1..],
            b"",
            b"dcd98b7102dd2f0e8b11d0f600bfb0c093",
        ] {
            assert_eq!(
                check_nonce(&KEY, at(100), MINUTE, b"a.example", cut),
                Freshness::Foreign
            );
        }
        let other = Key([8; 16]);
        assert_eq!(
            check_nonce(&other, at(100), MINUTE, b"a.example", nonce.as_bytes()),
            Freshness::Foreign
        );
    }
}
