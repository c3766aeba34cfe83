//! What the machine itself says about names: the hosts file and `resolv.conf`, read again when they change.
//!
//! Read by the control thread, never by a reactor: a file may lie on a disk that takes its time.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use config::Config;
use dns::{Hosts, Listed, ResolvConf};

/// How often the files are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(2);
/// More of a file is not read.
const BYTES_MAX: u64 = 16 << 20;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Of a name server whose port nobody names.
const PORT: u16 = 53;

/// The files, as they were read last.
pub(crate) struct Names {
    hosts_file: Watched,
    resolv_file: Watched,
    pub(crate) hosts: Arc<Hosts>,
    resolv_conf: ResolvConf,
}

/// A file, and by what one sees that it is another.
struct Watched {
    path: Option<PathBuf>,
    stamp: Option<Stamp>,
}

/// Inode, length, time of change. Unit of the time: ns.
type Stamp = (u64, u64, i64, i64);

impl Names {
    /// Reads the files that the configuration names; one that can't be read is empty.
    pub(crate) fn read(config: &Config) -> Self {
        let mut names = Self {
            hosts_file: Watched::new(config.dns.hosts.as_deref()),
            resolv_file: Watched::new(Some(RESOLV_CONF)),
            ..Self::none()
        };
        names.look();
        names
    }

    /// A machine that says nothing.
    pub(crate) fn none() -> Self {
        Self {
            hosts_file: Watched::new(None),
            resolv_file: Watched::new(None),
            hosts: Arc::default(),
            resolv_conf: ResolvConf::default(),
        }
    }

    /// Another configuration may name another file. What it names now is read anew.
    pub(crate) fn configure(&mut self, config: &Config) {
        let path = config.dns.hosts.as_deref().map(Path::new);
        if path != self.hosts_file.path.as_deref() {
            self.hosts = Arc::default();
            self.hosts_file = Watched::new(config.dns.hosts.as_deref());
        }
        self.look();
    }

    /// Reads what has changed; true if something has. A file that vanished or can't be read any more leaves what was read before.
    pub(crate) fn look(&mut self) -> bool {
        let hosts = self.hosts_file.changed();
        if let Some(text) = &hosts {
            self.hosts = Arc::new(Hosts::parse(text));
        }
        let resolv = self.resolv_file.changed();
        if let Some(text) = &resolv {
            self.resolv_conf = ResolvConf::parse(text);
        }
        hosts.is_some() || resolv.is_some()
    }

    /// The configuration with what it leaves to the system.
    pub(crate) fn settings(&self, config: &Config) -> dns::Settings {
        let (dns, system) = (&config.dns, &self.resolv_conf);
        let servers = match &dns.servers {
            Some(servers) => servers.clone(),
            None => system.servers.iter().filter_map(address).collect(),
        };
        let default = dns::Settings::default();
        dns::Settings {
            servers,
            timeout: dns.timeout.or(system.timeout).unwrap_or(default.timeout),
            attempts: dns.attempts.or(system.attempts).unwrap_or(default.attempts),
            rotate: dns.rotate.unwrap_or(system.rotate),
            // The caller gives up after 64*T1, and the next hop needs a part of that.
            deadline: dns.deadline.min(config.timers.t1 * 32),
            prefer_v6: dns.prefer_v6,
            ttl_min: dns.ttl_min,
            ttl_max: dns.ttl_max,
            negative_ttl_max: dns.negative_ttl_max,
            stale_max: dns.stale_max,
            cache_entries_max: dns.cache_entries_max as usize,
            pending_max: dns.pending_max as usize,
            blacklist: dns.blacklist,
        }
    }
}

/// `None` for a link-local address by an interface that is not there (any more).
fn address(server: &Listed) -> Option<SocketAddr> {
    let (IpAddr::V6(ip), Some(zone)) = (server.ip, &server.zone) else {
        return Some((server.ip, PORT).into());
    };
    let index = zone
        .parse()
        .ok()
        .or_else(|| nix::net::if_::if_nametoindex(zone.as_str()).ok())?;
    Some(SocketAddrV6::new(ip, PORT, 0, index).into())
}

impl Watched {
    fn new(path: Option<&str>) -> Self {
        Self {
            path: path.map(PathBuf::from),
            stamp: None,
        }
    }

    /// Its text, if that is another than the last time.
    fn changed(&mut self) -> Option<String> {
        let path = self.path.as_ref()?;
        let about = std::fs::metadata(path).ok()?;
        let stamp = (about.ino(), about.len(), about.mtime(), about.mtime_nsec());
        if self.stamp == Some(stamp) || about.len() > BYTES_MAX || !about.is_file() {
            return None;
        }
        match std::fs::read(path) {
            Ok(bytes) => {
                self.stamp = Some(stamp);
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            Err(error) => {
                if self.stamp.is_some() {
                    tracing::warn!(path = %path.display(), %error, "a changed file can't be read");
                }
                self.stamp = Some(stamp);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_hosts_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        let text = format!("[dns]\nservers = []\nhosts = '{}'\n", file.display());
        let config = config::load(&text, "test").unwrap().0;
        let mut names = Names::read(&config);
        assert!(names.hosts.lookup("a.example").is_empty(), "no file yet");
        std::fs::write(&file, "192.0.2.1 a.example\n").unwrap();
        assert!(names.look());
        assert_eq!(names.hosts.lookup("a.example").len(), 1);
        assert!(!names.look(), "nothing new");
        std::fs::write(&file, "192.0.2.1 a.example\n192.0.2.2 a.example\n").unwrap();
        assert!(names.look());
        assert_eq!(names.hosts.lookup("a.example").len(), 2);
        std::fs::remove_file(&file).unwrap();
        assert!(!names.look());
        assert_eq!(names.hosts.lookup("a.example").len(), 2, "kept");
    }

    #[test]
    fn the_systems_servers_of_both_families() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let text = "nameserver ::1\nnameserver 192.0.2.53\nnameserver fe80::53%lo\nnameserver fe80::53%7\n\
                    nameserver fe80::53%nosuchif0\nnameserver 2001:db8::53\n";
        std::fs::write(&file, text).unwrap();
        let mut names = Names {
            resolv_file: Watched::new(file.to_str()),
            ..Names::none()
        };
        assert!(names.look());
        let config = config::load("", "test").unwrap().0;
        let servers = names.settings(&config).servers;
        let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "[::1]:53",
                "192.0.2.53:53",
                "[fe80::53%1]:53",
                "[fe80::53%7]:53",
                "[2001:db8::53]:53"
            ]
        );
        // The configuration's go before.
        let own = "[dns]\nservers = ['::1', '[2001:db8::1]:5353', '192.0.2.1']\n";
        let config = config::load(own, "test").unwrap().0;
        let servers = names.settings(&config).servers;
        let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["[::1]:53", "[2001:db8::1]:5353", "192.0.2.1:53"]);
    }

    #[test]
    fn the_deadline_leaves_time_to_the_next_hop() {
        let config = config::load("[timers]\nt1 = '10ms'\n[dns]\nservers = []\n", "test");
        let config = config.unwrap().0;
        let settings = Names::read(&config).settings(&config);
        assert_eq!(settings.deadline, Duration::from_millis(320));
        assert!(settings.servers.is_empty());
    }
}
