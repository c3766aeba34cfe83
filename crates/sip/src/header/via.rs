//! Via (§20.42): the path of a request, and the way back of its responses.

use std::net::{IpAddr, Ipv6Addr};

use super::cursor::{Cursor, is_token};
use super::numbers;
use super::params::{Param, Params, ParamsError};
use crate::span::{ByteAt, Span};
use crate::uri::Host;

/// What every branch parameter of RFC 3261 begins with (§8.1.1.7).
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

/// Why a text is not one Via value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViaError {
    #[error("sent-protocol is malformed at byte {0}")]
    Protocol(ByteAt),
    #[error("sent-by host at byte {0} is not a host")]
    Host(ByteAt),
    #[error("sent-by port at byte {0} is not a port")]
    Port(ByteAt),
    #[error("via-params: {0}")]
    Params(#[from] ParamsError),
    #[error("{0} parameter of Via is malformed")]
    Param(ViaParam),
}

/// A parameter of Via with a grammar of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViaParam {
    Branch,
    Received,
    Rport,
    Ttl,
}

impl std::fmt::Display for ViaParam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Branch => "branch",
            Self::Received => "received",
            Self::Rport => "rport",
            Self::Ttl => "ttl",
        })
    }
}

/// Where an element says it can be reached (§18.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentBy<'a> {
    pub host: Host<'a>,
    /// `None`: the transport's default port applies.
    pub port: Option<u16>,
}

impl<'a> SentBy<'a> {
    /// Parses `host [":" port]`, white space around the colon allowed.
    pub fn parse(text: &'a [u8]) -> Result<Self, ViaError> {
        let mut cursor = Cursor::new(text);
        cursor.skip_lws();
        let sent_by = Self::read(&mut cursor)?;
        cursor.skip_lws();
        if cursor.is_at_end() {
            Ok(sent_by)
        } else {
            Err(ViaError::Host(cursor.at()))
        }
    }

    fn read(cursor: &mut Cursor<'a>) -> Result<Self, ViaError> {
        let at = cursor.at();
        let start = cursor.offset();
        if cursor.eat(b'[') {
            cursor.take_while(|b| b != b']' && !b.is_ascii_whitespace());
            cursor.eat(b']');
        } else {
            cursor.take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        }
        let host = Host::parse(cursor.since(start)).map_err(|_| ViaError::Host(at))?;
        let mut ahead = *cursor;
        ahead.skip_lws();
        if !ahead.eat(b':') {
            return Ok(Self { host, port: None });
        }
        ahead.skip_lws();
        let at = ahead.at();
        let port = numbers::port(ahead.take_while(|b| b.is_ascii_digit()))
            .map_err(|_| ViaError::Port(at))?;
        *cursor = ahead;
        Ok(Self {
            host,
            port: Some(port),
        })
    }

    /// Writes `host[:port]`.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.host.write(out);
        if let Some(port) = self.port {
            out.push(b':');
            stdx::text::write_decimal(port.into(), out);
        }
    }

    /// The same place by §18.1.2 and §17.2.3: host without regard to case, and an absent port is not 5060.
    pub fn is_same(&self, other: &SentBy<'_>) -> bool {
        self.port == other.port && self.host.is_same(&other.host)
    }
}

/// One Via value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// `SIP`, as written.
    pub protocol: &'a [u8],
    /// `2.0`, as written.
    pub version: &'a [u8],
    /// `UDP`, `TCP`, `TLS` ..., as written; compared without regard to case.
    pub transport: &'a [u8],
    pub sent_by: SentBy<'a>,
    pub params: Params<'a>,
    /// Where sent-by lies in the value.
    pub sent_by_span: Span,
    /// Where the value ends: a patch may add `;received=...` here.
    pub end: ByteAt,
    branch: Option<&'a [u8]>,
    received: Option<IpAddr>,
    rport: Option<Option<u16>>,
}

impl<'a> Via<'a> {
    /// Parses one value of the list: `SIP / 2.0 / UDP host : port ; parameters`.
    pub fn parse(value: &'a [u8]) -> Result<Self, ViaError> {
        let (front, cursor) = Front::read(value)?;
        let mut seen = Seen {
            end: ByteAt(front.sent_by_span.end),
            ..Seen::default()
        };
        let params = Params::parse_each(cursor, |param| seen.see(param))?;
        Ok(front.with(params, seen))
    }

    /// Parses a value whose parameters cannot be read, as if it had none: whoever refuses the request for that still
    /// knows from it where the answer goes (RFC 4475 §3.1.2.1).
    pub fn parse_front(value: &'a [u8]) -> Result<Self, ViaError> {
        let (front, _) = Front::read(value)?;
        let seen = Seen {
            end: ByteAt(front.sent_by_span.end),
            ..Seen::default()
        };
        Ok(front.with(Params::default(), seen))
    }

    /// Whether the protocol is SIP/2.0.
    pub fn is_sip_2_0(&self) -> bool {
        self.protocol.eq_ignore_ascii_case(b"SIP") && self.version == b"2.0"
    }

    /// The transaction's id at this element (§8.1.1.7). `None` or without the magic cookie: RFC 2543.
    pub fn branch(&self) -> Option<&'a [u8]> {
        self.branch
    }

    /// Whether the branch begins with the magic cookie, so that it alone identifies the transaction (§17.2.3).
    pub fn has_magic_cookie(&self) -> bool {
        self.branch
            .and_then(|branch| branch.get(..MAGIC_COOKIE.len()))
            .is_some_and(|start| start.eq_ignore_ascii_case(MAGIC_COOKIE))
    }

    /// The source address that the next element saw (§18.2.1), with or without brackets.
    pub fn received(&self) -> Option<IpAddr> {
        self.received
    }

    /// RFC 3581: `None` if absent, `Some(None)` as a client asks, `Some(Some(port))` as a server fills in.
    pub fn rport(&self) -> Option<Option<u16>> {
        self.rport
    }

    /// The multicast address that the request was sent to (§18.1.1).
    pub fn maddr(&self) -> Option<Host<'a>> {
        Host::parse(self.params.value("maddr")??).ok()
    }

    /// Time to live of a multicast request.
    pub fn ttl(&self) -> Option<u8> {
        numbers::ttl(self.params.value("ttl")??).ok()
    }

    /// Writes the value with single blanks and no white space elsewhere between its parts but the parameters' own.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.protocol);
        out.push(b'/');
        out.extend_from_slice(self.version);
        out.push(b'/');
        out.extend_from_slice(self.transport);
        out.push(b' ');
        self.sent_by.write(out);
        out.extend_from_slice(self.params.text());
    }
}

/// What stands before the parameters.
struct Front<'a> {
    protocol: &'a [u8],
    version: &'a [u8],
    transport: &'a [u8],
    sent_by: SentBy<'a>,
    sent_by_span: Span,
}

impl<'a> Front<'a> {
    #[inline]
    fn read(value: &'a [u8]) -> Result<(Self, Cursor<'a>), ViaError> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        let protocol = token(&mut cursor)?;
        slash(&mut cursor)?;
        let version = token(&mut cursor)?;
        slash(&mut cursor)?;
        let transport = token(&mut cursor)?;
        let before = cursor.offset();
        cursor.skip_lws();
        let start = cursor.offset();
        if start == before {
            return Err(ViaError::Protocol(cursor.at()));
        }
        let sent_by = SentBy::read(&mut cursor)?;
        let front = Self {
            protocol,
            version,
            transport,
            sent_by,
            sent_by_span: Span::of(start, cursor.offset()),
        };
        Ok((front, cursor))
    }

    #[inline]
    fn with(self, params: Params<'a>, seen: Seen<'a>) -> Via<'a> {
        Via {
            protocol: self.protocol,
            version: self.version,
            transport: self.transport,
            sent_by: self.sent_by,
            params,
            sent_by_span: self.sent_by_span,
            end: seen.end,
            branch: seen.branch,
            received: seen.received,
            rport: seen.rport,
        }
    }
}

/// The parameters that have a grammar of their own, the first of each name (§25.1 via-params, RFC 3581 §3).
#[derive(Default)]
struct Seen<'a> {
    end: ByteAt,
    branch: Option<&'a [u8]>,
    received: Option<IpAddr>,
    rport: Option<Option<u16>>,
}

impl<'a> Seen<'a> {
    fn see(&mut self, param: &Param<'a>) -> Result<(), ViaError> {
        self.end = ByteAt(param.span.end);
        // Most names are told apart by their length.
        let wrong = match param.name.len() {
            6 if param.is("branch") => {
                let value = param.value.filter(|v| v.iter().all(|b| is_branch(*b)));
                self.branch = self.branch.or(value);
                value.is_none().then_some(ViaParam::Branch)
            }
            8 if param.is("received") => {
                let value = param.value.and_then(address);
                self.received = self.received.or(value);
                value.is_none().then_some(ViaParam::Received)
            }
            5 if param.is("rport") => {
                let port = param.value.map(numbers::port).transpose();
                let wrong = port.is_err();
                self.rport = self.rport.or(port.ok());
                wrong.then_some(ViaParam::Rport)
            }
            3 if param.is("ttl") => param
                .value
                .is_none_or(|v| numbers::ttl(v).is_err())
                .then_some(ViaParam::Ttl),
            _ => None,
        };
        match wrong {
            Some(which) => Err(ViaError::Param(which)),
            None => Ok(()),
        }
    }
}

/// branch is a token (§25.1).
///
/// Deviation: any visible character that ends no parameter is taken, because a branch is opaque to all but its
/// maker, and characters such as `=` and `@` are seen.
fn is_branch(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"'
}

fn token<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], ViaError> {
    let text = cursor.take_while(is_token);
    if text.is_empty() {
        Err(ViaError::Protocol(cursor.at()))
    } else {
        Ok(text)
    }
}

/// SLASH (§25.1): white space is allowed on both sides.
fn slash(cursor: &mut Cursor<'_>) -> Result<(), ViaError> {
    cursor.skip_lws();
    if !cursor.eat(b'/') {
        return Err(ViaError::Protocol(cursor.at()));
    }
    cursor.skip_lws();
    Ok(())
}

/// An address; an IPv6 address with brackets or without (RFC 5118 §4.5).
fn address(text: &[u8]) -> Option<IpAddr> {
    match Host::parse(text) {
        Ok(Host::V4(address)) => Some(IpAddr::V4(address)),
        Ok(Host::V6(address)) => Some(IpAddr::V6(address)),
        _ => std::str::from_utf8(text)
            .ok()?
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::{SentBy, Via, ViaError, ViaParam};
    use crate::header::ParamsError;
    use crate::span::ByteAt;
    use crate::uri::Host;

    fn via(text: &[u8]) -> Via<'_> {
        Via::parse(text)
            .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(text)))
    }

    #[test]
    fn white_space_is_allowed_where_the_grammar_has_it() {
        for text in [
            &b"SIP / 2.0 / UDP first.example.com : 4000 ; ttl = 16 ; maddr = 192.0.2.2 ; branch = z9hG4bKa7c6a8dlze.1"[..],
            b"SIP/2.0/UDP first.example.com:4000;ttl=16;maddr=192.0.2.2;branch=z9hG4bKa7c6a8dlze.1",
            b"SIP  /\r\n   2.0\r\n\t/UDP\r\n    first.example.com:\r\n 4000;ttl=16;maddr=192.0.2.2\r\n ;\r\n branch\r\n =\r\n z9hG4bKa7c6a8dlze.1  ",
        ] {
            let via = via(text);
            assert_eq!((via.protocol, via.version, via.transport), (&b"SIP"[..], &b"2.0"[..], &b"UDP"[..]));
            assert_eq!(via.sent_by, SentBy { host: Host::Name(b"first.example.com"), port: Some(4000) });
            assert_eq!(via.branch(), Some(&b"z9hG4bKa7c6a8dlze.1"[..]));
            assert_eq!(via.ttl(), Some(16));
            assert_eq!(via.maddr(), Some(Host::V4(Ipv4Addr::new(192, 0, 2, 2))));
            assert!(via.has_magic_cookie() && via.is_sip_2_0());
        }
    }

    #[test]
    fn ipv6_references_come_with_and_without_a_port() {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 9, 1);
        let plain =
            via(b"SIP/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255];branch=z9hG4bKas3-111");
        assert_eq!(
            plain.sent_by,
            SentBy {
                host: Host::V6(address),
                port: None
            }
        );
        assert_eq!(plain.received(), Some("2001:db8::9:255".parse().unwrap()));
        let with_port = via(b"SIP/2.0/TCP [2001:DB8::9:1] : 5061;received=2001:db8::9:255");
        assert_eq!(
            with_port.sent_by,
            SentBy {
                host: Host::V6(address),
                port: Some(5061)
            }
        );
        assert_eq!(
            with_port.received(),
            Some("2001:db8::9:255".parse().unwrap())
        );
    }

    #[test]
    fn rport_has_three_forms() {
        assert_eq!(via(b"SIP/2.0/UDP a;branch=b").rport(), None);
        assert_eq!(via(b"SIP/2.0/UDP a;rport;branch=b").rport(), Some(None));
        assert_eq!(
            via(b"SIP/2.0/UDP a;branch=b;RPort=9988").rport(),
            Some(Some(9988))
        );
    }

    #[test]
    fn spans_say_where_to_patch() {
        let text = b" SIP/2.0/UDP host : 5060 ;rport ; branch = x  ";
        let via = via(text);
        assert_eq!(via.sent_by_span.slice(text), b"host : 5060");
        assert_eq!(
            via.params.find("rport").map(|p| p.span.slice(text)),
            Some(&b"rport"[..])
        );
        assert_eq!(&text[via.end.0 as usize..], b"  ");
        let bare = b"SIP/2.0/UDP host ";
        assert_eq!(super::Via::parse(bare).map(|via| via.end), Ok(ByteAt(16)));
    }

    #[test]
    fn odd_but_clear_values_are_taken() {
        assert_eq!(
            via(b"SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~").branch(),
            Some(&b"z9hG4bK-.!%66*_+`'~"[..])
        );
        assert!(!via(b"SIP/2.0/UDP 192.0.2.2;branch=390skdjuw").has_magic_cookie());
        assert_eq!(via(b"SIP/2.0/UDP host").branch(), None);
        assert!(!via(b"SIP/7.0/UDP host").is_sip_2_0());
        assert_eq!(
            via(b"SIP/2.0/UNKNOWN t1.example.org;branch=z9hG4bK").transport,
            b"UNKNOWN"
        );
    }

    #[test]
    fn faults_have_a_place() {
        for (text, error) in [
            (&b""[..], ViaError::Protocol(ByteAt(0))),
            (b"SIP/2.0", ViaError::Protocol(ByteAt(7))),
            (b"SIP/2.0/UDP", ViaError::Protocol(ByteAt(11))),
            (b"SIP/2.0/UDP[::1]", ViaError::Protocol(ByteAt(11))),
            (
                b"SIP/2.0/UDP 192.0.2.15;;,;,,",
                ViaError::Params(ParamsError::Name(ByteAt(23))),
            ),
            (b"SIP/2.0/UDP host:0", ViaError::Port(ByteAt(17))),
            (b"SIP/2.0/UDP host:", ViaError::Port(ByteAt(17))),
            (
                b"SIP/2.0/UDP host:99999;branch=x",
                ViaError::Port(ByteAt(17)),
            ),
            (b"SIP/2.0/UDP 2001:db8::1", ViaError::Host(ByteAt(12))),
            (b"SIP/2.0/UDP [::1", ViaError::Host(ByteAt(12))),
            (b"SIP/2.0/UDP ;branch=x", ViaError::Host(ByteAt(12))),
            (
                b"SIP/2.0/UDP a b",
                ViaError::Params(ParamsError::Junk(ByteAt(14))),
            ),
            (b"SIP/2.0/UDP a;branch", ViaError::Param(ViaParam::Branch)),
            (
                b"SIP/2.0/UDP a;branch=\"b\"",
                ViaError::Param(ViaParam::Branch),
            ),
            (
                b"SIP/2.0/UDP a;received=host",
                ViaError::Param(ViaParam::Received),
            ),
            (b"SIP/2.0/UDP a;rport=0", ViaError::Param(ViaParam::Rport)),
            (b"SIP/2.0/UDP a;ttl=256", ViaError::Param(ViaParam::Ttl)),
        ] {
            assert_eq!(
                Via::parse(text),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn the_front_is_read_whatever_stands_behind() {
        let via = Via::parse_front(b"SIP/2.0/UDP 192.0.2.15:5070;;,;").unwrap();
        assert_eq!(via.sent_by, SentBy::parse(b"192.0.2.15:5070").unwrap());
        assert_eq!(
            (via.branch(), via.rport(), via.params.is_empty()),
            (None, None, true)
        );
        assert!(Via::parse_front(b"SIP/2.0/UDP").is_err());
    }

    #[test]
    fn sent_by_compares_as_a_transaction_key_does() {
        let same = |a: &str, b: &str| {
            SentBy::parse(a.as_bytes())
                .unwrap()
                .is_same(&SentBy::parse(b.as_bytes()).unwrap())
        };
        assert!(same("Example.COM", "example.com."));
        assert!(same("[2001:DB8::1]:5060", "[2001:db8:0::1] : 5060"));
        assert!(!same("example.com", "example.com:5060"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }

    proptest! {
        #[test]
        fn print_then_parse(
            transport in "UDP|tcp|TLS|SCTP|x!y",
            host in "[a-z][a-z0-9_-]{0,4}[a-z](\\.[a-z]{1,3})?|192\\.0\\.2\\.[1-9]|\\[2001:db8::[1-9a-f]\\]",
            port in proptest::option::of(1_u16..),
            branch in "z9hG4bK[a-zA-Z0-9.!%*_+`'~-]{1,12}",
            extra in "|;rport|;rport=70|;received=192\\.0\\.2\\.9|;ttl=3;x=\"y;\"",
        ) {
            let port = port.map_or(String::new(), |p| format!(":{p}"));
            let text = format!("SIP/2.0/{transport} {host}{port};branch={branch}{extra}");
            let first = via(text.as_bytes());
            prop_assert_eq!(first.branch(), Some(branch.as_bytes()));
            let mut printed = Vec::new();
            first.write(&mut printed);
            prop_assert_eq!(std::str::from_utf8(&printed), Ok(&text[..]));
        }

        #[test]
        fn no_bytes_panic(bytes in super::super::noise::noise()) {
            for text in [bytes.clone(), [b"SIP/2.0/UDP a", &bytes[..]].concat()] {
                if let Ok(via) = Via::parse(&text) {
                    let mut printed = Vec::new();
                    via.write(&mut printed);
                    let again = Via::parse(&printed).unwrap();
                    prop_assert_eq!((again.sent_by, again.branch()), (via.sent_by, via.branch()));
                    let _ = (via.received(), via.rport(), via.maddr(), via.ttl(), via.has_magic_cookie());
                }
            }
        }
    }
}
