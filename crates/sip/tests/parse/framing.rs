//! The framer of streams against all splits, and against the datagram parser.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use sip::message::frame::{Frame, FrameError, Framer, Limits};
use sip::{HeaderName, Layout};

use crate::generate;
use crate::typical::TYPICAL;

/// Everything in a stream that comes in pieces of these sizes, each frame with its bytes, and how it ends.
fn read(
    stream: &[u8],
    sizes: impl IntoIterator<Item = usize>,
) -> (Vec<(Frame, Vec<u8>)>, Option<FrameError>) {
    let mut framer = Framer::new(Limits::DEFAULT);
    let (mut buffer, mut frames, mut rest) = (Vec::new(), Vec::new(), stream);
    for size in sizes.into_iter().chain([stream.len()]) {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = after;
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
                    assert!(bytes > 0);
                    frames.push((frame, buffer.drain(..bytes).collect()));
                }
            }
        }
    }
    (frames, None)
}

/// Messages of all kinds, keep-alives, noise.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => generate::message(),
        2 => generate::damaged(),
        3 => select(TYPICAL.map(|(_, bytes)| bytes.to_vec()).to_vec()),
        3 => select(vec![b"\r\n".to_vec(), b"\r\n\r\n".to_vec(), b"\n".to_vec()]),
        1 => vec(any::<u8>(), 0..8),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

#[test]
fn every_split_of_a_stream_of_typical_messages() {
    let stream = TYPICAL.map(|(_, bytes)| bytes).join(&b"\r\n\r\n"[..]);
    let whole = read(&stream, []);
    let messages: Vec<&[u8]> = whole
        .0
        .iter()
        .filter(|(frame, _)| matches!(frame, Frame::Message { .. }))
        .map(|(_, bytes)| &bytes[..])
        .collect();
    assert_eq!(messages, TYPICAL.map(|(_, bytes)| bytes));
    assert_eq!(whole.1, None);
    for at in 0..stream.len() {
        assert_eq!(read(&stream, [at]), whole, "split at {at}");
    }
    assert_eq!(read(&stream, std::iter::repeat_n(1, stream.len())), whole);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn pieces_make_no_difference(stream in stream(), sizes in vec(0..40usize, 0..200)) {
        let whole = read(&stream, []);
        prop_assert_eq!(&read(&stream, sizes), &whole);
        prop_assert_eq!(&read(&stream, std::iter::repeat_n(1, stream.len())), &whole);
        let taken: usize = whole.0.iter().map(|(_, bytes)| bytes.len()).sum();
        prop_assert!(taken <= stream.len());
    }

    #[test]
    fn a_message_ends_where_the_parser_says(bytes in prop_oneof![generate::message(), generate::damaged()]) {
        let start = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(0);
        let bytes = &bytes[start..];
        let mut layout = Layout::new();
        let framed = Framer::new(Limits::DEFAULT).next(bytes);
        match sip::parse(bytes, &mut layout) {
            Ok(message) if message.has(HeaderName::ContentLength) => {
                prop_assert_eq!(framed, Ok(Frame::Message { bytes: message.whole().len() as usize }));
            }
            Ok(_) => prop_assert!(matches!(framed, Err(FrameError::NoLength(_))), "{:?}", framed),
            // What is framed may still be refused, but never for how long it is.
            Err(sip::ParseError::ContentLength(_)) => prop_assert!(framed.is_err(), "{:?}", framed),
            Err(sip::ParseError::BodyCutOff(_)) => {
                prop_assert!(matches!(framed, Ok(Frame::More) | Err(FrameError::BodyTooLarge(_))), "{:?}", framed);
            }
            Err(_) => {}
        }
    }
}
