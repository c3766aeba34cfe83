//! What is wrong with a configuration although every single value of it is right.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    model::*,
    parse::Draft,
    reader::{Reader, Table, nearest},
    value::show_duration,
};

/// Timer C must be longer than this (RFC 3261 §16.6 step 11).
const TIMER_C_OVER: Duration = Duration::from_secs(180);

/// Routes that a later one is compared with to see whether it can be reached.
const ROUTES_COMPARED_MAX: usize = 256;

/// Reads `draft` as a whole. Where single values are wrong already, what would follow from their stand-ins
/// is left out: it would send the operator after things that are not wrong.
pub(crate) fn check(reader: &Reader<'_>, draft: &Draft<'_>) {
    let clean = !reader.has_errors();
    slots(reader, draft, clean);
    listeners(draft);
    registrar_and_timers(draft);
    dns(draft);
    domains(reader, draft, clean);
    users(draft);
    groups(draft, clean);
    crate::calls::check(draft, clean);
    crate::cdr::check(draft);
    crate::media::check(draft, clean);
    crate::caller::check(draft);
    crate::period::check(draft);
    crate::prefix_table::check(draft, clean);
    crate::topology::check(draft, clean);
    routes(reader, draft, clean);
}

fn slots(reader: &Reader<'_>, draft: &Draft<'_>, clean: bool) {
    let Workers {
        count,
        reactors,
        ref pin,
        ..
    } = draft.config.workers;
    let slots = u32::from(count) * u32::from(reactors);
    if slots > u32::from(SLOTS_MAX) {
        let at = ["reactors", "count"]
            .into_iter()
            .find(|key| draft.workers.has(key));
        reader.error(
            at.and_then(|key| draft.workers.value_range(key)),
            format!("{count} workers with {reactors} reactors are {slots} slots; there can be {SLOTS_MAX}"),
            format!("keep `workers.count` times `workers.reactors` within {SLOTS_MAX}; one slot for each core is enough"),
        );
    }
    let Pin::List(cores) = pin else { return };
    let at = || {
        draft
            .pin_from_file
            .then(|| draft.workers.value_range("pin"))
            .flatten()
    };
    if clean && cores.len() != slots as usize {
        reader.error(
            at(),
            format!("`workers.pin` has {} core numbers for {slots} slots ({count} workers with {reactors} reactors)", cores.len()),
            "name one core for every slot, or write pin = \"auto\"",
        );
    }
    let mut seen = HashSet::new();
    if let Some(twice) = cores.iter().find(|core| !seen.insert(**core)) {
        reader.error(
            at(),
            format!("`workers.pin` names core {twice} twice"),
            "give every slot a core of its own",
        );
    }
}

fn listeners(draft: &Draft<'_>) {
    let mut seen: HashSet<SocketAddr> = HashSet::new();
    for (listen, table) in draft.config.listen.iter().zip(&draft.listen) {
        if listen.address.port() != 0 && !seen.insert(listen.address) {
            table.error(
                "address",
                format!("{} is listened on already", listen.address),
                "remove one of the two [[listen]]",
            );
        }
    }
}

fn registrar_and_timers(draft: &Draft<'_>) {
    let registrar = &draft.config.registrar;
    if registrar.expires_min > registrar.expires_max {
        let key = if draft.registrar.has("expires_min") {
            "expires_min"
        } else {
            "expires_max"
        };
        let values = format!(
            "makes `expires_min` ({}) longer than `expires_max` ({})",
            show_duration(registrar.expires_min),
            show_duration(registrar.expires_max)
        );
        draft.registrar.error(
            key,
            values,
            "let the shortest lifetime be below the longest",
        );
    }
    if !(registrar.expires_min..=registrar.expires_max).contains(&registrar.expires_default)
        && registrar.expires_min <= registrar.expires_max
    {
        draft.registrar.error(
            "expires_default",
            "is not between `expires_min` and `expires_max`",
            "choose a lifetime that lies between the two",
        );
    }
    let timers = &draft.config.timers;
    if timers.t2 < timers.t1 {
        let key = if draft.timers.has("t2") { "t2" } else { "t1" };
        let values = format!(
            "makes `t2` ({}) shorter than `t1` ({})",
            show_duration(timers.t2),
            show_duration(timers.t1)
        );
        draft.timers.error(key, values, "let t2 be at least t1");
    }
    if timers.c <= TIMER_C_OVER {
        draft.timers.warning(
            "c",
            "is not over 3 minutes, as RFC 3261 §16.6 asks: calls that ring longer are cancelled",
            "use at least c = \"181s\", except in tests",
        );
    }
}

fn dns(draft: &Draft<'_>) {
    let dns = &draft.config.dns;
    if dns.ttl_max < dns.ttl_min {
        let key = if draft.dns.has("ttl_max") {
            "ttl_max"
        } else {
            "ttl_min"
        };
        let values = format!(
            "makes `ttl_max` ({}) shorter than `ttl_min` ({})",
            show_duration(dns.ttl_max),
            show_duration(dns.ttl_min)
        );
        draft
            .dns
            .error(key, values, "let ttl_max be at least ttl_min");
    }
    if let Some(timeout) = dns.timeout
        && timeout >= dns.deadline
    {
        draft.dns.warning(
            "timeout",
            "is not below `deadline`: a second server is never asked",
            "choose a timeout of a fraction of `deadline`",
        );
    }
    if dns.servers.as_ref().is_some_and(Vec::is_empty) && dns.hosts.is_none() {
        draft.dns.warning(
            "servers",
            "is empty and there is no hosts file: no name has an address",
            "name a server, or a hosts file",
        );
    }
}

fn domains(reader: &Reader<'_>, draft: &Draft<'_>, clean: bool) {
    let config = &draft.config;
    let exposed = exposed(config);
    let populated: HashSet<&str> = config
        .users
        .iter()
        .map(|user| user.domain.as_str())
        .collect();
    let mut seen = HashSet::new();
    for (domain, table) in config.domains.iter().zip(&draft.domains) {
        let name = domain.name.as_str();
        if name.is_empty() {
            continue;
        }
        if !seen.insert(name) {
            table.error(
                "name",
                format!("\"{name}\" is there already"),
                "remove one of the two [[domain]]",
            );
            continue;
        }
        match domain.auth {
            Auth::Digest if clean && !populated.contains(name) => table.warning(
                "name",
                format!("\"{name}\" asks for a password, but no [[user]] has one there: nobody can register but users of `tandem user`"),
                format!("add a [[user]] with a name like \"alice@{name}\", or run `tandem user add alice@{name}`"),
            ),
            Auth::None => {
                if let Some(listen) = exposed {
                    let at = if table.has("auth") { "auth" } else { "name" };
                    reader.warning(
                        table.value_range(at),
                        format!("everybody who reaches {} can register as any user of {name} and take their calls", listen.address),
                        "write auth = \"digest\" and add a [[user]] for each phone, or listen on a loopback address only",
                    );
                }
            }
            Auth::Digest => {}
        }
    }
}

fn users(draft: &Draft<'_>) {
    let config = &draft.config;
    let domains: HashMap<&str, Auth> = config
        .domains
        .iter()
        .map(|domain| (domain.name.as_str(), domain.auth))
        .collect();
    let mut seen = HashSet::new();
    for (user, table) in config.users.iter().zip(&draft.users) {
        if user.name.is_empty() {
            continue;
        }
        let domain = user.domain.as_str();
        if !seen.insert((user.name.as_str(), domain)) {
            table.error(
                "name",
                format!("\"{}@{domain}\" is there already", user.name),
                "remove one of the two [[user]]",
            );
        }
        match domains.get(domain) {
            Some(Auth::Digest) => {}
            Some(Auth::None) => table.warning(
                "name",
                format!("is in a domain with auth = \"none\", where nobody is asked for a password ({domain})"),
                "write auth = \"digest\" in that [[domain]], or remove the user",
            ),
            None => {
                let known = config.domains.iter().map(|domain| domain.name.as_str());
                let remedy = nearest(domain, known).map_or_else(
                    || format!("add a [[domain]] with name = \"{domain}\""),
                    |near| format!("did you mean \"{}@{near}\"?", user.name),
                );
                table.warning("name", format!("is in a domain that this server does not serve ({domain})"), remedy);
            }
        }
    }
}

fn groups(draft: &Draft<'_>, clean: bool) {
    let used: HashSet<&str> = draft
        .config
        .routes
        .iter()
        .filter_map(|route| match &route.to {
            Target::Group(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    // What the rules of a table name is not known here.
    let by_table = !draft.config.prefix_tables.is_empty();
    let mut seen = HashSet::new();
    for (group, table) in draft.config.groups.iter().zip(&draft.groups) {
        if group.name.is_empty() {
            continue;
        }
        let name = &group.name;
        if !seen.insert(name) {
            table.error(
                "name",
                format!("\"{name}\" is there already"),
                "remove one of the two [[group]]",
            );
        } else if clean && !used.contains(name.as_str()) && !by_table {
            let remedy = format!("add a [[route]] with to = \"group:{name}\", or remove the group");
            table.warning("name", format!("\"{name}\" is used by no route"), remedy);
        }
    }
}

/// A listener that others than this machine reach.
fn exposed(config: &Config) -> Option<&Listen> {
    let mut listen = config.listen.iter();
    listen.find(|listen| !listen.address.ip().is_loopback())
}

/// Who pays for the trunks wants to know who may use them. `before`: what rules take that are asked first.
fn open_to_all(route: &Route, before: &[&Match], table: &Table<'_>, config: &Config) {
    let leads_out = !matches!(route.to, Target::Location | Target::Reject(_));
    let has_source = |name: &String| {
        let mut callers = config.callers.iter();
        callers.any(|caller| caller.name == *name && !caller.source.is_empty())
    };
    let names_source =
        route.matches.source.is_some() || route.matches.caller.as_ref().is_some_and(has_source);
    let Some(listen) = exposed(config).filter(|_| leads_out && !names_source) else {
        return;
    };
    let asks = |domain: &Domain| domain.auth == Auth::Digest;
    // What is called in a domain that asks nobody is free for all, if no rule takes it before.
    let mut domains = config.domains.iter();
    let free = domains.find(|domain| {
        let here = Match {
            domain: Some(domain.name.clone()),
            ..route.matches.clone()
        };
        let taken = || before.iter().any(|earlier| covers(earlier, &here));
        !asks(domain) && covers(&route.matches, &here) && !taken()
    });
    let (why, remedy) = match free {
        _ if !config.domains.iter().any(asks) => (
            "no [[domain]] asks for a password".to_owned(),
            "give `match` a source, or a caller with one; or add a [[domain]] with auth = \"digest\"",
        ),
        Some(free) => (
            format!("what is called in {} needs no password", free.name),
            "give `match` a source, a caller with one, or a domain with auth = \"digest\"",
        ),
        None => return,
    };
    let what = format!("is open to everybody who reaches {}: {why}", listen.address);
    table.warning("to", what, remedy);
}

fn routes(reader: &Reader<'_>, draft: &Draft<'_>, clean: bool) {
    let config = &draft.config;
    let served = |name: &str| config.domains.iter().any(|domain| domain.name == name);
    let domain_names = || config.domains.iter().map(|domain| domain.name.as_str());
    let mut seen: Vec<&Match> = Vec::new();
    for (route, table) in config.routes.iter().zip(&draft.routes) {
        if let Target::Group(name) = &route.to
            && config.group(name).is_none()
        {
            let remedy = nearest(name, config.groups.iter().map(|group| group.name.as_str()))
                .map_or_else(
                    || format!("add a [[group]] with name = \"{name}\""),
                    |near| format!("did you mean \"group:{near}\"?"),
                );
            table.error(
                "to",
                format!("names a group that does not exist ({name})"),
                remedy,
            );
        }
        if let Target::Prefix(name) = &route.to
            && config.prefix_table(name).is_none()
        {
            let tables = config.prefix_tables.iter().map(|table| table.name.as_str());
            let remedy = nearest(name, tables).map_or_else(
                || format!("add a [[prefix_table]] with name = \"{name}\""),
                |near| format!("did you mean \"prefix:{near}\"?"),
            );
            let what = format!("names a table that does not exist ({name})");
            table.error("to", what, remedy);
        }
        if let Some(name) = &route.matches.caller
            && !config.callers.iter().any(|caller| caller.name == *name)
        {
            let callers = config.callers.iter().map(|caller| caller.name.as_str());
            let remedy = nearest(name, callers).map_or_else(
                || format!("add a [[caller]] with name = \"{name}\""),
                |near| format!("did you mean caller = \"{near}\"?"),
            );
            let at = table.inner_range("match", "caller");
            let what = format!(
                "`route.match.caller` names a group of callers that does not exist ({name})"
            );
            reader.error(at, what, remedy);
        }
        if let Some(domain) = route
            .matches
            .domain
            .as_deref()
            .filter(|domain| !served(domain))
        {
            let near = nearest(domain, domain_names());
            let remedy = near.map_or_else(
                || format!("add a [[domain]] with name = \"{domain}\""),
                |near| format!("did you mean domain = \"{near}\"?"),
            );
            let at = table.inner_range("match", "domain");
            if route.to == Target::Location {
                let message = format!(
                    "nobody can be registered at {domain}: this server does not serve that domain"
                );
                reader.error(at, message, remedy);
            } else if near.is_some() {
                reader.warning(
                    at,
                    format!("this server does not serve the domain {domain}"),
                    remedy,
                );
            }
        }
        if !clean {
            continue;
        }
        open_to_all(route, &seen, table, config);
        // A route can only be reached if no earlier one takes everything that it takes.
        if let Some(earlier) = seen.iter().find(|earlier| covers(earlier, &route.matches)) {
            let what = if earlier.is_anything() {
                "an earlier route matches everything"
            } else {
                "an earlier route matches all that it matches"
            };
            let key = if table.has("match") { "match" } else { "to" };
            table.warning(
                key,
                format!("is never reached: {what}"),
                "move this [[route]] before that one, or remove it",
            );
        } else if seen.len() < ROUTES_COMPARED_MAX && !matches!(route.to, Target::Prefix(_)) {
            seen.push(&route.matches);
        }
    }
}

/// Every request that matches `later` matches `earlier`; false where that is hard to tell.
fn covers(earlier: &Match, later: &Match) -> bool {
    fn weaker<T: PartialEq>(earlier: &Option<T>, later: &Option<T>) -> bool {
        earlier.is_none() || earlier == later
    }
    weaker(&earlier.domain, &later.domain)
        && weaker(&earlier.method, &later.method)
        && weaker(&earlier.user, &later.user)
        && weaker(&earlier.caller, &later.caller)
        && match (&earlier.source, &later.source) {
            (None, _) => true,
            (Some(earlier), Some(later)) => {
                earlier.prefix_bits <= later.prefix_bits && earlier.contains(later.address)
            }
            (Some(_), None) => false,
        }
}
