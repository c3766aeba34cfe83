//! A crate imports lower floors only.

use super::Fault;

/// Every crate and its floor; those with the same number do not see each other.
const FLOORS: &[(&str, u8)] = &[
    ("stdx", 0),
    ("sync", 0),
    ("os", 0),
    ("model", 0),
    ("failpoint", 0),
    ("shm", 1),
    ("shm-testing", 2),
    ("sip", 1),
    ("control", 1),
    ("transport", 2),
    ("transaction", 2),
    ("dialog", 2),
    ("registrar", 2),
    ("dns", 2),
    ("balance", 2),
    ("auth", 2),
    ("overload", 2),
    ("prefix", 2),
    ("topology", 2),
    ("config", 2),
    ("ng", 2),
    ("tables", 3),
    ("snapshot", 3),
    ("script", 3),
    ("cdr", 4),
    ("proxy", 4),
    ("reactor", 5),
    ("clients", 5),
    ("slot", 5),
    ("sim", 6),
    ("fuzzing", 5),
    ("worker", 6),
    ("tandem", 7),
    ("blackbox", 8),
    ("xtask", 8),
];

/// What must not be imported, however low it lies.
const APART: &[(&str, &str, &str)] = &[
    ("shm", "sip", "the arena knows no SIP"),
    ("proxy", "reactor", "floors 0 to 4 have no socket"),
];

/// Imports within a floor: the clock in `os` gives out the instant of `stdx`.
const SAME_FLOOR: &[(&str, &str)] = &[("os", "stdx")];

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

/// Checks every manifest among `files`.
pub(crate) fn check(files: &[String], read: impl Fn(&str) -> Option<String>) -> Vec<Fault> {
    files
        .iter()
        .filter(|f| f.ends_with("/Cargo.toml") && !f.starts_with("tests/fuzz/"))
        .filter_map(|f| Some((f, read(f)?)))
        .flat_map(|(f, text)| check_manifest(f, &text))
        .collect()
}

fn check_manifest(file: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(name) = package_name(text) else {
        return vec![Fault::new(file, 0, "a manifest without a package name")];
    };
    let Some(own) = floor(name) else {
        return vec![Fault::new(
            file,
            0,
            format!("`{name}` has no floor; give it one in xtask's tidy"),
        )];
    };
    for (line, dependency) in dependencies(text) {
        let Some(theirs) = floor(dependency) else {
            continue;
        };
        if theirs >= own && !SAME_FLOOR.contains(&(name, dependency)) {
            let what = format!("`{name}` (floor {own}) imports `{dependency}` (floor {theirs})");
            faults.push(Fault::new(file, line, what));
        }
        if let Some((_, _, why)) = APART
            .iter()
            .find(|(a, b, _)| (*a, *b) == (name, dependency))
        {
            faults.push(Fault::new(
                file,
                line,
                format!("`{name}` imports `{dependency}`: {why}"),
            ));
        }
    }
    if !text.contains("[lints]\nworkspace = true") {
        faults.push(Fault::new(
            file,
            0,
            "the lints of the workspace are not taken over",
        ));
    }
    faults
}

fn package_name(text: &str) -> Option<&str> {
    let after = text.split("[package]").nth(1)?;
    let line = after.lines().find(|l| l.starts_with("name"))?;
    line.split('"').nth(1)
}

/// Names under `[dependencies]`, `[build-dependencies]` and the same for a target; what only tests
/// import may come from anywhere below the tests.
fn dependencies(text: &str) -> Vec<(usize, &str)> {
    let (mut inside, mut found) = (false, Vec::new());
    for (n, line) in text.lines().enumerate() {
        if let Some(section) = line.trim().strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
        } else if inside && !line.trim_start().starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("").trim();
            if !name.is_empty() {
                found.push((n + 1, name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, dependencies: &str) -> String {
        format!(
            "[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n\n[dependencies]\n{dependencies}\n"
        )
    }

    fn faults(name: &str, dependencies: &str) -> Vec<String> {
        let found = check_manifest("x/Cargo.toml", &manifest(name, dependencies));
        found
            .into_iter()
            .map(|f| format!("{}: {}", f.line, f.what))
            .collect()
    }

    #[test]
    fn downwards_is_fine() {
        assert!(faults("proxy", "sip.workspace = true\nthiserror = \"2\"").is_empty());
        assert!(faults("proxy", "[dev-dependencies]\nreactor.workspace = true").is_empty());
    }

    #[test]
    fn sideways_and_upwards_are_faults() {
        assert_eq!(
            faults("sip", "shm.workspace = true"),
            ["7: `sip` (floor 1) imports `shm` (floor 1)"]
        );
        assert_eq!(faults("tables", "\nproxy = { path = \"x\" }").len(), 1);
        assert!(!faults("shm", "sip.workspace = true").is_empty());
        assert!(
            !faults(
                "stdx",
                "[target.\"cfg(loom)\".dependencies]\nshm.workspace = true"
            )
            .is_empty()
        );
    }

    #[test]
    fn every_crate_has_a_floor_and_the_lints() {
        assert!(
            faults("newcomer", "")
                .iter()
                .any(|f| f.contains("no floor"))
        );
        let bare = "[package]\nname = \"sip\"\n";
        assert!(
            check_manifest("x", bare)
                .iter()
                .any(|f| f.what.contains("lints"))
        );
        assert_eq!(check_manifest("x", "[lib]").len(), 1);
    }
}
