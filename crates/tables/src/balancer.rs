//! The `balancer` table: resources that dialogs count in, and what balancing has to know of them.
//!
//! ```text
//! key = kind u8, then the name (a destination: group NUL URI) | child 0: its block of counter cells
//! ```
//!
//! How many dialogs a resource has is never written down: it is the sum of its cells (`shm::counts`), which neither deaths nor takings-over can make wrong.
//! A dialog is admitted while it is created, with the limit given then ([`Dialogs::create`](crate::Dialogs::create)), and leaves with its record.
//!
//! Each operation is one of `shm::ops` and takes effect where that does. An update starts again if somebody was quicker, [`ATTEMPTS_MAX`] times.
//! Statistics are added like any other change, so that none is lost; a busy caller gathers them and adds them now and then.
//!
//! *Names.* A destination whose URI has a host name has a row for the name, which says to what [`Member`]s it was resolved last, and one for each member.
//!
//! *Going*: a resource that nothing counts in is closed before it goes, so that no dialog is counted in what is no more. The dialog finds it open again, or makes a new one.
//!
//! *Full*: a new resource is refused. Changes, removals and the admission of dialogs to resources that are there go on.

use std::time::Duration;

use shm::{
    Block, CLOSED, Cursor, InsertError, New, Participant, Record, ReplaceError, RowMeta, RowRef,
    Version,
};
use stdx::Instant;
use zerocopy::little_endian::{U32, U64};

pub use balance::{Condition, Health};

use crate::BALANCER;
use crate::row::{Fields, FromZeros, Header, IntoBytes, instant, is_whole, put, row, word};

/// Attempts before an update gives up.
pub const ATTEMPTS_MAX: usize = 64;

row! {
    /// The header of a resource; `kind` is its kind.
    pub struct ResourceRow: version 1, 136 bytes {
        /// What the operator wants of it.
        pub mode: u8,
        /// What probes say of it.
        pub health: u8,
        /// Zero.
        pub reserved: [u8; 2],
        /// The operator's word for its share among others; 0: as configured.
        pub weight: U32,
        /// Place in the order of priorities; lower ones first.
        pub priority: U32,
        /// Dialogs at most; 0: any number.
        pub capacity: U64,
        /// It was made.
        pub created_at: U64,
        /// Mode or health changed last.
        pub changed_at: U64,
        /// The last probe was sent.
        pub probed_at: U64,
        /// It answered last, a probe or a request.
        pub answered_at: U64,
        /// It failed last.
        pub failed_at: U64,
        /// It came back, and starts slowly.
        pub recovered_at: U64,
        /// Probes that succeeded in a row.
        pub probes_ok: U32,
        /// Probes that failed in a row.
        pub probes_failed: U32,
        /// Moving average of its response times, in ns.
        pub latency_ns: U64,
        /// Calls that were sent to it, ever.
        pub calls: U64,
        /// Those that it answered with 2xx.
        pub answered: U64,
        /// Those that it did not take: no answer, 5xx.
        pub failed: U64,
        /// Those that it was not offered, because it was at its limit.
        pub refused: U64,
        /// The time that the last probe with a known end was sent at.
        pub judged_at: U64,
        /// Requests that failed in a row.
        pub failures: U32,
        /// The answer to the last probe; 0: none in time.
        pub probe_code: U32,
    }
}

/// Tags of the fields behind the header.
mod tag {
    /// A [`super::Member`]; as often as there are members.
    pub const MEMBER: u8 = 1;
}

/// What is counted. The numbers are in keys and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResourceKind {
    /// A destination of a group.
    Destination = 1,
    /// A domain.
    Domain = 2,
    /// A user, by AOR.
    User = 3,
    /// A named profile.
    Profile = 4,
}

impl ResourceKind {
    fn read(byte: u8) -> Option<Self> {
        [Self::Destination, Self::Domain, Self::User, Self::Profile]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// What the operator wants of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Mode {
    #[default]
    Enabled = 1,
    /// Nothing is sent to it.
    Disabled = 2,
    /// What it has goes on; nothing new.
    Draining = 3,
    /// As draining; its row goes once it has nothing left.
    Removed = 4,
}

impl Mode {
    fn read(byte: u8) -> Option<Self> {
        [Self::Enabled, Self::Disabled, Self::Draining, Self::Removed]
            .into_iter()
            .find(|mode| *mode as u8 == byte)
    }
}

/// The name of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceKey(Vec<u8>);

impl ResourceKey {
    /// A destination of a group.
    pub fn destination(group: &[u8], uri: &[u8]) -> Self {
        Self([&[ResourceKind::Destination as u8], group, b"\0", uri].concat())
    }

    /// A domain, a user or a profile.
    pub fn of(kind: ResourceKind, name: &[u8]) -> Self {
        Self([&[kind as u8], name].concat())
    }

    /// As it stands in the table.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// The bytes in the table.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What it is the name of; `None`: of nothing that this release knows.
    pub fn kind(&self) -> Option<ResourceKind> {
        self.0.first().and_then(|&kind| ResourceKind::read(kind))
    }

    /// Without the kind; a destination's group and URI with NUL in between.
    pub fn name(&self) -> &[u8] {
        self.0.get(1..).unwrap_or_default()
    }
}

/// Words that only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Statistics {
    pub calls: u64,
    pub answered: u64,
    pub failed: u64,
    pub refused: u64,
}

/// What a resource is like, taken out of the arena.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Resource {
    pub mode: Mode,
    /// The operator's word; 0: as configured.
    pub weight: u32,
    pub priority: u32,
    /// Dialogs at most; 0: any number.
    pub capacity: u64,
    pub created_at: Option<Instant>,
    pub changed_at: Option<Instant>,
    pub probe: Probe,
    pub condition: Condition,
    pub statistics: Statistics,
    /// What a name was resolved to last.
    pub members: Vec<Member>,
    /// Fields that a later release wrote.
    pub unknown: Vec<u8>,
}

/// How the probing of a resource stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Probe {
    /// The last one was sent first.
    pub sent_at: Option<Instant>,
    /// When the last one whose end is known was sent first.
    pub judged_at: Option<Instant>,
    /// The answer to that one; 0: none in time.
    pub code: u16,
}

impl Probe {
    /// The time at which the one that waits for an answer was sent.
    pub fn waiting(&self) -> Option<Instant> {
        self.sent_at.filter(|_| self.sent_at != self.judged_at)
    }
}

/// An address of a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    pub uri: Vec<u8>,
    /// Lower ones first.
    pub priority: u16,
    /// As `dns::Rank::share`, in thousandths.
    pub share: u32,
}

impl Member {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut value = Vec::with_capacity(6 + self.uri.len());
        value.extend_from_slice(&self.priority.to_le_bytes());
        value.extend_from_slice(&self.share.to_le_bytes());
        value.extend_from_slice(&self.uri);
        put(tag::MEMBER, Some(&value), out);
    }

    fn read(value: &[u8]) -> Option<Self> {
        let (&[a, b, c, d, e, f], uri) = value.split_first_chunk()?;
        Some(Self {
            uri: uri.to_vec(),
            priority: u16::from_le_bytes([a, b]),
            share: u32::from_le_bytes([c, d, e, f]),
        })
    }
}

/// What a resource is like as far as it takes no memory to look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    pub mode: Mode,
    /// As of [`Resource`].
    pub weight: u32,
    pub condition: Condition,
    pub probe: Probe,
    /// Dialogs that count in it.
    pub live: u64,
    /// Changes whenever anything but `live` does.
    pub version: Version,
}

/// A resource in its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub row: RowRef,
    pub key: ResourceKey,
    pub resource: Resource,
    /// Dialogs that count in it.
    pub live: u64,
}

/// Why a resource was not made or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BalancerError {
    #[error("the resource is no more")]
    Gone,
    #[error("no memory for a new resource, or for the change")]
    Full,
    #[error("the resource is being changed too often")]
    Busy,
    #[error("the name is too long")]
    TooLong,
}

/// What became of a resource that was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, or was.
    Gone,
    /// So many dialogs count in it: it takes nothing new, and [`Balancer::reap`] removes it once they have ended.
    Waiting(u64),
}

/// The `balancer` table through one participant.
pub struct Balancer<'p>(pub &'p mut Participant);

impl Balancer<'_> {
    /// The row of a resource; made like `new`, with nothing counted, if there is none.
    pub fn ensure(&mut self, key: &ResourceKey, new: &Resource) -> Result<RowRef, BalancerError> {
        for _ in 0..ATTEMPTS_MAX {
            let found = self.0.find(BALANCER, key.as_bytes(), |r| {
                (
                    r.row,
                    r.version,
                    cells(self.0, &r).is_some() && read(&r).is_some(),
                )
            });
            match found {
                Some((row, _, true)) => return Ok(row),
                // Not written by us: nothing can count in it.
                Some((row, version, false)) => {
                    self.0.remove(row, Some(version));
                }
                None => {}
            }
            let cells = self
                .0
                .allocate_cells()
                .map_err(|shm::Full| BalancerError::Full)?;
            let mut body = Vec::new();
            new.encode(key, &mut body);
            let new = New {
                key: key.as_bytes(),
                payload: &[&body],
                children: &[cells],
                meta: meta(new),
                ..New::default()
            };
            match self.0.insert_new(BALANCER, &new) {
                Ok(row) => return Ok(row),
                Err(InsertError::Exists { .. } | InsertError::Stale) => {}
                Err(InsertError::TooLong) => return Err(BalancerError::TooLong),
                Err(_) => return Err(BalancerError::Full),
            }
        }
        Err(BalancerError::Busy)
    }

    /// The resource of this name.
    pub fn find(&self, key: &ResourceKey) -> Option<Found> {
        self.0
            .find(BALANCER, key.as_bytes(), |r| found(self.0, &r))
            .flatten()
    }

    /// The resource in this row.
    pub fn get(&self, row: RowRef) -> Option<Found> {
        self.0.with(row, |r| found(self.0, &r)).flatten()
    }

    /// How many dialogs count in it; `None`: it is no more.
    pub fn live(&self, row: RowRef) -> Option<u64> {
        self.0
            .with(row, |r| Some(total(self.0, cells(self.0, &r)?)))
            .flatten()
    }

    /// The resource in this row, at little cost.
    pub fn glance(&self, row: RowRef) -> Option<Glance> {
        glance(self.0, row)
    }

    /// Resources, looking at `rows_max` rows from `cursor` on; `None` at the end.
    pub fn scan(
        &self,
        cursor: Cursor,
        rows_max: usize,
        mut look: impl FnMut(Found),
    ) -> Option<Cursor> {
        self.0.scan(BALANCER, cursor, rows_max, |r| {
            if let Some(found) = found(self.0, &r) {
                look(found);
            }
        })
    }

    /// Changes a resource; `change` is called again if somebody else was quicker. What is counted stays.
    pub fn update(
        &mut self,
        row: RowRef,
        mut change: impl FnMut(&mut Resource),
    ) -> Result<Resource, BalancerError> {
        for _ in 0..ATTEMPTS_MAX {
            let seen = self.0.with(row, |r| {
                let cells = cells(self.0, &r)?;
                Some((read(&r)?, ResourceKey(r.key.to_vec()), cells, r.version))
            });
            let (mut resource, key, cells, version) = seen.flatten().ok_or(BalancerError::Gone)?;
            change(&mut resource);
            let mut body = Vec::new();
            resource.encode(&key, &mut body);
            match self
                .0
                .replace(row, version, &[&body], &[cells], meta(&resource))
            {
                Ok(_) => return Ok(resource),
                Err(ReplaceError::Changed) => {}
                Err(ReplaceError::Gone) => return Err(BalancerError::Gone),
                Err(_) => return Err(BalancerError::Full),
            }
        }
        Err(BalancerError::Busy)
    }

    /// Adds to the statistics.
    pub fn add(&mut self, row: RowRef, more: &Statistics) -> Result<(), BalancerError> {
        self.update(row, |resource| {
            let sum = &mut resource.statistics;
            sum.calls = sum.calls.wrapping_add(more.calls);
            sum.answered = sum.answered.wrapping_add(more.answered);
            sum.failed = sum.failed.wrapping_add(more.failed);
            sum.refused = sum.refused.wrapping_add(more.refused);
        })
        .map(|_| ())
    }

    /// Removes a resource if nothing counts in it; else it takes nothing new, and goes when the last of it has ended.
    pub fn remove(&mut self, row: RowRef, now: Instant) -> Result<Removal, BalancerError> {
        let mark = |resource: &mut Resource| {
            if resource.mode != Mode::Removed {
                resource.mode = Mode::Removed;
                resource.changed_at = Some(now);
            }
        };
        match self.update(row, mark) {
            Ok(_) => {}
            Err(BalancerError::Gone) => return Ok(Removal::Gone),
            Err(e) => return Err(e),
        }
        self.remove_if_idle(row)
    }

    fn remove_if_idle(&mut self, row: RowRef) -> Result<Removal, BalancerError> {
        for _ in 0..ATTEMPTS_MAX {
            let seen: Option<(u64, Version, u8)> = self
                .0
                .with(row, |r| {
                    Some((total(self.0, cells(self.0, &r)?), r.version, r.flags))
                })
                .flatten();
            match seen {
                None => return Ok(Removal::Gone),
                Some((live, ..)) if live > 0 => return Ok(Removal::Waiting(live)),
                // First nothing new may count in it, then it is looked at once more: see `shm::counts`.
                Some((_, version, flags)) if flags & CLOSED == 0 => {
                    let _ = self.0.reflag(row, version, flags | CLOSED);
                }
                Some((_, version, _)) if self.0.remove(row, Some(version)) => {
                    return Ok(Removal::Gone);
                }
                Some(_) => {}
            }
        }
        Err(BalancerError::Busy)
    }

    /// Removes the resources that wait for it, as far as nothing counts in them any more, looking at `rows_max` rows from `cursor` on; `None` at the end.
    pub fn reap(&mut self, cursor: Cursor, rows_max: usize) -> Option<Cursor> {
        let mut waiting = Vec::new();
        let next = self.0.scan(BALANCER, cursor, rows_max, |r| {
            if r.flags & !CLOSED == Mode::Removed as u8 {
                waiting.push(r.row);
            }
        });
        for row in waiting {
            // Busy: the next time.
            let _ = self.remove_if_idle(row);
        }
        next
    }
}

/// [`Balancer::glance`] for who only reads.
pub fn glance(participant: &Participant, row: RowRef) -> Option<Glance> {
    let look = |record: Record<'_>| {
        let (row, _) = ResourceRow::read(record.payload)?;
        Some(Glance {
            mode: Mode::read(row.mode)?,
            weight: row.weight.get(),
            condition: condition(&row)?,
            probe: probe(&row),
            live: total(participant, cells(participant, &record)?),
            version: record.version,
        })
    };
    participant.with(row, look).flatten()
}

/// The row of this resource.
pub fn row_of(participant: &Participant, key: &ResourceKey) -> Option<RowRef> {
    participant.find(BALANCER, key.as_bytes(), |record| record.row)
}

/// The block of cells of a resource's record.
fn cells(participant: &Participant, record: &Record<'_>) -> Option<Block> {
    record
        .children
        .first()
        .copied()
        .filter(|&block| participant.is_cells(block))
}

/// The cells of the resource in this row, if it is the one of this name: what a dialog counts in.
pub(crate) fn cells_of(participant: &Participant, row: RowRef, key: &[u8]) -> Option<Block> {
    participant
        .with(row, |r| cells(participant, &r).filter(|_| r.key == key))
        .flatten()
}

/// The cells and the name of the resource in this row, for a dialog that is to count in it. One that somebody is about to remove is opened again.
pub(crate) fn admission(participant: &mut Participant, row: RowRef) -> Option<(Block, Vec<u8>)> {
    for _ in 0..ATTEMPTS_MAX {
        let seen = participant.with(row, |r| {
            Some((cells(participant, &r)?, r.key.to_vec(), r.flags))
        });
        let (cells, key, flags) = seen.flatten()?;
        if flags & CLOSED == 0 {
            return Some((cells, key));
        }
        // Any change opens it.
        Balancer(participant).update(row, |_| {}).ok()?;
    }
    None
}

/// A sum below 0 is one seen between two of its cells.
fn total(participant: &Participant, cells: Block) -> u64 {
    u64::try_from(participant.cells_total(cells)).unwrap_or(0)
}

fn meta(resource: &Resource) -> RowMeta {
    RowMeta {
        expires_at: None,
        flags: resource.mode as u8,
    }
}

fn found(participant: &Participant, record: &Record<'_>) -> Option<Found> {
    let cells = cells(participant, record)?;
    Some(Found {
        row: record.row,
        key: ResourceKey(record.key.to_vec()),
        resource: read(record)?,
        live: total(participant, cells),
    })
}

impl Resource {
    fn encode(&self, key: &ResourceKey, out: &mut Vec<u8>) {
        let mut row = ResourceRow::new_zeroed();
        row.begin(key.as_bytes().first().copied().unwrap_or_default());
        row.mode = self.mode as u8;
        row.health = self.condition.health as u8;
        row.weight = U32::new(self.weight);
        row.priority = U32::new(self.priority);
        row.capacity = U64::new(self.capacity);
        row.created_at = word(self.created_at);
        row.changed_at = word(self.changed_at);
        row.probed_at = word(self.probe.sent_at);
        row.judged_at = word(self.probe.judged_at);
        row.probe_code = U32::new(self.probe.code.into());
        row.answered_at = word(self.condition.answered_at);
        row.failed_at = word(self.condition.failed_at);
        row.recovered_at = word(self.condition.recovered_at);
        row.probes_ok = U32::new(self.condition.probes_ok);
        row.probes_failed = U32::new(self.condition.probes_failed);
        row.failures = U32::new(self.condition.failures);
        // 0 is none: what takes no time at all takes 1 ns.
        let latency = self.condition.latency.map(|latency| latency.as_nanos());
        row.latency_ns =
            U64::new(latency.map_or(0, |ns| u64::try_from(ns).unwrap_or(u64::MAX).max(1)));
        row.calls = U64::new(self.statistics.calls);
        row.answered = U64::new(self.statistics.answered);
        row.failed = U64::new(self.statistics.failed);
        row.refused = U64::new(self.statistics.refused);
        out.extend_from_slice(row.as_bytes());
        for member in &self.members {
            member.encode(out);
        }
        out.extend_from_slice(&self.unknown);
    }
}

fn read(record: &Record<'_>) -> Option<Resource> {
    let (row, fields) = ResourceRow::read(record.payload)?;
    ResourceKind::read(row.kind)?;
    if !is_whole(fields) {
        return None;
    }
    let (mut unknown, mut members) = (Vec::new(), Vec::new());
    for (tag, value) in Fields(fields) {
        match tag {
            tag::MEMBER => members.extend(Member::read(value)),
            _ => put(tag, Some(value), &mut unknown),
        }
    }
    Some(Resource {
        mode: Mode::read(row.mode)?,
        weight: row.weight.get(),
        priority: row.priority.get(),
        capacity: row.capacity.get(),
        created_at: instant(row.created_at),
        changed_at: instant(row.changed_at),
        probe: probe(&row),
        condition: condition(&row)?,
        statistics: Statistics {
            calls: row.calls.get(),
            answered: row.answered.get(),
            failed: row.failed.get(),
            refused: row.refused.get(),
        },
        members,
        unknown,
    })
}

fn probe(row: &ResourceRow) -> Probe {
    Probe {
        sent_at: instant(row.probed_at),
        judged_at: instant(row.judged_at),
        code: u16::try_from(row.probe_code.get()).unwrap_or_default(),
    }
}

fn condition(row: &ResourceRow) -> Option<Condition> {
    Some(Condition {
        health: Health::read(row.health)?,
        probes_ok: row.probes_ok.get(),
        probes_failed: row.probes_failed.get(),
        failures: row.failures.get(),
        latency: Some(row.latency_ns.get())
            .filter(|&ns| ns != 0)
            .map(Duration::from_nanos),
        answered_at: instant(row.answered_at),
        failed_at: instant(row.failed_at),
        recovered_at: instant(row.recovered_at),
    })
}
