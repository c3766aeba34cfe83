//! A place in some bytes, and the walk over them that every parser of typed headers and URIs shares.

use std::fmt;

/// Offset of one byte from the start of the text that was parsed: a message, a header's value, a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteAt(pub u32);

impl ByteAt {
    /// The place of byte `at`. Messages are far below 4 GiB; a place beyond saturates.
    pub fn new(at: usize) -> Self {
        Self(u32::try_from(at).unwrap_or(u32::MAX))
    }

    /// The same place counted from an enclosing text in which this text starts at `base`.
    #[must_use]
    pub fn after(self, base: ByteAt) -> Self {
        Self(self.0.saturating_add(base.0))
    }
}

impl fmt::Display for ByteAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `bytes` without linear white space (folding included) at both ends.
pub fn trim(bytes: &[u8]) -> &[u8] {
    let white = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let start = bytes.iter().position(|b| !white(b)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|b| !white(b)).map_or(start, |last| last.saturating_add(1));
    bytes.get(start..end).unwrap_or_default()
}

/// Whether `b` may be in a `token` (§25.1).
pub(crate) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// A reading position in `bytes`. It only moves forward, and never past the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn at(&self) -> ByteAt {
        ByteAt::new(self.at)
    }

    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn ahead(&self, by: usize) -> Option<u8> {
        self.bytes.get(self.at.checked_add(by)?).copied()
    }

    pub(crate) fn advance(&mut self, by: usize) {
        self.at = self.at.saturating_add(by).min(self.bytes.len());
    }

    /// Moves over `byte` if it is next.
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.advance(1);
        }
        found
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// What has been read since `start`.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    pub(crate) fn take_while(&mut self, mut wanted: impl FnMut(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let len = rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len());
        self.advance(len);
        rest.get(..len).unwrap_or_default()
    }

    /// Moves over linear white space: blanks, tabs and folded line ends (§7.3.1).
    pub(crate) fn skip_lws(&mut self) {
        loop {
            match self.peek() {
                Some(b' ' | b'\t') => self.advance(1),
                Some(b'\n') if matches!(self.ahead(1), Some(b' ' | b'\t')) => self.advance(2),
                Some(b'\r')
                    if self.ahead(1) == Some(b'\n')
                        && matches!(self.ahead(2), Some(b' ' | b'\t')) =>
                {
                    self.advance(3);
                }
                _ => return,
            }
        }
    }

    /// Reads a quoted-string (§25.1), quotes included. `None`, without moving, if none is well formed here.
    ///
    /// A quoted pair is a backslash and any byte but CR or LF; line ends are allowed only as folding.
    pub(crate) fn take_quoted(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        let mut ahead = *self;
        if !ahead.eat(b'"') {
            return None;
        }
        loop {
            match ahead.peek()? {
                b'"' => {
                    ahead.advance(1);
                    *self = ahead;
                    return Some(self.since(start));
                }
                b'\\' if matches!(ahead.ahead(1), Some(next) if next != b'\r' && next != b'\n') => {
                    ahead.advance(2);
                }
                b'\r' | b'\n' => {
                    let before = ahead.at;
                    ahead.skip_lws();
                    if ahead.at == before {
                        return None;
                    }
                }
                b'\\' => return None,
                _ => ahead.advance(1),
            }
        }
    }
}

/// Writes the text of a quoted-string without its quotes and backslashes; a token is written as it is.
///
/// Folding inside becomes one blank (§7.3.1). So `out` holds no line end that the sender did not escape
/// with a backslash, and those are refused when the string is parsed.
pub fn unquote(raw: &[u8], out: &mut Vec<u8>) {
    let Some(inner) = raw.strip_prefix(b"\"").and_then(|r| r.strip_suffix(b"\"")) else {
        out.extend_from_slice(raw);
        return;
    };
    let mut cursor = Cursor::new(inner);
    while let Some(byte) = cursor.peek() {
        match byte {
            b'\\' => {
                cursor.advance(1);
                out.extend(cursor.peek());
                cursor.advance(1);
            }
            b'\r' | b'\n' => {
                cursor.skip_lws();
                if matches!(cursor.peek(), Some(b'\r' | b'\n')) {
                    cursor.advance(1);
                }
                out.push(b' ');
            }
            _ => {
                out.push(byte);
                cursor.advance(1);
            }
        }
    }
}

/// Writes `text` as a quoted-string. Bytes that no quoted-string can hold (CR, LF) are left out.
pub fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'\r' | b'\n' => {}
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}
