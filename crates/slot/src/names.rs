//! What the resolver is asked and told, in its own words.

use std::net::{IpAddr, SocketAddr};

use dns::{Host, Input, Target};
use proxy::HopState;
use sip::uri::{Host as UriHost, Scheme, Uri};

/// What a URI says about where it leads; maddr stands in for the host (RFC 3263 §4).
pub fn target_of<'u>(uri: &'u Uri<'_>) -> Option<Target<'u>> {
    let secure = match uri.scheme {
        Scheme::Sip => false,
        Scheme::Sips => true,
        _ => return None,
    };
    let host = match uri.param("maddr").flatten() {
        Some(maddr) => UriHost::parse(maddr).ok()?,
        None => uri.host?,
    };
    Some(Target {
        host: match host {
            UriHost::V4(ip) => Host::Ip(IpAddr::V4(ip)),
            UriHost::V6(ip) => Host::Ip(IpAddr::V6(ip)),
            UriHost::Name(name) => Host::Name(name),
        },
        port: uri.port,
        transport: uri.transport(),
        secure,
    })
}

/// What a request has told about its next hop.
pub fn hop_input<T>(address: SocketAddr, state: HopState) -> Input<'static, T> {
    match state {
        HopState::Answered => Input::Hop {
            address,
            alive: true,
        },
        HopState::Busy {
            retry_after: Some(time),
        } => Input::Busy { address, time },
        HopState::Silent | HopState::Unreachable | HopState::Busy { retry_after: None } => {
            Input::Hop {
                address,
                alive: false,
            }
        }
    }
}
