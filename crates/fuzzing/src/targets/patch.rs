//! A message, a list of edits, and the message read again. The edits stand behind the message, the last byte counts them,
//! so that a message as it is goes through without any.

use sip::{HeaderName, Layout, Message, Patch, PatchError, Span};

use crate::{Source, agree};

const NAMES: [HeaderName; 8] = [
    HeaderName::Via,
    HeaderName::Route,
    HeaderName::RecordRoute,
    HeaderName::Contact,
    HeaderName::MaxForwards,
    HeaderName::Subject,
    HeaderName::ContentType,
    HeaderName::ContentLength,
];

pub(crate) fn run(bytes: &[u8]) {
    let mut layout = Layout::new();
    let Ok(message) = sip::parse(bytes, &mut layout) else {
        return;
    };
    // Behind the message stands what UDP ignores.
    let mut source = Source::new(&bytes[message.whole().end as usize..]);
    let mut patch = Patch::new(message);
    for _ in 0..80 {
        if source.is_empty() {
            break;
        }
        // After a refusal a patch is thrown away.
        if edit(&mut patch, message, &mut source).is_err() {
            return;
        }
        read(&patch);
    }
    let mut out = Vec::new();
    patch.write(&mut out);
    assert_eq!(patch.len(), out.len());
    agree::check(&out);
    let mut after = Layout::new();
    // Two values of a header that occurs once, or another length, are the caller's doing.
    let Ok(again) = sip::parse(&out, &mut after) else {
        return;
    };
    for name in NAMES {
        let written = again.all(name).map(|h| h.value.to_vec());
        let expected: Vec<Vec<u8>> = patch.all(name).map(|v| mended(&v)).collect();
        assert_eq!(
            written.map(|v| mended(&v)).collect::<Vec<_>>(),
            expected,
            "{}",
            name.as_str()
        );
    }
    assert_eq!(patch.request_uri(), again.request().map(|line| line.uri));
}

/// Line ends of a fold as they leave.
fn mended(value: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = value
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .collect();
    sip::header::trim(&lines.join(&b"\r\n"[..])).to_vec()
}

fn read(patch: &Patch<'_>) {
    for name in NAMES {
        let first = patch.first(name);
        assert_eq!(first, patch.all(name).next());
        let _ = patch.first_value(name);
    }
    let _ = (patch.body(), patch.request_uri(), patch.is_empty());
}

fn edit(
    patch: &mut Patch<'_>,
    message: Message<'_>,
    source: &mut Source<'_>,
) -> Result<(), PatchError> {
    let which = source.byte();
    let name = source.of(&NAMES);
    match which % 10 {
        0 => patch.push_top(name, source.text()),
        1 => patch.append(name, source.text()),
        2 => patch.set(name, source.text()),
        3 => patch.remove_first_value(name).map(drop),
        4 => patch.remove_all(name).map(drop),
        5 => patch
            .set_request_uri(source.text())
            .or_else(|error| match error {
                PatchError::NoRequestUri => Ok(()),
                error => Err(error),
            }),
        6 => {
            let whole = message.whole();
            let len = whole.len() as usize + 1;
            let (from, to) = (source.below(len) as u32, source.below(len) as u32);
            let span = Span::new(whole.start + from.min(to), whole.start + from.max(to));
            patch.replace_value(span, source.text())
        }
        7 => {
            let spans: Vec<Span> = message.values(name).map(|v| v.span).collect();
            if spans.is_empty() {
                return Ok(());
            }
            patch.replace_value(source.of(&spans), source.text())
        }
        8 => patch.append(source.text(), source.text()),
        _ => {
            let content_type = source.text();
            patch.set_body(
                (!content_type.is_empty()).then_some(content_type),
                source.text(),
            )
        }
    }
}
