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

    /// The algorithm of this name, and whether it is the session form (`MD5-sess`); case does not matter.
    pub fn of(token: &[u8]) -> Option<(Self, bool)> {
        const SESSION: usize = b"-sess".len();
        let named = |name: &[u8]| {
            Self::ALL
                .into_iter()
                .find(|known| known.token().as_bytes().eq_ignore_ascii_case(name))
        };
        if let Some(known) = named(token) {
            return Some((known, false));
        }
        let (name, tail) = token.split_at_checked(token.len().checked_sub(SESSION)?)?;
        let known = named(name)?;
        tail.eq_ignore_ascii_case(b"-sess").then_some((known, true))
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

/// A set of algorithms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Algorithms(u8);

impl Algorithms {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub const fn with(self, algorithm: Algorithm) -> Self {
        Self(self.0 | 1 << algorithm as u8)
    }

    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub const fn has(self, algorithm: Algorithm) -> bool {
        self.0 & 1 << algorithm as u8 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Strongest first.
    pub fn iter(self) -> impl Iterator<Item = Algorithm> {
        Algorithm::ALL
            .into_iter()
            .filter(move |&algorithm| self.has(algorithm))
    }

    /// As a number below 8.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// What [`Algorithms::bits`] gave; other bits are left out.
    pub const fn of_bits(bits: u8) -> Self {
        Self(bits & 7)
    }
}

impl FromIterator<Algorithm> for Algorithms {
    fn from_iter<I: IntoIterator<Item = Algorithm>>(all: I) -> Self {
        all.into_iter().fold(Self::NONE, Self::with)
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

    /// What no text has, as far as anybody knows.
    pub(crate) fn zero(algorithm: Algorithm) -> Self {
        Self {
            bytes: [0; DIGEST_BYTES_MAX],
            len: algorithm.digest_bytes(),
        }
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
