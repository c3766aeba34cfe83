//! What happened, line by line, for whoever has to find out why.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use stdx::Instant;

use crate::{text::Text, world::Note};

/// Notes as text.
#[derive(Default)]
pub(crate) struct Ladder {
    names: BTreeMap<SocketAddr, String>,
    lines: Vec<(String, String)>,
}

impl Ladder {
    pub(crate) fn name(&mut self, address: SocketAddr, name: &str) {
        self.names.insert(address, name.to_owned());
    }

    pub(crate) fn add(&mut self, now: Instant, note: &Note) {
        let (what, packet) = match note {
            Note::Said(packet) => ("says", packet),
            Note::In(packet, _) => ("in", packet),
            Note::Out(packet, _) => ("out", packet),
            Note::Reached(packet) => ("hears", packet),
            Note::Lost(packet) => ("LOST", packet),
            Note::NoWay(packet) => ("NO WAY", packet),
            Note::Died { worker, at } => {
                return self.say(now, &format!("worker {worker} dies at {at}"));
            }
            Note::Heir { worker } => return self.say(now, &format!("worker {worker} has an heir")),
            Note::Remark(text) => return self.say(now, text),
        };
        let slot = match note {
            Note::In(_, slot) | Note::Out(_, slot) => format!(" {slot}"),
            _ => String::new(),
        };
        let text = Text::read(&packet.bytes);
        let (call_id, summary) = text.map_or_else(
            || (String::new(), format!("{} bytes", packet.bytes.len())),
            |text| (text.call_id().to_owned(), text.summary()),
        );
        let mut line = String::new();
        let (from, to) = (self.of(packet.from), self.of(packet.to));
        let what = format!("{what}{slot}");
        let _ = write!(line, "{now:?} {what:6} {from:>8} -> {to:8} {summary}");
        self.lines.push((call_id, line));
    }

    pub(crate) fn say(&mut self, now: Instant, text: &str) {
        self.lines
            .push((String::new(), format!("{now:?} ------ {text}")));
    }

    fn of(&self, address: SocketAddr) -> String {
        self.names
            .get(&address)
            .cloned()
            .unwrap_or_else(|| address.to_string())
    }

    /// The lines of what the faults name, or all of them.
    pub(crate) fn about(&self, faults: &[String]) -> String {
        let named = |call_id: &str| {
            faults.iter().any(|fault| {
                fault
                    .split_whitespace()
                    .any(|word| word.trim_matches([':', ',']) == call_id)
            })
        };
        let any = self.lines.iter().any(|(id, _)| !id.is_empty() && named(id));
        let lines = self
            .lines
            .iter()
            .filter(|(id, _)| !any || id.is_empty() || named(id))
            .map(|(_, line)| line.as_str());
        lines.collect::<Vec<_>>().join("\n")
    }
}
