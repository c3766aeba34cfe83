//! Between the command line and the server: one request a connection, then replies until
//! [`ClientReply::Done`] or [`ClientReply::Error`]. Replies may come from the supervisor or, for
//! [`TableRequest`]s, from the worker that was handed the connection; the client cannot tell.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{Kind, Message},
    route::{RouteReport, RouteTest},
    status::StatusReport,
};

/// What a command asks of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientRequest {
    /// One [`ClientReply::Status`].
    Status,
    /// One [`ClientReply::Stats`]; `pattern` selects names that contain it, `None` all.
    Stats { pattern: Option<String> },
    /// Reads or changes a table; executed by a worker.
    Table(TableRequest),
    /// Rolling restart of one worker, or of all (`None`); [`ClientReply::Note`]s tell the progress.
    Restart { worker: Option<u16> },
    /// Read the configuration file again and apply what can change live.
    Reload,
    /// Stop the server. The answer comes before it exits.
    Stop,
    /// Workers, then the supervisor, to the program in this file (an absolute path); [`ClientReply::Note`]s tell the progress.
    Upgrade { binary: String },
    /// Where the users of `tandem user` are, and who else there is: one [`ClientReply::Users`].
    Users,
    /// The file of `tandem user` has changed: take it. [`ClientReply::Note`]s tell what came of it.
    UsersChanged,
}

/// What only a worker can answer, since the supervisor decodes no table bodies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableRequest {
    /// Registered AORs, one [`ClientReply::Registration`] each.
    RegistrationsList {
        /// Only AORs of this domain.
        domain: Option<String>,
        /// Stop after so many AORs.
        limit: Option<u32>,
    },
    /// The bindings of one AOR: one [`ClientReply::Registration`], none if it has no binding.
    RegistrationsShow { aor: String },
    /// Remove one binding of an AOR, or all of them (`contact` is `None`): one [`ClientReply::Registration`]
    /// with what was removed, none if there was nothing to remove.
    RegistrationsRemove {
        aor: String,
        contact: Option<String>,
    },
    /// Checks every invariant of the arena: one [`ClientReply::Audit`].
    Audit,
    /// Messages that workers died of, one [`ClientReply::Quarantine`] each, the oldest first.
    QuarantineList,
    /// One of them: one [`ClientReply::Quarantine`], none if there is no such.
    QuarantineShow { id: String },
    /// Forget one of them, or all (`None`), so that they are served again: one [`ClientReply::Quarantine`] for each.
    QuarantineClear { id: Option<String> },
    /// Calls on record, one [`ClientReply::Call`] each.
    Calls(CallFilter),
    /// Ends those calls: one [`ClientReply::Call`] for each that is to end now and was not before.
    CallsEnd(CallFilter),
    /// Calls on record, one [`ClientReply::CallEvent`] each, and then whatever happens to calls, until the client goes away.
    CallsFollow,
    /// Destinations of all groups, or of one: one [`ClientReply::Destination`] each.
    Destinations { group: Option<String> },
    /// Changes a destination, or all addresses of a name: one [`ClientReply::Destination`] for each of them.
    DestinationChange {
        group: String,
        uri: String,
        change: DestinationChange,
    },
    /// Where a request would go, and why: one [`ClientReply::RouteTest`].
    RouteTest(RouteTest),
}

/// What the operator wants of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DestinationChange {
    Enable,
    /// Nothing is sent to it, not even probes; calls that it has go on.
    Disable,
    /// Nothing new is sent to it.
    Drain,
    /// This weight; 0: the configured one.
    Weight(u32),
}

/// One reply frame. A status report is several hundred bytes, and boxing it would only be felt by readers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time, a few times a second at most"
)]
pub enum ClientReply {
    Status(StatusReport),
    Stats(Vec<StatLine>),
    Registration(RegistrationLine),
    Quarantine(QuarantineLine),
    /// A line of progress for a person to read.
    Note(String),
    /// The request is done; nothing follows.
    Done,
    /// The request failed; nothing follows.
    Error {
        message: String,
        /// What the operator can do about it.
        remedy: String,
    },
    Audit(AuditReport),
    Users(UsersLine),
    /// How many users of `tandem user` the running server has.
    StoredUsers(u64),
    Destination(DestinationLine),
    RouteTest(RouteReport),
    Call(CallLine),
    /// `None`: nothing has happened for a while.
    CallEvent(Option<CallEventLine>),
}

/// Something that happened to a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallEventLine {
    /// `on record` (of what is there when one begins to follow), `begun`, `answered`, `ended`, or `missing`: something may have happened that was not told.
    pub event: String,
    /// Unit: ms since 1970.
    pub unix_ms: u64,
    /// Of the call.
    pub id: Option<String>,
    /// Why it ended.
    pub cause: Option<String>,
    /// Of the final response to a call that was not answered, else 0; of those that ended.
    pub code: Option<u16>,
}

/// Which calls; `None` is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFilter {
    /// The id of a call.
    pub id: Option<String>,
    pub call_id: Option<String>,
    /// The domain that the call belongs to.
    pub domain: Option<String>,
    /// Found in the URI of the caller or of the callee, or in the Request-URI.
    pub party: Option<String>,
    /// `early`, `confirmed` or `ending`.
    pub state: Option<String>,
    /// Found in the group or the URI of the destination.
    pub destination: Option<String>,
    /// The address that the caller's or the callee's messages come from, without port.
    pub address: Option<std::net::IpAddr>,
    /// Begun so long ago at least. Unit: seconds.
    pub longer_than_s: Option<u64>,
    /// Stop after so many.
    pub limit: Option<u32>,
}

/// A call on record: one of its dialogs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLine {
    pub id: String,
    pub call_id: String,
    /// `early`, `confirmed` or `ending`.
    pub state: String,
    /// One of several dialogs of the same INVITE, and not the first.
    pub forked: bool,
    pub domain: String,
    pub caller: String,
    pub callee: String,
    pub request_uri: String,
    pub caller_tag: String,
    pub callee_tag: Option<String>,
    /// Contact: the remote target.
    pub caller_contact: Option<String>,
    pub callee_contact: Option<String>,
    pub caller_address: Option<String>,
    pub callee_address: Option<String>,
    /// Group and URI of the destination that it has a seat at.
    pub destination: Option<String>,
    /// Since the INVITE.
    pub age_ms: u64,
    /// Since the first 2xx.
    pub answered_ms: Option<u64>,
    /// Session timer in force.
    pub session_s: Option<u32>,
    /// Until it is over, if nobody refreshes it.
    pub session_left_s: Option<u64>,
    /// Until the longest duration is over.
    pub duration_left_s: Option<u64>,
    /// Probes in a row that the caller left unanswered.
    pub caller_missed: u16,
    pub callee_missed: u16,
    /// What counts it: kind and name.
    pub counted: Vec<String>,
}

/// What one walk over the whole arena found. While operations run, what is between two states looks wrong for a moment: only what several
/// looks in a row find is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Broken invariants, one line each.
    pub violations: Vec<String>,
    /// Rows, blocks and index entries in between two states: a leak if they stay so.
    pub unsettled: Vec<String>,
    /// Live records by table: (name, records).
    pub records: Vec<(String, u64)>,
    /// Unit: bytes.
    pub bytes_used: u64,
}

/// The users that a running server has besides those of `tandem user`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsersLine {
    /// The state directory, where the file of `tandem user` is.
    pub state: String,
    /// Those of `[[user]]`.
    pub configured: Vec<ConfiguredUser>,
}

/// One `[[user]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfiguredUser {
    /// `NAME@DOMAIN`
    pub name: String,
    pub identities: Vec<String>,
    /// What he can prove himself with, as phones call it.
    pub algorithms: Vec<String>,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatLine {
    pub name: String,
    pub value: u64,
    pub description: String,
}

/// One message that workers died of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineLine {
    pub id: String,
    /// It is dropped; otherwise one worker has died of it, and the next death will put it in quarantine.
    pub dropping: bool,
    pub source: Option<String>,
    pub received_on: Option<String>,
    pub deaths: u32,
    /// How often it was dropped.
    pub dropped: u64,
    /// When the first worker died of it. Unit: ms since 1970.
    pub first_unix_ms: u64,
    /// When it came last. Unit: ms since 1970.
    pub last_unix_ms: u64,
    /// Seconds until it is forgotten.
    pub expires_s: u64,
    /// Its bytes, as far as they are text.
    pub message: String,
}

/// One destination of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationLine {
    pub group: String,
    pub uri: String,
    /// The configured URI whose host name leads to it.
    pub name: Option<String>,
    /// `enabled`, `disabled`, `draining`; `removed`: not in the configuration any more, but it has calls.
    pub mode: String,
    /// `up`, `down`, `unknown`.
    pub health: String,
    /// In force.
    pub weight: u32,
    /// Of the configuration.
    pub weight_configured: u32,
    pub priority: u16,
    /// Of the SRV record that led to it.
    pub srv_priority: Option<u16>,
    pub capacity: Option<u32>,
    /// Calls that it has.
    pub calls: u64,
    /// Moving average. Unit: µs.
    pub latency_us: Option<u64>,
    /// The answer to the last probe; 0: none in time.
    pub probe_code: Option<u16>,
    /// In a row.
    pub probes_failed: u32,
    /// In a row.
    pub requests_failed: u32,
    pub answered_ms_ago: Option<u64>,
    pub failed_ms_ago: Option<u64>,
    /// It came up again, or was enabled.
    pub recovered_ms_ago: Option<u64>,
    /// The operator, or its name, changed it.
    pub changed_ms_ago: Option<u64>,
    /// Requests that were sent to it, ever.
    pub requests: u64,
    /// Those that it answered with 2xx.
    pub answered: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that it was not offered, because it was full.
    pub full: u64,
}

/// One address-of-record and its bindings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationLine {
    pub aor: String,
    pub contacts: Vec<ContactLine>,
}

/// One binding (RFC 3261 §10.2.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactLine {
    pub uri: String,
    /// Preference in thousandths, 0 to 1000 (RFC 3261 §20.10).
    pub q: u16,
    /// Seconds until the binding ends.
    pub expires_s: u64,
    pub call_id: String,
    pub cseq: u32,
    /// Path values, comma separated as received (RFC 3327); empty if none.
    pub path: String,
    /// `+sip.instance` (RFC 5626 §4.1).
    pub instance: Option<String>,
    /// `reg-id` (RFC 5626 §4.2).
    pub reg_id: Option<u32>,
    /// Address that the REGISTER came from.
    pub received: Option<String>,
    pub user_agent: Option<String>,
}

impl Message for ClientRequest {
    const KIND: Kind = Kind::ClientRequest;
}

impl Message for ClientReply {
    const KIND: Kind = Kind::ClientReply;
}
