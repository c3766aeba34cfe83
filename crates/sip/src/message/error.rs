//! What can be wrong with a message, and what we send back.

use crate::span::ByteAt;

/// What to do about a message that cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer the request with this status code and reason phrase. A response, or an ACK, is dropped all the same:
    /// [`Layout::partial`](super::Layout::partial) yields only what may be answered.
    Reply(u16, &'static str),
    /// Send nothing.
    Silence,
}

/// Why bytes are not a message. The first fault in the buffer is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Nothing but CR, LF and NUL, or nothing at all: what peers send to keep a binding in a NAT open (RFC 5626 §4.4.1).
    #[error("keep-alive")]
    KeepAlive,
    /// More than [`MESSAGE_BYTES_MAX`](super::MESSAGE_BYTES_MAX) bytes.
    #[error("message of more than {} bytes", super::MESSAGE_BYTES_MAX)]
    TooLarge,
    /// Neither `Method SP Request-URI SP SIP-Version` nor `SIP-Version SP Status-Code SP Reason-Phrase` (§7.1, §7.2).
    #[error("start line is malformed at byte {0}")]
    StartLine(ByteAt),
    /// A SIP version other than 2.0.
    #[error("SIP version at byte {0} is not 2.0")]
    Version(ByteAt),
    /// A line that does not begin with a header name and a colon (§7.3.1).
    #[error("header line is malformed at byte {0}")]
    HeaderLine(ByteAt),
    /// A CR that is not followed by LF, where other parsers would see the end of a line.
    #[error("bare CR at byte {0}")]
    BareCr(ByteAt),
    /// More than [`HEADERS_MAX`](super::HEADERS_MAX) header lines.
    #[error("too many header lines at byte {0}")]
    TooManyHeaders(ByteAt),
    /// The datagram ends before the empty line that ends the headers.
    #[error("no end of headers before byte {0}")]
    Unfinished(ByteAt),
    /// A header that may occur once occurs again with another value: Call-ID, CSeq, From, To, Max-Forwards.
    #[error("second, different value of a single header at byte {0}")]
    Repeated(ByteAt),
    /// Content-Length is not a number, or occurs twice with different numbers.
    #[error("Content-Length at byte {0} is not a length")]
    ContentLength(ByteAt),
    /// The datagram ends before the body does (§18.3).
    #[error("body is cut off at byte {0}")]
    BodyCutOff(ByteAt),
}

impl ParseError {
    /// The byte at which the fault was seen.
    pub fn at(self) -> ByteAt {
        match self {
            ParseError::KeepAlive | ParseError::TooLarge => ByteAt(0),
            ParseError::StartLine(at)
            | ParseError::Version(at)
            | ParseError::HeaderLine(at)
            | ParseError::BareCr(at)
            | ParseError::TooManyHeaders(at)
            | ParseError::Unfinished(at)
            | ParseError::Repeated(at)
            | ParseError::ContentLength(at)
            | ParseError::BodyCutOff(at) => at,
        }
    }

    /// What to send, if the message turns out to be a request that can be answered.
    pub fn verdict(self) -> Verdict {
        match self {
            ParseError::KeepAlive => Verdict::Silence,
            ParseError::TooLarge | ParseError::TooManyHeaders(_) => {
                Verdict::Reply(513, "Message Too Large")
            }
            ParseError::Version(_) => Verdict::Reply(505, "Version Not Supported"),
            ParseError::StartLine(_) => Verdict::Reply(400, "Bad Start Line"),
            ParseError::HeaderLine(_) => Verdict::Reply(400, "Bad Header Line"),
            ParseError::BareCr(_) => Verdict::Reply(400, "Bare CR in Header"),
            ParseError::Unfinished(_) => Verdict::Reply(400, "Unfinished Headers"),
            ParseError::Repeated(_) => Verdict::Reply(400, "Repeated Header"),
            ParseError::ContentLength(_) => Verdict::Reply(400, "Bad Content-Length"),
            ParseError::BodyCutOff(_) => Verdict::Reply(400, "Body Shorter Than Content-Length"),
        }
    }
}

/// An oddity that was tolerated. Counted per peer, never a reason to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Glitch {
    /// A line of the head ends with LF alone.
    BareLf,
    /// CRLFs before the start line (§7.5).
    LeadingCrlf,
    /// More bytes in the datagram than Content-Length covers; they are ignored (§18.3).
    TrailingBytes,
    /// `SIP` in the version is not in upper case (§7.1).
    VersionCase,
    /// A single header occurs twice with the same value.
    Repeated,
}

impl Glitch {
    pub const ALL: [Glitch; 5] = [
        Glitch::BareLf,
        Glitch::LeadingCrlf,
        Glitch::TrailingBytes,
        Glitch::VersionCase,
        Glitch::Repeated,
    ];

    /// For counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            Glitch::BareLf => "bare_lf",
            Glitch::LeadingCrlf => "leading_crlf",
            Glitch::TrailingBytes => "trailing_bytes",
            Glitch::VersionCase => "version_case",
            Glitch::Repeated => "repeated_header",
        }
    }
}

/// The oddities of one message, each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Glitches(u8);

impl Glitches {
    pub(crate) fn insert(&mut self, glitch: Glitch) {
        self.0 |= Self::bit(glitch);
    }

    pub fn contains(self, glitch: Glitch) -> bool {
        self.0 & Self::bit(glitch) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Glitch> {
        Glitch::ALL.into_iter().filter(move |g| self.contains(*g))
    }

    const fn bit(glitch: Glitch) -> u8 {
        1u8.wrapping_shl(glitch as u32)
    }
}
