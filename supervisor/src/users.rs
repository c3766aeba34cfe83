//! The file of users in the state directory: read by the server, changed by `tandem user` only, whether or not a server runs.
//!
//! Whoever changes it holds a lock on a file beside it, writes a whole new one aside, syncs it, and renames it: a reader, a power cut and a
//! `kill -9` find the old file or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use config::{Users, UsersError};

const FILE: &str = "users";
const ASIDE: &str = "users.new";
const LOCK: &str = "users.lock";
/// The largest file that is read. Unit: bytes.
const BYTES_MAX: u64 = 128 << 20;

/// Why the file could not be read or written.
#[derive(Debug)]
pub(crate) enum Error {
    /// It is there, and not to be used.
    Damaged(PathBuf, UsersError),
    /// A symbolic link to nothing, and what it says.
    Dangling(PathBuf, PathBuf),
    Io(PathBuf, &'static str, io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(path, error) => {
                write!(
                    f,
                    "the file of users {} can't be used: {error}",
                    path.display()
                )
            }
            Self::Dangling(path, target) => {
                write!(
                    f,
                    "the file of users {} is a link to {}, which is not there",
                    path.display(),
                    target.display()
                )
            }
            Self::Io(path, what, error) => {
                write!(
                    f,
                    "the file of users {} can't be {what}: {error}",
                    path.display()
                )
            }
        }
    }
}

impl Error {
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Damaged(..) => {
                "put a copy of it back, or move it away and add the users again with `tandem user add`"
            }
            Self::Dangling(..) => {
                "put back what it leads to, such as a mount; without the link there are no users"
            }
            Self::Io(_, _, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "run this as the server's account or as root"
            }
            Self::Io(_, _, error) if error.kind() == io::ErrorKind::InvalidInput => {
                "move what has its name away"
            }
            Self::Io(..) => "name the server's state directory with --state DIR or TANDEM_STATE",
        }
    }
}

/// The users of this state directory; none without the file.
pub(crate) fn load(state: &Path) -> Result<Users, Error> {
    let path = state.join(FILE);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match fs::read_link(&path) {
                Ok(target) => Err(Error::Dangling(path, target)),
                Err(_) => Ok(Users::default()),
            };
        }
        Err(error) => return Err(Error::Io(path, "read", error)),
    };
    Users::decode(&text).map_err(|error| Error::Damaged(path, error))
}

/// There is no file of users, and no directory for it either, perhaps.
pub(crate) fn is_missing(state: &Path) -> bool {
    let found = fs::symlink_metadata(state.join(FILE));
    found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn read(path: &Path) -> io::Result<String> {
    let file = open(OpenOptions::new().read(true), path)?;
    let mut text = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut text)?;
    // What is no text is damaged, and its checksum or head says so.
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Opens a regular file. A FIFO of its name would hold up whoever opens it: the supervisor must not wait for anybody.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let no_file = || io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
    let file = options
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENXIO) => no_file(),
            _ => error,
        })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(no_file()),
    }
}

/// Changes the file. Nobody else changes it meanwhile; an error of `change` leaves it.
pub(crate) fn edit<T, E: From<Error>>(
    state: &Path,
    change: impl FnOnce(&mut Users) -> Result<T, E>,
) -> Result<T, E> {
    let lock = state.join(LOCK);
    let failed = |what| move |error| Error::Io(state.join(FILE), what, error);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let _held = open(&mut options, &lock)
        .and_then(|file| {
            owned_like(&file, state)
                .and_then(|()| file.lock())
                .map(|()| file)
        })
        .map_err(failed("locked"))?;
    let mut users = load(state)?;
    let result = change(&mut users)?;
    write(state, &users.encode()).map_err(failed("written"))?;
    Ok(result)
}

fn write(state: &Path, text: &str) -> io::Result<()> {
    let aside = state.join(ASIDE);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    owned_like(&file, state)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, state.join(FILE))?;
    File::open(state)?.sync_all()
}

/// What root writes is the server's account's, whose directory it is.
pub(crate) fn owned_like(file: &File, state: &Path) -> io::Result<()> {
    let (ours, theirs) = (file.metadata()?, fs::metadata(state)?);
    if (ours.uid(), ours.gid()) == (theirs.uid(), theirs.gid()) || ours.uid() != 0 {
        return Ok(());
    }
    fchown(file, Some(theirs.uid()), Some(theirs.gid()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use config::{Ha1Pair, StoredSecrets, StoredUser};

    use super::*;

    fn add(users: &mut Users, name: &str) -> Result<(), Error> {
        let user = StoredUser {
            name: name.to_owned(),
            domain: "a.example".to_owned(),
            identities: Vec::new(),
            secrets: StoredSecrets {
                md5: Some(Ha1Pair {
                    short: [7; 16],
                    full: None,
                }),
                ..StoredSecrets::default()
            },
        };
        users
            .0
            .insert((user.domain.clone(), user.name.clone()), user);
        Ok(())
    }

    #[test]
    fn it_is_for_its_owner_and_survives_what_lies_beside_it() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load(state.path()).unwrap(), Users::default());
        // Somebody died in the middle of it.
        fs::write(state.path().join(ASIDE), "tandem-us").unwrap();
        edit(state.path(), |users| add(users, "alice")).unwrap();
        edit(state.path(), |users| add(users, "bob")).unwrap();
        assert_eq!(load(state.path()).unwrap().0.len(), 2);
        let mode = fs::metadata(state.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = edit(state.path(), |users| {
            users.0.clear();
            Err::<(), _>(Error::Damaged(PathBuf::new(), UsersError::Head))
        });
        assert!(refused.is_err());
        assert_eq!(load(state.path()).unwrap().0.len(), 2);
    }

    #[test]
    fn a_link_to_nothing_is_no_empty_list() {
        let state = tempfile::tempdir().unwrap();
        assert!(is_missing(state.path()));
        assert!(is_missing(&state.path().join("not-mounted")));
        std::os::unix::fs::symlink("/nowhere/users", state.path().join(FILE)).unwrap();
        let error = load(state.path()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/users"), "{error}");
        assert!(edit(state.path(), |users| add(users, "alice")).is_err());
        assert!(!is_missing(state.path()));
    }

    #[test]
    fn a_fifo_in_its_place_holds_up_nobody() {
        let state = tempfile::tempdir().unwrap();
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        let fifo = |name: &str| nix::unistd::mkfifo(&state.path().join(name), mode).unwrap();
        fifo(FILE);
        let error = load(state.path()).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        assert!(edit(state.path(), |users| add(users, "alice")).is_err());
        fs::remove_file(state.path().join(FILE)).unwrap();
        fs::remove_file(state.path().join(LOCK)).unwrap();
        fifo(LOCK);
        let error = edit(state.path(), |users| add(users, "alice")).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        // Noise is told as damage, with its remedy.
        fs::write(state.path().join(FILE), [0xff, 0xfe, 0x80]).unwrap();
        assert!(matches!(load(state.path()), Err(Error::Damaged(..))));
    }

    #[test]
    fn changes_at_the_same_time_are_all_there() {
        let state = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let state = state.path();
                scope.spawn(move || {
                    for number in 0..10 {
                        let name = format!("user-{thread}-{number}");
                        edit(state, |users| add(users, &name)).unwrap();
                    }
                });
            }
        });
        assert_eq!(load(state.path()).unwrap().0.len(), 40);
    }

    #[test]
    fn a_damaged_file_is_told_and_left() {
        let state = tempfile::tempdir().unwrap();
        edit(state.path(), |users| add(users, "alice")).unwrap();
        let path = state.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap().replace("alice", "alicf");
        fs::write(&path, &text).unwrap();
        let error = load(state.path()).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        assert!(edit(state.path(), |users| add(users, "bob")).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
