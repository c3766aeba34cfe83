//! Where a thread is: asked from outside by a signal, told by the thread itself; and what the kernel knows of it.

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Asks a thread for its stack. Nobody may block it.
pub const STACK_SIGNAL: Signal = Signal::SIGUSR2;

/// Threads of a process that are looked at.
const THREADS_MAX: usize = 300;

/// What the kernel tells of a thread. A text is empty if we may not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// As it called itself.
    pub name: String,
    /// `R` runs, `S` sleeps, `D` sleeps deeply, `T` was stopped, `t` is being traced.
    pub state: char,
    /// The kernel's function that it waits in.
    pub wchan: String,
    /// The number of the system call that it is in, its arguments, and its stack and instruction pointers; or `running`.
    pub syscall: String,
    /// Processor time that it has had; `None` from a kernel that does not count it.
    pub ran: Option<Duration>,
}

impl Thread {
    /// It runs no instruction, no signal handler either, until somebody outside lets it go on.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    /// It runs, or would if it were given a processor.
    pub fn is_runnable(&self) -> bool {
        self.state == 'R'
    }
}

/// The threads of a process, by number.
pub fn threads(pid: u32) -> io::Result<Vec<Thread>> {
    let mut threads: Vec<Thread> = std::fs::read_dir(format!("/proc/{pid}/task"))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .take(THREADS_MAX)
        .filter_map(|tid| thread(pid, tid))
        .collect();
    threads.sort_unstable_by_key(|thread| thread.tid);
    Ok(threads)
}

/// `None`: it has ended meanwhile.
fn thread(pid: u32, tid: u32) -> Option<Thread> {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/task/{tid}/{name}")).ok();
    let text = |name: &str| {
        let bytes = read(name).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    };
    // `tid (name) state …`: the name may hold anything, parentheses too.
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    Some(Thread {
        tid,
        name: text("comm"),
        state,
        wchan: Some(text("wchan")).filter(|w| w != "0").unwrap_or_default(),
        syscall: text("syscall"),
        // Time on a processor, time in wait for one, number of turns.
        ran: text("schedstat")
            .split(' ')
            .next()
            .and_then(|ns| ns.parse().ok())
            .map(Duration::from_nanos),
    })
}

/// The kernel's `siginfo_t` of a queued signal.
#[repr(C)]
struct Queued {
    signal: i32,
    errno: i32,
    code: i32,
    padding: i32,
    pid: i32,
    uid: u32,
    value: usize,
    rest: [u64; 12],
}

const _: () = assert!(size_of::<Queued>() == 128);

/// Asks thread `tid` of process `pid` to write its stack to standard error; `end`: and to end its process then, as by SIGKILL.
/// The process must be ours and not reaped, or its number may be a stranger's by now.
pub fn ask_for_stack(pid: u32, tid: u32, end: bool) -> io::Result<()> {
    let info = Queued {
        signal: STACK_SIGNAL as i32,
        errno: 0,
        code: libc::SI_QUEUE,
        padding: 0,
        pid: nix::unistd::getpid().as_raw(),
        uid: nix::unistd::getuid().as_raw(),
        value: usize::from(end),
        rest: [0; 12],
    };
    let (pid, tid) = (libc::c_long::from(pid), libc::c_long::from(tid));
    let signal = libc::c_long::from(STACK_SIGNAL as i32);
    // SAFETY: `info` has the size and layout that the kernel reads, and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, signal, &info) };
    Errno::result(result)?;
    Ok(())
}

/// From now on every thread of this process that is asked for its stack tells it on standard error.
pub fn answer_for_stacks() -> io::Result<()> {
    let action = SigAction::new(
        SigHandler::SigAction(tell_stack),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler interrupts whatever its thread does, so that it may meet a lock that the thread holds (of the allocator
    // or of the symbol tables) and never return. Whoever asks kills the process after a moment; the frames' addresses are
    // written before that can happen. It keeps errno, and SA_RESTART keeps it out of sight of system calls.
    unsafe { sigaction(STACK_SIGNAL, &action) }?;
    Ok(())
}

extern "C" fn tell_stack(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let errno = Errno::last_raw();
    let context = context.cast::<libc::ucontext_t>();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's own, for as long as the handler runs.
    let at = unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] } as u64;
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel's own, for as long as the handler runs.
    let at = unsafe { (*context).uc_mcontext.pc };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let at = context.addr() as u64;
    // SAFETY: the kernel's own, for as long as the handler runs, and what `ask_for_stack` has put together for a queued signal.
    let info = unsafe { &*info.cast::<Queued>() };
    let end = info.code == libc::SI_QUEUE && info.value != 0;
    write_stack(at);
    if end {
        // What `raise` would do for a thread only: the process goes.
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGKILL);
    }
    Errno::set_raw(errno);
}

/// Lines of a stack: what is deeper is cut off.
const LINES_MAX: usize = 120;

/// First a line that needs no lock and no memory, then the frames with their names.
fn write_stack(at: u64) {
    /// A thread that hangs while it tells its stack is not asked again.
    static BROKEN: AtomicBool = AtomicBool::new(false);
    let buffer = &mut [0; 16];
    let name = name_of_this_thread(buffer);
    let (at, us) = (hex(at), hex(tell_stack as *const () as u64));
    write_error(&[
        b"stack of thread ",
        name,
        b" at address 0x",
        &at,
        b" (`tell_stack` begins at 0x",
        &us,
        b"):\n",
    ]);
    if BROKEN.swap(true, Ordering::Relaxed) {
        write_error(&[b"  (not told: another thread is telling its own)\n"]);
        return;
    }
    let stack = std::backtrace::Backtrace::force_capture();
    let mut text = String::with_capacity(16 << 10);
    let _ = write!(text, "{stack}");
    let mut lines = String::with_capacity(text.len() + 1024);
    for line in text.lines().take(LINES_MAX) {
        let _ = writeln!(lines, "  {}", line.trim_end());
    }
    write_error(&[lines.as_bytes()]);
    BROKEN.store(false, Ordering::Relaxed);
}

/// Without memory or locks.
pub(crate) fn name_of_this_thread(buffer: &mut [u8; 16]) -> &[u8] {
    // SAFETY: the call writes at most 16 bytes, zero-terminated.
    unsafe { libc::prctl(libc::PR_GET_NAME, buffer.as_mut_ptr()) };
    buffer.split(|byte| *byte == 0).next().unwrap_or_default()
}

pub(crate) fn hex(word: u64) -> [u8; 16] {
    std::array::from_fn(|nth| b"0123456789abcdef"[(word >> (60 - 4 * nth)) as usize & 15])
}

/// A pipe that says it has room takes so many bytes at once (PIPE_BUF), and no more without waiting.
const PIECE_BYTES: usize = 4096;
/// How long a full pipe is waited for: who dies has an heir that waits too.
const PATIENCE_MS: i32 = 100;

/// Without memory or locks, and without waiting for a reader who may be gone: the rest is left out then.
pub(crate) fn write_error(parts: &[&[u8]]) {
    for mut part in parts.iter().copied() {
        while !part.is_empty() {
            let mut error = libc::pollfd {
                fd: 2,
                events: libc::POLLOUT,
                revents: 0,
            };
            // SAFETY: one entry, and it is ours.
            let ready = unsafe { libc::poll(&raw mut error, 1, PATIENCE_MS) };
            if ready < 0 && Errno::last() == Errno::EINTR {
                continue;
            }
            if ready != 1 {
                return;
            }
            let piece = part.get(..PIECE_BYTES).unwrap_or(part);
            // SAFETY: the bytes are valid for the length that is passed.
            let written = unsafe { libc::write(2, piece.as_ptr().cast(), piece.len()) };
            match usize::try_from(written) {
                Ok(written) if written > 0 => part = part.get(written..).unwrap_or_default(),
                _ if Errno::last() == Errno::EINTR => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_threads_are_known() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let sleeper = std::thread::Builder::new()
            .name("sleeper".into())
            .spawn(move || {
                tell.send(nix::unistd::gettid()).unwrap();
                let _ = wait.recv();
            })
            .unwrap();
        let tid = u32::try_from(told.recv().unwrap().as_raw()).unwrap();
        let find = || {
            let threads = threads(std::process::id()).unwrap();
            threads
                .into_iter()
                .find(|thread| thread.tid == tid)
                .unwrap()
        };
        while find().state != 'S' {
            std::thread::yield_now();
        }
        let thread = find();
        assert_eq!(
            (thread.name.as_str(), thread.is_stopped()),
            ("sleeper", false)
        );
        assert_eq!(find().ran, thread.ran, "it sleeps");
        drop(done);
        sleeper.join().unwrap();
        assert!(threads(u32::MAX).is_err());
        let me = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
        let mine = || thread_of(me);
        let before = mine().ran.expect("a kernel that counts");
        // Work until it is counted.
        while mine().ran <= Some(before + Duration::from_millis(5)) {}
        assert!(mine().is_runnable());
    }

    fn thread_of(tid: u32) -> Thread {
        thread(std::process::id(), tid).unwrap()
    }

    #[test]
    fn a_thread_that_was_asked_goes_on() {
        answer_for_stacks().unwrap();
        let tid = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
        Errno::set_raw(7);
        ask_for_stack(std::process::id(), tid, false).unwrap();
        assert!(ask_for_stack(std::process::id(), u32::MAX >> 1, false).is_err());
    }
}
