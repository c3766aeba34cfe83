//! Random messages: odd but legal header lines, put together with care, then damaged.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// One header line, unfolded text pieces between which a fold may be put.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z0-9.!%*_+~-]{1,12}",
        1 => select(vec!["sip:alice@example.com", "sip:[2001:db8::1]:5060", "tel:+1-201", "(a, \\) (b), c)", "z9hG4bK-1"])
            .prop_map(str::to_owned),
        2 => "\"([a-z ,;<>]|\\\\[\"\\\\a])*\"",
        2 => "<sip:[a-z,?=&;\"]{1,8}@(example\\.com|\\[::1\\]:5070);lr>",
        2 => select(vec![",", ",,", " , ", ";", ";q=0.5", "=", " "]).prop_map(str::to_owned),
        1 => select(vec!["\"", "<", ">", "(", ")", "\\", "\u{e9}", "\u{0}"]).prop_map(str::to_owned),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => select(vec![
            "Via", "v", "Contact", "m", "Route", "Record-Route", "Supported", "k", "Subject", "s", "Path", "Allow",
            "User-Agent", "WWW-Authenticate", "Warning", "Event", "Expires", "P-Asserted-Identity",
        ]).prop_map(str::to_owned),
        1 => "X-[A-Za-z!%*_+`'~.-]{1,10}",
        1 => "[a-zA-Z]",
        1 => select(vec!["via", "cONTACT", "ROUTE", "record-route"]).prop_map(str::to_owned),
    ]
    .prop_filter("occurs once", |n| {
        // Headers that occur once are added with the right values; a random second one would always be refused.
        !["l", "f", "t", "i"].contains(&n.to_ascii_lowercase().as_str())
    })
}

fn blank() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(""), 2 => Just(" "), 1 => Just("\t "), 1 => Just("\r\n "), 1 => Just("\n\t")]
}

pub(crate) fn header() -> impl Strategy<Value = String> {
    let colon = select(vec![": ", ":", " : ", "\t:", ":\r\n ", ": \r\n\t\r\n "]);
    let end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n"), 1 => Just(" \r\n")];
    (name(), colon, vec((piece(), blank()), 0..8), end).prop_map(|(name, colon, pieces, end)| {
        let mut line = format!("{name}{colon}");
        for (piece, blank) in pieces {
            line.push_str(&piece);
            line.push_str(blank);
        }
        line.push_str(end);
        line
    })
}

fn start_line() -> impl Strategy<Value = String> {
    prop_oneof![
        "(INVITE|ACK|REGISTER|invite|X-![A-Z]{1,4}) (sip:[a-z]{1,5}@\\[::1\\]|tel:[0-9]{1,9}|[!-~]{1,10}) (SIP|sip|Sip)/2\\.0",
        "(SIP|sIp)/2\\.0 [1-6][0-9][0-9]( [ -~]{0,12})?",
    ]
}

/// A message that is well formed but for what its header values say.
pub(crate) fn message() -> impl Strategy<Value = Vec<u8>> {
    let single = select(vec![
        "From: \"A, B\" <sip:a@example.com>;tag=1\r\n",
        "f:sip:a@example.com\r\n",
        "To: <sip:b@example.com>\r\n",
        "t :\r\n <sip:b@[::1]>\r\n",
        "Call-ID: a@b\r\ni: a@b\r\n",
        "CSeq: 1\r\n\tINVITE\r\n",
        "Max-Forwards: 70\r\n",
    ]);
    let length = select(vec!["", "Content-Length: ", "l:", "content-length\t: 000"]);
    let body = vec(any::<u8>(), 0..60);
    (
        select(vec!["", "\r\n", "\r\n\r\n", "\n"]),
        start_line(),
        vec(
            prop_oneof![6 => header(), 1 => single.prop_map(str::to_owned)],
            0..14,
        ),
        length,
        body,
        vec(any::<u8>(), 0..4),
    )
        .prop_map(|(leading, start, headers, length, body, trailing)| {
            let mut out = format!("{leading}{start}\r\n{}", headers.concat()).into_bytes();
            if !length.is_empty() {
                out.extend(format!("{length}{}\r\n", body.len()).bytes());
            }
            out.extend(b"\r\n");
            out.extend(body);
            if !length.is_empty() {
                out.extend(trailing);
            }
            out
        })
}

/// A message with a few bytes changed, inserted or cut.
pub(crate) fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        select(b"\r\n\t :,;\"<>()\\\0SIP/2.0l".to_vec()),
        any::<u8>()
    ];
    (
        message(),
        vec((any::<prop::sample::Index>(), 0..3u8, byte), 1..4),
    )
        .prop_map(|(mut bytes, damages)| {
            for (at, kind, byte) in damages {
                let at = at.index(bytes.len().max(1));
                match kind {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 if at < bytes.len() => {
                        bytes.remove(at);
                    }
                    _ => bytes.insert(at.min(bytes.len()), byte),
                }
            }
            bytes
        })
}
