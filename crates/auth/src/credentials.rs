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
    #[error("{0}")]
    Malformed(#[from] ChallengeError),
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
        let challenge = Challenge::parse(value)?;
        // As they enter the digest: without quotes, with backslashes.
        let value = |name| challenge.find(name).map(|param| unquoted(param.raw));
        let need = |name| value(name).ok_or(CredentialsError::Missing(name));
        let algorithm = match value("algorithm") {
            None => Algorithm::Md5,
            Some(token) => Algorithm::of(token).ok_or(CredentialsError::Algorithm)?,
        };
        // No qop is the form of RFC 2069, which we do not accept; our challenges ask for `auth`.
        let qop = value("qop").ok_or(CredentialsError::Qop)?;
        if !qop.eq_ignore_ascii_case(b"auth") {
            return Err(CredentialsError::Qop);
        }
        let credentials = Self {
            username: need("username")?,
            realm: need("realm")?,
            nonce: need("nonce")?,
            uri: need("uri")?,
            algorithm,
            response: need("response")?,
            cnonce: need("cnonce")?,
            nc: need("nc")?,
            qop,
            opaque: value("opaque"),
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
