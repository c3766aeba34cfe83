//! RFC 4475 and RFC 5118: each message of `tests/torture` against the first column of its verdict table.

use std::path::{Path, PathBuf};

use sip::{Layout, Message, Method, Patch, Uri, Verdict};

/// One line of a table.
struct Row {
    name: String,
    parser: String,
    bytes: Vec<u8>,
}

fn folder(rfc: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/torture")
        .join(rfc)
}

fn table(rfc: &str) -> Vec<Row> {
    let folder = folder(rfc);
    let text = std::fs::read_to_string(folder.join("verdicts.txt")).expect("a verdict table");
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (name, parser) = (words[0].to_owned(), words[2].to_owned());
            let bytes = std::fs::read(folder.join(format!("{name}.sip"))).expect("a message");
            Row {
                name,
                parser,
                bytes,
            }
        })
        .collect()
}

/// What the parser and the views of the headers that every element reads say: `ok`, a status code, or `drop`.
fn judge(bytes: &[u8]) -> String {
    let mut layout = Layout::new();
    let (message, verdict) = match sip::parse(bytes, &mut layout) {
        Ok(message) => match fault(&message) {
            None => return "ok".to_owned(),
            Some(verdict) => (Some(message), verdict),
        },
        Err(error) => (layout.partial(bytes), error.verdict()),
    };
    let answerable = message.is_some_and(|m| m.request().is_some_and(|l| l.method != Method::Ack));
    match verdict {
        Verdict::Reply(code, _) if answerable => code.to_string(),
        _ => "drop".to_owned(),
    }
}

fn fault(message: &Message<'_>) -> Option<Verdict> {
    if let Err(error) = message.essentials() {
        return Some(error.verdict());
    }
    let line = message.request()?;
    Uri::parse(line.uri)
        .is_err()
        .then_some(Verdict::Reply(400, "Bad Request-URI"))
}

fn check(rfc: &str, least: usize) {
    let rows = table(rfc);
    let mut files: Vec<String> = std::fs::read_dir(folder(rfc))
        .expect("a folder")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "sip"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let mut named: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    files.sort();
    named.sort();
    assert_eq!(files, named, "each message has one line in the table");
    assert!(rows.len() >= least, "{} messages", rows.len());

    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let verdict = judge(&row.bytes);
            (verdict != row.parser).then(|| format!("{}: {verdict}, not {}", row.name, row.parser))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for row in rows {
        let mut layout = Layout::new();
        crate::properties::check_against_naive(&row.bytes, &mut layout);
        if let Ok(message) = sip::parse(&row.bytes, &mut layout) {
            crate::properties::read_everything(message);
        }
        passes_unharmed(&row);
    }
}

/// What is accepted leaves as it came when nothing is edited.
fn passes_unharmed(row: &Row) {
    let mut layout = Layout::new();
    let Ok(message) = sip::parse(&row.bytes, &mut layout) else {
        return;
    };
    let mut out = Vec::new();
    Patch::new(message).write(&mut out);
    assert_eq!(out, message.whole().slice(&row.bytes), "{}", row.name);
}

#[test]
fn rfc_4475() {
    check("rfc4475", 49);
}

#[test]
fn rfc_5118() {
    check("rfc5118", 13);
}
