//! The pieces that records of transactions are made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shm::{Block, RowRef};
use stdx::Instant;
use transaction::{IMAGE_BYTES, Image};

use crate::{
    ask::{Backup, Destination, Target},
    call::{CallRef, Role, session::SessionAsk},
    context::Kept,
};

/// "No block" where the place of a child is expected.
const NO_CHILD: u8 = u8::MAX;
pub(super) struct Writer<'w> {
    pub(super) out: &'w mut Vec<u8>,
    pub(super) children: &'w mut Vec<Block>,
}

impl Writer<'_> {
    pub(super) fn byte(&mut self, value: u8) {
        self.out.push(value);
    }
    pub(super) fn short(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    pub(super) fn half(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    pub(super) fn word(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    pub(super) fn image(&mut self, kind: u8, image: &Image) {
        self.byte(kind);
        self.out.extend_from_slice(image);
    }
    pub(super) fn address(&mut self, address: &SocketAddr) {
        self.ip(address.ip());
        self.short(address.port());
    }
    pub(super) fn ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                self.byte(4);
                self.out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.byte(6);
                self.out.extend_from_slice(&ip.octets());
            }
        }
    }
    pub(super) fn child(&mut self, block: Option<Block>) {
        let place = match block {
            None => NO_CHILD,
            Some(block) => {
                self.children.push(block);
                u8::try_from(self.children.len().saturating_sub(1)).unwrap_or(NO_CHILD)
            }
        };
        self.byte(place);
    }
    /// At most 255 things.
    pub(super) fn list<T>(&mut self, list: &[T], each: impl Fn(&mut Self, &T)) {
        let count = u8::try_from(list.len()).unwrap_or(u8::MAX);
        self.byte(count);
        for one in list.iter().take(usize::from(count)) {
            each(self, one);
        }
    }
    /// The listener of a target, one up, and its address there, which the highest bit announces; the next one says what its path is.
    pub(super) fn entrance(&mut self, target: &Target) {
        let listener = target.listener.map_or(0, |id| id.wrapping_add(1));
        let local = target
            .local
            .filter(|_| listener & (WITH_LOCAL | WHOLE) == 0);
        let bit = |bit, is_set| if is_set { bit } else { 0 };
        self.half(listener | bit(WITH_LOCAL, local.is_some()) | bit(WHOLE, target.whole));
        if let Some(ip) = local {
            self.ip(ip);
        }
    }
    pub(super) fn target(&mut self, target: &Target) {
        self.text(target.uri.as_deref());
        self.text(target.next_hop.as_deref());
        self.text(target.path.as_deref());
        self.entrance(target);
        self.short(target.q);
        self.byte(u8::from(target.recurse));
        self.list(&target.backups, |to, backup| to.text(Some(&backup.uri)));
    }
    /// Of a target's next hop and of its backups: an earlier release had none, so that they stand behind what it reads.
    pub(super) fn destinations(&mut self, target: &Target) {
        self.destination(target.destination);
        self.list(&target.backups, |to, backup| {
            to.destination(backup.destination)
        });
    }
    pub(super) fn destination(&mut self, destination: Option<Destination>) {
        self.word(destination.map_or(0, |to| to.resource.pack()));
        if let Some(to) = destination {
            self.word(to.limit.unwrap_or(u64::MAX));
        }
    }
    pub(super) fn call(&mut self, call: &CallRef) {
        self.word(call.row.pack());
        self.word(call.place);
        self.byte(call.role as u8);
        self.half(call.shift.cast_unsigned());
        self.half(call.rack_shift.cast_unsigned());
        self.half(call.session.expires);
        self.half(call.session.min);
        self.byte(u8::from(call.session.supported));
    }
    pub(super) fn kept(&mut self, kept: Option<Kept>) {
        self.short(kept.map_or(0, |kept| kept.code));
        self.child(kept.and_then(|kept| kept.block));
    }
    pub(super) fn text(&mut self, text: Option<&[u8]>) {
        // What does not fit is no text; a datagram has nothing so long.
        let length = text.and_then(|text| u16::try_from(text.len().saturating_add(1)).ok());
        self.short(length.unwrap_or(0));
        if length.is_some() {
            self.out.extend_from_slice(text.unwrap_or_default());
        }
    }
}

/// See [`Writer::entrance`].
const WITH_LOCAL: u32 = 1 << 31;
const WHOLE: u32 = 1 << 30;

pub(super) struct Reader<'r> {
    pub(super) rest: &'r [u8],
    pub(super) children: &'r [Block],
}

impl Reader<'_> {
    /// The next bytes, to be read by themselves.
    pub(super) fn split(&mut self, bytes: usize) -> Option<Self> {
        let (head, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(Self {
            rest: head,
            children: self.children,
        })
    }
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*head)
    }
    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
    pub(super) fn short(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub(super) fn half(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub(super) fn word(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    /// 0 is none.
    pub(super) fn instant(&mut self) -> Option<Option<Instant>> {
        let at = self.word()?;
        Some((at != 0).then(|| Instant::from_nanos(at)))
    }
    pub(super) fn image(&mut self) -> Option<Image> {
        self.array::<IMAGE_BYTES>()
    }
    pub(super) fn address(&mut self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.ip()?, self.short()?))
    }
    pub(super) fn ip(&mut self) -> Option<IpAddr> {
        Some(match self.byte()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return None,
        })
    }
    /// The outer `None` is a broken record.
    pub(super) fn child(&mut self) -> Option<Option<Block>> {
        match self.byte()? {
            NO_CHILD => Some(None),
            place => self
                .children
                .get(usize::from(place))
                .map(|&block| Some(block)),
        }
    }
    pub(super) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.byte()?;
        (0..count).map(|_| each(self)).collect()
    }
    /// What [`Writer::entrance`] wrote.
    pub(super) fn entrance(&mut self) -> Option<Target> {
        let word = self.half()?;
        let local = match word & WITH_LOCAL {
            0 => None,
            _ => Some(self.ip()?),
        };
        Some(Target {
            listener: (word & !(WITH_LOCAL | WHOLE)).checked_sub(1),
            local,
            whole: word & WHOLE != 0,
            ..Target::default()
        })
    }
    pub(super) fn target(&mut self) -> Option<Target> {
        let (uri, next_hop, path) = (self.text()?, self.text()?, self.text()?);
        let entrance = self.entrance()?;
        Some(Target {
            uri,
            next_hop,
            path,
            q: self.short()?,
            recurse: self.byte()? != 0,
            destination: None,
            backups: self.backups()?,
            ..entrance
        })
    }
    pub(super) fn backups(&mut self) -> Option<Vec<Backup>> {
        let uris = self.list(Reader::text)?;
        Some(uris.into_iter().flatten().map(Backup::uri).collect())
    }
    /// What [`Writer::destinations`] wrote.
    pub(super) fn destinations(&mut self, target: &mut Target) -> Option<()> {
        target.destination = self.destination()?;
        let of_backups = self.list(Reader::destination)?;
        for (backup, destination) in target.backups.iter_mut().zip(of_backups) {
            backup.destination = destination;
        }
        Some(())
    }
    /// The outer `None` is a broken record.
    pub(super) fn destination(&mut self) -> Option<Option<Destination>> {
        let packed = self.word()?;
        if packed == 0 {
            return Some(None);
        }
        let limit = self.word()?;
        Some(Some(Destination {
            resource: RowRef::unpack(packed),
            limit: (limit != u64::MAX).then_some(limit),
        }))
    }
    pub(super) fn call(&mut self) -> Option<CallRef> {
        Some(CallRef {
            row: RowRef::unpack(self.word()?),
            place: self.word()?,
            role: Role::decode(self.byte()?)?,
            shift: self.half()?.cast_signed(),
            rack_shift: self.half()?.cast_signed(),
            session: SessionAsk {
                expires: self.half()?,
                min: self.half()?,
                supported: self.byte()? != 0,
            },
            bye: None,
        })
    }
    pub(super) fn kept(&mut self) -> Option<Option<Kept>> {
        let code = self.short()?;
        let block = self.child()?;
        Some((code != 0).then_some(Kept { code, block }))
    }
    pub(super) fn text(&mut self) -> Option<Option<Vec<u8>>> {
        let Some(bytes) = usize::from(self.short()?).checked_sub(1) else {
            return Some(None);
        };
        let (text, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(Some(text.to_vec()))
    }
}
