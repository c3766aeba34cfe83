//! Descriptors that the service manager kept for us (sd_listen_fds(3)).

use std::ffi::OsStr;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

/// The first one; they follow each other.
const FIRST: RawFd = 3;
/// More than any server stores.
const COUNT_MAX: usize = 1 << 17;

/// The descriptors of `LISTEN_FDS`, if they are meant for this process, with their names. Closed on exec from now on. To be called once, and
/// before this process has opened anything by itself.
pub fn inherited_descriptors() -> Vec<(String, OwnedFd)> {
    use std::sync::atomic::{AtomicBool, Ordering};
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name: &str| std::env::var_os(name).unwrap_or_default();
    let names = names(
        &variable("LISTEN_PID"),
        &variable("LISTEN_FDS"),
        &variable("LISTEN_FDNAMES"),
        std::process::id(),
    );
    // Relaxed: whoever is first owns them, nothing else hangs on it.
    if names.is_empty() || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    (FIRST..)
        .zip(names)
        .filter_map(|(raw, name)| {
            // SAFETY: sets a flag of a number that may name nothing (EBADF); no memory is passed.
            let set = unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) };
            Errno::result(set).ok()?;
            // SAFETY: it is open, the protocol of LISTEN_FDS makes it ours, and `TAKEN` lets nobody take it twice.
            Some((name, unsafe { OwnedFd::from_raw_fd(raw) }))
        })
        .collect()
}

/// One name for each descriptor; none if they are another process's.
fn names(pid: &OsStr, count: &OsStr, names: &OsStr, me: u32) -> Vec<String> {
    let number = |text: &OsStr| text.to_str()?.parse::<usize>().ok();
    if number(pid) != usize::try_from(me).ok() {
        return Vec::new();
    }
    let count = number(count).unwrap_or(0).min(COUNT_MAX);
    let names = names.to_string_lossy();
    let mut names = names.split(':');
    (0..count)
        .map(|_| names.next().unwrap_or("unknown").to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_for_us_and_each_with_its_name() {
        let of = |pid: &str, count: &str, list: &str| {
            names(pid.as_ref(), count.as_ref(), list.as_ref(), 7)
        };
        assert_eq!(of("7", "2", "a:b"), ["a", "b"]);
        assert_eq!(of("7", "2", "a"), ["a", "unknown"]);
        assert!(of("8", "2", "a:b").is_empty() && of("", "", "").is_empty());
        assert!(of("7", "x", "a").is_empty());
    }
}
