//! Whether we may have a ring here, and if not, why and what to do.

use std::io;

use io_uring::{IoUring, opcode};

/// Completion queues hold at least this many entries for the probe.
const PROBE_ENTRIES: u32 = 8;

/// The kernel does not let us have a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("io_uring: {why} (errno {errno}): {}", .why.remedy())]
pub struct Refused {
    /// The kernel's word.
    pub errno: i32,
    /// What it means here.
    pub why: Why,
}

impl Refused {
    /// What an operator can do.
    pub const fn remedy(&self) -> &'static str {
        self.why.remedy()
    }
}

/// Causes that call for different remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("this kernel has no io_uring, or a container's seccomp profile says so")]
    Missing,
    #[error("the sysctl kernel.io_uring_disabled forbids it to everyone")]
    Disabled,
    #[error("the sysctl kernel.io_uring_disabled forbids it to this user")]
    DisabledForUser,
    #[error("not permitted, most likely by a container's seccomp profile")]
    Seccomp,
    #[error("not enough memory that may be locked")]
    Memory,
    #[error("too many open files")]
    Descriptors,
    #[error("this kernel is older than 6.1")]
    Old,
    #[error("the ring does not work")]
    Broken,
}

impl Why {
    /// What an operator can do.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Missing => {
                "use a kernel of 6.1 or later with CONFIG_IO_URING, or a seccomp profile that allows io_uring"
            }
            Self::Disabled => "set it to 0: sysctl kernel.io_uring_disabled=0",
            Self::DisabledForUser => {
                "set it to 0, or name a group of this user in kernel.io_uring_group"
            }
            Self::Seccomp => {
                "allow io_uring_setup, io_uring_enter and io_uring_register in the container's profile"
            }
            Self::Memory => {
                "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=) or the cgroup's memory"
            }
            Self::Descriptors => "raise the limit of open files (ulimit -n, LimitNOFILE=)",
            Self::Old => "use a kernel of 6.1 or later",
            Self::Broken => "report it with the kernel's version",
        }
    }
}

/// Makes a ring as a driver would, runs a no-operation through it and asks for every operation we use.
pub fn probe() -> Result<(), Refused> {
    let mut ring = ring(PROBE_ENTRIES, PROBE_ENTRIES * 2)?;
    let mut known = io_uring::Probe::new();
    ring.submitter()
        .register_probe(&mut known)
        .map_err(|e| refused(&e))?;
    let needed = [
        opcode::RecvMsg::CODE,
        opcode::SendMsg::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
    ];
    if !needed.iter().all(|&code| known.is_supported(code)) {
        return Err(Refused {
            errno: libc::EINVAL,
            why: Why::Old,
        });
    }
    let nothing = opcode::Nop::new().build().user_data(1);
    // SAFETY: a no-operation reads and writes no memory.
    let pushed = unsafe { ring.submission().push(&nothing) };
    debug_assert!(pushed.is_ok());
    ring.submit_and_wait(1).map_err(|e| refused(&e))?;
    match ring.completion().next() {
        Some(done) if done.result() == 0 => Ok(()),
        other => Err(Refused {
            errno: other.map_or(libc::EIO, |done| -done.result()),
            why: Why::Broken,
        }),
    }
}

/// A ring with the flags that the driver relies on (Linux 6.1), made by the thread that will use it.
pub(crate) fn ring(entries: u32, completions: u32) -> Result<IoUring, Refused> {
    // Linux 6.6 can do without the indirection array; older kernels answer EINVAL.
    match build(entries, completions, true) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            build(entries, completions, false)
        }
        other => other,
    }
    .map_err(|e| refused(&e))
}

fn build(entries: u32, completions: u32, no_array: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(completions)
        .dontfork();
    if no_array {
        builder.setup_no_sqarray();
    }
    builder.build(entries)
}

/// What an error of setting up a ring means here.
pub(crate) fn refused(error: &io::Error) -> Refused {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    Refused {
        errno,
        why: why(errno, sysctl()),
    }
}

fn why(errno: i32, disabled: Option<u8>) -> Why {
    match (errno, disabled) {
        (libc::ENOSYS, _) => Why::Missing,
        (libc::EPERM, Some(b'2')) => Why::Disabled,
        (libc::EPERM, Some(b'1')) => Why::DisabledForUser,
        (libc::EPERM | libc::EACCES, _) => Why::Seccomp,
        (libc::ENOMEM | libc::ENOBUFS, _) => Why::Memory,
        (libc::EMFILE | libc::ENFILE, _) => Why::Descriptors,
        (libc::EINVAL, _) => Why::Old,
        _ => Why::Broken,
    }
}

/// The first digit of kernel.io_uring_disabled (Linux 6.6); `None` where there is no such sysctl.
fn sysctl() -> Option<u8> {
    std::fs::read("/proc/sys/kernel/io_uring_disabled")
        .ok()?
        .first()
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_apart() {
        assert_eq!(why(libc::ENOSYS, None), Why::Missing);
        assert_eq!(why(libc::EPERM, Some(b'0')), Why::Seccomp);
        assert_eq!(why(libc::EPERM, None), Why::Seccomp);
        assert_eq!(why(libc::EPERM, Some(b'1')), Why::DisabledForUser);
        assert_eq!(why(libc::EPERM, Some(b'2')), Why::Disabled);
        assert_eq!(why(libc::ENOMEM, Some(b'0')), Why::Memory);
        assert_eq!(why(libc::EINVAL, Some(b'0')), Why::Old);
        let text = Refused {
            errno: libc::EPERM,
            why: Why::Disabled,
        }
        .to_string();
        assert_eq!(
            text,
            "io_uring: the sysctl kernel.io_uring_disabled forbids it to everyone (errno 1): \
             set it to 0: sysctl kernel.io_uring_disabled=0"
        );
    }

    #[test]
    fn this_machine_has_a_ring() {
        assert_eq!(probe(), Ok(()));
    }
}
