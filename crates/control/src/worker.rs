//! Between the supervisor and one worker process.
//!
//! ```text
//! supervisor                            worker (warm spare)
//!   Hello, Doorbells*, Sockets*  ---->    attach the arena
//!   PrefixTable*                 ---->
//!                                <----  Ready
//!   Assign                       ---->    run the slots (recover first, if told so)
//!                                <----  Serving, once a slot
//!   Config                       ---->
//!                                <----  Applied
//!   HandOver                     ---->    finish the turn
//!                                <----  HandedOver, then exit
//! ```
//!
//! Descriptors travel beside the bytes and are named at each message in their order. One message
//! carries at most [`FDS_PER_MESSAGE_MAX`]; longer lists go in several messages, each saying where it starts.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{client::TableRequest, codec::Kind, codec::Message};

/// Most descriptors beside one message. The kernel's own bound is 253 (`SCM_MAX_FD`).
pub const FDS_PER_MESSAGE_MAX: usize = 200;

/// A secret that does not print.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// From the supervisor to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// First message. Descriptors: control memfd, data memfd, config memfd, the adopt listener, then the
    /// doorbell eventfds of slots 0, 1, … as far as they fit; the others follow in [`ToWorker::Doorbells`].
    Hello {
        /// Counts the worker processes of this arena, over all its supervisors; never reused.
        incarnation: u64,
        /// Participant id of the worker's control thread in the arena: at least `slots_total`.
        aux: u16,
        /// Another process had this participant id and is proven dead: recover it before anything else.
        recover_aux: bool,
        /// Slots of the whole server, over all workers.
        slots_total: u16,
        /// Reactor threads that this process may run.
        reactors: u16,
        /// Account to drop privileges to; `None` keeps the supervisor's.
        user: Option<String>,
        /// How long a reactor polls before it sleeps. Unit: microseconds; 0 sleeps at once.
        spin_us: u32,
        /// Version of the configuration in the config memfd.
        config_version: u64,
        /// The server's secret, which outlives the arena: seals dialogs.
        secret: Secret,
        /// The arena is not in use yet: until it is assigned, the process ends with its supervisor.
        successor: bool,
    },
    /// Doorbells that did not fit beside `Hello`. Descriptors: eventfds of the slots from `from_slot` on.
    Doorbells { from_slot: u16 },
    /// A listener's sockets, one for each slot. Descriptors: the sockets of the slots from `from_slot` on.
    Sockets {
        listener: u32,
        /// As the configuration asks; port 0 means any.
        asked: SocketAddr,
        /// As bound.
        address: SocketAddr,
        from_slot: u16,
    },
    /// Stop reading a listener and close its sockets.
    RemoveListener { listener: u32 },
    /// Take this configuration. Descriptor: a memfd with one frame of [`Kind::Config`].
    Config { version: u64 },
    /// Run these slots.
    Assign {
        /// Number of the worker whose place this process takes.
        worker: u16,
        slots: Vec<SlotAssign>,
        /// Recover each slot before it serves: its last owner is proven dead or has handed over.
        recover: bool,
        /// The last owner died by a fault of its own (signal, abort, watchdog), not by a kill from
        /// outside and not by a planned restart: the message at hand is suspect.
        fault: bool,
        /// When the death was seen. Unit: ns of the monotonic clock; 0 at the first start.
        died_at_ns: u64,
    },
    /// Pin the reactor threads of these slots anew, all of this process; `core` `None` unpins. No answer.
    Pin { slots: Vec<SlotAssign> },
    /// Planned restart: finish the turn, publish, answer [`FromWorker::HandedOver`], exit.
    HandOver,
    /// Answer this on the client's connection. Descriptor: the connection, blocking, with a write timeout.
    Query { request: TableRequest },
    /// To an orphan, while it is being adopted: send duplicates of all that is shared, by [`FromWorker::Estate`] and what follows it.
    Surrender,
    /// To an orphan: this connection is its control channel from now on.
    Adopt,
    /// Instead of `Hello`: make an arena, answer [`FromWorker::ArenaMade`], exit.
    MakeArena(ArenaPlan),
    /// Finish the turn, publish, stop the slots, answer [`FromWorker::StoodBy`], and be a spare from then on.
    StandBy,
    /// All slots of this arena stand by: write down what is in it. Descriptor: where to, blocking. Answer: [`FromWorker::Exported`]
    /// or [`FromWorker::CarryFailed`].
    Export,
    /// This arena is nobody else's: fill it. Descriptor: where from, blocking. Answer: [`FromWorker::Imported`] or
    /// [`FromWorker::CarryFailed`].
    Import,
    /// To an orphan, at once after connecting: whoever says this first wants to adopt. It answers with [`FromWorker::Orphan`].
    Hail,
    /// A compiled table of numbers, for configurations that come later and name it. Descriptor: its memfd.
    PrefixTable { image: u64 },
}

/// An arena to be made, by whoever knows how its own program lays it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArenaPlan {
    /// Unit: bytes.
    pub limit: u64,
    pub slots: u16,
    pub aux: u16,
    /// Number of the first process that will attach, with the first control-thread participant; the others follow.
    pub first_process: u32,
    /// The key of all hashes; that of the arena whose place it takes, so that branches, tags and nonces stay what they are.
    pub key: Secret,
    /// 0: none, 1: if there are any, 2: or nothing.
    pub huge_pages: u8,
}

/// One slot of [`ToWorker::Assign`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotAssign {
    pub slot: u16,
    /// Core to pin the slot's reactor thread to; `None` leaves it to the scheduler.
    pub core: Option<u16>,
}

/// From a worker to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Attached to the arena and waiting for slots.
    Ready,
    /// A slot has been recovered and serves.
    Serving {
        slot: u16,
        /// Messages of the predecessor that were read but not served, and were served now.
        replayed: u32,
        /// Transactions taken over.
        transactions: u32,
        /// When recovery ended. Unit: ns of the monotonic clock.
        recovered_ns: u64,
    },
    /// The worker cannot go on and is about to exit.
    Failed { message: String },
    /// Every reactor of this worker works by this configuration.
    Applied { version: u64 },
    /// Answer to [`ToWorker::HandOver`]: no slot of this process will touch the arena again.
    HandedOver,
    /// An orphan presents itself to whoever connected to the adopt listener. Descriptor: its own pidfd.
    Orphan {
        /// As in its `Hello`.
        incarnation: u64,
        /// As in its `Hello`.
        aux: u16,
        /// The worker whose place it has; `None` for a spare.
        worker: Option<u16>,
        /// Slots that it serves.
        serving: Vec<u16>,
        /// Version of the configuration that it took last.
        config_version: u64,
        /// Listeners of which it has every socket.
        listeners: Vec<u32>,
    },
    /// Answer to [`ToWorker::Surrender`]. Descriptors as with [`ToWorker::Hello`]. `Doorbells`, the `Sockets` of every listener and
    /// [`FromWorker::Surrendered`] follow.
    Estate {
        slots_total: u16,
        config_version: u64,
        secret: Secret,
    },
    /// As [`ToWorker::Doorbells`].
    Doorbells { from_slot: u16 },
    /// As [`ToWorker::Sockets`].
    Sockets {
        listener: u32,
        asked: SocketAddr,
        address: SocketAddr,
        from_slot: u16,
    },
    /// That was all.
    Surrendered,
    /// A message is in quarantine from now on: to be kept as a file.
    Quarantined(Quarantined),
    /// Descriptors: control and data memfd.
    ArenaMade { layout: u64 },
    /// No slot of this process touches the arena until it is assigned again.
    StoodBy,
    /// So many records were written out.
    Exported { records: u64 },
    /// So many records are in the arena now.
    Imported { records: u64 },
    /// What was to be written out or read in is not there whole.
    CarryFailed { message: String },
    /// As [`ToWorker::PrefixTable`], between `Estate` and `Surrendered`.
    PrefixTable { image: u64 },
}

/// A message that workers died of.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Hexadecimal digits.
    pub id: String,
    /// Address and port of the sender.
    pub source: String,
    /// Address and port that it came in by.
    pub received_on: String,
    /// Of the last death. Unit: ms since 1970.
    pub unix_ms: u64,
    /// How many workers died of it.
    pub deaths: u32,
    pub bytes: Vec<u8>,
}

/// What it holds is personal.
impl std::fmt::Debug for Quarantined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quarantined({}, {} bytes)", self.id, self.bytes.len())
    }
}

impl Message for ToWorker {
    const KIND: Kind = Kind::ToWorker;
}

impl Message for FromWorker {
    const KIND: Kind = Kind::FromWorker;
}
