//! CSeq (§20.16).

use super::cursor::{Cursor, is_token};
use super::method::Method;
use super::numbers;
use crate::span::ByteAt;

/// Why a text is not a CSeq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CSeqError {
    #[error("CSeq number at byte {0} is not a 32-bit number")]
    Number(ByteAt),
    #[error("no CSeq method at byte {0}")]
    Method(ByteAt),
    #[error("text after the CSeq method at byte {0}")]
    Junk(ByteAt),
}

/// A sequence number and a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// Deviation: §8.1.1.5 demands less than 2^31; what fits 32 bits is passed on, because the two ends alone are
    /// concerned.
    pub number: u32,
    pub method: Method,
    pub method_text: &'a [u8],
}

impl<'a> CSeq<'a> {
    /// `1*DIGIT LWS Method`.
    pub fn parse(value: &'a [u8]) -> Result<Self, CSeqError> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        let at = cursor.at();
        let digits = cursor.take_while(|b| b.is_ascii_digit());
        let number = numbers::number(digits).map_err(|_| CSeqError::Number(at))?;
        let before = cursor.offset();
        cursor.skip_lws();
        let at = cursor.at();
        let method_text = cursor.take_while(is_token);
        if method_text.is_empty() || cursor.since(before).len() == method_text.len() {
            return Err(CSeqError::Method(at));
        }
        cursor.skip_lws();
        if !cursor.is_at_end() {
            return Err(CSeqError::Junk(cursor.at()));
        }
        Ok(Self {
            number,
            method: Method::of(method_text),
            method_text,
        })
    }

    /// Writes the value, one blank between its parts.
    pub fn write(&self, out: &mut Vec<u8>) {
        stdx::text::write_decimal(self.number.into(), out);
        out.push(b' ');
        out.extend_from_slice(self.method_text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CSeq, CSeqError};
    use crate::header::Method;
    use crate::span::ByteAt;

    #[test]
    fn number_and_method_may_be_far_apart() {
        let cseq = CSeq::parse(b"0009\r\n  INVITE ").unwrap();
        assert_eq!((cseq.number, cseq.method), (9, Method::Invite));
        let cseq = CSeq::parse(b"4294967295 invite").unwrap();
        assert_eq!(
            (cseq.number, cseq.method, cseq.method_text),
            (u32::MAX, Method::Other, &b"invite"[..])
        );
    }

    #[test]
    fn faults_have_a_place() {
        for (text, error) in [
            (&b""[..], CSeqError::Number(ByteAt(0))),
            (b"INVITE", CSeqError::Number(ByteAt(0))),
            (b"-1 INVITE", CSeqError::Number(ByteAt(0))),
            (
                b"36893488147419103232 REGISTER",
                CSeqError::Number(ByteAt(0)),
            ),
            (b"1", CSeqError::Method(ByteAt(1))),
            (b"1INVITE", CSeqError::Method(ByteAt(1))),
            (b"1 ", CSeqError::Method(ByteAt(2))),
            (b"8 INVITE x", CSeqError::Junk(ByteAt(9))),
        ] {
            assert_eq!(
                CSeq::parse(text),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
    }

    proptest! {
        #[test]
        fn print_then_parse(number: u32, method in "[A-Z!%*_+`'~.-]{1,10}") {
            let cseq = CSeq { number, method: Method::of(method.as_bytes()), method_text: method.as_bytes() };
            let mut text = Vec::new();
            cseq.write(&mut text);
            prop_assert_eq!(CSeq::parse(&text), Ok(cseq));
        }

        #[test]
        fn no_bytes_panic(bytes in super::super::noise::noise()) {
            let _ = CSeq::parse(&bytes);
        }
    }
}
