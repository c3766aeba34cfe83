//! Which of this machine's addresses a message leaves from, where a listener is bound to all of them (`0.0.0.0`, `[::]`).
//!
//! Responses leave from the address that the request was sent to (§18.2.2, RFC 3581 §4). A request leaves from the address that it came to, if that
//! is one of the interface that leads to the next hop, else from the one that the kernel would choose; Via and
//! Record-Route name it, so that what is named is what the other side sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A listener, and the address of this machine where it is bound to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interface {
    pub id: u32,
    /// `None`: the listener has one address, or it does not matter which.
    pub ip: Option<IpAddr>,
}

impl From<u32> for Interface {
    fn from(id: u32) -> Self {
        Self { id, ip: None }
    }
}

/// What is known of the machine's addresses; empty where no listener is bound to all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    own: Vec<(IpAddr, u32)>,
    /// Those of more bits first.
    sources: Vec<Source>,
}

/// What leaves for a network leaves from this address, if nothing else is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub network: IpAddr,
    pub prefix_bits: u8,
    pub source: IpAddr,
}

impl Addresses {
    /// The machine's addresses, each with the number of its interface, and the ways from them.
    pub fn new(own: Vec<(IpAddr, u32)>, mut sources: Vec<Source>) -> Self {
        sources.sort_by_key(|source| std::cmp::Reverse(source.prefix_bits));
        Self { own, sources }
    }

    /// Whether it is one of this machine's.
    pub fn is_own(&self, ip: IpAddr) -> bool {
        !self.own.is_empty() && (ip.is_loopback() || self.number(ip).is_some())
    }

    /// The address for what goes to `to`: the wanted one if it belongs to the interface that leads there. `None`: the kernel may choose.
    pub fn source_for(&self, to: IpAddr, wanted: Option<IpAddr>) -> Option<IpAddr> {
        let wanted = wanted.filter(|wanted| wanted.is_ipv4() == to.is_ipv4());
        let Some(usual) = self.usual_for(to) else {
            return wanted.filter(|wanted| !wanted.is_loopback());
        };
        match wanted {
            Some(wanted) if self.number(wanted) == self.number(usual) => Some(wanted),
            _ => Some(usual),
        }
    }

    fn usual_for(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            // To itself the machine speaks by the address that it speaks to.
            IpAddr::V4(ip) if ip.is_loopback() => Some(Ipv4Addr::LOCALHOST.into()),
            _ if self.is_own(to) => Some(to),
            _ => self
                .sources
                .iter()
                .find(|source| source.leads_to(to))
                .map(|source| source.source),
        }
    }

    /// Of the interface that has this address.
    fn number(&self, ip: IpAddr) -> Option<u32> {
        // All of 127.0.0.0/8 is ours.
        let listed = match ip {
            IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            _ => ip,
        };
        let own = self.own.iter().find(|(own, _)| *own == listed);
        own.map(|&(_, number)| number)
    }
}

impl Source {
    fn leads_to(&self, to: IpAddr) -> bool {
        let bits = u32::from(self.prefix_bits);
        match (self.network, to) {
            (IpAddr::V4(network), IpAddr::V4(to)) => {
                (network.to_bits() ^ to.to_bits()).leading_zeros() >= bits.min(Ipv4Addr::BITS)
            }
            (IpAddr::V6(network), IpAddr::V6(to)) => {
                (network.to_bits() ^ to.to_bits()).leading_zeros() >= bits.min(Ipv6Addr::BITS)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Two addresses outside, one inside with a route behind it, and IPv6 outside.
    fn machine() -> Addresses {
        let source = |network, prefix_bits, source| Source {
            network: ip(network),
            prefix_bits,
            source: ip(source),
        };
        Addresses::new(
            vec![
                (ip("127.0.0.1"), 0),
                (ip("::1"), 0),
                (ip("198.51.100.2"), 1),
                (ip("198.51.100.9"), 1),
                (ip("2001:db8::2"), 1),
                (ip("10.0.0.2"), 2),
            ],
            vec![
                source("0.0.0.0", 0, "198.51.100.2"),
                source("198.51.100.0", 24, "198.51.100.2"),
                source("10.0.0.0", 24, "10.0.0.2"),
                source("172.16.0.0", 12, "10.0.0.2"),
                source("::", 0, "2001:db8::2"),
            ],
        )
    }

    #[test]
    fn the_address_that_it_came_to_stays_where_it_leads_there() {
        let machine = machine();
        for (to, wanted, from) in [
            ("192.0.2.1", "198.51.100.9", "198.51.100.9"),
            ("192.0.2.1", "10.0.0.2", "198.51.100.2"),
            ("192.0.2.1", "127.0.0.1", "198.51.100.2"),
            ("172.16.5.5", "198.51.100.9", "10.0.0.2"),
            ("10.0.0.77", "10.0.0.2", "10.0.0.2"),
            ("127.0.0.77", "127.0.0.5", "127.0.0.5"),
            ("127.0.0.77", "10.0.0.2", "127.0.0.1"),
            ("10.0.0.2", "127.0.0.1", "10.0.0.2"),
            ("2001:db8::77", "198.51.100.9", "2001:db8::2"),
            ("::1", "127.0.0.1", "::1"),
        ] {
            let chosen = machine.source_for(ip(to), Some(ip(wanted)));
            assert_eq!(chosen, Some(ip(from)), "{wanted} to {to}");
        }
        assert_eq!(
            machine.source_for(ip("192.0.2.1"), None),
            Some(ip("198.51.100.2"))
        );
    }

    #[test]
    fn where_nothing_is_known_what_is_wanted_may_be_right() {
        let none = Addresses::default();
        let chosen = |to, wanted| none.source_for(ip(to), Some(ip(wanted)));
        assert_eq!(chosen("192.0.2.1", "10.0.0.2"), Some(ip("10.0.0.2")));
        assert_eq!(chosen("192.0.2.1", "127.0.0.1"), None);
        assert_eq!(chosen("2001:db8::1", "10.0.0.2"), None);
        assert!(!none.is_own(ip("127.0.0.1")));
        assert!(machine().is_own(ip("127.0.0.9")) && machine().is_own(ip("10.0.0.2")));
        assert!(!machine().is_own(ip("10.0.0.3")));
    }
}
