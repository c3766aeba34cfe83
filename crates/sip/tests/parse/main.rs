//! The parser and the patches against simple references that share no code with them.

mod build;
mod generate;
mod naive;
mod patches;
mod properties;
mod typical;
mod verdicts;
