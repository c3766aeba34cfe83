//! Nonces that nobody has to remember.
//!
//! `base32(milliseconds of the monotonic clock) base32(MAC over them and the realm)`. The key is the arena's: all
//! workers accept each other's nonces, before and after a crash; a nonce from before a restart of the whole is foreign.

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

/// What we know of a nonce that a client sends back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Ours and young enough.
    Fresh,
    /// Ours and too old: challenge again, with `stale` if the digest is right (RFC 7616 §3.3).
    Stale,
    /// Not ours, or for another realm, or from before the arena's last creation.
    Foreign,
}

impl Nonce {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The nonce for a challenge of this realm made now.
pub fn nonce(key: &Key, now: Instant, realm: &[u8]) -> Nonce {
    let millis = now.as_nanos() / NANOS_PER_MILLI;
    let mut text = [0; NONCE_BYTES];
    let (time, mac) = text.split_at_mut(BASE32_U64);
    time.copy_from_slice(&encode_base32_u64(millis));
    mac.copy_from_slice(&encode_base32_u128(mac_of(key, millis, realm)));
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
    let (Some(millis), Some(mac)) = (decode_base32_u64(time), decode_base32_u128(mac)) else {
        return Freshness::Foreign;
    };
    // Comparing two numbers takes the same time whichever of their bits differ.
    if mac ^ mac_of(key, millis, realm) != 0 {
        return Freshness::Foreign;
    }
    let made = Instant::from_nanos(millis.saturating_mul(NANOS_PER_MILLI));
    match now.checked_duration_since(made) {
        Some(age) if age <= lifetime => Freshness::Fresh,
        Some(_) => Freshness::Stale,
        // The future: another worker read the clock a moment after us; the MAC says that it is ours.
        None => Freshness::Fresh,
    }
}

const NANOS_PER_MILLI: u64 = 1_000_000;

fn mac_of(key: &Key, millis: u64, realm: &[u8]) -> u128 {
    hash128(key, &[b"digest nonce", &millis.to_le_bytes(), realm])
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
        let nonce = nonce(&KEY, at(100), b"a.example");
        let check = |now, realm: &[u8]| check_nonce(&KEY, now, MINUTE, realm, nonce.as_bytes());
        assert_eq!(check(at(100), b"a.example"), Freshness::Fresh);
        assert_eq!(check(at(99), b"a.example"), Freshness::Fresh);
        assert_eq!(check(at(160), b"a.example"), Freshness::Fresh);
        assert_eq!(check(at(161), b"a.example"), Freshness::Stale);
        assert_eq!(check(at(100), b"b.example"), Freshness::Foreign);
    }

    #[test]
    fn a_touched_nonce_is_foreign() {
        let nonce = nonce(&KEY, at(100), b"a.example");
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
