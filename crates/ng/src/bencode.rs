//! Bencode, the encoding of the `ng` protocol.
//!
//! A codec of our own, of two screens: rtpengine does not sort the keys of its dictionaries, which the libraries that bound nesting
//! refuse, and those that do not refuse it recurse as deep as a datagram says. Here nothing is allocated to read, nesting ends at
//! [`DEPTH_MAX`], and a whole datagram is checked before any of it is believed.

/// How deep lists and dictionaries may nest; rtpengine's statistics, the deepest that it sends, have eight levels.
pub const DEPTH_MAX: u8 = 16;

/// Why bytes are not bencode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BencodeError {
    #[error("it ends at byte {0}, within a value")]
    Short(usize),
    #[error("byte {0} begins no value")]
    Kind(usize),
    #[error("a number at byte {0} is none, or not in its only form")]
    Number(usize),
    #[error("a key at byte {0} is no string")]
    Key(usize),
    #[error("more than {DEPTH_MAX} levels at byte {0}")]
    Deep(usize),
    #[error("bytes after the value, from byte {0} on")]
    Trailing(usize),
}

/// A value, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'b> {
    Integer(i64),
    Text(&'b [u8]),
    List(List<'b>),
    Dictionary(Dictionary<'b>),
}

/// The values between `l` and `e`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<'b>(&'b [u8]);

/// Keys and values between `d` and `e`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dictionary<'b>(&'b [u8]);

impl<'b> Value<'b> {
    /// Reads one value that takes all of `bytes`.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, BencodeError> {
        let end = check(bytes, 0, 0)?;
        if end != bytes.len() {
            return Err(BencodeError::Trailing(end));
        }
        read(bytes)
            .map(|(value, _)| value)
            .ok_or(BencodeError::Short(0))
    }

    pub fn text(self) -> Option<&'b [u8]> {
        match self {
            Self::Text(text) => Some(text),
            Self::Integer(_) | Self::List(_) | Self::Dictionary(_) => None,
        }
    }

    pub fn integer(self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(number),
            Self::Text(_) | Self::List(_) | Self::Dictionary(_) => None,
        }
    }

    pub fn dictionary(self) -> Option<Dictionary<'b>> {
        match self {
            Self::Dictionary(dictionary) => Some(dictionary),
            Self::Integer(_) | Self::Text(_) | Self::List(_) => None,
        }
    }

    pub fn list(self) -> Option<List<'b>> {
        match self {
            Self::List(list) => Some(list),
            Self::Integer(_) | Self::Text(_) | Self::Dictionary(_) => None,
        }
    }
}

impl<'b> Dictionary<'b> {
    /// The value of the first key that is this one.
    pub fn get(self, key: &[u8]) -> Option<Value<'b>> {
        self.entries()
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
    }

    pub fn entries(self) -> impl Iterator<Item = (&'b [u8], Value<'b>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (key, after) = read(rest)?;
            let (value, after) = read(after)?;
            rest = after;
            Some((key.text()?, value))
        })
    }
}

impl<'b> List<'b> {
    pub fn values(self) -> impl Iterator<Item = Value<'b>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (value, after) = read(rest)?;
            rest = after;
            Some(value)
        })
    }
}

/// Where the value at `at` ends, if it is one.
fn check(bytes: &[u8], at: usize, depth: u8) -> Result<usize, BencodeError> {
    let first = *bytes.get(at).ok_or(BencodeError::Short(at))?;
    let inner = at.saturating_add(1);
    match first {
        b'0'..=b'9' => string(bytes, at).map(|(_, end)| end),
        b'i' => number(bytes, inner, b'e').map(|(_, end)| end),
        b'l' | b'd' => {
            if depth == DEPTH_MAX {
                return Err(BencodeError::Deep(at));
            }
            let deeper = depth.saturating_add(1);
            let mut here = inner;
            while *bytes.get(here).ok_or(BencodeError::Short(here))? != b'e' {
                if first == b'd' {
                    if !bytes.get(here).is_some_and(u8::is_ascii_digit) {
                        return Err(BencodeError::Key(here));
                    }
                    here = string(bytes, here)?.1;
                }
                here = check(bytes, here, deeper)?;
            }
            Ok(here.saturating_add(1))
        }
        _ => Err(BencodeError::Kind(at)),
    }
}

/// The value at the beginning and what follows it; `None` at the end. Of checked bytes.
fn read(bytes: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let (value, end) = match bytes.first()? {
        b'0'..=b'9' => {
            let (text, end) = string(bytes, 0).ok()?;
            (Value::Text(text), end)
        }
        b'i' => {
            let (number, end) = number(bytes, 1, b'e').ok()?;
            (Value::Integer(number), end)
        }
        kind @ (b'l' | b'd') => {
            let end = check(bytes, 0, 0).ok()?;
            let inside = bytes.get(1..end.checked_sub(1)?)?;
            let value = match kind {
                b'l' => Value::List(List(inside)),
                _ => Value::Dictionary(Dictionary(inside)),
            };
            (value, end)
        }
        _ => return None,
    };
    Some((value, bytes.get(end..)?))
}

/// A string at `at`, and its end.
fn string(bytes: &[u8], at: usize) -> Result<(&[u8], usize), BencodeError> {
    let (length, start) = number(bytes, at, b':')?;
    let length = usize::try_from(length).map_err(|_| BencodeError::Number(at))?;
    let end = start
        .checked_add(length)
        .ok_or(BencodeError::Short(bytes.len()))?;
    let text = bytes
        .get(start..end)
        .ok_or(BencodeError::Short(bytes.len()))?;
    Ok((text, end))
}

/// A decimal number that begins at `at` and is followed by `stop`, and what comes behind that.
fn number(bytes: &[u8], at: usize, stop: u8) -> Result<(i64, usize), BencodeError> {
    let rest = bytes.get(at..).unwrap_or_default();
    // The longest is "-9223372036854775808".
    let length = rest
        .iter()
        .take(21)
        .position(|&byte| byte == stop)
        .ok_or(BencodeError::Number(at))?;
    let digits = rest.get(..length).unwrap_or_default();
    let bare = digits.strip_prefix(b"-").unwrap_or(digits);
    let leads = bare.first() == Some(&b'0') && (bare.len() > 1 || digits.len() > 1);
    if leads || !bare.iter().all(u8::is_ascii_digit) {
        return Err(BencodeError::Number(at));
    }
    let value = std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(BencodeError::Number(at))?;
    Ok((value, at.saturating_add(length).saturating_add(1)))
}

/// Writes bencode behind what is there.
pub struct Writer<'w>(pub &'w mut Vec<u8>);

impl Writer<'_> {
    pub fn text(&mut self, text: &[u8]) -> &mut Self {
        stdx::text::write_decimal(text.len() as u64, self.0);
        self.0.push(b':');
        self.0.extend_from_slice(text);
        self
    }

    /// A key and a string.
    pub fn pair(&mut self, key: &str, text: &[u8]) -> &mut Self {
        self.text(key.as_bytes()).text(text)
    }

    /// A key and a list of strings; nothing if there are none.
    pub fn list<'t>(&mut self, key: &str, texts: impl IntoIterator<Item = &'t [u8]>) -> &mut Self {
        let mut texts = texts.into_iter().peekable();
        if texts.peek().is_none() {
            return self;
        }
        self.text(key.as_bytes());
        self.0.push(b'l');
        for text in texts {
            self.text(text);
        }
        self.0.push(b'e');
        self
    }

    /// A dictionary of what `inside` writes.
    pub fn dictionary(&mut self, inside: impl FnOnce(&mut Self)) {
        self.0.push(b'd');
        inside(self);
        self.0.push(b'e');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_rtpengine_sends() {
        let bytes =
            b"d7:createdi1795399749e4:SSRCde4:tagsd1:ad6:mediasld5:indexi1eeeee6:result2:oke";
        let reply = Value::parse(bytes).unwrap().dictionary().unwrap();
        assert_eq!(reply.get(b"result"), Some(Value::Text(b"ok")));
        assert_eq!(reply.get(b"created"), Some(Value::Integer(1_795_399_749)));
        let tags = reply.get(b"tags").unwrap().dictionary().unwrap();
        let a = tags.get(b"a").unwrap().dictionary().unwrap();
        let media = a.get(b"medias").unwrap().list().unwrap();
        let first = media.values().next().unwrap().dictionary().unwrap();
        assert_eq!(first.get(b"index").unwrap().integer(), Some(1));
        assert_eq!(reply.get(b"sdp"), None);
    }

    #[test]
    fn refuses_what_is_none() {
        let cases: [(&[u8], BencodeError); 14] = [
            (b"", BencodeError::Short(0)),
            (b"d", BencodeError::Short(1)),
            (b"x", BencodeError::Kind(0)),
            (b"de1:a", BencodeError::Trailing(2)),
            (b"5:abc", BencodeError::Short(5)),
            (b"99999999999999999999:a", BencodeError::Number(0)),
            (b"9223372036854775807:a", BencodeError::Short(21)),
            (b"di1e1:ae", BencodeError::Key(1)),
            (b"d1:ae", BencodeError::Kind(4)),
            (b"ie", BencodeError::Number(1)),
            (b"i-0e", BencodeError::Number(1)),
            (b"i01e", BencodeError::Number(1)),
            (b"01:a", BencodeError::Number(0)),
            (b"i1", BencodeError::Number(1)),
        ];
        for (bytes, error) in cases {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(Value::parse(bytes), Err(error), "{text}");
        }
    }

    #[test]
    fn nesting_ends() {
        let nested = |n: usize| [vec![b'l'; n], vec![b'e'; n]].concat();
        assert!(Value::parse(&nested(DEPTH_MAX.into())).is_ok());
        let deep = BencodeError::Deep(DEPTH_MAX.into());
        assert_eq!(Value::parse(&nested(17)), Err(deep));
        assert_eq!(Value::parse(&vec![b'l'; 65_000]), Err(deep));
    }

    proptest! {
        #[test]
        fn never_panics_and_gives_back_what_it_wrote(
            raw in proptest::collection::vec(prop_oneof![Just(b'd'), Just(b'l'), Just(b'e'), Just(b'i'), Just(b'1'), Just(b':'), any::<u8>()], 0..64),
            text in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            if let Ok(Value::Dictionary(dictionary)) = Value::parse(&raw) {
                dictionary.entries().count();
            }
            let mut out = Vec::new();
            Writer(&mut out).dictionary(|writer| {
                writer.pair("sdp", &text).list("l", [&text[..], b"x"]).list("none", []);
            });
            let read = Value::parse(&out).unwrap().dictionary().unwrap();
            prop_assert_eq!(read.get(b"sdp"), Some(Value::Text(&text)));
            prop_assert_eq!(read.get(b"l").unwrap().list().unwrap().values().count(), 2);
            prop_assert_eq!(read.entries().count(), 2);
        }
    }
}
