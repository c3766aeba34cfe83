//! Where the configuration comes from: a file or the embedded default, with the command line over it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use config::{Config, Overrides, Problem, StoredUser};

use super::trouble::Trouble;
use crate::cli::RunArgs;
use crate::{commands, seals, users};

#[derive(Clone, Debug)]
pub(crate) struct Source {
    path: Option<PathBuf>,
    overrides: Overrides,
    /// Where the users of `tandem user` are; `None`: nowhere.
    state: Option<PathBuf>,
}

impl Source {
    pub(crate) fn new(args: &RunArgs, state: Option<PathBuf>) -> Self {
        Self {
            // A reload must find the file even if somebody changes our directory.
            path: args
                .config
                .as_ref()
                .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
            overrides: Overrides {
                listen: args.listen.clone(),
                workers: args.workers,
                reactors: args.reactors,
                pin: args.pin.clone(),
            },
            state,
        }
    }

    pub(crate) fn name(&self) -> String {
        self.path
            .as_ref()
            .map_or(config::DEFAULT_NAME.to_owned(), |path| {
                path.display().to_string()
            })
    }

    /// Reads and checks; the warnings come with the configuration.
    pub(crate) fn load(&self) -> Result<(Config, Vec<Problem>), Trouble> {
        let name = self.name();
        let text = match &self.path {
            None => config::DEFAULT.to_owned(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                let remedy = match error.kind() {
                    ErrorKind::InvalidData => "a configuration is a text file in UTF-8",
                    _ => "name a file that you may read, or start without -c for the embedded default",
                };
                Trouble::new(format!("cannot read the configuration {name}: {error}"), remedy)
            })?,
        };
        let (mut config, warnings) = config::load_with(&text, &name, &self.overrides)
            .map_err(|problems| refused(&name, &problems))?;
        if let Some(directory) = self.path.as_deref().and_then(Path::parent) {
            worker::compile::anchor(&mut config, directory);
        }
        config.stored = self.load_users()?;
        config.topology.keys = self.load_seals()?;
        Ok((config, warnings))
    }

    /// The users of `tandem user`, by domain and name.
    pub(crate) fn load_users(&self) -> Result<Vec<StoredUser>, Trouble> {
        let Some(state) = &self.state else {
            return Ok(Vec::new());
        };
        match users::load(state) {
            Ok(users) => Ok(users.0.into_values().collect()),
            Err(error) => Err(Trouble::new(error.to_string(), error.remedy())),
        }
    }

    /// The keys of `tandem topology rotate`.
    fn load_seals(&self) -> Result<Vec<[u8; config::KEY_BYTES]>, Trouble> {
        let Some(state) = &self.state else {
            return Ok(Vec::new());
        };
        seals::load(state).map_err(|error| Trouble::new(error.to_string(), error.remedy()))
    }

    /// There is no file of users, not even an empty one.
    pub(crate) fn lacks_users(&self) -> bool {
        self.state.as_deref().is_some_and(users::is_missing)
    }

    pub(crate) fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }
}

fn refused(name: &str, problems: &[Problem]) -> Trouble {
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let errors = commands::count(errors, "error", "errors");
    let mut cause = format!("the configuration {name} is refused: {errors}");
    for problem in problems {
        cause.push_str(&format!("\n\n{problem}"));
    }
    Trouble::new(cause, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_needs_no_file_and_the_command_line_goes_over_it() {
        let listen = "127.0.0.2:0".parse().unwrap();
        let args = RunArgs {
            listen: vec![listen],
            workers: Some(2),
            reactors: Some(3),
            ..RunArgs::default()
        };
        let (config, _) = Source::new(&args, None).load().unwrap();
        assert_eq!((config.workers.count, config.slots()), (2, 6));
        assert_eq!(
            config
                .listen
                .iter()
                .map(|listen| listen.address)
                .collect::<Vec<_>>(),
            [listen]
        );
    }

    #[test]
    fn a_refused_file_tells_every_error_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, "[workers]\ncount = 0\nreactor = 1\n").unwrap();
        let source = Source::new(
            &RunArgs {
                config: Some(path),
                ..RunArgs::default()
            },
            None,
        );
        let trouble = source.load().unwrap_err();
        assert!(
            trouble.cause.contains("a.toml:2:9") && trouble.cause.contains("a.toml:3:1"),
            "{trouble}"
        );
        let missing = Source::new(
            &RunArgs {
                config: Some("none.toml".into()),
                ..RunArgs::default()
            },
            None,
        );
        assert!(missing.load().unwrap_err().cause.contains("none.toml"));
    }
}
