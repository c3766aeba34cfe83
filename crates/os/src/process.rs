//! Processes named by descriptors, and pinning.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::str::FromStr;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::executable::{self, Executable};

/// The descriptor under which a worker finds its end of the control channel.
pub const CONTROL_FD: RawFd = 3;

/// A process that we started.
#[derive(Debug)]
pub struct Child {
    /// For people and logs; a number may be used again after the process was reaped.
    pub pid: u32,
    /// Names this process and no other; readable once it is dead.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned or called exit, with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It is dead, and nobody can tell how any more: not our child, and on a kernel before 6.15.
    Unknown,
}

/// A descriptor of the process `pid`. No race for a child that was not reaped yet.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::c_long::from(pid);
    // SAFETY: pidfd_open takes a number and flags; no memory is passed.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let raw = Errno::result(raw)?;
    // SAFETY: the kernel just made this descriptor (closed on exec by default) and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// Sends `signal` to the process behind `pidfd`; signal 0 only asks whether it is there. `ESRCH` once it was reaped.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let (fd, signal) = (
        libc::c_long::from(pidfd.as_raw_fd()),
        libc::c_long::from(signal),
    );
    // SAFETY: a null siginfo means "as kill would send it"; no memory is passed.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, 0, 0) };
    Errno::result(result)?;
    Ok(())
}

/// How the process behind `pidfd` ended; `None` while it runs. A child of ours is reaped; of another's child the kernel keeps
/// the exit code for whoever holds a pidfd (since 6.15).
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    match waitid(
        Id::PIDFd(pidfd),
        WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
    ) {
        Ok(WaitStatus::Exited(_, code)) => Ok(Some(Exit::Code(code))),
        Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Some(Exit::Signal(signal as i32))),
        Ok(_) => Ok(None),
        // Not our child, or reaped already.
        Err(Errno::ECHILD) if !is_dead(pidfd)? => Ok(None),
        Err(Errno::ECHILD) => Ok(Some(exit_of_stranger(pidfd))),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether all threads of the process are gone.
pub fn is_dead(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut ready = [PollFd::new(pidfd, PollFlags::POLLIN)];
    loop {
        match poll(&mut ready, PollTimeout::ZERO) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The number of the process behind `pidfd`; an error once it was reaped, or for one that lives in another namespace.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse().ok())
        .filter(|pid| *pid != 0)
        .ok_or_else(|| io::Error::from(Errno::ESRCH))
}

/// When the process `pid` started, in the kernel's ticks since boot: with its number, its name for good. To be asked while a
/// pidfd of it is held, or for ourselves.
pub fn start_ticks(pid: u32) -> io::Result<u64> {
    stat_field(pid, 22)
}

/// Whether a signal has stopped the process `pid`, or a debugger holds it: it runs nothing until somebody lets it go on.
pub fn is_stopped(pid: u32) -> io::Result<bool> {
    let state: char = stat_field(pid, 3)?;
    Ok(matches!(state, 'T' | 't'))
}

/// A field of `/proc/PID/stat`, counted as in proc(5).
fn stat_field<T: FromStr>(pid: u32, field: usize) -> io::Result<T> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    let stat = String::from_utf8_lossy(&stat);
    // The name, field 2, may hold anything; nothing after it has a parenthesis.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(field - 3)?.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn exit_of_stranger(pidfd: BorrowedFd<'_>) -> Exit {
    // Before its parent has reaped it the code is in /proc only, afterwards behind the pidfd only.
    let zombie = || {
        let pid = pid_of(pidfd).ok()?;
        let status: u64 = stat_field(pid, 52).ok()?;
        // Whoever may not see it is shown 0. The pidfd still names the zombie, so the number was its own.
        (status != 0 && pid_of(pidfd).is_ok()).then_some(status as i32)
    };
    let status = exit_status(pidfd)
        .or_else(zombie)
        .or_else(|| exit_status(pidfd));
    match status {
        None => Exit::Unknown,
        Some(status) if libc::WIFSIGNALED(status) => Exit::Signal(libc::WTERMSIG(status)),
        Some(status) => Exit::Code(libc::WEXITSTATUS(status)),
    }
}

/// `struct pidfd_info` of linux/pidfd.h, in its first size.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, then eight user and group ids.
    ids: [u32; 11],
    exit_code: i32,
}
const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// `PIDFD_INFO_EXIT`.
const INFO_EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`.
const GET_INFO: libc::Ioctl = (3 << 30 | 64 << 16 | 0xff << 8 | 11) as libc::Ioctl;

/// What `wait` would have told, once the process was reaped; `None` before, and on a kernel that does not keep it.
fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo {
        mask: INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request carries the size of the structure, which is ours and lives through the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    (result == 0 && info.mask & INFO_EXIT != 0).then_some(info.exit_code)
}

/// Starts a worker: it finds `control` as descriptor [`CONTROL_FD`], stdout and stderr as ours, stdin empty, no other
/// descriptor, an empty signal mask, and our environment. It gets no parent-death signal: workers outlive a supervisor.
///
/// Only to be called by a process with one thread, or by one whose other threads do not matter to the child.
pub fn spawn_worker<A: AsRef<OsStr>>(
    program: &Executable,
    args: &[A],
    control: OwnedFd,
) -> io::Result<Child> {
    // The standard library reports a failed exec through a pipe of its own, and that pipe must not be the descriptor we
    // overwrite in the child: after this duplication, descriptor 3 is taken.
    let placeholder = duplicate_from(&control, CONTROL_FD)?;
    let raw = control.as_raw_fd();
    let mut command = Command::new(program.path());
    command
        .args(args)
        .arg0(executable::our_name())
        .stdin(Stdio::null());
    // SAFETY: the hook calls only async-signal-safe functions, on plain numbers, and allocates nothing.
    unsafe { command.pre_exec(move || prepare_child(raw)) };
    let child = command.spawn()?;
    drop(placeholder);
    let pid = child.id();
    // Dropping the standard library's handle neither waits nor kills; the process is ours to reap by its pidfd.
    drop(child);
    Ok(Child {
        pid,
        pidfd: pidfd_open(pid)?,
    })
}

/// A worker's end of its control channel, under a number of its own and closed on exec; descriptor [`CONTROL_FD`] is
/// closed. An error for a process that was not started by [`spawn_worker`].
pub fn take_control_channel() -> io::Result<OwnedFd> {
    let least = libc::c_int::from(CONTROL_FD) + 1;
    // SAFETY: duplicates a number that may name nothing (EBADF); no memory is passed.
    let raw = unsafe { libc::fcntl(CONTROL_FD, libc::F_DUPFD_CLOEXEC, least) };
    let raw = Errno::result(raw)?;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    let channel = unsafe { OwnedFd::from_raw_fd(raw) };
    // Whatever else lies there is somebody else's and stays.
    match getsockopt(&channel, sockopt::SockType) {
        Ok(SockType::SeqPacket) => {}
        Ok(_) | Err(_) => return Err(io::Error::other("descriptor 3 is no control channel")),
    }
    // SAFETY: it named the channel, which by the convention of `spawn_worker` nobody else in this process owns.
    Errno::result(unsafe { libc::close(CONTROL_FD) })?;
    Ok(channel)
}

/// A duplicate of `fd` with a number of at least `least`, closed on exec.
pub(crate) fn duplicate_from(fd: &impl AsFd, least: RawFd) -> io::Result<OwnedFd> {
    let raw = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(least))?;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Runs in the child between fork and exec: async-signal-safe calls only.
fn prepare_child(control: RawFd) -> io::Result<()> {
    if control == CONTROL_FD {
        // SAFETY: clears close-on-exec of a descriptor; no memory is passed.
        Errno::result(unsafe { libc::fcntl(CONTROL_FD, libc::F_SETFD, 0) })?;
    } else {
        // SAFETY: both are numbers; what was descriptor 3 is the placeholder or our parent's, and unused here.
        Errno::result(unsafe { libc::dup2(control, CONTROL_FD) })?;
    }
    // Everything above is closed by the exec itself, so that the pipe that reports its failure lives until then.
    let first = libc::c_long::from(CONTROL_FD + 1);
    let (last, flag) = (
        libc::c_long::from(u32::MAX),
        libc::c_long::from(libc::CLOSE_RANGE_CLOEXEC),
    );
    // SAFETY: sets a flag on a range of descriptors; no memory is passed.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, flag) })?;
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Runs the calling thread on this core alone, from now on. Fails if the machine or our cgroup has no such core.
pub fn pin_current_thread(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}

/// Has the kernel kill this process when its parent dies; to be called after the last change of user, which undoes it. An error if the parent is not
/// `parent` any more, whose death then was too early to be told of. The parent's *thread* that started us counts: for parents with one.
pub fn die_with_parent(parent: u32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    if i64::from(nix::unistd::getppid().as_raw()) == i64::from(parent) {
        Ok(())
    } else {
        Err(io::Error::other("the process that started us is gone"))
    }
}

/// From now on writing behind the limit of file sizes (RLIMIT_FSIZE) is an error (`EFBIG`) for this process and those that it starts, instead of a death
/// without a word.
pub fn outlive_file_size_limit() -> io::Result<()> {
    // SAFETY: to ignore a signal runs no handler; nobody here has another disposition for it.
    unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGXFSZ,
            nix::sys::signal::SigHandler::SigIgn,
        )
    }?;
    Ok(())
}

/// Lets this process, from its main thread on, give way to others: 19 is the nicest.
pub fn give_way(nice: i32) -> io::Result<()> {
    // SAFETY: takes three numbers; no memory is passed.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    Ok(())
}

/// Lets the scheduler run the calling thread on every core again that the process's main thread may use.
pub fn unpin_current_thread() -> io::Result<()> {
    let all = sched_getaffinity(Pid::this())?;
    Ok(sched_setaffinity(Pid::from_raw(0), &all)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, control: OwnedFd) -> io::Result<Child> {
        spawn_worker(
            &Executable::open("/bin/sh".as_ref())?,
            &["-c", script],
            control,
        )
    }

    fn wait(child: &Child) -> Exit {
        let mut ready = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(10_000u16)).unwrap();
        reap(child.pidfd.as_fd())
            .unwrap()
            .expect("its pidfd is readable, so it is dead")
    }

    #[test]
    fn a_worker_finds_its_channel_and_nothing_else() {
        let (ours, theirs) = crate::seqpacket_pair().unwrap();
        let leak = nix::unistd::dup(&ours).unwrap();
        nix::fcntl::fcntl(
            &leak,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )
        .unwrap();
        // The glob is expanded by the shell itself, which has its own directory descriptor open while it reads.
        let script = "for n in 4 5 6 7 8 9 10 11 12 13 14 15; do test -e /proc/$$/fd/$n && exit 9; done; echo here >&3";
        let child = shell(script, theirs).unwrap();
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        crate::recv_with_fds(ours.as_fd(), &mut bytes, &mut fds).unwrap();
        assert_eq!((bytes, wait(&child)), (b"here\n".to_vec(), Exit::Code(0)));
        drop(leak);
    }

    #[test]
    fn what_is_no_program_is_an_error_and_a_kill_is_seen() {
        let (_ours, theirs) = crate::seqpacket_pair().unwrap();
        // Root may read any file, but not run one that nobody may run.
        let file = Executable::open("/etc/passwd".as_ref()).unwrap();
        let error = spawn_worker(&file, &[] as &[&str], theirs).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let (ours, theirs) = crate::seqpacket_pair().unwrap();
        let child = shell("read line <&3", theirs).unwrap();
        assert_eq!(reap(child.pidfd.as_fd()).unwrap(), None);
        pidfd_signal(child.pidfd.as_fd(), 0).unwrap();
        pidfd_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert_eq!(wait(&child), Exit::Signal(libc::SIGKILL));
        assert!(pidfd_signal(child.pidfd.as_fd(), 0).is_err());
        drop(ours);
    }

    #[test]
    fn the_end_of_anothers_child() {
        for (script, exit) in [("exit 7", Exit::Code(7)), ("kill -9 $$", Exit::Signal(9))] {
            let (_ours, theirs) = crate::seqpacket_pair().unwrap();
            let child = shell(script, theirs).unwrap();
            assert_eq!(pid_of(child.pidfd.as_fd()).unwrap(), child.pid);
            assert!(start_ticks(child.pid).unwrap() > 0);
            wait_until_dead(&child);
            // Reaped behind our back, as if somebody else were its parent.
            waitid(Id::PIDFd(child.pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap();
            let found = reap(child.pidfd.as_fd()).unwrap();
            assert!(
                found == Some(exit) || found == Some(Exit::Unknown),
                "{script}: {found:?}"
            );
            assert!(pid_of(child.pidfd.as_fd()).is_err());
        }
    }

    fn wait_until_dead(child: &Child) {
        let mut ready = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(10_000u16)).unwrap();
        assert!(is_dead(child.pidfd.as_fd()).unwrap());
    }

    #[test]
    fn a_living_stranger_is_not_dead() {
        let parent = std::os::unix::process::parent_id();
        let pidfd = pidfd_open(parent).unwrap();
        assert_eq!(reap(pidfd.as_fd()).unwrap(), None);
    }

    #[test]
    fn a_stopped_process_is_known_as_such() {
        let child = shell("kill -STOP $$", crate::seqpacket_pair().unwrap().1).unwrap();
        while !is_stopped(child.pid).unwrap() {
            std::thread::yield_now();
        }
        assert!(!is_stopped(std::process::id()).unwrap());
        pidfd_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert_eq!(wait(&child), Exit::Signal(libc::SIGKILL));
        assert!(is_stopped(child.pid).is_err());
    }

    #[test]
    fn nobody_dies_with_a_stranger() {
        // Undone at once: this process is the test runner's.
        let parent = nix::unistd::getppid().as_raw() as u32;
        assert!(die_with_parent(parent + 1).is_err());
        die_with_parent(parent).unwrap();
        nix::sys::prctl::set_pdeathsig(None).unwrap();
    }

    #[test]
    fn a_thread_can_be_pinned() {
        let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
        let core = (0..CpuSet::count())
            .find(|&c| allowed.is_set(c).unwrap())
            .unwrap();
        std::thread::spawn(move || pin_current_thread(core).unwrap())
            .join()
            .unwrap();
        assert!(pin_current_thread(CpuSet::count()).is_err());
    }
}
