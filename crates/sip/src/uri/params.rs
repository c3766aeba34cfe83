//! `;name=value` and `?name=value&...` of URIs (§19.1.1).

use super::escape::{self, Case, Part};
use super::{Host, UriError};
use crate::header::cursor::Cursor;
use crate::span::ByteAt;

/// How many parameters, and how many headers, a URI may have.
pub const URI_PARTS_MAX: usize = 64;

/// One parameter as written, escapes in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UriParam<'a> {
    /// Compare by [`UriParam::is`].
    pub name: &'a [u8],
    /// `None`: no equals sign.
    pub value: Option<&'a [u8]>,
}

impl UriParam<'_> {
    /// Whether this is the parameter `name`. Escapes count: `%6C%72` is `lr` (§19.1.4).
    pub fn is(&self, name: impl AsRef<[u8]>) -> bool {
        escape::same(self.name, name.as_ref(), Case::Ignored)
    }

    /// Whether the value is `value`, without regard to case and escapes.
    pub fn has_value(&self, value: impl AsRef<[u8]>) -> bool {
        self.value
            .is_some_and(|ours| escape::same(ours, value.as_ref(), Case::Ignored))
    }
}

/// A well-formed list of URI parameters. A name that occurs twice means its first occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UriParams<'a> {
    /// The first semicolon included; empty without parameters.
    text: &'a [u8],
}

impl<'a> UriParams<'a> {
    /// Reads parameters up to a question mark or the end.
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, UriError> {
        let start = cursor.offset();
        let mut count = 0_usize;
        while cursor.peek() == Some(b';') {
            if count == URI_PARTS_MAX {
                return Err(UriError::TooMany(cursor.at()));
            }
            count = count.saturating_add(1);
            let param = next_param(cursor)?;
            // A request goes to maddr instead of the host (§19.1.1), so one that cannot be read must not be overlooked.
            if param.is("maddr") && param.value.is_none_or(|host| Host::parse(host).is_err()) {
                let end = cursor.at().0;
                let len = ByteAt::new(param.value.map_or(0, <[u8]>::len)).0;
                return Err(UriError::Param(ByteAt(end.saturating_sub(len))));
            }
        }
        Ok(Self {
            text: cursor.since(start),
        })
    }

    /// The text, the semicolons included.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub fn iter(&self) -> ParamIter<'a> {
        ParamIter {
            cursor: Cursor::new(self.text),
        }
    }

    /// The first parameter of this name.
    pub fn find(&self, name: impl AsRef<[u8]>) -> Option<UriParam<'a>> {
        self.iter().find(|param| param.is(name.as_ref()))
    }

    /// The value of the first parameter of this name; `Some(None)` if it has none.
    pub fn value(&self, name: impl AsRef<[u8]>) -> Option<Option<&'a [u8]>> {
        self.find(name).map(|param| param.value)
    }
}

/// Iterator over [`UriParams`].
#[derive(Clone, Debug)]
pub struct ParamIter<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for ParamIter<'a> {
    type Item = UriParam<'a>;

    fn next(&mut self) -> Option<UriParam<'a>> {
        // The text was read to its end when the URI was parsed, so an error cannot come.
        if self.cursor.is_at_end() {
            None
        } else {
            next_param(&mut self.cursor).ok()
        }
    }
}

/// Reads `;name[=value]`.
fn next_param<'a>(cursor: &mut Cursor<'a>) -> Result<UriParam<'a>, UriError> {
    cursor.eat(b';');
    let name = part(
        cursor,
        |b| matches!(b, b';' | b'?' | b'='),
        Part::PARAM_NAME,
        UriError::Param,
    )?;
    let value = if cursor.eat(b'=') {
        Some(part(
            cursor,
            |b| matches!(b, b';' | b'?'),
            Part::PARAM_VALUE,
            UriError::Param,
        )?)
    } else {
        None
    };
    Ok(UriParam { name, value })
}

/// Reads a part that is not empty, up to a byte that ends it.
fn part<'a>(
    cursor: &mut Cursor<'a>,
    ends: impl Fn(u8) -> bool,
    allowed: Part,
    error: impl Fn(ByteAt) -> UriError,
) -> Result<&'a [u8], UriError> {
    let at = cursor.at();
    let text = cursor.take_while(|b| !ends(b));
    if text.is_empty() {
        return Err(error(at));
    }
    escape::check(text, at, allowed).map_err(error)?;
    Ok(text)
}

/// One header as written, escapes in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UriHeader<'a> {
    pub name: &'a [u8],
    /// May be empty.
    pub value: &'a [u8],
}

/// A well-formed list of headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UriHeaders<'a> {
    /// The question mark included; empty without headers.
    text: &'a [u8],
}

impl<'a> UriHeaders<'a> {
    /// Reads headers up to the end.
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, UriError> {
        let start = cursor.offset();
        if cursor.peek() != Some(b'?') {
            return Ok(Self::default());
        }
        for _ in 0..URI_PARTS_MAX {
            next_header(cursor)?;
            if cursor.peek() != Some(b'&') {
                return Ok(Self {
                    text: cursor.since(start),
                });
            }
        }
        Err(UriError::TooMany(cursor.at()))
    }

    /// The text, the question mark included.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter {
            cursor: Cursor::new(self.text),
        }
    }
}

/// Iterator over [`UriHeaders`].
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = UriHeader<'a>;

    fn next(&mut self) -> Option<UriHeader<'a>> {
        // The text was read to its end when the URI was parsed, so an error cannot come.
        if self.cursor.is_at_end() {
            None
        } else {
            next_header(&mut self.cursor).ok()
        }
    }
}

/// Reads `?name=value` or `&name=value`.
fn next_header<'a>(cursor: &mut Cursor<'a>) -> Result<UriHeader<'a>, UriError> {
    cursor.advance(1);
    let name = part(
        cursor,
        |b| matches!(b, b'=' | b'&'),
        Part::HEADER_NAME,
        UriError::Header,
    )?;
    let at = cursor.at();
    if !cursor.eat(b'=') {
        return Err(UriError::Header(at));
    }
    let at = cursor.at();
    let value = cursor.take_while(|b| b != b'&');
    // Deviation: §25.1 `hvalue`; `=` is taken, because `?a=b=c` has one reading only.
    escape::check(value, at, Part::HEADER_VALUE).map_err(UriError::Header)?;
    Ok(UriHeader { name, value })
}
