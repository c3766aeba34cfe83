//! Keys of dialogs.
//!
//! ```text
//! first dialog of a call     call_id NUL caller's tag
//! further ones (forks)       call_id NUL one tag NUL the other, the lesser first
//! ```
//!
//! NUL is in no token (RFC 3261 §25.1), so no two calls share a key. The first key does not change when the callee's tag becomes known, so
//! that a dialog stays one record from INVITE to BYE; the second is the same from both directions.

/// Key of the first dialog of a call, from the caller's tag.
pub(super) fn first(call_id: &[u8], caller_tag: &[u8]) -> Vec<u8> {
    join(call_id, &[caller_tag])
}

/// Key of a further dialog of a call.
pub(super) fn further(call_id: &[u8], a: &[u8], b: &[u8]) -> Vec<u8> {
    join(call_id, &[a.min(b), a.max(b)])
}

fn join(call_id: &[u8], tags: &[&[u8]]) -> Vec<u8> {
    let len = call_id.len() + tags.iter().map(|tag| tag.len() + 1).sum::<usize>();
    let mut key = Vec::with_capacity(len);
    key.extend_from_slice(call_id);
    for tag in tags {
        key.push(0);
        key.extend_from_slice(tag);
    }
    key
}

/// The Call-ID in a key.
pub(super) fn call_id(key: &[u8]) -> &[u8] {
    key.split(|&byte| byte == 0).next().unwrap_or_default()
}
