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
        sum.checked_mul(10)?.checked_add(u64::from(b.wrapping_sub(b'0')))
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
    Ok(digits(trim(text))?.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX))
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
    /// `1.0`, which is also what an absent `q` means to §16.6's target ordering here.
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
        u16::try_from(thousandths).ok().and_then(Self::from_thousandths).ok_or(NumberError::Range)
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
            let digit = rest.checked_div(weight).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
            rest = rest.checked_rem(weight).unwrap_or(0);
            out.push(b'0'.saturating_add(digit));
            if rest == 0 {
                return;
            }
        }
    }
}
