//! A thread whose fault ends the process leaves word of it first: what else the process did at that moment is not to blame.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

use crate::stack::{hex, name_of_this_thread, write_error};

/// Faults of a program: accesses, instructions and arithmetic that cannot be, and abort, which a panic ends in.
const FAULTS: [Signal; 5] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGABRT,
];

thread_local! {
    /// Has no destructor and needs no set-up, so that a signal handler may read it.
    static WORD: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
}

/// From now on a fault of the calling thread stores 1 in this word before it ends the process; see [`watch_faults`].
pub fn leave_word_at(word: &'static AtomicU64) {
    WORD.set(Some(word));
}

/// From now on a fault of any thread is told on standard error, and in the thread's word if it has one. The process ends as it would have.
pub fn watch_faults() -> io::Result<()> {
    // Once only: the signal's second coming, which the handler itself sees to, meets the default. On the stack that the standard
    // library gives each thread for this, since its own may be what is exhausted.
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::Handler(on_fault), flags, SigSet::empty());
    for signal in FAULTS {
        // SAFETY: the handler stores a word that lives for ever, writes from its own stack and raises: nothing that a fault in
        // the middle of anything could have left unusable.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn on_fault(signal: i32) {
    if let Ok(Some(word)) = WORD.try_with(Cell::get) {
        // Relaxed: read after the process's death, which orders everything.
        word.store(1, Ordering::Relaxed);
    }
    let (buffer, signal) = (&mut [0; 16], Signal::try_from(signal));
    let text = signal.map_or("a signal", Signal::as_str).as_bytes();
    let name = name_of_this_thread(buffer);
    let us = hex(on_fault as *const () as u64);
    write_error(&[
        b"fault in thread ",
        name,
        b": ",
        text,
        b" (`on_fault` is at 0x",
        &us,
        b")\n",
    ]);
    if let Ok(signal) = signal {
        // Held back until we return, and then it ends the process, whether an instruction or somebody outside caused it.
        let _ = raise(signal);
    }
}
