#![forbid(unsafe_code)]
mod cli;
mod paths;
mod run;
fn main() {}
