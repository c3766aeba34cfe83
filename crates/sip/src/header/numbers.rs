//! Numbers in headers: each has its own range and its own rule for what lies outside of it.

use super::cursor::trim;
use crate::span::ByteAt;

/// Why a text is not the number it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NumberError {
    /// There is no digit at all.
    #[error("a number is missing")]
    Empty,
    /// Something other than a digit.
    #[error("byte {0} is not part of the number")]
    NotDigit(ByteAt),
    /// A number beyond the range of its field.
    #[error("the number is out of range")]
    Range,
}

/// Decimal digits, any count of them; `None` is a number beyond `u64`.
fn digits(text: &[u8]) -> Result<Option<u64>, NumberError> {
    if text.is_empty() {
        return Err(NumberError::Empty);
    }
    if let Some(at) = text.iter().position(|b| !b.is_ascii_digit()) {
        return Err(NumberError::NotDigit(ByteAt::new(at)));
    }
    Ok(text.iter().try_fold(0_u64, |sum, b| {
        sum.checked_mul(10)?
            .checked_add(u64::from(b.wrapping_sub(b'0')))
    }))
}

/// A number of at most `max`, white space around it allowed.
fn at_most(text: &[u8], max: u64) -> Result<u64, NumberError> {
    match digits(trim(text))? {
        Some(number) if number <= max => Ok(number),
        _ => Err(NumberError::Range),
    }
}

/// delta-seconds (§20.19, §20.23): a value beyond 2^32-1 counts as 2^32-1.
pub fn delta_seconds(text: &[u8]) -> Result<u32, NumberError> {
    Ok(digits(trim(text))?
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or(u32::MAX))
}

/// Max-Forwards (§20.22): 0 to 255.
pub fn max_forwards(text: &[u8]) -> Result<u8, NumberError> {
    narrow_u8(text)
}

/// The ttl parameter (§25.1): 0 to 255.
pub fn ttl(text: &[u8]) -> Result<u8, NumberError> {
    narrow_u8(text)
}

fn narrow_u8(text: &[u8]) -> Result<u8, NumberError> {
    u8::try_from(at_most(text, u64::from(u8::MAX))?).map_err(|_| NumberError::Range)
}

/// Content-Length (§20.14). Never saturates: a length that is not exact would move the message's end.
pub fn content_length(text: &[u8]) -> Result<u32, NumberError> {
    number(text)
}

/// A number that fits 32 bits, such as a sequence number or a reg-id.
pub fn number(text: &[u8]) -> Result<u32, NumberError> {
    u32::try_from(at_most(text, u64::from(u32::MAX))?).map_err(|_| NumberError::Range)
}

/// A port: 1 to 65535. Port 0 cannot be sent to. No white space.
pub fn port(text: &[u8]) -> Result<u16, NumberError> {
    match digits(text)?.and_then(|n| u16::try_from(n).ok()) {
        Some(port) if port != 0 => Ok(port),
        _ => Err(NumberError::Range),
    }
}

/// A preference (qvalue, §20.10) in thousandths: 0 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Q(u16);

impl Q {
    /// `1.0`.
    pub const MAX: Self = Self(1000);

    /// The preference of so many thousandths; `None` beyond 1000.
    pub fn from_thousandths(thousandths: u16) -> Option<Self> {
        (thousandths <= 1000).then_some(Self(thousandths))
    }

    /// 0 to 1000.
    pub fn thousandths(self) -> u16 {
        self.0
    }

    /// `("0" ["." 0*3DIGIT]) / ("1" ["." 0*3("0")])`, and `.5`, which older elements send.
    pub fn parse(text: &[u8]) -> Result<Self, NumberError> {
        let text = trim(text);
        let point = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
        let (whole, fraction) = text.split_at_checked(point).unwrap_or((text, b""));
        let fraction = fraction.strip_prefix(b".").unwrap_or_default();
        let whole = match whole {
            b"" if !fraction.is_empty() => 0,
            b"" => return Err(NumberError::Empty),
            _ => at_most(whole, 1)?,
        };
        if fraction.len() > 3 {
            return Err(NumberError::Range);
        }
        let mut thousandths = whole.saturating_mul(1000);
        let mut weight = 100_u64;
        for (place, byte) in fraction.iter().enumerate() {
            if !byte.is_ascii_digit() {
                let at = point.saturating_add(place).saturating_add(1);
                return Err(NumberError::NotDigit(ByteAt::new(at)));
            }
            let digit = u64::from(byte.wrapping_sub(b'0'));
            thousandths = thousandths.saturating_add(digit.saturating_mul(weight));
            weight = weight.checked_div(10).unwrap_or(0);
        }
        u16::try_from(thousandths)
            .ok()
            .and_then(Self::from_thousandths)
            .ok_or(NumberError::Range)
    }

    /// Writes `1`, `0.5` and the like.
    pub fn write(self, out: &mut Vec<u8>) {
        out.push(if self.0 >= 1000 { b'1' } else { b'0' });
        let mut rest = self.0 % 1000;
        if rest == 0 {
            return;
        }
        out.push(b'.');
        for weight in [100_u16, 10, 1] {
            let digit = rest
                .checked_div(weight)
                .and_then(|digit| u8::try_from(digit).ok())
                .unwrap_or(0);
            rest = rest.checked_rem(weight).unwrap_or(0);
            out.push(b'0'.saturating_add(digit));
            if rest == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{NumberError, Q, content_length, delta_seconds, max_forwards, number, port, ttl};
    use crate::span::ByteAt;

    #[test]
    fn delta_seconds_saturate_but_stay_numbers() {
        assert_eq!(delta_seconds(b"3600"), Ok(3600));
        assert_eq!(delta_seconds(b" 0007\r\n "), Ok(7));
        assert_eq!(delta_seconds(b"4294967296"), Ok(u32::MAX));
        assert_eq!(delta_seconds(&[b'9'; 400]), Ok(u32::MAX));
        assert_eq!(delta_seconds(b"-1"), Err(NumberError::NotDigit(ByteAt(0))));
        assert_eq!(
            delta_seconds(b"0 0l@company.com"),
            Err(NumberError::NotDigit(ByteAt(1)))
        );
        assert_eq!(delta_seconds(b" "), Err(NumberError::Empty));
    }

    #[test]
    fn other_numbers_do_not_saturate() {
        assert_eq!(max_forwards(b"0068"), Ok(68));
        assert_eq!(max_forwards(b"255"), Ok(255));
        assert_eq!(max_forwards(b"300"), Err(NumberError::Range));
        assert_eq!(ttl(b"256"), Err(NumberError::Range));
        assert_eq!(content_length(b"4294967296"), Err(NumberError::Range));
        assert_eq!(
            content_length(b"-999"),
            Err(NumberError::NotDigit(ByteAt(0)))
        );
        assert_eq!(content_length(b"+5"), Err(NumberError::NotDigit(ByteAt(0))));
        assert_eq!(number(b"36893488147419103232"), Err(NumberError::Range));
    }

    #[test]
    fn ports_are_1_to_65535() {
        assert_eq!(port(b"5060"), Ok(5060));
        assert_eq!(port(b"65535"), Ok(65535));
        assert_eq!(port(b"0"), Err(NumberError::Range));
        assert_eq!(port(b"65536"), Err(NumberError::Range));
        assert_eq!(port(b""), Err(NumberError::Empty));
        assert!(port(b" 5060").is_err());
    }

    #[test]
    fn q_values_are_thousandths() {
        for (text, thousandths) in [
            ("0", 0),
            ("1", 1000),
            ("0.5", 500),
            ("0.33", 330),
            ("0.001", 1),
            ("1.000", 1000),
            ("1.", 1000),
            ("0.", 0),
            (".7", 700),
            (" 0.7 ", 700),
        ] {
            assert_eq!(
                Q::parse(text.as_bytes()).map(Q::thousandths),
                Ok(thousandths),
                "{text}"
            );
        }
        for text in ["", ".", "1.001", "2", "0.1234", "0.x", "-1", "0.5.5", "10"] {
            assert!(Q::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn q_print_then_parse(thousandths in 0_u16..=1000) {
            let q = Q::from_thousandths(thousandths).unwrap();
            let mut text = Vec::new();
            q.write(&mut text);
            prop_assert_eq!(Q::parse(&text), Ok(q));
        }

        #[test]
        fn no_bytes_panic(bytes in super::super::noise::noise()) {
            let _ = (Q::parse(&bytes), delta_seconds(&bytes), port(&bytes), number(&bytes), ttl(&bytes));
        }
    }
}
