//! Errors and warnings with a place and a remedy, shown the way compilers do.

use std::{fmt, ops::Range, sync::Arc};

/// Something wrong, or likely wrong, in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// `None` when it is not in the file, but on the command line.
    pub place: Option<Place>,
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken; somebody should look.
    Warning,
}

/// A piece of a line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The whole line, without its end.
    pub text: String,
    /// Characters to underline, at least one.
    pub width: usize,
}

impl Problem {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// ```text
/// error: `workers.count` must be 1 to 256
///  --> tandem.toml:7:9
///   |
/// 7 | count = 900
///   |         ^^^
///   = help: choose a number from 1 to 256
/// ```
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}: {}", self.message)?;
        let mut margin = 1;
        if let Some(place) = &self.place {
            margin = place.line.to_string().len();
            // A tab stays a tab in the pad, so that the caret stands below its character.
            let pad: String = place
                .text
                .chars()
                .take(place.column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            writeln!(
                f,
                "{:margin$}--> {}:{}:{}",
                "", place.file, place.line, place.column
            )?;
            writeln!(f, "{:margin$} |", "")?;
            writeln!(f, "{} | {}", place.line, place.text)?;
            writeln!(f, "{:margin$} | {pad}{}", "", "^".repeat(place.width))?;
        }
        write!(f, "{:margin$} = help: {}", "", self.remedy)
    }
}

/// The text of a file, to turn byte ranges into places.
pub(crate) struct Source<'a> {
    file: Arc<str>,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &str, text: &'a str) -> Self {
        Self {
            file: file.into(),
            text,
        }
    }

    /// The place of a byte range; of a range over several lines, its part on the first.
    pub(crate) fn place(&self, range: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(range.start);
        let end = self.text.floor_char_boundary(range.end.max(start));
        let (before, after) = self.text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = after.find('\n').map_or(self.text.len(), |at| start + at);
        let chars = |from: usize, to: usize| self.text.get(from..to).unwrap_or("").chars().count();
        Place {
            file: Arc::clone(&self.file),
            line: before.matches('\n').count() + 1,
            column: chars(line_start, start) + 1,
            text: self
                .text
                .get(line_start..line_end)
                .unwrap_or("")
                .trim_end_matches('\r')
                .to_owned(),
            width: chars(start, end.min(line_end)).max(1),
        }
    }
}
