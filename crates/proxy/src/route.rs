//! Which way a request goes: Route header fields (§16.4, §16.6 steps 6 and 7) and addresses.

use std::net::{IpAddr, SocketAddr};

use sip::{
    HeaderName, Message, NameAddr, Via,
    uri::{Host, Uri},
};

use crate::{
    proxy::Step,
    settings::{PORT_DEFAULT, Settings},
};

/// What the Route header fields of a request mean for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// How many Route values on top are ours: two where we bridge listeners.
    pub ours: usize,
    /// The Request-URI is our Record-Route URI, put there by a strict router; the last Route value is the real one.
    pub strict_before: bool,
    /// The listener that the last of our Route values names: the one to send from.
    pub listener: Option<u32>,
}

/// Most of our own values that are taken off the top of a Route set.
const OURS_MAX: usize = 2;

impl RouteInfo {
    pub fn of(message: &Message<'_>, settings: &Settings, strict_before: bool) -> Self {
        let mut info = Self {
            ours: 0,
            strict_before,
            listener: None,
        };
        for value in message.values(HeaderName::Route).take(OURS_MAX) {
            let Ok(route) = NameAddr::parse(value.value) else {
                break;
            };
            let Some(listener) = settings.listener_named(&route.uri) else {
                break;
            };
            info.ours += 1;
            info.listener = Some(listener.id);
        }
        info
    }
}

impl Step<'_, '_> {
    /// Reads the Route header fields of a request.
    pub(crate) fn route_info(&self, message: &Message<'_>) -> RouteInfo {
        let uri = message.request().and_then(|line| Uri::parse(line.uri).ok());
        let strict =
            message.has(HeaderName::Route) && uri.is_some_and(|uri| self.is_our_record_route(&uri));
        RouteInfo::of(message, self.settings, strict)
    }
}

/// The address of a URI that needs no look-up: a literal host, or maddr in its place (RFC 3263 §4.2).
pub fn literal_address(uri: &Uri<'_>) -> Option<SocketAddr> {
    let port = uri.port.unwrap_or(PORT_DEFAULT);
    let ip = match uri.param("maddr").flatten().map(Host::parse) {
        Some(Ok(host)) => host_ip(&host)?,
        Some(Err(_)) => return None,
        None => host_ip(&uri.host?)?,
    };
    Some(SocketAddr::new(ip, port))
}

fn host_ip(host: &Host<'_>) -> Option<IpAddr> {
    match *host {
        Host::V4(ip) => Some(IpAddr::V4(ip)),
        Host::V6(ip) => Some(IpAddr::V6(ip)),
        Host::Name(_) => None,
    }
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
        None => host_ip(&via.sent_by.host)?,
    };
    Some(SocketAddr::new(ip, port))
}
