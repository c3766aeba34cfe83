//! One line of a CSV file (RFC 4180) to its fields, each with its place. A field may stand in quotes; it does not go over a line's end.

use std::borrow::Cow;

/// Most columns of a file.
pub(crate) const COLUMNS_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field<'l> {
    /// Without quotes and blanks around it.
    pub(crate) text: Cow<'l, str>,
    /// Bytes of the line before it.
    pub(crate) at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a quote that does not end in this line")]
    Quote(usize),
    #[error("text behind the closing quote")]
    Behind(usize),
    #[error("more than {COLUMNS_MAX} columns")]
    TooMany(usize),
}

impl LineError {
    pub(crate) fn at(self) -> usize {
        match self {
            Self::Quote(at) | Self::Behind(at) | Self::TooMany(at) => at,
        }
    }
}

/// The separator of a file, by its first line: spreadsheets of some countries write semicolons.
pub(crate) fn separator(header: &str) -> u8 {
    let count = |byte: u8| header.bytes().filter(|other| *other == byte).count();
    match (count(b','), count(b';'), count(b'\t')) {
        (0, 0, tabs) if tabs > 0 => b'\t',
        (commas, semicolons, _) if semicolons > commas => b';',
        _ => b',',
    }
}

/// Splits a line; `fields` is used again from line to line.
pub(crate) fn split<'l>(
    line: &'l str,
    separator: u8,
    fields: &mut Vec<Field<'l>>,
) -> Result<(), LineError> {
    fields.clear();
    let bytes = line.as_bytes();
    let blank = |byte: u8| byte == b' ' || (byte == b'\t' && separator != b'\t');
    let mut at = 0;
    loop {
        if fields.len() == COLUMNS_MAX {
            return Err(LineError::TooMany(at));
        }
        while bytes.get(at).is_some_and(|byte| blank(*byte)) {
            at += 1;
        }
        let (field, next) = if bytes.get(at) == Some(&b'"') {
            quoted(line, at, separator, blank)?
        } else {
            let rest = bytes.get(at..).unwrap_or_default();
            let end = at + memchr::memchr(separator, rest).unwrap_or(rest.len());
            let text = line
                .get(at..end)
                .unwrap_or_default()
                .trim_end_matches([' ', '\t']);
            let text = Cow::Borrowed(text);
            (Field { text, at }, end)
        };
        fields.push(field);
        if next >= bytes.len() {
            return Ok(());
        }
        at = next + 1;
    }
}

/// A field in quotes, and where the separator behind it is.
fn quoted(
    line: &str,
    open: usize,
    separator: u8,
    blank: impl Fn(u8) -> bool,
) -> Result<(Field<'_>, usize), LineError> {
    let bytes = line.as_bytes();
    let mut text = String::new();
    let mut from = open + 1;
    loop {
        let rest = bytes.get(from..).unwrap_or_default();
        let close = from + memchr::memchr(b'"', rest).ok_or(LineError::Quote(open))?;
        text.push_str(line.get(from..close).unwrap_or_default());
        if bytes.get(close + 1) == Some(&b'"') {
            text.push('"');
            from = close + 2;
            continue;
        }
        let mut end = close + 1;
        while bytes.get(end).is_some_and(|byte| blank(*byte)) {
            end += 1;
        }
        if bytes.get(end).is_some_and(|byte| *byte != separator) {
            return Err(LineError::Behind(end));
        }
        let field = Field {
            text: Cow::Owned(text.trim().to_owned()),
            at: open,
        };
        return Ok((field, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Result<Vec<String>, LineError> {
        let mut fields = Vec::new();
        split(line, b',', &mut fields)?;
        Ok(fields.iter().map(|field| field.text.to_string()).collect())
    }

    #[test]
    fn lines_are_split_as_spreadsheets_write_them() {
        for (line, fields) in [
            ("", &[""][..]),
            ("49,a|b,", &["49", "a|b", ""]),
            (" 49 , a ", &["49", "a"]),
            (r#""49","say ""hi""" ,x"#, &["49", r#"say "hi""#, "x"]),
            (r#""a,b""#, &["a,b"]),
            (",,", &["", "", ""]),
        ] {
            assert_eq!(texts(line).unwrap(), fields, "{line}");
        }
        assert_eq!(texts(r#"1,"2"#), Err(LineError::Quote(2)));
        assert_eq!(texts(r#"1,"2"3"#), Err(LineError::Behind(5)));
        assert_eq!(
            texts(&",".repeat(COLUMNS_MAX)),
            Err(LineError::TooMany(COLUMNS_MAX))
        );
        assert_eq!(separator("prefix;to"), b';');
        assert_eq!(separator("prefix\tto"), b'\t');
        assert_eq!(separator("prefix,to"), b',');
        assert_eq!(separator("prefix"), b',');
    }
}
