//! RFC 3263 as a function: from what is wanted and what is known to hops, or to what must be asked next.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::rr::Name;
use stdx::Rng;

use crate::{
    cache::Known,
    facts::Facts,
    hosts::Hosts,
    order,
    settings::Families,
    wire::{self, Data, Kind, Question, Service},
};

/// Where a URI without a port leads if no SRV record says otherwise (RFC 3261 §19.1.2).
pub const PORT_DEFAULT: u16 = 5060;
/// Hops of one answer.
pub const HOPS_MAX: usize = 16;
/// Targets of SRV records that are looked up for one resolution.
const TARGETS_MAX: usize = 8;
/// Replacements of NAPTR records that are followed for one resolution.
const POINTERS_MAX: usize = 4;

/// The parts of a URI that say where it leads (RFC 3263 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'t> {
    /// maddr in place of the host, if there is one.
    pub host: Host<'t>,
    pub port: Option<u16>,
    /// The `transport` parameter.
    pub transport: Option<&'t [u8]>,
    /// A SIPS URI.
    pub secure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'t> {
    Ip(IpAddr),
    /// As it stands in the URI.
    Name(&'t [u8]),
}

/// What SRV records say of a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    pub hop: SocketAddr,
    /// Lower ones first; 0 without SRV records.
    pub priority: u16,
    /// Its part of its name's weight, which all addresses of the name share evenly. Unit: thousandths; without SRV records the name has the weight 1.
    pub share: u32,
}

/// Why there is no hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No such name, or no address that there is a listener for.
    NotFound,
    /// No server could tell in time.
    Failed,
    /// Only transports that we do not speak lead there.
    Transport,
    /// Too many resolutions are under way.
    Busy,
}

/// A target that has to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) host: Name,
    port: Option<u16>,
    /// UDP is asked for by name.
    udp: bool,
}

impl Wanted {
    /// What can be said without knowing anything comes as the error.
    pub(crate) fn new(
        target: &Target<'_>,
        families: Families,
    ) -> Result<Self, Result<SocketAddr, Reason>> {
        // TLS, which SIPS and its SRV records need, is no transport of ours yet.
        let udp = match target.transport {
            Some(transport) if transport.eq_ignore_ascii_case(b"udp") => true,
            Some(_) => return Err(Err(Reason::Transport)),
            None => false,
        };
        if target.secure {
            return Err(Err(Reason::Transport));
        }
        match target.host {
            Host::Ip(ip) if families.has(ip) => {
                let port = target.port.unwrap_or(PORT_DEFAULT);
                Err(Ok(SocketAddr::new(ip, port)))
            }
            Host::Ip(_) => Err(Err(Reason::NotFound)),
            Host::Name(name) => Ok(Self {
                host: wire::host_name(name).ok_or(Err(Reason::NotFound))?,
                port: target.port,
                udp,
            }),
        }
    }
}

impl Families {
    fn has(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

/// What follows from what is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Best first, as far as they are known.
    pub(crate) hops: Vec<SocketAddr>,
    /// Of every hop, in their order, if ranks are wanted.
    pub(crate) ranks: Vec<Rank>,
    /// No server failed to answer a question on the way.
    pub(crate) whole: bool,
    /// What else must be known.
    pub(crate) missing: Vec<Question>,
    /// Nothing that is missing can bring a better first hop than another address of the same host.
    pub(crate) best_known: bool,
    /// Why there is no hop, once nothing is missing.
    pub(crate) reason: Reason,
}

impl Plan {
    pub(crate) fn none(reason: Reason) -> Self {
        Self {
            hops: Vec::new(),
            ranks: Vec::new(),
            whole: true,
            missing: Vec::new(),
            best_known: false,
            reason,
        }
    }

    /// An address needs no plan.
    pub(crate) fn of(hop: SocketAddr) -> Self {
        Self {
            hops: vec![hop],
            ..Self::none(Reason::NotFound)
        }
    }
}

/// What a plan is made from.
pub(crate) struct Sight<'s> {
    pub(crate) facts: &'s Facts,
    pub(crate) hosts: &'s Hosts,
    pub(crate) families: Families,
    pub(crate) prefer_v6: bool,
    /// Equal seeds choose equally among equals, so that an ACK takes the way of its INVITE (RFC 3263 §4.4).
    pub(crate) seed: u64,
    /// Whether ranks are wanted.
    pub(crate) ranked: bool,
}

/// A name that addresses are looked up for.
struct Place {
    name: Name,
    port: u16,
    priority: u16,
    weight: u16,
}

impl Place {
    /// Of no SRV record.
    fn plain(name: Name, port: u16) -> Self {
        Self {
            name,
            port,
            priority: 0,
            weight: 1,
        }
    }
}

enum Services {
    /// In order.
    These(Vec<Place>),
    Missing(Question),
    None(Reason),
}

impl Sight<'_> {
    pub(crate) fn plan(&self, wanted: &Wanted) -> Plan {
        let mut plan = Plan::none(Reason::NotFound);
        let mut rng = Rng::new(self.seed);
        // The operator's own word about a name goes before all that others say, SRV records included.
        let own = self.own(&wanted.host);
        let services = if own.is_some() {
            let port = wanted.port.unwrap_or(PORT_DEFAULT);
            Services::These(vec![Place::plain(wanted.host.clone(), port)])
        } else {
            self.services(wanted, &mut rng, &mut plan.whole)
        };
        let services = match services {
            Services::These(services) => services,
            Services::Missing(question) => {
                plan.missing.push(question);
                return plan;
            }
            Services::None(reason) => {
                plan.reason = reason;
                return plan;
            }
        };
        for place in services.into_iter().take(TARGETS_MAX) {
            let certain = plan.missing.is_empty();
            let mut addresses = self.addresses(&place.name, &mut plan);
            order::shuffle(&mut addresses, &mut rng);
            addresses.sort_by_key(|ip| ip.is_ipv6() != self.prefer_v6);
            plan.best_known |= certain && !addresses.is_empty() && plan.hops.is_empty();
            let all = u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
            for ip in addresses {
                let hop = SocketAddr::new(ip, place.port);
                if plan.hops.len() < HOPS_MAX && !plan.hops.contains(&hop) {
                    plan.hops.push(hop);
                    if self.ranked {
                        plan.ranks.push(Rank {
                            hop,
                            priority: place.priority,
                            share: u32::from(place.weight) * 1000 / all,
                        });
                    }
                }
            }
        }
        plan
    }

    fn get(&self, name: &Name, kind: Kind) -> Result<&Known, Question> {
        let question = Question {
            name: name.clone(),
            kind,
        };
        self.facts.get(&question).ok_or(question)
    }

    /// Which services to look for (RFC 3263 §4.1 and §4.2).
    fn services(&self, wanted: &Wanted, rng: &mut Rng, whole: &mut bool) -> Services {
        if let Some(port) = wanted.port {
            return Services::These(vec![Place::plain(wanted.host.clone(), port)]);
        }
        let own: Vec<Name> = wire::service_name("_udp", &wanted.host)
            .into_iter()
            .collect();
        let names = if wanted.udp {
            own
        } else {
            match self.get(&wanted.host, Kind::Naptr) {
                Err(question) => return Services::Missing(question),
                Ok(Known::Data(data)) => match &**data {
                    Data::Pointers(list) if !list.is_empty() => {
                        let udp: Vec<Name> = order::pointers(list)
                            .into_iter()
                            .filter(|pointer| pointer.service == b"SIP+D2U")
                            .map(|pointer| pointer.replacement.clone())
                            .take(POINTERS_MAX)
                            .collect();
                        if udp.is_empty() {
                            return Services::None(Reason::Transport);
                        }
                        udp
                    }
                    // Other people's NAPTR records.
                    _ => own,
                },
                Ok(Known::Nothing) => own,
                Ok(Known::Failed) => {
                    *whole = false;
                    own
                }
            }
        };
        for name in names {
            let data = match self.get(&name, Kind::Srv) {
                Err(question) => return Services::Missing(question),
                Ok(Known::Data(data)) => data,
                Ok(Known::Nothing) => continue,
                Ok(Known::Failed) => {
                    *whole = false;
                    continue;
                }
            };
            let Data::Services(list, _) = &**data else {
                continue;
            };
            let list: Vec<Service> = list
                .iter()
                .filter(|service| !service.target.is_root() && service.port != 0)
                .cloned()
                .collect();
            if list.is_empty() {
                // A target of "." says that the service is decidedly not here (RFC 2782).
                return Services::None(Reason::NotFound);
            }
            let ordered = order::services(&list, rng).into_iter();
            return Services::These(
                ordered
                    .map(|service| Place {
                        name: service.target,
                        port: service.port,
                        priority: service.priority,
                        weight: service.weight,
                    })
                    .collect(),
            );
        }
        Services::These(vec![Place::plain(wanted.host.clone(), PORT_DEFAULT)])
    }

    /// Addresses of one host; asks for both families at once.
    fn addresses(&self, name: &Name, plan: &mut Plan) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = Vec::new();
        if let Some(own) = self.own(name) {
            all = own;
        } else {
            for (kind, on, of_family) in [
                (
                    Kind::A,
                    self.families.v4,
                    IpAddr::is_ipv4 as fn(&IpAddr) -> bool,
                ),
                (Kind::Aaaa, self.families.v6, IpAddr::is_ipv6),
            ] {
                if !on {
                    continue;
                }
                let hints: Vec<IpAddr> = self
                    .hints()
                    .filter(|(of, ip)| of == name && of_family(ip))
                    .map(|&(_, ip)| ip)
                    .collect();
                if !hints.is_empty() {
                    all.extend(hints);
                    continue;
                }
                match self.get(name, kind) {
                    Err(question) => plan.missing.push(question),
                    Ok(Known::Data(data)) => {
                        if let Data::Addresses(addresses) = &**data {
                            all.extend(addresses);
                        }
                    }
                    Ok(Known::Nothing) => {}
                    Ok(Known::Failed) => {
                        plan.whole = false;
                        plan.reason = Reason::Failed;
                    }
                }
            }
        }
        all.retain(|&ip| self.families.has(ip) && !is_nobody(ip));
        all
    }

    /// The addresses beside the services that this resolution has seen. Its questions are few.
    fn hints(&self) -> impl Iterator<Item = &(Name, IpAddr)> {
        self.facts.known().flat_map(|known| match known {
            Known::Data(data) => match &**data {
                Data::Services(_, hints) => hints.as_slice(),
                Data::Addresses(_) | Data::Pointers(_) => &[],
            },
            Known::Nothing | Known::Failed => &[],
        })
    }

    /// What needs no server: the hosts file, and the names of RFC 6761.
    fn own(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let text = name.to_ascii();
        let listed = self.hosts.lookup(&text);
        if !listed.is_empty() {
            return Some(listed.to_vec());
        }
        match name.iter().next_back()? {
            b"localhost" => Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
            b"invalid" => Some(Vec::new()),
            _ => None,
        }
    }
}

/// Addresses that are no single host's.
fn is_nobody(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}
