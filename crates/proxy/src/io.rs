//! What goes into the machine and what comes out of it.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Duration,
};

use shm::{Participant, RowRef};
use stdx::Instant;
use tables::{Counter, dialog::DialogId};

use crate::{
    addresses::Interface,
    ask::{Answer, Ask, AskId},
    context::ContextId,
    media::MediaAsk,
};

/// The world as one step sees it.
pub struct Env<'e> {
    pub now: Instant,
    /// Number of the reactor turn: what it changes is stamped with it, so that an heir knows whose sends may be missing.
    pub turn: u64,
    pub arena: &'e mut Participant,
}

impl Env<'_> {
    pub(crate) fn count(&mut self, counter: Counter) {
        self.arena.count(counter.cell(), 1);
    }
}

/// A datagram as it came.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'m> {
    pub bytes: &'m [u8],
    pub source: SocketAddr,
    /// The listener that it came in by, with the address that it was sent to if the listener has several.
    pub listener: Interface,
    /// The kernel had more than fits a buffer.
    pub truncated: bool,
}

/// What can happen to the machine.
#[derive(Debug)]
pub enum Input<'m> {
    Datagram(Datagram<'m>),
    /// A deadline that was armed for this context has come. Early, late and repeated ticks are harmless.
    Tick(ContextId),
    /// What was just sent by this listener to this address did not leave, and would not leave now (§17.1.4, §18.4). Only for errors that
    /// say something of the way there: a full queue says nothing of the next one.
    Unreachable {
        listener: u32,
        to: SocketAddr,
        /// What was sent had so many bytes, which is too long to go there; what is shorter may go. `None`: nothing goes there.
        too_long: Option<usize>,
    },
    /// Something is to be done about the dialog in this row ([`tables::Sweep`] tells which).
    Due(RowRef),
    /// An answer, in any order. `at_hand` is the datagram being served, if this is still its turn.
    Answer {
        id: AskId,
        answer: Answer,
        at_hand: Option<Datagram<'m>>,
    },
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    Served,
    /// The datagram belongs to a transaction of that slot; nothing was done with it here.
    Owner(u16),
    /// Another slot was about to take the same request, and did not: step it again.
    Again,
    /// There was no memory to record the request: it was answered 503 without a transaction, and nothing else was sent.
    Unserved,
}

/// A datagram to send; its bytes are in [`Outputs::bytes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    pub listener: Interface,
    pub to: SocketAddr,
    pub bytes: Range<usize>,
}

/// The caller's lists that a step writes to. Nothing in them may be acted upon before [`crate::Proxy::settle`] has put
/// what they follow from into the arena.
#[derive(Debug, Default)]
pub struct Outputs {
    /// The text of everything in `sends`.
    pub bytes: Vec<u8>,
    pub sends: Vec<Send>,
    pub asks: Vec<Ask>,
    /// Deadlines to tick at. A later one for the same context replaces nothing: ticks are cheap and idempotent.
    pub arms: Vec<(Instant, ContextId)>,
    /// What was found out about next hops, for whoever chooses among addresses. Nothing depends on it being looked at.
    pub hops: Vec<(SocketAddr, HopState)>,
    /// What became of requests to destinations of groups. Nothing depends on it being looked at.
    pub outcomes: Vec<Outcome>,
    /// Questions to media engines.
    pub media: Vec<MediaAsk>,
    /// Calls that have ended, and have something at a media engine. Nothing depends on it being looked at at once.
    pub media_ended: Vec<DialogId>,
    /// For the log.
    pub notes: Vec<Note>,
}

/// What became of a request to a destination of a group: its first response, or that there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its row in `balancer`.
    pub resource: RowRef,
    pub kind: OutcomeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeKind {
    /// A request was sent to it.
    Sent,
    /// The first response; `took` is the time since the request was first sent.
    Answered { code: u16, took: Duration },
    /// The final response, if it was not the first.
    Final { code: u16 },
    /// It did not answer in time.
    Silent,
    /// The kernel knows no way there.
    Unreachable,
    /// It was at its limit, and not asked.
    Full,
    /// The final answer to a probe that was sent first at this time ([`crate::Probe`]); it may be a second one.
    Probed { code: u16, sent_at: Instant },
}

/// What a request that was sent to a next hop has told about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopState {
    /// It has answered a request, whatever it said.
    Answered,
    /// It did not answer in time (Timer B or F, or the shorter limit where there was another hop to go to).
    Silent,
    /// The kernel knows no way there.
    Unreachable,
    /// It has said 503 (RFC 3261 §21.5.4), and for how long it wants to be left alone, if it did.
    Busy { retry_after: Option<Duration> },
}

impl HopState {
    /// Whether others are to be asked first for some time.
    pub fn is_bad(self) -> bool {
        self != Self::Answered
    }
}

/// Something that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Too many failures to prove who one is: refused for a while.
    Banned {
        source: IpAddr,
        /// Only as this user (and domain); `None`: as any.
        user: Option<Vec<u8>>,
        ban: Duration,
    },
}

impl Outputs {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sends.clear();
        self.asks.clear();
        self.arms.clear();
        self.hops.clear();
        self.outcomes.clear();
        self.media.clear();
        self.media_ended.clear();
        self.notes.clear();
    }

    /// The text of one send.
    pub fn text(&self, send: &Send) -> &[u8] {
        self.bytes.get(send.bytes.clone()).unwrap_or_default()
    }
}
