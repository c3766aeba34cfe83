//! Do the credentials prove the secret (RFC 7616 §3.4.1)?

use core::hint::black_box;

use crate::algorithm::Digest;
use crate::{Algorithm, Algorithms, Credentials};

/// What proves a user, by algorithm: HA1 = H(username ":" realm ":" password). An algorithm without one cannot be verified.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Ha1s {
    pub md5: Option<Ha1>,
    pub sha256: Option<Ha1>,
    pub sha512_256: Option<Ha1>,
}

impl Ha1s {
    /// All of them, from a password.
    pub fn of_password(username: &[u8], realm: &[u8], password: &[u8]) -> Self {
        let ha1 = |algorithm| Some(ha1(algorithm, username, realm, password));
        Self {
            md5: ha1(Algorithm::Md5),
            sha256: ha1(Algorithm::Sha256),
            sha512_256: ha1(Algorithm::Sha512_256),
        }
    }

    pub fn get(&self, algorithm: Algorithm) -> Option<&Ha1> {
        match algorithm {
            Algorithm::Md5 => self.md5.as_ref(),
            Algorithm::Sha256 => self.sha256.as_ref(),
            Algorithm::Sha512_256 => self.sha512_256.as_ref(),
        }
    }

    /// The algorithms that there is one for.
    pub fn algorithms(&self) -> Algorithms {
        let known = |algorithm: &Algorithm| self.get(*algorithm).is_some();
        Algorithm::ALL.into_iter().filter(known).collect()
    }
}

/// Secrets do not print.
impl core::fmt::Debug for Ha1s {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Ha1s({:?})", self.algorithms())
    }
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

    /// An HA1 from its bytes; `None` if it is not one of this algorithm.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let fits = bytes.len() == algorithm.digest_bytes();
        fits.then(|| Digest::of(bytes)).flatten().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The HA1 of a user, for those who store it instead of the password.
pub fn ha1(algorithm: Algorithm, username: &[u8], realm: &[u8], password: &[u8]) -> Ha1 {
    Ha1(algorithm.digest(&[username, realm, password]))
}

/// Whether the credentials prove the secret for a request of this method and body. Of `credentials`, the realm must have been
/// compared ([`crate::select`]) and the nonce checked ([`crate::check_nonce`]) by the caller. `None`: there is no such user, or no secret
/// of his for this algorithm.
///
/// The time this takes depends neither on how much of the response is right nor on whether there is a secret.
pub fn verify(
    credentials: &Credentials<'_>,
    method: &[u8],
    body: &[u8],
    secret: Option<&Ha1>,
) -> bool {
    let algorithm = credentials.algorithm;
    let nobody = Ha1(Digest::zero(algorithm));
    let mut ha1 = black_box(secret.unwrap_or(&nobody)).0;
    if credentials.session {
        ha1 = algorithm.digest(&[ha1.hex().as_bytes(), credentials.nonce, credentials.cnonce]);
    }
    let ha2 = match credentials.qop {
        Some(qop) if qop.with_body => {
            let body = algorithm.digest(&[body]);
            algorithm.digest(&[method, credentials.uri, body.hex().as_bytes()])
        }
        _ => algorithm.digest(&[method, credentials.uri]),
    };
    let (ha1, ha2) = (ha1.hex(), ha2.hex());
    let expected = match credentials.qop {
        Some(qop) => algorithm.digest(&[
            ha1.as_bytes(),
            credentials.nonce,
            credentials.nc,
            credentials.cnonce,
            qop.text,
            ha2.as_bytes(),
        ]),
        None => algorithm.digest(&[ha1.as_bytes(), credentials.nonce, ha2.as_bytes()]),
    };
    let equal = equal_hex(expected.hex().as_bytes(), credentials.response);
    equal & secret.is_some()
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
    use crate::Qop;

    const AUTH: Option<Qop<'static>> = Some(Qop {
        text: b"auth",
        with_body: false,
    });

    fn credentials<'a>(algorithm: Algorithm, response: &'a str) -> Credentials<'a> {
        Credentials {
            username: b"Mufasa",
            realm: b"http-auth@example.org",
            nonce: b"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            uri: b"/dir/index.html",
            algorithm,
            session: false,
            response: response.as_bytes(),
            cnonce: b"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            nc: b"00000001",
            qop: AUTH,
            opaque: None,
        }
    }

    fn mufasa(password: &str) -> Ha1s {
        Ha1s::of_password(b"Mufasa", b"http-auth@example.org", password.as_bytes())
    }

    fn proves(credentials: &Credentials<'_>, method: &str, password: &str) -> bool {
        let secrets = mufasa(password);
        let secret = secrets.get(credentials.algorithm);
        verify(credentials, method.as_bytes(), b"body", secret)
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
        for (algorithm, response) in VECTORS {
            let good = credentials(algorithm, response);
            let upper = response.to_uppercase();
            assert!(proves(&good, "GET", "Circle of Life"));
            assert!(proves(
                &credentials(algorithm, &upper),
                "GET",
                "Circle of Life"
            ));
            assert!(!proves(&good, "get", "Circle of Life"));
            assert!(!proves(&good, "GET", "Circle Of Life"));
            assert!(!verify(&good, b"GET", b"body", None));
            for other in [
                Credentials { uri: b"/", ..good },
                Credentials {
                    nc: b"00000002",
                    ..good
                },
                Credentials {
                    cnonce: b"",
                    ..good
                },
                Credentials {
                    response: b"",
                    ..good
                },
                Credentials {
                    session: true,
                    ..good
                },
                Credentials { qop: None, ..good },
                Credentials {
                    qop: Some(Qop {
                        text: b"auth",
                        with_body: true,
                    }),
                    ..good
                },
            ] {
                assert!(!proves(&other, "GET", "Circle of Life"), "{other:?}");
            }
            for index in 0..response.len() {
                let mut touched = response.as_bytes().to_vec();
                touched[index] = if touched[index] == b'0' { b'1' } else { b'0' };
                let touched = Credentials {
                    response: &touched,
                    ..good
                };
                assert!(!proves(&touched, "GET", "Circle of Life"));
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
        let secret = ha1(
            Algorithm::Md5,
            b"Mufasa",
            b"testrealm@host.com",
            b"Circle Of Life",
        );
        assert!(verify(&credentials, b"GET", b"", Some(&secret)));
    }

    /// Computed with another implementation (Python's hashlib), each from its formula in RFC 7616 §3.4.
    const FORMS: [(Algorithm, bool, Option<&str>, &str); 8] = [
        (
            Algorithm::Md5,
            true,
            Some("auth"),
            "e783283f46242139c486a698fec7211d",
        ),
        (
            Algorithm::Md5,
            false,
            Some("auth-int"),
            "9aaa3cbaec2406853a7cb784c6813d11",
        ),
        (
            Algorithm::Md5,
            false,
            None,
            "7b2cc3b30e75b4777ea31027084363fd",
        ),
        (
            Algorithm::Md5,
            true,
            None,
            "37a7f42db2090a3fcac4e26e747d4fc8",
        ),
        (
            Algorithm::Sha256,
            true,
            Some("auth-int"),
            "351cf1de6df8006b29344896ed8e41148d9922c94d1aedab40833924f92d49c2",
        ),
        (
            Algorithm::Sha256,
            false,
            None,
            "a1306b0595a6c7fe96c448631fb5cfbd5107bd1fe1da729d978dd7446b812363",
        ),
        (
            Algorithm::Sha512_256,
            true,
            Some("auth"),
            "3f2a34f923c38b0fb26dce2fdfc2ce326c23cecf86fbb1444f3e51fbbc2cb92e",
        ),
        (
            Algorithm::Sha512_256,
            false,
            Some("auth-int"),
            "f4a77dcffe7f8d5d98ca279329559e1e5457b701639d422e8c29293d79fcfeb8",
        ),
    ];

    #[test]
    fn session_forms_bodies_and_rfc_2069() {
        for (algorithm, session, qop, response) in FORMS {
            let qop = qop.map(|text| Qop {
                text: text.as_bytes(),
                with_body: text == "auth-int",
            });
            let good = Credentials {
                session,
                qop,
                ..credentials(algorithm, response)
            };
            assert!(proves(&good, "GET", "Circle of Life"), "{good:?}");
            assert!(!proves(&good, "GET", "Circle Of Life"), "{good:?}");
            let other_body = verify(
                &good,
                b"GET",
                b"other",
                mufasa("Circle of Life").get(algorithm),
            );
            assert_eq!(other_body, qop.is_none_or(|qop| !qop.with_body), "{good:?}");
        }
    }

    #[test]
    fn a_stored_ha1_serves_its_algorithm_only() {
        let all = mufasa("Circle of Life");
        let none = Ha1s::default();
        for (algorithm, response) in VECTORS {
            let good = credentials(algorithm, response);
            assert!(verify(&good, b"GET", b"", all.get(algorithm)));
            assert!(!verify(&good, b"GET", b"", none.get(algorithm)));
        }
        assert_eq!(
            all.algorithms().iter().collect::<Vec<_>>(),
            Algorithm::ALL.to_vec()
        );
        assert!(none.algorithms().is_empty());
        assert_eq!(
            format!("{none:?} {all:?}"),
            "Ha1s(Algorithms(0)) Ha1s(Algorithms(7))"
        );
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
        assert_eq!(
            Ha1::from_bytes(Algorithm::Md5, expected.as_bytes()),
            Some(expected)
        );
        assert_eq!(
            Ha1::from_bytes(Algorithm::Sha256, expected.as_bytes()),
            None
        );
        assert_eq!(Ha1::from_hex(Algorithm::Sha256, text), None);
        assert_eq!(
            Ha1::from_hex(Algorithm::Md5, b"939e7578ed9e3c518a452acee763bceg"),
            None
        );
        assert_eq!(Ha1::from_hex(Algorithm::Md5, b""), None);
    }
}
