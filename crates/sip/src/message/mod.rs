//! One message: its buffer, the table of spans over it, and the views that read both.

mod error;
pub mod frame;
mod glance;
mod layout;
mod scan;
mod typed;
mod values;
mod view;

pub use error::{Glitch, Glitches, ParseError, Verdict};
pub use glance::begins_something;
pub use layout::{HEADERS_MAX, Layout, MESSAGE_BYTES_MAX, parse};
pub(crate) use scan::{is_token, is_token_byte, value_end};
pub use typed::{Essentials, HeaderError};
pub(crate) use values::has_comments;
pub use values::{VALUES_MAX, Value, Values, unfold};
pub use view::{Header, Headers, Message, RequestLine, StatusLine};
