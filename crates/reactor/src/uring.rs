//! The driver on io_uring (Linux 6.1).
//!
//! One ring per reactor thread, with deferred task work: the kernel moves datagrams out of the sockets only inside our
//! own enter, so that what a dying worker had taken is at most the batch of its last turn, and that lies in the pool.
//! Receiving is one multishot `recvmsg` per socket into provided buffers; sending is a `sendmsg` with MSG_DONTWAIT,
//! carried out while it is submitted, that posts a completion only when it fails.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use stdx::Instant;

use crate::buffers::{Buffers, GROUP};
use crate::datagram::{CONTROL_BYTES, NAME_BYTES, OVERHEAD_BYTES, datagram};
use crate::driver::{Driver, Event, SocketIndex};
use crate::pool::Pool;
use crate::probe::{Refused, refused, ring};
use crate::scratch::{Scratch, Unfit, empty_header};

/// After so many errors of a socket with no datagram in between, receiving pauses for [`PAUSE`] after each.
const FAILURES_MAX: u32 = 8;
const PAUSE: Duration = Duration::from_millis(100);
/// How often a submission that the kernel took only in part is continued before the turn goes on without it.
const SUBMISSIONS_MAX: u32 = 16;
/// How long [`Driver::quiesce`] waits for one more completion, and how many it waits for at most.
const QUIESCE_STEP: Duration = Duration::from_millis(100);
const QUIESCE_STEPS: u32 = 50;

/// Sizes and habits of a driver.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Indices of sockets go from 0 up to this, exclusive.
    pub sockets: u16,
    /// Messages sent by one submission; the ring's entries. A turn may send more, by several submissions.
    pub sends: u16,
    /// Bytes of messages sent by one submission, at least one message of the longest.
    pub send_bytes: usize,
    /// How long a turn looks for events by itself before it sleeps. Zero: not at all.
    pub spin: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sockets: 256,
            sends: 512,
            send_bytes: 512 << 10,
            spin: Duration::ZERO,
        }
    }
}

/// A driver could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the receive buffers are too small, unaligned, none or more than 32768")]
    Pool,
}

/// The driver on io_uring; made and used by one thread.
pub struct UringDriver<P> {
    /// First, so that the ring is closed before the memory it refers to goes.
    ring: IoUring,
    buffers: Buffers<P>,
    /// What every multishot receive is told about its space for name and control data.
    shape: Box<libc::msghdr>,
    scratch: Scratch,
    sockets: Box<[Socket]>,
    polls: Vec<Poll>,
    /// Some socket or poll is to be armed: while all are, a turn does not look at them.
    unarmed: bool,
    /// Events of submissions between turns.
    backlog: Vec<Event>,
    spin: Duration,
    /// The kernel takes the deadline as it is (Linux 6.12) instead of the time left.
    absolute: bool,
    closing: bool,
}

/// One entry of the table of sockets.
#[derive(Clone, Copy)]
struct Socket {
    state: State,
    /// Tells the completions of this receive from those of the index's earlier ones.
    generation: u16,
    failures: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No socket here.
    Empty,
    /// To be armed by the next turn.
    Ready,
    /// The kernel has a multishot receive of it.
    Armed,
    /// As `Ready`, once there are buffers.
    Starved,
    /// As `Ready`, once this moment has come.
    Paused(Instant),
}

struct Poll {
    token: u32,
    fd: OwnedFd,
    armed: bool,
}

/// Whose completion it is: kind, generation, index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Receive { generation: u16, socket: u16 },
    Poll { index: u32 },
    Send { slot: u32 },
    Cancel,
}

impl Operation {
    const fn encode(self) -> u64 {
        match self {
            Self::Receive { generation, socket } => {
                1 << 56 | (generation as u64) << 32 | socket as u64
            }
            Self::Poll { index } => 2 << 56 | index as u64,
            Self::Send { slot } => 3 << 56 | slot as u64,
            Self::Cancel => 4 << 56,
        }
    }

    const fn decode(word: u64) -> Option<Self> {
        Some(match word >> 56 {
            1 => Self::Receive {
                generation: (word >> 32) as u16,
                socket: word as u16,
            },
            2 => Self::Poll { index: word as u32 },
            3 => Self::Send { slot: word as u32 },
            4 => Self::Cancel,
            _ => return None,
        })
    }
}

impl<P: Pool> UringDriver<P> {
    /// A driver over `pool`. Every buffer for which `provide` says true is emptied and given to the kernel; the others
    /// are held by somebody (an heir's journal) and come back by [`Driver::release`].
    pub fn new(
        pool: P,
        options: Options,
        provide: impl Fn(u16) -> bool,
    ) -> Result<Self, DriverError> {
        let aligned =
            pool.base().as_ptr().addr().is_multiple_of(8) && pool.buffer_bytes().is_multiple_of(8);
        if !aligned
            || pool.buffer_bytes() <= OVERHEAD_BYTES
            || !(1..=1 << 15).contains(&pool.count())
        {
            return Err(DriverError::Pool);
        }
        // Room for a completion of every buffer and of every send of two submissions, so that nothing overflows in
        // ordinary life. An overflow is not a loss either: the kernel keeps the rest.
        let entries = u32::from(options.sends).clamp(8, 4096).next_power_of_two();
        let completions = (u32::from(pool.count()) + 2 * entries + u32::from(options.sockets))
            .next_power_of_two();
        let ring = ring(entries, completions)?;
        let sockets = u32::from(options.sockets.max(1));
        ring.submitter()
            .register_files_sparse(sockets)
            .map_err(|e| refused(&e))?;
        let buffers = Buffers::new(&ring, pool, provide).map_err(|e| refused(&e))?;
        let mut shape = Box::new(empty_header());
        shape.msg_namelen = NAME_BYTES as u32;
        shape.msg_controllen = CONTROL_BYTES;
        let socket = Socket {
            state: State::Empty,
            generation: 0,
            failures: 0,
        };
        Ok(Self {
            absolute: ring.params().is_feature_min_timeout(),
            ring,
            buffers,
            shape,
            scratch: Scratch::new(entries as usize, options.send_bytes),
            sockets: vec![socket; sockets as usize].into(),
            polls: Vec::new(),
            unarmed: false,
            backlog: Vec::new(),
            spin: options.spin,
            closing: false,
        })
    }

    /// The buffers, for [`datagram`].
    pub fn pool(&self) -> &P {
        self.buffers.pool()
    }

    /// Buffers that wait for datagrams.
    pub fn buffers_free(&self) -> u16 {
        self.buffers.available()
    }

    /// Queues receives and polls that are due. Nothing while closing.
    fn rearm(&mut self) {
        if self.closing || !self.unarmed {
            return;
        }
        self.unarmed = false;
        let mut now = None;
        for index in 0..self.sockets.len() {
            let due = match self.sockets[index].state {
                State::Empty | State::Armed => false,
                State::Ready | State::Starved => self.buffers.available() > 0,
                State::Paused(until) => {
                    *now.get_or_insert_with(os::now) >= until && self.buffers.available() > 0
                }
            };
            if due && self.push(&self.receive(index as u16)) {
                self.sockets[index].state = State::Armed;
            }
            self.unarmed |= !matches!(self.sockets[index].state, State::Empty | State::Armed);
        }
        for index in 0..self.polls.len() {
            if self.polls[index].armed {
                continue;
            }
            let entry = opcode::PollAdd::new(Fd(self.polls[index].fd.as_raw_fd()), POLL_MASK)
                .multi(true)
                .build()
                .user_data(
                    Operation::Poll {
                        index: index as u32,
                    }
                    .encode(),
                );
            self.polls[index].armed = self.push(&entry);
            self.unarmed |= !self.polls[index].armed;
        }
    }

    fn receive(&self, socket: u16) -> squeue::Entry {
        let generation = self.sockets[usize::from(socket)].generation;
        opcode::RecvMsgMulti::new(Fixed(u32::from(socket)), &raw const *self.shape, GROUP)
            .build()
            .user_data(Operation::Receive { generation, socket }.encode())
    }

    /// Queues one entry, submitting what is queued if there is no room. False if there is none even then.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        if self.ring.submission().is_full() && !self.flush() {
            return false;
        }
        // SAFETY: what our entries point at outlives the operation: receives at `shape`, which lives as long as the ring;
        // sends at `scratch`, which is cleared only after the kernel took the whole queue (`flush`, `enter`); polls,
        // receives and cancels name descriptors by number, which the kernel resolves when it takes the entry.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Submits what is queued without waiting or receiving. False if there is no room even then.
    fn flush(&mut self) -> bool {
        // An error here is not hidden: the queue stays, and the turn's own enter meets it again.
        let _ = self.enter(0, None, EnterFlags::empty());
        self.drain();
        !self.ring.submission().is_full()
    }

    /// Submits what is queued and waits for `want` completions or until `until`.
    fn enter(
        &mut self,
        want: u32,
        until: Option<Instant>,
        mut flags: EnterFlags,
    ) -> io::Result<()> {
        let mut timespec = Timespec::new();
        if let Some(until) = until {
            let time = if self.absolute {
                flags |= EnterFlags::ABS_TIMER;
                Duration::from_nanos(until.as_nanos())
            } else {
                until.saturating_duration_since(os::now())
            };
            timespec = Timespec::from(time);
        }
        let args = match until {
            Some(_) => SubmitArgs::new().timespec(&timespec),
            None => SubmitArgs::new(),
        };
        flags |= EnterFlags::EXT_ARG;
        for _ in 0..SUBMISSIONS_MAX {
            let queued = self.ring.submission().len() as u32;
            let submitter = self.ring.submitter();
            // SAFETY: `args` is what EXT_ARG announces, and it and its timespec outlive the call.
            let result = unsafe { submitter.enter(queued, want, flags.bits(), Some(&args)) };
            let empty = self.ring.submission().is_empty();
            if empty {
                // The kernel has carried out every send in the queue (none may wait: MSG_DONTWAIT), so nothing points
                // into the scratch any more. Failures are told by completions that `drain` reads before the next send.
                self.scratch.clear();
            }
            match result {
                Ok(_) if empty => return Ok(()),
                // Taken in part, and so not waited: again.
                Ok(_) => {}
                // The deadline came, a signal came, or completions must be read first: all of them end the wait.
                Err(error) => match error.raw_os_error() {
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY) if empty => return Ok(()),
                    Some(libc::ETIME | libc::EINTR | libc::EAGAIN) => {}
                    Some(libc::EBUSY) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
        // The kernel has no memory for requests just now: the queue stays for the next turn.
        Ok(())
    }

    /// Waits as the options say: looking first, then sleeping.
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        let past = |until: Instant, now: Instant| until <= now;
        if self.spin > Duration::ZERO {
            self.enter(0, None, EnterFlags::GETEVENTS)?;
            let mut now = os::now();
            let end = now + self.spin;
            while !self.waiting() && now < end && !until.is_some_and(|until| past(until, now)) {
                sync::spin_loop();
                now = os::now();
            }
        }
        let idle = !self.waiting() && !until.is_some_and(|until| past(until, os::now()));
        self.enter(u32::from(idle), until, EnterFlags::GETEVENTS)
    }

    /// Whether the kernel has something for us, by what it shows without being entered.
    fn waiting(&self) -> bool {
        // SAFETY: the borrowed views of both queues are read here and dropped at once; this thread is the only user of
        // the ring, and `&self` keeps it from taking or queueing anything meanwhile.
        let completions = unsafe { self.ring.completion_shared() };
        // SAFETY: as above.
        let submissions = unsafe { self.ring.submission_shared() };
        !completions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// Reads all completions into the backlog.
    fn drain(&mut self) {
        let Self {
            ring,
            buffers,
            scratch,
            sockets,
            polls,
            unarmed,
            backlog,
            ..
        } = self;
        for done in ring.completion() {
            let result = done.result();
            let more = cqueue::more(done.flags());
            match Operation::decode(done.user_data()) {
                Some(Operation::Receive { generation, socket }) => {
                    let index = SocketIndex(socket);
                    let buffer = cqueue::buffer_select(done.flags());
                    let event = received(buffers, index, buffer, result);
                    backlog.extend(event);
                    let entry = sockets.get_mut(usize::from(socket));
                    let Some(entry) = entry.filter(|entry| entry.generation == generation) else {
                        continue;
                    };
                    entry.failures = if result >= 0 {
                        0
                    } else {
                        entry.failures.saturating_add(1)
                    };
                    if more || entry.state == State::Empty {
                        continue;
                    }
                    // An empty datagram, a full completion queue, an error or the want of buffers ended it.
                    entry.state = match -result {
                        libc::ENOBUFS => State::Starved,
                        _ if entry.failures > FAILURES_MAX => State::Paused(os::now() + PAUSE),
                        _ => State::Ready,
                    };
                    *unarmed = true;
                }
                Some(Operation::Poll { index }) => {
                    let Some(poll) = polls.get_mut(index as usize) else {
                        continue;
                    };
                    poll.armed = more;
                    *unarmed |= !more;
                    if result >= 0 {
                        backlog.push(Event::Poll { token: poll.token });
                    }
                }
                Some(Operation::Send { slot }) if result < 0 => {
                    let Some((socket, to, len)) = scratch.target(slot) else {
                        continue;
                    };
                    backlog.push(Event::SendFailed {
                        socket,
                        to,
                        len,
                        errno: -result,
                    });
                }
                Some(Operation::Send { .. } | Operation::Cancel) | None => {}
            }
        }
    }

    /// When the first paused socket goes on.
    fn resume(&self) -> Option<Instant> {
        if !self.unarmed {
            return None;
        }
        self.sockets
            .iter()
            .filter_map(|socket| match socket.state {
                State::Paused(until) => Some(until),
                _ => None,
            })
            .min()
    }

    /// Receives and polls that the kernel still has.
    fn in_flight(&self) -> bool {
        self.polls.iter().any(|poll| poll.armed)
            || self
                .sockets
                .iter()
                .any(|socket| socket.state == State::Armed)
    }

    fn socket(&mut self, index: SocketIndex) -> Option<&mut Socket> {
        self.sockets.get_mut(usize::from(index.0))
    }
}

/// What a completion of a receive says. A buffer with no readable datagram goes back at once.
fn received<P: Pool>(
    buffers: &mut Buffers<P>,
    socket: SocketIndex,
    buffer: Option<u16>,
    result: i32,
) -> Option<Event> {
    if let Some(index) = buffer.filter(|&index| buffers.taken(index)) {
        let found = datagram(buffers.pool(), index)
            .filter(|_| result >= 0)
            .map(|found| Event::Datagram {
                socket,
                buffer: index,
                source: found.source,
                local: found.local,
                len: found.payload.len() as u32,
                truncated: found.truncated,
            });
        if found.is_none() {
            buffers.provide(index);
        }
        return found;
    }
    match -result {
        libc::ENOBUFS => Some(Event::Starved { socket }),
        libc::ECANCELED => None,
        errno if errno > 0 => Some(Event::ReceiveFailed { socket, errno }),
        _ => None,
    }
}

/// Readable, once per change.
const POLL_MASK: u32 = libc::POLLIN as u32 | libc::EPOLLET as u32;

impl<P: Pool> Driver for UringDriver<P> {
    fn arm_udp(&mut self, socket: SocketIndex, fd: BorrowedFd<'_>) -> io::Result<()> {
        match self.socket(socket) {
            None => return Err(io::ErrorKind::InvalidInput.into()),
            Some(entry) if entry.state != State::Empty => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Some(_) => {}
        }
        self.ring
            .submitter()
            .register_files_update(u32::from(socket.0), &[fd.as_raw_fd()])?;
        if let Some(entry) = self.socket(socket) {
            entry.generation = entry.generation.wrapping_add(1);
            entry.failures = 0;
            entry.state = State::Ready;
        }
        self.unarmed = true;
        Ok(())
    }

    fn disarm_udp(&mut self, socket: SocketIndex) {
        let Some(entry) = self.socket(socket) else {
            return;
        };
        let Socket {
            state, generation, ..
        } = *entry;
        if state == State::Empty {
            return;
        }
        entry.state = State::Empty;
        if state == State::Armed {
            let target = Operation::Receive {
                generation,
                socket: socket.0,
            }
            .encode();
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::user_data(target));
            self.push(
                &cancel
                    .build()
                    .flags(squeue::Flags::SKIP_SUCCESS)
                    .user_data(Operation::Cancel.encode()),
            );
        }
        // The queue names the socket by its place in the table, which is about to be empty. Operations that the kernel
        // has hold the socket itself.
        self.flush();
        let emptied = self
            .ring
            .submitter()
            .register_files_update(u32::from(socket.0), &[-1]);
        debug_assert!(emptied.is_ok());
    }

    fn arm_poll(&mut self, token: u32, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.try_clone_to_owned()?;
        self.polls.push(Poll {
            token,
            fd,
            armed: false,
        });
        self.unarmed = true;
        Ok(())
    }

    fn send_udp(
        &mut self,
        socket: SocketIndex,
        from: Option<IpAddr>,
        to: &SocketAddr,
        bytes: &[u8],
    ) {
        let mut put = self.scratch.put(socket, from, to, bytes);
        if put == Err(Unfit::Full) || self.ring.submission().is_full() {
            self.flush();
            put = self.scratch.put(socket, from, to, bytes);
        }
        let errno = match put {
            Ok((slot, header)) => {
                let entry = opcode::SendMsg::new(Fixed(u32::from(socket.0)), header)
                    .flags(libc::MSG_DONTWAIT as u32 | libc::MSG_NOSIGNAL as u32)
                    .build()
                    .flags(squeue::Flags::SKIP_SUCCESS)
                    .user_data(Operation::Send { slot }.encode());
                if self.push(&entry) {
                    return;
                }
                libc::EAGAIN
            }
            Err(Unfit::Full) => libc::EAGAIN,
            Err(Unfit::TooLong) => libc::EMSGSIZE,
        };
        self.backlog.push(Event::SendFailed {
            socket,
            to: *to,
            len: bytes.len(),
            errno,
        });
    }

    fn release(&mut self, buffer: u16) {
        self.buffers.provide(buffer);
    }

    fn ready(&self) -> bool {
        !self.backlog.is_empty() || self.waiting()
    }

    fn turn(&mut self, deadline: Option<Instant>, events: &mut Vec<Event>) -> io::Result<()> {
        self.buffers.publish();
        self.rearm();
        if self.ready() {
            self.enter(0, None, EnterFlags::GETEVENTS)?;
        } else {
            let until = self.resume().into_iter().chain(deadline).min();
            self.wait(until)?;
        }
        self.drain();
        events.append(&mut self.backlog);
        Ok(())
    }

    fn quiesce(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.closing = true;
        self.flush();
        match self
            .ring
            .submitter()
            .register_sync_cancel(None, CancelBuilder::any())
        {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let mut steps = 0;
        self.enter(0, None, EnterFlags::GETEVENTS)?;
        self.drain();
        while self.in_flight() && steps < QUIESCE_STEPS {
            let until = os::now() + QUIESCE_STEP;
            self.enter(1, Some(until), EnterFlags::GETEVENTS)?;
            self.drain();
            steps += 1;
        }
        events.append(&mut self.backlog);
        if self.in_flight() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_keep_their_name_through_the_kernel() {
        for operation in [
            Operation::Receive {
                generation: 65_535,
                socket: 7,
            },
            Operation::Poll { index: u32::MAX },
            Operation::Send { slot: 511 },
            Operation::Cancel,
        ] {
            assert_eq!(Operation::decode(operation.encode()), Some(operation));
        }
        assert_eq!(Operation::decode(0), None);
    }
}
