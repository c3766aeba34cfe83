//! Hosts (§25.1): names, IPv4 addresses, IPv6 references.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use stdx::text::write_ip;

/// Length of a domain name without the root's dot (RFC 1035 §2.3.4, as text).
const NAME_BYTES_MAX: usize = 253;
/// Length of one label (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Why a text is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    #[error("a host is missing")]
    Empty,
    #[error("not an IPv6 reference")]
    V6,
    /// Digits and dots that are no IPv4 address.
    #[error("not an IPv4 address")]
    V4,
    #[error("not a domain name")]
    Name,
}

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Host<'a> {
    /// A domain name as written, perhaps with the root's dot. Compare by [`Host::is_same`].
    Name(&'a [u8]),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl<'a> Host<'a> {
    /// Parses a whole host; an IPv6 address has brackets.
    ///
    /// Deviation: §25.1 `hostname`; labels may have underscores, and the last label may begin with a digit (RFC 1123
    /// §2.1) unless it is all digits, because machines are called so. An octet of an IPv4 address has no leading zero,
    /// because some readers take it for an octal number.
    pub fn parse(text: &'a [u8]) -> Result<Self, HostError> {
        if let [b'[', inner @ ..] = text {
            let inner = inner.strip_suffix(b"]").ok_or(HostError::V6)?;
            return ascii(inner)
                .and_then(|t| t.parse().ok())
                .or_else(|| v6_with_three_colons(inner))
                .map(Self::V6)
                .ok_or(HostError::V6);
        }
        let name = without_root_dot(text);
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if name.last().is_some_and(u8::is_ascii_digit) {
            let last = name.rsplit(|b| *b == b'.').next().unwrap_or_default();
            if last.iter().all(u8::is_ascii_digit) {
                return v4(text).map(Self::V4).ok_or(HostError::V4);
            }
        }
        if name.len() > NAME_BYTES_MAX || !is_name(name) {
            return Err(HostError::Name);
        }
        Ok(Self::Name(text))
    }

    /// The address, if the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::V4(address) => Some(IpAddr::V4(*address)),
            Self::V6(address) => Some(IpAddr::V6(*address)),
        }
    }

    /// The same host: names without regard to case and to the root's dot, addresses by value.
    pub fn is_same(&self, other: &Host<'_>) -> bool {
        match (self, other) {
            (Self::Name(a), Host::Name(b)) => {
                without_root_dot(a).eq_ignore_ascii_case(without_root_dot(b))
            }
            (Self::V4(a), Host::V4(b)) => a == b,
            (Self::V6(a), Host::V6(b)) => a == b,
            _ => false,
        }
    }

    /// Writes the host, an IPv6 address in brackets.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Name(name) => out.extend_from_slice(name),
            Self::V4(address) => write_ip(IpAddr::V4(*address), out),
            Self::V6(address) => {
                out.push(b'[');
                write_ip(IpAddr::V6(*address), out);
                out.push(b']');
            }
        }
    }

    /// Writes the form that equal hosts share: lower case, no root's dot.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        match self {
            Self::Name(name) => {
                out.extend(without_root_dot(name).iter().map(u8::to_ascii_lowercase))
            }
            _ => self.write(out),
        }
    }
}

impl From<IpAddr> for Host<'static> {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address),
        }
    }
}

fn ascii(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok()
}

fn without_root_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").unwrap_or(name)
}

/// `2001:db8:::192.0.2.1`: what the grammar of RFC 3261 has by mistake, with one colon too many before an IPv4 address.
/// RFC 5118 §4.10 wants both forms understood.
fn v6_with_three_colons(text: &[u8]) -> Option<Ipv6Addr> {
    // The longest text of an IPv6 address has 45 bytes.
    let at = memchr::memmem::find(text.get(..text.len().min(46))?, b":::")?;
    let (front, back) = (text.get(..at)?, text.get(at.checked_add(1)?..)?);
    v4(back.strip_prefix(b"::")?)?;
    ascii(&[front, back].concat())?.parse().ok()
}

/// Four numbers to 255 without leading zeros.
fn v4(text: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split(|b| *b == b'.');
    for octet in &mut octets {
        *octet = match *parts.next()? {
            [a] => digit(a)?,
            [a @ b'1'..=b'9', b] => digit(a)?.wrapping_mul(10).wrapping_add(digit(b)?),
            [a @ (b'1' | b'2'), b, c] => {
                let tens = digit(a)?.wrapping_mul(10).wrapping_add(digit(b)?);
                tens.checked_mul(10)?.checked_add(digit(c)?)?
            }
            _ => return None,
        };
    }
    parts.next().is_none().then(|| octets.into())
}

fn digit(byte: u8) -> Option<u8> {
    byte.is_ascii_digit().then(|| byte.wrapping_sub(b'0'))
}

/// Whether a text is labels with dots between them: letters, digits, `_`, and `-` neither first nor last.
fn is_name(text: &[u8]) -> bool {
    let (mut label, mut before) = (0_usize, b'.');
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => label = label.wrapping_add(1),
            b'-' if before != b'.' => label = label.wrapping_add(1),
            b'.' if is_label_end(label, before) => label = 0,
            _ => return false,
        }
        before = *byte;
    }
    is_label_end(label, before)
}

fn is_label_end(len: usize, last: u8) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&len) && last != b'-'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Host, HostError};

    #[test]
    fn hosts_are_told_apart() {
        assert_eq!(
            Host::parse(b"Example.COM."),
            Ok(Host::Name(b"Example.COM."))
        );
        assert_eq!(
            Host::parse(b"192.0.2.10"),
            Ok(Host::V4([192, 0, 2, 10].into()))
        );
        assert_eq!(
            Host::parse(b"[::FFFF:192.0.2.10]"),
            Ok(Host::V6("::ffff:192.0.2.10".parse().unwrap()))
        );
        assert_eq!(
            Host::parse(b"[2001:db8:::192.0.2.1]"),
            Ok(Host::V6("2001:db8::192.0.2.1".parse().unwrap()))
        );
        assert_eq!(
            Host::parse(b"3gpp.mnc001.3gppnetwork.org"),
            Ok(Host::Name(b"3gpp.mnc001.3gppnetwork.org"))
        );
        assert_eq!(Host::parse(b"7f3e2c"), Ok(Host::Name(b"7f3e2c")));
        assert_eq!(Host::parse(b"sip_core"), Ok(Host::Name(b"sip_core")));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for (text, error) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            ("256.0.0.1", HostError::V4),
            ("192.0.2", HostError::V4),
            ("192.0.2.1.", HostError::V4),
            ("192.0.2.010", HostError::V4),
            ("12345", HostError::V4),
            ("2001:db8::1", HostError::Name),
            ("[2001:db8:::10]", HostError::V6),
            ("[2001:db8::::192.0.2.1]", HostError::V6),
            ("[2001::db8:::192.0.2.1]", HostError::V6),
            ("[2001:db8:::192.0.2.1%1]", HostError::V6),
            ("[fe80::1%eth0]", HostError::V6),
            ("[::1", HostError::V6),
            ("[]", HostError::V6),
            ("[192.0.2.1]", HostError::V6),
            ("a..b", HostError::Name),
            (".a", HostError::Name),
            ("-a.b", HostError::Name),
            ("a-", HostError::Name),
            ("a b", HostError::Name),
            ("a%41", HostError::Name),
            ("\u{e9}.fr", HostError::Name),
        ] {
            assert_eq!(Host::parse(text.as_bytes()), Err(error), "{text}");
        }
        let label = "a".repeat(63);
        assert!(Host::parse(label.as_bytes()).is_ok());
        assert_eq!(
            Host::parse(format!("{label}a").as_bytes()),
            Err(HostError::Name)
        );
        let name = [&label[..]; 4].join(".");
        assert_eq!(Host::parse(name.as_bytes()), Err(HostError::Name));
        assert!(Host::parse(&name.as_bytes()[..253]).is_ok());
    }

    proptest! {
        #[test]
        fn print_then_parse(octets: [u8; 4], segments: [u16; 8], name in "([a-z0-9]{1,5}\\.){0,3}[a-z]{1,3}\\.?") {
            for host in [Host::V4(octets.into()), Host::V6(segments.into()), Host::Name(name.as_bytes())] {
                let mut text = Vec::new();
                host.write(&mut text);
                prop_assert_eq!(Host::parse(&text), Ok(host));
                text.clear();
                host.write_canonical(&mut text);
                prop_assert!(Host::parse(&text).unwrap().is_same(&host));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in crate::header::noise::noise()) {
            let _ = Host::parse(&bytes);
        }
    }
}
