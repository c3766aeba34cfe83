//! A configuration put to work.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use config::{Banned, Config, QopRule, UriRule};
use proxy::{Addresses, AuthPolicy, Domain, Listener, Settings, Throttle, UriCheck};
use stdx::hash::Key;

use crate::{
    accounts::{self, Accounts},
    names::Names,
    numbers::Tables,
};

/// One version of the configuration, shared by the reactors of a process.
#[derive(Debug)]
pub struct Active {
    pub settings: Arc<Settings>,
    /// For each reactor to build its own router from.
    pub config: Arc<Config>,
    pub accounts: Arc<Accounts>,
    pub tables: Arc<Tables>,
    pub hosts: Arc<dns::Hosts>,
    pub dns: dns::Settings,
    /// Those that there are listeners for.
    pub families: dns::Families,
}

/// What a configuration says, and what was made of it for all slots of a process.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) config: Arc<Config>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) tables: Arc<Tables>,
}

/// Where the sockets of this process are bound, by listener id.
pub type Listeners = HashMap<u32, SocketAddr>;

impl Active {
    /// Puts a configuration to work over the listeners that there are.
    pub(crate) fn new(
        version: u64,
        given: Given,
        listeners: &Listeners,
        names: &Names,
        addresses: Addresses,
        dialog_key: Key,
    ) -> Self {
        let Given {
            config,
            accounts,
            tables,
        } = given;
        let mut list: Vec<Listener> = listeners
            .iter()
            .map(|(&id, &address)| {
                let configured = config
                    .listen
                    .iter()
                    .find(|listen| same_listener(listen.address, address));
                Listener::new(
                    id,
                    address,
                    configured.and_then(|listen| listen.advertise.as_deref()),
                )
            })
            .collect();
        list.sort_by_key(|listener| listener.id);
        let settings = Settings {
            media: crate::media::sets(&config),
            version,
            listeners: list,
            addresses,
            domains: config
                .domains
                .iter()
                .map(|domain| {
                    Domain::new(&domain.name, domain.record_route).recursing(domain.recurse)
                })
                .collect(),
            timers: transaction::Timers {
                t1: config.timers.t1,
                t2: config.timers.t2,
                t4: config.timers.t4,
                ..transaction::Timers::default()
            },
            timer_c: config.timers.c,
            registrar: registrar::Policy {
                expires_default: config.registrar.expires_default,
                expires_min: config.registrar.expires_min,
                expires_max: config.registrar.expires_max,
                bindings_max: usize::from(config.registrar.bindings_max),
                nat: match config.nat.detect {
                    config::NatDetection::Off => registrar::NatRule::Off,
                    config::NatDetection::Auto => registrar::NatRule::Auto,
                    config::NatDetection::Always => registrar::NatRule::Always,
                },
            },
            auth: auth_of(&config),
            hiding: crate::hiding::hiding(&config, &dialog_key),
            dialog_key,
            branches_max: usize::from(config.limits.branches_max),
            forking: proxy::Forking {
                by_q: config.proxy.fork == config::Fork::ByQ,
                serial_timeout: config.proxy.serial_timeout,
                hop_timeout: config.proxy.hop_timeout,
                failover_codes: config.proxy.failover_codes.clone(),
                udp_request_max: usize::from(config.proxy.udp_request_max),
            },
        };
        Self {
            families: dns::Families {
                v4: listeners.values().any(SocketAddr::is_ipv4),
                v6: listeners.values().any(SocketAddr::is_ipv6),
            },
            dns: names.settings(&config),
            hosts: Arc::clone(&names.hosts),
            settings: Arc::new(settings),
            config,
            accounts,
            tables,
        }
    }
}

/// `[auth]` as the machine needs it.
fn auth_of(config: &Config) -> AuthPolicy {
    let auth = &config.authentication;
    let throttle = Throttle {
        failures: auth.failures,
        failures_address: auth.failures_address,
        window: auth.window,
        ban: auth.ban,
        silent: auth.banned == Banned::Drop,
    };
    let throttles = auth.failures > 0 || auth.failures_address > 0;
    AuthPolicy {
        algorithms: accounts::offered(config),
        auth_int: auth.auth_int,
        qop_required: auth.qop == QopRule::Required,
        nonce_lifetime: auth.nonce_lifetime,
        uri: match auth.uri {
            UriRule::Loose => UriCheck::Loose,
            UriRule::Strict => UriCheck::Strict,
            UriRule::Off => UriCheck::Off,
        },
        throttle: throttles.then_some(throttle),
    }
}

/// A listener on port 0 was given a port by the kernel.
fn same_listener(configured: SocketAddr, bound: SocketAddr) -> bool {
    configured.ip() == bound.ip() && (configured.port() == bound.port() || configured.port() == 0)
}
