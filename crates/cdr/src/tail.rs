//! The end of a file that somebody else has written.
//!
//! Its writer may have died at any byte. Whole lines are records that are written, whether or not they were removed from the arena; what follows the last line end is half
//! a record, which is still in the arena: it is cut off and written again.

use tables::cdr::CdrId;

/// The longest text of an id, its beginning in JSON included.
const BEGINNING_MAX: usize = 64;
/// What a JSON line begins with.
const JSON: &[u8] = b"{\"id\":\"";

/// Reads a file, or the end of one, in pieces. The first byte must be the first of a line.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// The beginning of the line at hand, as far as it can be an id.
    beginning: Vec<u8>,
    /// Bytes of the line at hand.
    line_bytes: u64,
}

impl Tail {
    /// Takes the next bytes; `id` gets those of whole lines that begin with one.
    pub fn read(&mut self, bytes: &[u8], mut id: impl FnMut(CdrId)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = BEGINNING_MAX.saturating_sub(self.beginning.len());
            self.beginning
                .extend_from_slice(piece.get(..room).unwrap_or(piece));
            self.line_bytes += piece.len() as u64;
            if piece.ends_with(b"\n") {
                if let Some(found) = id_of(&self.beginning) {
                    id(found);
                }
                self.beginning.clear();
                self.line_bytes = 0;
            }
        }
    }

    /// Bytes after the last line end so far: half a line, to be cut off.
    pub fn torn(&self) -> u64 {
        self.line_bytes
    }
}

/// The id that a line begins with, in either format.
fn id_of(line: &[u8]) -> Option<CdrId> {
    let text = line.strip_prefix(JSON).unwrap_or(line);
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit() && *byte != b'-')?;
    std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Field, Form, Format};

    fn read(bytes: &[u8], pieces: usize) -> (Vec<CdrId>, u64) {
        let (mut tail, mut ids) = (Tail::default(), Vec::new());
        for piece in bytes.chunks(pieces.max(1)) {
            tail.read(piece, |id| ids.push(id));
        }
        (ids, tail.torn())
    }

    #[test]
    fn ids_of_whole_lines_in_either_format() {
        let mut cdr = crate::line::tests::cdr();
        let mut text = String::new();
        let mut wanted = Vec::new();
        for (nth, format) in [Format::Csv, Format::Json, Format::Csv]
            .into_iter()
            .enumerate()
        {
            let form = Form::new(format, &[]);
            text.push_str(&form.head());
            for fork in [0, 7] {
                cdr.id.dialog = [nth as u8; 16];
                cdr.id.fork = fork;
                form.write(&cdr, &crate::line::tests::CLOCK, &mut text);
                wanted.push(cdr.id);
            }
        }
        assert_eq!(read(text.as_bytes(), 1000), (wanted.clone(), 0));
        let torn = text.len() - 5;
        let (ids, bytes) = read(&text.as_bytes()[..torn], 7);
        assert_eq!(ids, wanted[..5]);
        let last = text.lines().last().unwrap();
        assert_eq!(bytes, last.len() as u64 + 1 - 5);
    }

    #[test]
    fn what_is_no_record_is_passed_over() {
        let id = "ab".repeat(16);
        for (line, is_id) in [
            (format!("{id},x\n"), true),
            (format!("{id}\n"), true),
            (format!("{{\"id\":\"{id}-{}\"}}\n", "0".repeat(16)), true),
            ("id,call_id\n".to_owned(), false),
            ("\n".to_owned(), false),
            (format!("{id}ab,x\n"), false),
            (format!("x{id},x\n"), false),
            (format!("{id}-12,x\n"), false),
        ] {
            assert_eq!(
                read(line.as_bytes(), 100).0.len(),
                usize::from(is_id),
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_cut_anywhere_loses_only_the_line_that_it_is_in(
            count in 1usize..6, cut in 0usize..400, pieces in 1usize..80, json: bool,
        ) {
            let form = Form::new(
                if json { Format::Json } else { Format::Csv },
                &[Field::CallId, Field::Code],
            );
            let mut cdr = crate::line::tests::cdr();
            let mut text = form.head();
            let mut ends = Vec::new();
            for nth in 0..count {
                cdr.id.dialog = [nth as u8; 16];
                form.write(&cdr, &crate::line::tests::CLOCK, &mut text);
                ends.push(text.len());
            }
            let cut = cut.min(text.len());
            let (ids, torn) = read(&text.as_bytes()[..cut], pieces);
            prop_assert_eq!(ids.len(), ends.iter().filter(|end| **end <= cut).count());
            let whole = text[..cut].rfind('\n').map_or(0, |at| at + 1);
            prop_assert_eq!(torn, (cut - whole) as u64);
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>, pieces in 1usize..80) {
            read(&bytes, pieces);
        }
    }
}
