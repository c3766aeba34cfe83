//! Questions as bytes.
//!
//! What an operator chooses is said of sides: how the engine is to speak to the caller, and how to the callee ([`Side`]). A message that
//! goes towards a side carries what was chosen for that side, whichever of both sent it: so a call begins, is changed from either end, and is
//! answered by the same configuration.

use std::net::IpAddr;

use crate::bencode::Writer;

/// What is done with ICE in the SDP that goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ice {
    Remove,
    Force,
    Optional,
    ForceRelay,
    Default,
}

/// The profile of RTP in the SDP that goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Avp,
    Savp,
    Avpf,
    Savpf,
    DtlsSavp,
    DtlsSavpf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

/// The part that the engine plays in DTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtls {
    Off,
    Passive,
    Active,
}

macro_rules! named {
    ($type:ident: $($variant:ident $name:literal),+) => {
        impl $type {
            /// All of them, by the names of rtpengine's documentation.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

named!(Ice: Remove "remove", Force "force", Optional "optional", ForceRelay "force-relay", Default "default");
named!(Transport: Avp "RTP/AVP", Savp "RTP/SAVP", Avpf "RTP/AVPF", Savpf "RTP/SAVPF", DtlsSavp "UDP/TLS/RTP/SAVP", DtlsSavpf "UDP/TLS/RTP/SAVPF");
named!(Family: V4 "IP4", V6 "IP6");
named!(Dtls: Off "off", Passive "passive", Active "active");

/// How the engine speaks to one side; `None` leaves it as the other side has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    pub ice: Option<Ice>,
    pub transport: Option<Transport>,
    pub family: Option<Family>,
    pub dtls: Option<Dtls>,
    /// The engine's interface that this side is reached by (`direction`).
    pub interface: Option<String>,
    pub rtcp_mux: Vec<String>,
    pub sdes: Vec<String>,
    /// Further flags, word for word.
    pub flags: Vec<String>,
}

/// How the engine treats a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// What is replaced in the SDP: `origin`, `session-connection` and so on.
    pub replace: Vec<String>,
    /// Flags for both sides, word for word: `trust-address`, `symmetric`, `asymmetric`, `loop-protect` and so on.
    pub flags: Vec<String>,
    /// Media is sent to where the message came from instead of where its SDP says.
    pub sip_source: bool,
    pub caller: Side,
    pub callee: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Offer,
    Answer,
}

impl Verb {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Offer => b"offer",
            Self::Answer => b"answer",
        }
    }
}

/// An offer, or its answer.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'c> {
    pub verb: Verb,
    pub call_id: &'c [u8],
    /// The tag of who has made the *offer*, in an answer too.
    pub from_tag: &'c [u8],
    /// The other one's, if it is known.
    pub to_tag: Option<&'c [u8]>,
    /// Tells the branches of a forked INVITE apart.
    pub via_branch: Option<&'c [u8]>,
    pub sdp: &'c [u8],
    /// Where the message came from.
    pub received_from: IpAddr,
    /// Whether it goes towards the callee of the call.
    pub to_callee: bool,
}

impl Profile {
    /// Appends an offer or an answer.
    pub fn write(&self, exchange: &Exchange<'_>, out: &mut Vec<u8>) {
        let (from, to) = if exchange.to_callee {
            (&self.caller, &self.callee)
        } else {
            (&self.callee, &self.caller)
        };
        Writer(out).dictionary(|w| {
            w.pair("command", exchange.verb.name())
                .pair("call-id", exchange.call_id)
                .pair("from-tag", exchange.from_tag);
            if let Some(tag) = exchange.to_tag {
                w.pair("to-tag", tag);
            }
            if let Some(branch) = exchange.via_branch {
                w.pair("via-branch", branch);
            }
            w.pair("sdp", exchange.sdp);
            let (kind, address) = match exchange.received_from {
                IpAddr::V4(ip) => ("IP4", ip.to_string()),
                IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                    Some(ip) => ("IP4", ip.to_string()),
                    None => ("IP6", ip.to_string()),
                },
            };
            w.list("received-from", [kind.as_bytes(), address.as_bytes()]);
            w.list("replace", self.replace.iter().map(String::as_bytes));
            let address = if self.sip_source {
                "SIP-source-address"
            } else {
                "trust-address"
            };
            let flags = [&self.flags, &to.flags].into_iter().flatten();
            w.list(
                "flags",
                std::iter::once(address)
                    .chain(flags.map(String::as_str))
                    .map(str::as_bytes),
            );
            if let (Some(from), Some(to)) = (&from.interface, &to.interface) {
                w.list("direction", [from.as_bytes(), to.as_bytes()]);
            }
            for (key, value) in [
                ("ICE", to.ice.map(Ice::name)),
                ("transport-protocol", to.transport.map(Transport::name)),
                ("address family", to.family.map(Family::name)),
                ("DTLS", to.dtls.map(Dtls::name)),
            ] {
                if let Some(value) = value {
                    w.pair(key, value.as_bytes());
                }
            }
            w.list("rtcp-mux", to.rtcp_mux.iter().map(String::as_bytes));
            w.list("SDES", to.sdes.iter().map(String::as_bytes));
        });
    }
}

/// Appends the end of a call, or of what `from_tag` has in it.
pub fn write_delete(call_id: &[u8], from_tag: &[u8], out: &mut Vec<u8>) {
    Writer(out).dictionary(|w| {
        w.pair("command", b"delete")
            .pair("call-id", call_id)
            .pair("from-tag", from_tag);
    });
}

pub fn write_ping(out: &mut Vec<u8>) {
    Writer(out).dictionary(|w| {
        w.pair("command", b"ping");
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(verb: Verb, to_callee: bool, expected: Expect) {
        let texts = |all: &[&str]| all.iter().map(|&text| text.into()).collect();
        let profile = Profile {
            replace: texts(&["origin", "session-connection"]),
            flags: texts(&["loop-protect"]),
            sip_source: false,
            caller: Side {
                ice: Some(Ice::Force),
                transport: Some(Transport::DtlsSavpf),
                interface: Some("public".into()),
                rtcp_mux: texts(&["offer"]),
                ..Side::default()
            },
            callee: Side {
                ice: Some(Ice::Remove),
                transport: Some(Transport::Avp),
                interface: Some("private".into()),
                family: Some(Family::V4),
                dtls: Some(Dtls::Off),
                flags: texts(&["asymmetric"]),
                ..Side::default()
            },
        };
        let mut out = Vec::new();
        let exchange = Exchange {
            verb,
            call_id: b"c1",
            from_tag: b"a",
            to_tag: (verb == Verb::Answer).then_some(b"b"),
            via_branch: Some(b"z9hG4bK1"),
            sdp: b"v=0",
            received_from: "::ffff:192.0.2.1".parse().unwrap(),
            to_callee,
        };
        profile.write(&exchange, &mut out);
        crate::bencode::Value::parse(&out).unwrap();
        expected.assert_eq(&String::from_utf8(out).unwrap());
    }

    #[test]
    fn an_offer_carries_what_is_chosen_for_who_gets_it() {
        check(
            Verb::Offer,
            true,
            expect![
                "d7:command5:offer7:call-id2:c18:from-tag1:a10:via-branch8:z9hG4bK13:sdp3:v=013:received-froml3:IP49:192.0.2.1e7:replacel6:origin18:session-connectione5:flagsl13:trust-address12:loop-protect10:asymmetrice9:directionl6:public7:privatee3:ICE6:remove18:transport-protocol7:RTP/AVP14:address family3:IP44:DTLS3:offe"
            ],
        );
        check(
            Verb::Answer,
            false,
            expect![
                "d7:command6:answer7:call-id2:c18:from-tag1:a6:to-tag1:b10:via-branch8:z9hG4bK13:sdp3:v=013:received-froml3:IP49:192.0.2.1e7:replacel6:origin18:session-connectione5:flagsl13:trust-address12:loop-protecte9:directionl7:private6:publice3:ICE5:force18:transport-protocol17:UDP/TLS/RTP/SAVPF8:rtcp-muxl5:offeree"
            ],
        );
    }

    #[test]
    fn names_go_both_ways() {
        for name in Transport::NAMES {
            assert_eq!(Transport::named(name).unwrap().name(), *name);
        }
        for name in Ice::NAMES {
            assert_eq!(Ice::named(name).unwrap().name(), *name);
        }
        assert_eq!(Dtls::named("sometimes"), None);
        assert_eq!(Family::named("IP4"), Some(Family::V4));
    }
}
