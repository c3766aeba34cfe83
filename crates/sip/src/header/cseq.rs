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
        Ok(Self { number, method: Method::of(method_text), method_text })
    }

    /// Writes the value, one blank between its parts.
    pub fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        // Writing to a Vec does not fail.
        let _ = write!(out, "{} ", self.number);
        out.extend_from_slice(self.method_text);
    }
}
