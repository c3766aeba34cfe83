//! Comma separated values across the lines of one header.

use super::layout::Line;
use super::scan;
use super::view::Message;
use crate::header::HeaderName;
use crate::span::Span;

/// Values of one header that are looked at; a message with more of them is no honest one, and the rest goes unseen.
pub const VALUES_MAX: usize = 1024;

/// One value of a header, without the commas and the white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    pub value: &'a [u8],
    /// Where it is in the message's buffer.
    pub span: Span,
}

/// The values of all lines of one header, in order (§7.3.1); see [`Message::values`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    message: Message<'a>,
    name: HeaderName,
    /// The line being read.
    line: Option<&'a Line>,
    /// What is left of its value.
    rest: Span,
    left: usize,
}

impl<'a> Values<'a> {
    pub(super) fn new(message: Message<'a>, name: HeaderName) -> Self {
        let line = message.layout.first_line(name);
        Values {
            message,
            name,
            line,
            rest: line.map_or(Span::default(), |l| l.value),
            left: VALUES_MAX,
        }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        loop {
            let line = self.line?;
            if self.rest.is_empty() {
                self.line = self.message.layout.line_after(line);
                self.rest = self.line.map_or(Span::default(), |l| l.value);
                continue;
            }
            let bytes = self.message.bytes;
            let list = self.rest.slice(bytes);
            let len = if self.name.is_list() {
                scan::value_end(list, has_comments(self.name))
            } else {
                list.len()
            };
            let start = self.rest.start as usize;
            let comma = start.wrapping_add(len);
            let end = self.rest.end as usize;
            self.rest = Span::of(comma.wrapping_add(1).min(end), end);
            let (start, end) = scan::trim(bytes, start, comma);
            // An empty element of a list is no value: `Supported:` and `a,,b` occur.
            if start < end {
                let span = Span::of(start, end);
                return Some(Value {
                    value: span.slice(bytes),
                    span,
                });
            }
        }
    }
}

/// List headers in whose values parentheses may be comments: only Via, and that from RFC 2543 §6.40.
pub(crate) fn has_comments(name: HeaderName) -> bool {
    name == HeaderName::Via
}

/// Adds `value` to `out` with every fold, and every stray line end, as one space (§7.3.1): what a value must look like
/// before it goes into a line of our own making.
pub fn unfold(value: &[u8], out: &mut Vec<u8>) {
    let is_lws = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let mut rest = value;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
        let (before, after) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        let kept = before
            .iter()
            .rposition(|b| !is_lws(b))
            .map_or(0, |last| last.wrapping_add(1));
        out.extend_from_slice(before.get(..kept).unwrap_or_default());
        out.push(b' ');
        let next = after.iter().position(|b| !is_lws(b)).unwrap_or(after.len());
        rest = after.get(next..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::unfold;

    #[test]
    fn folds_become_one_space() {
        let unfolded = |value: &str| {
            let mut out = Vec::new();
            unfold(value.as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(unfolded("a  b"), "a  b");
        assert_eq!(unfolded("a \r\n\t b\n c"), "a b c");
        assert_eq!(unfolded("a\r\n \r\n b"), "a b");
        assert_eq!(unfolded("a\rb"), "a b");
        assert_eq!(unfolded("\r\n"), " ");
        assert_eq!(unfolded(""), "");
    }
}
