//! From TOML tables to [`Config`]. Every list here has one element for each table of the file, right
//! or wrong, so that later checks find the place of what they complain about by its index.

use std::{collections::HashSet, net::SocketAddr, ops::RangeInclusive, time::Duration};

use crate::{
    caller, calls, cdr,
    group::one_group,
    media,
    model::*,
    nat, period, prefix_table,
    reader::{Reader, Table},
    topology, value,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Name servers that are used.
const DNS_SERVERS_MAX: usize = 8;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A configuration on its way through the checks, with the tables that it came from.
pub(crate) struct Draft<'r> {
    pub(crate) config: Config,
    pub(crate) listen: Vec<Table<'r>>,
    pub(crate) workers: Table<'r>,
    /// False once the command line has replaced it.
    pub(crate) pin_from_file: bool,
    pub(crate) registrar: Table<'r>,
    pub(crate) timers: Table<'r>,
    pub(crate) dns: Table<'r>,
    pub(crate) records: Table<'r>,
    pub(crate) calls: Table<'r>,
    pub(crate) users: Vec<Table<'r>>,
    pub(crate) domains: Vec<Table<'r>>,
    pub(crate) groups: Vec<Table<'r>>,
    pub(crate) profiles: Vec<Table<'r>>,
    pub(crate) media: Vec<Table<'r>>,
    pub(crate) callers: Vec<Table<'r>>,
    pub(crate) periods: Vec<Table<'r>>,
    pub(crate) prefix_tables: Vec<Table<'r>>,
    pub(crate) routes: Vec<Table<'r>>,
}

/// Reads all tables. What is missing or wrong gets its default, or an empty stand-in.
pub(crate) fn parse<'r>(
    reader: &'r Reader<'r>,
    root: &'r toml_edit::Table,
    cores: u16,
) -> Draft<'r> {
    reader.check_top(root);
    let listen = reader.tables(root, "listen");
    let workers = reader.table(root, "workers");
    let memory = reader.table(root, "memory");
    let registrar = reader.table(root, "registrar");
    let limits = reader.table(root, "limits");
    let proxy = reader.table(root, "proxy");
    let overload = reader.table(root, "overload");
    let timers = reader.table(root, "timers");
    let auth = reader.table(root, "auth");
    let dns = reader.table(root, "dns");
    let records = reader.table(root, "cdr");
    let calls = reader.table(root, "calls");
    let nat = reader.table(root, "nat");
    let users = reader.tables(root, "user");
    let domains = reader.tables(root, "domain");
    let groups = reader.tables(root, "group");
    let profiles = reader.tables(root, "profile");
    let media = reader.tables(root, "media");
    let callers = reader.tables(root, "caller");
    let periods = reader.tables(root, "period");
    let prefix_tables = reader.tables(root, "prefix_table");
    let topology = reader.table(root, "topology");
    let routes = reader.tables(root, "route");
    let config = Config {
        listen: if listen.is_empty() {
            vec![default_listener()]
        } else {
            listen.iter().map(one_listener).collect()
        },
        workers: read_workers(&workers, cores),
        memory: Memory {
            limit: memory
                .text("limit", |text| value::size(text, 16 << 20..=8 << 30))
                .unwrap_or(256 << 20),
            huge_pages: read_huge_pages(&memory),
            snapshot: memory
                .text("snapshot", read_snapshot)
                .unwrap_or(Some(10 * SECOND)),
        },
        registrar: read_registrar(&registrar),
        limits: Limits {
            branches_max: limits.integer("branches_max", 1, 32).unwrap_or(16),
            quarantine_ttl: duration(&limits, "quarantine_ttl", SECOND..=30 * DAY, HOUR),
        },
        proxy: read_proxy(&proxy),
        overload: Overload {
            occupancy: overload.integer("occupancy", 50, 100).unwrap_or(95),
            source_rate: overload.integer("source_rate", 0, 1_000_000).unwrap_or(0),
            retry_after: duration(&overload, "retry_after", SECOND..=HOUR, 5 * SECOND),
        },
        timers: read_timers(&timers),
        authentication: read_authentication(&auth),
        stored: Vec::new(),
        dns: read_dns(&dns),
        records: cdr::read(&records),
        nat: nat::read(&nat),
        users: users.iter().map(one_user).collect(),
        domains: domains.iter().map(one_domain).collect(),
        groups: groups.iter().map(one_group).collect(),
        calls: calls::calls(&calls),
        profiles: profiles.iter().map(calls::profile).collect(),
        media: media.iter().map(media::one).collect(),
        callers: callers.iter().map(caller::one).collect(),
        periods: periods.iter().map(period::one).collect(),
        prefix_tables: prefix_tables.iter().map(prefix_table::one).collect(),
        topology: topology::topology(&topology),
        routes: routes.iter().map(one_route).collect(),
    };
    Draft {
        config,
        listen,
        workers,
        pin_from_file: true,
        registrar,
        timers,
        dns,
        records,
        calls,
        users,
        domains,
        groups,
        profiles,
        media,
        callers,
        periods,
        prefix_tables,
        routes,
    }
}

fn default_listener() -> Listen {
    listener(SocketAddr::from(([127, 0, 0, 1], 5060)))
}

/// A listener with nothing but an address.
pub(crate) fn listener(address: SocketAddr) -> Listen {
    Listen {
        address,
        transports: vec![Transport::Udp],
        spread: Spread::Flow,
        advertise: None,
    }
}

fn one_listener(table: &Table<'_>) -> Listen {
    table.require("address");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let transports = table.choices(
        "transports",
        &[("udp", Transport::Udp)],
        &["tcp", "tls", "ws", "wss"],
    );
    if table.is_empty_list("transports") {
        table.error("transports", "is empty", r#"write transports = ["udp"]"#);
    }
    Listen {
        address: table
            .text("address", value::socket_address)
            .unwrap_or(nowhere),
        transports: transports.unwrap_or_else(|| vec![Transport::Udp]),
        spread: table
            .choice(
                "spread",
                &[("flow", Spread::Flow), ("datagram", Spread::Datagram)],
                &[],
            )
            .unwrap_or(Spread::Flow),
        advertise: table.text("advertise", value::host_port),
    }
}

fn read_snapshot(text: &str) -> Result<Option<Duration>, value::Wrong> {
    match text {
        "off" => Ok(None),
        text => value::duration(text, SECOND..=DAY).map(Some),
    }
}

fn read_huge_pages(table: &Table<'_>) -> HugePages {
    if table.is_boolean("huge_pages") {
        return match table.boolean("huge_pages") {
            Some(true) => HugePages::Required,
            _ => HugePages::Off,
        };
    }
    table
        .choice("huge_pages", &[("auto", HugePages::Auto)], &[])
        .unwrap_or_default()
}

fn read_workers(table: &Table<'_>, cores: u16) -> Workers {
    let count = table.integer("count", 1, WORKERS_MAX);
    let reactors = table.integer("reactors", 1, SLOTS_MAX);
    let (count, reactors) = default_slots(cores, count, reactors);
    let pin = if table.is_list("pin") {
        table.integers("pin", 0, value::CORE_MAX).map(Pin::List)
    } else {
        table
            .choice("pin", &[("auto", ()), ("none", ())], &[])
            .and_then(|()| table.text("pin", value::pin))
    };
    Workers {
        count,
        reactors,
        pin: pin.unwrap_or(Pin::None),
        spin_us: table.integer("spin_us", 0, 1_000_000).unwrap_or(0),
        hang_timeout: duration(table, "hang_timeout", SECOND / 10..=HOUR, 2 * SECOND),
        user: table.text("user", value::system_account),
    }
}

/// One worker for every 4 cores, at least 2, and a reactor for each core; never over [`SLOTS_MAX`] and [`WORKERS_MAX`]
/// unless the file says so itself.
pub(crate) fn default_slots(cores: u16, count: Option<u16>, reactors: Option<u16>) -> (u16, u16) {
    let count = count.unwrap_or_else(|| {
        let most = (SLOTS_MAX / reactors.unwrap_or(1)).clamp(1, WORKERS_MAX);
        (cores / 4).max(2).min(most)
    });
    let reactors = reactors.unwrap_or_else(|| (cores / count).clamp(1, (SLOTS_MAX / count).max(1)));
    (count, reactors)
}

pub(crate) fn duration(
    table: &Table<'_>,
    name: &str,
    allowed: RangeInclusive<Duration>,
    default: Duration,
) -> Duration {
    table
        .text(name, |text| value::duration(text, allowed))
        .unwrap_or(default)
}

fn read_registrar(table: &Table<'_>) -> Registrar {
    let expires_min = duration(table, "expires_min", Duration::ZERO..=HOUR, 60 * SECOND);
    let expires_max = duration(table, "expires_max", SECOND..=30 * DAY, DAY);
    Registrar {
        // An hour that nobody has asked for yields to bounds that somebody has.
        expires_default: duration(
            table,
            "expires_default",
            SECOND..=30 * DAY,
            HOUR.max(expires_min).min(expires_max),
        ),
        expires_min,
        expires_max,
        bindings_max: table.integer("bindings_max", 1, 32).unwrap_or(10),
    }
}

fn read_proxy(table: &Table<'_>) -> Proxy {
    if table.has("failover_codes") && !table.is_list("failover_codes") {
        table.error(
            "failover_codes",
            "must be a list of status codes",
            "write for example: failover_codes = [503]",
        );
    }
    Proxy {
        fork: table
            .choice(
                "fork",
                &[("by-q", Fork::ByQ), ("at-once", Fork::AtOnce)],
                &[],
            )
            .unwrap_or(Fork::ByQ),
        serial_timeout: duration(table, "serial_timeout", SECOND..=HOUR, 20 * SECOND),
        hop_timeout: duration(table, "hop_timeout", SECOND / 10..=32 * SECOND, 4 * SECOND),
        failover_codes: table
            .integers("failover_codes", 400, 599)
            .unwrap_or_else(|| vec![503]),
        udp_request_max: table
            .integer("udp_request_max", 500, u16::MAX)
            .unwrap_or(u16::MAX),
    }
}

fn read_timers(table: &Table<'_>) -> Timers {
    let shortest = Duration::from_millis(10);
    Timers {
        t1: duration(table, "t1", shortest..=10 * SECOND, SECOND / 2),
        t2: duration(table, "t2", shortest..=60 * SECOND, 4 * SECOND),
        t4: duration(table, "t4", Duration::ZERO..=60 * SECOND, 5 * SECOND),
        c: duration(table, "c", SECOND..=HOUR, 181 * SECOND),
    }
}

fn read_authentication(table: &Table<'_>) -> Authentication {
    let mut algorithms = table
        .choices(
            "algorithms",
            &[
                ("SHA-512-256", DigestAlgorithm::Sha512_256),
                ("SHA-256", DigestAlgorithm::Sha256),
                ("MD5", DigestAlgorithm::Md5),
            ],
            &[],
        )
        .unwrap_or_else(|| vec![DigestAlgorithm::Md5]);
    if table.is_empty_list("algorithms") {
        table.error("algorithms", "is empty", r#"write algorithms = ["MD5"]"#);
    }
    algorithms.sort_unstable();
    algorithms.dedup();
    Authentication {
        algorithms,
        auth_int: table.boolean("auth_int").unwrap_or(false),
        qop: table
            .choice(
                "qop",
                &[
                    ("optional", QopRule::Optional),
                    ("required", QopRule::Required),
                ],
                &[],
            )
            .unwrap_or(QopRule::Optional),
        nonce_lifetime: duration(table, "nonce_lifetime", SECOND..=HOUR, 300 * SECOND),
        uri: table
            .choice(
                "uri",
                &[
                    ("loose", UriRule::Loose),
                    ("strict", UriRule::Strict),
                    ("off", UriRule::Off),
                ],
                &[],
            )
            .unwrap_or(UriRule::Loose),
        failures: table.integer("failures", 0, 254).unwrap_or(10),
        failures_address: table.integer("failures_address", 0, 254).unwrap_or(100),
        window: duration(table, "window", SECOND..=DAY, 60 * SECOND),
        ban: duration(table, "ban", SECOND..=30 * DAY, 300 * SECOND),
        banned: table
            .choice(
                "banned",
                &[("reject", Banned::Reject), ("drop", Banned::Drop)],
                &[],
            )
            .unwrap_or(Banned::Reject),
    }
}

fn read_dns(table: &Table<'_>) -> Dns {
    let shortest = Duration::from_millis(50);
    let servers = table.texts("servers", value::name_server);
    if let Some(servers) = &servers {
        let mut seen = HashSet::new();
        if servers.len() > DNS_SERVERS_MAX {
            table.error(
                "servers",
                format!(
                    "has {} servers; there can be {DNS_SERVERS_MAX}",
                    servers.len()
                ),
                "keep those that answer soonest",
            );
        } else if let Some(twice) = servers.iter().find(|server| !seen.insert(**server)) {
            table.error(
                "servers",
                format!("names {twice} twice"),
                "remove one of the two",
            );
        }
    }
    let ttl_min = duration(table, "ttl_min", Duration::ZERO..=HOUR, 5 * SECOND);
    let prefer = [("ipv4", false), ("ipv6", true)];
    let hosts = table.text("hosts", value::path_or_none);
    Dns {
        servers,
        timeout: table.text("timeout", |text| {
            value::duration(text, shortest..=30 * SECOND)
        }),
        attempts: table
            .integer("attempts", 1, 5)
            .and_then(|attempts: u16| attempts.try_into().ok()),
        rotate: table.boolean("rotate"),
        deadline: duration(table, "deadline", SECOND / 10..=30 * SECOND, 5 * SECOND),
        hosts: hosts.unwrap_or_else(|| Some("/etc/hosts".to_owned())),
        prefer_v6: table.choice("prefer", &prefer, &[]).unwrap_or(false),
        ttl_min,
        ttl_max: duration(table, "ttl_max", SECOND..=7 * DAY, HOUR.max(ttl_min)),
        negative_ttl_max: duration(
            table,
            "negative_ttl_max",
            Duration::ZERO..=HOUR,
            60 * SECOND,
        ),
        stale_max: duration(table, "stale_max", Duration::ZERO..=7 * DAY, HOUR),
        cache_entries_max: table
            .integer("cache_entries_max", 0, 1_000_000)
            .unwrap_or(10_000),
        pending_max: table.integer("pending_max", 1, 100_000).unwrap_or(20_000),
        blacklist: duration(table, "blacklist", Duration::ZERO..=HOUR, 30 * SECOND),
    }
}

fn one_user(table: &Table<'_>) -> User {
    table.require("name");
    let (name, domain) = table.text("name", value::account).unwrap_or_default();
    let password = |text: &str| match text {
        "" => value::wrong("is empty", "choose a password"),
        _ => Ok(Secret::Password(text.to_owned())),
    };
    let secrets = [
        table.text("password", password),
        table.text("ha1", value::ha1),
        table.text("ha1_sha256", value::ha1_sha256),
        table.text("ha1_sha512_256", value::ha1_sha512_256),
    ];
    let keys = ["password", "ha1", "ha1_sha256", "ha1_sha512_256"];
    let mut given = keys.into_iter().filter(|key| table.has(key));
    match (given.next(), given.next()) {
        (None, _) => table.error(
            "name",
            "has no secret",
            "add one of `password`, `ha1`, `ha1_sha256` and `ha1_sha512_256`",
        ),
        (Some(first), Some(second)) => {
            table.error(
                second,
                format!("is a second secret beside `{first}`"),
                "keep one of them",
            );
        }
        (Some(_), None) => {}
    }
    let secret = secrets.into_iter().flatten().next();
    User {
        name,
        domain,
        secret: secret.unwrap_or(Secret::Password(String::new())),
        identities: table
            .texts("identities", value::identity)
            .unwrap_or_default(),
    }
}

fn one_domain(table: &Table<'_>) -> Domain {
    table.require("name");
    Domain {
        name: table.text("name", value::host).unwrap_or_default(),
        auth: table
            .choice(
                "auth",
                &[("digest", Auth::Digest), ("none", Auth::None)],
                &["ip"],
            )
            .unwrap_or(Auth::Digest),
        record_route: table.boolean("record_route").unwrap_or(true),
        recurse: table.boolean("recurse").unwrap_or(false),
        media: media::chosen(table),
        calls: calls::of_domain(table),
        topology_hiding: topology::chosen(table),
    }
}

fn one_route(table: &Table<'_>) -> Route {
    table.require("to");
    let matches = table.inner("match", "route.match").map(|conditions| Match {
        domain: conditions.text("domain", value::host),
        method: conditions.text("method", value::method),
        user: conditions.text("user", value::pattern),
        source: conditions.text("source", value::network),
        caller: conditions.text("caller", value::identifier),
    });
    let to = table.text("to", value::target).unwrap_or(Target::Location);
    let recurse = table.boolean("recurse").unwrap_or(false);
    if recurse && !matches!(to, Target::Group(_) | Target::Prefix(_) | Target::Uri(_)) {
        table.error(
            "recurse",
            "is for `group:`, `prefix:` and `uri:` only",
            "remove it, or write it in the [[domain]] whose users may redirect calls",
        );
    }
    Route {
        matches: matches.unwrap_or_default(),
        to,
        recurse,
        media: media::chosen(table),
        profile: calls::chosen(table),
        topology_hiding: topology::chosen(table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_machine_is_too_large_for_the_defaults() {
        for cores in [1, 2, 7, 64, 300, 504, 1024, u16::MAX] {
            for (count, reactors) in [
                (None, None),
                (Some(125), None),
                (None, Some(1)),
                (None, Some(256)),
            ] {
                let (count, reactors) = default_slots(cores, count, reactors);
                assert!((1..=WORKERS_MAX).contains(&count), "{cores}: {count}");
                assert!(
                    u32::from(count) * u32::from(reactors) <= u32::from(SLOTS_MAX),
                    "{cores}: {count} x {reactors}"
                );
            }
        }
    }
}
