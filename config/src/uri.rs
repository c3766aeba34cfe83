//! URIs that requests are sent to: only what this version can reach.

use crate::value::{Wrong, host_port, wrong};

/// Accepts a SIP URI that can be sent to over UDP.
pub(crate) fn check(text: &str) -> Result<(), Wrong> {
    const EXAMPLE: &str = "write a SIP URI, like sip:192.0.2.10:5060";
    if text
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | '"'))
    {
        return wrong("is not a SIP URI", EXAMPLE);
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return wrong("is not a SIP URI", EXAMPLE);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "sip" => {}
        "sips" => {
            return wrong(
                "needs TLS, which does not exist in this version",
                "use a sip: URI",
            );
        }
        "tel" => return wrong("is a tel: URI, which names no place to send to", EXAMPLE),
        _ => return wrong("is not a SIP URI", EXAMPLE),
    }
    let address = rest.split_once('?').map_or(rest, |(address, _)| address);
    let host = address.rsplit_once('@').map_or(address, |(_, host)| host);
    let mut parts = host.split(';');
    if let Err(inner) = host_port(parts.next().unwrap_or("")) {
        return wrong(format!("has a host that {}", inner.what), inner.remedy);
    }
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.eq_ignore_ascii_case("transport") && !value.eq_ignore_ascii_case("udp") {
            return wrong(
                format!("asks for transport {value:?}, which does not exist in this version"),
                "leave the transport parameter away",
            );
        }
    }
    Ok(())
}
