//! Messages that workers died of: who recovers a slot counts the death, and every slot drops what is in quarantine.

use std::{net::SocketAddr, time::Duration};

use failpoint::failpoint;
use shm::{BufferRef, Participant, SlotId};
use stdx::Instant;
use sync::Ordering;
use tables::quarantine::{DEATHS_MAX, Death, Filter, NotCounted};

use crate::takeover::Heir;

/// A slot's copy of what is in quarantine: one load per message while nothing is.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    filter: Filter,
    notices: u64,
}

impl Guard {
    /// Whether the message is to be dropped.
    #[inline]
    pub(crate) fn drops(
        &mut self,
        participant: &mut Participant,
        bytes: &[u8],
        now: Instant,
        unix_ms: impl FnOnce() -> u64,
    ) -> bool {
        // SYNC notices: Acquire, see `tables::quarantine`.
        let notices = participant.arena().notices().load(Ordering::Acquire);
        if notices != self.notices {
            self.filter = tables::Quarantine(participant).filter();
            self.notices = notices;
        }
        self.filter.may_hold(bytes.len())
            && tables::Quarantine(participant).drops(bytes, now, unix_ms())
    }
}

/// A message that a worker died of, as it lies in its buffer.
#[derive(Clone, Copy, Debug)]
pub struct Suspect<'b> {
    pub bytes: &'b [u8],
    pub source: SocketAddr,
    /// Where it came in.
    pub local: Option<SocketAddr>,
    /// How long its case is kept.
    pub ttl: Duration,
}

/// What counting a death came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Deaths of this message, and whether this one has not been counted before.
    Deaths {
        deaths: u32,
        is_new: bool,
    },
    No(NotCounted),
}

/// Counts the death of the slot's last owner against the message that was at hand. Whether the message must not be served again.
///
/// The slot's header still shows the dead turn, so that a second heir, if this one dies here, counts nothing twice. Once it is counted
/// the message is at hand no more: from then on only who begins to serve it again puts it under suspicion again.
pub(crate) fn judge<H: Heir>(
    heir: &mut H,
    number: u16,
    participant: &mut Participant,
    at_hand: BufferRef,
) -> bool {
    failpoint!("slot.broken.quarantine", false);
    let arena = participant.arena().clone();
    let header = arena.slot(SlotId(number));
    let pool = arena.rx(SlotId(at_hand.slot));
    let Some(suspect) = heir.suspect(&pool, at_hand.index) else {
        return false;
    };
    let death = Death {
        bytes: suspect.bytes,
        source: suspect.source,
        local: suspect.local,
        // Turns are counted on from owner to owner.
        mark: u64::from(number) << 48 ^ header.turn_started.load(Ordering::Relaxed),
        unix_ms: heir.unix_ms(),
        expires_at: heir.now() + suspect.ttl,
    };
    let counted = tables::Quarantine(participant).note_death(&death);
    header.set_at_hand(None);
    match counted {
        Ok((deaths, is_new)) => {
            heir.counted(&death, Counted::Deaths { deaths, is_new });
            deaths >= DEATHS_MAX
        }
        Err(error) => {
            heir.counted(&death, Counted::No(error));
            u32::from(pool.meta(at_hand.index).attempts) >= DEATHS_MAX
        }
    }
}
