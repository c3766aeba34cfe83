//! Where the session description is in a body: the whole of it, or a part of a multipart (RFC 5621).

use std::ops::Range;

/// How deep multiparts are looked into.
const DEPTH_MAX: u8 = 2;
/// Parts of one multipart that are looked at.
const PARTS_MAX: usize = 16;

/// The SDP in a body of this Content-Type: the bytes of it, without the line end that belongs to a delimiter.
pub fn sdp(content_type: &[u8], body: &[u8]) -> Option<Range<usize>> {
    find(content_type, body, 0..body.len(), 0)
}

fn find(content_type: &[u8], body: &[u8], range: Range<usize>, depth: u8) -> Option<Range<usize>> {
    let kind = media_type(content_type);
    if kind.eq_ignore_ascii_case(b"application/sdp") {
        return (!range.is_empty()).then_some(range);
    }
    let multipart = kind
        .get(..10)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
    if !multipart || depth == DEPTH_MAX {
        return None;
    }
    let boundary = boundary(content_type)?;
    parts(body, range, boundary)
        .take(PARTS_MAX)
        .find_map(|part| {
            let (head, content) = split_head(body, part)?;
            let head = body.get(head)?;
            if field(head, b"content-transfer-encoding").is_some_and(|value| !is_identity(value)) {
                return None;
            }
            let inner = field(head, b"content-type")?;
            find(inner, body, content, depth.saturating_add(1))
        })
}

fn is_identity(encoding: &[u8]) -> bool {
    [&b"binary"[..], b"8bit", b"7bit"]
        .iter()
        .any(|plain| encoding.eq_ignore_ascii_case(plain))
}

/// `type/subtype` of a Content-Type.
fn media_type(value: &[u8]) -> &[u8] {
    value
        .split(|&byte| byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii()
}

/// The boundary parameter (RFC 2046 §5.1.1: at most 70 characters).
fn boundary(content_type: &[u8]) -> Option<&[u8]> {
    content_type
        .split(|&byte| byte == b';')
        .skip(1)
        .find_map(|parameter| {
            let equals = parameter.iter().position(|&byte| byte == b'=')?;
            let (name, value) = parameter.split_at_checked(equals)?;
            if !name.trim_ascii().eq_ignore_ascii_case(b"boundary") {
                return None;
            }
            let value = value.get(1..)?.trim_ascii();
            let bare = value
                .strip_prefix(b"\"")
                .and_then(|rest| rest.strip_suffix(b"\""))
                .unwrap_or(value);
            (!bare.is_empty() && bare.len() <= 70).then_some(bare)
        })
}

/// The parts between delimiter lines.
fn parts<'b>(
    body: &'b [u8],
    range: Range<usize>,
    boundary: &'b [u8],
) -> impl Iterator<Item = Range<usize>> + 'b {
    let end = range.end;
    let mut next = delimiter(body, range.start, end, boundary);
    std::iter::from_fn(move || {
        let (_, start) = next?;
        next = delimiter(body, start, end, boundary);
        let (stop, _) = next?;
        (start <= stop).then_some(start..stop)
    })
}

/// The next delimiter line between `from` and `end`: where the part before it ends, and where the part behind it begins.
fn delimiter(body: &[u8], from: usize, end: usize, boundary: &[u8]) -> Option<(usize, usize)> {
    let mut line = from;
    while line < end {
        let rest = body.get(line..end)?;
        let length = rest.iter().position(|&byte| byte == b'\n');
        let next = length.map_or(end, |length| line.saturating_add(length).saturating_add(1));
        if rest
            .strip_prefix(b"--")
            .is_some_and(|rest| rest.starts_with(boundary))
        {
            // The line end before it belongs to it (RFC 2046 §5.1.1).
            let before = body.get(from..line)?;
            let cut = match before {
                [.., b'\r', b'\n'] => 2,
                [.., b'\n'] => 1,
                _ => 0,
            };
            return Some((line.saturating_sub(cut), next));
        }
        line = next;
    }
    None
}

/// Head and content of a part.
fn split_head(body: &[u8], part: Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let mut line = part.start;
    loop {
        let rest = body.get(line..part.end)?;
        let length = rest.iter().position(|&byte| byte == b'\n')?;
        let next = line.saturating_add(length).saturating_add(1);
        if matches!(rest.get(..length)?, b"" | b"\r") {
            return Some((part.start..line, next..part.end));
        }
        line = next;
    }
}

/// The value of a header line of a part's head.
fn field<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    head.split(|&byte| byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (found, value) = line.split_at_checked(colon)?;
        let same = found.trim_ascii().eq_ignore_ascii_case(name);
        same.then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found<'b>(content_type: &str, body: &'b str) -> Option<&'b str> {
        sdp(content_type.as_bytes(), body.as_bytes()).map(|range| &body[range])
    }

    #[test]
    fn plain() {
        assert_eq!(found("application/sdp", "v=0\r\n"), Some("v=0\r\n"));
        assert_eq!(found("Application/SDP ; x=y", "v=0\r\n"), Some("v=0\r\n"));
        assert_eq!(found("application/sdp", ""), None);
        assert_eq!(found("application/isup", "v=0\r\n"), None);
        assert_eq!(found("", "v=0\r\n"), None);
    }

    #[test]
    fn a_part_of_a_multipart() {
        let body = "preamble\r\n--b1\r\nContent-Type: application/isup\r\n\r\n\x01\x10\r\n--b1\r\ncontent-type : application/sdp\r\nContent-Disposition: session\r\n\r\nv=0\r\ns=-\r\n\r\n--b1--\r\n";
        let v = Some("v=0\r\ns=-\r\n");
        assert_eq!(found("multipart/mixed;boundary=b1", body), v);
        assert_eq!(found("MULTIPART/mixed; a=b; Boundary=\"b1\"", body), v);
        assert_eq!(found("multipart/mixed;boundary=b2", body), None);
        assert_eq!(found("multipart/mixed", body), None);
        let inner = format!(
            "--o\r\nContent-Type: multipart/alternative;boundary=b1\r\n\r\n{body}\r\n--o--"
        );
        assert_eq!(found("multipart/mixed;boundary=o", &inner), v);
        let coded = body.replace(
            "Content-Disposition: session",
            "Content-Transfer-Encoding: base64",
        );
        assert_eq!(found("multipart/mixed;boundary=b1", &coded), None);
    }

    #[test]
    fn what_does_not_end_is_not_found() {
        let body = "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n";
        assert_eq!(found("multipart/mixed;boundary=b", body), None);
    }

    proptest! {
        #[test]
        fn never_panics(
            kind in "(application/sdp|multipart/mixed;boundary=b|[ -~]{0,20})",
            body in "(--b(--)?\r?\n|Content-Type: application/sdp\r\n|\r\n|v=0|[\\x00-\\x7f]){0,12}",
        ) {
            if let Some(range) = sdp(kind.as_bytes(), body.as_bytes()) {
                prop_assert!(body.as_bytes().get(range).is_some());
            }
        }
    }
}
