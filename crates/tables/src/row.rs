//! How the payload of a row is written down: a fixed header, then fields that may come and go.
//!
//! ```text
//! version u8 | kind u8 | header_bytes u16 | ... the table's fixed fields, header_bytes in all | (tag u8 | length u16 | value)*
//! ```
//!
//! Numbers are little-endian and unaligned, so that a header can be read where it lies. Workers of this and the previous release share an
//! arena, therefore:
//! - fixed fields are only added, at the end of the header. A reader takes what it knows and skips to `header_bytes`; what an older writer left out reads
//!   as zero, so zero has to mean "not said";
//! - a field with a tag that a reader does not know is skipped; tables whose rows are changed rather than written anew keep it;
//! - `version` rises when neither is enough. A row in another version counts as broken: it is not found, and a write replaces it.
//!
//! What the file says is distrusted like the network: its writer may have died in mid-store, or be another program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use stdx::{Instant, Moment};
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};
/// What makes a header of nothing and bytes of a header.
pub use zerocopy::{FromZeros, IntoBytes};

/// A fixed field of a header, for the golden file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// As in the source.
    pub name: &'static str,
    /// Bytes from the start of the payload.
    pub at: usize,
    /// Its size.
    pub bytes: usize,
    /// Whether it may be negative.
    pub signed: bool,
}

impl Field {
    /// Whether it is a time of the monotonic clock, which its name tells: an instant, or a moment if it is signed.
    fn is_time(&self) -> bool {
        self.bytes == 8 && (self.name.ends_with("_at") || self.name.ends_with("_until"))
    }
}

/// A header; the macro `row` declares them.
pub trait Header:
    FromBytes + FromZeros + IntoBytes + Immutable + KnownLayout + Unaligned + Copy
{
    /// The format that this release writes and reads.
    const VERSION: u8;
    /// Every field in order.
    const FIELDS: &'static [Field];

    /// Sets the first three fields.
    fn begin(&mut self, kind: u8);

    /// The header and what follows it; `None` if this is no row that we can read.
    fn read(payload: &[u8]) -> Option<(Self, &[u8])> {
        let [version, _, low, high, ..] = payload else {
            return None;
        };
        let bytes = usize::from(u16::from_le_bytes([*low, *high]));
        if *version != Self::VERSION || bytes < 4 {
            return None;
        }
        let (header, rest) = payload.split_at_checked(bytes)?;
        let mut row = Self::new_zeroed();
        let known = header.len().min(size_of::<Self>());
        row.as_mut_bytes()
            .get_mut(..known)?
            .copy_from_slice(header.get(..known)?);
        Some((row, rest))
    }
}

/// Declares a header: its fields after the first three, its size, which is asserted, and its version.
macro_rules! row {
    (
        $(#[$doc:meta])*
        pub struct $name:ident: version $version:literal, $size:literal bytes {
            $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            /// Of the format; set by `begin`.
            pub version: u8,
            /// What sort of row this is, in words of its table; set by `begin`.
            pub kind: u8,
            /// Bytes of this header, as its writer knew it; set by `begin`.
            pub header_bytes: zerocopy::little_endian::U16,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        const _: () = assert!(size_of::<$name>() == $size && align_of::<$name>() == 1);

        impl $crate::row::Header for $name {
            const VERSION: u8 = $version;
            const FIELDS: &'static [$crate::row::Field] = &[
                $crate::row::Field { name: "version", at: 0, bytes: 1, signed: false },
                $crate::row::Field { name: "kind", at: 1, bytes: 1, signed: false },
                $crate::row::Field { name: "header_bytes", at: 2, bytes: 2, signed: false },
                $($crate::row::Field {
                    name: stringify!($field),
                    at: std::mem::offset_of!($name, $field),
                    bytes: size_of::<$type>(),
                    signed: matches!(stringify!($type).as_bytes(), b"I64"),
                },)*
            ];

            fn begin(&mut self, kind: u8) {
                self.version = $version;
                self.kind = kind;
                self.header_bytes = zerocopy::little_endian::U16::new($size);
            }
        }
    };
}
pub(crate) use row;

/// A payload with every time of its header moved: fields that end in `_at` or `_until`, but for those that say "none". An instant stays behind the clock's zero: what is due
/// since before it is due. A moment does not. `None`: no row that we can read.
pub fn shift<H: Header>(payload: &[u8], nanos: i64) -> Option<Vec<u8>> {
    let (_, rest) = H::read(payload)?;
    let header_bytes = payload.len() - rest.len();
    let mut shifted = payload.to_vec();
    for field in H::FIELDS.iter().filter(|field| field.is_time()) {
        // A field that its writer did not know yet is not there.
        let end = field.at + field.bytes;
        let Some(bytes) = shifted.get_mut(field.at..end.min(header_bytes)) else {
            continue;
        };
        if field.signed {
            if let Ok(word) = I64::mut_from_bytes(bytes)
                && let Some(at) = moment(*word)
            {
                *word = moment_word(Some(at.shifted(nanos)));
            }
        } else if let Ok(word) = U64::mut_from_bytes(bytes)
            && let Some(at) = instant(*word)
        {
            *word = self::word(Some(at.shifted(nanos).max(Instant::from_nanos(1))));
        }
    }
    Some(shifted)
}

/// A socket address in a header.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Address {
    /// 4, 6, or 0: none.
    pub family: u8,
    /// Zero.
    pub reserved: u8,
    /// The port.
    pub port: U16,
    /// The scope of an IPv6 address.
    pub scope: U32,
    /// In network order; of IPv4 the first four.
    pub ip: [u8; 16],
}

const _: () = assert!(size_of::<Address>() == 24 && align_of::<Address>() == 1);

impl Address {
    /// As it is written down.
    pub fn new(address: Option<SocketAddr>) -> Self {
        let mut new = Self::new_zeroed();
        let Some(address) = address else { return new };
        new.port = U16::new(address.port());
        match address {
            SocketAddr::V4(v4) => {
                new.family = 4;
                let [a, b, c, d] = v4.ip().octets();
                new.ip = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            }
            SocketAddr::V6(v6) => {
                new.family = 6;
                new.ip = v6.ip().octets();
                new.scope = U32::new(v6.scope_id());
            }
        }
        new
    }

    /// What was written down.
    pub fn get(&self) -> Option<SocketAddr> {
        let port = self.port.get();
        match self.family {
            4 => {
                let [a, b, c, d, ..] = self.ip;
                Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port))
            }
            6 => Some(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(self.ip),
                port,
                0,
                self.scope.get(),
            ))),
            _ => None,
        }
    }
}

/// An instant in a header; zero is none.
pub fn instant(word: U64) -> Option<Instant> {
    (word.get() != 0).then(|| Instant::from_nanos(word.get()))
}

/// The inverse of [`instant`].
pub fn word(instant: Option<Instant>) -> U64 {
    U64::new(instant.map_or(0, Instant::as_nanos))
}

/// A moment in a header; zero is none. A positive one is written as an instant is: releases that knew no others wrote such.
pub fn moment(word: I64) -> Option<Moment> {
    (word.get() != 0).then(|| Moment::from_nanos(word.get()))
}

/// The inverse of [`moment`]. The one that is zero becomes its neighbour.
pub fn moment_word(moment: Option<Moment>) -> I64 {
    I64::new(moment.map_or(0, |at| match at.as_nanos() {
        0 => 1,
        nanos => nanos,
    }))
}

/// Appends a field; `None`, or what is longer than a field can be, leaves it out.
pub fn put(tag: u8, value: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some((value, len)) = value.and_then(|v| Some((v, u16::try_from(v.len()).ok()?))) else {
        return;
    };
    out.push(tag);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(value);
}

/// The fields after a header, in order. Ends early where the bytes make no field: see [`is_whole`].
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    /// Tag and value.
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [tag, low, high, rest @ ..] = self.0 else {
            return None;
        };
        let (value, rest) =
            rest.split_at_checked(usize::from(u16::from_le_bytes([*low, *high])))?;
        self.0 = rest;
        Some((*tag, value))
    }
}

/// Whether the bytes are fields from end to end.
pub fn is_whole(fields: &[u8]) -> bool {
    let mut rest = Fields(fields);
    while rest.next().is_some() {}
    rest.0.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept() {
        for text in ["192.0.2.1:5060", "[2001:db8::1]:5061", "[fe80::1%3]:5060"] {
            let address = text.parse().unwrap();
            assert_eq!(Address::new(Some(address)).get(), Some(address));
        }
        assert_eq!(Address::new(None).get(), None);
    }

    row! {
        /// As the last release had it.
        pub struct Old: version 1, 8 bytes {
            /// One.
            pub one: U32,
        }
    }

    row! {
        /// As this release has it.
        pub struct New: version 1, 16 bytes {
            /// One.
            pub one: U32,
            /// Two.
            pub two: U64,
        }
    }

    #[test]
    fn releases_read_each_other() {
        let mut bytes = Vec::new();
        let mut old = Old::new_zeroed();
        old.one = U32::new(7);
        old.begin(3);
        bytes.extend_from_slice(old.as_bytes());
        put(9, Some(b"rest"), &mut bytes);
        let (new, rest) = New::read(&bytes).unwrap();
        assert_eq!((new.one.get(), new.two.get(), new.kind), (7, 0, 3));
        assert_eq!(Fields(rest).collect::<Vec<_>>(), [(9, &b"rest"[..])]);

        let mut bytes = Vec::new();
        let mut new = New::new_zeroed();
        (new.one, new.two) = (U32::new(7), U64::new(8));
        new.begin(3);
        bytes.extend_from_slice(new.as_bytes());
        put(9, Some(b"rest"), &mut bytes);
        let (old, rest) = Old::read(&bytes).unwrap();
        assert_eq!(old.one.get(), 7);
        assert!(is_whole(rest));
        assert_eq!(Fields(rest).count(), 1);
    }

    row! {
        /// With instants.
        pub struct Timed: version 1, 44 bytes {
            /// An instant.
            pub made_at: U64,
            /// None, or an instant.
            pub good_until: U64,
            /// No instant.
            pub number: U64,
            /// A moment.
            pub begun_at: I64,
            /// None, or a moment.
            pub ended_at: I64,
        }
    }

    #[test]
    fn instants_are_moved() {
        let mut row = Timed::new_zeroed();
        row.begin(1);
        (row.made_at, row.number) = (U64::new(10), U64::new(10));
        row.begun_at = I64::new(10);
        let mut payload = row.as_bytes().to_vec();
        payload.extend_from_slice(b"rest");
        let moved = |nanos| {
            let shifted = shift::<Timed>(&payload, nanos).unwrap();
            let (row, rest) = Timed::read(&shifted).unwrap();
            assert_eq!(rest, b"rest");
            assert_eq!(
                (row.good_until.get(), row.number.get(), row.ended_at.get()),
                (0, 10, 0)
            );
            (row.made_at.get(), row.begun_at.get())
        };
        assert_eq!(moved(5), (15, 15));
        assert_eq!(moved(-50), (1, -40), "not to none, and not to the zero");
        assert_eq!(moved(-10), (1, 1), "not to none");
        assert_eq!(moved(i64::MIN), (1, i64::MIN + 10));
        assert_eq!(moved(i64::MAX), (i64::MAX as u64 + 10, i64::MAX));
        assert_eq!(shift::<Timed>(&payload[..20], 5), None);
        // As an earlier release wrote it, which did not know all of it.
        payload.drain(36..44);
        payload[2] = 36;
        let shifted = shift::<Timed>(&payload, -50).unwrap();
        let (row, rest) = Timed::read(&shifted).unwrap();
        assert_eq!(rest, b"rest");
        assert_eq!((row.begun_at.get(), row.ended_at.get()), (-40, 0));
        // Of another boot, twice.
        let again = shift::<Timed>(&shifted, 45).unwrap();
        assert_eq!(Timed::read(&again).unwrap().0.begun_at.get(), 5);
    }

    #[test]
    fn what_is_no_row_is_none() {
        assert!(Old::read(b"").is_none());
        assert!(Old::read(&[1, 0, 8, 0, 1, 2, 3]).is_none(), "cut off");
        assert!(
            Old::read(&[2, 0, 8, 0, 1, 2, 3, 4]).is_none(),
            "another version"
        );
        assert!(
            Old::read(&[1, 0, 3, 0, 1, 2, 3, 4]).is_none(),
            "no room for itself"
        );
        assert!(!is_whole(&[1]) && !is_whole(&[1, 2, 0, 0]) && is_whole(&[1, 1, 0, 0]));
        let mut out = Vec::new();
        put(1, Some(&vec![0; 65_536]), &mut out);
        put(1, None, &mut out);
        assert!(out.is_empty());
    }
}
