//! Child processes that are killed.

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use shm::{Arena, Participant, ParticipantId};

/// Runs `child` in a child process.
pub fn spawn(child: impl FnOnce()) -> Pid {
    // SAFETY: the child touches no lock of another thread but the allocator's, which fork keeps usable, and never returns.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            child();
            std::process::exit(0)
        }
    }
}

/// Has a child recover participant 0 and do `prepare` and `operation`, and kills it after `steps` instructions of the operation, or when that has ended:
/// `false`.
pub fn kill_after(
    arena: &Arena,
    prepare: impl FnOnce(&mut Participant),
    operation: fn(&mut Participant),
    steps: u64,
) -> bool {
    let child = spawn(|| {
        let mut p = arena.participant(ParticipantId(0));
        p.recover(ParticipantId(0));
        prepare(&mut p);
        ptrace::traceme().expect("traceme");
        raise(Signal::SIGSTOP).expect("stop");
        operation(&mut p);
        raise(Signal::SIGSTOP).expect("stop");
        std::process::abort();
    });
    waitpid(child, None).expect("stopped before");
    let mut ended = false;
    for _ in 0..steps {
        ptrace::step(child, None).expect("step");
        match waitpid(child, None).expect("stepped") {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {
                ended = true;
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    kill(child, Signal::SIGKILL).expect("our child");
    waitpid(child, None).expect("our child");
    !ended
}
