//! SIP, SIPS and tel URIs (RFC 3261 §19.1, RFC 3966).
//!
//! - [`Uri::parse`]: strict about structure, since a URI that one element reads otherwise than the next is a way
//!   around routing rules; the few liberties are marked `Deviation`;
//! - [`equivalent`]: the comparison of §19.1.4 and RFC 3966 §4;
//! - [`Aor`]: the canonical form under which bindings are kept (§10.3 step 5).

mod aor;
mod equivalence;
mod escape;
mod host;
mod params;

use std::io::Write;

pub use aor::{AOR_MAX, Aor, AorError};
pub use equivalence::equivalent;
pub use host::{Host, HostError};
pub use params::{UriHeader, UriHeaders, UriParam, UriParams, URI_PARTS_MAX};

use crate::header::cursor::Cursor;
use crate::header::numbers;
use crate::span::ByteAt;

/// Why a text is not a URI. Places are counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    #[error("no scheme at byte {0}")]
    Scheme(ByteAt),
    #[error("user part is malformed at byte {0}")]
    User(ByteAt),
    #[error("password is malformed at byte {0}")]
    Password(ByteAt),
    #[error("host at byte {0}: {1}")]
    Host(ByteAt, HostError),
    #[error("port at byte {0} is not a port")]
    Port(ByteAt),
    #[error("URI parameter is malformed at byte {0}")]
    Param(ByteAt),
    #[error("URI header is malformed at byte {0}")]
    Header(ByteAt),
    #[error("telephone number is malformed at byte {0}")]
    Number(ByteAt),
    #[error("byte {0} cannot be in a URI")]
    Char(ByteAt),
    #[error("too many URI parameters or headers at byte {0}")]
    TooMany(ByteAt),
}

/// The scheme of a URI, compared without regard to case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    /// Any other: the URI is opaque.
    Other,
}

impl Scheme {
    /// The scheme in lower case; empty for `Other`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sip => "sip",
            Self::Sips => "sips",
            Self::Tel => "tel",
            Self::Other => "",
        }
    }

    fn of(text: &[u8]) -> Self {
        [Self::Sip, Self::Sips, Self::Tel]
            .into_iter()
            .find(|scheme| scheme.as_str().as_bytes().eq_ignore_ascii_case(text))
            .unwrap_or(Self::Other)
    }
}

/// A URI and its parts, all as written: escapes are still in place.
///
/// The parts may be replaced before [`Uri::write`]; who does so answers for what the bytes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    pub scheme: Scheme,
    /// The user part; for `tel` the number. `None` for a URI without an `@` and for other schemes.
    pub user: Option<&'a [u8]>,
    pub password: Option<&'a [u8]>,
    /// `None` for `tel` and other schemes.
    pub host: Option<Host<'a>>,
    /// `None`: as §19.1.2 and RFC 3263 choose.
    pub port: Option<u16>,
    pub params: UriParams<'a>,
    pub headers: UriHeaders<'a>,
    /// The whole URI.
    pub text: &'a [u8],
}

impl<'a> Uri<'a> {
    /// Parses a whole URI; nothing may stand before or behind it.
    pub fn parse(text: &'a [u8]) -> Result<Self, UriError> {
        let mut cursor = Cursor::new(text);
        let scheme_text =
            cursor.take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        let begins_well = scheme_text.first().is_some_and(u8::is_ascii_alphabetic);
        if !begins_well || !cursor.eat(b':') {
            return Err(UriError::Scheme(cursor.at()));
        }
        let uri = Self {
            scheme: Scheme::of(scheme_text),
            user: None,
            password: None,
            host: None,
            port: None,
            params: UriParams::default(),
            headers: UriHeaders::default(),
            text,
        };
        match uri.scheme {
            Scheme::Sip | Scheme::Sips => uri.read_sip(cursor),
            Scheme::Tel => uri.read_tel(cursor),
            Scheme::Other => uri.read_other(cursor),
        }
    }

    /// `[user [":" password] "@"] host [":" port] *(";" param) ["?" headers]` (§25.1).
    fn read_sip(mut self, mut cursor: Cursor<'a>) -> Result<Self, UriError> {
        // No part but the user part may be followed by an at sign, and no part may hold one that is not escaped.
        if cursor.rest().contains(&b'@') {
            let at = cursor.at();
            let user = cursor.take_while(|b| b != b':' && b != b'@');
            escape::check(user, at, escape::is_user).map_err(UriError::User)?;
            if user.is_empty() {
                return Err(UriError::User(at));
            }
            self.user = Some(user);
            if cursor.eat(b':') {
                let at = cursor.at();
                let password = cursor.take_while(|b| b != b'@');
                escape::check(password, at, escape::is_password).map_err(UriError::Password)?;
                self.password = Some(password);
            }
            cursor.eat(b'@');
        }
        let at = cursor.at();
        let start = cursor.offset();
        if cursor.peek() == Some(b'[') {
            cursor.take_while(|b| !matches!(b, b']' | b';' | b'?'));
            cursor.eat(b']');
        } else {
            cursor.take_while(|b| !matches!(b, b':' | b';' | b'?'));
        }
        let host = Host::parse(cursor.since(start)).map_err(|error| UriError::Host(at, error))?;
        self.host = Some(host);
        if cursor.eat(b':') {
            let at = cursor.at();
            let digits = cursor.take_while(|b| b.is_ascii_digit());
            self.port = Some(numbers::port(digits).map_err(|_| UriError::Port(at))?);
        }
        self.params = UriParams::read(&mut cursor)?;
        self.headers = UriHeaders::read(&mut cursor)?;
        if cursor.is_at_end() { Ok(self) } else { Err(UriError::Char(cursor.at())) }
    }

    /// `number *(";" param)` (RFC 3966 §3).
    ///
    /// Deviation: RFC 3966 §5.1.5 demands a phone-context with a local number; numbers without one are dialled daily.
    fn read_tel(mut self, mut cursor: Cursor<'a>) -> Result<Self, UriError> {
        let at = cursor.at();
        let number = cursor.take_while(|b| b != b';');
        let is_global = number.first() == Some(&b'+');
        let digits = number.strip_prefix(b"+").unwrap_or(number);
        let is_digit = |b: u8| {
            b.is_ascii_digit() || (!is_global && (b.is_ascii_hexdigit() || matches!(b, b'*' | b'#')))
        };
        let all_legal = digits.iter().all(|b| is_digit(*b) || escape::is_visual_separator(*b));
        if !all_legal || !digits.iter().any(|b| is_digit(*b)) {
            return Err(UriError::Number(at));
        }
        self.user = Some(number);
        self.params = UriParams::read(&mut cursor)?;
        if cursor.is_at_end() { Ok(self) } else { Err(UriError::Char(cursor.at())) }
    }

    /// Anything visible: only its own scheme's elements know more.
    fn read_other(self, mut cursor: Cursor<'a>) -> Result<Self, UriError> {
        let rest = cursor.take_while(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'"'));
        if rest.is_empty() || !cursor.is_at_end() {
            return Err(UriError::Char(cursor.at()));
        }
        Ok(self)
    }

    /// The parameters in their order.
    pub fn params(&self) -> params::ParamIter<'a> {
        self.params.iter()
    }

    /// The value of a parameter; `Some(None)` if it has none.
    pub fn param(&self, name: impl AsRef<[u8]>) -> Option<Option<&'a [u8]>> {
        self.params.value(name)
    }

    /// Whether the scheme is sip or sips.
    pub fn is_sip(&self) -> bool {
        matches!(self.scheme, Scheme::Sip | Scheme::Sips)
    }

    /// The transport parameter as written; compared without regard to case.
    pub fn transport(&self) -> Option<&'a [u8]> {
        self.param("transport")?
    }

    /// The address that overrides the host (§19.1.1).
    pub fn maddr(&self) -> Option<Host<'a>> {
        Host::parse(self.param("maddr")??).ok()
    }

    /// Whether the element is a loose router (§19.1.1).
    pub fn lr(&self) -> bool {
        self.param("lr").is_some()
    }

    /// Whether the user part is a telephone-subscriber (§19.1.1): the scheme or `user=phone` says so.
    pub fn is_phone(&self) -> bool {
        self.scheme == Scheme::Tel
            || matches!(self.param("user"), Some(Some(kind)) if kind.eq_ignore_ascii_case(b"phone"))
    }

    /// The telephone number, without the parameters that a telephone-subscriber may carry in a user part.
    pub fn telephone(&self) -> Option<&'a [u8]> {
        let user = self.user.filter(|_| self.is_phone())?;
        user.split(|b| *b == b';').next()
    }

    /// Writes the URI from its parts; one of another scheme as it was read.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.scheme == Scheme::Other {
            out.extend_from_slice(self.text);
            return;
        }
        out.extend_from_slice(self.scheme.as_str().as_bytes());
        out.push(b':');
        if let Some(user) = self.user {
            out.extend_from_slice(user);
            if let Some(password) = self.password {
                out.push(b':');
                out.extend_from_slice(password);
            }
            if self.host.is_some() {
                out.push(b'@');
            }
        }
        if let Some(host) = self.host {
            host.write(out);
        }
        if let Some(port) = self.port {
            // Writing to a Vec does not fail.
            let _ = write!(out, ":{port}");
        }
        out.extend_from_slice(self.params.text());
        out.extend_from_slice(self.headers.text());
    }
}
