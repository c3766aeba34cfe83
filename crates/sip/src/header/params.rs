//! `;name=value` lists of headers (`generic-param`, §25.1).

use super::cursor::{Cursor, is_token};
use crate::span::{ByteAt, Span};

/// How many parameters one header value may have.
pub const PARAMS_MAX: usize = 64;

/// Why a text is not a list of parameters. Places are counted from the start of the header's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamsError {
    /// No parameter name after a semicolon.
    #[error("no parameter name at byte {0}")]
    Name(ByteAt),
    /// No value after the equals sign.
    #[error("no parameter value at byte {0}")]
    Value(ByteAt),
    /// A quoted string that is not closed.
    #[error("quoted string at byte {0} is not closed")]
    Quote(ByteAt),
    /// Something other than a semicolon after a parameter.
    #[error("byte {0} belongs to no parameter")]
    Junk(ByteAt),
    /// More than [`PARAMS_MAX`].
    #[error("too many parameters at byte {0}")]
    TooMany(ByteAt),
}

/// One parameter as the sender wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// A token; compared without regard to case.
    pub name: &'a [u8],
    /// Quotes and backslashes included, see [`unquote`](super::unquote). `None`: no equals sign.
    pub value: Option<&'a [u8]>,
    /// From the name to the end of the value, counted from the start of the header's value.
    pub span: Span,
}

impl<'a> Param<'a> {
    /// Whether this is the parameter `name`.
    pub fn is(&self, name: impl AsRef<[u8]>) -> bool {
        self.name.eq_ignore_ascii_case(name.as_ref())
    }

    /// The value without its quotes, backslashes left as they are; `None` without a value.
    pub fn unquoted(&self) -> Option<&'a [u8]> {
        self.value.map(strip_quotes)
    }
}

fn strip_quotes(value: &[u8]) -> &[u8] {
    value
        .strip_prefix(b"\"")
        .and_then(|v| v.strip_suffix(b"\""))
        .unwrap_or(value)
}

/// A well-formed list of parameters. A name that occurs twice means its first occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Params<'a> {
    /// White space and the first semicolon included; empty without parameters.
    text: &'a [u8],
    /// Where `text` begins in the header's value.
    base: u32,
}

impl<'a> Params<'a> {
    /// Parses `text`, which is empty or begins with white space or a semicolon.
    pub fn parse(text: &'a [u8]) -> Result<Self, ParamsError> {
        Self::parse_from(Cursor::new(text))
    }

    /// Parses what is left of a value.
    pub(crate) fn parse_from(cursor: Cursor<'a>) -> Result<Self, ParamsError> {
        Self::parse_each(cursor, |_| Ok::<_, ParamsError>(()))
    }

    /// Parses what is left of a value and shows each parameter on the way, so that whoever looks for some need not walk again.
    /// Places are in the whole value.
    pub(crate) fn parse_each<E: From<ParamsError>>(
        mut cursor: Cursor<'a>,
        mut see: impl FnMut(&Param<'a>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let params = Self {
            text: cursor.rest(),
            base: cursor.at().0,
        };
        for _ in 0..PARAMS_MAX {
            match next(&mut cursor)? {
                Some(param) => see(&param)?,
                None => return Ok(params),
            }
        }
        match next(&mut cursor)? {
            None => Ok(params),
            Some(param) => Err(ParamsError::TooMany(ByteAt(param.span.start)).into()),
        }
    }

    /// The text, the semicolons included.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub fn iter(&self) -> Iter<'a> {
        Iter {
            cursor: Cursor::new(self.text),
            base: self.base,
        }
    }

    /// The first parameter of this name.
    pub fn find(&self, name: impl AsRef<[u8]>) -> Option<Param<'a>> {
        self.iter().find(|param| param.is(name.as_ref()))
    }

    /// The value of the first parameter of this name; `Some(None)` if it has none.
    pub fn value(&self, name: impl AsRef<[u8]>) -> Option<Option<&'a [u8]>> {
        self.find(name).map(|param| param.value)
    }
}

impl<'a> IntoIterator for Params<'a> {
    type Item = Param<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Iterator over [`Params`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    cursor: Cursor<'a>,
    base: u32,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Param<'a>;

    fn next(&mut self) -> Option<Param<'a>> {
        // The text was read to its end when the list was made, so an error cannot come.
        let mut param = next(&mut self.cursor).ok()??;
        param.span.start = param.span.start.saturating_add(self.base);
        param.span.end = param.span.end.saturating_add(self.base);
        Some(param)
    }
}

/// Reads one `;name[=value]`, white space allowed around each part. `None` at the end.
fn next<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Param<'a>>, ParamsError> {
    cursor.skip_lws();
    if cursor.is_at_end() {
        return Ok(None);
    }
    if !cursor.eat(b';') {
        return Err(ParamsError::Junk(cursor.at()));
    }
    cursor.skip_lws();
    let start = cursor.at().0;
    let name = cursor.take_while(is_token);
    if name.is_empty() {
        return Err(ParamsError::Name(cursor.at()));
    }
    let mut end = cursor.at().0;
    cursor.skip_lws();
    let mut value = None;
    if cursor.eat(b'=') {
        cursor.skip_lws();
        value = Some(value_at(cursor)?);
        end = cursor.at().0;
    }
    Ok(Some(Param {
        name,
        value,
        span: Span::new(start, end),
    }))
}

/// Reads a token, a host or a quoted string.
///
/// Deviation: §25.1 `gen-value`; any visible character without a meaning in the list is taken, because base64
/// text and IPv6 addresses without brackets (RFC 5118 §4.5) do occur.
fn value_at<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], ParamsError> {
    let at = cursor.at();
    if cursor.peek() == Some(b'"') {
        return cursor.take_quoted().ok_or(ParamsError::Quote(at));
    }
    let value = cursor.take_while(|b| {
        b.is_ascii_graphic() && !matches!(b, b';' | b',' | b'"' | b'<' | b'>' | b'\\')
    });
    if value.is_empty() {
        Err(ParamsError::Value(at))
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PARAMS_MAX, Params, ParamsError};
    use crate::span::ByteAt;

    fn list(text: &[u8]) -> Vec<(&[u8], Option<&[u8]>)> {
        Params::parse(text)
            .unwrap()
            .iter()
            .map(|p| (p.name, p.value))
            .collect()
    }

    #[test]
    fn white_space_is_allowed_around_every_part() {
        let text = b" ;\r\n   tag    = 1918181833n ; lr\t;x=\r\n \"a;b\\\"=,\" ";
        assert_eq!(
            list(text),
            [
                (&b"tag"[..], Some(&b"1918181833n"[..])),
                (b"lr", None),
                (b"x", Some(b"\"a;b\\\"=,\"")),
            ]
        );
    }

    #[test]
    fn names_ignore_case_and_the_first_counts() {
        let params = Params::parse(b";TAG=a;tag=b").unwrap();
        assert_eq!(params.value("Tag"), Some(Some(&b"a"[..])));
        assert_eq!(params.value("q"), None);
    }

    #[test]
    fn spans_cover_name_and_value() {
        let text = b" ; rport ; x = \"y\" ";
        let params = Params::parse(text).unwrap();
        let spans: Vec<&[u8]> = params.iter().map(|p| p.span.slice(text)).collect();
        assert_eq!(spans, [&b"rport"[..], b"x = \"y\""]);
    }

    #[test]
    fn what_is_odd_but_clear_is_taken() {
        assert_eq!(
            list(b";received=2001:db8::9:255"),
            [(&b"received"[..], Some(&b"2001:db8::9:255"[..]))]
        );
        assert_eq!(list(b";id=aGk=="), [(&b"id"[..], Some(&b"aGk=="[..]))]);
        assert_eq!(list(b"  "), []);
    }

    #[test]
    fn faults_have_a_place() {
        for (text, error) in [
            (&b";;,;,,"[..], ParamsError::Name(ByteAt(1))),
            (b";a=1;", ParamsError::Name(ByteAt(5))),
            (b";a=", ParamsError::Value(ByteAt(3))),
            (b";a=;b", ParamsError::Value(ByteAt(3))),
            (b";a=\"b", ParamsError::Quote(ByteAt(3))),
            (b";a=b c", ParamsError::Junk(ByteAt(5))),
            (b"a=b", ParamsError::Junk(ByteAt(0))),
            (b";a=<b>", ParamsError::Value(ByteAt(3))),
            (b";a=b\r\nX: y", ParamsError::Junk(ByteAt(4))),
        ] {
            assert_eq!(
                Params::parse(text),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn their_number_is_bounded() {
        assert!(Params::parse(&b";a=b".repeat(PARAMS_MAX)).is_ok());
        assert!(matches!(
            Params::parse(&b";a=b".repeat(PARAMS_MAX + 1)),
            Err(ParamsError::TooMany(_))
        ));
    }

    proptest! {
        #[test]
        fn print_then_parse(expected in proptest::collection::vec(("[a-zA-Z0-9.!~-]{1,6}", proptest::option::of("[a-z0-9:.=]{1,6}|\"[a-z;,<> ]{0,6}\"")), 0..8)) {
            let mut text = String::new();
            for (name, value) in &expected {
                text += &format!(";{name}");
                if let Some(value) = value {
                    text += &format!(" = {value}");
                }
            }
            let expected: Vec<_> = expected.iter().map(|(n, v)| (n.as_bytes(), v.as_deref().map(str::as_bytes))).collect();
            prop_assert_eq!(list(text.as_bytes()), expected);
        }

        #[test]
        fn no_bytes_panic(bytes in super::super::noise::noise()) {
            if let Ok(params) = Params::parse(&bytes) {
                for param in params {
                    prop_assert!(param.span.slice(&bytes).starts_with(param.name));
                }
            }
        }
    }
}
