//! Bodies by their type: SDP, fragments of SIP, several in one, and whatever else.

use data_encoding::BASE64_MIME_PERMISSIVE;

use crate::{hide::Hide, marks::Marks, names::nibble, policy::Unknown};

/// Bodies within bodies.
const DEPTH_MAX: usize = 4;
/// Parts of one body.
const PARTS_MAX: usize = 32;

/// What a body is, as its headers say.
#[derive(Clone, Copy, Default)]
pub(crate) struct Kind<'k> {
    /// Content-Type; empty: none is said.
    pub(crate) content_type: &'k [u8],
    /// Content-Encoding.
    pub(crate) encoding: &'k [u8],
}

impl Hide<'_> {
    /// Writes a body as the other side may see it.
    pub(crate) fn body(&self, kind: Kind<'_>, body: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) {
        self.body_at(kind, body, marks, 0, out);
    }

    fn body_at(
        &self,
        kind: Kind<'_>,
        body: &[u8],
        marks: &Marks<'_>,
        depth: usize,
        out: &mut Vec<u8>,
    ) {
        if body.is_empty() || self.policy.bodies {
            out.extend_from_slice(body);
            return;
        }
        let coded = !kind.encoding.is_empty() && !kind.encoding.eq_ignore_ascii_case(b"identity");
        if coded {
            // Nobody here can look inside.
            if self.policy.unknown != Unknown::Strip {
                out.extend_from_slice(body);
            }
            return;
        }
        let of = media_type(kind.content_type);
        let is = |name: &str| of.eq_ignore_ascii_case(name.as_bytes());
        if is("application/sdp") {
            self.sdp(body, marks, out);
        } else if is("message/sipfrag") || is("message/sip") {
            self.fragment(body, marks, out);
        } else if starts_with(of, b"multipart/") {
            match boundary(kind.content_type).filter(|_| depth < DEPTH_MAX) {
                Some(boundary) => self.parts(&boundary, body, marks, depth, out),
                None => self.opaque(body, marks, out),
            }
        } else {
            self.opaque(body, marks, out);
        }
    }

    /// A body that we know nothing of but that it may be text.
    fn opaque(&self, body: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) {
        match self.policy.unknown {
            Unknown::Rewrite => marks.replace(body, self.own, out),
            Unknown::Strip if marks.is_in(body) => {}
            Unknown::Strip | Unknown::Pass => out.extend_from_slice(body),
        }
    }

    /// RFC 2046 §5.1. What stands before the first part and after the last one is for nobody, and goes.
    fn parts(
        &self,
        boundary: &[u8],
        body: &[u8],
        marks: &Marks<'_>,
        depth: usize,
        out: &mut Vec<u8>,
    ) {
        let delimiter = [b"--", boundary].concat();
        for part in split(body, &delimiter).take(PARTS_MAX) {
            out.extend_from_slice(&delimiter);
            out.extend_from_slice(b"\r\n");
            self.part(part, marks, depth, out);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(&delimiter);
        out.extend_from_slice(b"--\r\n");
    }

    fn part(&self, part: &[u8], marks: &Marks<'_>, depth: usize, out: &mut Vec<u8>) {
        let (head, body) = split_head(part);
        let headers = || unfolded_lines(head);
        let value = |wanted: &str| {
            headers().find_map(|line| {
                let (name, value) = name_and_value(&line)?;
                name.eq_ignore_ascii_case(wanted.as_bytes())
                    .then(|| value.to_vec())
            })
        };
        let content_type = value("Content-Type").unwrap_or_default();
        let encoding = value("Content-Encoding").unwrap_or_default();
        let kind = Kind {
            content_type: &content_type,
            encoding: &encoding,
        };
        let transfer = value("Content-Transfer-Encoding").unwrap_or_default();
        let transfer = transfer.trim_ascii();
        let plain = if transfer.eq_ignore_ascii_case(b"base64") {
            BASE64_MIME_PERMISSIVE.decode(body).ok()
        } else if transfer.eq_ignore_ascii_case(b"quoted-printable") {
            Some(unquoted(body))
        } else {
            None
        };
        let mut text = Vec::new();
        self.body_at(
            kind,
            plain.as_deref().unwrap_or(body),
            marks,
            depth.saturating_add(1),
            &mut text,
        );
        // A part that is as it was stays as it was written.
        let decoded = plain.as_deref().is_some_and(|plain| plain != text);
        if plain.is_some() && !decoded {
            text = body.to_vec();
        }
        for line in headers() {
            let Some((name, value)) = name_and_value(&line) else {
                continue;
            };
            if name.eq_ignore_ascii_case(b"Content-Length") {
                continue;
            }
            if decoded && name.eq_ignore_ascii_case(b"Content-Transfer-Encoding") {
                out.extend_from_slice(b"Content-Transfer-Encoding: binary\r\n");
                continue;
            }
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            self.scan(value, marks, out);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&text);
    }
}

/// What is written as `=41` (RFC 2045 §6.7).
pub(crate) fn unquoted(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return out,
            [b'=', b'\r', b'\n', after @ ..] | [b'=', b'\n', after @ ..] => after,
            [b'=', high, low, after @ ..] => {
                if let (Some(high), Some(low)) = (nibble(high), nibble(low)) {
                    out.push(high << 4 | low);
                    after
                } else {
                    out.push(b'=');
                    rest.get(1..).unwrap_or_default()
                }
            }
            [byte, after @ ..] => {
                out.push(*byte);
                after
            }
        };
    }
}

/// `type/subtype` of a Content-Type.
fn media_type(value: &[u8]) -> &[u8] {
    value
        .split(|b| *b == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii()
}

fn starts_with(text: &[u8], start: &[u8]) -> bool {
    text.get(..start.len())
        .is_some_and(|text| text.eq_ignore_ascii_case(start))
}

/// The boundary that a multipart's type names: 1 to 70 bytes (RFC 2046 §5.1.1).
fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let mut flat = Vec::new();
    sip::message::unfold(content_type, &mut flat);
    let at = flat
        .to_ascii_lowercase()
        .windows(9)
        .position(|w| w == b"boundary=")?;
    let rest = flat.get(at.checked_add(9)?..)?;
    let text = match rest {
        [b'"', quoted @ ..] => quoted.split(|b| *b == b'"').next()?,
        _ => rest.split(|b| matches!(b, b';' | b' ' | b'\t')).next()?,
    };
    (1..=70).contains(&text.len()).then(|| text.to_vec())
}

/// The parts between delimiters that begin a line.
fn split<'b>(body: &'b [u8], delimiter: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
    let mut rest = next_delimiter(body, delimiter).map(|(_, after)| after);
    std::iter::from_fn(move || {
        let from = rest?;
        if from.starts_with(b"--") {
            return None;
        }
        // Behind the delimiter there may be blanks.
        let line_end = from.iter().position(|b| *b == b'\n')?;
        let from = from.get(line_end.checked_add(1)?..)?;
        match next_delimiter(from, delimiter) {
            Some((part, after)) => {
                rest = Some(after);
                Some(part)
            }
            // The end is missing: what there is, is the last part.
            None => {
                rest = None;
                Some(from)
            }
        }
    })
}

/// What stands before the first delimiter, without its line end, and what stands after it.
fn next_delimiter<'b>(text: &'b [u8], delimiter: &[u8]) -> Option<(&'b [u8], &'b [u8])> {
    memchr::memmem::find_iter(text, delimiter).find_map(|at| {
        let before = text.get(..at)?;
        let after = text.get(at.checked_add(delimiter.len())?..)?;
        let ends = matches!(
            after,
            [] | [b'\r' | b'\n' | b' ' | b'\t', ..] | [b'-', b'-', ..]
        );
        let before = match before {
            [] => Some(before),
            _ => before
                .strip_suffix(b"\r\n")
                .or_else(|| before.strip_suffix(b"\n")),
        };
        before.filter(|_| ends).map(|before| (before, after))
    })
}

/// The headers and the body of a part, or of a fragment.
pub(crate) fn split_head(part: &[u8]) -> (&[u8], &[u8]) {
    for empty in [&b"\r\n"[..], b"\n"] {
        if let Some(body) = part.strip_prefix(empty) {
            return (b"", body);
        }
    }
    let crlf = memchr::memmem::find(part, b"\r\n\r\n").map(|at| (at, 4));
    let lf = memchr::memmem::find(part, b"\n\n").map(|at| (at, 2));
    match crlf.into_iter().chain(lf).min() {
        Some((at, bytes)) => (
            part.get(..at).unwrap_or_default(),
            part.get(at.saturating_add(bytes)..).unwrap_or_default(),
        ),
        None => (part, b""),
    }
}

/// The lines of a head, folds undone.
pub(crate) fn unfolded_lines(head: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut rest = head;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = 0_usize;
        loop {
            let more = rest.get(end..).unwrap_or_default();
            let Some(feed) = more.iter().position(|b| *b == b'\n') else {
                end = rest.len();
                break;
            };
            end = end.saturating_add(feed).saturating_add(1);
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let line = rest.get(..end).unwrap_or_default();
        rest = rest.get(end..).unwrap_or_default();
        let mut flat = Vec::new();
        sip::message::unfold(line.trim_ascii_end(), &mut flat);
        Some(flat)
    })
}

/// `name: value`; `None` for a line that is no header.
pub(crate) fn name_and_value(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|b| *b == b':')?;
    let name = line.get(..colon)?.trim_ascii();
    let value = line.get(colon.checked_add(1)?..)?.trim_ascii();
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(b);
    (!name.is_empty() && name.iter().all(is_token)).then_some((name, value))
}
