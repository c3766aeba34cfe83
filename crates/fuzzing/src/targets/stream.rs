//! A stream in one piece and in many: the same messages, and those that the datagram parser sees.

use sip::message::frame::{Frame, FrameError, Framer, Limits};
use sip::{HeaderName, Layout};

const LIMITS: Limits = Limits {
    head_bytes: 2048,
    body_bytes: 1024,
};

type Frames = (Vec<(Frame, Vec<u8>)>, Option<FrameError>);

fn frames(stream: &[u8], mut piece: impl FnMut() -> usize) -> Frames {
    let mut framer = Framer::new(LIMITS);
    let (mut buffer, mut frames, mut rest) = (Vec::new(), Vec::new(), stream);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        loop {
            match framer.next(&buffer) {
                Err(error) => return (frames, Some(error)),
                Ok(Frame::More) => break,
                Ok(frame) => {
                    let (Frame::Blank { bytes } | Frame::Ping { bytes } | Frame::Message { bytes }) =
                        frame
                    else {
                        unreachable!("`More` was looked at")
                    };
                    frames.push((frame, buffer.drain(..bytes).collect()));
                }
            }
        }
        assert!(buffer.len() <= LIMITS.head_bytes + LIMITS.body_bytes + rest.len() + now.len());
    }
    (frames, None)
}

pub(crate) fn run(bytes: &[u8]) {
    let whole = frames(bytes, || bytes.len());
    let mut turn = 0;
    let uneven = frames(bytes, || {
        turn += 1;
        usize::from(bytes[turn % bytes.len()]) % 23
    });
    assert_eq!(uneven, whole);
    assert_eq!(frames(bytes, || 1), whole);
    let mut layout = Layout::new();
    for (frame, bytes) in whole.0 {
        let Frame::Message { .. } = frame else {
            assert!(bytes.iter().all(|b| matches!(b, b'\r' | b'\n')));
            continue;
        };
        if let Ok(message) = sip::parse(&bytes, &mut layout) {
            assert_eq!(
                message.whole().slice(&bytes),
                bytes,
                "all of it, and no more"
            );
            assert!(message.has(HeaderName::ContentLength));
        }
    }
}
