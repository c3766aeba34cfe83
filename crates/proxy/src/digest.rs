//! Digest authentication as the proxy uses it (§22): who is challenged is policy, how is here.

use std::time::Duration;

use auth::{Algorithm, Freshness, Ha1};
use sip::{HeaderName, Message, Method, NameAddr};
use stdx::{Instant, hash::Key};

use crate::ask::Secret;

/// How long a nonce may be used before the client is told that it is stale.
const NONCE_LIFETIME: Duration = Duration::from_secs(300);

/// What a request presents for a realm.
pub(crate) enum Presented {
    None,
    Stale,
    Malformed,
    Usable,
}

/// The header that credentials come in: we are the registrar of a REGISTER and a proxy for everything else (§22.2, §22.3).
fn header_of(message: &Message<'_>) -> HeaderName {
    match message.request().map(|line| line.method) {
        Some(Method::Register) => HeaderName::Authorization,
        _ => HeaderName::ProxyAuthorization,
    }
}

fn credentials<'m>(
    message: &Message<'m>,
    realm: &[u8],
) -> Result<Option<auth::Credentials<'m>>, auth::CredentialsError> {
    auth::select(
        message.all(header_of(message)).map(|header| header.value),
        realm,
    )
}

/// Looks for credentials of this realm with a nonce of ours.
pub(crate) fn present(message: &Message<'_>, realm: &[u8], key: &Key, now: Instant) -> Presented {
    match credentials(message, realm) {
        Ok(None) => Presented::None,
        Ok(Some(found)) => match auth::check_nonce(key, now, NONCE_LIFETIME, realm, found.nonce) {
            Freshness::Fresh => Presented::Usable,
            Freshness::Stale => Presented::Stale,
            Freshness::Foreign => Presented::None,
        },
        Err(error) => match error.verdict() {
            auth::Verdict::Challenge => Presented::None,
            auth::Verdict::BadRequest => Presented::Malformed,
        },
    }
}

/// The code and header lines of a challenge. With `sha256` that algorithm is offered before MD5 (RFC 8760 §2.3).
pub(crate) fn challenge(
    message: &Message<'_>,
    realm: &[u8],
    sha256: bool,
    key: &Key,
    now: Instant,
    stale: bool,
) -> (u16, Vec<u8>) {
    let (code, name) = match header_of(message) {
        HeaderName::Authorization => (401, "WWW-Authenticate: "),
        _ => (407, "Proxy-Authenticate: "),
    };
    let nonce = auth::nonce(key, now, realm);
    let mut lines = Vec::with_capacity(192);
    for algorithm in [Algorithm::Sha256, Algorithm::Md5]
        .into_iter()
        .skip(usize::from(!sha256))
    {
        lines.extend_from_slice(name.as_bytes());
        auth::challenge(realm, algorithm, &nonce, stale, &mut lines);
        lines.extend_from_slice(b"\r\n");
    }
    (code, lines)
}

/// The user that a request's credentials for this realm name, for whoever looks up the secret.
pub(crate) fn user<'m>(message: &Message<'m>, realm: &[u8]) -> Option<&'m [u8]> {
    credentials(message, realm)
        .ok()
        .flatten()
        .map(|found| found.username)
}

/// What the secret says of the credentials.
pub(crate) enum Checked {
    Good,
    Wrong,
    /// The right password of somebody who may not do this.
    Foreign,
}

/// Verifies the credentials. A user registers nobody else (§10.3 step 4).
pub(crate) fn check(message: &Message<'_>, realm: &[u8], secret: Option<&Secret>) -> Checked {
    let Some(line) = message.request() else {
        return Checked::Wrong;
    };
    let (Ok(Some(found)), Some(secret)) = (credentials(message, realm), secret) else {
        return Checked::Wrong;
    };
    let secret = match secret {
        Secret::Password(password) => auth::Secret::Password(password),
        Secret::Ha1Md5(hex) => auth::Secret::Ha1 {
            md5: Ha1::from_hex(Algorithm::Md5, hex),
            sha256: None,
            sha512_256: None,
        },
        Secret::Ha1Sha256(hex) => auth::Secret::Ha1 {
            md5: None,
            sha256: Ha1::from_hex(Algorithm::Sha256, hex),
            sha512_256: None,
        },
    };
    if !auth::verify(&found, line.method_text, &secret) {
        return Checked::Wrong;
    }
    let registers = line.method == Method::Register;
    let aor_user = message
        .first(HeaderName::To)
        .and_then(|to| NameAddr::parse(to.value).ok())
        .and_then(|to| to.uri.user);
    // A user name may be given with its domain.
    let name = found
        .username
        .split(|&byte| byte == b'@')
        .next()
        .unwrap_or_default();
    if registers && aor_user != Some(name) {
        Checked::Foreign
    } else {
        Checked::Good
    }
}
