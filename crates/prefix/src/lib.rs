//! Tables that lead numbers to groups of destinations by their longest prefix: what carriers call dynamic routing.
//!
//! | module | its one job |
//! |---|---|
//! | `compile` | a CSV file to the bytes of a table, or to what is wrong with it and where |
//! | `table` | look-ups in those bytes, in place: no allocation, nothing copied |
//! | `image` | how the bytes are laid out |
//! | `number`, `csv`, `problem` | digits, fields of a line, errors with a place |
//!
//! A table is compiled once, by a process that nobody waits for, and read by all: a million rules are some 40 MB for the machine. Nothing here opens a
//! file, knows a clock or a time zone: which periods hold comes in with the question.
#![forbid(unsafe_code)]

mod compile;
mod csv;
mod image;
mod number;
mod problem;
mod table;
#[cfg(test)]
mod tests;

pub use compile::{ALIKE_MAX, Compiled, Known, RULES_MAX, TARGETS_MAX, compile};
pub use number::{NUMBER_SYMBOLS_MAX, Number, NumberError, PREFIX_SYMBOLS_MAX};
pub use problem::{PROBLEMS_MAX, Problem};
pub use table::{Active, ImageError, PERIODS_MAX, REMOVES_MAX, Rule, Rules, Table, Target, When};
