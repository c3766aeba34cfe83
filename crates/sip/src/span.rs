//! Places in a message: a byte ([`ByteAt`]), and a run of bytes ([`Span`]).

use std::fmt;

/// A byte's place, counted from the start of the text that was parsed: a buffer, a header's value, a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteAt(pub u32);

impl ByteAt {
    /// The place of byte `at`. Messages are far below 4 GiB; a place beyond saturates.
    pub fn new(at: usize) -> ByteAt {
        ByteAt(u32::try_from(at).unwrap_or(u32::MAX))
    }

    /// The same place counted from an enclosing text in which this text starts at `base`.
    #[must_use]
    pub fn after(self, base: ByteAt) -> ByteAt {
        ByteAt(self.0.saturating_add(base.0))
    }
}

impl fmt::Display for ByteAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run of bytes of a buffer, `start..end`.
///
/// A span carries no promise about the buffer it is used with: one that does not fit reads as empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub const fn new(start: u32, end: u32) -> Span {
        Span { start, end }
    }

    /// The span `start..end`, for offsets into a buffer whose length was checked to fit `u32`.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn of(start: usize, end: usize) -> Span {
        debug_assert!(start <= end && u32::try_from(end).is_ok());
        Span {
            start: start as u32,
            end: end as u32,
        }
    }

    pub fn len(self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    pub fn contains(self, inner: Span) -> bool {
        self.start <= inner.start && inner.end <= self.end
    }

    /// The bytes of this span; empty when it does not fit the buffer.
    #[inline]
    pub fn slice(self, bytes: &[u8]) -> &[u8] {
        bytes
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    /// Where `inner`, a slice borrowed from `bytes`, lies in it; `None` when it is not a part of it.
    pub fn within(bytes: &[u8], inner: &[u8]) -> Option<Span> {
        let start = inner.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
        let end = start.checked_add(inner.len())?;
        (end <= bytes.len()).then(|| Span::of(start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_that_does_not_fit_is_empty() {
        assert_eq!(Span::new(1, 3).slice(b"abcd"), b"bc");
        assert_eq!(Span::new(3, 9).slice(b"abcd"), b"");
        assert_eq!(Span::new(3, 1).slice(b"abcd"), b"");
    }

    #[test]
    fn within_finds_a_slice_again() {
        let bytes = b"INVITE sip:a".as_slice();
        assert_eq!(Span::within(bytes, &bytes[7..]), Some(Span::new(7, 12)));
        assert_eq!(Span::within(&bytes[7..], bytes), None);
    }
}
