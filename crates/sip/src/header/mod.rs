//! Typed views of header values. Each parses on demand, borrows from the message and never allocates.
//!
//! A value that exists is well formed; a parser that refuses says at which byte of the value it stopped.
//! Folding (§7.3.1) may still be inside a value: the parsers treat it as linear white space.

pub mod challenge;
pub mod cseq;
pub(crate) mod cursor;
pub mod method;
pub mod name;
pub mod name_addr;
#[cfg(test)]
pub(crate) mod noise;
pub mod numbers;
pub mod params;
pub mod via;

pub use challenge::{AuthParam, Challenge, ChallengeError};
pub use cseq::{CSeq, CSeqError};
pub use cursor::{quote, trim, unquote};
pub use method::Method;
pub use name::HeaderName;
pub use name_addr::{NameAddr, NameAddrError};
pub use numbers::{NumberError, Q};
pub use params::{Param, Params, ParamsError};
pub use via::{SentBy, Via, ViaError};
