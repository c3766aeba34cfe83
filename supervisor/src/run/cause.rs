//! Why a worker process ended, in words an operator can use.

use std::fmt;

use os::Exit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The process left as it was told to.
    Planned,
    /// Ended by this signal number.
    Signal(i32),
    /// Ended by itself with this exit code.
    Code(i32),
    /// Killed by us because it had stopped answering.
    Hung,
    /// Killed by us because somebody had stopped it (SIGSTOP).
    Stopped,
    /// Killed by us because its control thread took no orders. What its slots did was none of it.
    Deaf,
    /// `fork` or `exec` failed with this errno.
    NotStarted(i32),
    /// It died while there was no supervisor, or the kernel can't tell.
    Unwatched,
}

impl Cause {
    pub(crate) fn of(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self::Code(code),
            Exit::Signal(number) => Self::Signal(number),
            Exit::Unknown => Self::Unwatched,
        }
    }

    /// One word for the arena, where the next supervisor finds it; never 0.
    pub(crate) fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Planned => (1, 0),
            Self::Signal(number) => (2, number),
            Self::Code(code) => (3, code),
            Self::Hung => (4, 0),
            Self::NotStarted(errno) => (5, errno),
            Self::Unwatched => (6, 0),
            Self::Stopped => (7, 0),
            Self::Deaf => (8, 0),
        };
        kind << 32 | u64::from(number as u32)
    }

    /// `None` for a word that is none.
    pub(crate) fn unpack(word: u64) -> Option<Self> {
        let number = word as u32 as i32;
        match word >> 32 {
            1 => Some(Self::Planned),
            2 => Some(Self::Signal(number)),
            3 => Some(Self::Code(number)),
            4 => Some(Self::Hung),
            5 => Some(Self::NotStarted(number)),
            6 => Some(Self::Unwatched),
            7 => Some(Self::Stopped),
            8 => Some(Self::Deaf),
            _ => None,
        }
    }

    /// Whether the message at hand may have caused it: a fault, an abort or the watchdog, not a kill from outside.
    pub(crate) fn suspect(self) -> bool {
        match self {
            Self::Planned | Self::Stopped | Self::Deaf | Self::NotStarted(_) | Self::Unwatched => {
                false
            }
            Self::Hung | Self::Code(_) => true,
            Self::Signal(number) => !matches!(
                number,
                libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT
            ),
        }
    }

    pub(crate) fn never_ran(self) -> bool {
        matches!(self, Self::NotStarted(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Planned => f.write_str("planned restart"),
            Self::Hung => f.write_str("hung, killed by the supervisor"),
            Self::Stopped => f.write_str("stopped from outside, killed by the supervisor"),
            Self::Deaf => f.write_str("its control thread hung, killed by the supervisor"),
            Self::Unwatched => f.write_str("unknown: nobody watched"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::NotStarted(errno) => write!(
                f,
                "not started: {}",
                std::io::Error::from_raw_os_error(errno)
            ),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_from_outside_is_no_suspicion() {
        for (cause, suspect, text) in [
            (Cause::Signal(libc::SIGKILL), false, "SIGKILL"),
            (Cause::Signal(libc::SIGSEGV), true, "SIGSEGV"),
            (Cause::Signal(libc::SIGABRT), true, "SIGABRT"),
            (Cause::Code(101), true, "exit code 101"),
            (Cause::Planned, false, "planned restart"),
            (Cause::Hung, true, "hung, killed by the supervisor"),
            (
                Cause::Deaf,
                false,
                "its control thread hung, killed by the supervisor",
            ),
            (Cause::Unwatched, false, "unknown: nobody watched"),
        ] {
            assert_eq!(Cause::unpack(cause.pack()), Some(cause));
            assert_eq!(
                (cause.suspect(), cause.to_string().as_str()),
                (suspect, text)
            );
        }
    }
}
