//! Between the supervisor and a helper: a process that does one task over the arena which the supervisor must not wait for, and ends.
//!
//! ```text
//! supervisor                            helper
//!   Begin                        ---->    attach the arena
//!                                <----  Written       (Snapshot only: the file is whole and on the disk)
//!   Renamed                      ---->    sync the directory
//!                                <----  Done | Refused | Failed, then exit
//! ```
//!
//! One that compiles tables of numbers has nothing to do with the arena:
//!
//! ```text
//!   Compile                      ---->
//!                                <----  Compiled, for each table
//!                                <----  Done | Failed, then exit
//! ```
//!
//! Descriptors beside [`ToHelper::Begin`]: control memfd, data memfd, then what the task names.

use serde::{Deserialize, Serialize};

use crate::codec::{Kind, Message};

/// From the supervisor to a helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHelper {
    Begin {
        /// Pid of the supervisor. A helper whose parent is somebody else by then ends at once.
        supervisor: u32,
        /// Participant id of the helper in the arena.
        aux: u16,
        /// Another process had this participant id and is proven dead: recover it before anything else.
        recover_aux: bool,
        /// Account to drop privileges to; `None` keeps the supervisor's.
        user: Option<String>,
        task: HelperTask,
    },
    /// The file that was [`FromHelper::Written`] has its name.
    Renamed,
    /// Instead of `Begin`: compile tables of numbers. Descriptor: a memfd with the configuration that they are for.
    Compile {
        /// As of `Begin`.
        supervisor: u32,
        /// As of `Begin`. What is to be read is opened before.
        user: Option<String>,
        /// Which of the configuration's `[[prefix_table]]`.
        tables: Vec<u16>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelperTask {
    /// Nothing but the recovery of the participant that a dead helper had.
    Recover,
    /// Writes the records that outlive the server to a file. Descriptors: the file, empty and writable; its directory.
    Snapshot {
        /// Nobody else uses the arena.
        exact: bool,
    },
    /// Fills an arena that nobody else uses from such a file. Descriptors: the file.
    Restore,
    /// Has slabs backed by memory ahead of their use, and gathers small pages into huge ones.
    Pages {
        /// Back so many slabs.
        back: u32,
        /// Gather those from this one on; from 0: the fixed regions as well. `None`: gather nothing.
        gather: Option<u32>,
    },
}

/// From a helper to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHelper {
    Written(Written),
    Done,
    /// The file of a [`HelperTask::Restore`] is taken; the arena has its records.
    Restored(Restored),
    /// What [`HelperTask::Pages`] came to.
    Paged {
        /// Slabs backed now.
        backed: u32,
        /// Bytes gathered into huge pages.
        huge: u64,
        /// Bytes that the kernel did not gather.
        refused: u64,
    },
    /// The file of a [`HelperTask::Restore`] is not taken, and the arena is as it was.
    Refused {
        message: String,
    },
    /// The task can't be done; of a restore the arena may have a part.
    Failed {
        message: String,
    },
    /// A table is ready. Descriptor: its image, in a sealed memfd.
    Compiled {
        table: u16,
        /// Rules of its file.
        lines: u32,
        /// What the file was, to tell whether it is another one later.
        stamp: [u64; 4],
        /// Ready to be read by a person.
        warnings: Vec<String>,
    },
}

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub records: u64,
    pub bytes: u64,
    /// When it was begun, on the monotonic clock. Unit: ns.
    pub begun_ns: u64,
    /// How long it took until it was on the disk. Unit: ns.
    pub took_ns: u64,
}

/// What became of a snapshot's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// In the arena now.
    pub records: u64,
    /// Had expired meanwhile.
    pub expired: u64,
    /// Of tables or versions that this release does not know, or with bytes that it can't read.
    pub unknown: u64,
    /// The arena had no room for them.
    pub no_room: u64,
    /// Of those in the arena: lie in another row than before.
    pub moved: u64,
    /// Age of the snapshot by the wall clock. Unit: ms.
    pub age_ms: u64,
    /// Nobody had changed anything while it was taken.
    pub exact: bool,
    pub took_ns: u64,
}

impl Message for ToHelper {
    const KIND: Kind = Kind::ToHelper;
}

impl Message for FromHelper {
    const KIND: Kind = Kind::FromHelper;
}
