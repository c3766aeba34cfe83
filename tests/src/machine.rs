//! The machine under the tests: time, addresses, processes, and who may run beside whom.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The repository: the parent of this package.
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map(Path::to_path_buf).unwrap_or(package)
}

/// A file of `tests/`.
pub fn test_file(name: &str) -> PathBuf {
    repository().join("tests").join(name)
}

static MACHINE: RwLock<()> = RwLock::new(());

/// Held by a test that may run beside others.
pub fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that measures or loads the machine: no other test runs meanwhile.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `condition` gives a value, looking every few milliseconds; panics with `what` after `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A loopback address that no other test of this process uses, and hardly any other process does:
/// all of 127.0.0.0/8 is this machine.
pub fn fresh_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let pid = std::process::id();
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let third = 1 + (n / 250) % 4 + 4 * (pid % 60);
    Ipv4Addr::new(
        127,
        u8::try_from(1 + (pid / 60) % 250).unwrap_or(1),
        u8::try_from(third % 256).unwrap_or(1),
        u8::try_from(1 + n % 250).unwrap_or(1),
    )
}

/// A UDP port that is free on `ip` now.
pub fn free_port(ip: Ipv4Addr) -> u16 {
    let socket = UdpSocket::bind(SocketAddr::from((ip, 0))).expect("loopback has free ports");
    socket
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

/// What `/proc` says of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    pub state: char,
    pub name: String,
}

/// Every process of a process group, zombies included.
pub fn group_members(group: i32) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(process)
        .filter(|p| p.group == group)
        .collect()
}

/// One process, if it exists.
pub fn process(pid: i32) -> Option<Process> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<Process> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let pid = stat.get(..open)?.trim().parse().ok()?;
    let name = stat.get(open + 1..close)?.to_owned();
    let mut rest = stat.get(close + 1..)?.split_whitespace();
    let state = rest.next()?.chars().next()?;
    let parent = rest.next()?.parse().ok()?;
    let group = rest.next()?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        group,
        state,
        name,
    })
}

/// Open descriptors of a process.
pub fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Resident memory of a process that is its own (anonymous), in KiB; shared maps are not counted.
pub fn resident_own_kib(pid: i32) -> u64 {
    field_kib(
        &std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(),
        "RssAnon:",
    )
}

/// Processor time that the threads of a process with such names have taken, in the kernel too. Unit: ns.
pub fn processor_ns(pid: i32, threads: &str) -> u64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let of = |dir: PathBuf| {
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let first: u64 = read("schedstat").split_whitespace().next()?.parse().ok()?;
        read("comm").starts_with(threads).then_some(first)
    };
    let times = tasks.flatten().filter_map(|task| of(task.path()));
    times.sum::<u64>()
}

/// From here on this thread, and those that it starts, run on this processor alone. False: it can't be.
pub fn stay_on(core: usize) -> bool {
    let mut one = CpuSet::new();
    one.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &one))
        .is_ok()
}

fn field_kib(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|l| l.strip_prefix(name))
        .and_then(|v| v.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Waits until `pid` is dead (gone, or a zombie that its parent has yet to collect).
#[track_caller]
pub fn wait_dead(pid: i32, limit: Duration) {
    let start = Instant::now();
    while process(pid).is_some_and(|p| !matches!(p.state, 'Z' | 'X')) {
        assert!(
            start.elapsed() < limit,
            "process {pid} lives on after {limit:?}"
        );
        std::thread::yield_now();
    }
}

/// Is this program on the search path?
pub fn have(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Panics with the remedy if an outside program is missing. A test that silently passes without
/// its client would prove nothing.
#[track_caller]
pub fn need(program: &str) {
    assert!(
        have(program),
        "{program} is not installed; `cargo xtask setup` installs it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_name_that_has_parentheses() {
        let p = parse_stat("42 (a) b) c) S 7 9 9 0 -1").expect("parses");
        assert_eq!(
            p,
            Process {
                pid: 42,
                parent: 7,
                group: 9,
                state: 'S',
                name: "a) b) c".into()
            }
        );
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let me = i32::try_from(std::process::id()).expect("a pid fits");
        assert_eq!(process(me).map(|p| p.pid), Some(me));
        assert!(descriptors(me) > 2);
        assert!(resident_own_kib(me) > 0);
        assert!(processor_ns(me, "") > 0);
        assert_eq!(processor_ns(me, "no thread has this name"), 0);
    }

    #[test]
    fn addresses_differ_and_can_be_bound() {
        let (a, b) = (fresh_address(), fresh_address());
        assert_ne!(a, b);
        assert!(free_port(a) > 0 && free_port(b) > 0);
    }

    #[test]
    fn status_fields() {
        assert_eq!(
            field_kib("VmRSS:\t 9 kB\nRssAnon:\t  120 kB\n", "RssAnon:"),
            120
        );
        assert_eq!(field_kib("", "RssAnon:"), 0);
    }
}
