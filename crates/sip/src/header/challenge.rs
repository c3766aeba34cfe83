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
        let challenge = Self {
            scheme,
            params: cursor.rest(),
        };
        for count in 0..=AUTH_PARAMS_MAX {
            let at = cursor.at();
            let Some(param) = next(&mut cursor)? else {
                return Ok(challenge);
            };
            if count == AUTH_PARAMS_MAX {
                return Err(ChallengeError::TooMany(at));
            }
            if challenge
                .iter()
                .take(count)
                .any(|earlier| earlier.is(param.name))
            {
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
        Iter {
            cursor: Cursor::new(self.params),
        }
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
    if cursor.is_at_end() {
        Err(ChallengeError::Name(cursor.at()))
    } else {
        Ok(Some(AuthParam { name, raw }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{AUTH_PARAMS_MAX, Challenge, ChallengeError};
    use crate::span::ByteAt;

    fn value(challenge: &Challenge<'_>, name: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        challenge.find(name)?.unquote(&mut out);
        Some(out)
    }

    #[test]
    fn the_example_of_section_20_7() {
        let text = b"Digest username=\"Alice\", realm=\"atlanta.com\",\r\n nonce=\"84a4cc6f3082121f32b42a2187831a9e\",\r\n\
                     \x20response=\"7587245234b3434cc3412213e5f113a5432\"";
        let credentials = Challenge::parse(text).unwrap();
        assert!(credentials.is("digest"));
        assert_eq!(value(&credentials, "USERNAME"), Some(b"Alice".to_vec()));
        assert_eq!(
            value(&credentials, "response"),
            Some(b"7587245234b3434cc3412213e5f113a5432".to_vec())
        );
        assert_eq!(value(&credentials, "opaque"), None);
        assert_eq!(credentials.iter().count(), 4);
    }

    #[test]
    fn commas_and_quotes_inside_a_quoted_value_are_part_of_it() {
        let challenge =
            Challenge::parse(b"Digest realm=\"a, b=\\\"c\\\"\" , qop=auth,nc = 00000001").unwrap();
        assert_eq!(value(&challenge, "realm"), Some(b"a, b=\"c\"".to_vec()));
        assert_eq!(value(&challenge, "nc"), Some(b"00000001".to_vec()));
        assert!(!challenge.find("qop").unwrap().is_quoted());
    }

    #[test]
    fn other_schemes_are_told_apart() {
        assert_eq!(
            Challenge::parse(b"NoOneKnowsThisScheme opaque-data=here")
                .unwrap()
                .scheme,
            b"NoOneKnowsThisScheme"
        );
        assert_eq!(Challenge::parse(b"Digest").unwrap().iter().count(), 0);
    }

    #[test]
    fn faults_have_a_place() {
        for (text, error) in [
            (&b""[..], ChallengeError::Scheme(ByteAt(0))),
            (b"=", ChallengeError::Scheme(ByteAt(0))),
            (b"Digest=a", ChallengeError::Scheme(ByteAt(6))),
            (b"Digest a", ChallengeError::Value(ByteAt(8))),
            (b"Digest a=", ChallengeError::Value(ByteAt(9))),
            (b"Digest a=\"b", ChallengeError::Value(ByteAt(9))),
            (b"Digest a=b c=d", ChallengeError::Comma(ByteAt(11))),
            (b"Digest a=b,", ChallengeError::Name(ByteAt(11))),
            (b"Digest a=b,,c=d", ChallengeError::Name(ByteAt(11))),
            (b"Digest a=b, A=c", ChallengeError::Repeated(ByteAt(12))),
        ] {
            assert_eq!(
                Challenge::parse(text),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn their_number_is_bounded() {
        let text = |count: usize| {
            let params: Vec<String> = (0..count).map(|n| format!("p{n}=v")).collect();
            format!("Digest {}", params.join(","))
        };
        assert!(Challenge::parse(text(AUTH_PARAMS_MAX).as_bytes()).is_ok());
        assert!(matches!(
            Challenge::parse(text(AUTH_PARAMS_MAX + 1).as_bytes()),
            Err(ChallengeError::TooMany(_))
        ));
    }

    proptest! {
        #[test]
        fn print_then_parse(values in proptest::collection::vec("[a-z0-9=/+]{1,8}|\"([a-z, =]|\\\\\")*\"", 1..8)) {
            let params: Vec<String> = values.iter().enumerate().map(|(n, v)| format!("p{n}={v}")).collect();
            let text = format!("Digest {}", params.join(", "));
            let challenge = Challenge::parse(text.as_bytes()).unwrap();
            let raw: Vec<&[u8]> = challenge.iter().map(|p| p.raw).collect();
            prop_assert_eq!(raw, values.iter().map(|v| v.as_bytes()).collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_panic(bytes in super::super::noise::noise()) {
            for text in [bytes.clone(), [b"Digest ", &bytes[..]].concat()] {
                if let Ok(challenge) = Challenge::parse(&text) {
                    let mut out = Vec::new();
                    challenge.iter().for_each(|param| param.unquote(&mut out));
                }
            }
        }
    }
}
