//! What the machine asks of the outside, and the answers: questions, not calls.
//!
//! A question is an output that names its request; whoever answers may look at the request through
//! [`crate::Proxy::question`] and hands the answer in as an input: within the same turn (the script-free router), or any time later
//! and in any order (scripts, databases, DNS). Until then the request is a row in the arena, not a thread, and an heir asks again.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use auth::Algorithms;
use shm::RowRef;
use tables::balancer::ResourceKey;

use crate::{account::Account, context::ContextId, media::MediaSet};

/// Names one open question. A stale one, whose request has ended or which was answered before, is counted and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AskId {
    pub(crate) context: ContextId,
    /// Which question of that request: they are numbered as they are asked.
    pub(crate) number: u16,
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub id: AskId,
    pub kind: AskKind,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskKind {
    /// May this request in? Answer: [`Answer::Admitted`].
    Admit,
    /// The account of the user that the request's credentials name. Answer: [`Answer::Credentials`].
    Credentials,
    /// Where does this request go? Answer: [`Answer::Routed`].
    Route,
    /// The address of the next hop of this branch (RFC 3263). Answer: [`Answer::Resolved`].
    Resolve { branch: u8 },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Admitted(Admission),
    /// `None`: no such user.
    Credentials(Option<Arc<Account>>),
    /// With what becomes of the call, should the request begin one.
    Routed(Decision, CallPlan),
    /// Where to send, best first; empty: the name has no address.
    Resolved(Vec<SocketAddr>),
    /// To a [`MediaAsk`](crate::MediaAsk), not to a question of this kind.
    Media(ng::Outcome),
}

/// Whether a request may in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    Allow,
    /// Only with credentials for this realm (401 as registrar, 407 as proxy).
    Authenticate {
        realm: Vec<u8>,
        /// Offered besides what the settings say: some users of the realm have no secret for those.
        also: Algorithms,
    },
    Reject {
        code: u16,
    },
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This server's own business: a REGISTER is served, OPTIONS for the server itself is answered, everything else goes to the bindings
    /// of the Request-URI's AOR. A user with no binding is temporarily unavailable (480) if it is known to exist, else not found (404).
    Location {
        known: bool,
    },
    /// As [`Decision::Location`], for the bindings of this URI's AOR in place of the Request-URI's: of a number, say.
    LocationOf {
        uri: Vec<u8>,
        known: bool,
    },
    /// To these targets: those of equal q at once, one q after another (§16.6).
    Targets(Vec<Target>),
    /// Where the Request-URI says.
    Dns,
    Reject {
        code: u16,
    },
}

/// One target of a request (§16.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The new Request-URI; `None` keeps the one that came.
    pub uri: Option<Vec<u8>>,
    /// A URI to send to instead of what Route or Request-URI say, as an outbound proxy.
    pub next_hop: Option<Vec<u8>>,
    /// Path of the binding, comma separated: goes before what is left of the Route set (RFC 3327 §5.3).
    pub path: Option<Vec<u8>>,
    /// The path takes the place of all that came; then it may be empty.
    pub whole: bool,
    /// The listener to send from; `None` chooses by address family.
    pub listener: Option<u32>,
    /// The address to send from, where that listener has several.
    pub local: Option<IpAddr>,
    /// Preference in thousandths, as of a binding (§20.10): what has less is tried after what has more.
    pub q: u16,
    /// The destination of a group that `next_hop` is.
    pub destination: Option<Destination>,
    /// Where to send to when `next_hop` is found dead, is full or says that it can't, one after another.
    pub backups: Vec<Backup>,
    /// Whether the proxy follows redirections of this target by itself (§16.7 step 4), as a domain may want it too.
    pub recurse: bool,
}

/// Another next hop of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    pub uri: Vec<u8>,
    /// The destination of a group that it is.
    pub destination: Option<Destination>,
}

impl Backup {
    /// One that nothing counts.
    pub fn uri(uri: impl Into<Vec<u8>>) -> Self {
        Self {
            uri: uri.into(),
            destination: None,
        }
    }
}

/// A destination of a group: calls have a seat there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its row in `balancer`.
    pub resource: RowRef,
    /// Calls at most, this one included; `None`: any number.
    pub limit: Option<u64>,
}

/// What becomes of a call, should the request begin one. The default: no record of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallPlan {
    /// `None`: the call has no dialog record, and so no limits.
    pub class: Option<Arc<CallClass>>,
    /// Neither side is to learn of the other's network; `None`: nothing is hidden. For requests that begin no call too.
    pub hide: Option<topology::Mode>,
    /// What it counts in; [`tables::dialog::DIALOG_COUNTS_MAX`] of them at most, the rest is not looked at.
    pub limits: Vec<Limit>,
    /// The engines that relay its media.
    pub media: Option<Arc<MediaSet>>,
}

/// Something that only so many calls may use at the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name in `balancer`; made when it is first needed.
    pub key: ResourceKey,
    /// Calls at most, this one included; `None`: it is only counted.
    pub calls_max: Option<u64>,
    /// What a call over the limit is refused with.
    pub code: u16,
}

/// Of which calls there are records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recorded {
    #[default]
    None,
    /// Those that are answered.
    Answered,
    All,
}

/// How calls of one kind are treated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallClass {
    /// The domain that the call belongs to, for those who read of it.
    pub domain: Vec<u8>,
    /// A confirmed call ends then.
    pub duration_max: Option<Duration>,
    /// Session timers (RFC 4028 §8); `None`: what the parties agree on is only watched.
    pub session: Option<SessionTimer>,
    /// Whether both parties are asked now and then if they are still there.
    pub probe: Option<DialogProbe>,
    /// Whether there is to be a record of it when it is over.
    pub recorded: Recorded,
}

/// What the proxy wants of session timers (RFC 4028 §8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimer {
    /// Session-Expires where the caller asks for none, and where he asks for more. Unit: seconds.
    pub expires_s: u32,
    /// Session-Expires of less is refused with 422. Unit: seconds; 90 at least (§5).
    pub min_s: u32,
}

/// OPTIONS within a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialogProbe {
    pub interval: Duration,
    /// Probes in a row without an answer until the call is taken for dead.
    pub failures_max: u16,
}
