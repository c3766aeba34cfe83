//! What the machine is configured with. One value is one version of the configuration, and a transaction keeps the one that it began with.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use auth::{Algorithm, Algorithms};
use sip::uri::{Host, Uri};
use stdx::hash::Key;
use tables::attempts::Limit;
use transaction::Timers;

use crate::addresses::{Addresses, Interface};
use crate::media::MediaSet;

/// One version of the configuration, as the machine needs it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Counts reloads.
    pub version: u64,
    pub listeners: Vec<Listener>,
    /// For listeners on all of them.
    pub addresses: Addresses,
    pub domains: Vec<Domain>,
    pub timers: Timers,
    /// Timer C (§16.6 step 11): how long a branch may ring; more than 3 minutes by the RFC.
    pub timer_c: Duration,
    pub registrar: registrar::Policy,
    pub auth: AuthPolicy,
    /// Seals dialogs (see `dialog`); outlives the arena, and its key.
    pub dialog_key: Key,
    /// Most targets of one request, those of redirections included.
    pub branches_max: usize,
    pub forking: Forking,
    /// Every `[[media]]`.
    pub media: Vec<Arc<MediaSet>>,
    pub hiding: crate::hidden::Hiding,
}

/// How a request goes from one target or hop to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forking {
    /// Targets of less q wait for those of more (§16.6); otherwise all are tried at once.
    pub by_q: bool,
    /// How long targets of one q may ring while others wait.
    pub serial_timeout: Duration,
    /// How long a hop may be silent while the target has others.
    pub hop_timeout: Duration,
    /// Final responses with which a hop sends us to the next one (RFC 3263 §4.3).
    pub failover_codes: Vec<u16>,
    /// Bytes of a request over UDP, at most: a longer one is not sent to this hop (§18.1.1).
    pub udp_request_max: usize,
}

impl Default for Forking {
    fn default() -> Self {
        Self {
            by_q: true,
            serial_timeout: Duration::from_secs(20),
            hop_timeout: Duration::from_secs(4),
            failover_codes: vec![503],
            udp_request_max: usize::from(u16::MAX),
        }
    }
}

/// How users prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthPolicy {
    /// What is offered to everybody, strongest first.
    pub algorithms: Algorithms,
    /// Offer `auth-int` as well; taken it is in any case.
    pub auth_int: bool,
    /// Take nobody who answers as in RFC 2069, without `qop`.
    pub qop_required: bool,
    pub nonce_lifetime: Duration,
    pub uri: UriCheck,
    /// `None`: everybody may fail as often as he likes.
    pub throttle: Option<Throttle>,
}

impl Default for AuthPolicy {
    fn default() -> Self {
        Self {
            algorithms: Algorithms::NONE.with(Algorithm::Md5),
            auth_int: false,
            qop_required: false,
            nonce_lifetime: Duration::from_secs(300),
            uri: UriCheck::Loose,
            throttle: None,
        }
    }
}

/// What is asked of the `uri` that credentials name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UriCheck {
    /// Equivalent to the Request-URI (§19.1.4).
    Strict,
    /// The same user, if both have one, at the same host or at one of our own.
    Loose,
    Off,
}

/// When failures to prove who one is are enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Failures of one user from one address; 254 at most, 0: any number.
    pub failures: u8,
    /// Failures of one address; 254 at most, 0: any number.
    pub failures_address: u8,
    /// Within this time.
    pub window: Duration,
    /// For this time.
    pub ban: Duration,
    /// Not even answered.
    pub silent: bool,
}

impl Throttle {
    pub(crate) fn of_user(&self) -> Limit {
        Limit {
            failures: self.failures,
            window: self.window,
            ban: self.ban,
        }
    }

    pub(crate) fn of_address(&self) -> Limit {
        Limit {
            failures: self.failures_address,
            ..self.of_user()
        }
    }
}

/// A local address that we receive on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Given by the supervisor, never used twice.
    pub id: u32,
    pub address: SocketAddr,
    /// The host, or host:port, for Via and Record-Route.
    pub sent_by: Vec<u8>,
    /// The host part of `sent_by`, lower case.
    pub host: Vec<u8>,
    /// The port that `sent_by` means.
    pub port: u16,
    /// What it is called by was chosen for it.
    pub advertised: bool,
}

impl Listener {
    /// A listener that names itself by `advertise` (a host or host:port), or else by its address.
    pub fn new(id: u32, address: SocketAddr, advertise: Option<&str>) -> Self {
        let (host, port) = match advertise {
            Some(name) => split_port(name),
            None => (address.ip().to_string(), Some(address.port())),
        };
        let host = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]")
        } else {
            host
        };
        let port = port.unwrap_or_else(|| address.port());
        let sent_by = format!("{host}:{port}").into_bytes();
        Self {
            id,
            address,
            sent_by,
            host: host.to_ascii_lowercase().into_bytes(),
            port,
            advertised: advertise.is_some(),
        }
    }

    /// Bound to every address of this machine.
    pub fn is_everywhere(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    /// Called by whatever address of this machine a message comes to or leaves from.
    pub fn is_nameless(&self) -> bool {
        self.is_everywhere() && !self.advertised
    }
}

/// `host`, `host:port`, `[v6]:port` apart.
fn split_port(name: &str) -> (String, Option<u16>) {
    match name.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host.to_owned(), Some(port)),
            Err(_) => (name.to_owned(), None),
        },
        _ => (name.to_owned(), None),
    }
}

/// A domain that we are responsible for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Lower case, no trailing dot.
    pub name: Vec<u8>,
    /// The name, where it is an address.
    pub ip: Option<IpAddr>,
    /// Whether dialogs begun for this domain keep passing through us (§16.6 step 4).
    pub record_route: bool,
    /// Whether redirections of its users are followed here (§16.7 step 4) rather than left to the caller.
    pub recurse: bool,
}

impl Domain {
    pub fn new(name: &str, record_route: bool) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let ip = name.trim_matches(['[', ']']).parse().ok();
        Self {
            name: name.into_bytes(),
            ip,
            record_route,
            recurse: false,
        }
    }

    /// Follows redirections.
    pub fn recursing(self, recurse: bool) -> Self {
        Self { recurse, ..self }
    }
}

/// The port of a sip: URI that names none (§19.1.2).
pub const PORT_DEFAULT: u16 = 5060;

impl Settings {
    pub fn listener(&self, id: u32) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.id == id)
    }

    /// What to send by: the wanted listener if it can reach `to`, else the first that can.
    pub fn listener_towards(&self, to: &SocketAddr, wanted: Interface) -> Option<Interface> {
        let listener = self.reaching(to, wanted.id)?;
        Some(Interface {
            id: listener.id,
            ip: listener.is_everywhere().then_some(()).and_then(|()| {
                let wanted = wanted.ip.filter(|_| wanted.id == listener.id);
                self.addresses.source_for(to.ip(), wanted)
            }),
        })
    }

    fn reaching(&self, to: &SocketAddr, wanted: u32) -> Option<&Listener> {
        let family = |listener: &&Listener| listener.address.is_ipv4() == to.is_ipv4();
        let reaches = |listener: &&Listener| {
            family(listener) && (!listener.address.ip().is_loopback() || to.ip().is_loopback())
        };
        let wanted = self.listener(wanted);
        wanted
            .filter(reaches)
            .or_else(|| self.listeners.iter().find(reaches))
            // From loopback all addresses of this machine can be reached; which those are, the kernel knows.
            .or_else(|| wanted.filter(family))
            .or_else(|| self.listeners.iter().find(family))
    }

    /// Writes what a listener calls itself. One that a reload has taken away has no name any more.
    pub(crate) fn write_sent_by(&self, by: Interface, out: &mut impl Write) -> std::io::Result<()> {
        match self.listener(by.id) {
            None => out.write_all(b"invalid.invalid"),
            Some(listener) => match by.ip.filter(|_| listener.is_nameless()) {
                None => out.write_all(&listener.sent_by),
                Some(ip) => write!(out, "{}", SocketAddr::new(ip, listener.port)),
            },
        }
    }

    /// The domain of this name.
    pub fn domain(&self, name: &[u8]) -> Option<&Domain> {
        let name = name.strip_suffix(b".").unwrap_or(name);
        self.domains
            .iter()
            .find(|domain| domain.name.eq_ignore_ascii_case(name))
    }

    /// The listener that this host and port name: by its own address, by what it advertises, or by one of our domains.
    pub fn listener_named(&self, uri: &Uri<'_>) -> Option<&Listener> {
        let port = uri.port.unwrap_or(PORT_DEFAULT);
        self.listeners.iter().find(|listener| {
            uri.host
                .is_some_and(|host| self.names(listener, &host, port))
        })
    }

    /// Whether a Request-URI names this server itself: by a domain or a listener of ours, and no user.
    pub fn is_for_server(&self, uri: &Uri<'_>) -> bool {
        uri.user.is_none() && (self.domain_of(uri).is_some() || self.listener_named(uri).is_some())
    }

    /// As [`Settings::listener_named`], with the address that is named where the listener has several.
    pub fn interface_named(&self, uri: &Uri<'_>) -> Option<Interface> {
        let listener = self.listener_named(uri)?;
        let ip = uri.host.and_then(|host| host.address());
        Some(Interface {
            id: listener.id,
            ip: ip.filter(|&ip| listener.is_everywhere() && self.addresses.is_own(ip)),
        })
    }

    /// Whether the two call themselves by different names, or are different listeners.
    pub fn differ(&self, one: Interface, other: Interface) -> bool {
        one.id != other.id
            || one.ip != other.ip && self.listener(one.id).is_some_and(Listener::is_nameless)
    }

    /// Whether this host and port name this listener.
    pub fn names(&self, listener: &Listener, host: &Host<'_>, port: u16) -> bool {
        if port == listener.port && host_is(host, &listener.host) {
            return true;
        }
        if port != listener.address.port() {
            return false;
        }
        match *host {
            Host::V4(ip) => self.has(listener, ip.into()),
            Host::V6(ip) => self.has(listener, ip.into()),
            Host::Name(name) => self.domain(name).is_some(),
        }
    }

    /// Whether it receives what is sent to this address.
    fn has(&self, listener: &Listener, ip: IpAddr) -> bool {
        listener.address.ip() == ip
            || listener.is_everywhere()
                && listener.address.is_ipv4() == ip.is_ipv4()
                && self.addresses.is_own(ip)
    }

    /// The domain that a Request-URI belongs to, if it is ours to serve.
    pub fn domain_of(&self, uri: &Uri<'_>) -> Option<&Domain> {
        let port_is_ours = match uri.port {
            None => true,
            Some(port) => self
                .listeners
                .iter()
                .any(|listener| listener.port == port || listener.address.port() == port),
        };
        if !port_is_ours {
            return None;
        }
        let host = uri.host?;
        match host {
            Host::Name(name) => self.domain(name),
            _ => self
                .domains
                .iter()
                .find(|domain| domain.ip == host.address()),
        }
    }
}

fn host_is(host: &Host<'_>, text: &[u8]) -> bool {
    match *host {
        Host::Name(name) => name.eq_ignore_ascii_case(text),
        Host::V4(ip) => core::str::from_utf8(text).is_ok_and(|text| text.parse() == Ok(ip)),
        Host::V6(ip) => core::str::from_utf8(text)
            .is_ok_and(|text| text.trim_matches(['[', ']']).parse() == Ok(ip)),
    }
}
