//! Descriptors that the service manager kept for us (sd_listen_fds(3)), and how it hands them over.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;

use crate::process::duplicate_from;

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

/// Has `command` start with these as its descriptors 3, 4, ...; `LISTEN_PID` is for the program to set, which alone knows its number.
///
/// The other side of [`inherited_descriptors`], for those who play the service manager. A shell's redirections are no way to do it: shells keep
/// descriptors of their own from 10 on, and lose what they are told to put there.
pub fn hand_over_descriptors(command: &mut Command, fds: Vec<OwnedFd>) -> io::Result<()> {
    let end = RawFd::try_from(fds.len())
        .ok()
        .and_then(|count| FIRST.checked_add(count))
        .ok_or(io::ErrorKind::InvalidInput)?;
    // Out of the way of each other, and nothing that the standard library opens for the child may lie where they go.
    let fds: Vec<OwnedFd> = fds
        .iter()
        .map(|fd| duplicate_from(fd, end))
        .collect::<io::Result<_>>()?;
    let mut taken = Vec::new();
    if let Some(any) = fds.first() {
        let fill = |_| duplicate_from(&any.as_fd(), FIRST);
        taken = (FIRST..end).map(fill).collect::<io::Result<_>>()?;
    }
    let place = move || {
        // Held until the command itself is dropped.
        let _ = &taken;
        for (to, from) in (FIRST..).zip(&fds) {
            // SAFETY: two numbers; what `to` was is ours to overwrite, as nothing of the standard library's lies there.
            Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) })?;
        }
        Ok(())
    };
    // SAFETY: the hook only calls dup2, which is async-signal-safe, on plain numbers, and allocates nothing.
    unsafe { command.pre_exec(place) };
    Ok(())
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
    fn each_arrives_where_it_belongs() {
        // More than ten, and in the way of each other.
        let mut fds = Vec::new();
        for _ in 0..20 {
            fds.push(std::fs::File::open("/dev/null").unwrap().into());
            fds.push(std::fs::File::open("/dev/zero").unwrap().into());
        }
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "for fd in $(seq 3 42); do readlink /proc/$$/fd/$fd; done",
        ]);
        hand_over_descriptors(&mut command, fds).unwrap();
        let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(out, "/dev/null\n/dev/zero\n".repeat(20));
    }

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
