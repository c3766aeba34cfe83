//! Every failpoint has a name of its own, and the list of names has them all.

use std::collections::BTreeMap;

use super::Fault;

const LIST: &str = "crates/failpoint/src/names.rs";
/// Where names are examples.
const EXAMPLES: [&str; 2] = ["crates/failpoint/", "crates/xtask/"];
const POINT: &str = "failpoint!(";

/// Checks the sources among `files`.
pub(crate) fn check(files: &[String], read: impl Fn(&str) -> Option<String>) -> Vec<Fault> {
    let Some(list) = read(LIST) else {
        return vec![Fault::new(LIST, 0, "the list of failpoints is missing")];
    };
    let listed: Vec<&str> = list.lines().filter_map(quoted).collect();
    let (mut faults, mut found) = (Vec::new(), BTreeMap::new());
    let sources = files
        .iter()
        .filter(|f| f.ends_with(".rs") && !EXAMPLES.iter().any(|e| f.starts_with(e)));
    for file in sources {
        let text = read(file).unwrap_or_default();
        for (at, _) in text.match_indices(POINT) {
            let line = text.get(..at).map_or(0, |b| b.matches('\n').count()) + 1;
            let Some(name) = text.get(at..).and_then(quoted) else {
                continue;
            };
            if !listed.contains(&name) {
                let what = format!("failpoint `{name}` is not in {LIST}");
                faults.push(Fault::new(file, line, what));
            }
            if let Some(other) = found.insert(name.to_owned(), file.clone()) {
                let what = format!("failpoint `{name}` exists already in {other}");
                faults.push(Fault::new(file, line, what));
            }
        }
    }
    for name in &listed {
        if !found.contains_key(*name) {
            let what = format!("failpoint `{name}` is nowhere in the code");
            faults.push(Fault::new(LIST, 0, what));
        }
    }
    if !listed.is_sorted() {
        faults.push(Fault::new(LIST, 0, "the names are not in order"));
    }
    faults
}

/// What stands in the first quotation marks.
fn quoted(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('"')?;
    rest.split_once('"').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_listed_and_used() {
        let files = ["a.rs", "b.rs", "c.md"].map(str::to_owned);
        let faults = check(&files, |file| {
            Some(
                match file {
                    LIST => "[\n    \"x.a\",\n    \"x.b\",\n    \"x.gone\",\n]",
                    "a.rs" => "failpoint!(\"x.a\");\nfailpoint!(\n    \"x.b\", Err(()));",
                    "b.rs" => "failpoint!(\"x.a\"); failpoint!(\"x.new\");",
                    _ => "failpoint!(\"x.unread\")",
                }
                .to_owned(),
            )
        });
        let texts: Vec<String> = faults
            .iter()
            .map(|f| format!("{}:{} {}", f.file, f.line, f.what))
            .collect();
        assert_eq!(
            texts,
            [
                "b.rs:1 failpoint `x.a` exists already in a.rs".to_owned(),
                format!("b.rs:1 failpoint `x.new` is not in {LIST}"),
                format!("{LIST}:0 failpoint `x.gone` is nowhere in the code"),
            ]
        );
    }
}
