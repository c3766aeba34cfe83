//! The service manager's descriptor store (sd_notify(3), `FDSTORE=1`): all that is shared, for a start after everything was killed.
//!
//! Each descriptor has a name of its own, since the store keeps no order:
//! `arena-control-NUMBER`, `arena-data-NUMBER` (the number is that of the control file's inode), `adopt`, `config-VERSION`, `bell-SLOT`, `udp-LISTENER-SLOT`, or `any-LISTENER-SLOT` for a listener that asked for any port.
//! While the server moves from one arena to another both are there; which of them counts is for them to say (`arenas`).
//! `FDPOLL=0`, or a socket with an error to report would be thrown out of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use sd_notify::NotifyState;

use super::adopt::{Estate, Sockets};
use super::claim::outlast;
use super::holder;
use super::memory::Memory;
use super::numbers::Files;
use super::sockets::{Listener, RECEIVE_BYTES};
use super::supervisor::Supervisor;
use super::switch::Switch;

const CONTROL: &str = "arena-control";
const DATA: &str = "arena-data";
const ADOPT: &str = "adopt";

/// What the service manager kept for us.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// `None` if it kept nothing, or not enough.
    pub(crate) kept: Option<Kept>,
    pub(crate) names: BTreeSet<String>,
}

/// What is needed to go on. A store that was filled when we died, or that has no room for everything (`FileDescriptorStoreMax=`), may lack doorbells and
/// sockets.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Control and data memfd of each arena; one at least.
    pub(crate) arenas: Vec<(OwnedFd, OwnedFd)>,
    config_file: OwnedFd,
    config_version: u64,
    adopt: Option<OwnedFd>,
    bells: BTreeMap<u16, OwnedFd>,
    listeners: BTreeMap<u32, KeptListener>,
    tables: Files,
}

#[derive(Debug)]
struct KeptListener {
    asked: SocketAddr,
    address: SocketAddr,
    fds: BTreeMap<u16, OwnedFd>,
}

pub(crate) fn inherited() -> Inherited {
    let found = os::inherited_descriptors();
    let names: BTreeSet<String> = found.iter().map(|(name, _)| name.clone()).collect();
    let kept = sort(found);
    if kept.is_none() && !names.is_empty() {
        tracing::warn!(
            "the service manager's store lacks the memory or the configuration: it is not used"
        );
    }
    Inherited { kept, names }
}

fn sort(found: Vec<(String, OwnedFd)>) -> Option<Kept> {
    let mut adopt = None;
    let (mut controls, mut datas) = (BTreeMap::new(), BTreeMap::new());
    let mut configs = BTreeMap::new();
    let mut tables = Files::new();
    let mut bells = BTreeMap::new();
    let mut listeners: BTreeMap<u32, KeptListener> = BTreeMap::new();
    for (name, fd) in found {
        let mut parts = name.split('-');
        match (parts.next()?, parts.next(), parts.next()) {
            // Without a number: of a release that kept one arena only.
            ("arena", Some("control"), number) => {
                controls.insert(number.unwrap_or_default().to_owned(), fd);
            }
            ("arena", Some("data"), number) => {
                datas.insert(number.unwrap_or_default().to_owned(), fd);
            }
            ("adopt", None, None) => adopt = Some(fd),
            ("config", Some(version), None) => {
                configs.insert(version.parse::<u64>().ok()?, fd);
            }
            ("table", Some(image), None) => {
                tables.insert(image.parse::<u64>().ok()?, fd);
            }
            ("bell", Some(slot), None) => {
                bells.insert(slot.parse::<u16>().ok()?, fd);
            }
            (kind @ ("udp" | "any"), Some(id), Some(slot)) => {
                let address = UdpSocket::from(fd.try_clone().ok()?).local_addr().ok()?;
                let port = if kind == "any" { 0 } else { address.port() };
                let listener = listeners.entry(id.parse().ok()?);
                let listener = listener.or_insert_with(|| KeptListener {
                    asked: SocketAddr::new(address.ip(), port),
                    address,
                    fds: BTreeMap::new(),
                });
                listener.fds.insert(slot.parse().ok()?, fd);
            }
            _ => tracing::warn!(name, "the service manager kept what is not ours"),
        }
    }
    // The newest: an older one is what a supervisor had no time to remove.
    let (config_version, config_file) = configs.pop_last()?;
    let whole = controls
        .into_iter()
        .filter_map(|(number, control)| Some((control, datas.remove(&number)?)));
    let arenas: Vec<_> = whole.collect();
    if arenas.is_empty() {
        return None;
    }
    Some(Kept {
        arenas,
        config_file,
        config_version,
        adopt,
        bells,
        listeners,
        tables,
    })
}

impl Kept {
    /// Whole, with the arena of this number, for a server of so many slots whose processes are all dead: a doorbell that is missing is as good as any, a socket is
    /// opened beside the others of its listener.
    pub(crate) fn into_estate(mut self, arena: u64, slots: u16) -> io::Result<Estate> {
        let is_it = |(control, _): &(OwnedFd, OwnedFd)| inode(control.as_fd()) == arena;
        let (control, data) = self
            .arenas
            .into_iter()
            .find(is_it)
            .ok_or(io::ErrorKind::NotFound)?;
        let doorbells =
            (0..slots).map(|slot| self.bells.remove(&slot).map_or_else(os::eventfd, Ok));
        let doorbells = doorbells.collect::<io::Result<_>>()?;
        let mut listeners = Vec::with_capacity(self.listeners.len());
        for (id, kept) in self.listeners {
            listeners.push(kept.into_sockets(id, slots)?);
        }
        Ok(Estate {
            control,
            data,
            config_file: self.config_file,
            config_version: self.config_version,
            adopt: self.adopt,
            doorbells,
            listeners,
            tables: self.tables,
            secret: None,
        })
    }

    /// The listeners that are whole, for survivors that were not given them.
    pub(crate) fn whole_listeners(self, slots: u16) -> Vec<Sockets> {
        let whole = self.listeners.into_iter().filter(|(_, kept)| {
            kept.fds.len() == usize::from(slots) && kept.fds.keys().copied().eq(0..slots)
        });
        whole
            .filter_map(|(id, kept)| kept.into_sockets(id, slots).ok())
            .collect()
    }
}

impl KeptListener {
    fn into_sockets(mut self, id: u32, slots: u16) -> io::Result<Sockets> {
        let missing = (0..slots)
            .filter(|slot| !self.fds.contains_key(slot))
            .count();
        if missing > 0 {
            tracing::warn!(
                address = %self.address,
                missing,
                "the service manager did not keep all sockets of this listener: the missing ones are opened, and what waited in them is lost. \
                 See `FileDescriptorStoreMax=`"
            );
        }
        if missing > 0 {
            self.outlast_lost_ones();
        }
        let mut fds = Vec::with_capacity(usize::from(slots));
        for slot in 0..slots {
            fds.push(match self.fds.remove(&slot) {
                Some(fd) => fd,
                None => os::udp_socket(self.address, true, RECEIVE_BYTES)?,
            });
        }
        Ok(Sockets {
            id,
            asked: self.asked,
            address: self.address,
            fds,
        })
    }

    /// A socket that was lost lives on until the kernel has taken down the ring of the dead worker that read it. As long as it does it is one of the group:
    /// it gets its share of what arrives, and the group's rule would count it as one of ours and leave out the one that we open.
    fn outlast_lost_ones(&self) {
        let kept: Vec<u64> = self.fds.values().map(|fd| inode(fd.as_fd())).collect();
        let gone = outlast(|| (!holder::others_at(self.address, &kept)).then_some(()));
        if gone.is_none() {
            tracing::error!(
                address = %self.address,
                "somebody else holds a socket of this listener, and what arrives there is lost: end that process, and restart"
            );
        }
    }
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
    /// Makes the store hold what there is, and nothing else.
    pub(super) fn store(&mut self) {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return;
        }
        let next = self.switch.as_ref().and_then(Switch::next);
        let arenas = [Some(&self.memory), next.map(|next| &next.memory)];
        let files = arenas.into_iter().flatten().filter_map(Memory::files);
        let config = format!("config-{}", self.config_version);
        let mut wanted: Vec<(String, BorrowedFd<'_>)> = vec![
            (ADOPT.to_owned(), self.adopt.listener.as_fd()),
            (config, self.config_file.as_fd()),
        ];
        for (control, data) in files {
            let number = inode(control);
            wanted.push((format!("{CONTROL}-{number}"), control));
            wanted.push((format!("{DATA}-{number}"), data));
        }
        let tables = self.tables.iter();
        wanted.extend(tables.map(|(image, file)| (format!("table-{image}"), file.as_fd())));
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

/// What tells one open file from another; 0 if the kernel does not say.
pub(super) fn inode(file: BorrowedFd<'_>) -> u64 {
    nix::sys::stat::fstat(file).map_or(0, |about| about.st_ino)
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
        "arena-data-71",
        "adopt",
        "udp-3-0",
        "config-2",
        "bell-0",
        "config-10",
        "arena-control-71",
        "any-4-0",
        "any-4-1",
    ];

    fn estate_of(found: Vec<(String, OwnedFd)>, slots: u16) -> Estate {
        let kept = sort(found).unwrap();
        let arena = inode(kept.arenas[0].0.as_fd());
        kept.into_estate(arena, slots).unwrap()
    }

    #[test]
    fn arenas_are_kept_in_pairs() {
        let of = |names: &[&str]| sort(named(names)).map_or(0, |kept| kept.arenas.len());
        let two = [
            "arena-control-8",
            "arena-data-7",
            "config-1",
            "arena-data-8",
            "arena-control-7",
        ];
        assert_eq!((of(&two), of(&two[..4]), of(&two[..3])), (2, 1, 0));
        assert_eq!(of(&["arena-control", "arena-data", "config-1"]), 1);
    }

    #[test]
    fn the_store_in_any_order() {
        let estate = estate_of(named(&WHOLE), 2);
        assert_eq!((estate.config_version, estate.doorbells.len()), (10, 2));
        let [udp, any] = &estate.listeners[..] else {
            panic!("{:?}", estate.listeners)
        };
        assert_eq!((udp.id, udp.fds.len(), udp.asked), (3, 2, udp.address));
        assert_eq!((any.id, any.asked.port()), (4, 0));
        assert!(estate.adopt.is_some() && estate.secret.is_none());
    }

    #[test]
    fn a_store_without_its_arena_or_its_configuration_is_none() {
        for missing in ["arena-control-71", "arena-data-71"] {
            let names: Vec<&str> = WHOLE.into_iter().filter(|name| *name != missing).collect();
            assert!(sort(named(&names)).is_none(), "{missing}");
        }
        assert!(sort(named(&["arena-control", "arena-data", "bell-0"])).is_none());
        assert!(sort(named(&["bell-x"])).is_none());
    }

    #[test]
    fn what_the_store_lacks_is_made() {
        let first = os::udp_socket("127.0.0.1:0".parse().unwrap(), true, RECEIVE_BYTES).unwrap();
        let copy = UdpSocket::from(first.try_clone().unwrap());
        let address = copy.local_addr().unwrap();
        let mut found = named(&["arena-control", "arena-data", "config-1", "bell-1"]);
        found.push(("udp-7-1".to_owned(), first));
        let inode = |fd: &OwnedFd| {
            let raw = std::os::fd::AsRawFd::as_raw_fd(fd);
            std::fs::read_link(format!("/proc/self/fd/{raw}")).unwrap()
        };
        let given = inode(&copy.into());
        let estate = estate_of(found, 3);
        assert_eq!(estate.doorbells.len(), 3);
        let [listener] = &estate.listeners[..] else {
            panic!("{:?}", estate.listeners)
        };
        assert_eq!((listener.id, listener.address), (7, address));
        // The one that was kept is in its place, and the others have the same port.
        let at: Vec<bool> = listener.fds.iter().map(|fd| inode(fd) == given).collect();
        assert_eq!(at, [false, true, false]);
        for fd in &listener.fds {
            let socket = UdpSocket::from(fd.try_clone().unwrap());
            assert_eq!(socket.local_addr().unwrap(), address);
        }
    }

    /// The ring of a dead worker holds what the store has lost a while longer, and nobody reads it.
    #[test]
    fn what_arrives_beside_a_lost_socket_that_lives_on_is_read() {
        let open = |address| os::udp_socket(address, true, RECEIVE_BYTES).unwrap();
        let kept = open("127.0.0.1:0".parse().unwrap());
        let address = UdpSocket::from(kept.try_clone().unwrap())
            .local_addr()
            .unwrap();
        let lost = open(address);
        os::attach_reuseport_random(kept.as_fd(), 2).unwrap();
        let mut found = named(&["arena-control", "arena-data", "config-1"]);
        found.push(("udp-7-0".to_owned(), kept));
        let ring = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            drop(lost);
        });
        let estate = estate_of(found, 2);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender.send_to(b"x", address).unwrap();
        }
        let fds = estate.listeners.into_iter().flat_map(|found| found.fds);
        let arrived = fds
            .map(UdpSocket::from)
            .map(|socket| std::iter::from_fn(|| socket.recv_from(&mut [0; 8]).ok()).count());
        let arrived: Vec<usize> = arrived.collect();
        ring.join().unwrap();
        assert!(arrived.iter().all(|count| *count > 10), "{arrived:?}");
        assert_eq!(arrived.iter().sum::<usize>(), 100);
    }

    #[test]
    fn survivors_are_given_whole_listeners_only() {
        let kept = sort(named(&WHOLE[..10])).unwrap();
        let ids: Vec<u32> = kept
            .whole_listeners(2)
            .iter()
            .map(|found| found.id)
            .collect();
        assert_eq!(ids, [3]);
    }
}
