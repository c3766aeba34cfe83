//! Credentials (RFC 7616 §3.4, RFC 3261 §25.1 `digest-response`).

use sip::header::challenge::{Challenge, ChallengeError};

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
    /// The session form (`MD5-sess`): nonce and client nonce enter A1 as well (RFC 7616 §3.4.2).
    pub session: bool,
    /// The digest, in hexadecimal of either case.
    pub response: &'a [u8],
    /// Empty without `qop`, except in the session form.
    pub cnonce: &'a [u8],
    /// The nonce count as it was written, eight hexadecimal digits; empty without `qop`.
    pub nc: &'a [u8],
    /// `None`: as in RFC 2069.
    pub qop: Option<Qop<'a>>,
    pub opaque: Option<&'a [u8]>,
}

/// Quality of protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qop<'a> {
    /// As it was written; its case enters the digest.
    pub text: &'a [u8],
    /// `auth-int`: the body enters the digest.
    pub with_body: bool,
}

/// Why a header holds no usable credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    #[error("the scheme is not Digest")]
    Scheme,
    #[error("{0}")]
    Malformed(#[from] ChallengeError),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("the algorithm is unknown")]
    Algorithm,
    #[error("the qop is neither auth nor auth-int")]
    Qop,
    #[error("the username is hashed, which we do not offer")]
    UserHash,
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
            Self::Scheme | Self::Algorithm | Self::Qop | Self::UserHash => Verdict::Challenge,
            Self::Malformed(_) | Self::Missing(_) | Self::Value(_) => Verdict::BadRequest,
        }
    }
}

impl<'a> Credentials<'a> {
    /// Reads the value of an Authorization or Proxy-Authorization header. Folds may still be inside. Unknown parameters
    /// are skipped (§25.1 `auth-param`).
    pub fn parse(value: &'a [u8]) -> Result<Self, CredentialsError> {
        let scheme = value
            .trim_ascii_start()
            .split(u8::is_ascii_whitespace)
            .next();
        if !scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Digest")) {
            return Err(CredentialsError::Scheme);
        }
        let mut fields = Fields::default();
        for param in Challenge::parse(value)?.iter() {
            fields.take(param.name, param.raw);
        }
        fields.read()
    }

    /// How often the nonce was used, this time included; `None` without `qop`, where it counts for one time.
    pub fn count(&self) -> Option<u32> {
        let text = core::str::from_utf8(self.nc).ok()?;
        u32::from_str_radix(text, 16).ok()
    }
}

/// Parameters as they enter the digest: without quotes, with backslashes.
#[derive(Default)]
struct Fields<'a> {
    username: Option<&'a [u8]>,
    realm: Option<&'a [u8]>,
    nonce: Option<&'a [u8]>,
    uri: Option<&'a [u8]>,
    algorithm: Option<&'a [u8]>,
    response: Option<&'a [u8]>,
    cnonce: Option<&'a [u8]>,
    nc: Option<&'a [u8]>,
    qop: Option<&'a [u8]>,
    opaque: Option<&'a [u8]>,
    userhash: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Notes a parameter; unknown ones are skipped.
    fn take(&mut self, name: &[u8], raw: &'a [u8]) {
        // Their lengths and first letters tell the names apart, so that each parameter is compared with one of them.
        let (known, field) = match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
            (8, Some(b'u')) if name.eq_ignore_ascii_case(b"userhash") => {
                (&b"userhash"[..], &mut self.userhash)
            }
            (8, Some(b'u')) => (&b"username"[..], &mut self.username),
            (5, Some(b'r')) => (&b"realm"[..], &mut self.realm),
            (5, Some(b'n')) => (&b"nonce"[..], &mut self.nonce),
            (3, Some(b'u')) => (&b"uri"[..], &mut self.uri),
            (9, Some(b'a')) => (&b"algorithm"[..], &mut self.algorithm),
            (8, Some(b'r')) => (&b"response"[..], &mut self.response),
            (6, Some(b'c')) => (&b"cnonce"[..], &mut self.cnonce),
            (2, Some(b'n')) => (&b"nc"[..], &mut self.nc),
            (3, Some(b'q')) => (&b"qop"[..], &mut self.qop),
            (6, Some(b'o')) => (&b"opaque"[..], &mut self.opaque),
            _ => return,
        };
        if name.eq_ignore_ascii_case(known) {
            *field = Some(unquoted(raw));
        }
    }

    fn read(self) -> Result<Credentials<'a>, CredentialsError> {
        let need = |value: Option<&'a [u8]>, name| value.ok_or(CredentialsError::Missing(name));
        if self
            .userhash
            .is_some_and(|value| value.eq_ignore_ascii_case(b"true"))
        {
            return Err(CredentialsError::UserHash);
        }
        let (algorithm, session) = match self.algorithm {
            None => (Algorithm::Md5, false),
            Some(token) => Algorithm::of(token).ok_or(CredentialsError::Algorithm)?,
        };
        let qop = match self.qop {
            None => None,
            Some(text) => Some(Qop {
                text,
                with_body: match text {
                    text if text.eq_ignore_ascii_case(b"auth") => false,
                    text if text.eq_ignore_ascii_case(b"auth-int") => true,
                    _ => return Err(CredentialsError::Qop),
                },
            }),
        };
        let counted = |value, name| match qop {
            Some(_) => need(value, name),
            None => Ok(&b""[..]),
        };
        let credentials = Credentials {
            username: need(self.username, "username")?,
            realm: need(self.realm, "realm")?,
            nonce: need(self.nonce, "nonce")?,
            uri: need(self.uri, "uri")?,
            algorithm,
            session,
            response: need(self.response, "response")?,
            cnonce: match session {
                true => need(self.cnonce, "cnonce")?,
                false => counted(self.cnonce, "cnonce")?,
            },
            nc: counted(self.nc, "nc")?,
            qop,
            opaque: self.opaque,
        };
        if qop.is_some() && (credentials.nc.len() != 8 || !is_hex(credentials.nc)) {
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

/// The credentials for a realm among the values of all Authorization (or Proxy-Authorization) header lines (§22.3); of
/// several for it, those with the strongest algorithm. `None` if there are none; a header that cannot be used is an error only if
/// no other is usable.
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

fn unquoted(raw: &[u8]) -> &[u8] {
    raw.strip_prefix(b"\"")
        .and_then(|text| text.strip_suffix(b"\""))
        .unwrap_or(raw)
}

fn is_hex(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use CredentialsError::{Malformed, Missing, Qop, Scheme, Value};
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
        assert_eq!(found.count(), Some(1));
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
            edit("nc=", "x=y, z=\"a, \\\"b\", nc="),
            edit("ebdbec\"", "EBDBEC\" "),
            edit("qop=auth, ", ""),
            edit("qop=auth, ", "").replace("nc=00000001, ", ""),
            edit("qop=auth", "qop=AUTH-INT"),
            edit("algorithm=MD5", "algorithm=MD5-sess"),
            edit("algorithm=MD5", "algorithm=md5-SESS"),
            edit("qop=auth", "qop=auth, userhash=false"),
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
            ("Digest".to_owned(), Missing("username")),
            (
                edit("algorithm=MD5", "algorithm=MD5-session"),
                CredentialsError::Algorithm,
            ),
            (
                edit("algorithm=MD5", "algorithm=-sess"),
                CredentialsError::Algorithm,
            ),
            (edit("qop=auth", "qop=auth-conf"), Qop),
            (edit("qop=auth", "qop=\"auth,auth-int\""), Qop),
            (
                edit("qop=auth", "qop=auth, userhash=true"),
                CredentialsError::UserHash,
            ),
            (edit("nc=00000001, ", ""), Missing("nc")),
            (
                edit(
                    "cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth",
                    "algorithm=x",
                )
                .replace("algorithm=MD5", "algorithm=MD5-sess")
                .replace(", algorithm=x", ""),
                Missing("cnonce"),
            ),
            (edit("nc=00000001", "nc=1"), Value("nc")),
            (edit("ebdbec\"", "ebdbe\""), Value("response")),
            (edit("ebdbec\"", "ebdbeg\""), Value("response")),
            (
                edit("algorithm=MD5", "algorithm=SHA-256"),
                Value("response"),
            ),
            (edit("username=\"Mufasa\",", ""), Missing("username")),
        ] {
            assert_eq!(Credentials::parse(text.as_bytes()), Err(error), "{text}");
        }
        for text in [
            edit("nc=00000001", "nc=00000001, nc=00000002"),
            edit("qop=auth", "qop auth"),
            edit("tdS\"", "tdS"),
        ] {
            let error = Credentials::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, Malformed(_)), "{text}: {error}");
            assert_eq!(error.verdict(), Verdict::BadRequest);
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
