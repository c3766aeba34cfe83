//! Credentials (RFC 7616 §3.4, RFC 3261 §25.1 `digest-response`).

use crate::Algorithm;

/// What one Authorization or Proxy-Authorization header says. Quoted values stand here without their quotes and with
/// their backslashes, as they enter the digest (RFC 7616 §3.4.1, `unq`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    pub username: &'a [u8],
    pub realm: &'a [u8],
    pub nonce: &'a [u8],
    /// The `uri` parameter. It enters the digest; proxies on the way may have changed the Request-URI since.
    pub uri: &'a [u8],
    pub algorithm: Algorithm,
    /// The digest, in hexadecimal of either case.
    pub response: &'a [u8],
    pub cnonce: &'a [u8],
    /// The nonce count as it was written, eight hexadecimal digits.
    pub nc: &'a [u8],
    /// `qop` as it was written; `auth` whatever its case.
    pub qop: &'a [u8],
    pub opaque: Option<&'a [u8]>,
}

/// Why a header holds no usable credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    #[error("the scheme is not Digest")]
    Scheme,
    #[error("not a parameter at byte {0} of the value")]
    Malformed(usize),
    #[error("more than {PARAMS_MAX} parameters")]
    TooMany,
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("the algorithm is none that we offer")]
    Algorithm,
    #[error("the qop is not auth")]
    Qop,
    #[error("{0} is not what its grammar allows")]
    Value(&'static str),
}

/// What to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Challenge (401 or 407), as if there had been no credentials.
    Challenge,
    /// 400: the header is not what it claims to be.
    BadRequest,
}

impl CredentialsError {
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Scheme | Self::Algorithm | Self::Qop => Verdict::Challenge,
            Self::Malformed(_)
            | Self::TooMany
            | Self::Twice(_)
            | Self::Missing(_)
            | Self::Value(_) => Verdict::BadRequest,
        }
    }
}

/// The most parameters in one header; RFC 7616 names thirteen.
pub const PARAMS_MAX: usize = 32;

impl<'a> Credentials<'a> {
    /// Reads the value of an Authorization or Proxy-Authorization header. Folds may still be inside. Unknown parameters
    /// are skipped (§25.1 `auth-param`).
    pub fn parse(value: &'a [u8]) -> Result<Self, CredentialsError> {
        let mut reader = Reader { value, at: 0 };
        reader.skip_space();
        if !reader.token().eq_ignore_ascii_case(b"Digest") {
            return Err(CredentialsError::Scheme);
        }
        let mut params = Params::default();
        for _ in 0..PARAMS_MAX {
            // Empty list elements are tolerated (RFC 9110 §5.6.1).
            while reader.skip_space() == Some(b',') {
                reader.at += 1;
            }
            if reader.peek().is_none() {
                return params.credentials();
            }
            let (name, value) = reader.param()?;
            params.keep(name, value)?;
            if !matches!(reader.skip_space(), None | Some(b',')) {
                return Err(CredentialsError::Malformed(reader.at));
            }
        }
        if reader.skip_space().is_some() {
            Err(CredentialsError::TooMany)
        } else {
            params.credentials()
        }
    }
}

/// The credentials for a realm among the values of all Authorization (or Proxy-Authorization) header lines (§22.3); of
/// several for it, those with the strongest algorithm. `None` if there are none; a header for our realm, or for one that
/// cannot be told, that cannot be used is an error only if no other is usable.
pub fn select<'a>(
    values: impl IntoIterator<Item = &'a [u8]>,
    realm: &[u8],
) -> Result<Option<Credentials<'a>>, CredentialsError> {
    let mut best: Option<Credentials<'a>> = None;
    let mut error = None;
    for value in values {
        match Credentials::parse(value) {
            Ok(found) if found.realm != realm => {}
            Ok(found) => {
                if best.is_none_or(|best| best.algorithm < found.algorithm) {
                    best = Some(found);
                }
            }
            Err(found) => error = error.or(Some(found)),
        }
    }
    match (best, error) {
        (None, Some(error)) => Err(error),
        (best, _) => Ok(best),
    }
}

/// The parameters that count, as far as they have come.
#[derive(Default)]
struct Params<'a> {
    found: [Option<&'a [u8]>; NAMES.len()],
}

const NAMES: [&str; 10] = [
    "username",
    "realm",
    "nonce",
    "uri",
    "response",
    "algorithm",
    "cnonce",
    "nc",
    "qop",
    "opaque",
];

impl<'a> Params<'a> {
    fn keep(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), CredentialsError> {
        for (known, slot) in NAMES.into_iter().zip(&mut self.found) {
            if known.as_bytes().eq_ignore_ascii_case(name) {
                return match slot.replace(value) {
                    None => Ok(()),
                    Some(_) => Err(CredentialsError::Twice(known)),
                };
            }
        }
        Ok(())
    }

    fn credentials(self) -> Result<Credentials<'a>, CredentialsError> {
        let [
            username,
            realm,
            nonce,
            uri,
            response,
            algorithm,
            cnonce,
            nc,
            qop,
            opaque,
        ] = self.found;
        let need = |value: Option<&'a [u8]>, name| value.ok_or(CredentialsError::Missing(name));
        let algorithm = match algorithm {
            None => Algorithm::Md5,
            Some(token) => Algorithm::of(token).ok_or(CredentialsError::Algorithm)?,
        };
        // No qop is the form of RFC 2069, which we do not accept; our challenges ask for `auth`.
        let qop = qop.ok_or(CredentialsError::Qop)?;
        if !qop.eq_ignore_ascii_case(b"auth") {
            return Err(CredentialsError::Qop);
        }
        let credentials = Credentials {
            username: need(username, "username")?,
            realm: need(realm, "realm")?,
            nonce: need(nonce, "nonce")?,
            uri: need(uri, "uri")?,
            algorithm,
            response: need(response, "response")?,
            cnonce: need(cnonce, "cnonce")?,
            nc: need(nc, "nc")?,
            qop,
            opaque,
        };
        if credentials.nc.len() != 8 || !is_hex(credentials.nc) {
            return Err(CredentialsError::Value("nc"));
        }
        if credentials.response.len() != 2 * algorithm.digest_bytes()
            || !is_hex(credentials.response)
        {
            return Err(CredentialsError::Value("response"));
        }
        Ok(credentials)
    }
}

fn is_hex(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_hexdigit)
}

struct Reader<'a> {
    value: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.value.get(self.at).copied()
    }

    /// Skips space and folds; the byte that follows.
    fn skip_space(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.peek()
    }

    /// A token (§25.1), perhaps empty.
    fn token(&mut self) -> &'a [u8] {
        let start = self.at;
        while self.peek().is_some_and(is_token) {
            self.at += 1;
        }
        &self.value[start..self.at]
    }

    /// `name = value`, where the value is a token or a quoted string.
    fn param(&mut self) -> Result<(&'a [u8], &'a [u8]), CredentialsError> {
        let name = self.token();
        if name.is_empty() || self.skip_space() != Some(b'=') {
            return Err(CredentialsError::Malformed(self.at));
        }
        self.at += 1;
        let value = match self.skip_space() {
            Some(b'"') => self.quoted()?,
            _ => {
                let token = self.token();
                if token.is_empty() {
                    return Err(CredentialsError::Malformed(self.at));
                }
                token
            }
        };
        Ok((name, value))
    }

    fn quoted(&mut self) -> Result<&'a [u8], CredentialsError> {
        let open = self.at;
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                None => return Err(CredentialsError::Malformed(open)),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(&self.value[start..self.at - 1]);
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use CredentialsError::{Malformed, Missing, Qop, Scheme, TooMany, Twice, Value};
    use proptest::prelude::*;

    /// RFC 7616 §3.9.1.
    const MUFASA: &str = "Digest username=\"Mufasa\",\r\n realm=\"http-auth@example.org\", uri=\"/dir/index.html\", \
        algorithm=MD5, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, \
        cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth, \
        response=\"8ca523f5e9506fed4657c9700eebdbec\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";

    fn edit(from: &str, to: &str) -> String {
        assert!(MUFASA.contains(from));
        MUFASA.replace(from, to)
    }

    #[test]
    fn reads_the_example() {
        let found = Credentials::parse(MUFASA.as_bytes()).unwrap();
        assert_eq!(found.username, b"Mufasa");
        assert_eq!(found.realm, b"http-auth@example.org");
        assert_eq!(found.uri, b"/dir/index.html");
        assert_eq!(found.algorithm, Algorithm::Md5);
        assert_eq!(found.nc, b"00000001");
        assert_eq!(
            found.opaque,
            Some(&b"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"[..])
        );
    }

    #[test]
    fn tolerates() {
        for text in [
            edit("algorithm=MD5, ", ""),
            edit("algorithm=MD5", "Algorithm = \"md5\""),
            edit("qop=auth", "qop=\"auth\""),
            edit("Digest ", "digest\t"),
            edit("nc=", ",, x=y, z=\"a, \\\"b\", nc="),
            edit("ebdbec\"", "EBDBEC\" "),
        ] {
            assert!(Credentials::parse(text.as_bytes()).is_ok(), "{text}");
        }
        let quoted = edit("\"Mufasa\"", "\"Mu\\\"fasa\"");
        assert_eq!(
            Credentials::parse(quoted.as_bytes()).unwrap().username,
            b"Mu\\\"fasa"
        );
    }

    #[test]
    fn refuses() {
        for (text, error) in [
            ("Basic QWxhZGRpbjpvcGVu".to_owned(), Scheme),
            (String::new(), Scheme),
            ("Digest".to_owned(), Qop),
            (
                edit("algorithm=MD5", "algorithm=MD5-sess"),
                CredentialsError::Algorithm,
            ),
            (edit("qop=auth, ", ""), Qop),
            (edit("qop=auth", "qop=auth-int"), Qop),
            (edit("nc=00000001", "nc=1"), Value("nc")),
            (edit("ebdbec\"", "ebdbe\""), Value("response")),
            (edit("ebdbec\"", "ebdbeg\""), Value("response")),
            (
                edit("algorithm=MD5", "algorithm=SHA-256"),
                Value("response"),
            ),
            (edit("nc=00000001", "nc=00000001, nc=00000002"), Twice("nc")),
            (edit("username=\"Mufasa\",", ""), Missing("username")),
            (edit("qop=auth", "qop auth"), Malformed(223)),
            (edit("tdS\"", "tdS"), Malformed(281)),
            (edit("nc=00000001", &"x=y, ".repeat(PARAMS_MAX)), TooMany),
        ] {
            assert_eq!(Credentials::parse(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn selects_by_realm_and_strength() {
        let other = edit("http-auth@", "other@");
        let strong = edit("algorithm=MD5", "algorithm=SHA-256")
            .replace("8ca523", &format!("{}8ca523", "0".repeat(32)));
        let realm = b"http-auth@example.org";
        let select = |values: &[&str]| {
            super::select(values.iter().map(|value| value.as_bytes()), realm)
                .map(|found| found.map(|found| found.algorithm))
        };
        assert_eq!(select(&[]), Ok(None));
        assert_eq!(select(&[&other]), Ok(None));
        assert_eq!(select(&[&other, MUFASA]), Ok(Some(Algorithm::Md5)));
        assert_eq!(
            select(&[MUFASA, &strong, MUFASA]),
            Ok(Some(Algorithm::Sha256))
        );
        assert_eq!(select(&["Basic x", MUFASA]), Ok(Some(Algorithm::Md5)));
        assert_eq!(select(&["Basic x", &other]), Err(Scheme));
    }

    proptest! {
        #[test]
        fn never_panics(noise in "(Digest )?([a-z]{1,3}[=, \"\\\\]|qop=auth|nonce=\"|\\PC){0,40}") {
            let _ = Credentials::parse(noise.as_bytes());
        }
    }
}
