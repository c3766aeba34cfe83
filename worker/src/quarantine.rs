//! What is told of messages that workers died of. The counting is in the crate `slot`.

use ::slot::Counted;
use control::{FromWorker, Quarantined};
use std::net::SocketAddr;
use tables::quarantine::{CaseId, DEATHS_MAX, Death};

use crate::slot::Begin;

pub(crate) fn unix_ms() -> u64 {
    u64::try_from(os::unix_now().as_millis()).unwrap_or(u64::MAX)
}

/// Tells the log, and of a message that is in quarantine from now on the supervisor, who keeps it as a file.
pub(crate) fn tell(begin: &Begin, death: &Death<'_>, counted: Counted) {
    match counted {
        Counted::Deaths {
            deaths,
            is_new: true,
        } => {
            tracing::warn!(slot = begin.slot, source = %death.source, deaths, "a worker died with this message at hand");
            if deaths == DEATHS_MAX {
                report(begin, death, deaths);
            }
        }
        Counted::Deaths { .. } => {}
        Counted::No(error) => {
            tracing::warn!(slot = begin.slot, %error, "a death can't be counted");
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
