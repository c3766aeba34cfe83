//! Is this file a `tandem` that can take over? Asked by running `tandem about`, without waiting for it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use os::Executable;
use stdx::Instant;

use super::trouble::Trouble;
use crate::about::{About, ArenaNumbers};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the answer.
const ANSWER_MAX: usize = 64 << 10;
/// Bytes of a program's head that tell what machine it is for: `e_ident` and `e_machine` of ELF.
const HEAD_BYTES: usize = 20;

/// A program under examination.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) executable: Executable,
    child: Child,
    out: OwnedFd,
    answer: Vec<u8>,
    pub(crate) deadline: Instant,
}

impl Probe {
    /// Opens the file and starts it, if it is a program for this machine.
    pub(crate) fn start(path: &Path, numbers: ArenaNumbers, now: Instant) -> Result<Self, Trouble> {
        let refused = |error: io::Error| explain(path, &error);
        let executable = Executable::open(path).map_err(refused)?;
        check_kind(path, &executable)?;
        let mut child = Command::new(executable.path())
            .args(["about", "--json", "--layout", &numbers.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(refused)?;
        let Some(out) = child.stdout.take() else {
            return Err(refused(io::ErrorKind::BrokenPipe.into()));
        };
        let probe = Self {
            executable,
            child,
            out: out.into(),
            answer: Vec::new(),
            deadline: now.saturating_add(PATIENCE),
        };
        fcntl(&probe.out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|error| refused(error.into()))?;
        Ok(probe)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.out.as_fd()
    }

    /// What it said, once it has said everything; `None` while more may come.
    pub(crate) fn on_readable(&mut self) -> Option<Option<About>> {
        let mut bytes = [0; 4096];
        loop {
            match nix::unistd::read(&self.out, &mut bytes) {
                Ok(0) => return Some(serde_json::from_slice(&self.answer).ok()),
                Ok(n) => self
                    .answer
                    .extend_from_slice(bytes.get(..n).unwrap_or_default()),
                Err(nix::errno::Errno::EAGAIN) => return None,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return Some(None),
            }
            if self.answer.len() > ANSWER_MAX {
                return Some(None);
            }
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // It has answered, or is not going to: whatever it does now is nothing that we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Before it is run: a file that is no program, or one for another machine, would only give an error number.
fn check_kind(path: &Path, executable: &Executable) -> Result<(), Trouble> {
    let name = path.display();
    let about = std::fs::metadata(executable.path()).map_err(|error| explain(path, &error))?;
    if !about.is_file() {
        return Err(Trouble::new(
            format!("{name} is no file"),
            "name the new `tandem` program",
        ));
    }
    // A program that may be run but not read is known once it runs.
    let Ok(head) = head_of(&executable.path()) else {
        return Ok(());
    };
    if head.first_chunk() != Some(b"\x7fELF") {
        return Err(Trouble::new(
            format!("{name} is no program"),
            "name the new `tandem` program itself, not a script or an archive",
        ));
    }
    let ours = head_of(Path::new("/proc/self/exe")).unwrap_or(head);
    // Width and byte order of numbers, and the machine.
    let kind = |head: &[u8; HEAD_BYTES]| (head[4], head[5], head[18], head[19]);
    if kind(&head) != kind(&ours) {
        return Err(Trouble::new(
            format!("{name} is a program for another kind of machine"),
            "use the build for this one",
        ));
    }
    Ok(())
}

fn head_of(path: &Path) -> io::Result<[u8; HEAD_BYTES]> {
    let mut head = [0; HEAD_BYTES];
    let mut file = File::open(path)?;
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; HEAD_BYTES]),
        other => other.map(|()| head),
    }
}

fn explain(path: &Path, error: &io::Error) -> Trouble {
    let name = path.display();
    match error.raw_os_error() {
        Some(libc::ENOENT) => Trouble::new(format!("there is no file {name}"), ""),
        Some(libc::EACCES | libc::EPERM) => Trouble::new(
            format!("the server's account may not run {name}"),
            "give it permission to run the file and to enter the directories above it; a file system mounted `noexec` runs nothing",
        ),
        Some(libc::ETXTBSY) => Trouble::new(
            format!("{name} is still being written"),
            "wait until it is complete",
        ),
        _ => Trouble::new(format!("{name} can't be run: {error}"), ""),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NUMBERS: ArenaNumbers = ArenaNumbers {
        limit: 64 << 20,
        slots: 2,
        aux: 4,
    };

    fn refusal(path: &Path) -> String {
        Probe::start(path, NUMBERS, os::now()).unwrap_err().cause
    }

    #[test]
    fn what_is_no_program_for_us_is_refused_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(refusal(&path).contains("there is no file"));
        assert!(refusal(dir.path()).contains("is no file"));
        for (bytes, reason) in [
            (&b"#!/bin/sh\nsleep 9\n"[..], "is no program"),
            (b"", "is no program"),
            (
                b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xffmore",
                "another kind of machine",
            ),
        ] {
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            assert!(refusal(&path).contains(reason), "{}", refusal(&path));
        }
        std::fs::copy("/bin/true", &path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(refusal(&path).contains("may not run"));
    }

    #[test]
    fn another_program_has_no_answer() {
        for path in ["/bin/true", "/bin/echo"] {
            let mut probe = Probe::start(Path::new(path), NUMBERS, os::now()).unwrap();
            let answer = loop {
                use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
                poll(
                    &mut [PollFd::new(probe.fd(), PollFlags::POLLIN)],
                    PollTimeout::NONE,
                )
                .unwrap();
                if let Some(answer) = probe.on_readable() {
                    break answer;
                }
            };
            assert_eq!(answer, None);
        }
    }
}
