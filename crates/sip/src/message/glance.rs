//! What a datagram is, told without reading it: for a server that has no time left to read everything.

use memchr::memchr;

/// Whether this looks like a request that begins something: a method that may, and a To without a tag (RFC 3261 §12.2, §8.1.1.2). Nothing
/// is checked: what is broken may be taken for either.
pub fn begins_something(bytes: &[u8]) -> bool {
    let Some(space) = memchr(
        b' ',
        bytes.get(..bytes.len().min(METHOD_MAX)).unwrap_or_default(),
    ) else {
        return false;
    };
    let method = bytes.get(..space).unwrap_or_default();
    // A response begins with SIP/2.0; the rest ends, answers or goes on with what is there.
    let never: [&[u8]; 5] = [b"SIP/2.0", b"ACK", b"CANCEL", b"BYE", b"PRACK"];
    !never.contains(&method) && !to_has_tag(bytes)
}

/// Longer methods are nobody's.
const METHOD_MAX: usize = 32;

/// The first To says a tag.
fn to_has_tag(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(end) = memchr(b'\n', rest) {
        let (_, next) = rest
            .split_at_checked(end.saturating_add(1))
            .unwrap_or_default();
        rest = next;
        if rest.starts_with(b"\r\n") {
            return false;
        }
        let Some(value) = to_value(rest) else {
            continue;
        };
        // The parameters of the header come behind the address; one inside the brackets is the URI's.
        let line = value.get(..value_end(value)).unwrap_or_default();
        let after = memchr::memrchr(b'>', line).map_or(line, |at| line.get(at..).unwrap_or(line));
        return after.split(|&byte| byte == b';').skip(1).any(is_tag);
    }
    false
}

/// Where a header ends: at the line end that no blank follows (§7.3.1).
fn value_end(value: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', value)
        .find(|&at| !matches!(value.get(at.saturating_add(1)), Some(b' ' | b'\t')))
        .unwrap_or(value.len())
}

/// "tag" and its value, whatever blanks stand around.
fn is_tag(param: &[u8]) -> bool {
    let param = param.trim_ascii_start();
    let (name, rest) = param.split_at_checked(3).unwrap_or_default();
    name.eq_ignore_ascii_case(b"tag") && rest.trim_ascii_start().starts_with(b"=")
}

/// What stands behind "To:" or "t:".
fn to_value(line: &[u8]) -> Option<&[u8]> {
    let name = match line {
        [b't' | b'T', b'o' | b'O', rest @ ..] => rest,
        [b't' | b'T', rest @ ..] => rest,
        _ => return None,
    };
    let blank = name
        .iter()
        .take_while(|&&byte| byte == b' ' || byte == b'\t')
        .count();
    match name.get(blank..)? {
        [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::begins_something;

    #[test]
    fn requests_outside_dialogs_begin_something() {
        for (text, begins) in [
            (
                &b"INVITE sip:b@x SIP/2.0\r\nTo: <sip:b@x>\r\n\r\n"[..],
                true,
            ),
            (
                b"INVITE sip:b@x SIP/2.0\r\nVia: x\r\nt : Bob <sip:b@x;tag=7>\r\n\r\n",
                true,
            ),
            (
                b"REGISTER sip:x SIP/2.0\r\nTimestamp: 1\r\nTo: sip:b@x\r\n\r\nTo: x;tag=1",
                true,
            ),
            (
                b"INVITE sip:b@x SIP/2.0\r\nTo: <sip:b@x>;tag=1\r\n\r\n",
                false,
            ),
            (
                b"OPTIONS sip:b@x SIP/2.0\r\nTO:\t<sip:b@x>;x=1;Tag=1\r\n\r\n",
                false,
            ),
            (
                b"INFO sip:b@x SIP/2.0\r\nTo: <sip:b@x>\r\n ;x\r\n\t; tAg\t= 1\r\n\r\n",
                false,
            ),
            (
                b"INFO sip:b@x SIP/2.0\r\nTo: <sip:b@x>;tagged=1;stag=2\r\n\r\n",
                true,
            ),
            (b"BYE sip:b@x SIP/2.0\r\nTo: <sip:b@x>\r\n\r\n", false),
            (b"CANCEL sip:b@x SIP/2.0\r\nTo: <sip:b@x>\r\n\r\n", false),
            (b"ACK sip:b@x SIP/2.0\r\nTo: <sip:b@x>\r\n\r\n", false),
            (b"SIP/2.0 200 OK\r\nTo: <sip:b@x>\r\n\r\n", false),
            (b"", false),
            (b"\r\n\r\n", false),
            (b"x", false),
        ] {
            assert_eq!(begins_something(text), begins, "{}", text.escape_ascii());
        }
    }
}
