//! Where the control socket and the state directory are.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const SYSTEM_SOCKET: &str = "/run/tandem.sock";

/// The environment that decides the defaults, passed in so that a test need not change its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    pub(crate) runtime_dir: Option<OsString>,
    pub(crate) state_home: Option<OsString>,
    pub(crate) home: Option<OsString>,
    pub(crate) root: bool,
}

impl Environment {
    pub(crate) fn of_process() -> Self {
        Self {
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
            root: nix::unistd::geteuid().is_root(),
        }
    }

    /// `given` (option or `TANDEM_CONTROL`), else `$XDG_RUNTIME_DIR/tandem.sock`, else `/run/tandem.sock`.
    pub(crate) fn control_socket(&self, given: Option<&Path>) -> PathBuf {
        match (given, absolute(&self.runtime_dir)) {
            (Some(given), _) => given.to_path_buf(),
            (None, Some(dir)) => dir.join("tandem.sock"),
            (None, None) => PathBuf::from(SYSTEM_SOCKET),
        }
    }

    /// As [`Environment::control_socket`], for a command that looks for a server: an operator's login has a runtime
    /// directory where the system's service has none, so without a socket in the one it looks at the other.
    pub(crate) fn control_socket_of_server(&self, given: Option<&Path>) -> PathBuf {
        let (own, system) = (self.control_socket(given), PathBuf::from(SYSTEM_SOCKET));
        if given.is_none() && !own.exists() && system.exists() {
            system
        } else {
            own
        }
    }

    /// `given` (option or `TANDEM_STATE`), else `$XDG_STATE_HOME/tandem`, else as root `/var/lib/tandem`, else
    /// `~/.local/state/tandem`. `None`: no home directory, so somebody has to say.
    pub(crate) fn state_dir(&self, given: Option<&Path>) -> Option<PathBuf> {
        if let Some(given) = given {
            return Some(given.to_path_buf());
        }
        if let Some(dir) = absolute(&self.state_home) {
            return Some(dir.join("tandem"));
        }
        if self.root {
            return Some(PathBuf::from("/var/lib/tandem"));
        }
        absolute(&self.home).map(|home| home.join(".local/state/tandem"))
    }
}

/// The XDG rules: a value that is not an absolute path is as good as none.
fn absolute(value: &Option<OsString>) -> Option<PathBuf> {
    value
        .as_ref()
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// Makes the state directory, for its owner only. A directory that others can write to is refused.
pub(crate) fn create_state_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o022 != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode & 0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(runtime_dir: &str, state_home: &str, home: &str, root: bool) -> Environment {
        let set = |text: &str| (!text.is_empty()).then(|| OsString::from(text));
        Environment {
            runtime_dir: set(runtime_dir),
            state_home: set(state_home),
            home: set(home),
            root,
        }
    }

    #[test]
    fn control_socket_defaults() {
        let given = Path::new("x.sock");
        for (runtime, given, want) in [
            ("/run/user/7", None, "/run/user/7/tandem.sock"),
            ("", None, "/run/tandem.sock"),
            ("relative", None, "/run/tandem.sock"),
            ("/run/user/7", Some(given), "x.sock"),
        ] {
            assert_eq!(
                environment(runtime, "", "", false).control_socket(given),
                Path::new(want)
            );
        }
    }

    #[test]
    fn a_command_finds_the_server_in_its_own_runtime_directory_first() {
        let dir = tempfile::tempdir().unwrap();
        let environment = environment(dir.path().to_str().unwrap(), "", "", true);
        let own = dir.path().join("tandem.sock");
        assert_eq!(environment.control_socket(None), own);
        std::fs::write(&own, "").unwrap();
        assert_eq!(environment.control_socket_of_server(None), own);
        let given = Path::new("x.sock");
        assert_eq!(environment.control_socket_of_server(Some(given)), given);
    }

    #[test]
    fn state_directory_defaults() {
        for (state, home, root, want) in [
            ("/s", "/home/a", false, Some("/s/tandem")),
            ("", "/home/a", false, Some("/home/a/.local/state/tandem")),
            ("", "/root", true, Some("/var/lib/tandem")),
            ("", "", false, None),
        ] {
            assert_eq!(
                environment("", state, home, root)
                    .state_dir(None)
                    .as_deref(),
                want.map(Path::new)
            );
        }
    }

    #[test]
    fn state_directory_is_private() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        create_state_dir(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        create_state_dir(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o755
        );
    }
}
