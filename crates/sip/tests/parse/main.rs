//! The parser and the patches against simple references that share no code with them.

mod build;
mod framing;
mod generate;
mod injection;
mod naive;
mod patches;
mod properties;
mod torture;
mod typical;
mod verdicts;
