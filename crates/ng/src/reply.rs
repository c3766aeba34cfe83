//! What an engine says.

use crate::bencode::{BencodeError, Value};

/// The longest datagram that is read: the longest that UDP can carry.
pub const DATAGRAM_MAX: usize = 65_507;

/// The longest cookie that is looked for.
const COOKIE_MAX: usize = 64;

/// An engine's answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'r> {
    Pong,
    /// Done; with the SDP that takes the place of the one given, if one was given.
    Done {
        sdp: Option<&'r [u8]>,
    },
    /// It takes no new calls at the moment.
    Full,
    /// It won't, and says why.
    Refused {
        reason: &'r [u8],
    },
}

/// Why a datagram is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    #[error("no cookie in front")]
    Cookie,
    #[error("no bencode: {0}")]
    Bencode(#[from] BencodeError),
    #[error("no dictionary with a result")]
    Result,
}

/// The cookie of a datagram, and the rest.
pub(crate) fn cookie(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = datagram
        .iter()
        .take(COOKIE_MAX)
        .position(|&byte| byte == b' ')?;
    let rest = datagram.get(end.saturating_add(1)..)?;
    Some((datagram.get(..end)?, rest))
}

impl<'r> Reply<'r> {
    /// Reads what follows the cookie.
    pub fn parse(bytes: &'r [u8]) -> Result<Self, ReplyError> {
        let dictionary = Value::parse(bytes)?
            .dictionary()
            .ok_or(ReplyError::Result)?;
        let text = |key: &[u8]| dictionary.get(key).and_then(Value::text);
        Ok(match text(b"result").ok_or(ReplyError::Result)? {
            b"pong" => Self::Pong,
            b"ok" => match text(b"sdp") {
                // It would be passed on to a phone as it is.
                Some(sdp) if !sdp.starts_with(b"v=0") => Self::Refused {
                    reason: b"what it gave is no SDP",
                },
                sdp => Self::Done { sdp },
            },
            b"load limit" => Self::Full,
            _ => Self::Refused {
                reason: text(b"error-reason").unwrap_or(b"no reason given"),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        let parse = |bytes| Reply::parse(bytes);
        assert_eq!(parse(b"d6:result4:ponge"), Ok(Reply::Pong));
        let sdp = Some(&b"v=0"[..]);
        assert_eq!(parse(b"d3:sdp3:v=06:result2:oke"), Ok(Reply::Done { sdp }));
        let reason = b"what it gave is no SDP";
        assert_eq!(
            parse(b"d6:result2:ok3:sdp5:helloe"),
            Ok(Reply::Refused { reason })
        );
        assert_eq!(
            parse(b"d6:result2:ok3:sdp0:e"),
            Ok(Reply::Refused { reason })
        );
        let warned = b"d7:warning17:Call-ID not found6:result2:oke";
        assert_eq!(parse(warned), Ok(Reply::Done { sdp: None }));
        assert_eq!(parse(b"d6:result10:load limite"), Ok(Reply::Full));
        let reason = b"Failed to parse SDP";
        assert_eq!(
            parse(b"d6:result5:error12:error-reason19:Failed to parse SDPe"),
            Ok(Reply::Refused { reason })
        );
        assert_eq!(parse(b"de"), Err(ReplyError::Result));
        assert_eq!(parse(b"le"), Err(ReplyError::Result));
    }

    #[test]
    fn cookies() {
        assert_eq!(cookie(b"abc de"), Some((&b"abc"[..], &b"de"[..])));
        assert_eq!(cookie(b"abc"), None);
        assert_eq!(cookie(&[b'a'; 100]), None);
    }
}
