//! The descriptors of each worker process and what goes over its control channel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use control::{FDS_PER_MESSAGE_MAX, FromWorker, TableRequest, ToWorker};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use stdx::Instant;

use super::fleet::ProcessId;
use super::numbers::Files;
use super::sockets::Listener;

/// What a channel may hold unread, in bytes: messages are small, but a busy worker may be late.
pub(crate) const CHANNEL_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: OwnedFd,
    /// Slots that it reported as served.
    pub(crate) serving: BTreeSet<u16>,
    pub(crate) ear: Ear,
}

/// What is known of a process's control thread: it is rung by an order that does nothing, and whether it has read its orders is for the
/// kernel to say. So it has to know of no ring and to answer none, whatever its version.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    /// When it was last seen to have read everything. Unit: ns of the monotonic clock.
    heard_ns: u64,
    /// It was given a client's question, which may take as long as the tables are large.
    asked: bool,
    /// It was rung since then: once that is read the question has been answered.
    rung_behind: bool,
}

/// By process. Dropping a link closes its descriptors; the process is reaped before.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: BTreeMap<ProcessId, Link>,
}

impl Links {
    /// Starts a worker process with its control channel.
    pub(crate) fn spawn(
        &mut self,
        id: ProcessId,
        program: &os::Executable,
        arguments: &[String],
    ) -> io::Result<&Link> {
        let (ours, theirs) = os::seqpacket_pair()?;
        // Only our end: the worker's control thread blocks.
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        for fd in [&ours, &theirs] {
            // Best effort: the default is enough unless a worker is very late.
            let _ = setsockopt(fd, sockopt::SndBuf, &CHANNEL_BYTES);
        }
        let child = os::spawn_worker(program, arguments, theirs)?;
        let link = Link {
            pid: child.pid,
            pidfd: child.pidfd,
            channel: ours,
            serving: BTreeSet::new(),
            ear: Ear::default(),
        };
        Ok(self.links.entry(id).or_insert(link))
    }

    /// A process that somebody else has started.
    pub(crate) fn adopt(&mut self, id: ProcessId, link: Link) {
        self.links.insert(id, link);
    }

    pub(crate) fn get(&self, id: ProcessId) -> Option<&Link> {
        self.links.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: ProcessId) -> Option<Link> {
        self.links.remove(&id)
    }

    pub(crate) fn ids(&self) -> Vec<ProcessId> {
        self.links.keys().copied().collect()
    }

    pub(crate) fn kill(&self, id: ProcessId) {
        if let Some(link) = self.links.get(&id)
            && let Err(error) = os::pidfd_signal(link.pidfd.as_fd(), libc::SIGKILL)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            tracing::error!(pid = link.pid, %error, "a worker can't be killed");
        }
    }
}

impl Link {
    /// `Err`: the worker is dead (its pidfd will say so) or has not read for a megabyte of messages.
    pub(crate) fn send(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = control::encode(message).map_err(io::Error::other)?;
        os::send_with_fds(self.channel.as_fd(), &bytes, fds)
    }

    /// When the process's control thread last took its orders, as far as is known `now`; another value than before is a sign of life.
    pub(crate) fn heard(&mut self, now: Instant) -> u64 {
        let all_read = os::unread_bytes(self.channel.as_fd()).is_ok_and(|bytes| bytes == 0);
        let ear = &mut self.ear;
        if all_read && ear.rung_behind {
            (ear.asked, ear.rung_behind) = (false, false);
        }
        if all_read || ear.asked {
            ear.heard_ns = now.as_nanos();
        }
        ear.heard_ns
    }

    /// Gives the control thread something to read, unless it has something.
    pub(crate) fn ring(&mut self) -> io::Result<()> {
        if os::unread_bytes(self.channel.as_fd())? == 0 {
            self.send(&ToWorker::Pin { slots: Vec::new() }, &[])?;
            self.ear.rung_behind = self.ear.asked;
        }
        Ok(())
    }

    /// Passes a client's question on with its connection.
    pub(crate) fn ask(
        &mut self,
        request: TableRequest,
        connection: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.send(&ToWorker::Query { request }, &[connection])?;
        (self.ear.asked, self.ear.rung_behind) = (true, false);
        Ok(())
    }

    /// The next message; `None` when nothing waits or the channel has ended.
    pub(crate) fn receive(&self) -> io::Result<Option<FromWorker>> {
        // Workers send no descriptors; any that come are closed here.
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        let mut received = os::recv_with_fds(self.channel.as_fd(), &mut bytes, &mut fds);
        // A worker that died with our messages unread: the kernel says so once, ahead of its last words.
        if received
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
        {
            received = os::recv_with_fds(self.channel.as_fd(), &mut bytes, &mut fds);
        }
        match received {
            Ok(0) => Ok(None),
            Ok(_) => control::decode(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first messages of a process: arena, configuration, adopt listener, doorbells.
    pub(crate) fn send_hello(
        &self,
        hello: &ToWorker,
        files: [BorrowedFd<'_>; 4],
        doorbells: &[OwnedFd],
    ) -> io::Result<()> {
        let first = doorbells.len().min(FDS_PER_MESSAGE_MAX - files.len());
        let mut fds = files.to_vec();
        let (beside, rest) = doorbells.split_at(first);
        fds.extend(beside.iter().map(|fd| fd.as_fd()));
        self.send(hello, &fds)?;
        let mut from_slot = first;
        for chunk in rest.chunks(FDS_PER_MESSAGE_MAX) {
            let fds: Vec<BorrowedFd<'_>> = chunk.iter().map(|fd| fd.as_fd()).collect();
            self.send(
                &ToWorker::Doorbells {
                    from_slot: from_slot as u16,
                },
                &fds,
            )?;
            from_slot += chunk.len();
        }
        Ok(())
    }

    pub(crate) fn send_tables(&self, tables: &Files) -> io::Result<()> {
        tables.iter().try_for_each(|(&image, file)| {
            self.send(&ToWorker::PrefixTable { image }, &[file.as_fd()])
        })
    }

    pub(crate) fn send_listener(&self, listener: &Listener) -> io::Result<()> {
        let sockets: Vec<BorrowedFd<'_>> = listener.sockets().collect();
        let mut from_slot = 0;
        for chunk in sockets.chunks(FDS_PER_MESSAGE_MAX) {
            let message = ToWorker::Sockets {
                listener: listener.id,
                asked: listener.asked,
                address: listener.listen.address,
                from_slot,
            };
            self.send(&message, chunk)?;
            from_slot += chunk.len() as u16;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> (Link, OwnedFd) {
        let (ours, theirs) = os::seqpacket_pair().unwrap();
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let pidfd = os::pidfd_open(std::process::id()).unwrap();
        let link = Link {
            pid: 1,
            pidfd,
            channel: ours,
            serving: BTreeSet::new(),
            ear: Ear::default(),
        };
        (link, theirs)
    }

    fn next(channel: &OwnedFd) -> (ToWorker, usize) {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        os::recv_with_fds(channel.as_fd(), &mut bytes, &mut fds).unwrap();
        (control::decode(&bytes).unwrap(), fds.len())
    }

    #[test]
    fn all_doorbells_arrive_in_order_of_slots() {
        let (link, theirs) = link();
        let doorbells: Vec<OwnedFd> = (0..256).map(|_| os::eventfd().unwrap()).collect();
        let file = os::eventfd().unwrap();
        link.send_hello(&ToWorker::HandOver, [file.as_fd(); 4], &doorbells)
            .unwrap();
        assert_eq!(next(&theirs), (ToWorker::HandOver, 200));
        assert_eq!(next(&theirs), (ToWorker::Doorbells { from_slot: 196 }, 60));
    }

    #[test]
    fn a_worker_that_never_reads_does_not_block_us() {
        let (link, _theirs) = link();
        let error = (0..100_000)
            .find_map(|_| link.send(&ToWorker::HandOver, &[]).err())
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_last_words_of_a_worker_that_left_our_messages_unread() {
        let (link, theirs) = link();
        link.send(&ToWorker::HandOver, &[]).unwrap();
        let failed = FromWorker::Failed {
            message: "no ring".into(),
        };
        os::send_with_fds(theirs.as_fd(), &control::encode(&failed).unwrap(), &[]).unwrap();
        drop(theirs);
        assert_eq!(link.receive().unwrap(), Some(failed));
        assert_eq!(link.receive().unwrap(), None);
    }

    #[test]
    fn who_reads_its_orders_is_heard() {
        let (mut link, theirs) = link();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let heard = |link: &mut Link, ms| link.heard(at(ms)) == at(ms).as_nanos();
        assert!(heard(&mut link, 1));
        // Of many rings one is enough to be read.
        (0..3).for_each(|_| link.ring().unwrap());
        assert!(!heard(&mut link, 2));
        assert_eq!(next(&theirs), (ToWorker::Pin { slots: vec![] }, 0));
        assert!(heard(&mut link, 3));
    }

    #[test]
    fn a_long_answer_is_no_hang() {
        let (mut link, theirs) = link();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let heard = |link: &mut Link, ms| link.heard(at(ms)) == at(ms).as_nanos();
        let connection = os::eventfd().unwrap();
        link.ask(TableRequest::Audit, connection.as_fd()).unwrap();
        assert!(heard(&mut link, 1), "not read yet");
        assert!(matches!(next(&theirs), (ToWorker::Query { .. }, 1)));
        assert!(heard(&mut link, 2));
        link.ring().unwrap();
        assert!(heard(&mut link, 3), "read, but busy with it");
        next(&theirs);
        assert!(heard(&mut link, 4), "done");
        link.ring().unwrap();
        assert!(!heard(&mut link, 5), "and now it hangs");
    }

    #[test]
    fn messages_are_read_until_none_is_left() {
        let (link, theirs) = link();
        assert_eq!(link.receive().unwrap(), None);
        for message in [FromWorker::Ready, FromWorker::HandedOver] {
            os::send_with_fds(theirs.as_fd(), &control::encode(&message).unwrap(), &[]).unwrap();
        }
        drop(theirs);
        assert_eq!(link.receive().unwrap(), Some(FromWorker::Ready));
        assert_eq!(link.receive().unwrap(), Some(FromWorker::HandedOver));
        assert_eq!(link.receive().unwrap(), None);
    }
}
