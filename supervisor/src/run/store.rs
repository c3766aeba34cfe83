//! The service manager's descriptor store (sd_notify(3), `FDSTORE=1`): all that is shared, for a start after everything was killed.
//!
//! Each descriptor has a name of its own, since the store keeps no order:
//! `arena-control`, `arena-data`, `adopt`, `config-VERSION`, `bell-SLOT`, `udp-LISTENER-SLOT`, or `any-LISTENER-SLOT` for a listener that asked for any port.
//! `FDPOLL=0`, or a socket with an error to report would be thrown out of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use sd_notify::NotifyState;

use super::adopt::{Estate, Sockets};
use super::sockets::Listener;
use super::supervisor::Supervisor;

const CONTROL: &str = "arena-control";
const DATA: &str = "arena-data";
const ADOPT: &str = "adopt";

/// What the service manager kept for us.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// `None` if it kept nothing, or not enough.
    pub(crate) estate: Option<Estate>,
    pub(crate) names: BTreeSet<String>,
}

pub(crate) fn inherited() -> Inherited {
    let found = os::inherited_descriptors();
    let names: BTreeSet<String> = found.iter().map(|(name, _)| name.clone()).collect();
    let estate = sort(found);
    if estate.is_none() && !names.is_empty() {
        tracing::warn!("the service manager's store is not whole: it is not used");
    }
    Inherited { estate, names }
}

fn sort(found: Vec<(String, OwnedFd)>) -> Option<Estate> {
    let (mut control, mut data, mut adopt) = (None, None, None);
    let mut configs = BTreeMap::new();
    let mut bells = BTreeMap::new();
    let mut listeners: BTreeMap<u32, (bool, BTreeMap<u16, OwnedFd>)> = BTreeMap::new();
    for (name, fd) in found {
        let mut parts = name.split('-');
        match (parts.next()?, parts.next(), parts.next()) {
            ("arena", Some("control"), None) => control = Some(fd),
            ("arena", Some("data"), None) => data = Some(fd),
            ("adopt", None, None) => adopt = Some(fd),
            ("config", Some(version), None) => {
                configs.insert(version.parse::<u64>().ok()?, fd);
            }
            ("bell", Some(slot), None) => {
                bells.insert(slot.parse::<u16>().ok()?, fd);
            }
            (kind @ ("udp" | "any"), Some(id), Some(slot)) => {
                let listener = listeners
                    .entry(id.parse().ok()?)
                    .or_insert((kind == "any", BTreeMap::new()));
                listener.1.insert(slot.parse().ok()?, fd);
            }
            _ => tracing::warn!(name, "the service manager kept what is not ours"),
        }
    }
    let slots = bells.len();
    // The newest: an older one is what a supervisor had no time to remove.
    let (config_version, config_file) = configs.pop_last()?;
    let listeners = listeners
        .into_iter()
        .filter(|(_, (_, fds))| fds.len() == slots)
        .map(|(id, (any, fds))| sockets(id, any, fds.into_values().collect()))
        .collect::<Option<Vec<_>>>()?;
    Some(Estate {
        control: control?,
        data: data?,
        config_file,
        config_version,
        adopt,
        doorbells: bells.into_values().collect(),
        listeners,
        secret: None,
    })
}

fn sockets(id: u32, any: bool, fds: Vec<OwnedFd>) -> Option<Sockets> {
    let copy = fds.first()?.try_clone().ok()?;
    let address = UdpSocket::from(copy).local_addr().ok()?;
    let asked = SocketAddr::new(address.ip(), if any { 0 } else { address.port() });
    Some(Sockets {
        id,
        asked,
        address,
        fds,
    })
}

fn socket_names(listener: &Listener) -> impl Iterator<Item = String> {
    let kind = if listener.asked.port() == 0 {
        "any"
    } else {
        "udp"
    };
    let id = listener.id;
    (0..listener.sockets().len()).map(move |slot| format!("{kind}-{id}-{slot}"))
}

impl Supervisor {
    /// The same after the arena is another one: its names are the old one's.
    pub(super) fn store_anew(&mut self) {
        let mut names = std::mem::take(&mut self.stored);
        clear(&mut names);
        self.store();
    }

    /// Makes the store hold what there is, and nothing else.
    pub(super) fn store(&mut self) {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return;
        }
        let Some((control, data)) = self.memory.files() else {
            return;
        };
        let config = format!("config-{}", self.config_version);
        let mut wanted: Vec<(String, BorrowedFd<'_>)> = vec![
            (CONTROL.to_owned(), control),
            (DATA.to_owned(), data),
            (ADOPT.to_owned(), self.adopt.listener.as_fd()),
            (config, self.config_file.as_fd()),
        ];
        let bells = (0..).zip(&self.doorbells);
        wanted.extend(bells.map(|(slot, bell): (u16, _)| (format!("bell-{slot}"), bell.as_fd())));
        for listener in &self.listeners {
            wanted.extend(socket_names(listener).zip(listener.sockets()));
        }
        for (name, fd) in &wanted {
            if !self.stored.contains(name) {
                notify_with(
                    &[
                        NotifyState::FdStore,
                        NotifyState::FdName(name),
                        NotifyState::Custom("FDPOLL=0"),
                    ],
                    &[*fd],
                );
            }
        }
        let names: BTreeSet<String> = wanted.into_iter().map(|(name, _)| name).collect();
        let mut gone: BTreeSet<String> = self.stored.difference(&names).cloned().collect();
        clear(&mut gone);
        self.stored = names;
    }
}

/// Takes these out of the store.
pub(crate) fn clear(names: &mut BTreeSet<String>) {
    for name in std::mem::take(names) {
        notify_with(
            &[NotifyState::FdStoreRemove, NotifyState::FdName(&name)],
            &[],
        );
    }
}

fn notify_with(states: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) {
    let told = if fds.is_empty() {
        sd_notify::notify(states)
    } else {
        sd_notify::notify_with_fds(states, fds)
    };
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<(String, OwnedFd)> {
        names
            .iter()
            .map(|name| {
                let fd = match name.split('-').next() {
                    Some("udp" | "any") => UdpSocket::bind("127.0.0.1:0").unwrap().into(),
                    _ => os::eventfd().unwrap(),
                };
                ((*name).to_owned(), fd)
            })
            .collect()
    }

    const WHOLE: [&str; 11] = [
        "bell-1",
        "udp-3-1",
        "arena-data",
        "adopt",
        "udp-3-0",
        "config-2",
        "bell-0",
        "config-10",
        "arena-control",
        "any-4-0",
        "any-4-1",
    ];

    #[test]
    fn the_store_in_any_order() {
        let estate = sort(named(&WHOLE)).unwrap();
        assert_eq!((estate.config_version, estate.doorbells.len()), (10, 2));
        let [udp, any] = &estate.listeners[..] else {
            panic!("{:?}", estate.listeners)
        };
        assert_eq!((udp.id, udp.fds.len(), udp.asked), (3, 2, udp.address));
        assert_eq!((any.id, any.asked.port()), (4, 0));
        assert!(estate.adopt.is_some() && estate.secret.is_none());
    }

    #[test]
    fn a_store_without_its_arena_is_none_and_half_a_listener_is_left_out() {
        for missing in ["arena-control", "arena-data"] {
            let names: Vec<&str> = WHOLE.into_iter().filter(|name| *name != missing).collect();
            assert!(sort(named(&names)).is_none(), "{missing}");
        }
        let names: Vec<&str> = WHOLE
            .into_iter()
            .filter(|name| *name != "udp-3-1")
            .collect();
        assert_eq!(sort(named(&names)).unwrap().listeners.len(), 1);
        assert!(sort(named(&["bell-x"])).is_none());
    }
}
