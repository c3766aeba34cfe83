//! What is wrong with a file of rules, with its place.

/// Problems that are kept of one file; nobody reads more.
pub const PROBLEMS_MAX: usize = 100;
/// Characters of a line that are shown.
const SHOWN_MAX: usize = 200;

/// Something wrong, or likely wrong, in a file of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file is refused for it; else somebody should look.
    pub is_error: bool,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: usize,
    /// The line, or the beginning of a long one.
    pub text: String,
    /// Characters to underline, at least one.
    pub width: usize,
    pub message: String,
    pub remedy: String,
}

impl Problem {
    /// `at`: bytes of the line.
    pub(crate) fn new(
        line: u32,
        text: &str,
        at: std::ops::Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let chars =
            |range: std::ops::Range<usize>| text.get(range).map_or(0, |part| part.chars().count());
        Self {
            is_error: true,
            line,
            column: chars(0..at.start) + 1,
            text: text.chars().take(SHOWN_MAX).collect(),
            width: chars(at).max(1),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn warning(self) -> Self {
        Self {
            is_error: false,
            ..self
        }
    }
}
