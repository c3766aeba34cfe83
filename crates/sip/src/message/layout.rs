//! The span table of one message and the parser that fills it.

use super::error::{Glitch, Glitches, ParseError};
use super::scan::{self, LineEnd};
use super::view::Message;
use crate::header::{HeaderName, Method};
use crate::span::{ByteAt, Span};

/// Header lines in one message. More are answered with 513.
pub const HEADERS_MAX: usize = 256;

/// Bytes in one message, so that every place in it fits a `u32` with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 1 << 24;

const VERSION: &[u8] = b"SIP/2.0";

/// No line: the end of a chain of lines of one name.
const NONE: u16 = u16::MAX;

const _: () = assert!(HEADERS_MAX < NONE as usize);
const _: () = assert!(MESSAGE_BYTES_MAX < u32::MAX as usize);

/// Headers that occur once, and whose second, different value makes a message ambiguous. Content-Length is checked as
/// a number instead.
const SINGLE: [HeaderName; 5] = [
    HeaderName::CallId,
    HeaderName::CSeq,
    HeaderName::From,
    HeaderName::To,
    HeaderName::MaxForwards,
];

/// Where everything in a message is. Made once per reader and used for one message after another: only
/// [`Layout::new`] allocates.
#[derive(Debug)]
pub struct Layout {
    /// Message without leading CRLFs and trailing bytes.
    pub(super) whole: Span,
    pub(super) start: Start,
    /// From the first header line to before the empty line.
    pub(super) headers: Span,
    pub(super) body: Span,
    pub(super) glitches: Glitches,
    /// Whether the last parse went through.
    complete: bool,
    count: u16,
    /// First line of each name, by `HeaderName as usize`.
    first: [u16; HeaderName::COUNT],
    /// Last line of each name; stale where `first` has none.
    last: [u16; HeaderName::COUNT],
    lines: Box<[Line; HEADERS_MAX]>,
}

/// The start line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    Unread,
    Request {
        method: Method,
        method_text: Span,
        uri: Span,
        version: Span,
    },
    Status {
        code: u16,
        reason: Span,
        version: Span,
    },
}

/// One header with its continuation lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// The whole of it, with the line end.
    pub(super) line: Span,
    /// Trimmed.
    pub(super) value: Span,
    pub(super) name_end: u32,
    pub(super) name: HeaderName,
    /// Next line of the same name.
    next: u16,
}

impl Line {
    const EMPTY: Line = Line {
        line: Span::new(0, 0),
        value: Span::new(0, 0),
        name_end: 0,
        name: HeaderName::Other,
        next: NONE,
    };

    pub(super) fn name_text(&self) -> Span {
        Span::new(self.line.start, self.name_end)
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads one datagram as a message (§7, §18.3), filling `layout`.
///
/// Leading CRLFs are skipped; bytes beyond Content-Length are cut off; a datagram that ends before Content-Length is
/// an error. After an error [`Layout::partial`] tells whether it can be answered.
pub fn parse<'a>(bytes: &'a [u8], layout: &'a mut Layout) -> Result<Message<'a>, ParseError> {
    layout.read(bytes)?;
    Ok(Message { bytes, layout })
}

impl Layout {
    pub fn new() -> Layout {
        Layout {
            whole: Span::default(),
            start: Start::Unread,
            headers: Span::default(),
            body: Span::default(),
            glitches: Glitches::default(),
            complete: false,
            count: 0,
            first: [NONE; HeaderName::COUNT],
            last: [NONE; HeaderName::COUNT],
            lines: Box::new([Line::EMPTY; HEADERS_MAX]),
        }
    }

    /// [`parse`] without the view, for callers that keep layout and bytes apart; see [`Layout::message`].
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        self.clear();
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(ParseError::TooLarge);
        }
        let mut fault = None;
        let at = self.skip_leading(bytes)?;
        let at = self.read_start_line(bytes, at, &mut fault);
        let at = self.read_headers(bytes, at, &mut fault);
        self.check_singles(bytes, &mut fault);
        self.read_body(bytes, at, &mut fault);
        self.complete = fault.is_none();
        fault.map_or(Ok(()), Err)
    }

    /// The message that the last successful [`read`](Layout::read) found in these bytes.
    pub fn message<'a>(&'a self, bytes: &'a [u8]) -> Option<Message<'a>> {
        self.complete.then_some(Message {
            bytes,
            layout: self,
        })
    }

    /// After an error: what could be read of a request, if that suffices to answer it (start line, Via, From, To,
    /// Call-ID and CSeq were told apart, and it is no ACK). Only good for building that answer.
    ///
    /// None of these holds a bare CR: whoever takes that for the end of a line would find another header in our
    /// response.
    pub fn partial<'a>(&'a self, bytes: &'a [u8]) -> Option<Message<'a>> {
        use HeaderName::{CSeq, CallId, From, To, Via};
        let may_be_copied = |line: &Line| {
            self.chain(line)
                .all(|line| !has_bare_cr(line.value.slice(bytes)))
        };
        let answerable = matches!(self.start, Start::Request { method, .. } if method != Method::Ack)
            && [Via, From, To, CallId, CSeq]
                .into_iter()
                .all(|name| self.first_line(name).is_some_and(may_be_copied));
        answerable.then_some(Message {
            bytes,
            layout: self,
        })
    }

    pub(super) fn lines(&self) -> &[Line] {
        self.lines
            .get(..usize::from(self.count))
            .unwrap_or_default()
    }

    #[inline]
    pub(super) fn first_line(&self, name: HeaderName) -> Option<&Line> {
        self.line_at(*self.first.get(name as usize)?)
    }

    #[inline]
    pub(super) fn last_line(&self, name: HeaderName) -> Option<&Line> {
        self.first_line(name)?;
        self.line_at(*self.last.get(name as usize)?)
    }

    /// This line and those of the same name after it.
    fn chain<'l>(&'l self, line: &'l Line) -> impl Iterator<Item = &'l Line> {
        std::iter::successors(Some(line), |line| self.line_after(line))
    }

    /// The next line of the same name.
    pub(super) fn line_after(&self, line: &Line) -> Option<&Line> {
        self.line_at(line.next)
    }

    fn line_at(&self, index: u16) -> Option<&Line> {
        if index >= self.count {
            None
        } else {
            self.lines.get(usize::from(index))
        }
    }

    fn clear(&mut self) {
        self.whole = Span::default();
        self.start = Start::Unread;
        self.headers = Span::default();
        self.body = Span::default();
        self.glitches = Glitches::default();
        self.complete = false;
        self.count = 0;
        self.first = [NONE; HeaderName::COUNT];
    }

    /// The place of the start line, past the CRLFs that may stand before it (§7.5).
    fn skip_leading(&mut self, bytes: &[u8]) -> Result<usize, ParseError> {
        let mut at = 0usize;
        if matches!(bytes.first(), None | Some(b'\r' | b'\n' | 0)) {
            if bytes.iter().all(|b| matches!(b, b'\r' | b'\n' | 0)) {
                return Err(ParseError::KeepAlive);
            }
            while matches!(bytes.get(at), Some(b'\r' | b'\n')) {
                at = at.wrapping_add(1);
            }
            self.glitches.insert(Glitch::LeadingCrlf);
        }
        self.whole = Span::of(at, bytes.len());
        Ok(at)
    }

    /// Reads the start line (§7.1, §7.2) and returns the place after it.
    fn read_start_line(
        &mut self,
        bytes: &[u8],
        at: usize,
        fault: &mut Option<ParseError>,
    ) -> usize {
        let mut from = at;
        let (end, next) = loop {
            match scan::line_end(bytes, from) {
                LineEnd::Crlf(end) => break (end, end.wrapping_add(2)),
                LineEnd::Lf(end) => {
                    self.glitches.insert(Glitch::BareLf);
                    break (end, end.wrapping_add(1));
                }
                LineEnd::BareCr(cr) => {
                    fault.get_or_insert(ParseError::BareCr(ByteAt::new(cr)));
                    from = cr.wrapping_add(1);
                }
                LineEnd::Missing => {
                    fault.get_or_insert(ParseError::Unfinished(ByteAt::new(bytes.len())));
                    break (bytes.len(), bytes.len());
                }
            }
        };
        let line = bytes.get(at..end).unwrap_or_default();
        let start = if line
            .get(..4)
            .is_some_and(|word| word.eq_ignore_ascii_case(b"SIP/"))
        {
            self.status_line(line, at)
        } else {
            self.request_line(line, at)
        };
        match start {
            Ok(start) => self.start = start,
            Err(error) => {
                self.start = salvaged_request_line(line, at);
                fault.get_or_insert(error);
            }
        }
        if let Some(error) = self.check_version(bytes) {
            fault.get_or_insert(error);
        }
        next
    }

    /// `Method SP Request-URI SP SIP-Version`, with exactly these two spaces.
    fn request_line(&self, line: &[u8], at: usize) -> Result<Start, ParseError> {
        let malformed = |offset: usize| ParseError::StartLine(ByteAt::new(at.wrapping_add(offset)));
        let method_end = scan::token_end(line, 0);
        if method_end == 0 || line.get(method_end) != Some(&b' ') {
            return Err(malformed(method_end));
        }
        let uri_start = method_end.wrapping_add(1);
        let tail = line.get(uri_start..).unwrap_or_default();
        let uri_len = tail
            .iter()
            .position(|b| *b <= b' ' || *b == 0x7f)
            .unwrap_or(tail.len());
        let uri_end = uri_start.wrapping_add(uri_len);
        if uri_len == 0 || line.get(uri_end) != Some(&b' ') {
            return Err(malformed(uri_end));
        }
        let version_start = uri_end.wrapping_add(1);
        let version = line.get(version_start..).unwrap_or_default();
        if version != VERSION && version_digits(version).is_none() {
            return Err(malformed(version_start));
        }
        Ok(Start::Request {
            method: Method::of(line.get(..method_end).unwrap_or_default()),
            method_text: Span::of(at, at.wrapping_add(method_end)),
            uri: Span::of(at.wrapping_add(uri_start), at.wrapping_add(uri_end)),
            version: Span::of(at.wrapping_add(version_start), at.wrapping_add(line.len())),
        })
    }

    /// `SIP-Version SP Status-Code SP Reason-Phrase`; an empty reason may lose its space.
    fn status_line(&self, line: &[u8], at: usize) -> Result<Start, ParseError> {
        let malformed = |offset: usize| ParseError::StartLine(ByteAt::new(at.wrapping_add(offset)));
        let version_len = memchr::memchr(b' ', line).unwrap_or(line.len());
        if version_digits(line.get(..version_len).unwrap_or_default()).is_none() {
            return Err(malformed(0));
        }
        let code_start = version_len.wrapping_add(1);
        let code = match line.get(code_start..).unwrap_or_default() {
            [a @ b'1'..=b'6', b @ b'0'..=b'9', c @ b'0'..=b'9']
            | [a @ b'1'..=b'6', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => {
                [a, b, c].into_iter().fold(0u16, |sum, digit| {
                    sum.wrapping_mul(10)
                        .wrapping_add(u16::from(digit.wrapping_sub(b'0')))
                })
            }
            _ => return Err(malformed(code_start)),
        };
        let end = at.wrapping_add(line.len());
        let reason_start = at.wrapping_add(code_start).wrapping_add(4).min(end);
        Ok(Start::Status {
            code,
            reason: Span::of(reason_start, end),
            version: Span::of(at, at.wrapping_add(version_len)),
        })
    }

    fn check_version(&mut self, bytes: &[u8]) -> Option<ParseError> {
        let span = match self.start {
            Start::Unread => return None,
            Start::Request { version, .. } | Start::Status { version, .. } => version,
        };
        let version = span.slice(bytes);
        if version == VERSION {
            return None;
        }
        if version_digits(version) != Some(b"2.0") {
            return Some(ParseError::Version(ByteAt(span.start)));
        }
        self.glitches.insert(Glitch::VersionCase);
        None
    }

    /// Reads the header lines from `at` and returns the place after the empty line.
    fn read_headers(&mut self, bytes: &[u8], at: usize, fault: &mut Option<ParseError>) -> usize {
        let mut start = at;
        let body = loop {
            match (bytes.get(start), bytes.get(start.wrapping_add(1))) {
                (Some(b'\r'), Some(b'\n')) => break start.wrapping_add(2),
                (Some(b'\n'), _) => {
                    self.glitches.insert(Glitch::BareLf);
                    break start.wrapping_add(1);
                }
                (None, _) => {
                    fault.get_or_insert(ParseError::Unfinished(ByteAt::new(bytes.len())));
                    break start;
                }
                _ => {}
            }
            if usize::from(self.count) == HEADERS_MAX {
                fault.get_or_insert(ParseError::TooManyHeaders(ByteAt::new(start)));
                break start;
            }
            start = self.read_header(bytes, start, fault);
        };
        self.headers = Span::of(at, start);
        body
    }

    /// Reads the header line at `start` with its continuation lines and returns the place after them.
    #[inline]
    fn read_header(&mut self, bytes: &[u8], start: usize, fault: &mut Option<ParseError>) -> usize {
        let name = header_name(bytes, start);
        let mut from = name.map_or(start, |name| name.colon.wrapping_add(1));
        let value_start = from;
        let (value_end, next) = loop {
            let (end, next) = match scan::line_end(bytes, from) {
                LineEnd::Crlf(end) => (end, end.wrapping_add(2)),
                LineEnd::Lf(end) => {
                    self.glitches.insert(Glitch::BareLf);
                    (end, end.wrapping_add(1))
                }
                LineEnd::BareCr(cr) => {
                    fault.get_or_insert(ParseError::BareCr(ByteAt::new(cr)));
                    from = cr.wrapping_add(1);
                    continue;
                }
                LineEnd::Missing => {
                    fault.get_or_insert(ParseError::Unfinished(ByteAt::new(bytes.len())));
                    break (bytes.len(), bytes.len());
                }
            };
            if !matches!(bytes.get(next), Some(b' ' | b'\t')) {
                break (end, next);
            }
            from = next;
        };
        let Some(NameAt {
            name,
            end: name_end,
            ..
        }) = name
        else {
            fault.get_or_insert(ParseError::HeaderLine(ByteAt::new(start)));
            return next;
        };
        let (value_start, value_end) = scan::trim(bytes, value_start, value_end);
        self.push(Line {
            line: Span::of(start, next),
            value: Span::of(value_start, value_end),
            name_end: Span::of(start, name_end).end,
            name,
            next: NONE,
        });
        next
    }

    /// Adds a line to the table and to the chain of its name.
    #[inline]
    fn push(&mut self, line: Line) {
        let index = self.count;
        let Some(free) = self.lines.get_mut(usize::from(index)) else {
            return;
        };
        *free = line;
        self.count = index.saturating_add(1);
        let name = line.name as usize;
        let (Some(first), Some(last)) = (self.first.get_mut(name), self.last.get_mut(name)) else {
            return;
        };
        let before = std::mem::replace(last, index);
        if *first == NONE {
            *first = index;
        } else if let Some(before) = self.lines.get_mut(usize::from(before)) {
            before.next = index;
        }
    }

    fn check_singles(&mut self, bytes: &[u8], fault: &mut Option<ParseError>) {
        for name in SINGLE {
            let Some(first) = self.first_line(name) else {
                continue;
            };
            let mut next = self.line_after(first);
            let mut repeated = false;
            while let Some(line) = next {
                repeated = true;
                if line.value.slice(bytes) != first.value.slice(bytes) {
                    fault.get_or_insert(ParseError::Repeated(ByteAt(line.line.start)));
                }
                next = self.line_after(line);
            }
            if repeated {
                self.glitches.insert(Glitch::Repeated);
            }
        }
    }

    /// Content-Length against the end of the datagram (§18.3).
    fn read_body(&mut self, bytes: &[u8], at: usize, fault: &mut Option<ParseError>) {
        let rest = bytes.len().saturating_sub(at);
        let length = match self.content_length(bytes) {
            Ok(None) => rest,
            Ok(Some(length)) if length > rest => {
                fault.get_or_insert(ParseError::BodyCutOff(ByteAt::new(bytes.len())));
                rest
            }
            Ok(Some(length)) => {
                if length < rest {
                    self.glitches.insert(Glitch::TrailingBytes);
                }
                length
            }
            Err(error) => {
                fault.get_or_insert(error);
                rest
            }
        };
        let end = at.saturating_add(length).min(bytes.len());
        self.body = Span::of(at.min(end), end);
        self.whole.end = self.body.end;
    }

    fn content_length(&mut self, bytes: &[u8]) -> Result<Option<usize>, ParseError> {
        let mut next = self.first_line(HeaderName::ContentLength);
        let mut length = None;
        let mut repeated = false;
        while let Some(line) = next {
            let error = ParseError::ContentLength(ByteAt(line.value.start));
            let this = decimal(line.value.slice(bytes)).ok_or(error)?;
            repeated |= length.is_some();
            if *length.get_or_insert(this) != this {
                return Err(error);
            }
            next = self.line_after(line);
        }
        if repeated {
            self.glitches.insert(Glitch::Repeated);
        }
        Ok(length)
    }
}

/// A header name and its colon.
#[derive(Clone, Copy)]
pub(super) struct NameAt {
    pub(super) name: HeaderName,
    end: usize,
    pub(super) colon: usize,
}

/// The name at `start`: `token *( SP / HTAB ) ":"` (§7.3.1).
#[inline]
pub(super) fn header_name(bytes: &[u8], start: usize) -> Option<NameAt> {
    // A name we know is a token, whatever else was between: usually it need not be walked byte by byte.
    if let Some(colon) = scan::near_colon(bytes, start) {
        let name = HeaderName::of(bytes.get(start..colon).unwrap_or_default());
        if name != HeaderName::Other {
            return Some(NameAt {
                name,
                end: colon,
                colon,
            });
        }
    }
    let end = scan::token_end(bytes, start);
    let colon = scan::skip_blank(bytes, end);
    let name = HeaderName::of(bytes.get(start..end).unwrap_or_default());
    (end > start && bytes.get(colon) == Some(&b':')).then_some(NameAt { name, end, colon })
}

fn has_bare_cr(value: &[u8]) -> bool {
    memchr::memchr_iter(b'\r', value).any(|at| value.get(at.wrapping_add(1)) != Some(&b'\n'))
}

/// Of a malformed request line what its answer needs: a method in front, a SIP version behind, whatever is between.
/// So a stray space in the line or in the Request-URI is answered with 400 (RFC 4475 §3.1.2.8 to §3.1.2.10).
fn salvaged_request_line(line: &[u8], at: usize) -> Start {
    let method_end = scan::token_end(line, 0);
    let (middle_start, end) = scan::trim(line, method_end, line.len());
    let version_start = line
        .get(..end)
        .and_then(|line| memchr::memrchr2(b' ', b'\t', line))
        .map_or(end, |blank| blank.wrapping_add(1));
    let version = line.get(version_start..end).unwrap_or_default();
    if method_end == 0
        || middle_start <= method_end
        || version_start < middle_start
        || version_digits(version).is_none()
    {
        return Start::Unread;
    }
    let (uri_start, uri_end) = scan::trim(line, middle_start, version_start);
    let span = |start: usize, end: usize| Span::of(at.wrapping_add(start), at.wrapping_add(end));
    Start::Request {
        method: Method::of(line.get(..method_end).unwrap_or_default()),
        method_text: span(0, method_end),
        uri: span(uri_start, uri_end),
        version: span(version_start, end),
    }
}

/// The digits of `"SIP" "/" 1*DIGIT "." 1*DIGIT`; the word is compared without case (§7.1).
fn version_digits(version: &[u8]) -> Option<&[u8]> {
    let (word, digits) = version.split_at_checked(4)?;
    let dot = memchr::memchr(b'.', digits)?;
    let (major, minor) = (digits.get(..dot)?, digits.get(dot.wrapping_add(1)..)?);
    let number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    (word.eq_ignore_ascii_case(b"SIP/") && number(major) && number(minor)).then_some(digits)
}

/// A length of at most nine digits after leading zeros: more could not be in the buffer anyway, and is no length.
pub(super) fn decimal(text: &[u8]) -> Option<usize> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    text.iter().try_fold(0usize, |sum, digit| {
        sum.checked_mul(10)?
            .checked_add(usize::from(digit.wrapping_sub(b'0')))
            .filter(|sum| *sum < 1_000_000_000)
    })
}
