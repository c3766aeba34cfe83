//! What happens at a point.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};

use crate::plan::Plan;

/// What a point does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// As a failed assertion of the C library.
    Abort,
    /// As a failed assertion of ours.
    Panic,
    /// SIGKILL.
    Kill,
    /// SIGSEGV.
    Segv,
    /// SIGSTOP.
    Stop,
    /// An endless loop.
    Hang,
    /// The function returns the point's error.
    Error,
    /// The thread sleeps.
    Sleep(Duration),
}

type Hook = Box<dyn FnMut(&'static str) -> Option<Action>>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    static AT_HAND: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a thread's hook; without it the environment decides again.
#[derive(Debug)]
pub struct Hooked(());

impl Drop for Hooked {
    fn drop(&mut self) {
        HOOK.set(None);
    }
}

/// From now on `decide` says what the points that this thread meets do. Points met by `decide` itself do nothing.
pub fn hook(decide: impl FnMut(&'static str) -> Option<Action> + 'static) -> Hooked {
    HOOK.set(Some(Box::new(decide)));
    Hooked(())
}

/// Notes the message that this thread serves.
pub fn set_at_hand(bytes: &[u8]) {
    AT_HAND.with_borrow_mut(|hand| {
        hand.clear();
        hand.extend_from_slice(bytes);
    });
}

/// Meets the point; whether its function shall fail.
pub fn hit(name: &'static str) -> bool {
    let action = match HOOK.take() {
        Some(mut decide) => {
            let action = decide(name);
            HOOK.set(Some(decide));
            action
        }
        None => {
            let action = AT_HAND.with_borrow(|hand| plan().decide(name, hand));
            if let Some(action) = action {
                // For tests, which wait for it, or have to know that it was.
                eprintln!("failpoint {name}: {action:?}");
            }
            action
        }
    };
    action.is_some_and(|action| act(name, action))
}

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| {
        let text = std::env::var("TANDEM_FAILPOINTS").unwrap_or_default();
        let once = std::env::var_os("TANDEM_FAILPOINTS_ONCE").map(PathBuf::from);
        Plan::parse(&text, once.as_deref()).unwrap_or_else(|wrong| {
            eprintln!("error: TANDEM_FAILPOINTS: {wrong}");
            std::process::exit(2);
        })
    })
}

fn act(name: &str, action: Action) -> bool {
    match action {
        Action::Abort => std::process::abort(),
        Action::Panic => panic!("failpoint {name}"),
        Action::Kill => signal(Signal::SIGKILL),
        Action::Segv => signal(Signal::SIGSEGV),
        Action::Stop => {
            let _ = raise(Signal::SIGSTOP);
            false
        }
        Action::Hang => hang(),
        Action::Error => true,
        Action::Sleep(time) => {
            std::thread::sleep(time);
            false
        }
    }
}

/// Again and again, since the standard library's handler of SIGSEGV only gives way to the default the first time.
fn signal(signal: Signal) -> ! {
    loop {
        let _ = raise(signal);
    }
}

#[inline(never)]
fn hang() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn f() -> Result<u32, &'static str> {
        crate::failpoint!("test.one");
        crate::failpoint!("test.two", Err("failed"));
        Ok(1)
    }

    #[test]
    fn a_hook_decides_for_its_thread_and_no_longer_than_it_lives() {
        let seen = Rc::new(Cell::new(0));
        let hooked = hook({
            let seen = Rc::clone(&seen);
            move |name| {
                seen.set(seen.get() + 1);
                (name == "test.two" && seen.get() > 2).then_some(Action::Error)
            }
        });
        assert_eq!((f(), f()), (Ok(1), Err("failed")));
        assert_eq!(std::thread::spawn(f).join().unwrap(), Ok(1));
        drop(hooked);
        assert_eq!((f(), seen.get()), (Ok(1), 4));
    }
}
