//! The walk over a value's bytes that every parser of typed headers and URIs shares.

use crate::span::ByteAt;

/// `bytes` without linear white space (folding included) at both ends.
pub fn trim(bytes: &[u8]) -> &[u8] {
    let white = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let start = bytes.iter().position(|b| !white(b)).unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|b| !white(b))
        .map_or(start, |last| last.saturating_add(1));
    bytes.get(start..end).unwrap_or_default()
}

/// Whether `b` may be in a `token` (§25.1).
pub(crate) fn is_token(b: u8) -> bool {
    crate::message::is_token_byte(b)
}

/// A reading position in `bytes`. It only moves forward, and never past the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[inline]
    pub(crate) fn at(&self) -> ByteAt {
        ByteAt::new(self.at)
    }

    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    #[inline]
    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn ahead(&self, by: usize) -> Option<u8> {
        self.bytes.get(self.at.checked_add(by)?).copied()
    }

    #[inline]
    pub(crate) fn advance(&mut self, by: usize) {
        self.at = self.at.saturating_add(by).min(self.bytes.len());
    }

    /// Moves over `byte` if it is next.
    #[inline]
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.advance(1);
        }
        found
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// What has been read since `start`.
    #[inline]
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn take_while(&mut self, mut wanted: impl FnMut(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let len = rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len());
        self.advance(len);
        rest.get(..len).unwrap_or_default()
    }

    /// Moves over linear white space: blanks, tabs and folded line ends (§7.3.1).
    #[inline]
    pub(crate) fn skip_lws(&mut self) {
        if self.peek().is_some_and(|next| next <= b' ') {
            self.skip_white();
        }
    }

    fn skip_white(&mut self) {
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
/// Folding inside becomes one blank (§7.3.1), so that a quoted string never brings a line end to `out`.
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
                out.extend(cursor.peek().filter(|b| !matches!(b, b'\r' | b'\n')));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Cursor, quote, trim, unquote};

    fn unquoted(raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        unquote(raw, &mut out);
        out
    }

    #[test]
    fn white_space_is_trimmed_with_its_folds() {
        assert_eq!(trim(b"\r\n \t a b\r\n \r\n\t"), b"a b");
        assert_eq!(trim(b" \r\n "), b"");
        assert_eq!(trim(b""), b"");
    }

    #[test]
    fn a_line_end_without_a_fold_is_not_white_space() {
        for (text, left) in [
            ("\r\n a", "a"),
            ("\n\ta", "a"),
            ("\r\na", "\r\na"),
            ("\ra", "\ra"),
            (" \n", "\n"),
        ] {
            let mut cursor = Cursor::new(text.as_bytes());
            cursor.skip_lws();
            assert_eq!(cursor.rest(), left.as_bytes());
        }
    }

    #[test]
    fn quoted_strings_end_where_they_should() {
        for (text, len) in [
            (&br#""a" b"#[..], Some(3)),
            (br#""""#, Some(2)),
            (br#""\"" "#, Some(4)),
            (br#""\\" " "#, Some(4)),
            (b"\"a\r\n b\"", Some(7)),
            (b"\"a\r\nb\"", None),
            (b"\"a\\\r\n b\"", None),
            (br#""a\""#, None),
            (br#""a"#, None),
            (br#"""#, None),
            (b"a", None),
        ] {
            assert_eq!(
                Cursor::new(text).take_quoted().map(<[u8]>::len),
                len,
                "{text:?}"
            );
        }
    }

    #[test]
    fn unquoting_drops_backslashes_and_folds() {
        assert_eq!(unquoted(br#""J \"R\" \\ x""#), br#"J "R" \ x"#);
        assert_eq!(unquoted(b"\"a\r\n  b\""), b"a b");
        assert_eq!(unquoted(b"token"), b"token");
        assert_eq!(unquoted(b"\"\""), b"");
    }

    proptest! {
        #[test]
        fn quote_then_unquote_gives_the_text(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut quoted = Vec::new();
            quote(&text, &mut quoted);
            let mut cursor = Cursor::new(&quoted);
            prop_assert_eq!(cursor.take_quoted(), Some(&quoted[..]));
            let kept: Vec<u8> = text.into_iter().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
            prop_assert_eq!(unquoted(&quoted), kept);
        }

        #[test]
        fn unquoting_never_writes_a_line_end(raw in super::super::noise::noise()) {
            let out = unquoted(&[b"\"", &raw[..], b"\""].concat());
            prop_assert!(!out.contains(&b'\r') && !out.contains(&b'\n'));
        }
    }
}
