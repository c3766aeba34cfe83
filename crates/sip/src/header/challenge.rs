//! Authorization, WWW-Authenticate and their proxy twins: a scheme and comma separated parameters (§25.1).

use super::cursor::{Cursor, is_token, unquote};
use crate::span::ByteAt;

/// How many parameters one challenge or one set of credentials may have.
pub const AUTH_PARAMS_MAX: usize = 32;

/// Why a text is not a challenge or credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChallengeError {
    #[error("no authentication scheme at byte {0}")]
    Scheme(ByteAt),
    #[error("no parameter name at byte {0}")]
    Name(ByteAt),
    #[error("no parameter value at byte {0}")]
    Value(ByteAt),
    #[error("no comma at byte {0}")]
    Comma(ByteAt),
    #[error("parameter at byte {0} was given before")]
    Repeated(ByteAt),
    #[error("too many parameters at byte {0}")]
    TooMany(ByteAt),
}

/// One `name=value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthParam<'a> {
    /// A token; compared without regard to case.
    pub name: &'a [u8],
    /// As written, quotes and backslashes included.
    pub raw: &'a [u8],
}

impl AuthParam<'_> {
    /// Whether this is the parameter `name`.
    pub fn is(&self, name: impl AsRef<[u8]>) -> bool {
        self.name.eq_ignore_ascii_case(name.as_ref())
    }

    pub fn is_quoted(&self) -> bool {
        self.raw.first() == Some(&b'"')
    }

    /// Writes the value without quotes and backslashes.
    pub fn unquote(&self, out: &mut Vec<u8>) {
        unquote(self.raw, out);
    }
}

/// A challenge or credentials: `Digest realm="example.com", nonce="..."`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge<'a> {
    /// `Digest`, as written; compared without regard to case.
    pub scheme: &'a [u8],
    params: &'a [u8],
}

impl<'a> Challenge<'a> {
    /// Parses a whole header value. No parameter name may occur twice: two readers might disagree about which counts.
    pub fn parse(value: &'a [u8]) -> Result<Self, ChallengeError> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        let scheme = cursor.take_while(is_token);
        let before = cursor.offset();
        cursor.skip_lws();
        if scheme.is_empty() || (cursor.offset() == before && !cursor.is_at_end()) {
            return Err(ChallengeError::Scheme(cursor.at()));
        }
        let challenge = Self { scheme, params: cursor.rest() };
        for count in 0..=AUTH_PARAMS_MAX {
            let at = cursor.at();
            let Some(param) = next(&mut cursor)? else { return Ok(challenge) };
            if challenge.iter().take(count).any(|earlier| earlier.is(param.name)) {
                return Err(ChallengeError::Repeated(at));
            }
        }
        Err(ChallengeError::TooMany(cursor.at()))
    }

    /// Whether the scheme is `name`.
    pub fn is(&self, name: impl AsRef<[u8]>) -> bool {
        self.scheme.eq_ignore_ascii_case(name.as_ref())
    }

    pub fn iter(&self) -> Iter<'a> {
        Iter { cursor: Cursor::new(self.params) }
    }

    /// The parameter of this name.
    pub fn find(&self, name: impl AsRef<[u8]>) -> Option<AuthParam<'a>> {
        self.iter().find(|param| param.is(name.as_ref()))
    }
}

impl<'a> IntoIterator for Challenge<'a> {
    type Item = AuthParam<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Iterator over the parameters of a [`Challenge`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = AuthParam<'a>;

    fn next(&mut self) -> Option<AuthParam<'a>> {
        // The text was read to its end when the challenge was made, so an error cannot come.
        next(&mut self.cursor).ok().flatten()
    }
}

/// Reads one `name=value` and the comma behind it. `None` at the end.
fn next<'a>(cursor: &mut Cursor<'a>) -> Result<Option<AuthParam<'a>>, ChallengeError> {
    cursor.skip_lws();
    if cursor.is_at_end() {
        return Ok(None);
    }
    let name = cursor.take_while(is_token);
    if name.is_empty() {
        return Err(ChallengeError::Name(cursor.at()));
    }
    cursor.skip_lws();
    if !cursor.eat(b'=') {
        return Err(ChallengeError::Value(cursor.at()));
    }
    cursor.skip_lws();
    let at = cursor.at();
    let raw = if cursor.peek() == Some(b'"') {
        cursor.take_quoted().ok_or(ChallengeError::Value(at))?
    } else {
        // Wider than a token: base64 text and URIs without quotes are seen.
        cursor.take_while(|b| b.is_ascii_graphic() && !matches!(b, b',' | b'"' | b'\\'))
    };
    if raw.is_empty() {
        return Err(ChallengeError::Value(at));
    }
    cursor.skip_lws();
    if cursor.is_at_end() {
        return Ok(Some(AuthParam { name, raw }));
    }
    if !cursor.eat(b',') {
        return Err(ChallengeError::Comma(cursor.at()));
    }
    cursor.skip_lws();
    // A comma announces another parameter; the next call would take the end of the text for the end of the list.
    if cursor.is_at_end() { Err(ChallengeError::Name(cursor.at())) } else { Ok(Some(AuthParam { name, raw })) }
}
