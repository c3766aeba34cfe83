//! Where the `tandem` under test comes from.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::machine::repository;

/// The binary under test: `TANDEM_BIN` if set, else the one beside this test executable, brought up
/// to date by cargo once per test process (cargo holds no lock while tests run).
pub fn tandem() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("TANDEM_BIN") {
            let given = PathBuf::from(given);
            assert!(
                given.is_file(),
                "TANDEM_BIN names no file: {}",
                given.display()
            );
            return given;
        }
        let place = Place::of(&std::env::current_exe().expect("a process knows its executable"))
            .expect("tests run from a cargo target directory");
        place.build(ORDINARY, &[]);
        place.binary(ORDINARY)
    })
}

const ORDINARY: &str = "tandem";
const FAILPOINTS: &str = "tandem-failpoints";

/// The same program with the points of the crate `failpoint` compiled in, so that TANDEM_FAILPOINTS has it die or hang at a chosen
/// place: `TANDEM_FAILPOINTS_BIN` if set, else built beside the ordinary one. It shares every dependency from outside with that.
pub fn tandem_with_failpoints() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("TANDEM_FAILPOINTS_BIN") {
            return PathBuf::from(given);
        }
        let place = Place::of(&std::env::current_exe().expect("a process knows its executable"))
            .expect("tests run from a cargo target directory");
        place.build(FAILPOINTS, &["--features", "failpoints"]);
        place.binary(FAILPOINTS)
    })
}

const LAYOUT_PROBE: &str = "tandem-layout-probe";

/// The same program with another layout of the arena, and with failpoints: `TANDEM_LAYOUT_PROBE_BIN` if set, else built.
pub fn tandem_with_another_layout() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("TANDEM_LAYOUT_PROBE_BIN") {
            return PathBuf::from(given);
        }
        let place = Place::of(&std::env::current_exe().expect("a process knows its executable"))
            .expect("tests run from a cargo target directory");
        place.build(LAYOUT_PROBE, &["--features", "layout-probe"]);
        place.binary(LAYOUT_PROBE)
    })
}

/// `TARGET/PROFILE`, from the path of a test executable in `TARGET/PROFILE/deps`.
struct Place {
    target: PathBuf,
    profile_dir: String,
}

impl Place {
    fn of(executable: &Path) -> Option<Self> {
        let deps = executable.parent()?;
        let profile = if deps.ends_with("deps") {
            deps.parent()?
        } else {
            deps
        };
        Some(Self {
            target: profile.parent()?.to_path_buf(),
            profile_dir: profile.file_name()?.to_str()?.to_owned(),
        })
    }

    fn build(&self, program: &str, features: &[&str]) {
        let profile = if self.profile_dir == "debug" {
            "dev"
        } else {
            &self.profile_dir
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args([
                "build",
                "--quiet",
                "--package",
                "tandem",
                "--bin",
                program,
                "--profile",
                profile,
            ])
            .args(features)
            .arg("--target-dir")
            .arg(&self.target)
            .current_dir(repository())
            .status()
            .expect("cargo can be run");
        assert!(status.success(), "{program} does not build");
    }

    fn binary(&self, program: &str) -> PathBuf {
        self.target.join(&self.profile_dir).join(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_from_a_test_executable() {
        let p = Place::of(Path::new("t/release/deps/black_box-1")).expect("a place");
        assert_eq!(p.binary(ORDINARY), Path::new("t/release/tandem"));
        let p = Place::of(Path::new("t/debug/storm")).expect("a place");
        assert_eq!(p.binary(ORDINARY), Path::new("t/debug/tandem"));
    }
}
