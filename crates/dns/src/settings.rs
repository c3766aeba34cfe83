//! What an operator decides.

use std::{net::SocketAddr, time::Duration};

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// In the order in which they are asked; none: only the hosts file knows names.
    pub servers: Vec<SocketAddr>,
    /// How long one server is waited for.
    pub timeout: Duration,
    /// How often each server is asked one question.
    pub attempts: u8,
    /// Begin with another server each time.
    pub rotate: bool,
    /// When the whole resolution ends, with what is known by then.
    pub deadline: Duration,
    /// IPv6 addresses before IPv4 addresses of the same host.
    pub prefer_v6: bool,
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    /// Longest time that something is taken not to exist.
    pub negative_ttl_max: Duration,
    /// How long after its end an answer is used if nobody can be asked (RFC 8767).
    pub stale_max: Duration,
    pub cache_entries_max: usize,
    /// Resolutions under way; a source may have as many as there are places free.
    pub pending_max: usize,
    /// How long a dead hop is tried last; zero: it is not remembered.
    pub blacklist: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(1),
            attempts: 2,
            rotate: false,
            deadline: Duration::from_secs(5),
            prefer_v6: false,
            ttl_min: Duration::from_secs(5),
            ttl_max: Duration::from_secs(3600),
            negative_ttl_max: Duration::from_secs(60),
            stale_max: Duration::from_secs(3600),
            cache_entries_max: 10_000,
            pending_max: 20_000,
            blacklist: Duration::from_secs(30),
        }
    }
}

/// Address families that can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}
