//! What the machine must grant before anything is opened: descriptors, memory, the workers' account.

use std::fs;
use std::path::Path;

use config::Config;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::trouble::Trouble;
use crate::size::size;

/// Descriptors besides sockets, doorbells and workers: epoll, signals, memfds, clients, log, and room for a reload.
const DESCRIPTORS_BASE: u64 = 256;

/// What a slot's resolver opens while very many names are waited for: 8 servers by 4 sockets, 128 that wait for late answers,
/// 16 connections, and what tells of them. It makes do with less.
const DESCRIPTORS_OF_RESOLVER: u64 = 180;

/// Raises our limit of open files to what `listeners` need, as far as we may; workers inherit it.
pub(crate) fn raise_descriptors(slots: u16, workers: u16, listeners: usize) -> Result<(), Trouble> {
    let wanted = descriptors_wanted(slots, workers, listeners);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| {
        Trouble::new(format!("cannot read the limit of open files: {error}"), "")
    })?;
    let best = wanted + u64::from(slots) * DESCRIPTORS_OF_RESOLVER;
    if soft >= best || setrlimit(Resource::RLIMIT_NOFILE, best, hard.max(best)).is_ok() {
        return Ok(());
    }
    if soft >= wanted {
        return Ok(());
    }
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_ok() {
        return Ok(());
    }
    Err(Trouble::new(
        format!(
            "{slots} slots and {listeners} listeners need {wanted} open files; the limit is {soft}, at most {hard}"
        ),
        format!(
            "raise it to {wanted}: `ulimit -n`, /etc/security/limits.conf or `LimitNOFILE=` in the unit"
        ),
    ))
}

fn descriptors_wanted(slots: u16, workers: u16, listeners: usize) -> u64 {
    // A reload may add as many listeners again before it removes the old ones.
    let sockets = u64::from(slots) * (listeners as u64) * 2;
    DESCRIPTORS_BASE + sockets + u64::from(slots) * 2 + u64::from(workers + 1) * 4
}

/// Refuses a limit that can't be kept: pages that are not there when they are wanted would refuse calls in mid-day.
pub(crate) fn check_memory(config: &Config) -> Result<(), Trouble> {
    let limit = config.memory.limit;
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = available_in(&meminfo).map(|bytes| (bytes, "the machine has"));
    let cgroup =
        cgroup_room(Path::new("/sys/fs/cgroup")).map(|bytes| (bytes, "the control group allows"));
    match machine.into_iter().chain(cgroup).min() {
        Some((available, who)) if available < limit => Err(Trouble::new(
            format!(
                "`memory.limit` is {}; {who} {} left",
                size(limit),
                size(available)
            ),
            "lower `memory.limit`, or give the machine, container or unit (`MemoryMax=`) more memory",
        )),
        _ => Ok(()),
    }
}

/// `MemAvailable`, in bytes.
fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// What the tightest control group (v2) above us has left, in bytes; `None` without a limit.
fn cgroup_room(root: &Path) -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let groups = root.join(path);
    groups
        .ancestors()
        .take_while(|group| group.starts_with(root))
        .filter_map(room_of)
        .min()
}

fn room_of(group: &Path) -> Option<u64> {
    let number = |file: &str| {
        fs::read_to_string(group.join(file))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let max = number("memory.max")?;
    Some(max.saturating_sub(number("memory.current").unwrap_or(0)))
}

/// The account that workers drop to must exist, and only root can change to another one.
pub(crate) fn check_user(user: Option<&str>) -> Result<(), Trouble> {
    let Some(name) = user else { return Ok(()) };
    let account = os::lookup_user(name).map_err(|_| {
        Trouble::new(
            format!("`workers.user` is \"{name}\", and there is no such account"),
            format!(
                "create it (`useradd --system --shell /usr/sbin/nologin {name}`), or name another"
            ),
        )
    })?;
    let me = nix::unistd::geteuid();
    if me.is_root() || me.as_raw() == account.uid {
        return Ok(());
    }
    Err(Trouble::new(
        format!("`workers.user` is \"{name}\", and only root can change to another account"),
        "start as root, or remove `workers.user` to keep the present account",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_and_control_groups_are_read() {
        assert_eq!(
            available_in("MemTotal: 9 kB\nMemAvailable:   12 kB\n"),
            Some(12288)
        );
        assert_eq!(available_in("MemTotal: 9 kB\n"), None);
        let group = tempfile::tempdir().unwrap();
        assert_eq!(room_of(group.path()), None);
        fs::write(group.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(room_of(group.path()), None);
        fs::write(group.path().join("memory.max"), "1000\n").unwrap();
        fs::write(group.path().join("memory.current"), "400\n").unwrap();
        assert_eq!(room_of(group.path()), Some(600));
    }

    #[test]
    fn accounts() {
        assert_eq!(check_user(None), Ok(()));
        let trouble = check_user(Some("no-such-account")).unwrap_err();
        assert!(trouble.remedy.contains("useradd"));
        if nix::unistd::geteuid().is_root() {
            assert_eq!(check_user(Some("root")), Ok(()));
        }
    }

    #[test]
    fn two_hundred_listeners_fit_a_raised_limit() {
        assert_eq!(descriptors_wanted(4, 2, 1), 256 + 8 + 8 + 12);
        assert_eq!(raise_descriptors(4, 2, 1), Ok(()));
    }
}
