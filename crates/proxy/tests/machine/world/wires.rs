//! What we send, as it reaches its agent and as it stands in the log of a script.

use std::rc::Rc;

use super::{Packet, Wire, World, agent};

impl World {
    /// A datagram of ours reaches its agent.
    pub(super) fn arrive(&mut self, wire: Wire) {
        let by = if wire.listener == 1 {
            String::new()
        } else {
            format!(" by {}", wire.listener)
        };
        let summary = self.summary(&wire.text);
        if let Some(listener) = self
            .settings
            .listeners
            .iter()
            .find(|listener| listener.address == wire.to)
        {
            let source = self
                .settings
                .listener(wire.listener)
                .map(|from| from.address);
            self.looped.push(Packet {
                bytes: Rc::from(wire.text.as_bytes()),
                source: source.unwrap_or(wire.to),
                listener: listener.id,
            });
            self.note(&format!("us < {summary}{by}"));
            self.sent.push(wire);
            return;
        }
        let known = self
            .agents
            .iter_mut()
            .find(|agent| agent.source == wire.to || agent.address == wire.to);
        let (name, again) = match known {
            None => (wire.to.to_string(), false),
            Some(agent) => {
                let again = agent
                    .inbox
                    .iter()
                    .rev()
                    .take(64)
                    .any(|text| *text == wire.text);
                agent.inbox.push(wire.text.clone());
                (agent.name.to_owned(), again)
            }
        };
        let again = if again { " again" } else { "" };
        self.note(&format!("{name} < {summary}{by}{again}"));
        if self.shown.iter().any(|show| show == "Body") {
            let body = wire.text.split_once("\r\n\r\n").map_or("", |parts| parts.1);
            self.log.push_str(&format!("        Body: {body}\n"));
        }
        for show in self.shown.clone() {
            for value in agent::headers(&wire.text, &show) {
                let value = self.symbolic(value);
                self.log.push_str(&format!("        {show}: {value}\n"));
            }
        }
        self.sent.push(wire);
    }

    pub(super) fn summary(&mut self, text: &str) -> String {
        let line = text.lines().next().unwrap_or_default();
        let line = match agent::code(text) {
            Some(code) => format!(
                "{code} {}",
                agent::header(text, "CSeq")
                    .split(' ')
                    .nth(1)
                    .unwrap_or_default()
            ),
            None => line.trim_end_matches(" SIP/2.0").to_owned(),
        };
        self.symbolic(&line)
    }

    /// Text with what depends on hashes, rows and runs named in the order of its appearance.
    pub fn symbolic(&mut self, text: &str) -> String {
        let mut text = text.replace(&format!(".{}", self.run_mark()), "");
        for (begins, sign, bytes) in [
            ("z9hG4bKt", "#", 39),
            ("z9hG4bKs", "#s", 39),
            (";tag=", ";tag=%", 13),
            (";td=", ";td=%", 13),
            (";td=", ";td=%", 26),
            ("nonce=\"", "nonce=\"*", 0),
        ] {
            let mut from = 0;
            while let Some(at) = text[from..].find(begins).map(|at| from + at) {
                let start = at + begins.len();
                let end = text[start..]
                    .find(|c: char| !c.is_ascii_alphanumeric() && bytes > 0 || c == '"')
                    .map_or(text.len(), |end| start + end);
                from = start;
                if bytes > 0 && end - start != bytes {
                    continue;
                }
                let number = match sign {
                    "#" | "#s" => {
                        let next = self.named.len() + 1;
                        self.named
                            .entry(text[at..end].to_owned())
                            .or_insert(next)
                            .to_string()
                    }
                    _ => String::new(),
                };
                text.replace_range(at..end, &format!("{sign}{number}"));
                from = at + sign.len();
            }
        }
        // Sealed tokens: what they hold is told by where they lead.
        let mut from = 0;
        while let Some(at) = text[from..].find("th-").map(|at| from + at + 3) {
            let end = text[at..]
                .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'))
                .map_or(text.len(), |end| at + end);
            text.replace_range(at..end, "%");
            from = at;
        }
        text
    }

    pub(super) fn run_mark(&self) -> String {
        format!("r{}", self.run)
    }

    pub(super) fn note(&mut self, line: &str) {
        self.log.push_str("    ");
        self.log.push_str(line);
        self.log.push('\n');
    }
}
