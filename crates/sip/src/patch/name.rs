//! How an edit names a header.

use crate::header::HeaderName;

/// The name of a header to edit: one we know, or any token.
#[derive(Clone, Copy, Debug)]
pub enum FieldName<'n> {
    Known(HeaderName),
    Text(&'n [u8]),
}

impl<'n> FieldName<'n> {
    /// Which table entry it is; a compact form is the header it stands for.
    pub fn known(self) -> HeaderName {
        match self {
            FieldName::Known(name) => name,
            FieldName::Text(text) => HeaderName::of(text),
        }
    }

    /// What to write: the canonical spelling of a header we know. Empty for `Known(Other)`, which names nothing.
    pub fn text(self) -> &'n [u8] {
        match (self, self.known()) {
            (FieldName::Text(text), HeaderName::Other) => text,
            (_, known) => known.as_str().as_bytes(),
        }
    }

    /// Whether a line with this name is meant. `Known(Other)` means every line with a name we don't know.
    pub(crate) fn matches(self, known: HeaderName, text: &[u8]) -> bool {
        known == self.known()
            && match self {
                FieldName::Text(name) if known == HeaderName::Other => {
                    name.eq_ignore_ascii_case(text)
                }
                _ => true,
            }
    }
}

impl From<HeaderName> for FieldName<'_> {
    fn from(name: HeaderName) -> Self {
        FieldName::Known(name)
    }
}

impl<'n> From<&'n str> for FieldName<'n> {
    fn from(text: &'n str) -> Self {
        FieldName::Text(text.as_bytes())
    }
}

impl<'n> From<&'n [u8]> for FieldName<'n> {
    fn from(text: &'n [u8]) -> Self {
        FieldName::Text(text)
    }
}
