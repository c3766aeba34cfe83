//! What is refused, where, and with which answer.

use expect_test::{Expect, expect};
use sip::Layout;

/// The five headers without which nothing can be answered.
const HEAD: &str = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n";

/// `@` stands for [`HEAD`].
fn check(text: &str, expected: Expect) {
    let bytes = text.replace('@', HEAD).into_bytes();
    let mut layout = Layout::new();
    let line = match sip::parse(&bytes, &mut layout) {
        Ok(message) => {
            let glitches: Vec<_> = message.glitches().iter().map(|g| g.name()).collect();
            format!("ok {:?} {}", glitches, message.body().escape_ascii())
        }
        Err(error) => {
            let answer = if layout.partial(&bytes).is_some() {
                "answerable"
            } else {
                "unanswerable"
            };
            format!("{error} | {:?} | {answer}", error.verdict())
        }
    };
    expected.assert_eq(&line);
}

#[test]
fn keep_alives() {
    check("", expect!["keep-alive | Silence | unanswerable"]);
    check("\r\n\r\n", expect!["keep-alive | Silence | unanswerable"]);
    check("\0\0\0\0", expect!["keep-alive | Silence | unanswerable"]);
    check("\r\n\0", expect!["keep-alive | Silence | unanswerable"]);
    check(
        "\0OPTIONS sip:a SIP/2.0\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 0 | Reply(400, "Bad Start Line") | unanswerable"#
        ]],
    );
}

#[test]
fn start_lines() {
    check("OPTIONS sip:a SIP/2.0\r\n@\r\n", expect!["ok [] "]);
    check(
        "\r\n\nOPTIONS sip:a SIP/2.0\r\n@\r\n",
        expect![[r#"ok ["leading_crlf"] "#]],
    );
    check(
        "OPTIONS sip:a sip/2.0\r\n@\r\n",
        expect![[r#"ok ["version_case"] "#]],
    );
    check(
        "OPTIONS sip:a SIP/7.0\r\n@\r\n",
        expect![[
            r#"SIP version at byte 14 is not 2.0 | Reply(505, "Version Not Supported") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.00\r\n@\r\n",
        expect![[
            r#"SIP version at byte 14 is not 2.0 | Reply(505, "Version Not Supported") | answerable"#
        ]],
    );
    check(
        "ACK sip:a SIP/7.0\r\n@\r\n",
        expect![[
            r#"SIP version at byte 10 is not 2.0 | Reply(505, "Version Not Supported") | unanswerable"#
        ]],
    );
    check(
        "OPTIONS sip:a HTTP/1.1\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 14 | Reply(400, "Bad Start Line") | unanswerable"#
        ]],
    );
    check(
        "OPTIONS  sip:a SIP/2.0\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 8 | Reply(400, "Bad Start Line") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a  SIP/2.0\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 14 | Reply(400, "Bad Start Line") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0 \r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 14 | Reply(400, "Bad Start Line") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a; lr SIP/2.0\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 15 | Reply(400, "Bad Start Line") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a\tSIP/2.0\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 13 | Reply(400, "Bad Start Line") | answerable"#
        ]],
    );
    check(
        "OPT=IONS sip:a SIP/2.0\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 3 | Reply(400, "Bad Start Line") | unanswerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n folded\r\n@\r\n",
        expect![[
            r#"header line is malformed at byte 23 | Reply(400, "Bad Header Line") | answerable"#
        ]],
    );
    check("SIP/2.0 200\r\n@\r\n", expect!["ok [] "]);
    check("SIP/2.0 200 \r\n@\r\n", expect!["ok [] "]);
    check(
        "SIP/2.0 099 x\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 8 | Reply(400, "Bad Start Line") | unanswerable"#
        ]],
    );
    check(
        "SIP/2.0 700 x\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 8 | Reply(400, "Bad Start Line") | unanswerable"#
        ]],
    );
    check(
        "SIP/2.0 4294967301 x\r\n@\r\n",
        expect![[
            r#"start line is malformed at byte 8 | Reply(400, "Bad Start Line") | unanswerable"#
        ]],
    );
    check(
        "SIP/3.0 200 OK\r\n@\r\n",
        expect![[
            r#"SIP version at byte 0 is not 2.0 | Reply(505, "Version Not Supported") | unanswerable"#
        ]],
    );
}

#[test]
fn header_lines() {
    // A response would copy this CR.
    check(
        "OPTIONS sip:a SIP/2.0\r\n@From: <sip:a>\rX: y;tag=1\r\n\r\n",
        expect![[r#"bare CR at byte 139 | Reply(400, "Bare CR in Header") | unanswerable"#]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@no colon\r\n\r\n",
        expect![[
            r#"header line is malformed at byte 126 | Reply(400, "Bad Header Line") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@: no name\r\n\r\n",
        expect![[
            r#"header line is malformed at byte 126 | Reply(400, "Bad Header Line") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@b\u{e9}: bad name\r\n\r\n",
        expect![[
            r#"header line is malformed at byte 126 | Reply(400, "Bad Header Line") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@a b: bad name\r\n\r\n",
        expect![[
            r#"header line is malformed at byte 126 | Reply(400, "Bad Header Line") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@X: a\rb\r\n\r\n",
        expect![[r#"bare CR at byte 130 | Reply(400, "Bare CR in Header") | answerable"#]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@X: a\r\r\n\r\n",
        expect![[r#"bare CR at byte 130 | Reply(400, "Bare CR in Header") | answerable"#]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\n@X: a\n\nbody",
        expect![[r#"ok ["bare_lf"] body"#]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@",
        expect![[
            r#"no end of headers before byte 126 | Reply(400, "Unfinished Headers") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@X: a",
        expect![[
            r#"no end of headers before byte 130 | Reply(400, "Unfinished Headers") | answerable"#
        ]],
    );
    check(
        &format!("OPTIONS sip:a SIP/2.0\r\n@{}\r\n", "X: a\r\n".repeat(251)),
        expect!["ok [] "],
    );
    check(
        &format!("OPTIONS sip:a SIP/2.0\r\n@{}\r\n", "X: a\r\n".repeat(252)),
        expect![[
            r#"too many header lines at byte 1632 | Reply(513, "Message Too Large") | answerable"#
        ]],
    );
}

#[test]
fn single_headers() {
    check(
        "OPTIONS sip:a SIP/2.0\r\n@i: x\r\n\r\n",
        expect![[r#"ok ["repeated_header"] "#]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@i: y\r\n\r\n",
        expect![[
            r#"second, different value of a single header at byte 126 | Reply(400, "Repeated Header") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@CSeq: 2 OPTIONS\r\n\r\n",
        expect![[
            r#"second, different value of a single header at byte 126 | Reply(400, "Repeated Header") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@f: <sip:b>\r\n\r\n",
        expect![[
            r#"second, different value of a single header at byte 126 | Reply(400, "Repeated Header") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@To: <sip:b>\r\n\r\n",
        expect![[
            r#"second, different value of a single header at byte 126 | Reply(400, "Repeated Header") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@Max-Forwards: 1\r\nMax-Forwards: 2\r\n\r\n",
        expect![[
            r#"second, different value of a single header at byte 143 | Reply(400, "Repeated Header") | answerable"#
        ]],
    );
}

#[test]
fn content_length() {
    check(
        "OPTIONS sip:a SIP/2.0\r\n@\r\nto the end",
        expect!["ok [] to the end"],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@l: 4\r\n\r\nbody",
        expect!["ok [] body"],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@l: 3\r\n\r\nbody",
        expect![[r#"ok ["trailing_bytes"] bod"#]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@l: 5\r\n\r\nbody",
        expect![[
            r#"body is cut off at byte 138 | Reply(400, "Body Shorter Than Content-Length") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@l: -1\r\n\r\nbody",
        expect![[
            r#"Content-Length at byte 129 is not a length | Reply(400, "Bad Content-Length") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@l:\r\n\r\nbody",
        expect![[
            r#"Content-Length at byte 128 is not a length | Reply(400, "Bad Content-Length") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@l: 18446744073709551620\r\n\r\nbody",
        expect![[
            r#"Content-Length at byte 129 is not a length | Reply(400, "Bad Content-Length") | answerable"#
        ]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@l: 4\r\nContent-Length: 04\r\n\r\nbody",
        expect![[r#"ok ["repeated_header"] body"#]],
    );
    check(
        "OPTIONS sip:a SIP/2.0\r\n@l: 4\r\nContent-Length: 3\r\n\r\nbody",
        expect![[
            r#"Content-Length at byte 148 is not a length | Reply(400, "Bad Content-Length") | answerable"#
        ]],
    );
}

#[test]
fn a_message_beyond_the_bound() {
    let bytes = vec![b'a'; sip::MESSAGE_BYTES_MAX + 1];
    let mut layout = Layout::new();
    assert_eq!(
        sip::parse(&bytes, &mut layout).unwrap_err(),
        sip::ParseError::TooLarge
    );
}
