//! Records of calls as lines of a file; no file is opened here.
//!
//! - [`line`](mod@line): a record as a line of CSV or JSON; which fields there are.
//! - [`tail`]: what is at the end of a file that somebody else has written: the ids of its records, and half a line.
//! - [`rotation`]: when a file is full or its day over, and what it is called then; which file, and how far it has been dealt with.
//!
//! One line is one record, whatever a stranger put into a header: line ends and other control characters never get into it. The id comes first in
//! each line of either format. So a reader of the end of a file finds all ids by looking at the beginnings of lines, and a line without an end is
//! one whose writer died.

#![forbid(unsafe_code)]

pub mod line;
pub mod rotation;
pub mod tail;

pub use line::{Clock, Field, Form, Format};
pub use rotation::{Position, Rotation};
pub use tail::Tail;
