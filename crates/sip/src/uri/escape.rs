//! Characters and `%HH` escapes of URIs (§19.1.2, §25.1).

use crate::span::ByteAt;

/// `unreserved`: a character that means the same escaped or not.
pub(super) fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')'
        )
}

/// `reserved`: a character that does not mean the same when it is escaped (§19.1.4).
pub(super) fn is_reserved(b: u8) -> bool {
    matches!(
        b,
        b';' | b'/' | b'?' | b':' | b'@' | b'&' | b'=' | b'+' | b'$' | b','
    )
}

/// What a user part may hold without an escape.
pub(super) fn is_user_strictly(b: u8) -> bool {
    is_unreserved(b) || matches!(b, b'&' | b'=' | b'+' | b'$' | b',' | b';' | b'?' | b'/')
}

/// Deviation: §25.1 `user`; `#` is taken, because feature codes such as `#72` are dialled without an escape.
pub(super) fn is_user(b: u8) -> bool {
    is_user_strictly(b) || b == b'#'
}

pub(super) fn is_password(b: u8) -> bool {
    is_unreserved(b) || matches!(b, b'&' | b'=' | b'+' | b'$' | b',')
}

pub(super) fn is_param_name(b: u8) -> bool {
    is_unreserved(b) || matches!(b, b'[' | b']' | b'/' | b':' | b'&' | b'+' | b'$')
}

/// Deviation: §25.1 `pvalue`; `=` is taken, because base64 text is put into parameters.
pub(super) fn is_param_value(b: u8) -> bool {
    is_param_name(b) || b == b'='
}

pub(super) fn is_header(b: u8) -> bool {
    is_unreserved(b) || matches!(b, b'[' | b']' | b'/' | b'?' | b':' | b'+' | b'$')
}

/// `visual-separator` (RFC 3966 §3).
pub(super) fn is_visual_separator(b: u8) -> bool {
    matches!(b, b'-' | b'.' | b'(' | b')')
}

fn hex(b: u8) -> Option<u8> {
    char::from(b)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Checks that `text`, which begins at `base`, has only allowed characters and whole escapes.
pub(super) fn check(text: &[u8], base: ByteAt, allowed: impl Fn(u8) -> bool) -> Result<(), ByteAt> {
    let mut rest = text;
    loop {
        let at = text.len().saturating_sub(rest.len());
        rest = match rest {
            [] => return Ok(()),
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            [byte, rest @ ..] if allowed(*byte) => rest,
            _ => return Err(ByteAt::new(at.saturating_add(base.0 as usize))),
        };
    }
}

/// A character of a URI's part, and whether it was written as an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unescaped {
    pub(super) byte: u8,
    pub(super) was_escaped: bool,
}

/// The characters of a checked text.
pub(super) fn unescape(text: &[u8]) -> impl Iterator<Item = Unescaped> + Clone + '_ {
    let mut rest = text;
    std::iter::from_fn(move || {
        if let [b'%', high, low, behind @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = behind;
            return Some(Unescaped {
                byte: (high << 4) | low,
                was_escaped: true,
            });
        }
        let (byte, behind) = rest.split_first()?;
        rest = behind;
        Some(Unescaped {
            byte: *byte,
            was_escaped: false,
        })
    })
}

/// Whether letters of different case are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Exact,
    Ignored,
}

/// Equal texts; a character outside of the reserved set equals its escape (§19.1.4).
pub(super) fn same(a: &[u8], b: &[u8], case: Case) -> bool {
    let mut theirs = unescape(b);
    let all = unescape(a).all(|ours| {
        theirs.next().is_some_and(|theirs| {
            let bytes = match case {
                Case::Exact => ours.byte == theirs.byte,
                Case::Ignored => ours.byte.eq_ignore_ascii_case(&theirs.byte),
            };
            bytes && (ours.was_escaped == theirs.was_escaped || !is_reserved(ours.byte))
        })
    });
    all && theirs.next().is_none()
}

/// Writes `byte` as `%HH`, the only form in which most bytes may be in a URI.
pub(super) fn write_escaped(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| {
        DIGITS
            .get(usize::from(nibble & 15))
            .copied()
            .unwrap_or(b'0')
    };
    out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte)]);
}

#[cfg(test)]
mod tests {
    use super::{Case, check, is_param_name, is_user, same};
    use crate::span::ByteAt;

    #[test]
    fn escapes_are_whole_or_refused() {
        assert_eq!(check(b"a%41%5a", ByteAt(0), is_user), Ok(()));
        assert_eq!(check(b"a%4", ByteAt(10), is_user), Err(ByteAt(11)));
        assert_eq!(check(b"a%", ByteAt(0), is_user), Err(ByteAt(1)));
        assert_eq!(check(b"a%zz", ByteAt(0), is_user), Err(ByteAt(1)));
        assert_eq!(check(b"a b", ByteAt(0), is_user), Err(ByteAt(1)));
        assert_eq!(check(b"a\"", ByteAt(0), is_param_name), Err(ByteAt(1)));
    }

    #[test]
    fn an_escape_is_its_character_unless_reserved() {
        assert!(same(b"%6C%72", b"LR", Case::Ignored));
        assert!(!same(b"%6C%72", b"LR", Case::Exact));
        assert!(same(b"a%2Ab", b"a*b", Case::Exact));
        assert!(!same(b"a%3Bb", b"a;b", Case::Exact));
        assert!(same(b"a%3bb", b"a%3Bb", Case::Exact));
        assert!(!same(b"ab", b"abc", Case::Exact) && !same(b"abc", b"ab", Case::Exact));
        assert!(!same(b"%00", b"", Case::Ignored));
    }
}
