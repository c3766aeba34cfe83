//! A question under way: whom it was sent to, and until when an answer is waited for.

use std::time::Duration;

use hickory_proto::rr::Name;
use stdx::Instant;

use crate::{
    shares::Source,
    wire::{Kind, Question},
};

/// Sends of one question, over all servers.
pub(crate) const TRIES_MAX: usize = 16;
/// After so long those who wait get what is stale (RFC 8767 §5).
pub(crate) const STALE_AFTER: Duration = Duration::from_millis(1800);

/// A question under way, for everybody who waits for its answer.
#[derive(Debug)]
pub(crate) struct Flight {
    /// As it was asked.
    pub(crate) question: Question,
    /// The end of the aliases so far.
    pub(crate) name: Name,
    pub(crate) aliases: u8,
    /// The shortest lifetime of the aliases so far. Unit: seconds.
    pub(crate) lifetime: u32,
    /// Who holds its place: the source of the first that asked.
    pub(crate) source: Source,
    /// Resolutions, by number.
    pub(crate) waiters: Vec<u64>,
    /// Servers in the order in which they are asked.
    pub(crate) servers: Vec<u16>,
    /// All that may still be answered; the last one is being waited for.
    pub(crate) tries: Vec<Try>,
    /// Sends since the name was last changed by an alias.
    pub(crate) sent: usize,
    /// When the next server is asked.
    pub(crate) next: Instant,
    /// When stale data are given out; `None`: there are none, or they were.
    pub(crate) stale: Option<Instant>,
    /// What the timer is set to.
    pub(crate) timer: Instant,
}

/// One send.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) server: u16,
    pub(crate) way: Way,
    pub(crate) id: u16,
    /// The name as it was spelled.
    pub(crate) spelled: Name,
    pub(crate) edns: bool,
    /// It has been answered, or was given up.
    pub(crate) over: bool,
}

/// How a question was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By this socket of the server's.
    Datagram(u16),
    Stream(u64),
}

impl Flight {
    pub(crate) fn new(
        question: Question,
        source: Source,
        servers: Vec<u16>,
        stale: Option<Instant>,
    ) -> Self {
        Self {
            name: question.name.clone(),
            question,
            aliases: 0,
            lifetime: u32::MAX,
            source,
            waiters: Vec::new(),
            servers,
            tries: Vec::new(),
            sent: 0,
            next: Instant::MAX,
            stale,
            timer: Instant::MAX,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.question.kind
    }

    /// What is asked now.
    pub(crate) fn asking(&self) -> Question {
        Question {
            name: self.name.clone(),
            kind: self.question.kind,
        }
    }

    /// When it wants to be looked at.
    pub(crate) fn due(&self) -> Instant {
        self.stale.map_or(self.next, |stale| stale.min(self.next))
    }
}
