//! `[calls]`, `[[profile]]` and what a domain says of its calls: what is on record, how many there may be, and how long they last.

use std::{collections::HashSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    group::Policy,
    keys::{Effect::Reload, Key, Section},
    parse::Draft,
    reader::{Table, nearest},
    value,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// `[calls]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Calls have a dialog record.
    pub record: bool,
    pub limits: CallLimits,
}

/// What a domain may say otherwise than `[calls]`; `None`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainCalls {
    /// Calls of the domain at the same moment.
    pub calls_max: Option<u32>,
    /// Calls of each of its users.
    pub user_calls_max: Option<u32>,
    pub duration_max: Option<Option<Duration>>,
    pub session_expires: Option<Option<Duration>>,
    pub session_min: Option<Duration>,
    pub probe_interval: Option<Option<Duration>>,
    pub probe_failures: Option<u16>,
}

/// How long calls last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLimits {
    /// `None`: as long as the parties like.
    pub duration_max: Option<Duration>,
    /// `None`: no session timer of ours.
    pub session_expires: Option<Duration>,
    pub session_min: Duration,
    /// `None`: no OPTIONS within dialogs.
    pub probe_interval: Option<Duration>,
    pub probe_failures: u16,
}

/// `[[profile]]`: a number of calls that routes share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub name: String,
    pub calls_max: u32,
    /// What a call over the limit is refused with.
    pub code: u16,
}

impl DomainCalls {
    /// What holds for a domain, by its own word or that of `[calls]`.
    pub fn over(&self, calls: &Calls) -> CallLimits {
        let all = &calls.limits;
        CallLimits {
            duration_max: self.duration_max.unwrap_or(all.duration_max),
            session_expires: self.session_expires.unwrap_or(all.session_expires),
            session_min: self.session_min.unwrap_or(all.session_min),
            probe_interval: self.probe_interval.unwrap_or(all.probe_interval),
            probe_failures: self.probe_failures.unwrap_or(all.probe_failures),
        }
    }
}

const DURATION_MAX: Key = Key {
    name: "duration_max",
    value: "duration, 1s to 30days, or `\"none\"`",
    default: r#""none""#,
    effect: Reload,
    doc: "How long a call may last from its answer on. Then it is ended by a BYE to both. For calls that begin after the change.",
    example: r#"duration_max = "4h""#,
};
const SESSION_EXPIRES: Key = Key {
    name: "session_expires",
    value: "duration, 90s to 1day, or `\"none\"`",
    default: r#""none""#,
    effect: Reload,
    doc: "The session timer (RFC 4028) that INVITE and UPDATE ask for: put in where there is none, lowered where it is longer. The phones refresh the session; a call that nobody refreshes in time ends in the books. `none`: what the phones agree on is only watched.",
    example: r#"session_expires = "30min""#,
};
const SESSION_MIN: Key = Key {
    name: "session_min",
    value: "duration, 90s to 1day",
    default: r#""90s""#,
    effect: Reload,
    doc: "The shortest session timer with `session_expires`: what asks for less is answered 422 with Min-SE, or raised if its sender does not know session timers.",
    example: r#"session_min = "90s""#,
};
const PROBE_INTERVAL: Key = Key {
    name: "probe_interval",
    value: "duration, 5s to 1day, or `\"none\"`",
    default: r#""none""#,
    effect: Reload,
    doc: "How often both parties of an answered call are asked by OPTIONS whether they are still there. The numbers that this takes are added to the CSeq (and RAck) of the parties' own requests. A party that answers 481, or nothing `probe_failures` times, ends the call: the other one gets a BYE.",
    example: r#"probe_interval = "60s""#,
};
const PROBE_FAILURES: Key = Key {
    name: "probe_failures",
    value: "1 to 100",
    default: "2",
    effect: Reload,
    doc: "Probes in a row that a party may leave unanswered (each for 32 s) until the call is taken for dead.",
    example: "probe_failures = 2",
};

pub(crate) const CALLS: Section = Section {
    name: "calls",
    header: "[calls]",
    doc: "Calls of every domain; a `[[domain]]` may say otherwise. docs/calls.md tells how calls are followed.",
    keys: &[
        Key {
            name: "record",
            value: "`true` or `false`",
            default: "true",
            effect: Reload,
            doc: "Whether calls have a record in the arena, about 1 KiB each: what `tandem calls`, every limit, balancing by live calls and all other keys here need. Calls of domains with `record_route = false` have none in any case.",
            example: "record = true",
        },
        DURATION_MAX,
        SESSION_EXPIRES,
        SESSION_MIN,
        PROBE_INTERVAL,
        PROBE_FAILURES,
    ],
    absent: &["cdr", "recording", "hold"],
};

pub(crate) const PROFILE: Section = Section {
    name: "profile",
    header: "[[profile]]",
    doc: "A number of calls at the same moment that routes share: the channels of a trunk, say. A `[[route]]` counts its calls in one with `profile = \"NAME\"`.",
    keys: &[
        Key {
            name: "name",
            value: "letters, digits, `-`, `_` and `.`",
            default: "required",
            effect: Reload,
            doc: "The name that `profile` uses elsewhere.",
            example: r#"name = "trunk-out""#,
        },
        Key {
            name: "calls_max",
            value: "0 to 10000000",
            default: "required",
            effect: Reload,
            doc: "Calls at the same moment, from INVITE to BYE. Calls that are up stay if it is lowered.",
            example: "calls_max = 30",
        },
        Key {
            name: "code",
            value: "400 to 699",
            default: "503",
            effect: Reload,
            doc: "The status code for a call over the limit. 503 goes with Retry-After.",
            example: "code = 503",
        },
    ],
    absent: &["limit", "window", "rate"],
};

pub(crate) const PROFILE_KEY: Key = Key {
    name: "profile",
    value: "name of a `[[profile]]`",
    default: "none",
    effect: Reload,
    doc: "The profile that calls by this route count in.",
    example: r#"profile = "trunk-out""#,
};

pub(crate) const DOMAIN_CALLS_MAX: Key = Key {
    name: "calls_max",
    value: "0 to 10000000",
    default: "any number",
    effect: Reload,
    doc: "Calls of this domain at the same moment, from INVITE to BYE: to its users, and by its users to elsewhere. More are refused with 503 and Retry-After.",
    example: "calls_max = 100",
};
pub(crate) const DOMAIN_USER_CALLS_MAX: Key = Key {
    name: "user_calls_max",
    value: "0 to 10000000",
    default: "any number",
    effect: Reload,
    doc: "Calls of each user of this domain at the same moment, made and taken. More are refused with 486.",
    example: "user_calls_max = 2",
};
pub(crate) const DOMAIN_DURATION_MAX: Key = of_calls(DURATION_MAX);
pub(crate) const DOMAIN_SESSION_EXPIRES: Key = of_calls(SESSION_EXPIRES);
pub(crate) const DOMAIN_SESSION_MIN: Key = of_calls(SESSION_MIN);
pub(crate) const DOMAIN_PROBE_INTERVAL: Key = of_calls(PROBE_INTERVAL);
pub(crate) const DOMAIN_PROBE_FAILURES: Key = of_calls(PROBE_FAILURES);

/// The same key of a domain.
const fn of_calls(key: Key) -> Key {
    Key {
        default: "that of `[calls]`",
        doc: "As in `[calls]`, for calls of this domain.",
        ..key
    }
}

const CALLS_MOST: u32 = 10_000_000;

/// A duration, or "none".
fn or_none(
    table: &Table<'_>,
    name: &str,
    allowed: std::ops::RangeInclusive<Duration>,
) -> Option<Option<Duration>> {
    table.text(name, |text| match text {
        "none" => Ok(None),
        text => value::duration(text, allowed.clone()).map(Some),
    })
}

/// Reads the keys of a domain.
pub(crate) fn of_domain(table: &Table<'_>) -> DomainCalls {
    DomainCalls {
        calls_max: table.integer("calls_max", 0, CALLS_MOST),
        user_calls_max: table.integer("user_calls_max", 0, CALLS_MOST),
        ..shared(table)
    }
}

fn shared(table: &Table<'_>) -> DomainCalls {
    DomainCalls {
        calls_max: None,
        user_calls_max: None,
        duration_max: or_none(table, "duration_max", SECOND..=30 * DAY),
        session_expires: or_none(table, "session_expires", 90 * SECOND..=DAY),
        session_min: table.text("session_min", |text| {
            value::duration(text, 90 * SECOND..=DAY)
        }),
        probe_interval: or_none(table, "probe_interval", 5 * SECOND..=DAY),
        probe_failures: table.integer("probe_failures", 1, 100),
    }
}

/// Reads `[calls]`.
pub(crate) fn calls(table: &Table<'_>) -> Calls {
    let said = shared(table);
    Calls {
        record: table.boolean("record").unwrap_or(true),
        limits: CallLimits {
            duration_max: said.duration_max.flatten(),
            session_expires: said.session_expires.flatten(),
            session_min: said.session_min.unwrap_or(90 * SECOND),
            probe_interval: said.probe_interval.flatten(),
            probe_failures: said.probe_failures.unwrap_or(2),
        },
    }
}

/// Reads a `[[profile]]`.
pub(crate) fn profile(table: &Table<'_>) -> Profile {
    table.require("name");
    table.require("calls_max");
    Profile {
        name: table.text("name", value::identifier).unwrap_or_default(),
        calls_max: table.integer("calls_max", 0, CALLS_MOST).unwrap_or(0),
        code: table.integer("code", 400, 699).unwrap_or(503),
    }
}

/// The profile that a route names.
pub(crate) fn chosen(table: &Table<'_>) -> Option<String> {
    table.text("profile", value::identifier)
}

/// What does not go together.
pub(crate) fn check(draft: &Draft<'_>, clean: bool) {
    let config = &draft.config;
    let mut seen = HashSet::new();
    for (profile, table) in config.profiles.iter().zip(&draft.profiles) {
        let name = &profile.name;
        if name.is_empty() {
            continue;
        }
        let used = config
            .routes
            .iter()
            .any(|route| route.profile.as_ref() == Some(name));
        if !seen.insert(name) {
            let what = format!("\"{name}\" is there already");
            table.error("name", what, "remove one of the two [[profile]]");
        } else if clean && !used {
            let remedy = format!("add profile = \"{name}\" to a [[route]], or remove it");
            table.warning("name", format!("\"{name}\" is used by nothing"), remedy);
        }
    }
    for (route, table) in config.routes.iter().zip(&draft.routes) {
        let Some(name) = &route.profile else { continue };
        if config.profile(name).is_none() {
            let names = config.profiles.iter().map(|profile| profile.name.as_str());
            let remedy = match nearest(name, names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("add a [[profile]] with name = \"{name}\""),
            };
            table.error("profile", format!("there is no profile \"{name}\""), remedy);
        }
    }
    check_times(draft);
    if !config.calls.record {
        check_without_records(draft);
    }
    for (domain, table) in config.domains.iter().zip(&draft.domains) {
        for key in NEED_RECORDS.into_iter().filter(|key| table.has(key)) {
            if !domain.record_route {
                let what =
                    "does nothing: the calls of this domain do not pass through us to their end";
                table.warning(key, what, "set record_route = true, or remove it");
            } else if !config.calls.record {
                warn_of_records(table, key);
            }
        }
    }
}

/// Keys of `[calls]` and of a domain that are about calls on record.
const NEED_RECORDS: [&str; 5] = [
    "calls_max",
    "user_calls_max",
    "duration_max",
    "session_expires",
    "probe_interval",
];

fn warn_of_records(table: &Table<'_>, key: &str) {
    let what = "does nothing: calls have no record";
    table.warning(key, what, "set calls.record = true, or remove it");
}

/// What counts calls, or times them, where none is known.
fn check_without_records(draft: &Draft<'_>) {
    let config = &draft.config;
    for key in NEED_RECORDS.into_iter().filter(|key| draft.calls.has(key)) {
        warn_of_records(&draft.calls, key);
    }
    for table in draft.routes.iter().filter(|table| table.has("profile")) {
        warn_of_records(table, "profile");
    }
    for (group, table) in config.groups.iter().zip(&draft.groups) {
        let by_calls = matches!(group.policy, Policy::LeastCalls | Policy::FreeCapacity);
        let limited = group.destinations.iter().any(|to| to.capacity.is_some());
        if by_calls || limited {
            let key = if by_calls { "policy" } else { "destinations" };
            let what = "counts calls, of which none has a record";
            let remedy = "set calls.record = true, or choose another policy and no `capacity`";
            table.warning(key, what, remedy);
        }
    }
}

/// Session timers that contradict each other, where they are written.
fn check_times(draft: &Draft<'_>) {
    let config = &draft.config;
    let contradict = |limits: &CallLimits| {
        let expires = limits.session_expires;
        expires.is_some_and(|expires| expires < limits.session_min)
    };
    let complain = |table: &Table<'_>| {
        let key = match table.has("session_expires") {
            true => "session_expires",
            false => "session_min",
        };
        let what = "leaves session_expires shorter than session_min";
        table.error(key, what, "raise session_expires, or lower session_min");
    };
    if contradict(&config.calls.limits) {
        complain(&draft.calls);
    }
    for (domain, table) in config.domains.iter().zip(&draft.domains) {
        let says = table.has("session_expires") || table.has("session_min");
        if says && contradict(&domain.calls.over(&config.calls)) {
            complain(table);
        }
    }
}
