//! Helpers: processes of one task each over the arena that the supervisor must not wait for (`worker::helper`), one at a time.
//!
//! A helper has a participant of the arena for itself, behind those of the workers' control threads. One that dies leaves an announced epoch, which would
//! hold up everybody's memory: then a helper that only recovers that participant is started at once, before any other task. A helper that is late is killed; its
//! task has failed, and its owner (`snapshots`) tries again in its own time.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use control::{FromHelper, HelperTask, ToHelper};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use os::Executable;
use stdx::Instant;

use super::cause::Cause;
use super::supervisor::{Supervisor, Token};

/// Participants of the arena that are the helpers'.
pub(crate) const PARTICIPANTS: u16 = 1;
/// How long the recovery of a dead helper's participant may take.
const RECOVER_PATIENCE: Duration = Duration::from_secs(30);
/// From a recovery that failed to the next.
const RECOVER_AGAIN: Duration = Duration::from_secs(1);

/// What every helper is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) program: &'a Executable,
    pub(crate) arguments: &'a [String],
    /// Control and data memfd.
    pub(crate) arena: [BorrowedFd<'a>; 2],
    pub(crate) user: Option<&'a str>,
}

/// A helper at work.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: OwnedFd,
    pub(crate) task: HelperTask,
    pub(crate) deadline: Instant,
    late: bool,
    /// Its last word, if it is one that ends a task.
    outcome: Option<FromHelper>,
}

/// How a task ended.
pub(crate) type Ended = Result<FromHelper, String>;

#[derive(Debug)]
pub(crate) struct Helpers {
    participant: u16,
    /// A dead helper had the participant, and nobody has recovered it.
    dead: bool,
    recover_at: Instant,
    running: Option<Helper>,
}

impl Helpers {
    /// `dead`: a helper of an earlier supervisor may have had the participant.
    pub(crate) fn new(participant: u16, dead: bool) -> Self {
        Self {
            participant,
            dead,
            recover_at: Instant::ZERO,
            running: None,
        }
    }

    /// The arena is another one, in which no helper has been.
    pub(crate) fn arena_is_new(&mut self) {
        self.dead = false;
    }

    /// When the one that runs is late, or what a dead one left is to be recovered.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.running {
            Some(helper) => (!helper.late).then_some(helper.deadline),
            None => self.dead.then_some(self.recover_at),
        }
    }

    pub(crate) fn running(&self) -> Option<&Helper> {
        self.running.as_ref()
    }

    /// Starts a process with its task. Nothing of what may fail here touches the arena.
    pub(crate) fn spawn(
        &self,
        start: Start<'_>,
        task: HelperTask,
        files: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> io::Result<Helper> {
        let (ours, theirs) = os::seqpacket_pair()?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let begin = ToHelper::Begin {
            supervisor: std::process::id(),
            aux: self.participant,
            recover_aux: self.dead,
            user: start.user.map(str::to_owned),
            task,
        };
        let bytes = control::encode(&begin).map_err(io::Error::other)?;
        let fds = [&start.arena[..], files].concat();
        // Before the process is there: what can't be sent costs no process.
        os::send_with_fds(ours.as_fd(), &bytes, &fds)?;
        let child = os::spawn_worker(start.program, start.arguments, theirs)?;
        Ok(Helper {
            pid: child.pid,
            pidfd: child.pidfd,
            channel: ours,
            task,
            deadline,
            late: false,
            outcome: None,
        })
    }

    /// Notes how a helper has ended, and says how its task did.
    fn end(&mut self, helper: Helper, cause: Cause, now: Instant) -> Ended {
        let clean = cause == Cause::Code(0);
        self.dead = !clean;
        self.recover_at = match (helper.task, clean) {
            (HelperTask::Recover, false) => now.saturating_add(RECOVER_AGAIN),
            _ => now,
        };
        match helper.outcome {
            Some(FromHelper::Failed { message }) => Err(message),
            Some(outcome) if clean => Ok(outcome),
            _ if helper.late => Err("it took too long, and was killed".to_owned()),
            _ => Err(format!("its process ended early: {cause}")),
        }
    }

    /// Runs a task to its end: for the start, when nobody else waits for us.
    pub(crate) fn run(
        &mut self,
        start: Start<'_>,
        task: HelperTask,
        files: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Ended {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let deadline = os::now().saturating_add(patience);
        let mut helper = self
            .spawn(start, task, files, deadline)
            .map_err(|error| format!("its process can't be started: {error}"))?;
        let cause = loop {
            match os::reap(helper.pidfd.as_fd()) {
                Ok(Some(exit)) => break Cause::of(exit),
                Ok(None) => {}
                Err(_) => break Cause::Code(-1),
            }
            let left = deadline.saturating_duration_since(os::now());
            if left.is_zero() {
                helper.kill();
            }
            let ms = left.as_millis().clamp(1, 60_000) as u16;
            let mut ready = [PollFd::new(helper.pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(ms)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => {
                    helper.kill();
                    break Cause::Code(-1);
                }
            }
        };
        while let Some(message) = helper.receive() {
            helper.outcome = Some(message);
        }
        self.end(helper, cause, os::now())
    }
}

impl Helper {
    pub(crate) fn kill(&mut self) {
        self.late = true;
        if let Err(error) = os::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            tracing::error!(pid = self.pid, %error, "a helper can't be killed");
        }
    }

    /// The next message; `None` when nothing waits or the channel has ended, or what came makes no sense, which its end will show.
    fn receive(&self) -> Option<FromHelper> {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        match os::recv_with_fds(self.channel.as_fd(), &mut bytes, &mut fds) {
            Ok(length) if length > 0 => control::decode(&bytes).ok(),
            _ => None,
        }
    }

    pub(crate) fn tell(&self, message: &ToHelper) -> io::Result<()> {
        let bytes = control::encode(message).map_err(io::Error::other)?;
        os::send_with_fds(self.channel.as_fd(), &bytes, &[])
    }
}

impl Supervisor {
    /// Whether a task may be begun.
    pub(super) fn helpers_free(&self) -> bool {
        // One that is about to be another's, or that only another program can read, is not for them.
        let stays = self.switch.is_none() && !self.memory.is_foreign();
        stays && self.helpers.running.is_none() && !self.helpers.dead
    }

    /// Kills the helper at work, if any, and sees it dead: whoever comes after us must not find its participant in use.
    pub(super) fn end_helper(&mut self) {
        if let Some(mut helper) = self.helpers.running.take() {
            helper.kill();
            let _ = nix::sys::wait::waitid(
                nix::sys::wait::Id::PIDFd(helper.pidfd.as_fd()),
                nix::sys::wait::WaitPidFlag::WEXITED,
            );
            self.unwatch(helper.pidfd.as_fd());
            self.unwatch(helper.channel.as_fd());
            self.helpers.dead = true;
        }
    }

    /// Begins a task.
    pub(super) fn help(
        &mut self,
        task: HelperTask,
        files: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> io::Result<()> {
        let program = self
            .images
            .get(self.fleet.image())
            .ok_or(io::ErrorKind::NotFound)?;
        let (control, data) = self.memory.files().ok_or(io::ErrorKind::Unsupported)?;
        let start = Start {
            program: &program.executable,
            arguments: &self.arguments.helper,
            arena: [control, data],
            user: self.config.workers.user.as_deref(),
        };
        let deadline = os::now().saturating_add(patience);
        let mut helper = self.helpers.spawn(start, task, files, deadline)?;
        let watched = self
            .watch(helper.pidfd.as_fd(), Token::HelperDeath)
            .and_then(|()| self.watch(helper.channel.as_fd(), Token::Helper));
        if watched.is_err() {
            // It is looked after each second instead; without its channel it can't go on.
            helper.kill();
        }
        tracing::debug!(pid = helper.pid, ?task, "helper started");
        self.helpers.running = Some(helper);
        watched
    }

    pub(super) fn stop_helper(&mut self) {
        if let Some(helper) = self.helpers.running.as_mut() {
            helper.kill();
        }
    }

    pub(super) fn helpers_on_time(&mut self, now: Instant) {
        // A death whose notice the kernel could not give is found here.
        self.on_helper_death();
        if let Some(helper) = self.helpers.running.as_mut() {
            if helper.deadline <= now && !helper.late {
                helper.kill();
            }
        } else if self.helpers.dead && self.helpers.recover_at <= now && !self.ending() {
            self.recover_helper(now);
        }
    }

    fn recover_helper(&mut self, now: Instant) {
        if let Err(error) = self.help(HelperTask::Recover, &[], RECOVER_PATIENCE) {
            tracing::error!(%error, "no process can be started to clean up after a helper");
            self.helpers.recover_at = now.saturating_add(RECOVER_AGAIN);
        }
    }

    pub(super) fn on_helper_channel(&mut self) {
        while let Some(helper) = self.helpers.running.as_mut() {
            match helper.receive() {
                Some(FromHelper::Written(written)) => self.snapshot_written(written),
                Some(outcome) => helper.outcome = Some(outcome),
                None => {
                    // It ends by itself once it has told everything; an ended channel stays readable.
                    if helper.outcome.is_some() {
                        let _ = self.epoll.delete(&helper.channel);
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn on_helper_death(&mut self) {
        let Some(helper) = self.helpers.running.as_ref() else {
            return;
        };
        let cause = match os::reap(helper.pidfd.as_fd()) {
            Ok(Some(exit)) => Cause::of(exit),
            Ok(None) => return,
            Err(_) => Cause::Code(-1),
        };
        // Its last words are still in the channel.
        self.on_helper_channel();
        let Some(helper) = self.helpers.running.take() else {
            return;
        };
        for fd in [helper.pidfd.as_fd(), helper.channel.as_fd()] {
            let _ = self.epoll.delete(fd);
        }
        let now = os::now();
        let (task, pid) = (helper.task, helper.pid);
        let ended = self.helpers.end(helper, cause, now);
        if self.helpers.dead && self.helpers.recover_at <= now && !self.ending() {
            self.recover_helper(now);
        }
        match task {
            HelperTask::Recover => {
                if let Err(why) = ended {
                    tracing::error!(pid, why, "what a dead helper left can't be cleaned up");
                }
            }
            HelperTask::Snapshot { .. } => self.snapshot_ended(ended),
            HelperTask::Restore => {}
            HelperTask::Pages { gather, .. } => self.paged(gather, &ended),
        }
        self.go_on_with_stop();
    }
}
