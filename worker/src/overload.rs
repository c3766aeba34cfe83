//! A slot beyond its capacity: which new work it takes, refuses, or has the kernel drop. The rules are in the crate `overload`; here they
//! meet the clock, the sockets and the counters.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    time::Duration,
};

use ::overload::{ALL, Filter, Gate, Policy, Verdict};
use shm::Participant;
use stdx::Instant;
use tables::Counter;

use crate::inbox::Socket;

/// The log hears of a change at most this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The gate of a slot, and what it needs to be applied.
pub(crate) struct Overload {
    slot: u16,
    gate: Gate,
    retry_after_s: u32,
    /// Whose datagram was judged last.
    judged: Option<IpAddr>,
    /// What the kernel had dropped of each listener's datagrams when it was last asked.
    dropped: Vec<(u32, u32)>,
    told: Option<Instant>,
    told_open: bool,
}

impl Overload {
    pub(crate) fn new(slot: u16, config: &config::Overload, now: Instant) -> Self {
        Self {
            slot,
            // The seed need not be secret: the places of sources are drawn from it and change.
            gate: Gate::new(policy(config), now.as_nanos(), now),
            retry_after_s: retry_after(config),
            judged: None,
            dropped: Vec::new(),
            told: None,
            told_open: true,
        }
    }

    pub(crate) fn configure(&mut self, config: &config::Overload) {
        self.gate.configure(policy(config));
        self.retry_after_s = retry_after(config);
    }

    /// Unit: s.
    pub(crate) fn retry_after_s(&self) -> u32 {
        self.retry_after_s
    }

    /// All new work is taken.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    pub(crate) fn slept(&mut self, idle: Duration) {
        self.gate.slept(idle);
    }

    pub(crate) fn starved(&mut self) {
        self.gate.starved();
    }

    pub(crate) fn refused(&mut self, took: Duration) {
        self.gate.refused(took);
    }

    /// What is to become of a datagram. Nothing but a branch while there is room.
    pub(crate) fn judge(&mut self, payload: &[u8], source: SocketAddr) -> Verdict {
        self.gate.message();
        self.judged = None;
        if !self.gate.judges() || !sip::message::begins_something(payload) {
            return Verdict::Take;
        }
        self.judged = Some(source.ip());
        self.gate.judge(source.ip())
    }

    /// The datagram judged last, if it was judged, has turned out to be a copy of something that is there.
    pub(crate) fn was_copy(&mut self) {
        if let Some(source) = self.judged.take() {
            self.gate.was_copy(source);
        }
    }

    /// A socket came: its predecessor in office may have left a filter.
    pub(crate) fn armed(&mut self, socket: &Socket) {
        self.filter(socket, &[], ALL);
        let dropped = os::datagrams_dropped(socket.fd.as_fd()).unwrap_or_default();
        self.dropped
            .retain(|&(listener, _)| listener != socket.listener);
        self.dropped.push((socket.listener, dropped));
    }

    /// To be called each turn.
    pub(crate) fn turn(&mut self, now: Instant, sockets: &[Option<Socket>]) {
        if let Some(Filter { pass, sources }) = self.gate.turn(now).cloned() {
            for socket in sockets.iter().flatten() {
                self.filter(socket, &sources, pass);
            }
        }
        let open = self.gate.is_open();
        let due = self
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= TELL_EVERY);
        if open != self.told_open && due {
            self.told = Some(now);
            self.told_open = open;
            let slot = self.slot;
            if open {
                tracing::info!(slot, "all new requests are taken again");
            } else {
                tracing::warn!(
                    slot,
                    "more new requests than the slot can take: some are refused with 503 (see `overload` in `tandem stats`)"
                );
            }
        }
    }

    /// Counts what the kernel has dropped since it was last asked.
    pub(crate) fn count_drops(&mut self, sockets: &[Option<Socket>], arena: &Participant) {
        for socket in sockets.iter().flatten() {
            let known = self
                .dropped
                .iter_mut()
                .find(|(listener, _)| *listener == socket.listener);
            if let (Some((_, known)), Ok(dropped)) =
                (known, os::datagrams_dropped(socket.fd.as_fd()))
            {
                let more = dropped.wrapping_sub(*known);
                *known = dropped;
                arena.count(Counter::DroppedByKernel.cell(), more.into());
            }
        }
    }

    fn filter(&self, socket: &Socket, sources: &[IpAddr], pass: u32) {
        if let Err(error) = os::filter_beginning(socket.fd.as_fd(), *b"INVI", sources, pass) {
            let (slot, listener) = (self.slot, socket.listener);
            tracing::debug!(slot, listener, %error, "the kernel takes no filter");
        }
    }
}

fn policy(config: &config::Overload) -> Policy {
    let occupancy = u32::from(config.occupancy);
    Policy {
        occupancy: (occupancy < 100).then_some(ALL / 100 * occupancy),
        // Counted over a second.
        per_source: (config.source_rate > 0).then_some(config.source_rate),
    }
}

fn retry_after(config: &config::Overload) -> u32 {
    u32::try_from(config.retry_after.as_secs()).unwrap_or(u32::MAX)
}
