//! Messages that workers died of: who recovers a slot counts the death, and every slot drops what is in quarantine.

use control::{FromWorker, Quarantined};
use os::now;
use shm::{BufferRef, Participant, SlotId};
use std::net::SocketAddr;
use sync::Ordering;
use tables::quarantine::{CaseId, DEATHS_MAX, Death, Filter};

use crate::slot::Begin;

/// A slot's copy of what is in quarantine: one load per message while nothing is.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    filter: Filter,
    notices: u64,
}

impl Guard {
    /// Whether the message is to be dropped.
    #[inline]
    pub(crate) fn drops(&mut self, participant: &mut Participant, bytes: &[u8]) -> bool {
        // SYNC notices: Acquire, see `tables::quarantine`.
        let notices = participant.arena().notices().load(Ordering::Acquire);
        if notices != self.notices {
            self.filter = tables::Quarantine(participant).filter();
            self.notices = notices;
        }
        self.filter.may_hold(bytes.len())
            && tables::Quarantine(participant).drops(bytes, now(), unix_ms())
    }
}

fn unix_ms() -> u64 {
    u64::try_from(os::unix_now().as_millis()).unwrap_or(u64::MAX)
}

/// Counts the death of the slot's last owner against the message that was at hand. Whether the message must not be served again.
///
/// The slot's header still shows the dead turn, so that a second heir, if this one dies here, counts nothing twice. Once it is counted
/// the message is at hand no more: from then on only who begins to serve it again puts it under suspicion again.
pub(crate) fn judge(begin: &Begin, participant: &mut Participant, at_hand: BufferRef) -> bool {
    let header = begin.arena.slot(SlotId(begin.slot));
    let pool = begin.arena.rx(SlotId(at_hand.slot));
    let Some(found) = reactor::datagram(&pool, at_hand.index) else {
        return false;
    };
    let ttl = begin.active.config.limits.quarantine_ttl;
    let local = found
        .local
        .or_else(|| begin.sockets.first().map(|socket| socket.address));
    let death = Death {
        bytes: found.payload,
        source: found.source,
        local,
        // Turns are counted on from owner to owner.
        mark: u64::from(begin.slot) << 48 ^ header.turn_started.load(Ordering::Relaxed),
        unix_ms: unix_ms(),
        expires_at: now() + ttl,
    };
    let counted = tables::Quarantine(participant).note_death(&death);
    header.set_at_hand(None);
    match counted {
        Ok((deaths, is_new)) => {
            if is_new {
                tracing::warn!(slot = begin.slot, source = %found.source, deaths, "a worker died with this message at hand");
            }
            if is_new && deaths == DEATHS_MAX {
                report(begin, &death, deaths);
            }
            deaths >= DEATHS_MAX
        }
        Err(error) => {
            tracing::warn!(slot = begin.slot, %error, "a death can't be counted");
            u32::from(pool.meta(at_hand.index).attempts) >= DEATHS_MAX
        }
    }
}

fn report(begin: &Begin, death: &Death<'_>, deaths: u32) {
    let text = |address: Option<SocketAddr>| address.map_or_else(String::new, |a| a.to_string());
    begin.channel.tell(&FromWorker::Quarantined(Quarantined {
        id: CaseId::of(&begin.arena.key(), death.bytes).to_string(),
        source: text(Some(death.source)),
        received_on: text(death.local),
        unix_ms: death.unix_ms,
        deaths,
        bytes: death.bytes.to_vec(),
    }));
}
