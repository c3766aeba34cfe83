//! Digest authentication as the proxy uses it (§22): who is challenged is policy, how is here.

use std::time::Duration;

use auth::{Algorithm, Freshness, Ha1};
use sip::{
    HeaderName, Message, Method, NameAddr,
    uri::{Aor, Uri},
};
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

/// Verifies the credentials. A user registers nobody else (§10.3 step 4), and calls under no other name of the realm.
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
    let is_own = match line.method {
        Method::Register => message
            .to()
            .is_ok_and(|to| is_own(&to, found.username, realm)),
        _ => message
            .from()
            .is_ok_and(|from| !is_of(&from, realm) || is_own(&from, found.username, realm)),
    };
    if is_own {
        Checked::Good
    } else {
        Checked::Foreign
    }
}

/// Whether an address claims to be of this realm.
fn is_of(address: &NameAddr<'_>, realm: &[u8]) -> bool {
    let mut host = Vec::new();
    if let Some(named) = address.uri.host {
        named.write_canonical(&mut host);
    }
    host.eq_ignore_ascii_case(realm)
}

/// Whether an address is the user's own, whose name may be given with its domain.
fn is_own(address: &NameAddr<'_>, name: &[u8], realm: &[u8]) -> bool {
    let Some(name) = local_name(name, realm) else {
        return false;
    };
    let own = [b"sip:", name, b"@", realm].concat();
    let Ok(own) = Uri::parse(&own) else {
        return false;
    };
    let (mut to_aor, mut own_aor) = (Vec::new(), Vec::new());
    let is_same = |to: &[u8], own: &[u8]| {
        let to = to.strip_prefix(b"sips:").or(to.strip_prefix(b"sip:"));
        to == own.strip_prefix(b"sip:")
    };
    match (
        Aor::of(&address.uri, &mut to_aor),
        Aor::of(&own, &mut own_aor),
    ) {
        (Ok(to), Ok(own)) => is_same(to.as_bytes(), own.as_bytes()),
        _ => false,
    }
}

/// The name of a user within its realm; `None` if it is given with another domain.
pub fn local_name<'n>(name: &'n [u8], realm: &[u8]) -> Option<&'n [u8]> {
    let Some(at) = name.iter().rposition(|&byte| byte == b'@') else {
        return Some(name);
    };
    let (user, domain) = name.split_at(at);
    let domain = domain.strip_prefix(b"@").unwrap_or_default();
    domain.eq_ignore_ascii_case(realm).then_some(user)
}

#[cfg(test)]
mod tests {
    use sip::Layout;

    use super::*;

    fn registers(to: &str, name: &str) -> bool {
        let text = format!(
            "REGISTER sip:a.example SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <{to}>;tag=1\r\nTo: <{to}>\r\n\
             Call-ID: c\r\nCSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n"
        );
        let mut layout = Layout::new();
        let message = sip::parse(text.as_bytes(), &mut layout).unwrap();
        is_own(&message.to().unwrap(), name.as_bytes(), b"a.example")
    }

    #[test]
    fn a_user_registers_nobody_else() {
        assert!(registers("sip:alice@a.example", "alice"));
        assert!(registers("sip:alice@A.EXAMPLE:5060", "alice@a.example"));
        assert!(registers("sip:%61lice@a.example", "alice@A.example"));
        assert!(registers("sips:alice@a.example", "alice"));
        for (to, name) in [
            ("sip:bob@a.example", "alice"),
            ("sip:alice@a.example", "alice@b.example"),
            ("sip:alice@b.example", "alice"),
            ("sip:a.example", "alice"),
            ("sip:alice@a.example", ""),
        ] {
            assert!(!registers(to, name), "{to} {name}");
        }
    }
}
