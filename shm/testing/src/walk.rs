//! One process, stepped through an operation: everything that the arena was in between.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memmap2::MmapOptions;
use nix::libc::{REG_EFL, c_void, siginfo_t, ucontext_t};
use nix::sys::mman::{ProtFlags, mprotect};
use nix::sys::ptrace;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use shm::{Arena, SlotId};

use crate::twin::{PAGE, Twin};

/// Where the operation is stopped to look at the arena. Both find the same contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// After every instruction, each counted: 100,000 a second.
    Instruction,
    /// After every instruction that stores into the arena: the others run at full speed. The arena is mapped read-only; a store faults, its page is opened for
    /// this one instruction (trap flag), and closed after it.
    Store,
}

/// What a walk saw.
pub struct Walk {
    /// The whole arena before the first instruction.
    pub start: Vec<u8>,
    /// The pages that the operation writes.
    pub pages: Vec<usize>,
    /// The contents in between, the first being that of `start`.
    pub moments: Vec<Moment>,
    /// How many instructions the operation took, or how many that store: see [`Pace`].
    pub instructions: u64,
}

/// One content of the arena.
pub struct Moment {
    /// The instruction after which it appeared.
    pub at: u64,
    /// The pages of [`Walk::pages`], one behind the other.
    pub bytes: Vec<u8>,
}

impl Walk {
    /// Brings a moment back.
    pub fn restore(&self, twin: &Twin, moment: usize) {
        twin.write_all(&self.start);
        let bytes = &self.moments[moment].bytes;
        for (page, bytes) in self.pages.iter().zip(bytes.chunks(PAGE)) {
            twin.write_page(*page, bytes);
        }
    }

    /// The moment that lasted when this many instructions had been executed.
    pub fn moment_after(&self, instructions: u64) -> usize {
        self.moments.partition_point(|m| m.at <= instructions) - 1
    }
}

/// Runs `child` in a child process, which ends with it.
pub fn spawn(child: impl FnOnce()) -> Pid {
    // SAFETY: the child touches no lock of another thread but the allocator's, which fork keeps usable, and never returns.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let _abort = AbortOnPanic;
            child();
            // Without the handlers of the test's process.
            raise(Signal::SIGKILL).expect("the end");
            unreachable!("killed")
        }
    }
}

/// A panic must not go on into the test's own code.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Kills a child of ours and waits for its end.
pub fn end(child: Pid) {
    // Gone already: nothing to do.
    let _ = kill(child, Signal::SIGKILL);
    while !matches!(
        waitpid(child, None),
        Err(_) | Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..))
    ) {}
}

/// A child that stops itself when `prepare` has given it what the operation needs, and again when the operation has ended.
fn stopped<T>(prepare: impl FnOnce() -> T, operate: impl FnOnce(&mut T)) -> Pid {
    let child = spawn(|| {
        let mut prepared = prepare();
        ptrace::traceme().expect("traceme");
        raise(Signal::SIGSTOP).expect("stop");
        operate(&mut prepared);
        raise(Signal::SIGSTOP).expect("stop");
    });
    match waitpid(child, None).expect("our child") {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
        other => panic!("not prepared: {other:?}"),
    }
    // If the test dies, so does the child.
    ptrace::setoptions(child, ptrace::Options::PTRACE_O_EXITKILL).expect("our child");
    child
}

/// Executes one instruction; `false`: the operation has ended.
fn step(child: Pid) -> bool {
    ptrace::step(child, None).expect("a stopped child");
    match waitpid(child, None).expect("our child") {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => true,
        WaitStatus::Stopped(_, Signal::SIGSTOP) => false,
        other => panic!("the operation died by itself: {other:?}"),
    }
}

/// Steps a process through `operate`, which `prepare` has made ready, over an arena with this content.
pub fn walk<T>(
    twin: &Twin,
    content: &[u8],
    pace: Pace,
    prepare: impl Fn(&Arena) -> T,
    operate: impl Fn(&mut T),
) -> Walk {
    twin.write_all(content);
    let pages = written(&twin.arena, &prepare, &operate);
    twin.write_all(content);
    let ready = || {
        let prepared = prepare(&twin.arena);
        if pace == Pace::Store {
            guard(&twin.arena, On::EachStore);
        }
        prepared
    };
    let child = stopped(ready, |t| operate(t));
    let go_on = || match pace {
        Pace::Instruction => step(child),
        Pace::Store => next_store(child),
    };
    let start = twin.read_all();
    let now = || pages.iter().flat_map(|page| twin.page(*page)).copied();
    let mut last: Vec<u8> = now().collect();
    let mut moments = vec![Moment {
        at: 0,
        bytes: last.clone(),
    }];
    let mut instructions = 0;
    while go_on() {
        instructions += 1;
        let same = |(page, then): (&usize, &[u8])| twin.page(*page) == then;
        if !pages.iter().zip(last.chunks(PAGE)).all(same) {
            last.clear();
            last.extend(now());
            moments.push(Moment {
                at: instructions,
                bytes: last.clone(),
            });
        }
    }
    let end_state = twin.read_all();
    end(child);
    for (page, bytes) in end_state.chunks(PAGE).enumerate() {
        let known =
            pages.contains(&page) || bytes == &start[page * PAGE..page * PAGE + bytes.len()];
        assert!(
            known,
            "page {page} was written, which the first run did not: {pages:?}"
        );
    }
    Walk {
        start,
        pages,
        moments,
        instructions,
    }
}

/// Executes so many instructions of `operate` in a child, or all if it has fewer, and kills it there. How many it did.
pub fn die_after<T>(
    arena: &Arena,
    prepare: impl FnOnce(&Arena) -> T,
    operate: impl FnOnce(&mut T),
    instructions: u64,
) -> u64 {
    let child = stopped(|| prepare(arena), operate);
    let mut done = 0;
    while done < instructions && step(child) {
        done += 1;
    }
    end(child);
    done
}

/// The same after so many stores into the arena, at full speed in between, and so many single instructions more, but before the next store. How many stores it did, and
/// whether it was under way.
pub fn die_after_stores<T>(
    arena: &Arena,
    prepare: impl FnOnce(&Arena) -> T,
    operate: impl FnOnce(&mut T),
    stores: u64,
    instructions: u64,
) -> (u64, bool) {
    let ready = || {
        let prepared = prepare(arena);
        guard(arena, On::EachStore);
        prepared
    };
    let child = stopped(ready, operate);
    let mut done = 0;
    while done < stores && next_store(child) {
        done += 1;
    }
    let mut under_way = done == stores;
    let mut left = if under_way { instructions } else { 0 };
    while left > 0 {
        left -= 1;
        ptrace::step(child, None).expect("a stopped child");
        match waitpid(child, None).expect("our child") {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            // The next store, which has not happened.
            WaitStatus::Stopped(_, Signal::SIGSEGV) => left = 0,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => (left, under_way) = (0, false),
            other => panic!("the operation died by itself: {other:?}"),
        }
    }
    end(child);
    (done, under_way)
}

/// Runs on to the end of the next instruction that stores into the guarded arena; `false`: the operation has ended.
fn next_store(child: Pid) -> bool {
    let mut signal = None;
    loop {
        ptrace::cont(child, signal).expect("a stopped child");
        signal = match waitpid(child, None).expect("our child") {
            WaitStatus::Stopped(_, Signal::SIGSEGV) => Some(Signal::SIGSEGV),
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                // Its handler closes the page; then on from there.
                ptrace::cont(child, Signal::SIGTRAP).expect("a stopped child");
                match waitpid(child, None).expect("our child") {
                    WaitStatus::Stopped(_, Signal::SIGUSR1) => return true,
                    other => panic!("the handler died: {other:?}"),
                }
            }
            WaitStatus::Stopped(_, Signal::SIGSTOP) => return false,
            other => panic!("the operation died by itself: {other:?}"),
        };
    }
}

/// What the handlers know.
struct Guarded {
    /// Where the arena is mapped, and how long it is.
    base: AtomicUsize,
    bytes: AtomicUsize,
    /// The list of pages that were written: a count, then numbers. 0: there is none, each store is told.
    list: AtomicUsize,
    /// Pages that are open for one instruction, plus one.
    open: [AtomicUsize; 4],
}

static GUARDED: Guarded = Guarded {
    base: AtomicUsize::new(0),
    bytes: AtomicUsize::new(0),
    list: AtomicUsize::new(0),
    open: [const { AtomicUsize::new(0) }; 4],
};

const LIST_BYTES: usize = 1 << 20;
const TRAP_FLAG: i64 = 0x100;

/// When the handlers speak.
#[derive(Clone, Copy)]
enum On {
    /// At the first store into a page: into the list at this address.
    FirstOfPage(usize),
    /// After each store.
    EachStore,
}

/// In the child, before the operation: from now on stores into the arena are noticed.
fn guard(arena: &Arena, on: On) {
    let (base, bytes) = mapping(arena);
    GUARDED.base.store(base, Ordering::SeqCst);
    GUARDED.bytes.store(bytes, Ordering::SeqCst);
    let list = match on {
        On::FirstOfPage(list) => list,
        On::EachStore => 0,
    };
    GUARDED.list.store(list, Ordering::SeqCst);
    for (signal, handler) in [
        (Signal::SIGSEGV, SigHandler::SigAction(on_fault)),
        (Signal::SIGTRAP, SigHandler::SigAction(on_trap)),
        (Signal::SIGUSR1, SigHandler::SigIgn),
    ] {
        let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
        // SAFETY: the handlers call nothing but mprotect and raise, and touch atomics and their own frame.
        unsafe { sigaction(signal, &action) }.expect("a handler");
    }
    protect(base, bytes, ProtFlags::PROT_READ);
}

/// The pages of the arena that the operation writes.
fn written<T>(
    arena: &Arena,
    prepare: impl FnOnce(&Arena) -> T,
    operate: impl FnOnce(&mut T),
) -> Vec<usize> {
    let file = os::memfd("pages", LIST_BYTES as u64, os::Seals::NONE).expect("memory");
    let list = MmapOptions::new().map_raw(&file).expect("mapped");
    let ready = || {
        let prepared = prepare(arena);
        guard(arena, On::FirstOfPage(list.as_mut_ptr() as usize));
        prepared
    };
    let child = stopped(ready, operate);
    assert!(!next_store(child), "nothing is told, so it runs to its end");
    end(child);
    let at = |nth: usize| {
        assert!(nth < LIST_BYTES / 8, "the list of pages is full");
        // SAFETY: inside the list, checked above.
        let at = unsafe { list.as_mut_ptr().cast::<u64>().add(nth) };
        // SAFETY: page-aligned plus a multiple of 8; the child that wrote it is gone.
        unsafe { at.read() }
    };
    let mut pages: Vec<usize> = (1..=at(0) as usize).map(|n| at(n) as usize).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

fn protect(at: usize, bytes: usize, how: ProtFlags) {
    let at = std::ptr::NonNull::new(at as *mut _).expect("a mapping");
    // SAFETY: a mapping of the arena, in this child alone; who writes it then faults, and the handler allows it.
    unsafe { mprotect(at, bytes, how) }.expect("protected");
}

extern "C" fn on_fault(_: i32, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: of a SIGSEGV, which has an address.
    let at = unsafe { info.si_addr() } as usize;
    let base = GUARDED.base.load(Ordering::SeqCst);
    if !(base..base + GUARDED.bytes.load(Ordering::SeqCst)).contains(&at) {
        std::process::abort();
    }
    let page = (at - base) / PAGE;
    match GUARDED.list.load(Ordering::SeqCst) {
        0 => {
            // An instruction may store into two pages: it faults twice before it is through.
            let free = GUARDED.open.iter().find(|o| o.load(Ordering::SeqCst) == 0);
            let Some(open) = free else {
                std::process::abort();
            };
            open.store(page + 1, Ordering::SeqCst);
            trap(context, true);
        }
        list => note(list as *const AtomicU64, page),
    }
    protect(
        base + page * PAGE,
        PAGE,
        ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
    );
}

extern "C" fn on_trap(_: i32, _: *mut siginfo_t, context: *mut c_void) {
    let base = GUARDED.base.load(Ordering::SeqCst);
    for open in &GUARDED.open {
        if let Some(page) = open.swap(0, Ordering::SeqCst).checked_sub(1) {
            protect(base + page * PAGE, PAGE, ProtFlags::PROT_READ);
        }
    }
    trap(context, false);
    // Tells the one who watches.
    let _ = raise(Signal::SIGUSR1);
}

/// Whether the processor stops after one instruction, once the handler has returned.
fn trap(context: *mut c_void, on: bool) {
    let context = context.cast::<ucontext_t>();
    // SAFETY: the kernel gives the interrupted context, which is the handler's to change.
    let context = unsafe { &mut *context };
    let flags = &mut context.uc_mcontext.gregs[REG_EFL as usize];
    *flags = if on {
        *flags | TRAP_FLAG
    } else {
        *flags & !TRAP_FLAG
    };
}

fn note(list: *const AtomicU64, page: usize) {
    // SAFETY: the list is mapped, page-aligned and LIST_BYTES long.
    let count = unsafe { &*list };
    let nth = count.fetch_add(1, Ordering::SeqCst) as usize + 1;
    if nth < LIST_BYTES / 8 {
        // SAFETY: inside the list, checked above.
        let slot = unsafe { list.add(nth) };
        // SAFETY: as above.
        unsafe { &*slot }.store(page as u64, Ordering::SeqCst);
    }
}

/// Where this process has mapped the arena, and how long it is.
fn mapping(arena: &Arena) -> (usize, usize) {
    let inside = arena.rx(SlotId(0)).region().0.as_ptr() as usize;
    let (_, data) = arena.fds().expect("an arena with files");
    let bytes = nix::sys::stat::fstat(data).expect("a file").st_size as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let range = words.next().unwrap_or_default();
        let offset = words.nth(1).unwrap_or_default();
        let hex = |s: &str| usize::from_str_radix(s, 16).unwrap_or(0);
        if let Some((from, to)) = range.split_once('-')
            && (hex(from)..hex(to)).contains(&inside)
        {
            return (hex(from) - hex(offset), bytes);
        }
    }
    panic!("the arena is not mapped")
}
