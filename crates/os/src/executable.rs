//! Programs held open, so that what is run stays the same whatever becomes of the file's name.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::sys::stat::{Mode, fstat};

use crate::process::duplicate_from;

/// The running program's own file, even when another one has taken its name meanwhile.
const OURSELVES: &str = "/proc/self/exe";
/// Numbers below are a child's for its own purposes (see [`crate::spawn_worker`]).
const LEAST: i32 = 10;

/// A program's file, open: replaced or deleted on disk, it stays this program.
#[derive(Debug)]
pub struct Executable {
    file: OwnedFd,
}

/// Device and inode: tells files apart, whatever their names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

impl Executable {
    /// Opens the program at `path`. Whether it may be run, and is a program at all, shows when it is run.
    pub fn open(path: &Path) -> io::Result<Self> {
        // O_PATH: a program need not be readable to be run.
        let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        Self::from_fd(&file)
    }

    /// The program that this process runs.
    pub fn ourselves() -> io::Result<Self> {
        Self::open(Path::new(OURSELVES))
    }

    /// The program behind a descriptor, which is duplicated.
    pub fn from_fd(file: &impl AsFd) -> io::Result<Self> {
        Ok(Self {
            file: duplicate_from(file, LEAST)?,
        })
    }

    /// A name for it that works in this process and its children until they have run it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Which file it is.
    pub fn identity(&self) -> io::Result<FileIdentity> {
        let stat = fstat(&self.file)?;
        Ok(FileIdentity {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// Runs it in the place of this process: same pid, same children, same signal mask and environment. Of our
    /// descriptors it gets the standard ones and `keep`, under their numbers. Comes back only with an error, and then
    /// everything is as it was.
    pub fn exec<A: AsRef<OsStr>>(&self, args: &[A], keep: &[BorrowedFd<'_>]) -> io::Error {
        let failed = self.try_exec(args, keep).err();
        for fd in keep {
            // What was not closed on exec before the call is none of ours: `keep` are descriptors of this crate's kind.
            let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        failed.unwrap_or_else(|| io::Error::other("exec came back"))
    }

    fn try_exec<A: AsRef<OsStr>>(&self, args: &[A], keep: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = |bytes: &OsStr| CString::new(bytes.as_bytes()).map_err(io::Error::other);
        let args = std::iter::once(Ok(our_name()))
            .map(|name: io::Result<OsString>| text(&name?))
            .chain(args.iter().map(|arg| text(arg.as_ref())))
            .collect::<io::Result<Vec<_>>>()?;
        let environment = std::env::vars_os()
            .map(|(name, value)| {
                let line = [name.into_vec(), value.into_vec()].join(&b'=');
                CString::new(line).map_err(io::Error::other)
            })
            .collect::<io::Result<Vec<_>>>()?;
        for fd in keep {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        nix::unistd::fexecve(self.file.as_fd(), &args, &environment)?;
        Ok(())
    }
}

/// What `ps` shows for a program that is run by descriptor: its path would tell nobody anything.
pub(crate) fn our_name() -> OsString {
    std::env::args_os()
        .next()
        .unwrap_or_else(|| "tandem".into())
}

impl AsFd for Executable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A descriptor that the program before us left open under this number, closed on exec from now on. To be called once for each, and only for
/// numbers that [`Executable::exec`] was given to keep.
pub fn take_descriptor(raw: RawFd) -> io::Result<OwnedFd> {
    if raw <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: duplicates a number that may name nothing (EBADF); no memory is passed.
    let copy = unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, LEAST) };
    let copy = nix::errno::Errno::result(copy)?;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    // SAFETY: it came over an exec, so that nobody in this process owns it.
    nix::errno::Errno::result(unsafe { libc::close(raw) })?;
    Ok(copy)
}

/// The file that the process `pid` runs; an error once it is gone.
pub fn program_of(pid: u32) -> io::Result<FileIdentity> {
    let stat = nix::sys::stat::stat(Path::new(&format!("/proc/{pid}/exe")))?;
    Ok(FileIdentity {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_outlives_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("program");
        std::fs::copy("/bin/true", &name).unwrap();
        std::fs::set_permissions(&name, std::fs::Permissions::from_mode(0o711)).unwrap();
        let program = Executable::open(&name).unwrap();
        let before = program.identity().unwrap();
        std::fs::remove_file(&name).unwrap();
        std::fs::copy("/bin/false", &name).unwrap();
        assert!(Command::new(program.path()).status().unwrap().success());
        assert_eq!(program.identity().unwrap(), before);
        assert_ne!(Executable::open(&name).unwrap().identity().unwrap(), before);
    }

    #[test]
    fn we_run_what_we_run() {
        let ours = Executable::ourselves().unwrap().identity().unwrap();
        assert_eq!(program_of(std::process::id()).unwrap(), ours);
        assert!(Executable::open(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_failed_exec_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("noise");
        std::fs::write(&name, "no program").unwrap();
        let bell = crate::eventfd().unwrap();
        let program = Executable::open(&name).unwrap();
        let error = program.exec(&["x"], &[bell.as_fd()]);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        std::fs::set_permissions(&name, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = program.exec(&["x"], &[bell.as_fd()]);
        assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC));
        let flags = FdFlag::from_bits_retain(fcntl(&bell, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }
}
