//! What a reload changes: what takes effect at once, and which keys wait for a restart.

use std::fmt::Display;

use crate::model::{Config, Listen, Memory, Pin};

/// The way from one configuration to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// What changes live, a line each for a person to read.
    pub applied: Vec<String>,
    /// Keys whose new value needs a restart, as they are named in the file.
    pub needs_restart: Vec<&'static str>,
    pub listeners_added: Vec<Listen>,
    pub listeners_removed: Vec<Listen>,
    /// `memory.limit` is larger now: the arena has to move into a larger one.
    pub limit_raised: Option<u64>,
    /// Threads have to be pinned anew.
    pub pin_changed: bool,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.needs_restart.is_empty() && self.limit_raised.is_none()
    }
}

/// Compares the configuration that runs with one that was read.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let mut diff = Diff::default();
    listeners(&mut diff, old, new);
    workers(&mut diff, old, new);
    if new.memory.limit > old.memory.limit {
        diff.limit_raised = Some(new.memory.limit);
    }
    if new.memory.limit < old.memory.limit {
        diff.needs_restart.push("memory.limit");
    }
    if old.memory.huge_pages != new.memory.huge_pages {
        diff.needs_restart.push("memory.huge_pages");
    }
    if old.memory.snapshot != new.memory.snapshot {
        diff.applied.push("memory.snapshot changed".to_owned());
    }
    let mut table = |name: &str, changed: bool| {
        if changed {
            diff.applied.push(format!("[{name}] changed"));
        }
    };
    table("registrar", old.registrar != new.registrar);
    table("limits", old.limits != new.limits);
    table("proxy", old.proxy != new.proxy);
    table("calls", old.calls != new.calls);
    table("overload", old.overload != new.overload);
    table("timers", old.timers != new.timers);
    table("auth", old.authentication != new.authentication);
    table("dns", old.dns != new.dns);
    table("cdr", old.records != new.records);
    table("topology", old.topology != new.topology);
    table("nat", old.nat != new.nat);
    named(&mut diff, "user", &old.users, &new.users, |user| {
        format!("{}@{}", user.name, user.domain)
    });
    diff.applied
        .extend(crate::Users::difference(&old.stored, &new.stored));
    named(&mut diff, "domain", &old.domains, &new.domains, |domain| {
        domain.name.clone()
    });
    named(&mut diff, "group", &old.groups, &new.groups, |group| {
        group.name.clone()
    });
    named(
        &mut diff,
        "profile",
        &old.profiles,
        &new.profiles,
        |profile| profile.name.clone(),
    );
    named(&mut diff, "media", &old.media, &new.media, |media| {
        media.name.clone()
    });
    named(&mut diff, "caller", &old.callers, &new.callers, |caller| {
        caller.name.clone()
    });
    named(&mut diff, "period", &old.periods, &new.periods, |period| {
        period.name.clone()
    });
    named(
        &mut diff,
        "prefix table",
        &old.prefix_tables,
        &new.prefix_tables,
        |table| table.name.clone(),
    );
    if old.routes != new.routes {
        diff.applied.push(format!(
            "routes changed: {} now, {} before",
            new.routes.len(),
            old.routes.len()
        ));
    }
    diff
}

/// The configuration to run after a reload: `new`, but with the old value of what needs a restart.
pub fn merge_live(old: &Config, new: &Config) -> Config {
    let mut live = new.clone();
    live.memory = Memory {
        snapshot: new.memory.snapshot,
        ..old.memory.clone()
    };
    live.workers = old.workers.clone();
    live.workers.hang_timeout = new.workers.hang_timeout;
    if pin_fits(old, new) {
        live.workers.pin = new.workers.pin.clone();
    }
    for listen in &mut live.listen {
        if let Some(before) = same_listener(&old.listen, listen) {
            listen.spread = before.spread;
            listen.transports = before.transports.clone();
        }
    }
    live
}

fn listeners(diff: &mut Diff, old: &Config, new: &Config) {
    for listen in &new.listen {
        match same_listener(&old.listen, listen) {
            None => {
                diff.applied
                    .push(format!("listener {} added", listen.address));
                diff.listeners_added.push(listen.clone());
            }
            Some(before) => {
                restart(diff, "listen.spread", before.spread != listen.spread);
                restart(
                    diff,
                    "listen.transports",
                    before.transports != listen.transports,
                );
                if before.advertise != listen.advertise {
                    diff.applied
                        .push(format!("listener {} changed", listen.address));
                }
            }
        }
    }
    for listen in &old.listen {
        if same_listener(&new.listen, listen).is_none() {
            diff.applied
                .push(format!("listener {} removed", listen.address));
            diff.listeners_removed.push(listen.clone());
        }
    }
}

fn same_listener<'l>(list: &'l [Listen], listen: &Listen) -> Option<&'l Listen> {
    list.iter().find(|other| other.address == listen.address)
}

fn workers(diff: &mut Diff, old: &Config, new: &Config) {
    let (before, after) = (&old.workers, &new.workers);
    restart(diff, "workers.count", before.count != after.count);
    restart(diff, "workers.reactors", before.reactors != after.reactors);
    restart(diff, "workers.spin_us", before.spin_us != after.spin_us);
    restart(diff, "workers.user", before.user != after.user);
    if before.hang_timeout != after.hang_timeout {
        diff.applied.push("workers.hang_timeout changed".to_owned());
    }
    if before.pin != after.pin {
        if pin_fits(old, new) {
            diff.pin_changed = true;
            diff.applied.push("workers.pin changed".to_owned());
        } else {
            diff.needs_restart.push("workers.pin");
        }
    }
}

/// A list of cores that was made for another number of slots has to wait, as they do.
fn pin_fits(old: &Config, new: &Config) -> bool {
    !matches!(new.workers.pin, Pin::List(_)) || old.slots() == new.slots()
}

fn restart(diff: &mut Diff, key: &'static str, changed: bool) {
    if changed && !diff.needs_restart.contains(&key) {
        diff.needs_restart.push(key);
    }
}

fn named<T: PartialEq, N: Display + Ord>(
    diff: &mut Diff,
    what: &str,
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> N,
) {
    let index = |list: &[T]| -> std::collections::BTreeMap<N, usize> {
        list.iter()
            .enumerate()
            .map(|(at, item)| (name(item), at))
            .collect()
    };
    let (before, after) = (index(old), index(new));
    for (name, at) in &after {
        match before.get(name).and_then(|at| old.get(*at)) {
            None => diff.applied.push(format!("{what} {name} added")),
            Some(item) if Some(item) != new.get(*at) => {
                diff.applied.push(format!("{what} {name} changed"))
            }
            Some(_) => {}
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(name)) {
        diff.applied.push(format!("{what} {name} removed"));
    }
}
