//! For tests: whether what one side gets has anything of the other side in it.
//!
//! A test gives each side unique host names, addresses, ports, Call-IDs and branches, the *marks*, and looks through every byte that goes to the other side. Marks
//! are looked for as they stand, without regard to case and folds, and under percent escapes, base64, quoted-printable, and several of these one in another.

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};
use memchr::memmem;

use crate::{body::unquoted, names::unescaped};

/// Wrappings within wrappings that are opened.
const DEPTH_MAX: usize = 3;
/// A run of base64 shorter than this holds no mark.
const RUN_BYTES_MIN: usize = 8;

/// A mark, and how it was wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    pub mark: String,
    pub wrapped: Vec<&'static str>,
}

/// Every mark that can be found in the message.
pub fn find(message: &[u8], marks: &[impl AsRef<str>]) -> Vec<Leak> {
    let mut found = Vec::new();
    let marks: Vec<(&str, String)> = marks
        .iter()
        .map(|mark| (mark.as_ref(), mark.as_ref().to_ascii_lowercase()))
        .collect();
    look(message, &marks, &mut Vec::new(), &mut found);
    found
}

fn look(
    text: &[u8],
    marks: &[(&str, String)],
    wrapped: &mut Vec<&'static str>,
    found: &mut Vec<Leak>,
) {
    let lower = text.to_ascii_lowercase();
    for (mark, mark_lower) in marks {
        let is_new = !found.iter().any(|leak| leak.mark == *mark);
        if is_new && stands_in(&lower, mark_lower) {
            found.push(Leak {
                mark: (*mark).to_owned(),
                wrapped: wrapped.clone(),
            });
        }
    }
    if wrapped.len() >= DEPTH_MAX {
        return;
    }
    let shortest = marks.iter().map(|(mark, _)| mark.len()).min();
    let mut deeper = |how: &'static str, inner: Vec<u8>| {
        // In less than that there is no mark.
        if inner.len() >= shortest.unwrap_or(usize::MAX) && inner != text {
            wrapped.push(how);
            look(&inner, marks, wrapped, found);
            wrapped.pop();
        }
    };
    deeper("folds", unfolded(text));
    deeper("escapes", unescaped(text));
    deeper("quoted-printable", unquoted(text));
    // Base64 over several lines is one text.
    let broken = text
        .split(|b| !is_base64(*b) && !matches!(b, b'\r' | b'\n'))
        .filter(|run| run.contains(&b'\n'));
    let plain = text.split(|b| !is_base64(*b));
    for run in broken.chain(plain) {
        let run: Vec<u8> = run.iter().copied().filter(|b| is_base64(*b)).collect();
        for from in 0..4.min(run.len()) {
            let Some(inner) = run.get(from..).and_then(decoded) else {
                continue;
            };
            deeper("base64", inner);
        }
    }
}

/// Whether a mark is in the text, and not only as a part of a longer number.
fn stands_in(text: &[u8], mark: &str) -> bool {
    let digit_first = mark.starts_with(|c: char| c.is_ascii_digit());
    let digit_last = mark.ends_with(|c: char| c.is_ascii_digit());
    memmem::find_iter(text, mark).any(|at| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        let after = text.get(at.saturating_add(mark.len()));
        let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        !(digit_first && is_digit(before) || digit_last && is_digit(after))
    })
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

fn decoded(run: &[u8]) -> Option<Vec<u8>> {
    let whole = run.len().saturating_sub(match run.len() % 4 {
        1 => 1,
        _ => 0,
    });
    let run = run.get(..whole).filter(|run| run.len() >= RUN_BYTES_MIN)?;
    // The last bits of a run that ends somewhere need not be zero.
    let whole = run.len().saturating_sub(run.len() % 4);
    let whole = run.get(..whole)?;
    BASE64_NOPAD
        .decode(whole)
        .or_else(|_| BASE64URL_NOPAD.decode(whole))
        .ok()
}

fn unfolded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, more)) = rest.split_first() {
        match rest {
            [b'\r', b'\n', b' ' | b'\t', after @ ..] | [b'\n', b' ' | b'\t', after @ ..] => {
                rest = after.trim_ascii_start();
            }
            _ => {
                out.push(first);
                rest = more;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, BASE64_MIME};

    use super::*;

    fn wrapped(text: &[u8]) -> Option<Vec<&'static str>> {
        find(text, &["pbx.inside.example"]).pop().map(|l| l.wrapped)
    }

    #[test]
    fn marks_are_found_in_every_wrapping() {
        let mark = b"x sip:a@PBX.inside.example;y";
        assert_eq!(wrapped(mark), Some(vec![]));
        assert_eq!(wrapped(b"pbx.\r\n inside.example"), Some(vec!["folds"]));
        assert_eq!(
            wrapped(b"sip:a%40pbx%2Einside.example"),
            Some(vec!["escapes"])
        );
        assert_eq!(
            wrapped(b"pbx=2Einside.exa=\r\nmple"),
            Some(vec!["quoted-printable"])
        );
        let coded = [b"token: ", BASE64.encode(mark).as_bytes(), b"; more"].concat();
        assert!(wrapped(&coded).is_some_and(|how| how.contains(&"base64")));
        let long = [&[b'z'; 100][..], mark].concat();
        let mime = BASE64_MIME.encode(&long);
        assert!(wrapped(mime.as_bytes()).is_some_and(|how| how.contains(&"base64")));
        // Behind text that happens to be base64 as well.
        for before in ["A", "AB", "ABC"] {
            let text = format!("{before}{}", BASE64URL_NOPAD.encode(mark));
            assert_eq!(wrapped(text.as_bytes()), Some(vec!["base64"]), "{before}");
        }
        let twice = BASE64.encode(&coded);
        assert!(wrapped(twice.as_bytes()).is_some());
        assert_eq!(wrapped(b"pbx.outside.example"), None);
    }

    #[test]
    fn numbers_are_found_whole() {
        assert!(find(b"10.1.2.34:50601", &["10.1.2.3", "5060"]).is_empty());
        assert_eq!(find(b"at 10.1.2.3:5060", &["10.1.2.3", "5060"]).len(), 2);
    }
}
