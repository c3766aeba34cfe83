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
        if cursor.is_at_end() { Ok(sent_by) } else { Err(ViaError::Host(cursor.at())) }
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
        let port = numbers::port(ahead.take_while(|b| b.is_ascii_digit())).map_err(|_| ViaError::Port(at))?;
        *cursor = ahead;
        Ok(Self { host, port: Some(port) })
    }

    /// Writes `host[:port]`.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.host.write(out);
        if let Some(port) = self.port {
            use std::io::Write;
            // Writing to a Vec does not fail.
            let _ = write!(out, ":{port}");
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
}

impl<'a> Via<'a> {
    /// Parses one value of the list: `SIP / 2.0 / UDP host : port ; parameters`.
    pub fn parse(value: &'a [u8]) -> Result<Self, ViaError> {
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
        let sent_by_span = Span::of(start, cursor.offset());
        let params = Params::parse_from(cursor)?;
        let mut via = Self {
            protocol,
            version,
            transport,
            sent_by,
            params,
            sent_by_span,
            end: ByteAt(sent_by_span.end),
            branch: None,
        };
        for param in params {
            via.end = ByteAt(param.span.end);
            via.check(&param)?;
        }
        Ok(via)
    }

    /// Checks the parameters that have a grammar of their own (§25.1 via-params, RFC 3581 §3).
    fn check(&mut self, param: &Param<'a>) -> Result<(), ViaError> {
        let wrong = if param.is("branch") {
            let value = param.value.filter(|v| v.iter().all(|b| is_branch(*b)));
            self.branch = self.branch.or(value);
            value.is_none().then_some(ViaParam::Branch)
        } else if param.is("received") {
            param.value.and_then(address).is_none().then_some(ViaParam::Received)
        } else if param.is("rport") {
            param.value.is_some_and(|v| numbers::port(v).is_err()).then_some(ViaParam::Rport)
        } else if param.is("ttl") {
            param.value.is_none_or(|v| numbers::ttl(v).is_err()).then_some(ViaParam::Ttl)
        } else {
            None
        };
        match wrong {
            Some(which) => Err(ViaError::Param(which)),
            None => Ok(()),
        }
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
        address(self.params.value("received")??)
    }

    /// RFC 3581: `None` if absent, `Some(None)` as a client asks, `Some(Some(port))` as a server fills in.
    pub fn rport(&self) -> Option<Option<u16>> {
        self.params.value("rport").map(|value| value.and_then(|v| numbers::port(v).ok()))
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

/// branch is a token (§25.1).
///
/// Deviation: any visible character that ends no parameter is taken, because a branch is opaque to all but its
/// maker, and characters such as `=` and `@` are seen.
fn is_branch(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"'
}

fn token<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], ViaError> {
    let text = cursor.take_while(is_token);
    if text.is_empty() { Err(ViaError::Protocol(cursor.at())) } else { Ok(text) }
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
        _ => std::str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    }
}
