//! The form of a [`BindingSet`](crate::BindingSet) that outlives worker and release.
//!
//! `version, count, binding*`, little-endian. A binding begins with numbers at fixed places, so that a look-up reads them where they
//! lie:
//!
//! ```text
//!  0  bytes of the whole binding: 2 | flags: 1 | bytes of the User-Agent: 1
//!  4  expires_at: 8 | updated_at: 8
//! 20  cseq: 4 | listener: 4
//! 28  q: 2 | bytes of contact: 2, Call-ID: 2, Path: 2, instance: 2 | port of received: 2
//! 40  reg-id: 4, if flagged | address of received: 4, or 20 with the scope, if flagged
//!     contact | Call-ID | Path | instance | User-Agent | flow, if there is anything to say | what a later release may add
//! ```
//!
//! The flow is `1, bytes: 1, flags: 1, address: 0, 4 or 16`. A reader keeps what it does not know behind the User-Agent, so a release may add to it without a new version. Version 1, which
//! had a tag before each field, is still read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use stdx::Instant;

use crate::binding::{BINDINGS_MAX, Flow};
use crate::old;
use crate::view::{BindingView, BindingsView};

const VERSION: u8 = 2;
/// The numbers at fixed places.
const HEAD: usize = 40;
const AT_EXPIRES: usize = 4;
const AT_UPDATED: usize = 12;

mod flag {
    pub(super) const INSTANCE: u8 = 1;
    pub(super) const REG_ID: u8 = 2;
    pub(super) const RECEIVED_V4: u8 = 4;
    pub(super) const RECEIVED_V6: u8 = 8;
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

/// Numbers of fields in [`DecodeError`].
mod field {
    pub(super) const CONTACT: u8 = 1;
    pub(super) const Q: u8 = 2;
    pub(super) const TEXT: u8 = 0;
}

/// Which reader a set needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Old,
    Fixed,
}

/// Appends the head of a set of `count` bindings, which follow.
pub(crate) fn write_head(count: usize, out: &mut Vec<u8>) {
    debug_assert!(count <= BINDINGS_MAX);
    out.extend_from_slice(&[VERSION, count as u8]);
}

/// Appends one binding. Control bytes in its texts, which come from folds (§7.3.1), become spaces; texts too long for their
/// length fields are cut, which nobody may rely on: the registrar refuses them.
pub(crate) fn write_binding(binding: &BindingView<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    let instance = binding.instance.unwrap_or_default();
    let (mut flags, mut port) = (0, 0);
    if binding.instance.is_some() {
        flags |= flag::INSTANCE;
    }
    if binding.reg_id.is_some() {
        flags |= flag::REG_ID;
    }
    match binding.received {
        None => {}
        Some(SocketAddr::V4(_)) => flags |= flag::RECEIVED_V4,
        Some(SocketAddr::V6(_)) => flags |= flag::RECEIVED_V6,
    }
    if let Some(received) = binding.received {
        port = received.port();
    }
    let user_agent = cut(binding.user_agent, u8::MAX.into());
    let texts = [binding.contact, binding.call_id, binding.path, instance]
        .map(|text| cut(text, TEXT_BYTES_MAX));
    let mut head = [0; HEAD];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        head[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&[0, 0, flags, user_agent.len() as u8]);
    put(&binding.expires_at.as_nanos().to_le_bytes());
    put(&binding.updated_at.as_nanos().to_le_bytes());
    put(&binding.cseq.to_le_bytes());
    put(&binding.listener.to_le_bytes());
    put(&binding.q.to_le_bytes());
    for text in texts {
        put(&(text.len() as u16).to_le_bytes());
    }
    put(&port.to_le_bytes());
    let text_bytes: usize = texts.iter().map(|text| text.len()).sum();
    out.reserve(HEAD + 24 + FLOW_BYTES_MAX + text_bytes + user_agent.len() + binding.more.len());
    out.extend_from_slice(&head);
    if let Some(reg_id) = binding.reg_id {
        out.extend_from_slice(&reg_id.to_le_bytes());
    }
    match binding.received {
        None => {}
        Some(SocketAddr::V4(v4)) => out.extend_from_slice(&v4.ip().octets()),
        Some(SocketAddr::V6(v6)) => {
            out.extend_from_slice(&v6.ip().octets());
            out.extend_from_slice(&v6.scope_id().to_le_bytes());
        }
    }
    let at_texts = out.len();
    for text in texts {
        out.extend_from_slice(text);
    }
    out.extend_from_slice(user_agent);
    clean(&mut out[at_texts..]);
    write_flow(binding.flow, out);
    out.extend_from_slice(binding.more);
    let len = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&len.to_le_bytes());
}

/// Four such texts, the head and what is behind them fit a binding's length of 16 bits.
const TEXT_BYTES_MAX: usize = 12 * 1024;

fn cut(text: &[u8], most: usize) -> &[u8] {
    text.get(..most).unwrap_or(text)
}

/// Checks the head; the form of the bindings, how many there are, and what follows.
pub(crate) fn read_head(bytes: &[u8]) -> Result<(Form, usize, &[u8]), DecodeError> {
    let [version, count, rest @ ..] = bytes else {
        return Err(DecodeError::Truncated);
    };
    let form = match *version {
        VERSION => Form::Fixed,
        1 => Form::Old,
        version => return Err(DecodeError::Version(version)),
    };
    match usize::from(*count) {
        count if count > BINDINGS_MAX => Err(DecodeError::TooMany),
        count => Ok((form, count, rest)),
    }
}

/// Checks one binding; what follows it.
pub(crate) fn check_binding(form: Form, bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let (binding, rest) = read_binding(form, bytes)?;
    if binding.q > 1000 {
        return Err(DecodeError::Field(field::Q));
    }
    // Texts go into headers: a line break in one would be a header of somebody else's making.
    let texts = [
        binding.contact,
        binding.call_id,
        binding.path,
        binding.instance.unwrap_or_default(),
        binding.user_agent,
    ];
    if texts.iter().any(|text| has_control(text)) {
        return Err(DecodeError::Field(field::TEXT));
    }
    Ok(rest)
}

/// Reads one binding, for whoever has checked it; what follows it.
#[inline]
pub(crate) fn read_binding(
    form: Form,
    bytes: &[u8],
) -> Result<(BindingView<'_>, &[u8]), DecodeError> {
    match form {
        Form::Fixed => read_fixed(bytes),
        Form::Old => old::read_binding(bytes),
    }
}

/// Bytes of a flow at most.
pub(crate) const FLOW_BYTES_MAX: usize = 19;
const FLOW: u8 = 1;
const FLOW_NAT: u8 = 1;

fn write_flow(flow: Flow, out: &mut Vec<u8>) {
    if flow == Flow::default() {
        return;
    }
    let nat = if flow.nat { FLOW_NAT } else { 0 };
    match flow.local {
        None => out.extend_from_slice(&[FLOW, 1, nat]),
        Some(IpAddr::V4(ip)) => {
            out.extend_from_slice(&[FLOW, 5, nat]);
            out.extend_from_slice(&ip.octets());
        }
        Some(IpAddr::V6(ip)) => {
            out.extend_from_slice(&[FLOW, 17, nat]);
            out.extend_from_slice(&ip.octets());
        }
    }
}

/// The flow, and what is behind it.
#[inline]
fn read_flow(bytes: &[u8]) -> (Flow, &[u8]) {
    let nothing = (Flow::default(), bytes);
    let [FLOW, length, rest @ ..] = bytes else {
        return nothing;
    };
    let Some((flow, more)) = rest.split_at_checked((*length).into()) else {
        return nothing;
    };
    let Some((flags, address)) = flow.split_first() else {
        return nothing;
    };
    let local = match address.len() {
        4 => address.first_chunk::<4>().map(|ip| IpAddr::from(*ip)),
        16 => address.first_chunk::<16>().map(|ip| IpAddr::from(*ip)),
        _ => None,
    };
    let nat = flags & FLOW_NAT != 0;
    (Flow { nat, local }, more)
}

#[inline]
fn read_fixed(bytes: &[u8]) -> Result<(BindingView<'_>, &[u8]), DecodeError> {
    let (whole, rest) = split_binding(bytes)?;
    let (head, tail) = whole
        .split_first_chunk::<HEAD>()
        .ok_or(DecodeError::Truncated)?;
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let flags = head[2];
    let mut tail = Tail(tail);
    let reg_id = match flags & flag::REG_ID {
        0 => None,
        _ => Some(u32::from_le_bytes(tail.chunk()?)),
    };
    let port = u16_at(38);
    let received = if flags & flag::RECEIVED_V4 != 0 {
        let ip = Ipv4Addr::from(tail.chunk::<4>()?);
        Some(SocketAddr::new(IpAddr::V4(ip), port))
    } else if flags & flag::RECEIVED_V6 != 0 {
        let ip = Ipv6Addr::from(tail.chunk::<16>()?);
        let scope = u32::from_le_bytes(tail.chunk()?);
        Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
    } else {
        None
    };
    let contact = tail.take(u16_at(30))?;
    let call_id = tail.take(u16_at(32))?;
    let path = tail.take(u16_at(34))?;
    let instance = tail.take(u16_at(36))?;
    let user_agent = tail.take(head[3].into())?;
    if contact.is_empty() {
        return Err(DecodeError::Missing(field::CONTACT));
    }
    let (flow, more) = read_flow(tail.0);
    let view = BindingView {
        contact,
        q: u16_at(28),
        expires_at: instant_at(head, AT_EXPIRES),
        call_id,
        cseq: u32::from_le_bytes([head[20], head[21], head[22], head[23]]),
        path,
        instance: (flags & flag::INSTANCE != 0).then_some(instance),
        reg_id,
        received,
        listener: u32::from_le_bytes([head[24], head[25], head[26], head[27]]),
        user_agent,
        updated_at: instant_at(head, AT_UPDATED),
        flow,
        more,
    };
    Ok((view, rest))
}

/// One binding by its length; what follows it.
#[inline]
fn split_binding(bytes: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let len = bytes.first_chunk::<2>().ok_or(DecodeError::Truncated)?;
    bytes
        .split_at_checked(u16::from_le_bytes(*len).into())
        .ok_or(DecodeError::Truncated)
}

#[inline]
fn instant_at(head: &[u8; HEAD], at: usize) -> Instant {
    let mut nanos = [0; 8];
    nanos.copy_from_slice(&head[at..at + 8]);
    Instant::from_nanos(u64::from_le_bytes(nanos))
}

/// What is left of a binding.
struct Tail<'a>(&'a [u8]);

impl<'a> Tail<'a> {
    #[inline]
    fn take(&mut self, len: u16) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .0
            .split_at_checked(len.into())
            .ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (chunk, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*chunk)
    }
}

/// The same set with every instant moved by `nanos`, for a machine or a boot whose clock has another zero. What this release does not know
/// stays as it is.
pub fn shift(set: &[u8], nanos: i64) -> Result<Vec<u8>, DecodeError> {
    let set = BindingsView::new(set)?;
    let mut out = Vec::new();
    write_head(set.len(), &mut out);
    for mut binding in set.all() {
        binding.expires_at = binding.expires_at.shifted(nanos);
        binding.updated_at = binding.updated_at.shifted(nanos);
        write_binding(&binding, &mut out);
    }
    Ok(out)
}

pub(crate) fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Whether there is a control byte in a text. Eight bytes are looked at in one step; only one that holds a byte below the blank, which may be a tab,
/// or a DEL is looked at byte by byte.
#[inline]
pub(crate) fn has_control(text: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let (steps, rest) = text.as_chunks::<8>();
    let is_suspect = |step: &[u8; 8]| {
        let eight = u64::from_le_bytes(*step);
        let below_blank = eight.wrapping_sub(ONES * 0x20) & !eight;
        // A DEL becomes a zero byte.
        let del = eight ^ (ONES * 0x7f);
        let is_del = del.wrapping_sub(ONES) & !del;
        (below_blank | is_del) & HIGH != 0
    };
    let any = |part: &[u8]| part.iter().any(|&byte| is_control(byte));
    let any_step = |step: &[u8; 8]| is_suspect(step) && any(step);
    match text.last_chunk::<8>() {
        // The last step overlaps the one before.
        Some(last) => steps.iter().any(any_step) || any_step(last),
        None => any(rest),
    }
}

/// What can stand in one header line: folds (§7.3.1) and other control bytes become spaces.
pub(crate) fn clean(text: &mut [u8]) {
    if has_control(text) {
        for byte in text.iter_mut().filter(|byte| is_control(**byte)) {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::binding::{Binding, BindingSet};

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
            flow: Flow::default(),
        }
    }

    fn encoded(set: &BindingSet) -> Vec<u8> {
        let mut out = Vec::new();
        set.encode(&mut out);
        out
    }

    fn encoded_of_old(set: &BindingSet) -> Vec<u8> {
        let mut out = Vec::new();
        old::writer::write(set, &mut out);
        out
    }

    #[test]
    fn a_common_binding_is_small() {
        let set = BindingSet {
            bindings: vec![example()],
        };
        assert_eq!(encoded(&set).len(), 204);
    }

    /// Bodies outlive a release: these places never change.
    #[test]
    fn places_are_pinned() {
        let mut binding = example();
        binding.contact = b"sip:c".to_vec();
        binding.reg_id = Some(7);
        binding.instance = Some(b"i".to_vec());
        binding.path = b"<p>".to_vec();
        let bytes = encoded(&BindingSet {
            bindings: vec![binding],
        });
        assert_eq!(bytes[..2], [2, 1]);
        let binding = &bytes[2..];
        assert_eq!(binding[..4], [95, 0, 7, 11]);
        assert_eq!(binding[4..12], 5_000_000_000_000_000_u64.to_le_bytes());
        assert_eq!(binding[12..20], 4_996_400_000_000_000_u64.to_le_bytes());
        assert_eq!(binding[20..28], [0x22, 7, 0, 0, 1, 0, 0, 0]);
        assert_eq!(
            binding[28..40],
            [0xf4, 1, 5, 0, 27, 0, 3, 0, 1, 0, 0xc4, 0x13]
        );
        assert_eq!(
            binding[40..],
            *b"\x07\0\0\0\xc0\0\x02\x11sip:c843817637684230@998sdasdh09<p>iPhone 1.2.3"
        );
    }

    #[test]
    fn what_a_later_release_adds_is_kept() {
        let set = BindingSet {
            bindings: vec![example()],
        };
        let mut bytes = encoded(&set);
        bytes.extend_from_slice(&[200, 3, 1, 2, 3]);
        let len = u16::from_le_bytes([bytes[2], bytes[3]]) + 5;
        bytes[2..4].copy_from_slice(&len.to_le_bytes());
        assert_eq!(BindingSet::decode(&bytes), Ok(set));
        let view = BindingsView::new(&bytes).unwrap();
        let mut again = Vec::new();
        write_head(view.len(), &mut again);
        write_binding(&view.all().next().unwrap(), &mut again);
        assert_eq!(again, bytes);
        assert_eq!(shift(&bytes, 0), Ok(bytes), "and kept by a shift");
    }

    #[test]
    fn garbage_is_refused() {
        let set = BindingSet {
            bindings: vec![example()],
        };
        for good in [encoded(&set), encoded_of_old(&set)] {
            for cut in 0..good.len() {
                assert!(BindingSet::decode(&good[..cut]).is_err());
            }
            let longer = [&good[..], b"x"].concat();
            assert_eq!(BindingSet::decode(&longer), Err(DecodeError::Trailing));
        }
        assert_eq!(BindingSet::decode(b""), Err(DecodeError::Truncated));
        assert_eq!(BindingSet::decode(&[3, 0]), Err(DecodeError::Version(3)));
        assert_eq!(BindingSet::decode(&[2, 33]), Err(DecodeError::TooMany));
        assert_eq!(BindingSet::decode(&[2, 0, 0]), Err(DecodeError::Trailing));
        let good = encoded(&set);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            BindingSet::decode(&bytes)
        };
        let call_id = good.len() - 20;
        assert_eq!(changed(call_id, b'\n'), Err(DecodeError::Field(0)));
        assert_eq!(changed(2 + 29, 0xff), Err(DecodeError::Field(2)));
        assert_eq!(
            BindingSet::decode(&[1, 1, 0, 0]),
            Err(DecodeError::Missing(1))
        );
        assert_eq!(
            BindingSet::decode(&[1, 1, 4, 0, 1, 2, b'a', b'\n']),
            Err(DecodeError::Field(1))
        );
    }

    #[test]
    fn control_bytes_are_not_kept() {
        for len in 0..40 {
            for at in 0..len {
                let mut text = vec![b'a'; len];
                assert!(!has_control(&text));
                for byte in [0, b'\r', b'\n', 0x1f, 0x7f] {
                    text[at] = byte;
                    assert!(has_control(&text));
                }
                for byte in [b'\t', b' ', 0x7e, 0x80, 0xff] {
                    text[at] = byte;
                    assert!(!has_control(&text));
                }
            }
        }
        let mut binding = example();
        binding.user_agent = b"A\r\n phone".to_vec();
        let bytes = encoded(&BindingSet {
            bindings: vec![binding],
        });
        let set = BindingSet::decode(&bytes).unwrap();
        assert_eq!(set.bindings[0].user_agent, b"A   phone");
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
            (any::<bool>(), any::<Option<IpAddr>>()).prop_map(|(nat, local)| Flow { nat, local }),
        );
        (head, middle, any::<u32>(), text(50), any::<u64>()).prop_map(
            |(
                (contact, q, expires_at, call_id, cseq),
                middle,
                listener,
                user_agent,
                updated_at,
            )| {
                let (path, instance, reg_id, received, flow) = middle;
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
                    flow,
                }
            },
        )
    }

    /// As a release had them that knew no flows.
    fn without_flows(bindings: Vec<Binding>) -> BindingSet {
        let bindings = bindings.into_iter().map(|binding| Binding {
            flow: Flow::default(),
            ..binding
        });
        BindingSet {
            bindings: bindings.collect(),
        }
    }

    proptest! {
        #[test]
        fn decode_is_the_inverse_of_encode(bindings in prop::collection::vec(binding(), 0..5)) {
            let set = BindingSet { bindings };
            prop_assert_eq!(BindingSet::decode(&encoded(&set)), Ok(set));
        }

        #[test]
        fn what_the_last_release_wrote_is_read(bindings in prop::collection::vec(binding(), 0..5)) {
            let set = without_flows(bindings);
            prop_assert_eq!(BindingSet::decode(&encoded_of_old(&set)), Ok(set));
        }

        #[test]
        fn a_shift_moves_instants_and_nothing_else(bindings in prop::collection::vec(binding(), 0..5), nanos: i64) {
            let mut set = without_flows(bindings);
            let bytes = [encoded(&set), encoded_of_old(&set)];
            for binding in &mut set.bindings {
                binding.expires_at = binding.expires_at.shifted(nanos);
                binding.updated_at = binding.updated_at.shifted(nanos);
            }
            for bytes in bytes {
                prop_assert_eq!(shift(&bytes, nanos), Ok(encoded(&set)));
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
                *version = 1 + *version % 2;
            }
            let _ = BindingSet::decode(&bytes);
            let _ = shift(&bytes, 1);
        }
    }
}
