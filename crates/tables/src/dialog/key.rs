//! Keys of dialogs.
//!
//! ```text
//! first dialog of a call     call_id NUL caller's tag (NUL NUL pass: when it passes through us once more)
//! ended, but still asked for NUL place (NUL tags of a further one)
//! further ones (forks)       call_id NUL one tag NUL the other, the lesser first
//! ```
//!
//! NUL is in no token (RFC 3261 §25.1), so no two calls share a key. The first key does not change when the callee's tag becomes known, so
//! that a dialog stays one record from INVITE to BYE; the second is the same from both directions.

/// Key of the first dialog of a call, from the caller's tag. The same call may pass through us more than once, on its way to an application server and back: `pass`
/// tells these apart.
pub(super) fn first(call_id: &[u8], caller_tag: &[u8], pass: u8) -> Vec<u8> {
    let mut key = join(call_id, &[caller_tag]);
    if pass > 0 {
        key.extend_from_slice(&[0, 0, pass]);
    }
    key
}

/// Key of what is left of a dialog that has ended; `tags` if it was a further one.
pub(super) fn ended(place: u64, tags: Option<(&[u8], &[u8])>) -> Vec<u8> {
    let mut key = vec![0];
    key.extend_from_slice(&place.to_le_bytes());
    if let Some((a, b)) = tags {
        key.extend_from_slice(&join(b"", &[a.min(b), a.max(b)]));
    }
    key
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
