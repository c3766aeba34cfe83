//! What a configuration says, once read and checked: plain data that travels to the workers in a memfd.
//!
//! Units are in the types (`Duration`) or in the names; what each key means to an operator is told once,
//! in [`crate::keys`].

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use control::{CodecError, Kind, Message};
use serde::{Deserialize, Serialize};

pub use crate::caller::Caller;
pub use crate::calls::{CallLimits, Calls, DomainCalls, Profile};
pub use crate::cdr::{CDR_FIELDS, RecordFormat, Records};
pub use crate::group::{DESTINATIONS_MAX, Destination, Group, HashOf, Passive, Policy, Probe};
pub use crate::media::{Media, MediaEngine, MediaSide, OnMediaFailure};
pub use crate::nat::{Nat, NatDetection};
pub use crate::period::{Date, Dates, Hours, Period};
pub use crate::prefix_table::PrefixTable;
pub use crate::topology::{Hiding, KEY_BYTES, Topology, UnknownHeaders};

/// Most slots of one server: workers times reactors.
pub const SLOTS_MAX: u16 = 256;
/// Most worker processes: each has a place in the arena, beside those of the spares and helpers.
pub const WORKERS_MAX: u16 = 125;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub listen: Vec<Listen>,
    pub workers: Workers,
    pub memory: Memory,
    pub registrar: Registrar,
    pub limits: Limits,
    pub proxy: Proxy,
    pub overload: Overload,
    pub timers: Timers,
    pub authentication: Authentication,
    pub dns: Dns,
    pub records: Records,
    pub nat: Nat,
    pub users: Vec<User>,
    /// Not of the file: users of `tandem user`, by domain and name. Where `users` has the same, that one counts.
    pub stored: Vec<StoredUser>,
    pub domains: Vec<Domain>,
    pub groups: Vec<Group>,
    pub calls: Calls,
    pub profiles: Vec<Profile>,
    pub media: Vec<Media>,
    pub callers: Vec<Caller>,
    pub periods: Vec<Period>,
    pub prefix_tables: Vec<PrefixTable>,
    pub topology: Topology,
    /// First match wins; what none matches goes to [`Config::fallback`].
    pub routes: Vec<Route>,
}

impl Config {
    /// Slots of the whole server.
    pub fn slots(&self) -> u16 {
        self.workers.count.saturating_mul(self.workers.reactors)
    }

    /// The domain of this name; host names compare without case (RFC 3261 §19.1.4).
    pub fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains
            .iter()
            .find(|domain| domain.name.eq_ignore_ascii_case(name))
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }

    pub fn media(&self, name: &str) -> Option<&Media> {
        self.media.iter().find(|media| media.name == name)
    }

    pub fn prefix_table(&self, name: &str) -> Option<&PrefixTable> {
        self.prefix_tables.iter().find(|table| table.name == name)
    }

    /// Where a request goes that no route matches: to the bindings of a served domain; a request for
    /// anybody else's is refused with 403, since a proxy that relays for everyone will be abused.
    pub fn fallback(domain_is_served: bool) -> Target {
        if domain_is_served {
            Target::Location
        } else {
            Target::Reject(403)
        }
    }

    /// One frame, for a memfd.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        control::encode(self)
    }

    /// Reads what [`Config::encode`] wrote.
    pub fn decode(frame: &[u8]) -> Result<Self, CodecError> {
        control::decode(frame)
    }
}

impl Message for Config {
    const KIND: Kind = Kind::Config;
    const BYTES_MAX: usize = control::codec::CONFIG_BYTES_MAX;
}

/// `[[listen]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Port 0 takes any free port.
    pub address: SocketAddr,
    pub transports: Vec<Transport>,
    pub spread: Spread,
    /// `HOST` or `HOST:PORT` for Via and Record-Route in place of `address`.
    pub advertise: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    Udp,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
        }
    }
}

/// How datagrams spread over the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spread {
    /// By the kernel's hash of source and destination: one source stays with one slot.
    Flow,
    /// Each datagram anywhere.
    Datagram,
}

impl Spread {
    pub fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Datagram => "datagram",
        }
    }
}

/// `[workers]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// Worker processes, the warm spare not counted.
    pub count: u16,
    /// Reactor threads, and so slots, of each worker process.
    pub reactors: u16,
    pub pin: Pin,
    /// How long an idle reactor polls before it sleeps. Unit: microseconds.
    pub spin_us: u32,
    /// How long a slot may leave its doorbell unanswered.
    pub hang_timeout: Duration,
    /// Account that workers drop to; `None` keeps the supervisor's.
    pub user: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pin {
    /// Threads run wherever the scheduler puts them.
    None,
    /// Slot n to the nth core that the process may use; nothing is pinned where there are fewer cores than slots.
    Auto,
    /// Slot n to the nth core of this list; as long as there are slots.
    List(Vec<u16>),
}

/// `[memory]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Size limit of the arena. Unit: bytes.
    pub limit: u64,
    pub huge_pages: HugePages,
    /// Time between two snapshots; `None`: none are taken, and none is read at the start.
    pub snapshot: Option<Duration>,
}

/// `memory.huge_pages`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// `false`
    Off,
    /// `"auto"`
    #[default]
    Auto,
    /// `true`
    Required,
}

/// `[registrar]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registrar {
    pub expires_default: Duration,
    pub expires_min: Duration,
    pub expires_max: Duration,
    /// Bindings of one address-of-record.
    pub bindings_max: u16,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Targets that one request is forked to.
    pub branches_max: u16,
    /// How long a message that workers died of is dropped.
    pub quarantine_ttl: Duration,
}

/// `[proxy]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    pub fork: Fork,
    pub serial_timeout: Duration,
    pub hop_timeout: Duration,
    /// Status codes that send a request to the next hop.
    pub failover_codes: Vec<u16>,
    /// Unit: bytes.
    pub udp_request_max: u16,
}

/// `proxy.fork`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fork {
    ByQ,
    AtOnce,
}

/// `[overload]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overload {
    /// Percent of a slot's time; 100: no control.
    pub occupancy: u16,
    /// Requests outside dialogs that one address may send a slot in a second; 0: no limit.
    pub source_rate: u32,
    pub retry_after: Duration,
}

/// `[timers]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    pub t1: Duration,
    pub t2: Duration,
    pub t4: Duration,
    pub c: Duration,
}

/// `[auth]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authentication {
    /// Offered in any case, strongest first; at least one.
    pub algorithms: Vec<DigestAlgorithm>,
    pub auth_int: bool,
    pub qop: QopRule,
    pub nonce_lifetime: Duration,
    pub uri: UriRule,
    /// Failures of a user at an address until it is refused there; 0: any number.
    pub failures: u8,
    /// Failures of an address until it is refused; 0: any number.
    pub failures_address: u8,
    pub window: Duration,
    pub ban: Duration,
    pub banned: Banned,
}

/// RFC 8760 §2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DigestAlgorithm {
    Sha512_256,
    Sha256,
    Md5,
}

/// `auth.qop`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QopRule {
    Optional,
    Required,
}

/// `auth.uri`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UriRule {
    Loose,
    Strict,
    Off,
}

/// `auth.banned`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Banned {
    Reject,
    Drop,
}

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `None`: those of the system.
    pub servers: Option<Vec<SocketAddr>>,
    /// How long one server is waited for; `None`: as the system says, or 1 s.
    pub timeout: Option<Duration>,
    /// How often each server is asked; `None`: as the system says, or twice.
    pub attempts: Option<u8>,
    /// Another server first each time; `None`: as the system says.
    pub rotate: Option<bool>,
    /// How long a request waits for the address of its next hop.
    pub deadline: Duration,
    /// The hosts file; `None`: there is none.
    pub hosts: Option<String>,
    /// IPv6 addresses of a host before its IPv4 addresses.
    pub prefer_v6: bool,
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    pub negative_ttl_max: Duration,
    /// How long an answer that has ended is used when no server answers.
    pub stale_max: Duration,
    /// Answers that each slot keeps.
    pub cache_entries_max: u32,
    /// Resolutions under way in each slot; a source may have as many as there are places free.
    pub pending_max: u32,
    /// How long a hop that did not answer is tried last.
    pub blacklist: Duration,
}

/// `[[user]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User part, with case.
    pub name: String,
    /// Domain in lower case: the realm of the digest.
    pub domain: String,
    pub secret: Secret,
    /// User parts of the domain that he may register and call by besides his own; `*` is every one.
    pub identities: Vec<String>,
}

/// A user of `tandem user`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredUser {
    /// As of [`User`].
    pub name: String,
    /// As of [`User`].
    pub domain: String,
    /// As of [`User`].
    pub identities: Vec<String>,
    pub secrets: StoredSecrets,
}

/// HA1 by algorithm (RFC 7616 §3.4.2).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSecrets {
    pub md5: Option<Ha1Pair<[u8; 16]>>,
    pub sha256: Option<Ha1Pair<[u8; 32]>>,
    pub sha512_256: Option<Ha1Pair<[u8; 32]>>,
}

/// The HA1 of `NAME`, and that of `NAME@DOMAIN`, if it is known.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ha1Pair<T> {
    pub short: T,
    pub full: Option<T>,
}

impl StoredSecrets {
    /// The algorithms that there is one for, as phones call them.
    pub fn algorithms(&self) -> Vec<&'static str> {
        [
            (self.sha512_256.is_some(), "SHA-512-256"),
            (self.sha256.is_some(), "SHA-256"),
            (self.md5.is_some(), "MD5"),
        ]
        .into_iter()
        .filter_map(|(there, name)| there.then_some(name))
        .collect()
    }
}

impl fmt::Debug for StoredSecrets {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredSecrets({:?})", self.algorithms())
    }
}

/// What a digest is checked against.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Secret {
    Password(String),
    /// MD5 of `user:realm:password` (RFC 7616 §3.4.2).
    Ha1([u8; 16]),
    /// SHA-256 of `user:realm:password` (RFC 7616 §3.4.2).
    Ha1Sha256([u8; 32]),
    /// SHA-512-256 of `user:realm:password` (RFC 7616 §3.4.2).
    Ha1Sha512_256([u8; 32]),
}

impl fmt::Debug for Secret {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(…)",
            Self::Ha1(_) => "Ha1(…)",
            Self::Ha1Sha256(_) => "Ha1Sha256(…)",
            Self::Ha1Sha512_256(_) => "Ha1Sha512_256(…)",
        })
    }
}

/// `[[domain]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Host name or address, lower case, an IPv6 address in brackets.
    pub name: String,
    pub auth: Auth,
    pub record_route: bool,
    /// Redirections of its users are followed by the proxy.
    pub recurse: bool,
    /// The `[[media]]` of its calls.
    pub media: Option<String>,
    pub calls: DomainCalls,
    /// Whether its calls are hidden; `None`: nothing is said.
    pub topology_hiding: Option<Hiding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Auth {
    None,
    Digest,
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub matches: Match,
    pub to: Target,
    /// Redirections of what it leads to are followed by the proxy.
    pub recurse: bool,
    /// The `[[media]]` of calls that it leads.
    pub media: Option<String>,
    /// The `[[profile]]` that they count in.
    pub profile: Option<String>,
    /// Whether calls that it leads are hidden.
    pub topology_hiding: Option<Hiding>,
}

/// What a request must be for its route; `None` is anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Host of the Request-URI, lower case.
    pub domain: Option<String>,
    /// Method, with case.
    pub method: Option<String>,
    /// Regular expression on the user part of the Request-URI; found anywhere in it unless anchored.
    pub user: Option<String>,
    /// Network that the request came from.
    pub source: Option<Network>,
    /// The `[[caller]]` that the request is of.
    pub caller: Option<String>,
}

impl Match {
    /// Nothing is asked, so every request matches.
    pub fn is_anything(&self) -> bool {
        *self == Self::default()
    }
}

/// A network in CIDR notation; a single address is one with all bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub address: IpAddr,
    pub prefix_bits: u8,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The bindings of the Request-URI's address-of-record.
    Location,
    /// The next destination of this group.
    Group(String),
    /// Where the `[[prefix_table]]` of this name leads the number; on to the next route if nowhere.
    Prefix(String),
    /// This URI becomes the Request-URI.
    Uri(String),
    /// Answered with this status code.
    Reject(u16),
    /// Where the Request-URI itself points.
    Dns,
}
