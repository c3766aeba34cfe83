//! `[topology]` and the key `topology_hiding`: what one side of a call learns of the other's network.

use serde::{Deserialize, Serialize};

use crate::{
    keys::{Effect::Reload, Key, Section},
    parse::Draft,
    reader::Table,
    value,
};

/// Whether calls are hidden, and where it is kept what was taken out of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hiding {
    Off,
    /// In the call's record.
    Dialog,
    /// In sealed tokens within the messages.
    Stateless,
}

/// `[topology]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The host in From, To and other identities in place of hidden ones; `None`: the listener's own.
    pub host: Option<String>,
    /// Hosts of From, To and other identities stay.
    pub keep_identities: bool,
    pub unknown: UnknownHeaders,
    /// Server and User-Agent stay.
    pub keep_agents: bool,
    /// Bodies stay, SDP too.
    pub keep_bodies: bool,
    /// Not of the file: keys that `tandem topology rotate` made, the newest first.
    pub keys: Vec<[u8; KEY_BYTES]>,
}

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// What is done with headers that nobody here knows, where an address of the sender is found in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnknownHeaders {
    #[default]
    Rewrite,
    Strip,
    Pass,
}

pub(crate) const TOPOLOGY: Section = Section {
    name: "topology",
    header: "[topology]",
    doc: "How calls are hidden whose `[[domain]]`, `[[group]]` or `[[route]]` says `topology_hiding`. docs/topology.md tells what is hidden, and how.",
    keys: &[
        Key {
            name: "identities",
            value: "`\"own\"` or `\"keep\"`",
            default: r#""own""#,
            effect: Reload,
            doc: "The hosts of From, To, P-Asserted-Identity, Diversion, History-Info and their like. `own`: a host that is no `[[domain]]` becomes `host`. `keep`: they stay.",
            example: r#"identities = "own""#,
        },
        Key {
            name: "host",
            value: "host name or address",
            default: "what the listener calls itself",
            effect: Reload,
            doc: "What stands for hidden hosts of identities.",
            example: r#"host = "sip.example.com""#,
        },
        Key {
            name: "unknown_headers",
            value: "`\"rewrite\"`, `\"strip\"` or `\"pass\"`",
            default: r#""rewrite""#,
            effect: Reload,
            doc: "What is done with a header that this server does not know, and with a body that is neither SDP nor SIP, where an address of the sender's network is found in it. `rewrite`: the address becomes ours. `strip`: the header, or the body, goes; so does a body that can't be read because it is encoded. `pass`: it stays.",
            example: r#"unknown_headers = "rewrite""#,
        },
        Key {
            name: "agents",
            value: "`\"strip\"` or `\"keep\"`",
            default: r#""strip""#,
            effect: Reload,
            doc: "Whether User-Agent and Server go.",
            example: r#"agents = "strip""#,
        },
        Key {
            name: "bodies",
            value: "`\"hide\"` or `\"keep\"`",
            default: r#""hide""#,
            effect: Reload,
            doc: "Whether addresses in bodies are hidden. In SDP those of `c=` lines stay, because media go there: only a `media` relay hides them.",
            example: r#"bodies = "hide""#,
        },
    ],
    absent: &["mode", "key", "call_id"],
};

/// The key that hides calls, of a domain, a group or a route.
pub(crate) const TOPOLOGY_KEY: Key = Key {
    name: "topology_hiding",
    value: "boolean, `\"dialog\"` or `\"stateless\"`",
    default: "false",
    effect: Reload,
    doc: "Neither side of a call that is led by this learns addresses of the other side. `dialog` (or `true`): what is needed to lead requests back is kept in the call's record, and messages stay short. `stateless`: it is sealed into tokens within the messages, so that calls go on after the loss of every record; messages grow by some hundred bytes. What a route says goes before what its group says, and that before what the domain says: that of the Request-URI, else that of the caller. Calls that are up keep to what they began with.",
    example: "topology_hiding = true",
};

/// Reads the key of a domain, a group or a route; `None`: nothing is said.
pub(crate) fn chosen(table: &Table<'_>) -> Option<Hiding> {
    if table.is_boolean("topology_hiding") {
        return table.boolean("topology_hiding").map(|hides| match hides {
            true => Hiding::Dialog,
            false => Hiding::Off,
        });
    }
    table.choice(
        "topology_hiding",
        &[("dialog", Hiding::Dialog), ("stateless", Hiding::Stateless)],
        &[],
    )
}

pub(crate) fn topology(table: &Table<'_>) -> Topology {
    let keeps = |name, hides: &'static str| {
        table
            .choice(name, &[(hides, false), ("keep", true)], &[])
            .unwrap_or(false)
    };
    Topology {
        host: table.text("host", value::host),
        keep_identities: keeps("identities", "own"),
        unknown: table
            .choice(
                "unknown_headers",
                &[
                    ("rewrite", UnknownHeaders::Rewrite),
                    ("strip", UnknownHeaders::Strip),
                    ("pass", UnknownHeaders::Pass),
                ],
                &[],
            )
            .unwrap_or_default(),
        keep_agents: keeps("agents", "strip"),
        keep_bodies: keeps("bodies", "hide"),
        keys: Vec::new(),
    }
}

/// SDP that is to be hidden, and no relay for its media.
pub(crate) fn check(draft: &Draft<'_>, clean: bool) {
    let config = &draft.config;
    if !clean || config.topology.keep_bodies {
        return;
    }
    let domains = config.domains.iter().map(|d| (d.topology_hiding, &d.media));
    let groups = config.groups.iter().map(|g| (g.topology_hiding, &g.media));
    let routes = config.routes.iter().map(|r| (r.topology_hiding, &r.media));
    let places = domains
        .zip(&draft.domains)
        .chain(groups.zip(&draft.groups))
        .chain(routes.zip(&draft.routes));
    for ((hiding, media), table) in places {
        let hides = hiding.is_some_and(|hiding| hiding != Hiding::Off);
        if hides && media.is_none() {
            table.warning(
                "topology_hiding",
                "hides signalling, but has no media relay: SDP still tells each side the address that the other one has its media at",
                "add media = \"NAME\" of a [[media]] here, or say bodies = \"keep\" in [topology] if SDP is to stay as it is",
            );
        }
    }
}
