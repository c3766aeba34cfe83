//! Characters and `%HH` escapes of URIs (§19.1.2, §25.1).

use crate::span::ByteAt;

/// Which parts of a URI a character may stand in without an escape; a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part(u8);

impl Part {
    /// `user`, strictly.
    const USER_STRICTLY: Self = Self(1);
    /// Deviation: §25.1 `user`; `#` is taken, because feature codes such as `#72` are dialled without an escape.
    pub(super) const USER: Self = Self(2);
    pub(super) const PASSWORD: Self = Self(4);
    pub(super) const PARAM_NAME: Self = Self(8);
    /// Deviation: §25.1 `pvalue`; `=` is taken, because base64 text is put into parameters.
    pub(super) const PARAM_VALUE: Self = Self(16);
    pub(super) const HEADER_NAME: Self = Self(32);
    pub(super) const HEADER_VALUE: Self = Self(64);

    #[inline]
    pub(super) fn may_hold(self, byte: u8) -> bool {
        PARTS.get(usize::from(byte)).copied().unwrap_or(0) & self.0 != 0
    }
}

static PARTS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        #[allow(
            clippy::indexing_slicing,
            reason = "evaluated by the compiler, a u8 into 256 entries"
        )]
        {
            table[byte as usize] = parts_of(byte);
        }
        byte = byte.wrapping_add(1);
    }
    table
};

const fn parts_of(byte: u8) -> u8 {
    const USER: u8 = Part::USER_STRICTLY.0 | Part::USER.0;
    const PARAM: u8 = Part::PARAM_NAME.0 | Part::PARAM_VALUE.0;
    const HEADER: u8 = Part::HEADER_NAME.0 | Part::HEADER_VALUE.0;
    if is_unreserved(byte) {
        return USER | Part::PASSWORD.0 | PARAM | HEADER;
    }
    match byte {
        b'&' => USER | Part::PASSWORD.0 | PARAM,
        b'+' | b'$' => USER | Part::PASSWORD.0 | PARAM | HEADER,
        b'=' => USER | Part::PASSWORD.0 | Part::PARAM_VALUE.0 | Part::HEADER_VALUE.0,
        b',' => USER | Part::PASSWORD.0,
        b'/' => USER | PARAM | HEADER,
        b'?' => USER | HEADER,
        b';' => USER,
        b'#' => Part::USER.0,
        b':' | b'[' | b']' => PARAM | HEADER,
        _ => 0,
    }
}

/// `unreserved`: a character that means the same escaped or not.
pub(super) const fn is_unreserved(b: u8) -> bool {
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
    Part::USER_STRICTLY.may_hold(b)
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
#[inline]
pub(super) fn check(text: &[u8], base: ByteAt, part: Part) -> Result<(), ByteAt> {
    let mut at = 0_usize;
    while let Some(byte) = text.get(at) {
        if part.may_hold(*byte) {
            at = at.wrapping_add(1);
        } else if is_escape(text.get(at..).unwrap_or_default()) {
            at = at.wrapping_add(3);
        } else {
            return Err(ByteAt::new(at.saturating_add(base.0 as usize)));
        }
    }
    Ok(())
}

/// Whether a text begins with `%HH`.
fn is_escape(text: &[u8]) -> bool {
    matches!(text, [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
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
#[inline]
pub(super) fn same(a: &[u8], b: &[u8], case: Case) -> bool {
    let as_written = match case {
        Case::Exact => a == b,
        Case::Ignored => a.eq_ignore_ascii_case(b),
    };
    // Without an escape, a text can only be equal as it is written.
    as_written || ((a.contains(&b'%') || b.contains(&b'%')) && same_unescaped(a, b, case))
}

fn same_unescaped(a: &[u8], b: &[u8], case: Case) -> bool {
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
    use super::{Case, Part, check, is_unreserved, same, same_unescaped};
    use crate::span::ByteAt;

    #[test]
    fn escapes_are_whole_or_refused() {
        assert_eq!(check(b"a%41%5a", ByteAt(0), Part::USER), Ok(()));
        assert_eq!(check(b"a%4", ByteAt(10), Part::USER), Err(ByteAt(11)));
        assert_eq!(check(b"a%", ByteAt(0), Part::USER), Err(ByteAt(1)));
        assert_eq!(check(b"a%zz", ByteAt(0), Part::USER), Err(ByteAt(1)));
        assert_eq!(check(b"a b", ByteAt(0), Part::USER), Err(ByteAt(1)));
        assert_eq!(check(b"a\"", ByteAt(0), Part::PARAM_NAME), Err(ByteAt(1)));
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

    #[test]
    fn a_text_without_escapes_is_compared_as_it_is_written() {
        let texts = [
            "", "a", "A", "%41", "%61", "a%3b", "a;", "a%3B", "%4", "%", "ab", "a%", "%4a", "%4A",
            "j", "J",
        ];
        for (a, b) in texts
            .iter()
            .flat_map(|a| texts.map(|b| (a.as_bytes(), b.as_bytes())))
        {
            for case in [Case::Exact, Case::Ignored] {
                assert_eq!(same(a, b, case), same_unescaped(a, b, case), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_table_says_what_section_25_1_says() {
        for byte in 0..=255 {
            let marks = |marks: &[u8]| is_unreserved(byte) || marks.contains(&byte);
            for (part, allowed) in [
                (Part::USER, marks(b"&=+$,;?/#")),
                (Part::USER_STRICTLY, marks(b"&=+$,;?/")),
                (Part::PASSWORD, marks(b"&=+$,")),
                (Part::PARAM_NAME, marks(b"[]/:&+$")),
                (Part::PARAM_VALUE, marks(b"[]/:&+$=")),
                (Part::HEADER_NAME, marks(b"[]/?:+$")),
                (Part::HEADER_VALUE, marks(b"[]/?:+$=")),
            ] {
                assert_eq!(part.may_hold(byte), allowed, "{part:?} {byte}");
            }
        }
    }
}
