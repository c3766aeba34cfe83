//! Edits over a message: kept aside, seen by the next reader at once, written out by gather.
//!
//! A [`Patch`] never touches the buffer. It keeps a sorted list of edits that do not overlap, each a span of the
//! original and the text that takes its place; what no edit names leaves byte for byte as it came, unknown headers
//! and folding included, but for a line end of LF alone, which becomes CRLF. Text handed in is checked for line ends, so no value can smuggle in a header.

mod edits;
mod name;

use std::borrow::Cow;

pub use edits::PatchSpace;
use edits::{Edit, Kind};
pub use name::FieldName;

use crate::header::HeaderName;
use crate::message::{Glitch, Header, Message, has_comments, is_token, value_end};
use crate::span::Span;

/// Edits in one patch.
pub const PATCHES_MAX: usize = 64;

/// Why an edit was refused. After a refusal the patch may hold a part of the edit: throw it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    #[error("text at byte {0} holds CR, LF or NUL")]
    LineBreak(crate::span::ByteAt),
    #[error("header name is not a token")]
    Name,
    #[error("more than {PATCHES_MAX} edits")]
    TooMany,
    #[error("the edit overlaps an earlier one")]
    Overlap,
    #[error("the span is not inside one header value or the Request-URI")]
    Outside,
    #[error("a response has no Request-URI")]
    NoRequestUri,
    #[error("Request-URI is empty or holds white space")]
    Uri,
}

/// A message with edits; see the [module](self).
#[derive(Debug)]
pub struct Patch<'a> {
    message: Message<'a>,
    space: PatchSpace,
}

/// A header line as an edited message has it.
enum Place<'a> {
    Original(Header<'a>),
    /// Index of the edit that inserts it.
    Inserted(usize),
}

impl<'a> Patch<'a> {
    pub fn new(message: Message<'a>) -> Patch<'a> {
        Patch::reusing(message, PatchSpace::default())
    }

    /// A patch in the memory of an earlier one ([`Patch::into_space`]), which makes it free of allocations.
    pub fn reusing(message: Message<'a>, mut space: PatchSpace) -> Patch<'a> {
        space.clear();
        let mut patch = Patch { message, space };
        if message.glitches().contains(Glitch::VersionCase) {
            let text = patch.space.keep(b"SIP/2.0");
            // An empty list has room for one edit.
            let _ = patch.space.insert(Edit {
                span: message.version_span(),
                text,
                kind: Kind::Part,
            });
        }
        patch
    }

    pub fn into_space(self) -> PatchSpace {
        self.space
    }

    /// The message as it came.
    pub fn message(&self) -> Message<'a> {
        self.message
    }

    // ---- readers -------------------------------------------------------------------------------------------------

    /// The Request-URI as it will be written; `None` in a response.
    pub fn request_uri(&self) -> Option<&[u8]> {
        let span = self.message.request_uri_span()?;
        Some(match self.space.exact(span) {
            Some(edit) => self.space.text(edit.text),
            None => span.slice(self.message.bytes()),
        })
    }

    /// The value of the first line of this name as it will be written.
    pub fn first<'n>(&self, name: impl Into<FieldName<'n>>) -> Option<Cow<'_, [u8]>> {
        self.places(name.into())
            .next()
            .map(|place| self.value_at(&place))
    }

    /// The values of all lines of this name, line by line.
    pub fn all<'s, 'n: 's>(
        &'s self,
        name: impl Into<FieldName<'n>>,
    ) -> impl Iterator<Item = Cow<'s, [u8]>> {
        self.places(name.into()).map(|place| self.value_at(&place))
    }

    /// The first comma separated value of this name (the whole value, if the header is no list).
    pub fn first_value<'n>(&self, name: impl Into<FieldName<'n>>) -> Option<Cow<'_, [u8]>> {
        let name = name.into();
        self.places(name).find_map(|place| {
            let value = self.value_at(&place);
            let (first, _) = first_in_list(name.known(), &value)?;
            Some(match value {
                Cow::Borrowed(bytes) => Cow::Borrowed(first.slice(bytes)),
                Cow::Owned(ref bytes) => Cow::Owned(first.slice(bytes).to_vec()),
            })
        })
    }

    /// The body as it will be written.
    pub fn body(&self) -> &[u8] {
        match self.space.iter().find(|e| e.kind == Kind::Body) {
            Some(edit) => self.space.text(edit.text),
            None => self.message.body(),
        }
    }

    // ---- edits ---------------------------------------------------------------------------------------------------

    pub fn set_request_uri(&mut self, uri: &[u8]) -> Result<(), PatchError> {
        let span = self
            .message
            .request_uri_span()
            .ok_or(PatchError::NoRequestUri)?;
        if !is_request_uri(uri) {
            return Err(PatchError::Uri);
        }
        let text = self.space.keep(uri);
        self.space.replace_part(span, text)
    }

    /// Adds a line before the first one of this name, or before all headers when there is none.
    pub fn push_top<'n>(
        &mut self,
        name: impl Into<FieldName<'n>>,
        value: &[u8],
    ) -> Result<(), PatchError> {
        let name = name.into();
        let (text, kind) = self.line_text(name, value)?;
        let first = self.places(name).next();
        match first {
            Some(Place::Inserted(index)) => self.space.insert_line_at(index, text, kind),
            Some(Place::Original(header)) => {
                let index = self.space.after_inserts_at(header.line.start);
                self.space
                    .insert_edit(index, Edit::insertion(header.line.start, text, kind))
            }
            None => {
                let start = self.message.headers_span().start;
                let index = self.space.before_inserts_at(start);
                self.space
                    .insert_edit(index, Edit::insertion(start, text, kind))
            }
        }
    }

    /// Adds a line after the last one of this name, or after all headers when there is none.
    pub fn append<'n>(
        &mut self,
        name: impl Into<FieldName<'n>>,
        value: &[u8],
    ) -> Result<(), PatchError> {
        let name = name.into();
        let (text, kind) = self.line_text(name, value)?;
        let last = self.places(name).last();
        match last {
            Some(Place::Inserted(index)) => self.space.insert_line_after(index, text, kind),
            Some(Place::Original(header)) => {
                let index = self.space.before_inserts_at(header.line.end);
                self.space
                    .insert_edit(index, Edit::insertion(header.line.end, text, kind))
            }
            None => {
                let end = self.message.headers_span().end;
                let index = self.space.after_inserts_at(end);
                self.space
                    .insert_edit(index, Edit::insertion(end, text, kind))
            }
        }
    }

    /// Makes `value` the only value of this name: in the place of the first line, or after all headers.
    pub fn set<'n>(
        &mut self,
        name: impl Into<FieldName<'n>>,
        value: &[u8],
    ) -> Result<(), PatchError> {
        let name = name.into();
        let mut places = self.places(name);
        let first = places.next();
        let more = places.next().is_some();
        drop(places);
        match first {
            None => return self.append(name, value),
            Some(Place::Inserted(index)) => {
                let (text, kind) = self.line_text(name, value)?;
                self.space.rewrite_line(index, text, kind);
            }
            Some(Place::Original(header)) => {
                check_text(value)?;
                let text = self.space.keep(value);
                self.space
                    .replace_all_parts(header.line, header.value_span, text)?;
            }
        }
        if more {
            while let Some(place) = { self.places(name).nth(1) } {
                self.remove_line(&place)?;
            }
        }
        Ok(())
    }

    /// Removes the first comma separated value of this name, and its line when that was the last one on it. `false`
    /// when there is none.
    pub fn remove_first_value<'n>(
        &mut self,
        name: impl Into<FieldName<'n>>,
    ) -> Result<bool, PatchError> {
        let name = name.into();
        let found = self.places(name).find_map(|place| {
            let value = self.value_at(&place);
            let (_, rest) = first_in_list(name.known(), &value)?;
            Some((place, value, rest))
        });
        let Some((place, value, rest)) = found else {
            return Ok(false);
        };
        let Some(rest) = rest else {
            drop(value);
            self.remove_line(&place)?;
            return Ok(true);
        };
        match &place {
            Place::Inserted(index) => {
                let index = *index;
                let kept = rest.slice(&value).to_vec();
                let (text, kind) = self.line_text(name, &kept)?;
                self.space.rewrite_line(index, text, kind);
            }
            Place::Original(header) => {
                // What is left is usually the end of the original value: then the edit only takes away.
                let left = Span::within(self.message.bytes(), rest.slice(&value)).filter(|left| {
                    left.end == header.value_span.end && header.value_span.contains(*left)
                });
                let (span, text) = match left {
                    Some(left) => (
                        Span::new(header.value_span.start, left.start),
                        Span::default(),
                    ),
                    None => {
                        let kept = rest.slice(&value).to_vec();
                        (header.value_span, self.space.keep(&kept))
                    }
                };
                self.space.replace_all_parts(header.line, span, text)?;
            }
        }
        Ok(true)
    }

    /// Removes every line of this name and tells how many there were.
    pub fn remove_all<'n>(&mut self, name: impl Into<FieldName<'n>>) -> Result<usize, PatchError> {
        let name = name.into();
        let mut removed = 0usize;
        while let Some(place) = { self.places(name).next() } {
            self.remove_line(&place)?;
            removed = removed.saturating_add(1);
        }
        Ok(removed)
    }

    /// Puts `text` in the place of `span`, which lies inside one header value, or is the Request-URI, and does not begin
    /// in the middle of a fold. The same span may be replaced again.
    pub fn replace_value(&mut self, span: Span, text: &[u8]) -> Result<(), PatchError> {
        if self.message.request_uri_span() == Some(span) {
            return self.set_request_uri(text);
        }
        check_text(text)?;
        let header = self
            .message
            .header_around(span)
            .filter(|_| span.start <= span.end && !self.cuts_fold(span))
            .ok_or(PatchError::Outside)?;
        if self.space.is_removed(header.line) {
            return Err(PatchError::Overlap);
        }
        let text = self.space.keep(text);
        self.space.replace_part(span, text)
    }

    /// Gives the message another body. Content-Length follows; Content-Type becomes `content_type` or goes.
    pub fn set_body(&mut self, content_type: Option<&[u8]>, body: &[u8]) -> Result<(), PatchError> {
        match content_type {
            Some(value) => self.set(HeaderName::ContentType, value)?,
            None => {
                self.remove_all(HeaderName::ContentType)?;
            }
        }
        let mut digits = Decimal::default();
        self.set(HeaderName::ContentLength, digits.write(body.len()))?;
        let text = self.space.keep(body);
        self.space.set_body(self.message.body_span(), text)
    }

    // ---- writing -------------------------------------------------------------------------------------------------

    /// The edited message, piece by piece: pieces of the original and of the patch.
    ///
    /// A line of the head that came with LF alone leaves with CRLF. Else an element that knows CRLF only would find
    /// the end of the headers somewhere in what we took for the body, and headers there that we never looked at.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let whole = self.message.whole();
        let mut from = whole.start;
        let mut edits = self.space.iter();
        let mut original = Mended::of(self.message);
        let mut text = None;
        let mut finished = false;
        std::iter::from_fn(move || {
            loop {
                if let Some(piece) = original.next() {
                    return Some(piece);
                }
                if let Some(text) = text.take() {
                    return Some(self.space.text(text));
                }
                if finished {
                    return None;
                }
                match edits.next() {
                    Some(edit) => {
                        original.rest = Span::new(from, edit.span.start);
                        from = edit.span.end;
                        text = Some(edit.text);
                    }
                    None => {
                        finished = true;
                        original.rest = Span::new(from, whole.end);
                    }
                }
            }
        })
        .filter(|piece| !piece.is_empty())
    }

    /// Bytes that [`write`](Patch::write) adds.
    pub fn len(&self) -> usize {
        self.segments()
            .fold(0usize, |sum, piece| sum.saturating_add(piece.len()))
    }

    /// Whether nothing would be written, which no message comes to.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the edited message to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve((self.message.whole().len() as usize).saturating_add(self.space.text_len()));
        for piece in self.segments() {
            out.extend_from_slice(piece);
        }
    }

    /// Whether text in the place of this span would follow a line end, or part the CR from its LF: then it would be a line
    /// of its own, and whatever it says a header.
    fn cuts_fold(&self, span: Span) -> bool {
        let byte = |at: Option<u32>| self.message.bytes().get(at? as usize).copied();
        matches!(byte(span.start.checked_sub(1)), Some(b'\r' | b'\n'))
            || byte(span.end.checked_sub(1)) == Some(b'\r')
    }

    // ---- the edited message, line by line ------------------------------------------------------------------------

    /// The lines of this name in the order in which they will be written.
    fn places<'s, 'n: 's>(
        &'s self,
        name: FieldName<'n>,
    ) -> impl Iterator<Item = Place<'a>> + use<'s, 'a, 'n> {
        let mut inserted = self
            .space
            .iter()
            .enumerate()
            .filter(move |(_, e)| self.space.inserts(e, name))
            .peekable();
        let mut original = self
            .message
            .all(name.known())
            .filter(move |h| name.matches(h.name, h.name_text) && !self.space.is_removed(h.line))
            .peekable();
        std::iter::from_fn(move || {
            let line = original.peek().map(|h| h.line.start);
            match inserted.next_if(|(_, e)| line.is_none_or(|line| e.span.start <= line)) {
                Some((index, _)) => Some(Place::Inserted(index)),
                None => original.next().map(Place::Original),
            }
        })
    }

    fn value_at(&self, place: &Place<'a>) -> Cow<'_, [u8]> {
        match place {
            Place::Inserted(index) => Cow::Borrowed(self.space.inserted_value(*index)),
            Place::Original(header) => self.space.edited(self.message.bytes(), header),
        }
    }

    fn remove_line(&mut self, place: &Place<'a>) -> Result<(), PatchError> {
        match place {
            Place::Inserted(index) => {
                self.space.remove(*index);
                Ok(())
            }
            Place::Original(header) => self.space.remove_line(header.line),
        }
    }

    /// Keeps `Name: value CRLF`.
    fn line_text(&mut self, name: FieldName<'_>, value: &[u8]) -> Result<(Span, Kind), PatchError> {
        if !is_token(name.text()) {
            return Err(PatchError::Name);
        }
        check_text(value)?;
        Ok(self.space.keep_line(name, value))
    }
}

/// A piece of the original, with CRLF in the place of every LF that stands alone in the head.
struct Mended<'a> {
    bytes: &'a [u8],
    /// What is left of the piece.
    rest: Span,
    /// Where lone line feeds may be: before this place.
    head_end: u32,
    /// Whether a line end is owed.
    ends_line: bool,
}

impl<'a> Mended<'a> {
    fn of(message: Message<'a>) -> Self {
        let has_lone_feeds = message.glitches().contains(Glitch::BareLf);
        Mended {
            bytes: message.bytes(),
            rest: Span::default(),
            head_end: if has_lone_feeds {
                message.body_span().start
            } else {
                0
            },
            ends_line: false,
        }
    }

    /// The place of the first lone line feed in `rest`.
    fn lone_feed(&self) -> Option<u32> {
        let head = Span::new(self.rest.start, self.rest.end.min(self.head_end));
        memchr::memchr_iter(b'\n', head.slice(self.bytes))
            .filter_map(|at| head.start.checked_add(u32::try_from(at).ok()?))
            .find(|at| {
                let before = at.checked_sub(1).map(|before| before as usize);
                before.and_then(|before| self.bytes.get(before)) != Some(&b'\r')
            })
    }
}

impl<'a> Iterator for Mended<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if std::mem::take(&mut self.ends_line) {
            return Some(b"\r\n");
        }
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = match self.lone_feed() {
            Some(at) => {
                self.ends_line = true;
                let behind = Span::new(at.saturating_add(1), self.rest.end);
                (Span::new(self.rest.start, at), behind)
            }
            None => (self.rest, Span::default()),
        };
        self.rest = rest;
        Some(piece.slice(self.bytes))
    }
}

/// Refuses what would end a header line, and NUL, which ends a string elsewhere.
pub(crate) fn check_text(text: &[u8]) -> Result<(), PatchError> {
    match memchr::memchr3(b'\r', b'\n', 0, text) {
        None => Ok(()),
        Some(at) => Err(PatchError::LineBreak(crate::span::ByteAt::new(at))),
    }
}

/// Whether `uri` can stand in a request line: not empty, no white space, no control character.
pub(crate) fn is_request_uri(uri: &[u8]) -> bool {
    !uri.is_empty() && uri.iter().all(|b| *b > b' ' && *b != 0x7f)
}

/// The first value in `list`, and from the second one to the end if there is one. `None` in an empty list.
fn first_in_list(name: HeaderName, list: &[u8]) -> Option<(Span, Option<Span>)> {
    let mut values = ListSpans {
        name,
        list,
        from: 0,
    };
    let first = values.next()?;
    Some((
        first,
        values
            .next()
            .map(|second| Span::of(second.start as usize, list.len())),
    ))
}

/// Spans of the values in one line's value.
struct ListSpans<'l> {
    name: HeaderName,
    list: &'l [u8],
    from: usize,
}

impl Iterator for ListSpans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        while self.from < self.list.len() {
            let start = self.from;
            let rest = self.list.get(start..).unwrap_or_default();
            let len = if self.name.is_list() {
                value_end(rest, has_comments(self.name))
            } else {
                rest.len()
            };
            self.from = start.saturating_add(len).saturating_add(1);
            let value = crate::header::trim(rest.get(..len).unwrap_or_default());
            if !value.is_empty() {
                return Span::within(self.list, value);
            }
        }
        None
    }
}

/// A number as text, without allocation.
#[derive(Default)]
pub(crate) struct Decimal {
    digits: [u8; 20],
}

impl Decimal {
    pub(crate) fn write(&mut self, number: usize) -> &[u8] {
        let mut left = number;
        let mut start = self.digits.len();
        for (at, digit) in self.digits.iter_mut().enumerate().rev() {
            *digit = b'0'.wrapping_add(u8::try_from(left % 10).unwrap_or(0));
            start = at;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.digits.get(start..).unwrap_or_default()
    }
}
