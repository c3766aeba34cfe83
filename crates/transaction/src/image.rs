//! The fixed-size form of a machine that outlives its worker.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | version, 1 |
//! | 1 | machine (high half) and state (low half) |
//! | 2 | flags: bit 0 reliable transport, bit 1 a response was sent, bit 2 `first` is set |
//! | 3..8 | zero |
//! | 8..16 | `first`: time of the next retransmission, ns |
//! | 16..24 | interval of the retransmission, ns; 0 means a single resend |
//! | 24..32 | `limit`: the moment that ends the state, ns; 0 in states that no timer ends |
//! | 32..40 | zero |
//!
//! Decoding is strict: what a machine would not have written is `None`.

use core::time::Duration;

use stdx::Instant;

use crate::{Backoff, Reliability};

/// Size of a machine's image.
pub const IMAGE_BYTES: usize = 40;

/// A machine's image.
pub type Image = [u8; IMAGE_BYTES];

const VERSION: u8 = 1;

const RELIABLE: u8 = 1;
const RESPONDED: u8 = 2;
const FIRST: u8 = 4;

/// Which state of which machine, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tag {
    InviteClientCalling = 0x11,
    InviteClientProceeding = 0x12,
    InviteClientCompleted = 0x13,
    InviteClientAccepted = 0x14,
    NonInviteClientTrying = 0x21,
    NonInviteClientProceeding = 0x22,
    NonInviteClientCompleted = 0x23,
    InviteServerProceeding = 0x31,
    InviteServerCompleted = 0x32,
    InviteServerConfirmed = 0x33,
    InviteServerAccepted = 0x34,
    NonInviteServerTrying = 0x41,
    NonInviteServerProceeding = 0x42,
    NonInviteServerCompleted = 0x43,
}

impl Tag {
    const ALL: [Self; 14] = [
        Self::InviteClientCalling,
        Self::InviteClientProceeding,
        Self::InviteClientCompleted,
        Self::InviteClientAccepted,
        Self::NonInviteClientTrying,
        Self::NonInviteClientProceeding,
        Self::NonInviteClientCompleted,
        Self::InviteServerProceeding,
        Self::InviteServerCompleted,
        Self::InviteServerConfirmed,
        Self::InviteServerAccepted,
        Self::NonInviteServerTrying,
        Self::NonInviteServerProceeding,
        Self::NonInviteServerCompleted,
    ];
}

/// The union of what the states hold. Each machine turns its states into this and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) tag: Tag,
    pub(crate) reliability: Reliability,
    pub(crate) responded: bool,
    pub(crate) retransmission: Retransmission,
    pub(crate) limit: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retransmission {
    None,
    /// One resend, asked for by an heir.
    Once(Instant),
    Repeated(Backoff),
}

impl Fields {
    /// A state that holds nothing.
    pub(crate) fn bare(tag: Tag) -> Self {
        Self {
            tag,
            reliability: Reliability::Unreliable,
            responded: false,
            retransmission: Retransmission::None,
            limit: None,
        }
    }

    pub(crate) fn encode(&self) -> Image {
        let (first, interval) = match self.retransmission {
            Retransmission::None => (None, 0),
            Retransmission::Once(at) => (Some(at), 0),
            Retransmission::Repeated(Backoff { at, interval }) => (Some(at), nanos(interval)),
        };
        let mut flags = 0;
        if self.reliability == Reliability::Reliable {
            flags |= RELIABLE;
        }
        if self.responded {
            flags |= RESPONDED;
        }
        if first.is_some() {
            flags |= FIRST;
        }
        let head = [VERSION, self.tag as u8, flags, 0, 0, 0, 0, 0];
        let first = first.map_or(0, Instant::as_nanos).to_le_bytes();
        // A limit of 0 is written as 1 so that 0 can mean none; a nanosecond after boot nothing runs yet.
        let limit = self
            .limit
            .map_or(0, |at| at.as_nanos().max(1))
            .to_le_bytes();
        let mut image = [0; IMAGE_BYTES];
        for (to, from) in
            image
                .chunks_exact_mut(8)
                .zip([head, first, interval.to_le_bytes(), limit])
        {
            to.copy_from_slice(&from);
        }
        image
    }

    pub(crate) fn decode(image: &Image) -> Option<Self> {
        let (head, rest) = image.split_first_chunk::<8>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (interval, rest) = rest.split_first_chunk::<8>()?;
        let (limit, spare) = rest.split_first_chunk::<8>()?;
        let [version, tag, flags, zero @ ..] = head;
        if *version != VERSION || flags & !(RELIABLE | RESPONDED | FIRST) != 0 {
            return None;
        }
        if zero.iter().chain(spare).any(|&byte| byte != 0) {
            return None;
        }
        let tag = Tag::ALL.into_iter().find(|&known| known as u8 == *tag)?;
        let first = u64::from_le_bytes(*first);
        let interval = u64::from_le_bytes(*interval);
        let retransmission = match (flags & FIRST != 0, first, interval) {
            (false, 0, 0) => Retransmission::None,
            (false, _, _) => return None,
            (true, at, 0) => Retransmission::Once(Instant::from_nanos(at)),
            (true, at, interval) => {
                let interval = Duration::from_nanos(interval);
                Retransmission::Repeated(Backoff {
                    at: Instant::from_nanos(at),
                    interval,
                })
            }
        };
        Some(Self {
            tag,
            reliability: if flags & RELIABLE != 0 {
                Reliability::Reliable
            } else {
                Reliability::Unreliable
            },
            responded: flags & RESPONDED != 0,
            retransmission,
            limit: match u64::from_le_bytes(*limit) {
                0 => None,
                at => Some(Instant::from_nanos(at)),
            },
        })
    }
}

impl Retransmission {
    pub(crate) fn repeated(backoff: Option<Backoff>) -> Self {
        backoff.map_or(Self::None, Self::Repeated)
    }

    pub(crate) fn once(at: Option<Instant>) -> Self {
        at.map_or(Self::None, Self::Once)
    }

    /// The clock of a state that retransmits; a single resend is none (and fails the decoder's comparison).
    pub(crate) fn into_backoff(self) -> Option<Backoff> {
        match self {
            Self::None | Self::Once(_) => None,
            Self::Repeated(backoff) => Some(backoff),
        }
    }

    /// The single resend of a state that has no clock.
    pub(crate) fn into_once(self) -> Option<Instant> {
        match self {
            Self::None | Self::Repeated(_) => None,
            Self::Once(at) => Some(at),
        }
    }
}

fn nanos(interval: Duration) -> u64 {
    u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX)
}
