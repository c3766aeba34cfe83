//! The frame, and the one door to the serialiser behind it.
//!
//! ```text
//! magic "TNDM" | protocol version u16 LE | kind u8 | payload (bincode 2, variable-length integers)
//! ```
//!
//! A frame has no length of its own: a `SOCK_SEQPACKET` message or a memfd has an end, and a stream
//! gets a length in front by [`crate::stream`]. Decoding never allocates more than [`Message::BYTES_MAX`]
//! and never panics, whatever the bytes are. bincode is frozen upstream, which is why no other module
//! names it: another serialiser is a new [`PROTOCOL_VERSION`] and a change in this file.

use serde::{Serialize, de::DeserializeOwned};

/// Version of the frame and of all types in it. Peers of another version are refused with
/// [`CodecError::Version`]; they never guess. An upgrade mixes two releases for a while, so it needs the same number on both
/// sides: within one number variants are appended to enums and nothing else changes (the test `variants_keep_their_numbers`).
pub const PROTOCOL_VERSION: u16 = 3;

const MAGIC: [u8; 4] = *b"TNDM";
const HEADER_BYTES: usize = 7;

/// Largest frame of control messages, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Largest encoded configuration, in bytes; it travels in a memfd.
pub const CONFIG_BYTES_MAX: usize = 64 << 20;

/// What a frame holds, so that a frame on the wrong channel is told apart from a broken one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    ToWorker = 1,
    FromWorker = 2,
    ClientRequest = 3,
    ClientReply = 4,
    /// An encoded configuration in a memfd.
    Config = 5,
    ToHelper = 6,
    FromHelper = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::ToWorker,
            Self::FromWorker,
            Self::ClientRequest,
            Self::ClientReply,
            Self::Config,
            Self::ToHelper,
            Self::FromHelper,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// A type that travels in a frame.
pub trait Message: Serialize + DeserializeOwned {
    const KIND: Kind;
    /// Largest frame that is written or accepted, in bytes, header included.
    const BYTES_MAX: usize = MESSAGE_BYTES_MAX;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    #[error("not a control message: {0} bytes without its magic")]
    Magic(usize),
    #[error(
        "the peer speaks control protocol version {found}, this binary speaks {PROTOCOL_VERSION}"
    )]
    Version { found: u16 },
    #[error("a control message of kind {found} where {expected:?} belongs")]
    Kind { found: u8, expected: Kind },
    #[error("a control message of {bytes} bytes is over its limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the content of a {0:?} message cannot be read")]
    Malformed(Kind),
    #[error("a {kind:?} message has {bytes} bytes too many")]
    Trailing { kind: Kind, bytes: usize },
    #[error("a {0:?} message cannot be written")]
    Unwritable(Kind),
}

/// Writes `message` as one frame.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    let mut frame = Vec::with_capacity(128);
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    frame.push(M::KIND as u8);
    bincode::serde::encode_into_std_write(message, &mut frame, bincode::config::standard())
        .map_err(|_| CodecError::Unwritable(M::KIND))?;
    if frame.len() > M::BYTES_MAX {
        return Err(CodecError::TooLarge {
            bytes: frame.len(),
            limit: M::BYTES_MAX,
        });
    }
    Ok(frame)
}

/// Reads one whole frame; bytes behind its end are an error.
pub fn decode<M: Message>(frame: &[u8]) -> Result<M, CodecError> {
    if frame.len() > M::BYTES_MAX {
        return Err(CodecError::TooLarge {
            bytes: frame.len(),
            limit: M::BYTES_MAX,
        });
    }
    let (&[m0, m1, m2, m3, v0, v1, kind], payload) = frame
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(CodecError::Magic(frame.len()))?;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(CodecError::Magic(frame.len()));
    }
    let found = u16::from_le_bytes([v0, v1]);
    if found != PROTOCOL_VERSION {
        return Err(CodecError::Version { found });
    }
    if Kind::from_byte(kind) != Some(M::KIND) {
        return Err(CodecError::Kind {
            found: kind,
            expected: M::KIND,
        });
    }
    // The limit bounds what lengths inside the payload may claim, before anything is allocated.
    let standard = bincode::config::standard();
    let read = if M::BYTES_MAX <= MESSAGE_BYTES_MAX {
        bincode::serde::decode_from_slice(payload, standard.with_limit::<MESSAGE_BYTES_MAX>())
    } else {
        bincode::serde::decode_from_slice(payload, standard.with_limit::<CONFIG_BYTES_MAX>())
    };
    let (message, used) = read.map_err(|_| CodecError::Malformed(M::KIND))?;
    match payload.len().saturating_sub(used) {
        0 => Ok(message),
        bytes => Err(CodecError::Trailing {
            kind: M::KIND,
            bytes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientReply, ClientRequest, FromWorker, ToWorker};

    #[test]
    fn a_peer_of_another_version_is_named() {
        let mut frame = encode(&FromWorker::Ready).unwrap();
        frame[4] = 9;
        let error = decode::<FromWorker>(&frame).unwrap_err();
        assert_eq!(error, CodecError::Version { found: 9 });
        assert_eq!(
            error.to_string(),
            "the peer speaks control protocol version 9, this binary speaks 3"
        );
    }

    #[test]
    fn a_frame_of_another_channel_is_named() {
        let frame = encode(&ClientRequest::Status).unwrap();
        assert_eq!(
            decode::<ClientReply>(&frame),
            Err(CodecError::Kind {
                found: 3,
                expected: Kind::ClientReply
            })
        );
    }

    #[test]
    fn bytes_behind_the_end_are_an_error() {
        let mut frame = encode(&ToWorker::HandOver).unwrap();
        frame.push(0);
        assert_eq!(
            decode::<ToWorker>(&frame),
            Err(CodecError::Trailing {
                kind: Kind::ToWorker,
                bytes: 1
            })
        );
    }

    #[test]
    fn an_absurd_length_allocates_nothing() {
        // `Failed { message }` that claims a length of u64::MAX.
        let mut frame = encode(&FromWorker::Failed {
            message: String::new(),
        })
        .unwrap();
        frame.pop();
        frame.push(253);
        frame.extend_from_slice(&[0xff; 8]);
        assert_eq!(
            decode::<FromWorker>(&frame),
            Err(CodecError::Malformed(Kind::FromWorker))
        );
    }
}
