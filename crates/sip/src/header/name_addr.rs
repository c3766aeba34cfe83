//! `name-addr / addr-spec` with header parameters: From, To, Contact, Route and their like (§20.10, §20.20).

use super::cursor::{Cursor, is_token, trim, unquote};
use super::numbers::{self, Q};
use super::params::{Params, ParamsError};
use crate::span::{ByteAt, Span};
use crate::uri::{Uri, UriError};

/// Why a text is not one address with parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameAddrError {
    /// An unclosed quoted string, or unquoted text that is not made of tokens.
    #[error("display name is malformed at byte {0}")]
    Display(ByteAt),
    /// A `<` without its `>`.
    #[error("angle bracket at byte {0} is not closed")]
    Bracket(ByteAt),
    /// The URI; the place in the error is counted from the URI's start, which is the first place.
    #[error("URI at byte {0}: {1}")]
    Uri(ByteAt, UriError),
    /// A URI with a comma or a question mark outside of angle brackets (§20).
    #[error("URI at byte {0} needs angle brackets")]
    NeedsBrackets(ByteAt),
    #[error("header parameters: {0}")]
    Params(#[from] ParamsError),
}

/// One address with its header parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// As written, quotes included; `None` if there is none. See [`NameAddr::write_display`].
    pub display: Option<&'a [u8]>,
    pub uri: Uri<'a>,
    /// Parameters of the header; those inside the angle brackets are the URI's.
    pub params: Params<'a>,
    /// Where the URI lies in the value, without angle brackets.
    pub uri_span: Span,
    /// Whether the URI is in angle brackets.
    pub bracketed: bool,
    /// Where the value ends: a patch may add `;tag=...` here.
    pub end: ByteAt,
}

/// Whether a Contact's value is the `*` that removes all bindings (§10.2.2).
pub fn is_star(value: &[u8]) -> bool {
    trim(value) == b"*"
}

impl<'a> NameAddr<'a> {
    /// Parses one value.
    pub fn parse(value: &'a [u8]) -> Result<Self, NameAddrError> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        let display = display_at(&mut cursor)?;
        let bracketed = cursor.peek() == Some(b'<');
        let uri_text = if bracketed { in_brackets(&mut cursor)? } else { bare(&mut cursor)? };
        let behind = usize::from(bracketed);
        let end = cursor.offset().saturating_sub(behind);
        let uri_span = Span::of(end.saturating_sub(uri_text.len()), end);
        let place = ByteAt(uri_span.start);
        let uri = Uri::parse(uri_text).map_err(|error| NameAddrError::Uri(place, error))?;
        let params = Params::parse_from(cursor)?;
        let end = params.iter().last().map_or(cursor.at(), |last| ByteAt(last.span.end));
        Ok(Self { display, uri, params, uri_span, bracketed, end })
    }

    /// The value of a header parameter; `Some(None)` if it has none.
    pub fn param(&self, name: impl AsRef<[u8]>) -> Option<Option<&'a [u8]>> {
        self.params.value(name)
    }

    /// The tag of From or To (§19.3).
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.param("tag")?
    }

    /// The preference of a Contact (§20.10). `None` if absent or malformed.
    pub fn q(&self) -> Option<Q> {
        Q::parse(self.param("q")??).ok()
    }

    /// The expires parameter of a Contact in seconds; a malformed one means 3600 (§20.10). `None` if absent.
    pub fn expires(&self) -> Option<u32> {
        let value = self.param("expires")?;
        Some(value.and_then(|text| numbers::delta_seconds(text).ok()).unwrap_or(3600))
    }

    /// `+sip.instance` (RFC 5626 §4.1) without its quotes: `<urn:uuid:...>`.
    pub fn instance(&self) -> Option<&'a [u8]> {
        self.params.find("+sip.instance")?.unquoted()
    }

    /// `reg-id` (RFC 5626 §4.2): 1 to 2^31-1; `None` if absent or malformed.
    pub fn reg_id(&self) -> Option<u32> {
        let id = numbers::number(self.param("reg-id")??).ok()?;
        (id > 0 && id <= i32::MAX.unsigned_abs()).then_some(id)
    }

    /// Whether the URI says that its element is a loose router (§19.1.1).
    pub fn lr(&self) -> bool {
        self.uri.lr()
    }

    /// Writes the display name without quotes and backslashes; nothing if there is none.
    pub fn write_display(&self, out: &mut Vec<u8>) {
        unquote(self.display.unwrap_or_default(), out);
    }

    /// Writes the value, the URI in angle brackets.
    pub fn write(&self, out: &mut Vec<u8>) {
        if let Some(display) = self.display {
            out.extend_from_slice(display);
            out.push(b' ');
        }
        out.push(b'<');
        self.uri.write(out);
        out.push(b'>');
        out.extend_from_slice(self.params.text());
    }
}

/// Reads the display name, if a `<` follows it, and the white space behind it.
///
/// Deviation: §25.1 `display-name`; bytes beyond ASCII are taken as parts of tokens, because phones do not quote
/// names in UTF-8.
fn display_at<'a>(cursor: &mut Cursor<'a>) -> Result<Option<&'a [u8]>, NameAddrError> {
    let at = cursor.at();
    if cursor.peek() == Some(b'"') {
        let quoted = cursor.take_quoted().ok_or(NameAddrError::Display(at))?;
        cursor.skip_lws();
        return if cursor.peek() == Some(b'<') { Ok(Some(quoted)) } else { Err(NameAddrError::Display(cursor.at())) };
    }
    let mut ahead = *cursor;
    ahead.take_while(|b| !matches!(b, b'<' | b'"' | b';' | b','));
    if ahead.peek() != Some(b'<') {
        // No angle bracket before the parameters: a bare addr-spec.
        return Ok(None);
    }
    let start = cursor.offset();
    let mut end = start;
    while cursor.offset() < ahead.offset() {
        if cursor.take_while(|b| is_token(b) || !b.is_ascii()).is_empty() {
            return Err(NameAddrError::Display(cursor.at()));
        }
        end = cursor.offset();
        cursor.skip_lws();
    }
    let len = end.saturating_sub(start);
    let display = cursor.since(start).get(..len).unwrap_or_default();
    Ok((!display.is_empty()).then_some(display))
}

/// Reads `<URI>`.
fn in_brackets<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], NameAddrError> {
    let at = cursor.at();
    cursor.advance(1);
    let uri = cursor.take_while(|b| b != b'>');
    if cursor.eat(b'>') { Ok(uri) } else { Err(NameAddrError::Bracket(at)) }
}

/// Reads a URI without brackets: everything from the first semicolon on belongs to the header (§20.10).
fn bare<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], NameAddrError> {
    let at = cursor.at();
    let uri = cursor.take_while(|b| b.is_ascii_graphic() && b != b';');
    if uri.iter().any(|b| matches!(b, b',' | b'?')) {
        return Err(NameAddrError::NeedsBrackets(at));
    }
    Ok(uri)
}
