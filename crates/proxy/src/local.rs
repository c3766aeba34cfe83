//! Responses that we make ourselves (§8.2.6), with the To tag that we know again.

use sip::{HeaderName, Message, NameAddr, Via, build::reason_phrase, message::unfold};
use stdx::{
    hash::{Key, hash64},
    text::{BASE32_U64, encode_base32_u64, write_decimal},
};

/// Bytes of a To tag of ours.
pub const TAG_BYTES: usize = BASE32_U64;

/// The To tag of our own answers to this request: the same for a retransmission and for its ACK, without anything
/// being kept (§8.2.7). `branch` is that of the request's top Via.
pub fn to_tag(key: &Key, message: &Message<'_>, branch: &[u8]) -> [u8; TAG_BYTES] {
    let value = |name| message.first(name).map_or(&b""[..], |header| header.value);
    let (call_id, from) = (value(HeaderName::CallId), value(HeaderName::From));
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
    out.extend_from_slice(b"SIP/2.0 ");
    write_decimal(local.code.into(), out);
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    for (place, via) in request
        .values(HeaderName::Via)
        .skip(usize::from(local.skip_via))
        .enumerate()
    {
        out.extend_from_slice(b"Via: ");
        unfold(
            match local.via {
                Some(replaced) if place == 0 => replaced,
                _ => via.value,
            },
            out,
        );
        out.extend_from_slice(b"\r\n");
    }
    copy(request, HeaderName::From, b"", out);
    let tag = local.tag.filter(|_| lacks_tag(request));
    copy(request, HeaderName::To, tag.unwrap_or_default(), out);
    copy(request, HeaderName::CallId, b"", out);
    copy(request, HeaderName::CSeq, b"", out);
    if local.code == 100 {
        // §8.2.6.1
        copy(request, HeaderName::Timestamp, b"", out);
    }
    out.extend_from_slice(local.headers);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// Whether a To without a tag is there. One that ends with its angle bracket has no parameter, and need not be read.
fn lacks_tag(request: &Message<'_>) -> bool {
    match request.first(HeaderName::To) {
        Some(to) if to.value.ends_with(b">") && !to.value.contains(&b'"') => true,
        Some(to) => NameAddr::parse(to.value).is_ok_and(|to| to.tag().is_none()),
        None => false,
    }
}

/// Copies a header, if it is there, and adds a tag, if there is one.
fn copy(request: &Message<'_>, name: HeaderName, tag: &[u8], out: &mut Vec<u8>) {
    let Some(header) = request.first(name) else {
        return;
    };
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    unfold(header.value, out);
    if !tag.is_empty() {
        out.extend_from_slice(b";tag=");
        out.extend_from_slice(tag);
    }
    out.extend_from_slice(b"\r\n");
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
