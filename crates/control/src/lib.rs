//! What the processes of one server say to each other, and how it is written down.
//!
//! | who | to whom | over | types |
//! |---|---|---|---|
//! | supervisor | worker | `SOCK_SEQPACKET`, descriptors beside the bytes | [`ToWorker`] |
//! | worker | supervisor | the same channel | [`FromWorker`] |
//! | supervisor | helper | a channel of the same kind | [`ToHelper`], answered by [`FromHelper`] |
//! | command line | supervisor | Unix stream socket, [`stream`] | [`ClientRequest`] |
//! | supervisor or worker | command line | the same connection | [`ClientReply`], ended by `Done` or `Error` |
//!
//! [`codec`] is the only place that knows the encoding (bincode); everything else sees
//! [`codec::encode`] and [`codec::decode`]. This crate opens no socket and sends nothing by itself.
#![forbid(unsafe_code)]

pub mod client;
pub mod codec;
pub mod helper;
pub mod route;
pub mod status;
pub mod stream;
pub mod worker;

pub use client::{
    AuditReport, CallEventLine, CallFilter, CallLine, ClientReply, ClientRequest, ConfiguredUser,
    ContactLine, DestinationChange, DestinationLine, QuarantineLine, RegistrationLine, StatLine,
    TableRequest, UsersLine,
};
pub use codec::{CodecError, Kind, Message, PROTOCOL_VERSION, decode, encode};
pub use helper::{FromHelper, HelperTask, Restored, ToHelper, Written};
pub use route::{RouteReport, RouteStep, RouteTest};
pub use status::{
    ArenaStatus, CdrStatus, ClassStatus, LatencyStatus, ListenerStatus, Rates, Role, SlotStatus,
    SnapshotStatus, StatusReport, SupervisorStatus, TableStatus, WorkerStatus,
};
pub use stream::{FrameBuffer, StreamError, read_message, write_message};
pub use worker::{
    ArenaPlan, FDS_PER_MESSAGE_MAX, FromWorker, Quarantined, Secret, SlotAssign, ToWorker,
};
