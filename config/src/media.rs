//! `[[media]]`: engines that relay media, and how they treat it. Domains, routes and groups name one with `media`.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    keys::{Effect::Reload, Key, Section},
    model::{Config, Domain, Target},
    parse::{Draft, duration},
    reader::{Table, nearest},
    value,
};

const SECOND: Duration = Duration::from_secs(1);
/// Engines of one set.
const ENGINES_MAX: usize = 32;

/// `[[media]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    pub name: String,
    pub engines: Vec<MediaEngine>,
    /// How long a message waits for its engine, another one that is tried included.
    pub timeout: Duration,
    pub on_failure: OnMediaFailure,
    pub probe_interval: Duration,
    pub down_after: u16,
    pub up_after: u16,
    pub replace: Vec<String>,
    pub flags: Vec<String>,
    /// Media goes to where the message came from instead of where its SDP says.
    pub sip_source: bool,
    pub caller: MediaSide,
    pub callee: MediaSide,
}

/// An rtpengine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaEngine {
    pub address: SocketAddr,
    /// 0: no new calls.
    pub weight: u16,
}

/// What becomes of a call that no engine relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnMediaFailure {
    Reject(u16),
    /// It goes on with the SDP as it came.
    Pass,
}

/// How the engine speaks to one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaSide {
    /// By rtpengine's names; `None` leaves it as the other side has it.
    pub ice: Option<String>,
    pub transport: Option<String>,
    pub family: Option<String>,
    pub dtls: Option<String>,
    pub interface: Option<String>,
    pub rtcp_mux: Vec<String>,
    pub sdes: Vec<String>,
    pub flags: Vec<String>,
}

const ICE: &[&str] = &["remove", "force", "optional", "force-relay", "default"];
const TRANSPORT: &[&str] = &[
    "RTP/AVP",
    "RTP/SAVP",
    "RTP/AVPF",
    "RTP/SAVPF",
    "UDP/TLS/RTP/SAVP",
    "UDP/TLS/RTP/SAVPF",
];
const FAMILY: &[&str] = &["IP4", "IP6"];
const DTLS: &[&str] = &["off", "passive", "active"];
const RTCP_MUX: &[&str] = &["offer", "require", "demux", "accept", "reject"];
const REPLACE: &[&str] = &["origin", "session-connection", "session-name", "username"];

pub(crate) const MEDIA: Section = Section {
    name: "media",
    header: "[[media]]",
    doc: "One or more rtpengines that relay the media of calls. A `[[domain]]`, a `[[group]]` or a `[[route]]` chooses it with `media = \"NAME\"`; docs/media.md tells how calls go.",
    keys: &[
        Key {
            name: "name",
            value: "letters, digits, `-`, `_` and `.`",
            default: "required",
            effect: Reload,
            doc: "The name that `media` uses elsewhere. A call keeps to it: while one is up, change what is in a `[[media]]` rather than its name.",
            example: r#"name = "relay""#,
        },
        Key {
            name: "engines",
            value: "list of tables, 1 to 32",
            default: "required",
            effect: Reload,
            doc: "The engines; their keys are in the next section. Calls are spread over those that are up, by weight, and stay where they are.",
            example: r#"engines = [{ address = "192.0.2.20:2223" }]"#,
        },
        Key {
            name: "timeout",
            value: "duration, 50ms to 10s",
            default: r#""1s""#,
            effect: Reload,
            doc: "How long a message waits for an engine. An offer goes to another engine after half of it.",
            example: r#"timeout = "1s""#,
        },
        Key {
            name: "on_failure",
            value: "`\"reject:CODE\"` or `\"pass\"`",
            default: r#""reject:503""#,
            effect: Reload,
            doc: "What becomes of a message whose engine does not answer in time, or won't. `reject:CODE`: a request is answered with this status, 400 to 699; a provisional response goes on without its SDP, and a call whose answer has none to relay it is ended. `pass`: it goes on with its SDP as it came, so that the parties send media to each other, if they can.",
            example: r#"on_failure = "reject:503""#,
        },
        Key {
            name: "replace",
            value: "list of `\"origin\"`, `\"session-connection\"`, `\"session-name\"`, `\"username\"`",
            default: r#"["origin", "session-connection"]"#,
            effect: Reload,
            doc: "What the engine replaces in the SDP besides media addresses and ports, so that nothing of the other side is seen.",
            example: r#"replace = ["origin", "session-connection"]"#,
        },
        Key {
            name: "flags",
            value: "list of strings",
            default: "none",
            effect: Reload,
            doc: "Further flags of rtpengine for both sides, word for word: `symmetric`, `asymmetric`, `loop-protect`, `strict-source`, `port-latching`, `codec-strip-NAME` and so on.",
            example: r#"flags = ["loop-protect"]"#,
        },
        Key {
            name: "send_to",
            value: "`\"sdp\"` or `\"source\"`",
            default: r#""sdp""#,
            effect: Reload,
            doc: "Where the engine sends media first: to the address in the SDP (`trust-address`), or to the one that the message came from (`SIP-source-address`), as for phones behind address translation.",
            example: r#"send_to = "sdp""#,
        },
        Key {
            name: "caller",
            value: "table",
            default: "as the callee has it",
            effect: Reload,
            doc: "How the engine speaks to callers; its keys are in a section below. It holds for everything that goes to the caller, re-INVITEs of the callee too.",
            example: r#"caller = { transport = "RTP/AVP", ice = "remove" }"#,
        },
        Key {
            name: "callee",
            value: "table",
            default: "as the caller has it",
            effect: Reload,
            doc: "How the engine speaks to callees.",
            example: r#"callee = { transport = "UDP/TLS/RTP/SAVPF", ice = "force" }"#,
        },
        Key {
            name: "probe_interval",
            value: "duration, 100ms to 1h",
            default: r#""2s""#,
            effect: Reload,
            doc: "An engine that has said nothing for so long is pinged, by each slot for itself.",
            example: r#"probe_interval = "2s""#,
        },
        Key {
            name: "down_after",
            value: "integer, 1 to 100",
            default: "3",
            effect: Reload,
            doc: "An engine is down when so many questions in a row had no answer, or at once when its machine says that nobody listens there. Nothing waits for an engine that is down.",
            example: "down_after = 3",
        },
        Key {
            name: "up_after",
            value: "integer, 1 to 100",
            default: "1",
            effect: Reload,
            doc: "It is up again when so many pings in a row had an answer.",
            example: "up_after = 1",
        },
    ],
    absent: &["transcode", "record", "codec", "policy", "sockets"],
};

pub(crate) const MEDIA_ENGINES: Section = Section {
    name: "media.engines",
    header: "engines of a [[media]]",
    doc: "One rtpengine.",
    keys: &[
        Key {
            name: "address",
            value: "IP address and port",
            default: "required",
            effect: Reload,
            doc: "Where it listens for the `ng` protocol over UDP (`listen-ng`). Calls are known by this address: one that is taken away here still serves those that it has.",
            example: r#"address = "192.0.2.20:2223""#,
        },
        Key {
            name: "weight",
            value: "integer, 0 to 1000",
            default: "1",
            effect: Reload,
            doc: "Its share of new calls. 0: it gets none, and keeps those that it has.",
            example: "weight = 1",
        },
    ],
    absent: &["name", "capacity", "enabled", "disabled"],
};

macro_rules! side {
    ($name:literal, $header:literal, $doc:literal) => {
        Section {
            name: $name,
            header: $header,
            doc: $doc,
            keys: &[
                Key {
                    name: "ice",
                    value: "`\"remove\"`, `\"force\"`, `\"optional\"`, `\"force-relay\"` or `\"default\"`",
                    default: "rtpengine's own",
                    effect: Reload,
                    doc: "What is done with ICE in SDP that goes to this side.",
                    example: r#"ice = "remove""#,
                },
                Key {
                    name: "transport",
                    value: "`\"RTP/AVP\"`, `\"RTP/SAVP\"`, `\"RTP/AVPF\"`, `\"RTP/SAVPF\"`, `\"UDP/TLS/RTP/SAVP\"` or `\"UDP/TLS/RTP/SAVPF\"`",
                    default: "as the other side has it",
                    effect: Reload,
                    doc: "The profile of RTP that this side speaks.",
                    example: r#"transport = "RTP/AVP""#,
                },
                Key {
                    name: "family",
                    value: "`\"IP4\"` or `\"IP6\"`",
                    default: "as the other side has it",
                    effect: Reload,
                    doc: "The address family of this side.",
                    example: r#"family = "IP4""#,
                },
                Key {
                    name: "dtls",
                    value: "`\"off\"`, `\"passive\"` or `\"active\"`",
                    default: "rtpengine's own",
                    effect: Reload,
                    doc: "The part that the engine plays in DTLS.",
                    example: r#"dtls = "passive""#,
                },
                Key {
                    name: "interface",
                    value: "letters, digits, `-`, `_` and `.`",
                    default: "the engine's first",
                    effect: Reload,
                    doc: "The engine's interface, by its name there, that this side is reached by (`direction`). Both sides have one, or none.",
                    example: r#"interface = "public""#,
                },
                Key {
                    name: "rtcp_mux",
                    value: "list of `\"offer\"`, `\"require\"`, `\"demux\"`, `\"accept\"`, `\"reject\"`",
                    default: "rtpengine's own",
                    effect: Reload,
                    doc: "Whether RTP and RTCP share a port.",
                    example: r#"rtcp_mux = ["demux"]"#,
                },
                Key {
                    name: "sdes",
                    value: "list of strings",
                    default: "rtpengine's own",
                    effect: Reload,
                    doc: "Options for keys in the SDP, word for word: `off`, `pad`, `no-NAME` and so on.",
                    example: r#"sdes = ["off"]"#,
                },
                Key {
                    name: "flags",
                    value: "list of strings",
                    default: "none",
                    effect: Reload,
                    doc: "Further flags of rtpengine for SDP that goes to this side, word for word.",
                    example: r#"flags = ["asymmetric"]"#,
                },
            ],
            absent: &["codec", "tos"],
        }
    };
}

pub(crate) const MEDIA_CALLER: Section = side!(
    "media.caller",
    "caller of a [[media]]",
    "How the engine speaks to callers."
);
pub(crate) const MEDIA_CALLEE: Section = side!(
    "media.callee",
    "callee of a [[media]]",
    "How the engine speaks to callees; the keys are those of `caller`."
);

/// The key that chooses a `[[media]]`, of a domain, a group or a route.
pub(crate) const MEDIA_KEY: Key = Key {
    name: "media",
    value: "name of a `[[media]]`",
    default: "none",
    effect: Reload,
    doc: "The engines that relay the media of calls that are led by this. What a route says goes before what its group says, and that before what the domain says: that of the Request-URI, else that of the caller.",
    example: r#"media = "relay""#,
};

/// Reads the key of a domain, a group or a route.
pub(crate) fn chosen(table: &Table<'_>) -> Option<String> {
    table.text("media", value::identifier)
}

pub(crate) fn one(table: &Table<'_>) -> Media {
    table.require("name");
    table.require("engines");
    let engines = table.inner_list("engines", "media.engines");
    if table.is_empty_list("engines") {
        let remedy = "add at least one: { address = \"192.0.2.20:2223\" }";
        table.error("engines", "has no engine", remedy);
    }
    if engines.len() > ENGINES_MAX {
        let what = format!("has {} engines; there can be {ENGINES_MAX}", engines.len());
        table.error("engines", what, "make two [[media]] of it");
    }
    let mut seen = HashSet::new();
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let engines: Vec<MediaEngine> = engines
        .iter()
        .map(|engine| {
            engine.require("address");
            let address = engine.text("address", engine_address).unwrap_or(nowhere);
            if address != nowhere && !seen.insert(address) {
                engine.error(
                    "address",
                    "is in this list already",
                    "remove one of the two",
                );
            }
            MediaEngine {
                address,
                weight: engine.integer("weight", 0, 1000).unwrap_or(1),
            }
        })
        .collect();
    let [caller, callee] = ["caller", "callee"].map(|name| {
        let section = ["media.", name].concat();
        let side = table.inner(name, &section);
        side.map(|side| one_side(&side)).unwrap_or_default()
    });
    if caller.interface.is_some() != callee.interface.is_some() {
        let missing = if caller.interface.is_some() {
            "callee"
        } else {
            "caller"
        };
        table.error(
            if caller.interface.is_some() {
                "caller"
            } else {
                "callee"
            },
            format!("has an `interface`, and `{missing}` has none"),
            format!("add `interface` to `{missing}`: rtpengine wants both or none"),
        );
    }
    Media {
        name: table.text("name", value::identifier).unwrap_or_default(),
        engines,
        timeout: duration(table, "timeout", SECOND / 20..=10 * SECOND, SECOND),
        on_failure: table
            .text("on_failure", on_failure)
            .unwrap_or(OnMediaFailure::Reject(503)),
        probe_interval: duration(
            table,
            "probe_interval",
            SECOND / 10..=3600 * SECOND,
            2 * SECOND,
        ),
        down_after: table.integer("down_after", 1, 100).unwrap_or(3),
        up_after: table.integer("up_after", 1, 100).unwrap_or(1),
        replace: words(table, "replace", REPLACE)
            .unwrap_or_else(|| vec!["origin".into(), "session-connection".into()]),
        flags: flags(table, "flags"),
        sip_source: table
            .choice("send_to", &[("sdp", false), ("source", true)], &[])
            .unwrap_or(false),
        caller,
        callee,
    }
}

fn one_side(table: &Table<'_>) -> MediaSide {
    let word = |name, words: &[&'static str]| {
        let words: Vec<(&str, &str)> = words.iter().map(|&word| (word, word)).collect();
        table.choice(name, &words, &[]).map(str::to_owned)
    };
    MediaSide {
        ice: word("ice", ICE),
        transport: word("transport", TRANSPORT),
        family: word("family", FAMILY),
        dtls: word("dtls", DTLS),
        interface: table.text("interface", value::identifier),
        rtcp_mux: words(table, "rtcp_mux", RTCP_MUX).unwrap_or_default(),
        sdes: flags(table, "sdes"),
        flags: flags(table, "flags"),
    }
}

fn words(table: &Table<'_>, name: &str, words: &[&'static str]) -> Option<Vec<String>> {
    let words: Vec<(&str, &str)> = words.iter().map(|&word| (word, word)).collect();
    let list = table.choices(name, &words, &[])?;
    Some(list.into_iter().map(str::to_owned).collect())
}

fn flags(table: &Table<'_>, name: &str) -> Vec<String> {
    let flag = |text: &str| {
        let plain = |b: u8| b.is_ascii_graphic();
        if text.is_empty() || text.len() > 128 || !text.bytes().all(plain) {
            return value::wrong(
                "has a flag that is none",
                "write it as rtpengine's documentation has it, without spaces",
            );
        }
        if ["trust-address", "SIP-source-address"].contains(&text) {
            return value::wrong(
                format!("has {text:?}, which is not said by a flag here"),
                "write send_to = \"sdp\" or send_to = \"source\"",
            );
        }
        Ok(text.to_owned())
    };
    table.texts(name, flag).unwrap_or_default()
}

fn engine_address(text: &str) -> Result<SocketAddr, value::Wrong> {
    let remedy = "write the address and port of its listen-ng, like 192.0.2.20:2223";
    match text.parse::<SocketAddr>() {
        Ok(address)
            if address.port() == 0
                || address.ip().is_unspecified()
                || address.ip().is_multicast() =>
        {
            value::wrong("is no address of an engine", remedy)
        }
        Ok(address) => Ok(address),
        Err(_) => value::wrong("is not an IP address with a port", remedy),
    }
}

fn on_failure(text: &str) -> Result<OnMediaFailure, value::Wrong> {
    let remedy = "write \"reject:503\" or \"pass\"";
    if text == "pass" {
        return Ok(OnMediaFailure::Pass);
    }
    let code = text.strip_prefix("reject:").map(str::parse::<u16>);
    match code {
        Some(Ok(code @ 400..=699)) => Ok(OnMediaFailure::Reject(code)),
        Some(_) => value::wrong("has no status from 400 to 699", remedy),
        None => value::wrong(format!("has an unknown value {text:?}"), remedy),
    }
}

/// Names that are there twice, are used and not there, or are not used.
pub(crate) fn check(draft: &Draft<'_>, clean: bool) {
    let config = &draft.config;
    let mut seen = HashSet::new();
    let domains = config.domains.iter().map(|domain| &domain.media);
    let groups = config.groups.iter().map(|group| &group.media);
    let routes = config.routes.iter().map(|route| &route.media);
    let used: Vec<&String> = domains.chain(groups).chain(routes).flatten().collect();
    for (media, table) in config.media.iter().zip(&draft.media) {
        let name = &media.name;
        if name.is_empty() {
            continue;
        }
        if !seen.insert(name) {
            let what = format!("\"{name}\" is there already");
            table.error("name", what, "remove one of the two [[media]]");
        } else if clean && !used.contains(&name) {
            let remedy = format!(
                "add media = \"{name}\" to a [[domain]], a [[group]] or a [[route]], or remove it"
            );
            table.warning("name", format!("\"{name}\" is used by nothing"), remedy);
        }
    }
    for (domain, table) in config.domains.iter().zip(&draft.domains) {
        if domain.media.is_some() && !domain.record_route {
            let remedy =
                "write record_route = true: later offers and answers have to pass here too";
            table.error("media", "needs `record_route`", remedy);
        }
    }
    for domain in draft
        .domains
        .iter()
        .zip(&config.domains)
        .filter(|(_, domain)| clean && !domain.record_route && domain.media.is_none())
    {
        unrecorded(config, domain.1, domain.0);
    }
    let places = [
        (
            config.domains.iter().map(|d| &d.media).collect::<Vec<_>>(),
            &draft.domains,
        ),
        (
            config.groups.iter().map(|g| &g.media).collect(),
            &draft.groups,
        ),
        (
            config.routes.iter().map(|r| &r.media).collect(),
            &draft.routes,
        ),
    ];
    for (names, tables) in places {
        for (name, table) in names.into_iter().zip(tables) {
            if name.is_some() && !config.calls.record {
                let remedy = "remove it, or `record = false` in [calls]";
                table.error("media", "is for calls on record only", remedy);
            }
            if let Some(name) = name
                && config.media(name).is_none()
            {
                missing(config, name, table);
            }
        }
    }
}

/// Rules lead calls of a domain to engines, where the calls have no record.
fn unrecorded(config: &Config, domain: &Domain, table: &Table<'_>) {
    let group_has_media = |name: &String| {
        config
            .group(name)
            .is_some_and(|group| group.media.is_some())
    };
    let leads_there = config.routes.iter().position(|route| {
        let called = route.matches.domain.as_ref();
        let of_group = match &route.to {
            Target::Group(name) => group_has_media(name),
            // Which of them a number is led to is not known here.
            Target::Prefix(_) => config.groups.iter().any(|group| group.media.is_some()),
            _ => false,
        };
        called.is_none_or(|called| *called == domain.name) && (route.media.is_some() || of_group)
    });
    if let Some(at) = leads_there {
        let number = at.saturating_add(1);
        table.warning(
            "record_route",
            format!("leaves calls of this domain without the media engines that [[route]] number {number} leads them to"),
            "set record_route = true: later offers and answers have to pass here too",
        );
    }
}

fn missing(config: &Config, name: &str, table: &Table<'_>) {
    let known = config.media.iter().map(|media| media.name.as_str());
    let remedy = nearest(name, known).map_or_else(
        || format!("add a [[media]] with name = \"{name}\""),
        |near| format!("did you mean \"{near}\"?"),
    );
    table.error(
        "media",
        format!("names engines that do not exist ({name})"),
        remedy,
    );
}
