//! What stands between quotes: sizes, durations, addresses, names. Pure functions over text.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Duration,
};

use sip::uri::{Host, HostError};

use crate::{
    model::{Network, Pin, Secret, Target},
    uri,
};

/// Longest regular expression, in bytes.
const PATTERN_BYTES_MAX: usize = 1000;
/// Most memory that one compiled regular expression may take, in bytes.
pub(crate) const PATTERN_MEMORY_MAX: usize = 1 << 20;

/// Why a text is not the value that it should be.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// Continues a sentence whose subject is the key: "has no port".
    pub(crate) what: String,
    pub(crate) remedy: String,
    /// Bytes of the text that are to blame, if not all of it.
    pub(crate) at: Option<Range<usize>>,
}

pub(crate) fn wrong<T>(what: impl Into<String>, remedy: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        what: what.into(),
        remedy: remedy.into(),
        at: None,
    })
}

fn wrong_at<T>(
    at: Range<usize>,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Result<T, Wrong> {
    Err(Wrong {
        what: what.into(),
        remedy: remedy.into(),
        at: Some(at),
    })
}

/// `"256MiB"`.
pub(crate) fn size(text: &str, allowed: std::ops::RangeInclusive<u64>) -> Result<u64, Wrong> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let Some(&(_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        let remedy = match unit.to_ascii_lowercase().as_str() {
            "k" | "kb" | "kib" => "write KiB",
            "m" | "mb" | "mib" => "write MiB",
            "g" | "gb" | "gib" => "write GiB",
            _ => "write a whole number and a unit: KiB, MiB or GiB",
        };
        return wrong("is not a size", remedy);
    };
    let Some(bytes) = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
    else {
        return wrong(
            "is not a size",
            "write a whole number and a unit: KiB, MiB or GiB",
        );
    };
    if !allowed.contains(&bytes) {
        let (from, to) = (show_size(*allowed.start()), show_size(*allowed.end()));
        return wrong(
            format!("must be {from} to {to}"),
            format!("choose a size from {from} to {to}"),
        );
    }
    Ok(bytes)
}

/// In the largest unit that leaves a whole number.
pub(crate) fn show_size(bytes: u64) -> String {
    let (unit, shift) = match bytes.trailing_zeros() {
        30.. => ("GiB", 30),
        20..=29 => ("MiB", 20),
        10..=19 => ("KiB", 10),
        _ => ("B", 0),
    };
    format!("{}{unit}", bytes >> shift)
}

/// `"500ms"`, `"1h 30m"`.
pub(crate) fn duration(
    text: &str,
    allowed: std::ops::RangeInclusive<Duration>,
) -> Result<Duration, Wrong> {
    let Ok(duration) = humantime::parse_duration(text) else {
        return wrong(
            "is not a duration",
            r#"write a number and a unit, like "500ms", "30s", "3m" or "1h""#,
        );
    };
    if !allowed.contains(&duration) {
        let (from, to) = (
            show_duration(*allowed.start()),
            show_duration(*allowed.end()),
        );
        return wrong(
            format!("must be {from} to {to}"),
            format!("choose a duration from {from} to {to}"),
        );
    }
    Ok(duration)
}

pub(crate) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// `"192.0.2.1:5060"`.
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return wrong(
            "has no port",
            format!("write {}", SocketAddr::new(ip, 5060)),
        );
    }
    if text.starts_with('[') && text.ends_with(']') {
        return wrong("has no port", format!("write {text}:5060"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
        return wrong(
            format!("has a port {port:?} that is no port"),
            "choose a port from 1 to 65535, usually 5060",
        );
    }
    if host == "*" || host.is_empty() {
        return wrong(
            "is not an IP address with a port",
            "write 0.0.0.0:5060 for all IPv4 addresses",
        );
    }
    wrong(
        "is not an IP address with a port",
        "write an address of this machine, like 192.0.2.1:5060 or [2001:db8::1]:5060; a name can go into `advertise`",
    )
}

/// A name server: an address, and a port if it is not 53.
pub(crate) fn name_server(text: &str) -> Result<SocketAddr, Wrong> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, 53),
        Err(_) => match text.parse() {
            Ok(address) => address,
            Err(_) => {
                return wrong(
                    "is not an IP address",
                    "write an address like 192.0.2.53, with a port if it is not 53: 192.0.2.53:5353 or [2001:db8::53]:5353",
                );
            }
        },
    };
    if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
        return wrong(
            "is no address of a server",
            "write the address of a name server, like 127.0.0.1",
        );
    }
    if let SocketAddr::V6(v6) = address
        && v6.ip().is_unicast_link_local()
        && v6.scope_id() == 0
    {
        return wrong(
            "is a link-local address without its interface",
            format!(
                "add the interface's number, the first column of `ip link`: [{}%2]:{}",
                v6.ip(),
                v6.port()
            ),
        );
    }
    Ok(address)
}

/// An absolute path, or `none`.
pub(crate) fn path_or_none(text: &str) -> Result<Option<String>, Wrong> {
    match text {
        "none" => Ok(None),
        text if text.starts_with('/') => Ok(Some(text.to_owned())),
        _ => wrong(
            "is not an absolute path",
            "write the path from / on, or \"none\"",
        ),
    }
}

/// `HOST` or `HOST:PORT` (`hostport` of RFC 3261 §25.1).
pub(crate) fn host_port(text: &str) -> Result<String, Wrong> {
    let (host_text, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return wrong(
            "is an IPv6 address without brackets",
            format!("write [{text}]"),
        );
    }
    if port.is_some_and(|port| !matches!(port.parse::<u16>(), Ok(1..))) {
        return wrong(
            "has no valid port behind the colon",
            "choose a port from 1 to 65535",
        );
    }
    let host = host(host_text)?;
    Ok(match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

/// A host (RFC 3261 §25.1), in its canonical form: lower case, no dot at the end.
pub(crate) fn host(text: &str) -> Result<String, Wrong> {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return wrong(
            "is an IPv6 address without brackets",
            format!("write [{text}]"),
        );
    }
    let remedy = match Host::parse(text.as_bytes()) {
        Ok(host) => {
            let mut canonical = Vec::new();
            host.write_canonical(&mut canonical);
            return Ok(String::from_utf8_lossy(&canonical).into_owned());
        }
        Err(HostError::V6) => "write it like [2001:db8::1]",
        Err(HostError::V4) => "write four numbers from 0 to 255, like 192.0.2.1",
        Err(_) if text.contains([':', '@']) => {
            "write the host alone, like example.com, with no scheme, user or port"
        }
        Err(_) => "write a host name, like example.com; international names in their xn-- form",
    };
    wrong("is not a host name or address", remedy)
}

/// `NAME@DOMAIN`, the domain in lower case.
pub(crate) fn account(text: &str) -> Result<(String, String), Wrong> {
    let bare = text.strip_prefix("sip:").unwrap_or(text);
    let Some((name, domain)) = text.rsplit_once('@') else {
        return wrong(
            "has no domain",
            format!("write \"{bare}@example.com\" with the domain of the account"),
        );
    };
    if bare.len() != text.len() {
        return wrong_at(0..4, "has a scheme", format!("write \"{bare}\""));
    }
    if name.is_empty()
        || name
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '"' || c == ':')
    {
        return wrong(
            "has a name that no phone can send",
            "use a name without spaces, quotes and colons before the @",
        );
    }
    Ok((name.to_owned(), host(domain)?))
}

/// A name that a user may use besides his own: the user part of an address, without escapes, or `*` for any.
pub(crate) fn identity(text: &str) -> Result<String, Wrong> {
    if text.is_empty()
        || text.chars().any(|c| {
            c.is_control() || c.is_whitespace() || matches!(c, '"' | ':' | '@' | '<' | '>' | '%')
        })
    {
        return wrong(
            "is not the user part of an address",
            "write what stands before the @, such as \"100\", or \"*\" for every user of the domain",
        );
    }
    Ok(text.to_owned())
}

/// A name of ours, such as that of a group.
pub(crate) fn identifier(text: &str) -> Result<String, Wrong> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(good) {
        return wrong("is not a name", "use letters, digits, '-', '_' and '.'");
    }
    Ok(text.to_owned())
}

/// An account of the operating system; whether it exists is seen when it is needed.
pub(crate) fn system_account(text: &str) -> Result<String, Wrong> {
    if text.is_empty()
        || text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == ':' || c == '/')
    {
        return wrong(
            "is not an account name",
            "write the name of an account of this machine, like tandem",
        );
    }
    Ok(text.to_owned())
}

/// A method (token of RFC 3261 §25.1).
pub(crate) fn method(text: &str) -> Result<String, Wrong> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b);
    if text.is_empty() || !text.bytes().all(token) {
        return wrong("is not a method", "write one method, like INVITE");
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        let upper = text.to_ascii_uppercase();
        return wrong(
            "is not in upper case, and methods differ by case",
            format!("write \"{upper}\""),
        );
    }
    Ok(text.to_owned())
}

/// An address or a network.
pub(crate) fn network(text: &str) -> Result<Network, Wrong> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
    else {
        return wrong(
            "is not a network",
            "write an IP address or a network, like 192.0.2.0/24 or 2001:db8::/32",
        );
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = match prefix.map(str::parse::<u8>) {
        None => bits,
        Some(Ok(prefix)) if prefix <= bits => prefix,
        Some(_) => {
            return wrong(
                "has no valid prefix length",
                format!("write a number from 0 to {bits} behind the /"),
            );
        }
    };
    let network = Network {
        address,
        prefix_bits,
    };
    let first = network.first();
    if first != address {
        return wrong(
            format!("has bits behind its prefix of {prefix_bits}"),
            format!(
                "write {first}/{prefix_bits} for the network, or {address} for the one address"
            ),
        );
    }
    Ok(network)
}

/// A regular expression, compiled to see that it can be.
pub(crate) fn pattern(text: &str) -> Result<String, Wrong> {
    const SYNTAX: &str = "the syntax is that of Perl without look-around and back-references";
    if text.len() > PATTERN_BYTES_MAX {
        return wrong(
            format!("is longer than {PATTERN_BYTES_MAX} bytes"),
            "write several routes",
        );
    }
    if let Err(error) = regex_syntax::ParserBuilder::new()
        .utf8(false)
        .build()
        .parse(text)
    {
        let (span, what) = match &error {
            regex_syntax::Error::Parse(error) => (error.span(), error.kind().to_string()),
            regex_syntax::Error::Translate(error) => (error.span(), error.kind().to_string()),
            _ => return wrong("is not a regular expression", SYNTAX),
        };
        let at = span.start.offset..span.end.offset;
        return wrong_at(at, format!("is not a regular expression: {what}"), SYNTAX);
    }
    if compile(text).is_none() {
        return wrong(
            "is a regular expression that takes too much memory",
            "use smaller repetitions",
        );
    }
    Ok(text.to_owned())
}

pub(crate) fn compile(pattern: &str) -> Option<regex::bytes::Regex> {
    regex::bytes::RegexBuilder::new(pattern)
        .size_limit(PATTERN_MEMORY_MAX)
        .build()
        .ok()
}

/// What stands behind `to =`. The existence of a group is checked later.
pub(crate) fn target(text: &str) -> Result<Target, Wrong> {
    const REMEDY: &str =
        r#"write "location", "group:NAME", "prefix:NAME", "uri:URI", "reject:CODE" or "dns""#;
    match text.split_once(':') {
        None if text == "location" => Ok(Target::Location),
        None if text == "dns" => Ok(Target::Dns),
        Some(("group", name)) => match identifier(name) {
            Ok(name) => Ok(Target::Group(name)),
            Err(_) => wrong(
                "names no group",
                "write \"group:NAME\" with the name of a [[group]]",
            ),
        },
        Some(("prefix", name)) => match identifier(name) {
            Ok(name) => Ok(Target::Prefix(name)),
            Err(_) => wrong(
                "names no table",
                "write \"prefix:NAME\" with the name of a [[prefix_table]]",
            ),
        },
        Some(("uri", text)) => uri::check(text)
            .map(|()| Target::Uri(text.to_owned()))
            .map_err(|wrong| Wrong {
                at: Some(
                    wrong
                        .at
                        .map_or(4..4 + text.len(), |at| at.start + 4..at.end + 4),
                ),
                ..wrong
            }),
        Some(("reject", code)) => match code.parse() {
            Ok(code @ 400..=699) => Ok(Target::Reject(code)),
            _ => wrong_at(
                7..text.len(),
                "has no failure status",
                "choose a status from 400 to 699, like reject:403",
            ),
        },
        Some(("sip", _)) => wrong("is not a target", format!("write \"uri:{text}\"")),
        Some(("script", _)) => wrong("is a target that does not exist in this version", REMEDY),
        _ => wrong("is not a target", REMEDY),
    }
}

pub(crate) fn ha1(text: &str) -> Result<Secret, Wrong> {
    hex(text).map(Secret::Ha1)
}

pub(crate) fn ha1_sha512_256(text: &str) -> Result<Secret, Wrong> {
    hex(text).map(Secret::Ha1Sha512_256)
}

pub(crate) fn ha1_sha256(text: &str) -> Result<Secret, Wrong> {
    hex(text).map(Secret::Ha1Sha256)
}

pub(crate) fn hex<const N: usize>(text: &str) -> Result<[u8; N], Wrong> {
    let digits: Vec<u8> = text
        .chars()
        .map_while(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    if digits.len() != 2 * N || digits.len() != text.len() {
        return wrong(
            format!("is not {} hexadecimal digits", 2 * N),
            "write the digest of NAME:DOMAIN:PASSWORD, or give `password` instead",
        );
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
    }
    Ok(bytes)
}

/// `auto`, `none`, or cores and ranges of cores as on the command line: `0,2-4`.
pub(crate) fn pin(text: &str) -> Result<Pin, Wrong> {
    let bad = || {
        wrong(
            "is not a list of cores",
            "write core numbers and ranges, like 0,2-4, or auto, or none",
        )
    };
    match text {
        "auto" => return Ok(Pin::Auto),
        "none" => return Ok(Pin::None),
        _ => {}
    }
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (Ok(from), Ok(to)) = (from.trim().parse::<u16>(), to.trim().parse::<u16>()) else {
            return bad();
        };
        if from > to || to > CORE_MAX {
            return bad();
        }
        cores.extend(from..=to);
    }
    Ok(Pin::List(cores))
}

/// Highest core number.
pub(crate) const CORE_MAX: u16 = 1023;
