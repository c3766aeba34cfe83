//! A request as it arrives: where its responses go, and what is wrong with it before any policy is asked (§16.3, §18.2).

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
};

use sip::{
    HeaderName, Message, Method, Via,
    uri::{Host, Scheme, Uri},
};
use stdx::hash::{Key, hash64};
use tables::Counter;

use crate::{
    branch::Branch,
    settings::{PORT_DEFAULT, Settings},
};

/// What the top Via of a request means for us.
#[derive(Clone, Debug)]
pub struct ReplyPath {
    /// Where responses go (§18.2.2, RFC 3581 §4).
    pub to: SocketAddr,
    /// The top Via with received and rport filled in, where that changes it.
    pub via: Option<Vec<u8>>,
}

/// The way back of a request that came from `source` (§18.2.1, RFC 3581 §4).
///
/// Deviation: maddr of the top Via is not obeyed (§18.2.2); responses go where the request came from, since a stranger could
/// otherwise have them sent to anybody.
pub fn reply_path(value: &[u8], via: &Via<'_>, source: SocketAddr) -> ReplyPath {
    let rport = via.rport().is_some();
    let differs = match via.sent_by.host {
        Host::V4(ip) => source.ip() != IpAddr::V4(ip),
        Host::V6(ip) => source.ip() != IpAddr::V6(ip),
        Host::Name(_) => true,
    };
    let port = if rport {
        source.port()
    } else {
        via.sent_by.port.unwrap_or(PORT_DEFAULT)
    };
    let to = SocketAddr::new(source.ip(), port);
    if !rport && !differs && via.received().is_none() {
        return ReplyPath { to, via: None };
    }
    let mut text = Vec::with_capacity(value.len() + 40);
    text.extend_from_slice(value.get(..via.sent_by_span.end as usize).unwrap_or(value));
    for param in via.params {
        if !param.is("received") && !param.is("rport") {
            text.push(b';');
            text.extend_from_slice(param.name);
            if let Some(value) = param.value {
                text.push(b'=');
                text.extend_from_slice(value);
            }
        }
    }
    // Writing to a Vec does not fail.
    let _ = write!(text, ";received={}", source.ip());
    if rport {
        let _ = write!(text, ";rport={}", source.port());
    }
    ReplyPath {
        to,
        via: Some(text),
    }
}

/// Why a request is refused before any policy is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    /// `None`: the phrase that goes with the code.
    pub reason: Option<&'static str>,
    /// Header lines for the answer, each with its CRLF.
    pub headers: Vec<u8>,
    pub counter: Counter,
}

impl Refusal {
    pub fn new(code: u16, counter: Counter) -> Self {
        Self {
            code,
            reason: None,
            headers: Vec::new(),
            counter,
        }
    }

    fn bad(reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..Self::new(400, Counter::BadRequest)
        }
    }
}

/// Reasonable syntax (§16.3 step 1): every header that a proxy reads must be readable.
pub fn check_syntax(message: &Message<'_>) -> Result<(), Refusal> {
    let Some(line) = message.request() else {
        return Err(Refusal::bad("Not A Request"));
    };
    let cseq = message.cseq().map_err(|_| Refusal::bad("Bad CSeq"))?;
    if cseq.method_text != line.method_text {
        return Err(Refusal::bad("CSeq Method Differs"));
    }
    message.from().map_err(|_| Refusal::bad("Bad From"))?;
    message.to().map_err(|_| Refusal::bad("Bad To"))?;
    message.call_id().map_err(|_| Refusal::bad("Bad Call-ID"))?;
    message
        .max_forwards()
        .map_err(|_| Refusal::bad("Bad Max-Forwards"))?;
    Ok(())
}

/// Request-URI scheme, Max-Forwards, loop and extensions (§16.3 steps 2 to 5).
pub fn validate(
    message: &Message<'_>,
    settings: &Settings,
    key: &Key,
    fold: u64,
) -> Result<(), Refusal> {
    let Some(line) = message.request() else {
        return Err(Refusal::bad("Not A Request"));
    };
    let uri = Uri::parse(line.uri).map_err(|_| Refusal::bad("Bad Request-URI"))?;
    if uri.scheme == Scheme::Other {
        return Err(Refusal::new(416, Counter::BadRequest));
    }
    if matches!(message.max_forwards(), Ok(Some(0))) && line.method != Method::Options {
        return Err(Refusal::new(483, Counter::TooManyHops));
    }
    for value in message.values(HeaderName::Via) {
        // A branch that we sealed is one that we made, wherever it stands and whatever host it goes with.
        let ours = Via::parse(value.value)
            .ok()
            .and_then(|via| via.branch())
            .and_then(|branch| Branch::decode(key, branch));
        if ours.is_some_and(|branch| branch.fold == fold) {
            return Err(Refusal::new(482, Counter::Loop));
        }
    }
    let mut unsupported = Vec::new();
    for option in message.values(HeaderName::ProxyRequire) {
        unsupported.extend_from_slice(if unsupported.is_empty() {
            b"Unsupported: "
        } else {
            b", "
        });
        unsupported.extend_from_slice(option.value);
    }
    let _ = settings;
    if unsupported.is_empty() {
        return Ok(());
    }
    unsupported.extend_from_slice(b"\r\n");
    Err(Refusal {
        headers: unsupported,
        ..Refusal::new(420, Counter::BadExtension)
    })
}

/// The hash of everything that decides where a request goes: when it comes back with the same, it loops (RFC 5393 §4.2).
/// The Vias are left out, as there, or no loop would ever be seen; RFC 3261 §16.6 step 8 has them in by mistake.
pub fn fold(message: &Message<'_>, key: &Key) -> u64 {
    let to = message
        .to()
        .ok()
        .and_then(|to| to.tag())
        .unwrap_or_default();
    let from = message
        .from()
        .ok()
        .and_then(|from| from.tag())
        .unwrap_or_default();
    let value = |name| message.first(name).map_or(&b""[..], |header| header.value);
    hash64(
        key,
        &[
            b"fold",
            to,
            from,
            value(HeaderName::CallId),
            message
                .cseq()
                .map_or(0, |cseq| cseq.number)
                .to_be_bytes()
                .as_slice(),
            message.request().map_or(&b""[..], |line| line.uri),
            value(HeaderName::Route),
            value(HeaderName::ProxyRequire),
            value(HeaderName::ProxyAuthorization),
        ],
    )
}
