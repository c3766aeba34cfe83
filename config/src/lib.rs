//! Typed configuration: parse, check with positions, diff old against new.
