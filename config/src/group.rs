//! `[[group]]`: destinations that share requests.

use std::{collections::HashSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    keys::{Effect::Reload, Key, Section},
    reader::Table,
    value,
};

/// Destinations of one group: with each its state is looked at for every call.
pub const DESTINATIONS_MAX: usize = 256;
/// The largest weight.
const WEIGHT_MAX: u16 = 1000;

/// `[[group]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub policy: Policy,
    /// What [`Policy::Hash`] looks at.
    pub hash: HashOf,
    pub destinations: Vec<Destination>,
    /// The `[[media]]` of calls that it gets.
    pub media: Option<String>,
    /// Whether calls that it gets are hidden; `None`: nothing is said.
    pub topology_hiding: Option<crate::topology::Hiding>,
    /// `None`: destinations are not probed.
    pub probe: Option<Probe>,
    pub passive: Passive,
    /// How long a destination that came back gets less than its share.
    pub slow_start: Duration,
}

/// `group.policy`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    RoundRobin,
    Weighted,
    LeastCalls,
    FreeCapacity,
    Latency,
    Priority,
    Hash,
}

impl Policy {
    pub fn name(self) -> &'static str {
        WORDS
            .iter()
            .find(|(_, policy)| *policy == self)
            .map_or("", |(word, _)| word)
    }
}

const WORDS: &[(&str, Policy)] = &[
    ("round-robin", Policy::RoundRobin),
    ("weighted", Policy::Weighted),
    ("least-calls", Policy::LeastCalls),
    ("free-capacity", Policy::FreeCapacity),
    ("latency", Policy::Latency),
    ("priority", Policy::Priority),
    ("hash", Policy::Hash),
];

/// `group.hash`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashOf {
    #[default]
    CallId,
    FromUser,
    ToUser,
    RequestUri,
    /// The header field of this name.
    Header(String),
}

/// One of `group.destinations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    pub uri: String,
    pub weight: u16,
    /// Calls at most; `None`: any number.
    pub capacity: Option<u32>,
    /// Lower ones first.
    pub priority: u16,
}

/// `group.probe`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub interval: Duration,
    pub timeout: Duration,
    pub down_after: u32,
    pub up_after: u32,
    /// Answers that are good; `None`: see [`Probe::accepts`].
    pub codes: Option<Vec<u16>>,
}

impl Probe {
    /// Whether a destination that answers a probe so takes calls. Without a list: whoever answers at all is there, unless it says that it can't serve.
    pub fn accepts(&self, code: u16) -> bool {
        match &self.codes {
            Some(codes) => codes.contains(&code),
            None => !matches!(code, 408 | 500 | 502..=504 | 600..),
        }
    }
}

/// `group.passive`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passive {
    /// Requests in a row; 0: requests bring nobody down.
    pub down_after: u32,
    /// Answers that count as failures.
    pub codes: Vec<u16>,
    /// How long a destination that is not probed is left alone.
    pub retry: Duration,
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn one_group(table: &Table<'_>) -> Group {
    table.require("name");
    table.require("destinations");
    let policy = table
        .choice("policy", WORDS, &[])
        .unwrap_or(Policy::RoundRobin);
    if table.has("hash") && policy != Policy::Hash {
        table.warning(
            "hash",
            "does nothing without policy = \"hash\"",
            "remove it, or write policy = \"hash\"",
        );
    }
    Group {
        name: table.text("name", value::identifier).unwrap_or_default(),
        policy,
        hash: table.text("hash", hash_of).unwrap_or_default(),
        destinations: destinations(table, policy),
        media: crate::media::chosen(table),
        topology_hiding: crate::topology::chosen(table),
        probe: table
            .inner("probe", "group.probe")
            .map(|probe| one_probe(&probe)),
        passive: one_passive(table.inner("passive", "group.passive").as_ref()),
        slow_start: table
            .text("slow_start", |text| {
                value::duration(text, Duration::ZERO..=HOUR)
            })
            .unwrap_or(Duration::ZERO),
    }
}

fn destinations(table: &Table<'_>, policy: Policy) -> Vec<Destination> {
    let list = table.inner_list("destinations", "group.destinations");
    if table.is_empty_list("destinations") {
        table.error(
            "destinations",
            "has no destination",
            "add at least one: { uri = \"sip:192.0.2.10:5060\" }",
        );
    }
    if list.len() > DESTINATIONS_MAX {
        table.error(
            "destinations",
            format!(
                "has {} destinations; there can be {DESTINATIONS_MAX}",
                list.len()
            ),
            "make two groups of them, or name them by one SRV record each site",
        );
    }
    let mut seen = HashSet::new();
    let one = |(nth, table): (u16, &Table<'_>)| {
        table.require("uri");
        let uri = table
            .text("uri", |text| {
                crate::uri::check(text).map(|()| text.to_owned())
            })
            .unwrap_or_default();
        if !uri.is_empty() && !seen.insert(uri.clone()) {
            table.error("uri", "is in this group already", "remove one of the two");
        }
        let capacity = table.integer("capacity", 1, 10_000_000);
        if policy == Policy::FreeCapacity && !table.has("capacity") {
            table.error(
                "capacity",
                "is missing: policy = \"free-capacity\" compares what is free",
                "write for example: capacity = 500",
            );
        }
        let in_order = if policy == Policy::Priority { nth } else { 0 };
        Destination {
            uri,
            weight: table.integer("weight", 1, WEIGHT_MAX).unwrap_or(1),
            capacity,
            priority: table.integer("priority", 0, u16::MAX).unwrap_or(in_order),
        }
    };
    (0..).zip(&list).map(one).collect()
}

fn one_probe(table: &Table<'_>) -> Probe {
    table.choice("method", &[("OPTIONS", ())], &[]);
    let shortest = Duration::from_millis(100);
    Probe {
        interval: duration(table, "interval", shortest, 5 * SECOND),
        timeout: duration(table, "timeout", shortest, 2 * SECOND),
        down_after: count(table, "down_after", 1, 3),
        up_after: count(table, "up_after", 1, 2),
        codes: codes(table, "codes", 200),
    }
}

fn one_passive(table: Option<&Table<'_>>) -> Passive {
    Passive {
        down_after: table.map_or(3, |table| count(table, "down_after", 0, 3)),
        codes: table
            .and_then(|table| codes(table, "codes", 400))
            .unwrap_or_else(|| vec![503]),
        retry: table.map_or(30 * SECOND, |table| {
            duration(table, "retry", SECOND / 10, 30 * SECOND)
        }),
    }
}

fn duration(table: &Table<'_>, name: &str, shortest: Duration, default: Duration) -> Duration {
    table
        .text(name, |text| value::duration(text, shortest..=HOUR))
        .unwrap_or(default)
}

fn count(table: &Table<'_>, name: &str, from: u32, default: u32) -> u32 {
    table.integer(name, from, 1000).unwrap_or(default)
}

fn codes(table: &Table<'_>, name: &str, from: u16) -> Option<Vec<u16>> {
    if table.has(name) && !table.is_list(name) {
        let example = format!("write for example: {name} = [{}]", from.max(200));
        table.error(name, "must be a list of status codes", example);
    }
    table.integers(name, from, 699)
}

fn hash_of(text: &str) -> Result<HashOf, value::Wrong> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
    match text {
        "call-id" => Ok(HashOf::CallId),
        "from-user" => Ok(HashOf::FromUser),
        "to-user" => Ok(HashOf::ToUser),
        "request-uri" => Ok(HashOf::RequestUri),
        other => match other.strip_prefix("header:") {
            Some(name) if !name.is_empty() && name.bytes().all(token) => {
                Ok(HashOf::Header(name.to_owned()))
            }
            _ => value::wrong(
                format!("has an unknown value {text:?}"),
                "write \"call-id\", \"from-user\", \"to-user\", \"request-uri\" or \"header:NAME\"",
            ),
        },
    }
}

pub(crate) const GROUP: Section = Section {
    name: "group",
    header: "[[group]]",
    doc: "Several destinations that share requests. Routes name it with `to = \"group:NAME\"`. A destination whose URI has a host name counts as many: its addresses, found by SRV and address records (RFC 3263), followed as they change, each with calls, health and probes of its own. `tandem destinations` shows them.",
    keys: &[
        Key {
            name: "name",
            value: "letters, digits, `-`, `_` and `.`",
            default: "required",
            effect: Reload,
            doc: "The name that routes use.",
            example: r#"name = "media""#,
        },
        Key {
            name: "policy",
            value: "`\"round-robin\"`, `\"weighted\"`, `\"least-calls\"`, `\"free-capacity\"`, `\"latency\"`, `\"priority\"` or `\"hash\"`",
            default: r#""round-robin""#,
            effect: Reload,
            doc: "How a destination is chosen among those that are up and below their `capacity`. `round-robin`: in turn. `weighted`: in turn, by `weight`. `least-calls`: the one with the fewest calls for its `weight`. `free-capacity`: the one with the most places free. `latency`: in turn, by `weight` divided by the response time (a moving average of probes and first answers to INVITE; below 1 ms all are equal). `priority`: the first of the list that has room; those with the same `priority` share by `weight`. `hash`: by what `hash` names, so that equal ones meet at the same destination, by `weight`; when one of N goes, only its own 1/N moves. When the chosen one is silent, cannot be reached or answers with one of `proxy.failover_codes`, the others are tried, up to seven, in the policy's order.",
            example: r#"policy = "least-calls""#,
        },
        Key {
            name: "hash",
            value: "`\"call-id\"`, `\"from-user\"`, `\"to-user\"`, `\"request-uri\"` or `\"header:NAME\"`",
            default: r#""call-id""#,
            effect: Reload,
            doc: "What policy `hash` looks at. Users are those of the From and To URIs; `request-uri` is the whole URI as it came; a request without the header field named counts as one with an empty one.",
            example: r#"hash = "to-user""#,
        },
        Key {
            name: "destinations",
            value: "list of tables, 1 to 256",
            default: "required",
            effect: Reload,
            doc: "The destinations; their keys are in the next section.",
            example: r#"destinations = [{ uri = "sip:192.0.2.10:5060" }]"#,
        },
        crate::media::MEDIA_KEY,
        crate::topology::TOPOLOGY_KEY,
        Key {
            name: "probe",
            value: "table",
            default: "no probes",
            effect: Reload,
            doc: "Asks each destination regularly whether it is there; the keys are in a section below. Without it a destination goes down by failed requests only, and is tried again after `passive.retry`.",
            example: r#"probe = { method = "OPTIONS", interval = "5s", down_after = 3, up_after = 2 }"#,
        },
        Key {
            name: "passive",
            value: "table",
            default: "as its keys say",
            effect: Reload,
            doc: "What failed requests say of a destination; the keys are in a section below.",
            example: r#"passive = { down_after = 3 }"#,
        },
        Key {
            name: "slow_start",
            value: "duration, 0s to 1h",
            default: "0s",
            effect: Reload,
            doc: "How long a destination that has come up again, was enabled, or is a new address of its name gets less than its share: from a sixteenth, growing evenly, to all of it. `0s` gives it its share at once.",
            example: r#"slow_start = "30s""#,
        },
    ],
    absent: &["failover", "sticky"],
};

pub(crate) const DESTINATIONS: Section = Section {
    name: "group.destinations",
    header: "destinations of a [[group]]",
    doc: "One destination.",
    keys: &[
        Key {
            name: "uri",
            value: "SIP URI",
            default: "required",
            effect: Reload,
            doc: "Where requests are sent. Its host and port count; the Request-URI stays what it was.",
            example: r#"uri = "sip:192.0.2.10:5060""#,
        },
        Key {
            name: "weight",
            value: "integer, 1 to 1000",
            default: "1",
            effect: Reload,
            doc: "Its share, for the policies that look at it. `tandem destinations weight` puts another in its place. Each address of a host name has this weight; where SRV records have weights, they are kept among its addresses.",
            example: "weight = 2",
        },
        Key {
            name: "capacity",
            value: "integer, 1 to 10000000",
            default: "any number of calls",
            effect: Reload,
            doc: "Calls that it has at a time at most, set-up included. It is exact: over all workers, and whatever dies. A call that finds all destinations full is refused with 503. Each address of a host name has this capacity.",
            example: "capacity = 500",
        },
        Key {
            name: "priority",
            value: "integer, 0 to 65535",
            default: "0; with policy `priority` its place in the list",
            effect: Reload,
            doc: "Destinations with a lower number are chosen first; others when those are down or full. This holds for every policy. Priorities of SRV records count within one destination.",
            example: "priority = 1",
        },
    ],
    absent: &["enabled", "probe"],
};

pub(crate) const PROBE: Section = Section {
    name: "group.probe",
    header: "probe of a [[group]]",
    doc: "Active probing.",
    keys: &[
        Key {
            name: "method",
            value: r#"`"OPTIONS"`"#,
            default: r#""OPTIONS""#,
            effect: Reload,
            doc: "The request that is sent.",
            example: r#"method = "OPTIONS""#,
        },
        Key {
            name: "interval",
            value: "duration, 100ms to 1h",
            default: "5s",
            effect: Reload,
            doc: "Time from one probe of a destination to the next.",
            example: r#"interval = "5s""#,
        },
        Key {
            name: "timeout",
            value: "duration, 100ms to 1h",
            default: "2s",
            effect: Reload,
            doc: "How long an answer is waited for. Meanwhile the probe is sent again, as timer T1 says.",
            example: r#"timeout = "2s""#,
        },
        Key {
            name: "down_after",
            value: "integer, 1 to 1000",
            default: "3",
            effect: Reload,
            doc: "Probes that failed in a row and bring a destination down.",
            example: "down_after = 3",
        },
        Key {
            name: "up_after",
            value: "integer, 1 to 1000",
            default: "2",
            effect: Reload,
            doc: "Probes that succeeded in a row and bring it up again.",
            example: "up_after = 2",
        },
        Key {
            name: "codes",
            value: "list of status codes, 200 to 699",
            default: "all but 408, 500, 502, 503, 504 and 6xx",
            effect: Reload,
            doc: "Answers that count as success.",
            example: "codes = [200]",
        },
    ],
    absent: &["from", "uri"],
};

pub(crate) const PASSIVE: Section = Section {
    name: "group.passive",
    header: "passive of a [[group]]",
    doc: "What requests say of a destination: one that is not answered within `proxy.hop_timeout` (where no other destination is left, within Timer B or F: 32 s), does not leave this machine, or gets one of `codes` has failed.",
    keys: &[
        Key {
            name: "down_after",
            value: "integer, 0 to 1000",
            default: "3",
            effect: Reload,
            doc: "Requests that failed in a row, over all workers, and bring a destination down; an answer in between begins the count anew. 0: requests bring nobody down.",
            example: "down_after = 3",
        },
        Key {
            name: "codes",
            value: "list of status codes, 400 to 699",
            default: "[503]",
            effect: Reload,
            doc: "Answers that count as failures.",
            example: "codes = [503]",
        },
        Key {
            name: "retry",
            value: "duration, 100ms to 1h",
            default: "30s",
            effect: Reload,
            doc: "How long a destination that is down and not probed is left alone. Then it gets a sixteenth of its share; one answer brings it up, one failure has it wait again.",
            example: r#"retry = "30s""#,
        },
    ],
    absent: &[],
};
