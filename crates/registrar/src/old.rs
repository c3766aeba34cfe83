//! Version 1 of the encoding, which is only read.
//!
//! A binding is `length (u16), field*`; a field is `tag, length (1 or 2 bytes), value`. Numbers are little-endian without their
//! leading zeros. A reader skips tags that it does not know. Lengths from 128 on take two bytes: the low seven bits with the high
//! bit set, then the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use stdx::Instant;

use crate::encoding::{DecodeError, has_control};
use crate::view::BindingView;

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
        flow: crate::Flow::default(),
        more: b"",
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

/// Text goes into headers: a line break in it would be a header of somebody else's making.
fn read_text(value: &[u8]) -> Option<&[u8]> {
    (!has_control(value)).then_some(value)
}

/// The writer of that time.
#[cfg(test)]
pub(crate) mod writer {
    use super::tag;
    use crate::binding::{BINDINGS_MAX, Binding, BindingSet};
    use std::net::SocketAddr;

    pub(crate) fn write(set: &BindingSet, out: &mut Vec<u8>) {
        // A set is bounded where bindings are added; what is beyond could not be read back.
        let bindings = set.bindings.iter().take(BINDINGS_MAX);
        out.extend_from_slice(&[1, bindings.len() as u8]);
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
}
