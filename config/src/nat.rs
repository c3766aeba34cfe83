//! `[nat]`: phones behind address translation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    keys::{Effect::Reload, Key, Section},
    reader::Table,
    value::{self, Wrong},
};

/// `[nat]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    pub detect: NatDetection,
    /// `None`: off.
    pub keepalive: Option<Duration>,
    /// By OPTIONS, and not by CRLF.
    pub keepalive_options: bool,
    /// Of all bindings, and not only of those behind address translation.
    pub keepalive_all: bool,
    /// Datagrams in a second over all slots.
    pub keepalive_rate: u32,
    /// How many in a row without an answer remove a binding; 0: none does.
    pub keepalive_failures: u8,
}

/// `nat.detect`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NatDetection {
    Off,
    Auto,
    Always,
}

const SECOND: Duration = Duration::from_secs(1);

pub(crate) const NAT: Section = Section {
    name: "nat",
    header: "[nat]",
    doc: "Phones behind address translation (NAT). Responses always go back to where a request came from (RFC 3581, if it asks for it), and a binding always keeps the listener, and its address, that it was registered by: what goes to the phone leaves from there.",
    keys: &[
        Key {
            name: "detect",
            value: "`\"auto\"`, `\"always\"` or `\"off\"`",
            default: r#""auto""#,
            effect: Reload,
            doc: "Which phones are reached where their REGISTER came from, instead of where their Contact says. `auto`: whose Contact has a private address (RFC 1918, 6598, 4193), or that of their own Via, and comes from another; whose Contact ends in `.invalid`; and who asks for `rport` and sends from another port than the Contact's. `always`: all that register without a proxy between. `off`: none. Bindings made before a change stay as they are until they are refreshed.",
            example: r#"detect = "auto""#,
        },
        Key {
            name: "keepalive",
            value: r#"duration, `"5s"` to `"1h"`, or `"off"`"#,
            default: r#""30s""#,
            effect: Reload,
            doc: "How often something is sent to a binding, so that the way through the address translation stays open. The bindings are spread over this time.",
            example: r#"keepalive = "30s""#,
        },
        Key {
            name: "keepalive_method",
            value: "`\"options\"` or `\"crlf\"`",
            default: r#""options""#,
            effect: Reload,
            doc: "What is sent. `options`: a request, which the phone answers, so that traffic goes both ways, as most routers want it. `crlf`: four bytes that phones ignore (RFC 5626 §3.5.1 has them for streams), which only keeps open what lets traffic from outside do so.",
            example: r#"keepalive_method = "options""#,
        },
        Key {
            name: "keepalive_for",
            value: "`\"nat\"` or `\"all\"`",
            default: r#""nat""#,
            effect: Reload,
            doc: "Which bindings: those found behind address translation, or all that were registered without a proxy between.",
            example: r#"keepalive_for = "nat""#,
        },
        Key {
            name: "keepalive_rate",
            value: "integer, 1 to 1000000",
            default: "20000",
            effect: Reload,
            doc: "Datagrams in a second at most, over all slots. With more bindings than that allows for, each waits longer than `keepalive`.",
            example: "keepalive_rate = 20000",
        },
        Key {
            name: "keepalive_failures",
            value: "integer, 0 to 100",
            default: "0",
            effect: Reload,
            doc: "After how many `OPTIONS` in a row without any answer a binding is removed, so that nobody waits for a phone that is gone; 0: after none, it ends when it expires. A REGISTER or an answer, whatever it says, begins the count anew. Only for phones that answer OPTIONS at all; those that don't would be removed between their REGISTERs.",
            example: "keepalive_failures = 0",
        },
    ],
    absent: &["contact", "stun", "turn", "remove_dead"],
};

pub(crate) fn read(table: &Table<'_>) -> Nat {
    let detections = [
        ("auto", NatDetection::Auto),
        ("always", NatDetection::Always),
        ("off", NatDetection::Off),
    ];
    let nat = Nat {
        detect: table
            .choice("detect", &detections, &[])
            .unwrap_or(NatDetection::Auto),
        keepalive: table
            .text("keepalive", keepalive)
            .unwrap_or(Some(30 * SECOND)),
        keepalive_options: table
            .choice(
                "keepalive_method",
                &[("options", true), ("crlf", false)],
                &[],
            )
            .unwrap_or(true),
        keepalive_all: table
            .choice("keepalive_for", &[("nat", false), ("all", true)], &[])
            .unwrap_or(false),
        keepalive_rate: table
            .integer("keepalive_rate", 1, 1_000_000)
            .unwrap_or(20_000),
        keepalive_failures: table
            .integer::<u8>("keepalive_failures", 0, 100)
            .unwrap_or(0),
    };
    let asks = nat.keepalive.is_some() && nat.keepalive_options;
    if nat.keepalive_failures > 0 && !asks {
        table.warning(
            "keepalive_failures",
            "counts nothing: nothing is sent that is answered",
            "set keepalive to a time and keepalive_method to \"options\", or remove it",
        );
    }
    nat
}

fn keepalive(text: &str) -> Result<Option<Duration>, Wrong> {
    match text {
        "off" => Ok(None),
        text => value::duration(text, 5 * SECOND..=3600 * SECOND).map(Some),
    }
}
