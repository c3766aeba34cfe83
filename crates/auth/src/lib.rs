//! HTTP Digest for SIP, sans-IO: challenges, credentials, stateless nonces.
//!
//! Digest as of RFC 7616 with the algorithms of RFC 8760, as SIP uses it (RFC 3261 §22), with `qop=auth` only: the
//! form of RFC 2069, which has no client nonce, is refused, `auth-int` and the session algorithms are not offered.
//!
//! - [`Algorithm`]: MD5, SHA-256, SHA-512-256.
//! - [`Nonce`]: a timestamp and a keyed MAC over it and the realm; no worker remembers a nonce, every worker knows one.
//! - [`challenge()`]: the value of a WWW-Authenticate or Proxy-Authenticate header.
//! - [`Credentials`]: what an Authorization or Proxy-Authorization header says; [`select`] finds those of a realm.
//! - [`verify()`]: whether they prove the [`Secret`].
//!
//! A nonce may be used as often as the client likes until it is stale: counting `nc` would need memory that all workers
//! share. What that leaves open is the replay of a captured request within the nonce's life.

#![forbid(unsafe_code)]

mod algorithm;
mod challenge;
mod credentials;
mod nonce;
mod verify;

pub use algorithm::{Algorithm, DIGEST_BYTES_MAX, Digest};
pub use challenge::challenge;
pub use credentials::{Credentials, CredentialsError, Verdict, select};
pub use nonce::{Freshness, NONCE_BYTES, Nonce, check_nonce, nonce};
pub use verify::{Ha1, Secret, ha1, verify};
