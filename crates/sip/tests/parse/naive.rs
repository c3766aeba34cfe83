//! A slow, simple parser written from the rules alone: split into lines, join what is folded, split at colons.
//! The fast parser must agree with it on every input.

use sip::HeaderName;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NaiveMessage {
    pub start: Vec<Vec<u8>>,
    /// Names as written, values trimmed, folds inside.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
}

pub(crate) fn parse(bytes: &[u8]) -> Result<NaiveMessage, String> {
    let mut rest = bytes.to_vec();
    while rest.first() == Some(&b'\r') || rest.first() == Some(&b'\n') {
        rest.remove(0);
    }
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let body = loop {
        let end = rest.iter().position(|b| *b == b'\n').ok_or("no line end")?;
        let tail = rest.split_off(end + 1);
        let raw = std::mem::replace(&mut rest, tail);
        let line = without_end(&raw);
        if line.contains(&b'\r') {
            return Err("bare CR".into());
        }
        if line.is_empty() {
            break rest;
        }
        match line[0] {
            b' ' | b'\t' if lines.len() > 1 => lines.last_mut().unwrap().extend(raw),
            _ => lines.push(raw),
        }
    };
    if lines.is_empty() {
        return Err("no start line".into());
    }
    let start = start_line(without_end(&lines.remove(0)))?;
    if lines.len() > sip::HEADERS_MAX {
        return Err("too many headers".into());
    }
    let headers = lines
        .iter()
        .map(|line| header(line))
        .collect::<Result<Vec<_>, _>>()?;

    for name in [
        HeaderName::CallId,
        HeaderName::CSeq,
        HeaderName::From,
        HeaderName::To,
        HeaderName::MaxForwards,
    ] {
        let mut all = values_of(&headers, name);
        all.dedup();
        if all.len() > 1 {
            return Err(format!("repeated {}", name.as_str()));
        }
    }
    let mut lengths = Vec::new();
    for text in values_of(&headers, HeaderName::ContentLength) {
        let text = String::from_utf8(text).map_err(|_| "length")?;
        if !text.chars().all(|c| c.is_ascii_digit()) {
            return Err("length".into());
        }
        lengths.push(text.parse::<u64>().map_err(|_| "length")?);
    }
    lengths.dedup();
    let body = match lengths.as_slice() {
        [] => body,
        [length] if *length <= body.len() as u64 => body[..*length as usize].to_vec(),
        _ => return Err("length".into()),
    };
    Ok(NaiveMessage {
        start,
        headers,
        body,
    })
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn start_line(line: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let is_response = line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"SIP/");
    let parts: Vec<Vec<u8>> = if is_response {
        let mut parts: Vec<Vec<u8>> = line.splitn(3, |b| *b == b' ').map(<[u8]>::to_vec).collect();
        parts.resize(3, Vec::new());
        if parts[1].len() != 3
            || !parts[1].iter().all(u8::is_ascii_digit)
            || !(b'1'..=b'6').contains(&parts[1][0])
        {
            return Err("status".into());
        }
        parts
    } else {
        let parts: Vec<Vec<u8>> = line.split(|b| *b == b' ').map(<[u8]>::to_vec).collect();
        if parts.len() != 3 || !is_token(&parts[0]) {
            return Err("request line".into());
        }
        if parts[1].is_empty() || parts[1].iter().any(u8::is_ascii_control) {
            return Err("request URI".into());
        }
        parts
    };
    let version = if is_response { &parts[0] } else { &parts[2] };
    if !version.eq_ignore_ascii_case(b"SIP/2.0") {
        return Err("version".into());
    }
    Ok(parts)
}

fn header(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let colon = line.iter().position(|b| *b == b':').ok_or("no colon")?;
    let mut name = line[..colon].to_vec();
    while matches!(name.last(), Some(b' ' | b'\t')) {
        name.pop();
    }
    if !is_token(&name) {
        return Err("header name".into());
    }
    Ok((name, trim(&line[colon + 1..])))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(b))
}

pub(crate) fn trim(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    while text.last().is_some_and(|b| b" \t\r\n".contains(b)) {
        text.pop();
    }
    while text.first().is_some_and(|b| b" \t\r\n".contains(b)) {
        text.remove(0);
    }
    text
}

/// The name a text spells, by comparing it with every name there is.
pub(crate) fn known(text: &[u8]) -> HeaderName {
    let text = text.to_ascii_lowercase();
    let spells = |name: &HeaderName| {
        name.as_str().to_ascii_lowercase().as_bytes() == text
            || name.compact().is_some_and(|c| [c] == text[..])
    };
    HeaderName::KNOWN
        .into_iter()
        .find(spells)
        .unwrap_or(HeaderName::Other)
}

pub(crate) fn values_of(headers: &[(Vec<u8>, Vec<u8>)], name: HeaderName) -> Vec<Vec<u8>> {
    headers
        .iter()
        .filter(|(text, _)| known(text) == name)
        .map(|(_, value)| value.clone())
        .collect()
}

/// The comma separated values of one line, each with what stands from its start to the end of the line.
pub(crate) fn split(name: HeaderName, value: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    if !name.is_list() {
        return if value.is_empty() {
            vec![]
        } else {
            vec![(value.to_vec(), value.to_vec())]
        };
    }
    #[derive(PartialEq)]
    enum State {
        Plain,
        Quoted,
        Angle,
        Comment(usize),
    }
    let mut pieces = vec![(0, Vec::new())];
    let mut state = State::Plain;
    let mut escaped = false;
    for (at, byte) in value.iter().copied().enumerate() {
        if state == State::Plain && byte == b',' {
            pieces.push((at + 1, Vec::new()));
            continue;
        }
        pieces.last_mut().unwrap().1.push(byte);
        if escaped {
            escaped = false;
            continue;
        }
        state = match (state, byte) {
            (State::Plain, b'"') => State::Quoted,
            (State::Plain, b'<') => State::Angle,
            (State::Plain, b'(') if name == HeaderName::Via => State::Comment(1),
            (State::Quoted, b'"') | (State::Angle, b'>') | (State::Comment(1), b')') => {
                State::Plain
            }
            (State::Comment(depth), b'(') => State::Comment(depth + 1),
            (State::Comment(depth), b')') => State::Comment(depth - 1),
            (state, byte) => {
                escaped = byte == b'\\' && matches!(state, State::Quoted | State::Comment(_));
                state
            }
        };
    }
    pieces
        .into_iter()
        .map(|(start, piece)| (trim(&piece), trim(&value[start..])))
        .filter(|(piece, _)| !piece.is_empty())
        .collect()
}
