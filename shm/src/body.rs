//! What lies in a block: a header, then children, key, alias and payload.
//!
//! ```text
//! 0   payload length: 17 bits | alias length + 1, or 0 without: 15 bits | key length: 2 | children: 1 | kind: 1
//! 8   expires_at, ns; u64::MAX: never
//! 16  children, 4 bytes each | key | alias | payload
//! ```
//!
//! kind 1: a record's body; 2: a child; 3: a child that holds counter cells (see `counts`), whose payload length is 0.
//!
//! A block is written by its owner while it is LOOSE and never again before its grace period is over, so readers
//! read plain bytes. They do not trust them: every length is clamped to the block.

use core::ptr::NonNull;

use stdx::Instant;

use crate::id::Block;

pub const HEADER_BYTES: usize = 16;
/// Children of a row at most.
pub const CHILDREN_MAX: usize = 40;
// An image has a bit for each.
const _: () = assert!(CHILDREN_MAX <= 64);
/// Bytes of a key, and of an alias, at most.
pub const KEY_MAX: usize = 4096;

/// A payload is at most a whole slab.
const PAYLOAD_BITS: u32 = 17;
const PAYLOAD_MASK: u64 = (1 << PAYLOAD_BITS) - 1;
const _: () = assert!((KEY_MAX as u64) < (1 << (32 - PAYLOAD_BITS)) - 1);

/// Expiry of a record that never does.
pub(crate) const NEVER: u64 = u64::MAX;

/// What a block is to say in its header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) alias: Option<&'a [u8]>,
    pub(crate) payload: &'a [&'a [u8]],
    pub(crate) children: &'a [Block],
    pub(crate) expires_at: u64,
}

impl Contents<'_> {
    fn payload_bytes(&self) -> usize {
        self.payload.iter().map(|p| p.len()).sum()
    }

    /// Bytes of the whole block.
    pub(crate) fn bytes(&self) -> usize {
        HEADER_BYTES
            + self.children.len() * 4
            + self.key.len()
            + self.alias.map_or(0, <[u8]>::len)
            + self.payload_bytes()
    }

    /// Writes everything.
    ///
    /// # Safety
    /// `at` is 8-aligned and valid for writes of [`Contents::bytes`] bytes that nobody else reads or writes meanwhile.
    pub(crate) unsafe fn write(&self, at: NonNull<u8>) {
        debug_assert!(self.children.len() <= CHILDREN_MAX && self.key.len() <= KEY_MAX);
        debug_assert!(self.alias.is_none_or(|a| a.len() <= KEY_MAX));
        let counts = self.payload_bytes() as u64 & PAYLOAD_MASK
            | self.alias.map_or(0, |a| a.len() as u64 + 1) << PAYLOAD_BITS
            | (self.key.len() as u64) << 32
            | (self.children.len() as u64) << 48
            | 1 << 56;
        // SAFETY: the first 16 bytes of what the caller gave, 8-aligned.
        unsafe { at.cast::<[u64; 2]>().write([counts, self.expires_at]) };
        let mut offset = HEADER_BYTES;
        let mut put = |bytes: *const u8, len: usize| {
            // SAFETY: offset <= bytes(), the sum of all parts.
            let to = unsafe { at.add(offset) };
            // SAFETY: `len` readable bytes of a slice, to the caller's bytes, which nobody else touches: no overlap.
            unsafe { core::ptr::copy_nonoverlapping(bytes, to.as_ptr(), len) };
            offset += len;
        };
        put(self.children.as_ptr().cast(), size_of_val(self.children));
        put(self.key.as_ptr(), self.key.len());
        if let Some(alias) = self.alias {
            put(alias.as_ptr(), alias.len());
        }
        for part in self.payload {
            put(part.as_ptr(), part.len());
        }
    }
}

/// Writes the header of a child of `len` payload bytes; the payload follows at [`HEADER_BYTES`].
///
/// # Safety
/// As for [`Contents::write`], with `HEADER_BYTES` bytes.
pub(crate) unsafe fn write_child_header(at: NonNull<u8>, len: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        at.cast::<[u64; 2]>()
            .write([len as u64 & PAYLOAD_MASK | 2 << 56, NEVER])
    };
}

/// Kind of a block of cells.
pub(crate) const KIND_CELLS: u64 = 3;

/// Writes the header of a block of cells.
///
/// # Safety
/// As for [`Contents::write`], with `HEADER_BYTES` bytes.
pub(crate) unsafe fn write_cells_header(at: NonNull<u8>) {
    // SAFETY: passed on to the caller.
    unsafe { at.cast::<[u64; 2]>().write([KIND_CELLS << 56, NEVER]) };
}

/// A block's contents, clamped to its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyView<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) alias: Option<&'a [u8]>,
    pub(crate) payload: &'a [u8],
    pub(crate) children: &'a [Block],
    pub(crate) expires_at: u64,
}

impl<'a> BodyView<'a> {
    /// Reads a block of `size` bytes.
    ///
    /// # Safety
    /// `at` is 8-aligned and valid for reads of `size >= HEADER_BYTES` bytes, which nobody writes during `'a`.
    pub(crate) unsafe fn read(at: NonNull<u8>, size: usize) -> Self {
        debug_assert!(size >= HEADER_BYTES);
        // SAFETY: the first 16 of `size` bytes, 8-aligned.
        let [counts, expires_at] = unsafe { at.cast::<[u64; 2]>().read() };
        let mut rest = size - HEADER_BYTES;
        let children = ((counts >> 48) as u8 as usize)
            .min(CHILDREN_MAX)
            .min(rest / 4);
        rest -= children * 4;
        let key = ((counts >> 32) as u16 as usize).min(rest);
        rest -= key;
        let named = (counts as u32 >> PAYLOAD_BITS) as usize;
        let alias = named.saturating_sub(1).min(rest);
        rest -= alias;
        let payload = ((counts & PAYLOAD_MASK) as usize).min(rest);
        // SAFETY: HEADER_BYTES <= size.
        let first = unsafe { at.add(HEADER_BYTES) };
        // SAFETY: 16 + children * 4 <= size; 4-aligned; any four bytes are a Block; not written during 'a.
        let children =
            unsafe { core::slice::from_raw_parts(first.cast::<Block>().as_ptr(), children) };
        // SAFETY: still inside the block.
        let at_key = unsafe { first.add(size_of_val(children)) };
        // SAFETY: `key` was clamped to what is left of the block; not written during 'a.
        let key = unsafe { core::slice::from_raw_parts(at_key.as_ptr(), key) };
        // SAFETY: still inside the block.
        let at_alias = unsafe { at_key.add(key.len()) };
        // SAFETY: `alias` was clamped to what is left of the block; not written during 'a.
        let alias = unsafe { core::slice::from_raw_parts(at_alias.as_ptr(), alias) };
        // SAFETY: still inside the block.
        let at_payload = unsafe { at_alias.add(alias.len()) };
        // SAFETY: `payload` was clamped to what is left of the block; not written during 'a.
        let payload = unsafe { core::slice::from_raw_parts(at_payload.as_ptr(), payload) };
        Self {
            key,
            alias: (named != 0).then_some(alias),
            payload,
            children,
            expires_at,
        }
    }
}

pub(crate) fn expiry(word: u64) -> Option<Instant> {
    (word != NEVER).then(|| Instant::from_nanos(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for alias in [None, Some(&b""[..]), Some(b"bob")] {
            let mut bytes = [0u64; 16];
            let at = NonNull::new(bytes.as_mut_ptr().cast::<u8>()).unwrap();
            let contents = Contents {
                key: b"alice",
                alias,
                payload: &[b"one ", b"", b"two"],
                children: &[Block(7), Block(9)],
                expires_at: 5,
            };
            let named = alias.map_or(0, <[u8]>::len);
            assert_eq!(contents.bytes(), 16 + 8 + 5 + named + 7);
            // SAFETY: 128 bytes of our own.
            unsafe { contents.write(at) };
            // SAFETY: as above, and nobody writes them any more.
            let view = unsafe { BodyView::read(at, 128) };
            assert_eq!((view.key, view.payload), (&b"alice"[..], &b"one two"[..]));
            assert_eq!(view.alias, alias);
            assert_eq!(view.children, [Block(7), Block(9)]);
            assert_eq!(expiry(view.expires_at), Some(Instant::from_nanos(5)));
        }
    }

    #[test]
    fn the_longest_of_everything_fits_the_header() {
        let (key, payload) = ([1; KEY_MAX], [2; 65_536 - 2 * KEY_MAX - HEADER_BYTES]);
        let mut bytes = vec![0u64; 8192];
        let at = NonNull::new(bytes.as_mut_ptr().cast::<u8>()).unwrap();
        let contents = Contents {
            key: &key,
            alias: Some(&key),
            payload: &[&payload],
            children: &[],
            expires_at: NEVER,
        };
        assert_eq!(contents.bytes(), 65_536);
        // SAFETY: 65536 bytes of our own.
        unsafe { contents.write(at) };
        // SAFETY: as above, and nobody writes them any more.
        let view = unsafe { BodyView::read(at, 65_536) };
        assert_eq!((view.key, view.alias), (&key[..], Some(&key[..])));
        assert_eq!(view.payload, payload);
    }

    #[test]
    fn garbage_is_clamped() {
        let mut bytes = [u64::MAX; 16];
        let at = NonNull::new(bytes.as_mut_ptr().cast::<u8>()).unwrap();
        for size in [16, 17, 20, 64, 128] {
            // SAFETY: 128 bytes of our own.
            let view = unsafe { BodyView::read(at, size) };
            let total = view.key.len()
                + view.alias.map_or(0, <[u8]>::len)
                + view.payload.len()
                + view.children.len() * 4;
            assert!(total <= size - 16);
        }
    }
}
