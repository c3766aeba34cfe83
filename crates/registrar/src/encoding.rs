//! The form of a [`BindingSet`] that outlives worker and release.
//!
//! `version, count, binding*`; a binding is `length (u16), field*`; a field is `tag, length (1 or 2 bytes), value`.
//! Numbers are little-endian without their leading zeros. A reader skips tags that it does not know, so a release may
//! add fields without a new version. Lengths from 128 on take two bytes: the low seven bits with the high bit set, then
//! the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use stdx::Instant;

use crate::binding::{BINDINGS_MAX, Binding, BindingSet};
use crate::view::BindingView;

const VERSION: u8 = 1;

mod tag {
    pub(super) const CONTACT: u8 = 1;
    pub(super) const Q: u8 = 2;
    pub(super) const EXPIRES_AT: u8 = 3;
    pub(super) const CALL_ID: u8 = 4;
    pub(super) const CSEQ: u8 = 5;
    pub(super) const PATH: u8 = 6;
    pub(super) const INSTANCE: u8 = 7;
    pub(super) const REG_ID: u8 = 8;
    pub(super) const RECEIVED: u8 = 9;
    pub(super) const LISTENER: u8 = 10;
    pub(super) const USER_AGENT: u8 = 11;
    pub(super) const UPDATED_AT: u8 = 12;
}

/// Why bytes are not an encoded set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    #[error("version {0} of the encoding is unknown")]
    Version(u8),
    #[error("more than {BINDINGS_MAX} bindings")]
    TooMany,
    #[error("the bytes end inside a binding")]
    Truncated,
    #[error("bytes after the last binding")]
    Trailing,
    #[error("field {0} has a value that it cannot have")]
    Field(u8),
    #[error("a binding without field {0}")]
    Missing(u8),
}

pub(crate) fn write(set: &BindingSet, out: &mut Vec<u8>) {
    // A set is bounded where bindings are added; what is beyond could not be read back.
    let bindings = set.bindings.iter().take(BINDINGS_MAX);
    out.extend_from_slice(&[VERSION, bindings.len() as u8]);
    for binding in bindings {
        let start = out.len();
        out.extend_from_slice(&[0, 0]);
        write_binding(binding, out);
        let len = out.len() - start - 2;
        out[start..start + 2].copy_from_slice(&(len as u16).to_le_bytes());
    }
}

fn write_binding(binding: &Binding, out: &mut Vec<u8>) {
    bytes(tag::CONTACT, &binding.contact, out);
    if binding.q != 1000 {
        number(tag::Q, binding.q.into(), out);
    }
    number(tag::EXPIRES_AT, binding.expires_at.as_nanos(), out);
    bytes(tag::CALL_ID, &binding.call_id, out);
    number(tag::CSEQ, binding.cseq.into(), out);
    if !binding.path.is_empty() {
        bytes(tag::PATH, &binding.path, out);
    }
    if let Some(instance) = &binding.instance {
        bytes(tag::INSTANCE, instance, out);
    }
    if let Some(reg_id) = binding.reg_id {
        number(tag::REG_ID, reg_id.into(), out);
    }
    if let Some(received) = binding.received {
        address(received, out);
    }
    number(tag::LISTENER, binding.listener.into(), out);
    if !binding.user_agent.is_empty() {
        bytes(tag::USER_AGENT, &binding.user_agent, out);
    }
    number(tag::UPDATED_AT, binding.updated_at.as_nanos(), out);
}

/// The longest value that two bytes of length can tell.
const VALUE_BYTES_MAX: usize = (1 << 15) - 1;

fn bytes(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    let value = &value[..value.len().min(VALUE_BYTES_MAX)];
    out.push(tag);
    if value.len() < 0x80 {
        out.push(value.len() as u8);
    } else {
        out.push(0x80 | (value.len() & 0x7f) as u8);
        out.push((value.len() >> 7) as u8);
    }
    out.extend_from_slice(value);
}

fn number(tag: u8, value: u64, out: &mut Vec<u8>) {
    let len = (u64::BITS - value.leading_zeros()).div_ceil(8) as usize;
    bytes(tag, &value.to_le_bytes()[..len], out);
}

/// Port, address, and for IPv6 the scope if there is one.
fn address(address: SocketAddr, out: &mut Vec<u8>) {
    let mut value = [0; 22];
    value[..2].copy_from_slice(&address.port().to_le_bytes());
    let len = match address {
        SocketAddr::V4(v4) => {
            value[2..6].copy_from_slice(&v4.ip().octets());
            6
        }
        SocketAddr::V6(v6) => {
            value[2..18].copy_from_slice(&v6.ip().octets());
            value[18..].copy_from_slice(&v6.scope_id().to_le_bytes());
            if v6.scope_id() == 0 { 18 } else { 22 }
        }
    };
    bytes(tag::RECEIVED, &value[..len], out);
}

/// Checks the head; the number of bindings and what follows it.
pub(crate) fn read_head(bytes: &[u8]) -> Result<(usize, &[u8]), DecodeError> {
    let [version, count, rest @ ..] = bytes else {
        return Err(DecodeError::Truncated);
    };
    match (*version, usize::from(*count)) {
        (VERSION, count) if count > BINDINGS_MAX => Err(DecodeError::TooMany),
        (VERSION, count) => Ok((count, rest)),
        (version, _) => Err(DecodeError::Version(version)),
    }
}

/// Reads one binding; what follows it.
pub(crate) fn read_binding(bytes: &[u8]) -> Result<(BindingView<'_>, &[u8]), DecodeError> {
    let (len, rest) = bytes
        .split_first_chunk::<2>()
        .ok_or(DecodeError::Truncated)?;
    let (mut fields, rest) = rest
        .split_at_checked(usize::from(u16::from_le_bytes(*len)))
        .ok_or(DecodeError::Truncated)?;
    let mut view = BindingView {
        contact: b"",
        q: 1000,
        expires_at: Instant::ZERO,
        call_id: b"",
        cseq: 0,
        path: b"",
        instance: None,
        reg_id: None,
        received: None,
        listener: 0,
        user_agent: b"",
        updated_at: Instant::ZERO,
    };
    while !fields.is_empty() {
        let (tag, value, after) = read_field(fields)?;
        fields = after;
        let wrong = DecodeError::Field(tag);
        match tag {
            tag::CONTACT => view.contact = read_text(value).ok_or(wrong)?,
            tag::Q => {
                view.q = read_number(value).filter(|q| *q <= 1000).ok_or(wrong)? as u16;
            }
            tag::EXPIRES_AT => {
                view.expires_at = Instant::from_nanos(read_number(value).ok_or(wrong)?)
            }
            tag::CALL_ID => view.call_id = read_text(value).ok_or(wrong)?,
            tag::CSEQ => view.cseq = read_u32(value).ok_or(wrong)?,
            tag::PATH => view.path = read_text(value).ok_or(wrong)?,
            tag::INSTANCE => view.instance = Some(read_text(value).ok_or(wrong)?),
            tag::REG_ID => view.reg_id = Some(read_u32(value).ok_or(wrong)?),
            tag::RECEIVED => view.received = Some(read_address(value).ok_or(wrong)?),
            tag::LISTENER => view.listener = read_u32(value).ok_or(wrong)?,
            tag::USER_AGENT => view.user_agent = read_text(value).ok_or(wrong)?,
            tag::UPDATED_AT => {
                view.updated_at = Instant::from_nanos(read_number(value).ok_or(wrong)?)
            }
            _ => {}
        }
    }
    if view.contact.is_empty() {
        Err(DecodeError::Missing(tag::CONTACT))
    } else {
        Ok((view, rest))
    }
}

/// The same set with every instant moved by `nanos`, for a machine or a boot whose clock has another zero. Fields that this release does not know
/// stay as they are.
pub fn shift(bytes: &[u8], nanos: i64) -> Result<Vec<u8>, DecodeError> {
    // Also checks everything that is not looked at below.
    crate::view::BindingsView::new(bytes)?;
    let (count, mut rest) = read_head(bytes)?;
    let mut out = Vec::with_capacity(bytes.len() + 8);
    out.extend_from_slice(&[VERSION, count as u8]);
    for _ in 0..count {
        let (len, after) = rest
            .split_first_chunk::<2>()
            .ok_or(DecodeError::Truncated)?;
        let (mut fields, after) = after
            .split_at_checked(usize::from(u16::from_le_bytes(*len)))
            .ok_or(DecodeError::Truncated)?;
        rest = after;
        let start = out.len();
        out.extend_from_slice(&[0, 0]);
        while !fields.is_empty() {
            let (tag, value, after) = read_field(fields)?;
            fields = after;
            match tag {
                tag::EXPIRES_AT | tag::UPDATED_AT => {
                    let at = read_number(value).ok_or(DecodeError::Field(tag))?;
                    let at = Instant::from_nanos(at).shifted(nanos);
                    number(tag, at.as_nanos(), &mut out);
                }
                tag => self::bytes(tag, value, &mut out),
            }
        }
        let len = out.len() - start - 2;
        let len = u16::try_from(len).map_err(|_| DecodeError::Trailing)?;
        if let Some(at) = out.get_mut(start..start + 2) {
            at.copy_from_slice(&len.to_le_bytes());
        }
    }
    Ok(out)
}

fn read_field(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), DecodeError> {
    let (tag, len, rest) = match bytes {
        [tag, len @ 0..=0x7f, rest @ ..] => (*tag, usize::from(*len), rest),
        [tag, low, high, rest @ ..] => (
            *tag,
            usize::from(*low & 0x7f) | usize::from(*high) << 7,
            rest,
        ),
        _ => return Err(DecodeError::Truncated),
    };
    let (value, rest) = rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
    Ok((tag, value, rest))
}

/// Text goes into headers: a line break in it would be a header of somebody else's making.
fn read_text(value: &[u8]) -> Option<&[u8]> {
    (!value.iter().any(|&byte| is_control(byte))).then_some(value)
}

pub(crate) fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

fn read_number(value: &[u8]) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes.get_mut(..value.len())?.copy_from_slice(value);
    Some(u64::from_le_bytes(bytes))
}

fn read_u32(value: &[u8]) -> Option<u32> {
    read_number(value)?.try_into().ok()
}

fn read_address(value: &[u8]) -> Option<SocketAddr> {
    let (port, address) = value.split_first_chunk::<2>()?;
    let port = u16::from_le_bytes(*port);
    if let Ok(v4) = <[u8; 4]>::try_from(address) {
        return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(v4)), port));
    }
    let (v6, scope) = address.split_first_chunk::<16>()?;
    let scope = match scope {
        [] => 0,
        scope => u32::from_le_bytes(scope.try_into().ok()?),
    };
    Some(SocketAddr::V6(SocketAddrV6::new(
        Ipv6Addr::from(*v6),
        port,
        0,
        scope,
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::BindingsView;

    pub(crate) fn example() -> Binding {
        let contact = format!(
            "sip:alice@192.0.2.17:5060;transport=udp;line={}",
            "x".repeat(75)
        );
        assert_eq!(contact.len(), 120);
        Binding {
            contact: contact.into_bytes(),
            q: 500,
            expires_at: Instant::from_nanos(5_000_000_000_000_000),
            call_id: b"843817637684230@998sdasdh09".to_vec(),
            cseq: 1826,
            path: Vec::new(),
            instance: None,
            reg_id: None,
            received: Some("192.0.2.17:5060".parse().unwrap()),
            listener: 1,
            user_agent: b"Phone 1.2.3".to_vec(),
            updated_at: Instant::from_nanos(4_996_400_000_000_000),
        }
    }

    fn encoded(set: &BindingSet) -> Vec<u8> {
        let mut out = Vec::new();
        set.encode(&mut out);
        out
    }

    #[test]
    fn a_common_binding_is_small() {
        let set = BindingSet {
            bindings: vec![example()],
        };
        assert_eq!(encoded(&set).len(), 205);
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let set = BindingSet {
            bindings: vec![example()],
        };
        let mut bytes = encoded(&set);
        bytes.extend_from_slice(&[200, 3, 1, 2, 3]);
        let len = u16::from_le_bytes([bytes[2], bytes[3]]) + 5;
        bytes[2..4].copy_from_slice(&len.to_le_bytes());
        assert_eq!(BindingSet::decode(&bytes), Ok(set));
        assert_eq!(shift(&bytes, 0), Ok(bytes), "and kept by a shift");
    }

    #[test]
    fn garbage_is_refused() {
        let set = BindingSet {
            bindings: vec![example()],
        };
        let good = encoded(&set);
        assert_eq!(BindingSet::decode(b""), Err(DecodeError::Truncated));
        assert_eq!(BindingSet::decode(&[2, 0]), Err(DecodeError::Version(2)));
        assert_eq!(BindingSet::decode(&[1, 33]), Err(DecodeError::TooMany));
        assert_eq!(BindingSet::decode(&[1, 0, 0]), Err(DecodeError::Trailing));
        assert_eq!(
            BindingSet::decode(&[1, 1, 0, 0]),
            Err(DecodeError::Missing(1))
        );
        assert_eq!(
            BindingSet::decode(&[1, 1, 4, 0, 1, 2, b'a', b'\n']),
            Err(DecodeError::Field(1))
        );
        assert_eq!(
            BindingSet::decode(&[1, 1, 4, 0, 2, 2, 0xff, 0xff]),
            Err(DecodeError::Field(2))
        );
        for cut in 0..good.len() {
            assert!(BindingSet::decode(&good[..cut]).is_err());
        }
    }

    fn text(max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(b' '..b'~', 0..max)
    }

    fn binding() -> impl Strategy<Value = Binding> {
        let head = (
            prop::collection::vec(b'!'..b'~', 1..300),
            0..=1000u16,
            any::<u64>(),
            text(40),
            any::<u32>(),
        );
        let middle = (
            text(300),
            prop::option::of(text(60)),
            any::<Option<u32>>(),
            any::<Option<SocketAddr>>(),
        );
        (head, middle, any::<u32>(), text(50), any::<u64>()).prop_map(
            |(
                (contact, q, expires_at, call_id, cseq),
                middle,
                listener,
                user_agent,
                updated_at,
            )| {
                let (path, instance, reg_id, received) = middle;
                Binding {
                    contact,
                    q,
                    expires_at: Instant::from_nanos(expires_at),
                    call_id,
                    cseq,
                    path,
                    instance,
                    reg_id,
                    // A flow label is nothing that we send to.
                    received: received.map(|address| match address {
                        SocketAddr::V6(v6) => {
                            SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()))
                        }
                        v4 => v4,
                    }),
                    listener,
                    user_agent,
                    updated_at: Instant::from_nanos(updated_at),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn decode_is_the_inverse_of_encode(bindings in prop::collection::vec(binding(), 0..5)) {
            let set = BindingSet { bindings };
            prop_assert_eq!(BindingSet::decode(&encoded(&set)), Ok(set));
        }

        #[test]
        fn a_shift_moves_instants_and_nothing_else(bindings in prop::collection::vec(binding(), 0..5), nanos: i64) {
            let set = BindingSet { bindings };
            let shifted = BindingSet::decode(&shift(&encoded(&set), nanos).unwrap()).unwrap();
            prop_assert_eq!(set.bindings.len(), shifted.bindings.len());
            for (before, after) in set.bindings.iter().zip(&shifted.bindings) {
                let mut expected = before.clone();
                expected.expires_at = before.expires_at.shifted(nanos);
                expected.updated_at = before.updated_at.shifted(nanos);
                prop_assert_eq!(after, &expected);
            }
        }

        #[test]
        fn a_changed_byte_does_not_panic(bindings in prop::collection::vec(binding(), 1..3), at: prop::sample::Index, byte: u8) {
            let mut bytes = encoded(&BindingSet { bindings });
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = shift(&bytes, 1 << 60);
            if let Ok(view) = BindingsView::new(&bytes) {
                prop_assert!(view.current(Instant::ZERO).count() <= BINDINGS_MAX);
            }
        }

        #[test]
        fn noise_does_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            let _ = BindingSet::decode(&bytes);
        }
    }
}
