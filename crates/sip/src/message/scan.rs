//! The byte scanner under the parser: line ends, tokens, list commas.
//!
//! Positions are indices into one buffer of at most [`MESSAGE_BYTES_MAX`](super::MESSAGE_BYTES_MAX) bytes and every
//! read goes through `get`, so the wrapping additions here never wrap.

/// Where a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// CRLF; the place of the CR.
    Crlf(usize),
    /// LF alone; its place.
    Lf(usize),
    /// A CR without LF inside the line; its place.
    BareCr(usize),
    /// The buffer ends first.
    Missing,
}

/// The first line end, or bare CR, at or after `from`.
#[inline]
pub(super) fn line_end(bytes: &[u8], from: usize) -> LineEnd {
    let rest = bytes.get(from..).unwrap_or_default();
    let Some(found) = memchr::memchr2(b'\r', b'\n', rest) else {
        return LineEnd::Missing;
    };
    let at = from.wrapping_add(found);
    match (bytes.get(at), bytes.get(at.wrapping_add(1))) {
        (Some(b'\n'), _) => LineEnd::Lf(at),
        (_, Some(b'\n')) => LineEnd::Crlf(at),
        _ => LineEnd::BareCr(at),
    }
}

/// `token` of §25.1.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        #[allow(
            clippy::indexing_slicing,
            reason = "evaluated by the compiler, a u8 into 256 entries"
        )]
        {
            table[byte as usize] = byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~'
                );
        }
        byte = byte.wrapping_add(1);
    }
    table
};

#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN.get(byte as usize).copied().unwrap_or(false)
}

/// Whether `text` is a `token` (§25.1): what methods, header names and most parameters are made of.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| is_token_byte(*b))
}

/// The end of the token that starts at `from`; `from` itself when there is none.
#[inline]
pub(super) fn token_end(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from.wrapping_add(
        rest.iter()
            .position(|b| !is_token_byte(*b))
            .unwrap_or(rest.len()),
    )
}

/// The first colon at or after `from`, if it is as near as that of any header we know: found eight bytes a step.
#[inline]
pub(super) fn near_colon(bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const STEPS: usize = 4;
    let (steps, _) = bytes.get(from..)?.as_chunks::<8>();
    for (step, eight) in steps.iter().take(STEPS).enumerate() {
        // A colon becomes a zero byte, and the lowest bit found belongs to the first zero byte.
        let eight = u64::from_le_bytes(*eight) ^ ONES.wrapping_mul(b':' as u64);
        let found = eight.wrapping_sub(ONES) & !eight & ONES.wrapping_shl(7);
        if found != 0 {
            let byte = (found.trailing_zeros() / 8) as usize;
            return Some(from.wrapping_add(step.wrapping_mul(8)).wrapping_add(byte));
        }
    }
    None
}

/// The first byte at or after `from` that is neither space nor tab.
#[inline]
pub(super) fn skip_blank(bytes: &[u8], mut from: usize) -> usize {
    while matches!(bytes.get(from), Some(b' ' | b'\t')) {
        from = from.wrapping_add(1);
    }
    from
}

#[inline]
fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// `start..end` without linear white space at both ends. Folds count as such (§7.3.1).
#[inline]
pub(super) fn trim(bytes: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    while start < end && bytes.get(start).copied().is_some_and(is_lws) {
        start = start.wrapping_add(1);
    }
    while start < end && bytes.get(end.wrapping_sub(1)).copied().is_some_and(is_lws) {
        end = end.wrapping_sub(1);
    }
    (start, end)
}

/// Offset of the comma that ends the first value of `list`, or its length.
///
/// A comma in a quoted string or between angle brackets separates nothing (§7.3.1), nor one in a comment where the
/// header has comments (`comments`; elsewhere parentheses are ordinary URI characters). A quote, bracket or comment
/// that never closes takes the rest of the list.
#[inline]
pub(crate) fn value_end(list: &[u8], comments: bool) -> usize {
    match memchr::memchr(b',', list) {
        None => list.len(),
        // Nothing before the first comma can protect it: the usual list of tokens.
        Some(at)
            if !list
                .get(..at)
                .unwrap_or_default()
                .iter()
                .any(|b| matches!(b, b'"' | b'<' | b'(')) =>
        {
            at
        }
        Some(_) => protected_value_end(list, comments),
    }
}

fn protected_value_end(list: &[u8], comments: bool) -> usize {
    let mut at = 0usize;
    while let Some(byte) = list.get(at) {
        let rest = list.get(at.wrapping_add(1)..).unwrap_or_default();
        let skipped = match byte {
            b',' => return at,
            b'"' => quoted_len(rest),
            b'<' => memchr::memchr(b'>', rest).map(|n| n.wrapping_add(1)),
            b'(' if comments => comment_len(rest),
            _ => Some(0),
        };
        match skipped {
            Some(n) => at = at.wrapping_add(1).wrapping_add(n),
            None => return list.len(),
        }
    }
    list.len()
}

/// Bytes up to and with the quote that closes a quoted string whose opening quote was just read.
fn quoted_len(rest: &[u8]) -> Option<usize> {
    let mut at = 0usize;
    loop {
        match rest.get(at)? {
            b'"' => return Some(at.wrapping_add(1)),
            b'\\' => at = at.wrapping_add(2),
            _ => at = at.wrapping_add(1),
        }
    }
}

/// Bytes up to and with the parenthesis that closes a comment, which may nest, whose first one was just read.
fn comment_len(rest: &[u8]) -> Option<usize> {
    let mut depth = 1u32;
    let mut at = 0usize;
    loop {
        match rest.get(at)? {
            b')' if depth == 1 => return Some(at.wrapping_add(1)),
            b')' => depth = depth.saturating_sub(1),
            b'(' => depth = depth.saturating_add(1),
            b'\\' => at = at.wrapping_add(1),
            _ => {}
        }
        at = at.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_are_protected() {
        let first = |list: &'static str, comments| &list[..value_end(list.as_bytes(), comments)];
        assert_eq!(first("a,b", false), "a");
        assert_eq!(
            first("\"a,\\\",\" <sip:x,y>;p=\"1,2\", b", false),
            "\"a,\\\",\" <sip:x,y>;p=\"1,2\""
        );
        assert_eq!(first("<sip:a\"b>,c", false), "<sip:a\"b>");
        assert_eq!(first("x (a,(b,c),d), y", true), "x (a,(b,c),d)");
        assert_eq!(first("sip:(a@b, y", false), "sip:(a@b");
        assert_eq!(first("\"never, closed", false), "\"never, closed");
        assert_eq!(first("\"never, closed\\", false), "\"never, closed\\");
        assert_eq!(first("<never, closed", false), "<never, closed");
        assert_eq!(first("", false), "");
    }

    #[test]
    fn line_ends() {
        assert_eq!(line_end(b"ab\r\n", 0), LineEnd::Crlf(2));
        assert_eq!(line_end(b"ab\n", 1), LineEnd::Lf(2));
        assert_eq!(line_end(b"ab\rc\n", 0), LineEnd::BareCr(2));
        assert_eq!(line_end(b"ab\r", 0), LineEnd::BareCr(2));
        assert_eq!(line_end(b"ab", 0), LineEnd::Missing);
        assert_eq!(line_end(b"ab", 9), LineEnd::Missing);
    }
}
