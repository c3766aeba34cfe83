//! Becoming an ordinary user for good.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Uid};

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// The user of this name, `NotFound` if there is none.
pub fn lookup_user(name: &str) -> io::Result<User> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no such user");
    let user = nix::unistd::User::from_name(name)?.ok_or_else(missing)?;
    Ok(User {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    })
}

/// Becomes `name` in all threads: groups, then group, then user, and never again more (PR_SET_NO_NEW_PRIVS). For a
/// process that is that user already only the last applies. After an error the process must not go on.
pub fn drop_privileges(name: &str) -> io::Result<()> {
    let user = lookup_user(name)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if !(nix::unistd::geteuid() == uid && nix::unistd::getuid() == uid) {
        let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        nix::unistd::initgroups(&name, gid)?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
    }
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        assert_eq!(lookup_user("root").unwrap(), User { uid: 0, gid: 0 });
        assert_eq!(
            lookup_user("no-such-user").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
