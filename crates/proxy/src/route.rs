//! Which way a request goes: Route header fields (§16.4, §16.6 steps 6 and 7) and addresses.

use std::net::SocketAddr;

use sip::{
    HeaderName, Message, NameAddr, Via,
    uri::{Host, Scheme, Uri},
};

use crate::{
    addresses::Interface,
    ask::Target,
    call::place,
    settings::{PORT_DEFAULT, Settings},
};

/// What the Route header fields of a request mean for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// How many Route values on top are ours, and of the same pass: two where we bridge listeners.
    pub ours: usize,
    /// The Request-URI is our Record-Route URI, put there by a strict router; the last Route value is the real one.
    pub strict_before: bool,
    /// The listener that the last of our Route values names: the one to send from.
    pub listener: Option<Interface>,
    /// One of those URIs carries our seal for this dialog, and names its place.
    pub place: Option<u64>,
}

/// Most of our own values that are taken off the top of a Route set.
const OURS_MAX: usize = 2;

impl RouteInfo {
    /// No Route at all.
    pub const NONE: Self = Self {
        ours: 0,
        strict_before: false,
        listener: None,
        place: None,
    };

    /// Reads the Route header fields of a request to `uri` (§16.4).
    pub fn of(message: &Message<'_>, uri: &Uri<'_>, call_id: &[u8], settings: &Settings) -> Self {
        let mut info = Self::NONE;
        if !message.has(HeaderName::Route) {
            return info;
        }
        if uri.user.is_none() && uri.lr() && settings.listener_named(uri).is_some() {
            info.strict_before = true;
            info.place = place::read(&settings.dialog_key, call_id, uri);
        }
        for value in message.values(HeaderName::Route).take(OURS_MAX) {
            let Ok(route) = NameAddr::parse(value.value) else {
                break;
            };
            // Hidden where the call came by here once more (a spiral): that is its next hop.
            if info.ours > 0 && route.uri.user.is_some_and(topology::token::may_be) {
                break;
            }
            let Some(listener) = settings.interface_named(&route.uri) else {
                break;
            };
            let place = place::read(&settings.dialog_key, call_id, &route.uri);
            // Of a call that has passed through us twice, each pass has a dialog of its own: that is asked for by the request that comes back to us.
            if place.is_some() && info.place.is_some() && place != info.place {
                break;
            }
            info.ours = info.ours.saturating_add(1);
            info.listener = Some(listener);
            info.place = info.place.or(place);
        }
        info
    }

    /// As if no more than so many of the values on top were ours.
    pub(crate) fn with_ours(self, ours: usize, message: &Message<'_>, settings: &Settings) -> Self {
        if ours == self.ours {
            return self;
        }
        let last = ours.checked_sub(1);
        let last = last.and_then(|last| message.values(HeaderName::Route).nth(last));
        let named = |last: &[u8]| settings.interface_named(&NameAddr::parse(last).ok()?.uri);
        Self {
            ours,
            listener: last.and_then(|last| named(last.value)),
            ..self
        }
    }
}

/// Where the next hop is.
pub enum NextHop {
    Address(SocketAddr),
    /// A URI whose host must be looked up.
    Name(Vec<u8>),
    /// Nowhere that we can reach; the code says why.
    Nowhere(u16),
}

/// The next hop of one copy (§16.6 step 7): what the target says, else the first Route, else the Request-URI.
pub fn next_hop(message: &Message<'_>, info: &RouteInfo, target: &Target) -> NextHop {
    let request_uri = message.request().map_or(&b""[..], |line| line.uri);
    let routes;
    let text = if let Some(next_hop) = &target.next_hop {
        next_hop.as_slice()
    } else if info.strict_before {
        routes = StrictRoutes::of(message, info, target, request_uri);
        // What has become the Request-URI is where it goes, unless a loose route is left.
        match list(&routes.rest).next().map(NameAddr::parse) {
            Some(Ok(route)) if route.lr() => route.uri.text,
            _ => routes.uri.as_slice(),
        }
    } else {
        match (first_route(message, info, target), &target.uri) {
            (Some(route), _) => match NameAddr::parse(route) {
                Ok(route) => route.uri.text,
                Err(_) => return NextHop::Nowhere(400),
            },
            (None, Some(uri)) => uri.as_slice(),
            (None, None) => request_uri,
        }
    };
    let Ok(uri) = Uri::parse(text) else {
        return NextHop::Nowhere(500);
    };
    // A sips: or tel: URI as next hop needs TLS or ENUM, which do not exist in this version.
    if uri.scheme != Scheme::Sip {
        return NextHop::Nowhere(416);
    }
    if uri
        .transport()
        .is_some_and(|transport| !transport.eq_ignore_ascii_case(b"udp"))
    {
        return NextHop::Nowhere(500);
    }
    match literal_address(&uri) {
        Some(address) => NextHop::Address(address),
        None => NextHop::Name(text.to_vec()),
    }
}

/// The first Route value of a copy, ours taken off.
fn first_route<'r>(
    message: &Message<'r>,
    info: &RouteInfo,
    target: &'r Target,
) -> Option<&'r [u8]> {
    match &target.path {
        Some(path) => list(path).next(),
        None => message
            .values(HeaderName::Route)
            .nth(info.ours)
            .map(|value| value.value),
    }
}

/// Whether the next hop by Route is a strict router: one whose URI lacks lr (§16.6 step 6).
pub fn is_strict(message: &Message<'_>, info: &RouteInfo, target: &Target) -> bool {
    first_route(message, info, target)
        .and_then(|route| NameAddr::parse(route).ok())
        .is_some_and(|route| {
            // What was asked for its address is that very URI.
            let hop = target.next_hop.as_deref();
            !route.lr() && hop.is_none_or(|hop| hop == route.uri.text)
        })
}

/// A Request-URI and a Route set around a strict router, ours taken off.
pub struct StrictRoutes {
    pub uri: Vec<u8>,
    pub rest: Vec<u8>,
}

impl StrictRoutes {
    /// Moves URIs between Route and Request-URI for a strict router before us (§16.4) and after us (§16.6 step 6).
    pub fn of(
        message: &Message<'_>,
        info: &RouteInfo,
        target: &Target,
        request_uri: &[u8],
    ) -> Self {
        let whole = target.whole;
        let mut routes: Vec<&[u8]> = match &target.path {
            Some(path) if whole => list(path).collect(),
            _ => {
                let came = message.values(HeaderName::Route).skip(info.ours);
                came.map(|value| value.value).collect()
            }
        };
        let mut uri = target.uri.as_deref().unwrap_or(request_uri);
        if info.strict_before
            && target.uri.is_none()
            && let Some(last) = routes.pop()
            && let Ok(last) = NameAddr::parse(last)
        {
            uri = last.uri.text;
        }
        if let Some(path) = target.path.as_ref().filter(|_| !whole) {
            routes.insert(0, path);
        }
        let mut own = Vec::new();
        let first = routes
            .first()
            .and_then(|first| NameAddr::parse(list(first).next()?).ok());
        if let Some(first) = first
            && !first.lr()
            && (target.path.is_none() || whole)
        {
            own.push(b'<');
            own.extend_from_slice(uri);
            own.push(b'>');
            uri = first.uri.text;
            routes.remove(0);
        }
        if !own.is_empty() {
            routes.push(&own);
        }
        let mut rest = Vec::new();
        sip::message::unfold(&routes.join(&b", "[..]), &mut rest);
        Self {
            uri: uri.to_vec(),
            rest,
        }
    }
}

/// The values of a comma separated list of name-addrs.
pub fn list(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text.trim_ascii();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (first, after) = rest.split_at(first_of_list(rest));
        rest = after.strip_prefix(b",").unwrap_or(after).trim_ascii_start();
        Some(first.trim_ascii_end())
    })
}

/// Where the first value of such a list ends.
fn first_of_list(list: &[u8]) -> usize {
    let (mut inside, mut quoted, mut escaped) = (false, false, false);
    for (at, &byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if !inside => quoted = !quoted,
            _ if quoted => {}
            b'<' => inside = true,
            b'>' => inside = false,
            b',' if !inside => return at,
            _ => {}
        }
    }
    list.len()
}

/// The address of a URI that needs no look-up: a literal host, or maddr in its place (RFC 3263 §4.2).
pub fn literal_address(uri: &Uri<'_>) -> Option<SocketAddr> {
    let port = uri.port.unwrap_or(PORT_DEFAULT);
    let ip = match uri.param("maddr").flatten().map(Host::parse) {
        Some(Ok(host)) => host.address()?,
        Some(Err(_)) => return None,
        None => uri.host?.address()?,
    };
    Some(SocketAddr::new(ip, port))
}

/// Where a response goes by this Via (§18.2.2, RFC 3581 §4); `None` if that needs a look-up.
pub fn response_address(via: &Via<'_>) -> Option<SocketAddr> {
    let port = via
        .rport()
        .flatten()
        .or(via.sent_by.port)
        .unwrap_or(PORT_DEFAULT);
    let ip = match via.received() {
        Some(received) => received,
        None => via.sent_by.host.address()?,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn commas_in_uris_and_names_divide_nothing() {
        for (text, values) in [
            (
                &b"<sip:a,b@c;lr>, <sip:d>"[..],
                &[&b"<sip:a,b@c;lr>"[..], b"<sip:d>"][..],
            ),
            (
                b"\"x, \\\", y\" <sip:a>;p , <sip:d>",
                &[b"\"x, \\\", y\" <sip:a>;p", b"<sip:d>"],
            ),
            (b" <sip:a> ", &[b"<sip:a>"]),
            (b"<sip:a>,,<sip:b>,", &[b"<sip:a>", b"", b"<sip:b>"]),
            (b" ", &[]),
        ] {
            assert_eq!(list(text).collect::<Vec<_>>(), values);
        }
    }
}
