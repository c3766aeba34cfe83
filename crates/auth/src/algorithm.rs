//! The digest algorithms of RFC 8760 §2.

use md5::{Digest as _, Md5};
use sha2::{Sha256, Sha512_256};

/// A digest algorithm; the stronger ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Md5,
    Sha256,
    Sha512_256,
}

/// Bytes of the longest digest.
pub const DIGEST_BYTES_MAX: usize = 32;

/// A digest: the first `len` bytes count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    bytes: [u8; DIGEST_BYTES_MAX],
    len: usize,
}

impl Algorithm {
    /// Strongest first, the order in which challenges should be offered (RFC 8760 §2.3).
    pub const ALL: [Self; 3] = [Self::Sha512_256, Self::Sha256, Self::Md5];

    /// The name in the `algorithm` parameter.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }

    /// The algorithm of this name; case does not matter.
    pub fn of(token: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.token().as_bytes().eq_ignore_ascii_case(token))
    }

    /// Bytes of the digest; its hexadecimal text is twice as long.
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 | Self::Sha512_256 => 32,
        }
    }

    /// The digest of the parts joined by colons, the only way that Digest puts things together.
    pub(crate) fn digest(self, parts: &[&[u8]]) -> Digest {
        match self {
            Self::Md5 => digest_with(Md5::new(), parts),
            Self::Sha256 => digest_with(Sha256::new(), parts),
            Self::Sha512_256 => digest_with(Sha512_256::new(), parts),
        }
    }
}

fn digest_with<D: md5::Digest>(mut hasher: D, parts: &[&[u8]]) -> Digest {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            hasher.update(b":");
        }
        hasher.update(part);
    }
    Digest::of(&hasher.finalize()).expect("no digest here is longer than DIGEST_BYTES_MAX")
}

impl Digest {
    /// `None` if there are too many bytes.
    pub(crate) fn of(digest: &[u8]) -> Option<Self> {
        let mut bytes = [0; DIGEST_BYTES_MAX];
        bytes.get_mut(..digest.len())?.copy_from_slice(digest);
        Some(Self {
            bytes,
            len: digest.len(),
        })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Lower-case hexadecimal; the text is the first `2 * len` bytes.
    pub(crate) fn hex(&self) -> Hex {
        let mut hex = Hex {
            bytes: [0; 2 * DIGEST_BYTES_MAX],
            len: 2 * self.len,
        };
        stdx::text::encode_hex(self.as_bytes(), &mut hex.bytes)
            .expect("the buffer holds the longest digest");
        hex
    }
}

/// A digest is as good as a password where it is an HA1: it prints as its length only.
impl core::fmt::Debug for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Digest({} bytes)", self.len)
    }
}

pub(crate) struct Hex {
    bytes: [u8; 2 * DIGEST_BYTES_MAX],
    len: usize,
}

impl Hex {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
