//! The records of calls that are over.

use tables::CDR;

use super::World;

impl World {
    pub(super) fn show_records(&mut self) {
        for line in self.records(true) {
            self.note(&line);
        }
    }

    /// The records of calls that are over: who with whom, why, and, unless deaths have taken their time, for how long and how long ago.
    pub fn records(&mut self, exact: bool) -> Vec<String> {
        let mut lines = Vec::new();
        self.slots[0].participant.rows(CDR, |record| {
            let cdr = tables::cdr::Cdr::read(record.payload).expect("a record");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let mut line = format!("{} {}", text(&cdr.call_id), cdr.cause.name());
            match cdr.answer_at {
                Some(_) => {
                    line += &format!(" with {}", text(&cdr.callee_tag));
                    if exact {
                        line += &format!(" for {:?}", cdr.duration());
                    }
                }
                None => line += &format!(" {}", cdr.code),
            }
            let ago = stdx::Moment::from(self.now).saturating_duration_since(cdr.end_at);
            if exact && !ago.is_zero() {
                line += &format!(", {ago:?} ago");
            }
            lines.push(line);
        });
        lines.sort();
        let mut symbolic = |line: &String| self.symbolic(line);
        lines.iter().map(&mut symbolic).collect()
    }
}
