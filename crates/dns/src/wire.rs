//! Questions and answers on the wire (RFC 1035, RFC 6891). The only file that sees `hickory-proto`'s messages.

use std::net::IpAddr;

use failpoint::failpoint;
use hickory_proto::{
    op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
    serialize::binary::{BinDecodable as _, BinDecoder},
};
use stdx::hash::{Key, hash64};

/// What we take by UDP: fits every path of today without fragments (RFC 9715).
const PAYLOAD_MAX: u16 = 1232;
/// Addresses that one answer may bring.
const ADDRESSES_MAX: usize = 32;
/// SRV and NAPTR records that one answer may bring.
const SERVICES_MAX: usize = 32;
/// Aliases that one chain may have.
pub(crate) const ALIASES_MAX: u8 = 8;

/// What is asked about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    A,
    Aaaa,
    Srv,
    Naptr,
}

impl Kind {
    const fn record_type(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Srv => RecordType::SRV,
            Self::Naptr => RecordType::NAPTR,
        }
    }
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
}

/// One SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) priority: u16,
    pub(crate) weight: u16,
    pub(crate) port: u16,
    pub(crate) target: Name,
}

/// One NAPTR record that leads to SRV records (RFC 3263 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) order: u16,
    pub(crate) preference: u16,
    /// `SIP+D2U` and the like, in upper case.
    pub(crate) service: Vec<u8>,
    pub(crate) replacement: Name,
}

/// What the records of an answer say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Addresses(Vec<IpAddr>),
    /// With the addresses of targets that came beside them, good for these records only.
    Services(Vec<Service>, Vec<(Name, IpAddr)>),
    Pointers(Vec<Pointer>),
}

/// What an answer means. Lifetimes in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Data(Data, u32),
    /// The name is another's alias, about which the answer says no more.
    Alias(Name, u32),
    /// There is no such name, or it has no such records. `None`: nobody says for how long (RFC 2308 §5).
    Nothing(Option<u32>),
}

/// What came from a server, as far as it can be read.
#[derive(Debug)]
pub(crate) enum Reply {
    Whole(Box<Message>),
    /// The question can be read, the records can't.
    Broken(u16, Query),
}

impl Reply {
    /// `None` for what is no answer to one question.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        match Message::from_vec(bytes) {
            Ok(mut message) => {
                let meta = &message.metadata;
                let one = message.queries.len() == 1
                    && meta.message_type == MessageType::Response
                    && meta.op_code == OpCode::Query;
                // Nothing needs what is for others to see.
                message.signature = None;
                one.then(|| Self::Whole(Box::new(message)))
            }
            Err(_) => {
                let mut decoder = BinDecoder::new(bytes);
                let header = Header::read(&mut decoder).ok()?;
                let one = header.counts.queries == 1
                    && header.metadata.message_type == MessageType::Response
                    && header.metadata.op_code == OpCode::Query;
                let query = Query::read(&mut decoder).ok()?;
                one.then_some(Self::Broken(header.metadata.id, query))
            }
        }
    }

    pub(crate) fn id(&self) -> u16 {
        match self {
            Self::Whole(message) => message.metadata.id,
            Self::Broken(id, _) => *id,
        }
    }

    fn query(&self) -> Option<&Query> {
        match self {
            Self::Whole(message) => message.queries.first(),
            Self::Broken(_, query) => Some(query),
        }
    }

    /// Whether it answers this question at all, and whether the name is spelled as we spelled it.
    pub(crate) fn matches(&self, spelled: &Name, kind: Kind) -> Match {
        let Some(query) = self.query() else {
            return Match::Foreign;
        };
        if query.query_class != DNSClass::IN
            || query.query_type != kind.record_type()
            || query.name != *spelled
        {
            Match::Foreign
        } else if query.name.eq_case(spelled) {
            Match::Exact
        } else {
            failpoint!("dns.broken.spelling", Match::Exact);
            Match::OtherCase
        }
    }
}

/// How the question of an answer compares with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    /// A server that changes the case of letters, or somebody who guesses (draft-vixie-dnsext-dns0x20).
    OtherCase,
    Foreign,
}

/// What the header of an answer tells to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Found(Found),
    /// Ask again by TCP.
    Truncated,
    /// The server does not know EDNS.
    NoEdns,
    /// Another server may do better.
    Failed,
}

/// Reads an answer to `question`.
pub(crate) fn verdict(reply: &Reply, question: &Question) -> Verdict {
    let message = match reply {
        Reply::Whole(message) => message,
        Reply::Broken(..) => return Verdict::Failed,
    };
    if message.metadata.truncation {
        return Verdict::Truncated;
    }
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {
            found(message, question).map_or(Verdict::Failed, Verdict::Found)
        }
        // BADSIG has the number of BADVERS, and is for signed questions only.
        ResponseCode::FormErr
        | ResponseCode::NotImp
        | ResponseCode::BADVERS
        | ResponseCode::BADSIG => Verdict::NoEdns,
        _ => Verdict::Failed,
    }
}

/// Follows the aliases of an answer to what it says; `None` for a chain without end.
fn found(message: &Message, question: &Question) -> Option<Found> {
    let mut name = &question.name;
    let mut lifetime = u32::MAX;
    for step in 0..=ALIASES_MAX {
        let here = || {
            message
                .answers
                .iter()
                .filter(|record| record.name == *name && record.dns_class == DNSClass::IN)
        };
        if let Some((data, least)) = data(here(), question.kind, message) {
            return Some(Found::Data(data, lifetime.min(least)));
        }
        let alias = here().find_map(|record| match &record.data {
            RData::CNAME(alias) => Some((&alias.0, seconds(record))),
            _ => None,
        });
        let Some((next, seconds)) = alias else {
            // Of an alias whose own name is not said to be without records we must ask.
            return Some(match negative(message) {
                None if step > 0 && message.metadata.response_code == ResponseCode::NoError => {
                    Found::Alias(name.clone(), lifetime)
                }
                seconds => Found::Nothing(seconds.map(|seconds| seconds.min(lifetime))),
            });
        };
        name = next;
        lifetime = lifetime.min(seconds);
    }
    None
}

/// The records of the wanted kind, and the shortest of their lifetimes; `None` if there is none.
fn data<'r>(
    records: impl Iterator<Item = &'r Record>,
    kind: Kind,
    message: &Message,
) -> Option<(Data, u32)> {
    let mut least = u32::MAX;
    let (mut addresses, mut services, mut pointers) = (Vec::new(), Vec::new(), Vec::new());
    for record in records {
        match (&record.data, kind) {
            (RData::A(a), Kind::A) => addresses.push(IpAddr::V4(a.0)),
            (RData::AAAA(a), Kind::Aaaa) => addresses.push(IpAddr::V6(a.0)),
            (RData::SRV(srv), Kind::Srv) => services.push(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.clone(),
            }),
            (RData::NAPTR(naptr), Kind::Naptr) => pointers.extend(pointer(naptr)),
            _ => continue,
        }
        least = least.min(seconds(record));
    }
    if least == u32::MAX {
        return None;
    }
    let data = match kind {
        Kind::A | Kind::Aaaa => {
            addresses.truncate(ADDRESSES_MAX);
            Data::Addresses(addresses)
        }
        Kind::Srv => {
            // The first choices are kept.
            services.sort_by_key(|service| service.priority);
            services.truncate(SERVICES_MAX);
            let (hints, seconds) = hints(message, &services);
            least = least.min(seconds);
            Data::Services(services, hints)
        }
        Kind::Naptr => {
            pointers.sort_by_key(|pointer| (pointer.order, pointer.preference));
            pointers.truncate(SERVICES_MAX);
            Data::Pointers(pointers)
        }
    };
    Some((data, least))
}

/// Only terminal rules that lead to SRV records, without a regular expression, are for SIP (RFC 3263 §4.1).
fn pointer(naptr: &hickory_proto::rr::rdata::NAPTR) -> Option<Pointer> {
    let service = naptr.services.to_ascii_uppercase();
    let of_sip = service.starts_with(b"SIP+D2") || service.starts_with(b"SIPS+D2");
    (of_sip
        && naptr.flags.eq_ignore_ascii_case(b"s")
        && naptr.regexp.is_empty()
        && !naptr.replacement.is_root())
    .then(|| Pointer {
        order: naptr.order,
        preference: naptr.preference,
        service,
        replacement: naptr.replacement.clone(),
    })
}

/// Addresses of the services' targets that came in the additional section. They are good for these services and never become
/// answers about the names themselves: whoever may say where its services are may not say where others' hosts are.
fn hints(message: &Message, services: &[Service]) -> (Vec<(Name, IpAddr)>, u32) {
    let mut least = u32::MAX;
    let hints = message.additionals.iter().filter_map(|record| {
        let ip = match &record.data {
            RData::A(a) => IpAddr::V4(a.0),
            RData::AAAA(a) => IpAddr::V6(a.0),
            _ => return None,
        };
        let wanted = record.dns_class == DNSClass::IN
            && services.iter().any(|service| service.target == record.name);
        wanted.then(|| {
            least = least.min(seconds(record));
            (record.name.clone(), ip)
        })
    });
    let hints = hints.take(ADDRESSES_MAX).collect();
    (hints, least)
}

/// For how long there is nothing: what the SOA record says (RFC 2308 §5).
fn negative(message: &Message) -> Option<u32> {
    message
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(seconds(record).min(soa.minimum)),
            _ => None,
        })
}

/// A lifetime with its topmost bit set counts as 0 (RFC 2181 §8).
fn seconds(record: &Record) -> u32 {
    if record.ttl > i32::MAX.unsigned_abs() {
        0
    } else {
        record.ttl
    }
}

/// The text of a query. `None` for a name that can't be written.
pub(crate) fn query(id: u16, spelled: &Name, kind: Kind, edns: bool) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(spelled.clone(), kind.record_type()));
    if edns {
        let mut options = Edns::new();
        options.set_max_payload(PAYLOAD_MAX).set_version(0);
        message.set_edns(options);
    }
    message.to_vec().ok()
}

/// The name with letters in upper or lower case as `seed` has it: one more thing that an answer must repeat.
pub(crate) fn spell(name: &Name, seed: u64) -> Name {
    let key = Key([0x20; 16]);
    let mut at = 0u64;
    let labels: Vec<Vec<u8>> = name
        .iter()
        .map(|label| {
            at = at.wrapping_add(1);
            let mut coins = hash64(&key, &[&seed.to_le_bytes(), &at.to_le_bytes()]);
            let spelled = label.iter().map(|byte| {
                let upper = coins & 1 == 1;
                coins = coins.rotate_right(1);
                if upper {
                    byte.to_ascii_uppercase()
                } else {
                    byte.to_ascii_lowercase()
                }
            });
            spelled.collect()
        })
        .collect();
    Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap_or_else(|_| name.clone())
}

/// The name of a host as it stands in a URI; `None` for what can be no name in DNS.
pub(crate) fn host_name(host: &[u8]) -> Option<Name> {
    let host = host.strip_suffix(b".").unwrap_or(host);
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if host.is_empty() || !host.iter().all(fits) {
        return None;
    }
    let name = Name::from_labels(host.split(|&byte| byte == b'.')).ok()?;
    Some(name.to_lowercase())
}

/// `_sip._udp` before a name; `None` if that is too long.
pub(crate) fn service_name(protocol: &str, host: &Name) -> Option<Name> {
    let host = host.prepend_label(protocol).ok()?;
    host.prepend_label("_sip").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(
            host_name(b"SIP.Example.com.").map(|name| name.to_ascii()),
            Some("sip.example.com.".to_owned())
        );
        for bad in [
            &b""[..],
            b".",
            b"a..b",
            b"a b",
            b"\xff",
            &[b'a'; 64],
            &b"a.".repeat(200),
        ] {
            assert!(host_name(bad).is_none(), "{bad:?}");
        }
        let host = host_name(b"example.com").unwrap();
        let service = service_name("_udp", &host).unwrap();
        assert_eq!(service.to_ascii(), "_sip._udp.example.com.");
    }

    #[test]
    fn spelling_survives_the_wire() {
        let name = host_name(b"an-example-of-a-name.example.com").unwrap();
        let spellings: std::collections::BTreeSet<String> = (0..64)
            .map(|seed| {
                let spelled = spell(&name, seed);
                assert_eq!(spelled, name);
                let bytes = query(7, &spelled, Kind::Srv, true).unwrap();
                let read = Message::from_vec(&bytes).unwrap();
                assert!(read.queries[0].name.eq_case(&spelled));
                assert_eq!(read.edns.unwrap().max_payload(), PAYLOAD_MAX);
                spelled.to_ascii()
            })
            .collect();
        assert!(spellings.len() > 60);
    }
}
