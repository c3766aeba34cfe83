//! Patches against a model that edits a list of lines: patch, write and parse give what the model says, and the
//! patch's own readers say so at once.

use expect_test::expect;
use proptest::prelude::*;
use proptest::sample::select;
use sip::{HeaderName, Layout, Patch, PatchError, Span};

use crate::{generate, naive};

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Clone, Debug)]
enum Op {
    PushTop(&'static str, String),
    Append(&'static str, String),
    Set(&'static str, String),
    RemoveFirstValue(&'static str),
    RemoveAll(&'static str),
    /// Replaces the whole value of the line with this number.
    ReplaceLine(usize, String),
    Body(String),
}

fn op() -> impl Strategy<Value = Op> {
    let name = || {
        select(vec![
            "Via",
            "v",
            "Route",
            "Contact",
            "Supported",
            "Subject",
            "X-New",
            "x-NEW",
            "Max-Forwards",
        ])
    };
    let value = || "[a-z]{1,4}(, <sip:[a-z,]{1,3}>|,\"x,\"){0,2}";
    prop_oneof![
        3 => (name(), value()).prop_map(|(n, v)| Op::PushTop(n, v)),
        2 => (name(), value()).prop_map(|(n, v)| Op::Append(n, v)),
        2 => (name(), value()).prop_map(|(n, v)| Op::Set(n, v)),
        4 => name().prop_map(Op::RemoveFirstValue),
        1 => name().prop_map(Op::RemoveAll),
        1 => (0..20usize, value()).prop_map(|(n, v)| Op::ReplaceLine(n, v)),
        1 => "[a-z\r\n]{0,5}".prop_map(Op::Body),
    ]
}

fn same_name(a: &[u8], b: &[u8]) -> bool {
    let known = naive::known(a);
    known == naive::known(b) && (known != HeaderName::Other || a.eq_ignore_ascii_case(b))
}

fn model_set(lines: &mut Lines, name: &str, value: &[u8]) {
    match lines
        .iter()
        .position(|(n, _)| same_name(n, name.as_bytes()))
    {
        Some(first) => {
            lines[first].1 = value.to_vec();
            let mut at = 0;
            lines.retain(|(n, _)| {
                at += 1;
                at - 1 <= first || !same_name(n, name.as_bytes())
            });
        }
        None => lines.push((name.into(), value.to_vec())),
    }
}

fn model_apply(lines: &mut Lines, body: &mut Vec<u8>, op: &Op) {
    match op {
        Op::PushTop(name, value) => {
            let at = lines
                .iter()
                .position(|(n, _)| same_name(n, name.as_bytes()))
                .unwrap_or(0);
            lines.insert(at, (name.as_bytes().to_vec(), value.clone().into_bytes()));
        }
        Op::Append(name, value) => {
            let at = lines
                .iter()
                .rposition(|(n, _)| same_name(n, name.as_bytes()))
                .map_or(lines.len(), |at| at + 1);
            lines.insert(at, (name.as_bytes().to_vec(), value.clone().into_bytes()));
        }
        Op::Set(name, value) => model_set(lines, name, value.as_bytes()),
        Op::RemoveFirstValue(name) => {
            let known = naive::known(name.as_bytes());
            let has_value = |(n, v): &(Vec<u8>, Vec<u8>)| {
                same_name(n, name.as_bytes()) && !naive::split(known, v).is_empty()
            };
            if let Some(at) = lines.iter().position(has_value) {
                match naive::split(known, &lines[at].1).get(1) {
                    Some((_, rest)) => lines[at].1 = rest.clone(),
                    None => drop(lines.remove(at)),
                }
            }
        }
        Op::RemoveAll(name) => lines.retain(|(n, _)| !same_name(n, name.as_bytes())),
        Op::ReplaceLine(..) => {}
        Op::Body(text) => {
            lines.retain(|(n, _)| naive::known(n) != HeaderName::ContentType);
            model_set(lines, "Content-Length", text.len().to_string().as_bytes());
            *body = text.clone().into_bytes();
        }
    }
}

fn patch_apply(patch: &mut Patch<'_>, op: &Op) -> Result<(), PatchError> {
    match op {
        Op::PushTop(name, value) => patch.push_top(*name, value.as_bytes()),
        Op::Append(name, value) => patch.append(*name, value.as_bytes()),
        Op::Set(name, value) => patch.set(*name, value.as_bytes()),
        Op::RemoveFirstValue(name) => patch.remove_first_value(*name).map(drop),
        Op::RemoveAll(name) => patch.remove_all(*name).map(drop),
        Op::ReplaceLine(..) => Ok(()),
        Op::Body(text) => patch.set_body(None, text.as_bytes()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn patch_then_parse_is_edit_then_parse(bytes in generate::message(), ops in prop::collection::vec(op(), 0..16)) {
        let (mut before, mut after) = (Layout::new(), Layout::new());
        let Ok(message) = sip::parse(&bytes, &mut before) else { return Ok(()) };
        let mut lines: Lines = message.headers().map(|h| (h.name_text.to_vec(), h.value.to_vec())).collect();
        let mut body = message.body().to_vec();
        let mut patch = Patch::new(message);
        // Replacements name places in the original, so they come first.
        for op in &ops {
            let Op::ReplaceLine(number, value) = op else { continue };
            let Some(header) = message.headers().nth(*number) else { continue };
            if header.name == HeaderName::ContentLength || matches!(header.name, HeaderName::CallId) {
                continue;
            }
            patch.replace_value(header.value_span, value.as_bytes()).unwrap();
            lines[*number].1 = value.clone().into_bytes();
        }
        for op in &ops {
            model_apply(&mut lines, &mut body, op);
            patch_apply(&mut patch, op).unwrap();
            for (name, _) in &lines {
                let expected: Vec<&[u8]> =
                    lines.iter().filter(|(n, _)| same_name(n, name)).map(|(_, v)| &v[..]).collect();
                let actual: Vec<_> = patch.all(&name[..]).collect();
                prop_assert_eq!(&actual, &expected, "{} after {:?}", name.escape_ascii(), op);
                let actual = patch.first(&name[..]);
                prop_assert_eq!(actual.as_deref(), expected.first().copied());
                let first = expected.iter().find_map(|v| naive::split(naive::known(name), v).into_iter().next());
                let actual = patch.first_value(&name[..]);
                prop_assert_eq!(actual.as_deref(), first.as_ref().map(|(v, _)| &v[..]));
            }
            prop_assert_eq!(patch.body(), &body[..]);
        }
        let mut out = Vec::new();
        patch.write(&mut out);
        prop_assert_eq!(patch.len(), out.len());
        prop_assert_eq!(patch.segments().collect::<Vec<_>>().concat(), out.clone());
        // Two values of a header that occurs once are the caller's doing.
        let Ok(written) = sip::parse(&out, &mut after) else {
            prop_assert!(naive::parse(&out).is_err());
            return Ok(());
        };
        let mended = crate::properties::mended;
        let actual: Lines = written.headers().map(|h| (h.name_text.to_ascii_lowercase(), mended(h.value))).collect();
        let canonical = |(name, value): &(Vec<u8>, Vec<u8>)| (name.to_ascii_lowercase(), mended(value));
        let same = actual.len() == lines.len() && actual.iter().zip(lines.iter().map(canonical)).all(|(a, b)| {
            same_name(&a.0, &b.0) && a.1 == b.1
        });
        prop_assert!(same, "{:?}\n{:?}", actual, lines);
        prop_assert_eq!(written.body(), &body[..]);
    }
}

const REQUEST: &[u8] = b"INVITE sip:b@example.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP a;branch=z9hG4bK1, SIP/2.0/UDP b;branch=z9hG4bK2\r\n\
    Route: <sip:p1;lr>,\r\n <sip:p2;lr>\r\nRoute: <sip:p3;lr>\r\n\
    Max-Forwards: 70\r\nX-Unknown:  kept \r\n  as is\r\nContent-Type: text/plain\r\nl: 4\r\n\r\nbody";

#[test]
fn a_request_is_forwarded() {
    let mut layout = Layout::new();
    let mut patch = Patch::new(sip::parse(REQUEST, &mut layout).unwrap());
    patch.set_request_uri(b"sip:b@192.0.2.4").unwrap();
    patch.set(HeaderName::MaxForwards, b"69").unwrap();
    assert!(patch.remove_first_value(HeaderName::Route).unwrap());
    patch
        .push_top(HeaderName::RecordRoute, b"<sip:us;lr>")
        .unwrap();
    patch
        .push_top(HeaderName::Via, b"SIP/2.0/UDP us;branch=z9hG4bK0")
        .unwrap();
    patch.append("P-Charge", b"1").unwrap();
    assert_eq!(patch.request_uri(), Some(&b"sip:b@192.0.2.4"[..]));
    assert_eq!(
        patch.first_value(HeaderName::Route).as_deref(),
        Some(&b"<sip:p2;lr>"[..])
    );
    let mut out = Vec::new();
    patch.write(&mut out);
    expect![[r#"
        INVITE sip:b@192.0.2.4 SIP/2.0
        Record-Route: <sip:us;lr>
        Via: SIP/2.0/UDP us;branch=z9hG4bK0
        Via: SIP/2.0/UDP a;branch=z9hG4bK1, SIP/2.0/UDP b;branch=z9hG4bK2
        Route: <sip:p2;lr>
        Route: <sip:p3;lr>
        Max-Forwards: 69
        X-Unknown:  kept 
          as is
        Content-Type: text/plain
        l: 4
        P-Charge: 1

        body"#]]
    .assert_eq(&String::from_utf8(out).unwrap().replace("\r\n", "\n"));

    // Of the list nothing is left after two more, then of the header.
    assert!(patch.remove_first_value(HeaderName::Route).unwrap());
    assert!(patch.remove_first_value(HeaderName::Route).unwrap());
    assert!(!patch.remove_first_value(HeaderName::Route).unwrap());
    assert_eq!(patch.first(HeaderName::Route), None);
}

#[test]
fn nothing_can_be_smuggled_in() {
    let mut layout = Layout::new();
    let mut patch = Patch::new(sip::parse(REQUEST, &mut layout).unwrap());
    let break_at = |at| Err(PatchError::LineBreak(sip::ByteAt(at)));
    assert_eq!(
        patch.push_top(HeaderName::Via, b"a\r\nRoute: b"),
        break_at(1)
    );
    assert_eq!(patch.append("X", b"a\nb"), break_at(1));
    assert_eq!(patch.set(HeaderName::MaxForwards, b"\0"), break_at(0));
    assert_eq!(patch.append("X: y\r\nZ", b"a"), Err(PatchError::Name));
    assert_eq!(patch.append(HeaderName::Other, b"a"), Err(PatchError::Name));
    assert_eq!(
        patch.set_request_uri(b"sip:a SIP/2.0"),
        Err(PatchError::Uri)
    );
    assert_eq!(patch.set_request_uri(b""), Err(PatchError::Uri));
    assert_eq!(patch.set_body(Some(b"a\rb"), b""), break_at(1));
    let mut out = Vec::new();
    patch.write(&mut out);
    assert_eq!(out, REQUEST);
}

#[test]
fn edits_do_not_overlap() {
    let mut layout = Layout::new();
    let message = sip::parse(REQUEST, &mut layout).unwrap();
    let mut patch = Patch::new(message);
    let vias: Vec<_> = message.values(HeaderName::Via).map(|v| v.span).collect();
    patch.replace_value(vias[1], b"second").unwrap();
    patch.replace_value(vias[0], b"first").unwrap();
    patch.replace_value(vias[0], b"again").unwrap();
    assert_eq!(
        patch.first(HeaderName::Via).as_deref(),
        Some(&b"again, second"[..])
    );
    assert!(patch.remove_first_value(HeaderName::Via).unwrap());
    assert_eq!(
        patch.first(HeaderName::Via).as_deref(),
        Some(&b"second"[..])
    );
    let inside = Span::new(vias[0].start + 1, vias[0].end);
    assert_eq!(patch.replace_value(inside, b"x"), Err(PatchError::Overlap));
    let across = Span::new(vias[0].start, vias[1].end + 20);
    assert_eq!(patch.replace_value(across, b"x"), Err(PatchError::Outside));
    patch.remove_all(HeaderName::Via).unwrap();
    assert_eq!(patch.replace_value(vias[0], b"x"), Err(PatchError::Overlap));
}

#[test]
fn edits_are_bounded() {
    let mut layout = Layout::new();
    let mut patch = Patch::new(sip::parse(REQUEST, &mut layout).unwrap());
    for _ in 0..sip::patch::PATCHES_MAX {
        patch.append("X", b"a").unwrap();
    }
    assert_eq!(patch.append("X", b"a"), Err(PatchError::TooMany));
}

#[test]
fn a_lone_line_feed_cannot_hide_a_header_from_us() {
    // An element that knows CRLF only would take everything up to `body` for the value of X, and what follows for a
    // header.
    let bytes =
        b"INVITE sip:b@example.com SIP/2.0\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nX: a\n\nbody\r\n\
        P-Asserted-Identity: <sip:boss@example.com>\r\n\r\n";
    let mut layout = Layout::new();
    let mut patch = Patch::new(sip::parse(bytes, &mut layout).unwrap());
    patch.append("New", b"b").unwrap();
    let mut out = Vec::new();
    patch.write(&mut out);
    let expected = b"INVITE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nX: a\r\nNew: b\r\n\r\nbody\r\n\
        P-Asserted-Identity: <sip:boss@example.com>\r\n\r\n";
    assert_eq!(
        String::from_utf8_lossy(&out),
        String::from_utf8_lossy(expected)
    );
    assert_eq!(patch.len(), out.len());
}

#[test]
fn text_may_be_added_before_a_part_that_changes() {
    let mut layout = Layout::new();
    let message = sip::parse(REQUEST, &mut layout).unwrap();
    let span = message.first_value(HeaderName::Via).unwrap().span;
    for order in [[0, 1], [1, 0]] {
        let mut patch = Patch::new(message);
        for which in order {
            match which {
                0 => patch
                    .replace_value(sip::Span::new(span.start, span.start), b"SIP/2.0/UDP c, ")
                    .unwrap(),
                _ => patch.replace_value(span, b"SIP/2.0/TCP d").unwrap(),
            }
        }
        assert_eq!(
            patch.first(HeaderName::Via).as_deref(),
            Some(&b"SIP/2.0/UDP c, SIP/2.0/TCP d, SIP/2.0/UDP b;branch=z9hG4bK2"[..])
        );
        let backwards = sip::Span::new(span.end, span.start);
        assert_eq!(
            patch.replace_value(backwards, b"x"),
            Err(PatchError::Outside)
        );
    }
}
