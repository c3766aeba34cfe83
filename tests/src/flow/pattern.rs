//! Patterns: plain text in which `...` stands for anything and `$name` for what it stood for at its first use.

use std::collections::HashMap;

/// What variables stand for.
pub type Variables = HashMap<String, String>;

#[derive(Debug, PartialEq, Eq)]
enum Part<'p> {
    Text(&'p str),
    Anything,
    Variable(&'p str),
}

/// Whether `text` is as `pattern` says; variables that are new get their values.
pub fn matches(pattern: &str, text: &str, variables: &mut Variables) -> bool {
    let parts = parts(pattern);
    let mut tried = variables.clone();
    let matched = follow(&parts, text, &mut tried);
    if matched {
        *variables = tried;
    }
    matched
}

/// `pattern` with its variables as they are now; `None` where one is not known, or something is left open.
pub fn fill(pattern: &str, variables: &Variables) -> Option<String> {
    let mut filled = String::new();
    for part in parts(pattern) {
        filled.push_str(match part {
            Part::Text(text) => text,
            Part::Anything => return None,
            Part::Variable(name) => variables.get(name)?,
        });
    }
    Some(filled)
}

fn parts(pattern: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = pattern;
    let mut text_bytes = 0;
    while let Some(c) = rest[text_bytes..].chars().next() {
        let here = &rest[text_bytes..];
        let name_bytes = here.strip_prefix('$').map_or(0, |name| {
            name.find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(name.len())
        });
        let (part, bytes) = if here.starts_with("...") {
            (Part::Anything, 3)
        } else if name_bytes > 0 {
            (Part::Variable(&here[1..=name_bytes]), name_bytes + 1)
        } else {
            text_bytes += c.len_utf8();
            continue;
        };
        if text_bytes > 0 {
            parts.push(Part::Text(&rest[..text_bytes]));
        }
        parts.push(part);
        rest = &here[bytes..];
        text_bytes = 0;
    }
    if text_bytes > 0 {
        parts.push(Part::Text(rest));
    }
    parts
}

fn follow(parts: &[Part<'_>], text: &str, variables: &mut Variables) -> bool {
    let Some((first, others)) = parts.split_first() else {
        return text.is_empty();
    };
    match first {
        Part::Text(wanted) => text
            .strip_prefix(wanted)
            .is_some_and(|rest| follow(others, rest, variables)),
        Part::Anything => ends(text, 0).any(|end| follow(others, &text[end..], variables)),
        Part::Variable(name) => {
            if let Some(value) = variables.get(*name).cloned() {
                return text
                    .strip_prefix(value.as_str())
                    .is_some_and(|rest| follow(others, rest, variables));
            }
            // The shortest that makes the rest fit.
            for end in ends(text, 1) {
                let mut tried = variables.clone();
                tried.insert((*name).to_owned(), text[..end].to_owned());
                if follow(others, &text[end..], &mut tried) {
                    *variables = tried;
                    return true;
                }
            }
            false
        }
    }
}

/// Places within `text` from the `least`th byte on.
fn ends(text: &str, least: usize) -> impl Iterator<Item = usize> + '_ {
    (least..=text.len()).filter(|end| text.is_char_boundary(*end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_and_variables() {
        let mut v = Variables::new();
        assert!(matches(
            "<sip:bob@...>;tag=$t",
            "<sip:bob@h:5>;tag=a7",
            &mut v
        ));
        assert_eq!(v.get("t").map(String::as_str), Some("a7"));
        assert!(matches("...tag=$t;x", "y;tag=a7;x", &mut v));
        assert!(!matches("...tag=$t", "y;tag=a8", &mut v));
        assert!(!matches("plain", "plainer", &mut v));
        assert!(
            !matches("$new", "", &mut v),
            "a variable stands for something"
        );
        assert!(!v.contains_key("new"));
        assert!(matches("...", "", &mut v));
        assert_eq!(fill("a $t!", &v).as_deref(), Some("a a7!"));
        assert_eq!(fill("a $u", &v), None);
        assert_eq!(fill("costs 5$", &v).as_deref(), Some("costs 5$"));
    }
}
