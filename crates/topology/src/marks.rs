//! Addresses that a message tells of its sender's network, and where else they stand in it.
//!
//! Headers and bodies that no grammar of ours reads may repeat what is hidden elsewhere: an `X-` header with the host of the Via, an XML document
//! with the Contact. What was learnt is looked for as text, whole names and whole addresses only, without regard to case. Addresses that mean something within
//! one network only (RFC 1918 and their like) count as learnt.

use std::{
    cmp::Reverse,
    net::{IpAddr, Ipv6Addr},
};

use memchr::memmem;
use sip::{Host, Uri};

/// Most marks of one message; beyond them nothing more is learnt.
const MARKS_MAX: usize = 128;
/// No name is longer (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 255;
/// A host name shorter than this is none that can be told from a word.
const NAME_BYTES_MIN: usize = 4;
/// The same for Call-IDs and branches.
const ID_BYTES_MIN: usize = 6;

/// What was learnt.
#[derive(Clone, Default)]
pub struct Marks<'h> {
    /// Names that are no secret, though they end as one that is.
    is_open: Option<&'h IsOpen<'h>>,
    /// Names and IPv4 addresses in lower case.
    hosts: Vec<Vec<u8>>,
    addresses: Vec<Ipv6Addr>,
    /// Call-IDs and branches, and what takes their place.
    ids: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Says of a host whether it is no secret.
pub type IsOpen<'h> = dyn Fn(&Host<'_>) -> bool + 'h;

impl std::fmt::Debug for Marks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marks")
            .field("hosts", &self.hosts)
            .field("addresses", &self.addresses)
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}

impl<'h> Marks<'h> {
    pub fn with_open(is_open: &'h IsOpen<'h>) -> Self {
        Self {
            is_open: Some(is_open),
            ..Self::default()
        }
    }

    pub fn learn_host(&mut self, host: &Host<'_>) {
        if self.len() >= MARKS_MAX {
            return;
        }
        match host {
            Host::V6(ip) if !ip.is_unspecified() && !self.addresses.contains(ip) => {
                self.addresses.push(*ip);
            }
            Host::V6(_) => {}
            Host::V4(ip) if ip.is_unspecified() => {}
            Host::V4(ip) => self.push_host(ip.to_string().into_bytes()),
            Host::Name(name) => {
                let name = name.strip_suffix(b".").unwrap_or(name);
                // A word without a dot is no name that says where it is, and may be any word.
                if name.len() >= NAME_BYTES_MIN && name.contains(&b'.') {
                    self.push_host(name.to_ascii_lowercase());
                }
            }
        }
    }

    pub fn learn_ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.learn_host(&Host::V4(ip)),
            IpAddr::V6(ip) => self.learn_host(&Host::V6(ip)),
        }
    }

    /// The hosts in a URI.
    pub fn learn_uri(&mut self, uri: &Uri<'_>) {
        for host in uri.host.iter().chain(&uri.maddr()) {
            self.learn_host(host);
        }
    }

    /// A Call-ID or a branch, in whose place the other text stands on the other side.
    pub fn learn_id(&mut self, id: &[u8], instead: &[u8]) {
        let known = self.ids.iter().any(|(known, _)| known == id);
        if id.len() >= ID_BYTES_MIN && !known && self.len() < MARKS_MAX {
            self.ids.push((id.to_vec(), instead.to_vec()));
        }
    }

    fn push_host(&mut self, host: Vec<u8>) {
        if !self.hosts.contains(&host) {
            self.hosts.push(host);
        }
    }

    fn len(&self) -> usize {
        self.hosts
            .len()
            .saturating_add(self.addresses.len())
            .saturating_add(self.ids.len())
    }

    /// Whether the text has one of them.
    pub fn is_in(&self, text: &[u8]) -> bool {
        let lower = text.to_ascii_lowercase();
        self.all_for(text)
            .any(|mark| mark.find(text, &lower, 0).is_some())
    }

    /// Appends the text with `own` in the place of every host, its port included, and the other side's names in the place of ids.
    ///
    /// Where several begin at one place, the longest is replaced. Each mark is looked for once from the front to the back, however often marks stand in the text.
    pub fn replace<'m>(&'m self, text: &[u8], own: &[u8], out: &mut Vec<u8>) {
        let lower = text.to_ascii_lowercase();
        let find = |mark: Mark<'m>, from| (mark, mark.find(text, &lower, from));
        let mut marks: Vec<_> = self.all_for(text).map(|mark| find(mark, 0)).collect();
        let mut at = 0;
        loop {
            let hits = marks.iter().filter_map(|(_, hit)| hit.as_ref());
            let Some(hit) = hits.min_by_key(|hit| (hit.start, Reverse(hit.end))) else {
                break;
            };
            out.extend_from_slice(text.get(at..hit.start).unwrap_or_default());
            out.extend_from_slice(hit.instead.unwrap_or(own));
            at = hit.end;
            let glued = is_glued(&lower, at);
            let near = at.saturating_add(NEAR_BYTES).min(text.len());
            for (mark, hit) in &mut marks {
                // What begins within what was replaced is looked for anew behind it.
                if hit.as_ref().is_some_and(|hit| hit.start < at) {
                    *hit = mark.find(text, &lower, at);
                } else if glued && mark.is_number() {
                    let new = mark.find(text.get(..near).unwrap_or_default(), &lower, at);
                    // Behind a dot, at most: what is further off is what it was.
                    let new = new.filter(|new| new.start <= at.saturating_add(1));
                    *hit = new.or(hit.take());
                }
            }
        }
        out.extend_from_slice(text.get(at..).unwrap_or_default());
    }

    /// Those that may be in a text: most lines of a body have no dot at all.
    fn all_for(&self, text: &[u8]) -> impl Iterator<Item = Mark<'_>> {
        let (dots, colons) = (text.contains(&b'.'), text.contains(&b':'));
        self.all().filter(move |mark| match mark {
            Mark::Id(..) => true,
            Mark::Host(..) | Mark::V4 => dots,
            Mark::V6(_) => colons,
        })
    }

    fn all(&self) -> impl Iterator<Item = Mark<'_>> {
        let ids = self.ids.iter();
        ids.map(|(id, instead)| Mark::Id(id, instead))
            .chain(self.hosts.iter().map(|host| Mark::Host(host, self.is_open)))
            .chain([Mark::V6(&self.addresses), Mark::V4])
    }
}

/// What is looked for.
#[derive(Clone, Copy)]
enum Mark<'m> {
    /// With what takes its place.
    Id(&'m [u8], &'m [u8]),
    /// And what is no secret.
    Host(&'m [u8], Option<&'m IsOpen<'m>>),
    /// One of these, or one that means something within a network only.
    V6(&'m [Ipv6Addr]),
    /// One that means something within a network only.
    V4,
}

impl<'m> Mark<'m> {
    /// Whether what stands before it says whether it is one.
    fn is_number(self) -> bool {
        match self {
            Self::Id(..) => false,
            Self::Host(host, _) => is_number(host),
            Self::V6(_) | Self::V4 => true,
        }
    }

    /// Where it stands first, from a place of the text on; what is before that does not count. `lower` is the text in lower case.
    fn find(self, text: &[u8], lower: &[u8], from: usize) -> Option<Hit<'m>> {
        let lower = lower.get(from..text.len())?;
        let place = match self {
            Self::Id(id, instead) => {
                let start = memmem::find(text.get(from..)?, id)?.saturating_add(from);
                return Some(Hit {
                    start,
                    end: start.saturating_add(id.len()),
                    instead: Some(instead),
                });
            }
            Self::Host(host, is_open) => memmem::find_iter(lower, host).find_map(|at| {
                let (start, end) = whole(lower, at, host)?;
                let longer = end.saturating_sub(start) > host.len();
                let name = lower.get(start..end).filter(|_| longer);
                let open = is_open
                    .is_some_and(|is_open| name.is_some_and(|name| is_open(&Host::Name(name))));
                (!open).then_some((start, end))
            })?,
            Self::V6(learnt) => addresses_v6(lower)
                .find(|(_, _, ip)| is_inner(&IpAddr::V6(*ip)) || learnt.contains(ip))
                .map(|(start, end, _)| (start, end))?,
            Self::V4 => addresses_v4(lower)
                .find(|(_, _, ip)| is_inner(&IpAddr::V4(*ip)))
                .map(|(start, end, _)| (start, end))?,
        };
        Some(Hit {
            start: place.0.saturating_add(from),
            end: port_end(lower, place.1).saturating_add(from),
            instead: None,
        })
    }
}

fn is_number(host: &[u8]) -> bool {
    host.iter().all(|b| b.is_ascii_digit() || *b == b'.')
}

/// How far an address can go.
const NEAR_BYTES: usize = 64;

/// Whether digits that end here go on behind: cut in two, the second half may be an address.
fn is_glued(text: &[u8], at: usize) -> bool {
    let is_part = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
    let before = at.checked_sub(1).and_then(|at| text.get(at));
    before.is_some_and(is_part) && text.get(at).is_some_and(is_part)
}

struct Hit<'m> {
    start: usize,
    end: usize,
    instead: Option<&'m [u8]>,
}

/// The whole name around a hit; `None` if it is part of another address.
fn whole(text: &[u8], at: usize, host: &[u8]) -> Option<(usize, usize)> {
    let end = at.saturating_add(host.len());
    let before = text.get(..at)?;
    let after = text.get(end..)?;
    if is_number(host) {
        let more_before = matches!(before, [.., b'0'..=b'9'] | [.., b'0'..=b'9', b'.']);
        let more_after = matches!(after, [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..]);
        return (!more_before && !more_after).then_some((at, end));
    }
    // A name within a longer one is told by it as well: all of it goes.
    let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let more = before.iter().rev().take(NAME_BYTES_MAX);
    let more = more.take_while(|b| is_part(b)).count();
    let mut start = at.saturating_sub(more);
    // The digits of an escape, as in `a%40p1.inside.example`, are no part of it.
    if start.checked_sub(1).and_then(|at| text.get(at)) == Some(&b'%') {
        start = start.saturating_add(2).min(at);
    }
    let label = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let longer = match after {
        [b'.', next, ..] => label(next),
        [next, ..] => label(next),
        [] => false,
    };
    (!longer).then_some((start, end))
}

/// The end of `:port`, if there is one.
fn port_end(text: &[u8], end: usize) -> usize {
    let Some([b':', rest @ ..]) = text.get(end..) else {
        return end;
    };
    match rest.iter().take_while(|b| b.is_ascii_digit()).count() {
        0 => end,
        digits => end.saturating_add(digits).saturating_add(1),
    }
}

/// Texts that are IPv6 addresses, with their brackets if they have some.
pub(crate) fn addresses_v6(text: &[u8]) -> impl Iterator<Item = (usize, usize, Ipv6Addr)> + '_ {
    let is_part = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
    let mut from = 0_usize;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(from..)?;
            let start = from.saturating_add(rest.iter().position(is_part)?);
            let run = text.get(start..)?;
            let bytes = run.iter().take_while(|b| is_part(b)).count();
            let end = start.saturating_add(bytes);
            from = end;
            let run = run.get(..bytes)?;
            let run = run.strip_suffix(b".").unwrap_or(run);
            if run.iter().filter(|b| **b == b':').count() < 2 {
                continue;
            }
            let ip = std::str::from_utf8(run).ok().and_then(|t| t.parse().ok());
            let Some(ip) = ip else { continue };
            let bracketed = start
                .checked_sub(1)
                .filter(|&before| text.get(before) == Some(&b'[') && text.get(end) == Some(&b']'));
            return Some(match bracketed {
                Some(before) => (before, end.saturating_add(1), ip),
                None => (start, start.saturating_add(run.len()), ip),
            });
        }
    })
}

/// Texts that are IPv4 addresses.
pub(crate) fn addresses_v4(
    text: &[u8],
) -> impl Iterator<Item = (usize, usize, std::net::Ipv4Addr)> + '_ {
    let is_part = |b: &u8| b.is_ascii_digit() || *b == b'.';
    let mut from = 0_usize;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(from..)?;
            let start = from.saturating_add(rest.iter().position(is_part)?);
            let run = text.get(start..)?;
            let bytes = run.iter().take_while(|b| is_part(b)).count();
            from = start.saturating_add(bytes);
            let run = run.get(..bytes)?;
            let run = run.strip_suffix(b".").unwrap_or(run);
            let ip = std::str::from_utf8(run).ok().and_then(|t| t.parse().ok());
            if let Some(ip) = ip {
                return Some((start, start.saturating_add(run.len()), ip));
            }
        }
    })
}

/// Whether an address means something within one network only.
fn is_inner(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = matches!(ip.octets(), [100, 64..=127, ..]);
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks() -> Marks<'static> {
        let mut marks = Marks::default();
        marks.learn_host(&Host::Name(b"Phone.Inside.example"));
        marks.learn_host(&Host::V4([198, 51, 100, 7].into()));
        marks.learn_host(&Host::V6("2001:db8::77".parse().unwrap()));
        marks.learn_id(b"a84b4c76e66710", b"th-x");
        marks
    }

    #[test]
    fn whole_names_and_addresses_are_replaced_with_their_ports() {
        for (text, becomes) in [
            ("at phone.inside.EXAMPLE:5061!", "at own!"),
            ("sip:x@pbx.phone.inside.example;a", "sip:x@own;a"),
            (
                "phone.inside.example.org stays",
                "phone.inside.example.org stays",
            ),
            ("myphone.inside.example", "own"),
            ("sip:a%40pbx.phone.inside.example", "sip:a%40own"),
            ("phone.inside.example.", "own."),
            (
                "198.51.100.7, 8.198.51.100.7 198.51.100.70 198.51.100.7.4 1198.51.100.7",
                "own, 8.198.51.100.7 198.51.100.70 198.51.100.7.4 1198.51.100.7",
            ),
            ("http://198.51.100.7:80/x", "http://own/x"),
            (
                "of any network: 10.9.9.9:5060, fe80::1",
                "of any network: own, own",
            ),
            ("[2001:DB8:0::77]:5060", "own"),
            (
                "2001:db8:0:0:0:0:0:77 and 2001:db8::78",
                "own and 2001:db8::78",
            ),
            ("call-id=a84b4c76e66710@198.51.100.7", "call-id=th-x@own"),
            ("nothing", "nothing"),
            ("", ""),
        ] {
            let mut out = Vec::new();
            marks().replace(text.as_bytes(), b"own", &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), becomes, "{text}");
            assert_eq!(marks().is_in(text.as_bytes()), text != becomes);
        }
    }

    /// As `replace`, one hit after another.
    fn replaced_plainly(marks: &Marks, text: &[u8], out: &mut Vec<u8>) {
        let mut rest = text;
        loop {
            let lower = rest.to_ascii_lowercase();
            let hits = marks.all().filter_map(|mark| mark.find(rest, &lower, 0));
            let Some(hit) = hits.min_by_key(|hit| (hit.start, Reverse(hit.end))) else {
                return out.extend_from_slice(rest);
            };
            out.extend_from_slice(&rest[..hit.start]);
            out.extend_from_slice(hit.instead.unwrap_or(b"own"));
            rest = &rest[hit.end..];
        }
    }

    proptest! {
        #[test]
        fn marks_that_overlap_are_replaced_one_after_another(
            parts in proptest::collection::vec(0_usize..12, 0..40),
        ) {
            let mut marks = marks();
            marks.learn_id(b"ababab", b"y");
            marks.learn_id(b"abababab", b"z");
            marks.learn_host(&Host::Name(b"inside.example"));
            const PARTS: [&str; 12] = [
                "ab", "ababab", "phone.", "inside.example", ":5060", " ", "10.9.9.9", "198.51.100.7", ".", "fe80::1", "a84b4c76e66710", "]",
            ];
            let text: String = parts.iter().map(|part| PARTS[*part]).collect();
            let (mut out, mut plain) = (Vec::new(), Vec::new());
            marks.replace(text.as_bytes(), b"own", &mut out);
            replaced_plainly(&marks, text.as_bytes(), &mut plain);
            prop_assert_eq!(String::from_utf8(out), String::from_utf8(plain));
        }
    }

    /// A datagram of nothing but addresses, by one who has told as many of his own as are kept. Looking through the rest of it for each of them would take minutes.
    #[test]
    fn a_text_full_of_marks_is_gone_through_once() {
        let mut marks = Marks::default();
        for n in 0..60_u32 {
            marks.learn_host(&Host::V4((0xc633_6400 + n).into()));
            marks.learn_host(&Host::Name(format!("h{n}.inside.example").as_bytes()));
        }
        for text in [
            "10.0.0.1 ",
            "198.51.100.7,",
            "h7.inside.example.",
            "fe80::1;",
            "[2001:db8::7]",
        ] {
            let many = 65_000 / text.len();
            let mut out = Vec::new();
            marks.replace(text.repeat(many).as_bytes(), b"", &mut out);
            assert!(out.len() <= 65_000);
        }
    }

    #[test]
    fn what_is_no_address_is_not_learnt() {
        let mut marks = Marks::default();
        marks.learn_host(&Host::Name(b"localhost"));
        marks.learn_host(&Host::V4([0, 0, 0, 0].into()));
        marks.learn_id(b"1", b"x");
        assert!(!marks.is_in(b"1 localhost 0.0.0.0"));
        for n in 0..1000_u32 {
            marks.learn_host(&Host::V4(n.to_be_bytes().into()));
        }
        assert_eq!(marks.len(), MARKS_MAX);
    }
}
