//! SDP (RFC 8866), line by line.
//!
//! What says where media go must stay, or there are none: the addresses of `c=` lines, and with them `m=`. Behind a media relay these are the relay's. Everything else
//! that has another address goes: the origin becomes ours, candidates and attributes are left out. Without a relay `c=` still tells where the
//! other side is, which is why the configuration is checked for one.

use std::net::IpAddr;

use sip::Host;

use crate::{hide::Hide, marks::Marks, names::has_other_address};

/// Attributes that only make sense with candidates (RFC 8839 §5).
const ICE: [&[u8]; 8] = [
    b"candidate",
    b"remote-candidates",
    b"ice-ufrag",
    b"ice-pwd",
    b"ice-options",
    b"ice-lite",
    b"ice-pacing",
    b"end-of-candidates",
];

/// Different addresses, and names, of media that are told apart from others; a description has a few. What more there are is taken for no media's.
const MEDIA_MAX: usize = 32;

/// Addresses that the description says media go to.
fn media_addresses(body: &[u8]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in lines(body) {
        let Some(value) = line.strip_prefix(b"c=") else {
            continue;
        };
        let place = value.split(is_blank).nth(2).unwrap_or_default();
        let text = place.split(|b| *b == b'/').next().unwrap_or_default();
        if let Some(ip) = ip(text)
            && found.len() < MEDIA_MAX
            && !found.contains(&ip)
        {
            found.push(ip);
        }
    }
    found
}

/// The hosts that a description names, for what else may name them.
pub(crate) fn learn(body: &[u8], marks: &mut Marks<'_>, is_open: impl Fn(&Host<'_>) -> bool) {
    for line in lines(body) {
        let [b'c' | b'o', b'=', value @ ..] = line else {
            continue;
        };
        let at = if line.starts_with(b"c") { 2 } else { 5 };
        let host = value.split(is_blank).nth(at).unwrap_or_default();
        let host = host.split(|b| *b == b'/').next().unwrap_or_default();
        let host = match ip(host) {
            Some(IpAddr::V4(ip)) => Host::V4(ip),
            Some(IpAddr::V6(ip)) => Host::V6(ip),
            None if host.is_empty() => continue,
            None => Host::Name(host),
        };
        if !is_open(&host) {
            marks.learn_host(&host);
        }
    }
}

impl Hide<'_> {
    /// Writes a description as the other side may see it.
    pub(crate) fn sdp(&self, body: &[u8], marks: &Marks<'_>, out: &mut Vec<u8>) {
        let media = media_addresses(body);
        // Media that are told by name.
        let told = lines(body).filter_map(|line| {
            let value = line.strip_prefix(b"c=")?;
            value
                .split(is_blank)
                .nth(2)
                .filter(|host| ip(host).is_none())
        });
        let mut names: Vec<&[u8]> = Vec::new();
        for name in told {
            if names.len() < MEDIA_MAX && !names.contains(&name) {
                names.push(name);
            }
        }
        let keeps = |line: &[u8]| {
            let mut rest = Vec::new();
            let hides = !has_other_address(line, &media);
            // A name or address of media is no secret within the description.
            marks.replace(line, b"", &mut rest);
            hides && (rest == line || media_only(line, marks, &media, &names))
        };
        let candidate_lines = || lines(body).filter(|line| matches!(attribute(line), b"candidate"));
        let ice = candidate_lines().any(keeps) || candidate_lines().next().is_none();
        for line in lines(body) {
            match line {
                [b'o', b'=', value @ ..] => self.origin(value, out),
                [b'c', b'=', ..] => out.extend_from_slice(line),
                [letter, b'=', ..] if b"mtbvkrz".contains(letter) => {
                    if !keeps(line) {
                        continue;
                    }
                    out.extend_from_slice(line);
                }
                [b's' | b'i', b'=', ..] => self.scan(line, marks, out),
                [b'a', b'=', ..] => {
                    let is_ice = ICE.contains(&attribute(line));
                    if is_ice && !ice || !keeps(line) {
                        continue;
                    }
                    out.extend_from_slice(line);
                }
                // Who to write to, who to call, and what nobody knows.
                _ => continue,
            }
            out.extend_from_slice(b"\r\n");
        }
    }

    /// `username sess-id sess-version nettype addrtype unicast-address`: the name and the address are ours.
    fn origin(&self, value: &[u8], out: &mut Vec<u8>) {
        let mut parts = value.split(is_blank).skip(1);
        let mut part = |or: &'static [u8]| {
            parts
                .next()
                .filter(|text| !text.is_empty() && text.iter().all(u8::is_ascii_digit))
                .unwrap_or(or)
        };
        let (id, version) = (part(b"0"), part(b"0"));
        out.extend_from_slice(b"o=- ");
        out.extend_from_slice(id);
        out.push(b' ');
        out.extend_from_slice(version);
        let host = sip::SentBy::parse(self.own).ok().map(|by| by.host);
        out.extend_from_slice(match host {
            Some(Host::V6(_)) => b" IN IP6 ",
            _ => b" IN IP4 ",
        });
        match host {
            Some(Host::V6(ip)) => out.extend_from_slice(ip.to_string().as_bytes()),
            Some(host) => host.write(out),
            None => out.extend_from_slice(b"0.0.0.0"),
        }
    }
}

/// Whether what was learnt stands in the line only as an address of media.
fn media_only(line: &[u8], marks: &Marks<'_>, media: &[IpAddr], names: &[&[u8]]) -> bool {
    let mut text = line.to_ascii_lowercase();
    let known = media.iter().map(|ip| ip.to_string().into_bytes());
    for known in known.chain(names.iter().map(|name| name.to_ascii_lowercase())) {
        text = without(&text, &known);
    }
    !marks.is_in(&text)
}

/// The text with each place that says `what` left empty.
fn without(text: &[u8], what: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut from = 0;
    for at in memchr::memmem::find_iter(text, what) {
        out.extend_from_slice(text.get(from..at).unwrap_or_default());
        from = at.saturating_add(what.len());
    }
    out.extend_from_slice(text.get(from..).unwrap_or_default());
    out
}

fn is_blank(byte: &u8) -> bool {
    *byte == b' '
}

fn ip(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The lines without their ends; a line that is none by its form is left out.
fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| matches!(line, [letter, b'=', ..] if letter.is_ascii_lowercase()))
        .filter(|line| !line.iter().any(|b| matches!(b, b'\r' | 0)))
}

fn attribute(line: &[u8]) -> &[u8] {
    let name = line.strip_prefix(b"a=").unwrap_or_default();
    let end = name.iter().position(|b| *b == b':').unwrap_or(name.len());
    name.get(..end).unwrap_or_default()
}
