//! Addresses in headers: of people, of contacts, of things to be fetched.

use sip::{Host, NameAddr, Param, Scheme, Uri, message::unfold};

use crate::{
    hide::Hide,
    marks::{self, Marks},
    policy::{Identities, Side},
    token::Target,
};

/// URI parameters that say who somebody is, and nothing of where.
const KEPT_PARAMS: [&str; 12] = [
    "user",
    "phone-context",
    "isub",
    "ext",
    "postd",
    "cause",
    "rn",
    "npdi",
    "cpc",
    "oli",
    "isup-oli",
    "method",
];
/// Parameters of a Contact that elements on the way put there.
const CONTACT_PARAMS_GONE: [&str; 3] = ["received", "path", "rinstance"];

impl Hide<'_> {
    /// Whether nothing is hidden by hiding this host.
    pub(crate) fn is_open(&self, uri: &Uri<'_>) -> bool {
        let maddr = uri.param("maddr").is_some();
        !maddr && uri.host.is_none_or(|host| (self.is_open)(&host))
    }

    /// The URI of a person as the other side may see it; `None`: as it is.
    pub(crate) fn identity_uri(&self, uri: &Uri<'_>, marks: &Marks<'_>) -> Option<Vec<u8>> {
        let is_sip = matches!(uri.scheme, Scheme::Sip | Scheme::Sips);
        if self.policy.identities == Identities::Keep || !is_sip || self.is_open(uri) {
            return None;
        }
        let mut out = Vec::with_capacity(uri.text.len());
        out.extend_from_slice(uri.scheme.as_str().as_bytes());
        out.push(b':');
        if let Some(user) = uri.user {
            out.extend_from_slice(user);
            out.push(b'@');
        }
        out.extend_from_slice(self.identity);
        for param in uri.params.iter() {
            let kept = KEPT_PARAMS.iter().any(|name| param.is(name));
            if kept && !param.value.is_some_and(|value| marks.is_in(value)) {
                write_param(param.name, param.value, &mut out);
            }
        }
        // RFC 7044 §5: History-Info says there why a request was sent on.
        let mut first = true;
        for header in uri.headers.iter() {
            let kept = ["Reason", "Privacy"]
                .iter()
                .any(|name| header.name.eq_ignore_ascii_case(name.as_bytes()));
            if kept && !marks.is_in(&unescaped(header.value)) {
                out.push(if first { b'?' } else { b'&' });
                first = false;
                out.extend_from_slice(header.name);
                out.push(b'=');
                out.extend_from_slice(header.value);
            }
        }
        Some(out)
    }

    /// Writes a person's address.
    pub(crate) fn identity(&self, value: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) {
        if self.policy.identities == Identities::Keep {
            unfold(value, out);
            return;
        }
        let Ok(address) = NameAddr::parse(value) else {
            self.scan(value, marks, out);
            return;
        };
        let uri =
            self.identity_uri(&address.uri, marks)
                .unwrap_or_else(|| match address.uri.scheme {
                    Scheme::Sip | Scheme::Sips => address.uri.text.to_vec(),
                    Scheme::Tel | Scheme::Other => {
                        let mut text = Vec::new();
                        self.scan(address.uri.text, marks, &mut text);
                        text
                    }
                });
        self.name_addr(&address, &uri, marks, out);
    }

    /// Writes a name-addr with another URI. What its name and parameters tell of the network goes.
    pub(crate) fn name_addr(
        &self,
        address: &NameAddr<'_>,
        uri: &[u8],
        marks: &Marks<'_>,
        out: &mut Vec<u8>,
    ) {
        if let Some(display) = address.display {
            self.scan(display, marks, out);
            out.push(b' ');
        }
        out.push(b'<');
        out.extend_from_slice(uri);
        out.push(b'>');
        for param in address.params {
            if !self.tells(&param, marks) {
                write_param(param.name, param.value, out);
            }
        }
    }

    fn tells(&self, param: &Param<'_>, marks: &Marks<'_>) -> bool {
        let gone = CONTACT_PARAMS_GONE.iter().any(|name| param.is(name));
        let is_in = |value: &[u8]| marks.is_in(value) || marks.is_in(&unescaped(value));
        gone || param.value.is_some_and(is_in)
    }

    /// Writes `<sip:TOKEN@us>` around a token; false if the token is too long.
    #[must_use]
    pub(crate) fn own_uri(&self, target: &Target, out: &mut Vec<u8>) -> bool {
        let Some(user) = target.seal(self.sealer) else {
            return false;
        };
        out.extend_from_slice(b"sip:");
        out.extend_from_slice(&user);
        out.push(b'@');
        out.extend_from_slice(self.own);
        true
    }

    /// The token for a contact of this side.
    pub(crate) fn contact(&self, side: Side, uri: &[u8], routes: &[u8]) -> Target {
        Target::Contact {
            side,
            policy: self.policy,
            uri: uri.to_vec(),
            routes: routes.to_vec(),
        }
    }

    /// Writes an address of something to be fetched; nothing if it is on a hidden host.
    pub(crate) fn fetch(&self, value: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) {
        let Ok(address) = NameAddr::parse(value) else {
            return;
        };
        let uri = &address.uri;
        match uri.scheme {
            Scheme::Tel => self.name_addr(&address, uri.text, marks, out),
            Scheme::Sip | Scheme::Sips if self.is_open(uri) => {
                self.name_addr(&address, uri.text, marks, out);
            }
            Scheme::Sip | Scheme::Sips => {}
            Scheme::Other => {
                let open = authority(uri.text)
                    .is_none_or(|host| Host::parse(host).is_ok_and(|host| (self.is_open)(&host)));
                if open && !marks.is_in(uri.text) {
                    self.name_addr(&address, uri.text, marks, out);
                }
            }
        }
    }

    /// Writes a Warning (RFC 3261 §20.43): we are who warns.
    pub(crate) fn warning(&self, value: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) {
        let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
        let Some((code, rest)) = value.split_at_checked(digits).filter(|_| digits == 3) else {
            return;
        };
        let Some(quote) = rest.iter().position(|b| *b == b'"') else {
            return;
        };
        out.extend_from_slice(code);
        out.push(b' ');
        out.extend_from_slice(self.own);
        out.push(b' ');
        self.scan(rest.get(quote..).unwrap_or_default(), marks, out);
    }

    /// Writes text with what was learnt replaced.
    pub(crate) fn scan(&self, text: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) {
        let mut flat = Vec::new();
        unfold(text, &mut flat);
        let mut replaced = Vec::new();
        marks.replace(&flat, self.own, &mut replaced);
        // What is escaped can't be replaced in place; it is read by the other side all the same.
        if flat.contains(&b'%') {
            let mut plain = Vec::new();
            marks.replace(&unescaped(&flat), self.own, &mut plain);
            if unescaped(&replaced) != plain {
                replaced = plain;
                replaced.retain(|b| !matches!(b, b'\r' | b'\n' | 0));
            }
        }
        out.extend_from_slice(&replaced);
    }
}

/// The host in `scheme://user@host:port/path`; `None` for a URI without one.
pub(crate) fn authority(uri: &[u8]) -> Option<&[u8]> {
    let at = memchr::memmem::find(uri, b"//")?;
    let rest = uri.get(at.checked_add(2)?..)?;
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    let host = rest.get(..end)?;
    let host = host.rsplit(|b| *b == b'@').next()?;
    let end = match host {
        [b'[', ..] => host.iter().position(|b| *b == b']')?.checked_add(1)?,
        _ => host.iter().position(|b| *b == b':').unwrap_or(host.len()),
    };
    host.get(..end)
}

fn write_param(name: &[u8], value: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(b';');
    unfold(name, out);
    if let Some(value) = value {
        out.push(b'=');
        unfold(value, out);
    }
}

/// The value of a hexadecimal digit.
pub(crate) fn nibble(digit: &u8) -> Option<u8> {
    u8::try_from(char::from(*digit).to_digit(16)?).ok()
}

/// The text with `%41` as `A`.
pub(crate) fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, more)) = rest.split_first() {
        if first == b'%'
            && let [high, low, after @ ..] = more
            && let (Some(high), Some(low)) = (nibble(high), nibble(low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(first);
            rest = more;
        }
    }
    out
}

/// Appends a header value of a URI (RFC 3261 §25.1, `hvalue`).
pub(crate) fn escape_header(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()[]/?:+$".contains(&byte) {
            out.push(byte);
        } else {
            out.push(b'%');
            for digit in [byte >> 4, byte & 15] {
                out.extend(HEX.get(usize::from(digit)));
            }
        }
    }
}

/// Whether a text has an address that is not among these.
pub(crate) fn has_other_address(text: &[u8], known: &[std::net::IpAddr]) -> bool {
    let v4 = marks::addresses_v4(text).map(|(_, _, ip)| std::net::IpAddr::V4(ip));
    let v6 = marks::addresses_v6(text).map(|(_, _, ip)| std::net::IpAddr::V6(ip));
    v4.chain(v6)
        .any(|ip| !ip.is_unspecified() && !known.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_found() {
        for (uri, host) in [
            ("http://a.example/ring.wav", Some("a.example")),
            ("https://u:p@a.example:8443?x", Some("a.example")),
            ("http://[2001:db8::1]:80/", Some("[2001:db8::1]")),
            ("urn:alert:source:internal", None),
            ("cid:1234@a.example", None),
        ] {
            assert_eq!(
                authority(uri.as_bytes()).map(|h| std::str::from_utf8(h).unwrap()),
                host
            );
        }
    }

    #[test]
    fn escapes_come_and_go() {
        let mut out = Vec::new();
        escape_header(b"a@b;to-tag=1 x", &mut out);
        assert_eq!(out, b"a%40b%3Bto-tag%3D1%20x");
        assert_eq!(unescaped(&out), b"a@b;to-tag=1 x");
        assert_eq!(unescaped(b"%4%zz%41"), b"%4%zzA");
    }
}
