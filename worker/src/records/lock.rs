//! Who may write.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::file::{MODE, Setup, beside, is_same};

/// The right to write: the kernel takes it back when its holder dies. It has two halves, so that there is one writer of an arena, whatever files its workers have been told
/// of, and one of a file, whatever arenas there are.
#[derive(Debug)]
pub(super) struct Lock {
    _arena: Option<File>,
    file: File,
    path: PathBuf,
}

impl Lock {
    /// `None`: another one has it. `arena`: the arena's memory, opened anew, since descriptors that were handed on are one and the same to a lock; without it (on a heap) the file alone is locked.
    pub(super) fn take(setup: &Setup, arena: Option<&Path>) -> io::Result<Option<Self>> {
        let arena = arena.map(File::open).transpose()?;
        if let Some(arena) = &arena
            && !try_lock(arena)?
        {
            return Ok(None);
        }
        let path = beside(&setup.path, ".lock");
        let file = lock_file(&path)?;
        Ok(file.map(|file| Self {
            _arena: arena,
            file,
            path,
        }))
    }

    /// Whether what is locked is not the file that is there: somebody has removed it, or has moved its folder away. Then others lock another one.
    pub(super) fn is_lost(&self) -> bool {
        !is_there(&self.file, &self.path)
    }

    /// Locks what is there now. False: another one has done so.
    pub(super) fn renew(&mut self) -> io::Result<bool> {
        let Some(file) = lock_file(&self.path)? else {
            return Ok(false);
        };
        self.file = file;
        Ok(true)
    }
}

/// `None`: another one has it.
fn lock_file(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .open(path)?;
    // Somebody may have removed it meanwhile: then others lock another file.
    let ours = try_lock(&file)? && is_there(&file, path);
    Ok(ours.then_some(file))
}

fn is_there(file: &File, path: &Path) -> bool {
    let there = fs::metadata(path);
    there.is_ok_and(|there| file.metadata().is_ok_and(|ours| is_same(&there, &ours)))
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use cdr::{Form, Format, Rotation};

    use super::*;

    fn setup(dir: &tempfile::TempDir) -> Setup {
        Setup {
            path: dir.path().join("calls.csv"),
            form: Form::new(Format::Csv, &[]),
            rotation: Rotation::default(),
        }
    }

    #[test]
    fn there_is_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(&dir);
        let lock = Lock::take(&setup, None).unwrap();
        assert!(lock.is_some());
        assert!(Lock::take(&setup, None).unwrap().is_none());
        drop(lock);
        assert!(Lock::take(&setup, None).unwrap().is_some());
        // One of an arena, whatever the file is called.
        let arena = dir.path().join("arena");
        fs::write(&arena, "").unwrap();
        let mut another = setup.clone();
        another.path = dir.path().join("other");
        let lock = Lock::take(&setup, Some(&arena)).unwrap();
        assert!(lock.is_some());
        assert!(Lock::take(&another, Some(&arena)).unwrap().is_none());
        drop(lock);
        assert!(Lock::take(&another, Some(&arena)).unwrap().is_some());
        let mut nowhere = setup;
        nowhere.path = dir.path().join("no/such/folder");
        assert!(Lock::take(&nowhere, None).is_err());
    }

    #[test]
    fn a_lock_that_is_removed_is_taken_anew_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(&dir);
        let mut lock = Lock::take(&setup, None).unwrap().unwrap();
        assert!(!lock.is_lost());
        fs::remove_file(dir.path().join("calls.csv.lock")).unwrap();
        assert!(lock.is_lost());
        assert!(lock.renew().unwrap());
        assert!(!lock.is_lost());
        assert!(Lock::take(&setup, None).unwrap().is_none());
        // Another one is faster.
        fs::remove_file(dir.path().join("calls.csv.lock")).unwrap();
        let faster = Lock::take(&setup, None).unwrap();
        assert!(faster.is_some());
        assert!(!lock.renew().unwrap());
        assert!(lock.is_lost());
        drop(faster);
        assert!(lock.renew().unwrap());
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(lock.is_lost());
        assert!(lock.renew().is_err());
    }
}
