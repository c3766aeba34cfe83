//! `[[caller]]`: groups of those who call, by where their requests come from and who they say they are.

use std::{collections::HashMap, net::IpAddr};

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};
use sip::uri::Host;

use crate::{
    keys::{Effect::Reload, Key, Section},
    model::{Config, Network},
    parse::Draft,
    reader::Table,
    router::{HOST_BYTES_MAX, canonical, unescaped},
    value,
};

/// `[[caller]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub name: String,
    /// Empty: any.
    pub source: Vec<Network>,
    /// Hosts of From, lower case. Empty: any.
    pub domain: Vec<String>,
    /// Regular expression on the user part of From.
    pub user: Option<String>,
}

pub(crate) const CALLER: Section = Section {
    name: "caller",
    header: "[[caller]]",
    doc: "A group of callers, such as a customer: who it is decides which rules of a `[[prefix_table]]` and which routes count. A request belongs to the first group that fits; of the keys all that are there must fit.",
    keys: &[
        Key {
            name: "name",
            value: "letters, digits, `-`, `_` and `.`",
            default: "required",
            effect: Reload,
            doc: "The name that `match` and the column `caller` use.",
            example: r#"name = "wholesale""#,
        },
        Key {
            name: "source",
            value: "list of IP addresses and networks",
            default: "any",
            effect: Reload,
            doc: "Where requests come from. A route whose `match` names this group trusts those addresses, as with `source` there: what matches is asked for no password.",
            example: r#"source = ["192.0.2.0/24", "2001:db8::7"]"#,
        },
        Key {
            name: "domain",
            value: "list of host names and IP addresses",
            default: "any",
            effect: Reload,
            doc: "Host of From. Anybody may write anything there, unless it is a domain that asks for credentials.",
            example: r#"domain = ["customer.example.com"]"#,
        },
        Key {
            name: "user",
            value: "regular expression",
            default: "any",
            effect: Reload,
            doc: "Searched in the user part of From; `^` and `$` anchor it.",
            example: r#"user = "^4930""#,
        },
    ],
    absent: &["realm", "listener", "header", "trunk"],
};

pub(crate) fn one(table: &Table<'_>) -> Caller {
    table.require("name");
    let caller = Caller {
        name: table.text("name", value::identifier).unwrap_or_default(),
        source: table.texts("source", value::network).unwrap_or_default(),
        domain: table.texts("domain", value::host).unwrap_or_default(),
        user: table.text("user", value::pattern),
    };
    for key in ["source", "domain"] {
        if table.is_list(key) && table.is_empty_list(key) {
            table.error(
                key,
                "is empty, so that nobody fits",
                "leave it away for any",
            );
        }
    }
    caller
}

pub(crate) fn check(draft: &Draft<'_>) {
    let mut seen = std::collections::HashSet::new();
    for (caller, table) in draft.config.callers.iter().zip(&draft.callers) {
        if !caller.name.is_empty() && !seen.insert(&caller.name) {
            let what = format!("\"{}\" is there already", caller.name);
            table.error("name", what, "remove one of the two [[caller]]");
        }
    }
}

/// Groups of callers ready for use: a look-up does not go through all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Callers {
    groups: Vec<Ready>,
    /// Groups by a network of theirs, and the lengths that there are of those.
    networks: HashMap<(u8, u128), Vec<usize>>,
    lengths: Vec<u8>,
    /// Groups without networks, by a domain of theirs.
    domains: HashMap<Box<[u8]>, Vec<usize>>,
    /// Groups that have neither.
    others: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Ready {
    domain: Vec<String>,
    user: Option<Regex>,
}

/// An address as a number, so that a network is its first bits; what is mapped counts as IPv4.
fn bits(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn cut(address: u128, length: u8) -> u128 {
    let behind = 128_u32.saturating_sub(length.into());
    address.checked_shr(behind).unwrap_or(0)
}

impl Callers {
    pub(crate) fn new(config: &Config) -> Self {
        let mut callers = Self::default();
        for (at, caller) in config.callers.iter().enumerate() {
            for network in &caller.source {
                let v4 = network.address.to_canonical().is_ipv4() && network.address.is_ipv4();
                let length = network.prefix_bits.saturating_add(if v4 { 96 } else { 0 });
                let key = (length, cut(bits(network.address), length));
                callers.networks.entry(key).or_default().push(at);
                if !callers.lengths.contains(&length) {
                    callers.lengths.push(length);
                }
            }
            if caller.source.is_empty() {
                for domain in &caller.domain {
                    let groups = callers.domains.entry(domain.as_bytes().into());
                    groups.or_default().push(at);
                }
                if caller.domain.is_empty() {
                    callers.others.push(at);
                }
            }
            callers.groups.push(Ready {
                domain: caller.domain.clone(),
                // One that can't be compiled fits nobody.
                user: caller
                    .user
                    .as_ref()
                    .map(|pattern| value::compile(pattern).unwrap_or_else(|| nothing().clone())),
            });
        }
        callers
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The first group that fits, by its place in the file.
    pub(crate) fn find(&self, source: IpAddr, from: Option<(&[u8], Host<'_>)>) -> Option<usize> {
        let (user, host) = from.unzip();
        let user = unescaped(user.unwrap_or_default());
        let mut buffer = [0; HOST_BYTES_MAX];
        let host = host.and_then(|host| canonical(host, &mut buffer));
        let address = bits(source);
        let by_network = self
            .lengths
            .iter()
            .filter_map(|&length| self.networks.get(&(length, cut(address, length))));
        let by_domain = host.and_then(|host| self.domains.get(host));
        by_network
            .chain(by_domain)
            .chain([&self.others])
            .filter_map(|groups| {
                // In the order of the file, so the first that fits is the one.
                groups.iter().copied().find(|at| {
                    self.groups
                        .get(*at)
                        .is_some_and(|group| group.fits(&user, host))
                })
            })
            .min()
    }
}

impl Ready {
    fn fits(&self, user: &[u8], host: Option<&[u8]>) -> bool {
        let named = || {
            self.domain
                .iter()
                .any(|domain| Some(domain.as_bytes()) == host)
        };
        (self.domain.is_empty() || named())
            && self
                .user
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(user))
    }
}

/// A pattern that fits nothing.
fn nothing() -> &'static Regex {
    static NOTHING: std::sync::LazyLock<Regex> =
        std::sync::LazyLock::new(|| Regex::new("[a&&b]").expect("an empty class is a pattern"));
    &NOTHING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_group_that_fits_is_the_callers() {
        let text = r#"
            [[caller]]
            name = "one-phone"
            source = ["192.0.2.7"]
            user = "^7$"
            [[caller]]
            name = "network"
            source = ["192.0.2.0/24", "2001:db8::/32"]
            [[caller]]
            name = "narrower"
            source = ["192.0.2.128/25"]
            [[caller]]
            name = "customer"
            domain = ["A.example", "b.example"]
            [[caller]]
            name = "thirties"
            user = "^\\+?4930"
            [[caller]]
            name = "customer-again"
            domain = ["a.example"]
        "#;
        let (config, _) = crate::load(text, "test.toml").expect("a good configuration");
        let callers = Callers::new(&config);
        for (source, user, host, name) in [
            ("192.0.2.7", "7", "x", Some("one-phone")),
            ("192.0.2.7", "8", "x", Some("network")),
            ("192.0.2.200", "8", "a.example", Some("network")),
            ("::ffff:192.0.2.200", "8", "x", Some("network")),
            ("2001:db8:1::1", "8", "x", Some("network")),
            ("203.0.113.1", "8", "a.EXAMPLE.", Some("customer")),
            ("203.0.113.1", "4930", "a.example", Some("customer")),
            ("203.0.113.1", "+4%3930", "c.example", Some("thirties")),
            ("203.0.113.1", "8", "c.example", None),
        ] {
            let host = Host::parse(host.as_bytes()).ok();
            let from = host.map(|host| (user.as_bytes(), host));
            let found = callers.find(source.parse().unwrap(), from);
            let found = found.map(|at| config.callers[at].name.as_str());
            assert_eq!(found, name, "{source} {user}");
        }
        assert_eq!(callers.find("203.0.113.1".parse().unwrap(), None), None);
    }
}
