//! The sorted list of edits under a [`Patch`](super::Patch), and the text they put in.

use std::borrow::Cow;

use super::{FieldName, PATCHES_MAX, PatchError};
use crate::header::{HeaderName, trim};
use crate::message::Header;
use crate::span::Span;

/// One edit: `text` takes the place of `span`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edit {
    /// Of the original; empty in an insertion.
    pub(super) span: Span,
    /// Of [`PatchSpace::text`].
    pub(super) text: Span,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A new line, before the line that starts at `span`. The text is `Name: value CRLF`.
    Insert { name: HeaderName, name_len: u32 },
    /// One or more whole lines go.
    Remove,
    /// A part of a header value or of the start line becomes something else.
    Part,
    /// The body.
    Body,
}

impl Edit {
    pub(super) fn insertion(at: u32, text: Span, kind: Kind) -> Edit {
        Edit {
            span: Span::new(at, at),
            text,
            kind,
        }
    }

    fn is_insertion(&self) -> bool {
        matches!(self.kind, Kind::Insert { .. })
    }
}

/// The memory of a patch. Kept by whoever patches one message after another, so that only the first few allocate.
///
/// Invariant: `edits` are sorted by `span.start`, insertions first among equals, and their spans do not overlap.
#[derive(Debug, Default)]
pub struct PatchSpace {
    edits: Vec<Edit>,
    text: Vec<u8>,
}

impl PatchSpace {
    pub(super) fn clear(&mut self) {
        self.edits.clear();
        self.text.clear();
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Edit> {
        self.edits.iter()
    }

    pub(super) fn text(&self, span: Span) -> &[u8] {
        span.slice(&self.text)
    }

    pub(super) fn text_len(&self) -> usize {
        self.text.len()
    }

    // ---- keeping text --------------------------------------------------------------------------------------------

    pub(super) fn keep(&mut self, text: &[u8]) -> Span {
        let start = self.text.len();
        self.text.extend_from_slice(text);
        Span::of(start, self.text.len())
    }

    pub(super) fn keep_line(&mut self, name: FieldName<'_>, value: &[u8]) -> (Span, Kind) {
        let start = self.text.len();
        let name_text = name.text();
        self.text.extend_from_slice(name_text);
        self.text.extend_from_slice(b": ");
        self.text.extend_from_slice(value);
        self.text.extend_from_slice(b"\r\n");
        let kind = Kind::Insert {
            name: name.known(),
            name_len: Span::of(0, name_text.len()).end,
        };
        (Span::of(start, self.text.len()), kind)
    }

    // ---- looking -------------------------------------------------------------------------------------------------

    /// The edit that replaces exactly this span.
    pub(super) fn exact(&self, span: Span) -> Option<&Edit> {
        self.edits
            .iter()
            .find(|e| e.kind == Kind::Part && e.span == span)
    }

    pub(super) fn is_removed(&self, line: Span) -> bool {
        self.edits
            .iter()
            .any(|e| e.kind == Kind::Remove && e.span.contains(line))
    }

    /// Whether `edit` inserts a line of this name.
    pub(super) fn inserts(&self, edit: &Edit, name: FieldName<'_>) -> bool {
        match edit.kind {
            Kind::Insert {
                name: known,
                name_len,
            } => name.matches(
                known,
                self.text(edit.text)
                    .get(..name_len as usize)
                    .unwrap_or_default(),
            ),
            Kind::Remove | Kind::Part | Kind::Body => false,
        }
    }

    pub(super) fn inserted_value(&self, index: usize) -> &[u8] {
        match self.edits.get(index) {
            Some(Edit {
                text,
                kind: Kind::Insert { name_len, .. },
                ..
            }) => {
                let value = self
                    .text(*text)
                    .get((*name_len as usize).saturating_add(1)..);
                trim(value.unwrap_or_default())
            }
            _ => &[],
        }
    }

    /// The value of an original header with the edits inside it.
    pub(super) fn edited<'s>(&'s self, bytes: &'s [u8], header: &Header<'_>) -> Cow<'s, [u8]> {
        let value = header.value_span;
        let mut whole = Cow::Borrowed(&[][..]);
        let mut from = value.start;
        for edit in self.parts(header.line) {
            join(&mut whole, Span::new(from, edit.span.start).slice(bytes));
            join(&mut whole, self.text(edit.text));
            from = edit.span.end;
        }
        join(&mut whole, Span::new(from, value.end).slice(bytes));
        match whole {
            Cow::Borrowed(value) => Cow::Borrowed(trim(value)),
            Cow::Owned(value) => Cow::Owned(value),
        }
    }

    fn parts(&self, line: Span) -> impl Iterator<Item = &Edit> {
        self.edits
            .iter()
            .filter(move |e| e.kind == Kind::Part && line.contains(e.span))
    }

    // ---- changing ------------------------------------------------------------------------------------------------

    /// Where an insertion goes that is to come first at this place.
    pub(super) fn before_inserts_at(&self, at: u32) -> usize {
        self.edits.partition_point(|e| e.span.start < at)
    }

    /// Where an insertion goes that is to come last at this place, but before the line there.
    pub(super) fn after_inserts_at(&self, at: u32) -> usize {
        self.edits
            .partition_point(|e| e.span.start < at || (e.span.start == at && e.is_insertion()))
    }

    pub(super) fn insert_edit(&mut self, index: usize, edit: Edit) -> Result<(), PatchError> {
        if self.edits.len() >= PATCHES_MAX {
            return Err(PatchError::TooMany);
        }
        self.edits.insert(index.min(self.edits.len()), edit);
        Ok(())
    }

    /// Puts an edit that is no insertion where it belongs: one that only adds text comes before one that replaces the
    /// bytes at the same place.
    pub(super) fn insert(&mut self, edit: Edit) -> Result<(), PatchError> {
        let mut index = self.after_inserts_at(edit.span.start);
        let adds_here = |e: &&Edit| {
            e.span.is_empty() && e.span.start == edit.span.start && !edit.span.is_empty()
        };
        while self.edits.get(index).filter(adds_here).is_some() {
            index = index.saturating_add(1);
        }
        self.insert_edit(index, edit)
    }

    pub(super) fn insert_line_at(
        &mut self,
        index: usize,
        text: Span,
        kind: Kind,
    ) -> Result<(), PatchError> {
        let at = self.edits.get(index).map_or(0, |e| e.span.start);
        self.insert_edit(index, Edit::insertion(at, text, kind))
    }

    pub(super) fn insert_line_after(
        &mut self,
        index: usize,
        text: Span,
        kind: Kind,
    ) -> Result<(), PatchError> {
        let at = self.edits.get(index).map_or(0, |e| e.span.start);
        self.insert_edit(index.saturating_add(1), Edit::insertion(at, text, kind))
    }

    pub(super) fn rewrite_line(&mut self, index: usize, text: Span, kind: Kind) {
        if let Some(edit) = self.edits.get_mut(index) {
            edit.text = text;
            edit.kind = kind;
        }
    }

    pub(super) fn remove(&mut self, index: usize) {
        if index < self.edits.len() {
            self.edits.remove(index);
        }
    }

    /// Replaces `span`, or changes the edit that already does.
    pub(super) fn replace_part(&mut self, span: Span, text: Span) -> Result<(), PatchError> {
        let same = |e: &&mut Edit| e.kind == Kind::Part && e.span == span;
        if let Some(edit) = self.edits.iter_mut().find(same) {
            edit.text = text;
            return Ok(());
        }
        let overlaps =
            |e: &Edit| e.kind == Kind::Part && e.span.start < span.end && span.start < e.span.end;
        if self.edits.iter().any(overlaps) {
            return Err(PatchError::Overlap);
        }
        self.insert(Edit {
            span,
            text,
            kind: Kind::Part,
        })
    }

    /// Makes `span -> text` the only edit inside `line`.
    pub(super) fn replace_all_parts(
        &mut self,
        line: Span,
        span: Span,
        text: Span,
    ) -> Result<(), PatchError> {
        self.edits
            .retain(|e| !(e.kind == Kind::Part && line.contains(e.span)));
        self.insert(Edit {
            span,
            text,
            kind: Kind::Part,
        })
    }

    /// Removes a line with the edits inside it; neighbours that go too share one edit.
    pub(super) fn remove_line(&mut self, line: Span) -> Result<(), PatchError> {
        self.edits
            .retain(|e| !(e.kind == Kind::Part && line.contains(e.span)));
        let index = self.after_inserts_at(line.start);
        if let Some(before) = index
            .checked_sub(1)
            .and_then(|before| self.edits.get_mut(before))
            && before.kind == Kind::Remove
            && before.span.end == line.start
        {
            before.span.end = line.end;
            return Ok(());
        }
        self.insert_edit(
            index,
            Edit {
                span: line,
                text: Span::default(),
                kind: Kind::Remove,
            },
        )
    }

    pub(super) fn set_body(&mut self, span: Span, text: Span) -> Result<(), PatchError> {
        if let Some(edit) = self.edits.iter_mut().find(|e| e.kind == Kind::Body) {
            edit.text = text;
            return Ok(());
        }
        self.insert_edit(
            self.edits.len(),
            Edit {
                span,
                text,
                kind: Kind::Body,
            },
        )
    }
}

/// Adds a piece, and copies only when there is more than one.
fn join<'s>(whole: &mut Cow<'s, [u8]>, piece: &'s [u8]) {
    if piece.is_empty() {
    } else if whole.is_empty() {
        *whole = Cow::Borrowed(piece);
    } else {
        whole.to_mut().extend_from_slice(piece);
    }
}
