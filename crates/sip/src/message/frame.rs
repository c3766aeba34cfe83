//! Where one message of a stream ends and the next begins (§7.5, §18.3, RFC 5626 §3.5.1).
//!
//! The caller keeps what it has read in one buffer that begins at a message's first byte, and asks [`Framer::next`]
//! whenever the buffer has grown. The framer remembers how far it has looked: a byte of a head is looked at once,
//! however small the pieces that the stream comes in, and a body not at all. It finds the ends of heads where
//! [`parse`](super::parse) finds them, so that no two readers of a stream can disagree about what is a message.
//!
//! A stream has no other mark than Content-Length. One that is missing, no number, or there twice with two numbers leaves
//! nothing to go on with: every error here means that the connection is closed, and every later call repeats it.

use super::layout::{decimal, header_name};
use super::{MESSAGE_BYTES_MAX, is_token_byte, scan};
use crate::header::HeaderName;
use crate::span::ByteAt;

/// How large a message of a stream may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Start line and headers, with the empty line. Unit: bytes.
    pub head_bytes: usize,
    /// What Content-Length may say. Unit: bytes.
    pub body_bytes: usize,
}

impl Limits {
    /// What a UDP datagram can hold, twice: a head of 64 KiB and as much of a body.
    pub const DEFAULT: Limits = Limits {
        head_bytes: 1 << 16,
        body_bytes: 1 << 16,
    };

    /// The same, where both together may be one message for [`parse`](super::parse).
    fn clamped(self) -> Limits {
        let head_bytes = self.head_bytes.min(MESSAGE_BYTES_MAX);
        Limits {
            head_bytes,
            body_bytes: self
                .body_bytes
                .min(MESSAGE_BYTES_MAX.saturating_sub(head_bytes)),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What stands at the beginning of the buffer. After all but [`Frame::More`] the caller takes the bytes away before it
/// asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Nothing that is complete: read on.
    More,
    /// A line end between messages, to be passed over: one that a careless peer sent (§7.5), the first half of a ping, or
    /// the pong for ours.
    Blank { bytes: usize },
    /// The second half of a ping, a double CRLF: to be answered with one CRLF (RFC 5626 §4.4.1).
    Ping { bytes: usize },
    /// A message.
    Message { bytes: usize },
}

/// Why a stream cannot be read on. The connection is closed; a request that has a head may be answered before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No request line and no status line of any version of SIP: another protocol, or noise.
    #[error("no start line at byte {0}")]
    StartLine(ByteAt),
    /// A CR without LF in the head, where other parsers would see the end of a line.
    #[error("bare CR at byte {0}")]
    BareCr(ByteAt),
    /// More than [`Limits::head_bytes`] without an empty line.
    #[error("head of more than {0} bytes")]
    HeadTooLarge(usize),
    /// No Content-Length, which a stream must have (§20.14).
    #[error("no Content-Length before byte {0}")]
    NoLength(ByteAt),
    /// Content-Length is no number, or two of them differ.
    #[error("Content-Length at byte {0} is not a length")]
    BadLength(ByteAt),
    /// More than [`Limits::body_bytes`].
    #[error("body of {0} bytes")]
    BodyTooLarge(usize),
}

/// Finds messages in a stream; see the [module](self).
#[derive(Clone, Debug)]
pub struct Framer {
    limits: Limits,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Before a message.
    Between {
        after_crlf: bool,
    },
    Head(Head),
    /// The length of the whole message is known.
    Body {
        whole: usize,
    },
    Failed(FrameError),
}

/// How far a head was read.
#[derive(Clone, Debug, Default)]
struct Head {
    /// No line end before this place.
    seen: usize,
    /// Where the line at hand begins.
    line: usize,
    /// Where the header at hand begins, whose continuation the line may be; `None` in the start line.
    header: Option<usize>,
    length: Option<usize>,
}

impl Framer {
    pub fn new(limits: Limits) -> Framer {
        Framer {
            limits: limits.clamped(),
            state: State::Between { after_crlf: false },
        }
    }

    /// What stands at the beginning of `bytes`: what it was called with last, less what was taken away, and perhaps more.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Frame, FrameError> {
        let frame = self.step(bytes);
        match frame {
            Ok(Frame::Message { .. }) => self.state = State::Between { after_crlf: false },
            Err(error) => self.state = State::Failed(error),
            Ok(Frame::More | Frame::Blank { .. } | Frame::Ping { .. }) => {}
        }
        frame
    }

    /// Whether the stream may end here without cutting off a message.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Between { .. })
    }

    fn step(&mut self, bytes: &[u8]) -> Result<Frame, FrameError> {
        if let State::Between { after_crlf } = &mut self.state {
            match bytes {
                [] | [b'\r'] => return Ok(Frame::More),
                [b'\r', b'\n', ..] => {
                    let ping = std::mem::replace(after_crlf, !*after_crlf);
                    return Ok(if ping {
                        Frame::Ping { bytes: 2 }
                    } else {
                        Frame::Blank { bytes: 2 }
                    });
                }
                [b'\n', ..] => {
                    *after_crlf = false;
                    return Ok(Frame::Blank { bytes: 1 });
                }
                [first, ..] if is_token_byte(*first) => self.state = State::Head(Head::default()),
                _ => return Err(FrameError::StartLine(ByteAt(0))),
            }
        }
        if let State::Head(head) = &mut self.state {
            match head.read(bytes, &self.limits)? {
                None => return Ok(Frame::More),
                Some(whole) => self.state = State::Body { whole },
            }
        }
        match self.state {
            State::Body { whole } if bytes.len() >= whole => Ok(Frame::Message { bytes: whole }),
            State::Failed(error) => Err(error),
            _ => Ok(Frame::More),
        }
    }
}

impl Head {
    /// Reads on; the length of the whole message, once the head is complete.
    fn read(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, FrameError> {
        loop {
            // What lies beyond the bound decides nothing, or the kind of error would depend on the pieces.
            let head = bytes.get(..limits.head_bytes).unwrap_or(bytes);
            let found = memchr::memchr(b'\n', head.get(self.seen..).unwrap_or_default());
            let end = found.map_or(head.len(), |at| self.seen.saturating_add(at));
            // A CR may be the last byte before the LF, or before what has not come yet.
            let last = end.saturating_sub(1);
            let cr = memchr::memchr(b'\r', head.get(self.seen..end).unwrap_or_default());
            if let Some(at) = cr.map(|at| self.seen.saturating_add(at))
                && at != last
            {
                return Err(FrameError::BareCr(ByteAt::new(at)));
            }
            if found.is_none() {
                if head.len() == limits.head_bytes {
                    return Err(FrameError::HeadTooLarge(limits.head_bytes));
                }
                self.seen = if cr.is_some() { last } else { end };
                return Ok(None);
            }
            let text_end = if cr.is_some() { last } else { end };
            self.seen = end.saturating_add(1);
            if self.line_read(bytes, text_end)? {
                let length = self
                    .length
                    .ok_or(FrameError::NoLength(ByteAt::new(self.seen)))?;
                if length > limits.body_bytes {
                    return Err(FrameError::BodyTooLarge(length));
                }
                return Ok(Some(self.seen.saturating_add(length)));
            }
            self.line = self.seen;
        }
    }

    /// Takes in the line at hand, whose text ends at `end`. True if it is empty and ends the head.
    fn line_read(&mut self, bytes: &[u8], end: usize) -> Result<bool, FrameError> {
        let text = bytes.get(self.line..end).unwrap_or_default();
        let Some(header) = self.header else {
            if !is_start_line(text) {
                return Err(FrameError::StartLine(ByteAt::new(self.line)));
            }
            self.header = Some(self.seen);
            return Ok(false);
        };
        if header < self.line {
            if matches!(text.first(), Some(b' ' | b'\t')) {
                return Ok(false);
            }
            self.header_read(bytes, header, self.line)?;
            self.header = Some(self.line);
        }
        Ok(text.is_empty())
    }

    /// Takes in the header `start..end`, all its lines.
    fn header_read(&mut self, bytes: &[u8], start: usize, end: usize) -> Result<(), FrameError> {
        let bytes = bytes.get(..end).unwrap_or_default();
        let Some(name) = header_name(bytes, start).filter(|n| n.name == HeaderName::ContentLength)
        else {
            return Ok(());
        };
        let (from, to) = scan::trim(bytes, name.colon.saturating_add(1), end);
        let error = FrameError::BadLength(ByteAt::new(from));
        let length = decimal(bytes.get(from..to).unwrap_or_default()).ok_or(error)?;
        if *self.length.get_or_insert(length) != length {
            return Err(error);
        }
        Ok(())
    }
}

/// Whether a line may be meant as a start line: `SIP/` in front, or the last word begins so. What is wrong with it is for
/// the parser to say, which can answer.
fn is_start_line(line: &[u8]) -> bool {
    let names_sip = |word: &[u8]| {
        word.get(..4)
            .is_some_and(|w| w.eq_ignore_ascii_case(b"SIP/"))
    };
    let line = line.trim_ascii_end();
    let last = line
        .rsplit(|b| matches!(b, b' ' | b'\t'))
        .next()
        .unwrap_or_default();
    names_sip(line) || (names_sip(last) && last.len() < line.len())
}

#[cfg(test)]
mod tests {
    use super::{Frame, FrameError, Framer, Limits};
    use crate::span::ByteAt;

    const OPTIONS: &str = "OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP h\r\n";

    /// What a stream holds, fed at once, up to an error or the end of what can be read.
    fn frames(stream: &str) -> (Vec<Frame>, Option<FrameError>) {
        let mut framer = Framer::new(Limits {
            head_bytes: 100,
            body_bytes: 20,
        });
        let (mut rest, mut frames) = (stream.as_bytes(), Vec::new());
        loop {
            match framer.next(rest) {
                Ok(Frame::More) => return (frames, None),
                Ok(frame) => {
                    let (Frame::Blank { bytes } | Frame::Ping { bytes } | Frame::Message { bytes }) =
                        frame
                    else {
                        unreachable!("`More` was looked at")
                    };
                    frames.push(frame);
                    rest = &rest[bytes..];
                }
                Err(error) => {
                    assert_eq!(framer.next(b"\r\n"), Err(error), "an error stays");
                    return (frames, Some(error));
                }
            }
        }
    }

    fn one(stream: &str) -> Result<usize, FrameError> {
        match frames(stream) {
            (_, Some(error)) => Err(error),
            (frames, None) => match frames[..] {
                [Frame::Message { bytes }] => Ok(bytes),
                _ => panic!("{frames:?}"),
            },
        }
    }

    #[test]
    fn the_end_is_where_content_length_says() {
        for length in [
            "Content-Length: 4",
            "l:4",
            "CONTENT-LENGTH \t:\r\n  004 ",
            "l: 4\r\nL: 04",
        ] {
            let head = format!("{OPTIONS}{length}\r\n\r\n");
            assert_eq!(one(&format!("{head}body")), Ok(head.len() + 4), "{length}");
            let (all, error) = frames(&format!("{head}body{head}bo"));
            let message = Frame::Message {
                bytes: head.len() + 4,
            };
            assert_eq!((all, error), (vec![message], None));
        }
        // As the datagram parser takes it.
        let lone = "OPTIONS sip:a SIP/2.0\nl: 0\n\n";
        assert_eq!(one(lone), Ok(lone.len()));
        // Another header's continuation, and a header whose name only begins so.
        let head = format!("{OPTIONS}X: a\r\n l: 9\r\nLl: 9\r\nl: 0\r\n\r\n");
        assert_eq!(one(&head), Ok(head.len()));
    }

    #[test]
    fn keep_alives_stand_between_messages() {
        let head = format!("{OPTIONS}l: 0\r\n\r\n");
        let (blank, ping) = (Frame::Blank { bytes: 2 }, Frame::Ping { bytes: 2 });
        let message = Frame::Message { bytes: head.len() };
        assert_eq!(frames("\r\n"), (vec![blank], None));
        assert_eq!(frames("\r\n\r\n\r\n"), (vec![blank, ping, blank], None));
        assert_eq!(
            frames(&format!("\r\n{head}\r\n\r\n{head}")).0,
            [blank, message, blank, ping, message]
        );
        assert_eq!(frames("\n\r\n").0, [Frame::Blank { bytes: 1 }, blank]);
        assert_eq!(frames("\r"), (vec![], None));
    }

    #[test]
    fn what_leaves_nothing_to_go_on_with() {
        let at = |at: usize| ByteAt::new(at);
        let with = |line: &str| one(&format!("{OPTIONS}{line}\r\n\r\n"));
        let value = at(OPTIONS.len() + 3);
        assert_eq!(
            with("X: y"),
            Err(FrameError::NoLength(at(OPTIONS.len() + 8)))
        );
        assert_eq!(with("l: -1"), Err(FrameError::BadLength(value)));
        assert_eq!(with("l: 4,4"), Err(FrameError::BadLength(value)));
        assert_eq!(with("l: 1000000000"), Err(FrameError::BadLength(value)));
        assert_eq!(
            with("l: 4\r\nl: 5"),
            Err(FrameError::BadLength(at(OPTIONS.len() + 9)))
        );
        assert_eq!(with("l: 21"), Err(FrameError::BodyTooLarge(21)));
        assert_eq!(
            with(&"X: y\r\n".repeat(20)),
            Err(FrameError::HeadTooLarge(100))
        );
        assert_eq!(
            one(&"x".repeat(101)),
            Err(FrameError::HeadTooLarge(100)),
            "not even a line"
        );
        assert_eq!(
            with("X: a\rb"),
            Err(FrameError::BareCr(at(OPTIONS.len() + 4)))
        );
        // Which of two faults is told does not depend on how much came at once.
        let both = format!("{OPTIONS}X: a\rb{}", "x".repeat(100));
        let bare = FrameError::BareCr(at(OPTIONS.len() + 4));
        assert_eq!(frames(&both), frames(&both[..99]));
        assert_eq!(one(&both), Err(bare));
        let full = format!("{}\r", "x".repeat(99));
        assert_eq!(one(&full), Err(FrameError::HeadTooLarge(100)));
        for noise in [
            "\x16\x03\x01",
            "GET / HTTP/1.1\r\n",
            "SIP/\r\n\r\n",
            "\rx",
            "x\r\n",
            " OPTIONS",
        ] {
            let error = one(noise).expect_err(noise);
            // `SIP/` alone is a start line until the parser reads it.
            let expected = if noise.starts_with("SIP/") {
                FrameError::NoLength(at(noise.len()))
            } else {
                FrameError::StartLine(at(0))
            };
            assert_eq!(error, expected, "{noise:?}");
        }
    }

    #[test]
    fn what_was_seen_is_not_looked_at_again() {
        let message = format!("{OPTIONS}l:\r\n 3\r\nX: y\r\n\r\nabc");
        let mut framer = Framer::new(Limits::DEFAULT);
        let mut buffer = Vec::new();
        for byte in message.bytes().take(message.len() - 1) {
            buffer.push(byte);
            assert_eq!(framer.next(&buffer), Ok(Frame::More));
            // Only the header at hand will be read again, once, when it is whole.
            let done = match &framer.state {
                super::State::Head(head) => head.header.unwrap_or(0),
                _ => buffer.len(),
            };
            buffer[..done].fill(b'\r');
        }
        buffer.push(b'c');
        let whole = message.len();
        assert_eq!(framer.next(&buffer), Ok(Frame::Message { bytes: whole }));
        assert!(framer.is_between());
    }

    #[test]
    fn limits_fit_a_message() {
        let framer = Framer::new(Limits {
            head_bytes: usize::MAX,
            body_bytes: usize::MAX,
        });
        let Limits {
            head_bytes,
            body_bytes,
        } = framer.limits;
        assert_eq!(head_bytes + body_bytes, super::MESSAGE_BYTES_MAX);
        assert_eq!(Limits::default(), Limits::DEFAULT);
    }
}
