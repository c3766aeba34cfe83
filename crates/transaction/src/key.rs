//! Matching requests to server transactions (RFC 3261 §17.2.3).
//!
//! | request | key |
//! |---|---|
//! | branch with magic cookie | `3 method SP sent-by SP branch`, or the hash of these if they are long |
//! | RFC 2543 | the hash of method, Request-URI, top Via, From tag, Call-ID, CSeq number, and To tag unless INVITE |
//!
//! The method of an ACK counts as INVITE. The To tag of an RFC 2543 ACK is that of our response, which the INVITE
//! did not have, so it is left out for INVITE and ACK; who needs the comparison of §17.2.3 has the response.

use sip::{CSeq, CSeqError, HeaderName, Message, Method, NameAddr, NameAddrError, Via, ViaError};
use stdx::hash::{Key, hash128};

/// Bytes of `z9hG4bK` (§8.1.1.7).
const MAGIC_COOKIE_BYTES: usize = 7;

/// The longest key.
pub const KEY_BYTES_MAX: usize = 160;

/// The key of a server transaction; reused, so that only the first one allocates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyBuf(Vec<u8>);

impl KeyBuf {
    pub fn new() -> Self {
        Self(Vec::with_capacity(KEY_BYTES_MAX))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Default for KeyBuf {
    fn default() -> Self {
        Self::new()
    }
}

/// By which rules a request was matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    /// The branch says it all.
    Rfc3261,
    /// The client is of the time before: an ACK to a 2xx, too, has the key of its INVITE.
    Rfc2543,
}

/// Why a message has no key. For a request the answer is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    #[error("not a request")]
    NotRequest,
    #[error("{0:?} is missing")]
    Missing(HeaderName),
    #[error("Via: {0}")]
    Via(#[from] ViaError),
    #[error("CSeq: {0}")]
    CSeq(#[from] CSeqError),
    #[error("From or To: {0}")]
    NameAddr(#[from] NameAddrError),
}

/// Writes the key of the server transaction that this request belongs to or creates.
pub fn server_key(
    request: &Message<'_>,
    hash_key: &Key,
    out: &mut KeyBuf,
) -> Result<Matching, KeyError> {
    let line = request.request().ok_or(KeyError::NotRequest)?;
    let method = match line.method {
        Method::Ack => b"INVITE",
        _ => line.method_text,
    };
    write(request, line.uri, method, hash_key, out)
}

/// Writes the key of the INVITE transaction that this CANCEL is about (§9.2). The CANCEL's own is [`server_key`]'s.
pub fn cancel_target_key(
    cancel: &Message<'_>,
    hash_key: &Key,
    out: &mut KeyBuf,
) -> Result<Matching, KeyError> {
    let line = cancel.request().ok_or(KeyError::NotRequest)?;
    write(cancel, line.uri, b"INVITE", hash_key, out)
}

/// The key that a request is looked up by, for whoever has read its topmost Via already: of a CANCEL [`cancel_target_key`], of
/// everything else [`server_key`].
pub fn lookup_key(
    request: &Message<'_>,
    via: &Via<'_>,
    hash_key: &Key,
    out: &mut KeyBuf,
) -> Result<Matching, KeyError> {
    let line = request.request().ok_or(KeyError::NotRequest)?;
    let method = match line.method {
        Method::Ack | Method::Cancel => b"INVITE",
        _ => line.method_text,
    };
    match identifying_branch(via) {
        Some(branch) => {
            write_3261(via, branch, method, hash_key, out);
            Ok(Matching::Rfc3261)
        }
        None => write(request, line.uri, method, hash_key, out),
    }
}

/// A branch that is the cookie and nothing else identifies nothing (RFC 4475 §3.2.1).
fn identifying_branch<'v>(via: &Via<'v>) -> Option<&'v [u8]> {
    via.branch()
        .filter(|branch| via.has_magic_cookie() && branch.len() > MAGIC_COOKIE_BYTES)
}

fn write(
    request: &Message<'_>,
    uri: &[u8],
    method: &[u8],
    hash_key: &Key,
    out: &mut KeyBuf,
) -> Result<Matching, KeyError> {
    let top = request
        .first_value(HeaderName::Via)
        .ok_or(KeyError::Missing(HeaderName::Via))?;
    let via = Via::parse(top.value)?;
    match identifying_branch(&via) {
        Some(branch) => {
            write_3261(&via, branch, method, hash_key, out);
            Ok(Matching::Rfc3261)
        }
        None => {
            write_2543(request, uri, method, top.value, hash_key, out)?;
            Ok(Matching::Rfc2543)
        }
    }
}

fn write_3261(via: &Via<'_>, branch: &[u8], method: &[u8], hash_key: &Key, out: &mut KeyBuf) {
    let bytes = &mut out.0;
    bytes.clear();
    bytes.push(b'3');
    bytes.extend_from_slice(method);
    bytes.push(b' ');
    via.sent_by.host.write_canonical(bytes);
    if let Some(port) = via.sent_by.port {
        bytes.push(b':');
        bytes.extend_from_slice(&port.to_be_bytes());
    }
    bytes.push(b' ');
    bytes.extend_from_slice(branch);
    if bytes.len() > KEY_BYTES_MAX {
        let hash = hash128(hash_key, &[bytes]);
        bytes.clear();
        bytes.push(b'h');
        bytes.extend_from_slice(&hash.to_be_bytes());
        // A peer's long branch must not stay in our memory.
        bytes.shrink_to(KEY_BYTES_MAX);
    }
}

fn write_2543(
    request: &Message<'_>,
    uri: &[u8],
    method: &[u8],
    top_via: &[u8],
    hash_key: &Key,
    out: &mut KeyBuf,
) -> Result<(), KeyError> {
    let value = |name| {
        request
            .first(name)
            .map(|header| header.value)
            .ok_or(KeyError::Missing(name))
    };
    let call_id = value(HeaderName::CallId)?;
    let cseq = CSeq::parse(value(HeaderName::CSeq)?)?;
    let from = NameAddr::parse(value(HeaderName::From)?)?;
    let to = NameAddr::parse(value(HeaderName::To)?)?;
    let to_tag = if method == b"INVITE" { None } else { to.tag() };
    let parts = [
        method,
        uri,
        top_via,
        from.tag().unwrap_or_default(),
        call_id,
        &cseq.number.to_be_bytes(),
        to_tag.unwrap_or_default(),
    ];
    let hash = hash128(hash_key, &parts);
    out.0.clear();
    out.0.push(b'2');
    out.0.extend_from_slice(&hash.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sip::Layout;

    use super::*;

    const HASH_KEY: Key = Key([3; 16]);

    fn with<R>(text: &str, f: impl FnOnce(&Message<'_>) -> R) -> R {
        let mut layout = Layout::new();
        let message = sip::parse(text.as_bytes(), &mut layout).expect(text);
        f(&message)
    }

    fn request(method: &str, via: &str, cseq: &str, to: &str) -> String {
        format!(
            "{method} sip:bob@b.example SIP/2.0\r\nVia: {via}\r\nVia: SIP/2.0/UDP other;branch=z9hG4bKother\r\n\
             From: <sip:alice@a.example>;tag=1\r\nTo: <sip:bob@b.example>{to}\r\nCall-ID: c1\r\nCSeq: {cseq} {method}\r\n\
             Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
    }

    fn key(text: &str) -> (Matching, Vec<u8>) {
        let mut out = KeyBuf::new();
        let matching = with(text, |message| server_key(message, &HASH_KEY, &mut out)).unwrap();
        (matching, out.as_bytes().to_vec())
    }

    fn cancel_target(text: &str) -> (Matching, Vec<u8>) {
        let mut out = KeyBuf::new();
        let matching = with(text, |message| {
            cancel_target_key(message, &HASH_KEY, &mut out)
        })
        .unwrap();
        (matching, out.as_bytes().to_vec())
    }

    #[test]
    fn a_look_up_by_the_parsed_via_is_the_same() {
        for via in [VIA, VIA_2543, "SIP/2.0/UDP a;branch=z9hG4bK"] {
            for method in ["INVITE", "ACK", "CANCEL", "BYE"] {
                let text = request(method, via, "1", ";tag=9");
                let mut out = KeyBuf::new();
                let matching = with(&text, |message| {
                    lookup_key(message, &message.top_via().unwrap(), &HASH_KEY, &mut out)
                });
                let expected = match method {
                    "CANCEL" => cancel_target(&text),
                    _ => key(&text),
                };
                assert_eq!((matching.unwrap(), out.as_bytes().to_vec()), expected);
            }
        }
    }

    const VIA: &str = "SIP/2.0/UDP A.example:5061;rport;branch=z9hG4bK77";
    const VIA_2543: &str = "SIP/2.0/UDP a.example:5061;branch=77";

    #[test]
    fn by_branch() {
        let invite = key(&request("INVITE", VIA, "1", ""));
        assert_eq!(
            invite,
            (
                Matching::Rfc3261,
                b"3INVITE a.example:\x13\xc5 z9hG4bK77".to_vec()
            )
        );
        // Nothing but branch, sent-by and method counts.
        let same = "SIP/2.0/TCP a.EXAMPLE. : 5061;branch=z9hG4bK77;received=10.0.0.1";
        assert_eq!(key(&request("INVITE", same, "9", ";tag=2")), invite);
        assert_eq!(key(&request("ACK", VIA, "1", ";tag=2")), invite);
        assert_eq!(cancel_target(&request("CANCEL", VIA, "1", "")), invite);
        for other in [
            request("CANCEL", VIA, "1", ""),
            request("BYE", VIA, "1", ""),
            request("invite", VIA, "1", ""),
            request(
                "INVITE",
                "SIP/2.0/UDP a.example:5061;branch=z9hG4bK78",
                "1",
                "",
            ),
            request("INVITE", "SIP/2.0/UDP a.example;branch=z9hG4bK77", "1", ""),
            request(
                "INVITE",
                "SIP/2.0/UDP b.example:5061;branch=z9hG4bK77",
                "1",
                "",
            ),
        ] {
            assert_ne!(key(&other), invite, "{other}");
        }
    }

    #[test]
    fn long_branches_are_hashed() {
        let branch = |end: &str| format!("SIP/2.0/UDP a;branch=z9hG4bK{}{end}", "x".repeat(2000));
        let (matching, long) = key(&request("INVITE", &branch("1"), "1", ""));
        assert_eq!(
            (matching, long.len(), long[0]),
            (Matching::Rfc3261, 17, b'h')
        );
        assert_eq!(key(&request("ACK", &branch("1"), "1", "")).1, long);
        assert_ne!(key(&request("INVITE", &branch("2"), "1", "")).1, long);
    }

    #[test]
    fn by_rfc_2543() {
        let invite = key(&request("INVITE", VIA_2543, "1", ""));
        assert_eq!(invite.0, Matching::Rfc2543);
        assert_eq!(key(&request("ACK", VIA_2543, "1", ";tag=2")), invite);
        assert_eq!(cancel_target(&request("CANCEL", VIA_2543, "1", "")), invite);
        for other in [
            request("CANCEL", VIA_2543, "1", ""),
            request("INVITE", VIA_2543, "2", ""),
            request("INVITE", "SIP/2.0/UDP a.example:5061;branch=78", "1", ""),
            request("INVITE", "SIP/2.0/UDP a.example:5061", "1", ""),
            request("INVITE", VIA_2543, "1", "").replace("c1", "c2"),
            request("INVITE", VIA_2543, "1", "").replace("tag=1", "tag=3"),
            request("INVITE", VIA_2543, "1", "").replace("INVITE sip:bob", "INVITE sip:carol"),
        ] {
            assert_ne!(key(&other), invite, "{other}");
        }
        let bye = |to| key(&request("BYE", VIA_2543, "1", to));
        assert_ne!(bye(";tag=1"), bye(";tag=2"));
    }

    #[test]
    fn a_bare_cookie_is_rfc_2543() {
        let via = "SIP/2.0/UDP a.example;branch=z9hG4bK";
        assert_eq!(key(&request("OPTIONS", via, "1", "")).0, Matching::Rfc2543);
        assert_ne!(
            key(&request("OPTIONS", via, "1", "")),
            key(&request("OPTIONS", via, "2", ""))
        );
    }

    #[test]
    fn what_has_no_key() {
        let mut out = KeyBuf::new();
        let mut fault = |text: &str| {
            with(text, |message| server_key(message, &HASH_KEY, &mut out)).unwrap_err()
        };
        assert_eq!(
            fault("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n\r\n"),
            KeyError::NotRequest
        );
        assert_eq!(
            fault("BYE sip:a SIP/2.0\r\nCall-ID: 1\r\n\r\n"),
            KeyError::Missing(HeaderName::Via)
        );
        assert!(matches!(
            fault("BYE sip:a SIP/2.0\r\nVia: nonsense\r\n\r\n"),
            KeyError::Via(_)
        ));
        assert_eq!(
            fault("BYE sip:a SIP/2.0\r\nVia: SIP/2.0/UDP a\r\n\r\n"),
            KeyError::Missing(HeaderName::CallId)
        );
    }

    proptest! {
        /// Keys are bounded, and two different branches never share one.
        #[test]
        fn keys_are_bounded(a in "[a-zA-Z0-9]{1,400}", b in "[a-zA-Z0-9]{1,400}") {
            let of = |branch: &str| key(&request("INVITE", &format!("SIP/2.0/UDP h;branch=z9hG4bK{branch}"), "1", "")).1;
            prop_assert!(of(&a).len() <= KEY_BYTES_MAX);
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }
    }
}
