//! A message that came beside the step that expects it.

use super::super::hidden;
use super::super::pattern::{self, Variables};
use super::super::rules;
use super::super::syntax::{Arrow, Detail, DetailKind, Start};
use super::{Engine, Verdict, lines_of};
use crate::message::Message;

impl Engine<'_> {
    /// Whether a message is the one that a step expects, and keeps all rules.
    pub(super) fn compare(
        &self,
        place: usize,
        arrow: &Arrow,
        variables: &mut Variables,
    ) -> Verdict {
        let came = &self.came[place];
        let message = &came.message;
        if came.from != arrow.from {
            return Err(format!("it came from {}:", came.from));
        }
        let wanted = self.start_line(arrow)?;
        if !wanted
            .iter()
            .any(|start| pattern::matches(start, &message.start, variables))
        {
            return Err(format!(
                "expected: {}\ncame:",
                wanted.first().cloned().unwrap_or_default()
            ));
        }
        if let Start::Response {
            method: Some(method),
            ..
        } = &arrow.message
            && message.method() != method
        {
            return Err(format!("it answers {}, not {method}:", message.method()));
        }
        if let Start::Request {
            about: Some(label), ..
        }
        | Start::Response {
            about: Some(label), ..
        } = &arrow.message
        {
            let other = &self.named(label)?.message;
            let same_call = match &self.sides {
                // Each side has its own.
                Some(sides) => sides.callers(message.call_id()) == sides.callers(other.call_id()),
                None => other.call_id() == message.call_id(),
            };
            if !same_call || other.cseq() != message.cseq() {
                return Err(format!("it is not about {label}:"));
            }
        }
        if let Some(agent) = self.parties.get(&arrow.to)
            && self.proxies.contains(&arrow.from)
        {
            let source = self.stage.address(&arrow.from);
            let (said, heard) = (&self.said, &agent.history);
            let kept = match &self.sides {
                Some(sides) => hidden::check(message, &arrow.to, source, said, heard, sides),
                None => rules::check(message, source, said, heard),
            };
            kept.map_err(|why| format!("{why}:"))?;
        }
        let details = self.seen(arrow, message);
        let mut names: Vec<&str> = Vec::new();
        for detail in &details {
            if let DetailKind::Header(name, _) = &detail.what
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        for name in names {
            self.compare_values(message, name, &details, variables)?;
        }
        for detail in &details {
            self.compare_detail(message, detail)
                .map_err(|why| format!("line {}: {why}:", detail.line))?;
            if let DetailKind::Body(text) = &detail.what {
                let body = String::from_utf8_lossy(&message.body);
                if !pattern::matches(&self.placed(text), &body, variables) {
                    return Err(format!("line {}: its body is another:", detail.line));
                }
            }
        }
        Ok(())
    }

    /// What the flow says of the message, as the side sees it that it goes to.
    fn seen(&self, arrow: &Arrow, message: &Message) -> Vec<Detail> {
        let Some(sides) = self.sides.as_ref().filter(|sides| !sides.flow_says) else {
            return arrow.details.clone();
        };
        if self.proxies.contains(&arrow.to) {
            // What they tell each other of routes is theirs.
            return Vec::new();
        }
        let made_here = sides.is_made_here(message, &self.said);
        let mut vias = 0;
        let mut details = arrow.details.clone();
        details.retain_mut(|detail| {
            let is_via = matches!(&detail.what, DetailKind::Header(name, _) if name == "Via");
            vias += usize::from(is_via);
            let more = is_via && vias > 1 && message.is_request();
            match hidden::seen(&detail.what, message.is_request(), !made_here) {
                Some(what) if !more => {
                    detail.what = what;
                    true
                }
                _ => false,
            }
        });
        details
    }

    /// The start lines that would do.
    fn start_line(&self, arrow: &Arrow) -> Verdict<Vec<String>> {
        Ok(match &arrow.message {
            Start::Request { method, uri, .. } => {
                let between = self.sides.is_some() && self.proxies.contains(&arrow.to);
                let uri = uri.as_deref().filter(|_| !between).unwrap_or("...");
                vec![format!("{method} {} SIP/2.0", self.placed(uri))]
            }
            Start::Response { code, reason, .. } => {
                let reason = reason.as_deref().unwrap_or("...");
                vec![format!("SIP/2.0 {code} {}", self.placed(reason))]
            }
            Start::Again(label) => vec![self.named(label)?.message.start.clone()],
            Start::Forwards { label, uri } => {
                let message = &self.named(label)?.message;
                if !message.is_request() {
                    return Ok(vec![message.start.clone()]);
                }
                let uri = uri.as_deref().unwrap_or(message.uri());
                vec![format!("{} {} SIP/2.0", message.method(), self.placed(uri))]
            }
        })
    }

    /// The values that are written are all that the message has, in order, unless the last is `*`.
    fn compare_values(
        &self,
        message: &Message,
        name: &str,
        details: &[Detail],
        variables: &mut Variables,
    ) -> Verdict {
        let mut wanted: Vec<(usize, &str)> = details
            .iter()
            .filter_map(|detail| match &detail.what {
                DetailKind::Header(other, value) if other == name => {
                    Some((detail.line, value.as_str()))
                }
                _ => None,
            })
            .collect();
        let more = wanted.last().is_some_and(|(_, value)| *value == "*");
        if more {
            wanted.pop();
        }
        let values = lines_of(message, name);
        let line = wanted
            .first()
            .or(wanted.last())
            .map_or(0, |(line, _)| *line);
        if values.len() < wanted.len() || (!more && values.len() > wanted.len()) {
            return Err(format!(
                "line {line}: it has {} values of {name}, not {}:",
                values.len(),
                wanted.len()
            ));
        }
        for ((line, pattern), value) in wanted.iter().zip(&values) {
            if !pattern::matches(&self.placed(pattern), value, variables) {
                let known = variables
                    .iter()
                    .map(|(name, value)| format!("${name} is {value}"));
                let known = known.collect::<Vec<_>>().join(", ");
                return Err(format!(
                    "line {line}: {name} is not {pattern} but {value} ({known}):"
                ));
            }
        }
        Ok(())
    }

    fn compare_detail(&self, message: &Message, detail: &Detail) -> Verdict {
        match &detail.what {
            DetailKind::No(name) if message.first(name).is_some() => {
                Err(format!("there is a {name}"))
            }
            DetailKind::AsIn(label, names) => {
                let other = &self.named(label)?.message;
                let differs = names
                    .iter()
                    .find(|name| lines_of(other, name) != lines_of(message, name));
                match differs {
                    Some(name) => Err(format!(
                        "its {name} is not that of {label}: {:?}",
                        lines_of(other, name)
                    )),
                    None => Ok(()),
                }
            }
            DetailKind::Add(..) | DetailKind::Credentials(_) => {
                Err("only what is sent can have this".to_owned())
            }
            DetailKind::Sdp
                if message.first("Content-Type") != Some("application/sdp")
                    || message.body.is_empty() =>
            {
                Err("it carries no session description".to_owned())
            }
            _ => Ok(()),
        }
    }
}
