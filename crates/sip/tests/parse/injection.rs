//! No value can bring a header of its own into a message of ours: hostile texts in every argument of every builder and
//! patch, and in every header that they copy, read back by elements that disagree about what ends a line.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sip::build::{ack_for, cancel_for, response, response_via};
use sip::{HeaderName, Layout, Message, Patch, Span};

/// Text that means to end a line. `NAME` stands for the header that it would bring in.
fn hostile(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let piece = select(vec![
        "\r\nNAME: 1",
        "\nNAME: 1",
        "\rNAME: 1",
        "\r\n NAME: 1",
        "\r\n\r\nNAME: 1",
        "\r\n",
        "\n",
        "\r",
        "\0",
        "%0d%0aNAME: 1",
        "\u{85}NAME: 1",
        "\u{2028}",
        "\"",
        "\\\"",
        "\\",
        "<",
        ">",
        ",",
        ";",
        "=",
        ":",
        "?",
        " ",
        "\t",
        "a",
        "sip:a@b",
        ";tag=1",
    ]);
    vec(piece, 0..6).prop_map(move |pieces| pieces.concat().replace("NAME", name).into_bytes())
}

/// A request, or its answer, with hostile text in every header that somebody copies.
fn original() -> impl Strategy<Value = Vec<u8>> {
    let text = || prop_oneof![2 => Just(Vec::new()), 1 => hostile("Evil")];
    (any::<bool>(), vec(text(), 10)).prop_map(|(request, texts)| {
        let mut out = Vec::new();
        let mut add = |pieces: &[&[u8]]| out.extend_from_slice(&pieces.concat());
        match request {
            true => add(&[b"INVITE sip:b", &texts[0], b"@example.com SIP/2.0\r\n"]),
            false => add(&[b"SIP/2.0 200 OK", &texts[0], b"\r\n"]),
        }
        add(&[
            b"Via: SIP/2.0/UDP h;branch=z9hG4bK1",
            &texts[1],
            b",\r\n SIP/2.0/UDP i\r\n",
        ]);
        add(&[
            b"From: \"A",
            &texts[2],
            b"\" <sip:a",
            &texts[3],
            b"@b>;tag=1\r\n",
        ]);
        add(&[b"To: <sip:c@d", &texts[4], b">\r\n"]);
        add(&[
            b"Call-ID: x",
            &texts[5],
            b"\r\nCSeq: 1 INVITE",
            &texts[6],
            b"\r\n",
        ]);
        add(&[
            b"Timestamp: 1",
            &texts[7],
            b"\r\nRoute: <sip:r;lr>",
            &texts[8],
            b"\r\n",
        ]);
        add(&[b"Subject: s", &texts[9], b"\r\nl: 4\r\n\r\nbody"]);
        out
    })
}

#[derive(Clone, Copy, PartialEq)]
enum LineEnds {
    Crlf,
    Lf,
    Any,
}

/// Names of the headers, continuation lines left out, and the body, as an element sees them that has its own idea of a
/// line's end.
fn names(bytes: &[u8], ends: LineEnds) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (mut lines, mut line, mut at) = (Vec::new(), Vec::new(), 0);
    while at < bytes.len() {
        let two = bytes[at..].starts_with(b"\r\n");
        let is_end = two
            || (ends != LineEnds::Crlf && bytes[at] == b'\n')
            || (ends == LineEnds::Any && bytes[at] == b'\r');
        if !is_end {
            line.push(bytes[at]);
            at += 1;
            continue;
        }
        at += if two { 2 } else { 1 };
        if line.is_empty() {
            break;
        }
        lines.push(std::mem::take(&mut line));
    }
    let names = lines
        .iter()
        .skip(1)
        .filter(|line| !matches!(line[0], b' ' | b'\t'))
        .map(|line| {
            line.split(|b| *b == b':')
                .next()
                .unwrap_or_default()
                .trim_ascii()
                .to_ascii_lowercase()
        })
        .collect();
    (names, bytes[at..].to_vec())
}

/// What everybody sees in a message of ours.
fn seen(out: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let seen = names(out, LineEnds::Crlf);
    assert_eq!(names(out, LineEnds::Lf), seen, "{}", out.escape_ascii());
    assert_eq!(names(out, LineEnds::Any), seen, "{}", out.escape_ascii());
    seen
}

/// Checks a message that we made from scratch: not even a continuation line.
fn check_built(out: &[u8], body: &[u8]) {
    let (names, rest) = seen(out);
    for name in &names {
        let known = [
            "via",
            "from",
            "to",
            "call-id",
            "cseq",
            "timestamp",
            "content-length",
            "content-type",
            "x-ours",
            "subject",
            "max-forwards",
            "route",
        ];
        assert!(
            known.iter().any(|k| k.as_bytes() == name),
            "{} in {}",
            name.escape_ascii(),
            out.escape_ascii()
        );
    }
    assert_eq!(rest, body);
    assert!(
        !out.windows(3).any(|w| matches!(w, b"\r\n " | b"\r\n\t")),
        "{}",
        out.escape_ascii()
    );
}

fn build_everything(message: Message<'_>, texts: &[Vec<u8>]) {
    let mut out = Vec::new();
    let mut finished = |build: &mut dyn FnMut(&mut Vec<u8>) -> bool, body: &[u8]| {
        out.clear();
        out.extend_from_slice(b"before");
        if build(&mut out) {
            check_built(&out[6..], body);
        } else {
            assert_eq!(out, b"before", "what cannot be made leaves nothing");
        }
    };
    let reason = String::from_utf8_lossy(&texts[0]).into_owned();
    for code in [100, 200] {
        finished(
            &mut |out| {
                response(message, code, "", Some(b"t"), out)
                    .finish()
                    .is_ok()
            },
            b"",
        );
    }
    finished(
        &mut |out| response(message, 200, &reason, None, out).finish().is_ok(),
        b"",
    );
    finished(
        &mut |out| {
            response(message, 200, "", Some(&texts[1]), out)
                .finish()
                .is_ok()
        },
        b"",
    );
    finished(
        &mut |out| {
            response_via(message, Some(&texts[2]), 200, "", None, out)
                .finish()
                .is_ok()
        },
        b"",
    );
    finished(
        &mut |out| {
            response(message, 200, "", None, out)
                .header("X-Ours", &texts[3])
                .finish()
                .is_ok()
        },
        b"",
    );
    // A name that is a token is a name (§25.1), and makes the response; any other makes nothing.
    let name = &texts[3][..];
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(byte);
    let named = |out: &mut Vec<u8>| {
        let made = response(message, 200, "", None, out).header(name, b"v");
        made.finish().is_ok()
    };
    if !name.is_empty() && name.iter().all(token) {
        let plain = response(message, 200, "", None, &mut Vec::new()).finish();
        assert_eq!(named(&mut Vec::new()), plain.is_ok());
    } else {
        finished(&mut |out| named(out), b"");
    }
    finished(
        &mut |out| {
            response(message, 200, "", None, out)
                .copy(HeaderName::Subject)
                .finish()
                .is_ok()
        },
        b"",
    );
    finished(
        &mut |out| {
            response(message, 200, "", None, out)
                .body(&texts[4], b"\r\nBody: 1")
                .is_ok()
        },
        b"\r\nBody: 1",
    );
    finished(&mut |out| cancel_for(message, out).is_ok(), b"");
    let mut layout = Layout::new();
    let answer = b"SIP/2.0 486 No\r\nTo: x\r\n\r\n";
    let answer = sip::parse(answer, &mut layout).unwrap();
    finished(&mut |out| ack_for(message, answer, out).is_ok(), b"");
    finished(&mut |out| ack_for(answer, message, out).is_ok(), b"");
}

/// What the views of a message write, hostile parts put in.
fn written_values(message: Message<'_>, text: &[u8]) -> Vec<Vec<u8>> {
    let mut values = vec![text.to_vec()];
    let mut write = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        values.push(out);
    };
    if let Ok(mut from) = message.from() {
        write(&|out| from.write(out));
        write(&|out| from.write_display(out));
        from.display = Some(text);
        write(&|out| from.write(out));
        from.uri.user = Some(text);
        write(&|out| from.write(out));
    }
    if let Ok(mut via) = message.top_via() {
        write(&|out| via.write(out));
        via.transport = text;
        write(&|out| via.write(out));
    }
    if let Ok(cseq) = message.cseq() {
        write(&|out| {
            sip::CSeq {
                method_text: text,
                ..cseq
            }
            .write(out)
        });
    }
    values
}

type Edit<'e> = Box<dyn Fn(&mut Patch<'_>) -> Result<(), sip::PatchError> + 'e>;

fn patch_everything(message: Message<'_>, texts: &[Vec<u8>], places: &[(Index, Index)]) {
    let mut before = Vec::new();
    Patch::new(message).write(&mut before);
    let was_there: Vec<Vec<u8>> = seen(&before).0;
    let values: Vec<Vec<u8>> = texts
        .iter()
        .flat_map(|text| written_values(message, text))
        .collect();
    let spans: Vec<Span> = message
        .headers()
        .map(|h| h.value_span)
        .filter(|s| !s.is_empty())
        .collect();
    let lengthless = |header: &Vec<u8>| {
        header != b"content-length" && header != b"l" && header != b"content-type"
    };
    let edits: Vec<Edit<'_>> = values
        .iter()
        .flat_map(|value| {
            let mut edits: Vec<Edit<'_>> = vec![
                Box::new(|p| p.set_request_uri(value)),
                Box::new(|p| p.push_top(HeaderName::Route, value)),
                Box::new(|p| p.append(HeaderName::Route, value)),
                Box::new(|p| p.set(HeaderName::Subject, value)),
                Box::new(|p| p.set(HeaderName::Route, value)),
                Box::new(|p| p.append(&value[..], b"v")),
                Box::new(|p| p.set(&value[..], b"v")),
                Box::new(|p| p.set_body(Some(value), value)),
                Box::new(|p| {
                    p.push_top(HeaderName::Via, value)?;
                    p.remove_first_value(HeaderName::Via).map(drop)
                }),
            ];
            if let Some(uri) = message.request_uri_span() {
                edits.push(Box::new(move |p| p.replace_value(uri, value)));
            }
            for (line, (from, to)) in spans.iter().zip(places.iter().cycle()) {
                let len = line.len() as usize + 1;
                let (a, b) = (from.index(len) as u32, to.index(len) as u32);
                let span = Span::new(line.start + a.min(b), line.start + a.max(b));
                edits.push(Box::new(move |p| p.replace_value(span, value)));
            }
            edits
        })
        .collect();
    for edit in &edits {
        let mut patch = Patch::new(message);
        if edit(&mut patch).is_err() {
            continue;
        }
        let mut out = Vec::new();
        patch.write(&mut out);
        let (names, _) = seen(&out);
        assert!(
            !names.iter().any(|name| name.starts_with(b"malice")),
            "{}",
            out.escape_ascii()
        );
        // What was there stays, in order, but for the few lines that an edit is about.
        let kept = |names: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let edited = |n: &Vec<u8>| {
                lengthless(n)
                    && ![&b"route"[..], b"via", b"v", b"subject", b"s"].contains(&&n[..])
                    && was_there.contains(n)
            };
            names.iter().filter(|n| edited(n)).cloned().collect()
        };
        let named = |name: &[u8]| values.iter().any(|v| v.eq_ignore_ascii_case(name));
        if !names.iter().any(|n| named(n)) {
            assert_eq!(kept(&names), kept(&was_there), "{}", out.escape_ascii());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nothing_copied_or_handed_in_becomes_a_header(
        original in original(),
        texts in vec(hostile("Malice"), 5),
        places in vec(any::<(Index, Index)>(), 10),
    ) {
        let mut layout = Layout::new();
        match sip::parse(&original, &mut layout) {
            Ok(message) => {
                build_everything(message, &texts);
                patch_everything(message, &texts, &places);
            }
            // What is answered with a 400 is made of the same.
            Err(_) => if let Some(message) = layout.partial(&original) {
                build_everything(message, &texts);
            },
        }
    }
}

#[test]
fn a_part_of_a_fold_cannot_be_replaced() {
    let bytes = b"OPTIONS sip:a SIP/2.0\r\nSubject: a\r\n b\r\n\tc\r\n\r\n";
    let mut layout = Layout::new();
    let message = sip::parse(bytes, &mut layout).unwrap();
    let value = message.first(HeaderName::Subject).unwrap().value_span;
    assert_eq!(value.slice(bytes), b"a\r\n b\r\n\tc");
    let replace = |from: u32, to: u32| {
        let mut patch = Patch::new(message);
        let span = Span::new(value.start + from, value.start + to);
        patch.replace_value(span, b"X: y").map(|()| {
            let mut out = Vec::new();
            patch.write(&mut out);
            seen(&out).0.len()
        })
    };
    let outside = Err(sip::PatchError::Outside);
    // The blank behind a line end, and the line end's halves.
    assert_eq!([replace(3, 4), replace(7, 8), replace(3, 3)], [outside; 3]);
    assert_eq!([replace(2, 3), replace(1, 2), replace(2, 2)], [outside; 3]);
    // A fold as a whole, the text between, and text before a fold.
    assert_eq!(
        [replace(1, 4), replace(4, 5), replace(0, 1), replace(1, 3)],
        [Ok(1); 4]
    );
}
