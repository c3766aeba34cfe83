//! Elements that disagree about what ends a line must see the same headers in everything that we send.

#[derive(Clone, Copy, PartialEq)]
enum LineEnds {
    Crlf,
    Lf,
    Any,
}

/// Names of the headers, continuation lines left out, and where the head ends, by one idea of a line's end.
fn names(bytes: &[u8], ends: LineEnds) -> (Vec<&[u8]>, usize) {
    let (mut names, mut start, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let two = bytes[at..].starts_with(b"\r\n");
        let ends_here = two
            || (ends != LineEnds::Crlf && bytes[at] == b'\n')
            || (ends == LineEnds::Any && bytes[at] == b'\r');
        if !ends_here {
            at += 1;
            continue;
        }
        let line = &bytes[start..at];
        at += if two { 2 } else { 1 };
        start = at;
        match line.first() {
            None => break,
            Some(b' ' | b'\t') => {}
            Some(_) => names.push(line.split(|b| *b == b':').next().unwrap_or_default()),
        }
    }
    (names, at)
}

/// Panics unless everybody sees the same.
pub(crate) fn check(bytes: &[u8]) {
    let seen = names(bytes, LineEnds::Crlf);
    for ends in [LineEnds::Lf, LineEnds::Any] {
        assert!(
            names(bytes, ends) == seen,
            "readers disagree about {}",
            bytes.escape_ascii()
        );
    }
}
