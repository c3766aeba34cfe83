//! The view of a parsed message.

use super::error::Glitches;
use super::layout::{Layout, Line, Start};
use super::values::{Value, Values};
use crate::header::{HeaderName, Method};
use crate::span::Span;

/// A message: a buffer, and a [`Layout`] that says where everything in it is. Copied freely, reads on demand.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) layout: &'a Layout,
}

/// `Method SP Request-URI SP SIP-Version` (§7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    pub method: Method,
    /// The token as it came.
    pub method_text: &'a [u8],
    /// The Request-URI, free of white space and control characters, otherwise unread.
    pub uri: &'a [u8],
}

/// `SIP-Version SP Status-Code SP Reason-Phrase` (§7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLine<'a> {
    /// 100 to 699.
    pub code: u16,
    pub reason: &'a [u8],
}

/// One header with its continuation lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: HeaderName,
    /// The name as it came.
    pub name_text: &'a [u8],
    /// Without white space around it. Folding may still be inside.
    pub value: &'a [u8],
    pub value_span: Span,
    /// The whole line, or lines, with the line end.
    pub line: Span,
}

impl<'a> Message<'a> {
    /// The buffer that was parsed, with whatever stood before and after the message. Spans count from its start.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The message itself: start line, headers, body.
    pub fn whole(&self) -> Span {
        self.layout.whole
    }

    pub fn is_request(&self) -> bool {
        matches!(self.layout.start, Start::Request { .. })
    }

    pub fn request(&self) -> Option<RequestLine<'a>> {
        match self.layout.start {
            Start::Request {
                method,
                method_text,
                uri,
                ..
            } => Some(RequestLine {
                method,
                method_text: method_text.slice(self.bytes),
                uri: uri.slice(self.bytes),
            }),
            Start::Status { .. } | Start::Unread => None,
        }
    }

    pub fn status(&self) -> Option<StatusLine<'a>> {
        match self.layout.start {
            Start::Status { code, reason, .. } => Some(StatusLine {
                code,
                reason: reason.slice(self.bytes),
            }),
            Start::Request { .. } | Start::Unread => None,
        }
    }

    /// Where the Request-URI is; `None` in a response.
    pub fn request_uri_span(&self) -> Option<Span> {
        match self.layout.start {
            Start::Request { uri, .. } => Some(uri),
            Start::Status { .. } | Start::Unread => None,
        }
    }

    pub(crate) fn version_span(&self) -> Span {
        match self.layout.start {
            Start::Request { version, .. } | Start::Status { version, .. } => version,
            Start::Unread => Span::default(),
        }
    }

    /// The header lines, without the empty line that ends them.
    pub fn headers_span(&self) -> Span {
        self.layout.headers
    }

    pub fn body(&self) -> &'a [u8] {
        self.layout.body.slice(self.bytes)
    }

    pub fn body_span(&self) -> Span {
        self.layout.body
    }

    /// Oddities that were tolerated.
    pub fn glitches(&self) -> Glitches {
        self.layout.glitches
    }

    /// Every header, in order; at most [`HEADERS_MAX`](super::HEADERS_MAX).
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + Clone + use<'a> {
        let message = *self;
        self.layout
            .lines()
            .iter()
            .map(move |line| message.header(line))
    }

    /// The first line of this name.
    #[inline]
    pub fn first(&self, name: HeaderName) -> Option<Header<'a>> {
        self.layout.first_line(name).map(|line| self.header(line))
    }

    /// The last line of this name.
    pub fn last(&self, name: HeaderName) -> Option<Header<'a>> {
        self.layout.last_line(name).map(|line| self.header(line))
    }

    pub fn has(&self, name: HeaderName) -> bool {
        self.layout.first_line(name).is_some()
    }

    /// Every line of this name, in order.
    pub fn all(&self, name: HeaderName) -> Headers<'a> {
        Headers {
            message: *self,
            next: self.layout.first_line(name),
        }
    }

    /// Every line of the header that `name` spells, known to us or not, compact forms included.
    pub fn all_named<'n>(&self, name: &'n [u8]) -> impl Iterator<Item = Header<'a>> + use<'a, 'n> {
        let known = HeaderName::of(name);
        self.all(known)
            .filter(move |h| known != HeaderName::Other || h.name_text.eq_ignore_ascii_case(name))
    }

    /// The comma separated values of all lines of this name (§7.3.1). A header that is no list by its grammar
    /// ([`HeaderName::is_list`]) has one value a line. At most [`VALUES_MAX`](super::VALUES_MAX).
    pub fn values(&self, name: HeaderName) -> Values<'a> {
        Values::new(*self, name)
    }

    /// The first of [`values`](Message::values).
    pub fn first_value(&self, name: HeaderName) -> Option<Value<'a>> {
        self.values(name).next()
    }

    /// The header whose value holds this span.
    pub(crate) fn header_around(&self, span: Span) -> Option<Header<'a>> {
        let lines = self.layout.lines();
        let after = lines.partition_point(|line| line.line.start <= span.start);
        let line = lines.get(after.checked_sub(1)?)?;
        line.value.contains(span).then(|| self.header(line))
    }

    #[inline]
    fn header(&self, line: &Line) -> Header<'a> {
        Header {
            name: line.name,
            name_text: line.name_text().slice(self.bytes),
            value: line.value.slice(self.bytes),
            value_span: line.value,
            line: line.line,
        }
    }
}

impl std::fmt::Debug for Message<'_> {
    /// The start line only: the rest of a message is somebody's personal matter.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.request(), self.status()) {
            (Some(line), _) => write!(f, "Message({} ...)", line.method_text.escape_ascii()),
            (_, Some(line)) => write!(f, "Message({} ...)", line.code),
            _ => f.write_str("Message(?)"),
        }
    }
}

/// Every line of one header; see [`Message::all`].
#[derive(Clone)]
pub struct Headers<'a> {
    message: Message<'a>,
    next: Option<&'a Line>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        let line = self.next?;
        self.next = self.message.layout.line_after(line);
        Some(self.message.header(line))
    }
}
