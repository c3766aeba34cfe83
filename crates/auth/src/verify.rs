//! Do the credentials prove the secret (RFC 7616 §3.4.1)?

use core::hint::black_box;

use crate::algorithm::Digest;
use crate::{Algorithm, Credentials};

/// What we know of a user.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    Password(&'a [u8]),
    /// HA1 = H(username ":" realm ":" password) by algorithm; an algorithm without one cannot be verified.
    Ha1 {
        md5: Option<Ha1>,
        sha256: Option<Ha1>,
        sha512_256: Option<Ha1>,
    },
}

/// A stored HA1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ha1(Digest);

impl Ha1 {
    /// An HA1 from its hexadecimal text of either case; `None` if it is not one of this algorithm.
    pub fn from_hex(algorithm: Algorithm, text: &[u8]) -> Option<Self> {
        if text.len() != 2 * algorithm.digest_bytes() {
            return None;
        }
        let mut lower = [0; 2 * crate::DIGEST_BYTES_MAX];
        let lower = lower.get_mut(..text.len())?;
        lower.copy_from_slice(text);
        lower.make_ascii_lowercase();
        let mut bytes = [0; crate::DIGEST_BYTES_MAX];
        let bytes = bytes.get_mut(..algorithm.digest_bytes())?;
        stdx::text::decode_hex(lower, bytes)?;
        Digest::of(bytes).map(Self)
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A secret does not print.
impl core::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The HA1 of a user, for those who store it instead of the password.
pub fn ha1(algorithm: Algorithm, username: &[u8], realm: &[u8], password: &[u8]) -> Ha1 {
    Ha1(algorithm.digest(&[username, realm, password]))
}

/// Whether the credentials prove the secret for a request of this method. Of `credentials`, the realm must have been
/// compared ([`crate::select`]) and the nonce checked ([`crate::check_nonce`]) by the caller.
///
/// The time this takes does not depend on how much of the response is right.
pub fn verify(credentials: &Credentials<'_>, method: &[u8], secret: &Secret<'_>) -> bool {
    let algorithm = credentials.algorithm;
    let ha1 = match (secret, algorithm) {
        (Secret::Password(password), _) => Some(ha1(
            algorithm,
            credentials.username,
            credentials.realm,
            password,
        )),
        (Secret::Ha1 { md5, .. }, Algorithm::Md5) => *md5,
        (Secret::Ha1 { sha256, .. }, Algorithm::Sha256) => *sha256,
        (Secret::Ha1 { sha512_256, .. }, Algorithm::Sha512_256) => *sha512_256,
    };
    let Some(Ha1(ha1)) = ha1 else {
        return false;
    };
    let ha2 = algorithm.digest(&[method, credentials.uri]);
    let expected = algorithm.digest(&[
        ha1.hex().as_bytes(),
        credentials.nonce,
        credentials.nc,
        credentials.cnonce,
        credentials.qop,
        ha2.hex().as_bytes(),
    ]);
    equal_hex(expected.hex().as_bytes(), credentials.response)
}

/// Compares lower-case hexadecimal with hexadecimal of either case, in a time that depends on the lengths only.
fn equal_hex(expected: &[u8], given: &[u8]) -> bool {
    if expected.len() != given.len() {
        return false;
    }
    let mut difference = 0;
    for (expected, given) in expected.iter().zip(given) {
        difference |= black_box(expected ^ given.to_ascii_lowercase());
    }
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials<'a>(algorithm: Algorithm, response: &'a str) -> Credentials<'a> {
        Credentials {
            username: b"Mufasa",
            realm: b"http-auth@example.org",
            nonce: b"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            uri: b"/dir/index.html",
            algorithm,
            response: response.as_bytes(),
            cnonce: b"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            nc: b"00000001",
            qop: b"auth",
            opaque: None,
        }
    }

    /// RFC 7616 §3.9.1; the RFC has no usable vector for SHA-512-256 (its §3.9.2 has an erratum), that one was computed
    /// with another implementation.
    const VECTORS: [(Algorithm, &str); 3] = [
        (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
        (
            Algorithm::Sha256,
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
        (
            Algorithm::Sha512_256,
            "430d05014cecc49cab6fbe03176d41a1da86cbfe24a16580e22aaad928d960d0",
        ),
    ];

    #[test]
    fn rfc_7616_section_3_9_1() {
        let secret = Secret::Password(b"Circle of Life");
        for (algorithm, response) in VECTORS {
            let good = credentials(algorithm, response);
            assert!(verify(&good, b"GET", &secret));
            assert!(verify(
                &credentials(algorithm, &response.to_uppercase()),
                b"GET",
                &secret
            ));
            assert!(!verify(&good, b"get", &secret));
            assert!(!verify(&good, b"GET", &Secret::Password(b"Circle Of Life")));
            assert!(!verify(&Credentials { uri: b"/", ..good }, b"GET", &secret));
            assert!(!verify(
                &Credentials {
                    nc: b"00000002",
                    ..good
                },
                b"GET",
                &secret
            ));
            assert!(!verify(
                &Credentials {
                    cnonce: b"",
                    ..good
                },
                b"GET",
                &secret
            ));
            assert!(!verify(
                &Credentials {
                    response: b"",
                    ..good
                },
                b"GET",
                &secret
            ));
            for index in 0..response.len() {
                let mut touched = response.as_bytes().to_vec();
                touched[index] = if touched[index] == b'0' { b'1' } else { b'0' };
                assert!(!verify(
                    &Credentials {
                        response: &touched,
                        ..good
                    },
                    b"GET",
                    &secret
                ));
            }
        }
    }

    #[test]
    fn rfc_2617_section_3_5() {
        let credentials = Credentials {
            realm: b"testrealm@host.com",
            nonce: b"dcd98b7102dd2f0e8b11d0f600bfb0c093",
            cnonce: b"0a4f113b",
            ..credentials(Algorithm::Md5, "6629fae49393a05397450978507c4ef1")
        };
        assert!(verify(
            &credentials,
            b"GET",
            &Secret::Password(b"Circle Of Life")
        ));
    }

    #[test]
    fn a_stored_ha1_serves_its_algorithm_only() {
        let stored = |algorithm| {
            Some(ha1(
                algorithm,
                b"Mufasa",
                b"http-auth@example.org",
                b"Circle of Life",
            ))
        };
        let all = Secret::Ha1 {
            md5: stored(Algorithm::Md5),
            sha256: stored(Algorithm::Sha256),
            sha512_256: stored(Algorithm::Sha512_256),
        };
        let none = Secret::Ha1 {
            md5: None,
            sha256: None,
            sha512_256: None,
        };
        for (algorithm, response) in VECTORS {
            assert!(verify(&credentials(algorithm, response), b"GET", &all));
            assert!(!verify(&credentials(algorithm, response), b"GET", &none));
        }
    }

    /// HA1 of RFC 2617 §3.5.
    #[test]
    fn ha1_from_hex() {
        let text = b"939e7578ed9e3c518a452acee763bce9";
        let expected = ha1(
            Algorithm::Md5,
            b"Mufasa",
            b"testrealm@host.com",
            b"Circle Of Life",
        );
        assert_eq!(Ha1::from_hex(Algorithm::Md5, text), Some(expected));
        assert_eq!(
            Ha1::from_hex(Algorithm::Md5, &text.to_ascii_uppercase()),
            Some(expected)
        );
        assert_eq!(Ha1::from_hex(Algorithm::Sha256, text), None);
        assert_eq!(
            Ha1::from_hex(Algorithm::Md5, b"939e7578ed9e3c518a452acee763bceg"),
            None
        );
        assert_eq!(Ha1::from_hex(Algorithm::Md5, b""), None);
    }
}
