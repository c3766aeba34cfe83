//! Responses that we make ourselves (§8.2.6), with the To tag that we know again.

use std::io::Write;

use sip::{HeaderName, Message, Via, build::reason_phrase};
use stdx::{
    hash::{Key, hash64},
    text::{BASE32_U64, encode_base32_u64},
};

/// Bytes of a To tag of ours.
pub const TAG_BYTES: usize = BASE32_U64;

/// The To tag of our own answers to this request: the same for a retransmission and for its ACK, without anything
/// being kept (§8.2.7). `branch` is that of the request's top Via.
pub fn to_tag(key: &Key, message: &Message<'_>, branch: &[u8]) -> [u8; TAG_BYTES] {
    let call_id = message
        .first(HeaderName::CallId)
        .map_or(&b""[..], |header| header.value);
    let from = message
        .from()
        .ok()
        .and_then(|from| from.tag())
        .unwrap_or_default();
    encode_base32_u64(hash64(key, &[b"to-tag", call_id, from, branch]))
}

/// What a response of ours is made of.
#[derive(Clone, Copy, Debug)]
pub struct Local<'l> {
    pub code: u16,
    /// `None`: the phrase that goes with the code.
    pub reason: Option<&'l str>,
    /// Added to To where it has no tag; `None` for a 100.
    pub tag: Option<&'l [u8]>,
    /// Replaces the top Via.
    pub via: Option<&'l [u8]>,
    /// The message is the request as we sent it on: its top Via is ours and not part of the answer.
    pub skip_via: bool,
    /// More header lines, each with its CRLF.
    pub headers: &'l [u8],
}

/// Writes the response to `request`.
pub fn write(request: &Message<'_>, local: &Local<'_>, out: &mut Vec<u8>) {
    let reason = local.reason.unwrap_or_else(|| reason_phrase(local.code));
    // Writing to a Vec does not fail.
    let _ = write!(out, "SIP/2.0 {} {}\r\n", local.code, reason);
    for (place, via) in request
        .values(HeaderName::Via)
        .skip(usize::from(local.skip_via))
        .enumerate()
    {
        out.extend_from_slice(b"Via: ");
        out.extend_from_slice(match local.via {
            Some(replaced) if place == 0 => replaced,
            _ => via.value,
        });
        out.extend_from_slice(b"\r\n");
    }
    let copy = |name: HeaderName, text: &str, out: &mut Vec<u8>| {
        if let Some(header) = request.first(name) {
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(header.value);
        }
    };
    copy(HeaderName::From, "From", out);
    out.extend_from_slice(b"\r\n");
    copy(HeaderName::To, "To", out);
    if let Some(tag) = local.tag
        && request.to().is_ok_and(|to| to.tag().is_none())
    {
        out.extend_from_slice(b";tag=");
        out.extend_from_slice(tag);
    }
    out.extend_from_slice(b"\r\n");
    copy(HeaderName::CallId, "Call-ID", out);
    out.extend_from_slice(b"\r\n");
    copy(HeaderName::CSeq, "CSeq", out);
    out.extend_from_slice(b"\r\n");
    if local.code == 100
        && let Some(timestamp) = request.first(HeaderName::Timestamp)
    {
        // §8.2.6.1
        out.extend_from_slice(b"Timestamp: ");
        out.extend_from_slice(timestamp.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(local.headers);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// The branch of the request's Via at `place` (0 is the top).
pub fn branch_at<'m>(request: &Message<'m>, place: usize) -> &'m [u8] {
    request
        .values(HeaderName::Via)
        .nth(place)
        .and_then(|value| Via::parse(value.value).ok())
        .and_then(|via| via.branch())
        .unwrap_or_default()
}
