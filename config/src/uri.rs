//! URIs that requests are sent to: only what this version can reach.

use sip::uri::{Scheme, Uri, UriError};

use crate::value::{Wrong, wrong};

/// Accepts a SIP URI that can be sent to over UDP and may stand as a Request-URI (RFC 3261 §19.1.1).
pub(crate) fn check(text: &str) -> Result<(), Wrong> {
    const EXAMPLE: &str = "write a SIP URI, like sip:192.0.2.10:5060";
    let uri = match Uri::parse(text.as_bytes()) {
        Ok(uri) => uri,
        Err(error) => {
            let at = place(error).filter(|at| text.is_char_boundary(*at) && *at < text.len());
            return Err(Wrong {
                what: format!("is not a SIP URI: {error}"),
                remedy: with_scheme(text).unwrap_or_else(|| EXAMPLE.to_owned()),
                at: at.map(|at| at..at + 1),
            });
        }
    };
    match uri.scheme {
        Scheme::Sip => {}
        Scheme::Sips => {
            return wrong(
                "needs TLS, which does not exist in this version",
                "use a sip: URI",
            );
        }
        Scheme::Tel => return wrong("is a tel: URI, which names no place to send to", EXAMPLE),
        Scheme::Other => return wrong("is not a SIP URI", EXAMPLE),
    }
    if let Some(transport) = uri
        .transport()
        .filter(|transport| !transport.eq_ignore_ascii_case(b"udp"))
    {
        return wrong(
            format!(
                "asks for transport {:?}, which does not exist in this version",
                String::from_utf8_lossy(transport)
            ),
            "leave the transport parameter away",
        );
    }
    if !uri.headers.is_empty() || uri.param("method").is_some() {
        return wrong(
            "has headers or a method, which no Request-URI may have",
            "leave them away",
        );
    }
    Ok(())
}

/// What somebody meant who wrote a host alone.
fn with_scheme(text: &str) -> Option<String> {
    let whole = format!("sip:{text}");
    Uri::parse(whole.as_bytes())
        .is_ok()
        .then(|| format!("write {whole}"))
}

fn place(error: UriError) -> Option<usize> {
    match error {
        UriError::Scheme(at)
        | UriError::User(at)
        | UriError::Password(at)
        | UriError::Host(at, _)
        | UriError::Port(at)
        | UriError::Param(at)
        | UriError::Header(at)
        | UriError::Number(at)
        | UriError::Char(at)
        | UriError::TooMany(at) => usize::try_from(at.0).ok(),
        _ => None,
    }
}
