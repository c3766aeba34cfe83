//! A short-lived process that makes an arena as its program lays it out, which may be another way than ours.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use control::{ArenaPlan, FromWorker, ToWorker};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use os::Executable;
use stdx::Instant;

/// How long it may take: the kernel gives and clears the memory of the fixed regions.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Maker {
    child: os::Child,
    channel: OwnedFd,
    pub(crate) deadline: Instant,
}

/// An arena that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) control: OwnedFd,
    pub(crate) data: OwnedFd,
    /// Hash of its layout.
    pub(crate) layout: u64,
}

impl Maker {
    pub(crate) fn start(
        program: &Executable,
        arguments: &[String],
        plan: ArenaPlan,
        now: Instant,
    ) -> io::Result<Self> {
        let (ours, theirs) = os::seqpacket_pair()?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let maker = Self {
            child: os::spawn_worker(program, arguments, theirs)?,
            channel: ours,
            deadline: now.saturating_add(PATIENCE),
        };
        let plan = control::encode(&ToWorker::MakeArena(plan)).map_err(io::Error::other)?;
        os::send_with_fds(maker.channel.as_fd(), &plan, &[])?;
        Ok(maker)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// `None`: not yet.
    pub(crate) fn on_readable(&self) -> Option<Result<Made, String>> {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        match os::recv_with_fds(self.channel.as_fd(), &mut bytes, &mut fds) {
            Ok(0) => return Some(Err("it ended without an answer".to_owned())),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => return None,
            Err(error) => return Some(Err(error.to_string())),
        }
        let mut fds = fds.into_iter();
        Some(match (control::decode(&bytes), fds.next(), fds.next()) {
            (Ok(FromWorker::ArenaMade { layout }), Some(control), Some(data)) => Ok(Made {
                control,
                data,
                layout,
            }),
            (Ok(FromWorker::Failed { message }), ..) => Err(message),
            (Ok(_), ..) => Err("its answer is none".to_owned()),
            (Err(error), ..) => Err(error.to_string()),
        })
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // It has answered, or is not going to.
        let _ = os::pidfd_signal(self.child.pidfd.as_fd(), libc::SIGKILL);
        let _ = nix::sys::wait::waitid(
            nix::sys::wait::Id::PIDFd(self.child.pidfd.as_fd()),
            nix::sys::wait::WaitPidFlag::WEXITED,
        );
    }
}
