//! The challenge (RFC 7616 §3.3, RFC 3261 §22.1).

use crate::{Algorithm, Nonce};

/// The `qop` of a challenge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offered {
    #[default]
    Auth,
    /// `auth`, and `auth-int` for those who know it: it protects the body as well.
    AuthInt,
}

/// Appends the value of a WWW-Authenticate or Proxy-Authenticate header. To offer several algorithms, write one header
/// for each, the most preferred first (RFC 8760 §2.3).
pub fn challenge(
    realm: &[u8],
    algorithm: Algorithm,
    nonce: &Nonce,
    qop: Offered,
    stale: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"Digest realm=\"");
    for &byte in realm {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            // Control bytes, CR and LF above all, have no place in a quoted string (§25.1).
            0..=31 | 127 => {}
            _ => out.push(byte),
        }
    }
    out.extend_from_slice(b"\", nonce=\"");
    out.extend_from_slice(nonce.as_bytes());
    out.extend_from_slice(b"\", algorithm=");
    out.extend_from_slice(algorithm.token().as_bytes());
    out.extend_from_slice(match qop {
        Offered::Auth => b", qop=\"auth\"",
        Offered::AuthInt => b", qop=\"auth,auth-int\"",
    });
    if stale {
        out.extend_from_slice(b", stale=true");
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use stdx::Instant;
    use stdx::hash::Key;

    use super::*;

    fn check(realm: &str, algorithm: Algorithm, qop: Offered, stale: bool, value: Expect) {
        let nonce = crate::nonce(
            &Key([1; 16]),
            Instant::from_nanos(5_000_000_000),
            7,
            realm.as_bytes(),
        );
        let mut out = Vec::new();
        challenge(realm.as_bytes(), algorithm, &nonce, qop, stale, &mut out);
        value.assert_eq(std::str::from_utf8(&out).unwrap());
    }

    #[test]
    fn challenges() {
        check(
            "a.example",
            Algorithm::Md5,
            Offered::Auth,
            false,
            expect![[
                r#"Digest realm="a.example", nonce="000002e4000074kh0m7435p45njnpb6ch3a6mt6", algorithm=MD5, qop="auth""#
            ]],
        );
        check(
            "a.example",
            Algorithm::Sha256,
            Offered::AuthInt,
            true,
            expect![[
                r#"Digest realm="a.example", nonce="000002e4000074kh0m7435p45njnpb6ch3a6mt6", algorithm=SHA-256, qop="auth,auth-int", stale=true"#
            ]],
        );
        check(
            "say \"hi\"\r\nX: y",
            Algorithm::Sha512_256,
            Offered::Auth,
            false,
            expect![[
                r#"Digest realm="say \"hi\"X: y", nonce="000002e4000074wk4jvfbj5ze8e5hdjp4tvcmed", algorithm=SHA-512-256, qop="auth""#
            ]],
        );
    }
}
