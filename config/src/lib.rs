//! Typed configuration: parse, check with positions, compare old against new.
#![forbid(unsafe_code)]

mod model;
mod problem;

pub use model::*;
pub use problem::{Place, Problem, Severity};
