//! What `tandem status` is told.

use control::status::{ListenerStatus, SupervisorStatus};
use control::{ArenaStatus, CdrStatus, Role, SlotStatus, StatusReport, WorkerStatus};
use stdx::Instant;
use tables::Counter;

use super::apply::incarnation;
use super::fleet::{Process, ProcessId, State};
use super::supervisor::Supervisor;
use crate::about::VERSION;

impl Supervisor {
    pub(super) fn status(&self, now: Instant) -> StatusReport {
        let usage = self.memory.usage();
        let workers: Vec<WorkerStatus> = self
            .fleet
            .processes()
            .filter_map(|(id, process)| self.worker_status(now, id, process))
            .collect();
        StatusReport {
            version: VERSION.to_owned(),
            supervisor: SupervisorStatus {
                pid: std::process::id(),
            },
            uptime_ms: ms_since(now, self.started),
            config_version: self.config_version,
            // The only one there is; a worker that can't have it fails.
            driver: "io_uring".to_owned(),
            listeners: self
                .listeners
                .iter()
                .map(|listener| listener_status(&listener.listen))
                .collect(),
            slots: (0..self.config.slots())
                .map(|slot| self.slot_status(slot, &workers))
                .collect(),
            workers: ordered(workers),
            arena: ArenaStatus {
                bytes_huge: usage.arena.bytes_huge.max(self.pages.huge()),
                ..usage.arena
            },
            registrations: usage.registrations,
            dialogs: usage.dialogs,
            transactions: usage.transactions,
            rates: control::Rates {
                messages_per_s: self.rates.messages_per_s,
            },
            snapshot: self.snapshot_status(now),
            cdr: self.cdr_status(usage.cdrs),
        }
    }

    fn cdr_status(&self, waiting: u64) -> CdrStatus {
        let count = |counter| self.memory.counter(counter);
        CdrStatus {
            path: self.config.records.path.clone(),
            waiting,
            written: count(Counter::CdrsWritten),
            lost: count(Counter::CdrsLost),
            failures: count(Counter::CdrsFailed),
        }
    }

    /// `None` for a process that has neither a seat nor is ready for one.
    fn worker_status(
        &self,
        now: Instant,
        id: ProcessId,
        process: &Process,
    ) -> Option<WorkerStatus> {
        let link = self.links.get(id)?;
        let seat = process.seat();
        let role = match (process.state, seat) {
            (State::Spare, _) => Role::Spare,
            (_, Some(_)) => Role::Signalling,
            (_, None) => return None,
        };
        let place = seat.and_then(|seat| self.fleet.seats().get(usize::from(seat)));
        Some(WorkerStatus {
            id: seat,
            pid: link.pid,
            role,
            slots: link.serving.iter().copied().collect(),
            incarnation: incarnation(id),
            restarts: place.map_or(0, |place| place.restarts),
            last_exit: place
                .and_then(|place| place.last_exit)
                .map(|cause| cause.to_string()),
            uptime_ms: ms_since(now, process.started_at),
        })
    }

    fn slot_status(&self, slot: u16, workers: &[WorkerStatus]) -> SlotStatus {
        let figures = self.memory.figures(slot);
        SlotStatus {
            id: slot,
            worker: workers
                .iter()
                .find(|worker| worker.slots.contains(&slot))
                .and_then(|worker| worker.id),
            core: figures.core,
            messages: figures.messages,
            died_ns: figures.died_ns,
            recovered_ns: figures.recovered_ns,
            first_served_ns: figures.first_served_ns,
            latency: self.memory.latency(slot),
        }
    }
}

/// By place, the spare last.
fn ordered(mut workers: Vec<WorkerStatus>) -> Vec<WorkerStatus> {
    workers.sort_by_key(|worker| worker.id.map_or(u32::MAX, u32::from));
    workers
}

fn listener_status(listen: &config::Listen) -> ListenerStatus {
    ListenerStatus {
        address: listen.address.to_string(),
        transports: listen
            .transports
            .iter()
            .map(|transport| transport.name().to_owned())
            .collect(),
        spread: listen.spread.name().to_owned(),
    }
}

fn ms_since(now: Instant, earlier: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(earlier).as_millis()).unwrap_or(u64::MAX)
}
