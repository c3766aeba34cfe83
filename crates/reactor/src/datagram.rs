//! A received datagram in its buffer, as the kernel laid it down for a multishot `recvmsg`.
//!
//! ```text
//! 0        16            44               92
//! | header | source name | control data | payload ...
//! ```
//!
//! The buffer may be read by another process than the one the kernel filled it for, after a death, so nothing in it is
//! believed: every length is cut to what is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::pool::{HEADER_BYTES, Pool, buffer};

/// Space for the source's name: the larger of the two kinds of address.
pub(crate) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Space for one control message with an address (IP_ORIGDSTADDR or IPV6_ORIGDSTADDR), padded as CMSG_SPACE does.
pub(crate) const CONTROL_BYTES: usize = CMSG_HEADER_BYTES + 32;
/// Bytes of a buffer before the payload.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + NAME_BYTES + CONTROL_BYTES;

/// Length, level and type.
const CMSG_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const _: () =
    assert!(CMSG_HEADER_BYTES == 16 && NAME_BYTES == 28 && size_of::<libc::sockaddr_in>() == 16);

/// A datagram in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'b> {
    pub source: SocketAddr,
    /// The address and port it was sent to, which names the listener; `None` if the socket did not ask for it.
    pub local: Option<SocketAddr>,
    pub payload: &'b [u8],
    /// It was longer than its buffer and lost its end.
    pub truncated: bool,
}

/// The datagram in buffer `index`; `None` if there is no such buffer or no whole datagram in it. Only for a buffer that
/// the kernel does not have.
pub fn datagram<P: Pool>(pool: &P, index: u16) -> Option<Datagram<'_>> {
    parse(buffer(pool, index)?)
}

/// The datagram in the bytes of a buffer.
pub fn parse(buffer: &[u8]) -> Option<Datagram<'_>> {
    let (header, rest) = buffer.split_at_checked(HEADER_BYTES)?;
    let (name, rest) = rest.split_at_checked(NAME_BYTES)?;
    let (control, payload) = rest.split_at_checked(CONTROL_BYTES)?;
    let (name_len, control_len) = (word(header, 0)?, word(header, 4)?);
    let (payload_len, flags) = (word(header, 8)?, word(header, 12)?);
    let source = address(name.get(..cut(name_len, NAME_BYTES))?)?;
    let control = control.get(..cut(control_len, CONTROL_BYTES))?;
    Some(Datagram {
        source,
        local: local(control),
        payload: payload.get(..cut(payload_len, payload.len()))?,
        truncated: flags & libc::MSG_TRUNC as u32 != 0 || payload_len as usize > payload.len(),
    })
}

/// The original destination among the control messages.
fn local(mut control: &[u8]) -> Option<SocketAddr> {
    while control.len() >= CMSG_HEADER_BYTES {
        let len = u64::from_ne_bytes(*control.first_chunk()?);
        let len = usize::try_from(len).ok()?;
        let (level, kind) = (word(control, 8)?, word(control, 12)?);
        let data = control.get(CMSG_HEADER_BYTES..len)?;
        match (level as i32, kind as i32) {
            (libc::SOL_IP, libc::IP_ORIGDSTADDR) => return address(data),
            (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => return address(data),
            _ => control = control.get(len.checked_next_multiple_of(8)?..)?,
        }
    }
    None
}

/// A `sockaddr_in` or `sockaddr_in6`.
fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            // What follows is padding up to 16 bytes, and a name without it is not one of the kernel's.
            bytes.get(..16)?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port))
        }
        libc::AF_INET6 => {
            let flow_info = word(bytes, 4)?;
            let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let scope = word(bytes, 24)?;
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow_info.to_be(), scope).into())
        }
        _ => None,
    }
}

/// Writes `address` as the kernel wants it to the start of `out` and returns its length.
pub(crate) fn write_address(address: &SocketAddr, out: &mut [u8; NAME_BYTES]) -> usize {
    *out = [0; NAME_BYTES];
    out[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            out[4..8].copy_from_slice(&v4.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            out[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            out[8..24].copy_from_slice(&v6.ip().octets());
            out[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            NAME_BYTES
        }
    }
}

/// Space for the control message that says where a datagram leaves from (IP_PKTINFO, IPV6_PKTINFO), padded as CMSG_SPACE does.
pub(crate) const SOURCE_BYTES: usize = CMSG_HEADER_BYTES + 24;
const _: () = assert!(size_of::<libc::in6_pktinfo>() == 20 && size_of::<libc::in_pktinfo>() == 12);

/// Writes the control message that has a datagram leave from `source`, by whatever interface, and returns its length.
pub(crate) fn write_source(source: IpAddr, out: &mut [u8; SOURCE_BYTES]) -> usize {
    *out = [0; SOURCE_BYTES];
    let (level, kind, len) = match source {
        // Interface, then the address to send from; what is behind them is for receiving.
        IpAddr::V4(ip) => {
            let at = CMSG_HEADER_BYTES + 4;
            out[at..at + 4].copy_from_slice(&ip.octets());
            let len = size_of::<libc::in_pktinfo>();
            (libc::SOL_IP, libc::IP_PKTINFO, len)
        }
        IpAddr::V6(ip) => {
            out[CMSG_HEADER_BYTES..CMSG_HEADER_BYTES + 16].copy_from_slice(&ip.octets());
            let len = size_of::<libc::in6_pktinfo>();
            (libc::SOL_IPV6, libc::IPV6_PKTINFO, len)
        }
    };
    let len = CMSG_HEADER_BYTES + len;
    out[..8].copy_from_slice(&(len as u64).to_ne_bytes());
    out[8..12].copy_from_slice(&level.to_ne_bytes());
    out[12..16].copy_from_slice(&kind.to_ne_bytes());
    len.next_multiple_of(8)
}

/// The native 32-bit word at byte `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A length from the buffer, at most `most`.
fn cut(len: u32, most: usize) -> usize {
    usize::try_from(len).map_or(most, |len| len.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(source: &str, local: &str, payload: &[u8]) -> Vec<u8> {
        let mut name = [0; NAME_BYTES];
        let name_len = write_address(&source.parse().unwrap(), &mut name);
        let mut data = [0; NAME_BYTES];
        let data_len = write_address(&local.parse().unwrap(), &mut data);
        let (level, kind) = match data_len {
            16 => (libc::SOL_IP, libc::IP_ORIGDSTADDR),
            _ => (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR),
        };
        let mut control = Vec::new();
        control.extend(((CMSG_HEADER_BYTES + data_len) as u64).to_ne_bytes());
        control.extend(level.to_ne_bytes());
        control.extend(kind.to_ne_bytes());
        control.extend(&data[..data_len]);
        let mut buffer = Vec::new();
        for n in [name_len, control.len(), payload.len(), 0] {
            buffer.extend((n as u32).to_ne_bytes());
        }
        buffer.extend(name);
        control.resize(CONTROL_BYTES, 0);
        buffer.extend(control);
        buffer.extend(payload);
        buffer
    }

    #[test]
    fn both_families_are_read_back() {
        for (source, local) in [
            ("192.0.2.7:5061", "198.51.100.1:5060"),
            ("[2001:db8::7]:5061", "[::1]:5060"),
        ] {
            let bytes = sample(source, local, b"OPTIONS");
            let datagram = parse(&bytes).unwrap();
            assert_eq!(datagram.source, source.parse().unwrap());
            assert_eq!(datagram.local, Some(local.parse().unwrap()));
            assert_eq!(
                (datagram.payload, datagram.truncated),
                (&b"OPTIONS"[..], false)
            );
        }
    }

    #[test]
    fn an_untouched_or_half_cleared_buffer_is_no_datagram() {
        assert_eq!(parse(&[0; 1024]), None);
        assert_eq!(parse(&[]), None);
        let mut bytes = sample("192.0.2.7:5061", "198.51.100.1:5060", b"OPTIONS");
        bytes[..8].fill(0);
        assert_eq!(
            parse(&bytes),
            None,
            "the state between the two stores of a clearing"
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_stays_inside(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            lens in prop::array::uniform4(prop_oneof![0u32..200, any::<u32>()]),
        ) {
            for (i, len) in lens.iter().enumerate() {
                if let Some(at) = bytes.get_mut(4 * i..4 * i + 4) {
                    at.copy_from_slice(&len.to_ne_bytes());
                }
            }
            if let Some(family) = bytes.get_mut(HEADER_BYTES..HEADER_BYTES + 2) {
                family.copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            }
            if let Some(datagram) = parse(&bytes) {
                prop_assert!(datagram.payload.len() + OVERHEAD_BYTES <= bytes.len());
            }
        }

        #[test]
        fn a_damaged_sample_never_panics(at in 0usize..92, byte: u8) {
            let mut bytes = sample("[2001:db8::7]:5061", "[::1]:5060", b"OPTIONS");
            bytes[at] = byte;
            let _ = parse(&bytes);
        }
    }
}
