//! Typed configuration: parse, check with positions, compare old against new.
//!
//! | module | its one job |
//! |---|---|
//! | [`keys`] | every key once, with its default, unit and explanation |
//! | `model` | what a configuration says: plain data, shipped to workers |
//! | `reader`, `value` | typed values out of TOML; what is wrong becomes a problem with a place |
//! | `parse`, `check` | tables to [`Config`]; what is wrong between values |
//! | `overrides` | what the command line says over the file |
//! | `diff` | what a reload changes live, and what waits for a restart |
//! | `group` | `[[group]]`, with its keys |
//! | `period`, `caller`, `prefix_table` | what tables of numbers ask: when it is, who calls, and where their rules are |
//! | `router` | `[[domain]]` and `[[route]]` ready for use |
//! | `users` | the file of users that `tandem user` keeps |
//! | `reference` | the page of the book about all keys |
//!
//! Nothing here opens a file: texts come in, values and problems go out.
#![forbid(unsafe_code)]

mod caller;
mod calls;
mod cdr;
mod check;
mod diff;
mod group;
pub mod keys;
mod media;
mod model;
mod nat;
mod network;
mod overrides;
mod parse;
mod period;
mod prefix_table;
mod problem;
mod reader;
mod reference;
mod router;
mod topology;
mod uri;
mod users;
mod value;

pub use diff::{Diff, diff, merge_live};
pub use model::*;
pub use overrides::{ArgumentError, Overrides, parse_listen, parse_pin};
pub use period::Calendar;
pub use problem::{Place, Problem, Severity};
pub use reference::reference_markdown;
pub use router::{Matched, Question, Router, unescaped};
pub use users::{
    IDENTITIES_MAX, USERS_MAX, Users, UsersError, parse_account, parse_ha1, parse_identity,
};

/// The configuration that runs where no file is given: loopback only, works at once.
pub const DEFAULT: &str = include_str!("../examples/default.toml");

/// What [`DEFAULT`] is called in messages.
pub const DEFAULT_NAME: &str = "(built-in default)";

/// Reads and checks a configuration. `file` is its name in messages.
///
/// # Errors
/// Every error that was found, and the warnings between them, in the order of the file.
pub fn load(text: &str, file: &str) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    load_with(text, file, &Overrides::default())
}

/// As [`load`], with what the command line says over the file.
pub fn load_with(
    text: &str,
    file: &str,
    overrides: &Overrides,
) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    load_for(
        text,
        file,
        overrides,
        u16::try_from(cores).unwrap_or(u16::MAX),
    )
}

/// As [`load_with`], for a machine with this many cores.
pub fn load_for(
    text: &str,
    file: &str,
    overrides: &Overrides,
    cores: u16,
) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let reader = reader::Reader::new(file, text);
    let document = match toml_edit::Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().unwrap_or(text.len()..text.len());
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            reader.error(
                Some(at),
                format!("this is not TOML: {message}"),
                "see https://toml.io for the syntax",
            );
            return Err(reader.into_problems());
        }
    };
    let config = {
        let mut draft = parse::parse(&reader, document.as_table(), cores);
        overrides.apply(&reader, &mut draft, cores);
        check::check(&reader, &draft);
        draft.config
    };
    let refused = reader.has_errors();
    let problems = reader.into_problems();
    if refused {
        Err(problems)
    } else {
        Ok((config, problems))
    }
}
