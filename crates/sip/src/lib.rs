//! Bytes to SIP messages and back: spans, typed headers, URIs, patches.
//!
//! - [`message`]: [`parse`] turns one datagram into a [`Message`], a view of the buffer through a reusable [`Layout`];
//! - [`message::frame`] finds where each message of a stream ends;
//! - [`header`] and [`uri`]: typed views of header values and URIs, parsed on demand, borrowing the same buffer;
//! - [`patch`]: edits over a message, visible to the next reader at once, written out by gather;
//! - [`build`]: the messages a proxy makes itself: responses, ACK for a non-2xx, CANCEL.
//!
//! Nothing here has a socket or a clock, and nothing allocates to read a message.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod build;
pub mod header;
pub mod message;
pub mod patch;
pub mod span;
pub mod uri;

pub use header::*;
pub use message::{
    Essentials, Glitch, Glitches, HEADERS_MAX, Header, HeaderError, Layout, MESSAGE_BYTES_MAX,
    Message, ParseError, RequestLine, StatusLine, VALUES_MAX, Value, Values, Verdict, parse,
};
pub use patch::{Patch, PatchError, PatchSpace};
pub use span::{ByteAt, Span};
pub use uri::*;
