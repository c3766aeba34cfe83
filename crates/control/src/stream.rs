//! Frames over a byte stream: length (u32, little endian), then the frame.

use std::io::{self, Read, Write};

use crate::codec::{self, CodecError, Message};

const LENGTH_BYTES: usize = 4;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("the connection ended within a message")]
    Cut,
}

/// Writes one message and flushes.
pub fn write_message<M: Message>(stream: &mut impl Write, message: &M) -> Result<(), StreamError> {
    stream.write_all(&to_bytes(message)?)?;
    Ok(stream.flush()?)
}

/// One message with its length in front, for a writer that must not block.
pub fn to_bytes<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    let frame = codec::encode(message)?;
    let length = u32::try_from(frame.len()).map_err(|_| CodecError::TooLarge {
        bytes: frame.len(),
        limit: M::BYTES_MAX,
    })?;
    Ok([&length.to_le_bytes(), frame.as_slice()].concat())
}

/// Reads one message; `None` when the peer closed between messages. Blocks.
pub fn read_message<M: Message>(stream: &mut impl Read) -> Result<Option<M>, StreamError> {
    let mut length = [0; LENGTH_BYTES];
    let mut have = 0;
    while let Some(rest) = length.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(StreamError::Cut),
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = checked_length::<M>(length)?;
    // Grows as bytes arrive: a length alone makes nobody allocate.
    let mut frame = Vec::new();
    stream.take(length as u64).read_to_end(&mut frame)?;
    if frame.len() < length {
        return Err(StreamError::Cut);
    }
    Ok(Some(codec::decode(&frame)?))
}

fn checked_length<M: Message>(length: [u8; LENGTH_BYTES]) -> Result<usize, CodecError> {
    let bytes = u32::from_le_bytes(length) as usize;
    if bytes > M::BYTES_MAX {
        return Err(CodecError::TooLarge {
            bytes,
            limit: M::BYTES_MAX,
        });
    }
    Ok(bytes)
}

/// Collects what a non-blocking reader got, and gives out whole messages.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message; `None` while more bytes are needed. After an error the connection is of no use.
    pub fn next_message<M: Message>(&mut self) -> Result<Option<M>, CodecError> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = checked_length::<M>(*length)?;
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let message = codec::decode(frame);
        self.bytes.drain(..LENGTH_BYTES + length);
        message.map(Some)
    }

    /// Bytes that wait for the rest of their message.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientReply, ClientRequest};

    #[test]
    fn messages_follow_each_other_on_a_stream() {
        let mut wire = Vec::new();
        write_message(&mut wire, &ClientReply::Note("one".into())).unwrap();
        write_message(&mut wire, &ClientReply::Done).unwrap();
        let mut reader = wire.as_slice();
        assert_eq!(
            read_message(&mut reader).unwrap(),
            Some(ClientReply::Note("one".into()))
        );
        assert_eq!(read_message(&mut reader).unwrap(), Some(ClientReply::Done));
        assert_eq!(read_message::<ClientReply>(&mut reader).unwrap(), None);
    }

    #[test]
    fn a_cut_stream_is_an_error_and_not_an_end() {
        let wire = to_bytes(&ClientRequest::Stats {
            pattern: Some("invite".into()),
        })
        .unwrap();
        for cut in 1..wire.len() {
            let result = read_message::<ClientRequest>(&mut &wire[..cut]);
            assert!(matches!(result, Err(StreamError::Cut)), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        let wire = u32::MAX.to_le_bytes();
        assert!(matches!(
            read_message::<ClientRequest>(&mut &wire[..]),
            Err(StreamError::Codec(CodecError::TooLarge { .. }))
        ));
    }

    #[test]
    fn a_frame_buffer_gives_whole_messages_only() {
        let wire = [
            to_bytes(&ClientRequest::Status).unwrap(),
            to_bytes(&ClientRequest::Restart { worker: Some(1) }).unwrap(),
        ]
        .concat();
        let mut buffer = FrameBuffer::default();
        let mut got = Vec::new();
        for byte in wire {
            buffer.push(&[byte]);
            while let Some(message) = buffer.next_message::<ClientRequest>().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(
            got,
            [
                ClientRequest::Status,
                ClientRequest::Restart { worker: Some(1) }
            ]
        );
        assert!(buffer.is_empty());
    }
}
