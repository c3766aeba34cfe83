//! Digest authentication as the proxy uses it (§22): who is challenged is policy, how is here.

use std::{borrow::Cow, net::IpAddr};

use auth::{Algorithms, Credentials, Freshness, Made, Offered};
use sip::{
    HeaderName, Message, Method, NameAddr, Patch, PatchError,
    uri::{Aor, Host, Uri, equivalent},
};
use stdx::{
    Instant,
    hash::{Key, hash64},
    text::decode_base32_u64,
};

use crate::{
    account::{Account, Identities},
    context::Context,
    settings::{Settings, UriCheck},
    step::Hand,
};

/// What a request presents for a realm.
pub(crate) enum Presented<'m> {
    None,
    Stale,
    Malformed,
    /// They were made for another Request-URI (RFC 7616 §3.4.6).
    OtherUri,
    Usable(Credentials<'m>, Made),
}

/// We are the registrar of a REGISTER whose To is of the realm, and a proxy for everything else (§22.2, §22.3).
fn is_registrar(message: &Message<'_>, realm: &[u8]) -> bool {
    let method = message.request().map(|line| line.method);
    method == Some(Method::Register) && message.to().is_ok_and(|to| is_of(&to, realm))
}

/// The header that credentials come in.
fn header_of(message: &Message<'_>, realm: &[u8]) -> HeaderName {
    match is_registrar(message, realm) {
        true => HeaderName::Authorization,
        false => HeaderName::ProxyAuthorization,
    }
}

fn credentials<'m>(
    message: &Message<'m>,
    realm: &[u8],
) -> Result<Option<Credentials<'m>>, auth::CredentialsError> {
    let headers = message.all(header_of(message, realm));
    auth::select(headers.map(|header| header.value), realm)
}

/// Looks for credentials of this realm with a nonce of ours.
pub(crate) fn present<'m>(
    message: &Message<'m>,
    realm: &[u8],
    settings: &Settings,
    key: &Key,
    now: Instant,
) -> Presented<'m> {
    let auth = &settings.auth;
    match credentials(message, realm) {
        Ok(None) => Presented::None,
        Ok(Some(found)) if found.qop.is_none() && auth.qop_required => Presented::None,
        Ok(Some(found)) => {
            match auth::check_nonce(key, now, auth.nonce_lifetime, realm, found.nonce) {
                Freshness::Fresh(_) if !names_request_uri(&found, message, settings) => {
                    Presented::OtherUri
                }
                Freshness::Fresh(made) => Presented::Usable(found, made),
                Freshness::Stale => Presented::Stale,
                Freshness::Foreign => Presented::None,
            }
        }
        Err(error) => match error.verdict() {
            auth::Verdict::Challenge => Presented::None,
            auth::Verdict::BadRequest => Presented::Malformed,
        },
    }
}

/// Whether the `uri` parameter is the Request-URI. Phones write there what they dial, and what is between them and us may have changed the
/// Request-URI on the way: `Loose` takes as the same what differs in port or parameters only, our own names for each other, and addresses.
fn names_request_uri(
    credentials: &Credentials<'_>,
    message: &Message<'_>,
    settings: &Settings,
) -> bool {
    let Some(line) = message.request() else {
        return false;
    };
    if settings.auth.uri == UriCheck::Off || credentials.uri == line.uri {
        return true;
    }
    let (Ok(named), Ok(request)) = (Uri::parse(credentials.uri), Uri::parse(line.uri)) else {
        return false;
    };
    if settings.auth.uri == UriCheck::Strict {
        return equivalent(&named, &request);
    }
    let same_user = match (named.user, request.user) {
        (Some(named), Some(user)) => is_same_user(named, user),
        _ => true,
    };
    let same_host = match (named.host, request.host) {
        (Some(Host::Name(_)), None) | (None, _) => false,
        (Some(Host::V4(_) | Host::V6(_)), _) => true,
        (Some(host), Some(other)) => {
            host.is_same(&other)
                || settings.domain_of(&named).is_some()
                || settings.listener_named(&named).is_some()
        }
    };
    same_user && same_host
}

/// Whether two user parts are the same, escapes or not.
fn is_same_user(one: &[u8], other: &[u8]) -> bool {
    one == other || unescaped(one) == unescaped(other)
}

/// A user part with what its `%HH` stand for.
fn unescaped(user: &[u8]) -> Cow<'_, [u8]> {
    if !user.contains(&b'%') {
        return Cow::Borrowed(user);
    }
    let mut out = Vec::with_capacity(user.len());
    let mut rest = user;
    while let Some((&byte, tail)) = rest.split_first() {
        let mut code = [0];
        let escape = tail.get(..2).filter(|_| byte == b'%');
        let lower = escape.map(<[u8]>::to_ascii_lowercase);
        match lower.and_then(|digits| stdx::text::decode_hex(&digits, &mut code)) {
            Some(_) => {
                out.extend_from_slice(&code);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

/// The code and header lines of a challenge: one for each algorithm, the strongest first (RFC 8760 §2.3). `also`: besides those that the
/// settings say.
pub(crate) fn challenge(
    hand: &Hand<'_>,
    realm: &[u8],
    also: Algorithms,
    settings: &Settings,
    key: &Key,
    now: Instant,
    stale: bool,
) -> (u16, Vec<u8>) {
    let (code, name) = match header_of(hand.raw(), realm) {
        HeaderName::Authorization => (401, "WWW-Authenticate: "),
        _ => (407, "Proxy-Authenticate: "),
    };
    // The To tag is a hash of what tells this request from others.
    let id = decode_base32_u64(&hand.way.tag).unwrap_or_default();
    let nonce = auth::nonce(key, now, id, realm);
    let qop = match settings.auth.auth_int {
        true => Offered::AuthInt,
        false => Offered::Auth,
    };
    let mut lines = Vec::with_capacity(192);
    for algorithm in settings.auth.algorithms.and(also).iter() {
        lines.extend_from_slice(name.as_bytes());
        auth::challenge(realm, algorithm, &nonce, qop, stale, &mut lines);
        lines.extend_from_slice(b"\r\n");
    }
    (code, lines)
}

/// The user that a request's credentials for this realm name, for whoever looks up the secret.
pub(crate) fn user<'m>(message: &Message<'m>, realm: &[u8]) -> Option<Cow<'m, [u8]>> {
    credentials(message, realm)
        .ok()
        .flatten()
        .map(|found| plain(found.username))
}

/// A username without the backslashes of a quoted string.
pub(crate) fn plain(username: &[u8]) -> Cow<'_, [u8]> {
    if !username.contains(&b'\\') {
        return Cow::Borrowed(username);
    }
    let mut out = Vec::with_capacity(username.len());
    let mut bytes = username.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'\\' => bytes.next().copied().unwrap_or(byte),
            byte => byte,
        });
    }
    Cow::Owned(out)
}

/// What the account says of the credentials.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Good,
    Wrong,
    /// The right password of somebody who may not do this.
    Foreign,
}

/// Verifies the credentials, in the same time whether or not there is such a user. A user registers nobody else (§10.3 step 4), and calls
/// under no other name of the realm, unless the account says so.
pub(crate) fn check(
    message: &Message<'_>,
    found: &Credentials<'_>,
    realm: &[u8],
    account: Option<&Account>,
) -> Checked {
    let Some(line) = message.request() else {
        return Checked::Wrong;
    };
    let username = plain(found.username);
    let secret = account.and_then(|account| account.secret(&username, found.algorithm));
    let proved = auth::verify(found, line.method_text, message.body(), secret);
    let (true, Some(account)) = (proved, account) else {
        return Checked::Wrong;
    };
    let may_be = |address: &NameAddr<'_>| may_be(address, &username, realm, &account.identities);
    let is_allowed = match is_registrar(message, realm) {
        true => message.to().is_ok_and(|to| may_be(&to)),
        false => message
            .from()
            .is_ok_and(|from| !is_of(&from, realm) || may_be(&from)),
    };
    match is_allowed {
        true => Checked::Good,
        false => Checked::Foreign,
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

/// Whether an address is one that the user of this name may use.
fn may_be(address: &NameAddr<'_>, name: &[u8], realm: &[u8], identities: &Identities) -> bool {
    if is_own(address, name, realm) {
        return true;
    }
    let user = address.uri.user.unwrap_or_default();
    (identities.all || !identities.users.is_empty())
        && is_of(address, realm)
        && !user.is_empty()
        && identities.has(&unescaped(user))
}

/// Whether an address is the user's own, whose name may be given with its domain.
fn is_own(address: &NameAddr<'_>, name: &[u8], realm: &[u8]) -> bool {
    let Some(name) = local_name(name, realm) else {
        return false;
    };
    // Nearly always it says the same in so many bytes.
    if let (Some(Host::Name(host)), Some(user)) = (address.uri.host, address.uri.user)
        && address.uri.is_sip()
        && user == name
        && host.eq_ignore_ascii_case(realm)
    {
        return true;
    }
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

/// Tells this request from any other: a retransmission, and nothing else, has the same.
pub(crate) fn fingerprint(key: &Key, context: &Context, message: &Message<'_>) -> u64 {
    let port = context.source.port().to_le_bytes();
    let hash = |address: &[u8]| hash64(key, &[b"use", message.bytes(), address, &port]);
    match context.source.ip() {
        IpAddr::V4(ip) => hash(&ip.octets()),
        IpAddr::V6(ip) => hash(&ip.octets()),
    }
}

/// Takes away credentials for realms of ours: they are nobody's business downstream (§22.3).
pub(crate) fn take_credentials(
    patch: &mut Patch<'_>,
    settings: &Settings,
) -> Result<(), PatchError> {
    let message = patch.message();
    let is_ours = |value: &[u8]| {
        Credentials::parse(value).is_ok_and(|found| settings.domain(&plain(found.realm)).is_some())
    };
    let headers = message.all(HeaderName::ProxyAuthorization);
    if !headers.clone().any(|header| is_ours(header.value)) {
        return Ok(());
    }
    let others = headers.filter(|header| !is_ours(header.value));
    patch.remove_all(HeaderName::ProxyAuthorization)?;
    let mut value = Vec::new();
    for other in others {
        value.clear();
        sip::message::unfold(other.value, &mut value);
        patch.append(HeaderName::ProxyAuthorization, &value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sip::Layout;

    use super::*;

    fn registers_as(to: &str, name: &str, identities: &Identities) -> bool {
        let text = format!(
            "REGISTER sip:a.example SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <{to}>;tag=1\r\nTo: <{to}>\r\n\
             Call-ID: c\r\nCSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n"
        );
        let mut layout = Layout::new();
        let message = sip::parse(text.as_bytes(), &mut layout).unwrap();
        let to = message.to().unwrap();
        may_be(&to, name.as_bytes(), b"a.example", identities)
    }

    fn registers(to: &str, name: &str) -> bool {
        registers_as(to, name, &Identities::default())
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

    #[test]
    fn identities_are_of_the_same_domain() {
        let some = Identities {
            all: false,
            users: vec![b"100".to_vec(), b"+4930".to_vec()],
        };
        let all = Identities {
            all: true,
            users: Vec::new(),
        };
        assert!(registers_as("sip:100@a.example", "alice", &some));
        assert!(registers_as("sip:%2b4930@A.example", "alice", &some));
        assert!(registers_as("sip:bob@a.example", "alice", &all));
        for (to, who) in [
            ("sip:bob@a.example", &some),
            ("sip:100@b.example", &some),
            ("sip:bob@b.example", &all),
            ("sip:a.example", &all),
        ] {
            assert!(!registers_as(to, "alice", who), "{to}");
        }
    }

    #[test]
    fn usernames_lose_their_backslashes() {
        for (raw, name) in [
            ("alice", "alice"),
            (r"al\ice", "alice"),
            (r#"a\"\\b"#, r#"a"\b"#),
            ("a\\", "a\\"),
        ] {
            assert_eq!(&*plain(raw.as_bytes()), name.as_bytes());
        }
    }

    #[test]
    fn users_compare_without_their_escapes() {
        assert!(is_same_user(b"%61%6Cice", b"al%69ce"));
        assert!(!is_same_user(b"alice", b"%41lice"));
        assert!(!is_same_user(b"alice%", b"alice%2"));
    }
}
