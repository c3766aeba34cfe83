//! From the file of a `[[prefix_table]]` to its compiled image: for a helper, and for whoever checks a configuration.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use config::{Config, Place, PrefixTable, Problem, Severity};
use nix::libc::O_NONBLOCK;
use os::{SealedMap, Seals};

use crate::numbers::{Table, Tables};

/// Largest file of rules. Unit: bytes.
const BYTES_MAX: u64 = 1 << 30;

/// A file of rules that is open for reading.
#[derive(Debug)]
pub struct Rules {
    file: File,
    name: String,
}

/// What tells one state of a file from another.
pub type Stamp = [u64; 4];

/// The file's stamp at this moment; `None` if it can't be told.
pub fn stamp(path: &Path) -> Option<Stamp> {
    path.metadata().ok().map(|about| stamp_of(&about))
}

fn stamp_of(about: &std::fs::Metadata) -> Stamp {
    let nanos = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
    // Wraps after 584 years.
    [about.dev(), about.ino(), about.len(), nanos as u64]
}

/// Opens the file of a table, as whoever we are now.
pub fn open(table: &PrefixTable) -> Result<Rules, Box<Problem>> {
    // Not to be held up by what is no file.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(&table.file);
    let about = file
        .as_ref()
        .map_err(|error| error.to_string())
        .and_then(|file| {
            let about = file.metadata().map_err(|error| error.to_string())?;
            match about.is_file() {
                true if about.len() <= BYTES_MAX => Ok(()),
                true => Err("it is larger than 1 GiB".to_owned()),
                false => Err("it is no file".to_owned()),
            }
        });
    match (file, about) {
        (Ok(file), Ok(())) => Ok(Rules {
            file,
            name: table.file.clone(),
        }),
        (_, about) => Err(Box::new(nowhere(
            format!(
                "the rules of `prefix_table` {:?} can't be read from {}: {}",
                table.name,
                table.file,
                about.err().unwrap_or_default()
            ),
            "name a CSV file that the server may read; a relative path is meant from the directory of the configuration file",
        ))),
    }
}

fn nowhere(message: String, remedy: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        place: None,
        message,
        remedy: remedy.to_owned(),
    }
}

/// A table that can be used.
#[derive(Debug)]
pub struct Compiled {
    pub image: Vec<u8>,
    pub lines: u32,
    pub stamp: Stamp,
    pub warnings: Vec<Problem>,
}

/// Reads and compiles an open file, for a table of a configuration.
pub fn compile(
    rules: Rules,
    table: &PrefixTable,
    config: &Config,
) -> Result<Compiled, Vec<Problem>> {
    let Rules { mut file, name } = rules;
    let unreadable = |why: String| {
        let message = format!(
            "the rules of `prefix_table` {:?} can't be read from {name}: {why}",
            table.name
        );
        vec![nowhere(message, "see whether its disk is well, and reload")]
    };
    let about = |file: &File| file.metadata().map(|about| stamp_of(&about));
    let stamp = about(&file).map_err(|error| unreadable(error.to_string()))?;
    let mut text = Vec::new();
    // One byte more than is allowed, and it is too long.
    let read = Read::by_ref(&mut file)
        .take(BYTES_MAX + 1)
        .read_to_end(&mut text);
    read.map_err(|error| unreadable(error.to_string()))?;
    if about(&file).ok() != Some(stamp) {
        let message = format!("{name} was written to while it was read");
        return Err(vec![nowhere(
            message,
            "write a new file beside it, rename that, and reload",
        )]);
    }
    let known = prefix::Known {
        groups: config
            .groups
            .iter()
            .map(|group| group.name.clone())
            .collect(),
        callers: config
            .callers
            .iter()
            .map(|caller| caller.name.clone())
            .collect(),
        periods: config
            .periods
            .iter()
            .map(|period| period.name.clone())
            .collect(),
    };
    let file: Arc<str> = name.into();
    let problems = |found: Vec<prefix::Problem>| {
        found
            .into_iter()
            .map(|problem| shown(problem, &file))
            .collect()
    };
    match prefix::compile(&text, &known, &table.remove) {
        Ok(compiled) => Ok(Compiled {
            image: compiled.image,
            lines: compiled.lines,
            stamp,
            warnings: problems(compiled.warnings),
        }),
        Err(found) => Err(problems(found)),
    }
}

/// As all problems of a configuration are shown.
fn shown(problem: prefix::Problem, file: &Arc<str>) -> Problem {
    Problem {
        severity: match problem.is_error {
            true => Severity::Error,
            false => Severity::Warning,
        },
        place: Some(Place {
            file: Arc::clone(file),
            line: usize::try_from(problem.line).unwrap_or(usize::MAX),
            column: problem.column,
            text: problem.text,
            width: problem.width,
        }),
        message: problem.message,
        remedy: problem.remedy,
    }
}

/// Makes what names a file start at a directory, unless it is a whole path.
pub fn anchor(config: &mut Config, directory: &Path) {
    for table in &mut config.prefix_tables {
        let path = directory.join(&table.file);
        table.file = path.to_string_lossy().into_owned();
    }
}

/// Compiles every table of a configuration, for a command that needs no server; what is wrong, and the warnings.
pub fn all(config: &mut Config) -> (Tables, Vec<Problem>) {
    let (mut tables, mut problems) = (Tables::new(), Vec::new());
    let mut images = Vec::new();
    for (image, table) in (1..).zip(&config.prefix_tables) {
        let compiled = open(table)
            .map_err(|problem| vec![*problem])
            .and_then(|rules| compile(rules, table, config));
        match compiled.map(|compiled| (sealed(&compiled.image), compiled.warnings)) {
            Ok((Ok(file), warnings)) => {
                problems.extend(warnings);
                images.push((image, file));
            }
            Ok((Err(error), _)) => problems.push(nowhere(
                format!("there is no memory for the table {:?}: {error}", table.name),
                "end something else, or use a machine with more memory",
            )),
            Err(wrong) => problems.extend(wrong),
        }
    }
    for (image, file) in images {
        let map = SealedMap::new(file.as_fd()).ok();
        if let Some(table) = map.and_then(|map| Table::open(map).ok()) {
            tables.insert(image, Arc::new(table));
        }
    }
    for (image, table) in (1..).zip(&mut config.prefix_tables) {
        table.image = image;
    }
    (tables, problems)
}

/// An image as a memory file that nobody changes.
pub(crate) fn sealed(image: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(os::memfd("tandem-prefixes", 0, Seals::NONE)?);
    file.write_all(image)?;
    os::seal(file.as_fd(), os::FOR_GOOD)?;
    Ok(file.into())
}
