//! Texts that only we can read: AES-SIV (RFC 5297), which is deterministic, so that one Call-ID always gives one token, and which needs no nonce
//! that somebody would have to keep.
//!
//! `th-` and then, in base64url: the key's id (1 byte) | synthetic IV (16) | ciphertext. That is safe as user part of a URI, as word in a Call-ID and as
//! parameter of a Via; all of these are given back byte for byte (RFC 3261 §8.1.1.4, §18.2, §19.1.4). It is not safe where letters lose their case, and is put
//! nowhere there.

use aes_siv::{KeyInit as _, siv::Aes128Siv};
use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest as _, Sha256};

/// What tokens begin with.
pub(crate) const PREFIX: &[u8] = b"th-";
/// Most bytes that are sealed: what a datagram may hold is far below.
pub const SEALED_BYTES_MAX: usize = 16 * 1024;
/// Most keys that are tried.
const KEYS_MAX: usize = 16;
const KEY_BYTES: usize = 32;

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey {
    id: u8,
    key: [u8; KEY_BYTES],
}

/// A key is a secret: it prints as its id only.
impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealKey({})", self.id)
    }
}

impl SealKey {
    /// Tells keys apart, mostly.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// The key of a secret of any length, which may serve other purposes too.
    pub fn of_secret(secret: &[u8]) -> Self {
        let derive = |what: &[u8]| -> [u8; KEY_BYTES] {
            Sha256::new_with_prefix(what)
                .chain_update(secret)
                .finalize()
                .into()
        };
        let [id, ..] = derive(b"tandem topology key id 1 ");
        Self {
            id,
            key: derive(b"tandem topology key 1 "),
        }
    }
}

/// Seals with the newest key, and opens what any of them has sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealer {
    newest: SealKey,
    older: Vec<SealKey>,
}

impl Sealer {
    pub fn new(newest: SealKey, older: impl IntoIterator<Item = SealKey>) -> Self {
        Self {
            newest,
            older: older.into_iter().take(KEYS_MAX).collect(),
        }
    }

    /// The id of the newest key.
    pub fn id(&self) -> u8 {
        self.newest.id
    }

    /// Appends the token of `plain`; false, and nothing was done, if that is too long.
    pub(crate) fn seal(&self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        self.seal_by(self.newest.id, plain, out)
    }

    /// The same by the key with this id, or the newest.
    pub(crate) fn seal_by(&self, id: u8, plain: &[u8], out: &mut Vec<u8>) -> bool {
        if plain.len() > SEALED_BYTES_MAX {
            return false;
        }
        let known = self.older.iter().find(|key| key.id == id);
        let by = known.filter(|_| self.newest.id != id);
        let SealKey { id, key } = by.unwrap_or(&self.newest);
        let mut cipher = Aes128Siv::new(key.into());
        let Ok(sealed) = cipher.encrypt([[*id]], plain) else {
            return false;
        };
        let mut bytes = Vec::with_capacity(sealed.len().saturating_add(1));
        bytes.push(*id);
        bytes.extend_from_slice(&sealed);
        out.extend_from_slice(PREFIX);
        out.extend_from_slice(BASE64URL_NOPAD.encode(&bytes).as_bytes());
        true
    }

    /// What was sealed; `None` if it is no token of ours.
    pub(crate) fn open(&self, token: &[u8]) -> Option<Vec<u8>> {
        let text = token.strip_prefix(PREFIX)?;
        if text.len() > SEALED_BYTES_MAX.saturating_mul(2) {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(text).ok()?;
        let (id, sealed) = bytes.split_first()?;
        [&self.newest]
            .into_iter()
            .chain(&self.older)
            .filter(|key| key.id == *id)
            .find_map(|key| {
                Aes128Siv::new((&key.key).into())
                    .decrypt([[*id]], sealed)
                    .ok()
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(secret: &[u8]) -> Sealer {
        Sealer::new(SealKey::of_secret(secret), [])
    }

    fn sealed(sealer: &Sealer, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(sealer.seal(plain, &mut out));
        out
    }

    #[test]
    fn what_is_sealed_is_opened_by_its_key_only_and_always_looks_the_same() {
        let one = sealer(b"one");
        let token = sealed(&one, b"call@host");
        assert_eq!(token, sealed(&one, b"call@host"));
        assert_ne!(token, sealed(&one, b"call@hosT"));
        assert_eq!(one.open(&token).as_deref(), Some(&b"call@host"[..]));
        assert_eq!(sealer(b"two").open(&token), None);
        for at in 0..token.len() {
            let mut bad = token.clone();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(one.open(&bad), None, "byte {at}");
            assert_eq!(one.open(&token[..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn older_keys_open_and_do_not_seal() {
        let old = sealer(b"old");
        let token = sealed(&old, b"x");
        let rotated = Sealer::new(SealKey::of_secret(b"new"), [SealKey::of_secret(b"old")]);
        assert_eq!(rotated.open(&token).as_deref(), Some(&b"x"[..]));
        assert_eq!(sealed(&rotated, b"x"), sealed(&sealer(b"new"), b"x"));
    }

    #[test]
    fn what_is_too_long_is_not_sealed() {
        let mut out = Vec::new();
        assert!(!sealer(b"one").seal(&vec![0; SEALED_BYTES_MAX + 1], &mut out));
        assert!(out.is_empty());
        assert!(sealer(b"one").seal(&vec![0; SEALED_BYTES_MAX], &mut out));
        assert!(sealer(b"one").open(&out).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(plain in proptest::collection::vec(any::<u8>(), 0..300)) {
            let token = sealed(&sealer(b"key"), &plain);
            let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            prop_assert!(token.iter().all(legal));
            prop_assert_eq!(sealer(b"key").open(&token), Some(plain));
        }

        #[test]
        fn no_text_is_mistaken(text in "th-[A-Za-z0-9_-]{0,80}|.{0,40}") {
            prop_assert_eq!(sealer(b"key").open(text.as_bytes()), None);
        }
    }
}
