//! HTTP Digest for SIP, sans-IO: challenges, credentials, stateless nonces.
//!
//! Digest as of RFC 7616 with the algorithms of RFC 8760, as SIP uses it (RFC 3261 §22): `qop=auth`, `qop=auth-int`, and the form of RFC 2069,
//! which has neither `qop` nor client nonce; the session forms (`MD5-sess`) as well, though we never offer them. Hashed usernames
//! (`userhash`) are not offered.
//!
//! - [`Algorithm`]: MD5, SHA-256, SHA-512-256.
//! - [`Nonce`]: a timestamp and an id, and a keyed MAC over them and the realm; no worker remembers a nonce, every worker knows one.
//! - [`challenge()`]: the value of a WWW-Authenticate or Proxy-Authenticate header.
//! - [`Credentials`]: what an Authorization or Proxy-Authorization header says; [`select`] finds those of a realm.
//! - [`verify()`]: whether they prove the secret, of which there is an [`Ha1`] for each algorithm.
//!
//! How often a nonce was used is for the caller to count, who has the memory for it: [`Made`] says where.

#![forbid(unsafe_code)]

mod algorithm;
mod challenge;
mod credentials;
mod nonce;
mod verify;

pub use algorithm::{Algorithm, Algorithms, DIGEST_BYTES_MAX, Digest};
pub use challenge::{Offered, challenge};
pub use credentials::{Credentials, CredentialsError, Qop, Verdict, select};
pub use nonce::{Freshness, Made, NONCE_BYTES, Nonce, check_nonce, nonce};
pub use verify::{Ha1, Ha1s, ha1, verify};
