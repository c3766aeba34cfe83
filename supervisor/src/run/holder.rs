//! Who holds a UDP port or a Unix socket, as far as `/proc` tells.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// What a worker process calls itself.
pub(crate) const WORKER: &str = "tandem-worker";

/// Inodes that are looked for; a group of another server has one per worker.
const INODES_MAX: usize = 256;

pub(crate) fn of_udp(address: SocketAddr) -> Option<Holder> {
    let inodes = udp_inodes(|bound| is_in_the_way(bound, address));
    if inodes.is_empty() {
        return None;
    }
    let names: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let pids = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| holds(*pid, &names))
        .min()
        .map(|pid| Holder {
            pid,
            name: name_of(pid),
        })
}

/// Whether a socket other than these, by inode, is bound to just this address. It need not be a process's any more: the kernel takes the ring
/// of a dead worker down after its process, and the ring holds its sockets.
pub(crate) fn others_at(address: SocketAddr, known: &[u64]) -> bool {
    let inodes = udp_inodes(|bound| bound == address);
    inodes.iter().any(|inode| !known.contains(inode))
}

/// Same port, and the same address or all of them on either side.
fn is_in_the_way(bound: SocketAddr, address: SocketAddr) -> bool {
    let (one, other) = (bound.ip(), address.ip());
    bound.port() == address.port()
        && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// Inodes of the UDP sockets whose address is `wanted`.
fn udp_inodes(wanted: impl Fn(SocketAddr) -> bool) -> Vec<u64> {
    ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|table| inodes_in(&table, &wanted))
        .take(INODES_MAX)
        .collect()
}

fn inodes_in(table: &str, wanted: impl Fn(SocketAddr) -> bool) -> Vec<u64> {
    let line = |line: &str| {
        let mut columns = line.split_whitespace();
        let (host, port) = columns.nth(1)?.split_once(':')?;
        let bound = SocketAddr::new(ip(host)?, u16::from_str_radix(port, 16).ok()?);
        columns.nth(7)?.parse().ok().filter(|_| wanted(bound))
    };
    table.lines().filter_map(line).collect()
}

/// An address as `/proc/net` prints it: 32-bit words in the machine's byte order.
fn ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16)
            .ok()
            .map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

fn holds(pid: u32, names: &[String]) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries.flatten().any(|entry| {
        fs::read_link(entry.path())
            .is_ok_and(|target| names.iter().any(|name| target.as_os_str() == name.as_str()))
    })
}

/// Processes that hold the listening Unix socket of this path.
pub(crate) fn of_unix(path: &Path) -> Vec<u32> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let names: Vec<String> = unix_inodes_in(&table, path)
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if names.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut pids: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| holds(*pid, &names))
        .collect();
    pids.sort_unstable();
    pids
}

/// Workers among them, by the name that they give themselves: others may hold it too, such as the service manager.
pub(crate) fn workers_of_unix(path: &Path) -> Vec<u32> {
    let mut pids = of_unix(path);
    pids.retain(|pid| name_of(*pid) == WORKER);
    pids
}

fn unix_inodes_in(table: &str, path: &Path) -> Vec<u64> {
    // The table has the path as it was bound, which may have been a relative one.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let line = |line: &str| {
        let mut columns = line.split_whitespace();
        let inode = columns.nth(6)?.parse().ok()?;
        let found = Path::new(columns.next()?);
        (found == path || found == absolute).then_some(inode)
    };
    table.lines().filter_map(line).collect()
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 0100007F:13C4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 111 2 0000000000000000 0
  101: 00000000:13C5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 222 2 0000000000000000 0
";

    #[cfg(target_endian = "little")]
    #[test]
    fn sockets_in_the_way_are_found() {
        for (address, inodes) in [
            ("127.0.0.1:5060", vec![111]),
            ("0.0.0.0:5060", vec![111]),
            ("127.0.0.2:5060", vec![]),
            ("127.0.0.2:5061", vec![222]),
            ("127.0.0.1:5062", vec![]),
        ] {
            let address = address.parse().unwrap();
            let found = inodes_in(TABLE, |bound| is_in_the_way(bound, address));
            assert_eq!(found, inodes, "{address}");
        }
        assert!(inodes_in("garbage\n : x:y", |_| true).is_empty());
    }

    #[test]
    fn our_own_socket_is_ours() {
        let socket = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let holder = of_udp(socket.local_addr().unwrap()).unwrap();
        assert_eq!(holder.pid, std::process::id());
    }

    #[test]
    fn who_waits_on_a_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adopt");
        assert!(of_unix(&path).is_empty());
        let listener = os::seqpacket_listen(&path).unwrap();
        assert_eq!(of_unix(&path), [std::process::id()]);
        drop(listener);
        assert!(of_unix(&path).is_empty());
    }
}
