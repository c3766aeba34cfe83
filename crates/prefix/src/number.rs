//! Numbers as tables see them: symbols of five bits, without what is only there to be looked at.

/// Longest prefix of a rule. E.164 has 15 digits; a routing number in front of them makes it more.
pub const PREFIX_SYMBOLS_MAX: usize = 24;
/// Longest number that is looked up: what is behind matters to no prefix. E.164 allows 15 digits, and private networks some more.
pub const NUMBER_SYMBOLS_MAX: usize = 64;

/// What a number is made of: RFC 3966 §3 with its hexadecimal digits, which routing numbers have. A symbol is the place of its character here.
const SYMBOLS: &[u8; 19] = b"0123456789ABCDEF*#+";
/// No symbol.
const NONE: u8 = 0xff;

/// Symbol by character.
const OF_BYTE: [u8; 256] = {
    let mut table = [NONE; 256];
    let mut at = 0;
    while at < SYMBOLS.len() {
        let byte = SYMBOLS[at];
        table[byte as usize] = at as u8;
        table[byte.to_ascii_lowercase() as usize] = at as u8;
        at += 1;
    }
    table
};

pub(crate) fn symbol(byte: u8) -> Option<u8> {
    let symbol = *OF_BYTE.get(usize::from(byte))?;
    (symbol != NONE).then_some(symbol)
}

fn character(symbol: u8) -> u8 {
    SYMBOLS.get(usize::from(symbol)).copied().unwrap_or(b'?')
}

/// RFC 3966 §5.1.1.
fn is_visual(byte: u8) -> bool {
    matches!(byte, b'-' | b'.' | b'(' | b')')
}

/// A number to be looked up, or the prefix of a rule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Number {
    symbols: [u8; NUMBER_SYMBOLS_MAX],
    len: u8,
}

/// Why a text is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    #[error("the character at {0} is none of a number")]
    Character(usize),
    #[error("longer than {NUMBER_SYMBOLS_MAX} digits")]
    Long,
}

impl Number {
    /// No digit at all: what only a rule for everything meets.
    pub const EMPTY: Self = Self {
        symbols: [0; NUMBER_SYMBOLS_MAX],
        len: 0,
    };

    /// Reads a user part or a field of a file. Visual separators are left out; what follows a semicolon are parameters.
    ///
    /// # Errors
    /// If it is a name rather than a number.
    pub fn parse(text: &[u8]) -> Result<Self, NumberError> {
        match Self::read(text)? {
            (number, true) => Ok(number),
            (_, false) => Err(NumberError::Long),
        }
    }

    /// As [`Number::parse`], of the beginning of one that is too long: it is not to go by rules that are for no number at all.
    ///
    /// # Errors
    /// If it is a name rather than a number.
    pub(crate) fn beginning(text: &[u8]) -> Result<Self, NumberError> {
        Self::read(text).map(|(number, _)| number)
    }

    /// The number, and whether that is all of it.
    fn read(text: &[u8]) -> Result<(Self, bool), NumberError> {
        let (mut number, mut whole) = (Self::EMPTY, true);
        for (at, &byte) in text.iter().enumerate() {
            if byte == b';' {
                break;
            }
            if is_visual(byte) {
                continue;
            }
            let symbol = symbol(byte).ok_or(NumberError::Character(at))?;
            match number.symbols.get_mut(usize::from(number.len)) {
                Some(place) => {
                    *place = symbol;
                    number.len += 1;
                }
                None => whole = false,
            }
        }
        Ok((number, whole))
    }

    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn symbols(&self) -> &[u8] {
        self.symbols.get(..self.len()).unwrap_or_default()
    }

    /// Its characters from the one at `from` on.
    pub fn text_from(&self, from: usize) -> impl Iterator<Item = u8> + '_ {
        let rest = self.symbols().get(from..).unwrap_or_default();
        rest.iter().map(|symbol| character(*symbol))
    }

    /// Its first characters.
    pub fn prefix_text(&self, symbols: usize) -> String {
        self.text_from(0).take(symbols).map(char::from).collect()
    }

    /// The rest of it, if it begins with `head`.
    pub(crate) fn without(&self, head: &Self) -> Option<Self> {
        let rest = self.symbols().strip_prefix(head.symbols())?;
        let mut number = Self::EMPTY;
        number.symbols.get_mut(..rest.len())?.copy_from_slice(rest);
        number.len = u8::try_from(rest.len()).ok()?;
        Some(number)
    }

    /// All symbols in one word, the first highest, each one up so that an end is below every symbol: numbers compare by it as texts do.
    /// `None` if it is longer than [`PREFIX_SYMBOLS_MAX`].
    pub(crate) fn packed(&self) -> Option<u128> {
        if self.len() > PREFIX_SYMBOLS_MAX {
            return None;
        }
        let mut packed = 0;
        for (at, symbol) in self.symbols().iter().enumerate() {
            packed |= (u128::from(*symbol) + 1) << shift(at);
        }
        Some(packed)
    }
}

/// Bits to the right of the symbol at a place.
const fn shift(at: usize) -> u32 {
    123 - 5 * at as u32
}

/// The symbol at a place of [`Number::packed`]; `None` behind its end.
pub(crate) fn symbol_at(packed: u128, at: usize) -> Option<u8> {
    if at >= PREFIX_SYMBOLS_MAX {
        return None;
    }
    ((packed >> shift(at)) as u8 & 31).checked_sub(1)
}

/// How many symbols two of them have in common.
pub(crate) fn common(a: u128, b: u128) -> usize {
    (0..PREFIX_SYMBOLS_MAX)
        .take_while(|&at| symbol_at(a, at).is_some() && symbol_at(a, at) == symbol_at(b, at))
        .count()
}

/// The text of a packed prefix.
pub(crate) fn packed_text(packed: u128) -> String {
    (0..PREFIX_SYMBOLS_MAX)
        .map_while(|at| symbol_at(packed, at))
        .map(|symbol| char::from(character(symbol)))
        .collect()
}

const _: () = assert!(shift(PREFIX_SYMBOLS_MAX - 1) < 128 && SYMBOLS.len() < 31);

impl std::fmt::Debug for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Number({self})")
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.prefix_text(NUMBER_SYMBOLS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_dialled() {
        for (text, number) in [
            ("+49 ", None),
            ("+49-30.12(34)", Some("+49301234")),
            ("0049301234;phone-context=x", Some("0049301234")),
            ("d123", Some("D123")),
            ("*21#", Some("*21#")),
            ("", Some("")),
            ("bob", None),
            ("alice@home", None),
        ] {
            let read = Number::parse(text.as_bytes()).ok();
            assert_eq!(read.map(|number| number.to_string()).as_deref(), number);
        }
        let long = "1".repeat(NUMBER_SYMBOLS_MAX + 1);
        assert_eq!(Number::parse(long.as_bytes()), Err(NumberError::Long));
        let beginning = Number::beginning(long.as_bytes()).unwrap();
        assert_eq!(beginning.to_string(), "1".repeat(NUMBER_SYMBOLS_MAX));
        let name = format!("{long}x");
        let character = NumberError::Character(NUMBER_SYMBOLS_MAX + 1);
        assert_eq!(Number::beginning(name.as_bytes()), Err(character));
    }

    #[test]
    fn packed_prefixes_compare_as_texts() {
        let packed = |text: &str| Number::parse(text.as_bytes()).unwrap().packed().unwrap();
        assert!(packed("") < packed("0"));
        assert!(packed("0") < packed("00"));
        assert!(packed("00") < packed("01"));
        assert!(packed("09999") < packed("1"));
        assert_eq!(packed_text(packed("+49A*#")), "+49A*#");
        assert_eq!(common(packed("4930"), packed("49301")), 4);
        assert_eq!(common(packed("4930"), packed("4940")), 2);
        let longest = "4".repeat(PREFIX_SYMBOLS_MAX);
        assert_eq!(packed_text(packed(&longest)), longest);
        let longer = Number::parse(format!("{longest}4").as_bytes()).unwrap();
        assert_eq!(longer.packed(), None);
    }
}
