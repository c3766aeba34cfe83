//! A request as it arrives, read once: where its responses go, which way it says that it goes, and what is wrong with it before
//! any policy is asked (§16.3, §16.4, §18.2).

use std::net::SocketAddr;

use registrar::{NatRule, is_private};
use sip::{
    HeaderName, Message, Method, NameAddr, Span, Via,
    uri::{Host, Scheme, Uri},
};
use stdx::{
    hash::{Key, hash64},
    text::{write_decimal, write_ip},
};
use tables::Counter;
use topology::token::CallId;

use crate::{
    branch::Branch,
    local::{self, TAG_BYTES},
    route::RouteInfo,
    settings::{PORT_DEFAULT, Settings},
};

/// How a request is answered.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where responses go (§18.2.2, RFC 3581 §4).
    pub to: SocketAddr,
    /// The top Via with received and rport filled in, where that changes it.
    pub via: Option<Vec<u8>>,
    /// The To tag of answers of our own.
    pub tag: [u8; TAG_BYTES],
    /// The branch of the top Via is one of ours.
    branch: Option<Branch>,
}

impl Way {
    /// The way back of a request that came from `source` (§18.2.1, RFC 3581 §4); `None` without a readable Via.
    ///
    /// Deviation: maddr of the top Via is not obeyed (§18.2.2); responses go where the request came from, since a stranger could
    /// otherwise have them sent to anybody.
    pub fn of(message: &Message<'_>, source: SocketAddr, key: &Key, nat: NatRule) -> Option<Self> {
        let value = message.first_value(HeaderName::Via)?.value;
        match Via::parse(value) {
            Ok(via) => Some(Self::by(message, value, &via, source, key, nat)),
            // Good for a refusal: the Via goes back as it came.
            Err(_) => {
                let via = Via::parse_front(value).ok()?;
                Some(Self {
                    via: None,
                    ..Self::by(message, value, &via, source, key, nat)
                })
            }
        }
    }

    /// [`Way::of`], where the top Via has been read.
    pub fn by(
        message: &Message<'_>,
        value: &[u8],
        via: &Via<'_>,
        source: SocketAddr,
        key: &Key,
        nat: NatRule,
    ) -> Self {
        let branch = via.branch().unwrap_or_default();
        let rport = via.rport().is_some() || is_translated(via, source, nat);
        let port = match rport {
            true => source.port(),
            false => via.sent_by.port.unwrap_or(PORT_DEFAULT),
        };
        Self {
            to: SocketAddr::new(source.ip(), port),
            via: received_via(value, via, source, rport),
            tag: local::to_tag(key, message, branch),
            branch: Branch::decode(key, branch),
        }
    }
}

/// Whether who sent this is behind address translation by its Via, so that answers reach it only where it sends from, though it does not ask for that.
fn is_translated(via: &Via<'_>, source: SocketAddr, nat: NatRule) -> bool {
    match nat {
        NatRule::Off => false,
        NatRule::Always => true,
        NatRule::Auto => {
            let says = via.sent_by.host.address();
            says.is_some_and(|ip| ip.to_canonical() != source.ip().to_canonical() && is_private(ip))
        }
    }
}

/// The Via with received and rport; `None` if it stays as it is.
fn received_via(value: &[u8], via: &Via<'_>, source: SocketAddr, rport: bool) -> Option<Vec<u8>> {
    let differs = via.sent_by.host.address() != Some(source.ip());
    if !rport && !differs && via.received().is_none() {
        return None;
    }
    let mut text = Vec::with_capacity(value.len().saturating_add(64));
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
    text.extend_from_slice(b";received=");
    write_ip(source.ip(), &mut text);
    if rport {
        text.extend_from_slice(b";rport=");
        write_decimal(source.port().into(), &mut text);
    }
    if value.contains(&b'\n') {
        let folded = std::mem::take(&mut text);
        sip::message::unfold(&folded, &mut text);
    }
    Some(text)
}

/// What a request says, as far as the proxy needs it again and again.
#[derive(Clone, Debug)]
pub struct Intake {
    /// The hash of everything that decides where the request goes: when it comes back with the same, it loops. 0 for an ACK,
    /// which is not looked at for loops: it goes where its INVITE went.
    pub fold: u64,
    /// The number in CSeq.
    pub cseq: u32,
    /// The To tag is that of an answer that we gave without a transaction: of an ACK, that it ends here.
    pub answered_here: bool,
    /// The Request-URI without maddr, port and transport, where these name us and say no more than that it should come here (§16.4).
    pub bare_uri: Option<Vec<u8>>,
    /// `None`: the request has no Max-Forwards.
    pub max_forwards: Option<u8>,
    pub route: RouteInfo,
    /// Where the message names the parties.
    pub(crate) names: Names,
    /// It belongs to a dialog that we put ourselves into: it has a To tag, and its Route set leads through us by a URI that we sealed.
    pub within_dialog: bool,
    /// We stay on the way of the dialog that it may begin (§16.6 step 4), with URIs that are sealed.
    pub record_route: bool,
}

/// Where From and To have what is asked for again and again, in the bytes of the message that was read. Empty: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) from_uri: Span,
    pub(crate) from_tag: Span,
    pub(crate) to_uri: Span,
    pub(crate) to_tag: Span,
}

impl Names {
    fn of(message: &Message<'_>, from: &NameAddr<'_>, to: &NameAddr<'_>) -> Self {
        let place = |part: &[u8]| Span::within(message.bytes(), part).unwrap_or_default();
        let tag = |address: &NameAddr<'_>| address.tag().map(place).unwrap_or_default();
        Self {
            from_uri: place(from.uri.text),
            from_tag: tag(from),
            to_uri: place(to.uri.text),
            to_tag: tag(to),
        }
    }
}

impl Intake {
    /// Reads a request (§16.3 steps 1 and 2): every header that a proxy reads must be readable.
    pub fn of(
        message: &Message<'_>,
        way: &Way,
        key: &Key,
        settings: &Settings,
    ) -> Result<Self, Refusal> {
        let line = message.request().ok_or(Refusal::bad("Not A Request"))?;
        let cseq = message.cseq().map_err(|_| Refusal::bad("Bad CSeq"))?;
        if cseq.method_text != line.method_text {
            return Err(Refusal::bad("CSeq Method Differs"));
        }
        let from = message.from().map_err(|_| Refusal::bad("Bad From"))?;
        let to = message.to().map_err(|_| Refusal::bad("Bad To"))?;
        let call_id = message.call_id().map_err(|_| Refusal::bad("Bad Call-ID"))?;
        let max_forwards = message
            .max_forwards()
            .map_err(|_| Refusal::bad("Bad Max-Forwards"))?;
        let uri = Uri::parse(line.uri).map_err(|_| Refusal::bad("Bad Request-URI"))?;
        if uri.scheme == Scheme::Other {
            return Err(Refusal::new(416, Counter::BadRequest));
        }
        // §19.1.1 table 1 (RFC 4475 §3.1.2.11).
        if !uri.headers.is_empty() {
            return Err(Refusal::bad("Headers In Request-URI"));
        }
        let begun = to.tag().is_some();
        let stays =
            !begun && begins_dialog(line.method) && wants_record_route(&uri, &from, settings);
        let route = RouteInfo::of(message, &uri, call_id, settings);
        Ok(Self {
            fold: match line.method {
                Method::Ack => 0,
                _ => fold(message, key, cseq.number, line.uri, &from, &to, settings),
            },
            cseq: cseq.number,
            answered_here: to.tag() == Some(&way.tag),
            bare_uri: bare_uri(&uri, settings),
            max_forwards,
            route,
            names: Names::of(message, &from, &to),
            within_dialog: begun && route.place.is_some(),
            record_route: stays,
        })
    }
}

/// See [`Intake::bare_uri`].
fn bare_uri(uri: &Uri<'_>, settings: &Settings) -> Option<Vec<u8>> {
    let maddr = Host::parse(uri.param("maddr")??).ok()?;
    let port = uri.port.unwrap_or(PORT_DEFAULT);
    let transport = uri.transport().unwrap_or(b"udp");
    if !transport.eq_ignore_ascii_case(b"udp") {
        return None;
    }
    let mut listeners = settings.listeners.iter();
    if !listeners.any(|listener| settings.names(listener, &maddr, port)) {
        return None;
    }
    let mut bare = Vec::with_capacity(uri.text.len());
    bare.extend_from_slice(uri.scheme.as_str().as_bytes());
    bare.push(b':');
    if let Some(user) = uri.user {
        bare.extend_from_slice(user);
        if let Some(password) = uri.password {
            bare.push(b':');
            bare.extend_from_slice(password);
        }
        bare.push(b'@');
    }
    uri.host?.write_canonical(&mut bare);
    for param in uri.params.iter() {
        if !param.is("maddr") && !param.is("transport") {
            bare.push(b';');
            bare.extend_from_slice(param.name);
            if let Some(value) = param.value {
                bare.push(b'=');
                bare.extend_from_slice(value);
            }
        }
    }
    Some(bare)
}

/// Whether a request may begin a dialog (§12.1, RFC 6665 §4.4.1).
pub(crate) fn may_begin_dialog(message: &Message<'_>) -> bool {
    let method = message.request().map(|line| line.method);
    method.is_some_and(begins_dialog) && message.to().is_ok_and(|to| to.tag().is_none())
}

fn begins_dialog(method: Method) -> bool {
    matches!(
        method,
        Method::Invite | Method::Subscribe | Method::Refer | Method::Notify
    )
}

/// What the domain of the callee says, else that of the caller.
fn wants_record_route(uri: &Uri<'_>, from: &NameAddr<'_>, settings: &Settings) -> bool {
    settings
        .domain_of(uri)
        .or_else(|| settings.domain_of(&from.uri))
        .is_none_or(|domain| domain.record_route)
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

    pub(crate) fn bad(reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..Self::new(400, Counter::BadRequest)
        }
    }
}

/// Max-Forwards, loop and extensions (§16.3 steps 3 to 5), for what begins a transaction.
pub fn validate(
    message: &Message<'_>,
    way: &Way,
    intake: &Intake,
    key: &Key,
) -> Result<(), Refusal> {
    let options = message
        .request()
        .is_some_and(|line| line.method == Method::Options);
    // An OPTIONS at its last hop is answered as if it were for us (§11).
    if intake.max_forwards == Some(0) && !options {
        return Err(Refusal::new(483, Counter::TooManyHops));
    }
    // A branch that we sealed is one that we made, wherever it stands and whatever host it goes with.
    let loops = |branch: Option<Branch>| branch.is_some_and(|branch| branch.fold == intake.fold);
    let loops_below = || {
        message.values(HeaderName::Via).skip(1).any(|value| {
            let via = Via::parse(value.value).ok();
            loops(
                via.and_then(|via| via.branch())
                    .and_then(|branch| Branch::decode(key, branch)),
            )
        })
    };
    if loops(way.branch) || loops_below() {
        return Err(Refusal::new(482, Counter::Loop));
    }
    let unsupported = unsupported(message, HeaderName::ProxyRequire, |_| false);
    if unsupported.is_empty() {
        return Ok(());
    }
    Err(Refusal {
        headers: unsupported,
        ..Refusal::new(420, Counter::BadExtension)
    })
}

/// An Unsupported line for the options that this header names and we lack (§8.2.2.3, §16.3 step 5); empty if there are none.
pub fn unsupported(
    message: &Message<'_>,
    name: HeaderName,
    known: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let mut line = Vec::new();
    for option in message.values(name).filter(|option| !known(option.value)) {
        line.extend_from_slice(if line.is_empty() {
            b"Unsupported: "
        } else {
            b", "
        });
        sip::message::unfold(option.value, &mut line);
    }
    if !line.is_empty() {
        line.extend_from_slice(b"\r\n");
    }
    line
}

/// The hash that tells loops from spirals (RFC 5393 §4.2).
/// The Vias are left out, as there, or no loop would ever be seen; RFC 3261 §16.6 step 8 has them in by mistake.
fn fold(
    message: &Message<'_>,
    key: &Key,
    cseq: u32,
    uri: &[u8],
    from: &NameAddr<'_>,
    to: &NameAddr<'_>,
    settings: &Settings,
) -> u64 {
    // A call that we hid and that comes back is the same one (see `hidden`).
    let sealed = message
        .first(HeaderName::CallId)
        .map(|header| header.value)
        .filter(|call_id| topology::token::may_be(call_id))
        .and_then(|call_id| CallId::innermost(&settings.hiding.sealer, call_id));
    let value = |name| message.first(name).map_or(&b""[..], |header| header.value);
    // We take away two Route values at most, so that a third line is the last that can decide.
    let mut routes = message.all(HeaderName::Route).map(|header| header.value);
    let mut route = || routes.next().unwrap_or_default();
    hash64(
        key,
        &[
            b"fold",
            to.tag().unwrap_or_default(),
            from.tag().unwrap_or_default(),
            match &sealed {
                Some(call_id) => call_id,
                None => value(HeaderName::CallId),
            },
            &cseq.to_be_bytes(),
            uri,
            route(),
            route(),
            route(),
            value(HeaderName::ProxyRequire),
            value(HeaderName::ProxyAuthorization),
        ],
    )
}
