//! Rules for every text file.

use super::Fault;

/// Places of somebody's machine; written in two parts, so that this file does not name them.
const MACHINE_PATHS: [&str; 4] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
];

pub(crate) fn check(file: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (n, line) in text.split('\n').enumerate() {
        // In Rust, rustfmt sees to code and comments; what is left stands in a string on purpose.
        if line.ends_with([' ', '\t', '\r']) && !file.ends_with(".rs") {
            faults.push(Fault::new(
                file,
                n + 1,
                "white space at the end of the line",
            ));
        }
        if let Some(path) = MACHINE_PATHS.iter().find(|p| names_path(line, p)) {
            faults.push(Fault::new(
                file,
                n + 1,
                format!("a path of somebody's machine: {path}"),
            ));
        }
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
            faults.push(Fault::new(file, n + 1, "a conflict mark"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        faults.push(Fault::new(
            file,
            text.lines().count(),
            "no newline at the end of the file",
        ));
    }
    faults
}

/// Nobody's: names for examples.
const NOBODY: [&str; 5] = ["a", "alice", "bob", "u", "user"];

/// Is `path` in the line as the start of a path, not as the middle of another, and not an example?
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line.get(..at).and_then(|b| b.chars().next_back());
        let after = line.get(at + path.len()..).unwrap_or_default();
        let name = after
            .split(|c: char| !c.is_alphanumeric())
            .next()
            .unwrap_or_default();
        before.is_none_or(|c| !c.is_alphanumeric() && !"._-~)}".contains(c))
            && !NOBODY.contains(&name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(text: &str) -> Vec<(usize, String)> {
        check("x", text)
            .into_iter()
            .map(|f| (f.line, f.what))
            .collect()
    }

    #[test]
    fn clean_text() {
        assert!(whats("a\nb\n").is_empty());
        assert!(whats("").is_empty());
    }

    #[test]
    fn faults_with_their_lines() {
        assert_eq!(whats("a\nb \n")[0].0, 2);
        assert_eq!(whats("a\r\n").len(), 1);
        assert_eq!(
            whats("a"),
            [(1, "no newline at the end of the file".to_owned())]
        );
        assert_eq!(whats("<<<<<<< ours\n").len(), 1);
    }

    #[test]
    fn machine_paths() {
        for path in MACHINE_PATHS {
            assert_eq!(whats(&format!("see `{path}x`\n")).len(), 1);
            assert!(whats(&format!("https://example.com{path}x\n")).is_empty());
            assert!(whats(&format!("{path}alice/.local\n")).is_empty());
        }
        assert!(whats("/usr/bin and /var/lib/tandem are everybody's\n").is_empty());
    }
}
