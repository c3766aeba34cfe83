//! Calls: dialogs on record, from the INVITE to the end (§12, RFC 4028 §8).
//!
//! - `place`: what our Record-Route URIs say, by which a request within a dialog finds its record.
//! - `begin`: an INVITE is counted, gets its record, or is refused.
//! - `answer`: what responses make of it: confirmed, forked, refreshed, failed.
//! - `within`: requests within a dialog: CSeq, target refresh.
//! - `astray`: those that would not reach the other party.
//! - `bye`: a BYE, and which of its answers ends the call.
//! - `seats`: a call has a seat at the destination that it goes to.
//! - `session`: session timers, as a proxy has them.
//! - `due`, `own`: what time and the operator want: probes, BYEs of our own.
//! - `books`: the one place where dialogs begin, are answered and end.
//!
//! The record is changed within the step, before `settle`. A death in between is harmless: the heir serves the message again, and every change here finds what has been done
//! already (the record exists, is confirmed, has gone).

pub(crate) mod answer;
pub(crate) mod astray;
pub(crate) mod begin;
pub(crate) mod books;
pub(crate) mod bye;
pub(crate) mod due;
pub(crate) mod own;
pub(crate) mod place;
pub(crate) mod seats;
pub(crate) mod session;
pub(crate) mod within;

use shm::RowRef;
use stdx::Instant;
use tables::dialog::Sender;

use session::SessionAsk;

/// What a request has to do with a call that is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallRef {
    /// The dialog's record.
    pub(crate) row: RowRef,
    /// What our URIs call it.
    pub(crate) place: u64,
    pub(crate) role: Role,
    /// Added to the CSeq of the request on its way, and taken off its responses.
    pub(crate) shift: i32,
    /// Added to the CSeq that its RAck names.
    pub(crate) rack_shift: i32,
    pub(crate) session: SessionAsk,
    /// It is a BYE.
    pub(crate) bye: Option<Bye>,
}

/// A BYE that is on its way: its answer ends the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bye {
    /// When it came: that is when the call has ended, if it has.
    pub(crate) at: Instant,
    /// The call was not answered then.
    pub(crate) early: bool,
}

/// Which request of the call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Role {
    /// The INVITE that begins it.
    Begins = 1,
    /// Within it, of the caller.
    Caller = 2,
    /// Of the callee.
    Callee = 3,
    /// A BYE of ours.
    OwnBye = 4,
    /// An OPTIONS of ours to the caller.
    ProbesCaller = 5,
    /// To the callee.
    ProbesCallee = 6,
    /// One of ours that has ended.
    OwnDone = 7,
}

impl Role {
    pub(crate) fn decode(byte: u8) -> Option<Self> {
        [
            Self::Begins,
            Self::Caller,
            Self::Callee,
            Self::OwnBye,
            Self::ProbesCaller,
            Self::ProbesCallee,
            Self::OwnDone,
        ]
        .into_iter()
        .find(|&role| role as u8 == byte)
    }

    pub(crate) fn of(sender: Sender) -> Self {
        match sender {
            Sender::Caller => Self::Caller,
            Sender::Callee => Self::Callee,
        }
    }

    /// Whether the request is ours, and nobody waits for a response.
    pub(crate) fn is_own(self) -> bool {
        matches!(
            self,
            Self::OwnBye | Self::ProbesCaller | Self::ProbesCallee | Self::OwnDone
        )
    }
}
