//! Numbers as text: base32 and hex into a caller's bytes, and their strict decoders; decimal numbers and addresses without the
//! machinery of `Display`.
//!
//! The base32 alphabet is Crockford's in lower case, most significant digit first and always at full width: 13 digits
//! for a `u64`, 26 for a `u128`. All digits are token characters (RFC 3261 §25.1). The decoders accept exactly what
//! the encoders write: one number has one spelling, so that comparing text is comparing numbers.

use std::io::Write;
use std::net::IpAddr;

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Digits of a `u64` in base32.
pub const BASE32_U64: usize = 13;
/// Digits of a `u128` in base32.
pub const BASE32_U128: usize = 26;

/// A `u64` as 13 base32 digits.
pub fn encode_base32_u64(value: u64) -> [u8; BASE32_U64] {
    core::array::from_fn(|i| DIGITS[((value >> (5 * (BASE32_U64 - 1 - i))) & 31) as usize])
}

/// A `u128` as 26 base32 digits.
pub fn encode_base32_u128(value: u128) -> [u8; BASE32_U128] {
    core::array::from_fn(|i| DIGITS[((value >> (5 * (BASE32_U128 - 1 - i))) & 31) as usize])
}

/// The `u64` that [`encode_base32_u64`] wrote; `None` for anything else.
pub fn decode_base32_u64(text: &[u8]) -> Option<u64> {
    let value = decode_digits(text, BASE32_U64)?;
    u64::try_from(value).ok()
}

/// The `u128` that [`encode_base32_u128`] wrote; `None` for anything else.
pub fn decode_base32_u128(text: &[u8]) -> Option<u128> {
    decode_digits(text, BASE32_U128)
}

/// A number of exactly `width` base32 digits; `None` on a foreign byte or when it needs more than 128 bits.
fn decode_digits(text: &[u8], width: usize) -> Option<u128> {
    if text.len() != width {
        return None;
    }
    text.iter().try_fold(0u128, |value, &byte| {
        if value >> (128 - 5) != 0 {
            return None;
        }
        Some((value << 5) | u128::from(digit(byte)?))
    })
}

/// The value of one base32 digit.
fn digit(byte: u8) -> Option<u8> {
    Some(match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'h' => byte - b'a' + 10,
        b'j'..=b'k' => byte - b'j' + 18,
        b'm'..=b'n' => byte - b'm' + 20,
        b'p'..=b't' => byte - b'p' + 22,
        b'v'..=b'z' => byte - b'v' + 27,
        _ => return None,
    })
}

/// Appends a number in decimal.
pub fn write_decimal(value: u64, out: &mut Vec<u8>) {
    // Of 2^64-1.
    const DIGITS_MAX: usize = 20;
    let mut digits = [b'0'; DIGITS_MAX];
    let mut at = DIGITS_MAX - 1;
    let mut left = value;
    while left >= 10 {
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        at -= 1;
    }
    digits[at] = b'0' + left as u8;
    out.extend_from_slice(&digits[at..]);
}

/// Appends an address as `Display` has it: IPv6 without brackets.
pub fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            write_decimal(a.into(), out);
            for octet in [b, c, d] {
                out.push(b'.');
                write_decimal(octet.into(), out);
            }
        }
        // Writing to a Vec does not fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

/// Writes `bytes` as lower-case hex to the start of `out` and returns that text; `None` if `out` is too short.
pub fn encode_hex<'o>(bytes: &[u8], out: &'o mut [u8]) -> Option<&'o [u8]> {
    let out = out.get_mut(..bytes.len().checked_mul(2)?)?;
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    Some(out)
}

/// Fills `out` from exactly twice as many lower-case hex digits; `None` for anything else (`out` is then unspecified).
pub fn decode_hex<'o>(text: &[u8], out: &'o mut [u8]) -> Option<&'o [u8]> {
    if text.len() != out.len().checked_mul(2)? {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Some(out)
}

/// The value of one lower-case hex digit.
fn nibble(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_look_as_they_always_do() {
        for value in [
            0,
            7,
            9,
            10,
            99,
            100,
            255,
            5060,
            65_535,
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut out = Vec::new();
            write_decimal(value, &mut out);
            assert_eq!(out, value.to_string().into_bytes());
        }
        for ip in ["10.0.0.255", "0.0.0.0", "255.100.99.9", "2001:db8::1"] {
            let mut out = Vec::new();
            write_ip(ip.parse().unwrap(), &mut out);
            assert_eq!(out, ip.as_bytes());
        }
    }

    #[test]
    fn every_digit_decodes_to_its_place() {
        for (value, &byte) in DIGITS.iter().enumerate() {
            assert_eq!(digit(byte), Some(value as u8));
        }
        assert_eq!((0..=255u8).filter(|&b| digit(b).is_some()).count(), 32);
    }

    #[test]
    fn only_the_canonical_spelling_decodes() {
        assert_eq!(&encode_base32_u64(0), b"0000000000000");
        assert_eq!(&encode_base32_u64(u64::MAX), b"fzzzzzzzzzzzz");
        assert_eq!(
            decode_base32_u64(b"g000000000000"),
            None,
            "more than 64 bits"
        );
        assert_eq!(
            &encode_base32_u128(u128::MAX),
            b"7zzzzzzzzzzzzzzzzzzzzzzzzz"
        );
        assert_eq!(
            decode_base32_u128(b"80000000000000000000000000"),
            None,
            "more than 128 bits"
        );
        assert_eq!(decode_base32_u64(b"FZZZZZZZZZZZZ"), None, "upper case");
        assert_eq!(decode_base32_u64(b"000000000000"), None, "too short");
        assert_eq!(decode_base32_u64(b"00000000000000"), None, "too long");
        assert_eq!(decode_base32_u64(b"000000000000l"), None, "not a digit");
    }

    #[test]
    fn hex_is_strict_and_bounded() {
        let mut out = [0; 4];
        assert_eq!(encode_hex(&[0x0a, 0xff], &mut out), Some(&b"0aff"[..]));
        assert_eq!(encode_hex(&[1, 2, 3], &mut out), None);
        let mut bytes = [0; 2];
        assert_eq!(decode_hex(b"0aff", &mut bytes), Some(&[0x0a, 0xff][..]));
        assert_eq!(decode_hex(b"0AFF", &mut bytes), None);
        assert_eq!(decode_hex(b"0af", &mut bytes), None);
    }

    proptest! {
        #[test]
        fn base32_round_trips(narrow: u64, wide: u128) {
            prop_assert_eq!(decode_base32_u64(&encode_base32_u64(narrow)), Some(narrow));
            prop_assert_eq!(decode_base32_u128(&encode_base32_u128(wide)), Some(wide));
        }

        #[test]
        fn hex_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let (mut text, mut back) = ([0; 80], [0; 40]);
            let text = encode_hex(&bytes, &mut text).unwrap();
            prop_assert_eq!(decode_hex(text, &mut back[..bytes.len()]), Some(&bytes[..]));
        }
    }
}
