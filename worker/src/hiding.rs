//! Which calls are hidden, and how.

use std::collections::HashMap;

use config::{Config, Hiding as Configured, Matched, Router, UnknownHeaders};
use proxy::{Hiding, Question};
use sip::uri::Uri;
use stdx::hash::Key;
use topology::{Identities, Mode, Policy, SealKey, Sealer, Unknown};

/// What the configuration says of it, made ready.
#[derive(Debug)]
pub(crate) struct Hides {
    domains: HashMap<String, Configured>,
    groups: HashMap<String, Configured>,
    /// Nobody says anything.
    off: bool,
}

impl Hides {
    pub(crate) fn new(config: &Config) -> Self {
        let domains = config.domains.iter();
        let domains: HashMap<_, _> = domains
            .filter_map(|domain| Some((domain.name.clone(), domain.topology_hiding?)))
            .collect();
        let groups = config.groups.iter();
        let groups: HashMap<_, _> = groups
            .filter_map(|group| Some((group.name.clone(), group.topology_hiding?)))
            .collect();
        let mut routes = config.routes.iter();
        Self {
            off: domains.is_empty()
                && groups.is_empty()
                && routes.all(|route| route.topology_hiding.is_none()),
            domains,
            groups,
        }
    }

    /// Nothing is hidden.
    pub(crate) fn is_off(&self) -> bool {
        self.off
    }

    /// Whether a request that begins something is hidden: what its rule says, else the group that it leads to, else the domain of who is called, else the caller's.
    pub(crate) fn mode<'g>(
        &self,
        router: &Router,
        matched: Option<&Matched<'_>>,
        group: impl FnOnce() -> Option<&'g str>,
        uri: &Uri<'_>,
        question: &Question<'_>,
    ) -> Option<Mode> {
        if self.off {
            return None;
        }
        let of_rule = matched.and_then(|rule| rule.topology_hiding);
        let of_group = || match self.groups.is_empty() {
            true => None,
            false => self.groups.get(group()?).copied(),
        };
        let of_domain = |uri: &Uri<'_>| {
            let domain = router.domain(uri.host?)?;
            self.domains.get(&domain.name).copied()
        };
        let of_caller = || of_domain(&question.message.from().ok()?.uri);
        let said = of_rule
            .or_else(of_group)
            .or_else(|| of_domain(uri))
            .or_else(of_caller)?;
        match said {
            Configured::Off => None,
            Configured::Dialog => Some(Mode::Dialog),
            Configured::Stateless => Some(Mode::Stateless),
        }
    }
}

/// `[topology]` as the machine needs it. Without keys of its own what seals dialogs seals this too.
pub(crate) fn hiding(config: &Config, dialog_key: &Key) -> Hiding {
    let topology = &config.topology;
    let own = SealKey::of_secret(&dialog_key.0);
    let mut keys = topology.keys.iter().map(|key| SealKey::of_secret(key));
    let sealer = match keys.next() {
        Some(newest) => Sealer::new(newest, keys.chain([own])),
        None => Sealer::new(own, []),
    };
    Hiding {
        sealer,
        host: topology.host.clone().map(String::into_bytes),
        policy: Policy {
            mode: Mode::default(),
            identities: match topology.keep_identities {
                true => Identities::Keep,
                false => Identities::Own,
            },
            unknown: match topology.unknown {
                UnknownHeaders::Rewrite => Unknown::Rewrite,
                UnknownHeaders::Strip => Unknown::Strip,
                UnknownHeaders::Pass => Unknown::Pass,
            },
            agents: topology.keep_agents,
            bodies: topology.keep_bodies,
            key: 0,
        },
    }
}
