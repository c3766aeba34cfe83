//! `tandem status`. The field names are the contract of `tandem status --json`: rename none.

use serde::{Deserialize, Serialize};

/// Everything that `tandem status` shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the supervisor's binary.
    pub version: String,
    pub supervisor: SupervisorStatus,
    /// Time since the supervisor started. Unit: ms.
    pub uptime_ms: u64,
    /// Counts the configurations taken since the start, from 1.
    pub config_version: u64,
    /// How sockets are read: `io_uring`, or what stands in for it.
    pub driver: String,
    pub listeners: Vec<ListenerStatus>,
    pub workers: Vec<WorkerStatus>,
    pub slots: Vec<SlotStatus>,
    pub arena: ArenaStatus,
    /// Addresses-of-record with at least one binding.
    pub registrations: u64,
    /// Calls on record.
    pub dialogs: u64,
    pub transactions: u64,
    pub rates: Rates,
    pub snapshot: SnapshotStatus,
    pub cdr: CdrStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    pub pid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// `ADDRESS:PORT` as bound.
    pub address: String,
    pub transports: Vec<String>,
    pub spread: String,
}

/// One worker process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Place that `tandem restart --worker` names; `None` for the spare.
    pub id: Option<u16>,
    pub pid: u32,
    pub role: Role,
    /// Slots that it runs; empty for the spare.
    pub slots: Vec<u16>,
    pub incarnation: u64,
    /// Deaths and planned restarts that this worker's slots have seen.
    pub restarts: u64,
    /// How the last process in this place ended; `None` if it is the first.
    pub last_exit: Option<String>,
    pub uptime_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Signalling,
    Edge,
    Spare,
}

impl Role {
    /// The name in `tandem status` and its JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signalling => "signalling",
            Self::Edge => "edge",
            Self::Spare => "spare",
        }
    }
}

/// One slot, with the figures of its last take-over. Times are ns of the monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    pub id: u16,
    /// Number of the worker that runs it; `None` while nobody does.
    pub worker: Option<u16>,
    /// Core that it is pinned to.
    pub core: Option<u16>,
    /// Messages served since the arena was made.
    pub messages: u64,
    /// When the last owner's death or hand-over was seen; `None` if it never had another owner.
    pub died_ns: Option<u64>,
    /// When the heir had recovered the slot.
    pub recovered_ns: Option<u64>,
    /// When the heir served its first message.
    pub first_served_ns: Option<u64>,
    pub latency: LatencyStatus,
}

/// How long a slot's messages took since the arena was made, from taking the datagram to having sent what follows from it. Unit: µs, each
/// figure at most a quarter too high.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyStatus {
    pub messages: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    /// The histogram behind it: (upper end of the bucket, messages), empty buckets left out. Two readings tell what came between.
    pub buckets_us: Vec<(u64, u64)>,
}

impl SlotStatus {
    /// From the death of the last owner to the first message that the heir served. Unit: ns.
    pub fn takeover_ns(&self) -> Option<u64> {
        self.first_served_ns?.checked_sub(self.died_ns?)
    }
}

/// Memory of the arena. Unit: bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArenaStatus {
    pub bytes_used: u64,
    pub bytes_mapped: u64,
    pub limit: u64,
    /// What the memory is made of: `small`, `huge, set aside`, `huge, on request` or `huge, gathered`.
    pub pages: String,
    /// In huge pages, of what is mapped.
    pub bytes_huge: u64,
    /// Every table's share.
    pub tables: Vec<TableStatus>,
    /// Blocks in use, by their size.
    pub classes: Vec<ClassStatus>,
}

/// What one table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    pub name: String,
    pub records: u64,
    /// Bytes of its records, at the sizes of their blocks; without their share of the index.
    pub bytes: u64,
}

/// Blocks of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassStatus {
    /// Of each block.
    pub bytes: u64,
    /// Blocks in use.
    pub used: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Messages served a second, over the last second or so.
    pub messages_per_s: f64,
}

/// Records of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CdrStatus {
    /// `cdr.path`; `None`: no records are made.
    pub path: Option<String>,
    /// In the arena, to be written.
    pub waiting: u64,
    /// On the disk, since the arena began.
    pub written: u64,
    /// Calls that should have had one and have none.
    pub lost: u64,
    /// Attempts to write that failed.
    pub failures: u64,
}

/// The file that registrations, dialogs and key-value pairs come back from after a stop or a power cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// `memory.snapshot`; `None`: off. Unit: ms.
    pub period_ms: Option<u64>,
    /// Since when what has changed is not in the last one yet; `None` before the first. Unit: ms.
    pub age_ms: Option<u64>,
    /// In the last one.
    pub records: u64,
    pub bytes: u64,
    /// How long the last one took. Unit: ms.
    pub took_ms: u64,
    /// Those that failed since the last one that did not.
    pub failures: u64,
}
